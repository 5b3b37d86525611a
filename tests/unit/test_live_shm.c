/* The wal-index between connections of this process and clients, whose pages an array stands for.
 */
#include "live_store.h"

#include "live_remote.h"
#include "live/vfs.h"

static struct bh_file *file;
static struct bh_shm *shm;
static struct bh_live_hooks hooks;

static int shm_setup(void **state)
{
    if (store_setup(state))
        return -1;
    must(bh_store_shm(store, &file));
    shm = file->shm;
    remote_reset();
    hooks = remote_hooks(&store);
    return 0;
}

static int shm_teardown(void **state)
{
    bh_file_unref(file);
    return store_teardown(state);
}

static volatile uint32_t *region(unsigned i, bool extend)
{
    volatile void *p = &hooks;
    must(bh_shm_region(shm, &hooks, i, extend, &p));
    return p;
}

/* A client comes as fs/ has it: its lock, then what it must wait for, then it maps the file. */
static void client_comes(void)
{
    must(remote_dms(file, 1, BH_LOCK_READ));
    int rc = bh_shm_attach(shm);
    if (rc == EAGAIN) {
        bh_shm_forget_pages(shm, &hooks);
        rc = bh_shm_attach(shm);
    }
    must(rc);
    must(remote_map(file));
}

static void client_goes(void)
{
    remote.mapped--;
    must(remote_dms(file, 1, BH_LOCK_NONE));
    bh_shm_detach(shm, &hooks);
}

static void pull(void)
{
    must(bh_shm_pull(shm, &hooks, true));
}

static void push(unsigned held)
{
    remote.pushed_count = 0;
    must(bh_shm_push(shm, &hooks, held));
}

static uint32_t in_file(size_t word)
{
    uint32_t value = 0;
    must(bh_pread_full(file->disk.fd, &value, sizeof value, word * 4, NULL));
    return value;
}

/* --- local --- */

static void test_regions_are_made_on_demand_and_stay(void **state)
{
    assert_false(bh_shm_is_used(shm));
    assert_null(region(0, false));
    assert_false(bh_shm_is_used(shm));
    volatile uint32_t *first = region(0, true);
    assert_non_null(first);
    assert_true(bh_shm_is_used(shm));
    assert_int_equal(bh_file_size(file), BH_SHM_REGION);
    for (size_t w = 0; w < WORDS; w++)
        assert_int_equal(first[w], 0);
    first[77] = 5;
    assert_null(region(1, false));
    volatile uint32_t *fourth = region(3, true);
    assert_int_equal(bh_file_size(file), 4 * BH_SHM_REGION);
    fourth[WORDS - 1] = 1;
    assert_ptr_equal(region(0, false), first);
    assert_ptr_equal(region(3, true), fourth);
    assert_int_equal(first[77], 5);
    assert_int_equal(remote.pulls + remote.pushes, 0);
    assert_int_equal(remote.told, 2); /* it grew */
}

static void test_there_is_a_largest_region(void **state)
{
    volatile void *p = &hooks;
    must_fail(bh_shm_region(shm, &hooks, BH_SHM_REGIONS_MAX, true, &p), EFBIG);
    assert_null(p);
    assert_non_null(region(BH_SHM_REGIONS_MAX - 1, true));
}

static void test_without_a_mount_there_is_nobody_to_tell(void **state)
{
    volatile void *p;
    struct bh_live_hooks none = {0};
    must(bh_shm_region(shm, &none, 0, true, &p));
    must(bh_shm_pull(shm, &none, true));
    must(bh_shm_push(shm, &none, 255));
    must(bh_shm_reset(shm, &none));
    bh_shm_forget_pages(shm, &none);
    bh_shm_detach(shm, &none);
    assert_false(bh_shm_is_remote(shm));
}

static void test_pull_and_push_do_nothing_while_local(void **state)
{
    volatile uint32_t *r = region(0, true);
    r[3] = 9;
    pull();
    push(255);
    assert_int_equal(remote.pulls + remote.pushes, 0);
    assert_int_equal(r[3], 9);
}

/* --- clients come and go --- */

static void test_a_client_begins_with_what_connections_had(void **state)
{
    volatile uint32_t *r = region(1, true), *first = region(0, false);
    first[0] = 11;
    r[WORDS - 1] = 12;
    client_comes();
    assert_true(bh_shm_is_remote(shm));
    assert_int_equal(remote.regions, 2);
    assert_int_equal(remote.pages[0], 11);
    assert_int_equal(remote.pages[2 * WORDS - 1], 12);
    must(bh_shm_attach(shm)); /* the second client */
}

static void test_connections_go_on_with_what_clients_left(void **state)
{
    volatile uint32_t *r = region(0, true);
    r[5] = 1;
    client_comes();
    remote.pages[5] = 2; /* and no connection took a lock meanwhile */
    remote.pages[6] = 3;
    client_goes();
    assert_false(bh_shm_is_remote(shm));
    assert_int_equal(remote.releases, 1);
    assert_int_equal(r[5], 2);
    assert_int_equal(r[6], 3);
    r[5] = 4;
    client_comes();
    assert_int_equal(remote.pages[5], 4);
    assert_int_equal(remote.pages[6], 3);
}

static void test_regions_that_only_clients_made_are_found_later(void **state)
{
    for (int gone = 0; gone < 2; gone++) {
        unsigned mine = gone ? 3 : 1;
        client_comes();
        must(remote_extend(file, mine + 1));
        remote.pages[mine * WORDS + 7] = 70 + mine;
        if (gone)
            client_goes();
        volatile uint32_t *r = region(mine, false);
        assert_non_null(r);
        assert_int_equal(r[7], 70 + mine);
        assert_null(region(mine + 1, false));
    }
}

static void test_while_a_client_is_there_it_stays_remote(void **state)
{
    region(0, true);
    client_comes();
    must(remote_dms(file, 2, BH_LOCK_READ));
    client_goes();
    assert_true(bh_shm_is_remote(shm));
    must(remote_dms(file, 2, BH_LOCK_NONE));
    bh_shm_detach(shm, &hooks);
    assert_false(bh_shm_is_remote(shm));
    bh_shm_detach(shm, &hooks); /* nothing to do */
    assert_int_equal(remote.releases, 1);
}

static void client_between(void *arg, struct bh_file *f)
{
    remote_release(arg, f);
    if (remote_dms(file, 2, BH_LOCK_READ) || bh_shm_attach(shm) || remote_map(file))
        abort();
}

static void test_a_client_that_comes_during_the_detach_keeps_it_remote(void **state)
{
    region(0, true)[9] = 1;
    client_comes();
    hooks.index_release = client_between;
    client_goes();
    assert_true(bh_shm_is_remote(shm));
    remote.pages[9] = 2;
    pull();
    assert_int_equal(region(0, false)[9], 2);
}

static void test_pages_read_while_local_are_forgotten_before_the_first_client(void **state)
{
    volatile uint32_t *r = region(0, true);
    r[1] = 1;
    must(bh_shm_before_read(shm)); /* somebody looks, without a lock */
    assert_int_equal(in_file(1), 1);
    r[1] = 2;
    unsigned told = remote.told;
    must_fail(bh_shm_attach(shm), EAGAIN);
    assert_false(bh_shm_is_remote(shm));
    bh_shm_forget_pages(shm, &hooks);
    assert_int_equal(remote.told, told + 1);
    must(bh_shm_before_read(shm)); /* again, between the two */
    must_fail(bh_shm_attach(shm), EAGAIN);
    bh_shm_forget_pages(shm, &hooks);
    must(bh_shm_attach(shm));
    assert_int_equal(in_file(1), 2);
}

static void test_a_read_while_remote_changes_nothing(void **state)
{
    region(0, true)[1] = 1;
    client_comes();
    uint32_t theirs = 8;
    must(bh_pwrite_full(file->disk.fd, &theirs, sizeof theirs, 4)); /* written back */
    region(0, false)[1] = 7;
    must(bh_shm_before_read(shm));
    assert_int_equal(in_file(1), 8);
}

/* --- pull and push --- */

static void test_pull_takes_what_changed_but_for_what_was_changed_here(void **state)
{
    volatile uint32_t *r = region(0, true);
    client_comes();
    remote.pages[10] = 1;
    remote.pages[11] = 2;
    remote.pages[BH_SHM_REGION_WORDS - 1] = 3;
    r[11] = 99; /* not told yet */
    r[12] = 98;
    pull();
    assert_int_equal(r[10], 1);
    assert_int_equal(r[11], 99);
    assert_int_equal(r[12], 98);
    assert_int_equal(r[WORDS - 1], 3);
    pull();
    assert_int_equal(r[11], 99);
    push(1);
    assert_int_equal(remote.pages[11], 99);
    assert_int_equal(remote.pages[12], 98);
    remote.pages[11] = 4;
    pull();
    assert_int_equal(r[11], 4);
}

/* Bits of held, and the words in the order in which they must arrive. SQLite's wal.c: 12 words of
 * header, the same again, backfill, five marks, 2 words for locks, the backfill attempted. */
enum { W = 1, C = 2, R = 4, READ0 = 8 };

static void change_all(unsigned regions)
{
    for (unsigned i = 0; i < regions; i++) {
        volatile uint32_t *r = region(i, true);
        for (size_t w = 0; w < WORDS; w++)
            r[w]++;
    }
}

static size_t expect_range(size_t i, size_t from, size_t end)
{
    for (size_t w = from; w < end; w++, i++) {
        assert_true(i < remote.pushed_count);
        assert_int_equal(remote.pushed[i].at, w);
        assert_int_equal(remote.pushed[i].value, remote.pages[w]);
    }
    return i;
}

static void test_a_writer_tells_the_header_last_and_its_first_copy_at_the_end(void **state)
{
    change_all(2);
    client_comes();
    change_all(2);
    push(W | READ0 << 1 | READ0 << 2 | READ0 << 3 | READ0 << 4); /* a restart of the log */
    size_t i = expect_range(0, 34, 2 * WORDS);
    i = expect_range(i, 12, 24);
    i = expect_range(i, 0, 12);
    i = expect_range(i, 24, 25);
    i = expect_range(i, 32, 33);
    i = expect_range(i, 26, 30);
    assert_int_equal(i, remote.pushed_count);
    push(255); /* what is left: the mark of reader 0, words that only recovery writes */
    assert_in_range(remote.pushed_count, 1, 4);
    push(255);
    assert_int_equal(remote.pushed_count, 0);
}

static void must_push(unsigned held, size_t from, size_t end, size_t from2, size_t end2)
{
    change_all(1);
    push(held);
    size_t i = expect_range(0, from, end);
    i = expect_range(i, from2, end2);
    assert_int_equal(i, remote.pushed_count);
}

static void test_others_tell_only_the_words_of_their_locks(void **state)
{
    change_all(1);
    client_comes();
    must_push(0, 0, 0, 0, 0);
    must_push(C, 24, 25, 32, 33);
    for (size_t i = 0; i < 5; i++)
        must_push((unsigned)READ0 << i, 25 + i, 26 + i, 0, 0);
    must_push(READ0 | READ0 << 3, 25, 26, 28, 29);
    must_push(R, 24, 34, 0, 0);
}

/* The database's file may not be told of yet where the checkpointer has not let go of its lock. */
static void test_a_writer_does_not_tell_of_another_ones_checkpoint(void **state)
{
    volatile uint32_t *r = region(0, true);
    client_comes();
    r[24] = 55; /* by a connection that holds CKPT */
    r[0] = 1;
    push(W);
    assert_int_equal(remote.pages[0], 1);
    assert_int_equal(remote.pages[24], 0);
    push(C);
    assert_int_equal(remote.pages[24], 55);
}

static void test_many_changes_arrive_in_several_calls(void **state)
{
    change_all(3);
    client_comes();
    change_all(3);
    push(W);
    assert_true(remote.pushes > 5);
    expect_range(0, 34, 3 * WORDS);
    assert_int_equal(remote.pushed[remote.pushed_count - 1].at < 34, 1);
}

/* --- growth --- */

static void test_growth_while_clients_are_there_is_the_clients_too(void **state)
{
    region(0, true);
    client_comes();
    volatile uint32_t *r = region(2, true);
    assert_int_equal(remote.regions, 3);
    assert_int_equal(bh_file_size(file), 3 * BH_SHM_REGION);
    r[4] = 6;
    push(W);
    assert_int_equal(remote.pages[2 * WORDS + 4], 6);
}

static void test_growth_that_clients_cannot_have_fails_and_may_be_tried_again(void **state)
{
    volatile void *p = &hooks;
    region(0, true);
    client_comes();
    remote.pull_rc = ENOSPC;
    must_fail(bh_shm_region(shm, &hooks, 1, true, &p), ENOSPC);
    assert_null(p);
    remote.pull_rc = 0;
    must(bh_shm_region(shm, &hooks, 1, true, &p));
    assert_non_null(p);
    pull();
    ((volatile uint32_t *)p)[5] = 5;
    push(W);
    assert_int_equal(remote.pages[WORDS + 5], 5);
}

/* --- reset --- */

static void test_reset_voids_the_header_and_no_more(void **state)
{
    change_all(1);
    must(bh_shm_reset(shm, &hooks));
    for (size_t w = 0; w < WORDS; w++)
        assert_int_equal(region(0, false)[w], w >= 24);
    client_comes();
    for (size_t w = 0; w < WORDS; w++)
        remote.pages[w] = 5; /* unknown here */
    must(bh_shm_reset(shm, &hooks));
    for (size_t w = 0; w < WORDS; w++)
        assert_int_equal(remote.pages[w], w < 24 ? 0 : 5);
}

static void test_reset_of_what_nobody_used(void **state)
{
    must(bh_shm_reset(shm, &hooks));
    client_comes();
    must(remote_extend(file, 1));
    remote.pages[3] = 7; /* clients have an index, no connection has looked at it */
    must(bh_shm_reset(shm, &hooks));
    assert_int_equal(remote.pages[3], 0);
}

static void test_reset_that_does_not_arrive_is_told(void **state)
{
    change_all(1);
    client_comes();
    remote.pull_rc = EIO;
    must_fail(bh_shm_reset(shm, &hooks), EIO);
    remote.pull_rc = 0;
    remote.push_rc = ENXIO;
    must_fail(bh_shm_reset(shm, &hooks), ENXIO);
}

/* --- failures --- */

static void test_a_pull_that_fails_changes_nothing(void **state)
{
    volatile uint32_t *r = region(0, true);
    client_comes();
    remote.pages[3] = 3;
    remote.pull_rc = EIO;
    must_fail(bh_shm_pull(shm, &hooks, true), EIO);
    assert_int_equal(r[3], 0);
    remote.pull_rc = 0;
    pull();
    assert_int_equal(r[3], 3);
}

/* Otherwise the next pull would take a commit back that is in the log. */
static void test_a_push_that_fails_is_made_up_for_by_the_next(void **state)
{
    volatile uint32_t *r = region(0, true);
    client_comes();
    r[2] = 22; /* the header of a commit */
    r[14] = 22;
    remote.push_rc = EIO;
    must_fail(bh_shm_push(shm, &hooks, W), EIO);
    remote.push_rc = 0;
    pull();
    assert_int_equal(r[2], 22);
    assert_int_equal(r[14], 22);
    push(W);
    assert_int_equal(remote.pages[2], 22);
    assert_int_equal(remote.pages[14], 22);
}

static void test_a_push_that_fails_midway_is_made_up_for_by_the_next(void **state)
{
    change_all(3);
    client_comes();
    for (int n = 1; n < 6; n++) {
        change_all(3);
        uint32_t now = region(0, false)[0]; /* and everywhere else */
        remote.good_pushes = n;
        must_fail(bh_shm_push(shm, &hooks, 255), EIO);
        remote.good_pushes = 0;
        pull();
        push(255);
        for (size_t w = 0; w < 3 * WORDS; w++)
            assert_int_equal(remote.pages[w], w >= 30 && w < 34 && w != 32 ? remote.pages[w] : now);
    }
}

/* --- a model: both sides change words, each under locks --- */

static void client_turn(uint32_t *truth)
{
    for (unsigned i = 0; i < 30; i++) {
        size_t w = any(any(2) ? 40 : 2 * WORDS);
        remote.pages[w] = truth[w] = any(1000000);
    }
}

static void daemon_turn(uint32_t *truth)
{
    pull();
    for (size_t w = 0; w < 2 * WORDS; w++)
        assert_int_equal(region((unsigned)(w / WORDS), false)[w % WORDS], truth[w]);
    for (unsigned i = 0; i < 30; i++) {
        size_t w = any(any(2) ? 40 : 2 * WORDS);
        region((unsigned)(w / WORDS), false)[w % WORDS] = truth[w] = any(1000000);
    }
    push(255);
}

static void test_turns_of_both_sides(void **state)
{
    static uint32_t truth[2 * WORDS];
    memset(truth, 0, sizeof truth);
    region(1, true);
    for (int i = 0; i < 400; i++) {
        bool is_remote = bh_shm_is_remote(shm);
        if (any(10) == 0)
            is_remote ? client_goes() : client_comes();
        else if (is_remote && any(2))
            client_turn(truth);
        else
            daemon_turn(truth);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, shm_setup, shm_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_regions_are_made_on_demand_and_stay),
        TEST(test_there_is_a_largest_region),
        TEST(test_without_a_mount_there_is_nobody_to_tell),
        TEST(test_pull_and_push_do_nothing_while_local),
        TEST(test_a_client_begins_with_what_connections_had),
        TEST(test_connections_go_on_with_what_clients_left),
        TEST(test_regions_that_only_clients_made_are_found_later),
        TEST(test_while_a_client_is_there_it_stays_remote),
        TEST(test_a_client_that_comes_during_the_detach_keeps_it_remote),
        TEST(test_pages_read_while_local_are_forgotten_before_the_first_client),
        TEST(test_a_read_while_remote_changes_nothing),
        TEST(test_pull_takes_what_changed_but_for_what_was_changed_here),
        TEST(test_a_writer_tells_the_header_last_and_its_first_copy_at_the_end),
        TEST(test_others_tell_only_the_words_of_their_locks),
        TEST(test_a_writer_does_not_tell_of_another_ones_checkpoint),
        TEST(test_many_changes_arrive_in_several_calls),
        TEST(test_growth_while_clients_are_there_is_the_clients_too),
        TEST(test_growth_that_clients_cannot_have_fails_and_may_be_tried_again),
        TEST(test_reset_voids_the_header_and_no_more),
        TEST(test_reset_of_what_nobody_used),
        TEST(test_reset_that_does_not_arrive_is_told),
        TEST(test_a_pull_that_fails_changes_nothing),
        TEST(test_a_push_that_fails_is_made_up_for_by_the_next),
        TEST(test_a_push_that_fails_midway_is_made_up_for_by_the_next),
        TEST(test_turns_of_both_sides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
