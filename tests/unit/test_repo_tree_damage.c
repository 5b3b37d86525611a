/* Copy-on-write trees: what damage does: flipped bits, missing packs, nodes of nonsense. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tree_model.h"

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
    const struct CMUnitTest tests[] = {
        T(test_flipped_bit),
        T(test_missing_pack),
        T(test_nonsense_node),
    };
    return cmocka_run_group_tests_name("repo-tree-damage", tests, NULL, NULL);
}
