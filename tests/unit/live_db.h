/* A live database for a test: SCRATCH/state on the bucket SCRATCH/bucket, SQL in one line, files as
 * a crash leaves them. */
#ifndef LIVE_DB_H
#define LIVE_DB_H

#include "live_fixture.h"

#include <sqlite3.h>

#include "config/config.h"
#include "live/live.h"

static struct bh_config *cfg;
static struct bh_live *live;

/* Settings like "live.journal=persist", up to the first NULL, over those that tests want. */
static inline struct bh_config *configured(const char *const *more)
{
    char bucket[100], state[100];
    const char *settings[16] = {bucket,
                                state,
                                "snapshot.interval=0",
                                "bucket.attempts=1",
                                "live.busy_timeout=300ms",
                                "snapshot.stop_timeout=1s"};
    size_t count = 6;
    while (more && *more)
        settings[count++] = *more++;
    snprintf(bucket, sizeof bucket, "bucket.url=file://%s/bucket", scratch);
    snprintf(state, sizeof state, "live.dir=%s/state", scratch);
    struct bh_config_request req = {.overrides = settings, .override_count = count};
    struct bh_config *c = NULL;
    must(bh_config_load(&c, &req, ERR));
    return c;
}

static inline void open_live(const char *mountpoint)
{
    must(bh_live_open(&live, cfg, mountpoint, ERR));
}

static inline void close_live(void)
{
    bh_live_close(live);
    live = NULL;
}

static inline int db_setup(void **state)
{
    if (scratch_setup(state))
        return -1;
    seed_random(1);
    make_dir("bucket");
    cfg = configured(NULL);
    return 0;
}

static inline int db_teardown(void **state)
{
    bh_live_close(live);
    live = NULL;
    bh_config_free(cfg);
    cfg = NULL;
    return scratch_teardown(state);
}

/* Other settings for the rest of the test. */
static inline void reconfigure(const char *const *settings)
{
    struct bh_config *fresh = configured(settings);
    bh_config_free(cfg);
    cfg = fresh;
}

/* --- SQL --- */

/* The SQLite code; usable on any thread. */
static inline int sql(sqlite3 *c, const char *text)
{
    return sqlite3_exec(c, text, NULL, NULL, NULL);
}

static inline void must_sql_(sqlite3 *c, const char *text, const char *file, int line)
{
    int rc = sql(c, text);
    if (rc == SQLITE_OK)
        return;
    print_error("%s:%d: %s: %s (%d)\n", file, line, text, sqlite3_errmsg(c), rc);
    _fail(file, line);
}
#define must_sql(c, text) must_sql_((c), (text), __FILE__, __LINE__)

/* The first column of the first row: a number, or -1 for an error, -2 for no row. Usable on any
 * thread. */
static inline int64_t number(sqlite3 *c, const char *query)
{
    sqlite3_stmt *st;
    if (sqlite3_prepare_v2(c, query, -1, &st, NULL) != SQLITE_OK)
        return -1;
    int rc = sqlite3_step(st);
    int64_t n = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : rc == SQLITE_DONE ? -2 : -1;
    sqlite3_finalize(st);
    return n;
}

static inline void must_be_whole(sqlite3 *c)
{
    assert_int_equal(
        number(c, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check='ok'"), 1);
}

static inline sqlite3 *connect_live(void)
{
    sqlite3 *c;
    must(bh_vfs_connect(live->vfs, false, &c, ERR));
    sqlite3_busy_timeout(c, 10000);
    return c;
}

static inline sqlite3 *stock(const char *name)
{
    sqlite3 *c;
    assert_int_equal(sqlite3_open(at(name), &c), SQLITE_OK);
    return c;
}

/* SCRATCH/name: a database of SQLite's own with rows 1 to `rows` of a table `name_table`(n, fill).
 */
static inline void make_stock(const char *name, const char *table, int rows)
{
    char text[300];
    sqlite3 *c = stock(name);
    snprintf(text, sizeof text,
             "CREATE TABLE %s(n INTEGER PRIMARY KEY, fill BLOB); WITH RECURSIVE i(n) AS (SELECT 1 "
             "UNION ALL SELECT n+1 "
             "FROM i WHERE n<%d) INSERT INTO %s SELECT n, zeroblob(500) FROM i",
             table, rows, table);
    must_sql(c, text);
    sqlite3_close(c);
}

/* A job that runs its argument, SQL text. */
static inline int run_text(sqlite3 *c, void *arg, struct bh_error *err)
{
    return sql(c, arg) == SQLITE_OK ? 0 : bh_sqlite_fail(c, err, "the test's SQL");
}

static inline int on_sql_thread(enum bh_sql_kind kind, const char *text)
{
    return bh_sql_run(live->sql, kind, run_text, (void *)(uintptr_t)text, ERR);
}

/* --- crashes --- */

/* A state directory whose client died just before it deleted its journal: table t had 50 rows with
 * v=1, the transaction set v=2. super: the name of its super-journal, or NULL. */
static inline void leave_hot_journal(const char *super)
{
    sqlite3 *c = stock("crash.db");
    must_sql(c, "PRAGMA synchronous=OFF; CREATE TABLE t(n INTEGER PRIMARY KEY, v INT, fill BLOB); "
                "WITH RECURSIVE i(n) "
                "AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<50) INSERT INTO t SELECT n, 1, "
                "zeroblob(900) FROM i");
    must_sql(c, "BEGIN; UPDATE t SET v=2");
    copy_file("crash.db-journal", "crash.journal");
    must_sql(c, "COMMIT");
    sqlite3_close(c);
    if (super) { /* SQLite file format, "The Rollback Journal": the page of the lock byte, name,
                    length, sum, magic */
        unsigned char tail[20] = {0, 0x04, 0, 1};
        static const unsigned char magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
        size_t len = strlen(super);
        uint32_t sum = 0;
        for (size_t i = 0; i < len; i++)
            sum += (uint32_t)(signed char)super[i];
        FILE *f = fopen(at("crash.journal"), "ae");
        assert_non_null(f);
        assert_int_equal(fwrite(tail, 4, 1, f), 1);
        assert_int_equal(fwrite(super, len, 1, f), 1);
        unsigned char end[16] = {0, 0, (unsigned char)(len >> 8), (unsigned char)len};
        for (int i = 0; i < 4; i++)
            end[4 + i] = (unsigned char)(sum >> (24 - 8 * i));
        memcpy(end + 8, magic, 8);
        assert_int_equal(fwrite(end, sizeof end, 1, f), 1);
        assert_int_equal(fclose(f), 0);
    }
    if (!is_there("state")) {
        open_live(NULL);
        close_live();
    }
    copy_file("crash.db", "state/db.1");
    copy_file("crash.journal", "state/live.db-journal");
}

#endif
