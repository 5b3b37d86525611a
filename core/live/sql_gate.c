/* How the SQL thread's transactions get between those of clients: its connection, the gate. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "live/sql_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

/* How long the gate may hold new clients back while those inside finish. */
#define DRAIN_MS 20
/* Pause before the next try; doubled up to the maximum. */
#define BACKOFF_MS     2
#define BACKOFF_MAX_MS 50
/* Readers of -wal that the gate held back find the index changed and begin again, at most a hundred
 * times (SQLITE_PROTOCOL): they get at most this long to get in before the gate may close again. */
#define COURTESY_MS 3

static int busy(struct bh_sql *q, int64_t patience_ms, struct bh_error *err)
{
    struct bh_lock_summary sum = bh_locks_summary(q->locks, &bh_store_db(q->store)->locks);
    struct bh_wal_summary wal = bh_locks_wal_summary(q->locks);
    char path[64], name[64] = "?";
    if (wal.pid > 0 && !sum.client_writer) /* in write-ahead mode all have locks on the database */
        sum.pid = wal.pid;
    if (sum.pid <= 0)
        return bh_fail(err, EBUSY, BH_DB_NAME " was busy for %lld ms; try again",
                       (long long)patience_ms);
    /* comm needs none of the process's own locks, unlike cmdline, which can hang on a process that
     * waits for us */
    snprintf(path, sizeof path, "/proc/%d/comm", (int)sum.pid);
    BH_FILE FILE *f = fopen(path, "re");
    if (f && fgets(name, sizeof name, f))
        name[strcspn(name, "\n")] = '\0';
    return bh_fail(err, EBUSY,
                   "process %d (%s) kept its transaction on " BH_DB_NAME
                   " open for more than %lld ms; end it and try again",
                   (int)sum.pid, name, (long long)patience_ms);
}

int sql_exec(struct bh_sql *q, const char *sql, struct bh_error *err, const char *what)
{
    char reason[BH_ERROR_TEXT_MAX];
    bh_vfs_take_reason(q->vfs, reason); /* somebody else's */
    if (sqlite3_exec(q->db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    int rc = bh_sqlite_fail(q->db, err, what);
    return bh_vfs_take_reason(q->vfs, reason) ? bh_fail(err, rc, "%s", reason) : rc;
}

int sql_connect(struct bh_sql *q, struct bh_error *err)
{
    if (q->db)
        return 0;
    int rc = bh_vfs_connect(q->vfs, true, &q->db, err);
    if (rc)
        return rc;
    q->is_set_up = false;
    sqlite3_busy_timeout(q->db, 0); /* the gate waits, not SQLite */
    sqlite3_db_config(q->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(q->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_wal_autocheckpoint(q->db, 0); /* bh_sql_checkpoint does it */
    return 0;
}

void sql_disconnect(struct bh_sql *q)
{
    sqlite3_close_v2(q->db);
    q->db = NULL;
}

void sql_disconnect_if_locking(struct bh_sql *q)
{
    int level = 0;
    if (q->db &&
        (sqlite3_file_control(q->db, "main", SQLITE_FCNTL_LOCKSTATE, &level) != SQLITE_OK || level))
        sql_disconnect(q);
}

int sql_exec_first(struct bh_sql *q, const char *sql, struct bh_error *err)
{
    static const char what[] = "the live database cannot be opened";
    int rc = sql_connect(q, err);
    if (rc == 0 && !q->is_set_up) {
        rc = sql_exec(q, q->set_up, err, what);
        if (rc == 0 && !bh_store_is_wal(q->store)) /* it would end that mode */
            rc = sql_exec(q, q->journal, err, what);
        q->is_set_up = rc == 0;
    }
    return rc ? rc : sql_exec(q, sql, err, what);
}

static enum bh_gate_need need_of(enum sql_entry entry, bool wal)
{
    if (wal)
        return entry == TO_REPLACE ? BH_GATE_WAL_ALONE : BH_GATE_WAL_WRITE;
    return entry == TO_READ ? BH_GATE_NO_WRITERS : BH_GATE_NO_CLIENTS;
}

static int set_quiet(struct bh_sql *q, bool quiet)
{
    struct bh_file *shm;
    if (bh_store_lookup(q->store, BH_SHM_NAME, &shm) != 0)
        return 0;
    int rc = bh_shm_set_quiet(shm->shm, bh_vfs_hooks(q->vfs), quiet);
    if (rc && !shm->linked) /* the last client has just removed it */
        rc = EBUSY;
    bh_file_unref(shm);
    return rc;
}

void sql_open_gate(struct bh_sql *q)
{
    set_quiet(q, false);
    unsigned held_back = bh_gate_open(q->locks);
    if (held_back == 0)
        return;
    q->courtesy_until = bh_mono_ms() + COURTESY_MS;
    q->courtesy_reads = bh_locks_wal_reads(q->locks) + held_back;
}

static bool is_courteous(struct bh_sql *q, int64_t now)
{
    return now >= q->courtesy_until || bh_locks_wal_reads(q->locks) >= q->courtesy_reads;
}

/* While a client writes, readers must get in: the gate stays open. */
static void wait_for_wal_writer(struct bh_sql *q, int64_t deadline)
{
    int64_t now;
    while ((now = bh_mono_ms()) < deadline &&
           (!is_courteous(q, now) || bh_locks_wal_summary(q->locks).writing))
        bh_locks_wait(q->locks, now < q->courtesy_until ? q->courtesy_until - now : BACKOFF_MAX_MS);
}

/* One try: with the gate closed and those inside gone, runs `sql` and `also`. EBUSY: not now. */
static int try_to_enter(struct bh_sql *q, enum sql_entry entry, bool wal, const char *sql,
                        int (*also)(struct bh_sql *q, struct bh_error *err), struct bh_error *err)
{
    if (!(wal && entry == TO_READ)) { /* such a reader is in nobody's way */
        bh_gate_close(q->locks);
        if (!bh_gate_drain(q->locks, need_of(entry, wal), DRAIN_MS) ||
            wal != bh_store_is_wal(q->store))
            return EBUSY;
        int unreached = wal ? set_quiet(q, true) : 0;
        if (unreached == EBUSY)
            return EBUSY;
        if (unreached)
            return bh_fail(err, unreached, "the clients' " BH_SHM_NAME " cannot be reached: %s",
                           strerror(unreached));
    }
    int rc = sql_exec_first(q, sql, err);
    return rc == 0 && also ? also(q, err) : rc;
}

int sql_enter(struct bh_sql *q, enum sql_entry entry, int64_t patience_ms, const char *sql,
              int (*also)(struct bh_sql *q, struct bh_error *err), struct bh_error *err)
{
    int64_t deadline = bh_mono_ms() + patience_ms, pause = BACKOFF_MS;
    for (;;) {
        sql_run_urgent(q);
        bool wal = bh_store_is_wal(q->store);
        if (wal && entry != TO_READ)
            wait_for_wal_writer(q, deadline);
        int rc = try_to_enter(q, entry, wal, sql, also, err);
        if (rc != EBUSY)
            return rc;
        if (q->db && !sqlite3_get_autocommit(q->db)) /* BEGIN went well, the lock did not */
            sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL);
        sql_open_gate(q);
        sql_disconnect_if_locking(q);
        if (bh_mono_ms() >= deadline)
            return busy(q, patience_ms, err);
        bh_locks_wait(q->locks, pause);
        pause = pause * 2 < BACKOFF_MAX_MS ? pause * 2 : BACKOFF_MAX_MS;
    }
}

int bh_sql_recover(struct bh_sql *q, struct bh_owner holder, struct bh_error *err)
{
    bh_gate_close(q->locks);
    bh_locks_drop_owner(q->locks, &bh_store_db(q->store)->locks, holder);
    int rc = sql_exec_first(q, "BEGIN; SELECT 1 FROM sqlite_master LIMIT 1", err);
    sql_leave(q);
    return rc;
}

void sql_leave(struct bh_sql *q)
{
    if (q->db && !sqlite3_get_autocommit(q->db) &&
        sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
        bh_log(BH_LOG_ERROR, "a transaction of the daemon could not be rolled back: %s",
               sqlite3_errmsg(q->db));
    sql_open_gate(q);
    sql_disconnect_if_locking(q);
}
