/* Clean content that is given up: what goes and what stays, that its bytes are gone from the file
 * and come again, that the map on the disk knows before; the thread that keeps the bound. */
#include "live_absent.h"

#include "live/mirror.h"

enum { PER = EVICT_GRANULE / BLOCK };

static uint64_t local_bytes(void)
{
    struct stat st;
    assert_int_equal(fstat(db->disk.fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static uint64_t evict(uint64_t goal)
{
    uint64_t evicted;
    must(bh_store_evict(store, goal, &evicted));
    return evicted;
}

static void test_what_goes_is_gone_and_comes_again(void **state)
{
    for (int i = 0; i < 3; i++) {
        uint64_t first = units[i] > EVICT_GRANULE ? units[i] : EVICT_GRANULE;
        uint64_t size = (4 << 20) + 12345;
        lay_out(size, units[i]);
        must_be_origins(0, size);
        assert_int_equal(bh_store_absent_bytes(store), 0);
        assert_true(local_bytes() >= 4 << 20);
        uint64_t blocks = (size + BLOCK - 1) / BLOCK;
        assert_int_equal(evict(0), blocks * BLOCK - first);
        assert_int_equal(bh_store_absent_bytes(store), blocks * BLOCK - first);
        assert_true(local_bytes() <= first + 16384);
        assert_int_equal(bh_file_size(db), size);
        must_be_origins(0, size);
        uint64_t too_much = blocks * BLOCK - (2 << 20), some = evict(2 << 20);
        assert_true(some >= too_much && some < too_much + first); /* whole units */
        must_be_origins(0, size);
        assert_false(bh_store_is_dirty(store));
    }
}

static void test_what_was_written_stays(void **state)
{
    unsigned char buf[BLOCK];
    lay_out(64 * PER * BLOCK, 16384);
    must_be_origins(0, 64 * PER * BLOCK);
    write_blocks(BH_DOOR_INTERNAL, 5 * PER + 3, 2, 'd');
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 60 * PER * BLOCK));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 62 * PER * BLOCK)); /* zeros that nobody wrote */
    must(bh_file_write(db, BH_DOOR_INTERNAL, "x", 1, 7 * PER * BLOCK + 5)); /* a part of one */
    assert_int_equal(evict(0), (59 * PER - 3) * BLOCK);
    for (uint64_t b = 0; b < 62 * PER; b++) {
        bool dirty = b == 5 * PER + 3 || b == 5 * PER + 4 || b == 7 * PER;
        enum bh_block_state is = dirty           ? BH_BLOCK_DIRTY
                                 : b >= 60 * PER ? BH_BLOCK_ZERO
                                 : b < PER       ? BH_BLOCK_CLEAN
                                                 : BH_BLOCK_ABSENT;
        if (b > 0) /* page 1 is dirty: the size changed */
            assert_int_equal(block_state(b), is);
    }
    read_byte((5 * PER + 4) * BLOCK, 'd');
    read_byte(7 * PER * BLOCK + 5, 'x');
    read_byte(61 * PER * BLOCK, 0);
    fill_content(remote, buf, 7 * PER * BLOCK, BLOCK);
    read_byte(7 * PER * BLOCK + 4, buf[4]);
    read_byte(7 * PER * BLOCK + 6, buf[6]);
}

/* Who reads a unit between two rounds of the hand keeps it. */
static void test_what_is_used_stays_longest(void **state)
{
    enum { UNITS = 64 };
    lay_out(UNITS * PER * BLOCK, EVICT_GRANULE);
    must(bh_store_set_cache_max(store, INT64_MAX, ERR)); /* uses are noted */
    must_be_origins(0, UNITS * PER * BLOCK);
    evict((UNITS - 8) * PER * BLOCK); /* takes the notes of all, then what comes first */
    for (unsigned u = 20; u < 30; u++)
        must_be_origins(u * PER * BLOCK + 5, 1);
    evict(11 * PER * BLOCK);
    for (unsigned u = 1; u < UNITS; u++)
        assert_int_equal(block_state(u * PER),
                         u >= 20 && u < 30 ? BH_BLOCK_CLEAN : BH_BLOCK_ABSENT);
    evict(0);
    for (unsigned u = 1; u < UNITS; u++)
        assert_int_equal(block_state(u * PER), BH_BLOCK_ABSENT);
}

static void test_what_nobody_could_give_back_stays(void **state)
{
    uint64_t size = 16 * PER * BLOCK;
    lay_out(size, 16384);
    must_be_origins(0, size);
    bh_store_set_origin(store, NULL);
    assert_int_equal(evict(0), 0);
    set_origin_anew();
    bh_store_bar_eviction(store);
    assert_int_equal(evict(0), 0);
    set_origin_anew();
    write_blocks(BH_DOOR_CLIENT, 2 * PER, 1, 'u'); /* no journal: there is an undo log */
    assert_int_equal(evict(0), 0);
    must(bh_store_undo_play(store, NULL, NULL));
    assert_int_equal(evict(0), (15 * PER - 1) * BLOCK);
    must_be_origins(0, size);
}

/* Its rollback writes pages: the rest of a sub-block must not have to come from a bucket. */
static void test_nothing_goes_beside_a_journal_of_small_pages(void **state)
{
    static const unsigned char small[2] = {4, 0}, usual[2] = {16, 0};
    uint64_t size = 16 * PER * BLOCK;
    lay_out(size, 16384);
    must_be_origins(0, size);
    write_db(BH_DOOR_INTERNAL, small, 2, 16);
    begin_journal();
    assert_int_equal(evict(0), 0);
    write_db(BH_DOOR_INTERNAL, usual, 2, 16);
    assert_int_equal(evict(0), 15 * PER * BLOCK);
    assert_int_equal(bh_store_unlink(store, BH_JOURNAL_NAME), 0);
    must_be_origins(BLOCK, size - BLOCK);
    write_db(BH_DOOR_INTERNAL, small, 2, 16);
    assert_int_equal(evict(0), 15 * PER * BLOCK);
}

/* What a flush made clean, while absent content goes on coming from the snapshot before it. */
static void test_what_the_origin_has_otherwise_stays(void **state)
{
    uint64_t size = 16 * PER * BLOCK;
    lay_out(size, 16384);
    must_be_origins(0, size);
    write_blocks(BH_DOOR_INTERNAL, 3 * PER, PER, 'n');
    struct bh_frozen *z = freeze_store(false);
    must(bh_store_thaw(z, true));
    assert_int_equal(block_state(3 * PER), BH_BLOCK_CLEAN);
    assert_int_equal(evict(0), 0);
    read_byte(3 * PER * BLOCK, 'n');
}

static void test_the_frozen_content_stays_readable(void **state)
{
    uint64_t size = 16 * PER * BLOCK;
    unsigned char *buf = malloc(size), *was = malloc(size);
    assert_true(buf && was);
    lay_out(size, 16384);
    must_be_origins(0, size);
    write_blocks(BH_DOOR_INTERNAL, 3 * PER, PER, 'n');
    must(bh_file_read(db, was, size, 0, NULL));
    struct bh_frozen *z = freeze_store(false);
    write_blocks(BH_DOOR_INTERNAL, 5 * PER, 1, 'l');
    assert_int_equal(evict(0), (14 * PER - 1) * BLOCK);
    write_blocks(BH_DOOR_INTERNAL, 6 * PER, 1, 'l'); /* over what is absent by now */
    must(bh_frozen_read(z, buf, size, 0));
    assert_memory_equal(buf, was, size);
    must(bh_store_thaw(z, false));
    free(buf);
    free(was);
}

/* Where pages are small, what is fetched is synced before it counts as here: an eviction that began
 * before must not punch it in between. */
enum { SMALL_SIZE = 64 * PER * BLOCK };

static atomic_bool small_over;
static atomic_long small_wrong;

static void *read_small(void *arg)
{
    unsigned char buf[BLOCK], right[BLOCK];
    unsigned state = (unsigned)(uintptr_t)arg;
    while (!small_over) {
        state = state * 1664525 + 1013904223;
        uint64_t block = 1 + (state >> 8) % (SMALL_SIZE / BLOCK - 1);
        fill_content(remote, right, block * BLOCK, BLOCK);
        if (bh_file_read(db, buf, BLOCK, block * BLOCK, NULL) != 0 || memcmp(buf, right, BLOCK))
            small_wrong++;
    }
    return NULL;
}

static void test_evictions_beside_durable_fetches(void **state)
{
    static const unsigned char page_size[] = {1024 >> 8, 0};
    pthread_t readers[3];
    lay_out(SMALL_SIZE, 16384);
    must(bh_dfile_write(&db->disk, page_size, sizeof page_size, 16));
    small_over = false;
    for (uintptr_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_small, (void *)(i + 1)), 0);
    uint64_t gone = 0;
    for (int i = 0; i < 300; i++) {
        gone += evict(0);
        usleep(1000);
    }
    small_over = true;
    for (int i = 0; i < 3; i++)
        pthread_join(readers[i], NULL);
    assert_true(gone > SMALL_SIZE); /* else this shows little */
    assert_int_equal(small_wrong, 0);
}

static void test_a_map_that_cannot_be_written_loses_nothing(void **state)
{
    uint64_t size = 64 * PER * BLOCK, evicted;
    lay_out(size, 16384);
    must_be_origins(0, size);
    uint64_t before = local_bytes();
    int saved = break_writes(store->map.file.fd);
    assert_int_not_equal(bh_store_evict(store, 0, &evicted), 0);
    mend_writes(store->map.file.fd, saved);
    assert_int_equal(evicted, 0);
    assert_int_equal(local_bytes(), before);
    must_be_origins(0, size);
    assert_int_equal(evict(0), 63 * PER * BLOCK);
    must_be_origins(0, size);
}

/* --- crashes --- */

static void test_a_crash_after_it(void **state)
{
    uint64_t size = 32 * PER * BLOCK;
    lay_out(size, 16384);
    must_be_origins(0, size);
    evict(10 * PER * BLOCK);
    uint64_t absent = bh_store_absent_bytes(store);
    assert_true(absent > 0);
    reopen_store();
    set_origin_anew();
    assert_int_equal(bh_store_absent_bytes(store), absent);
    must_be_origins(0, size);
}

/* At any moment what a machine without power would find says absent where bytes are missing. */
static void must_be_sound(const char *directory, uint64_t size)
{
    char path[160];
    struct bh_disk *found;
    struct bh_map map;
    unsigned char buf[BLOCK], right[BLOCK];
    snprintf(path, sizeof path, "%s/db.1", directory);
    must(bh_disk_open(&found, directory, NULL, 0, ERR));
    must(bh_map_open(&map, found, "map.1", false, ERR));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (uint64_t b = 0; b * BLOCK < size; b++) {
        if (bh_map_get(&map, b) == BH_BLOCK_ABSENT)
            continue;
        must(bh_pread_full(fd, buf, BLOCK, b * BLOCK, NULL));
        fill_content(remote, right, b * BLOCK, BLOCK);
        if (memcmp(buf, right, BLOCK) != 0)
            fail_msg("block %d is neither absent nor there", (int)b);
    }
    close(fd);
    bh_map_close(&map);
    bh_disk_close(found);
}

static void test_power_cuts(void **state)
{
    uint64_t size = 24 * PER * BLOCK;
    char command[200];
    for (unsigned seed = 1; seed < 30; seed++) {
        bh_store_close(store);
        bh_disk_close(disk);
        must(bh_disk_open(&disk, at("state"), at("shadow"), seed, ERR));
        open_store(1);
        lay_out(size, 16384);
        must_be_origins(0, size);
        must(bh_store_sync(store));
        must(bh_store_sync_names(store));
        must_be_sound(at("shadow"), size);
        evict(any((uint32_t)size)); /* holes reach the mirror at once now and then */
        snprintf(command, sizeof command, "cd %s && rm -rf found && cp -a shadow found", scratch);
        assert_int_equal(system(command), 0);
        must_be_sound(at("found"), size);
    }
}

/* --- the thread --- */

static void wait_for_clean(uint64_t most)
{
    struct bh_store_cache c;
    for (int i = 0; i < 2000; i++) {
        bh_store_cache(store, &c);
        if (c.clean_bytes <= most)
            return;
        usleep(5000);
    }
    fail_msg("%d bytes of clean blocks stay", (int)c.clean_bytes);
}

static void test_the_bound_is_kept(void **state)
{
    uint64_t size = 8 << 20, max = 1 << 20;
    struct reader r[3] = {
        {.seed = 1, .rounds = 400}, {.seed = 2, .rounds = 400}, {.seed = 3, .rounds = 400}};
    struct bh_store_cache c;
    lay_out(size, 16384);
    must(bh_store_set_cache_max(store, max, ERR));
    for (int i = 0; i < 3; i++)
        start(&r[i]);
    join_readers(r, 3);
    wait_for_clean(max);
    for (int i = 0; i < 2000; i++, usleep(5000)) { /* absent first, gone a little later */
        bh_store_cache(store, &c);
        if (c.evicted_bytes >= size - max)
            break;
    }
    assert_true(c.evicted_bytes >= size - max);
    assert_int_equal(c.max, max);
    must(bh_store_set_cache_max(store, 0, ERR)); /* none any more */
    must_be_origins(0, size);
    usleep(50000);
    bh_store_cache(store, &c);
    assert_int_equal(c.clean_bytes, size);
    must(bh_store_set_cache_max(store, max, ERR)); /* at once */
    wait_for_clean(max);
    must_be_origins(0, size);
}

/* As after a start where the bucket is away: what is here may be all that can be had. */
static void test_nothing_goes_before_the_bucket_answered(void **state)
{
    uint64_t size = 4 << 20;
    struct bh_store_cache c;
    lay_out(size, 16384);
    must_be_origins(0, size / 2);
    reopen_store();
    set_origin_anew();
    must(bh_store_set_cache_max(store, 1 << 20, ERR));
    must_be_origins(0, size / 2);
    usleep(100000);
    bh_store_cache(store, &c);
    assert_int_equal(c.clean_bytes, size / 2);
    must_be_origins(size / 2, 1);
    wait_for_clean(1 << 20);
}

static void test_hydrate_says_what_does_not_fit(void **state)
{
    struct bh_error err;
    uint64_t size = 4 << 20;
    lay_out(size, 16384);
    must(bh_store_set_cache_max(store, size - 1, ERR));
    unsigned before = calls();
    assert_int_equal(bh_store_hydrate(store, NULL, &err), EDQUOT);
    assert_non_null(strstr(err.text, "live.cache_max is 4194303 bytes"));
    assert_int_equal(calls(), before);
    must(bh_store_set_cache_max(store, size, ERR));
    must(bh_store_hydrate(store, NULL, ERR));
    assert_int_equal(bh_store_absent_bytes(store), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_goes_is_gone_and_comes_again),
        TEST(test_what_was_written_stays),
        TEST(test_what_is_used_stays_longest),
        TEST(test_what_nobody_could_give_back_stays),
        TEST(test_nothing_goes_beside_a_journal_of_small_pages),
        TEST(test_what_the_origin_has_otherwise_stays),
        TEST(test_the_frozen_content_stays_readable),
        TEST(test_evictions_beside_durable_fetches),
        TEST(test_a_map_that_cannot_be_written_loses_nothing),
        TEST(test_a_crash_after_it),
        TEST(test_power_cuts),
        TEST(test_the_bound_is_kept),
        TEST(test_nothing_goes_before_the_bucket_answered),
        TEST(test_hydrate_says_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
