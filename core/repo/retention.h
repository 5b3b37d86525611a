/* Which snapshots of a branch are kept: a pure function of their times. */
#ifndef BH_REPO_RETENTION_H
#define BH_REPO_RETENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The newest snapshot of each of the last so many hours (days, ISO weeks, months; UTC) that have
 * one, and so many of the newest. What one of them keeps is kept. All 0: everything is. */
struct bh_retention {
    uint64_t keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly;
};

struct bh_retention_item {
    int64_t time_ms; /* since 1970 */
    bool keep;       /* labelled, or needed otherwise: kept in any case */
    bool drop;       /* the answer */
};

/* items: oldest first; those dropped earlier are not among them. Sets drop of each. The newest is
 * always kept. Returns how many are dropped. Applied again to what it kept, at any later time and
 * with newer ones added, it keeps what it would have kept of all. */
size_t bh_retention_apply(const struct bh_retention *r, struct bh_retention_item *items,
                          size_t count);

#endif
