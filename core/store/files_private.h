/* What the files_*.c share. */
#ifndef BH_STORE_FILES_PRIVATE_H
#define BH_STORE_FILES_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "store/files.h"

#define FILES_SLOTS 4096u /* of the table of files in use */

/* A hash whose row in table filestore may have to appear or go. */
struct files_touched {
    uint8_t hash[BH_SHA256_LEN];
    uint64_t size;
    uint64_t ino;  /* whose name the row gets; 0: it has lost a name */
    int64_t at;    /* when, in nanoseconds since 1970 */
    bool meta;     /* its attributes user.bh.meta.* were changed: the row gets them */
    int64_t at_ms; /* bh_boot_ms() then; 0: not known; -1: its object was never looked for */
};

/* A file that waits to be published. */
struct files_queued {
    uint64_t ino;
    int64_t due_ms;
};

struct bh_open {
    struct bh_files *files;
    struct bh_open *next;
    uint64_t ino;
    unsigned users, writers; /* with files->mutex */
    atomic_bool stale;       /* the content was swapped under it */

    /* Readers of the content have it for reading, also while a fetch takes long; who changes the
     * content has it for writing. */
    pthread_rwlock_t lock;
    atomic_uint wanted; /* writers that wait for the lock: whoever publishes lets go */
    struct bh_content content;
    int64_t mtime, ctime;  /* if dirty */
    atomic_bool dirty;     /* size and times are newer here than in names */
    bool was_left;         /* by clients who are gone: see bh_files_clients_gone */
    bool has_data;         /* data is open: of content.data, or of what became content.hash */
    atomic_bool is_named;  /* after a power cut that data file is there */
    atomic_bool is_shared; /* data is a blob, or may be: it must not be written as it is */
    struct bh_dfile data;
    struct bh_blob *blob;
    uint64_t version;   /* rises with every change of the content */
    uint64_t published; /* the version that content.hash is of; 0: none */
    uint64_t closed;    /* while not settled: the version when it was closed or synced last */
    atomic_bool
        settled; /* was closed or synced since it was written: may be published while open */
};

/* Inodes of neighbouring numbers: see files_ahead.c. */
#define FILES_GROUPS 64u
struct files_group {
    uint64_t number;
    unsigned misses;
    int64_t fetched_ms; /* 0: it was not */
};

/* How far a flush is. What is uploaded meanwhile for others counts, too. */
struct files_progress {
    enum bh_files_phase phase;
    uint64_t files_done, files_total, bytes_done, bytes_total; /* of hashing */
    uint64_t uploaded, uploaded_bytes,
        sent_bytes; /* what the blobs and the bucket said at the start */
};

struct bh_files {
    const struct bh_config *cfg;
    struct bh_live *live;
    struct bh_bucket *bucket;
    char *prefix; /* of blobs' keys */
    bool read_only;
    struct bh_disk *disk, *names_disk;
    struct bh_names *names;
    struct bh_blobs *blobs;
    struct bh_files_hooks hooks;
    void (*swapped)(void *arg);
    void *swapped_arg;
    void (*appeared)(void *arg, const char *name); /* with the mutex */
    void *appeared_arg;

    pthread_mutex_t
        mutex; /* what follows; taken after the lock of a file, never kept while waiting */
    struct bh_open *in_use[FILES_SLOTS];
    struct files_touched *touched;
    size_t touched_count, touched_room;
    bool dropped_known; /* what names.db has as dropped is among the touched */
    bool adopt;         /* rows may have no name: the publisher looks */
    int64_t adopt_not_before_ms;
    bool adopted;               /* it has, after the start */
    bool reconcile;             /* rows may be missing: all are compared */
    struct files_queued *queue; /* due times ascend */
    int64_t quiet_ms;           /* what was closed last waits until then */
    size_t queue_count, queue_room;
    size_t queue_taken; /* by the flush that is under way */
    pthread_cond_t adopted_cond;
    pthread_cond_t wake; /* of the publisher */
    uint64_t *discarded; /* numbers of data files that nobody needs any more */
    size_t discarded_count, discarded_room;
    bool stopping;
    struct files_progress progress;
    struct files_group groups[FILES_GROUPS];
    uint64_t epoch;  /* how often the content was swapped */
    unsigned inside; /* changes under way */
    bool gate_closed;
    pthread_cond_t gate;

    uint32_t flush;            /* bh_blobs_frozen of the last freeze */
    struct files_guard *guard; /* with publishing, as all of files_guard.c; NULL until needed */

    pthread_mutex_t publishing; /* one at a time; a flush keeps it until names.db is frozen */
    pthread_t publisher;
    bool publisher_runs;
    atomic_bool cancel;         /* of what waits for the bucket */
    atomic_bool changed;        /* since the last flush began, beside what is touched */
    int64_t look_not_before_ms; /* with publishing: for rows that upstream put */
    bool look_failed;           /* with publishing: the last one */
    atomic_bool look_due;       /* a flush left that out */
};

/* --- files.c --- */
/* There is something that no flush has begun to take. */
bool files_is_changed(struct bh_files *f);

/* --- files_io.c --- */
/* Has o->lock for reading, with what is read from open. EAGAIN (not wait), EIO. */
int files_lock_to_read(struct bh_open *o, bool wait, struct bh_error *err);
/* With o->lock for writing, before a byte of the content is changed: what fails then may have
 * changed some. */
void files_changes(struct bh_open *o);
/* With the gate entered and o->lock for writing. */
int files_set_size(struct bh_open *o, uint64_t size, struct bh_error *err);

/* --- files_ahead.c --- */
/* Somebody begins to read this file, which is a blob: others may be fetched with it. Sleeps for
 * names, not for the bucket. is_here: it had not to be fetched. */
void files_ahead(struct bh_files *f, uint64_t ino, bool is_here);
/* Whether files_ahead would, where the file is here. */
bool files_ahead_is_due(struct bh_files *f, uint64_t ino);

/* --- files_own.c --- */
/* With o->lock: its data file is open, and is no blob as well. */
bool files_is_writable(const struct bh_open *o);
/* With the gate entered and o->lock for writing: a data file that can be written, with the content
 * up to `keep` bytes: the one that it has, or a copy if that is a blob, too, or one of the blob
 * (bh_open_own has made that before, unless somebody came in between). */
int files_make_own(struct bh_open *o, uint64_t keep, struct bh_error *err);
/* The same without waiting, for a file that has no content yet. EAGAIN. */
int files_make_own_at_once(struct bh_open *o, struct bh_error *err);

/* --- files_use.c --- */
/* EAGAIN (not wait). Whoever publishes it lets go. */
int files_lock_to_write(struct bh_open *o, bool wait);
/* With the gate entered (or nobody left who could close it) and o->lock for writing: what is newer
 * here goes to names. */
int files_push(struct bh_open *o, bool wait, struct bh_error *err);
/* Those that clients had open at the end. */
void files_free_in_use(struct bh_files *f);

/* --- files_progress.c --- */
void files_progress_begin(struct bh_files *f);
void files_progress_hashing(struct bh_files *f, uint64_t files, uint64_t bytes); /* in all */
void files_progress_hashed(struct bh_files *f, uint64_t files, uint64_t bytes);  /* more */
void files_progress_uploading(struct bh_files *f);
void files_progress_end(struct bh_files *f);
/* Into *out, whose blobs are filled in. */
void files_progress_tell(struct bh_files *f, struct bh_files_status *out);

/* --- files_publish.c --- */
int files_publisher_start(struct bh_files *f, struct bh_error *err);
void files_publisher_stop(struct bh_files *f);
/* It was written and closed: it is published after a while. */
void files_queue(struct bh_files *f, uint64_t ino);
/* All that was closed or synced becomes blobs. With f->publishing. */
int files_publish_all(struct bh_files *f, const struct bh_call *call, struct bh_error *err);
/* Removes a data file, later, as that may take long. 0 is fine. */
void files_discard(struct bh_files *f, uint64_t data);
/* A row may have to appear (ino), or go (ino 0). */
void files_touch(struct bh_files *f, const uint8_t hash[BH_SHA256_LEN], uint64_t size,
                 uint64_t ino);
void files_touch_at(struct bh_files *f, const struct files_touched *t);

/* --- files_rows.c: table filestore --- */
/* If rows may be missing, all that has a name counts as touched. With f->publishing. */
int files_reconcile(struct bh_files *f, struct bh_error *err);
/* Rows of what was touched appear and go, as one transaction. EAGAIN, unless it is the last try:
 * there are rows that were not looked at yet; behind these, ours would look like upstream's. */
int files_write_rows(struct bh_files *f, bool last_try, const struct bh_call *call,
                     struct bh_error *err);

/* --- files_guard.c: contents are there, and will be, before a head names them --- */
/* Once their uploads are over, of a flush: those that got a name, and those of earlier flushes that
 * no head has named yet. EBUSY: gc is about to delete one, and has been for long. */
int files_guard_check(struct bh_files *f, const struct files_touched *touched, size_t count,
                      const struct bh_call *call, struct bh_error *err);
/* The same without a flush, once in a quarter of the grace: what is named by no head yet may wait
 * for one for long. With f->publishing. */
int files_guard_keep(struct bh_files *f, const struct bh_call *call, struct bh_error *err);
void files_guard_named(struct bh_files *f);
void files_guard_free(struct bh_files *f);

#endif
