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
                  : bh_pread_at_once(o->data.fd, buf, len, offset,
                                     bh_disk_is_memory(o->files->disk));
    else
        rc = wait ? bh_blob_read(o->blob, buf, len, offset, &len, call, err)
                  : bh_blob_read_at_once(o->blob, buf, len, offset, &len);
    if (rc == 0)
        *got = len;
    return rc;
}

/* Has it for reading, with what is read from open. */
static int lock_to_read(struct bh_open *o, bool wait, struct bh_error *err)
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

int bh_open_read(struct bh_open *o, void *buf, size_t len, uint64_t offset, size_t *got, bool wait,
                 const struct bh_call *call, struct bh_error *err)
{
    int rc = lock_to_read(o, wait, err);
    if (rc)
        return rc;
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

/* A data file that can be written, with the content up to `keep` bytes: the one that it has, or a
 * copy if that is a blob, too, or one of the blob. As long as the bucket takes. */
static int get_own(struct bh_open *o, uint64_t keep, uint64_t *number, struct bh_dfile *data,
                   struct bh_error *err)
{
    struct bh_blobs *b = o->files->blobs;
    const struct bh_call call = {.stop = &o->files->cancel};
    bool has = o->content.data && keep;
    *number = o->content.data;
    int rc =
        has ? bh_data_open_to_write(b, number, data, err) : bh_data_create(b, number, data, err);
    if (rc)
        return rc;
    if (has)
        rc = cut(data, keep);
    else if (keep && !o->blob)
        rc = bh_blob_open(b, o->content.hash, o->content.hash_size, &o->blob);
    if (rc == 0 && !has && keep)
        rc = bh_blob_copy(o->blob, data, keep, &call, err);
    if (rc) {
        bh_dfile_close(data);
        if (*number != o->content.data)
            bh_data_remove(b, *number);
    }
    return rc;
}

/* Its content is in that data file from now on. */
static void take_own(struct bh_open *o, const struct bh_content *now, struct bh_dfile data)
{
    uint64_t old = o->content.data;
    if (o->has_data)
        bh_dfile_close(&o->data);
    if (o->blob)
        bh_blob_close(o->blob);
    o->blob = NULL;
    o->data = data;
    o->has_data = true;
    atomic_store(&o->is_shared, false);
    o->content = *now;
    if (old != now->data)
        bh_data_remove(o->files->blobs, old);
}

static int make_own(struct bh_open *o, uint64_t keep, struct bh_error *err)
{
    struct bh_inode to = {.content = o->content};
    struct bh_dfile data;
    if (keep < to.content.size)
        to.content.size = keep;
    int rc = get_own(o, to.content.size, &to.content.data, &data, err);
    if (rc)
        return rc;
    bool differs = to.content.data != o->content.data || to.content.size != o->content.size;
    if (differs)
        rc = bh_names_set(o->files->names, o->ino, BH_SET_CONTENT | BH_SET_NO_CTIME, &to, NULL,
                          true, err);
    if (rc == 0) {
        take_own(o, &to.content, data);
        return 0;
    }
    bh_dfile_close(&data);
    if (to.content.data != o->content.data)
        bh_data_remove(o->files->blobs, to.content.data);
    return rc;
}

/* With the lock for writing. */
static void wrote(struct bh_open *o, uint64_t end)
{
    if (end > o->content.size)
        __atomic_store_n(&o->content.size, end, __ATOMIC_RELAXED);
    o->version++;
    atomic_store(&o->settled, false);
    int64_t now = bh_real_ns();
    __atomic_store_n(&o->mtime, now, __ATOMIC_RELAXED);
    __atomic_store_n(&o->ctime, now, __ATOMIC_RELAXED);
    atomic_store(&o->dirty, true);
}

/* With the gate entered and the lock for writing. */
static int write_locked(struct bh_open *o, const void *buf, size_t len, uint64_t offset, bool wait,
                        struct bh_error *err)
{
    if (atomic_load(&o->stale))
        return bh_fail(err, ESTALE, "files/ was restored or switched while the file was open");
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

int bh_open_write(struct bh_open *o, const void *buf, size_t len, uint64_t offset, bool wait,
                  struct bh_error *err)
{
    struct bh_files *f = o->files;
    if (f->read_only)
        return EROFS;
    int rc = bh_files_enter(f, wait);
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
    int rc = bh_dfile_punch(&o->data, offset, len);
    if (rc != EOPNOTSUPP)
        return rc;
    for (rc = 0; rc == 0 && len > 0;) {
        size_t n = len < sizeof zeros ? (size_t)len : sizeof zeros;
        rc = bh_dfile_write(&o->data, zeros, n, offset);
        offset += n;
        len -= n;
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
    (void)files_lock_to_write(o, true);
    int rc = atomic_load(&o->stale) ? ESTALE : allocate_locked(o, mode, offset, len, err);
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
    if (!atomic_load(&o->dirty) && atomic_load(&o->settled))
        return 0;
    int rc = bh_files_enter(o->files, wait);
    if (rc)
        return rc;
    rc = files_lock_to_write(o, wait);
    if (rc == 0) {
        rc = files_push(o, wait, err);
        if (rc == 0)
            atomic_store(&o->settled, true);
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
    if (o->has_data && !atomic_load(&o->stale))
        rc = bh_dfile_sync(&o->data);
    pthread_rwlock_unlock(&o->lock);
    return rc ? rc : bh_names_sync(o->files->names, err);
}
