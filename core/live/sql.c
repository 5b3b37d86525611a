#include "live/sql.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
/* A checkpoint that must wait for readers is not worth more. */
#define CHECKPOINT_WAIT_MS 500

struct job {
    struct job *next;
    enum bh_sql_kind kind;
    bh_sql_fn *fn;
    void *arg;
    void (*posted)(void *arg, int rc, const struct bh_error *err);
    bool is_posted; /* freed by the thread; otherwise it is on its caller's stack */
    bool finished;
    int rc;
    struct bh_error err;
};

struct bh_sql {
    struct bh_store *store;
    struct bh_vfs *vfs;
    char *set_up, *journal;
    bool is_set_up; /* the connection is */
    struct bh_locks *locks;
    /* NULL while there is none: in write-ahead mode a connection keeps the database locked, which is
     * in the way of a client that leaves that mode, so it is closed after each job. */
    sqlite3 *db;
    int64_t courtesy_until;  /* bh_mono_ms() */
    uint64_t courtesy_reads; /* of bh_locks_wal_reads: they got in */
    atomic_bool checkpoint_posted;
    uint64_t checkpoint_limit;
    int64_t busy_ms, window_ms;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    struct job *head, **tail;
    struct job *urgent; /* newest first: there is hardly ever more than one */
    bool stopping;
    atomic_uint_fast64_t transactions;
};

/* --- the way in and out --- */

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

static int exec(struct bh_sql *q, const char *sql, struct bh_error *err, const char *what)
{
    char reason[BH_ERROR_TEXT_MAX];
    bh_vfs_take_reason(q->vfs, reason); /* somebody else's */
    if (sqlite3_exec(q->db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    int rc = bh_sqlite_fail(q->db, err, what);
    return bh_vfs_take_reason(q->vfs, reason) ? bh_fail(err, rc, "%s", reason) : rc;
}

static int connect_if_needed(struct bh_sql *q, struct bh_error *err)
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

static void disconnect(struct bh_sql *q)
{
    sqlite3_close_v2(q->db);
    q->db = NULL;
}

/* In write-ahead mode a connection that has read keeps SHARED. */
static void disconnect_if_locking(struct bh_sql *q)
{
    int level = 0;
    if (q->db &&
        (sqlite3_file_control(q->db, "main", SQLITE_FCNTL_LOCKSTATE, &level) != SQLITE_OK || level))
        disconnect(q);
}

/* sql takes the lock. Before the first, the connection is set up: not earlier, as that reads the
 * database. */
static int exec_first(struct bh_sql *q, const char *sql, struct bh_error *err)
{
    static const char what[] = "the live database cannot be opened";
    int rc = connect_if_needed(q, err);
    if (rc == 0 && !q->is_set_up) {
        rc = exec(q, q->set_up, err, what);
        if (rc == 0 && !bh_store_is_wal(q->store)) /* it would end that mode */
            rc = exec(q, q->journal, err, what);
        q->is_set_up = rc == 0;
    }
    return rc ? rc : exec(q, sql, err, what);
}

static void finish(struct bh_sql *q, struct job *j);

static void run_urgent(struct bh_sql *q)
{
    for (;;) {
        pthread_mutex_lock(&q->mutex);
        struct job *j = q->urgent;
        if (j)
            q->urgent = j->next;
        pthread_mutex_unlock(&q->mutex);
        if (!j)
            return;
        j->rc = j->fn(q->db, j->arg, &j->err);
        finish(q, j);
    }
}

enum entry { TO_READ, TO_WRITE, TO_REPLACE };

static enum bh_gate_need need_of(enum entry entry, bool wal)
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
    bh_file_unref(shm);
    return rc;
}

static void open_gate(struct bh_sql *q)
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
static int try_to_enter(struct bh_sql *q, enum entry entry, bool wal, const char *sql,
                        int (*also)(struct bh_sql *q, struct bh_error *err), struct bh_error *err)
{
    if (!(wal && entry == TO_READ)) { /* such a reader is in nobody's way */
        bh_gate_close(q->locks);
        if (!bh_gate_drain(q->locks, need_of(entry, wal), DRAIN_MS) ||
            wal != bh_store_is_wal(q->store))
            return EBUSY;
        int unreached = wal ? set_quiet(q, true) : 0;
        if (unreached)
            return bh_fail(err, unreached, "the clients' " BH_SHM_NAME " cannot be reached: %s",
                           strerror(unreached));
    }
    int rc = exec_first(q, sql, err);
    return rc == 0 && also ? also(q, err) : rc;
}

/* Closes the gate, waits for the clients inside, runs `sql` (which takes the lock) and, if not
 * NULL, `also`; tries again until the busy time is over. On success the gate is still closed. */
static int enter(struct bh_sql *q, enum entry entry, int64_t patience_ms, const char *sql,
                 int (*also)(struct bh_sql *q, struct bh_error *err), struct bh_error *err)
{
    int64_t deadline = bh_mono_ms() + patience_ms, pause = BACKOFF_MS;
    for (;;) {
        run_urgent(q);
        bool wal = bh_store_is_wal(q->store);
        if (wal && entry != TO_READ)
            wait_for_wal_writer(q, deadline);
        int rc = try_to_enter(q, entry, wal, sql, also, err);
        if (rc != EBUSY)
            return rc;
        if (q->db && !sqlite3_get_autocommit(q->db)) /* BEGIN went well, the lock did not */
            sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL);
        open_gate(q);
        disconnect_if_locking(q);
        if (bh_mono_ms() >= deadline)
            return busy(q, patience_ms, err);
        bh_locks_wait(q->locks, pause);
        pause = pause * 2 < BACKOFF_MAX_MS ? pause * 2 : BACKOFF_MAX_MS;
    }
}

static void leave(struct bh_sql *q)
{
    if (q->db && !sqlite3_get_autocommit(q->db) &&
        sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
        bh_log(BH_LOG_ERROR, "a transaction of the daemon could not be rolled back: %s",
               sqlite3_errmsg(q->db));
    open_gate(q);
    disconnect_if_locking(q);
}

/* --- jobs --- */

static void finish(struct bh_sql *q, struct job *j)
{
    if (j->is_posted) {
        if (j->posted)
            j->posted(j->arg, j->rc, &j->err);
        free(j);
        return;
    }
    BH_LOCK_SCOPE(&q->mutex);
    j->finished = true;
    pthread_cond_broadcast(&q->done);
}

static void run_savepoint(struct bh_sql *q, struct job *j)
{
    j->rc = exec(q, "SAVEPOINT job", &j->err, "a transaction cannot go on");
    if (j->rc)
        return;
    j->rc = j->fn(q->db, j->arg, &j->err);
    if (sqlite3_get_autocommit(
            q->db)) { /* SQLite rolled everything back (disk full, out of memory) */
        if (j->rc == 0)
            j->rc = bh_fail(&j->err, EIO, "the transaction was rolled back");
        return;
    }
    if (j->rc && sqlite3_exec(q->db, "ROLLBACK TO job", NULL, NULL, NULL) != SQLITE_OK)
        bh_log(BH_LOG_ERROR, "a job could not be rolled back: %s", sqlite3_errmsg(q->db));
    sqlite3_exec(q->db, "RELEASE job", NULL, NULL, NULL);
}

/* The next job if it may join the transaction that began at `since`. */
static struct job *take_writer(struct bh_sql *q, int64_t since)
{
    BH_LOCK_SCOPE(&q->mutex);
    struct job *j = q->head;
    if (!j || j->kind != BH_SQL_WRITE || bh_mono_ms() - since >= q->window_ms)
        return NULL;
    q->head = j->next;
    if (!q->head)
        q->tail = &q->head;
    return j;
}

static void run_writers(struct bh_sql *q, struct job *first)
{
    struct job *batch = NULL, **end = &batch;
    struct bh_error err = {0};
    int rc = enter(q, TO_WRITE, q->busy_ms, "BEGIN EXCLUSIVE", NULL, &err);
    int64_t since = bh_mono_ms();
    for (struct job *j = first; j; j = rc ? NULL : take_writer(q, since)) {
        j->next = NULL;
        *end = j;
        end = &j->next;
        if (rc == 0)
            run_savepoint(q, j);
        if (rc == 0 && sqlite3_get_autocommit(q->db))
            rc = bh_fail(&err, j->rc, "the transaction was rolled back: %s", j->err.text);
    }
    if (rc == 0) {
        rc = exec(q, "COMMIT", &err, "the transaction cannot be committed");
        q->transactions += rc == 0;
    }
    leave(q);
    while (batch) {
        struct job *j = batch;
        batch = j->next;
        if (rc && j->rc == 0) {
            j->rc = rc;
            j->err = err;
        }
        finish(q, j);
    }
}

static int run_reader(struct bh_sql *q, struct job *j)
{
    int rc =
        enter(q, TO_READ, q->busy_ms, "BEGIN; SELECT 1 FROM sqlite_master LIMIT 1", NULL, &j->err);
    if (rc == 0) {
        open_gate(q); /* our SHARED lock holds writers back as long as it must */
        rc = j->fn(q->db, j->arg, &j->err);
    }
    leave(q);
    return rc;
}

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
    disconnect(q); /* and with it its locks */
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
    return bh_store_is_wal(q->store) ? lock_wal(q, err) : lock_database(q, err);
}

/* Clients of the index see a commit, and with it that what they know of the content is old. */
static void announce_swap(struct bh_sql *q, struct bh_file *shm)
{
    struct bh_error err;
    bool alone = bh_locks_attached(q->locks, &shm->locks) == 0 && bh_vfs_connections(q->vfs) == 0;
    int rc = bh_shm_reset(shm->shm, bh_vfs_hooks(q->vfs));
    bh_locks_drop_owner(q->locks, &shm->locks, swap_owner);
    if (rc == 0 && !alone && (rc = exec_first(q, "BEGIN IMMEDIATE", &err)) == 0) {
        int version = 0;
        sqlite3_stmt *st = NULL;
        if (sqlite3_prepare_v2(q->db, "PRAGMA user_version", -1, &st, NULL) == SQLITE_OK &&
            sqlite3_step(st) == SQLITE_ROW)
            version = sqlite3_column_int(st, 0);
        sqlite3_finalize(st);
        char sql[64]; /* written even if it is the same: page 1 changes */
        snprintf(sql, sizeof sql, "PRAGMA user_version=%d; COMMIT", version);
        rc = exec(q, sql, &err, "the new content cannot be announced");
    }
    if (rc) { /* the index is void, so they find out by themselves, but for an unlucky case */
        bh_locks_refuse_wal_writers(q->locks, true);
        bh_log(BH_LOG_ERROR,
               "clients that have " BH_DB_NAME
               " open may not see that it was replaced (errno %d): end them, and mount again",
               rc);
    }
}

static int run_swap(struct bh_sql *q, struct job *j)
{
    struct bh_file *shm = NULL;
    /* The read rolls a hot journal back, or fails with the reason why it cannot. */
    int rc = enter(q, TO_REPLACE, q->busy_ms, "BEGIN; SELECT 1 FROM sqlite_master LIMIT 1; COMMIT",
                   enter_swap, &j->err);
    bool wal = rc == 0 && bh_store_is_wal(q->store);
    if (wal && (rc = bh_store_shm(q->store, &shm)) != 0)
        bh_fail(&j->err, rc, "the live database cannot be locked: %s", strerror(rc));
    if (rc == 0)
        rc = j->fn(q->db, j->arg, &j->err);
    bh_locks_drop_owner(q->locks, &bh_store_db(q->store)->locks, swap_owner);
    if (shm && rc == 0)
        announce_swap(q, shm);
    else if (shm)
        bh_locks_drop_owner(q->locks, &shm->locks, swap_owner);
    bh_file_unref(shm);
    leave(q);
    return rc;
}

/* --- checkpoints --- */

static int checkpoint(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct bh_sql *q = arg;
    (void)db;
    if (!bh_store_is_wal(q->store))
        return 0;
    int rc = exec_first(q, "SELECT 1 FROM sqlite_master LIMIT 1", err);
    if (rc == 0 && sqlite3_wal_checkpoint_v2(q->db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL,
                                             NULL) != SQLITE_OK)
        rc = bh_sqlite_fail(q->db, err, "the log cannot be checkpointed");
    disconnect_if_locking(q);
    if (rc == 0 && bh_store_wal_size(q->store) > q->checkpoint_limit) {
        rc = enter(q, TO_REPLACE, CHECKPOINT_WAIT_MS, "SELECT 1 FROM sqlite_master LIMIT 1",
                   empty_wal, err);
        leave(q);
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

static int run_alone(struct bh_sql *q, struct job *j)
{
    int rc = connect_if_needed(q, &j->err);
    if (rc == 0)
        rc = j->fn(q->db, j->arg, &j->err);
    disconnect_if_locking(q);
    return rc;
}

static void run(struct bh_sql *q, struct job *j)
{
    if (j->kind == BH_SQL_WRITE) {
        run_writers(q, j);
        return;
    }
    j->rc = j->kind == BH_SQL_READ   ? run_reader(q, j)
            : j->kind == BH_SQL_SWAP ? run_swap(q, j)
                                     : run_alone(q, j);
    finish(q, j);
}

static void *thread_main(void *arg)
{
    struct bh_sql *q = arg;
    pthread_setname_np(pthread_self(), "bhfs-sql");
    pthread_mutex_lock(&q->mutex);
    for (;;) {
        while (!q->head && !q->urgent && !q->stopping)
            pthread_cond_wait(&q->wake, &q->mutex);
        if (q->urgent) {
            pthread_mutex_unlock(&q->mutex);
            run_urgent(q);
            pthread_mutex_lock(&q->mutex);
            continue;
        }
        struct job *j = q->head;
        if (!j)
            break;
        q->head = j->next;
        if (!q->head)
            q->tail = &q->head;
        pthread_mutex_unlock(&q->mutex);
        run(q, j);
        pthread_mutex_lock(&q->mutex);
    }
    pthread_mutex_unlock(&q->mutex);
    return NULL;
}

static int push(struct bh_sql *q, struct job *j)
{
    if (q->stopping)
        return ESHUTDOWN;
    j->next = NULL;
    if (j->kind == BH_SQL_URGENT) {
        j->next = q->urgent;
        q->urgent = j;
    } else {
        *q->tail = j;
        q->tail = &j->next;
    }
    pthread_cond_signal(&q->wake);
    return 0;
}

int bh_sql_run(struct bh_sql *q, enum bh_sql_kind kind, bh_sql_fn *fn, void *arg,
               struct bh_error *err)
{
    struct job j = {.kind = kind, .fn = fn, .arg = arg};
    pthread_mutex_lock(&q->mutex);
    int rc = push(q, &j);
    while (rc == 0 && !j.finished)
        pthread_cond_wait(&q->done, &q->mutex);
    pthread_mutex_unlock(&q->mutex);
    if (rc)
        return bh_fail(err, rc, "the live database is being closed");
    if (j.rc && err)
        *err = j.err;
    return j.rc;
}

int bh_sql_post(struct bh_sql *q, enum bh_sql_kind kind, bh_sql_fn *fn, void *arg,
                void (*done)(void *arg, int rc, const struct bh_error *err))
{
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return ENOMEM;
    j->kind = kind;
    j->fn = fn;
    j->arg = arg;
    j->posted = done;
    j->is_posted = true;
    pthread_mutex_lock(&q->mutex);
    int rc = push(q, j);
    pthread_mutex_unlock(&q->mutex);
    if (rc)
        free(j);
    return rc;
}

/* --- start and stop --- */

int bh_sql_start(struct bh_sql **out, struct bh_vfs *v, struct bh_store *s, const char *set_up,
                 const char *journal, int64_t busy_ms, int64_t window_ms, struct bh_error *err)
{
    struct bh_sql *q = calloc(1, sizeof *q);
    if (!q)
        return bh_fail(err, ENOMEM, "out of memory while starting the SQL thread");
    q->store = s;
    q->vfs = v;
    q->set_up = strdup(set_up);
    q->journal = strdup(journal);
    q->locks = bh_store_locks(s);
    q->busy_ms = busy_ms;
    q->window_ms = window_ms;
    q->tail = &q->head;
    pthread_mutex_init(&q->mutex, NULL);
    pthread_cond_init(&q->wake, NULL);
    pthread_cond_init(&q->done, NULL);
    int rc = q->set_up && q->journal ? connect_if_needed(q, err)
                                     : bh_fail(err, ENOMEM, "out of memory");
    if (rc == 0 && (rc = pthread_create(&q->thread, NULL, thread_main, q)) != 0)
        bh_fail(err, rc, "the SQL thread cannot be started: %s", strerror(rc));
    if (rc) {
        disconnect(q);
        free(q->set_up);
        free(q->journal);
        free(q);
        return rc;
    }
    *out = q;
    return 0;
}

void bh_sql_stop(struct bh_sql *q)
{
    if (!q)
        return;
    pthread_mutex_lock(&q->mutex);
    q->stopping = true;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->mutex);
    pthread_join(q->thread, NULL);
    sqlite3_close_v2(q->db);
    free(q->set_up);
    free(q->journal);
    pthread_cond_destroy(&q->wake);
    pthread_cond_destroy(&q->done);
    pthread_mutex_destroy(&q->mutex);
    free(q);
}

uint64_t bh_sql_transactions(struct bh_sql *q)
{
    return atomic_load(&q->transactions);
}
