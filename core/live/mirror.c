#include "live/mirror.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/io.h"

#define NAME_LEN 300
/* One unsynced write (or name change) in so many reaches the mirror at once. */
#define WRITE_BACK_ONE_IN 6

struct range {
    uint64_t offset, len;
};

/* A file of the state directory and its mirror, known by inode number: names come and go. The
 * mirror's data lives in
 * ".inode-N" from the start; its name appears by a hard link once the directory was synced. */
struct bh_mirror_file {
    struct bh_mirror *mirror;
    struct bh_mirror_file *next;
    ino_t inode;
    unsigned opened;
    int fd;
    struct range *dirty; /* written since the last sync */
    size_t dirty_count, dirty_cap;
    uint64_t cut; /* smallest size since the last sync; UINT64_MAX if it was not truncated */
};

enum name_op { NAME_LINK, NAME_UNLINK, NAME_RENAME };

struct pending_name {
    enum name_op op;
    char data[64]; /* of a link: what the name is given to */
    char name[NAME_LEN], to[NAME_LEN];
};

struct bh_mirror {
    pthread_mutex_t mutex;
    int dirfd;
    uint64_t random;
    struct bh_mirror_file *files;
    struct pending_name *names; /* in order: a directory's changes reach the disk in order */
    size_t name_count, name_cap;
    unsigned long gone; /* numbers ".gone-N", the data of files that lost their names */
    unsigned long gone_removed;
};

static bool now_and_then(struct bh_mirror *m)
{
    m->random ^= m->random << 13; /* xorshift64 */
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return m->random % WRITE_BACK_ONE_IN == 0;
}

static int copy_range(int from, int to, uint64_t offset, uint64_t len)
{
    char buf[65536];
    while (len > 0) {
        size_t n = len < sizeof buf ? (size_t)len : sizeof buf, got;
        int rc = bh_pread_full(from, buf, n, offset, &got);
        if (rc == 0)
            rc = bh_pwrite_full(to, buf, got, offset);
        if (rc || got < n)
            return rc;
        offset += n;
        len -= n;
    }
    return 0;
}

static void inode_name(ino_t inode, char name[64])
{
    snprintf(name, 64, ".inode-%llu", (unsigned long long)inode);
}

static int apply_name(struct bh_mirror *m, const struct pending_name *p)
{
    switch (p->op) {
    case NAME_LINK:
        unlinkat(m->dirfd, p->name, 0);
        return linkat(m->dirfd, p->data, m->dirfd, p->name, 0) == 0 ? 0 : errno;
    case NAME_UNLINK:
        return unlinkat(m->dirfd, p->name, 0) == 0 || errno == ENOENT ? 0 : errno;
    case NAME_RENAME:
        return renameat(m->dirfd, p->name, m->dirfd, p->to) == 0 || errno == ENOENT ? 0 : errno;
    }
    return EINVAL;
}

static int apply_names(struct bh_mirror *m, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int rc = apply_name(m, &m->names[i]);
        if (rc)
            return rc;
    }
    if (m->name_count > count)
        memmove(m->names, m->names + count, (m->name_count - count) * sizeof *m->names);
    m->name_count -= count;
    return 0;
}

static int add_name(struct bh_mirror *m, enum name_op op, const char *data, const char *name,
                    const char *to)
{
    if (m->name_count == m->name_cap) {
        size_t cap = m->name_cap ? 2 * m->name_cap : 16;
        void *p = realloc(m->names, cap * sizeof *m->names);
        if (!p)
            return ENOMEM;
        m->names = p;
        m->name_cap = cap;
    }
    struct pending_name *n = &m->names[m->name_count++];
    n->op = op;
    snprintf(n->data, sizeof n->data, "%s", data ? data : "");
    snprintf(n->name, sizeof n->name, "%s", name);
    snprintf(n->to, sizeof n->to, "%s", to ? to : "");
    if (now_and_then(m))
        return apply_names(m, 1 + m->random / WRITE_BACK_ONE_IN % m->name_count);
    return 0;
}

static int mirror_existing(struct bh_mirror *m, int dirfd, const char *name)
{
    BH_FD int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0)
        return errno;
    if (!S_ISREG(st.st_mode))
        return 0;
    char inode[64];
    inode_name(st.st_ino, inode);
    BH_FD int to = openat(m->dirfd, inode, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0)
        return errno;
    int rc = copy_range(fd, to, 0, (uint64_t)st.st_size);
    if (rc == 0 && linkat(m->dirfd, inode, m->dirfd, name, 0) != 0)
        rc = errno;
    return rc;
}

static int mirror_directory(struct bh_mirror *m, int dirfd)
{
    int again = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = again >= 0 ? fdopendir(again) : NULL;
    if (!dir)
        return errno;
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            rc = mirror_existing(m, dirfd, e->d_name);
    closedir(dir);
    return rc;
}

static int empty_directory(int dirfd)
{
    int again = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = again >= 0 ? fdopendir(again) : NULL;
    if (!dir)
        return errno;
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") &&
            unlinkat(dirfd, e->d_name, 0) != 0 &&
            errno != EISDIR) /* of a disk of its own, which empties it */
            rc = errno;
    closedir(dir);
    return rc;
}

int bh_mirror_open(struct bh_mirror **out, int dirfd, const char *mirror_dir, uint64_t seed,
                   struct bh_error *err)
{
    if (mkdir(mirror_dir, 0700) != 0 && errno != EEXIST)
        return bh_fail(err, errno, "live.powercut_dir %s cannot be made: %s", mirror_dir,
                       strerror(errno));
    struct bh_mirror *m = calloc(1, sizeof *m);
    if (!m)
        return bh_fail(err, ENOMEM, "out of memory while opening %s", mirror_dir);
    pthread_mutex_init(&m->mutex, NULL);
    m->random = seed * 2654435761u + 88172645463325252u;
    m->dirfd = open(mirror_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = m->dirfd < 0 ? errno : empty_directory(m->dirfd);
    if (rc == 0)
        rc = mirror_directory(m, dirfd);
    if (rc) {
        bh_mirror_close(m);
        return bh_fail(err, rc, "live.powercut_dir %s cannot be prepared: %s", mirror_dir,
                       strerror(rc));
    }
    *out = m;
    return 0;
}

void bh_mirror_close(struct bh_mirror *m)
{
    if (!m)
        return;
    while (m->files) {
        struct bh_mirror_file *f = m->files;
        m->files = f->next;
        close(f->fd);
        free(f->dirty);
        free(f);
    }
    if (m->dirfd >= 0)
        close(m->dirfd);
    free(m->names);
    pthread_mutex_destroy(&m->mutex);
    free(m);
}

/* Whether ".inode-N" belongs to a file that has, or will have, this name. */
static bool is_known(struct bh_mirror *m, const char *inode, const char *name)
{
    struct stat a, b;
    if (fstatat(m->dirfd, inode, &a, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    if (fstatat(m->dirfd, name, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_ino == b.st_ino)
        return true;
    for (size_t i = 0; i < m->name_count; i++)
        if (m->names[i].op == NAME_LINK && !strcmp(m->names[i].data, inode))
            return true;
    return false;
}

static int remember_range(struct bh_mirror_file *f, uint64_t offset, uint64_t len)
{
    if (f->dirty_count > 0) {
        struct range *last = &f->dirty[f->dirty_count - 1];
        if (last->offset + last->len == offset) {
            last->len += len;
            return 0;
        }
    }
    if (f->dirty_count == f->dirty_cap) {
        size_t cap = f->dirty_cap ? 2 * f->dirty_cap : 16;
        void *p = realloc(f->dirty, cap * sizeof *f->dirty);
        if (!p)
            return ENOMEM;
        f->dirty = p;
        f->dirty_cap = cap;
    }
    f->dirty[f->dirty_count++] = (struct range){offset, len};
    return 0;
}

int bh_mirror_file_open(struct bh_mirror *m, int fd, const char *name, struct bh_mirror_file **out)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return errno;
    BH_LOCK_SCOPE(&m->mutex);
    for (struct bh_mirror_file *f = m->files; f; f = f->next)
        if (f->inode == st.st_ino) {
            f->opened++;
            *out = f;
            return 0;
        }
    struct bh_mirror_file *f = calloc(1, sizeof *f);
    if (!f)
        return ENOMEM;
    char inode[64];
    inode_name(st.st_ino, inode);
    f->mirror = m;
    f->inode = st.st_ino;
    f->opened = 1;
    f->cut = (uint64_t)st.st_size; /* a truncation may have been forgotten at the last close */
    if (!is_known(m, inode, name)) /* left over from a deleted file whose number came back */
        unlinkat(m->dirfd, inode, 0);
    f->fd = openat(m->dirfd, inode, O_RDWR | O_CLOEXEC);
    int rc = 0;
    if (f->fd < 0) { /* new since the mirror began */
        f->fd = openat(m->dirfd, inode, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        rc = f->fd < 0 ? errno : add_name(m, NAME_LINK, inode, name, NULL);
    }
    /* What was written before it was opened here, and never synced, is written by the next sync. */
    if (rc == 0 && st.st_size > 0)
        rc = remember_range(f, 0, (uint64_t)st.st_size);
    if (rc) {
        if (f->fd >= 0)
            close(f->fd);
        free(f->dirty);
        free(f);
        return rc;
    }
    f->next = m->files;
    m->files = f;
    *out = f;
    return 0;
}

void bh_mirror_file_close(struct bh_mirror_file *f)
{
    struct bh_mirror *m = f->mirror;
    BH_LOCK_SCOPE(&m->mutex);
    if (--f->opened > 0)
        return;
    for (struct bh_mirror_file **p = &m->files; *p; p = &(*p)->next)
        if (*p == f) {
            *p = f->next;
            break;
        }
    close(f->fd);
    free(f->dirty);
    free(f);
}

/* The file lost its name: its data goes out of the way of the next file with its number. What is
 * still open, or still to be linked, goes on under the new name. */
static int set_aside(struct bh_mirror *m, ino_t gone)
{
    char inode[64], aside[64];
    if (!gone)
        return 0;
    inode_name(gone, inode);
    snprintf(aside, sizeof aside, ".gone-%lu", m->gone);
    if (renameat(m->dirfd, inode, m->dirfd, aside) != 0)
        return errno == ENOENT ? 0 : errno;
    m->gone++;
    for (size_t i = 0; i < m->name_count; i++)
        if (!strcmp(m->names[i].data, inode))
            strcpy(m->names[i].data, aside);
    for (struct bh_mirror_file *f = m->files; f; f = f->next)
        if (f->inode == gone)
            f->inode = 0;
    return 0;
}

int bh_mirror_wrote(struct bh_mirror_file *f, int fd, uint64_t offset, uint64_t len)
{
    BH_LOCK_SCOPE(&f->mirror->mutex);
    int rc = remember_range(f, offset, len);
    if (rc == 0 && now_and_then(f->mirror))
        rc = copy_range(fd, f->fd, offset, len);
    return rc;
}

int bh_mirror_truncated(struct bh_mirror_file *f, uint64_t size)
{
    BH_LOCK_SCOPE(&f->mirror->mutex);
    if (size < f->cut)
        f->cut = size;
    if (now_and_then(f->mirror) && ftruncate(f->fd, (off_t)size) != 0)
        return errno;
    return 0;
}

int bh_mirror_synced(struct bh_mirror_file *f, int fd)
{
    BH_LOCK_SCOPE(&f->mirror->mutex);
    struct stat st, mine;
    if (fstat(fd, &st) != 0 || fstat(f->fd, &mine) != 0)
        return errno;
    /* What lay beyond the cut is gone, even if the file has grown over it since. */
    if (f->cut < (uint64_t)mine.st_size && ftruncate(f->fd, (off_t)f->cut) != 0)
        return errno;
    for (size_t i = 0; i < f->dirty_count; i++) {
        int rc = copy_range(fd, f->fd, f->dirty[i].offset, f->dirty[i].len);
        if (rc)
            return rc;
    }
    f->dirty_count = 0;
    f->cut = UINT64_MAX;
    return ftruncate(f->fd, st.st_size) == 0 ? 0 : errno;
}

int bh_mirror_linked(struct bh_mirror *m, ino_t number, const char *name)
{
    char inode[64];
    inode_name(number, inode);
    BH_LOCK_SCOPE(&m->mutex);
    return add_name(m, NAME_LINK, inode, name, NULL);
}

int bh_mirror_unlinked(struct bh_mirror *m, const char *name, ino_t gone)
{
    BH_LOCK_SCOPE(&m->mutex);
    int rc = set_aside(m, gone);
    return rc ? rc : add_name(m, NAME_UNLINK, NULL, name, NULL);
}

int bh_mirror_renamed(struct bh_mirror *m, const char *from, const char *to, ino_t gone)
{
    BH_LOCK_SCOPE(&m->mutex);
    int rc = set_aside(m, gone);
    return rc ? rc : add_name(m, NAME_RENAME, NULL, from, to);
}

int bh_mirror_names_synced(struct bh_mirror *m)
{
    BH_LOCK_SCOPE(&m->mutex);
    int rc = apply_names(m, m->name_count);
    for (; rc == 0 && m->gone_removed < m->gone; m->gone_removed++) {
        char aside[64];
        snprintf(aside, sizeof aside, ".gone-%lu", m->gone_removed);
        unlinkat(m->dirfd, aside, 0);
    }
    return rc;
}
