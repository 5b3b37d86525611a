/* What names.db remembers for table filestore of the live database: which of its rows were looked
 * at, and contents that have lost their last name, whose rows are to go. The database itself notes
 * these, so that it is the same transaction, whatever ended in between. */
#include <errno.h>
#include <string.h>

#include "store/names_private.h"

/* Nanoseconds since 1970: of the checkpoint. */
#define NOW "CAST((julianday('now') - 2440587.5) * 86400e9 AS INTEGER)"

/* Not INSERT OR REPLACE: where an INSERT ... ON CONFLICT fires a trigger, that is overruled. */
#define NOTE                                                                                       \
    "WHEN old.hash IS NOT NULL AND NOT EXISTS (SELECT 1 FROM inodes WHERE hash IS NOT NULL AND "   \
    "hash = old.hash AND nlink > 0) BEGIN DELETE FROM dropped WHERE hash = old.hash; "             \
    "INSERT INTO dropped VALUES(old.hash, " NOW "); END;"

/* Where a file keeps its content, it is one of those that have it, unless it has no name. */
static const char schema[] =
    "CREATE TABLE IF NOT EXISTS dropped(hash BLOB PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TRIGGER IF NOT EXISTS inodes_gone AFTER DELETE ON inodes " NOTE
    "CREATE TRIGGER IF NOT EXISTS inodes_other AFTER UPDATE OF hash ON inodes " NOTE;

int db_make_dropped(sqlite3 *db, struct bh_error *err)
{
    return sqlite3_exec(db, schema, NULL, NULL, NULL) == SQLITE_OK
               ? 0
               : db_fail(db, err, "names.db cannot be written");
}

static int put_each(struct bh_names *n, const char *sql, const struct bytes *hashes,
                    struct bh_error *err)
{
    sqlite3_stmt *st = NULL;
    if (hashes->len == 0)
        return 0;
    int code = sqlite3_prepare_v2(n->writer, sql, -1, &st, NULL);
    for (size_t at = 0; code == SQLITE_OK && at < hashes->len; at += BH_SHA256_LEN) {
        sqlite3_bind_blob(st, 1, hashes->data + at, BH_SHA256_LEN, SQLITE_STATIC);
        sqlite3_step(st);
        code = sqlite3_reset(st);
    }
    int rc = code == SQLITE_OK ? 0 : db_fail(n->writer, err, "names.db cannot be written");
    sqlite3_finalize(st);
    return rc;
}

/* What is to be forgotten last: its row has gone, and none has come since. */
int put_dropped(struct bh_names *n, struct bh_error *err)
{
    int rc = put_each(n,
                      "INSERT OR REPLACE INTO dropped SELECT ?1, " NOW " WHERE NOT EXISTS "
                      "(SELECT 1 FROM inodes WHERE hash IS NOT NULL AND hash = ?1 AND nlink > 0)",
                      &n->losing, err);
    return rc ? rc : put_each(n, "DELETE FROM dropped WHERE hash = ?1", &n->forgetting, err);
}

/* The triggers do not see one that came and went between two checkpoints. Without memory for it
 * upstream's row of it gets a name again, if it is never flushed. */
void note_lost(struct bh_names *n, const struct inode *i, const struct bh_inode *to, bool gone)
{
    const uint8_t *hash = i->i.content.hash;
    bool has = !gone && to->nlink > 0 && memcmp(hash, to->content.hash, BH_SHA256_LEN) == 0;
    if (has || i->i.nlink == 0 || bh_sha256_is_none(hash) || !bytes_room(&n->lost, BH_SHA256_LEN))
        return;
    memcpy(n->lost.data + n->lost.len, hash, BH_SHA256_LEN);
    n->lost.len += BH_SHA256_LEN;
}

int bh_names_forget(struct bh_names *n, const uint8_t hash[BH_SHA256_LEN])
{
    pthread_mutex_lock(&n->mutex);
    bool room = bytes_room(&n->forget, BH_SHA256_LEN);
    if (room) {
        memcpy(n->forget.data + n->forget.len, hash, BH_SHA256_LEN);
        n->forget.len += BH_SHA256_LEN;
        n->loud = true;
    }
    pthread_mutex_unlock(&n->mutex);
    return room ? 0 : ENOMEM;
}

static int read_dropped(struct reader *r, int (*fn)(void *arg, const uint8_t *hash, int64_t at),
                        void *arg, struct bh_error *err)
{
    static const char sql[] = "SELECT hash, at FROM dropped d WHERE NOT EXISTS (SELECT 1 FROM "
                              "inodes i WHERE i.hash IS NOT "
                              "NULL AND i.hash = d.hash AND i.nlink > 0)";
    sqlite3_stmt *st = NULL;
    bool row;
    /* The statement looks whether the schema that the connection knows is still the one. */
    sqlite3_exec(r->db, "SELECT 1 FROM sqlite_master LIMIT 1", NULL, NULL, NULL);
    if (sqlite3_table_column_metadata(r->db, NULL, "dropped", "hash", NULL, NULL, NULL, NULL,
                                      NULL) != SQLITE_OK)
        return 0; /* of an older bhfs; what else is wrong the next query says */
    if (sqlite3_prepare_v2(r->db, sql, -1, &st, NULL) != SQLITE_OK)
        return db_fail(r->db, err, "names.db cannot be read");
    int rc = 0;
    while (rc == 0 && (rc = row_step(st, &row, err)) == 0 && row)
        if (sqlite3_column_bytes(st, 0) == BH_SHA256_LEN)
            rc = fn(arg, sqlite3_column_blob(st, 0), sqlite3_column_int64(st, 1));
    sqlite3_finalize(st);
    return rc;
}

int bh_names_each_dropped(struct bh_names *n,
                          int (*fn)(void *arg, const uint8_t hash[BH_SHA256_LEN], int64_t at),
                          void *arg, struct bh_error *err)
{
    struct reader *r = NULL;
    struct load l;
    bool tables;
    pthread_mutex_lock(&n->mutex);
    bool loud = n->loud;
    pthread_mutex_unlock(&n->mutex);
    int rc = loud ? bh_names_checkpoint(n, err) : 0;
    if (rc == 0)
        rc = load_open(n, &l, &tables, err);
    if (rc)
        return rc;
    if (tables)
        rc = reader_get(n, &r, err);
    if (r) {
        rc = read_dropped(r, fn, arg, err);
        reader_put(n, r, rc == 0);
    }
    /* True: files_adopt.c holds `publishing`, without which nothing is swapped. */
    load_close(n, &l);
    return rc;
}

void bh_names_rows(struct bh_names *n, struct bh_names_rows *out)
{
    pthread_mutex_lock(&n->mutex);
    *out = n->rows;
    pthread_mutex_unlock(&n->mutex);
}

void bh_names_set_rows(struct bh_names *n, const struct bh_names_rows *rows)
{
    pthread_mutex_lock(&n->mutex);
    n->rows = *rows;
    pthread_mutex_unlock(&n->mutex);
}

void bh_names_quiet(struct bh_names *n, bool quiet)
{
    pthread_mutex_lock(&n->mutex);
    n->quiet = quiet;
    n->quiet_thread = pthread_self();
    pthread_mutex_unlock(&n->mutex);
}

bool is_quiet(const struct bh_names *n)
{
    return n->quiet && pthread_equal(n->quiet_thread, pthread_self());
}
