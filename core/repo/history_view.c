/* Looking at branches and snapshots without moving the live database. Any thread. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repo/history_private.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/clock.h"

int bh_history_head(struct bh_history *h, const char *branch, struct bh_head *out,
                    const struct bh_call *call, struct bh_error *err)
{
    char etag[BH_ETAG_MAX];
    pthread_mutex_lock(&h->mutex);
    bool ready = h->trees != NULL;
    bool current = h->have_head && (!branch || !strcmp(branch, h->head.branch));
    if (current)
        *out = h->head;
    pthread_mutex_unlock(&h->mutex);
    if (current)
        return 0;
    if (!ready || !branch || !bh_is_branch_name(branch))
        return bh_fail(err, ENOENT, "there is no history of branch %s in this bucket yet",
                       branch ? branch : h->cfg->snapshot.branch);
    int rc = bh_head_get(h->bucket, h->prefix, branch, out, etag, call, err);
    return rc == ENOENT ? bh_fail(err, ENOENT, "there is no branch %s", branch) : rc;
}

/* --- names --- */

struct names {
    char **items;
    size_t count, cap;
};

static int add_name(void *arg, const char *name, struct bh_error *err)
{
    struct names *n = arg;
    if (!bh_grow(n->items, n->cap, n->count))
        return bh_fail(err, ENOMEM, "out of memory while listing names");
    n->items[n->count] = strdup(name);
    return n->items[n->count] ? (n->count++, 0) : bh_fail(err, ENOMEM, "out of memory");
}

static void names_free(struct names *n)
{
    for (size_t i = 0; i < n->count; i++)
        free(n->items[i]);
    free(n->items);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted, each once, in one allocation. */
static int pack_names(struct names *n, char ***out, size_t *count, struct bh_error *err)
{
    size_t bytes = 0, kept = 0;
    if (n->count)
        qsort(n->items, n->count, sizeof *n->items, compare_names);
    for (size_t i = 0; i < n->count; i++)
        bytes += strlen(n->items[i]) + 1;
    char **all = malloc((n->count + 1) * sizeof *all + bytes);
    if (!all)
        return bh_fail(err, ENOMEM, "out of memory while listing names");
    char *at = (char *)(all + n->count + 1);
    for (size_t i = 0; i < n->count; i++) {
        if (i > 0 && !strcmp(n->items[i], n->items[i - 1]))
            continue;
        all[kept++] = at;
        at = stpcpy(at, n->items[i]) + 1;
    }
    all[kept] = NULL;
    *out = all;
    *count = kept;
    return 0;
}

struct branch_listing {
    struct bh_history *history;
    struct names *names;
    const struct bh_call *call;
    size_t skip; /* bytes before the name */
};

/* A tombstone is no branch. */
static int add_head(void *arg, const char *name, struct bh_error *err)
{
    struct branch_listing *l = arg;
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    int rc = bh_head_get(l->history->bucket, l->history->prefix, name, &head, etag, l->call, err);
    return rc == ENOENT ? 0 : rc ? rc : add_name(l->names, name, err);
}

static int add_plain(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                     struct bh_error *err)
{
    struct branch_listing *l = arg;
    const char *name = key + l->skip;
    return !is_prefix && bh_is_branch_name(name) ? add_name(l->names, name, err) : 0;
}

int bh_history_branches(struct bh_history *h, char ***names, size_t *count,
                        const struct bh_call *call, struct bh_error *err)
{
    struct names n = {0};
    BH_FREE char *prefix = NULL;
    struct branch_listing l = {.history = h, .names = &n, .call = call};
    if (asprintf(&prefix, "%s%s.branch.", h->cfg->bucket.prefix, h->cfg->snapshot.key) < 0) {
        prefix = NULL;
        return bh_fail(err, ENOMEM, "out of memory while listing branches");
    }
    l.skip = strlen(prefix);
    struct bh_list_request req = {.prefix = prefix};
    char current[BH_BRANCH_MAX];
    pthread_mutex_lock(&h->mutex);
    snprintf(current, sizeof current, "%s", h->head.branch[0] ? h->head.branch : "main");
    pthread_mutex_unlock(&h->mutex);
    int rc = add_name(&n, "main", err);
    if (rc == 0)
        rc = add_name(&n, current, err);
    if (rc == 0)
        rc = bh_heads_list(h->bucket, h->prefix, add_head, &l, call, err);
    if (rc == 0)
        rc = bh_bucket_list(h->bucket, &req, add_plain, &l, call, err);
    if (rc == 0)
        rc = pack_names(&n, names, count, err);
    names_free(&n);
    return rc;
}

int bh_history_labels(struct bh_history *h, char ***names, size_t *count,
                      const struct bh_call *call, struct bh_error *err)
{
    struct names n = {0};
    int rc = bh_labels_list(h->bucket, h->prefix, add_name, &n, call, err);
    if (rc == 0)
        rc = pack_names(&n, names, count, err);
    names_free(&n);
    return rc;
}

/* --- snapshots --- */

int bh_history_snapshots(struct bh_history *h, const struct bh_head *head,
                         struct bh_index_entry **entries, size_t *count, const struct bh_call *call,
                         struct bh_error *err)
{
    uint64_t all = bh_index_count(&head->index), kept = 0;
    struct bh_index_entry *e = calloc((size_t)all + 1, sizeof *e);
    int rc = e ? 0 : bh_fail(err, ENOMEM, "out of memory while listing snapshots");
    if (rc == 0 && all > 0)
        rc = bh_index_get(h->trees, &head->index, 0, (size_t)all, e, call, err);
    if (rc) {
        free(e);
        return rc;
    }
    for (uint64_t i = 0; i < all; i++)
        if (!(e[i].flags & BH_ENTRY_DROPPED))
            e[kept++] = e[i];
    *entries = e;
    *count = (size_t)kept;
    return 0;
}

int bh_history_read(struct bh_history *h, const struct bh_index_entry *e, uint64_t offset,
                    void *buf, size_t len, size_t *got, const struct bh_call *call,
                    struct bh_error *err)
{
    return history_read(h, &e->db, e->id, offset, buf, len, got, call, err);
}

int history_read(struct bh_history *h, const struct bh_root *root, const char *what,
                 uint64_t offset, void *buf, size_t len, size_t *got, const struct bh_call *call,
                 struct bh_error *err)
{
    *got = 0;
    if (offset >= root->size)
        return 0;
    if (len > root->size - offset)
        len = (size_t)(root->size - offset);
    int rc = bh_tree_read(h->trees, root, offset, buf, len, what, call, err);
    if (rc == 0)
        *got = len;
    return rc;
}

int bh_history_info_text(struct bh_history *h, const struct bh_index_entry *e,
                         struct bh_strbuf *out)
{
    char when[32], root[2 * BH_REF_SIZE + 1];
    bh_ref_hex(&e->db.ref, root);
    bh_strbuf_addf(out, "id: %s\nbranch: %s\ncreated: %s\nsize: %" PRIu64 "\n", e->id, e->branch,
                   bh_format_time(e->time_ms, when, sizeof when), e->db.size);
    bh_strbuf_addf(out, "pages: %" PRIu64 "\nroot: %s\nchanged blocks: %" PRIu64 "\n",
                   e->page_size ? e->db.size / e->page_size : 0, root, e->changed);
    bh_strbuf_addf(out, "block size: %" PRIu32 "\nuploaded: %" PRIu64 "\n", h->block_size,
                   e->uploaded);
    if (e->flags & BH_ENTRY_LOST)
        bh_strbuf_addf(out, "lineage: lost\n");
    return out->failed ? ENOMEM : 0;
}
