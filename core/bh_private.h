/* struct bh, for buckethead.c and the files beside it. */
#ifndef BH_PRIVATE_H
#define BH_PRIVATE_H

#include <pthread.h>

#include "bucket/bucket.h"
#include "buckethead.h"
#include "config/config.h"
#include "live/live.h"
#include "profile.h"
#include "repo/history.h"
#include "repo/plain.h"
#include "store/files.h"

struct bh {
    struct bh_config *cfg;
    char *mountpoint; /* NULL without a mount */
    bool read_only, no_files;
    const atomic_bool *start_cancel; /* NULL: a start cannot be cancelled */
    struct bh_callbacks callbacks;
    struct bh_bucket *bucket;
    struct bh_live *live;
    struct bh_plain *plain;
    struct bh_history *history; /* NULL: snapshot.history is off */
    struct bh_files *files;     /* NULL: the same */
    struct bh_profile *profile;
    struct bh_follow *follow; /* NULL: it does not */
    sqlite3 *connection;      /* the keep-alive one */

    pthread_mutex_t life; /* start, stop, connect: one at a time */
    bool started, stopped;

    pthread_mutex_t mutex; /* what follows, and the reloadable keys of cfg */
    pthread_cond_t changed;
    bool running; /* bucket, live and plain are there */
    bool busy;    /* somebody has the turn: flushes, imports or stops */
    bool stopping;
    bool kick; /* the loop looks at its interval again */
    pthread_t loop;
    bool loop_runs;
    atomic_bool cancel; /* of the loop's own flush, at stop */
    pthread_t hydrator;
    bool hydrator_runs;
    bool hydrated; /* all was local once; of that thread */
    atomic_bool hydrator_stops;

    uint64_t flush_index;
    char snapshot[BH_SNAPSHOT_ID_MAX], sha256[BH_SHA256_HEX]; /* of the newest snapshot */
    uint64_t outcomes[4]; /* by enum bh_flush_outcome; the last: failed */
    int64_t last_flush_ms, last_flush_mono_ms;
    double last_flush_seconds;
    bool debounced; /* a flush was asked for since, too soon */
    uint64_t last_flush_bytes;
    char last_error[BH_ERROR_TEXT_MAX];
    struct bh_load_report recovered;
};

enum { BH_OUTCOME_FAILED = 3 };

/* buckethead.c: one flush, import, restore, ... at a time. Whoever has the turn may use bucket,
 * live, plain and history: they come and go only under somebody's turn. */
int bh_take_turn(struct bh *b, const struct bh_call *call, struct bh_error *err);
void bh_end_turn(struct bh *b);
/* With the turn: what others may read of the newest snapshot. */
void bh_note_head(struct bh *b);

/* hydrate.c: the thread that fetches what is not here (live.hydrate, names.db). What it was told
 * ends it soon, and at once where the history's reads are stopped. */
int bh_hydrator_start(struct bh *b, struct bh_error *err);
void bh_hydrator_tell(struct bh *b);
void bh_hydrator_stop(struct bh *b);

/* follow.c: the thread that keeps a read-only mount at the newest snapshot (snapshot.follow).
 * check: whether it can be, before anything is opened. */
int bh_follow_check(struct bh *b, struct bh_error *err);
int bh_follow_start(struct bh *b, struct bh_error *err);
void bh_follow_stop(struct bh *b);

/* connections.c: a connection whose waits for locks end with live.busy_timeout. While b->live is
 * there.
 */
int bh_connect_live(struct bh *b, sqlite3 **db, struct bh_error *err);

#endif
