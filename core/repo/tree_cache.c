/* Nodes (and blocks of the history index) in memory, by their reference. Least recently used first
 * out; what somebody holds is on no list and stays. */
#include "repo/tree_private.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"

#define POLL_MS 100 /* how often a waiter looks at its call's limits */

enum state { LOADING, READY, FAILED };

struct tree_item {
    struct bh_ref ref;
    enum tree_content content;
    enum state state;
    unsigned users;                  /* those who hold it, its loader and those who wait included */
    struct tree_item *chain;         /* of its bucket; a FAILED one is in none */
    struct tree_item *newer, *older; /* while nobody holds it */
    uint8_t data[];
};

struct tree_cache {
    struct bh_packs *packs;
    uint32_t block_size;
    size_t limit;
    pthread_mutex_t mutex; /* guards what follows, and the items but for their data */
    pthread_cond_t loaded;
    size_t bytes; /* of all items, held ones included */
    struct tree_item *newest, *oldest;
    size_t mask;
    struct tree_item **table;
};

/* --- the table and the list; under the mutex --- */

static size_t raw_size(const struct tree_cache *c, enum tree_content content)
{
    return content == TREE_NODE ? BH_NODE_SIZE : c->block_size;
}

static size_t item_bytes(const struct tree_cache *c, enum tree_content content)
{
    return sizeof(struct tree_item) + raw_size(c, content);
}

static struct tree_item **bucket_of(struct tree_cache *c, const struct bh_ref *ref)
{
    uint64_t h = (ref->pack ^ ((uint64_t)ref->offset << 32 | ref->offset)) * 0x9e3779b97f4a7c15u;
    return &c->table[(h >> 32) & c->mask];
}

/* The whole reference counts: one with another hash is damaged, and reading tells. */
static bool is_of(const struct tree_item *item, const struct bh_ref *ref, enum tree_content content)
{
    return item->ref.pack == ref->pack && item->ref.offset == ref->offset &&
           item->ref.stored == ref->stored && item->ref.encoding == ref->encoding &&
           item->content == content && !memcmp(item->ref.hash, ref->hash, BH_HASH_SIZE);
}

static struct tree_item *find(struct tree_cache *c, const struct bh_ref *ref,
                              enum tree_content content)
{
    struct tree_item *item = *bucket_of(c, ref);
    while (item && !is_of(item, ref, content))
        item = item->chain;
    return item;
}

static struct tree_item *insert(struct tree_cache *c, const struct bh_ref *ref,
                                enum tree_content content, enum state state)
{
    struct tree_item *item = malloc(item_bytes(c, content));
    struct tree_item **bucket = bucket_of(c, ref);
    if (!item)
        return NULL;
    *item = (struct tree_item){.ref = *ref, .content = content, .state = state, .chain = *bucket};
    *bucket = item;
    c->bytes += item_bytes(c, content);
    return item;
}

static void unchain(struct tree_cache *c, struct tree_item *item)
{
    struct tree_item **at = bucket_of(c, &item->ref);
    while (*at != item)
        at = &(*at)->chain;
    *at = item->chain;
}

static void unlist(struct tree_cache *c, struct tree_item *item)
{
    *(item->newer ? &item->newer->older : &c->newest) = item->older;
    *(item->older ? &item->older->newer : &c->oldest) = item->newer;
    item->newer = item->older = NULL;
}

static void destroy(struct tree_cache *c, struct tree_item *item)
{
    c->bytes -= item_bytes(c, item->content);
    free(item);
}

/* Nobody holds it any more. */
static void list_newest(struct tree_cache *c, struct tree_item *item)
{
    item->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = item;
    c->newest = item;
    while (c->bytes > c->limit && c->oldest) {
        struct tree_item *old = c->oldest;
        unlist(c, old);
        unchain(c, old);
        destroy(c, old);
    }
}

static void hold(struct tree_cache *c, struct tree_item *item)
{
    if (item->users++ == 0)
        unlist(c, item);
}

static void let_go(struct tree_cache *c, struct tree_item *item)
{
    assert(item->users > 0);
    if (--item->users > 0)
        return;
    if (item->state == FAILED)
        destroy(c, item);
    else
        list_newest(c, item);
}

/* --- loading --- */

/* One tree_cache_get. */
struct get {
    struct tree_cache *c;
    const struct bh_ref *refs;
    size_t count;
    enum tree_content content;
    struct tree_item **items;
    const char *what;
    const struct bh_call *call;
    struct tree_item **mine; /* those that this thread loads */
    size_t loads;
};

static int claim(struct get *g, struct bh_error *err)
{
    struct tree_cache *c = g->c;
    BH_LOCK_SCOPE(&c->mutex);
    g->loads = 0;
    for (size_t i = 0; i < g->count; i++) {
        if (g->items[i] || bh_ref_is_zero(&g->refs[i]))
            continue;
        struct tree_item *item = find(c, &g->refs[i], g->content);
        if (item) {
            hold(c, item);
        } else {
            item = insert(c, &g->refs[i], g->content, LOADING);
            if (!item)
                return bh_fail(err, ENOMEM, "out of memory reading %s", g->what);
            item->users = 1;
            g->mine[g->loads++] = item;
        }
        g->items[i] = item;
    }
    return 0;
}

static int check_node(const struct tree_item *node, const char *what, struct bh_error *err)
{
    struct bh_ref ref;
    for (unsigned i = 0; i < BH_FANOUT; i++) {
        int rc = bh_ref_decode(&ref, node->data + i * BH_REF_SIZE, what, err);
        if (rc) {
            char name[BH_PACK_NAME_MAX];
            bh_pack_name(node->ref.pack, name);
            return bh_fail_prefix(err, rc, "reference %u of the node at %u in pack %s", i,
                                  node->ref.offset, name);
        }
    }
    return 0;
}

static int read_mine(struct get *g, struct bh_error *err)
{
    BH_FREE struct bh_pack_want *wants = calloc(g->loads, sizeof *wants);
    if (!wants)
        return bh_fail(err, ENOMEM, "out of memory reading %s", g->what);
    for (size_t i = 0; i < g->loads; i++)
        wants[i] = (struct bh_pack_want){
            .ref = g->mine[i]->ref, .raw = raw_size(g->c, g->content), .buf = g->mine[i]->data};
    int rc = bh_packs_read_many(g->c->packs, wants, g->loads, g->what, g->call, err);
    for (size_t i = 0; !rc && g->content == TREE_NODE && i < g->loads; i++)
        rc = check_node(g->mine[i], g->what, err);
    return rc;
}

/* Reads what claim left to this thread, and tells the others how it went. */
static int load(struct get *g, int rc, struct bh_error *err)
{
    struct tree_cache *c = g->c;
    if (!g->loads)
        return rc;
    if (!rc)
        rc = read_mine(g, err);
    BH_LOCK_SCOPE(&c->mutex);
    for (size_t i = 0; i < g->loads; i++) {
        g->mine[i]->state = rc ? FAILED : READY;
        if (rc)
            unchain(c, g->mine[i]);
    }
    pthread_cond_broadcast(&c->loaded);
    return rc;
}

/* Waits for what other threads load. *again: some of it failed there, perhaps for a reason of
 * theirs; those items are NULL. */
static int await(struct get *g, bool *again, struct bh_error *err)
{
    struct tree_cache *c = g->c;
    int rc = 0;
    *again = false;
    BH_LOCK_SCOPE(&c->mutex);
    for (size_t i = 0; i < g->count && !rc; i++) {
        while (g->items[i] && g->items[i]->state == LOADING && !rc) {
            struct timespec until = bh_mono_after_ms(POLL_MS);
            if (pthread_cond_clockwait(&c->loaded, &c->mutex, CLOCK_MONOTONIC, &until))
                rc = bh_call_check(g->call, g->what, err);
        }
        if (g->items[i] && g->items[i]->state == FAILED) {
            let_go(c, g->items[i]);
            g->items[i] = NULL;
            *again = true;
        }
    }
    return rc;
}

int tree_cache_get(struct tree_cache *c, const struct bh_ref *refs, size_t count,
                   enum tree_content content, struct tree_item **items, const char *what,
                   const struct bh_call *call, struct bh_error *err)
{
    struct get g = {c, refs, count, content, items, what, call, NULL, 0};
    if (count == 0)
        return 0;
    memset(items, 0, count * sizeof *items);
    BH_FREE struct tree_item **mine = g.mine = malloc(count * sizeof(*mine));
    if (!mine)
        return bh_fail(err, ENOMEM, "out of memory reading %s", what);
    int rc;
    bool again = true;
    do {
        rc = claim(&g, err);
        rc = load(&g, rc, err);
        if (!rc)
            rc = await(&g, &again, err);
    } while (!rc && again);
    if (rc)
        tree_cache_put(c, items, count);
    return rc;
}

void tree_cache_put(struct tree_cache *c, struct tree_item **items, size_t count)
{
    BH_LOCK_SCOPE(&c->mutex);
    for (size_t i = 0; i < count; i++) {
        if (items[i])
            let_go(c, items[i]);
        items[i] = NULL;
    }
}

void tree_cache_add(struct tree_cache *c, const struct bh_ref *ref, enum tree_content content,
                    const void *data)
{
    if (bh_ref_is_zero(ref))
        return;
    BH_LOCK_SCOPE(&c->mutex);
    if (find(c, ref, content))
        return;
    struct tree_item *item = insert(c, ref, content, READY);
    if (!item)
        return;
    memcpy(item->data, data, raw_size(c, content));
    list_newest(c, item);
}

const uint8_t *tree_item_data(const struct tree_item *item)
{
    return item->data;
}

void tree_item_ref(const struct tree_item *node, unsigned slot, struct bh_ref *ref)
{
    *ref = (struct bh_ref){0};
    if (node) /* cannot fail: check_node has seen it */
        (void)bh_ref_decode(ref, node->data + slot * BH_REF_SIZE, "", NULL);
}

/* --- life --- */

int tree_cache_new(struct tree_cache **out, struct bh_packs *packs, uint32_t block_size,
                   size_t bytes, struct bh_error *err)
{
    size_t buckets = 256;
    while (buckets < bytes / BH_NODE_SIZE && buckets < 65536)
        buckets *= 2;
    struct tree_cache *c = malloc(sizeof *c);
    struct tree_item **table = calloc(buckets, sizeof(*table));
    if (!c || !table) {
        free(c);
        free(table);
        return bh_fail(err, ENOMEM, "out of memory for the cache of nodes");
    }
    *c = (struct tree_cache){.packs = packs,
                             .block_size = block_size,
                             .limit = bytes,
                             .mask = buckets - 1,
                             .table = table};
    pthread_mutex_init(&c->mutex, NULL);
    pthread_cond_init(&c->loaded, NULL);
    *out = c;
    return 0;
}

void tree_cache_free(struct tree_cache *c)
{
    if (!c)
        return;
    while (c->newest) {
        struct tree_item *item = c->newest;
        unlist(c, item);
        destroy(c, item);
    }
    assert(c->bytes == 0); /* somebody holds an item */
    pthread_cond_destroy(&c->loaded);
    pthread_mutex_destroy(&c->mutex);
    free(c->table);
    free(c);
}
