/* Packs of which little is needed: what is, goes into new packs. Those are read back before the
 * moved records are written, and these before the old packs go onto the condemned list; from there
 * on they go as any other garbage does: when a later run has seen, a grace later, that nothing is
 * reached of them that cannot be had elsewhere. Whatever is interrupted in between leaves garbage
 * or something that the next run goes on with. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repo/gc_private.h"
#include "repo/moved.h"
#include "repo/pack_private.h"
#include "util/array.h"
#include "util/cleanup.h"

#define WHAT "a pack that is rewritten"

/* Nothing is done while garbage is less than the needed bytes over START; then the worst packs are
 * taken until it would be less than those over GOAL. One run, and all that are still in their
 * grace, copy at most the needed bytes over BUDGET; one run at most RUN_MAX. */
#define START    8u
#define GOAL     16u
#define BUDGET   8u
#define RUN_MAX  ((uint64_t)1 << 30)
#define MINIMUM  ((uint64_t)64 << 10) /* of garbage that is worth it */
#define MOVES_OK (BH_MOVES_MAX / 2)

#define PART     ((uint64_t)16 << 20) /* of new packs; so many in memory: */
#define PARALLEL 2u
#define WHOLE    ((uint64_t)4 << 20) /* a pack of so many bytes is read with one request */
#define BATCH    ((size_t)4 << 20)   /* bytes that are read back at once */

/* One record on its way. */
struct record {
    struct bh_ref from, to;
    uint32_t raw;
};
struct old {
    size_t number; /* of the pack */
    double use;    /* the part of it that is needed */
    unsigned moves;
    int64_t mtime_ms;
    struct record *records;
    size_t count;
};
struct compaction {
    struct gc_sweep *sweep;
    struct gc_compaction *result;
    struct bh_packs *packs;
    struct bh_pack_writer *writer;
    ZSTD_DCtx *context;
    struct old *olds;
    size_t count, room;
};

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory rewriting packs");
}

static struct gc_pack *pack_of(const struct compaction *c, const struct old *old)
{
    return &c->sweep->mark->live.packs[old->number];
}

/* --- choosing --- */

static uint64_t garbage_of(const struct gc_pack *p)
{
    return p->size > p->bytes ? p->size - p->bytes : 0;
}

static bool may_be_rewritten(const struct gc_sweep *s, const struct gc_pack *p)
{
    return p->needed && p->present && !p->has_record && !p->dense && p->count &&
           p->moves < MOVES_OK && garbage_of(p) > p->size / GC_DENSE &&
           p->mtime_ms + s->grace_ms <= s->begin_ms;
}

/* Those of which the least part is needed come first. */
static int by_use(const void *a, const void *b)
{
    const struct old *x = a, *y = b;
    return (x->use > y->use) - (x->use < y->use);
}

/* What was moved most often will stay longest, and comes first; then what is older. */
static int by_age(const void *a, const void *b)
{
    const struct old *x = a, *y = b;
    if (x->moves != y->moves)
        return x->moves > y->moves ? -1 : 1;
    return (x->mtime_ms > y->mtime_ms) - (x->mtime_ms < y->mtime_ms);
}

static int add_old(struct compaction *c, size_t number, struct bh_error *err)
{
    const struct gc_pack *p = &c->sweep->mark->live.packs[number];
    if (!bh_grow(c->olds, c->room, c->count))
        return no_memory(err);
    c->olds[c->count++] = (struct old){.number = number,
                                       .use = (double)p->bytes / (double)p->size,
                                       .moves = p->moves,
                                       .mtime_ms = p->mtime_ms};
    return 0;
}

/* Bytes that are there twice after this run: of packs that were moved and wait for their grace. */
static uint64_t waiting(const struct gc_sweep *s)
{
    const struct gc_live *l = &s->mark->live;
    uint64_t bytes = 0;
    for (size_t i = 0; i < l->count; i++) {
        const struct gc_pack *p = &l->packs[i];
        const int64_t *since = gc_set_get(&s->list->items, gc_pack_key(p->id));
        bool due = since && *since + s->grace_ms <= s->begin_ms;
        if (p->present && p->record_needed && !due)
            bytes += p->bytes;
    }
    return bytes;
}

static int choose(struct compaction *c, struct bh_error *err)
{
    struct gc_compaction *r = c->result;
    const struct gc_live *l = &c->sweep->mark->live;
    uint64_t garbage = 0;
    for (size_t i = 0; i < l->count; i++) {
        const struct gc_pack *p = &l->packs[i];
        if (!p->needed)
            continue;
        r->needed += p->bytes;
        r->size += p->size;
        garbage += garbage_of(p);
        if (may_be_rewritten(c->sweep, p) && add_old(c, i, err) != 0)
            return ENOMEM;
    }
    if (garbage < MINIMUM || garbage <= r->needed / START)
        c->count = 0;
    if (c->count > 1)
        qsort(c->olds, c->count, sizeof *c->olds, by_use);
    uint64_t budget = r->needed / BUDGET, twice = waiting(c->sweep);
    budget = budget > RUN_MAX ? RUN_MAX : budget;
    budget = budget > twice ? budget - twice : 0;
    size_t n = 0;
    for (; n < c->count && garbage > r->needed / GOAL; n++) {
        const struct gc_pack *p = pack_of(c, &c->olds[n]);
        if (p->bytes > budget && (n > 0 || twice > 0))
            break; /* one pack is rewritten whatever its size, or a large one would never be */
        budget -= p->bytes < budget ? p->bytes : budget;
        garbage -= garbage_of(p);
        r->before += p->size;
        r->after += p->bytes;
    }
    c->count = r->chosen = n;
    if (c->count > 1)
        qsort(c->olds, c->count, sizeof *c->olds, by_age);
    return 0;
}

/* --- copying --- */

/* Whether a failure is of what is stored; the pack is left as it is then. Others end the run. */
static bool is_damage(const struct compaction *c, int rc)
{
    return (rc == EIO || rc == ENOENT) && bh_call_check(c->sweep->call, WHAT, NULL) == 0;
}

static void leave(struct compaction *c, struct old *old, const struct bh_error *why)
{
    bh_strbuf_addf(&c->result->notes, "left as it is: pack %016" PRIx64 ": %s\n",
                   pack_of(c, old)->id, why->text);
    old->count = 0;
}

/* bytes: those stored of the record. They are checked, and go into the new pack as they are. */
static int copy_record(struct compaction *c, struct old *old, const struct bh_pack_entry *e,
                       const uint8_t *bytes, struct bh_error *err)
{
    BH_FREE uint8_t *content = malloc(e->raw);
    if (!content)
        return no_memory(err);
    int rc = bh_pack_record_decode(c->context, &e->ref, bytes, e->raw, content, WHAT, err);
    if (rc)
        return rc;
    struct record *r = &old->records[old->count];
    *r = (struct record){.from = e->ref, .raw = e->raw};
    rc = bh_pack_add_stored(c->writer, e, bytes, &r->to, err);
    old->count += rc == 0;
    return rc;
}

/* The spots of a pack: image is all of it, or NULL: then they are read, those together that one
 * request of BATCH bytes has. */
static int copy_spots(struct compaction *c, struct old *old, const struct bh_pack_entry *entries,
                      size_t count, const uint8_t *image, struct bh_error *err)
{
    const struct gc_pack *p = pack_of(c, old);
    const struct bh_pack_entry *e = entries, *past = entries + count;
    BH_FREE uint8_t *buf = image ? NULL : malloc(BATCH);
    uint64_t at = 0, end = image ? p->size : 0;
    int rc = image || buf ? 0 : no_memory(err);
    for (size_t i = 0; rc == 0 && i < p->count; i++) {
        const struct gc_spot *s = &p->spots[i];
        while (e < past && e->ref.offset < s->offset) /* both ascend */
            e++;
        if (e == past || e->ref.offset != s->offset || e->ref.stored != s->stored)
            return bh_fail(err, EIO, "it has no record at offset %" PRIu32 " as it is referred to",
                           s->offset);
        if (s->offset + (uint64_t)s->stored > end) {
            at = s->offset;
            for (size_t k = i;
                 k < p->count && p->spots[k].offset + (uint64_t)p->spots[k].stored <= at + BATCH;
                 k++)
                end = p->spots[k].offset + (uint64_t)p->spots[k].stored;
            rc = bh_packs_fetch(c->packs, p->id, at, buf, (size_t)(end - at), WHAT, c->sweep->call,
                                err);
        }
        if (rc == 0)
            rc = copy_record(c, old, e, (image ? image : buf) + (s->offset - at), err);
    }
    return rc;
}

static int copy_whole(struct compaction *c, struct old *old, struct bh_error *err)
{
    const struct gc_pack *p = pack_of(c, old);
    BH_FREE struct bh_pack_entry *entries = NULL;
    BH_FREE uint8_t *image = NULL;
    size_t count;
    uint64_t at;
    if (p->size > WHOLE) {
        int rc = bh_packs_trailer(c->packs, p->id, &entries, &count, NULL, c->sweep->call, err);
        return rc ? rc : copy_spots(c, old, entries, count, NULL, err);
    }
    if (p->size < BH_PACK_FOOTER_SIZE)
        return bh_fail(err, EIO, "it is cut");
    if (!(image = malloc(p->size)))
        return no_memory(err);
    int rc = bh_packs_fetch(c->packs, p->id, 0, image, p->size, WHAT, c->sweep->call, err);
    if (rc == 0)
        rc = bh_pack_footer_decode(image + p->size - BH_PACK_FOOTER_SIZE, p->id, p->size, &at,
                                   &count, err);
    if (rc == 0)
        rc = bh_pack_trailer_decode(image + at, (size_t)(p->size - at), p->id, p->size, &entries,
                                    &count, err);
    return rc ? rc : copy_spots(c, old, entries, count, image, err);
}

/* Records that were moved as often come into packs of their own: they are alike in how long they
 * stay. */
static int copy_all(struct compaction *c, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < c->count; i++) {
        struct old *old = &c->olds[i];
        const struct gc_pack *p = pack_of(c, old);
        struct bh_error why = {0};
        if (i > 0 && old->moves != old[-1].moves)
            rc = bh_pack_writer_finish(c->writer, err);
        if (rc)
            return rc;
        if (!(old->records = calloc(p->count, sizeof *old->records)))
            return no_memory(err);
        rc = copy_whole(c, old, &why);
        if (rc && bh_pack_writer_failed(c->writer))
            return bh_fail(err, rc, "%s", why.text);
        if (rc && !is_damage(c, rc))
            return bh_fail(err, rc, "%s", why.text);
        if (rc)
            leave(c, old, &why);
        rc = 0;
    }
    rc = rc ? rc : bh_pack_writer_finish(c->writer, err);
    (void)bh_pack_writer_ids(c->writer, &c->result->packs);
    return rc;
}

/* --- moving --- */

/* What was written is there, and is what was read. */
static int read_back(struct compaction *c, const struct old *old, struct bh_error *err)
{
    BH_FREE struct bh_pack_want *wants = calloc(old->count, sizeof *wants);
    BH_FREE uint8_t *buf = malloc(BATCH);
    int rc = wants && buf ? 0 : no_memory(err);
    for (size_t i = 0, n; rc == 0 && i < old->count; i += n) {
        size_t used = 0;
        for (n = 0; i + n < old->count && used + old->records[i + n].raw <= BATCH; n++) {
            const struct record *r = &old->records[i + n];
            wants[n] = (struct bh_pack_want){.ref = r->to, .raw = r->raw, .buf = buf + used};
            used += r->raw;
        }
        rc = bh_packs_read_many(c->packs, wants, n, "what was rewritten", c->sweep->call, err);
    }
    return rc;
}

static int put_moved(struct compaction *c, const struct old *old, struct bh_error *err)
{
    const uint64_t id = pack_of(c, old)->id;
    BH_FREE struct bh_moved_entry *entries = calloc(old->count, sizeof *entries);
    BH_FREE struct bh_moved_entry *got = NULL;
    size_t count = 0;
    if (!entries)
        return no_memory(err);
    for (size_t i = 0; i < old->count; i++) {
        const struct record *r = &old->records[i];
        entries[i] = (struct bh_moved_entry){
            .from = r->from.offset, .offset = r->to.offset, .pack = r->to.pack};
    }
    int rc = bh_packs_put_moved(c->packs, id, entries, old->count, c->sweep->call, err);
    if (rc == EEXIST)
        return bh_fail(err, EIO, "another gc was faster");
    if (rc == 0)
        rc = bh_packs_moved(c->packs, id, &got, &count, c->sweep->call, err);
    if (rc == 0 && (count != old->count || memcmp(got, entries, count * sizeof *got) != 0))
        rc = bh_fail(err, EIO, "the bucket has another moved record than the one that was stored");
    return rc;
}

static int condemn(struct compaction *c, const struct old *old, struct bh_error *err)
{
    struct gc_sweep *s = c->sweep;
    if (gc_set_add(&s->to_list, gc_pack_key(pack_of(c, old)->id), -1) == ENOMEM)
        return no_memory(err);
    s->changed = true;
    c->result->moved++;
    return 0;
}

static int move_all(struct compaction *c, struct bh_error *err)
{
    for (size_t i = 0; i < c->count; i++) {
        struct old *old = &c->olds[i];
        struct bh_error why = {0};
        if (!old->count)
            continue;
        int rc = read_back(c, old, &why);
        if (rc == 0)
            rc = put_moved(c, old, &why);
        if (rc == 0)
            rc = condemn(c, old, &why);
        if (rc && !is_damage(c, rc))
            return bh_fail(err, rc, "%s", why.text);
        if (rc)
            leave(c, old, &why);
    }
    return 0;
}

/* --- */

static int rewrite(struct compaction *c, struct bh_error *err)
{
    const struct gc_sweep *s = c->sweep;
    const struct bh_packs_options options = {.part_size = PART, .parallel = PARALLEL};
    int rc = bh_packs_new(&c->packs, s->bucket, s->prefix, &options, err);
    if (rc == 0)
        rc = bh_pack_writer_new(&c->writer, c->packs, BH_TREE_DB, s->call, err);
    if (rc == 0 && !(c->context = bh_packs_take_context(c->packs)))
        rc = no_memory(err);
    if (rc == 0)
        rc = copy_all(c, err);
    if (rc == 0)
        rc = move_all(c, err);
    return rc ? bh_fail_prefix(err, rc, "packs cannot be rewritten") : 0;
}

int gc_compact(struct gc_sweep *s, bool dry_run, struct gc_compaction *result, struct bh_error *err)
{
    struct compaction c = {.sweep = s, .result = result};
    int rc = choose(&c, err);
    if (rc == 0 && c.count > 0 && !dry_run)
        rc = rewrite(&c, err);
    if (c.context)
        bh_packs_give_context(c.packs, c.context);
    bh_pack_writer_free(c.writer);
    bh_packs_free(c.packs);
    for (size_t i = 0; i < c.count; i++)
        free(c.olds[i].records);
    free(c.olds);
    return rc;
}
