/* The queue of uploads and the threads that work on it: oldest first, and each again and again
 * until it succeeds. While nothing succeeds, one at a time tries. */
#include "store/blobs_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/random.h"
#include "util/thread.h"

#define PAUSE_MS        1000 /* the first, after a failure */
#define PAUSE_MAX_MS    60000
#define PAUSE_WAITED_MS 4000 /* the longest while somebody waits in bh_blobs_wait */
#define POLL_MS         20   /* how soon a cancelled wait ends */
#define TROUBLE         3    /* failures in a row: uploads go one by one */
#define NOTHING_TO_DO   INT64_MAX

/* --- the queue; with the mutex --- */

void bh_blobs_queue(struct bh_blobs *b, struct blobs_entry *e, struct blobs_job *job)
{
    job->entry = e;
    job->number = ++b->last_number;
    job->large = job->size > b->o.part_size || job->edit;
    job->before = b->last_job;
    *(b->last_job ? &b->last_job->after : &b->first_job) = job;
    b->last_job = job;
    e->job = job;
    b->pending++;
    b->pending_bytes += job->size;
    pthread_cond_signal(&b->to_upload);
}

/* It is in the bucket. */
static void remove_job(struct bh_blobs *b, struct blobs_job *job)
{
    b->pending--;
    b->pending_bytes -= job->size;
    if (job->doubtful)
        b->doubtful--;
    if (b->error_job == job->number)
        b->error[0] = '\0';
    for (struct blobs_waiter *w = b->waiters; w; w = w->next)
        if (w->failing == job->number)
            w->failing = UINT64_MAX;
    *(job->before ? &job->before->after : &b->first_job) = job->after;
    *(job->after ? &job->after->before : &b->last_job) = job->before;
    job->entry->job = NULL;
    bh_blobs_entry_drop(b, job->entry);
    free(job->edit);
    free(job);
    pthread_cond_broadcast(&b->uploaded_one);
}

/* The next to be done now; NULL: none before *until_ms. */
static struct blobs_job *pick(struct bh_blobs *b, int64_t *until_ms)
{
    int64_t now = bh_mono_ms();
    *until_ms = NOTHING_TO_DO;
    if (!b->started || atomic_load(&b->stopped))
        return NULL;
    if (b->failures >= TROUBLE) {
        if (b->uploading > 0)
            return NULL;
        if (b->pause_ms > now) {
            *until_ms = b->first_job ? b->pause_ms : NOTHING_TO_DO;
            return NULL;
        }
    }
    for (struct blobs_job *j = b->first_job; j; j = j->after) {
        if (j->uploading || (j->large && b->large_under_way))
            continue;
        if (j->due_ms <= now)
            return j;
        if (j->due_ms < *until_ms)
            *until_ms = j->due_ms;
    }
    return NULL;
}

/* --- how it went --- */

static int64_t pause_after(const struct bh_blobs *b, unsigned failures, bool permanent)
{
    int64_t ms = PAUSE_MS;
    if (b->o.pause_ms > 0)
        ms = b->o.pause_ms;
    int64_t most = b->waiters && !permanent ? PAUSE_WAITED_MS : PAUSE_MAX_MS;
    for (; failures > 1 && ms < most; failures--)
        ms *= 2;
    ms = permanent || ms > most ? most : ms;
    return bh_jitter_ms(ms);
}

/* Tells those in bh_blobs_wait: of the oldest job that fails the attempts count. */
static void tell_waiters(struct bh_blobs *b, const struct blobs_job *job, bool permanent, int rc,
                         const struct bh_error *why)
{
    for (struct blobs_waiter *w = b->waiters; w; w = w->next) {
        if (job->number > w->upto || w->rc)
            continue;
        if (job->number < w->failing)
            w->failed = 0;
        if (job->number <= w->failing) {
            w->failing = job->number;
            w->failed++;
        }
        if (permanent || (w->failing == job->number && w->failed >= w->tries)) {
            w->rc = rc;
            w->error = *why;
        }
    }
    pthread_cond_broadcast(&b->uploaded_one);
}

static void note_failure(struct bh_blobs *b, struct blobs_job *job, bool permanent, int rc,
                         const struct bh_error *why)
{
    int64_t now = bh_mono_ms();
    if (rc == ECANCELED && atomic_load(&b->stopped))
        return;
    job->attempts++;
    b->failures++;
    job->due_ms = now + pause_after(b, job->attempts, permanent);
    b->pause_ms = now + pause_after(b, b->failures, false);
    memcpy(b->error, why->text, sizeof b->error);
    b->error_job = job->number;
    if (b->failures == 1 || (permanent && job->attempts == 1))
        bh_log(BH_LOG_WARNING,
               "a file's content cannot be uploaded and is kept here until it can: "
               "%s",
               why->text);
    tell_waiters(b, job, permanent, rc, why);
    pthread_cond_broadcast(&b->to_upload); /* those who sleep do not know when it is due */
}

/* p- becomes c-; with naming. u-: where the disk is not to be trusted. */
static enum blobs_kind rename_stored(struct bh_blobs *b, const struct blobs_job *job, bool unsure)
{
    enum blobs_kind kind = unsure ? KIND_UNSURE : KIND_CACHED;
    char from[BLOBS_NAME], to[BLOBS_NAME];
    bh_blobs_name(from, KIND_PENDING, job->entry->hash);
    bh_blobs_name(to, kind, job->entry->hash);
    int rc = bh_disk_rename(b->o.disk, from, to);
    if (!rc)
        return kind;
    bh_log(BH_LOG_WARNING, "%s in %s was uploaded but cannot be renamed: %s", from,
           bh_disk_path(b->o.disk), strerror(rc));
    bh_disk_unlink(b->o.disk, from);
    return KIND_NONE;
}

/* No thread works on it any more; with the mutex. */
static void leave(struct bh_blobs *b, struct blobs_job *job)
{
    job->uploading = false;
    job->entry->pins--;
    b->uploading--;
    if (job->large) {
        b->large_under_way = false;
        pthread_cond_broadcast(&b->to_upload);
    }
    if (b->cache_max && b->cached_bytes > b->cache_max) /* it was pinned until now */
        pthread_cond_signal(&b->crowded);
}

/* Without locks; the job is gone then. */
static void note_success(struct bh_blobs *b, struct blobs_job *job, bool unsure)
{
    struct blobs_entry *e = job->entry;
    pthread_mutex_lock(&b->naming);
    pthread_mutex_lock(&b->mutex);
    unsure |= job->doubtful;
    pthread_mutex_unlock(&b->mutex);
    enum blobs_kind kind = rename_stored(b, job, unsure);
    pthread_mutex_lock(&b->mutex);
    bh_blobs_become(b, e, kind, kind == KIND_NONE ? 0 : job->size);
    bh_blobs_seen(e);
    b->uploaded++;
    b->uploaded_bytes += job->size - job->copied;
    leave(b, job);
    remove_job(b, job);
    if (b->failures >= TROUBLE) {
        bh_log(BH_LOG_INFO, "uploads of files succeed again");
        pthread_cond_broadcast(&b->to_upload);
    }
    b->failures = 0;
    b->pause_ms = 0;
    pthread_mutex_unlock(&b->mutex);
    pthread_mutex_unlock(&b->naming);
}

/* --- the threads --- */

static void upload_one(struct bh_blobs *b, struct blobs_job *job) /* with the mutex */
{
    struct bh_error why = {0};
    bool permanent = false, unsure = false;
    job->uploading = true;
    job->entry->pins++;
    b->uploading++;
    b->large_under_way |= job->large;
    pthread_mutex_unlock(&b->mutex);
    int rc = bh_blobs_send(b, job, &permanent, &unsure, &why);
    if (!rc)
        note_success(b, job, unsure);
    pthread_mutex_lock(&b->mutex);
    if (rc) {
        leave(b, job);
        note_failure(b, job, permanent, rc, &why);
    }
}

static void *upload_main(void *arg)
{
    struct bh_blobs *b = arg;
    pthread_mutex_lock(&b->mutex);
    while (!atomic_load(&b->closing)) {
        int64_t until;
        struct blobs_job *job = pick(b, &until);
        if (job) {
            upload_one(b, job);
        } else if (until == NOTHING_TO_DO) {
            pthread_cond_wait(&b->to_upload, &b->mutex);
        } else {
            struct timespec at = bh_mono_after_ms(until - bh_mono_ms());
            pthread_cond_clockwait(&b->to_upload, &b->mutex, CLOCK_MONOTONIC, &at);
        }
    }
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

int bh_blobs_upload_start(struct bh_blobs *b, struct bh_error *err)
{
    int rc = 0;
    while (!rc && b->uploader_count < b->o.parallel) {
        rc = bh_thread_start(&b->uploaders[b->uploader_count], upload_main, b);
        b->uploader_count += !rc;
    }
    if (b->uploader_count == 0)
        return bh_fail(err, rc, "no thread can be started for uploads: %s", strerror(rc));
    BH_LOCK_SCOPE(&b->mutex);
    b->started = true;
    pthread_cond_broadcast(&b->to_upload);
    return 0;
}

void bh_blobs_upload_end(struct bh_blobs *b)
{
    pthread_mutex_lock(&b->mutex);
    pthread_cond_broadcast(&b->to_upload);
    pthread_mutex_unlock(&b->mutex);
    for (unsigned i = 0; i < b->uploader_count; i++)
        pthread_join(b->uploaders[i], NULL);
    b->uploader_count = 0;
}

/* --- looking, waiting --- */

enum bh_blob_state bh_blobs_state(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN])
{
    BH_LOCK_SCOPE(&b->mutex);
    const struct blobs_entry *e = bh_blobs_find(b, hash);
    if (!e || !e->job)
        return BH_BLOB_STORED;
    return e->job->uploading ? BH_BLOB_UPLOADING : BH_BLOB_LOCAL;
}

static void hurry(struct bh_blobs *b)
{
    for (struct blobs_job *j = b->first_job; j; j = j->after) {
        j->due_ms = 0;
        j->attempts = 0;
    }
    b->pause_ms = 0;
    b->failures = b->failures < TROUBLE ? b->failures : TROUBLE;
    pthread_cond_broadcast(&b->to_upload);
}

static int wait_for(struct bh_blobs *b, struct blobs_waiter *w, const struct bh_call *call,
                    struct bh_error *err)
{
    while (b->first_job && b->first_job->number <= w->upto) {
        if (w->rc)
            return bh_fail(err, w->rc, "%s", w->error.text);
        int rc = bh_call_check(call, "waiting for the upload of files", err);
        if (!rc && atomic_load(&b->stopped))
            rc = bh_fail(err, ECANCELED, "waiting for the upload of files was cancelled");
        if (rc)
            return rc;
        struct timespec until = bh_mono_after_ms(POLL_MS);
        if (call)
            pthread_cond_clockwait(&b->uploaded_one, &b->mutex, CLOCK_MONOTONIC, &until);
        else
            pthread_cond_wait(&b->uploaded_one, &b->mutex);
    }
    return 0;
}

int bh_blobs_wait(struct bh_blobs *b, unsigned tries, const struct bh_call *call,
                  struct bh_error *err)
{
    BH_LOCK_SCOPE(&b->mutex);
    if (!b->first_job)
        return 0;
    if (b->o.read_only)
        return bh_fail(err, EROFS, "%llu files are not in the bucket, and this mount is read-only",
                       (unsigned long long)b->pending);
    struct blobs_waiter w = {.next = b->waiters,
                             .upto = b->last_number,
                             .tries = tries ? tries : 1,
                             .failing = UINT64_MAX};
    b->waiters = &w;
    hurry(b);
    int rc = wait_for(b, &w, call, err);
    struct blobs_waiter **p = &b->waiters;
    while (*p != &w)
        p = &(*p)->next;
    *p = w.next;
    return rc;
}
