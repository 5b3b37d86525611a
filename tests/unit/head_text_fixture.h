/* For tests of the text of heads, records, labels and the format object. */
#ifndef HEAD_TEXT_FIXTURE_H
#define HEAD_TEXT_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket_helpers.h"
#include "repo/head_private.h"
#include "util/cleanup.h"
#include "util/sha256.h"

#define ID1  "20261127T072149.123Z-0123abcd"
#define ID2  "20261127T072150.000Z-89ef4567"
#define WHAT "k.bhfs/branches/main"

/* Of example_root. */
#define REF1                                                                                       \
    "017766554433221111000000a10f0010"                                                             \
    "101112131415161718191a1b1c1d1e1f"
#define REF2                                                                                       \
    "027766554433221112000000a20f0000"                                                             \
    "202122232425262728292a2b2c2d2e2f"
#define REF3                                                                                       \
    "037766554433221113000000a30f0010"                                                             \
    "303132333435363738393a3b3c3d3e3f"

/* The lines of example_entry. */
#define ENTRY                                                                                      \
    "snapshot: " ID2 "\n"                                                                          \
    "created: 2026-11-27T07:21:50.000Z\n"                                                          \
    "made_on: main\n"                                                                              \
    "flags: 1\n"                                                                                   \
    "page_size: 4096\n"                                                                            \
    "db: " REF1 " 1 1048576\n"                                                                     \
    "names: " REF2 " 0 8192\n"                                                                     \
    "uploaded: 123456\n"                                                                           \
    "changed: 7\n"                                                                                 \
    "blobs: 3\n"

static inline struct bh_root example_root(unsigned n, unsigned depth, uint64_t size)
{
    struct bh_root r = {.depth = depth, .size = size};
    r.ref = (struct bh_ref){
        .pack = 0x1122334455667700u + n, .offset = 16 + n, .stored = 4000 + n, .encoding = n % 2};
    for (unsigned i = 0; i < BH_HASH_SIZE; i++)
        r.ref.hash[i] = (uint8_t)(n * 16 + i);
    return r;
}

static inline struct bh_index_entry example_entry(void)
{
    return (struct bh_index_entry){.id = ID2,
                                   .time_ms = INT64_C(1795764110000),
                                   .flags = BH_ENTRY_DROPPED,
                                   .page_size = 4096,
                                   .db = example_root(1, 1, 1 << 20),
                                   .names = example_root(2, 0, 8192),
                                   .uploaded = 123456,
                                   .changed = 7,
                                   .blobs = 3,
                                   .branch = "main"};
}

static inline struct bh_head example_head(void)
{
    return (struct bh_head){.branch = "work",
                            .deleted = true,
                            .sequence = 42,
                            .previous = ID1,
                            .newest = example_entry(),
                            .index = example_root(3, 1, 512),
                            .forked_from = "main",
                            .fork_snapshot = ID1,
                            .lease = {.host = "büro-1",
                                      .pid = 4711,
                                      .writer = "00112233445566778899aabbccddeeff",
                                      .epoch = 5,
                                      .expires_ms = INT64_C(1795765010001)}};
}

static inline struct bh_record example_record(void)
{
    return (struct bh_record){.entry = example_entry(),
                              .parent = ID1,
                              .host = "büro-1",
                              .index = example_root(3, 1, 256)};
}

#define must_equal_text(buf, expected)                                                             \
    do {                                                                                           \
        assert_false((buf).failed);                                                                \
        assert_string_equal((buf).data, (expected));                                               \
        assert_int_equal((buf).len, strlen(expected));                                             \
    } while (0)

/* The body with the checksum line that belongs to it. */
static inline char *sealed(const char *body)
{
    char hex[BH_SHA256_HEX], *text;
    must(bh_sha256_hex_of(body, strlen(body), hex));
    assert_true(asprintf(&text, "%schecksum: %s\n", body, hex) > 0);
    return text;
}

#endif
