/* The block map: what it says, what is in its file, what a failed write leaves. */
#include "live_fixture.h"

#include "live/map.h"

static struct bh_disk *disk;
static struct bh_map map;

static int map_setup(void **state)
{
    if (scratch_setup(state))
        return -1;
    seed_random(1);
    must(bh_disk_open(&disk, scratch, NULL, 0, ERR));
    must(bh_map_open(&map, disk, "map.1", true, ERR));
    return 0;
}

static int map_teardown(void **state)
{
    bh_map_close(&map);
    bh_disk_close(disk);
    return scratch_teardown(state);
}

static void reopen(void)
{
    bh_map_close(&map);
    must(bh_map_open(&map, disk, "map.1", false, ERR));
}

static void set(uint64_t first, uint64_t count, enum bh_block_state state)
{
    must(bh_map_set(&map, first, count, state));
}

static void test_new_map_is_zero(void **state)
{
    assert_int_equal(bh_map_get(&map, 0), BH_BLOCK_ZERO);
    assert_int_equal(bh_map_get(&map, UINT64_MAX), BH_BLOCK_ZERO);
    assert_int_equal(map.dirty, 0);
    assert_false(bh_map_needs_sync(&map));
}

static void test_states_last(void **state)
{
    set(3, 2, BH_BLOCK_DIRTY);
    set(5, 1, BH_BLOCK_CLEAN);
    set(100, 1, BH_BLOCK_ABSENT);
    reopen();
    assert_int_equal(bh_map_get(&map, 2), BH_BLOCK_ZERO);
    assert_int_equal(bh_map_get(&map, 3), BH_BLOCK_DIRTY);
    assert_int_equal(bh_map_get(&map, 4), BH_BLOCK_DIRTY);
    assert_int_equal(bh_map_get(&map, 5), BH_BLOCK_CLEAN);
    assert_int_equal(bh_map_get(&map, 100), BH_BLOCK_ABSENT);
    assert_int_equal(bh_map_get(&map, 101), BH_BLOCK_ZERO);
    assert_int_equal(map.dirty, 2);
}

static void test_nothing_is_written_where_nothing_changes(void **state)
{
    set(0, 10, BH_BLOCK_DIRTY);
    uint64_t changes = map.changes;
    set(0, 10, BH_BLOCK_DIRTY);
    set(4, 1, BH_BLOCK_DIRTY);
    set(5000, 10, BH_BLOCK_ZERO); /* beyond the end all is zero */
    assert_int_equal(map.changes, changes);
    set(0, 0, BH_BLOCK_CLEAN);
    assert_int_equal(bh_map_get(&map, 0), BH_BLOCK_DIRTY);
}

static void test_changes_ask_for_a_sync(void **state)
{
    set(0, 1, BH_BLOCK_DIRTY);
    assert_true(bh_map_needs_sync(&map));
    must(bh_dfile_sync(&map.file));
    map.synced = map.changes;
    assert_false(bh_map_needs_sync(&map));
    set(0, 1, BH_BLOCK_ZERO);
    assert_true(bh_map_needs_sync(&map));
}

static void test_large_numbers(void **state)
{
    set(40000000, 3, BH_BLOCK_DIRTY); /* of a database of 150 GiB */
    assert_int_equal(map.dirty, 3);
    reopen();
    assert_int_equal(bh_map_get(&map, 40000002), BH_BLOCK_DIRTY);
    assert_int_equal(bh_map_get(&map, 39999999), BH_BLOCK_ZERO);
    must_fail(bh_map_set(&map, (uint64_t)1 << 40, 1, BH_BLOCK_DIRTY), EFBIG);
    assert_int_equal(map.dirty, 3);
}

static void test_a_file_too_large_is_refused(void **state)
{
    struct bh_map m;
    put_file("map.2", "", 0);
    if (truncate(at("map.2"), ((off_t)1 << 34) + 1) != 0)
        skip();
    must_fail(bh_map_open(&m, disk, "map.2", false, ERR), EIO);
    must_say("map.2");
}

static void test_a_missing_file_is_named(void **state)
{
    struct bh_map m;
    must_fail(bh_map_open(&m, disk, "map.9", false, ERR), ENOENT);
    must_say("map.9");
}

/* The file's handle is made one that cannot be written, and put back. */
static int break_file(void)
{
    int saved = dup(map.file.fd), null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(saved >= 0 && null >= 0 && dup2(null, map.file.fd) >= 0);
    close(null);
    return saved;
}

static void mend_file(int saved)
{
    assert_true(dup2(saved, map.file.fd) >= 0);
    close(saved);
}

static void test_failed_writes_are_made_good_by_the_next(void **state)
{
    set(0, 4, BH_BLOCK_CLEAN);
    int saved = break_file();
    must_fail(bh_map_set(&map, 8, 4, BH_BLOCK_DIRTY), EBADF);
    must_fail(bh_map_set(&map, 2000, 1, BH_BLOCK_DIRTY), EBADF);
    assert_true(map.stale);
    assert_int_equal(bh_map_get(&map, 2000), BH_BLOCK_DIRTY); /* memory has it */
    assert_int_equal(map.dirty, 5);
    mend_file(saved);
    set(100, 1, BH_BLOCK_DIRTY);
    assert_false(map.stale);
    reopen();
    assert_int_equal(bh_map_get(&map, 0), BH_BLOCK_CLEAN);
    assert_int_equal(bh_map_get(&map, 11), BH_BLOCK_DIRTY);
    assert_int_equal(bh_map_get(&map, 2000), BH_BLOCK_DIRTY);
    assert_int_equal(bh_map_get(&map, 100), BH_BLOCK_DIRTY);
    assert_int_equal(map.dirty, 6);
}

static void test_a_call_that_changes_nothing_makes_good_too(void **state)
{
    int saved = break_file();
    must_fail(bh_map_set(&map, 8, 4, BH_BLOCK_DIRTY), EBADF);
    mend_file(saved);
    set(8, 4, BH_BLOCK_DIRTY);
    assert_false(map.stale);
    reopen();
    assert_int_equal(map.dirty, 4);
}

static void test_random_changes_are_as_in_the_model(void **state)
{
    static unsigned char model[3000];
    memset(model, 0, sizeof model);
    for (int i = 0; i < 20000; i++) {
        unsigned first = any(2900), count = any(any(10) ? 20 : 100), s = any(4), dirty = 0;
        set(first, count, (enum bh_block_state)s);
        memset(model + first, (int)s, count);
        if (any(100) == 0)
            reopen();
        if (i % 50)
            continue;
        for (unsigned b = 0; b < sizeof model; b++) {
            assert_int_equal(bh_map_get(&map, b), model[b]);
            dirty += model[b] == BH_BLOCK_DIRTY;
        }
        assert_int_equal(map.dirty, dirty);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, map_setup, map_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_new_map_is_zero),
        TEST(test_states_last),
        TEST(test_nothing_is_written_where_nothing_changes),
        TEST(test_changes_ask_for_a_sync),
        TEST(test_large_numbers),
        TEST(test_a_file_too_large_is_refused),
        TEST(test_a_missing_file_is_named),
        TEST(test_failed_writes_are_made_good_by_the_next),
        TEST(test_a_call_that_changes_nothing_makes_good_too),
        TEST(test_random_changes_are_as_in_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
