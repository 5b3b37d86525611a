#include "util/clock.h"

#include <stdio.h>

static int64_t now_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t bh_mono_ns(void)
{
    return now_ns(CLOCK_MONOTONIC);
}

int64_t bh_mono_ms(void)
{
    return now_ns(CLOCK_MONOTONIC) / 1000000;
}

int64_t bh_boot_ms(void)
{
    return now_ns(CLOCK_BOOTTIME) / 1000000;
}

int64_t bh_real_ns(void)
{
    return now_ns(CLOCK_REALTIME);
}

int64_t bh_real_ms(void)
{
    return bh_real_ns() / 1000000;
}

struct timespec bh_mono_after_ms(int64_t ms)
{
    int64_t t = now_ns(CLOCK_MONOTONIC) + ms * 1000000;
    return (struct timespec){.tv_sec = t / 1000000000, .tv_nsec = t % 1000000000};
}

void bh_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

static struct tm utc(int64_t real_ms)
{
    time_t s = (time_t)(real_ms / 1000);
    struct tm tm;
    gmtime_r(&s, &tm);
    return tm;
}

const char *bh_format_time(int64_t real_ms, char *buf, size_t len)
{
    struct tm tm = utc(real_ms);
    char day[32];
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(buf, len, "%s.%03dZ", day, (int)(real_ms % 1000));
    return buf;
}

const char *bh_format_stamp(int64_t real_ms, char *buf, size_t len)
{
    struct tm tm = utc(real_ms);
    if (!strftime(buf, len, "%Y%m%dT%H%M%S", &tm))
        buf[0] = '\0';
    return buf;
}
