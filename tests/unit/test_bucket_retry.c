/* The retry layer over the fault layer over a file:// bucket. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bucket_conformance.h"
#include "bucket_fixture.h"
#include "util/cleanup.h"
#include "util/clock.h"

/* Puts both layers over the directory. */
static void with_options(const char *rules, const struct bh_retry_options *how)
{
    struct bh_bucket *faulty, *retrying;
    must(bh_bucket_fault_wrap(&faulty, b, rules, 7, ERR));
    must(bh_bucket_retry_wrap(&retrying, faulty, how, ERR));
    b = retrying;
}

static void with(const char *rules, unsigned attempts, int64_t base_ms)
{
    with_options(rules, &(struct bh_retry_options){
                            .attempts = attempts, .base_ms = base_ms, .budget = 1000000});
}

static uint64_t retries(void)
{
    struct bh_bucket_stats s;
    bh_bucket_stats(b, &s);
    return s.retries;
}

static int head(const char *key)
{
    return bh_bucket_head(b, key, NULL, NULL, ERR);
}

static void test_passing_errors(void **state)
{
    must_put(b, "x", "x");
    with("head:eio:first=1;head:etimedout:after=1:first=1;head:eagain:after=2:first=1", 4, 0);
    must(head("x"));
    assert_int_equal(retries(), 3);
}

static void test_attempts_are_bounded(void **state)
{
    must_put(b, "x", "x");
    with("head:eio:first=4", 3, 0);
    assert_int_equal(head("x"), EIO);
    assert_non_null(strstr(test_error.text, "after 3 attempts"));
    assert_int_equal(retries(), 2);
    must(head("x")); /* the fourth failure, then success */
    assert_int_equal(retries(), 3);
}

static void test_one_attempt(void **state)
{
    must_put(b, "x", "x");
    with("head:eio:first=1", 0, 0);
    must_fail(head("x"), EIO);
    assert_int_equal(retries(), 0);
    must(head("x"));
}

static void test_lasting_errors(void **state)
{
    must_put(b, "x", "x");
    with("head:eacces:first=1;put:enospc:first=1", 5, 0);
    must_fail(head("x"), EACCES);
    must_fail(put_text(b, "x", "y", NULL), ENOSPC);
    must_lack(b, "none");
    assert_int_equal(retries(), 0);
}

static void test_put(void **state)
{
    struct bh_object_info info;
    struct bh_source src = pattern_source(2 * MIB + 1);
    with("put:eio:first=1;put:done-but-failed:after=1:first=1", 5, 0);
    must(bh_bucket_put(b, "x", &src, NULL, NULL, &info, NULL, ERR));
    must_have_pattern(b, "x", 2 * MIB + 1);
    assert_int_equal(info.size, 2 * MIB + 1);
    assert_int_equal(retries(), 2);
}

/* "Nothing happened" must not be said after an attempt that may have succeeded. */
static void test_doubt_stays(void **state)
{
    with("put:done-but-failed:first=1;put:eacces", 5, 0);
    assert_int_equal(put_text(b, "x", "new", NULL), ETIMEDOUT);
    assert_non_null(strstr(test_error.text, "may have succeeded"));
    must_have(b, "x", "new");
    must_fail(put_text(b, "x", "newer", NULL), EACCES); /* no doubt here */
}

static int failing_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    ++*(int *)arg;
    return bh_fail(err, EIO, "the source itself is broken");
}

static void test_broken_source(void **state)
{
    int calls = 0;
    struct bh_source src = {.size = 10, .read = failing_read, .arg = &calls};
    with("", 5, 0);
    must_fail(bh_bucket_put(b, "x", &src, NULL, NULL, NULL, NULL, ERR), EIO);
    assert_int_equal(calls, 1);
    must_lack(b, "x");
}

/* --- get --- */

static void test_get_goes_on(void **state)
{
    struct bh_bucket_stats s;
    struct bh_source src = pattern_source(3 * MIB + 5);
    must(bh_bucket_put(b, "x", &src, NULL, NULL, NULL, NULL, ERR));
    with("get:cut:first=6", 10, 0);
    must_have_pattern(b, "x", 3 * MIB + 5);
    assert_int_equal(retries(), 6);
    bh_bucket_stats(b, &s);
    assert_int_equal(s.requests[BH_OP_GET], 7);
    uint64_t at = 100; /* a range that is cut, to a length and to the end */
    struct bh_object_info info;
    must(bh_bucket_get(b, "x", 100, MIB, pattern_check, &at, &info, NULL, ERR));
    assert_int_equal(at, 100 + MIB);
    assert_int_equal(info.size, 3 * MIB + 5);
}

static void test_ranges_go_on(void **state)
{
    struct bh_source src = pattern_source(3 * MIB + 5);
    must(bh_bucket_put(b, "x", &src, NULL, NULL, NULL, NULL, ERR));
    must_put(b, "empty", "");
    with("get:cut:60%;get:eio:20%", 100, 0);
    for (uint64_t i = 0; i < 30; i++) {
        uint64_t at = i * 100001, end = at + i * 3 + 1;
        must(bh_bucket_get(b, "x", at, end - at, pattern_check, &at, NULL, NULL, ERR));
        assert_int_equal(at, end);
        at = i * 100001;
        must(bh_bucket_get(b, "x", at, UINT64_MAX, pattern_check, &at, NULL, NULL, ERR));
        assert_int_equal(at, 3 * MIB + 5);
        at = 0;
        must(bh_bucket_get(b, "empty", 0, UINT64_MAX, pattern_check, &at, NULL, NULL, ERR));
        assert_int_equal(at, 0);
    }
    assert_true(retries() > 30);
}

/* What got ahead has all its attempts again, however long the whole is. */
static void test_attempts_since_progress(void **state)
{
    struct bh_source src = pattern_source(3 * MIB + 5);
    char key[8];
    must(bh_bucket_put(b, "x", &src, NULL, NULL, NULL, NULL, ERR));
    for (int i = 10; i < 40; i++) {
        snprintf(key, sizeof key, "l/%d", i);
        must_put(b, key, "x");
    }
    with_options("get:cut:first=6;list:cut:first=7;head:eio:first=9",
                 &(struct bh_retry_options){.attempts = 3, .budget = 3});
    must_have_pattern(b, "x", 3 * MIB + 5);
    assert_int_equal(retries(), 6);
    assert_int_equal(strlen(listing(b, "l/", NULL, NULL, 0)), 30 * strlen("l/10\n"));
    assert_int_equal(retries(), 13);
    must_fail(head("x"), EIO);
    assert_int_equal(retries(), 15);
}

static int replace_object(void *arg, const void *data, size_t len, struct bh_error *err)
{
    const char **to = arg;
    if (!*to)
        return bh_fail(err, EBADMSG, "bytes of the other object came through");
    struct bh_source src = pattern_source(4 * MIB);
    int rc = **to ? bh_bucket_put(b, "x", &src, NULL, NULL, NULL, NULL, err)
                  : bh_bucket_delete(b, "x", NULL, err);
    *to = NULL;
    return rc;
}

static void test_get_of_a_replaced_object(void **state)
{
    struct bh_source src = pattern_source(4 * MIB);
    const char *how = "replace";
    must(bh_bucket_put(b, "x", &src, NULL, NULL, NULL, NULL, ERR));
    /* The first attempt is cut within its only chunk; the rest must not be of another object. */
    with("get:cut:first=1", 5, 0);
    int rc = bh_bucket_get(b, "x", 0, 900000, replace_object, &how, NULL, NULL, ERR);
    assert_null(how);
    must_fail(rc, EIO);
}

static void test_get_of_a_deleted_object(void **state)
{
    struct bh_source src = pattern_source(4 * MIB);
    const char *how = "";
    must(bh_bucket_put(b, "x", &src, NULL, NULL, NULL, NULL, ERR));
    with("get:cut:first=1", 5, 0);
    must_fail(bh_bucket_get(b, "x", 0, 900000, replace_object, &how, NULL, NULL, ERR), EIO);
    must_lack(b, "x");
}

static int refuse(void *arg, const void *data, size_t len, struct bh_error *err)
{
    ++*(int *)arg;
    return bh_fail(err, EIO, "the sink's disk is broken");
}

static void test_refusing_sink(void **state)
{
    int calls = 0;
    must_put(b, "x", "x");
    with("", 5, 0);
    must_fail(bh_bucket_get(b, "x", 0, UINT64_MAX, refuse, &calls, NULL, NULL, ERR), EIO);
    assert_int_equal(calls, 1);
}

/* --- list, uploads --- */

static void test_list_goes_on(void **state)
{
    char key[32], want[1024] = "", rolled[1024] = "";
    for (int i = 10; i < 30; i++) {
        snprintf(key, sizeof key, "d%d/x", i);
        must_put(b, key, "x");
        strcat(strcat(want, key), "\n");
        snprintf(key, sizeof key, "*d%d/\n", i);
        strcat(rolled, key);
    }
    with("list:cut:80%", 200, 0);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(listing(b, "", NULL, NULL, 0), want);
        assert_string_equal(listing(b, "", "/", NULL, 0), rolled);
        assert_string_equal(listing(b, "", NULL, "d27/x", 0), "d28/x\nd29/x\n");
        assert_string_equal(listing(b, "", NULL, "d12", 3), "d12/x\nd13/x\nd14/x\n");
        assert_string_equal(listing(b, "", "/", "d12/", 3), "*d13/\n*d14/\n*d15/\n");
    }
    assert_true(retries() > 20);
}

static void test_multipart(void **state)
{
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part parts[2];
    struct bh_object_info info;
    struct bh_source src = pattern_source(5 * MIB);
    must(bh_bucket_put(b, "src", &src, NULL, NULL, NULL, NULL, ERR));
    /* Calls: begin 0 and 1, part 2 and 3, part copy 4 and 5, complete 6. */
    with("multipart:eio:first=1;multipart:eio:after=2:first=1;multipart:eagain:after=4:first=1;"
         "multipart:done-but-failed:after=6",
         3, 0);
    must(bh_bucket_mp_begin(b, "x", NULL, id, NULL, ERR));
    must(bh_bucket_mp_part(b, "x", id, 1, &src, &parts[0], NULL, ERR));
    must(bh_bucket_mp_part_copy(b, "x", id, 2, "src", 0, 77, NULL, &parts[1], NULL, ERR));
    assert_int_equal(retries(), 3);
    must_fail(bh_bucket_mp_complete(b, "x", id, parts, 2, NULL, &info, NULL, ERR), ETIMEDOUT);
    assert_int_equal(retries(), 3); /* the caller looks: */
    must(bh_bucket_head(b, "x", &info, NULL, ERR));
    assert_int_equal(info.size, 5 * MIB + 77);
}

static void test_abort_that_was_not_heard(void **state)
{
    char id[BH_UPLOAD_ID_MAX];
    must(bh_bucket_mp_begin(b, "x", NULL, id, NULL, ERR));
    with("multipart:done-but-failed:first=1", 3, 0);
    must(bh_bucket_mp_abort(b, "x", id, NULL, ERR));
    must_fail(bh_bucket_mp_abort(b, "x", id, NULL, ERR), ENOENT);
}

static void test_delete_many(void **state)
{
    size_t gone = 0;
    const char *keys[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++)
        must_put(b, keys[i], "x");
    with("delete:done-but-failed:first=1;delete:eio:first=2", 5, 0);
    must(bh_bucket_delete_many(b, keys, 3, &gone, NULL, ERR));
    assert_int_equal(gone, 3);
    must(bh_bucket_delete(b, "a", NULL, ERR));
}

/* --- waiting --- */

static void test_waiting_ends(void **state)
{
    atomic_bool cancel = true;
    struct bh_call cancelled = {.cancel = &cancel};
    struct bh_call late = {.deadline_ms = bh_mono_ms() + 200};
    must_put(b, "x", "x");
    with("head:eio;put:eio", 1000, 5000);
    int64_t start = bh_mono_ms();
    assert_int_equal(bh_bucket_head(b, "x", NULL, &late, ERR), EIO);
    assert_non_null(strstr(test_error.text, "their time is over: injected fault"));
    assert_in_range(bh_mono_ms() - start, 0, 200);
    must_fail(bh_bucket_head(b, "x", NULL, &cancelled, ERR), ECANCELED);
    /* The first attempt's outcome is in doubt: ECANCELED would say that nothing happened. */
    struct bh_source src = {.size = 1, .data = "y"};
    must_fail(bh_bucket_put(b, "x", &src, NULL, NULL, NULL, &cancelled, ERR), EIO);
    assert_true(bh_mono_ms() - start < 10000);
}

static void test_back_off(void **state)
{
    must_put(b, "x", "x");
    with("head:eio:first=6", 10, 8);
    int64_t start = bh_mono_ms();
    must(head("x")); /* waits of up to 8, 16, ... 256 ms: 504 in all */
    assert_in_range(bh_mono_ms() - start, 1, 5000);
}

/* --- time --- */

static void test_time_of_all_attempts(void **state)
{
    must_put(b, "x", "x");
    with_options("head:eio", &(struct bh_retry_options){
                                 .attempts = 1000, .base_ms = 30, .time_ms = 200, .budget = 1000});
    int64_t start = bh_mono_ms();
    assert_int_equal(head("x"), EIO);
    assert_in_range(bh_mono_ms() - start, 50, 210);
    assert_non_null(strstr(test_error.text, "as their time is over"));
    assert_in_range(retries(), 2, 100);
}

static void test_time_cuts_an_attempt(void **state)
{
    must_put(b, "x", "x");
    with_options("head:delay=10s;delete:delay=10s;delete:eio:first=1",
                 &(struct bh_retry_options){.attempts = 5, .time_ms = 150});
    int64_t start = bh_mono_ms();
    must_fail(head("x"), ETIMEDOUT);
    assert_in_range(bh_mono_ms() - start, 150, 2000);
    struct bh_call call = {.deadline_ms = bh_mono_ms() + 50}; /* the earlier one counts */
    start = bh_mono_ms();
    must_fail(bh_bucket_delete(b, "x", &call, ERR), ETIMEDOUT);
    assert_in_range(bh_mono_ms() - start, 50, 140);
}

/* What carries a body may take as long as it goes on. */
static void test_time_of_bodies(void **state)
{
    struct bh_source src = pattern_source(4 * MIB);
    with_options("put:delay=250ms;put:eio:first=1;get:delay=60ms;get:cut:first=8;list:delay=60ms;"
                 "list:cut:first=4",
                 &(struct bh_retry_options){.attempts = 20, .time_ms = 100});
    must(bh_bucket_put(b, "x", &src, NULL, NULL, NULL, NULL, ERR)); /* counts from the failure */
    assert_int_equal(retries(), 1);
    int64_t start = bh_mono_ms();
    must_have_pattern(b, "x", 4 * MIB); /* each part of it is progress */
    assert_true(bh_mono_ms() - start > 500);
    assert_int_equal(retries(), 9);
}

/* --- the budget --- */

static void test_budget(void **state)
{
    must_put(b, "x", "x");
    with_options("head:eio:first=16", &(struct bh_retry_options){.attempts = 5, .budget = 10});
    for (int i = 0; i < 2; i++) {
        assert_int_equal(head("x"), EIO);
        assert_non_null(strstr(test_error.text, "after 5 attempts"));
    }
    assert_int_equal(head("x"), EIO); /* two repetitions were left */
    assert_non_null(strstr(test_error.text, "the retry budget is used up"));
    assert_int_equal(retries(), 10);
    assert_int_equal(head("x"), EIO);
    assert_non_null(strstr(test_error.text, "the retry budget is used up"));
    assert_int_equal(retries(), 10);
    must_fail(head("x"), EIO);
    must_fail(head("x"), EIO); /* the 16th failure */
    for (int i = 0; i < 5; i++)
        must(head("x")); /* which fill it for one repetition */
    assert_int_equal(retries(), 10);
}

static void test_budget_fills_again(void **state)
{
    must_put(b, "x", "x");
    with_options("head:eio:first=3;head:eio:after=8:first=1;head:eio:after=10:first=1",
                 &(struct bh_retry_options){.attempts = 2, .budget = 1});
    must_fail(head("x"), EIO);
    assert_int_equal(retries(), 1);
    assert_int_equal(head("x"), EIO);
    assert_non_null(strstr(test_error.text, "used up"));
    for (int i = 0; i < 5; i++)
        must(head("x")); /* 1 each */
    must(head("x"));     /* repeated, and as it succeeds all is back */
    assert_int_equal(retries(), 2);
    must(head("x"));
    assert_int_equal(retries(), 3);
}

static void test_budget_fills_with_time(void **state)
{
    must_put(b, "x", "x");
    with_options("head:eio", &(struct bh_retry_options){.attempts = 3, .budget = 2});
    must_fail(head("x"), EIO);
    must_fail(head("x"), EIO);
    assert_int_equal(retries(), 2);
    usleep(1100000);
    must_fail(head("x"), EIO);
    assert_int_equal(retries(), 3);
}

static void test_budget_of_one_call(void **state)
{
    must_put(b, "x", "x");
    with_options("head:eio", &(struct bh_retry_options){.attempts = 1000});
    assert_int_equal(head("x"), EIO);
    assert_non_null(strstr(test_error.text, "after 1000 attempts"));
}

static void *many_heads(void *arg)
{
    for (int i = 0; i < 20; i++)
        if (bh_bucket_head(b, "x", NULL, NULL, NULL) != EIO)
            *(bool *)arg = true;
    return NULL;
}

static void test_budget_of_many_calls(void **state)
{
    pthread_t threads[16];
    bool wrong[16] = {false};
    must_put(b, "x", "x");
    with_options("head:eio", &(struct bh_retry_options){.attempts = 10});
    for (int i = 0; i < 16; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, many_heads, &wrong[i]), 0);
    for (int i = 0; i < 16; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 16; i++)
        assert_false(wrong[i]);
    assert_in_range(retries(), 100, 130); /* of 320 calls; some seconds may have passed */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)
    const struct CMUnitTest tests[] = {
        T(test_passing_errors),
        T(test_attempts_are_bounded),
        T(test_one_attempt),
        T(test_lasting_errors),
        T(test_put),
        T(test_doubt_stays),
        T(test_broken_source),
        T(test_get_goes_on),
        T(test_ranges_go_on),
        T(test_attempts_since_progress),
        T(test_get_of_a_replaced_object),
        T(test_get_of_a_deleted_object),
        T(test_refusing_sink),
        T(test_list_goes_on),
        T(test_multipart),
        T(test_abort_that_was_not_heard),
        T(test_delete_many),
        T(test_waiting_ends),
        T(test_back_off),
        T(test_time_of_all_attempts),
        T(test_time_cuts_an_attempt),
        T(test_time_of_bodies),
        T(test_budget),
        T(test_budget_fills_again),
        T(test_budget_fills_with_time),
        T(test_budget_of_one_call),
        T(test_budget_of_many_calls),
    };
    int failed = cmocka_run_group_tests_name("bucket-retry", tests, NULL, NULL);
    /* A bad day, hidden from the caller: the whole suite must pass. */
    if (dir_setup(NULL) != 0)
        return 1;
    with("get:cut:30%;get:eagain:20%;head:eio:30%;head:etimedout:10%;list:cut:50%;"
         "put:done-but-failed:20%;"
         "copy:done-but-failed:20%;delete:eio:20%;delete:done-but-failed:30%",
         1000, 0);
    failed += bucket_conformance("bucket-retry-conformance", b, "");
    return failed + dir_teardown(NULL);
}
