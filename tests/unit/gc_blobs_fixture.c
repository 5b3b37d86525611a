#include "gc_blobs_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sqlite3.h>

#include "util/cleanup.h"

/* --- databases --- */

char *paths[KINDS];
static struct bh_root roots[KINDS];
static uint8_t *stored[KINDS]; /* as in roots */

static const char *const begin_sql[KINDS] = {
    "PRAGMA page_size=4096; CREATE TABLE kv(k INTEGER PRIMARY KEY, v); WITH RECURSIVE i(n) AS "
    "(SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<100) INSERT INTO kv SELECT n, zeroblob(900) "
    "FROM i; CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, object_key TEXT NOT NULL, size "
    "INTEGER NOT NULL, mime TEXT, filename TEXT, metadata TEXT NOT NULL DEFAULT '{}', created_at "
    "REAL NOT NULL DEFAULT 0); CREATE TABLE last(v)",
    "PRAGMA page_size=4096; CREATE TABLE inodes(ino INTEGER PRIMARY KEY, parent INTEGER NOT NULL "
    "DEFAULT 0, hash BLOB, hash_size INTEGER NOT NULL DEFAULT 0); CREATE INDEX inodes_hash ON "
    "inodes(hash) WHERE hash IS NOT NULL; CREATE TABLE entries(dir INTEGER NOT NULL, name BLOB NOT "
    "NULL, ino INTEGER NOT NULL, PRIMARY KEY(dir, name)) WITHOUT ROWID; CREATE TABLE meta(key TEXT "
    "PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID; INSERT INTO meta VALUES('format', 1); "
    "INSERT INTO inodes VALUES(1, 1, NULL, 0)"};

void run_sql(const char *path, const char *format, ...)
{
    sqlite3 *db;
    va_list ap;
    va_start(ap, format);
    char *text = sqlite3_vmprintf(format, ap);
    va_end(ap);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", text, sqlite3_errmsg(db));
    sqlite3_free(text);
    sqlite3_close(db);
}

static uint8_t *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    uint8_t *data = calloc(1, *len + BLOCK);
    assert_int_equal(fread(data, 1, *len, f), *len);
    fclose(f);
    return data;
}

void put_bytes(const char *key, const void *data, size_t len)
{
    const struct bh_source src = {.size = len, .data = data};
    must(bh_bucket_put(bucket, key, &src, NULL, NULL, NULL, NULL, ERR));
}

void put_database(const char *key, const char *path)
{
    size_t len;
    BH_FREE uint8_t *data = read_file(path, &len);
    put_bytes(key, data, len);
}

/* The tree of the file as it is now; blocks that have not changed are shared. */
static void store(int kind, struct bh_pack_writer *w)
{
    struct bh_tree_change changes[256];
    size_t len, n = 0;
    uint8_t *data = read_file(paths[kind], &len);
    for (uint64_t block = 0; block * BLOCK < len; block++) {
        const uint8_t *now = data + block * BLOCK;
        if (block * BLOCK < roots[kind].size && !memcmp(now, stored[kind] + block * BLOCK, BLOCK))
            continue;
        assert_true(n < 256);
        changes[n].block = block;
        must(bh_pack_add(w, BH_RECORD_BLOCK, 0, block, now, BLOCK, &changes[n++].ref, ERR));
    }
    must(bh_tree_update(trees, &roots[kind], len, changes, n, w, &roots[kind], "x", NULL, ERR));
    free(stored[kind]);
    stored[kind] = data;
}

/* A snapshot of both as they are. */
size_t snap(struct branch *br)
{
    struct snapshot *s = &snapshots[snapshot_count];
    struct bh_pack_writer *w;
    memset(s, 0, sizeof *s);
    new_id(&s->e);
    s->e.time_ms = now_ms;
    must(bh_pack_writer_new(&w, packs, BH_TREE_DB, NULL, ERR));
    store(DB, w);
    bh_pack_writer_set_tree(w, BH_TREE_NAMES);
    store(NAMES, w);
    s->e.db = roots[DB];
    s->e.names = roots[NAMES];
    bh_pack_writer_set_tree(w, BH_TREE_INDEX);
    must(bh_index_append(trees, &br->head.index, &s->e, w, &br->head.index, NULL, ERR));
    must(bh_pack_writer_finish(w, ERR));
    bh_pack_writer_free(w);
    put_record(&s->e);
    br->head.newest = s->e;
    put_head(br);
    br->member[br->count] = snapshot_count;
    br->dropped[br->count++] = false;
    return snapshot_count++;
}

/* --- blobs --- */

void hash_of(unsigned n, uint8_t hash[BH_SHA256_LEN])
{
    must(bh_sha256_of(&n, sizeof n, hash));
}

const char *hex_of(unsigned n)
{
    static char hex[4][BH_SHA256_HEX];
    static unsigned next;
    uint8_t hash[BH_SHA256_LEN];
    char *to = hex[next++ % 4];
    hash_of(n, hash);
    bh_sha256_format(hash, to);
    return to;
}

const char *key_of_blob(unsigned n)
{
    static char key[4][128];
    static unsigned next;
    char *to = key[next++ % 4];
    snprintf(to, sizeof key[0], FILES "%s", hex_of(n));
    return to;
}

void upload(unsigned n)
{
    const struct bh_source src = {.size = sizeof n, .data = &n};
    must(bh_bucket_put(bucket, key_of_blob(n), &src, NULL, NULL, NULL, NULL, ERR));
}

void name_it(unsigned n, const char *name)
{
    run_sql(paths[NAMES],
            "INSERT INTO inodes VALUES(%u, 0, x'%s', 4); INSERT INTO entries VALUES(1, "
            "CAST('%s' AS BLOB), %u)",
            n + 100, hex_of(n), name, n + 100);
}

void unname(unsigned n)
{
    run_sql(paths[NAMES], "DELETE FROM inodes WHERE ino=%u; DELETE FROM entries WHERE ino=%u",
            n + 100, n + 100);
}

void add_row(unsigned n)
{
    run_sql(paths[DB],
            "INSERT INTO filestore(bh_key, object_key, size, filename) VALUES('%s', '" FILES
            "%s', 4, 'row%u')",
            hex_of(n), hex_of(n), n);
}

bool has(unsigned n)
{
    return is_there(key_of_blob(n));
}

void only(const unsigned *wanted, size_t count, unsigned all)
{
    for (unsigned n = 0; n < all; n++) {
        bool want = false;
        for (size_t i = 0; i < count; i++)
            want = want || wanted[i] == n;
        if (has(n) != want)
            fail_msg("blob %u is %s\n%s", n, want ? "gone" : "there still", report.data);
    }
}
#define ONLY(all, ...)                                                                             \
    only((const unsigned[]){__VA_ARGS__},                                                          \
         sizeof((const unsigned[]){__VA_ARGS__}) / sizeof(unsigned), all)

/* --- runs --- */

unsigned live_blob;

static int tell_live(void *arg, bh_gc_blob_fn *fn, void *fn_arg, struct bh_error *err)
{
    uint8_t hash[BH_SHA256_LEN];
    (void)arg, (void)err;
    hash_of(live_blob, hash);
    return live_blob ? fn(fn_arg, hash) : 0;
}

int try_blobs(bool dry_run)
{
    const struct bh_gc_blobs blobs = {.prefix = FILES, .within = "", .live = tell_live};
    const struct bh_gc_options options = {
        .grace_ms = GRACE, .dry_run = dry_run, .parallel = 2, .blobs = &blobs};
    bh_strbuf_free(&report);
    return bh_gc_run(bucket, PREFIX, BLOCK, &options, &report, NULL, ERR);
}

void run_gc(void)
{
    must(try_blobs(false));
}

void two_runs(void)
{
    now_ms += GRACE;
    run_gc();
    now_ms += GRACE;
    run_gc();
}

struct branch *begin_main(void)
{
    struct branch *br = make_branch("main");
    br->head.lease.epoch = 1;
    return br;
}

int blobs_setup(void **state)
{
    if (gc_setup(state))
        return -1;
    live_blob = 0;
    for (int i = 0; i < KINDS; i++) {
        char name[] = "/tmp/gc-blobs-XXXXXX";
        int fd = mkstemp(name);
        if (fd < 0)
            return -1;
        close(fd);
        paths[i] = strdup(name);
        roots[i] = (struct bh_root){0};
        run_sql(paths[i], "%s", begin_sql[i]);
    }
    return 0;
}

int blobs_teardown(void **state)
{
    for (int i = 0; i < KINDS; i++) {
        unlink(paths[i]);
        free(paths[i]);
        free(stored[i]);
        stored[i] = NULL;
    }
    return gc_teardown(state);
}
