/* One upload: what is in the bucket already is not sent again, and nothing is sent that is not what
 * its name says. */
#include "store/blobs_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bucket/transfer.h"
#include "util/cleanup.h"
#include "util/io.h"
#include "util/log.h"

#define ASSEMBLE_TRIES 2

struct sending {
    struct bh_blobs *b;
    struct blobs_job *job; /* this thread's, but for what the mutex guards */
    const uint8_t *hash;
    struct bh_call call;
    char name[BLOBS_NAME], key[BH_KEY_MAX + 1];
    int fd;
    char *body;      /* small ones; NULL: read from fd */
    uint64_t copied; /* bytes that were not sent */
};

static int again(void *arg, struct bh_error *err)
{
    const struct sending *s = arg;
    return bh_call_check(&s->call, "the upload", err);
}

static int read_body(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    const struct sending *s = arg;
    size_t got;
    int rc = bh_pread_full(s->fd, buf, len, offset, &got);
    if (rc)
        return bh_fail(err, rc, "%s in %s cannot be read: %s", s->name, bh_disk_path(s->b->o.disk),
                       strerror(rc));
    if (got < len)
        return bh_fail(err, ENODATA, "%s in %s became shorter", s->name,
                       bh_disk_path(s->b->o.disk));
    return 0;
}

/* 0: the object is there, with the right size. ENOENT: it is not, or it is damaged. */
static int look(const struct sending *s, struct bh_error *err)
{
    struct bh_object_info info;
    int rc = bh_bucket_head(s->b->o.bucket, s->key, &info, &s->call, err);
    if (rc || info.size == s->job->size)
        return rc;
    bh_log(BH_LOG_WARNING,
           "%s in the bucket is damaged: it has %llu bytes instead of %llu. It is replaced", s->key,
           (unsigned long long)info.size, (unsigned long long)s->job->size);
    return bh_fail(err, ENOENT, "%s is damaged", s->key);
}

/* Opens the file, and hashes it unless that was done. EBADMSG: it is not what its name says. */
static int open_body(struct sending *s, struct bh_error *err)
{
    uint64_t size = s->job->size;
    struct stat st;
    uint8_t hash[BH_SHA256_LEN];
    const char *dir = bh_disk_path(s->b->o.disk);
    s->fd = openat(bh_disk_dirfd(s->b->o.disk), s->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (s->fd < 0 || fstat(s->fd, &st) != 0)
        return bh_fail(err, errno == ENOENT ? EBADMSG : errno,
                       "%s in %s, which was to be uploaded, cannot be opened: %s", s->name, dir,
                       strerror(errno));
    int rc = 0;
    if (size <= BLOBS_STEP) {
        s->body = malloc((size_t)size + 1);
        if (!s->body)
            return bh_fail(err, ENOMEM, "out of memory while uploading %s", s->key);
        rc = read_body(s, 0, s->body, (size_t)size, err);
        if (!rc)
            rc = bh_sha256_of(s->body, (size_t)size, hash);
    } else if (!s->job->checked) {
        rc = bh_blobs_hash(s->fd, size, again, s, s->name, hash, err);
    } else {
        memcpy(hash, s->hash, sizeof hash);
    }
    if (rc == ECANCELED || rc == ENOMEM)
        return rc;
    if (rc || (uint64_t)st.st_size != size || memcmp(hash, s->hash, sizeof hash) != 0)
        return bh_fail(err, EBADMSG,
                       "%s in %s is damaged and not uploaded: its content is not what its name "
                       "says. Restore that file, or write the content anew",
                       s->name, dir);
    return 0;
}

/* --- of an edited file: what did not change is copied in the bucket --- */

static bool is_worth_it(const struct sending *s, uint64_t part)
{
    for (uint64_t at = 0; at < s->job->size; at += part) {
        uint64_t len = s->job->size - at < part ? s->job->size - at : part;
        if (len == part && bh_blobs_edit_has(s->job->edit, at, len))
            return true;
    }
    return false;
}

/* ENOTSUP: it is to be sent as a whole. The older blob needs no condition: its name is its hash. */
static int assemble(struct sending *s, const struct bh_source *source, struct bh_error *err)
{
    struct bh_bucket *bucket = s->b->o.bucket;
    const struct blobs_edit *e = s->job->edit;
    char from[BH_KEY_MAX + 1];
    struct bh_object_info info;
    struct bh_transfer how = {.part_size = bh_reuse_part_size(s->job->size, s->b->o.part_size),
                              .parallel = s->b->o.parallel};
    if (!e || s->job->assembled >= ASSEMBLE_TRIES || !is_worth_it(s, how.part_size))
        return ENOTSUP;
    s->job->assembled++;
    (void)bh_bucket_learn(bucket, &s->call, NULL); /* without, there are no copies, or they fail */
    unsigned caps = bh_bucket_caps(bucket);
    if (!(caps & BH_CAP_PART_COPY))
        return ENOTSUP;
    bh_blobs_key(s->b, e->base, from);
    int rc = bh_bucket_head(bucket, from, &info, &s->call, err);
    if (rc == ENOENT || (!rc && info.size != e->base_size))
        return ENOTSUP;
    if (rc)
        return rc;
    struct bh_reuse reuse = {.key = from,
                             .etag = caps & BH_CAP_PART_COPY_IF_MATCH ? info.etag : NULL,
                             .has = bh_blobs_edit_has,
                             .arg = e};
    how.reuse = &reuse;
    rc = bh_bucket_upload(bucket, s->key, source, NULL, NULL, &how, NULL, &s->call, err);
    if (bh_reuse_was_refused(&reuse, rc, &s->call)) {
        bh_log(BH_LOG_INFO, "%s is sent as a whole, as parts of %s cannot be copied: %s", s->key,
               from, err->text);
        return ENOTSUP;
    }
    if (!rc && (rc = look(s, err)) == ENOENT)
        return ENOTSUP; /* a store that copies something else than was asked for */
    if (!rc)
        s->copied = reuse.copied;
    return rc;
}

static int put(struct sending *s, bool if_none_match, struct bh_error *err)
{
    struct bh_source source = {.size = s->job->size, .data = s->body, .read = read_body, .arg = s};
    struct bh_cond cond = {.if_none_match = true};
    struct bh_transfer how = {.part_size = s->b->o.part_size, .parallel = s->b->o.parallel};
    int rc = if_none_match ? ENOTSUP : assemble(s, &source, err);
    return rc != ENOTSUP
               ? rc
               : bh_bucket_upload(s->b->o.bucket, s->key, &source, NULL,
                                  if_none_match ? &cond : NULL, &how, NULL, &s->call, err);
}

static bool is_permanent(int rc)
{
    switch (rc) {
    case EAGAIN:
    case EIO:
    case ETIMEDOUT:
    case ENOENT: /* a look and a put that contradict each other */
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ECANCELED:
        return false;
    default:
        return true;
    }
}

/* Sends it unless it is there. A condition spares the look; a large one is looked for first, as the
 * condition might keep it from going up in parts. *unsure: it is there, and what is here is
 * damaged.
 */
static int send_unless_there(struct sending *s, bool *unsure, struct bh_error *err)
{
    struct bh_error why = {0};
    bool ask = !s->job->expected && !s->job->edit && s->job->size <= s->b->o.part_size &&
               (bh_bucket_caps(s->b->o.bucket) & BH_CAP_IF_NONE_MATCH);
    int rc = ask ? open_body(s, err) : 0;
    if (ask && !rc)
        rc = put(s, true, err);
    if (ask && rc != EEXIST && rc != ENOTSUP && rc != EBADMSG)
        return rc;
    int looked = look(s, &why);
    if (looked && looked != ENOENT)
        return bh_fail(err, looked, "%s", why.text);
    *unsure = !looked && rc == EBADMSG;
    if (!looked || rc == EBADMSG)
        return looked ? rc : 0;
    rc = s->fd < 0 ? open_body(s, err) : 0;
    return rc ? rc : put(s, false, err);
}

int bh_blobs_send(struct bh_blobs *b, struct blobs_job *job, bool *permanent, bool *unsure,
                  struct bh_error *err)
{
    struct sending s = {
        .b = b, .job = job, .hash = job->entry->hash, .call = {.stop = &b->stopped}, .fd = -1};
    bh_blobs_name(s.name, KIND_PENDING, s.hash);
    bh_blobs_key(b, s.hash, s.key);
    int rc = send_unless_there(&s, unsure, err);
    if (s.fd >= 0)
        close(s.fd);
    free(s.body);
    job->copied = s.copied;
    *permanent = is_permanent(rc);
    if (rc == EBADMSG)
        rc = err->code = EIO;
    return rc;
}
