/* Two mounts of one bucket, one of which acts between another's look and its write; what gc is kept
 * from; a machine that slept. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "history_mounts.h"

static void test_a_fork_of_what_is_reclaimed_is_taken_back(void **state)
{
    make_snapshots(mine, 3);
    before_put(mine, "branches/work", steal_and_reclaim, 0);
    must_fail(bh_fork_call(mine, "work", NULL, ERR), ESTALE);
    must_say("branch work was not made: another mount has gone on with branch main");
    assert_null(hook);
    assert_false(has_branch(other, "work"));
    gc(other, true);
    must_be_whole(other);
    /* the name is free */
    must(bh_fork_call(other, "work", NULL, ERR));
    must_be_whole(other);
}

static void test_a_label_of_what_is_reclaimed_is_taken_back(void **state)
{
    BH_FREE char **names = NULL;
    size_t count;
    make_snapshots(mine, 3);
    before_put(mine, "labels/first", steal_and_reclaim, 0);
    must_fail(bh_label_call(mine, ids[0], "first", NULL, ERR), ESTALE);
    must_say("label first was not given: another mount has gone on with branch main");
    must(bh_history_labels(other->history, &names, &count, NULL, ERR));
    assert_int_equal(count, 0);
    gc(other, true);
    must_be_whole(other);
}

static void only_flush(void)
{
    other = start("other", "snapshot.steal=true");
    fill(other, 100);
    flush(other);
}

/* Somebody else goes on with the branch, but what was labelled is in its history. */
static void test_a_label_of_what_another_keeps_stays(void **state)
{
    make_snapshots(mine, 3);
    before_put(mine, "labels/first", only_flush, 0);
    must(bh_label_call(mine, ids[0], "first", NULL, ERR));
    gc(other, true);
    must_be_whole(other);
}

static void test_a_restore_of_what_is_reclaimed_changes_nothing(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    make_snapshots(mine, 3);
    before_put(mine, "pins/", steal_and_reclaim, 0);
    must_fail(bh_restore_call(mine, ids[0], id, NULL, ERR), ESTALE);
    must_say("nothing was restored: another mount");
    unhook();
    assert_int_equal(number(mine, "SELECT max(v) FROM t"), 2);
    assert_false(is_pinned(mine));
    gc(other, true);
}

static void remove_label(void)
{
    must(bh_history_unlabel(other->history, "old", NULL, ERR));
}

static void test_a_renamed_label_that_was_removed(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    make_snapshots(mine, 2);
    must(bh_label_call(mine, ids[0], "old", NULL, ERR));
    must(bh_fork_call(mine, "dev", NULL, ERR));
    other = start("other", "snapshot.branch=dev");
    before_put(mine, "labels/new", remove_label, 0);
    must_fail(bh_rename_label_call(mine, "old", "new", NULL, ERR), ENOENT);
    must_fail(bh_label_get(mine->bucket, PREFIX, "new", id, NULL, ERR), ENOENT);
}

/* --- EBUSY, with who and until when --- */

static void must_name_the_holder(void)
{
    char who[300] = "", process[40];
    gethostname(who, sizeof who - 1);
    snprintf(process, sizeof process, "(process %d)", (int)getpid());
    must_say(who);
    must_say(process);
    must_say("20"); /* until when */
    must_say("Z");
}

static void take_dev(void)
{
    other = start("other", "snapshot.branch=dev");
}

static void test_a_branch_that_another_writes(void **state)
{
    make_snapshots(mine, 1);
    must(bh_fork_call(mine, "dev", NULL, ERR));
    before_put(mine, "branches/dev", take_dev, 0);
    must_fail(bh_delete_branch_call(mine, "dev", NULL, ERR), EBUSY);
    must_say("branch dev is being written by");
    must_name_the_holder();
    unhook();
    must_fail(bh_delete_branch_call(mine, "dev", NULL, ERR), EBUSY);
    must_name_the_holder();
    must_fail(bh_rename_branch_call(mine, "dev", "moved", NULL, ERR), EBUSY);
    must_name_the_holder();
    stop(&other);
    before_put(mine, "branches/moved", take_dev, 0);
    must_fail(bh_rename_branch_call(mine, "dev", "moved", NULL, ERR), EBUSY);
    must_name_the_holder();
    assert_true(has_branch(mine, "dev"));
    assert_false(has_branch(mine, "moved"));
    must_be_whole(mine);
}

/* As gc leaves it in the moment before it deletes it. */
static void hold_tombstone(const char *name, int64_t ms)
{
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    must_fail(bh_head_get(mine->bucket, PREFIX, name, &head, etag, NULL, ERR), ENOENT);
    assert_true(head.deleted);
    bh_lease_take(&head, "00112233445566778899aabbccddeeff", bh_real_ms(), ms);
    head.sequence++;
    must(bh_head_put(mine->bucket, PREFIX, &head, etag, NULL, NULL, NULL, ERR));
}

static void test_a_tombstone_that_gc_holds(void **state)
{
    struct bh_flush_result result;
    make_snapshots(mine, 1);
    must(bh_fork_call(mine, "gone", NULL, ERR));
    must(bh_fork_call(mine, "dev", NULL, ERR));
    must(bh_delete_branch_call(mine, "gone", NULL, ERR));
    hold_tombstone("gone", 60000);
    must_fail(bh_fork_call(mine, "gone", NULL, ERR), EBUSY);
    must_say("the branch gone was deleted, and what is left of it is being removed by gc");
    must_name_the_holder();
    must_fail(bh_rename_branch_call(mine, "dev", "gone", NULL, ERR), EBUSY);
    must_name_the_holder();
    assert_true(has_branch(mine, "dev"));
    other = start("other", "snapshot.branch=gone"); /* a new one of that name */
    fill(other, 1);
    must_fail(bh_flush_call(other, true, &result, NULL, ERR), EBUSY);
    must_name_the_holder();
    slept_s += 61;
    must(bh_flush_call(other, true, &result, NULL, ERR));
    assert_true(has_branch(mine, "gone"));
}

/* --- who was pushed out --- */

static void test_changes_on_what_was_reclaimed_are_saved_whole(void **state)
{
    struct bh_flush_result result;
    make_snapshots(mine, 3);
    sql(mine, "INSERT INTO t VALUES(0, 7000, 'mine')");
    steal_and_reclaim();
    must_fail(bh_flush_call(mine, true, &result, NULL, ERR), ESTALE);
    must(bh_fork_call(mine, "saved", NULL, ERR));
    gc(other, true);
    must_be_whole(other);
    must(bh_switch_call(other, "saved", NULL, ERR));
    assert_int_equal(number(other, "SELECT max(v) FROM t"), 7000);
    assert_int_equal(number(other, "SELECT count(*) FROM t"), 201);
}

static void test_a_fenced_writer_keeps_its_base(void **state)
{
    struct bh_flush_result result;
    make_snapshots(mine, 3);
    stop(&mine);
    shell("rm -r mine");
    mine = start("mine", NULL); /* all but a page of it is in the bucket only */
    sql(mine, "PRAGMA user_version=7");
    only_flush();
    unpin(mine);
    must_fail(bh_flush_call(mine, true, &result, NULL, ERR), ESTALE);
    assert_true(is_pinned(mine));
    gc(other, true);
    must_be_whole(other);
    assert_int_equal(number(mine, "SELECT sum(v) FROM t"), 400);
    assert_int_not_equal(bh_stop(mine, ERR), 0);
    bh_destroy(mine);
    assert_int_equal(pins(), 1);
    stop(&other);
    mine = start("mine", NULL); /* saves what it had, and needs no pin any more */
    assert_non_null(strstr(mine->recovered.text, "were saved as branch rescue-"));
    assert_int_equal(pins(), 0);
    gc(mine, true);
    must_be_whole(mine);
}

static void test_changes_that_are_left_behind_keep_their_base(void **state)
{
    make_snapshots(mine, 2);
    stop(&mine);
    shell("rm -r mine");
    mine = start("mine", NULL);
    sql(mine, "PRAGMA user_version=7");
    before_put(mine, "packs/", NULL, EACCES);
    assert_int_not_equal(bh_stop(mine, ERR), 0);
    hooked_bucket = NULL;
    unhook();
    bh_destroy(mine);
    assert_int_equal(pins(), 1);
    other = start("other", NULL); /* the branch was let go of */
    fill(other, 100);
    flush(other);
    gc(other, true);
    must_be_whole(other);
    stop(&other);
    mine = start("mine", NULL);
    assert_non_null(strstr(mine->recovered.text, "were saved as branch rescue-"));
    assert_int_equal(pins(), 0);
    must_be_whole(mine);
}

/* --- a restore under way --- */

static size_t pins_seen;
static void count_pins(void)
{
    pins_seen = pins();
}

static void test_a_restore_pins_until_it_is_flushed(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    make_snapshots(mine, 3);
    before_put(mine, "branches/main", count_pins, 0);
    must(bh_restore_call(mine, ids[0], id, NULL, ERR));
    assert_int_equal(pins_seen, 1);
    assert_int_equal(pins(), 0);
    unhook();
    before_put(mine, "branches/main", NULL, EACCES);
    must_fail(bh_restore_call(mine, ids[1], id, NULL, ERR), EACCES);
    assert_int_equal(pins(), 1); /* it goes on with the next flush */
    unhook();
    flush(mine);
    must(bh_history_renew(mine->history, NULL, ERR));
    assert_int_equal(pins(), 0);
    assert_int_equal(number(mine, "SELECT max(v) FROM t"), 1);
    must_be_whole(mine);
}

/* --- who only reads --- */

static void test_a_reader_keeps_what_it_shows(void **state)
{
    make_snapshots(mine, 3);
    other = make("reader", NULL, true);
    must(bh_start(other, ERR));
    assert_int_equal(pins(), 1);
    fill(mine, 100);
    flush(mine);
    gc(mine, true);
    assert_int_equal(number(other, "SELECT sum(v) FROM t"), 400); /* fetched only now */
    /* it is renewed in time */
    slept_s += 20 * 3600;
    must(bh_history_renew(other->history, NULL, ERR));
    slept_s += 20 * 3600;
    gc(mine, true);
    assert_int_equal(pins(), 1);
    stop(&other);
    assert_int_equal(pins(), 0);
    gc(mine, true);
    must_be_whole(mine);
}

static void test_a_reader_that_may_not_write(void **state)
{
    make_snapshots(mine, 2);
    other = make("reader", NULL, true);
    must(bh_start(other, ERR));
    stop(&other);
    other = make("reader", NULL, true);
    shell("rm -rf bucket/" PREFIX "pins; touch bucket/" PREFIX
          "pins"); /* nothing can be put there */
    must(bh_start(other, ERR));
    assert_int_equal(number(other, "SELECT sum(v) FROM t"), 200);
    must(bh_history_renew(other->history, NULL, ERR));
    stop(&other);
    shell("rm bucket/" PREFIX "pins");
}

/* --- a machine that slept --- */

static size_t objects(void)
{
    const char *list = listing(b, "bucket/" PREFIX, NULL, NULL, 0);
    size_t n = 0;
    for (; *list; list++)
        n += *list == '\n';
    return n;
}

static void test_who_slept_does_not_believe_in_its_lease(void **state)
{
    struct bh_history_status status;
    struct bh_flush_result result;
    make_snapshots(mine, 1);
    bh_history_status(mine->history, &status);
    assert_true(status.lease_left_ms > 0);
    slept_s += 3600;
    bh_history_status(mine->history, &status);
    assert_true(status.lease_left_ms < 0);
    other = start("other", NULL); /* nobody has it any more */
    size_t before = objects();
    fill(mine, 5);
    must_fail(bh_flush_call(mine, true, &result, NULL, ERR), ESTALE);
    must_say("branch main was taken over by another writer");
    assert_true(objects() <= before + 1); /* nothing was uploaded for it but a pin */
    must(bh_fork_call(mine, "saved", NULL, ERR));
    must_be_whole(other);
}

/* Nobody has taken it: it goes on. */
static void test_who_slept_alone_goes_on(void **state)
{
    struct bh_history_status status;
    make_snapshots(mine, 1);
    slept_s += 3600;
    fill(mine, 5);
    flush(mine);
    bh_history_status(mine->history, &status);
    assert_true(status.lease_left_ms > 0);
    must_be_whole(mine);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_a_fork_of_what_is_reclaimed_is_taken_back),
        T(test_a_label_of_what_is_reclaimed_is_taken_back),
        T(test_a_label_of_what_another_keeps_stays),
        T(test_a_restore_of_what_is_reclaimed_changes_nothing),
        T(test_a_renamed_label_that_was_removed),
        T(test_a_branch_that_another_writes),
        T(test_a_tombstone_that_gc_holds),
        T(test_changes_on_what_was_reclaimed_are_saved_whole),
        T(test_a_fenced_writer_keeps_its_base),
        T(test_changes_that_are_left_behind_keep_their_base),
        T(test_a_restore_pins_until_it_is_flushed),
        T(test_a_reader_keeps_what_it_shows),
        T(test_a_reader_that_may_not_write),
        T(test_who_slept_does_not_believe_in_its_lease),
        T(test_who_slept_alone_goes_on),
    };
    return cmocka_run_group_tests_name("history-peers", tests, NULL, NULL);
}
