/* Data files, and copies from file to file. */
#include "store/blobs_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_STEP ((uint64_t)16 << 20) /* cancel is looked at after so many bytes */

int bh_blobs_new_data(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out)
{
    char name[BLOBS_NAME];
    int rc;
    do {
        *number = 0;
        while (*number == 0)
            bh_random_bytes(number, sizeof *number);
        bh_data_name(name, *number);
        rc = bh_disk_open_file(b->o.disk, name, O_RDWR | O_CREAT | O_EXCL, 0600, out);
    } while (rc == EEXIST);
    return rc;
}

int bh_data_create(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out, struct bh_error *err)
{
    if (bh_blobs_spare_take(b, number, out, true))
        return 0;
    int rc = bh_blobs_new_data(b, number, out);
    if (bh_blobs_is_full(rc) && bh_blobs_make_room(b, BLOBS_STEP))
        rc = bh_blobs_new_data(b, number, out);
    return rc ? bh_fail(err, rc, "a file for new content cannot be made in %s: %s",
                        bh_disk_path(b->o.disk), strerror(rc))
              : 0;
}

int bh_data_create_at_once(struct bh_blobs *b, uint64_t *number, struct bh_dfile *out)
{
    return bh_blobs_spare_take(b, number, out, false) ? 0 : EAGAIN;
}

int bh_data_open(struct bh_blobs *b, uint64_t number, struct bh_dfile *out)
{
    char name[BLOBS_NAME];
    bh_data_name(name, number);
    return bh_disk_open_file(b->o.disk, name, O_RDWR, 0, out);
}

int bh_data_room(struct bh_blobs *b, uint64_t number, uint64_t *bytes)
{
    char name[BLOBS_NAME];
    struct stat st;
    bh_data_name(name, number);
    if (fstatat(bh_disk_dirfd(b->o.disk), name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno;
    *bytes = (uint64_t)st.st_blocks * 512;
    return 0;
}

int bh_data_copy(struct bh_blobs *b, int fd, uint64_t len, struct bh_dfile *to,
                 const struct bh_call *call, struct bh_error *err)
{
    int rc = bh_blobs_copy(fd, to, len, call, err);
    if (bh_blobs_is_full(rc) && bh_blobs_make_room(b, len))
        rc = bh_blobs_copy(fd, to, len, call, err);
    return rc;
}

int bh_data_open_to_write(struct bh_blobs *b, uint64_t *number, uint64_t len, struct bh_dfile *out,
                          const struct bh_call *call, struct bh_error *err)
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
    uint64_t copy, size = (uint64_t)st.st_size;
    if (len > size)
        len = size;
    rc = bh_data_create(b, &copy, out, err);
    if (!rc) {
        rc = bh_data_copy(b, old.fd, len, out, call, err);
        if (rc) {
            bh_dfile_close(out);
            bh_data_remove(b, copy);
        }
    }
    bh_dfile_close(&old);
    if (!rc) {
        bh_data_moved(b, *number, copy);
        if (len < size)
            bh_data_shrinks(b, copy, len);
        *number = copy;
    }
    return rc;
}

void bh_data_remove(struct bh_blobs *b, uint64_t number)
{
    char name[BLOBS_NAME];
    if (!number)
        return;
    bh_data_forget(b, number);
    bh_data_name(name, number);
    bh_blobs_unlink_name(b, name);
}

struct each {
    void (*fn)(void *arg, uint64_t number);
    void *arg;
};

static int one_of_each(void *arg, const char *name)
{
    const struct each *e = arg;
    uint64_t number = bh_data_number(name);
    if (number)
        e->fn(e->arg, number);
    return 0;
}

int bh_data_each(struct bh_blobs *b, void (*fn)(void *arg, uint64_t number), void *arg,
                 struct bh_error *err)
{
    struct each e = {fn, arg};
    int rc = bh_disk_each(b->o.disk, one_of_each, &e);
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
    int rc = bh_call_check(call, "the copy", err);
    if (rc || by_reference(fd, f, size, len, had))
        return rc;
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
