/* Fetches, readers and evictions while other content takes the place of that which is in the bucket
 * only. */
#include "live_absent.h"

/* Files of a generation with the content of r: page 1 here, the rest absent, or everything here. */
static void make_generation(uint64_t generation, const struct remote *r, bool here)
{
    char name[32];
    struct bh_map map;
    size_t len = here ? (size_t)r->size : BLOCK;
    unsigned char *data = malloc(len);
    assert_non_null(data);
    must(bh_store_make_generation(disk, generation, ERR));
    fill_content(r, data, 0, len);
    snprintf(name, sizeof name, "state/db.%d", (int)generation);
    put_file(name, data, len);
    must(truncate(at(name), (off_t)r->size));
    snprintf(name, sizeof name, "map.%d", (int)generation);
    must(bh_map_open(&map, disk, name, true, ERR));
    must(bh_map_set(&map, 0, (r->size + BLOCK - 1) / BLOCK,
                    here ? BH_BLOCK_CLEAN : BH_BLOCK_ABSENT));
    must(bh_map_set(&map, 0, 1, BH_BLOCK_CLEAN));
    bh_map_close(&map);
    free(data);
}

static void test_a_swap_during_a_fetch(void **state)
{
    for (int how = 0; how < 3; how++) { /* new content absent, here, longer */
        atomic_bool gone = false;
        struct reader r = {.offset = 20 * BLOCK, .len = 3 * BLOCK, .rounds = 1};
        uint64_t size = (how == 2 ? 400 : 200) * BLOCK, generation = store->generation + 1;
        lay_out(200 * BLOCK, 16384);
        struct remote *old = remote, *new = remote_new(2, size, 4096);
        old->is_gone = &gone;
        make_generation(generation, new, how == 1);
        set_blocked(old, true);
        start(&r);
        wait_for_calls(old, 1);
        must(bh_store_swap(store, generation, how == 1 ? NULL : &new->o, ERR));
        remote = new; /* what the reader expects from now on */
        bh_origin_unref(&old->o);
        usleep(1000);
        assert_false(gone); /* the fetch has it */
        set_blocked(old, false);
        join_readers(&r, 1);
        assert_true(gone);
        must_be_origins(0, size);
        assert_false(bh_store_is_dirty(store));
    }
}

static atomic_uint_fast64_t swap_begun, swap_done;
static atomic_bool swaps_enough, swap_wrong;

/* What is read must be of the generation at the time: no zeros, nothing older. */
static void *read_beside_swaps(void *arg)
{
    struct reader *r = arg;
    uint64_t buf[4 * BLOCK / 8];
    while (!swaps_enough && r->rc == 0) {
        r->seed = r->seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t offset = BLOCK * ((r->seed >> 33) % 60), oldest = swap_done;
        r->rc = bh_file_read(db, buf, sizeof buf, offset, NULL);
        uint64_t newest = swap_begun;
        for (size_t i = 0; r->rc == 0 && i < sizeof buf / 8; i++) {
            uint64_t salt = buf[i] >> 48;
            if (salt < oldest || salt > newest || buf[i] != word(salt, offset + 8 * i)) {
                r->rc = EBADMSG;
                r->wrong_at = buf[i];
            }
        }
        if (r->rc)
            swap_wrong = true;
    }
    return NULL;
}

static void *evict_beside_swaps(void *arg)
{
    uint64_t *evicted = arg, some;
    while (!swaps_enough) {
        int rc = bh_store_evict(store, 0, &some);
        swap_wrong |= rc && rc != ESTALE;
        *evicted += some;
    }
    return NULL;
}

static void swap_for(int64_t ms, bool absent)
{
    struct reader r[4] = {0};
    pthread_t evictor;
    uint64_t evicted = 0;
    lay_out(64 * BLOCK, 4096);
    swap_begun = swap_done = 1;
    swaps_enough = swap_wrong = false;
    for (unsigned i = 0; i < 4; i++) {
        r[i].seed = i + 1;
        must(pthread_create(&r[i].thread, NULL, read_beside_swaps, &r[i]));
    }
    must(pthread_create(&evictor, NULL, evict_beside_swaps, &evicted));
    int swap_rc = 0;
    int64_t end = bh_mono_ms() + ms;
    for (uint64_t g = 2; bh_mono_ms() < end && g < 60000 && !swap_wrong && !swap_rc; g++) {
        struct remote *new = remote_new(g, 64 * BLOCK, 4096);
        make_generation(g, new, !absent && g % 2);
        swap_begun = g;
        swap_rc = bh_store_swap(store, g, &new->o, ERR);
        swap_done = g;
        bh_origin_unref(&new->o);
    }
    swaps_enough = true;
    for (unsigned i = 0; i < 4; i++)
        must(pthread_join(r[i].thread, NULL));
    must(pthread_join(evictor, NULL));
    must(swap_rc);
    assert_true(evicted > 0);
    for (unsigned i = 0; i < 4; i++)
        if (r[i].rc)
            fail_msg("error %d, or the word %llx in place of content", r[i].rc,
                     (unsigned long long)r[i].wrong_at);
    assert_false(swap_wrong);
}

static void test_reading_beside_swaps_to_absent_content(void **state)
{
    swap_for(4000, true);
}

static void test_reading_beside_swaps_of_both_kinds(void **state)
{
    swap_for(4000, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_swap_during_a_fetch),
        TEST(test_reading_beside_swaps_to_absent_content),
        TEST(test_reading_beside_swaps_of_both_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
