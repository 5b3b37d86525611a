/* Large bodies over several connections at once, on any bucket: uploads in parts, downloads by
 * ranges. Memory: at most `parallel` buffers of part_size. */
#ifndef BH_BUCKET_TRANSFER_H
#define BH_BUCKET_TRANSFER_H

#include "bucket/bucket.h"

/* S3: a part is no smaller, but for the last one, and neither is one that is copied. */
#define BH_PART_MIN ((uint64_t)5 << 20)

/* An object in the bucket that has some of a body's bytes at the same places: parts that lie wholly
 * in those are copied there by the store instead of sent. Each copy is on condition that the object
 * still has that ETag. Ignored where the store lacks BH_CAP_PART_COPY_IF_MATCH, and where the body
 * goes up as one put. etag NULL: the object never changes, so there is no condition and it takes
 * BH_CAP_PART_COPY alone. */
struct bh_reuse {
    const char *key, *etag;
    bool (*has)(const void *arg, uint64_t offset, uint64_t length); /* any thread */
    const void *arg;
    uint64_t copied; /* told: bytes of the parts that were copied */
    bool refused;    /* told: a copy failed, and the upload with it; nothing has happened */
};

struct bh_transfer {
    uint64_t part_size; /* bytes, 5 MiB to 5 GiB; raised where the object would have over 10,000 */
    unsigned parallel;  /* parts at once, 1 to 256 */
    struct bh_reuse *reuse; /* of an upload; NULL: all is sent */
};

/* Whether bh_bucket_upload with this condition could copy parts: of a body that is larger than one.
 */
bool bh_bucket_can_assemble(struct bh_bucket *b, const struct bh_cond *cond);

/* The part size with which a body of `size` bytes, made of an older object, is to go up: small, as
 * each change costs a part, but no more than some 1000 of them, as each part costs a request; and
 * no larger than `most`, which is an ordinary upload's. Parts are equal but for the last one, as
 * some stores want them. */
uint64_t bh_reuse_part_size(uint64_t size, uint64_t most);
/* Whether an upload that ended with rc failed because the store does not copy, and not because it
 * is away or the call is over: then all is to be sent. */
bool bh_reuse_was_refused(const struct bh_reuse *reuse, int rc, const struct bh_call *call);

/* Like bh_bucket_put (atomic, same errors, same conditions), but what is larger than part_size goes
 * up as a multipart upload, parts in parallel. A condition that the store honours for a put and not
 * for a completion (no BH_CAP_MP_COND) makes it one put up to 5 GiB, and beyond that ENOTSUP. src
 * is read by one thread at a time, in no particular order. A failed upload is aborted; where the
 * abort fails, too, mp_list shows it. A completion whose answer was lost is looked for: only where
 * that is not possible is the outcome ambiguous. */
int bh_bucket_upload(struct bh_bucket *b, const char *key, const struct bh_source *src,
                     const struct bh_meta *meta, const struct bh_cond *cond,
                     const struct bh_transfer *how, struct bh_object_info *info,
                     const struct bh_call *call, struct bh_error *err);

/* Like bh_bucket_get of the whole object: sink gets the bytes in order, in the calling thread. EIO
 * when the object is replaced meanwhile. */
int bh_bucket_download(struct bh_bucket *b, const char *key, const struct bh_transfer *how,
                       bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                       const struct bh_call *call, struct bh_error *err);

#endif
