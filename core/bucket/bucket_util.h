/* What backends and layers share: counters, checks, bodies, waiting. Callers of a bucket use
 * bucket.h. */
#ifndef BH_BUCKET_UTIL_H
#define BH_BUCKET_UTIL_H

#include "bucket/bucket.h"
#include "util/random.h"

#define BH_CHUNK ((size_t)1 << 20) /* cancel and deadline are looked at after so many bytes */

struct bh_counters {
    atomic_uint_fast64_t requests[BH_OP_COUNT];
    atomic_uint_fast64_t errors[BH_OP_COUNT];
    atomic_uint_fast64_t nanoseconds[BH_OP_COUNT];
    atomic_uint_fast64_t failures[BH_BUCKET_ERROR_COUNT];
    atomic_uint_fast64_t bytes_up;
    atomic_uint_fast64_t bytes_down;
};

/* Counts one request that began at start_ns (bh_mono_ns) and ended with rc; returns rc. ENOENT,
 * EEXIST, ESTALE and ENOTSUP are answers, not errors. */
int bh_counters_note(struct bh_counters *c, enum bh_bucket_op op, int64_t start_ns, int rc);
void bh_counters_read(struct bh_counters *c, struct bh_bucket_stats *out);

/* 0, EINVAL (empty, not UTF-8) or ENAMETOOLONG. */
int bh_key_check(const char *key, struct bh_error *err);
bool bh_utf8_valid(const char *s);

/* The next bytes of a body, from memory or by its read function. */
int bh_source_read(const struct bh_source *src, uint64_t offset, void *buf, size_t len,
                   struct bh_error *err);

/* Sleeps ms, in slices: bh_call_check's answer as soon as the call is cancelled or its deadline is
 * reached. */
int bh_call_sleep(const struct bh_call *call, int64_t ms, const char *what, struct bh_error *err);

/* A fresh value for BH_META_PUT. */
#define BH_PUT_ID_SIZE 33
void bh_put_id(char id[BH_PUT_ID_SIZE]);

#endif
