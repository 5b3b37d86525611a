#include "util/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/cleanup.h"

int bh_pread_full(int fd, void *buf, size_t len, uint64_t offset, size_t *got)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    if (got)
        *got = done;
    if (done < len)
        memset((char *)buf + done, 0, len - done);
    return 0;
}

int bh_pwrite_full(int fd, const void *buf, size_t len, uint64_t offset)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pwrite(fd, (const char *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        done += (size_t)n;
    }
    return 0;
}

int bh_pread_at_once(int fd, void *buf, size_t len, uint64_t offset, bool memory)
{
    struct iovec v = {.iov_base = buf, .iov_len = len};
    ssize_t n = preadv2(fd, &v, 1, (off_t)offset, memory ? 0 : RWF_NOWAIT);
    return n == (ssize_t)len ? 0 : EAGAIN;
}

int bh_read_small_file(int dirfd, const char *name, size_t max, char **text, size_t *len,
                       struct bh_error *err)
{
    BH_FD int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return bh_fail(err, errno, "%s cannot be opened: %s", name, strerror(errno));
    BH_FREE char *buf = malloc(max + 2);
    if (!buf)
        return bh_fail(err, ENOMEM, "out of memory while reading %s", name);
    size_t got = 0;
    int rc = bh_pread_full(fd, buf, max + 1, 0, &got);
    if (rc)
        return bh_fail(err, rc, "%s cannot be read: %s", name, strerror(rc));
    if (got > max)
        return bh_fail(err, EFBIG, "%s is larger than %zu bytes, which cannot be right", name, max);
    buf[got] = '\0';
    if (len)
        *len = got;
    *text = bh_take_ptr(buf);
    return 0;
}

int bh_mkdir_p(const char *path, mode_t mode, struct bh_error *err)
{
    BH_FREE char *copy = strdup(path);
    if (!copy)
        return bh_fail(err, ENOMEM, "out of memory while making %s", path);
    for (char *p = copy + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char was = *p;
        *p = '\0';
        if (mkdir(copy, mode) != 0 && errno != EEXIST)
            return bh_fail(err, errno, "the directory %s cannot be made: %s", copy,
                           strerror(errno));
        *p = was;
        if (was == '\0')
            return 0;
    }
}

int bh_fsync_dir(int dirfd)
{
    return fsync(dirfd) == 0 ? 0 : errno;
}
