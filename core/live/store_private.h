/* What store*.c, freeze.c, cover.c, undo.c and evict.c share. */
#ifndef BH_LIVE_STORE_PRIVATE_H
#define BH_LIVE_STORE_PRIVATE_H

#include <pthread.h>

#include "live/store.h"
#include "live/wal.h"

#define FREEZE_SAMPLES 4096

/* One file of a freeze. */
struct frozen_part {
    int fd;   /* the file at the time, also after a swap; -1: there is none */
    int save; /* old content of what was overwritten since, at its own offset; no name */
    uint64_t size;
    uint64_t blocks;
    atomic_uchar *touched; /* one bit a sub-block: overwritten since, old content in save */
    size_t touched_len;
    uint8_t *was; /* two bits a sub-block, valid where touched: its state at the freeze */
    size_t was_len;
};

struct bh_frozen {
    struct bh_store *store;
    struct frozen_part db, wal;
    struct bh_file *wal_file; /* the -wal that was frozen: a reference, NULL if there was none */
    struct bh_wal_map frames;
    uint64_t wal_changes;     /* the store's at the time */
    struct bh_origin *origin; /* of what was absent */
    atomic_bool had_absent;   /* or has got some since, by an eviction */
    bool advanced;            /* what it held is the store's origin now */
    struct bh_map old_map;    /* if detached: the map of the frozen content */
    atomic_int broken;        /* errno; 0 while whole */
    bool patient;
    bool detached; /* the content was swapped since */
};

struct undo {
    struct bh_dfile file; /* fd -1 until first used */
    uint64_t end;         /* bytes in the log; 0: nothing to undo */
    uint64_t old_size;    /* of the database when the log began */
    uint8_t *saved;       /* one bit a sub-block */
    uint64_t saved_blocks;
};

struct cover {     /* under the store's mutex: see cover.c */
    uint8_t *bits; /* one a sub-block: dirty, but only as the base has what is in -wal over it */
    uint64_t blocks, count;
};

#define FETCHES_MAX 16 /* at once */

struct fetch_range {
    uint64_t offset, end; /* bytes, whole units; end 0: a free slot */
};

struct fetches {
    pthread_mutex_t mutex; /* taken before the store's */
    pthread_cond_t done;
    struct fetch_range running[FETCHES_MAX];
    uint64_t next, window; /* of one who reads in sequence; under the store's mutex */
};

#define EVICT_GRANULE 65536u     /* bytes whose use is noted together */
#define EVICT_NOTES   (1u << 20) /* notes; content that is larger shares them */

struct evict { /* under the store's mutex, where nothing else is said */
    /* Held from the look at what may go until it is gone, and by whoever changes the origin of
     * content that stays. (A swap shows by the generation; a step leaves clean only what both
     * origins have.) Taken before all other locks. */
    pthread_mutex_t pass;
    pthread_cond_t wake;
    pthread_t thread;
    bool runs, stop;
    uint64_t max;                  /* bytes of clean blocks to be kept; 0: no bound */
    bool proven;                   /* the bucket has answered, or taken a flush, since the start */
    bool barred;                   /* what is clean is not what the origin has */
    bool off;                      /* the file system cannot */
    uint64_t hand;                 /* of the clock: a sub-block */
    atomic_uint_fast64_t evicted;  /* bytes since the start */
    _Atomic(atomic_uchar *) notes; /* EVICT_NOTES of them: read or written since the hand passed;
                                    * NULL until there is a bound. Any thread, no lock */
};

struct bh_store {
    struct bh_disk *disk;
    const char *title; /* of the database, in sentences */
    struct bh_locks *locks;
    pthread_mutex_t mutex; /* map, frozen, undo, names; held over writes to the database */
    /* Held for reading while the database's files are synced (which sleeps, so not the mutex), for
     * writing by a swap. Taken before the mutex. */
    pthread_rwlock_t generation_lock;
    struct bh_file *db;
    struct bh_file *side; /* linked side files */
    struct bh_map map;
    uint64_t generation;
    /* Odd while a swap is under way, a step ends, or holes are made; two more where a frozen block
     * becomes absent: what a reader without the mutex got meanwhile may be neither. */
    atomic_uint_fast64_t swaps;
    struct bh_frozen *frozen;
    struct undo undo;
    struct cover cover;
    struct bh_origin *origin; /* of absent blocks */
    struct fetches fetches;
    bool stepping; /* a step is under way: nothing is fetched */
    pthread_cond_t stepped;
    struct evict evict;
    struct bh_file *journal;   /* the linked journal, in `side`, or NULL: asked at every write */
    struct bh_file *wal, *shm; /* the same */
    pthread_mutex_t shm_wire;  /* bh_shm_new; taken before the mutex */
    uint64_t wal_size;
    uint64_t wal_changes; /* counts writes to -wal */
    uint64_t
        wal_flushed; /* the value of wal_changes that is in the base, or in the database's file */
    uint32_t freeze_ns[FREEZE_SAMPLES];
    uint64_t freezes;
};

/* --- evict.c --- */
void evict_init(struct bh_store *s);
void evict_close(struct bh_store *s);
/* That range was read or written: it stays for a while. Any thread, no lock. */
void evict_note(struct bh_store *s, uint64_t offset, uint64_t len);
/* With the mutex: content has come, or became clean. */
void evict_nudge(struct bh_store *s);

/* Begins a read without the mutex: what it got counts if `swaps` is still the same after it. Waits
 * for a swap under way. */
uint_fast64_t store_read_begin(struct bh_store *s);

/* Makes the database's bytes durable. Not with the mutex. */
int store_sync_data(struct bh_store *s);

/* Makes the block map durable. Takes the mutex; with the generation_lock. */
int store_sync_map(struct bh_store *s);

/* The files of a generation; and opens them, the map mended. */
void store_generation_names(uint64_t generation, char db[32], char map[32]);
int store_open_generation(struct bh_store *s, uint64_t generation, struct bh_dfile *db,
                          struct bh_map *map, struct bh_error *err);

/* All with the store's mutex held. */

/* Saves what a write to [offset, offset + len) is about to change. Never fails the write: an error
 * breaks the freeze. */
void freeze_before_write(struct bh_store *s, const struct bh_file *f, uint64_t offset,
                         uint64_t len);
void freeze_before_truncate(struct bh_store *s, const struct bh_file *f, uint64_t size);

bool freeze_is_touched(const struct bh_frozen *z, uint64_t block);

/* --- cover.c --- */
/* Those sub-blocks are written, or cut off: not covered any more. */
void cover_drop(struct bh_store *s, uint64_t first, uint64_t count);
/* Nothing is: -wal is gone, or the base is another. */
void cover_clear(struct bh_store *s);
/* Whether the frozen log has a frame for it, or ends the database before it. */
bool cover_has_frame(const struct bh_frozen *z, uint64_t block);
/* The base has the frozen content now: covers what its frames lie over. Takes the mutex. */
void cover_frames(struct bh_frozen *z);

int undo_open_existing(struct bh_store *s, struct bh_error *err);
void undo_close(struct bh_store *s);
int undo_before_write(struct bh_store *s, uint64_t offset, uint64_t len);
int undo_before_truncate(struct bh_store *s, uint64_t size);

/* --- store_names.c --- */
#define STORE_JOURNAL_MAGIC 8 /* bytes that every valid journal begins with */
/* Not linked yet, one reference; NULL: no memory. */
struct bh_file *store_file_new(struct bh_store *s, const char *name, enum bh_file_kind kind);
/* The beginning of a journal changed. */
void store_note_magic(struct bh_file *f);
/* Takes the caller's reference. */
void store_link_side(struct bh_store *s, struct bh_file *f);

bool is_wal_locked(struct bh_store *s);
/* Whether a client's write is one without a journal. */
bool store_needs_undo(const struct bh_store *s, enum bh_door door);

/* Whether a write, or a truncation (of how many bytes from `size` on; 0: none), must have something
 * here first. What is here stays while the mutex is held. */
bool write_needs_fetch(struct bh_store *s, enum bh_door door, uint64_t offset, uint64_t len);
uint64_t truncation_fetch(struct bh_store *s, enum bh_door door, uint64_t size);

/* The write itself: block map first, then data. */
int db_write_locked(struct bh_store *s, const void *buf, size_t len, uint64_t offset);
int db_truncate_locked(struct bh_store *s, uint64_t size);

#endif
