/* The freeze: copy-before-overwrite in units of a sub-block. The reader takes no lock: a writer
 * saves the old content, sets the sub-block's bit, and only then writes; a reader reads the live
 * file first and looks at the bits afterwards, so a clear bit proves that what it read is old. */
#include "live/store_private.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/io.h"
#include "util/log.h"

/* A truncation that cuts off more than this breaks an impatient freeze rather than hold its client
 * up. */
#define TRUNCATE_SAVE_MAX (4u << 20)

static bool is_touched(const struct frozen_part *p, uint64_t block)
{
    return block < p->blocks &&
           atomic_load_explicit(&p->touched[block / 8], memory_order_acquire) >> (block % 8) & 1;
}

bool freeze_is_touched(const struct bh_frozen *z, uint64_t block)
{
    return is_touched(&z->db, block);
}

/* The part of the freeze in progress that a file is, NULL if it is none. */
static struct frozen_part *part_of(struct bh_store *s, const struct bh_file *f)
{
    return f == s->db ? &s->frozen->db : f == s->frozen->wal_file ? &s->frozen->wal : NULL;
}

static enum bh_block_state was(const struct frozen_part *p, uint64_t block)
{
    return (enum bh_block_state)(p->was[block / 4] >> (2 * (block % 4)) & 3);
}

static void save_block(struct bh_frozen *z, struct frozen_part *p, uint64_t block)
{
    unsigned char buf[BH_SUBBLOCK];
    int rc = 0;
    enum bh_block_state state = p->was ? bh_map_get(&z->store->map, block) : BH_BLOCK_DIRTY;
    if (p->was) /* each entry is set once, and read after its bit in touched is seen */
        p->was[block / 4] |= (uint8_t)((unsigned)state << (2 * (block % 4)));
    if (state != BH_BLOCK_ABSENT) { /* that, the origin has */
        rc = bh_pread_full(p->fd, buf, sizeof buf, block * BH_SUBBLOCK, NULL);
        if (rc == 0)
            rc = bh_pwrite_full(p->save, buf, sizeof buf, block * BH_SUBBLOCK);
    }
    if (rc)
        atomic_store(&z->broken, rc);
    /* The bit is set in any case: the reader then finds the freeze broken instead of new content.
     */
    atomic_fetch_or_explicit(&p->touched[block / 8], (unsigned char)(1u << block % 8),
                             memory_order_release);
}

static void save_range(struct bh_frozen *z, struct frozen_part *p, uint64_t first, uint64_t end)
{
    for (uint64_t b = first; b < end && b < p->blocks; b++)
        if (!is_touched(p, b))
            save_block(z, p, b);
}

void freeze_before_write(struct bh_store *s, const struct bh_file *f, uint64_t offset, uint64_t len)
{
    struct frozen_part *p = part_of(s, f);
    if (p)
        save_range(s->frozen, p, offset / BH_SUBBLOCK, (offset + len - 1) / BH_SUBBLOCK + 1);
}

void freeze_before_truncate(struct bh_store *s, const struct bh_file *f, uint64_t size)
{
    struct bh_frozen *z = s->frozen;
    struct frozen_part *p = part_of(s, f);
    if (!p || size >= p->size)
        return;
    if (!z->patient && p->size - size > TRUNCATE_SAVE_MAX) {
        atomic_store(&z->broken, EAGAIN);
        for (size_t i = 0; i < p->touched_len; i++) /* rare, and the file is being cut anyway */
            atomic_store_explicit(&p->touched[i], 0xFF, memory_order_release);
        return;
    }
    save_range(z, p, size / BH_SUBBLOCK, p->blocks);
}

static int open_save_file(struct bh_store *s)
{
    int dir = bh_disk_dirfd(s->disk);
    int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd;
    fd = openat(dir, "incoming.freeze", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd >= 0)
        unlinkat(dir, "incoming.freeze", 0);
    return fd;
}

static void part_free(struct frozen_part *p)
{
    if (p->touched)
        munmap((void *)(uintptr_t)p->touched, p->touched_len);
    if (p->was)
        munmap(p->was, p->was_len);
    if (p->fd >= 0)
        close(p->fd);
    if (p->save >= 0)
        close(p->save);
}

static void frozen_free(struct bh_frozen *z)
{
    part_free(&z->db);
    part_free(&z->wal);
    bh_wal_map_free(&z->frames);
    bh_origin_unref(z->origin);
    if (z->detached)
        bh_map_close(&z->old_map);
    bh_file_unref(z->wal_file);
    free(z);
}

int bh_store_freeze_prepare(struct bh_store *s, bool patient, struct bh_frozen **out)
{
    struct bh_frozen *z = calloc(1, sizeof *z);
    if (!z)
        return ENOMEM;
    z->store = s;
    z->patient = patient;
    z->db.fd = z->wal.fd = z->db.save = z->wal.save = -1;
    int rc = 0;
    if ((z->db.save = open_save_file(s)) < 0 || (z->wal.save = open_save_file(s)) < 0)
        rc = errno;
    if (rc)
        frozen_free(z);
    else
        *out = z;
    return rc;
}

static void *zero_pages(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int part_freeze(struct frozen_part *p, struct bh_file *f)
{
    p->fd = fcntl(f->disk.fd, F_DUPFD_CLOEXEC, 0);
    if (p->fd < 0)
        return errno;
    p->size = bh_file_size(f);
    p->blocks = (p->size + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
    p->touched_len = p->blocks / 8 + 1;
    p->touched = zero_pages(p->touched_len);
    if (f->kind == BH_FILE_DB) {
        p->was_len = p->blocks / 4 + 1;
        p->was = zero_pages(p->was_len);
    }
    return p->touched && (p->was || f->kind != BH_FILE_DB) ? 0 : ENOMEM;
}

static int freeze_locked(struct bh_frozen *z)
{
    struct bh_store *s = z->store;
    assert(!s->frozen);
    int rc = part_freeze(&z->db, s->db);
    if (rc == 0 && s->wal && s->wal_size > BH_WAL_HEADER) {
        z->wal_file = s->wal;
        bh_file_ref(z->wal_file);
        rc = part_freeze(&z->wal, s->wal);
    }
    if (rc)
        return rc;
    z->wal_changes = s->wal_changes;
    z->origin = bh_origin_ref(s->origin);
    z->had_absent = s->map.absent > 0;
    s->frozen = z;
    return 0;
}

int bh_store_freeze(struct bh_frozen *z)
{
    BH_LOCK_SCOPE(&z->store->mutex);
    return freeze_locked(z);
}

int bh_store_freeze_wal(struct bh_frozen *z)
{
    BH_LOCK_SCOPE(&z->store->mutex);
    return is_wal_locked(z->store) ? freeze_locked(z) : EAGAIN;
}

void bh_store_note_freeze(struct bh_store *s, int64_t ns)
{
    BH_LOCK_SCOPE(&s->mutex);
    s->freeze_ns[s->freezes++ % FREEZE_SAMPLES] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

uint64_t bh_frozen_size(const struct bh_frozen *z)
{
    const struct bh_wal_map *m = &z->frames;
    return m->count > 0 ? (uint64_t)m->db_pages * m->page_size : z->db.size;
}

int bh_frozen_broken(const struct bh_frozen *z)
{
    return atomic_load(&z->broken);
}

static struct bh_map *map_of(struct bh_frozen *z)
{
    return z->detached ? &z->old_map : &z->store->map;
}

/* Where the run of sub-blocks ends that are like the one at `at`: absent at the freeze, or evicted
 * since (then, too, the origin of that time has it), or neither. What is here may be evicted before
 * it is read: see part_read. */
static uint64_t run_end(struct bh_frozen *z, const struct frozen_part *p, uint64_t at,
                        uint64_t limit, bool *absent)
{
    uint64_t block = at / BH_SUBBLOCK;
    BH_LOCK_SCOPE(&z->store->mutex);
    for (uint64_t b = block; b * BH_SUBBLOCK < limit; b++) {
        bool is = b < p->blocks &&
                  (is_touched(p, b) ? was(p, b) : bh_map_get(map_of(z), b)) == BH_BLOCK_ABSENT;
        if (b > block && is != *absent)
            return b * BH_SUBBLOCK;
        *absent = is;
    }
    return limit;
}

static int read_origin(struct bh_frozen *z, void *buf, size_t len, uint64_t offset)
{
    struct bh_error err;
    pthread_mutex_lock(&z->store->mutex); /* bh_store_advance_origin sets another */
    struct bh_origin *o = bh_origin_ref(z->origin);
    pthread_mutex_unlock(&z->store->mutex);
    if (!o)
        return EIO;
    int rc = o->read(o, offset, buf, len, &err);
    if (rc)
        bh_log(BH_LOG_ERROR, "%s", err.text);
    bh_origin_unref(o);
    return rc;
}

static int read_range(struct bh_frozen *z, struct frozen_part *p, void *buf, size_t len,
                      uint64_t offset)
{
    int rc = bh_pread_full(p->fd, buf, len, offset, NULL);
    for (uint64_t b = offset / BH_SUBBLOCK; rc == 0 && b * BH_SUBBLOCK < offset + len; b++) {
        if (!is_touched(p, b))
            continue;
        uint64_t begin = b * BH_SUBBLOCK, end = begin + BH_SUBBLOCK;
        begin = begin < offset ? offset : begin;
        end = end > offset + len ? offset + len : end;
        rc = bh_pread_full(p->save, (char *)buf + (begin - offset), end - begin, begin, NULL);
    }
    return rc;
}

/* What lies beyond the file's end at the freeze reads as zeros. */
static int part_read(struct bh_frozen *z, struct frozen_part *p, void *buf, size_t len,
                     uint64_t offset)
{
    int rc = 0;
    if (!p->was)
        rc = read_range(z, p, buf, len, offset);
    else
        for (uint64_t at = offset, end; rc == 0 && at < offset + len;) {
            bool absent = false;
            char *to = (char *)buf + (at - offset);
            uint_fast64_t swaps = store_read_begin(z->store);
            end = z->had_absent ? run_end(z, p, at, offset + len, &absent) : offset + len;
            rc = absent ? read_origin(z, to, (size_t)(end - at), at)
                        : read_range(z, p, to, (size_t)(end - at), at);
            if (absent || atomic_load(&z->store->swaps) == swaps)
                at = end; /* else some of it may have become absent meanwhile */
        }
    if (rc)
        return rc;
    if (offset + len > p->size) { /* it may have grown since */
        size_t valid = offset < p->size ? (size_t)(p->size - offset) : 0;
        memset((char *)buf + valid, 0, len - valid);
    }
    return atomic_load(&z->broken);
}

static int read_wal(void *arg, void *buf, size_t len, uint64_t offset)
{
    struct bh_frozen *z = arg;
    return part_read(z, &z->wal, buf, len, offset);
}

int bh_frozen_find_frames(struct bh_frozen *z)
{
    return z->wal.fd < 0 ? 0 : bh_wal_scan(&z->frames, z->wal.size, read_wal, z);
}

const char *bh_frozen_wal_tag(const struct bh_frozen *z)
{
    return z->frames.tag;
}

/* Puts the frames of -wal over what was read from the database's file. */
static int lay_frames_over(struct bh_frozen *z, char *buf, size_t len, uint64_t offset)
{
    const struct bh_wal_map *m = &z->frames;
    if (m->count == 0)
        return 0;
    for (uint64_t page = offset / m->page_size; page * m->page_size < offset + len; page++) {
        uint64_t at = bh_wal_find(m, (uint32_t)(page + 1));
        uint64_t begin = page * m->page_size, end = begin + m->page_size;
        if (!at)
            continue;
        uint64_t from = begin < offset ? offset : begin;
        uint64_t to = end > offset + len ? offset + len : end;
        int rc = part_read(z, &z->wal, buf + (from - offset), to - from, at + (from - begin));
        if (rc)
            return rc;
    }
    return 0;
}

int bh_frozen_read(struct bh_frozen *z, void *buf, size_t len, uint64_t offset)
{
    assert(offset + len <= bh_frozen_size(z));
    int rc = part_read(z, &z->db, buf, len, offset);
    if (rc == 0)
        rc = lay_frames_over(z, buf, len, offset);
    for (uint64_t i = 18; rc == 0 && i <= 19;
         i++) { /* SQLite file format: "file format versions" */
        char *byte = (char *)buf + (i - offset);
        if (i >= offset && i < offset + len && *byte == 2)
            *byte = 1;
    }
    return rc;
}

/* --- what has changed --- */

struct block_list {
    uint64_t *items;
    size_t count, cap;
    bool failed;
};

/* Ascending; the same one again is one. */
static void add_block(struct block_list *l, uint64_t block)
{
    if (l->count > 0 && l->items[l->count - 1] == block)
        return;
    if (l->count == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        uint64_t *p = realloc(l->items, cap * sizeof *p);
        l->failed |= !p;
        if (!p)
            return;
        l->items = p;
        l->cap = cap;
    }
    l->items[l->count++] = block;
}

/* Sub-blocks are looked at in steps, so that writers wait for one step at most. */
enum { STEP = 32768 };

/* Four entries at once that are clean, or absent: nothing to do for most of a large database. */
static bool is_dull(const struct bh_map *m, uint64_t block)
{
    return block % 4 == 0 && block + 4 <= m->used &&
           (m->bits[block / 4] == 0x55 || m->bits[block / 4] == 0xff);
}

static void list_dirty(struct bh_frozen *z, uint32_t block_size, uint64_t base_size,
                       struct block_list *l)
{
    uint64_t per = block_size / BH_SUBBLOCK;
    struct frozen_part *p = &z->db;
    for (uint64_t from = 0; from < p->blocks; from += STEP) {
        BH_LOCK_SCOPE(&z->store->mutex);
        const struct bh_map *m = map_of(z);
        uint64_t end = from + STEP < p->blocks ? from + STEP : p->blocks;
        for (uint64_t b = from; b < end; b++) {
            if (is_dull(m, b) && (p->touched[b / 8] >> (b % 8) & 15) == 0) {
                b += 3;
                continue;
            }
            enum bh_block_state s = is_touched(p, b) ? was(p, b) : bh_map_get(m, b);
            if (s == BH_BLOCK_DIRTY || (s == BH_BLOCK_ZERO && b * BH_SUBBLOCK < base_size))
                add_block(l, b / per);
        }
    }
}

static void list_frames(struct bh_frozen *z, uint32_t block_size, struct block_list *l)
{
    const struct bh_wal_map *m = &z->frames;
    uint64_t size = bh_frozen_size(z);
    for (size_t i = 0; i < m->count; i++) {
        uint64_t begin = (uint64_t)(m->pages[i].page - 1) * m->page_size;
        for (uint64_t at = begin; at < begin + m->page_size && at < size; at += block_size)
            add_block(l, at / block_size);
        if (begin + m->page_size <= size)
            add_block(l, (begin + m->page_size - 1) / block_size);
    }
}

/* What the base has, and the database has not written to its file yet: it may be zeros now. */
static void list_beyond(struct bh_frozen *z, uint32_t block_size, uint64_t size,
                        struct block_list *l)
{
    for (uint64_t b = z->db.size / block_size; z->db.size < size && b * block_size < size; b++)
        add_block(l, b);
}

static int compare_blocks(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int bh_frozen_changed(struct bh_frozen *z, uint32_t block_size, uint64_t base_size, bool all,
                      uint64_t **blocks, size_t *count)
{
    struct block_list l = {0};
    uint64_t size = bh_frozen_size(z), end = (size + block_size - 1) / block_size;
    if (all) {
        for (uint64_t b = 0; b < end; b++)
            add_block(&l, b);
    } else {
        list_dirty(z, block_size, base_size, &l);
        size_t dirty = l.count;
        list_frames(z, block_size, &l);
        list_beyond(z, block_size, size < base_size ? size : base_size, &l);
        if (size != base_size && size % block_size) /* what was beyond the end is zeros now */
            add_block(&l, size / block_size);
        if (l.count > dirty)
            qsort(l.items, l.count, sizeof *l.items, compare_blocks);
    }
    size_t kept = 0;
    for (size_t i = 0; i < l.count; i++)
        if (l.items[i] < end && (kept == 0 || l.items[kept - 1] != l.items[i]))
            l.items[kept++] = l.items[i];
    int rc = l.failed ? ENOMEM : atomic_load(&z->broken);
    if (rc) {
        free(l.items);
        return rc;
    }
    *blocks = l.items;
    *count = kept;
    return 0;
}

static bool becomes_clean(enum bh_block_state s)
{
    return s == BH_BLOCK_DIRTY || s == BH_BLOCK_ZERO;
}

/* What has not been touched since the freeze is in the base now, as it is, unless there is a frame
 * over it. Until the last step the freeze goes on marking what writers touch. */
static int make_clean(struct bh_frozen *z)
{
    struct bh_store *s = z->store;
    for (uint64_t from = 0; from < z->db.blocks; from += STEP) {
        BH_LOCK_SCOPE(&s->mutex);
        if (z->detached)
            return 0;
        uint64_t end = from + STEP < z->db.blocks ? from + STEP : z->db.blocks;
        for (uint64_t b = from; b < end;) {
            if (is_dull(&s->map, b)) {
                b += 4;
                continue;
            }
            uint64_t run = b;
            while (run < end && !is_touched(&z->db, run) &&
                   becomes_clean(bh_map_get(&s->map, run)) && !cover_has_frame(z, run))
                run++;
            cover_drop(s, b, run - b);
            int rc = run > b ? bh_map_set(&s->map, b, run - b, BH_BLOCK_CLEAN) : 0;
            if (rc)
                return rc;
            b = run + 1;
        }
    }
    return 0;
}

/* What becomes clean now is not in the store's origin. */
static void bar_unless_advanced(struct bh_frozen *z)
{
    BH_LOCK_SCOPE(&z->store->mutex);
    if (!z->detached)
        z->store->evict.barred = true;
}

int bh_store_thaw(struct bh_frozen *z, bool flushed)
{
    struct bh_store *s = z->store;
    if (flushed && !z->advanced)
        bar_unless_advanced(z);
    int rc = flushed ? make_clean(z) : 0;
    if (flushed)
        cover_frames(z);
    pthread_mutex_lock(&s->mutex);
    evict_nudge(s);
    if (s->frozen == z)
        s->frozen = NULL;
    if (flushed && !z->detached && z->wal_changes > s->wal_flushed)
        s->wal_flushed = z->wal_changes;
    pthread_mutex_unlock(&s->mutex);
    frozen_free(z);
    return rc;
}

static int compare_ns(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

uint64_t bh_store_freeze_ns(struct bh_store *s, double quantile, uint64_t *count)
{
    BH_FREE uint32_t *copy = malloc(sizeof s->freeze_ns);
    pthread_mutex_lock(&s->mutex);
    size_t n = s->freezes < FREEZE_SAMPLES ? (size_t)s->freezes : FREEZE_SAMPLES;
    if (copy)
        memcpy(copy, s->freeze_ns, n * sizeof *copy);
    *count = s->freezes;
    pthread_mutex_unlock(&s->mutex);
    if (!copy || n == 0)
        return 0;
    qsort(copy, n, sizeof *copy, compare_ns);
    return copy[(size_t)(quantile * (double)(n - 1) + 0.5)];
}
