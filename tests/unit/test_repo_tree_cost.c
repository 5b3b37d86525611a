/* Copy-on-write trees: what changes and reads cost, in requests and records. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tree_model.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_cost_of_one_block),
        T(test_cost_of_nothing),
        T(test_cost_of_reading),
        T(test_many_changes),
    };
    return cmocka_run_group_tests_name("repo-tree-cost", tests, NULL, NULL);
}
