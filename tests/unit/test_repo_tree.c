/* Copy-on-write trees: against plain arrays, their cost, and what damage does. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tree_fixture.h"
#include "util/cleanup.h"

static const struct bh_root nothing;

/* --- helpers --- */

static uint64_t seed = 1;
static uint64_t rnd(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

/* A block that tells which one it is. */
static const void *block_of(uint64_t n, unsigned version)
{
    static uint64_t data[BLOCK / 8];
    for (size_t i = 0; i < BLOCK / 8; i++)
        data[i] = n * 1000003 + version + i;
    return data;
}

static void must_have_block(const struct bh_root *root, uint64_t n, unsigned version)
{
    uint8_t got[BLOCK];
    must(bh_tree_read(trees, root, n * BLOCK, got, BLOCK, "x", NULL, ERR));
    assert_memory_equal(got, block_of(n, version), BLOCK);
}

static bool same_ref(const struct bh_ref *a, const struct bh_ref *c)
{
    return a->pack == c->pack && a->offset == c->offset;
}

/* What a walk visits. */
struct visit {
    unsigned level;
    uint64_t number;
    struct bh_ref ref;
    int damage;
};
struct visits {
    struct visit *all;
    size_t count, room;
    char sentence[BH_ERROR_TEXT_MAX]; /* of the last damage */
    size_t stop_after;                /* 0: never */
};

static int visit(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                 const struct bh_error *damage)
{
    struct visits *v = arg;
    if (v->count == v->room) {
        v->room = 2 * v->room + 64;
        v->all = realloc(v->all, v->room * sizeof *v->all);
    }
    v->all[v->count++] = (struct visit){level, number, *ref, damage ? damage->code : 0};
    if (damage)
        strcpy(v->sentence, damage->text);
    return v->stop_after && v->count == v->stop_after ? EXFULL : 0;
}

static struct visits walk(const struct bh_root *root, const struct bh_root *known)
{
    struct visits v = {0};
    must(bh_tree_walk(trees, root, known, visit, &v, NULL, ERR));
    return v;
}

static const struct visit *find_visit(const struct visits *v, unsigned level, uint64_t number)
{
    for (size_t i = 0; i < v->count; i++)
        if (v->all[i].level == level && v->all[i].number == number)
            return &v->all[i];
    return NULL;
}

/* Parents come before children, blocks in order, nothing is beyond the size. */
static void must_be_well_formed(const struct bh_root *root)
{
    struct visits v = walk(root, NULL);
    uint64_t blocks = (root->size + BLOCK - 1) / BLOCK;
    assert_int_equal(root->depth, bh_depth_for(root->size, BLOCK));
    assert_int_equal(v.count > 0, !bh_ref_is_zero(&root->ref));
    for (size_t i = 0; i < v.count; i++) {
        assert_int_equal(v.all[i].damage, 0);
        assert_true(v.all[i].number < blocks);
        if (i > 0)
            assert_true(v.all[i].number >= v.all[i - 1].number);
        if (i > 0 && v.all[i].number == v.all[i - 1].number)
            assert_int_equal(v.all[i].level, v.all[i - 1].level - 1);
    }
    free(v.all);
}

/* --- the model --- */

#define MODEL_BLOCKS 800
#define MODEL_MAX    ((uint64_t)MODEL_BLOCKS * BLOCK)
#define ROUNDS       40

static struct model {
    struct bh_root root;
    uint8_t *data; /* root.size bytes */
} models[ROUNDS];

static void must_be_model(const struct model *m)
{
    BH_FREE uint8_t *got = malloc(MODEL_MAX + BLOCK);
    memset(got, 0xaa, MODEL_MAX + BLOCK);
    must(bh_tree_read(trees, &m->root, 0, got, m->root.size + BLOCK, "x", NULL, ERR));
    assert_memory_equal(got, m->data, m->root.size);
    for (size_t i = 0; i < BLOCK; i++)
        assert_int_equal(got[m->root.size + i], 0);
    for (int i = 0; i < 20 && m->root.size; i++) {
        uint64_t from = rnd(m->root.size), len = rnd(m->root.size - from) % 20000;
        must(bh_tree_read(trees, &m->root, from, got, len, "x", NULL, ERR));
        assert_memory_equal(got, m->data + from, len);
    }
}

static uint64_t next_size(uint64_t size)
{
    switch (rnd(6)) {
    case 0:
        return rnd(MODEL_MAX);
    case 1:
        return rnd(3 * BLOCK);
    case 2:
        return (254 + rnd(5)) * BLOCK;
    case 3:
        return size > BLOCK ? size - rnd(BLOCK) : size;
    default:
        return size;
    }
}

/* A new version of `data` (MODEL_MAX bytes, zeros beyond old->size), and the root that has it. */
static struct bh_root next_version(uint8_t *data, const struct bh_root *old)
{
    uint64_t size = next_size(old->size), blocks = (size + BLOCK - 1) / BLOCK;
    uint64_t sparse = 1 + rnd(60);
    if (size < old->size)
        memset(data + size, 0, old->size - size);
    begin();
    for (uint64_t i = rnd(sparse); i < blocks; i += 1 + rnd(sparse)) {
        uint8_t *at = data + i * BLOCK;
        uint64_t len = i == blocks - 1 ? size - i * BLOCK : BLOCK;
        unsigned what = (unsigned)rnd(4);
        memset(at, what == 0 ? 0 : (int)rnd(256), what == 3 ? len / 2 : len);
        put_block(i, what == 0 ? NULL : at);
    }
    return commit(old, size);
}

static void make_models(void)
{
    BH_FREE uint8_t *data = calloc(1, MODEL_MAX);
    struct bh_root root = nothing;
    for (int i = 0; i < ROUNDS; i++) {
        root = next_version(data, &root);
        models[i].root = root;
        models[i].data = malloc(root.size + 1);
        memcpy(models[i].data, data, root.size);
    }
}

static void free_models(void)
{
    for (int i = 0; i < ROUNDS; i++)
        free(models[i].data);
}

static void test_model(void **state)
{
    for (int run = 0; run < 3; run++) {
        make_models();
        for (int i = 0; i < ROUNDS; i++) {
            must_be_model(&models[i]);
            must_be_well_formed(&models[i].root);
        }
        fresh_trees(run * (size_t)60000); /* hardly any cache */
        for (int i = 0; i < ROUNDS; i++)
            must_be_model(&models[i]);
        free_models();
    }
}

/* --- walks --- */

static bool has_visit(const struct visits *v, const struct visit *want)
{
    for (size_t i = 0; i < v->count; i++)
        if (v->all[i].level == want->level && v->all[i].number == want->number &&
            same_ref(&v->all[i].ref, &want->ref))
            return true;
    return false;
}

static void test_walk_of_difference(void **state)
{
    make_models();
    for (int i = 0; i < 60; i++) {
        const struct bh_root *root = &models[rnd(ROUNDS)].root, *known = &models[rnd(ROUNDS)].root;
        struct visits all = walk(root, NULL), old = walk(known, NULL), new = walk(root, known);
        size_t want = 0;
        for (size_t k = 0; k < all.count; k++) {
            if (has_visit(&old, &all.all[k]))
                continue;
            want++;
            assert_true(has_visit(&new, &all.all[k]));
        }
        assert_int_equal(new.count, want);
        free(all.all);
        free(old.all);
        free(new.all);
    }
    free_models();
}

static void test_walk_stops(void **state)
{
    atomic_bool cancel = true;
    struct bh_call call = {.cancel = &cancel};
    struct visits v = {.stop_after = 3};
    begin();
    for (uint64_t i = 0; i < 300; i++)
        put_block(i, block_of(i, 0));
    struct bh_root root = commit(&nothing, 300 * BLOCK);
    assert_int_equal(bh_tree_walk(trees, &root, NULL, visit, &v, NULL, ERR), EXFULL);
    assert_int_equal(v.count, 3);
    must_fail(bh_tree_walk(trees, &root, NULL, visit, &v, &call, ERR), ECANCELED);
    assert_int_equal(v.count, 3);
    free(v.all);
}

/* --- depths --- */

static void test_depths(void **state)
{
    static const uint64_t blocks[] = {1, 2, 256, 257, 65536, 65537, 1 << 24, (1 << 24) + 1};
    static const unsigned depths[] = {0, 1, 1, 2, 2, 3, 3, 4};
    struct bh_root roots[8], root = nothing;
    for (unsigned i = 0; i < 8; i++) {
        begin();
        put_block(blocks[i] - 1, block_of(blocks[i] - 1, 0));
        root = roots[i] = commit(&root, blocks[i] * BLOCK);
        assert_int_equal(root.depth, depths[i]);
        must_be_well_formed(&root);
        for (unsigned k = 0; k <= i; k++)
            must_have_block(&root, blocks[k] - 1, 0);
    }
    struct visits v = walk(&root, NULL);
    assert_non_null(find_visit(&v, 3, 1 << 24));
    free(v.all);
    for (unsigned i = 8; i-- > 0;) { /* the same way back ends at the same roots */
        begin();
        root = commit(&root, blocks[i] * BLOCK);
        assert_int_equal(root.depth, depths[i]);
        must_be_well_formed(&root);
        assert_true(bh_ref_same_content(&root.ref, &roots[i].ref));
        for (unsigned k = 0; k <= i; k++)
            must_have_block(&root, blocks[k] - 1, 0);
    }
    for (unsigned i = 0; i < 8; i++) /* any jump, up and down */
        for (unsigned k = 0; k < 8; k++) {
            begin();
            struct bh_root to = commit(&roots[i], blocks[k] * BLOCK);
            must_be_well_formed(&to);
            must_have_block(&to, 0, 0);
            must_have_block(&to, blocks[i < k ? i : k] - 1, 0);
        }
    begin();
    root = commit(&root, 0);
    assert_true(bh_ref_is_zero(&root.ref));
    assert_int_equal(root.depth, 0);
}

static void test_zeros(void **state)
{
    begin();
    put_block(70000, block_of(70000, 0));
    struct bh_root root = commit(&nothing, 80000 * BLOCK);
    begin();
    put_block(70000, NULL);
    uint64_t before = put_requests();
    root = commit(&root, 80000 * BLOCK);
    assert_true(bh_ref_is_zero(&root.ref));
    assert_int_equal(root.depth, 3);
    begin();
    root = commit(&root, 1 << 30);
    assert_true(bh_ref_is_zero(&root.ref));
    assert_int_equal(put_requests(), before);
    uint8_t byte = 1;
    must(bh_tree_read(trees, &root, 12345678, &byte, 1, "x", NULL, ERR));
    assert_int_equal(byte, 0);
}

/* A size that ends within a block: what was beyond does not come back. */
static void test_cut_block(void **state)
{
    uint8_t got[BLOCK];
    const uint64_t sizes[] = {1, 3, 300};
    for (int i = 0; i < 3; i++) {
        uint64_t last = sizes[i] - 1;
        begin();
        put_block(last, block_of(last, 0));
        struct bh_root full = commit(&nothing, sizes[i] * BLOCK);
        begin();
        struct bh_root cut = commit(&full, last * BLOCK + 100);
        begin();
        struct bh_root grown = commit(&cut, sizes[i] * BLOCK);
        must(bh_tree_read(trees, &grown, last * BLOCK, got, BLOCK, "x", NULL, ERR));
        assert_memory_equal(got, block_of(last, 0), 100);
        for (unsigned k = 100; k < BLOCK; k++)
            assert_int_equal(got[k], 0);
        must_have_block(&full, last, 0);
    }
}

static void test_arguments(void **state)
{
    struct bh_trees *t;
    struct bh_root out, wrong = {.depth = 1, .size = BLOCK};
    struct bh_ref ref;
    uint8_t byte;
    struct bh_tree_change changes[2] = {{.block = 1}, {.block = 1}};
    must_fail(bh_trees_new(&t, packs, 2048, 0, ERR), EINVAL);
    must_fail(bh_trees_new(&t, packs, 5000, 0, ERR), EINVAL);
    must_fail(bh_trees_new(&t, packs, 2 << 20, 0, ERR), EINVAL);
    assert_int_equal(bh_trees_block_size(trees), BLOCK);
    assert_ptr_equal(bh_trees_packs(trees), packs);
    begin();
    for (int i = 0; i < 2; i++, changes[1].block = 0)
        must_fail(
            bh_tree_update(trees, &nothing, 5 * BLOCK, changes, 2, writer(), &out, "x", NULL, ERR),
            EINVAL);
    must_fail(bh_tree_update(trees, &nothing, UINT64_MAX, NULL, 0, writer(), &out, "x", NULL, ERR),
              EFBIG);
    must_fail(bh_tree_update(trees, &wrong, 1, NULL, 0, writer(), &out, "x", NULL, ERR), EIO);
    must_fail(bh_tree_refs(trees, &wrong, 0, 1, &ref, "x", NULL, ERR), EIO);
    must_say(bh_tree_read(trees, &wrong, 0, &byte, 1, "the file", NULL, ERR), EIO,
             "the root of the file is damaged");
    put_block(7, block_of(7, 0)); /* beyond the size */
    out = commit(&nothing, 7 * BLOCK);
    assert_true(bh_ref_is_zero(&out.ref));
    must(bh_tree_refs(trees, &out, UINT64_MAX, 1, &ref, "x", NULL, ERR));
    assert_true(bh_ref_is_zero(&ref));
}

/* --- what it costs --- */

#define LARGE ((uint64_t)70000) /* blocks; one a leaf */

static struct bh_root large_tree(void)
{
    begin();
    for (uint64_t i = 0; i < LARGE; i += BH_FANOUT)
        put_block(i, block_of(i, 0));
    struct bh_root root = commit(&nothing, LARGE * BLOCK);
    assert_int_equal(root.depth, 3);
    return root;
}

static void test_cost_of_one_block(void **state)
{
    struct bh_root root = large_tree();
    for (unsigned version = 1; version < 4; version++) {
        uint64_t got = get_requests(), put = put_requests();
        struct bh_pack_entry *entries;
        size_t count;
        begin();
        put_block(5000, block_of(5000, version));
        root = commit(&root, LARGE * BLOCK);
        assert_int_equal(get_requests() - got, 0);
        assert_int_equal(put_requests() - put, 1);
        must(bh_packs_trailer(packs, root.ref.pack, &entries, &count, NULL, NULL, ERR));
        assert_int_equal(count, 4);
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(entries[i].level, i);
            assert_int_equal(entries[i].number, i < 2 ? (i ? 4864 : 5000) : 0);
            assert_int_equal(entries[i].kind, i ? BH_RECORD_NODE : BH_RECORD_BLOCK);
        }
        free(entries);
    }
    must_have_block(&root, 5000, 3);
}

/* The content that is there already costs nodes neither. */
static void test_cost_of_nothing(void **state)
{
    struct bh_root root = large_tree(), again;
    uint64_t got = get_requests();
    begin();
    for (uint64_t i = 0; i < LARGE; i += BH_FANOUT)
        put_block(i, block_of(i, 0));
    put_block(69999, NULL);
    again = commit(&root, LARGE * BLOCK);
    assert_int_equal(get_requests() - got, 0);
    assert_true(same_ref(&again.ref, &root.ref));
    uint64_t put = put_requests();
    begin();
    again = commit(&root, (LARGE + 5) * BLOCK);
    assert_true(same_ref(&again.ref, &root.ref));
    assert_int_equal(again.size, (LARGE + 5) * BLOCK);
    assert_int_equal(put_requests() - put, 0);
}

static void test_cost_of_reading(void **state)
{
    struct bh_root root = large_tree();
    BH_FREE struct bh_ref *refs = malloc(LARGE * sizeof *refs);
    BH_FREE uint8_t *data = malloc(MIB);
    fresh_trees(BIG_CACHE);
    uint64_t got = get_requests();
    must(bh_tree_refs(trees, &root, 0, LARGE, refs, "x", NULL, ERR));
    assert_in_range(get_requests() - got, 1, 20);
    for (uint64_t i = 0; i < LARGE; i++)
        assert_int_equal(bh_ref_is_zero(&refs[i]), i % BH_FANOUT != 0);
    got = get_requests();
    must(bh_tree_refs(trees, &root, 0, LARGE, refs, "x", NULL, ERR));
    assert_int_equal(get_requests() - got, 0);
    must(bh_tree_read(trees, &root, 100 * BLOCK, data, MIB, "x", NULL, ERR));
    assert_int_equal(get_requests() - got, 1);
    fresh_trees(BIG_CACHE); /* a changed block in a cold tree: the nodes on its way */
    got = get_requests();
    begin();
    put_block(5000, block_of(5000, 1));
    commit(&root, LARGE * BLOCK);
    assert_in_range(get_requests() - got, 1, 3);
}

/* Hundreds of thousands of changes; their blocks need not be there. */
static void test_many_changes(void **state)
{
    enum { MANY = 300000 };
    BH_FREE struct bh_ref *refs = malloc(MANY * sizeof *refs);
    begin();
    for (uint64_t i = 0; i < MANY; i++) {
        struct bh_ref ref = {.pack = 7, .offset = (uint32_t)i + 16, .stored = 1};
        memcpy(ref.hash, &i, sizeof i);
        ref.hash[15] = 1;
        put_ref(i, &ref);
    }
    struct bh_root root = commit(&nothing, (uint64_t)MANY * BLOCK);
    fresh_trees(BIG_CACHE);
    must(bh_tree_refs(trees, &root, 0, MANY, refs, "x", NULL, ERR));
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(refs[i].offset, i + 16);
    begin();
    root = commit(&root, 1000 * BLOCK);
    must(bh_tree_refs(trees, &root, 0, MANY, refs, "x", NULL, ERR));
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(refs[i].offset, i < 1000 ? i + 16 : 0);
}

/* --- threads --- */

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

/* --- damage --- */

static void flip_bit(uint64_t pack, uint64_t offset)
{
    uint8_t byte;
    BH_FD int fd = open(pack_file(pack), O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
}

/* One leaf of the tree cannot be read: its blocks fail, the others and the walk do not. */
static void must_tell_of(const struct bh_root *root, uint64_t leaf, const char *says)
{
    uint8_t got[BLOCK];
    fresh_trees(BIG_CACHE);
    must_say(bh_tree_read(trees, root, leaf * BLOCK, got, BLOCK, "the file", NULL, ERR), EIO, says);
    must_fail(bh_tree_read(trees, root, leaf * BLOCK, got, BLOCK, "the file", NULL, ERR), EIO);
    must_have_block(root, 0, 0);
    fresh_trees(BIG_CACHE);
    struct visits v = walk(root, NULL);
    const struct visit *at = find_visit(&v, 1, leaf);
    size_t blocks = 0, damaged = 0;
    assert_non_null(at);
    assert_int_equal(at->damage, EIO);
    assert_non_null(strstr(v.sentence, says));
    for (size_t i = 0; i < v.count; i++) {
        blocks += v.all[i].level == 0;
        damaged += v.all[i].damage != 0;
    }
    assert_int_equal(blocks, (LARGE + BH_FANOUT - 1) / BH_FANOUT - 1);
    assert_int_equal(damaged, 1);
    free(v.all);
}

static void test_flipped_bit(void **state)
{
    struct bh_root root = large_tree();
    struct visits v = walk(&root, NULL);
    struct bh_ref ref = find_visit(&v, 1, 5120)->ref;
    free(v.all);
    flip_bit(ref.pack, ref.offset + ref.stored / 2);
    must_tell_of(&root, 5120, "pack");
}

static void test_missing_pack(void **state)
{
    struct bh_root old = large_tree();
    begin();
    put_block(5121, block_of(5121, 0));
    struct bh_root mid = commit(&old, LARGE * BLOCK);
    begin();
    put_block(5120 + BH_FANOUT, NULL);
    put_block(60000, block_of(60000, 0));
    struct bh_root new = commit(&mid, LARGE * BLOCK);
    uint64_t got = 0;
    struct visits v = walk(&new, NULL);
    struct bh_ref leaf = find_visit(&v, 1, 5120)->ref;
    free(v.all);
    assert_int_equal(leaf.pack, mid.ref.pack);
    assert_int_equal(unlink(pack_file(leaf.pack)), 0);
    fresh_trees(BIG_CACHE);
    uint8_t data[BLOCK];
    must_fail(bh_tree_read(trees, &new, 5120 * BLOCK, data, BLOCK, "the file", NULL, ERR), EIO);
    must_have_block(&new, 0, 0);
    v = walk(&new, &old); /* old's own pack is there; of mid's one leaf is left */
    for (size_t i = 0; i < v.count; i++)
        got += v.all[i].damage == EIO;
    assert_int_equal(got, 1);
    assert_int_equal(find_visit(&v, 1, 5120)->damage, EIO);
    free(v.all);
    v = walk(&old, &mid); /* what cannot be read of the known tree is not known */
    struct visits all = walk(&old, NULL);
    assert_int_equal(v.count, all.count);
    free(v.all);
    free(all.all);
}

/* A node with a good hash whose references are none. */
static void test_nonsense_node(void **state)
{
    struct bh_root root = {.depth = 1, .size = 2 * BLOCK};
    struct bh_ref ref;
    uint8_t node[BH_NODE_SIZE] = {0};
    node[5 * BH_REF_SIZE + 20] = 1; /* a hash of something that is nowhere */
    begin();
    must(bh_pack_add(writer(), BH_RECORD_NODE, 1, 0, node, sizeof node, &root.ref, ERR));
    commit(&nothing, 0);
    must_say(bh_tree_refs(trees, &root, 0, 1, &ref, "the file", NULL, ERR), EIO,
             "reference 5 of the node");
    struct visits v = walk(&root, NULL);
    assert_int_equal(v.count, 1);
    assert_int_equal(v.all[0].damage, EIO);
    free(v.all);
    begin();
    put_block(0, block_of(0, 0));
    struct bh_tree_change change = {.block = 0, .ref = {.pack = 3, .offset = 16, .stored = 1}};
    must_fail(bh_tree_update(trees, &root, 2 * BLOCK, &change, 1, writer(), &root, "x", NULL, ERR),
              EIO);
    commit(&nothing, BLOCK);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, tree_setup, tree_teardown)
    const struct CMUnitTest tests[] = {
        T(test_model),           T(test_walk_of_difference),
        T(test_walk_stops),      T(test_depths),
        T(test_zeros),           T(test_cut_block),
        T(test_arguments),       T(test_cost_of_one_block),
        T(test_cost_of_nothing), T(test_cost_of_reading),
        T(test_many_changes),    T(test_threads),
        T(test_one_load),        T(test_cancelled_wait),
        T(test_flipped_bit),     T(test_missing_pack),
        T(test_nonsense_node),
    };
    return cmocka_run_group_tests_name("repo-tree", tests, NULL, NULL);
}
