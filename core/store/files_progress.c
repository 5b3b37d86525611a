/* How far a flush is with files/: what is to be hashed, then what is to be uploaded. */
#include "store/files_private.h"

#include "util/cleanup.h"

static uint64_t sent_bytes(struct bh_files *f)
{
    struct bh_bucket_stats s;
    bh_bucket_stats(f->bucket, &s);
    return s.bytes_up;
}

void files_progress_begin(struct bh_files *f)
{
    struct bh_blobs_stats s;
    bh_blobs_stats(f->blobs, &s);
    const struct files_progress p = {.phase = BH_FILES_HASHING,
                                     .uploaded = s.uploaded,
                                     .uploaded_bytes = s.uploaded_bytes,
                                     .sent_bytes = sent_bytes(f)};
    BH_LOCK_SCOPE(&f->mutex);
    f->progress = p;
}

void files_progress_hashing(struct bh_files *f, uint64_t files, uint64_t bytes)
{
    BH_LOCK_SCOPE(&f->mutex);
    f->progress.files_total = files;
    f->progress.bytes_total = bytes;
}

void files_progress_hashed(struct bh_files *f, uint64_t files, uint64_t bytes)
{
    BH_LOCK_SCOPE(&f->mutex);
    f->progress.files_done += files;
    f->progress.bytes_done += bytes;
}

void files_progress_uploading(struct bh_files *f)
{
    BH_LOCK_SCOPE(&f->mutex);
    f->progress.phase = BH_FILES_UPLOADING;
}

void files_progress_end(struct bh_files *f)
{
    BH_LOCK_SCOPE(&f->mutex);
    f->progress.phase = BH_FILES_IDLE;
}

static uint64_t at_most(uint64_t n, uint64_t max)
{
    return n < max ? n : max;
}

void files_progress_tell(struct bh_files *f, struct bh_files_status *out)
{
    pthread_mutex_lock(&f->mutex);
    const struct files_progress p = f->progress;
    pthread_mutex_unlock(&f->mutex);
    out->phase = p.phase;
    if (p.phase == BH_FILES_HASHING) {
        out->files_total = p.files_total;
        out->files_done = at_most(p.files_done, p.files_total);
        out->bytes_total = p.bytes_total;
        out->bytes_done = at_most(p.bytes_done, p.bytes_total);
    } else if (p.phase == BH_FILES_UPLOADING) {
        uint64_t bytes = out->blobs.uploaded_bytes - p.uploaded_bytes;
        uint64_t sent = sent_bytes(f) - p.sent_bytes; /* of large ones under way, too */
        out->files_done = out->blobs.uploaded - p.uploaded;
        out->files_total = out->files_done + out->blobs.pending;
        out->bytes_total = bytes + out->blobs.pending_bytes;
        out->bytes_done = at_most(sent > bytes ? sent : bytes, out->bytes_total);
    }
}
