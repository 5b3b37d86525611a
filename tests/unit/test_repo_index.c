/* The history index: entries, appending, searching, forks. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "repo/index.h"
#include "tree_fixture.h"
#include "util/cleanup.h"

static const struct bh_root nothing;

/* 2026-11-23T00:00:00Z, and then one entry every 10 seconds. */
#define START_MS 1795392000000
#define STEP_MS  10000

static int64_t time_of(uint64_t n)
{
    return START_MS + (int64_t)n * STEP_MS;
}

static struct bh_index_entry entry(uint64_t n)
{
    struct bh_index_entry e = {
        .time_ms = time_of(n),
        .page_size = 4096,
        .db = {.ref = {.pack = 1 + n, .offset = 16, .stored = 100, .encoding = BH_ENC_ZSTD},
               .depth = 2,
               .size = 10000000 + n},
        .uploaded = 1000 * n,
        .changed = n,
        .blobs = (uint32_t)n,
        .branch = "main",
    };
    uint64_t s = n * (STEP_MS / 1000);
    char id[64];
    memset(e.db.ref.hash, 7, BH_HASH_SIZE);
    snprintf(id, sizeof id, "202611%02dT%02d%02d%02d.000Z-%08x", (int)(23 + s / 86400),
             (int)(s / 3600 % 24), (int)(s / 60 % 60), (int)(s % 60), (unsigned)(n * 2654435761u));
    memcpy(e.id, id, 30);
    return e;
}

static void must_be_entry(const struct bh_index_entry *e, uint64_t n, uint32_t flags)
{
    uint8_t got[BH_INDEX_ENTRY_SIZE], want[BH_INDEX_ENTRY_SIZE];
    struct bh_index_entry w = entry(n);
    w.flags = flags;
    assert_int_equal(bh_index_entry_encode(e, got), 0);
    assert_int_equal(bh_index_entry_encode(&w, want), 0);
    assert_memory_equal(got, want, sizeof got);
}

/* Entries first to end - 1 appended, `at_once` with each call. */
static struct bh_root append(const struct bh_root *index, uint64_t first, uint64_t end,
                             uint64_t at_once)
{
    struct bh_root root = *index;
    uint64_t numbers[256];
    struct bh_index_entry entries[256];
    struct bh_pack_writer *w;
    must(bh_pack_writer_new(&w, packs, BH_TREE_INDEX, NULL, ERR));
    while (first < end) {
        size_t n = 0;
        for (; n < at_once && first < end; n++, first++) {
            numbers[n] = first;
            entries[n] = entry(first);
        }
        if (n == 1)
            must(bh_index_append(trees, &root, &entries[0], w, &root, NULL, ERR));
        else
            must(bh_index_replace(trees, &root, numbers, entries, n, w, &root, NULL, ERR));
    }
    must(bh_pack_writer_finish(w, ERR));
    bh_pack_writer_free(w);
    return root;
}

/* With the flags set for these numbers. */
static struct bh_root flag(const struct bh_root *index, const uint64_t *numbers, size_t count,
                           uint32_t flags)
{
    struct bh_root root = *index;
    struct bh_pack_writer *w;
    BH_FREE struct bh_index_entry *entries = malloc(count * sizeof *entries);
    for (size_t i = 0; i < count; i++) {
        entries[i] = entry(numbers[i]);
        entries[i].flags = flags;
    }
    must(bh_pack_writer_new(&w, packs, BH_TREE_INDEX, NULL, ERR));
    must(bh_index_replace(trees, index, numbers, entries, count, w, &root, NULL, ERR));
    must(bh_pack_writer_finish(w, ERR));
    bh_pack_writer_free(w);
    return root;
}

static void must_have_all(const struct bh_root *index, uint64_t count)
{
    BH_FREE struct bh_index_entry *all = malloc((count + 1) * sizeof *all);
    assert_int_equal(bh_index_count(index), count);
    must(bh_index_get(trees, index, 0, count, all, NULL, ERR));
    for (uint64_t i = 0; i < count; i++)
        must_be_entry(&all[i], i, 0);
}

/* --- one entry --- */

static void test_entry(void **state)
{
    struct bh_index_entry e = entry(77), d;
    uint8_t raw[BH_INDEX_ENTRY_SIZE];
    memset(e.branch, 'b', 64);
    e.flags = BH_ENTRY_DROPPED | BH_ENTRY_LOST;
    e.names.size = 5;
    assert_int_equal(bh_index_entry_encode(&e, raw), 0);
    must(bh_index_entry_decode(&d, raw, ERR));
    assert_string_equal(d.id, e.id);
    assert_string_equal(d.branch, e.branch);
    assert_int_equal(d.time_ms, e.time_ms);
    assert_int_equal(d.flags, e.flags);
    assert_int_equal(d.page_size, 4096);
    assert_int_equal(d.db.size, e.db.size);
    assert_int_equal(d.db.depth, 2);
    assert_int_equal(d.db.ref.pack, e.db.ref.pack);
    assert_int_equal(d.names.size, 5);
    assert_int_equal(d.uploaded, 77000);
    assert_int_equal(d.changed, 77);
    assert_int_equal(d.blobs, 77);
    for (unsigned i = 0; i < 8 * BH_INDEX_ENTRY_SIZE; i++) { /* every bit counts */
        raw[i / 8] ^= (uint8_t)(1 << i % 8);
        must_fail(bh_index_entry_decode(&d, raw, ERR), EIO);
        raw[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    memset(raw, 0, sizeof raw);
    must_fail(bh_index_entry_decode(&d, raw, ERR), EIO);
}

static void must_refuse(void (*spoil)(uint8_t *raw), const char *says)
{
    struct bh_index_entry e = entry(1), d;
    uint8_t raw[BH_INDEX_ENTRY_SIZE];
    assert_int_equal(bh_index_entry_encode(&e, raw), 0);
    spoil(raw);
    assert_int_equal(bh_content_hash(raw, 240, raw + 240), 0);
    must_say(bh_index_entry_decode(&d, raw, ERR), EIO, says);
}

static void spoil_id(uint8_t *raw)
{
    raw[8] = 'X';
}
static void spoil_id_end(uint8_t *raw)
{
    raw[31] = 'X';
}
static void spoil_flags(uint8_t *raw)
{
    raw[42] = 1;
}
static void spoil_page_size(uint8_t *raw)
{
    raw[44] = 1;
}
static void spoil_ref(uint8_t *raw)
{
    memset(raw + 48, 0, 8);
}
static void spoil_depth(uint8_t *raw)
{
    raw[128] = 7;
}
static void spoil_names(uint8_t *raw)
{
    raw[129] = 1;
}
static void spoil_gap(uint8_t *raw)
{
    raw[130] = 1;
}
static void spoil_branch(uint8_t *raw)
{
    raw[180] = 'x';
}
static void spoil_reserved(uint8_t *raw)
{
    raw[239] = 1;
}

static void test_bad_entries(void **state)
{
    must_refuse(spoil_id, "id");
    must_refuse(spoil_id_end, "no text");
    must_refuse(spoil_flags, "flags");
    must_refuse(spoil_page_size, "page size");
    must_refuse(spoil_ref, "entry of the history index");
    must_refuse(spoil_depth, "root");
    must_refuse(spoil_names, "root");
    must_refuse(spoil_gap, "mean nothing");
    must_refuse(spoil_branch, "no text");
    must_refuse(spoil_reserved, "mean nothing");
    struct bh_index_entry e = entry(1);
    uint8_t raw[BH_INDEX_ENTRY_SIZE];
    e.id[3] = 'x';
    assert_int_equal(bh_index_entry_encode(&e, raw), EINVAL);
    e = entry(1);
    e.page_size = 1000;
    assert_int_equal(bh_index_entry_encode(&e, raw), EINVAL);
}

/* --- many --- */

#define MANY 2000

static struct bh_root many(void)
{
    struct bh_root root = append(&nothing, 0, 1000, 100);
    root = append(&root, 1000, 1980, 1); /* with one writer: what it has not put yet is cached */
    for (uint64_t i = 1980; i < MANY; i++)
        root = append(&root, i, i + 1, 1);
    return root;
}

static void test_find(void **state)
{
    struct bh_root index = many();
    struct bh_index_entry e, want;
    uint64_t n;
    must_have_all(&index, MANY);
    for (uint64_t i = 0; i < MANY; i++) {
        want = entry(i);
        must(bh_index_find(trees, &index, want.id, &e, &n, NULL, ERR));
        assert_int_equal(n, i);
        must_be_entry(&e, i, 0);
        want.id[28] = want.id[28] == '0' ? '1' : '0';
        must_fail(bh_index_find(trees, &index, want.id, &e, &n, NULL, ERR), ENOENT);
    }
    must_fail(bh_index_find(trees, &index, "20200101T000000.000Z-00000000", &e, NULL, NULL, ERR),
              ENOENT);
    must_fail(bh_index_find(trees, &index, "20990101T000000.000Z-00000000", &e, NULL, NULL, ERR),
              ENOENT);
    must_say(bh_index_find(trees, &index, "a-label", &e, NULL, NULL, ERR), ENOENT, "a-label");
    must_fail(bh_index_find(trees, &nothing, want.id, &e, NULL, NULL, ERR), ENOENT);
    must_fail(bh_index_get(trees, &index, MANY, 1, &e, NULL, ERR), EINVAL);
    must_fail(bh_index_get(trees, &index, 0, MANY + 1, &e, NULL, ERR), EINVAL);
    must(bh_index_get(trees, &index, MANY, 0, &e, NULL, ERR));
}

/* Every count of entries around whole blocks. */
static void test_small(void **state)
{
    struct bh_root index = nothing;
    struct bh_index_entry e;
    for (uint64_t count = 1; count <= 50; count++) {
        index = append(&index, count - 1, count, 1);
        must_have_all(&index, count);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t n;
            must(bh_index_find(trees, &index, entry(i).id, &e, &n, NULL, ERR));
            assert_int_equal(n, i);
            must(bh_index_at_time(trees, &index, time_of(i), &e, NULL, ERR));
            must_be_entry(&e, i, 0);
        }
    }
}

static void test_at_time(void **state)
{
    struct bh_root index = many();
    struct bh_index_entry e;
    for (uint64_t i = 0; i < MANY; i += 7) {
        for (int64_t later = 0; later < STEP_MS; later += STEP_MS - 1) {
            must(bh_index_at_time(trees, &index, time_of(i) + later, &e, NULL, ERR));
            must_be_entry(&e, i, 0);
        }
    }
    must_fail(bh_index_at_time(trees, &index, START_MS - 1, &e, NULL, ERR), ENOENT);
    must_fail(bh_index_at_time(trees, &index, -1, &e, NULL, ERR), ENOENT);
    must_fail(bh_index_at_time(trees, &nothing, START_MS, &e, NULL, ERR), ENOENT);
    must(bh_index_at_time(trees, &index, INT64_MAX, &e, NULL, ERR));
    must_be_entry(&e, MANY - 1, 0);
}

static void test_dropped(void **state)
{
    struct bh_root index = many(), old = index;
    struct bh_index_entry e;
    uint64_t numbers[501];
    for (size_t i = 0; i < 500; i++)
        numbers[i] = 300 + i;
    numbers[500] = MANY - 1;
    index = flag(&index, numbers, 501, BH_ENTRY_DROPPED);
    assert_int_equal(bh_index_count(&index), MANY);
    must(bh_index_at_time(trees, &index, time_of(799), &e, NULL, ERR));
    must_be_entry(&e, 299, 0);
    must(bh_index_at_time(trees, &index, time_of(800), &e, NULL, ERR));
    must_be_entry(&e, 800, 0);
    must(bh_index_at_time(trees, &index, INT64_MAX, &e, NULL, ERR));
    must_be_entry(&e, MANY - 2, 0);
    must(bh_index_find(trees, &index, entry(500).id, &e, NULL, NULL, ERR));
    must_be_entry(&e, 500, BH_ENTRY_DROPPED);
    must_have_all(&old, MANY);
    for (size_t i = 0; i < 300; i++)
        numbers[i] = i;
    index = flag(&index, numbers, 300, BH_ENTRY_DROPPED | BH_ENTRY_LOST);
    must_fail(bh_index_at_time(trees, &index, time_of(799), &e, NULL, ERR), ENOENT);
}

static void test_replace(void **state)
{
    const uint64_t some[] = {0, 15, 16, 17, 999, 1999};
    struct bh_root index = many(), again;
    struct bh_index_entry e;
    uint64_t put = put_requests();
    index = flag(&index, some, 6, BH_ENTRY_LOST);
    assert_int_equal(put_requests() - put, 1);
    for (uint64_t i = 0; i < MANY; i++) {
        bool is = false;
        for (int k = 0; k < 6; k++)
            is = is || some[k] == i;
        must(bh_index_get(trees, &index, i, 1, &e, NULL, ERR));
        must_be_entry(&e, i, is ? BH_ENTRY_LOST : 0);
    }
    again = flag(&index, some, 6, BH_ENTRY_LOST); /* as it is: nothing */
    assert_int_equal(put_requests() - put, 1);
    assert_memory_equal(&again.ref, &index.ref, sizeof again.ref);
    const uint64_t both[] = {1999, 2000, 2001}; /* one call replaces and appends */
    index = flag(&index, both, 3, 0);
    assert_int_equal(put_requests() - put, 2);
    assert_int_equal(bh_index_count(&index), 2002);
    for (int i = 0; i < 3; i++) {
        must(bh_index_get(trees, &index, both[i], 1, &e, NULL, ERR));
        must_be_entry(&e, both[i], 0);
    }
}

static void test_refused(void **state)
{
    struct bh_root index = append(&nothing, 0, 20, 20), out;
    struct bh_index_entry e[2] = {entry(19), entry(21)};
    struct bh_pack_writer *w;
    uint64_t numbers[2] = {3, 3};
    must(bh_pack_writer_new(&w, packs, BH_TREE_INDEX, NULL, ERR));
    must_say(bh_index_append(trees, &index, &e[0], w, &out, NULL, ERR), EINVAL, "cannot follow");
    must_say(bh_index_replace(trees, &index, numbers, e, 1, w, &out, NULL, ERR), EINVAL,
             "cannot take the place");
    must_fail(bh_index_replace(trees, &index, numbers, e, 2, w, &out, NULL, ERR), EINVAL);
    numbers[0] = 21;
    must_fail(bh_index_replace(trees, &index, numbers, e, 1, w, &out, NULL, ERR), EINVAL);
    numbers[0] = 20, numbers[1] = 21;
    e[0] = entry(22);
    must_fail(bh_index_replace(trees, &index, numbers, e, 2, w, &out, NULL, ERR), EINVAL);
    e[0].page_size = 3;
    must_fail(bh_index_append(trees, &index, &e[0], w, &out, NULL, ERR), EINVAL);
    bh_pack_writer_free(w);
    index.size -= 6;
    must_fail(bh_index_get(trees, &index, 0, 1, &e[0], NULL, ERR), EIO);
    must_fail(bh_index_find(trees, &index, entry(1).id, &e[0], NULL, NULL, ERR), EIO);
    must_fail(bh_index_at_time(trees, &index, 0, &e[0], NULL, ERR), EIO);
}

/* A fork goes on from its parent's index; each sees its own. */
static void test_forks(void **state)
{
    struct bh_root base = append(&nothing, 0, 100, 100), forks[3];
    struct bh_index_entry e;
    uint64_t n;
    for (unsigned i = 0; i < 3; i++)
        forks[i] = append(&base, 100, 101 + i * 300, 1 + i * 50);
    for (unsigned i = 0; i < 3; i++)
        must_have_all(&forks[i], 101 + i * 300);
    must_have_all(&base, 100);
    must(bh_index_find(trees, &forks[2], entry(650).id, &e, &n, NULL, ERR));
    assert_int_equal(n, 650);
    must_fail(bh_index_find(trees, &forks[1], entry(650).id, &e, &n, NULL, ERR), ENOENT);
}

/* --- cost and damage --- */

static void test_cost(void **state)
{
    struct bh_root index = many();
    struct bh_index_entry e;
    BH_FREE struct bh_index_entry *all = malloc(MANY * sizeof *all);
    uint64_t got = get_requests(), put = put_requests();
    index = append(&index, MANY, MANY + 1, 1);
    assert_int_equal(get_requests() - got, 0);
    assert_int_equal(put_requests() - put, 1);
    fresh_trees(BIG_CACHE);
    got = get_requests();
    must(bh_index_find(trees, &index, entry(777).id, &e, NULL, NULL, ERR));
    assert_in_range(get_requests() - got, 1, 10); /* the root and 7 of 126 blocks */
    got = get_requests();
    must(bh_index_find(trees, &index, entry(777).id, &e, NULL, NULL, ERR));
    assert_int_equal(get_requests() - got, 0);
    fresh_trees(BIG_CACHE);
    got = get_requests();
    must(bh_index_find(trees, &index, entry(MANY).id, &e, NULL, NULL, ERR));
    assert_in_range(get_requests() - got, 1, 2); /* the newest: the root and the last block */
    fresh_trees(BIG_CACHE);
    got = get_requests();
    must(bh_index_get(trees, &index, 0, MANY, all, NULL, ERR));
    assert_in_range(get_requests() - got, 1, 130); /* each block once */
}

static void test_damage(void **state)
{
    struct bh_root index = append(&nothing, 0, 100, 100), holes;
    struct bh_index_entry e;
    struct bh_ref ref;
    must(bh_tree_refs(trees, &index, 2, 1, &ref, "x", NULL, ERR));
    FILE *f = fopen(pack_file(ref.pack), "r+");
    assert_non_null(f);
    fseek(f, (long)ref.offset + 20, SEEK_SET);
    int byte = fgetc(f);
    fseek(f, (long)ref.offset + 20, SEEK_SET);
    fputc(byte ^ 1, f);
    fclose(f);
    fresh_trees(0);
    must(bh_index_get(trees, &index, 31, 1, &e, NULL, ERR));
    must_say(bh_index_get(trees, &index, 32, 1, &e, NULL, ERR), EIO, "the history index");
    begin(); /* blocks of zeros, and one that is no entries */
    static const uint8_t junk[BLOCK] = {1, 2, 3};
    put_block(1, junk);
    holes = commit(&nothing, 3 * BLOCK);
    must_say(bh_index_get(trees, &holes, 0, 1, &e, NULL, ERR), EIO,
             "entry 0 of the history index is missing");
    must_say(bh_index_get(trees, &holes, 16, 1, &e, NULL, ERR), EIO, "entry 16");
    must_fail(bh_index_find(trees, &holes, entry(0).id, &e, NULL, NULL, ERR), EIO);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, tree_setup, tree_teardown)
    const struct CMUnitTest tests[] = {
        T(test_entry),   T(test_bad_entries), T(test_find),    T(test_small),
        T(test_at_time), T(test_dropped),     T(test_replace), T(test_refused),
        T(test_forks),   T(test_cost),        T(test_damage),
    };
    return cmocka_run_group_tests_name("repo-index", tests, NULL, NULL);
}
