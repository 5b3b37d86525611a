/* For tests of buckets: putting, asserting what is there, pattern bytes. */
#ifndef BUCKET_HELPERS_H
#define BUCKET_HELPERS_H

#include "bucket/bucket.h"

#define MIB ((uint64_t)1 << 20)
#define ERR (&test_error)

/* Puts a string; asserts success; returns its ETag in a static buffer of the thread. */
const char *must_put(struct bh_bucket *b, const char *key, const char *text);
int put_text(struct bh_bucket *b, const char *key, const char *text, const struct bh_cond *cond);
/* Asserts that the object is there and has just this content. */
void must_have(struct bh_bucket *b, const char *key, const char *text);
void must_lack(struct bh_bucket *b, const char *key);
/* The listing, one entry a line, prefixes with a '*' before them; in a static buffer of the thread.
 */
const char *listing(struct bh_bucket *b, const char *prefix, const char *delimiter,
                    const char *after, size_t max);
/* Pattern bytes that differ at every offset: a source of `size` bytes, and a sink that checks them.
 */
struct bh_source pattern_source(uint64_t size);
int pattern_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err);
/* arg: a uint64_t with the offset of the first byte, moved on. EBADMSG: a byte is not the
 * pattern's. */
int pattern_check(void *arg, const void *data, size_t len, struct bh_error *err);
void must_have_pattern(struct bh_bucket *b, const char *key, uint64_t size);
/* Fails the test with the error's sentence unless rc is as expected. */
#define must(expression)         must_be_(0, (expression), #expression, __FILE__, __LINE__)
#define must_fail(expression, c) must_be_((c), (expression), #expression, __FILE__, __LINE__)
void must_be_(int expected, int rc, const char *what, const char *file, int line);

extern _Thread_local struct bh_error test_error; /* pass it to every call */

#endif
