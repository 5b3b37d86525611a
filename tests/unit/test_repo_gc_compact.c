/* Packs that gc rewrites: whatever goes wrong meanwhile, what is retained reads as before; what is
 * not needed goes. */
#include "compact_fixture.h"

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

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, year_setup, year_teardown)
    const struct CMUnitTest tests[] = {
        TEST(packs_move_and_go),     TEST(crash_at_every_request),
        TEST(puts_that_are_lost),    TEST(what_was_written_is_lost_again),
        TEST(two_writers_meanwhile), TEST(what_nobody_names_goes_after_the_grace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
