/* gc against a model, in a bucket whose clock the test sets: what is needed stays, what is not goes
 * exactly when the grace is over. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gc_model.h"
#include "util/cleanup.h"

static struct branch *any_branch(void)
{
    for (;;) {
        struct branch *br = &branches[rnd(BRANCHES)];
        if (br->exists && !br->deleted)
            return br;
    }
}

static void any_operation(unsigned round)
{
    struct branch *br = any_branch();
    size_t n = rnd(br->count);
    char name[32];
    switch (rnd(14)) {
    case 0:
        snprintf(name, sizeof name, "b%u", round);
        fork_of(br, name);
        break;
    case 1:
        if (br != &branches[0])
            delete_branch(br);
        break;
    case 2:
        if (label_count < LABELS && !br->dropped[n])
            add_label(br->member[n]);
        break;
    case 3:
        if (label_count)
            remove_label(rnd(label_count));
        break;
    case 4:
        orphan(br);
        break;
    case 5: /* a restore */
        if (!br->dropped[n])
            flush_like(br, &snapshots[br->member[n]], rnd(2) * 5);
        break;
    case 6:
    case 7:
    case 8:
        if (n + 1 < br->count && !br->dropped[n])
            set_dropped(br, n, true);
        break;
    default:
        flush(br, 1 + rnd(rnd(6) ? 10 : 300));
    }
    now_ms += (int64_t)rnd(GRACE / 6);
}

static void random_histories(void **state)
{
    for (int life = 0; life < 3; life++) {
        flush(make_branch("main"), 300);
        for (unsigned round = 0; round < 110; round++) {
            any_operation(round);
            if (rnd(4) == 0)
                gc_exactly();
        }
        for (int i = 0; i < 2; i++) {
            now_ms += GRACE;
            gc_exactly();
        }
        /* nothing is left of what is not needed */
        now_ms += GRACE;
        gc_exactly();
        now_ms += GRACE;
        gc_exactly();
        GC_SET need = {0};
        needed(&need);
        find_things();
        assert_int_equal(need.count, thing_count);
        uint64_t keep = seed;
        gc_teardown(state);
        gc_setup(state);
        seed = keep;
    }
}

static void what_is_due_goes_exactly_after_the_grace(void **state)
{
    dropped_two(4);
    now_ms += GRACE - 1;
    gc_exactly(); /* all of it is young */
    report_has("condemned now: 0 packs, 0 records");
    now_ms += 1;
    gc_exactly();
    report_has("2 records");
    now_ms += GRACE - 1;
    gc_exactly();
    report_has("deleted: 0 objects");
    size_t before = thing_count;
    now_ms += 1;
    gc_exactly();
    assert_true(before - thing_count >= 2);
    gc_exactly();
    report_has("due: 0 packs, 0 records");
}

static void what_is_in_use_again_is_saved(void **state)
{
    struct branch *br = dropped_two(4);
    now_ms += GRACE;
    gc_exactly();
    now_ms += GRACE / 2;
    set_dropped(br, 1, false); /* as a flush would that goes on from there */
    now_ms += GRACE;
    gc_exactly();
    report_has("in use again: ");
    must_read(&snapshots[1]);
    set_dropped(br, 1, true); /* the grace begins anew */
    gc_exactly();
    now_ms += GRACE - 1;
    gc_exactly();
    now_ms += 1;
    gc_exactly();
}

static struct branch *hook_branch;
static void restore_beside(void)
{
    set_dropped(hook_branch, 1, false);
}
static void rename_beside(void)
{
    fork_of(hook_branch, "a");
    hook_branch->exists = false;
    must(bh_bucket_delete(b, PREFIX "branches/m", NULL, ERR));
}
static void label_beside(void)
{
    must(bh_label_put(bucket, PREFIX, "a", snapshots[0].e.id, NULL, ERR));
    must(bh_label_delete(bucket, PREFIX, "m", NULL, ERR));
}

/* From hand to hand while gc reads: it sees the one or the other. */
static void roots_that_move_while_they_are_read(void **state)
{
    hook_branch = make_branch("m");
    flush(hook_branch, 300);
    flush(hook_branch, 300);
    flush(hook_branch, 300);
    set_dropped(hook_branch, 0, true);
    set_dropped(hook_branch, 1, true);
    must(bh_label_put(bucket, PREFIX, "m", snapshots[0].e.id, NULL, ERR));
    now_ms += GRACE;
    gc();
    now_ms += GRACE;
    hook_op = "get";
    hook_key = "branches/m";
    hook = restore_beside; /* before the head is read, after it was listed */
    gc();
    assert_null(hook);
    must_read(&snapshots[1]);
    set_dropped(hook_branch, 1, true);
    now_ms += 2 * GRACE;
    hook_op = "list";
    hook_key = "labels/"; /* branches were listed */
    hook = rename_beside;
    gc();
    assert_null(hook);
    must_read(&snapshots[2]);
    hook_key = "pins/"; /* labels were listed */
    hook = label_beside;
    now_ms += 2 * GRACE;
    gc();
    assert_null(hook);
    fresh_trees(BIG_CACHE);
    must_read(&snapshots[0]);
    must_read(&snapshots[2]);
}

static void a_dry_run_writes_nothing(void **state)
{
    struct branch *br = dropped_two(5);
    char ids[2][BH_SNAPSHOT_ID_MAX];
    memcpy(ids[0], snapshots[2].e.id, sizeof ids[0]);
    memcpy(ids[1], snapshots[3].e.id, sizeof ids[1]);
    struct bh_gc_plan plan = {.branch = "main", .snapshots = 3, .dropped = ids, .count = 2};
    now_ms += GRACE;
    shell("find . -type f | sort | xargs sha256sum >../bhfs-gc-before");
    must(try_gc(true, NULL));
    report_has("condemned now:");
    report_has(", 2 records");
    must(try_gc(true, &plan));
    report_has(", 4 records");
    report_has("retention: would drop 2 of 3 snapshots of branch main");
    shell("find . -type f | sort | xargs sha256sum >../bhfs-gc-after");
    shell("cmp ../bhfs-gc-before ../bhfs-gc-after; x=$?; rm ../bhfs-gc-before ../bhfs-gc-after; "
          "exit $x");
    gc_exactly();
    now_ms += GRACE;
    must(try_gc(true, NULL));
    report_has("to be deleted:");
    report_has("deleted: 0 objects");
    must_read(&snapshots[newest(br)]);
}

/* --- roots of the other kinds --- */

static void labels_outlive_their_branch(void **state)
{
    struct branch *main = make_branch("main"), *side;
    flush(main, BLOCKS);
    side = fork_of(main, "side");
    size_t kept = flush(side, BLOCKS), lost = flush(side, BLOCKS);
    add_label(kept);
    delete_branch(side);
    gc_exactly();
    assert_true(side->exists); /* the tombstone keeps it for the grace */
    now_ms += GRACE - 1;
    gc_exactly();
    must_read(&snapshots[lost]);
    for (int i = 0; i < 3; i++) {
        now_ms += GRACE;
        gc_exactly();
    }
    assert_false(side->exists);
    must_read(&snapshots[kept]);
    remove_label(0);
    for (int i = 0; i < 2; i++) {
        now_ms += GRACE;
        gc_exactly();
    }
    must_not_read(&snapshots[kept]);
}

static struct branch *again;
static void take_the_name_anew(void)
{
    again->deleted = again->head.deleted = false;
    put_head(again);
}

static void a_name_that_is_taken_anew_meanwhile(void **state)
{
    struct branch *main = make_branch("main");
    flush(main, BLOCKS);
    again = fork_of(main, "side");
    size_t s = flush(again, BLOCKS);
    delete_branch(again);
    now_ms += GRACE;
    hook_op = "put";
    hook_key = "branches/side"; /* gc is about to take the tombstone */
    hook = take_the_name_anew;
    gc();
    assert_null(hook);
    report_has("branches removed: 0");
    must_read(&snapshots[s]);
    must_be_whole();
}

static void pins(void **state)
{
    struct branch *br = make_branch("main");
    flush(br, BLOCKS);
    flush(br, BLOCKS);
    struct bh_head pin = br->head;
    pin.index = (struct bh_root){0};
    memcpy(pin.lease.writer, "0123456789abcdef0123456789abcdef", 33);
    pin.lease.expires_ms = now_ms + 10 * GRACE;
    must(bh_pin_put(bucket, PREFIX, pin.lease.writer, &pin, NULL, ERR));
    flush(br, BLOCKS);
    set_dropped(br, 1, true);
    set_dropped(br, 0, true);
    for (int i = 0; i < 10; i++) {
        gc();
        report_has("1 pins");
        fresh_trees(BIG_CACHE);
        must_read(&snapshots[1]);
        now_ms += GRACE;
    }
    gc(); /* it is over: condemned; the pin itself may still be renewed */
    report_has("pins removed: 0");
    pin.lease.expires_ms = now_ms + GRACE + 1;
    must(bh_pin_put(bucket, PREFIX, pin.lease.writer, &pin, NULL, ERR));
    now_ms += GRACE;
    gc();
    report_has("in use again");
    now_ms += GRACE + 1;
    gc();
    report_has("pins removed: 1");
    now_ms += GRACE;
    gc();
    report_has("0 pins");
    must_not_read(&snapshots[1]);
    must(bh_pin_put(bucket, PREFIX, "p", &br->head, NULL, ERR));
    must(bh_pin_delete(bucket, PREFIX, "p", NULL, ERR));
    must(bh_pin_delete(bucket, PREFIX, "p", NULL, ERR));
    must_fail(bh_pin_put(bucket, PREFIX, "../p", &br->head, NULL, ERR), EINVAL);
}

static void uploads_left_behind(void **state)
{
    char old[BH_UPLOAD_ID_MAX], other[BH_UPLOAD_ID_MAX], young[BH_UPLOAD_ID_MAX];
    flush(make_branch("main"), 300);
    must(bh_bucket_mp_begin(bucket, "k", NULL, old, NULL, ERR));
    must(bh_bucket_mp_begin(bucket, "k2", NULL, other, NULL, ERR));
    now_ms += GRACE;
    must(bh_bucket_mp_begin(bucket, "k.branch.x", NULL, young, NULL, ERR));
    gc();
    report_has("uploads aborted: 1");
    must_fail(bh_bucket_mp_abort(b, "k", old, NULL, ERR), ENOENT);
    now_ms += GRACE;
    must(try_gc(true, NULL));
    report_has("uploads aborted: 1");
    gc();
    must_fail(bh_bucket_mp_abort(b, "k.branch.x", young, NULL, ERR), ENOENT);
    must(bh_bucket_mp_abort(b, "k2", other, NULL, ERR));
}

static void names_of_keys(void **state)
{
    struct bh_index_entry e = {0};
    char name[GC_NAME_MAX], want[64];
    for (int i = 0; i < 1000; i++) {
        new_id(&e);
        struct gc_key key = gc_record_key(e.id);
        gc_key_name(&key, name);
        snprintf(want, sizeof want, "snapshots/%s", e.id);
        assert_string_equal(name, want);
    }
    struct gc_key key = gc_record_key("00000000T000000.000Z-ffffffff");
    gc_key_name(&key, name);
    assert_string_equal(name, "snapshots/00000000T000000.000Z-ffffffff");
    key = gc_pack_key(0xfedcba9876543210);
    gc_key_name(&key, name);
    assert_string_equal(name, "packs/fedcba9876543210");
}

/* The cost of a run is that of the changes, not of snapshots times size. */
static void shared_trees_are_read_once(void **state)
{
    struct branch *br = make_branch("main");
    flush(br, BLOCKS);
    for (int i = 0; i < 60; i++)
        flush(br, 2);
    struct bh_bucket_stats before, after;
    gc();
    bh_bucket_stats(b, &before);
    gc();
    bh_bucket_stats(b, &after);
    /* a root and at most three nodes below it a snapshot, together; the index; heads */
    assert_true(after.requests[BH_OP_GET] - before.requests[BH_OP_GET] < 61 * 3 + 20);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, gc_setup, gc_teardown)
    const struct CMUnitTest tests[] = {
        TEST(names_of_keys),
        TEST(what_is_due_goes_exactly_after_the_grace),
        TEST(what_is_in_use_again_is_saved),
        TEST(roots_that_move_while_they_are_read),
        TEST(a_dry_run_writes_nothing),
        TEST(labels_outlive_their_branch),
        TEST(a_name_that_is_taken_anew_meanwhile),
        TEST(pins),
        TEST(uploads_left_behind),
        TEST(shared_trees_are_read_once),
        TEST(random_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
