/* An object is written anew, although the bucket may have it: it gets a new time, which tells gc
 * that somebody wants it (repo/gc_blobs.c). */
#include "store/blobs_private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bucket/transfer.h"
#include "util/cleanup.h"
#include "util/io.h"

struct renewal {
    struct bh_blobs *b;
    const struct bh_call *call;
    int fd;
    char key[BH_KEY_MAX + 1];
};

static int again(void *arg, struct bh_error *err)
{
    const struct renewal *r = arg;
    struct bh_call stop = {.stop = &r->b->stopped};
    int rc = bh_call_check(r->call, "the upload", err);
    return rc ? rc : bh_call_check(&stop, "the upload", err);
}

static int read_body(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    const struct renewal *r = arg;
    size_t got;
    int rc = bh_pread_full(r->fd, buf, len, offset, &got);
    if (rc || got < len)
        return bh_fail(err, rc ? rc : ENODATA, "what is here of %s cannot be read: %s", r->key,
                       rc ? strerror(rc) : "it became shorter");
    return 0;
}

/* What is here whole; -1. An open file stays while it is evicted. */
static int open_local(struct bh_blobs *b, const uint8_t *hash, uint64_t size)
{
    static const enum blobs_kind kinds[] = {KIND_PENDING, KIND_CACHED, KIND_UNSURE};
    BH_LOCK_SCOPE(&b->naming);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char name[BLOBS_NAME];
        struct stat st;
        bh_blobs_name(name, kinds[i], hash);
        int fd = openat(bh_disk_dirfd(b->o.disk), name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == size)
            return fd;
        if (fd >= 0)
            close(fd);
    }
    return -1;
}

int bh_blobs_renew(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t size,
                   const struct bh_call *call, struct bh_error *err)
{
    struct renewal r = {.b = b, .call = call};
    uint8_t is[BH_SHA256_LEN];
    bh_blobs_key(b, hash, r.key);
    BH_FD int fd = r.fd = open_local(b, hash, size);
    if (fd < 0)
        return bh_fail(err, ENOENT, "%s is not here", r.key);
    int rc = bh_blobs_hash(fd, size, again, &r, r.key, is, err);
    if (rc == 0 && memcmp(is, hash, sizeof is) != 0)
        rc = bh_fail(err, ENOENT, "what is here of %s is damaged", r.key);
    if (rc)
        return rc;
    struct bh_source src = {.size = size, .read = read_body, .arg = &r};
    struct bh_transfer how = {.part_size = b->o.part_size, .parallel = b->o.parallel};
    return bh_bucket_upload(b->o.bucket, r.key, &src, NULL, NULL, &how, NULL, call, err);
}
