/* The threads that fetch: what readers wait for goes before what is read ahead. A fetch is shared
 * by all who want what it brings, and goes on if one of them gives up. */
#include "store/blobs_private.h"

#include <errno.h>
#include <stdlib.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "util/thread.h"

#define POLL_MS  20 /* how soon a cancelled reader returns */
#define STUCK_MS 1000

/* --- one fetch; with the mutex --- */

static void let_go(struct blobs_fetch *f)
{
    if (--f->refs > 0)
        return;
    pthread_cond_destroy(&f->ended);
    free(f);
}

static void start_thread(struct bh_blobs *b);

struct blobs_fetch *bh_blobs_fetch(struct bh_blobs *b, struct blobs_content *c,
                                   enum blobs_fetch_what what, uint64_t first, uint64_t count,
                                   bool ahead)
{
    struct blobs_fetch *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    *f = (struct blobs_fetch){.content = c,
                              .what = what,
                              .first = first,
                              .count = count,
                              .ahead = ahead,
                              .refs = ahead ? 1 : 2,
                              .sibling = c->fetches};
    atomic_store(&f->moved_ms, 0);
    bh_cond_init(&f->ended);
    c->fetches = f;
    c->fetching++;
    *b->queue_end = f;
    b->queue_end = &f->queued;
    if (b->fetchers_idle == 0 && b->fetcher_count < b->o.parallel)
        start_thread(b);
    pthread_cond_signal(&b->to_fetch);
    return f;
}

/* One that nobody waited for is waited for now. */
static void hurry(struct bh_blobs *b, struct blobs_fetch *f)
{
    if (!f->begun && f->ahead) {
        f->ahead = false;
        pthread_cond_signal(&b->to_fetch);
    }
}

/* Whether this reader is to give up. */
static int patience(struct bh_blobs *b, struct blobs_fetch *f, int64_t since_ms,
                    const struct bh_call *call, struct bh_error *err)
{
    int rc = bh_call_check(call, "reading from the bucket", err);
    if (!rc && atomic_load(&b->stopped))
        rc = bh_fail(err, ECANCELED, "reading from the bucket was cancelled");
    int64_t moved = atomic_load(&f->moved_ms);
    if (rc || bh_mono_ms() - (moved > since_ms ? moved : since_ms) <= b->o.read_timeout_ms)
        return rc;
    atomic_store(&f->cancel, true); /* it would keep a thread from others */
    return bh_fail(err, ETIMEDOUT,
                   "the bucket did not answer for %lld ms; the read may be tried again",
                   (long long)b->o.read_timeout_ms);
}

/* A reader does not want it any more. It goes on for others, and as it may be wanted again; but if
 * it does not get ahead it would keep a thread from others. */
static void give_up(struct blobs_fetch *f, int64_t since_ms)
{
    int64_t moved = atomic_load(&f->moved_ms);
    bool alone = f->refs == 2; /* the thread's, and this reader's */
    if (f->begun && !f->over && alone &&
        bh_mono_ms() - (moved > since_ms ? moved : since_ms) >= STUCK_MS)
        atomic_store(&f->cancel, true);
}

int bh_blobs_await(struct bh_blobs *b, struct blobs_fetch *f, int64_t since_ms,
                   const struct bh_call *call, bool *missing, struct bh_error *err)
{
    int rc = 0;
    hurry(b, f);
    while (!f->over && !rc) {
        struct timespec until = bh_mono_after_ms(POLL_MS);
        pthread_cond_clockwait(&f->ended, &b->mutex, CLOCK_MONOTONIC, &until);
        if (!f->over)
            rc = patience(b, f, since_ms, call, err);
    }
    if (!rc && f->rc == ECANCELED && !atomic_load(&b->stopped)) {
        /* Somebody else's patience was at its end; ours may not be: it is begun anew. */
        atomic_store(&f->moved_ms, 0);
        rc = patience(b, f, since_ms, call, err);
    } else if (!rc && f->rc) {
        *missing = f->missing;
        rc = bh_fail(err, f->rc, "%s", f->error.text);
    }
    if (rc == ECANCELED)
        give_up(f, since_ms);
    let_go(f);
    return rc;
}

/* --- the threads --- */

/* Takes the next one out of the queue; NULL: there is none that may begin. With the mutex. */
static struct blobs_fetch *take(struct bh_blobs *b)
{
    unsigned most = b->o.parallel > 1 ? b->o.parallel - 1 : 1;
    for (int ahead = 0; ahead < 2; ahead++) {
        if (ahead && b->fetching_ahead >= most)
            return NULL;
        for (struct blobs_fetch **p = &b->queue; *p; p = &(*p)->queued) {
            struct blobs_fetch *f = *p;
            if (f->ahead != (ahead == 1))
                continue;
            *p = f->queued;
            if (!*p)
                b->queue_end = p;
            f->begun = true;
            return f;
        }
    }
    return NULL;
}

static int work(struct bh_blobs *b, struct blobs_fetch *f)
{
    if (atomic_load(&b->stopped) || atomic_load(&f->cancel))
        return bh_fail(&f->error, ECANCELED, "reading from the bucket was cancelled");
    switch (f->what) {
    case FETCH_WHOLE:
        return bh_blobs_fetch_whole(b, f, &f->error);
    case FETCH_RANGE:
        return bh_blobs_fetch_range(b, f, &f->error);
    case FETCH_MEMORY:
        return bh_blobs_fetch_memory(b, f, &f->error);
    case FETCH_CHECK_UNSURE:
        return bh_blobs_check_unsure(b, f, &f->error);
    case FETCH_HASH_PARTS:
        return bh_blobs_hash_parts(b, f, &f->error);
    case FETCH_CHECK_PARTS:
        return bh_blobs_check_parts(b, f, &f->error);
    }
    return bh_fail(&f->error, EINVAL, "there is no such fetch");
}

static void run(struct bh_blobs *b, struct blobs_fetch *f) /* with the mutex */
{
    struct blobs_content *c = f->content;
    bool ahead = f->ahead;
    f->queued = b->fetches_begun;
    b->fetches_begun = f;
    b->fetching_ahead += ahead;
    bool unwanted =
        ahead && c->opened == 0 && (f->what == FETCH_RANGE || f->what == FETCH_HASH_PARTS);
    pthread_mutex_unlock(&b->mutex);
    int rc = unwanted ? bh_fail(&f->error, ECANCELED, "nobody reads it any more") : work(b, f);
    pthread_mutex_lock(&b->mutex);
    b->fetching_ahead -= ahead;
    if (f->what == FETCH_RANGE)
        bh_blobs_parts_free(c->parts, f->first, f->count);
    if (f->sweeps)
        bh_blobs_swept(b, c, rc);
    if (f->what == FETCH_HASH_PARTS)
        bh_blobs_hashed(b, c);
    struct blobs_fetch **p = &c->fetches;
    while (*p != f)
        p = &(*p)->sibling;
    *p = f->sibling;
    for (p = &b->fetches_begun; *p != f;)
        p = &(*p)->queued;
    *p = f->queued;
    c->fetching--;
    f->rc = rc;
    f->over = true;
    pthread_cond_broadcast(&f->ended);
    let_go(f);
    bh_blobs_content_drop(b, c);
    if (ahead)
        pthread_cond_signal(&b->to_fetch);
}

static void *fetch_main(void *arg)
{
    struct bh_blobs *b = arg;
    pthread_mutex_lock(&b->mutex);
    while (!atomic_load(&b->closing) || b->queue) {
        struct blobs_fetch *f = take(b);
        if (f) {
            run(b, f);
            continue;
        }
        b->fetchers_idle++;
        pthread_cond_wait(&b->to_fetch, &b->mutex);
        b->fetchers_idle--;
    }
    pthread_cond_broadcast(&b->to_fetch);
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

/* One more; if that fails those that there are do it all, and with none readers time out. */
static void start_thread(struct bh_blobs *b)
{
    if (bh_thread_start(&b->fetchers[b->fetcher_count], fetch_main, b) == 0)
        b->fetcher_count++;
}

/* Each is told: a stop that is soon taken back might not be seen. */
void bh_blobs_fetch_stop(struct bh_blobs *b)
{
    for (struct blobs_fetch *f = b->fetches_begun; f; f = f->queued)
        atomic_store(&f->cancel, true);
    for (struct blobs_fetch *f = b->queue; f; f = f->queued)
        atomic_store(&f->cancel, true);
    pthread_cond_broadcast(&b->to_fetch);
}

void bh_blobs_fetch_end(struct bh_blobs *b)
{
    pthread_mutex_lock(&b->mutex);
    pthread_cond_broadcast(&b->to_fetch);
    pthread_mutex_unlock(&b->mutex);
    for (unsigned i = 0; i < b->fetcher_count; i++)
        pthread_join(b->fetchers[i], NULL);
}

/* --- a GET --- */

int bh_blobs_fetch_again(void *arg, struct bh_error *err)
{
    struct blobs_get *g = arg;
    struct bh_call call = {.cancel = &g->fetch->cancel, .stop = &g->b->stopped};
    atomic_store(&g->fetch->moved_ms, bh_mono_ms());
    return bh_call_check(&call, "reading from the bucket", err);
}

static int wrong_size(struct blobs_get *g, struct bh_error *err)
{
    return bh_fail(err, EIO,
                   "%s in the bucket is damaged: it has %llu bytes, but its file says %llu. An "
                   "older snapshot or a copy of the bucket may have the content",
                   g->key, (unsigned long long)g->info.size,
                   (unsigned long long)g->fetch->content->size);
}

static int got(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct blobs_get *g = arg;
    if (g->info.size != g->fetch->content->size)
        return wrong_size(g, err);
    if (len > g->end - g->at)
        return bh_fail(err, EIO, "%s delivered more bytes than were asked for", g->key);
    g->last_ns = bh_mono_ns();
    if (!g->first_ns)
        g->first_ns = g->last_ns;
    atomic_store(&g->fetch->moved_ms, g->last_ns / 1000000);
    int rc = g->take(g->arg, g->at, data, len, err);
    g->at += len;
    return rc;
}

int bh_blobs_get(struct blobs_get *g, struct bh_error *err)
{
    struct blobs_content *c = g->fetch->content;
    struct bh_call call = {.cancel = &g->fetch->cancel, .stop = &g->b->stopped};
    uint64_t begin = g->at;
    bool by_hash = bh_blobs_content_key(g->b, c, g->key);
    g->began_ns = bh_mono_ns();
    int rc =
        bh_bucket_get(g->b->o.bucket, g->key, begin, g->end - begin, got, g, &g->info, &call, err);
    if (rc == ENOENT) {
        g->fetch->missing = true;
        return bh_fail(err, EIO,
                       "%s is not in the bucket: it was deleted there, or its upload never ended. "
                       "The content cannot be read until it is put back",
                       g->key);
    }
    if (rc == EINVAL) /* a range beyond its end */
        return bh_fail(
            err, EIO,
            "%s in the bucket is damaged: it is shorter than the %llu bytes that its file "
            "says. An older snapshot or a copy of the bucket may have the content",
            g->key, (unsigned long long)c->size);
    if (!rc && g->at != g->end)
        return g->info.size != c->size ? wrong_size(g, err)
                                       : bh_fail(err, EIO, "%s delivered %llu of %llu bytes",
                                                 g->key, (unsigned long long)(g->at - begin),
                                                 (unsigned long long)(g->end - begin));
    if (rc == EAGAIN)
        rc = err->code = ETIMEDOUT;
    BH_LOCK_SCOPE(&g->b->mutex);
    g->b->fetched_bytes += g->at - begin;
    if (!rc && by_hash) /* only that object is what a name of ours refers to */
        bh_blobs_seen(c->entry);
    return rc;
}
