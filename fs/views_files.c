/* files/ and blobs/ of snapshots and branches, and the live blobs/: nothing in there changes. What
 * is in a snapshot the kernel keeps; what the live files have it asks for each time. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "views.h"

/* --- nodes --- */

ino_t view_child_ino(const struct view *dir, const struct bh_inode *i)
{
    char number[2 * BH_SHA256_LEN + 1];
    if (dir->kind == VIEW_BLOBS) {
        bh_sha256_format(i->content.hash, number);
        return view_ino(dir->path, number);
    }
    if (i->ino == BH_NAMES_ROOT)
        return view_ino(dir->path, NULL);
    snprintf(number, sizeof number, "%llu", (unsigned long long)i->ino);
    return view_ino(dir->path, number);
}

struct view *view_child(const struct view *dir, enum view_kind kind, const char *name,
                        const struct bh_inode *i, const char *object_key)
{
    size_t name_len = strlen(name) + 1, key_len = strlen(object_key) + 1;
    struct view *v = malloc(sizeof *v + sizeof *i + name_len + key_len);
    if (!v)
        return NULL;
    struct bh_inode *inode = memcpy(v + 1, i, sizeof *i);
    char *text = (char *)(inode + 1);
    *v = (struct view){.kind = kind,
                       .fixed = dir->fixed,
                       .e = dir->e,
                       .ino = view_child_ino(dir, i),
                       .branch = "",
                       .name = memcpy(text, name, name_len),
                       .path = dir->set->path,
                       .key = "",
                       .set = dir->set,
                       .inode = inode,
                       .object_key = memcpy(text + name_len, object_key, key_len)};
    atomic_fetch_add(&dir->set->users, 1);
    return v;
}

struct bh_inode view_blob_inode(struct daemon *d, const struct view *dir,
                                const uint8_t hash[BH_SHA256_LEN], uint64_t size)
{
    int64_t ns = (dir->fixed ? dir->e->time_ms : d->started_ms) * 1000000;
    struct bh_inode i = {.mode = S_IFREG | 0444,
                         .nlink = 1,
                         .uid = d->uid,
                         .gid = d->gid,
                         .atime = ns,
                         .mtime = ns,
                         .ctime = ns,
                         .content = {.size = size, .hash_size = size}};
    memcpy(i.content.hash, hash, BH_SHA256_LEN);
    return i;
}

bool views_is_fixed(const struct node *n)
{
    return n->kind == NODE_VIEW && n->view->set;
}

/* --- names --- */

void view_files_task(struct view_task *t)
{
    /* The names of the live blobs are here: who asks for them does not wait behind a slow bucket.
     */
    t->workers =
        !t->view->fixed && t->view->set ? t->daemon->file_workers : t->daemon->file_fetchers;
    t->call.deadline_ms = bh_mono_ms() + bh_config_of(t->daemon->bh)->files.timeout_ms;
}

int view_files_root(struct daemon *d, struct view *v, const struct bh_call *call,
                    struct bh_error *err)
{
    struct open_names *n;
    struct bh_inode *root = (struct bh_inode *)(void *)(v + 1); /* view_new left room */
    int rc = names_get(d, v->e, &n, err);
    if (rc)
        return rc;
    rc = bh_names_view_get(names_view(n), BH_NAMES_ROOT, root, call, err);
    if (rc == 0 && !S_ISDIR(root->mode))
        rc = bh_fail(err, EIO, "snapshot %s: names.db is damaged: its root is no directory",
                     v->e->id);
    names_put(n);
    if (rc == 0)
        v->inode = root;
    return rc;
}

static int find_file(struct daemon *d, const struct view *dir, const char *name, struct view **out,
                     const struct bh_call *call, struct bh_error *err)
{
    struct open_names *n;
    struct bh_inode i;
    int rc = names_get(d, dir->e, &n, err);
    if (rc)
        return rc;
    rc = bh_names_view_lookup(names_view(n), dir->inode->ino, name, &i, call, err);
    names_put(n);
    if (rc == 0)
        *out = view_child(dir, VIEW_FILE, name, &i, "");
    return rc;
}

static int find_old_blob(struct daemon *d, const struct view *dir, const uint8_t *hash,
                         uint64_t *size, const struct bh_call *call, struct bh_error *err)
{
    struct open_names *n;
    int rc = names_get(d, dir->e, &n, err);
    if (rc)
        return rc;
    rc = bh_names_view_find_blob(names_view(n), hash, size, call, err);
    names_put(n);
    return rc;
}

static int find_blob(struct daemon *d, const struct view *dir, const char *name, struct view **out,
                     const struct bh_call *call, struct bh_error *err)
{
    uint8_t hash[BH_SHA256_LEN];
    struct bh_blob_row row = {0};
    if (!bh_sha256_parse(name, hash))
        return ENOENT;
    int rc = dir->fixed ? find_old_blob(d, dir, hash, &row.size, call, err)
                        : bh_files_find_blob(d->files, hash, &row, err);
    if (rc)
        return rc;
    struct bh_inode i = view_blob_inode(d, dir, hash, row.size);
    *out = view_child(dir, VIEW_BLOB, name, &i, row.object_key);
    return 0;
}

int view_files_find(struct daemon *d, const struct view *dir, const char *name, struct view **out,
                    const struct bh_call *call, struct bh_error *err)
{
    if (!view_is_dir(dir))
        return ENOTDIR;
    if (!call)
        return EAGAIN;
    return dir->kind == VIEW_BLOBS ? find_blob(d, dir, name, out, call, err)
                                   : find_file(d, dir, name, out, call, err);
}

/* A task of files' that nothing is known of without asking. */
static void start(fuse_req_t req, const struct view *v, view_run_fn *run, const char *name,
                  size_t size)
{
    struct view_task *t = view_task_new(req, v, run, name);
    if (!t)
        return;
    t->size = size;
    view_files_task(t);
    view_task_start(t);
}

/* Whether the error is a plain answer, of which nothing need be told. */
static int refuse(struct view_task *t, int rc)
{
    if (view_task_done(t))
        fuse_reply_err(t->req, rc);
    return 0;
}

static int run_readlink(struct view_task *t, struct bh_error *err)
{
    BH_FREE char *target = NULL;
    struct open_names *n;
    int rc = names_get(t->daemon, t->view->e, &n, err);
    if (rc)
        return rc;
    rc = bh_names_view_readlink(names_view(n), t->view->inode->ino, &target, &t->call, err);
    names_put(n);
    if (rc)
        return rc;
    if (view_task_done(t))
        fuse_reply_readlink(t->req, target);
    return 0;
}

void views_readlink(fuse_req_t req, struct node *n)
{
    const struct view *v = n->view;
    if (v->inode && S_ISLNK(v->inode->mode))
        start(req, v, run_readlink, NULL, 0);
    else
        fuse_reply_err(req, EINVAL);
}

/* --- extended attributes --- */

static void reply_value(struct view_task *t, const void *value, size_t len)
{
    if (view_task_done(t))
        reply_xattr(t->req, t->size, value, len);
}

static int our_value(struct view_task *t, struct bh_strbuf *out, struct bh_error *err)
{
    const struct view *v = t->view;
    struct bh_blob_row row = {0};
    enum bh_blob_state state = BH_BLOB_STORED; /* what is in a snapshot is in the bucket */
    if (!v->fixed)
        state = bh_blobs_state(bh_files_blobs(t->daemon->files), v->inode->content.hash);
    struct files_content c = {.blobs = bh_files_blobs(t->daemon->files),
                              .inode = v->inode,
                              .state = state,
                              .mime = BH_MIME_UNKNOWN};
    if (v->kind == VIEW_FILE) {
        int rc = files_xattr_mime(t->daemon->files, t->name, v->name, &c, &row, err);
        if (rc)
            return rc;
    }
    /* The row is in live.db, of which others may be in the way. */
    if (v->kind != VIEW_FILE && files_xattr_needs_row(t->name)) {
        int rc = bh_files_find_row(t->daemon->files, v->inode->content.hash, &row, err);
        if (rc && rc != ENOENT)
            return rc;
        if (row.mime[0])
            c.mime = row.mime;
        c.object_key = row.object_key;
    }
    return files_xattr_value(t->name, &c, out, err);
}

static int run_getxattr(struct view_task *t, struct bh_error *err)
{
    const struct view *v = t->view;
    BH_FREE void *value = NULL;
    BH_STRBUF text = {0};
    struct open_names *n;
    size_t len;
    int rc;
    if (files_xattr_is_ours(t->name)) {
        rc = our_value(t, &text, err);
        if (rc == 0)
            reply_value(t, text.data ? text.data : "", text.len);
        return rc == ENODATA ? refuse(t, rc) : rc;
    }
    rc = names_get(t->daemon, v->e, &n, err);
    if (rc)
        return rc;
    rc = bh_names_view_getxattr(names_view(n), v->inode->ino, t->name, &value, &len, &t->call, err);
    names_put(n);
    if (rc == 0)
        reply_value(t, value, len);
    return rc == ENODATA ? refuse(t, rc) : rc;
}

void views_getxattr(fuse_req_t req, struct node *n, const char *name, size_t size)
{
    const struct view *v = n->view;
    int rc = v->set ? files_xattr_check(name) : EOPNOTSUPP;
    if (rc)
        fuse_reply_err(req, rc);
    else if (!v->inode || (v->kind == VIEW_BLOB && !files_xattr_is_ours(name)) ||
             strlen(name) > NAME_MAX)
        fuse_reply_err(req, ENODATA);
    else
        start(req, v, run_getxattr, name, size);
}

static int run_listxattr(struct view_task *t, struct bh_error *err)
{
    const struct view *v = t->view;
    BH_FREE char *list = NULL;
    BH_STRBUF all = {0};
    struct open_names *n;
    size_t len = 0;
    int rc = v->kind == VIEW_BLOB ? 0 : names_get(t->daemon, v->e, &n, err);
    if (rc == 0 && v->kind != VIEW_BLOB) {
        rc = bh_names_view_listxattr(names_view(n), v->inode->ino, &list, &len, &t->call, err);
        names_put(n);
    }
    if (rc)
        return rc;
    files_xattr_list(t->req, list ? list : "", len, &all);
    if (all.failed)
        return bh_fail(err, ENOMEM, "out of memory");
    reply_value(t, all.data ? all.data : "", all.len);
    return 0;
}

void views_listxattr(fuse_req_t req, struct node *n, size_t size)
{
    if (n->view->inode)
        start(req, n->view, run_listxattr, NULL, size);
    else
        reply_xattr(req, size, NULL, 0);
}

/* --- contents --- */

/* An open file. All are on a list: where the mount goes without a word they are closed by us. */
struct view_handle {
    LIST_ENTRY(view_handle) all;
    struct bh_blob *blob; /* NULL: it is empty */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, view_handle) handles = LIST_HEAD_INITIALIZER(handles);

static struct view_handle *handle_of_view(const struct fuse_file_info *fi)
{
    return (struct view_handle *)(uintptr_t)fi->fh;
}

static void handle_free(struct view_handle *h)
{
    pthread_mutex_lock(&mutex);
    LIST_REMOVE(h, all);
    pthread_mutex_unlock(&mutex);
    if (h->blob)
        bh_blob_close(h->blob);
    free(h);
}

static int open_blob(struct daemon *d, const struct view *v, struct bh_blob **out)
{
    struct bh_blobs *b = bh_files_blobs(d->files);
    const struct bh_content *c = &v->inode->content;
    *out = NULL;
    if (c->size == 0)
        return 0;
    return v->object_key[0] ? bh_blob_open_key(b, v->object_key, c->hash, c->size, out)
                            : bh_blob_open(b, c->hash, c->size, out);
}

void view_files_open(fuse_req_t req, const struct view *v, struct fuse_file_info *fi)
{
    struct view_handle *h = calloc(1, sizeof *h);
    int rc = h ? open_blob(daemon_of(req), v, &h->blob) : ENOMEM;
    if (rc) {
        free(h);
        fuse_reply_err(req, rc);
        return;
    }
    pthread_mutex_lock(&mutex);
    LIST_INSERT_HEAD(&handles, h, all);
    pthread_mutex_unlock(&mutex);
    fi->fh = (uintptr_t)h;
    fi->keep_cache = 1; /* the content of a node never changes */
    if (fuse_reply_open(req, fi) == -ENOENT)
        handle_free(h);
}

static int run_read(struct view_task *t, struct bh_error *err)
{
    const struct view *v = t->view;
    struct view_handle *h = handle_of_view(&t->fi);
    BH_FREE char *buf = malloc(t->size);
    size_t got;
    if (!buf)
        return bh_fail(err, ENOMEM, "out of memory reading %s in %s", v->name, v->path);
    int rc = bh_blob_read(h->blob, buf, t->size, (uint64_t)t->offset, &got, &t->call, err);
    if (rc)
        return bh_fail_prefix(err, rc, "%s in %s", v->name, v->path);
    if (view_task_done(t))
        fuse_reply_buf(t->req, buf, got);
    return 0;
}

void view_files_read(fuse_req_t req, const struct view *v, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    struct view_handle *h = handle_of_view(fi);
    size_t got = 0;
    size = size < READ_MAX ? size : READ_MAX;
    if (!h->blob || bh_blob_read_at_once(h->blob, loop_buffer, size, (uint64_t)off, &got) == 0) {
        fuse_reply_buf(req, loop_buffer, got);
        return;
    }
    struct view_task *t = view_task_new(req, v, run_read, NULL);
    if (!t)
        return;
    t->fi = *fi;
    t->size = size;
    t->offset = off;
    view_files_task(t);
    t->workers = t->daemon->file_fetchers;
    view_task_start(t);
}

void view_files_release(fuse_req_t req, struct fuse_file_info *fi)
{
    handle_free(handle_of_view(fi));
    fuse_reply_err(req, 0);
}

/* All is data. */
void views_lseek(fuse_req_t req, struct node *n, off_t off, int whence)
{
    const struct bh_inode *i = n->view->inode;
    if (!i || !S_ISREG(i->mode) || (whence != SEEK_DATA && whence != SEEK_HOLE))
        fuse_reply_err(req, EINVAL);
    else if (off < 0 || (uint64_t)off >= i->content.size)
        fuse_reply_err(req, ENXIO);
    else
        fuse_reply_lseek(req, whence == SEEK_DATA ? off : (off_t)i->content.size);
}

void views_end(void)
{
    while (!LIST_EMPTY(&handles))
        handle_free(LIST_FIRST(&handles));
    names_close_all();
}
