/* Connections of C programs to the live database. */
#include <errno.h>

#include "bh_private.h"
#include "util/cleanup.h"
#include "util/clock.h"

/* A connection that waits for a lock looks again whenever one changes hands, and this often. */
#define BUSY_LOOK_MS 10

/* SQLite's own handler sleeps for up to 100 ms, perhaps with a lock that others wait for. */
static int on_busy(void *arg, int tries)
{
    struct bh *b = arg;
    static _Thread_local int64_t since;
    int64_t now = bh_mono_ms();
    if (tries == 0)
        since = now;
    int64_t left = since + b->cfg->live.busy_timeout_ms - now;
    if (left <= 0)
        return 0;
    bh_locks_wait(bh_store_locks(b->live->store), left < BUSY_LOOK_MS ? left : BUSY_LOOK_MS);
    return 1;
}

int bh_connect_live(struct bh *b, sqlite3 **db, struct bh_error *err)
{
    int rc = bh_vfs_connect(b->live->vfs, false, db, err);
    if (rc == 0)
        sqlite3_busy_handler(*db, on_busy, b);
    return rc;
}

int bh_connect(struct bh *b, sqlite3 **db, struct bh_error *err)
{
    BH_LOCK_SCOPE(&b->life);
    *db = NULL;
    if (!b->live)
        return bh_fail(err, EINVAL, "no connection can be made: not started");
    return bh_connect_live(b, db, err);
}

sqlite3 *bh_connection(struct bh *b)
{
    return b->connection;
}
