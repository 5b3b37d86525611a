#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gc_model.h"
#include "util/cleanup.h"

struct snapshot snapshots[SNAPSHOTS];
size_t snapshot_count;
struct branch branches[BRANCHES];
struct label labels[LABELS];
size_t label_count;
struct thing things[THINGS];
size_t thing_count;

const void *block_of(uint64_t n, uint32_t version)
{
    static uint64_t data[BLOCK / 8];
    for (size_t i = 0; i < BLOCK / 8; i++)
        data[i] = version ? n * 1000003 + version + i : 0;
    return data;
}

void new_id(struct bh_index_entry *e)
{
    static uint64_t n;
    uint64_t s = ++n;
    char id[64];
    snprintf(id, sizeof id, "202611%02uT%02u%02u%02u.000Z-%08x", (unsigned)(1 + s / 86400),
             (unsigned)(s / 3600 % 24), (unsigned)(s / 60 % 60), (unsigned)(s % 60),
             (unsigned)(n * 2654435761u));
    memcpy(e->id, id, 30);
    strcpy(e->branch, "main");
    e->time_ms = INT64_C(1793491200000) + (int64_t)s * 1000;
}

int gc_setup(void **state)
{
    if (tree_setup(state))
        return -1;
    bucket_reset();
    snapshot_count = label_count = thing_count = 0;
    memset(branches, 0, sizeof branches);
    seed = 88172645463325252u;
    fresh_packs(bucket);
    return 0;
}

int gc_teardown(void **state)
{
    int rc = tree_teardown(state);
    bh_bucket_close(bucket);
    bucket = NULL;
    bh_strbuf_free(&report);
    return rc;
}

/* --- operations, in the order of a flush --- */

void put_record(const struct bh_index_entry *e)
{
    struct bh_record r = {.entry = *e, .host = "test"};
    BH_STRBUF text = {0};
    char key[160];
    snprintf(key, sizeof key, PREFIX "snapshots/%s", e->id);
    assert_int_equal(bh_record_encode(&r, &text), 0);
    struct bh_source src = {.size = text.len, .data = text.data};
    must(bh_bucket_put(bucket, key, &src, NULL, NULL, NULL, NULL, ERR));
}

void put_head(struct branch *br)
{
    br->head.sequence++;
    must(bh_head_put(bucket, PREFIX, &br->head, br->etag, NULL, NULL, NULL, ERR));
}

/* Changes some blocks of s, whose content is that of `base` now. */
static void change(struct snapshot *s, const struct bh_root *base, size_t changes,
                   struct bh_pack_writer *w)
{
    struct bh_tree_change list[BLOCKS];
    size_t n = 0;
    static uint32_t version = 1;
    if (rnd(4) == 0)
        s->blocks = 1 + rnd(BLOCKS);
    for (size_t i = 0; i < BLOCKS; i++) {
        if (i >= s->blocks) {
            s->version[i] = 0;
            continue;
        }
        if (rnd(s->blocks) >= changes)
            continue;
        s->version[i] = rnd(8) ? ++version : 0;
        list[n].block = i;
        must(bh_pack_add(w, BH_RECORD_BLOCK, 0, i, block_of(i, s->version[i]), BLOCK, &list[n].ref,
                         ERR));
        n++;
    }
    must(bh_tree_update(trees, base, s->blocks * BLOCK, list, n, w, &s->e.db, "x", NULL, ERR));
}

/* A new snapshot on top of the branch, with the content of `like` (NULL: none) and changes. */
size_t flush_like(struct branch *br, const struct snapshot *like, size_t changes)
{
    assert_true(snapshot_count < SNAPSHOTS);
    struct snapshot *s = &snapshots[snapshot_count];
    struct bh_pack_writer *w;
    struct bh_root base = {0};
    memset(s, 0, sizeof *s);
    if (like) {
        *s = *like;
        base = like->e.db;
    }
    memset(s->e.id, 0, sizeof s->e.id);
    new_id(&s->e);
    must(bh_pack_writer_new(&w, packs, BH_TREE_DB, NULL, ERR));
    if (changes)
        change(s, &base, changes, w);
    bh_pack_writer_set_tree(w, BH_TREE_INDEX);
    must(bh_index_append(trees, &br->head.index, &s->e, w, &br->head.index, NULL, ERR));
    must(bh_pack_writer_finish(w, ERR));
    bh_pack_writer_free(w);
    put_record(&s->e);
    memcpy(br->head.previous, br->head.newest.id, sizeof br->head.previous);
    br->head.newest = s->e;
    put_head(br);
    br->member[br->count] = snapshot_count;
    br->dropped[br->count++] = false;
    return snapshot_count++;
}

size_t newest(const struct branch *br)
{
    return br->member[br->count - 1];
}

size_t flush(struct branch *br, size_t changes)
{
    return flush_like(br, br->count ? &snapshots[newest(br)] : NULL, changes);
}

/* A flush that died before the head. */
void orphan(struct branch *br)
{
    struct snapshot *s = calloc(1, sizeof *s);
    struct bh_pack_writer *w;
    *s = snapshots[newest(br)];
    struct bh_root base = s->e.db;
    must(bh_pack_writer_new(&w, packs, BH_TREE_DB, NULL, ERR));
    change(s, &base, 9, w);
    must(bh_pack_writer_finish(w, ERR));
    bh_pack_writer_free(w);
    if (rnd(2)) {
        new_id(&s->e);
        put_record(&s->e);
    }
    free(s);
}

struct branch *make_branch(const char *name)
{
    for (size_t i = 0; i < BRANCHES; i++) {
        struct branch *br = &branches[i];
        if (br->exists)
            continue;
        memset(br, 0, sizeof *br);
        br->exists = true;
        snprintf(br->head.branch, sizeof br->head.branch, "%s", name);
        return br;
    }
    return NULL;
}

struct branch *fork_of(const struct branch *from, const char *name)
{
    struct branch *br = make_branch(name);
    if (!br)
        return NULL;
    char kept[BH_BRANCH_MAX];
    memcpy(kept, br->head.branch, sizeof kept);
    *br = *from;
    memcpy(br->head.branch, kept, sizeof kept);
    br->etag[0] = '\0';
    put_head(br);
    return br;
}

void delete_branch(struct branch *br)
{
    br->head.deleted = br->deleted = true;
    br->deleted_ms = now_ms;
    put_head(br);
}

void set_dropped(struct branch *br, size_t n, bool dropped)
{
    struct bh_pack_writer *w;
    struct bh_index_entry e = snapshots[br->member[n]].e;
    uint64_t number = n;
    e.flags = dropped ? BH_ENTRY_DROPPED : 0;
    must(bh_pack_writer_new(&w, packs, BH_TREE_INDEX, NULL, ERR));
    must(bh_index_replace(trees, &br->head.index, &number, &e, 1, w, &br->head.index, NULL, ERR));
    must(bh_pack_writer_finish(w, ERR));
    bh_pack_writer_free(w);
    put_head(br);
    br->dropped[n] = dropped;
}

void add_label(size_t snapshot)
{
    static unsigned n;
    struct label *l = &labels[label_count++];
    snprintf(l->name, sizeof l->name, "l%u", n++);
    l->snapshot = snapshot;
    must(bh_label_put(bucket, PREFIX, l->name, snapshots[snapshot].e.id, NULL, ERR));
}

void remove_label(size_t i)
{
    must(bh_label_delete(bucket, PREFIX, labels[i].name, NULL, ERR));
    labels[i] = labels[--label_count];
}

struct branch *dropped_two(size_t count)
{
    struct branch *br = make_branch("main");
    for (size_t i = 0; i < count; i++)
        flush(br, BLOCKS); /* all of it: no pack has anything of the next one's */
    set_dropped(br, 0, true);
    set_dropped(br, 1, true);
    return br;
}

/* --- what the model says --- */

bool is_root(const struct branch *br)
{
    return br->exists && (!br->deleted || br->deleted_ms + GRACE > now_ms);
}

/* Snapshots that must be there. */
static void retained(bool keep[SNAPSHOTS])
{
    memset(keep, 0, SNAPSHOTS);
    for (size_t i = 0; i < BRANCHES; i++)
        for (size_t n = 0; is_root(&branches[i]) && n < branches[i].count; n++)
            if (!branches[i].dropped[n])
                keep[branches[i].member[n]] = true;
    for (size_t i = 0; i < label_count; i++)
        keep[labels[i].snapshot] = true;
}

static int note_ref(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                    const struct bh_error *damage)
{
    assert_null(damage);
    assert_int_not_equal(gc_set_add(arg, gc_pack_key(ref->pack), 0), ENOMEM);
    return 0;
}

/* Packs and records that are needed, found without any cleverness. */
void needed(struct gc_set *set)
{
    bool keep[SNAPSHOTS];
    retained(keep);
    for (size_t i = 0; i < snapshot_count; i++) {
        if (!keep[i])
            continue;
        assert_int_not_equal(gc_set_add(set, gc_record_key(snapshots[i].e.id), 0), ENOMEM);
        must(bh_tree_walk(trees, &snapshots[i].e.db, NULL, note_ref, set, NULL, ERR));
    }
    for (size_t i = 0; i < BRANCHES; i++)
        if (is_root(&branches[i]))
            must(bh_tree_walk(trees, &branches[i].head.index, NULL, note_ref, set, NULL, ERR));
}

struct gc_key key_of(const char *key)
{
    uint64_t id;
    const char *name = strrchr(key, '/') + 1;
    return bh_pack_id_of_name(&id, name) == 0 ? gc_pack_key(id) : gc_record_key(name);
}

static struct thing *thing_of(const char *key)
{
    for (size_t i = 0; i < thing_count; i++)
        if (!strcmp(things[i].key, key))
            return &things[i];
    return NULL;
}

static int note_thing(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                      struct bh_error *err)
{
    if (!thing_of(key)) {
        assert_true(thing_count < THINGS);
        snprintf(things[thing_count].key, sizeof things->key, "%s", key);
        things[thing_count++].since = -1;
    }
    return 0;
}

void find_things(void)
{
    must(bh_bucket_list(b, &(struct bh_list_request){.prefix = PREFIX "packs/"}, note_thing, NULL,
                        NULL, ERR));
    must(bh_bucket_list(b, &(struct bh_list_request){.prefix = PREFIX "snapshots/"}, note_thing,
                        NULL, NULL, ERR));
}

bool is_there(const char *key)
{
    struct bh_object_info info;
    return bh_bucket_head(b, key, &info, NULL, NULL) == 0;
}

void must_read(const struct snapshot *s)
{
    static uint8_t got[BLOCKS * BLOCK];
    must(bh_tree_read(trees, &s->e.db, 0, got, s->blocks * BLOCK, "x", NULL, ERR));
    for (size_t i = 0; i < s->blocks; i++)
        assert_memory_equal(got + i * BLOCK, block_of(i, s->version[i]), BLOCK);
}

void must_not_read(const struct snapshot *s)
{
    char byte;
    fresh_trees(BIG_CACHE);
    assert_int_equal(bh_tree_read(trees, &s->e.db, 0, &byte, 1, "x", NULL, ERR), EIO);
}

/* All that is retained reads back, from the bucket itself. */
void must_be_whole(void)
{
    bool keep[SNAPSHOTS];
    fresh_trees(BIG_CACHE);
    retained(keep);
    for (size_t i = 0; i < snapshot_count; i++)
        if (keep[i])
            must_read(&snapshots[i]);
    for (size_t i = 0; i < BRANCHES; i++) {
        struct bh_head head;
        char etag[BH_ETAG_MAX];
        if (!branches[i].exists || branches[i].deleted)
            continue;
        must(bh_head_get(b, PREFIX, branches[i].head.branch, &head, etag, NULL, ERR));
        assert_string_equal(head.newest.id, branches[i].head.newest.id);
        for (size_t n = 0; n < branches[i].count; n++) {
            struct bh_index_entry e;
            must(bh_index_get(trees, &head.index, n, 1, &e, NULL, ERR));
            assert_string_equal(e.id, snapshots[branches[i].member[n]].e.id);
        }
    }
}

/* --- gc --- */

struct bh_strbuf report;

int try_gc(bool dry_run, const struct bh_gc_plan *plan)
{
    const struct bh_gc_options options = {
        .grace_ms = GRACE, .dry_run = dry_run, .parallel = 3, .plan = plan};
    bh_strbuf_free(&report);
    return bh_gc_run(bucket, PREFIX, BLOCK, &options, &report, NULL, ERR);
}

void gc(void)
{
    must(try_gc(false, NULL));
}

void report_has(const char *text)
{
    if (!strstr(report.data, text))
        fail_msg("\"%s\" is not in:\n%s", text, report.data);
}

/* What a gc at this moment must make of each object, and that it does so. */
void gc_exactly(void)
{
    GC_SET need = {0};
    bool gone[THINGS] = {0};
    find_things();
    needed(&need);
    for (size_t i = 0; i < thing_count; i++) {
        struct thing *t = &things[i];
        if (gc_set_get(&need, key_of(t->key)))
            t->since = -1;
        else if (t->since >= 0)
            gone[i] = t->since + GRACE <= now_ms;
        else if (*stamp_of(t->key) + GRACE <= now_ms)
            t->since = now_ms;
    }
    gc();
    for (size_t i = 0; i < thing_count; i++)
        if (is_there(things[i].key) == gone[i])
            fail_msg("%s: %s (condemned %" PRId64 ", now %" PRId64 ")\n%s", things[i].key,
                     gone[i] ? "is still there" : "is gone", things[i].since, now_ms, report.data);
    for (size_t i = thing_count; i-- > 0;)
        if (gone[i])
            things[i] = things[--thing_count]; /* those behind were moved already */
    for (size_t i = 0; i < BRANCHES; i++) {
        if (!branches[i].exists || is_root(&branches[i]))
            continue;
        char key[160];
        snprintf(key, sizeof key, PREFIX "branches/%s", branches[i].head.branch);
        assert_false(is_there(key));
        branches[i].exists = false;
    }
    must_be_whole();
}
