/* The bound of the cache: what was used least lately goes, in the background. */
#include "store/blobs_private.h"

#include <errno.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/thread.h"

#define ROOM ((uint64_t)8 << 20) /* made on a full disk, beside what is needed */

/* Takes the oldest that nobody has open out of the table; its file is still there. NULL: none. With
 * naming. */
static struct blobs_entry *take_oldest(struct bh_blobs *b, enum blobs_kind *was, uint64_t *bytes)
{
    BH_LOCK_SCOPE(&b->mutex);
    struct blobs_entry *e = b->may_go.oldest;
    while (e && e->pins > 0)
        e = e->newer;
    if (!e)
        return NULL;
    *was = e->kind;
    *bytes = e->bytes;
    e->pins++;
    bh_blobs_become(b, e, KIND_NONE, 0);
    b->evicted_bytes += *bytes;
    return e;
}

/* Returns the bytes that went; 0: there is nothing that may go. */
static uint64_t evict_one(struct bh_blobs *b)
{
    enum blobs_kind was;
    uint64_t bytes;
    BH_LOCK_SCOPE(&b->naming);
    struct blobs_entry *e = take_oldest(b, &was, &bytes);
    if (!e)
        return 0;
    bh_blobs_unlink(b, was, e->hash);
    BH_LOCK_SCOPE(&b->mutex);
    e->pins--;
    bh_blobs_entry_drop(b, e);
    return bytes ? bytes : 1;
}

/* The same for parts of large blobs that are open; they are many times what a small cache has. */
static uint64_t shrink_one(struct bh_blobs *b, uint64_t want)
{
    struct blobs_content *c = NULL;
    pthread_mutex_lock(&b->mutex);
    for (struct blobs_entry *e = b->may_go.oldest; e && !c; e = e->newer)
        if (e->kind == KIND_PARTS && e->bytes > 0 && e->content && e->content->parts)
            c = e->content;
    if (c)
        c->fetching++; /* keeps it open */
    pthread_mutex_unlock(&b->mutex);
    if (!c)
        return 0;
    uint64_t went = bh_blobs_parts_shrink(b, c, want);
    BH_LOCK_SCOPE(&b->mutex);
    b->evicted_bytes += went;
    bh_blobs_used(b, c->entry); /* the next time another one's turn */
    c->fetching--;
    bh_blobs_content_drop(b, c);
    return went;
}

bool bh_blobs_make_room(struct bh_blobs *b, uint64_t bytes)
{
    uint64_t went = 0, one = 1;
    while (went < bytes + ROOM && one > 0) {
        one = evict_one(b);
        if (!one)
            one = shrink_one(b, bytes + ROOM - went);
        went += one;
    }
    return went > 0;
}

uint32_t bh_blobs_frozen(struct bh_blobs *b)
{
    BH_LOCK_SCOPE(&b->mutex);
    return b->flush++;
}

void bh_blobs_named(struct bh_blobs *b, uint32_t flush)
{
    BH_LOCK_SCOPE(&b->mutex);
    bh_blobs_let_go(b, flush);
}

bool bh_blobs_is_full(int rc)
{
    return rc == ENOSPC || rc == EDQUOT;
}

int bh_blobs_write(struct bh_blobs *b, struct bh_dfile *f, const void *buf, size_t len,
                   uint64_t offset, uint64_t more)
{
    int rc = bh_dfile_write(f, buf, len, offset);
    if (bh_blobs_is_full(rc) && bh_blobs_make_room(b, more))
        rc = bh_dfile_write(f, buf, len, offset);
    return rc;
}

static uint64_t excess(const struct bh_blobs *b)
{
    return b->cache_max && b->cached_bytes > b->cache_max ? b->cached_bytes - b->cache_max : 0;
}

static void *keeper_main(void *arg)
{
    struct bh_blobs *b = arg;
    pthread_mutex_lock(&b->mutex);
    while (!atomic_load(&b->closing)) {
        uint64_t want = excess(b), went = 0;
        if (want) {
            pthread_mutex_unlock(&b->mutex);
            went = evict_one(b);
            if (!went)
                went = shrink_one(b, want);
            pthread_mutex_lock(&b->mutex);
        }
        if (!went && !atomic_load(&b->closing))
            pthread_cond_wait(&b->crowded, &b->mutex);
    }
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

int bh_blobs_keeper_start(struct bh_blobs *b, struct bh_error *err)
{
    int rc = bh_thread_start(&b->keeper, keeper_main, b);
    b->has_keeper = rc == 0;
    return rc ? bh_fail(err, rc, "no thread can be started for the cache of files: %s",
                        strerror(rc))
              : 0;
}

void bh_blobs_keeper_end(struct bh_blobs *b)
{
    if (!b->has_keeper)
        return;
    pthread_mutex_lock(&b->mutex);
    pthread_cond_signal(&b->crowded);
    pthread_mutex_unlock(&b->mutex);
    pthread_join(b->keeper, NULL);
    b->has_keeper = false;
}
