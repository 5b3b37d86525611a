/* What a flush reads and what it is told has changed, after random writes, truncations, reads and
 * evictions of one thread, before the freeze and after it. */
#include "live_changed.h"

static void must_be_some_of_the_image(void)
{
    size_t offset = any((uint32_t)image_size);
    must_be_image(offset, 1 + any((uint32_t)(image_size - offset)));
}

static void model_flush(uint32_t block_size, uint32_t unit)
{
    static bool before[SUBS];
    bool flushed = any(4) > 0, cut_before = was_cut;
    freeze();
    memcpy(before, touched, sizeof before);
    memset(touched, 0, sizeof touched);
    was_cut = false;
    for (unsigned i = 0, n = any(20); i < n; i++) {
        random_change();
        if (any(3) == 0)
            must_be_some_of_the_image();
    }
    must_list_the_same();
    must_be_image(0, image_size);
    if (flushed) {
        for (int i = 0; i < 3; i++)
            if (sizes[i] == block_size)
                upload(&lists[i], block_size, image_size);
        if (any(2)) {
            advance(store, unit);
            must_be_image(0, image_size); /* KEY is written from it */
        }
    } else {
        for (size_t b = 0; b < SUBS; b++)
            touched[b] |= before[b];
        was_cut |= cut_before;
    }
    thaw(flushed);
    if (any(6) == 0) {
        set_remote(store, base, base_size, unit);
        forget_clean(store);
    }
    if (any(20) == 0)
        reopen_store();
    set_remote(store, base, base_size, unit);
}

static void run_model(uint32_t block_size, uint32_t unit)
{
    begin_model(300000 + any(700000), unit);
    for (int round = 0; round < 250; round++) {
        for (unsigned i = 0, n = any(20); i < n; i++)
            random_change();
        model_flush(block_size, unit);
        if (now_size < 100000)
            change_size(100000 + any(800000));
    }
    must(bh_store_hydrate(store, NULL, ERR));
    must_hold("state/db.1", now, now_size);
}

static void test_model_of_small_blocks(void **state)
{
    seed_random(4096);
    run_model(4096, 16384);
}

static void test_model_of_middle_blocks(void **state)
{
    seed_random(16384);
    run_model(16384, 4096);
}

static void test_model_of_large_blocks(void **state)
{
    seed_random(65536);
    run_model(65536, 1 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_model_of_small_blocks),
        TEST(test_model_of_middle_blocks),
        TEST(test_model_of_large_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
