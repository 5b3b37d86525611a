#include "years.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "util/cleanup.h"

struct bh_bucket *year;
struct year_branch year_main, year_side;
struct bh_strbuf year_report;

static uint8_t hash_of[YEAR_VERSIONS][BH_HASH_SIZE]; /* content of each version of a block */
static uint32_t versions;
static int64_t last_id_ms;

/* A flush that is under way. */
static struct pending {
    struct year_snapshot snapshot;
    struct bh_root index;
} pending_main, pending_side;

static struct pending *pending_of(const struct year_branch *br)
{
    return br == &year_main ? &pending_main : &pending_side;
}

static void begin_branch(struct year_branch *br, const char *name)
{
    memset(br, 0, sizeof *br);
    snprintf(br->head.branch, sizeof br->head.branch, "%s", name);
    br->snapshots = calloc(YEAR_SNAPSHOTS, sizeof *br->snapshots);
    assert_non_null(br->snapshots);
    memset(pending_of(br), 0, sizeof(struct pending));
}

static void end_branch(struct year_branch *br)
{
    for (size_t i = 0; i < br->count; i++)
        free(br->snapshots[i].version);
    free(br->snapshots);
    free(pending_of(br)->snapshot.version);
    br->snapshots = NULL;
}

static void fresh(void)
{
    const struct bh_packs_options options = {.part_size = MIB, .parallel = 1, .level = 1};
    bh_trees_free(trees);
    bh_packs_free(packs);
    trees = NULL;
    must(bh_packs_new(&packs, year, TREE_PREFIX, &options, ERR));
    fresh_trees(BIG_CACHE);
}

int year_setup(void **state)
{
    versions = 0;
    seed = 88172645463325252u;
    clock_ms = INT64_C(1767225600000); /* 2026-01-01 */
    last_id_ms = 0;
    year = clock_bucket_new();
    fresh();
    begin_branch(&year_main, "main");
    begin_branch(&year_side, "side");
    return 0;
}

int year_teardown(void **state)
{
    end_branch(&year_main);
    end_branch(&year_side);
    bh_trees_free(trees);
    bh_packs_free(packs);
    trees = NULL;
    packs = NULL;
    bh_bucket_close(year);
    bh_strbuf_free(&year_report);
    return 0;
}

/* --- flushes --- */

/* Half of it compresses well. */
static void content_of(uint64_t block, uint32_t version, uint8_t *out)
{
    uint64_t x = block * UINT64_C(0x9e3779b97f4a7c15) + version;
    for (size_t i = 0; i < BLOCK / 2; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(out + i, &x, 8);
    }
    memset(out + BLOCK / 2, 'a' + (int)(version % 26), BLOCK / 2);
}

static void new_id(struct bh_index_entry *e)
{
    last_id_ms = clock_ms > last_id_ms ? clock_ms : last_id_ms + 1;
    time_t s = (time_t)(last_id_ms / 1000);
    struct tm tm;
    char second[32], id[64];
    gmtime_r(&s, &tm);
    strftime(second, sizeof second, "%Y%m%dT%H%M%S", &tm);
    snprintf(id, sizeof id, "%s.%03uZ-%08x", second, (unsigned)(last_id_ms % 1000),
             (unsigned)rnd(UINT32_MAX));
    memcpy(e->id, id, 30);
    e->time_ms = last_id_ms;
}

static void put_block_of(struct year_snapshot *s, size_t block, struct bh_pack_writer *w,
                         struct bh_tree_change *change)
{
    uint8_t content[BLOCK];
    assert_true(versions + 1 < YEAR_VERSIONS);
    s->version[block] = ++versions;
    content_of(block, versions, content);
    change->block = block;
    must(bh_pack_add(w, BH_RECORD_BLOCK, 0, block, content, BLOCK, &change->ref, ERR));
    memcpy(hash_of[versions], change->ref.hash, BH_HASH_SIZE);
}

/* Which blocks an hour writes. */
static void choose(const struct year_use *use, const struct year_snapshot *s, size_t before,
                   bool *written)
{
    for (size_t i = before; i < s->blocks; i++)
        written[i] = true;
    for (unsigned i = 0; i < use->hot_writes; i++)
        written[rnd(use->hot < s->blocks ? use->hot : s->blocks)] = true;
    for (unsigned i = 0; i < use->warm_writes; i++)
        written[rnd(use->warm < s->blocks ? use->warm : s->blocks)] = true;
    for (unsigned i = 0; i < use->any_writes; i++)
        written[rnd(s->blocks)] = true;
}

static void upload(struct year_branch *br, const struct year_use *use, struct pending *p)
{
    static struct bh_tree_change changes[YEAR_BLOCKS];
    bool written[YEAR_BLOCKS] = {0};
    struct bh_root base = {0};
    struct bh_pack_writer *w;
    size_t n = 0;
    struct year_snapshot *s = &p->snapshot, *last = NULL;
    if (br->count)
        last = &br->snapshots[br->count - 1];
    free(s->version);
    *s = (struct year_snapshot){.version = calloc(YEAR_BLOCKS, sizeof *s->version)};
    s->blocks = use->first;
    if (last) {
        memcpy(s->version, last->version, YEAR_BLOCKS * sizeof *s->version);
        base = last->e.db;
        s->blocks = last->blocks;
        for (unsigned i = 0; i < use->new_a_day && s->blocks < YEAR_BLOCKS; i++)
            s->blocks += rnd(24) == 0;
    }
    choose(use, s, last ? last->blocks : 0, written);
    memcpy(s->e.branch, br->head.branch, 5); /* both names are of four letters */
    new_id(&s->e);
    must(bh_pack_writer_new(&w, packs, BH_TREE_DB, NULL, ERR));
    for (size_t i = 0; i < s->blocks; i++)
        if (written[i])
            put_block_of(s, i, w, &changes[n++]);
    must(bh_tree_update(trees, &base, s->blocks * BLOCK, changes, n, w, &s->e.db, "x", NULL, ERR));
    bh_pack_writer_set_tree(w, BH_TREE_INDEX);
    must(bh_index_append(trees, &br->head.index, &s->e, w, &p->index, NULL, ERR));
    must(bh_pack_writer_finish(w, ERR));
    bh_pack_writer_free(w);
}

static void put_record(const struct year_snapshot *s)
{
    struct bh_record r = {.entry = s->e, .host = "test"};
    BH_STRBUF text = {0};
    char key[160];
    snprintf(key, sizeof key, TREE_PREFIX "snapshots/%s", s->e.id);
    assert_int_equal(bh_record_encode(&r, &text), 0);
    struct bh_source src = {.size = text.len, .data = text.data};
    must(bh_bucket_put(year, key, &src, NULL, NULL, NULL, NULL, ERR));
}

static void put_head(struct year_branch *br)
{
    br->head.sequence++;
    must(bh_head_put(year, TREE_PREFIX, &br->head, br->etag, NULL, NULL, NULL, ERR));
}

void year_flush_step(struct year_branch *br, const struct year_use *use, enum year_step step)
{
    struct pending *p = pending_of(br);
    switch (step) {
    case YEAR_UPLOAD:
        upload(br, use, p);
        break;
    case YEAR_RECORD:
        put_record(&p->snapshot);
        break;
    default:
        br->head.index = p->index;
        memcpy(br->head.previous, br->head.newest.id, sizeof br->head.previous);
        br->head.newest = p->snapshot.e;
        put_head(br);
        assert_true(br->count < YEAR_SNAPSHOTS);
        br->snapshots[br->count++] = p->snapshot;
        p->snapshot.version = NULL;
    }
}

void year_flush(struct year_branch *br, const struct year_use *use)
{
    for (int step = YEAR_UPLOAD; step < YEAR_STEPS; step++)
        year_flush_step(br, use, (enum year_step)step);
}

void year_fork(void)
{
    year_side.head = year_main.head;
    snprintf(year_side.head.branch, sizeof year_side.head.branch, "side");
    for (size_t i = 0; i < year_main.count; i++) {
        struct year_snapshot *to = &year_side.snapshots[i], *from = &year_main.snapshots[i];
        *to = *from;
        if (!from->version)
            continue;
        to->version = calloc(YEAR_BLOCKS, sizeof *to->version);
        assert_non_null(to->version);
        memcpy(to->version, from->version, YEAR_BLOCKS * sizeof *to->version);
    }
    year_side.count = year_main.count;
    put_head(&year_side);
}

void year_retain(struct year_branch *br, const struct bh_retention *keep)
{
    BH_FREE struct bh_retention_item *items = calloc(br->count, sizeof *items);
    BH_FREE struct bh_index_entry *entries = calloc(br->count, sizeof *entries);
    BH_FREE uint64_t *numbers = calloc(br->count, sizeof *numbers);
    struct bh_pack_writer *w;
    size_t count = 0, n = 0;
    for (size_t i = 0; i < br->count; i++) {
        if (!br->snapshots[i].version)
            continue;
        numbers[count] = i;
        items[count++].time_ms = br->snapshots[i].e.time_ms;
    }
    if (!bh_retention_apply(keep, items, count))
        return;
    for (size_t i = 0; i < count; i++) {
        struct year_snapshot *s = &br->snapshots[numbers[i]];
        if (!items[i].drop)
            continue;
        entries[n] = s->e;
        entries[n].flags = BH_ENTRY_DROPPED;
        numbers[n++] = numbers[i];
        free(s->version);
        s->version = NULL;
    }
    must(bh_pack_writer_new(&w, packs, BH_TREE_INDEX, NULL, ERR));
    must(bh_index_replace(trees, &br->head.index, numbers, entries, n, w, &br->head.index, NULL,
                          ERR));
    must(bh_pack_writer_finish(w, ERR));
    bh_pack_writer_free(w);
    put_head(br);
}

int year_try_gc(void)
{
    const struct bh_gc_options options = {.grace_ms = DAY, .compact = true, .parallel = 1};
    bh_strbuf_free(&year_report);
    return bh_gc_run(year, TREE_PREFIX, BLOCK, &options, &year_report, NULL, ERR);
}

/* --- what must be so --- */

enum { WANTS = 256 };
struct check {
    struct gc_set seen; /* records */
    uint64_t need;
    const struct year_snapshot *snapshot; /* NULL: an index is walked */
    size_t blocks;
    struct bh_pack_want wants[WANTS];
    size_t want_count;
    uint8_t buf[WANTS][BLOCK];
};

static void read_wants(struct check *c)
{
    must(bh_packs_read_many(packs, c->wants, c->want_count, "x", NULL, ERR));
    c->want_count = 0;
}

static int check_ref(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                     const struct bh_error *damage)
{
    struct check *c = arg;
    if (damage)
        fail_msg("%s", damage->text);
    if (level == 0 && c->snapshot) {
        assert_memory_equal(ref->hash, hash_of[c->snapshot->version[number]], BH_HASH_SIZE);
        c->blocks++;
    }
    const struct bh_root place = {.ref = *ref, .depth = level};
    int rc = gc_set_add(&c->seen, gc_root_key(&place), 0);
    if (rc == EEXIST)
        return 0;
    assert_int_equal(rc, 0);
    c->need += ref->stored;
    if (level > 0) /* the walk has read it */
        return 0;
    c->wants[c->want_count] =
        (struct bh_pack_want){.ref = *ref, .raw = BLOCK, .buf = c->buf[c->want_count]};
    if (++c->want_count == WANTS)
        read_wants(c);
    return 0;
}

static void check_bytes(const struct year_snapshot *s)
{
    static uint8_t got[YEAR_BLOCKS * BLOCK];
    uint8_t content[BLOCK];
    must(bh_tree_read(trees, &s->e.db, 0, got, s->blocks * BLOCK, "x", NULL, ERR));
    for (size_t i = 0; i < s->blocks; i++) {
        content_of(i, s->version[i], content);
        assert_memory_equal(got + i * BLOCK, content, BLOCK);
    }
}

static void check_head(const struct year_branch *br)
{
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    struct bh_index_entry e;
    must(bh_head_get(year, TREE_PREFIX, br->head.branch, &head, etag, NULL, ERR));
    assert_string_equal(head.newest.id, br->snapshots[br->count - 1].e.id);
    assert_int_equal(bh_index_count(&head.index), br->count);
    for (size_t i = 0; i < br->count; i++) {
        if (!br->snapshots[i].version)
            continue;
        must(bh_index_get(trees, &head.index, i, 1, &e, NULL, ERR));
        assert_string_equal(e.id, br->snapshots[i].e.id);
        assert_int_equal(e.flags, 0);
    }
}

static void check_branch(struct check *c, const struct year_branch *br, bool bytes)
{
    if (!br->count)
        return;
    check_head(br);
    c->snapshot = NULL;
    must(bh_tree_walk(trees, &br->head.index, NULL, check_ref, c, NULL, ERR));
    for (size_t i = 0; i < br->count; i++) {
        c->snapshot = &br->snapshots[i];
        if (!c->snapshot->version)
            continue;
        c->blocks = 0;
        must(bh_tree_walk(trees, &c->snapshot->e.db, NULL, check_ref, c, NULL, ERR));
        assert_int_equal(c->blocks, c->snapshot->blocks);
        if (bytes)
            check_bytes(c->snapshot);
    }
    read_wants(c);
}

uint64_t year_check(bool bytes)
{
    BH_FREE struct check *c = calloc(1, sizeof *c);
    assert_non_null(c);
    fresh();
    check_branch(c, &year_main, bytes);
    check_branch(c, &year_side, bytes);
    gc_set_free(&c->seen);
    return c->need;
}
