/* All of what is in the bucket only fetched at once, and what stays so when the store is closed or
 * told to forget. */
#include "live_absent.h"

/* --- all of it --- */

static void test_hydrate(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        lay_out((9 << 20) + 5, units[u]);
        write_blocks(BH_DOOR_INTERNAL, 100, 5, 'x');
        must(bh_store_hydrate(store, NULL, ERR));
        assert_int_equal(bh_store_absent_bytes(store), 0);
        assert_int_equal(count_absent(), 0);
        assert_int_equal(most_times(), 1);
        unsigned n = calls();
        must(bh_store_hydrate(store, NULL, ERR));
        must_be_origins(0, 100 * BLOCK);
        read_byte(104 * BLOCK, 'x');
        must_be_origins(105 * BLOCK, (9 << 20) + 5 - 105 * BLOCK);
        assert_int_equal(calls(), n);
        assert_int_equal(bh_store_dirty_bytes(store), 5 * BLOCK);
    }
}

static void test_hydrate_is_cancelled(void **state)
{
    lay_out(40 << 20, 16384);
    remote->cancel_at = 3;
    must_fail(bh_store_hydrate(store, &remote->cancel, ERR), ECANCELED);
    assert_int_equal(calls(), 3);
    assert_true(bh_store_absent_bytes(store) > 0);
    must_fail(bh_store_hydrate(store, &remote->cancel, ERR), ECANCELED);
    assert_int_equal(calls(), 3);
    remote->cancel = false;
    must(bh_store_hydrate(store, &remote->cancel, ERR));
    assert_int_equal(bh_store_absent_bytes(store), 0);
    assert_int_equal(most_times(), 1);
}

static void *hydrate(void *arg)
{
    struct reader *r = arg;
    struct bh_error err;
    r->rc = bh_store_hydrate(store, NULL, &err);
    return NULL;
}

static void test_hydrate_beside_writers_and_truncations(void **state)
{
    for (int round = 0; round < 20; round++) {
        struct reader h = {0};
        lay_out(2 << 20, units[round % 2]);
        if (round % 2 && !store->journal)
            begin_journal();
        must(pthread_create(&h.thread, NULL, hydrate, &h));
        for (int i = 0; i < 100; i++)
            write_blocks(BH_DOOR_INTERNAL, 1 + any(300), 1, 'w');
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, (100 + any(300)) * BLOCK + any(2)));
        uint64_t size = bh_file_size(db);
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 2 << 20));
        must(pthread_join(h.thread, NULL));
        must(h.rc);
        assert_int_equal(bh_store_absent_bytes(store), 0);
        for (uint64_t b = 1; b < 512; b++) {
            unsigned char buf[BLOCK];
            must(bh_file_read(db, buf, BLOCK, b * BLOCK, NULL));
            unsigned char first = b * BLOCK < size ? content(remote, b * BLOCK) : 0;
            assert_true(buf[0] == first || buf[0] == 'w');
            unsigned char last = b * BLOCK + 4095 < size ? content(remote, b * BLOCK + 4095) : 0;
            assert_true(buf[4095] == last || (buf[4095] == 'w' && b * BLOCK < size));
        }
    }
}

/* --- closed and opened again --- */

static void test_states_outlive_the_process(void **state)
{
    unsigned char byte;
    lay_out(100 * BLOCK + 5, 4096);
    must_be_origins(10 * BLOCK, 3 * BLOCK);
    write_blocks(BH_DOOR_INTERNAL, 20, 2, 'd');
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 90 * BLOCK));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 100 * BLOCK));
    uint64_t absent = bh_store_absent_bytes(store), dirty = bh_store_dirty_bytes(store);
    unsigned n = calls();
    reopen_store();
    assert_int_equal(bh_store_absent_bytes(store), absent);
    assert_int_equal(bh_store_dirty_bytes(store), dirty);
    must_fail(bh_file_read(db, &byte, 1, 50 * BLOCK, NULL), EIO); /* no origin yet */
    assert_int_equal(block_state(10), BH_BLOCK_CLEAN);
    assert_int_equal(block_state(13), BH_BLOCK_ABSENT);
    assert_int_equal(block_state(20), BH_BLOCK_DIRTY);
    assert_int_equal(block_state(95), BH_BLOCK_ZERO);
    read_byte(21 * BLOCK, 'd');
    read_byte(95 * BLOCK, 0);
    set_origin_anew();
    must_be_origins(10 * BLOCK, 3 * BLOCK);
    assert_int_equal(calls(), n);
    must_be_origins(22 * BLOCK, 68 * BLOCK);
}

static void test_clean_blocks_that_are_forgotten_come_again(void **state)
{
    lay_out(100 * BLOCK + 5, 4096);
    must(bh_store_hydrate(store, NULL, ERR));
    write_blocks(BH_DOOR_INTERNAL, 20, 2, 'd');
    must(bh_store_forget_clean(store));
    assert_int_equal(bh_store_absent_bytes(store), 98 * BLOCK);
    assert_int_equal(block_state(0), BH_BLOCK_CLEAN);
    assert_int_equal(block_state(20), BH_BLOCK_DIRTY);
    must_be_origins(22 * BLOCK, 78 * BLOCK + 5);
    read_byte(21 * BLOCK, 'd');
    must_be_origins(0, 20 * BLOCK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_hydrate),
        TEST(test_hydrate_is_cancelled),
        TEST(test_hydrate_beside_writers_and_truncations),
        TEST(test_states_outlive_the_process),
        TEST(test_clean_blocks_that_are_forgotten_come_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
