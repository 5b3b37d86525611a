/* Upstream's profile files, when [profiling] asks: one JSON line a flush in flushes.jsonl, a
 * summary at stop. */
#ifndef BH_PROFILE_H
#define BH_PROFILE_H

#include "bucket/bucket.h"
#include "repo/plain.h"

struct bh_profile;

/* *out is NULL when profiling is off. Errors: the directory cannot be made or written. */
int bh_profile_open(struct bh_profile **out, const struct bh_config *cfg, struct bh_error *err);
/* p may be NULL. A line that cannot be written is logged, never an error of the flush. One thread
 * at a time. */
void bh_profile_flush(struct bh_profile *p, int rc, const struct bh_flush_result *r,
                      const struct bh_error *err);
/* Writes summary.json from the bucket's counters. */
void bh_profile_close(struct bh_profile *p, struct bh_bucket *bucket);

#endif
