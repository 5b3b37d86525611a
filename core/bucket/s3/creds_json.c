/* The JSON that metadata services and credential processes answer with, read by SQLite. */
#include <errno.h>
#include <sqlite3.h>
#include <string.h>

#include "bucket/s3/creds_private.h"

/* A member's type, its value, and that as milliseconds since 1970. */
static const char query[] =
    "SELECT json_type(?1, ?2), json_extract(?1, ?2),"
    " CAST(round((julianday(json_extract(?1, ?2)) - 2440587.5) * 86400000) AS INTEGER)";
enum { TYPE, VALUE, TIME_MS };

static int no_json(int rc, const char *what, struct bh_error *err)
{
    return rc == SQLITE_NOMEM ? bh_fail(err, ENOMEM, "out of memory")
                              : bh_fail(err, EIO, "%s answers with what is no JSON", what);
}

/* Moves to the member "$.Name". */
static int seek(sqlite3_stmt *row, const char *path, const char *what, struct bh_error *err)
{
    sqlite3_reset(row);
    int rc = sqlite3_bind_text(row, 2, path, -1, SQLITE_STATIC);
    if (!rc)
        rc = sqlite3_step(row);
    return rc == SQLITE_ROW ? 0 : no_json(rc, what, err);
}

static bool has_type(sqlite3_stmt *row, const char *type)
{
    const char *is = (const char *)sqlite3_column_text(row, TYPE);
    return is && strcmp(is, type) == 0;
}

/* The text of the member, or of the second of these names; *out stays where there is none. */
static int take_text(sqlite3_stmt *row, const char *path, const char *or_path, char **out,
                     const char *what, struct bh_error *err)
{
    int rc = seek(row, path, what, err);
    if (!rc && or_path && !has_type(row, "text"))
        rc = seek(row, or_path, what, err);
    if (rc || !has_type(row, "text"))
        return rc;
    *out = strdup((const char *)sqlite3_column_text(row, VALUE));
    return *out ? 0 : bh_fail(err, ENOMEM, "out of memory");
}

static int take_time(sqlite3_stmt *row, struct bh_creds_json *out, const char *what,
                     struct bh_error *err)
{
    int rc = seek(row, "$.Expiration", what, err);
    if (rc || !sqlite3_column_text(row, TYPE) || has_type(row, "null"))
        return rc;
    out->expires = true;
    out->c.expires_ms = has_type(row, "text") ? sqlite3_column_int64(row, TIME_MS) : 0;
    return out->c.expires_ms > 0
               ? 0
               : bh_fail(err, EIO, "%s gives an Expiration that is no time", what);
}

static int take_all(sqlite3_stmt *row, struct bh_creds_json *out, const char *what,
                    struct bh_error *err)
{
    int rc = seek(row, "$", what, err);
    if (!rc && !has_type(row, "object"))
        rc = bh_fail(err, EIO, "%s answers with JSON that is no object", what);
    rc = rc ? rc : take_text(row, "$.AccessKeyId", NULL, &out->c.access_key_id, what, err);
    rc = rc ? rc : take_text(row, "$.SecretAccessKey", NULL, &out->c.secret_access_key, what, err);
    rc = rc ? rc : take_text(row, "$.Token", "$.SessionToken", &out->c.session_token, what, err);
    rc = rc ? rc : take_text(row, "$.Code", "$.code", &out->code, what, err);
    rc = rc ? rc : take_text(row, "$.Message", "$.message", &out->message, what, err);
    rc = rc ? rc : seek(row, "$.Version", what, err);
    if (rc)
        return rc;
    out->version = sqlite3_column_int64(row, VALUE);
    return take_time(row, out, what, err);
}

void bh_creds_json_free(struct bh_creds_json *json)
{
    bh_credentials_wipe(&json->c);
    bh_secret_string_free(json->code);
    bh_secret_string_free(json->message);
    *json = (struct bh_creds_json){0};
}

int bh_creds_read_json(struct bh_creds_json *out, const char *what, const struct bh_secret *text,
                       struct bh_error *err)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *row = NULL;
    *out = (struct bh_creds_json){0};
    int rc = sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (!rc)
        rc = sqlite3_prepare_v2(db, query, -1, &row, NULL);
    if (!rc)
        rc = sqlite3_bind_text(row, 1, text->data ? text->data : "", (int)text->len, SQLITE_STATIC);
    rc = rc ? no_json(rc, what, err) : take_all(row, out, what, err);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return rc;
}
