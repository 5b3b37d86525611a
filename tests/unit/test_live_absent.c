/* Content that is in the bucket only: what is fetched when, how often, and what readers, writers
 * and truncations make of it while the origin is slow, fails, or belongs to content that was
 * swapped away. The origin here computes its content, counts, waits and fails as it is told.
 *
 * Tests in BUG(...) fail because of the code under test. */
#include "live_store.h"

#include <sched.h>
#include <sys/mount.h>

/* 1: the random test does what the tests in BUG do, too. */
#define BUGS_FIXED 1

enum { UNITS_MAX = 8192, LENS_MAX = 64, MODEL_MAX = 3 << 20 };
static const uint32_t units[] = {4096, 16384, 1 << 20};

/* --- the origin --- */

struct remote {
    struct bh_origin o;
    uint64_t salt; /* part of each of its words */
    uint64_t size; /* zeros from here on */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool blocked;
    unsigned calls, waiting;
    uint64_t lens[LENS_MAX];
    uint64_t asked_end;
    bool unaligned;
    uint16_t times[UNITS_MAX]; /* each unit was asked for */
    int fail;
    unsigned fail_calls;          /* so many more calls fail */
    uint64_t bad_begin, bad_end;  /* what overlaps this fails with EIO */
    unsigned cancel_at;           /* the call that sets cancel */
    atomic_bool cancel, *is_gone; /* may be NULL: set when it is freed */
};

static struct remote *remote; /* the store has a reference, too */

static uint64_t word(uint64_t salt, uint64_t offset)
{
    uint64_t x = (offset / 8 + 1) * 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    return salt << 48 | (x * 0xBF58476D1CE4E5B9u >> 16);
}

static unsigned char content(const struct remote *r, uint64_t offset)
{
    if (offset >= r->size)
        return 0;
    return (unsigned char)(word(r->salt, offset) >> (offset % 8 * 8));
}

static void fill_content(const struct remote *r, unsigned char *buf, uint64_t offset, size_t len)
{
    for (size_t i = 0; i < len; i++)
        buf[i] = content(r, offset + i);
}

static int remote_read(struct bh_origin *o, uint64_t offset, void *buf, size_t len,
                       struct bh_error *err)
{
    struct remote *r = (struct remote *)o;
    pthread_mutex_lock(&r->mutex);
    r->unaligned |= offset % o->unit || len % o->unit || len == 0;
    if (r->calls < LENS_MAX)
        r->lens[r->calls] = len;
    r->calls++;
    for (uint64_t u = offset / o->unit; u * o->unit < offset + len && u < UNITS_MAX; u++)
        r->times[u]++;
    r->asked_end = offset + len > r->asked_end ? offset + len : r->asked_end;
    if (r->calls == r->cancel_at)
        r->cancel = true;
    r->waiting++;
    pthread_cond_broadcast(&r->changed);
    while (r->blocked)
        pthread_cond_wait(&r->changed, &r->mutex);
    r->waiting--;
    int rc = r->fail_calls > 0                                    ? r->fail
             : offset < r->bad_end && offset + len > r->bad_begin ? EIO
                                                                  : 0;
    r->fail_calls -= r->fail_calls > 0;
    pthread_mutex_unlock(&r->mutex);
    if (rc)
        return bh_fail(err, rc, "the test's origin fails");
    fill_content(r, buf, offset, len);
    return 0;
}

static void remote_free(struct bh_origin *o)
{
    struct remote *r = (struct remote *)o;
    if (r->is_gone)
        *r->is_gone = true;
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
    free(r);
}

static struct remote *remote_new(uint64_t salt, uint64_t size, uint32_t unit)
{
    struct remote *r = calloc(1, sizeof *r);
    if (!r)
        abort();
    r->o = (struct bh_origin){.unit = unit, .read = remote_read, .free = remote_free};
    r->o.refs = 1;
    r->salt = salt;
    r->size = size;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->changed, NULL);
    return r;
}

static void set_blocked(struct remote *r, bool blocked)
{
    pthread_mutex_lock(&r->mutex);
    r->blocked = blocked;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

/* Until so many calls are in the origin at once. */
static void wait_for_calls(struct remote *r, unsigned waiting)
{
    pthread_mutex_lock(&r->mutex);
    while (r->waiting < waiting)
        pthread_cond_wait(&r->changed, &r->mutex);
    pthread_mutex_unlock(&r->mutex);
}

static unsigned calls(void)
{
    pthread_mutex_lock(&remote->mutex);
    unsigned n = remote->calls;
    pthread_mutex_unlock(&remote->mutex);
    return n;
}

static unsigned most_times(void)
{
    unsigned most = 0;
    for (size_t i = 0; i < UNITS_MAX; i++)
        most = remote->times[i] > most ? remote->times[i] : most;
    return most;
}

/* --- the content --- */

/* Everything is absent but page 1, as after bh_live_replace_lazily. */
static void lay_out(uint64_t size, uint32_t unit)
{
    unsigned char first[BLOCK];
    if (remote)
        bh_origin_unref(&remote->o);
    remote = remote_new(1, size, unit);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, size));
    must(bh_store_mark_all(store, BH_BLOCK_ABSENT));
    fill_content(remote, first, 0, size < BLOCK ? (size_t)size : BLOCK);
    must(bh_dfile_write(&db->disk, first, size < BLOCK ? (size_t)size : BLOCK, 0));
    must(bh_map_set(&store->map, 0, 1, BH_BLOCK_CLEAN));
    bh_store_set_origin(store, &remote->o);
}

static int absent_teardown(void **state)
{
    int rc = store_teardown(state);
    if (remote)
        bh_origin_unref(&remote->o);
    remote = NULL;
    return rc;
}

/* The first byte of a range that is not the origin's, or -1. Any thread. */
static int64_t wrong_byte(uint64_t offset, size_t len, int *rc)
{
    unsigned char *buf = malloc(len + 1);
    int64_t wrong = -1;
    *rc = buf ? bh_file_read(db, buf, len, offset, NULL) : ENOMEM;
    for (size_t i = 0; *rc == 0 && i < len && wrong < 0; i++)
        if (buf[i] != content(remote, offset + i))
            wrong = (int64_t)(offset + i);
    free(buf);
    return wrong;
}

static void must_be_origins_(uint64_t offset, size_t len, const char *file, int line)
{
    int rc;
    int64_t wrong = wrong_byte(offset, len, &rc);
    if (rc || wrong >= 0)
        print_error("%s:%d: reading %zu at %llu: error %d, wrong byte %lld\n", file, line, len,
                    (unsigned long long)offset, rc, (long long)wrong);
    if (rc || wrong >= 0)
        _fail(file, line);
}
#define must_be_origins(offset, len) must_be_origins_((offset), (len), __FILE__, __LINE__)

static uint64_t count_absent(void)
{
    uint64_t n = 0;
    for (uint64_t b = 0; b < store->map.used; b++)
        n += block_state(b) == BH_BLOCK_ABSENT;
    return n;
}

/* From now on nobody needs an undo log: there is a transaction to roll back from. */
static void begin_journal(void)
{
    struct bh_file *j = create_file(BH_JOURNAL_NAME);
    must(bh_file_write(j, BH_DOOR_CLIENT, magic, 8, 0));
    bh_file_unref(j);
}

static void read_byte(uint64_t offset, int byte)
{
    unsigned char c;
    must(bh_file_read(db, &c, 1, offset, NULL));
    assert_int_equal(c, byte);
}

/* --- reading --- */

static void test_any_range_reads_as_in_the_origin(void **state)
{
    const uint64_t size = (3 << 20) + 12345;
    for (size_t u = 0; u < 3; u++) {
        size_t got;
        unsigned char buf[100];
        for (uint64_t edge = BLOCK; edge < size; edge += 1 << 20) {
            lay_out(size, units[u]);
            must_be_origins(edge, 1);
            must_be_origins(edge - 1, 1);
            must_be_origins(edge + units[u] - 1, 2); /* two units */
            must_be_origins(size - 1, 1);
            must_be_origins(size - 5000, 10000); /* beyond the end: zeros */
        }
        lay_out(size, units[u]);
        must(bh_file_read(db, buf, 100, size - 30, &got));
        assert_int_equal(got, 30);
        must(bh_file_read(db, buf, 100, size + 5000, &got));
        assert_int_equal(got, 0);
        for (int i = 0; i < 200; i++) {
            uint64_t offset = any((uint32_t)size);
            must_be_origins(offset, 1 + any(i % 3 ? 10000 : 300000));
        }
        must_be_origins(0, size);
        assert_int_equal(bh_store_absent_bytes(store), 0);
        assert_int_equal(most_times(), 1);
        assert_false(remote->unaligned);
        assert_true(remote->asked_end < size + units[u]);
        assert_false(bh_store_is_dirty(store));
    }
}

static void test_small_files(void **state)
{
    static const uint64_t sizes[] = {1, 100, 4095, 4096, 4097, 8191, 8193, 20000};
    for (size_t u = 0; u < 3; u++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            lay_out(sizes[i], units[u]);
            must_be_origins(sizes[i] - 1, 3);
            must_be_origins(0, sizes[i] + 10);
            assert_int_equal(bh_store_absent_bytes(store), 0);
            assert_int_equal(bh_file_size(db), sizes[i]);
        }
}

static void test_what_is_absent_is_said(void **state)
{
    struct bh_file *j = create_file(BH_JOURNAL_NAME);
    const uint64_t size = 20 * BLOCK + 100;
    lay_out(size, 4096);
    assert_int_equal(bh_store_absent_bytes(store), 20 * BLOCK);
    assert_false(bh_file_is_absent(db, 0, BLOCK));
    assert_true(bh_file_is_absent(db, 0, BLOCK + 1));
    assert_false(bh_file_is_absent(db, 5 * BLOCK, 0));
    assert_false(bh_file_is_absent(db, 21 * BLOCK, BLOCK));
    assert_false(bh_file_is_absent(db, INT64_MAX, 1));
    must_be_origins(5 * BLOCK, 1);
    assert_false(bh_file_is_absent(db, 5 * BLOCK, BLOCK));
    assert_true(bh_file_is_absent(db, 5 * BLOCK - 1, 2));
    assert_true(bh_file_is_absent(db, 5 * BLOCK, BLOCK + 1));
    assert_false(bh_file_is_absent(j, 0, 100000));
    assert_false(bh_file_write_needs_fetch(j, BH_DOOR_CLIENT, 1, 1));
    /* no journal: undo wants what a client overwrites */
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK, BLOCK));
    must(bh_file_write(j, BH_DOOR_CLIENT, magic, 8, 0));
    assert_false(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK, 3 * BLOCK));
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK + 1, 2 * BLOCK - 1));
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK, BLOCK + 1));
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK + 5, 1));
    assert_false(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 5 * BLOCK + 5, 1));
    assert_false(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 5 * BLOCK + 5, 0));
    assert_true(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 20 * BLOCK, 100));
    assert_false(bh_file_write_needs_fetch(db, BH_DOOR_CLIENT, 21 * BLOCK + 5, 100));
    assert_true(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK + 1));
    assert_false(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, 7 * BLOCK));
    assert_false(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, 5 * BLOCK + 1));
    assert_true(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, size - 1));
    assert_false(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, size));
    assert_false(bh_file_truncate_needs_fetch(db, BH_DOOR_CLIENT, size + 1));
    assert_int_equal(calls(), 1);
    bh_file_unref(j);
}

/* --- sequence --- */

static void test_reading_in_sequence_fetches_ahead(void **state)
{
    const uint64_t size = 24 << 20;
    for (size_t u = 0; u < 3; u++) {
        lay_out(size, units[u]);
        for (uint64_t at = BLOCK; at < size; at += BLOCK)
            must_be_origins(at, BLOCK);
        assert_int_equal(most_times(), 1);
        assert_int_equal(remote->lens[0], units[u]);
        unsigned n = calls(), large = 0;
        assert_true(n < 24);
        for (unsigned i = 1; i < n; i++) {
            if (i + 1 < n) /* the last is what is left */
                assert_true(remote->lens[i] >= remote->lens[i - 1]);
            assert_true(remote->lens[i] <= 2 * remote->lens[i - 1]);
            assert_true(remote->lens[i] <= 4 << 20);
            large += remote->lens[i] == 4 << 20;
        }
        assert_true(large >= 3);
    }
}

static void test_reading_anywhere_fetches_the_unit_only(void **state)
{
    const uint64_t size = 24 << 20;
    for (size_t u = 0; u < 3; u++) {
        lay_out(size, units[u]);
        uint64_t n = size / units[u];
        unsigned reads = 0;
        for (uint64_t i = n < 100 ? n : 100; i-- > 1; reads++) /* backwards */
            must_be_origins(i * units[u] + units[u] / 2, 1);
        for (uint64_t i = 101; i < n && i < 200; i += 2, reads++) /* with gaps */
            must_be_origins(i * units[u] + units[u] / 2, 1);
        assert_int_equal(calls(), reads);
        for (unsigned i = 0; i < reads && i < LENS_MAX; i++)
            assert_int_equal(remote->lens[i], units[u]);
    }
}

static void test_fetching_ahead_ends_where_something_is(void **state)
{
    lay_out(4 << 20, 4096);
    for (uint64_t at = 20; at < 1000; at += 20)
        must_be_origins(at * BLOCK, 1);
    unsigned before = calls();
    for (uint64_t at = 1; at < 1000; at++)
        must_be_origins(at * BLOCK, 1);
    assert_int_equal(most_times(), 1);
    assert_true(calls() - before < 300);
}

/* --- many at once --- */

struct reader {
    pthread_t thread;
    uint64_t seed, offset, wrong_at;
    size_t len;
    int rc;
    unsigned rounds;
};

static void *read_ranges(void *arg)
{
    struct reader *r = arg;
    uint64_t size = remote->size;
    for (unsigned i = 0; i < r->rounds && r->rc == 0; i++) {
        uint64_t offset = r->offset;
        size_t len = r->len;
        if (r->seed) {
            r->seed = r->seed * 6364136223846793005u + 1442695040888963407u;
            offset = (r->seed >> 20) % size;
            len = 1 + (r->seed >> 8) % 50000;
        }
        int64_t wrong = wrong_byte(offset, len, &r->rc);
        if (wrong >= 0) {
            r->rc = EBADMSG;
            r->wrong_at = (uint64_t)wrong;
        }
    }
    return NULL;
}

static void start(struct reader *r)
{
    must(pthread_create(&r->thread, NULL, read_ranges, r));
}

static void join_readers(struct reader *r, unsigned n)
{
    int rc = 0;
    for (unsigned i = 0; i < n; i++) {
        must(pthread_join(r[i].thread, NULL));
        rc = r[i].rc ? r[i].rc : rc;
    }
    must(rc);
}

static void test_eight_readers_of_one_unit(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        struct reader r[8] = {0};
        lay_out(3 << 20, units[u]);
        set_blocked(remote, true);
        for (unsigned i = 0; i < 8; i++) {
            r[i] = (struct reader){.offset = (1 << 20) + i * 100, .len = 10, .rounds = 1};
            start(&r[i]);
        }
        wait_for_calls(remote, 1);
        usleep(20000); /* for those that would come, wrongly */
        set_blocked(remote, false);
        join_readers(r, 8);
        assert_int_equal(calls(), 1);
    }
}

static void test_eight_readers_of_everything(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        struct reader r[8] = {0};
        lay_out((2 << 20) + 777, units[u]);
        for (unsigned i = 0; i < 8; i++) {
            r[i] = i == 7 ? (struct reader){.len = (2 << 20) + 777, .rounds = 3}
                          : (struct reader){.seed = i + 1, .rounds = 60};
            start(&r[i]);
        }
        join_readers(r, 8);
        assert_int_equal(bh_store_absent_bytes(store), 0);
        assert_int_equal(most_times(), 1);
    }
}

static void test_more_readers_than_fetches_at_once(void **state)
{
    enum { READERS = 2 * FETCHES_MAX + 3 };
    struct reader r[READERS] = {0};
    lay_out(READERS * 3 * BLOCK, 4096);
    set_blocked(remote, true);
    for (unsigned i = 0; i < READERS; i++) {
        r[i] = (struct reader){.offset = (3 * i + 1) * BLOCK, .len = BLOCK, .rounds = 1};
        start(&r[i]);
    }
    wait_for_calls(remote, FETCHES_MAX);
    usleep(20000);
    assert_int_equal(calls(), FETCHES_MAX);
    set_blocked(remote, false);
    join_readers(r, READERS);
    assert_int_equal(calls(), READERS);
}

static void test_fetching_ahead_leaves_out_what_is_on_its_way(void **state)
{
    struct reader far = {.offset = 40 * BLOCK, .len = 1, .rounds = 1};
    struct reader next = {.offset = 17 * BLOCK, .len = 1, .rounds = 1};
    lay_out(1 << 20, 4096);
    set_blocked(remote, true);
    start(&far);
    wait_for_calls(remote, 1);
    pthread_mutex_lock(&store->mutex); /* as of one who reads in sequence up to here */
    store->fetches.next = next.offset;
    store->fetches.window = 1 << 20;
    pthread_mutex_unlock(&store->mutex);
    start(&next);
    wait_for_calls(remote, 2);
    set_blocked(remote, false);
    join_readers(&far, 1);
    join_readers(&next, 1);
    assert_int_equal(calls(), 2);
    assert_int_equal(most_times(), 1);
    must_be_origins(0, 1 << 20);
}

/* What waits for the bucket does not hold up what need not. */
static void test_a_slow_origin_holds_up_its_readers_only(void **state)
{
    struct reader r = {.offset = 100 * BLOCK, .len = 1, .rounds = 1};
    unsigned char block[BLOCK] = "x";
    lay_out(1 << 20, 4096);
    begin_journal();
    must_be_origins(50 * BLOCK, 1);
    set_blocked(remote, true);
    start(&r);
    wait_for_calls(remote, 1);
    must_be_origins(50 * BLOCK, BLOCK);
    write_db(BH_DOOR_INTERNAL, block, BLOCK, 60 * BLOCK);
    write_db(BH_DOOR_INTERNAL, "x", 1, 50 * BLOCK);
    write_db(BH_DOOR_INTERNAL, block, BLOCK, 101 * BLOCK);
    must(bh_file_sync(db));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 150 * BLOCK));
    struct bh_frozen *z = freeze_store(false);
    must(bh_store_thaw(z, false));
    set_blocked(remote, false);
    join_readers(&r, 1);
}

/* --- writing --- */

static void write_whole_blocks(enum bh_door door)
{
    write_blocks(door, 1, 1, 'a');
    write_blocks(door, 7, 9, 'b');
    write_blocks(door, 100, 1, 'c'); /* more than there was of it */
    write_blocks(door, 105, 1, 'd'); /* beyond */
    assert_int_equal(calls(), 0);
    assert_int_equal(bh_store_dirty_bytes(store), 12 * BLOCK);
    read_byte(BLOCK, 'a');
    read_byte(15 * BLOCK + 4095, 'b');
    read_byte(101 * BLOCK - 1, 'c');
    read_byte(101 * BLOCK, 0);
    read_byte(105 * BLOCK, 'd');
    assert_int_equal(calls(), 0);
    must_be_origins(2 * BLOCK, 2 * BLOCK); /* of the same unit */
    read_byte(BLOCK, 'a');
    read_byte(7 * BLOCK, 'b');
    assert_int_equal(block_state(1), BH_BLOCK_DIRTY);
    assert_int_equal(block_state(2), BH_BLOCK_CLEAN);
}

static void test_writes_of_whole_blocks_fetch_nothing(void **state)
{
    static const enum bh_door doors[] = {BH_DOOR_CLIENT, BH_DOOR_INTERNAL};
    begin_journal();
    for (int i = 0; i < 2; i++) {
        lay_out(100 * BLOCK + 10, 16384);
        write_whole_blocks(doors[i]);
    }
}

/* That door never has an undo log. */
static void test_the_inner_door_fetches_nothing_for_whole_blocks(void **state)
{
    lay_out(100 * BLOCK + 10, 16384);
    write_whole_blocks(BH_DOOR_INTERNAL);
}

static void test_a_partial_write_keeps_the_rest(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        lay_out(200 * BLOCK + 77, units[u]);
        write_db(BH_DOOR_INTERNAL, "xyz", 3, 10 * BLOCK + 50);
        write_db(BH_DOOR_INTERNAL, "xyz", 3, 21 * BLOCK - 1);
        write_db(BH_DOOR_INTERNAL, "xyz", 3, 200 * BLOCK + 70);
        must_be_origins(10 * BLOCK, 50);
        must_be_origins(10 * BLOCK + 53, BLOCK - 53);
        must_be_origins(20 * BLOCK, BLOCK - 1);
        must_be_origins(21 * BLOCK + 2, BLOCK - 2);
        must_be_origins(200 * BLOCK, 70);
        must_be_origins(200 * BLOCK + 73, 4);
        read_byte(10 * BLOCK + 51, 'y');
        read_byte(21 * BLOCK, 'y');
        read_byte(200 * BLOCK + 72, 'z');
        assert_int_equal(block_state(10), BH_BLOCK_DIRTY);
    }
}

/* Its middle is whole blocks: only the two ends are needed. */
static void test_a_long_write_fetches_its_ends_only(void **state)
{
    lay_out(300 * BLOCK, 4096);
    unsigned char *buf = calloc(1, 100 * BLOCK);
    assert_non_null(buf);
    begin_journal();
    write_db(BH_DOOR_CLIENT, buf, 100 * BLOCK, 5 * BLOCK);
    assert_int_equal(calls(), 0);
    write_db(BH_DOOR_CLIENT, buf, 100 * BLOCK, 150 * BLOCK + 9);
    must_be_origins(150 * BLOCK, 9);
    must_be_origins(250 * BLOCK + 9, BLOCK - 9);
    free(buf);
}

/* A fetch that comes back after the write must not put the old content over it. */
static void test_a_write_during_the_fetch_stays(void **state)
{
    struct reader r = {.offset = 16 * BLOCK, .len = 1, .rounds = 1};
    lay_out(1 << 20, 16 * 4096);
    begin_journal();
    set_blocked(remote, true);
    start(&r);
    wait_for_calls(remote, 1);
    write_blocks(BH_DOOR_INTERNAL, 18, 3, 'w');
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 30 * BLOCK)); /* within the unit, too */
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 40 * BLOCK));
    set_blocked(remote, false);
    join_readers(&r, 1);
    read_byte(18 * BLOCK, 'w');
    read_byte(21 * BLOCK - 1, 'w');
    must_be_origins(21 * BLOCK, 9 * BLOCK);
    for (uint64_t b = 30; b < 40; b++)
        read_byte(b * BLOCK + 5, 0);
    assert_int_equal(calls(), 1);
}

/* --- undo --- */

static void set_origin_anew(void)
{
    bh_store_set_origin(store, &remote->o);
}

static void play_back(bool after_crash)
{
    if (after_crash)
        reopen_store();
    must(bh_store_undo_play(store, NULL, NULL));
    assert_false(bh_store_undo_pending(store));
    if (after_crash)
        set_origin_anew();
}

static void test_undo_of_a_clients_writes(void **state)
{
    const uint64_t size = 300 * BLOCK + 99;
    for (int crash = 0; crash < 2; crash++)
        for (size_t u = 0; u < 3; u++) {
            lay_out(size, units[u]);
            write_blocks(BH_DOOR_CLIENT, 10, 3, 'u');
            write_db(BH_DOOR_CLIENT, "uvw", 3, 21 * BLOCK - 1);
            write_db(BH_DOOR_CLIENT, "uvw", 3, size - 2); /* grows by a byte */
            write_blocks(BH_DOOR_CLIENT, 299, 10, 'v');
            play_back(crash);
            assert_int_equal(bh_file_size(db), size);
            must_be_origins(0, size + BLOCK);
        }
}

static void test_a_committed_write_without_a_journal_stays(void **state)
{
    lay_out(100 * BLOCK, 16384);
    write_blocks(BH_DOOR_CLIENT, 10, 3, 'u');
    must(bh_store_undo_forget(store));
    write_blocks(BH_DOOR_CLIENT, 11, 3, 'v');
    play_back(true);
    read_byte(11 * BLOCK, 'u');
    must_be_origins(13 * BLOCK, 87 * BLOCK);
}

/* The undo log must not take the holes for content. */
static void test_undo_of_a_clients_truncation(void **state)
{
    static const uint64_t sizes[] = {50 * BLOCK, 50 * BLOCK + 7, 0};
    for (int crash = 0; crash < 2; crash++)
        for (size_t i = 0; i < 3; i++) {
            lay_out(100 * BLOCK + 9, 4096);
            must_be_origins(60 * BLOCK, 1);
            must(bh_file_truncate(db, BH_DOOR_CLIENT, sizes[i]));
            play_back(crash);
            assert_int_equal(bh_file_size(db), 100 * BLOCK + 9);
            must_be_origins(0, 100 * BLOCK + 9);
        }
}

/* --- truncation --- */

static void test_truncation_into_an_absent_block(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        lay_out(300 * BLOCK + 9, units[u]);
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 290 * BLOCK + 100));
        assert_int_equal(calls(), 1);
        assert_int_equal(bh_file_size(db), 290 * BLOCK + 100);
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 300 * BLOCK + 9));
        assert_int_equal(block_state(290), BH_BLOCK_DIRTY);
        remote->size = 290 * BLOCK + 100; /* as it must read from now on */
        for (uint64_t b = 291; b < 300; b++) {
            assert_int_equal(block_state(b), BH_BLOCK_ZERO);
            assert_false(bh_file_is_absent(db, b * BLOCK, BLOCK));
        }
        must_be_origins(290 * BLOCK, 10 * BLOCK + 9);
        write_db(BH_DOOR_INTERNAL, "x", 1, 295 * BLOCK + 1);
        read_byte(295 * BLOCK, 0);
        read_byte(295 * BLOCK + 2, 0);
        assert_int_equal(calls(), 1);
    }
}

static void test_truncation_between_blocks_fetches_nothing(void **state)
{
    lay_out(300 * BLOCK + 9, 16384);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 200 * BLOCK));
    assert_int_equal(calls(), 0);
    assert_int_equal(bh_store_absent_bytes(store), 199 * BLOCK);
    assert_true(bh_store_is_dirty(store));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 300 * BLOCK));
    read_byte(250 * BLOCK, 0);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 300 * BLOCK));
    read_byte(5 * BLOCK, 0);
    assert_int_equal(calls(), 0);
    assert_int_equal(bh_store_absent_bytes(store), 0);
}

/* The last block grew without anybody having read it. */
static void test_growth_of_an_absent_tail(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        lay_out(100 * BLOCK + 9, units[u]);
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 120 * BLOCK));
        must_be_origins(99 * BLOCK, 21 * BLOCK);
        lay_out(100 * BLOCK + 9, units[u]);
        write_blocks(BH_DOOR_INTERNAL, 110, 1, 'g');
        must_be_origins(99 * BLOCK, 11 * BLOCK);
        lay_out(100 * BLOCK + 9, units[u]);
        write_db(BH_DOOR_INTERNAL, "g", 1, 100 * BLOCK + 50); /* behind its end, in its block */
        must_be_origins(99 * BLOCK, BLOCK + 50);
        read_byte(100 * BLOCK + 50, 'g');
    }
}

/* kill -9 after the file was cut and before the map says so. */
static int cut_file_and_old_map(void)
{
    unsigned char byte = 1;
    size_t got = 1;
    alarm(10); /* it must not wait for ever */
    child_check(bh_file_read(db, &byte, 1, 12 * BLOCK, &got) == 0);
    child_check(got == 0 && byte == 0);
    child_check(bh_store_hydrate(store, NULL, ERR) == 0);
    child_check(bh_store_absent_bytes(store) == 0);
    return 0;
}

static void cut_behind_the_maps_back(void)
{
    lay_out(20 * BLOCK, 4096);
    bh_store_close(store);
    must(truncate(at("state/db.1"), 10 * BLOCK));
    open_store(1);
    set_origin_anew();
}

static void test_a_map_that_says_absent_beyond_the_end(void **state)
{
    cut_behind_the_maps_back();
    in_child(cut_file_and_old_map);
}

static void test_growth_after_a_crash_in_a_truncation(void **state)
{
    cut_behind_the_maps_back();
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 20 * BLOCK));
    read_byte(15 * BLOCK, 0);
    assert_int_equal(calls(), 0);
}

/* --- failures --- */

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

/* --- swap --- */

/* Files of a generation with the content of r: page 1 here, the rest absent, or everything here. */
static void make_generation(uint64_t generation, const struct remote *r, bool here)
{
    char name[32];
    struct bh_map map;
    size_t len = here ? (size_t)r->size : BLOCK;
    unsigned char *data = malloc(len);
    assert_non_null(data);
    must(bh_store_make_generation(disk, generation, ERR));
    fill_content(r, data, 0, len);
    snprintf(name, sizeof name, "state/db.%d", (int)generation);
    put_file(name, data, len);
    must(truncate(at(name), (off_t)r->size));
    snprintf(name, sizeof name, "map.%d", (int)generation);
    must(bh_map_open(&map, disk, name, true, ERR));
    must(bh_map_set(&map, 0, (r->size + BLOCK - 1) / BLOCK,
                    here ? BH_BLOCK_CLEAN : BH_BLOCK_ABSENT));
    must(bh_map_set(&map, 0, 1, BH_BLOCK_CLEAN));
    bh_map_close(&map);
    free(data);
}

static void test_a_swap_during_a_fetch(void **state)
{
    for (int how = 0; how < 3; how++) { /* new content absent, here, longer */
        atomic_bool gone = false;
        struct reader r = {.offset = 20 * BLOCK, .len = 3 * BLOCK, .rounds = 1};
        uint64_t size = (how == 2 ? 400 : 200) * BLOCK, generation = store->generation + 1;
        lay_out(200 * BLOCK, 16384);
        struct remote *old = remote, *new = remote_new(2, size, 4096);
        old->is_gone = &gone;
        make_generation(generation, new, how == 1);
        set_blocked(old, true);
        start(&r);
        wait_for_calls(old, 1);
        must(bh_store_swap(store, generation, how == 1 ? NULL : &new->o, ERR));
        remote = new; /* what the reader expects from now on */
        bh_origin_unref(&old->o);
        usleep(1000);
        assert_false(gone); /* the fetch has it */
        set_blocked(old, false);
        join_readers(&r, 1);
        assert_true(gone);
        must_be_origins(0, size);
        assert_false(bh_store_is_dirty(store));
    }
}

static atomic_uint_fast64_t swap_begun, swap_done;
static atomic_bool swaps_enough, swap_wrong;

/* What is read must be of the generation at the time: no zeros, nothing older. */
static void *read_beside_swaps(void *arg)
{
    struct reader *r = arg;
    uint64_t buf[4 * BLOCK / 8];
    while (!swaps_enough && r->rc == 0) {
        r->seed = r->seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t offset = BLOCK * ((r->seed >> 33) % 60), oldest = swap_done;
        r->rc = bh_file_read(db, buf, sizeof buf, offset, NULL);
        uint64_t newest = swap_begun;
        for (size_t i = 0; r->rc == 0 && i < sizeof buf / 8; i++) {
            uint64_t salt = buf[i] >> 48;
            if (salt < oldest || salt > newest || buf[i] != word(salt, offset + 8 * i)) {
                r->rc = EBADMSG;
                r->wrong_at = buf[i];
            }
        }
        if (r->rc)
            swap_wrong = true;
    }
    return NULL;
}

static void swap_for(int64_t ms, bool absent)
{
    struct reader r[4] = {0};
    lay_out(64 * BLOCK, 4096);
    swap_begun = swap_done = 1;
    swaps_enough = swap_wrong = false;
    for (unsigned i = 0; i < 4; i++) {
        r[i].seed = i + 1;
        must(pthread_create(&r[i].thread, NULL, read_beside_swaps, &r[i]));
    }
    int swap_rc = 0;
    int64_t end = bh_mono_ms() + ms;
    for (uint64_t g = 2; bh_mono_ms() < end && g < 60000 && !swap_wrong && !swap_rc; g++) {
        struct remote *new = remote_new(g, 64 * BLOCK, 4096);
        make_generation(g, new, !absent && g % 2);
        swap_begun = g;
        swap_rc = bh_store_swap(store, g, &new->o, ERR);
        swap_done = g;
        bh_origin_unref(&new->o);
    }
    swaps_enough = true;
    for (unsigned i = 0; i < 4; i++)
        must(pthread_join(r[i].thread, NULL));
    must(swap_rc);
    for (unsigned i = 0; i < 4; i++)
        if (r[i].rc)
            fail_msg("error %d, or the word %llx in place of content", r[i].rc,
                     (unsigned long long)r[i].wrong_at);
}

static void test_reading_beside_swaps_to_absent_content(void **state)
{
    swap_for(4000, true);
}

static void test_reading_beside_swaps_of_both_kinds(void **state)
{
    swap_for(4000, false);
}

/* --- all of it --- */

static void test_hydrate(void **state)
{
    for (size_t u = 0; u < 3; u++) {
        lay_out((9 << 20) + 5, units[u]);
        write_blocks(BH_DOOR_INTERNAL, 100, 5, 'x');
        must(bh_store_hydrate(store, NULL, ERR));
        assert_int_equal(bh_store_absent_bytes(store), 0);
        assert_int_equal(count_absent(), 0);
        assert_int_equal(most_times(), 1);
        unsigned n = calls();
        must(bh_store_hydrate(store, NULL, ERR));
        must_be_origins(0, 100 * BLOCK);
        read_byte(104 * BLOCK, 'x');
        must_be_origins(105 * BLOCK, (9 << 20) + 5 - 105 * BLOCK);
        assert_int_equal(calls(), n);
        assert_int_equal(bh_store_dirty_bytes(store), 5 * BLOCK);
    }
}

static void test_hydrate_is_cancelled(void **state)
{
    lay_out(40 << 20, 16384);
    remote->cancel_at = 3;
    must_fail(bh_store_hydrate(store, &remote->cancel, ERR), ECANCELED);
    assert_int_equal(calls(), 3);
    assert_true(bh_store_absent_bytes(store) > 0);
    must_fail(bh_store_hydrate(store, &remote->cancel, ERR), ECANCELED);
    assert_int_equal(calls(), 3);
    remote->cancel = false;
    must(bh_store_hydrate(store, &remote->cancel, ERR));
    assert_int_equal(bh_store_absent_bytes(store), 0);
    assert_int_equal(most_times(), 1);
}

static void *hydrate(void *arg)
{
    struct reader *r = arg;
    struct bh_error err;
    r->rc = bh_store_hydrate(store, NULL, &err);
    return NULL;
}

static void test_hydrate_beside_writers_and_truncations(void **state)
{
    for (int round = 0; round < 20; round++) {
        struct reader h = {0};
        lay_out(2 << 20, units[round % 2]);
        if (round % 2 && !store->journal)
            begin_journal();
        must(pthread_create(&h.thread, NULL, hydrate, &h));
        for (int i = 0; i < 100; i++)
            write_blocks(BH_DOOR_INTERNAL, 1 + any(300), 1, 'w');
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, (100 + any(300)) * BLOCK + any(2)));
        uint64_t size = bh_file_size(db);
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 2 << 20));
        must(pthread_join(h.thread, NULL));
        must(h.rc);
        assert_int_equal(bh_store_absent_bytes(store), 0);
        for (uint64_t b = 1; b < 512; b++) {
            unsigned char buf[BLOCK];
            must(bh_file_read(db, buf, BLOCK, b * BLOCK, NULL));
            unsigned char first = b * BLOCK < size ? content(remote, b * BLOCK) : 0;
            assert_true(buf[0] == first || buf[0] == 'w');
            unsigned char last = b * BLOCK + 4095 < size ? content(remote, b * BLOCK + 4095) : 0;
            assert_true(buf[4095] == last || (buf[4095] == 'w' && b * BLOCK < size));
        }
    }
}

/* --- closed and opened again --- */

static void test_states_outlive_the_process(void **state)
{
    unsigned char byte;
    lay_out(100 * BLOCK + 5, 4096);
    must_be_origins(10 * BLOCK, 3 * BLOCK);
    write_blocks(BH_DOOR_INTERNAL, 20, 2, 'd');
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 90 * BLOCK));
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 100 * BLOCK));
    uint64_t absent = bh_store_absent_bytes(store), dirty = bh_store_dirty_bytes(store);
    unsigned n = calls();
    reopen_store();
    assert_int_equal(bh_store_absent_bytes(store), absent);
    assert_int_equal(bh_store_dirty_bytes(store), dirty);
    must_fail(bh_file_read(db, &byte, 1, 50 * BLOCK, NULL), EIO); /* no origin yet */
    assert_int_equal(block_state(10), BH_BLOCK_CLEAN);
    assert_int_equal(block_state(13), BH_BLOCK_ABSENT);
    assert_int_equal(block_state(20), BH_BLOCK_DIRTY);
    assert_int_equal(block_state(95), BH_BLOCK_ZERO);
    read_byte(21 * BLOCK, 'd');
    read_byte(95 * BLOCK, 0);
    set_origin_anew();
    must_be_origins(10 * BLOCK, 3 * BLOCK);
    assert_int_equal(calls(), n);
    must_be_origins(22 * BLOCK, 68 * BLOCK);
}

static void test_clean_blocks_that_are_forgotten_come_again(void **state)
{
    lay_out(100 * BLOCK + 5, 4096);
    must(bh_store_hydrate(store, NULL, ERR));
    write_blocks(BH_DOOR_INTERNAL, 20, 2, 'd');
    must(bh_store_forget_clean(store));
    assert_int_equal(bh_store_absent_bytes(store), 98 * BLOCK);
    assert_int_equal(block_state(0), BH_BLOCK_CLEAN);
    assert_int_equal(block_state(20), BH_BLOCK_DIRTY);
    must_be_origins(22 * BLOCK, 78 * BLOCK + 5);
    read_byte(21 * BLOCK, 'd');
    must_be_origins(0, 20 * BLOCK);
}

/* --- against a model --- */

static unsigned char *model;
static size_t model_size;

static void model_resize(size_t size)
{
    if (size > model_size)
        memset(model + model_size, 0, size - model_size);
    model_size = size;
}

static void must_be_model(size_t offset, size_t len, int step)
{
    static unsigned char buf[MODEL_MAX];
    size_t got;
    must(bh_file_read(db, buf, len, offset, &got));
    size_t valid = offset < model_size ? model_size - offset : 0;
    assert_int_equal(got, len < valid ? len : valid);
    for (size_t i = 0; i < got; i++)
        if (buf[i] != model[offset + i])
            fail_msg("step %d: byte %zu is %02x, not %02x", step, offset + i, buf[i],
                     model[offset + i]);
}

/* With an origin that fails now and then: what fails changes nothing. */
static void model_write(enum bh_door door)
{
    static unsigned char buf[70000];
    size_t offset = any((uint32_t)model_size + 20000),
           len = 1 + any(any(4) ? 9000 : (uint32_t)sizeof buf);
    if (any(2)) {
        offset -= offset % BLOCK;
        len += BLOCK - len % BLOCK;
    }
    if (len > sizeof buf || offset + len > MODEL_MAX)
        return;
    fill_random(buf, len < 16 ? len : 16);
    memset(buf + (len < 16 ? len : 16), (int)any(256), len - (len < 16 ? len : 16));
    int rc = bh_file_write(db, door, buf, len, offset);
    if (rc == ETIMEDOUT)
        return;
    must(rc);
    if (offset + len > model_size)
        model_resize(offset + len);
    memcpy(model + offset, buf, len);
}

static void model_truncate(enum bh_door door)
{
    size_t size = any(3) ? model_size - any((uint32_t)(model_size < 30000 ? model_size : 30000) + 1)
                         : model_size + any(100000);
    size = any(2) ? size : size - size % BLOCK;
    if (size > MODEL_MAX || size == 0)
        return;
    if (!BUGS_FIXED && door == BH_DOOR_CLIENT && size < model_size &&
        bh_store_fetch(store, size, model_size - size, ERR)) /* undo of it loses what is absent */
        return;
    int rc = bh_file_truncate(db, door, size);
    if (rc == ETIMEDOUT)
        return;
    must(rc);
    model_resize(size);
}

/* A client without a journal, that commits or dies. */
static void model_client(void)
{
    unsigned char *before = malloc(MODEL_MAX);
    size_t before_size = model_size;
    assert_non_null(before);
    memcpy(before, model, model_size);
    for (unsigned i = 0, n = 1 + any(4); i < n; i++)
        if (any(3))
            model_write(BH_DOOR_CLIENT);
        else
            model_truncate(BH_DOOR_CLIENT);
    if (any(2)) {
        must(bh_store_undo_forget(store));
    } else {
        play_back(any(2));
        memcpy(model, before, before_size);
        model_size = before_size;
    }
    free(before);
}

static void random_step(int step)
{
    size_t offset = any((uint32_t)model_size), size = model_size;
    if (any(6) == 0) {
        remote->fail = ETIMEDOUT;
        remote->fail_calls = 1;
    }
    switch (any(12)) {
    case 0:
    case 1:
    case 2:
    case 3:
        model_write(BH_DOOR_INTERNAL);
        break;
    case 4:
        model_truncate(BH_DOOR_INTERNAL);
        break;
    case 5:
        if (!store->journal)
            model_client();
        break;
    case 6:
        if (any(8) == 0)
            must(bh_store_forget_clean(store));
        else if (store->journal)
            must(bh_store_unlink(store, BH_JOURNAL_NAME));
        else
            begin_journal();
        break;
    case 7:
        reopen_store();
        set_origin_anew();
        break;
    default:
        remote->fail_calls = 0;
        size = size - offset < 40000 ? size - offset : 40000;
        must_be_model(offset, any(3) ? 1 + any((uint32_t)size) : 1, step);
    }
    remote->fail_calls = 0;
}

static void test_against_a_model(void **state)
{
    model = malloc(MODEL_MAX);
    assert_non_null(model);
    for (int round = 0; round < 9; round++) {
        model_size = 500000 + any(1500000);
        lay_out(model_size, units[round % 3]);
        fill_content(remote, model, 0, model_size);
        for (int step = 0; step < 500; step++) {
            random_step(step);
            assert_int_equal(bh_file_size(db), model_size);
            if (step % 50 == 0)
                assert_int_equal(count_absent() * BLOCK, bh_store_absent_bytes(store));
        }
        if (round % 2)
            must(bh_store_hydrate(store, NULL, ERR));
        must_be_model(0, model_size, -1);
        assert_int_equal(bh_store_absent_bytes(store), 0);
        assert_false(remote->unaligned);
    }
    free(model);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup, absent_teardown)
/* Fails for a reason in the code under test. */
#define BUG(name) TEST(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_any_range_reads_as_in_the_origin),
        TEST(test_small_files),
        TEST(test_what_is_absent_is_said),
        TEST(test_reading_in_sequence_fetches_ahead),
        TEST(test_reading_anywhere_fetches_the_unit_only),
        TEST(test_fetching_ahead_ends_where_something_is),
        TEST(test_eight_readers_of_one_unit),
        TEST(test_eight_readers_of_everything),
        TEST(test_more_readers_than_fetches_at_once),
        TEST(test_fetching_ahead_leaves_out_what_is_on_its_way),
        TEST(test_a_slow_origin_holds_up_its_readers_only),
        TEST(test_writes_of_whole_blocks_fetch_nothing),
        BUG(test_the_inner_door_fetches_nothing_for_whole_blocks),
        TEST(test_a_partial_write_keeps_the_rest),
        TEST(test_a_long_write_fetches_its_ends_only),
        TEST(test_a_write_during_the_fetch_stays),
        TEST(test_undo_of_a_clients_writes),
        TEST(test_a_committed_write_without_a_journal_stays),
        BUG(test_undo_of_a_clients_truncation),
        TEST(test_truncation_into_an_absent_block),
        TEST(test_truncation_between_blocks_fetches_nothing),
        TEST(test_growth_of_an_absent_tail),
        BUG(test_a_map_that_says_absent_beyond_the_end),
        BUG(test_growth_after_a_crash_in_a_truncation),
        TEST(test_a_failing_origin),
        TEST(test_all_who_wait_hear_of_the_error),
        BUG(test_what_is_ahead_and_bad_is_nobodys_business),
        TEST(test_without_an_origin),
        TEST(test_no_space),
        TEST(test_a_swap_during_a_fetch),
        BUG(test_reading_beside_swaps_to_absent_content),
        BUG(test_reading_beside_swaps_of_both_kinds),
        TEST(test_hydrate),
        TEST(test_hydrate_is_cancelled),
        TEST(test_hydrate_beside_writers_and_truncations),
        TEST(test_states_outlive_the_process),
        TEST(test_clean_blocks_that_are_forgotten_come_again),
        TEST(test_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
