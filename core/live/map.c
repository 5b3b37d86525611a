#include "live/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/io.h"

/* SQLite's largest database is 281 TB: 2^36 sub-blocks, four a byte. */
#define MAP_BYTES_MAX ((uint64_t)1 << 34)

static int reserve(struct bh_map *m, uint64_t entries)
{
    if (entries <= m->cap)
        return 0;
    uint64_t cap = m->cap ? m->cap : 4096;
    while (cap < entries)
        cap *= 2;
    if (cap / 4 > MAP_BYTES_MAX)
        return EFBIG;
    uint8_t *p = realloc(m->bits, cap / 4);
    if (!p)
        return ENOMEM;
    memset(p + m->cap / 4, 0, (cap - m->cap) / 4);
    m->bits = p;
    m->cap = cap;
    return 0;
}

/* How many entries of each kind there are in a word of them. */
struct counts {
    uint64_t dirty, clean, absent;
};

static void count_word(struct counts *c, uint64_t word)
{
    const uint64_t each = 0x5555555555555555u;
    uint64_t low = word & each, high = word >> 1 & each;
    c->clean += (unsigned)__builtin_popcountll(low & ~high);
    c->dirty += (unsigned)__builtin_popcountll(high & ~low);
    c->absent += (unsigned)__builtin_popcountll(low & high);
}

/* By whole words: there is room for some, and what is beyond `bytes` is zero. */
static void count_loaded(struct bh_map *m, uint64_t bytes)
{
    struct counts c = {0};
    uint64_t word;
    for (uint64_t i = 0; i < bytes; i += sizeof word) {
        memcpy(&word, m->bits + i, sizeof word);
        count_word(&c, word);
    }
    m->dirty = c.dirty;
    m->clean = c.clean;
    m->absent = c.absent;
    while (bytes > 0 && m->bits[bytes - 1] == 0)
        bytes--;
    m->used = bytes * 4;
}

int bh_map_open(struct bh_map *m, struct bh_disk *disk, const char *name, bool create,
                struct bh_error *err)
{
    *m = (struct bh_map){.file.fd = -1};
    int rc =
        bh_disk_open_file(disk, name, O_RDWR | (create ? O_CREAT | O_TRUNC : 0), 0600, &m->file);
    if (rc)
        return bh_fail(err, rc, "the block map %s/%s cannot be opened: %s", bh_disk_path(disk),
                       name, strerror(rc));
    struct stat st;
    if (fstat(m->file.fd, &st) != 0)
        rc = errno;
    else if ((uint64_t)st.st_size > MAP_BYTES_MAX)
        rc = EIO;
    else if ((rc = reserve(m, (uint64_t)st.st_size * 4)) == 0)
        rc = bh_pread_full(m->file.fd, m->bits, (size_t)st.st_size, 0, NULL);
    if (rc) {
        bh_map_close(m);
        return bh_fail(err, rc, "the block map %s/%s cannot be read: %s", bh_disk_path(disk), name,
                       strerror(rc));
    }
    count_loaded(m, (uint64_t)st.st_size);
    return 0;
}

void bh_map_close(struct bh_map *m)
{
    bh_dfile_close(&m->file);
    free(m->bits);
    m->bits = NULL;
    m->cap = m->used = m->dirty = m->clean = 0;
    m->absent = 0;
}

enum bh_block_state bh_map_get(const struct bh_map *m, uint64_t block)
{
    if (block >= m->used)
        return BH_BLOCK_ZERO;
    return (enum bh_block_state)(m->bits[block / 4] >> (2 * (block % 4)) & 3);
}

/* The bits of byte `at` that are of the entries [first, end). */
static uint8_t mask_of(uint64_t at, uint64_t first, uint64_t end)
{
    unsigned from = first > at * 4 ? (unsigned)(first - at * 4) : 0;
    unsigned to = end < at * 4 + 4 ? (unsigned)(end - at * 4) : 4;
    return (uint8_t)((0xffu << 2 * from) & (0xffu >> 2 * (4 - to)));
}

int bh_map_set(struct bh_map *m, uint64_t first, uint64_t count, enum bh_block_state state)
{
    uint64_t end = first + count;
    if (state == BH_BLOCK_ZERO && end > m->used)
        end = m->used; /* beyond is zero already */
    if (first >= end)
        return 0;
    int rc = reserve(m, end);
    if (rc)
        return rc;
    uint64_t low = UINT64_MAX, high = 0;
    struct counts gone = {0}, come = {0};
    if (end > m->used)
        m->used = end;
    for (uint64_t i = first / 4; i <= (end - 1) / 4; i++) {
        uint8_t mask = mask_of(i, first, end), old = m->bits[i];
        uint8_t new = (uint8_t)((old & ~mask) | ((unsigned)state * 0x55u & mask));
        if (new == old)
            continue;
        count_word(&gone, old);
        count_word(&come, new);
        m->bits[i] = new;
        if (low == UINT64_MAX)
            low = i;
        high = i;
    }
    m->dirty += come.dirty - gone.dirty;
    m->clean += come.clean - gone.clean;
    if (come.absent != gone.absent)
        m->absent += come.absent - gone.absent;
    if (m->stale) { /* write everything, what failed before too */
        low = 0;
        high = (m->used - 1) / 4;
    }
    if (low == UINT64_MAX)
        return 0;
    m->changes++;
    rc = bh_dfile_write(&m->file, m->bits + low, (size_t)(high - low + 1), low);
    m->stale = rc != 0;
    return rc;
}
