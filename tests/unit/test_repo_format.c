/* References, headers and trailers of packs: fixed bytes, and everything that is none. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket_helpers.h"
#include "golden_pack.h"
#include "repo/format.h"
#include "util/cleanup.h"
#include "util/sha256.h"

#define END  (16 + 4096 + 39) /* of the records of the golden pack */
#define TAIL (2 * BH_PACK_ENTRY_SIZE + BH_PACK_FOOTER_SIZE)
#define SIZE (END + TAIL)

static void flip(uint8_t *bytes, size_t bit)
{
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

static void set32(uint8_t *at, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

static struct bh_ref sample_ref(unsigned n)
{
    struct bh_ref r;
    must(bh_ref_from_hex(&r, ref_hex[n], "the sample", ERR));
    return r;
}

static void must_be_zero(const struct bh_ref *r)
{
    static const struct bh_ref zero;
    assert_memory_equal(r, &zero, sizeof zero);
    assert_true(bh_ref_is_zero(r));
}

/* --- references --- */

static void test_ref_golden(void **state)
{
    uint8_t block[4096], hash[BH_HASH_SIZE], out[BH_REF_SIZE], in[BH_REF_SIZE];
    char hex[65];
    for (unsigned i = 0; i < sizeof block; i++)
        block[i] = (uint8_t)(i * 7 + i / 256);
    must(bh_content_hash(block, sizeof block, hash));
    struct bh_ref r = {.pack = ID, .offset = 16, .stored = 4096, .encoding = BH_ENC_RAW};
    memcpy(r.hash, hash, sizeof hash);
    bh_ref_hex(&r, hex);
    assert_string_equal(hex, ref_hex[0]);
    bh_ref_encode(&r, out);
    from_hex(ref_hex[0], in);
    assert_memory_equal(out, in, sizeof in);

    r = sample_ref(1);
    assert_true(r.pack == ID && r.offset == 4112 && r.stored == 39);
    assert_int_equal(r.encoding, BH_ENC_ZSTD);
    assert_false(bh_ref_is_zero(&r));
    struct bh_ref same = r, other = sample_ref(0);
    same.pack++;
    assert_true(bh_ref_same_content(&r, &same));
    assert_false(bh_ref_same_content(&r, &other));
}

static void test_ref_zero(void **state)
{
    struct bh_ref r = {0};
    uint8_t out[BH_REF_SIZE], zero[BH_REF_SIZE] = {0};
    char hex[65];
    memset(out, 1, sizeof out);
    bh_ref_encode(&r, out);
    assert_memory_equal(out, zero, sizeof zero);
    bh_ref_hex(&r, hex);
    assert_int_equal(strspn(hex, "0"), 64);
    memset(&r, 1, sizeof r);
    must(bh_ref_from_hex(&r, hex, "x", ERR));
    must_be_zero(&r);
    must(bh_ref_check(&r, 12345, "x", ERR));
    for (size_t bit = 0; bit < 8 * sizeof zero; bit++) {
        flip(zero, bit);
        must_fail(bh_ref_decode(&r, zero, "x", ERR), EIO);
        flip(zero, bit);
    }
}

/* What decodes has just this encoding; a damaged one gives a zero reference and names its place. */
static void test_ref_flips(void **state)
{
    unsigned refused = 0;
    for (size_t bit = 0; bit < 16 * BH_REF_SIZE; bit++) {
        uint8_t in[BH_REF_SIZE], out[BH_REF_SIZE];
        struct bh_ref r;
        from_hex(ref_hex[bit / (8 * BH_REF_SIZE)], in);
        flip(in, bit % (8 * BH_REF_SIZE));
        if (bh_ref_decode(&r, in, "the node at 7", ERR)) {
            assert_int_equal(test_error.code, EIO);
            assert_non_null(strstr(test_error.text, "the node at 7"));
            must_be_zero(&r);
            refused++;
            continue;
        }
        bh_ref_encode(&r, out);
        assert_memory_equal(in, out, sizeof in);
    }
    assert_in_range(refused, 30, 60); /* high bits of offset and length, unknown encodings */
}

static void test_ref_limits(void **state)
{
    const struct {
        struct bh_ref r;
        bool ok;
    } cases[] = {
        {{.pack = 1, .offset = 16, .stored = 1}, true},
        {{.pack = UINT64_MAX, .offset = 16, .stored = BH_BLOCK_MAX, .encoding = 1}, true},
        {{.pack = 1, .offset = BH_PACK_RECORDS_MAX - 5, .stored = 5}, true},
        {{.pack = 1, .offset = BH_PACK_RECORDS_MAX - 5, .stored = 6}, false},
        {{.pack = 1, .offset = UINT32_MAX, .stored = 1}, false},
        {{.pack = 1, .offset = 15, .stored = 1}, false},
        {{.pack = 1, .offset = 16, .stored = 0}, false},
        {{.pack = 1, .offset = 16, .stored = BH_BLOCK_MAX + 1}, false},
        {{.pack = 1, .offset = 16, .stored = (1u << 28) - 1}, false},
        {{.pack = 1, .offset = 16, .stored = 1, .encoding = (enum bh_encoding)2}, false},
        {{.pack = 1, .offset = 16, .stored = 1, .encoding = (enum bh_encoding)15}, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t bytes[BH_REF_SIZE];
        struct bh_ref r;
        bh_ref_encode(&cases[i].r, bytes);
        must_fail(bh_ref_decode(&r, bytes, "x", ERR), cases[i].ok ? 0 : EIO);
    }
    struct bh_ref raw = sample_ref(0), zstd = sample_ref(1);
    must(bh_ref_check(&raw, 4096, "x", ERR));
    must_fail(bh_ref_check(&raw, 4095, "x", ERR), EIO);
    must_fail(bh_ref_check(&raw, 4097, "x", ERR), EIO);
    must(bh_ref_check(&zstd, 40, "x", ERR));
    must_fail(bh_ref_check(&zstd, 39, "x", ERR), EIO); /* it would have been stored raw */
}

static void test_ref_hex_damaged(void **state)
{
    char hex[80];
    struct bh_ref r;
    for (size_t len = 0; len < 64; len++) {
        strcpy(hex, ref_hex[0]);
        hex[len] = '\0';
        must_fail(bh_ref_from_hex(&r, hex, "the head", ERR), EIO);
        must_be_zero(&r);
        for (const char *c = "gA /:`\x80"; *c; c++) {
            strcpy(hex, ref_hex[0]);
            hex[len] = *c;
            must_fail(bh_ref_from_hex(&r, hex, "the head", ERR), EIO);
        }
    }
    snprintf(hex, sizeof hex, "%s0", ref_hex[0]);
    must_fail(bh_ref_from_hex(&r, hex, "the head", ERR), EIO);
}

static void test_hash(void **state)
{
    uint8_t hash[BH_HASH_SIZE], abc[BH_HASH_SIZE], empty[BH_HASH_SIZE];
    from_hex("ba7816bf8f01cfea414140de5dae2223", abc);
    from_hex("e3b0c44298fc1c149afbf4c8996fb924", empty);
    must(bh_content_hash("abc", 3, hash));
    assert_memory_equal(hash, abc, sizeof abc);
    must(bh_content_hash("", 0, hash));
    assert_memory_equal(hash, empty, sizeof empty);
}

/* --- names, depths --- */

static void test_names(void **state)
{
    char name[BH_PACK_NAME_MAX];
    uint64_t id = 77;
    bh_pack_name(ID, name);
    assert_string_equal(name, "0123456789abcdef");
    must(bh_pack_id_of_name(&id, name));
    assert_true(id == ID);
    bh_pack_name(1, name);
    assert_string_equal(name, "0000000000000001");
    must(bh_pack_id_of_name(&id, "ffffffffffffffff"));
    assert_true(id == UINT64_MAX);
    const char *const none[] = {"",
                                "0",
                                "0000000000000000",
                                "0123456789abcde",
                                "0123456789abcdef0",
                                "0123456789ABCDEF",
                                " 123456789abcdef",
                                "0123456789abcdeg",
                                "0123456789abcdef/"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(bh_pack_id_of_name(&id, none[i]), EINVAL);
    assert_true(id == UINT64_MAX);
}

static void test_depth(void **state)
{
    const uint64_t k = 4096;
    assert_int_equal(bh_depth_for(0, 4096), 0);
    assert_int_equal(bh_depth_for(1, 4096), 0);
    assert_int_equal(bh_depth_for(k, 4096), 0);
    assert_int_equal(bh_depth_for(k + 1, 4096), 1);
    assert_int_equal(bh_depth_for(256 * k, 4096), 1);
    assert_int_equal(bh_depth_for(256 * k + 1, 4096), 2);
    assert_int_equal(bh_depth_for(65536 * k, 4096), 2);
    assert_int_equal(bh_depth_for(65536 * k + 1, 4096), 3);
    assert_int_equal(bh_depth_for((uint64_t)1 << 60, 4096), BH_DEPTH_MAX);
    assert_int_equal(bh_depth_for(((uint64_t)1 << 60) + 1, 4096), BH_DEPTH_MAX + 1);
    assert_int_equal(bh_depth_for(UINT64_MAX, 4096), 7);
    assert_int_equal(bh_depth_for(UINT64_MAX, BH_BLOCK_MAX), 6);
    assert_int_equal(bh_depth_for((1u << 20) + 1, BH_BLOCK_MAX), 1);
}

/* --- headers --- */

static void test_header(void **state)
{
    uint8_t golden[16], out[BH_PACK_HEADER_SIZE];
    uint64_t id = 0;
    from_hex(header_hex, golden);
    bh_pack_header_encode(ID, out);
    assert_memory_equal(out, golden, sizeof golden);
    must(bh_pack_header_decode(&id, golden, ERR));
    assert_true(id == ID);
    for (size_t bit = 0; bit < 128; bit++) {
        flip(golden, bit);
        if (bit < 64) {
            must_fail(bh_pack_header_decode(&id, golden, ERR), EIO);
        } else {
            must(bh_pack_header_decode(&id, golden, ERR));
            assert_true(id == (ID ^ (uint64_t)1 << (bit - 64)));
        }
        flip(golden, bit);
    }
    memset(golden + 8, 0, 8);
    must_fail(bh_pack_header_decode(&id, golden, ERR), EIO);
    golden[6] = '2';
    assert_int_equal(bh_pack_header_decode(&id, golden, ERR), EIO);
    assert_non_null(strstr(test_error.text, "version 2"));
    assert_non_null(strstr(test_error.text, "update bhfs"));
}

/* --- trailers --- */

static void sample_entries(struct bh_pack_entry e[2])
{
    e[0] = (struct bh_pack_entry){.kind = BH_RECORD_BLOCK,
                                  .tree = BH_TREE_DB,
                                  .number = 5,
                                  .raw = 4096,
                                  .ref = sample_ref(0)};
    e[1] = (struct bh_pack_entry){.kind = BH_RECORD_NODE,
                                  .tree = BH_TREE_NAMES,
                                  .level = 1,
                                  .number = 256,
                                  .raw = 8192,
                                  .ref = sample_ref(1)};
}

static int decode(const uint8_t *in, size_t len, uint64_t id, uint64_t size)
{
    struct bh_pack_entry *entries = NULL;
    size_t count = 0;
    int rc = bh_pack_trailer_decode(in, len, id, size, &entries, &count, ERR);
    if (rc)
        assert_true(entries == NULL && count == 0);
    free(entries);
    return rc;
}

static void test_trailer_golden(void **state)
{
    uint8_t golden[TAIL];
    struct bh_pack_entry e[2], *got;
    size_t count = 0;
    uint64_t at = 0;
    BH_STRBUF out = {0};
    assert_int_equal(from_hex(trailer_hex, golden), TAIL);
    sample_entries(e);
    bh_strbuf_add(&out, "before", 6);
    must(bh_pack_trailer_encode(&out, ID, END, e, 2));
    assert_int_equal(out.len, 6 + TAIL);
    assert_memory_equal(out.data + 6, golden, TAIL);
    must(bh_pack_footer_decode(golden + TAIL - BH_PACK_FOOTER_SIZE, ID, SIZE, &at, &count, ERR));
    assert_int_equal(at, END);
    assert_int_equal(count, 2);
    must(bh_pack_trailer_decode(golden, TAIL, ID, SIZE, &got, &count, ERR));
    assert_int_equal(count, 2);
    for (unsigned i = 0; i < 2; i++) {
        char hex[65];
        bh_ref_hex(&got[i].ref, hex);
        assert_string_equal(hex, ref_hex[i]);
        assert_int_equal(got[i].kind, e[i].kind);
        assert_int_equal(got[i].tree, e[i].tree);
        assert_int_equal(got[i].level, e[i].level);
        assert_int_equal(got[i].number, e[i].number);
        assert_int_equal(got[i].raw, e[i].raw);
    }
    free(got);
}

static void test_trailer_flips(void **state)
{
    uint8_t bytes[TAIL];
    from_hex(trailer_hex, bytes);
    must(decode(bytes, TAIL, ID, SIZE));
    for (size_t bit = 0; bit < 8 * TAIL; bit++) {
        flip(bytes, bit);
        must_fail(decode(bytes, TAIL, ID, SIZE), EIO);
        flip(bytes, bit);
    }
    for (size_t bit = 0; bit < 64; bit++)
        must_fail(decode(bytes, TAIL, ID ^ (uint64_t)1 << bit, SIZE), EIO);
}

/* Cut at either end, or longer; in an object that fits, and in one of the old size. */
static void test_trailer_cut(void **state)
{
    for (size_t len = 0; len < TAIL; len++) {
        uint8_t bytes[TAIL];
        from_hex(trailer_hex, bytes);
        BH_FREE uint8_t *cut = malloc(len ? len : 1); /* so that ASan sees a read beyond it */
        memcpy(cut, bytes, len);
        must_fail(decode(cut, len, ID, SIZE), EIO);
        must_fail(decode(cut, len, ID, SIZE - (TAIL - len)), EIO);
        memcpy(cut, bytes + TAIL - len, len);
        must_fail(decode(cut, len, ID, SIZE), EIO);
        must_fail(decode(cut, len, ID, SIZE - (TAIL - len)), EIO);
    }
    uint8_t longer[TAIL + 1] = {0};
    from_hex(trailer_hex, longer);
    must_fail(decode(longer, TAIL + 1, ID, SIZE + 1), EIO);
    from_hex(trailer_hex, longer + 1);
    must_fail(decode(longer, TAIL + 1, ID, SIZE), EIO);
    must_fail(decode(longer, TAIL + 1, ID, SIZE + 1), EIO);
    const uint64_t sizes[] = {0, 1, TAIL, SIZE - 1, SIZE + 1, BH_PACK_MAX, UINT64_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        must_fail(decode(longer + 1, TAIL, ID, sizes[i]), EIO);
}

static void test_footer_limits(void **state)
{
    uint8_t f[BH_PACK_FOOTER_SIZE], trailer[TAIL];
    const struct {
        uint32_t at, count;
        uint64_t size;
        bool ok;
    } cases[] = {
        {17, 1, 17 + 96, true},
        {16, 1, 16 + 96, false},
        {17, 0, 17 + 48, false},
        {17, 1, 17 + 97, false},
        {17, 1, 17 + 95, false},
        {BH_PACK_RECORDS_MAX, 1, BH_PACK_MAX, true},
        {BH_PACK_RECORDS_MAX + 1, 1, BH_PACK_MAX + 1, false},
        {UINT32_MAX, UINT32_MAX, (uint64_t)UINT32_MAX * 49 + 48, false},
        {17, UINT32_MAX / 48 + 1, 17 + 48, false}, /* would overflow in 32 bits */
        {UINT32_MAX, 1, 95, false},
    };
    from_hex(trailer_hex, trailer);
    memcpy(f, trailer + TAIL - sizeof f, sizeof f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t at;
        size_t count;
        set32(f, cases[i].at);
        set32(f + 4, cases[i].count);
        must_fail(bh_pack_footer_decode(f, ID, cases[i].size, &at, &count, ERR),
                  cases[i].ok ? 0 : EIO);
        if (cases[i].ok)
            assert_true(at == cases[i].at && count == cases[i].count);
    }
}

/* Sets the checksum right: then only what it says can be wrong. */
static void forge(uint8_t *trailer, size_t len)
{
    uint8_t header[16], *footer = trailer + len - BH_PACK_FOOTER_SIZE;
    char hex[BH_SHA256_HEX];
    struct bh_sha256 *h = bh_sha256_new();
    bh_pack_header_encode(ID, header);
    bh_sha256_update(h, header, sizeof header);
    bh_sha256_update(h, trailer, len - BH_PACK_FOOTER_SIZE + 8);
    bh_sha256_hex(h, hex);
    bh_sha256_free(h);
    from_hex(hex, footer + 8);
}

static void test_trailer_forged(void **state)
{
    const struct {
        unsigned at, value;
    } changes[] = {
        {0, 0},         {0, 2},     {0, 3},          /* kind */
        {1, 0},         {1, 4},                      /* tree */
        {2, 1},                                      /* a block's level */
        {3, 1},                                      /* nothing */
        {5, 0},         {5, 0x11},  {5, 8},  {6, 1}, /* a block's size */
        {8 + 6, 1},                                  /* its number */
        {16, 0},                                     /* its pack */
        {24, 15},       {24, 17},   {25, 1},         /* its place */
        {28, 1},        {29, 0x0f},                  /* its length: not raw */
        {31, 16},       {31, 32},            /* compressed to the same; an unknown encoding */
        {48, 1},        {50, 0},    {50, 7}, /* the node's kind and level */
        {48 + 5, 0x10},                      /* its size */
        {48 + 8, 1},                         /* its number: no multiple of 256 */
        {50, 2},                             /* ... of 65536 */
        {64, 0},                             /* its pack */
        {72, 0x0f},     {72, 0x11},          /* overlaps the block; leaves a gap */
        {76, 38},       {76, 40},            /* ends before the trailer, in it */
        {79, 0},                             /* raw, of 39 bytes */
    };
    uint8_t bytes[TAIL];
    from_hex(trailer_hex, bytes);
    forge(bytes, TAIL);
    must(decode(bytes, TAIL, ID, SIZE));
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        uint8_t before = bytes[changes[i].at];
        assert_int_not_equal(before, changes[i].value);
        bytes[changes[i].at] = (uint8_t)changes[i].value;
        forge(bytes, TAIL);
        must_fail(decode(bytes, TAIL, ID, SIZE), EIO);
        bytes[changes[i].at] = before;
    }
    memcpy(bytes + 48, bytes, 48); /* the same twice */
    forge(bytes, TAIL);
    must_fail(decode(bytes, TAIL, ID, SIZE), EIO);
    memset(bytes + 16, 0, 32); /* zeros are not stored */
    forge(bytes, TAIL);
    must_fail(decode(bytes, TAIL, ID, SIZE), EIO);
}

/* Every byte of the entries set to some value, checksum right: what decodes encodes the same. */
static void test_trailer_one_form(void **state)
{
    for (size_t at = 0; at < 2 * BH_PACK_ENTRY_SIZE; at++)
        for (unsigned value = 0; value < 256; value += 5) {
            uint8_t bytes[TAIL];
            struct bh_pack_entry *got = NULL;
            size_t count;
            BH_STRBUF out = {0};
            from_hex(trailer_hex, bytes);
            bytes[at] = (uint8_t)value;
            forge(bytes, TAIL);
            if (bh_pack_trailer_decode(bytes, TAIL, ID, SIZE, &got, &count, NULL))
                continue;
            must(bh_pack_trailer_encode(&out, ID, END, got, count));
            free(got);
            assert_int_equal(out.len, TAIL);
            assert_memory_equal(out.data, bytes, TAIL);
        }
}

static int encode(uint64_t id, uint32_t end, const struct bh_pack_entry *e, size_t count)
{
    BH_STRBUF out = {0};
    return bh_pack_trailer_encode(&out, id, end, e, count);
}

static void test_trailer_encode_refuses(void **state)
{
    struct bh_pack_entry e[2];
    sample_entries(e);
    assert_int_equal(encode(ID, END, e, 2), 0);
    assert_int_equal(encode(0, END, e, 2), EINVAL);
    assert_int_equal(encode(ID + 1, END, e, 2), EINVAL);
    assert_int_equal(encode(ID, END + 1, e, 2), EINVAL);
    assert_int_equal(encode(ID, END - 1, e, 2), EINVAL);
    assert_int_equal(encode(ID, END, e, 1), EINVAL);
    assert_int_equal(encode(ID, 16, e, 0), EINVAL);
    assert_int_equal(encode(ID, BH_PACK_RECORDS_MAX + 1, e, 2), EINVAL);
    assert_int_equal(encode(ID, END, e, SIZE_MAX), EINVAL);
    struct bh_pack_entry first = e[0];
    e[0] = e[1];
    e[1] = first;
    assert_int_equal(encode(ID, END, e, 2), EINVAL); /* not in order */
}

static void test_shapes(void **state)
{
    const uint64_t last = ((uint64_t)1 << 48) - 1;
#define OK(...) bh_record_shape_ok(__VA_ARGS__)
    for (size_t raw = 4096; raw <= 1 << 20; raw *= 2) {
        assert_true(OK(BH_RECORD_BLOCK, BH_TREE_INDEX, 0, last, raw));
        assert_false(OK(BH_RECORD_BLOCK, BH_TREE_INDEX, 0, last, raw + 1));
        assert_false(OK(BH_RECORD_BLOCK, BH_TREE_INDEX, 0, last, raw - 1));
    }
    assert_false(OK(BH_RECORD_BLOCK, BH_TREE_DB, 0, 0, 0));
    assert_false(OK(BH_RECORD_BLOCK, BH_TREE_DB, 0, 0, 2048));
    assert_false(OK(BH_RECORD_BLOCK, BH_TREE_DB, 0, 0, 1 << 21));
    assert_false(OK(BH_RECORD_BLOCK, BH_TREE_DB, 0, last + 1, 4096));
    assert_false(OK(BH_RECORD_NODE, BH_TREE_DB, 0, 0, BH_NODE_SIZE));
    assert_false(OK(BH_RECORD_NODE, BH_TREE_DB, BH_DEPTH_MAX + 1, 0, BH_NODE_SIZE));
    assert_false(OK(BH_RECORD_NODE, BH_TREE_DB, UINT32_MAX, 0, BH_NODE_SIZE));
    for (unsigned level = 1; level <= BH_DEPTH_MAX; level++) {
        uint64_t below = (uint64_t)1 << (8 * level);
        assert_true(OK(BH_RECORD_NODE, BH_TREE_NAMES, level, 0, BH_NODE_SIZE));
        assert_int_equal(OK(BH_RECORD_NODE, BH_TREE_NAMES, level, below, BH_NODE_SIZE), level < 6);
        assert_false(OK(BH_RECORD_NODE, BH_TREE_NAMES, level, below / 2, BH_NODE_SIZE));
    }
#undef OK
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ref_golden),
        cmocka_unit_test(test_ref_zero),
        cmocka_unit_test(test_ref_flips),
        cmocka_unit_test(test_ref_limits),
        cmocka_unit_test(test_ref_hex_damaged),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_trailer_golden),
        cmocka_unit_test(test_trailer_flips),
        cmocka_unit_test(test_trailer_cut),
        cmocka_unit_test(test_footer_limits),
        cmocka_unit_test(test_trailer_forged),
        cmocka_unit_test(test_trailer_one_form),
        cmocka_unit_test(test_trailer_encode_refuses),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests_name("repo-format", tests, NULL, NULL);
}
