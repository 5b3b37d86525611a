/* Conditional puts whose answer is lost, resolved by the retry layer. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket_fixture.h"
#include "util/clock.h"

static const struct bh_cond absent = {.if_none_match = true};

static void retrying(struct bh_bucket *inner, unsigned attempts)
{
    must(bh_bucket_retry_wrap(&b, inner, &(struct bh_retry_options){.attempts = attempts}, ERR));
}

static void with(const char *rules, unsigned attempts)
{
    struct bh_bucket *faulty;
    must(bh_bucket_fault_wrap(&faulty, b, rules, 7, ERR));
    retrying(faulty, attempts);
}

static struct bh_bucket_stats stats(void)
{
    struct bh_bucket_stats s;
    bh_bucket_stats(b, &s);
    return s;
}

static int put_info(const char *text, const struct bh_cond *cond, struct bh_object_info *info)
{
    struct bh_source src = {.size = strlen(text), .data = text};
    return bh_bucket_put(b, "x", &src, NULL, cond, info, NULL, ERR);
}

/* --- by rules --- */

static void test_done_but_failed(void **state)
{
    struct bh_object_info info, now;
    with("put:done-but-failed", 5);
    must(put_info("one", &absent, &info));
    must_have(b, "x", "one");
    must(bh_bucket_head(b, "x", &now, NULL, ERR));
    assert_string_equal(info.etag, now.etag);
    assert_int_equal(info.size, 3);
    assert_int_equal(info.mtime_ms, now.mtime_ms);
    assert_int_equal(strlen(bh_meta_get(&now.meta, BH_META_PUT)), 32);
    must_fail(put_info("two", &absent, &info), EEXIST);
    must(put_info("three", &(struct bh_cond){.if_match = now.etag}, &info));
    must_have(b, "x", "three");
    assert_string_not_equal(info.etag, now.etag);
    must_fail(put_info("four", &(struct bh_cond){.if_match = now.etag}, &info), ESTALE);
    must_have(b, "x", "three");
}

/* With one attempt there is no repetition, but the look. */
static void test_one_attempt(void **state)
{
    with("put:done-but-failed:first=1;put:eio:after=1", 1);
    must(put_info("one", &absent, NULL));
    must_fail(put_text(b, "y", "one", &absent), EIO);
    assert_int_equal(stats().retries, 0);
    assert_int_equal(stats().requests[BH_OP_PUT], 1);
    assert_int_equal(stats().requests[BH_OP_HEAD], 2);
}

static void test_repeated(void **state)
{
    struct bh_object_info info;
    with("put:eagain:first=2;put:eio:after=3:first=1;put:etimedout:after=4:first=1", 3);
    must(put_info("one", &absent, &info));
    assert_int_equal(stats().retries, 2);
    must(put_info("two", &(struct bh_cond){.if_match = info.etag}, &info));
    assert_int_equal(stats().retries, 4);
    must_have(b, "x", "two");
}

static void test_attempts_are_bounded(void **state)
{
    with("put:eagain", 4);
    assert_int_equal(put_text(b, "x", "one", &absent), EAGAIN);
    assert_non_null(strstr(test_error.text, "after 4 attempts"));
    assert_int_equal(stats().retries, 3);
    assert_int_equal(stats().requests[BH_OP_HEAD], 4);
    must_lack(b, "x");
}

static void test_first_refusal_is_final(void **state)
{
    must_put(b, "x", "there");
    with("", 5);
    must_fail(put_text(b, "x", "one", &absent), EEXIST);
    must_fail(put_text(b, "x", "one", &(struct bh_cond){.if_match = "other"}), ESTALE);
    assert_int_equal(stats().requests[BH_OP_HEAD], 0);
    assert_int_equal(stats().retries, 0);
}

static void test_look_fails(void **state)
{
    with("put:done-but-failed;head:eio:first=2;head:eacces:after=3:first=1;"
         "head:eio:after=4:first=3",
         3);
    must(put_text(b, "x", "one", &absent)); /* looks three times */
    assert_int_equal(put_text(b, "y", "one", &absent), ETIMEDOUT);
    assert_non_null(strstr(test_error.text, "injected fault: put"));
    assert_int_equal(put_text(b, "z", "one", &absent), ETIMEDOUT);
    assert_non_null(strstr(test_error.text, "after 3 attempts"));
    assert_int_equal(stats().requests[BH_OP_PUT], 3);
    must_have(b, "z", "one");
}

/* "Nothing happened" must not be said after an attempt that may have succeeded. */
static void test_doubt_stays(void **state)
{
    with("put:eio:first=1;put:eacces", 5);
    assert_int_equal(put_text(b, "x", "one", &absent), EIO);
    assert_non_null(strstr(test_error.text, "may have succeeded"));
    must_fail(put_text(b, "x", "one", &absent), EACCES);
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
    with("", 5);
    must_fail(bh_bucket_put(b, "x", &src, NULL, &absent, NULL, NULL, ERR), EIO);
    assert_int_equal(calls, 1);
    assert_int_equal(stats().requests[BH_OP_HEAD], 0);
}

static void test_cancelled(void **state)
{
    atomic_bool cancel = true;
    struct bh_call call = {.cancel = &cancel};
    struct bh_source src = {.size = 1, .data = "y"};
    must_put(b, "z", "there");
    with("put:eio:key=x", 1000);
    must_fail(bh_bucket_put(b, "y", &src, NULL, &absent, NULL, &call, ERR), ECANCELED);
    must_fail(bh_bucket_put(b, "x", &src, NULL, &absent, NULL, &call, ERR), EIO); /* in doubt */
    assert_int_equal(stats().retries, 0);
    must_lack(b, "x");
}

static void test_metadata_has_room(void **state)
{
    struct bh_meta meta = {0};
    struct bh_object_info info;
    struct bh_source src = {.size = 1, .data = "y"};
    char name[8];
    for (int i = 0; i < BH_META_ITEMS_MAX - 1; i++) {
        snprintf(name, sizeof name, "n%d", i);
        must(bh_meta_set(&meta, name, "v", ERR));
    }
    with("put:done-but-failed", 5);
    must(bh_bucket_put(b, "x", &src, &meta, &absent, NULL, NULL, ERR));
    must(bh_bucket_head(b, "x", &info, NULL, ERR));
    assert_int_equal(info.meta.count, BH_META_ITEMS_MAX);
    assert_string_equal(bh_meta_get(&info.meta, "n7"), "v");
    /* The metadata of one object passed on to another: the id is a new one. */
    char old[BH_META_VALUE_MAX];
    strcpy(old, bh_meta_get(&info.meta, BH_META_PUT));
    must(bh_bucket_put(b, "y", &src, &info.meta, &absent, NULL, NULL, ERR));
    must(bh_bucket_head(b, "y", &info, NULL, ERR));
    assert_int_equal(info.meta.count, BH_META_ITEMS_MAX);
    assert_string_not_equal(bh_meta_get(&info.meta, BH_META_PUT), old);
}

static void test_unconditional_puts_are_not_marked(void **state)
{
    struct bh_object_info info;
    with("", 5);
    must_put(b, "x", "x");
    must(bh_bucket_head(b, "x", &info, NULL, ERR));
    assert_int_equal(info.meta.count, 0);
}

/* --- by a bucket that loses answers and delivers late --- */

struct odd {
    struct bh_bucket base;
    struct bh_bucket *inner;
    enum { LATE, REPLACED, DELETED, BEFORE } what;
    int puts;
    char id[BH_META_VALUE_MAX];
};

static struct odd *odd_of(struct bh_bucket *bucket)
{
    return (struct odd *)bucket;
}

static void odd_deed(struct odd *o, const char *key)
{
    if (o->what == DELETED)
        must(bh_bucket_delete(o->inner, key, NULL, ERR));
    else
        must_put(o->inner, key, "of another writer");
}

/* The answer of the first put is lost. */
static int odd_put(struct bh_bucket *bucket, const char *key, const struct bh_source *src,
                   const struct bh_meta *meta, const struct bh_cond *cond,
                   struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct odd *o = odd_of(bucket);
    if (++o->puts > 1) {
        assert_string_equal(o->id, bh_meta_get(meta, BH_META_PUT));
        if (o->what == LATE) /* the first one arrives */
            must(bh_bucket_put(o->inner, key, src, meta, cond, NULL, NULL, ERR));
        return bh_bucket_put(o->inner, key, src, meta, cond, info, call, err);
    }
    strcpy(o->id, bh_meta_get(meta, BH_META_PUT));
    if (o->what != LATE && o->what != BEFORE)
        must(bh_bucket_put(o->inner, key, src, meta, cond, NULL, NULL, ERR));
    if (o->what != LATE)
        odd_deed(o, key);
    return bh_fail(err, EIO, "the answer was lost");
}

static int odd_head(struct bh_bucket *bucket, const char *key, struct bh_object_info *info,
                    const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_head(odd_of(bucket)->inner, key, info, call, err);
}

static int odd_get(struct bh_bucket *bucket, const char *key, uint64_t offset, uint64_t length,
                   bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                   const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_get(odd_of(bucket)->inner, key, offset, length, sink, arg, info, call, err);
}

static void odd_stats(struct bh_bucket *bucket, struct bh_bucket_stats *out)
{
    bh_bucket_stats(odd_of(bucket)->inner, out);
}

static void odd_close(struct bh_bucket *bucket)
{
    bh_bucket_close(odd_of(bucket)->inner);
}

static const struct bh_bucket_ops odd_ops = {.name = "odd",
                                             .close = odd_close,
                                             .put = odd_put,
                                             .head = odd_head,
                                             .get = odd_get,
                                             .stats = odd_stats};
static struct odd odd;

static void with_odd(int what)
{
    odd = (struct odd){.base.ops = &odd_ops, .inner = b, .what = what};
    retrying(&odd.base, 5);
}

static void test_late_arrival(void **state)
{
    struct bh_object_info info, now;
    with_odd(LATE);
    must(put_info("one", &absent, &info));
    assert_int_equal(odd.puts, 2);
    must(bh_bucket_head(b, "x", &now, NULL, ERR));
    assert_string_equal(now.etag, info.etag);
    odd.puts = 0;
    must(put_info("two", &(struct bh_cond){.if_match = now.etag}, &info));
    assert_int_equal(odd.puts, 2);
    must_have(b, "x", "two");
    must(bh_bucket_head(b, "x", &now, NULL, ERR));
    assert_string_equal(now.etag, info.etag);
}

static void in_doubt(const struct bh_cond *cond, const char *sentence)
{
    assert_int_equal(put_info("one", cond, NULL), EIO);
    assert_non_null(strstr(test_error.text, sentence));
    assert_non_null(strstr(test_error.text, "the answer was lost"));
    assert_int_equal(odd.puts, 1);
}

static void test_replaced(void **state)
{
    with_odd(REPLACED);
    in_doubt(&absent, "another writer's object is there now");
    must_have(b, "x", "of another writer");
}

static void test_replaced_before(void **state)
{
    char etag[BH_ETAG_MAX];
    strcpy(etag, must_put(b, "x", "old"));
    with_odd(BEFORE);
    in_doubt(&(struct bh_cond){.if_match = etag}, "another writer's object is there now");
    must_have(b, "x", "of another writer");
}

static void test_deleted(void **state)
{
    char etag[BH_ETAG_MAX];
    strcpy(etag, must_put(b, "x", "old"));
    with_odd(DELETED);
    in_doubt(&(struct bh_cond){.if_match = etag}, "there is no such object now");
    must_lack(b, "x");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)
    const struct CMUnitTest tests[] = {
        T(test_done_but_failed),
        T(test_one_attempt),
        T(test_repeated),
        T(test_attempts_are_bounded),
        T(test_first_refusal_is_final),
        T(test_look_fails),
        T(test_doubt_stays),
        T(test_broken_source),
        T(test_cancelled),
        T(test_metadata_has_room),
        T(test_unconditional_puts_are_not_marked),
        T(test_late_arrival),
        T(test_replaced),
        T(test_replaced_before),
        T(test_deleted),
    };
    return cmocka_run_group_tests_name("bucket-cond", tests, NULL, NULL);
}
