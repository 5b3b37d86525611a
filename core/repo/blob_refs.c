/* The set of blobs that are referred to, and the SQL by which they are found. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "live/vfs.h"
#include "repo/blob_refs_private.h"
#include "util/array.h"

#define NAMES_FORMAT 1 /* store/names_db.c */
#define ROOT_INO     1
#define DEPTH_MAX    256 /* of a path that is told */

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory looking for the blobs that are in use");
}

/* --- the set --- */

static size_t slot_of(const struct bh_blob_refs *r, const uint8_t *hash)
{
    uint64_t x; /* a hash is random already */
    memcpy(&x, hash, sizeof x);
    size_t at = (size_t)x & (r->table_size - 1);
    while (r->table[at] && memcmp(r->items[r->table[at] - 1].hash, hash, BH_SHA256_LEN) != 0)
        at = (at + 1) & (r->table_size - 1);
    return at;
}

static int grow_table(struct bh_blob_refs *r)
{
    size_t size = r->table_size ? 2 * r->table_size : 1024;
    uint32_t *table = size <= UINT32_MAX ? calloc(size, sizeof *table) : NULL;
    if (!table)
        return ENOMEM;
    free(r->table);
    r->table = table;
    r->table_size = size;
    for (size_t i = 0; i < r->count; i++)
        table[slot_of(r, r->items[i].hash)] = (uint32_t)(i + 1);
    return 0;
}

static int add(struct bh_blob_refs *r, const uint8_t *hash, uint64_t size, uint32_t source)
{
    if (2 * r->count >= r->table_size && grow_table(r) != 0)
        return ENOMEM;
    size_t at = slot_of(r, hash);
    if (r->table[at]) {
        struct bh_blob_ref *is = &r->items[r->table[at] - 1];
        if (is->source == UINT32_MAX) {
            is->source = source;
            is->size = size;
        }
        return 0;
    }
    if (!bh_grow(r->items, r->room, r->count))
        return ENOMEM;
    struct bh_blob_ref *to = &r->items[r->count++];
    *to = (struct bh_blob_ref){.size = size, .source = source};
    memcpy(to->hash, hash, BH_SHA256_LEN);
    r->table[at] = (uint32_t)r->count;
    return 0;
}

int bh_blob_refs_add(struct bh_blob_refs *r, const uint8_t hash[BH_SHA256_LEN])
{
    return add(r, hash, UINT64_MAX, UINT32_MAX);
}

struct bh_blob_ref *bh_blob_refs_find(struct bh_blob_refs *r, const uint8_t hash[BH_SHA256_LEN])
{
    uint32_t n = r->table_size ? r->table[slot_of(r, hash)] : 0;
    return n ? &r->items[n - 1] : NULL;
}

size_t bh_blob_refs_count(const struct bh_blob_refs *r)
{
    return r->count;
}

struct bh_blob_ref *bh_blob_refs_at(struct bh_blob_refs *r, size_t i)
{
    return &r->items[i];
}

void bh_blob_refs_costs(const struct bh_blob_refs *r, size_t *scanned, size_t *skipped)
{
    *scanned = r->scanned;
    *skipped = r->skipped;
}

uint32_t bh_blob_refs_sources(const struct bh_blob_refs *r)
{
    return (uint32_t)r->source_count;
}

bool bh_blob_refs_parse(const char *key, const char *prefix, uint8_t hash[BH_SHA256_LEN])
{
    size_t len = strlen(prefix);
    return !strncmp(key, prefix, len) && bh_sha256_parse(key + len, hash);
}

/* --- reading a database --- */

/* What a statement failed with: what could not be read, or else what SQLite says. */
static int sql_error(const struct refs_db *d, struct bh_error *err)
{
    int rc = bh_rovfs_why(d->vfs, err);
    if (rc)
        return bh_fail_prefix(err, rc, "%s", d->what);
    return bh_sqlite_fail(d->db, err, d->what);
}

static bool has_table(const struct refs_db *d, const char *name, int *rc, struct bh_error *err)
{
    sqlite3_stmt *st = NULL;
    bool has = false;
    if (sqlite3_prepare_v2(d->db,
                           "SELECT count(*) FROM sqlite_master WHERE ?1 = '' OR name = ?1 COLLATE "
                           "NOCASE",
                           -1, &st, NULL) == SQLITE_OK) {
        sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
        *rc = sqlite3_step(st) == SQLITE_ROW ? 0 : EIO;
        has = *rc == 0 && sqlite3_column_int64(st, 0) > 0;
    } else {
        *rc = EIO;
    }
    if (*rc)
        *rc = sql_error(d, err);
    sqlite3_finalize(st);
    return has;
}

/* Whether SQLite failed as the table is another one, rather than as it cannot be read. */
static bool is_other_table(const struct refs_db *d)
{
    struct bh_error err;
    return bh_rovfs_why(d->vfs, &err) == 0 && (sqlite3_errcode(d->db) & 0xFF) == SQLITE_ERROR;
}

/* A row names its object, and by its key the one that its object would be called. Where these are
 * two, the absence of the second is no damage. */
static int take_row(struct refs_db *d, sqlite3_stmt *st, struct bh_error *err)
{
    struct bh_blob_refs *r = d->refs;
    uint8_t by_key[BH_SHA256_LEN], by_name[BH_SHA256_LEN];
    const char *key = (const char *)sqlite3_column_text(st, 0);
    const char *object = (const char *)sqlite3_column_text(st, 2);
    uint64_t size = UINT64_MAX;
    if (sqlite3_column_type(st, 1) == SQLITE_INTEGER && sqlite3_column_int64(st, 1) >= 0)
        size = (uint64_t)sqlite3_column_int64(st, 1);
    bool has_key = key && bh_sha256_parse(key, by_key);
    bool named = object && object[0];
    bool is_ours = named && bh_blob_refs_parse(object, r->prefix, by_name);
    bool same = has_key && is_ours && !memcmp(by_key, by_name, sizeof by_key);
    int rc = is_ours ? add(r, by_name, size, d->source) : 0;
    if (rc == 0 && has_key && !same)
        rc = named ? bh_blob_refs_add(r, by_key) : add(r, by_key, size, d->source);
    return rc ? no_memory(err) : 0;
}

static int take_inode(struct refs_db *d, sqlite3_stmt *st, struct bh_error *err)
{
    const void *hash = sqlite3_column_blob(st, 0);
    sqlite3_int64 size = sqlite3_column_int64(st, 1);
    if (!hash || sqlite3_column_bytes(st, 0) != BH_SHA256_LEN)
        return bh_fail(err, EIO, "%s is damaged: the hash of a content is wrong", d->what);
    return add(d->refs, hash, d->refs->sizes ? (uint64_t)size : UINT64_MAX, d->source)
               ? no_memory(err)
               : 0;
}

static int take_all(struct refs_db *d, sqlite3_stmt *st,
                    int (*take)(struct refs_db *d, sqlite3_stmt *st, struct bh_error *err),
                    struct bh_error *err)
{
    int code, rc = 0;
    for (size_t n = 0; rc == 0 && (code = sqlite3_step(st)) != SQLITE_DONE; n++) {
        rc = code == SQLITE_ROW ? take(d, st, err) : sql_error(d, err);
        if (rc == 0 && n % 1024 == 0)
            rc = bh_call_check(d->refs->call, "looking for the blobs that are in use", err);
    }
    sqlite3_finalize(st);
    return rc;
}

static int unknown(const struct refs_db *d, const char *table, struct bh_error *err)
{
    return bh_fail(err, EPROTO,
                   "table %s of %s is not one that this version of bhfs can read, so it is not "
                   "known which blobs it names",
                   table, d->what);
}

/* Upstream's table, of which somebody may have made another version. */
static int scan_rows(struct refs_db *d, struct bh_error *err)
{
    static const char *const ways[] = {"SELECT bh_key, size, object_key FROM filestore",
                                       "SELECT bh_key, NULL, object_key FROM filestore",
                                       "SELECT bh_key, size, NULL FROM filestore",
                                       "SELECT bh_key, NULL, NULL FROM filestore"};
    sqlite3_stmt *st = NULL;
    int rc;
    if (!has_table(d, "filestore", &rc, err) || rc)
        return rc;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (sqlite3_prepare_v2(d->db, ways[i], -1, &st, NULL) == SQLITE_OK)
            return take_all(d, st, take_row, err);
        if (!is_other_table(d))
            return sql_error(d, err);
    }
    return unknown(d, "filestore", err);
}

static int check_format(struct refs_db *d, struct bh_error *err)
{
    sqlite3_stmt *st = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(d->db, "SELECT value FROM meta WHERE key = 'format'", -1, &st, NULL) !=
        SQLITE_OK)
        return is_other_table(d) ? unknown(d, "meta", err) : sql_error(d, err);
    int code = sqlite3_step(st);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        rc = sql_error(d, err);
    else if (code == SQLITE_DONE || sqlite3_column_int(st, 0) != NAMES_FORMAT)
        rc = unknown(d, "meta", err);
    sqlite3_finalize(st);
    return rc;
}

/* The index has all that is needed, unless sizes are. */
static int scan_names(struct refs_db *d, struct bh_error *err)
{
    sqlite3_stmt *st = NULL;
    int rc;
    const char *sql = d->refs->sizes
                          ? "SELECT hash, hash_size FROM inodes NOT INDEXED WHERE hash IS NOT NULL"
                          : "SELECT hash FROM inodes WHERE hash IS NOT NULL";
    if (!has_table(d, "", &rc, err) || rc) /* nothing was ever made */
        return rc;
    if ((rc = check_format(d, err)) != 0)
        return rc;
    if (sqlite3_prepare_v2(d->db, sql, -1, &st, NULL) != SQLITE_OK)
        return is_other_table(d) ? unknown(d, "inodes", err) : sql_error(d, err);
    return take_all(d, st, take_inode, err);
}

static void name_source(char *out, size_t size, const char *database, const char *what)
{
    snprintf(out, size, "%s%s%s", database, database[0] ? " of " : "", what);
}

static int scan_tree(struct bh_blob_refs *r, enum refs_kind kind, const struct bh_root *root,
                     const char *what, uint32_t source, struct bh_error *err)
{
    struct refs_db d = {.refs = r, .source = source};
    bool known;
    if (bh_ref_is_zero(&root->ref) || root->size == 0)
        return 0;
    name_source(d.what, sizeof d.what, kind == REFS_NAMES ? BH_NAMES_NAME : BH_DB_NAME, what);
    int rc = refs_is_known(r, kind, root, d.what, &known, err);
    if (rc || known)
        return rc;
    rc = refs_open_tree(&d, kind, root, err);
    if (rc == 0)
        rc = kind == REFS_NAMES ? scan_names(&d, err) : scan_rows(&d, err);
    refs_close(&d);
    r->scanned += rc == 0;
    return rc ? rc : refs_was_scanned(r, kind, root, d.what, err);
}

static int add_source(struct bh_blob_refs *r, const struct refs_source *s, struct bh_error *err)
{
    if (!bh_grow(r->sources, r->source_room, r->source_count))
        return no_memory(err);
    r->sources[r->source_count] = *s;
    if (!(r->sources[r->source_count].what = strdup(s->what)))
        return no_memory(err);
    r->source_count++;
    return 0;
}

int bh_blob_refs_snapshot(struct bh_blob_refs *r, const struct bh_root *db,
                          const struct bh_root *names, const char *what, struct bh_error *err)
{
    const struct refs_source s = {.db = *db, .names = *names, .what = (char *)(uintptr_t)what};
    uint32_t number = (uint32_t)r->source_count;
    int rc = add_source(r, &s, err);
    if (rc == 0)
        rc = scan_tree(r, REFS_NAMES, names, what, number, err); /* names say more to people */
    return rc ? rc : scan_tree(r, REFS_DB, db, what, number, err);
}

int bh_blob_refs_plain(struct bh_blob_refs *r, const char *key, struct bh_error *err)
{
    struct refs_db d = {.refs = r, .source = (uint32_t)r->source_count};
    const struct refs_source s = {.plain = true, .what = (char *)(uintptr_t)key};
    name_source(d.what, sizeof d.what, "", key);
    int rc = add_source(r, &s, err);
    if (rc == 0)
        rc = refs_open_plain(&d, key, err);
    if (rc == 0)
        rc = d.size ? scan_rows(&d, err) : 0;
    refs_close(&d);
    r->scanned += rc == 0;
    return rc;
}

/* --- for people --- */

static bool step_to(sqlite3 *db, sqlite3_stmt **st, const char *sql, int64_t a, int64_t b)
{
    sqlite3_finalize(*st);
    *st = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, st, NULL) != SQLITE_OK)
        return false;
    sqlite3_bind_int64(*st, 1, a);
    if (sqlite3_bind_parameter_count(*st) > 1)
        sqlite3_bind_int64(*st, 2, b);
    return sqlite3_step(*st) == SQLITE_ROW;
}

/* Puts a name before the path. */
static bool prepend(sqlite3_stmt *st, char *path, size_t *at)
{
    size_t len = (size_t)sqlite3_column_bytes(st, 0);
    if (len + 1 > *at)
        return false;
    *at -= len;
    memcpy(path + *at, sqlite3_column_blob(st, 0), len);
    path[--*at] = '/';
    return true;
}

/* One of its paths: from the inode up to the root. False: there is no such content. */
static bool find_path(struct refs_db *d, const uint8_t *hash, struct bh_strbuf *out)
{
    char path[4096];
    size_t at = sizeof path - 1;
    sqlite3_stmt *st = NULL;
    path[at] = '\0';
    bool found = sqlite3_prepare_v2(d->db, "SELECT ino FROM inodes WHERE hash = ?1", -1, &st,
                                    NULL) == SQLITE_OK &&
                 sqlite3_bind_blob(st, 1, hash, BH_SHA256_LEN, SQLITE_STATIC) == SQLITE_OK &&
                 sqlite3_step(st) == SQLITE_ROW;
    int64_t ino = found ? sqlite3_column_int64(st, 0) : 0;
    bool more =
        found && step_to(d->db, &st, "SELECT name, dir FROM entries WHERE ino = ?1", ino, 0);
    for (int depth = 0; more && prepend(st, path, &at) && depth < DEPTH_MAX; depth++) {
        ino = sqlite3_column_int64(st, 1); /* a directory, which knows where it is */
        more = ino != ROOT_INO &&
               step_to(d->db, &st, "SELECT parent FROM inodes WHERE ino = ?1", ino, 0) &&
               step_to(d->db, &st, "SELECT name, dir FROM entries WHERE dir = ?1 AND ino = ?2",
                       sqlite3_column_int64(st, 0), ino);
    }
    sqlite3_finalize(st);
    if (found)
        bh_strbuf_addf(out, "files%s", path + at);
    return found;
}

static bool find_filename(struct refs_db *d, const uint8_t *hash, struct bh_strbuf *out)
{
    char hex[BH_SHA256_HEX];
    sqlite3_stmt *st = NULL;
    bh_sha256_format(hash, hex);
    bool found =
        sqlite3_prepare_v2(d->db,
                           "SELECT filename FROM filestore WHERE bh_key = ?1 OR substr(object_key, "
                           "-64) = ?1",
                           -1, &st, NULL) == SQLITE_OK &&
        sqlite3_bind_text(st, 1, hex, -1, SQLITE_STATIC) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW;
    const char *name = found ? (const char *)sqlite3_column_text(st, 0) : NULL;
    if (found)
        bh_strbuf_addf(out, "the row of %s in table filestore", name ? name : hex);
    sqlite3_finalize(st);
    return found;
}

void bh_blob_refs_name(struct bh_blob_refs *r, const struct bh_blob_ref *ref, struct bh_strbuf *out)
{
    struct bh_error err;
    if (ref->source >= r->source_count) {
        bh_strbuf_addf(out, "the live database");
        return;
    }
    const struct refs_source *s = &r->sources[ref->source];
    struct refs_db d = {.refs = r};
    bool found = false;
    if (s->names.size && refs_open_tree(&d, REFS_LOOK, &s->names, &err) == 0)
        found = find_path(&d, ref->hash, out);
    refs_close(&d);
    d = (struct refs_db){.refs = r};
    if (!found && (s->plain ? refs_open_plain(&d, s->what, &err)
                            : refs_open_tree(&d, REFS_LOOK, &s->db, &err)) == 0)
        found = find_filename(&d, ref->hash, out);
    refs_close(&d);
    bh_strbuf_addf(out, "%s%s", found ? " of " : "", s->what);
}

/* --- as a whole --- */

int bh_blob_refs_new(struct bh_blob_refs **out, struct bh_bucket *b, struct bh_trees *trees,
                     const char *prefix, bool sizes, const struct bh_call *call,
                     struct bh_error *err)
{
    struct bh_blob_refs *r = calloc(1, sizeof *r);
    if (!r || !(r->prefix = strdup(prefix))) {
        free(r);
        return no_memory(err);
    }
    r->bucket = b;
    r->trees = trees;
    r->sizes = sizes;
    r->call = call;
    *out = r;
    return 0;
}

void bh_blob_refs_free(struct bh_blob_refs *r)
{
    if (!r)
        return;
    refs_read_free(r);
    for (size_t i = 0; i < r->source_count; i++)
        free(r->sources[i].what);
    free(r->sources);
    free(r->items);
    free(r->table);
    free(r->prefix);
    free(r);
}
