/* Blobs from the bucket: small ones whole and checked, large ones by ranges. */
#include "blobs_fixture.h"

static uint8_t hash[BH_SHA256_LEN];

static void read_fails(struct bh_blob *o, uint64_t offset, int code, const char *says)
{
    char buf[4096];
    size_t got = 77;
    memset(buf, 'x', sizeof buf);
    must_fail_saying(bh_blob_read(o, buf, sizeof buf, offset, &got, NULL, ERR), code);
    must_say(says);
    assert_int_equal(got, 0);
    for (size_t i = 0; i < sizeof buf; i++)
        assert_int_equal(buf[i], 'x'); /* nothing was handed out */
}

/* --- whole --- */

static void test_what_is_local_is_read_at_once(void **state)
{
    char buf[3000], want[3000];
    size_t got;
    put_object(1, 100000, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 100000);
    assert_int_equal(bh_blob_read_at_once(o, buf, 3000, 5, &got), EAGAIN);
    must_read(o, 1, 5, 3000);
    assert_int_equal(bh_blob_read_at_once(o, buf, 3000, 5, &got), 0);
    assert_int_equal(got, 3000);
    content(1, 5, want, 3000);
    assert_memory_equal(buf, want, 3000);
    assert_int_equal(bh_blob_read_at_once(o, buf, 3000, 99000, &got), 0);
    assert_int_equal(got, 1000);
    assert_int_equal(bh_blob_read_at_once(o, buf, 3000, 100000, &got), 0);
    assert_int_equal(got, 0);
    bh_blob_close(o);
    o = open_blob(hash, 100000); /* opened anew: the file is found at once */
    assert_int_equal(bh_blob_read_at_once(o, buf, 3000, 5, &got), 0);
    bh_blob_close(o);
}

static void test_a_missing_object_is_said(void **state)
{
    put_object(1, 5000, hash);
    must(bh_bucket_delete(bucket, object(hash), NULL, ERR));
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 5000);
    read_fails(o, 0, EIO, "is not in the bucket");
    must_say(object(hash));
    put_object(1, 5000, hash); /* it is put back */
    must_read(o, 1, 0, 5000);
    bh_blob_close(o);
}

static void test_a_damaged_object_is_not_handed_out(void **state)
{
    uint8_t other[BH_SHA256_LEN];
    put_object(1, 5000, hash);
    put_object(2, 5000, other);
    must(bh_bucket_copy(bucket, object(other), object(hash), NULL, NULL, NULL, ERR));
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 5000);
    read_fails(o, 0, EIO, "is damaged: the SHA-256 of its content is");
    must_say(object(hash));
    read_fails(o, 100, EIO, "is damaged");
    bh_blob_close(o);
    assert_true(log_has("is damaged"));
    assert_false(is_there(local('c', hash)));
    assert_int_equal(stats().cached_bytes, 0);
    put_object(1, 5000, hash);
    must_have_blob(hash, 1, 5000);
}

static void test_an_object_of_another_size_is_said(void **state)
{
    put_object(1, 5000, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 6000);
    read_fails(o, 0, EIO, "it has 5000 bytes, but its file says 6000");
    bh_blob_close(o);
    struct bh_blob *a = open_blob(hash, 5000), *b = open_blob(hash, 4000);
    must_read(a, 1, 0, 5000);
    read_fails(b, 0, EIO, "two files of one content say that it has 4000 and 5000 bytes");
    bh_blob_close(a);
    bh_blob_close(b);
}

static void test_a_damaged_file_of_the_cache_is_fetched_again(void **state)
{
    put_object(1, 5000, hash);
    open_blobs(false);
    must_have_blob(hash, 1, 5000);
    assert_int_equal(truncate(at(local('c', hash)), 4000), 0);
    must_have_blob(hash, 1, 5000);
    assert_int_equal(unlink(at(local('c', hash))), 0);
    must_have_blob(hash, 1, 5000);
    assert_int_equal(requests(BH_OP_GET), 3);
}

static void test_a_row_of_another_key(void **state)
{
    struct bh_blob *o, *other;
    put_object(1, 5000, hash);
    must(bh_bucket_copy(bucket, object(hash), "uploads/photo 1.jpg", NULL, NULL, NULL, ERR));
    must(bh_bucket_delete(bucket, object(hash), NULL, ERR));
    open_blobs(false);
    assert_int_equal(bh_blob_open(blobs, hash, 5000, &other), 0); /* by the name it has not */
    assert_int_equal(bh_blob_open_key(blobs, "uploads/photo 1.jpg", hash, 5000, &o), 0);
    must_read(o, 1, 0, 5000);
    bh_blob_close(o);
    bh_blob_close(other);
    must_have_blob(hash, 1, 5000); /* it is here now */
    uint8_t same[BH_SHA256_LEN];
    publish(1, 5000, same); /* but not in the bucket under the name that ours refer to */
    assert_memory_equal(hash, same, sizeof hash);
    must(bh_blobs_wait(blobs, 3, NULL, ERR));
    must(bh_bucket_head(bucket, object(hash), NULL, NULL, ERR));
}

struct reader {
    pthread_t thread;
    uint64_t size;
    int rc;
    bool right;
};

static void *read_all(void *arg)
{
    struct reader *r = arg;
    struct bh_error err;
    struct bh_blob *o;
    size_t got;
    char *buf = malloc(r->size), *want = malloc(r->size);
    content(1, 0, want, r->size);
    r->rc = bh_blob_open(blobs, hash, r->size, &o);
    if (!r->rc) {
        r->rc = bh_blob_read(o, buf, r->size, 0, &got, NULL, &err);
        r->right = !r->rc && got == r->size && memcmp(buf, want, got) == 0;
        bh_blob_close(o);
    }
    free(buf);
    free(want);
    return NULL;
}

static void read_in_threads(uint64_t size)
{
    struct reader readers[8];
    for (unsigned i = 0; i < 8; i++) {
        readers[i] = (struct reader){.size = size};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_all, &readers[i]), 0);
    }
    for (unsigned i = 0; i < 8; i++)
        pthread_join(readers[i].thread, NULL);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(readers[i].rc, 0);
        assert_true(readers[i].right);
    }
}

static void test_readers_of_one_blob_share_the_request(void **state)
{
    put_object(1, 300000, hash);
    set_rules("get:delay=300ms");
    open_blobs(false);
    read_in_threads(300000);
    assert_int_equal(requests(BH_OP_GET), 1);
    assert_int_equal(stats().fetched_bytes, 300000);
}

static void test_readers_of_one_range_share_the_request(void **state)
{
    put_object(1, 9 * MIB, hash);
    set_rules("get:delay=200ms");
    open_blobs(false);
    read_in_threads(9 * MIB);
    assert_int_equal(stats().fetched_bytes, 9 * MIB);
}

/* --- limits --- */

static void test_a_bucket_that_does_not_answer(void **state)
{
    put_object(1, 5000, hash);
    set_rules("get:delay=60s");
    options.read_timeout_ms = 200;
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 5000);
    int64_t begin = bh_mono_ms();
    read_fails(o, 0, ETIMEDOUT, "the bucket did not answer for 200 ms");
    assert_in_range(bh_mono_ms() - begin, 200, 3000);
    set_rules("");
    must_read(o, 1, 0, 5000);
    bh_blob_close(o);
}

static void *set_later(void *arg)
{
    usleep(100000);
    if (arg)
        atomic_store((atomic_bool *)arg, true);
    else
        bh_blobs_stop(blobs, true);
    return NULL;
}

static void test_cancel_and_stop_end_a_read(void **state)
{
    char buf[100];
    size_t got;
    atomic_bool cancel = false;
    struct bh_call call = {.cancel = &cancel};
    pthread_t thread;
    put_object(1, 5000, hash);
    set_rules("get:delay=60s");
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 5000);
    int64_t begin = bh_mono_ms();
    assert_int_equal(pthread_create(&thread, NULL, set_later, &cancel), 0);
    must_fail(bh_blob_read(o, buf, 100, 0, &got, &call, ERR), ECANCELED);
    pthread_join(thread, NULL);
    assert_int_equal(pthread_create(&thread, NULL, set_later, NULL), 0);
    must_fail(bh_blob_read(o, buf, 100, 0, &got, NULL, ERR), ECANCELED);
    pthread_join(thread, NULL);
    must_fail(bh_blob_read(o, buf, 100, 0, &got, NULL, ERR), ECANCELED);
    assert_in_range(bh_mono_ms() - begin, 0, 3000);
    bh_blobs_stop(blobs, false);
    set_rules("");
    must_read(o, 1, 0, 5000);
    bh_blob_close(o);
}

static void test_closing_does_not_wait_for_the_bucket(void **state)
{
    char buf[100];
    size_t got;
    struct bh_call call = {.deadline_ms = bh_mono_ms() + 100};
    uint8_t mine[BH_SHA256_LEN];
    put_object(1, 5000, hash);
    set_rules("get:delay=60s;put:delay=60s");
    open_blobs(false);
    publish(3, 100, mine);
    struct bh_blob *o = open_blob(hash, 5000);
    must_fail(bh_blob_read(o, buf, 100, 0, &got, &call, ERR), ETIMEDOUT);
    bh_blob_close(o);
    int64_t begin = bh_mono_ms();
    close_blobs();
    assert_in_range(bh_mono_ms() - begin, 0, 3000);
    assert_true(is_there(local('p', mine)));
}

/* --- copies --- */

static void test_copies(void **state)
{
    char buf[5000], want[5000];
    struct bh_dfile f;
    uint64_t number;
    put_object(1, 5000, hash);
    open_blobs(false);
    bool checked;
    struct bh_blob *o = open_blob(hash, 5000);
    for (int i = 0; i < 2; i++) { /* fetched, then from the cache */
        must(bh_data_create(blobs, &number, &f, ERR));
        must(bh_blob_copy(o, &f, 4000, &checked, NULL, ERR));
        assert_true(checked);
        assert_int_equal(pread(f.fd, buf, 5000, 0), 4000);
        content(1, 0, want, 5000);
        assert_memory_equal(buf, want, 4000);
        bh_dfile_close(&f);
    }
    must(bh_data_open(blobs, number, &f)); /* into a file that has something */
    assert_int_equal(bh_dfile_write(&f, "0123456789", 10, 4990), 0);
    must(bh_blob_copy(o, &f, 100, &checked, NULL, ERR));
    assert_int_equal(pread(f.fd, buf, 5000, 0), 5000);
    assert_memory_equal(buf, want, 4000);
    assert_memory_equal(buf + 4990, "0123456789", 10);
    must_fail(bh_blob_copy(o, &f, 5001, &checked, NULL, ERR), EINVAL);
    bh_dfile_close(&f);
    bh_blob_close(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_local_is_read_at_once),
        TEST(test_a_missing_object_is_said),
        TEST(test_a_damaged_object_is_not_handed_out),
        TEST(test_an_object_of_another_size_is_said),
        TEST(test_a_damaged_file_of_the_cache_is_fetched_again),
        TEST(test_a_row_of_another_key),
        TEST(test_readers_of_one_blob_share_the_request),
        TEST(test_readers_of_one_range_share_the_request),
        TEST(test_a_bucket_that_does_not_answer),
        TEST(test_cancel_and_stop_end_a_read),
        TEST(test_closing_does_not_wait_for_the_bucket),
        TEST(test_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
