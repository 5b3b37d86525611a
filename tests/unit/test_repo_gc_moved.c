/* What was moved by compaction: readers that find a pack gone, records that are damaged or lead in
 * a circle, a base that may have been condemned, and the format of the records. */
#include "compact_fixture.h"

/* --- readers --- */

static struct bh_packs *other_packs;
static struct bh_trees *other;

static void other_reader(void)
{
    const struct bh_packs_options options = {.part_size = MIB, .parallel = 4, .level = 1};
    must(bh_packs_new(&other_packs, year, TREE_PREFIX, &options, ERR));
    must(bh_trees_new(&other, other_packs, BLOCK, 16384, ERR)); /* hardly any cache */
}

static void end_reader(void)
{
    bh_trees_free(other);
    bh_packs_free(other_packs);
}

/* Whether a block of it was in a pack that is gone. */
static bool has_moved(const struct year_snapshot *s, uint64_t *block, struct bh_ref *ref)
{
    for (*block = 0; *block < s->blocks; ++*block) {
        char key[160];
        must(bh_tree_refs(trees, &s->e.db, *block, 1, ref, "x", NULL, ERR));
        snprintf(key, sizeof key, PACKS "%016" PRIx64, ref->pack);
        if (!clock_data(year, key, NULL))
            return true;
    }
    return false;
}

/* The oldest snapshot of all that is retained is read by one that has read it before. */
static void a_reader_stays_over_it(void **state)
{
    static uint8_t first[60 * BLOCK], got[60 * BLOCK];
    days(3);
    struct year_snapshot *s = &year_main.snapshots[0];
    while (!s->version)
        s++;
    must(bh_label_put(year, TREE_PREFIX, "kept", s->e.id, NULL, ERR));
    other_reader();
    must(bh_tree_read(other, &s->e.db, 0, first, sizeof first, "x", NULL, ERR));
    for (int i = 0; i < 40; i++) {
        days(1);
        must(bh_tree_read(other, &s->e.db, 0, got, sizeof got, "x", NULL, ERR));
        assert_memory_equal(got, first, sizeof got);
    }
    uint64_t block;
    struct bh_ref ref;
    assert_true(has_moved(s, &block, &ref));
    /* that costs requests once */
    int before = clock_requests;
    must(bh_tree_read(other, &s->e.db, 0, got, sizeof got, "x", NULL, ERR));
    assert_true(clock_requests - before < 30);
    end_reader();
}

/* The first retained snapshot with a block that was moved. */
static struct year_snapshot *moved_snapshot(uint64_t *block, struct bh_ref *ref)
{
    for (size_t i = 0; i < year_main.count; i++)
        if (year_main.snapshots[i].version && has_moved(&year_main.snapshots[i], block, ref))
            return &year_main.snapshots[i];
    fail_msg("nothing was moved");
    return NULL;
}

static int read_block(struct bh_trees *t, const struct year_snapshot *s, uint64_t block)
{
    char byte;
    return bh_tree_read(t, &s->e.db, block * BLOCK, &byte, 1, "x", NULL, ERR);
}

/* Where another gc has moved it elsewhere, what a reader knows is out of date. */
static void a_reader_knows_what_is_out_of_date(void **state)
{
    uint64_t block;
    struct bh_ref ref;
    struct bh_moved_entry *entries;
    size_t n;
    char key[160];
    days(30);
    struct year_snapshot *s = moved_snapshot(&block, &ref);
    other_reader();
    must(read_block(other, s, block));
    must(bh_packs_moved(other_packs, ref.pack, &entries, &n, NULL, ERR));
    for (size_t i = 0; i < n; i++) {
        char from[160], to[160];
        snprintf(from, sizeof from, PACKS "%016" PRIx64, entries[i].pack);
        if (!clock_data(year, from, NULL)) /* moved again */
            continue;
        entries[i].pack ^= 0xff00;
        snprintf(to, sizeof to, PACKS "%016" PRIx64, entries[i].pack);
        clock_double(year, from, to);
    }
    for (size_t i = 0; i < n; i++) {
        snprintf(key, sizeof key, PACKS "%016" PRIx64, entries[i].pack ^ 0xff00);
        clock_remove(year, key);
    }
    snprintf(key, sizeof key, MOVED "%016" PRIx64, ref.pack);
    clock_remove(year, key);
    must(bh_packs_put_moved(other_packs, ref.pack, entries, n, NULL, ERR));
    uint8_t buf[BLOCK];
    must(bh_packs_read(other_packs, &ref, BLOCK, buf, "x", NULL, ERR));
    free(entries);
    end_reader();
}

static void damaged_moved_records(void **state)
{
    uint64_t block;
    struct bh_ref ref;
    char key[160];
    days(30);
    struct year_snapshot *s = moved_snapshot(&block, &ref);
    snprintf(key, sizeof key, MOVED "%016" PRIx64, ref.pack);
    damage_it(key);
    fresh_packs(year);
    must_say(read_block(trees, s, block), EIO, "moved record");
    const size_t objects = clock_count(year, "");
    clock_ms += 3 * DAY;
    must_say(year_try_gc(), EIO, "its moved record is damaged");
    must_say_it("wrong: ");
    assert_int_equal(clock_count(year, ""), objects);
    damage_it(key); /* which mends it */
    must(year_try_gc());
    clock_remove(year, key);
    fresh_packs(year);
    must_say(read_block(trees, s, block), EIO, "not in the bucket");
    must_say(year_try_gc(), EIO, "are missing");
}

/* A record of it moves in a circle. */
static void circles(void **state)
{
    const struct bh_ref ref = {.pack = 1, .offset = 16, .stored = BLOCK};
    const struct bh_moved_entry to[2] = {{.from = 16, .offset = 16, .pack = 2},
                                         {.from = 16, .offset = 16, .pack = 1}};
    uint8_t buf[BLOCK];
    must(bh_packs_put_moved(packs, 1, &to[0], 1, NULL, ERR));
    must(bh_packs_put_moved(packs, 2, &to[1], 1, NULL, ERR));
    must_say(bh_packs_read(packs, &ref, BLOCK, buf, "x", NULL, ERR), EIO, "circle");
}

/* Where the records of old packs that are still there have gone. */
static struct way {
    uint64_t old;
    struct bh_moved_entry to;
} ways[20000];
static size_t way_count;

static int note_ways(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                     struct bh_error *err)
{
    BH_FREE struct bh_moved_entry *entries = NULL;
    char old[160];
    size_t entry_count, size;
    uint64_t id;
    const char *data = clock_data(year, key, &size);
    snprintf(old, sizeof old, PACKS "%s", key + strlen(MOVED));
    if (!clock_data(year, old, NULL))
        return 0;
    assert_int_equal(bh_pack_id_of_name(&id, key + strlen(MOVED)), 0);
    must(bh_moved_decode(data, size, id, &entries, &entry_count, ERR));
    for (size_t i = 0; i < entry_count; i++) {
        assert_true(way_count < sizeof ways / sizeof *ways);
        ways[way_count++] = (struct way){.old = id, .to = entries[i]};
    }
    return 0;
}

static const struct way *way_to(uint64_t pack, uint32_t offset)
{
    for (size_t i = 0; i < way_count; i++)
        if (ways[i].to.pack == pack && ways[i].to.offset == offset)
            return &ways[i];
    return NULL;
}

/* A record that says, truly, that all of the pack is where it came from; false: not all is. */
static bool move_back(uint64_t pack)
{
    BH_FREE struct bh_pack_entry *entries = NULL;
    struct bh_moved_entry back[1000];
    size_t entry_count;
    must(bh_packs_trailer(packs, pack, &entries, &entry_count, NULL, NULL, ERR));
    assert_in_range(entry_count, 1, 1000);
    for (size_t i = 0; i < entry_count; i++) {
        const struct way *w = way_to(pack, entries[i].ref.offset);
        if (!w)
            return false;
        back[i] = (struct bh_moved_entry){
            .from = entries[i].ref.offset, .pack = w->old, .offset = w->to.from};
    }
    return bh_packs_put_moved(packs, pack, back, entry_count, NULL, ERR) == 0;
}

/* Packs that hold the same, and each of which is said to be in the other: one of them stays. */
static void packs_in_a_circle(void **state)
{
    until_there_is_work();
    must(year_try_gc());
    way_count = 0;
    must(bh_bucket_list(year, &(struct bh_list_request){.prefix = MOVED}, note_ways, NULL, NULL,
                        ERR));
    unsigned circles = 0;
    for (size_t i = 0; i < way_count; i++)
        circles += move_back(ways[i].to.pack);
    assert_true(circles > 0);
    clock_remove(year, TREE_PREFIX "gc"); /* so that one run condemns both sides */
    year_check(true);
    graces(4);
    year_check(true);
}

/* --- a base that may have been condemned --- */

static void checks(void **state)
{
    days(12);
    until_there_is_work();
    struct year_snapshot *s = &year_main.snapshots[0];
    while (!s->version)
        s++;
    for (int i = 0; i < 4; i++) { /* just moved; condemned; deleted */
        must(year_try_gc());
        for (size_t k = 0; k < year_main.count; k++)
            if (year_main.snapshots[k].version)
                must(bh_gc_check_root(year, TREE_PREFIX, trees, &year_main.snapshots[k].e.db, NULL,
                                      ERR));
        clock_ms += DAY;
    }
    assert_true(clock_count(year, MOVED) > 0);
    const struct bh_root root = s->e.db;
    hours(30);
    year_retain(&year_main, &(struct bh_retention){.keep_last = 1});
    clock_ms += DAY;
    must(year_try_gc());
    must_fail(bh_gc_check_root(year, TREE_PREFIX, trees, &root, NULL, ERR), EAGAIN);
}

/* --- the format --- */

static void the_format(void **state)
{
    const struct bh_moved_entry want[] = {{16, 99, 7}, {17, 16, UINT64_MAX}, {5000, 16, 7}};
    struct bh_moved_entry *got;
    size_t n;
    BH_STRBUF text = {0};
    assert_int_equal(bh_moved_encode(&text, 5, want, 3), 0);
    assert_int_equal(text.len, 16 + 3 * 16 + 16);
    assert_memory_equal(text.data, "bhmove1\n\5\0\0\0\0\0\0\0\20\0\0\0\143\0\0\0\7\0\0\0\0\0\0\0",
                        32);
    must(bh_moved_decode(text.data, text.len, 5, &got, &n, ERR));
    assert_int_equal(n, 3);
    assert_memory_equal(got, want, sizeof want);
    assert_null(bh_moved_find(got, n, 18));
    assert_int_equal(bh_moved_find(got, n, 5000)->pack, 7);
    free(got);
    must_fail(bh_moved_decode(text.data, text.len, 6, &got, &n, ERR), EIO);
    for (size_t i = 0; i < text.len; i++) {
        must_fail(bh_moved_decode(text.data, i, 5, &got, &n, ERR), EIO);
        text.data[i] ^= 4;
        must_fail(bh_moved_decode(text.data, text.len, 5, &got, &n, ERR), EIO);
        text.data[i] ^= 4;
    }
    const struct bh_moved_entry bad[][2] = {
        {{16, 99, 7}, {16, 100, 7}}, {{17, 99, 7}, {16, 9, 7}},  {{16, 99, 5}, {17, 100, 7}},
        {{16, 99, 0}, {17, 99, 7}},  {{15, 99, 7}, {17, 99, 7}}, {{16, 15, 7}, {17, 99, 7}}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(bh_moved_encode(&text, 5, bad[i], 2), EINVAL);
    assert_int_equal(bh_moved_encode(&text, 5, want, 0), EINVAL);
    assert_int_equal(bh_moved_encode(&text, 0, want, 3), EINVAL);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, year_setup, year_teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_format),
        TEST(a_reader_stays_over_it),
        TEST(a_reader_knows_what_is_out_of_date),
        TEST(damaged_moved_records),
        TEST(circles),
        TEST(packs_in_a_circle),
        TEST(checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
