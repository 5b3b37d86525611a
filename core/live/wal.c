#include "live/wal.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"
#include "util/cleanup.h"

#define MAGIC         0x377f0682u /* the lowest bit: checksums over big-endian words */
#define FORMAT        3007000u
#define PAGE_SIZE_MIN 512u
#define PAGE_SIZE_MAX 65536u

struct scan {
    struct bh_wal_map *map;
    int (*read)(void *arg, void *buf, size_t len, uint64_t offset);
    void *arg;
    uint64_t size;
    bool big_endian;
    unsigned char salts[8];
    uint32_t sum[2];
    size_t cap;
};

static uint32_t word(const struct scan *s, const unsigned char *p)
{
    return s->big_endian ? bh_get_be32(p)
                         : (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

/* len is a multiple of 8. */
static void add_to_sum(struct scan *s, const unsigned char *p, size_t len)
{
    uint32_t a = s->sum[0], b = s->sum[1];
    for (size_t i = 0; i < len; i += 8) {
        a += word(s, p + i) + b;
        b += word(s, p + i + 4) + a;
    }
    s->sum[0] = a;
    s->sum[1] = b;
}

static bool sum_is(const struct scan *s, const unsigned char *p)
{
    return s->sum[0] == bh_get_be32(p) && s->sum[1] == bh_get_be32(p + 4);
}

static bool take_header(struct scan *s, const unsigned char h[BH_WAL_HEADER])
{
    uint32_t magic = bh_get_be32(h), page = bh_get_be32(h + 8);
    if ((magic & ~1u) != MAGIC || bh_get_be32(h + 4) != FORMAT || page < PAGE_SIZE_MIN ||
        page > PAGE_SIZE_MAX || (page & (page - 1)))
        return false;
    s->big_endian = magic & 1;
    s->map->page_size = page;
    memcpy(s->salts, h + 16, sizeof s->salts);
    add_to_sum(s, h, 24);
    return sum_is(s, h + 24);
}

/* A whole frame that belongs to this log. */
static bool take_frame(struct scan *s, const unsigned char *f)
{
    if (bh_get_be32(f) == 0 || memcmp(f + 8, s->salts, sizeof s->salts))
        return false;
    add_to_sum(s, f, 8);
    add_to_sum(s, f + BH_WAL_FRAME_HEADER, s->map->page_size);
    return sum_is(s, f + 16);
}

static int push(struct scan *s, size_t *count, uint32_t page, uint32_t frame)
{
    struct bh_wal_map *m = s->map;
    if (*count == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 1024;
        struct bh_wal_page *p = realloc(m->pages, cap * sizeof *p);
        if (!p)
            return ENOMEM;
        m->pages = p;
        s->cap = cap;
    }
    m->pages[(*count)++] = (struct bh_wal_page){.page = page, .frame = frame};
    return 0;
}

static int scan_frames(struct scan *s)
{
    size_t size = BH_WAL_FRAME_HEADER + s->map->page_size, seen = 0;
    BH_FREE unsigned char *buf = malloc(size);
    if (!buf)
        return ENOMEM;
    for (uint64_t at = BH_WAL_HEADER; at + size <= s->size; at += size) {
        int rc = s->read(s->arg, buf, size, at);
        if (rc)
            return rc;
        if (!take_frame(s, buf))
            break;
        rc = push(s, &seen, bh_get_be32(buf), (uint32_t)((at - BH_WAL_HEADER) / size));
        if (rc)
            return rc;
        if (bh_get_be32(buf + 4)) { /* a commit frame says how large the database is now */
            s->map->count = seen;
            s->map->db_pages = bh_get_be32(buf + 4);
            snprintf(s->map->tag, sizeof s->map->tag, "%08x%08x.%zu.%08x%08x",
                     bh_get_be32(s->salts), bh_get_be32(s->salts + 4), seen, s->sum[0], s->sum[1]);
        }
    }
    return 0;
}

static int by_page(const void *a, const void *b)
{
    const struct bh_wal_page *x = a, *y = b;
    if (x->page != y->page)
        return x->page < y->page ? -1 : 1;
    return x->frame < y->frame ? -1 : 1;
}

/* In order, the newest frame of each page only. */
static void sort_out(struct bh_wal_map *m)
{
    size_t kept = 0;
    if (m->count > 0)
        qsort(m->pages, m->count, sizeof *m->pages, by_page);
    for (size_t i = 0; i < m->count; i++) {
        if (i + 1 < m->count && m->pages[i + 1].page == m->pages[i].page)
            continue;
        m->pages[kept++] = m->pages[i];
    }
    m->count = kept;
}

int bh_wal_scan(struct bh_wal_map *m, uint64_t size,
                int (*read)(void *arg, void *buf, size_t len, uint64_t offset), void *arg)
{
    unsigned char header[BH_WAL_HEADER];
    struct scan s = {.map = m, .read = read, .arg = arg, .size = size};
    *m = (struct bh_wal_map){0};
    if (size < sizeof header)
        return 0;
    int rc = read(arg, header, sizeof header, 0);
    if (rc == 0 && take_header(&s, header))
        rc = scan_frames(&s);
    if (rc == 0)
        sort_out(m);
    else
        bh_wal_map_free(m);
    return rc;
}

void bh_wal_map_free(struct bh_wal_map *m)
{
    free(m->pages);
    *m = (struct bh_wal_map){0};
}

/* The first of m->pages from that page on, or their count. */
static size_t lower_bound(const struct bh_wal_map *m, uint32_t page)
{
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (m->pages[middle].page < page)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint64_t bh_wal_find(const struct bh_wal_map *m, uint32_t page)
{
    size_t i = lower_bound(m, page);
    if (i == m->count || m->pages[i].page != page)
        return 0;
    return BH_WAL_HEADER + (uint64_t)m->pages[i].frame * (BH_WAL_FRAME_HEADER + m->page_size) +
           BH_WAL_FRAME_HEADER;
}

bool bh_wal_has(const struct bh_wal_map *m, uint32_t first, uint32_t last)
{
    size_t i = lower_bound(m, first);
    return i < m->count && m->pages[i].page <= last;
}
