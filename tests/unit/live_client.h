/* Clients for a test without a mount: a SQLite VFS through which connections behave as programs on
 * the mount do, each with locks of its own, the wal-index in the pages of live_remote.h. */
#ifndef LIVE_CLIENT_H
#define LIVE_CLIENT_H

#include "live_db.h"

#include "live_remote.h"

#define CLIENT_DIR "/client/"

struct cfile {
    sqlite3_file base;
    struct bh_file *file, *shm; /* shm: once it is mapped */
    struct bh_owner owner;
    int level;
    atomic_bool dead; /* killed: nothing it still does arrives */
};

static struct bh_store *client_store; /* for the hooks */
static atomic_ulong next_client = 1;
static pthread_mutex_t client_mutex = PTHREAD_MUTEX_INITIALIZER; /* of parked, and who attaches */
static pthread_cond_t client_cond = PTHREAD_COND_INITIALIZER;

static inline struct cfile *cfile_of(sqlite3_file *f)
{
    return (struct cfile *)(void *)f;
}

/* --- locks: a client whose request is parked waits in its fcntl --- */

struct parked_client {
    struct bh_lock_request r;
    bool over;
    int rc;
};

static inline void client_unparked(struct bh_lock_request *r, int rc)
{
    struct parked_client *p = (struct parked_client *)(void *)r;
    BH_LOCK_SCOPE(&client_mutex);
    p->rc = rc;
    p->over = true;
    pthread_cond_broadcast(&client_cond);
}

/* Nobody may have to wait so long for the daemon. */
#define CLIENT_PATIENCE_MS 6000
static atomic_int client_hung; /* how often somebody had to */

static inline int client_wait(struct parked_client *p)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += CLIENT_PATIENCE_MS / 1000;
    pthread_mutex_lock(&client_mutex);
    while (!p->over && pthread_cond_timedwait(&client_cond, &client_mutex, &until) == 0)
        ;
    bool over = p->over;
    pthread_mutex_unlock(&client_mutex);
    if (!over) {
        client_hung++;
        bh_locks_cancel_all(bh_store_locks(live->store), EAGAIN);
    }
    return p->rc;
}

static inline int client_fcntl(struct cfile *f, struct bh_file *on, enum bh_lock_type type,
                               uint64_t start, uint64_t len)
{
    struct parked_client p = {.r = {.set = &on->locks,
                                    .owner = f->owner,
                                    .pid = getpid(),
                                    .type = type,
                                    .start = start,
                                    .end = start + len - 1,
                                    .done = client_unparked}};
    if (f->dead)
        return SQLITE_IOERR_LOCK;
    int rc = bh_locks_request(bh_store_locks(live->store), &p.r);
    if (rc == EINPROGRESS)
        rc = client_wait(&p);
    return rc == 0 ? SQLITE_OK : rc == EAGAIN ? SQLITE_BUSY : SQLITE_IOERR_LOCK;
}

static inline int cl_lock(sqlite3_file *base, int level)
{
    struct cfile *f = cfile_of(base);
    int rc = SQLITE_OK;
    if (f->level >= level)
        return SQLITE_OK;
    if (level == SQLITE_LOCK_SHARED) {
        rc = client_fcntl(f, f->file, BH_LOCK_READ, BH_PENDING_BYTE, 1);
        if (rc == SQLITE_OK) {
            rc = client_fcntl(f, f->file, BH_LOCK_READ, BH_SHARED_FIRST, BH_SHARED_SIZE);
            client_fcntl(f, f->file, BH_LOCK_NONE, BH_PENDING_BYTE, 1);
        }
    } else if (level == SQLITE_LOCK_RESERVED) {
        rc = client_fcntl(f, f->file, BH_LOCK_WRITE, BH_RESERVED_BYTE, 1);
    } else {
        if (f->level < SQLITE_LOCK_PENDING)
            rc = client_fcntl(f, f->file, BH_LOCK_WRITE, BH_PENDING_BYTE, 1);
        if (rc == SQLITE_OK)
            f->level = SQLITE_LOCK_PENDING;
        if (rc == SQLITE_OK && level == SQLITE_LOCK_EXCLUSIVE)
            rc = client_fcntl(f, f->file, BH_LOCK_WRITE, BH_SHARED_FIRST, BH_SHARED_SIZE);
    }
    if (rc == SQLITE_OK)
        f->level = level;
    return rc;
}

static inline int cl_unlock(sqlite3_file *base, int level)
{
    struct cfile *f = cfile_of(base);
    if (f->level <= level)
        return SQLITE_OK;
    if (bh_store_undo_pending(live->store) && bh_store_undo_forget(live->store))
        return SQLITE_IOERR_UNLOCK;
    if (level == SQLITE_LOCK_SHARED) {
        client_fcntl(f, f->file, BH_LOCK_READ, BH_SHARED_FIRST, BH_SHARED_SIZE);
        client_fcntl(f, f->file, BH_LOCK_NONE, BH_PENDING_BYTE, 2);
    } else {
        client_fcntl(f, f->file, BH_LOCK_NONE, BH_PENDING_BYTE, 2 + BH_SHARED_SIZE);
    }
    f->level = level;
    return SQLITE_OK;
}

static inline int cl_check_reserved(sqlite3_file *base, int *reserved)
{
    struct cfile *f = cfile_of(base);
    struct bh_lock held;
    struct bh_lock_request r = {.set = &f->file->locks,
                                .owner = f->owner,
                                .type = BH_LOCK_WRITE,
                                .start = BH_RESERVED_BYTE,
                                .end = BH_RESERVED_BYTE};
    *reserved =
        f->level >= SQLITE_LOCK_RESERVED || bh_locks_test(bh_store_locks(live->store), &r, &held);
    return SQLITE_OK;
}

/* --- the wal-index --- */

/* As fs/ does it when the client has got its DMS lock; SQLite's unix VFS asks first whether it is
 * the only one, and then begins the file anew. */
static inline int client_attach(struct cfile *f)
{
    struct bh_file *shm;
    struct bh_lock held;
    int rc = bh_store_shm(live->store, &shm);
    if (rc)
        return SQLITE_CANTOPEN;
    struct bh_lock_request r = {.set = &shm->locks,
                                .owner = f->owner,
                                .type = BH_LOCK_WRITE,
                                .start = BH_WAL_DMS,
                                .end = BH_WAL_DMS};
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    BH_LOCK_SCOPE(&one);
    bool first = !bh_locks_test(bh_store_locks(live->store), &r, &held);
    rc = client_fcntl(f, shm, BH_LOCK_READ, BH_WAL_DMS, 1);
    while (rc == SQLITE_OK && (rc = bh_shm_attach(shm->shm)) == EAGAIN) {
        bh_shm_forget_pages(shm->shm, &live->hooks);
        rc = SQLITE_OK;
    }
    if (rc == SQLITE_OK && first && !bh_shm_is_used(shm->shm))
        rc = bh_file_truncate(shm, BH_DOOR_CLIENT, 3);
    if (rc == SQLITE_OK)
        rc = remote_map(shm);
    f->shm = shm;
    return rc ? SQLITE_IOERR_SHMMAP : SQLITE_OK;
}

static inline int cl_shm_map(sqlite3_file *base, int region, int size, int extend,
                             volatile void **out)
{
    struct cfile *f = cfile_of(base);
    *out = NULL;
    int rc = f->dead ? SQLITE_IOERR : f->shm ? SQLITE_OK : client_attach(f);
    if (rc == SQLITE_OK && extend && remote_extend(f->shm, (unsigned)region + 1))
        rc = SQLITE_IOERR_SHMSIZE;
    if (rc == SQLITE_OK && size == (int)BH_SHM_REGION && (unsigned)region < remote.regions)
        *out = &remote.pages[(size_t)region * WORDS];
    return rc;
}

static inline int cl_shm_lock(sqlite3_file *base, int first, int count, int flags)
{
    struct cfile *f = cfile_of(base);
    enum bh_lock_type type = flags & SQLITE_SHM_UNLOCK      ? BH_LOCK_NONE
                             : flags & SQLITE_SHM_EXCLUSIVE ? BH_LOCK_WRITE
                                                            : BH_LOCK_READ;
    return client_fcntl(f, f->shm, type, BH_WAL_FIRST + (unsigned)first, (unsigned)count);
}

static inline void cl_shm_barrier(sqlite3_file *base)
{
    (void)base;
    atomic_thread_fence(memory_order_seq_cst);
}

static inline bool client_unlink(const char *name)
{
    return bh_store_may_unlink(live->store, bh_file_kind_of(name)) &&
           bh_store_unlink(live->store, name) == 0;
}

static inline int cl_shm_unmap(sqlite3_file *base, int delete_it)
{
    struct cfile *f = cfile_of(base);
    if (!f->shm)
        return SQLITE_OK;
    remote.mapped -= !f->dead;
    bh_locks_drop_owner(bh_store_locks(live->store), &f->shm->locks, f->owner);
    if (delete_it && !f->dead)
        client_unlink(BH_SHM_NAME);
    bh_live_detach(live, f->shm);
    bh_file_unref(f->shm);
    f->shm = NULL;
    return SQLITE_OK;
}

/* --- files --- */

static inline int cl_close(sqlite3_file *base)
{
    struct cfile *f = cfile_of(base);
    cl_shm_unmap(base, 0);
    bh_locks_drop_owner(bh_store_locks(live->store), &f->file->locks, f->owner);
    bh_file_unref(f->file);
    return SQLITE_OK;
}

static inline int cl_read(sqlite3_file *base, void *buf, int len, sqlite3_int64 offset)
{
    size_t got;
    if (bh_file_read(cfile_of(base)->file, buf, (size_t)len, (uint64_t)offset, &got))
        return SQLITE_IOERR_READ;
    return got < (size_t)len ? SQLITE_IOERR_SHORT_READ : SQLITE_OK;
}

static inline int cl_write(sqlite3_file *base, const void *buf, int len, sqlite3_int64 offset)
{
    struct cfile *f = cfile_of(base);
    return f->dead || bh_file_write(f->file, BH_DOOR_CLIENT, buf, (size_t)len, (uint64_t)offset)
               ? SQLITE_IOERR_WRITE
               : SQLITE_OK;
}

static inline int cl_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct cfile *f = cfile_of(base);
    return f->dead || bh_file_truncate(f->file, BH_DOOR_CLIENT, (uint64_t)size)
               ? SQLITE_IOERR_TRUNCATE
               : SQLITE_OK;
}

static inline int cl_sync(sqlite3_file *base, int flags)
{
    (void)flags;
    return cfile_of(base)->dead || bh_file_sync(cfile_of(base)->file) ? SQLITE_IOERR_FSYNC
                                                                      : SQLITE_OK;
}

static inline int cl_size(sqlite3_file *base, sqlite3_int64 *size)
{
    *size = (sqlite3_int64)bh_file_size(cfile_of(base)->file);
    return SQLITE_OK;
}

static inline int cl_control(sqlite3_file *base, int op, void *arg)
{
    (void)base, (void)op, (void)arg;
    return SQLITE_NOTFOUND;
}

static inline int cl_sector(sqlite3_file *base)
{
    (void)base;
    return 4096;
}

static inline int cl_characteristics(sqlite3_file *base)
{
    (void)base;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods cl_methods = {
    .iVersion = 2,
    .xClose = cl_close,
    .xRead = cl_read,
    .xWrite = cl_write,
    .xTruncate = cl_truncate,
    .xSync = cl_sync,
    .xFileSize = cl_size,
    .xLock = cl_lock,
    .xUnlock = cl_unlock,
    .xCheckReservedLock = cl_check_reserved,
    .xFileControl = cl_control,
    .xSectorSize = cl_sector,
    .xDeviceCharacteristics = cl_characteristics,
    .xShmMap = cl_shm_map,
    .xShmLock = cl_shm_lock,
    .xShmBarrier = cl_shm_barrier,
    .xShmUnmap = cl_shm_unmap,
};

static inline const char *client_name(const char *path)
{
    size_t len = sizeof CLIENT_DIR - 1;
    return path && !strncmp(path, CLIENT_DIR, len) ? path + len : NULL;
}

static inline int cl_open(sqlite3_vfs *v, const char *path, sqlite3_file *out, int flags,
                          int *out_flags)
{
    const char *name = client_name(path);
    sqlite3_vfs *os = v->pAppData;
    if (!name)
        return os->xOpen(os, path, out, flags, out_flags);
    struct cfile *f = cfile_of(out);
    memset((void *)f, 0, sizeof *f);
    f->owner.id = next_client++;
    int rc = bh_store_lookup_outside(live->store, name, &f->file);
    if (rc == ENOENT && (flags & SQLITE_OPEN_CREATE)) {
        rc = bh_store_create(live->store, BH_DOOR_CLIENT, name, 0644, &f->file);
        if (rc == EEXIST) /* another one was faster */
            rc = bh_store_lookup_outside(live->store, name, &f->file);
    }
    if (rc)
        return SQLITE_CANTOPEN;
    if (out_flags)
        *out_flags = flags;
    f->base.pMethods = &cl_methods;
    return SQLITE_OK;
}

static inline int cl_delete(sqlite3_vfs *v, const char *path, int sync_dir)
{
    const char *name = client_name(path);
    sqlite3_vfs *os = v->pAppData;
    if (!name)
        return os->xDelete(os, path, sync_dir);
    return client_unlink(name) ? SQLITE_OK : SQLITE_IOERR_DELETE;
}

static inline int cl_access(sqlite3_vfs *v, const char *path, int flags, int *result)
{
    struct bh_file *f;
    const char *name = client_name(path);
    sqlite3_vfs *os = v->pAppData;
    if (!name)
        return os->xAccess(os, path, flags, result);
    *result = 0;
    if (bh_store_lookup(live->store, name, &f) == 0) {
        *result = flags != SQLITE_ACCESS_EXISTS || bh_file_size(f) > 0;
        bh_file_unref(f);
    }
    return SQLITE_OK;
}

static inline int cl_full_pathname(sqlite3_vfs *v, const char *name, int len, char *out)
{
    sqlite3_vfs *os = v->pAppData;
    if (!client_name(name))
        return os->xFullPathname(os, name, len, out);
    snprintf(out, (size_t)len, "%s", name);
    return SQLITE_OK;
}

/* --- for tests --- */

static sqlite3_vfs client_vfs;

/* live is open, as if mounted, from then on. */
static inline void open_mounted(void)
{
    open_live(NULL);
    remote_reset();
    client_hung = 0;
    client_store = live->store;
    struct bh_live_hooks hooks = remote_hooks(&client_store);
    bh_live_set_hooks(live, &hooks);
    if (client_vfs.zName)
        return;
    client_vfs = *sqlite3_vfs_find(NULL);
    client_vfs.pAppData = sqlite3_vfs_find(NULL);
    client_vfs.pNext = NULL;
    client_vfs.zName = "client";
    if (client_vfs.szOsFile < (int)sizeof(struct cfile))
        client_vfs.szOsFile = (int)sizeof(struct cfile);
    client_vfs.xOpen = cl_open;
    client_vfs.xDelete = cl_delete;
    client_vfs.xAccess = cl_access;
    client_vfs.xFullPathname = cl_full_pathname;
    assert_int_equal(sqlite3_vfs_register(&client_vfs, 0), SQLITE_OK);
}

/* NULL if that fails. Any thread. */
static inline sqlite3 *connect_client(void)
{
    sqlite3 *c;
    if (sqlite3_open_v2(CLIENT_DIR BH_DB_NAME, &c, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                        "client") != SQLITE_OK)
        return NULL;
    sqlite3_extended_result_codes(c, 1);
    sqlite3_busy_timeout(c, 20000);
    return c;
}

/* As kill -9 does it: its locks are gone, and so is whatever it would still do. */
static inline void kill_client(sqlite3 *c)
{
    sqlite3_file *base;
    sqlite3_file_control(c, "main", SQLITE_FCNTL_FILE_POINTER, (void *)&base);
    struct cfile *f = cfile_of(base);
    f->dead = true;
    sqlite3_file_control(c, "main", SQLITE_FCNTL_JOURNAL_POINTER, (void *)&base);
    if (base->pMethods == &cl_methods)
        cfile_of(base)->dead = true;
    bh_locks_drop_owner(bh_store_locks(live->store), &f->file->locks, f->owner);
    if (f->shm) {
        remote.mapped--;
        bh_locks_drop_owner(bh_store_locks(live->store), &f->shm->locks, f->owner);
        bh_live_detach(live, f->shm);
    }
}

#endif
