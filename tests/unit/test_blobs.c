/* Blobs: published, settled, uploaded, read again. */
#include "blobs_fixture.h"

static void test_from_file_to_bucket_and_back(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    no_start = true;
    open_blobs(false);
    publish(1, 10000, hash);
    assert_true(is_there(local('p', hash)));
    must(bh_blobs_settle(blobs, ERR));
    assert_int_equal(bh_blobs_state(blobs, hash), BH_BLOB_LOCAL);
    assert_int_equal(stats().pending, 1);
    assert_int_equal(stats().pending_bytes, 10000);
    must_have_blob(hash, 1, 10000);
    must(bh_blobs_start(blobs, ERR));
    must_store_all();
    assert_int_equal(bh_blobs_state(blobs, hash), BH_BLOB_STORED);
    assert_int_equal(stats().uploaded, 1);
    assert_int_equal(stats().uploaded_bytes, 10000);
    assert_true(is_there(local('c', hash)));
    assert_false(is_there(local('p', hash)));
    must_have_blob(hash, 1, 10000);
    assert_int_equal(requests(BH_OP_GET), 0);
    close_blobs();
    assert_int_equal(unlink(at(local('c', hash))), 0);
    open_blobs(false);
    must_have_blob(hash, 1, 10000);
    assert_int_equal(requests(BH_OP_GET), 1);
    assert_true(is_there(local('c', hash)));
    must_have_blob(hash, 1, 10000);
    assert_int_equal(requests(BH_OP_GET), 1);
}

static void test_the_empty_content_is_never_stored(void **state)
{
    uint8_t hash[BH_SHA256_LEN], want[BH_SHA256_LEN];
    char buf[8];
    size_t got = 1;
    open_blobs(false);
    publish(1, 0, hash);
    assert_int_equal(bh_sha256_of("", 0, want), 0);
    assert_memory_equal(hash, want, sizeof hash);
    must_store_all();
    struct bh_blob *o = open_blob(hash, 0);
    must(bh_blob_read(o, buf, 8, 0, &got, NULL, ERR));
    assert_int_equal(got, 0);
    assert_int_equal(bh_blob_read_at_once(o, buf, 8, 0, &got), 0);
    bh_blob_close(o);
    assert_int_equal(requests(BH_OP_PUT) + requests(BH_OP_GET) + requests(BH_OP_HEAD), 0);
}

static void test_equal_content_is_uploaded_once(void **state)
{
    uint8_t hash[BH_SHA256_LEN], other[BH_SHA256_LEN];
    open_blobs(false);
    for (int i = 0; i < 20; i++) {
        publish(7, 3000, hash);
        if (i == 10)
            must_store_all();
    }
    publish(8, 3000, other);
    must_store_all();
    assert_int_equal(requests(BH_OP_PUT), 2);
    assert_int_equal(stats().uploaded, 2);
}

static void test_what_another_one_uploaded_is_not_sent_again(void **state)
{
    uint8_t hash[BH_SHA256_LEN], same[BH_SHA256_LEN];
    put_object(3, 50000, hash);
    open_blobs(false);
    publish(3, 50000, same);
    assert_memory_equal(hash, same, sizeof hash);
    must_store_all();
    struct bh_object_info info;
    must(bh_bucket_head(bucket, object(hash), &info, NULL, ERR));
    assert_int_equal(info.size, 50000);
    assert_null(bh_meta_get(&info.meta, BH_META_PUT)); /* of put_object, not of ours */
}

static void test_a_damaged_object_is_replaced(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    struct bh_source cut = {.size = 5, .data = "short"};
    no_start = true;
    open_blobs(false);
    publish(4, 40000, hash);
    must(bh_bucket_put(bucket, object(hash), &cut, NULL, NULL, NULL, NULL, ERR));
    must(bh_blobs_start(blobs, ERR));
    must_store_all();
    assert_true(log_has("in the bucket is damaged: it has 5 bytes instead of 40000"));
    close_blobs();
    unlink(at(local('c', hash)));
    open_blobs(false);
    must_have_blob(hash, 4, 40000);
}

/* What is in the cache may have been collected in the bucket meanwhile: it is looked for. */
static void test_cached_content_written_again_is_looked_for(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    open_blobs(false);
    publish(5, 5000, hash);
    must_store_all();
    crash(); /* which forgets when it was seen */
    must(bh_bucket_delete(bucket, object(hash), NULL, ERR));
    publish(5, 5000, hash);
    assert_int_equal(bh_blobs_state(blobs, hash) != BH_BLOB_STORED, true);
    must_store_all();
    must(bh_bucket_head(bucket, object(hash), NULL, NULL, ERR));
    uint64_t puts = requests(BH_OP_PUT);
    crash();
    publish(5, 5000, hash);
    must_store_all();
    assert_int_equal(requests(BH_OP_PUT), puts);
}

static void damage(const char *name)
{
    int fd = open(at(name), O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "\0\0\0\0\0\0\0\0", 8, 0), 8);
    close(fd);
}

/* What was hashed is uploaded, not what the cache had of the same name. */
static void test_a_damaged_file_of_the_cache_is_not_uploaded(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    open_blobs(false);
    publish(5, 3 * MIB, hash);
    must_store_all();
    for (int copied = 0; copied < 2; copied++) {
        struct bh_dfile f;
        close_blobs();
        damage(local('c', hash));
        open_blobs(false);
        must(bh_bucket_delete(bucket, object(hash), NULL, ERR));
        uint64_t number = make_data(5, 3 * MIB, &f);
        must(bh_blobs_publish(blobs, &f, 3 * MIB, number, !copied, NULL, NULL, hash, NULL, ERR));
        bh_dfile_close(&f);
        bh_data_remove(blobs, number);
        must_store_all();
        must_have_blob(hash, 5, 3 * MIB);
        close_blobs();
        assert_int_equal(unlink(at(local('c', hash))), 0);
        open_blobs(false);
        must_have_blob(hash, 5, 3 * MIB);
    }
}

static void test_large_content_goes_up_in_parts(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    open_blobs(false);
    publish(6, 23 * MIB + 17, hash);
    must_store_all();
    assert_int_equal(requests(BH_OP_PUT), 0);
    assert_true(requests(BH_OP_MULTIPART) >= 5);
    close_blobs();
    unlink(at(local('c', hash)));
    open_blobs(false);
    must_have_blob(hash, 6, 23 * MIB + 17);
}

static bool not_still(void *arg)
{
    return --*(int *)arg > 0;
}

static void test_content_that_changes_is_not_published(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    struct bh_dfile f;
    open_blobs(false);
    uint64_t number = make_data(1, 3 * MIB, &f);
    for (int times = 1; times <= 4; times++) {
        int left = times;
        must_fail(bh_blobs_publish(blobs, &f, 3 * MIB, number, times % 2, not_still, &left, hash,
                                   NULL, ERR),
                  ESTALE);
    }
    assert_int_equal(stats().pending, 0);
    int left = 5;
    must(bh_blobs_publish(blobs, &f, 3 * MIB, number, true, not_still, &left, hash, NULL, ERR));
    bh_dfile_close(&f);
    must_have_blob(hash, 1, 3 * MIB);
}

static void test_a_copy_is_not_changed_by_later_writes(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    struct bh_dfile f;
    no_start = true;
    open_blobs(false);
    make_data(1, 2 * MIB + 5, &f);
    must(bh_blobs_publish(blobs, &f, 2 * MIB, 0, false, NULL, NULL, hash, NULL, ERR));
    assert_int_equal(bh_dfile_write(&f, "changed", 7, 100), 0);
    bh_dfile_close(&f);
    must_have_blob(hash, 1, 2 * MIB);
    must(bh_blobs_start(blobs, ERR));
    must_store_all();
}

static void test_holes_stay_holes_in_a_copy(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    struct bh_dfile f;
    uint64_t number;
    struct stat st;
    no_start = true;
    open_blobs(false);
    must(bh_data_create(blobs, &number, &f, ERR));
    assert_int_equal(bh_dfile_write(&f, "x", 1, 20 * MIB), 0);
    must(bh_blobs_publish(blobs, &f, 20 * MIB + 1, 0, false, NULL, NULL, hash, NULL, ERR));
    assert_int_equal(stat(at(local('p', hash)), &st), 0);
    assert_int_equal(st.st_size, 20 * MIB + 1);
    assert_true(st.st_blocks < 4096);
    bh_dfile_close(&f);
}

/* --- data files --- */

static void note_number(void *arg, uint64_t number)
{
    *(uint64_t *)arg += number;
}

static void test_a_published_data_file_is_copied_before_it_is_written(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    struct bh_dfile f;
    char buf[5000], want[5000];
    uint64_t sum = 0;
    no_start = true;
    open_blobs(false);
    uint64_t number = make_data(2, 5000, &f), other = number;
    must(bh_blobs_publish(blobs, &f, 5000, number, true, NULL, NULL, hash, NULL, ERR));
    bh_dfile_close(&f);
    must(bh_data_open_to_write(blobs, &other, UINT64_MAX, &f, NULL, ERR));
    assert_true(other != number);
    assert_int_equal(bh_dfile_write(&f, "changed", 7, 0), 0);
    assert_int_equal(pread(f.fd, buf, 5000, 0), 5000);
    content(2, 0, want, 5000);
    assert_memory_equal(buf + 7, want + 7, 4993);
    bh_dfile_close(&f);
    must_have_blob(hash, 2, 5000);
    must(bh_data_each(blobs, note_number, &sum, ERR));
    assert_true(sum == number + other);
    bh_data_remove(blobs, number);
    assert_int_equal(bh_data_open(blobs, number, &f), ENOENT);
    uint64_t again = other;
    must(bh_data_open_to_write(blobs, &again, 10, &f, NULL, ERR)); /* one name: no copy */
    assert_true(again == other);
    bh_dfile_close(&f);
    must_have_blob(hash, 2, 5000);
}

static void test_no_more_of_a_data_file_is_copied_than_is_wanted(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    atomic_bool cancel = true;
    const struct bh_call cancelled = {.cancel = &cancel};
    struct bh_dfile f;
    struct stat st;
    char buf[3000], want[3000];
    uint64_t sum = 0;
    no_start = true;
    open_blobs(false);
    uint64_t number = make_data(2, 40 * MIB, &f), other = number;
    must(bh_blobs_publish(blobs, &f, 40 * MIB, number, true, NULL, NULL, hash, NULL, ERR));
    bh_dfile_close(&f);
    must_fail(bh_data_open_to_write(blobs, &other, UINT64_MAX, &f, &cancelled, ERR), ECANCELED);
    assert_true(other == number);
    must(bh_data_each(blobs, note_number, &sum, ERR));
    assert_true(sum == number); /* nothing is left */
    must(bh_data_open_to_write(blobs, &other, 3000, &f, NULL, ERR));
    assert_true(other != number);
    assert_int_equal(fstat(f.fd, &st), 0);
    assert_int_equal(st.st_size, 3000);
    assert_int_equal(pread(f.fd, buf, 3000, 0), 3000);
    content(2, 0, want, 3000);
    assert_memory_equal(buf, want, 3000);
    bh_dfile_close(&f);
}

/* --- crashes --- */

static void test_pending_blobs_are_uploaded_after_a_crash(void **state)
{
    uint8_t hash[30][BH_SHA256_LEN];
    no_start = true;
    open_blobs(false);
    for (unsigned i = 0; i < 30; i++)
        publish(100 + i, 1000 * i + 1, hash[i]);
    no_start = false;
    crash();
    must_store_all();
    for (unsigned i = 0; i < 30; i++) {
        must(bh_bucket_head(bucket, object(hash[i]), NULL, NULL, ERR));
        assert_true(is_there(local('c', hash[i])));
    }
    assert_int_equal(requests(BH_OP_PUT), 30);
}

static void test_after_a_power_cut_damaged_pending_blobs_go(void **state)
{
    uint8_t good[BH_SHA256_LEN], bad[BH_SHA256_LEN];
    no_start = true;
    open_blobs(false);
    publish(1, 5000, good);
    publish(2, 5000, bad);
    close_blobs();
    damage(local('p', bad));
    open_blobs(true);
    assert_true(log_has("was damaged when the machine ended and is removed"));
    assert_false(is_there(local('p', bad)));
    assert_int_equal(stats().pending, 1);
    must_have_blob(good, 1, 5000);
}

static void test_after_a_power_cut_the_cache_is_not_believed(void **state)
{
    uint8_t good[BH_SHA256_LEN], bad[BH_SHA256_LEN];
    open_blobs(false);
    publish(1, 5000, good);
    publish(2, 5000, bad);
    must_store_all();
    close_blobs();
    damage(local('c', bad));
    open_blobs(true);
    crash(); /* a second start must not believe it either */
    must_have_blob(good, 1, 5000);
    assert_int_equal(requests(BH_OP_GET), 0);
    must_have_blob(bad, 2, 5000);
    assert_int_equal(requests(BH_OP_GET), 1);
    assert_true(log_has("is damaged: it is dropped and fetched again"));
}

static void test_what_is_damaged_here_is_not_uploaded(void **state)
{
    uint8_t hash[BH_SHA256_LEN];
    no_start = true;
    open_blobs(false);
    publish(1, 5000, hash);
    close_blobs();
    damage(local('p', hash));
    no_start = false;
    open_blobs(false);
    must_fail_saying(bh_blobs_wait(blobs, 3, NULL, ERR), EIO);
    must_say("is damaged and not uploaded");
    must_lack(bucket, object(hash));
    assert_string_equal(stats().error, test_said);
    assert_true(is_there(local('p', hash)));
}

static void test_temporary_files_go_and_foreign_ones_stay(void **state)
{
    FILE *f = fopen(at("state/t-0123456789abcdef"), "we");
    assert_non_null(f);
    fclose(f);
    f = fopen(at("state/somebody's"), "we");
    assert_non_null(f);
    fclose(f);
    open_blobs(false);
    assert_false(is_there("state/t-0123456789abcdef"));
    assert_true(is_there("state/somebody's"));
    assert_true(log_has("are none of ours and are left alone: somebody's"));
}

/* With the imitation of a power cut: what was settled is there, whatever else happened. */
static void test_settled_is_there_after_a_power_cut(void **state)
{
    uint8_t hash[40][BH_SHA256_LEN];
    char command[400];
    mirror = "mirror";
    no_start = true;
    open_blobs(false);
    for (unsigned i = 0; i < 40; i++) {
        publish(200 + i, 3000 + i, hash[i]);
        if (i % 10 == 9)
            must(bh_blobs_settle(blobs, ERR));
    }
    for (unsigned i = 0; i < 20; i++)
        publish(300 + i, 3000, hash[0]); /* never settled: there, whole, or not */
    close_blobs();
    snprintf(command, sizeof command, "rm -rf %s && cp -r %s %s", at("state"), at("mirror"),
             at("state"));
    assert_int_equal(system(command), 0);
    mirror = NULL;
    open_blobs(true);
    for (unsigned i = 1; i < 40; i++)
        must_have_blob(hash[i], 200 + i, 3000 + i);
    assert_in_range(stats().pending, 40, 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_from_file_to_bucket_and_back),
        TEST(test_the_empty_content_is_never_stored),
        TEST(test_equal_content_is_uploaded_once),
        TEST(test_what_another_one_uploaded_is_not_sent_again),
        TEST(test_a_damaged_object_is_replaced),
        TEST(test_cached_content_written_again_is_looked_for),
        TEST(test_a_damaged_file_of_the_cache_is_not_uploaded),
        TEST(test_large_content_goes_up_in_parts),
        TEST(test_content_that_changes_is_not_published),
        TEST(test_a_copy_is_not_changed_by_later_writes),
        TEST(test_holes_stay_holes_in_a_copy),
        TEST(test_a_published_data_file_is_copied_before_it_is_written),
        TEST(test_no_more_of_a_data_file_is_copied_than_is_wanted),
        TEST(test_pending_blobs_are_uploaded_after_a_crash),
        TEST(test_after_a_power_cut_damaged_pending_blobs_go),
        TEST(test_after_a_power_cut_the_cache_is_not_believed),
        TEST(test_what_is_damaged_here_is_not_uploaded),
        TEST(test_temporary_files_go_and_foreign_ones_stay),
        TEST(test_settled_is_there_after_a_power_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
