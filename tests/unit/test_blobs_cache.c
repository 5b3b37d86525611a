/* The cache's bound, and who goes first. */
#include "blobs_fixture.h"

#include <malloc.h>

#include "store/blobs_private.h"

static uint8_t hash[40][BH_SHA256_LEN];

static void fill(unsigned count, uint64_t size)
{
    for (unsigned i = 0; i < count; i++)
        put_object(i, size, hash[i]);
}

static void test_the_bound_is_kept(void **state)
{
    options.cache_max = 100 * KIB;
    fill(30, 10 * KIB);
    open_blobs(false);
    for (unsigned i = 0; i < 30; i++)
        must_have_blob(hash[i], i, 10 * KIB);
    eventually(stats().cached_bytes <= 100 * KIB);
    assert_true(stats().cached_bytes > 80 * KIB);
    assert_true(stats().evicted_bytes >= 200 * KIB);
    assert_true(is_there(local('c', hash[29])));
    assert_false(is_there(local('c', hash[0])));
    must_have_blob(hash[0], 0, 10 * KIB);
}

static void test_what_was_used_least_lately_goes(void **state)
{
    options.cache_max = 0;
    fill(5, 8 * KIB);
    open_blobs(false);
    for (unsigned i = 0; i < 5; i++)
        must_have_blob(hash[i], i, 8 * KIB);
    must_have_blob(hash[0], 0, 8 * KIB);
    bh_blobs_set_cache_max(blobs, 16 * KIB);
    eventually(stats().cached_bytes <= 16 * KIB);
    assert_true(is_there(local('c', hash[0])));
    assert_true(is_there(local('c', hash[4])));
    assert_false(is_there(local('c', hash[1])));
}

static void test_what_is_open_stays(void **state)
{
    options.cache_max = 0;
    fill(3, 8 * KIB);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash[0], 8 * KIB);
    must_read(o, 0, 0, 100);
    must_have_blob(hash[1], 1, 8 * KIB);
    bh_blobs_set_cache_max(blobs, 1);
    eventually(!is_there(local('c', hash[1])));
    assert_true(is_there(local('c', hash[0])));
    must_read(o, 0, 0, 8 * KIB);
    bh_blob_close(o);
    eventually(stats().cached_bytes == 0);
    assert_false(is_there(local('c', hash[0])));
}

static void test_what_is_pending_stays(void **state)
{
    no_start = true;
    options.cache_max = 1;
    open_blobs(false);
    for (unsigned i = 0; i < 10; i++)
        publish(i, 8 * KIB, hash[i]);
    usleep(50000);
    assert_int_equal(stats().cached_bytes, 0);
    for (unsigned i = 0; i < 10; i++)
        must_have_blob(hash[i], i, 8 * KIB);
    must(bh_blobs_start(blobs, ERR));
    must_store_all();
    eventually(stats().cached_bytes == 0); /* in the bucket they are cache */
    for (unsigned i = 0; i < 10; i++)
        assert_false(is_there(local('c', hash[i])));
}

static void test_the_order_survives_a_restart(void **state)
{
    struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    options.cache_max = 0;
    fill(4, 8 * KIB);
    open_blobs(false);
    for (unsigned i = 0; i < 4; i++)
        must_have_blob(hash[i], i, 8 * KIB);
    close_blobs();
    assert_int_equal(utimensat(AT_FDCWD, at(local('c', hash[2])), times, 0), 0);
    options.cache_max = 24 * KIB;
    open_blobs(false);
    eventually(stats().cached_bytes <= 24 * KIB);
    assert_false(is_there(local('c', hash[2])));
    assert_true(is_there(local('c', hash[0])) && is_there(local('c', hash[1])));
}

/* What no head names is not evicted, though it is in the bucket: another mount's gc may delete it
 * there. What was only read is. */
static void test_what_no_head_names_stays(void **state)
{
    uint8_t read[BH_SHA256_LEN];
    options.cache_max = 1;
    options.keep_unnamed = true;
    put_object(9, 8 * KIB, read);
    open_blobs(false);
    bh_blobs_named(blobs, bh_blobs_frozen(blobs)); /* nothing was here */
    publish(0, 8 * KIB, hash[0]);
    uint32_t first = bh_blobs_frozen(blobs);
    publish(1, 8 * KIB, hash[1]);
    must_store_all();
    must_have_blob(read, 9, 8 * KIB);
    eventually(!is_there(local('c', read)));
    assert_true(is_there(local('c', hash[0])) && is_there(local('c', hash[1])));
    bh_blobs_named(blobs, first);
    eventually(!is_there(local('c', hash[0])));
    assert_true(is_there(local('c', hash[1])));
    close_blobs();
    open_blobs(false); /* who named it is not known any more */
    must_have_blob(read, 9, 8 * KIB);
    eventually(!is_there(local('c', read)));
    assert_true(is_there(local('c', hash[1])));
    bh_blobs_named(blobs, bh_blobs_frozen(blobs));
    eventually(!is_there(local('c', hash[1])));
}

/* How many are in a list; all of them belong there. */
static unsigned listed(const struct blobs_uses *list, bool kept)
{
    unsigned n = 0;
    pthread_mutex_lock(&blobs->mutex);
    for (const struct blobs_entry *e = list->oldest, *older = NULL; e; older = e, e = e->newer) {
        assert_ptr_equal(e->older, older);
        assert_true(e->newer || list->newest == e);
        assert_int_equal(e->kept, kept);
        assert_int_equal(options.keep_unnamed && e->flush > blobs->named, kept);
        n++;
    }
    pthread_mutex_unlock(&blobs->mutex);
    return n;
}

static void must_be_listed(unsigned may_go, unsigned kept)
{
    assert_int_equal(listed(&blobs->may_go, false), may_go);
    assert_int_equal(listed(&blobs->kept, true), kept);
}

/* However much no head names yet, who evicts does not have to walk over it. */
static void test_eviction_does_not_look_at_what_is_kept(void **state)
{
    uint8_t read[BH_SHA256_LEN];
    options.keep_unnamed = true;
    put_object(90, 8 * KIB, read);
    open_blobs(false);
    for (unsigned i = 0; i < 20; i++)
        publish(i, 8 * KIB, hash[i]);
    must_store_all();
    must_have_blob(read, 90, 8 * KIB);
    must_be_listed(1, 20);
    bh_blobs_set_cache_max(blobs, 1);
    eventually(stats().evicted_bytes == 8 * KIB);
    must_be_listed(0, 20);
    bh_blobs_set_cache_max(blobs, 0);
    uint32_t first = bh_blobs_frozen(blobs);
    publish(5, 8 * KIB, hash[5]); /* known, and of the next flush now */
    must_have_blob(hash[6], 6, 8 * KIB);
    bh_blobs_named(blobs, first);
    must_be_listed(19, 1);
    publish(6, 8 * KIB, hash[6]); /* the same of what may go, the newest of it */
    publish(0, 8 * KIB, hash[0]); /* and the oldest */
    must_be_listed(17, 3);
    bh_blobs_set_cache_max(blobs, 1);
    eventually(stats().evicted_bytes == 18 * 8 * KIB);
    must_be_listed(0, 3);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(is_there(local('c', hash[i])), i == 0 || i == 5 || i == 6);
    bh_blobs_named(blobs, bh_blobs_frozen(blobs));
    eventually(stats().cached_bytes == 0);
    must_be_listed(0, 0);
    close_blobs();
    options.keep_unnamed = false;
    options.cache_max = 0;
    open_blobs(false);
    publish(1, 8 * KIB, hash[1]);
    must_store_all();
    must_be_listed(1, 0);
}

/* A blob that is larger than the cache, read while it is open. */
static void test_a_large_blob_in_a_small_cache(void **state)
{
    uint64_t size = 48 * MIB, most = 0;
    struct stat st;
    options.cache_max = 16 * MIB;
    put_object(1, size, hash[0]);
    open_blobs(false);
    struct bh_blob *o = open_blob(hash[0], size);
    for (uint64_t done = 0; done < size; done += 128 * KIB) {
        must_read(o, 1, done, 128 * KIB);
        uint64_t now = stats().cached_bytes;
        most = now > most ? now : most;
    }
    assert_true(most <= 32 * MIB);
    eventually(stats().cached_bytes <= 16 * MIB);
    assert_int_equal(stat(at(local('r', hash[0])), &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 <= 17 * MIB);
    must_read(o, 1, 5, 100000); /* what went is fetched again */
    must_read(o, 1, 20 * MIB + 5, 100000);
    bh_blob_close(o);
    crash(); /* and the map on the disk says so, too */
    o = open_blob(hash[0], size);
    for (uint64_t done = 0; done < size; done += MIB)
        must_read(o, 1, done, MIB);
    bh_blob_close(o);
}

static void test_memory_for_a_cached_blob(void **state)
{
    char command[400];
    no_start = true;
    snprintf(
        command, sizeof command,
        "cd %s && for i in $(seq 10000 29999); do printf 'c-%%s%%059d\\n' $i 0; done | xargs touch",
        at("state"));
    assert_int_equal(system(command), 0);
    size_t before = mallinfo2().uordblks;
    open_blobs(false);
    size_t each = (mallinfo2().uordblks - before) / 20000;
    print_message("%zu bytes for each\n", each);
    assert_true(each < 140);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_bound_is_kept),
        TEST(test_what_was_used_least_lately_goes),
        TEST(test_what_is_open_stays),
        TEST(test_what_is_pending_stays),
        TEST(test_the_order_survives_a_restart),
        TEST(test_what_no_head_names_stays),
        TEST(test_eviction_does_not_look_at_what_is_kept),
        TEST(test_a_large_blob_in_a_small_cache),
        TEST(test_memory_for_a_cached_blob),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
