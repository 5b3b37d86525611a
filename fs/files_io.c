/* Open files in files/. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "util/cleanup.h"

/* What is larger is written by a worker: a disk that falls behind makes who writes wait, and the
 * loop thread must not. */
#define WRITE_AT_ONCE (64u << 10)

/* --- handles --- */

static pthread_mutex_t handles_mutex = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, handle) handles = LIST_HEAD_INITIALIZER(handles);

static struct handle *new_handle(void)
{
    struct handle *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    BH_LOCK_SCOPE(&handles_mutex);
    LIST_INSERT_HEAD(&handles, h, all);
    return h;
}

static void free_handle(struct handle *h)
{
    pthread_mutex_lock(&handles_mutex);
    LIST_REMOVE(h, all);
    pthread_mutex_unlock(&handles_mutex);
    free(h);
}

void files_drop_handles(void)
{
    while (!LIST_EMPTY(&handles))
        free_handle(LIST_FIRST(&handles));
}

/* --- opening --- */

static int make_handle(struct request *r, uint64_t ino, bool wait, struct bh_error *err)
{
    bool writing = (r->fi.flags & O_ACCMODE) != O_RDONLY;
    struct handle *h = new_handle();
    if (!h)
        return ENOMEM;
    h->writing = writing;
    int rc = bh_files_use(r->files, ino, writing, &h->open, wait, err);
    if (rc == 0 && r->epoch != atomic_load(&r->daemon->files_epoch)) { /* it waited over a swap */
        bh_open_drop(h->open, writing);
        rc = ESTALE;
    }
    if (rc) {
        free_handle(h);
        return rc;
    }
    h->locks = files_locks_hold(ino);
    h->ino = ino;
    h->epoch = r->epoch;
    r->fi.fh = (uintptr_t)h;
    r->fi.keep_cache = 1;
    return 0;
}

/* One that no client ever had. */
static void drop_handle(struct daemon *d, struct handle *h)
{
    files_locks_drop(d, h);
    bh_open_drop(h->open, h->writing);
    free_handle(h);
}

/* What is written by others than root loses its set-id bits; with atomic O_TRUNC the kernel leaves
 * that to us (open(2), inode(7)). */
static int empty_it(struct request *r, uint64_t ino, struct bh_inode *out, struct bh_error *err)
{
    struct bh_inode to = {0};
    int rc = bh_files_set(r->files, ino, BH_SET_CONTENT, &to, out, true, err);
    if (rc)
        return rc;
    to.mode = files_without_set_id(out->mode);
    if (to.mode == out->mode || fuse_req_ctx(r->req)->uid == 0)
        return 0;
    return bh_files_set(r->files, ino, BH_SET_MODE, &to, out, true, err);
}

/* Before an open file is changed, if the kernel left that to us. (Meanwhile it changes no mode: it
 * has the inode locked.) What was swapped meanwhile nobody sees any more. */
static int drop_set_id(struct request *r, bool wait, struct bh_error *err)
{
    const struct handle *h = handle_of(&r->fi);
    struct bh_inode i, to = {0};
    if (!r->drops_set_id || h->epoch != atomic_load(&r->daemon->files_epoch))
        return 0;
    int rc = bh_names_get(bh_files_names(r->files), h->ino, &i, wait, err);
    if (rc)
        return rc == ENOENT ? 0 : rc;
    to.mode = files_without_set_id(i.mode);
    if (to.mode == i.mode)
        return 0;
    rc = bh_files_enter(r->files, wait);
    if (rc)
        return rc;
    if (h->epoch == atomic_load(&r->daemon->files_epoch))
        rc = bh_files_set(r->files, h->ino, BH_SET_MODE, &to, &i, wait, err);
    bh_files_leave(r->files, rc == 0);
    return rc;
}

static int run_open(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_inode now;
    bool truncates = r->fi.flags & O_TRUNC;
    if (truncates && !wait)
        return EAGAIN;
    int rc = make_handle(r, r->ino, wait, err);
    if (rc == 0 && truncates) {
        rc = empty_it(r, r->ino, &now, err);
        if (rc)
            drop_handle(r->daemon, handle_of(&r->fi));
    }
    if (rc)
        return rc;
    struct handle *h = handle_of(&r->fi);
    if (fuse_reply_open(r->req, &r->fi) == -ENOENT) /* interrupted: there will be no release */
        drop_handle(r->daemon, h);
    return 0;
}

void files_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct request r;
    if (!request_init(&r, req, ino, run_open))
        return;
    r.fi = *fi;
    r.changes = fi->flags & O_TRUNC;
    request_start(&r);
}

static int run_create(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_inode i;
    int rc = bh_names_make(bh_files_names(r->files), r->ino, r->name, &r->what, NULL, false, &i,
                           wait, err);
    bool there = rc == EEXIST && !(r->fi.flags & O_EXCL) && S_ISREG(i.mode);
    bool truncates = there && r->fi.flags & O_TRUNC;
    if (truncates && !wait)
        return EAGAIN;
    /* What was made is in memory: no need to wait; and a second try would meet it. */
    if (rc == 0 || there)
        rc = make_handle(r, i.ino, wait || !there, err);
    if (rc == 0 && truncates) {
        rc = empty_it(r, i.ino, &i, err);
        if (rc)
            drop_handle(r->daemon, handle_of(&r->fi));
    }
    if (rc)
        return rc;
    struct fuse_entry_param e = files_entry(r, &i);
    struct handle *h = handle_of(&r->fi);
    if (fuse_reply_create(r->req, &e, &r->fi) == -ENOENT)
        drop_handle(r->daemon, h);
    return 0;
}

void files_create(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode,
                  struct fuse_file_info *fi)
{
    struct request r;
    if (!request_init(&r, req, dir, run_create))
        return;
    r.changes = true;
    r.name = name;
    r.fi = *fi;
    r.what.mode = S_IFREG | (mode & 07777);
    r.what.uid = fuse_req_ctx(req)->uid;
    r.what.gid = fuse_req_ctx(req)->gid;
    request_start(&r);
}

static int run_release(struct request *r, bool wait, struct bh_error *err)
{
    struct handle *h = handle_of(&r->fi);
    (void)err;
    int rc = bh_open_put(h->open, h->writing, wait);
    if (rc)
        return rc;
    free_handle(h);
    fuse_reply_err(r->req, 0);
    return 0;
}

void files_release(fuse_req_t req, struct fuse_file_info *fi)
{
    struct request r;
    request_on(&r, req, fi, run_release);
    files_locks_drop(r.daemon, handle_of(fi));
    request_start(&r);
}

/* --- reading --- */

static int run_read(struct request *r, bool wait, struct bh_error *err)
{
    struct handle *h = handle_of(&r->fi);
    BH_FREE char *own = wait ? malloc(r->size) : NULL;
    char *buf = wait ? own : loop_buffer;
    size_t got;
    if (!buf)
        return ENOMEM;
    int rc = bh_open_read(h->open, buf, r->size, r->offset, &got, wait, r->call, err);
    if (rc == EAGAIN && !wait)
        r->fetches = bh_open_fetches(h->open);
    if (rc)
        return rc;
    request_settle(r);
    fuse_reply_buf(r->req, buf, got);
    return 0;
}

void files_read(fuse_req_t req, size_t size, off_t off, const struct fuse_file_info *fi)
{
    struct request r;
    request_on(&r, req, fi, run_read);
    r.offset = (uint64_t)off;
    r.size = size < READ_MAX ? size : READ_MAX;
    request_start(&r);
}

/* --- writing --- */

static int run_write(struct request *r, bool wait, struct bh_error *err)
{
    struct handle *h = handle_of(&r->fi);
    int rc = !wait && r->data_size > WRITE_AT_ONCE ? EAGAIN : drop_set_id(r, wait, err);
    if (rc == 0)
        rc = bh_open_write(h->open, r->data, r->data_size, r->offset, wait, r->call, err);
    if (rc == EAGAIN && !wait)
        r->fetches = bh_open_fetches(h->open);
    if (rc)
        return rc;
    request_settle(r);
    fuse_reply_write(r->req, r->data_size);
    return 0;
}

void files_write(fuse_req_t req, const char *buf, size_t size, off_t off,
                 const struct fuse_file_info *fi)
{
    struct request r;
    request_on(&r, req, fi, run_write);
    r.offset = (uint64_t)off;
    r.data = buf;
    r.data_size = size;
    request_start(&r);
}

static int run_flush(struct request *r, bool wait, struct bh_error *err)
{
    struct handle *h = handle_of(&r->fi);
    int rc = h->writing ? bh_open_flush(h->open, wait, err) : 0;
    if (rc == 0)
        fuse_reply_err(r->req, 0);
    return rc;
}

void files_flush(fuse_req_t req, struct fuse_file_info *fi)
{
    struct request r;
    request_on(&r, req, fi, run_flush);
    files_locks_flush(r.daemon, handle_of(fi), fi->lock_owner);
    request_start(&r);
}

static int run_fsync(struct request *r, bool wait, struct bh_error *err)
{
    if (!wait)
        return EAGAIN;
    int rc = r->flags ? bh_names_sync(bh_files_names(r->files), err)
                      : bh_open_sync(handle_of(&r->fi)->open, err);
    if (rc == 0)
        fuse_reply_err(r->req, 0);
    return rc;
}

void files_fsync(fuse_req_t req, struct fuse_file_info *fi, bool is_dir)
{
    struct request r;
    request_on(&r, req, fi, run_fsync);
    r.flags = is_dir;
    request_start(&r);
}

static int run_fallocate(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_open *o = handle_of(&r->fi)->open;
    if (!wait) {
        r->fetches = bh_open_fetches(o);
        return EAGAIN;
    }
    int rc = drop_set_id(r, true, err);
    if (rc == 0)
        rc = bh_open_allocate(o, (int)r->flags, r->offset, r->size, r->call, err);
    if (rc)
        return rc;
    request_settle(r);
    fuse_reply_err(r->req, 0);
    return 0;
}

void files_fallocate(fuse_req_t req, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
    struct request r;
    request_on(&r, req, fi, run_fallocate);
    r.flags = (unsigned)mode;
    r.offset = (uint64_t)off;
    r.size = (size_t)len;
    request_start(&r);
}

static int run_lseek(struct request *r, bool wait, struct bh_error *err)
{
    uint64_t at = 0;
    int rc = bh_open_seek(handle_of(&r->fi)->open, r->offset, (int)r->flags, &at, wait, err);
    if (rc)
        return rc;
    request_settle(r);
    fuse_reply_lseek(r->req, (off_t)at);
    return 0;
}

void files_lseek(fuse_req_t req, off_t off, int whence, struct fuse_file_info *fi)
{
    struct request r;
    if (off < 0) {
        fuse_reply_err(req, ENXIO);
        return;
    }
    request_on(&r, req, fi, run_lseek);
    r.fetches = true; /* waits for who fetches */
    r.offset = (uint64_t)off;
    r.flags = (unsigned)whence;
    request_start(&r);
}
