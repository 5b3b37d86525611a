/* The history index of a branch: one entry a snapshot, oldest first, as an array of fixed-size
 * entries that is itself a copy-on-write tree in the packs. Appending costs the last block and its
 * path; a fork shares the index of the branch it came from. */
#ifndef BH_REPO_INDEX_H
#define BH_REPO_INDEX_H

#include "live/statedir.h" /* BH_SNAPSHOT_ID_MAX */
#include "repo/tree.h"

#define BH_INDEX_ENTRY_SIZE 256u

enum {
    BH_ENTRY_DROPPED = 1, /* by retention or rmdir: not listed, not a root of gc */
    BH_ENTRY_LOST = 2,    /* overwritten by another writer under an advisory lease */
};

struct bh_index_entry {
    char id[BH_SNAPSHOT_ID_MAX]; /* sorts by time */
    int64_t time_ms;
    uint32_t flags;
    uint32_t page_size; /* of the database; 0: empty */
    struct bh_root db, names;
    uint64_t uploaded; /* bytes that the flush put into the bucket */
    uint64_t changed;  /* blocks of the database that it stored */
    uint32_t blobs;    /* that it added */
    char branch[65];   /* that it was made on, cut at 64 bytes */
};

/* BH_INDEX_ENTRY_SIZE bytes each, with a checksum. Encoder: EINVAL (an id that is none, unknown
 * flags, a page size or root that cannot be), ENOMEM. Decoder: EIO. */
int bh_index_entry_encode(const struct bh_index_entry *e, uint8_t out[BH_INDEX_ENTRY_SIZE]);
int bh_index_entry_decode(struct bh_index_entry *e, const uint8_t in[BH_INDEX_ENTRY_SIZE],
                          struct bh_error *err);

uint64_t bh_index_count(const struct bh_root *index);
/* Entry number n (0: oldest), or count of them from n on. */
int bh_index_get(struct bh_trees *t, const struct bh_root *index, uint64_t n, size_t count,
                 struct bh_index_entry *out, const struct bh_call *call, struct bh_error *err);
/* By id, binary search: ENOENT. *n (may be NULL): its number. Dropped ones are found, too. */
int bh_index_find(struct bh_trees *t, const struct bh_root *index, const char *id,
                  struct bh_index_entry *out, uint64_t *n, const struct bh_call *call,
                  struct bh_error *err);
/* The newest that is not dropped and, by the time in its id, not younger than time_ms: ENOENT. */
int bh_index_at_time(struct bh_trees *t, const struct bh_root *index, int64_t time_ms,
                     struct bh_index_entry *out, const struct bh_call *call, struct bh_error *err);
/* The index with e appended. EINVAL: its id is not greater than the last one's. */
int bh_index_append(struct bh_trees *t, const struct bh_root *index, const struct bh_index_entry *e,
                    struct bh_pack_writer *w, struct bh_root *out, const struct bh_call *call,
                    struct bh_error *err);
/* Replaces entries, numbers ascending; a number that is the count appends, and one more may follow:
 * one call does all that one flush wants of an index. EINVAL: a replaced entry has another id, an
 * appended one none that is greater. *index may have been made with the same writer only while its
 * blocks are in the cache. */
int bh_index_replace(struct bh_trees *t, const struct bh_root *index, const uint64_t *numbers,
                     const struct bh_index_entry *entries, size_t count, struct bh_pack_writer *w,
                     struct bh_root *out, const struct bh_call *call, struct bh_error *err);

#endif
