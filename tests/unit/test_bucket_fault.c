/* The fault layer over a file:// bucket. */
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

#include "bucket_fixture.h"
#include "util/cleanup.h"
#include "util/clock.h"

/* Puts the layer with these rules over the directory; it is closed with it. */
static void with_rules(const char *rules)
{
    struct bh_bucket *faulty;
    must(bh_bucket_fault_wrap(&faulty, b, rules, 42, ERR));
    b = faulty;
}

static int head(const char *key)
{
    return bh_bucket_head(b, key, NULL, NULL, ERR);
}

struct received {
    uint64_t bytes;
    size_t entries;
};

static int count_bytes(void *arg, const void *data, size_t len, struct bh_error *err)
{
    return pattern_check(&((struct received *)arg)->bytes, data, len, err);
}

static int count_entries(void *arg, const char *key, bool is_prefix,
                         const struct bh_object_info *info, struct bh_error *err)
{
    ((struct received *)arg)->entries++;
    return 0;
}

static void test_kinds(void **state)
{
    must_put(b, "x", "old");
    with_rules("put:eio:key=eio;put:etimedout:key=etimedout;put:eacces:key=eacces;"
               "put:eagain:key=eagain; put:enospc:key=enospc ;put:cut:key=cut");
    must_fail(put_text(b, "eio", "new", NULL), EIO);
    must_fail(put_text(b, "etimedout", "new", NULL), ETIMEDOUT);
    must_fail(put_text(b, "eacces", "new", NULL), EACCES);
    must_fail(put_text(b, "eagain", "new", NULL), EAGAIN);
    must_fail(put_text(b, "enospc", "new", NULL), ENOSPC);
    must_fail(put_text(b, "cut", "new", NULL), EIO);
    assert_string_equal(listing(b, "", NULL, NULL, 0), "x\n");
    must_put(b, "x", "new");
}

static void test_error_names_rule_and_key(void **state)
{
    with_rules("head:eio:100%:key=some*");
    assert_int_equal(head("some/key"), EIO);
    assert_non_null(strstr(test_error.text, "head of some/key"));
    assert_non_null(strstr(test_error.text, "head:eio:100%:key=some*"));
}

static void test_done_but_failed(void **state)
{
    with_rules("put:done-but-failed;delete:done-but-failed:key=y");
    must_fail(put_text(b, "x", "new", NULL), ETIMEDOUT);
    must_have(b, "x", "new");
    must_fail(put_text(b, "x", "other", &(struct bh_cond){.if_none_match = true}), EEXIST);
    must_fail(bh_bucket_delete(b, "y", NULL, ERR), ETIMEDOUT);
}

static void test_operations(void **state)
{
    const struct {
        const char *rule;
        int put, get, head, copy, del, list, mp, time;
    } cases[] = {
        {"put:eacces", EACCES, 0, 0, 0, 0, 0, 0, 0},
        {"get:eacces", 0, EACCES, 0, 0, 0, 0, 0, 0},
        {"head:eacces", 0, 0, EACCES, 0, 0, 0, 0, 0},
        {"copy:eacces", 0, 0, 0, EACCES, 0, 0, 0, 0},
        {"delete:eacces", 0, 0, 0, 0, EACCES, 0, 0, 0},
        {"list:eacces", 0, 0, 0, 0, 0, EACCES, 0, 0},
        {"multipart:eacces", 0, 0, 0, 0, 0, 0, EACCES, 0},
        {"other:eacces", 0, 0, 0, 0, 0, 0, 0, EACCES},
        {"*:eacces", EACCES, EACCES, EACCES, EACCES, EACCES, EACCES, EACCES, EACCES},
    };
    must_put(b, "x", "there");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *data = NULL, id[BH_UPLOAD_ID_MAX];
        int64_t now;
        struct received r = {0};
        size_t gone;
        const char *keys[] = {"z"};
        struct bh_list_request none = {.prefix = "none"};
        struct bh_bucket *plain, *faulty;
        must(bh_bucket_dir_open(&plain, dir, ERR));
        must(bh_bucket_fault_wrap(&faulty, plain, cases[i].rule, 1, ERR));
        must_fail(put_text(faulty, "y", "y", NULL), cases[i].put);
        must_fail(bh_bucket_get_small(faulty, "x", 10, &data, NULL, NULL, NULL, ERR), cases[i].get);
        free(data);
        must_fail(bh_bucket_head(faulty, "x", NULL, NULL, ERR), cases[i].head);
        must_fail(bh_bucket_copy(faulty, "x", "z", NULL, NULL, NULL, ERR), cases[i].copy);
        must_fail(bh_bucket_delete(faulty, "z", NULL, ERR), cases[i].del);
        must_fail(bh_bucket_delete_many(faulty, keys, 1, &gone, NULL, ERR), cases[i].del);
        must_fail(bh_bucket_list(faulty, &none, count_entries, &r, NULL, ERR), cases[i].list);
        must_fail(bh_bucket_server_time(faulty, &now, NULL, ERR), cases[i].time);
        must_fail(bh_bucket_mp_begin(faulty, "m", NULL, id, NULL, ERR), cases[i].mp);
        if (cases[i].mp == 0)
            must(bh_bucket_mp_abort(faulty, "m", id, NULL, ERR));
        assert_int_equal(bh_bucket_caps(faulty), bh_bucket_caps(plain));
        bh_bucket_close(faulty);
    }
}

static void test_cut(void **state)
{
    struct received r = {0};
    struct bh_source src = pattern_source(3 * MIB);
    uint64_t least = UINT64_MAX, most = 0;
    must(bh_bucket_put(b, "big", &src, NULL, NULL, NULL, NULL, ERR));
    must_put(b, "empty", "");
    with_rules("get:cut;list:cut");
    for (int i = 0; i < 20; i++) {
        r.bytes = 0;
        must_fail(bh_bucket_get(b, "big", 0, UINT64_MAX, count_bytes, &r, NULL, NULL, ERR), EIO);
        least = r.bytes < least ? r.bytes : least;
        most = r.bytes > most ? r.bytes : most;
    }
    assert_true(most < 3 * MIB);
    assert_true(most > MIB); /* of 20 random places */
    assert_true(least < MIB);
    r.bytes = 3 * MIB - 1; /* a cut range of one byte has none */
    must_fail(bh_bucket_get(b, "big", 3 * MIB - 1, UINT64_MAX, count_bytes, &r, NULL, NULL, ERR),
              EIO);
    assert_int_equal(r.bytes, 3 * MIB - 1);
    must_fail(bh_bucket_get(b, "empty", 0, 1, count_bytes, &r, NULL, NULL, ERR), EIO);
    struct bh_list_request all = {.prefix = ""};
    for (int i = 0; i < 20; i++) {
        r.entries = 0;
        must_fail(bh_bucket_list(b, &all, count_entries, &r, NULL, ERR), EIO);
        assert_in_range(r.entries, 0, 2);
    }
}

static void test_first_and_after(void **state)
{
    must_put(b, "x", "x");
    with_rules("head:eio:first=2;head:eacces:after=3:first=2");
    const int expected[] = {EIO, EIO, 0, EACCES, EACCES, 0, 0};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        must_fail(head("x"), expected[i]);
}

static void test_counts_are_of_matching_calls(void **state)
{
    must_put(b, "x", "x");
    must_put(b, "y.prev", "y");
    with_rules("head:eio:key=*.prev:first=1");
    must(head("x"));
    must_fail(head("y.prev"), EIO);
    must(head("y.prev"));
}

static void test_probability(void **state)
{
    char first[400], second[400];
    int failures = 0;
    must_put(b, "x", "x");
    for (int round = 0; round < 2; round++) {
        with_rules("head:eio:25%");
        for (size_t i = 0; i < sizeof first; i++)
            (round ? second : first)[i] = head("x") == EIO;
        reopen();
    }
    assert_memory_equal(first, second, sizeof first);
    for (size_t i = 0; i < sizeof first; i++)
        failures += first[i];
    assert_in_range(failures, 70, 130);
}

static void test_delay(void **state)
{
    atomic_bool cancel = true;
    struct bh_call cancelled = {.cancel = &cancel};
    struct bh_call late = {.deadline_ms = bh_mono_ms() + 60};
    must_put(b, "x", "x");
    with_rules("head:delay=100ms:first=1;head:delay=0.05s:first=1;head:eacces:first=1;"
               "head:delay=1h:after=1");
    int64_t start = bh_mono_ms();
    must_fail(head("x"), EACCES); /* after both delays */
    assert_in_range(bh_mono_ms() - start, 150, 5000);
    start = bh_mono_ms();
    late.deadline_ms = start + 60;
    must_fail(bh_bucket_head(b, "x", NULL, &late, ERR), ETIMEDOUT);
    assert_in_range(bh_mono_ms() - start, 60, 5000);
    must_fail(bh_bucket_head(b, "x", NULL, &cancelled, ERR), ECANCELED);
    assert_true(bh_mono_ms() - start < 10000);
}

static void test_wrong_rules(void **state)
{
    const char *const wrong[] = {
        "put",         "put:",           "nonsense:eio",     "put:nonsense",    "put:eio:",
        "put:eio:10",  "put:eio:101%",   "put:eio:-1%",      "put:eio:first",   "put:eio:key=",
        "put:delay",   "put:delay=soon", "put:eio:first=-1", "put:eio:after=x", ":eio",
        "put:eio:nan%"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct bh_bucket *faulty;
        char rules[128];
        snprintf(rules, sizeof rules, "get:eio:1%%; %s", wrong[i]);
        int rc = bh_bucket_fault_wrap(&faulty, b, rules, 0, ERR);
        if (strcmp(wrong[i], "put:eio:") == 0) { /* an empty option is none */
            assert_int_equal(rc, 0);
            b = faulty;
            continue;
        }
        assert_int_equal(rc, EINVAL);
        assert_non_null(strstr(test_error.text, wrong[i]));
        must_fail(rc, EINVAL);
    }
    struct bh_bucket *faulty;
    must_fail(bh_bucket_fault_wrap(&faulty, b, "@relative", 0, ERR), EINVAL);
}

static void test_empty_rules(void **state)
{
    with_rules(" ;; \n # only a comment; put:eio\n");
    must_put(b, "x", "x");
    must_have(b, "x", "x");
}

static void test_rules_in_a_file(void **state)
{
    char rules[128];
    snprintf(rules, sizeof rules, "@%s/.bhfs-meta/rules", dir);
    must_put(b, "x", "x");
    with_rules(rules);
    must(head("x")); /* there is no file yet */
    shell("printf '# a bad day\\nhead:eio\\nput:eacces # both\\n' > .bhfs-meta/rules");
    must_fail(head("x"), EIO);
    must_fail(put_text(b, "x", "y", NULL), EACCES);
    shell("echo 'head:eacces:first=1' > .bhfs-meta/rules");
    must_fail(head("x"), EACCES);
    must(head("x"));
    shell("echo 'head:eacces:first=1' > .bhfs-meta/rules"); /* touched: it begins again */
    must_fail(head("x"), EACCES);
    must(head("x"));
    shell("echo 'head:enospc' > .bhfs-meta/rules");
    must_fail(head("x"), ENOSPC);
    shell("echo 'nonsense' > .bhfs-meta/rules");
    must_fail(head("x"), ENOSPC); /* as before */
    shell("rm .bhfs-meta/rules");
    must(head("x"));
}

static void *many_heads(void *arg)
{
    size_t *failed = arg;
    for (int i = 0; i < 200; i++)
        *failed += bh_bucket_head(b, "x", NULL, NULL, NULL) == EIO;
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[4];
    size_t failed[4] = {0}, sum = 0;
    must_put(b, "x", "x");
    with_rules("head:eio:first=123");
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, many_heads, &failed[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++)
        sum += failed[i];
    assert_int_equal(sum, 123);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)
    const struct CMUnitTest tests[] = {
        T(test_kinds),
        T(test_error_names_rule_and_key),
        T(test_done_but_failed),
        T(test_operations),
        T(test_cut),
        T(test_first_and_after),
        T(test_counts_are_of_matching_calls),
        T(test_probability),
        T(test_delay),
        T(test_wrong_rules),
        T(test_empty_rules),
        T(test_rules_in_a_file),
        T(test_threads),
    };
    return cmocka_run_group_tests_name("bucket-fault", tests, NULL, NULL);
}
