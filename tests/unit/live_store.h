/* A byte store of its own for a test, in SCRATCH/state. */
#ifndef LIVE_STORE_H
#define LIVE_STORE_H

#include "live_fixture.h"

#include "live/store_private.h"

#define BLOCK BH_SUBBLOCK

static const unsigned char magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};

static struct bh_disk *disk;
static struct bh_store *store;
static struct bh_file *db;

static inline void open_store(uint64_t generation)
{
    must(bh_store_open(&store, disk, generation, ERR));
    db = bh_store_db(store);
}

static inline int store_setup(void **state)
{
    if (scratch_setup(state) || mkdir(at("state"), 0700))
        return -1;
    seed_random(1);
    must(bh_disk_open(&disk, at("state"), NULL, 0, ERR));
    must(bh_store_make_generation(disk, 1, ERR));
    open_store(1);
    return 0;
}

/* As after a kill -9: what the process had not synced is in the page cache all the same. */
static inline void reopen_store(void)
{
    uint64_t generation = store->generation;
    bh_store_close(store);
    open_store(generation);
}

static inline int store_teardown(void **state)
{
    if (store && !store->frozen)
        bh_store_close(store);
    bh_disk_close(disk);
    store = NULL;
    return scratch_teardown(state);
}

static inline struct bh_file *create_file(const char *name)
{
    struct bh_file *f;
    must(bh_store_create(store, BH_DOOR_CLIENT, name, 0600, &f));
    return f;
}

static inline void write_db(enum bh_door door, const void *buf, size_t len, uint64_t offset)
{
    must(bh_file_write(db, door, buf, len, offset));
}

/* Whole blocks of one byte each. */
static inline void write_blocks(enum bh_door door, uint64_t first, uint64_t count, int byte)
{
    unsigned char buf[BLOCK];
    memset(buf, byte, sizeof buf);
    for (uint64_t b = first; b < first + count; b++)
        write_db(door, buf, sizeof buf, b * BLOCK);
}

static inline void all_clean(void)
{
    must(bh_map_set(&store->map, 0, store->map.used, BH_BLOCK_CLEAN));
    assert_false(bh_store_is_dirty(store));
}

static inline enum bh_block_state block_state(uint64_t block)
{
    return bh_map_get(&store->map, block);
}

/* What bh_live_freeze does under a SHARED lock. */
static inline struct bh_frozen *freeze_store(bool patient)
{
    struct bh_frozen *z;
    must(bh_store_freeze_prepare(store, patient, &z));
    must(bh_store_freeze(z));
    return z;
}

/* Makes the next writes to a file fail, and work again. Returns what mend_writes needs. */
static inline int break_writes(int fd)
{
    int saved = dup(fd), broken = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(saved >= 0 && broken >= 0);
    assert_true(dup2(broken, fd) >= 0);
    close(broken);
    return saved;
}

static inline void mend_writes(int fd, int saved)
{
    assert_true(dup2(saved, fd) >= 0);
    close(saved);
}

#endif
