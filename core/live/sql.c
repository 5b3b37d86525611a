#include "live/sql_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

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

void sql_run_urgent(struct bh_sql *q)
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

static void run_savepoint(struct bh_sql *q, struct job *j)
{
    j->rc = sql_exec(q, "SAVEPOINT job", &j->err, "a transaction cannot go on");
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
    int rc = sql_enter(q, TO_WRITE, q->busy_ms, "BEGIN EXCLUSIVE", NULL, &err);
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
        rc = sql_exec(q, "COMMIT", &err, "the transaction cannot be committed");
        q->transactions += rc == 0;
    }
    sql_leave(q);
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
    int rc = sql_enter(q, TO_READ, q->busy_ms, "BEGIN; SELECT 1 FROM sqlite_master LIMIT 1", NULL,
                       &j->err);
    if (rc == 0) {
        sql_open_gate(q); /* our SHARED lock holds writers back as long as it must */
        rc = j->fn(q->db, j->arg, &j->err);
    }
    sql_leave(q);
    return rc;
}

static int run_alone(struct bh_sql *q, struct job *j)
{
    int rc = sql_connect(q, &j->err);
    if (rc == 0)
        rc = j->fn(q->db, j->arg, &j->err);
    sql_disconnect_if_locking(q);
    return rc;
}

static void run(struct bh_sql *q, struct job *j)
{
    if (j->kind == BH_SQL_WRITE) {
        run_writers(q, j);
        return;
    }
    j->rc = j->kind == BH_SQL_READ   ? run_reader(q, j)
            : j->kind == BH_SQL_SWAP ? sql_run_swap(q, j)
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
            sql_run_urgent(q);
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
    return bh_sql_run_for(q, kind, fn, arg, q->busy_ms, err);
}

int bh_sql_run_for(struct bh_sql *q, enum bh_sql_kind kind, bh_sql_fn *fn, void *arg,
                   int64_t patience_ms, struct bh_error *err)
{
    struct job j = {.kind = kind, .fn = fn, .arg = arg, .patience_ms = patience_ms};
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
    j->patience_ms = q->busy_ms;
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
    int rc = q->set_up && q->journal ? sql_connect(q, err) : bh_fail(err, ENOMEM, "out of memory");
    if (rc == 0 && (rc = pthread_create(&q->thread, NULL, thread_main, q)) != 0)
        bh_fail(err, rc, "the SQL thread cannot be started: %s", strerror(rc));
    if (rc) {
        sql_disconnect(q);
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
