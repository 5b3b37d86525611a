#include "util/crc.h"

#include <endian.h>
#include <pthread.h>
#include <string.h>

#define SLICES 8 /* bytes taken at once: a table for each */

/* The polynomials, bits reversed. A CRC of 32 bits is one of 64 whose upper half stays 0. */
struct bh_crc {
    const uint64_t polynomial, ones;
    uint64_t table[SLICES][256];
};
struct bh_crc bh_crc32 = {.polynomial = UINT32_C(0xedb88320), .ones = UINT32_MAX};
struct bh_crc bh_crc32c = {.polynomial = UINT32_C(0x82f63b78), .ones = UINT32_MAX};
struct bh_crc bh_crc64nvme = {.polynomial = UINT64_C(0x9a6c9329ac4bc9b5), .ones = UINT64_MAX};

static void fill_tables(struct bh_crc *crc)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t v = i;
        for (int bit = 0; bit < 8; bit++)
            v = v & 1 ? v >> 1 ^ crc->polynomial : v >> 1;
        crc->table[0][i] = v;
    }
    for (unsigned slice = 1; slice < SLICES; slice++)
        for (unsigned i = 0; i < 256; i++) {
            uint64_t v = crc->table[slice - 1][i];
            crc->table[slice][i] = v >> 8 ^ crc->table[0][v & 255];
        }
}

static void fill_all_tables(void)
{
    fill_tables(&bh_crc32);
    fill_tables(&bh_crc32c);
    fill_tables(&bh_crc64nvme);
}

uint64_t bh_crc_begin(struct bh_crc *crc)
{
    static pthread_once_t filled = PTHREAD_ONCE_INIT;
    pthread_once(&filled, fill_all_tables);
    return crc->ones;
}

uint64_t bh_crc_update(struct bh_crc *crc, uint64_t state, const void *bytes, size_t len)
{
    const unsigned char *data = bytes;
    for (; len >= SLICES; data += SLICES, len -= SLICES) {
        uint64_t word;
        memcpy(&word, data, sizeof word);
        word = le64toh(word) ^ state;
        state = 0;
        for (unsigned slice = 0; slice < SLICES; slice++)
            state ^= crc->table[SLICES - 1 - slice][word >> 8 * slice & 255];
    }
    for (; len > 0; data++, len--)
        state = state >> 8 ^ crc->table[0][(state ^ *data) & 255];
    return state;
}

uint64_t bh_crc_end(struct bh_crc *crc, uint64_t state)
{
    return state ^ crc->ones;
}
