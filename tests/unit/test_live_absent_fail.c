/* An origin that fails, or is not there, and a full disk: who hears of it, and what of the content
 * can be read all the same. */
#include "live_absent.h"

#include <sched.h>
#include <sys/mount.h>

static void test_a_failing_origin(void **state)
{
    static const int errors[] = {ETIMEDOUT, EIO};
    unsigned char buf[BLOCK];
    for (size_t u = 0; u < 3; u++)
        for (int i = 0; i < 2; i++) {
            lay_out((2 << 20) + 50, units[u]);
            uint64_t before = bh_store_absent_bytes(store), at = 300 * BLOCK;
            remote->fail = errors[i];
            remote->fail_calls = 1000;
            must_fail(bh_file_read(db, buf, 10, at, NULL), errors[i]);
            must_fail(bh_store_fetch(store, at, 1, ERR), errors[i]);
            must_say("the test's origin fails");
            must_fail(bh_store_hydrate(store, NULL, ERR), errors[i]);
            must_fail(bh_file_write(db, BH_DOOR_INTERNAL, "x", 1, at + 5), errors[i]);
            must_fail(bh_file_write(db, BH_DOOR_CLIENT, buf, BLOCK, at), errors[i]);
            must_fail(bh_file_truncate(db, BH_DOOR_INTERNAL, at + 5), errors[i]);
            assert_true(calls() >= 6);
            remote->fail_calls = 0;
            assert_int_equal(bh_store_absent_bytes(store), before);
            assert_int_equal(count_absent() * BLOCK, before);
            assert_int_equal(bh_file_size(db), (2 << 20) + 50);
            assert_false(bh_store_is_dirty(store));
            must_be_origins(0, (2 << 20) + 50);
        }
}

static void test_all_who_wait_hear_of_the_error(void **state)
{
    struct reader r[8] = {0};
    lay_out(1 << 20, 16384);
    remote->fail = ETIMEDOUT;
    remote->fail_calls = 1000;
    set_blocked(remote, true);
    for (unsigned i = 0; i < 8; i++) {
        r[i] = (struct reader){.offset = 40 * BLOCK, .len = 1, .rounds = 1};
        start(&r[i]);
    }
    wait_for_calls(remote, 1);
    set_blocked(remote, false);
    for (unsigned i = 0; i < 8; i++) {
        must(pthread_join(r[i].thread, NULL));
        assert_int_equal(r[i].rc, ETIMEDOUT);
    }
    remote->fail_calls = 0;
    must_be_origins(0, 1 << 20);
}

/* One bad block must not make the good ones before it unreadable. */
static void test_what_is_ahead_and_bad_is_nobodys_business(void **state)
{
    lay_out(4 << 20, 4096);
    remote->bad_begin = 500 * BLOCK;
    remote->bad_end = 501 * BLOCK;
    for (uint64_t b = 1; b < 500; b++) {
        int rc;
        int64_t wrong = wrong_byte(b * BLOCK, BLOCK, &rc);
        if (rc)
            fail_msg("block %d cannot be read because block 500 is bad", (int)b);
        assert_int_equal(wrong, -1);
    }
    must_fail(bh_store_fetch(store, 500 * BLOCK, 1, ERR), EIO);
    must_be_origins(501 * BLOCK, BLOCK);
}

static void test_without_an_origin(void **state)
{
    unsigned char byte;
    lay_out(1 << 20, 4096);
    bh_store_set_origin(store, NULL);
    must_fail(bh_file_read(db, &byte, 1, 50 * BLOCK, NULL), EIO);
    must_fail(bh_store_fetch(store, 50 * BLOCK, 1, ERR), EIO);
    must_say("in the bucket only");
    begin_journal();
    write_blocks(BH_DOOR_INTERNAL, 50, 1, 'x');
    read_byte(50 * BLOCK, 'x');
    set_origin_anew();
    must_be_origins(51 * BLOCK, BLOCK);
}

static int small_disk(const char *size, int flags)
{
    char option[40];
    snprintf(option, sizeof option, "size=%s,mode=700", size);
    if (!flags &&
        (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0))
        return 77;
    return mount("small", at("small"), "tmpfs", (unsigned long)flags, option) == 0 ? 0 : 77;
}

static int no_space(void)
{
    const uint64_t size = 2 << 20;
    struct bh_disk *small;
    struct bh_store *s;
    unsigned char buf[BLOCK];
    if (mkdir(at("small"), 0700) != 0 || small_disk("512k", 0))
        return 77;
    child_check(bh_disk_open(&small, at("small"), NULL, 0, ERR) == 0);
    child_check(bh_store_make_generation(small, 1, ERR) == 0);
    child_check(bh_store_open(&s, small, 1, ERR) == 0);
    struct bh_file *f = bh_store_db(s);
    remote = remote_new(1, size, 16384);
    bh_store_set_origin(s, &remote->o);
    child_check(bh_file_truncate(f, BH_DOOR_INTERNAL, size) == 0);
    child_check(bh_store_mark_all(s, BH_BLOCK_ABSENT) == 0);
    child_check(bh_store_hydrate(s, NULL, ERR) == ENOSPC);
    child_check(strstr(test_error.text, at("small")));
    uint64_t absent = bh_store_absent_bytes(s);
    child_check(absent > size - (512 << 10) && absent < size);
    for (uint64_t b = 0; b < size / BLOCK; b++) {
        bool here = !bh_file_is_absent(f, b * BLOCK, BLOCK);
        int rc = bh_file_read(f, buf, BLOCK, b * BLOCK, NULL);
        child_check(rc == 0 || (rc == ENOSPC && !here));
        for (size_t i = 0; rc == 0 && i < BLOCK; i++)
            child_check(buf[i] == content(remote, b * BLOCK + i));
    }
    child_check(small_disk("8m", MS_REMOUNT) == 0);
    child_check(bh_store_hydrate(s, NULL, ERR) == 0);
    for (uint64_t b = 0; b < size / BLOCK; b++) {
        child_check(bh_file_read(f, buf, BLOCK, b * BLOCK, NULL) == 0);
        for (size_t i = 0; i < BLOCK; i++)
            child_check(buf[i] == content(remote, b * BLOCK + i));
    }
    bh_store_close(s);
    bh_disk_close(small);
    bh_origin_unref(&remote->o);
    return 0;
}

static void test_no_space(void **state)
{
    in_child(no_space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_failing_origin),
        TEST(test_all_who_wait_hear_of_the_error),
        TEST(test_what_is_ahead_and_bad_is_nobodys_business),
        TEST(test_without_an_origin),
        TEST(test_no_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
