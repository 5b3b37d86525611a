/* CRCs: reflected, begun with ones, inverted at the end (the "Rocksoft model"; RFC 3720 for
 * CRC-32C). */
#ifndef BH_UTIL_CRC_H
#define BH_UTIL_CRC_H

#include <stddef.h>
#include <stdint.h>

struct bh_crc; /* one kind of them */
extern struct bh_crc bh_crc32, bh_crc32c, bh_crc64nvme;

/* The state of nothing; that of some bytes more; the CRC of all, in the low bits. Any thread. */
uint64_t bh_crc_begin(struct bh_crc *crc);
uint64_t bh_crc_update(struct bh_crc *crc, uint64_t state, const void *data, size_t len);
uint64_t bh_crc_end(struct bh_crc *crc, uint64_t state);

/* Of bytes at once. */
static inline uint64_t bh_crc_of(struct bh_crc *crc, const void *data, size_t len)
{
    return bh_crc_end(crc, bh_crc_update(crc, bh_crc_begin(crc), data, len));
}

#endif
