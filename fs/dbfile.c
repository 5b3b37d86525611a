/* live.db and its side files, at the clients' door. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon.h"
#include "util/cleanup.h"
#include "util/log.h"

#define INO_DB    3
#define MODE_BITS 01777 /* of files that are never programs: nobody asks for set-id bits */

bool note_status(struct daemon *d, const char *text)
{
    BH_LOCK_SCOPE(&d->status_mutex);
    if (!strcmp(d->last_status, text))
        return false;
    snprintf(d->last_status, sizeof d->last_status, "%s", text);
    return true;
}

void explain(struct daemon *d, const char *fmt, ...)
{
    char text[BH_ERROR_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (note_status(d, text)) /* a client that tries for ever must not fill the log */
        bh_log(BH_LOG_WARNING, "%s", text);
}

/* --- attributes --- */

/* -shm grows by the daemon's doing, too, and clients map it by its size. */
double dbfile_attr_seconds(const struct bh_file *f)
{
    return f->kind == BH_FILE_SHM ? 0 : CACHE_SECONDS;
}

void dbfile_stat(struct daemon *d, struct bh_file *f, struct stat *st)
{
    (void)d;
    if (bh_file_stat(f, st) != 0)
        memset(st, 0, sizeof *st);
    if (f->kind == BH_FILE_DB)
        st->st_ino = INO_DB;
    st->st_nlink = f->linked ? 1 : 0;
    st->st_blksize = 4096;
}

static void refuse_unlocked(fuse_req_t req, struct daemon *d, struct bh_file *f, const char *what)
{
    explain(d,
            "%s can only be written by SQLite, under its locks: %s by process %d was "
            "refused. To replace the content of " BH_DB_NAME ": bhfs import FILE %s",
            f->name, what, (int)fuse_req_ctx(req)->pid, d->mountpoint);
    fuse_reply_err(req, EPERM);
}

/* Whether no client has the lock under which SQLite writes to the file: to write all the same would
 * ruin the database. */
static bool may_write(struct daemon *d, struct bh_file *f)
{
    switch (f->kind) {
    case BH_FILE_DB:
        return bh_locks_summary(d->locks, &f->locks).client_writer ||
               bh_locks_wal_summary(d->locks).client_ckpt;
    case BH_FILE_WAL:
        return bh_locks_wal_summary(d->locks).client_writer ||
               bh_locks_summary(d->locks, &d->db->locks).client_writer;
    case BH_FILE_SHM: /* what is written back has no locks: the process beside the daemon's, too */
        return bh_shm_is_remote(f->shm);
    default:
        return true;
    }
}

/* The first to use -shm cuts it to a few bytes, under DMS for itself. Where connections of this
 * process use it, it is as good as new without that, and must keep its size. */
static int truncate_shm(struct bh_file *f, uint64_t size)
{
    return size < bh_file_size(f) && bh_shm_is_used(f->shm)
               ? 0
               : bh_file_truncate(f, BH_DOOR_CLIENT, size);
}

static bool may_truncate(struct daemon *d, struct bh_file *f, uint64_t size)
{
    struct bh_lock_request r = {.set = &f->locks,
                                .owner = {.internal = true},
                                .type = BH_LOCK_READ,
                                .start = BH_WAL_DMS,
                                .end = BH_WAL_DMS};
    struct bh_lock held;
    if (f->kind == BH_FILE_SHM && size < bh_file_size(f))
        return bh_locks_test(d->locks, &r, &held); /* somebody has it for himself */
    return may_write(d, f);
}

static int truncate_file(struct bh_file *f, uint64_t size)
{
    return f->kind == BH_FILE_SHM ? truncate_shm(f, size)
                                  : bh_file_truncate(f, BH_DOOR_CLIENT, size);
}

static int set_times(struct bh_file *f, const struct stat *attr, int to_set)
{
    struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    if (to_set & FUSE_SET_ATTR_ATIME_NOW)
        t[0].tv_nsec = UTIME_NOW;
    else if (to_set & FUSE_SET_ATTR_ATIME)
        t[0] = attr->st_atim;
    if (to_set & FUSE_SET_ATTR_MTIME_NOW)
        t[1].tv_nsec = UTIME_NOW;
    else if (to_set & FUSE_SET_ATTR_MTIME)
        t[1] = attr->st_mtim;
    return futimens(f->disk.fd, t) == 0 ? 0 : errno;
}

static int change(struct bh_file *f, const struct stat *attr, int to_set)
{
    int rc = 0;
    if (to_set & FUSE_SET_ATTR_MODE && fchmod(f->disk.fd, attr->st_mode & MODE_BITS) != 0)
        rc = errno;
    if (rc == 0 && to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) &&
        fchown(f->disk.fd, to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1,
               to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1) != 0)
        rc = errno;
    if (rc == 0 && to_set & FUSE_SET_ATTR_SIZE)
        rc = truncate_file(f, (uint64_t)attr->st_size);
    if (rc == 0 && to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW |
                             FUSE_SET_ATTR_MTIME_NOW))
        rc = set_times(f, attr, to_set);
    return rc;
}

/* Here and now, or on a fetcher: where a part of what it changes is in the bucket only. */
static void run_task(const struct file_task *t, bool needs_fetch)
{
    if (!needs_fetch)
        t->run(t);
    else if (!file_task_start(t->daemon->fetchers, t))
        fuse_reply_err(t->req, ENOMEM);
}

struct new_attr {
    struct stat attr;
    int to_set;
};

static void run_change(const struct file_task *t)
{
    const struct new_attr *wanted = t->data;
    struct stat st;
    int rc = change(t->file, &wanted->attr, wanted->to_set);
    if (rc) {
        fuse_reply_err(t->req, rc);
        return;
    }
    dbfile_stat(t->daemon, t->file, &st);
    fuse_reply_attr(t->req, &st, dbfile_attr_seconds(t->file));
}

void dbfile_setattr(fuse_req_t req, struct node *n, struct stat *attr, int to_set)
{
    struct daemon *d = daemon_of(req);
    struct new_attr wanted = {.attr = *attr, .to_set = to_set};
    struct file_task t = {.run = run_change,
                          .daemon = d,
                          .req = req,
                          .file = n->file,
                          .data = &wanted,
                          .size = sizeof wanted};
    uint64_t size = (uint64_t)attr->st_size;
    bool truncates = to_set & FUSE_SET_ATTR_SIZE;
    if (truncates && !may_truncate(d, n->file, size))
        refuse_unlocked(req, d, n->file, "a truncation");
    else
        run_task(&t, truncates && bh_file_truncate_needs_fetch(n->file, BH_DOOR_CLIENT, size));
}

/* --- opening --- */

static void prepare_handle(struct daemon *d, struct bh_file *f, struct fuse_file_info *fi)
{
    fi->fh = atomic_fetch_add(&d->next_handle, 1);
    fi->keep_cache = 1;
    /* SQLite locks the database and -shm only. */
    fi->noflush = f->kind == BH_FILE_JOURNAL || f->kind == BH_FILE_WAL;
}

static void run_open_truncated(const struct file_task *t)
{
    int rc = truncate_file(t->file, 0);
    if (rc)
        fuse_reply_err(t->req, rc);
    else
        fuse_reply_open(t->req, t->data);
}

void dbfile_open(fuse_req_t req, struct node *n, struct fuse_file_info *fi)
{
    struct daemon *d = daemon_of(req);
    prepare_handle(d, n->file, fi);
    if (!(fi->flags & O_TRUNC)) {
        fuse_reply_open(req, fi);
        return;
    }
    struct file_task t = {.run = run_open_truncated,
                          .daemon = d,
                          .req = req,
                          .file = n->file,
                          .data = fi,
                          .size = sizeof *fi};
    if (!may_truncate(d, n->file, 0))
        refuse_unlocked(req, d, n->file, "a truncation");
    else
        run_task(&t, bh_file_truncate_needs_fetch(n->file, BH_DOOR_CLIENT, 0));
}

/* The owner is who made it; the daemon's user where that cannot be set. */
static void set_owner(struct daemon *d, fuse_req_t req, struct bh_file *f, mode_t mode)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    if (mode & 022 && fchmod(f->disk.fd, mode & MODE_BITS) != 0) /* our umask is not the client's */
        bh_log(BH_LOG_DEBUG, "%s keeps its mode: %s", f->name, strerror(errno));
    if (ctx->uid != d->uid && fchown(f->disk.fd, ctx->uid, ctx->gid) != 0)
        bh_log(BH_LOG_DEBUG, "%s stays with user %u: %s", f->name, (unsigned)d->uid,
               strerror(errno));
}

void dbfile_create(fuse_req_t req, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    struct daemon *d = daemon_of(req);
    struct bh_file *f;
    int rc = bh_store_create(d->store, BH_DOOR_CLIENT, name, mode & 07777, &f);
    if (rc == EEXIST &&
        !(fi->flags & O_EXCL)) { /* the daemon's own, made since the kernel looked */
        rc = bh_store_lookup_outside(d->store, name, &f);
        if (rc == 0 && fi->flags & O_TRUNC) {
            rc = may_truncate(d, f, 0) ? truncate_file(f, 0) : EPERM;
            if (rc)
                bh_file_unref(f);
        }
    } else if (rc == 0) {
        set_owner(d, req, f, mode);
    }
    struct node *n = rc == 0 ? node_for_file(f) : NULL;
    if (rc == 0) {
        bh_file_unref(f); /* the node has its own */
        rc = n ? 0 : ENOMEM;
    }
    if (rc == EPERM && bh_file_kind_of(name) == BH_FILE_OTHER) {
        root_refuse(req, node_of(FUSE_ROOT_ID), name);
        return;
    }
    if (rc) {
        fuse_reply_err(req, rc);
        return;
    }
    struct fuse_entry_param e = {.ino = node_ino(n),
                                 .attr_timeout = dbfile_attr_seconds(n->file),
                                 .entry_timeout = CACHE_SECONDS};
    dbfile_stat(d, n->file, &e.attr);
    prepare_handle(d, n->file, fi);
    if (fuse_reply_create(req, &e, fi) == -ENOENT)
        node_forget(e.ino, 1);
}

static void run_sync(const struct file_task *t)
{
    struct bh_store *s = t->daemon->store;
    int rc = t->file ? bh_file_sync(t->file) : bh_store_sync_names(s);
    /* A journal-less commit is complete with the sync: there is nothing to put back any more. */
    if (rc == 0 && t->file && t->file->kind == BH_FILE_DB)
        rc = bh_store_undo_forget(s);
    fuse_reply_err(t->req, rc);
}

/* Inline where it costs nothing, else on a worker. f NULL: the directory. */
static void sync_and_reply(fuse_req_t req, struct bh_file *f)
{
    struct daemon *d = daemon_of(req);
    struct file_task t = {.run = run_sync, .daemon = d, .req = req, .file = f};
    if (d->memory || !file_task_start(d->workers, &t))
        run_sync(&t);
}

static void run_unlink(const struct file_task *t)
{
    fuse_reply_err(t->req, bh_store_unlink_durably(t->daemon->store, t->data));
}

/* In DELETE mode this is the commit. If its client syncs at all, the commit it is told of is
 * durable, which SQLite itself promises only with synchronous=EXTRA. A log that came back after a
 * power cut would be laid over newer content. */
static bool must_be_durable(struct daemon *d, enum bh_file_kind kind)
{
    bool synced = atomic_exchange(&d->db->synced, false);
    return !d->memory &&
           (kind == BH_FILE_SUPER || kind == BH_FILE_WAL || (kind == BH_FILE_JOURNAL && synced));
}

void dbfile_unlink(fuse_req_t req, const char *name)
{
    struct daemon *d = daemon_of(req);
    enum bh_file_kind kind = bh_file_kind_of(name);
    if (kind == BH_FILE_DB)
        explain(d, BH_DB_NAME " cannot be removed: it is the live database of this mount");
    if (!bh_store_may_unlink(d->store, kind)) {
        explain(d,
                "%s is in use, or holds transactions that are nowhere else, and is not removed for "
                "process %d: SQLite does that when its last client closes " BH_DB_NAME,
                name, (int)fuse_req_ctx(req)->pid);
        fuse_reply_err(req, EPERM);
        return;
    }
    if (kind == BH_FILE_OTHER) {
        root_refuse(req, node_of(FUSE_ROOT_ID), name);
        return;
    }
    if (!must_be_durable(d, kind)) {
        fuse_reply_err(req, bh_store_unlink(d->store, name));
        return;
    }
    struct file_task t = {
        .run = run_unlink, .daemon = d, .req = req, .data = name, .size = strlen(name) + 1};
    if (!file_task_start(d->workers, &t))
        run_unlink(&t);
}

/* --- data --- */

/* Before the bytes are read: a change by the daemon between the reading and the reply (the kernel
 * reads ahead without a lock of its client's) must find them in the map, and its invalidation then
 * waits for the reply. */
static void note_held(struct daemon *d, struct bh_file *f, uint64_t offset, uint64_t size)
{
    if (f->kind == BH_FILE_DB)
        notify_held(d->notify, offset, size);
}

static void run_read(const struct file_task *t)
{
    BH_FREE char *buf = malloc(t->size);
    size_t got;
    note_held(t->daemon, t->file, t->offset, t->size);
    int rc = buf ? bh_file_read(t->file, buf, t->size, t->offset, &got) : ENOMEM;
    if (rc)
        fuse_reply_err(t->req, rc);
    else
        fuse_reply_buf(t->req, buf, got);
}

void dbfile_read(fuse_req_t req, struct node *n, size_t size, off_t off,
                 const struct fuse_file_info *fi)
{
    struct daemon *d = daemon_of(req);
    struct bh_file *f = n->file;
    struct file_task t = {
        .run = run_read, .daemon = d, .req = req, .file = f, .offset = (uint64_t)off, .size = size};
    size_t got;
    if (f->kind == BH_FILE_SHM) {
        int rc = bh_shm_before_read(f->shm);
        if (rc)
            fuse_reply_err(req, rc);
        else
            run_read(&t);
        return;
    }
    bool absent = bh_file_is_absent(f, t.offset, size);
    if (f->kind == BH_FILE_DB && readahead_declines(n, fi, t.offset, size, absent)) {
        fuse_reply_err(req, EAGAIN);
        return;
    }
    if (!absent) {
        note_held(d, f, t.offset, size);
        /* What is in the page cache is answered here and now. */
        if (size <= sizeof loop_buffer &&
            bh_file_read_at_once(f, loop_buffer, size, t.offset, d->memory, &got) == 0) {
            fuse_reply_buf(req, loop_buffer, got);
            return;
        }
    }
    if (!file_task_start(absent ? d->fetchers : d->workers, &t))
        run_read(&t);
}

/* The reply comes first: the kernel keeps the page locked until then. */
static void refuse_write(fuse_req_t req, struct daemon *d, struct bh_file *f, size_t size,
                         off_t off, bool mapped)
{
    refuse_unlocked(req, d, f, mapped ? "a write through a memory mapping, seen" : "a write");
    notify_refused(d->notify, f, (uint64_t)off, size);
}

static void run_write(const struct file_task *t)
{
    note_held(t->daemon, t->file, t->offset, t->size);
    int rc = bh_file_write(t->file, BH_DOOR_CLIENT, t->data, t->size, t->offset);
    if (rc)
        fuse_reply_err(t->req, rc);
    else
        fuse_reply_write(t->req, t->size);
}

void dbfile_write(fuse_req_t req, struct node *n, const char *buf, size_t size, off_t off,
                  const struct fuse_file_info *fi)
{
    struct daemon *d = daemon_of(req);
    struct bh_file *f = n->file;
    if (!may_write(d, f)) {
        refuse_write(req, d, f, size, off, fi->writepage);
        return;
    }
    struct file_task t = {.run = run_write,
                          .daemon = d,
                          .req = req,
                          .file = f,
                          .offset = (uint64_t)off,
                          .size = size,
                          .data = buf};
    run_task(&t, bh_file_write_needs_fetch(f, BH_DOOR_CLIENT, t.offset, size));
    if (f->kind == BH_FILE_WAL)
        bh_live_wal_grew(d->live, (uint64_t)off + size);
}

void dbfile_fsync(fuse_req_t req, struct node *n)
{
    sync_and_reply(req, n->file);
}

void dbfile_fsyncdir(fuse_req_t req)
{
    sync_and_reply(req, NULL);
}

/* --- closing --- */

void dbfile_flush(fuse_req_t req, struct node *n, struct fuse_file_info *fi)
{
    struct daemon *d = daemon_of(req);
    struct bh_owner owner = {.id = fi->lock_owner};
    if (n->file->kind != BH_FILE_DB || !bh_live_owner_died(d->live, owner))
        bh_locks_drop_owner(d->locks, &n->file->locks, owner);
    dbfile_shm_left(d, n->file);
    fuse_reply_err(req, 0);
}

void dbfile_release(fuse_req_t req, struct node *n, struct fuse_file_info *fi)
{
    struct daemon *d = daemon_of(req);
    bh_locks_drop_handle(d->locks, &n->file->locks, fi->fh);
    dbfile_shm_left(d, n->file);
    fuse_reply_err(req, 0);
}
