/* What a flush reads and what it is told has changed, against a model: a bucket that gets the
 * blocks of the list and nothing else must hold the frozen content, whatever writers, truncations,
 * fetches and swaps do meanwhile; what was not touched is not in the list.
 *
 * Tests in BUG(...) fail because of the code under test. */
#include "live_wal.h"
/* after it: both know a journal's magic */
#include "live_store.h"

enum { MODEL_MAX = 24 << 16, SUBS = MODEL_MAX / BLOCK };
static const uint32_t sizes[] = {4096, 16384, 65536};

/* --- the origin: a snapshot in memory --- */

struct remote {
    struct bh_origin o;
    unsigned char *data;
    size_t size;
    atomic_bool blocked;
    atomic_uint waiting;
};

static int remote_read(struct bh_origin *o, uint64_t offset, void *buf, size_t len,
                       struct bh_error *err)
{
    struct remote *r = (struct remote *)o;
    r->waiting++;
    while (r->blocked)
        usleep(500);
    r->waiting--;
    size_t valid = offset < r->size ? r->size - (size_t)offset : 0;
    valid = valid < len ? valid : len;
    if (valid > 0)
        memcpy(buf, r->data + offset, valid);
    memset((char *)buf + valid, 0, len - valid);
    return 0;
}

static void remote_free(struct bh_origin *o)
{
    struct remote *r = (struct remote *)o;
    free(r->data);
    free(r);
}

/* Its only reference is the store's. */
static struct remote *set_remote(struct bh_store *s, const void *data, size_t size, uint32_t unit)
{
    struct remote *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->o = (struct bh_origin){.unit = unit, .read = remote_read, .free = remote_free};
    r->o.refs = 1;
    r->data = malloc(size + 1);
    assert_non_null(r->data);
    memcpy(r->data, data, size);
    r->size = size;
    bh_store_set_origin(s, &r->o);
    bh_origin_unref(&r->o);
    return r;
}

/* --- the model --- */

struct list {
    uint64_t *blocks;
    size_t count;
};

static unsigned char now[MODEL_MAX], image[MODEL_MAX], scratch_buf[MODEL_MAX];
static size_t now_size, image_size;
/* What the bucket has; zeros behind the end of its last block. */
static unsigned char base[MODEL_MAX];
static size_t base_size;
static bool touched[SUBS], was_cut; /* since the last flush */
static struct bh_frozen *frozen;
static struct list lists[3]; /* of this freeze, for each size */

static void free_lists(void)
{
    for (int i = 0; i < 3; i++) {
        free(lists[i].blocks);
        lists[i] = (struct list){0};
    }
}

static int changed_teardown(void **state)
{
    if (frozen)
        bh_store_thaw(frozen, false);
    frozen = NULL;
    free_lists();
    return store_teardown(state);
}

static void model_resize(size_t size)
{
    if (size < now_size) {
        for (size_t b = size / BLOCK; b * BLOCK < now_size; b++)
            touched[b] = true;
        was_cut = true;
        memset(now + size, 0, now_size - size);
    }
    now_size = size;
}

static void change_write(size_t offset, size_t len, int byte)
{
    memset(scratch_buf, byte, len);
    if (len > 8)
        fill_random(scratch_buf, 8);
    write_db(BH_DOOR_INTERNAL, scratch_buf, len, offset);
    if (offset + len > now_size)
        model_resize(offset + len);
    memcpy(now + offset, scratch_buf, len);
    for (size_t b = offset / BLOCK; b * BLOCK < offset + len; b++)
        touched[b] = true;
}

static void change_size(size_t size)
{
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, size));
    model_resize(size);
}

static void read_some(void)
{
    size_t offset = any((uint32_t)now_size), len = 1 + any(100000);
    must(bh_file_read(db, scratch_buf, len, offset, NULL));
    len = offset + len > now_size ? now_size - offset : len;
    assert_memory_equal(scratch_buf, now + offset, len);
}

/* A client without a journal that dies: as it was, but written. */
static void write_and_undo(void)
{
    size_t offset = any((uint32_t)now_size), len = 1 + any(9000);
    len = offset + len > now_size ? now_size - offset : len;
    memset(scratch_buf, 'u', len);
    write_db(BH_DOOR_CLIENT, scratch_buf, len, offset);
    must(bh_store_undo_play(store, NULL, NULL));
    for (size_t b = offset / BLOCK; b * BLOCK < offset + len; b++)
        touched[b] = true;
}

static void random_change(void)
{
    size_t offset = any((uint32_t)now_size), len = 1 + any(3 * BLOCK), blocks = 1 + any(6);
    switch (any(16)) {
    case 0:
        change_size(now_size - any((uint32_t)(now_size < 200000 ? now_size : 200000)));
        break;
    case 1:
        offset -= any(2) ? offset % BLOCK : offset % sizes[any(3)];
        if (offset > 0)
            change_size(offset);
        break;
    case 2:
        if (now_size + 300000 < MODEL_MAX)
            change_size(now_size + any(300000));
        break;
    case 3: /* beyond the end */
        if (now_size + 200000 < MODEL_MAX)
            change_write(now_size + any(100000), len, (int)any(256));
        break;
    case 4:
        write_and_undo();
        break;
    case 5:
    case 6:
    case 7:
        read_some();
        break;
    case 8:
    case 9:
    case 10:
    case 11:
        if ((offset / BLOCK + blocks) * BLOCK < MODEL_MAX)
            change_write(offset / BLOCK * BLOCK, blocks * BLOCK, any(3) ? (int)any(256) : 0);
        break;
    default:
        if (offset + len < MODEL_MAX)
            change_write(offset, len, (int)any(256));
    }
}

/* --- checks --- */

static void must_be_image(size_t offset, size_t len)
{
    must(bh_frozen_read(frozen, scratch_buf, len, offset));
    for (size_t i = 0; i < len; i++)
        if (scratch_buf[i] != image[offset + i])
            fail_msg("byte %zu of %zu that were frozen is %02x, not %02x", offset + i, image_size,
                     scratch_buf[i], image[offset + i]);
}

static void must_be_some_of_the_image(void)
{
    size_t offset = any((uint32_t)image_size);
    must_be_image(offset, 1 + any((uint32_t)(image_size - offset)));
}

static struct list changed(uint32_t block_size, uint64_t of_base)
{
    struct list l = {0};
    must(bh_frozen_changed(frozen, block_size, of_base, false, &l.blocks, &l.count));
    for (size_t i = 0; i < l.count; i++) {
        assert_true(l.blocks[i] * block_size < bh_frozen_size(frozen));
        assert_true(i == 0 || l.blocks[i] > l.blocks[i - 1]);
    }
    return l;
}

static bool is_listed(const struct list *l, uint64_t block)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->blocks[i] == block)
            return true;
    return false;
}

/* Every block of the image that the bucket has otherwise is in the list. */
static void must_list_what_differs(const struct list *l, uint32_t block_size)
{
    for (size_t b = 0; b * block_size < image_size; b++)
        if (memcmp(image + b * block_size, base + b * block_size, block_size) != 0 &&
            !is_listed(l, b))
            fail_msg("block %zu of %u bytes differs from the base and is not listed", b,
                     block_size);
}

static void must_list_nothing_else(const struct list *l, uint32_t block_size)
{
    uint64_t per = block_size / BLOCK;
    for (size_t i = 0; i < l->count; i++) {
        uint64_t b = l->blocks[i];
        bool any_touched =
            (b == 0 && was_cut) || (b == image_size / block_size && image_size != base_size);
        for (uint64_t sub = b * per; sub < (b + 1) * per; sub++)
            any_touched |= touched[sub];
        if (!any_touched)
            fail_msg("block %d of %u bytes was not touched and is listed", (int)b, block_size);
    }
}

static void freeze(void)
{
    memcpy(image, now, sizeof image);
    image_size = now_size;
    frozen = freeze_store(any(2));
    assert_int_equal(bh_frozen_size(frozen), image_size);
    free_lists();
    for (int i = 0; i < 3; i++) {
        lists[i] = changed(sizes[i], base_size);
        must_list_what_differs(&lists[i], sizes[i]);
        must_list_nothing_else(&lists[i], sizes[i]);
    }
}

/* What goes on after the freeze does not change what had changed at it. */
static void must_list_the_same(void)
{
    for (int i = 0; i < 3; i++) {
        struct list l = changed(sizes[i], base_size);
        bool same = l.count == lists[i].count &&
                    (l.count == 0 || !memcmp(l.blocks, lists[i].blocks, l.count * 8));
        free(l.blocks);
        if (!same)
            fail_msg("the list of blocks of %u bytes is another one now", sizes[i]);
    }
}

/* The bucket as it is after the flush, made of the old one and the listed blocks only. */
static void upload(const struct list *l, uint32_t block_size, size_t size)
{
    size_t end = (size + block_size - 1) / block_size * block_size;
    assert_true(end <= MODEL_MAX);
    memset(base + end, 0, MODEL_MAX - end);
    for (size_t i = 0; i < l->count; i++) {
        size_t at_byte = l->blocks[i] * block_size;
        size_t len = size - at_byte < block_size ? size - at_byte : block_size;
        memset(base + at_byte, 0, block_size);
        must(bh_frozen_read(frozen, base + at_byte, len, at_byte));
    }
    base_size = size;
    if (memcmp(base, image, size) != 0)
        fail_msg("the bucket has not what was frozen");
}

/* What is absent is not in the file either. */
static void forget_clean(struct bh_store *s)
{
    must(bh_store_forget_clean(s));
    for (uint64_t b = 0; b < s->map.used; b++)
        if (bh_map_get(&s->map, b) == BH_BLOCK_ABSENT)
            must(fallocate(bh_store_db(s)->disk.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)(b * BLOCK), BLOCK));
}

/* --- one thread --- */

static void begin_model(size_t size, uint32_t unit)
{
    memset(now, 0, sizeof now);
    memset(base, 0, sizeof base);
    memset(touched, 0, sizeof touched);
    was_cut = false;
    fill_random(now, size);
    write_db(BH_DOOR_INTERNAL, now, size, 0);
    memcpy(base, now, size);
    now_size = base_size = size;
    must(bh_store_mark_all(store, BH_BLOCK_CLEAN));
    set_remote(store, base, base_size, unit);
    forget_clean(store);
}

static void thaw(bool flushed)
{
    must(bh_store_thaw(frozen, flushed));
    frozen = NULL;
}

static void model_flush(uint32_t block_size, uint32_t unit)
{
    static bool before[SUBS];
    bool flushed = any(4) > 0, cut_before = was_cut;
    freeze();
    memcpy(before, touched, sizeof before);
    memset(touched, 0, sizeof touched);
    was_cut = false;
    for (unsigned i = 0, n = any(20); i < n; i++) {
        random_change();
        if (any(3) == 0)
            must_be_some_of_the_image();
    }
    must_list_the_same();
    must_be_image(0, image_size);
    if (flushed) {
        for (int i = 0; i < 3; i++)
            if (sizes[i] == block_size)
                upload(&lists[i], block_size, image_size);
        if (any(2))
            set_remote(store, base, base_size, unit);
    } else {
        for (size_t b = 0; b < SUBS; b++)
            touched[b] |= before[b];
        was_cut |= cut_before;
    }
    thaw(flushed);
    if (any(6) == 0) {
        set_remote(store, base, base_size, unit);
        forget_clean(store);
    }
    if (any(20) == 0)
        reopen_store();
    set_remote(store, base, base_size, unit);
}

static void run_model(uint32_t block_size, uint32_t unit)
{
    begin_model(300000 + any(700000), unit);
    for (int round = 0; round < 250; round++) {
        for (unsigned i = 0, n = any(20); i < n; i++)
            random_change();
        model_flush(block_size, unit);
        if (now_size < 100000)
            change_size(100000 + any(800000));
    }
    must(bh_store_hydrate(store, NULL, ERR));
    must_hold("state/db.1", now, now_size);
}

static void test_model_of_small_blocks(void **state)
{
    seed_random(4096);
    run_model(4096, 16384);
}

static void test_model_of_middle_blocks(void **state)
{
    seed_random(16384);
    run_model(16384, 4096);
}

static void test_model_of_large_blocks(void **state)
{
    seed_random(65536);
    run_model(65536, 1 << 20);
}

/* --- single cases --- */

static void test_all(void **state)
{
    struct list l;
    begin_model(10 * 65536 + 1, 4096);
    frozen = freeze_store(false);
    for (int i = 0; i < 3; i++) {
        must(bh_frozen_changed(frozen, sizes[i], base_size, true, &l.blocks, &l.count));
        assert_int_equal(l.count, 10 * 65536 / sizes[i] + 1);
        for (size_t b = 0; b < l.count; b++)
            assert_int_equal(l.blocks[b], b);
        free(l.blocks);
        l = changed(sizes[i], base_size);
        assert_int_equal(l.count, 0);
        free(l.blocks);
    }
    thaw(true);
}

static void test_an_empty_database(void **state)
{
    frozen = freeze_store(false);
    struct list l = changed(4096, 0);
    assert_int_equal(l.count, 0);
    free(l.blocks);
    l = changed(4096, 100000);
    assert_int_equal(l.count, 0);
    free(l.blocks);
    thaw(true);
}

/* The map is looked at in steps of 128 MiB, and in fours. */
static void test_blocks_at_the_edges_of_steps(void **state)
{
    static const uint64_t edges[] = {0,     3,     4,     7,     8,     32767, 32768,
                                     32771, 32772, 65535, 65536, 70000, 70001};
    static const uint64_t later[] = {1, 4, 9, 32766, 32768, 65534, 65535, 69999, 70001};
    enum { N = sizeof edges / sizeof *edges, LATER = sizeof later / sizeof *later };
    const uint64_t blocks = 70002;
    for (int absent = 0; absent < 2; absent++) {
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, blocks * BLOCK));
        must(bh_store_mark_all(store, absent ? BH_BLOCK_ABSENT : BH_BLOCK_CLEAN));
        for (size_t i = 0; i < N; i++)
            must(bh_map_set(&store->map, edges[i], 1, BH_BLOCK_DIRTY));
        frozen = freeze_store(false);
        for (int pass = 0; pass < 2; pass++) {
            struct list l = changed(4096, blocks * BLOCK);
            assert_int_equal(l.count, N);
            for (size_t i = 0; i < N; i++)
                assert_int_equal(l.blocks[i], edges[i]);
            free(l.blocks);
            pthread_mutex_lock(&store->mutex);
            for (size_t i = 0; i < LATER; i++)
                must(db_write_locked(store, now, BLOCK, later[i] * BLOCK));
            pthread_mutex_unlock(&store->mutex);
        }
        thaw(true);
        assert_int_equal(bh_store_dirty_bytes(store), LATER * BLOCK);
        for (size_t i = 0; i < LATER; i++)
            assert_int_equal(block_state(later[i]), BH_BLOCK_DIRTY);
        assert_int_equal(block_state(2), absent ? BH_BLOCK_ABSENT : BH_BLOCK_CLEAN);
    }
}

/* Shorter, and longer again before anything was flushed: zeros where the base has content. */
static void test_what_was_cut_and_grew_again_is_listed(void **state)
{
    for (int i = 0; i < 3; i++) {
        begin_model(20 * 65536, sizes[i]);
        change_size(10 * 65536 + 4096);
        change_size(20 * 65536);
        freeze();
        assert_true(is_listed(&lists[0], 170));
        assert_true(is_listed(&lists[2], 19));
        thaw(true);
        memcpy(base, now, sizeof base);
        freeze();
        assert_int_equal(lists[0].count, 0);
        thaw(true);
        /* and within the last block */
        change_size(20 * 65536 - 8192);
        freeze();
        upload(&lists[2], 65536, image_size);
        thaw(true);
        change_size(20 * 65536);
        memset(touched, 0, sizeof touched);
        freeze();
        upload(&lists[2], 65536, image_size);
        thaw(true);
    }
}

static void *fetch_in_thread(void *arg)
{
    struct bh_error err;
    int *rc = arg;
    *rc = bh_store_fetch(store, 100 * BLOCK, 50 * BLOCK, &err);
    return NULL;
}

static void test_a_fetch_across_the_freeze(void **state)
{
    for (int after = 0; after < 3; after++) { /* comes after: freeze, write, thaw */
        pthread_t thread;
        int rc;
        begin_model(200 * BLOCK, 16384);
        struct remote *r = set_remote(store, base, base_size, 16384);
        r->blocked = true;
        must(pthread_create(&thread, NULL, fetch_in_thread, &rc));
        while (!r->waiting)
            usleep(100);
        freeze();
        r->blocked = after > 0;
        if (after == 0)
            must(pthread_join(thread, NULL));
        pthread_mutex_lock(&store->mutex);
        for (uint64_t b = 101; b < 150; b += 5) /* as with a journal */
            must(db_write_locked(store, image, BLOCK, b * BLOCK));
        pthread_mutex_unlock(&store->mutex);
        if (after == 1) {
            r->blocked = false;
            must(pthread_join(thread, NULL));
        }
        if (after < 2) {
            must_list_the_same();
            must_be_image(0, image_size);
        }
        thaw(true);
        r->blocked = false;
        if (after == 2)
            must(pthread_join(thread, NULL));
        must(rc);
        for (uint64_t b = 100; b < 150; b++)
            assert_int_equal(block_state(b), b % 5 == 1 ? BH_BLOCK_DIRTY : BH_BLOCK_CLEAN);
        must(bh_file_read(db, scratch_buf, 200 * BLOCK, 0, NULL));
        for (uint64_t b = 0; b < 200; b++)
            assert_memory_equal(scratch_buf + b * BLOCK,
                                b > 100 && b < 150 && b % 5 == 1 ? image : base + b * BLOCK, BLOCK);
    }
}

static void swap_to(uint64_t generation)
{
    char name[32];
    struct bh_map map;
    must(bh_store_make_generation(disk, generation, ERR));
    snprintf(name, sizeof name, "state/db.%d", (int)generation);
    put_file(name, "new content", 11);
    snprintf(name, sizeof name, "map.%d", (int)generation);
    must(bh_map_open(&map, disk, name, true, ERR));
    must(bh_map_set(&map, 0, 1, BH_BLOCK_DIRTY));
    bh_map_close(&map);
    must(bh_store_swap(store, generation, NULL, ERR));
}

static void test_a_swap_while_frozen(void **state)
{
    for (uint64_t g = 2; g < 30; g++) {
        begin_model(300000 + any(100000), sizes[g % 3]);
        for (int i = 0; i < 10; i++)
            random_change();
        freeze();
        for (unsigned i = 0, n = any(10); i < n; i++)
            random_change();
        swap_to(g);
        must_list_the_same();
        must_be_image(0, image_size);
        change_write(0, 300000, 'n');
        change_size(1000);
        change_size(300000);
        must_list_the_same();
        must_be_image(0, image_size);
        upload(&lists[2], 65536, image_size);
        thaw(true);
        assert_true(bh_store_is_dirty(store)); /* what was flushed is not this content */
        must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0));
    }
}

static void test_a_failing_origin_fails_the_flush(void **state)
{
    begin_model(100 * BLOCK, 4096);
    frozen = freeze_store(false);
    bh_store_set_origin(store, NULL); /* the freeze has its own */
    must(bh_frozen_read(frozen, scratch_buf, 100 * BLOCK, 0));
    assert_memory_equal(scratch_buf, now, 100 * BLOCK);
    thaw(false);
}

/* Zeros would go into the bucket. */
static void test_absent_content_without_an_origin_is_an_error(void **state)
{
    begin_model(100 * BLOCK, 4096);
    reopen_store(); /* nobody has said the origin since */
    frozen = freeze_store(false);
    int rc = bh_frozen_read(frozen, scratch_buf, BLOCK, 50 * BLOCK);
    if (rc == 0)
        fail_msg("what is absent was read from nowhere, as %s",
                 memcmp(scratch_buf, now + 50 * BLOCK, BLOCK) ? "zeros" : "it is");
    must_fail(rc, EIO);
    thaw(false);
}

/* Who has nothing to read never hears that the freeze is broken. */
static void test_a_broken_freeze_has_no_list(void **state)
{
    struct list l = {0};
    must(bh_file_write(db, BH_DOOR_INTERNAL, now, BLOCK, (5 << 20) - BLOCK));
    must(bh_store_mark_all(store, BH_BLOCK_DIRTY));
    frozen = freeze_store(false);
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, 0)); /* more than 4 MiB at once */
    must_fail(bh_frozen_read(frozen, scratch_buf, 1, 0), EAGAIN);
    int rc = bh_frozen_changed(frozen, 4096, 0, false, &l.blocks, &l.count);
    size_t count = rc ? 0 : l.count;
    free(rc ? NULL : l.blocks);
    if (rc == 0 && count < (5 << 20) / BLOCK)
        fail_msg("all blocks were dirty, and %zu are listed without an error", count);
    thaw(false);
}

/* --- several threads --- */

static atomic_bool enough;
static atomic_int thread_failed;

struct worker {
    pthread_t thread;
    uint64_t seed;
};

static uint64_t next(struct worker *w)
{
    w->seed = w->seed * 6364136223846793005u + 1442695040888963407u;
    return w->seed >> 20;
}

static void *write_all_the_time(void *arg)
{
    struct worker *w = arg;
    unsigned char buf[3 * BLOCK];
    while (!enough) {
        uint64_t kind = next(w) % 20, offset = next(w) % (MODEL_MAX - 200000),
                 len = 1 + next(w) % sizeof buf;
        memset(buf, (int)next(w), sizeof buf);
        if (kind < 8) {
            offset -= offset % BLOCK;
            len = 2 * BLOCK;
        }
        int rc = kind == 19   ? bh_file_truncate(db, BH_DOOR_INTERNAL, offset + 200000)
                 : kind == 18 ? bh_file_truncate(db, BH_DOOR_INTERNAL, 200000 + offset % 100000)
                              : bh_file_write(db, BH_DOOR_INTERNAL, buf, len, offset);
        if (rc)
            thread_failed = rc;
    }
    return NULL;
}

static void *fetch_all_the_time(void *arg)
{
    struct worker *w = arg;
    unsigned char buf[BLOCK];
    while (!enough) {
        int rc = bh_file_read(db, buf, sizeof buf, next(w) % MODEL_MAX, NULL);
        if (rc)
            thread_failed = rc;
    }
    return NULL;
}

static int64_t first_difference(const unsigned char *buf, size_t offset, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (buf[i] != image[offset + i])
            return (int64_t)(offset + i);
    return -1;
}

static void *read_frozen_all_the_time(void *arg)
{
    struct worker *w = arg;
    unsigned char *buf = malloc(100000);
    int rc = buf ? 0 : ENOMEM;
    while (!enough && rc == 0) {
        size_t offset = next(w) % image_size, len = 1 + next(w) % 100000;
        len = image_size - offset < len ? image_size - offset : len;
        rc = bh_frozen_read(frozen, buf, len, offset);
        if (rc == 0 && first_difference(buf, offset, len) >= 0)
            rc = EBADMSG;
    }
    if (rc)
        thread_failed = rc;
    free(buf);
    return NULL;
}

/* Nobody writes now: the content without what is under test. */
static void take_content(void)
{
    now_size = bh_file_size(db);
    memset(now, 0, sizeof now);
    must(bh_pread_full(db->disk.fd, now, now_size, 0, NULL));
    for (size_t b = 0; b * BLOCK < now_size; b++)
        if (block_state(b) == BH_BLOCK_ABSENT)
            memcpy(now + b * BLOCK, base + b * BLOCK,
                   now_size - b * BLOCK < BLOCK ? now_size - b * BLOCK : BLOCK);
    memset(touched, 1, sizeof touched); /* unknown */
}

static void run_threads(bool patient, int rounds, uint32_t block_size)
{
    struct worker w[3] = {{.seed = 1}, {.seed = 2}, {.seed = 3}};
    int which = block_size == 4096 ? 0 : block_size == 16384 ? 1 : 2;
    begin_model(900000, 16384);
    thread_failed = 0;
    for (int round = 0; round < rounds; round++) {
        take_content();
        memcpy(image, now, sizeof image);
        image_size = now_size;
        frozen = freeze_store(patient);
        free_lists();
        for (int i = 0; i < 3; i++) {
            lists[i] = changed(sizes[i], base_size);
            must_list_what_differs(&lists[i], sizes[i]);
        }
        enough = false;
        must(pthread_create(&w[0].thread, NULL, write_all_the_time, &w[0]));
        must(pthread_create(&w[1].thread, NULL, fetch_all_the_time, &w[1]));
        must(pthread_create(&w[2].thread, NULL, read_frozen_all_the_time, &w[2]));
        bool same = true, flushed = round % 4;
        int64_t wrong = -1;
        int rc = 0;
        for (int pass = 0; pass < 3; pass++) {
            struct list l = {0};
            rc = rc ? rc
                    : bh_frozen_changed(frozen, block_size, base_size, false, &l.blocks, &l.count);
            same &= l.count == lists[which].count &&
                    (l.count == 0 || !memcmp(l.blocks, lists[which].blocks, l.count * 8));
            free(l.blocks);
            rc = rc ? rc : bh_frozen_read(frozen, scratch_buf, image_size, 0);
            wrong = wrong < 0 && rc == 0 ? first_difference(scratch_buf, 0, image_size) : wrong;
        }
        if (rc == 0 && wrong < 0 && same && flushed)
            upload(&lists[which], block_size, image_size);
        enough = true; /* the reader of the frozen content ends before it */
        must(pthread_join(w[2].thread, NULL));
        must(pthread_join(w[1].thread, NULL));
        must(pthread_join(w[0].thread, NULL));
        enough = false;
        must(pthread_create(&w[0].thread, NULL, write_all_the_time, &w[0]));
        usleep(any(500));
        int thaw_rc = bh_store_thaw(frozen, flushed && rc == 0); /* beside the writer, too */
        frozen = NULL;
        enough = true;
        must(pthread_join(w[0].thread, NULL));
        must(rc);
        must(thaw_rc);
        must(thread_failed);
        assert_int_equal(wrong, -1);
        assert_true(same);
        set_remote(store, base, base_size, 16384);
        if (round % 3 == 0)
            forget_clean(store);
    }
}

static void test_threads_with_small_blocks(void **state)
{
    run_threads(false, 40, 4096);
}

static void test_threads_with_large_blocks(void **state)
{
    run_threads(true, 40, 65536);
}

/* --- write-ahead mode --- */

static int wal_teardown(void **state)
{
    if (frozen)
        bh_store_thaw(frozen, false);
    frozen = NULL;
    free_lists();
    return db_teardown(state);
}

static sqlite3 *connect_wal(void)
{
    sqlite3 *c = connect_live();
    must_sql(c, "PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=5; PRAGMA synchronous=OFF");
    sqlite3_db_config(c, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return c;
}

static sqlite3 *begin_wal(int page_size)
{
    char text[160];
    open_live(NULL);
    sqlite3 *c = connect_wal();
    snprintf(text, sizeof text, "PRAGMA page_size=%d; PRAGMA journal_mode=WAL", page_size);
    must_sql(c, text);
    must_sql(c, "CREATE TABLE t(n INTEGER PRIMARY KEY, v INT, fill BLOB)");
    memset(base, 0, sizeof base);
    base_size = 0;
    return c;
}

static const char *const checkpoints[] = {
    "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(FULL)",
    "PRAGMA wal_checkpoint(RESTART)", "PRAGMA wal_checkpoint(TRUNCATE)"};

static void freeze_wal(sqlite3 *c)
{
    size_t size;
    unsigned char *data = sqlite_reads(c, &size);
    assert_true(size <= MODEL_MAX);
    memset(image, 0, sizeof image);
    memcpy(image, data, size);
    sqlite3_free(data);
    image[18] = image[19] = 1;
    image_size = size;
    must(bh_live_freeze(live, true, &frozen, ERR));
    assert_int_equal(bh_frozen_size(frozen), image_size);
    free_lists();
    for (int i = 0; i < 3; i++) {
        lists[i] = changed(sizes[i], base_size);
        must_list_what_differs(&lists[i], sizes[i]);
    }
}

static void must_list_frames(void)
{
    const struct bh_wal_map *m = &frozen->frames;
    for (size_t i = 0; i < m->count; i++)
        for (int k = 0; k < 3; k++) {
            uint64_t begin = (uint64_t)(m->pages[i].page - 1) * m->page_size;
            for (uint64_t byte = begin; byte < begin + m->page_size && byte < image_size;
                 byte += 512)
                if (!is_listed(&lists[k], byte / sizes[k]))
                    fail_msg("page %u of the log is not in the list", m->pages[i].page);
        }
}

static void flush_wal(sqlite3 *c, int which, bool flushed, bool with_changes)
{
    freeze_wal(c);
    must_list_frames();
    if (with_changes) {
        random_transaction(c);
        must_sql(c, checkpoints[any(4)]);
        random_transaction(c);
    }
    must_list_the_same();
    must_be_image(0, image_size);
    if (flushed) {
        upload(&lists[which], sizes[which], image_size);
        must(bh_frozen_fetch_old(frozen, ERR)); /* as the history layer does it */
        set_remote(live->store, base, base_size, 16384);
    }
    thaw(flushed);
}

static void run_wal(int page_size, int which)
{
    sqlite3 *c = begin_wal(page_size);
    add_rows(c, 40);
    flush_wal(c, which, true, false);
    for (int round = 0; round < 80; round++) {
        for (unsigned i = 0, n = any(5); i < n; i++)
            random_transaction(c);
        if (any(3) == 0)
            must_sql(c, checkpoints[any(4)]);
        if (any(12) == 0)
            must_sql(c, "DELETE FROM t WHERE n>20; VACUUM");
        if (number(c, "SELECT count(*) FROM t") > 150)
            must_sql(c, "DELETE FROM t WHERE n%3");
        flush_wal(c, which, any(4), any(2));
        if (any(4) == 0) /* only clean blocks, whose content the base has */
            forget_clean(live->store);
    }
    must_be_whole(c);
    sqlite3_close(c);
    close_live();
}

static void test_logs_of_small_pages(void **state)
{
    seed_random(11);
    run_wal(1024, 2);
}

static void test_logs_of_middle_pages(void **state)
{
    seed_random(12);
    run_wal(4096, 0);
}

static void test_logs_of_large_pages(void **state)
{
    seed_random(13);
    run_wal(16384, 1);
}

/* SQLite frees and reuses the last page of a long value without reading it, so it may be absent
 * while a newer one of it is in the log, and then in the bucket. Who reads as of before must not
 * get the newer one, though the flush makes the new snapshot the origin, as history_flush.c does.
 */
static void test_a_reader_older_than_the_flush(void **state)
{
    sqlite3 *c = begin_wal(4096);
    must_sql(c, "PRAGMA secure_delete=OFF"); /* as everywhere but in Debian */
    must_sql(c, "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<60) INSERT "
                "INTO t SELECT n, 1, replace(hex(zeroblob(3000)), '0', 'a') FROM i");
    must_sql(c, "PRAGMA wal_checkpoint(TRUNCATE)");
    flush_wal(c, 0, true, false);
    set_remote(live->store, base, base_size, 4096);
    forget_clean(live->store);
    sqlite3 *old = connect_wal();
    must_sql(old, "BEGIN");
    assert_int_equal(number(old, "SELECT sum(v) FROM t"), 60);
    must_sql(c, "DELETE FROM t");
    must_sql(c, "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<60) INSERT "
                "INTO t SELECT n, 2, replace(hex(zeroblob(3000)), '0', 'b') FROM i");
    assert_true(bh_store_absent_bytes(live->store) > 20 * BLOCK);
    flush_wal(c, 0, true, false);
    int64_t right = number(old, "SELECT count(*) FROM t WHERE substr(fill, -1)='a'");
    sqlite3_close(old);
    sqlite3_close(c);
    if (right != 60)
        fail_msg("%d of 60 values end as they did for who began before", (int)right);
}

#define TEST(name)     cmocka_unit_test_setup_teardown(name, store_setup, changed_teardown)
#define TEST_WAL(name) cmocka_unit_test_setup_teardown(name, db_setup, wal_teardown)
/* Fail for a reason in the code under test. */
#define BUG(name)     TEST(name)
#define BUG_WAL(name) TEST_WAL(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_model_of_small_blocks),
        TEST(test_model_of_middle_blocks),
        TEST(test_model_of_large_blocks),
        TEST(test_all),
        TEST(test_an_empty_database),
        TEST(test_blocks_at_the_edges_of_steps),
        TEST(test_what_was_cut_and_grew_again_is_listed),
        TEST(test_a_fetch_across_the_freeze),
        TEST(test_a_swap_while_frozen),
        TEST(test_a_failing_origin_fails_the_flush),
        BUG(test_absent_content_without_an_origin_is_an_error),
        BUG(test_a_broken_freeze_has_no_list),
        TEST(test_threads_with_small_blocks),
        TEST(test_threads_with_large_blocks),
        TEST_WAL(test_logs_of_small_pages),
        TEST_WAL(test_logs_of_middle_pages),
        TEST_WAL(test_logs_of_large_pages),
        BUG_WAL(test_a_reader_older_than_the_flush),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
