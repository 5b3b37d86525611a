/* gc of blobs: what a snapshot, a label, another branch, a row, a plain object or the live database
 * names stays; what nothing names goes exactly when two graces are over, whatever writers and
 * crashes come in between. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "gc_model.h"
#include "repo/blob_refs.h"
#include "util/cleanup.h"

#define FILES "files/"

/* --- databases --- */

enum { DB, NAMES, KINDS };
static char *paths[KINDS];
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

static void run_sql(const char *path, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void run_sql(const char *path, const char *format, ...)
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
static size_t snap(struct branch *br)
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

static void hash_of(unsigned n, uint8_t hash[BH_SHA256_LEN])
{
    must(bh_sha256_of(&n, sizeof n, hash));
}

static const char *hex_of(unsigned n)
{
    static char hex[4][BH_SHA256_HEX];
    static unsigned next;
    uint8_t hash[BH_SHA256_LEN];
    char *to = hex[next++ % 4];
    hash_of(n, hash);
    bh_sha256_format(hash, to);
    return to;
}

static const char *key_of_blob(unsigned n)
{
    static char key[4][128];
    static unsigned next;
    char *to = key[next++ % 4];
    snprintf(to, sizeof key[0], FILES "%s", hex_of(n));
    return to;
}

static void upload(unsigned n)
{
    const struct bh_source src = {.size = sizeof n, .data = &n};
    must(bh_bucket_put(bucket, key_of_blob(n), &src, NULL, NULL, NULL, NULL, ERR));
}

static void name_it(unsigned n, const char *name)
{
    run_sql(paths[NAMES],
            "INSERT INTO inodes VALUES(%u, 0, x'%s', 4); INSERT INTO entries VALUES(1, "
            "CAST('%s' AS BLOB), %u)",
            n + 100, hex_of(n), name, n + 100);
}

static void unname(unsigned n)
{
    run_sql(paths[NAMES], "DELETE FROM inodes WHERE ino=%u; DELETE FROM entries WHERE ino=%u",
            n + 100, n + 100);
}

static void add_row(unsigned n)
{
    run_sql(paths[DB],
            "INSERT INTO filestore(bh_key, object_key, size, filename) VALUES('%s', '" FILES
            "%s', 4, 'row%u')",
            hex_of(n), hex_of(n), n);
}

static bool has(unsigned n)
{
    return is_there(key_of_blob(n));
}

static void only(const unsigned *wanted, size_t count, unsigned all)
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

static unsigned live_blob; /* 0: none */

static int tell_live(void *arg, bh_gc_blob_fn *fn, void *fn_arg, struct bh_error *err)
{
    uint8_t hash[BH_SHA256_LEN];
    (void)arg, (void)err;
    hash_of(live_blob, hash);
    return live_blob ? fn(fn_arg, hash) : 0;
}

static int try_blobs(bool dry_run)
{
    const struct bh_gc_blobs blobs = {.prefix = FILES, .within = "", .live = tell_live};
    const struct bh_gc_options options = {
        .grace_ms = GRACE, .dry_run = dry_run, .parallel = 2, .blobs = &blobs};
    bh_strbuf_free(&report);
    return bh_gc_run(bucket, PREFIX, BLOCK, &options, &report, NULL, ERR);
}

static void run_gc(void)
{
    must(try_blobs(false));
}

static void two_runs(void)
{
    now_ms += GRACE;
    run_gc();
    now_ms += GRACE;
    run_gc();
}

static struct branch *begin_main(void)
{
    struct branch *br = make_branch("main");
    br->head.lease.epoch = 1;
    return br;
}

static int blobs_setup(void **state)
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

static int blobs_teardown(void **state)
{
    for (int i = 0; i < KINDS; i++) {
        unlink(paths[i]);
        free(paths[i]);
        free(stored[i]);
        stored[i] = NULL;
    }
    return gc_teardown(state);
}

/* --- who names what --- */

static void everything_that_names_a_blob_keeps_it(void **state)
{
    struct branch *br = begin_main();
    for (unsigned n = 0; n < 12; n++)
        upload(n);
    name_it(1, "one");
    name_it(2, "dropped");
    name_it(3, "labelled");
    name_it(4, "forked");
    add_row(5);
    run_sql(paths[DB],
            "INSERT INTO filestore(bh_key, object_key, size) VALUES('%064d', '" FILES
            "%s', 4), ('%s', 'elsewhere/x', 4), ('no hash', 'nothing', 1)",
            7, hex_of(6), hex_of(8));
    snap(br);
    unname(2);
    snap(br);
    size_t labelled = snap(br);
    fork_of(br, "side");
    unname(3);
    unname(4);
    snap(br);
    for (size_t n = 0; n < 3; n++)
        set_dropped(br, n, true);
    /* the fork has all of them */
    for (size_t n = 0; n < 2; n++)
        set_dropped(&branches[1], n, true);
    add_label(labelled);
    live_blob = 9;
    now_ms += GRACE; /* dropped ones are put back no more */
    two_runs();
    ONLY(12, 1, 3, 4, 5, 6, 8, 9);
    report_has("blobs deleted: 5, ");
    report_has("dangling references: 0");
    delete_branch(&branches[1]);
    remove_label(0);
    live_blob = 0;
    now_ms += GRACE;
    two_runs();
    ONLY(12, 1, 5, 6, 8);
}

static void it_goes_exactly_after_two_graces(void **state)
{
    snap(begin_main());
    upload(1);
    now_ms += GRACE - 1;
    run_gc();
    report_has("blobs young: 1, ");
    now_ms++;
    must(try_blobs(true));
    report_has("blobs condemned now: 1, ");
    run_gc();
    report_has("blobs condemned now: 1, ");
    now_ms += GRACE - 1;
    run_gc();
    report_has("blobs condemned before: 1, ");
    now_ms++;
    must(try_blobs(true));
    report_has("blobs to be deleted: 1, ");
    assert_true(has(1));
    run_gc();
    report_has("blobs deleted: 1, ");
    assert_false(has(1));
}

static void what_is_named_again_is_saved(void **state)
{
    struct branch *br = begin_main();
    snap(br);
    upload(1);
    now_ms += GRACE;
    run_gc();
    name_it(1, "again");
    snap(br);
    now_ms += GRACE;
    run_gc();
    report_has("blobs in use again: 1, ");
    assert_true(has(1));
    unname(1);
    snap(br);
    set_dropped(br, 1, true);
    now_ms += GRACE;
    run_gc(); /* the grace begins anew */
    assert_true(has(1));
    now_ms += GRACE;
    run_gc();
    assert_false(has(1));
}

/* A snapshot that was dropped just now can still be put back. */
static void what_was_dropped_lately_keeps_its_blobs(void **state)
{
    struct branch *br = begin_main();
    upload(1);
    now_ms += 3 * GRACE;
    name_it(1, "one");
    snap(br);
    unname(1);
    snap(br);
    set_dropped(br, 0, true);
    now_ms += GRACE - 1;
    run_gc();
    report_has("blobs condemned now: 0, ");
    now_ms += 1;
    run_gc();
    report_has("blobs condemned now: 1, ");
    report_has("condemned now: 0 packs, 1 records"); /* that is condemned, too */
}

/* --- beside writers --- */

static struct bh_gc_guard *guard;

static int64_t guard_wait(unsigned n, bool *listed)
{
    uint8_t hash[BH_SHA256_LEN];
    int64_t wait;
    bool changed;
    hash_of(n, hash);
    must(bh_gc_guard_look(&guard, bucket, PREFIX, &changed, NULL, ERR));
    *listed = bh_gc_guard_has(guard, hash, now_ms, &wait);
    return wait;
}

static int64_t seen_wait;
static bool seen_listed;
static void write_again(void)
{
    seen_wait = guard_wait(1, &seen_listed);
    now_ms += 1000;
    upload(1);
}

/* Between the publication and the deletion: gc sees the new time, the writer that it was doomed. */
static void a_writer_in_between_is_seen_by_one_or_the_other(void **state)
{
    snap(begin_main());
    upload(1);
    upload(2);
    now_ms += GRACE;
    run_gc();
    bool listed;
    assert_int_equal(guard_wait(1, &listed), 0);
    assert_true(listed);
    now_ms += GRACE;
    hook = write_again;
    hook_op = "list";
    hook_key = FILES;
    run_gc();
    assert_null(hook);
    assert_true(seen_listed);
    assert_in_range(seen_wait, 1, BH_GC_DOOM_MS);
    assert_true(has(1));
    assert_false(has(2));
    report_has("blobs deleted: 1, ");
    /* Nothing is about to be deleted any more; what is gone is known for a grace. */
    assert_int_equal(guard_wait(2, &listed), 0);
    assert_true(listed);
    now_ms += GRACE / 2;
    upload(3);
    run_gc();
    assert_int_equal(guard_wait(2, &listed), 0);
    assert_true(listed);
    guard_wait(1, &listed);
    assert_false(listed); /* it is young again */
    now_ms += GRACE;
    run_gc();
    guard_wait(2, &listed);
    assert_false(listed);
    bh_gc_guard_free(guard);
    guard = NULL;
}

static void other_gc(void)
{
    struct bh_strbuf mine = report;
    report = (struct bh_strbuf){0};
    run_gc();
    bh_strbuf_free(&report);
    report = mine;
}

static void of_two_at_once_one_deletes(void **state)
{
    snap(begin_main());
    upload(1);
    upload(2);
    now_ms += GRACE;
    run_gc();
    now_ms += GRACE;
    hook = other_gc;
    hook_op = "put";
    hook_key = "gc-blobs";
    must_fail(try_blobs(false), EBUSY);
    assert_false(has(1) || has(2));
}

/* --- crashes --- */

static void a_crash_anywhere_is_harmless(void **state)
{
    struct branch *br = begin_main();
    for (unsigned n = 0; n < 6; n++)
        upload(n);
    name_it(0, "zero");
    add_row(1);
    snap(br);
    now_ms += GRACE;
    run_gc();
    for (int n = 0;; n++) {
        now_ms += GRACE;
        upload(4); /* young again and again */
        last_is_done = n % 2;
        atomic_store(&requests_left, n);
        int rc = try_blobs(false);
        atomic_store(&requests_left, INT32_MAX);
        assert_true(has(0) && has(1) && has(4));
        if (rc == 0)
            break;
        assert_true(n < 500);
        report_has("wrong: ");
    }
    now_ms += GRACE / 2;
    run_gc();
    ONLY(6, 0, 1, 4);
}

/* --- what cannot be judged --- */

static void put_bytes(const char *key, const void *data, size_t len)
{
    const struct bh_source src = {.size = len, .data = data};
    must(bh_bucket_put(bucket, key, &src, NULL, NULL, NULL, NULL, ERR));
}

static void put_database(const char *key, const char *path)
{
    size_t len;
    BH_FREE uint8_t *data = read_file(path, &len);
    put_bytes(key, data, len);
}

static void refused(const char *why)
{
    now_ms += GRACE;
    run_gc();
    report_has("blobs not reclaimed: ");
    report_has(why);
    assert_true(has(1));
}

static void what_cannot_be_read_is_not_judged(void **state)
{
    static char noise[4096];
    struct branch *br = begin_main();
    snap(br);
    upload(1);
    now_ms += GRACE;
    run_gc(); /* condemned */
    memset(noise, 'x', sizeof noise);
    put_bytes("k.branch.bad", noise, sizeof noise);
    refused("k.branch.bad");
    must(bh_bucket_delete(bucket, "k.branch.bad", NULL, ERR));
    put_database("other.db", paths[DB]);
    refused("other.db is another database");
    must(bh_bucket_delete(bucket, "other.db", NULL, ERR));
    put_bytes("old/k2.bhfs/format", "x", 1);
    refused("k2.bhfs/format is of another database");
    must(bh_bucket_delete(bucket, "old/k2.bhfs/format", NULL, ERR));
    put_bytes("picture", noise, sizeof noise); /* no database */
    run_sql(paths[DB], "DROP TABLE filestore; CREATE TABLE filestore(x)");
    snap(br);
    refused("table filestore of live.db of snapshot");
    run_sql(paths[DB], "DROP TABLE filestore");
    snap(br);
    set_dropped(br, 1, true);
    now_ms += GRACE;
    run_sql(paths[NAMES], "UPDATE meta SET value=2");
    snap(br);
    refused("table meta of names.db of snapshot");
    run_sql(paths[NAMES], "UPDATE meta SET value=1");
    snap(br);
    set_dropped(br, 3, true);
    now_ms += GRACE;
    run_gc();
    assert_false(has(1));
}

/* Upstream's branches, and what it left of main. */
static void plain_objects_keep_what_they_name(void **state)
{
    snap(begin_main());
    for (unsigned n = 1; n < 5; n++)
        upload(n);
    add_row(1);
    put_database("k.branch.up", paths[DB]);
    run_sql(paths[DB], "DELETE FROM filestore");
    add_row(2);
    run_sql(paths[DB], "PRAGMA journal_mode=WAL; PRAGMA wal_checkpoint(TRUNCATE)");
    put_database("k.prev", paths[DB]);
    run_sql(paths[DB], "PRAGMA journal_mode=DELETE; DROP TABLE filestore");
    put_database("k", paths[DB]);
    two_runs();
    ONLY(5, 1, 2);
    must(bh_bucket_delete(bucket, "k.branch.up", NULL, ERR));
    two_runs();
    ONLY(5, 2);
}

static void a_damaged_list_begins_anew(void **state)
{
    snap(begin_main());
    upload(1);
    now_ms += GRACE;
    run_gc();
    now_ms += GRACE;
    put_bytes(PREFIX "gc-blobs", "bhfs: condemned blobs\nnonsense\n", 31);
    run_gc();
    report_has("the list was damaged");
    assert_true(has(1));
    now_ms += GRACE;
    run_gc();
    assert_false(has(1));
}

static void what_is_missing_is_named(void **state)
{
    struct branch *br = begin_main();
    run_sql(paths[NAMES],
            "INSERT INTO inodes VALUES(50, 1, NULL, 0); INSERT INTO entries VALUES(1, "
            "CAST('dir' AS BLOB), 50), (50, CAST('deep' AS BLOB), 101)");
    run_sql(paths[NAMES], "INSERT INTO inodes VALUES(101, 0, x'%s', 4)", hex_of(1));
    add_row(2);
    upload(3);
    name_it(3, "there");
    snap(br);
    run_gc();
    report_has("dangling references: 2");
    char line[300];
    snprintf(line, sizeof line, "dangling: " FILES "%s is missing: files/dir/deep of snapshot %s\n",
             hex_of(1), br->head.newest.id);
    report_has(line);
    snprintf(line, sizeof line,
             "dangling: " FILES
             "%s is missing: the row of row2 in table filestore of snapshot %s\n",
             hex_of(2), br->head.newest.id);
    report_has(line);
}

/* --- costs --- */

static void what_has_not_changed_is_not_read_again(void **state)
{
    enum { COUNT = 30 };
    struct branch *br = begin_main();
    size_t scanned, skipped;
    struct bh_blob_refs *refs;
    for (unsigned n = 1; n < 200; n++) {
        name_it(n, hex_of(n));
        add_row(n);
    }
    for (int i = 0; i < COUNT; i++) {
        run_sql(paths[DB], "UPDATE kv SET v=randomblob(900) WHERE k=50");
        snap(br);
    }
    fresh_packs(bucket);
    uint64_t before = get_requests();
    must(bh_blob_refs_new(&refs, bucket, trees, FILES, false, NULL, ERR));
    for (int i = 0; i < COUNT; i++)
        must(bh_blob_refs_snapshot(refs, &snapshots[i].e.db, &snapshots[i].e.names, "x", ERR));
    assert_int_equal(bh_blob_refs_count(refs), 199);
    bh_blob_refs_costs(refs, &scanned, &skipped);
    assert_int_equal(scanned, 2);
    assert_int_equal(skipped, COUNT - 1);
    /* A snapshot costs the nodes that changed, and block 0. */
    uint64_t requests = get_requests() - before;
    assert_in_range(requests, COUNT, 4 * COUNT + 40);
    bh_blob_refs_free(refs);
    /* A row more is seen, of course; also one in the place of another. */
    run_sql(paths[DB],
            "UPDATE filestore SET bh_key='%s', object_key='" FILES "%s' WHERE bh_key='%s'",
            hex_of(500), hex_of(500), hex_of(7));
    size_t with = snap(br);
    must(bh_blob_refs_new(&refs, bucket, trees, FILES, false, NULL, ERR));
    must(bh_blob_refs_snapshot(refs, &snapshots[0].e.db, &snapshots[0].e.names, "x", ERR));
    must(bh_blob_refs_snapshot(refs, &snapshots[with].e.db, &snapshots[with].e.names, "x", ERR));
    assert_int_equal(bh_blob_refs_count(refs), 200);
    bh_blob_refs_free(refs);
}

/* --- a model --- */

enum { MODEL = 24, ROUNDS = 60 };

static void any_histories(void **state)
{
    bool named[SNAPSHOTS][MODEL] = {{0}}, now[MODEL] = {0}, rows[MODEL] = {0};
    bool there[MODEL] = {0};
    struct branch *br = begin_main();
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned n = (unsigned)rnd(MODEL);
        switch (rnd(3)) {
        case 0:
            upload(n); /* and perhaps never named */
            there[n] = true;
            break;
        case 1:
            if (!now[n]) {
                upload(n);
                there[n] = true;
                name_it(n, hex_of(n));
            } else {
                unname(n);
            }
            now[n] = !now[n];
            break;
        default:
            if (!rows[n]) {
                upload(n);
                there[n] = true;
                add_row(n);
            } else {
                run_sql(paths[DB], "DELETE FROM filestore WHERE bh_key='%s'", hex_of(n));
            }
            rows[n] = !rows[n];
        }
        if (rnd(2)) {
            size_t s = snap(br);
            for (unsigned i = 0; i < MODEL; i++)
                named[s][i] = now[i] || rows[i];
        }
        if (br->count > 3 && rnd(3) == 0) {
            size_t d = rnd(br->count - 1);
            if (!br->dropped[d])
                set_dropped(br, d, true);
        }
        now_ms += (int64_t)rnd(GRACE / 2);
        if (rnd(3) == 0)
            run_gc();
        for (size_t s = 0; s < br->count; s++)
            for (unsigned i = 0; i < MODEL; i++)
                if (!br->dropped[s] && named[br->member[s]][i])
                    assert_true(has(i));
    }
    size_t last = snap(br);
    for (unsigned i = 0; i < MODEL; i++)
        named[last][i] = now[i] || rows[i];
    now_ms += GRACE;
    two_runs();
    for (unsigned i = 0; i < MODEL; i++) {
        bool want = false;
        for (size_t s = 0; s < br->count; s++)
            want = want || (!br->dropped[s] && named[br->member[s]][i]);
        assert_true(!want || there[i]);
        if (has(i) != want)
            fail_msg("blob %u is %s\n%s", i, want ? "gone" : "there still", report.data);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, blobs_setup, blobs_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(everything_that_names_a_blob_keeps_it),
        TEST(it_goes_exactly_after_two_graces),
        TEST(what_is_named_again_is_saved),
        TEST(what_was_dropped_lately_keeps_its_blobs),
        TEST(a_writer_in_between_is_seen_by_one_or_the_other),
        TEST(of_two_at_once_one_deletes),
        TEST(a_crash_anywhere_is_harmless),
        TEST(what_cannot_be_read_is_not_judged),
        TEST(plain_objects_keep_what_they_name),
        TEST(a_damaged_list_begins_anew),
        TEST(what_is_missing_is_named),
        TEST(what_has_not_changed_is_not_read_again),
        TEST(any_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
