/* SQLite on both sides of the wal-index: clients on the mount (live_client.h) and connections of
 * this process, which share the database, its log and the lock table, but not the index's memory.
 */
#include "live_client.h"

static void begin_mounted(void)
{
    open_mounted();
    must(bh_live_settle_mode(live, false, ERR));
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    assert_true(bh_store_is_wal(live->store));
}

static struct bh_shm *index_now(void)
{
    struct bh_file *f;
    must(bh_store_shm(live->store, &f));
    struct bh_shm *m = f->shm;
    bh_file_unref(f);
    return m;
}

static const char count[] = "SELECT count(*) FROM t";

/* Connections first: what a client's close does beside them is a test of its own. */
static void close_both(sqlite3 *client, sqlite3 *inner)
{
    sqlite3_close(inner);
    sqlite3_close(client);
    assert_int_equal(client_hung, 0);
}

/* --- in turns --- */

static void test_each_side_sees_what_the_other_committed(void **state)
{
    begin_mounted();
    sqlite3 *client = connect_client(), *inner = connect_live();
    for (int i = 0; i < 40; i++) {
        must_sql(client, "INSERT INTO t VALUES(randomblob(3000))");
        assert_int_equal(number(inner, count), 3 * i + 1);
        must_sql(inner, "INSERT INTO t VALUES(randomblob(3000))");
        assert_int_equal(number(client, count), 3 * i + 2);
        must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(randomblob(3000))"));
        assert_int_equal(number(client, count), 3 * i + 3);
        assert_int_equal(number(inner, count), 3 * i + 3);
        if (i % 7 == 6)
            must_sql(i % 2 ? client : inner, "PRAGMA wal_checkpoint(RESTART)");
        if (i % 11 == 10)
            must(bh_sql_checkpoint(live->sql, 0, ERR));
    }
    assert_true(bh_shm_is_remote(index_now()));
    must_be_whole(client);
    must_be_whole(inner);
    close_both(client, inner);
}

/* A connection that has read has SHARED on the database as long as it is open. A client that closes
 * tries for EXCLUSIVE, to remove the log, and does without. */
static void test_a_client_closes_beside_an_open_connection(void **state)
{
    begin_mounted();
    sqlite3 *inner = connect_live();
    assert_int_equal(number(inner, count), 0);
    for (int i = 0; i < 2; i++) {
        sqlite3 *client = connect_client();
        must_sql(client, "INSERT INTO t VALUES(1)");
        int64_t begin = bh_mono_ms();
        sqlite3_close(client);
        assert_in_range(bh_mono_ms() - begin, 0, CLIENT_PATIENCE_MS / 2);
        assert_int_equal(number(inner, count), i + 1);
    }
    sqlite3_close(inner);
}

static void test_a_client_cannot_leave_the_mode_beside_an_open_connection(void **state)
{
    begin_mounted();
    sqlite3 *inner = connect_live(), *client = connect_client();
    assert_int_equal(number(inner, count), 0);
    sqlite3_busy_timeout(client, 100);
    int64_t begin = bh_mono_ms();
    assert_int_equal(sql(client, "PRAGMA journal_mode=DELETE"), SQLITE_BUSY);
    assert_in_range(bh_mono_ms() - begin, 0, CLIENT_PATIENCE_MS / 2);
    close_both(client, inner);
}

static void test_clients_come_and_go(void **state)
{
    begin_mounted();
    for (int i = 0; i < 30; i++) {
        sqlite3 *client = connect_client();
        assert_int_equal(number(client, count), 2 * i);
        must_sql(client, "INSERT INTO t VALUES(randomblob(5000))");
        assert_true(bh_shm_is_remote(index_now()));
        if (i % 5 == 4)
            must(bh_sql_checkpoint(live->sql, 0, ERR));
        sqlite3_close(client);
        assert_false(bh_shm_is_remote(index_now()));
        sqlite3 *inner = connect_live();
        must_sql(inner, "INSERT INTO t VALUES(randomblob(5000))");
        if (i % 3 == 0) { /* somebody looks at the file meanwhile */
            struct bh_file *f;
            must(bh_store_shm(live->store, &f));
            must(remote_need(f));
            bh_file_unref(f);
        }
        assert_int_equal(number(inner, count), 2 * i + 2);
        must_be_whole(inner);
        if (i % 4 > 1) /* leave the log there */
            sqlite3_db_config(inner, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        sqlite3_close(inner);
    }
}

static void test_both_sides_grow_the_index(void **state)
{
    begin_mounted();
    sqlite3 *client = connect_client(), *inner = connect_live();
    must_sql(client, "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF");
    must_sql(inner, "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF");
    must_sql(inner, "INSERT INTO t VALUES(randomblob(20000000))"); /* 4096 pages are a region */
    assert_true(remote.regions >= 2);
    assert_int_equal(number(client, "SELECT sum(length(a)) FROM t"), 20000000);
    must_sql(client, "INSERT INTO t VALUES(randomblob(20000000))");
    assert_true(remote.regions >= 3);
    assert_int_equal(number(inner, "SELECT sum(length(a)) FROM t"), 40000000);
    must_be_whole(inner);
    must_be_whole(client);
    close_both(client, inner);
    inner = connect_live();
    assert_int_equal(number(inner, "SELECT sum(length(a)) FROM t"), 40000000);
    sqlite3_close(inner);
}

static void test_a_reader_keeps_its_moment(void **state)
{
    begin_mounted();
    sqlite3 *client = connect_client(), *inner = connect_live();
    for (int i = 0; i < 2; i++) {
        sqlite3 *reader = i ? inner : client, *writer = i ? client : inner;
        int64_t had = number(reader, count);
        must_sql(reader, "BEGIN");
        assert_int_equal(number(reader, count), had);
        must_sql(writer, "INSERT INTO t VALUES(1)");
        must_sql(writer, "PRAGMA wal_checkpoint(PASSIVE)");
        must_sql(writer, "UPDATE t SET a=zeroblob(9000)");
        must(bh_sql_checkpoint(live->sql, 1000000000, ERR));
        assert_int_equal(number(reader, count), had);
        must_be_whole(reader);
        must_sql(reader, "COMMIT");
        assert_int_equal(number(reader, count), had + 1);
    }
    close_both(client, inner);
}

/* --- what goes wrong --- */

static void test_a_client_that_is_killed_leaves_nothing(void **state)
{
    begin_mounted();
    sqlite3 *inner = connect_live(), *other = connect_client();
    must_sql(inner, "INSERT INTO t VALUES(randomblob(50000))");
    for (int i = 0; i < 6; i++) {
        sqlite3 *client = connect_client();
        must_sql(client,
                 "PRAGMA cache_size=2; BEGIN IMMEDIATE; INSERT INTO t VALUES(zeroblob(900000)); "
                 "UPDATE t SET a=zeroblob(60000)");
        kill_client(client);
        sqlite3_close(client);
        if (i % 2)
            must_sql(other, "INSERT INTO t VALUES(2)");
        else
            must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"));
        assert_int_equal(number(inner, count), i + 2);
        assert_int_equal(number(other, count), i + 2);
        assert_int_equal(number(other, "SELECT max(length(a)) FROM t"), 50000);
        must_be_whole(inner);
        must_be_whole(other);
    }
    close_both(other, inner);
}

static void test_the_last_client_is_killed(void **state)
{
    begin_mounted();
    for (int i = 0; i < 6; i++) {
        sqlite3 *client = connect_client();
        must_sql(client, "INSERT INTO t VALUES(1); PRAGMA cache_size=2; BEGIN; INSERT INTO t "
                         "VALUES(zeroblob(900000))");
        kill_client(client);
        sqlite3_close(client);
        assert_false(bh_shm_is_remote(index_now()));
        sqlite3 *inner = connect_live();
        assert_int_equal(number(inner, count), i + 1);
        must_be_whole(inner);
        sqlite3_close(inner);
    }
}

/* The commit is in the log; who writes next must not write over it. */
static void test_a_commit_that_clients_could_not_be_told_of_is_not_lost(void **state)
{
    begin_mounted();
    sqlite3 *client = connect_client(), *inner = connect_live();
    must_sql(client, "INSERT INTO t VALUES(1)");
    assert_int_equal(number(inner, count), 1);
    remote.push_rc = EIO;
    must_sql(inner, "INSERT INTO t VALUES(2)");
    remote.push_rc = 0;
    assert_int_equal(number(inner, count), 2);
    assert_int_equal(sql(client, "INSERT INTO t VALUES(3)"), SQLITE_IOERR_LOCK);
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(4)"));
    assert_int_equal(number(inner, count), 3);
    close_both(client, inner);
    close_live();
    open_mounted();
    inner = connect_live();
    assert_int_equal(number(inner, count), 3);
    must_be_whole(inner);
    sqlite3_close(inner);
}

static void test_an_index_that_cannot_be_reached_is_an_error_for_connections_only(void **state)
{
    begin_mounted();
    sqlite3 *client = connect_client(), *inner = connect_live();
    must_sql(client, "INSERT INTO t VALUES(1)");
    remote.pull_rc = EIO;
    assert_int_equal(number(inner, count), -1);
    must_fail(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"), EIO);
    must_sql(client, "INSERT INTO t VALUES(3)");
    assert_int_equal(number(client, count), 2);
    remote.pull_rc = 0;
    assert_int_equal(number(inner, count), 2);
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(4)"));
    assert_int_equal(number(client, count), 3);
    close_both(client, inner);
}

/* --- replacements --- */

static void test_clients_see_new_content(void **state)
{
    static const struct bh_base a_change = {.is_base = false};
    begin_mounted();
    sqlite3 *client = connect_client(), *inner = connect_live();
    must_sql(client, "INSERT INTO t VALUES(1)");
    assert_int_equal(number(inner, count), 1);
    for (int i = 0; i < 4; i++) {
        const char *table = i % 2 ? "v" : "u";
        char text[60];
        unlink(at("state/incoming.db"));
        make_stock("state/incoming.db", table, 30 + i);
        must(bh_live_replace(live, "incoming.db", &a_change, ERR));
        snprintf(text, sizeof text, "SELECT count(*) FROM %s", table);
        assert_int_equal(number(client, text), 30 + i);
        assert_int_equal(number(inner, text), 30 + i);
        assert_int_equal(number(client, count), -1);
        snprintf(text, sizeof text, "INSERT INTO %s VALUES(1000, 1)", table);
        must_sql(client, text);
        snprintf(text, sizeof text, "SELECT count(*) FROM %s", table);
        assert_int_equal(number(inner, text), 31 + i);
        must_be_whole(client);
        must_be_whole(inner);
    }
    close_both(client, inner);
}

/* --- all at once --- */

enum { CLIENTS = 2, ROUNDS = 120 };

static atomic_int failed;
static int stay; /* connections are kept so many rounds */
static const char increment[] = "BEGIN IMMEDIATE; UPDATE counter SET n=n+1; INSERT INTO t "
                                "VALUES(randomblob(800)); COMMIT";

static void *count_in(sqlite3 *(*connect)(void))
{
    sqlite3 *c = NULL;
    int64_t last = 0;
    for (int i = 0; i < ROUNDS && !failed; i++) {
        if (!c && (c = connect()) != NULL)
            sql(c, "PRAGMA wal_autocheckpoint=20; PRAGMA synchronous=OFF");
        if (!c || sql(c, increment))
            failed = c ? sqlite3_extended_errcode(c) : SQLITE_CANTOPEN;
        int64_t now = number(c, "SELECT n FROM counter WHERE n=(SELECT count(*) FROM t)");
        if (now <= last)
            failed = c && now == -1 ? sqlite3_extended_errcode(c) : 10000;
        last = now;
        if (i % stay == stay - 1) {
            sqlite3_close(c);
            c = NULL;
        }
    }
    sqlite3_close(c);
    return NULL;
}

static void *count_as_client(void *arg)
{
    (void)arg;
    return count_in(connect_client);
}

static sqlite3 *connect_inner(void)
{
    sqlite3 *c;
    struct bh_error err;
    if (bh_vfs_connect(live->vfs, false, &c, &err))
        return NULL;
    sqlite3_busy_timeout(c, 20000);
    return c;
}

static void *count_as_connection(void *arg)
{
    (void)arg;
    return count_in(connect_inner);
}

static int increment_job(sqlite3 *c, void *arg, struct bh_error *err)
{
    static char text[] = "UPDATE counter SET n=n+1; INSERT INTO t VALUES(randomblob(800))";
    (void)arg;
    return run_text(c, text, err);
}

static void *count_as_job(void *arg)
{
    struct bh_error err;
    for (int i = 0; i < ROUNDS && !failed; i++) {
        if (bh_sql_run(live->sql, BH_SQL_WRITE, increment_job, NULL, &err))
            failed = 20000 + err.code;
        if (i % 20 == 19 && bh_sql_checkpoint(live->sql, i % 40 == 39 ? 0 : 100000, &err))
            failed = 30000 + err.code;
    }
    return arg;
}

static void count_with(bool connections, bool jobs, int rounds)
{
    void *(*const bodies[CLIENTS + 2])(void *) = {count_as_client, count_as_client,
                                                  connections ? count_as_connection : NULL,
                                                  jobs ? count_as_job : NULL};
    pthread_t threads[CLIENTS + 2];
    reconfigure((const char *[]){"live.busy_timeout=20s", NULL});
    begin_mounted();
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE counter(n); INSERT INTO counter VALUES(0)"));
    failed = 0;
    stay = rounds;
    for (int i = 0; i < CLIENTS + 2; i++)
        if (bodies[i])
            must(pthread_create(&threads[i], NULL, bodies[i], NULL));
    for (int i = 0; i < CLIENTS + 2; i++)
        if (bodies[i])
            must(pthread_join(threads[i], NULL));
    assert_int_equal(failed, 0);
    assert_int_equal(client_hung, 0);
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT n FROM counter WHERE n=(SELECT count(*) FROM t)"),
                     (CLIENTS + connections + jobs) * ROUNDS);
    must_be_whole(c);
    sqlite3_close(c);
}

static void test_clients_alone_count(void **state)
{
    count_with(false, false, 1000);
}
static void test_clients_and_jobs_count(void **state)
{
    count_with(false, true, 1000);
}
static void test_clients_and_connections_count(void **state)
{
    count_with(true, false, 1000);
}
static void test_all_count(void **state)
{
    count_with(true, true, 1000);
}
static void test_all_count_coming_and_going(void **state)
{
    count_with(true, true, 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_each_side_sees_what_the_other_committed),
        TEST(test_a_client_closes_beside_an_open_connection),
        TEST(test_a_client_cannot_leave_the_mode_beside_an_open_connection),
        TEST(test_clients_come_and_go),
        TEST(test_both_sides_grow_the_index),
        TEST(test_a_reader_keeps_its_moment),
        TEST(test_a_client_that_is_killed_leaves_nothing),
        TEST(test_the_last_client_is_killed),
        TEST(test_a_commit_that_clients_could_not_be_told_of_is_not_lost),
        TEST(test_an_index_that_cannot_be_reached_is_an_error_for_connections_only),
        TEST(test_clients_see_new_content),
        TEST(test_clients_alone_count),
        TEST(test_clients_and_jobs_count),
        TEST(test_clients_and_connections_count),
        TEST(test_all_count),
        TEST(test_all_count_coming_and_going),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
