/* Trees over a file:// bucket: set-up and tear-down for cmocka, and one update at a time. */
#ifndef TREE_FIXTURE_H
#define TREE_FIXTURE_H

#include "bucket_fixture.h"
#include "repo/tree.h"

#define BLOCK       4096u
#define BIG_CACHE   ((size_t)32 << 20)
#define TREE_PREFIX "k.bhfs/"

extern struct bh_packs *packs;
extern struct bh_trees *trees;

int tree_setup(void **state); /* after it: an empty cache of BIG_CACHE */
int tree_teardown(void **state);
void fresh_trees(size_t cache_bytes);   /* with nothing cached */
void fresh_packs(struct bh_bucket *on); /* packs of another bucket or layer, and fresh trees */
uint64_t get_requests(void);            /* requests to the bucket so far */
uint64_t put_requests(void);
const char *pack_file(uint64_t id); /* its path; in a static buffer */

/* Random numbers, the same in every run. */
extern uint64_t seed;
uint64_t rnd(uint64_t below);

/* As must_fail, and the sentence has these words. */
#define must_say(expression, rc_, words)                                                           \
    do {                                                                                           \
        assert_int_equal((expression), (rc_));                                                     \
        assert_non_null(strstr(test_error.text, (words)));                                         \
        test_error.code = 0;                                                                       \
    } while (0)

/* One update: begin, any number of puts in ascending order, commit. */
void begin(void);
struct bh_pack_writer *writer(void);
void put_block(uint64_t block, const void *data); /* BLOCK bytes; NULL: zeros */
void put_ref(uint64_t block, const struct bh_ref *ref);
struct bh_root commit(const struct bh_root *old, uint64_t size);

#endif
