/* What needs the database for the daemon alone: a swap of the content, checkpoints. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "live/sql_private.h"
#include "util/log.h"

/* A checkpoint that must wait for readers is not worth more. */
#define CHECKPOINT_WAIT_MS 500

/* EXCLUSIVE for the daemon as such, not for its connection, whose idea of the content is about to
 * become wrong. */
static const struct bh_owner swap_owner = {.id = UINT64_MAX - 1, .internal = true};

static int lock_for_swap(struct bh_sql *q, struct bh_lockset *set, uint64_t start, uint64_t end,
                         struct bh_error *err)
{
    struct bh_lock_request r = {.set = set,
                                .owner = swap_owner,
                                .brief = true,
                                .type = BH_LOCK_WRITE,
                                .start = start,
                                .end = end};
    int rc = bh_locks_request(q->locks, &r);
    if (rc == EAGAIN) /* a connection of bh_connect */
        return bh_fail(err, EBUSY, BH_DB_NAME " is in use");
    return rc ? bh_fail(err, rc, "the live database cannot be locked: %s", strerror(rc)) : 0;
}

static int lock_database(struct bh_sql *q, struct bh_error *err)
{
    return lock_for_swap(q, &bh_store_db(q->store)->locks, BH_PENDING_BYTE,
                         BH_SHARED_FIRST + BH_SHARED_SIZE - 1, err);
}

/* Everything into the database's file. EBUSY: somebody reads or writes. */
static int empty_wal(struct bh_sql *q, struct bh_error *err)
{
    int rc = sqlite3_wal_checkpoint_v2(q->db, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    return rc == SQLITE_OK ? 0 : bh_sqlite_fail(q->db, err, "the log cannot be emptied");
}

/* In write-ahead mode clients keep SHARED on the database: the locks of the index are what counts.
 */
static int lock_wal(struct bh_sql *q, struct bh_error *err)
{
    struct bh_file *shm;
    int rc = empty_wal(q, err);
    if (rc == 0 && bh_store_wal_size(q->store) > 0)
        rc = bh_fail(err, EBUSY, BH_WAL_NAME " is in use");
    if (rc)
        return rc;
    sql_disconnect(q); /* and with it its locks */
    if ((rc = bh_store_shm(q->store, &shm)) != 0)
        return bh_fail(err, rc, "the live database cannot be locked: %s", strerror(rc));
    rc = lock_for_swap(q, &shm->locks, BH_WAL_FIRST, BH_WAL_LAST, err);
    if (rc == 0 && bh_store_wal_size(q->store) > 0) { /* a connection of bh_connect was quicker */
        bh_locks_drop_owner(q->locks, &shm->locks, swap_owner);
        rc = bh_fail(err, EBUSY, BH_WAL_NAME " is in use");
    }
    bh_file_unref(shm);
    return rc;
}

static int enter_swap(struct bh_sql *q, struct bh_error *err)
{
    q->swap_changed = bh_store_is_dirty(q->store); /* the gate is closed: nobody writes any more */
    return bh_store_is_wal(q->store) ? lock_wal(q, err) : lock_database(q, err);
}

bool bh_sql_in_swap(struct bh_sql *q, bool *changed)
{
    if (!pthread_equal(pthread_self(), q->thread) || !q->swapping)
        return false;
    *changed = q->swap_changed;
    return true;
}

/* Clients of the index see a commit, and with it that what they know of the content is old. */
static void announce_swap(struct bh_sql *q, struct bh_file *shm)
{
    struct bh_error err;
    bool alone = bh_locks_attached(q->locks, &shm->locks) == 0 && bh_vfs_connections(q->vfs) == 0;
    int rc = bh_shm_reset(shm->shm, bh_vfs_hooks(q->vfs));
    bh_locks_drop_owner(q->locks, &shm->locks, swap_owner);
    if (rc == 0 && !alone && (rc = sql_exec_first(q, "BEGIN IMMEDIATE", &err)) == 0) {
        int version = 0;
        sqlite3_stmt *st = NULL;
        if (sqlite3_prepare_v2(q->db, "PRAGMA user_version", -1, &st, NULL) == SQLITE_OK &&
            sqlite3_step(st) == SQLITE_ROW)
            version = sqlite3_column_int(st, 0);
        sqlite3_finalize(st);
        char sql[64]; /* written even if it is the same: page 1 changes */
        snprintf(sql, sizeof sql, "PRAGMA user_version=%d; COMMIT", version);
        rc = sql_exec(q, sql, &err, "the new content cannot be announced");
    }
    if (rc) { /* the index is void, so they find out by themselves, but for an unlucky case */
        bh_locks_refuse_wal_writers(q->locks, true);
        bh_log(BH_LOG_ERROR,
               "clients that have " BH_DB_NAME
               " open may not see that it was replaced (errno %d): end them, and mount again",
               rc);
    }
}

int sql_run_swap(struct bh_sql *q, struct job *j)
{
    struct bh_file *shm = NULL;
    /* The read rolls a hot journal back, or fails with the reason why it cannot. */
    int rc = sql_enter(q, TO_REPLACE, j->patience_ms,
                       "BEGIN; SELECT 1 FROM sqlite_master LIMIT 1; COMMIT", enter_swap, &j->err);
    bool wal = rc == 0 && bh_store_is_wal(q->store);
    if (wal && (rc = bh_store_shm(q->store, &shm)) != 0)
        bh_fail(&j->err, rc, "the live database cannot be locked: %s", strerror(rc));
    q->swapping = true;
    if (rc == 0)
        rc = j->fn(q->db, j->arg, &j->err);
    q->swapping = false;
    bh_locks_drop_owner(q->locks, &bh_store_db(q->store)->locks, swap_owner);
    if (shm && rc == 0)
        announce_swap(q, shm);
    else if (shm)
        bh_locks_drop_owner(q->locks, &shm->locks, swap_owner);
    bh_file_unref(shm);
    sql_leave(q);
    return rc;
}

/* --- checkpoints --- */

static int checkpoint(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct bh_sql *q = arg;
    (void)db;
    if (!bh_store_is_wal(q->store))
        return 0;
    int rc = sql_exec_first(q, "SELECT 1 FROM sqlite_master LIMIT 1", err);
    if (rc == 0 && sqlite3_wal_checkpoint_v2(q->db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL,
                                             NULL) != SQLITE_OK)
        rc = bh_sqlite_fail(q->db, err, "the log cannot be checkpointed");
    sql_disconnect_if_locking(q);
    if (rc == 0 && bh_store_wal_size(q->store) > q->checkpoint_limit) {
        rc = sql_enter(q, TO_REPLACE, CHECKPOINT_WAIT_MS, "SELECT 1 FROM sqlite_master LIMIT 1",
                       empty_wal, err);
        sql_leave(q);
    }
    return rc == EBUSY ? 0 : rc;
}

int bh_sql_checkpoint(struct bh_sql *q, uint64_t limit, struct bh_error *err)
{
    q->checkpoint_limit = limit;
    return bh_sql_run(q, BH_SQL_ALONE, checkpoint, q, err);
}

static void checkpoint_done(void *arg, int rc, const struct bh_error *err)
{
    struct bh_sql *q = arg;
    atomic_store(&q->checkpoint_posted, false);
    if (rc)
        bh_log(BH_LOG_ERROR, "%s", err->text);
}

void bh_sql_post_checkpoint(struct bh_sql *q, uint64_t limit)
{
    if (atomic_exchange(&q->checkpoint_posted, true))
        return;
    q->checkpoint_limit = limit;
    if (bh_sql_post(q, BH_SQL_ALONE, checkpoint, q, checkpoint_done) != 0)
        atomic_store(&q->checkpoint_posted, false);
}
