/* names.db. Tables (docs/FORMAT.md has the same for people):
 *
 *   inodes    one row each; unsigned numbers of 64 bits as SQLite's signed ones
 *   entries   names in directories
 *   symlinks  targets of symbolic links
 *   xattrs    extended attributes
 *   meta      format: 1; state: random, another one after each checkpoint, by which the log knows
 *             its database; applied: number of the log's last frame that is in it; next_ino;
 *             inodes: how many; row, row_mark: of table filestore (names_dropped.c)
 *   dropped   contents that have lost their last name
 *
 * An empty database is an empty tree; tables are made by the first checkpoint. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "live/vfs.h"
#include "store/names_private.h"

#define FORMAT 1

static const char tables[] =
    "CREATE TABLE inodes(ino INTEGER PRIMARY KEY, mode INTEGER NOT NULL, nlink INTEGER NOT NULL, "
    "uid INTEGER NOT NULL, gid INTEGER NOT NULL, rdev INTEGER NOT NULL, atime INTEGER NOT NULL, "
    "mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, parent INTEGER NOT NULL, "
    "entries INTEGER NOT NULL, size INTEGER NOT NULL, data INTEGER NOT NULL, hash BLOB, "
    "hash_size INTEGER NOT NULL);"
    "CREATE INDEX inodes_hash ON inodes(hash) WHERE hash IS NOT NULL;"
    "CREATE INDEX inodes_data ON inodes(data) WHERE data != 0;"
    "CREATE INDEX inodes_unnamed ON inodes(ino) WHERE nlink = 0;"
    "CREATE TABLE entries(dir INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, "
    "PRIMARY KEY(dir, name)) WITHOUT ROWID;"
    "CREATE TABLE symlinks(ino INTEGER PRIMARY KEY, target BLOB NOT NULL);"
    "CREATE TABLE xattrs(ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, "
    "PRIMARY KEY(ino, name)) WITHOUT ROWID;"
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO meta VALUES('format', 1);";

/* What row_inode reads. */
#define INODE_ROW                                                                                  \
    "i.ino, i.mode, i.nlink, i.uid, i.gid, i.rdev, i.atime, i.mtime, i.ctime, i.parent, "          \
    "i.entries, i.size, i.data, i.hash, i.hash_size, "                                             \
    "CASE WHEN i.mode & 61440 = 40960 THEN (SELECT target FROM symlinks s WHERE s.ino = i.ino) "   \
    "END, EXISTS(SELECT 1 FROM xattrs x WHERE x.ino = i.ino)"

static const char *const get_sql[GETS] = {
    [GET_INODE] = "SELECT " INODE_ROW " FROM inodes i WHERE i.ino = ?1",
    [GET_NAME] = "SELECT e.ino, " INODE_ROW " FROM entries e LEFT JOIN inodes i ON i.ino = e.ino "
                 "WHERE e.dir = ?1 AND e.name = ?2",
    [GET_XATTRS] = "SELECT name, value FROM xattrs WHERE ino = ?1",
    [GET_LIST] = "SELECT e.ino, " INODE_ROW ", e.name FROM entries e LEFT JOIN inodes i "
                 "ON i.ino = e.ino WHERE e.dir = ?1",
    [GET_LOCAL] = "SELECT ino FROM inodes WHERE data != 0",
    [GET_HASH] = "SELECT ino, hash_size FROM inodes WHERE hash IS NOT NULL AND hash = ?1 AND "
                 "nlink > 0",
    [GET_BLOBS] = "SELECT hash, hash_size FROM inodes WHERE hash IS NOT NULL AND nlink > 0 "
                  "ORDER BY hash",
};

static const char *const put_sql[PUTS] = {
    [PUT_INODE] = "INSERT INTO inodes VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15) "
                  "ON CONFLICT(ino) DO UPDATE SET mode=?2, nlink=?3, uid=?4, gid=?5, rdev=?6, "
                  "atime=?7, mtime=?8, ctime=?9, parent=?10, entries=?11, size=?12, data=?13, "
                  "hash=?14, hash_size=?15",
    [PUT_TARGET] = "INSERT OR REPLACE INTO symlinks VALUES(?1, ?2)",
    [PUT_NAME] = "INSERT OR REPLACE INTO entries VALUES(?1, ?2, ?3)",
    [PUT_XATTR] = "INSERT OR REPLACE INTO xattrs VALUES(?1, ?2, ?3)",
    [PUT_META] = "INSERT OR REPLACE INTO meta VALUES(?1, ?2)",
    [DROP_INODE] = "DELETE FROM inodes WHERE ino = ?1",
    [DROP_TARGET] = "DELETE FROM symlinks WHERE ino = ?1",
    [DROP_NAME] = "DELETE FROM entries WHERE dir = ?1 AND name = ?2",
    [DROP_XATTR] = "DELETE FROM xattrs WHERE ino = ?1 AND name = ?2",
    [DROP_XATTRS] = "DELETE FROM xattrs WHERE ino = ?1",
};

/* --- connections --- */

int db_open(struct bh_names *n, sqlite3 **db, struct bh_error *err)
{
    *db = NULL;
    int rc = n->opt.connect(n->opt.arg, db, err);
    if (rc == 0)
        sqlite3_busy_timeout(*db, 10000);
    return rc;
}

int db_fail(sqlite3 *db, struct bh_error *err, const char *what)
{
    int code = bh_sqlite_code(db);
    if (code == EINVAL) /* a table or a column is not what it should be */
        return bh_fail(err, EIO, "names.db is damaged: %s", sqlite3_errmsg(db));
    if (code == 0 || code == EINTR || code == EBUSY)
        code = EIO;
    return bh_fail(err, code, "%s: %s (SQLite code %d)", what, sqlite3_errmsg(db),
                   sqlite3_extended_errcode(db));
}

static int stmt(sqlite3 *db, sqlite3_stmt **slot, const char *text, sqlite3_stmt **out,
                struct bh_error *err)
{
    *out = *slot;
    if (*slot)
        return 0;
    if (sqlite3_prepare_v3(db, text, -1, SQLITE_PREPARE_PERSISTENT, slot, NULL) != SQLITE_OK) {
        return db_fail(db, err, "names.db cannot be used");
    }
    *out = *slot;
    return 0;
}

void reader_close(struct reader *r)
{
    for (int i = 0; i < GETS; i++)
        sqlite3_finalize(r->get[i]);
    sqlite3_close(r->db);
    free(r);
}

int reader_get(struct bh_names *n, struct reader **out, struct bh_error *err)
{
    pthread_mutex_lock(&n->mutex);
    struct reader *r = n->readers;
    if (r)
        n->readers = r->next;
    pthread_mutex_unlock(&n->mutex);
    if (!r) {
        r = calloc(1, sizeof *r);
        int rc = r ? db_open(n, &r->db, err) : bh_fail(err, ENOMEM, "out of memory for names.db");
        if (rc) {
            free(r);
            return rc;
        }
    }
    *out = r;
    return 0;
}

void reader_reset(struct reader *r)
{
    for (int i = 0; i < GETS; i++)
        if (r->get[i]) {
            sqlite3_reset(r->get[i]);
            sqlite3_clear_bindings(r->get[i]);
        }
}

/* What failed is not used again: the connection may be at fault. */
void reader_put(struct bh_names *n, struct reader *r, bool good)
{
    reader_reset(r);
    if (!good) {
        reader_close(r);
        return;
    }
    pthread_mutex_lock(&n->mutex);
    r->next = n->readers;
    n->readers = r;
    pthread_mutex_unlock(&n->mutex);
}

int reader_stmt(struct reader *r, int which, sqlite3_stmt **out, struct bh_error *err)
{
    return stmt(r->db, &r->get[which], get_sql[which], out, err);
}

void readers_close(struct bh_names *n)
{
    pthread_mutex_lock(&n->mutex);
    struct reader *r = n->readers;
    n->readers = NULL;
    pthread_mutex_unlock(&n->mutex);
    while (r) {
        struct reader *next = r->next;
        reader_close(r);
        r = next;
    }
}

int writer_stmt(struct bh_names *n, int which, sqlite3_stmt **out, struct bh_error *err)
{
    return stmt(n->writer, &n->put[which], put_sql[which], out, err);
}

void writer_close(struct bh_names *n)
{
    for (int i = 0; i < PUTS; i++) {
        sqlite3_finalize(n->put[i]);
        n->put[i] = NULL;
    }
    sqlite3_close(n->writer);
    n->writer = NULL;
}

int db_make_tables(sqlite3 *db, struct bh_error *err)
{
    return sqlite3_exec(db, tables, NULL, NULL, NULL) == SQLITE_OK
               ? 0
               : db_fail(db, err, "the tables of names.db cannot be made");
}

/* --- meta --- */

/* -1: there is none. */
static int64_t one_number(sqlite3 *db, const char *text, int *rc, struct bh_error *err)
{
    sqlite3_stmt *st = NULL;
    int64_t v = -1;
    if (*rc)
        return v;
    int code = sqlite3_prepare_v2(db, text, -1, &st, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(st);
    if (code == SQLITE_ROW && sqlite3_column_type(st, 0) == SQLITE_INTEGER)
        v = sqlite3_column_int64(st, 0);
    else if (code != SQLITE_ROW && code != SQLITE_DONE) {
        *rc = db_fail(db, err, "names.db cannot be read");
    }
    sqlite3_finalize(st);
    return v;
}

int db_meta(struct bh_names *n, sqlite3 *db, struct meta *m, bool *no_tables, struct bh_error *err)
{
    int rc = 0;
    *m = (struct meta){.next_ino = BH_NAMES_ROOT + 1};
    int64_t there = one_number(db, "SELECT count(*) FROM sqlite_master", &rc, err);
    *no_tables = there == 0;
    if (rc || there == 0)
        return rc;
    int64_t format = one_number(db, "SELECT value FROM meta WHERE key='format'", &rc, err);
    if (rc == 0 && format > FORMAT)
        return bh_fail(
            err, ENOTSUP,
            "names.db has format %lld, and this bhfs knows formats up to %d: use a newer "
            "bhfs",
            (long long)format, FORMAT);
    int64_t state = one_number(db, "SELECT value FROM meta WHERE key='state'", &rc, err);
    int64_t applied = one_number(db, "SELECT value FROM meta WHERE key='applied'", &rc, err);
    int64_t next = one_number(db, "SELECT value FROM meta WHERE key='next_ino'", &rc, err);
    int64_t inodes = one_number(db, "SELECT value FROM meta WHERE key='inodes'", &rc, err);
    int64_t row = one_number(db, "SELECT value FROM meta WHERE key='row'", &rc, err);
    int64_t mark = one_number(db, "SELECT value FROM meta WHERE key='row_mark'", &rc, err);
    if (rc == 0 && (format < 1 || state <= 0 || applied < 0 || next <= BH_NAMES_ROOT))
        rc = bh_fail(err, EIO, "names.db is damaged: a row of its table meta is missing or wrong");
    if (rc)
        return rc;
    *m = (struct meta){.state = (uint64_t)state,
                       .applied = (uint64_t)applied,
                       .next_ino = (uint64_t)next,
                       .inodes = inodes < 0 ? 0 : (uint64_t)inodes};
    if (mark > 0)
        m->rows = (struct bh_names_rows){.row = row, .mark = (uint64_t)mark};
    return 0;
}

/* --- rows --- */

int row_step(sqlite3_stmt *st, bool *row, struct bh_error *err)
{
    int code = sqlite3_step(st);
    *row = code == SQLITE_ROW;
    if (*row || code == SQLITE_DONE)
        return 0;
    return db_fail(sqlite3_db_handle(st), err, "names.db cannot be read");
}

int row_number(sqlite3_stmt *st, int column, uint64_t *out)
{
    *out = (uint64_t)sqlite3_column_int64(st, column);
    return sqlite3_column_type(st, column) == SQLITE_INTEGER ? 0 : EIO;
}

static int row_hash(sqlite3_stmt *st, int column, struct bh_content *c)
{
    if (sqlite3_column_type(st, column) == SQLITE_NULL)
        return 0;
    const void *hash = sqlite3_column_blob(st, column);
    if (sqlite3_column_type(st, column) != SQLITE_BLOB || !hash ||
        sqlite3_column_bytes(st, column) != BH_SHA256_LEN)
        return EIO;
    memcpy(c->hash, hash, BH_SHA256_LEN);
    return 0;
}

int row_inode(sqlite3_stmt *st, int first, struct bh_inode *i, const char **target,
              size_t *target_len, bool *xattrs, struct bh_error *err)
{
    uint64_t v[15] = {0};
    const char *wrong = NULL;
    *i = (struct bh_inode){0};
    for (int k = 0; k < 15; k++)
        if (k != 13 && row_number(st, first + k, &v[k]))
            wrong = "a column has another type than it should";
    if (v[1] > UINT32_MAX || v[2] > UINT32_MAX || v[3] > UINT32_MAX || v[4] > UINT32_MAX)
        wrong = "mode, nlink, uid or gid is out of range";
    i->ino = v[0];
    i->mode = (uint32_t)v[1];
    i->nlink = (uint32_t)v[2];
    i->uid = (uint32_t)v[3];
    i->gid = (uint32_t)v[4];
    i->rdev = v[5];
    i->atime = (int64_t)v[6];
    i->mtime = (int64_t)v[7];
    i->ctime = (int64_t)v[8];
    i->parent = v[9];
    i->entries = v[10];
    i->content = (struct bh_content){.size = v[11], .data = v[12], .hash_size = v[14]};
    if (row_hash(st, first + 13, &i->content))
        wrong = "its hash is not one";
    *target = S_ISLNK(i->mode) ? sqlite3_column_blob(st, first + 15) : NULL;
    *target_len = *target ? (size_t)sqlite3_column_bytes(st, first + 15) : 0;
    if (S_ISLNK(i->mode) &&
        (!*target || *target_len > TARGET_MAX_LEN || memchr(*target, 0, *target_len)))
        wrong = "the target of the link is missing or wrong";
    *xattrs = sqlite3_column_int(st, first + 16) != 0;
    if (!wrong)
        wrong = inode_wrong(i);
    return wrong ? bh_fail(err, EIO, "names.db is damaged: inode %llu: %s",
                           (unsigned long long)i->ino, wrong)
                 : 0;
}

const char *xattr_wrong(sqlite3_stmt *st, int name, int value)
{
    const char *text = sqlite3_column_blob(st, name);
    size_t len = (size_t)sqlite3_column_bytes(st, name);
    if (!text || len > NAME_MAX_LEN || memchr(text, 0, len))
        return "its name is none";
    if (sqlite3_column_type(st, value) != SQLITE_BLOB ||
        (size_t)sqlite3_column_bytes(st, value) > VALUE_MAX_LEN)
        return "its value is none";
    return NULL;
}
