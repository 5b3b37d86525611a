/* The block map of one database file: what each 4 KiB sub-block is. Kept in memory and, ahead of
 * the data it speaks of, in a file beside it: a change is in the page cache (so it survives a kill
 * -9) when the call returns, and on the disk after bh_dfile_sync of it.
 *
 *   zero    nobody wrote it; reads as zeros (the default, so growth needs no entry)
 *   clean   as in the base, the snapshot that was loaded or flushed last
 *   dirty   changed since, or never flushed
 *   absent  as in the base, not fetched yet
 *
 * Not thread safe: the byte store's mutex protects it. Functions return 0 or errno. */
#ifndef BH_LIVE_MAP_H
#define BH_LIVE_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "live/disk.h"

#define BH_SUBBLOCK 4096u

enum bh_block_state {
    BH_BLOCK_ZERO = 0,
    BH_BLOCK_CLEAN = 1,
    BH_BLOCK_DIRTY = 2,
    BH_BLOCK_ABSENT = 3
};

struct bh_map {
    struct bh_dfile file;
    uint8_t *bits;               /* four entries a byte, the first in the low bits */
    uint64_t cap;                /* entries that bits has room for */
    uint64_t used;               /* entries from here on are zero */
    uint64_t dirty;              /* how many are dirty */
    uint64_t clean;              /* how many are clean */
    atomic_uint_fast64_t absent; /* how many are absent; read without the mutex, too */
    uint64_t changes;            /* counts changes of the file */
    uint64_t synced;             /* the value of changes that is on the disk */
    bool stale; /* a write failed: the file is behind memory until it is rewritten */
};

/* Opens or (create) makes the map file `name`. EIO: the file is larger than any database's map can
 * be. */
int bh_map_open(struct bh_map *m, struct bh_disk *disk, const char *name, bool create,
                struct bh_error *err);
void bh_map_close(struct bh_map *m);

enum bh_block_state bh_map_get(const struct bh_map *m, uint64_t block);
/* Sets count entries from first. Writes the file only where an entry changes. After an error memory
 * has the change and the file gets it with the next call that succeeds. */
int bh_map_set(struct bh_map *m, uint64_t first, uint64_t count, enum bh_block_state state);
/* Whether the file has changes that are not on the disk. Syncing takes time, so the caller does it
 * without its mutex: remember m->changes, bh_dfile_sync(&m->file), then raise m->synced to what was
 * remembered. */
static inline bool bh_map_needs_sync(const struct bh_map *m)
{
    return m->changes != m->synced;
}

#endif
