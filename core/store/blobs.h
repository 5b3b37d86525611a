/* What files contain: local data files while they are written, blobs (immutable, named by their
 * SHA-256) afterwards, here and in the bucket.
 *
 * In the directory of the state (all names flat):
 *   d-HEX16       a data file: the content of one file that is being written or was not published
 *   p-SHA256HEX   a blob that is not known to be in the bucket: complete; never evicted
 *   c-SHA256HEX   a blob that is in the bucket, too: complete, checked; least recently used goes
 *   u-SHA256HEX   was a c- file when the machine lost its power: hashed before it is used
 *   r-SHA256HEX   parts of a large blob that is in the bucket, with r-SHA256HEX.map beside it
 *   t-*           under way; removed at the start
 * A blob's object in the bucket is PREFIX + its hash in hex (UPSTREAM: files/SHA256HEX).
 *
 * Any thread may call, but for one data file: its writers are the caller's to order. Functions
 * return 0 or a positive errno; err may be NULL where it is last but one. */
#ifndef BH_STORE_BLOBS_H
#define BH_STORE_BLOBS_H

#include <stdbool.h>
#include <stdint.h>

#include "bucket/bucket.h"
#include "live/disk.h"
#include "util/error.h"
#include "util/sha256.h"

struct bh_blobs;

struct bh_blobs_options {
    struct bh_disk *disk; /* of that directory, which is ours alone */
    struct bh_bucket *bucket;
    const char *prefix;      /* "files/"; copied */
    uint64_t cache_max;      /* bytes of c- and r- files; 0: no bound */
    unsigned parallel;       /* uploads at once, and fetches at once; 1 to 64 */
    uint64_t part_size;      /* of multipart uploads */
    int64_t pause_ms;        /* the first one after an upload that failed; 0: 1000 */
    int64_t read_timeout_ms; /* a read that the bucket does not answer: ETIMEDOUT */
    bool read_only;          /* no upload is begun */
    /* What is published is not evicted before bh_blobs_named, in the bucket or not: as long as no
     * head names it another mount's gc may delete the object, and it is written anew from here.
     * What an earlier life left counts as published. */
    bool keep_unnamed;
};

/* Takes up what an earlier life left: pending blobs are uploaded (after bh_blobs_start). After a
 * power cut pending blobs are checked against their names first (recheck). */
int bh_blobs_open(struct bh_blobs **out, const struct bh_blobs_options *o, bool recheck,
                  struct bh_error *err);
/* Uploads begin. */
int bh_blobs_start(struct bh_blobs *b, struct bh_error *err);
/* Ends uploads and fetches under way (ECANCELED); what is pending stays so. */
void bh_blobs_close(struct bh_blobs *b);
/* Waiting reads and uploads end soon, and new ones fail with ECANCELED, until it is taken back. */
void bh_blobs_stop(struct bh_blobs *b, bool stop);
void bh_blobs_set_cache_max(struct bh_blobs *b, uint64_t max);
bool bh_blobs_is_full(int rc); /* ENOSPC, EDQUOT */
/* For who met one of them while writing a data file: cached blobs of so many bytes and some more
 * are evicted. False: there was nothing that could go; else the write may be tried again. */
bool bh_blobs_make_room(struct bh_blobs *b, uint64_t bytes);
/* bh_dfile_write, tried again on a full disk if room for `more` bytes can be made. */
int bh_blobs_write(struct bh_blobs *b, struct bh_dfile *f, const void *buf, size_t len,
                   uint64_t offset, uint64_t more);

/* --- data files: d-HEX16, written through bh_dfile (live/disk.h) by the caller --- */
/* A new, empty one; its number is random and not 0. */
int bh_data_create(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out,
                   struct bh_error *err);
/* The same without waiting for the disk: one that was made ahead, which is so where several are
 * made one after the other. EAGAIN: there is none. */
int bh_data_create_at_once(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out);
int bh_data_open(struct bh_blobs *b, uint64_t number, struct bh_dfile *out); /* ENOENT */
/* The same, but if the file has become a blob as well, *number becomes that of a copy of its first
 * `len` bytes, or of all where it has fewer (the old one stays, for the caller to remove).
 * ECANCELED (call). */
int bh_data_open_to_write(struct bh_blobs *b, uint64_t *number, uint64_t len, struct bh_dfile *out,
                          const struct bh_call *call, struct bh_error *err);
/* The first `len` bytes of fd, into an empty data file; makes room for it on a full disk. ECANCELED
 * (call). */
int bh_data_copy(struct bh_blobs *b, int fd, uint64_t len, struct bh_dfile *to,
                 const struct bh_call *call, struct bh_error *err);
/* Bytes that it takes on the disk: fewer than its size where it has holes. ENOENT. */
int bh_data_room(struct bh_blobs *b, uint64_t number, uint64_t *bytes);
void bh_data_remove(struct bh_blobs *b, uint64_t number); /* 0 is fine */
/* Edits of large files. What the data file has now is the first `common` bytes of that blob,
 * checked; once it is published, only what changed since is sent. Not remembered beyond this
 * process. */
void bh_data_is_copy(struct bh_blobs *b, uint64_t number, const uint8_t hash[BH_SHA256_LEN],
                     uint64_t size, uint64_t common);
/* Before [offset, end) of any data file is written, and before one is cut. Quick. */
void bh_data_changes(struct bh_blobs *b, uint64_t number, uint64_t offset, uint64_t end);
void bh_data_shrinks(struct bh_blobs *b, uint64_t number, uint64_t size);
/* Calls fn with each one's number, for the caller to remove what nobody refers to. */
int bh_data_each(struct bh_blobs *b, void (*fn)(void *arg, uint64_t number), void *arg,
                 struct bh_error *err);

/* --- publishing --- */
/* The first `size` bytes of f, the data file of that number, become a blob: hashed, p-HASH unless
 * it is known to be here or in the bucket already; queued for upload. Nobody writes to it until
 * this returns. take: it gets p-HASH as a second name, d-HEX16 stays (until bh_data_remove), so
 * that a crash in between loses nothing; whoever opens a data file to write it, and finds that it
 * has two names, copies it first (bh_data_open_to_write). Else a copy is made. still (may be NULL)
 * is asked every MiB and at the end, before the blob gets its name: false ends it with ESTALE, and
 * nothing has happened. The empty content is a blob, too, but never stored nor uploaded. Sleeps as
 * long as it takes. ENOSPC, ECANCELED (call). */
int bh_blobs_publish(struct bh_blobs *b, const struct bh_dfile *f, uint64_t size, uint64_t number,
                     bool take, bool (*still)(void *arg), void *arg, uint8_t hash[BH_SHA256_LEN],
                     const struct bh_call *call, struct bh_error *err);
/* Syncs of what was published since the last call are shared: until this returns 0 what was
 * published may be lost by a power cut. (bh_blobs_publish itself does not sync: many small files
 * cost one sync together.) Called before a hash goes into an inode. Where a sync fails what it was
 * for counts as unsafe (EIO) until it is uploaded: the kernel may say of a second sync that all is
 * well. */
int bh_blobs_settle(struct bh_blobs *b, struct bh_error *err);

enum bh_blob_state { BH_BLOB_LOCAL, BH_BLOB_UPLOADING, BH_BLOB_STORED };
/* What is not pending counts as stored. */
enum bh_blob_state bh_blobs_state(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN]);
/* Appends a URL by which anybody can GET the blob for so many seconds. object_key: NULL, or as in
 * bh_blob_open_key. No request of the blobs', but credentials may be looked up: sleeps. ENODATA:
 * there is no such object yet, or the store has no such URLs. */
int bh_blobs_link(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], const char *object_key,
                  int64_t seconds, struct bh_strbuf *url, struct bh_error *err);
/* All that was published before this call is in the bucket when it returns 0. The first failure of
 * an upload that cannot be repeated ends it: EACCES, ENOSPC, ...; ETIMEDOUT. Uploads that fail are
 * tried again, with pauses, for ever, and at once when this is called, which gives up with the
 * error after `tries` of the same blob. EROFS: read_only. ECANCELED: call, or bh_blobs_stop. Before
 * bh_blobs_start nothing is uploaded, and this waits. */
int bh_blobs_wait(struct bh_blobs *b, unsigned tries, const struct bh_call *call,
                  struct bh_error *err);
/* The content of names was frozen: what is published from now on is of a later flush. Returns the
 * flush's number, for bh_blobs_named once a head has that content. */
uint32_t bh_blobs_frozen(struct bh_blobs *b);
void bh_blobs_named(struct bh_blobs *b, uint32_t flush);
/* Writes the object anew from what is here, whatever the bucket has. ENOENT: it is not here whole
 * and undamaged. As bh_bucket_put. */
int bh_blobs_renew(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t size,
                   const struct bh_call *call, struct bh_error *err);

/* --- reading --- */
struct bh_blob; /* an open blob: keeps what is local of it from being evicted; counted */
/* No request. size: what its name's inode (or row) says. ENOMEM. */
int bh_blob_open(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t size,
                 struct bh_blob **out);
/* An open blob under another key: of a row that upstream put with an object_key of its own. */
int bh_blob_open_key(struct bh_blobs *b, const char *object_key, const uint8_t hash[BH_SHA256_LEN],
                     uint64_t size, struct bh_blob **out);
/* The same once more, to be closed as well. */
struct bh_blob *bh_blob_ref(struct bh_blob *o);
void bh_blob_close(struct bh_blob *o);
/* Reading it will make no request, as far as is known now. */
bool bh_blob_is_here(const struct bh_blob *o);
/* A small blob (BH_BLOB_WHOLE) that somebody may want soon: is fetched after all that is waited
 * for, unless it is here. Without memory or room it is not. Does not sleep. */
void bh_blobs_fetch_ahead(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t size);
/* What can be had without waiting for disk or bucket: all of [offset, offset + len) up to the end,
 * or EAGAIN. */
int bh_blob_read_at_once(struct bh_blob *o, void *buf, size_t len, uint64_t offset, size_t *got);
/* Small blobs (BH_BLOB_WHOLE) are fetched whole and checked against the hash before a byte is
 * returned; of larger ones ranges are fetched, with adaptive read-ahead, and once all is here
 * nothing more is returned before it was checked. Readers of one range share one request. What a
 * full disk cannot keep is read from the bucket all the same, and a little of it kept in memory.
 * EIO: the content is not what its name says, or the object is gone (the sentence says which);
 * ETIMEDOUT; ECANCELED (call). */
int bh_blob_read(struct bh_blob *o, void *buf, size_t len, uint64_t offset, size_t *got,
                 const struct bh_call *call, struct bh_error *err);
/* Copies [0, len) to f (by reference where the file system can, and all is here). *checked: what
 * was copied is known to be what the hash says; all of a blob is, or it fails with EIO. */
int bh_blob_copy(struct bh_blob *o, struct bh_dfile *f, uint64_t len, bool *checked,
                 const struct bh_call *call, struct bh_error *err);
#define BH_BLOB_WHOLE (8u << 20)

struct bh_blobs_stats {
    uint64_t pending, pending_bytes; /* blobs not in the bucket yet, uploading ones among them */
    uint64_t uploading;
    uint64_t uploaded, uploaded_bytes; /* since the start; of edited ones what was sent */
    uint64_t cached_bytes, cache_max, evicted_bytes;
    uint64_t fetched_bytes;
    char error[BH_ERROR_TEXT_MAX]; /* of the last upload that failed and was not made up for; "" */
};
void bh_blobs_stats(struct bh_blobs *b, struct bh_blobs_stats *out);

#endif
