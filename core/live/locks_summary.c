/* What locks mean to SQLite: who reads, who writes. */
#include "live/locks_private.h"

struct bh_lock_summary locks_summarise(const struct bh_lockset *s)
{
    struct bh_lock_summary sum = {0};
    for (size_t i = 0; i < s->count; i++) {
        const struct bh_lock *l = &s->locks[i];
        if (l->owner.internal) {
            sum.inner |= !l->brief;
            continue;
        }
        bool counted = false;
        for (size_t j = 0; j < i && !counted; j++)
            counted = bh_owner_equal(s->locks[j].owner, l->owner);
        sum.clients += !counted;
        bool exclusive = l->write && locks_overlap(l, BH_SHARED_FIRST, BH_SHARED_FIRST);
        if (exclusive) {
            sum.client_exclusive = true;
            sum.exclusive_owner = l->owner;
        }
        if (exclusive || (l->write && locks_overlap(l, BH_PENDING_BYTE, BH_PENDING_BYTE))) {
            sum.client_writer = true;
            sum.pid = l->pid;
        } else if (!sum.client_writer) {
            sum.pid = l->pid;
        }
    }
    return sum;
}

struct bh_wal_summary locks_summarise_wal(const struct bh_lockset *s)
{
    struct bh_wal_summary sum = {0};
    for (size_t i = 0; s && i < s->count; i++) {
        const struct bh_lock *l = &s->locks[i];
        if (l->owner.internal)
            continue;
        bool writer = l->write && locks_overlap(l, BH_WAL_WRITE, BH_WAL_CKPT);
        sum.attached += locks_overlap(l, BH_WAL_DMS, BH_WAL_DMS);
        sum.client_writer |= writer;
        sum.client_ckpt |= l->write && locks_overlap(l, BH_WAL_CKPT, BH_WAL_CKPT);
        sum.writing |= writer || (l->write && locks_overlap(l, BH_WAL_RECOVER, BH_WAL_RECOVER));
        if (locks_overlap(l, BH_WAL_READ, BH_WAL_LAST)) {
            sum.readers++;
            if (l->since_ms > sum.youngest_ms)
                sum.youngest_ms = l->since_ms;
        }
        if (writer || (!sum.client_writer && locks_overlap(l, BH_WAL_FIRST, BH_WAL_LAST)))
            sum.pid = l->pid;
    }
    return sum;
}
