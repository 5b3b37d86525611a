/* What sql.c (jobs and the thread), sql_gate.c (how transactions begin and end) and sql_swap.c
 * share. */
#ifndef BH_LIVE_SQL_PRIVATE_H
#define BH_LIVE_SQL_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "live/sql.h"

struct job {
    struct job *next;
    enum bh_sql_kind kind;
    bh_sql_fn *fn;
    void *arg;
    int64_t patience_ms;
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
    /* NULL while there is none: in write-ahead mode a connection keeps the database locked, which
     * is in the way of a client that leaves that mode, so it is closed after each job. */
    sqlite3 *db;
    int64_t courtesy_until;  /* bh_mono_ms() */
    uint64_t courtesy_reads; /* of bh_locks_wal_reads: they got in */
    atomic_bool checkpoint_posted;
    uint64_t checkpoint_limit;
    bool swapping, swap_changed; /* see bh_sql_in_swap */
    int64_t busy_ms, window_ms;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    struct job *head, **tail;
    struct job *urgent; /* newest first: there is hardly ever more than one */
    bool stopping;
    atomic_uint_fast64_t transactions;
};

/* All on the SQL thread. */

/* What queued jobs of the urgent kind there are. */
void sql_run_urgent(struct bh_sql *q);

/* --- sql_gate.c --- */
int sql_exec(struct bh_sql *q, const char *sql, struct bh_error *err, const char *what);
/* Makes the connection if there is none. */
int sql_connect(struct bh_sql *q, struct bh_error *err);
void sql_disconnect(struct bh_sql *q);
/* In write-ahead mode a connection that has read keeps SHARED. */
void sql_disconnect_if_locking(struct bh_sql *q);
/* sql takes the lock. Before the first, the connection is set up: not earlier, as that reads the
 * database. */
int sql_exec_first(struct bh_sql *q, const char *sql, struct bh_error *err);

enum sql_entry { TO_READ, TO_WRITE, TO_REPLACE };

/* Closes the gate, waits for the clients inside, runs `sql` (which takes the lock) and, if not
 * NULL, `also`; tries again until the busy time is over. On success the gate is still closed. */
int sql_enter(struct bh_sql *q, enum sql_entry entry, int64_t patience_ms, const char *sql,
              int (*also)(struct bh_sql *q, struct bh_error *err), struct bh_error *err);
void sql_leave(struct bh_sql *q);
void sql_open_gate(struct bh_sql *q);

/* --- sql_swap.c --- */
int sql_run_swap(struct bh_sql *q, struct job *j);

#endif
