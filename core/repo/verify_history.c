/* Heads, indexes, labels and records: which snapshots there are. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repo/head_private.h"
#include "repo/verify_private.h"
#include "util/array.h"
#include "util/cleanup.h"

#define BLOCKS_AT_ONCE  16u /* of an index */
#define TEXTS_AT_ONCE   512u
#define INDEXES_AT_ONCE 64u
#define CUT             64u /* bytes of a branch's name in an entry */

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory while verifying");
}

/* What follows dir in an object's name; NULL: it is elsewhere. */
static const char *name_below(const struct verify_object *o, const char *dir)
{
    size_t len = strlen(dir);
    return strncmp(o->name, dir, len) ? NULL : o->name + len;
}

/* --- reading ahead --- */

/* Heads, labels and records, as they are listed. */
struct texts {
    const char *dir;
    bool (*is_name)(const char *name);
    const char *names[TEXTS_AT_ONCE];
};

static void read_text(struct verify *v, void *arg, size_t i)
{
    const struct texts *t = arg;
    BH_STRBUF key = {0};
    BH_FREE char *text = NULL;
    size_t len;
    struct bh_error why;
    bh_strbuf_addf(&key, "%s%s%s", v->prefix, t->dir, t->names[i]);
    if (!key.failed)
        (void)bh_bucket_get_small(v->ahead, key.data, BH_HEAD_TEXT_MAX, &text, &len, NULL, v->call,
                                  &why);
}

/* The objects below dir from number i on. Returns the first that was not read. */
static size_t read_texts_ahead(struct verify *v, size_t i, struct texts *t)
{
    size_t n = 0;
    verify_ahead_over(v);
    for (; i < v->object_count && n < TEXTS_AT_ONCE; i++) {
        const char *name = name_below(&v->objects[i], t->dir);
        if (name && t->is_name(name))
            t->names[n++] = name;
    }
    verify_ahead(v, n, read_text, t);
    return i;
}

/* --- heads --- */

struct verify_branch *verify_branch_of(const struct verify *v, const char *name)
{
    for (size_t i = 0; i < v->branch_count; i++)
        if (!strncmp(v->branches[i].head.branch, name, CUT))
            return &v->branches[i];
    return NULL;
}

static int add_branch(struct verify *v, const struct verify_branch *b, struct bh_error *err)
{
    if (!bh_grow(v->branches, v->branch_room, v->branch_count))
        return no_memory(err);
    v->branches[v->branch_count++] = *b;
    return 0;
}

static int add_unreadable(struct verify *v, const char *branch, const char *cause,
                          struct bh_error *err)
{
    struct verify_branch b = {.readable = false};
    char name[16 + BH_BRANCH_MAX];
    snprintf(b.head.branch, sizeof b.head.branch, "%s", branch);
    snprintf(name, sizeof name, "branches/%s", branch);
    v->lost = true;
    int rc = verify_note_name(v, name, cause, err);
    return rc ? rc : add_branch(v, &b, err);
}

static int look_at_head(struct verify *v, const char *branch, struct bh_error *err)
{
    struct verify_branch b = {.readable = true};
    struct bh_error why = {0};
    int rc = bh_head_get(v->ahead, v->prefix, branch, &b.head, b.etag, v->call, &why);
    if (rc == ENOENT && !b.etag[0])
        return 0; /* gone since it was listed */
    if (rc == ENOENT) {
        v->tombstones++;
        rc = 0;
    }
    if (rc == 0)
        return add_branch(v, &b, err);
    return verify_is_damage(v, rc) ? add_unreadable(v, branch, why.text, err)
                                   : bh_fail(err, rc, "%s", why.text);
}

int verify_lost_head(struct verify *v, const char *branch, const char *proof, struct bh_error *err)
{
    struct bh_head head;
    struct bh_error why = {0};
    char etag[BH_ETAG_MAX];
    BH_STRBUF cause = {0};
    int rc = bh_head_get(v->bucket, v->prefix, branch, &head, etag, v->call, &why);
    if (rc == 0 || etag[0])
        return 0;
    if (!verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", why.text);
    bh_strbuf_addf(&cause, "it is missing: %s", proof);
    return cause.failed ? no_memory(err) : add_unreadable(v, branch, cause.data, err);
}

int verify_heads(struct verify *v, struct bh_error *err)
{
    char own[BH_BRANCH_MAX] = "";
    struct texts texts = {.dir = "branches/", .is_name = bh_is_branch_name};
    size_t ahead = 0;
    int rc = 0;
    for (size_t i = 0; i < v->object_count && !rc; i++) {
        if (i == ahead)
            ahead = read_texts_ahead(v, i, &texts);
        const char *name = name_below(&v->objects[i], "branches/");
        if (!name || !bh_is_branch_name(name))
            continue;
        v->objects[i].met = true;
        rc = look_at_head(v, name, err);
    }
    pthread_mutex_lock(&v->h->mutex);
    if (v->h->have_head && !v->h->fenced)
        memcpy(own, v->h->head.branch, sizeof own);
    pthread_mutex_unlock(&v->h->mutex);
    return rc || !own[0] || verify_branch_of(v, own)
               ? rc
               : verify_lost_head(v, own, "this mount is on that branch", err);
}

/* --- snapshots --- */

/* An id as a number: its digits, and those of its random part. */
static void id_key(const char *id, uint64_t *a, uint32_t *b)
{
    *a = 0;
    for (const char *c = id; *c != '-'; c++)
        if (*c >= '0' && *c <= '9')
            *a = *a * 10 + (uint64_t)(*c - '0');
    *b = (uint32_t)strtoul(strchr(id, '-') + 1, NULL, 16);
}

struct verify_snapshot *verify_snapshot_of(const struct verify *v, const char *id)
{
    uint64_t a;
    uint32_t b;
    if (!bh_is_snapshot_id(id))
        return NULL;
    id_key(id, &a, &b);
    const uint64_t *number = verify_map_find(&v->snapshot_map, a, b);
    return number ? &v->snapshots[*number] : NULL;
}

/* branch: its number, or -1. */
static int add_snapshot(struct verify *v, const struct bh_index_entry *e, enum verify_source source,
                        ptrdiff_t branch, struct bh_error *err)
{
    struct verify_snapshot *s = verify_snapshot_of(v, e->id);
    if (!s) {
        uint64_t a;
        uint32_t b;
        id_key(e->id, &a, &b);
        if (!bh_grow(v->snapshots, v->snapshot_room, v->snapshot_count) ||
            verify_map_set(&v->snapshot_map, a, b, v->snapshot_count))
            return no_memory(err);
        s = &v->snapshots[v->snapshot_count++];
        *s = (struct verify_snapshot){.e = *e, .source = source};
    }
    if (e->flags & BH_ENTRY_DROPPED && branch >= 0)
        return 0;
    s->wanted = true;
    if (branch >= 0)
        s->branches |= (uint64_t)1 << (branch < 63 ? branch : 63);
    return 0;
}

/* --- indexes --- */

static int note_head(struct verify *v, size_t branch, const char *cause, struct bh_error *err)
{
    char name[16 + BH_BRANCH_MAX];
    snprintf(name, sizeof name, "branches/%s", v->branches[branch].head.branch);
    v->lost = true;
    return verify_note_name(v, name, cause, err);
}

/* Entries n to n + count - 1, which whole blocks hold. What cannot be read is left out; all: in
 * larger pieces before, so this is the end of it. */
static int read_entries(struct verify *v, size_t branch, uint64_t n, size_t count, bool all,
                        bool *failed, struct bh_error *err)
{
    struct bh_error why = {0};
    BH_FREE struct bh_index_entry *e = calloc(count, sizeof *e);
    if (!e)
        return no_memory(err);
    const struct bh_root *index = &v->branches[branch].head.index;
    int rc = bh_index_get(v->trees, index, n, count, e, v->call, &why);
    *failed = rc != 0;
    if (rc && !verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", why.text);
    if (rc) {
        v->lost = true;
        return all || v->damage_count ? 0 : note_head(v, branch, why.text, err);
    }
    for (size_t i = 0; i < count && !rc; i++)
        rc = add_snapshot(v, &e[i], FROM_INDEX, (ptrdiff_t)branch, err);
    return rc;
}

static int list_index(struct verify *v, size_t branch, struct bh_error *err)
{
    const uint64_t count = bh_index_count(&v->branches[branch].head.index);
    const uint64_t block = v->block_size / BH_INDEX_ENTRY_SIZE, step = block * BLOCKS_AT_ONCE;
    int rc = 0;
    for (uint64_t n = 0; n < count && !rc; n += step) {
        uint64_t end = n + step < count ? n + step : count;
        bool failed;
        rc = read_entries(v, branch, n, (size_t)(end - n), true, &failed, err);
        for (uint64_t i = n; failed && i < end && !rc; i += block) {
            uint64_t to = i + block < end ? i + block : end;
            bool again;
            rc = read_entries(v, branch, i, (size_t)(to - i), false, &again, err);
        }
    }
    return rc;
}

static int note_histories(struct verify *v, size_t branch, uint64_t mask, struct bh_error *err)
{
    for (size_t i = 0; i < v->damage_count; i++) {
        struct verify_damage *d = &v->damages[i];
        if (!(d->bit & mask))
            continue;
        bh_strbuf_addf(&d->histories, " %s", v->branches[branch].head.branch);
        if (d->histories.failed)
            return no_memory(err);
    }
    return 0;
}

static int look_at_index(struct verify *v, size_t branch, struct bh_error *err)
{
    const struct bh_head *head = &v->branches[branch].head;
    struct bh_error why = {0};
    uint64_t mask = 0;
    int rc = verify_tree(v, &head->index, true, &mask, &why);
    if (rc == EDOM)
        return note_head(v, branch, why.text, err);
    if (rc)
        return bh_fail(err, rc, "%s", why.text);
    if (mask) {
        v->lost = true;
        rc = note_histories(v, branch, mask, err);
    }
    if (!rc)
        rc = list_index(v, branch, err);
    return rc;
}

static bool has_index(const struct verify_branch *b)
{
    return b->readable && !b->head.deleted;
}

static size_t read_indexes_ahead(struct verify *v, size_t i)
{
    const struct bh_root *roots[INDEXES_AT_ONCE];
    size_t n = 0;
    verify_ahead_over(v);
    for (; i < v->branch_count && n < INDEXES_AT_ONCE; i++)
        if (has_index(&v->branches[i]))
            roots[n++] = &v->branches[i].head.index;
    verify_trees_ahead(v, roots, n, true);
    return i;
}

int verify_indexes(struct verify *v, struct bh_error *err)
{
    size_t ahead = 0;
    int rc = 0;
    for (size_t i = 0; i < v->branch_count && !rc; i++) {
        if (i == ahead)
            ahead = read_indexes_ahead(v, i);
        const struct bh_head *head = &v->branches[i].head;
        if (!has_index(&v->branches[i]))
            continue;
        rc = look_at_index(v, i, err);
        if (!rc && head->newest.id[0])
            rc = add_snapshot(v, &head->newest, FROM_INDEX, (ptrdiff_t)i, err);
    }
    return rc;
}

/* --- labels and records --- */

static void record_name(const char *id, char name[16 + BH_SNAPSHOT_ID_MAX])
{
    snprintf(name, 16 + BH_SNAPSHOT_ID_MAX, "snapshots/%s", id);
}

int verify_read_record(struct verify *v, const char *id, struct bh_record *r, struct bh_error *err)
{
    char name[16 + BH_SNAPSHOT_ID_MAX];
    BH_STRBUF key = {0};
    BH_FREE char *text = NULL;
    size_t len;
    record_name(id, name);
    bh_strbuf_addf(&key, "%s%s", v->prefix, name);
    if (key.failed)
        return no_memory(err);
    int rc =
        bh_bucket_get_small(v->ahead, key.data, BH_HEAD_TEXT_MAX, &text, &len, NULL, v->call, err);
    if (rc == EFBIG)
        return bh_fail(err, EIO, "it is too large for a record");
    if (!rc)
        rc = bh_record_decode(r, text, len, "it", err);
    if (!rc && strcmp(r->entry.id, id) != 0)
        rc = bh_fail(err, EIO, "it is the record of snapshot %s", r->entry.id);
    return rc;
}

/* Notes the record as missing or damaged. needed_by: in the cause, if it is missing. */
static int note_record(struct verify *v, const char *id, int rc, const struct bh_error *why,
                       const char *needed_by, struct bh_error *err)
{
    char name[16 + BH_SNAPSHOT_ID_MAX];
    BH_STRBUF cause = {0};
    if (!verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", why->text);
    record_name(id, name);
    if (rc == ENOENT)
        bh_strbuf_addf(&cause, "it is missing%s", needed_by);
    else
        bh_strbuf_addf(&cause, "%s", why->text);
    return cause.failed ? no_memory(err) : verify_note_name(v, name, cause.data, err);
}

/* The snapshot of a label is a root, in whichever history it was. */
static int follow_label(struct verify *v, const char *label, const char *id, struct bh_error *err)
{
    struct verify_snapshot *s = verify_snapshot_of(v, id);
    struct bh_record r;
    struct bh_error why = {0};
    char needed_by[BH_BRANCH_MAX + 32];
    v->labels++;
    if (s) {
        s->wanted = true;
        return 0;
    }
    int rc = verify_read_record(v, id, &r, &why);
    if (rc == 0)
        return add_snapshot(v, &r.entry, FROM_RECORD, -1, err);
    snprintf(needed_by, sizeof needed_by, "; the label %s refers to it", label);
    return note_record(v, id, rc, &why, needed_by, err);
}

int verify_labels(struct verify *v, struct bh_error *err)
{
    struct texts texts = {.dir = "labels/", .is_name = bh_is_label};
    size_t ahead = 0;
    int rc = 0;
    for (size_t i = 0; i < v->object_count && !rc; i++) {
        if (i == ahead)
            ahead = read_texts_ahead(v, i, &texts);
        char id[BH_SNAPSHOT_ID_MAX];
        struct bh_error why = {0};
        const char *name = name_below(&v->objects[i], "labels/");
        if (!name || !bh_is_label(name))
            continue;
        v->objects[i].met = true;
        rc = bh_label_get(v->ahead, v->prefix, name, id, v->call, &why);
        if (rc == 0)
            rc = follow_label(v, name, id, err);
        else if (rc == ENOENT) /* since it was listed */
            rc = 0;
        else
            rc = verify_is_damage(v, rc) ? verify_note_name(v, v->objects[i].name, why.text, err)
                                         : bh_fail(err, rc, "%s", why.text);
    }
    return rc;
}

static bool is_compared(const struct verify_snapshot *s)
{
    return s->wanted && s->source != FROM_RECORD;
}

static size_t read_records_ahead(struct verify *v, size_t i, struct texts *t)
{
    size_t n = 0;
    verify_ahead_over(v);
    for (; i < v->snapshot_count && n < TEXTS_AT_ONCE; i++)
        if (is_compared(&v->snapshots[i]))
            t->names[n++] = v->snapshots[i].e.id;
    verify_ahead(v, n, read_text, t);
    return i;
}

int verify_records(struct verify *v, struct bh_error *err)
{
    struct texts texts = {.dir = "snapshots/"};
    size_t ahead = 0;
    int rc = 0;
    for (size_t i = 0; i < v->snapshot_count && !rc; i++) {
        if (i == ahead)
            ahead = read_records_ahead(v, i, &texts);
        const struct verify_snapshot *s = &v->snapshots[i];
        char name[16 + BH_SNAPSHOT_ID_MAX];
        struct bh_record r;
        struct bh_error why = {0};
        if (!s->wanted)
            continue;
        record_name(s->e.id, name);
        verify_meet(v, name);
        v->records++;
        if (!is_compared(s))
            continue;
        rc = bh_call_check(v->call, "verify", err);
        if (rc)
            return rc;
        rc = verify_read_record(v, s->e.id, &r, &why);
        if (!rc &&
            (!bh_root_is_same(&r.entry.db, &s->e.db) ||
             !bh_root_is_same(&r.entry.names, &s->e.names) || r.entry.time_ms != s->e.time_ms))
            rc = bh_fail(&why, EIO, "it says something else than the history");
        if (rc)
            rc = note_record(v, s->e.id, rc, &why, "", err);
    }
    return rc;
}

/* --- records that no history has --- */

/* A flush of a branch on top of one of the same branch: its head was there. A record alone may be
 * that of the first flush, which was interrupted. */
static int look_for_head(struct verify *v, const struct bh_record *r, struct bh_error *err)
{
    struct bh_record parent;
    char proof[64 + BH_SNAPSHOT_ID_MAX];
    const char *branch = r->entry.branch;
    if (!bh_is_branch_name(branch) || !r->parent[0] || verify_branch_of(v, branch) ||
        gc_set_get(&v->condemned.items, gc_record_key(r->entry.id)))
        return 0;
    const struct verify_snapshot *s = verify_snapshot_of(v, r->parent);
    if (!s && verify_read_record(v, r->parent, &parent, NULL))
        return 0;
    if (strcmp(s ? s->e.branch : parent.entry.branch, branch) != 0)
        return 0;
    snprintf(proof, sizeof proof, "snapshot %s was flushed to it", r->entry.id);
    return verify_lost_head(v, branch, proof, err);
}

static bool is_orphan(const struct verify *v, const char *id)
{
    return id && bh_is_snapshot_id(id) && !verify_snapshot_of(v, id);
}

static size_t read_orphans_ahead(struct verify *v, size_t i, struct texts *t)
{
    size_t n = 0;
    verify_ahead_over(v);
    for (; i < v->object_count && n < TEXTS_AT_ONCE; i++) {
        const char *id = name_below(&v->objects[i], t->dir);
        if (is_orphan(v, id))
            t->names[n++] = id;
    }
    verify_ahead(v, n, read_text, t);
    return i;
}

static int each_orphan(struct verify *v,
                       int (*fn)(struct verify *, const struct bh_record *, struct bh_error *),
                       struct bh_error *err)
{
    struct texts texts = {.dir = "snapshots/"};
    size_t ahead = 0;
    int rc = 0;
    for (size_t i = 0; i < v->object_count && !rc; i++) {
        struct bh_record r;
        struct bh_error why = {0};
        if (i == ahead)
            ahead = read_orphans_ahead(v, i, &texts);
        const char *id = name_below(&v->objects[i], "snapshots/");
        if (!is_orphan(v, id))
            continue;
        rc = verify_read_record(v, id, &r, &why);
        if (rc && !verify_is_damage(v, rc))
            return bh_fail(err, rc, "%s", why.text);
        rc = rc ? 0 : fn(v, &r, err);
    }
    return rc;
}

static int salvage(struct verify *v, const struct bh_record *r, struct bh_error *err)
{
    char name[16 + BH_SNAPSHOT_ID_MAX];
    record_name(r->entry.id, name);
    verify_meet(v, name);
    return add_snapshot(v, &r->entry, FROM_SALVAGE, -1, err);
}

/* main cannot be deleted. */
static int look_for_main(struct verify *v, struct bh_error *err)
{
    char proof[64 + BH_SNAPSHOT_ID_MAX];
    for (size_t i = 0; i < v->snapshot_count && !verify_branch_of(v, "main"); i++) {
        const struct verify_snapshot *s = &v->snapshots[i];
        if (strcmp(s->e.branch, "main") != 0)
            continue;
        snprintf(proof, sizeof proof, "snapshot %s was made on it", s->e.id);
        return verify_lost_head(v, "main", proof, err);
    }
    return 0;
}

int verify_orphans(struct verify *v, struct bh_error *err)
{
    int rc = gc_list_read(v->bucket, v->prefix, &v->condemned, v->call, err);
    if (v->condemned.damaged)
        bh_strbuf_addf(&v->notes, "gc: its list is damaged; it begins anew\n");
    else if (v->condemned.items.count)
        bh_strbuf_addf(&v->notes, "gc: %zu objects are condemned\n", v->condemned.items.count);
    if (!rc)
        rc = each_orphan(v, look_for_head, err);
    if (!rc)
        rc = look_for_main(v, err);
    return rc || !v->lost ? rc : each_orphan(v, salvage, err);
}
