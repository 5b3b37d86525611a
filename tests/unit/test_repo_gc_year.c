/* A year of hourly flushes with retention and a daily gc: the bucket stays small, and every
 * snapshot that is kept is whole after every gc. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "years.h"

#define HOURS   (365 * 24)
#define MONTH   30
#define SETTLED 120 /* from this day on there is history enough */

static const struct bh_retention keep = {
    .keep_hourly = 24, .keep_daily = 7, .keep_weekly = 4, .keep_monthly = 12};

/* Bytes on the condemned list, which wait for their grace. */
static uint64_t waiting(void)
{
    struct gc_list list;
    uint64_t bytes = 0;
    must(gc_list_read(year, TREE_PREFIX, &list, NULL, ERR));
    for (size_t i = 0; i < list.items.room; i++) {
        char name[GC_NAME_MAX], key[160];
        size_t size = 0;
        if (!list.items.slots[i].key.b)
            continue;
        gc_key_name(&list.items.slots[i].key, name);
        snprintf(key, sizeof key, TREE_PREFIX "%s", name);
        clock_data(year, key, &size);
        bytes += size;
    }
    gc_set_free(&list.items);
    return bytes;
}

static void say(unsigned day, uint64_t need, double worst)
{
    uint64_t all = clock_bytes(year, TREE_PREFIX);
    print_message("day %u: needed %.1f MB, bucket %.1f MB (%.2f; worst since day %d %.2f), %.2f "
                  "but for what is condemned; %zu packs, %zu moved records of %.2f MB\n",
                  day, (double)need / 1e6, (double)all / 1e6, (double)all / (double)need, SETTLED,
                  worst, (double)(all - waiting()) / (double)need,
                  clock_count(year, TREE_PREFIX "packs/"), clock_count(year, TREE_PREFIX "moved/"),
                  (double)clock_bytes(year, TREE_PREFIX "moved/") / 1e6);
}

/* What is condemned stays for a grace, which is a day's garbage: that is much for a history of a
 * week, and little for one of months. */
static void live(const struct year_use *use)
{
    double worst = 0;
    for (unsigned hour = 0; hour < HOURS; hour++) {
        const unsigned day = hour / 24;
        const bool last = hour + 24 >= HOURS;
        clock_ms += HOUR;
        year_flush(&year_main, use);
        if (hour % 24 != 3)
            continue;
        year_retain(&year_main, &keep);
        must(year_try_gc());
        uint64_t need = year_check(day % MONTH == 0 || last);
        double all = (double)clock_bytes(year, TREE_PREFIX) / (double)need;
        double rest = (double)(clock_bytes(year, TREE_PREFIX) - waiting()) / (double)need;
        if (day >= SETTLED && all > worst)
            worst = all;
        if (day % MONTH == 0 || last)
            say(day, need, worst);
        if ((last && all > 1.5) || worst > 1.6 || (day >= SETTLED && rest > 1.3))
            fail_msg("day %u: %.2f times what is needed, %.2f but for what is condemned:\n%s", day,
                     all, rest, year_report.data);
    }
}

static void an_application(void **state)
{
    static const struct year_use use = {.first = 240,
                                        .hot = 30,
                                        .hot_writes = 4,
                                        .warm = 120,
                                        .warm_writes = 1,
                                        .any_writes = 1,
                                        .new_a_day = 1};
    live(&use);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, year_setup, year_teardown)
    const struct CMUnitTest tests[] = {
        TEST(an_application),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
