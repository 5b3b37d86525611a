/* Many small files: as from tar, and their seconds. */
#include "blobs_fixture.h"

#define MANY 5000u

static double seconds_since(int64_t begin_ns)
{
    return (double)(bh_mono_ns() - begin_ns) / 1e9;
}

static void test_five_thousand_small_files(void **state)
{
    uint8_t(*hash)[BH_SHA256_LEN] = calloc(MANY, sizeof *hash);
    assert_non_null(hash);
    no_start = true;
    options.parallel = 8;
    open_blobs(false);
    int64_t begin = bh_mono_ns();
    for (unsigned i = 0; i < MANY; i++)
        publish(i, 2 * KIB, hash[i]);
    double published = seconds_since(begin);
    begin = bh_mono_ns();
    must(bh_blobs_settle(blobs, ERR));
    double settled = seconds_since(begin);
    begin = bh_mono_ns();
    must(bh_blobs_start(blobs, ERR));
    must(bh_blobs_wait(blobs, 1, NULL, ERR));
    double uploaded = seconds_since(begin);
    begin = bh_mono_ns();
    for (unsigned i = 0; i < MANY; i++)
        must_have_blob(hash[i], i, 2 * KIB);
    double warm = seconds_since(begin);
    close_blobs();
    char command[128];
    snprintf(command, sizeof command, "find %s -name 'c-*' -delete", at("state"));
    assert_int_equal(system(command), 0);
    open_blobs(false);
    begin = bh_mono_ns();
    for (unsigned i = 0; i < MANY; i++)
        must_have_blob(hash[i], i, 2 * KIB);
    print_message(
        "%u files of 2 KiB: written and published %.2f s, settled %.2f s, uploaded %.2f s, "
        "read warm %.2f s, cold %.2f s\n",
        MANY, published, settled, uploaded, warm, seconds_since(begin));
    assert_int_equal(requests(BH_OP_PUT), MANY);
    assert_int_equal(requests(BH_OP_HEAD), 0);
    assert_int_equal(requests(BH_OP_GET), MANY);
    free(hash);
}

struct writer {
    pthread_t thread;
    unsigned number;
    int rc;
};

static void *write_many(void *arg)
{
    struct writer *w = arg;
    uint8_t hash[BH_SHA256_LEN];
    char buf[3000], have[3000];
    for (unsigned i = 0; i < 200 && !w->rc; i++) {
        struct bh_dfile f;
        uint64_t number;
        size_t got;
        content(i % 50 + (i % 3 == 0 ? 1000 * w->number : 0), 0, buf, sizeof buf);
        w->rc = bh_data_create(blobs, &number, &f, NULL);
        if (w->rc)
            break;
        w->rc = bh_dfile_write(&f, buf, sizeof buf, 0);
        if (!w->rc)
            w->rc = bh_blobs_publish(blobs, &f, sizeof buf, number, i % 2, NULL, NULL, hash, NULL,
                                     NULL);
        bh_dfile_close(&f);
        bh_data_remove(blobs, number);
        if (!w->rc && i % 20 == 0)
            w->rc = bh_blobs_settle(blobs, NULL);
        struct bh_blob *o;
        if (!w->rc)
            w->rc = bh_blob_open(blobs, hash, sizeof buf, &o);
        if (w->rc)
            break;
        w->rc = bh_blob_read(o, have, sizeof have, 0, &got, NULL, NULL);
        if (!w->rc && memcmp(have, buf, sizeof buf) != 0)
            w->rc = EBADMSG;
        bh_blob_close(o);
    }
    return NULL;
}

/* The same content by several at once, uploaded and evicted meanwhile. */
static void test_writers_and_the_cache_at_once(void **state)
{
    struct writer writers[4];
    options.cache_max = 20 * KIB;
    open_blobs(false);
    for (unsigned i = 0; i < 4; i++) {
        writers[i] = (struct writer){.number = i + 1};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_many, &writers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(writers[i].thread, NULL);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(writers[i].rc, 0);
    must_store_all();
    eventually(stats().cached_bytes <= 20 * KIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_five_thousand_small_files),
        TEST(test_writers_and_the_cache_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
