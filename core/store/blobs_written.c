/* What somebody writes from one end of a large file to the other is hashed behind him by a thread
 * of its own, so that little is left to be hashed when the file is published. In memory only, of
 * the last few data files; who knows nothing hashes all. A hash counts only as long as no byte of
 * what it has is changed: every change is told before it is made (bh_data_changes,
 * bh_data_shrinks). */
#include "store/blobs_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/thread.h"

#define RUN_MIN ((uint64_t)8 << 20) /* one write after the other, before anything is hashed */
#define STEP    ((uint64_t)8 << 20) /* of the thread; who publishes waits for one, at most */
#define NICE    10                  /* whoever writes goes first */

/* --- with the mutex --- */

static struct blobs_written *find(struct blobs_writing *w, uint64_t number)
{
    for (unsigned i = 0; i < BLOBS_WRITTEN; i++)
        if (w->items[i].number == number)
            return &w->items[i];
    return NULL;
}

static void drop(struct blobs_writing *w, struct blobs_written *it)
{
    if (!it->number)
        return;
    if (it->number == w->busy)
        w->spoiled = true;
    bh_sha256_free(it->hash);
    *it = (struct blobs_written){.number = 0};
    atomic_fetch_sub(&w->count, 1);
}

static struct blobs_written *begin(struct blobs_writing *w, uint64_t number, uint64_t offset)
{
    struct blobs_written *it = &w->items[0];
    for (unsigned i = 1; i < BLOBS_WRITTEN; i++) /* a free one, or what was used longest ago */
        if (w->items[i].used < it->used)
            it = &w->items[i];
    drop(w, it);
    *it = (struct blobs_written){.number = number, .since = offset, .next = offset};
    atomic_fetch_add(&w->count, 1);
    return it;
}

static bool is_due(const struct blobs_written *it)
{
    return it->number && it->end >= it->hashed + STEP;
}

static struct blobs_written *due(struct blobs_writing *w)
{
    for (unsigned i = 0; i < BLOBS_WRITTEN; i++)
        if (is_due(&w->items[i]))
            return &w->items[i];
    return NULL;
}

/* --- the thread --- */

static int go_on(void *arg, struct bh_error *err)
{
    struct blobs_writing *w = arg;
    BH_LOCK_SCOPE(&w->mutex);
    return w->stop || w->spoiled ? bh_fail(err, ECANCELED, "what was hashed is not wanted") : 0;
}

/* A hash to begin with, of *hashed bytes: what was appended to a blob goes on with the blob's.
 * NULL: no memory. */
static struct bh_sha256 *first_hash(struct bh_blobs *b, uint64_t number, uint64_t end,
                                    uint64_t *hashed)
{
    BH_FREE struct blobs_edit *e = bh_blobs_edit_of(b, number, end);
    struct bh_sha256 *hash = bh_blobs_resume(b, e);
    *hashed = hash ? e->base_size : 0;
    return hash ? hash : bh_sha256_new();
}

/* Takes the hash, and frees it if that fails. */
static struct bh_sha256 *hash_on(struct bh_blobs *b, uint64_t number, struct bh_sha256 *hash,
                                 uint64_t from, uint64_t end)
{
    struct bh_dfile file;
    struct bh_error err;
    int rc = bh_data_open(b, number, &file);
    if (rc)
        bh_fail(&err, rc, "it cannot be opened: %s", strerror(rc));
    if (rc == 0) {
        rc = bh_blobs_hash_on(hash, file.fd, from, end, go_on, &b->writing, "a data file", &err);
        bh_dfile_close(&file);
    }
    if (rc == 0)
        return hash;
    bh_log(BH_LOG_DEBUG, "data file %016" PRIx64 " is not hashed while it is written: %s", number,
           err.text);
    bh_sha256_free(hash);
    return NULL;
}

/* One step, or what is hashed already: a hash of up to `target` bytes. With the mutex, which is let
 * go of meanwhile. */
static void hash_one(struct bh_blobs *b, struct blobs_written *it)
{
    struct blobs_writing *w = &b->writing;
    struct bh_sha256 *hash = bh_take_ptr(it->hash);
    uint64_t number = it->number, from = it->hashed, end = hash ? from + STEP : it->end;
    it->target = end;
    w->busy = number;
    w->spoiled = false;
    pthread_mutex_unlock(&w->mutex);
    hash = hash ? hash_on(b, number, hash, from, end) : first_hash(b, number, end, &end);
    pthread_mutex_lock(&w->mutex);
    w->busy = 0;
    it = w->spoiled ? NULL : find(w, number);
    if (it && hash) {
        it->hash = bh_take_ptr(hash);
        it->hashed = end;
    } else if (it) {
        drop(w, it);
    }
    bh_sha256_free(hash);
    pthread_cond_broadcast(&w->idle);
}

static void *writing_main(void *arg)
{
    struct bh_blobs *b = arg;
    struct blobs_writing *w = &b->writing;
    struct blobs_written *it;
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    BH_LOCK_SCOPE(&w->mutex);
    while (!w->stop)
        if ((it = due(w)) != NULL)
            hash_one(b, it);
        else
            pthread_cond_wait(&w->wake, &w->mutex);
    return NULL;
}

/* --- what others tell and ask --- */

void bh_blobs_written(struct bh_blobs *b, uint64_t number, uint64_t offset, uint64_t end)
{
    struct blobs_writing *w = &b->writing;
    if (offset < RUN_MIN && atomic_load(&w->count) == 0)
        return;
    BH_LOCK_SCOPE(&w->mutex);
    struct blobs_written *it = find(w, number);
    if (it && offset < it->target)
        drop(w, it);
    else if (!it && offset >= RUN_MIN && w->runs)
        it = begin(w, number, offset);
    if (!it || !it->number)
        return;
    if (offset != it->next)
        it->since = offset;
    it->next = end;
    it->used = ++w->uses;
    if (offset - it->since < RUN_MIN)
        return;
    it->end = offset; /* what is being written now is not there yet */
    if (is_due(it) && !w->busy)
        pthread_cond_signal(&w->wake);
}

void bh_blobs_written_cut(struct bh_blobs *b, uint64_t number, uint64_t size)
{
    struct blobs_writing *w = &b->writing;
    if (atomic_load(&w->count) == 0)
        return;
    BH_LOCK_SCOPE(&w->mutex);
    struct blobs_written *it = find(w, number);
    if (it && size < it->next)
        drop(w, it);
}

struct bh_sha256 *bh_blobs_written_hash(struct bh_blobs *b, uint64_t number, uint64_t size,
                                        uint64_t *from)
{
    struct blobs_writing *w = &b->writing;
    if (!number || atomic_load(&w->count) == 0)
        return NULL;
    BH_LOCK_SCOPE(&w->mutex);
    struct blobs_written *it = find(w, number);
    if (it)
        it->end = 0; /* no further, until it is written on */
    while (w->busy == number && !w->spoiled)
        pthread_cond_wait(&w->idle, &w->mutex);
    it = find(w, number);
    if (!it || !it->hash || it->hashed > size)
        return NULL;
    *from = it->hashed;
    return bh_sha256_copy(it->hash);
}

void bh_blobs_writing_init(struct bh_blobs *b)
{
    pthread_mutex_init(&b->writing.mutex, NULL);
    pthread_cond_init(&b->writing.wake, NULL);
    pthread_cond_init(&b->writing.idle, NULL);
}

void bh_blobs_writing_start(struct bh_blobs *b)
{
    struct blobs_writing *w = &b->writing;
    int rc = bh_thread_start(&w->thread, writing_main, b);
    if (rc) /* flushes take a little longer */
        bh_log(BH_LOG_WARNING, "no thread can be started that hashes while files are written: %s",
               strerror(rc));
    BH_LOCK_SCOPE(&w->mutex);
    w->runs = rc == 0;
}

void bh_blobs_writing_end(struct bh_blobs *b)
{
    struct blobs_writing *w = &b->writing;
    pthread_mutex_lock(&w->mutex);
    bool runs = w->runs;
    w->runs = false;
    w->stop = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->mutex);
    if (runs)
        pthread_join(w->thread, NULL);
    for (unsigned i = 0; i < BLOBS_WRITTEN; i++)
        drop(w, &w->items[i]);
    pthread_cond_destroy(&w->idle);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->mutex);
}
