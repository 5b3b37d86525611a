/* The table of requests: each is counted and handed to the part of the tree that it is for. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "daemon.h"
#include "util/cleanup.h"

#define INO_CTL_DIR 2
#define CTL_DIR     ".ctl"

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

void stat_set_time(struct stat *st, int64_t ms)
{
    st->st_mtim.tv_sec = st->st_ctim.tv_sec = st->st_atim.tv_sec = ms / 1000;
    st->st_mtim.tv_nsec = st->st_ctim.tv_nsec = st->st_atim.tv_nsec = ms % 1000 * 1000000;
}

static void dir_stat(struct daemon *d, ino_t ino, nlink_t links, struct stat *st)
{
    *st = (struct stat){.st_ino = ino,
                        .st_mode = S_IFDIR | 0755,
                        .st_nlink = links,
                        .st_uid = d->uid,
                        .st_gid = d->gid,
                        .st_blksize = 4096};
    stat_set_time(st, d->started_ms);
}

static double fill_stat(struct daemon *d, const struct node *n, struct stat *st)
{
    switch (n->kind) {
    case NODE_ROOT:
        dir_stat(d, FUSE_ROOT_ID, views_root_name(d, 0) ? 5 : 3, st); /* as find(1) counts */
        st->st_mode = S_IFDIR | d->root_mode;
        st->st_uid = d->root_uid;
        st->st_gid = d->root_gid;
        return CACHE_SECONDS;
    case NODE_CTL_DIR:
        dir_stat(d, INO_CTL_DIR, 2, st);
        return CACHE_SECONDS;
    case NODE_FILE:
        dbfile_stat(d, n->file, st);
        return dbfile_attr_seconds(n->file);
    case NODE_CTL:
        ctl_stat(d, n->ctl, st);
        return 0;
    case NODE_VIEW: /* views_getattr: it may have to wait */
        break;
    }
    return 0;
}

static void tree_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct daemon *d = daemon_of(req);
    struct node *n = node_of(ino);
    struct stat st;
    (void)fi;
    count(d, OP_GETATTR);
    if (n->kind == NODE_VIEW) {
        views_getattr(req, n);
        return;
    }
    double timeout = fill_stat(d, n, &st);
    fuse_reply_attr(req, &st, timeout);
}

/* Who may make journals beside live.db: not kept over mounts. */
static void root_setattr(fuse_req_t req, struct node *n, const struct stat *attr, int to_set)
{
    struct daemon *d = daemon_of(req);
    struct stat st;
    if (to_set & FUSE_SET_ATTR_MODE)
        d->root_mode = attr->st_mode & 07777;
    if (to_set & FUSE_SET_ATTR_UID)
        d->root_uid = attr->st_uid;
    if (to_set & FUSE_SET_ATTR_GID)
        d->root_gid = attr->st_gid;
    double timeout = fill_stat(d, n, &st);
    fuse_reply_attr(req, &st, timeout);
}

static void tree_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                         struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_SETATTR);
    if (n->kind == NODE_FILE)
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

void reply_entry(fuse_req_t req, struct node *n, struct fuse_entry_param e)
{
    if (!n) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    e.ino = node_ino(n);
    if (fuse_reply_entry(req, &e) == -ENOENT)
        node_forget(e.ino, 1);
}

/* n: as for reply_entry. */
static void reply_node(fuse_req_t req, struct node *n, double entry_timeout)
{
    struct fuse_entry_param e = {.entry_timeout = entry_timeout};
    if (n)
        e.attr_timeout = fill_stat(daemon_of(req), n, &e.attr);
    reply_entry(req, n, e);
}

void reply_absent(fuse_req_t req, double timeout)
{
    struct fuse_entry_param e = {.entry_timeout = timeout};
    fuse_reply_entry(req, &e);
}

static void lookup_in_root(fuse_req_t req, const char *name)
{
    struct daemon *d = daemon_of(req);
    struct bh_file *f;
    if (!strcmp(name, CTL_DIR)) {
        reply_node(req, node_ctl_dir(), CACHE_SECONDS);
        return;
    }
    if (views_lookup_in_root(req, name))
        return;
    if (bh_store_lookup_outside(d->store, name, &f) != 0) {
        reply_absent(req, CACHE_SECONDS);
        return;
    }
    struct node *n = node_for_file(f);
    bh_file_unref(f);
    reply_node(req, n, CACHE_SECONDS);
}

static void lookup_in_ctl(fuse_req_t req, const char *name)
{
    int ctl = ctl_find(name);
    if (ctl < 0) {
        reply_absent(req, CACHE_SECONDS);
        return;
    }
    /* A command's node is new each time, so that commands do not queue in the kernel on one inode.
     */
    reply_node(req, node_for_ctl(ctl, ctl_is_command(ctl)), 0);
}

static void tree_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct node *n = node_of(parent);
    count(daemon_of(req), OP_LOOKUP);
    if (strlen(name) > NAME_MAX)
        fuse_reply_err(req, ENAMETOOLONG);
    else if (n->kind == NODE_ROOT)
        lookup_in_root(req, name);
    else if (n->kind == NODE_CTL_DIR)
        lookup_in_ctl(req, name);
    else if (n->kind == NODE_VIEW)
        views_lookup(req, n, name);
    else
        fuse_reply_err(req, ENOTDIR);
}

static void tree_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
    count(daemon_of(req), OP_FORGET);
    node_forget(ino, lookups);
    fuse_reply_none(req);
}

static void tree_forget_multi(fuse_req_t req, size_t count_, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count_; i++) {
        count(daemon_of(req), OP_FORGET);
        node_forget(forgets[i].ino, forgets[i].nlookup);
    }
    fuse_reply_none(req);
}

/* What is in a snapshot stays as it was. */
static void refuse_in(fuse_req_t req, const struct node *dir, const char *name)
{
    if (dir->kind != NODE_VIEW) {
        fuse_reply_err(req, EPERM);
        return;
    }
    explain(daemon_of(req),
            "%.100s: snapshots and branches are changed as directories only: mkdir, "
            "rmdir and mv",
            name);
    fuse_reply_err(req, EROFS);
}

static void tree_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                        struct fuse_file_info *fi)
{
    count(daemon_of(req), OP_CREATE);
    if (node_of(parent)->kind == NODE_ROOT)
        dbfile_create(req, name, mode, fi);
    else
        refuse_in(req, node_of(parent), name);
}

static void tree_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    count(daemon_of(req), OP_UNLINK);
    if (node_of(parent)->kind == NODE_ROOT)
        dbfile_unlink(req, name);
    else
        refuse_in(req, node_of(parent), name);
}

static void refuse(fuse_req_t req)
{
    count(daemon_of(req), OP_OTHER);
    fuse_reply_err(req, EPERM);
}

static void tree_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    (void)parent, (void)name, (void)mode, (void)rdev;
    refuse(req);
}

static void tree_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct node *n = node_of(parent);
    (void)mode;
    if (n->kind != NODE_VIEW) {
        refuse(req);
        return;
    }
    count(daemon_of(req), OP_OTHER);
    views_mkdir(req, n, name);
}

static void tree_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct node *n = node_of(parent);
    if (n->kind != NODE_VIEW) {
        refuse(req);
        return;
    }
    count(daemon_of(req), OP_OTHER);
    views_rmdir(req, n, name);
}

static void tree_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
    (void)link, (void)parent, (void)name;
    refuse(req);
}

static void tree_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    (void)ino, (void)parent, (void)name;
    refuse(req);
}

static void tree_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                        const char *new_name, unsigned flags)
{
    struct node *from = node_of(parent), *to = node_of(new_parent);
    if (from->kind == NODE_VIEW || to->kind == NODE_VIEW) {
        count(daemon_of(req), OP_OTHER);
        views_rename(req, from, name, to, new_name, flags);
        return;
    }
    if (!strcmp(name, BH_DB_NAME) || !strcmp(new_name, BH_DB_NAME))
        explain(daemon_of(req), BH_DB_NAME
                " cannot be renamed or replaced: SQLite's locks are on it; use bhfs import");
    refuse(req);
}

/* --- directories: in the root and .ctl offsets are stateless slots, and the kernel keeps the
 * listing until it is told otherwise; what others add to the history it would not be told --- */

static void tree_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_OPENDIR);
    if (n->kind == NODE_VIEW) {
        views_opendir(req, fi);
        return;
    }
    fi->cache_readdir = fi->keep_cache = 1;
    fuse_reply_open(req, fi);
}

static void tree_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_OTHER);
    if (n->kind == NODE_VIEW)
        views_releasedir(req, fi);
    else
        fuse_reply_err(req, 0);
}

int listing_add(struct listing *l, const char *name, ino_t ino, mode_t mode)
{
    struct stat st = {.st_ino = ino, .st_mode = mode};
    if (l->slot++ < l->from)
        return 0;
    size_t n = fuse_add_direntry(l->req, l->buf + l->used, l->size - l->used, name, &st, l->slot);
    if (n > l->size - l->used)
        return ENOBUFS;
    l->used += n;
    return 0;
}

static int add_file(void *arg, struct bh_file *f)
{
    struct stat st;
    if (bh_file_stat(f, &st) != 0)
        return 0;
    return listing_add(arg, f->name, f->kind == BH_FILE_DB ? 3 : st.st_ino, S_IFREG);
}

static void list(struct daemon *d, const struct node *n, struct listing *l)
{
    bool is_root = n->kind == NODE_ROOT;
    if (listing_add(l, ".", is_root ? FUSE_ROOT_ID : INO_CTL_DIR, S_IFDIR) ||
        listing_add(l, "..", FUSE_ROOT_ID, S_IFDIR))
        return;
    if (is_root) {
        if (listing_add(l, CTL_DIR, INO_CTL_DIR, S_IFDIR))
            return;
        for (int i = 0; views_root_name(d, i); i++)
            if (listing_add(l, views_root_name(d, i), views_root_ino(i), S_IFDIR))
                return;
        bh_store_each(d->store, add_file, l);
        return;
    }
    for (int i = 0; ctl_name(i); i++) {
        struct stat st;
        ctl_stat(d, i, &st);
        if (listing_add(l, ctl_name(i), st.st_ino, S_IFREG))
            return;
    }
}

static void tree_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                         struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_READDIR);
    if (n->kind == NODE_VIEW) {
        views_readdir(req, n, size, off, fi);
        return;
    }
    if (n->kind != NODE_ROOT && n->kind != NODE_CTL_DIR) {
        fuse_reply_err(req, ENOTDIR);
        return;
    }
    BH_FREE char *buf = malloc(size);
    struct listing l = {.req = req, .buf = buf, .size = size, .from = off};
    if (!buf) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    list(daemon_of(req), n, &l);
    fuse_reply_buf(req, buf, l.used);
}

static void tree_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)datasync, (void)fi;
    count(daemon_of(req), OP_FSYNCDIR);
    if (node_of(ino)->kind == NODE_ROOT)
        dbfile_fsyncdir(req);
    else
        fuse_reply_err(req, 0);
}

/* --- files --- */

static void tree_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_OPEN);
    if (n->kind == NODE_FILE)
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
    if (n->kind == NODE_FILE)
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
    if (n->kind == NODE_FILE)
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
    if (n->kind == NODE_FILE)
        dbfile_flush(req, n, fi);
    else
        fuse_reply_err(req, 0);
}

static void tree_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_RELEASE);
    if (n->kind == NODE_FILE)
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
    if (n->kind == NODE_FILE)
        dbfile_fsync(req, n);
    else
        fuse_reply_err(req, 0);
}

static void tree_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                       struct flock *lock)
{
    struct node *n = node_of(ino);
    count(daemon_of(req), OP_GETLK);
    if (n->kind == NODE_FILE)
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
    if (n->kind == NODE_FILE)
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
    .releasedir = tree_releasedir,
    .fsyncdir = tree_fsyncdir,
    .statfs = tree_statfs,
    .getlk = tree_getlk,
    .setlk = tree_setlk,
    .poll = tree_poll,
};
