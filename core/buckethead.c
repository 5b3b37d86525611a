#include "buckethead.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bh_private.h"
#include "internal.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/random.h"

/* While a thread waits for its turn it looks this often whether it was cancelled. */
#define TURN_POLL_MS 50
/* Pauses between tries of the loop, and of the last flush, after an error. */
#define RETRY_MIN_MS 500
#define RETRY_MAX_MS 60000
/* For the look at a snapshot in a store that has just not answered. */
#define AWAY_MS 2000

/* --- creation --- */

int bh_create(struct bh **out, struct bh_config *cfg, struct bh_error *err)
{
    struct bh *b = calloc(1, sizeof *b);
    if (!b) {
        bh_config_free(cfg);
        return bh_fail(err, ENOMEM, "out of memory");
    }
    b->cfg = cfg;
    pthread_mutex_init(&b->life, NULL);
    pthread_mutex_init(&b->mutex, NULL);
    bh_cond_init(&b->changed);
    *out = b;
    return 0;
}

int bh_create_with(struct bh **out, const char *file, const char *url, const char *const *settings,
                   size_t count, struct bh_error *err)
{
    struct bh_config *cfg;
    struct bh_config_request req = {.file = file,
                                    .url = url,
                                    .overrides = settings,
                                    .override_count = count,
                                    .use_environment = true};
    int rc = bh_config_load(&cfg, &req, err);
    return rc ? rc : bh_create(out, cfg, err);
}

int bh_create_from_config(struct bh **out, const char *file, const char *url, struct bh_error *err)
{
    return bh_create_with(out, file, url, NULL, 0, err);
}

void bh_set_callbacks(struct bh *b, const struct bh_callbacks *callbacks)
{
    b->callbacks = *callbacks;
}

int bh_set_mountpoint(struct bh *b, const char *mountpoint)
{
    free(b->mountpoint);
    return (b->mountpoint = strdup(mountpoint)) ? 0 : ENOMEM;
}

void bh_set_read_only(struct bh *b)
{
    b->read_only = true;
}

void bh_set_no_files(struct bh *b)
{
    b->no_files = true;
}

void bh_set_start_cancel(struct bh *b, const atomic_bool *cancel)
{
    b->start_cancel = cancel;
}

/* --- taking turns: one flush or import at a time --- */

static int wait_turn(struct bh *b, const struct bh_call *call, struct bh_error *err)
{
    int rc = 0;
    while (b->busy && rc == 0) {
        struct timespec until = bh_mono_after_ms(TURN_POLL_MS);
        pthread_cond_timedwait(&b->changed, &b->mutex, &until);
        rc = bh_call_check(call, "waiting for the flush under way", err);
    }
    return rc;
}

int bh_take_turn(struct bh *b, const struct bh_call *call, struct bh_error *err)
{
    BH_LOCK_SCOPE(&b->mutex);
    int rc = wait_turn(b, call, err);
    if (rc == 0 && !b->running)
        rc = bh_fail(err, EINVAL, "there is no live database: not started, or stopped");
    if (rc == 0)
        b->busy = true;
    return rc;
}

void bh_end_turn(struct bh *b)
{
    BH_LOCK_SCOPE(&b->mutex);
    b->busy = false;
    pthread_cond_broadcast(&b->changed);
}

/* --- flushing --- */

static bool is_debounced(struct bh *b)
{
    BH_LOCK_SCOPE(&b->mutex);
    return b->last_flush_mono_ms &&
           bh_mono_ms() - b->last_flush_mono_ms < b->cfg->snapshot.min_interval_ms;
}

/* What others may read while a flush changes the state. With b->mutex, by whoever has the turn. */
static void copy_head(struct bh *b)
{
    const struct bh_state *st = &b->live->dir.state;
    memcpy(b->snapshot, st->base_snapshot, sizeof b->snapshot);
    memcpy(b->sha256, st->base_sha256, sizeof b->sha256);
}

void bh_note_head(struct bh *b)
{
    BH_LOCK_SCOPE(&b->mutex);
    copy_head(b);
}

static void note_result(struct bh *b, int rc, const struct bh_flush_result *r,
                        const struct bh_error *err)
{
    BH_LOCK_SCOPE(&b->mutex);
    b->outcomes[rc ? BH_OUTCOME_FAILED : (int)r->outcome]++;
    if (rc) {
        memcpy(b->last_error, err->text, sizeof b->last_error);
        return;
    }
    copy_head(b);
    b->last_error[0] = '\0';
    b->debounced = false;
    b->last_flush_ms = bh_real_ms();
    b->last_flush_mono_ms = bh_mono_ms();
    b->last_flush_seconds = r->seconds;
    b->last_flush_bytes = r->bytes;
    b->flush_index += r->outcome == BH_FLUSH_UPLOADED;
}

static int flush_now(struct bh *b, bool last, struct bh_flush_result *r,
                     const struct bh_call *limits, struct bh_error *err)
{
    struct bh_call own = limits ? *limits : (struct bh_call){0}, *call = &own;
    if (!own.stop)
        own.stop = &b->cancel;
    if (b->callbacks.on_flush_start)
        b->callbacks.on_flush_start(b->callbacks.arg);
    pthread_mutex_lock(&b->mutex);
    bool keep = b->cfg->snapshot.keep_previous; /* a reload may change it */
    pthread_mutex_unlock(&b->mutex);
    int rc = b->history ? bh_history_flush(b->history, keep, last, r, call, err)
                        : bh_plain_flush(b->plain, keep, r, call, err);
    note_result(b, rc, r, err);
    bh_profile_flush(b->profile, rc, r, err);
    if (rc) {
        bh_log(BH_LOG_ERROR, "the flush failed: %s", err->text);
        if (b->callbacks.on_flush_error)
            b->callbacks.on_flush_error(b->callbacks.arg, err);
        return rc;
    }
    if (r->outcome == BH_FLUSH_UPLOADED)
        bh_log(BH_LOG_INFO, "flushed %s: %llu bytes in %.3f s", r->snapshot,
               (unsigned long long)r->bytes, r->seconds);
    if (b->callbacks.on_flush_complete)
        b->callbacks.on_flush_complete(b->callbacks.arg, r->seconds, r->bytes);
    return 0;
}

int bh_flush_call(struct bh *b, bool force, struct bh_flush_result *result,
                  const struct bh_call *call, struct bh_error *err)
{
    struct bh_error local;
    struct bh_flush_result r = {0};
    err = err ? err : &local;
    if (b->read_only)
        return bh_fail(err, EROFS, "this is a read-only mount: it writes nothing to the bucket");
    int rc = bh_take_turn(b, call, err);
    if (rc)
        return rc;
    if (!force && is_debounced(b)) {
        r.outcome = BH_FLUSH_DEBOUNCED;
        snprintf(r.snapshot, sizeof r.snapshot, "%s", b->live->dir.state.base_snapshot);
        BH_LOCK_SCOPE(&b->mutex);
        b->outcomes[BH_FLUSH_DEBOUNCED]++;
        b->debounced = true;
    } else {
        rc = flush_now(b, false, &r, call, err);
    }
    bh_end_turn(b);
    if (result)
        *result = r;
    return rc;
}

int bh_flush(struct bh *b, struct bh_error *err)
{
    return bh_flush_call(b, false, NULL, NULL, err);
}

int bh_force_flush(struct bh *b, struct bh_error *err)
{
    return bh_flush_call(b, true, NULL, NULL, err);
}

/* --- the loop --- */

/* Sleeps until something happens or `ms` (0: for ever) are over. False: the loop ends. */
static bool loop_sleep(struct bh *b, int64_t ms)
{
    struct timespec until = bh_mono_after_ms(ms);
    BH_LOCK_SCOPE(&b->mutex);
    while (!b->stopping && !b->kick) {
        int rc = ms ? pthread_cond_timedwait(&b->changed, &b->mutex, &until)
                    : pthread_cond_wait(&b->changed, &b->mutex);
        if (rc == ETIMEDOUT)
            break;
    }
    b->kick = false;
    return !b->stopping;
}

static int64_t interval_of(struct bh *b)
{
    BH_LOCK_SCOPE(&b->mutex);
    return b->cfg->snapshot.interval_ms;
}

bool bh_is_dirty(struct bh *b)
{
    return b->history ? bh_history_is_dirty(b->history) : bh_store_is_dirty(b->live->store);
}

/* An idle mount keeps its branch. */
static void renew_lease(struct bh *b)
{
    struct bh_error err;
    if (!b->history || bh_take_turn(b, NULL, &err) != 0)
        return;
    struct bh_call call = {.stop = &b->cancel};
    int rc = bh_history_renew(b->history, &call, &err);
    bh_end_turn(b);
    if (rc)
        bh_log(BH_LOG_ERROR, "the lease could not be renewed: %s", err.text);
}

/* Sleeps `wait` (0: for ever), renewing the lease in between, for which *renewed remembers the last
 * time. False: the loop ends. *over: the time is, rather than that something happened. */
static bool loop_wait(struct bh *b, int64_t wait, int64_t *renewed, bool *over)
{
    int64_t end = bh_mono_ms() + wait, every = b->history ? b->cfg->snapshot.lease_ms / 3 : 0;
    for (;;) {
        int64_t now = bh_mono_ms(), until = wait ? end : INT64_MAX;
        if (every && now >= *renewed + every) {
            renew_lease(b);
            *renewed = now = bh_mono_ms();
        }
        *over = now >= until;
        if (*over)
            return true;
        if (every && *renewed + every < until)
            until = *renewed + every;
        if (!loop_sleep(b, until == INT64_MAX ? 0 : until - now))
            return false;
        if (bh_mono_ms() < until) /* woken */
            return true;
    }
}

static void *loop_main(void *arg)
{
    struct bh *b = arg;
    int64_t retry = 0, renewed = bh_mono_ms();
    pthread_setname_np(pthread_self(), "bhfs-flush");
    for (;;) {
        int64_t interval = interval_of(b), wait = interval;
        bool over;
        if (retry && (!interval || retry < interval))
            wait = bh_jitter_ms(retry);
        if (!loop_wait(b, wait, &renewed, &over))
            return NULL;
        if (!over || b->read_only || !bh_is_dirty(b))
            continue;
        struct bh_error err;
        if (bh_flush_call(b, true, NULL, NULL, &err) == 0)
            retry = 0;
        else
            retry = !retry ? RETRY_MIN_MS : retry * 2 < RETRY_MAX_MS ? retry * 2 : RETRY_MAX_MS;
    }
}

/* --- start and stop --- */

/* orderly: the end of a mount, rather than of a start that failed. */
static void tear_down(struct bh *b, bool orderly)
{
    struct bh_error err;
    bh_follow_stop(b);
    sqlite3_close_v2(b->connection);
    b->connection = NULL;
    if (b->files)
        bh_files_stop(b->files, true);
    if (b->history)
        bh_history_stop_reads(b->history, true);
    bh_hydrator_stop(b);
    bh_files_free(b->files);
    b->files = NULL;
    /* Nobody fetches any more: what is synced here is all there is. */
    if (orderly && b->history && bh_history_rest(b->history, &err) != 0)
        bh_log(BH_LOG_WARNING, "%s", err.text);
    bh_live_close(b->live);
    b->live = NULL;
    bh_history_free(b->history); /* what the live database reads from */
    b->history = NULL;
    bh_plain_free(b->plain);
    b->plain = NULL;
    bh_profile_close(b->profile, b->bucket);
    b->profile = NULL;
    bh_bucket_close(b->bucket);
    b->bucket = NULL;
}

/* What a look at the snapshot's key ends with: 0 also where there is none. */
static int look(struct bh *b, const struct bh_call *call, struct bh_error *err)
{
    BH_FREE char *key = bh_config_snapshot_key(b->cfg);
    struct bh_object_info info;
    int rc = key ? bh_bucket_head(b->bucket, key, &info, call, err)
                 : bh_fail(err, ENOMEM, "out of memory");
    return rc == ENOENT ? 0 : rc;
}

/* Makes the bucket where it is missing and wanted, and finds out what it can do. A store that does
 * not answer now is no reason to fail: whether there is a state to go on with is bh_plain_load's
 * business. */
static int start_bucket(struct bh *b, struct bh_call *call, struct bh_error *err)
{
    int rc = bh_bucket_open(&b->bucket, b->cfg, err);
    if (rc || b->read_only)
        return rc;
    int seen = look(b, call, err);
    if (seen == ETIMEDOUT || seen == EIO || seen == EAGAIN) {
        bh_log(BH_LOG_WARNING, "%s", err->text);
        call->deadline_ms = bh_mono_ms() + AWAY_MS; /* it was waited for long enough */
        return 0;
    }
    if (seen == ENODEV && b->cfg->bucket.create) {
        seen = bh_bucket_make(b->bucket, call, err);
        if (seen == 0)
            bh_log(BH_LOG_INFO, "made the bucket %s", b->cfg->bucket.name);
    }
    if (seen)
        return seen;
    rc = bh_bucket_learn(b->bucket, call, err);
    if (rc == EACCES)
        return bh_fail_prefix(err, rc,
                              "the bucket can be read, but not written (mount with -o ro to "
                              "read it)");
    if (rc == ETIMEDOUT || rc == EIO || rc == EAGAIN) { /* the first flush tries again */
        bh_log(BH_LOG_WARNING, "%s", err->text);
        return 0;
    }
    return rc;
}

/* A flush on the way of something else, which has the turn. */
static int flush_within(void *arg, const struct bh_call *call, struct bh_error *err)
{
    struct bh_flush_result result;
    return flush_now(arg, false, &result, call, err);
}

static int load(struct bh *b, struct bh_load_report *report, const struct bh_call *call,
                struct bh_error *err)
{
    if (!b->history) {
        if (b->live->dir.state.stepped)
            return bh_fail(err, EINVAL,
                           "%s is a follower's, which needs snapshot.history = true; use another "
                           "live.dir",
                           b->live->dir.path);
        bh_live_recover(b->live);
        return bh_plain_load(b->plain, report, call, err);
    }
    bh_history_set_live(b->history, b->live);
    bh_history_set_flush(b->history, flush_within, b);
    bh_history_set_files(b->history, b->files ? bh_files_hooks(b->files) : NULL);
    return bh_history_load(b->history, report, call, err);
}

static int start_parts(struct bh *b, struct bh_error *err)
{
    struct bh_call call = {.cancel = b->start_cancel};
    struct bh_load_report report = {0};
    int rc = bh_follow_check(b, err);
    if (rc == 0)
        rc = start_bucket(b, &call, err);
    if (rc == 0)
        rc = bh_profile_open(&b->profile, b->cfg, err);
    if (rc == 0)
        rc = bh_live_open(&b->live, b->cfg, b->mountpoint, err);
    if (rc == 0)
        rc = bh_plain_new(&b->plain, b->cfg, b->bucket, b->live, b->read_only, err);
    if (rc == 0 && b->cfg->snapshot.history)
        rc = bh_history_new(&b->history, b->cfg, b->bucket, b->plain, b->read_only, err);
    if (rc == 0 && b->history && !b->no_files)
        rc = bh_files_new(&b->files, b->cfg, b->live, b->bucket, b->read_only, err);
    if (rc == 0)
        rc = load(b, &report, &call, err);
    if (rc == 0)
        rc = bh_live_settle_mode(b->live, b->read_only, err);
    if (rc == 0)
        rc = bh_connect_live(b, &b->connection, err);
    if (rc == 0)
        rc = bh_store_set_cache_max(b->live->store, b->cfg->live.cache_max, err);
    if (rc)
        return rc;
    if (report.text[0])
        bh_log(BH_LOG_INFO, "%s", report.text);
    pthread_mutex_lock(&b->mutex);
    copy_head(b);
    b->recovered = report;
    b->stopping = false;
    pthread_mutex_unlock(&b->mutex);
    atomic_store(&b->cancel, false);
    if (b->files && (rc = bh_files_start(b->files, err)) != 0)
        return rc;
    if ((rc = bh_hydrator_start(b, err)) != 0 || (rc = bh_follow_start(b, err)) != 0)
        return rc;
    rc = pthread_create(&b->loop, NULL, loop_main, b);
    if (rc)
        return bh_fail(err, rc, "the flush loop cannot be started: %s", strerror(rc));
    b->loop_runs = true;
    return 0;
}

static void set_running(struct bh *b, bool running)
{
    BH_LOCK_SCOPE(&b->mutex);
    b->running = running;
}

int bh_start(struct bh *b, struct bh_error *err)
{
    struct bh_error local;
    err = err ? err : &local;
    BH_LOCK_SCOPE(&b->life);
    if (b->started && !b->stopped)
        return bh_fail(err, EALREADY, "it is started already");
    int rc = start_parts(b, err);
    if (rc) {
        tear_down(b, false);
        return rc;
    }
    set_running(b, true);
    b->started = true;
    b->stopped = false;
    return 0;
}

/* Ends the loop and takes the turn from whoever flushes: that flush goes on as the last one, unless
 * it takes too long. */
static int stop_others(struct bh *b, int64_t deadline, struct bh_error *err)
{
    struct bh_call patience = {.deadline_ms = deadline};
    bh_hydrator_tell(b);
    pthread_mutex_lock(&b->mutex);
    b->stopping = true;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->mutex);
    int rc = bh_take_turn(b, &patience, err);
    if (rc == ETIMEDOUT) {
        atomic_store(&b->cancel, true);
        rc = bh_take_turn(b, NULL, err);
        atomic_store(&b->cancel, false);
    }
    return rc;
}

/* Tries until it works, the time is over, or the error is none that passes. With the turn taken. */
static int last_flush(struct bh *b, int64_t deadline, struct bh_error *err)
{
    struct bh_flush_result result;
    int64_t pause = RETRY_MIN_MS;
    struct bh_call call = {.deadline_ms = deadline};
    for (;;) {
        int rc = flush_now(b, true, &result, &call, err);
        bool passing = rc == ETIMEDOUT || rc == EIO || rc == EAGAIN || rc == EBUSY;
        if (!passing || bh_mono_ms() + pause >= deadline)
            return rc;
        int64_t ms = bh_jitter_ms(pause);
        nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
        pause *= 2;
    }
}

/* The branch is free for others at once. */
static void let_go(struct bh *b, int64_t deadline)
{
    struct bh_error err;
    struct bh_call call = {.deadline_ms = deadline};
    if (!b->history)
        return;
    if (bh_history_release(b->history, &call, &err) != 0)
        bh_log(BH_LOG_WARNING, "the branch stays taken until the lease ends: %s", err.text);
}

int bh_stop(struct bh *b, struct bh_error *err)
{
    struct bh_error local;
    err = err ? err : &local;
    BH_LOCK_SCOPE(&b->life);
    if (!b->started || b->stopped)
        return 0;
    unsigned open = bh_vfs_connections(b->live->vfs);
    if (open > 1) /* the keep-alive one */
        return bh_fail(
            err, EBUSY,
            "%u connection(s) to the live database are still open; close them and stop again",
            open - 1);
    bh_remove_signal_handlers(b);
    bh_follow_stop(b);
    bh_statedir_closing(&b->live->dir);
    int64_t deadline = bh_mono_ms() + b->cfg->snapshot.stop_timeout_ms;
    int rc = stop_others(b, deadline, err);
    if (rc)
        return rc;
    rc = b->read_only ? 0 : last_flush(b, deadline, err);
    let_go(b, deadline);
    if (rc)
        bh_log(BH_LOG_ERROR,
               "THE LAST FLUSH FAILED (%s). Unflushed changes stay in %s; the next mount goes on "
               "with them.",
               err->text, b->live->dir.path);
    set_running(b, false); /* who waits for the turn, the loop among them, finds that there is
                              nothing to flush */
    bh_end_turn(b);
    if (b->loop_runs)
        pthread_join(b->loop, NULL);
    b->loop_runs = false;
    tear_down(b, true);
    b->stopped = true;
    return rc;
}

void bh_destroy(struct bh *b)
{
    struct bh_error err;
    if (!b)
        return;
    int rc = bh_stop(b, &err);
    if (rc == EBUSY &&
        b->live) { /* freeing under open connections would be worse than keeping them alive */
        bh_log(BH_LOG_ERROR, "not destroyed: %s", err.text);
        return;
    }
    bh_config_free(b->cfg);
    free(b->mountpoint);
    pthread_cond_destroy(&b->changed);
    pthread_mutex_destroy(&b->mutex);
    pthread_mutex_destroy(&b->life);
    free(b);
}
