/* What is known of packs that gc has rewritten: their moved records, kept in memory, as nearly
 * every read of one of them would want it again. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repo/pack_private.h"
#include "util/cleanup.h"

#define KEPT_MAX ((size_t)8 << 20) /* bytes of records in memory */

/* --- under the mutex --- */

static size_t bytes_of(const struct bh_packs_moved *m)
{
    return m->count * sizeof *m->entries;
}

static void forget(struct bh_packs *p, struct bh_packs_moved *m)
{
    p->moved_bytes -= bytes_of(m);
    free(m->entries);
    *m = (struct bh_packs_moved){0};
}

static struct bh_packs_moved *slot_of(struct bh_packs *p, uint64_t id)
{
    return &p->moved[id % BH_PACKS_MOVED_SLOTS]; /* ids are random */
}

/* The newest stays, whatever its size. */
static void make_room(struct bh_packs *p, const struct bh_packs_moved *newest)
{
    while (p->moved_bytes > KEPT_MAX && p->moved_bytes > bytes_of(newest)) {
        struct bh_packs_moved *m = &p->moved[p->moved_hand++ % BH_PACKS_MOVED_SLOTS];
        if (m != newest)
            forget(p, m);
    }
}

/* The known record of a pack; NULL. */
static const struct bh_packs_moved *known(struct bh_packs *p, uint64_t id)
{
    const struct bh_packs_moved *m = slot_of(p, id);
    return m->id == id ? m : NULL;
}

/* --- */

/* One move, by the record of the pack that *ref is in. */
static int move(const struct bh_packs *p, const struct bh_packs_moved *m, struct bh_ref *ref,
                const char *what, struct bh_error *err)
{
    const struct bh_moved_entry *e = bh_moved_find(m->entries, m->count, ref->offset);
    if (!e)
        return bh_fail(err, EIO,
                       "%s: pack %016" PRIx64 " was rewritten by gc, and %smoved/%016" PRIx64
                       " has no record of offset %" PRIu32 "; verify tells what else is damaged",
                       what, m->id, p->prefix, m->id, ref->offset);
    ref->pack = e->pack;
    ref->offset = e->offset;
    return 0;
}

static int move_wants(const struct bh_packs *p, const struct bh_packs_moved *m,
                      struct bh_pack_want *wants, size_t count, const char *what,
                      struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = move(p, m, &wants[i].ref, what, err);
    return rc;
}

void bh_packs_forget_moved(struct bh_packs *p)
{
    BH_LOCK_SCOPE(&p->mutex);
    for (size_t i = 0; p->moved_bytes && i < BH_PACKS_MOVED_SLOTS; i++)
        forget(p, &p->moved[i]);
}

static void remember(struct bh_packs *p, const struct bh_packs_moved *got)
{
    BH_LOCK_SCOPE(&p->mutex);
    struct bh_packs_moved *m = slot_of(p, got->id);
    forget(p, m);
    *m = *got;
    p->moved_bytes += bytes_of(m);
    make_room(p, m);
}

int bh_packs_move_wants(struct bh_packs *p, struct bh_pack_want *wants, size_t count,
                        const char *what, const struct bh_call *call, struct bh_error *err)
{
    struct bh_packs_moved got = {.id = wants->ref.pack};
    {
        BH_LOCK_SCOPE(&p->mutex); /* another thread may have been faster */
        const struct bh_packs_moved *m = known(p, got.id);
        if (m)
            return move_wants(p, m, wants, count, what, err);
    }
    int rc = bh_packs_moved(p, got.id, &got.entries, &got.count, call, err);
    if (rc)
        return rc;
    rc = move_wants(p, &got, wants, count, what, err);
    remember(p, &got);
    return rc;
}

int bh_packs_follow(struct bh_packs *p, struct bh_ref *ref, const char *what, struct bh_error *err)
{
    BH_LOCK_SCOPE(&p->mutex);
    const struct bh_packs_moved *m;
    for (unsigned moves = 0; (m = known(p, ref->pack)); moves++) {
        int rc = move(p, m, ref, what, err);
        if (rc == 0 && moves == BH_MOVES_MAX)
            rc = bh_fail(err, EIO, "%s: pack %016" PRIx64 " was moved in a circle", what, m->id);
        if (rc)
            return rc;
    }
    return 0;
}
