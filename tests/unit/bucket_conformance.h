/* What every bucket must do, whatever is behind it: run on file:// and on S3 servers alike. */
#ifndef BUCKET_CONFORMANCE_H
#define BUCKET_CONFORMANCE_H

#include "bucket/bucket.h"

/* Runs the suite on b; every key begins with prefix (unused before, emptied after). The number of
 * failed tests. */
int bucket_conformance(const char *name, struct bh_bucket *b, const char *prefix);

#endif
