/* Numbers, ETags and times, as they are in XML and in headers. */
#include "bucket/s3/xml.h"

#include <string.h>

#include "util/clock.h"

bool bh_parse_decimal(const char *text, uint64_t *n)
{
    uint64_t value = 0;
    if (!*text)
        return false;
    for (const char *s = text; *s; s++) {
        if (*s < '0' || *s > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*s - '0'), &value))
            return false;
    }
    *n = value;
    return true;
}

bool bh_parse_etag(const char *text, char etag[BH_ETAG_MAX])
{
    if (strncmp(text, "W/\"", 3) == 0) /* some proxies weaken it */
        text += 2;
    size_t len = strlen(text);
    if (len >= 2 && text[0] == '"' && text[len - 1] == '"') {
        text++;
        len -= 2;
    }
    etag[0] = '\0';
    if (len >= BH_ETAG_MAX)
        return false;
    for (size_t i = 0; i < len; i++) /* RFC 9110: etagc. It will be in a header of ours. */
        if ((unsigned char)text[i] <= 0x20 || text[i] == '"' || text[i] == 0x7F)
            return false;
    memcpy(etag, text, len);
    etag[len] = '\0';
    return true;
}

/* --- times --- */

struct moment {
    int year, month, day, hour, minute, second; /* month and day from 1 */
};

static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
static const char *const weekdays[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                       "Friday", "Saturday", "Sunday"};

/* Milliseconds since 1970, or -1. A leap second is the first of the next minute. */
static int64_t since_1970(const struct moment *m)
{
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
    if (m->year < 1970 || m->year > 9999 || m->month < 1 || m->month > 12 || m->day < 1 ||
        m->hour > 23 || m->minute > 59 || m->second > 60)
        return -1;
    bool leap = (m->year % 4 == 0 && m->year % 100 != 0) || m->year % 400 == 0;
    if (m->day > before[m->month] - before[m->month - 1] + (leap && m->month == 2))
        return -1;
    int past = m->year - 1;
    int64_t leap_days = past / 4 - past / 100 + past / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    int64_t days = (m->year - 1970) * INT64_C(365) + leap_days + before[m->month - 1] + m->day - 1 +
                   (leap && m->month > 2);
    return (((days * 24 + m->hour) * 60 + m->minute) * 60 + m->second) * 1000;
}

static bool take_digits(const char **s, int count, int *n)
{
    *n = 0;
    for (; count; count--, (*s)++) {
        if (**s < '0' || **s > '9')
            return false;
        *n = *n * 10 + (**s - '0');
    }
    return true;
}

/* One of the names; len: of so many letters, 0: whole. *n becomes its number, from 1. */
static bool take_name(const char **s, const char *const *names, int count, size_t len, int *n)
{
    for (int i = 0; i < count; i++) {
        size_t letters = len ? len : strlen(names[i]);
        if (strncmp(*s, names[i], letters) == 0) {
            *s += letters;
            *n = i + 1;
            return true;
        }
    }
    return false;
}

/* strptime without locale, blanks and short numbers: %Y %m %d %H %M %S (all digits), %y (two), %e
 * (day with a blank instead of its 0), %b (month), %a and %A (weekday, three letters or whole).
 * Returns what follows, NULL where the text is not so. */
static const char *scan(const char *s, const char *pattern, struct moment *m)
{
    int weekday;
    for (const char *p = pattern; *p; p++) {
        bool ok;
        if (*p != '%') {
            if (*s++ != *p)
                return NULL;
            continue;
        }
        switch (*++p) {
        case 'Y':
            ok = take_digits(&s, 4, &m->year);
            break;
        case 'y':
            ok = take_digits(&s, 2, &m->year);
            break;
        case 'm':
            ok = take_digits(&s, 2, &m->month);
            break;
        case 'b':
            ok = take_name(&s, months, 12, 0, &m->month);
            break;
        case 'e':
            ok = *s == ' ' ? s++, take_digits(&s, 1, &m->day) : take_digits(&s, 2, &m->day);
            break;
        case 'd':
            ok = take_digits(&s, 2, &m->day);
            break;
        case 'H':
            ok = take_digits(&s, 2, &m->hour);
            break;
        case 'M':
            ok = take_digits(&s, 2, &m->minute);
            break;
        case 'S':
            ok = take_digits(&s, 2, &m->second);
            break;
        default:
            ok = take_name(&s, weekdays, 7, *p == 'a' ? 3 : 0, &weekday);
        }
        if (!ok)
            return NULL;
    }
    return s;
}

int64_t bh_parse_iso_time(const char *text)
{
    struct moment m;
    int ms = 0, digit;
    const char *s = scan(text, "%Y-%m-%dT%H:%M:%S", &m);
    if (!s)
        return -1;
    if (*s == '.') {
        s++;
        for (int weight = 100; take_digits(&s, 1, &digit); weight /= 10)
            ms += digit * weight;
        if (s[-1] == '.')
            return -1;
    }
    int64_t whole = since_1970(&m);
    return (strcmp(s, "Z") == 0 || strcmp(s, "+00:00") == 0) && whole >= 0 ? whole + ms : -1;
}

/* RFC 9110: two digits of a year mean no year that is more than 50 years ahead. */
static int full_year(int two_digits)
{
    int now = 1970 + (int)(bh_real_ms() / INT64_C(31556952000));
    int year = now - now % 100 + two_digits;
    return year > now + 50 ? year - 100 : year;
}

int64_t bh_parse_http_time(const char *text)
{
    struct moment m;
    const char *s = scan(text, "%a, %d %b %Y %H:%M:%S GMT", &m);
    if (!s)
        s = scan(text, "%a %b %e %H:%M:%S %Y", &m);
    if (!s && (s = scan(text, "%A, %d-%b-%y %H:%M:%S GMT", &m)))
        m.year = full_year(m.year);
    return s && !*s ? since_1970(&m) : -1;
}
