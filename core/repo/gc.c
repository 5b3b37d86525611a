/* One run of gc, and what it says of it. */
#include "repo/gc_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "util/parse.h"

#define PACK_PART  ((uint64_t)16 << 20) /* nothing is written */
#define NODE_CACHE ((size_t)8 << 20)

/* Everything of one run. */
struct run {
    const struct bh_gc_options *options;
    struct gc_list list;
    struct gc_roots roots;
    struct gc_mark mark;
    struct gc_sweep sweep;
    struct gc_compaction compaction;
    size_t branches, tombstones, pins;
    size_t deleted, removed, expired, aborted;
    struct bh_strbuf blobs; /* what is told of them */
};

void bh_gc_plan_free(struct bh_gc_plan *plan)
{
    free(plan->dropped);
    plan->dropped = NULL;
    plan->count = 0;
}

/* --- roots --- */

/* The caller's dry run shows what would be reclaimed if the plan were carried out. */
static int take_plan(struct run *r, struct bh_error *err)
{
    const struct bh_gc_plan *plan = r->options->plan;
    if (!plan || !r->options->dry_run)
        return 0;
    r->mark.branch = plan->branch;
    for (size_t i = 0; i < plan->count; i++)
        if (gc_set_add(&r->mark.dropped, gc_record_key(plan->dropped[i]), 0) == ENOMEM)
            return bh_fail(err, ENOMEM, "out of memory looking for what is in use");
    return 0;
}

static bool is_over(const struct run *r, const struct gc_anchor *a)
{
    if (a->is_pin)
        return a->head.lease.expires_ms <= r->sweep.begin_ms;
    return a->head.deleted && a->mtime_ms + r->sweep.grace_ms <= r->sweep.begin_ms;
}

static int mark_anchor(struct run *r, const struct gc_anchor *a, struct bh_error *err)
{
    char what[BH_BRANCH_MAX + 32];
    *(a->is_pin ? &r->pins : a->head.deleted ? &r->tombstones : &r->branches) += 1;
    if (is_over(r, a))
        return 0;
    snprintf(what, sizeof what, "%s %s",
             a->is_pin         ? "pin"
             : a->head.deleted ? "the deleted branch"
                               : "branch",
             a->name);
    return gc_mark_head(&r->mark, &a->head, what, err);
}

static int mark_all(struct run *r, struct bh_error *err)
{
    int rc = take_plan(r, err);
    for (size_t i = 0; rc == 0 && i < r->roots.label_count; i++)
        if (gc_set_add(&r->mark.labelled, gc_record_key(r->roots.labels[i].id), 0) == ENOMEM)
            rc = bh_fail(err, ENOMEM, "out of memory looking for what is in use");
    for (size_t i = 0; rc == 0 && i < r->roots.anchor_count; i++)
        rc = mark_anchor(r, &r->roots.anchors[i], err);
    return rc ? rc : gc_mark_labels(&r->mark, r->roots.labels, r->roots.label_count, err);
}

/* --- writing --- */

/* The list goes out before anything on it goes: whoever published it last is the only one that
 * deletes. What is new on it is there from now, not from when this run began. */
static int publish(struct run *r, struct bh_error *err)
{
    struct gc_sweep *s = &r->sweep;
    int64_t now;
    if (!s->changed && !s->doomed_count && !r->list.damaged &&
        s->to_list.count == r->list.items.count)
        return 0;
    int rc = bh_bucket_server_time(s->bucket, &now, s->call, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < s->to_list.room; i++)
        if (s->to_list.slots[i].key.b && s->to_list.slots[i].value < 0)
            s->to_list.slots[i].value = now;
    return gc_list_write(s->bucket, s->prefix, &s->to_list, r->list.etag, s->call, err);
}

/* Tombstones and pins that are over. A pin may be renewed late: it stays for the grace. */
static int remove_anchors(struct run *r, struct bh_error *err)
{
    struct gc_sweep *s = &r->sweep;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < r->roots.anchor_count; i++) {
        const struct gc_anchor *a = &r->roots.anchors[i];
        bool removed = true;
        if (!is_over(r, a))
            continue;
        if (a->is_pin && a->head.lease.expires_ms + s->grace_ms > s->begin_ms)
            continue;
        if (!r->options->dry_run)
            rc = a->is_pin ? bh_pin_delete(s->bucket, s->prefix, a->name, s->call, err)
                           : gc_remove_tombstone(s, a, &removed, err);
        *(a->is_pin ? &r->expired : &r->removed) += rc == 0 && removed;
    }
    return rc;
}

/* What was found of blobs is told at the end. */
static int clean_blobs(struct run *r, struct bh_error *err)
{
    return r->options->blobs
               ? gc_blobs(&r->sweep, r->options->blobs, r->options->dry_run, &r->blobs, err)
               : 0;
}

static int clean(struct run *r, struct bh_error *err)
{
    bool dry = r->options->dry_run;
    int rc = dry ? 0 : publish(r, err);
    if (rc == 0 && !dry)
        rc = gc_sweep_delete(&r->sweep, &r->deleted, err);
    if (rc == 0)
        rc = remove_anchors(r, err);
    if (rc == 0)
        rc = gc_sweep_uploads(&r->sweep, dry, &r->aborted, err);
    return rc ? rc : clean_blobs(r, err);
}

/* Where packs cannot be rewritten (perhaps the bucket is full) the rest is done all the same. */
static int carry_out(struct run *r, struct bh_error *err)
{
    struct bh_error why = {0};
    int compacted =
        r->options->compact ? gc_compact(&r->sweep, r->options->dry_run, &r->compaction, &why) : 0;
    int rc = clean(r, err);
    if (compacted && rc)
        return bh_fail_prefix(err, rc, "%s; besides", why.text);
    return compacted ? bh_fail(err, compacted, "%s", why.text) : rc;
}

/* --- the report --- */

static void say_tally(struct bh_strbuf *out, const char *name, const struct gc_tally *t,
                      const char *note)
{
    char size[32];
    bh_strbuf_addf(out, "%s: %" PRIu64 " packs, %" PRIu64 " records, ", name, t->packs, t->records);
    if (t->moved)
        bh_strbuf_addf(out, "%" PRIu64 " moved records, ", t->moved);
    bh_strbuf_addf(out, "%s%s\n", bh_format_size(t->bytes, size, sizeof size), note);
}

static void say_plan(const struct run *r, struct bh_strbuf *out)
{
    const struct bh_gc_plan *plan = r->options->plan;
    if (plan && plan->why_not[0])
        bh_strbuf_addf(out, "retention: not applied: %s\n", plan->why_not);
    else if (plan && plan->branch[0])
        bh_strbuf_addf(out, "retention: %s%zu of %zu snapshots of branch %s\n",
                       r->options->dry_run ? "would drop " : "dropped ", plan->count,
                       plan->snapshots, plan->branch);
}

static void say_found(const struct run *r, struct bh_strbuf *out)
{
    const struct gc_sweep *s = &r->sweep;
    char when[32], grace[32], note[80];
    bh_format_duration(s->grace_ms, grace, sizeof grace);
    bh_strbuf_addf(out, "time: %s\nrun: %s\ngrace: %s\n",
                   bh_format_time(s->begin_ms, when, sizeof when),
                   r->options->dry_run ? "dry-run, nothing was written" : "gc", grace);
    bh_strbuf_addf(out, "roots: %zu branches, %zu deleted branches, %zu labels, %zu pins\n",
                   r->branches, r->tombstones, r->roots.label_count, r->pins);
    say_plan(r, out);
    bh_strbuf_addf(out, "snapshots: %zu\n", r->mark.records.count);
    say_tally(out, "live", &s->live, "");
    say_tally(out, "young", &s->young, ": not in use, but may be about to be");
    snprintf(note, sizeof note, ": deleted after %s, unless in use again", grace);
    say_tally(out, "condemned now", &s->condemned, note);
    say_tally(out, "condemned before", &s->waiting, "");
    if (s->saved.packs + s->saved.records + s->saved.moved)
        say_tally(out, "in use again", &s->saved, "");
    say_tally(out, r->options->dry_run ? "to be deleted" : "due", &s->doom, "");
    if (r->list.damaged)
        bh_strbuf_addf(out, "list: was damaged, the grace begins anew\n");
}

static void say_compaction(const struct run *r, struct bh_strbuf *out)
{
    const struct gc_compaction *c = &r->compaction;
    char a[32], b[32];
    if (!r->options->compact)
        return;
    bh_strbuf_addf(out, "needed: %s of the %s of live packs\n",
                   bh_format_size(c->needed, a, sizeof a), bh_format_size(c->size, b, sizeof b));
    bh_format_size(c->before, a, sizeof a);
    bh_format_size(c->after, b, sizeof b);
    if (r->options->dry_run)
        bh_strbuf_addf(out, "compaction: would rewrite %zu packs, %s, as %s\n", c->chosen, a, b);
    else
        bh_strbuf_addf(out, "compaction: rewrote %zu packs, %s, as %zu, %s\n", c->moved, a,
                       c->packs, b);
    if (c->notes.len)
        bh_strbuf_add(out, c->notes.data, c->notes.len);
}

static void say_done(const struct run *r, struct bh_strbuf *out)
{
    say_compaction(r, out);
    bh_strbuf_addf(out,
                   "deleted: %zu objects\nbranches removed: %zu\npins removed: %zu\n"
                   "uploads aborted: %zu\n",
                   r->deleted, r->removed, r->expired, r->aborted);
    if (r->blobs.len)
        bh_strbuf_add(out, r->blobs.data, r->blobs.len);
}

/* --- the run --- */

static int look(struct run *r, struct bh_error *err)
{
    struct gc_sweep *s = &r->sweep;
    int rc = bh_bucket_server_time(s->bucket, &s->begin_ms, s->call, err);
    if (rc == 0)
        rc = gc_list_read(s->bucket, s->prefix, &r->list, s->call, err);
    r->mark.want_snapshots = r->options->blobs != NULL;
    r->mark.young_ms = s->begin_ms - s->grace_ms;
    if (rc == 0)
        rc = gc_live_list(&r->mark, err);
    if (rc == 0)
        rc = gc_roots_read(s->bucket, s->prefix, &r->roots, s->call, err);
    if (rc == 0)
        rc = mark_all(r, err);
    return rc ? rc : gc_sweep_list(s, err);
}

static int run(struct run *r, struct bh_strbuf *report, struct bh_error *err)
{
    int rc = bh_bucket_learn(r->sweep.bucket, r->sweep.call, err);
    if (rc && r->options->dry_run) /* perhaps with credentials for reading only */
        rc = 0;
    if (rc == 0)
        rc = look(r, err);
    if (rc)
        return rc;
    say_found(r, report);
    rc = carry_out(r, err);
    say_done(r, report);
    return rc;
}

static int open_trees(struct run *r, uint32_t block_size, struct bh_packs **packs,
                      struct bh_error *err)
{
    struct bh_packs_options options = {.part_size = PACK_PART, .parallel = r->options->parallel};
    int rc = bh_packs_new(packs, r->sweep.bucket, r->sweep.prefix, &options, err);
    return rc ? rc : bh_trees_new(&r->mark.trees, *packs, block_size, NODE_CACHE, err);
}

int bh_gc_run(struct bh_bucket *b, const char *prefix, uint32_t block_size,
              const struct bh_gc_options *options, struct bh_strbuf *report,
              const struct bh_call *call, struct bh_error *err)
{
    struct bh_packs *packs = NULL; /* of its own: what another has cached may be gone */
    struct bh_error why = {0};
    struct run r = {
        .options = options,
        .mark = {.bucket = b, .prefix = prefix, .call = call},
        .sweep = {.bucket = b, .prefix = prefix, .call = call, .grace_ms = options->grace_ms}};
    r.sweep.mark = &r.mark;
    r.sweep.list = &r.list;
    int rc = open_trees(&r, block_size, &packs, &why);
    if (rc == 0)
        rc = run(&r, report, &why);
    if (rc)
        bh_strbuf_addf(report, "wrong: %s\n", why.text);
    bh_trees_free(r.mark.trees);
    bh_packs_free(packs);
    gc_mark_free(&r.mark);
    gc_sweep_free(&r.sweep);
    bh_strbuf_free(&r.compaction.notes);
    bh_strbuf_free(&r.blobs);
    gc_roots_free(&r.roots);
    gc_set_free(&r.list.items);
    return rc ? bh_fail(err, rc, "%s", why.text) : 0;
}
