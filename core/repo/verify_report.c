/* The report: lines "name: value", some with indented lines below them. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repo/verify_private.h"
#include "util/cleanup.h"
#include "util/clock.h"

static bool is_hit(const struct verify_snapshot *s)
{
    return s->mask || s->damaged;
}

static int by_id(const void *pa, const void *pb)
{
    const struct verify_snapshot *a = *(const struct verify_snapshot *const *)pa;
    const struct verify_snapshot *b = *(const struct verify_snapshot *const *)pb;
    return strcmp(a->e.id, b->e.id);
}

/* "ID (names.db) branch main, dev"; what damage those bits are does to it, if it is not the
 * database alone. */
static void add_snapshot(const struct verify *v, const struct verify_snapshot *s, uint64_t bits,
                         struct bh_strbuf *out)
{
    const char *before = " branch ";
    bh_strbuf_addf(out, "  %s", s->e.id);
    if (s->names_mask & bits)
        bh_strbuf_addf(out, s->db_mask & bits ? " (" BH_DB_NAME ", names.db)" : " (names.db)");
    for (size_t i = 0; i < v->branch_count && i < 64; i++) {
        if (!(s->branches & (uint64_t)1 << i))
            continue;
        bh_strbuf_addf(out, "%s%s", before, i < 63 ? v->branches[i].head.branch : "and others");
        before = ", ";
    }
    if (!s->branches && s->source == FROM_SALVAGE)
        bh_strbuf_addf(out, " made on branch %s, told by its record only", s->e.branch);
    else if (!s->branches)
        bh_strbuf_addf(out, " kept by a label");
    bh_strbuf_addf(out, "\n");
}

static void add_damage(const struct verify *v, const struct verify_damage *d,
                       struct verify_snapshot *const *sorted, size_t count, struct bh_strbuf *out)
{
    size_t hits = 0;
    bh_strbuf_addf(out, "damaged: %s\n  cause: %s\n", d->key, d->cause);
    if (d->records > 1)
        bh_strbuf_addf(out, "  damaged records: %" PRIu64 "\n", d->records);
    if (d->histories.len)
        bh_strbuf_addf(out, "  history of branches:%s\n", d->histories.data);
    const char *id = strstr(d->key, "/snapshots/");
    for (size_t i = 0; i < count; i++) {
        bool own = id && !strcmp(id + strlen("/snapshots/"), sorted[i]->e.id);
        if (!(d->bit & sorted[i]->mask) && !own)
            continue;
        if (hits++ == 0)
            bh_strbuf_addf(out, "  snapshots:\n");
        bh_strbuf_addf(out, "  ");
        add_snapshot(v, sorted[i], d->bit, out);
    }
    if (!hits && !d->is_blob)
        bh_strbuf_addf(out, "  snapshots: none\n");
}

static void add_snapshots(const struct verify *v, struct verify_snapshot *const *sorted,
                          size_t count, struct bh_strbuf *out)
{
    size_t hit = 0;
    for (size_t i = 0; i < count; i++)
        hit += is_hit(sorted[i]);
    bh_strbuf_addf(out, "whole: %zu of %zu snapshots\n", count - hit, count);
    if (!v->damage_count)
        return;
    for (size_t i = 0; i < count; i++)
        if (!is_hit(sorted[i]))
            add_snapshot(v, sorted[i], 0, out);
    bh_strbuf_addf(out, "hit: %zu of %zu snapshots\n", hit, count);
    for (size_t i = 0; i < count; i++)
        if (is_hit(sorted[i]))
            add_snapshot(v, sorted[i], sorted[i]->mask, out);
    if (hit < count)
        bh_strbuf_addf(out, "advice: bhfs export URL ID FILE writes a whole snapshot to a file\n");
}

/* The list of what is wanted, by id; NULL: no memory. */
static struct verify_snapshot **sort(const struct verify *v, size_t *count)
{
    struct verify_snapshot **list = calloc(v->snapshot_count + 1, sizeof *list);
    *count = 0;
    for (size_t i = 0; list && i < v->snapshot_count; i++)
        if (v->snapshots[i].wanted)
            list[(*count)++] = &v->snapshots[i];
    if (list)
        qsort(list, *count, sizeof *list, by_id);
    return list;
}

static bool begins(const char *name, const char *with)
{
    return strncmp(name, with, strlen(with)) == 0;
}

static void add_unreferenced(const struct verify *v, struct bh_strbuf *out)
{
    uint64_t packs = 0, records = 0, others = 0, bytes = 0;
    for (size_t i = 0; i < v->object_count; i++) {
        const struct verify_object *o = &v->objects[i];
        if (o->met || begins(o->name, "gc") || begins(o->name, "pins/") ||
            begins(o->name, "moved/"))
            continue;
        bytes += o->size;
        *(begins(o->name, "packs/")       ? &packs
          : begins(o->name, "snapshots/") ? &records
                                          : &others) += 1;
    }
    bh_strbuf_addf(out,
                   "unreferenced: %" PRIu64 " packs, %" PRIu64 " records, %" PRIu64
                   " others, %" PRIu64 " bytes\n",
                   packs, records, others, bytes);
}

static void add_counts(const struct verify *v, struct bh_strbuf *out)
{
    uint64_t live = 0;
    for (size_t i = 0; i < v->branch_count; i++)
        live += v->branches[i].readable && !v->branches[i].head.deleted;
    bh_strbuf_addf(out,
                   "branches: %" PRIu64 "\ndeleted branches: %" PRIu64 "\nlabels: %" PRIu64
                   "\nrecords: %" PRIu64 "\npacks: %zu\nnodes: %zu\n",
                   live, v->tombstones, v->labels, v->records, v->pack_count, v->nodes.count);
    if (v->full)
        bh_strbuf_addf(out, "read records of packs: %" PRIu64 "\nintegrity checks: %" PRIu64 "\n",
                       v->read_records, v->checked_databases);
}

void verify_report(const struct verify *v, int rc, const struct bh_error *why,
                   struct bh_strbuf *out)
{
    char when[32];
    size_t count;
    BH_FREE struct verify_snapshot **sorted = sort(v, &count);
    if (!sorted) {
        out->failed = true;
        return;
    }
    bh_strbuf_addf(out, "time: %s\nverify: %s\n", bh_format_time(bh_real_ms(), when, sizeof when),
                   v->full ? "full" : "quick");
    if (rc)
        bh_strbuf_addf(out, "result: not finished: %s\n", why->text);
    else if (v->damage_count)
        bh_strbuf_addf(out, "result: %zu damaged %s\n", v->damage_count,
                       v->damage_count == 1 ? "object" : "objects");
    else
        bh_strbuf_addf(out, "result: everything is whole\n");
    for (size_t i = 0; i < v->damage_count; i++)
        add_damage(v, &v->damages[i], sorted, count, out);
    if (v->trees)
        add_snapshots(v, sorted, count, out);
    if (v->notes.len)
        bh_strbuf_add(out, v->notes.data, v->notes.len);
    if (v->trees) {
        add_counts(v, out);
        add_unreferenced(v, out);
    }
}
