#include "tree_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct bh_packs *packs;
struct bh_trees *trees;

uint64_t seed = 1;

uint64_t rnd(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

static struct {
    struct bh_pack_writer *w;
    struct bh_tree_change *changes;
    size_t count, room;
} batch;

void fresh_trees(size_t cache_bytes)
{
    bh_trees_free(trees);
    must(bh_trees_new(&trees, packs, BLOCK, cache_bytes, ERR));
}

void fresh_packs(struct bh_bucket *on)
{
    const struct bh_packs_options options = {.part_size = 8 * MIB, .parallel = 4, .level = 1};
    bh_trees_free(trees);
    bh_packs_free(packs);
    trees = NULL;
    must(bh_packs_new(&packs, on, TREE_PREFIX, &options, ERR));
    fresh_trees(BIG_CACHE);
}

int tree_setup(void **state)
{
    if (dir_setup(state))
        return -1;
    fresh_packs(b);
    return 0;
}

int tree_teardown(void **state)
{
    bh_trees_free(trees);
    bh_packs_free(packs);
    trees = NULL;
    packs = NULL;
    free(batch.changes);
    memset(&batch, 0, sizeof batch);
    return dir_teardown(state);
}

static uint64_t requests(enum bh_bucket_op op)
{
    struct bh_bucket_stats s;
    bh_bucket_stats(b, &s);
    return s.requests[op];
}

uint64_t get_requests(void)
{
    return requests(BH_OP_GET);
}

uint64_t put_requests(void)
{
    return requests(BH_OP_PUT) + requests(BH_OP_MULTIPART);
}

const char *pack_file(uint64_t id)
{
    char *key = bh_packs_key(packs, id);
    const char *path = path_of(key);
    free(key);
    return path;
}

void begin(void)
{
    batch.count = 0;
    must(bh_pack_writer_new(&batch.w, packs, BH_TREE_DB, NULL, ERR));
}

struct bh_pack_writer *writer(void)
{
    return batch.w;
}

void put_ref(uint64_t block, const struct bh_ref *ref)
{
    if (batch.count == batch.room) {
        batch.room = 2 * batch.room + 64;
        batch.changes = realloc(batch.changes, batch.room * sizeof *batch.changes);
        assert_non_null(batch.changes);
    }
    batch.changes[batch.count++] = (struct bh_tree_change){.block = block, .ref = *ref};
}

void put_block(uint64_t block, const void *data)
{
    struct bh_ref ref = {0};
    if (data)
        must(bh_pack_add(batch.w, BH_RECORD_BLOCK, 0, block, data, BLOCK, &ref, ERR));
    put_ref(block, &ref);
}

struct bh_root commit(const struct bh_root *old, uint64_t size)
{
    struct bh_root new = {0};
    must(bh_tree_update(trees, old, size, batch.changes, batch.count, batch.w, &new, "x", NULL,
                        ERR));
    must(bh_pack_writer_finish(batch.w, ERR));
    bh_pack_writer_free(batch.w);
    batch.w = NULL;
    return new;
}
