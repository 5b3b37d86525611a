/* The plain layer: the newest snapshot as one SQLite file in the bucket, as upstream has it. KEY is
 * the newest, KEY.prev the one before it. Each object carries the user metadata bh-snapshot (an id
 * of ours) and, where all of it was local or fetched, bh-sha256; one without an id was written by
 * somebody else.
 *
 * No write of ours happens unseen by another's: an upload is conditional on the ETag that was seen
 * last, and its id is durable in the state directory before it starts, so that an upload whose
 * answer was lost is recognised. */
#ifndef BH_REPO_PLAIN_H
#define BH_REPO_PLAIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bucket/bucket.h"
#include "live/live.h"

struct bh_plain;

enum bh_flush_outcome { BH_FLUSH_UNCHANGED, BH_FLUSH_UPLOADED, BH_FLUSH_DEBOUNCED };

struct bh_flush_result {
    enum bh_flush_outcome outcome;
    char snapshot[BH_SNAPSHOT_ID_MAX]; /* the newest one now; "" if the bucket has none */
    uint64_t bytes;                    /* uploaded */
    double seconds;
};

/* How far the flush under way is; zero when there is none. */
struct bh_progress {
    atomic_int phase; /* 0 none, 1 freezing, 2 hashing, 3 keeping the previous one, 4 uploading */
    atomic_uint_fast64_t done, total; /* bytes */
};

/* What the load found that people should know: unflushed changes, a rescue, a snapshot that is
 * gone. "" if nothing. */
struct bh_load_report {
    char text[512];
};

/* cfg, bucket and live must outlive it. read_only: nothing is written to the bucket. */
int bh_plain_new(struct bh_plain **out, const struct bh_config *cfg, struct bh_bucket *bucket,
                 struct bh_live *live, bool read_only, struct bh_error *err);
void bh_plain_free(struct bh_plain *p);
const char *bh_plain_key(const struct bh_plain *p);
struct bh_progress *bh_plain_progress(struct bh_plain *p);
/* Branches that bh_plain_load made for unflushed changes. */
uint64_t bh_plain_rescues(const struct bh_plain *p);

/* At start: brings the live database to what the bucket or the state directory has.
 * - The bucket's snapshot is the one this state is based on: goes on with the state, unflushed
 * changes included.
 * - It is another: unflushed local changes are first saved as branch rescue-HOST-TIME, then it is
 * loaded.
 * - There is none: goes on with the state, which may be empty.
 * - The bucket does not answer: goes on with the state if it has any content, fails otherwise.
 * What there is to say is appended to report, which the caller has begun.
 * EIO: the snapshot is damaged (nothing changes; the sentence names the way out). */
int bh_plain_load(struct bh_plain *p, struct bh_load_report *report, const struct bh_call *call,
                  struct bh_error *err);

/* Uploads the live database if it has changed. No request to the bucket if nothing was written
 * since the last flush. When it returns 0 everything committed before the call is in the bucket.
 * ESTALE: another writer replaced the snapshot. keep_previous: KEY is copied to KEY.prev before it
 * is replaced. One thread at a time. */
int bh_plain_flush(struct bh_plain *p, bool keep_previous, struct bh_flush_result *result,
                   const struct bh_call *call, struct bh_error *err);

/* --- beside a history, which decides what is flushed and has its own order --- */
/* Of the next bh_plain_put_frozen. */
void bh_plain_keep_previous(struct bh_plain *p, bool keep);
/* What KEY has of the frozen content already. */
struct bh_plain_known {
    char etag[BH_ETAG_MAX]; /* of the object that this is about */
    uint64_t size;          /* its bytes */
    uint32_t unit;          /* bytes of a block, a power of two up to 1 MiB */
    uint64_t blocks;
    uint8_t *changed; /* a bit a block: it may differ from the frozen content */
};
/* KEY becomes the frozen content, as snapshot `id`, if KEY is what we know. ESTALE: it is not.
 * EAGAIN: the freeze was broken. known (may be NULL): what the store can copy from KEY as it is,
 * where it can, need not be sent; where parts of the content are not local it is not hashed then,
 * so the object has no bh-sha256. *bytes: sent. */
int bh_plain_put_frozen(struct bh_plain *p, struct bh_frozen *frozen, const char *id,
                        const struct bh_plain_known *known, uint64_t *bytes,
                        const struct bh_call *call, struct bh_error *err);
/* KEY is that branch's from now on. */
int bh_plain_set_branch(struct bh_plain *p, const char *branch, struct bh_error *err);

#endif
