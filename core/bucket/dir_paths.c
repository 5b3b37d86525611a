/* Where the objects of a directory bucket are: keys to paths, walking without symbolic links,
 * locks.
 *
 * A key is its own path if each component has 1 to 200 bytes, none is "." or "..", the first is not
 * .bhfs-meta, and no file stands where it needs a directory nor the other way round. Else its
 * percent-encoded form is cut in pieces of 200 bytes, each piece but the last with a '+' (which no
 * encoded form has) a directory. */
#include "bucket/dir_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#include "util/clock.h"

#define PIECE 200
/* Who sees a directory that another process just made cannot know whether it is durable yet. */
#define YOUNG_S 60

int bh_dir_fail(const struct bh_dir *d, struct bh_error *err, int code, const char *what,
                const char *key)
{
    const char *why = strerror(code);
    switch (code) {
    case EPERM:
        code = EACCES;
        break;
    case EDQUOT:
        code = ENOSPC;
        break;
    case ENOSPC:
        why = "the disk is full; free some space";
        break;
    case EXDEV:
        code = EIO;
        why = "it is on another file system than the bucket's directory; a bucket must be on one";
        break;
    case ENODEV:
        why = "its directory was removed; put it back, and mount again";
        break;
    case EROFS:
        why = "its file system is read-only; make it writable, or mount with -o ro";
        break;
    case ENOENT:
    case EACCES:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EFBIG:
        break;
    default:
        code = EIO;
    }
    return bh_fail(err, code, "%s cannot be %s in the bucket file://%s: %s", key, what, d->path,
                   why);
}

/* --- names --- */

bool bh_dir_is_natural(const char *key, size_t max_name)
{
    size_t first = strcspn(key, "/");
    if (first == strlen(DIR_META) && memcmp(key, DIR_META, first) == 0)
        return false;
    for (const char *p = key;;) {
        size_t len = strcspn(p, "/");
        if (len == 0 || len > max_name || (len == 1 && p[0] == '.') ||
            (len == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        if (p[len] == '\0')
            return true;
        p += len + 1;
    }
}

static bool is_plain(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

void bh_dir_encode(const char *s, char *out)
{
    for (; *s; s++) {
        if (is_plain((unsigned char)*s))
            *out++ = *s;
        else
            out += sprintf(out, "%%%02X", (unsigned char)*s);
    }
    *out = '\0';
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool bh_dir_decode(const char *s, size_t len, char *out, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++, n++) {
        if (n + 1 >= size)
            return false;
        out[n] = s[i];
        if (is_plain((unsigned char)s[i]))
            continue;
        if (s[i] != '%' || i + 2 >= len)
            return false;
        int hi = hex_digit(s[i + 1]), lo = hex_digit(s[i + 2]);
        int c = hi * 16 + lo;
        if (hi < 0 || lo < 0 || c == 0 || is_plain((unsigned char)c))
            return false;
        out[n] = (char)c;
        i += 2;
    }
    out[n] = '\0';
    return true;
}

void bh_dir_escaped_path(const char *key, char path[DIR_PATH_MAX])
{
    char encoded[3 * BH_KEY_MAX + 1];
    bh_dir_encode(key, encoded);
    char *out = stpcpy(path, DIR_ESCAPED "/");
    const char *p = encoded;
    for (; strlen(p) > PIECE; p += PIECE) {
        out = mempcpy(out, p, PIECE);
        out = stpcpy(out, "+/");
    }
    strcpy(out, p);
}

/* --- directories --- */

static bool is_young(int fd)
{
    struct statx sx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &sx) != 0 || !(sx.stx_mask & STATX_BTIME))
        return true;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec - sx.stx_btime.tv_sec < YOUNG_S;
}

/* One component: opens name in the directory at, makes it if how says so. */
static int step(const struct bh_dir *d, int at, const char *name, enum bh_dir_walk how, int *fd)
{
    int flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | (how == BH_DIR_FIND ? O_PATH : O_RDONLY);
    bool made = false;
    for (int tries = 0; tries < 100; tries++) {
        *fd = openat(at, name, flags);
        if (*fd >= 0)
            break;
        if (errno == ELOOP)
            return ENOTDIR;
        if (errno != ENOENT || how == BH_DIR_FIND)
            return errno;
        made = mkdirat(at, name, d->dir_mode) == 0;
        if (!made && errno != EEXIST)
            return errno;
    }
    if (*fd < 0)
        return ENOENT;
    if (how == BH_DIR_DURABLE && (made || is_young(*fd)) && fsync(at) != 0) {
        int code = errno;
        close(*fd);
        return code;
    }
    return 0;
}

static int walk(const struct bh_dir *d, const char *path, size_t len, enum bh_dir_walk how, int *fd)
{
    char name[DIR_NAME_FOUND + 1];
    struct stat root;
    if (fstat(d->root, &root) == 0 && root.st_nlink == 0)
        return ENODEV;
    BH_FD int at =
        openat(d->root, ".", O_DIRECTORY | O_CLOEXEC | (how == BH_DIR_FIND ? O_PATH : O_RDONLY));
    if (at < 0)
        return errno;
    for (const char *p = path, *end = path + len; p < end;) {
        size_t n = strcspn(p, "/");
        if (n > (size_t)(end - p))
            n = (size_t)(end - p);
        if (n > DIR_NAME_FOUND)
            return ENAMETOOLONG;
        memcpy(name, p, n);
        name[n] = '\0';
        int next;
        int rc = step(d, at, name, how, &next);
        if (rc)
            return rc;
        close(at);
        at = next;
        p += n + 1;
    }
    *fd = bh_take_fd(&at);
    return 0;
}

int bh_dir_walk(const struct bh_dir *d, const char *path, enum bh_dir_walk how, int *fd)
{
    return walk(d, path, strlen(path), how, fd);
}

int bh_dir_walk_parent(const struct bh_dir *d, const char *path, enum bh_dir_walk how, int *fd,
                       const char **name)
{
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    return walk(d, path, slash ? (size_t)(slash - path) : 0, how, fd);
}

void bh_dir_prune(const struct bh_dir *d, const char *path, size_t keep)
{
    char dir[DIR_PATH_MAX];
    strcpy(dir, path);
    for (char *slash; (slash = strrchr(dir, '/')) && (size_t)(slash - dir) > keep;) {
        *slash = '\0';
        const char *name;
        BH_FD int fd = -1;
        if (bh_dir_walk_parent(d, dir, BH_DIR_FIND, &fd, &name) != 0 ||
            unlinkat(fd, name, AT_REMOVEDIR) != 0)
            return;
    }
}

/* --- locks --- */

int bh_dir_lock(const struct bh_dir *d, char kind, const char *hash, const char *what, int *fd,
                const struct bh_call *call, struct bh_error *err)
{
    const char name[] = {kind, '-', hash[0], hash[1], '\0'};
    BH_FD int dir = -1;
    int rc = bh_dir_walk(d, DIR_LOCKS, BH_DIR_MAKE, &dir);
    if (rc)
        return bh_dir_fail(d, err, rc, "locked", what);
    /* A fresh open file description each time: flock excludes threads of one process only between
     * those. */
    BH_FD int lock = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, d->file_mode);
    if (lock < 0)
        return bh_dir_fail(d, err, errno, "locked", what);
    for (int64_t wait_us = 100; flock(lock, LOCK_EX | LOCK_NB) != 0;) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return bh_dir_fail(d, err, errno, "locked", what);
        rc = bh_call_check(call, "the wait for another writer", err);
        if (rc)
            return rc;
        nanosleep(&(struct timespec){.tv_nsec = wait_us * 1000}, NULL);
        wait_us = wait_us < 8000 ? wait_us * 2 : 10000;
    }
    *fd = bh_take_fd(&lock);
    return 0;
}
