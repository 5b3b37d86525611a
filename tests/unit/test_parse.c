#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "util/parse.h"

#define COUNT(array) (sizeof array / sizeof array[0])

static void sizes(void **state)
{
    static const struct {
        const char *text;
        int rc;
        uint64_t bytes;
    } cases[] = {
        {"0", 0, 0},
        {"4096", 0, 4096},
        {"4096B", 0, 4096},
        {"16K", 0, 16384},
        {"16KiB", 0, 16384},
        {"16kib", 0, 16384},
        {"64M", 0, UINT64_C(64) << 20},
        {"64MiB", 0, UINT64_C(64) << 20},
        {"1G", 0, UINT64_C(1) << 30},
        {"1gIb", 0, UINT64_C(1) << 30},
        {"1T", 0, UINT64_C(1) << 40},
        {"1TiB", 0, UINT64_C(1) << 40},
        {"007", 0, 7},
        {"9223372036854775807", 0, INT64_MAX},
        {"9007199254740991K", 0, UINT64_C(9007199254740991) << 10},
        {"9223372036854775808", ERANGE, 0},
        {"9007199254740992K", ERANGE, 0},
        {"8388608T", ERANGE, 0},
        {"99999999999999999999999", ERANGE, 0},
        {"99999999999999999999999x", EINVAL, 0},
        {"", EINVAL, 0},
        {"K", EINVAL, 0},
        {"-1", EINVAL, 0},
        {"+1", EINVAL, 0},
        {" 1", EINVAL, 0},
        {"1 ", EINVAL, 0},
        {"1 K", EINVAL, 0},
        {"1.5K", EINVAL, 0},
        {"1KB", EINVAL, 0},
        {"1Ki", EINVAL, 0},
        {"1P", EINVAL, 0},
        {"0x10", EINVAL, 0},
        {"1e3", EINVAL, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t bytes = 77;
        int rc = bh_parse_size(cases[i].text, &bytes);
        if (rc != cases[i].rc || bytes != (rc ? 77 : cases[i].bytes))
            fail_msg("size '%s': rc %d, %llu", cases[i].text, rc, (unsigned long long)bytes);
    }
}

static void durations(void **state)
{
    static const struct {
        const char *text;
        int rc;
        int64_t ms;
    } cases[] = {
        {"0", 0, 0},
        {"30", 0, 30000},
        {"250ms", 0, 250},
        {"30s", 0, 30000},
        {"5m", 0, 300000},
        {"2h", 0, 7200000},
        {"1d", 0, 86400000},
        {"1w", 0, 604800000},
        {"1.5s", 0, 1500},
        {"1.5", 0, 1500},
        {"0.25m", 0, 15000},
        {"0.1s", 0, 100},
        {"1.0000000000000000000ms", 0, 1},
        {"0.4ms", 0, 1}, /* not 0, which often means "never" */
        {"0.0000000000000000001s", 0, 1},
        {"1.999999999w", 0, 1209600000},
        {"9223372036854775807ms", 0, INT64_MAX},
        {"9223372036854775808ms", ERANGE, 0},
        {"9223372036854775807.1ms", ERANGE, 0},
        {"9223372036854776s", ERANGE, 0},
        {"99999999999999999999w", ERANGE, 0},
        {"18446744073709551615w", ERANGE, 0},
        {"", EINVAL, 0},
        {"s", EINVAL, 0},
        {"-1s", EINVAL, 0},
        {"+1s", EINVAL, 0},
        {" 1s", EINVAL, 0},
        {"1s ", EINVAL, 0},
        {"1 s", EINVAL, 0},
        {"1.s", EINVAL, 0},
        {".5s", EINVAL, 0},
        {"1.5.5s", EINVAL, 0},
        {"1,5s", EINVAL, 0},
        {"1S", EINVAL, 0},
        {"1M", EINVAL, 0},
        {"1min", EINVAL, 0},
        {"1h30m", EINVAL, 0},
        {"inf", EINVAL, 0},
        {"99999999999999999999x", EINVAL, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t ms = 77;
        int rc = bh_parse_duration(cases[i].text, &ms);
        if (rc != cases[i].rc || ms != (rc ? 77 : cases[i].ms))
            fail_msg("duration '%s': rc %d, %lld ms", cases[i].text, rc, (long long)ms);
    }
}

static void booleans(void **state)
{
    static const char *const yes[] = {"true", "yes", "on", "1", "TRUE", "Yes", "oN"};
    static const char *const no[] = {"false", "no", "off", "0", "FALSE", "No", "oFF"};
    static const char *const neither[] = {"",  "2",      "y",   "n",   "t",
                                          "f", "truely", "tru", " on", "00"};
    bool v;
    (void)state;
    for (size_t i = 0; i < COUNT(yes); i++) {
        v = false;
        assert_int_equal(bh_parse_bool(yes[i], &v), 0);
        assert_true(v);
    }
    for (size_t i = 0; i < COUNT(no); i++) {
        v = true;
        assert_int_equal(bh_parse_bool(no[i], &v), 0);
        assert_false(v);
    }
    for (size_t i = 0; i < COUNT(neither); i++)
        assert_int_equal(bh_parse_bool(neither[i], &v), EINVAL);
}

static void format_sizes(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {1, "1 B"},
        {1023, "1023 B"},
        {1024, "1 KiB"},
        {1536, "1.5 KiB"},
        {UINT64_C(64) << 20, "64 MiB"},
        {(UINT64_C(1) << 20) - 1, "1 MiB"},
        {(UINT64_C(1) << 30) - (UINT64_C(1) << 20), "1023 MiB"},
        {UINT64_C(5) << 40, "5 TiB"},
        {INT64_MAX, "8 EiB"},
        {UINT64_MAX, "16 EiB"},
    };
    char buf[32];
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_string_equal(bh_format_size(cases[i].bytes, buf, sizeof buf), cases[i].text);
}

static void format_durations(void **state)
{
    static const struct {
        int64_t ms;
        const char *text;
    } cases[] = {
        {0, "0 ms"},
        {250, "250 ms"},
        {999, "999 ms"},
        {1000, "1 s"},
        {1500, "1.5 s"},
        {1040, "1 s"},
        {59999, "1 min"},
        {90000, "1.5 min"},
        {3600000, "1 h"},
        {86400000, "1 d"},
        {604800000, "7 d"},
        {-1500, "-1.5 s"},
        {129600000, "1.5 d"},
        {INT64_MAX, "106751991167.3 d"},
        {INT64_MIN, "-106751991167.3 d"},
    };
    char buf[32];
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_string_equal(bh_format_duration(cases[i].ms, buf, sizeof buf), cases[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(durations),
        cmocka_unit_test(booleans),
        cmocka_unit_test(format_sizes),
        cmocka_unit_test(format_durations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
