/* Packs that gc rewrites: whatever goes wrong meanwhile, what is retained reads as before; what is
 * not needed goes. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "repo/moved.h"
#include "util/cleanup.h"
#include "years.h"

#define PACKS TREE_PREFIX "packs/"
#define MOVED TREE_PREFIX "moved/"

static const struct bh_retention keep = {.keep_hourly = 3, .keep_daily = 3};
static const struct year_use use = {
    .first = 60, .hot = 12, .hot_writes = 3, .warm = 30, .warm_writes = 1, .any_writes = 1};

static void hours(unsigned n)
{
    for (; n > 0; n--) {
        clock_ms += HOUR;
        year_flush(&year_main, &use);
    }
    year_retain(&year_main, &keep);
}

static void days(unsigned n)
{
    for (; n > 0; n--) {
        hours(24);
        must(year_try_gc());
        year_check(false);
    }
}

static bool says(const char *text)
{
    return strstr(year_report.data, text) != NULL;
}

static void must_say_it(const char *text)
{
    if (!says(text))
        fail_msg("\"%s\" is not in:\n%s", text, year_report.data);
}

/* So many days that the next gc rewrites packs. */
static void until_there_is_work(void)
{
    const struct bh_gc_options options = {
        .grace_ms = DAY, .compact = true, .parallel = 1, .dry_run = true};
    for (int i = 0; i < 40; i++) {
        hours(24);
        bh_strbuf_free(&year_report);
        must(bh_gc_run(year, TREE_PREFIX, BLOCK, &options, &year_report, NULL, ERR));
        if (!says("would rewrite 0 packs"))
            return;
        must(year_try_gc());
    }
    fail_msg("nothing to rewrite:\n%s", year_report.data);
}

/* --- nothing is left of what is not needed --- */

static int note_ref(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                    const struct bh_error *damage)
{
    assert_null(damage);
    assert_int_not_equal(gc_set_add(arg, gc_pack_key(ref->pack), 0), ENOMEM);
    return 0;
}

static void note_branch(struct gc_set *set, const struct year_branch *br)
{
    must(bh_tree_walk(trees, &br->head.index, NULL, note_ref, set, NULL, ERR));
    for (size_t i = 0; i < br->count; i++)
        if (br->snapshots[i].version)
            must(bh_tree_walk(trees, &br->snapshots[i].e.db, NULL, note_ref, set, NULL, ERR));
}

struct found {
    struct gc_set *set;
    size_t skip, extra, moves;
    bool records, grew;
};

static int note_object(void *arg, const char *key, bool is_prefix,
                       const struct bh_object_info *info, struct bh_error *err)
{
    struct found *f = arg;
    BH_FREE struct bh_moved_entry *entries = NULL;
    size_t count = 0;
    uint64_t id;
    assert_int_equal(bh_pack_id_of_name(&id, key + f->skip), 0);
    if (!gc_set_get(f->set, gc_pack_key(id))) {
        f->extra++;
        return 0;
    }
    if (!f->records)
        return 0;
    size_t size;
    const char *data = clock_data(year, key, &size);
    must(bh_moved_decode(data, size, id, &entries, &count, ERR));
    for (size_t i = 0; i < count; i++) {
        char name[160];
        if (gc_set_add(f->set, gc_pack_key(entries[i].pack), 0) == 0)
            f->grew = true;
        snprintf(name, sizeof name, MOVED "%016" PRIx64, entries[i].pack);
        f->moves += clock_data(year, name, NULL) != NULL;
    }
    return 0;
}

static void list_found(const char *prefix, struct found *f)
{
    f->skip = strlen(prefix);
    f->extra = f->moves = 0;
    must(bh_bucket_list(year, &(struct bh_list_request){.prefix = prefix}, note_object, f, NULL,
                        ERR));
}

/* Returns how many records were moved more than once. */
static size_t must_be_tidy(void)
{
    GC_SET set = {0};
    struct found f = {.set = &set, .records = true, .grew = true};
    year_check(true);
    note_branch(&set, &year_main);
    note_branch(&set, &year_side);
    while (f.grew) {
        f.grew = false;
        list_found(MOVED, &f);
    }
    size_t moves = f.moves;
    assert_int_equal(f.extra, 0);
    f.records = false;
    list_found(PACKS, &f);
    assert_int_equal(f.extra, 0);
    return moves;
}

static void graces(unsigned n)
{
    for (; n > 0; n--) {
        clock_ms += DAY;
        must(year_try_gc());
        year_check(false);
    }
}

static void packs_move_and_go(void **state)
{
    days(50);
    assert_true(clock_count(year, MOVED) > 50);
    clock_ms += DAY;
    graces(5);
    assert_true(must_be_tidy() > 0);
    size_t records = clock_count(year, MOVED);
    const struct year_use all = {.hot = 60, .hot_writes = 1000};
    clock_ms += HOUR;
    year_flush(&year_main, &all);
    year_retain(&year_main, &(struct bh_retention){.keep_last = 1});
    graces(6);
    (void)must_be_tidy();
    assert_true(clock_count(year, MOVED) < records); /* the index needs some of them */
}

/* --- crashes --- */

static void crash_at_every_request(void **state)
{
    days(20);
    until_there_is_work();
    struct bh_bucket *before = clock_bucket_new();
    const int64_t now = clock_ms;
    clock_bucket_copy(before, year);
    bool done = false;
    int n = 0;
    for (; !done; n++) {
        clock_ms = now;
        clock_bucket_copy(year, before);
        clock_last_is_done = n % 2;
        atomic_store(&clock_requests_left, n / 2);
        int rc = year_try_gc();
        done = atomic_load(&clock_requests_left) > 0;
        atomic_store(&clock_requests_left, INT32_MAX);
        assert_true(rc == 0 || rc == EIO);
        test_error.code = 0;
        if (done) {
            must_say_it("compaction: rewrote ");
            assert_false(says("rewrote 0 packs"));
        }
        year_check(false);
        if (n % 7)
            continue;
        graces(5);
        (void)must_be_tidy();
    }
    print_message("%d crashes\n", n);
    bh_bucket_close(before);
}

/* --- a bucket that lies --- */

static const char *lie_about;
static bool lie(const char *key)
{
    return strstr(key, lie_about) != NULL;
}

static void puts_that_are_lost(void **state)
{
    static const char *const places[] = {"/packs/", "/moved/", ".bhfs/gc"};
    for (unsigned i = 0; i < 3; i++) {
        until_there_is_work();
        lie_about = places[i];
        clock_lie = lie;
        must(year_try_gc());
        clock_lie = NULL;
        if (i < 2)
            must_say_it("left as it is: pack");
        year_check(true);
        graces(3);
    }
    graces(3);
    (void)must_be_tidy();
}

static struct bh_strbuf keys;
static int note_new(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                    struct bh_error *err)
{
    if (info->mtime_ms == clock_ms)
        bh_strbuf_addf(&keys, "%s\n", key);
    return 0;
}

/* Keys of objects that came now, below a prefix; each of them goes to fn. */
static size_t each_new(const char *prefix, void (*fn)(const char *key))
{
    size_t n = 0;
    bh_strbuf_reset(&keys);
    must(bh_bucket_list(year, &(struct bh_list_request){.prefix = prefix}, note_new, NULL, NULL,
                        ERR));
    for (char *rest = keys.data, *key; keys.len && (key = strsep(&rest, "\n")) && *key; n++)
        fn(key);
    bh_strbuf_free(&keys);
    return n;
}

static void remove_it(const char *key)
{
    clock_remove(year, key);
}

static void damage_it(const char *key)
{
    size_t size;
    char *data = clock_data(year, key, &size);
    data[size / 2] = (char)(data[size / 2] ^ 1);
}

/* What was written is lost, or damaged, while the old packs are still there: they stay. */
static void what_was_written_is_lost_again(void **state)
{
    static const struct {
        const char *prefix;
        void (*fn)(const char *key);
    } cases[] = {{PACKS, remove_it}, {MOVED, remove_it}, {MOVED, damage_it}};
    for (unsigned i = 0; i < 3; i++) {
        until_there_is_work();
        clock_ms += 1; /* nothing else is of this moment */
        must(year_try_gc());
        must_say_it("compaction: rewrote ");
        assert_true(each_new(cases[i].prefix, cases[i].fn) > 0);
        year_check(true);
        clock_ms += DAY;
        must(year_try_gc());
        must_say_it("in use again: ");
        year_check(true);
        graces(4);
        (void)must_be_tidy();
    }
}

/* --- others at work meanwhile --- */

static unsigned every, count;
static int step[2];

/* A step of a flush, of main and side in turn. */
static void others(const char *op, const char *key)
{
    if (++count % every)
        return;
    const unsigned which = count / every % 2;
    struct year_branch *br = which ? &year_side : &year_main;
    year_flush_step(br, &use, (enum year_step)step[which]);
    step[which] = (step[which] + 1) % YEAR_STEPS;
}

static void finish_flushes(void)
{
    for (int i = 0; i < 2; i++)
        for (; step[i]; step[i] = (step[i] + 1) % YEAR_STEPS)
            year_flush_step(i ? &year_side : &year_main, &use, (enum year_step)step[i]);
}

static void two_writers_meanwhile(void **state)
{
    days(6);
    year_fork();
    static const unsigned often[] = {1, 2, 3, 5, 7, 11, 17, 29};
    unsigned rewritten = 0;
    step[0] = step[1] = 0;
    for (unsigned i = 0; i < 2 * sizeof often / sizeof *often; i++) {
        hours(24);
        year_flush(&year_side, &use);
        year_retain(&year_side, &keep);
        every = often[i / 2];
        count = i;
        clock_hook = others;
        must(year_try_gc());
        clock_hook = NULL;
        rewritten += !says("rewrote 0 packs");
        year_check(false); /* with flushes under way, which go on after it */
        finish_flushes();
        year_check(true);
    }
    assert_true(rewritten >= 3);
    clock_ms += DAY;
    graces(5);
    (void)must_be_tidy();
}

/* A flush that died before its head: its pack is young for a grace, condemned for another. */
static void what_nobody_names_goes_after_the_grace(void **state)
{
    hours(3);
    size_t before = clock_count(year, PACKS);
    year_flush_step(&year_main, &use, YEAR_UPLOAD);
    assert_true(clock_count(year, PACKS) > before);
    const size_t with = clock_count(year, PACKS);
    clock_ms += DAY - 1;
    must(year_try_gc());
    must_say_it("young: 1 packs");
    clock_ms += 1;
    must(year_try_gc());
    assert_true(clock_count(year, PACKS) >= with);
    clock_ms += DAY - 1;
    must(year_try_gc());
    assert_true(clock_count(year, PACKS) >= with);
    clock_ms += 1;
    must(year_try_gc());
    must_say_it("deleted: ");
    graces(3);
    (void)must_be_tidy();
}

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
        TEST(packs_move_and_go),
        TEST(crash_at_every_request),
        TEST(puts_that_are_lost),
        TEST(what_was_written_is_lost_again),
        TEST(two_writers_meanwhile),
        TEST(what_nobody_names_goes_after_the_grace),
        TEST(a_reader_stays_over_it),
        TEST(a_reader_knows_what_is_out_of_date),
        TEST(damaged_moved_records),
        TEST(circles),
        TEST(packs_in_a_circle),
        TEST(checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
