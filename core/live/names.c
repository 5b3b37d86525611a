/* names.db: the file store's database, on a byte store and a VFS of its own in STATE/names/ (whose
 * files have the names that every byte store's have). Only the daemon opens it. It is replaced
 * together with the live database: the state names the generations of both. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "config/config.h"
#include "live/replace.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/io.h"

#define DIRECTORY "names"
#define TITLE     BH_NAMES_NAME
/* How long a connection waits for another one; how long a swap does. */
#define BUSY_MS 10000
#define SWAP_MS 2000

/* --- opening --- */

int live_names_open(struct bh_live *l, const struct bh_config *cfg, struct bh_error *err)
{
    struct bh_state *st = &l->dir.state;
    int rc = bh_statedir_open_disk(&l->dir, cfg, DIRECTORY, 1, &l->names_disk, err);
    if (rc == 0 && st->names_generation == 0) {
        rc = bh_store_make_generation(l->names_disk, 1, err);
        if (rc == 0) {
            st->names_generation = 1;
            rc = bh_statedir_save(&l->dir, err);
        }
    }
    if (rc == 0)
        rc = bh_store_open(&l->names, l->names_disk, st->names_generation, err);
    if (rc)
        return rc;
    bh_store_set_title(l->names, TITLE);
    return bh_vfs_register(&l->names_vfs, l->names, "", err);
}

void live_names_close(struct bh_live *l)
{
    bh_vfs_unregister(l->names_vfs);
    bh_store_close(l->names);
    bh_disk_close(l->names_disk);
    l->names_vfs = NULL;
    l->names = NULL;
    l->names_disk = NULL;
}

int bh_live_names_connect(struct bh_live *l, sqlite3 **db, struct bh_error *err)
{
    char why[BH_ERROR_TEXT_MAX];
    int rc = bh_vfs_connect(l->names_vfs, true, db, err);
    if (rc)
        return bh_fail_prefix(err, rc, TITLE);
    sqlite3_busy_timeout(*db, BUSY_MS);
    if (sqlite3_exec(*db,
                     "PRAGMA journal_mode=TRUNCATE; PRAGMA synchronous=FULL; "
                     "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2000; "
                     "SELECT 1 FROM sqlite_master LIMIT 1",
                     NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    rc = bh_sqlite_fail(*db, err, TITLE " cannot be opened");
    if (bh_vfs_take_reason(l->names_vfs, why))
        bh_fail(err, rc, TITLE " cannot be opened: %s", why);
    sqlite3_close(*db);
    *db = NULL;
    return rc;
}

/* What a crash left half written is put back: it must not be laid over other content, nor be
 * frozen. */
static int settle(struct bh_live *l, struct bh_error *err)
{
    sqlite3 *db;
    if (!bh_store_has_hot_journal(l->names))
        return 0;
    int rc = bh_live_names_connect(l, &db, err);
    if (rc == 0)
        sqlite3_close(db);
    return rc;
}

uint64_t bh_live_dirty_bytes(struct bh_live *l)
{
    return bh_store_dirty_bytes(l->store) + bh_store_dirty_bytes(l->names);
}

/* --- freeze --- */

int bh_live_names_freeze(struct bh_live *l, struct bh_frozen **out, struct bh_error *err)
{
    struct bh_frozen *z;
    int rc = settle(l, err);
    if (rc)
        return rc;
    rc = bh_store_freeze_prepare(l->names, true, &z);
    if (rc == 0 && (rc = bh_store_freeze(z)) != 0)
        bh_store_thaw(z, false);
    if (rc)
        return bh_fail(err, rc, TITLE " cannot be frozen for a flush: %s", strerror(rc));
    *out = z;
    return 0;
}

/* --- other content --- */

#define INCOMING "incoming.lazy"

static const struct bh_owner swap_owner = {.id = UINT64_MAX - 1, .internal = true};

int live_names_prepare(struct bh_live *l, const struct bh_base *base, struct bh_error *err)
{
    const struct bh_names_base *to = base->names;
    if (!to)
        return 0;
    int rc = settle(l, err);
    if (rc == 0)
        rc = live_make_sparse(l->names_disk, INCOMING, to->origin, to->size, err);
    if (rc == 0)
        rc = live_make_map(l->names_disk, LIVE_INCOMING_MAP, to->size, BH_BLOCK_ABSENT, err);
    return rc;
}

static void unlock(struct bh_live *l)
{
    bh_locks_drop_owner(bh_store_locks(l->names), &bh_store_db(l->names)->locks, swap_owner);
}

/* Nobody reads it meanwhile. As SQLite does it: a writer ends first, then nobody new comes in, then
 * those inside leave; or readers that take turns would never let it happen. */
static int lock(struct bh_live *l, struct bh_error *err)
{
    static const struct {
        uint64_t first, last;
    } steps[] = {{BH_RESERVED_BYTE, BH_RESERVED_BYTE},
                 {BH_PENDING_BYTE, BH_PENDING_BYTE},
                 {BH_SHARED_FIRST, BH_SHARED_FIRST + BH_SHARED_SIZE - 1}};
    int64_t end = bh_mono_ms() + SWAP_MS;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof steps / sizeof *steps; i++) {
        struct bh_lock_request r = {.set = &bh_store_db(l->names)->locks,
                                    .owner = swap_owner,
                                    .brief = true,
                                    .type = BH_LOCK_WRITE,
                                    .start = steps[i].first,
                                    .end = steps[i].last};
        while ((rc = bh_locks_request(bh_store_locks(l->names), &r)) == EAGAIN &&
               bh_mono_ms() < end)
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    if (rc == 0)
        return 0;
    unlock(l);
    rc = rc == EAGAIN ? EBUSY : rc;
    return bh_fail(err, rc, TITLE " cannot be locked: %s", strerror(rc));
}

static uint32_t above(const unsigned char *a, const unsigned char *b)
{
    uint32_t x = bh_get_be32(a), y = bh_get_be32(b);
    return (x > y ? x : y) + 1;
}

/* A connection that knows the old content must see that this is another one: as
 * live_outrun_counters, but nobody remembers more than what is there now. */
static int outrun_counters(struct bh_live *l, struct bh_dfile *f)
{
    enum { COUNTER = 24, COOKIE = 40, VALID_FOR = 92 }; /* SQLite file format: "database header" */
    unsigned char old[LIVE_HEADER] = {0}, new[LIVE_HEADER] = {0};
    size_t had, got = 0;
    int rc = bh_file_read(bh_store_db(l->names), old, sizeof old, 0, &had);
    if (rc == 0)
        rc = bh_pread_full(f->fd, new, sizeof new, 0, &got);
    if (rc || had < sizeof old || got < sizeof new)
        return rc;
    bh_put_be32(new + COUNTER, above(old + COUNTER, new + COUNTER));
    bh_put_be32(new + COOKIE, above(old + COOKIE, new + COOKIE));
    memcpy(new + VALID_FOR, new + COUNTER, 4);
    rc = bh_dfile_write(f, new, sizeof new, 0);
    return rc ? rc : bh_dfile_sync(f);
}

/* The rest of a journal must not be taken for one of the new content's. */
static int clear_journal(struct bh_live *l)
{
    struct bh_file *j;
    if (bh_store_lookup(l->names, BH_JOURNAL_NAME, &j) != 0)
        return 0;
    int rc = j->has_magic ? EBUSY : bh_file_truncate(j, BH_DOOR_INTERNAL, 0);
    if (rc == 0)
        rc = bh_file_sync(j);
    bh_file_unref(j);
    return rc;
}

int live_names_ready(struct bh_live *l, const struct bh_base *base, struct live_names_swap *s,
                     struct bh_error *err)
{
    struct bh_state *st = &l->dir.state;
    *s = (struct live_names_swap){.to = base->names};
    if (!s->to)
        return 0;
    int rc = lock(l, err);
    if (rc)
        return rc;
    s->locked = true;
    if ((rc = clear_journal(l)) != 0)
        return bh_fail(err, rc, "the old journal of " TITLE " cannot be emptied: %s", strerror(rc));
    rc = live_name_generation(l, l->names_disk, INCOMING, st->names_generation + 1, outrun_counters,
                              err);
    if (rc == 0)
        rc = bh_store_swap_prepare(l->names, st->names_generation + 1, &s->next, err);
    if (rc)
        return rc;
    st->names_generation++;
    st->names_size = s->to->size;
    st->names_depth = s->to->depth;
    memcpy(st->names_root, s->to->root, sizeof st->names_root);
    return 0;
}

int live_names_end(struct bh_live *l, struct live_names_swap *s, bool commit, struct bh_error *err)
{
    int rc = 0;
    if (commit && s->next)
        rc = bh_store_swap_commit(l->names, s->next, s->to->origin, err);
    else
        bh_store_swap_drop(s->next);
    s->next = NULL;
    if (s->locked)
        unlock(l);
    s->locked = false;
    return rc;
}

int bh_live_names_replace(struct bh_live *l, const struct bh_names_base *to, struct bh_error *err)
{
    struct bh_base base = {.names = to};
    struct bh_state before = l->dir.state;
    struct live_names_swap swap;
    int rc = live_names_prepare(l, &base, err);
    if (rc)
        return rc;
    rc = live_names_ready(l, &base, &swap, err);
    if (rc == 0)
        rc = bh_statedir_save(&l->dir, err);
    if (rc)
        l->dir.state = before; /* strings in it are shared, and unchanged */
    int ended = live_names_end(l, &swap, rc == 0, err);
    return rc ? rc : ended;
}
