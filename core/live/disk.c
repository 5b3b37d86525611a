#include "live/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "live/mirror.h"
#include "util/cleanup.h"
#include "util/io.h"

#define COPY_STEP ((size_t)1 << 20)
#define COPY_MOST ((size_t)1 << 30) /* of one copy_file_range */

struct bh_disk {
    char *path;
    int dirfd;
    bool memory;
    struct bh_mirror *mirror;
};

int bh_disk_open(struct bh_disk **out, const char *dir, const char *mirror_dir, uint64_t seed,
                 struct bh_error *err)
{
    BH_FD int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        return bh_fail(err, errno, "the state directory %s cannot be opened: %s", dir,
                       strerror(errno));
    struct statfs fs;
    if (fstatfs(dirfd, &fs) != 0)
        return bh_fail(err, errno, "the state directory %s cannot be examined: %s", dir,
                       strerror(errno));
    struct bh_disk *d = calloc(1, sizeof *d);
    char *path = strdup(dir);
    if (!d || !path) {
        free(d);
        free(path);
        return bh_fail(err, ENOMEM, "out of memory while opening %s", dir);
    }
    d->path = path;
    d->memory = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
    d->dirfd = bh_take_fd(&dirfd);
    if (mirror_dir && *mirror_dir) {
        int rc = bh_mirror_open(&d->mirror, d->dirfd, mirror_dir, seed, err);
        if (rc) {
            bh_disk_close(d);
            return rc;
        }
        d->memory = false;
    }
    *out = d;
    return 0;
}

void bh_disk_close(struct bh_disk *d)
{
    if (!d)
        return;
    bh_mirror_close(d->mirror);
    close(d->dirfd);
    free(d->path);
    free(d);
}

const char *bh_disk_path(const struct bh_disk *d)
{
    return d->path;
}

int bh_disk_dirfd(const struct bh_disk *d)
{
    return d->dirfd;
}

bool bh_disk_is_memory(const struct bh_disk *d)
{
    return d->memory;
}

bool bh_disk_is_mirrored(const struct bh_disk *d)
{
    return d->mirror != NULL;
}

int bh_disk_open_file(struct bh_disk *d, const char *name, int flags, unsigned mode,
                      struct bh_dfile *out)
{
    int fd = openat(d->dirfd, name, flags | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return errno;
    *out = (struct bh_dfile){.fd = fd, .disk = d};
    if (d->mirror) {
        int rc = bh_mirror_file_open(d->mirror, fd, name, &out->mirror);
        if (rc) {
            close(fd);
            out->fd = -1;
            if (flags & O_EXCL) /* it was made just now, and nobody knows of it */
                unlinkat(d->dirfd, name, 0);
            return rc;
        }
        if (flags & O_TRUNC)
            return bh_mirror_truncated(out->mirror, 0);
    }
    return 0;
}

void bh_dfile_close(struct bh_dfile *f)
{
    if (f->fd < 0)
        return;
    if (f->mirror)
        bh_mirror_file_close(f->mirror);
    close(f->fd);
    f->fd = -1;
    f->mirror = NULL;
}

int bh_dfile_write(struct bh_dfile *f, const void *buf, size_t len, uint64_t offset)
{
    int rc = bh_pwrite_full(f->fd, buf, len, offset);
    if (rc == 0 && f->mirror)
        rc = bh_mirror_wrote(f->mirror, f->fd, offset, len);
    return rc;
}

int bh_dfile_truncate(struct bh_dfile *f, uint64_t size)
{
    if (ftruncate(f->fd, (off_t)size) != 0)
        return errno;
    return f->mirror ? bh_mirror_truncated(f->mirror, size) : 0;
}

int bh_dfile_punch(struct bh_dfile *f, uint64_t offset, uint64_t len)
{
    if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) !=
        0)
        return errno;
    return f->mirror ? bh_mirror_wrote(f->mirror, f->fd, offset, len) : 0;
}

static int copy_by_hand(int to, uint64_t offset, int from, uint64_t from_offset, uint64_t len)
{
    size_t step = len < COPY_STEP ? (size_t)len : COPY_STEP, got;
    BH_FREE char *buf = malloc(step);
    int rc = buf ? 0 : ENOMEM;
    for (uint64_t done = 0; !rc && done < len; done += step) {
        if (step > len - done)
            step = (size_t)(len - done);
        rc = bh_pread_full(from, buf, step, from_offset + done, &got);
        if (!rc && got < step)
            rc = ENODATA;
        if (!rc)
            rc = bh_pwrite_full(to, buf, step, offset + done);
    }
    return rc;
}

int bh_dfile_copy(struct bh_dfile *f, uint64_t offset, int from, uint64_t from_offset, uint64_t len)
{
    uint64_t done = 0;
    ssize_t n = 1;
    int rc = 0;
    while (done < len && n > 0) {
        off_t in = (off_t)(from_offset + done), out = (off_t)(offset + done);
        size_t want = len - done < COPY_MOST ? (size_t)(len - done) : COPY_MOST;
        n = copy_file_range(from, &in, f->fd, &out, want, 0);
        if (n < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO))
            rc = errno;
        done += n > 0 ? (uint64_t)n : 0;
    }
    if (!rc && done < len)
        rc = copy_by_hand(f->fd, offset + done, from, from_offset + done, len - done);
    int mirrored = f->mirror ? bh_mirror_wrote(f->mirror, f->fd, offset, len) : 0;
    return rc ? rc : mirrored;
}

int bh_dfile_clone(struct bh_dfile *f, int from)
{
    struct stat st;
    if (ioctl(f->fd, FICLONE, from) != 0)
        return errno == ENOSPC || errno == EDQUOT || errno == EIO ? errno : EOPNOTSUPP;
    if (!f->mirror)
        return 0;
    return fstat(f->fd, &st) != 0 ? errno
                                  : bh_mirror_wrote(f->mirror, f->fd, 0, (uint64_t)st.st_size);
}

int bh_dfile_sync(struct bh_dfile *f)
{
    if (fdatasync(f->fd) != 0)
        return errno;
    return f->mirror ? bh_mirror_synced(f->mirror, f->fd) : 0;
}

/* For the mirror: which file is about to lose its last name; 0 if there is none, or no mirror. */
static ino_t inode_of(struct bh_disk *d, const char *name)
{
    struct stat st;
    if (!d->mirror || fstatat(d->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return 0;
    return st.st_nlink > 1 ? 0 : st.st_ino;
}

int bh_disk_link(struct bh_disk *d, const char *from, const char *to)
{
    struct stat st;
    if (linkat(d->dirfd, from, d->dirfd, to, 0) != 0)
        return errno == EPERM || errno == EMLINK ? EOPNOTSUPP : errno;
    if (!d->mirror)
        return 0;
    if (fstatat(d->dirfd, to, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno;
    return bh_mirror_linked(d->mirror, st.st_ino, to);
}

int bh_disk_unlink(struct bh_disk *d, const char *name)
{
    ino_t gone = inode_of(d, name);
    if (unlinkat(d->dirfd, name, 0) != 0)
        return errno;
    return d->mirror ? bh_mirror_unlinked(d->mirror, name, gone) : 0;
}

int bh_disk_rename(struct bh_disk *d, const char *from, const char *to)
{
    ino_t gone = inode_of(d, to);
    if (renameat(d->dirfd, from, d->dirfd, to) != 0)
        return errno;
    return d->mirror ? bh_mirror_renamed(d->mirror, from, to, gone) : 0;
}

int bh_disk_each(struct bh_disk *d, int (*fn)(void *arg, const char *name), void *arg)
{
    int fd = openat(bh_disk_dirfd(d), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    int rc = dir ? 0 : errno;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return rc;
    }
    errno = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir)); errno = 0)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rc = fn(arg, e->d_name);
    if (rc == 0)
        rc = errno;
    closedir(dir);
    return rc;
}

int bh_disk_sync_names(struct bh_disk *d)
{
    int rc = bh_fsync_dir(d->dirfd);
    if (rc == 0 && d->mirror)
        rc = bh_mirror_names_synced(d->mirror);
    return rc;
}

int bh_disk_replace(struct bh_disk *d, const char *name, const void *data, size_t len)
{
    char temp[300];
    struct bh_dfile f;
    snprintf(temp, sizeof temp, "%s.new", name);
    int rc = bh_disk_open_file(d, temp, O_RDWR | O_CREAT | O_TRUNC, 0600, &f);
    if (rc)
        return rc;
    rc = bh_dfile_write(&f, data, len, 0);
    if (rc == 0)
        rc = bh_dfile_sync(&f);
    bh_dfile_close(&f);
    if (rc == 0)
        rc = bh_disk_rename(d, temp, name);
    if (rc == 0)
        rc = bh_disk_sync_names(d);
    return rc;
}
