/* A bucket: objects under keys, as S3 has them. One table of functions; every backend (file://,
 * s3://) and every layer (fault, retry) implements it, a layer with the bucket below as `inner`.
 *
 * Contracts that hold for every implementation:
 * - Functions return 0 or a positive errno and fill *err with a sentence. ENOENT: no such key (or
 * upload); EEXIST: if_none_match met an existing key; ESTALE: if_match did not match; EACCES: the
 * bucket refuses; ETIMEDOUT: it does not answer; EIO: it answered nonsense, or the body was cut or
 * damaged; ENOTSUP: this store has no such operation (see caps); ECANCELED: call->cancel was set;
 * EINVAL: a bad argument; ENAMETOOLONG: key over 1024 bytes; ENOSPC: the store is full; EAGAIN: the
 * store asks to come back later.
 * - A put is atomic: readers see the old object or the whole new one. When it returns 0 the object
 * is durable. When it fails with ETIMEDOUT, EIO or EAGAIN it may have happened all the same
 * ("ambiguous"): who cares must look. ESTALE, EEXIST, EACCES, ENOSPC, EINVAL, ENOTSUP and ECANCELED
 * mean that nothing happened.
 * - Conditional puts are decided atomically against every other writer, in other processes too.
 * - Every function may be called from any thread, several at once; `call` may be NULL (no limit).
 * - Keys are 1 to 1024 bytes of UTF-8 without NUL, U+FFFE and U+FFFF; every other byte S3 allows is
 * allowed. Keys with control characters cannot be uploaded in parts everywhere: EINVAL.
 */
#ifndef BH_BUCKET_H
#define BH_BUCKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"
#include "util/strbuf.h"

struct bh_bucket;
struct bh_config;

#define BH_KEY_MAX        1024
#define BH_ETAG_MAX       128
#define BH_UPLOAD_ID_MAX  512
#define BH_META_ITEMS_MAX 9   /* 8 of a caller's, and BH_META_PUT */
#define BH_META_NAME_MAX  64  /* with NUL; lower-case letters, digits and '-' (S3 folds the case) */
#define BH_META_VALUE_MAX 256 /* with NUL; printable ASCII, no space at the ends */

/* The item that conditional puts and multipart uploads carry, beside the caller's: a random id by
 * which they recognise their object if the answer is lost. It is a put's alone: a caller who passes on
 * the metadata of another object need not remove it. */
#define BH_META_PUT "bh-put"

struct bh_meta {
    size_t count;
    struct {
        char name[BH_META_NAME_MAX];
        char value[BH_META_VALUE_MAX];
    } items[BH_META_ITEMS_MAX];
};

/* 0, EINVAL (name or value not of the allowed form) or E2BIG (no room). Replaces an item of the
 * same name. */
int bh_meta_set(struct bh_meta *m, const char *name, const char *value, struct bh_error *err);
/* The value, or NULL. */
const char *bh_meta_get(const struct bh_meta *m, const char *name);

struct bh_object_info {
    uint64_t size;          /* bytes of the whole object, also for a ranged get */
    int64_t mtime_ms;       /* last change, real time, by the store's clock */
    char etag[BH_ETAG_MAX]; /* opaque, without quotes; changes with every put of other content */
    struct bh_meta meta;    /* filled by head and get; empty in a listing */
};

/* Limits of one call. */
struct bh_call {
    const atomic_bool
        *cancel; /* NULL, or: the call ends with ECANCELED soon after this becomes true */
    const atomic_bool *stop; /* the same, for a second party: the program ends */
    int64_t deadline_ms;     /* 0, or: bh_mono_ms() after which the call ends with ETIMEDOUT */
};

/* 0, ECANCELED or ETIMEDOUT (with a sentence that names what). Backends call it between steps. */
int bh_call_check(const struct bh_call *call, const char *what, struct bh_error *err);

/* Takes the next bytes of a body, in order. Returning an errno ends the get with it. */
typedef int bh_sink_fn(void *arg, const void *data, size_t len, struct bh_error *err);

/* A body to send. read fills exactly len bytes from offset; it must be able to repeat (a retry
 * reads again). data != NULL instead of read: the body is in memory. */
struct bh_source {
    uint64_t size;
    const void *data;
    int (*read)(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err);
    void *arg;
};

struct bh_cond {
    const char *if_match; /* NULL, or the ETag the key must have now: ESTALE otherwise (also if
                             there is none) */
    bool if_none_match;   /* the key must not exist: EEXIST otherwise */
};

struct bh_part {
    unsigned number; /* 1 to 10000 */
    char etag[BH_ETAG_MAX];
};

/* One listed object (is_prefix false), or one common prefix (true; only key is set then). The
 * strings live during the call only. Returning an errno ends the listing with it. */
typedef int bh_list_fn(void *arg, const char *key, bool is_prefix,
                       const struct bh_object_info *info, struct bh_error *err);

struct bh_list_request {
    const char *prefix;      /* "" for all */
    const char *delimiter;   /* NULL, or one character (commonly "/"): keys that have it after the
                                prefix are rolled up */
    const char *start_after; /* NULL, or: only keys after this one, in byte order */
    size_t max;              /* 0: everything, in pages; else at most so many entries in all */
};

typedef int bh_upload_fn(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                         struct bh_error *err);

enum bh_bucket_caps {
    BH_CAP_IF_NONE_MATCH = 1 << 0, /* conditional put on absence */
    BH_CAP_IF_MATCH = 1 << 1,      /* conditional put on an ETag */
    BH_CAP_COPY_IF_MATCH = 1 << 2, /* copy honours the source's ETag */
    BH_CAP_PRESIGN = 1 << 3,
    BH_CAP_MP_COND = 1 << 4,   /* mp_complete honours its condition; without: ENOTSUP for one */
    BH_CAP_PART_COPY = 1 << 5, /* mp_part_copy */
    BH_CAP_PART_COPY_IF_MATCH = 1 << 6, /* and it honours the source's ETag, as copy does */
};

/* Counters since opening; a layer passes the innermost backend's on and adds its own retries. */
enum bh_bucket_op {
    BH_OP_GET,
    BH_OP_PUT,
    BH_OP_HEAD,
    BH_OP_COPY,
    BH_OP_DELETE,
    BH_OP_LIST,
    BH_OP_MULTIPART,
    BH_OP_OTHER,
    BH_OP_COUNT
};
const char *bh_bucket_op_name(enum bh_bucket_op op); /* "get", "put", ... */

/* Failed requests by what went wrong. ENOENT, EEXIST, ESTALE and ENOTSUP are answers, not
 * failures. */
enum bh_bucket_error_kind {
    BH_BUCKET_ERROR_TIMEOUT,   /* ETIMEDOUT: no connection, no answer, no progress */
    BH_BUCKET_ERROR_THROTTLED, /* EAGAIN: the store asks to come back later */
    BH_BUCKET_ERROR_BROKEN,    /* EIO: the store failed, or its answer was cut or damaged */
    BH_BUCKET_ERROR_REFUSED,   /* EACCES */
    BH_BUCKET_ERROR_CANCELLED, /* ECANCELED */
    BH_BUCKET_ERROR_OTHER,
    BH_BUCKET_ERROR_COUNT
};
const char *bh_bucket_error_name(enum bh_bucket_error_kind kind); /* "timeout", ... */

struct bh_bucket_stats {
    uint64_t requests[BH_OP_COUNT];
    uint64_t errors[BH_OP_COUNT];
    uint64_t nanoseconds[BH_OP_COUNT];
    uint64_t bytes_up;
    uint64_t bytes_down;
    uint64_t failures[BH_BUCKET_ERROR_COUNT];
    uint64_t retries;
    uint64_t connects; /* connections opened; 0 where there are none */
};

/* The table. Everything but close may be called through the bh_bucket_* functions below only. */
struct bh_bucket_ops {
    const char *name; /* "file", "fault", ... */
    void (*close)(struct bh_bucket *b);
    unsigned (*caps)(struct bh_bucket *b);
    int (*get)(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
               bh_sink_fn *sink, void *arg, struct bh_object_info *info, const struct bh_call *call,
               struct bh_error *err);
    int (*put)(struct bh_bucket *b, const char *key, const struct bh_source *src,
               const struct bh_meta *meta, const struct bh_cond *cond, struct bh_object_info *info,
               const struct bh_call *call, struct bh_error *err);
    int (*head)(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                const struct bh_call *call, struct bh_error *err);
    int (*copy)(struct bh_bucket *b, const char *from, const char *to, const char *from_if_match,
                struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);
    int (*del)(struct bh_bucket *b, const char *key, const struct bh_call *call,
               struct bh_error *err);
    int (*del_many)(struct bh_bucket *b, const char *const *keys, size_t count, size_t *deleted,
                    const struct bh_call *call, struct bh_error *err);
    int (*list)(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn, void *arg,
                const struct bh_call *call, struct bh_error *err);
    int (*mp_begin)(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                    char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                    struct bh_error *err);
    int (*mp_part)(struct bh_bucket *b, const char *key, const char *upload_id, unsigned number,
                   const struct bh_source *src, struct bh_part *out, const struct bh_call *call,
                   struct bh_error *err);
    int (*mp_part_copy)(struct bh_bucket *b, const char *key, const char *upload_id,
                        unsigned number, const char *from, uint64_t offset, uint64_t length,
                        const char *from_if_match, struct bh_part *out, const struct bh_call *call,
                        struct bh_error *err);
    int (*mp_complete)(struct bh_bucket *b, const char *key, const char *upload_id,
                       const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                       struct bh_object_info *info, const struct bh_call *call,
                       struct bh_error *err);
    int (*mp_abort)(struct bh_bucket *b, const char *key, const char *upload_id,
                    const struct bh_call *call, struct bh_error *err);
    int (*mp_list)(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
                   const struct bh_call *call, struct bh_error *err);
    int (*presign)(struct bh_bucket *b, const char *key, int64_t seconds, struct bh_strbuf *url,
                   struct bh_error *err);
    int (*server_time)(struct bh_bucket *b, int64_t *real_ms, const struct bh_call *call,
                       struct bh_error *err);
    int (*learn)(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err);
    int (*make)(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err);
    void (*describe)(struct bh_bucket *b, struct bh_strbuf *out);
    void (*stats)(struct bh_bucket *b, struct bh_bucket_stats *out);
};

struct bh_bucket {
    const struct bh_bucket_ops *ops;
    /* the implementation's own struct begins with this one */
};

/* Opens what cfg->bucket says: the backend, the fault layer where bucket.fault has rules, the retry
 * layer on top. EINVAL, ENOENT (the directory or bucket is not there), EACCES, ENOTSUP. Closed with
 * bh_bucket_close. */
int bh_bucket_open(struct bh_bucket **out, const struct bh_config *cfg, struct bh_error *err);
void bh_bucket_close(struct bh_bucket *b); /* NULL is fine; closes the layers below too */

/* --- what callers use; each checks its arguments, then calls the table --- */
/* A set of enum bh_bucket_caps: what is known of the store, or assumed of it before bh_bucket_learn
 * succeeded. A condition that the store would ignore is refused with ENOTSUP in either case. */
unsigned bh_bucket_caps(struct bh_bucket *b);
/* Finds out what the store can do, by trying it on an object PREFIX.bhfs-probe/RANDOM that is
 * deleted again; 0 at once where that is known. Fails as put does: EACCES with read-only credentials.
 */
int bh_bucket_learn(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err);
/* Makes the bucket itself (not its objects); 0 if it is there and ours, EACCES if somebody else's. */
int bh_bucket_make(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err);
/* Appends lines "name: value\n" for people about where and how the store is reached; no secret. */
void bh_bucket_describe(struct bh_bucket *b, struct bh_strbuf *out);

/* length UINT64_MAX: to the end. A range beyond the end: EINVAL, except offset 0 of an empty
 * object. info may be NULL; it is filled before the first byte reaches the sink. */
int bh_bucket_get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
                  bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                  const struct bh_call *call, struct bh_error *err);
/* The whole object in memory, at most max bytes (EFBIG beyond): a NUL-terminated copy the caller
 * frees. */
int bh_bucket_get_small(struct bh_bucket *b, const char *key, size_t max, char **data, size_t *len,
                        struct bh_object_info *info, const struct bh_call *call,
                        struct bh_error *err);
/* meta, cond and info may be NULL; info gets size, ETag and time of what was written. */
int bh_bucket_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
                  const struct bh_meta *meta, const struct bh_cond *cond,
                  struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);
int bh_bucket_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                   const struct bh_call *call, struct bh_error *err);
/* Server-side, with metadata. from_if_match (may be NULL) is honoured where caps say so, else
 * ENOTSUP. info may be NULL, which may spare a request (the table's function gets the NULL). */
int bh_bucket_copy(struct bh_bucket *b, const char *from, const char *to, const char *from_if_match,
                   struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);
/* Deleting what is not there is success. */
int bh_bucket_delete(struct bh_bucket *b, const char *key, const struct bh_call *call,
                     struct bh_error *err);
/* *deleted (may be NULL) counts those that are gone, also when the call fails on another. */
int bh_bucket_delete_many(struct bh_bucket *b, const char *const *keys, size_t count,
                          size_t *deleted, const struct bh_call *call, struct bh_error *err);
/* In byte order of the keys (prefixes among them). */
int bh_bucket_list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn,
                   void *arg, const struct bh_call *call, struct bh_error *err);
/* Multipart upload: parts of 5 MiB to 5 GiB (the last may be smaller), in any order, several at
 * once; the object appears when complete returns. Parts must be passed in ascending order of their
 * number, none twice. */
int bh_bucket_mp_begin(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                       char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                       struct bh_error *err);
int bh_bucket_mp_part(struct bh_bucket *b, const char *key, const char *upload_id, unsigned number,
                      const struct bh_source *src, struct bh_part *out, const struct bh_call *call,
                      struct bh_error *err);
int bh_bucket_mp_part_copy(struct bh_bucket *b, const char *key, const char *upload_id,
                           unsigned number, const char *from, uint64_t offset, uint64_t length,
                           const char *from_if_match, struct bh_part *out,
                           const struct bh_call *call, struct bh_error *err);
int bh_bucket_mp_complete(struct bh_bucket *b, const char *key, const char *upload_id,
                          const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                          struct bh_object_info *info, const struct bh_call *call,
                          struct bh_error *err);
int bh_bucket_mp_abort(struct bh_bucket *b, const char *key, const char *upload_id,
                       const struct bh_call *call, struct bh_error *err);
int bh_bucket_mp_list(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
                      const struct bh_call *call, struct bh_error *err);
/* A URL that anyone can GET for so many seconds (1 to 604800). */
int bh_bucket_presign(struct bh_bucket *b, const char *key, int64_t seconds, struct bh_strbuf *url,
                      struct bh_error *err);
/* The store's clock: leases and graces are counted by it, never by ours. */
int bh_bucket_server_time(struct bh_bucket *b, int64_t *real_ms, const struct bh_call *call,
                          struct bh_error *err);
void bh_bucket_stats(struct bh_bucket *b, struct bh_bucket_stats *out);

/* --- constructors of the parts --- */
/* A directory as a bucket. The directory must exist: a missing one may be an
 * unmounted disk. */
int bh_bucket_dir_open(struct bh_bucket **out, const char *path, struct bh_error *err);
/* Injects what rules say; see fault.c's head for the rule language. Takes inner over on success. */
int bh_bucket_fault_wrap(struct bh_bucket **out, struct bh_bucket *inner, const char *rules,
                         uint64_t seed, struct bh_error *err);
struct bh_retry_options {
    unsigned attempts; /* of one request, in all; 0 is 1 */
    int64_t base_ms;   /* of the exponential back-off: the first pause is at most so long */
    int64_t time_ms;   /* 0: no limit, or: see below */
    unsigned budget;   /* repetitions that all calls together have in store; 0: enough */
};
/* Repeats what is safe to repeat after EAGAIN, EIO and ETIMEDOUT, up to `attempts` times in all, with
 * exponential back-off from base_ms and full jitter. All attempts together take at most time_ms;
 * where bodies move (get, put, part, copy, pages of a list) an attempt that goes on is never cut by
 * it: there it begins with the first failure. Attempts and time of a get or list that got ahead
 * count anew. All calls share a budget of repetitions that successes (and time) fill again: with
 * the store down many calls at once fail soon instead of multiplying the load; one call alone never
 * meets it.
 *
 * A get goes on where the sink stopped if the object's ETag is still the same. A completion is never
 * repeated: the caller looks. A conditional put gets the metadata item BH_META_PUT, a random id; after
 * EAGAIN, EIO or ETIMEDOUT the object is looked at. If it has the id, the put succeeded (info is
 * head's); if it is as the condition wants it, the put is repeated; if another writer's object is
 * there, or looking fails, the outcome stays ambiguous.
 *
 * Takes inner over on success. */
int bh_bucket_retry_wrap(struct bh_bucket **out, struct bh_bucket *inner,
                         const struct bh_retry_options *how, struct bh_error *err);

#endif
