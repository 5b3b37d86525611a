/* The table of requests: each is counted and handed to the part of the tree that it is for. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "daemon.h"
#include "util/cleanup.h"

const char *const op_names[OP_COUNT] = {
    "lookup",  "getattr", "setattr", "open",    "create", "read",     "write",
    "setlk",   "getlk",   "flush",   "release", "fsync",  "fsyncdir", "unlink",
    "opendir", "readdir", "forget",  "statfs",  "other",
};

static void tree_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE |
                              FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    conn->want |= conn->capable & (FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_POSIX_LOCKS |
                                   FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS |
                                   FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_CACHE_SYMLINKS);
    conn->max_background = 64;
    conn->congestion_threshold = 48;
    conn->time_gran = 1;
}

/* --- attributes --- */

static void tree_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    struct stat st;
    (void)fi;
    count(daemon_of(req), OP_GETATTR);
    if (is_files(ino)) {
        files_getattr(req, ino);
    } else if (n->kind == NODE_VIEW) {
        views_getattr(req, n);
    } else {
        double timeout = root_fill_stat(daemon_of(req), n, &st);
        fuse_reply_attr(req, &st, timeout);
    }
}

static void tree_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                         struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_SETATTR);
    if (is_files(ino))
        files_setattr(req, ino, attr, to_set);
    else if (n->kind == NODE_FILE)
        dbfile_setattr(req, n, attr, to_set);
    else if (n->kind == NODE_CTL)
        ctl_setattr(req, n, to_set, fi);
    else if (n->kind == NODE_ROOT)
        root_setattr(req, n, attr, to_set);
    else if (n->kind == NODE_VIEW)
        fuse_reply_err(req, EROFS);
    else
        fuse_reply_err(req, EPERM);
}

/* --- names --- */

static void tree_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct node *n = node_of(parent);
    count(daemon_of(req), OP_LOOKUP);
    if (is_files(parent))
        files_lookup(req, parent, name);
    else if (strlen(name) > NAME_MAX)
        fuse_reply_err(req, ENAMETOOLONG);
    else if (n->kind == NODE_ROOT)
        root_lookup(req, name);
    else if (n->kind == NODE_CTL_DIR)
        root_lookup_ctl(req, name);
    else if (n->kind == NODE_VIEW)
        views_lookup(req, n, name);
    else
        fuse_reply_err(req, ENOTDIR);
}

static void tree_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
    count(daemon_of(req), OP_FORGET);
    if (!is_files(ino)) /* its number needs no memory here */
        node_forget(ino, lookups);
    fuse_reply_none(req);
}

static void tree_forget_multi(fuse_req_t req, size_t count_, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count_; i++) {
        count(daemon_of(req), OP_FORGET);
        if (!is_files(forgets[i].ino))
            node_forget(forgets[i].ino, forgets[i].nlookup);
    }
    fuse_reply_none(req);
}

static void tree_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                        struct fuse_file_info *fi)
{
    count(daemon_of(req), OP_CREATE);
    if (is_files(parent))
        files_create(req, parent, name, mode, fi);
    else if (node_of(parent)->kind == NODE_ROOT)
        dbfile_create(req, name, mode, fi);
    else
        root_refuse(req, node_of(parent), name);
}

static void tree_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    count(daemon_of(req), OP_UNLINK);
    if (is_files(parent))
        files_remove(req, parent, name, false);
    else if (node_of(parent)->kind == NODE_ROOT)
        dbfile_unlink(req, name);
    else
        root_refuse(req, node_of(parent), name);
}

/* What is in files/ and blobs/ of snapshots, and in the live blobs/, stays as it was. */
static bool refused_in_view(fuse_req_t req, fuse_ino_t dir, const char *name)
{
    if (is_files(dir) || !views_is_fixed(node_of(dir)))
        return false;
    root_refuse(req, node_of(dir), name);
    return true;
}

/* Between files/ and the rest it is as between two file systems: mv and ln then copy. */
static void refuse_across(fuse_req_t req, fuse_ino_t to, const char *name)
{
    if (!refused_in_view(req, to, name))
        fuse_reply_err(req, EXDEV);
}

static void tree_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(parent))
        files_make(req, parent, name, mode, rdev, NULL);
    else
        root_refuse(req, node_of(parent), name);
}

static void tree_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(parent))
        files_make(req, parent, name, S_IFDIR | (mode & 07777), 0, NULL);
    else if (refused_in_view(req, parent, name))
        return;
    else if (node_of(parent)->kind == NODE_VIEW)
        views_mkdir(req, node_of(parent), name);
    else
        root_refuse(req, node_of(parent), name);
}

static void tree_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(parent))
        files_remove(req, parent, name, true);
    else if (refused_in_view(req, parent, name))
        return;
    else if (node_of(parent)->kind == NODE_VIEW)
        views_rmdir(req, node_of(parent), name);
    else
        root_refuse(req, node_of(parent), name);
}

static void tree_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(parent))
        files_make(req, parent, name, S_IFLNK | 0777, 0, link);
    else
        root_refuse(req, node_of(parent), name);
}

static void tree_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(ino) && is_files(parent))
        files_link(req, ino, parent, name);
    else if (is_files(ino) || is_files(parent))
        refuse_across(req, parent, name);
    else
        root_refuse(req, node_of(parent), name);
}

static void tree_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                        const char *new_name, unsigned flags)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(parent) && is_files(new_parent)) {
        files_rename(req, parent, name, new_parent, new_name, flags);
        return;
    }
    if (refused_in_view(req, parent, name) || refused_in_view(req, new_parent, new_name))
        return;
    if (is_files(parent) || is_files(new_parent)) {
        fuse_reply_err(req, EXDEV);
        return;
    }
    struct node *from = node_of(parent), *to = node_of(new_parent);
    if (from->kind == NODE_VIEW || to->kind == NODE_VIEW) {
        views_rename(req, from, name, to, new_name, flags);
        return;
    }
    if (strcmp(name, BH_DB_NAME) != 0 && strcmp(new_name, BH_DB_NAME) != 0) {
        root_refuse(req, from, name);
        return;
    }
    explain(daemon_of(req),
            BH_DB_NAME " cannot be renamed or replaced: SQLite's locks are on it; use bhfs import");
    fuse_reply_err(req, EPERM);
}

/* --- directories: in the root and .ctl offsets are stateless slots, and the kernel keeps the
 * listing until it is told otherwise; what others add to the history it would not be told --- */

static void tree_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_OPENDIR);
    if (is_files(ino))
        files_opendir(req, ino, fi);
    else if (n->kind == NODE_VIEW)
        views_opendir(req, n, fi);
    else {
        fi->cache_readdir = fi->keep_cache = 1;
        fuse_reply_open(req, fi);
    }
}

static void tree_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_OTHER);
    if (is_files(ino))
        files_releasedir(req, fi);
    else if (n->kind == NODE_VIEW)
        views_releasedir(req, n, fi);
    else
        fuse_reply_err(req, 0);
}

static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                     struct fuse_file_info *fi, bool plus)
{
    count(daemon_of(req), OP_READDIR);
    if (is_files(ino)) {
        files_readdir(req, ino, size, off, fi, plus);
        return;
    }
    struct node *n = node_of(ino);
    if (n->kind == NODE_VIEW) {
        views_readdir(req, n, size, off, fi, plus);
        return;
    }
    if (n->kind != NODE_ROOT && n->kind != NODE_CTL_DIR) {
        fuse_reply_err(req, ENOTDIR);
        return;
    }
    BH_FREE char *buf = malloc(size);
    struct listing l = {.req = req, .buf = buf, .size = size, .from = off, .plus = plus};
    if (!buf) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    root_list(daemon_of(req), n, &l);
    fuse_reply_buf(req, buf, l.used);
}

static void tree_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                         struct fuse_file_info *fi)
{
    read_dir(req, ino, size, off, fi, false);
}

static void tree_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                             struct fuse_file_info *fi)
{
    read_dir(req, ino, size, off, fi, true);
}

/* --- only of files/ --- */

static void tree_readlink(fuse_req_t req, fuse_ino_t ino)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(ino))
        files_readlink(req, ino);
    else if (node_of(ino)->kind == NODE_VIEW)
        views_readlink(req, node_of(ino));
    else
        fuse_reply_err(req, EINVAL);
}

static void tree_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(ino))
        files_getxattr(req, ino, name, size);
    else if (node_of(ino)->kind == NODE_VIEW)
        views_getxattr(req, node_of(ino), name, size);
    else
        fuse_reply_err(req, EOPNOTSUPP);
}

static void tree_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(ino))
        files_listxattr(req, ino, size);
    else if (node_of(ino)->kind == NODE_VIEW)
        views_listxattr(req, node_of(ino), size);
    else
        reply_xattr(req, size, NULL, 0);
}

static void tree_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                          size_t size, int flags)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(ino))
        files_setxattr(req, ino, name, value, size, flags);
    else
        fuse_reply_err(req, views_is_fixed(node_of(ino)) ? EROFS : EOPNOTSUPP);
}

static void tree_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(ino))
        files_removexattr(req, ino, name);
    else
        fuse_reply_err(req, views_is_fixed(node_of(ino)) ? EROFS : EOPNOTSUPP);
}

static void tree_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                           struct fuse_file_info *fi)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(ino))
        files_fallocate(req, mode, off, len, fi);
    else
        fuse_reply_err(req, EOPNOTSUPP);
}

static void tree_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
                       struct fuse_file_info *fi)
{
    count(daemon_of(req), OP_OTHER);
    if (is_files(ino))
        files_lseek(req, off, whence, fi);
    else if (node_of(ino)->kind == NODE_VIEW)
        views_lseek(req, node_of(ino), off, whence);
    else
        fuse_reply_err(req, EINVAL);
}

static void tree_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)datasync, (void)fi;
    count(daemon_of(req), OP_FSYNCDIR);
    if (is_files(ino))
        files_fsync(req, fi, true);
    else if (node_of(ino)->kind == NODE_ROOT)
        dbfile_fsyncdir(req);
    else
        fuse_reply_err(req, 0);
}

/* --- files --- */

static void tree_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_OPEN);
    if (is_files(ino))
        files_open(req, ino, fi);
    else if (n->kind == NODE_FILE)
        dbfile_open(req, n, fi);
    else if (n->kind == NODE_CTL)
        ctl_open(req, n, fi);
    else if (n->kind == NODE_VIEW)
        views_open(req, n, fi);
    else
        fuse_reply_err(req, EISDIR);
}

static void tree_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                      struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_READ);
    if (is_files(ino))
        files_read(req, size, off, fi);
    else if (n->kind == NODE_FILE)
        dbfile_read(req, n, size, off, fi);
    else if (n->kind == NODE_CTL)
        ctl_read(req, n, size, off, fi);
    else if (n->kind == NODE_VIEW)
        views_read(req, n, size, off, fi);
    else
        fuse_reply_err(req, EISDIR);
}

static void tree_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_WRITE);
    if (is_files(ino))
        files_write(req, buf, size, off, fi);
    else if (n->kind == NODE_FILE)
        dbfile_write(req, n, buf, size, off, fi);
    else if (n->kind == NODE_CTL)
        ctl_write(req, n, buf, size, fi);
    else
        fuse_reply_err(req, EISDIR);
}

static void tree_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_FLUSH);
    if (is_files(ino))
        files_flush(req, fi);
    else if (n->kind == NODE_FILE)
        dbfile_flush(req, n, fi);
    else
        fuse_reply_err(req, 0);
}

static void tree_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_RELEASE);
    if (is_files(ino))
        files_release(req, fi);
    else if (n->kind == NODE_FILE)
        dbfile_release(req, n, fi);
    else if (n->kind == NODE_VIEW)
        views_release(req, n, fi);
    else
        ctl_release(req, fi);
}

static void tree_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    (void)datasync, (void)fi;
    count(daemon_of(req), OP_FSYNC);
    if (is_files(ino))
        files_fsync(req, fi, false);
    else if (n->kind == NODE_FILE)
        dbfile_fsync(req, n);
    else
        fuse_reply_err(req, 0);
}

static void tree_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                       struct flock *lock)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_GETLK);
    if (is_files(ino))
        files_getlk(req, fi, lock);
    else if (n->kind == NODE_FILE)
        dbfile_getlk(req, n, fi, lock);
    else if (n->kind == NODE_VIEW) /* nobody writes a snapshot */
        fuse_reply_lock(req, &(struct flock){.l_type = F_UNLCK});
    else
        fuse_reply_err(req, EINVAL); /* never ENOSYS: the kernel would stop asking for all files */
}

static void tree_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                       struct flock *lock, int sleep)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_SETLK);
    if (is_files(ino))
        files_setlk(req, fi, lock, sleep != 0);
    else if (n->kind == NODE_FILE)
        dbfile_setlk(req, n, fi, lock, sleep != 0);
    else if (n->kind == NODE_VIEW)
        fuse_reply_err(req, 0);
    else
        fuse_reply_err(req, EINVAL);
}

static void tree_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                      struct fuse_pollhandle *ph)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_OTHER);
    if (n->kind == NODE_CTL) {
        ctl_poll(req, n, fi, ph);
        return;
    }
    if (ph)
        fuse_pollhandle_destroy(ph);
    fuse_reply_poll(req, POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM); /* always ready */
}

static void tree_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct daemon *d = daemon_of(req);
    struct statvfs st;
    (void)ino;
    count(d, OP_STATFS);
    /* What a client can still write is what the state directory's file system has. */
    if (fstatvfs(bh_disk_dirfd(bh_store_disk(d->store)), &st) != 0) {
        fuse_reply_err(req, errno);
        return;
    }
    st.f_namemax = NAME_MAX;
    fuse_reply_statfs(req, &st);
}

const struct fuse_lowlevel_ops tree_ops = {
    .init = tree_init,
    .lookup = tree_lookup,
    .forget = tree_forget,
    .forget_multi = tree_forget_multi,
    .getattr = tree_getattr,
    .setattr = tree_setattr,
    .mknod = tree_mknod,
    .mkdir = tree_mkdir,
    .unlink = tree_unlink,
    .rmdir = tree_rmdir,
    .symlink = tree_symlink,
    .rename = tree_rename,
    .link = tree_link,
    .open = tree_open,
    .create = tree_create,
    .read = tree_read,
    .write = tree_write,
    .flush = tree_flush,
    .release = tree_release,
    .fsync = tree_fsync,
    .opendir = tree_opendir,
    .readdir = tree_readdir,
    .readdirplus = tree_readdirplus,
    .releasedir = tree_releasedir,
    .fsyncdir = tree_fsyncdir,
    .readlink = tree_readlink,
    .getxattr = tree_getxattr,
    .listxattr = tree_listxattr,
    .setxattr = tree_setxattr,
    .removexattr = tree_removexattr,
    .fallocate = tree_fallocate,
    .lseek = tree_lseek,
    .statfs = tree_statfs,
    .getlk = tree_getlk,
    .setlk = tree_setlk,
    .poll = tree_poll,
};
