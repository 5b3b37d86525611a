/* Contents by their keys, as blobs/ shows them: those that names have, and those of rows in table
 * filestore, which upstream may have put without a name. */
#include "store/files_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

/* --- rows --- */

/* *st NULL: there is no such table. */
static int prepare(sqlite3 *db, const char *sql, sqlite3_stmt **st, struct bh_error *err)
{
    static const char exists[] =
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'filestore'";
    *st = NULL;
    int code = sqlite3_prepare_v2(db, exists, -1, st, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(*st);
    sqlite3_finalize(*st);
    *st = NULL;
    if (code == SQLITE_DONE)
        return 0;
    if (code != SQLITE_ROW || sqlite3_prepare_v2(db, sql, -1, st, NULL) != SQLITE_OK)
        return bh_sqlite_fail(db, err, "table filestore cannot be read");
    return 0;
}

struct blob_job {
    uint8_t hash[BH_SHA256_LEN];
    struct bh_blob_row *row;
    bool found;
};

static void copy_text(sqlite3_stmt *st, int column, char *out, size_t size)
{
    const char *text = (const char *)sqlite3_column_text(st, column);
    size_t len = (size_t)sqlite3_column_bytes(st, column);
    out[0] = '\0';
    if (text && len < size && !memchr(text, 0, len))
        memcpy(out, text, len + 1);
}

static int find_row(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct blob_job *j = arg;
    char hex[BH_SHA256_HEX];
    sqlite3_stmt *st;
    int rc =
        prepare(db, "SELECT size, object_key, mime FROM filestore WHERE bh_key = ?1", &st, err);
    if (rc || !st)
        return rc;
    bh_sha256_format(j->hash, hex);
    sqlite3_bind_text(st, 1, hex, -1, SQLITE_STATIC);
    int code = sqlite3_step(st);
    if (code == SQLITE_ROW) {
        sqlite3_int64 size = sqlite3_column_int64(st, 0);
        j->found = size >= 0 && sqlite3_column_type(st, 0) == SQLITE_INTEGER;
        j->row->size = (uint64_t)size;
        copy_text(st, 1, j->row->object_key, sizeof j->row->object_key);
        copy_text(st, 2, j->row->mime, sizeof j->row->mime);
    } else if (code != SQLITE_DONE) {
        rc = bh_sqlite_fail(db, err, "table filestore cannot be read");
    }
    sqlite3_finalize(st);
    return rc;
}

int bh_files_find_row(struct bh_files *f, const uint8_t hash[BH_SHA256_LEN],
                      struct bh_blob_row *out, struct bh_error *err)
{
    struct blob_job j = {.row = out};
    memcpy(j.hash, hash, sizeof j.hash);
    int rc = bh_sql_run(f->live->sql, BH_SQL_READ, find_row, &j, err);
    return rc || j.found ? rc : bh_fail(err, ENOENT, "table filestore has no such blob");
}

int bh_files_find_blob(struct bh_files *f, const uint8_t hash[BH_SHA256_LEN],
                       struct bh_blob_row *out, struct bh_error *err)
{
    out->object_key[0] = out->mime[0] = '\0';
    int rc = bh_names_find_blob(f->names, hash, &out->size, err);
    return rc == ENOENT ? bh_files_find_row(f, hash, out, err) : rc;
}

/* --- all --- */

struct list_job {
    struct bh_blob_list *list;
    size_t room;
};

static int add(struct list_job *j, const uint8_t hash[BH_SHA256_LEN], uint64_t size,
               struct bh_error *err)
{
    struct bh_blob_list *l = j->list;
    if (l->count == j->room) {
        size_t room = 2 * j->room + 64;
        l = realloc(l, sizeof *l + room * sizeof l->blobs[0]);
        if (!l)
            return bh_fail(err, ENOMEM, "out of memory while blobs are listed");
        j->list = l;
        j->room = room;
    }
    memcpy(l->blobs[l->count].hash, hash, BH_SHA256_LEN);
    l->blobs[l->count++].size = size;
    return 0;
}

/* Rows of something else are none of ours. */
static int list_rows(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct list_job *j = arg;
    uint8_t hash[BH_SHA256_LEN];
    sqlite3_stmt *st;
    int code, rc = prepare(db, "SELECT bh_key, size FROM filestore", &st, err);
    while (rc == 0 && st && (code = sqlite3_step(st)) != SQLITE_DONE) {
        if (code != SQLITE_ROW) {
            rc = bh_sqlite_fail(db, err, "table filestore cannot be read");
            break;
        }
        const char *key = (const char *)sqlite3_column_text(st, 0);
        if (key && bh_sha256_parse(key, hash) && sqlite3_column_type(st, 1) == SQLITE_INTEGER &&
            sqlite3_column_int64(st, 1) >= 0)
            rc = add(j, hash, (uint64_t)sqlite3_column_int64(st, 1), err);
    }
    sqlite3_finalize(st);
    return rc;
}

int bh_files_list_blobs(struct bh_files *f, struct bh_blob_list **out, struct bh_error *err)
{
    struct list_job j = {0};
    int rc = bh_names_list_blobs(f->names, &j.list, err);
    if (rc)
        return rc;
    j.room = j.list->count;
    rc = bh_sql_run(f->live->sql, BH_SQL_READ, list_rows, &j, err);
    struct bh_blob_list *l = j.list;
    if (rc) {
        free(l);
        return rc;
    }
    size_t kept = 0;
    if (l->count)
        qsort(l->blobs, l->count, sizeof l->blobs[0], bh_sha256_compare);
    for (size_t i = 0; i < l->count; i++)
        if (kept == 0 || bh_sha256_compare(&l->blobs[i], &l->blobs[kept - 1]) != 0)
            l->blobs[kept++] = l->blobs[i];
    l->count = kept;
    *out = l;
    return 0;
}
