/* gc of blobs beside writers, beside another gc, and with crashes at any request: nothing that is
 * named, or is about to be, goes. */
#include <errno.h>

#include "gc_blobs_fixture.h"

/* --- beside writers --- */

static struct bh_gc_guard *guard;

static int64_t guard_wait(unsigned n, bool *listed)
{
    uint8_t hash[BH_SHA256_LEN];
    int64_t wait;
    hash_of(n, hash);
    must(bh_gc_guard_look(&guard, bucket, PREFIX, NULL, ERR));
    *listed = bh_gc_guard_has(guard, hash, now_ms, &wait);
    return wait;
}

static int64_t seen_wait;
static bool seen_listed;
static void write_again(void)
{
    seen_wait = guard_wait(1, &seen_listed);
    now_ms += 1000;
    upload(1);
}

/* Between the publication and the deletion: gc sees the new time, the writer that it was doomed. */
static void a_writer_in_between_is_seen_by_one_or_the_other(void **state)
{
    snap(begin_main());
    upload(1);
    upload(2);
    now_ms += GRACE;
    run_gc();
    bool listed;
    assert_int_equal(guard_wait(1, &listed), 0);
    assert_true(listed);
    now_ms += GRACE;
    hook = write_again;
    hook_op = "list";
    hook_key = FILES;
    run_gc();
    assert_null(hook);
    assert_true(seen_listed);
    assert_in_range(seen_wait, 1, BH_GC_DOOM_MS);
    assert_true(has(1));
    assert_false(has(2));
    report_has("blobs deleted: 1, ");
    /* Nothing is about to be deleted any more; what is gone is known for a grace. */
    assert_int_equal(guard_wait(2, &listed), 0);
    assert_true(listed);
    now_ms += GRACE / 2;
    upload(3);
    run_gc();
    assert_int_equal(guard_wait(2, &listed), 0);
    assert_true(listed);
    guard_wait(1, &listed);
    assert_false(listed); /* it is young again */
    now_ms += GRACE;
    run_gc();
    guard_wait(2, &listed);
    assert_false(listed);
    bh_gc_guard_free(guard);
    guard = NULL;
}

static void other_gc(void)
{
    struct bh_strbuf mine = report;
    report = (struct bh_strbuf){0};
    run_gc();
    bh_strbuf_free(&report);
    report = mine;
}

static void of_two_at_once_one_deletes(void **state)
{
    snap(begin_main());
    upload(1);
    upload(2);
    now_ms += GRACE;
    run_gc();
    now_ms += GRACE;
    hook = other_gc;
    hook_op = "put";
    hook_key = "gc-blobs";
    must_fail(try_blobs(false), EBUSY);
    assert_false(has(1) || has(2));
}

static int64_t doomed_wait;
static bool doomed_listed;

/* A gc of another mount, whose live database names the blob, after the first one has looked for the
 * last time. */
static void other_gc_names_it(void)
{
    live_blob = 1;
    other_gc();
    live_blob = 0;
    doomed_wait = guard_wait(1, &doomed_listed);
    bh_gc_guard_free(guard);
    guard = NULL;
}

/* What one gc is deleting another one does not take off the list, or who names it next would not
 * hear of that. */
static void what_is_being_deleted_stays_listed(void **state)
{
    snap(begin_main());
    upload(1);
    now_ms += GRACE;
    run_gc();
    now_ms += GRACE;
    doomed_listed = false;
    hook = other_gc_names_it;
    hook_op = "delete";
    hook_key = key_of_blob(1);
    (void)try_blobs(false); /* it may meet the other one's list at its end */
    assert_null(hook);
    assert_true(doomed_listed);
    assert_in_range(doomed_wait, 1, BH_GC_DOOM_MS);
}

/* --- crashes --- */

static void a_crash_anywhere_is_harmless(void **state)
{
    struct branch *br = begin_main();
    for (unsigned n = 0; n < 6; n++)
        upload(n);
    name_it(0, "zero");
    add_row(1);
    snap(br);
    now_ms += GRACE;
    run_gc();
    for (int n = 0;; n++) {
        now_ms += GRACE;
        upload(4); /* young again and again */
        last_is_done = n % 2;
        atomic_store(&requests_left, n);
        int rc = try_blobs(false);
        atomic_store(&requests_left, INT32_MAX);
        assert_true(has(0) && has(1) && has(4));
        if (rc == 0)
            break;
        assert_true(n < 500);
        report_has("wrong: ");
    }
    now_ms += GRACE / 2;
    run_gc();
    ONLY(6, 0, 1, 4);
}

static void a_damaged_list_begins_anew(void **state)
{
    snap(begin_main());
    upload(1);
    now_ms += GRACE;
    run_gc();
    now_ms += GRACE;
    put_bytes(PREFIX "gc-blobs", "bhfs: condemned blobs\nnonsense\n", 31);
    run_gc();
    report_has("the list was damaged");
    assert_true(has(1));
    now_ms += GRACE;
    run_gc();
    assert_false(has(1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_writer_in_between_is_seen_by_one_or_the_other),
        TEST(of_two_at_once_one_deletes),
        TEST(what_is_being_deleted_stays_listed),
        TEST(a_crash_anywhere_is_harmless),
        TEST(a_damaged_list_begins_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
