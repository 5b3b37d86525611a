/* Data files, and copies from file to file. */
#include "store/blobs_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/log.h"

#define COPY_STEP ((uint64_t)16 << 20) /* cancel is looked at after so many bytes */

static void name_of(uint64_t number, char name[BLOBS_NAME])
{
    snprintf(name, BLOBS_NAME, "d-%016" PRIx64, number);
}

int bh_data_create(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out, struct bh_error *err)
{
    for (;;) {
        char name[BLOBS_NAME];
        uint64_t n = 0;
        while (n == 0)
            bh_random_bytes(&n, sizeof n);
        name_of(n, name);
        int rc = bh_disk_open_file(b->o.disk, name, O_RDWR | O_CREAT | O_EXCL, 0600, out);
        if (rc == EEXIST)
            continue;
        if (bh_blobs_is_full(rc) && bh_blobs_make_room(b, BLOBS_STEP))
            rc = bh_disk_open_file(b->o.disk, name, O_RDWR | O_CREAT | O_EXCL, 0600, out);
        if (rc)
            return bh_fail(err, rc, "a file for new content cannot be made in %s: %s",
                           bh_disk_path(b->o.disk), strerror(rc));
        *number = n;
        return 0;
    }
}

int bh_data_open(struct bh_blobs *b, uint64_t number, struct bh_dfile *out)
{
    char name[BLOBS_NAME];
    name_of(number, name);
    return bh_disk_open_file(b->o.disk, name, O_RDWR, 0, out);
}

int bh_data_room(struct bh_blobs *b, uint64_t number, uint64_t *bytes)
{
    char name[BLOBS_NAME];
    struct stat st;
    name_of(number, name);
    if (fstatat(bh_disk_dirfd(b->o.disk), name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno;
    *bytes = (uint64_t)st.st_blocks * 512;
    return 0;
}

int bh_data_open_to_write(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out,
                          struct bh_error *err)
{
    struct bh_dfile old;
    struct stat st;
    int rc = bh_data_open(b, *number, &old);
    if (!rc && fstat(old.fd, &st) != 0) {
        rc = errno;
        bh_dfile_close(&old);
    }
    if (rc)
        return bh_fail(err, rc, "the data file d-%016" PRIx64 " in %s cannot be opened: %s",
                       *number, bh_disk_path(b->o.disk), strerror(rc));
    if (st.st_nlink == 1) {
        *out = old;
        return 0;
    }
    uint64_t copy;
    rc = bh_data_create(b, &copy, out, err);
    if (!rc) {
        rc = bh_blobs_copy(old.fd, out, (uint64_t)st.st_size, NULL, err);
        if (bh_blobs_is_full(rc) && bh_blobs_make_room(b, (uint64_t)st.st_size))
            rc = bh_blobs_copy(old.fd, out, (uint64_t)st.st_size, NULL, err);
        if (rc) {
            bh_dfile_close(out);
            bh_data_remove(b, copy);
        }
    }
    bh_dfile_close(&old);
    if (!rc)
        *number = copy;
    return rc;
}

/* Whether both names are one file's. */
static bool are_one(struct bh_blobs *b, const char *name, const char *other)
{
    int dir = bh_disk_dirfd(b->o.disk);
    struct stat x, y;
    return fstatat(dir, name, &x, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstatat(dir, other, &y, AT_SYMLINK_NOFOLLOW) == 0 && x.st_ino == y.st_ino;
}

void bh_data_let_go(struct bh_blobs *b, uint64_t number, const uint8_t hash[BH_SHA256_LEN])
{
    char data[BLOBS_NAME], blob[BLOBS_NAME];
    BH_LOCK_SCOPE(&b->naming);
    name_of(number, data);
    bh_blobs_name(blob, KIND_CACHED, hash);
    if (!are_one(b, data, blob))
        return;
    pthread_mutex_lock(&b->mutex);
    struct blobs_entry *e = bh_blobs_find(b, hash);
    bool may = e && e->kind == KIND_CACHED && e->pins == 0 && e->bytes > BLOBS_STEP;
    if (may) {
        bh_blobs_become(b, e, KIND_NONE, 0);
        bh_blobs_entry_drop(b, e);
    }
    pthread_mutex_unlock(&b->mutex);
    int rc = may ? bh_disk_unlink(b->o.disk, blob) : 0;
    if (rc)
        bh_log(BH_LOG_WARNING, "%s in %s cannot be removed: %s", blob, bh_disk_path(b->o.disk),
               strerror(rc));
}

void bh_data_remove(struct bh_blobs *b, uint64_t number)
{
    char name[BLOBS_NAME];
    if (!number)
        return;
    name_of(number, name);
    int rc = bh_disk_unlink(b->o.disk, name);
    if (rc && rc != ENOENT)
        bh_log(BH_LOG_WARNING, "the data file %s in %s cannot be removed: %s", name,
               bh_disk_path(b->o.disk), strerror(rc));
}

int bh_data_each(struct bh_blobs *b, void (*fn)(void *arg, uint64_t number), void *arg,
                 struct bh_error *err)
{
    int fd = openat(bh_disk_dirfd(b->o.disk), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        int rc = errno;
        if (fd >= 0)
            close(fd);
        return bh_fail(err, rc, "%s cannot be listed: %s", bh_disk_path(b->o.disk), strerror(rc));
    }
    errno = 0;
    for (struct dirent *e; (e = readdir(dir)); errno = 0) {
        char again[BLOBS_NAME];
        uint64_t number =
            e->d_name[0] == 'd' && e->d_name[1] == '-' ? strtoull(e->d_name + 2, NULL, 16) : 0;
        name_of(number, again);
        if (number && strcmp(again, e->d_name) == 0)
            fn(arg, number);
    }
    int rc = errno;
    closedir(dir);
    return rc ? bh_fail(err, rc, "%s cannot be listed: %s", bh_disk_path(b->o.disk), strerror(rc))
              : 0;
}

/* --- copies --- */

/* [at, end) of a file that has `had` bytes becomes zeros. */
static int clear(struct bh_dfile *f, uint64_t at, uint64_t end, uint64_t had)
{
    static const char zeros[65536];
    if (end > had)
        end = had;
    if (at >= end)
        return 0;
    int rc = bh_dfile_punch(f, at, end - at);
    while (rc == EOPNOTSUPP && at < end) {
        size_t n = end - at < sizeof zeros ? (size_t)(end - at) : sizeof zeros;
        int failed = bh_dfile_write(f, zeros, n, at);
        if (failed)
            return failed;
        at += n;
    }
    return rc == EOPNOTSUPP ? 0 : rc;
}

static int copy_data(int fd, struct bh_dfile *f, uint64_t at, uint64_t end,
                     const struct bh_call *call, struct bh_error *err)
{
    while (at < end) {
        uint64_t n = end - at < COPY_STEP ? end - at : COPY_STEP;
        int rc = bh_call_check(call, "the copy", err);
        if (rc)
            return rc;
        rc = bh_dfile_copy(f, at, fd, at, n);
        if (rc)
            return bh_fail(err, rc, "content cannot be copied: %s", strerror(rc));
        at += n;
    }
    return 0;
}

/* All of fd by reference, if f is empty and the file system can. */
static bool by_reference(int fd, struct bh_dfile *f, uint64_t size, uint64_t len, uint64_t had)
{
    if (had || bh_dfile_clone(f, fd) != 0)
        return false;
    return size == len || bh_dfile_truncate(f, len) == 0;
}

int bh_blobs_copy(int fd, struct bh_dfile *f, uint64_t len, const struct bh_call *call,
                  struct bh_error *err)
{
    struct stat from, to;
    if (fstat(fd, &from) != 0 || fstat(f->fd, &to) != 0)
        return bh_fail(err, errno, "content cannot be examined: %s", strerror(errno));
    uint64_t size = (uint64_t)from.st_size, had = (uint64_t)to.st_size;
    if (size < len)
        return bh_fail(err, ENODATA, "content that is to be copied has %llu bytes, not %llu",
                       (unsigned long long)size, (unsigned long long)len);
    if (by_reference(fd, f, size, len, had))
        return 0;
    int rc = 0;
    for (uint64_t at = 0; !rc && at < len;) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        uint64_t begin = data >= 0 ? (uint64_t)data : errno == ENXIO ? len : at;
        off_t hole = begin < len ? lseek(fd, (off_t)begin, SEEK_HOLE) : -1;
        uint64_t end = hole > (off_t)begin && (uint64_t)hole < len ? (uint64_t)hole : len;
        if (begin > len)
            begin = len;
        rc = clear(f, at, begin, had);
        if (rc)
            return bh_fail(err, rc, "content cannot be copied: %s", strerror(rc));
        rc = copy_data(fd, f, begin, end, call, err);
        at = end;
    }
    if (!rc && had < len && (rc = bh_dfile_truncate(f, len)) != 0)
        rc = bh_fail(err, rc, "content cannot be copied: %s", strerror(rc));
    return rc;
}
