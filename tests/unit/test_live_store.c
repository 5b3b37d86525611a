/* The byte store: names and files, journals, what is marked dirty, what is cleared away, swaps. */
#include "live_store.h"

/* --- names --- */

static void test_kinds_of_names(void **state)
{
    assert_int_equal(bh_file_kind_of("live.db"), BH_FILE_DB);
    assert_int_equal(bh_file_kind_of("live.db-journal"), BH_FILE_JOURNAL);
    assert_int_equal(bh_file_kind_of("live.db-mj0A1B2C9FF"), BH_FILE_SUPER);
    assert_int_equal(bh_file_kind_of("live.db-wal"), BH_FILE_WAL);
    assert_int_equal(bh_file_kind_of("live.db-shm"), BH_FILE_SHM);
    static const char *const others[] = {"",
                                         "live.db-",
                                         "live.db-mj",
                                         "live.db-mjXYZ",
                                         "live.db-wal2",
                                         "live.db-mj12/",
                                         "db.1",
                                         "LIVE.DB",
                                         "undo",
                                         "live.db-mj12345678901234567"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(bh_file_kind_of(others[i]), BH_FILE_OTHER);
}

static void test_create_and_lookup(void **state)
{
    struct bh_file *made = create_file(BH_JOURNAL_NAME), *found;
    must(bh_store_lookup(store, BH_JOURNAL_NAME, &found));
    assert_ptr_equal(made, found);
    bh_file_unref(found);
    must_fail(bh_store_create(store, BH_DOOR_CLIENT, BH_JOURNAL_NAME, 0600, &found), EEXIST);
    must_fail(bh_store_create(store, BH_DOOR_CLIENT, BH_DB_NAME, 0600, &found), EEXIST);
    must_fail(bh_store_create(store, BH_DOOR_CLIENT, "notes.txt", 0600, &found), EPERM);
    must_fail(bh_store_lookup(store, "live.db-mj1", &found), ENOENT);
    must(bh_store_lookup(store, BH_DB_NAME, &found));
    assert_ptr_equal(found, db);
    bh_file_unref(found);
    bh_file_unref(made);
}

static void test_the_database_cannot_be_unlinked(void **state)
{
    must_fail(bh_store_unlink(store, BH_DB_NAME), EPERM);
    must_fail(bh_store_unlink(store, BH_JOURNAL_NAME), ENOENT);
}

static void test_an_unlinked_file_lives_while_it_is_used(void **state)
{
    struct bh_file *f = create_file(BH_JOURNAL_NAME), *again;
    char text[6] = "";
    must(bh_file_write(f, BH_DOOR_CLIENT, "hello", 5, 0));
    must(bh_store_unlink(store, BH_JOURNAL_NAME));
    assert_false(f->linked);
    must_fail(bh_store_lookup(store, BH_JOURNAL_NAME, &again), ENOENT);
    assert_false(is_there("state/live.db-journal"));
    again = create_file(BH_JOURNAL_NAME); /* another file of that name */
    must(bh_file_write(again, BH_DOOR_CLIENT, "other", 5, 0));
    must(bh_file_read(f, text, 5, 0, NULL));
    assert_string_equal(text, "hello");
    bh_file_unref(f);
    bh_file_unref(again);
}

static int count_file(void *arg, struct bh_file *f)
{
    strcat(arg, f->name);
    strcat(arg, " ");
    return !strcmp(f->name, BH_JOURNAL_NAME) ? EINTR : 0;
}

static void test_each_begins_with_the_database_and_can_be_ended(void **state)
{
    char names[200] = "";
    bh_file_unref(create_file("live.db-mj123456789"));
    must(bh_store_each(store, count_file, names));
    assert_string_equal(names, "live.db live.db-mj123456789 ");
    bh_file_unref(create_file(BH_JOURNAL_NAME));
    must_fail(bh_store_each(store, count_file, names), EINTR);
}

static void test_leftovers_are_removed_at_open(void **state)
{
    static const char *const gone[] = {
        "state/db.2",        "state/map.2",           "state/db.0",
        "state/incoming.db", "state/incoming.import", "state/state.new"};
    static const char *const kept[] = {
        "state/db.1",  "state/map.1", "state/live.db-journal", "state/live.db-mj123456789",
        "state/state", "state/lock"};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
        put_file(gone[i], "x", 1);
    for (size_t i = 2; i < sizeof kept / sizeof *kept; i++)
        put_file(kept[i], "x", 1);
    reopen_store();
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
        assert_false(is_there(gone[i]));
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        assert_true(is_there(kept[i]));
    struct bh_file *f;
    must(bh_store_lookup(store, "live.db-mj123456789", &f));
    bh_file_unref(f);
}

static void test_a_missing_generation_is_named(void **state)
{
    struct bh_store *other;
    must_fail(bh_store_open(&other, disk, 7, ERR), ENOENT);
    must_say("db.7");
}

/* --- journals --- */

static void test_a_journal_begins_with_its_magic(void **state)
{
    struct bh_file *j = create_file(BH_JOURNAL_NAME);
    assert_false(j->has_magic);
    must(bh_file_write(j, BH_DOOR_CLIENT, "\0\0\0\0\0\0\0\0rest", 12, 0)); /* as SQLite begins it */
    assert_false(j->has_magic);
    must(bh_file_write(j, BH_DOOR_CLIENT, magic, 4, 0));
    assert_false(j->has_magic);
    must(bh_file_write(j, BH_DOOR_CLIENT, magic + 4, 4, 4));
    assert_true(j->has_magic);
    must(bh_file_write(j, BH_DOOR_CLIENT, magic, 8, 512)); /* elsewhere it means nothing */
    must(bh_file_write(j, BH_DOOR_CLIENT, "\0", 1, 7));    /* PERSIST's end of a transaction */
    assert_false(j->has_magic);
    bh_file_unref(j);
}

static void test_a_cut_journal_has_no_magic(void **state)
{
    struct bh_file *j = create_file(BH_JOURNAL_NAME);
    for (uint64_t size = 0; size < 8; size++) {
        must(bh_file_write(j, BH_DOOR_CLIENT, magic, 8, 0));
        assert_true(j->has_magic);
        must(bh_file_truncate(j, BH_DOOR_CLIENT, size));
        assert_false(j->has_magic);
    }
    must(bh_file_write(j, BH_DOOR_CLIENT, magic, 8, 0));
    must(bh_file_truncate(j, BH_DOOR_CLIENT, 8));
    assert_true(j->has_magic);
    bh_file_unref(j);
}

static void test_a_journal_is_recognised_at_open(void **state)
{
    put_file("state/live.db-journal", magic, 8);
    reopen_store();
    struct bh_file *j;
    must(bh_store_lookup(store, BH_JOURNAL_NAME, &j));
    assert_true(j->has_magic);
    bh_file_unref(j);
}

/* --- reading and writing --- */

static void test_reading_beyond_the_end(void **state)
{
    char buf[10];
    size_t got;
    write_db(BH_DOOR_INTERNAL, "abc", 3, 0);
    must(bh_file_read(db, buf, 10, 1, &got));
    assert_int_equal(got, 2);
    assert_memory_equal(buf, "bc\0\0\0\0\0\0\0\0", 10);
    must(bh_file_read(db, buf, 10, 1000000, &got));
    assert_int_equal(got, 0);
}

static void test_impossible_offsets_are_refused(void **state)
{
    must_fail(bh_file_write(db, BH_DOOR_INTERNAL, "x", 1, UINT64_MAX), EFBIG);
    must_fail(bh_file_write(db, BH_DOOR_INTERNAL, "x", 1, INT64_MAX), EFBIG);
    must_fail(bh_file_truncate(db, BH_DOOR_INTERNAL, UINT64_MAX), EFBIG);
    must(bh_file_write(db, BH_DOOR_INTERNAL, "", 0, UINT64_MAX));
    assert_int_equal(bh_file_size(db), 0);
    assert_false(bh_store_is_dirty(store));
}

/* --- dirt --- */

static void test_writes_dirty_their_blocks(void **state)
{
    write_blocks(BH_DOOR_INTERNAL, 0, 10, 'a');
    assert_int_equal(bh_store_dirty_bytes(store), 10 * BLOCK);
    all_clean();
    write_db(BH_DOOR_INTERNAL, "xy", 2,
             3 * BLOCK - 1); /* the last byte of block 2, the first of 3 */
    assert_int_equal(bh_store_dirty_bytes(store), 2 * BLOCK);
    assert_int_equal(block_state(2), BH_BLOCK_DIRTY);
    assert_int_equal(block_state(3), BH_BLOCK_DIRTY);
    assert_int_equal(block_state(4), BH_BLOCK_CLEAN);
}

static void test_dirt_outlives_a_crash(void **state)
{
    write_blocks(BH_DOOR_INTERNAL, 0, 10, 'a');
    all_clean();
    write_db(BH_DOOR_CLIENT, "x", 1, 5 * BLOCK);
    must(bh_store_undo_forget(store));
    reopen_store();
    assert_int_equal(bh_store_dirty_bytes(store), BLOCK);
    assert_int_equal(block_state(5), BH_BLOCK_DIRTY);
}

static void test_truncation_forgets_blocks_and_growth_is_zero(void **state)
{
    unsigned char buf[BLOCK], zeros[BLOCK] = {0};
    write_blocks(BH_DOOR_INTERNAL, 0, 10, 'a');
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 4 * BLOCK));
    assert_int_equal(bh_store_dirty_bytes(store), 4 * BLOCK);
    assert_int_equal(block_state(4), BH_BLOCK_ZERO);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 10 * BLOCK));
    must(bh_file_read(db, buf, BLOCK, 7 * BLOCK, NULL));
    assert_memory_equal(buf, zeros, BLOCK);
    assert_int_equal(block_state(7), BH_BLOCK_ZERO);
}

static void test_a_shortened_database_is_a_change(void **state)
{
    write_blocks(BH_DOOR_INTERNAL, 0, 10, 'a');
    all_clean();
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 4 * BLOCK));
    assert_true(bh_store_is_dirty(store));
}

/* Pages may be smaller than blocks. */
static void test_a_block_cut_in_its_middle_is_a_change(void **state)
{
    write_blocks(BH_DOOR_INTERNAL, 0, 4, 'a');
    all_clean();
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 2 * BLOCK + 1024));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 4 * BLOCK));
    assert_int_equal(block_state(2), BH_BLOCK_DIRTY); /* its end is zeros now, not as in the base */
}

static void test_all_dirty(void **state)
{
    write_blocks(BH_DOOR_INTERNAL, 0, 3, 'a');
    write_db(BH_DOOR_INTERNAL, "tail", 4, 3 * BLOCK);
    all_clean();
    must(bh_store_mark_all(store, BH_BLOCK_DIRTY));
    assert_int_equal(bh_store_dirty_bytes(store), 4 * BLOCK);
}

/* --- the map before the data --- */

static void test_no_data_is_written_that_the_map_does_not_know(void **state)
{
    char byte;
    write_db(BH_DOOR_INTERNAL, "a", 1, 0);
    all_clean();
    int saved = break_writes(store->map.file.fd);
    must_fail(bh_file_write(db, BH_DOOR_INTERNAL, "b", 1, 0), EBADF);
    must_fail(bh_file_sync(db), EIO);
    must(bh_file_read(db, &byte, 1, 0, NULL));
    assert_int_equal(byte, 'a');
    mend_writes(store->map.file.fd, saved);
    write_db(BH_DOOR_INTERNAL, "c", 1, 0);
    must(bh_file_sync(db));
    reopen_store();
    assert_int_equal(block_state(0), BH_BLOCK_DIRTY);
}

static void test_sync_settles_the_map(void **state)
{
    write_db(BH_DOOR_INTERNAL, "a", 1, 0);
    assert_true(bh_map_needs_sync(&store->map));
    must(bh_file_sync(db));
    assert_false(bh_map_needs_sync(&store->map));
    assert_true(db->synced);
}

/* --- swap --- */

/* Files of a generation, one block of a byte. */
static void make_generation(uint64_t generation, int byte, enum bh_block_state s)
{
    char name[32], block[BLOCK];
    struct bh_map map;
    must(bh_store_make_generation(disk, generation, ERR));
    memset(block, byte, sizeof block);
    snprintf(name, sizeof name, "state/db.%d", (int)generation);
    put_file(name, block, sizeof block);
    snprintf(name, sizeof name, "map.%d", (int)generation);
    must(bh_map_open(&map, disk, name, true, ERR));
    must(bh_map_set(&map, 0, 1, s));
    bh_map_close(&map);
}

static void test_swap_changes_the_content_under_handles(void **state)
{
    char byte;
    write_blocks(BH_DOOR_INTERNAL, 0, 5, 'a');
    make_generation(2, 'b', BH_BLOCK_CLEAN);
    must(bh_store_swap(store, 2, NULL, ERR));
    assert_int_equal(bh_file_size(db), BLOCK);
    must(bh_file_read(db, &byte, 1, 17, NULL));
    assert_int_equal(byte, 'b');
    assert_false(bh_store_is_dirty(store));
    assert_false(is_there("state/db.1"));
    assert_false(is_there("state/map.1"));
    write_db(BH_DOOR_INTERNAL, "c", 1, 0);
    reopen_store();
    assert_int_equal(bh_store_dirty_bytes(store), BLOCK);
}

static void test_a_swap_that_fails_changes_nothing(void **state)
{
    write_blocks(BH_DOOR_INTERNAL, 0, 5, 'a');
    must_fail(bh_store_swap(store, 2, NULL, ERR), ENOENT);
    must_say("db.2");
    assert_int_equal(bh_file_size(db), 5 * BLOCK);
    assert_int_equal(bh_store_dirty_bytes(store), 5 * BLOCK);
    assert_true(is_there("state/db.1"));
}

static atomic_int sync_failed;
static atomic_bool sync_enough;

static void *sync_all_the_time(void *arg)
{
    while (!sync_enough) {
        int rc = bh_file_sync(db);
        if (rc)
            sync_failed = rc;
    }
    return arg;
}

/* A client's fsync needs no lock and can come at any time. */
static void test_sync_beside_swaps(void **state)
{
    pthread_t thread;
    sync_failed = 0;
    sync_enough = false;
    for (uint64_t g = 2; g < 40; g++)
        make_generation(g, (int)g, BH_BLOCK_CLEAN);
    must(pthread_create(&thread, NULL, sync_all_the_time, NULL));
    for (uint64_t g = 2; g < 40; g++) {
        for (int i = 0; i < 20; i++) { /* the map changes each time, and wants to be synced */
            write_db(BH_DOOR_INTERNAL, "x", 1, (uint64_t)i * BLOCK);
            if (i % 5 == 0)
                usleep(100);
        }
        must(bh_store_swap(store, g, NULL, ERR));
    }
    sync_enough = true;
    must(pthread_join(thread, NULL));
    must(sync_failed);
    assert_true(store->map.synced <= store->map.changes);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup, store_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_kinds_of_names),
        TEST(test_create_and_lookup),
        TEST(test_the_database_cannot_be_unlinked),
        TEST(test_an_unlinked_file_lives_while_it_is_used),
        TEST(test_each_begins_with_the_database_and_can_be_ended),
        TEST(test_leftovers_are_removed_at_open),
        TEST(test_a_missing_generation_is_named),
        TEST(test_a_journal_begins_with_its_magic),
        TEST(test_a_cut_journal_has_no_magic),
        TEST(test_a_journal_is_recognised_at_open),
        TEST(test_reading_beyond_the_end),
        TEST(test_impossible_offsets_are_refused),
        TEST(test_writes_dirty_their_blocks),
        TEST(test_dirt_outlives_a_crash),
        TEST(test_truncation_forgets_blocks_and_growth_is_zero),
        TEST(test_a_shortened_database_is_a_change),
        TEST(test_a_block_cut_in_its_middle_is_a_change),
        TEST(test_all_dirty),
        TEST(test_no_data_is_written_that_the_map_does_not_know),
        TEST(test_sync_settles_the_map),
        TEST(test_swap_changes_the_content_under_handles),
        TEST(test_a_swap_that_fails_changes_nothing),
        TEST(test_sync_beside_swaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
