#include "repo/retention.h"

#include <time.h>

#define HOUR_MS INT64_C(3600000)
#define DAY_MS  (24 * HOUR_MS)

typedef int64_t period_fn(int64_t time_ms); /* the number of the period that it is in */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t hour_of(int64_t ms)
{
    return floor_div(ms, HOUR_MS);
}

static int64_t day_of(int64_t ms)
{
    return floor_div(ms, DAY_MS);
}

/* ISO weeks begin on Monday; 1970-01-01 was a Thursday. */
static int64_t week_of(int64_t ms)
{
    return floor_div(day_of(ms) + 3, 7);
}

static int64_t month_of(int64_t ms)
{
    time_t s = (time_t)floor_div(ms, 1000);
    struct tm tm;
    gmtime_r(&s, &tm);
    return (int64_t)tm.tm_year * 12 + tm.tm_mon;
}

static void keep_newest_of(period_fn *period, uint64_t periods, struct bh_retention_item *items,
                           size_t count)
{
    int64_t last = 0;
    for (size_t i = count, n = 0; i > 0 && n < periods; i--) {
        int64_t p = period(items[i - 1].time_ms);
        if (n > 0 && p == last)
            continue;
        items[i - 1].drop = false;
        last = p;
        n++;
    }
}

size_t bh_retention_apply(const struct bh_retention *r, struct bh_retention_item *items,
                          size_t count)
{
    size_t dropped = 0;
    bool any = r->keep_last || r->keep_hourly || r->keep_daily || r->keep_weekly || r->keep_monthly;
    for (size_t i = 0; i < count; i++)
        items[i].drop = any && !items[i].keep && i + 1 < count && count - i > r->keep_last;
    keep_newest_of(hour_of, r->keep_hourly, items, count);
    keep_newest_of(day_of, r->keep_daily, items, count);
    keep_newest_of(week_of, r->keep_weekly, items, count);
    keep_newest_of(month_of, r->keep_monthly, items, count);
    for (size_t i = 0; i < count; i++)
        dropped += items[i].drop;
    return dropped;
}
