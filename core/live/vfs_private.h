/* What vfs.c and vfs_shm.c share. */
#ifndef BH_LIVE_VFS_PRIVATE_H
#define BH_LIVE_VFS_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "live/vfs.h"

/* So many separate ranges of one transaction are told one by one; beyond, the range that covers
 * them all. */
#define RANGES_MAX 256

struct range {
    uint64_t begin, end;
};

struct bh_vfs {
    sqlite3_vfs base;
    char name[40];
    struct bh_store *store;
    sqlite3_vfs *os; /* the default VFS */
    char *state_dir, *mountpoint;
    struct bh_live_hooks hooks;
    pthread_mutex_t wal_mutex;
    struct range wal_changes; /* of -wal, to be told before a lock on -shm is let go */
    atomic_uint connections;
    pthread_mutex_t reason_mutex;
    char reason[BH_ERROR_TEXT_MAX];
};

/* What a connection changed since it took its lock, to be told before it lets go. */
struct changes {
    struct range data[RANGES_MAX];
    size_t count;
    bool any;
};

struct vfs_file {
    sqlite3_file base;
    struct bh_vfs *vfs;
    struct bh_file *file;
    struct bh_owner owner;
    int level;              /* SQLITE_LOCK_* */
    bool names_synced;      /* a journal's name is durable */
    bool brief;             /* main database only, as what follows */
    struct bh_file *shm;    /* NULL: not in write-ahead mode */
    unsigned shm_exclusive; /* bit i: holds lock i of -shm for itself */
    struct changes *changes;
};

static inline struct vfs_file *file_of(sqlite3_file *f)
{
    return (struct vfs_file *)(void *)f;
}

/* The SQLite code of an errno, which is noted for sqlite3_system_errno: a SQLITE_IOERR that does
 * not come from here is told with the errno of an earlier one. 0: SQLITE_OK. */
int vfs_io_error(int rc, int otherwise);
/* A lock of this connection on [start, start + len) of a file: SQLITE_OK, BUSY, IOERR_LOCK or
 * IOERR_NOMEM. */
int vfs_lock_range(struct vfs_file *f, struct bh_lockset *set, enum bh_lock_type type,
                   uint64_t start, uint64_t len);

/* --- vfs_changes.c --- */
/* [begin, end) of the file changed. */
void vfs_note_change(struct vfs_file *f, uint64_t begin, uint64_t end);
/* Tells the mount of everything that was changed under the lock that is about to be let go. */
void vfs_tell_changes(struct vfs_file *f);
void vfs_tell_name(struct bh_vfs *v, const char *name);

/* --- vfs_shm.c: SQLite's shared memory methods --- */
int vfs_shm_map(sqlite3_file *base, int region, int size, int extend, volatile void **out);
int vfs_shm_lock(sqlite3_file *base, int first, int count, int flags);
void vfs_shm_barrier(sqlite3_file *base);
int vfs_shm_unmap(sqlite3_file *base, int delete_it);

#endif
