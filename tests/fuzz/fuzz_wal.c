/* A write-ahead log. The input's first byte says how to read the rest: 'r', as the log; else as one
 * whose salts and checksums ('b': over big-endian words) are made right first, in so many frames as
 * the second byte says. */
#include "fuzz.h"

#include "live/wal.h"

#define PAGE_SIZE 512u
#define FRAME     (BH_WAL_FRAME_HEADER + PAGE_SIZE)

struct log {
    uint8_t *data;
    size_t size;
};

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void add(uint32_t sum[2], const uint8_t *p, size_t len, int big_endian)
{
    for (size_t i = 0; i < len; i += 8) {
        uint32_t x = get32(p + i), y = get32(p + i + 4);
        sum[0] += (big_endian ? x : __builtin_bswap32(x)) + sum[1];
        sum[1] += (big_endian ? y : __builtin_bswap32(y)) + sum[0];
    }
}

static void seal(struct log *l, unsigned frames, int big_endian)
{
    uint32_t sum[2] = {0, 0};
    if (l->size < BH_WAL_HEADER)
        return;
    put32(l->data, 0x377f0682u + (uint32_t)big_endian);
    put32(l->data + 4, 3007000);
    put32(l->data + 8, PAGE_SIZE);
    add(sum, l->data, 24, big_endian);
    put32(l->data + 24, sum[0]);
    put32(l->data + 28, sum[1]);
    uint8_t *f = l->data + BH_WAL_HEADER;
    for (; frames > 0 && f + FRAME <= l->data + l->size; frames--, f += FRAME) {
        memcpy(f + 8, l->data + 16, 8);
        add(sum, f, 8, big_endian);
        add(sum, f + BH_WAL_FRAME_HEADER, PAGE_SIZE, big_endian);
        put32(f + 16, sum[0]);
        put32(f + 20, sum[1]);
    }
}

static int read_log(void *arg, void *buf, size_t len, uint64_t offset)
{
    const struct log *l = arg;
    must(offset <= l->size && len <= l->size - offset);
    memcpy(buf, l->data + offset, len);
    return 0;
}

/* What is found is what some frame before the last commit says, and none after it denies. */
static void check_page(const struct log *l, const struct bh_wal_map *m, size_t i, size_t committed)
{
    const struct bh_wal_page *p = &m->pages[i];
    size_t frame = BH_WAL_FRAME_HEADER + m->page_size;
    must(i == 0 || m->pages[i - 1].page < p->page);
    must(p->page > 0 && p->frame < committed);
    must(bh_wal_find(m, p->page) ==
         BH_WAL_HEADER + (uint64_t)p->frame * frame + BH_WAL_FRAME_HEADER);
    must(get32(l->data + BH_WAL_HEADER + p->frame * frame) == p->page);
    for (size_t later = p->frame + 1; later < committed; later++)
        must(get32(l->data + BH_WAL_HEADER + later * frame) != p->page);
}

static void check_map(const struct log *l, const struct bh_wal_map *m)
{
    size_t committed = 0;
    must((m->count > 0) == (m->tag[0] != '\0'));
    must(strnlen(m->tag, sizeof m->tag) < sizeof m->tag);
    if (m->count == 0)
        return;
    must(sscanf(m->tag, "%*16[0-9a-f].%zu.", &committed) == 1);
    must(BH_WAL_HEADER + committed * (BH_WAL_FRAME_HEADER + m->page_size) <= l->size);
    must(m->count <= committed && m->db_pages > 0);
    for (size_t i = 0; i < m->count; i++)
        check_page(l, m, i, committed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bh_wal_map m;
    int raw = size > 0 && data[0] == 'r', big_endian = size > 0 && data[0] == 'b';
    unsigned frames = size > 1 ? data[1] : 0;
    size_t skip = raw ? 1 : size < 2 ? size : 2;
    struct log l = {.data = malloc(size - skip + 1), .size = size - skip};
    must(l.data);
    memcpy(l.data, data + skip, l.size);
    if (!raw)
        seal(&l, frames, big_endian);
    must(bh_wal_scan(&m, l.size, read_log, &l) == 0);
    check_map(&l, &m);
    for (uint32_t page = 0; page < 20; page++) {
        uint64_t at = bh_wal_find(&m, page);
        must(at == 0 || at + m.page_size <= l.size);
    }
    bh_wal_map_free(&m);
    free(l.data);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    be_quiet();
    return 0;
}
