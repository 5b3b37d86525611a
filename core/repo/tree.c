#include "repo/tree_private.h"

#include <errno.h>
#include <string.h>

#include "util/cleanup.h"

/* Blocks of one step: below one node of level 2, so that no level of a step has more than BH_FANOUT
 * nodes. */
#define REFS_STEP  ((uint64_t)BH_FANOUT * BH_FANOUT)
#define READ_STEP  1024u
#define BLOCKS_MAX ((uint64_t)1 << (SLOT_BITS * BH_DEPTH_MAX))

int bh_trees_new(struct bh_trees **out, struct bh_packs *packs, uint32_t block_size,
                 size_t cache_bytes, struct bh_error *err)
{
    if (block_size < BH_BLOCK_MIN || block_size > BH_BLOCK_MAX || (block_size & (block_size - 1)))
        return bh_fail(err, EINVAL, "%u is no block size: it is a power of two from %u to %u",
                       block_size, BH_BLOCK_MIN, BH_BLOCK_MAX);
    struct bh_trees *t = calloc(1, sizeof *t);
    if (!t)
        return bh_fail(err, ENOMEM, "out of memory");
    t->packs = packs;
    t->block_size = block_size;
    int rc = tree_cache_new(&t->cache, packs, block_size, cache_bytes, err);
    if (rc)
        free(t);
    else
        *out = t;
    return rc;
}

void bh_trees_free(struct bh_trees *t)
{
    if (!t)
        return;
    tree_cache_free(t->cache);
    free(t);
}

uint32_t bh_trees_block_size(const struct bh_trees *t)
{
    return t->block_size;
}

struct bh_packs *bh_trees_packs(const struct bh_trees *t)
{
    return t->packs;
}

uint64_t tree_blocks(const struct bh_trees *t, uint64_t size)
{
    return size / t->block_size + (size % t->block_size != 0);
}

uint64_t tree_size_max(const struct bh_trees *t)
{
    return t->block_size > INT64_MAX / BLOCKS_MAX ? INT64_MAX : BLOCKS_MAX * t->block_size;
}

int tree_check_root(const struct bh_trees *t, const struct bh_root *root, const char *what,
                    struct bh_error *err)
{
    if (root->size > tree_size_max(t) || root->depth > BH_DEPTH_MAX ||
        root->depth != bh_depth_for(root->size, t->block_size))
        return bh_fail(err, EIO, "the root of %s is damaged: no tree for %llu bytes has depth %u",
                       what, (unsigned long long)root->size, root->depth);
    if (root->size == 0 && !bh_ref_is_zero(&root->ref))
        return bh_fail(err, EIO, "the root of %s is damaged: it has content but no size", what);
    return 0;
}

int tree_lower(struct bh_trees *t, struct bh_ref *ref, unsigned down, const char *what,
               const struct bh_call *call, struct bh_error *err)
{
    while (down-- > 0 && !bh_ref_is_zero(ref)) {
        struct tree_item *node;
        int rc = tree_cache_get(t->cache, ref, 1, TREE_NODE, &node, what, call, err);
        if (rc)
            return rc;
        tree_item_ref(node, 0, ref);
        tree_cache_put(t->cache, &node, 1);
    }
    return 0;
}

/* The references of blocks first to last, all below one node of level 2; level by level. */
static int refs_step(struct bh_trees *t, const struct bh_root *root, uint64_t first, uint64_t last,
                     struct bh_ref *refs, const char *what, const struct bh_call *call,
                     struct bh_error *err)
{
    struct bh_ref upper[BH_FANOUT]; /* of the nodes of a level that are on the way */
    struct tree_item *nodes[BH_FANOUT];
    struct bh_ref *lower = refs;
    upper[0] = root->ref;
    if (root->depth == 0)
        refs[0] = root->ref;
    for (unsigned level = root->depth; level > 0; level--) {
        uint64_t from = first >> (SLOT_BITS * level), to = last >> (SLOT_BITS * level);
        size_t count = (size_t)(to - from) + 1;
        int rc = tree_cache_get(t->cache, upper, count, TREE_NODE, nodes, what, call, err);
        if (rc)
            return rc;
        uint64_t child = first >> (SLOT_BITS * (level - 1));
        uint64_t end = last >> (SLOT_BITS * (level - 1));
        lower = level == 1 ? refs : upper;
        for (; child <= end; child++)
            tree_item_ref(nodes[(child >> SLOT_BITS) - from], child & SLOT_MASK, lower++);
        tree_cache_put(t->cache, nodes, count);
    }
    return 0;
}

int bh_tree_refs(struct bh_trees *t, const struct bh_root *root, uint64_t first, size_t count,
                 struct bh_ref *refs, const char *what, const struct bh_call *call,
                 struct bh_error *err)
{
    int rc = tree_check_root(t, root, what, err);
    uint64_t blocks = tree_blocks(t, root->size);
    while (!rc && count > 0) {
        bool none = first >= blocks || bh_ref_is_zero(&root->ref);
        uint64_t n = REFS_STEP - first % REFS_STEP;
        if (!none && n > blocks - first)
            n = blocks - first;
        if (none || n > count)
            n = count;
        if (none)
            memset(refs, 0, count * sizeof *refs);
        else
            rc = refs_step(t, root, first, first + n - 1, refs, what, call, err);
        first += n;
        refs += n;
        count -= (size_t)n;
    }
    return rc;
}

/* One step of a read: where the parts of blocks go. Only the first and the last can be parts. */
struct edge {
    uint8_t *to;
    const uint8_t *from;
    size_t len;
};

static int read_step(struct bh_trees *t, const struct bh_root *root, uint64_t offset, uint8_t *buf,
                     size_t len, const char *what, const struct bh_call *call, struct bh_error *err)
{
    const uint64_t bs = t->block_size, first = offset / bs;
    const size_t count = (size_t)((offset + len - 1) / bs - first) + 1;
    struct edge edges[2];
    size_t wanted = 0, parts = 0;
    BH_FREE struct bh_ref *refs = malloc(count * sizeof *refs);
    BH_FREE struct bh_pack_want *wants = malloc(count * sizeof *wants);
    BH_FREE uint8_t *whole = NULL;
    if (offset % bs || (offset + len) % bs)
        whole = malloc(2 * bs);
    if (!refs || !wants || (!whole && (offset % bs || (offset + len) % bs)))
        return bh_fail(err, ENOMEM, "out of memory reading %s", what);
    int rc = bh_tree_refs(t, root, first, count, refs, what, call, err);
    for (size_t i = 0; i < count && !rc; i++) {
        uint64_t start = (first + i) * bs;
        uint64_t from = offset > start ? offset - start : 0;
        uint64_t to = offset + len < start + bs ? offset + len - start : bs;
        uint8_t *at = buf + (start + from - offset);
        void *into = at;
        if (bh_ref_is_zero(&refs[i])) {
            memset(at, 0, to - from);
            continue;
        }
        if (to - from < bs) {
            into = whole + parts * bs;
            edges[parts] = (struct edge){at, whole + parts * bs + from, to - from};
            parts++;
        }
        wants[wanted++] = (struct bh_pack_want){.ref = refs[i], .raw = bs, .buf = into};
    }
    if (!rc && wanted)
        rc = bh_packs_read_many(t->packs, wants, wanted, what, call, err);
    for (size_t i = 0; i < parts && !rc; i++)
        memcpy(edges[i].to, edges[i].from, edges[i].len);
    return rc;
}

int bh_tree_read(struct bh_trees *t, const struct bh_root *root, uint64_t offset, void *buf,
                 size_t len, const char *what, const struct bh_call *call, struct bh_error *err)
{
    const uint64_t bs = t->block_size;
    uint8_t *at = buf;
    int rc = tree_check_root(t, root, what, err);
    if (rc)
        return rc;
    uint64_t there = offset < root->size ? root->size - offset : 0;
    if (there < len) {
        memset(at + there, 0, len - (size_t)there);
        len = (size_t)there;
    }
    while (len > 0 && !rc) {
        uint64_t n = READ_STEP * bs - offset % bs;
        if (n > len)
            n = len;
        rc = read_step(t, root, offset, at, (size_t)n, what, call, err);
        offset += n;
        at += n;
        len -= (size_t)n;
    }
    return rc;
}
