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

static void count_loaded(struct bh_map *m)
{
    uint64_t entries = m->used, used = 0; /* bh_map_get looks at m->used */
    for (uint64_t i = 0; i < entries; i++) {
        enum bh_block_state s = bh_map_get(m, i);
        if (s == BH_BLOCK_DIRTY)
            m->dirty++;
        m->clean += s == BH_BLOCK_CLEAN;
        m->absent += s == BH_BLOCK_ABSENT;
        if (s != BH_BLOCK_ZERO)
            used = i + 1;
    }
    m->used = used;
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
    else if ((rc = reserve(m, (uint64_t)st.st_size * 4)) == 0) {
        rc = bh_pread_full(m->file.fd, m->bits, (size_t)st.st_size, 0, NULL);
        m->used = (uint64_t)st.st_size * 4;
    }
    if (rc) {
        bh_map_close(m);
        return bh_fail(err, rc, "the block map %s/%s cannot be read: %s", bh_disk_path(disk), name,
                       strerror(rc));
    }
    count_loaded(m);
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

static void put(struct bh_map *m, uint64_t block, enum bh_block_state state)
{
    uint8_t *b = &m->bits[block / 4];
    unsigned shift = 2 * (unsigned)(block % 4);
    *b = (uint8_t)((*b & ~(3u << shift)) | (unsigned)state << shift);
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
    uint64_t used = m->used;
    if (end > m->used)
        m->used = end;
    for (uint64_t i = first; i < end; i++) {
        enum bh_block_state old = i < used ? bh_map_get(m, i) : BH_BLOCK_ZERO;
        if (old == state)
            continue;
        m->dirty += (uint64_t)(state == BH_BLOCK_DIRTY) - (uint64_t)(old == BH_BLOCK_DIRTY);
        m->clean += (uint64_t)(state == BH_BLOCK_CLEAN) - (uint64_t)(old == BH_BLOCK_CLEAN);
        if (state == BH_BLOCK_ABSENT || old == BH_BLOCK_ABSENT)
            m->absent += (uint64_t)(state == BH_BLOCK_ABSENT) - (uint64_t)(old == BH_BLOCK_ABSENT);
        put(m, i, state);
        if (low == UINT64_MAX)
            low = i / 4;
        high = i / 4;
    }
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
