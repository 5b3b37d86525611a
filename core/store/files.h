/* The file store: files/ as a whole, of names (store/names.h) and contents (store/blobs.h).
 *
 * A regular file's content is in a local data file while it is written and until it is published:
 * made a blob, hashed, uploaded in the background. That begins soon after its last close, or with a
 * flush. A flush publishes all that was closed or synced, waits for the uploads, writes the rows of
 * table filestore (upstream's view) and freezes names.db with everything named in it being in the
 * bucket (DECISIONS 23, 24).
 *
 * Any thread may call. Functions return 0 or a positive errno. `wait` is as in store/names.h: false
 * is for threads that must not sleep, EAGAIN then means that nothing has happened and the same call
 * with true will do it. err may be NULL. */
#ifndef BH_STORE_FILES_H
#define BH_STORE_FILES_H

#include "bucket/bucket.h"
#include "live/live.h"
#include "repo/history.h"
#include "store/blobs.h"
#include "store/names.h"

struct bh_files;
struct bh_config;

/* Opens nothing yet: that is done by the hook `open` once names.db can be read. cfg, live and
 * bucket must outlive it. ENOMEM. */
int bh_files_new(struct bh_files **out, const struct bh_config *cfg, struct bh_live *live,
                 struct bh_bucket *bucket, bool read_only, struct bh_error *err);
/* Publishing in the background begins, and rows of table filestore without a name get one: that is
 * done when this returns, unless it takes longer than seconds. */
int bh_files_start(struct bh_files *f, struct bh_error *err);
/* No file may be in use. What is not published or uploaded stays here, for the next start. */
void bh_files_free(struct bh_files *f);
/* Ends what waits for the bucket, and all that will, until it is taken back. */
void bh_files_stop(struct bh_files *f, bool stop);

struct bh_names *bh_files_names(struct bh_files *f);
struct bh_blobs *bh_files_blobs(struct bh_files *f);
/* Whether somebody has that file open for writing. From any thread. */
bool bh_files_is_written(struct bh_files *f, uint64_t ino);
/* The mount is gone: what its clients had open counts as closed. NULL is fine. */
void bh_files_clients_gone(struct bh_files *f);
/* The live database was replaced without names.db: the next flush looks for rows of table filestore
 * that are missing. NULL is fine. */
void bh_files_reconcile(struct bh_files *f);
/* For bh_history_set_files. */
const struct bh_files_hooks *bh_files_hooks(struct bh_files *f);
/* swapped(arg): names and contents are others from now on; on the thread that swaps them, before
 * anybody can see them. */
void bh_files_on_swap(struct bh_files *f, void (*swapped)(void *arg), void *arg);

/* appeared(arg, name): the directory files/ itself has that name now, which no client made. On any
 * thread, with a lock: brief, and nothing of these. NULL: nobody is called once this returns. */
void bh_files_on_appear(struct bh_files *f, void (*appeared)(void *arg, const char *name),
                        void *arg);

/* Around every change of names: the gate is closed while content is swapped. EAGAIN (not wait). */
int bh_files_enter(struct bh_files *f, bool wait);
void bh_files_leave(struct bh_files *f, bool changed); /* there is something to flush now */

/* What of *i is newer in a file that is being written: size and times. */
void bh_files_refresh(struct bh_files *f, struct bh_inode *i);
/* As bh_names_set, but size (BH_SET_CONTENT: of *to only content.size counts) truncates. *out as it
 * is then. */
int bh_files_set(struct bh_files *f, uint64_t ino, unsigned what, const struct bh_inode *to,
                 struct bh_inode *out, bool wait, struct bh_error *err);

/* Begins the names of attributes that the row of a file's content has as its `metadata`. */
#define BH_FILES_META "user.bh.meta."
/* One of them was set or removed: a row that is there gets them with the next flush; one that is
 * made has them anyway. Not EAGAIN right after that change: the inode is in memory. */
int bh_files_meta_changed(struct bh_files *f, uint64_t ino, bool wait, struct bh_error *err);

/* --- files in use --- */
struct bh_open; /* one inode that is in use; the same for all its users, counted */

/* EISDIR; ENOENT: it is gone. for_writing counts until bh_open_put with the same. */
int bh_files_use(struct bh_files *f, uint64_t ino, bool for_writing, struct bh_open **out,
                 bool wait, struct bh_error *err);
/* A close. It may enter the gate. Without wait EAGAIN, and it is still in use. */
int bh_open_put(struct bh_open *o, bool for_writing, bool wait);
/* The same where nothing was written by that user; with the gate entered or not. */
void bh_open_drop(struct bh_open *o, bool for_writing);

/* *got: less than len at the end. Without wait also EAGAIN where a disk might be waited for. EIO,
 * ETIMEDOUT, ECANCELED. */
int bh_open_read(struct bh_open *o, void *buf, size_t len, uint64_t offset, size_t *got, bool wait,
                 const struct bh_call *call, struct bh_error *err);
/* Whether reading or writing it with `wait` may make requests, as far as is known now. Does not
 * sleep. */
bool bh_open_fetches(struct bh_open *o);
/* Who changes the content of a file that is a blob makes a copy of it first, for which the blob may
 * have to be fetched. The functions that change it do so themselves, before they enter the gate or
 * take a lock, so that nobody else waits for the bucket: call is for that, as in bh_open_read. */
/* ENOSPC, EFBIG; ESTALE: the content was swapped. */
int bh_open_write(struct bh_open *o, const void *buf, size_t len, uint64_t offset, bool wait,
                  const struct bh_call *call, struct bh_error *err);
/* fallocate(2): mode 0, FALLOC_FL_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE; else EOPNOTSUPP. Sleeps. */
int bh_open_allocate(struct bh_open *o, int mode, uint64_t offset, uint64_t len,
                     const struct bh_call *call, struct bh_error *err);
/* The copy alone, of the first `keep` bytes, which is all that the file then has: for who will
 * truncate it with bh_files_set, before he enters the gate. Sleeps. */
int bh_open_own(struct bh_open *o, uint64_t keep, const struct bh_call *call, struct bh_error *err);
/* lseek(2) with SEEK_DATA or SEEK_HOLE: ENXIO. Waits for who fetches the content to write to it. */
int bh_open_seek(struct bh_open *o, uint64_t offset, int whence, uint64_t *at, bool wait,
                 struct bh_error *err);
/* Bytes that were written count in names: what a close (FLUSH) does. A kill -9 loses nothing of it.
 * Without wait EAGAIN. ESTALE: the content was swapped, and what was written since the last call is
 * in no snapshot. */
int bh_open_flush(struct bh_open *o, bool wait, struct bh_error *err);
/* The same, and it survives a power cut. Sleeps. */
int bh_open_sync(struct bh_open *o, struct bh_error *err);

/* --- contents by their keys --- */
struct bh_blob_row {
    uint64_t size;
    char object_key[BH_KEY_MAX + 1]; /* ""; or the object is under another key than ours */
    char mime[128];                  /* of table filestore; "" not known */
};
/* What names have, or table filestore. ENOENT. Sleeps. */
int bh_files_find_blob(struct bh_files *f, const uint8_t hash[BH_SHA256_LEN],
                       struct bh_blob_row *out, struct bh_error *err);
/* Only of table filestore. */
int bh_files_find_row(struct bh_files *f, const uint8_t hash[BH_SHA256_LEN],
                      struct bh_blob_row *out, struct bh_error *err);
/* All of both. Freed by the caller with free(). Sleeps. */
int bh_files_list_blobs(struct bh_files *f, struct bh_blob_list **out, struct bh_error *err);

/* --- state --- */
enum bh_blob_state bh_files_state(struct bh_files *f, const struct bh_inode *i);
#define BH_MIME_UNKNOWN "application/octet-stream"
/* A file's MIME type: by its name's ending, or by its first bytes where these are here. Makes no
 * request. Sleeps. */
const char *bh_files_mime(struct bh_files *f, const char *name, const struct bh_content *c);
const char *bh_mime_of_name(const char *name);
const char *bh_mime_of_bytes(const void *data, size_t len); /* the first 512 or more */
/* What a flush does for files/ before anything is frozen. */
enum bh_files_phase { BH_FILES_IDLE, BH_FILES_HASHING, BH_FILES_UPLOADING };
struct bh_files_status {
    struct bh_names_stats names;
    struct bh_blobs_stats blobs;
    uint64_t unpublished; /* closed, and in the queue to become blobs */
    enum bh_files_phase phase;
    uint64_t files_done, files_total; /* of that phase; while uploading those are contents */
    uint64_t bytes_done, bytes_total;
};
void bh_files_status(struct bh_files *f, struct bh_files_status *out);

#endif
