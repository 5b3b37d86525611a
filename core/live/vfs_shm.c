/* SQLite's shared memory methods on the wal-index of live/shm.h and the lock table. */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "live/vfs_private.h"
#include "util/log.h"

/* As long as connections of this process have used the file, so that a client that comes finds it
 * in use and does not begin it anew. */
static const struct bh_owner user = {.id = UINT64_MAX - 2, .internal = true};

static int attach(struct vfs_file *f)
{
    struct bh_file *shm;
    int rc = bh_store_shm(f->vfs->store, &shm);
    if (rc)
        return rc;
    struct bh_lock_request r = {.set = &shm->locks,
                                .owner = user,
                                .type = BH_LOCK_READ,
                                .start = BH_WAL_DMS,
                                .end = BH_WAL_DMS};
    rc = bh_locks_request(bh_store_locks(f->vfs->store), &r);
    if (rc)
        bh_file_unref(shm);
    else
        f->shm = shm;
    return rc;
}

int vfs_shm_map(sqlite3_file *base, int region, int size, int extend, volatile void **out)
{
    struct vfs_file *f = file_of(base);
    *out = NULL;
    if (size != (int)BH_SHM_REGION)
        return vfs_io_error(EINVAL, SQLITE_IOERR_SHMSIZE);
    int rc = f->shm ? 0 : attach(f);
    if (rc == 0)
        rc = bh_shm_region(f->shm->shm, &f->vfs->hooks, (unsigned)region, extend != 0, out);
    /* Never BUSY: SQLite would try again for ten seconds. */
    return vfs_io_error(rc, SQLITE_IOERR_SHMMAP);
}

static int let_go(struct vfs_file *f, unsigned mask, int first, int count)
{
    int rc = 0;
    if (f->shm_exclusive & mask) {
        vfs_tell_changes(f); /* what the index speaks of comes first */
        rc = bh_shm_push(f->shm->shm, &f->vfs->hooks, f->shm_exclusive);
        if (f->shm_exclusive & 1) /* SQLite does not look at what an unlock returns */
            bh_locks_refuse_wal_writers(bh_store_locks(f->vfs->store), rc != 0);
        if (rc && (f->shm_exclusive & 1))
            bh_log(BH_LOG_ERROR,
                   "clients cannot be told of what the daemon committed (%s): they can read, but "
                   "not write, until the daemon's next transaction or mount; nothing is lost",
                   strerror(rc));
        f->shm_exclusive &= ~mask;
    }
    vfs_lock_range(f, &f->shm->locks, BH_LOCK_NONE, BH_WAL_FIRST + (unsigned)first,
                   (unsigned)count);
    return vfs_io_error(rc, SQLITE_IOERR_UNLOCK);
}

int vfs_shm_lock(sqlite3_file *base, int first, int count, int flags)
{
    struct vfs_file *f = file_of(base);
    unsigned mask = ((1u << count) - 1) << first;
    if (!f->shm) /* SQLite maps before it locks */
        return vfs_io_error(EINVAL, SQLITE_IOERR_SHMLOCK);
    if (flags & SQLITE_SHM_UNLOCK)
        return let_go(f, mask, first, count);
    bool exclusive = flags & SQLITE_SHM_EXCLUSIVE;
    int rc = vfs_lock_range(f, &f->shm->locks, exclusive ? BH_LOCK_WRITE : BH_LOCK_READ,
                            BH_WAL_FIRST + (unsigned)first, (unsigned)count);
    if (rc != SQLITE_OK)
        return rc == SQLITE_BUSY ? rc : SQLITE_IOERR_SHMLOCK;
    int failed = bh_shm_pull(f->shm->shm, &f->vfs->hooks, exclusive);
    if (failed) {
        vfs_lock_range(f, &f->shm->locks, BH_LOCK_NONE, BH_WAL_FIRST + (unsigned)first,
                       (unsigned)count);
        return vfs_io_error(failed, SQLITE_IOERR_SHMLOCK);
    }
    if (exclusive)
        f->shm_exclusive |= mask;
    return SQLITE_OK;
}

void vfs_shm_barrier(sqlite3_file *base)
{
    (void)base;
    atomic_thread_fence(memory_order_seq_cst);
}

int vfs_shm_unmap(sqlite3_file *base, int delete_it)
{
    struct vfs_file *f = file_of(base);
    if (!f->shm)
        return SQLITE_OK;
    vfs_tell_changes(f);
    bh_locks_drop_owner(bh_store_locks(f->vfs->store), &f->shm->locks, f->owner);
    f->shm_exclusive = 0;
    if (delete_it && f->shm->linked && bh_store_unlink(f->vfs->store, BH_SHM_NAME) == 0 &&
        !f->shm->inner)
        vfs_tell_name(f->vfs, BH_SHM_NAME);
    bh_file_unref(f->shm);
    f->shm = NULL;
    return SQLITE_OK;
}
