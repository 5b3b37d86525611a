/* Data files of one's own for files that are blobs: who changes a content makes a copy first. */
#include "store/files_private.h"

#include <errno.h>
#include <sys/stat.h>

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

/* A new data file with the first `len` bytes of the blob that `of` names. As long as the bucket
 * takes. */
static int copy_blob(struct bh_blobs *b, struct bh_blob *blob, const struct bh_content *of,
                     uint64_t len, uint64_t *number, struct bh_dfile *data,
                     const struct bh_call *call, struct bh_error *err)
{
    bool checked = false;
    int rc = bh_data_create(b, number, data, err);
    if (rc)
        return rc;
    rc = len ? bh_blob_copy(blob, data, len, &checked, call, err) : 0;
    if (rc) {
        bh_dfile_close(data);
        bh_data_remove(b, *number);
    } else if (checked) {
        bh_data_is_copy(b, *number, of->hash, of->hash_size, len);
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

/* The same, in names, too, with so many bytes. With the gate entered and the lock for writing. The
 * data file is taken over, also if it fails. */
static int install(struct bh_open *o, uint64_t number, uint64_t size, struct bh_dfile data,
                   struct bh_error *err)
{
    struct bh_inode to = {.content = o->content};
    int rc = 0;
    to.content.data = number;
    to.content.size = size;
    if (number != o->content.data || size != o->content.size)
        rc = bh_names_set(o->files->names, o->ino, BH_SET_CONTENT | BH_SET_NO_CTIME, &to, NULL,
                          true, err);
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
    uint64_t number = o->content.data;
    if (keep > o->content.size)
        keep = o->content.size;
    int rc = 0;
    if (number && keep) {
        rc = bh_data_open_to_write(b, &number, keep, &data, &call, err);
        if (rc == 0 && (rc = cut(b, number, &data, keep)) != 0) {
            bh_dfile_close(&data);
            if (number != o->content.data)
                bh_data_remove(b, number);
        }
    } else {
        if (keep && !o->blob)
            rc = bh_blob_open(b, o->content.hash, o->content.hash_size, &o->blob);
        if (rc == 0)
            rc = copy_blob(b, o->blob, &o->content, keep, &number, &data, &call, err);
    }
    return rc ? rc : install(o, number, keep, data, err);
}

/* What a copy is made of while nobody holds a lock. */
struct origin {
    uint64_t version; /* of the file */
    struct bh_content content;
    struct bh_blob *blob; /* NULL: of the data file */
};

/* With the lock. EALREADY: it can be written as it is, or will be empty. */
static int take_origin(struct bh_open *o, uint64_t keep, struct origin *from)
{
    if (o->content.size == 0 || keep == 0 || atomic_load(&o->stale) || files_is_writable(o))
        return EALREADY;
    *from = (struct origin){.version = o->version, .content = o->content};
    if (from->content.data)
        return 0;
    if (!o->blob)
        return bh_blob_open(o->files->blobs, o->content.hash, o->content.hash_size, &from->blob);
    from->blob = bh_blob_ref(o->blob);
    return 0;
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
        rc = install(o, number, size, data, err);
        if (rc == 0 && size < from->content.size)
            files_wrote(o, 0);
    }
    pthread_rwlock_unlock(&o->lock);
    bh_files_leave(o->files, same && rc == 0);
    if (!same) {
        bh_dfile_close(&data);
        bh_data_remove(o->files->blobs, number);
    }
    return rc;
}

/* EALREADY: nothing has to be copied, or it was done by somebody else. */
static int copy_origin(struct bh_blobs *b, const struct origin *from, uint64_t size,
                       uint64_t *number, struct bh_dfile *data, const struct bh_call *call,
                       struct bh_error *err)
{
    if (from->blob)
        return copy_blob(b, from->blob, &from->content, size, number, data, call, err);
    *number = from->content.data;
    int rc = bh_data_open_to_write(b, number, size, data, call, err);
    if (rc)
        return rc == ENOENT ? EALREADY : rc;
    if (*number == from->content.data)
        rc = EALREADY;
    else if ((rc = cut(b, *number, data, size)) != 0)
        bh_data_remove(b, *number);
    if (rc)
        bh_dfile_close(data);
    return rc;
}

int files_own(struct bh_open *o, uint64_t keep, const struct bh_call *call, struct bh_error *err)
{
    if (o->files->read_only)
        return EROFS;
    struct bh_dfile data;
    struct origin from;
    uint64_t number;
    int rc = files_lock_to_read(o, true, err);
    if (rc)
        return rc;
    rc = take_origin(o, keep, &from);
    pthread_rwlock_unlock(&o->lock);
    if (rc)
        return rc == EALREADY ? 0 : rc;
    uint64_t size = keep < from.content.size ? keep : from.content.size;
    rc = copy_origin(o->files->blobs, &from, size, &number, &data, call, err);
    bh_blob_close(from.blob);
    if (rc)
        return rc == EALREADY ? 0 : rc;
    return install_copy(o, &from, number, size, data, err);
}

int bh_files_own(struct bh_files *f, uint64_t ino, uint64_t keep, const struct bh_call *call,
                 struct bh_error *err)
{
    struct bh_open *o;
    int rc = bh_files_use(f, ino, false, &o, true, err);
    if (rc)
        return rc == EISDIR ? 0 : rc;
    rc = files_own(o, keep, call, err);
    bh_open_drop(o, false);
    return rc;
}
