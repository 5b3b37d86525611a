/* A read-only mount that follows its branch: one thread looks at the head of the branch, a request
 * each snapshot.follow, and takes the live database to what it finds there. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bh_private.h"
#include "internal.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

/* Requests would be all that such a mount does. */
#define INTERVAL_MIN_MS 50
/* While the bucket does not answer the pause doubles up to this. */
#define AWAY_MAX_MS 10000
/* A look that takes longer has failed: the next one may find the bucket back. */
#define LOOK_MS 15000
/* How long clients' transactions are waited for, again and again: a try holds those that come
 * back for moments. */
#define PATIENCE_MS   250
#define RETRY_STEP_MS 500

struct bh_follow {
    struct bh *bh;
    pthread_t thread;
    atomic_bool stop;
    int64_t next_step_ms; /* of the thread alone: not before, a reader was in the way */

    pthread_mutex_t mutex; /* what follows */
    pthread_cond_t wake;
    int64_t behind_since_ms, looked_ms; /* bh_mono_ms(); 0: not, never */
    uint64_t steps, failures;
    int code; /* of error */
    char error[BH_ERROR_TEXT_MAX];
};

int bh_follow_check(struct bh *b, struct bh_error *err)
{
    int64_t ms = b->cfg->snapshot.follow_ms;
    if (!ms)
        return 0;
    if (!b->read_only)
        return bh_fail(err, EINVAL,
                       "snapshot.follow (-o follow) shows what another mount writes, which a mount "
                       "that writes cannot: add -o ro, or remove it");
    if (!b->cfg->snapshot.history)
        return bh_fail(err, EINVAL,
                       "snapshot.follow (-o follow) follows the history, and snapshot.history is "
                       "false: set it to true, or remove follow");
    if (ms < INTERVAL_MIN_MS)
        return bh_fail(err, EINVAL, "snapshot.follow is %lld ms; it must be at least %d ms",
                       (long long)ms, INTERVAL_MIN_MS);
    return 0;
}

/* --- what it says of itself --- */

/* What one turn of the loop came to. */
struct outcome {
    bool looked;  /* the bucket answered */
    bool behind;  /* there is a newer snapshot than the one that is shown */
    bool stepped; /* another one is shown */
    int rc;
    struct bh_error err; /* if rc */
};

static void note(struct bh_follow *f, const struct outcome *o)
{
    int64_t now = bh_mono_ms();
    pthread_mutex_lock(&f->mutex);
    int before = f->code;
    bool changed = o->stepped || before != o->rc;
    f->code = o->rc;
    if (o->looked) {
        f->looked_ms = now;
        if (!o->behind)
            f->behind_since_ms = 0;
        else if (!f->behind_since_ms)
            f->behind_since_ms = now;
    }
    f->steps += o->stepped;
    f->failures += o->rc != 0;
    snprintf(f->error, sizeof f->error, "%s", o->rc ? o->err.text : "");
    pthread_mutex_unlock(&f->mutex);
    if (o->rc && o->rc != before) /* once, however often it is met */
        bh_log(o->rc == EBUSY ? BH_LOG_INFO : BH_LOG_WARNING, "%s", o->err.text);
    else if (!o->rc && before)
        bh_log(BH_LOG_INFO, "the newest snapshot is shown again");
    if (changed && f->bh->callbacks.on_follow)
        f->bh->callbacks.on_follow(f->bh->callbacks.arg);
}

bool bh_follow_status_of(struct bh *b, struct bh_follow_status *out)
{
    struct bh_follow *f = b->follow;
    struct bh_history_status h;
    int64_t now = bh_mono_ms();
    *out = (struct bh_follow_status){0};
    if (!f)
        return false;
    bh_history_status(b->history, &h);
    memcpy(out->newest, h.snapshot, sizeof out->newest);
    BH_LOCK_SCOPE(&f->mutex);
    out->lag_ms = f->behind_since_ms ? now - f->behind_since_ms : 0;
    out->looked_ago_ms = f->looked_ms ? now - f->looked_ms : -1;
    out->steps = f->steps;
    out->failures = f->failures;
    memcpy(out->error, f->error, sizeof out->error);
    return true;
}

/* --- the thread --- */

static void step(struct bh_follow *f, const struct bh_call *call, struct outcome *o)
{
    struct bh_history *h = f->bh->history;
    if (f->code == EBUSY && bh_mono_ms() < f->next_step_ms) {
        o->rc = f->code; /* as before */
        memcpy(o->err.text, f->error, sizeof o->err.text);
        return;
    }
    o->rc = bh_history_step(h, PATIENCE_MS, call, &o->err);
    o->stepped = o->rc == 0;
    o->behind = o->rc != 0;
    if (o->rc != EBUSY)
        return;
    f->next_step_ms = bh_mono_ms() + RETRY_STEP_MS;
    bh_fail_prefix(&o->err, o->rc, "a newer snapshot waits until it can be shown");
}

static void look_and_step(struct bh_follow *f, struct outcome *o)
{
    struct bh *b = f->bh;
    struct bh_call call = {.stop = &f->stop, .deadline_ms = bh_mono_ms() + LOOK_MS};
    o->rc = bh_take_turn(b, &call, &o->err);
    if (o->rc)
        return;
    o->rc = bh_history_look(b->history, &o->behind, &call, &o->err);
    o->looked = o->rc == 0 || o->rc == ENOENT || o->rc == ESTALE;
    if (o->rc == 0 && o->behind)
        step(f, &call, o);
    bh_note_head(b);
    bh_end_turn(b);
}

static bool is_running(struct bh *b)
{
    BH_LOCK_SCOPE(&b->mutex);
    return b->running;
}

/* False: the thread ends. */
static bool sleep_until(struct bh_follow *f, int64_t ms)
{
    BH_LOCK_SCOPE(&f->mutex);
    for (int64_t now; !atomic_load(&f->stop) && (now = bh_mono_ms()) < ms;) {
        struct timespec until = bh_mono_after_ms(ms - now);
        pthread_cond_timedwait(&f->wake, &f->mutex, &until);
    }
    return !atomic_load(&f->stop);
}

static void *follow_main(void *arg)
{
    struct bh_follow *f = arg;
    int64_t interval = f->bh->cfg->snapshot.follow_ms, pause = interval, begun = bh_mono_ms();
    pthread_setname_np(pthread_self(), "bhfs-follow");
    while (sleep_until(f, begun + pause)) {
        struct outcome o = {0};
        begun = bh_mono_ms();
        if (!is_running(f->bh)) /* the start is not quite over */
            continue;
        look_and_step(f, &o);
        if (atomic_load(&f->stop))
            break;
        note(f, &o);
        int64_t longest = interval > AWAY_MAX_MS ? interval : AWAY_MAX_MS;
        pause = o.looked ? interval : pause * 2 < longest ? pause * 2 : longest;
    }
    return NULL;
}

int bh_follow_start(struct bh *b, struct bh_error *err)
{
    struct bh_history_status h;
    if (!b->cfg->snapshot.follow_ms)
        return 0;
    struct bh_follow *f = calloc(1, sizeof *f);
    if (!f)
        return bh_fail(err, ENOMEM, "out of memory");
    f->bh = b;
    bh_history_status(b->history, &h);
    f->looked_ms = h.ready ? bh_mono_ms() : 0;
    pthread_mutex_init(&f->mutex, NULL);
    bh_cond_init(&f->wake);
    int rc = pthread_create(&f->thread, NULL, follow_main, f);
    if (rc) {
        pthread_cond_destroy(&f->wake);
        pthread_mutex_destroy(&f->mutex);
        free(f);
        return bh_fail(err, rc, "the thread that follows the branch cannot be started: %s",
                       strerror(rc));
    }
    b->follow = f;
    return 0;
}

void bh_follow_stop(struct bh *b)
{
    struct bh_follow *f = b->follow;
    if (!f)
        return;
    pthread_mutex_lock(&f->mutex);
    atomic_store(&f->stop, true);
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->mutex);
    pthread_join(f->thread, NULL);
    b->follow = NULL;
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->mutex);
    free(f);
}
