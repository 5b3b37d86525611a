/* Many threads on one tree, with checkpoints, syncs, holds and little memory beside them. */
#include "names_fixture.h"

#define THREADS 4
#define FILE_   (S_IFREG | 0644)
#define DIR_    (S_IFDIR | 0755)

static int rounds = 1500;
static atomic_bool stopping;
static atomic_int failures;
static uint64_t shared;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            atomic_fetch_add(&failures, 1);                                                        \
        }                                                                                          \
    } while (0)

static unsigned next(unsigned *seed, unsigned below)
{
    *seed = *seed * 1103515245 + 12345;
    return (*seed >> 12) % below;
}

/* At once if that can be, as the door does it. */
#define DO(function, ...)                                                                          \
    __extension__({                                                                                \
        struct bh_error e_;                                                                        \
        int rc_ = function(names, __VA_ARGS__, false, &e_);                                        \
        rc_ == EAGAIN ? function(names, __VA_ARGS__, true, &e_) : rc_;                             \
    })

/* Alone in a directory of its own: everything is exactly as this thread left it. */
static void own_directory(uint64_t own, unsigned *seed, bool there[20], uint64_t inos[20])
{
    char name[20], other[20];
    struct bh_inode i, what = {.mode = FILE_};
    unsigned k = next(seed, 20), to = next(seed, 20);
    snprintf(name, sizeof name, "n%u", k);
    snprintf(other, sizeof other, "n%u", to);
    switch (next(seed, 4)) {
    case 0:
        CHECK(DO(bh_names_make, own, name, &what, NULL, false, &i) == (there[k] ? EEXIST : 0));
        CHECK(!there[k] || i.ino == inos[k]);
        there[k] = true;
        inos[k] = i.ino;
        break;
    case 1:
        CHECK(DO(bh_names_unlink, own, name, &i) == (there[k] ? 0 : ENOENT));
        there[k] = false;
        break;
    case 2:
        CHECK(DO(bh_names_rename, own, name, own, other, 0, NULL, NULL) == (there[k] ? 0 : ENOENT));
        if (there[k] && k != to) {
            there[to] = true;
            inos[to] = inos[k];
            there[k] = false;
        }
        break;
    default:
        CHECK(DO(bh_names_lookup, own, name, &i) == (there[k] ? 0 : ENOENT));
        CHECK(!there[k] || i.ino == inos[k]);
    }
}

/* In a directory of all: any answer is right that some order explains. */
static void shared_directory(unsigned *seed)
{
    char name[20], other[20];
    struct bh_inode i, what = {.mode = next(seed, 3) ? FILE_ : DIR_};
    struct bh_names_listing *l;
    void *value;
    size_t len;
    snprintf(name, sizeof name, "s%u", next(seed, 12));
    snprintf(other, sizeof other, "s%u", next(seed, 12));
    switch (next(seed, 8)) {
    case 0:
        if (DO(bh_names_make, shared, name, &what, NULL, true, &i) == 0) {
            DO(bh_names_setxattr, i.ino, "user.x", "12345", 5, 0);
            CHECK(DO(bh_names_getxattr, i.ino, "user.x", &value, &len) == 0 && len == 5);
            free(value);
            bh_names_unref(names, i.ino);
        }
        break;
    case 1:
        DO(bh_names_unlink, shared, name, &i);
        break;
    case 2:
        DO(bh_names_rmdir, shared, name, &i);
        break;
    case 3:
        DO(bh_names_rename, shared, name, shared, other, next(seed, 3), NULL, NULL);
        break;
    case 4:
        if (DO(bh_names_lookup, shared, name, &i) == 0 && S_ISDIR(i.mode))
            DO(bh_names_rename, shared, other, i.ino, name, 0, NULL, NULL);
        break;
    case 5:
        if (DO(bh_names_lookup, shared, name, &i) == 0)
            DO(bh_names_link, i.ino, shared, other, NULL);
        break;
    case 6:
        if (DO(bh_names_list, shared, &l) == 0) {
            CHECK(l->count <= 12);
            free(l);
        }
        break;
    default:
        if (DO(bh_names_lookup, shared, name, &i) == 0 && !S_ISDIR(i.mode))
            DO(bh_names_set, i.ino, BH_SET_CONTENT,
               (&(struct bh_inode){.content = {.data = 3, .hash = {(uint8_t)next(seed, 3)}}}),
               NULL);
    }
}

static void *client(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    bool there[20] = {0};
    uint64_t inos[20] = {0};
    char name[20];
    struct bh_inode own, what = {.mode = DIR_};
    struct bh_error err;
    snprintf(name, sizeof name, "own%u", seed);
    CHECK(DO(bh_names_make, ROOT, name, &what, NULL, false, &own) == 0);
    for (int i = 0; i < rounds; i++) {
        own_directory(own.ino, &seed, there, inos);
        shared_directory(&seed);
        if (i % 100 == 0)
            CHECK(bh_names_sync(names, &err) == 0);
    }
    return NULL;
}

static int one_local(void *arg, const struct bh_inode *i)
{
    CHECK(i->content.data == 3);
    return 0;
}

static void *beside(void *arg)
{
    unsigned seed = 99;
    struct bh_error err;
    struct bh_names_stats s;
    while (!atomic_load(&stopping)) {
        bool yes;
        switch (next(&seed, 5)) {
        case 0:
            CHECK(bh_names_hold(names, &err) == 0);
            bh_names_stats(names, &s);
            bh_names_release(names, false);
            break;
        case 1:
            CHECK(bh_names_each_local(names, one_local, NULL, &err) == 0);
            break;
        case 2:
            CHECK(bh_names_has_hash(names, (const uint8_t[BH_SHA256_LEN]){1}, &yes, &err) == 0);
            break;
        default:
            CHECK(bh_names_checkpoint(names, &err) == 0);
        }
        usleep(2000);
    }
    return NULL;
}

static void run_threads(size_t cache, int64_t checkpoint_ms)
{
    pthread_t thread[THREADS], other;
    options.cache = cache;
    options.checkpoint_ms = checkpoint_ms;
    atomic_store(&failures, 0);
    atomic_store(&stopping, false);
    open_names();
    shared = made(ROOT, "shared", DIR_);
    assert_int_equal(pthread_create(&other, NULL, beside, NULL), 0);
    for (uintptr_t k = 0; k < THREADS; k++)
        assert_int_equal(pthread_create(&thread[k], NULL, client, (void *)(k + 1)), 0);
    for (int k = 0; k < THREADS; k++)
        pthread_join(thread[k], NULL);
    atomic_store(&stopping, true);
    pthread_join(other, NULL);
    assert_int_equal(failures, 0);
    kill_names();
    open_names();
    close_names();
    names_db_is_whole();
}

static void test_little_memory(void **state)
{
    run_threads(8, 0);
}
static void test_with_the_thread(void **state)
{
    run_threads(0, 1);
}

/* A load that takes long, as if its page came from the bucket, holds nobody else up; and what it
 * read before a checkpoint does not come back. */
static atomic_bool slow, in_slow;

static int wait_while_slow(void *arg)
{
    for (atomic_store(&in_slow, true); atomic_load(&slow); usleep(1000))
        ;
    return 0;
}

static int connect_slow(void *arg, sqlite3 **db, struct bh_error *err)
{
    int rc = connect_names(arg, db, err);
    if (rc == 0) {
        sqlite3_exec(*db, "PRAGMA journal_mode=WAL", NULL, NULL, NULL);
        if (atomic_load(&slow))
            sqlite3_progress_handler(*db, 1, wait_while_slow, NULL);
    }
    return rc;
}

static void *slow_lookup(void *arg)
{
    struct bh_inode i = {0};
    struct bh_error err;
    int rc = bh_names_lookup(names, *(uint64_t *)arg, "old", &i, true, &err);
    return (void *)(uintptr_t)(rc == 0 ? 1 : (unsigned)rc + 1000);
}

static void test_slow_load(void **state)
{
    struct bh_inode i;
    pthread_t thread;
    void *answer;
    char name[20];
    options.connect = connect_slow;
    options.cache = 4;
    open_names();
    uint64_t d = made(ROOT, "d", DIR_), old = made(d, "old", FILE_);
    made(ROOT, "second", FILE_);
    close_names();
    open_names();
    must(get(d, &i));
    atomic_store(&slow, true);
    /* The pool's connection is taken away, so that the load gets a slow one. */
    struct reader *r;
    must(reader_get(names, &r, ERR));
    assert_int_equal(pthread_create(&thread, NULL, slow_lookup, &d), 0);
    while (!atomic_load(&in_slow))
        usleep(1000);
    atomic_store(&refuse_connects, 0);
    reader_put(names, r, true);
    must(bh_names_unlink(names, d, "old", &i, true, ERR)); /* by the fast one */
    for (int k = 0; k < 200; k++) { /* enough to drop everything that may be dropped */
        snprintf(name, sizeof name, "n%d", k);
        struct bh_inode what = {.mode = FILE_};
        must(bh_names_make(names, ROOT, name, &what, NULL, false, &i, true, ERR));
        if (k == 100)
            atomic_store(&slow, false); /* the commit waits for the load */
        if (k == 100)
            must(bh_names_checkpoint(names, ERR));
    }
    pthread_join(thread, &answer);
    (void)answer; /* before the unlink, or after it */
    must_fail(lookup(d, "old", &i), ENOENT);
    must_fail(get(old, &i), ENOENT);
    close_names();
    names_db_is_whole();
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, names_setup, names_teardown)
    const struct CMUnitTest tests[] = {
        T(test_little_memory),
        T(test_with_the_thread),
        T(test_slow_load),
    };
    if (getenv("NAMES_ROUNDS"))
        rounds = atoi(getenv("NAMES_ROUNDS"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
