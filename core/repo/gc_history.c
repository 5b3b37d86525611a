/* gc of a mount: retention in the index of its branch, then a run of gc on its bucket. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repo/gc_private.h"
#include "repo/history_private.h"
#include "util/cleanup.h"
#include "util/log.h"

#define STEP         64u /* entries of the index that are read at once */
#define PARALLEL_MAX 8u

/* --- retention --- */

/* Entries of the index that are not dropped, their numbers, and what is to become of them. */
struct candidates {
    struct bh_history *history;
    const struct bh_call *call;
    struct bh_index_entry *entries;
    uint64_t *numbers;
    struct bh_retention_item *items;
    size_t count;
    struct gc_set labelled;
};

static void candidates_free(struct candidates *c)
{
    free(c->entries);
    free(c->numbers);
    free(c->items);
    gc_set_free(&c->labelled);
}

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory listing snapshots");
}

static int note_label(void *arg, const char *name, struct bh_error *err)
{
    struct candidates *c = arg;
    char id[BH_SNAPSHOT_ID_MAX];
    int rc = bh_label_get(c->history->bucket, c->history->prefix, name, id, c->call, err);
    if (rc)
        return rc == ENOENT ? 0 : rc;
    return gc_set_add(&c->labelled, gc_record_key(id), 0) == ENOMEM ? no_memory(err) : 0;
}

/* Labelled, or what the live content is based on. */
static bool must_stay(const struct candidates *c, const char *id)
{
    const struct bh_state *st = &c->history->live->dir.state;
    return gc_set_get(&c->labelled, gc_record_key(id)) || !strcmp(id, st->base_snapshot) ||
           !strcmp(id, st->restored);
}

static int read_candidates(struct candidates *c, struct bh_error *err)
{
    struct bh_history *h = c->history;
    const struct bh_root *index = &h->head.index;
    const size_t all = (size_t)bh_index_count(index);
    c->entries = calloc(all + STEP, sizeof *c->entries);
    c->numbers = calloc(all + 1, sizeof *c->numbers);
    c->items = calloc(all + 1, sizeof *c->items);
    if (!c->entries || !c->numbers || !c->items)
        return no_memory(err);
    int rc = bh_labels_list(h->bucket, h->prefix, note_label, c, c->call, err);
    for (size_t n = 0; rc == 0 && n < all; n += STEP) {
        size_t count = all - n < STEP ? all - n : STEP;
        struct bh_index_entry *e = &c->entries[c->count]; /* those that stay move up */
        rc = bh_index_get(h->trees, index, n, count, e, c->call, err);
        for (size_t i = 0; rc == 0 && i < count; i++) {
            if (e[i].flags & BH_ENTRY_DROPPED)
                continue;
            c->entries[c->count] = e[i];
            c->numbers[c->count] = n + i;
            c->items[c->count++] =
                (struct bh_retention_item){.time_ms = e[i].time_ms, .keep = must_stay(c, e[i].id)};
        }
    }
    return rc;
}

/* What is dropped moves to the front. */
static int make_plan(struct candidates *c, const struct bh_retention *keep, struct bh_gc_plan *plan,
                     struct bh_error *err)
{
    plan->snapshots = c->count;
    plan->count = bh_retention_apply(keep, c->items, c->count);
    plan->dropped = calloc(plan->count + 1, sizeof *plan->dropped);
    if (!plan->dropped)
        return no_memory(err);
    size_t n = 0;
    for (size_t i = 0; i < c->count; i++) {
        if (!c->items[i].drop)
            continue;
        c->entries[n] = c->entries[i];
        c->entries[n].flags |= BH_ENTRY_DROPPED;
        c->numbers[n] = c->numbers[i];
        memcpy(plan->dropped[n++], c->entries[i].id, BH_SNAPSHOT_ID_MAX);
    }
    return 0;
}

static int drop(struct candidates *c, size_t count, struct bh_error *err)
{
    struct bh_history *h = c->history;
    struct bh_head head = h->head;
    struct bh_pack_writer *w;
    int rc = bh_pack_writer_new(&w, h->packs, BH_TREE_INDEX, c->call, err);
    if (rc)
        return rc;
    rc = bh_index_replace(h->trees, &h->head.index, c->numbers, c->entries, count, w, &head.index,
                          c->call, err);
    if (rc == 0)
        rc = bh_pack_writer_finish(w, err);
    bh_pack_writer_free(w);
    if (rc == 0)
        rc = history_put_head(h, &head, c->call, err);
    return rc == ESTALE ? history_lost_head(h, c->call, err) : rc;
}

/* False: why_not says why. */
static bool may_drop(struct bh_history *h, bool dry_run, struct bh_gc_plan *plan)
{
    const char *why = NULL;
    if (!h->trees || !h->have_head || !h->head.newest.id[0])
        why = "the branch has no history yet";
    else if (!dry_run && (h->fenced || h->read_only || !h->head.lease.writer[0]))
        why = "this mount does not have the lease of the branch";
    snprintf(plan->why_not, sizeof plan->why_not, "%s", why ? why : "");
    return !why;
}

static bool keeps_all(const struct bh_retention *keep)
{
    static const struct bh_retention all;
    return !memcmp(keep, &all, sizeof all);
}

int bh_history_retain(struct bh_history *h, const struct bh_retention *keep, bool dry_run,
                      struct bh_gc_plan *plan, const struct bh_call *call, struct bh_error *err)
{
    *plan = (struct bh_gc_plan){0};
    if (h->read_only && !dry_run)
        return bh_fail(err, EROFS,
                       "this is a read-only mount: it reclaims nothing; dry-run tells "
                       "what there is to reclaim");
    if (keeps_all(keep))
        return 0;
    int rc = dry_run || h->fenced || !h->trees ? 0 : history_sync_head(h, call, err);
    if (rc)
        return rc;
    if (!may_drop(h, dry_run, plan))
        return 0;
    struct candidates c = {.history = h, .call = call};
    memcpy(plan->branch, h->head.branch, sizeof plan->branch);
    rc = read_candidates(&c, err);
    if (rc == 0)
        rc = make_plan(&c, keep, plan, err);
    if (rc == 0 && plan->count > 0 && !dry_run)
        rc = drop(&c, plan->count, err);
    candidates_free(&c);
    return rc;
}

/* --- collecting --- */

static int each_live_blob(void *arg, bh_gc_blob_fn *fn, void *fn_arg, struct bh_error *err)
{
    struct bh_history *h = arg;
    return h->files.each_blob ? h->files.each_blob(h->files.arg, fn, fn_arg, err) : 0;
}

int bh_history_collect(struct bh_history *h, int64_t grace_ms, bool dry_run,
                       const struct bh_gc_plan *plan, struct bh_strbuf *report,
                       const struct bh_call *call, struct bh_error *err)
{
    uint64_t parallel = h->cfg->bucket.connections;
    BH_FREE char *prefix = NULL;
    struct bh_gc_blobs blobs = {.within = h->cfg->bucket.prefix, .live = each_live_blob, .arg = h};
    if (asprintf(&prefix, "%s%s", h->cfg->bucket.prefix, h->cfg->files.prefix) < 0) {
        prefix = NULL;
        return no_memory(err);
    }
    blobs.prefix = prefix;
    struct bh_gc_options options = {
        .grace_ms = grace_ms, .dry_run = dry_run, .compact = true, .blobs = &blobs, .plan = plan};
    options.parallel = parallel < PARALLEL_MAX ? (unsigned)parallel : PARALLEL_MAX;
    pthread_mutex_lock(&h->mutex);
    uint32_t block_size = h->trees ? h->block_size : 0;
    pthread_mutex_unlock(&h->mutex);
    if (h->read_only && !dry_run)
        return bh_fail(err, EROFS, "this is a read-only mount: it reclaims nothing");
    if (!block_size) {
        bh_strbuf_addf(report, "there is no history in this bucket yet\n");
        return 0;
    }
    int rc = bh_gc_run(h->bucket, h->prefix, block_size, &options, report, call, err);
    return rc == 0 && report->failed ? bh_fail(err, ENOMEM, "out of memory for the report") : rc;
}

int bh_history_gc(struct bh_history *h, const struct bh_retention *keep, int64_t grace_ms,
                  bool dry_run, struct bh_strbuf *report, const struct bh_call *call,
                  struct bh_error *err)
{
    struct bh_gc_plan plan;
    int rc = bh_history_retain(h, keep, dry_run, &plan, call, err);
    if (rc == 0)
        rc = bh_history_collect(h, grace_ms, dry_run, &plan, report, call, err);
    bh_gc_plan_free(&plan);
    return rc;
}
