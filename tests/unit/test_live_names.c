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

/* --- content that is in the bucket only --- */

static struct remote_names {
    struct bh_origin base;
    unsigned char bytes[64 << 10];
    size_t size;
    int failing; /* errno of what is not page 1 */
} remote;

static int remote_read(struct bh_origin *o, uint64_t offset, void *buf, size_t len,
                       struct bh_error *err)
{
    (void)o;
    if (offset > 0 && remote.failing)
        return bh_fail(err, remote.failing, "the bucket is away");
    memcpy(buf, remote.bytes + offset, len);
    return 0;
}

static void remote_free(struct bh_origin *o)
{
    (void)o;
}

/* A names.db with table t, of 20 rows, for a replacement. */
static struct bh_names_base elsewhere(void)
{
    sqlite3 *c = stock("remote.db");
    must_sql(c,
             "PRAGMA page_size=4096; CREATE TABLE t(n INTEGER PRIMARY KEY, fill); WITH RECURSIVE "
             "i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<20) INSERT INTO t SELECT n, "
             "zeroblob(900) FROM i");
    sqlite3_close(c);
    FILE *f = fopen(at("remote.db"), "r");
    assert_non_null(f);
    memset(&remote, 0, sizeof remote);
    remote.size = fread(remote.bytes, 1, sizeof remote.bytes, f);
    fclose(f);
    unlink(at("remote.db"));
    assert_in_range(remote.size, 12288, sizeof remote.bytes - 1);
    remote.base =
        (struct bh_origin){.refs = 1, .unit = 4096, .read = remote_read, .free = remote_free};
    return (struct bh_names_base){.origin = &remote.base, .size = remote.size};
}

/* Of names that are elsewhere, and could not be fetched just now. */
static sqlite3 *connect_timed_out(void)
{
    open_live(NULL);
    struct bh_names_base there = elsewhere();
    must(bh_live_names_replace(live, &there, ERR));
    sqlite3 *c = connect_names();
    remote.failing = ETIMEDOUT;
    assert_int_not_equal(sql(c, "SELECT sum(length(fill)) FROM t"), SQLITE_OK);
    return c;
}

/* Whoever asks for a name hears that the bucket is away, not that a disk is broken. */
static void test_a_bucket_that_does_not_answer_is_told_from_a_broken_disk(void **state)
{
    (void)state;
    sqlite3 *c = connect_timed_out();
    assert_int_equal(sqlite3_system_errno(c), ETIMEDOUT);
    assert_int_equal(bh_sqlite_fail(c, ERR, "t"), ETIMEDOUT);
    remote.failing = EIO;
    assert_int_not_equal(sql(c, "SELECT sum(length(fill)) FROM t"), SQLITE_OK);
    assert_int_equal(bh_sqlite_fail(c, ERR, "t"), EIO);
    remote.failing = 0;
    assert_int_equal(number(c, "SELECT sum(length(fill)) FROM t"), 18000);
    sqlite3_close(c);
}

/* On the same thread: SQLite asks what went wrong last, long after. */
static void test_an_old_timeout_does_not_colour_another_error(void **state)
{
    (void)state;
    leave_hot_journal("/no/such/directory/other.db-mj0123459AB");
    sqlite3 *c = connect_timed_out();
    assert_int_equal(bh_sqlite_code(c), ETIMEDOUT);
    remote.failing = 0;
    sqlite3 *other = connect_live();
    assert_int_not_equal(sql(other, "SELECT count(*) FROM t"), SQLITE_OK);
    assert_int_equal(sqlite3_extended_errcode(other), SQLITE_IOERR_ACCESS);
    assert_int_equal(bh_sqlite_code(other), EIO);
    sqlite3_close(other);
    sqlite3_close(c);
}

/* --- readers that take turns --- */

static atomic_int replaced;

static void *replace_names(void *arg)
{
    struct bh_error err;
    replaced = bh_live_names_replace(live, arg, &err) ? -1 : 1;
    return NULL;
}

static void test_readers_that_take_turns_do_not_keep_a_replacement_out(void **state)
{
    (void)state;
    pthread_t thread;
    open_live(NULL);
    sqlite3 *a = connect_names(), *b = connect_names();
    must_sql(a, "CREATE TABLE n(i)");
    sqlite3_busy_timeout(b, 0);
    assert_int_equal(number(b, "SELECT count(*) FROM n"), 0);
    must_sql(a, "BEGIN; SELECT * FROM n");
    must(pthread_create(&thread, NULL, replace_names, (void *)(uintptr_t)&nothing));
    int tries = 0; /* the next one is kept waiting, soon */
    while (sql(b, "SELECT * FROM n") != SQLITE_BUSY && ++tries < 1000)
        usleep(1000);
    must_sql(a, "COMMIT");
    must(pthread_join(thread, NULL));
    assert_in_range(tries, 0, 999);
    assert_int_equal(replaced, 1);
    assert_int_equal(number(b, "SELECT count(*) FROM sqlite_master"), 0);
    sqlite3_close(a);
    sqlite3_close(b);
}

/* --- power cuts --- */

static int system_in_scratch(const char *what)
{
    char command[160];
    snprintf(command, sizeof command, "cd %s && %s", scratch, what);
    return system(command);
}

static int cut_power(void)
{
    return system_in_scratch("rm -rf found && cp -a shadow found");
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
    close_live();
    assert_int_equal(system_in_scratch("rm -rf state && mv found state"), 0);
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

/* Of what comes in the first block is here, and the map says so. */
static void test_a_power_cut_leaves_what_the_replacement_has_here(void **state)
{
    (void)state;
    for (int seed = 0; seed < 8; seed++) {
        open_mirrored(seed);
        struct bh_names_base there = elsewhere();
        must(bh_live_names_replace(live, &there, ERR));
        assert_int_equal(cut_power(), 0);
        open_found();
        bh_store_set_origin(live->names, &remote.base);
        must(bh_store_forget_clean(live->names)); /* but for the first block */
        sqlite3 *c = connect_names();
        must_be_whole(c);
        assert_int_equal(number(c, "SELECT count(*) FROM t"), 20);
        sqlite3_close(c);
        close_live();
        assert_int_equal(system_in_scratch("rm -rf state"), 0);
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
        TEST(test_a_bucket_that_does_not_answer_is_told_from_a_broken_disk),
        TEST(test_an_old_timeout_does_not_colour_another_error),
        TEST(test_readers_that_take_turns_do_not_keep_a_replacement_out),
        TEST(test_a_power_cut_leaves_what_the_replacement_has_here),
        TEST(test_a_power_cut_leaves_whole_commits),
        TEST(test_a_power_cut_shows_the_replacement_or_what_was_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
