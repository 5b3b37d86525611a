#include "live/live.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"
#include "util/log.h"

/* Who holds a dead client's EXCLUSIVE while its writes are put back. */
static const struct bh_owner undo_owner = {.id = UINT64_MAX, .internal = true};

/* --- opening --- */

static void tell_data(struct bh_live *l, uint64_t offset, uint64_t len)
{
    if (l->hooks.data_changed)
        l->hooks.data_changed(l->hooks.arg, bh_store_db(l->store), offset, len);
}

static void undone(void *arg, uint64_t offset, uint64_t len)
{
    tell_data(arg, offset, len);
}

static int play_undo(struct bh_live *l, struct bh_error *err)
{
    if (!bh_store_undo_pending(l->store))
        return 0;
    int rc = bh_store_undo_play(l->store, undone, l);
    if (rc)
        return bh_fail(err, rc,
                       "the half-made transaction of a dead client cannot be undone: %s; "
                       "free space in the state directory and mount again",
                       strerror(rc));
    atomic_fetch_add(&l->undone, 1);
    bh_log(BH_LOG_WARNING,
           "a client without a journal died in mid-commit: its transaction was undone");
    return 0;
}

static int nothing(sqlite3 *db, void *arg, struct bh_error *err)
{
    (void)db, (void)arg, (void)err;
    return 0;
}

static void recover(struct bh_live *l)
{
    struct bh_file *journal;
    struct bh_error err;
    bool hot = false;
    if (bh_store_lookup(l->store, BH_JOURNAL_NAME, &journal) == 0) {
        hot = journal->has_magic;
        bh_file_unref(journal);
    }
    /* A reader's way in rolls a hot journal back. */
    int rc = bh_sql_run(l->sql, BH_SQL_READ, nothing, NULL, &err);
    if (rc)
        bh_log(BH_LOG_ERROR, "the live database is not usable by the daemon yet: %s", err.text);
    else if (hot)
        bh_log(BH_LOG_WARNING,
               "a transaction that was under way at the last crash was rolled back");
}

static int open_content(struct bh_live *l, const char *mountpoint, struct bh_error *err)
{
    struct bh_state *st = &l->dir.state;
    bool changed = false;
    if (st->generation == 0) {
        int rc = bh_store_make_generation(l->dir.disk, 1, err);
        if (rc)
            return rc;
        st->generation = 1;
        changed = true;
    }
    int rc = bh_store_open(&l->store, l->dir.disk, st->generation, err);
    if (rc)
        return rc;
    /* A journal may name its super-journal by the mount point it had: keep that one until it is
     * resolved. */
    struct bh_file *journal;
    bool keep = bh_store_lookup(l->store, BH_JOURNAL_NAME, &journal) == 0;
    if (keep)
        bh_file_unref(journal);
    if (!mountpoint || (keep && st->mountpoint[0]))
        mountpoint = st->mountpoint;
    rc = bh_vfs_register(&l->vfs, l->store, mountpoint, err);
    if (rc == 0 && strcmp(mountpoint, st->mountpoint)) {
        char *copy = strdup(mountpoint);
        if (!copy)
            return bh_fail(err, ENOMEM, "out of memory while opening the live database");
        free(st->mountpoint);
        st->mountpoint = copy;
        changed = true;
    }
    return rc == 0 && changed ? bh_statedir_save(&l->dir, err) : rc;
}

static int start_sql(struct bh_live *l, const struct bh_config *cfg, struct bh_error *err)
{
    static const char *const modes[] = {"DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"};
    char set_up[160];
    /* EXTRA: the journal's deletion is the commit, and is durable too. */
    snprintf(set_up, sizeof set_up,
             "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2000; PRAGMA synchronous=EXTRA; PRAGMA "
             "journal_mode=%s",
             modes[cfg->live.journal]);
    return bh_sql_start(&l->sql, l->vfs, l->store, set_up, cfg->live.busy_timeout_ms,
                        cfg->live.window_ms, err);
}

/* A path that led through the mount would ask this process to wait for itself. */
static int check_outside(const char *path, const char *what, const char *mountpoint,
                         struct bh_error *err)
{
    size_t len = mountpoint ? strlen(mountpoint) : 0;
    BH_FREE char *real = len && path && path[0] ? realpath(path, NULL) : NULL;
    if (!real || strncmp(real, mountpoint, len) || (real[len] != '/' && real[len] != '\0'))
        return 0;
    return bh_fail(err, EINVAL, "%s %s lies in the mount point %s; use a place outside of it", what,
                   path, mountpoint);
}

int bh_live_open(struct bh_live **out, const struct bh_config *cfg, const char *mountpoint,
                 struct bh_error *err)
{
    struct bh_live *l = calloc(1, sizeof *l);
    if (!l)
        return bh_fail(err, ENOMEM, "out of memory while opening the live database");
    int rc = bh_statedir_open(&l->dir, cfg, err);
    if (rc) {
        free(l);
        return rc;
    }
    rc = check_outside(l->dir.path, "the state directory", mountpoint, err);
    if (rc == 0)
        rc = check_outside(cfg->bucket.path, "the bucket", mountpoint, err);
    if (rc == 0)
        rc = open_content(l, mountpoint, err);
    if (rc == 0)
        rc = play_undo(l, err);
    if (rc == 0)
        rc = start_sql(l, cfg, err);
    if (rc) {
        bh_live_close(l);
        return rc;
    }
    recover(l);
    *out = l;
    return 0;
}

void bh_live_close(struct bh_live *l)
{
    if (!l)
        return;
    bh_sql_stop(l->sql);
    bh_vfs_unregister(l->vfs);
    bh_store_close(l->store);
    bh_statedir_close(&l->dir);
    free(l);
}

void bh_live_set_hooks(struct bh_live *l, const struct bh_live_hooks *hooks)
{
    l->hooks = *hooks;
    bh_vfs_set_hooks(l->vfs, hooks);
}

bool bh_live_is_fresh(struct bh_live *l)
{
    return l->dir.state.base_etag[0] == '\0' && !bh_store_is_dirty(l->store);
}

/* --- freeze --- */

static int freeze_job(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct bh_live *l = ((void **)arg)[0];
    struct bh_frozen *frozen = ((void **)arg)[1];
    int64_t begin = bh_mono_ns();
    int rc = bh_store_freeze(frozen);
    /* The lock goes here, not a few instructions later, so that the time it was held can be told.
     */
    if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK && rc == 0)
        return bh_sqlite_fail(db, err, "the live database cannot be frozen for a flush");
    bh_store_note_freeze(l->store, bh_mono_ns() - begin);
    return rc ? bh_fail(err, rc, "the live database cannot be frozen for a flush: %s", strerror(rc))
              : 0;
}

int bh_live_freeze(struct bh_live *l, bool patient, struct bh_frozen **out, struct bh_error *err)
{
    struct bh_frozen *frozen;
    int rc = bh_store_freeze_prepare(l->store, patient, &frozen);
    if (rc)
        return bh_fail(err, rc, "%s cannot take what a flush must keep aside: %s", l->dir.path,
                       strerror(rc));
    rc = bh_sql_run(l->sql, BH_SQL_READ, freeze_job, (void *[]){l, frozen}, err);
    if (rc)
        bh_store_thaw(frozen, false);
    else
        *out = frozen;
    return rc;
}

/* --- a journal-less client's death --- */

static int undo_job(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct bh_live *l = arg;
    (void)db;
    int rc = play_undo(l, err);
    tell_data(l, 0, 0);
    if (rc == 0) /* else its EXCLUSIVE stays: nobody may read a torn database */
        bh_locks_drop_owner(bh_store_locks(l->store), &bh_store_db(l->store)->locks, undo_owner);
    return rc;
}

static void undo_done(void *arg, int rc, const struct bh_error *err)
{
    (void)arg;
    if (rc)
        bh_log(BH_LOG_ERROR, "%s", err->text);
}

bool bh_live_owner_died(struct bh_live *l, struct bh_owner owner)
{
    struct bh_locks *t = bh_store_locks(l->store);
    struct bh_lockset *set = &bh_store_db(l->store)->locks;
    struct bh_lock_summary sum = bh_locks_summary(t, set);
    if (!sum.client_exclusive || !bh_owner_equal(sum.exclusive_owner, owner) ||
        !bh_store_undo_pending(l->store))
        return false;
    bh_locks_transfer(t, set, owner, undo_owner);
    int rc = bh_sql_post(l->sql, BH_SQL_URGENT, undo_job, l, undo_done);
    if (rc)
        bh_log(BH_LOG_ERROR, "a dead client's transaction will be undone by the next mount: %s",
               strerror(rc));
    return true;
}

void bh_live_clients_gone(struct bh_live *l)
{
    struct bh_locks *t = bh_store_locks(l->store);
    struct bh_lockset *set = &bh_store_db(l->store)->locks;
    struct bh_lock_summary sum = bh_locks_summary(t, set);
    struct bh_error err;
    if (sum.client_exclusive && bh_store_undo_pending(l->store)) {
        bh_locks_transfer(t, set, sum.exclusive_owner, undo_owner);
        if (bh_sql_run(l->sql, BH_SQL_URGENT, undo_job, l, &err))
            bh_log(BH_LOG_ERROR, "%s", err.text);
    }
    bh_locks_drop_clients(t, set);
}

/* --- replacing the content --- */

struct replace_job {
    struct bh_live *live;
    const char *incoming;
    const struct bh_base *base;
};

static uint32_t get32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v >> 24);
    p[1] = (unsigned char)(v >> 16);
    p[2] = (unsigned char)(v >> 8);
    p[3] = (unsigned char)v;
}

static uint32_t max3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t m = a > b ? a : b;
    return m > c ? m : c;
}

/* Gives the new page 1 a change counter and a schema cookie that no client has seen with other
 * content: a client that remembers the same pair would go on with the schema it knows, in the wrong
 * tables. */
static int outrun_counters(struct bh_live *l, struct bh_dfile *f)
{
    enum { COUNTER = 24, COOKIE = 40, VALID_FOR = 92 };
    unsigned char old[100] = {0}, new[100] = {0};
    struct bh_state *st = &l->dir.state;
    int rc = bh_file_read(bh_store_db(l->store), old, sizeof old, 0, NULL);
    if (rc == 0)
        rc = bh_pread_full(f->fd, new, sizeof new, 0, NULL);
    st->max_counter = max3(st->max_counter, get32(old + COUNTER), 0);
    st->max_cookie = max3(st->max_cookie, get32(old + COOKIE), 0);
    if (rc || (st->max_counter == 0 && st->max_cookie == 0)) /* nothing was ever shown */
        return rc;
    st->max_counter = max3(st->max_counter, get32(new + COUNTER), 0) + 1;
    st->max_cookie = max3(st->max_cookie, get32(new + COOKIE), 0) + 1;
    put32(new + COUNTER, st->max_counter);
    put32(new + VALID_FOR, st->max_counter);
    put32(new + COOKIE, st->max_cookie);
    rc = bh_dfile_write(f, new, sizeof new, 0);
    return rc ? rc : bh_dfile_sync(f);
}

#define INCOMING_MAP "incoming.map"

/* What takes time, before clients are kept waiting: the new content and its map are durable when it
 * returns. */
static int prepare_generation(struct replace_job *j, struct bh_error *err)
{
    struct bh_disk *disk = j->live->dir.disk;
    struct bh_dfile f;
    struct bh_map map;
    struct stat st;
    int rc = bh_disk_open_file(disk, j->incoming, O_RDWR, 0, &f);
    if (rc)
        return bh_fail(err, rc, "%s cannot be opened: %s", j->incoming, strerror(rc));
    if (fchmod(f.fd, 0644) != 0 || fstat(f.fd, &st) != 0)
        rc = errno;
    if (rc == 0)
        rc = bh_dfile_sync(&f);
    bh_dfile_close(&f);
    if (rc == 0 && (rc = bh_map_open(&map, disk, INCOMING_MAP, true, err)) == 0) {
        uint64_t blocks = ((uint64_t)st.st_size + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
        rc = bh_map_set(&map, 0, blocks, j->base->is_base ? BH_BLOCK_CLEAN : BH_BLOCK_DIRTY);
        if (rc == 0)
            rc = bh_dfile_sync(&map.file);
        bh_map_close(&map);
    }
    return rc ? bh_fail(err, rc, "the new content cannot be stored in %s: %s", bh_disk_path(disk),
                        strerror(rc))
              : 0;
}

static int name_generation(struct replace_job *j, uint64_t generation, struct bh_error *err)
{
    struct bh_disk *disk = j->live->dir.disk;
    char db[32], map[32];
    struct bh_dfile f;
    snprintf(db, sizeof db, "db.%" PRIu64, generation);
    snprintf(map, sizeof map, "map.%" PRIu64, generation);
    int rc = bh_disk_open_file(disk, j->incoming, O_RDWR, 0, &f);
    if (rc == 0) {
        rc = outrun_counters(j->live, &f);
        bh_dfile_close(&f);
    }
    if (rc == 0)
        rc = bh_disk_rename(disk, j->incoming, db);
    if (rc == 0)
        rc = bh_disk_rename(disk, INCOMING_MAP, map);
    if (rc == 0)
        rc = bh_disk_sync_names(disk);
    return rc ? bh_fail(err, rc, "the new content cannot be stored in %s: %s", bh_disk_path(disk),
                        strerror(rc))
              : 0;
}

static void set_base(struct bh_state *st, const struct bh_base *b)
{
    if (!b->is_base)
        return;
    memcpy(st->base_etag, b->etag, sizeof st->base_etag);
    memcpy(st->base_snapshot, b->snapshot, sizeof st->base_snapshot);
    memcpy(st->base_sha256, b->sha256, sizeof st->base_sha256);
    st->base_size = b->size;
    st->base_time_ms = b->time_ms;
    st->pending_snapshot[0] = st->pending_sha256[0] = '\0';
}

/* A PERSIST journal's remains must not be taken for one of the new content's. */
static int clear_journal(struct bh_live *l)
{
    struct bh_file *j;
    if (bh_store_lookup(l->store, BH_JOURNAL_NAME, &j))
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
    struct bh_state before = l->dir.state;
    (void)db;
    int rc = clear_journal(l);
    if (rc)
        return bh_fail(err, rc, "the old journal cannot be emptied: %s", strerror(rc));
    rc = name_generation(j, before.generation + 1, err);
    if (rc == 0) {
        l->dir.state.generation = before.generation + 1;
        set_base(&l->dir.state, j->base);
        rc = bh_statedir_save(&l->dir, err);
    }
    if (rc) {
        l->dir.state = before; /* strings in it are shared, and unchanged */
        return rc;
    }
    rc = bh_store_swap(l->store, l->dir.state.generation, err);
    tell_data(l, 0, UINT64_MAX);
    return rc;
}

int bh_live_replace(struct bh_live *l, const char *incoming, const struct bh_base *base,
                    struct bh_error *err)
{
    struct replace_job j = {.live = l, .incoming = incoming, .base = base};
    int rc = prepare_generation(&j, err);
    return rc ? rc : bh_sql_run(l->sql, BH_SQL_SWAP, replace_job, &j, err);
}
