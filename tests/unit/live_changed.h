/* For tests of what a flush reads and what it is told has changed, against a model: a bucket that
 * gets the blocks of the list and nothing else must hold the frozen content; what was not touched
 * is not in the list. */
#ifndef LIVE_CHANGED_H
#define LIVE_CHANGED_H

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

static inline int remote_read(struct bh_origin *o, uint64_t offset, void *buf, size_t len,
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

static inline void remote_free(struct bh_origin *o)
{
    struct remote *r = (struct remote *)o;
    free(r->data);
    free(r);
}

static inline struct remote *remote_of(const void *data, size_t size, uint32_t unit)
{
    struct remote *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->o = (struct bh_origin){.unit = unit, .read = remote_read, .free = remote_free};
    r->o.refs = 1;
    r->data = malloc(size + 1);
    assert_non_null(r->data);
    memcpy(r->data, data, size);
    r->size = size;
    return r;
}

/* Its only reference is the store's. */
static inline struct remote *set_remote(struct bh_store *s, const void *data, size_t size,
                                        uint32_t unit)
{
    struct remote *r = remote_of(data, size, unit);
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

static inline void free_lists(void)
{
    for (int i = 0; i < 3; i++) {
        free(lists[i].blocks);
        lists[i] = (struct list){0};
    }
}

/* For tear-downs, before that of the store or the database. */
static inline void end_freeze(void)
{
    if (frozen)
        bh_store_thaw(frozen, false);
    frozen = NULL;
    free_lists();
}

static inline int changed_teardown(void **state)
{
    end_freeze();
    return store_teardown(state);
}

static inline void model_resize(size_t size)
{
    if (size < now_size) {
        for (size_t b = size / BLOCK; b * BLOCK < now_size; b++)
            touched[b] = true;
        was_cut = true;
        memset(now + size, 0, now_size - size);
    }
    now_size = size;
}

static inline void change_write(size_t offset, size_t len, int byte)
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

static inline void change_size(size_t size)
{
    must(bh_file_truncate(db, BH_DOOR_INTERNAL, size));
    model_resize(size);
}

static inline void read_some(void)
{
    size_t offset = any((uint32_t)now_size), len = 1 + any(100000);
    must(bh_file_read(db, scratch_buf, len, offset, NULL));
    len = offset + len > now_size ? now_size - offset : len;
    assert_memory_equal(scratch_buf, now + offset, len);
}

/* A client without a journal that dies: as it was, but written. */
static inline void write_and_undo(void)
{
    size_t offset = any((uint32_t)now_size), len = 1 + any(9000);
    len = offset + len > now_size ? now_size - offset : len;
    memset(scratch_buf, 'u', len);
    write_db(BH_DOOR_CLIENT, scratch_buf, len, offset);
    must(bh_store_undo_play(store, NULL, NULL));
    for (size_t b = offset / BLOCK; b * BLOCK < offset + len; b++)
        touched[b] = true;
}

static inline void evict_some(struct bh_store *s)
{
    uint64_t evicted;
    must(bh_store_evict(s, any(2) ? 0 : any(MODEL_MAX), &evicted));
}

/* The bucket has what was frozen: as history_flush.c does it. */
static inline void advance(struct bh_store *s, uint32_t unit)
{
    struct remote *r = remote_of(base, base_size, unit);
    must(bh_frozen_mark_frames(frozen, ERR));
    bh_store_advance_origin(frozen, &r->o);
    bh_origin_unref(&r->o);
    evict_some(s);
}

static inline void random_change(void)
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
        evict_some(store);
        break;
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

static inline void must_be_image(size_t offset, size_t len)
{
    must(bh_frozen_read(frozen, scratch_buf, len, offset));
    for (size_t i = 0; i < len; i++)
        if (scratch_buf[i] != image[offset + i])
            fail_msg("byte %zu of %zu that were frozen is %02x, not %02x", offset + i, image_size,
                     scratch_buf[i], image[offset + i]);
}

static inline struct list changed(uint32_t block_size, uint64_t of_base)
{
    struct list l = {0};
    must(bh_frozen_changed(frozen, block_size, of_base, false, &l.blocks, &l.count));
    for (size_t i = 0; i < l.count; i++) {
        assert_true(l.blocks[i] * block_size < bh_frozen_size(frozen));
        assert_true(i == 0 || l.blocks[i] > l.blocks[i - 1]);
    }
    return l;
}

static inline bool is_listed(const struct list *l, uint64_t block)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->blocks[i] == block)
            return true;
    return false;
}

/* Every block of the image that the bucket has otherwise is in the list. */
static inline void must_list_what_differs(const struct list *l, uint32_t block_size)
{
    for (size_t b = 0; b * block_size < image_size; b++)
        if (memcmp(image + b * block_size, base + b * block_size, block_size) != 0 &&
            !is_listed(l, b))
            fail_msg("block %zu of %u bytes differs from the base and is not listed", b,
                     block_size);
}

static inline void must_list_nothing_else(const struct list *l, uint32_t block_size)
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

/* Of what has just been frozen. */
static inline void take_lists(void)
{
    free_lists();
    for (int i = 0; i < 3; i++) {
        lists[i] = changed(sizes[i], base_size);
        must_list_what_differs(&lists[i], sizes[i]);
    }
}

static inline void freeze(void)
{
    memcpy(image, now, sizeof image);
    image_size = now_size;
    frozen = freeze_store(any(2));
    assert_int_equal(bh_frozen_size(frozen), image_size);
    take_lists();
    for (int i = 0; i < 3; i++)
        must_list_nothing_else(&lists[i], sizes[i]);
}

/* What goes on after the freeze does not change what had changed at it. */
static inline void must_list_the_same(void)
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
static inline void upload(const struct list *l, uint32_t block_size, size_t size)
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
static inline void forget_clean(struct bh_store *s)
{
    must(bh_store_forget_clean(s));
    for (uint64_t b = 0; b < s->map.used; b++)
        if (bh_map_get(&s->map, b) == BH_BLOCK_ABSENT)
            must(fallocate(bh_store_db(s)->disk.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)(b * BLOCK), BLOCK));
}

/* --- begin and end --- */

static inline void begin_model(size_t size, uint32_t unit)
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

static inline void thaw(bool flushed)
{
    must(bh_store_thaw(frozen, flushed));
    frozen = NULL;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup, changed_teardown)

#endif
