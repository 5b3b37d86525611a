/* Following: a read-only mount whose live database goes where another mount takes the branch. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repo/history_private.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/log.h"

/* Beyond so many nodes, or blocks, a comparison costs more than it spares. */
#define NODES_MAX  4096
#define BLOCKS_MAX (1u << 20)

/* From the snapshot that is shown to another one: made once, tried until no reader is in its way.
 */
struct history_step {
    char from[BH_SNAPSHOT_ID_MAX], to[BH_SNAPSHOT_ID_MAX];
    bool whole; /* there is nothing to keep, or to compare with */
    uint64_t *blocks;
    struct bh_step step;
};

void history_forget_step(struct bh_history *h)
{
    if (!h->step)
        return;
    bh_origin_unref(h->step->step.origin);
    free(h->step->blocks);
    free(h->step);
    h->step = NULL;
}

/* --- whether it can be followed --- */

int history_may_follow(struct bh_history *h, bool found, const struct bh_call *call,
                       struct bh_error *err)
{
    struct bh_object_info info;
    const char *key = bh_plain_key(h->plain);
    if (bh_history_is_dirty(h))
        return bh_fail(
            err, EBUSY,
            "%s has changes that are not flushed, which a follower could not keep: mount "
            "it once without ro and follow, or give the follower a live.dir of its own",
            h->live->dir.path);
    if (found)
        return 0;
    int rc = bh_bucket_head(h->bucket, key, &info, call, err);
    if (rc == 0)
        return bh_fail(err, ENOTSUP,
                       "%s has no history that could be followed: mount it once for writing, which "
                       "begins one with the next flush, or mount it without follow",
                       key);
    return rc == ENOENT ? 0 : rc; /* it is waited for */
}

/* --- looking --- */

static int no_branch(struct bh_history *h, const char *etag, struct bh_error *err)
{
    const char *shown = h->live->dir.state.base_snapshot;
    h->seen_sequence = 0; /* a new one of that name begins anew */
    if (!shown[0])
        return bh_fail(err, ENOENT, "there is no branch %s yet: it is waited for", h->head.branch);
    return bh_fail(err, ENOENT, "branch %s was %s: what is shown stays snapshot %s", h->head.branch,
                   etag[0] ? "deleted" : "removed from the bucket", shown);
}

/* What a restored backup of the bucket, say, does to a head. */
static int check_forward(struct bh_history *h, const struct bh_head *head, struct bh_error *err)
{
    const char *shown = h->live->dir.state.base_snapshot;
    if (head->sequence >= h->seen_sequence && strcmp(head->newest.id, shown) >= 0)
        return 0;
    return bh_fail(err, ESTALE,
                   "the head of branch %s went back (to snapshot %s, write %llu): what is shown "
                   "stays snapshot %s; unmount and mount again to show what the branch has now",
                   head->branch, head->newest.id[0] ? head->newest.id : "none",
                   (unsigned long long)head->sequence, shown);
}

int bh_history_look(struct bh_history *h, bool *newer, const struct bh_call *call,
                    struct bh_error *err)
{
    struct bh_head head = {0};
    char etag[BH_ETAG_MAX] = "";
    *newer = false;
    int rc = history_open(h, false, call, err);
    if (rc == 0)
        rc = bh_head_get(h->bucket, h->prefix, h->head.branch, &head, etag, call, err);
    if (rc == ENOENT)
        return no_branch(h, etag, err);
    if (rc == 0)
        rc = check_forward(h, &head, err);
    if (rc)
        return rc;
    *newer = strcmp(head.newest.id, h->live->dir.state.base_snapshot) != 0;
    h->seen_sequence = head.sequence;
    BH_LOCK_SCOPE(&h->mutex);
    h->head = head;
    memcpy(h->etag, etag, sizeof h->etag);
    h->have_head = true;
    return 0;
}

/* --- what differs --- */

struct diff {
    uint64_t *blocks;
    size_t count, cap, nodes;
    bool whole; /* given up */
    struct bh_error err;
};

static int add_block(struct diff *d, uint64_t block)
{
    if (!bh_grow(d->blocks, d->cap, d->count))
        return bh_fail(&d->err, ENOMEM, "out of memory comparing two snapshots");
    d->blocks[d->count++] = block;
    return 0;
}

static int visit(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                 const struct bh_error *damage)
{
    struct diff *d = arg;
    (void)ref;
    if (damage && (damage->code == ETIMEDOUT || damage->code == EAGAIN))
        return bh_fail(&d->err, damage->code, "%s", damage->text);
    d->whole = damage || (level > 0 && ++d->nodes > NODES_MAX) || d->count >= BLOCKS_MAX;
    if (d->whole)
        return bh_fail(&d->err, E2BIG, "more than can be compared");
    return level == 0 ? add_block(d, number) : 0;
}

static int compare_blocks(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int find_differences(struct bh_history *h, const struct bh_root *old,
                            const struct bh_root *new, struct diff *d, const struct bh_call *call,
                            struct bh_error *err)
{
    int rc = history_walk_differences(h, old, new, visit, d, call, err);
    if (d->whole)
        return 0;
    if (rc)
        return d->err.code ? bh_fail(err, rc, "%s", d->err.text) : rc;
    if (d->count == 0)
        return 0;
    qsort(d->blocks, d->count, sizeof *d->blocks, compare_blocks);
    size_t kept = 1;
    for (size_t i = 1; i < d->count; i++)
        if (d->blocks[i] != d->blocks[kept - 1])
            d->blocks[kept++] = d->blocks[i];
    d->count = kept;
    return 0;
}

/* --- going there --- */

struct step_job {
    struct bh_base base;
    int64_t patience_ms;
};

static int compare(struct bh_history *h, const struct bh_root *old, const struct bh_root *new,
                   struct history_step *s, const struct bh_call *call, struct bh_error *err)
{
    struct diff d = {0};
    s->whole = !old->size || !new->size || bh_store_is_wal(h->live->store);
    if (s->whole)
        return 0;
    int rc = find_differences(h, old, new, &d, call, err);
    s->blocks = d.blocks;
    s->step.blocks = d.blocks;
    s->step.count = d.count;
    s->whole = d.whole;
    if (rc || s->whole)
        return rc;
    s->step.size = new->size;
    s->step.block_size = h->block_size;
    s->step.origin = history_origin(h, new, BH_DB_NAME);
    size_t len = new->size < sizeof s->step.first ? (size_t) new->size : sizeof s->step.first;
    return s->step.origin ? bh_tree_read(h->trees, new, 0, s->step.first, len, s->to, call, err)
                          : bh_fail(err, ENOMEM, "out of memory");
}

/* Makes h->step, unless the one there is is the one. */
static int prepare(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    const struct bh_index_entry *e = &h->head.newest;
    const char *shown = h->live->dir.state.base_snapshot;
    struct bh_root old;
    if (h->step && !strcmp(h->step->from, shown) && !strcmp(h->step->to, e->id))
        return 0;
    history_forget_step(h);
    int rc = history_base_root(h, &old, err);
    if (rc)
        return rc;
    struct history_step *s = h->step = calloc(1, sizeof *s);
    if (!s)
        return bh_fail(err, ENOMEM, "out of memory");
    snprintf(s->from, sizeof s->from, "%s", shown);
    snprintf(s->to, sizeof s->to, "%s", e->id);
    rc = compare(h, &old, &e->db, s, call, err);
    if (rc)
        history_forget_step(h);
    return rc;
}

static int step(struct bh_history *h, void *arg, struct bh_error *err)
{
    const struct step_job *j = arg;
    return bh_live_step(h->live, &h->step->step, &j->base, j->patience_ms, err);
}

/* Where names.db stays, the file store has nothing to do with it. */
static int step_in_place(struct bh_history *h, int64_t patience_ms, const struct bh_call *call,
                         struct bh_error *err)
{
    const struct bh_index_entry *e = &h->head.newest;
    struct step_job j = {.patience_ms = patience_ms};
    struct bh_names_base names;
    bool names_differ;
    history_base_of(h, &h->head, e, "", &j.base);
    int rc = history_names_base(h, &e->names, &names, &names_differ, err);
    if (rc)
        return rc;
    if (names_differ)
        j.base.names = &names;
    rc = names_differ ? history_gated(h, false, step, &j, call, err) : step(h, &j, err);
    bh_origin_unref(names.origin);
    return rc;
}

int bh_history_step(struct bh_history *h, int64_t patience_ms, const struct bh_call *call,
                    struct bh_error *err)
{
    const struct bh_index_entry *e = &h->head.newest;
    if (bh_history_is_dirty(h))
        return bh_fail(err, EBUSY, "%s has changes of its own, which a follower cannot keep",
                       h->live->dir.path);
    int rc = prepare(h, call, err);
    if (rc)
        return rc;
    rc = h->step->whole ? history_swap_to(h, &h->head, e, "", err)
                        : step_in_place(h, patience_ms, call, err);
    if (rc)
        return rc; /* it may do the next time */
    if (h->step->whole)
        bh_log(BH_LOG_DEBUG, "shows snapshot %s, all of which is fetched anew", e->id);
    else
        bh_log(BH_LOG_DEBUG, "shows snapshot %s, %zu blocks of which differ", e->id,
               h->step->step.count);
    history_forget_step(h);
    history_pin_step(h, call);
    return 0;
}
