/* Moved records: PREFIX"moved/ID" says where the records of pack ID went that were still needed
 * when gc rewrote it. References to the pack stay as they are, in nodes that never change; whoever
 * finds the pack missing looks here. Immutable; there for as long as anything retained refers to
 * the pack. */
#ifndef BH_REPO_MOVED_H
#define BH_REPO_MOVED_H

#include "repo/pack.h"

/* Of one record; its bytes, so its length, encoding and hash, are the same in both places. */
struct bh_moved_entry {
    uint32_t from; /* offset in the old pack */
    uint32_t offset;
    uint64_t pack; /* which may have been moved in turn */
};

/* Longer ways than this are damage: gc makes none. */
#define BH_MOVES_MAX 64u

#define BH_MOVED_HEADER_SIZE 16u
#define BH_MOVED_ENTRY_SIZE  16u
#define BH_MOVED_FOOTER_SIZE BH_HASH_SIZE
#define BH_MOVED_SIZE_MAX    ((size_t)24 << 20) /* of as many records as a pack can have */

/* entries: ascending by from, none twice. ENOMEM, EINVAL. */
int bh_moved_encode(struct bh_strbuf *out, uint64_t id, const struct bh_moved_entry *entries,
                    size_t count);
/* in: what anybody may have written. *entries is the caller's to free. EIO, ENOMEM. */
int bh_moved_decode(const void *in, size_t len, uint64_t id, struct bh_moved_entry **entries,
                    size_t *count, struct bh_error *err);
/* NULL: the record was not needed any more. */
const struct bh_moved_entry *bh_moved_find(const struct bh_moved_entry *entries, size_t count,
                                           uint32_t from);

/* Of a pack, as it is in the bucket. ENOENT: it was not moved. EIO: damaged. */
int bh_packs_moved(struct bh_packs *p, uint64_t id, struct bh_moved_entry **entries, size_t *count,
                   const struct bh_call *call, struct bh_error *err);
/* Writes it. EEXIST: there is one. (A store without conditional writes replaces it.) */
int bh_packs_put_moved(struct bh_packs *p, uint64_t id, const struct bh_moved_entry *entries,
                       size_t count, const struct bh_call *call, struct bh_error *err);

#endif
