/* The freeze: what is read from it is the content as of one moment, whatever writers do meanwhile.
 */
#include "live_store.h"

enum { MIB_BLOCKS = 256 };

static struct bh_frozen *frozen;
static unsigned char *image; /* the content when it was frozen */
static size_t image_size;

static void fill_db(uint64_t blocks, size_t tail)
{
    size_t size = blocks * BLOCK + tail;
    unsigned char *data = malloc(size);
    assert_non_null(data);
    fill_random(data, size);
    write_db(BH_DOOR_INTERNAL, data, size, 0);
    free(data);
}

static void freeze(bool patient)
{
    free(image);
    image = get_file("state/db.1", &image_size);
    must(bh_store_freeze_prepare(store, patient, &frozen));
    must(bh_store_freeze(frozen));
    assert_int_equal(bh_frozen_size(frozen), image_size);
}

static void thaw(bool flushed)
{
    must(bh_store_thaw(frozen, flushed));
    frozen = NULL;
}

static int freeze_teardown(void **state)
{
    if (frozen)
        bh_store_thaw(frozen, false);
    frozen = NULL;
    free(image);
    image = NULL;
    return store_teardown(state);
}

/* The first difference of a range, or -1. Usable on any thread. */
static int64_t difference(size_t offset, size_t len, int *rc)
{
    unsigned char *buf = malloc(len + 1);
    int64_t at_byte = -1;
    *rc = buf ? bh_frozen_read(frozen, buf, len, offset) : ENOMEM;
    for (size_t i = 0; *rc == 0 && i < len && at_byte < 0; i++)
        if (buf[i] != image[offset + i])
            at_byte = (int64_t)(offset + i);
    free(buf);
    return at_byte;
}

static void must_be_image(size_t offset, size_t len)
{
    int rc;
    int64_t d = difference(offset, len, &rc);
    must(rc);
    if (d >= 0)
        fail_msg("byte %lld of the frozen image is not as it was", (long long)d);
}

static void test_writes_do_not_show(void **state)
{
    fill_db(10, 100);
    freeze(false);
    write_blocks(BH_DOOR_INTERNAL, 3, 2, 'x');
    write_db(BH_DOOR_CLIENT, "y", 1, 10 * BLOCK + 50);
    must_be_image(0, image_size);
    must_be_image(3 * BLOCK + 7, 100);
    must_be_image(10 * BLOCK + 49, 51);
    thaw(false);
}

static void test_growth_does_not_show(void **state)
{
    fill_db(3, 10);
    freeze(false);
    write_blocks(BH_DOOR_INTERNAL, 3, 20, 'x');
    assert_int_equal(bh_frozen_size(frozen), 3 * BLOCK + 10);
    must_be_image(0, image_size);
    thaw(true);
    assert_int_equal(bh_store_dirty_bytes(store), 20 * BLOCK);
}

static void test_small_truncations_do_not_show(void **state)
{
    fill_db(4 * MIB_BLOCKS, 0);
    freeze(false);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0)); /* just 4 MiB */
    write_blocks(BH_DOOR_INTERNAL, 0, 10, 'x');
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 5 * BLOCK + 1));
    must_be_image(0, image_size);
    thaw(true);
}

static void test_a_large_truncation_breaks_an_impatient_freeze(void **state)
{
    int rc;
    fill_db(4 * MIB_BLOCKS + 1, 0);
    freeze(false);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0));
    difference(0, 100, &rc);
    must_fail(rc, EAGAIN);
    difference(image_size - 100, 100, &rc);
    must_fail(rc, EAGAIN);
    thaw(false);
    freeze(false); /* of nothing */
    thaw(true);
}

static void test_a_large_truncation_waits_for_a_patient_freeze(void **state)
{
    fill_db(4 * MIB_BLOCKS + 1, 17);
    freeze(true);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0));
    must_be_image(0, image_size);
    thaw(true);
}

static void test_old_content_that_cannot_be_saved_breaks_the_freeze_only(void **state)
{
    int rc;
    char byte;
    fill_db(10, 0);
    freeze(false);
    int saved = break_writes(frozen->db.save);
    write_db(BH_DOOR_INTERNAL, "x", 1, 0); /* the writer goes on */
    difference(0, BLOCK, &rc);
    must_fail(rc, EBADF);
    must(bh_file_read(db, &byte, 1, 0, NULL));
    assert_int_equal(byte, 'x');
    mend_writes(frozen->db.save, saved);
    thaw(false);
    assert_int_equal(bh_store_dirty_bytes(store), 10 * BLOCK);
}

static void test_flushed_makes_clean_what_was_not_touched(void **state)
{
    fill_db(12, 0);
    freeze(false);
    write_db(BH_DOOR_INTERNAL, "x", 1, 5 * BLOCK);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 10 * BLOCK));
    write_blocks(BH_DOOR_INTERNAL, 10, 1, 'y'); /* gone and back */
    thaw(true);
    for (uint64_t b = 0; b < 10; b++)
        assert_int_equal(block_state(b), b == 5 || b == 0 ? BH_BLOCK_DIRTY : BH_BLOCK_CLEAN); /* 0 shows the cut */
    assert_int_equal(block_state(10), BH_BLOCK_DIRTY);
    assert_int_equal(block_state(11), BH_BLOCK_ZERO);
    reopen_store();
    assert_int_equal(bh_store_dirty_bytes(store), 3 * BLOCK);
}

/* The truncation is news to the bucket, wherever the cut is. */
static void test_a_truncation_meanwhile_stays_a_change(void **state)
{
    static const uint64_t sizes[] = {7 * BLOCK, 7 * BLOCK + 1, 7 * BLOCK - 1, BLOCK};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fill_db(12, 0);
        freeze(false);
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, sizes[i]));
        thaw(true);
        if (!bh_store_is_dirty(store))
            fail_msg("cut to %llu bytes during a flush, and clean after it",
                     (unsigned long long)sizes[i]);
    }
}

static void test_a_failed_flush_leaves_everything_dirty(void **state)
{
    fill_db(12, 0);
    freeze(false);
    write_db(BH_DOOR_INTERNAL, "x", 1, 5 * BLOCK);
    thaw(false);
    assert_int_equal(bh_store_dirty_bytes(store), 12 * BLOCK);
}

static void test_a_swap_leaves_the_frozen_image(void **state)
{
    struct bh_map map;
    fill_db(20, 5);
    freeze(false);
    write_blocks(BH_DOOR_INTERNAL, 2, 3, 'x');
    must(bh_store_make_generation(disk, 2, ERR));
    put_file("state/db.2", "new content", 11);
    must(bh_map_open(&map, disk, "map.2", true, ERR));
    must(bh_map_set(&map, 0, 1, BH_BLOCK_DIRTY));
    bh_map_close(&map);
    must(bh_store_swap(store, 2, NULL, ERR));
    write_blocks(BH_DOOR_INTERNAL, 0, 6, 'y');
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, BLOCK));
    must_be_image(0, image_size);
    thaw(true); /* what was flushed is not the present content */
    assert_int_equal(bh_store_dirty_bytes(store), BLOCK);
}

static void test_one_after_the_other(void **state)
{
    fill_db(10, 0);
    for (int i = 0; i < 20; i++) {
        freeze(i % 2);
        write_blocks(BH_DOOR_INTERNAL, any(10), 1, 'a' + i);
        must_be_image(0, image_size);
        thaw(true);
        assert_int_equal(bh_store_dirty_bytes(store), BLOCK);
    }
}

/* A flush that could not begin after all. */
static void test_a_prepared_freeze_can_be_given_up(void **state)
{
    struct bh_frozen *z;
    fill_db(2, 0);
    must(bh_store_freeze_prepare(store, true, &z));
    must(bh_store_thaw(z, false));
    assert_int_equal(bh_store_dirty_bytes(store), 2 * BLOCK);
}

static void test_nothing_stays_in_the_state_directory(void **state)
{
    fill_db(10, 0);
    freeze(false);
    write_blocks(BH_DOOR_INTERNAL, 0, 10, 'x');
    char command[200];
    snprintf(command, sizeof command, "test \"$(ls %s/state | tr '\\n' ' ')\" = 'db.1 map.1 '",
             scratch);
    assert_int_equal(system(command), 0);
    thaw(false);
    assert_int_equal(system(command), 0);
}

static void test_times_are_counted(void **state)
{
    uint64_t count;
    assert_int_equal(bh_store_freeze_ns(store, 0.5, &count), 0);
    assert_int_equal(count, 0);
    for (int i = 1; i <= 5000; i++)
        bh_store_note_freeze(store, i);
    uint64_t half = bh_store_freeze_ns(store, 0.5, &count),
             all = bh_store_freeze_ns(store, 1, &count);
    assert_int_equal(count, 5000);
    assert_int_equal(all, 5000);
    assert_in_range(half, 2900, 3000); /* of the last 4096 */
    assert_int_equal(bh_store_freeze_ns(store, 0, &count), 5000 - 4095);
}

/* --- against a model --- */

enum { MODEL_BLOCKS = 96 };
enum { CUT = 1, WRITTEN = 2 };

/* One change of a writer; notes which blocks it wrote. touched may be NULL: then truncations are at
 * the edges of blocks (test_live_store.c has the others). */
static int random_change(uint64_t *seed, unsigned char touched[2 * MODEL_BLOCKS])
{
    unsigned char buf[3 * BLOCK];
    *seed ^= *seed << 13; /* a thread's own numbers */
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    uint64_t offset = (*seed >> 8) % (MODEL_BLOCKS * BLOCK * 5 / 4),
             len = 1 + (*seed >> 32) % sizeof buf;
    if (*seed % 16 == 0) {
        uint64_t old = bh_file_size(db);
        for (uint64_t b = offset / BLOCK; touched && b * BLOCK < old && b < 2 * MODEL_BLOCKS; b++)
            touched[b] = CUT;
        return bh_file_truncate(db, BH_DOOR_INTERNAL, touched ? offset : offset - offset % BLOCK);
    }
    memset(buf, (int)(*seed >> 56), sizeof buf);
    for (uint64_t b = offset / BLOCK; touched && b * BLOCK < offset + len; b++)
        touched[b] = WRITTEN;
    return bh_file_write(db, BH_DOOR_INTERNAL, buf, len, offset);
}

static void check_states_after_flush(const unsigned char touched[2 * MODEL_BLOCKS],
                                     const unsigned char before[2 * MODEL_BLOCKS])
{
    uint64_t size = bh_file_size(db), blocks = (image_size + BLOCK - 1) / BLOCK;
    for (uint64_t b = 0; b * BLOCK < size && b < 2 * MODEL_BLOCKS; b++) {
        if (!touched[b] && b < blocks && before[b] == BH_BLOCK_DIRTY)
            assert_int_equal(block_state(b), BH_BLOCK_CLEAN);
        if (touched[b] == WRITTEN)
            assert_int_not_equal(block_state(b), BH_BLOCK_CLEAN);
    }
}

static void test_model_in_one_thread(void **state)
{
    uint64_t seed = 12345;
    fill_db(MODEL_BLOCKS, 1000);
    for (int round = 0; round < 150; round++) {
        unsigned char touched[2 * MODEL_BLOCKS] = {0}, before[2 * MODEL_BLOCKS];
        for (uint64_t b = 0; b < 2 * MODEL_BLOCKS; b++)
            before[b] = (unsigned char)block_state(b);
        freeze(round % 2);
        for (unsigned i = 0, n = any(25); i < n; i++) {
            must(random_change(&seed, touched));
            if (image_size > 0) {
                size_t offset = any((uint32_t)image_size);
                must_be_image(offset, 1 + any((uint32_t)(image_size - offset)));
            }
        }
        must_be_image(0, image_size);
        bool flushed = any(2);
        thaw(flushed);
        if (flushed)
            check_states_after_flush(touched, before);
    }
}

static atomic_bool enough;
static atomic_int write_failed;

static void *write_all_the_time(void *arg)
{
    uint64_t *seed = arg;
    while (!enough) {
        int rc = random_change(seed, NULL);
        if (rc)
            write_failed = rc;
    }
    return NULL;
}

/* SQLite's SHARED lock keeps writers out for the moment of the freeze; here they are stopped. */
static void test_model_beside_a_writer(void **state)
{
    uint64_t seed = 4711;
    write_failed = 0;
    for (int round = 0; round < 40; round++) {
        pthread_t thread;
        fill_db(MODEL_BLOCKS, any(BLOCK));
        freeze(round % 2);
        enough = false;
        must(pthread_create(&thread, NULL, write_all_the_time, &seed));
        int rc = 0;
        int64_t d = -1;
        for (int pass = 0; pass < 4 && d < 0 && rc == 0; pass++)
            for (size_t offset = 0; offset < image_size && d < 0 && rc == 0; offset += 10000)
                d = difference(offset, image_size - offset < 10000 ? image_size - offset : 10000,
                               &rc);
        enough = true;
        must(pthread_join(thread, NULL));
        must(write_failed);
        must(rc);
        assert_int_equal(d, -1);
        thaw(round % 3 == 0);
    }
}

/* While thaw makes clean, a writer's blocks must end dirty: what is clean is as in the image. */
static void test_thaw_beside_a_writer(void **state)
{
    uint64_t seed = 99;
    write_failed = 0;
    for (int round = 0; round < 60; round++) {
        pthread_t thread;
        fill_db(MODEL_BLOCKS, 0);
        freeze(false);
        enough = false;
        must(pthread_create(&thread, NULL, write_all_the_time, &seed));
        usleep(any(300));
        int rc = bh_store_thaw(frozen, true);
        frozen = NULL;
        enough = true;
        must(pthread_join(thread, NULL));
        must(rc);
        must(write_failed);
        size_t size;
        unsigned char *now = get_file("state/db.1", &size);
        for (size_t i = 0; i < size && i < image_size; i++)
            if (now[i] != image[i] && block_state(i / BLOCK) == BH_BLOCK_CLEAN)
                fail_msg("byte %zu was changed and is clean", i);
        free(now);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup, freeze_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_writes_do_not_show),
        TEST(test_growth_does_not_show),
        TEST(test_small_truncations_do_not_show),
        TEST(test_a_large_truncation_breaks_an_impatient_freeze),
        TEST(test_a_large_truncation_waits_for_a_patient_freeze),
        TEST(test_old_content_that_cannot_be_saved_breaks_the_freeze_only),
        TEST(test_flushed_makes_clean_what_was_not_touched),
        TEST(test_a_truncation_meanwhile_stays_a_change),
        TEST(test_a_failed_flush_leaves_everything_dirty),
        TEST(test_a_swap_leaves_the_frozen_image),
        TEST(test_one_after_the_other),
        TEST(test_a_prepared_freeze_can_be_given_up),
        TEST(test_nothing_stays_in_the_state_directory),
        TEST(test_times_are_counted),
        TEST(test_model_in_one_thread),
        TEST(test_model_beside_a_writer),
        TEST(test_thaw_beside_a_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
