/* What the pack*.c share. */
#ifndef BH_REPO_PACK_PRIVATE_H
#define BH_REPO_PACK_PRIVATE_H

#include <pthread.h>
#include <zstd.h>

#include "repo/pack.h"

#define BH_PACKS_PARALLEL_MAX 64u

struct bh_packs {
    struct bh_bucket *bucket;
    char *prefix;
    struct bh_packs_options options;
    pthread_mutex_t mutex; /* guards what follows */
    ZSTD_DCtx *idle[BH_PACKS_PARALLEL_MAX];
    unsigned idle_count;
};

/* A context that nobody uses, or a new one; NULL: no memory. Given back with the second. */
ZSTD_DCtx *bh_packs_take_context(struct bh_packs *p);
void bh_packs_give_context(struct bh_packs *p, ZSTD_DCtx *context);

/* in: the ref->stored bytes of a record. Its content, checked, raw bytes, into buf. EIO, ENOMEM. */
int bh_pack_record_decode(ZSTD_DCtx *context, const struct bh_ref *ref, const void *in, size_t raw,
                          void *buf, const char *what, struct bh_error *err);

/* Exactly len bytes of a pack at `at`. EIO: it is missing or cut. */
int bh_packs_fetch(struct bh_packs *p, uint64_t id, uint64_t at, void *buf, size_t len,
                   const char *what, const struct bh_call *call, struct bh_error *err);

/* The caller's limits and one more: *over ends what is called with *call. Where both places for
 * that are taken it does not, and the call goes on until its own end. */
static inline struct bh_call bh_packs_call(const struct bh_call *outer, const atomic_bool *over)
{
    struct bh_call call = outer ? *outer : (struct bh_call){0};
    if (!call.cancel)
        call.cancel = over;
    else if (!call.stop)
        call.stop = over;
    return call;
}

/* A thread without signals: those are for the program's own. 0 or errno. */
int bh_packs_thread(pthread_t *thread, void *(*entry)(void *), void *arg);

#endif
