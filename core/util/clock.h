/* Times. Monotonic for waiting, real for people. */
#ifndef BH_UTIL_CLOCK_H
#define BH_UTIL_CLOCK_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

int64_t bh_mono_ns(void);
int64_t bh_mono_ms(void);
/* The same, but goes on while the machine is suspended: for what others measure, too. */
int64_t bh_boot_ms(void);
int64_t bh_real_ms(void); /* milliseconds since 1970, UTC */
int64_t bh_real_ns(void);

/* Absolute CLOCK_MONOTONIC time `ms` from now, for pthread_cond_clockwait and friends. */
struct timespec bh_mono_after_ms(int64_t ms);

/* One whose timed waits are by bh_mono_after_ms. */
void bh_cond_init(pthread_cond_t *c);

/* "2026-11-23T03:11:00.123Z". 32 bytes suffice. Returns buf. */
const char *bh_format_time(int64_t real_ms, char *buf, size_t len);

/* "20261123T031100", as in names. 16 bytes suffice. Returns buf. */
const char *bh_format_stamp(int64_t real_ms, char *buf, size_t len);

#endif
