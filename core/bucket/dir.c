/* The file:// backend: opening, reading, deleting, and its table. See dir_internal.h for what is
 * where. */
#include "bucket/dir_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#include "util/clock.h"
#include "util/io.h"

/* --- reading --- */

static int send_range(struct bh_dir *d, const struct bh_dir_object *o, const char *key,
                      uint64_t offset, uint64_t length, bh_sink_fn *sink, void *arg,
                      const struct bh_call *call, struct bh_error *err)
{
    size_t size = length < BH_CHUNK ? (size_t)length : BH_CHUNK;
    BH_FREE char *buf = malloc(size ? size : 1);
    if (!buf)
        return bh_fail(err, ENOMEM, "out of memory while reading %s", key);
    while (length > 0) {
        size_t len = length < size ? (size_t)length : size, got;
        int rc = bh_call_check(call, "the get", err);
        if (rc)
            return rc;
        rc = bh_pread_full(o->fd, buf, len, offset, &got);
        if (rc)
            return bh_dir_fail(d, err, rc, "read", key);
        if (got < len)
            return bh_fail(err, EIO, "%s became shorter while it was read", key);
        rc = sink(arg, buf, len, err);
        if (rc)
            return rc;
        offset += len;
        length -= len;
        atomic_fetch_add(&d->counters.bytes_down, len);
    }
    return bh_dir_source_unchanged(o, key, err);
}

static int do_get(struct bh_dir *d, const char *key, uint64_t offset, uint64_t length,
                  bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                  const struct bh_call *call, struct bh_error *err)
{
    BH_DIR_OBJECT o = {.fd = -1};
    int rc = bh_call_check(call, "the get", err);
    if (!rc)
        rc = bh_dir_find_info(d, key, O_RDONLY, &o, info, err);
    if (rc)
        return rc;
    if (offset >= info->size && !(offset == 0 && info->size == 0))
        return bh_fail(err, EINVAL, "%s has %llu bytes; a read at %llu is beyond its end", key,
                       (unsigned long long)info->size, (unsigned long long)offset);
    if (length > info->size - offset)
        length = info->size - offset;
    return send_range(d, &o, key, offset, length, sink, arg, call, err);
}

static int dir_get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
                   bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                   const struct bh_call *call, struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    int rc = do_get(d, key, offset, length, sink, arg, info, call, err);
    return bh_counters_note(&d->counters, BH_OP_GET, start, rc);
}

static int dir_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                    const struct bh_call *call, struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    BH_DIR_OBJECT o = {.fd = -1};
    int rc = bh_call_check(call, "the head", err);
    if (!rc)
        rc = bh_dir_find_info(d, key, O_PATH, &o, info, err);
    return bh_counters_note(&d->counters, BH_OP_HEAD, start, rc);
}

/* --- deleting --- */

/* Removes the regular file at path, durably, and the directories that become empty. */
static int remove_path(const struct bh_dir *d, const char *path, size_t keep)
{
    const char *name;
    struct stat st;
    BH_FD int parent = -1;
    int rc = bh_dir_walk_parent(d, path, BH_DIR_FIND, &parent, &name);
    if (rc)
        return rc == ENOENT || rc == ENOTDIR ? 0 : rc;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : errno;
    if (!S_ISREG(st.st_mode))
        return 0;
    BH_FD int sync = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (sync < 0)
        return errno == ENOENT ? 0 : errno;
    if (unlinkat(parent, name, 0) != 0)
        return errno == ENOENT ? 0 : errno;
    if (fsync(sync) != 0)
        return EIO;
    bh_dir_prune(d, path, keep);
    return 0;
}

static int delete_one(struct bh_dir *d, const char *key, const struct bh_call *call,
                      struct bh_error *err)
{
    char hash[BH_SHA256_HEX], escaped[DIR_PATH_MAX];
    BH_DIR_OBJECT o = {.fd = -1};
    BH_FD int lock = -1;
    int rc = bh_call_check(call, "the deletion", err);
    if (rc)
        return rc;
    rc = bh_dir_find(d, key, O_PATH, &o, NULL);
    if (rc)
        return rc == ENOENT ? 0 : bh_dir_fail(d, err, rc, "deleted", key);
    if (bh_sha256_hex_of(key, strlen(key), hash) != 0)
        return bh_fail(err, ENOMEM, "out of memory while deleting %s", key);
    rc = bh_dir_lock(d, 'k', hash, key, &lock, call, err);
    if (rc)
        return rc;
    /* The escaped one first: it must not come to light when the one at the path has gone. */
    bh_dir_escaped_path(key, escaped);
    rc = remove_path(d, escaped, strlen(DIR_ESCAPED));
    if (!rc && bh_dir_is_natural(key, DIR_NAME_FOUND))
        rc = remove_path(d, key, 0);
    if (rc)
        return bh_dir_fail(d, err, rc, "deleted", key);
    bh_dir_record_remove(d, hash);
    return 0;
}

static int dir_delete(struct bh_bucket *b, const char *key, const struct bh_call *call,
                      struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    return bh_counters_note(&d->counters, BH_OP_DELETE, start, delete_one(d, key, call, err));
}

static int dir_delete_many(struct bh_bucket *b, const char *const *keys, size_t count,
                           size_t *deleted, const struct bh_call *call, struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    int first = 0;
    struct bh_error error = {0};
    for (size_t i = 0; i < count; i++) {
        int rc = delete_one(d, keys[i], call, &error);
        if (!rc)
            ++*deleted;
        else if (!first)
            first = bh_fail(err, rc, "%s", error.text);
        if (rc == ECANCELED || rc == ETIMEDOUT)
            break;
    }
    return bh_counters_note(&d->counters, BH_OP_DELETE, start, first);
}

/* --- the rest of the table --- */

static unsigned dir_caps(struct bh_bucket *b)
{
    return BH_CAP_IF_NONE_MATCH | BH_CAP_IF_MATCH | BH_CAP_COPY_IF_MATCH | BH_CAP_MP_COND |
           BH_CAP_PART_COPY | BH_CAP_PART_COPY_IF_MATCH;
}

static int dir_presign(struct bh_bucket *b, const char *key, int64_t seconds, struct bh_strbuf *url,
                       struct bh_error *err)
{
    return bh_fail(err, ENOTSUP, "a directory cannot hand out links: %s is in the bucket file://%s",
                   key, bh_dir_of(b)->path);
}

static int dir_server_time(struct bh_bucket *b, int64_t *real_ms, const struct bh_call *call,
                           struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    *real_ms = bh_real_ms();
    return bh_counters_note(&d->counters, BH_OP_OTHER, start, 0);
}

static int dir_learn(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    return 0; /* a directory can what dir_caps says */
}

static int dir_make(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    return 0; /* it was there when it was opened */
}

static void dir_describe(struct bh_bucket *b, struct bh_strbuf *out)
{
    bh_strbuf_addf(out, "directory: %s\n", bh_dir_of(b)->path);
}

static void dir_stats(struct bh_bucket *b, struct bh_bucket_stats *out)
{
    bh_counters_read(&bh_dir_of(b)->counters, out);
}

static void dir_close(struct bh_bucket *b)
{
    struct bh_dir *d = bh_dir_of(b);
    if (d->root >= 0)
        close(d->root);
    free(d->path);
    free(d);
}

static const struct bh_bucket_ops dir_ops = {
    .name = "file",
    .close = dir_close,
    .caps = dir_caps,
    .get = dir_get,
    .put = bh_dir_put,
    .head = dir_head,
    .copy = bh_dir_copy,
    .del = dir_delete,
    .del_many = dir_delete_many,
    .list = bh_dir_list,
    .mp_begin = bh_dir_mp_begin,
    .mp_part = bh_dir_mp_part,
    .mp_part_copy = bh_dir_mp_part_copy,
    .mp_complete = bh_dir_mp_complete,
    .mp_abort = bh_dir_mp_abort,
    .mp_list = bh_dir_mp_list,
    .presign = dir_presign,
    .server_time = dir_server_time,
    .learn = dir_learn,
    .make = dir_make,
    .describe = dir_describe,
    .stats = dir_stats,
};

/* --- opening --- */

void bh_dir_remove_tmp_dir(const struct bh_dir *d, const char *name)
{
    BH_FD int tmp = -1;
    if (bh_dir_walk(d, DIR_TMP, BH_DIR_FIND, &tmp) != 0)
        return;
    int fd = openat(tmp, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (const struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.')
            unlinkat(fd, e->d_name, 0);
    closedir(dir);
    unlinkat(tmp, name, AT_REMOVEDIR);
}

/* Is this leftover of a crash older than a day? Another process's live file is young, or locked. */
static bool is_leftover(int tmp, const char *name, bool *is_dir)
{
    struct stat st;
    if (name[0] == '.' || fstatat(tmp, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    *is_dir = S_ISDIR(st.st_mode);
    if (bh_real_ms() - (int64_t)st.st_mtim.tv_sec * 1000 < DIR_TMP_MAX_AGE_MS)
        return false;
    if (*is_dir)
        return true;
    BH_FD int fd = openat(tmp, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
}

static void clean_tmp(const struct bh_dir *d)
{
    int fd;
    if (bh_dir_walk(d, DIR_TMP, BH_DIR_FIND, &fd) != 0)
        return;
    int list_fd = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = list_fd >= 0 ? fdopendir(list_fd) : NULL;
    if (!dir && list_fd >= 0)
        close(list_fd);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        bool is_dir;
        if (!is_leftover(fd, e->d_name, &is_dir))
            continue;
        if (is_dir)
            bh_dir_remove_tmp_dir(d, e->d_name);
        else
            unlinkat(fd, e->d_name, 0);
    }
    if (dir)
        closedir(dir);
    close(fd);
}

int bh_bucket_dir_open(struct bh_bucket **out, const char *path, struct bh_error *err)
{
    struct stat st;
    if (!path || path[0] != '/')
        return bh_fail(err, EINVAL, "the bucket's directory %s is not an absolute path",
                       path ? path : "(none)");
    BH_FD int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 && errno == ENOENT)
        return bh_fail(err, ENOENT,
                       "the bucket's directory %s does not exist: make it, or mount its disk",
                       path);
    if (root < 0 && errno == ENOTDIR)
        return bh_fail(err, EINVAL, "the bucket %s is not a directory", path);
    if (root < 0 || fstat(root, &st) != 0)
        return bh_fail(err, errno, "the bucket's directory %s cannot be opened: %s", path,
                       strerror(errno));
    struct bh_dir *d = calloc(1, sizeof *d);
    if (!d || !(d->path = strdup(path))) {
        free(d);
        return bh_fail(err, ENOMEM, "out of memory while opening the bucket %s", path);
    }
    d->base.ops = &dir_ops;
    d->root = bh_take_fd(&root);
    d->dir_mode = (st.st_mode & 0777) | 0700;
    d->file_mode = d->dir_mode & 0666;
    clean_tmp(d);
    *out = &d->base;
    return 0;
}
