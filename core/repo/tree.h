/* A file's content as a copy-on-write tree of blocks in packs. Nodes are BH_FANOUT references; a
 * snapshot is a root; two roots share what they have in common. */
#ifndef BH_REPO_TREE_H
#define BH_REPO_TREE_H

#include "repo/pack.h"

/* Reads trees, with a cache of nodes that all roots share (by where they are; immutable). Any
 * thread, several at once; one load of a node at a time, others wait for it. What is cached is not
 * read again: whoever wants to know what the bucket really has uses a bh_trees of his own.
 *
 * A root is canonical: its depth is bh_depth_for(size), nothing beyond the size is referred to, and
 * the last block is padded with zeros. Every function refuses another depth with EIO. */
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
/* The tree with these blocks changed (ascending, none twice: EINVAL) and a new size: changed nodes
 * from the leaves up go to the writer, and into the cache. Changes and content beyond the new size
 * are dropped; a last block that the new size cuts, and that is not among the changes, gets zeros
 * beyond it. A reference stays as it was where the content is the same; without a change of content
 * *out is *old with the new size (and in another depth, if that belongs to it). EFBIG.
 *
 * The blocks of *old are in the bucket; its nodes are there, or in the cache: two updates with one
 * writer can follow each other unless the cache is too small for the nodes that they share. */
int bh_tree_update(struct bh_trees *t, const struct bh_root *old, uint64_t size,
                   const struct bh_tree_change *changes, size_t count, struct bh_pack_writer *w,
                   struct bh_root *out, const char *what, const struct bh_call *call,
                   struct bh_error *err);

/* Calls fn for every node and block that is reachable from root and not shared with `known` (NULL:
 * nothing is known; sub-trees with equal references are skipped). level 0: block. Parents before
 * children, blocks in ascending order. number: of the block, or of the first block below the node.
 * A node that cannot be read, for whatever reason, is told to fn with its error, its children are
 * skipped; fn's non-zero result ends the walk, as do the limits of call and ENOMEM. What cannot be
 * read of `known` is not known. */
typedef int bh_tree_visit_fn(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                             const struct bh_error *damage);
int bh_tree_walk(struct bh_trees *t, const struct bh_root *root, const struct bh_root *known,
                 bh_tree_visit_fn *fn, void *arg, const struct bh_call *call, struct bh_error *err);

#endif
