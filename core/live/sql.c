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
    char *set_up; /* NULL: done */
    struct bh_locks *locks;
    sqlite3 *db;
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

static int busy(struct bh_sql *q, struct bh_error *err)
{
    struct bh_lock_summary sum = bh_locks_summary(q->locks, &bh_store_db(q->store)->locks);
    char path[64], name[64] = "?";
    if (sum.pid <= 0)
        return bh_fail(err, EBUSY, BH_DB_NAME " was busy for %lld ms; try again",
                       (long long)q->busy_ms);
    /* comm needs none of the process's own locks, unlike cmdline, which can hang on a process that
     * waits for us */
    snprintf(path, sizeof path, "/proc/%d/comm", (int)sum.pid);
    BH_FILE FILE *f = fopen(path, "re");
    if (f && fgets(name, sizeof name, f))
        name[strcspn(name, "\n")] = '\0';
    return bh_fail(err, EBUSY,
                   "process %d (%s) kept its transaction on " BH_DB_NAME
                   " open for more than %lld ms; end it and try again",
                   (int)sum.pid, name, (long long)q->busy_ms);
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

/* sql takes the lock. Before the first, the connection is set up: not earlier, as that reads the
 * database. */
static int exec_first(struct bh_sql *q, const char *sql, struct bh_error *err)
{
    static const char what[] = "the live database cannot be opened";
    if (q->set_up) {
        int rc = exec(q, q->set_up, err, what);
        if (rc)
            return rc;
        free(q->set_up);
        q->set_up = NULL;
    }
    return exec(q, sql, err, what);
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

/* Closes the gate, waits for the clients inside, runs `sql` (which takes the lock) and, if not
 * NULL, `also`; tries again until the busy time is over. On success the gate is still closed. */
static int enter(struct bh_sql *q, enum bh_gate_need need, const char *sql,
                 int (*also)(struct bh_sql *q, struct bh_error *err), struct bh_error *err)
{
    int64_t deadline = bh_mono_ms() + q->busy_ms, pause = BACKOFF_MS;
    for (;;) {
        run_urgent(q);
        bh_gate_close(q->locks);
        if (bh_gate_drain(q->locks, need, DRAIN_MS)) {
            int rc = exec_first(q, sql, err);
            if (rc == 0 && also)
                rc = also(q, err);
            if (rc != EBUSY)
                return rc;
            if (!sqlite3_get_autocommit(q->db)) /* BEGIN went well, the lock did not */
                sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL);
        }
        bh_gate_open(q->locks);
        if (bh_mono_ms() >= deadline)
            return busy(q, err);
        bh_locks_wait(q->locks, pause);
        pause = pause * 2 < BACKOFF_MAX_MS ? pause * 2 : BACKOFF_MAX_MS;
    }
}

static void leave(struct bh_sql *q)
{
    if (!sqlite3_get_autocommit(q->db) &&
        sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
        bh_log(BH_LOG_ERROR, "a transaction of the daemon could not be rolled back: %s",
               sqlite3_errmsg(q->db));
    bh_gate_open(q->locks);
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
    int rc = enter(q, BH_GATE_NO_CLIENTS, "BEGIN EXCLUSIVE", NULL, &err);
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
        enter(q, BH_GATE_NO_WRITERS, "BEGIN; SELECT 1 FROM sqlite_master LIMIT 1", NULL, &j->err);
    if (rc == 0) {
        bh_gate_open(q->locks); /* our SHARED lock holds writers back as long as it must */
        rc = j->fn(q->db, j->arg, &j->err);
    }
    leave(q);
    return rc;
}

/* EXCLUSIVE for the daemon as such, not for its connection, whose idea of the content is about to
 * become wrong. */
static const struct bh_owner swap_owner = {.id = UINT64_MAX - 1, .internal = true};

static int lock_for_swap(struct bh_sql *q, struct bh_error *err)
{
    struct bh_lock_request r = {.set = &bh_store_db(q->store)->locks,
                                .owner = swap_owner,
                                .type = BH_LOCK_WRITE,
                                .start = BH_PENDING_BYTE,
                                .end = BH_SHARED_FIRST + BH_SHARED_SIZE - 1};
    int rc = bh_locks_request(q->locks, &r);
    if (rc == EAGAIN) /* a connection of bh_connect */
        return bh_fail(err, EBUSY, BH_DB_NAME " is in use");
    return rc ? bh_fail(err, rc, "the live database cannot be locked: %s", strerror(rc)) : 0;
}

static int run_swap(struct bh_sql *q, struct job *j)
{
    /* The read rolls a hot journal back, or fails with the reason why it cannot. */
    int rc = enter(q, BH_GATE_NO_CLIENTS, "BEGIN; SELECT 1 FROM sqlite_master LIMIT 1; COMMIT",
                   lock_for_swap, &j->err);
    if (rc == 0)
        rc = j->fn(q->db, j->arg, &j->err);
    bh_locks_drop_owner(q->locks, &bh_store_db(q->store)->locks, swap_owner);
    leave(q);
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
                                     : j->fn(q->db, j->arg, &j->err);
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
                 int64_t busy_ms, int64_t window_ms, struct bh_error *err)
{
    struct bh_sql *q = calloc(1, sizeof *q);
    if (!q)
        return bh_fail(err, ENOMEM, "out of memory while starting the SQL thread");
    q->store = s;
    q->vfs = v;
    q->set_up = strdup(set_up);
    q->locks = bh_store_locks(s);
    q->busy_ms = busy_ms;
    q->window_ms = window_ms;
    q->tail = &q->head;
    pthread_mutex_init(&q->mutex, NULL);
    pthread_cond_init(&q->wake, NULL);
    pthread_cond_init(&q->done, NULL);
    int rc = q->set_up ? bh_vfs_connect(v, &q->db, err) : bh_fail(err, ENOMEM, "out of memory");
    if (rc == 0) {
        sqlite3_busy_timeout(q->db, 0); /* the gate waits, not SQLite */
        sqlite3_db_config(q->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
        rc = pthread_create(&q->thread, NULL, thread_main, q);
        if (rc)
            bh_fail(err, rc, "the SQL thread cannot be started: %s", strerror(rc));
    }
    if (rc) {
        sqlite3_close(q->db);
        free(q->set_up);
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
    pthread_cond_destroy(&q->wake);
    pthread_cond_destroy(&q->done);
    pthread_mutex_destroy(&q->mutex);
    free(q);
}

uint64_t bh_sql_transactions(struct bh_sql *q)
{
    return atomic_load(&q->transactions);
}
