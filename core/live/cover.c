/* Pages of which the base has the version in -wal, and not the one in the database's file. A flush
 * takes what is committed in -wal, but its frames may vanish without ever having been written to
 * the file: SQLite's index does not know of a transaction whose client died right after the commit
 * frame, and the next writer puts its own frames in that place. So in the block map these
 * sub-blocks are dirty, from before the base names what was flushed until a flush finds them
 * without a frame.
 *
 * Those that are dirty for no other reason are covered: while -wal is as it was then, they are no
 * change since the base. What is covered is known in memory only; after a start the tag of -wal
 * tells. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "live/store_private.h"
#include "util/cleanup.h"

/* The mutex is held for so many runs of so many sub-blocks at most. */
#define RUNS_ATONCE 256
#define RUN_MAX     128u

/* --- what is covered, with the mutex held --- */

static bool is_covered(const struct cover *c, uint64_t block)
{
    return block < c->blocks && c->bits[block / 8] >> (block % 8) & 1;
}

void cover_drop(struct bh_store *s, uint64_t first, uint64_t count)
{
    struct cover *c = &s->cover;
    uint64_t end = first + count < c->blocks ? first + count : c->blocks;
    for (uint64_t b = first; c->count > 0 && b < end; b++)
        if (is_covered(c, b)) {
            c->bits[b / 8] &= (uint8_t) ~(1u << b % 8);
            c->count--;
        }
}

void cover_clear(struct bh_store *s)
{
    free(s->cover.bits);
    s->cover = (struct cover){0};
}

static bool reserve(struct cover *c, uint64_t blocks)
{
    if (blocks <= c->blocks)
        return true;
    size_t old = (size_t)(c->blocks / 8), len = (size_t)(blocks / 8 + 1);
    len = len > 2 * old ? len : 2 * old;
    uint8_t *p = realloc(c->bits, len);
    if (!p)
        return false;
    memset(p + old, 0, len - old);
    c->bits = p;
    c->blocks = (uint64_t)len * 8;
    return true;
}

/* Without memory it counts as changed: the next flush looks at it again. */
static void cover_dirty(struct bh_store *s, uint64_t first, uint64_t end)
{
    struct cover *c = &s->cover;
    if (!reserve(c, end))
        return;
    for (uint64_t b = first; b < end; b++)
        if (!is_covered(c, b) && bh_map_get(&s->map, b) == BH_BLOCK_DIRTY) {
            c->bits[b / 8] |= (uint8_t)(1u << b % 8);
            c->count++;
        }
}

/* --- what frames lie over --- */

/* The sub-blocks that a log's frames, and the end that it sets, lie over, in ascending runs. */
struct runs {
    const struct bh_wal_map *map;
    size_t next;    /* of its pages */
    uint64_t limit; /* sub-blocks of the file */
    uint64_t done;  /* all before it were in a run */
};

static uint64_t first_of(const struct bh_wal_map *m, size_t i)
{
    return (uint64_t)(m->pages[i].page - 1) * m->page_size / BH_SUBBLOCK;
}

static uint64_t end_of(const struct bh_wal_map *m, size_t i)
{
    return ((uint64_t)m->pages[i].page * m->page_size - 1) / BH_SUBBLOCK + 1;
}

/* A little more than RUN_MAX at most. False: that was the last one. */
static bool next_run(struct runs *r, uint64_t *first, uint64_t *end)
{
    const struct bh_wal_map *m = r->map;
    while (r->next < m->count && end_of(m, r->next) <= r->done)
        r->next++;
    /* pages beyond the end have frames of before it was set: all from there on is the tail */
    bool tail = r->next == m->count || m->pages[r->next].page > m->db_pages;
    *first = tail ? (uint64_t)m->db_pages * m->page_size / BH_SUBBLOCK : first_of(m, r->next);
    *first = *first > r->done ? *first : r->done;
    *end = tail ? *first + RUN_MAX : *first;
    for (size_t i = r->next; !tail && i < m->count && m->pages[i].page <= m->db_pages &&
                             first_of(m, i) <= *end && *end - *first < RUN_MAX;
         i++)
        *end = end_of(m, i);
    *end = *end < r->limit ? *end : r->limit;
    r->done = *end;
    return m->count > 0 && *first < *end;
}

bool cover_has_frame(const struct bh_frozen *z, uint64_t block)
{
    const struct bh_wal_map *m = &z->frames;
    if (m->count == 0)
        return false;
    uint64_t begin = block * BH_SUBBLOCK, end = begin + BH_SUBBLOCK;
    if (end > (uint64_t)m->db_pages * m->page_size)
        return true;
    return bh_wal_has(m, (uint32_t)(begin / m->page_size + 1),
                      (uint32_t)((end - 1) / m->page_size + 1));
}

static uint64_t file_blocks(struct bh_store *s)
{
    return (bh_file_size(s->db) + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
}

/* What is clean, or zeros, becomes dirty. */
static int mark_run(struct bh_store *s, uint64_t first, uint64_t end)
{
    int rc = 0;
    for (uint64_t b = first, run; rc == 0 && b < end; b = run + (run == b)) {
        for (run = b; run < end; run++) {
            enum bh_block_state state = bh_map_get(&s->map, run);
            if (state != BH_BLOCK_CLEAN && state != BH_BLOCK_ZERO)
                break;
        }
        if (run > b)
            rc = bh_map_set(&s->map, b, run - b, BH_BLOCK_DIRTY);
    }
    return rc;
}

/* --- a flush --- */

/* What is absent and has a newer version in the frozen log, or is beyond the end that the log sets,
 * must come from the origin of now: the next one has it no more. */
static int fetch_old(struct bh_frozen *z, struct bh_error *err)
{
    struct bh_store *s = z->store;
    struct runs r = {.map = &z->frames, .limit = file_blocks(s)};
    uint64_t first, end, size = bh_file_size(s->db);
    int rc = 0;
    while (rc == 0 && bh_store_absent_bytes(s) > 0 && next_run(&r, &first, &end)) {
        uint64_t at = first * BH_SUBBLOCK, to = end * BH_SUBBLOCK;
        to = to < size ? to : size;
        if (at < to)
            rc = bh_store_fetch(s, at, to - at, err);
    }
    return rc;
}

static int mark_some(struct bh_frozen *z, struct runs *r, bool *more)
{
    struct bh_store *s = z->store;
    uint64_t first, end, blocks;
    BH_LOCK_SCOPE(&s->mutex);
    *more = !z->detached;
    blocks = file_blocks(s); /* a checkpoint may have cut it since */
    r->limit = blocks < z->db.blocks ? blocks : z->db.blocks;
    int rc = 0;
    for (int i = 0; rc == 0 && *more && i < RUNS_ATONCE; i++) {
        *more = next_run(r, &first, &end);
        if (*more)
            rc = mark_run(s, first, end);
    }
    return rc;
}

static int mark(struct bh_frozen *z)
{
    struct runs r = {.map = &z->frames};
    bool more = true;
    int rc = 0;
    while (rc == 0 && more)
        rc = mark_some(z, &r, &more);
    return rc;
}

static int sync_marks(struct bh_frozen *z)
{
    struct bh_store *s = z->store;
    pthread_rwlock_rdlock(&s->generation_lock);
    int rc = z->detached ? 0 : store_sync_map(s);
    pthread_rwlock_unlock(&s->generation_lock);
    return rc;
}

/* In this order: what was fetched is not synced, which is right for what is clean only. */
int bh_frozen_mark_frames(struct bh_frozen *z, struct bh_error *err)
{
    struct bh_store *s = z->store;
    if (z->frames.count == 0)
        return 0;
    BH_LOCK_SCOPE(&s->evict.pass); /* nothing goes in between */
    int rc = fetch_old(z, err);
    if (rc)
        return bh_fail_prefix(err, rc,
                              "pages that " BH_WAL_NAME
                              " has newer cannot be fetched as they were, which a checkpoint "
                              "(PRAGMA wal_checkpoint) makes unnecessary");
    if ((rc = store_sync_data(s)) != 0)
        return bh_fail(err, rc, "%s/%s cannot be synced: %s", bh_disk_path(s->disk), s->title,
                       strerror(rc));
    rc = mark(z);
    if (rc == 0)
        rc = sync_marks(z);
    return rc ? bh_fail(err, rc, "the block map of %s cannot be written: %s", s->title,
                        strerror(rc))
              : 0;
}

void cover_frames(struct bh_frozen *z)
{
    struct bh_store *s = z->store;
    struct runs r = {.map = &z->frames};
    uint64_t first, end;
    for (bool more = z->frames.count > 0; more;) {
        BH_LOCK_SCOPE(&s->mutex);
        uint64_t blocks = file_blocks(s);
        r.limit = blocks < z->db.blocks ? blocks : z->db.blocks;
        /* else the frames are gone, and nothing covers what is below them */
        more = !z->detached && s->wal && s->wal == z->wal_file && s->wal_size >= z->wal.size;
        for (int i = 0; more && i < RUNS_ATONCE; i++) {
            more = next_run(&r, &first, &end);
            for (; more && first < end; first++)
                if (!freeze_is_touched(z, first))
                    cover_dirty(s, first, first + 1);
        }
    }
}

/* --- the start --- */

static int read_side(void *arg, void *buf, size_t len, uint64_t offset)
{
    return bh_file_read(arg, buf, len, offset, NULL);
}

/* Before SQLite has looked at it, every frame with a good checksum counts as committed. */
static int found(struct bh_store *s, const struct bh_wal_map *m, bool flushed)
{
    BH_LOCK_SCOPE(&s->mutex);
    struct runs r = {.map = m, .limit = file_blocks(s)};
    uint64_t first, end;
    int rc = 0;
    while (rc == 0 && next_run(&r, &first, &end)) { /* an older bhfs called these clean */
        rc = mark_run(s, first, end);
        if (rc == 0 && flushed)
            cover_dirty(s, first, end);
    }
    if (rc == 0 && flushed)
        s->wal_flushed = s->wal_changes;
    return rc;
}

int bh_store_set_flushed_wal(struct bh_store *s, const char *tag)
{
    struct bh_file *wal;
    struct bh_wal_map map;
    if (bh_store_lookup(s, BH_WAL_NAME, &wal) != 0)
        return 0;
    int rc = bh_wal_scan(&map, bh_file_size(wal), read_side, wal);
    if (rc == 0) {
        rc = found(s, &map, !strcmp(map.tag, tag));
        bh_wal_map_free(&map);
    }
    bh_file_unref(wal);
    return rc;
}
