/* Table filestore of the live database: one row a content, as upstream has them (UPSTREAM: "Tables
 * in the database"). Rows follow names: the first name of a content makes its row, the last one's
 * end removes it. */
#include "store/files_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/files_scan.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

struct row {
    struct files_touched touched;
    bool wanted; /* by some name */
    char name[256];
    const char *mime;
    char *meta; /* a JSON object */
};

struct rows_job {
    const char *prefix;
    struct row *rows;
    size_t count;
    struct bh_names_rows seen; /* the last row that was looked at; then, that of these */
    bool last_try;             /* also if there are others behind it */
};

/* Upstream's table, of which somebody may have made another version: what it has is filled. */
enum {
    HAS_OBJECT_KEY = 1,
    HAS_SIZE = 2,
    HAS_MIME = 4,
    HAS_FILENAME = 8,
    HAS_METADATA = 16,
    HAS_CREATED = 32
};

static const struct {
    const char *name;
    unsigned bit;
} columns[] = {
    {"object_key", HAS_OBJECT_KEY}, {"size", HAS_SIZE},         {"mime", HAS_MIME},
    {"filename", HAS_FILENAME},     {"metadata", HAS_METADATA}, {"created_at", HAS_CREATED}};

static int look_at_table(sqlite3 *db, unsigned *has, struct bh_error *err)
{
    static const char make[] =
        "CREATE TABLE IF NOT EXISTS filestore (bh_key TEXT PRIMARY KEY, object_key TEXT NOT NULL, "
        "size INTEGER NOT NULL, mime TEXT, filename TEXT, metadata TEXT NOT NULL DEFAULT '{}', "
        "created_at REAL NOT NULL DEFAULT 0)";
    sqlite3_stmt *st = NULL;
    bool key = false;
    *has = 0;
    if (sqlite3_exec(db, make, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(db, "SELECT name FROM pragma_table_info('filestore')", -1, &st, NULL) !=
            SQLITE_OK)
        return bh_sqlite_fail(db, err, "table filestore");
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        key = key || (name && !strcmp(name, "bh_key"));
        for (size_t i = 0; name && i < sizeof columns / sizeof *columns; i++)
            if (!strcmp(name, columns[i].name))
                *has |= columns[i].bit;
    }
    sqlite3_finalize(st);
    if (rc != SQLITE_DONE)
        return bh_sqlite_fail(db, err, "table filestore");
    return key ? 0
               : bh_fail(err, EINVAL,
                         "table filestore has no column bh_key: it is not the one that the file "
                         "store needs; rename it");
}

/* NULL: no memory. */
static char *insert_sql(unsigned has)
{
    BH_STRBUF sql = {0};
    bh_strbuf_addf(&sql, "INSERT OR IGNORE INTO filestore (bh_key");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        if (has & columns[i].bit)
            bh_strbuf_addf(&sql, ", %s", columns[i].name);
    bh_strbuf_addf(&sql, ") VALUES (@key");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        if (has & columns[i].bit)
            bh_strbuf_addf(&sql,
                           columns[i].bit == HAS_CREATED ? ", (julianday('now') - "
                                                           "2440587.5) * 86400.0"
                                                         : ", @%s",
                           columns[i].name);
    bh_strbuf_addf(&sql, ")");
    return sql.failed ? NULL : bh_take_ptr(sql.data);
}

static void bind_text(sqlite3_stmt *st, const char *name, const char *value)
{
    int i = sqlite3_bind_parameter_index(st, name);
    if (i)
        sqlite3_bind_text(st, i, value, -1, SQLITE_TRANSIENT);
}

static int put_row(sqlite3_stmt *st, const struct rows_job *j, const struct row *r)
{
    char hex[BH_SHA256_HEX], object[BH_KEY_MAX + 1];
    bh_sha256_format(r->touched.hash, hex);
    snprintf(object, sizeof object, "%s%s", j->prefix, hex);
    bind_text(st, "@key", hex);
    bind_text(st, "@object_key", object);
    bind_text(st, "@mime", r->mime);
    bind_text(st, "@filename", r->name[0] ? r->name : hex);
    bind_text(st, "@metadata", r->meta ? r->meta : "{}");
    int i = sqlite3_bind_parameter_index(st, "@size");
    if (i)
        sqlite3_bind_int64(st, i, (sqlite3_int64)r->touched.size);
    int rc = sqlite3_step(st);
    sqlite3_reset(st);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* A value that upstream has as something else than a string stays that if it still says the same.
 */
static int put_meta(sqlite3 *db, const struct row *r)
{
    static const char sql[] =
        "UPDATE filestore SET metadata = (SELECT json_group_object(a.key, CASE "
        "WHEN b.type IN ('array', 'object') AND b.value = a.value THEN json(b.value) "
        "WHEN b.type = 'true' AND a.value = '1' THEN json('true') "
        "WHEN b.type = 'false' AND a.value = '0' THEN json('false') "
        "WHEN b.type IN ('integer', 'real') AND CAST(b.value AS TEXT) = a.value THEN b.value "
        "ELSE a.value END) FROM json_each(@metadata) a LEFT JOIN json_each(CASE WHEN "
        "json_valid(filestore.metadata) THEN filestore.metadata ELSE '{}' END) b ON b.key = a.key) "
        "WHERE bh_key = @key";
    char hex[BH_SHA256_HEX];
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    if (rc != SQLITE_OK)
        return rc;
    bh_sha256_format(r->touched.hash, hex);
    bind_text(st, "@key", hex);
    bind_text(st, "@metadata", r->meta);
    sqlite3_step(st);
    return sqlite3_finalize(st);
}

/* One that came after they were looked at is somebody else's. */
static const char *delete_sql(bool all_seen)
{
    return all_seen ? "DELETE FROM filestore WHERE bh_key = @key"
                    : "DELETE FROM filestore WHERE bh_key = @key AND rowid <= ?2";
}

static int rows_job(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct rows_job *j = arg;
    sqlite3_stmt *put = NULL, *del = NULL;
    unsigned has;
    struct bh_names_rows last;
    int rc = look_at_table(db, &has, err);
    if (rc == 0)
        rc = files_last_row(db, &last, err);
    if (rc)
        return rc;
    bool all_seen = !last.mark || (last.mark == j->seen.mark && last.row == j->seen.row);
    if (!all_seen && !j->last_try)
        return bh_fail(err, EAGAIN, "table filestore has new rows");
    BH_FREE char *sql = insert_sql(has);
    if (!sql)
        return bh_fail(err, ENOMEM, "out of memory while writing table filestore");
    int sq = sqlite3_prepare_v2(db, sql, -1, &put, NULL);
    if (sq == SQLITE_OK)
        sq = sqlite3_prepare_v2(db, delete_sql(all_seen), -1, &del, NULL);
    for (size_t i = 0; sq == SQLITE_OK && i < j->count; i++) {
        char hex[BH_SHA256_HEX];
        bh_sha256_format(j->rows[i].touched.hash, hex);
        if (j->rows[i].wanted) {
            sq = put_row(put, j, &j->rows[i]);
            if (sq == SQLITE_OK && j->rows[i].touched.meta && (has & HAS_METADATA))
                sq = put_meta(db, &j->rows[i]);
        } else {
            bind_text(del, "@key", hex);
            sqlite3_bind_int64(del, 2, j->seen.row);
            sq = sqlite3_step(del) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(db);
            sqlite3_reset(del);
        }
    }
    if (sq != SQLITE_OK)
        rc = bh_sqlite_fail(db, err, "table filestore cannot be written");
    sqlite3_finalize(put);
    sqlite3_finalize(del);
    return rc || !all_seen ? rc : files_last_row(db, &j->seen, err);
}

/* --- which rows --- */

static int compare(const void *a, const void *b)
{
    const struct files_touched *x = a, *y = b;
    int c = memcmp(x->hash, y->hash, sizeof x->hash);
    if (c == 0) /* that whose attributes were changed first, then others with a name */
        c = (x->meta < y->meta) - (x->meta > y->meta);
    return c ? c : (x->ino < y->ino) - (x->ino > y->ino);
}

/* All contents that have a name: rows may be missing after a crash. */
static int touch_all(struct bh_files *f, struct bh_error *err)
{
    sqlite3 *db;
    sqlite3_stmt *st = NULL;
    int rc = bh_names_checkpoint(f->names, err);
    if (rc == 0)
        rc = bh_live_names_connect(f->live, &db, err);
    if (rc)
        return rc;
    if (sqlite3_table_column_metadata(db, NULL, "inodes", "hash", NULL, NULL, NULL, NULL, NULL) !=
        SQLITE_OK) { /* nothing was ever made */
        sqlite3_close(db);
        return 0;
    }
    int sq = sqlite3_prepare_v2(
        db, "SELECT hash, hash_size, ino FROM inodes WHERE hash IS NOT NULL", -1, &st, NULL);
    while (sq == SQLITE_OK && (sq = sqlite3_step(st)) == SQLITE_ROW) {
        /* When it got its name is not known. */
        struct files_touched t = {.size = (uint64_t)sqlite3_column_int64(st, 1),
                                  .ino = (uint64_t)sqlite3_column_int64(st, 2),
                                  .at = bh_real_ns()};
        if (sqlite3_column_bytes(st, 0) == BH_SHA256_LEN) {
            memcpy(t.hash, sqlite3_column_blob(st, 0), sizeof t.hash);
            files_touch_at(f, &t);
        }
        sq = SQLITE_OK;
    }
    if (sq != SQLITE_DONE)
        rc = bh_sqlite_fail(db, err, "names.db cannot be read");
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}

int files_reconcile(struct bh_files *f, struct bh_error *err)
{
    pthread_mutex_lock(&f->mutex);
    bool all = f->reconcile;
    f->reconcile = false;
    pthread_mutex_unlock(&f->mutex);
    int rc = all ? touch_all(f, err) : 0;
    if (rc) {
        BH_LOCK_SCOPE(&f->mutex);
        f->reconcile = true;
    }
    return rc;
}

/* What the row has as metadata. ENOENT: the file is gone. */
static int read_meta(struct bh_files *f, uint64_t ino, char **json, struct bh_error *err)
{
    BH_FREE char *list = NULL;
    BH_STRBUF out = {0};
    size_t len = 0;
    int rc = bh_names_listxattr(f->names, ino, &list, &len, true, err);
    bh_strbuf_addf(&out, "{");
    for (const char *name = list; rc == 0 && name < list + len; name += strlen(name) + 1) {
        BH_FREE void *value = NULL;
        size_t value_len;
        if (strncmp(name, BH_FILES_META, strlen(BH_FILES_META)) != 0 ||
            !name[strlen(BH_FILES_META)])
            continue;
        rc = bh_names_getxattr(f->names, ino, name, &value, &value_len, true, err);
        BH_STRBUF text = {0};
        if (rc == 0)
            bh_strbuf_add(&text, value, value_len);
        if (text.failed)
            rc = ENOMEM;
        if (rc)
            break;
        bh_strbuf_addf(&out, out.len > 1 ? ", " : "");
        bh_strbuf_add_json(&out, name + strlen(BH_FILES_META));
        bh_strbuf_addf(&out, ": ");
        bh_strbuf_add_json(&out, text.data);
    }
    bh_strbuf_addf(&out, "}");
    if (rc == ENOMEM || (rc == 0 && out.failed))
        return bh_fail(err, ENOMEM, "out of memory while writing table filestore");
    if (rc == 0)
        *json = bh_take_ptr(out.data);
    return rc;
}

int bh_files_meta_changed(struct bh_files *f, uint64_t ino, bool wait, struct bh_error *err)
{
    struct bh_inode i;
    int rc = bh_names_get(f->names, ino, &i, wait, err);
    if (rc || i.content.data || bh_sha256_is_none(i.content.hash))
        return rc;
    struct files_touched t = {
        .size = i.content.hash_size, .ino = ino, .at = bh_real_ns(), .meta = true};
    memcpy(t.hash, i.content.hash, sizeof t.hash);
    files_touch_at(f, &t);
    return 0;
}

static int fill_rows(struct bh_files *f, struct files_touched *touched, size_t count,
                     struct rows_job *j, struct bh_error *err)
{
    qsort(touched, count, sizeof *touched, compare);
    for (size_t i = 0; i < count; i++) {
        struct row *r = &j->rows[j->count];
        if (i > 0 && !memcmp(touched[i].hash, touched[i - 1].hash, sizeof touched[i].hash))
            continue;
        *r = (struct row){.touched = touched[i], .mime = BH_MIME_UNKNOWN};
        int rc = bh_names_find_blob(f->names, r->touched.hash, &r->touched.size, err);
        r->wanted = rc == 0;
        if (rc && rc != ENOENT)
            return rc;
        j->count++;
        if (!r->wanted || !r->touched.ino)
            continue;
        bh_names_name(f->names, r->touched.ino, r->name);
        struct bh_content content = {.size = r->touched.size, .hash_size = r->touched.size};
        memcpy(content.hash, r->touched.hash, sizeof content.hash);
        /* Most of those that are compared as a whole have their row. */
        r->mime = r->touched.at_ms ? bh_files_mime(f, r->name, &content) : bh_mime_of_name(r->name);
        rc = read_meta(f, r->touched.ino, &r->meta, err);
        if (rc == ENOENT || rc == ENODATA)
            r->touched.meta = false;
        else if (rc)
            return rc;
    }
    return 0;
}

int files_write_rows(struct bh_files *f, bool last_try, const struct bh_call *call,
                     struct bh_error *err)
{
    struct rows_job j = {.prefix = f->prefix, .last_try = last_try};
    int rc = files_reconcile(f, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&f->mutex);
    size_t count = f->touched_count;
    BH_FREE struct files_touched *touched = f->touched;
    f->touched = NULL;
    f->touched_count = f->touched_room = 0;
    pthread_mutex_unlock(&f->mutex);
    rc = files_guard_check(f, touched, count, call, err);
    if (rc == 0 && count == 0)
        return 0;
    BH_FREE struct row *rows = rc ? NULL : calloc(count, sizeof *rows);
    j.rows = rows;
    if (rc == 0)
        rc = rows ? fill_rows(f, touched, count, &j, err)
                  : bh_fail(err, ENOMEM, "out of memory while writing table filestore");
    bh_names_rows(f->names, &j.seen);
    if (rc == 0 && j.count)
        rc = bh_sql_run(f->live->sql, BH_SQL_WRITE, rows_job, &j, err);
    for (size_t i = 0; i < j.count; i++)
        free(rows[i].meta);
    if (rc) { /* nothing is forgotten: the next try, or the next flush, has it */
        for (size_t i = 0; i < count; i++)
            files_touch_at(f, &touched[i]);
        return rc;
    }
    bh_names_set_rows(f->names, &j.seen);
    for (size_t i = 0; i < j.count; i++)
        if (!rows[i].wanted && bh_names_forget(f->names, rows[i].touched.hash) != 0)
            bh_log(BH_LOG_WARNING, "out of memory: a row of table filestore is deleted once more");
    return 0;
}
