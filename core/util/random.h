/* Random bytes, for names and pauses. */
#ifndef BH_UTIL_RANDOM_H
#define BH_UTIL_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Fills buf from the kernel's generator; never fails. */
void bh_random_bytes(void *buf, size_t len);
/* From half of ms to ms, so that those who failed together do not come back together. */
int64_t bh_jitter_ms(int64_t ms);

#endif
