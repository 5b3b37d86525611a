/* The SQLite VFS and the SQL thread: many connections at once, group commit, waiting for clients, a
 * full disk. */
#include "live_db.h"

/* --- many at once --- */

enum { THREADS = 3, ROUNDS = 25 };

static const char *counter_mode;
static atomic_int counter_failed;

static int increment(sqlite3 *c, void *arg, struct bh_error *err)
{
    return run_text(c, (void *)(uintptr_t) "UPDATE counter SET n=n+1", err);
}

/* SQLite does not wait when two want to change the mode at once, as both have a read lock. */
static int set_mode(sqlite3 *c, const char *mode)
{
    int rc = SQLITE_BUSY;
    for (int i = 0; i < 1000 && rc == SQLITE_BUSY; i++) {
        rc = sql(c, mode);
        if (rc == SQLITE_BUSY)
            usleep(1000);
    }
    return rc;
}

static void *count_by_connection(void *arg)
{
    char mode[60];
    struct bh_error err;
    sqlite3 *c;
    if (bh_vfs_connect(live->vfs, false, &c, &err))
        return NULL;
    sqlite3_busy_timeout(c, 20000);
    snprintf(mode, sizeof mode, "PRAGMA synchronous=OFF; PRAGMA journal_mode=%s", counter_mode);
    for (int i = 0; i < ROUNDS; i++) {
        /* a fresh connection now and then, and a reader between */
        if (set_mode(c, mode) || sql(c, "BEGIN IMMEDIATE; UPDATE counter SET n=n+1; COMMIT") ||
            number(c, "SELECT n FROM counter") < 1)
            counter_failed = sqlite3_extended_errcode(c);
    }
    sqlite3_close(c);
    return arg;
}

static void *count_by_job(void *arg)
{
    struct bh_error err;
    for (int i = 0; i < ROUNDS; i++)
        if (bh_sql_run(live->sql, BH_SQL_WRITE, increment, NULL, &err))
            counter_failed = err.code;
    return arg;
}

static void count_in_mode(const char *mode)
{
    pthread_t threads[THREADS + 1];
    reconfigure((const char *[]){"live.busy_timeout=20s", NULL});
    open_live(NULL);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE counter(n); INSERT INTO counter VALUES(0)"));
    counter_mode = mode;
    counter_failed = 0;
    for (int i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, count_by_connection, NULL));
    must(pthread_create(&threads[THREADS], NULL, count_by_job, NULL));
    for (int i = 0; i <= THREADS; i++)
        must(pthread_join(threads[i], NULL));
    assert_int_equal(counter_failed, 0);
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT n FROM counter"), (THREADS + 1) * ROUNDS);
    must_be_whole(c);
    sqlite3_close(c);
}

static void test_counter_with_delete(void **state)
{
    count_in_mode("DELETE");
}
static void test_counter_with_truncate(void **state)
{
    count_in_mode("TRUNCATE");
}
static void test_counter_with_persist(void **state)
{
    count_in_mode("PERSIST");
}
static void test_counter_with_memory(void **state)
{
    count_in_mode("MEMORY");
}
static void test_counter_with_off(void **state)
{
    count_in_mode("OFF");
}
static void test_counter_with_wal(void **state)
{
    count_in_mode("WAL");
    assert_true(bh_store_is_wal(live->store));
}

/* --- opening --- */

enum { OPENERS = 4, OPENINGS = 5000 };

/* What a connection does on its way into write-ahead mode, or with a journal, and what one does
 * that leaves it. */
static void *open_and_delete(void *arg)
{
    sqlite3_vfs *v = sqlite3_vfs_find(arg);
    char path[150];
    sqlite3_file *f = calloc(1, (size_t)v->szOsFile);
    snprintf(path, sizeof path, "%s/state/live.db-wal", scratch);
    for (int i = 0; i < OPENINGS; i++) {
        int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_WAL, rc;
        if ((rc = v->xOpen(v, path, f, flags, &flags)) != SQLITE_OK)
            counter_failed = rc;
        else
            f->pMethods->xClose(f);
        rc = v->xDelete(v, path, 0);
        if (rc != SQLITE_OK && rc != SQLITE_IOERR_DELETE_NOENT)
            counter_failed = rc;
    }
    free(f);
    return NULL;
}

static void test_many_open_a_side_file_at_once(void **state)
{
    pthread_t threads[OPENERS];
    char *name = NULL;
    open_live(NULL);
    sqlite3 *c = connect_live();
    assert_int_equal(sqlite3_file_control(c, "main", SQLITE_FCNTL_VFSNAME, &name), SQLITE_OK);
    sqlite3_close(c);
    counter_failed = 0;
    for (int i = 0; i < OPENERS; i++)
        must(pthread_create(&threads[i], NULL, open_and_delete, name));
    for (int i = 0; i < OPENERS; i++)
        must(pthread_join(threads[i], NULL));
    sqlite3_free(name);
    assert_int_equal(counter_failed, 0);
}

/* --- connections --- */

static void test_connections_are_counted(void **state)
{
    open_live(NULL);
    unsigned before = bh_vfs_connections(live->vfs);
    sqlite3 *a = connect_live(), *b = connect_live();
    assert_int_equal(bh_vfs_connections(live->vfs), before + 2);
    sqlite3_close(a);
    sqlite3_close(b);
    assert_int_equal(bh_vfs_connections(live->vfs), before);
}

static void test_the_configured_journal_is_used(void **state)
{
    reconfigure((const char *[]){"live.journal=persist", NULL});
    open_live(NULL);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    assert_true(is_there("state/live.db-journal"));
}

static void test_a_transaction_over_two_databases(void **state)
{
    char text[300];
    open_live(NULL);
    sqlite3 *c = connect_live();
    snprintf(text, sizeof text, "ATTACH '%s' AS other", at("other.db"));
    must_sql(c, text);
    must_sql(c,
             "BEGIN; CREATE TABLE t(a); INSERT INTO t VALUES(1); CREATE TABLE other.u(a); COMMIT");
    sqlite3_close(c);
    c = connect_live();
    assert_int_equal(number(c, "SELECT a FROM t"), 1);
    sqlite3_close(c);
    assert_true(is_there("other.db"));
    struct bh_file *f;
    must_fail(bh_store_lookup(live->store, BH_JOURNAL_NAME, &f), ENOENT);
}

/* --- group commit --- */

static int slow_insert(sqlite3 *c, void *arg, struct bh_error *err)
{
    usleep(20000); /* others queue meanwhile */
    return run_text(c, arg, err);
}

static int failing(sqlite3 *c, void *arg, struct bh_error *err)
{
    (void)arg;
    sql(c, "INSERT INTO t VALUES(-1)");
    return bh_fail(err, EDOM, "on purpose");
}

struct writer {
    int id, failed, wrong;
};

enum { WRITERS = 8, JOBS = 10 };

static void *write_jobs(void *arg)
{
    struct writer *w = arg;
    struct bh_error err;
    char text[80];
    for (int i = 0; i < JOBS; i++) {
        snprintf(text, sizeof text, "INSERT INTO t VALUES(%d)", w->id * 1000 + i);
        w->wrong += bh_sql_run(live->sql, BH_SQL_WRITE, slow_insert, text, &err) != 0;
        if (i % 5 == 2) {
            int rc = bh_sql_run(live->sql, BH_SQL_WRITE, failing, NULL, &err);
            w->wrong += rc != EDOM || strcmp(err.text, "on purpose");
            w->failed++;
        }
    }
    return NULL;
}

static void test_jobs_share_transactions_and_fail_alone(void **state)
{
    pthread_t threads[WRITERS];
    struct writer writers[WRITERS] = {{0}};
    reconfigure((const char *[]){"live.window=200ms", NULL});
    open_live(NULL);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    uint64_t before = bh_sql_transactions(live->sql);
    for (int i = 0; i < WRITERS; i++) {
        writers[i].id = i;
        must(pthread_create(&threads[i], NULL, write_jobs, &writers[i]));
    }
    for (int i = 0; i < WRITERS; i++) {
        must(pthread_join(threads[i], NULL));
        assert_int_equal(writers[i].wrong, 0);
        assert_int_equal(writers[i].failed, 2);
    }
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(DISTINCT a) FROM t WHERE a>=0"), WRITERS * JOBS);
    assert_int_equal(number(c, "SELECT count(*) FROM t WHERE a<0"), 0);
    sqlite3_close(c);
    assert_in_range(bh_sql_transactions(live->sql) - before, 1, WRITERS * JOBS * 2 / 3);
}

static int roll_back(sqlite3 *c, void *arg, struct bh_error *err)
{
    (void)arg, (void)err;
    sql(c, "ROLLBACK");
    return 0;
}

static void test_a_job_that_ends_the_transaction_is_an_error(void **state)
{
    open_live(NULL);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    assert_int_not_equal(bh_sql_run(live->sql, BH_SQL_WRITE, roll_back, NULL, ERR), 0);
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(1)"));
}

static atomic_int posted_rc, posted_calls;

static void posted(void *arg, int rc, const struct bh_error *err)
{
    (void)arg, (void)err;
    posted_rc = rc;
    posted_calls++;
}

static void test_posted_jobs_end_on_their_own(void **state)
{
    static char good[] = "CREATE TABLE t(a)", bad[] = "NONSENSE";
    posted_calls = 0;
    open_live(NULL);
    must(bh_sql_post(live->sql, BH_SQL_WRITE, run_text, good, posted));
    must(bh_sql_post(live->sql, BH_SQL_WRITE, run_text, bad, posted));
    must(on_sql_thread(BH_SQL_READ, "SELECT 1")); /* behind them in the queue */
    assert_int_equal(posted_calls, 2);
    must_fail(posted_rc, EINVAL);
}

static void test_queued_jobs_are_run_at_the_end(void **state)
{
    static char text[] = "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(1)";
    open_live(NULL);
    for (int i = 0; i < 50; i++)
        must(bh_sql_post(live->sql, BH_SQL_WRITE, run_text, text, NULL));
    close_live();
    open_live(NULL);
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 50);
    sqlite3_close(c);
}

/* --- waiting for clients --- */

static int client_lock(enum bh_lock_type type, uint64_t start, uint64_t len)
{
    struct bh_lock_request r = {.set = &bh_store_db(live->store)->locks,
                                .owner = {.id = 1},
                                .pid = getpid(),
                                .type = type,
                                .start = start,
                                .end = start + len - 1};
    return bh_locks_request(bh_store_locks(live->store), &r);
}

static void test_a_clients_read_holds_writing_jobs_up_for_a_while(void **state)
{
    open_live(NULL);
    must(client_lock(BH_LOCK_READ, BH_SHARED_FIRST, BH_SHARED_SIZE));
    int64_t begin = bh_mono_ms();
    must_fail(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"), EBUSY);
    assert_in_range(bh_mono_ms() - begin, 290, 5000);
    char pid[20];
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    must_say(pid);
    must_say("unit-live-sql");
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM sqlite_master")); /* is in no reader's way */
    must(client_lock(BH_LOCK_WRITE, BH_RESERVED_BYTE, 1));
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM sqlite_master"));
    must(client_lock(BH_LOCK_WRITE, BH_PENDING_BYTE, 1));
    must_fail(on_sql_thread(BH_SQL_READ, "SELECT * FROM sqlite_master"), EBUSY);
    must(client_lock(BH_LOCK_NONE, 0, UINT64_MAX));
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    must(client_lock(BH_LOCK_READ, BH_SHARED_FIRST, 1)); /* the gate is open again */
}

static void *leave_soon(void *arg)
{
    usleep(100000);
    if (client_lock(BH_LOCK_NONE, 0, UINT64_MAX))
        abort();
    return arg;
}

static void test_a_job_waits_until_the_client_leaves(void **state)
{
    pthread_t thread;
    reconfigure((const char *[]){"live.busy_timeout=20s", NULL});
    open_live(NULL);
    must(client_lock(BH_LOCK_READ, BH_SHARED_FIRST, BH_SHARED_SIZE));
    must(pthread_create(&thread, NULL, leave_soon, NULL));
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    must(pthread_join(thread, NULL));
}

static void test_a_connections_transaction_holds_jobs_up(void **state)
{
    open_live(NULL);
    sqlite3 *c = connect_live();
    must_sql(c, "CREATE TABLE t(a); BEGIN EXCLUSIVE; INSERT INTO t VALUES(1)");
    must_fail(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"), EBUSY);
    must_fail(on_sql_thread(BH_SQL_READ, "SELECT * FROM t"), EBUSY);
    must_sql(c, "COMMIT");
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"));
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 2);
    sqlite3_close(c);
}

/* --- hooks --- */

static atomic_uint told_data, told_names, told_unlocked;

static void on_data(void *arg, struct bh_file *f, uint64_t offset, uint64_t len)
{
    (void)arg, (void)offset, (void)len;
    if (f->kind != BH_FILE_DB)
        return;
    told_data++;
    bool locked = false; /* by the daemon, against clients */
    struct bh_lock held;
    struct bh_lock_request r = {.set = &f->locks,
                                .owner = {.id = 1},
                                .type = BH_LOCK_READ,
                                .start = BH_SHARED_FIRST,
                                .end = BH_SHARED_FIRST};
    locked = bh_locks_test(bh_store_locks(f->store), &r, &held);
    told_unlocked += !locked;
}

static void on_name(void *arg, const char *name)
{
    (void)arg, (void)name;
    told_names++;
}

static void test_changes_are_told_before_the_lock_goes(void **state)
{
    open_live(NULL);
    told_data = told_names = told_unlocked = 0;
    bh_live_set_hooks(live,
                      &(struct bh_live_hooks){.data_changed = on_data, .name_changed = on_name});
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    assert_true(told_data > 0);
    assert_int_equal(told_unlocked, 0);
    assert_int_equal(told_names,
                     0); /* a journal made and deleted in between is nobody's business */
    unsigned before = told_data;
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM t"));
    assert_int_equal(told_data, before);
    sqlite3 *c = connect_live();
    must_sql(c, "PRAGMA journal_mode=PERSIST; INSERT INTO t VALUES(1)");
    sqlite3_close(c);
    assert_true(told_data > before);
    assert_true(told_names > 0); /* this journal stays */
    assert_int_equal(told_unlocked, 0);
}

/* Not ours, or left behind: SQLite hears that it cannot be opened, now. */
static void test_a_journal_that_only_the_disk_has(void **state)
{
    (void)state;
    open_live(NULL);
    sqlite3 *c = connect_live();
    must_sql(c, "PRAGMA journal_mode=DELETE; CREATE TABLE t(n)");
    put_file("state/" BH_JOURNAL_NAME, "", 0);
    assert_int_equal(sql(c, "INSERT INTO t VALUES(1)"), SQLITE_CANTOPEN);
    assert_int_equal(unlink(at("state/" BH_JOURNAL_NAME)), 0);
    must_sql(c, "INSERT INTO t VALUES(1)");
    sqlite3_close(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_journal_that_only_the_disk_has),
        TEST(test_counter_with_delete),
        TEST(test_counter_with_truncate),
        TEST(test_counter_with_persist),
        TEST(test_counter_with_memory),
        TEST(test_counter_with_off),
        TEST(test_counter_with_wal),
        TEST(test_many_open_a_side_file_at_once),
        TEST(test_connections_are_counted),
        TEST(test_the_configured_journal_is_used),
        TEST(test_a_transaction_over_two_databases),
        TEST(test_jobs_share_transactions_and_fail_alone),
        TEST(test_a_job_that_ends_the_transaction_is_an_error),
        TEST(test_posted_jobs_end_on_their_own),
        TEST(test_queued_jobs_are_run_at_the_end),
        TEST(test_a_clients_read_holds_writing_jobs_up_for_a_while),
        TEST(test_a_job_waits_until_the_client_leaves),
        TEST(test_a_connections_transaction_holds_jobs_up),
        TEST(test_changes_are_told_before_the_lock_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
