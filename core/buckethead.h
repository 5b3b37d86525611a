/* libbuckethead: a live SQLite database whose snapshots are kept in a bucket. What buckethead's
 * BucketSQLite is in Python, for C programs; the mount daemon is built on it. Needs no FUSE.
 *
 *   struct bh *b;
 *   struct bh_error err;
 *   if (bh_create_from_config(&b, NULL, "file:///srv/bucket", &err) || bh_start(b, &err)) ...
 * err.text ... sqlite3 *db; bh_connect(b, &db, &err);              a connection for this thread
 *   ...  sqlite3_close(db);
 *   bh_force_flush(b, NULL, &err);         everything committed is in the bucket now
 *   bh_stop(b, &err); bh_destroy(b);
 *
 * Functions return 0 or a positive errno and fill *err (may be NULL) with a sentence. Every
 * function may be called from any thread unless it says otherwise. */
#ifndef BUCKETHEAD_H
#define BUCKETHEAD_H

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BH_API __attribute__((visibility("default")))

#ifndef BH_ERROR_TEXT_MAX
#define BH_ERROR_TEXT_MAX 1024
struct bh_error {
    int code; /* positive errno, 0 when nothing failed */
    char text[BH_ERROR_TEXT_MAX];
};
#endif

struct bh;
struct bh_config; /* core/config/config.h, for programs that build against the source */

/* --- creation --- */

/* From the configuration file (file, or where the documentation says if NULL), the environment and
 * url (NULL: as configured). Opens nothing. *out is freed with bh_destroy. EINVAL, ENOENT, EACCES
 * with file, line and cause. */
BH_API int bh_create_from_config(struct bh **out, const char *file, const char *url,
                                 struct bh_error *err);
/* As above, with "section.key=value" settings (count of them) that stand over everything else. */
BH_API int bh_create_with(struct bh **out, const char *file, const char *url,
                          const char *const *settings, size_t count, struct bh_error *err);
/* The configuration is taken over, also when it fails. */
int bh_create(struct bh **out, struct bh_config *cfg, struct bh_error *err);
/* Stops it first if it runs (without a last flush if that fails: the changes stay in the state
 * directory). NULL is fine. */
BH_API void bh_destroy(struct bh *b);

/* --- callbacks; set before bh_start. They are called on the thread that flushes and must not flush
 * or stop. --- */
struct bh_callbacks {
    void *arg;
    void (*on_flush_start)(void *arg);
    void (*on_flush_complete)(void *arg, double seconds,
                              uint64_t bytes); /* bytes 0: nothing had changed */
    void (*on_flush_error)(void *arg, const struct bh_error *err);
    /* With snapshot.follow, on a thread of its own: another snapshot is shown now, or why it is not
     * has changed. */
    void (*on_follow)(void *arg);
};
BH_API void bh_set_callbacks(struct bh *b, const struct bh_callbacks *callbacks);

/* --- life --- */

/* Opens the state directory and the bucket, loads the newest snapshot unless the state is newer,
 * starts the flush loop. EALREADY: it runs. EBUSY: the state directory is in use. EIO: the snapshot
 * is damaged. */
BH_API int bh_start(struct bh *b, struct bh_error *err);
/* Ends the loop and flushes one last time, within snapshot.stop_timeout. Returns the last flush's
 * error; what was not flushed stays in the state directory for the next start. Idempotent. EBUSY:
 * connections of bh_connect are open; close them and call again. */
BH_API int bh_stop(struct bh *b, struct bh_error *err);
/* While installed, SIGTERM and SIGINT make bh_wait_for_signal return, and a normal exit stops b.
 * The handler sets a flag and wakes one waiter, nothing else. Only one struct bh of a process may
 * have them: EBUSY. */
BH_API int bh_install_signal_handlers(struct bh *b, struct bh_error *err);
/* Gives the default actions back; bh_stop does it, too. */
BH_API void bh_remove_signal_handlers(struct bh *b);
/* Returns the signal. One thread at a time. */
BH_API int bh_wait_for_signal(struct bh *b);

/* --- flushing --- */
struct bh_flush_result;
struct bh_call;
/* Debounced: does nothing if the last successful flush is less than snapshot.min_interval ago. */
BH_API int bh_flush(struct bh *b, struct bh_error *err);
/* Everything that was committed before the call is in the bucket when it returns 0. */
BH_API int bh_force_flush(struct bh *b, struct bh_error *err);
/* The same with limits (may be NULL) and the result (may be NULL); see repo/plain.h. */
int bh_flush_call(struct bh *b, bool force, struct bh_flush_result *result,
                  const struct bh_call *call, struct bh_error *err);

/* --- connections --- */

/* A new connection to the live database, for one thread; the caller closes it with sqlite3_close.
 * EINVAL: not started. */
BH_API int bh_connect(struct bh *b, sqlite3 **db, struct bh_error *err);
/* The connection that lives as long as b runs; NULL when it does not. Serialised by SQLite's own
 * mutex; whoever uses it must not leave a transaction open. Never close it. */
BH_API sqlite3 *bh_connection(struct bh *b);

/* Replaces the content by that of the database file at path, as one transaction, after an integrity
 * check. */
BH_API int bh_import(struct bh *b, const char *path, struct bh_error *err);

/* --- state --- */
struct bh_info {
    bool started, stopped;
    char branch[128];
    char snapshot[32];     /* id of the newest snapshot, "" if none */
    char sha256[65];       /* of the newest snapshot's file, "" if none or not known */
    uint64_t flush_index;  /* successful uploads since the start */
    int64_t last_flush_ms; /* real time of the last successful flush, 0 if none since the start */
    double last_flush_seconds;
    uint64_t last_flush_bytes;
    bool debounced; /* a flush was asked for since then, sooner than min_interval, and not done */
    uint64_t live_bytes;   /* size of the live database */
    uint64_t dirty_bytes;  /* changed since the last flush, in whole sub-blocks */
    char last_error[1024]; /* of the last flush that failed since the last good one; "" */
    char recovered[512];   /* what the start found in bucket and state directory */
};
BH_API void bh_get_info(struct bh *b, struct bh_info *out);

#ifdef __cplusplus
}
#endif
#endif
