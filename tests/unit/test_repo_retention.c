/* Which snapshots are kept: a table of cases, and a year of hourly ones with a gc every day. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "repo/retention.h"

#define HOUR INT64_C(3600000)
#define DAY  (24 * HOUR)

/* "2026-01-31 12:00" in ms. */
static int64_t at(const char *text)
{
    struct tm tm = {0};
    assert_non_null(strptime(text, "%Y-%m-%d %H:%M", &tm));
    return (int64_t)timegm(&tm) * 1000;
}

struct table_case {
    struct bh_retention r;
    const char *times;    /* oldest first, separated by ','; '*' before it: labelled */
    const char *expected; /* 'k' or '.' each */
};

#define LAST(n)    .keep_last = (n)
#define HOURLY(n)  .keep_hourly = (n)
#define DAILY(n)   .keep_daily = (n)
#define WEEKLY(n)  .keep_weekly = (n)
#define MONTHLY(n) .keep_monthly = (n)

static const struct table_case cases[] = {
    {{0}, "", ""},
    {{0}, "2026-01-01 00:00,2026-01-02 00:00", "kk"},
    {{LAST(1)}, "2026-01-01 00:00", "k"},
    {{LAST(2)}, "2026-01-01 00:00,2026-01-02 00:00,2026-01-03 00:00", ".kk"},
    {{LAST(UINT64_MAX)}, "2026-01-01 00:00,2026-01-02 00:00", "kk"},
    {{LAST(1)}, "*2026-01-01 00:00,2026-01-02 00:00,2026-01-03 00:00", "k.k"},
    /* the newest of each period; hours without one do not count */
    {{HOURLY(2)},
     "2026-01-01 09:10,2026-01-01 10:00,2026-01-01 10:59,2026-01-01 15:00,2026-01-01 15:01",
     "..k.k"},
    {{DAILY(2)}, "2026-01-01 23:59,2026-01-02 00:00,2026-01-02 23:59,2026-01-05 00:00", "..kk"},
    {{DAILY(3)}, "2026-01-01 23:59,2026-01-02 00:00,2026-01-02 23:59,2026-01-05 00:00", "k.kk"},
    /* ISO weeks: Sunday 2026-01-04 ends week 1, which began on Monday 2025-12-29 */
    {{WEEKLY(2)}, "2025-12-28 12:00,2025-12-29 00:00,2026-01-04 23:59,2026-01-05 00:00", "..kk"},
    {{WEEKLY(9)}, "2025-12-28 12:00,2025-12-29 00:00,2026-01-04 23:59,2026-01-05 00:00", "k.kk"},
    {{MONTHLY(2)}, "2025-12-31 23:59,2026-01-01 00:00,2026-01-31 23:59,2026-02-01 00:00", "..kk"},
    {{MONTHLY(12)}, "2024-02-29 12:00,2025-02-28 12:00,2026-02-28 12:00", "kkk"},
    /* what one rule keeps is kept; the newest always */
    {{LAST(1), DAILY(2)}, "2026-01-01 08:00,2026-01-02 08:00,2026-01-02 09:00", "k.k"},
    {{MONTHLY(1)}, "2026-01-01 08:00,2026-01-02 08:00,2026-01-02 09:00", "..k"},
    /* a labelled one still is the newest of its day */
    {{DAILY(2)}, "2026-01-01 08:00,*2026-01-01 09:00,2026-01-02 09:00", ".kk"},
    /* before 1970 and long after */
    {{DAILY(2)}, "1969-12-31 22:00,1969-12-31 23:00,1970-01-01 00:00", ".kk"},
    {{WEEKLY(2)}, "9999-12-26 23:00,9999-12-27 00:00,9999-12-31 00:00", "k.k"},
};

static void a_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct table_case *c = &cases[i];
        struct bh_retention_item items[16] = {0};
        char got[17] = "", text[512];
        size_t n = 0, dropped = 0;
        snprintf(text, sizeof text, "%s", c->times);
        for (char *rest = text, *t; (t = strsep(&rest, ",")) && *t; n++) {
            items[n].keep = *t == '*';
            items[n].drop = true; /* whatever was there */
            items[n].time_ms = at(t + items[n].keep);
        }
        size_t said = bh_retention_apply(&c->r, items, n);
        for (size_t k = 0; k < n; k++) {
            got[k] = items[k].drop ? '.' : 'k';
            dropped += items[k].drop;
        }
        if (strcmp(got, c->expected))
            fail_msg("case %zu (%s): %s instead of %s", i, c->times, got, c->expected);
        assert_int_equal(said, dropped);
    }
}

/* The newest of each ISO week as strftime counts them, over some decades. */
static void weeks_are_those_of_the_calendar(void **state)
{
    (void)state;
    const struct bh_retention all = {WEEKLY(100000)};
    enum { DAYS = 366 * 40 };
    struct bh_retention_item *items = calloc(DAYS, sizeof *items);
    char this_week[16], next_week[16];
    assert_non_null(items);
    for (size_t i = 0; i < DAYS; i++)
        items[i].time_ms = at("1995-01-01 23:00") + (int64_t)i * DAY;
    bh_retention_apply(&all, items, DAYS);
    for (size_t i = 0; i + 1 < DAYS; i++) {
        time_t s = (time_t)(items[i].time_ms / 1000), next = s + 86400;
        strftime(this_week, sizeof this_week, "%G-%V", gmtime(&s));
        strftime(next_week, sizeof next_week, "%G-%V", gmtime(&next));
        assert_int_equal(items[i].drop, !strcmp(this_week, next_week));
    }
    free(items);
}

enum { YEAR = 24 * 365 };

static size_t remove_dropped(struct bh_retention_item *items, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (!items[i].drop)
            items[kept++] = items[i];
    return kept;
}

/* A gc each day keeps what one at the end would keep of everything: what was dropped is never
 * missed, and the number is what the rules say. */
static void a_year_with_a_gc_every_day(void **state)
{
    (void)state;
    const struct bh_retention r = {LAST(5), HOURLY(24), DAILY(7), WEEKLY(5), MONTHLY(12)};
    const int64_t begin = at("2025-11-23 00:30");
    struct bh_retention_item *all = calloc(YEAR, sizeof *all), *whole = calloc(YEAR, sizeof *all);
    size_t n = 0;
    assert_true(all && whole);
    for (size_t hour = 0; hour < YEAR; hour++) {
        all[n++] = (struct bh_retention_item){.time_ms = begin + (int64_t)hour * HOUR};
        if (hour % 24 != 23)
            continue;
        bh_retention_apply(&r, all, n);
        n = remove_dropped(all, n);
        for (size_t i = 0; i <= hour; i++)
            whole[i] = (struct bh_retention_item){.time_ms = begin + (int64_t)i * HOUR};
        bh_retention_apply(&r, whole, hour + 1);
        assert_int_equal(remove_dropped(whole, hour + 1), n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(all[i].time_ms, whole[i].time_ms);
        assert_true(n <= 24 + 7 + 5 + 12);
        assert_int_equal(bh_retention_apply(&r, all, n), 0); /* again at once: nothing */
    }
    /* 24 hours; 6 days before; weeks and months that neither has */
    assert_true(n > 24 + 6 + 3 + 9);
    free(all);
    free(whole);
}

/* The same of random rules, times and labels, and a gc at random moments. */
static void dropping_early_changes_nothing(void **state)
{
    (void)state;
    srand(7);
    for (int round = 0; round < 300; round++) {
        struct bh_retention r = {(uint64_t)(rand() % 4), (uint64_t)(rand() % 5),
                                 (uint64_t)(rand() % 5), (uint64_t)(rand() % 4),
                                 (uint64_t)(rand() % 4)};
        struct bh_retention_item some[400], every[400];
        size_t n = 0, total = 0;
        int64_t now = at("2026-01-01 00:00");
        int64_t step = 1 + rand() % (2 * DAY);
        for (; total < 400; total++) {
            now += 1 + rand() % step;
            struct bh_retention_item item = {.time_ms = now, .keep = rand() % 20 == 0};
            every[total] = some[n++] = item;
            if (rand() % 10)
                continue;
            bh_retention_apply(&r, some, n);
            n = remove_dropped(some, n);
        }
        bh_retention_apply(&r, some, n);
        n = remove_dropped(some, n);
        bh_retention_apply(&r, every, total);
        assert_int_equal(remove_dropped(every, total), n);
        assert_int_equal(every[n - 1].time_ms, now); /* the newest */
        for (size_t i = 0; i < n; i++)
            assert_int_equal(some[i].time_ms, every[i].time_ms);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table),
        cmocka_unit_test(weeks_are_those_of_the_calendar),
        cmocka_unit_test(a_year_with_a_gc_every_day),
        cmocka_unit_test(dropping_early_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
