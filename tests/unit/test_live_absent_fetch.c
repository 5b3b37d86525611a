/* Reading what is in the bucket only: every range reads as in the origin, and what is fetched for
 * it, when and how often, by one reader and by many at once. */
#include "live_absent.h"

/* --- reading --- */

static void test_any_range_reads_as_in_the_origin(void **state)
{
    const uint64_t size = (3 << 20) + 12345;
    for (size_t u = 0; u < 3; u++) {
        size_t got;
        unsigned char buf[100];
        for (uint64_t edge = BLOCK; edge < size; edge += 1 << 20) {
            lay_out(size, units[u]);
            must_be_origins(edge, 1);
            must_be_origins(edge - 1, 1);
            must_be_origins(edge + units[u] - 1, 2); /* two units */
            must_be_origins(size - 1, 1);
            must_be_origins(size - 5000, 10000); /* beyond the end: zeros */
        }
        lay_out(size, units[u]);
        must(bh_file_read(db, buf, 100, size - 30, &got));
        assert_int_equal(got, 30);
        must(bh_file_read(db, buf, 100, size + 5000, &got));
        assert_int_equal(got, 0);
        for (int i = 0; i < 200; i++) {
            uint64_t offset = any((uint32_t)size);
            must_be_origins(offset, 1 + any(i % 3 ? 10000 : 300000));
        }
        must_be_origins(0, size);
        assert_int_equal(bh_store_absent_bytes(store), 0);
        assert_int_equal(most_times(), 1);
        assert_false(remote->unaligned);
        assert_true(remote->asked_end < size + units[u]);
        assert_false(bh_store_is_dirty(store));
    }
}

static void test_small_files(void **state)
{
    static const uint64_t sizes[] = {1, 100, 4095, 4096, 4097, 8191, 8193, 20000};
    for (size_t u = 0; u < 3; u++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            lay_out(sizes[i], units[u]);
            must_be_origins(sizes[i] - 1, 3);
            must_be_origins(0, sizes[i] + 10);
            assert_int_equal(bh_store_absent_bytes(store), 0);
            assert_int_equal(bh_file_size(db), sizes[i]);
        }
}

static void test_what_is_absent_is_said(void **state)
{
    struct bh_file *j = create_file(BH_JOURNAL_NAME);
    const uint64_t size = 20 * BLOCK + 100;
    lay_out(size, 4096);
    assert_int_equal(bh_store_absent_bytes(store), 20 * BLOCK);
    assert_false(bh_file_is_absent(db, 0, BLOCK));
    assert_true(bh_file_is_absent(db, 0, BLOCK + 1));
    assert_false(bh_file_is_absent(db, 5 * BLOCK, 0));
    assert_false(bh_file_is_absent(db, 21 * BLOCK, BLOCK));
    assert_false(bh_file_is_absent(db, INT64_MAX, 1));
    must_be_origins(5 * BLOCK, 1);
    assert_false(bh_file_is_absent(db, 5 * BLOCK, BLOCK));
    assert_true(bh_file_is_absent(db, 5 * BLOCK - 1, 2));
    assert_true(bh_file_is_absent(db, 5 * BLOCK, BLOCK + 1));
    assert_false(bh_file_is_absent(j, 0, 100000));
    assert_false(bh_file_write_needs_fetch(j, BH_DOOR_CLIENT, 1, 1));
    /* no journal: undo wants what a client overwrites */
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK, BLOCK));
    must(bh_file_write(j, BH_DOOR_CLIENT, magic, 8, 0));
    assert_false(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK, 3 * BLOCK));
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK + 1, 2 * BLOCK - 1));
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK, BLOCK + 1));
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK + 5, 1));
    assert_false(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 5 * BLOCK + 5, 1));
    assert_false(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 5 * BLOCK + 5, 0));
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 20 * BLOCK, 100));
    assert_false(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 21 * BLOCK + 5, 100));
    assert_true(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK + 1));
    assert_false(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK));
    assert_false(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, 5 * BLOCK + 1));
    assert_true(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, size - 1));
    assert_false(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, size));
    assert_false(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, size + 1));
    assert_int_equal(calls(), 1);
    bh_file_unref(j);
}

/* --- sequence --- */

static void test_reading_in_sequence_fetches_ahead(void **state)
{
    const uint64_t size = 24 << 20;
    for (size_t u = 0; u < 3; u++) {
        lay_out(size, units[u]);
        for (uint64_t at = BLOCK; at < size; at += BLOCK)
            must_be_origins(at, BLOCK);
        assert_int_equal(most_times(), 1);
        assert_int_equal(remote->lens[0], units[u]);
        unsigned n = calls(), large = 0;
        assert_true(n < 24);
        for (unsigned i = 1; i < n; i++) {
            if (i + 1 < n) /* the last is what is left */
                assert_true(remote->lens[i] >= remote->lens[i - 1]);
            assert_true(remote->lens[i] <= 2 * remote->lens[i - 1]);
            assert_true(remote->lens[i] <= 4 << 20);
            large += remote->lens[i] == 4 << 20;
        }
        assert_true(large >= 3);
    }
}

static void test_reading_anywhere_fetches_the_unit_only(void **state)
{
    const uint64_t size = 24 << 20;
    for (size_t u = 0; u < 3; u++) {
        lay_out(size, units[u]);
        uint64_t n = size / units[u];
        unsigned reads = 0;
        for (uint64_t i = n < 100 ? n : 100; i-- > 1; reads++) /* backwards */
            must_be_origins(i * units[u] + units[u] / 2, 1);
        for (uint64_t i = 101; i < n && i < 200; i += 2, reads++) /* with gaps */
            must_be_origins(i * units[u] + units[u] / 2, 1);
        assert_int_equal(calls(), reads);
        for (unsigned i = 0; i < reads && i < LENS_MAX; i++)
            assert_int_equal(remote->lens[i], units[u]);
    }
}

static void test_fetching_ahead_ends_where_something_is(void **state)
{
    lay_out(4 << 20, 4096);
    for (uint64_t at = 20; at < 1000; at += 20)
        must_be_origins(at * BLOCK, 1);
    unsigned before = calls();
    for (uint64_t at = 1; at < 1000; at++)
        must_be_origins(at * BLOCK, 1);
    assert_int_equal(most_times(), 1);
    assert_true(calls() - before < 300);
}

/* --- many at once --- */

static void test_eight_readers_of_one_unit(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        struct reader r[8] = {0};
        lay_out(3 << 20, units[u]);
        set_blocked(remote, true);
        for (unsigned i = 0; i < 8; i++) {
            r[i] = (struct reader){.offset = (1 << 20) + i * 100, .len = 10, .rounds = 1};
            start(&r[i]);
        }
        wait_for_calls(remote, 1);
        usleep(20000); /* for those that would come, wrongly */
        set_blocked(remote, false);
        join_readers(r, 8);
        assert_int_equal(calls(), 1);
    }
}

static void test_eight_readers_of_everything(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        struct reader r[8] = {0};
        lay_out((2 << 20) + 777, units[u]);
        for (unsigned i = 0; i < 8; i++) {
            r[i] = i == 7 ? (struct reader){.len = (2 << 20) + 777, .rounds = 3}
                          : (struct reader){.seed = i + 1, .rounds = 60};
            start(&r[i]);
        }
        join_readers(r, 8);
        assert_int_equal(bh_store_absent_bytes(store), 0);
        assert_int_equal(most_times(), 1);
    }
}

static void test_more_readers_than_fetches_at_once(void **state)
{
    enum { READERS = 2 * FETCHES_MAX + 3 };
    struct reader r[READERS] = {0};
    lay_out(READERS * 3 * BLOCK, 4096);
    set_blocked(remote, true);
    for (unsigned i = 0; i < READERS; i++) {
        r[i] = (struct reader){.offset = (3 * i + 1) * BLOCK, .len = BLOCK, .rounds = 1};
        start(&r[i]);
    }
    wait_for_calls(remote, FETCHES_MAX);
    usleep(20000);
    assert_int_equal(calls(), FETCHES_MAX);
    set_blocked(remote, false);
    join_readers(r, READERS);
    assert_int_equal(calls(), READERS);
}

static void test_fetching_ahead_leaves_out_what_is_on_its_way(void **state)
{
    struct reader far = {.offset = 40 * BLOCK, .len = 1, .rounds = 1};
    struct reader next = {.offset = 17 * BLOCK, .len = 1, .rounds = 1};
    lay_out(1 << 20, 4096);
    set_blocked(remote, true);
    start(&far);
    wait_for_calls(remote, 1);
    pthread_mutex_lock(&store->mutex); /* as of one who reads in sequence up to here */
    store->fetches.next = next.offset;
    store->fetches.window = 1 << 20;
    pthread_mutex_unlock(&store->mutex);
    start(&next);
    wait_for_calls(remote, 2);
    set_blocked(remote, false);
    join_readers(&far, 1);
    join_readers(&next, 1);
    assert_int_equal(calls(), 2);
    assert_int_equal(most_times(), 1);
    must_be_origins(0, 1 << 20);
}

/* What waits for the bucket does not hold up what need not. */
static void test_a_slow_origin_holds_up_its_readers_only(void **state)
{
    struct reader r = {.offset = 100 * BLOCK, .len = 1, .rounds = 1};
    unsigned char block[BLOCK] = "x";
    lay_out(1 << 20, 4096);
    begin_journal();
    must_be_origins(50 * BLOCK, 1);
    set_blocked(remote, true);
    start(&r);
    wait_for_calls(remote, 1);
    must_be_origins(50 * BLOCK, BLOCK);
    write_db(BH_DOOR_INTERNAL, block, BLOCK, 60 * BLOCK);
    write_db(BH_DOOR_INTERNAL, "x", 1, 50 * BLOCK);
    write_db(BH_DOOR_INTERNAL, block, BLOCK, 101 * BLOCK);
    must(bh_file_sync(db));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 150 * BLOCK));
    struct bh_frozen *z = freeze_store(false);
    must(bh_store_thaw(z, false));
    set_blocked(remote, false);
    join_readers(&r, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_any_range_reads_as_in_the_origin),
        TEST(test_small_files),
        TEST(test_what_is_absent_is_said),
        TEST(test_reading_in_sequence_fetches_ahead),
        TEST(test_reading_anywhere_fetches_the_unit_only),
        TEST(test_fetching_ahead_ends_where_something_is),
        TEST(test_eight_readers_of_one_unit),
        TEST(test_eight_readers_of_everything),
        TEST(test_more_readers_than_fetches_at_once),
        TEST(test_fetching_ahead_leaves_out_what_is_on_its_way),
        TEST(test_a_slow_origin_holds_up_its_readers_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
