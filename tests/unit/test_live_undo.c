/* The undo log: what a client without a journal overwrote comes back when it dies in the middle. */
#include "live_store.h"

/* The old content of the database, to be compared with. */
static unsigned char *old;
static size_t old_size;

static void begin_with(uint64_t blocks, size_t tail)
{
    size_t size = blocks * BLOCK + tail;
    unsigned char *data = malloc(size + 1);
    assert_non_null(data);
    fill_random(data, size);
    if (size > 0)
        write_db(BH_DOOR_INTERNAL, data, size, 0);
    all_clean();
    old = data;
    old_size = size;
}

static int undo_teardown(void **state)
{
    free(old);
    old = NULL;
    return store_teardown(state);
}

static void must_be_old(void)
{
    must_hold("state/db.1", old, old_size);
    assert_false(bh_store_undo_pending(store));
}

struct told {
    unsigned char block[64];
    uint64_t beyond;
};

static void tell(void *arg, uint64_t offset, uint64_t len)
{
    struct told *t = arg;
    for (uint64_t b = offset / BLOCK; b * BLOCK < offset + len; b++)
        if (b < 64)
            t->block[b] = 1;
        else
            t->beyond++;
}

static void test_play_puts_writes_back(void **state)
{
    struct told told = {0};
    begin_with(10, 100);
    write_blocks(BH_DOOR_CLIENT, 2, 3, 'x');
    write_db(BH_DOOR_CLIENT, "y", 1, 2 * BLOCK); /* again: the first old content counts */
    write_db(BH_DOOR_CLIENT, "tail", 4, 10 * BLOCK + 98);
    assert_true(bh_store_undo_pending(store));
    must(bh_store_undo_play(store, tell, &told));
    must_be_old();
    assert_true(told.block[2] && told.block[3] && told.block[4] && told.block[10]);
    assert_false(told.block[0] || told.block[1] || told.block[11]); /* one range that covers all */
}

static void test_play_after_a_crash(void **state)
{
    begin_with(10, 0);
    write_blocks(BH_DOOR_CLIENT, 8, 5, 'x'); /* over the end, too */
    reopen_store();
    assert_true(bh_store_undo_pending(store));
    must(bh_store_undo_play(store, NULL, NULL));
    must_be_old();
    assert_int_equal(block_state(8), BH_BLOCK_DIRTY);
    reopen_store();
    assert_false(bh_store_undo_pending(store));
}

static void test_growth_is_cut_off_again(void **state)
{
    struct told told = {0};
    begin_with(2, 0);
    write_blocks(BH_DOOR_CLIENT, 2, 6, 'x');
    must(bh_store_undo_play(store, tell, &told));
    must_be_old();
    assert_true(told.block[2] && told.block[7]);
    assert_int_equal(block_state(5), BH_BLOCK_ZERO);
}

static void test_an_empty_database_is_empty_again(void **state)
{
    begin_with(0, 0);
    write_blocks(BH_DOOR_CLIENT, 0, 3, 'x');
    reopen_store();
    must(bh_store_undo_play(store, NULL, NULL));
    must_be_old();
}

static void test_a_large_truncation_comes_back(void **state)
{
    begin_with(3000, 17); /* 12 MiB */
    must(bh_file_truncate(db, BH_DOOR_CLIENT, BLOCK + 5));
    write_blocks(BH_DOOR_CLIENT, 1, 50, 'x');
    must(bh_file_truncate(db, BH_DOOR_CLIENT, 0));
    reopen_store();
    must(bh_store_undo_play(store, NULL, NULL));
    must_be_old();
}

static void test_what_was_forgotten_stays(void **state)
{
    char byte;
    begin_with(4, 0);
    write_blocks(BH_DOOR_CLIENT, 1, 1, 'x');
    must(bh_store_undo_forget(store)); /* committed */
    assert_false(bh_store_undo_pending(store));
    must(bh_store_undo_play(store, NULL, NULL));
    must(bh_file_read(db, &byte, 1, BLOCK, NULL));
    assert_int_equal(byte, 'x');
    reopen_store();
    assert_false(bh_store_undo_pending(store));
}

static void test_each_transaction_has_its_own_log(void **state)
{
    begin_with(4, 0);
    for (int i = 0; i < 5; i++) {
        write_blocks(BH_DOOR_CLIENT, 1, 5, 'a' + i);
        must(bh_store_undo_forget(store));
    }
    size_t size;
    unsigned char *committed = get_file("state/db.1", &size);
    write_blocks(BH_DOOR_CLIENT, 0, 9, 'z');
    must(bh_store_undo_play(store, NULL, NULL));
    must_hold("state/db.1", committed, size);
    free(committed);
}

static void test_who_has_a_journal_needs_no_log(void **state)
{
    begin_with(4, 0);
    struct bh_file *j = create_file(BH_JOURNAL_NAME);
    must(bh_file_write(j, BH_DOOR_CLIENT, magic, 8, 0));
    write_blocks(BH_DOOR_CLIENT, 1, 2, 'x');
    must(bh_file_truncate(db, BH_DOOR_CLIENT, BLOCK));
    assert_false(bh_store_undo_pending(store));
    must(bh_file_truncate(j, BH_DOOR_CLIENT, 0));
    write_blocks(BH_DOOR_CLIENT, 0, 1, 'x');
    assert_true(bh_store_undo_pending(store));
    bh_file_unref(j);
}

static void test_the_daemon_needs_no_log(void **state)
{
    begin_with(4, 0);
    write_blocks(BH_DOOR_INTERNAL, 1, 2, 'x');
    assert_false(bh_store_undo_pending(store));
}

/* The crash came while a record was written: its block was not overwritten yet. */
static void test_a_torn_tail_is_passed_over(void **state)
{
    begin_with(8, 0);
    write_blocks(BH_DOOR_CLIENT, 3, 2, 'x');
    size_t size;
    unsigned char *log = get_file("state/undo", &size);
    write_blocks(BH_DOOR_CLIENT, 5, 1,
                 'y'); /* its record is torn, so give its old content back by hand */
    bh_store_close(store);
    int fd = open(at("state/db.1"), O_WRONLY | O_CLOEXEC);
    must(bh_pwrite_full(fd, old + 5 * BLOCK, BLOCK, 5 * BLOCK));
    close(fd);
    assert_int_equal(truncate(at("state/undo"), (off_t)size + 1000), 0);
    free(log);
    open_store(1);
    must(bh_store_undo_play(store, NULL, NULL));
    must_be_old();
}

static void test_a_torn_head_means_nothing_was_overwritten(void **state)
{
    begin_with(4, 0);
    for (size_t cut = 0; cut < 24; cut += 5) {
        write_blocks(BH_DOOR_CLIENT, 1, 1, 'x');
        bh_store_close(store);
        int fd = open(at("state/db.1"), O_WRONLY | O_CLOEXEC);
        must(bh_pwrite_full(fd, old, old_size, 0));
        close(fd);
        assert_int_equal(truncate(at("state/undo"), (off_t)cut), 0);
        open_store(1);
        must(bh_store_undo_play(store, NULL, NULL));
        must_be_old();
    }
}

static void test_a_damaged_record_ends_the_log(void **state)
{
    begin_with(4, 0);
    write_blocks(BH_DOOR_CLIENT, 1, 2, 'x');
    bh_store_close(store);
    int fd = open(at("state/undo"), O_WRONLY | O_CLOEXEC);
    must(bh_pwrite_full(fd, "?", 1, 24 + 24 + BLOCK + 24 + 100)); /* in the second block's bytes */
    close(fd);
    open_store(1);
    must(bh_store_undo_play(store, NULL, NULL));
    size_t size;
    unsigned char *now = get_file("state/db.1", &size);
    assert_memory_equal(now + BLOCK, old + BLOCK, BLOCK);
    assert_int_equal(now[2 * BLOCK], 'x'); /* not damage from the log */
    free(now);
}

static void test_a_log_that_cannot_be_written_refuses_the_write(void **state)
{
    begin_with(8, 0);
    write_blocks(BH_DOOR_CLIENT, 1, 1, 'x');
    int saved = break_writes(store->undo.file.fd);
    must_fail(bh_file_write(db, BH_DOOR_CLIENT, "x", 1, 5 * BLOCK), EBADF);
    must_fail(bh_file_truncate(db, BH_DOOR_CLIENT, 0), EBADF);
    must(bh_file_write(db, BH_DOOR_CLIENT, "x", 1, BLOCK)); /* saved already */
    mend_writes(store->undo.file.fd, saved);
    must(bh_store_undo_play(store, NULL, NULL));
    must_be_old();
}

/* Hooks are called with no mutex held (vfs.h): they may ask the store. */
static atomic_bool asked;

static void *ask(void *arg)
{
    bh_store_dirty_bytes(store);
    asked = true;
    return arg;
}

static void ask_from_another_thread(void *arg, uint64_t offset, uint64_t len)
{
    pthread_t *thread = arg;
    if (!*thread && pthread_create(thread, NULL, ask, NULL) == 0)
        for (int i = 0; i < 200 && !asked; i++)
            usleep(10000);
}

static void test_play_tells_with_no_mutex_held(void **state)
{
    pthread_t thread = 0;
    asked = false;
    begin_with(8, 0);
    write_blocks(BH_DOOR_CLIENT, 1, 2, 'x');
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    must(bh_store_undo_play(store, ask_from_another_thread, &thread));
    clock_gettime(CLOCK_MONOTONIC, &end);
    must(pthread_join(thread, NULL));
    assert_true(end.tv_sec - begin.tv_sec < 2); /* or the one who asked had to wait for us */
}

static void test_random_transactions(void **state)
{
    for (int round = 0; round < 60; round++) {
        size_t size;
        unsigned char *before = get_file("state/db.1", &size), buf[3 * BLOCK];
        for (unsigned i = 0, n = any(30); i < n; i++) {
            if (any(5)) {
                size_t len = 1 + any(sizeof buf);
                fill_random(buf, 16);
                write_db(BH_DOOR_CLIENT, buf, len, any(100000));
            } else {
                must(bh_file_truncate(db, BH_DOOR_CLIENT, any(120000)));
            }
        }
        if (any(3) == 0) {
            must(bh_store_undo_forget(store)); /* committed: the next begins here */
        } else {
            if (any(2))
                reopen_store();
            must(bh_store_undo_play(store, NULL, NULL));
            must_hold("state/db.1", before, size);
        }
        free(before);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup, undo_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_play_puts_writes_back),
        TEST(test_play_after_a_crash),
        TEST(test_growth_is_cut_off_again),
        TEST(test_an_empty_database_is_empty_again),
        TEST(test_a_large_truncation_comes_back),
        TEST(test_what_was_forgotten_stays),
        TEST(test_each_transaction_has_its_own_log),
        TEST(test_who_has_a_journal_needs_no_log),
        TEST(test_the_daemon_needs_no_log),
        TEST(test_a_torn_tail_is_passed_over),
        TEST(test_a_torn_head_means_nothing_was_overwritten),
        TEST(test_a_damaged_record_ends_the_log),
        TEST(test_a_log_that_cannot_be_written_refuses_the_write),
        TEST(test_play_tells_with_no_mutex_held),
        TEST(test_random_transactions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
