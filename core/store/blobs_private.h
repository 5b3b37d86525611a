/* What the blobs*.c share.
 *
 * Locks, in this order: settling; naming; of one blob's parts: file, map; mutex.
 * - naming is held while p-, c-, u- and r- files get or lose their names, and what kind an entry is
 *   changes under naming and mutex only: so it may be read under either. It may be held over slow
 *   work of the disk, but never while the bucket is waited for.
 * - mutex guards everything else but the spares, which have a mutex of their own under which
 * nothing is locked, and is never held while disk or bucket are waited for. */
#ifndef BH_STORE_BLOBS_PRIVATE_H
#define BH_STORE_BLOBS_PRIVATE_H

#include <pthread.h>

#include "bucket/bucket_util.h"
#include "bucket/transfer.h"
#include "store/blobs.h"

#define BLOBS_PARALLEL_MAX 64u
#define BLOBS_NAME         96 /* of a file in the directory, with NUL */
#define BLOBS_STEP         ((size_t)1 << 20)
#define BLOBS_UNIT         ((uint64_t)64 << 10) /* what parts are made of */
#define BLOBS_WINDOW_MAX   ((uint64_t)8 << 20)  /* the most that is read ahead of one reader */
#define BLOBS_NEARBY       ((uint64_t)1 << 20)  /* the kernel reads ahead, not always in order */
#define BLOBS_TRUST_S      600 /* an object seen in the bucket is believed to be there so long */

/* What is here of a blob. Letters are those of the files. */
enum blobs_kind {
    KIND_NONE,
    KIND_PENDING, /* p: not known to be in the bucket */
    KIND_CACHED,  /* c */
    KIND_UNSURE,  /* u: was a c- before a power cut, which may have damaged it; hashed before use */
    KIND_PARTS,   /* r */
};

struct blobs_entry {                   /* some 120 bytes for each blob that is here */
    struct blobs_entry *next;          /* in its slot */
    struct blobs_entry *older, *newer; /* by use, in one of the lists of blobs_uses */
    struct blobs_job *job;             /* of what is pending, else NULL */
    struct blobs_content *content;     /* of what is open, else NULL */
    uint64_t bytes;                    /* on the disk */
    uint32_t flush;  /* after which a head names it; 0: it needs none; bh_blobs_needs_head */
    uint32_t seen_s; /* when its object was last seen in the bucket; 0: never */
    uint16_t pins;   /* keep the local file: uploads and contents */
    uint8_t kind;    /* enum blobs_kind */
    bool kept;       /* in which list it is, if it is in one */
    uint8_t hash[BH_SHA256_LEN];
};

struct blobs_uses { /* entries in the order of their last use */
    struct blobs_entry *oldest, *newest;
};

struct blobs_job {                    /* an upload to be done */
    struct blobs_job *before, *after; /* by number */
    struct blobs_entry *entry;
    uint64_t number; /* ascending in the order of publishing */
    uint64_t size;
    int64_t due_ms;
    unsigned attempts; /* that failed */
    bool uploading;
    bool expected;           /* the object is likely to be there: looked for before it is sent */
    bool checked;            /* its content was hashed by this process */
    bool large;              /* more than a part: one at a time */
    struct blobs_edit *edit; /* NULL, or what it has of an older blob */
    unsigned assembled;      /* so often it was tried */
    uint64_t copied;         /* bytes of it that were not sent, but copied in the bucket */
    bool doubtful;           /* the disk failed to sync it: only the bucket makes it safe */
};

#define BLOBS_EDIT_MIN BH_PART_MIN
#define BLOBS_RESUMES  32u

/* What a data file, or a blob made from one, has of an older blob at the same places. */
struct blobs_edit {
    struct blobs_edit *next;
    uint64_t number; /* of the data file */
    uint8_t base[BH_SHA256_LEN];
    uint64_t base_size;
    uint64_t common;   /* bytes from the beginning, but for what changed; nothing beyond */
    bool differs;      /* something changed there */
    uint8_t changed[]; /* a bit a MiB */
};

/* A hash as it was at the end of a blob. */
struct blobs_resume {
    uint8_t hash[BH_SHA256_LEN];
    uint64_t size;
    struct bh_sha256 *state;
};

struct blobs_waiter { /* in bh_blobs_wait */
    struct blobs_waiter *next;
    uint64_t upto; /* numbers of jobs */
    unsigned tries;
    uint64_t failing; /* the oldest job that failed meanwhile; UINT64_MAX: none */
    unsigned failed;  /* so often */
    int rc;
    struct bh_error error;
};

struct blobs_content { /* a blob that is open, once for all who have opened it */
    struct blobs_entry *entry;
    unsigned opened, fetching;
    uint64_t size;
    char *key;                   /* NULL: by its hash */
    atomic_int fd;               /* of the whole blob; -1: not open, or not here */
    struct blobs_parts *parts;   /* NULL, or as long as this is open */
    struct blobs_fetch *fetches; /* queued and under way */
    struct bh_error *bad;        /* NULL, or: the object is not what its name says */
};

enum blobs_fetch_what {
    FETCH_WHOLE,        /* the object, into c- */
    FETCH_RANGE,        /* units of it, into parts */
    FETCH_MEMORY,       /* units of it, or all of a small one, into memory */
    FETCH_CHECK_UNSURE, /* no request: a u- file becomes c- */
    FETCH_HASH_PARTS,   /* no request: what is here from the beginning on is hashed */
    FETCH_CHECK_PARTS,  /* no request: parts that are all here become c- */
};

struct blobs_fetch {
    struct blobs_fetch *queued;  /* next in the queue, or of those under way */
    struct blobs_fetch *sibling; /* the content's next */
    struct blobs_content *content;
    enum blobs_fetch_what what;
    uint64_t first, count; /* units */
    bool ahead;            /* nobody waits for it yet */
    bool sweeps;           /* beside what is read at random */
    bool begun, over;
    unsigned refs;
    atomic_bool cancel;
    atomic_int_fast64_t moved_ms; /* when it got ahead last */
    pthread_cond_t ended;
    int rc;
    bool missing; /* there is no such object */
    struct bh_error error;
};

struct blobs_parts { /* of a large blob: the files r-HASH and r-HASH.map */
    struct bh_dfile file, map;
    pthread_rwlock_t file_lock; /* shared: units that are here stay while they are read */
    pthread_mutex_t map_lock;   /* orders writes of the map */
    /* guarded by the blobs' mutex: */
    uint64_t units, here;
    uint8_t *have, *busy;       /* a bit a unit: it is here; it is being fetched */
    char etag[BH_ETAG_MAX];     /* of the object that the units are from; "": not known yet */
    unsigned random;            /* reads that were not sequential */
    unsigned lost;              /* times that units went again */
    unsigned answers;           /* to requests for units */
    int64_t begin_ns, moved_ns; /* until they began, and from then on to their ends, all together */
    uint64_t swept;             /* units up to here were fetched */
    unsigned sweeping, to_sweep; /* pieces: under way; that may begin */
    bool hash_at_end;            /* none is taken ahead */
    bool hashing, checking;      /* queued or under way, never both */
    uint64_t prefix;             /* units up to here are here, if none was lost */
    uint64_t hashed;             /* units up to here are in: */
    struct bh_sha256 *hash;      /* NULL: none, or with who goes on with it */
    uint64_t lately, hand;       /* units: read last; evicted next */
};

static inline uint64_t blobs_units(uint64_t size)
{
    return (size + BLOBS_UNIT - 1) / BLOBS_UNIT;
}

static inline bool blobs_bit(const uint8_t *bits, uint64_t i)
{
    return bits[i / 8] >> (i % 8) & 1;
}

static inline void blobs_set_bit(uint8_t *bits, uint64_t i, bool to)
{
    bits[i / 8] = (uint8_t)((bits[i / 8] & ~(1u << (i % 8))) | (unsigned)to << (i % 8));
}

struct bh_blob {
    struct bh_blobs *blobs;
    struct blobs_content *content;
    char *key; /* NULL: by its hash */
    uint64_t size;
    atomic_uint users;
    /* what its reads are like; guarded by the blobs' mutex */
    uint64_t next;    /* where the last one ended */
    uint64_t planned; /* fetched ahead up to here */
    uint64_t window;  /* bytes; 0: not sequential */
};

/* Objects that were hashed and are not what their name says: not fetched again as they are. */
#define BLOBS_BAD 64u
struct blobs_bad {
    uint8_t hash[BH_SHA256_LEN];
    char etag[BH_ETAG_MAX]; /* "": none */
};

/* Data files made ahead: empty, and nobody's. */
#define BLOBS_SPARES 32u
struct blobs_spare {
    uint64_t number;
    struct bh_dfile file;
};
struct blobs_spares {
    pthread_mutex_t mutex; /* nothing else is locked under it */
    pthread_cond_t wake;
    pthread_t thread;
    bool runs, stop;
    bool making;           /* more are to be made */
    int64_t wanted_ms;     /* when one was wanted last */
    int64_t not_before_ms; /* after one could not be made */
    unsigned count;
    struct blobs_spare items[BLOBS_SPARES];
};

struct bh_blobs {
    struct bh_blobs_options o;
    char *prefix;
    char boot[40]; /* of the machine: parts of another one are not used */
    atomic_bool stopped, closing;
    pthread_mutex_t settling, naming, mutex;
    /* guarded by mutex: */
    struct blobs_bad bad[BLOBS_BAD];
    unsigned next_bad;
    bool started;
    uint32_t flush, named; /* that comes next; that was the last with a head */
    struct blobs_entry **slots;
    size_t slot_count, entry_count;
    struct blobs_uses may_go, kept; /* what is cached: kept until a head names it, or not */
    uint64_t cached_bytes, cache_max, evicted_bytes, fetched_bytes;
    pthread_cond_t crowded; /* for the keeper: cached_bytes is over cache_max */
    pthread_t keeper;
    bool has_keeper;
    /* uploads */
    struct blobs_job *first_job, *last_job;
    uint64_t last_number;
    uint64_t pending, pending_bytes, uploaded, uploaded_bytes;
    unsigned uploading;
    bool large_under_way;
    unsigned failures;  /* since the last success */
    int64_t pause_ms;   /* no upload before, while uploads fail */
    unsigned doubtful;  /* jobs */
    uint64_t error_job; /* whose error it is */
    char error[BH_ERROR_TEXT_MAX];
    struct blobs_waiter *waiters;
    pthread_cond_t to_upload, uploaded_one;
    pthread_t uploaders[BLOBS_PARALLEL_MAX];
    unsigned uploader_count;
    uint64_t
        settled; /* jobs up to this number were synced, or are doubtful; written with settling */
    /* fetches */
    struct blobs_fetch *queue, **queue_end, *fetches_begun;
    pthread_cond_t to_fetch;
    pthread_t fetchers[BLOBS_PARALLEL_MAX];
    unsigned fetcher_count, fetchers_idle, fetching_ahead;
    /* edits */
    struct blobs_edit *edits; /* the newest first */
    atomic_uint edit_count;
    struct blobs_resume resumes[BLOBS_RESUMES];
    size_t next_resume;
    /* while the disk is full */
    int64_t full_ms; /* when it was found to be; 0: never */
    struct blobs_piece *pieces;
    uint64_t pieces_bytes;
    /* on its own: */
    struct blobs_spares spares;
};

/* --- blobs_table.c: entries; with the mutex --- */
struct blobs_entry *bh_blobs_find(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN]);
/* Finds or makes one. NULL: no memory. */
struct blobs_entry *bh_blobs_entry(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN]);
/* Frees it if there is nothing to be known of it. */
void bh_blobs_entry_drop(struct bh_blobs *b, struct blobs_entry *e);
/* With naming, too. bytes: of its file. Becomes the one used last. */
void bh_blobs_become(struct bh_blobs *b, struct blobs_entry *e, enum blobs_kind kind,
                     uint64_t bytes);
void bh_blobs_resize(struct bh_blobs *b, struct blobs_entry *e, uint64_t bytes); /* the same kind */
void bh_blobs_used(struct bh_blobs *b, struct blobs_entry *e);
/* It was published: the next flush's head is to name it. */
void bh_blobs_needs_head(struct bh_blobs *b, struct blobs_entry *e);
/* What the heads up to that flush's name is kept no longer. */
void bh_blobs_let_go(struct bh_blobs *b, uint32_t flush);
void bh_blobs_seen(struct blobs_entry *e); /* in the bucket, now */
bool bh_blobs_seen_lately(const struct blobs_entry *e);
void bh_blobs_table_free(struct bh_blobs *b);

/* --- names --- */
void bh_blobs_name(char name[BLOBS_NAME], enum blobs_kind kind, const uint8_t hash[BH_SHA256_LEN]);
void bh_blobs_map_name(char name[BLOBS_NAME], const uint8_t hash[BH_SHA256_LEN]);
void bh_blobs_temp_name(char name[BLOBS_NAME]);
void bh_data_name(char name[BLOBS_NAME], uint64_t number);
/* 0: it is no data file's. */
uint64_t bh_data_number(const char *name);
/* Removes what is here of that kind, of parts the map first; with naming. KIND_NONE is fine. What
 * cannot be removed is logged. */
void bh_blobs_unlink(struct bh_blobs *b, enum blobs_kind kind, const uint8_t hash[BH_SHA256_LEN]);
void bh_blobs_unlink_name(struct bh_blobs *b, const char *name);
void bh_blobs_key(const struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN],
                  char key[BH_KEY_MAX + 1]);

/* --- blobs_scan.c: what an earlier life left; at the start, alone --- */
int bh_blobs_scan(struct bh_blobs *b, bool recheck, struct bh_error *err);

/* --- blobs_publish.c --- */
/* Hashes `size` bytes of fd. again (may be NULL) is asked before each MiB: not 0 ends it. EIO: it
 * is shorter. */
int bh_blobs_hash(int fd, uint64_t size, int (*again)(void *arg, struct bh_error *err), void *arg,
                  const char *what, uint8_t hash[BH_SHA256_LEN], struct bh_error *err);
/* The same for [from, end), with a hash that has what is before. NULL: ENOMEM. */
int bh_blobs_hash_on(struct bh_sha256 *hash, int fd, uint64_t from, uint64_t end,
                     int (*again)(void *arg, struct bh_error *err), void *arg, const char *what,
                     struct bh_error *err);
/* [0, len) of fd to f; holes stay holes. ENODATA: fd is shorter. */
int bh_blobs_copy(int fd, struct bh_dfile *f, uint64_t len, const struct bh_call *call,
                  struct bh_error *err);

/* --- blobs_edit.c; without the mutex --- */
/* What is known of that data file whose first `size` bytes are published: freed by the caller.
 * NULL: nothing. */
struct blobs_edit *bh_blobs_edit_of(struct bh_blobs *b, uint64_t number, uint64_t size);
/* Whether all of the range is in the older blob. */
bool bh_blobs_edit_has(const void *edit, uint64_t offset, uint64_t length);
/* The hash of the older blob, to be gone on with at its end; NULL: it is not known, or there are
 * other changes than what was appended. e may be NULL. */
struct bh_sha256 *bh_blobs_resume(struct bh_blobs *b, const struct blobs_edit *e);
/* Takes state over. */
void bh_blobs_keep_state(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t size,
                         struct bh_sha256 *state);
void bh_data_moved(struct bh_blobs *b, uint64_t number, uint64_t to);
void bh_data_forget(struct bh_blobs *b, uint64_t number);
void bh_blobs_edits_free(struct bh_blobs *b);

/* --- blobs_data.c --- */
/* A new, empty data file under a number of its own. 0 or errno. */
int bh_blobs_new_data(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out);

/* --- blobs_spare.c; any thread --- */
/* One that was made ahead, if there is one; where many are wanted more are made. last_try: who gets
 * none makes one himself, and so counts. */
bool bh_blobs_spare_take(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out, bool last_try);
void bh_blobs_spares_init(struct bh_blobs *b);
void bh_blobs_spares_start(struct bh_blobs *b);
void bh_blobs_spares_end(struct bh_blobs *b); /* and what there is goes; at the end, alone */

/* --- blobs_upload.c --- */
/* The job of an entry that has become pending; with the mutex. `job` is the caller's allocation. */
void bh_blobs_queue(struct bh_blobs *b, struct blobs_entry *e, struct blobs_job *job);
int bh_blobs_upload_start(struct bh_blobs *b, struct bh_error *err);
void bh_blobs_upload_end(struct bh_blobs *b); /* b->closing is set */

/* --- blobs_send.c: one upload --- */
/* *permanent: it makes no sense to try it again soon. *unsure: what is here is not as good as what
 * is in the bucket. */
int bh_blobs_send(struct bh_blobs *b, struct blobs_job *job, bool *permanent, bool *unsure,
                  struct bh_error *err);

/* --- blobs_fetch.c: the threads that fetch --- */
/* Queues one; with the mutex. The caller has a reference if it is not ahead. NULL: no memory. */
struct blobs_fetch *bh_blobs_fetch(struct bh_blobs *b, struct blobs_content *c,
                                   enum blobs_fetch_what what, uint64_t first, uint64_t count,
                                   bool ahead);
/* Waits for it, with the mutex, as long as it gets ahead or since_ms + read_timeout_ms; lets go of
 * it. f may be one that somebody else began, if the caller took a reference. 0 does not mean that
 * what is wanted is here: the caller looks. */
int bh_blobs_await(struct bh_blobs *b, struct blobs_fetch *f, int64_t since_ms,
                   const struct bh_call *call, bool *missing, struct bh_error *err);
void bh_blobs_fetch_stop(struct bh_blobs *b); /* all that there are end soon; with the mutex */
void bh_blobs_fetch_end(struct bh_blobs *b);  /* b->closing is set */
/* GETs a part of the object: what is received goes to `take` (with its place in the blob). EIO with
 * a sentence if the object is not there or has another size. */
struct blobs_get {
    struct bh_blobs *b;
    struct blobs_fetch *fetch;
    uint64_t at, end;
    int64_t began_ns, first_ns, last_ns; /* when the first bytes came, and the last; 0: none yet */
    struct bh_object_info info;
    char key[BH_KEY_MAX + 1];
    int (*take)(void *arg, uint64_t at, const void *data, size_t len, struct bh_error *err);
    void *arg;
};
int bh_blobs_get(struct blobs_get *g, struct bh_error *err);
/* Whether a hash under way is to end; arg: a blobs_get of which only b and fetch count. */
int bh_blobs_fetch_again(void *arg, struct bh_error *err);

/* --- blobs_read.c --- */
/* With the mutex: frees a content that nobody has open or fetches. */
void bh_blobs_content_drop(struct bh_blobs *b, struct blobs_content *c);
/* Opens what is here of the whole blob as content->fd; with naming. EAGAIN: it is not here, or not
 * to be trusted. EIO: what is here only is damaged. */
int bh_blobs_open_local(struct bh_blobs *b, struct blobs_content *c, struct bh_error *err);
/* The object's content is not its name's: kept in the content, and logged. With the mutex. */
void bh_blobs_bad(struct blobs_content *c, const struct bh_error *why);
/* Its object's key; true: which is by its hash. */
bool bh_blobs_content_key(struct bh_blobs *b, const struct blobs_content *c,
                          char key[BH_KEY_MAX + 1]);
/* Whether what was hashed is what the name says: 0, or EIO with a sentence about the object. */
int bh_blobs_compare(const struct blobs_content *c, const char *key,
                     const uint8_t hash[BH_SHA256_LEN], struct bh_error *err);
int bh_blobs_fetch_whole(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err);
int bh_blobs_check_unsure(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err);

/* --- blobs_parts.c: large blobs that are not all here --- */
int bh_blobs_parts_open(struct bh_blobs *b, struct blobs_content *c, struct bh_error *err);
void bh_blobs_parts_close(struct blobs_parts *p);
int bh_blobs_fetch_range(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err);
/* The object, as it is now, is not what its name says. */
void bh_blobs_note_bad(struct bh_blobs *b, const struct blobs_content *c);
/* Reads the header of a map: 0 if it is of this machine's life and of a blob of *size bytes. */
int bh_blobs_parts_look(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t *bytes);
/* Lets go of some `want` bytes of parts that are open, not of what is being read. The caller has no
 * lock, and keeps the content open. Returns how many went. */
uint64_t bh_blobs_parts_shrink(struct bh_blobs *b, struct blobs_content *c, uint64_t want);

/* --- blobs_check.c: whether they are what the name says --- */
/* All of it may come to be here: nothing has gone again, or was replaced or found bad, and the
 * cache has room for it. With the mutex. */
bool bh_blobs_may_become_whole(const struct bh_blobs *b, const struct blobs_content *c);
/* Units have come: what there is from the beginning on is hashed, if that is much more; with the
 * mutex. */
void bh_blobs_hash_ahead(struct bh_blobs *b, struct blobs_content *c);
int bh_blobs_hash_parts(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err);
/* Such a fetch has ended; with the mutex. */
void bh_blobs_hashed(struct bh_blobs *b, struct blobs_content *c);
int bh_blobs_check_parts(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err);

/* --- blobs_ahead.c: reading them --- */
/* EAGAIN: the whole blob is here now. */
int bh_blobs_parts_read(struct bh_blob *o, void *buf, size_t len, uint64_t offset, int64_t since_ms,
                        const struct bh_call *call, bool *missing, struct bh_error *err);
int bh_blobs_parts_at_once(struct bh_blob *o, void *buf, size_t len, uint64_t offset);
/* Of a blob of which there are parts: without the bucket, but the disk is waited for. EAGAIN: not
 * all of it is here. */
int bh_blobs_parts_here(struct bh_blob *o, void *buf, size_t len, uint64_t offset);
/* A range is no longer being fetched; with the mutex. */
void bh_blobs_parts_free(struct blobs_parts *p, uint64_t first, uint64_t count);
/* Fetches more of what is read at random; and, when such a fetch has ended with rc, the next. With
 * the mutex. */
void bh_blobs_sweep(struct bh_blobs *b, struct blobs_content *c);
void bh_blobs_swept(struct bh_blobs *b, struct blobs_content *c, int rc);
/* If all is here it is to be hashed; with the mutex. */
void bh_blobs_check_if_all(struct bh_blobs *b, struct blobs_content *c);

/* --- blobs_memory.c: reading while the disk is full --- */
/* Found so a moment ago; with the mutex. */
bool bh_blobs_disk_is_full(struct bh_blobs *b);
void bh_blobs_note_full(struct bh_blobs *b);
/* As bh_blob_read, but nothing is kept on the disk. All of len is within the blob. */
int bh_blobs_memory_read(struct bh_blob *o, void *buf, size_t len, uint64_t offset,
                         int64_t since_ms, const struct bh_call *call, bool *missing,
                         struct bh_error *err);
int bh_blobs_fetch_memory(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err);
/* What there is of a content goes; with the mutex. */
void bh_blobs_memory_drop(struct bh_blobs *b, const struct blobs_content *c);

/* --- blobs_cache.c --- */
int bh_blobs_keeper_start(struct bh_blobs *b, struct bh_error *err);
void bh_blobs_keeper_end(struct bh_blobs *b);

#endif
