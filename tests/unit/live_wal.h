/* Logs as stock SQLite writes them, for tests of what is found in them: SCRATCH/w.db with its log,
 * what SQLite itself reads from copies of the two, and the live database in write-ahead mode. */
#ifndef LIVE_WAL_H
#define LIVE_WAL_H

#include "live_db.h"

#include "live/wal.h"

/* A stock database in write-ahead mode that checkpoints only when it is told to. */
static inline sqlite3 *stock_wal(const char *name, int page_size)
{
    char text[200];
    sqlite3 *c = stock(name);
    snprintf(text, sizeof text,
             "PRAGMA page_size=%d; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; "
             "PRAGMA synchronous=OFF; PRAGMA cache_size=5",
             page_size);
    must_sql(c, text);
    must_sql(c, "CREATE TABLE t(n INTEGER PRIMARY KEY, v INT, fill BLOB)");
    return c;
}

static inline void add_rows(sqlite3 *c, int rows)
{
    char text[240];
    snprintf(text, sizeof text,
             "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<%d) INSERT INTO "
             "t(v, fill) SELECT %u, randomblob(%u) FROM i",
             rows, any(1000), 10 + any(1500));
    must_sql(c, text);
}

/* A connection to the live database that leaves the log as it is when it is the last to close. */
static inline sqlite3 *connect_wal(void)
{
    sqlite3 *c = connect_live();
    must_sql(c, "PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=5; PRAGMA synchronous=OFF");
    sqlite3_db_config(c, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return c;
}

/* Opens the live database in write-ahead mode, with the empty table t. */
static inline sqlite3 *begin_wal(int page_size)
{
    char text[160];
    open_live(NULL);
    sqlite3 *c = connect_wal();
    snprintf(text, sizeof text, "PRAGMA page_size=%d; PRAGMA journal_mode=WAL", page_size);
    must_sql(c, text);
    must_sql(c, "CREATE TABLE t(n INTEGER PRIMARY KEY, v INT, fill BLOB)");
    assert_true(bh_store_is_wal(live->store));
    return c;
}

static const char *const checkpoints[] = {
    "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(FULL)",
    "PRAGMA wal_checkpoint(RESTART)", "PRAGMA wal_checkpoint(TRUNCATE)"};

/* One transaction of any kind. */
static inline void random_transaction(sqlite3 *c)
{
    char text[160];
    switch (any(6)) {
    case 0:
        must_sql(c, "BEGIN; UPDATE t SET fill=randomblob(900)"); /* spills into the log */
        must_sql(c, any(2) ? "ROLLBACK" : "COMMIT");
        break;
    case 1:
        snprintf(text, sizeof text, "DELETE FROM t WHERE n%%3=%u", any(3));
        must_sql(c, text);
        break;
    case 2:
        snprintf(text, sizeof text, "UPDATE t SET v=v+1 WHERE n=%u", any(40));
        must_sql(c, text);
        break;
    default:
        add_rows(c, 1 + (int)any(12));
    }
}

/* The content of a database as SQLite reads it, freed with sqlite3_free. */
static inline unsigned char *sqlite_reads(sqlite3 *c, size_t *size)
{
    sqlite3_int64 n = 0;
    unsigned char *data = sqlite3_serialize(c, "main", &n, 0);
    if (!data && n > 0)
        fail_msg("SQLite cannot read it: %s", sqlite3_errmsg(c));
    *size = (size_t)n;
    return data;
}

struct log {
    unsigned char *data; /* of exactly `size` bytes, so that ASan sees a step too far */
    size_t size;
    int fail_at; /* the how-many-th read from now fails; 0: none does */
};

static inline int read_log(void *arg, void *buf, size_t len, uint64_t offset)
{
    struct log *l = arg;
    if (l->fail_at > 0 && --l->fail_at == 0)
        return EIO;
    if (offset > l->size || len > l->size - offset)
        abort(); /* beyond the size that it was told */
    memcpy(buf, l->data + offset, len);
    return 0;
}

static inline struct log load_log(const char *name)
{
    struct log l = {0};
    unsigned char *data = get_file(name, &l.size);
    l.data = malloc(l.size ? l.size : 1);
    assert_non_null(l.data);
    memcpy(l.data, data, l.size);
    free(data);
    return l;
}

static inline struct bh_wal_map scan_log(struct log *l)
{
    struct bh_wal_map m;
    must(bh_wal_scan(&m, l->size, read_log, l));
    return m;
}

#endif
