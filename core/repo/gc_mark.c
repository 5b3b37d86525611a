/* What the roots reach. Every tree is walked with one that was wholly walked before as known, and
 * none twice, so that all of it costs what differs between snapshots. */
#include "repo/gc_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repo/head_private.h"
#include "util/array.h"
#include "util/cleanup.h"

#define STEP 64u /* entries of an index that are read at once */

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory looking for what is in use");
}

void gc_mark_free(struct gc_mark *m)
{
    gc_live_free(&m->live);
    gc_set_free(&m->records);
    gc_set_free(&m->labelled);
    gc_set_free(&m->walked);
    gc_set_free(&m->dropped);
    free(m->snapshots);
}

static int visit(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                 const struct bh_error *damage)
{
    struct gc_mark *m = arg;
    (void)number;
    if (damage)
        return bh_fail(m->err, damage->code ? damage->code : EIO,
                       "%s: a node of level %u cannot be read: %s", m->what, level, damage->text);
    return gc_live_reach(&m->live, ref, m->time_ms, m->err);
}

int gc_mark_root(struct gc_mark *m, const struct bh_root *root, struct bh_root *last,
                 const char *what, struct bh_error *err)
{
    if (bh_ref_is_zero(&root->ref))
        return 0;
    const struct gc_key key = gc_root_key(root);
    if (!gc_set_get(&m->walked, key)) {
        m->what = what;
        m->err = err;
        int rc = bh_tree_walk(m->trees, root, bh_ref_is_zero(&last->ref) ? NULL : last, visit, m,
                              m->call, err);
        if (rc)
            return rc;
        if (gc_set_add(&m->walked, key, 0) == ENOMEM)
            return no_memory(err);
    }
    *last = *root;
    return 0;
}

/* --- snapshots --- */

static int note_snapshot(struct gc_mark *m, const struct bh_index_entry *e, bool dropped,
                         struct bh_error *err)
{
    if (!m->want_snapshots)
        return 0;
    if (!bh_grow(m->snapshots, m->snapshot_room, m->snapshot_count))
        return no_memory(err);
    struct gc_snapshot *s = &m->snapshots[m->snapshot_count++];
    *s = (struct gc_snapshot){.db = e->db, .names = e->names, .dropped = dropped};
    memcpy(s->id, e->id, sizeof s->id);
    return 0;
}

static int mark_entry(struct gc_mark *m, const struct bh_index_entry *e, const char *where,
                      struct bh_error *err)
{
    char what[BH_SNAPSHOT_ID_MAX + BH_BRANCH_MAX + 32];
    snprintf(what, sizeof what, "snapshot %s of %s", e->id, where);
    m->time_ms = e->time_ms;
    if (gc_set_add(&m->records, gc_record_key(e->id), 0) == ENOMEM)
        return no_memory(err);
    int rc = note_snapshot(m, e, false, err);
    if (rc == 0)
        rc = gc_mark_root(m, &e->db, &m->last_db, what, err);
    return rc ? rc : gc_mark_root(m, &e->names, &m->last_names, what, err);
}

static bool is_kept(struct gc_mark *m, const char *branch, const struct bh_index_entry *e)
{
    const struct gc_key key = gc_record_key(e->id);
    int64_t *labelled = gc_set_get(&m->labelled, key);
    if (labelled) {
        *labelled = 1;
        return true;
    }
    bool drops = m->branch && !strcmp(branch, m->branch) && gc_set_get(&m->dropped, key);
    return !(e->flags & BH_ENTRY_DROPPED) && !drops;
}

static int mark_index(struct gc_mark *m, const struct bh_head *head, const char *where,
                      struct bh_error *err)
{
    const uint64_t all = bh_index_count(&head->index);
    struct bh_index_entry entries[STEP];
    char what[BH_BRANCH_MAX + 64];
    snprintf(what, sizeof what, "the history of %s", where);
    m->time_ms = head->newest.time_ms;
    int rc = gc_mark_root(m, &head->index, &m->last_index, what, err);
    for (uint64_t n = 0; rc == 0 && n < all; n += STEP) {
        size_t count = all - n < STEP ? (size_t)(all - n) : STEP;
        rc = bh_index_get(m->trees, &head->index, n, count, entries, m->call, err);
        if (rc)
            return bh_fail_prefix(err, rc, "%s", what);
        for (size_t i = 0; rc == 0 && i < count; i++)
            if (is_kept(m, head->branch, &entries[i]))
                rc = mark_entry(m, &entries[i], where, err);
            else if (entries[i].time_ms > m->young_ms)
                rc = note_snapshot(m, &entries[i], true, err);
    }
    return rc;
}

int gc_mark_head(struct gc_mark *m, const struct bh_head *head, const char *what,
                 struct bh_error *err)
{
    int rc = mark_index(m, head, what, err);
    if (rc || !head->newest.id[0])
        return rc;
    (void)is_kept(m, "", &head->newest); /* a label on it is found */
    return mark_entry(m, &head->newest, what, err);
}

/* --- labels --- */

/* Its branch is gone: the record knows the root. */
static int mark_record(struct gc_mark *m, const struct gc_label *l, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    BH_FREE char *text = NULL;
    size_t len;
    struct bh_record record;
    snprintf(key, sizeof key, "%ssnapshots/%s", m->prefix, l->id);
    int rc = bh_bucket_get_small(m->bucket, key, BH_HEAD_TEXT_MAX, &text, &len, NULL, m->call, err);
    if (rc == ENOENT)
        return bh_fail(err, EIO,
                       "snapshot %s, which has the label %s, is in no history and has no record; "
                       "if it is not wanted any more, remove the label",
                       l->id, l->name);
    if (rc == 0)
        rc = bh_record_decode(&record, text, len, key, err);
    return rc ? rc : mark_entry(m, &record.entry, "a deleted branch", err);
}

int gc_mark_labels(struct gc_mark *m, const struct gc_label *labels, size_t count,
                   struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        int64_t *found = gc_set_get(&m->labelled, gc_record_key(labels[i].id));
        if (!found || *found)
            continue;
        rc = mark_record(m, &labels[i], err);
        *found = 1;
    }
    return rc;
}
