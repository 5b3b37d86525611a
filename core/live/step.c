/* A step: the content becomes another snapshot of the same history in place, at the cost of what
 * differs. In this order, so that a kill -9 at any moment leaves one of the two contents:
 *
 *   1. what differs becomes absent, but for page 1; from here on nothing is fetched (stepping)
 *   2. the state names the new base, and the counters that its page 1 will have
 *   3. size, page 1 and origin are the new ones; fetching goes on
 *
 * Before 2 the absent blocks are those of the old base, after it those of the new one. Between 2
 * and 3 only size and page 1 are behind, which shows in its counters: bh_live_end_steps. Nothing
 * but the state is synced: all of it is a copy of what is in the bucket, and after a power cut none
 * of it is believed. */
#include <errno.h>
#include <string.h>

#include "live/replace.h"
#include "live/store_private.h"
#include "util/cleanup.h"
#include "util/log.h"

/* More runs than this, and the kernel forgets all it has of the database. */
#define RUNS_MAX 1024

static uint64_t sub_blocks(uint64_t bytes)
{
    return (bytes + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
}

/* The next run of sub-blocks that differ, of those below end. False: none. */
static bool next_run(const struct bh_step *t, uint64_t end, size_t *i, uint64_t *first,
                     uint64_t *count)
{
    uint64_t per = t->block_size / BH_SUBBLOCK;
    if (*i == t->count || t->blocks[*i] * per >= end)
        return false;
    uint64_t from = t->blocks[*i], to = from + 1;
    for (++*i; *i < t->count && t->blocks[*i] == to; ++*i)
        to++;
    *first = from * per;
    *count = (to * per < end ? to * per : end) - *first;
    return true;
}

/* Page 1 is always here: whoever opens the database reads it. */
static int make_absent(struct bh_store *s, const struct bh_step *t)
{
    uint64_t end = sub_blocks(t->size), old = sub_blocks(bh_file_size(s->db)), first, count;
    int rc = 0;
    for (size_t i = 0; rc == 0 && next_run(t, end, &i, &first, &count);)
        rc = bh_map_set(&s->map, first + !first, count - !first, BH_BLOCK_ABSENT);
    if (rc == 0 && end > old)
        rc = bh_map_set(&s->map, old, end - old, BH_BLOCK_ABSENT);
    return rc;
}

static int step_begin(struct bh_store *s, const struct bh_step *t)
{
    BH_LOCK_SCOPE(&s->mutex);
    if (s->frozen || s->map.dirty > 0)
        return EBUSY;
    s->stepping = true;
    return make_absent(s, t);
}

static int step_end(struct bh_store *s, const struct bh_step *t)
{
    BH_LOCK_SCOPE(&s->mutex);
    size_t len = t->size < sizeof t->first ? (size_t)t->size : sizeof t->first;
    uint64_t old_size = bh_file_size(s->db), end = sub_blocks(t->size), old = sub_blocks(old_size);
    atomic_fetch_add(&s->swaps, 1);
    int rc = bh_dfile_truncate(&s->db->disk, t->size);
    if (rc == 0 && old > end)
        rc = bh_map_set(&s->map, end, old - end, BH_BLOCK_ZERO);
    if (rc == 0)
        rc = bh_dfile_write(&s->db->disk, t->first, len, 0);
    if (rc == 0) {
        bh_origin_unref(s->origin);
        s->origin = bh_origin_ref(t->origin);
    } else { /* back; the size cannot be helped if this fails, too */
        (void)bh_dfile_truncate(&s->db->disk, old_size);
        (void)bh_map_set(&s->map, 0, 1, BH_BLOCK_ABSENT);
        (void)bh_map_set(&s->map, end, old > end ? old - end : 0, BH_BLOCK_ABSENT);
    }
    atomic_fetch_add(&s->swaps, 1);
    return rc;
}

static void step_over(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    s->stepping = false;
    pthread_cond_broadcast(&s->stepped);
}

/* --- in the eyes of clients --- */

static void tell(struct bh_live *l, uint64_t first, uint64_t count)
{
    live_tell_data(l, first * BH_SUBBLOCK, count * BH_SUBBLOCK);
}

static void tell_all(struct bh_live *l, const struct bh_step *t, uint64_t old_size)
{
    uint64_t end = sub_blocks(t->size), old = sub_blocks(old_size), first, count;
    size_t runs = 0;
    for (size_t i = 0; next_run(t, end, &i, &first, &count);)
        runs++;
    if (runs > RUNS_MAX) {
        tell(l, 0, INT64_MAX / BH_SUBBLOCK);
        return;
    }
    tell(l, 0, 1);
    for (size_t i = 0; next_run(t, end, &i, &first, &count);)
        tell(l, first, count);
    if (old_size != t->size) { /* the last one of the shorter may be cut, or have been */
        uint64_t from = old < end ? old : end;
        from -= from > 0;
        tell(l, from, (old > end ? old : end) - from);
    }
}

struct step_job {
    struct bh_live *live;
    struct bh_step *step;
    const struct bh_base *base;
};

/* before: the state to go back to. */
static int change(struct bh_live *l, struct bh_step *t, const struct bh_base *base,
                  const struct bh_state *before, struct bh_error *err)
{
    bool changed;
    int rc = live_outrun_counters(l, t->first, &changed);
    if (rc == 0 && (rc = step_begin(l->store, t)) == EBUSY)
        return bh_fail(err, rc, BH_DB_NAME " has changes of its own");
    if (rc)
        bh_fail(err, rc, "the next snapshot cannot be stored in %s: %s", l->dir.path, strerror(rc));
    if (rc == 0) {
        live_set_base(&l->dir.state, base);
        l->dir.state.stepped = 1;
        rc = bh_statedir_save(&l->dir, err);
    }
    if (rc == 0 && (rc = step_end(l->store, t)) != 0)
        bh_fail(err, rc, "the next snapshot cannot be stored in %s: %s", l->dir.path, strerror(rc));
    if (rc) { /* strings in it are shared, and unchanged; what was absent is of the old base again
               */
        uint32_t counter = l->dir.state.max_counter, cookie = l->dir.state.max_cookie;
        l->dir.state = *before;
        l->dir.state.max_counter = counter;
        l->dir.state.max_cookie = cookie;
        l->dir.state.stepped = 1;
        if (bh_statedir_save(&l->dir, NULL) != 0)
            bh_log(BH_LOG_ERROR, "%s cannot be written", l->dir.path);
    }
    step_over(l->store);
    return rc;
}

/* names.db with it, if it is another one. */
static int change_both(struct bh_live *l, struct bh_step *t, const struct bh_base *base,
                       struct bh_error *err)
{
    struct bh_state before = l->dir.state, *st = &l->dir.state;
    struct live_names_swap names;
    int rc = live_names_ready(l, base, &names, err);
    if (rc == 0)
        rc = change(l, t, base, &before, err);
    if (rc) {
        st->names_generation = before.names_generation;
        st->names_size = before.names_size;
        st->names_depth = before.names_depth;
        memcpy(st->names_root, before.names_root, sizeof st->names_root);
    }
    int ended = live_names_end(l, &names, rc == 0, err);
    return rc ? rc : ended;
}

static int step_job(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct step_job *j = arg;
    struct bh_live *l = j->live;
    uint64_t old_size = bh_file_size(bh_store_db(l->store));
    (void)db;
    int rc = live_clear_side_file(l, BH_JOURNAL_NAME);
    if (rc)
        return bh_fail(err, rc, "the old journal cannot be emptied: %s", strerror(rc));
    rc = change_both(l, j->step, j->base, err);
    if (rc == 0)
        tell_all(l, j->step, old_size);
    return rc;
}

/* The SQL thread reads the schema when it enters, with clients held back: it must not have to wait
 * for the bucket then. */
static int fetch_schema(struct bh_live *l, struct bh_error *err)
{
    sqlite3 *db;
    if (bh_store_absent_bytes(l->store) == 0)
        return 0;
    int rc = bh_vfs_connect(l->vfs, true, &db, err);
    if (rc)
        return rc;
    if (sqlite3_exec(db, "SELECT 1 FROM sqlite_master LIMIT 1", NULL, NULL, NULL) != SQLITE_OK)
        rc = bh_sqlite_fail(db, err, "the present snapshot cannot be read");
    sqlite3_close(db);
    return rc;
}

int bh_live_step(struct bh_live *l, const struct bh_step *step, const struct bh_base *base,
                 int64_t patience_ms, struct bh_error *err)
{
    struct bh_step copy = *step; /* whose page 1 gets counters */
    struct step_job j = {.live = l, .step = &copy, .base = base};
    int rc = fetch_schema(l, err);
    if (rc == 0)
        rc = live_names_prepare(l, base, err);
    return rc ? rc : bh_sql_run_for(l->sql, BH_SQL_SWAP, step_job, &j, patience_ms, err);
}

/* --- at the start --- */

static int restore_size(struct bh_store *s, uint64_t size, bool trusted)
{
    BH_LOCK_SCOPE(&s->mutex);
    uint64_t end = sub_blocks(size), old = sub_blocks(bh_file_size(s->db));
    uint64_t from = trusted ? old : 0;
    int rc = from < end ? bh_map_set(&s->map, from, end - from, BH_BLOCK_ABSENT) : 0;
    if (rc == 0)
        rc = bh_dfile_truncate(&s->db->disk, size);
    if (rc == 0 && old > end)
        rc = bh_map_set(&s->map, end, old - end, BH_BLOCK_ZERO);
    return rc;
}

/* Page 1 of the base, in the place of that which was there before. */
static int renew_page_1(struct bh_live *l, struct bh_error *err)
{
    struct bh_file *f = bh_store_db(l->store);
    unsigned char header[LIVE_HEADER];
    bool changed;
    pthread_mutex_lock(&l->store->mutex);
    int rc = bh_map_set(&l->store->map, 0, 1, BH_BLOCK_ABSENT);
    pthread_mutex_unlock(&l->store->mutex);
    if (rc)
        return bh_fail(err, rc, "%s cannot be written: %s", l->dir.path, strerror(rc));
    rc = bh_file_read_why(f, header, sizeof header, 0, NULL, err);
    if (rc)
        return rc;
    rc = live_outrun_counters(l, header, &changed);
    if (rc == 0)
        rc = bh_dfile_write(&f->disk, header, sizeof header, 0);
    return rc ? bh_fail(err, rc, "%s cannot be written: %s", l->dir.path, strerror(rc)) : 0;
}

int bh_live_end_steps(struct bh_live *l, bool trusted, struct bh_error *err)
{
    struct bh_state *st = &l->dir.state;
    unsigned char header[LIVE_HEADER];
    if (!st->stepped)
        return 0;
    int rc = restore_size(l->store, st->base_size, trusted);
    if (rc)
        return bh_fail(err, rc, "%s cannot be written: %s", l->dir.path, strerror(rc));
    if (trusted &&
        (rc = bh_file_read_why(bh_store_db(l->store), header, sizeof header, 0, NULL, err)) != 0)
        return rc;
    if (!trusted || !live_has_last_counters(st, header))
        rc = renew_page_1(l, err);
    if (rc)
        return rc;
    rc = bh_store_sync(l->store);
    if (rc)
        return bh_fail(err, rc, "%s cannot be synced: %s", l->dir.path, strerror(rc));
    st->stepped = 0;
    return bh_statedir_save(&l->dir, err);
}
