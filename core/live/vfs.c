#include "live/vfs_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/log.h"

#define SECTOR_SIZE 4096
/* Longer than any path: a super-journal's name that did not fit would pass for none at all, and be
 * rolled back. */
#define PATHNAME_MAX 4096
#define OPEN_TRIES   100

static atomic_uint_fast64_t next_owner = 1;
static atomic_uint next_name = 1;
/* The connection being opened by this thread is a brief one (bh_vfs_connect). */
static _Thread_local bool opening_brief;
/* Why the last call of this thread failed that did: for sqlite3_system_errno. */
static _Thread_local int last_errno;

static struct bh_vfs *vfs_of(sqlite3_vfs *v)
{
    return v->pAppData;
}

int vfs_io_error(int rc, int otherwise)
{
    if (rc)
        last_errno = rc;
    switch (rc) {
    case 0:
        return SQLITE_OK;
    case ENOSPC:
    case EDQUOT:
        return SQLITE_FULL;
    case ENOMEM:
        return SQLITE_IOERR_NOMEM;
    default:
        return otherwise;
    }
}

/* --- files --- */

static int x_close(sqlite3_file *base)
{
    struct vfs_file *f = file_of(base);
    if (f->changes) {
        vfs_shm_unmap(base, 0);
        vfs_tell_changes(f);
        bh_locks_drop_owner(bh_store_locks(f->vfs->store), &f->file->locks, f->owner);
        atomic_fetch_sub(&f->vfs->connections, !f->brief);
        free(f->changes);
    }
    bh_file_unref(f->file);
    f->file = NULL;
    return SQLITE_OK;
}

static int x_read(sqlite3_file *base, void *buf, int len, sqlite3_int64 offset)
{
    struct vfs_file *f = file_of(base);
    struct bh_vfs *v = f->vfs;
    struct bh_error err;
    size_t got;
    int rc = bh_file_read_why(f->file, buf, (size_t)len, (uint64_t)offset, &got, &err);
    if (rc) {
        BH_LOCK_SCOPE(&v->reason_mutex);
        memcpy(v->reason, err.text, sizeof v->reason);
        return vfs_io_error(rc, SQLITE_IOERR_READ);
    }
    return got < (size_t)len ? SQLITE_IOERR_SHORT_READ : SQLITE_OK;
}

static int x_write(sqlite3_file *base, const void *buf, int len, sqlite3_int64 offset)
{
    struct vfs_file *f = file_of(base);
    int rc = bh_file_write(f->file, BH_DOOR_INTERNAL, buf, (size_t)len, (uint64_t)offset);
    vfs_note_change(f, (uint64_t)offset, (uint64_t)offset + (uint64_t)len);
    return vfs_io_error(rc, SQLITE_IOERR_WRITE);
}

static int x_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct vfs_file *f = file_of(base);
    uint64_t old = bh_file_size(f->file);
    int rc = bh_file_truncate(f->file, BH_DOOR_INTERNAL, (uint64_t)size);
    vfs_note_change(f, (uint64_t)size, old);
    return vfs_io_error(rc, SQLITE_IOERR_TRUNCATE);
}

static int x_sync(sqlite3_file *base, int flags)
{
    struct vfs_file *f = file_of(base);
    (void)flags;
    int rc = bh_file_sync(f->file);
    if (rc == 0 && !f->changes && !f->names_synced) {
        rc = bh_store_sync_names(f->vfs->store);
        f->names_synced = rc == 0;
    }
    return vfs_io_error(rc, SQLITE_IOERR_FSYNC);
}

static int x_file_size(sqlite3_file *base, sqlite3_int64 *size)
{
    struct stat st;
    int rc = bh_file_stat(file_of(base)->file, &st);
    *size = rc ? 0 : (sqlite3_int64)st.st_size;
    return vfs_io_error(rc, SQLITE_IOERR_FSTAT);
}

/* --- locks: SQLite's five levels on the lock table's ranges, as its unix VFS lays them out --- */

int vfs_lock_range(struct vfs_file *f, struct bh_lockset *set, enum bh_lock_type type,
                   uint64_t start, uint64_t len)
{
    struct bh_lock_request r = {.set = set,
                                .owner = f->owner,
                                .pid = getpid(),
                                .brief = f->brief,
                                .type = type,
                                .start = start,
                                .end = start + len - 1};
    int rc = bh_locks_request(bh_store_locks(f->vfs->store), &r);
    return rc == EAGAIN ? SQLITE_BUSY : vfs_io_error(rc, SQLITE_IOERR_LOCK);
}

static int lock_range(struct vfs_file *f, enum bh_lock_type type, uint64_t start, uint64_t len)
{
    return vfs_lock_range(f, &f->file->locks, type, start, len);
}

static int lock_shared(struct vfs_file *f)
{
    int rc = lock_range(f, BH_LOCK_READ, BH_PENDING_BYTE, 1);
    if (rc == SQLITE_OK) {
        rc = lock_range(f, BH_LOCK_READ, BH_SHARED_FIRST, BH_SHARED_SIZE);
        lock_range(f, BH_LOCK_NONE, BH_PENDING_BYTE, 1);
    }
    return rc;
}

static int x_lock(sqlite3_file *base, int level)
{
    struct vfs_file *f = file_of(base);
    int rc = SQLITE_OK;
    if (f->level >= level)
        return SQLITE_OK;
    if (level == SQLITE_LOCK_SHARED) {
        rc = lock_shared(f);
    } else if (level == SQLITE_LOCK_RESERVED) {
        rc = lock_range(f, BH_LOCK_WRITE, BH_RESERVED_BYTE, 1);
    } else {
        if (f->level < SQLITE_LOCK_PENDING) {
            rc = lock_range(f, BH_LOCK_WRITE, BH_PENDING_BYTE, 1);
            if (rc == SQLITE_OK)
                f->level = SQLITE_LOCK_PENDING;
        }
        if (rc == SQLITE_OK && level == SQLITE_LOCK_EXCLUSIVE)
            rc = lock_range(f, BH_LOCK_WRITE, BH_SHARED_FIRST, BH_SHARED_SIZE);
    }
    if (rc == SQLITE_OK)
        f->level = level;
    return rc;
}

static int x_unlock(sqlite3_file *base, int level)
{
    struct vfs_file *f = file_of(base);
    if (f->level <= level)
        return SQLITE_OK;
    vfs_tell_changes(f);
    if (level == SQLITE_LOCK_NONE) {
        bh_locks_drop_owner(bh_store_locks(f->vfs->store), &f->file->locks, f->owner);
    } else {
        int rc = lock_range(f, BH_LOCK_READ, BH_SHARED_FIRST, BH_SHARED_SIZE);
        if (rc == SQLITE_OK)
            rc = lock_range(f, BH_LOCK_NONE, BH_PENDING_BYTE, 2);
        if (rc != SQLITE_OK)
            return vfs_io_error(EIO, SQLITE_IOERR_UNLOCK);
    }
    f->level = level;
    return SQLITE_OK;
}

static int x_check_reserved(sqlite3_file *base, int *reserved)
{
    struct vfs_file *f = file_of(base);
    struct bh_lock_request r = {.set = &f->file->locks,
                                .owner = f->owner,
                                .type = BH_LOCK_WRITE,
                                .start = BH_RESERVED_BYTE,
                                .end = BH_RESERVED_BYTE};
    struct bh_lock held;
    *reserved =
        f->level >= SQLITE_LOCK_RESERVED || bh_locks_test(bh_store_locks(f->vfs->store), &r, &held);
    return SQLITE_OK;
}

static int x_file_control(sqlite3_file *base, int op, void *arg)
{
    struct vfs_file *f = file_of(base);
    switch (op) {
    case SQLITE_FCNTL_LOCKSTATE:
        *(int *)arg = f->level;
        return SQLITE_OK;
    case SQLITE_FCNTL_VFSNAME:
        *(char **)arg = sqlite3_mprintf("%s", f->vfs->name);
        return SQLITE_OK;
    default:
        return SQLITE_NOTFOUND;
    }
}

static int x_sector_size(sqlite3_file *base)
{
    (void)base;
    return SECTOR_SIZE;
}

static int x_device_characteristics(sqlite3_file *base)
{
    (void)base;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = x_close,
    .xRead = x_read,
    .xWrite = x_write,
    .xTruncate = x_truncate,
    .xSync = x_sync,
    .xFileSize = x_file_size,
    .xLock = x_lock,
    .xUnlock = x_unlock,
    .xCheckReservedLock = x_check_reserved,
    .xFileControl = x_file_control,
    .xSectorSize = x_sector_size,
    .xDeviceCharacteristics = x_device_characteristics,
    .xShmMap = vfs_shm_map,
    .xShmLock = vfs_shm_lock,
    .xShmBarrier = vfs_shm_barrier,
    .xShmUnmap = vfs_shm_unmap,
};

/* --- names --- */

static bool in_directory(const char *path, const char *dir, size_t dir_len)
{
    return dir[0] && !strncmp(path, dir, dir_len) && path[dir_len] == '/' &&
           !strchr(path + dir_len + 1, '/');
}

/* The tree's name of a path, NULL if it is somebody else's file: ours are named by the state
 * directory (by this door) or by the mount point (by clients, in super-journals). */
static const char *tree_name(const struct bh_vfs *v, const char *path)
{
    size_t state = strlen(v->state_dir), mount = strlen(v->mountpoint);
    const char *name = in_directory(path, v->state_dir, state)    ? path + state + 1
                       : in_directory(path, v->mountpoint, mount) ? path + mount + 1
                                                                  : NULL;
    return name && bh_file_kind_of(name) != BH_FILE_OTHER ? name : NULL;
}

/* Another connection may make it, or remove it, in between; not for ever: there may be a file of
 * that name in the state directory which is not the tree's. */
static int open_tree_file(struct bh_vfs *v, const char *name, struct vfs_file *f, int flags)
{
    int rc = EEXIST;
    for (int i = 0; i < OPEN_TRIES && rc == EEXIST; i++) {
        rc = bh_store_lookup(v->store, name, &f->file);
        if (rc == ENOENT && (flags & SQLITE_OPEN_CREATE))
            rc = bh_store_create(v->store, BH_DOOR_INTERNAL, name, 0644, &f->file);
    }
    return rc;
}

static int x_open(sqlite3_vfs *base, const char *path, sqlite3_file *out, int flags, int *out_flags)
{
    struct bh_vfs *v = vfs_of(base);
    const char *name = path ? tree_name(v, path) : NULL;
    if (!name)
        return v->os->xOpen(v->os, path, out, flags, out_flags);
    struct vfs_file *f = file_of(out);
    *f = (struct vfs_file){.vfs = v, .level = SQLITE_LOCK_NONE};
    if (flags & SQLITE_OPEN_MAIN_DB) {
        f->brief = opening_brief;
        f->owner = (struct bh_owner){.id = atomic_fetch_add(&next_owner, 1), .internal = true};
        f->changes = calloc(1, sizeof *f->changes);
        if (!f->changes)
            return SQLITE_NOMEM;
    }
    int rc = open_tree_file(v, name, f, flags);
    if (rc) {
        free(f->changes);
        return rc == ENOMEM ? SQLITE_NOMEM : SQLITE_CANTOPEN;
    }
    if (f->changes)
        atomic_fetch_add(&v->connections, !f->brief);
    if (out_flags)
        *out_flags = flags;
    f->base.pMethods = &methods;
    return SQLITE_OK;
}

static int x_delete(sqlite3_vfs *base, const char *path, int sync_dir)
{
    struct bh_vfs *v = vfs_of(base);
    const char *name = tree_name(v, path);
    if (!name)
        return v->os->xDelete(v->os, path, sync_dir);
    struct bh_file *f;
    int rc = bh_store_lookup(v->store, name, &f);
    if (rc)
        return SQLITE_IOERR_DELETE_NOENT;
    rc = bh_store_unlink(v->store, name);
    if (rc == 0 && !f->inner) /* nobody finds it any more, so this does not change now */
        vfs_tell_name(v, name);
    bool is_wal = f->kind == BH_FILE_WAL; /* its frames must not come back over newer content */
    bh_file_unref(f);
    if (rc == ENOENT) /* another connection was faster */
        return SQLITE_IOERR_DELETE_NOENT;
    if (rc == 0 && (sync_dir || is_wal))
        rc = bh_store_sync_names(v->store);
    return vfs_io_error(rc, SQLITE_IOERR_DELETE);
}

/* A super-journal that is not there means "committed": that must never be concluded from a
 * directory that is not there, or not mounted now. */
static int access_super(struct bh_vfs *v, const char *path, int flags, int *result)
{
    BH_FREE char *dir = strdup(path);
    char *slash = dir ? strrchr(dir, '/') : NULL;
    struct stat st;
    if (!dir)
        return SQLITE_NOMEM;
    if (path[0] != '/' || !slash || (*slash = '\0', stat(dir[0] ? dir : "/", &st)) != 0) {
        BH_LOCK_SCOPE(&v->reason_mutex);
        snprintf(v->reason, sizeof v->reason,
                 "a hot journal of " BH_DB_NAME
                 " belongs to a transaction over several databases whose super-journal "
                 "%.400s cannot be looked up from here: open " BH_DB_NAME
                 " with the program that wrote it, so "
                 "that it recovers both databases",
                 path);
        return vfs_io_error(EIO, SQLITE_IOERR_ACCESS);
    }
    return v->os->xAccess(v->os, path, flags, result);
}

static int x_access(sqlite3_vfs *base, const char *path, int flags, int *result)
{
    struct bh_vfs *v = vfs_of(base);
    const char *name = tree_name(v, path);
    if (!name)
        return strstr(path, "-mj") ? access_super(v, path, flags, result)
                                   : v->os->xAccess(v->os, path, flags, result);
    struct bh_file *f;
    *result = 0;
    if (bh_store_lookup(v->store, name, &f) == 0) {
        *result = flags != SQLITE_ACCESS_EXISTS || bh_file_size(f) > 0; /* as the unix VFS has it */
        bh_file_unref(f);
    }
    return SQLITE_OK;
}

static int x_full_pathname(sqlite3_vfs *base, const char *name, int len, char *out)
{
    struct bh_vfs *v = vfs_of(base);
    if (!tree_name(v, name))
        return v->os->xFullPathname(v->os, name, len, out);
    snprintf(out, (size_t)len, "%s", name);
    return SQLITE_OK;
}

static int x_randomness(sqlite3_vfs *base, int len, char *out)
{
    return vfs_of(base)->os->xRandomness(vfs_of(base)->os, len, out);
}

static int x_sleep(sqlite3_vfs *base, int us)
{
    return vfs_of(base)->os->xSleep(vfs_of(base)->os, us);
}

static int x_current_time(sqlite3_vfs *base, double *now)
{
    return vfs_of(base)->os->xCurrentTime(vfs_of(base)->os, now);
}

static int x_last_error(sqlite3_vfs *base, int len, char *text)
{
    return last_errno ? last_errno : vfs_of(base)->os->xGetLastError(vfs_of(base)->os, len, text);
}

static int x_current_time64(sqlite3_vfs *base, sqlite3_int64 *now)
{
    return vfs_of(base)->os->xCurrentTimeInt64(vfs_of(base)->os, now);
}

/* --- registration and connections --- */

int bh_vfs_register(struct bh_vfs **out, struct bh_store *s, const char *mountpoint,
                    struct bh_error *err)
{
    struct bh_vfs *v = calloc(1, sizeof *v);
    if (!v)
        return bh_fail(err, ENOMEM, "out of memory while opening the live database");
    v->store = s;
    pthread_mutex_init(&v->reason_mutex, NULL);
    pthread_mutex_init(&v->wal_mutex, NULL);
    v->os = sqlite3_vfs_find(NULL);
    v->state_dir = realpath(bh_disk_path(bh_store_disk(s)), NULL);
    v->mountpoint = strdup(mountpoint);
    snprintf(v->name, sizeof v->name, "bhfs-%u", atomic_fetch_add(&next_name, 1));
    size_t size = sizeof(struct vfs_file);
    if (v->os && (size_t)v->os->szOsFile > size)
        size = (size_t)v->os->szOsFile;
    v->base = (sqlite3_vfs){
        .iVersion = 2,
        .szOsFile = (int)size,
        .mxPathname = PATHNAME_MAX,
        .zName = v->name,
        .pAppData = v,
        .xOpen = x_open,
        .xDelete = x_delete,
        .xAccess = x_access,
        .xFullPathname = x_full_pathname,
        .xRandomness = x_randomness,
        .xSleep = x_sleep,
        .xCurrentTime = x_current_time,
        .xGetLastError = x_last_error,
        .xCurrentTimeInt64 = x_current_time64,
    };
    if (!v->os || !v->state_dir || !v->mountpoint ||
        sqlite3_vfs_register(&v->base, 0) != SQLITE_OK) {
        free(v->state_dir);
        free(v->mountpoint);
        free(v);
        return bh_fail(err, ENOMEM, "SQLite takes no file system from us; is it the system's own?");
    }
    *out = v;
    return 0;
}

void bh_vfs_unregister(struct bh_vfs *v)
{
    if (!v)
        return;
    sqlite3_vfs_unregister(&v->base);
    pthread_mutex_destroy(&v->reason_mutex);
    pthread_mutex_destroy(&v->wal_mutex);
    free(v->state_dir);
    free(v->mountpoint);
    free(v);
}

void bh_vfs_set_hooks(struct bh_vfs *v, const struct bh_live_hooks *hooks)
{
    v->hooks = *hooks;
}

const struct bh_live_hooks *bh_vfs_hooks(struct bh_vfs *v)
{
    return &v->hooks;
}

bool bh_vfs_take_reason(struct bh_vfs *v, char *text)
{
    BH_LOCK_SCOPE(&v->reason_mutex);
    if (!v->reason[0])
        return false;
    memcpy(text, v->reason, sizeof v->reason);
    v->reason[0] = '\0';
    return true;
}

unsigned bh_vfs_connections(struct bh_vfs *v)
{
    return atomic_load(&v->connections);
}

int bh_vfs_connect(struct bh_vfs *v, bool brief, sqlite3 **db, struct bh_error *err)
{
    BH_FREE char *path = NULL;
    if (asprintf(&path, "%s/" BH_DB_NAME, v->state_dir) < 0) {
        path = NULL;
        return bh_fail(err, ENOMEM, "out of memory while connecting");
    }
    opening_brief = brief;
    int rc = sqlite3_open_v2(path, db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, v->name);
    if (rc != SQLITE_OK) {
        int code = bh_sqlite_fail(*db, err, "the live database cannot be opened");
        sqlite3_close(*db);
        *db = NULL;
        return code;
    }
    sqlite3_extended_result_codes(*db, 1);
    return 0;
}
