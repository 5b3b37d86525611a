/* A bucket in memory, to be read by what is tested and changed by the test. */
#ifndef MEMORY_BUCKET_H
#define MEMORY_BUCKET_H

#include "bucket/bucket.h"

struct memory_object {
    char *key;
    char *data; /* NUL-terminated */
    size_t size;
    unsigned version; /* the ETag */
    struct bh_meta meta;
};

struct bh_bucket *memory_bucket_new(void); /* get, head and list; closed as any other */
void memory_put(struct bh_bucket *b, const char *key, const void *data, size_t len,
                const struct bh_meta *meta);
struct memory_object *memory_find(struct bh_bucket *b, const char *key); /* must be there */
/* Out of the bucket, and back. */
struct memory_object memory_take(struct bh_bucket *b, const char *key);
void memory_give(struct bh_bucket *b, const char *key, const struct memory_object *o);
void memory_drop(struct bh_bucket *b, const char *key); /* for good */
/* Back after the request under way. */
void memory_give_later(struct bh_bucket *b, const char *key, const struct memory_object *o);
void memory_swap(struct bh_bucket *b, const char *key, const char *other);
void memory_touch(struct bh_bucket *b, struct memory_object *o); /* another ETag */
/* Request number n from now on (0: the next) fails, once. rc 0: none does. */
void memory_fail_at(struct bh_bucket *b, unsigned n, int rc);
void memory_on_request(struct bh_bucket *b, void (*fn)(struct bh_bucket *b, const char *key));

#endif
