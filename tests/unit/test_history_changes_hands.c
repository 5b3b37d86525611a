/* A branch that changes hands, and what its old writer still has on it. */
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

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_a_take_over_leaves_the_old_pin_alone),
        T(test_who_is_fenced_pins_anew),
        T(test_a_restore_of_what_was_dropped_meanwhile),
    };
    return cmocka_run_group_tests_name("history-changes-hands", tests, NULL, NULL);
}
