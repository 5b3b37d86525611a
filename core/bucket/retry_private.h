/* What the files of the retry layer share: the bucket, its budget, and one call's attempts. */
#ifndef BH_BUCKET_RETRY_PRIVATE_H
#define BH_BUCKET_RETRY_PRIVATE_H

#include <pthread.h>

#include "bucket/bucket.h"

struct retry {
    struct bh_bucket base;
    struct bh_bucket *inner;
    struct bh_retry_options how;
    atomic_uint_fast64_t retries;
    pthread_mutex_t mutex; /* guards what follows */
    int64_t tokens;
    int64_t refilled_ms;
};

/* See retry_series.c: the tokens that one repetition takes, and how many repetitions the calls of a
 * bucket together have in store. */
#define BH_RETRY_COST   5
#define BH_RETRY_BUDGET 100

enum series_kind {
    SERIES_READS = 0,
    SERIES_WRITES = 1 << 0, /* the outcome is in doubt after an ambiguous attempt */
    /* Carries a body of any size, or makes the store work for long: an attempt that goes on is not
     * cut by how.time_ms, which counts from the first failure. */
    SERIES_LONG = 1 << 1,
};

/* One call's attempts. */
struct series {
    struct retry *r;
    unsigned kind;
    const char *what;
    const char *key;
    const struct bh_call *call; /* of each attempt: the caller's, or `limited` */
    struct bh_call limited;     /* the caller's, with an earlier deadline */
    struct bh_error *err;
    struct bh_error own; /* where the caller wants no sentence */
    unsigned attempt;
    int64_t until_ms; /* no attempt begins after it; 0: no limit (yet) */
    bool last;        /* a pause was cut: the attempt after it is the last */
    int ambiguous;    /* the first such code */
};

void bh_series_begin(struct series *s, struct bh_bucket *b, const char *what, const char *key,
                     unsigned kind, const struct bh_call *call, struct bh_error *err);
/* After an attempt ended with *rc (0 too): waits and says true if there is to be another. False:
 * *rc and the sentence are what the call ends with. */
bool bh_series_again(struct series *s, int *rc);
/* The attempt that just ended had got ahead: attempts and time count anew. */
void bh_series_progress(struct series *s);
/* What the caller is told: an ambiguous code must not be covered by one that says "nothing
 * happened". */
int bh_series_end(struct series *s, int rc);

bool bh_retry_is_passing(int rc);

/* A source that remembers whether it was what failed. */
struct watched_source {
    const struct bh_source *src;
    bool failed;
};
struct bh_source bh_source_watch(struct watched_source *w);

/* A conditional put, with its reading back (retry_cond.c). */
int bh_retry_cond_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
                      const struct bh_meta *meta, const struct bh_cond *cond,
                      struct bh_object_info *info, const struct bh_call *call,
                      struct bh_error *err);

#endif
