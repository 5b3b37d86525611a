/* What a bucket answers, can do and holds, without mounting it: upstream's `status`. */
#ifndef BH_REPO_PROBE_H
#define BH_REPO_PROBE_H

#include "bucket/bucket.h"
#include "config/config.h"

/* Appends lines "name: value": how the bucket is reached, whether it answers and how fast, whether
 * it can be written and what it can do (tried on an object of our own that is deleted again, unless
 * read_only), the newest snapshot of the branch, and the branches there are. Returns 0 if the
 * bucket can be read, else errno and sentence; the lines so far stay. */
int bh_probe(const struct bh_config *cfg, bool read_only, struct bh_strbuf *out,
             const struct bh_call *call, struct bh_error *err);

#endif
