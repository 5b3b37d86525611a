/* The root directory and .ctl as directories: attributes, names, listings. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon.h"
#include "util/cleanup.h"

#define INO_CTL_DIR 2
#define CTL_DIR     ".ctl"

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

double root_fill_stat(struct daemon *d, const struct node *n, struct stat *st)
{
    switch (n->kind) {
    case NODE_ROOT:
        dir_stat(d, FUSE_ROOT_ID, (views_root_name(d, 0) ? 6 : 3) + files_exist(d),
                 st); /* as find(1) counts */
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

/* Who may make journals beside live.db: not kept over mounts. */
void root_setattr(fuse_req_t req, struct node *n, const struct stat *attr, int to_set)
{
    struct daemon *d = daemon_of(req);
    struct stat st;
    if (to_set & FUSE_SET_ATTR_MODE)
        d->root_mode = attr->st_mode & 07777;
    if (to_set & FUSE_SET_ATTR_UID)
        d->root_uid = attr->st_uid;
    if (to_set & FUSE_SET_ATTR_GID)
        d->root_gid = attr->st_gid;
    double timeout = root_fill_stat(d, n, &st);
    fuse_reply_attr(req, &st, timeout);
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

void reply_xattr(fuse_req_t req, size_t size, const void *value, size_t len)
{
    if (size == 0)
        fuse_reply_xattr(req, len);
    else if (len > size)
        fuse_reply_err(req, ERANGE);
    else
        fuse_reply_buf(req, value, len);
}

/* n: as for reply_entry. */
static void reply_node(fuse_req_t req, struct node *n, double entry_timeout)
{
    struct fuse_entry_param e = {.entry_timeout = entry_timeout};
    if (n)
        e.attr_timeout = root_fill_stat(daemon_of(req), n, &e.attr);
    reply_entry(req, n, e);
}

void reply_absent(fuse_req_t req, double timeout)
{
    struct fuse_entry_param e = {.entry_timeout = timeout};
    fuse_reply_entry(req, &e);
}

static void refuse_in_ctl(struct daemon *d, const char *name)
{
    BH_STRBUF commands = {0};
    if (ctl_find(name) >= 0) {
        explain(d, CTL_DIR "/%s cannot be made, removed or renamed", name);
        return;
    }
    for (int i = 0; ctl_name(i); i++)
        if (ctl_is_command(i))
            bh_strbuf_addf(&commands, "%s%s", commands.len ? ", " : "", ctl_name(i));
    explain(d, "there is no %.100s in " CTL_DIR "; the commands are %s", name,
            commands.failed ? "listed there" : commands.data);
}

void root_refuse(fuse_req_t req, const struct node *dir, const char *name)
{
    struct daemon *d = daemon_of(req);
    if (dir->kind == NODE_VIEW) {
        views_explain(d, dir, name);
        fuse_reply_err(req, EROFS);
        return;
    }
    if (dir->kind == NODE_CTL_DIR)
        refuse_in_ctl(d, name);
    else
        explain(d,
                "%.100s: nothing is made, removed or renamed in the root of the mount but what "
                "SQLite has beside " BH_DB_NAME "; files have their place in " FILES_NAME "/",
                name);
    fuse_reply_err(req, EPERM);
}

void root_lookup(fuse_req_t req, const char *name)
{
    struct daemon *d = daemon_of(req);
    struct bh_file *f;
    if (!strcmp(name, CTL_DIR)) {
        reply_node(req, node_ctl_dir(), CACHE_SECONDS);
        return;
    }
    if (files_exist(d) && !strcmp(name, FILES_NAME)) {
        files_lookup_root(req);
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

void root_lookup_ctl(fuse_req_t req, const char *name)
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

/* --- listings --- */

bool listing_put(struct listing *l, const char *name, const struct fuse_entry_param *e, off_t next)
{
    char *at = l->buf + l->used;
    size_t left = l->size - l->used;
    size_t n = l->plus ? fuse_add_direntry_plus(l->req, at, left, name, e, next)
                       : fuse_add_direntry(l->req, at, left, name, &e->attr, next);
    if (n > left)
        return false;
    l->used += n;
    return true;
}

/* Without attributes: they are asked for by a lookup. */
int listing_add(struct listing *l, const char *name, ino_t ino, mode_t mode)
{
    const struct fuse_entry_param e = {.attr = {.st_ino = ino, .st_mode = mode}};
    if (l->slot++ < l->from)
        return 0;
    return listing_put(l, name, &e, l->slot) ? 0 : ENOBUFS;
}

static int add_file(void *arg, struct bh_file *f)
{
    struct stat st;
    if (bh_file_stat(f, &st) != 0)
        return 0;
    return listing_add(arg, f->name, f->kind == BH_FILE_DB ? 3 : st.st_ino, S_IFREG);
}

void root_list(struct daemon *d, const struct node *n, struct listing *l)
{
    bool is_root = n->kind == NODE_ROOT;
    if (listing_add(l, ".", is_root ? FUSE_ROOT_ID : INO_CTL_DIR, S_IFDIR) ||
        listing_add(l, "..", FUSE_ROOT_ID, S_IFDIR))
        return;
    if (is_root) {
        if (listing_add(l, CTL_DIR, INO_CTL_DIR, S_IFDIR))
            return;
        if (files_exist(d) && listing_add(l, FILES_NAME, files_root_ino(), S_IFDIR))
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
