/* The origin: where the content of absent sub-blocks comes from, a snapshot in the bucket. The live
 * database knows it as a function; the history layer is behind it. */
#ifndef BH_LIVE_ORIGIN_H
#define BH_LIVE_ORIGIN_H

#include <stdatomic.h>
#include <stdint.h>

#include "util/error.h"

/* Counted: a fetch under way keeps it alive. Embedded at the beginning of the implementation's own
 * struct. */
struct bh_origin {
    atomic_uint refs;
    uint32_t unit; /* bytes that are fetched together at least: a power of two, 4096 or more */
    /* The snapshot's content at [offset, offset + len), zeros beyond its end. Takes as long as the
     * bucket does. ETIMEDOUT, EIO: the sentence says what is missing. Any thread, several at once.
     */
    int (*read)(struct bh_origin *o, uint64_t offset, void *buf, size_t len, struct bh_error *err);
    void (*free)(struct bh_origin *o);
};

static inline struct bh_origin *bh_origin_ref(struct bh_origin *o)
{
    if (o)
        atomic_fetch_add(&o->refs, 1);
    return o;
}

static inline void bh_origin_unref(struct bh_origin *o)
{
    if (o && atomic_fetch_sub(&o->refs, 1) == 1)
        o->free(o);
}

#endif
