/* Listings of files/ and blobs/ in snapshots and branches, and of the live blobs/. One is taken
 * when it is begun; that of a snapshot is right for ever. */
#include <errno.h>
#include <stdlib.h>

#include "files.h"
#include "util/cleanup.h"
#include "views.h"

#define ENTRY_MIN 128 /* bytes of one in an answer with attributes, at least */

struct open_dir {
    bool plus; /* how the request that is under way wants it */
    struct bh_names_view_listing *files;
    struct bh_blob_list *blobs;
};

static struct open_dir *dir_of(const struct fuse_file_info *fi)
{
    return (struct open_dir *)(uintptr_t)fi->fh;
}

static void forget(struct open_dir *o)
{
    free(o->files);
    free(o->blobs);
    o->files = NULL;
    o->blobs = NULL;
}

void view_files_opendir(fuse_req_t req, const struct view *v, struct fuse_file_info *fi)
{
    struct open_dir *o = calloc(1, sizeof *o);
    if (!o) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    fi->fh = (uintptr_t)o;
    fi->cache_readdir = fi->keep_cache = v->fixed;
    if (fuse_reply_open(req, fi) == -ENOENT)
        free(o);
}

void view_files_releasedir(fuse_req_t req, struct fuse_file_info *fi)
{
    struct open_dir *o = dir_of(fi);
    forget(o);
    free(o);
    fuse_reply_err(req, 0);
}

/* --- taking a listing --- */

static int take_listing(struct daemon *d, const struct view *v, struct open_dir *o,
                        const struct bh_call *call, struct bh_error *err)
{
    struct open_names *n;
    forget(o);
    if (!v->fixed)
        return bh_files_list_blobs(d->files, &o->blobs, err);
    int rc = names_get(d, v->e, &n, err);
    if (rc)
        return rc;
    rc = v->kind == VIEW_BLOBS
             ? bh_names_view_list_blobs(names_view(n), &o->blobs, call, err)
             : bh_names_view_list(names_view(n), v->inode->ino, &o->files, call, err);
    names_put(n);
    return rc;
}

/* --- answering --- */

struct filling {
    struct listing listing;
    const struct view *dir;
    fuse_ino_t *nodes; /* that the answer gives the kernel a reference to */
    size_t node_count;
};

/* False: it is full. child: NULL, or what it is, taken over: with attributes. */
static bool add(struct filling *f, const char *name, ino_t ino, mode_t mode, off_t next,
                struct view *child)
{
    struct fuse_entry_param e = {.attr = {.st_ino = ino, .st_mode = mode}};
    if (child) {
        struct node *n;
        (void)view_stat(daemon_of(f->listing.req), child, &e.attr, NULL, NULL);
        e.attr_timeout = view_attr_seconds(child);
        e.entry_timeout = view_entry_seconds(f->dir);
        n = node_for_view(child);
        e.ino = n ? node_ino(n) : 0;
    }
    if (!listing_put(&f->listing, name, &e, next)) {
        if (e.ino)
            node_forget(e.ino, 1);
        return false;
    }
    if (e.ino)
        f->nodes[f->node_count++] = e.ino;
    return true;
}

static bool add_file(struct filling *f, const struct open_dir *o, size_t n)
{
    const struct bh_inode *i = &o->files->entries[n].inode;
    const char *name = o->files->entries[n].name;
    /* One without a type is damaged: looking it up tells. */
    struct view *child =
        f->listing.plus && i->mode ? view_child(f->dir, VIEW_FILE, name, i, "") : NULL;
    return add(f, name, view_child_ino(f->dir, i), i->mode & S_IFMT, (off_t)n + 3, child);
}

static bool add_blob(struct filling *f, const struct open_dir *o, size_t n)
{
    char name[BH_SHA256_HEX];
    struct bh_inode i = view_blob_inode(daemon_of(f->listing.req), f->dir, o->blobs->blobs[n].hash,
                                        o->blobs->blobs[n].size);
    bh_sha256_format(o->blobs->blobs[n].hash, name);
    struct view *child =
        f->listing.plus && f->dir->fixed ? view_child(f->dir, VIEW_BLOB, name, &i, "") : NULL;
    return add(f, name, view_child_ino(f->dir, &i), S_IFREG, (off_t)n + 3, child);
}

static ino_t ino_above(const struct view *v)
{
    struct bh_inode parent = {0};
    if (v->kind != VIEW_FILE)
        return view_parent_ino(v);
    parent.ino = v->inode->parent;
    return view_child_ino(v, &parent);
}

static void reply_listing(fuse_req_t req, const struct view *v, const struct open_dir *o,
                          size_t size, off_t from)
{
    BH_FREE char *buf = malloc(size);
    BH_FREE fuse_ino_t *nodes = calloc(size / ENTRY_MIN + 1, sizeof *nodes);
    struct filling f = {.listing = {.req = req, .buf = buf, .size = size, .plus = o->plus},
                        .dir = v,
                        .nodes = nodes};
    size_t count_ = o->files ? o->files->count : o->blobs->count;
    if (!buf || !nodes) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    bool more = true;
    if (from < 1)
        more = add(&f, ".", v->ino, S_IFDIR, 1, NULL);
    if (more && from < 2)
        more = add(&f, "..", ino_above(v), S_IFDIR, 2, NULL);
    for (size_t n = from > 2 ? (size_t)from - 2 : 0; more && n < count_; n++)
        more = o->files ? add_file(&f, o, n) : add_blob(&f, o, n);
    if (fuse_reply_buf(req, buf, f.listing.used) == -ENOENT)
        for (size_t n = 0; n < f.node_count; n++)
            node_forget(nodes[n], 1);
}

static int run_readdir(struct view_task *t, struct bh_error *err)
{
    struct open_dir *o = dir_of(&t->fi);
    int rc = take_listing(t->daemon, t->view, o, &t->call, err);
    if (rc)
        return rc;
    if (view_task_done(t))
        reply_listing(t->req, t->view, o, t->size, t->offset);
    return 0;
}

void view_files_readdir(fuse_req_t req, const struct view *v, size_t size, off_t off,
                        struct fuse_file_info *fi, bool plus)
{
    struct open_dir *o = dir_of(fi);
    o->plus = plus; /* the kernel reads a directory with one request at a time */
    if (!view_is_dir(v)) {
        fuse_reply_err(req, ENOTDIR);
        return;
    }
    bool taken = o->files || o->blobs;
    if (taken && (off > 0 || v->fixed)) {
        reply_listing(req, v, o, size, off);
        return;
    }
    struct view_task *t = view_task_new(req, v, run_readdir, NULL);
    if (!t)
        return;
    t->fi = *fi;
    t->size = size;
    t->offset = off;
    view_files_task(t);
    view_task_start(t);
}
