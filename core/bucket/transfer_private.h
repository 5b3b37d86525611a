/* What uploads and downloads share: the threads of one transfer. */
#ifndef BH_BUCKET_TRANSFER_PRIVATE_H
#define BH_BUCKET_TRANSFER_PRIVATE_H

#include <pthread.h>

#include "bucket/transfer.h"

#define BH_PART_MAX     ((uint64_t)5 << 30)
#define BH_PARALLEL_MAX 256

struct team {
    struct bh_bucket *bucket;
    const char *key;
    uint64_t size, part_size;
    unsigned parts;
    const struct bh_call *outer; /* the caller's; may be NULL */
    struct bh_call call;         /* the same, but `over` ends it, too */
    bool relay;                  /* outer's cancel had to give way to `over` in call */
    atomic_bool over;            /* nothing more is to be done */
    pthread_mutex_t mutex;       /* guards what follows */
    pthread_cond_t changed;
    int rc; /* the first error */
    struct bh_error error;
    unsigned next;    /* the part that is taken next */
    unsigned running; /* threads that have not ended */
    unsigned count;
    pthread_t threads[BH_PARALLEL_MAX];
};

/* What a caller asks for is within the limits: 0 or EINVAL. */
int bh_transfer_check(const struct bh_transfer *how, struct bh_error *err);

void bh_team_init(struct team *t, struct bh_bucket *b, const char *key, const struct bh_call *call);
void bh_team_destroy(struct team *t);
uint64_t bh_team_part_length(const struct team *t, unsigned part);
/* Keeps the first error; all threads end soon. Returns whether this was it. */
bool bh_team_fail(struct team *t, int rc, const struct bh_error *why);
/* Starts up to `count` more threads; fewer will do. ENOMEM: there is none at all. */
int bh_team_start(struct team *t, void *(*entry)(void *), void *arg, unsigned count,
                  struct bh_error *err);
/* The last deed of a thread. */
void bh_team_leave(struct team *t);
/* Waits for a change, as the caller's thread, which holds the mutex; relays the caller's cancel
 * meanwhile. */
void bh_team_wait(struct team *t);
/* Waits for the threads to end; the first error of all. */
int bh_team_join(struct team *t, struct bh_error *err);

#endif
