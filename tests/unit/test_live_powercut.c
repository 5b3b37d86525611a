/* Power cuts in the middle of SQLite's transactions and of a replacement: what the mirror has is
 * what a machine finds. */
#include "live_db.h"

static unsigned cuts;

/* The machine loses power now: the mirror as it is becomes SCRATCH/found. */
static int cut_power(void)
{
    char command[160];
    snprintf(command, sizeof command, "cd %s && rm -rf found && cp -a shadow found", scratch);
    cuts++;
    return system(command);
}

static void cut_function(sqlite3_context *context, int count, sqlite3_value **values)
{
    (void)count, (void)values;
    sqlite3_result_int(context, cut_power());
}

static void open_mirrored(int seed)
{
    char directory[120], option[40];
    snprintf(directory, sizeof directory, "live.powercut_dir=%s/shadow", scratch);
    snprintf(option, sizeof option, "live.powercut_seed=%d", seed);
    reconfigure((const char *[]){directory, option, NULL});
    open_live(NULL);
}

/* The machine starts again with what it found. */
static void open_found(void)
{
    char command[160];
    close_live();
    snprintf(command, sizeof command, "cd %s && rm -rf state && mv found state", scratch);
    assert_int_equal(system(command), 0);
    reconfigure(NULL);
    open_live(NULL);
}

static int64_t value_now(void)
{
    sqlite3 *c = connect_live();
    must_be_whole(c);
    int64_t least = number(c, "SELECT min(v) FROM t"), most = number(c, "SELECT max(v) FROM t");
    assert_int_equal(least, most); /* all of a transaction, or nothing */
    sqlite3_close(c);
    return least;
}

static sqlite3 *writer(const char *mode)
{
    char text[200];
    sqlite3 *c = connect_live();
    assert_int_equal(
        sqlite3_create_function(c, "cut", 0, SQLITE_UTF8, NULL, cut_function, NULL, NULL), 0);
    snprintf(text, sizeof text,
             "PRAGMA synchronous=EXTRA; PRAGMA cache_size=3; PRAGMA journal_mode=%s", mode);
    must_sql(c, text);
    return c;
}

static void cut_in_the_middle(const char *mode)
{
    for (int seed = 0; seed < 6; seed++) {
        open_mirrored(seed);
        must(on_sql_thread(
            BH_SQL_WRITE,
            "DROP TABLE IF EXISTS t; CREATE TABLE t(n INTEGER PRIMARY KEY, v INT, fill BLOB); WITH "
            "RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<40) INSERT INTO t "
            "SELECT n, "
            "1, zeroblob(1500) FROM i"));
        sqlite3 *c = writer(mode);
        must_sql(c, "UPDATE t SET v=2");
        must_sql(c, "BEGIN; UPDATE t SET v=3, fill=randomblob(1600)"); /* the small cache spills
                                                                          into the database */
        must_sql(c, "SELECT cut(); COMMIT");
        sqlite3_close(c);
        open_found();
        assert_int_equal(value_now(), 2);
        close_live();
    }
}

static void test_cut_in_the_middle_with_delete(void **state)
{
    cut_in_the_middle("DELETE");
}
static void test_cut_in_the_middle_with_truncate(void **state)
{
    cut_in_the_middle("TRUNCATE");
}
static void test_cut_in_the_middle_with_persist(void **state)
{
    cut_in_the_middle("PERSIST");
}

static void test_cut_in_the_middle_with_wal(void **state)
{
    cut_in_the_middle("WAL");
}

static void test_what_was_committed_is_there(void **state)
{
    static const char *const modes[] = {"DELETE", "TRUNCATE", "PERSIST", "WAL"};
    for (int seed = 0; seed < 12; seed++) {
        open_mirrored(seed);
        sqlite3 *c = writer(modes[seed % 4]);
        must_sql(c, "DROP TABLE IF EXISTS t; CREATE TABLE t(v INT); INSERT INTO t VALUES(0)");
        for (int i = 0; i < 5; i++)
            must_sql(c, "UPDATE t SET v=v+1");
        assert_int_equal(cut_power(), 0);
        sqlite3_close(c);
        open_found();
        assert_int_equal(value_now(), 5);
        assert_true(bh_store_is_dirty(live->store)); /* and is known to be unflushed */
        close_live();
    }
}

static void test_a_replacement_is_whole(void **state)
{
    for (int seed = 0; seed < 6; seed++) {
        struct bh_base base = {.is_base = false};
        open_mirrored(seed);
        must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE IF NOT EXISTS t(v INT)"));
        unlink(at("state/incoming.db"));
        make_stock("state/incoming.db", "u", 200);
        must(bh_live_replace(live, "incoming.db", &base, ERR));
        assert_int_equal(cut_power(), 0);
        open_found();
        sqlite3 *c = connect_live();
        assert_int_equal(number(c, "SELECT count(*) FROM u"), 200);
        must_be_whole(c);
        sqlite3_close(c);
        assert_true(bh_store_is_dirty(live->store));
        close_live();
    }
}

/* --- write-ahead mode --- */

/* A checkpoint syncs the log before it writes to the database, and the database before the log is
 * begun anew. */
static void test_checkpoints_lose_nothing(void **state)
{
    static const char *const kinds[] = {"PASSIVE", "FULL", "RESTART", "TRUNCATE"};
    for (int seed = 0; seed < 8; seed++) {
        char text[60];
        snprintf(text, sizeof text, "PRAGMA wal_checkpoint(%s)", kinds[seed % 4]);
        open_mirrored(seed);
        sqlite3 *c = writer("WAL");
        must_sql(c, "PRAGMA synchronous=FULL; DROP TABLE IF EXISTS t; CREATE TABLE t(v INT, fill); "
                    "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<30) "
                    "INSERT INTO t SELECT 0, randomblob(1500) FROM i");
        for (int i = 1; i < 6; i++) {
            must_sql(c, "UPDATE t SET v=v+1, fill=randomblob(1500)");
            if (i % 2)
                must_sql(c, text);
        }
        if (seed >= 4)
            must_sql(c, text);
        assert_int_equal(cut_power(), 0);
        sqlite3_close(c);
        open_found();
        assert_int_equal(value_now(), 5);
        assert_true(bh_store_is_dirty(live->store));
        close_live();
    }
}

/* Frames of an old log over newer content would be a damaged database. */
static void test_an_old_log_does_not_come_back(void **state)
{
    for (int seed = 0; seed < 12; seed++) {
        open_mirrored(seed);
        sqlite3 *c = writer("WAL");
        must_sql(c, "DROP TABLE IF EXISTS t; CREATE TABLE t(v INT, fill); INSERT INTO t VALUES(1, "
                    "zeroblob(20000)); UPDATE t SET v=2");
        must_sql(c, "PRAGMA journal_mode=DELETE");
        assert_false(bh_store_is_wal(live->store));
        if (seed % 3 > 0)
            must_sql(c, "UPDATE t SET v=3, fill=zeroblob(9000)");
        if (seed % 3 > 1)
            must_sql(c, "PRAGMA journal_mode=WAL; UPDATE t SET v=4");
        assert_int_equal(cut_power(), 0);
        sqlite3_close(c);
        open_found();
        assert_int_equal(value_now(), 2 + seed % 3);
        close_live();
    }
}

static void test_the_last_close_loses_nothing(void **state)
{
    for (int seed = 0; seed < 6; seed++) {
        open_mirrored(seed);
        sqlite3 *c = writer("WAL");
        must_sql(c, "DROP TABLE IF EXISTS t; CREATE TABLE t(v INT); INSERT INTO t VALUES(7)");
        sqlite3_close(c); /* checkpoints, and removes the log */
        assert_false(is_there("state/live.db-wal"));
        if (seed % 2)
            must(on_sql_thread(BH_SQL_WRITE, "UPDATE t SET v=8"));
        assert_int_equal(cut_power(), 0);
        open_found();
        assert_int_equal(value_now(), 7 + seed % 2);
        close_live();
    }
}

static void test_a_replacement_in_write_ahead_mode_is_whole(void **state)
{
    for (int seed = 0; seed < 6; seed++) {
        struct bh_base base = {.is_base = false};
        open_mirrored(seed);
        sqlite3 *c = writer("WAL");
        must_sql(c, "CREATE TABLE IF NOT EXISTS t(v INT); INSERT INTO t VALUES(1)");
        unlink(at("state/incoming.db"));
        make_stock("state/incoming.db", "u", 200);
        must(bh_live_replace(live, "incoming.db", &base, ERR));
        assert_int_equal(cut_power(), 0);
        sqlite3_close(c);
        open_found();
        c = connect_live();
        assert_int_equal(number(c, "SELECT count(*) FROM u"), 200);
        must_be_whole(c);
        sqlite3_close(c);
        assert_true(bh_store_is_dirty(live->store));
        assert_true(bh_store_is_wal(live->store));
        close_live();
    }
}

/* A download that was cut leaves the content of before. */
static void test_a_half_made_replacement_is_forgotten(void **state)
{
    open_mirrored(1);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(v INT); INSERT INTO t VALUES(4)"));
    make_stock("state/incoming.db", "u", 200);
    assert_int_equal(cut_power(), 0);
    open_found();
    assert_int_equal(value_now(), 4);
    assert_false(is_there("state/incoming.db"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_cut_in_the_middle_with_delete),
        TEST(test_cut_in_the_middle_with_truncate),
        TEST(test_cut_in_the_middle_with_persist),
        TEST(test_cut_in_the_middle_with_wal),
        TEST(test_what_was_committed_is_there),
        TEST(test_a_replacement_is_whole),
        TEST(test_checkpoints_lose_nothing),
        TEST(test_an_old_log_does_not_come_back),
        TEST(test_the_last_close_loses_nothing),
        TEST(test_a_replacement_in_write_ahead_mode_is_whole),
        TEST(test_a_half_made_replacement_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
