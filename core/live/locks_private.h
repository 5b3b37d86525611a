/* What the locks*.c share. */
#ifndef BH_LIVE_LOCKS_PRIVATE_H
#define BH_LIVE_LOCKS_PRIVATE_H

#include "live/locks.h"

static inline bool locks_overlap(const struct bh_lock *l, uint64_t start, uint64_t end)
{
    return l->start <= end && start <= l->end;
}

/* --- locks_summary.c; with the table's mutex --- */
struct bh_lock_summary locks_summarise(const struct bh_lockset *s);
struct bh_wal_summary locks_summarise_wal(const struct bh_lockset *s); /* NULL: there is no -shm */

#endif
