#include "repo/verify.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repo/verify_private.h"
#include "util/array.h"
#include "util/cleanup.h"

#define TREE_CACHE    ((size_t)4 << 20) /* of the indexes; nodes of databases are read once */
#define PACK_TARGET   (16u << 20)       /* of no meaning for reading, but wanted */
#define PARALLEL_MAX  8u
#define TREES_AT_ONCE 64u
#define RUNS          3

/* --- what is found --- */

bool verify_is_damage(const struct verify *v, int rc)
{
    return (rc == EIO || rc == ENOENT || rc == EFBIG) && !bh_call_check(v->call, "", NULL);
}

/* The readers' sentences begin with what they are about, which the key says already. */
static const char *without_subject(const char *cause)
{
    static const char is[] = " is damaged";
    const char *at = strstr(cause, is), *first = strchr(cause, ':');
    if (!at || (first && first < at))
        return cause;
    at += strlen(is);
    return strncmp(at, ": ", 2) == 0 ? at + 2 : at - strlen("damaged");
}

struct verify_damage *verify_note(struct verify *v, const char *key, const char *cause)
{
    for (size_t i = 0; i < v->damage_count; i++)
        if (!strcmp(v->damages[i].key, key))
            return &v->damages[i];
    if (!bh_grow(v->damages, v->damage_room, v->damage_count))
        return NULL;
    struct verify_damage d = {.key = strdup(key), .cause = strdup(without_subject(cause))};
    if (!d.key || !d.cause) {
        free(d.key);
        free(d.cause);
        return NULL;
    }
    v->damages[v->damage_count] = d;
    return &v->damages[v->damage_count++];
}

int verify_note_name(struct verify *v, const char *name, const char *cause, struct bh_error *err)
{
    BH_STRBUF key = {0};
    bh_strbuf_addf(&key, "%s%s", v->prefix, name);
    if (key.failed || !verify_note(v, key.data, cause))
        return bh_fail(err, ENOMEM, "out of memory while verifying");
    return 0;
}

/* --- the listing --- */

static int take_object(void *arg, const char *key, bool is_prefix,
                       const struct bh_object_info *info, struct bh_error *err)
{
    struct verify *v = arg;
    if (is_prefix)
        return 0;
    if (!bh_grow(v->objects, v->object_room, v->object_count))
        return bh_fail(err, ENOMEM, "out of memory while verifying");
    struct verify_object o = {.name = strdup(key + strlen(v->prefix)), .size = info->size};
    if (!o.name)
        return bh_fail(err, ENOMEM, "out of memory while verifying");
    v->objects[v->object_count++] = o;
    return 0;
}

struct verify_object *verify_listed(const struct verify *v, const char *name)
{
    size_t low = 0, high = v->object_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(v->objects[middle].name, name);
        if (order == 0)
            return &v->objects[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

void verify_meet(struct verify *v, const char *name)
{
    struct verify_object *o = verify_listed(v, name);
    if (o)
        o->met = true;
}

static bool is_listed_below(const struct verify *v, const char *dir)
{
    for (size_t i = 0; i < v->object_count; i++)
        if (!strncmp(v->objects[i].name, dir, strlen(dir)))
            return true;
    return false;
}

/* --- the format object --- */

static int open_packs(struct verify *v, struct bh_error *err)
{
    uint64_t parallel = v->h->cfg->bucket.connections;
    struct bh_packs_options options = {.part_size = PACK_TARGET, .level = 0};
    options.parallel = parallel < 1              ? 1
                       : parallel < PARALLEL_MAX ? (unsigned)parallel
                                                 : PARALLEL_MAX;
    return bh_packs_new(&v->packs, v->ahead, v->prefix, &options, err);
}

/* Without the format object the rest is looked at all the same. *none: there is no history. */
static int settle_format(struct verify *v, bool *none, struct bh_error *err)
{
    struct bh_error why = {0};
    int rc = bh_format_settle(v->bucket, v->prefix, &v->block_size, false, v->call, &why);
    verify_meet(v, "format");
    *none = rc == ENOENT && !is_listed_below(v, "branches/") && !is_listed_below(v, "snapshots/") &&
            !is_listed_below(v, "packs/");
    if (rc == 0 || *none)
        return 0;
    if (!verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", why.text);
    rc = verify_note_name(v, "format", rc == ENOENT ? "it is missing" : why.text, err);
    if (!rc)
        rc = verify_guess_block_size(v, &v->block_size, err);
    if (rc || v->block_size)
        return rc;
    BH_LOCK_SCOPE(&v->h->mutex);
    v->block_size = v->h->block_size ? v->h->block_size : (uint32_t)v->h->cfg->snapshot.block_size;
    return 0;
}

/* --- the trees --- */

/* *mask: of what is damaged of it. */
static int check_root(struct verify *v, struct verify_snapshot *s, const struct bh_root *root,
                      uint64_t *mask, struct bh_error *err)
{
    char name[16 + BH_SNAPSHOT_ID_MAX];
    struct bh_error why = {0};
    int rc = verify_tree(v, root, false, mask, &why);
    s->mask |= *mask;
    if (rc != EDOM)
        return rc ? bh_fail(err, rc, "%s", why.text) : 0;
    s->damaged = true;
    snprintf(name, sizeof name, "snapshots/%s", s->e.id);
    return v->salvaging ? 0 : verify_note_name(v, name, why.text, err);
}

static bool is_checked(const struct verify_snapshot *s, bool salvage)
{
    return s->wanted && (s->source == FROM_SALVAGE) == salvage;
}

/* Of the snapshots from i on, as many as are read at once. Returns the first that is not. */
static size_t read_trees_ahead(struct verify *v, size_t i, bool salvage)
{
    const struct bh_root *roots[2 * TREES_AT_ONCE];
    size_t n = 0;
    verify_ahead_over(v);
    for (; i < v->snapshot_count && n < 2 * TREES_AT_ONCE; i++) {
        const struct verify_snapshot *s = &v->snapshots[i];
        if (!is_checked(s, salvage))
            continue;
        roots[n++] = &s->e.db;
        roots[n++] = &s->e.names;
    }
    verify_trees_ahead(v, roots, n, false);
    return i;
}

static int check_snapshots(struct verify *v, bool salvage, struct bh_error *err)
{
    int rc = 0;
    size_t ahead = 0;
    v->salvaging = salvage;
    for (size_t i = 0; i < v->snapshot_count && !rc; i++) {
        if (i == ahead)
            ahead = read_trees_ahead(v, i, salvage);
        struct verify_snapshot *s = &v->snapshots[i];
        if (!is_checked(s, salvage))
            continue;
        rc = check_root(v, s, &s->e.db, &s->db_mask, err);
        if (!rc)
            rc = check_root(v, s, &s->e.names, &s->names_mask, err);
    }
    v->salvaging = false;
    return rc;
}

/* --- a run --- */

static int run_history(struct verify *v, struct bh_error *err)
{
    int rc = bh_trees_new(&v->trees, v->packs, v->block_size, TREE_CACHE, err);
    if (!rc)
        rc = verify_heads(v, err);
    if (!rc)
        rc = verify_indexes(v, err);
    if (!rc)
        rc = verify_labels(v, err);
    if (!rc)
        rc = verify_plain(v, err);
    if (!rc)
        rc = verify_records(v, err);
    if (!rc)
        rc = verify_orphans(v, err);
    if (!rc)
        rc = check_snapshots(v, false, err);
    if (!rc)
        rc = check_snapshots(v, true, err);
    if (!rc && v->full)
        rc = verify_databases(v, err);
    return rc ? rc : verify_blobs(v, err);
}

static int run(struct verify *v, struct bh_error *err)
{
    const struct bh_list_request req = {.prefix = v->prefix};
    bool none = false;
    int rc = bh_bucket_list(v->bucket, &req, take_object, v, v->call, err);
    if (!rc)
        rc = verify_ahead_open(v, err);
    if (!rc)
        rc = open_packs(v, err);
    if (!rc)
        rc = settle_format(v, &none, err);
    if (rc)
        return rc;
    if (!none)
        return run_history(v, err);
    bh_strbuf_addf(&v->notes, "history: none\n");
    return verify_plain(v, err);
}

/* Whether a branch went on meanwhile: then what is missing may have been reclaimed by gc. */
static bool has_moved(struct verify *v)
{
    for (size_t i = 0; i < v->branch_count; i++) {
        const struct verify_branch *b = &v->branches[i];
        struct bh_head head;
        char etag[BH_ETAG_MAX];
        if (!b->readable)
            continue;
        int rc = bh_head_get(v->bucket, v->prefix, b->head.branch, &head, etag, v->call, NULL);
        if ((rc == 0 || rc == ENOENT) && strcmp(etag, b->etag) != 0)
            return true;
    }
    return false;
}

static void verify_free(struct verify *v)
{
    verify_walk_free(v);
    verify_packs_free(v);
    bh_trees_free(v->trees);
    bh_packs_free(v->packs);
    bh_bucket_close(v->ahead);
    for (size_t i = 0; i < v->object_count; i++)
        free(v->objects[i].name);
    for (size_t i = 0; i < v->damage_count; i++) {
        free(v->damages[i].key);
        free(v->damages[i].cause);
        bh_strbuf_free(&v->damages[i].histories);
    }
    free(v->objects);
    free(v->damages);
    free(v->branches);
    free(v->snapshots);
    verify_map_free(&v->snapshot_map);
    gc_set_free(&v->condemned.items);
    bh_strbuf_free(&v->notes);
}

static int conclude(const struct verify *v, int rc, const struct bh_error *why,
                    struct bh_error *err)
{
    if (rc)
        return bh_fail(err, rc, "verify could not be finished%s: %s",
                       v->damage_count ? " (it has found damage)" : "", why->text);
    if (!v->damage_count)
        return 0;
    const struct verify_damage *d = &v->damages[0];
    if (v->damage_count == 1)
        return bh_fail(err, EIO, "1 object is damaged: %s: %s", d->key, d->cause);
    return bh_fail(err, EIO, "%zu objects are damaged, the first is %s: %s", v->damage_count,
                   d->key, d->cause);
}

int bh_history_verify(struct bh_history *h, bool full, struct bh_strbuf *report,
                      const struct bh_call *call, struct bh_error *err)
{
    for (int i = 1;; i++) {
        struct verify v = {
            .h = h, .bucket = h->bucket, .prefix = h->prefix, .call = call, .full = full};
        struct bh_error why = {0};
        int rc = run(&v, &why);
        if (!rc && v.damage_count && i < RUNS && has_moved(&v)) {
            verify_free(&v);
            continue;
        }
        verify_report(&v, rc, &why, report);
        rc = conclude(&v, rc, &why, err);
        verify_free(&v);
        return !rc && report->failed ? bh_fail(err, ENOMEM, "out of memory while verifying") : rc;
    }
}
