/* snapshot.check: a flush whose list of changes has forgotten something is not made. */
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
/* after it */
#include "live/store_private.h"

/* Everything but page 1 counts as unchanged, as if writers had not marked it. */
static void forget_changes(struct bh *bh)
{
    struct bh_store *s = bh->live->store;
    BH_LOCK_SCOPE(&s->mutex);
    must(bh_map_set(&s->map, 0, 1, BH_BLOCK_DIRTY));
    must(bh_map_set(&s->map, 1, s->map.used - 1, BH_BLOCK_CLEAN));
}

static void test_a_list_that_forgets_is_found_out(void **state)
{
    struct bh_flush_result result;
    char before[BH_SNAPSHOT_ID_MAX];
    other = start("other", "snapshot.check=true");
    fill(other, 1);
    flush(other);
    memcpy(before, other->history->head.newest.id, sizeof before);
    sql(other, "UPDATE t SET v = 2; PRAGMA wal_checkpoint(TRUNCATE)");
    forget_changes(other);
    must_fail(bh_flush_call(other, true, &result, NULL, ERR), EIO);
    must_say("nothing was flushed, because the snapshot would not have been what live.db holds: "
             "block ");
    must_say("(a bug in bhfs; your changes are safe in ");
    assert_string_equal(other->history->head.newest.id, before);
    must(bh_store_mark_all(other->live->store, BH_BLOCK_DIRTY));
    flush(other);
    assert_string_not_equal(other->history->head.newest.id, before);
    must_be_whole(other);
}

/* What a restore brings has other counters in page 1 than its snapshot. */
static void test_what_was_restored_is_as_it_was_flushed(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    other = start("other", "snapshot.check=true");
    make_snapshots(other, 3);
    must(bh_restore_call(other, ids[0], id, NULL, ERR));
    flush(other);
    sql(other, "UPDATE t SET v = 9 WHERE i = 100");
    flush(other);
    sql(other, "DELETE FROM t WHERE i > 20; VACUUM");
    flush(other);
    must_be_whole(other);
}

static int check_setup(void **state)
{
    int rc = setup(state);
    if (rc == 0)
        stop(&mine);
    return rc;
}

#define TEST_CHECK(name) cmocka_unit_test_setup_teardown(name, check_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CHECK(test_a_list_that_forgets_is_found_out),
        TEST_CHECK(test_what_was_restored_is_as_it_was_flushed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
