/* What the mount daemon needs of a struct bh beyond buckethead.h. Same rules. */
#ifndef BH_INTERNAL_H
#define BH_INTERNAL_H

#include "bucket/bucket.h"
#include "buckethead.h"
#include "config/config.h"
#include "live/live.h"
#include "repo/history.h"
#include "repo/plain.h"
#include "store/files.h"
#include "util/strbuf.h"

/* Before bh_start: where clients will see the database. 0 or ENOMEM. */
int bh_set_mountpoint(struct bh *b, const char *mountpoint);
/* Before bh_start: nothing but a pin is ever written to the bucket. */
void bh_set_read_only(struct bh *b);
/* Before bh_start: no file store; for tests that put another one behind the history's hooks. */
void bh_set_no_files(struct bh *b);
/* Before bh_start, which then ends with ECANCELED soon after *cancel became true. */
void bh_set_start_cancel(struct bh *b, const atomic_bool *cancel);
struct bh_live *bh_live_of(struct bh *b); /* between start and stop */
const struct bh_config *bh_config_of(struct bh *b);
const char *bh_snapshot_key(struct bh *b); /* between start and stop */
void bh_bucket_stats_of(struct bh *b, struct bh_bucket_stats *out);
/* Lines about how the bucket is reached (bh_bucket_describe). */
void bh_bucket_describe_of(struct bh *b, struct bh_strbuf *out);
struct bh_progress *bh_progress_of(struct bh *b);
uint64_t bh_rescues_of(struct bh *b);
/* Flushes by outcome: unchanged, uploaded, debounced, failed. */
void bh_flush_counts(struct bh *b, uint64_t counts[4]);
/* A copy of a reloadable string of the configuration, freed by the caller; NULL: no memory. */
char *bh_config_string(struct bh *b, char *const *field);
void bh_config_text(struct bh *b, struct bh_strbuf *out);
/* Takes over what may change while running; frees fresh. changes gets a line for each difference.
 */
int bh_reload(struct bh *b, struct bh_config *fresh, struct bh_strbuf *changes,
              struct bh_error *err);
/* The history, for looking (what history.h says any thread may do); NULL without one. Between start
 * and stop. */
struct bh_history *bh_history_of(struct bh *b);
/* See bh_history_stop_reads. */
void bh_stop_reads(struct bh *b, bool stop);
/* The verbs of history.h, each under the turn. EOPNOTSUPP: snapshot.history is off. */
int bh_restore_call(struct bh *b, const char *what, char id[BH_SNAPSHOT_ID_MAX],
                    const struct bh_call *call, struct bh_error *err);
int bh_fork_call(struct bh *b, const char *name, const struct bh_call *call, struct bh_error *err);
int bh_switch_call(struct bh *b, const char *name, const struct bh_call *call,
                   struct bh_error *err);
int bh_delete_branch_call(struct bh *b, const char *name, const struct bh_call *call,
                          struct bh_error *err);
int bh_rename_branch_call(struct bh *b, const char *from, const char *to,
                          const struct bh_call *call, struct bh_error *err);
int bh_label_call(struct bh *b, const char *what, const char *label, const struct bh_call *call,
                  struct bh_error *err);
int bh_unlabel_call(struct bh *b, const char *label, const struct bh_call *call,
                    struct bh_error *err);
int bh_rename_label_call(struct bh *b, const char *from, const char *to, const struct bh_call *call,
                         struct bh_error *err);
int bh_drop_call(struct bh *b, const char *id, const struct bh_call *call, struct bh_error *err);
/* How a mount that follows its branch (snapshot.follow) is doing. */
struct bh_follow_status {
    char newest[BH_SNAPSHOT_ID_MAX]; /* that is known; "" none */
    int64_t lag_ms;                  /* since what is shown is known not to be the newest; 0: it is */
    int64_t looked_ago_ms;           /* since the last look that the bucket answered; -1: none yet */
    uint64_t steps;
    uint64_t failures;             /* of looks and steps; a step that waits for a reader is one */
    char error[BH_ERROR_TEXT_MAX]; /* why it does not show the newest, or does not know it; "" */
};
/* False: it does not follow. */
bool bh_follow_status_of(struct bh *b, struct bh_follow_status *out);
/* Whether a flush would have something to do. Between start and stop. */
bool bh_is_dirty(struct bh *b);
/* The file store; NULL without one (snapshot.history is off). Between start and stop. */
struct bh_files *bh_files_of(struct bh *b);
/* Fetches everything that is not local. Not under the turn: flushes go on. */
int bh_hydrate_call(struct bh *b, const struct bh_call *call, struct bh_error *err);
/* Retention (under the turn), then gc (not under it). report: lines of text, of a failure, too. */
int bh_gc_call(struct bh *b, bool dry_run, struct bh_strbuf *report, const struct bh_call *call,
               struct bh_error *err);
/* See bh_history_verify. Not under the turn. */
int bh_verify_call(struct bh *b, bool full, struct bh_strbuf *report, const struct bh_call *call,
                   struct bh_error *err);

/* Import with limits. */
int bh_import_call(struct bh *b, const char *path, const struct bh_call *call,
                   struct bh_error *err);

#endif
