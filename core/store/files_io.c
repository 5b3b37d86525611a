/* Files in use: reading and writing what they contain. */
#include "store/files_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/io.h"
#include "util/log.h"

#define SIZE_LIMIT ((uint64_t)1 << 62)

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* --- the table of files in use --- */

static struct bh_open **slot_of(struct bh_files *f, uint64_t ino)
{
    return &f->in_use[ino % FILES_SLOTS];
}

/* With f->mutex. */
static struct bh_open *find(struct bh_files *f, uint64_t ino)
{
    struct bh_open *o = *slot_of(f, ino);
    while (o && o->ino != ino)
        o = o->next;
    return o;
}

static void take_off(struct bh_open *o)
{
    struct bh_open **at = slot_of(o->files, o->ino);
    while (*at && *at != o)
        at = &(*at)->next;
    if (*at)
        *at = o->next;
}

/* Locks that do not wait, unless they may. */
static int lock_to_read(struct bh_open *o, bool wait)
{
    if (!wait)
        return pthread_rwlock_tryrdlock(&o->lock) == 0 ? 0 : EAGAIN;
    pthread_rwlock_rdlock(&o->lock);
    return 0;
}

static int lock_to_write(struct bh_open *o, bool wait)
{
    if (!wait)
        return pthread_rwlock_trywrlock(&o->lock) == 0 ? 0 : EAGAIN;
    atomic_fetch_add(&o->wanted, 1);
    pthread_rwlock_wrlock(&o->lock);
    atomic_fetch_sub(&o->wanted, 1);
    return 0;
}

static struct bh_open *open_new(struct bh_files *f, const struct bh_inode *i)
{
    struct bh_open *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->files = f;
    o->ino = i->ino;
    o->content = i->content;
    o->mtime = i->mtime;
    o->ctime = i->ctime;
    o->version = 1;
    o->settled = true;
    o->published = i->content.data ? 0 : 1;
    pthread_rwlock_init(&o->lock, NULL);
    return o;
}

static void open_free(struct bh_open *o)
{
    if (o->has_data)
        bh_dfile_close(&o->data);
    if (o->blob)
        bh_blob_close(o->blob);
    pthread_rwlock_destroy(&o->lock);
    free(o);
}

int bh_files_use(struct bh_files *f, uint64_t ino, bool for_writing, struct bh_open **out,
                 bool wait, struct bh_error *err)
{
    struct bh_inode i;
    int rc;
    pthread_mutex_lock(&f->mutex);
    uint64_t epoch = f->epoch;
    pthread_mutex_unlock(&f->mutex);
    do {
        rc = bh_names_get(f->names, ino, &i, wait, err);
        if (rc == 0 && S_ISDIR(i.mode))
            return EISDIR;
        if (rc == 0)
            rc = bh_names_ref(f->names, ino);
    } while (rc == EAGAIN && wait);
    if (rc)
        return rc;
    pthread_mutex_lock(&f->mutex);
    if (epoch != f->epoch) { /* the reference was forgotten, or is of an inode of other content */
        pthread_mutex_unlock(&f->mutex);
        return bh_fail(err, ESTALE, "files/ was restored or switched meanwhile");
    }
    struct bh_open *o = find(f, ino);
    /* Looked at again: it may have been published since. Being referred to, it is in memory. */
    if (!o && bh_names_get(f->names, ino, &i, false, NULL) == 0 && (o = open_new(f, &i))) {
        o->next = *slot_of(f, ino);
        *slot_of(f, ino) = o;
    }
    if (o) {
        o->users++;
        o->writers += for_writing;
    }
    pthread_mutex_unlock(&f->mutex);
    if (!o)
        bh_names_unref(f->names, ino);
    *out = o;
    return o ? 0 : ENOMEM;
}

uint64_t bh_open_ino(const struct bh_open *o)
{
    return o->ino;
}

uint64_t bh_open_size(struct bh_open *o)
{
    pthread_rwlock_rdlock(&o->lock);
    uint64_t size = o->content.size;
    pthread_rwlock_unlock(&o->lock);
    return size;
}

void bh_files_refresh(struct bh_files *f, struct bh_inode *i)
{
    if (!S_ISREG(i->mode))
        return;
    BH_LOCK_SCOPE(&f->mutex);
    struct bh_open *o = find(f, i->ino);
    if (!o || !atomic_load(&o->dirty))
        return;
    i->content.size = __atomic_load_n(&o->content.size, __ATOMIC_RELAXED);
    i->mtime = __atomic_load_n(&o->mtime, __ATOMIC_RELAXED);
    int64_t ctime = __atomic_load_n(&o->ctime, __ATOMIC_RELAXED);
    if (ctime > i->ctime)
        i->ctime = ctime;
}

int files_push(struct bh_open *o, bool wait, struct bh_error *err)
{
    if (!atomic_load(&o->dirty) || o->stale)
        return 0;
    struct bh_inode to = {.content = o->content, .mtime = o->mtime, .ctime = o->ctime};
    int rc = bh_names_set(o->files->names, o->ino, BH_SET_CONTENT | BH_SET_MTIME | BH_SET_CTIME,
                          &to, NULL, wait, err);
    if (rc == 0)
        atomic_store(&o->dirty, false);
    return rc;
}

/* What a writer leaves. *queue: it is to be published. */
static int leave_writing(struct bh_open *o, bool wait, bool *queue)
{
    struct bh_error err;
    int rc = lock_to_write(o, wait);
    if (rc)
        return rc;
    if (!o->stale) {
        rc = files_push(o, wait, &err);
        if (rc != EAGAIN && rc)
            bh_log(BH_LOG_ERROR, "the size of a closed file could not be stored: %s", err.text);
        o->settled = o->settled || rc != EAGAIN;
        *queue = o->content.data != 0;
    }
    pthread_rwlock_unlock(&o->lock);
    return rc == EAGAIN ? rc : 0;
}

int bh_open_put(struct bh_open *o, bool for_writing, bool wait)
{
    struct bh_files *f = o->files;
    uint64_t ino = o->ino;
    bool queue = false;
    int rc = for_writing ? leave_writing(o, wait, &queue) : 0;
    if (rc)
        return rc;
    pthread_mutex_lock(&f->mutex);
    o->writers -= for_writing;
    bool last = --o->users == 0, stale = o->stale;
    queue = queue && o->writers == 0;
    if (last && !stale)
        take_off(o);
    pthread_mutex_unlock(&f->mutex);
    if (last)
        open_free(o);
    if (!stale)
        bh_names_unref(f->names, ino);
    if (queue)
        files_queue(f, ino);
    return 0;
}

/* --- reading --- */

/* With the lock, for reading or writing: what is to be read from is open. Opening is done under
 * the file's lock for writing. */
static bool is_ready(const struct bh_open *o)
{
    return o->content.size == 0 || o->has_data || o->blob;
}

static int make_ready(struct bh_open *o, struct bh_error *err)
{
    struct bh_files *f = o->files;
    if (is_ready(o))
        return 0;
    if (o->content.data) {
        int rc = bh_data_open(f->blobs, o->content.data, &o->data);
        o->has_data = rc == 0;
        atomic_store(&o->is_shared, true); /* as far as known: a crash may have come after that */
        return rc ? bh_fail(err, rc, "the content of inode %llu is not in the state directory: %s",
                            (unsigned long long)o->ino, strerror(rc))
                  : 0;
    }
    if (!files_is_hash(o->content.hash))
        return bh_fail(err, EIO, "inode %llu has a size and no content",
                       (unsigned long long)o->ino);
    return bh_blob_open(f->blobs, o->content.hash, o->content.hash_size, &o->blob);
}

static int read_now(int fd, void *buf, size_t len, uint64_t offset)
{
    struct iovec v = {.iov_base = buf, .iov_len = len};
    ssize_t n = preadv2(fd, &v, 1, (off_t)offset, RWF_NOWAIT);
    if (n < 0 && errno == EOPNOTSUPP) /* tmpfs: it never waits */
        n = preadv2(fd, &v, 1, (off_t)offset, 0);
    return n >= 0 && (size_t)n == len ? 0 : EAGAIN;
}

static int read_locked(struct bh_open *o, void *buf, size_t len, uint64_t offset, size_t *got,
                       bool wait, const struct bh_call *call, struct bh_error *err)
{
    uint64_t size = o->content.size;
    *got = 0;
    if (offset >= size || len == 0)
        return 0;
    if (len > size - offset)
        len = (size_t)(size - offset);
    int rc;
    if (o->has_data)
        rc = wait ? bh_pread_full(o->data.fd, buf, len, offset, NULL)
                  : read_now(o->data.fd, buf, len, offset);
    else
        rc = wait ? bh_blob_read(o->blob, buf, len, offset, &len, call, err)
                  : bh_blob_read_at_once(o->blob, buf, len, offset, &len);
    if (rc == 0)
        *got = len;
    return rc;
}

int bh_open_read(struct bh_open *o, void *buf, size_t len, uint64_t offset, size_t *got, bool wait,
                 const struct bh_call *call, struct bh_error *err)
{
    int rc = lock_to_read(o, wait);
    if (rc)
        return rc;
    if (!is_ready(o)) {
        pthread_rwlock_unlock(&o->lock);
        rc = lock_to_write(o, wait);
        if (rc == 0)
            rc = make_ready(o, err);
        else
            return rc;
        pthread_rwlock_unlock(&o->lock);
        if (rc)
            return rc;
        return bh_open_read(o, buf, len, offset, got, wait, call, err);
    }
    rc = read_locked(o, buf, len, offset, got, wait, call, err);
    pthread_rwlock_unlock(&o->lock);
    return rc;
}

/* --- writing --- */

static bool is_writable(const struct bh_open *o)
{
    return o->content.data && o->has_data && !atomic_load(&o->is_shared);
}

/* What was written beyond the end just before a crash must not come back when the file grows. */
static int cut(struct bh_dfile *data, uint64_t size)
{
    struct stat st;
    if (fstat(data->fd, &st) != 0)
        return errno;
    return (uint64_t)st.st_size > size ? bh_dfile_truncate(data, size) : 0;
}

/* A data file of its own with the content up to `keep` bytes. May take as long as the bucket does.
 */
static int make_own(struct bh_open *o, uint64_t keep, struct bh_error *err)
{
    struct bh_files *f = o->files;
    const struct bh_call call = {.stop = &f->cancel};
    struct bh_dfile data;
    uint64_t number = 0;
    if (keep > o->content.size)
        keep = o->content.size;
    int rc;
    if (o->content.data && keep) { /* a copy, if it is a blob, too */
        number = o->content.data;
        rc = bh_data_open_to_write(f->blobs, &number, &data, err);
        if (rc == 0 && (rc = cut(&data, keep)) != 0) {
            bh_dfile_close(&data);
            if (number != o->content.data)
                bh_data_remove(f->blobs, number);
        }
    } else {
        rc = bh_data_create(f->blobs, &number, &data, err);
        if (rc == 0 && keep && !o->blob)
            rc = bh_blob_open(f->blobs, o->content.hash, o->content.hash_size, &o->blob);
        if (rc == 0 && keep)
            rc = bh_blob_copy(o->blob, &data, keep, &call, err);
        if (rc) {
            bh_dfile_close(&data);
            bh_data_remove(f->blobs, number);
        }
    }
    if (rc)
        return rc;
    struct bh_inode to = {.content = o->content};
    uint64_t old = o->content.data;
    to.content.data = number;
    to.content.size = keep;
    if (number != old || keep != o->content.size)
        rc = bh_names_set(f->names, o->ino, BH_SET_CONTENT | BH_SET_NO_CTIME, &to, NULL, true, err);
    if (rc) {
        bh_dfile_close(&data);
        if (number != old)
            bh_data_remove(f->blobs, number);
        return rc;
    }
    if (o->has_data)
        bh_dfile_close(&o->data);
    if (o->blob)
        bh_blob_close(o->blob);
    o->blob = NULL;
    o->data = data;
    o->has_data = true;
    atomic_store(&o->is_shared, false);
    o->content = to.content;
    if (old && old != number)
        bh_data_remove(f->blobs, old);
    return 0;
}

/* With the lock for writing. */
static void wrote(struct bh_open *o, uint64_t end)
{
    if (end > o->content.size)
        __atomic_store_n(&o->content.size, end, __ATOMIC_RELAXED);
    o->version++;
    o->settled = false;
    int64_t now = now_ns();
    __atomic_store_n(&o->mtime, now, __ATOMIC_RELAXED);
    __atomic_store_n(&o->ctime, now, __ATOMIC_RELAXED);
    atomic_store(&o->dirty, true);
}

/* With the gate entered and the lock for writing. */
static int write_locked(struct bh_open *o, const void *buf, size_t len, uint64_t offset,
                        bool append, bool wait, struct bh_error *err)
{
    if (o->stale)
        return bh_fail(err, ESTALE, "files/ was restored or switched while the file was open");
    if (append)
        offset = o->content.size;
    if (len > SIZE_LIMIT || offset > SIZE_LIMIT - len)
        return EFBIG;
    if (!is_writable(o) && !wait)
        return EAGAIN;
    int rc = is_writable(o) ? 0 : make_own(o, UINT64_MAX, err);
    if (rc == 0)
        rc = bh_dfile_write(&o->data, buf, len, offset);
    if (rc == ENOSPC && wait && bh_blobs_make_room(o->files->blobs, len))
        rc = bh_dfile_write(&o->data, buf, len, offset);
    else if (rc == ENOSPC && !wait)
        rc = EAGAIN; /* room may be made, which takes a while */
    if (rc == 0)
        wrote(o, offset + len);
    return rc;
}

int bh_open_write(struct bh_open *o, const void *buf, size_t len, uint64_t offset, bool append,
                  bool wait, struct bh_error *err)
{
    struct bh_files *f = o->files;
    if (f->read_only)
        return EROFS;
    int rc = bh_files_enter(f, wait);
    if (rc)
        return rc;
    rc = lock_to_write(o, wait);
    if (rc == 0) {
        rc = write_locked(o, buf, len, offset, append, wait, err);
        pthread_rwlock_unlock(&o->lock);
    }
    bh_files_leave(f, rc == 0);
    return rc;
}

/* With the lock for writing. */
static int truncate_locked(struct bh_open *o, uint64_t size, struct bh_error *err)
{
    int rc = 0;
    if (size > SIZE_LIMIT)
        return EFBIG;
    if (size == o->content.size && !(size == 0 && o->content.data)) {
        wrote(o, 0); /* times change all the same (POSIX: ftruncate) */
        return 0;
    }
    if (!is_writable(o))
        rc = make_own(o, size, err);
    if (rc == 0)
        rc = bh_dfile_truncate(&o->data, size);
    if (rc == 0) {
        __atomic_store_n(&o->content.size, size, __ATOMIC_RELAXED);
        wrote(o, 0);
    }
    return rc;
}

static int set_size(struct bh_open *o, uint64_t size, struct bh_error *err)
{
    if (o->stale)
        return ESTALE;
    int rc = truncate_locked(o, size, err);
    if (rc == 0)
        rc = files_push(o, true, err);
    if (rc == 0)
        o->settled = true; /* by name it is an operation of its own; by handle it does no harm */
    return rc;
}

/* Times and modes of a file in use: what is newer here goes first. */
static int set_in_use(struct bh_open *o, unsigned what, const struct bh_inode *to,
                      struct bh_inode *out, bool wait, struct bh_error *err)
{
    struct bh_files *f = o->files;
    struct bh_inode after;
    int rc = lock_to_write(o, wait);
    if (rc)
        return rc;
    rc = what & BH_SET_CONTENT ? set_size(o, to->content.size, err) : files_push(o, wait, err);
    what &= ~(unsigned)BH_SET_CONTENT;
    if (rc == 0 && (what & ~(unsigned)BH_SET_NO_CTIME))
        rc = bh_names_set(f->names, o->ino, what, to, &after, wait, err);
    else if (rc == 0)
        rc = bh_names_get(f->names, o->ino, &after, wait, err);
    if (rc == 0) {
        o->mtime = after.mtime;
        o->ctime = after.ctime;
        if (out)
            *out = after;
    }
    pthread_rwlock_unlock(&o->lock);
    return rc;
}

int bh_files_set(struct bh_files *f, uint64_t ino, unsigned what, const struct bh_inode *to,
                 struct bh_inode *out, bool wait, struct bh_error *err)
{
    struct bh_open *o = NULL;
    bool truncates = what & BH_SET_CONTENT;
    if (truncates && !wait)
        return EAGAIN;
    pthread_mutex_lock(&f->mutex);
    bool used = find(f, ino) != NULL;
    pthread_mutex_unlock(&f->mutex);
    if (!used && !truncates)
        return bh_names_set(f->names, ino, what, to, out, wait, err);
    int rc = bh_files_use(f, ino, truncates, &o, wait, err);
    if (rc == EISDIR && !truncates)
        return bh_names_set(f->names, ino, what, to, out, wait, err);
    if (rc)
        return rc;
    rc = set_in_use(o, what, to, out, wait, err);
    (void)bh_open_put(o, truncates, true);
    return rc;
}

/* --- holes --- */

static int fill_with_zeros(struct bh_open *o, uint64_t offset, uint64_t len)
{
    static const char zeros[65536];
    int rc = bh_dfile_punch(&o->data, offset, len);
    while (rc == EOPNOTSUPP || (rc == 0 && len > 0)) {
        size_t n = len < sizeof zeros ? (size_t)len : sizeof zeros;
        if (rc == 0)
            return 0;
        rc = bh_dfile_write(&o->data, zeros, n, offset);
        offset += n;
        len -= n;
        if (rc == 0 && len > 0)
            rc = EOPNOTSUPP;
    }
    return rc;
}

static int allocate_locked(struct bh_open *o, int mode, uint64_t offset, uint64_t len,
                           struct bh_error *err)
{
    uint64_t end = offset + len, size = o->content.size;
    int rc = is_writable(o) ? 0 : make_own(o, UINT64_MAX, err);
    if (rc == 0 && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && offset < size)
        rc = fill_with_zeros(o, offset, (end < size ? end : size) - offset);
    if (rc == 0 && !(mode & FALLOC_FL_KEEP_SIZE) && end > size)
        rc = bh_dfile_truncate(&o->data, end);
    if (rc == 0)
        wrote(o, mode & FALLOC_FL_KEEP_SIZE ? 0 : end);
    return rc;
}

int bh_open_allocate(struct bh_open *o, int mode, uint64_t offset, uint64_t len,
                     struct bh_error *err)
{
    struct bh_files *f = o->files;
    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) ||
        ((mode & FALLOC_FL_PUNCH_HOLE) && !(mode & FALLOC_FL_KEEP_SIZE)))
        return EOPNOTSUPP;
    if (f->read_only)
        return EROFS;
    if (len == 0 || offset > SIZE_LIMIT || len > SIZE_LIMIT - offset)
        return len == 0 ? EINVAL : EFBIG;
    (void)bh_files_enter(f, true);
    (void)lock_to_write(o, true);
    int rc = o->stale ? ESTALE : allocate_locked(o, mode, offset, len, err);
    pthread_rwlock_unlock(&o->lock);
    bh_files_leave(f, rc == 0);
    return rc;
}

int bh_open_seek(struct bh_open *o, uint64_t offset, int whence, uint64_t *at)
{
    int rc = 0;
    pthread_rwlock_rdlock(&o->lock);
    uint64_t size = o->content.size;
    if (offset >= size) {
        rc = ENXIO;
    } else if (!o->has_data) { /* a blob is all data */
        *at = whence == SEEK_DATA ? offset : size;
    } else {
        off_t found = lseek(o->data.fd, (off_t)offset, whence);
        if (found < 0 && errno == ENXIO && whence == SEEK_HOLE)
            *at = size;
        else if (found < 0 || (uint64_t)found > size)
            rc = found < 0 ? errno : whence == SEEK_DATA ? ENXIO : (*at = size, 0);
        else
            *at = (uint64_t)found;
    }
    pthread_rwlock_unlock(&o->lock);
    return rc;
}

/* --- durability --- */

int bh_open_flush(struct bh_open *o, bool wait, struct bh_error *err)
{
    if (!atomic_load(&o->dirty))
        return 0;
    int rc = bh_files_enter(o->files, wait);
    if (rc)
        return rc;
    rc = lock_to_write(o, wait);
    if (rc == 0) {
        rc = files_push(o, wait, err);
        if (rc == 0)
            o->settled = true;
        pthread_rwlock_unlock(&o->lock);
    }
    bh_files_leave(o->files, rc == 0);
    return rc;
}

int bh_open_sync(struct bh_open *o, struct bh_error *err)
{
    int rc = bh_open_flush(o, true, err);
    if (rc)
        return rc;
    pthread_rwlock_rdlock(&o->lock);
    if (o->has_data && !o->stale)
        rc = bh_dfile_sync(&o->data);
    pthread_rwlock_unlock(&o->lock);
    return rc ? rc : bh_names_sync(o->files->names, err);
}

/* --- the end --- */

void bh_files_clients_gone(struct bh_files *f)
{
    struct bh_error err;
    if (!f)
        return;
    BH_LOCK_SCOPE(&f->mutex); /* nobody else uses them any more */
    for (unsigned i = 0; i < FILES_SLOTS; i++)
        for (struct bh_open *o = f->in_use[i]; o; o = o->next) {
            pthread_rwlock_wrlock(&o->lock);
            if (files_push(o, true, &err) != 0)
                bh_log(BH_LOG_ERROR, "the size of a file could not be stored: %s", err.text);
            o->settled = true;
            o->writers = 0;
            pthread_rwlock_unlock(&o->lock);
        }
}

void files_free_in_use(struct bh_files *f)
{
    for (unsigned i = 0; i < FILES_SLOTS; i++)
        while (f->in_use[i]) {
            struct bh_open *o = f->in_use[i];
            f->in_use[i] = o->next;
            open_free(o);
        }
}
