/* names.db in the history: the second tree of every snapshot; and the file store, which says when
 * it may be frozen, and stands aside while it is replaced. */
#include <errno.h>
#include <string.h>

#include "repo/history_private.h"

#define TITLE BH_NAMES_NAME

/* --- the file store's part --- */

void bh_history_set_files(struct bh_history *h, const struct bh_files_hooks *hooks)
{
    h->files = hooks ? *hooks : (struct bh_files_hooks){0};
}

bool history_files_dirty(struct bh_history *h)
{
    return bh_store_is_dirty(h->live->names) ||
           (h->files.is_dirty && h->files.is_dirty(h->files.arg));
}

/* While the gate is closed, nothing changes that was not in names.db before. */
static bool is_held(const struct bh_history *h)
{
    return h->swapping;
}

int history_files_begin(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    return h->files.begin && !is_held(h) ? h->files.begin(h->files.arg, call, err) : 0;
}

void history_files_frozen(struct bh_history *h)
{
    if (h->files.frozen && !is_held(h))
        h->files.frozen(h->files.arg);
}

int history_gated(struct bh_history *h, bool flush, history_swap_fn *swap, void *arg,
                  const struct bh_call *call, struct bh_error *err)
{
    int rc = h->files.close_gate ? h->files.close_gate(h->files.arg, err) : 0;
    if (rc)
        return rc;
    if (flush && history_files_dirty(h))
        rc = h->flush(h->flush_arg, call, err);
    if (rc == 0 && flush && bh_store_is_dirty(h->live->names))
        rc = bh_fail(err, EBUSY, TITLE " was changed while it was to be replaced: try again");
    if (rc == 0) {
        h->swapping = true;
        rc = swap(h, arg, err);
        h->swapping = false;
    }
    if (h->files.open_gate)
        h->files.open_gate(h->files.arg, rc == 0);
    return rc;
}

/* --- the base --- */

int history_names_root(struct bh_history *h, struct bh_root *root, struct bh_error *err)
{
    const struct bh_state *st = &h->live->dir.state;
    *root = (struct bh_root){0};
    if (!st->names_root[0])
        return 0;
    root->depth = st->names_depth;
    root->size = st->names_size;
    return bh_ref_from_hex(&root->ref, st->names_root, "the state directory", err);
}

void history_set_names(struct bh_state *st, const struct bh_root *root)
{
    bh_ref_hex(&root->ref, st->names_root);
    st->names_depth = root->depth;
    st->names_size = root->size;
}

/* --- other content --- */

int history_names_base(struct bh_history *h, const struct bh_root *root, struct bh_names_base *out,
                       bool *differs, struct bh_error *err)
{
    struct bh_root now;
    *out = (struct bh_names_base){.size = root->size, .depth = root->depth};
    bh_ref_hex(&root->ref, out->root);
    int rc = history_names_root(h, &now, err);
    if (rc)
        return rc;
    *differs = !bh_root_is_same(&now, root) || bh_store_is_dirty(h->live->names) ||
               bh_file_size(bh_store_db(h->live->names)) != root->size;
    if (*differs && root->size > 0)
        out->origin = history_origin(h, root, TITLE);
    return *differs && root->size > 0 && !out->origin ? bh_fail(err, ENOMEM, "out of memory") : 0;
}

static int make_empty(struct bh_history *h, void *arg, struct bh_error *err)
{
    return bh_live_names_replace(h->live, arg, err);
}

int history_empty_names(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    struct bh_names_base none = {0};
    if (bh_file_size(bh_store_db(h->live->names)) == 0)
        return 0;
    return history_gated(h, false, make_empty, &none, call, err);
}

/* --- looking --- */

int bh_history_read_names(struct bh_history *h, const struct bh_index_entry *e, uint64_t offset,
                          void *buf, size_t len, size_t *got, const struct bh_call *call,
                          struct bh_error *err)
{
    return history_read(h, &e->names, e->id, offset, buf, len, got, call, err);
}
