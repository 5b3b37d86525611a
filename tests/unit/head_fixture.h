/* For tests of heads, labels and the format object in a bucket: putting and getting heads, and a
 * bucket that loses answers, lets another one write in between or has no conditional writes. One
 * per program. */
#ifndef HEAD_FIXTURE_H
#define HEAD_FIXTURE_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket_fixture.h"
#include "repo/head_private.h"
#include "util/cleanup.h"

#define P   "k.bhfs/"
#define ID1 "20261127T072149.123Z-0123abcd"
#define ID2 "20261127T072150.000Z-89ef4567"

#define WRITER1 "11111111111111111111111111111111"
#define WRITER2 "22222222222222222222222222222222"

#define RACERS 8

static char etag[BH_ETAG_MAX]; /* of what the test wrote or read last */
static struct bh_head now;

static inline int setup(void **state)
{
    etag[0] = '\0';
    return dir_setup(state);
}

static inline void rules_are(const char *rules)
{
    struct bh_bucket *faulty;
    must(bh_bucket_fault_wrap(&faulty, b, rules, 11, ERR));
    b = faulty;
}

static inline struct bh_head head_of(const char *writer, uint64_t sequence)
{
    struct bh_head h = {.branch = "main", .sequence = sequence};
    snprintf(h.lease.writer, sizeof h.lease.writer, "%s", writer);
    snprintf(h.lease.host, sizeof h.lease.host, "host-of-%c", writer[0]);
    h.lease.pid = 4711;
    h.lease.epoch = 1;
    return h;
}

static inline int put(const struct bh_head *h)
{
    return bh_head_put(b, P, h, etag, &now, NULL, NULL, ERR);
}

static inline int get(struct bh_head *h)
{
    return bh_head_get(b, P, "main", h, etag, NULL, ERR);
}

/* Behind the back of b, and of etag. */
static inline void write_directly(struct bh_bucket *bucket, const struct bh_head *h)
{
    BH_STRBUF text = {0};
    must(bh_head_encode(h, &text));
    must_put(bucket, P "branches/main", text.data);
}

static inline void must_be_there(const struct bh_head *h)
{
    BH_STRBUF text = {0};
    must(bh_head_encode(h, &text));
    must_have(b, P "branches/main", text.data);
}

static char said[BH_ERROR_TEXT_MAX]; /* by the last failure */

static inline void fails(int expected, int rc, const char *what, const char *file, int line)
{
    memcpy(said, test_error.text, sizeof said);
    must_be_(expected, rc, what, file, line);
}

#undef must_fail
#define must_fail(expression, code) fails((code), (expression), #expression, __FILE__, __LINE__)

static inline void must_say(const char *part)
{
    if (!strstr(said, part))
        fail_msg("%s is not in: %s", part, said);
}

/* --- a bucket for mishaps --- */

static struct odd {
    struct bh_bucket base;
    struct bh_bucket *inner;
    bool unconditional; /* has no conditional writes */
    int puts;
    int lose;             /* so many puts are held back, answered by a time-out */
    void (*before)(void); /* the next put */
    void (*after)(void);  /* the next put, whose answer is then lost */
    char *held;           /* the first put that was held back */
    size_t held_len;
    char held_etag[BH_ETAG_MAX];
} odd;

static inline unsigned odd_caps(struct bh_bucket *x)
{
    unsigned caps = bh_bucket_caps(odd.inner);
    return odd.unconditional ? caps & ~(unsigned)(BH_CAP_IF_MATCH | BH_CAP_IF_NONE_MATCH) : caps;
}

static inline int odd_get(struct bh_bucket *x, const char *key, uint64_t offset, uint64_t length,
                          bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                          const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_get(odd.inner, key, offset, length, sink, arg, info, call, err);
}

static inline int deliver(void)
{
    struct bh_source src = {.size = odd.held_len, .data = odd.held};
    struct bh_cond cond = {.if_match = odd.held_etag[0] ? odd.held_etag : NULL,
                           .if_none_match = !odd.held_etag[0]};
    return bh_bucket_put(odd.inner, P "branches/main", &src, NULL, &cond, NULL, NULL, ERR);
}

static inline void hold(const struct bh_source *src, const struct bh_cond *cond)
{
    if (odd.held)
        return;
    odd.held = malloc(src->size);
    memcpy(odd.held, src->data, src->size);
    odd.held_len = src->size;
    snprintf(odd.held_etag, sizeof odd.held_etag, "%s", cond->if_match ? cond->if_match : "");
}

static inline int odd_put(struct bh_bucket *x, const char *key, const struct bh_source *src,
                          const struct bh_meta *meta, const struct bh_cond *cond,
                          struct bh_object_info *info, const struct bh_call *call,
                          struct bh_error *err)
{
    void (*before)(void) = odd.before, (*after)(void) = odd.after;
    odd.puts++;
    assert_true(!odd.unconditional || !cond);
    odd.before = odd.after = NULL;
    if (before)
        before();
    if (odd.lose > 0) {
        odd.lose--;
        hold(src, cond);
        return bh_fail(err, ETIMEDOUT, "no answer");
    }
    int rc = bh_bucket_put(odd.inner, key, src, meta, cond, info, call, err);
    if (rc || !after)
        return rc;
    after();
    return odd.unconditional ? 0 : bh_fail(err, ETIMEDOUT, "no answer");
}

static inline int odd_head(struct bh_bucket *x, const char *key, struct bh_object_info *info,
                           const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_head(odd.inner, key, info, call, err);
}

static inline int odd_del(struct bh_bucket *x, const char *key, const struct bh_call *call,
                          struct bh_error *err)
{
    return bh_bucket_delete(odd.inner, key, call, err);
}

static inline int odd_list(struct bh_bucket *x, const struct bh_list_request *req, bh_list_fn *fn,
                           void *arg, const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_list(odd.inner, req, fn, arg, call, err);
}

static inline int odd_learn(struct bh_bucket *x, const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_learn(odd.inner, call, err);
}

static inline void odd_close(struct bh_bucket *x)
{
    bh_bucket_close(odd.inner);
    free(odd.held);
    odd.held = NULL;
}

static const struct bh_bucket_ops odd_ops = {.name = "odd",
                                             .close = odd_close,
                                             .caps = odd_caps,
                                             .get = odd_get,
                                             .put = odd_put,
                                             .head = odd_head,
                                             .del = odd_del,
                                             .list = odd_list,
                                             .learn = odd_learn};

static inline void be_odd(bool unconditional)
{
    odd = (struct odd){.base.ops = &odd_ops, .inner = b, .unconditional = unconditional};
    b = &odd.base;
}

#endif
