#include "bucket_conformance.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket_suite.h"
#include "util/cleanup.h"
#include "util/clock.h"

struct bh_bucket *bucket;
const char *base;

/* base + name, in one of a few static buffers. */
const char *k(const char *name)
{
    static _Thread_local char keys[8][BH_KEY_MAX + 1];
    static _Thread_local unsigned next;
    char *key = keys[next++ % 8];
    snprintf(key, BH_KEY_MAX + 1, "%s%s", base, name);
    return key;
}

/* Asserts a listing whose names are given without base; a line that begins with '*' is a prefix. */
void must_list(const char *expected, const char *prefix, const char *delimiter, const char *after,
               size_t max)
{
    char want[16384];
    size_t n = 0;
    for (const char *line = expected; *line; line += strcspn(line, "\n") + 1) {
        bool is_prefix = *line == '*';
        n += (size_t)snprintf(want + n, sizeof want - n, "%s%s%.*s\n", is_prefix ? "*" : "", base,
                              (int)strcspn(line + is_prefix, "\n"), line + is_prefix);
    }
    want[n] = '\0';
    assert_string_equal(listing(bucket, k(prefix), delimiter, after ? k(after) : NULL, max), want);
}

bool has(enum bh_bucket_caps cap)
{
    return (bh_bucket_caps(bucket) & cap) != 0;
}

/* --- the tests --- */

static void test_put_get_head(void **state)
{
    const uint64_t sizes[] = {0, 1, 4096, MIB - 1, MIB, MIB + 1, 3 * MIB + 7};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct bh_object_info put, head;
        struct bh_source src = pattern_source(sizes[i]);
        must(bh_bucket_put(bucket, k("body"), &src, NULL, NULL, &put, NULL, ERR));
        must_have_pattern(bucket, k("body"), sizes[i]);
        must(bh_bucket_head(bucket, k("body"), &head, NULL, ERR));
        assert_int_equal(head.size, sizes[i]);
        assert_string_equal(head.etag, put.etag);
        assert_int_equal(head.meta.count, 0);
        assert_true(llabs(head.mtime_ms - bh_real_ms()) < 24 * 3600 * 1000);
    }
    must_put(bucket, k("body"), "in memory");
    must_have(bucket, k("body"), "in memory");
}

static void test_ranges(void **state)
{
    struct bh_source src = pattern_source(2 * MIB + 10);
    must(bh_bucket_put(bucket, k("range"), &src, NULL, NULL, NULL, NULL, ERR));
    const uint64_t ranges[][3] = {/* offset, length, bytes that come */
                                  {0, 1, 1},
                                  {5, 100, 100},
                                  {MIB - 1, MIB + 2, MIB + 2},
                                  {2 * MIB + 9, 1, 1},
                                  {2 * MIB, UINT64_MAX, 10},
                                  {2 * MIB, 11, 10}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        uint64_t at = ranges[i][0];
        struct bh_object_info info;
        must(bh_bucket_get(bucket, k("range"), ranges[i][0], ranges[i][1], pattern_check, &at,
                           &info, NULL, ERR));
        assert_int_equal(at - ranges[i][0], ranges[i][2]);
        assert_int_equal(info.size, 2 * MIB + 10);
    }
    uint64_t at = 0;
    must_fail(
        bh_bucket_get(bucket, k("range"), 2 * MIB + 10, 1, pattern_check, &at, NULL, NULL, ERR),
        EINVAL);
    must_fail(
        bh_bucket_get(bucket, k("range"), 3 * MIB, UINT64_MAX, pattern_check, &at, NULL, NULL, ERR),
        EINVAL);
    must_fail(bh_bucket_get(bucket, k("range"), UINT64_MAX - 1, UINT64_MAX, pattern_check, &at,
                            NULL, NULL, ERR),
              EINVAL);
    must_fail(bh_bucket_get(bucket, k("range"), 0, 0, pattern_check, &at, NULL, NULL, ERR), EINVAL);
    must_put(bucket, k("empty"), "");
    must(bh_bucket_get(bucket, k("empty"), 0, 10, pattern_check, &at, NULL, NULL, ERR));
    must_fail(bh_bucket_get(bucket, k("empty"), 1, 1, pattern_check, &at, NULL, NULL, ERR), EINVAL);
    assert_int_equal(at, 0);
}

static void test_missing(void **state)
{
    uint64_t at = 0;
    must_lack(bucket, k("none"));
    must_fail(bh_bucket_get(bucket, k("none"), 0, 1, pattern_check, &at, NULL, NULL, ERR), ENOENT);
    must_fail(bh_bucket_copy(bucket, k("none"), k("other"), NULL, NULL, NULL, ERR), ENOENT);
    must(bh_bucket_delete(bucket, k("none"), NULL, ERR));
    must_put(bucket, k("some"), "x");
    must(bh_bucket_delete(bucket, k("some"), NULL, ERR));
    must_lack(bucket, k("some"));
    must(bh_bucket_delete(bucket, k("some"), NULL, ERR));
}

static void test_etags(void **state)
{
    char first[BH_ETAG_MAX], second[BH_ETAG_MAX];
    struct bh_object_info info;
    strcpy(first, must_put(bucket, k("etag"), "one"));
    for (int i = 0; i < 3; i++) {
        must(bh_bucket_head(bucket, k("etag"), &info, NULL, ERR));
        assert_string_equal(info.etag, first);
    }
    for (int i = 0; i < 20; i++) { /* same length, as fast as it goes */
        strcpy(second, must_put(bucket, k("etag"), i % 2 ? "one" : "two"));
        assert_string_not_equal(first, second);
        strcpy(first, second);
    }
}

static void test_metadata(void **state)
{
    struct bh_meta meta = {0};
    struct bh_object_info info;
    struct bh_source src = {.size = 4, .data = "body"};
    BH_FREE char *data = NULL;
    char value[BH_META_VALUE_MAX] = {0};
    memset(value, '~', sizeof value - 1);
    must(bh_meta_set(&meta, "bh-snapshot", "0000123-abc", ERR));
    must(bh_meta_set(&meta, "x", value, ERR));
    must(bh_meta_set(&meta, "spaces", "a = b;  c, \"d\" %41", ERR));
    must(bh_meta_set(&meta, "empty", "", ERR));
    must(bh_bucket_put(bucket, k("meta"), &src, &meta, NULL, NULL, NULL, ERR));
    must(bh_bucket_head(bucket, k("meta"), &info, NULL, ERR));
    assert_int_equal(info.meta.count, 4);
    assert_string_equal(bh_meta_get(&info.meta, "bh-snapshot"), "0000123-abc");
    assert_string_equal(bh_meta_get(&info.meta, "x"), value);
    assert_string_equal(bh_meta_get(&info.meta, "spaces"), "a = b;  c, \"d\" %41");
    assert_string_equal(bh_meta_get(&info.meta, "empty"), "");
    assert_null(bh_meta_get(&info.meta, "y"));
    must(bh_bucket_get_small(bucket, k("meta"), 10, &data, NULL, &info, NULL, ERR));
    assert_string_equal(bh_meta_get(&info.meta, "bh-snapshot"), "0000123-abc");

    struct bh_meta other = {0};
    must(bh_meta_set(&other, "bh-snapshot", "2", ERR));
    must(bh_bucket_put(bucket, k("meta"), &src, &other, NULL, NULL, NULL, ERR));
    must(bh_bucket_head(bucket, k("meta"), &info, NULL, ERR));
    assert_int_equal(info.meta.count, 1);
    assert_string_equal(bh_meta_get(&info.meta, "bh-snapshot"), "2");
    must(bh_bucket_put(bucket, k("meta"), &src, NULL, NULL, NULL, NULL, ERR));
    must(bh_bucket_head(bucket, k("meta"), &info, NULL, ERR));
    assert_int_equal(info.meta.count, 0);
}

static void test_meta_limits(void **state)
{
    struct bh_meta meta = {0};
    char name[BH_META_NAME_MAX + 1], value[BH_META_VALUE_MAX + 1];
    memset(name, 'n', sizeof name);
    name[BH_META_NAME_MAX] = '\0';
    memset(value, 'v', sizeof value);
    value[BH_META_VALUE_MAX] = '\0';
    must_fail(bh_meta_set(&meta, name, "v", ERR), EINVAL);
    must_fail(bh_meta_set(&meta, "n", value, ERR), EINVAL);
    must_fail(bh_meta_set(&meta, "", "v", ERR), EINVAL);
    must_fail(bh_meta_set(&meta, "Upper", "v", ERR), EINVAL);
    must_fail(bh_meta_set(&meta, "under_score", "v", ERR), EINVAL);
    must_fail(bh_meta_set(&meta, "n", "new\nline", ERR), EINVAL);
    must_fail(bh_meta_set(&meta, "n", " lead", ERR), EINVAL);
    must_fail(bh_meta_set(&meta, "n", "trail ", ERR), EINVAL);
    must_fail(bh_meta_set(&meta, "n", " ", ERR), EINVAL);
    must_fail(bh_meta_set(&meta, "n", "\xc3\xbc", ERR), EINVAL);
    for (int i = 0; i < BH_META_ITEMS_MAX - 1; i++) {
        snprintf(name, sizeof name, "n%d", i);
        must(bh_meta_set(&meta, name, "v", ERR));
    }
    must_fail(bh_meta_set(&meta, "one-more", "v", ERR), E2BIG);
    must(bh_meta_set(&meta, BH_META_PUT, "has a place of its own", ERR));
    must_fail(bh_meta_set(&meta, "one-more", "v", ERR), E2BIG);
    must(bh_meta_set(&meta, "n3", "replaced", ERR));
    assert_int_equal(meta.count, BH_META_ITEMS_MAX);
    assert_string_equal(bh_meta_get(&meta, "n3"), "replaced");
}

static void test_if_none_match(void **state)
{
    struct bh_cond absent = {.if_none_match = true};
    if (!has(BH_CAP_IF_NONE_MATCH)) {
        must_fail(put_text(bucket, k("cond"), "a", &absent), ENOTSUP);
        must_lack(bucket, k("cond"));
        return;
    }
    must(put_text(bucket, k("cond"), "a", &absent));
    must_fail(put_text(bucket, k("cond"), "b", &absent), EEXIST);
    must_have(bucket, k("cond"), "a");
    must(bh_bucket_delete(bucket, k("cond"), NULL, ERR));
    must(put_text(bucket, k("cond"), "c", &absent));
}

static void test_if_match(void **state)
{
    char etag[BH_ETAG_MAX];
    struct bh_cond match = {.if_match = etag};
    strcpy(etag, must_put(bucket, k("match"), "a"));
    if (!has(BH_CAP_IF_MATCH)) {
        must_fail(put_text(bucket, k("match"), "b", &match), ENOTSUP);
        must_have(bucket, k("match"), "a");
        return;
    }
    must(put_text(bucket, k("match"), "b", &match));
    must_fail(put_text(bucket, k("match"), "c", &match), ESTALE);
    must_have(bucket, k("match"), "b");
    must_fail(put_text(bucket, k("no-match"), "c", &match), ESTALE);
    must_lack(bucket, k("no-match"));
    struct bh_cond both = {.if_match = etag, .if_none_match = true};
    must_fail(put_text(bucket, k("match"), "c", &both), EINVAL);
}

static void test_list(void **state)
{
    const char *names[] = {"l/b",   "l/a-b", "l/a/2", "l/a/1/x",    "l/a.b",    "l/a0",
                           "l/c/1", "l/c/2", "l/Z",   "l/\xc3\xbc", "l/d/e/f/g"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        must_put(bucket, k(names[i]), "x");
    const char *all =
        "l/Z\nl/a-b\nl/a.b\nl/a/1/x\nl/a/2\nl/a0\nl/b\nl/c/1\nl/c/2\nl/d/e/f/g\nl/\xc3\xbc\n";
    must_list(all, "l/", NULL, NULL, 0);
    must_list(all, "l", NULL, NULL, 0);
    must_list("l/a/1/x\nl/a/2\n", "l/a/", NULL, NULL, 0);
    must_list("l/a-b\nl/a.b\nl/a/1/x\nl/a/2\nl/a0\n", "l/a", NULL, NULL, 0);
    must_list("", "l/a/3", NULL, NULL, 0);
    must_list("", "l/b/", NULL, NULL, 0);
    must_list("l/Z\nl/a-b\nl/a.b\n*l/a/\nl/a0\nl/b\n*l/c/\n*l/d/\nl/\xc3\xbc\n", "l/", "/", NULL,
              0);
    must_list("*l/\n", "l", "/", NULL, 0);
    must_list("*l/a/1/\nl/a/2\n", "l/a/", "/", NULL, 0);
    must_list("l/a-b\nl/a.b\n*l/a/\nl/a0\n", "l/a", "/", NULL, 0);
}

static void test_list_pages(void **state)
{
    const char *names[] = {"p/1", "p/2/a", "p/2/b", "p/3", "p/4/a", "p/5"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        must_put(bucket, k(names[i]), "x");
    must_list("p/1\np/2/a\n", "p/", NULL, NULL, 2);
    must_list("p/2/b\np/3\n", "p/", NULL, "p/2/a", 2);
    must_list("p/4/a\np/5\n", "p/", NULL, "p/3", 2);
    must_list("", "p/", NULL, "p/5", 2);
    must_list("p/2/a\n", "p/", NULL, "p/2/", 1);
    must_list("p/3\np/4/a\np/5\n", "p/", NULL, "p/2/bb", 0);
    /* Pages with a delimiter, each after the last entry of the one before, prefixes among them. */
    must_list("p/1\n*p/2/\n", "p/", "/", NULL, 2);
    must_list("p/3\n*p/4/\n", "p/", "/", "p/2/", 2);
    must_list("p/5\n", "p/", "/", "p/4/", 2);
}

static void test_list_other_delimiter(void **state)
{
    must_put(bucket, k("o/a-1"), "x");
    must_put(bucket, k("o/a-2"), "x");
    must_put(bucket, k("o/b"), "x");
    must_put(bucket, k("o/c/d-e"), "x");
    must_list("*o/a-\no/b\n*o/c/d-\n", "o/", "-", NULL, 0);
}

static void test_bad_arguments(void **state)
{
    struct bh_source none = {.size = 1};
    struct bh_part parts[2] = {{.number = 2}, {.number = 2}};
    must_fail(put_text(bucket, "", "x", NULL), EINVAL);
    must_fail(put_text(bucket, "\xff", "x", NULL), EINVAL);
    must_fail(put_text(bucket, "\xc0\xaf", "x", NULL), EINVAL);
    must_fail(put_text(bucket, "\xed\xa0\x80", "x", NULL), EINVAL);
    must_fail(put_text(bucket, "a\xef\xbf\xbe", "x", NULL), EINVAL); /* XML cannot name these */
    must_fail(put_text(bucket,
                       "\xef\xbf\xbf"
                       "b",
                       "x", NULL),
              EINVAL);
    must(put_text(bucket, k("\xef\xbf\xbd"), "x", NULL));
    must_fail(bh_bucket_head(bucket, "", NULL, NULL, ERR), EINVAL);
    must_fail(bh_bucket_put(bucket, k("x"), &none, NULL, NULL, NULL, NULL, ERR), EINVAL);
    must_fail(bh_bucket_mp_complete(bucket, k("x"), "id", parts, 0, NULL, NULL, NULL, ERR), EINVAL);
    must_fail(bh_bucket_mp_complete(bucket, k("x"), "id", parts, 2, NULL, NULL, NULL, ERR), EINVAL);
    must_fail(bh_bucket_mp_part(bucket, k("x"), "id", 0, &none, parts, NULL, ERR), EINVAL);
}

static int refuse(void *arg, const void *data, size_t len, struct bh_error *err)
{
    return bh_fail(err, EXFULL, "the sink wants no more");
}
static int refuse_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                      struct bh_error *err)
{
    return bh_fail(err, EXFULL, "the listener wants no more");
}
static int refuse_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    return offset == 0 ? pattern_read(arg, offset, buf, len, err)
                       : bh_fail(err, EXFULL, "the source has no more");
}

static void test_callbacks_refuse(void **state)
{
    struct bh_list_request req = {.prefix = base};
    struct bh_source src = {.size = 2 * MIB, .read = refuse_read};
    must_put(bucket, k("refuse"), "x");
    must_fail(bh_bucket_get(bucket, k("refuse"), 0, 1, refuse, NULL, NULL, NULL, ERR), EXFULL);
    must_fail(bh_bucket_list(bucket, &req, refuse_key, NULL, NULL, ERR), EXFULL);
    must_fail(bh_bucket_put(bucket, k("refuse"), &src, NULL, NULL, NULL, NULL, ERR), EXFULL);
    must_have(bucket, k("refuse"), "x");
}

static int set_flag(void *arg, const void *data, size_t len, struct bh_error *err)
{
    atomic_store((atomic_bool *)arg, true);
    return 0;
}

static void test_limits_of_calls(void **state)
{
    atomic_bool cancel = true;
    struct bh_call cancelled = {.cancel = &cancel};
    struct bh_call late = {.deadline_ms = bh_mono_ms() - 1};
    struct bh_source src = pattern_source(3 * MIB);
    struct bh_list_request req = {.prefix = base};
    must(bh_bucket_put(bucket, k("limits"), &src, NULL, NULL, NULL, NULL, ERR));
    must_fail(bh_bucket_put(bucket, k("limits2"), &src, NULL, NULL, NULL, &cancelled, ERR),
              ECANCELED);
    must_fail(bh_bucket_put(bucket, k("limits2"), &src, NULL, NULL, NULL, &late, ERR), ETIMEDOUT);
    must_lack(bucket, k("limits2"));
    must_fail(bh_bucket_head(bucket, k("limits"), NULL, &cancelled, ERR), ECANCELED);
    must_fail(bh_bucket_head(bucket, k("limits"), NULL, &late, ERR), ETIMEDOUT);
    must_fail(bh_bucket_list(bucket, &req, refuse_key, NULL, &cancelled, ERR), ECANCELED);
    must_fail(bh_bucket_delete(bucket, k("limits"), &cancelled, ERR), ECANCELED);
    must_fail(bh_bucket_copy(bucket, k("limits"), k("limits2"), NULL, NULL, &late, ERR), ETIMEDOUT);
    cancel = false; /* and set by the first chunk that comes */
    must_fail(
        bh_bucket_get(bucket, k("limits"), 0, UINT64_MAX, set_flag, &cancel, NULL, &cancelled, ERR),
        ECANCELED);
    must_have_pattern(bucket, k("limits"), 3 * MIB);
}

static void test_get_small(void **state)
{
    BH_FREE char *data = NULL;
    size_t len = 99;
    must_put(bucket, k("small"), "12345");
    must_fail(bh_bucket_get_small(bucket, k("small"), 4, &data, &len, NULL, NULL, ERR), EFBIG);
    assert_null(data);
    must(bh_bucket_get_small(bucket, k("small"), 5, &data, &len, NULL, NULL, ERR));
    assert_string_equal(data, "12345");
    BH_FREE char *empty = NULL;
    must_put(bucket, k("small"), "");
    must(bh_bucket_get_small(bucket, k("small"), 0, &empty, &len, NULL, NULL, ERR));
    assert_int_equal(len, 0);
    assert_string_equal(empty, "");
}

/* --- the rest --- */

static void test_stats(void **state)
{
    struct bh_bucket_stats before, after;
    bh_bucket_stats(bucket, &before);
    must_put(bucket, k("stats"), "12345");
    must_have(bucket, k("stats"), "12345");
    must_lack(bucket, k("stats/none"));
    bh_bucket_stats(bucket, &after);
    assert_true(after.requests[BH_OP_PUT] > before.requests[BH_OP_PUT]);
    assert_true(after.requests[BH_OP_GET] > before.requests[BH_OP_GET]);
    assert_true(after.requests[BH_OP_HEAD] > before.requests[BH_OP_HEAD]);
    assert_int_equal(after.errors[BH_OP_HEAD], before.errors[BH_OP_HEAD]);
    assert_true(after.nanoseconds[BH_OP_PUT] > before.nanoseconds[BH_OP_PUT]);
    assert_true(after.bytes_up - before.bytes_up >= 5);
    assert_true(after.bytes_down > before.bytes_down);
}

static int delete_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                      struct bh_error *err)
{
    return bh_bucket_delete(bucket, key, NULL, err);
}

static int empty_bucket(void **state)
{
    struct bh_list_request req = {.prefix = base};
    return bh_bucket_list(bucket, &req, delete_key, NULL, NULL, ERR);
}

static void test_empty_in_the_end(void **state)
{
    assert_int_equal(empty_bucket(state), 0);
    must_list("", "", NULL, NULL, 0);
    must_list("", "", "/", NULL, 0);
    must_list_uploads(base, "");
}

int bucket_conformance(const char *name, struct bh_bucket *b, const char *prefix)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_get_head),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_etags),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_meta_limits),
        cmocka_unit_test(test_if_none_match),
        cmocka_unit_test(test_if_match),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_delete_many),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_list_pages),
        cmocka_unit_test(test_list_other_delimiter),
        cmocka_unit_test(test_odd_keys),
        cmocka_unit_test(test_keys_at_the_root),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_long_keys),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test(test_callbacks_refuse),
        cmocka_unit_test(test_limits_of_calls),
        cmocka_unit_test(test_get_small),
        cmocka_unit_test(test_multipart),
        cmocka_unit_test(test_multipart_wrong),
        cmocka_unit_test(test_multipart_conditional),
        cmocka_unit_test(test_part_copy),
        cmocka_unit_test(test_threads_race),
        cmocka_unit_test(test_compare_and_swap),
        cmocka_unit_test(test_presign),
        cmocka_unit_test(test_server_time),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_empty_in_the_end),
    };
    bucket = b;
    base = prefix;
    return cmocka_run_group_tests_name(name, tests, NULL, empty_bucket);
}
