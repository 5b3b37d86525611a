/* The SQL thread, replacements and restarts in write-ahead mode. */
#include "live_db.h"

static sqlite3 *begin_in_wal(void)
{
    open_live(NULL);
    sqlite3 *c = connect_live();
    must_sql(c, "PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    assert_true(bh_store_is_wal(live->store));
    return c;
}

static int64_t wal_size(void)
{
    return (int64_t)bh_store_wal_size(live->store);
}

static struct bh_owner someone = {.id = 1};

/* A client's lock on the database or on -shm. */
static int client_lock(bool on_shm, enum bh_lock_type type, uint64_t start, uint64_t end)
{
    struct bh_file *shm;
    must(bh_store_shm(live->store, &shm));
    struct bh_lock_request r = {.set = on_shm ? &shm->locks : &bh_store_db(live->store)->locks,
                                .owner = someone,
                                .pid = getpid(),
                                .type = type,
                                .start = start,
                                .end = end};
    int rc = bh_locks_request(bh_store_locks(live->store), &r);
    bh_file_unref(shm);
    return rc;
}

/* --- jobs --- */

static void test_jobs_keep_the_mode_that_is_there(void **state)
{
    sqlite3 *c = begin_in_wal();
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"));
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM t"));
    assert_true(bh_store_is_wal(live->store));
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 2);
    must_sql(c, "INSERT INTO t VALUES(3)");
    must(on_sql_thread(BH_SQL_WRITE, "DELETE FROM t WHERE a=3"));
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 2);
    sqlite3_close(c);
}

static void test_the_mode_changes_between_jobs(void **state)
{
    static const char *const modes[] = {"DELETE", "WAL", "PERSIST", "WAL", "TRUNCATE", "WAL"};
    char text[60];
    open_live(NULL);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    for (int i = 0; i < 30; i++) {
        sqlite3 *c = connect_live();
        snprintf(text, sizeof text, "PRAGMA journal_mode=%s", modes[i % 6]);
        must_sql(c, text);
        assert_int_equal(bh_store_is_wal(live->store), i % 2);
        must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(1)"));
        assert_int_equal(bh_store_is_wal(live->store), i % 2);
        must_sql(c, "INSERT INTO t VALUES(2)");
        must(on_sql_thread(BH_SQL_READ, "SELECT * FROM t"));
        assert_int_equal(number(c, "SELECT count(*) FROM t"), 2 * i + 2);
        must_be_whole(c);
        sqlite3_close(c);
    }
}

/* The thread's connection has no lock that is in the way, whatever it did. */
static void test_jobs_leave_nothing_locked(void **state)
{
    static const enum bh_sql_kind kinds[] = {BH_SQL_WRITE, BH_SQL_READ, BH_SQL_ALONE};
    for (int i = 0; i < 3; i++) {
        sqlite3 *c = i ? connect_live() : begin_in_wal();
        must_sql(c, "PRAGMA journal_mode=WAL");
        must(on_sql_thread(kinds[i], "SELECT count(*) FROM t"));
        must(bh_sql_checkpoint(live->sql, 0, ERR));
        must_sql(c, "PRAGMA journal_mode=DELETE");
        assert_false(bh_store_is_wal(live->store));
        assert_int_equal(wal_size(), 0);
        sqlite3_close(c);
    }
}

static void test_a_reader_is_not_in_the_way_of_writing_jobs_for_long(void **state)
{
    reconfigure((const char *[]){"live.busy_timeout=10s", NULL});
    sqlite3 *c = begin_in_wal();
    must(client_lock(true, BH_LOCK_READ, BH_WAL_READ + 4, BH_WAL_READ + 4));
    must_sql(c, "BEGIN");
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 1);
    int64_t begin = bh_mono_ms();
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"));
    assert_in_range(bh_mono_ms() - begin, 0, 3000);
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 1); /* as of its moment */
    must_sql(c, "COMMIT");
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 2);
    sqlite3_close(c);
}

static void test_a_clients_write_holds_writing_jobs_up_for_a_while(void **state)
{
    char pid[20];
    sqlite3 *c = begin_in_wal();
    must(client_lock(true, BH_LOCK_WRITE, BH_WAL_WRITE, BH_WAL_WRITE));
    int64_t begin = bh_mono_ms();
    must_fail(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"), EBUSY);
    assert_in_range(bh_mono_ms() - begin, 290, 5000);
    snprintf(pid, sizeof pid, "process %d ", (int)getpid());
    must_say(pid);
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM t"));
    must(client_lock(true, BH_LOCK_READ, BH_WAL_READ + 2, BH_WAL_READ + 2)); /* the gate is open */
    must(client_lock(true, BH_LOCK_NONE, BH_WAL_FIRST, BH_WAL_LAST));
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"));
    sqlite3_close(c);
}

static void test_a_connections_transaction_holds_writing_jobs_up(void **state)
{
    sqlite3 *c = begin_in_wal();
    must_sql(c, "BEGIN IMMEDIATE; INSERT INTO t VALUES(2)");
    must_fail(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(3)"), EBUSY);
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM t"));
    must_sql(c, "COMMIT");
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(3)"));
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 3);
    sqlite3_close(c);
}

/* --- checkpoints --- */

static void fill(sqlite3 *c)
{
    must_sql(c, "PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES(randomblob(2000000))");
    assert_true(wal_size() > 2000000);
}

static void test_a_checkpoint_empties_a_log_beyond_the_limit(void **state)
{
    sqlite3 *c = begin_in_wal();
    fill(c);
    must(bh_sql_checkpoint(live->sql, 3000000, ERR));
    assert_true(wal_size() > 2000000); /* it may stay */
    assert_true(bh_file_size(bh_store_db(live->store)) > 2000000);
    must(bh_sql_checkpoint(live->sql, 1000000, ERR));
    assert_int_equal(wal_size(), 0);
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 2);
    fill(c);
    must(bh_sql_checkpoint(live->sql, 0, ERR));
    assert_int_equal(wal_size(), 0);
    must_be_whole(c);
    sqlite3_close(c);
}

static void test_a_checkpoint_does_not_insist_beside_a_reader(void **state)
{
    sqlite3 *c = begin_in_wal(), *reader = connect_live();
    must_sql(reader, "BEGIN");
    assert_int_equal(number(reader, "SELECT count(*) FROM t"), 1);
    fill(c);
    int64_t begin = bh_mono_ms();
    must(bh_sql_checkpoint(live->sql, 1000, ERR));
    assert_in_range(bh_mono_ms() - begin, 0, 4000);
    assert_true(wal_size() > 2000000);
    assert_int_equal(number(reader, "SELECT count(*) FROM t"), 1);
    must_sql(reader, "COMMIT");
    must(bh_sql_checkpoint(live->sql, 1000, ERR));
    assert_int_equal(wal_size(), 0);
    sqlite3_close(reader);
    sqlite3_close(c);
}

static void test_a_posted_checkpoint_is_made_once(void **state)
{
    sqlite3 *c = begin_in_wal();
    fill(c);
    for (int i = 0; i < 5; i++)
        bh_sql_post_checkpoint(live->sql, 1000);
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM t")); /* behind it */
    assert_int_equal(wal_size(), 0);
    sqlite3_close(c);
}

static void test_a_log_that_grew_is_checkpointed(void **state)
{
    reconfigure((const char *[]){"live.wal_limit=1MiB", NULL});
    sqlite3 *c = begin_in_wal();
    fill(c);
    bh_live_wal_grew(live, 500000);
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM t"));
    assert_true(wal_size() > 2000000);
    bh_live_wal_grew(live, (uint64_t)wal_size());
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM t"));
    assert_int_equal(wal_size(), 0);
    sqlite3_close(c);
}

static void test_a_checkpoint_with_a_rollback_journal_is_nothing(void **state)
{
    open_live(NULL);
    must(bh_sql_checkpoint(live->sql, 0, ERR));
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    must(bh_sql_checkpoint(live->sql, 0, ERR));
    assert_false(is_there("state/live.db-wal"));
}

/* --- replacements --- */

static const struct bh_base a_change = {.is_base = false};

static int replace_by(const char *table, int rows)
{
    unlink(at("state/incoming.db"));
    make_stock("state/incoming.db", table, rows);
    return bh_live_replace(live, "incoming.db", &a_change, ERR);
}

static void test_open_connections_see_the_new_content(void **state)
{
    sqlite3 *a = begin_in_wal(), *b = connect_live();
    assert_int_equal(number(b, "SELECT count(*) FROM t"), 1);
    for (int i = 1; i < 6; i++) {
        must(replace_by(i % 2 ? "u" : "t", 30 + i));
        assert_true(bh_store_is_wal(live->store));
        const char *count = i % 2 ? "SELECT count(*) FROM u" : "SELECT count(*) FROM t";
        assert_int_equal(number(a, count), 30 + i);
        assert_int_equal(number(a, i % 2 ? "SELECT count(*) FROM t" : "SELECT * FROM u"), -1);
        must_sql(a, i % 2 ? "INSERT INTO u VALUES(1000, 1)" : "INSERT INTO t VALUES(1000, 1)");
        assert_int_equal(number(b, count), 31 + i);
        must_be_whole(b);
        must(on_sql_thread(BH_SQL_READ, count));
    }
    sqlite3_close(a);
    sqlite3_close(b);
    assert_true(bh_store_is_dirty(live->store));
    close_live();
    open_live(NULL);
    a = connect_live();
    assert_int_equal(number(a, "SELECT count(*) FROM u"), 36);
    must_be_whole(a);
    sqlite3_close(a);
}

/* The same pages in the cache of a connection, but for what is in them. */
static void test_no_connection_keeps_old_pages(void **state)
{
    sqlite3 *c = begin_in_wal();
    must(replace_by("u", 40));
    assert_int_equal(number(c, "SELECT sum(length(fill)) FROM u"), 40 * 500);
    for (int i = 0; i < 4; i++) {
        unlink(at("state/incoming.db"));
        make_stock("state/incoming.db", "u", 40);
        sqlite3 *s = stock("state/incoming.db");
        char text[80];
        snprintf(text, sizeof text, "UPDATE u SET fill=zeroblob(%d)", 501 + i);
        must_sql(s, text);
        sqlite3_close(s);
        must(bh_live_replace(live, "incoming.db", &a_change, ERR));
        assert_int_equal(number(c, "SELECT sum(length(fill)) FROM u"), 40 * (501 + i));
    }
    sqlite3_close(c);
}

static void test_a_reading_connection_holds_a_replacement_up(void **state)
{
    sqlite3 *c = begin_in_wal();
    must_sql(c, "BEGIN");
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 1);
    must_fail(replace_by("u", 3), EBUSY);
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 1);
    must_sql(c, "COMMIT; INSERT INTO t VALUES(2)");
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 2);
    assert_true(bh_store_is_wal(live->store));
    must(replace_by("u", 3));
    assert_int_equal(number(c, "SELECT count(*) FROM u"), 3);
    sqlite3_close(c);
}

static void test_a_clients_read_holds_a_replacement_up_and_is_named(void **state)
{
    char pid[20];
    sqlite3 *c = begin_in_wal();
    must(client_lock(false, BH_LOCK_READ, BH_SHARED_FIRST, BH_SHARED_FIRST + BH_SHARED_SIZE - 1));
    must(client_lock(true, BH_LOCK_READ, BH_WAL_READ + 3, BH_WAL_READ + 3));
    must_fail(replace_by("u", 3), EBUSY);
    snprintf(pid, sizeof pid, "process %d ", (int)getpid());
    must_say(pid);
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 1);
    assert_true(is_there("state/db.1"));
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"));
    must(client_lock(true, BH_LOCK_NONE, BH_WAL_FIRST, BH_WAL_LAST));
    must(replace_by("u", 3)); /* its SHARED on the database is nothing in this mode */
    assert_int_equal(number(c, "SELECT count(*) FROM u"), 3);
    sqlite3_close(c);
}

static void test_a_new_base_leaves_nothing_dirty(void **state)
{
    sqlite3 *c = begin_in_wal();
    struct bh_base base = {.is_base = true, .etag = "E1", .snapshot = "ID1", .sha256 = "S1"};
    sqlite3_close(c);
    make_stock("state/incoming.db", "u", 30);
    must(bh_live_replace(live, "incoming.db", &base, ERR));
    assert_int_equal(bh_store_dirty_bytes(live->store), 0);
    assert_string_equal(live->dir.state.base_etag, "E1");
    c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM u"), 30);
    sqlite3_close(c);
}

static void test_new_content_of_a_new_directory_gets_the_configured_mode(void **state)
{
    for (int wal = 0; wal < 2; wal++) {
        char command[100];
        struct bh_base base = {.is_base = true, .etag = "E1", .snapshot = "ID1", .sha256 = "S1"};
        reconfigure((const char *[]){wal ? "live.journal=wal" : "live.journal=delete", NULL});
        open_live(NULL);
        make_stock("state/incoming.db", "u", 30);
        must(bh_live_replace(live, "incoming.db", &base, ERR));
        must(bh_live_settle_mode(live, false, ERR));
        assert_int_equal(bh_store_is_wal(live->store), wal);
        assert_false(bh_store_is_dirty(live->store));
        sqlite3 *c = connect_live();
        assert_int_equal(number(c, "SELECT count(*) FROM u"), 30);
        sqlite3_close(c);
        close_live();
        snprintf(command, sizeof command, "rm -r %s/state", scratch);
        assert_int_equal(system(command), 0);
    }
}

/* --- the mode of a new database --- */

static void test_a_new_database_gets_its_mode_and_stays_clean(void **state)
{
    open_live(NULL);
    assert_true(bh_live_is_fresh(live));
    must(bh_live_settle_mode(live, false, ERR));
    assert_true(bh_store_is_wal(live->store));
    assert_false(bh_store_is_dirty(live->store));
    assert_true(bh_live_is_fresh(live));
    assert_false(is_there("state/live.db-wal"));
    must(bh_live_settle_mode(live, false, ERR)); /* again */
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    assert_true(bh_store_is_dirty(live->store));
    close_live();
    open_live(NULL);
    assert_true(bh_store_is_wal(live->store));
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 0);
    sqlite3_close(c);
}

static void test_settling_changes_no_database_that_has_a_mode(void **state)
{
    open_live(NULL);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    must(bh_live_settle_mode(live, false, ERR));
    assert_false(bh_store_is_wal(live->store));
    reconfigure((const char *[]){"live.journal=truncate", NULL});
    close_live();
    open_live(NULL);
    sqlite3 *c = connect_live();
    must_sql(c, "PRAGMA journal_mode=WAL");
    must(bh_live_settle_mode(live, false, ERR));
    assert_true(bh_store_is_wal(live->store));
    sqlite3_close(c);
}

static void test_mounted_read_only_it_leaves_write_ahead_mode(void **state)
{
    sqlite3 *c = begin_in_wal();
    must_sql(c, "INSERT INTO t VALUES(2)");
    sqlite3_close(c);
    must(bh_live_settle_mode(live, true, ERR));
    assert_false(bh_store_is_wal(live->store));
    assert_false(is_there("state/live.db-wal"));
    must(bh_live_settle_mode(live, true, ERR));
    c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 2);
    sqlite3_close(c);
}

/* Content that was loaded into a new directory gets the configured mode, and leaves it again. */
static void test_mounted_read_only_what_was_loaded_leaves_write_ahead_mode(void **state)
{
    struct bh_base base = {.is_base = true, .etag = "E1", .snapshot = "ID1", .sha256 = "S1"};
    open_live(NULL);
    make_stock("state/incoming.db", "u", 30);
    must(bh_live_replace(live, "incoming.db", &base, ERR));
    must(bh_live_settle_mode(live, true, ERR));
    assert_false(bh_store_is_wal(live->store));
}

/* --- restarts --- */

static void copy_state(void)
{
    char command[200];
    snprintf(command, sizeof command, "cd %s && rm -rf kept && cp -a state kept", scratch);
    assert_int_equal(system(command), 0);
}

static void open_copy(void)
{
    char command[200];
    close_live();
    snprintf(command, sizeof command, "cd %s && rm -rf state && mv kept state", scratch);
    assert_int_equal(system(command), 0);
    open_live(NULL);
}

static void test_a_log_that_was_left_behind_is_read(void **state)
{
    sqlite3 *c = begin_in_wal();
    must_sql(c, "PRAGMA wal_autocheckpoint=0");
    for (int i = 2; i < 40; i++) {
        char text[60];
        snprintf(text, sizeof text, "INSERT INTO t VALUES(%d)", i);
        must_sql(c, text);
        if (i % 13 == 0)
            must_sql(c, "PRAGMA wal_checkpoint(RESTART)");
    }
    must_sql(c, "PRAGMA cache_size=2; BEGIN; INSERT INTO t VALUES(zeroblob(100000))");
    copy_state(); /* killed now */
    must_sql(c, "ROLLBACK");
    sqlite3_close(c);
    open_copy();
    assert_true(wal_size() > 80000);
    assert_true(bh_store_is_dirty(live->store));
    c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 39);
    must_be_whole(c);
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(40)"));
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 40);
    sqlite3_close(c);
}

static void test_a_new_replacement_does_not_get_the_old_log(void **state)
{
    sqlite3 *c = begin_in_wal();
    must_sql(c, "PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES(2)");
    copy_state();
    sqlite3_close(c);
    open_copy(); /* with frames in the log */
    must(replace_by("u", 30));
    copy_state();
    open_copy();
    c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM u"), 30);
    assert_int_equal(number(c, "SELECT count(*) FROM t"), -1);
    must_be_whole(c);
    sqlite3_close(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_jobs_keep_the_mode_that_is_there),
        TEST(test_the_mode_changes_between_jobs),
        TEST(test_jobs_leave_nothing_locked),
        TEST(test_a_reader_is_not_in_the_way_of_writing_jobs_for_long),
        TEST(test_a_clients_write_holds_writing_jobs_up_for_a_while),
        TEST(test_a_connections_transaction_holds_writing_jobs_up),
        TEST(test_a_checkpoint_empties_a_log_beyond_the_limit),
        TEST(test_a_checkpoint_does_not_insist_beside_a_reader),
        TEST(test_a_posted_checkpoint_is_made_once),
        TEST(test_a_log_that_grew_is_checkpointed),
        TEST(test_a_checkpoint_with_a_rollback_journal_is_nothing),
        TEST(test_open_connections_see_the_new_content),
        TEST(test_no_connection_keeps_old_pages),
        TEST(test_a_reading_connection_holds_a_replacement_up),
        TEST(test_a_clients_read_holds_a_replacement_up_and_is_named),
        TEST(test_a_new_base_leaves_nothing_dirty),
        TEST(test_new_content_of_a_new_directory_gets_the_configured_mode),
        TEST(test_a_new_database_gets_its_mode_and_stays_clean),
        TEST(test_settling_changes_no_database_that_has_a_mode),
        TEST(test_mounted_read_only_it_leaves_write_ahead_mode),
        TEST(test_mounted_read_only_what_was_loaded_leaves_write_ahead_mode),
        TEST(test_a_log_that_was_left_behind_is_read),
        TEST(test_a_new_replacement_does_not_get_the_old_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
