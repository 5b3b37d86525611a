/* Background hydration: after a mount, a restore or a switch everything that is not local yet is
 * fetched (the live database with live.hydrate only; names.db always, unless it is large), beside
 * whatever else goes on. What clients read meanwhile comes first come, first served; what fails is
 * tried again. */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "bh_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define LOOK_MS  1000 /* between looks whether there is something to fetch */
#define RETRY_MS 15000
#define FULL_MS  600000 /* live.cache_max does not allow it */
/* names.db up to this size is fetched in any case: every look at a file needs it. */
#define NAMES_MAX (64u << 20)

/* Sleeps. False: the mount ends. */
static bool rest(struct bh *b, int64_t ms)
{
    struct timespec until = bh_mono_after_ms(ms);
    BH_LOCK_SCOPE(&b->mutex);
    while (!atomic_load(&b->hydrator_stops) &&
           pthread_cond_timedwait(&b->changed, &b->mutex, &until) == 0)
        continue;
    return !atomic_load(&b->hydrator_stops);
}

static bool wants_names(struct bh *b)
{
    struct bh_store *s = b->live->names;
    return bh_store_absent_bytes(s) > 0 &&
           (b->cfg->live.hydrate || bh_file_size(bh_store_db(s)) <= NAMES_MAX);
}

static bool wants_live(struct bh *b)
{
    return b->cfg->live.hydrate && bh_store_absent_bytes(b->live->store) > 0;
}

static int64_t hydrate_names(struct bh *b)
{
    struct bh_error err;
    int rc = bh_store_hydrate(b->live->names, &b->hydrator_stops, &err);
    if (rc && !atomic_load(&b->hydrator_stops))
        bh_log(BH_LOG_WARNING, "the rest of names.db is fetched later: %s", err.text);
    return rc ? RETRY_MS : LOOK_MS;
}

/* For how long to rest then. */
static int64_t hydrate(struct bh *b)
{
    struct bh_error err;
    int64_t began = bh_mono_ms();
    int rc = bh_store_hydrate(b->live->store, &b->hydrator_stops, &err);
    if (rc == 0) { /* a follower has a little to fetch again and again */
        bool worth_saying = bh_mono_ms() - began > LOOK_MS || !b->hydrated;
        bh_log(worth_saying ? BH_LOG_INFO : BH_LOG_DEBUG, "all of the live database is local");
        b->hydrated = true;
        return LOOK_MS;
    }
    if (!atomic_load(&b->hydrator_stops))
        bh_log(BH_LOG_WARNING, "the rest of the live database is fetched later: %s", err.text);
    return rc == EDQUOT ? FULL_MS : RETRY_MS;
}

/* Each database has its time: that one cannot be fetched does not keep the other waiting. */
static void *hydrate_main(void *arg)
{
    struct bh *b = arg;
    int64_t now = bh_mono_ms(), names_due = now + LOOK_MS, live_due = names_due;
    pthread_setname_np(pthread_self(), "bhfs-hydrate");
    while (rest(b, (names_due < live_due ? names_due : live_due) - now)) {
        if (bh_mono_ms() >= names_due) {
            int64_t pause = wants_names(b) ? hydrate_names(b) : LOOK_MS;
            names_due = bh_mono_ms() + pause;
        }
        if (bh_mono_ms() >= live_due) {
            int64_t pause = wants_live(b) ? hydrate(b) : LOOK_MS;
            live_due = bh_mono_ms() + pause;
        }
        now = bh_mono_ms();
    }
    return NULL;
}

int bh_hydrator_start(struct bh *b, struct bh_error *err)
{
    if (!b->history)
        return 0;
    atomic_store(&b->hydrator_stops, false);
    b->hydrated = false;
    int rc = pthread_create(&b->hydrator, NULL, hydrate_main, b);
    if (rc)
        return bh_fail(err, rc, "background hydration cannot be started: %s", strerror(rc));
    b->hydrator_runs = true;
    return 0;
}

void bh_hydrator_tell(struct bh *b)
{
    BH_LOCK_SCOPE(&b->mutex);
    atomic_store(&b->hydrator_stops, true);
    pthread_cond_broadcast(&b->changed);
}

void bh_hydrator_stop(struct bh *b)
{
    if (!b->hydrator_runs)
        return;
    bh_hydrator_tell(b);
    pthread_join(b->hydrator, NULL);
    b->hydrator_runs = false;
}
