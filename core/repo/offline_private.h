/* What offline.c and offline_sqlite.c share. */
#ifndef BH_REPO_OFFLINE_PRIVATE_H
#define BH_REPO_OFFLINE_PRIVATE_H

#include "repo/offline.h"

#define OFFLINE_CHUNKS 128u /* in memory */

struct bh_offline {
    const struct bh_config *cfg;
    const struct bh_call *call;
    struct bh_bucket *bucket;
    char *prefix; /* "KEY.bhfs/" */
    struct bh_packs *packs;
    struct bh_trees *trees; /* NULL: there is no history */
    bool found;
    struct bh_offline_snapshot snapshot;
    struct bh_root root; /* of the database; not if it is in a file */
    int fd;              /* -1, or the plain object */

    /* offline_sqlite.c */
    struct bh_rovfs *vfs; /* NULL: not needed yet */
    size_t chunk_size;
    struct offline_chunk {
        uint64_t number; /* + 1; 0: nothing is here */
        uint8_t *data;
    } chunks[OFFLINE_CHUNKS];
    uint64_t next_chunk; /* the one after those that were fetched last */
    size_t ahead;        /* chunks that were fetched at once */
};

/* Bytes of the database; zeros beyond its end. */
int offline_read(struct bh_offline *o, uint64_t offset, void *buf, size_t len,
                 struct bh_error *err);
void offline_sqlite_free(struct bh_offline *o);

#endif
