/* For tests that read packs: their set-up, content, storing it. One per program. */
#ifndef PACK_FIXTURE_H
#define PACK_FIXTURE_H

#include <stdlib.h>

#include "bucket_fixture.h"
#include "repo/pack.h"
#include "util/cleanup.h"

#define BLOCK  16384u
#define PREFIX "db.bhfs/"

static struct bh_packs *packs;
static struct bh_pack_writer *writer;

static inline void open_packs(uint64_t part_size, int level)
{
    const struct bh_packs_options options = {.part_size = part_size, .parallel = 4, .level = level};
    bh_packs_free(packs);
    must(bh_packs_new(&packs, b, PREFIX, &options, ERR));
}

static inline int setup(void **state)
{
    int rc = dir_setup(state);
    packs = NULL;
    if (!rc)
        open_packs(BH_PACK_MAX, 3);
    return rc;
}

static inline int teardown(void **state)
{
    bh_packs_free(packs);
    return dir_teardown(state);
}

static inline uint64_t gets(void)
{
    struct bh_bucket_stats s;
    bh_bucket_stats(b, &s);
    return s.requests[BH_OP_GET];
}

static inline uint64_t bytes_down(void)
{
    struct bh_bucket_stats s;
    bh_bucket_stats(b, &s);
    return s.bytes_down;
}

/* Bytes that do not compress, others for every n. */
static inline void noise(uint64_t n, void *buf, size_t len)
{
    uint64_t x = (n + 1) * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < len; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        ((uint8_t *)buf)[i] = (uint8_t)(x >> 32);
    }
}

/* A third each of text, noise, and both. */
static inline void content(uint64_t n, uint8_t *buf, size_t len)
{
    size_t noisy = n % 3 == 0 ? 0 : n % 3 == 1 ? len : len / 2;
    noise(n, buf, noisy);
    for (size_t i = noisy; i < len; i++)
        buf[i] = (uint8_t)("abcdefgh"[(i + n) % 8] + (i / 256 + n) % 16);
}

static inline struct bh_ref add(uint64_t n, const void *data, size_t len)
{
    struct bh_ref ref;
    must(bh_pack_add(writer, BH_RECORD_BLOCK, 0, n, data, len, &ref, ERR));
    return ref;
}

static inline void begin(void)
{
    must(bh_pack_writer_new(&writer, packs, BH_TREE_DB, NULL, ERR));
}

static inline void finish(void)
{
    must(bh_pack_writer_finish(writer, ERR));
    bh_pack_writer_free(writer);
}

/* Blocks with content(n), one pack. */
static inline struct bh_ref *store(size_t count, size_t len)
{
    struct bh_ref *refs = calloc(count, sizeof *refs);
    BH_FREE uint8_t *buf = malloc(len);
    begin();
    for (size_t n = 0; n < count; n++) {
        content(n, buf, len);
        refs[n] = add(n, buf, len);
    }
    finish();
    return refs;
}

#endif
