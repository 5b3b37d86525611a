/* What bh_live_open finds after a crash: hot journals, super-journals, clients without a journal.
 */
#include "live_db.h"

static int64_t sum_of_v(void)
{
    sqlite3 *c = connect_live();
    int64_t n = number(c, "SELECT sum(v) FROM t");
    sqlite3_close(c);
    return n;
}

static void test_a_hot_journal_is_rolled_back(void **state)
{
    leave_hot_journal(NULL);
    open_live(NULL);
    assert_false(is_there("state/live.db-journal")); /* by the opening itself */
    assert_int_equal(sum_of_v(), 50);
    assert_true(bh_store_is_dirty(live->store));
}

static void test_a_cold_journal_is_left_alone(void **state)
{
    leave_hot_journal(NULL);
    int fd = open(at("state/live.db-journal"), O_WRONLY | O_CLOEXEC);
    must(bh_pwrite_full(fd, (unsigned char[28]){0}, 28, 0)); /* as PERSIST ends a transaction */
    close(fd);
    open_live(NULL);
    assert_int_equal(sum_of_v(), 100);
}

/* --- super-journals --- */

static void test_a_super_journal_that_is_gone_means_committed(void **state)
{
    char super[200];
    snprintf(super, sizeof super, "%s/other.db-mj0123459AB", scratch); /* its directory is there */
    leave_hot_journal(super);
    open_live(NULL);
    assert_int_equal(sum_of_v(), 100);
    assert_false(is_there("state/live.db-journal"));
}

static void test_a_super_journal_that_exists_means_rolled_back(void **state)
{
    char super[200];
    snprintf(super, sizeof super, "%s/other.db-mj0123459AB", scratch);
    put_file("other.db-mj0123459AB", "/somewhere/else.db-journal", 27);
    leave_hot_journal(super);
    open_live(NULL);
    assert_int_equal(sum_of_v(), 50);
}

static void test_a_super_journal_in_the_tree_by_its_mount_point(void **state)
{
    leave_hot_journal("/mnt/bhfs test/live.db-mj0123459AB");
    put_file("state/live.db-mj0123459AB", "/mnt/bhfs test/live.db-journal", 31);
    open_live("/mnt/bhfs test");
    assert_int_equal(sum_of_v(), 50);
}

static void test_a_super_journal_gone_from_the_tree(void **state)
{
    leave_hot_journal("/mnt/bhfs test/live.db-mj0123459AB");
    open_live("/mnt/bhfs test");
    assert_int_equal(sum_of_v(), 100);
}

/* The journal names the place of the mount in which it was made. */
static void test_a_super_journal_by_the_mount_point_of_before(void **state)
{
    open_live("/mnt/old");
    close_live();
    leave_hot_journal("/mnt/old/live.db-mj0123459AB");
    put_file("state/live.db-mj0123459AB", "/mnt/old/live.db-journal", 25);
    open_live("/mnt/new");
    assert_int_equal(sum_of_v(), 50);
}

static const char *const nowhere = "/no/such/directory/other.db-mj0123459AB";

static void open_unresolvable(void)
{
    leave_hot_journal(nowhere);
    open_live(NULL);
}

static void test_an_unresolvable_one_leaves_journal_and_content(void **state)
{
    size_t len;
    open_unresolvable();
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t"), -1);
    sqlite3_close(c);
    close_live();
    unsigned char *journal = get_file("crash.journal", &len);
    must_hold("state/live.db-journal", journal, len);
    free(journal);
    unsigned char *db = get_file("crash.db", &len);
    must_hold("state/db.1", db, len);
    free(db);
}

static void test_an_unresolvable_one_refuses_sql_and_says_which(void **state)
{
    open_unresolvable();
    assert_int_not_equal(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE x(a)"), 0);
    must_say(nowhere);
    assert_int_not_equal(on_sql_thread(BH_SQL_READ, "SELECT 1"), 0);
    must_say(nowhere);
}

static void test_an_unresolvable_one_refuses_flushes_and_says_which(void **state)
{
    struct bh_frozen *z = NULL;
    open_unresolvable();
    assert_int_not_equal(bh_live_freeze(live, false, &z, ERR), 0);
    assert_null(z);
    must_say(nowhere);
}

static void test_clients_are_let_in_to_recover(void **state)
{
    open_unresolvable();
    on_sql_thread(BH_SQL_READ, "SELECT 1");
    struct bh_lock_request r = {.set = &bh_store_db(live->store)->locks,
                                .owner = {.id = 1},
                                .type = BH_LOCK_READ,
                                .start = BH_SHARED_FIRST,
                                .end = BH_SHARED_FIRST};
    must(bh_locks_request(bh_store_locks(live->store), &r)); /* else it hangs at the gate */
    bh_locks_drop_owner(bh_store_locks(live->store), r.set, r.owner);
}

static int get_number(sqlite3 *c, void *arg, struct bh_error *err)
{
    (void)err;
    *(int64_t *)arg = number(c, "PRAGMA synchronous");
    return 0;
}

static void test_the_daemon_is_set_up_once_a_client_has_recovered(void **state)
{
    int64_t synchronous;
    open_unresolvable();
    must(bh_store_unlink(live->store, BH_JOURNAL_NAME)); /* what is left of a client's recovery */
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE x(a)"));
    must(bh_sql_run(live->sql, BH_SQL_READ, get_number, &synchronous, ERR));
    assert_int_equal(synchronous, 3); /* EXTRA, as for any other start */
}

/* A reason is for the failure that it explains, not for the next one. */
static void test_the_reason_is_not_given_for_other_errors(void **state)
{
    open_unresolvable();
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t"),
                     -1); /* another connection met the journal */
    sqlite3_close(c);
    must(bh_store_unlink(live->store, BH_JOURNAL_NAME));
    must(on_sql_thread(BH_SQL_ALONE, "PRAGMA foreign_keys=ON"));
    must(on_sql_thread(BH_SQL_WRITE,
                       "CREATE TABLE p(a PRIMARY KEY); "
                       "CREATE TABLE f(a REFERENCES p DEFERRABLE INITIALLY DEFERRED)"));
    assert_int_not_equal(on_sql_thread(BH_SQL_WRITE, "INSERT INTO f VALUES(1)"),
                         0); /* the commit fails */
    must_say("FOREIGN KEY");
}

/* --- clients without a journal --- */

static struct bh_owner dying = {.id = 42};

static struct bh_lock_request exclusive_of(struct bh_owner o)
{
    return (struct bh_lock_request){.set = &bh_store_db(live->store)->locks,
                                    .owner = o,
                                    .handle = 7,
                                    .pid = getpid(),
                                    .type = BH_LOCK_WRITE,
                                    .start = BH_PENDING_BYTE,
                                    .end = BH_SHARED_FIRST + BH_SHARED_SIZE - 1};
}

/* A client with journal_mode=MEMORY writes half a transaction. */
static void write_half(void)
{
    sqlite3 *c = connect_live();
    must_sql(c, "CREATE TABLE t(n INTEGER PRIMARY KEY, fill BLOB); WITH RECURSIVE i(n) AS (SELECT "
                "1 UNION ALL SELECT "
                "n+1 FROM i WHERE n<50) INSERT INTO t SELECT n, zeroblob(500) FROM i");
    sqlite3_close(c);
    char junk[5000];
    memset(junk, 'x', sizeof junk);
    struct bh_lock_request r = exclusive_of(dying);
    must(bh_locks_request(bh_store_locks(live->store), &r));
    must(bh_file_write(bh_store_db(live->store), BH_DOOR_CLIENT, junk, sizeof junk, 0));
    must(bh_file_write(bh_store_db(live->store), BH_DOOR_CLIENT, junk, sizeof junk, 20000));
}

static void must_be_as_before(void)
{
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 50);
    must_be_whole(c);
    sqlite3_close(c);
}

static void test_a_dead_clients_half_is_undone(void **state)
{
    open_live(NULL);
    write_half();
    assert_true(bh_live_owner_died(live, dying));
    must_be_as_before(); /* the connection waits for the daemon's lock to go */
    assert_int_equal(
        bh_locks_summary(bh_store_locks(live->store), &bh_store_db(live->store)->locks).clients, 0);
}

static void test_nobody_reads_between_death_and_undo(void **state)
{
    open_live(NULL);
    write_half();
    assert_true(bh_live_owner_died(live, dying));
    for (int i = 0; i < 50; i++) {
        sqlite3 *c;
        must(bh_vfs_connect(live->vfs, false, &c, ERR)); /* no busy timeout */
        int64_t n = number(c, "SELECT count(*) FROM t");
        assert_true(n == 50 || sqlite3_errcode(c) == SQLITE_BUSY);
        sqlite3_close(c);
    }
    must_be_as_before();
}

static void test_who_wrote_nothing_dies_as_usual(void **state)
{
    open_live(NULL);
    struct bh_lock_request r = exclusive_of(dying);
    must(bh_locks_request(bh_store_locks(live->store), &r));
    assert_false(bh_live_owner_died(live, dying));
    assert_false(bh_live_owner_died(live, (struct bh_owner){.id = 1}));
}

static void test_a_reader_who_dies_beside_a_writer_undoes_nothing(void **state)
{
    open_live(NULL);
    write_half();
    assert_false(bh_live_owner_died(live, (struct bh_owner){.id = 1}));
    assert_true(bh_store_undo_pending(live->store));
    assert_true(bh_live_owner_died(live, dying));
    must_be_as_before();
}

static void test_the_end_of_the_mount_undoes_it(void **state)
{
    open_live(NULL);
    write_half();
    bh_live_clients_gone(live);
    must_be_as_before();
}

static void test_the_next_start_undoes_it(void **state)
{
    open_live(NULL);
    write_half();
    close_live(); /* what a kill -9 of the daemon leaves is the same */
    open_live(NULL);
    must_be_as_before();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_hot_journal_is_rolled_back),
        TEST(test_a_cold_journal_is_left_alone),
        TEST(test_a_super_journal_that_is_gone_means_committed),
        TEST(test_a_super_journal_that_exists_means_rolled_back),
        TEST(test_a_super_journal_in_the_tree_by_its_mount_point),
        TEST(test_a_super_journal_gone_from_the_tree),
        TEST(test_a_super_journal_by_the_mount_point_of_before),
        TEST(test_an_unresolvable_one_leaves_journal_and_content),
        TEST(test_an_unresolvable_one_refuses_sql_and_says_which),
        TEST(test_an_unresolvable_one_refuses_flushes_and_says_which),
        TEST(test_clients_are_let_in_to_recover),
        TEST(test_the_daemon_is_set_up_once_a_client_has_recovered),
        TEST(test_the_reason_is_not_given_for_other_errors),
        TEST(test_a_dead_clients_half_is_undone),
        TEST(test_nobody_reads_between_death_and_undo),
        TEST(test_who_wrote_nothing_dies_as_usual),
        TEST(test_a_reader_who_dies_beside_a_writer_undoes_nothing),
        TEST(test_the_end_of_the_mount_undoes_it),
        TEST(test_the_next_start_undoes_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
