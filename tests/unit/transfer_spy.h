/* A layer that watches transfers: how many run at once, what reaches the bucket, and what the
 * bucket cannot. One per program. */
#ifndef TRANSFER_SPY_H
#define TRANSFER_SPY_H

#include <stddef.h>
#include <unistd.h>

#include "bucket_helpers.h"

static struct spy {
    struct bh_bucket base;
    struct bh_bucket *inner;
    unsigned lacking; /* capabilities */
    bool hollow;      /* parts and completions are accepted unseen */
    int delay_ms;     /* of each part and range */
    atomic_int active, most;
    atomic_uint parts, copies;
    unsigned copy_fails; /* the one that does, from 1, with EIO; 0: none */
    bool copies_time_out;
    const char *on_copy; /* the source becomes this before the first copy */
    bool lose_source;    /* or is deleted */
    uint64_t longer;     /* copies have so many bytes more than they should, where the source has */
    atomic_uint_fast64_t bytes;
    const char *on_head; /* the object becomes this before the first head */
} spy;

static inline void enter(void)
{
    int now = atomic_fetch_add(&spy.active, 1) + 1;
    for (int most = spy.most; now > most && !atomic_compare_exchange_weak(&spy.most, &most, now);)
        ;
    if (spy.delay_ms)
        usleep((useconds_t)spy.delay_ms * 1000);
}

static inline int leave(int rc)
{
    atomic_fetch_sub(&spy.active, 1);
    return rc;
}

static inline unsigned spy_caps(struct bh_bucket *s)
{
    return bh_bucket_caps(spy.inner) & ~spy.lacking;
}

static inline int spy_learn(struct bh_bucket *s, const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_learn(spy.inner, call, err);
}

static inline int spy_get(struct bh_bucket *s, const char *key, uint64_t offset, uint64_t length,
                          bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                          const struct bh_call *call, struct bh_error *err)
{
    enter();
    return leave(bh_bucket_get(spy.inner, key, offset, length, sink, arg, info, call, err));
}

static inline int spy_put(struct bh_bucket *s, const char *key, const struct bh_source *src,
                          const struct bh_meta *meta, const struct bh_cond *cond,
                          struct bh_object_info *info, const struct bh_call *call,
                          struct bh_error *err)
{
    return bh_bucket_put(spy.inner, key, src, meta, cond, info, call, err);
}

static inline int spy_head(struct bh_bucket *s, const char *key, struct bh_object_info *info,
                           const struct bh_call *call, struct bh_error *err)
{
    if (spy.on_head)
        must_put(spy.inner, key, spy.on_head);
    spy.on_head = NULL;
    return bh_bucket_head(spy.inner, key, info, call, err);
}

static inline int spy_begin(struct bh_bucket *s, const char *key, const struct bh_meta *meta,
                            char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                            struct bh_error *err)
{
    return bh_bucket_mp_begin(spy.inner, key, meta, upload_id, call, err);
}

static inline int spy_part(struct bh_bucket *s, const char *key, const char *upload_id,
                           unsigned number, const struct bh_source *src, struct bh_part *out,
                           const struct bh_call *call, struct bh_error *err)
{
    enter();
    atomic_fetch_add(&spy.parts, 1);
    atomic_fetch_add(&spy.bytes, src->size);
    out->number = number;
    return leave(
        spy.hollow ? 0 : bh_bucket_mp_part(spy.inner, key, upload_id, number, src, out, call, err));
}

static inline int spy_part_copy(struct bh_bucket *s, const char *key, const char *upload_id,
                                unsigned number, const char *from, uint64_t offset,
                                uint64_t length, const char *from_if_match, struct bh_part *out,
                                const struct bh_call *call, struct bh_error *err)
{
    unsigned n = atomic_fetch_add(&spy.copies, 1) + 1;
    if (n == spy.copy_fails)
        return bh_fail(err, EIO, "the store cannot copy this");
    if (spy.copies_time_out)
        return bh_fail(err, ETIMEDOUT, "the store takes too long to copy this");
    if (spy.on_copy && n == 1)
        must_put(spy.inner, from, spy.on_copy);
    if (spy.lose_source && n == 1)
        must(bh_bucket_delete(spy.inner, from, NULL, ERR));
    struct bh_object_info source;
    if (spy.longer && bh_bucket_head(spy.inner, from, &source, NULL, NULL) == 0 &&
        offset + length + spy.longer <= source.size)
        length += spy.longer;
    return bh_bucket_mp_part_copy(spy.inner, key, upload_id, number, from, offset, length,
                                  from_if_match, out, call, err);
}

static inline int spy_complete(struct bh_bucket *s, const char *key, const char *upload_id,
                               const struct bh_part *parts, size_t count,
                               const struct bh_cond *cond, struct bh_object_info *info,
                               const struct bh_call *call, struct bh_error *err)
{
    return spy.hollow ? 0
                      : bh_bucket_mp_complete(spy.inner, key, upload_id, parts, count, cond, info,
                                              call, err);
}

static inline int spy_abort(struct bh_bucket *s, const char *key, const char *upload_id,
                            const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_mp_abort(spy.inner, key, upload_id, call, err);
}

static inline int spy_uploads(struct bh_bucket *s, const char *prefix, bh_upload_fn *fn, void *arg,
                              const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_mp_list(spy.inner, prefix, fn, arg, call, err);
}

static inline void spy_stats(struct bh_bucket *s, struct bh_bucket_stats *out)
{
    bh_bucket_stats(spy.inner, out);
}

static inline void spy_close(struct bh_bucket *s)
{
    bh_bucket_close(spy.inner);
}

static const struct bh_bucket_ops spy_ops = {.name = "spy",
                                             .close = spy_close,
                                             .caps = spy_caps,
                                             .learn = spy_learn,
                                             .get = spy_get,
                                             .put = spy_put,
                                             .head = spy_head,
                                             .mp_begin = spy_begin,
                                             .mp_part = spy_part,
                                             .mp_part_copy = spy_part_copy,
                                             .mp_complete = spy_complete,
                                             .mp_abort = spy_abort,
                                             .mp_list = spy_uploads,
                                             .stats = spy_stats};

#endif
