/* The bound on clean content: what was not used lately becomes absent again. A clock goes round the
 * content in units of the origin; a unit that was read or written since it came by is spared once.
 *
 * What goes is absent in the block map on the disk before its bytes are gone, and a hole is made
 * under the mutex, where the sub-block is absent still: who fetched it again, or wrote it, keeps
 * it. Readers without the mutex notice by `swaps`. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "live/store_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"
#include "util/log.h"

#define RUNS_MAX     256u /* of a batch, for which the map is synced once */
#define RUN_BLOCKS   256u /* a hole of 1 MiB at most */
#define HOLES_ATONCE 8u   /* while the mutex is held */
#define UNITS_ATONCE 2048u
#define PASS_BYTES   (64u << 20) /* then a flush that waits has its turn */
#define IDLE_MS      1000        /* after a pass that found nothing that may go */
#define FAILED_MS    60000

struct run {
    uint64_t first, count; /* sub-blocks */
};

struct pass {
    uint64_t goal; /* bytes of clean blocks */
    uint64_t generation;
    uint64_t left; /* units to look at: two rounds, the first may only take their notes away */
    struct run runs[RUNS_MAX];
    size_t count;
};

/* --- the clock --- */

void evict_note(struct bh_store *s, uint64_t offset, uint64_t len)
{
    atomic_uchar *notes = atomic_load_explicit(&s->evict.notes, memory_order_acquire);
    if (!notes || len == 0)
        return;
    for (uint64_t g = offset / EVICT_GRANULE; g <= (offset + len - 1) / EVICT_GRANULE; g++) {
        atomic_uchar *note = &notes[g % EVICT_NOTES];
        if (!atomic_load_explicit(note, memory_order_relaxed)) /* else its line is left alone */
            atomic_store_explicit(note, 1, memory_order_relaxed);
    }
}

/* All below, up to the batch, with the mutex held. */

static bool take_notes(struct bh_store *s, uint64_t first, uint64_t end)
{
    atomic_uchar *notes = atomic_load(&s->evict.notes);
    uint64_t per = EVICT_GRANULE / BH_SUBBLOCK;
    bool any = false;
    for (uint64_t g = first / per; notes && g * per < end; g++)
        any |= atomic_exchange_explicit(&notes[g % EVICT_NOTES], 0, memory_order_relaxed) != 0;
    return any;
}

/* A rollback in pages smaller than a sub-block would have to wait for what it writes a part of. */
static bool is_rollback_of_parts(struct bh_store *s)
{
    unsigned char size[2];
    if (!s->journal || !s->journal->has_magic)
        return false;
    return bh_pread_full(s->db->disk.fd, size, sizeof size, 16, NULL) != 0 ||
           ((unsigned)size[0] << 8 | size[1]) % BH_SUBBLOCK > 1; /* 1 stands for 65536 */
}

static bool may_evict(struct bh_store *s)
{
    const struct evict *e = &s->evict;
    return s->origin && !(s->frozen && !s->frozen->origin) && !e->barred && !e->off && !e->stop &&
           s->undo.end == 0 && !is_rollback_of_parts(s);
}

/* Sub-blocks that come and go together. */
static uint64_t unit_blocks(const struct bh_store *s)
{
    uint32_t unit = s->origin->unit;
    return (unit > EVICT_GRANULE ? unit : EVICT_GRANULE) / BH_SUBBLOCK;
}

static bool has_clean(const struct bh_map *m, uint64_t first, uint64_t end)
{
    while (first < end && bh_map_get(m, first) != BH_BLOCK_CLEAN)
        first++;
    return first < end;
}

static bool add_run(struct pass *p, uint64_t first, uint64_t count)
{
    struct run *last = p->count > 0 ? &p->runs[p->count - 1] : NULL;
    if (last && last->first + last->count == first && last->count + count <= RUN_BLOCKS) {
        last->count += count;
        return true;
    }
    if (p->count == RUNS_MAX)
        return false;
    p->runs[p->count++] = (struct run){first, count};
    return true;
}

/* What of it may go is absent now. False: the batch is full, or the map cannot be written. */
static bool take_unit(struct bh_store *s, struct pass *p, uint64_t first, uint64_t end)
{
    for (uint64_t b = first; b < end; b++) {
        uint64_t run = b;
        while (run < end && run - b < RUN_BLOCKS && bh_map_get(&s->map, run) == BH_BLOCK_CLEAN)
            run++;
        if (run == b)
            continue;
        if (!add_run(p, b, run - b))
            return false;
        if (s->frozen) { /* its reader took it for here, and another writer may be next */
            s->frozen->had_absent = true;
            atomic_fetch_add(&s->swaps, 2);
        }
        if (bh_map_set(&s->map, b, run - b, BH_BLOCK_ABSENT) != 0) /* the sync will say it */
            return false;
        b = run - 1;
    }
    return true;
}

/* Moves the hand a little. False: the batch is done. */
static bool move_hand(struct bh_store *s, struct pass *p)
{
    BH_LOCK_SCOPE(&s->mutex);
    if (s->generation != p->generation || !may_evict(s))
        return false;
    uint64_t per = unit_blocks(s), used = s->map.used, *hand = &s->evict.hand;
    for (unsigned i = 0; i < UNITS_ATONCE; i++) {
        if (p->left == 0 || s->map.clean * BH_SUBBLOCK <= p->goal)
            return false;
        p->left--;
        *hand -= *hand % per;
        if (*hand < per || *hand >= used)
            *hand = per; /* what is before it, page 1, never goes */
        uint64_t first = *hand, end = first + per < used ? first + per : used;
        *hand += per;
        if (has_clean(&s->map, first, end) && !take_notes(s, first, end) &&
            !take_unit(s, p, first, end))
            return false;
    }
    return true;
}

/* --- a batch --- */

/* The map before the data. And the data itself, so that to make holes, while the mutex is held,
 * waits for no disk. */
static int make_durable(struct bh_store *s, const struct pass *p)
{
    pthread_rwlock_rdlock(&s->generation_lock);
    int rc = s->generation == p->generation ? store_sync_map(s) : ESTALE;
    for (size_t i = 0; rc == 0 && i < p->count && !bh_disk_is_memory(s->disk); i++)
        (void)!sync_file_range(s->db->disk.fd, (off_t)(p->runs[i].first * BH_SUBBLOCK),
                               (off_t)(p->runs[i].count * BH_SUBBLOCK),
                               SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                   SYNC_FILE_RANGE_WAIT_AFTER);
    pthread_rwlock_unlock(&s->generation_lock);
    return rc;
}

/* Holes where the run is absent still. With the mutex. */
static int punch_run(struct bh_store *s, const struct run *r, uint64_t *evicted)
{
    uint64_t end = r->first + r->count;
    for (uint64_t b = r->first; b < end; b++) {
        uint64_t hole = b;
        while (hole < end && bh_map_get(&s->map, hole) == BH_BLOCK_ABSENT)
            hole++;
        if (hole == b)
            continue;
        uint64_t bytes = (hole - b) * BH_SUBBLOCK;
        int rc = bh_dfile_punch(&s->db->disk, b * BH_SUBBLOCK, bytes);
        if (rc)
            return rc;
        *evicted += bytes;
        atomic_fetch_add(&s->evict.evicted, bytes);
        b = hole;
    }
    return 0;
}

static int punch(struct bh_store *s, const struct pass *p, uint64_t *evicted)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < p->count;) {
        BH_LOCK_SCOPE(&s->mutex);
        if (s->generation != p->generation)
            return ESTALE;
        atomic_fetch_add(&s->swaps, 1);
        for (size_t end = i + HOLES_ATONCE; rc == 0 && i < end && i < p->count; i++)
            rc = punch_run(s, &p->runs[i], evicted);
        atomic_fetch_add(&s->swaps, 1);
    }
    return rc;
}

static void begin_pass(struct bh_store *s, struct pass *p, uint64_t goal)
{
    BH_LOCK_SCOPE(&s->mutex);
    p->goal = goal;
    p->generation = s->generation;
    p->left = s->origin ? 2 * (s->map.used / unit_blocks(s) + 1) : 0;
}

/* Up to PASS_BYTES. ESTALE: other content has taken the place. */
static int run_pass(struct bh_store *s, struct pass *p, uint64_t goal, uint64_t *evicted)
{
    int rc = 0;
    *evicted = 0;
    BH_LOCK_SCOPE(&s->evict.pass);
    begin_pass(s, p, goal);
    while (rc == 0 && *evicted < PASS_BYTES) {
        p->count = 0;
        while (move_hand(s, p))
            ;
        if (p->count == 0)
            break;
        rc = make_durable(s, p);
        if (rc == 0)
            rc = punch(s, p, evicted);
    }
    return rc;
}

int bh_store_evict(struct bh_store *s, uint64_t goal, uint64_t *evicted)
{
    BH_FREE struct pass *p = malloc(sizeof *p);
    uint64_t some = 1;
    int rc = p ? 0 : ENOMEM;
    for (*evicted = 0; rc == 0 && some > 0; *evicted += some)
        rc = run_pass(s, p, goal, &some);
    return rc;
}

/* --- the thread --- */

/* With the mutex. */
static bool is_over(const struct bh_store *s)
{
    const struct evict *e = &s->evict;
    return e->max > 0 && e->proven && !e->off && !e->barred && s->origin &&
           s->map.clean * BH_SUBBLOCK > e->max;
}

void evict_nudge(struct bh_store *s)
{
    if (s->evict.runs && is_over(s))
        pthread_cond_signal(&s->evict.wake);
}

/* With the mutex. */
static void turn_off(struct bh_store *s)
{
    if (!s->evict.off)
        bh_log(BH_LOG_WARNING,
               "live.cache_max is not kept: the file system of %s cannot give back a part of a "
               "file's space, so what was fetched of " BH_DB_NAME " stays there",
               bh_disk_path(s->disk));
    s->evict.off = true;
}

/* With the mutex, which is let go of. For how long to rest before the next pass, in ms. */
static int64_t work(struct bh_store *s, struct pass *p)
{
    uint64_t evicted, goal = s->evict.max - s->evict.max / 8;
    pthread_mutex_unlock(&s->mutex);
    int rc = run_pass(s, p, goal, &evicted);
    pthread_mutex_lock(&s->mutex);
    if (rc == EOPNOTSUPP)
        turn_off(s);
    else if (rc && rc != ESTALE)
        bh_log(BH_LOG_WARNING, "%s has more of " BH_DB_NAME " than live.cache_max allows: %s",
               bh_disk_path(s->disk), strerror(rc));
    return rc && rc != ESTALE ? FAILED_MS : evicted == 0 ? IDLE_MS : 0;
}

static void *evict_main(void *arg)
{
    struct bh_store *s = arg;
    struct evict *e = &s->evict;
    BH_FREE struct pass *p = malloc(sizeof *p);
    pthread_setname_np(pthread_self(), "bhfs-evict");
    BH_LOCK_SCOPE(&s->mutex);
    if (!p)
        bh_log(BH_LOG_WARNING, "out of memory: live.cache_max is not kept");
    while (p && !e->stop) {
        if (!is_over(s)) {
            pthread_cond_wait(&e->wake, &s->mutex);
            continue;
        }
        struct timespec until = bh_mono_after_ms(work(s, p));
        while (!e->stop && /* a nudge is no reason to hurry */
               pthread_cond_clockwait(&e->wake, &s->mutex, CLOCK_MONOTONIC, &until) == 0)
            ;
    }
    return NULL;
}

void evict_init(struct bh_store *s)
{
    pthread_mutex_init(&s->evict.pass, NULL);
    pthread_cond_init(&s->evict.wake, NULL);
}

void evict_close(struct bh_store *s)
{
    struct evict *e = &s->evict;
    pthread_mutex_lock(&s->mutex);
    e->stop = true;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&s->mutex);
    if (e->runs)
        pthread_join(e->thread, NULL);
    free((void *)(uintptr_t)atomic_load(&e->notes));
    pthread_cond_destroy(&e->wake);
    pthread_mutex_destroy(&e->pass);
}

/* Beyond the end there is nothing to lose. With the mutex. */
static void probe(struct bh_store *s)
{
    uint64_t beyond = (bh_file_size(s->db) / BH_SUBBLOCK + 1) * BH_SUBBLOCK;
    if (bh_dfile_punch(&s->db->disk, beyond, BH_SUBBLOCK) == EOPNOTSUPP)
        turn_off(s);
}

int bh_store_set_cache_max(struct bh_store *s, uint64_t max, struct bh_error *err)
{
    struct evict *e = &s->evict;
    BH_LOCK_SCOPE(&s->mutex);
    e->max = max;
    if (max > 0 && !e->runs) {
        if (!atomic_load(&e->notes))
            atomic_store_explicit(&e->notes, calloc(EVICT_NOTES, sizeof(atomic_uchar)),
                                  memory_order_release);
        if (!atomic_load(&e->notes))
            return bh_fail(err, ENOMEM, "out of memory for live.cache_max");
        probe(s);
        int rc = pthread_create(&e->thread, NULL, evict_main, s);
        if (rc)
            return bh_fail(err, rc, "the thread for live.cache_max cannot be started: %s",
                           strerror(rc));
        e->runs = true;
    }
    evict_nudge(s);
    return 0;
}

void bh_store_cache(struct bh_store *s, struct bh_store_cache *out)
{
    BH_LOCK_SCOPE(&s->mutex);
    *out = (struct bh_store_cache){.clean_bytes = s->map.clean * BH_SUBBLOCK,
                                   .max = s->evict.off ? 0 : s->evict.max,
                                   .evicted_bytes = atomic_load(&s->evict.evicted)};
}

void bh_store_bar_eviction(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    s->evict.barred = true;
}
