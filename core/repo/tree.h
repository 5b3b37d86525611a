/* A file's content as a copy-on-write tree of blocks in packs. Nodes are BH_FANOUT references; a
 * snapshot is a root; two roots share what they have in common. */
#ifndef BH_REPO_TREE_H
#define BH_REPO_TREE_H

#include "repo/pack.h"

/* Reads trees, with a cache of nodes that all roots share (by where they are; immutable). Any
 * thread, several at once; one load of a node at a time, others wait for it. */
struct bh_trees;

/* packs must outlive it. block_size: of this bucket. cache_bytes: bound of the node cache. */
int bh_trees_new(struct bh_trees **out, struct bh_packs *packs, uint32_t block_size,
                 size_t cache_bytes, struct bh_error *err);
void bh_trees_free(struct bh_trees *t);
uint32_t bh_trees_block_size(const struct bh_trees *t);
struct bh_packs *bh_trees_packs(const struct bh_trees *t);

/* The references of blocks first to first + count - 1 (zero beyond the end). Reads the nodes that
 * are not cached, together where they lie together. */
int bh_tree_refs(struct bh_trees *t, const struct bh_root *root, uint64_t first, size_t count,
                 struct bh_ref *refs, const char *what, const struct bh_call *call,
                 struct bh_error *err);

/* Bytes of the file; zeros beyond its end. offset and len: any. what: names it in sentences. */
int bh_tree_read(struct bh_trees *t, const struct bh_root *root, uint64_t offset, void *buf,
                 size_t len, const char *what, const struct bh_call *call, struct bh_error *err);

struct bh_tree_change {
    uint64_t block;
    struct bh_ref ref; /* zero: zeros */
};
/* The tree with these blocks changed (ascending, none twice) and a new size: changed nodes from the
 * leaves up go to the writer. What lies beyond the new size is dropped, the depth becomes
 * bh_depth_for. Without a change of content *out is *old with the new size. */
int bh_tree_update(struct bh_trees *t, const struct bh_root *old, uint64_t size,
                   const struct bh_tree_change *changes, size_t count, struct bh_pack_writer *w,
                   struct bh_root *out, const char *what, const struct bh_call *call,
                   struct bh_error *err);

/* Calls fn for every node and block that is reachable from root and not shared with `known` (NULL:
 * nothing is known; sub-trees with equal references are skipped). level 0: block. Parents before
 * children. A node that cannot be read is told to fn with its error, its children are skipped; fn's
 * non-zero result ends the walk. */
typedef int bh_tree_visit_fn(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                             const struct bh_error *damage);
int bh_tree_walk(struct bh_trees *t, const struct bh_root *root, const struct bh_root *known,
                 bh_tree_visit_fn *fn, void *arg, const struct bh_call *call, struct bh_error *err);

#endif
