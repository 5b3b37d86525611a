/* The byte store: the live database's file and its side files, with the block map, the freeze that
 * a flush reads from, and the undo log for clients without a journal. Both doors (FUSE handlers and
 * our SQLite VFS) end here.
 *
 * Any thread may call; every call is short (memory, page cache) but for bh_store_sync. Functions
 * return 0 or errno.
 *
 * The files in the state directory: db.G and map.G for generation G (a swap of the whole content
 * makes G + 1), side files under their own names, "undo". */
#ifndef BH_LIVE_STORE_H
#define BH_LIVE_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "live/disk.h"
#include "live/locks.h"
#include "live/map.h"
#include "live/origin.h"

#define BH_DB_NAME      "live.db"
#define BH_JOURNAL_NAME "live.db-journal"
#define BH_WAL_NAME     "live.db-wal"
#define BH_SHM_NAME     "live.db-shm"

enum bh_file_kind {
    BH_FILE_DB,
    BH_FILE_JOURNAL,
    BH_FILE_SUPER, /* live.db-mjXXXXXXXXX, of a transaction over several databases */
    BH_FILE_WAL,
    BH_FILE_SHM,   /* in memory only: never in the state directory */
    BH_FILE_OTHER, /* no name of ours: refused */
};
/* What a name in the database's directory is. */
enum bh_file_kind bh_file_kind_of(const char *name);

struct bh_store;
struct bh_shm;

enum bh_door { BH_DOOR_CLIENT, BH_DOOR_INTERNAL };

/* A file of the tree. Counted: it lives on without a name while somebody refers to it. */
struct bh_file {
    struct bh_store *store;
    enum bh_file_kind kind;
    char name[32];
    struct bh_dfile disk;
    struct bh_lockset locks;
    atomic_bool linked; /* has its name in the tree */
    atomic_bool
        has_magic;      /* a journal that begins as one: there is a transaction to roll back from */
    atomic_bool inner;  /* made through the inner door, unknown to the mount so far */
    atomic_bool synced; /* synced since the mount's last look, which clears it */
    atomic_uint refs;
    struct bh_shm *shm; /* BH_FILE_SHM only: the index behind it */
    void *door;         /* of the mount: its node for this file */
    uint64_t told_size; /* of the mount: the size that the kernel was made to know last */
    struct bh_file *next;
};

/* Opens generation `generation`, whose files must exist, and the side files that are there; removes
 * leftovers of other generations and of interrupted work. */
int bh_store_open(struct bh_store **out, struct bh_disk *disk, uint64_t generation,
                  struct bh_error *err);
void bh_store_close(struct bh_store *s);
/* Makes the two files of an empty generation (create them before the state names it). */
int bh_store_make_generation(struct bh_disk *disk, uint64_t generation, struct bh_error *err);

/* How sentences call the database; a literal. "live.db" unless said otherwise. */
void bh_store_set_title(struct bh_store *s, const char *title);

struct bh_locks *bh_store_locks(struct bh_store *s);
struct bh_disk *bh_store_disk(struct bh_store *s);
struct bh_file *bh_store_db(struct bh_store *s); /* not counted: lives as long as the store */

/* A new reference in *out. lookup: ENOENT. create: EEXIST, EPERM for a name that is not ours. */
int bh_store_lookup(struct bh_store *s, const char *name, struct bh_file **out);
/* The same for the mount: the file counts as known to it from then on. */
int bh_store_lookup_outside(struct bh_store *s, const char *name, struct bh_file **out);
int bh_store_create(struct bh_store *s, enum bh_door door, const char *name, unsigned mode,
                    struct bh_file **out);
void bh_file_ref(struct bh_file *f);
void bh_file_unref(struct bh_file *f);
/* Whether there is a transaction to roll back from. */
bool bh_store_has_hot_journal(struct bh_store *s);
/* Whether a client may remove that file now: -wal and -shm only while one of them has the database
 * EXCLUSIVE, as SQLite does it, or while they hold nothing and nobody has locks. */
bool bh_store_may_unlink(struct bh_store *s, enum bh_file_kind kind);
/* EPERM for the database itself, ENOENT. */
int bh_store_unlink(struct bh_store *s, const char *name);
/* The same, durable when it returns: a power cut brings no hot journal back. May sleep. */
int bh_store_unlink_durably(struct bh_store *s, const char *name);
/* Calls fn for each file of the tree, the database first; a non-zero result ends it. */
int bh_store_each(struct bh_store *s, int (*fn)(void *arg, struct bh_file *f), void *arg);

/* got (may be NULL): less than len at the end. What is absent is fetched first: see
 * bh_file_is_absent. */
int bh_file_read_why(struct bh_file *f, void *buf, size_t len, uint64_t offset, size_t *got,
                     struct bh_error *err);
/* The same where nobody hears a sentence: it is logged. */
int bh_file_read(struct bh_file *f, void *buf, size_t len, uint64_t offset, size_t *got);
/* What can be read without waiting for a disk or the bucket (memory: for a disk will do). EAGAIN.
 */
int bh_file_read_at_once(struct bh_file *f, void *buf, size_t len, uint64_t offset, bool memory,
                         size_t *got);
/* ENOSPC also when a client without a journal writes and the old content cannot be kept. */
int bh_file_write(struct bh_file *f, enum bh_door door, const void *buf, size_t len,
                  uint64_t offset);
int bh_file_truncate(struct bh_file *f, enum bh_door door, uint64_t size);
/* Database and -wal: a state that is in the bucket must not be ahead of the one here after a power
 * cut. */
int bh_store_sync(struct bh_store *s);
/* Durable when it returns: may sleep. For the database: the block map before the data. */
int bh_file_sync(struct bh_file *f);
int bh_file_stat(struct bh_file *f, struct stat *st);
uint64_t bh_file_size(struct bh_file *f);
/* fsync of the directory: names are durable when it returns. */
int bh_store_sync_names(struct bh_store *s);

/* --- write-ahead mode --- */
/* The database's header says WAL, or there is a -wal that is not empty, and no rollback is pending:
 * what counts is the file and, over it, what is committed in -wal, at any moment. */
bool bh_store_is_wal(struct bh_store *s);
/* Size of -wal in bytes, 0 if there is none. */
uint64_t bh_store_wal_size(struct bh_store *s);
/* What is committed in -wal up to the one with that tag (bh_wal_map) is in the base: to be said
 * once after the start, also if there is no tag. Reads all of -wal. */
int bh_store_set_flushed_wal(struct bh_store *s, const char *tag);
/* The -shm file, made if it is not there: a reference in *out. */
int bh_store_shm(struct bh_store *s, struct bh_file **out);

/* --- changes since the base (what is committed in -wal counts) --- */
uint64_t bh_store_dirty_bytes(struct bh_store *s);
bool bh_store_is_dirty(struct bh_store *s);
/* All blocks of the database, such as BH_BLOCK_DIRTY when the base is gone. EBUSY: some are absent.
 */
int bh_store_mark_all(struct bh_store *s, enum bh_block_state state);
/* What is dirty is as in the base after all. */
int bh_store_make_clean(struct bh_store *s);

/* --- content that is in the bucket only --- */
/* Where absent content comes from, from now on. Takes a reference; NULL: from nowhere. Whatever the
 * origin is, absent content must be the same in it. */
void bh_store_set_origin(struct bh_store *s, struct bh_origin *o);
/* Whether a read, a write or a truncation would have to wait for the bucket: not for a loop thread.
 * A write that covers whole sub-blocks never fetches. */
bool bh_file_is_absent(struct bh_file *f, uint64_t offset, uint64_t len);
bool bh_file_write_needs_fetch(struct bh_file *f, enum bh_door door, uint64_t offset, uint64_t len);
bool bh_file_truncate_needs_fetch(struct bh_file *f, enum bh_door door, uint64_t size);
/* Makes that range of the database local. As long as the bucket takes: ETIMEDOUT, EIO; ENOSPC. */
int bh_store_fetch(struct bh_store *s, uint64_t offset, uint64_t len, struct bh_error *err);
/* The whole database. ECANCELED soon after *cancel (may be NULL) became true; EDQUOT, and nothing
 * fetched: it is more than the bound on clean blocks. */
int bh_store_hydrate(struct bh_store *s, const atomic_bool *cancel, struct bh_error *err);
uint64_t bh_store_absent_bytes(struct bh_store *s);
/* Clean blocks become absent, but for the first: they are fetched again. */
int bh_store_forget_clean(struct bh_store *s);

/* --- the bound on what is kept here of clean content (evict.c) ---
 * When more is, a thread of the store's makes what was not used lately absent again: first in the
 * block map, durably, then by a hole in the file. Only what the origin can give back, never the
 * beginning of the database, nor what has a newer version in -wal. Readers and writers of either
 * door may run beside it. */
struct bh_store_cache {
    uint64_t clean_bytes, max; /* max 0: no bound */
    uint64_t evicted_bytes;    /* since the start */
};
void bh_store_cache(struct bh_store *s, struct bh_store_cache *out);
/* max: bytes, 0 for no bound. The first bound starts the thread, which bh_store_close ends; it does
 * nothing before something was fetched or flushed, which shows that the bucket is there. ENOMEM,
 * EAGAIN. */
int bh_store_set_cache_max(struct bh_store *s, uint64_t max, struct bh_error *err);
/* Evicts until no more than `goal` bytes of clean blocks are here, or no more may go; now, by this
 * thread. *evicted: bytes. 0 or errno, also where some went. */
int bh_store_evict(struct bh_store *s, uint64_t goal, uint64_t *evicted);
/* Nothing is evicted until there is another origin: this one may lose what it has. */
void bh_store_bar_eviction(struct bh_store *s);

/* --- freeze: the content as of one moment, while writers go on ---
 * With a rollback journal the caller holds a SHARED lock on the database during bh_store_freeze
 * only. In write-ahead mode any moment will do, as file and -wal are consistent like after a
 * crash: bh_store_freeze_wal needs no lock. One freeze at a time. */
struct bh_frozen;
/* What a freeze needs, made ready before the lock is taken. patient: a large truncation saves what
 * it cuts off, however long that takes; otherwise it breaks the freeze. Ended with bh_store_thaw,
 * also if it was never begun. */
int bh_store_freeze_prepare(struct bh_store *s, bool patient, struct bh_frozen **out);
/* The freeze itself: O(1). ENOMEM. */
int bh_store_freeze(struct bh_frozen *z);
/* The same without a lock; EAGAIN: the database is not in write-ahead mode now. */
int bh_store_freeze_wal(struct bh_frozen *z);
/* Once after the freeze, before anything is read: finds what is committed in the frozen -wal. Reads
 * it all. EIO, ENOMEM, EAGAIN as for bh_frozen_read. */
int bh_frozen_find_frames(struct bh_frozen *z);
/* The tag of what is committed in it, for bh_store_set_flushed_wal. */
const char *bh_frozen_wal_tag(const struct bh_frozen *z);
/* For the statistics: how long the lock on the database was held for it, in nanoseconds. */
void bh_store_note_freeze(struct bh_store *s, int64_t ns);
uint64_t bh_frozen_size(const struct bh_frozen *z);
/* A plain database in rollback format: frames of -wal in their places, bytes 18 and 19 of the
 * header 1. Any one thread. EAGAIN: the freeze was broken by a truncation; ENOSPC: old content
 * could not be saved. */
int bh_frozen_read(struct bh_frozen *z, void *buf, size_t len, uint64_t offset);
/* 0 while it is whole; else what a read or a list of its blocks fails with. */
int bh_frozen_broken(const struct bh_frozen *z);
/* The blocks of block_size bytes (a power of two, 4096 or more) that are not as in the base, in
 * ascending order, after bh_frozen_find_frames; all of them where `all`. base_size: bytes of the
 * base. Freed by the caller. ENOMEM; EAGAIN, ENOSPC as for bh_frozen_read. */
int bh_frozen_changed(struct bh_frozen *z, uint32_t block_size, uint64_t base_size, bool all,
                      uint64_t **blocks, size_t *count);
/* To be called before a base names the frozen content: the pages that have a frame in the frozen
 * -wal are not in the base as they are in the database's file, and that is durable in the block map
 * when this returns. What of them is absent is fetched from the origin that has it so, as long as
 * the bucket takes: clients that read an older state of -wal want it, and so does everybody once
 * the frames are gone. ETIMEDOUT, EIO; ENOSPC. */
int bh_frozen_mark_frames(struct bh_frozen *z, struct bh_error *err);
/* The origin is o from now on, of which a reference is taken and which has the frozen content.
 * After bh_frozen_mark_frames. Without this what a flush makes clean is kept from eviction. */
void bh_store_advance_origin(struct bh_frozen *z, struct bh_origin *o);
/* Ends the freeze. flushed: what it held is in the base now, so what has not changed since becomes
 * clean, or counts as that (where -wal has a frame). */
int bh_store_thaw(struct bh_frozen *z, bool flushed);
/* How long freezes held their lock on the database, in nanoseconds, of the last 4096: quantile 0
 * to 1. count: of all time. */
uint64_t bh_store_freeze_ns(struct bh_store *s, double quantile, uint64_t *count);

/* --- undo, for clients with journal_mode MEMORY or OFF --- */
bool bh_store_undo_pending(struct bh_store *s);
int bh_store_undo_forget(struct bh_store *s); /* committed (fsync or unlock): nothing to put back */
/* Puts the old content back; changed(arg, offset, len) hears of every range. Call with EXCLUSIVE
 * held. */
int bh_store_undo_play(struct bh_store *s,
                       void (*changed)(void *arg, uint64_t offset, uint64_t len), void *arg);

/* --- swap of the whole content --- */
/* The files of `generation` (made and filled by the caller, synced) replace the present ones under
 * open handles. The caller holds EXCLUSIVE, has no transaction open, has recorded the new
 * generation durably, and invalidates caches afterwards. A freeze in progress keeps reading the old
 * content. origin: of the new content's absent blocks, NULL if there are none. */
int bh_store_swap(struct bh_store *s, uint64_t generation, struct bh_origin *origin,
                  struct bh_error *err);
/* The same in two steps, so that what can fail has been done when the new generation is recorded.
 * commit and drop consume it; drop: NULL is fine. */
struct bh_store_next;
int bh_store_swap_prepare(struct bh_store *s, uint64_t generation, struct bh_store_next **out,
                          struct bh_error *err);
int bh_store_swap_commit(struct bh_store *s, struct bh_store_next *n, struct bh_origin *origin,
                         struct bh_error *err);
void bh_store_swap_drop(struct bh_store_next *n);

#endif
