/* Writing in a directory bucket: a file in tmp/, made durable, given a time of its own, renamed
 * into place under the key's lock. A crash leaves the old object or the new one, and at worst a
 * file in tmp/. */
#include "bucket/dir_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#include "util/clock.h"
#include "util/io.h"

#define PLACE_TRIES   100 /* against others who remove empty directories */
#define WRITEBACK_LAG (8 * BH_CHUNK)

/* --- temporary files --- */

int bh_dir_temp_new(const struct bh_dir *d, struct bh_dir_temp *t, const char *key,
                    struct bh_error *err)
{
    unsigned char r[16];
    *t = (struct bh_dir_temp){.fd = -1, .dir = d};
    bh_random_bytes(r, sizeof r);
    for (size_t i = 0; i < sizeof r; i++)
        sprintf(t->name + 2 * i, "%02x", r[i]);
    BH_FD int dir = -1;
    int rc = bh_dir_walk(d, DIR_TMP, BH_DIR_MAKE, &dir);
    if (rc)
        return bh_dir_fail(d, err, rc, "written", key);
    t->fd = openat(dir, t->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, d->file_mode);
    if (t->fd < 0)
        return bh_dir_fail(d, err, errno, "written", key);
    t->named = true;
    flock(t->fd, LOCK_SH | LOCK_NB); /* tells those who clean up that somebody is still writing */
    return 0;
}

void bh_dir_temp_drop(struct bh_dir_temp *t)
{
    BH_FD int dir = -1;
    if (t->named && bh_dir_walk(t->dir, DIR_TMP, BH_DIR_FIND, &dir) == 0)
        unlinkat(dir, t->name, 0);
    t->named = false;
    if (t->fd >= 0)
        close(t->fd);
    t->fd = -1;
}

/* Starts writing back what was written some time ago, so that the fsync at the end has little left
 * to wait for. */
static void write_back(int fd, uint64_t at)
{
    if (at >= WRITEBACK_LAG && at % WRITEBACK_LAG == 0)
        sync_file_range(fd, (off_t)(at - WRITEBACK_LAG), WRITEBACK_LAG, SYNC_FILE_RANGE_WRITE);
}

int bh_dir_fill(struct bh_dir *d, const struct bh_dir_temp *t, const struct bh_source *src,
                const char *key, const struct bh_call *call, struct bh_error *err)
{
    BH_FREE char *buf = NULL;
    if (!src->data && src->size > 0 && !(buf = malloc(BH_CHUNK)))
        return bh_fail(err, ENOMEM, "out of memory while writing %s", key);
    for (uint64_t at = 0; at < src->size;) {
        size_t len = src->size - at < BH_CHUNK ? (size_t)(src->size - at) : BH_CHUNK;
        int rc = bh_call_check(call, "the put", err);
        if (!rc && buf)
            rc = src->read(src->arg, at, buf, len, err);
        if (rc)
            return rc;
        rc = bh_pwrite_full(t->fd, buf ? buf : (const char *)src->data + at, len, at);
        if (rc)
            return bh_dir_fail(d, err, rc, "written", key);
        at += len;
        atomic_fetch_add(&d->counters.bytes_up, len);
        write_back(t->fd, at);
    }
    return bh_call_check(call, "the put", err);
}

static int append_by_hand(const struct bh_dir *d, int to, uint64_t at, int from, uint64_t offset,
                          size_t len, char **buf, const char *key, struct bh_error *err)
{
    size_t got;
    if (!*buf && !(*buf = malloc(BH_CHUNK)))
        return bh_fail(err, ENOMEM, "out of memory while copying %s", key);
    int rc = bh_pread_full(from, *buf, len, offset, &got);
    if (!rc && got == len)
        rc = bh_pwrite_full(to, *buf, len, at);
    if (!rc && got < len)
        return bh_fail(err, EIO, "%s became shorter while it was copied", key);
    return rc ? bh_dir_fail(d, err, rc, "copied", key) : 0;
}

int bh_dir_append(const struct bh_dir *d, const struct bh_dir_temp *t, uint64_t at, int from,
                  uint64_t offset, uint64_t len, const char *key, const struct bh_call *call,
                  struct bh_error *err)
{
    BH_FREE char *buf = NULL;
    bool in_kernel = true; /* a reflink, where the file system has them */
    while (len > 0) {
        size_t want = len < BH_CHUNK ? (size_t)len : BH_CHUNK;
        int rc = bh_call_check(call, "the copy", err);
        if (rc)
            return rc;
        ssize_t n = -1;
        if (in_kernel) {
            off_t in = (off_t)offset, out = (off_t)at;
            n = copy_file_range(from, &in, t->fd, &out, want, 0);
            if (n < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO))
                return bh_dir_fail(d, err, errno, "copied", key);
            in_kernel = n > 0;
        }
        if (n <= 0) {
            rc = append_by_hand(d, t->fd, at, from, offset, want, &buf, key, err);
            if (rc)
                return rc;
            n = (ssize_t)want;
        }
        at += (uint64_t)n;
        offset += (uint64_t)n;
        len -= (uint64_t)n;
        write_back(t->fd, at);
    }
    return 0;
}

/* --- durable, with a time of its own --- */

int bh_dir_seal(const struct bh_dir *d, const struct bh_dir_temp *t, const struct stat *old,
                struct stat *st, const char *key, struct bh_error *err)
{
    struct timespec now;
    uint32_t r;
    clock_gettime(CLOCK_REALTIME, &now);
    bh_random_bytes(&r, sizeof r);
    now.tv_nsec += -(now.tv_nsec % 1000) + 1 + (long)(r % 999);
    for (int tries = 0; tries < 3; tries++, now.tv_sec += 2) { /* a file system may round to 2 s */
        const struct timespec times[2] = {now, now};
        if (futimens(t->fd, times) != 0 || fsync(t->fd) != 0 || fstat(t->fd, st) != 0)
            return bh_dir_fail(d, err, errno, "made durable", key);
        if (!old || !bh_dir_same_content(st, old))
            return 0;
    }
    return bh_fail(err, EIO, "%s cannot be given a time of its own in the bucket file://%s", key,
                   d->path);
}

/* --- into place --- */

/* Renames the file to path. EISDIR or ENOTDIR: something else stands in the way. EINPROGRESS: it is
 * in place, but may not be durable. */
static int move_to(const struct bh_dir *d, struct bh_dir_temp *t, const char *path)
{
    BH_FD int tmp = -1;
    int rc = bh_dir_walk(d, DIR_TMP, BH_DIR_FIND, &tmp);
    if (rc)
        return rc;
    for (int tries = 0; tries < PLACE_TRIES; tries++) {
        const char *name;
        BH_FD int parent = -1;
        rc = bh_dir_walk_parent(d, path, BH_DIR_DURABLE, &parent, &name);
        if (!rc && renameat(tmp, t->name, parent, name) == 0) {
            t->named = false;
            return fsync(parent) == 0 ? 0 : EINPROGRESS;
        }
        rc = rc ? rc : errno;
        if (rc == EISDIR || rc == EEXIST || rc == ENOTEMPTY) {
            rc = EISDIR; /* an empty directory is a leftover and may go */
            if (unlinkat(parent, name, AT_REMOVEDIR) == 0)
                continue;
        }
        if (rc != ENOENT) /* else somebody removed a directory that we just went through */
            return rc;
    }
    return EBUSY;
}

static int move_failed(const struct bh_dir *d, int rc, const char *key, struct bh_error *err)
{
    if (rc == EINPROGRESS)
        return bh_fail(err, EIO, "%s is in the bucket file://%s, but it may be lost in a power cut",
                       key, d->path);
    return rc ? bh_dir_fail(d, err, rc, "stored", key) : 0;
}

int bh_dir_write_file(const struct bh_dir *d, const char *path, const char *text, size_t len,
                      const char *key, struct bh_error *err)
{
    BH_DIR_TEMP t = {.fd = -1};
    int rc = bh_dir_temp_new(d, &t, key, err);
    if (rc)
        return rc;
    rc = bh_pwrite_full(t.fd, text, len, 0);
    if (!rc && fsync(t.fd) != 0)
        rc = errno;
    if (!rc)
        rc = move_to(d, &t, path);
    return move_failed(d, rc, key, err);
}

/* Where the object is already, else its path, else, if that is taken, the escaped path. */
static int place(const struct bh_dir *d, const char *key, struct bh_dir_temp *t,
                 const struct bh_dir_object *old, struct bh_error *err)
{
    char escaped[DIR_PATH_MAX];
    bool natural = old->fd >= 0 ? !old->escaped : bh_dir_is_natural(key, DIR_NAME_NEW);
    int rc = natural ? move_to(d, t, key) : EISDIR;
    bh_dir_escaped_path(key, escaped);
    if (rc == EISDIR || rc == ENOTDIR) {
        rc = move_to(d, t, escaped);
    } else if (!rc) {
        /* A person may have put a file at the path of a key that had to be escaped once. */
        const char *name;
        BH_FD int dir = -1;
        if (bh_dir_walk_parent(d, escaped, BH_DIR_FIND, &dir, &name) == 0)
            unlinkat(dir, name, 0);
    }
    return move_failed(d, rc, key, err);
}

int bh_dir_cond(const struct bh_cond *cond, const struct bh_dir_object *o, const char *key,
                struct bh_error *err)
{
    if (!cond)
        return 0;
    if (cond->if_none_match && o->fd >= 0)
        return bh_fail(err, EEXIST, "%s exists already", key);
    if (!cond->if_match)
        return 0;
    if (o->fd < 0)
        return bh_fail(err, ESTALE, "%s is gone; it was expected with the ETag %s", key,
                       cond->if_match);
    struct bh_object_info info;
    bh_dir_info(&o->st, &info);
    if (strcmp(info.etag, cond->if_match) != 0)
        return bh_fail(err, ESTALE, "%s has the ETag %s by now; %s was expected", key, info.etag,
                       cond->if_match);
    return 0;
}

/* The condition as things stand; who then gets the lock decides. */
static int find_and_check(const struct bh_dir *d, const char *key, const struct bh_cond *cond,
                          struct bh_dir_object *old, struct bh_error *err)
{
    int rc = bh_dir_find(d, key, O_PATH, old, NULL);
    if (rc && rc != ENOENT)
        return bh_dir_fail(d, err, rc, "opened", key);
    return bh_dir_cond(cond, old, key, err);
}

int bh_dir_commit(struct bh_dir *d, const char *key, struct bh_dir_temp *t,
                  const struct bh_meta *meta, const struct bh_cond *cond,
                  struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    char hash[BH_SHA256_HEX];
    struct stat st;
    BH_FD int lock = -1;
    BH_DIR_OBJECT old = {.fd = -1};
    if (bh_sha256_hex_of(key, strlen(key), hash) != 0)
        return bh_fail(err, ENOMEM, "out of memory while storing %s", key);
    bool has_meta = meta && meta->count > 0;
    int rc = bh_dir_seal(d, t, NULL, &st, key, err); /* the slow part, before the lock */
    if (!rc)
        rc = bh_dir_lock(d, 'k', hash, key, &lock, call, err);
    if (!rc)
        rc = find_and_check(d, key, cond, &old, err);
    if (!rc && old.fd >= 0 && bh_dir_same_content(&st, &old.st))
        rc = bh_dir_seal(d, t, &old.st, &st, key, err);
    if (!rc && has_meta)
        rc = bh_dir_record_put(d, key, hash, &st, meta, old.fd >= 0 ? &old.st : NULL, err);
    if (!rc)
        rc = bh_call_check(call, "the put", err);
    if (!rc)
        rc = place(d, key, t, &old, err);
    if (rc)
        return rc;
    if (!has_meta)
        bh_dir_record_remove(d, hash);
    if (fstat(t->fd, &st) != 0)
        return bh_fail(err, EIO, "%s is stored, but its ETag is unknown: %s", key, strerror(errno));
    bh_dir_info(&st, info);
    if (has_meta)
        info->meta = *meta;
    return 0;
}

/* --- put and copy --- */

int bh_dir_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
               const struct bh_meta *meta, const struct bh_cond *cond, struct bh_object_info *info,
               const struct bh_call *call, struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    BH_DIR_TEMP t = {.fd = -1};
    int rc = bh_call_check(call, "the put", err);
    if (!rc && cond) { /* a body need not be written for nothing */
        BH_DIR_OBJECT old = {.fd = -1};
        rc = find_and_check(d, key, cond, &old, err);
    }
    if (!rc)
        rc = bh_dir_temp_new(d, &t, key, err);
    if (!rc)
        rc = bh_dir_fill(d, &t, src, key, call, err);
    if (!rc)
        rc = bh_dir_commit(d, key, &t, meta, cond, info, call, err);
    return bh_counters_note(&d->counters, BH_OP_PUT, start, rc);
}

int bh_dir_open_source(const struct bh_dir *d, const char *from, const char *from_if_match,
                       struct bh_dir_object *o, struct bh_object_info *info, struct bh_error *err)
{
    int rc = bh_dir_find_info(d, from, O_RDONLY, o, info, err);
    if (!rc && from_if_match && strcmp(from_if_match, info->etag) != 0)
        rc = bh_fail(err, ESTALE,
                     "%s, which is to be copied, has the ETag %s by now; %s was expected", from,
                     info->etag, from_if_match);
    return rc;
}

int bh_dir_source_unchanged(const struct bh_dir_object *o, const char *from, struct bh_error *err)
{
    struct stat now;
    if (fstat(o->fd, &now) == 0 && bh_dir_same_content(&now, &o->st))
        return 0;
    return bh_fail(err, EIO, "%s was changed in place while it was read", from);
}

int bh_dir_copy(struct bh_bucket *b, const char *from, const char *to, const char *from_if_match,
                struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    struct bh_object_info source, ignored;
    BH_DIR_OBJECT o = {.fd = -1};
    BH_DIR_TEMP t = {.fd = -1};
    int rc = bh_call_check(call, "the copy", err);
    if (!rc)
        rc = bh_dir_open_source(d, from, from_if_match, &o, &source, err);
    if (!rc)
        rc = bh_dir_temp_new(d, &t, to, err);
    if (!rc)
        rc = bh_dir_append(d, &t, 0, o.fd, 0, source.size, from, call, err);
    if (!rc)
        rc = bh_dir_source_unchanged(&o, from, err);
    if (!rc)
        rc = bh_dir_commit(d, to, &t, &source.meta, NULL, info ? info : &ignored, call, err);
    return bh_counters_note(&d->counters, BH_OP_COPY, start, rc);
}
