/* A bucket in memory, of any size, whose clock the test sets; it crashes, lies and lets others in
 * between as it is told. */
#ifndef CLOCK_BUCKET_H
#define CLOCK_BUCKET_H

#include "bucket/bucket.h"

struct bh_bucket *clock_bucket_new(void); /* closed as any other */
/* Makes the objects of `to` those of `from`. */
void clock_bucket_copy(struct bh_bucket *to, struct bh_bucket *from);

extern int64_t clock_ms; /* its time, which objects get */

extern atomic_int clock_requests_left; /* then all fail; INT32_MAX: enough */
extern bool clock_last_is_done;        /* the first that fails happens all the same */
extern atomic_int clock_requests;      /* that were made */
/* Before every request, but for those that it makes itself. NULL: nothing. */
extern void (*clock_hook)(const char *op, const char *key);
/* True: the put is answered well, and nothing is stored. NULL: never. */
extern bool (*clock_lie)(const char *key);

uint64_t clock_bytes(struct bh_bucket *b, const char *prefix); /* of all objects below it */
size_t clock_count(struct bh_bucket *b, const char *prefix);
/* The bytes of an object, to be changed; NULL: there is none. */
char *clock_data(struct bh_bucket *b, const char *key, size_t *size);
void clock_remove(struct bh_bucket *b, const char *key);
/* Another object with the same bytes. */
void clock_double(struct bh_bucket *b, const char *key, const char *as);

#endif
