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

static bool is_touched(const struct bh_frozen *z, uint64_t block)
{
    return atomic_load_explicit(&z->touched[block / 8], memory_order_acquire) >> (block % 8) & 1;
}

static void save_block(struct bh_frozen *z, uint64_t block)
{
    unsigned char buf[BH_SUBBLOCK];
    int rc = bh_pread_full(z->fd, buf, sizeof buf, block * BH_SUBBLOCK, NULL);
    if (rc == 0)
        rc = bh_pwrite_full(z->save, buf, sizeof buf, block * BH_SUBBLOCK);
    if (rc)
        atomic_store(&z->broken, rc);
    /* The bit is set in any case: the reader then finds the freeze broken instead of new content.
     */
    atomic_fetch_or_explicit(&z->touched[block / 8], (unsigned char)(1u << block % 8),
                             memory_order_release);
}

static void save_range(struct bh_frozen *z, uint64_t first, uint64_t end)
{
    for (uint64_t b = first; b < end && b < z->blocks; b++)
        if (!is_touched(z, b))
            save_block(z, b);
}

void freeze_before_write(struct bh_store *s, uint64_t offset, uint64_t len)
{
    save_range(s->frozen, offset / BH_SUBBLOCK, (offset + len - 1) / BH_SUBBLOCK + 1);
}

void freeze_before_truncate(struct bh_store *s, uint64_t size)
{
    struct bh_frozen *z = s->frozen;
    if (size >= z->size)
        return;
    if (!z->patient && z->size - size > TRUNCATE_SAVE_MAX) {
        atomic_store(&z->broken, EAGAIN);
        for (size_t i = 0; i < z->touched_len; i++) /* rare, and the file is being cut anyway */
            atomic_store_explicit(&z->touched[i], 0xFF, memory_order_release);
        return;
    }
    save_range(z, size / BH_SUBBLOCK, z->blocks);
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

static void frozen_free(struct bh_frozen *z)
{
    if (z->touched)
        munmap((void *)(uintptr_t)z->touched, z->touched_len);
    if (z->fd >= 0)
        close(z->fd);
    if (z->save >= 0)
        close(z->save);
    free(z);
}

int bh_store_freeze_prepare(struct bh_store *s, bool patient, struct bh_frozen **out)
{
    struct bh_frozen *z = calloc(1, sizeof *z);
    if (!z)
        return ENOMEM;
    z->store = s;
    z->patient = patient;
    z->fd = -1;
    z->save = open_save_file(s);
    if (z->save < 0) {
        int rc = errno;
        frozen_free(z);
        return rc;
    }
    *out = z;
    return 0;
}

int bh_store_freeze(struct bh_frozen *z)
{
    struct bh_store *s = z->store;
    z->fd = fcntl(s->db->disk.fd, F_DUPFD_CLOEXEC, 0);
    if (z->fd < 0)
        return errno;
    z->size = bh_file_size(s->db); /* the caller's SHARED lock keeps it */
    z->blocks = (z->size + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
    z->touched_len = z->blocks / 8 + 1;
    void *bits =
        mmap(NULL, z->touched_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bits == MAP_FAILED)
        return ENOMEM;
    z->touched = bits;
    BH_LOCK_SCOPE(&s->mutex);
    assert(!s->frozen);
    s->frozen = z;
    return 0;
}

void bh_store_note_freeze(struct bh_store *s, int64_t ns)
{
    BH_LOCK_SCOPE(&s->mutex);
    s->freeze_ns[s->freezes++ % FREEZE_SAMPLES] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

uint64_t bh_frozen_size(const struct bh_frozen *z)
{
    return z->size;
}

int bh_frozen_read(struct bh_frozen *z, void *buf, size_t len, uint64_t offset)
{
    assert(offset + len <= z->size);
    int rc = bh_pread_full(z->fd, buf, len, offset, NULL);
    if (rc)
        return rc;
    for (uint64_t b = offset / BH_SUBBLOCK; b * BH_SUBBLOCK < offset + len; b++) {
        if (!is_touched(z, b))
            continue;
        uint64_t begin = b * BH_SUBBLOCK, end = begin + BH_SUBBLOCK;
        begin = begin < offset ? offset : begin;
        end = end > offset + len ? offset + len : end;
        rc = bh_pread_full(z->save, (char *)buf + (begin - offset), end - begin, begin, NULL);
        if (rc)
            return rc;
    }
    return atomic_load(&z->broken);
}

/* What was dirty at the freeze and has not been touched since is in the base now. In steps, so that
 * writers wait for one step at most; until the last step the freeze goes on marking what they
 * touch. */
static int make_clean(struct bh_frozen *z)
{
    enum { STEP = 32768 };
    struct bh_store *s = z->store;
    for (uint64_t from = 0; from < z->blocks; from += STEP) {
        BH_LOCK_SCOPE(&s->mutex);
        if (z->detached)
            return 0;
        uint64_t end = from + STEP < z->blocks ? from + STEP : z->blocks;
        if (s->map.dirty == 0)
            return 0;
        for (uint64_t b = from; b < end;) {
            uint64_t run = b;
            while (run < end && !is_touched(z, run) && bh_map_get(&s->map, run) == BH_BLOCK_DIRTY)
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
