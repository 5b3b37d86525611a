/* names.db: a database of its own beside the live one, whatever happens to machine and program. */
#include "live_db.h"

#include <dirent.h>

static sqlite3 *connect_names(void)
{
    sqlite3 *c;
    must(bh_live_names_connect(live, &c, ERR));
    return c;
}

static void must_be_text(sqlite3 *c, const char *query, const char *expected)
{
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_prepare_v2(c, query, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(st, 0), expected);
    sqlite3_finalize(st);
}

static void test_it_is_safe_and_alone(void **state)
{
    struct stat st;
    (void)state;
    open_live(NULL);
    assert_int_equal(stat(at("state/names"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_true(bh_live_is_fresh(live));
    sqlite3 *c = connect_names(), *other = connect_names(), *l = connect_live();
    must_be_text(c, "PRAGMA journal_mode", "truncate");
    assert_int_equal(number(c, "PRAGMA synchronous"), 2);
    assert_int_equal(number(c, "PRAGMA temp_store"), 2);
    must_sql(c, "CREATE TABLE n(i); INSERT INTO n VALUES(1)");
    must_sql(l, "CREATE TABLE n(i)");
    assert_int_equal(number(other, "SELECT count(*) FROM n"), 1);
    assert_int_equal(number(l, "SELECT count(*) FROM n"), 0);
    assert_int_equal(bh_vfs_connections(live->vfs), 1); /* of no account for who waits for those */
    /* Neither locks the other out. */
    must_sql(l, "BEGIN EXCLUSIVE");
    must_sql(c, "INSERT INTO n VALUES(2)");
    must_sql(l, "COMMIT");
    must_sql(c, "BEGIN EXCLUSIVE");
    must_sql(l, "INSERT INTO n VALUES(2)");
    must_sql(c, "COMMIT");
    assert_false(bh_live_is_fresh(live));
    sqlite3_close(c);
    sqlite3_close(other);
    sqlite3_close(l);
    close_live();
    open_live(NULL);
    c = connect_names();
    assert_int_equal(number(c, "SELECT count(*) FROM n"), 2);
    assert_true(bh_store_is_dirty(live->names));
    sqlite3_close(c);
}

/* What was not flushed is not fresh, although live.db is. */
static void test_changes_of_names_alone_are_changes(void **state)
{
    (void)state;
    open_live(NULL);
    sqlite3 *c = connect_names();
    must_sql(c, "CREATE TABLE n(i)");
    sqlite3_close(c);
    close_live();
    open_live(NULL);
    assert_false(bh_live_is_fresh(live));
    assert_false(bh_store_is_dirty(live->store));
    assert_int_equal(bh_live_dirty_bytes(live), bh_store_dirty_bytes(live->names));
}

/* --- replacements --- */

static const struct bh_names_base nothing; /* it becomes empty */

static void test_an_open_transaction_holds_a_replacement_up(void **state)
{
    (void)state;
    open_live(NULL);
    sqlite3 *c = connect_names();
    must_sql(c, "CREATE TABLE n(i); INSERT INTO n VALUES(1); BEGIN; SELECT * FROM n");
    uint64_t generation = live->dir.state.names_generation;
    must_fail(bh_live_names_replace(live, &nothing, ERR), EBUSY);
    assert_int_equal(live->dir.state.names_generation, generation);
    must_sql(c, "COMMIT");
    assert_int_equal(number(c, "SELECT count(*) FROM n"), 1);
    must(bh_live_names_replace(live, &nothing, ERR));
    assert_int_equal(number(c, "SELECT count(*) FROM sqlite_master"), 0);
    assert_int_equal(live->dir.state.names_generation, generation + 1);
    must_sql(c, "CREATE TABLE m(i); INSERT INTO m VALUES(3)");
    sqlite3_close(c);
    close_live();
    open_live(NULL);
    c = connect_names();
    assert_int_equal(number(c, "SELECT i FROM m"), 3);
    sqlite3_close(c);
}

static unsigned files_in(const char *directory)
{
    unsigned n = 0;
    DIR *d = opendir(at(directory));
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void test_nothing_is_left_over(void **state)
{
    (void)state;
    open_live(NULL);
    for (int i = 0; i < 3; i++) {
        sqlite3 *c = connect_names();
        must_sql(c, "CREATE TABLE n(i)");
        sqlite3_close(c);
        must(bh_live_names_replace(live, &nothing, ERR));
    }
    assert_int_equal(files_in("state/names"), 3); /* db.4, map.4, an empty journal */
    close_live();
    put_file("state/names/db.7", "x", 1); /* of a replacement that was never named */
    put_file("state/names/incoming.lazy", "x", 1);
    open_live(NULL);
    assert_int_equal(files_in("state/names"), 3);
}

/* A journal of the old content must not come over the new one. */
static void test_a_hot_journal_goes_before_the_content(void **state)
{
    (void)state;
    open_live(NULL);
    sqlite3 *c = connect_names();
    must_sql(c,
             "CREATE TABLE t(n INTEGER PRIMARY KEY, fill BLOB); WITH RECURSIVE i(n) AS (SELECT 1 "
             "UNION ALL SELECT n+1 FROM i WHERE n<200) INSERT INTO t SELECT n, randomblob(900) "
             "FROM i; PRAGMA cache_size=3; BEGIN; UPDATE t SET fill=randomblob(900)");
    copy_file("state/names/live.db-journal", "hot");
    must_sql(c, "ROLLBACK");
    sqlite3_close(c);
    close_live();
    copy_file("hot", "state/names/live.db-journal");
    open_live(NULL);
    must(bh_live_names_replace(live, &nothing, ERR));
    c = connect_names();
    assert_int_equal(number(c, "SELECT count(*) FROM sqlite_master"), 0);
    sqlite3_close(c);
    close_live();
    open_live(NULL);
    c = connect_names();
    assert_int_equal(number(c, "SELECT count(*) FROM sqlite_master"), 0);
    sqlite3_close(c);
}

/* --- power cuts --- */

static int cut_power(void)
{
    char command[160];
    snprintf(command, sizeof command, "cd %s && rm -rf found && cp -a shadow found", scratch);
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

static void open_found(void)
{
    char command[160];
    close_live();
    snprintf(command, sizeof command, "cd %s && rm -rf state && mv found state", scratch);
    assert_int_equal(system(command), 0);
    reconfigure(NULL);
    open_live(NULL);
}

static void test_a_power_cut_leaves_whole_commits(void **state)
{
    (void)state;
    for (int seed = 0; seed < 8; seed++) {
        open_mirrored(seed);
        sqlite3 *c = connect_names();
        assert_int_equal(
            sqlite3_create_function(c, "cut", 0, SQLITE_UTF8, NULL, cut_function, NULL, NULL), 0);
        must_sql(c, "DROP TABLE IF EXISTS t; CREATE TABLE t(n INTEGER PRIMARY KEY, v, fill); WITH "
                    "RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<60) INSERT "
                    "INTO t SELECT n, 1, randomblob(900) FROM i; PRAGMA cache_size=3");
        must_sql(c, "UPDATE t SET v=2, fill=randomblob(900)");
        if (seed % 2)
            must_sql(c, "BEGIN; UPDATE t SET v=3, fill=randomblob(950); SELECT cut(); COMMIT");
        else
            assert_int_equal(cut_power(), 0);
        sqlite3_close(c);
        open_found();
        c = connect_names();
        must_be_whole(c);
        assert_int_equal(number(c, "SELECT min(v) FROM t"), 2);
        assert_int_equal(number(c, "SELECT max(v) FROM t"), 2);
        assert_true(bh_store_is_dirty(live->names));
        sqlite3_close(c);
        close_live();
    }
}

static void test_a_power_cut_shows_the_replacement_or_what_was_there(void **state)
{
    (void)state;
    for (int seed = 0; seed < 8; seed++) {
        open_mirrored(seed);
        sqlite3 *c = connect_names();
        must_sql(c, "CREATE TABLE IF NOT EXISTS t(n)");
        sqlite3_close(c);
        must(bh_live_names_replace(live, &nothing, ERR));
        assert_int_equal(cut_power(), 0);
        open_found();
        c = connect_names();
        must_be_whole(c);
        assert_int_equal(number(c, "SELECT count(*) FROM sqlite_master"), 0);
        sqlite3_close(c);
        close_live();
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_it_is_safe_and_alone),
        TEST(test_changes_of_names_alone_are_changes),
        TEST(test_an_open_transaction_holds_a_replacement_up),
        TEST(test_nothing_is_left_over),
        TEST(test_a_hot_journal_goes_before_the_content),
        TEST(test_a_power_cut_leaves_whole_commits),
        TEST(test_a_power_cut_shows_the_replacement_or_what_was_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
