/* Copy-on-write trees: many threads that read, want the same nodes, or wait no longer. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tree_model.h"

#define THREADS 8

static void run_threads(void *(*fn)(void *), void *arg)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fn, arg), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static atomic_uint wrong;

static void *read_models(void *arg)
{
    unsigned mine = 1 + (unsigned)(uintptr_t)&mine; /* each thread goes its own way */
    BH_FREE uint8_t *got = malloc(16 * BLOCK);
    for (int i = 0; i < 150; i++) {
        const struct model *m = &models[rand_r(&mine) % ROUNDS];
        if (m->root.size == 0)
            continue;
        uint64_t from = (unsigned)rand_r(&mine) % m->root.size, len = 16 * BLOCK;
        if (len > m->root.size - from)
            len = m->root.size - from;
        if (bh_tree_read(trees, &m->root, from, got, len, "x", NULL, NULL) ||
            memcmp(got, m->data + from, len))
            atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}

static void test_threads(void **state)
{
    const size_t caches[] = {0, 40000, BIG_CACHE};
    make_models();
    atomic_store(&wrong, 0);
    for (int i = 0; i < 3; i++) {
        fresh_trees(caches[i]);
        run_threads(read_models, NULL);
        assert_int_equal(wrong, 0);
    }
    free_models();
}

static void *get_one_ref(void *root)
{
    struct bh_ref ref;
    if (bh_tree_refs(trees, root, 5120, 1, &ref, "x", NULL, NULL))
        atomic_fetch_add(&wrong, 1);
    return NULL;
}

/* All want the same nodes while a request takes long: each node is read once; and what one thread
 * could not read, the others try. */
static void test_one_load(void **state)
{
    struct bh_root root = large_tree();
    struct bh_bucket *slow;
    must(bh_bucket_fault_wrap(&slow, b, "get:delay=50ms", 5, ERR));
    b = slow;
    fresh_packs(b);
    uint64_t got = get_requests();
    atomic_store(&wrong, 0);
    run_threads(get_one_ref, &root);
    assert_int_equal(wrong, 0);
    assert_int_equal(get_requests() - got, 3);
    must(bh_bucket_fault_wrap(&slow, b, "get:eio:first=1", 5, ERR));
    b = slow;
    fresh_packs(b);
    run_threads(get_one_ref, &root);
    assert_int_equal(wrong, 1);
}

struct impatient {
    const struct bh_root *root;
    struct bh_call call;
};

static void *get_with_limit(void *arg)
{
    struct impatient *im = arg;
    struct bh_ref ref;
    if (bh_tree_refs(trees, im->root, 0, 1, &ref, "x", &im->call, NULL) == ECANCELED)
        atomic_fetch_add(&wrong, 1);
    return NULL;
}

/* Waiting for another's load ends with one's own call. */
static void test_cancelled_wait(void **state)
{
    struct bh_root root = large_tree();
    struct bh_bucket *slow;
    atomic_bool cancel = false, never = false;
    struct impatient other = {&root, {.cancel = &never}}, im = {&root, {.cancel = &cancel}};
    pthread_t first, second;
    must(bh_bucket_fault_wrap(&slow, b, "get:delay=1s:first=1", 5, ERR));
    b = slow;
    fresh_packs(b);
    atomic_store(&wrong, 0);
    pthread_create(&first, NULL, get_with_limit, &other);
    usleep(100000);
    pthread_create(&second, NULL, get_with_limit, &im);
    usleep(100000);
    atomic_store(&cancel, true);
    pthread_join(second, NULL);
    assert_int_equal(wrong, 1);
    pthread_join(first, NULL);
    assert_int_equal(wrong, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_threads),
        T(test_one_load),
        T(test_cancelled_wait),
    };
    return cmocka_run_group_tests_name("repo-tree-threads", tests, NULL, NULL);
}
