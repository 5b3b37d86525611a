/* What a flush reads and what it is told has changed, while threads write, truncate, fetch, evict
 * and read the frozen content. */
#include "live_changed.h"

static atomic_bool enough, leisurely; /* leaves something clean */
static atomic_int thread_failed;
static atomic_uint_fast64_t total_evicted;

struct worker {
    pthread_t thread;
    uint64_t seed;
};

static uint64_t next(struct worker *w)
{
    w->seed = w->seed * 6364136223846793005u + 1442695040888963407u;
    return w->seed >> 20;
}

static void *write_all_the_time(void *arg)
{
    struct worker *w = arg;
    unsigned char buf[3 * BLOCK];
    while (!enough) {
        uint64_t kind = next(w) % 20, offset = next(w) % (MODEL_MAX - 200000),
                 len = 1 + next(w) % sizeof buf;
        memset(buf, (int)next(w), sizeof buf);
        usleep(leisurely ? 500 : 0);
        if (kind < 8) {
            offset -= offset % BLOCK;
            len = 2 * BLOCK;
        }
        int rc = kind == 19   ? bh_file_truncate(db, BH_DOOR_INTERNAL, offset + 200000)
                 : kind == 18 ? bh_file_truncate(db, BH_DOOR_INTERNAL, 200000 + offset % 100000)
                              : bh_file_write(db, BH_DOOR_INTERNAL, buf, len, offset);
        if (rc)
            thread_failed = rc;
    }
    return NULL;
}

static void *fetch_all_the_time(void *arg)
{
    struct worker *w = arg;
    unsigned char buf[BLOCK];
    while (!enough) {
        int rc = bh_file_read(db, buf, sizeof buf, next(w) % MODEL_MAX, NULL);
        if (rc)
            thread_failed = rc;
    }
    return NULL;
}

static void *evict_all_the_time(void *arg)
{
    struct worker *w = arg;
    while (!enough) {
        uint64_t evicted;
        int rc = bh_store_evict(store, next(w) % 2 ? 0 : next(w) % MODEL_MAX, &evicted);
        if (rc)
            thread_failed = rc;
        total_evicted += evicted;
        usleep(200);
    }
    return NULL;
}

static int64_t first_difference(const unsigned char *buf, size_t offset, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (buf[i] != image[offset + i])
            return (int64_t)(offset + i);
    return -1;
}

static void *read_frozen_all_the_time(void *arg)
{
    struct worker *w = arg;
    unsigned char *buf = malloc(100000);
    int rc = buf ? 0 : ENOMEM;
    while (!enough && rc == 0) {
        size_t offset = next(w) % image_size, len = 1 + next(w) % 100000;
        len = image_size - offset < len ? image_size - offset : len;
        rc = bh_frozen_read(frozen, buf, len, offset);
        if (rc == 0 && first_difference(buf, offset, len) >= 0)
            rc = EBADMSG;
    }
    if (rc)
        thread_failed = rc;
    free(buf);
    return NULL;
}

/* Nobody writes now: the content without what is under test. */
static void take_content(void)
{
    now_size = bh_file_size(db);
    memset(now, 0, sizeof now);
    must(bh_pread_full(db->disk.fd, now, now_size, 0, NULL));
    for (size_t b = 0; b * BLOCK < now_size; b++)
        if (block_state(b) == BH_BLOCK_ABSENT)
            memcpy(now + b * BLOCK, base + b * BLOCK,
                   now_size - b * BLOCK < BLOCK ? now_size - b * BLOCK : BLOCK);
    memset(touched, 1, sizeof touched); /* unknown */
}

static void run_threads(bool patient, int rounds, uint32_t block_size)
{
    struct worker w[4] = {{.seed = 1}, {.seed = 2}, {.seed = 3}, {.seed = 4}};
    int which = block_size == 4096 ? 0 : block_size == 16384 ? 1 : 2;
    begin_model(900000, 16384);
    thread_failed = 0;
    total_evicted = 0;
    for (int round = 0; round < rounds; round++) {
        take_content();
        memcpy(image, now, sizeof image);
        image_size = now_size;
        frozen = freeze_store(patient);
        take_lists();
        enough = false;
        leisurely = round % 2;
        must(pthread_create(&w[0].thread, NULL, write_all_the_time, &w[0]));
        must(pthread_create(&w[1].thread, NULL, fetch_all_the_time, &w[1]));
        must(pthread_create(&w[2].thread, NULL, read_frozen_all_the_time, &w[2]));
        must(pthread_create(&w[3].thread, NULL, evict_all_the_time, &w[3]));
        bool same = true, flushed = round % 4;
        int64_t wrong = -1;
        int rc = 0;
        for (int pass = 0; pass < 3; pass++) {
            struct list l = {0};
            rc = rc ? rc
                    : bh_frozen_changed(frozen, block_size, base_size, false, &l.blocks, &l.count);
            same &= l.count == lists[which].count &&
                    (l.count == 0 || !memcmp(l.blocks, lists[which].blocks, l.count * 8));
            free(l.blocks);
            rc = rc ? rc : bh_frozen_read(frozen, scratch_buf, image_size, 0);
            wrong = wrong < 0 && rc == 0 ? first_difference(scratch_buf, 0, image_size) : wrong;
        }
        if (rc == 0 && wrong < 0 && same && flushed)
            upload(&lists[which], block_size, image_size);
        if (rc == 0 && wrong < 0 && same && flushed && round % 3) { /* and KEY after it */
            advance(store, 16384);
            rc = bh_frozen_read(frozen, scratch_buf, image_size, 0);
            wrong = rc == 0 ? first_difference(scratch_buf, 0, image_size) : wrong;
        }
        enough = true; /* the reader of the frozen content ends before it */
        must(pthread_join(w[3].thread, NULL));
        must(pthread_join(w[2].thread, NULL));
        must(pthread_join(w[1].thread, NULL));
        must(pthread_join(w[0].thread, NULL));
        enough = false;
        must(pthread_create(&w[0].thread, NULL, write_all_the_time, &w[0]));
        must(pthread_create(&w[3].thread, NULL, evict_all_the_time, &w[3]));
        usleep(any(500));
        int thaw_rc = bh_store_thaw(frozen, flushed && rc == 0); /* beside the writer, too */
        frozen = NULL;
        enough = true;
        must(pthread_join(w[3].thread, NULL));
        must(pthread_join(w[0].thread, NULL));
        must(rc);
        must(thaw_rc);
        must(thread_failed);
        assert_int_equal(wrong, -1);
        assert_true(same);
        set_remote(store, base, base_size, 16384);
        if (round % 3 == 0)
            forget_clean(store);
    }
    assert_true(total_evicted > 1 << 20);
}

static void test_threads_with_small_blocks(void **state)
{
    run_threads(false, 40, 4096);
}

static void test_threads_with_large_blocks(void **state)
{
    run_threads(true, 40, 65536);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_threads_with_small_blocks),
        TEST(test_threads_with_large_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
