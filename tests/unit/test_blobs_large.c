/* Large blobs: ranges, read-ahead, what is remembered of them, and the check at the end. */
#include "blobs_fixture.h"

#include "store/blobs_private.h"
#include "util/cleanup.h"

static uint8_t hash[BH_SHA256_LEN];

static uint64_t random_state = 12345;

static uint64_t any(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

static void test_sequential_reading(void **state)
{
    uint64_t size = 64 * MIB - 12345;
    put_object(1, size, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, size);
    for (uint64_t done = 0; done < size; done += 128 * KIB)
        must_read(o, 1, done, size - done < 128 * KIB ? (size_t)(size - done) : 128 * KIB);
    print_message("64 MiB one after the other: %llu GETs, %llu bytes\n",
                  (unsigned long long)requests(BH_OP_GET),
                  (unsigned long long)stats().fetched_bytes);
    assert_true(requests(BH_OP_GET) <= 64);
    assert_int_equal(stats().fetched_bytes, size); /* nothing twice */
    eventually(is_there(local('c', hash)));        /* hashed, while it is still open */
    must_read(o, 1, 0, 1000);
    bh_blob_close(o);
    assert_false(is_there(local('r', hash)));
    close_blobs();
    open_blobs(false);
    must_have_blob(hash, 1, size);
    assert_true(requests(BH_OP_GET) <= 64);
}

static void test_reading_ahead_goes_before_the_reader(void **state)
{
    char buf[65536];
    size_t got;
    put_object(1, 40 * MIB, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 40 * MIB);
    for (unsigned i = 0; i < 16; i++)
        must_read(o, 1, i * 64 * KIB, 64 * KIB);
    eventually(bh_blob_read_at_once(o, buf, sizeof buf, 16 * 64 * KIB, &got) == 0);
    assert_true(stats().fetched_bytes <= MIB + 8 * MIB);
    bh_blob_close(o);
}

static void test_random_reading(void **state)
{
    uint64_t size = 256 * MIB;
    put_object(1, size, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, size);
    must_read(o, 1, 200 * MIB + 77, 4096);
    assert_true(stats().fetched_bytes <= 2 * 64 * KIB);
    assert_true(requests(BH_OP_GET) == 1);
    for (unsigned i = 1; i < 100; i++)
        must_read(o, 1, any(size - 4096), 4096);
    print_message("100 random reads of 4 KiB in 256 MiB: %llu GETs, %llu KiB\n",
                  (unsigned long long)requests(BH_OP_GET),
                  (unsigned long long)stats().fetched_bytes / 1024);
    assert_true(requests(BH_OP_GET) <= 110);
    assert_true(stats().fetched_bytes <= 64 * MIB); /* a near bucket: only what is asked for */
    for (unsigned i = 100; i < 600; i++)
        must_read(o, 1, any(size - 4096), 4096);
    for (unsigned i = 0; i < 6000 && !is_there(local('c', hash)); i++)
        usleep(10000);
    assert_true(is_there(local('c', hash))); /* what nobody asked for comes by itself */
    for (unsigned i = 600; i < 3000; i++)
        must_read(o, 1, any(size - 4096), 4096);
    print_message("3000 of them: %llu GETs, %llu KiB\n", (unsigned long long)requests(BH_OP_GET),
                  (unsigned long long)stats().fetched_bytes / 1024);
    assert_true(requests(BH_OP_GET) <= 600); /* larger pieces, as it goes on */
    assert_true(stats().fetched_bytes <= size);
    bh_blob_close(o);
}

/* Where each answer is slow to begin, what is missing comes soon; else not before it is worth it.
 */
static void test_random_reading_from_afar(void **state)
{
    uint64_t size = 256 * MIB;
    put_object(1, size, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, size);
    set_rules("get:delay=10ms");
    for (unsigned i = 0; i < 30; i++)
        must_read(o, 1, any(size - 4096), 4096);
    assert_true(stats().fetched_bytes <= 5 * MIB);
    for (unsigned i = 30; i < 64; i++)
        must_read(o, 1, any(size - 4096), 4096);
    print_message("64 random reads, 10 ms each: %llu KiB\n",
                  (unsigned long long)stats().fetched_bytes / 1024);
    assert_true(stats().fetched_bytes >= 48 * MIB); /* 13 without */
    bh_blob_close(o);
}

static void test_parts_are_remembered(void **state)
{
    put_object(1, 20 * MIB, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 20 * MIB);
    must_read(o, 1, 10 * MIB + 5, 4096);
    bh_blob_close(o);
    uint64_t cached = stats().cached_bytes;
    assert_true(cached > 0);
    crash();
    assert_int_equal(stats().cached_bytes, cached);
    uint64_t gets = requests(BH_OP_GET);
    o = open_blob(hash, 20 * MIB);
    must_read(o, 1, 10 * MIB + 5, 4096);
    assert_int_equal(requests(BH_OP_GET), gets);
    bh_blob_close(o);
    close_blobs();
    open_blobs(true); /* a power cut: nothing of it is believed */
    assert_false(is_there(local('r', hash)));
    assert_int_equal(stats().cached_bytes, 0);
    must_have_blob(hash, 1, 20 * MIB);
}

static void test_parts_of_another_life_of_the_machine_are_not_used(void **state)
{
    char name[200];
    put_object(1, 20 * MIB, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 20 * MIB);
    must_read(o, 1, 10 * MIB, 4096);
    bh_blob_close(o);
    close_blobs();
    snprintf(name, sizeof name, "%s.map", at(local('r', hash)));
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "another boot", 12, 8), 12);
    close(fd);
    open_blobs(false);
    assert_false(is_there(local('r', hash)));
    assert_int_not_equal(access(name, F_OK), 0);
    assert_int_equal(stats().cached_bytes, 0);
}

static void test_a_damaged_large_object_is_found_at_the_end(void **state)
{
    uint8_t other[BH_SHA256_LEN];
    char buf[100];
    size_t got;
    put_object(1, 9 * MIB, hash);
    put_object(2, 9 * MIB, other);
    must(bh_bucket_copy(bucket, object(other), object(hash), NULL, NULL, NULL, ERR));
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 9 * MIB);
    for (uint64_t done = 0; done < 9 * MIB; done += MIB) {
        char *mib = malloc(MIB);
        int rc = bh_blob_read(o, mib, MIB, done, &got, NULL, NULL);
        free(mib);
        assert_true(rc == 0 || rc == EIO);
    }
    eventually(bh_blob_read(o, buf, 100, 0, &got, NULL, NULL) == EIO);
    must_fail_saying(bh_blob_read(o, buf, 100, 0, &got, NULL, ERR), EIO);
    must_say("is damaged: the SHA-256 of its content is");
    assert_int_equal(bh_blob_read_at_once(o, buf, 100, 0, &got), EAGAIN);
    bh_blob_close(o);
    assert_true(log_has("is damaged"));
    assert_false(is_there(local('r', hash)));
    assert_false(is_there(local('c', hash)));
    assert_int_equal(stats().cached_bytes, 0);
}

/* Reads [from, to) a MiB at a time; the first error, or 0. */
static int read_on(struct bh_blob *o, uint64_t from, uint64_t to)
{
    char *mib = malloc(MIB);
    size_t got;
    int rc = 0;
    assert_non_null(mib);
    for (uint64_t at = from; rc == 0 && at < to; at += MIB)
        rc = bh_blob_read(o, mib, MIB, at, &got, NULL, NULL);
    free(mib);
    return rc;
}

/* Bytes that were hashed ahead. */
static uint64_t hashed(struct bh_blob *o)
{
    BH_LOCK_SCOPE(&blobs->mutex);
    return o->content->parts ? o->content->parts->hashed * BLOBS_UNIT : 0;
}

/* What comes first is hashed long before the rest is here. */
static void test_damage_in_the_beginning_is_found_at_the_end(void **state)
{
    uint64_t size = 96 * MIB + 4711;
    for (uint64_t where = 0; where < size; where += 48 * MIB) {
        put_object(1, size, hash);
        open_blobs(false);
        char path[256];
        snprintf(path, sizeof path, "bucket/%s", object(hash));
        int fd = open(at(path), O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, "x", 1, (off_t)where + 5), 1);
        close(fd);
        struct bh_blob *o = open_blob(hash, size);
        assert_int_equal(read_on(o, 0, 90 * MIB), 0);
        eventually(hashed(o) >= 72 * MIB);
        assert_int_equal(read_on(o, 90 * MIB, size), EIO);
        bh_blob_close(o);
        assert_false(is_there(local('c', hash)));
        close_blobs();
    }
    open_blobs(false);
}

/* What was hashed of another object does not count. */
static void test_a_beginning_that_is_replaced_counts_no_more(void **state)
{
    uint8_t other[BH_SHA256_LEN];
    uint64_t size = 96 * MIB + 4711;
    put_object(2, size, other);
    put_object(1, size, hash);
    must(bh_bucket_copy(bucket, object(hash), "right", NULL, NULL, NULL, ERR));
    must(bh_bucket_copy(bucket, object(other), object(hash), NULL, NULL, NULL, ERR));
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, size);
    assert_int_equal(read_on(o, 0, 48 * MIB), 0);
    eventually(hashed(o) >= 32 * MIB);
    must(bh_bucket_copy(bucket, "right", object(hash), NULL, NULL, NULL, ERR));
    must_read(o, 1, 90 * MIB, 4096);
    assert_int_equal(read_on(o, 0, size), 0);
    eventually(is_there(local('c', hash)));
    bh_blob_close(o);
    must_have_blob(hash, 1, size);
}

static void test_a_short_large_object_is_said(void **state)
{
    char buf[100];
    size_t got;
    put_object(1, 9 * MIB, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 12 * MIB);
    must_fail_saying(bh_blob_read(o, buf, 100, 0, &got, NULL, ERR), EIO);
    must_say("but its file says 12582912");
    must_fail_saying(bh_blob_read(o, buf, 100, 11 * MIB, &got, NULL, ERR), EIO);
    must_say("is damaged");
    bh_blob_close(o);
}

static void test_an_object_that_is_replaced_meanwhile(void **state)
{
    uint8_t other[BH_SHA256_LEN];
    put_object(2, 20 * MIB, other);
    put_object(1, 20 * MIB, hash);
    must(bh_bucket_copy(bucket, object(other), "kept", NULL, NULL, NULL, ERR));
    must(bh_bucket_copy(bucket, object(hash), "right", NULL, NULL, NULL, ERR));
    must(bh_bucket_copy(bucket, "kept", object(hash), NULL, NULL, NULL, ERR));
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 20 * MIB);
    must_read(o, 2, 10 * MIB, 4096); /* the wrong one */
    must(bh_bucket_copy(bucket, "right", object(hash), NULL, NULL, NULL, ERR));
    must_read(o, 1, 15 * MIB, 4096);
    must_read(o, 1, 10 * MIB, 4096);
    assert_true(log_has("was replaced while it was read"));
    bh_blob_close(o);
    must_have_blob(hash, 1, 20 * MIB);
    eventually(is_there(local('c', hash)));
}

static void test_a_cut_answer_is_not_used(void **state)
{
    char buf[4096];
    size_t got;
    put_object(1, 20 * MIB, hash);
    set_rules("get:cut:first=2");
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 20 * MIB);
    must_fail(bh_blob_read(o, buf, 4096, 12 * MIB, &got, NULL, ERR), EIO);
    must_fail(bh_blob_read(o, buf, 4096, 12 * MIB, &got, NULL, ERR), EIO);
    must_read(o, 1, 12 * MIB, 4096);
    bh_blob_close(o);
}

/* Content that is published while parts of the same are read from the bucket. */
static void test_parts_give_way_to_the_whole(void **state)
{
    uint8_t same[BH_SHA256_LEN];
    put_object(1, 9 * MIB, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 9 * MIB);
    must_read(o, 1, 5 * MIB, 4096);
    uint64_t fetched = stats().fetched_bytes;
    publish(1, 9 * MIB, same);
    assert_memory_equal(hash, same, sizeof hash);
    for (uint64_t done = 0; done < 9 * MIB; done += MIB)
        must_read(o, 1, done, MIB);
    assert_int_equal(stats().fetched_bytes, fetched);
    bh_blob_close(o);
    must_store_all();
    assert_false(is_there(local('r', hash)));
    assert_int_equal(requests(BH_OP_PUT), 1); /* put_object's: it was there */
}

/* Who makes room may have chosen it while it was parts. */
static void test_what_is_whole_gets_no_holes(void **state)
{
    struct stat st;
    put_object(1, 20 * MIB, hash);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash, 20 * MIB);
    for (uint64_t done = 0; done < 20 * MIB; done += MIB)
        must_read(o, 1, done, MIB);
    eventually(is_there(local('c', hash)));
    assert_int_equal(bh_blobs_parts_shrink(blobs, o->content, 8 * MIB), 0);
    assert_int_equal(stat(at(local('c', hash)), &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 >= 20 * MIB);
    for (uint64_t done = 0; done < 20 * MIB; done += MIB)
        must_read(o, 1, done, MIB);
    bh_blob_close(o);
}

struct jumper {
    pthread_t thread;
    uint64_t seed;
    bool right;
};

static void *jump(void *arg)
{
    struct jumper *j = arg;
    struct bh_blob *o;
    char buf[20000], want[20000];
    uint64_t x = j->seed * 0x9E3779B97F4A7C15u;
    j->right = bh_blob_open(blobs, hash, 40 * MIB, &o) == 0;
    for (unsigned i = 0; j->right && i < 150; i++) {
        size_t got;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        uint64_t offset = x % (40 * MIB);
        size_t len = sizeof buf < 40 * MIB - offset ? sizeof buf : (size_t)(40 * MIB - offset);
        j->right = bh_blob_read(o, buf, len, offset, &got, NULL, NULL) == 0 && got == len;
        content(1, offset, want, len);
        j->right = j->right && memcmp(buf, want, len) == 0;
    }
    if (j->right)
        bh_blob_close(o);
    return NULL;
}

static void test_many_readers_jump(void **state)
{
    struct jumper jumpers[6];
    put_object(1, 40 * MIB, hash);
    options.cache_max = 4 * MIB; /* so that parts go while others are read */
    open_blobs(false);
    for (unsigned i = 0; i < 6; i++) {
        jumpers[i] = (struct jumper){.seed = i + 1};
        assert_int_equal(pthread_create(&jumpers[i].thread, NULL, jump, &jumpers[i]), 0);
    }
    for (unsigned i = 0; i < 6; i++)
        pthread_join(jumpers[i].thread, NULL);
    for (unsigned i = 0; i < 6; i++)
        assert_true(jumpers[i].right);
    assert_true(stats().evicted_bytes > 0);
    eventually(stats().cached_bytes <= 4 * MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_sequential_reading),
        TEST(test_reading_ahead_goes_before_the_reader),
        TEST(test_random_reading),
        TEST(test_random_reading_from_afar),
        TEST(test_parts_are_remembered),
        TEST(test_parts_of_another_life_of_the_machine_are_not_used),
        TEST(test_a_damaged_large_object_is_found_at_the_end),
        TEST(test_damage_in_the_beginning_is_found_at_the_end),
        TEST(test_a_beginning_that_is_replaced_counts_no_more),
        TEST(test_a_short_large_object_is_said),
        TEST(test_an_object_that_is_replaced_meanwhile),
        TEST(test_a_cut_answer_is_not_used),
        TEST(test_parts_give_way_to_the_whole),
        TEST(test_what_is_whole_gets_no_holes),
        TEST(test_many_readers_jump),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
