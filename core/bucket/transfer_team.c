/* The threads of one transfer. */
#include <errno.h>
#include <string.h>

#include "bucket/transfer_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/thread.h"

#define POLL_MS 20 /* how soon the caller's cancel reaches the threads */

void bh_team_init(struct team *t, struct bh_bucket *b, const char *key, const struct bh_call *call)
{
    *t = (struct team){.bucket = b, .key = key, .outer = call};
    if (call)
        t->call = *call;
    t->relay = t->call.cancel && t->call.stop;
    if (t->call.cancel && !t->relay)
        t->call.stop = &t->over;
    else
        t->call.cancel = &t->over;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->changed, NULL);
}

uint64_t bh_team_part_length(const struct team *t, unsigned part)
{
    uint64_t at = part * t->part_size;
    return t->size - at < t->part_size ? t->size - at : t->part_size;
}

bool bh_team_fail(struct team *t, int rc, const struct bh_error *why)
{
    BH_LOCK_SCOPE(&t->mutex);
    bool first = !t->rc;
    if (first) {
        t->rc = rc;
        t->error = *why;
    }
    atomic_store(&t->over, true);
    pthread_cond_broadcast(&t->changed);
    return first;
}

int bh_team_start(struct team *t, void *(*entry)(void *), void *arg, unsigned count,
                  struct bh_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&t->mutex);
    for (; count > 0 && !rc; count--) {
        rc = bh_thread_start(&t->threads[t->count], entry, arg);
        if (!rc) {
            t->count++;
            t->running++;
        }
    }
    bool none = t->count == 0;
    pthread_mutex_unlock(&t->mutex);
    return rc && none ? bh_fail(err, ENOMEM, "no thread can be started for the transfer of %s: %s",
                                t->key, strerror(rc))
                      : 0;
}

void bh_team_leave(struct team *t)
{
    BH_LOCK_SCOPE(&t->mutex);
    t->running--;
    pthread_cond_broadcast(&t->changed);
}

void bh_team_wait(struct team *t)
{
    if (!t->relay) {
        pthread_cond_wait(&t->changed, &t->mutex);
        return;
    }
    struct timespec until = bh_mono_after_ms(POLL_MS);
    pthread_cond_clockwait(&t->changed, &t->mutex, CLOCK_MONOTONIC, &until);
    struct bh_error why;
    int rc = t->rc ? 0 : bh_call_check(t->outer, t->key, &why);
    if (rc) {
        t->rc = rc;
        t->error = why;
        atomic_store(&t->over, true);
        pthread_cond_broadcast(&t->changed);
    }
}

int bh_team_join(struct team *t, struct bh_error *err)
{
    pthread_mutex_lock(&t->mutex);
    while (t->running > 0)
        bh_team_wait(t);
    pthread_mutex_unlock(&t->mutex);
    for (unsigned i = 0; i < t->count; i++)
        pthread_join(t->threads[i], NULL);
    t->count = 0;
    return t->rc ? bh_fail(err, t->rc, "%s", t->error.text) : 0;
}

void bh_team_destroy(struct team *t)
{
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->mutex);
}

int bh_transfer_check(const struct bh_transfer *how, struct bh_error *err)
{
    if (how->part_size < BH_PART_MIN || how->part_size > BH_PART_MAX)
        return bh_fail(err, EINVAL, "a part size of %llu bytes is not between 5 MiB and 5 GiB",
                       (unsigned long long)how->part_size);
    if (how->parallel < 1 || how->parallel > BH_PARALLEL_MAX)
        return bh_fail(err, EINVAL, "%u parts at once are not between 1 and %d", how->parallel,
                       BH_PARALLEL_MAX);
    return 0;
}
