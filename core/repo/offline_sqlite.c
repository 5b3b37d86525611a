/* SQLite on a snapshot: a VFS with one file that nobody can change. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "live/live.h"
#include "repo/offline_private.h"
#include "util/clock.h"

#define CHUNK_MIN ((size_t)64 << 10)
#define AHEAD_MAX 16u /* chunks at once, where reading goes on from one to the next */
#define SECTOR    4096

struct file {
    sqlite3_file base;
    struct bh_offline *o;
};

static struct bh_offline *of(sqlite3_file *f)
{
    return ((struct file *)(void *)f)->o;
}

/* --- chunks --- */

static struct offline_chunk *place(struct bh_offline *o, uint64_t number)
{
    return &o->chunks[number % OFFLINE_CHUNKS];
}

/* Chunks from `number` on. */
static int fetch(struct bh_offline *o, uint64_t number, size_t count)
{
    uint8_t *buf = malloc(count * o->chunk_size);
    int rc = buf ? offline_read(o, number * o->chunk_size, buf, count * o->chunk_size, &o->error)
                 : bh_fail(&o->error, ENOMEM, "out of memory while reading a snapshot");
    for (size_t i = 0; i < count && !rc; i++) {
        struct offline_chunk *c = place(o, number + i);
        if (!c->data && !(c->data = malloc(o->chunk_size))) {
            rc = bh_fail(&o->error, ENOMEM, "out of memory while reading a snapshot");
            break;
        }
        memcpy(c->data, buf + i * o->chunk_size, o->chunk_size);
        c->number = number + i + 1;
    }
    free(buf);
    return rc;
}

static int get_chunk(struct bh_offline *o, uint64_t number, const uint8_t **data)
{
    struct offline_chunk *c = place(o, number);
    uint64_t last = (o->snapshot.size - 1) / o->chunk_size;
    if (c->number == number + 1) {
        *data = c->data;
        return 0;
    }
    o->ahead = number != o->next_chunk || o->ahead == 0 ? 1
               : o->ahead < AHEAD_MAX                   ? 2 * o->ahead
                                                        : AHEAD_MAX;
    size_t count = last - number + 1 < o->ahead ? (size_t)(last - number + 1) : o->ahead;
    int rc = fetch(o, number, count);
    o->next_chunk = number + count;
    *data = c->data;
    return rc;
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
    struct bh_offline *o = of(f);
    uint64_t at = (uint64_t)offset, size = o->snapshot.size;
    size_t want = (size_t)amount, len = at >= size         ? 0
                                        : size - at < want ? (size_t)(size - at)
                                                           : want;
    for (size_t done = 0, n; done < len; done += n) {
        const uint8_t *data;
        size_t from = (size_t)((at + done) % o->chunk_size);
        n = o->chunk_size - from < len - done ? o->chunk_size - from : len - done;
        if (get_chunk(o, (at + done) / o->chunk_size, &data) == 0)
            memcpy((uint8_t *)buf + done, data + from, n);
        else if (offline_read(o, at + done, (uint8_t *)buf + done, n, &o->error))
            return o->error.code == ENOMEM ? SQLITE_IOERR_NOMEM : SQLITE_IOERR_READ;
        else /* what is damaged was not asked for */
            o->error.code = 0;
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
    *size = (sqlite3_int64)of(f)->snapshot.size;
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
    ((struct file *)(void *)f)->o = v->pAppData;
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

static int register_vfs(struct bh_offline *o, struct bh_error *err)
{
    uint32_t block = o->trees ? bh_trees_block_size(o->trees) : 0;
    if (o->registered)
        return 0;
    o->chunk_size = block > CHUNK_MIN ? block : CHUNK_MIN;
    snprintf(o->vfs_name, sizeof o->vfs_name, "bhfs-offline-%p", (void *)o);
    o->vfs = (sqlite3_vfs){.iVersion = 2,
                           .szOsFile = sizeof(struct file),
                           .mxPathname = 512,
                           .zName = o->vfs_name,
                           .pAppData = o,
                           .xOpen = x_open,
                           .xDelete = x_delete,
                           .xAccess = x_access,
                           .xFullPathname = x_full,
                           .xRandomness = x_random,
                           .xSleep = x_sleep,
                           .xCurrentTime = x_time_old,
                           .xCurrentTimeInt64 = x_time};
    if (sqlite3_vfs_register(&o->vfs, 0) != SQLITE_OK)
        return bh_fail(err, ENOMEM, "out of memory while opening a snapshot");
    o->registered = true;
    return 0;
}

int bh_offline_connect(struct bh_offline *o, sqlite3 **db, struct bh_error *err)
{
    if (!o->found)
        return bh_fail(err, EINVAL, "no snapshot was chosen");
    int rc = register_vfs(o, err);
    if (rc)
        return rc;
    *db = NULL;
    if (sqlite3_open_v2("snapshot", db, SQLITE_OPEN_READONLY, o->vfs_name) != SQLITE_OK) {
        if ((rc = bh_offline_why(o, err)) == 0)
            rc = bh_sqlite_fail(*db, err, "the snapshot");
        sqlite3_close(*db);
        return rc;
    }
    sqlite3_extended_result_codes(*db, 1);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_exec(*db, "PRAGMA temp_store = MEMORY", NULL, NULL,
                 NULL); /* there are no other files */
    return 0;
}

int bh_offline_why(const struct bh_offline *o, struct bh_error *err)
{
    return o->error.code ? bh_fail(err, o->error.code, "%s", o->error.text) : 0;
}

void offline_sqlite_free(struct bh_offline *o)
{
    if (o->registered)
        sqlite3_vfs_unregister(&o->vfs);
    for (size_t i = 0; i < OFFLINE_CHUNKS; i++)
        free(o->chunks[i].data);
}
