/* Table filestore is read, a chunk of rows at a time, on the SQL thread. */
#include "store/files_scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "live/vfs.h"
#include "store/files.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/crc.h"
#include "util/log.h"

#define CHUNK        1000 /* rows of one job */
#define RESTARTS_MAX 8u

static uint64_t mark_of(sqlite3_stmt *st, int key, int created)
{
    uint64_t crc = bh_crc_begin(&bh_crc64nvme);
    for (int i = 0; i < 2; i++) {
        const void *text = sqlite3_column_blob(st, i ? created : key);
        if (text)
            crc = bh_crc_update(&bh_crc64nvme, crc, text,
                                (size_t)sqlite3_column_bytes(st, i ? created : key));
        crc = bh_crc_update(&bh_crc64nvme, crc, "|", 1);
    }
    return (bh_crc_end(&bh_crc64nvme, crc) & INT64_MAX) | 1;
}

static bool has_column(sqlite3 *db, const char *name)
{
    return sqlite3_table_column_metadata(db, NULL, "filestore", name, NULL, NULL, NULL, NULL,
                                         NULL) == SQLITE_OK;
}

/* *st NULL: there is no table that rows could be adopted of. */
static int prepare(sqlite3 *db, const char *where, sqlite3_stmt **st, struct bh_error *err)
{
    static const char *const columns[] = {"created_at", "size", "filename", "object_key",
                                          "metadata"};
    BH_STRBUF sql = {0};
    *st = NULL;
    /* A statement looks whether the schema that the connection knows is still the one. */
    if (sqlite3_exec(db, "SELECT 1 FROM sqlite_master LIMIT 1", NULL, NULL, NULL) != SQLITE_OK)
        return bh_sqlite_fail(db, err, "table filestore cannot be read");
    if (!has_column(db, "bh_key") || !has_column(db, "rowid") || !has_column(db, "size"))
        return 0;
    bh_strbuf_addf(&sql, "SELECT rowid, bh_key");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        bh_strbuf_addf(&sql, ", %s", has_column(db, columns[i]) ? columns[i] : "NULL");
    bh_strbuf_addf(&sql, " FROM filestore %s", where);
    if (sql.failed)
        return bh_fail(err, ENOMEM, "out of memory while table filestore is read");
    if (sqlite3_prepare_v2(db, sql.data, -1, st, NULL) != SQLITE_OK)
        return bh_sqlite_fail(db, err, "table filestore cannot be read");
    return 0;
}

static void take_last(sqlite3_stmt *st, struct bh_names_rows *last)
{
    last->row = sqlite3_column_int64(st, 0);
    last->mark = mark_of(st, 1, 2);
}

int files_last_row(sqlite3 *db, struct bh_names_rows *last, struct bh_error *err)
{
    sqlite3_stmt *st;
    *last = (struct bh_names_rows){0};
    int rc = prepare(db, "ORDER BY rowid DESC LIMIT 1", &st, err);
    if (rc || !st)
        return rc;
    int code = sqlite3_step(st);
    if (code == SQLITE_ROW)
        take_last(st, last);
    else if (code != SQLITE_DONE)
        rc = bh_sqlite_fail(db, err, "table filestore cannot be read");
    sqlite3_finalize(st);
    return rc;
}

/* Where to go on: behind the last row that was looked at, if it is still the same. Asked before
 * each chunk: whoever makes the table anew in between gives its rows other numbers. */
static int begin_scan(sqlite3 *db, struct files_scan *s, struct bh_error *err)
{
    struct bh_names_rows now = {0};
    sqlite3_stmt *st = NULL;
    int code, rc = s->last.mark ? prepare(db, "WHERE rowid = ?1", &st, err) : 0;
    if (rc)
        return rc;
    if (st) {
        sqlite3_bind_int64(st, 1, s->last.row);
        code = sqlite3_step(st);
        if (code == SQLITE_ROW)
            take_last(st, &now);
        else if (code != SQLITE_DONE)
            rc = bh_sqlite_fail(db, err, "table filestore cannot be read");
        sqlite3_finalize(st);
    }
    if (rc || (now.mark && now.mark == s->last.mark))
        return rc;
    if (s->begun && ++s->restarts > RESTARTS_MAX)
        return bh_fail(err, EBUSY, "table filestore is made anew again and again while it is read");
    s->all = true;
    s->bad = 0;
    s->last = (struct bh_names_rows){.row = INT64_MIN};
    return 0;
}

/* Seconds since 1970, as upstream has them. */
static int64_t time_of(sqlite3_stmt *st, int column)
{
    int type = sqlite3_column_type(st, column);
    double seconds = sqlite3_column_double(st, column);
    bool good = (type == SQLITE_FLOAT || type == SQLITE_INTEGER) && seconds > 0 && seconds < 9e9;
    return good ? (int64_t)(seconds * 1e9) : 0;
}

/* An object's members, as attributes: what is none is left out. */
static void read_meta(sqlite3 *db, const char *json, struct bh_strbuf *out)
{
    static const char sql[] = "SELECT key, value FROM json_each(CASE WHEN json_valid(?1) AND "
                              "json_type(?1) = 'object' THEN ?1 ELSE '{}' END)";
    sqlite3_stmt *st = NULL;
    if (!json || !strcmp(json, "{}") || sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
        return;
    sqlite3_bind_text(st, 1, json, -1, SQLITE_STATIC);
    while (sqlite3_step(st) == SQLITE_ROW) {
        const char *key = (const char *)sqlite3_column_text(st, 0);
        const char *value = (const char *)sqlite3_column_text(st, 1);
        if (key && value && *key && strlen(BH_FILES_META) + strlen(key) <= FILES_NAME_MAX)
            bh_strbuf_addf(out, BH_FILES_META "%s%c%s%c", key, 0, value, 0);
    }
    sqlite3_finalize(st);
}

/* 0, or why it gets no name. */
static const char *read_row(sqlite3 *db, sqlite3_stmt *st, const char *prefix,
                            struct files_found *f)
{
    bool is_text = sqlite3_column_type(st, 1) == SQLITE_TEXT; /* types before conversions */
    const char *key = is_text ? (const char *)sqlite3_column_text(st, 1) : NULL;
    const char *object = (const char *)sqlite3_column_text(st, 5);
    if (!key || sqlite3_column_bytes(st, 1) != BH_SHA256_HEX - 1 || !bh_sha256_parse(key, f->hash))
        return "its bh_key is no SHA-256";
    if (sqlite3_column_type(st, 3) != SQLITE_INTEGER || sqlite3_column_int64(st, 3) < 0)
        return "its size is none";
    if (object && *object &&
        (strncmp(object, prefix, strlen(prefix)) != 0 || strcmp(object + strlen(prefix), key) != 0))
        return "its object has another key than files.prefix and bh_key make (blobs/ has it)";
    f->size = (uint64_t)sqlite3_column_int64(st, 3);
    f->ns = time_of(st, 2);
    is_text = sqlite3_column_type(st, 4) == SQLITE_TEXT;
    const char *name = is_text ? (const char *)sqlite3_column_text(st, 4) : NULL;
    files_safe_name(name, name ? (size_t)sqlite3_column_bytes(st, 4) : 0, key, f->name);
    if (sqlite3_column_type(st, 6) == SQLITE_TEXT)
        read_meta(db, (const char *)sqlite3_column_text(st, 6), &f->meta);
    return NULL;
}

int files_scan_chunk(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct files_scan *s = arg;
    sqlite3_stmt *st;
    int code = SQLITE_DONE, n = 0;
    int rc = begin_scan(db, s, err);
    s->begun = true;
    if (rc == 0)
        rc = prepare(db, "WHERE rowid > ?1 ORDER BY rowid", &st, err);
    if (rc || !st) {
        s->end = true;
        return rc;
    }
    sqlite3_bind_int64(st, 1, s->last.row);
    for (; rc == 0 && n < CHUNK && (code = sqlite3_step(st)) == SQLITE_ROW; n++) {
        if (!bh_grow(s->found, s->room, s->count)) {
            rc = bh_fail(err, ENOMEM, "out of memory while table filestore is read");
            break;
        }
        struct files_found *f = &s->found[s->count];
        *f = (struct files_found){0};
        const char *wrong = read_row(db, st, s->prefix, f);
        s->count += !wrong;
        if (wrong && s->bad++ < FILES_NAMED_BAD)
            bh_log(BH_LOG_WARNING, "row %lld of table filestore gets no name in files/: %s",
                   (long long)sqlite3_column_int64(st, 0), wrong);
        take_last(st, &s->last);
    }
    s->end = code == SQLITE_DONE;
    if (rc == 0 && code != SQLITE_ROW && code != SQLITE_DONE)
        rc = bh_sqlite_fail(db, err, "table filestore cannot be read");
    sqlite3_finalize(st);
    return rc;
}

void files_scan_forget(struct files_scan *s)
{
    for (size_t i = 0; i < s->count; i++)
        bh_strbuf_free(&s->found[i].meta);
    s->count = 0;
}
