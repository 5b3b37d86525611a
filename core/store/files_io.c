/* Reading and writing what a file in use contains. */
#include "store/files_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/io.h"

#define SIZE_LIMIT ((uint64_t)1 << 62)

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
        return rc ? bh_fail(err, EIO, "the content of inode %llu is not in the state directory: %s",
                            (unsigned long long)o->ino, strerror(rc))
                  : 0;
    }
    if (bh_sha256_is_none(o->content.hash))
        return bh_fail(err, EIO, "inode %llu has a size and no content",
                       (unsigned long long)o->ino);
    return bh_blob_open(f->blobs, o->content.hash, o->content.hash_size, &o->blob);
}

/* How much of `len` there is. */
static size_t up_to_the_end(const struct bh_open *o, size_t len, uint64_t offset)
{
    uint64_t size = o->content.size;
    if (offset >= size)
        return 0;
    return len > size - offset ? (size_t)(size - offset) : len;
}

int files_lock_to_read(struct bh_open *o, bool wait, struct bh_error *err)
{
    for (;;) {
        if (!wait && pthread_rwlock_tryrdlock(&o->lock) != 0)
            return EAGAIN;
        if (wait)
            pthread_rwlock_rdlock(&o->lock);
        if (is_ready(o))
            return 0;
        pthread_rwlock_unlock(&o->lock);
        int rc = files_lock_to_write(o, wait);
        if (rc)
            return rc;
        rc = make_ready(o, err);
        pthread_rwlock_unlock(&o->lock);
        if (rc)
            return rc;
    }
}

/* Gives the lock back before the bucket is asked: writers would wait for it as well. */
static int read_blob(struct bh_open *o, void *buf, size_t *len, uint64_t offset,
                     const struct bh_call *call, struct bh_error *err)
{
    struct bh_blob *blob = bh_blob_ref(o->blob);
    pthread_rwlock_unlock(&o->lock);
    if (offset == 0)
        files_ahead(o->files, o->ino, bh_blob_is_here(blob));
    int rc = bh_blob_read(blob, buf, *len, offset, len, call, err);
    bh_blob_close(blob);
    return rc;
}

int bh_open_read(struct bh_open *o, void *buf, size_t len, uint64_t offset, size_t *got, bool wait,
                 const struct bh_call *call, struct bh_error *err)
{
    *got = 0;
    int rc = files_lock_to_read(o, wait, err);
    if (rc)
        return rc;
    len = up_to_the_end(o, len, offset);
    if (len && !o->has_data && wait) {
        rc = read_blob(o, buf, &len, offset, call, err);
    } else {
        if (len && !o->has_data && offset == 0 && files_ahead_is_due(o->files, o->ino))
            rc = EAGAIN;
        else if (len && !o->has_data)
            rc = bh_blob_read_at_once(o->blob, buf, len, offset, &len);
        else if (len && wait)
            rc = bh_pread_full(o->data.fd, buf, len, offset, NULL);
        else if (len)
            rc = bh_pread_at_once(o->data.fd, buf, len, offset, bh_disk_is_memory(o->files->disk));
        pthread_rwlock_unlock(&o->lock);
    }
    if (rc == 0)
        *got = len;
    return rc;
}

bool bh_open_fetches(struct bh_open *o)
{
    if (pthread_rwlock_tryrdlock(&o->lock) != 0)
        return true;
    bool fetches = !o->content.data && o->content.size > 0 &&
                   !(o->has_data || (o->blob && bh_blob_is_here(o->blob)));
    pthread_rwlock_unlock(&o->lock);
    return fetches;
}

/* --- writing --- */

void files_changes(struct bh_open *o)
{
    if (atomic_exchange(&o->settled, false))
        o->closed = o->version;
    o->version++;
    int64_t now = bh_real_ns();
    __atomic_store_n(&o->mtime, now, __ATOMIC_RELAXED);
    __atomic_store_n(&o->ctime, now, __ATOMIC_RELAXED);
    atomic_store(&o->dirty, true);
}

static void reaches(struct bh_open *o, uint64_t end)
{
    if (end > o->content.size)
        __atomic_store_n(&o->content.size, end, __ATOMIC_RELAXED);
}

/* What failed may have written beyond the end: that must not be seen when the file grows. */
static int without_tail(struct bh_open *o, int rc, uint64_t end)
{
    if (rc == 0)
        reaches(o, end);
    else if (end > o->content.size)
        (void)bh_dfile_truncate(&o->data, o->content.size); /* rc says what matters */
    return rc;
}

/* With the gate entered and the lock for writing. */
static int write_locked(struct bh_open *o, const void *buf, size_t len, uint64_t offset, bool wait,
                        struct bh_error *err)
{
    if (atomic_load(&o->stale))
        return bh_fail(err, ESTALE, "files/ was restored or switched while the file was open");
    if (len > SIZE_LIMIT || offset > SIZE_LIMIT - len)
        return EFBIG;
    int rc = files_is_writable(o) ? 0
             : wait               ? files_make_own(o, UINT64_MAX, err)
                                  : files_make_own_at_once(o, err);
    if (rc)
        return rc;
    files_changes(o);
    bh_data_changes(o->files->blobs, o->content.data, offset, offset + len);
    if (wait)
        rc = bh_blobs_write(o->files->blobs, &o->data, buf, len, offset, len);
    else if (bh_blobs_is_full(rc = bh_dfile_write(&o->data, buf, len, offset)))
        rc = EAGAIN; /* room may be made, which takes a while */
    return without_tail(o, rc, offset + len);
}

int bh_open_write(struct bh_open *o, const void *buf, size_t len, uint64_t offset, bool wait,
                  const struct bh_call *call, struct bh_error *err)
{
    struct bh_files *f = o->files;
    if (f->read_only)
        return EROFS;
    int rc = wait ? bh_open_own(o, UINT64_MAX, call, err) : 0;
    if (rc == 0)
        rc = bh_files_enter(f, wait);
    if (rc)
        return rc;
    rc = files_lock_to_write(o, wait);
    if (rc == 0) {
        rc = write_locked(o, buf, len, offset, wait, err);
        pthread_rwlock_unlock(&o->lock);
    }
    bh_files_leave(f, rc == 0);
    return rc;
}

/* Names first: a data file that is longer than they say is cut when it is opened; one that is
 * shorter has lost something. What names refuse has changed nothing. */
static int shrink(struct bh_open *o, uint64_t size, struct bh_error *err)
{
    const uint64_t had = o->content.size;
    const int64_t mtime = o->mtime, ctime = o->ctime;
    const bool dirty = atomic_load(&o->dirty), settled = atomic_load(&o->settled);
    files_changes(o);
    __atomic_store_n(&o->content.size, size, __ATOMIC_RELAXED);
    int rc = files_push(o, true, err);
    if (rc) {
        __atomic_store_n(&o->content.size, had, __ATOMIC_RELAXED);
        __atomic_store_n(&o->mtime, mtime, __ATOMIC_RELAXED);
        __atomic_store_n(&o->ctime, ctime, __ATOMIC_RELAXED);
        atomic_store(&o->dirty, dirty);
        atomic_store(&o->settled, settled);
        return rc;
    }
    bh_data_shrinks(o->files->blobs, o->content.data, size);
    return bh_dfile_truncate(&o->data, size);
}

static int grow(struct bh_open *o, uint64_t size)
{
    int rc = bh_dfile_truncate(&o->data, size);
    if (rc == 0)
        reaches(o, size);
    return rc;
}

/* With the lock for writing. */
static int truncate_locked(struct bh_open *o, uint64_t size, struct bh_error *err)
{
    if (size > SIZE_LIMIT)
        return EFBIG;
    bool same = size == o->content.size && !(size == 0 && o->content.data);
    int rc = same || files_is_writable(o) ? 0 : files_make_own(o, size, err);
    if (rc)
        return rc;
    if (size < o->content.size)
        return shrink(o, size, err);
    files_changes(o); /* times change in any case (POSIX: ftruncate) */
    return same ? 0 : grow(o, size);
}

int files_set_size(struct bh_open *o, uint64_t size, struct bh_error *err)
{
    if (atomic_load(&o->stale))
        return ESTALE;
    int rc = truncate_locked(o, size, err);
    if (rc == 0)
        rc = files_push(o, true, err);
    if (rc == 0)
        atomic_store(&o->settled,
                     true); /* by name it is an operation of its own; by handle it does no harm */
    return rc;
}

/* --- holes --- */

static int fill_with_zeros(struct bh_open *o, uint64_t offset, uint64_t len)
{
    static const char zeros[65536];
    bh_data_changes(o->files->blobs, o->content.data, offset, offset + len);
    int rc = bh_dfile_punch(&o->data, offset, len);
    if (rc != EOPNOTSUPP)
        return rc;
    for (rc = 0; rc == 0 && len > 0;) {
        size_t n = len < sizeof zeros ? (size_t)len : sizeof zeros;
        rc = bh_blobs_write(o->files->blobs, &o->data, zeros, n, offset, len);
        offset += n;
        len -= n;
    }
    return rc;
}

static int allocate_locked(struct bh_open *o, int mode, uint64_t offset, uint64_t len,
                           struct bh_error *err)
{
    uint64_t end = offset + len, size = o->content.size;
    int rc = files_is_writable(o) ? 0 : files_make_own(o, UINT64_MAX, err);
    if (rc)
        return rc;
    files_changes(o);
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && offset < size)
        rc = fill_with_zeros(o, offset, (end < size ? end : size) - offset);
    if (rc == 0 && !(mode & FALLOC_FL_KEEP_SIZE) && end > size)
        rc = bh_dfile_truncate(&o->data, end);
    if (!(mode & FALLOC_FL_KEEP_SIZE))
        rc = without_tail(o, rc, end);
    return rc;
}

int bh_open_allocate(struct bh_open *o, int mode, uint64_t offset, uint64_t len,
                     const struct bh_call *call, struct bh_error *err)
{
    struct bh_files *f = o->files;
    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) ||
        ((mode & FALLOC_FL_PUNCH_HOLE) && !(mode & FALLOC_FL_KEEP_SIZE)))
        return EOPNOTSUPP;
    if (f->read_only)
        return EROFS;
    if (len == 0 || offset > SIZE_LIMIT || len > SIZE_LIMIT - offset)
        return len == 0 ? EINVAL : EFBIG;
    int rc = bh_open_own(o, UINT64_MAX, call, err);
    if (rc)
        return rc;
    (void)bh_files_enter(f, true);
    (void)files_lock_to_write(o, true);
    rc = atomic_load(&o->stale) ? ESTALE : allocate_locked(o, mode, offset, len, err);
    pthread_rwlock_unlock(&o->lock);
    bh_files_leave(f, rc == 0);
    return rc;
}

static int seek_locked(struct bh_open *o, uint64_t offset, int whence, uint64_t *at)
{
    uint64_t size = o->content.size;
    if (offset >= size)
        return ENXIO;
    if (!o->has_data) { /* a blob is all data */
        *at = whence == SEEK_DATA ? offset : size;
        return 0;
    }
    off_t found = lseek(o->data.fd, (off_t)offset, whence);
    if (found < 0 && errno == ENXIO && whence == SEEK_HOLE)
        *at = size;
    else if (found < 0 || (uint64_t)found > size)
        return found < 0 ? errno : whence == SEEK_DATA ? ENXIO : (*at = size, 0);
    else
        *at = (uint64_t)found;
    return 0;
}

int bh_open_seek(struct bh_open *o, uint64_t offset, int whence, uint64_t *at, bool wait,
                 struct bh_error *err)
{
    int rc = files_lock_to_read(o, wait, err);
    if (rc)
        return rc;
    bool sleeps = o->has_data && !bh_disk_is_memory(o->files->disk); /* the disk's own map */
    rc = sleeps && !wait ? EAGAIN : seek_locked(o, offset, whence, at);
    pthread_rwlock_unlock(&o->lock);
    return rc;
}

/* --- durability --- */

/* It was written to, and no snapshot has it. */
static bool is_lost(const struct bh_open *o)
{
    return atomic_load(&o->stale) && !atomic_load(&o->settled);
}

int bh_open_flush(struct bh_open *o, bool wait, struct bh_error *err)
{
    if (!atomic_load(&o->dirty) && atomic_load(&o->settled))
        return 0;
    int rc = bh_files_enter(o->files, wait);
    if (rc)
        return rc;
    rc = files_lock_to_write(o, wait);
    if (rc == 0) {
        rc = is_lost(o) ? bh_fail(err, ESTALE,
                                  "what was written to inode %llu since its last close or fsync is "
                                  "lost: files/ was restored or switched meanwhile",
                                  (unsigned long long)o->ino)
                        : files_push(o, wait, err);
        if (rc == 0)
            atomic_store(&o->settled, true);
        pthread_rwlock_unlock(&o->lock);
    }
    bh_files_leave(o->files, rc == 0);
    return rc;
}

/* Its name in the state directory, too, which is synced once. With the lock. */
static int sync_data(struct bh_open *o)
{
    if (!o->has_data || atomic_load(&o->stale))
        return 0;
    int rc = bh_dfile_sync(&o->data);
    if (rc == 0 && !atomic_load(&o->is_named) && (rc = bh_disk_sync_names(o->files->disk)) == 0)
        atomic_store(&o->is_named, true);
    return rc;
}

int bh_open_sync(struct bh_open *o, struct bh_error *err)
{
    int rc = bh_open_flush(o, true, err);
    if (rc)
        return rc;
    pthread_rwlock_rdlock(&o->lock);
    rc = sync_data(o);
    pthread_rwlock_unlock(&o->lock);
    return rc ? rc : bh_names_sync(o->files->names, err);
}
