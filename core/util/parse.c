#include "util/parse.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Reads the decimal digits at *s and moves *s behind them. At least one is needed; sign and space
 * are none. */
static int digits(const char **s, uint64_t *out)
{
    uint64_t v = 0;
    bool overflow = false;
    const char *p = *s;
    if (*p < '0' || *p > '9')
        return EINVAL;
    for (; *p >= '0' && *p <= '9'; p++)
        overflow |= __builtin_mul_overflow(v, (uint64_t)10, &v) ||
                    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v);
    *s = p;
    *out = v;
    return overflow ? ERANGE : 0;
}

int bh_parse_size(const char *s, uint64_t *bytes)
{
    static const struct {
        const char *name;
        unsigned shift;
    } units[] = {{"", 0},     {"b", 0},  {"k", 10},   {"kib", 10}, {"m", 20},
                 {"mib", 20}, {"g", 30}, {"gib", 30}, {"t", 40},   {"tib", 40}};
    uint64_t v;
    int rc = digits(&s, &v);
    if (rc == EINVAL)
        return rc;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcasecmp(s, units[i].name) != 0)
            continue;
        if (rc || v > (uint64_t)INT64_MAX >> units[i].shift)
            return ERANGE;
        *bytes = v << units[i].shift;
        return 0;
    }
    return EINVAL;
}

/* The digits after the point, in milliseconds, rounded up so that what is not zero stays so. */
static int fraction(const char *s, uint64_t unit, uint64_t *ms)
{
    uint64_t value = 0, scale = 1;
    bool more = false;
    if (*s < '0' || *s > '9')
        return EINVAL;
    for (; *s >= '0' && *s <= '9'; s++) {
        if (scale < 1000000000) {
            value = value * 10 + (uint64_t)(*s - '0');
            scale *= 10;
        } else {
            more |= *s != '0';
        }
    }
    uint64_t exact = value * unit; /* below 1e9 weeks: fits */
    *ms = exact / scale + (exact % scale != 0 || more);
    return 0;
}

static uint64_t duration_unit(const char *s)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"", 1000},     {"ms", 1},       {"s", 1000},     {"m", 60000},
                 {"h", 3600000}, {"d", 86400000}, {"w", 604800000}};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(s, units[i].name) == 0)
            return units[i].ms;
    return 0;
}

int bh_parse_duration(const char *s, int64_t *ms)
{
    uint64_t whole, part = 0, total;
    int rc = digits(&s, &whole);
    if (rc == EINVAL)
        return rc;
    const char *point = *s == '.' ? s + 1 : NULL;
    if (point)
        s = point + strspn(point, "0123456789");
    uint64_t unit = duration_unit(s);
    if (!unit || (point && fraction(point, unit, &part) != 0))
        return EINVAL;
    if (rc || __builtin_mul_overflow(whole, unit, &total) ||
        __builtin_add_overflow(total, part, &total) || total > INT64_MAX)
        return ERANGE;
    *ms = (int64_t)total;
    return 0;
}

int bh_parse_bool(const char *s, bool *out)
{
    static const char *const words[][2] = {
        {"no", "yes"}, {"false", "true"}, {"off", "on"}, {"0", "1"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        for (int v = 0; v < 2; v++)
            if (strcasecmp(s, words[i][v]) == 0) {
                *out = v;
                return 0;
            }
    return EINVAL;
}

/* "12 X" or "1.5 X": v in units of `unit`, rounded to tenths. */
static void tenths(uint64_t v, uint64_t unit, const char *sign, const char *name, char *buf,
                   size_t len)
{
    uint64_t whole = v / unit, tenth = (v % unit * 10 + unit / 2) / unit;
    if (tenth == 10) {
        whole++;
        tenth = 0;
    }
    if (tenth)
        snprintf(buf, len, "%s%" PRIu64 ".%" PRIu64 " %s", sign, whole, tenth, name);
    else
        snprintf(buf, len, "%s%" PRIu64 " %s", sign, whole, name);
}

/* Whether v, rounded to tenths of `small`, is a whole `large`: 1023.99 KiB is to read "1 MiB". */
static bool reaches(uint64_t v, uint64_t small, uint64_t large)
{
    return v >= large - small / 20;
}

const char *bh_format_size(uint64_t bytes, char *buf, size_t len)
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned i = 0;
    while (i + 1 < sizeof names / sizeof names[0] &&
           reaches(bytes, (uint64_t)1 << 10 * i, (uint64_t)1 << 10 * (i + 1)))
        i++;
    tenths(bytes, (uint64_t)1 << 10 * i, "", names[i], buf, len);
    return buf;
}

const char *bh_format_duration(int64_t ms, char *buf, size_t len)
{
    static const struct {
        uint64_t ms;
        const char *name;
    } units[] = {{1, "ms"}, {1000, "s"}, {60000, "min"}, {3600000, "h"}, {86400000, "d"}};
    uint64_t v = ms < 0 ? 0 - (uint64_t)ms : (uint64_t)ms;
    unsigned i = 0;
    while (i + 1 < sizeof units / sizeof units[0] && reaches(v, units[i].ms, units[i + 1].ms))
        i++;
    tenths(v, units[i].ms, ms < 0 ? "-" : "", units[i].name, buf, len);
    return buf;
}
