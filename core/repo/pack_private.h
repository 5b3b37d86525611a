/* What the pack*.c share. */
#ifndef BH_REPO_PACK_PRIVATE_H
#define BH_REPO_PACK_PRIVATE_H

#include <pthread.h>
#include <zstd.h>

#include "repo/moved.h"

#define BH_PACKS_PARALLEL_MAX 64u
#define BH_PACKS_MOVED_SLOTS  2048u

struct bh_packs {
    struct bh_bucket *bucket;
    char *prefix;
    struct bh_packs_options options;
    pthread_mutex_t mutex; /* guards what follows */
    ZSTD_DCtx *idle[BH_PACKS_PARALLEL_MAX];
    unsigned idle_count;
    struct bh_packs_moved { /* of packs that were found missing; id 0: none */
        uint64_t id;
        struct bh_moved_entry *entries;
        size_t count;
    } moved[BH_PACKS_MOVED_SLOTS]; /* by id */
    size_t moved_bytes, moved_hand;
};

/* A context that nobody uses, or a new one; NULL: no memory. Given back with the second. */
ZSTD_DCtx *bh_packs_take_context(struct bh_packs *p);
void bh_packs_give_context(struct bh_packs *p, ZSTD_DCtx *context);

/* in: the ref->stored bytes of a record. Its content, checked, raw bytes, into buf. EIO, ENOMEM. */
int bh_pack_record_decode(ZSTD_DCtx *context, const struct bh_ref *ref, const void *in, size_t raw,
                          void *buf, const char *what, struct bh_error *err);

/* --- pack_moved.c: packs that gc has rewritten --- */
/* Wants of one pack, which is missing: by its moved record, which is remembered, their references
 * become those to where they are now. ENOENT: it has none. */
int bh_packs_move_wants(struct bh_packs *p, struct bh_pack_want *wants, size_t count,
                        const char *what, const struct bh_call *call, struct bh_error *err);
/* Whether the pack is known to have been moved. */
bool bh_packs_is_moved(struct bh_packs *p, uint64_t id);
/* Follows *ref through all moves that are known. EIO: into nowhere, or in a circle. */
int bh_packs_follow(struct bh_packs *p, struct bh_ref *ref, const char *what, struct bh_error *err);
void bh_packs_forget_moved(struct bh_packs *p);

/* Exactly len bytes of a pack at `at`. ENOENT, without a sentence: it is missing. EIO: it is cut.
 */
int bh_packs_try_fetch(struct bh_packs *p, uint64_t id, uint64_t at, void *buf, size_t len,
                       const char *what, const struct bh_call *call, struct bh_error *err);
/* EIO: the sentence for one that is missing. */
int bh_packs_missing(const struct bh_packs *p, uint64_t id, uint64_t at, const char *what,
                     struct bh_error *err);
/* The same, EIO also if it is missing, moved or not. */
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

/* entry(arg) in `parallel` threads (BH_PACKS_PARALLEL_MAX at most), but not in more than `count`.
 * The caller's is one of them; where no more can be started, it works alone. */
void bh_packs_team(unsigned parallel, size_t count, void *(*entry)(void *), void *arg);

/* Uploads an object that is not there yet. EEXIST: it is, where the store can tell. */
int bh_packs_put_new(struct bh_packs *p, const char *key, const struct bh_source *src,
                     const struct bh_call *call, struct bh_error *err);

#endif
