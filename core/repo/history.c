#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repo/history_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/random.h"

/* Bounds of memory: nodes in the cache; packs under way are bucket.connections of this size. */
#define NODE_CACHE   (4u << 20)
#define PACK_TARGET  (4u << 20)
#define PARALLEL_MAX 4u
#define ZSTD_LEVEL   1

int bh_history_new(struct bh_history **out, const struct bh_config *cfg, struct bh_bucket *bucket,
                   struct bh_plain *plain, bool read_only, struct bh_error *err)
{
    struct bh_history *h = calloc(1, sizeof *h);
    if (!h)
        return bh_fail(err, ENOMEM, "out of memory");
    h->cfg = cfg;
    h->bucket = bucket;
    h->plain = plain;
    h->read_only = read_only;
    pthread_mutex_init(&h->mutex, NULL);
    if (asprintf(&h->prefix, "%s%s.bhfs/", cfg->bucket.prefix, cfg->snapshot.key) < 0) {
        h->prefix = NULL;
        bh_history_free(h);
        return bh_fail(err, ENOMEM, "out of memory");
    }
    *out = h;
    return 0;
}

void bh_history_free(struct bh_history *h)
{
    if (!h)
        return;
    history_forget_step(h);
    bh_trees_free(h->trees);
    bh_packs_free(h->packs);
    free(h->prefix);
    pthread_mutex_destroy(&h->mutex);
    free(h);
}

void bh_history_set_live(struct bh_history *h, struct bh_live *live)
{
    h->live = live;
}

void bh_history_stop_reads(struct bh_history *h, bool stop)
{
    atomic_store(&h->stopping, stop);
}

/* --- opening --- */

static int open_with(struct bh_history *h, uint32_t block_size, struct bh_error *err)
{
    struct bh_packs_options options = {.part_size = PACK_TARGET, .level = ZSTD_LEVEL};
    uint64_t parallel = h->cfg->bucket.connections;
    options.parallel = parallel < PARALLEL_MAX ? (unsigned)parallel : PARALLEL_MAX;
    struct bh_packs *packs = NULL;
    struct bh_trees *trees = NULL;
    int rc = bh_packs_new(&packs, h->bucket, h->prefix, &options, err);
    if (rc == 0 && (rc = bh_trees_new(&trees, packs, block_size, NODE_CACHE, err)) != 0)
        bh_packs_free(packs);
    if (rc)
        return rc;
    BH_LOCK_SCOPE(&h->mutex);
    h->packs = packs;
    h->trees = trees;
    h->block_size = block_size;
    return 0;
}

int history_open(struct bh_history *h, bool may_make, const struct bh_call *call,
                 struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    uint32_t block_size = (uint32_t)h->cfg->snapshot.block_size;
    if (h->settled)
        return 0;
    int rc =
        bh_format_settle(h->bucket, h->prefix, &block_size, may_make && !h->read_only, call, err);
    if (rc)
        return rc;
    if (st->block_size && st->block_size != block_size)
        return bh_fail(err, ESTALE,
                       "%sformat says blocks of %" PRIu32 " bytes, and %s knows a history with "
                       "blocks of %" PRIu32 ": it is of another bucket; use another live.dir",
                       h->prefix, block_size, h->live->dir.path, st->block_size);
    st->block_size = block_size;
    rc = h->trees ? 0 : open_with(h, block_size, err);
    h->settled = rc == 0;
    return rc;
}

int history_open_offline(struct bh_history *h, struct bh_error *err)
{
    uint32_t block_size = h->live->dir.state.block_size;
    return h->trees || !block_size ? 0 : open_with(h, block_size, err);
}

int history_now(struct bh_history *h, int64_t *server_ms, const struct bh_call *call,
                struct bh_error *err)
{
    if (!h->have_clock) {
        int64_t now;
        int rc = bh_bucket_server_time(h->bucket, &now, call, err);
        if (rc)
            return rc;
        BH_LOCK_SCOPE(&h->mutex);
        h->clock_offset_ms = now - bh_boot_ms();
        h->have_clock = true;
    }
    *server_ms = bh_boot_ms() + h->clock_offset_ms;
    return 0;
}

void history_new_id(struct bh_history *h, int64_t after_ms, char id[BH_SNAPSHOT_ID_MAX],
                    int64_t *time_ms)
{
    int64_t now = bh_real_ms();
    now = now <= after_ms ? after_ms + 1 : now;
    now = now <= h->last_id_ms ? h->last_id_ms + 1 : now;
    h->last_id_ms = *time_ms = now;
    plain_format_id(now, id);
}

void history_host(char host[BH_HOST_MAX])
{
    char name[BH_HOST_MAX] = "unknown";
    (void)!gethostname(name, sizeof name - 1);
    memcpy(host, name, sizeof name);
}

const char *history_writer(struct bh_history *h)
{
    struct bh_state *st = &h->live->dir.state;
    if (!st->writer[0]) {
        unsigned char random[16];
        bh_random_bytes(random, sizeof random);
        for (size_t i = 0; i < sizeof random; i++)
            snprintf(st->writer + 2 * i, 3, "%02x", random[i]);
    }
    return st->writer;
}

/* --- the origin of absent content --- */

struct origin {
    struct bh_origin base;
    struct bh_history *history;
    struct bh_root root;
    const char *what;
};

static int origin_read(struct bh_origin *o, uint64_t offset, void *buf, size_t len,
                       struct bh_error *err)
{
    struct origin *mine = (struct origin *)(void *)o;
    struct bh_call call = {.stop = &mine->history->stopping};
    return bh_tree_read(mine->history->trees, &mine->root, offset, buf, len, mine->what, &call,
                        err);
}

static void origin_free(struct bh_origin *o)
{
    free(o);
}

struct bh_origin *history_origin(struct bh_history *h, const struct bh_root *root, const char *what)
{
    struct origin *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    atomic_init(&o->base.refs, 1);
    o->base.unit = h->block_size;
    o->base.read = origin_read;
    o->base.free = origin_free;
    o->history = h;
    o->root = *root;
    o->what = what;
    return &o->base;
}

int history_set_origin(struct bh_history *h, struct bh_store *s, const struct bh_root *root,
                       const char *what, struct bh_error *err)
{
    struct bh_origin *o = history_origin(h, root, what);
    if (!o)
        return bh_fail(err, ENOMEM, "out of memory");
    bh_store_set_origin(s, o);
    bh_origin_unref(o);
    return 0;
}

/* --- the base --- */

int history_base_root(struct bh_history *h, struct bh_root *root, struct bh_error *err)
{
    const struct bh_state *st = &h->live->dir.state;
    *root = (struct bh_root){0};
    if (!st->base_root[0])
        return 0;
    root->depth = st->base_depth;
    root->size = st->base_size;
    return bh_ref_from_hex(&root->ref, st->base_root, "the state directory", err);
}

int history_walk_differences(struct bh_history *h, const struct bh_root *a, const struct bh_root *b,
                             bh_tree_visit_fn *visit, void *arg, const struct bh_call *call,
                             struct bh_error *err)
{
    int rc = bh_tree_walk(h->trees, b, a, visit, arg, call, err);
    return rc ? rc : bh_tree_walk(h->trees, a, b, visit, arg, call, err);
}

void history_set_base(struct bh_state *st, const struct bh_index_entry *e)
{
    memcpy(st->base_snapshot, e->id, sizeof st->base_snapshot);
    bh_ref_hex(&e->db.ref, st->base_root);
    st->base_depth = e->db.depth;
    st->base_size = e->db.size;
    st->base_time_ms = e->time_ms;
    st->base_sha256[0] = st->restored[0] = '\0';
    history_set_names(st, &e->names);
}

void history_no_pending(struct bh_state *st)
{
    st->pending_snapshot[0] = st->pending_sha256[0] = st->older_pending[0] = '\0';
}

/* --- flushes --- */

void bh_history_set_flush(struct bh_history *h, bh_history_flush_fn *fn, void *arg)
{
    h->flush = fn;
    h->flush_arg = arg;
}

bool bh_history_is_dirty(struct bh_history *h)
{
    return bh_store_is_dirty(h->live->store) || h->live->dir.state.restored[0] ||
           history_files_dirty(h);
}

void bh_history_status(struct bh_history *h, struct bh_history_status *out)
{
    *out = (struct bh_history_status){0};
    out->absent_bytes = h->live ? bh_store_absent_bytes(h->live->store) : 0;
    const char *writer = h->live ? h->live->dir.state.writer : "";
    BH_LOCK_SCOPE(&h->mutex);
    out->ready = h->have_head;
    memcpy(out->branch, h->head.branch, sizeof out->branch);
    memcpy(out->snapshot, h->head.newest.id, sizeof out->snapshot);
    out->snapshots = bh_index_count(&h->head.index);
    out->fenced = h->fenced;
    out->advisory = h->advisory;
    out->have_lease = h->have_head && !h->fenced && !h->read_only && h->head.lease.writer[0] &&
                      !strcmp(h->head.lease.writer, writer);
    out->lease_left_ms = h->head.lease.expires_ms - (bh_boot_ms() + h->clock_offset_ms);
    memcpy(out->plain_error, h->plain_error, sizeof out->plain_error);
    out->block_size = h->block_size;
}
