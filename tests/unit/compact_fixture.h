/* For tests of compaction: hours and days of flushes until there is something to rewrite. */
#ifndef COMPACT_FIXTURE_H
#define COMPACT_FIXTURE_H

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "repo/moved.h"
#include "util/cleanup.h"
#include "years.h"

#define PACKS TREE_PREFIX "packs/"
#define MOVED TREE_PREFIX "moved/"

static const struct bh_retention keep = {.keep_hourly = 3, .keep_daily = 3};
static const struct year_use use = {
    .first = 60, .hot = 12, .hot_writes = 3, .warm = 30, .warm_writes = 1, .any_writes = 1};

static inline void hours(unsigned n)
{
    for (; n > 0; n--) {
        clock_ms += HOUR;
        year_flush(&year_main, &use);
    }
    year_retain(&year_main, &keep);
}

static inline void days(unsigned n)
{
    for (; n > 0; n--) {
        hours(24);
        must(year_try_gc());
        year_check(false);
    }
}

static inline bool says(const char *text)
{
    return strstr(year_report.data, text) != NULL;
}

static inline void must_say_it(const char *text)
{
    if (!says(text))
        fail_msg("\"%s\" is not in:\n%s", text, year_report.data);
}

/* So many days that the next gc rewrites packs. */
static inline void until_there_is_work(void)
{
    const struct bh_gc_options options = {
        .grace_ms = DAY, .compact = true, .parallel = 1, .dry_run = true};
    for (int i = 0; i < 40; i++) {
        hours(24);
        bh_strbuf_free(&year_report);
        must(bh_gc_run(year, TREE_PREFIX, BLOCK, &options, &year_report, NULL, ERR));
        if (!says("would rewrite 0 packs"))
            return;
        must(year_try_gc());
    }
    fail_msg("nothing to rewrite:\n%s", year_report.data);
}

static inline void graces(unsigned n)
{
    for (; n > 0; n--) {
        clock_ms += DAY;
        must(year_try_gc());
        year_check(false);
    }
}

static inline void damage_it(const char *key)
{
    size_t size;
    char *data = clock_data(year, key, &size);
    data[size / 2] = (char)(data[size / 2] ^ 1);
}

#endif
