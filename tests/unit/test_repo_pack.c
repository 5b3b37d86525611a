/* Reading packs: round trips, fixed bytes, damage. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden_pack.h"
#include "pack_fixture.h"
#include "repo/pack_private.h"

static void must_read(const struct bh_ref *ref, uint64_t n, size_t len)
{
    BH_FREE uint8_t *got = malloc(len), *want = malloc(len);
    content(n, want, len);
    must(bh_packs_read(packs, ref, len, got, "a block", NULL, ERR));
    assert_memory_equal(got, want, len);
}

static const char *pack_path(uint64_t id)
{
    BH_FREE char *key = bh_packs_key(packs, id);
    return path_of(key);
}

static int read_trailer(uint64_t id, size_t *count, uint64_t *size)
{
    struct bh_pack_entry *entries = NULL;
    size_t n = 0;
    int rc = bh_packs_trailer(packs, id, &entries, &n, size, NULL, ERR);
    free(entries);
    if (count)
        *count = n;
    return rc;
}

/* --- round trips --- */

static void test_round_trip(void **state)
{
    const size_t sizes[] = {4096, BLOCK, 1 << 20};
    for (unsigned level = 0; level < 2; level++)
        for (unsigned s = 0; s < 3; s++) {
            size_t len = sizes[s];
            open_packs(BH_PACK_MAX, (int)level * 3);
            BH_FREE struct bh_ref *refs = store(9, len);
            for (unsigned n = 0; n < 9; n++) {
                must_read(&refs[n], n, len);
                bool raw = level == 0 || n % 3 == 1;
                assert_int_equal(refs[n].encoding, raw ? BH_ENC_RAW : BH_ENC_ZSTD);
                if (raw)
                    assert_int_equal(refs[n].stored, len);
                else
                    assert_in_range(refs[n].stored, 1, len - len / 16);
                assert_true(refs[n].pack == refs[0].pack);
            }
        }
}

static void test_zeros(void **state)
{
    BH_FREE uint8_t *zeros = calloc(1, BLOCK), *got = malloc(BLOCK), *last = calloc(1, BLOCK);
    size_t count;
    begin();
    struct bh_ref ref = add(0, zeros, BLOCK);
    assert_true(bh_ref_is_zero(&ref));
    assert_int_equal(bh_pack_writer_bytes(writer), 0);
    assert_null(bh_pack_writer_ids(writer, &count));
    assert_int_equal(count, 0);
    finish();
    assert_string_equal(listing(b, "", NULL, NULL, 0), "");
    memset(got, 1, BLOCK);
    must(bh_packs_read(packs, &ref, BLOCK, got, "x", NULL, ERR));
    assert_memory_equal(got, zeros, BLOCK);
    assert_int_equal(gets(), 0);
    last[BLOCK - 1] = 1; /* not all zeros */
    begin();
    ref = add(0, last, BLOCK);
    assert_false(bh_ref_is_zero(&ref));
    finish();
    must(bh_packs_read(packs, &ref, BLOCK, got, "x", NULL, ERR));
    assert_memory_equal(got, last, BLOCK);
}

static void test_trailer(void **state)
{
    BH_FREE uint8_t *buf = malloc(BLOCK);
    struct bh_ref refs[3];
    struct bh_pack_entry *e;
    size_t count;
    uint64_t size;
    struct stat st;
    begin();
    content(1, buf, BLOCK);
    refs[0] = add(1000, buf, BLOCK);
    bh_pack_writer_set_tree(writer, BH_TREE_NAMES);
    refs[1] = add(2, buf, BLOCK);
    bh_pack_writer_set_tree(writer, BH_TREE_INDEX);
    must(bh_pack_add(writer, BH_RECORD_NODE, 2, 65536, buf, BH_NODE_SIZE, &refs[2], ERR));
    must(bh_pack_writer_finish(writer, ERR));
    must(bh_packs_trailer(packs, refs[0].pack, &e, &count, &size, NULL, ERR));
    assert_int_equal(count, 3);
    for (unsigned i = 0; i < 3; i++) {
        char a[65], c[65];
        bh_ref_hex(&e[i].ref, a);
        bh_ref_hex(&refs[i], c);
        assert_string_equal(a, c);
        assert_int_equal(e[i].tree, 1 + i);
    }
    assert_true(e[0].kind == BH_RECORD_BLOCK && e[0].number == 1000 && e[0].raw == BLOCK);
    assert_true(e[2].kind == BH_RECORD_NODE && e[2].level == 2 && e[2].number == 65536);
    assert_int_equal(e[2].raw, BH_NODE_SIZE);
    free(e);
    assert_int_equal(stat(pack_path(refs[0].pack), &st), 0);
    assert_int_equal(size, st.st_size);
    assert_int_equal(size, bh_pack_writer_bytes(writer));
    bh_pack_writer_free(writer);
}

/* Larger than the first read of it. */
static void test_large_trailer(void **state)
{
    open_packs(BH_PACK_MAX, 1);
    BH_FREE struct bh_ref *refs = store(3000, 4096);
    struct bh_pack_entry *e;
    size_t count;
    uint64_t before = gets();
    must(bh_packs_trailer(packs, refs[0].pack, &e, &count, NULL, NULL, ERR));
    assert_int_equal(count, 3000);
    for (unsigned i = 0; i < 3000; i++)
        assert_true(e[i].number == i && e[i].ref.offset == refs[i].offset);
    free(e);
    assert_int_equal(gets() - before, 2);
}

/* --- fixed bytes --- */

static size_t golden_pack(uint8_t *out)
{
    size_t n = from_hex(header_hex, out);
    for (unsigned i = 0; i < 4096; i++)
        out[n++] = (uint8_t)(i * 7 + i / 256);
    n += from_hex(node_hex, out + n);
    return n + from_hex(trailer_hex, out + n);
}

static void put_pack(uint64_t id, const void *data, size_t len)
{
    BH_FREE char *key = bh_packs_key(packs, id);
    struct bh_source src = {.size = len, .data = data};
    must(bh_bucket_put(b, key, &src, NULL, NULL, NULL, NULL, ERR));
}

static void test_golden(void **state)
{
    uint8_t pack[8192], node[BH_NODE_SIZE], block[4096];
    struct bh_pack_entry *e;
    size_t count;
    size_t len = golden_pack(pack);
    BH_FREE char *key = bh_packs_key(packs, ID);
    assert_string_equal(key, "db.bhfs/packs/0123456789abcdef");
    put_pack(ID, pack, len);
    must(bh_packs_trailer(packs, ID, &e, &count, NULL, NULL, ERR));
    assert_int_equal(count, 2);
    must(bh_packs_read(packs, &e[0].ref, 4096, block, "x", NULL, ERR));
    assert_memory_equal(block, pack + 16, 4096);
    must(bh_packs_read(packs, &e[1].ref, sizeof node, node, "x", NULL, ERR));
    for (size_t i = 0; i < sizeof node; i++)
        assert_int_equal(node[i], "all work and no play\n"[i % 21]);
    free(e);
}

/* What the writer makes, looked at by hand. */
static void test_written_bytes(void **state)
{
    uint8_t block[4096], out[16 + 4096 + 96], id[8];
    open_packs(BH_PACK_MAX, 0);
    noise(3, block, sizeof block);
    begin();
    struct bh_ref ref = add(7, block, sizeof block);
    finish();
    BH_FD int fd = open(pack_path(ref.pack), O_RDONLY);
    assert_int_equal(read(fd, out, sizeof out), sizeof out);
    assert_int_equal(read(fd, id, 1), 0);
    for (unsigned i = 0; i < 8; i++)
        id[i] = (uint8_t)(ref.pack >> (8 * i));
    assert_memory_equal(out, "bhpack1\n", 8);
    assert_memory_equal(out + 8, id, 8);
    assert_memory_equal(out + 16, block, 4096);
    assert_memory_equal(out + 16 + 4096, "\1\1\0\0\0\x10\0\0\7\0\0\0\0\0\0\0", 16);
    assert_memory_equal(out + 16 + 4096 + 16, id, 8);
    assert_memory_equal(out + sizeof out - 8, "bhtail1\n", 8);
    assert_int_equal(ref.offset, 16);
}

/* --- damage --- */

/* Every bit of a raw and of a compressed record. zstd has a few bits that mean nothing (two of this
 * one): what was stored comes back all the same. */
static void test_record_flips(void **state)
{
    uint8_t pack[8192], buf[BH_NODE_SIZE], want[BH_NODE_SIZE];
    struct bh_pack_entry *e;
    size_t count, len = golden_pack(pack);
    uint8_t *trailer = pack + len - 96 - BH_PACK_FOOTER_SIZE;
    ZSTD_DCtx *context = ZSTD_createDCtx();
    must(bh_pack_trailer_decode(trailer, 96 + BH_PACK_FOOTER_SIZE, ID, len, &e, &count, ERR));
    for (unsigned i = 0; i < 2; i++) {
        const struct bh_ref *r = &e[i].ref;
        uint8_t *in = pack + r->offset;
        unsigned harmless = 0;
        must(bh_pack_record_decode(context, r, in, e[i].raw, want, "x", ERR));
        must_fail(bh_pack_record_decode(context, r, in, e[i].raw / 2, buf, "x", ERR), EIO);
        for (size_t bit = 0; bit < 8 * r->stored; bit++) {
            in[bit / 8] ^= (uint8_t)(1u << bit % 8);
            int rc = bh_pack_record_decode(context, r, in, e[i].raw, buf, "x", ERR);
            in[bit / 8] ^= (uint8_t)(1u << bit % 8);
            if (rc == 0) {
                assert_memory_equal(buf, want, e[i].raw);
                harmless++;
            } else {
                assert_int_equal(rc, EIO);
            }
        }
        assert_int_equal(harmless, 2 * i);
    }
    ZSTD_freeDCtx(context);
    free(e);
}

/* Frames that give the right content, but are not what the encoder makes. */
static void test_odd_frames(void **state)
{
    uint8_t block[4096], in[300], out[4096];
    struct bh_ref ref = {.pack = 1, .offset = 16, .encoding = BH_ENC_ZSTD};
    ZSTD_DCtx *context = ZSTD_createDCtx();
    ZSTD_CCtx *unsized = ZSTD_createCCtx();
    memset(block, 'x', sizeof block);
    must(bh_content_hash(block, sizeof block, ref.hash));
    size_t n = ZSTD_compress(in, sizeof in, block, sizeof block, 3);
    ref.stored = (uint32_t)n;
    must(bh_pack_record_decode(context, &ref, in, sizeof block, out, "x", ERR));
    assert_memory_equal(out, block, sizeof block);
    in[n] = 0; /* a byte behind it */
    ref.stored++;
    must_fail(bh_pack_record_decode(context, &ref, in, sizeof block, out, "x", ERR), EIO);
    from_hex("502a4d1800000000", in + n); /* a frame to be skipped behind it */
    ref.stored = (uint32_t)n + 8;
    must_fail(bh_pack_record_decode(context, &ref, in, sizeof block, out, "x", ERR), EIO);
    n = ZSTD_compress(in, sizeof in, block, 2048, 3); /* two frames */
    n += ZSTD_compress(in + n, sizeof in - n, block, 2048, 3);
    ref.stored = (uint32_t)n;
    must_fail(bh_pack_record_decode(context, &ref, in, sizeof block, out, "x", ERR), EIO);
    ZSTD_CCtx_setParameter(unsized, ZSTD_c_contentSizeFlag, 0);
    ref.stored = (uint32_t)ZSTD_compress2(unsized, in, sizeof in, block, sizeof block);
    must_fail(bh_pack_record_decode(context, &ref, in, sizeof block, out, "x", ERR), EIO);
    ZSTD_CCtx_setParameter(unsized, ZSTD_c_contentSizeFlag, 1);
    ZSTD_CCtx_setParameter(unsized, ZSTD_c_checksumFlag, 1);
    ref.stored = (uint32_t)ZSTD_compress2(unsized, in, sizeof in, block, sizeof block);
    must_fail(bh_pack_record_decode(context, &ref, in, sizeof block, out, "x", ERR), EIO);
    n = ZSTD_compress(in, sizeof in, block, 4095, 3); /* shorter, longer */
    ref.stored = (uint32_t)n;
    must_fail(bh_pack_record_decode(context, &ref, in, sizeof block, out, "x", ERR), EIO);
    ZSTD_freeCCtx(unsized);
    ZSTD_freeDCtx(context);
}

/* Every bit of trailer and footer, in the bucket. */
static void test_tail_flips(void **state)
{
    uint8_t pack[8192];
    size_t len = golden_pack(pack);
    put_pack(ID, pack, len);
    BH_FD int fd = open(pack_path(ID), O_RDWR);
    for (size_t at = len - 96 - BH_PACK_FOOTER_SIZE; at < len; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            uint8_t damaged = pack[at] ^ (uint8_t)(1u << bit);
            assert_int_equal(pwrite(fd, &damaged, 1, (off_t)at), 1);
            must_fail(read_trailer(ID, NULL, NULL), EIO);
            assert_int_equal(pwrite(fd, pack + at, 1, (off_t)at), 1);
        }
    must(read_trailer(ID, NULL, NULL));
}

/* Cut anywhere: the trailer is gone, and so is every record that is not whole. */
static void test_cut(void **state)
{
    uint8_t pack[8192], buf[BH_NODE_SIZE];
    struct bh_pack_entry *e;
    size_t count, len = golden_pack(pack);
    put_pack(ID, pack, len);
    must(bh_packs_trailer(packs, ID, &e, &count, NULL, NULL, ERR));
    for (size_t left = len; left-- > 0;) {
        assert_int_equal(truncate(pack_path(ID), (off_t)left), 0);
        if (left > len - 300 || left < 200 || left % 64 == 0)
            must_fail(read_trailer(ID, NULL, NULL), EIO);
        for (unsigned i = 0; i < 2; i++) {
            bool whole = e[i].ref.offset + e[i].ref.stored <= left;
            if (i == 0 && left % 16 != 0 && left > 20 && left < 4100)
                continue;
            must_fail(bh_packs_read(packs, &e[i].ref, e[i].raw, buf, "x", NULL, ERR),
                      whole ? 0 : EIO);
        }
    }
    free(e);
}

static void test_sentence(void **state)
{
    BH_FREE struct bh_ref *refs = store(2, BLOCK);
    BH_FREE uint8_t *buf = malloc(BLOCK);
    char name[BH_PACK_NAME_MAX], offset[16];
    bh_pack_name(refs[1].pack, name);
    snprintf(offset, sizeof offset, " %u", refs[1].offset);
    for (int i = 0; i < 3; i++) {
        struct bh_ref ref = refs[1];
        if (i == 0)
            ref.hash[0]++;
        if (i == 1)
            assert_int_equal(truncate(pack_path(ref.pack), ref.offset + 1), 0);
        if (i == 2)
            assert_int_equal(unlink(pack_path(ref.pack)), 0);
        assert_int_equal(bh_packs_read(packs, &ref, BLOCK, buf, "block 1 of live.db", NULL, ERR),
                         EIO);
        assert_non_null(strstr(test_error.text, "block 1 of live.db"));
        assert_non_null(strstr(test_error.text, name));
        assert_non_null(strstr(test_error.text, offset));
    }
    must_fail(read_trailer(refs[1].pack, NULL, NULL), ENOENT);
}

static void test_swapped(void **state)
{
    BH_FREE uint8_t *buf = malloc(BLOCK);
    struct bh_ref refs[2];
    char one[256], two[256], command[2048];
    for (unsigned i = 0; i < 2; i++) { /* of the same shape */
        begin();
        noise(i, buf, BLOCK);
        refs[i] = add(0, buf, BLOCK);
        finish();
    }
    must(read_trailer(refs[0].pack, NULL, NULL));
    snprintf(one, sizeof one, "%s", pack_path(refs[0].pack));
    snprintf(two, sizeof two, "%s", pack_path(refs[1].pack));
    snprintf(command, sizeof command, "mv %s x && mv %s %s && mv x %s", one, two, one, two);
    shell(command);
    for (unsigned i = 0; i < 2; i++) {
        must_fail(bh_packs_read(packs, &refs[i], BLOCK, buf, "x", NULL, ERR), EIO);
        must_fail(read_trailer(refs[i].pack, NULL, NULL), EIO);
    }
}

static void test_no_pack(void **state)
{
    size_t count = 77;
    uint64_t size = 77;
    put_pack(ID, "", 0);
    must_fail(read_trailer(ID, &count, &size), EIO);
    assert_int_equal(size, 77);
    BH_FREE char *text = malloc(200000);
    memset(text, 'x', 200000);
    put_pack(ID, text, 200000);
    must_fail(read_trailer(ID, NULL, NULL), EIO);
    assert_int_equal(truncate(pack_path(ID), (off_t)BH_PACK_MAX + 1), 0);
    must_fail(read_trailer(ID, NULL, NULL), EIO);
}

/* References that no encoder makes never reach the bucket. */
static void test_bad_references(void **state)
{
    uint8_t buf[16];
    struct bh_ref r = {.pack = 5, .offset = 16, .stored = 16};
    struct bh_ref cases[5] = {r, r, r, r, r};
    cases[0].stored = 17;
    cases[1].offset = 0;
    cases[2].encoding = BH_ENC_ZSTD;
    cases[3].encoding = (enum bh_encoding)7;
    cases[4].stored = 0;
    for (unsigned i = 0; i < 5; i++)
        must_fail(bh_packs_read(packs, &cases[i], 16, buf, "x", NULL, ERR), EIO);
    assert_int_equal(gets(), 0);
}

static void test_options(void **state)
{
    const struct bh_packs_options wrong[] = {{.part_size = MIB - 1, .parallel = 1},
                                             {.part_size = BH_PACK_MAX + 1, .parallel = 1},
                                             {.part_size = MIB, .parallel = 0},
                                             {.part_size = MIB, .parallel = 65},
                                             {.part_size = MIB, .parallel = 1, .level = 99}};
    struct bh_packs *p = NULL;
    for (unsigned i = 0; i < 5; i++)
        must_fail(bh_packs_new(&p, b, PREFIX, &wrong[i], ERR), EINVAL);
    assert_null(p);
    bh_packs_free(NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_round_trip),    T(test_zeros),          T(test_trailer),
        T(test_large_trailer), T(test_golden),         T(test_written_bytes),
        T(test_record_flips),  T(test_odd_frames),     T(test_tail_flips),
        T(test_cut),           T(test_sentence),       T(test_swapped),
        T(test_no_pack),       T(test_bad_references), T(test_options),
    };
    return cmocka_run_group_tests_name("repo-pack", tests, NULL, NULL);
}
