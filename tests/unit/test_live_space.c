/* Full disks: real ones (a small tmpfs in a mount namespace of the child's own) and limits on the
 * size of files. Nothing committed may be lost, and work goes on when there is space again. */
#include "live_db.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

/* Mounts a tmpfs of so many KiB on SCRATCH/state; 77 where that is not allowed. */
static int small_disk(const char *size)
{
    char option[40];
    snprintf(option, sizeof option, "size=%s,mode=700", size);
    mkdir(at("state"), 0700);
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("small", at("state"), "tmpfs", 0, option) != 0)
        return 77;
    return 0;
}

static int fill_until_error(sqlite3 *c, int64_t *committed)
{
    for (int i = 0; i < 300; i++) {
        int rc = sql(c, "INSERT INTO t(fill) VALUES(zeroblob(3000))");
        if (rc)
            return rc;
        ++*committed;
    }
    return SQLITE_OK;
}

static void check_committed(sqlite3 *c, int64_t committed)
{
    child_check(number(c, "SELECT count(*) FROM t") == committed);
    child_check(
        number(c, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check='ok'") == 1);
}

static sqlite3 *child_connect(void)
{
    sqlite3 *c = NULL;
    child_check(bh_vfs_connect(live->vfs, false, &c, ERR) == 0);
    sqlite3_busy_timeout(c, 5000);
    return c;
}

static const char *const make_table = "CREATE TABLE t(n INTEGER PRIMARY KEY, fill BLOB)";

static int full_disk(void)
{
    int64_t committed = 0;
    if (small_disk("512k"))
        return 77;
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    sqlite3 *c = child_connect();
    child_check(sql(c, make_table) == 0);
    child_check(fill_until_error(c, &committed) == SQLITE_FULL);
    child_check(committed > 20);
    check_committed(c, committed);
    child_check(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t(fill) VALUES(zeroblob(400000))") ==
                ENOSPC);
    check_committed(c, committed);
    child_check(mount("small", at("state"), "tmpfs", MS_REMOUNT, "size=4m,mode=700") == 0);
    child_check(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t(fill) VALUES(zeroblob(400000))") == 0);
    check_committed(c, committed + 1);
    sqlite3_close(c);
    bh_live_close(live);
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    c = child_connect();
    check_committed(c, committed + 1);
    return 0;
}

static void test_a_full_disk_fails_the_transaction_only(void **state)
{
    in_child(full_disk);
}

/* The others of the same transaction must not be said to be committed. */
static atomic_int group_ok, group_failed;

static int slow_small(sqlite3 *c, void *arg, struct bh_error *err)
{
    usleep(5000);
    return run_text(c, arg, err);
}

static void *small_jobs(void *arg)
{
    struct bh_error err;
    for (int i = 0; i < 20; i++)
        if (bh_sql_run(live->sql, BH_SQL_WRITE, slow_small,
                       (void *)(uintptr_t) "INSERT INTO t(fill) VALUES(zeroblob(6000))", &err))
            group_failed++;
        else
            group_ok++;
    return arg;
}

static int full_disk_in_a_group(void)
{
    pthread_t threads[4];
    if (small_disk("300k"))
        return 77;
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    child_check(on_sql_thread(BH_SQL_WRITE, make_table) == 0);
    for (int i = 0; i < 4; i++)
        child_check(pthread_create(&threads[i], NULL, small_jobs, NULL) == 0);
    for (int i = 0; i < 4; i++)
        child_check(pthread_join(threads[i], NULL) == 0);
    child_check(group_ok > 5);
    child_check(group_failed > 5);
    sqlite3 *c = child_connect();
    check_committed(c, group_ok);
    return 0;
}

static void test_a_full_disk_fails_everyone_in_the_group(void **state)
{
    in_child(full_disk_in_a_group);
}

static int full_disk_freeze(void)
{
    struct bh_frozen *z;
    char buf[4096];
    int64_t committed = 0;
    if (small_disk("1m"))
        return 77;
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    sqlite3 *c = child_connect();
    child_check(sql(c, "PRAGMA journal_mode=MEMORY") ==
                0); /* so that only the freeze needs space */
    child_check(sql(c, make_table) == 0);
    while (bh_file_size(bh_store_db(live->store)) < 600000)
        child_check(sql(c, "INSERT INTO t(fill) VALUES(zeroblob(3000))") == 0 && ++committed);
    child_check(bh_live_freeze(live, false, &z, ERR) == 0);
    child_check(sql(c, "UPDATE t SET fill=randomblob(3000)") == 0); /* the writer is not held up */
    child_check(bh_frozen_read(z, buf, sizeof buf, 0) == ENOSPC);
    child_check(bh_store_thaw(z, false) == 0);
    check_committed(c, committed);
    child_check(bh_live_freeze(live, false, &z, ERR) == 0); /* the space is there again */
    child_check(bh_frozen_read(z, buf, sizeof buf, 0) == 0);
    child_check(bh_store_thaw(z, false) == 0);
    return 0;
}

static void test_a_full_disk_breaks_a_freeze_not_its_writers(void **state)
{
    in_child(full_disk_freeze);
}

/* A client without a journal: its write is refused before anything is overwritten that could not be
 * put back. */
static int full_disk_undo(void)
{
    int64_t committed = 0;
    char junk[4096] = "junk";
    if (small_disk("1m"))
        return 77;
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    sqlite3 *c = child_connect();
    child_check(sql(c, make_table) == 0);
    while (bh_file_size(bh_store_db(live->store)) < 700000)
        child_check(sql(c, "INSERT INTO t(fill) VALUES(zeroblob(3000))") == 0 && ++committed);
    struct bh_file *db = bh_store_db(live->store);
    uint64_t offset = 0, size = bh_file_size(db);
    int rc = 0;
    for (; rc == 0 && offset < size; offset += rc == 0 ? sizeof junk : 0)
        rc = bh_file_write(db, BH_DOOR_CLIENT, junk, sizeof junk, offset);
    child_check(rc == ENOSPC);
    child_check(offset > 40960);
    child_check(bh_store_undo_play(live->store, NULL, NULL) == 0);
    sqlite3_close(c);
    bh_live_close(live);
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    check_committed(child_connect(), committed);
    return 0;
}

static void test_a_full_disk_refuses_a_write_that_could_not_be_undone(void **state)
{
    in_child(full_disk_undo);
}

static int full_disk_replace(void)
{
    if (small_disk("400k"))
        return 77;
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    child_check(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a); INSERT INTO t VALUES(7)") == 0);
    copy_file("new.db", "state/incoming.db");
    FILE *f = fopen(at("state/ballast"), "we"); /* not a block is left */
    for (int i = 0; i < 500 && f; i++)
        if (fwrite((char[4096]){0}, 4096, 1, f) != 1 || fflush(f))
            break;
    struct bh_base base = {.is_base = false};
    child_check(bh_live_replace(live, "incoming.db", &base, ERR) != 0);
    sqlite3 *c = child_connect();
    child_check(number(c, "SELECT a FROM t") == 7);
    sqlite3_close(c);
    bh_live_close(live);
    unlink(at("state/ballast"));
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    c = child_connect();
    child_check(number(c, "SELECT a FROM t") == 7);
    return 0;
}

static void test_a_full_disk_leaves_the_old_content(void **state)
{
    make_stock("new.db", "u", 100);
    in_child(full_disk_replace);
}

/* EFBIG, in the middle of the database file and of its journal. */
static int size_limit(void)
{
    int64_t committed = 0;
    signal(SIGXFSZ, SIG_IGN);
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    sqlite3 *c = child_connect();
    child_check(sql(c, make_table) == 0);
    struct rlimit limit, whole;
    child_check(getrlimit(RLIMIT_FSIZE, &whole) == 0);
    limit = whole;
    limit.rlim_cur = 300000;
    child_check(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    int rc = fill_until_error(c, &committed);
    child_check(rc == SQLITE_FULL || (rc & 0xFF) == SQLITE_IOERR);
    child_check(committed > 50);
    check_committed(c, committed);
    rc = on_sql_thread(BH_SQL_WRITE, "INSERT INTO t(fill) VALUES(zeroblob(400000))");
    child_check(rc == ENOSPC || rc == EIO || rc == EFBIG);
    check_committed(c, committed);
    child_check(setrlimit(RLIMIT_FSIZE, &whole) == 0);
    child_check(fill_until_error(c, &committed) == SQLITE_OK);
    check_committed(c, committed);
    return 0;
}

static void test_a_limit_on_files_fails_the_transaction_only(void **state)
{
    in_child(size_limit);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_full_disk_fails_the_transaction_only),
        TEST(test_a_full_disk_fails_everyone_in_the_group),
        TEST(test_a_full_disk_breaks_a_freeze_not_its_writers),
        TEST(test_a_full_disk_refuses_a_write_that_could_not_be_undone),
        TEST(test_a_full_disk_leaves_the_old_content),
        TEST(test_a_limit_on_files_fails_the_transaction_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
