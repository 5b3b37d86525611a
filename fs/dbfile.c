/* live.db and its side files, at the clients' door. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon.h"
#include "util/cleanup.h"
#include "util/log.h"

#define INO_DB 3
/* The kernel asks for no more at once. */
#define READ_MAX (1u << 20)

void explain(struct daemon *d, const char *fmt, ...)
{
    char text[BH_ERROR_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&d->status_mutex);
    bool repeated =
        !strcmp(d->last_status, text); /* a client that tries for ever must not fill the log */
    memcpy(d->last_status, text, sizeof d->last_status);
    pthread_mutex_unlock(&d->status_mutex);
    if (!repeated)
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
    if (to_set & FUSE_SET_ATTR_MODE && fchmod(f->disk.fd, attr->st_mode & 07777) != 0)
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

static void change_and_reply(fuse_req_t req, struct bh_file *f, const struct stat *attr, int to_set)
{
    int rc = change(f, attr, to_set);
    if (rc) {
        fuse_reply_err(req, rc);
        return;
    }
    struct stat st;
    dbfile_stat(daemon_of(req), f, &st);
    fuse_reply_attr(req, &st, dbfile_attr_seconds(f));
}

struct change_task {
    fuse_req_t req;
    struct bh_file *file;
    struct stat attr;
    int to_set;
};

static void run_change(void *arg)
{
    struct change_task *t = arg;
    change_and_reply(t->req, t->file, &t->attr, t->to_set);
    bh_file_unref(t->file);
    free(t);
}

/* The sub-block that is cut is in the bucket only. */
static void change_later(fuse_req_t req, struct bh_file *f, const struct stat *attr, int to_set)
{
    struct change_task *t = malloc(sizeof *t);
    if (t) {
        *t = (struct change_task){.req = req, .file = f, .attr = *attr, .to_set = to_set};
        bh_file_ref(f);
        if (workers_run(daemon_of(req)->fetchers, run_change, t) == 0)
            return;
        bh_file_unref(f);
        free(t);
    }
    fuse_reply_err(req, ENOMEM);
}

void dbfile_setattr(fuse_req_t req, struct node *n, struct stat *attr, int to_set)
{
    struct daemon *d = daemon_of(req);
    if (to_set & FUSE_SET_ATTR_SIZE && !may_truncate(d, n->file, (uint64_t)attr->st_size)) {
        refuse_unlocked(req, d, n->file, "a truncation");
        return;
    }
    if (to_set & FUSE_SET_ATTR_SIZE &&
        bh_file_truncate_needs_fetch(n->file, BH_DOOR_CLIENT, (uint64_t)attr->st_size))
        change_later(req, n->file, attr, to_set);
    else
        change_and_reply(req, n->file, attr, to_set);
}

/* --- opening --- */

static void prepare_handle(struct daemon *d, struct bh_file *f, struct fuse_file_info *fi)
{
    fi->fh = atomic_fetch_add(&d->next_handle, 1);
    fi->keep_cache = 1;
    /* SQLite locks the database and -shm only. */
    fi->noflush = f->kind == BH_FILE_JOURNAL || f->kind == BH_FILE_WAL;
}

void dbfile_open(fuse_req_t req, struct node *n, struct fuse_file_info *fi)
{
    struct daemon *d = daemon_of(req);
    if (fi->flags & O_TRUNC) {
        if (!may_truncate(d, n->file, 0)) {
            refuse_unlocked(req, d, n->file, "a truncation");
            return;
        }
        int rc = truncate_file(n->file, 0);
        if (rc) {
            fuse_reply_err(req, rc);
            return;
        }
    }
    prepare_handle(d, n->file, fi);
    fuse_reply_open(req, fi);
}

/* The owner is who made it; the daemon's user where that cannot be set. */
static void set_owner(struct daemon *d, fuse_req_t req, struct bh_file *f, mode_t mode)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    if (mode & 022 && fchmod(f->disk.fd, mode & 07777) != 0) /* our umask is not the client's */
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

struct sync_task {
    fuse_req_t req;
    struct bh_file *file; /* NULL: the directory */
};

static void run_sync(void *arg)
{
    struct sync_task *t = arg;
    struct daemon *d = daemon_of(t->req);
    int rc = t->file ? bh_file_sync(t->file) : bh_store_sync_names(d->store);
    /* A journal-less commit is complete with the sync: there is nothing to put back any more. */
    if (rc == 0 && t->file && t->file->kind == BH_FILE_DB)
        rc = bh_store_undo_forget(d->store);
    fuse_reply_err(t->req, rc);
    if (t->file)
        bh_file_unref(t->file);
}

static void free_sync(void *arg)
{
    run_sync(arg);
    free(arg);
}

/* Inline where it costs nothing, else on a worker. f may be NULL: the directory. */
static void sync_and_reply(fuse_req_t req, struct bh_file *f)
{
    struct daemon *d = daemon_of(req);
    struct sync_task inline_task = {.req = req, .file = f};
    if (f)
        bh_file_ref(f);
    struct sync_task *t = d->memory ? NULL : malloc(sizeof *t);
    if (t) {
        *t = inline_task;
        if (workers_run(d->workers, free_sync, t) == 0)
            return;
        free(t);
    }
    run_sync(&inline_task);
}

struct unlink_task {
    fuse_req_t req;
    char name[32];
};

static void run_unlink(void *arg)
{
    struct unlink_task *t = arg;
    fuse_reply_err(t->req, bh_store_unlink_durably(daemon_of(t->req)->store, t->name));
    free(t);
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
    if (kind == BH_FILE_OTHER || !must_be_durable(d, kind)) {
        fuse_reply_err(req, kind == BH_FILE_OTHER ? EPERM : bh_store_unlink(d->store, name));
        return;
    }
    struct unlink_task *t = malloc(sizeof *t);
    if (!t) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    t->req = req;
    strncpy(t->name, name, sizeof t->name - 1); /* names of our kinds are shorter */
    t->name[sizeof t->name - 1] = '\0';
    if (workers_run(d->workers, run_unlink, t) != 0)
        run_unlink(t);
}

/* --- data --- */

struct read_task {
    fuse_req_t req;
    struct bh_file *file;
    size_t size;
    uint64_t offset;
};

/* Before the bytes are read: a change by the daemon between the reading and the reply (the kernel
 * reads ahead without a lock of its client's) must find them in the map, and its invalidation then
 * waits for the reply. */
static void note_held(struct daemon *d, struct bh_file *f, uint64_t offset, uint64_t size)
{
    if (f->kind == BH_FILE_DB)
        notify_held(d->notify, offset, size);
}

static void read_and_reply(fuse_req_t req, struct bh_file *f, size_t size, uint64_t offset)
{
    struct daemon *d = daemon_of(req);
    BH_FREE char *buf = malloc(size);
    size_t got;
    note_held(d, f, offset, size);
    int rc = buf ? bh_file_read(f, buf, size, offset, &got) : ENOMEM;
    if (rc) {
        fuse_reply_err(req, rc);
        return;
    }
    fuse_reply_buf(req, buf, got);
}

static void run_read(void *arg)
{
    struct read_task *t = arg;
    read_and_reply(t->req, t->file, t->size, t->offset);
    bh_file_unref(t->file);
    free(t);
}

static void read_on(struct workers *w, fuse_req_t req, struct bh_file *f, size_t size,
                    uint64_t offset)
{
    struct read_task *t = malloc(sizeof *t);
    if (t) {
        *t = (struct read_task){.req = req, .file = f, .size = size, .offset = offset};
        bh_file_ref(f);
        if (workers_run(w, run_read, t) == 0)
            return;
        bh_file_unref(f);
        free(t);
    }
    read_and_reply(req, f, size, offset);
}

void dbfile_read(fuse_req_t req, struct node *n, size_t size, off_t off)
{
    struct daemon *d = daemon_of(req);
    static _Thread_local char
        buf[READ_MAX]; /* of the loop thread; untouched pages cost nothing elsewhere */
    if (bh_file_is_absent(n->file, (uint64_t)off, size)) {
        read_on(d->fetchers, req, n->file, size, (uint64_t)off);
        return;
    }
    if (size > sizeof buf) {
        read_on(d->workers, req, n->file, size, (uint64_t)off);
        return;
    }
    if (n->file->kind == BH_FILE_SHM) {
        int rc = bh_shm_before_read(n->file->shm);
        if (rc == 0)
            read_and_reply(req, n->file, size, (uint64_t)off);
        else
            fuse_reply_err(req, rc);
        return;
    }
    note_held(d, n->file, (uint64_t)off, size);
    /* What is in the page cache is answered here and now. */
    size_t got;
    if (bh_file_read_at_once(n->file, buf, size, (uint64_t)off, d->memory, &got) == 0)
        fuse_reply_buf(req, buf, got);
    else
        read_on(d->workers, req, n->file, size, (uint64_t)off);
}

/* The reply comes first: the kernel keeps the page locked until then. */
static void refuse_write(fuse_req_t req, struct daemon *d, struct bh_file *f, size_t size,
                         off_t off, bool mapped)
{
    refuse_unlocked(req, d, f, mapped ? "a write through a memory mapping, seen" : "a write");
    notify_refused(d->notify, f, (uint64_t)off, size);
}

static void write_and_reply(fuse_req_t req, struct bh_file *f, const char *buf, size_t size,
                            uint64_t off)
{
    note_held(daemon_of(req), f, off, size);
    int rc = bh_file_write(f, BH_DOOR_CLIENT, buf, size, off);
    if (rc)
        fuse_reply_err(req, rc);
    else
        fuse_reply_write(req, size);
}

struct write_task {
    fuse_req_t req;
    struct bh_file *file;
    size_t size;
    uint64_t offset;
    char data[];
};

static void run_write(void *arg)
{
    struct write_task *t = arg;
    write_and_reply(t->req, t->file, t->data, t->size, t->offset);
    bh_file_unref(t->file);
    free(t);
}

/* A part of what it overwrites is in the bucket only. */
static void write_later(fuse_req_t req, struct bh_file *f, const char *buf, size_t size,
                        uint64_t off)
{
    struct write_task *t = malloc(sizeof *t + size);
    if (t) {
        *t = (struct write_task){.req = req, .file = f, .size = size, .offset = off};
        memcpy(t->data, buf, size);
        bh_file_ref(f);
        if (workers_run(daemon_of(req)->fetchers, run_write, t) == 0)
            return;
        bh_file_unref(f);
        free(t);
    }
    fuse_reply_err(req, ENOMEM);
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
    if (bh_file_write_needs_fetch(f, BH_DOOR_CLIENT, (uint64_t)off, size)) {
        write_later(req, f, buf, size, (uint64_t)off);
        return;
    }
    write_and_reply(req, f, buf, size, (uint64_t)off);
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
