/* The JSON that metadata services and credential processes answer with, read by SQLite. */
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "bucket/s3/creds_private.h"

/* A member that is text; an array's or object's would be its JSON. */
#define TEXT(name)                                                                                 \
    "CASE json_type(?1, '$." name "') WHEN 'text' THEN json_extract(?1, '$." name "') END"

static const char query[] = "SELECT " TEXT("AccessKeyId") ", " TEXT(
    "SecretAccessKey") ","
                       " coalesce(" TEXT("Token") ", " TEXT(
                           "SessionToken") "),"
                                           " json_extract(?1, '$.Expiration'), "
                                           "CAST(strftime('%s', " TEXT(
                                               "Expiration") ") AS INTEGER),"
                                                             " json_extract(?1, '$.Version'), "
                                                             "coalesce(" TEXT("Code") ", " TEXT(
                                                                 "code") "),"
                                                                         " coalesce(" TEXT(
                                                                             "Mes"
                                                                             "sag"
                                                                             "e") ", " TEXT("messag"
                                                                                            "e") ")"
                                                                                                 ","
                                                                                                 " "
                                                                                                 "j"
                                                                                                 "s"
                                                                                                 "o"
                                                                                                 "n"
                                                                                                 "_"
                                                                                                 "t"
                                                                                                 "y"
                                                                                                 "p"
                                                                                                 "e"
                                                                                                 "("
                                                                                                 "?"
                                                                                                 "1"
                                                                                                 ")"
                                                                                                 " "
                                                                                                 "="
                                                                                                 " "
                                                                                                 "'"
                                                                                                 "o"
                                                                                                 "b"
                                                                                                 "j"
                                                                                                 "e"
                                                                                                 "c"
                                                                                                 "t"
                                                                                                 "'";
enum { ACCESS, SECRET, TOKEN, EXPIRATION, EXPIRES, VERSION, CODE, MESSAGE, IS_OBJECT };

static const char *text_of(sqlite3_stmt *row, int column)
{
    return sqlite3_column_type(row, column) == SQLITE_TEXT
               ? (const char *)sqlite3_column_text(row, column)
               : NULL;
}

static int copy(char **out, const char *text, struct bh_error *err)
{
    *out = text ? strdup(text) : NULL;
    return !text || *out ? 0 : bh_fail(err, ENOMEM, "out of memory");
}

static int take_row(struct bh_creds_json *out, const char *what, sqlite3_stmt *row,
                    struct bh_error *err)
{
    const char *code = text_of(row, CODE), *message = text_of(row, MESSAGE);
    if (!sqlite3_column_int(row, IS_OBJECT))
        return bh_fail(err, EIO, "%s answers with JSON that is no object", what);
    int rc = copy(&out->c.access_key_id, text_of(row, ACCESS), err);
    rc = rc ? rc : copy(&out->c.secret_access_key, text_of(row, SECRET), err);
    rc = rc ? rc : copy(&out->c.session_token, text_of(row, TOKEN), err);
    if (rc)
        return rc;
    snprintf(out->code, sizeof out->code, "%s", code ? code : "");
    snprintf(out->message, sizeof out->message, "%s", message ? message : "");
    out->version = sqlite3_column_int64(row, VERSION);
    out->expires = sqlite3_column_type(row, EXPIRATION) != SQLITE_NULL;
    if (out->expires && sqlite3_column_int64(row, EXPIRES) <= 0)
        return bh_fail(err, EIO, "%s gives an Expiration that is no time", what);
    out->c.expires_ms = sqlite3_column_int64(row, EXPIRES) * 1000;
    return 0;
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
    if (!rc)
        rc = sqlite3_step(row);
    if (rc == SQLITE_ROW)
        rc = take_row(out, what, row, err);
    else if (rc == SQLITE_NOMEM)
        rc = bh_fail(err, ENOMEM, "out of memory");
    else
        rc = bh_fail(err, EIO, "%s answers with what is no JSON", what);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return rc;
}
