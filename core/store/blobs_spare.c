/* Data files made ahead. Making a file is the slow part of writing a small one, and nothing for the
 * thread that answers the kernel; so where many are made one after the other, another thread makes
 * the next ones meanwhile. What is not used goes when that has ended; after a crash it is among the
 * data files that no inode has. */
#include "store/blobs_private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/thread.h"

#define BURST_MS 100  /* between two files that are made one after the other */
#define IDLE_MS  1000 /* none was wanted for so long, up to twice that: they go */
#define PAUSE_MS 1000 /* after one could not be made */

/* Notes that one is wanted now; with the mutex. */
static void note(struct blobs_spares *s)
{
    int64_t now = bh_mono_ms();
    bool follows = s->wanted_ms && now - s->wanted_ms < BURST_MS;
    s->wanted_ms = now;
    if (!s->runs || !follows || s->count > BLOBS_SPARES / 2 || s->making || now < s->not_before_ms)
        return;
    s->making = true;
    pthread_cond_signal(&s->wake);
}

bool bh_blobs_spare_take(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out, bool last_try)
{
    struct blobs_spares *s = &b->spares;
    BH_LOCK_SCOPE(&s->mutex);
    if (s->count > 0 || last_try)
        note(s);
    if (s->count == 0)
        return false;
    s->count--;
    *number = s->items[s->count].number;
    *out = s->items[s->count].file;
    return true;
}

/* Without the mutex. */
static void drop(struct bh_blobs *b, struct blobs_spare *items, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        bh_dfile_close(&items[i].file);
        bh_data_remove(b, items[i].number);
    }
}

/* With the mutex, which is let go of meanwhile. */
static void drop_all(struct bh_blobs *b)
{
    struct blobs_spares *s = &b->spares;
    struct blobs_spare items[BLOBS_SPARES];
    unsigned count = s->count;
    memcpy(items, s->items, sizeof items);
    s->count = 0;
    pthread_mutex_unlock(&s->mutex);
    drop(b, items, count);
    pthread_mutex_lock(&s->mutex);
}

/* With the mutex, which is let go of meanwhile. Where none can be made, others need what there is
 * of that: whoever wants one tries for himself, and says why not. */
static void make_one(struct bh_blobs *b)
{
    struct blobs_spares *s = &b->spares;
    struct blobs_spare one;
    pthread_mutex_unlock(&s->mutex);
    int rc = bh_blobs_new_data(b, &one.number, &one.file);
    pthread_mutex_lock(&s->mutex);
    if (rc == 0)
        s->items[s->count++] = one; /* nobody else adds any */
    if (rc || s->count == BLOBS_SPARES)
        s->making = false;
    if (rc == 0)
        return;
    bh_log(BH_LOG_DEBUG, "no data file can be made ahead: %s", strerror(rc));
    s->not_before_ms = bh_mono_ms() + PAUSE_MS;
    drop_all(b);
}

static void *spare_main(void *arg)
{
    struct bh_blobs *b = arg;
    struct blobs_spares *s = &b->spares;
    struct timespec until;
    pthread_mutex_lock(&s->mutex);
    while (!s->stop) {
        if (s->making) {
            make_one(b);
        } else if (s->count == 0) {
            pthread_cond_wait(&s->wake, &s->mutex);
        } else if (bh_mono_ms() - s->wanted_ms >= IDLE_MS) {
            drop_all(b);
        } else {
            until = bh_mono_after_ms(IDLE_MS);
            pthread_cond_clockwait(&s->wake, &s->mutex, CLOCK_MONOTONIC, &until);
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

void bh_blobs_spares_init(struct bh_blobs *b)
{
    pthread_mutex_init(&b->spares.mutex, NULL);
    bh_cond_init(&b->spares.wake);
}

void bh_blobs_spares_start(struct bh_blobs *b)
{
    int rc = bh_thread_start(&b->spares.thread, spare_main, b);
    if (rc) /* new files take a little longer */
        bh_log(BH_LOG_WARNING, "no thread can be started that makes data files ahead: %s",
               strerror(rc));
    BH_LOCK_SCOPE(&b->spares.mutex);
    b->spares.runs = rc == 0;
}

void bh_blobs_spares_end(struct bh_blobs *b)
{
    struct blobs_spares *s = &b->spares;
    pthread_mutex_lock(&s->mutex);
    bool runs = s->runs;
    s->runs = false;
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    if (runs)
        pthread_join(s->thread, NULL);
    drop(b, s->items, s->count); /* of which nobody else knows any more */
    s->count = 0;
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->mutex);
}
