/* Names in files/: looking up, making, removing, renaming, attributes. */
#include "files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/log.h"

#define EPOCHS 256u /* that can be told apart */

/* --- numbers --- */

fuse_ino_t files_number(unsigned epoch, uint64_t ino)
{
    return ino << 9 | (uint64_t)(epoch % EPOCHS) << 1 | 1;
}

bool files_exist(struct daemon *d)
{
    return d->files != NULL;
}

fuse_ino_t files_root(struct daemon *d)
{
    return files_number(atomic_load(&d->files_epoch), BH_NAMES_ROOT);
}

ino_t files_root_ino(void)
{
    return FILES_INO + BH_NAMES_ROOT;
}

/* The content was swapped: all numbers are others. On the thread that swapped it. */
static void forget_names(void *arg)
{
    struct daemon *d = arg;
    if (d->closing)
        return;
    (void)fuse_lowlevel_notify_inval_entry(d->session, FUSE_ROOT_ID, FILES_NAME,
                                           strlen(FILES_NAME));
}

static void swapped(void *arg)
{
    struct daemon *d = arg;
    atomic_fetch_add(&d->files_epoch, 1);
    /* It takes the kernel's lock of the root directory: not on this thread (DECISIONS 6). */
    if (workers_run(d->workers, forget_names, d) != 0)
        bh_log(BH_LOG_ERROR, "out of memory: the kernel may show old names in files/");
}

struct appeared {
    struct daemon *daemon;
    char name[256];
};

/* The kernel may know that there is no such name, and what the directory has. */
static void show_name(void *arg)
{
    struct appeared *a = arg;
    struct daemon *d = a->daemon;
    if (!d->closing && d->session) {
        (void)fuse_lowlevel_notify_inval_entry(d->session, files_root(d), a->name, strlen(a->name));
        (void)fuse_lowlevel_notify_inval_inode(d->session, files_root(d), 0, 0);
    }
    free(a);
}

static void appeared(void *arg, const char *name)
{
    struct daemon *d = arg;
    struct appeared *a = malloc(sizeof *a);
    if (a) {
        a->daemon = d;
        snprintf(a->name, sizeof a->name, "%s", name);
    }
    if (!a || workers_run(d->workers, show_name, a) != 0) {
        free(a);
        bh_log(BH_LOG_ERROR, "out of memory: the kernel may not show \"%s\" in files/ yet", name);
    }
}

void files_attach(struct daemon *d)
{
    d->files = bh_files_of(d->bh);
    if (!d->files)
        return;
    bh_files_on_swap(d->files, swapped, d);
    bh_files_on_appear(d->files, appeared, d);
}

void files_detach(struct daemon *d)
{
    if (!d->files)
        return;
    bh_files_on_appear(d->files, NULL, NULL); /* a last flush has no workers */
    files_drop_removed(d);
    files_drop_handles();
}

/* --- requests --- */

static void fill(struct request *r, fuse_req_t req, request_fn *run)
{
    memset(r, 0, sizeof *r);
    r->req = req;
    r->daemon = daemon_of(req);
    r->files = r->daemon->files;
    r->run = run;
    r->drops_set_id = protocol_drops_set_id();
    r->name = r->new_name = "";
}

void request_on(struct request *r, fuse_req_t req, const struct fuse_file_info *fi, request_fn *run)
{
    fill(r, req, run);
    r->fi = *fi;
}

bool request_init(struct request *r, fuse_req_t req, fuse_ino_t ino, request_fn *run)
{
    fill(r, req, run);
    r->ino = ino >> 9;
    r->epoch = atomic_load(&r->daemon->files_epoch);
    if ((ino >> 1) % EPOCHS == r->epoch % EPOCHS)
        return true;
    fuse_reply_err(req, ESTALE);
    return false;
}

static int run(struct request *r, bool wait, struct bh_error *err)
{
    int rc = r->changes ? bh_files_enter(r->files, wait) : 0;
    if (rc)
        return rc;
    err->text[0] = '\0';
    /* Who waited at the gate means a file that is not there any more. */
    rc = r->changes && r->epoch != atomic_load(&r->daemon->files_epoch) ? ESTALE
                                                                        : r->run(r, wait, err);
    if (r->changes)
        bh_files_leave(r->files, rc == 0);
    return rc;
}

/* Failures that say nothing about what was asked for, but about what it needs. */
static bool is_trouble(int rc)
{
    return rc == EIO || rc == ETIMEDOUT || rc == ENOSPC || rc == ESTALE || rc == ENODEV ||
           rc == EACCES || rc == EBUSY;
}

static void answer(struct request *r, int rc, const struct bh_error *err)
{
    if (rc == 0)
        return;
    if (err->text[0] && is_trouble(rc))
        explain(r->daemon, "files/: %s", err->text);
    fuse_reply_err(r->req, rc == ECANCELED ? EINTR : rc);
}

#define KEEP_FROM (32u << 10) /* bytes of data that are not copied: their memory is kept */

struct copy {
    struct request request;
    void *kept; /* memory of the loop's, or NULL */
    char text[];
};

static void copy_free(struct copy *c)
{
    if (c)
        loop_give_back(c->kept);
    free(c);
}

/* An answered request is gone, and its interrupt with it. */
void request_settle(struct request *r)
{
    if (r->fetches && r->call)
        interrupt_end(&r->interrupt);
}

static void run_copy(void *arg)
{
    struct copy *c = arg;
    struct request *r = &c->request;
    struct bh_call call = {.cancel = &r->cancel, .stop = &r->daemon->closing};
    struct bh_error err;
    r->call = &call;
    if (r->fetches)
        interrupt_begin(&r->interrupt, r->req, &r->cancel);
    err.text[0] = '\0';
    int rc = r->prepare ? r->prepare(r, true, &err) : 0;
    if (rc == 0)
        rc = run(r, true, &err);
    if (rc) {
        request_settle(r);
        answer(r, rc, &err);
    }
    copy_free(c);
}

/* NULL: no memory. */
static struct copy *copy_request(const struct request *r)
{
    size_t name = strlen(r->name) + 1, new_name = strlen(r->new_name) + 1;
    bool keeps = r->data_size >= KEEP_FROM;
    struct copy *c = malloc(sizeof *c + name + new_name + (keeps ? 0 : r->data_size));
    if (!c)
        return NULL;
    memcpy(&c->request, r, sizeof *r);
    c->kept = keeps ? loop_keep_request() : NULL;
    c->request.name = memcpy(c->text, r->name, name);
    c->request.new_name = memcpy(c->text + name, r->new_name, new_name);
    if (r->data_size && !keeps)
        c->request.data = memcpy(c->text + name + new_name, r->data, r->data_size);
    return c;
}

void request_start(struct request *r)
{
    struct bh_error err;
    int rc = run(r, false, &err);
    if (rc != EAGAIN) {
        answer(r, rc, &err);
        return;
    }
    struct copy *c = copy_request(r);
    if (!c || workers_run(r->fetches ? r->daemon->file_fetchers : r->daemon->file_workers, run_copy,
                          c) != 0) {
        copy_free(c);
        fuse_reply_err(r->req, ENOMEM);
    }
}

/* --- attributes --- */

static struct timespec time_of(int64_t ns)
{
    struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    if (t.tv_nsec < 0) {
        t.tv_sec--;
        t.tv_nsec += 1000000000;
    }
    return t;
}

static int64_t ns_of(struct timespec t)
{
    const int64_t limit = INT64_MAX / 1000000000 - 1; /* the year 2262 */
    int64_t s = t.tv_sec > limit ? limit : t.tv_sec < -limit ? -limit : t.tv_sec;
    return s * 1000000000 + t.tv_nsec;
}

void files_stat(const struct bh_inode *i, struct stat *st)
{
    *st = (struct stat){.st_ino = FILES_INO + i->ino,
                        .st_mode = i->mode,
                        .st_nlink = i->nlink,
                        .st_uid = i->uid,
                        .st_gid = i->gid,
                        .st_rdev = i->rdev,
                        .st_size = (off_t)i->content.size,
                        .st_blksize = 4096,
                        .st_blocks = (blkcnt_t)((i->content.size + 511) / 512),
                        .st_atim = time_of(i->atime),
                        .st_mtim = time_of(i->mtime),
                        .st_ctim = time_of(i->ctime)};
    if (S_ISDIR(i->mode)) {
        st->st_size = 4096;
        st->st_blocks = 8;
    }
}

static int reply_attr(struct request *r, struct bh_inode *i)
{
    struct stat st;
    uint64_t room;
    bh_files_refresh(r->files, i);
    files_stat(i, &st);
    if (S_ISREG(i->mode) && i->content.data &&
        bh_data_room(bh_files_blobs(r->files), i->content.data, &room) == 0)
        st.st_blocks = (blkcnt_t)(room / 512);
    fuse_reply_attr(r->req, &st, CACHE_SECONDS);
    return 0;
}

struct fuse_entry_param files_entry(const struct request *r, struct bh_inode *i)
{
    struct fuse_entry_param e = {.ino = files_number(r->epoch, i->ino),
                                 .attr_timeout = CACHE_SECONDS,
                                 .entry_timeout = CACHE_SECONDS};
    bh_files_refresh(r->files, i);
    files_stat(i, &e.attr);
    return e;
}

static int reply_file(const struct request *r, struct bh_inode *i)
{
    struct fuse_entry_param e = files_entry(r, i);
    fuse_reply_entry(r->req, &e);
    return 0;
}

static int run_getattr(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_inode i;
    int rc = bh_names_get(bh_files_names(r->files), r->ino, &i, wait, err);
    return rc ? rc : reply_attr(r, &i);
}

void files_getattr(fuse_req_t req, fuse_ino_t ino)
{
    struct request r;
    if (request_init(&r, req, ino, run_getattr))
        request_start(&r);
}

/* What is cut keeps its beginning, which may have to be fetched. */
static int prepare_setattr(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_open *o;
    int rc = bh_files_enter(r->files, wait);
    if (rc)
        return rc;
    rc = r->epoch != atomic_load(&r->daemon->files_epoch)
             ? ESTALE
             : bh_files_use(r->files, r->ino, false, &o, wait, err);
    bh_files_leave(r->files, false);
    if (rc)
        return rc == EISDIR ? 0 : rc;
    rc = bh_open_own(o, r->what.content.size, r->call, err);
    bh_open_drop(o, false);
    return rc;
}

static int run_setattr(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_inode i, to = r->what;
    unsigned what = r->flags;
    if (r->drops_set_id && !(what & BH_SET_MODE)) {
        int rc = bh_names_get(bh_files_names(r->files), r->ino, &i, wait, err);
        if (rc)
            return rc;
        to.mode = files_without_set_id(i.mode);
        /* Nothing is to be set: chown(2) by anybody, or somebody is about to write (the answer
         * tells the kernel the mode). */
        uid_t uid = fuse_req_ctx(r->req)->uid;
        if (what == 0 && to.mode != i.mode && uid != 0 && uid != i.uid &&
            !bh_files_is_written(r->files, r->ino))
            return EPERM;
        what |= to.mode == i.mode ? 0 : BH_SET_MODE;
    }
    int rc = bh_files_set(r->files, r->ino, what, &to, &i, wait, err);
    if (rc)
        return rc;
    request_settle(r);
    return reply_attr(r, &i);
}

static unsigned what_to_set(int to_set)
{
    static const struct {
        int fuse;
        unsigned ours;
    } map[] = {{FUSE_SET_ATTR_MODE, BH_SET_MODE},
               {FUSE_SET_ATTR_UID, BH_SET_UID},
               {FUSE_SET_ATTR_GID, BH_SET_GID},
               {FUSE_SET_ATTR_ATIME, BH_SET_ATIME},
               {FUSE_SET_ATTR_MTIME, BH_SET_MTIME},
               {FUSE_SET_ATTR_ATIME_NOW, BH_SET_ATIME_NOW},
               {FUSE_SET_ATTR_MTIME_NOW, BH_SET_MTIME_NOW},
               {FUSE_SET_ATTR_SIZE, BH_SET_CONTENT}};
    unsigned what = 0;
    for (size_t i = 0; i < sizeof map / sizeof *map; i++)
        if (to_set & map[i].fuse)
            what |= map[i].ours;
    if (to_set & FUSE_SET_ATTR_ATIME_NOW)
        what &= ~(unsigned)BH_SET_ATIME;
    if (to_set & FUSE_SET_ATTR_MTIME_NOW)
        what &= ~(unsigned)BH_SET_MTIME;
    return what;
}

void files_setattr(fuse_req_t req, fuse_ino_t ino, const struct stat *attr, int to_set)
{
    struct request r;
    if (!request_init(&r, req, ino, run_setattr))
        return;
    r.changes = true;
    r.flags = what_to_set(to_set);
    r.what.mode = attr->st_mode & 07777;
    r.what.uid = attr->st_uid;
    r.what.gid = attr->st_gid;
    r.what.atime = ns_of(attr->st_atim);
    r.what.mtime = ns_of(attr->st_mtim);
    r.what.content.size = (uint64_t)attr->st_size;
    if (r.flags & BH_SET_CONTENT && attr->st_size > 0) {
        struct bh_inode i;
        r.prepare = prepare_setattr;
        int rc = bh_names_get(bh_files_names(r.files), r.ino, &i, false, NULL);
        r.fetches = rc == EAGAIN || (rc == 0 && !i.content.data && i.content.size > 0);
    }
    request_start(&r);
}

/* --- names --- */

/* A reference to the directory of that name, if it is one; *ino: 0 if not. */
static int hold_dir(struct request *r, uint64_t dir, const char *name, uint64_t *ino, bool wait,
                    struct bh_error *err)
{
    struct bh_names *n = bh_files_names(r->files);
    struct bh_inode i;
    *ino = 0;
    int rc = bh_names_lookup(n, dir, name, &i, wait, err);
    if (rc || !S_ISDIR(i.mode))
        return rc == ENOENT ? 0 : rc;
    rc = bh_names_ref(n, i.ino);
    if (rc == 0)
        *ino = i.ino;
    return rc;
}

static int run_lookup(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_inode i;
    int rc = bh_names_lookup(bh_files_names(r->files), r->ino, r->name, &i, wait, err);
    if (rc == ENOENT) {
        reply_absent(r->req, CACHE_SECONDS);
        return 0;
    }
    return rc ? rc : reply_file(r, &i);
}

void files_lookup(fuse_req_t req, fuse_ino_t dir, const char *name)
{
    struct request r;
    if (!request_init(&r, req, dir, run_lookup))
        return;
    r.name = name;
    request_start(&r);
}

void files_lookup_root(fuse_req_t req)
{
    struct request r;
    if (!request_init(&r, req, files_root(daemon_of(req)), NULL))
        return;
    struct fuse_entry_param e = {.ino = files_root(r.daemon), .entry_timeout = CACHE_SECONDS};
    struct bh_inode i;
    /* Attributes that are not at hand are asked for by number. */
    if (bh_names_get(bh_files_names(r.files), BH_NAMES_ROOT, &i, false, NULL) == 0) {
        files_stat(&i, &e.attr);
        e.attr_timeout = CACHE_SECONDS;
    } else {
        e.attr =
            (struct stat){.st_ino = files_root_ino(), .st_mode = S_IFDIR | 0755, .st_nlink = 2};
    }
    fuse_reply_entry(req, &e);
}

static int run_make(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_inode i;
    int rc = bh_names_make(bh_files_names(r->files), r->ino, r->name, &r->what,
                           S_ISLNK(r->what.mode) ? r->new_name : NULL, false, &i, wait, err);
    return rc ? rc : reply_file(r, &i);
}

void files_make(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, dev_t rdev,
                const char *target)
{
    struct request r;
    if (!request_init(&r, req, dir, run_make))
        return;
    r.changes = true;
    r.name = name;
    r.new_name = target ? target : "";
    r.what.mode = mode;
    r.what.rdev = rdev;
    r.what.uid = fuse_req_ctx(req)->uid;
    r.what.gid = fuse_req_ctx(req)->gid;
    request_start(&r);
}

static int run_link(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_inode i;
    int rc = bh_names_link(bh_files_names(r->files), r->ino, r->other, r->name, &i, wait, err);
    return rc ? rc : reply_file(r, &i);
}

void files_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t dir, const char *name)
{
    struct request r;
    if (!request_init(&r, req, ino, run_link))
        return;
    r.changes = true;
    r.other = dir >> 9;
    r.name = name;
    request_start(&r);
}

static int run_remove(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_inode was;
    int rc = bh_names_unlink(bh_files_names(r->files), r->ino, r->name, &was, wait, err);
    if (rc == 0)
        fuse_reply_err(r->req, 0);
    return rc;
}

static int run_rmdir(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_names *n = bh_files_names(r->files);
    struct bh_inode was;
    uint64_t held;
    int rc = hold_dir(r, r->ino, r->name, &held, wait, err);
    if (rc == 0)
        rc = bh_names_rmdir(n, r->ino, r->name, &was, wait, err);
    if (rc == 0 && held)
        files_keep_removed(r->daemon, held);
    else if (held)
        bh_names_unref(n, held);
    if (rc == 0)
        fuse_reply_err(r->req, 0);
    return rc;
}

void files_remove(fuse_req_t req, fuse_ino_t dir, const char *name, bool is_dir)
{
    struct request r;
    if (!request_init(&r, req, dir, is_dir ? run_rmdir : run_remove))
        return;
    r.changes = true;
    r.name = name;
    request_start(&r);
}

static int run_rename(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_names *n = bh_files_names(r->files);
    struct bh_inode moved, replaced;
    uint64_t held = 0;
    int rc = r->flags ? 0 : hold_dir(r, r->other, r->new_name, &held, wait, err);
    if (rc == 0)
        rc = bh_names_rename(n, r->ino, r->name, r->other, r->new_name, r->flags, &moved, &replaced,
                             wait, err);
    if (rc == 0 && held && replaced.ino == held)
        files_keep_removed(r->daemon, held);
    else if (held)
        bh_names_unref(n, held);
    if (rc == 0)
        fuse_reply_err(r->req, 0);
    return rc;
}

void files_rename(fuse_req_t req, fuse_ino_t dir, const char *name, fuse_ino_t new_dir,
                  const char *new_name, unsigned flags)
{
    struct request r;
    if (!request_init(&r, req, dir, run_rename))
        return;
    r.changes = true;
    r.other = new_dir >> 9;
    r.name = name;
    r.new_name = new_name;
    r.flags = flags;
    request_start(&r);
}

static int run_readlink(struct request *r, bool wait, struct bh_error *err)
{
    char *target;
    int rc = bh_names_readlink(bh_files_names(r->files), r->ino, &target, wait, err);
    if (rc)
        return rc;
    fuse_reply_readlink(r->req, target);
    free(target);
    return 0;
}

void files_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct request r;
    if (request_init(&r, req, ino, run_readlink))
        request_start(&r);
}
