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
#include "live/replace.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"
#include "util/log.h"

/* Who holds a dead client's locks while its writes are put back. */
static const struct bh_owner undo_owner = {.id = UINT64_MAX, .internal = true};

/* --- opening --- */

void live_tell_data(struct bh_live *l, uint64_t offset, uint64_t len)
{
    if (l->hooks.data_changed)
        l->hooks.data_changed(l->hooks.arg, bh_store_db(l->store), offset, len);
}

static void undone(void *arg, uint64_t offset, uint64_t len)
{
    live_tell_data(arg, offset, len);
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

void bh_live_recover(struct bh_live *l)
{
    struct bh_error err;
    bool hot = bh_store_has_hot_journal(l->store);
    if (!hot && bh_store_absent_bytes(l->store) > 0)
        return; /* a look may have to wait for the bucket, for nothing */
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
    /* A flush whose end is not known may be the base, and have more of the log than the tag says.
     */
    rc = bh_store_set_flushed_wal(l->store, st->pending_snapshot[0] ? "" : st->base_wal);
    if (rc)
        return bh_fail(err, rc,
                       "%s/" BH_WAL_NAME " cannot be read, or the block map not written: %s",
                       l->dir.path, strerror(rc));
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
    /* With a rollback journal, while clients do not use WAL. */
    static const char *const modes[] = {"DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "DELETE"};
    char journal[64];
    snprintf(journal, sizeof journal, "PRAGMA journal_mode=%s", modes[cfg->live.journal]);
    /* EXTRA: the journal's deletion is the commit, and is durable too. */
    return bh_sql_start(
        &l->sql, l->vfs, l->store,
        "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2000; PRAGMA synchronous=EXTRA", journal,
        cfg->live.busy_timeout_ms, cfg->live.window_ms, err);
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
    l->new_is_wal = cfg->live.journal == BH_JOURNAL_WAL;
    l->wal_limit = cfg->live.wal_limit;
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
        rc = live_names_open(l, cfg, err);
    if (rc == 0)
        rc = play_undo(l, err);
    if (rc == 0)
        rc = start_sql(l, cfg, err);
    if (rc) {
        bh_live_close(l);
        return rc;
    }
    if (!l->dir.state.base_root[0])
        bh_live_recover(l);
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
    live_names_close(l);
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
    const struct bh_state *st = &l->dir.state;
    return !st->base_etag[0] && !st->base_snapshot[0] && bh_live_dirty_bytes(l) == 0;
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

/* Without a lock where that will do. */
static int freeze_any_way(struct bh_live *l, struct bh_frozen *frozen, struct bh_error *err)
{
    int64_t begin = bh_mono_ns();
    bool changed;
    int rc = bh_store_freeze_wal(frozen);
    if (rc == EAGAIN && bh_sql_in_swap(l->sql, &changed)) /* under more than SHARED */
        rc = bh_store_freeze(frozen);
    if (rc == EAGAIN)
        return bh_sql_run(l->sql, BH_SQL_READ, freeze_job, (void *[]){l, frozen}, err);
    bh_store_note_freeze(l->store, bh_mono_ns() - begin);
    return rc ? bh_fail(err, rc, "the live database cannot be frozen for a flush: %s", strerror(rc))
              : 0;
}

int bh_live_freeze_now(struct bh_live *l, bool patient, struct bh_frozen **out,
                       struct bh_error *err)
{
    struct bh_frozen *frozen;
    int rc = bh_store_freeze_prepare(l->store, patient, &frozen);
    if (rc)
        return bh_fail(err, rc, "%s cannot take what a flush must keep aside: %s", l->dir.path,
                       strerror(rc));
    rc = freeze_any_way(l, frozen, err);
    if (rc)
        bh_store_thaw(frozen, false);
    else
        *out = frozen;
    return rc;
}

int bh_live_freeze_settle(struct bh_live *l, struct bh_frozen *frozen, struct bh_error *err)
{
    /* EAGAIN: a truncation broke it; whoever reads it finds that out, and begins anew. */
    int rc = bh_frozen_find_frames(frozen);
    if (rc && rc != EAGAIN)
        return bh_fail(err, rc, "%s/" BH_WAL_NAME " cannot be read: %s", l->dir.path, strerror(rc));
    rc = bh_store_sync(l->store);
    if (rc == 0)
        rc = bh_store_sync(l->names);
    return rc ? bh_fail(err, rc, "%s cannot be synced: %s", l->dir.path, strerror(rc)) : 0;
}

int bh_live_freeze(struct bh_live *l, bool patient, struct bh_frozen **out, struct bh_error *err)
{
    struct bh_frozen *frozen = NULL;
    int rc = bh_live_freeze_now(l, patient, &frozen, err);
    if (rc)
        return rc;
    rc = bh_live_freeze_settle(l, frozen, err);
    if (rc)
        bh_store_thaw(frozen, false);
    else
        *out = frozen;
    return rc;
}

/* --- a client's death in mid-commit --- */

/* Its owner never had EXCLUSIVE: nothing was written to the database since the journal was begun.
 */
static int empty_journal(struct bh_live *l, struct bh_error *err)
{
    struct bh_file *journal;
    if (bh_store_lookup(l->store, BH_JOURNAL_NAME, &journal) != 0)
        return 0;
    int rc = bh_file_truncate(journal, BH_DOOR_INTERNAL, 0);
    if (rc == 0)
        rc = bh_file_sync(journal);
    if (l->hooks.data_changed)
        l->hooks.data_changed(l->hooks.arg, journal, 0, 0);
    bh_file_unref(journal);
    return rc ? bh_fail(err, rc, "the journal of a dead client cannot be emptied: %s", strerror(rc))
              : 0;
}

/* SQLite leaves a hot journal to whoever comes next, but a client with journal_mode=OFF does not
 * look at it, writes over what it protects, and the rollback by the one after that mixes the two:
 * nobody comes before the daemon. */
static int roll_back(struct bh_live *l, struct bh_error *err)
{
    struct bh_locks *t = bh_store_locks(l->store);
    if (!bh_store_has_hot_journal(l->store)) /* the only way back */
        return 0;
    int rc = bh_locks_owns(t, &bh_store_db(l->store)->locks, undo_owner, BH_SHARED_FIRST)
                 ? bh_sql_recover(l->sql, undo_owner, err)
                 : empty_journal(l, err);
    if (rc == 0)
        bh_log(BH_LOG_INFO, "a client died in mid-commit: its transaction was rolled back");
    return rc;
}

static int undo_job(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct bh_live *l = arg;
    (void)db;
    int rc = play_undo(l, err);
    live_tell_data(l, 0, 0);
    if (rc) /* its EXCLUSIVE stays: nobody may read a torn database */
        return rc;
    rc = roll_back(l, err); /* if that fails, the journal stays for the next one */
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
    bool exclusive = bh_locks_owns(t, set, owner, BH_SHARED_FIRST);
    if (!exclusive && !bh_locks_owns(t, set, owner, BH_RESERVED_BYTE))
        return false;
    if (!bh_store_has_hot_journal(l->store) && !(exclusive && bh_store_undo_pending(l->store)))
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
    struct bh_file *shm;
    if (bh_store_lookup(l->store, BH_SHM_NAME, &shm))
        return;
    bh_locks_drop_clients(t, &shm->locks);
    bh_shm_detach(shm->shm, &l->hooks);
    bh_file_unref(shm);
}

/* --- write-ahead mode --- */

void bh_live_wal_grew(struct bh_live *l, uint64_t size)
{
    if (size <= l->wal_limit || l->wal_limit == 0) {
        l->wal_tried = 0;
    } else if (size > l->wal_tried) {
        l->wal_tried = size + l->wal_limit / 4;
        bh_sql_post_checkpoint(l->sql, l->wal_limit);
    }
}

void bh_live_detach(struct bh_live *l, struct bh_file *shm)
{
    bh_shm_detach(shm->shm, &l->hooks);
}
