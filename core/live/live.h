/* The live database of one branch: state directory, byte store, lock table, SQLite VFS and SQL
 * thread together. */
#ifndef BH_LIVE_LIVE_H
#define BH_LIVE_LIVE_H

#include "live/sql.h"
#include "live/statedir.h"
#include "live/store.h"
#include "live/vfs.h"

struct bh_config;

#define BH_NAMES_NAME "names.db" /* how sentences call it; its file is called like any store's */

struct bh_live {
    struct bh_statedir dir;
    struct bh_store *store;
    struct bh_vfs *vfs;
    struct bh_sql *sql;
    struct bh_live_hooks hooks;
    struct bh_disk *names_disk; /* STATE/names/ */
    struct bh_store *names;     /* names.db */
    struct bh_vfs *names_vfs;
    bool new_is_wal;    /* the journal mode of a new database */
    uint64_t wal_limit; /* bytes of -wal that make the daemon checkpoint; 0: it does not */
    atomic_uint_fast64_t wal_tried; /* a reader that keeps -wal from being emptied will do so for a
                                     * while: the next try is when it is larger than this */
    atomic_uint_fast64_t undone;    /* dead clients' half-made transactions that were undone */
};

/* Opens (or makes) the state directory and everything on it, and recovers: a journal-less client's
 * half-made commit is put back, a hot journal is rolled back. What cannot be recovered (a
 * super-journal that cannot be looked up) is logged, and SQL and flushes are refused with the
 * reason until a client recovers it. mountpoint: where clients will see the database, NULL if
 * nowhere. */
int bh_live_open(struct bh_live **out, const struct bh_config *cfg, const char *mountpoint,
                 struct bh_error *err);
/* The rollback of a hot journal, put off by bh_live_open where content may be in the bucket only:
 * once the origin is set. */
void bh_live_recover(struct bh_live *l);
/* No connection of bh_vfs_connect or bh_live_names_connect may be open. */
void bh_live_close(struct bh_live *l);

/* The mount's ears; before clients come. */
void bh_live_set_hooks(struct bh_live *l, const struct bh_live_hooks *hooks);

/* Nothing was ever loaded, flushed or written here. */
bool bh_live_is_fresh(struct bh_live *l);

/* Freezes the content under a read lock. EBUSY: a client's transaction did not end in time. */
int bh_live_freeze(struct bh_live *l, bool patient, struct bh_frozen **out, struct bh_error *err);
/* The same in two steps: the freeze, after which the content may change; and what must follow it,
 * which takes longer. If that fails the freeze is still to be ended. */
int bh_live_freeze_now(struct bh_live *l, bool patient, struct bh_frozen **out,
                       struct bh_error *err);
int bh_live_freeze_settle(struct bh_live *l, struct bh_frozen *frozen, struct bh_error *err);

/* Bytes of both databases that are not flushed. */
uint64_t bh_live_dirty_bytes(struct bh_live *l);

/* What names.db becomes. */
struct bh_names_base {
    struct bh_origin *origin; /* of its content, which is in the bucket; NULL: it becomes empty */
    uint64_t size;
    char root[65]; /* in the history; "" it has no base there */
    uint32_t depth;
};

/* What the new content of bh_live_replace is. */
struct bh_base {
    bool is_base; /* as in the bucket, so clean; false: a change to be flushed, and nothing else
                   * of this struct counts */
    char etag[128];
    char snapshot[BH_SNAPSHOT_ID_MAX];
    char sha256[BH_SHA256_HEX];
    uint64_t size;
    int64_t time_ms;
    char root[65]; /* in the history; "" it is not there */
    uint32_t depth;
    char branch[128];                  /* "" as before */
    char restored[BH_SNAPSHOT_ID_MAX]; /* an older snapshot is put back: this one */
    const struct bh_names_base *names; /* names.db becomes that in the same moment; NULL: it stays.
                                        * Counts also where is_base is false */
};

/* Replaces the content by the file `incoming` (a name in the state directory, checked with
 * bh_database_check; it is consumed), as one transaction of somebody else in the eyes of every
 * client. Not on the SQL thread. */
int bh_live_replace(struct bh_live *l, const char *incoming, const struct bh_base *base,
                    struct bh_error *err);

/* What clients committed after the content was flushed, and before they were kept out: to be saved
 * now, or it is lost. Called on the SQL thread while every client waits: to be brief.
 * bh_live_freeze works. May change the base that the new content gets. An errno, with *err filled:
 * nothing is replaced. */
typedef int bh_live_save_fn(void *arg, struct bh_base *base, struct bh_error *err);

/* The same with content that stays where it is until it is read: `size` bytes of the origin, of
 * which one unit is fetched. base->is_base. O(1) but for the block map. save (may be NULL: what is
 * there may go) is called if what is there is not all flushed. */
int bh_live_replace_lazily(struct bh_live *l, struct bh_origin *origin, uint64_t size,
                           const struct bh_base *base, bh_live_save_fn *save, void *arg,
                           struct bh_error *err);

/* Another snapshot of the same history, most of which is as in the present one. */
struct bh_step {
    struct bh_origin *origin;
    uint64_t size;
    uint32_t block_size;
    const uint64_t *blocks; /* of block_size bytes, that differ: ascending, none twice */
    size_t count;
    unsigned char first[BH_SUBBLOCK]; /* its beginning */
};
/* The content becomes that of `step`, in place, as one transaction of somebody else: what differs
 * is absent then, all else stays as it is here. base->is_base. The present content has no changes
 * of its own, a base in the history, and is in rollback format. patience_ms: how long transactions
 * of clients are waited for; EBUSY: the sentence names the client. Not on the SQL thread. */
int bh_live_step(struct bh_live *l, const struct bh_step *step, const struct bh_base *base,
                 int64_t patience_ms, struct bh_error *err);
/* At the start, once the origin is set and before anything reads: after steps that no orderly end
 * followed (state.stepped) the file gets the size of its base. trusted: the machine did not go down
 * since; else everything is absent, as steps sync nothing but the state. */
int bh_live_end_steps(struct bh_live *l, bool trusted, struct bh_error *err);

/* Once after the content of the start is there: a new, empty database gets its journal mode; one
 * that is mounted read-only leaves write-ahead mode, as nobody could make -shm. */
int bh_live_settle_mode(struct bh_live *l, bool read_only, struct bh_error *err);

/* A client wrote to -wal up to byte `size`: it is checkpointed soon if that is too much. Any
 * thread, returns at once. */
void bh_live_wal_grew(struct bh_live *l, uint64_t size);
/* The last client that had the wal-index open may be gone. Not on a loop thread or the SQL thread.
 */
void bh_live_detach(struct bh_live *l, struct bh_file *shm);

/* A client died (or closed) in mid-commit, with a hot journal or without any: its locks on the
 * database are kept by the daemon until the old content is back. Called on a FUSE loop thread:
 * returns at once. False: nothing to undo, the caller drops the locks as usual. */
bool bh_live_owner_died(struct bh_live *l, struct bh_owner owner);

/* The mount is gone: its clients' locks go, and what one of them left half-made without a journal
 * is undone. A hot journal is rolled back by the next transaction. */
void bh_live_clients_gone(struct bh_live *l);

/* --- names.db, the file store's database (names.c) ---
 * In a directory of its own, with no door but these connections. A replacement of the live
 * database may replace it, too. */

/* A connection, ready to use, for one thread at a time; closed with sqlite3_close. The first one
 * after a crash rolls back what was half written. It waits for others for 10 s (SQLITE_BUSY).
 * Those that were made before a replacement of names.db see the new content in their next
 * transaction; one that is open then holds the replacement up. EIO; ETIMEDOUT: a part of the schema
 * is in the bucket only, which does not answer. Any thread. */
int bh_live_names_connect(struct bh_live *l, sqlite3 **db, struct bh_error *err);
/* Freezes names.db, which nobody changes meanwhile. Read and ended like that of bh_live_freeze. */
int bh_live_names_freeze(struct bh_live *l, struct bh_frozen **out, struct bh_error *err);
/* Replaces names.db alone: what is there may go. Not beside another replacement. */
int bh_live_names_replace(struct bh_live *l, const struct bh_names_base *to, struct bh_error *err);

/* --- database files beside the live one (check.c) --- */

/* Checks a database file that nobody has open: header, size, integrity_check; a header that says
 * WAL is changed to say rollback journal. EIO: damaged, the sentence says how. what: names it in
 * the sentence. */
int bh_database_check(const char *path, const char *what, struct bh_error *err);

/* Copies the database at `from` as one consistent snapshot to the new file `to` (SQLite's backup:
 * WAL and hot journals of `from` are honoured). */
int bh_database_copy(const char *from, const char *to, struct bh_error *err);

#endif
