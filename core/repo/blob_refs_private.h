/* What blob_refs.c and blob_refs_read.c share. */
#ifndef BH_REPO_BLOB_REFS_PRIVATE_H
#define BH_REPO_BLOB_REFS_PRIVATE_H

#include <sqlite3.h>

#include "live/live.h"
#include "live/rovfs.h"
#include "repo/blob_refs.h"
#include "repo/gc_private.h"

enum refs_kind { REFS_DB, REFS_NAMES, REFS_KINDS, REFS_LOOK }; /* LOOK: not remembered */

struct refs_source {
    struct bh_root db, names;
    bool plain;
    char *what; /* of a plain object: its key */
};

/* Of the database of a kind that was read last: what it was read for is a function of these blocks,
 * so another one that has the same needs not be read. */
struct refs_scan {
    struct bh_root root; /* size 0: none yet */
    uint8_t *read;       /* a bit each */
    uint64_t blocks;
    uint8_t first[BH_SHA256_LEN]; /* of block 0, but for the counters in it */
};

#define REFS_GROUP 32u /* blocks that are read together */
struct refs_cached {
    uint64_t pack; /* of the reference to it; 0: none */
    uint32_t offset;
    uint8_t *data;
};

struct bh_blob_refs {
    struct bh_bucket *bucket;
    struct bh_trees *trees;
    char *prefix;
    bool sizes;
    const struct bh_call *call;
    struct bh_blob_ref *items;
    size_t count, room;
    uint32_t *table; /* of numbers + 1 */
    size_t table_size;
    struct refs_source *sources;
    size_t source_count, source_room;
    size_t scanned, skipped;
    /* blob_refs_read.c */
    struct gc_set roots; /* that were read, or like one that was */
    struct refs_scan last[REFS_KINDS];
    struct refs_cached *cache; /* of blocks, by their references: snapshots share them */
    size_t cache_size;
};

/* A database that is open. */
struct refs_db {
    struct bh_blob_refs *refs;
    uint32_t source;
    char what[160];
    struct bh_rovfs *vfs;
    sqlite3 *db;
    uint64_t size;
    /* of a tree */
    struct bh_root root;
    struct refs_scan *scan; /* NULL: not to be remembered */
    struct bh_ref group[REFS_GROUP];
    uint64_t group_first; /* UINT64_MAX: none */
    /* of a plain object */
    const char *key;
    char etag[BH_ETAG_MAX];
    struct refs_chunk *chunks;
};

int refs_open_tree(struct refs_db *d, enum refs_kind kind, const struct bh_root *root,
                   struct bh_error *err);
int refs_open_plain(struct refs_db *d, const char *key, struct bh_error *err);
void refs_close(struct refs_db *d); /* one that was not opened, too */
/* Whether nothing in it can be new. */
int refs_is_known(struct bh_blob_refs *r, enum refs_kind kind, const struct bh_root *root,
                  const char *what, bool *known, struct bh_error *err);
int refs_was_scanned(struct bh_blob_refs *r, enum refs_kind kind, const struct bh_root *root,
                     const char *what, struct bh_error *err);
void refs_read_free(struct bh_blob_refs *r);

#endif
