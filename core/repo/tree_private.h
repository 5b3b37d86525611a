/* What tree.c, tree_cache.c, tree_update.c, tree_walk.c and index.c share. */
#ifndef BH_REPO_TREE_PRIVATE_H
#define BH_REPO_TREE_PRIVATE_H

#include "repo/tree.h"

#define SLOT_BITS 8u /* BH_FANOUT is 2^8 */
#define SLOT_MASK (BH_FANOUT - 1)

struct tree_cache;

struct bh_trees {
    struct bh_packs *packs;
    uint32_t block_size;
    struct tree_cache *cache;
};

/* --- the cache --- */

/* A node is decoded strictly before anybody sees it; a block is any bytes. */
enum tree_content { TREE_NODE, TREE_BLOCK };

struct tree_item; /* content of one reference, in memory; immutable once handed out */

int tree_cache_new(struct tree_cache **out, struct bh_packs *packs, uint32_t block_size,
                   size_t bytes, struct bh_error *err);
void tree_cache_free(struct tree_cache *c);

/* items[i] becomes the content of refs[i], NULL for a zero reference. What is not cached is read
 * with one bh_packs_read_many; what another thread is reading is waited for. On success each item
 * stays where it is until tree_cache_put. */
int tree_cache_get(struct tree_cache *c, const struct bh_ref *refs, size_t count,
                   enum tree_content content, struct tree_item **items, const char *what,
                   const struct bh_call *call, struct bh_error *err);
/* Gives items back; NULLs among them are fine, each becomes NULL. */
void tree_cache_put(struct tree_cache *c, struct tree_item **items, size_t count);
/* Content that was just written. Without memory it is not kept, which costs a read later. */
void tree_cache_add(struct tree_cache *c, const struct bh_ref *ref, enum tree_content content,
                    const void *data);
const uint8_t *tree_item_data(const struct tree_item *item);
/* A reference of a node; zero if the node is NULL. */
void tree_item_ref(const struct tree_item *node, unsigned slot, struct bh_ref *ref);

/* --- trees --- */

/* EIO: not a root that bh_tree_update makes. */
int tree_check_root(const struct bh_trees *t, const struct bh_root *root, const char *what,
                    struct bh_error *err);
/* Blocks of a file: size / block size, rounded up. */
uint64_t tree_blocks(const struct bh_trees *t, uint64_t size);
uint64_t tree_size_max(const struct bh_trees *t); /* of a file */
/* The first block below a node and which of its parent's references it is, from a block's number
 * and the levels of the node (0: the block itself). */
static inline uint64_t tree_first(uint64_t block, unsigned level)
{
    return block >> (SLOT_BITS * level) << (SLOT_BITS * level);
}
static inline unsigned tree_slot(uint64_t block, unsigned level)
{
    return (unsigned)(block >> (SLOT_BITS * level)) & SLOT_MASK;
}
/* The root's reference as seen `down` levels below it, along first children. */
int tree_lower(struct bh_trees *t, struct bh_ref *ref, unsigned down, const char *what,
               const struct bh_call *call, struct bh_error *err);

#endif
