/* A VFS with one file that nobody can change. */
#include "live/rovfs.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "live/vfs.h"
#include "util/clock.h"

#define SECTOR 4096

struct bh_rovfs {
    sqlite3_vfs vfs;
    char name[40];
    bh_rovfs_read_fn *read;
    void *arg;
    uint64_t size;
    struct bh_error error; /* of the last read that failed; code 0: none */
};

struct file {
    sqlite3_file base;
    struct bh_rovfs *v;
};

static struct bh_rovfs *of(sqlite3_file *f)
{
    return ((struct file *)(void *)f)->v;
}

/* --- the file --- */

static int x_close(sqlite3_file *f)
{
    return SQLITE_OK;
}

/* The header says WAL (18, 19) where another program left it so; without a -wal the file is whole.
 */
static void hide_wal(uint8_t *buf, uint64_t offset, size_t len)
{
    for (uint64_t at = 18; at < 20; at++)
        if (at >= offset && at < offset + len && buf[at - offset] == 2)
            buf[at - offset] = 1;
}

static int x_read(sqlite3_file *f, void *buf, int amount, sqlite3_int64 offset)
{
    struct bh_rovfs *v = of(f);
    uint64_t at = (uint64_t)offset;
    size_t want = (size_t)amount, len = at >= v->size         ? 0
                                        : v->size - at < want ? (size_t)(v->size - at)
                                                              : want;
    struct bh_error err;
    int rc = len ? v->read(v->arg, at, buf, len, &err) : 0;
    if (rc) {
        v->error = err;
        v->error.code = rc;
        return rc == ENOMEM ? SQLITE_IOERR_NOMEM : SQLITE_IOERR_READ;
    }
    hide_wal(buf, at, len);
    if (len == want)
        return SQLITE_OK;
    memset((uint8_t *)buf + len, 0, want - len);
    return SQLITE_IOERR_SHORT_READ;
}

static int x_write(sqlite3_file *f, const void *buf, int amount, sqlite3_int64 offset)
{
    return SQLITE_READONLY;
}

static int x_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    return SQLITE_READONLY;
}

static int x_sync(sqlite3_file *f, int flags)
{
    return SQLITE_OK;
}

static int x_size(sqlite3_file *f, sqlite3_int64 *size)
{
    *size = (sqlite3_int64)of(f)->size;
    return SQLITE_OK;
}

static int x_lock(sqlite3_file *f, int level)
{
    return SQLITE_OK;
}

static int x_reserved(sqlite3_file *f, int *out)
{
    *out = 0;
    return SQLITE_OK;
}

static int x_control(sqlite3_file *f, int op, void *arg)
{
    return SQLITE_NOTFOUND;
}

static int x_sector(sqlite3_file *f)
{
    return SECTOR;
}

static int x_characteristics(sqlite3_file *f)
{
    return SQLITE_IOCAP_IMMUTABLE; /* no journals, no locks */
}

static int x_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
    static const sqlite3_io_methods methods = {
        .iVersion = 1,
        .xClose = x_close,
        .xRead = x_read,
        .xWrite = x_write,
        .xTruncate = x_truncate,
        .xSync = x_sync,
        .xFileSize = x_size,
        .xLock = x_lock,
        .xUnlock = x_lock,
        .xCheckReservedLock = x_reserved,
        .xFileControl = x_control,
        .xSectorSize = x_sector,
        .xDeviceCharacteristics = x_characteristics,
    };
    f->pMethods = NULL;
    if (!(flags & SQLITE_OPEN_MAIN_DB))
        return SQLITE_CANTOPEN;
    f->pMethods = &methods;
    ((struct file *)(void *)f)->v = v->pAppData;
    if (out_flags)
        *out_flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_MAIN_DB;
    return SQLITE_OK;
}

static int x_delete(sqlite3_vfs *v, const char *name, int sync)
{
    return SQLITE_IOERR_DELETE_NOENT;
}

static int x_access(sqlite3_vfs *v, const char *name, int flags, int *out)
{
    *out = 0;
    return SQLITE_OK;
}

static int x_full(sqlite3_vfs *v, const char *name, int len, char *out)
{
    sqlite3_snprintf(len, out, "%s", name);
    return SQLITE_OK;
}

static int x_random(sqlite3_vfs *v, int len, char *out)
{
    memset(out, 0, (size_t)len);
    return len;
}

static int x_sleep(sqlite3_vfs *v, int us)
{
    return us;
}

static int x_time(sqlite3_vfs *v, sqlite3_int64 *ms)
{
    *ms = bh_real_ms() + INT64_C(210866760000000); /* from 1970 to the Julian day 0 */
    return SQLITE_OK;
}

static int x_time_old(sqlite3_vfs *v, double *days)
{
    sqlite3_int64 ms;
    x_time(v, &ms);
    *days = (double)ms / 86400000.0;
    return SQLITE_OK;
}

/* --- connections --- */

int bh_rovfs_new(struct bh_rovfs **out, bh_rovfs_read_fn *read, void *arg, uint64_t size,
                 struct bh_error *err)
{
    struct bh_rovfs *v = calloc(1, sizeof *v);
    if (!v)
        return bh_fail(err, ENOMEM, "out of memory while opening a snapshot");
    v->read = read;
    v->arg = arg;
    v->size = size;
    snprintf(v->name, sizeof v->name, "bhfs-ro-%p", (void *)v);
    v->vfs = (sqlite3_vfs){.iVersion = 2,
                           .szOsFile = sizeof(struct file),
                           .mxPathname = 512,
                           .zName = v->name,
                           .pAppData = v,
                           .xOpen = x_open,
                           .xDelete = x_delete,
                           .xAccess = x_access,
                           .xFullPathname = x_full,
                           .xRandomness = x_random,
                           .xSleep = x_sleep,
                           .xCurrentTime = x_time_old,
                           .xCurrentTimeInt64 = x_time};
    if (sqlite3_vfs_register(&v->vfs, 0) != SQLITE_OK) {
        free(v);
        return bh_fail(err, ENOMEM, "out of memory while opening a snapshot");
    }
    *out = v;
    return 0;
}

void bh_rovfs_free(struct bh_rovfs *v)
{
    if (v)
        sqlite3_vfs_unregister(&v->vfs);
    free(v);
}

int bh_rovfs_connect(struct bh_rovfs *v, sqlite3 **db, const char *what, struct bh_error *err)
{
    *db = NULL;
    if (sqlite3_open_v2("snapshot", db, SQLITE_OPEN_READONLY, v->name) != SQLITE_OK) {
        int rc = bh_rovfs_why(v, err);
        if (rc == 0)
            rc = bh_sqlite_fail(*db, err, what);
        sqlite3_close(*db);
        *db = NULL;
        return rc;
    }
    sqlite3_extended_result_codes(*db, 1);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_exec(*db, "PRAGMA temp_store = MEMORY", NULL, NULL,
                 NULL); /* there are no other files */
    return 0;
}

int bh_rovfs_why(const struct bh_rovfs *v, struct bh_error *err)
{
    return v->error.code ? bh_fail(err, v->error.code, "%s", v->error.text) : 0;
}

void bh_rovfs_forget_why(struct bh_rovfs *v)
{
    v->error.code = 0;
}
