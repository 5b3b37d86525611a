/* Publishing: what was written and closed becomes blobs, many at a time, so that they share a sync.
 */
#include "store/files_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/files_adopt.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

/* After the last close: what is written again at once is published once. While file after file is
 * closed (tar, git, rsync), who does that goes first: nothing is published for so much longer. */
#define DELAY_MS 1000
#define BUSY_MS  5000
#define RETRY_MS 10000
#define POLL_MS  200
#define BATCH    256u

/* --- what waits --- */

/* With the mutex. */
static void enqueue(struct bh_files *f, uint64_t ino, int64_t due_ms)
{
    if (bh_grow(f->queue, f->queue_room, f->queue_count)) {
        f->queue[f->queue_count++] = (struct files_queued){.ino = ino, .due_ms = due_ms};
    } /* else the next flush finds it */
    if (f->queue_count == 1)
        pthread_cond_signal(&f->wake);
}

void files_queue(struct bh_files *f, uint64_t ino)
{
    BH_LOCK_SCOPE(&f->mutex);
    f->quiet_ms = bh_mono_ms() + DELAY_MS;
    enqueue(f, ino, f->quiet_ms);
}

void files_discard(struct bh_files *f, uint64_t data)
{
    if (data == 0)
        return;
    BH_LOCK_SCOPE(&f->mutex);
    if (!bh_grow(f->discarded, f->discarded_room, f->discarded_count))
        return; /* the next start finds it */
    f->discarded[f->discarded_count++] = data;
    if (f->discarded_count == 1)
        pthread_cond_signal(&f->wake);
}

void files_touch_at(struct bh_files *f, const struct files_touched *t)
{
    BH_LOCK_SCOPE(&f->mutex);
    if (bh_grow(f->touched, f->touched_room, f->touched_count)) {
        f->touched[f->touched_count++] = *t;
    } else {
        f->reconcile = true;
        atomic_store(&f->changed, true);
    }
}

void files_touch(struct bh_files *f, const uint8_t hash[BH_SHA256_LEN], uint64_t size, uint64_t ino)
{
    struct files_touched t = {.size = size, .ino = ino, .at = bh_real_ns(), .at_ms = bh_boot_ms()};
    memcpy(t.hash, hash, sizeof t.hash);
    files_touch_at(f, &t);
}

/* --- one batch --- */

struct item {
    struct bh_open *open;
    uint64_t version, data, size;
    uint8_t before[BH_SHA256_LEN]; /* what was published last */
    uint8_t hash[BH_SHA256_LEN];
    bool taken; /* the data file itself became the blob */
};

struct wait_for {
    struct bh_open *open;
    bool patient; /* a flush: writers wait, rather */
};

static bool nobody_wants(void *arg)
{
    struct wait_for *w = arg;
    return w->patient || atomic_load(&w->open->wanted) == 0;
}

/* Makes the content a blob, if that is to be done now. ENOENT: there is nothing to do. */
static int make_blob(struct bh_files *f, struct item *it, bool patient, const struct bh_call *call,
                     struct bh_error *err)
{
    struct bh_open *o = it->open;
    struct wait_for w = {.open = o, .patient = patient};
    int rc = files_lock_to_read(o, true, err); /* opens the data file */
    if (rc)
        return rc;
    /* A writer who comes later makes a copy before he writes. */
    pthread_mutex_lock(&f->mutex);
    bool written = o->writers > 0;
    pthread_mutex_unlock(&f->mutex);
    /* What somebody is in the middle of writing waits for his close, but for a flush after which
     * the bucket would have less than what was closed before. */
    bool may = atomic_load(&o->settled) || (patient && o->published < o->closed);
    if (!o->content.data || atomic_load(&o->stale) || !may ||
        (written && o->published == o->version)) {
        pthread_rwlock_unlock(&o->lock);
        return ENOENT;
    }
    it->version = o->version;
    it->data = o->content.data;
    it->size = o->content.size;
    memcpy(it->before, o->content.hash, sizeof it->before);
    it->taken = !written && it->size > 0;
    rc = it->size && !o->has_data
             ? EAGAIN
             : bh_blobs_publish(f->blobs, &o->data, it->size, it->data, it->taken, nobody_wants, &w,
                                it->hash, call, err);
    if (rc == 0 && it->taken) /* whoever writes once the lock is free makes a copy first */
        atomic_store(&o->is_shared, true);
    pthread_rwlock_unlock(&o->lock);
    return rc;
}

/* Whether the file is as it was when the blob was made of it. With the lock. */
static bool is_current(const struct bh_open *o, const struct item *it)
{
    return o->version == it->version && o->content.data == it->data;
}

/* With the lock. The inode has the blob from now on; where the file was written meanwhile, as what
 * was published last: a flush must not name what is older than the content that it has met. */
static int name_content(struct bh_files *f, const struct item *it, struct bh_error *err)
{
    struct bh_open *o = it->open;
    const bool current = is_current(o, it);
    int rc = files_push(o, true, err);
    if (rc)
        return rc;
    struct bh_inode to = {.content = o->content};
    if (it->size) /* the empty content is no blob */
        memcpy(to.content.hash, it->hash, sizeof it->hash);
    else
        memset(to.content.hash, 0, sizeof to.content.hash);
    to.content.hash_size = it->size;
    if (current && (it->taken || it->size == 0))
        to.content.data = 0;
    rc = bh_names_set(f->names, o->ino, BH_SET_CONTENT | BH_SET_NO_CTIME, &to, NULL, true, err);
    if (rc)
        return rc;
    o->content = to.content;
    o->published = it->version;
    if (current && to.content.data) /* what is written from now on is an edit of that */
        bh_data_is_copy(f->blobs, to.content.data, it->hash, it->size, it->size);
    return 0;
}

static int name_blob(struct bh_files *f, struct item *it, struct bh_error *err)
{
    struct bh_open *o = it->open;
    uint8_t old[BH_SHA256_LEN];
    pthread_rwlock_wrlock(&o->lock);
    uint64_t old_size = o->content.hash_size;
    memcpy(old, o->content.hash, sizeof old);
    bool shall = !atomic_load(&o->stale) &&
                 (is_current(o, it) || /* not what was emptied, or replaced as a whole */
                  (o->content.data && memcmp(old, it->before, sizeof old) == 0));
    int rc = shall ? name_content(f, it, err) : 0;
    bool named = shall && rc == 0, free_data = named && !o->content.data;
    pthread_rwlock_unlock(&o->lock);
    if (free_data)
        files_discard(f, it->data);
    if (named) {
        if (it->size)
            files_touch(f, it->hash, it->size, o->ino);
        if (!bh_sha256_is_none(old) && memcmp(old, it->hash, sizeof old) != 0)
            files_touch(f, old, old_size, 0);
    }
    return rc == ENOENT ? 0 : rc;
}

static int publish_batch(struct bh_files *f, const uint64_t *inos, size_t count, bool patient,
                         size_t *put_off, const struct bh_call *call, struct bh_error *err)
{
    BH_FREE struct item *items = calloc(count, sizeof *items);
    size_t n = 0;
    int rc = items ? 0 : bh_fail(err, ENOMEM, "out of memory while publishing files");
    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct item *it = &items[n];
        int one = bh_files_use(f, inos[i], false, &it->open, true, err);
        if (one == ENOENT || one == EISDIR)
            continue;
        if (one == 0)
            one = make_blob(f, it, patient, call, err);
        if (patient)
            files_progress_hashed(f, 1, one ? 0 : it->size);
        if (one == 0) {
            n++;
        } else {
            if (it->open)
                bh_open_drop(it->open, false);
            it->open = NULL;
            if (one == ESTALE) /* a writer came */
                ++*put_off;
            else if (one != ENOENT)
                rc = one;
        }
    }
    int settled = n ? bh_blobs_settle(f->blobs, rc ? NULL : err) : 0;
    for (size_t i = 0; i < n; i++) {
        int one = settled ? settled : name_blob(f, &items[i], rc ? NULL : err);
        rc = rc ? rc : one;
        bh_open_drop(items[i].open, false);
    }
    return rc;
}

/* --- all at once, for a flush --- */

struct list {
    uint64_t *inos;
    size_t count, room;
    uint64_t bytes;
};

static int note(void *arg, const struct bh_inode *i)
{
    struct list *l = arg;
    if (!bh_grow(l->inos, l->room, l->count))
        return ENOMEM;
    l->inos[l->count++] = i->ino;
    l->bytes += i->content.size;
    return 0;
}

/* All in the queue. */
static struct files_queued *take_queue(struct bh_files *f, size_t *count)
{
    BH_LOCK_SCOPE(&f->mutex);
    struct files_queued *queue = f->queue;
    *count = f->queue_taken = f->queue_count;
    f->queue = NULL;
    f->queue_count = f->queue_room = 0;
    return queue;
}

int files_publish_all(struct bh_files *f, const struct bh_call *call, struct bh_error *err)
{
    struct list l = {0};
    size_t put_off = 0, waited;
    BH_FREE struct files_queued *queue = take_queue(f, &waited);
    int rc = bh_names_each_local(f->names, note, &l, err);
    if (rc == ENOMEM)
        bh_fail(err, rc, "out of memory while publishing files");
    files_progress_hashing(f, l.count, l.bytes);
    for (size_t i = 0; rc == 0 && i < l.count; i += BATCH) {
        size_t n = l.count - i < BATCH ? l.count - i : BATCH;
        rc = bh_call_check(call, "publishing files", err);
        if (rc == 0)
            rc = publish_batch(f, l.inos + i, n, true, &put_off, call, err);
    }
    free(l.inos);
    BH_LOCK_SCOPE(&f->mutex);
    f->queue_taken = 0;
    for (size_t i = 0; (rc || put_off) && i < waited; i++)
        enqueue(f, queue[i].ino, bh_mono_ms() + DELAY_MS);
    return rc;
}

/* --- the thread that does it in the background --- */

/* With the mutex, which it lets go meanwhile. Not before names have what is there instead, also
 * after a power cut. */
static void remove_discarded(struct bh_files *f)
{
    struct bh_error err;
    uint64_t *numbers = f->discarded;
    size_t count = f->discarded_count;
    f->discarded = NULL;
    f->discarded_count = f->discarded_room = 0;
    pthread_mutex_unlock(&f->mutex);
    int rc = bh_names_sync(f->names, &err);
    if (rc)
        bh_log(BH_LOG_WARNING, "%zu data files stay until the next start: %s", count, err.text);
    for (size_t i = 0; rc == 0 && i < count; i++)
        bh_data_remove(f->blobs, numbers[i]);
    free(numbers);
    pthread_mutex_lock(&f->mutex);
}

#define ADOPT (BATCH + 1)

/* When the first that waits is published. */
static int64_t first_due(const struct bh_files *f, int64_t not_before)
{
    int64_t due = f->queue[0].due_ms;
    if (f->quiet_ms > due)
        due = f->quiet_ms < due + BUSY_MS ? f->quiet_ms : due + BUSY_MS;
    return due > not_before ? due : not_before;
}

/* With something that waits. */
static int64_t next_due(const struct bh_files *f, int64_t not_before)
{
    int64_t due = f->queue_count ? first_due(f, not_before) : INT64_MAX;
    return f->adopt && f->adopt_not_before_ms < due ? f->adopt_not_before_ms : due;
}

/* Takes what is due; 0: the thread ends; ADOPT: rows are to be looked at. */
static size_t take_due(struct bh_files *f, uint64_t inos[BATCH], int64_t not_before)
{
    BH_LOCK_SCOPE(&f->mutex);
    for (;;) {
        while (f->discarded_count) /* more may come meanwhile, when nobody waits to be woken */
            remove_discarded(f);
        int64_t now = bh_mono_ms();
        if (f->stopping)
            return 0;
        if (f->adopt && now >= f->adopt_not_before_ms) {
            f->adopt = false;
            return ADOPT;
        }
        size_t n = 0;
        if (f->queue_count && now >= first_due(f, not_before))
            for (; n < f->queue_count && n < BATCH && f->queue[n].due_ms <= now; n++)
                inos[n] = f->queue[n].ino;
        if (n) {
            f->queue_count -= n;
            memmove(f->queue, f->queue + n, f->queue_count * sizeof *f->queue);
            return n;
        }
        if (f->queue_count || f->adopt) {
            int64_t due = next_due(f, not_before);
            struct timespec until = bh_mono_after_ms(due - now + 1);
            pthread_cond_timedwait(&f->wake, &f->mutex, &until);
        } else {
            pthread_cond_wait(&f->wake, &f->mutex);
        }
    }
}

/* A flush keeps f->publishing for as long as the bucket takes: meanwhile what was discarded goes,
 * as its room may be needed. False: the thread is to end. */
static bool lock_publishing(struct bh_files *f)
{
    while (pthread_mutex_trylock(&f->publishing) != 0) {
        BH_LOCK_SCOPE(&f->mutex);
        if (f->stopping)
            return false;
        if (f->discarded_count)
            remove_discarded(f);
        struct timespec until = bh_mono_after_ms(POLL_MS);
        pthread_cond_timedwait(&f->wake, &f->mutex, &until);
    }
    return true;
}

static void adopt(struct bh_files *f)
{
    if (!lock_publishing(f))
        return;
    files_adopt(f, FILES_LOOK_QUIET);
    pthread_mutex_unlock(&f->publishing);
    BH_LOCK_SCOPE(&f->mutex);
    f->adopted = true;
    pthread_cond_broadcast(&f->adopted_cond);
}

static void *publisher_main(void *arg)
{
    struct bh_files *f = arg;
    struct bh_call call = {.stop = &f->cancel};
    uint64_t inos[BATCH];
    int64_t not_before = 0;
    size_t n;
    pthread_setname_np(pthread_self(), "bhfs-publish");
    while ((n = take_due(f, inos, not_before)) > 0) {
        struct bh_error err;
        size_t put_off = 0;
        if (n == ADOPT) {
            adopt(f);
            continue;
        }
        if (!lock_publishing(f))
            break; /* the next start finds them */
        int rc = publish_batch(f, inos, n, false, &put_off, &call, &err);
        pthread_mutex_unlock(&f->publishing);
        not_before = rc ? bh_mono_ms() + RETRY_MS : 0;
        if (rc && rc != ECANCELED)
            bh_log(BH_LOG_WARNING, "files that were closed are not published yet: %s", err.text);
        BH_LOCK_SCOPE(&f->mutex);
        for (size_t i = 0; (rc || put_off) && i < n; i++)
            enqueue(f, inos[i], bh_mono_ms() + DELAY_MS);
    }
    return NULL;
}

int files_publisher_start(struct bh_files *f, struct bh_error *err)
{
    int rc = pthread_create(&f->publisher, NULL, publisher_main, f);
    f->publisher_runs = rc == 0;
    return rc ? bh_fail(err, rc, "no thread for publishing files: %s", strerror(rc)) : 0;
}

void files_publisher_stop(struct bh_files *f)
{
    if (!f->publisher_runs)
        return;
    pthread_mutex_lock(&f->mutex);
    f->stopping = true;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->mutex);
    pthread_join(f->publisher, NULL);
    f->publisher_runs = false;
}
