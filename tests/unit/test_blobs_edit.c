/* Edits of large files: what did not change is copied in the bucket, and what was appended is all
 * that is hashed. */
#include "blobs_fixture.h"

#include "transfer_spy.h"

#define PART (5 * MIB)
#define ALL  (64 * MIB)

static struct bh_dfile file; /* what is edited */
static uint64_t number;
static uint8_t base[BH_SHA256_LEN], edited[BH_SHA256_LEN];

static int setup(void **state)
{
    if (blobs_setup(state))
        return -1;
    spy = (struct spy){.base.ops = &spy_ops, .inner = bucket};
    bucket = &spy.base;
    return 0;
}

/* A data file that is a copy of the blob. */
static void edit(const uint8_t hash[BH_SHA256_LEN], uint64_t size, uint64_t keep)
{
    bool checked;
    struct bh_blob *o = open_blob(hash, size);
    must(bh_data_create(blobs, &number, &file, ERR));
    must(bh_blob_copy(o, &file, keep, &checked, NULL, ERR));
    assert_true(checked);
    bh_blob_close(o);
    bh_data_is_copy(blobs, number, hash, size, keep);
}

static void begin(uint64_t size)
{
    open_blobs(false);
    publish(1, size, base);
    must_store_all();
    edit(base, size, size);
    spy.parts = spy.copies = 0;
    spy.bytes = 0;
}

static void change(uint64_t offset, const char *text)
{
    bh_data_changes(blobs, number, offset, offset + strlen(text));
    assert_int_equal(bh_dfile_write(&file, text, strlen(text), offset), 0);
}

static void resize(uint64_t size)
{
    bh_data_shrinks(blobs, number, size);
    assert_int_equal(bh_dfile_truncate(&file, size), 0);
}

static uint64_t size_now(void)
{
    struct stat st;
    assert_int_equal(fstat(file.fd, &st), 0);
    return (uint64_t)st.st_size;
}

static void hash_of_file(uint8_t hash[BH_SHA256_LEN])
{
    struct bh_sha256 *h = bh_sha256_new();
    char *buf = malloc(MIB);
    uint64_t size = size_now();
    for (uint64_t at = 0; at < size; at += MIB) {
        size_t n = size - at < MIB ? (size_t)(size - at) : MIB;
        assert_int_equal(pread(file.fd, buf, n, (off_t)at), n);
        bh_sha256_update(h, buf, n);
    }
    bh_sha256_raw(h, hash);
    bh_sha256_free(h);
    free(buf);
}

static int take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    bh_sha256_update(arg, data, len);
    return 0;
}

static void must_be_right_in_bucket(const uint8_t hash[BH_SHA256_LEN])
{
    uint8_t is[BH_SHA256_LEN];
    struct bh_sha256 *h = bh_sha256_new();
    must(bh_bucket_get(bucket, object(hash), 0, UINT64_MAX, take, h, NULL, NULL, ERR));
    bh_sha256_raw(h, is);
    bh_sha256_free(h);
    assert_memory_equal(is, hash, sizeof is);
}

/* Publishes it, and what then is in the bucket is right; returns the bytes that were sent. */
static uint64_t finish(bool take_it)
{
    uint8_t want[BH_SHA256_LEN];
    uint64_t sent = stats().uploaded_bytes;
    hash_of_file(want);
    must(
        bh_blobs_publish(blobs, &file, size_now(), number, take_it, NULL, NULL, edited, NULL, ERR));
    assert_memory_equal(edited, want, sizeof want);
    if (take_it) {
        bh_dfile_close(&file);
        bh_data_remove(blobs, number);
    }
    must_store_all();
    must_be_right_in_bucket(edited);
    return stats().uploaded_bytes - sent;
}

static void test_one_byte(void **state)
{
    begin(ALL);
    change(20 * MIB + 7, "x");
    assert_int_equal(finish(true), PART);
    assert_int_equal(spy.bytes, PART);
    assert_int_equal(spy.parts, 1);
    assert_int_equal(spy.copies, 12);
    must_be_right_in_bucket(base);
}

static void test_at_the_border_of_parts(void **state)
{
    begin(ALL);
    change(2 * PART - 1, "xx");
    change(4 * PART, "x");
    change(7 * PART - 1, "x");
    assert_int_equal(finish(true), 4 * PART);
    edit(edited, ALL, ALL); /* and again */
    change(0, "x");
    change(ALL - 1, "x");
    assert_int_equal(finish(true), PART + ALL % PART);
}

static void test_shorter(void **state)
{
    begin(ALL);
    resize(30 * MIB + 3);
    assert_int_equal(finish(true), 0);
    edit(edited, 30 * MIB + 3, 30 * MIB + 3);
    resize(12 * MIB);
    resize(40 * MIB); /* zeros */
    assert_int_equal(finish(true), 30 * MIB);
}

/* Zeros that come and go at the end are no part of the older one. */
static void test_cut_and_written_again(void **state)
{
    begin(ALL);
    resize(22 * MIB);
    change(63 * MIB, "x");
    resize(ALL);
    assert_int_equal(finish(true), ALL - 20 * MIB);
}

static void test_longer(void **state)
{
    begin(ALL);
    change(ALL, "more");
    assert_int_equal(finish(true), ALL % PART + 4);
    edit(edited, ALL + 4, ALL + 4);
    change(100 * MIB, "x");
    assert_int_equal(finish(true), 40 * MIB + 1);
}

/* What was copied from the beginning of a blob only, to be cut. */
static void test_a_part_of_a_local_blob(void **state)
{
    begin(ALL);
    bh_dfile_close(&file);
    bh_data_remove(blobs, number);
    edit(base, ALL, 31 * MIB);
    change(1, "x");
    assert_int_equal(finish(true), PART);
}

static void test_what_is_too_small_is_sent_whole(void **state)
{
    begin(PART + 1);
    change(3, "x");
    assert_int_equal(finish(true), PART + 1);
    assert_int_equal(spy.copies, 0);
}

/* Files that are open are published by copies, again and again. */
static void test_of_an_open_file(void **state)
{
    begin(ALL);
    change(11 * MIB, "x");
    assert_int_equal(finish(false), PART);
    bh_data_is_copy(blobs, number, edited, ALL, ALL);
    change(41 * MIB, "x");
    assert_int_equal(finish(false), PART);
    change(51 * MIB, "x"); /* not told of what was published: both parts differ from that */
    assert_int_equal(finish(true), 2 * PART);
}

static void test_the_older_one_goes_first(void **state)
{
    no_start = true;
    open_blobs(false);
    publish(1, ALL, base);
    edit(base, ALL, ALL);
    change(20 * MIB, "x");
    must(bh_blobs_publish(blobs, &file, ALL, number, true, NULL, NULL, edited, NULL, ERR));
    bh_dfile_close(&file);
    bh_data_remove(blobs, number);
    must(bh_blobs_start(blobs, ERR));
    must_store_all();
    must_be_right_in_bucket(base);
    must_be_right_in_bucket(edited);
    assert_int_equal(stats().uploaded_bytes, ALL + PART);
}

static void test_another_life_knows_nothing(void **state)
{
    begin(ALL);
    change(20 * MIB, "x");
    bh_dfile_close(&file);
    crash();
    must(bh_data_open(blobs, number, &file));
    assert_int_equal(finish(true), ALL);
}

/* --- stores that cannot, or do it wrong --- */

static void test_a_store_without_copies(void **state)
{
    spy.lacking = BH_CAP_PART_COPY;
    begin(ALL);
    change(20 * MIB, "x");
    assert_int_equal(finish(true), ALL);
    assert_int_equal(spy.copies, 0);
}

/* The older one's name is its hash: it does not change. */
static void test_a_store_without_conditions(void **state)
{
    spy.lacking = BH_CAP_PART_COPY_IF_MATCH;
    begin(ALL);
    change(20 * MIB, "x");
    assert_int_equal(finish(true), PART);
}

static void test_the_older_one_is_gone(void **state)
{
    begin(ALL);
    change(20 * MIB, "x");
    must(bh_bucket_delete(spy.inner, object(base), NULL, ERR));
    assert_int_equal(finish(true), ALL);
    assert_int_equal(spy.copies, 0);
}

static void test_the_older_one_goes_meanwhile(void **state)
{
    begin(ALL);
    spy.lose_source = true;
    change(20 * MIB, "x");
    assert_int_equal(finish(true), ALL);
    assert_true(log_has("is sent as a whole, as parts of"));
}

static void test_the_older_one_is_replaced_meanwhile(void **state)
{
    begin(ALL);
    spy.on_copy = "something else";
    change(20 * MIB, "x");
    assert_int_equal(finish(true), ALL);
}

static void test_the_older_one_is_damaged(void **state)
{
    begin(ALL);
    must_put(spy.inner, object(base), "short");
    change(20 * MIB, "x");
    assert_int_equal(finish(true), ALL);
    assert_int_equal(spy.copies, 0);
}

static void test_a_copy_that_fails(void **state)
{
    begin(ALL);
    spy.copy_fails = 3;
    change(20 * MIB, "x");
    assert_int_equal(finish(true), ALL);
}

/* Who waits for the upload makes it be tried anew each time; copies are tried twice all the same. */
static void test_copies_that_time_out(void **state)
{
    begin(ALL);
    spy.copies_time_out = true;
    change(20 * MIB, "x");
    assert_int_equal(finish(true), ALL);
    assert_in_range(spy.copies, 2, 8);
}

static void test_a_store_that_copies_too_much(void **state)
{
    begin(ALL);
    spy.longer = 1000;
    change(20 * MIB, "x");
    assert_int_equal(finish(true), ALL);
    assert_true(log_has("in the bucket is damaged: it has"));
}

static void test_a_store_that_is_away(void **state)
{
    begin(ALL);
    set_rules("multipart:etimedout:first=3");
    change(20 * MIB, "x");
    assert_in_range(finish(true), PART, ALL);
}

/* --- hashes --- */

/* What was not told of: what is hashed is not read again. */
static void write_behind(uint64_t offset)
{
    assert_int_equal(pwrite(file.fd, "behind", 6, (off_t)offset), 6);
}

static void publish_as_it_is(uint8_t hash[BH_SHA256_LEN])
{
    must(bh_blobs_publish(blobs, &file, size_now(), number, false, NULL, NULL, hash, NULL, ERR));
}

static void test_only_what_was_appended_is_hashed(void **state)
{
    uint8_t want[BH_SHA256_LEN], got[BH_SHA256_LEN];
    uint64_t size = 6 * MIB + 12345;
    begin(size);
    for (unsigned i = 0; i < 3; i++) {
        char saved[6];
        change(size, "appended");
        size += 8;
        if (i == 1)
            change(size++, "x"); /* not a whole step of it */
        hash_of_file(want);
        assert_int_equal(pread(file.fd, saved, 6, 100), 6);
        write_behind(100);
        publish_as_it_is(got);
        assert_memory_equal(got, want, sizeof got);
        assert_int_equal(pwrite(file.fd, saved, 6, 100), 6);
        bh_data_is_copy(blobs, number, got, size, size);
    }
    change(size, "appended");
    change(200, "edited");
    hash_of_file(want);
    publish_as_it_is(got);
    assert_memory_equal(got, want, sizeof got);
}

static void test_what_was_cut_is_hashed_anew(void **state)
{
    uint8_t want[BH_SHA256_LEN], got[BH_SHA256_LEN];
    uint64_t size = 6 * MIB + 12345;
    begin(size);
    resize(size - 1);
    change(size - 1, "appended");
    hash_of_file(want);
    publish_as_it_is(got);
    assert_memory_equal(got, want, sizeof got);
    bh_data_is_copy(blobs, number, got, size + 7, size + 7);
    resize(6 * MIB);
    hash_of_file(want);
    publish_as_it_is(got);
    assert_memory_equal(got, want, sizeof got);
}

#define EDIT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, blobs_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        EDIT_TEST(test_one_byte),
        EDIT_TEST(test_at_the_border_of_parts),
        EDIT_TEST(test_shorter),
        EDIT_TEST(test_cut_and_written_again),
        EDIT_TEST(test_longer),
        EDIT_TEST(test_a_part_of_a_local_blob),
        EDIT_TEST(test_what_is_too_small_is_sent_whole),
        EDIT_TEST(test_of_an_open_file),
        EDIT_TEST(test_the_older_one_goes_first),
        EDIT_TEST(test_another_life_knows_nothing),
        EDIT_TEST(test_a_store_without_copies),
        EDIT_TEST(test_a_store_without_conditions),
        EDIT_TEST(test_the_older_one_is_gone),
        EDIT_TEST(test_the_older_one_goes_meanwhile),
        EDIT_TEST(test_the_older_one_is_replaced_meanwhile),
        EDIT_TEST(test_the_older_one_is_damaged),
        EDIT_TEST(test_a_copy_that_fails),
        EDIT_TEST(test_copies_that_time_out),
        EDIT_TEST(test_a_store_that_copies_too_much),
        EDIT_TEST(test_a_store_that_is_away),
        EDIT_TEST(test_only_what_was_appended_is_hashed),
        EDIT_TEST(test_what_was_cut_is_hashed_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
