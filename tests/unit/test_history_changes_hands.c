/* A branch that changes hands, and what its old writer still has on it; what a mount does with a
 * head that it has never read. */
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

/* --- the pin of who is pushed out --- */

static void steal(void)
{
    other = start("other", "snapshot.steal=true");
    fill(other, 100);
    flush(other);
}

/* An older snapshot is put back, of which next to nothing is here, and not flushed. */
static void put_back(const char *snapshot)
{
    char id[BH_SNAPSHOT_ID_MAX];
    before_put(mine, "branches/main", NULL, EACCES);
    must_fail(bh_restore_call(mine, snapshot, id, NULL, ERR), EACCES);
    unhook();
    assert_true(is_pinned(mine));
}

static void test_a_take_over_leaves_the_old_pin_alone(void **state)
{
    struct bh_flush_result result;
    make_snapshots(mine, 3);
    put_back(ids[0]);
    steal();
    gc(other, true);
    must_be_whole(other);
    must_fail(bh_flush_call(mine, true, &result, NULL, ERR), ESTALE);
    assert_int_equal(number(mine, "SELECT sum(v) FROM t"), 0); /* fetched only now */
    assert_int_equal(pins(), 2); /* of what it uses, and of what it may have flushed last */
    must(bh_fork_call(mine, "saved", NULL, ERR));
    gc(other, true);
    must_be_whole(other);
    stop(&other);
    assert_int_not_equal(bh_stop(mine, ERR), 0);
    bh_destroy(mine);
    assert_int_equal(pins(), 2);
    mine = start("mine", NULL); /* saves what it had, and needs neither any more */
    assert_non_null(strstr(mine->recovered.text, "were saved as branch rescue-"));
    assert_int_equal(pins(), 0);
}

/* What has become of the pin meanwhile is not known. */
static void test_who_is_fenced_pins_anew(void **state)
{
    struct bh_flush_result result;
    make_snapshots(mine, 3);
    put_back(ids[0]);
    steal();
    unpin(mine);
    must_fail(bh_flush_call(mine, true, &result, NULL, ERR), ESTALE);
    assert_true(is_pinned(mine));
    gc(other, true);
    assert_int_equal(number(mine, "SELECT sum(v) FROM t"), 0);
    /* but once */
    unpin(mine);
    must_fail(bh_flush_call(mine, true, &result, NULL, ERR), ESTALE);
    assert_false(is_pinned(mine));
}

/* --- a restore whose flush finds another head --- */

static void test_a_restore_of_what_was_dropped_meanwhile(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    make_snapshots(mine, 3);
    slept_s += 3600; /* its lease is over */
    other = start("other", NULL);
    gc(other, true); /* the newest one stays */
    stop(&other);
    sql(mine, "PRAGMA user_version=7");
    must_fail(bh_restore_call(mine, ids[0], id, NULL, ERR), ENOENT);
    must_say("is not in the history of branch main");
    assert_int_equal(number(mine, "SELECT max(v) FROM t"), 2);
    assert_int_equal(number(mine, "PRAGMA user_version"), 7);
    assert_false(is_pinned(mine));
    must_be_whole(mine);
}

/* --- a head that was never read --- */

static void make_dev(void)
{
    other = start("other", "snapshot.branch=dev");
    fill(other, 5);
    flush(other);
    stop(&other);
}

/* The branch that it leaves is not in the bucket, and does not come there. */
static void test_a_switch_from_a_branch_that_is_not_there(void **state)
{
    make_dev();
    must(bh_switch_call(mine, "dev", NULL, ERR));
    assert_int_equal(number(mine, "SELECT max(v) FROM t"), 5);
    assert_false(exists("bucket/" PREFIX "branches/main"));
    other = start("third", NULL);
    fill(other, 8);
    flush(other);
    must_be_whole(mine);
}

static void test_a_switch_that_fails_knows_no_more_than_before(void **state)
{
    struct bh_history_status status;
    sqlite3 *db;
    make_dev();
    stop(&mine);
    mine = start("mine", "live.busy_timeout=100ms");
    must(bh_connect(mine, &db, ERR));
    must_do(db, "BEGIN; SELECT count(*) FROM sqlite_schema");
    assert_int_not_equal(bh_switch_call(mine, "dev", NULL, ERR), 0);
    must_do(db, "COMMIT");
    sqlite3_close(db);
    bh_history_status(mine->history, &status);
    assert_string_equal(status.branch, "main");
    assert_false(status.ready);
    other = start("other", "snapshot.branch=dev"); /* which is let go of */
}

static bool main_was_put;
static void note_put(void)
{
    main_was_put = true;
}

/* Who was pushed out of a branch leaves it without a word to it. */
static void test_a_switch_from_a_branch_that_was_taken(void **state)
{
    struct bh_history_status status;
    make_snapshots(mine, 1);
    must(bh_fork_call(mine, "dev", NULL, ERR));
    steal();
    slept_s += 600;
    must_fail(bh_history_renew(mine->history, NULL, ERR), ESTALE);
    main_was_put = false;
    before_put(mine, "branches/main", note_put, 0);
    must(bh_switch_call(mine, "dev", NULL, ERR));
    assert_false(main_was_put);
    unhook();
    fill(mine, 9);
    flush(mine);
    bh_history_status(mine->history, &status);
    assert_false(status.fenced);
    assert_true(status.have_lease);
    must_be_whole(mine);
}

/* --- who only reads --- */

static void test_a_reader_does_not_ask_for_the_plain_copy(void **state)
{
    make_snapshots(mine, 2);
    other = make("reader", "bucket.fault=head:eacces:key=*snap.db", true);
    must(bh_start(other, ERR));
    assert_int_equal(number(other, "SELECT max(v) FROM t"), 1);
}

/* --- a renaming that is refused --- */

static void test_a_renaming_that_is_refused_makes_nothing(void **state)
{
    make_snapshots(mine, 1);
    must(bh_fork_call(mine, "dev", NULL, ERR));
    before_put(mine, "branches/moved", NULL, EBUSY);
    must_fail(bh_rename_branch_call(mine, "dev", "moved", NULL, ERR), EBUSY);
    must_say("branches/moved is refused");
    assert_null(strstr(said, "cannot be relied on"));
    unhook();
    assert_true(has_branch(mine, "dev"));
    assert_false(has_branch(mine, "moved"));
    must(bh_rename_branch_call(mine, "dev", "moved", NULL, ERR));
    assert_false(has_branch(mine, "dev"));
    assert_true(has_branch(mine, "moved"));
    must_be_whole(mine);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_a_take_over_leaves_the_old_pin_alone),
        T(test_who_is_fenced_pins_anew),
        T(test_a_restore_of_what_was_dropped_meanwhile),
        T(test_a_switch_from_a_branch_that_is_not_there),
        T(test_a_switch_that_fails_knows_no_more_than_before),
        T(test_a_switch_from_a_branch_that_was_taken),
        T(test_a_reader_does_not_ask_for_the_plain_copy),
        T(test_a_renaming_that_is_refused_makes_nothing),
    };
    return cmocka_run_group_tests_name("history-changes-hands", tests, NULL, NULL);
}
