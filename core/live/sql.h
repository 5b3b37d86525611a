/* The SQL thread: the one owner of the daemon's read-write connection to the live database. It
 * takes jobs from a queue, runs queued writing jobs as one transaction (a savepoint each) and
 * commits when the queue is empty or the window ends. Its transactions enter through the gate, so
 * that no client sees SQLITE_BUSY because of them; for a client's transaction it waits a bounded
 * time, then fails with EBUSY and the client's pid and program. */
#ifndef BH_LIVE_SQL_H
#define BH_LIVE_SQL_H

#include "live/vfs.h"

struct bh_sql;

/* A job. 0, or an errno with *err filled: its changes alone are rolled back. */
typedef int bh_sql_fn(sqlite3 *db, void *arg, struct bh_error *err);

enum bh_sql_kind {
    BH_SQL_WRITE,  /* in a transaction, with others; the call returns when it is committed and
                      durable */
    BH_SQL_READ,   /* in a read transaction of its own */
    BH_SQL_URGENT, /* like ALONE, before everything that is queued, even while a transaction waits
                    * to begin: for what that transaction may be waiting for. Must not use the db
                    * handle */
    BH_SQL_ALONE,  /* with no transaction and no lock; clients may be in the database */
    BH_SQL_SWAP, /* no transaction, hot journals rolled back, EXCLUSIVE held against everybody: the
                  * db handle must not be used, as it would meet that lock. In write-ahead mode
                  * everything is in the database's file and -wal is empty */
};

/* Whether the caller is a job of the swap kind; *changed: the content was not all flushed when it
 * got in. (What -wal had is in the database's file by then, and counts as dirty whatever it was.) */
bool bh_sql_in_swap(struct bh_sql *q, bool *changed);

/* In a job of the urgent kind: rolls back the hot journal of the dead client whose EXCLUSIVE
 * `holder` has taken over, and drops that. Nobody gets in between. */
int bh_sql_recover(struct bh_sql *q, struct bh_owner holder, struct bh_error *err);

/* Starts the thread; its connection is made when it is first needed. set_up: SQL that the
 * connection begins with. journal: of its transactions with a rollback journal. busy_ms: how long
 * to wait for clients; window_ms: see above. */
int bh_sql_start(struct bh_sql **out, struct bh_vfs *v, struct bh_store *s, const char *set_up,
                 const char *journal, int64_t busy_ms, int64_t window_ms, struct bh_error *err);
/* Runs what is queued, then ends. */
void bh_sql_stop(struct bh_sql *q);

/* Runs fn on the SQL thread and waits for it. Any thread but the SQL thread and a FUSE loop thread.
 * ESHUTDOWN after stop. */
int bh_sql_run(struct bh_sql *q, enum bh_sql_kind kind, bh_sql_fn *fn, void *arg,
               struct bh_error *err);
/* The same, but a job of kind SWAP waits for clients' transactions for patience_ms only. */
int bh_sql_run_for(struct bh_sql *q, enum bh_sql_kind kind, bh_sql_fn *fn, void *arg,
                   int64_t patience_ms, struct bh_error *err);
/* Queues it and returns at once: for threads that must not wait. done (may be NULL) is called on
 * the SQL thread. */
int bh_sql_post(struct bh_sql *q, enum bh_sql_kind kind, bh_sql_fn *fn, void *arg,
                void (*done)(void *arg, int rc, const struct bh_error *err));

/* Puts what is in -wal into the database's file: what it can beside the clients; if -wal is larger
 * than limit bytes then, also the rest when no client reads for a moment, and empties it. 0 also if
 * they left no such moment, or the database is not in write-ahead mode. As bh_sql_run. */
int bh_sql_checkpoint(struct bh_sql *q, uint64_t limit, struct bh_error *err);
/* Queues that, unless it is queued already; returns at once. */
void bh_sql_post_checkpoint(struct bh_sql *q, uint64_t limit);

/* Transactions that were committed, for metrics. */
uint64_t bh_sql_transactions(struct bh_sql *q);

#endif
