/* What of each pack is reached, and where it is now: through moved records, to the packs that must
 * stay. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repo/gc_private.h"
#include "repo/moved.h"
#include "repo/pack_private.h"
#include "util/array.h"
#include "util/cleanup.h"

#define AT_ONCE 256u /* moved records in memory */

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory looking for what is in use");
}

static void forget_spots(struct gc_pack *p)
{
    free(p->spots);
    p->spots = NULL;
    p->count = p->room = 0;
}

void gc_live_free(struct gc_live *l)
{
    for (size_t i = 0; i < l->count; i++) {
        free(l->packs[i].spots);
        free(l->packs[i].targets);
    }
    free(l->packs);
    gc_set_free(&l->numbers);
    *l = (struct gc_live){0};
}

/* The number of a pack, which is new if need be. False: no memory. */
static bool number_of(struct gc_live *l, uint64_t id, size_t *number)
{
    const struct gc_key key = gc_pack_key(id);
    const int64_t *known = gc_set_get(&l->numbers, key);
    if (known) {
        *number = (size_t)*known;
        return true;
    }
    *number = l->count;
    if (!bh_grow(l->packs, l->room, l->count))
        return false;
    l->packs[l->count++] = (struct gc_pack){.id = id};
    return gc_set_add(&l->numbers, key, (int64_t)*number) == 0;
}

/* --- spots --- */

static int by_offset(const void *a, const void *b)
{
    const struct gc_spot *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Ascending, none twice. Of a pack that is nearly wholly needed nobody will ask for them. */
static void tidy(struct gc_pack *p)
{
    size_t n = 0;
    if (p->dense)
        return;
    p->bytes = 0;
    if (p->count > 1)
        qsort(p->spots, p->count, sizeof *p->spots, by_offset);
    for (size_t i = 0; i < p->count; i++) {
        if (n && p->spots[n - 1].offset == p->spots[i].offset)
            continue;
        p->bytes += p->spots[i].stored + BH_PACK_ENTRY_SIZE;
        p->spots[n++] = p->spots[i];
    }
    p->count = n;
    if (!p->has_record && p->size && p->bytes >= p->size - p->size / GC_DENSE) {
        p->dense = true;
        forget_spots(p);
    }
}

/* Room for one more; tidied if it was full, and that makes half of it free for long enough. */
static int make_room(struct gc_pack *p)
{
    if (p->count < p->room)
        return 0;
    tidy(p);
    if (p->dense || p->count < p->room / 2)
        return 0;
    size_t more = p->room ? 2 * p->room : 8;
    struct gc_spot *spots = realloc(p->spots, more * sizeof *spots);
    if (!spots)
        return ENOMEM;
    p->spots = spots;
    p->room = more;
    return 0;
}

static int add_spot(struct gc_pack *p, uint32_t offset, uint32_t stored)
{
    p->reached = true;
    if (offset + stored > p->end)
        p->end = offset + stored;
    if (!p->dense && make_room(p) != 0)
        return ENOMEM;
    if (p->dense)
        return 0;
    p->spots[p->count++] = (struct gc_spot){offset, stored};
    return 0;
}

int gc_live_reach(struct gc_live *l, const struct bh_ref *ref, int64_t time_ms,
                  struct bh_error *err)
{
    size_t i;
    if (!number_of(l, ref->pack, &i))
        return no_memory(err);
    struct gc_pack *p = &l->packs[i];
    if (!p->direct)
        p->time_ms = time_ms;
    p->direct = true;
    return add_spot(p, ref->offset, ref->stored) ? no_memory(err) : 0;
}

/* --- what is there --- */

struct listing {
    struct gc_live *live;
    size_t skip;
    bool records;
};

static int note(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                struct bh_error *err)
{
    struct listing *l = arg;
    uint64_t id;
    size_t i;
    if (is_prefix || bh_pack_id_of_name(&id, key + l->skip) != 0)
        return 0;
    if (!number_of(l->live, id, &i))
        return no_memory(err);
    struct gc_pack *p = &l->live->packs[i];
    if (l->records) {
        p->has_record = true;
        p->record_size = info->size;
        p->record_mtime_ms = info->mtime_ms;
    } else {
        p->present = true;
        p->size = info->size;
        p->mtime_ms = info->mtime_ms;
    }
    return 0;
}

int gc_live_list(struct gc_mark *m, struct bh_error *err)
{
    static const char *const places[] = {"packs/", "moved/"};
    struct gc_live *live = &m->live;
    int rc = 0;
    for (size_t i = 0; i < live->count; i++)
        live->packs[i].present = live->packs[i].has_record = false;
    for (unsigned i = 0; rc == 0 && i < 2; i++) {
        char prefix[BH_KEY_MAX + 1];
        if (snprintf(prefix, sizeof prefix, "%s%s", m->prefix, places[i]) > BH_KEY_MAX)
            return bh_fail(err, ENAMETOOLONG, "the key %.60s... is too long", prefix);
        struct listing l = {.live = live, .skip = strlen(prefix), .records = i == 1};
        const struct bh_list_request req = {.prefix = prefix, .delimiter = "/"};
        rc = bh_bucket_list(m->bucket, &req, note, &l, m->call, err);
    }
    return rc;
}

/* --- moved records --- */

/* Some records, read by several threads. */
struct batch {
    struct gc_mark *mark;
    struct fetched {
        size_t number; /* of the pack */
        int rc;
        struct bh_error why;
        struct bh_moved_entry *entries;
        size_t count;
    } all[AT_ONCE];
    size_t count;
    atomic_size_t next;
};

static void *fetch_main(void *arg)
{
    struct batch *b = arg;
    struct bh_packs *packs = bh_trees_packs(b->mark->trees);
    for (size_t i; (i = atomic_fetch_add(&b->next, 1)) < b->count;) {
        struct fetched *f = &b->all[i];
        f->rc = bh_packs_moved(packs, b->mark->live.packs[f->number].id, &f->entries, &f->count,
                               b->mark->call, &f->why);
    }
    return NULL;
}

static void fetch(struct batch *b)
{
    bh_packs_team(bh_trees_packs(b->mark->trees)->options.parallel, b->count, fetch_main, b);
}

static int add_target(struct gc_pack *p, size_t target)
{
    for (size_t i = p->target_count; i > 0; i--)
        if (p->targets[i - 1] == target)
            return 0;
    if (!bh_grow(p->targets, p->target_room, p->target_count))
        return ENOMEM;
    p->targets[p->target_count++] = target;
    return 0;
}

/* What is reached of a pack is reached where it was moved to. */
static int apply(struct gc_live *l, const struct fetched *f, struct bh_error *err)
{
    const size_t n = l->packs[f->number].count;
    for (size_t i = 0; i < n; i++) {
        const struct gc_spot spot = l->packs[f->number].spots[i];
        const struct bh_moved_entry *e = bh_moved_find(f->entries, f->count, spot.offset);
        size_t target;
        if (!e) {
            l->packs[f->number].uncovered = true;
            continue;
        }
        if (!number_of(l, e->pack, &target))
            return no_memory(err);
        struct gc_pack *p = &l->packs[f->number], *t = &l->packs[target];
        if (t->moves <= p->moves)
            t->moves = p->moves + 1;
        if (!t->reached)
            t->time_ms = p->time_ms;
        if (add_spot(t, e->offset, spot.stored) || add_target(p, target))
            return no_memory(err);
    }
    return 0;
}

/* A record that is damaged is as good as none. */
static int take_fetched(struct gc_mark *m, struct fetched *f, struct bh_error *err)
{
    struct gc_pack *p = &m->live.packs[f->number];
    int rc = f->rc;
    tidy(p); /* else duplicates would hide what is reached later */
    p->settled = p->count;
    if (rc == 0)
        rc = apply(&m->live, f, err);
    else if ((rc == EIO || rc == ENOENT) && bh_call_check(m->call, "gc", NULL) == 0) {
        p->uncovered = true;
        p->why = rc == EIO ? "its moved record is damaged" : NULL;
        rc = 0;
    } else
        bh_fail(err, rc, "%smoved/%016" PRIx64 " cannot be read: %s", m->prefix, p->id,
                f->why.text);
    free(f->entries);
    return rc;
}

/* Those that something new was reached of, from `from` on. */
static void collect(struct gc_live *l, size_t *from, struct batch *b)
{
    b->count = 0;
    atomic_store(&b->next, 0);
    for (; *from < l->count && b->count < AT_ONCE; ++*from) {
        struct gc_pack *p = &l->packs[*from];
        if (!p->has_record || !p->reached)
            continue;
        if (p->dense)
            p->uncovered = true; /* it got its record since */
        tidy(p);
        if (p->count > p->settled && p->moves <= BH_MOVES_MAX)
            b->all[b->count++] = (struct fetched){.number = *from};
    }
}

static int follow_all(struct gc_mark *m, struct bh_error *err)
{
    BH_FREE struct batch *b = calloc(1, sizeof *b);
    int rc = b ? 0 : no_memory(err);
    for (bool again = true; rc == 0 && again;) {
        again = false;
        for (size_t from = 0; rc == 0 && from < m->live.count;) {
            b->mark = m;
            collect(&m->live, &from, b);
            again = again || b->count;
            fetch(b);
            for (size_t i = 0; i < b->count; i++) {
                if (rc)
                    free(b->all[i].entries);
                else
                    rc = take_fetched(m, &b->all[i], err);
            }
        }
    }
    return rc;
}

/* --- which of them must stay --- */

/* Whether all that is reached of it can be had. moved: without the pack itself. */
static bool is_safe(struct gc_live *l, size_t number, unsigned moves)
{
    struct gc_pack *p = &l->packs[number];
    if (p->judging)
        return false; /* the way leads here again */
    if (!p->judged && moves <= BH_MOVES_MAX) {
        bool moved = p->has_record && !p->uncovered && p->target_count;
        p->judged = p->judging = true;
        for (size_t i = 0; moved && i < p->target_count; i++)
            moved = is_safe(l, p->targets[i], moves + 1);
        p->judging = false;
        p->moved = moved;
    }
    return p->moved || (p->present && p->end <= p->size);
}

static void keep(struct gc_live *l, size_t number)
{
    struct gc_pack *p = &l->packs[number];
    if (p->needed || p->record_needed)
        return;
    p->needed = !p->moved;
    p->record_needed = p->moved;
    for (size_t i = 0; p->moved && i < p->target_count; i++)
        keep(l, p->targets[i]);
}

int gc_live_settle(struct gc_mark *m, struct bh_error *err)
{
    struct gc_live *l = &m->live;
    int rc = follow_all(m, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < l->count; i++) {
        tidy(&l->packs[i]);
        if (l->packs[i].direct)
            (void)is_safe(l, i, 0);
    }
    for (size_t i = 0; i < l->count; i++)
        if (l->packs[i].direct)
            keep(l, i);
    return 0;
}
