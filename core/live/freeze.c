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

/* A truncation that cuts off more than this breaks an impatient freeze rather than hold its client
 * up. */
#define TRUNCATE_SAVE_MAX (4u << 20)

static bool is_touched(const struct frozen_part *p, uint64_t block)
{
    return block < p->blocks &&
           atomic_load_explicit(&p->touched[block / 8], memory_order_acquire) >> (block % 8) & 1;
}

/* The part of the freeze in progress that a file is, NULL if it is none. */
static struct frozen_part *part_of(struct bh_store *s, const struct bh_file *f)
{
    return f == s->db ? &s->frozen->db : f == s->frozen->wal_file ? &s->frozen->wal : NULL;
}

static void save_block(struct bh_frozen *z, struct frozen_part *p, uint64_t block)
{
    unsigned char buf[BH_SUBBLOCK];
    int rc = bh_pread_full(p->fd, buf, sizeof buf, block * BH_SUBBLOCK, NULL);
    if (rc == 0)
        rc = bh_pwrite_full(p->save, buf, sizeof buf, block * BH_SUBBLOCK);
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

static int part_freeze(struct frozen_part *p, struct bh_file *f)
{
    p->fd = fcntl(f->disk.fd, F_DUPFD_CLOEXEC, 0);
    if (p->fd < 0)
        return errno;
    p->size = bh_file_size(f);
    p->blocks = (p->size + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
    p->touched_len = p->blocks / 8 + 1;
    void *bits =
        mmap(NULL, p->touched_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bits == MAP_FAILED)
        return ENOMEM;
    p->touched = bits;
    return 0;
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

/* What lies beyond the file's end at the freeze reads as zeros. */
static int part_read(struct bh_frozen *z, struct frozen_part *p, void *buf, size_t len,
                     uint64_t offset)
{
    int rc = bh_pread_full(p->fd, buf, len, offset, NULL);
    if (rc)
        return rc;
    for (uint64_t b = offset / BH_SUBBLOCK; b * BH_SUBBLOCK < offset + len; b++) {
        if (!is_touched(p, b))
            continue;
        uint64_t begin = b * BH_SUBBLOCK, end = begin + BH_SUBBLOCK;
        begin = begin < offset ? offset : begin;
        end = end > offset + len ? offset + len : end;
        rc = bh_pread_full(p->save, (char *)buf + (begin - offset), end - begin, begin, NULL);
        if (rc)
            return rc;
    }
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

/* What was dirty at the freeze and has not been touched since is in the base now. In steps, so that
 * writers wait for one step at most; until the last step the freeze goes on marking what they
 * touch. */
static int make_clean(struct bh_frozen *z)
{
    enum { STEP = 32768 };
    struct bh_store *s = z->store;
    for (uint64_t from = 0; from < z->db.blocks; from += STEP) {
        BH_LOCK_SCOPE(&s->mutex);
        if (z->detached)
            return 0;
        uint64_t end = from + STEP < z->db.blocks ? from + STEP : z->db.blocks;
        if (s->map.dirty == 0)
            return 0;
        for (uint64_t b = from; b < end;) {
            uint64_t run = b;
            while (run < end && !is_touched(&z->db, run) &&
                   bh_map_get(&s->map, run) == BH_BLOCK_DIRTY)
                run++;
            int rc = run > b ? bh_map_set(&s->map, b, run - b, BH_BLOCK_CLEAN) : 0;
            if (rc)
                return rc;
            b = run + 1;
        }
    }
    return 0;
}

int bh_store_thaw(struct bh_frozen *z, bool flushed)
{
    struct bh_store *s = z->store;
    int rc = flushed ? make_clean(z) : 0;
    pthread_mutex_lock(&s->mutex);
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
