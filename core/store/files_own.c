/* Data files of one's own for files that are blobs: who changes a content makes a copy first. */
#include "store/files_private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool files_is_writable(const struct bh_open *o)
{
    return o->content.data && o->has_data && !atomic_load(&o->is_shared);
}

/* What was written beyond the end just before a crash must not come back when the file grows. */
static int cut(struct bh_blobs *b, uint64_t number, struct bh_dfile *data, uint64_t size)
{
    struct stat st;
    if (fstat(data->fd, &st) != 0)
        return errno;
    bh_data_shrinks(b, number, size);
    return (uint64_t)st.st_size > size ? bh_dfile_truncate(data, size) : 0;
}

/* What was durable is so in the copy, before names have that instead. */
static int make_durable(struct bh_files *f, struct bh_dfile *copy, struct bh_error *err)
{
    int rc = bh_dfile_sync(copy);
    if (rc == 0)
        rc = bh_disk_sync_names(f->disk);
    return rc ? bh_fail(err, rc, "a copy of a content cannot be synced in %s: %s",
                        bh_disk_path(f->disk), strerror(rc))
              : 0;
}

/* What a copy is made of: of content.data, if that is a blob as well, else fd, else blob. */
struct origin {
    uint64_t version; /* of the file */
    struct bh_content content;
    int fd; /* -1, or a data file that became the blob */
    struct bh_blob *blob;
};

static void drop_origin(struct origin *from)
{
    if (from->fd >= 0)
        close(from->fd);
    bh_blob_close(from->blob);
}

/* With the lock. */
static int take_origin(const struct bh_open *o, struct origin *from)
{
    *from = (struct origin){.version = o->version, .content = o->content, .fd = -1};
    if (from->content.data || from->content.size == 0)
        return 0;
    if (o->has_data) {
        from->fd = fcntl(o->data.fd, F_DUPFD_CLOEXEC, 0);
        return from->fd < 0 ? errno : 0;
    }
    if (!o->blob)
        return bh_blob_open(o->files->blobs, o->content.hash, o->content.hash_size, &from->blob);
    from->blob = bh_blob_ref(o->blob);
    return 0;
}

/* A new data file with the first `len` bytes of the blob. As long as the bucket takes. */
static int copy_blob(struct bh_files *f, const struct origin *from, uint64_t len, uint64_t *number,
                     struct bh_dfile *data, const struct bh_call *call, struct bh_error *err)
{
    struct bh_blobs *b = f->blobs;
    bool checked = from->fd >= 0; /* hashed when it became the blob */
    int rc = bh_data_create(b, number, data, err);
    if (rc || len == 0)
        return rc;
    rc = from->fd >= 0 ? bh_data_copy(b, from->fd, len, data, call, err)
                       : bh_blob_copy(from->blob, data, len, &checked, call, err);
    if (rc == 0)
        rc = make_durable(f, data, err);
    if (rc) {
        bh_dfile_close(data);
        bh_data_remove(b, *number);
    } else if (checked) {
        bh_data_is_copy(b, *number, from->content.hash, from->content.hash_size, len);
    }
    return rc;
}

/* A data file that can be written, with the first `len` bytes at least. EALREADY: *data is the one
 * that the file has. */
static int open_own(struct bh_files *f, const struct origin *from, uint64_t len, uint64_t *number,
                    struct bh_dfile *data, const struct bh_call *call, struct bh_error *err)
{
    *number = from->content.data;
    if (!*number || len == 0)
        return copy_blob(f, from, len, number, data, call, err);
    int rc = bh_data_open_to_write(f->blobs, number, len, data, call, err);
    if (rc)
        return rc;
    if (*number == from->content.data)
        return EALREADY;
    rc = make_durable(f, data, err);
    if (rc) {
        bh_dfile_close(data);
        bh_data_remove(f->blobs, *number);
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
    if (old != now->data)
        atomic_store(&o->is_named, false);
    atomic_store(&o->is_shared, false);
    o->content = *now;
    if (old != now->data)
        files_discard(o->files, old);
}

/* The same, in names, too, with so many bytes. With the gate entered and the lock for writing;
 * wait: see bh_names_set. The data file is taken over, also if it fails: a new one is removed then,
 * and not for another file, as names may have heard of its number. */
static int install(struct bh_open *o, uint64_t number, uint64_t size, struct bh_dfile data,
                   bool wait, struct bh_error *err)
{
    struct bh_inode to = {.content = o->content};
    int rc = 0;
    to.content.data = number;
    to.content.size = size;
    if (number != o->content.data || size != o->content.size)
        rc = bh_names_set(o->files->names, o->ino, BH_SET_CONTENT | BH_SET_NO_CTIME, &to, NULL,
                          wait, err);
    if (rc == 0) {
        take_own(o, &to.content, data);
        return 0;
    }
    bh_dfile_close(&data);
    if (number != o->content.data)
        bh_data_remove(o->files->blobs, number);
    return rc;
}

int files_make_own(struct bh_open *o, uint64_t keep, struct bh_error *err)
{
    struct bh_blobs *b = o->files->blobs;
    const struct bh_call call = {.stop = &o->files->cancel};
    struct bh_dfile data;
    struct origin from;
    uint64_t number;
    if (keep > o->content.size)
        keep = o->content.size;
    int rc = take_origin(o, &from);
    if (rc)
        return rc;
    rc = open_own(o->files, &from, keep, &number, &data, &call, err);
    drop_origin(&from);
    if (rc == EALREADY) { /* names are not asked: it keeps its size, and who called cuts it */
        keep = o->content.size;
        if ((rc = cut(b, number, &data, keep)) != 0)
            bh_dfile_close(&data);
    }
    return rc ? rc : install(o, number, keep, data, true, err);
}

int files_make_own_at_once(struct bh_open *o, struct bh_error *err)
{
    struct bh_dfile data;
    uint64_t number;
    if (o->content.size || o->content.data || o->has_data || o->blob)
        return EAGAIN;
    int rc = bh_data_create_at_once(o->files->blobs, &number, &data);
    return rc ? rc : install(o, number, 0, data, false, err);
}

/* The copy becomes the file's, unless that was changed or copied meanwhile. */
static int install_copy(struct bh_open *o, const struct origin *from, uint64_t number,
                        uint64_t size, struct bh_dfile data, struct bh_error *err)
{
    int rc = 0;
    (void)bh_files_enter(o->files, true);
    (void)files_lock_to_write(o, true);
    bool same = !atomic_load(&o->stale) && o->version == from->version &&
                o->content.data == from->content.data && o->content.size == from->content.size &&
                !files_is_writable(o);
    if (same) {
        rc = install(o, number, size, data, true, err);
        if (rc == 0 && size < from->content.size)
            files_changes(o);
    }
    pthread_rwlock_unlock(&o->lock);
    bh_files_leave(o->files, same && rc == 0);
    if (!same) {
        bh_dfile_close(&data);
        bh_data_remove(o->files->blobs, number);
    }
    return rc;
}

/* With the lock: it has to be copied before it can be written, or cut to `keep` bytes. */
static bool needs_copy(const struct bh_open *o, uint64_t keep)
{
    return o->content.size > 0 && keep > 0 && keep != o->content.size && !atomic_load(&o->stale) &&
           !files_is_writable(o);
}

int bh_open_own(struct bh_open *o, uint64_t keep, const struct bh_call *call, struct bh_error *err)
{
    struct bh_files *f = o->files;
    if (f->read_only)
        return EROFS;
    struct bh_dfile data;
    struct origin from;
    uint64_t number;
    int rc = files_lock_to_read(o, true, err);
    if (rc)
        return rc;
    bool needs = needs_copy(o, keep);
    rc = needs ? take_origin(o, &from) : 0;
    pthread_rwlock_unlock(&o->lock);
    if (rc || !needs)
        return rc;
    uint64_t size = keep < from.content.size ? keep : from.content.size;
    rc = open_own(f, &from, size, &number, &data, call, err);
    drop_origin(&from);
    if (rc == EALREADY)
        bh_dfile_close(&data);
    if (rc == EALREADY || (rc == ENOENT && from.content.data))
        return 0; /* somebody else has copied it meanwhile */
    return rc ? rc : install_copy(o, &from, number, size, data, err);
}
