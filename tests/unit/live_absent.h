/* For tests of content that is in the bucket only: a store whose origin computes its content,
 * counts, waits and fails as it is told; readers on threads of their own. */
#ifndef LIVE_ABSENT_H
#define LIVE_ABSENT_H

#include "live_store.h"

enum { UNITS_MAX = 8192, LENS_MAX = 64 };
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

static inline uint64_t word(uint64_t salt, uint64_t offset)
{
    uint64_t x = (offset / 8 + 1) * 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    return salt << 48 | (x * 0xBF58476D1CE4E5B9u >> 16);
}

static inline unsigned char content(const struct remote *r, uint64_t offset)
{
    if (offset >= r->size)
        return 0;
    return (unsigned char)(word(r->salt, offset) >> (offset % 8 * 8));
}

static inline void fill_content(const struct remote *r, unsigned char *buf, uint64_t offset,
                                size_t len)
{
    for (size_t i = 0; i < len; i++)
        buf[i] = content(r, offset + i);
}

static inline int remote_read(struct bh_origin *o, uint64_t offset, void *buf, size_t len,
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

static inline void remote_free(struct bh_origin *o)
{
    struct remote *r = (struct remote *)o;
    if (r->is_gone)
        *r->is_gone = true;
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
    free(r);
}

static inline struct remote *remote_new(uint64_t salt, uint64_t size, uint32_t unit)
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

static inline void set_blocked(struct remote *r, bool blocked)
{
    pthread_mutex_lock(&r->mutex);
    r->blocked = blocked;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

/* Until so many calls are in the origin at once. */
static inline void wait_for_calls(struct remote *r, unsigned waiting)
{
    pthread_mutex_lock(&r->mutex);
    while (r->waiting < waiting)
        pthread_cond_wait(&r->changed, &r->mutex);
    pthread_mutex_unlock(&r->mutex);
}

static inline unsigned calls(void)
{
    pthread_mutex_lock(&remote->mutex);
    unsigned n = remote->calls;
    pthread_mutex_unlock(&remote->mutex);
    return n;
}

static inline unsigned most_times(void)
{
    unsigned most = 0;
    for (size_t i = 0; i < UNITS_MAX; i++)
        most = remote->times[i] > most ? remote->times[i] : most;
    return most;
}

/* --- the content --- */

/* Everything is absent but page 1, as after bh_live_replace_lazily. */
static inline void lay_out(uint64_t size, uint32_t unit)
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

static inline int absent_teardown(void **state)
{
    int rc = store_teardown(state);
    if (remote)
        bh_origin_unref(&remote->o);
    remote = NULL;
    return rc;
}

/* The first byte of a range that is not the origin's, or -1. Any thread. */
static inline int64_t wrong_byte(uint64_t offset, size_t len, int *rc)
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

static inline void must_be_origins_(uint64_t offset, size_t len, const char *file, int line)
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

static inline uint64_t count_absent(void)
{
    uint64_t n = 0;
    for (uint64_t b = 0; b < store->map.used; b++)
        n += block_state(b) == BH_BLOCK_ABSENT;
    return n;
}

/* From now on nobody needs an undo log: there is a transaction to roll back from. */
static inline void begin_journal(void)
{
    struct bh_file *j = create_file(BH_JOURNAL_NAME);
    must(bh_file_write(j, BH_DOOR_CLIENT, magic, 8, 0));
    bh_file_unref(j);
}

static inline void read_byte(uint64_t offset, int byte)
{
    unsigned char c;
    must(bh_file_read(db, &c, 1, offset, NULL));
    assert_int_equal(c, byte);
}

static inline void set_origin_anew(void)
{
    bh_store_set_origin(store, &remote->o);
}

static inline void play_back(bool after_crash)
{
    if (after_crash)
        reopen_store();
    must(bh_store_undo_play(store, NULL, NULL));
    assert_false(bh_store_undo_pending(store));
    if (after_crash)
        set_origin_anew();
}

/* --- readers beside the test --- */

struct reader {
    pthread_t thread;
    uint64_t seed, offset, wrong_at;
    size_t len;
    int rc;
    unsigned rounds;
};

static inline void *read_ranges(void *arg)
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

static inline void start(struct reader *r)
{
    must(pthread_create(&r->thread, NULL, read_ranges, r));
}

static inline void join_readers(struct reader *r, unsigned n)
{
    int rc = 0;
    for (unsigned i = 0; i < n; i++) {
        must(pthread_join(r[i].thread, NULL));
        rc = r[i].rc ? r[i].rc : rc;
    }
    must(rc);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup, absent_teardown)

#endif
