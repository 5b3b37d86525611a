/* Reading a large blob of which only parts are here: which requests are made for it. A sequential
 * reader gets more and more read ahead, by several requests at once; one that jumps gets small
 * pieces, which grow if it goes on, until the rest of the blob comes beside them. */
#include "store/blobs_private.h"

#include <errno.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/io.h"

#define WINDOW_MIN  ((uint64_t)256 << 10) /* read ahead of a sequential reader */
#define PIECE_MAX   ((uint64_t)2 << 20)   /* of one request */
#define RANDOM_EACH 8                     /* random reads, after which requests become larger */
#define RANDOM_MAX  4                     /* 64 KiB to 1 MiB */
#define SWEEP_SOON  32u                   /* fetches for those, after which the rest comes beside */
#define SWEEP_LATE  128u
#define FAR_NS      ((int64_t)5000000) /* a mean answer takes that long to begin */
#define SWEEPS      4                  /* pieces at once beside one that is waited for */
#define SWEEP_MAX   5                  /* of 2 MiB */

/* --- what is fetched; with the mutex --- */

static bool is_wanted(const struct blobs_parts *p, uint64_t unit)
{
    return !blobs_bit(p->have, unit) && !blobs_bit(p->busy, unit);
}

/* How many units from `first` on, before `end`, are missing one after the other. */
static uint64_t wanted_run(const struct blobs_parts *p, uint64_t first, uint64_t end)
{
    uint64_t n = 0;
    while (first + n < end && is_wanted(p, first + n))
        n++;
    return n;
}

/* Queues one request for them; NULL: no memory. */
static struct blobs_fetch *fetch_run(struct bh_blobs *b, struct blobs_content *c, uint64_t first,
                                     uint64_t n, bool ahead)
{
    struct blobs_fetch *f = bh_blobs_fetch(b, c, FETCH_RANGE, first, n, ahead);
    for (uint64_t i = 0; f && i < n; i++)
        blobs_set_bit(c->parts->busy, first + i, true);
    return f;
}

/* Queues requests for what is missing of [first, end), each of up to `piece` units. demanded (may
 * be NULL): only the first of them, with a reference for the caller. */
static int fetch_missing(struct bh_blobs *b, struct blobs_content *c, uint64_t first, uint64_t end,
                         uint64_t piece, struct blobs_fetch **demanded)
{
    struct blobs_parts *p = c->parts;
    for (uint64_t u = first; u < end;) {
        uint64_t n = wanted_run(p, u, piece < end - u ? u + piece : end);
        if (n == 0) {
            u++;
            continue;
        }
        struct blobs_fetch *f = fetch_run(b, c, u, n, !demanded);
        if (!f)
            return ENOMEM;
        if (demanded) {
            *demanded = f;
            return 0;
        }
        u += n;
    }
    return 0;
}

void bh_blobs_parts_free(struct blobs_parts *p, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++)
        blobs_set_bit(p->busy, i, false);
}

static uint64_t piece_of(uint64_t window)
{
    uint64_t piece = window / 4;
    piece = piece < WINDOW_MIN ? WINDOW_MIN : piece > PIECE_MAX ? PIECE_MAX : piece;
    return piece / BLOBS_UNIT;
}

/* How this reader reads: `window` grows with what it reads one after the other. */
static void note_read(struct bh_blob *o, size_t len, uint64_t offset)
{
    struct blobs_parts *p = o->content->parts;
    bool sequential = offset <= o->next + BLOBS_NEARBY && offset + BLOBS_NEARBY >= o->next;
    if (!sequential || (o->window == 0 && offset != o->next)) {
        o->window = 0;
        o->planned = 0;
        o->next = offset + len;
    } else if (o->window == 0) {
        o->window = WINDOW_MIN;
    }
    if (sequential && offset + len > o->next)
        o->next = offset + len;
    p->lately = offset / BLOBS_UNIT;
}

/* Reads ahead of a sequential reader that has come near the end of what was planned. */
static int read_ahead(struct bh_blob *o, uint64_t after)
{
    struct blobs_content *c = o->content;
    if (o->window == 0 || after + o->window / 2 < o->planned)
        return 0;
    if (o->planned && o->window < BLOBS_WINDOW_MAX)
        o->window *= 2;
    uint64_t end = after + o->window < o->size ? after + o->window : o->size;
    int rc =
        fetch_missing(o->blobs, c, after / BLOBS_UNIT, blobs_units(end), piece_of(o->window), NULL);
    o->planned = end;
    return rc;
}

/* Who has read here and there for long will want most of it, and waits for one piece at a time. Far
 * away that is mostly waiting for answers to begin, when fetching the rest beside costs him nothing
 * and is soon worth it; on a slow line it would hold up what he waits for. */
static bool is_worth_it(const struct blobs_parts *p)
{
    bool far = p->begin_ns >= FAR_NS * p->answers && p->begin_ns >= p->moved_ns;
    return p->random >= (far ? SWEEP_SOON : SWEEP_LATE);
}

/* From the beginning on, a few pieces for each that is waited for; where half is here, the rest.
 * Few at once, as others read, too; none where the cache has no room for all. */
void bh_blobs_sweep(struct bh_blobs *b, struct blobs_content *c)
{
    struct blobs_parts *p = c->parts;
    while (p->sweeping < SWEEPS && (p->to_sweep > 0 || p->here > p->units / 2)) {
        while (p->swept < p->units && !is_wanted(p, p->swept))
            p->swept++;
        if (p->swept == p->units || !bh_blobs_may_become_whole(b, c) || bh_blobs_disk_is_full(b))
            return;
        uint64_t end = (p->swept >> SWEEP_MAX << SWEEP_MAX) + ((uint64_t)1 << SWEEP_MAX);
        uint64_t n = wanted_run(p, p->swept, end < p->units ? end : p->units);
        struct blobs_fetch *f = fetch_run(b, c, p->swept, n, true);
        if (!f)
            return; /* without memory there is none */
        p->swept += n;
        f->sweeps = true;
        p->sweeping++;
        p->to_sweep -= p->to_sweep > 0;
    }
}

void bh_blobs_swept(struct bh_blobs *b, struct blobs_content *c, int rc)
{
    c->parts->sweeping--;
    if (rc)
        c->parts->to_sweep = 0; /* until somebody has waited for a piece again */
    else if (c->opened > 0)
        bh_blobs_sweep(b, c);
}

/* Asks for the unit, which is missing and not under way, and what is best fetched with it; the
 * reader wants all up to least_end. */
static struct blobs_fetch *demand(struct bh_blob *o, uint64_t unit, uint64_t least_end)
{
    struct blobs_content *c = o->content;
    struct blobs_parts *p = c->parts;
    struct blobs_fetch *f = NULL;
    uint64_t first = unit, end;
    if (o->window) {
        end = unit + piece_of(o->window);
    } else {
        unsigned level = 0;
        for (unsigned n = ++p->random / RANDOM_EACH; n > 1 && level < RANDOM_MAX; n /= 2)
            level++;
        first = unit >> level << level;
        end = first + ((uint64_t)1 << level);
        for (uint64_t u = first; u < unit; u++) /* one run up to the unit */
            if (!is_wanted(p, u))
                first = u + 1;
    }
    if (end < least_end)
        end = least_end;
    if (end > p->units)
        end = p->units;
    if (fetch_missing(o->blobs, c, first, end, end - first, &f) != 0)
        return NULL;
    if (!o->window && is_worth_it(p)) {
        p->to_sweep = SWEEPS;
        bh_blobs_sweep(o->blobs, c);
    }
    return f;
}

/* The fetch that brings a unit, with a reference for the caller. */
static struct blobs_fetch *under_way(struct blobs_content *c, uint64_t unit)
{
    for (struct blobs_fetch *f = c->fetches; f; f = f->sibling)
        if (f->what == FETCH_RANGE && unit >= f->first && unit < f->first + f->count) {
            f->refs++;
            return f;
        }
    return NULL;
}

static bool is_unchecked(const struct blobs_content *c)
{
    return c->parts->here == c->parts->units && !c->bad && c->entry->kind == KIND_PARTS;
}

/* When all is here it is hashed. */
void bh_blobs_check_if_all(struct bh_blobs *b, struct blobs_content *c)
{
    struct blobs_parts *p = c->parts;
    if (is_unchecked(c) && !p->checking && !p->hashing)
        p->checking = bh_blobs_fetch(b, c, FETCH_CHECK_PARTS, 0, 0, true) != NULL;
}

/* --- reading --- */

/* Reads what is here of the range; EAGAIN: not all is. at_once: without waiting for the disk. */
static int read_here(struct bh_blob *o, void *buf, size_t len, uint64_t offset, bool at_once,
                     uint64_t *missing)
{
    struct blobs_parts *p = o->content->parts;
    uint64_t end = blobs_units(offset + len);
    if (at_once ? pthread_rwlock_tryrdlock(&p->file_lock) : pthread_rwlock_rdlock(&p->file_lock))
        return EAGAIN;
    pthread_mutex_lock(&o->blobs->mutex);
    *missing = offset / BLOBS_UNIT;
    while (*missing < end && blobs_bit(p->have, *missing))
        ++*missing;
    pthread_mutex_unlock(&o->blobs->mutex);
    int rc = *missing < end ? EAGAIN : 0;
    if (!rc && at_once)
        rc = bh_pread_at_once(p->file.fd, buf, len, offset, bh_disk_is_memory(o->blobs->o.disk));
    else if (!rc)
        rc = bh_pread_full(p->file.fd, buf, len, offset, NULL);
    pthread_rwlock_unlock(&p->file_lock);
    return rc;
}

/* EAGAIN: not all of it is here, or may not be handed out yet. */
static int read_if_here(struct bh_blob *o, void *buf, size_t len, uint64_t offset, bool at_once)
{
    struct bh_blobs *b = o->blobs;
    struct blobs_content *c = o->content;
    uint64_t missing;
    pthread_mutex_lock(&b->mutex);
    bool may = c->parts && !c->bad && !c->parts->checking && !is_unchecked(c);
    pthread_mutex_unlock(&b->mutex);
    if (!may || read_here(o, buf, len, offset, at_once, &missing) != 0)
        return EAGAIN;
    BH_LOCK_SCOPE(&b->mutex);
    note_read(o, len, offset);
    if (!bh_blobs_disk_is_full(b))
        (void)read_ahead(o, offset + len); /* without memory there is none */
    return 0;
}

int bh_blobs_parts_at_once(struct bh_blob *o, void *buf, size_t len, uint64_t offset)
{
    return read_if_here(o, buf, len, offset, true);
}

static int open_parts(struct bh_blobs *b, struct blobs_content *c, struct bh_error *err)
{
    BH_LOCK_SCOPE(&b->naming);
    if (c->entry->kind != KIND_NONE && c->entry->kind != KIND_PARTS)
        return EAGAIN;
    if (c->parts)
        return 0;
    int rc = bh_blobs_parts_open(b, c, err);
    if (rc)
        return rc;
    BH_LOCK_SCOPE(&b->mutex);
    bh_blobs_check_if_all(b, c);
    return 0;
}

int bh_blobs_parts_here(struct bh_blob *o, void *buf, size_t len, uint64_t offset)
{
    if (open_parts(o->blobs, o->content, NULL) != 0)
        return EAGAIN;
    return read_if_here(o, buf, len, offset, false);
}

static int parts_ready(struct bh_blobs *b, struct blobs_content *c, struct bh_error *err)
{
    int rc = open_parts(b, c, err);
    if (bh_blobs_is_full(rc) && bh_blobs_make_room(b, BLOBS_STEP))
        rc = open_parts(b, c, err);
    return rc;
}

/* Sees to it that the first missing unit of the range comes, and waits for it. */
static int wait_for_unit(struct bh_blob *o, uint64_t offset, uint64_t end, bool first,
                         int64_t since_ms, const struct bh_call *call, bool *missing,
                         struct bh_error *err)
{
    struct bh_blobs *b = o->blobs;
    struct blobs_content *c = o->content;
    uint64_t unit = offset / BLOBS_UNIT;
    struct blobs_fetch *f = NULL;
    BH_LOCK_SCOPE(&b->mutex);
    if (c->bad)
        return bh_fail(err, EIO, "%s", c->bad->text);
    if (first)
        note_read(o, (size_t)(end - offset), offset);
    while (unit < blobs_units(end) && blobs_bit(c->parts->have, unit))
        unit++;
    if (unit < blobs_units(end) && !(f = under_way(c, unit)) &&
        !(f = demand(o, unit, blobs_units(end))))
        return bh_fail(err, ENOMEM, "out of memory while reading from the bucket");
    (void)read_ahead(o, end); /* without memory there is none */
    return f ? bh_blobs_await(b, f, since_ms, call, missing, err) : 0;
}

static struct blobs_fetch *check_under_way(const struct blobs_content *c)
{
    struct blobs_fetch *f = c->fetches;
    while (f && f->what != FETCH_CHECK_PARTS && f->what != FETCH_HASH_PARTS)
        f = f->sibling;
    return f;
}

/* Once all is here nothing is handed out before it was hashed: who reads to the end does not take a
 * damaged content for a good one. */
static int wait_for_check(struct bh_blob *o, int64_t since_ms, const struct bh_call *call,
                          bool *missing, struct bh_error *err)
{
    struct bh_blobs *b = o->blobs;
    struct blobs_content *c = o->content;
    BH_LOCK_SCOPE(&b->mutex);
    for (;;) {
        bool all = c->parts->checking || is_unchecked(c);
        struct blobs_fetch *f = all ? check_under_way(c) : NULL;
        if (c->bad)
            return bh_fail(err, EIO, "%s", c->bad->text);
        if (!f && !is_unchecked(c))
            return 0;
        if (!f) { /* it was cancelled */
            c->parts->checking = false;
            bh_blobs_check_if_all(b, c);
            f = check_under_way(c);
        }
        if (!f)
            return bh_fail(err, ENOMEM, "out of memory while reading from the bucket");
        f->refs++;
        int rc = bh_blobs_await(b, f, since_ms, call, missing, err);
        if (rc)
            return rc;
    }
}

int bh_blobs_parts_read(struct bh_blob *o, void *buf, size_t len, uint64_t offset, int64_t since_ms,
                        const struct bh_call *call, bool *missing, struct bh_error *err)
{
    struct bh_blobs *b = o->blobs;
    uint64_t end = offset + len, unit, most = 2 * (blobs_units(end) - offset / BLOBS_UNIT) + 16;
    int rc = parts_ready(b, o->content, err);
    for (uint64_t turn = 0; !rc && turn < most; turn++) {
        rc = wait_for_unit(o, offset, end, turn == 0, since_ms, call, missing, err);
        if (rc == 0)
            rc = wait_for_check(o, since_ms, call, missing, err);
        if (rc)
            return rc;
        rc = read_here(o, buf, len, offset, false, &unit);
        if (rc == 0)
            return 0;
        if (rc != EAGAIN)
            return bh_fail(err, rc, "parts of a large file in %s cannot be read: %s",
                           bh_disk_path(b->o.disk), strerror(rc));
        rc = 0;
    }
    return rc ? rc
              : bh_fail(err, EIO, "a large object is replaced again and again while it is read");
}
