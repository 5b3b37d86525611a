/* attachkill: a transaction over two databases, killed before (or in the middle of) its Nth change
 * to the disk. A layer over SQLite's own VFS counts writes, syncs, truncations, creations and
 * deletions of either database and of every journal, and sends SIGKILL to the process at the Nth.
 *
 *   attachkill -C DB                       makes the table pair(n, pad)
 *   attachkill [-k N] [-h] [-j MODE] [-s SYNC] MAIN OTHER      adds 1 to pair.n in both, in one
 * transaction -k N   die at the Nth change of the disk; 0: never       -h   if that is a write,
 * write half of it first
 *
 * When the transaction commits it prints "committed after OPS changes" and exits 0: then N was
 * beyond the end. */
#include "client.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static sqlite3_vfs *below;
static int64_t kill_at, ops;
static bool half;

struct counted_file {
    sqlite3_file base;
    sqlite3_file *inner; /* follows in the same allocation */
};

static sqlite3_file *inner_of(sqlite3_file *f)
{
    return ((struct counted_file *)(void *)f)->inner;
}

static bool is_last(const char *what)
{
    if (++ops != kill_at)
        return false;
    fprintf(stderr, "attachkill: killed at change %lld: %s\n", (long long)ops, what);
    return true;
}

static void die_now(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static void count(const char *what)
{
    if (is_last(what))
        die_now();
}

static int f_close(sqlite3_file *f)
{
    return inner_of(f)->pMethods ? inner_of(f)->pMethods->xClose(inner_of(f)) : SQLITE_OK;
}
static int f_read(sqlite3_file *f, void *buf, int len, sqlite3_int64 at)
{
    return inner_of(f)->pMethods->xRead(inner_of(f), buf, len, at);
}
static int f_write(sqlite3_file *f, const void *buf, int len, sqlite3_int64 at)
{
    if (is_last("write")) {
        if (half && len > 1)
            inner_of(f)->pMethods->xWrite(inner_of(f), buf, len / 2, at);
        die_now();
    }
    return inner_of(f)->pMethods->xWrite(inner_of(f), buf, len, at);
}
static int f_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    count("truncate");
    return inner_of(f)->pMethods->xTruncate(inner_of(f), size);
}
static int f_sync(sqlite3_file *f, int flags)
{
    count("sync");
    return inner_of(f)->pMethods->xSync(inner_of(f), flags);
}
static int f_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return inner_of(f)->pMethods->xFileSize(inner_of(f), size);
}
static int f_lock(sqlite3_file *f, int level)
{
    return inner_of(f)->pMethods->xLock(inner_of(f), level);
}
static int f_unlock(sqlite3_file *f, int level)
{
    return inner_of(f)->pMethods->xUnlock(inner_of(f), level);
}
static int f_reserved(sqlite3_file *f, int *out)
{
    return inner_of(f)->pMethods->xCheckReservedLock(inner_of(f), out);
}
static int f_control(sqlite3_file *f, int op, void *arg)
{
    return inner_of(f)->pMethods->xFileControl(inner_of(f), op, arg);
}
static int f_sector(sqlite3_file *f)
{
    return inner_of(f)->pMethods->xSectorSize(inner_of(f));
}
static int f_characteristics(sqlite3_file *f)
{
    return inner_of(f)->pMethods->xDeviceCharacteristics(inner_of(f));
}

static const sqlite3_io_methods methods = {
    .iVersion = 1,
    .xClose = f_close,
    .xRead = f_read,
    .xWrite = f_write,
    .xTruncate = f_truncate,
    .xSync = f_sync,
    .xFileSize = f_size,
    .xLock = f_lock,
    .xUnlock = f_unlock,
    .xCheckReservedLock = f_reserved,
    .xFileControl = f_control,
    .xSectorSize = f_sector,
    .xDeviceCharacteristics = f_characteristics,
};

static int v_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    struct counted_file *c = (struct counted_file *)(void *)f;
    c->base.pMethods = NULL;
    c->inner = (sqlite3_file *)(void *)(c + 1);
    memset(c->inner, 0, (size_t)below->szOsFile);
    if ((flags & SQLITE_OPEN_CREATE) &&
        (flags & (SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL)))
        count("create");
    int rc = below->xOpen(below, name, c->inner, flags, out);
    if (c->inner->pMethods)
        c->base.pMethods = &methods;
    return rc;
}

static int v_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
    count("delete");
    return below->xDelete(below, name, sync_dir);
}

static void install_layer(void)
{
    static sqlite3_vfs layer;
    below = sqlite3_vfs_find(NULL);
    layer = *below;
    layer.iVersion = 1;
    layer.zName = "attachkill";
    layer.szOsFile = (int)sizeof(struct counted_file) + below->szOsFile;
    layer.xOpen = v_open;
    layer.xDelete = v_delete;
    if (sqlite3_vfs_register(&layer, 1) != SQLITE_OK)
        client_die(CLIENT_WRONG, "cannot register the VFS");
}

static void create(const char *path)
{
    sqlite3 *db = client_create(path);
    client_exec(
        db,
        "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS pair(n INTEGER, pad BLOB);"
        "INSERT INTO pair SELECT 0, zeroblob(9000) WHERE NOT EXISTS (SELECT 1 FROM pair); COMMIT");
    sqlite3_close(db);
}

int main(int argc, char **argv)
{
    const char *mode = "DELETE", *sync = "FULL";
    int opt;
    while ((opt = getopt(argc, argv, "C:k:hj:s:")) != -1) {
        if (opt == 'C') {
            create(optarg);
            return 0;
        }
        if (opt == 'k')
            kill_at = client_number(optarg);
        else if (opt == 'h')
            half = true;
        else if (opt == 'j')
            mode = optarg;
        else if (opt == 's')
            sync = optarg;
        else
            client_die(CLIENT_WRONG, "usage: see the head of attachkill.c");
    }
    if (optind != argc - 2)
        client_die(CLIENT_WRONG, "usage: attachkill [options] MAIN OTHER");
    install_layer();
    sqlite3 *db = client_open(argv[optind], mode, sync, 20000);
    char *sql = sqlite3_mprintf(
        "ATTACH %Q AS other; PRAGMA other.journal_mode=%s; PRAGMA other.synchronous=%s",
        argv[optind + 1], mode, sync);
    client_exec(db, sql);
    sqlite3_free(sql);
    ops = 0; /* recovery of what the one before left behind is not counted */
    client_int(db, "SELECT (SELECT n FROM main.pair) + (SELECT n FROM other.pair)");
    ops = 0;
    client_exec(db, "BEGIN IMMEDIATE; UPDATE main.pair SET n = n + 1, pad = randomblob(9000);"
                    "UPDATE other.pair SET n = n + 1, pad = randomblob(9000); COMMIT");
    printf("committed after %lld changes\n", (long long)ops);
    return sqlite3_close(db) == SQLITE_OK ? 0 : CLIENT_WRONG;
}
