/* What a flush reads and what it is told has changed, case by case: edges, truncations, a fetch or
 * a swap across the freeze, origins that fail or are not there. */
#include "live_changed.h"

static void test_all(void **state)
{
    struct list l;
    begin_model(10 * 65536 + 1, 4096);
    frozen = freeze_store(false);
    for (int i = 0; i < 3; i++) {
        must(bh_frozen_changed(frozen, sizes[i], base_size, true, &l.blocks, &l.count));
        assert_int_equal(l.count, 10 * 65536 / sizes[i] + 1);
        for (size_t b = 0; b < l.count; b++)
            assert_int_equal(l.blocks[b], b);
        free(l.blocks);
        l = changed(sizes[i], base_size);
        assert_int_equal(l.count, 0);
        free(l.blocks);
    }
    thaw(true);
}

static void test_an_empty_database(void **state)
{
    frozen = freeze_store(false);
    struct list l = changed(4096, 0);
    assert_int_equal(l.count, 0);
    free(l.blocks);
    l = changed(4096, 100000);
    assert_int_equal(l.count, 0);
    free(l.blocks);
    thaw(true);
}

/* The map is looked at in steps of 128 MiB, and in fours. */
static void test_blocks_at_the_edges_of_steps(void **state)
{
    static const uint64_t edges[] = {0,     3,     4,     7,     8,     32767, 32768,
                                     32771, 32772, 65535, 65536, 70000, 70001};
    static const uint64_t later[] = {1, 4, 9, 32766, 32768, 65534, 65535, 69999, 70001};
    enum { N = sizeof edges / sizeof *edges, LATER = sizeof later / sizeof *later };
    const uint64_t blocks = 70002;
    for (int absent = 0; absent < 2; absent++) {
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, blocks * BLOCK));
        must(bh_store_mark_all(store, absent ? BH_BLOCK_ABSENT : BH_BLOCK_CLEAN));
        for (size_t i = 0; i < N; i++)
            must(bh_map_set(&store->map, edges[i], 1, BH_BLOCK_DIRTY));
        frozen = freeze_store(false);
        for (int pass = 0; pass < 2; pass++) {
            struct list l = changed(4096, blocks * BLOCK);
            assert_int_equal(l.count, N);
            for (size_t i = 0; i < N; i++)
                assert_int_equal(l.blocks[i], edges[i]);
            free(l.blocks);
            pthread_mutex_lock(&store->mutex);
            for (size_t i = 0; i < LATER; i++)
                must(db_write_locked(store, now, BLOCK, later[i] * BLOCK));
            pthread_mutex_unlock(&store->mutex);
        }
        thaw(true);
        assert_int_equal(bh_store_dirty_bytes(store), LATER * BLOCK);
        for (size_t i = 0; i < LATER; i++)
            assert_int_equal(block_state(later[i]), BH_BLOCK_DIRTY);
        assert_int_equal(block_state(2), absent ? BH_BLOCK_ABSENT : BH_BLOCK_CLEAN);
    }
}

/* Shorter, and longer again before anything was flushed: zeros where the base has content. */
static void test_what_was_cut_and_grew_again_is_listed(void **state)
{
    for (int i = 0; i < 3; i++) {
        begin_model(20 * 65536, sizes[i]);
        change_size(10 * 65536 + 4096);
        change_size(20 * 65536);
        freeze();
        assert_true(is_listed(&lists[0], 170));
        assert_true(is_listed(&lists[2], 19));
        thaw(true);
        memcpy(base, now, sizeof base);
        freeze();
        assert_int_equal(lists[0].count, 0);
        thaw(true);
        /* and within the last block */
        change_size(20 * 65536 - 8192);
        freeze();
        upload(&lists[2], 65536, image_size);
        thaw(true);
        change_size(20 * 65536);
        memset(touched, 0, sizeof touched);
        freeze();
        upload(&lists[2], 65536, image_size);
        thaw(true);
    }
}

static void *fetch_in_thread(void *arg)
{
    struct bh_error err;
    int *rc = arg;
    *rc = bh_store_fetch(store, 100 * BLOCK, 50 * BLOCK, &err);
    return NULL;
}

static void test_a_fetch_across_the_freeze(void **state)
{
    for (int after = 0; after < 3; after++) { /* comes after: freeze, write, thaw */
        pthread_t thread;
        int rc;
        begin_model(200 * BLOCK, 16384);
        struct remote *r = set_remote(store, base, base_size, 16384);
        r->blocked = true;
        must(pthread_create(&thread, NULL, fetch_in_thread, &rc));
        while (!r->waiting)
            usleep(100);
        freeze();
        r->blocked = after > 0;
        if (after == 0)
            must(pthread_join(thread, NULL));
        pthread_mutex_lock(&store->mutex);
        for (uint64_t b = 101; b < 150; b += 5) /* as with a journal */
            must(db_write_locked(store, image, BLOCK, b * BLOCK));
        pthread_mutex_unlock(&store->mutex);
        if (after == 1) {
            r->blocked = false;
            must(pthread_join(thread, NULL));
        }
        if (after < 2) {
            must_list_the_same();
            must_be_image(0, image_size);
        }
        thaw(true);
        r->blocked = false;
        if (after == 2)
            must(pthread_join(thread, NULL));
        must(rc);
        for (uint64_t b = 100; b < 150; b++)
            assert_int_equal(block_state(b), b % 5 == 1 ? BH_BLOCK_DIRTY : BH_BLOCK_CLEAN);
        must(bh_file_read(db, scratch_buf, 200 * BLOCK, 0, NULL));
        for (uint64_t b = 0; b < 200; b++)
            assert_memory_equal(scratch_buf + b * BLOCK,
                                b > 100 && b < 150 && b % 5 == 1 ? image : base + b * BLOCK, BLOCK);
    }
}

static void swap_to(uint64_t generation)
{
    char name[32];
    struct bh_map map;
    must(bh_store_make_generation(disk, generation, ERR));
    snprintf(name, sizeof name, "state/db.%d", (int)generation);
    put_file(name, "new content", 11);
    snprintf(name, sizeof name, "map.%d", (int)generation);
    must(bh_map_open(&map, disk, name, true, ERR));
    must(bh_map_set(&map, 0, 1, BH_BLOCK_DIRTY));
    bh_map_close(&map);
    must(bh_store_swap(store, generation, NULL, ERR));
}

static void test_a_swap_while_frozen(void **state)
{
    for (uint64_t g = 2; g < 30; g++) {
        begin_model(300000 + any(100000), sizes[g % 3]);
        for (int i = 0; i < 10; i++)
            random_change();
        freeze();
        for (unsigned i = 0, n = any(10); i < n; i++)
            random_change();
        swap_to(g);
        must_list_the_same();
        must_be_image(0, image_size);
        change_write(0, 300000, 'n');
        change_size(1000);
        change_size(300000);
        must_list_the_same();
        must_be_image(0, image_size);
        upload(&lists[2], 65536, image_size);
        thaw(true);
        assert_true(bh_store_is_dirty(store)); /* what was flushed is not this content */
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0));
    }
}

static void test_a_failing_origin_fails_the_flush(void **state)
{
    begin_model(100 * BLOCK, 4096);
    frozen = freeze_store(false);
    bh_store_set_origin(store, NULL); /* the freeze has its own */
    must(bh_frozen_read(frozen, scratch_buf, 100 * BLOCK, 0));
    assert_memory_equal(scratch_buf, now, 100 * BLOCK);
    thaw(false);
}

/* Zeros would go into the bucket. */
static void test_absent_content_without_an_origin_is_an_error(void **state)
{
    begin_model(100 * BLOCK, 4096);
    reopen_store(); /* nobody has said the origin since */
    frozen = freeze_store(false);
    int rc = bh_frozen_read(frozen, scratch_buf, BLOCK, 50 * BLOCK);
    if (rc == 0)
        fail_msg("what is absent was read from nowhere, as %s",
                 memcmp(scratch_buf, now + 50 * BLOCK, BLOCK) ? "zeros" : "it is");
    must_fail(rc, EIO);
    thaw(false);
}

/* Who has nothing to read never hears that the freeze is broken. */
static void test_a_broken_freeze_has_no_list(void **state)
{
    struct list l = {0};
    must(bh_file_write(db, BH_DOOR_INTERNAL, now, BLOCK, (5 << 20) - BLOCK));
    must(bh_store_mark_all(store, BH_BLOCK_DIRTY));
    frozen = freeze_store(false);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0)); /* more than 4 MiB at once */
    must_fail(bh_frozen_read(frozen, scratch_buf, 1, 0), EAGAIN);
    int rc = bh_frozen_changed(frozen, 4096, 0, false, &l.blocks, &l.count);
    size_t count = rc ? 0 : l.count;
    free(rc ? NULL : l.blocks);
    if (rc == 0 && count < (5 << 20) / BLOCK)
        fail_msg("all blocks were dirty, and %zu are listed without an error", count);
    thaw(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_all),
        TEST(test_an_empty_database),
        TEST(test_blocks_at_the_edges_of_steps),
        TEST(test_what_was_cut_and_grew_again_is_listed),
        TEST(test_a_fetch_across_the_freeze),
        TEST(test_a_swap_while_frozen),
        TEST(test_a_failing_origin_fails_the_flush),
        TEST(test_absent_content_without_an_origin_is_an_error),
        TEST(test_a_broken_freeze_has_no_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
