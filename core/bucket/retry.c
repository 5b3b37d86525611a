/* The retry layer: repeats what may be repeated, after EAGAIN, EIO and ETIMEDOUT.
 *
 * Not repeated: completions (the caller has the id to look for), what a sink, a listing's function
 * or a source refused, and a get whose bytes were all delivered before it failed (they may be
 * damaged, and cannot be taken back). Conditional puts: retry_cond.c. How often and how long:
 * retry_series.c.
 *
 * A put's errors other than ETIMEDOUT, EIO and EAGAIN promise that nothing happened. That is not
 * known any more once an attempt ended ambiguously: the first ambiguous code is reported then. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "bucket/retry_private.h"
#include "util/clock.h"

static struct retry *retry_of(struct bh_bucket *b)
{
    return (struct retry *)b;
}

/* Repeats `attempt`, an expression that uses b->inner as `inner`, the limits of the attempts as
 * `within` and the error as `e`. */
#define RETRY(b, what, key, kind, call, err, attempt)                                              \
    do {                                                                                           \
        struct series s_;                                                                          \
        int rc_;                                                                                   \
        bh_series_begin(&s_, (b), (what), (key), (kind), (call), (err));                           \
        struct bh_bucket *const inner = s_.r->inner;                                               \
        const struct bh_call *const within = s_.call;                                              \
        struct bh_error *const e = s_.err;                                                         \
        do                                                                                         \
            rc_ = (attempt);                                                                       \
        while (bh_series_again(&s_, &rc_));                                                        \
        return bh_series_end(&s_, rc_);                                                            \
    } while (0)

/* --- get --- */

struct get_state {
    bh_sink_fn *sink;
    void *arg;
    struct bh_object_info *info;   /* the caller's */
    struct bh_object_info attempt; /* of the attempt under way */
    uint64_t delivered;
    bool refused; /* by the sink, or the object is another one by now */
};

static int get_take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct get_state *g = arg;
    int rc = 0;
    if (g->delivered == 0)
        *g->info = g->attempt;
    else if (strcmp(g->info->etag, g->attempt.etag) != 0)
        rc = bh_fail(err, EIO, "the object was replaced while it was read");
    if (!rc)
        rc = g->sink(g->arg, data, len, err);
    g->delivered += len;
    g->refused = rc != 0;
    return rc;
}

static int retry_get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
                     bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                     const struct bh_call *call, struct bh_error *err)
{
    struct series s;
    struct get_state g = {.sink = sink, .arg = arg, .info = info};
    int rc;
    bh_series_begin(&s, b, "get", key, SERIES_LONG, call, err);
    for (;;) {
        uint64_t before = g.delivered;
        uint64_t rest = length == UINT64_MAX ? length : length - before;
        rc = s.r->inner->ops->get(s.r->inner, key, offset + before, rest, get_take, &g, &g.attempt,
                                  call, s.err);
        bool complete =
            rc && g.delivered > 0 && (g.delivered == length || offset + g.delivered == info->size);
        if (g.delivered > before)
            bh_series_progress(&s);
        if (g.refused || complete || !bh_series_again(&s, &rc))
            break;
    }
    if (g.delivered == 0)
        *info = g.attempt;
    if ((rc == EINVAL || rc == ENOENT) && g.delivered > 0 && !g.refused)
        rc = bh_fail(s.err, EIO, "%s was replaced or deleted while it was read", key);
    return rc;
}

/* --- put --- */

static int retry_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
                     const struct bh_meta *meta, const struct bh_cond *cond,
                     struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct series s;
    if (cond && (cond->if_match || cond->if_none_match))
        return bh_retry_cond_put(b, key, src, meta, cond, info, call, err);
    struct watched_source w = {.src = src};
    struct bh_source body = bh_source_watch(&w);
    int rc;
    bh_series_begin(&s, b, "put", key, SERIES_WRITES | SERIES_LONG, call, err);
    do
        rc = s.r->inner->ops->put(s.r->inner, key, &body, meta, cond, info, call, s.err);
    while (!w.failed && bh_series_again(&s, &rc));
    return bh_series_end(&s, rc);
}

/* --- list --- */

struct list_state {
    bh_list_fn *fn;
    void *arg;
    char last[BH_KEY_MAX + 1];
    size_t sent, max;
    bool refused, full;
};

static int list_take(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                     struct bh_error *err)
{
    struct list_state *l = arg;
    if (l->sent > 0 && strcmp(key, l->last) <= 0)
        return 0; /* a common prefix once more */
    if (l->full)
        return bh_fail(err, ECANCELED, "enough");
    int rc = l->fn(l->arg, key, is_prefix, info, err);
    l->refused = rc != 0;
    l->sent++;
    l->full = l->max && l->sent >= l->max;
    if (strlen(key) < sizeof l->last)
        strcpy(l->last, key);
    return rc;
}

static int retry_list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn,
                      void *arg, const struct bh_call *call, struct bh_error *err)
{
    struct series s;
    struct list_state l = {.fn = fn, .arg = arg, .max = req->max};
    struct bh_list_request rest = *req;
    int rc;
    bh_series_begin(&s, b, "list", req->prefix, SERIES_LONG, call, err);
    for (;;) {
        size_t before = l.sent;
        rc = s.r->inner->ops->list(s.r->inner, &rest, list_take, &l, call, s.err);
        if (l.full && !l.refused)
            rc = 0; /* whatever came after the last entry that was wanted */
        if (l.sent > before)
            bh_series_progress(&s);
        if (l.refused || !bh_series_again(&s, &rc))
            return rc;
        if (l.sent > 0) {
            rest.start_after = l.last;
            rest.max = req->max ? req->max - l.sent + 1 : 0; /* one may come once more */
        }
    }
}

struct uploads_state {
    bh_upload_fn *fn;
    void *arg;
    bool begun;
};

static int uploads_take(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                        struct bh_error *err)
{
    struct uploads_state *u = arg;
    u->begun = true;
    return u->fn(u->arg, key, upload_id, started_ms, err);
}

static int retry_mp_list(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
                         const struct bh_call *call, struct bh_error *err)
{
    struct series s;
    struct uploads_state u = {.fn = fn, .arg = arg};
    int rc;
    bh_series_begin(&s, b, "listing of uploads", prefix, SERIES_LONG, call, err);
    do
        rc = s.r->inner->ops->mp_list(s.r->inner, prefix, uploads_take, &u, call, s.err);
    while (!u.begun && bh_series_again(&s, &rc));
    return rc;
}

/* --- the simple ones --- */

static int retry_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                      const struct bh_call *call, struct bh_error *err)
{
    RETRY(b, "head", key, SERIES_READS, call, err, inner->ops->head(inner, key, info, within, e));
}

static int retry_copy(struct bh_bucket *b, const char *from, const char *to,
                      const char *from_if_match, struct bh_object_info *info,
                      const struct bh_call *call, struct bh_error *err)
{
    RETRY(b, "copy", from, SERIES_WRITES | SERIES_LONG, call, err,
          inner->ops->copy(inner, from, to, from_if_match, info, within, e));
}

static int retry_delete(struct bh_bucket *b, const char *key, const struct bh_call *call,
                        struct bh_error *err)
{
    RETRY(b, "delete", key, SERIES_WRITES, call, err, inner->ops->del(inner, key, within, e));
}

static int delete_many_once(struct bh_bucket *inner, const char *const *keys, size_t count,
                            size_t *deleted, const struct bh_call *call, struct bh_error *err)
{
    size_t now = 0;
    int rc = inner->ops->del_many(inner, keys, count, &now, call, err);
    if (now > *deleted) /* what an earlier attempt deleted is gone all the same */
        *deleted = now;
    return rc;
}

static int retry_delete_many(struct bh_bucket *b, const char *const *keys, size_t count,
                             size_t *deleted, const struct bh_call *call, struct bh_error *err)
{
    RETRY(b, "delete", count ? keys[0] : "", SERIES_WRITES | SERIES_LONG, call, err,
          delete_many_once(inner, keys, count, deleted, within, e));
}

/* A begin that succeeded unheard leaves an empty upload; mp_list shows it, gc aborts it. */
static int retry_mp_begin(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                          char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                          struct bh_error *err)
{
    RETRY(b, "begin of an upload", key, SERIES_WRITES, call, err,
          inner->ops->mp_begin(inner, key, meta, upload_id, within, e));
}

static int retry_mp_part(struct bh_bucket *b, const char *key, const char *upload_id,
                         unsigned number, const struct bh_source *src, struct bh_part *out,
                         const struct bh_call *call, struct bh_error *err)
{
    struct series s;
    struct watched_source w = {.src = src};
    struct bh_source body = bh_source_watch(&w);
    int rc;
    bh_series_begin(&s, b, "part upload", key, SERIES_WRITES | SERIES_LONG, call, err);
    do
        rc = s.r->inner->ops->mp_part(s.r->inner, key, upload_id, number, &body, out, call, s.err);
    while (!w.failed && bh_series_again(&s, &rc));
    return bh_series_end(&s, rc);
}

static int retry_mp_part_copy(struct bh_bucket *b, const char *key, const char *upload_id,
                              unsigned number, const char *from, uint64_t offset, uint64_t length,
                              const char *from_if_match, struct bh_part *out,
                              const struct bh_call *call, struct bh_error *err)
{
    RETRY(b, "part copy", key, SERIES_WRITES | SERIES_LONG, call, err,
          inner->ops->mp_part_copy(inner, key, upload_id, number, from, offset, length,
                                   from_if_match, out, within, e));
}

static int retry_mp_complete(struct bh_bucket *b, const char *key, const char *upload_id,
                             const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                             struct bh_object_info *info, const struct bh_call *call,
                             struct bh_error *err)
{
    struct bh_bucket *inner = retry_of(b)->inner;
    return inner->ops->mp_complete(inner, key, upload_id, parts, count, cond, info, call, err);
}

static int retry_mp_abort(struct bh_bucket *b, const char *key, const char *upload_id,
                          const struct bh_call *call, struct bh_error *err)
{
    struct series s;
    int rc;
    bh_series_begin(&s, b, "abort of an upload", key, SERIES_WRITES, call, err);
    do
        rc = s.r->inner->ops->mp_abort(s.r->inner, key, upload_id, s.call, s.err);
    while (bh_series_again(&s, &rc));
    return rc == ENOENT && s.ambiguous ? 0 : bh_series_end(&s, rc); /* an earlier attempt did it */
}

static int retry_server_time(struct bh_bucket *b, int64_t *real_ms, const struct bh_call *call,
                             struct bh_error *err)
{
    RETRY(b, "question for the time", "the bucket", SERIES_READS, call, err,
          inner->ops->server_time(inner, real_ms, within, e));
}

static int retry_presign(struct bh_bucket *b, const char *key, int64_t seconds,
                         struct bh_strbuf *url, struct bh_error *err)
{
    struct bh_bucket *inner = retry_of(b)->inner;
    return inner->ops->presign(inner, key, seconds, url, err);
}

static int retry_learn(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    RETRY(b, "trial", "the bucket", SERIES_LONG, call, err, inner->ops->learn(inner, within, e));
}

static int retry_make(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    RETRY(b, "making", "the bucket", SERIES_WRITES, call, err, inner->ops->make(inner, within, e));
}

static void retry_describe(struct bh_bucket *b, struct bh_strbuf *out)
{
    bh_bucket_describe(retry_of(b)->inner, out);
}

static unsigned retry_caps(struct bh_bucket *b)
{
    return bh_bucket_caps(retry_of(b)->inner);
}

static void retry_stats(struct bh_bucket *b, struct bh_bucket_stats *out)
{
    struct retry *r = retry_of(b);
    bh_bucket_stats(r->inner, out);
    out->retries += atomic_load(&r->retries);
}

static void retry_close(struct bh_bucket *b)
{
    struct retry *r = retry_of(b);
    bh_bucket_close(r->inner);
    pthread_mutex_destroy(&r->mutex);
    free(r);
}

static const struct bh_bucket_ops retry_ops = {
    .name = "retry",
    .close = retry_close,
    .caps = retry_caps,
    .get = retry_get,
    .put = retry_put,
    .head = retry_head,
    .copy = retry_copy,
    .del = retry_delete,
    .del_many = retry_delete_many,
    .list = retry_list,
    .mp_begin = retry_mp_begin,
    .mp_part = retry_mp_part,
    .mp_part_copy = retry_mp_part_copy,
    .mp_complete = retry_mp_complete,
    .mp_abort = retry_mp_abort,
    .mp_list = retry_mp_list,
    .presign = retry_presign,
    .server_time = retry_server_time,
    .learn = retry_learn,
    .make = retry_make,
    .describe = retry_describe,
    .stats = retry_stats,
};

int bh_bucket_retry_wrap(struct bh_bucket **out, struct bh_bucket *inner,
                         const struct bh_retry_options *how, struct bh_error *err)
{
    struct retry *r = calloc(1, sizeof *r);
    if (!r)
        return bh_fail(err, ENOMEM, "out of memory while opening the bucket");
    r->base.ops = &retry_ops;
    r->inner = inner;
    r->how = *how;
    if (r->how.attempts == 0)
        r->how.attempts = 1;
    if (r->how.base_ms < 0)
        r->how.base_ms = 0;
    if (r->how.budget == 0) /* one call alone must never meet it */
        r->how.budget = r->how.attempts > BH_RETRY_BUDGET ? r->how.attempts : BH_RETRY_BUDGET;
    pthread_mutex_init(&r->mutex, NULL);
    r->tokens = (int64_t)r->how.budget * BH_RETRY_COST;
    r->refilled_ms = bh_mono_ms();
    *out = &r->base;
    return 0;
}
