/* Uploads of which another object has parts already: those are copied in the bucket. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket/transfer.h"
#include "bucket_fixture.h"
#include "transfer_spy.h"

#define PART (5 * MIB)
#define ALL  (9 * PART + 77)

/* "old" is the pattern but for one byte each in parts 2 and 6, and ends within part 8. */
#define OLD_SIZE (8 * PART + 5)
static bool has(const void *arg, uint64_t offset, uint64_t length)
{
    const uint64_t differs[] = {2 * PART, 7 * PART - 1};
    for (int i = 0; i < 2; i++)
        if (differs[i] >= offset && differs[i] - offset < length)
            return false;
    return offset + length <= OLD_SIZE;
}

static int old_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    int rc = pattern_read(NULL, offset, buf, len, err);
    for (uint64_t i = 0; i < len; i++)
        if (!has(NULL, offset + i, 1))
            ((char *)buf)[i] ^= 1;
    return rc;
}

static struct bh_object_info old;
static struct bh_reuse reuse;
static struct bh_transfer how;

static int assemble(const struct bh_cond *cond, uint64_t size)
{
    struct bh_source src = pattern_source(size);
    return bh_bucket_upload(b, "x", &src, NULL, cond, &how, NULL, NULL, ERR);
}

static int setup(void **state)
{
    if (dir_setup(state))
        return -1;
    struct bh_source src = {.size = OLD_SIZE, .read = old_read};
    must(bh_bucket_put(b, "old", &src, NULL, NULL, &old, NULL, ERR));
    spy = (struct spy){.base.ops = &spy_ops, .inner = b};
    b = &spy.base;
    reuse = (struct bh_reuse){.key = "old", .etag = old.etag, .has = has};
    how = (struct bh_transfer){.part_size = PART, .parallel = 4, .reuse = &reuse};
    return 0;
}

static int note_upload(void *arg, const char *key, const char *id, int64_t started_ms,
                       struct bh_error *err)
{
    ++*(int *)arg;
    return 0;
}

static void must_leave_no_upload(void)
{
    int n = 0;
    must(bh_bucket_mp_list(b, "", note_upload, &n, NULL, ERR));
    assert_int_equal(n, 0);
}

static void test_what_is_there_is_copied(void **state)
{
    const struct bh_cond absent = {.if_none_match = true};
    assert_true(bh_bucket_can_assemble(b, &absent));
    must(assemble(&absent, ALL));
    must_have_pattern(b, "x", ALL);
    assert_int_equal(spy.copies, 6); /* of 10: not 2, 6, 8 and 9 */
    assert_int_equal(reuse.copied, 6 * PART);
    assert_int_equal(spy.bytes, ALL - 6 * PART);
    assert_false(reuse.refused);
    must_leave_no_upload();
}

/* The usual case: the object itself is the source. */
static void test_over_itself(void **state)
{
    struct bh_cond unchanged = {.if_match = old.etag};
    struct bh_source src = pattern_source(ALL);
    must(bh_bucket_upload(b, "old", &src, NULL, &unchanged, &how, NULL, NULL, ERR));
    must_have_pattern(b, "old", ALL);
    assert_int_equal(spy.bytes, ALL - 6 * PART);
    must_fail(bh_bucket_upload(b, "old", &src, NULL, &unchanged, &how, NULL, NULL, ERR), ESTALE);
    must_have_pattern(b, "old", ALL);
    assert_true(reuse.refused);
    must_leave_no_upload();
}

static void test_in_one_put_nothing_is_copied(void **state)
{
    must(assemble(NULL, PART));
    must_have_pattern(b, "x", PART);
    assert_int_equal(spy.copies, 0);
    assert_int_equal(reuse.copied, 0);
}

static void test_a_store_that_cannot(void **state)
{
    const unsigned lacks[] = {BH_CAP_PART_COPY, BH_CAP_PART_COPY_IF_MATCH, BH_CAP_MP_COND};
    const struct bh_cond absent = {.if_none_match = true};
    for (int i = 0; i < 3; i++) {
        spy.lacking = lacks[i];
        spy.bytes = 0;
        assert_false(bh_bucket_can_assemble(b, &absent));
        assert_int_equal(bh_bucket_can_assemble(b, NULL), i == 2);
        must(assemble(&absent, ALL));
        must_have_pattern(b, "x", ALL);
        assert_int_equal(spy.copies, 0);
        assert_int_equal(reuse.copied, 0);
        assert_int_equal(spy.bytes, i == 2 ? 0 : ALL); /* without the condition: one put */
        must(bh_bucket_delete(spy.inner, "x", NULL, ERR));
    }
}

static void test_the_source_changes(void **state)
{
    must_put(b, "x", "before");
    spy.on_copy = "changed";
    must_fail(assemble(NULL, ALL), ESTALE);
    assert_true(reuse.refused);
    must_have(b, "x", "before");
    must_leave_no_upload();
    reuse.etag = "none";
    must_fail(assemble(NULL, ALL), ESTALE);
    must(bh_bucket_delete(spy.inner, "old", NULL, ERR));
    must_fail(assemble(NULL, ALL), EIO); /* ENOENT would be the object's */
    assert_true(reuse.refused);
    must_have(b, "x", "before");
    must_leave_no_upload();
}

static void test_a_copy_fails(void **state)
{
    for (unsigned n = 1; n <= 6; n++) {
        must_put(b, "x", "before");
        spy.copies = 0;
        spy.copy_fails = n;
        assert_int_equal(assemble(NULL, ALL), EIO);
        assert_non_null(strstr(test_error.text, "cannot copy this"));
        assert_true(reuse.refused);
        must_have(b, "x", "before");
        must_leave_no_upload();
    }
}

static int broken_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    return bh_fail(err, EXFULL, "the source has no more");
}

static void test_a_failure_that_is_no_refusal(void **state)
{
    struct bh_source src = {.size = ALL, .read = broken_read};
    must_fail(bh_bucket_upload(b, "x", &src, NULL, NULL, &how, NULL, NULL, ERR), EXFULL);
    assert_false(reuse.refused);
    must_lack(b, "x");
    must_leave_no_upload();
}

static void test_what_a_refusal_is(void **state)
{
    const int others[] = {EAGAIN, ETIMEDOUT, ECANCELED, ENOMEM, ENOSPC}; /* away, or not about it */
    atomic_bool cancel = false;
    const struct bh_call call = {.cancel = &cancel};
    assert_false(bh_reuse_was_refused(&reuse, EIO, NULL));
    reuse.refused = true;
    assert_false(bh_reuse_was_refused(&reuse, 0, NULL));
    assert_true(bh_reuse_was_refused(&reuse, EIO, NULL));
    assert_true(bh_reuse_was_refused(&reuse, ENOTSUP, &call));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(bh_reuse_was_refused(&reuse, others[i], &call));
    cancel = true;
    assert_false(bh_reuse_was_refused(&reuse, EIO, &call));
}

static void test_part_sizes(void **state)
{
    const struct {
        uint64_t size, most, part;
    } of[] = {{0, 16 * MIB, 5 * MIB},
              {5000 * MIB, 16 * MIB, 5 * MIB},
              {5001 * MIB, 16 * MIB, 6 * MIB}, /* some thousand, of whole MiB */
              {15001 * MIB, 16 * MIB, 16 * MIB},
              {100000 * MIB, 16 * MIB, 16 * MIB}, /* bh_bucket_upload raises it further */
              {100000 * MIB, 5 * MIB, 5 * MIB}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        assert_int_equal(bh_reuse_part_size(of[i].size, of[i].most), of[i].part);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, dir_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_there_is_copied),
        TEST(test_over_itself),
        TEST(test_in_one_put_nothing_is_copied),
        TEST(test_a_store_that_cannot),
        TEST(test_the_source_changes),
        TEST(test_a_copy_fails),
        TEST(test_a_failure_that_is_no_refusal),
        TEST(test_what_a_refusal_is),
        TEST(test_part_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
