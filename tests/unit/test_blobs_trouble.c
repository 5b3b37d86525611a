/* Blobs when the bucket fails, is away, or refuses; and when the disk is full. */
#include "blobs_fixture.h"

#include <sys/mount.h>

#include "store/blobs_private.h"

static uint8_t hash[BH_SHA256_LEN];

static void test_wait_ends_with_the_error_after_some_tries(void **state)
{
    set_rules("put:etimedout;head:etimedout");
    open_blobs(false);
    publish(1, 5000, hash);
    uint64_t begin = requests(BH_OP_PUT);
    must_fail_saying(bh_blobs_wait(blobs, 3, NULL, ERR), ETIMEDOUT);
    must_say("injected fault: put of");
    must_say(object(hash));
    assert_int_equal(requests(BH_OP_PUT), begin); /* nothing came through */
    assert_int_equal(stats().pending, 1);
    assert_string_equal(stats().error, test_said);
    assert_int_equal(bh_blobs_state(blobs, hash), BH_BLOB_LOCAL);
    assert_true(log_has("cannot be uploaded and is kept here until it can"));
}

static void test_a_bucket_that_is_away_and_comes_back(void **state)
{
    uint8_t many[50][BH_SHA256_LEN];
    set_rules("*:etimedout");
    open_blobs(false);
    for (unsigned i = 0; i < 50; i++)
        publish(100 + i, 2000, many[i]);
    must_fail(bh_blobs_wait(blobs, 2, NULL, ERR), ETIMEDOUT);
    set_rules("");
    int64_t begin = bh_mono_ms();
    must_store_all(); /* wakes those that pause */
    assert_in_range(bh_mono_ms() - begin, 0, 5000);
    assert_string_equal(stats().error, "");
    for (unsigned i = 0; i < 50; i++)
        must(bh_bucket_head(bucket, object(many[i]), NULL, NULL, ERR));
}

static void *mend_later(void *arg)
{
    (void)arg;
    usleep(300000);
    set_rules("");
    return NULL;
}

static void test_wait_goes_on_when_the_bucket_comes_back(void **state)
{
    pthread_t thread;
    set_rules("*:etimedout");
    open_blobs(false);
    publish(1, 2000, hash);
    assert_int_equal(pthread_create(&thread, NULL, mend_later, NULL), 0);
    must(bh_blobs_wait(blobs, 1000, NULL, ERR));
    pthread_join(thread, NULL);
    assert_int_equal(stats().pending, 0);
}

/* While nothing succeeds one at a time tries: 200 blobs are not 200 threads at a dead server. */
static void test_a_bucket_that_is_away_is_not_stormed(void **state)
{
    uint8_t one[BH_SHA256_LEN];
    options.pause_ms = 200;
    set_rules("*:delay=1ms"); /* counts below it */
    open_blobs(false);
    bh_blobs_stop(blobs, true);
    for (unsigned i = 0; i < 200; i++)
        publish(100 + i, 2000, one);
    set_rules("put:done-but-failed;head:eio"); /* counted below */
    bh_blobs_stop(blobs, false);
    struct bh_call call = {.deadline_ms = bh_mono_ms() + 1500};
    must_fail(bh_blobs_wait(blobs, 100, &call, ERR), ETIMEDOUT);
    assert_in_range(requests(BH_OP_PUT), 1, 20);
    set_rules("");
    must_store_all();
}

static void test_one_bad_key_does_not_hold_the_others_up(void **state)
{
    char rules[200], hex[BH_SHA256_HEX];
    uint8_t good[30][BH_SHA256_LEN];
    no_start = true;
    open_blobs(false);
    publish(1, 2000, hash);
    hex_of(hash, hex);
    for (unsigned i = 0; i < 30; i++)
        publish(100 + i, 2000, good[i]);
    snprintf(rules, sizeof rules, "*:eio:key=*%s", hex);
    set_rules(rules);
    must(bh_blobs_start(blobs, ERR));
    eventually(stats().pending == 1);
    must_fail_saying(bh_blobs_wait(blobs, 3, NULL, ERR), EIO);
    must_say(hex);
    set_rules("");
    must_store_all();
}

static void test_what_cannot_be_repeated_ends_the_wait_at_once(void **state)
{
    options.pause_ms = 30000;
    set_rules("put:eacces");
    open_blobs(false);
    publish(1, 2000, hash);
    eventually(stats().error[0]);
    int64_t begin = bh_mono_ms();
    must_fail(bh_blobs_wait(blobs, 50, NULL, ERR), EACCES);
    set_rules("put:enospc");
    must_fail(bh_blobs_wait(blobs, 50, NULL, ERR), ENOSPC);
    set_rules("");
    must_store_all();
    assert_in_range(bh_mono_ms() - begin, 0, 5000);
}

static void test_wait_honours_its_call(void **state)
{
    atomic_bool cancel = true;
    struct bh_call call = {.cancel = &cancel}, short_call = {.deadline_ms = bh_mono_ms() + 100};
    set_rules("put:delay=60s");
    open_blobs(false);
    publish(1, 2000, hash);
    must_fail(bh_blobs_wait(blobs, 5, &call, ERR), ECANCELED);
    must_fail(bh_blobs_wait(blobs, 5, &short_call, ERR), ETIMEDOUT);
    bh_blobs_stop(blobs, true);
    must_fail(bh_blobs_wait(blobs, 5, NULL, ERR), ECANCELED);
    set_rules("");
    bh_blobs_stop(blobs, false);
    must_store_all();
}

static void test_an_answer_that_was_lost(void **state)
{
    set_rules("put:done-but-failed:first=1");
    open_blobs(false);
    publish(1, 2000, hash);
    must_store_all();
    must_have_blob(hash, 1, 2000);
}

static void test_read_only_uploads_nothing(void **state)
{
    no_start = true;
    open_blobs(false);
    publish(1, 2000, hash);
    close_blobs();
    options.read_only = true;
    no_start = false;
    open_blobs(false);
    assert_int_equal(stats().pending, 1);
    must_fail(bh_blobs_wait(blobs, 1, NULL, ERR), EROFS);
    must_lack(bucket, object(hash));
    must_have_blob(hash, 1, 2000);
}

/* Everything at once on a bad day: all arrives, and only right content. */
static void test_a_bad_day(void **state)
{
    uint8_t many[60][BH_SHA256_LEN];
    set_rules("put:eio:20%;put:done-but-failed:20%;get:cut:20%;get:eio:10%;head:eagain:20%;"
              "multipart:eio:5%");
    open_blobs(false);
    for (unsigned i = 0; i < 60; i++)
        publish(500 + i, i == 30 ? 12 * MIB : 1 + i * 3000, many[i]);
    must(bh_blobs_wait(blobs, 200, NULL, ERR));
    close_blobs();
    for (unsigned i = 0; i < 60; i++)
        assert_int_equal(unlink(at(local('c', many[i]))), 0);
    open_blobs(false);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t size = i == 30 ? 12 * MIB : 1 + i * 3000, offset = size / 3;
        size_t len = size - offset < 5000 ? (size_t)(size - offset) : 5000, got;
        char buf[5000], want[5000];
        struct bh_blob *o = open_blob(many[i], size);
        int rc = EIO;
        for (int tries = 0; rc && tries < 50; tries++)
            rc = bh_blob_read(o, buf, len, offset, &got, NULL, ERR);
        must(rc);
        content(500 + i, offset, want, len);
        assert_memory_equal(buf, want, len);
        bh_blob_close(o);
    }
}

/* --- a full disk --- */

static bool small_disk(void)
{
    if (mount("none", at("state"), "tmpfs", 0, "size=4m,mode=700") == 0)
        return true;
    print_message("no tmpfs can be mounted here: %s\n", strerror(errno));
    return false;
}

static void make_mirror_small(void)
{
    assert_int_equal(mkdir(at("mirror"), 0700), 0);
    if (mount("none", at("mirror"), "tmpfs", 0, "size=256k,mode=700") != 0)
        skip();
}

static void leave_small_disk(void)
{
    close_blobs();
    assert_int_equal(umount(at("state")), 0);
}

static void test_a_full_disk(void **state)
{
    uint8_t cached[3][BH_SHA256_LEN], big[BH_SHA256_LEN];
    struct bh_dfile f;
    if (!small_disk())
        skip();
    put_object(9, 6 * MIB, big);
    open_blobs(false);
    for (unsigned i = 0; i < 3; i++)
        publish(10 + i, MIB, cached[i]);
    must_store_all();
    must_have_blob(big, 9, 6 * MIB); /* from memory */
    assert_true(log_has("is full: what is read is not kept there"));
    assert_int_equal(stats().cached_bytes, 0); /* all was tried */
    char command[128];
    snprintf(command, sizeof command, "! ls %s | grep -q ^t-", at("state"));
    assert_int_equal(system(command), 0);
    uint64_t number = make_data(1, 3 * MIB, &f); /* there is room again */
    must_fail_saying(bh_blobs_publish(blobs, &f, 3 * MIB, 0, false, NULL, NULL, hash, NULL, ERR),
                     ENOSPC);
    must(bh_blobs_publish(blobs, &f, 3 * MIB, number, true, NULL, NULL, hash, NULL, ERR));
    bh_dfile_close(&f);
    bh_data_remove(blobs, number);
    must_store_all();
    assert_true(bh_blobs_make_room(blobs, 3 * MIB / 2)); /* the cached one goes */
    publish(2, 3 * MIB / 2, hash);
    must_have_blob(hash, 2, 3 * MIB / 2);
    must_store_all();
    leave_small_disk();
}

static void fill_disk(struct bh_dfile *f)
{
    char *mib = calloc(1, MIB);
    uint64_t number, end = 0;
    must(bh_data_create(blobs, &number, f, ERR));
    for (size_t n = MIB; n > 0;) {
        if (bh_dfile_write(f, mib, n, end) == 0)
            end += n;
        else
            n /= 2;
    }
    free(mib);
}

/* What cannot be kept is read all the same, whole and in ranges. */
static void test_reading_on_a_full_disk(void **state)
{
    uint8_t small[BH_SHA256_LEN], large[BH_SHA256_LEN], wrong[BH_SHA256_LEN];
    struct bh_dfile f;
    char buf[10];
    size_t got;
    if (!small_disk())
        skip();
    put_object(1, 100, small);
    put_object(2, 64 * MIB + 5, large);
    put_object(4, 5000, wrong);
    put_object(3, 5000, hash);
    must(bh_bucket_copy(bucket, object(wrong), object(hash), NULL, NULL, NULL, ERR));
    open_blobs(false);
    fill_disk(&f);
    must_have_blob(small, 1, 100);
    uint64_t gets = requests(BH_OP_GET);
    must_have_blob(large, 2, 64 * MIB + 5);
    assert_true(requests(BH_OP_GET) - gets <= 66); /* a piece is asked for once */
    struct bh_blob *o = open_blob(large, 64 * MIB + 5);
    must_read(o, 2, 3 * MIB - 100, 200);
    must_read(o, 2, 64 * MIB - 5, 10);
    bh_blob_close(o);
    o = open_blob(hash, 5000);
    must_fail_saying(bh_blob_read(o, buf, 10, 0, &got, NULL, ERR), EIO);
    must_say("is damaged: the SHA-256 of its content is");
    bh_blob_close(o);
    assert_int_equal(bh_dfile_truncate(&f, 0), 0);
    bh_dfile_close(&f);
    usleep(5100000); /* then the disk is tried again */
    must_have_blob(small, 1, 100);
    assert_true(is_there(local('c', small)));
    leave_small_disk();
}

/* Nor what is here of a large blob asked for again. */
static void test_parts_are_read_on_a_full_disk(void **state)
{
    uint64_t size = 16 * MIB;
    put_object(2, size, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, size);
    must_read(o, 2, 5 * MIB, MIB);
    bh_blobs_note_full(blobs);
    set_rules("get:eio");
    must_read(o, 2, 5 * MIB, MIB);
    must_read(o, 2, 5 * MIB + 100, 1000);
    bh_blob_close(o);
    o = open_blob(hash, size); /* nor after it was closed */
    must_read(o, 2, 5 * MIB, MIB);
    set_rules("");
    must_read(o, 2, 6 * MIB - 100, 200); /* the rest, and what is missing, is from the bucket */
    must_read(o, 2, 12 * MIB, 200);
    bh_blob_close(o);
}

/* What others fetch into memory does not bring the whole blob. */
static void test_a_whole_blob_is_not_waited_for_in_memory(void **state)
{
    options.read_timeout_ms = 2000;
    put_object(1, 100 * KIB, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 100 * KIB);
    set_rules("get:delay=60s");
    pthread_mutex_lock(&blobs->mutex);
    const struct blobs_fetch *f =
        bh_blobs_fetch(blobs, o->content, FETCH_MEMORY, 0, blobs_units(100 * KIB), true);
    assert_non_null(f);
    pthread_mutex_unlock(&blobs->mutex);
    usleep(300000); /* it hangs */
    set_rules("");
    must_read(o, 1, 0, 100 * KIB);
    assert_true(is_there(local('c', hash)));
    bh_blob_close(o);
}

static void *cancel_later(void *arg)
{
    usleep(1500000);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

/* Who gives up a read that hangs leaves its thread to others. */
static void test_a_fetch_that_hangs_ends_with_its_only_reader(void **state)
{
    uint8_t other[BH_SHA256_LEN];
    char buf[100];
    size_t got;
    atomic_bool cancel = false;
    const struct bh_call call = {.cancel = &cancel};
    pthread_t thread;
    options.parallel = 1;
    options.read_timeout_ms = 20000;
    put_object(1, 100 * KIB, hash);
    put_object(2, 100 * KIB, other);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 100 * KIB);
    set_rules("get:delay=60s");
    assert_int_equal(pthread_create(&thread, NULL, cancel_later, &cancel), 0);
    assert_int_equal(bh_blob_read(o, buf, sizeof buf, 0, &got, &call, ERR), ECANCELED);
    pthread_join(thread, NULL);
    bh_blob_close(o);
    set_rules("");
    int64_t began = bh_mono_ms();
    must_have_blob(other, 2, 100 * KIB);
    assert_true(bh_mono_ms() - began < 10000);
}

static void test_the_cache_gives_way_to_what_is_written(void **state)
{
    uint8_t cached[BH_SHA256_LEN];
    struct bh_dfile f;
    if (!small_disk())
        skip();
    open_blobs(false);
    publish(10, 2 * MIB, cached);
    must_store_all();
    uint64_t number = make_data(1, 3 * MIB / 2, &f);
    must(bh_blobs_publish(blobs, &f, 3 * MIB / 2, 0, false, NULL, NULL, hash, NULL, ERR));
    assert_true(stats().evicted_bytes >= 2 * MIB);
    bh_dfile_close(&f);
    bh_data_remove(blobs, number);
    must_have_blob(hash, 1, 3 * MIB / 2);
    must_have_blob(cached, 10, 2 * MIB);
    leave_small_disk();
}

/* The kernel may say after a failed sync that the next one went well: only an upload makes it so.
 */
static void test_a_failed_sync_is_not_made_up_for_by_another(void **state)
{
    make_mirror_small();
    mirror = "mirror";
    no_start = true;
    open_blobs(false);
    publish(1, 64 * KIB, hash);
    must(bh_blobs_settle(blobs, ERR));
    publish(2, 300 * KIB, hash); /* more than the imitated disk has */
    must_fail_saying(bh_blobs_settle(blobs, ERR), ENOSPC);
    must_say("cannot be synced");
    must_fail_saying(bh_blobs_settle(blobs, ERR), EIO);
    must_say("safe only when they are uploaded");
    must(bh_blobs_start(blobs, ERR));
    must_store_all();
    must(bh_blobs_settle(blobs, ERR));
    assert_true(is_there(local('u', hash))); /* hashed before it is used */
    must_have_blob(hash, 2, 300 * KIB);
    assert_true(is_there(local('c', hash)));
    close_blobs();
    assert_int_equal(umount(at("mirror")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_wait_ends_with_the_error_after_some_tries),
        TEST(test_a_bucket_that_is_away_and_comes_back),
        TEST(test_wait_goes_on_when_the_bucket_comes_back),
        TEST(test_a_bucket_that_is_away_is_not_stormed),
        TEST(test_one_bad_key_does_not_hold_the_others_up),
        TEST(test_what_cannot_be_repeated_ends_the_wait_at_once),
        TEST(test_wait_honours_its_call),
        TEST(test_an_answer_that_was_lost),
        TEST(test_read_only_uploads_nothing),
        TEST(test_a_bad_day),
        TEST(test_a_full_disk),
        TEST(test_reading_on_a_full_disk),
        TEST(test_parts_are_read_on_a_full_disk),
        TEST(test_a_whole_blob_is_not_waited_for_in_memory),
        TEST(test_a_fetch_that_hangs_ends_with_its_only_reader),
        TEST(test_the_cache_gives_way_to_what_is_written),
        TEST(test_a_failed_sync_is_not_made_up_for_by_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
