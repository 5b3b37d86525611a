/* Replacing the whole content: restore, import, a load at the start. Another file and its map take
 * the place of the present ones, in one step for clients and for a crash. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "live/replace.h"
#include "util/bytes.h"
#include "util/io.h"

struct replace_job {
    struct bh_live *live;
    const char *incoming;
    const struct bh_base *base;
    struct bh_origin *origin; /* NULL: everything is in `incoming` */
    bh_live_save_fn *save;    /* NULL: nothing of what is there is kept */
    void *save_arg;
};

static uint32_t max(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* The journal mode that clients know goes on; what is new to a state directory gets the one that is
 * configured. */
static bool shall_be_wal(struct bh_live *l)
{
    if (bh_file_size(bh_store_db(l->store)) > 0)
        return bh_store_is_wal(l->store);
    return l->new_is_wal;
}

enum { VERSIONS = 18, COUNTER = 24, COOKIE = 40, VALID_FOR = 92 };

bool live_has_last_counters(const struct bh_state *st, const unsigned char header[LIVE_HEADER])
{
    return bh_get_be32(header + COUNTER) == st->max_counter &&
           bh_get_be32(header + COOKIE) == st->max_cookie &&
           bh_get_be32(header + VALID_FOR) == st->max_counter;
}

int live_outrun_counters(struct bh_live *l, unsigned char new[LIVE_HEADER], bool *changed)
{
    unsigned char old[LIVE_HEADER] = {0};
    struct bh_state *st = &l->dir.state;
    int rc = bh_file_read(bh_store_db(l->store), old, sizeof old, 0, NULL);
    st->max_counter = max(st->max_counter, bh_get_be32(old + COUNTER));
    st->max_cookie = max(st->max_cookie, bh_get_be32(old + COOKIE));
    bool shown = st->max_counter > 0 || st->max_cookie > 0, wal = shall_be_wal(l);
    *changed = !rc && (shown || wal);
    if (!*changed)
        return rc;
    new[VERSIONS] = new[VERSIONS + 1] = wal ? 2 : 1;
    if (!shown)
        return 0;
    st->max_counter = max(st->max_counter, bh_get_be32(new + COUNTER)) + 1;
    st->max_cookie = max(st->max_cookie, bh_get_be32(new + COOKIE)) + 1;
    bh_put_be32(new + COUNTER, st->max_counter);
    bh_put_be32(new + VALID_FOR, st->max_counter);
    bh_put_be32(new + COOKIE, st->max_cookie);
    return 0;
}

static int outrun_counters(struct bh_live *l, struct bh_dfile *f)
{
    unsigned char new[LIVE_HEADER] = {0};
    bool changed;
    int rc = bh_pread_full(f->fd, new, sizeof new, 0, NULL);
    if (rc == 0)
        rc = live_outrun_counters(l, new, &changed);
    if (rc == 0 && changed)
        rc = bh_dfile_write(f, new, sizeof new, 0);
    return rc || !changed ? rc : bh_dfile_sync(f);
}

static enum bh_block_state state_of(const struct replace_job *j)
{
    return j->origin ? BH_BLOCK_ABSENT : j->base->is_base ? BH_BLOCK_CLEAN : BH_BLOCK_DIRTY;
}

int live_make_map(struct bh_disk *disk, const char *name, uint64_t size, enum bh_block_state state,
                  struct bh_error *err)
{
    struct bh_map map;
    int rc = bh_map_open(&map, disk, name, true, err);
    if (rc)
        return rc;
    uint64_t blocks = (size + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
    rc = bh_map_set(&map, 0, blocks, state);
    if (rc == 0 && state == BH_BLOCK_ABSENT && blocks > 0) /* page 1 is always here */
        rc = bh_map_set(&map, 0, 1, BH_BLOCK_CLEAN);
    if (rc == 0)
        rc = bh_dfile_sync(&map.file);
    bh_map_close(&map);
    return rc ? bh_fail(err, rc, "%s/%s cannot be made: %s", bh_disk_path(disk), name, strerror(rc))
              : 0;
}

/* What takes time, before clients are kept waiting: the new content and its map are durable when it
 * returns. */
static int prepare_generation(struct replace_job *j, struct bh_error *err)
{
    struct bh_disk *disk = j->live->dir.disk;
    struct bh_dfile f;
    struct stat st;
    int rc = bh_disk_open_file(disk, j->incoming, O_RDWR, 0, &f);
    if (rc)
        return bh_fail(err, rc, "%s cannot be opened: %s", j->incoming, strerror(rc));
    if (fchmod(f.fd, 0644) != 0 || fstat(f.fd, &st) != 0)
        rc = errno;
    if (rc == 0)
        rc = bh_dfile_sync(&f);
    bh_dfile_close(&f);
    if (rc)
        return bh_fail(err, rc, "the new content cannot be stored in %s: %s", bh_disk_path(disk),
                       strerror(rc));
    rc = live_make_map(disk, LIVE_INCOMING_MAP, (uint64_t)st.st_size, state_of(j), err);
    return rc ? rc : live_names_prepare(j->live, j->base, err);
}

int live_name_generation(struct bh_live *l, struct bh_disk *disk, const char *incoming,
                         uint64_t generation, int (*outrun)(struct bh_live *l, struct bh_dfile *f),
                         struct bh_error *err)
{
    char db[32], map[32];
    struct bh_dfile f;
    snprintf(db, sizeof db, "db.%" PRIu64, generation);
    snprintf(map, sizeof map, "map.%" PRIu64, generation);
    int rc = bh_disk_open_file(disk, incoming, O_RDWR, 0, &f);
    if (rc == 0) {
        rc = outrun(l, &f);
        bh_dfile_close(&f);
    }
    if (rc == 0)
        rc = bh_disk_rename(disk, incoming, db);
    if (rc == 0)
        rc = bh_disk_rename(disk, LIVE_INCOMING_MAP, map);
    if (rc == 0)
        rc = bh_disk_sync_names(disk);
    return rc ? bh_fail(err, rc, "the new content cannot be stored in %s: %s", bh_disk_path(disk),
                        strerror(rc))
              : 0;
}

void live_set_base(struct bh_state *st, const struct bh_base *b)
{
    if (!b->is_base)
        return;
    memcpy(st->base_etag, b->etag, sizeof st->base_etag);
    memcpy(st->base_snapshot, b->snapshot, sizeof st->base_snapshot);
    memcpy(st->base_sha256, b->sha256, sizeof st->base_sha256);
    st->base_size = b->size;
    st->base_time_ms = b->time_ms;
    st->base_wal[0] = st->pending_snapshot[0] = st->pending_sha256[0] = '\0';
    memcpy(st->base_root, b->root, sizeof st->base_root);
    st->base_depth = b->depth;
    memcpy(st->restored, b->restored, sizeof st->restored);
    if (b->branch[0])
        memcpy(st->branch, b->branch, sizeof st->branch);
}

int live_clear_side_file(struct bh_live *l, const char *name)
{
    struct bh_file *j;
    if (bh_store_lookup(l->store, name, &j))
        return 0;
    int rc = bh_file_truncate(j, BH_DOOR_INTERNAL, 0);
    if (rc == 0)
        rc = bh_file_sync(j);
    if (l->hooks.data_changed)
        l->hooks.data_changed(l->hooks.arg, j, 0, UINT64_MAX);
    bh_file_unref(j);
    return rc;
}

static int replace_job(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct replace_job *j = arg;
    struct bh_live *l = j->live;
    struct bh_base base = *j->base;
    bool changed;
    (void)db;
    int rc = j->save && bh_sql_in_swap(l->sql, &changed) && changed
                 ? j->save(j->save_arg, &base, err)
                 : 0;
    if (rc)
        return rc;
    struct bh_state before = l->dir.state;
    rc = live_clear_side_file(l, BH_JOURNAL_NAME);
    if (rc == 0)
        rc = live_clear_side_file(l, BH_WAL_NAME);
    if (rc)
        return bh_fail(err, rc, "the old journal cannot be emptied: %s", strerror(rc));
    struct bh_store_next *next = NULL;
    struct live_names_swap names = {0};
    rc = live_name_generation(l, l->dir.disk, j->incoming, before.generation + 1, outrun_counters,
                              err);
    if (rc == 0)
        rc = bh_store_swap_prepare(l->store, before.generation + 1, &next, err);
    if (rc == 0)
        rc = live_names_ready(l, &base, &names, err);
    if (rc == 0) {
        l->dir.state.generation = before.generation + 1;
        live_set_base(&l->dir.state, &base);
        rc = bh_statedir_save(&l->dir, err);
    }
    if (rc) {
        l->dir.state = before; /* strings in it are shared, and unchanged */
        bh_store_swap_drop(next);
        live_names_end(l, &names, false, err);
        return rc;
    }
    rc = bh_store_swap_commit(l->store, next, j->origin, err);
    int names_rc = live_names_end(l, &names, true, err);
    live_tell_data(l, 0, UINT64_MAX);
    return rc ? rc : names_rc;
}

int bh_live_replace(struct bh_live *l, const char *incoming, const struct bh_base *base,
                    struct bh_error *err)
{
    struct replace_job j = {.live = l, .incoming = incoming, .base = base};
    int rc = prepare_generation(&j, err);
    return rc ? rc : bh_sql_run(l->sql, BH_SQL_SWAP, replace_job, &j, err);
}

int live_make_sparse(struct bh_disk *disk, const char *name, struct bh_origin *origin,
                     uint64_t size, struct bh_error *err)
{
    unsigned char first[BH_SUBBLOCK];
    struct bh_dfile f;
    size_t len = size < sizeof first ? (size_t)size : sizeof first;
    int rc = len > 0 ? origin->read(origin, 0, first, len, err) : 0;
    if (rc)
        return rc;
    rc = bh_disk_open_file(disk, name, O_RDWR | O_CREAT | O_TRUNC, 0644, &f);
    if (rc == 0) {
        rc = bh_dfile_truncate(&f, size);
        if (rc == 0 && len > 0)
            rc = bh_dfile_write(&f, first, len, 0);
        if (rc == 0)
            rc = bh_dfile_sync(&f);
        bh_dfile_close(&f);
    }
    return rc ? bh_fail(err, rc, "%s/%s cannot be made: %s", bh_disk_path(disk), name, strerror(rc))
              : 0;
}

int bh_live_replace_lazily(struct bh_live *l, struct bh_origin *origin, uint64_t size,
                           const struct bh_base *base, bh_live_save_fn *save, void *arg,
                           struct bh_error *err)
{
    struct replace_job j = {.live = l,
                            .incoming = "incoming.lazy",
                            .base = base,
                            .origin = origin,
                            .save = save,
                            .save_arg = arg};
    int rc = live_make_sparse(l->dir.disk, j.incoming, origin, size, err);
    if (rc == 0)
        rc = prepare_generation(&j, err);
    return rc ? rc : bh_sql_run(l->sql, BH_SQL_SWAP, replace_job, &j, err);
}

/* --- the mode of a new database --- */

static int set_mode(sqlite3 *db, void *arg, struct bh_error *err)
{
    return sqlite3_exec(db, *(const char **)arg, NULL, NULL, NULL) == SQLITE_OK
               ? 0
               : bh_sqlite_fail(db, err, "the journal mode of the live database cannot be set");
}

int bh_live_settle_mode(struct bh_live *l, bool read_only, struct bh_error *err)
{
    /* The pragma believes what its connection read last: so that must be now. */
    const char *sql = "SELECT 1 FROM sqlite_master LIMIT 1; PRAGMA journal_mode=DELETE";
    bool was_wal = bh_store_is_wal(l->store), was_dirty = bh_store_is_dirty(l->store);
    if (read_only) { /* nobody could make -shm */
        l->new_is_wal = false;
        int rc =
            bh_store_is_wal(l->store) ? bh_sql_run(l->sql, BH_SQL_ALONE, set_mode, &sql, err) : 0;
        if (rc == 0 && was_wal && !was_dirty) /* bytes 18 and 19 are all that changed */
            rc = bh_store_make_clean(l->store);
        return rc == 0 && bh_store_is_wal(l->store)
                   ? bh_fail(err, EBUSY,
                             BH_DB_NAME " cannot leave write-ahead mode, without which "
                                        "a read-only mount cannot be read")
                   : rc;
    }
    if (bh_file_size(bh_store_db(l->store)) > 0 || !l->new_is_wal)
        return 0;
    sql = "PRAGMA journal_mode=WAL";
    int rc = bh_sql_run(l->sql, BH_SQL_ALONE, set_mode, &sql, err);
    if (rc)
        return rc;
    /* A page without anything in it is nothing that anybody must keep; nor is an empty log. */
    rc = bh_store_mark_all(l->store, BH_BLOCK_CLEAN);
    const char *const names[] = {BH_WAL_NAME, BH_SHM_NAME};
    for (int i = 0; rc == 0 && i < 2; i++) {
        rc = bh_store_unlink(l->store, names[i]);
        rc = rc == ENOENT ? 0 : rc;
    }
    return rc ? bh_fail(err, rc, "%s cannot be written: %s", l->dir.path, strerror(rc)) : 0;
}
