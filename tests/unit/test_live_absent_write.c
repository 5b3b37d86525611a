/* What writers, truncations and undo logs make of what is in the bucket only. */
#include "live_absent.h"

/* --- writing --- */

static void write_whole_blocks(enum bh_door door)
{
    write_blocks(door, 1, 1, 'a');
    write_blocks(door, 7, 9, 'b');
    write_blocks(door, 100, 1, 'c'); /* more than there was of it */
    write_blocks(door, 105, 1, 'd'); /* beyond */
    assert_int_equal(calls(), 0);
    assert_int_equal(bh_store_dirty_bytes(store), 12 * BLOCK);
    read_byte(BLOCK, 'a');
    read_byte(15 * BLOCK + 4095, 'b');
    read_byte(101 * BLOCK - 1, 'c');
    read_byte(101 * BLOCK, 0);
    read_byte(105 * BLOCK, 'd');
    assert_int_equal(calls(), 0);
    must_be_origins(2 * BLOCK, 2 * BLOCK); /* of the same unit */
    read_byte(BLOCK, 'a');
    read_byte(7 * BLOCK, 'b');
    assert_int_equal(block_state(1), BH_BLOCK_DIRTY);
    assert_int_equal(block_state(2), BH_BLOCK_CLEAN);
}

static void test_writes_of_whole_blocks_fetch_nothing(void **state)
{
    static const enum bh_door doors[] = {BH_DOOR_CLIENT, BH_DOOR_INTERNAL};
    begin_journal();
    for (int i = 0; i < 2; i++) {
        lay_out(100 * BLOCK + 10, 16384);
        write_whole_blocks(doors[i]);
    }
}

/* That door never has an undo log. */
static void test_the_inner_door_fetches_nothing_for_whole_blocks(void **state)
{
    lay_out(100 * BLOCK + 10, 16384);
    write_whole_blocks(BH_DOOR_INTERNAL);
}

static void test_a_partial_write_keeps_the_rest(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        lay_out(200 * BLOCK + 77, units[u]);
        write_db(BH_DOOR_INTERNAL, "xyz", 3, 10 * BLOCK + 50);
        write_db(BH_DOOR_INTERNAL, "xyz", 3, 21 * BLOCK - 1);
        write_db(BH_DOOR_INTERNAL, "xyz", 3, 200 * BLOCK + 70);
        must_be_origins(10 * BLOCK, 50);
        must_be_origins(10 * BLOCK + 53, BLOCK - 53);
        must_be_origins(20 * BLOCK, BLOCK - 1);
        must_be_origins(21 * BLOCK + 2, BLOCK - 2);
        must_be_origins(200 * BLOCK, 70);
        must_be_origins(200 * BLOCK + 73, 4);
        read_byte(10 * BLOCK + 51, 'y');
        read_byte(21 * BLOCK, 'y');
        read_byte(200 * BLOCK + 72, 'z');
        assert_int_equal(block_state(10), BH_BLOCK_DIRTY);
    }
}

/* Its middle is whole blocks: only the two ends are needed. */
static void test_a_long_write_fetches_its_ends_only(void **state)
{
    lay_out(300 * BLOCK, 4096);
    unsigned char *buf = calloc(1, 100 * BLOCK);
    assert_non_null(buf);
    begin_journal();
    write_db(BH_DOOR_CLIENT, buf, 100 * BLOCK, 5 * BLOCK);
    assert_int_equal(calls(), 0);
    write_db(BH_DOOR_CLIENT, buf, 100 * BLOCK, 150 * BLOCK + 9);
    must_be_origins(150 * BLOCK, 9);
    must_be_origins(250 * BLOCK + 9, BLOCK - 9);
    free(buf);
}

/* A fetch that comes back after the write must not put the old content over it. */
static void test_a_write_during_the_fetch_stays(void **state)
{
    struct reader r = {.offset = 16 * BLOCK, .len = 1, .rounds = 1};
    lay_out(1 << 20, 16 * 4096);
    begin_journal();
    set_blocked(remote, true);
    start(&r);
    wait_for_calls(remote, 1);
    write_blocks(BH_DOOR_INTERNAL, 18, 3, 'w');
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 30 * BLOCK)); /* within the unit, too */
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 40 * BLOCK));
    set_blocked(remote, false);
    join_readers(&r, 1);
    read_byte(18 * BLOCK, 'w');
    read_byte(21 * BLOCK - 1, 'w');
    must_be_origins(21 * BLOCK, 9 * BLOCK);
    for (uint64_t b = 30; b < 40; b++)
        read_byte(b * BLOCK + 5, 0);
    assert_int_equal(calls(), 1);
}

/* --- undo --- */

static void test_undo_of_a_clients_writes(void **state)
{
    const uint64_t size = 300 * BLOCK + 99;
    for (int crash = 0; crash < 2; crash++)
        for (size_t u = 0; u < 3; u++) {
            lay_out(size, units[u]);
            write_blocks(BH_DOOR_CLIENT, 10, 3, 'u');
            write_db(BH_DOOR_CLIENT, "uvw", 3, 21 * BLOCK - 1);
            write_db(BH_DOOR_CLIENT, "uvw", 3, size - 2); /* grows by a byte */
            write_blocks(BH_DOOR_CLIENT, 299, 10, 'v');
            play_back(crash);
            assert_int_equal(bh_file_size(db), size);
            must_be_origins(0, size + BLOCK);
        }
}

static void test_a_committed_write_without_a_journal_stays(void **state)
{
    lay_out(100 * BLOCK, 16384);
    write_blocks(BH_DOOR_CLIENT, 10, 3, 'u');
    must(bh_store_undo_forget(store));
    write_blocks(BH_DOOR_CLIENT, 11, 3, 'v');
    play_back(true);
    read_byte(11 * BLOCK, 'u');
    must_be_origins(13 * BLOCK, 87 * BLOCK);
}

/* The undo log must not take the holes for content. */
static void test_undo_of_a_clients_truncation(void **state)
{
    static const uint64_t sizes[] = {50 * BLOCK, 50 * BLOCK + 7, 0};
    for (int crash = 0; crash < 2; crash++)
        for (size_t i = 0; i < 3; i++) {
            lay_out(100 * BLOCK + 9, 4096);
            must_be_origins(60 * BLOCK, 1);
            must(bh_file_truncate(db, BH_DOOR_CLIENT, sizes[i]));
            play_back(crash);
            assert_int_equal(bh_file_size(db), 100 * BLOCK + 9);
            must_be_origins(0, 100 * BLOCK + 9);
        }
}

/* --- truncation --- */

static void test_truncation_into_an_absent_block(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        lay_out(300 * BLOCK + 9, units[u]);
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 290 * BLOCK + 100));
        assert_int_equal(calls(), 1);
        assert_int_equal(bh_file_size(db), 290 * BLOCK + 100);
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 300 * BLOCK + 9));
        assert_int_equal(block_state(290), BH_BLOCK_DIRTY);
        remote->size = 290 * BLOCK + 100; /* as it must read from now on */
        for (uint64_t b = 291; b < 300; b++) {
            assert_int_equal(block_state(b), BH_BLOCK_ZERO);
            assert_false(bh_file_is_absent(db, b * BLOCK, BLOCK));
        }
        must_be_origins(290 * BLOCK, 10 * BLOCK + 9);
        write_db(BH_DOOR_INTERNAL, "x", 1, 295 * BLOCK + 1);
        read_byte(295 * BLOCK, 0);
        read_byte(295 * BLOCK + 2, 0);
        assert_int_equal(calls(), 1);
    }
}

static void test_truncation_between_blocks_fetches_nothing(void **state)
{
    lay_out(300 * BLOCK + 9, 16384);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 200 * BLOCK));
    assert_int_equal(calls(), 0);
    assert_int_equal(bh_store_absent_bytes(store), 199 * BLOCK);
    assert_true(bh_store_is_dirty(store));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 300 * BLOCK));
    read_byte(250 * BLOCK, 0);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 300 * BLOCK));
    read_byte(5 * BLOCK, 0);
    assert_int_equal(calls(), 0);
    assert_int_equal(bh_store_absent_bytes(store), 0);
}

/* The last block grew without anybody having read it. */
static void test_growth_of_an_absent_tail(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        lay_out(100 * BLOCK + 9, units[u]);
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 120 * BLOCK));
        must_be_origins(99 * BLOCK, 21 * BLOCK);
        lay_out(100 * BLOCK + 9, units[u]);
        write_blocks(BH_DOOR_INTERNAL, 110, 1, 'g');
        must_be_origins(99 * BLOCK, 11 * BLOCK);
        lay_out(100 * BLOCK + 9, units[u]);
        write_db(BH_DOOR_INTERNAL, "g", 1, 100 * BLOCK + 50); /* behind its end, in its block */
        must_be_origins(99 * BLOCK, BLOCK + 50);
        read_byte(100 * BLOCK + 50, 'g');
    }
}

/* kill -9 after the file was cut and before the map says so. */
static int cut_file_and_old_map(void)
{
    unsigned char byte = 1;
    size_t got = 1;
    alarm(10); /* it must not wait for ever */
    child_check(bh_file_read(db, &byte, 1, 12 * BLOCK, &got) == 0);
    child_check(got == 0 && byte == 0);
    child_check(bh_store_hydrate(store, NULL, ERR) == 0);
    child_check(bh_store_absent_bytes(store) == 0);
    return 0;
}

static void cut_behind_the_maps_back(void)
{
    lay_out(20 * BLOCK, 4096);
    bh_store_close(store);
    must(truncate(at("state/db.1"), 10 * BLOCK));
    open_store(1);
    set_origin_anew();
}

static void test_a_map_that_says_absent_beyond_the_end(void **state)
{
    cut_behind_the_maps_back();
    in_child(cut_file_and_old_map);
}

static void test_growth_after_a_crash_in_a_truncation(void **state)
{
    cut_behind_the_maps_back();
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 20 * BLOCK));
    read_byte(15 * BLOCK, 0);
    assert_int_equal(calls(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_writes_of_whole_blocks_fetch_nothing),
        TEST(test_the_inner_door_fetches_nothing_for_whole_blocks),
        TEST(test_a_partial_write_keeps_the_rest),
        TEST(test_a_long_write_fetches_its_ends_only),
        TEST(test_a_write_during_the_fetch_stays),
        TEST(test_undo_of_a_clients_writes),
        TEST(test_a_committed_write_without_a_journal_stays),
        TEST(test_undo_of_a_clients_truncation),
        TEST(test_truncation_into_an_absent_block),
        TEST(test_truncation_between_blocks_fetches_nothing),
        TEST(test_growth_of_an_absent_tail),
        TEST(test_a_map_that_says_absent_beyond_the_end),
        TEST(test_growth_after_a_crash_in_a_truncation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
