/* What the daemon changes, the kernel must forget before the lock is let go. Called on the SQL
 * thread (or a C program's own thread), never on a loop thread. A map of the pages that the kernel
 * may hold spares the calls that would find nothing: one bit a page, set before a READ or WRITE is
 * answered, cleared before the page is invalidated. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon.h"
#include "util/cleanup.h"
#include "util/log.h"

#define PAGE 4096u

struct notify {
    struct daemon *daemon;
    pthread_mutex_t mutex;
    uint8_t *held;
    uint64_t bytes; /* of held */
    bool all;       /* out of memory once: everything may be held */
    atomic_uint_fast64_t total;
};

int notify_new(struct notify **out, struct daemon *d)
{
    struct notify *n = calloc(1, sizeof *n);
    if (!n)
        return ENOMEM;
    n->daemon = d;
    pthread_mutex_init(&n->mutex, NULL);
    *out = n;
    return 0;
}

void notify_free(struct notify *n)
{
    if (!n)
        return;
    pthread_mutex_destroy(&n->mutex);
    free(n->held);
    free(n);
}

void notify_held(struct notify *n, uint64_t offset, uint64_t len)
{
    uint64_t first = offset / PAGE, end = (offset + len + PAGE - 1) / PAGE;
    BH_LOCK_SCOPE(&n->mutex);
    if (end > n->bytes * 8 && !n->all) {
        uint64_t bytes = n->bytes ? n->bytes : 512;
        while (bytes * 8 < end)
            bytes *= 2;
        uint8_t *p = realloc(n->held, bytes);
        if (!p) {
            n->all = true;
            return;
        }
        memset(p + n->bytes, 0, bytes - n->bytes);
        n->held = p;
        n->bytes = bytes;
    }
    for (uint64_t i = first; i < end && i < n->bytes * 8; i++)
        n->held[i / 8] |= (uint8_t)(1u << i % 8);
}

/* The next run of held pages in [*page, end), taken out of the map. False: none. */
static bool take_run(struct notify *n, uint64_t *page, uint64_t end, uint64_t *run_end)
{
    BH_LOCK_SCOPE(&n->mutex);
    if (n->all) {
        *run_end = end;
        return *page < end;
    }
    uint64_t i = *page, limit = end < n->bytes * 8 ? end : n->bytes * 8;
    while (i < limit && !(n->held[i / 8] >> (i % 8) & 1))
        i += i % 8 == 0 && !n->held[i / 8] ? 8 : 1;
    if (i >= limit)
        return false;
    *page = i;
    while (i < limit && (n->held[i / 8] >> (i % 8) & 1)) {
        n->held[i / 8] &= (uint8_t) ~(1u << i % 8);
        i++;
    }
    *run_end = i;
    return true;
}

/* A notification that failed for a reason that matters. ENOENT: the kernel forgot the inode
 * meanwhile; ENODEV, EBADF: the mount is gone. */
static bool is_failure(const struct notify *n, int rc)
{
    return rc && rc != -ENOENT && rc != -ENODEV && rc != -EBADF && !n->daemon->closing;
}

static void inval(struct notify *n, fuse_ino_t ino, off_t offset, off_t len)
{
    atomic_fetch_add(&n->total, 1);
    int rc = fuse_lowlevel_notify_inval_inode(n->daemon->session, ino, offset, len);
    if (is_failure(n, rc))
        bh_log(BH_LOG_ERROR, "the kernel's cache could not be invalidated: %s", strerror(-rc));
}

/* The kernel drops the answer to a GETATTR if anything else changed its idea of the attributes
 * meanwhile (a short read ahead does), but shows it to the caller all the same: SQLite then knows
 * the new size, the kernel reads only up to the old one, and the missing pages pass for zeros.
 * Storing the last byte sets the size beyond doubt. */
static void tell_growth(struct notify *n, struct bh_file *f, fuse_ino_t ino)
{
    uint64_t size = bh_file_size(f);
    char last = 0; /* of a page that is forgotten right after this, if it is not at hand */
    pthread_mutex_lock(&n->mutex);
    bool grew = size > f->told_size;
    f->told_size = size;
    pthread_mutex_unlock(&n->mutex);
    if (!grew ||
        (!bh_file_is_absent(f, size - 1, 1) && bh_file_read(f, &last, 1, size - 1, NULL) != 0))
        return;
    struct fuse_bufvec buf = FUSE_BUFVEC_INIT(1);
    buf.buf[0].mem = &last;
    atomic_fetch_add(&n->total, 1);
    int rc = fuse_lowlevel_notify_store(n->daemon->session, ino, (off_t)(size - 1), &buf, 0);
    if (is_failure(n, rc))
        bh_log(BH_LOG_ERROR, "the kernel could not be told the size of %s: %s", f->name,
               strerror(-rc));
}

static void data_changed(void *arg, struct bh_file *f, uint64_t offset, uint64_t len)
{
    struct notify *n = arg;
    fuse_ino_t ino = node_known(f);
    if (!ino || n->daemon->closing)
        return;
    if (f->kind != BH_FILE_DB && f->kind != BH_FILE_WAL) {
        inval(n, ino, 0, 0);
        return;
    }
    tell_growth(n, f, ino);
    if (f->kind == BH_FILE_WAL) {
        inval(n, ino, (off_t)offset, len > INT64_MAX / 2 ? 0 : (off_t)len);
        return;
    }
    uint64_t page = offset / PAGE, run_end;
    uint64_t end =
        len > UINT64_MAX - offset - PAGE ? UINT64_MAX / PAGE : (offset + len + PAGE - 1) / PAGE;
    bool told = false;
    while (take_run(n, &page, end, &run_end)) {
        uint64_t bytes = (run_end - page) * PAGE;
        inval(n, ino, (off_t)(page * PAGE), bytes > INT64_MAX / 2 ? 0 : (off_t)bytes);
        page = run_end;
        told = true;
    }
    if (!told) /* size and times */
        inval(n, ino, -1, 0);
}

static void forget_refused(const struct file_task *t)
{
    fuse_ino_t ino = node_known(t->file);
    if (ino && !t->daemon->closing)
        inval(t->daemon->notify, ino, (off_t)t->offset, (off_t)t->size);
}

void notify_refused(struct notify *n, struct bh_file *f, uint64_t offset, uint64_t len)
{
    struct file_task t = {.run = forget_refused,
                          .daemon = n->daemon,
                          .file = f,
                          .offset = offset,
                          .size = (size_t)len};
    if (!file_task_start(n->daemon->workers, &t))
        bh_log(BH_LOG_ERROR,
               "out of memory: the kernel may show bytes of %s that were refused until it is "
               "mounted again",
               f->name);
}

static void name_changed(void *arg, const char *name)
{
    struct notify *n = arg;
    if (n->daemon->closing)
        return;
    atomic_fetch_add(&n->total, 1);
    int rc = fuse_lowlevel_notify_inval_entry(n->daemon->session, FUSE_ROOT_ID, name, strlen(name));
    if (is_failure(n, rc))
        bh_log(BH_LOG_ERROR, "the kernel's cache of the name %s could not be invalidated: %s", name,
               strerror(-rc));
    inval(n, FUSE_ROOT_ID, 0, 0); /* the cached listing */
}

static int index_pull(void *arg, struct bh_file *f, unsigned regions, const uint32_t **words)
{
    return walindex_pull(((struct notify *)arg)->daemon->walindex, f, regions, words);
}

static int index_push(void *arg, struct bh_file *f, unsigned regions,
                      const struct bh_shm_word *words, size_t count_)
{
    return walindex_push(((struct notify *)arg)->daemon->walindex, f, regions, words, count_);
}

static void index_release(void *arg, struct bh_file *f)
{
    walindex_release(((struct notify *)arg)->daemon->walindex, f);
}

struct bh_live_hooks notify_hooks(struct notify *n)
{
    return (struct bh_live_hooks){.arg = n,
                                  .data_changed = data_changed,
                                  .name_changed = name_changed,
                                  .index_pull = index_pull,
                                  .index_push = index_push,
                                  .index_release = index_release};
}

uint64_t notify_total(struct notify *n)
{
    return atomic_load(&n->total);
}
