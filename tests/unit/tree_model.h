/* For tests of trees: blocks that tell which one they are, what a walk visits, and versions of a
 * tree with the plain arrays that they must read as. */
#ifndef TREE_MODEL_H
#define TREE_MODEL_H

#include <stdlib.h>
#include <string.h>

#include "tree_fixture.h"
#include "util/cleanup.h"

static const struct bh_root nothing;

/* A block that tells which one it is. */
static inline const void *block_of(uint64_t n, unsigned version)
{
    static uint64_t data[BLOCK / 8];
    for (size_t i = 0; i < BLOCK / 8; i++)
        data[i] = n * 1000003 + version + i;
    return data;
}

static inline void must_have_block(const struct bh_root *root, uint64_t n, unsigned version)
{
    uint8_t got[BLOCK];
    must(bh_tree_read(trees, root, n * BLOCK, got, BLOCK, "x", NULL, ERR));
    assert_memory_equal(got, block_of(n, version), BLOCK);
}

static inline bool same_ref(const struct bh_ref *a, const struct bh_ref *c)
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

static inline int visit(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
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

static inline struct visits walk(const struct bh_root *root, const struct bh_root *known)
{
    struct visits v = {0};
    must(bh_tree_walk(trees, root, known, visit, &v, NULL, ERR));
    return v;
}

static inline const struct visit *find_visit(const struct visits *v, unsigned level,
                                             uint64_t number)
{
    for (size_t i = 0; i < v->count; i++)
        if (v->all[i].level == level && v->all[i].number == number)
            return &v->all[i];
    return NULL;
}

/* --- a large tree --- */

#define LARGE ((uint64_t)70000) /* blocks; one a leaf */

static inline struct bh_root large_tree(void)
{
    begin();
    for (uint64_t i = 0; i < LARGE; i += BH_FANOUT)
        put_block(i, block_of(i, 0));
    struct bh_root root = commit(&nothing, LARGE * BLOCK);
    assert_int_equal(root.depth, 3);
    return root;
}

/* --- the model --- */

#define MODEL_BLOCKS 800
#define MODEL_MAX    ((uint64_t)MODEL_BLOCKS * BLOCK)
#define ROUNDS       40

static struct model {
    struct bh_root root;
    uint8_t *data; /* root.size bytes */
} models[ROUNDS];

static inline uint64_t next_size(uint64_t size)
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
static inline struct bh_root next_version(uint8_t *data, const struct bh_root *old)
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

static inline void make_models(void)
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

static inline void free_models(void)
{
    for (int i = 0; i < ROUNDS; i++)
        free(models[i].data);
}

#define T(f) cmocka_unit_test_setup_teardown(f, tree_setup, tree_teardown)

#endif
