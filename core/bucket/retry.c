/* The retry layer: repeats what may be repeated, after EAGAIN, EIO and ETIMEDOUT.
 *
 * Not repeated: conditional puts and completions (a second attempt would meet the first one's
 * success), what a sink, a listing's function or a source refused, and a get whose bytes were all
 * delivered before it failed (they may be damaged, and cannot be taken back).
 *
 * A put's errors other than ETIMEDOUT, EIO and EAGAIN promise that nothing happened. That is not
 * known any more once an attempt ended ambiguously: the first ambiguous code is reported then. */
#include "bucket/bucket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "util/clock.h"
#include "util/log.h"

#define WAIT_MAX_MS 20000

struct retry {
    struct bh_bucket base;
    struct bh_bucket *inner;
    unsigned attempts;
    int64_t base_ms;
    atomic_uint_fast64_t retries;
};

/* One call's attempts. */
struct series {
    struct retry *r;
    const char *what;
    const char *key;
    const struct bh_call *call;
    struct bh_error *err;
    struct bh_error own; /* where the caller wants no sentence */
    unsigned attempt;
    bool writes;   /* the outcome is in doubt after an ambiguous attempt */
    int ambiguous; /* the first such code */
};

static struct retry *retry_of(struct bh_bucket *b)
{
    return (struct retry *)b;
}

static void series_begin(struct series *s, struct bh_bucket *b, const char *what, const char *key,
                         bool writes, const struct bh_call *call, struct bh_error *err)
{
    *s =
        (struct series){.r = retry_of(b), .what = what, .key = key, .writes = writes, .call = call};
    s->err = err ? err : &s->own;
}

static bool is_passing(int rc)
{
    return rc == EAGAIN || rc == EIO || rc == ETIMEDOUT;
}

static int64_t jitter(const struct retry *r, unsigned attempt)
{
    uint64_t random;
    int64_t top = r->base_ms;
    for (unsigned i = 1; i < attempt && top < WAIT_MAX_MS; i++)
        top *= 2;
    if (top > WAIT_MAX_MS)
        top = WAIT_MAX_MS;
    bh_random_bytes(&random, sizeof random);
    return (int64_t)(random % (uint64_t)(top + 1));
}

/* What the caller is told: an ambiguous code must not be covered by one that says "nothing
 * happened". */
static int series_end(struct series *s, int rc)
{
    if (!rc || !s->writes || !s->ambiguous || is_passing(rc))
        return rc;
    return bh_fail_prefix(s->err, s->ambiguous,
                          "an earlier attempt of the %s of %s may have succeeded", s->what, s->key);
}

/* After an attempt ended with *rc: waits and says true if there is to be another. */
static bool series_again(struct series *s, int *rc)
{
    if (!is_passing(*rc))
        return false;
    if (!s->ambiguous)
        s->ambiguous = *rc;
    if (++s->attempt >= s->r->attempts) {
        if (s->attempt > 1)
            bh_fail_prefix(s->err, *rc, "after %u attempts", s->attempt);
        return false;
    }
    int64_t wait = jitter(s->r, s->attempt);
    bh_log(BH_LOG_DEBUG, "the %s of %s is repeated in %lld ms: %s", s->what, s->key,
           (long long)wait, s->err->text);
    struct bh_error stopped = {0};
    int stop = bh_call_sleep(s->call, wait, s->what, &stopped);
    if (stop) {
        *rc = bh_fail_prefix(s->err, stop, "%s; the last error was", stopped.text);
        return false;
    }
    atomic_fetch_add(&s->r->retries, 1);
    return true;
}

/* Repeats `attempt`, an expression that uses b->inner as `inner` and &s.err's error as `e`. */
#define RETRY(b, what, key, writes, call, err, attempt)                                            \
    do {                                                                                           \
        struct series s_;                                                                          \
        int rc_;                                                                                   \
        series_begin(&s_, (b), (what), (key), (writes), (call), (err));                            \
        struct bh_bucket *const inner = s_.r->inner;                                               \
        struct bh_error *const e = s_.err;                                                         \
        do                                                                                         \
            rc_ = (attempt);                                                                       \
        while (series_again(&s_, &rc_));                                                           \
        return series_end(&s_, rc_);                                                               \
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
    series_begin(&s, b, "get", key, false, call, err);
    for (;;) {
        uint64_t rest = length == UINT64_MAX ? length : length - g.delivered;
        rc = s.r->inner->ops->get(s.r->inner, key, offset + g.delivered, rest, get_take, &g,
                                  &g.attempt, call, s.err);
        if (!rc || g.refused)
            break;
        bool complete =
            g.delivered > 0 && (g.delivered == length || offset + g.delivered == info->size);
        if (complete || !series_again(&s, &rc))
            break;
    }
    if (g.delivered == 0)
        *info = g.attempt;
    if ((rc == EINVAL || rc == ENOENT) && g.delivered > 0 && !g.refused)
        rc = bh_fail(s.err, EIO, "%s was replaced or deleted while it was read", key);
    return rc;
}

/* --- put --- */

struct watched_source {
    const struct bh_source *src;
    bool failed;
};

static int watched_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    struct watched_source *w = arg;
    int rc = w->src->read(w->src->arg, offset, buf, len, err);
    w->failed = rc != 0;
    return rc;
}

static struct bh_source watch(struct watched_source *w)
{
    struct bh_source s = *w->src;
    if (!s.data && s.read) {
        s.read = watched_read;
        s.arg = w;
    }
    return s;
}

static int retry_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
                     const struct bh_meta *meta, const struct bh_cond *cond,
                     struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct series s;
    struct bh_bucket *inner = retry_of(b)->inner;
    if (cond && (cond->if_match || cond->if_none_match))
        return inner->ops->put(inner, key, src, meta, cond, info, call, err);
    struct watched_source w = {.src = src};
    struct bh_source body = watch(&w);
    int rc;
    series_begin(&s, b, "put", key, true, call, err);
    do
        rc = inner->ops->put(inner, key, &body, meta, cond, info, call, s.err);
    while (!w.failed && series_again(&s, &rc));
    return series_end(&s, rc);
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
    series_begin(&s, b, "list", req->prefix, false, call, err);
    for (;;) {
        rc = s.r->inner->ops->list(s.r->inner, &rest, list_take, &l, call, s.err);
        if (l.full && !l.refused)
            return 0; /* whatever came after the last entry that was wanted */
        if (!rc || l.refused || !series_again(&s, &rc))
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
    series_begin(&s, b, "listing of uploads", prefix, false, call, err);
    do
        rc = s.r->inner->ops->mp_list(s.r->inner, prefix, uploads_take, &u, call, s.err);
    while (!u.begun && series_again(&s, &rc));
    return rc;
}

/* --- the simple ones --- */

static int retry_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                      const struct bh_call *call, struct bh_error *err)
{
    RETRY(b, "head", key, false, call, err, inner->ops->head(inner, key, info, call, e));
}

static int retry_copy(struct bh_bucket *b, const char *from, const char *to,
                      const char *from_if_match, struct bh_object_info *info,
                      const struct bh_call *call, struct bh_error *err)
{
    RETRY(b, "copy", from, true, call, err,
          inner->ops->copy(inner, from, to, from_if_match, info, call, e));
}

static int retry_delete(struct bh_bucket *b, const char *key, const struct bh_call *call,
                        struct bh_error *err)
{
    RETRY(b, "delete", key, true, call, err, inner->ops->del(inner, key, call, e));
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
    RETRY(b, "delete", count ? keys[0] : "", true, call, err,
          delete_many_once(inner, keys, count, deleted, call, e));
}

/* A begin that succeeded unheard leaves an empty upload; mp_list shows it, gc aborts it. */
static int retry_mp_begin(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                          char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                          struct bh_error *err)
{
    RETRY(b, "begin of an upload", key, true, call, err,
          inner->ops->mp_begin(inner, key, meta, upload_id, call, e));
}

static int retry_mp_part(struct bh_bucket *b, const char *key, const char *upload_id,
                         unsigned number, const struct bh_source *src, struct bh_part *out,
                         const struct bh_call *call, struct bh_error *err)
{
    struct series s;
    struct watched_source w = {.src = src};
    struct bh_source body = watch(&w);
    int rc;
    series_begin(&s, b, "part upload", key, true, call, err);
    do
        rc = s.r->inner->ops->mp_part(s.r->inner, key, upload_id, number, &body, out, call, s.err);
    while (!w.failed && series_again(&s, &rc));
    return series_end(&s, rc);
}

static int retry_mp_part_copy(struct bh_bucket *b, const char *key, const char *upload_id,
                              unsigned number, const char *from, uint64_t offset, uint64_t length,
                              const char *from_if_match, struct bh_part *out,
                              const struct bh_call *call, struct bh_error *err)
{
    RETRY(b, "part copy", key, true, call, err,
          inner->ops->mp_part_copy(inner, key, upload_id, number, from, offset, length,
                                   from_if_match, out, call, e));
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
    series_begin(&s, b, "abort of an upload", key, true, call, err);
    do
        rc = s.r->inner->ops->mp_abort(s.r->inner, key, upload_id, call, s.err);
    while (series_again(&s, &rc));
    return rc == ENOENT && s.ambiguous ? 0 : series_end(&s, rc); /* an earlier attempt did it */
}

static int retry_server_time(struct bh_bucket *b, int64_t *real_ms, const struct bh_call *call,
                             struct bh_error *err)
{
    RETRY(b, "question for the time", "the bucket", false, call, err,
          inner->ops->server_time(inner, real_ms, call, e));
}

static int retry_presign(struct bh_bucket *b, const char *key, int64_t seconds,
                         struct bh_strbuf *url, struct bh_error *err)
{
    struct bh_bucket *inner = retry_of(b)->inner;
    return inner->ops->presign(inner, key, seconds, url, err);
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
    .stats = retry_stats,
};

int bh_bucket_retry_wrap(struct bh_bucket **out, struct bh_bucket *inner, unsigned attempts,
                         int64_t base_ms, struct bh_error *err)
{
    struct retry *r = calloc(1, sizeof *r);
    if (!r)
        return bh_fail(err, ENOMEM, "out of memory while opening the bucket");
    r->base.ops = &retry_ops;
    r->inner = inner;
    r->attempts = attempts ? attempts : 1;
    r->base_ms = base_ms > 0 ? base_ms : 0;
    *out = &r->base;
    return 0;
}
