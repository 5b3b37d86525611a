/* Reading ahead. What verify is about to read, one after the other, is read by several threads
 * first, by the very same calls: a layer over the bucket keeps the answers and gives each back
 * once, when it is asked for in earnest. What was not foreseen goes through to the bucket. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "repo/pack_private.h"
#include "repo/verify_private.h"
#include "util/array.h"
#include "util/cleanup.h"

#define THREADS_MAX 32u
#define BUCKETS     1024u
#define ANSWER_MAX  ((size_t)4 << 20) /* bytes of one that is kept: one request of pack_read.c */
#define NODES_MAX   1024u             /* of a batch: 8 MiB */
#define BLOCKS_MAX  512u
#define WHAT        "a pack"

struct answer {
    struct answer *next;
    char *key;
    bool is_head;
    uint64_t offset, length;
    int rc;
    struct bh_object_info info;
    char *text; /* of the error, or the bytes */
    size_t len;
};

struct ahead {
    struct bh_bucket base;
    struct bh_bucket *inner;
    unsigned threads;
    bool keeping; /* answers are kept, and stay */
    pthread_mutex_t mutex;
    struct answer *answers[BUCKETS];
};

/* --- answers --- */

static void answer_free(struct answer *a)
{
    if (!a)
        return;
    free(a->key);
    free(a->text);
    free(a);
}

static struct answer **place_of(struct ahead *x, const char *key, bool is_head, uint64_t offset,
                                uint64_t length)
{
    uint32_t hash = 2166136261u;
    for (const char *c = key; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    struct answer **at = &x->answers[hash % BUCKETS];
    while (*at && (strcmp((*at)->key, key) != 0 || (*at)->is_head != is_head ||
                   (*at)->offset != offset || (*at)->length != length))
        at = &(*at)->next;
    return at;
}

/* To be given back with give. */
static struct answer *take(struct ahead *x, const char *key, bool is_head, uint64_t offset,
                           uint64_t length)
{
    BH_LOCK_SCOPE(&x->mutex);
    struct answer **at = place_of(x, key, is_head, offset, length), *a = *at;
    if (a)
        *at = a->next;
    return a;
}

static void give(struct ahead *x, struct answer *a)
{
    if (!x->keeping) {
        answer_free(a);
        return;
    }
    BH_LOCK_SCOPE(&x->mutex);
    struct answer **at = place_of(x, a->key, a->is_head, a->offset, a->length);
    if (*at) { /* two asked for it */
        answer_free(a);
        return;
    }
    a->next = NULL;
    *at = a;
}

static int keep_bytes(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct answer *a = arg;
    char *more = a->len + len <= ANSWER_MAX ? realloc(a->text, a->len + len + 1) : NULL;
    if (!more)
        return bh_fail(err, ENOMEM, "it is too large to be kept");
    memcpy(more + a->len, data, len);
    a->text = more;
    a->len += len;
    return 0;
}

/* NULL: none that is to be kept, as it may be another next time. */
static struct answer *fetch(struct ahead *x, const char *key, bool is_head, uint64_t offset,
                            uint64_t length, const struct bh_call *call)
{
    struct answer *a = calloc(1, sizeof *a);
    struct bh_error why = {0};
    if (!a || !(a->key = strdup(key))) {
        answer_free(a);
        return NULL;
    }
    a->is_head = is_head;
    a->offset = offset;
    a->length = length;
    a->rc = is_head
                ? bh_bucket_head(x->inner, key, &a->info, call, &why)
                : bh_bucket_get(x->inner, key, offset, length, keep_bytes, a, &a->info, call, &why);
    if (a->rc) {
        free(a->text);
        a->text = strdup(why.text);
        a->len = 0;
    }
    if ((a->rc == 0 || a->rc == ENOENT || a->rc == EINVAL) && (a->rc == 0 || a->text))
        return a;
    answer_free(a);
    return NULL;
}

static struct answer *answer(struct ahead *x, const char *key, bool is_head, uint64_t offset,
                             uint64_t length, const struct bh_call *call)
{
    struct answer *a = take(x, key, is_head, offset, length);
    return a || !x->keeping ? a : fetch(x, key, is_head, offset, length, call);
}

/* --- the layer --- */

static int ahead_get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
                     bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                     const struct bh_call *call, struct bh_error *err)
{
    struct ahead *x = (struct ahead *)(void *)b;
    struct answer *a = answer(x, key, false, offset, length, call);
    if (!a)
        return bh_bucket_get(x->inner, key, offset, length, sink, arg, info, call, err);
    if (a->rc == 0 && info)
        *info = a->info;
    int rc = a->rc ? bh_fail(err, a->rc, "%s", a->text) : 0;
    if (rc == 0 && a->len)
        rc = sink(arg, a->text, a->len, err);
    give(x, a);
    return rc;
}

static int ahead_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                      const struct bh_call *call, struct bh_error *err)
{
    struct ahead *x = (struct ahead *)(void *)b;
    struct answer *a = answer(x, key, true, 0, 0, call);
    if (!a)
        return bh_bucket_head(x->inner, key, info, call, err);
    if (a->rc == 0 && info)
        *info = a->info;
    int rc = a->rc ? bh_fail(err, a->rc, "%s", a->text) : 0;
    give(x, a);
    return rc;
}

static unsigned ahead_caps(struct bh_bucket *b)
{
    return bh_bucket_caps(((struct ahead *)(void *)b)->inner);
}

static void forget(struct ahead *x)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct answer *a; (a = x->answers[i]) != NULL;) {
            x->answers[i] = a->next;
            answer_free(a);
        }
}

static void ahead_close(struct bh_bucket *b)
{
    struct ahead *x = (struct ahead *)(void *)b;
    forget(x);
    pthread_mutex_destroy(&x->mutex);
    free(x);
}

int verify_ahead_open(struct verify *v, struct bh_error *err)
{
    static const struct bh_bucket_ops ops = {.name = "ahead",
                                             .close = ahead_close,
                                             .caps = ahead_caps,
                                             .get = ahead_get,
                                             .head = ahead_head};
    uint64_t threads = v->h->cfg->bucket.connections;
    struct ahead *x = calloc(1, sizeof *x);
    if (!x)
        return bh_fail(err, ENOMEM, "out of memory while verifying");
    x->base.ops = &ops;
    x->inner = v->bucket;
    x->threads = threads < THREADS_MAX ? (unsigned)threads : THREADS_MAX;
    pthread_mutex_init(&x->mutex, NULL);
    v->ahead = &x->base;
    return 0;
}

/* --- threads --- */

struct team {
    struct verify *v;
    size_t count;
    verify_ahead_fn *fn;
    void *arg;
    atomic_size_t next;
};

static void *team_main(void *arg)
{
    struct team *t = arg;
    for (size_t i; (i = atomic_fetch_add(&t->next, 1)) < t->count;)
        if (bh_call_check(t->v->call, "verify", NULL) == 0)
            t->fn(t->v, t->arg, i);
    return NULL;
}

void verify_ahead(struct verify *v, size_t count, verify_ahead_fn *fn, void *arg)
{
    struct ahead *x = (struct ahead *)(void *)v->ahead;
    struct team t = {.v = v, .count = count, .fn = fn, .arg = arg};
    if (x->threads < 2 || count < 2) /* nothing is won */
        return;
    x->keeping = true;
    bh_packs_team(x->threads, count, team_main, &t);
    x->keeping = false;
}

void verify_ahead_over(struct verify *v)
{
    forget((struct ahead *)(void *)v->ahead);
}

/* --- trees --- */

/* References to what is of one level, in the order in which verify_tree visits them. */
struct group {
    struct bh_ref refs[BH_FANOUT];
    size_t count;
    unsigned level;
};

struct batch {
    struct group *groups; /* of one step down */
    size_t count, room;
    struct verify_map seen;  /* nodes of this batch */
    struct verify_map packs; /* whose trailers are read */
    uint64_t *pack_ids;
    size_t pack_count, pack_room;
    bool with_blocks;
    struct bh_ref *blocks;
    size_t block_count, block_room;
    struct bh_pack_want *wants; /* all nodes of the step, by group */
    size_t *first;              /* of a group in wants */
    uint8_t *content;
    size_t node_count;
};

static int note_pack(struct verify *v, struct batch *b, uint64_t id)
{
    if (verify_map_find(&v->pack_map, id, 0) || verify_map_find(&b->packs, id, 0))
        return 0;
    if (!bh_grow(b->pack_ids, b->pack_room, b->pack_count) || verify_map_set(&b->packs, id, 0, 0))
        return ENOMEM;
    b->pack_ids[b->pack_count++] = id;
    return 0;
}

/* What of these references verify_tree is going to look at. */
static int add_group(struct verify *v, struct batch *b, const struct bh_ref *refs, size_t count,
                     unsigned level)
{
    if (!bh_grow(b->groups, b->room, b->count))
        return ENOMEM;
    struct group *g = &b->groups[b->count];
    *g = (struct group){.level = level};
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        const struct bh_ref *r = &refs[i];
        if (bh_ref_is_zero(r) || (level && (verify_map_find(&v->nodes, r->pack, r->offset) ||
                                            verify_map_find(&b->seen, r->pack, r->offset))))
            continue;
        rc = note_pack(v, b, r->pack);
        if (level == 0 && b->with_blocks && b->block_count < BLOCKS_MAX) {
            if (!bh_grow(b->blocks, b->block_room, b->block_count))
                return ENOMEM;
            b->blocks[b->block_count++] = *r;
        }
        if (level == 0 || b->node_count == NODES_MAX)
            continue;
        if (rc == 0)
            rc = verify_map_set(&b->seen, r->pack, r->offset, 0);
        g->refs[g->count++] = *r;
        b->node_count++;
    }
    b->count += g->count > 0;
    return rc;
}

static void read_trailer(struct verify *v, void *arg, size_t i)
{
    const struct batch *b = arg;
    BH_FREE struct bh_pack_entry *entries = NULL;
    size_t count;
    struct bh_error why;
    (void)bh_packs_trailer(v->packs, b->pack_ids[i], &entries, &count, NULL, v->call, &why);
}

static void read_block(struct verify *v, void *arg, size_t i)
{
    const struct batch *b = arg;
    struct bh_error why;
    BH_FREE uint8_t *content = malloc(v->block_size);
    if (content)
        (void)bh_packs_read(v->packs, &b->blocks[i], v->block_size, content, WHAT, v->call, &why);
}

static void read_group(struct verify *v, void *arg, size_t i)
{
    struct batch *b = arg;
    struct bh_error why;
    uint8_t *content = b->content + b->first[i] * BH_NODE_SIZE;
    size_t count = b->groups[i].count;
    if (bh_packs_read_many(v->packs, b->wants + b->first[i], count, WHAT, v->call, &why) != 0)
        memset(content, 0, count * BH_NODE_SIZE); /* nothing is known of what is below */
}

/* The nodes that were read become the groups of the level below. Reading sorts what it wants, so
 * each node is where its reference's number says. */
static int descend(struct verify *v, struct batch *b, struct group *from, size_t count)
{
    struct bh_ref refs[BH_FANOUT];
    size_t n = 0;
    int rc = 0;
    b->groups = NULL;
    b->count = b->room = b->node_count = 0;
    for (size_t i = 0; i < count && rc == 0; i++)
        for (size_t k = 0; k < from[i].count && rc == 0; k++, n++) {
            const uint8_t *at = b->content + n * BH_NODE_SIZE;
            struct bh_error why;
            bool whole = true;
            for (unsigned s = 0; s < BH_FANOUT && whole; s++)
                whole = bh_ref_decode(&refs[s], at + s * BH_REF_SIZE, WHAT, &why) == 0;
            if (whole)
                rc = add_group(v, b, refs, BH_FANOUT, from[i].level - 1);
        }
    return rc;
}

static int read_level(struct verify *v, struct batch *b)
{
    struct group *groups = b->groups;
    const size_t count = b->count;
    size_t n = 0;
    b->wants = calloc(b->node_count + 1, sizeof *b->wants);
    b->first = calloc(count + 1, sizeof *b->first);
    b->content = calloc(b->node_count + 1, BH_NODE_SIZE);
    int rc = b->wants && b->first && b->content ? 0 : ENOMEM;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        b->first[i] = n;
        for (size_t k = 0; k < groups[i].count; k++, n++)
            b->wants[n] = (struct bh_pack_want){.ref = groups[i].refs[k],
                                                .raw = BH_NODE_SIZE,
                                                .buf = b->content + n * BH_NODE_SIZE};
    }
    if (rc == 0) {
        verify_ahead(v, b->pack_count, read_trailer, b);
        verify_ahead(v, count, read_group, b);
        verify_ahead(v, b->block_count, read_block, b);
        b->pack_count = b->block_count = 0;
        rc = descend(v, b, groups, count);
        free(groups);
    }
    free(b->wants);
    free(b->first);
    free(b->content);
    return rc;
}

void verify_trees_ahead(struct verify *v, const struct bh_root *const *roots, size_t count,
                        bool blocks)
{
    struct batch b = {.with_blocks = blocks};
    int rc = 0;
    if (((struct ahead *)(void *)v->ahead)->threads < 2)
        return;
    for (size_t i = 0; i < count && rc == 0; i++)
        if (roots[i]->depth <= BH_DEPTH_MAX)
            rc = add_group(v, &b, &roots[i]->ref, 1, roots[i]->depth);
    while (rc == 0 && (b.count || b.pack_count))
        rc = read_level(v, &b);
    free(b.groups);
    free(b.pack_ids);
    free(b.blocks);
    verify_map_free(&b.seen);
    verify_map_free(&b.packs);
}
