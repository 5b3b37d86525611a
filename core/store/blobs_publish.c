/* Publishing: content becomes a blob. Its hash is taken first; then p-HASH appears, as a second
 * name of the data file, or as a copy. */
#include "store/blobs_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/io.h"

#define SYNC_ONE_BY_ONE 16 /* more files at once are synced with the whole file system */

struct publishing {
    struct bh_blobs *b;
    const struct bh_dfile *f;
    uint64_t size, number;
    bool (*still)(void *arg);
    void *arg;
    const struct bh_call *call;
    uint8_t hash[BH_SHA256_LEN];
    char temp[BLOBS_NAME];    /* the copy; "": none */
    struct blobs_edit *edit;  /* NULL, or what it has of an older blob */
    struct bh_sha256 *resume; /* NULL, or the hash of its first edit->base_size bytes */
};

static int again(void *arg, struct bh_error *err)
{
    struct publishing *p = arg;
    if (p->still && !p->still(p->arg))
        return bh_fail(err, ESTALE, "the content changed while it was published");
    return bh_call_check(p->call, "the publishing", err);
}

static int read_step(int fd, void *buf, size_t len, uint64_t at, const char *what,
                     struct bh_error *err)
{
    size_t got;
    int rc = bh_pread_full(fd, buf, len, at, &got);
    if (rc)
        return bh_fail(err, rc, "%s cannot be read: %s", what, strerror(rc));
    if (got < len)
        return bh_fail(err, EIO, "%s ends after %llu bytes, before its time", what,
                       (unsigned long long)(at + got));
    return 0;
}

static bool is_zero(const char *buf, size_t len)
{
    return len > 0 && buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0;
}

struct hashing {
    int fd;
    uint64_t size;
    struct bh_sha256 *hash;
    uint64_t from;         /* hash has what is before */
    struct bh_dfile *copy; /* NULL, or gets the same bytes, without blocks of zeros */
    int (*ask)(void *arg, struct bh_error *err); /* may be NULL */
    void *arg;
    const char *what;
};

static int hash_step(struct hashing *h, char *buf, size_t len, uint64_t at, struct bh_error *err)
{
    int rc = h->ask ? h->ask(h->arg, err) : 0;
    if (!rc)
        rc = read_step(h->fd, buf, len, at, h->what, err);
    if (rc)
        return rc;
    size_t known = at >= h->from ? 0 : h->from - at < len ? (size_t)(h->from - at) : len;
    bh_sha256_update(h->hash, buf + known, len - known);
    if (h->copy && !is_zero(buf, len) && (rc = bh_dfile_write(h->copy, buf, len, at)) != 0)
        rc = bh_fail(err, rc, "%s cannot be copied: %s", h->what, strerror(rc));
    return rc;
}

static int hash_and_copy(struct hashing *h, struct bh_error *err)
{
    size_t step = h->size < BLOBS_STEP ? (size_t)h->size : BLOBS_STEP;
    BH_FREE char *buf = malloc(step ? step : 1);
    int rc = h->hash && buf ? 0 : bh_fail(err, ENOMEM, "out of memory while hashing %s", h->what);
    for (uint64_t at = h->copy ? 0 : h->from; !rc && at < h->size; at += step)
        rc = hash_step(h, buf, h->size - at < step ? (size_t)(h->size - at) : step, at, err);
    if (!rc && h->copy && (rc = bh_dfile_truncate(h->copy, h->size)) != 0)
        rc = bh_fail(err, rc, "%s cannot be copied: %s", h->what, strerror(rc));
    return rc;
}

int bh_blobs_hash_on(struct bh_sha256 *hash, int fd, uint64_t from, uint64_t end,
                     int (*ask)(void *arg, struct bh_error *err), void *arg, const char *what,
                     struct bh_error *err)
{
    struct hashing h = {
        .fd = fd, .size = end, .hash = hash, .from = from, .ask = ask, .arg = arg, .what = what};
    return hash_and_copy(&h, err);
}

int bh_blobs_hash(int fd, uint64_t size, int (*ask)(void *arg, struct bh_error *err), void *arg,
                  const char *what, uint8_t hash[BH_SHA256_LEN], struct bh_error *err)
{
    struct bh_sha256 *h = bh_sha256_new();
    int rc = bh_blobs_hash_on(h, fd, 0, size, ask, arg, what, err);
    if (!rc)
        bh_sha256_raw(h, hash);
    bh_sha256_free(h);
    return rc;
}

/* The hash of what is published, from fd, which is what becomes the blob, or is copied. The hash of
 * a large one is kept as it is at the end, for what may be appended. */
static int hash_content(struct publishing *p, int fd, struct bh_dfile *to, struct bh_error *err)
{
    struct hashing h = {.fd = fd,
                        .size = p->size,
                        .hash = p->resume ? bh_sha256_copy(p->resume) : bh_sha256_new(),
                        .from = p->resume ? p->edit->base_size : 0,
                        .copy = to,
                        .ask = again,
                        .arg = p,
                        .what = "a file"};
    int rc = hash_and_copy(&h, err);
    struct bh_sha256 *end = rc || p->size < BLOBS_EDIT_MIN ? NULL : bh_sha256_copy(h.hash);
    if (!rc)
        bh_sha256_raw(h.hash, p->hash);
    bh_sha256_free(h.hash);
    if (end)
        bh_blobs_keep_state(p->b, p->hash, p->size, end);
    return rc;
}

static void drop_copy(struct publishing *p)
{
    if (p->temp[0])
        bh_disk_unlink(p->b->o.disk, p->temp);
    p->temp[0] = '\0';
}

static int copy_once(struct publishing *p, struct bh_error *err)
{
    struct bh_dfile t;
    bh_blobs_temp_name(p->temp);
    int rc = bh_disk_open_file(p->b->o.disk, p->temp, O_RDWR | O_CREAT | O_EXCL, 0600, &t);
    if (rc) {
        p->temp[0] = '\0';
        return bh_fail(err, rc, "a copy to be uploaded cannot be made in %s: %s",
                       bh_disk_path(p->b->o.disk), strerror(rc));
    }
    if (bh_dfile_clone(&t, p->f->fd) == 0) { /* what is hashed is what stays */
        rc = bh_dfile_truncate(&t, p->size);
        rc = rc ? bh_fail(err, rc, "a copy cannot be cut: %s", strerror(rc))
                : hash_content(p, t.fd, NULL, err);
    } else {
        rc = hash_content(p, p->f->fd, &t, err);
    }
    bh_dfile_close(&t);
    if (rc)
        drop_copy(p);
    return rc;
}

/* The hash, and a copy under the name p->temp. */
static int copy(struct publishing *p, struct bh_error *err)
{
    int rc = copy_once(p, err);
    if (bh_blobs_is_full(rc) && bh_blobs_make_room(p->b, p->size))
        rc = copy_once(p, err);
    return rc;
}

static int name_file(struct publishing *p, const char *name)
{
    char data[BLOBS_NAME];
    if (p->temp[0]) {
        int rc = bh_disk_rename(p->b->o.disk, p->temp, name);
        if (!rc)
            p->temp[0] = '\0';
        return rc;
    }
    bh_data_name(data, p->number);
    return bh_disk_link(p->b->o.disk, data, name);
}

/* What was hashed becomes p-HASH; what is here of it, of kind `was`, goes. It may be damaged, which
 * nobody would notice before it was uploaded. With naming. */
static int make_pending(struct publishing *p, enum blobs_kind was, struct bh_error *err)
{
    char name[BLOBS_NAME];
    bh_blobs_name(name, KIND_PENDING, p->hash);
    int rc = name_file(p, name);
    if (rc == EOPNOTSUPP)
        return rc; /* no links here: it is to be copied */
    if (rc)
        return bh_fail(err, rc, "%s cannot be named in %s: %s", name, bh_disk_path(p->b->o.disk),
                       strerror(rc));
    bh_blobs_unlink(p->b, was, p->hash);
    return 0;
}

/* Whether there is nothing to do: it is pending already, or in the bucket. With naming and mutex.
 */
static bool is_known(const struct blobs_entry *e)
{
    return e->kind == KIND_PENDING || (e->kind == KIND_CACHED && bh_blobs_seen_lately(e));
}

/* The hash is known: the blob gets its name and its place in the queue. */
static int enter(struct publishing *p, struct bh_error *err)
{
    struct bh_blobs *b = p->b;
    BH_LOCK_SCOPE(&b->naming);
    BH_FREE struct blobs_job *job = calloc(1, sizeof *job);
    pthread_mutex_lock(&b->mutex);
    struct blobs_entry *e = job ? bh_blobs_entry(b, p->hash) : NULL;
    if (!e) {
        pthread_mutex_unlock(&b->mutex);
        return bh_fail(err, ENOMEM, "out of memory while content was published");
    }
    enum blobs_kind was = e->kind;
    bh_blobs_needs_head(b, e);
    if (is_known(e)) {
        pthread_mutex_unlock(&b->mutex);
        return 0;
    }
    e->pins++;
    pthread_mutex_unlock(&b->mutex);
    int rc = make_pending(p, was, err);
    pthread_mutex_lock(&b->mutex);
    e->pins--;
    if (rc) {
        bh_blobs_entry_drop(b, e);
    } else {
        job->size = p->size;
        job->checked = true;
        job->expected = was != KIND_NONE;
        job->edit = bh_take_ptr(p->edit);
        bh_blobs_become(b, e, KIND_PENDING, p->size);
        bh_blobs_queue(b, e, bh_take_ptr(job));
    }
    pthread_mutex_unlock(&b->mutex);
    return rc;
}

static bool is_all_of(const struct bh_dfile *f, uint64_t size)
{
    struct stat st;
    return fstat(f->fd, &st) == 0 && (uint64_t)st.st_size == size;
}

static int publish(struct publishing *p, bool take, struct bh_error *err)
{
    bool link = take && is_all_of(p->f, p->size);
    int rc = 0;
    if (link) {
        rc = hash_content(p, p->f->fd, NULL, err);
        if (!rc)
            rc = again(p, err);
        if (!rc)
            rc = enter(p, err);
        if (bh_blobs_is_full(rc) && bh_blobs_make_room(p->b, BLOBS_STEP))
            rc = enter(p, err);
    }
    if (!link || rc == EOPNOTSUPP) { /* without links, too */
        rc = copy(p, err);
        if (!rc)
            rc = again(p, err);
        if (!rc)
            rc = enter(p, err);
    }
    return rc;
}

int bh_blobs_publish(struct bh_blobs *b, const struct bh_dfile *f, uint64_t size, uint64_t number,
                     bool take, bool (*still)(void *arg), void *arg, uint8_t hash[BH_SHA256_LEN],
                     const struct bh_call *call, struct bh_error *err)
{
    struct publishing p = {
        .b = b, .f = f, .size = size, .number = number, .still = still, .arg = arg, .call = call};
    if (size == 0)
        return bh_sha256_of("", 0, hash) == 0
                   ? 0
                   : bh_fail(err, ENOMEM, "out of memory while content was published");
    p.edit = bh_blobs_edit_of(b, number, size);
    p.resume = bh_blobs_resume(b, p.edit);
    int rc = publish(&p, take, err);
    drop_copy(&p);
    bh_sha256_free(p.resume);
    free(p.edit);
    if (!rc)
        memcpy(hash, p.hash, BH_SHA256_LEN);
    return rc;
}

/* --- settling --- */

static int sync_one(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN])
{
    static const enum blobs_kind places[] = {KIND_PENDING, KIND_CACHED, KIND_PENDING};
    struct bh_dfile f;
    int rc = ENOENT;
    for (size_t i = 0; rc == ENOENT && i < 3; i++) { /* it may get its other name meanwhile */
        char name[BLOBS_NAME];
        bh_blobs_name(name, places[i], hash);
        rc = bh_disk_open_file(b->o.disk, name, O_RDONLY, 0, &f);
    }
    if (rc)
        return rc == ENOENT ? 0 : rc; /* nobody wants it any more, or the bucket has it */
    rc = bh_dfile_sync(&f);
    bh_dfile_close(&f);
    return rc;
}

static int sync_all(struct bh_blobs *b, uint8_t (*hashes)[BH_SHA256_LEN], size_t count)
{
    int rc = 0;
    if (bh_disk_is_memory(b->o.disk))
        return 0;
    if (count > SYNC_ONE_BY_ONE && !bh_disk_is_mirrored(b->o.disk))
        rc = syncfs(bh_disk_dirfd(b->o.disk)) == 0 ? 0 : errno;
    else
        for (size_t i = 0; !rc && i < count; i++)
            rc = sync_one(b, hashes[i]);
    return rc ? rc : bh_disk_sync_names(b->o.disk);
}

/* The jobs published after those of an earlier settling, up to the present; freed by the caller. */
static int collect(struct bh_blobs *b, uint64_t *upto, uint8_t (**hashes)[BH_SHA256_LEN],
                   size_t *count)
{
    BH_LOCK_SCOPE(&b->mutex);
    struct blobs_job *first = NULL;
    *count = 0;
    *upto = b->last_number;
    for (struct blobs_job *j = b->last_job; j && j->number > b->settled; j = j->before) {
        first = j;
        ++*count;
    }
    *hashes = malloc(*count ? *count * sizeof **hashes : 1);
    if (!*hashes)
        return ENOMEM;
    for (size_t i = 0; i < *count; i++, first = first->after)
        memcpy((*hashes)[i], first->entry->hash, BH_SHA256_LEN);
    return 0;
}

/* A sync that failed is not to be repeated: the kernel may have thrown away what it could not
 * write, and say that all is well the next time. Only the bucket makes these blobs safe. */
static void doubt(struct bh_blobs *b, uint64_t upto)
{
    BH_LOCK_SCOPE(&b->mutex);
    for (struct blobs_job *j = b->last_job; j && j->number > b->settled; j = j->before)
        if (j->number <= upto && !j->doubtful) {
            j->doubtful = true;
            b->doubtful++;
        }
}

int bh_blobs_settle(struct bh_blobs *b, struct bh_error *err)
{
    BH_FREE uint8_t(*hashes)[BH_SHA256_LEN] = NULL;
    size_t count;
    uint64_t upto;
    BH_LOCK_SCOPE(&b->settling);
    if (collect(b, &upto, &hashes, &count) != 0)
        return bh_fail(err, ENOMEM, "out of memory while new content was synced");
    int rc = count ? sync_all(b, hashes, count) : 0;
    if (rc)
        doubt(b, upto);
    BH_LOCK_SCOPE(&b->mutex);
    b->settled = upto;
    if (rc)
        return bh_fail(err, rc, "new content in %s cannot be synced: %s", bh_disk_path(b->o.disk),
                       strerror(rc));
    if (b->doubtful)
        return bh_fail(err, EIO,
                       "an earlier sync of new content in %s failed: %u blobs are safe only when "
                       "they are uploaded",
                       bh_disk_path(b->o.disk), b->doubtful);
    return 0;
}
