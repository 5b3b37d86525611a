/* One call's attempts: how many, for how long, with which pauses, and out of which budget.
 *
 * The budget is a bucket of tokens that all calls share. A repetition takes BH_RETRY_COST of them;
 * a call that the store answers gives some back: what its last repetition took, or 1 if there was
 * none; and time gives back one repetition a second. So a store that fails now and then has every
 * call repeated, while one that is down is asked little more often than there are calls, however
 * many of them run at once. */
#include <errno.h>

#include "bucket/bucket_util.h"
#include "bucket/retry_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define WAIT_MAX_MS 20000

bool bh_retry_is_passing(int rc)
{
    return rc == EAGAIN || rc == EIO || rc == ETIMEDOUT;
}

/* --- the budget --- */

/* The caller holds the mutex. */
static void budget_add(struct retry *r, int64_t tokens)
{
    int64_t full = (int64_t)r->how.budget * BH_RETRY_COST;
    r->tokens = r->tokens > full - tokens ? full : r->tokens + tokens;
}

static bool budget_take(struct retry *r)
{
    BH_LOCK_SCOPE(&r->mutex);
    int64_t seconds = (bh_mono_ms() - r->refilled_ms) / 1000;
    if (seconds > 0) {
        r->refilled_ms += seconds * 1000;
        budget_add(r, (seconds > INT32_MAX ? INT32_MAX : seconds) * BH_RETRY_COST);
    }
    if (r->tokens < BH_RETRY_COST)
        return false;
    r->tokens -= BH_RETRY_COST;
    return true;
}

static void budget_give(struct retry *r, int64_t tokens)
{
    BH_LOCK_SCOPE(&r->mutex);
    budget_add(r, tokens);
}

/* --- attempts --- */

void bh_series_begin(struct series *s, struct bh_bucket *b, const char *what, const char *key,
                     unsigned kind, const struct bh_call *call, struct bh_error *err)
{
    *s = (struct series){
        .r = (struct retry *)b, .kind = kind, .what = what, .key = key, .call = call};
    s->err = err ? err : &s->own;
    if ((kind & SERIES_LONG) || !s->r->how.time_ms)
        return;
    s->until_ms = bh_mono_ms() + s->r->how.time_ms;
    if (call)
        s->limited = *call;
    if (!s->limited.deadline_ms || s->limited.deadline_ms > s->until_ms)
        s->limited.deadline_ms = s->until_ms;
    s->call = &s->limited;
}

void bh_series_progress(struct series *s)
{
    if (s->attempt > 0) /* as after a success */
        budget_give(s->r, BH_RETRY_COST);
    s->attempt = 0;
    s->last = false;
    if (s->kind & SERIES_LONG)
        s->until_ms = 0;
}

int bh_series_end(struct series *s, int rc)
{
    if (!rc || !(s->kind & SERIES_WRITES) || !s->ambiguous || bh_retry_is_passing(rc))
        return rc;
    return bh_fail_prefix(s->err, s->ambiguous,
                          "an earlier attempt of the %s of %s may have succeeded", s->what, s->key);
}

static int64_t jitter(const struct retry *r, unsigned attempt)
{
    uint64_t random;
    int64_t top = r->how.base_ms;
    for (unsigned i = 1; i < attempt && top < WAIT_MAX_MS; i++)
        top *= 2;
    if (top > WAIT_MAX_MS)
        top = WAIT_MAX_MS;
    bh_random_bytes(&random, sizeof random);
    return (int64_t)(random % (uint64_t)(top + 1));
}

/* How long attempts may still begin. */
static int64_t time_left(struct series *s)
{
    int64_t now = bh_mono_ms(), until = s->until_ms;
    if (!until && s->r->how.time_ms)
        until = s->until_ms = now + s->r->how.time_ms;
    if (s->call && s->call->deadline_ms && (!until || s->call->deadline_ms < until))
        until = s->call->deadline_ms;
    return until ? until - now : INT64_MAX;
}

/* Whether attempts, time and budget allow another attempt; says why not in the sentence. */
static bool allowed(struct series *s, int rc)
{
    if (s->attempt >= s->r->how.attempts) {
        if (s->attempt > 1)
            bh_fail_prefix(s->err, rc, "after %u attempts", s->attempt);
    } else if (s->last || time_left(s) <= 0) {
        bh_fail_prefix(s->err, rc, "after %u attempt%s, as their time is over", s->attempt,
                       s->attempt > 1 ? "s" : "");
    } else if (!budget_take(s->r)) {
        bh_fail_prefix(
            s->err, rc,
            "not repeated, as the retry budget is used up (many requests failed lately)");
    } else {
        return true;
    }
    return false;
}

/* How long to wait before the next attempt. */
static int64_t next_pause(struct series *s)
{
    int64_t left = time_left(s), ms = jitter(s->r, s->attempt);
    if (ms > left / 2) { /* the attempt after the pause needs time, too */
        ms = left / 2;
        s->last = true;
    }
    bh_log(BH_LOG_DEBUG, "the %s of %s is repeated in %lld ms: %s", s->what, s->key, (long long)ms,
           s->err->text);
    return ms;
}

/* 0, or what the call's limits ended it with. */
static int wait_for(struct series *s, int64_t ms)
{
    struct bh_error stopped = {0};
    int rc = bh_call_sleep(s->call, ms, s->what, &stopped);
    return rc ? bh_fail_prefix(s->err, rc, "%s; the last error was", stopped.text) : 0;
}

bool bh_series_again(struct series *s, int *rc)
{
    if (!bh_retry_is_passing(*rc)) {
        if (*rc != ECANCELED)
            budget_give(s->r, s->attempt ? BH_RETRY_COST : 1);
        return false;
    }
    if (!s->ambiguous)
        s->ambiguous = *rc;
    s->attempt++;
    int stop = wait_for(s, 0);
    if (!stop) {
        if (!allowed(s, *rc))
            return false;
        stop = wait_for(s, next_pause(s));
    }
    if (stop) {
        *rc = stop;
        return false;
    }
    atomic_fetch_add(&s->r->retries, 1);
    return true;
}

/* --- sources --- */

static int watched_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    struct watched_source *w = arg;
    int rc = w->src->read(w->src->arg, offset, buf, len, err);
    w->failed = rc != 0;
    return rc;
}

struct bh_source bh_source_watch(struct watched_source *w)
{
    struct bh_source s = *w->src;
    if (!s.data && s.read) {
        s.read = watched_read;
        s.arg = w;
    }
    return s;
}
