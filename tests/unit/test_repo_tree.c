/* Copy-on-write trees: against plain arrays, walks, every depth. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tree_model.h"

/* --- the model --- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_model), T(test_walk_of_difference), T(test_walk_stops), T(test_depths),
        T(test_zeros), T(test_cut_block),          T(test_arguments),
    };
    return cmocka_run_group_tests_name("repo-tree", tests, NULL, NULL);
}
