/* Sub-blocks that are still in the bucket only, and how they come here: fetched in the origin's
 * units when they are read, ahead of who reads in sequence, each once however many wait for it. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "live/store_private.h"
#include "util/cleanup.h"
#include "util/io.h"

/* The window of a sequential reader doubles up to this. */
#define WINDOW_MAX (4u << 20)
/* The store's mutex is held for so many bytes at once. */
#define FILL_STEP (256u << 10)

/* With the evictions' pass and the mutex. The one before is the caller's to let go of. */
static struct bh_origin *put_origin(struct bh_store *s, struct bh_origin *o)
{
    struct bh_origin *old = s->origin;
    s->origin = bh_origin_ref(o);
    s->evict.barred = false;
    return old;
}

void bh_store_set_origin(struct bh_store *s, struct bh_origin *o)
{
    BH_LOCK_SCOPE(&s->evict.pass);
    pthread_mutex_lock(&s->mutex);
    struct bh_origin *old = put_origin(s, o);
    pthread_mutex_unlock(&s->mutex);
    bh_origin_unref(old);
}

void bh_store_advance_origin(struct bh_frozen *z, struct bh_origin *o)
{
    struct bh_store *s = z->store;
    struct bh_origin *old = NULL, *old_frozen = NULL;
    BH_LOCK_SCOPE(&s->evict.pass);
    pthread_mutex_lock(&s->mutex);
    if (!z->detached) { /* else other content has taken the place */
        old = put_origin(s, o);
        old_frozen = z->origin;
        z->origin = bh_origin_ref(o); /* of what is evicted while it is still read */
        z->advanced = true;
        s->evict.proven = true;
    }
    pthread_mutex_unlock(&s->mutex);
    bh_origin_unref(old);
    bh_origin_unref(old_frozen);
}

/* The first absent sub-block of [first, end), or end. With the mutex held. */
static uint64_t find_absent(struct bh_store *s, uint64_t first, uint64_t end)
{
    while (first < end && bh_map_get(&s->map, first) != BH_BLOCK_ABSENT)
        first++;
    return first;
}

/* With the mutex held. */
static bool is_absent(struct bh_store *s, uint64_t offset, uint64_t len)
{
    if (len == 0 || atomic_load(&s->map.absent) == 0)
        return false;
    uint64_t end = (offset + len - 1) / BH_SUBBLOCK + 1;
    return find_absent(s, offset / BH_SUBBLOCK, end) < end;
}

bool bh_file_is_absent(struct bh_file *f, uint64_t offset, uint64_t len)
{
    struct bh_store *s = f->store;
    if (f->kind != BH_FILE_DB || len == 0 || atomic_load(&s->map.absent) == 0)
        return false;
    BH_LOCK_SCOPE(&s->mutex);
    return is_absent(s, offset, len);
}

bool write_needs_fetch(struct bh_store *s, enum bh_door door, uint64_t offset, uint64_t len)
{
    if (store_needs_undo(s, door)) /* which saves what is overwritten */
        return is_absent(s, offset, len);
    uint64_t end = offset + len;
    return (offset % BH_SUBBLOCK && is_absent(s, offset, 1)) ||
           (end % BH_SUBBLOCK && is_absent(s, end - 1, 1));
}

bool bh_file_write_needs_fetch(struct bh_file *f, enum bh_door door, uint64_t offset, uint64_t len)
{
    struct bh_store *s = f->store;
    if (f->kind != BH_FILE_DB || len == 0 || atomic_load(&s->map.absent) == 0)
        return false;
    evict_note(s, offset, len); /* so that the answer holds for a while */
    BH_LOCK_SCOPE(&s->mutex);
    return write_needs_fetch(s, door, offset, len);
}

uint64_t truncation_fetch(struct bh_store *s, enum bh_door door, uint64_t size)
{
    uint64_t old = bh_file_size(s->db), len;
    if (size >= old || atomic_load(&s->map.absent) == 0)
        return 0;
    if (store_needs_undo(s, door)) /* which saves all that is cut off */
        len = old - size;
    else
        len = size % BH_SUBBLOCK ? 1 : 0;
    return is_absent(s, size, len) ? len : 0;
}

bool bh_file_truncate_needs_fetch(struct bh_file *f, enum bh_door door, uint64_t size)
{
    if (f->kind != BH_FILE_DB)
        return false;
    evict_note(f->store, size, 1);
    BH_LOCK_SCOPE(&f->store->mutex);
    return truncation_fetch(f->store, door, size) > 0;
}

uint64_t bh_store_absent_bytes(struct bh_store *s)
{
    return atomic_load(&s->map.absent) * BH_SUBBLOCK;
}

/* --- fetching --- */

static bool overlaps_fetch(const struct fetches *f, uint64_t offset, uint64_t end)
{
    for (size_t i = 0; i < FETCHES_MAX; i++)
        if (f->running[i].end > offset && f->running[i].offset < end)
            return true;
    return false;
}

static struct fetch_range *free_slot(struct fetches *f)
{
    for (size_t i = 0; i < FETCHES_MAX; i++)
        if (f->running[i].end == 0)
            return &f->running[i];
    return NULL;
}

/* What to fetch for [offset, end): from the first absent unit on, up to the first that is here, or
 * the window's end for one who reads in sequence. False: nothing is absent. */
static bool choose(struct bh_store *s, uint32_t unit, uint64_t offset, uint64_t end,
                   struct fetch_range *r)
{
    uint64_t per = unit / BH_SUBBLOCK;
    uint64_t size = bh_file_size(s->db);
    BH_LOCK_SCOPE(&s->mutex);
    uint64_t first = find_absent(s, offset / BH_SUBBLOCK, (end - 1) / BH_SUBBLOCK + 1);
    if (first * BH_SUBBLOCK >= end)
        return false;
    first = first / per * per;
    struct fetches *f = &s->fetches;
    f->window = first * BH_SUBBLOCK == f->next ? f->window * 2 : 0;
    if (f->window > WINDOW_MAX)
        f->window = WINDOW_MAX;
    uint64_t want = end > first * BH_SUBBLOCK + f->window ? end : first * BH_SUBBLOCK + f->window;
    if (want > first * BH_SUBBLOCK + WINDOW_MAX)
        want = first * BH_SUBBLOCK + WINDOW_MAX;
    want = (want + unit - 1) / unit * unit;
    if (want > size)
        want = (size + unit - 1) / unit * unit;
    uint64_t last =
        first + per; /* the unit that is needed, and those after it while they are absent */
    while (last * BH_SUBBLOCK < want && find_absent(s, last, last + per) == last)
        last += per;
    r->offset = first * BH_SUBBLOCK;
    r->end = last * BH_SUBBLOCK;
    if (f->window == 0)
        f->window = unit;
    f->next = r->end;
    return true;
}

/* A client that writes a part of a sub-block makes all of it dirty, and after a power cut its
 * journal gives only that part back: the rest must be on the disk. (What is clean may be lost, and
 * is fetched again.) Page 1 is always here. */
static bool has_small_pages(struct bh_store *s)
{
    unsigned char size[2] = {0}; /* SQLite file format: "page size" */
    bool read = bh_pread_full(s->db->disk.fd, size, sizeof size, 16, NULL) == 0;
    unsigned bytes = (unsigned)size[0] << 8 | size[1]; /* 1 stands for 65536 */
    return read && bytes > 1 && bytes < BH_SUBBLOCK;
}

enum fill { FILL_DATA = 1, FILL_MAP = 2 };

#define ANY_SWAPS UINT_FAST64_MAX

/* Puts what came into its place, where it is still absent and the origin is still the same: another
 * one is of other content, or what was changed when it was read may have been flushed and evicted
 * since. EAGAIN: `swaps` is not the value that was said. */
static int fill(struct bh_store *s, const struct bh_origin *o, const struct fetch_range *r,
                const unsigned char *data, unsigned what, uint_fast64_t swaps)
{
    uint64_t size = bh_file_size(s->db);
    for (uint64_t at = r->offset; at < r->end;) {
        BH_LOCK_SCOPE(&s->mutex);
        if (s->stepping || s->origin != o)
            return 0;
        if (swaps != ANY_SWAPS && atomic_load(&s->swaps) != swaps)
            return EAGAIN;
        uint64_t stop = at + FILL_STEP < r->end ? at + FILL_STEP : r->end;
        for (; at < stop; at += BH_SUBBLOCK) {
            uint64_t block = at / BH_SUBBLOCK;
            int rc = 0;
            if (at >= size || bh_map_get(&s->map, block) != BH_BLOCK_ABSENT)
                continue;
            size_t len = size - at < BH_SUBBLOCK ? (size_t)(size - at) : BH_SUBBLOCK;
            if (what & FILL_DATA)
                rc = bh_dfile_write(&s->db->disk, data + (at - r->offset), len, at);
            if (rc == 0 && what & FILL_MAP)
                rc = bh_map_set(&s->map, block, 1, BH_BLOCK_CLEAN);
            if (rc)
                return rc;
        }
        s->evict.proven = true;
        evict_nudge(s);
    }
    return 0;
}

int store_sync_data(struct bh_store *s)
{
    pthread_rwlock_rdlock(&s->generation_lock);
    int rc = bh_dfile_sync(&s->db->disk);
    pthread_rwlock_unlock(&s->generation_lock);
    return rc;
}

/* What is absent still may be made a hole by an eviction that is not over: then once more. */
static int fill_durably(struct bh_store *s, const struct bh_origin *o, const struct fetch_range *r,
                        const unsigned char *data)
{
    int rc = EAGAIN;
    while (rc == EAGAIN) {
        uint_fast64_t swaps = store_read_begin(s);
        rc = fill(s, o, r, data, FILL_DATA, ANY_SWAPS);
        if (rc == 0)
            rc = store_sync_data(s);
        if (rc == 0)
            rc = fill(s, o, r, data, FILL_MAP, swaps);
    }
    return rc;
}

static int fetch_range(struct bh_store *s, struct bh_origin *o, const struct fetch_range *r,
                       struct bh_error *err)
{
    BH_FREE unsigned char *data = malloc(r->end - r->offset);
    if (!data)
        return bh_fail(err, ENOMEM, "out of memory while fetching a part of %s", s->title);
    int rc = o->read(o, r->offset, data, r->end - r->offset, err);
    if (rc)
        return rc;
    evict_note(s, r->offset, r->end - r->offset);
    rc = has_small_pages(s) ? fill_durably(s, o, r, data)
                            : fill(s, o, r, data, FILL_DATA | FILL_MAP, ANY_SWAPS);
    return rc ? bh_fail(err, rc, "%s cannot take what was fetched of %s: %s", bh_disk_path(s->disk),
                        s->title, strerror(rc))
              : 0;
}

int bh_store_fetch(struct bh_store *s, uint64_t offset, uint64_t len, struct bh_error *err)
{
    struct fetches *f = &s->fetches;
    int rc = 0;
    while (rc == 0 && bh_file_is_absent(s->db, offset, len)) {
        pthread_mutex_lock(&s->mutex);
        while (s->stepping) /* until then what comes would be of neither content */
            pthread_cond_wait(&s->stepped, &s->mutex);
        struct bh_origin *o = bh_origin_ref(s->origin);
        pthread_mutex_unlock(&s->mutex);
        if (!o)
            return bh_fail(err, EIO,
                           "a part of %s is in the bucket only, and the state directory does not "
                           "say where",
                           s->title);
        pthread_mutex_lock(&f->mutex);
        struct fetch_range want = {offset / o->unit * o->unit,
                                   (offset + len + o->unit - 1) / o->unit * o->unit};
        struct fetch_range *slot = NULL;
        while (overlaps_fetch(f, want.offset, want.end) || !(slot = free_slot(f)))
            pthread_cond_wait(&f->done, &f->mutex);
        struct fetch_range r;
        bool any = choose(s, o->unit, offset, offset + len, &r);
        if (any && overlaps_fetch(f, r.offset, r.end)) /* what is ahead is on its way already */
            r.end = want.end < r.end ? want.end : r.end;
        if (any)
            *slot = r;
        pthread_mutex_unlock(&f->mutex);
        if (any) {
            rc = fetch_range(s, o, &r, err);
            if (rc && r.end - r.offset > o->unit) { /* what lies ahead is nobody's business yet */
                r.end = r.offset + o->unit;
                rc = fetch_range(s, o, &r, err);
            }
            pthread_mutex_lock(&f->mutex);
            slot->offset = slot->end = 0;
            pthread_cond_broadcast(&f->done);
            pthread_mutex_unlock(&f->mutex);
        }
        bh_origin_unref(o);
    }
    return rc;
}

int bh_store_hydrate(struct bh_store *s, const atomic_bool *cancel, struct bh_error *err)
{
    uint64_t size = bh_file_size(s->db);
    struct bh_store_cache c;
    bh_store_cache(s, &c);
    uint64_t all = c.clean_bytes + bh_store_absent_bytes(s);
    if (c.max > 0 && all > c.max)
        return bh_fail(err, EDQUOT,
                       "live.cache_max is %" PRIu64 " bytes, and " BH_DB_NAME " has %" PRIu64
                       " that are as in the bucket: not all of them can be kept here; nothing was "
                       "fetched. Set live.cache_max to more, or to 0, and send SIGHUP to bhfs",
                       c.max, all);
    for (uint64_t at = 0; at < size && bh_store_absent_bytes(s) > 0; at += FILL_STEP) {
        if (cancel && atomic_load(cancel))
            return bh_fail(err, ECANCELED, "fetching the rest of %s was cancelled", s->title);
        int rc = bh_store_fetch(s, at, size - at < FILL_STEP ? size - at : FILL_STEP, err);
        if (rc)
            return rc;
    }
    return 0;
}

int bh_store_forget_clean(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    for (uint64_t b = 1; b < s->map.used;) {
        uint64_t run = b;
        while (run < s->map.used && bh_map_get(&s->map, run) == BH_BLOCK_CLEAN)
            run++;
        int rc = run > b ? bh_map_set(&s->map, b, run - b, BH_BLOCK_ABSENT) : 0;
        if (rc)
            return rc;
        b = run + 1;
    }
    return 0;
}
