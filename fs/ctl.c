/* The control files: one write is one command, it has happened when the call returns 0, and when it
 * fails the reason is in last_status, in the log, and in what the same open file reads.
 *
 * Shells open with O_TRUNC, duplicate, close (a FLUSH) and only then write. So for flush and
 * force_flush the open with O_TRUNC runs the command, the first write on that handle repeats its
 * result, and FLUSH and RELEASE run nothing. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define COMMAND_MAX 4096 /* bytes of one write */
#define INO_FIRST   16   /* st_ino of the first control file */

static void text_last_status(struct daemon *d, struct bh_strbuf *out)
{
    BH_LOCK_SCOPE(&d->status_mutex);
    bh_strbuf_addf(out, "%s\n", d->last_status);
}

static void text_config(struct daemon *d, struct bh_strbuf *out)
{
    bh_config_text(d->bh, out);
}

static void text_import(struct daemon *d, struct bh_strbuf *out);
static void text_restore(struct daemon *d, struct bh_strbuf *out);

/* --- commands --- */

typedef int run_fn(struct daemon *d, const char *arg, const struct bh_call *call,
                   struct bh_error *err);

static int run_flush(struct daemon *d, const char *arg, const struct bh_call *call,
                     struct bh_error *err)
{
    (void)arg;
    return bh_flush_call(d->bh, false, NULL, call, err);
}

static int run_force_flush(struct daemon *d, const char *arg, const struct bh_call *call,
                           struct bh_error *err)
{
    (void)arg;
    return bh_flush_call(d->bh, true, NULL, call, err);
}

static pthread_mutex_t import_mutex = PTHREAD_MUTEX_INITIALIZER;
static char last_import[COMMAND_MAX + 64] = "never\n";

static int run_import(struct daemon *d, const char *arg, const struct bh_call *call,
                      struct bh_error *err)
{
    char when[32];
    if (!arg[0])
        return bh_fail(
            err, EINVAL,
            "import needs the absolute path of a database file: echo /PATH > .ctl/import");
    int rc = bh_import_call(d->bh, arg, call, err);
    if (rc)
        return rc;
    BH_LOCK_SCOPE(&import_mutex);
    snprintf(last_import, sizeof last_import, "file: %s\ntime: %s\n", arg,
             bh_format_time(bh_real_ms(), when, sizeof when));
    return 0;
}

static void text_import(struct daemon *d, struct bh_strbuf *out)
{
    (void)d;
    BH_LOCK_SCOPE(&import_mutex);
    bh_strbuf_addf(out, "%s", last_import);
}

static pthread_mutex_t restore_mutex = PTHREAD_MUTEX_INITIALIZER;
static char last_restore[512] = "never\n";

static int run_restore(struct daemon *d, const char *arg, const struct bh_call *call,
                       struct bh_error *err)
{
    char when[32], id[BH_SNAPSHOT_ID_MAX];
    struct bh_info info;
    if (!arg[0])
        return bh_fail(err, EINVAL,
                       "restore needs to be told what: an id or a label (ls snapshots), prev, a "
                       "time, or \"10m ago\": echo prev > .ctl/restore");
    int rc = bh_restore_call(d->bh, arg, id, call, err);
    if (rc)
        return rc;
    bh_get_info(d->bh, &info);
    BH_LOCK_SCOPE(&restore_mutex);
    snprintf(last_restore, sizeof last_restore,
             "asked for: %.100s\nrestored: %s\nsnapshot: %s\ntime: %s\n", arg, id, info.snapshot,
             bh_format_time(bh_real_ms(), when, sizeof when));
    return 0;
}

static void text_restore(struct daemon *d, struct bh_strbuf *out)
{
    (void)d;
    BH_LOCK_SCOPE(&restore_mutex);
    bh_strbuf_addf(out, "%s", last_restore);
}

static int run_branch(struct daemon *d, const char *arg, const struct bh_call *call,
                      struct bh_error *err)
{
    if (!arg[0])
        return bh_fail(err, EINVAL,
                       "branch needs the name of a branch to switch to: echo NAME > .ctl/branch");
    int rc = bh_switch_call(d->bh, arg, call, err);
    views_changed();
    return rc;
}

static int run_hydrate(struct daemon *d, const char *arg, const struct bh_call *call,
                       struct bh_error *err)
{
    (void)arg;
    return bh_hydrate_call(d->bh, call, err);
}

static pthread_mutex_t verify_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct bh_strbuf last_verify;

static int run_verify(struct daemon *d, const char *arg, const struct bh_call *call,
                      struct bh_error *err)
{
    struct bh_strbuf report = {0};
    if (arg[0] && strcmp(arg, "full") != 0)
        return bh_fail(
            err, EINVAL,
            "verify takes nothing (touch .ctl/verify) or full (echo full > .ctl/verify)");
    int rc = bh_verify_call(d->bh, arg[0] != '\0', &report, call, err);
    BH_LOCK_SCOPE(&verify_mutex);
    if (report.len) { /* also of one that found damage */
        bh_strbuf_free(&last_verify);
        last_verify = report;
    }
    return rc;
}

static void text_verify(struct daemon *d, struct bh_strbuf *out)
{
    (void)d;
    BH_LOCK_SCOPE(&verify_mutex);
    bh_strbuf_addf(out, "%s", last_verify.len ? last_verify.data : "never\n");
}

static pthread_mutex_t gc_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct bh_strbuf last_gc;

static int run_gc(struct daemon *d, const char *arg, const struct bh_call *call,
                  struct bh_error *err)
{
    struct bh_strbuf report = {0};
    if (arg[0] && strcmp(arg, "dry-run") != 0)
        return bh_fail(err, EINVAL,
                       "gc takes nothing (touch .ctl/gc) or dry-run (echo dry-run > .ctl/gc)");
    int rc = bh_gc_call(d->bh, arg[0] != '\0', &report, call, err);
    BH_LOCK_SCOPE(&gc_mutex);
    if (report.len) { /* also of one that failed */
        bh_strbuf_free(&last_gc);
        last_gc = report;
    }
    return rc;
}

static void text_gc(struct daemon *d, struct bh_strbuf *out)
{
    (void)d;
    BH_LOCK_SCOPE(&gc_mutex);
    bh_strbuf_addf(out, "%s", last_gc.len ? last_gc.data : "never\n");
}

static const struct ctl_file {
    const char *name;
    mode_t mode;
    void (*text)(struct daemon *d, struct bh_strbuf *out); /* NULL: the log */
    run_fn *run;                                           /* NULL: not a command */
    bool truncation_runs;                                  /* `: > FILE` is the command, too */
    bool touch_runs;                                       /* touch is, but not `: > FILE` */
} ctl_files[] = {
    {"flush", 0644, text_flush, run_flush, true, false},
    {"force_flush", 0644, text_flush, run_force_flush, true, false},
    {"import", 0644, text_import, run_import, false, false},
    {"restore", 0644, text_restore, run_restore, false, false},
    {"branch", 0644, text_branch, run_branch, false, false},
    {"hydrate", 0644, text_hydrate, run_hydrate, true, false},
    {"verify", 0644, text_verify, run_verify, false, true},
    {"gc", 0644, text_gc, run_gc, false, true},
    {"status", 0444, text_status, NULL, false, false},
    {"status.json", 0444, text_status_json, NULL, false, false},
    {"last_status", 0444, text_last_status, NULL, false, false},
    {"metrics", 0444, text_metrics, NULL, false, false},
    {"config", 0400, text_config, NULL, false, false},
    {"log", 0444, NULL, NULL, false, false},
};
enum { CTL_COUNT = sizeof ctl_files / sizeof *ctl_files };

int ctl_find(const char *name)
{
    for (int i = 0; i < CTL_COUNT; i++)
        if (!strcmp(ctl_files[i].name, name))
            return i;
    return -1;
}

const char *ctl_name(int ctl)
{
    return ctl < CTL_COUNT ? ctl_files[ctl].name : NULL;
}

bool ctl_is_command(int ctl)
{
    return ctl_files[ctl].run != NULL;
}

void ctl_stat(struct daemon *d, int ctl, struct stat *st)
{
    int64_t now = bh_real_ms();
    *st = (struct stat){.st_ino = (ino_t)(INO_FIRST + ctl),
                        .st_mode = S_IFREG | ctl_files[ctl].mode,
                        .st_nlink = 1,
                        .st_uid = d->uid,
                        .st_gid = d->gid,
                        .st_blksize = 4096};
    if (!ctl_files[ctl].text)
        st->st_size =
            (off_t)bh_log_size(); /* for tail -f; the others are made when they are read */
    st->st_mtim.tv_sec = st->st_ctim.tv_sec = st->st_atim.tv_sec = now / 1000;
    st->st_mtim.tv_nsec = st->st_ctim.tv_nsec = st->st_atim.tv_nsec = now % 1000 * 1000000;
}

/* --- open files --- */

struct handle {
    struct handle *next, **prev; /* all handles, for poll */
    int ctl;
    int flags;
    bool truncation_ran; /* the open ran the command; the first write only repeats its result */
    int rc;
    char *reason; /* of the last command on this handle that failed */
    struct bh_strbuf text;
    uint64_t seen; /* events when it was read last */
    struct fuse_pollhandle *poll;
};

static pthread_mutex_t mutex =
    PTHREAD_MUTEX_INITIALIZER; /* handles' list and poll, events, running */
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static struct handle *handles;
static uint64_t events;

static struct handle *handle_of(const struct fuse_file_info *fi)
{
    return fi ? (struct handle *)(uintptr_t)fi->fh : NULL;
}

static struct handle *handle_new(int ctl, int flags)
{
    struct handle *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->ctl = ctl;
    h->flags = flags;
    BH_LOCK_SCOPE(&mutex);
    h->seen = UINT64_MAX; /* nothing was read yet */
    h->next = handles;
    h->prev = &handles;
    if (handles)
        handles->prev = &h->next;
    handles = h;
    return h;
}

static void handle_free(struct handle *h)
{
    pthread_mutex_lock(&mutex);
    *h->prev = h->next;
    if (h->next)
        h->next->prev = h->prev;
    pthread_mutex_unlock(&mutex);
    if (h->poll)
        fuse_pollhandle_destroy(h->poll);
    bh_strbuf_free(&h->text);
    free(h->reason);
    free(h);
}

/* --- running a command --- */

enum answer { ANSWER_OPEN, ANSWER_WRITE, ANSWER_SETATTR, ANSWER_NONE };

struct command {
    struct command *next, **prev;
    struct daemon *daemon;
    fuse_req_t req; /* NULL: nobody waits */
    enum answer answer;
    int ctl;
    struct handle *handle;
    struct fuse_file_info fi;
    size_t size;
    atomic_bool cancel;
    char arg[COMMAND_MAX + 1];
};
static struct command *running;

static void answer(struct command *c, int rc)
{
    struct stat st;
    if (rc) {
        if (c->answer == ANSWER_OPEN)
            handle_free(c->handle);
        fuse_reply_err(c->req, rc);
        return;
    }
    switch (c->answer) {
    case ANSWER_OPEN:
        if (fuse_reply_open(c->req, &c->fi) == -ENOENT)
            handle_free(c->handle);
        break;
    case ANSWER_WRITE:
        fuse_reply_write(c->req, c->size);
        break;
    case ANSWER_SETATTR:
        ctl_stat(c->daemon, c->ctl, &st);
        fuse_reply_attr(c->req, &st, 0);
        break;
    case ANSWER_NONE:
        break;
    }
}

static void keep_result(struct command *c, int rc, const struct bh_error *err)
{
    struct daemon *d = c->daemon;
    pthread_mutex_lock(&d->status_mutex);
    snprintf(d->last_status, sizeof d->last_status, "%s", rc ? err->text : "ok");
    pthread_mutex_unlock(&d->status_mutex);
    if (rc)
        bh_log(BH_LOG_ERROR, "%s: %s", ctl_files[c->ctl].name, err->text);
    if (c->handle) {
        c->handle->rc = rc;
        free(c->handle->reason);
        c->handle->reason = rc ? strdup(err->text) : NULL;
    }
}

static void *command_main(void *arg)
{
    struct command *c = arg;
    struct bh_error err = {0};
    struct bh_call call = {.cancel = &c->cancel};
    pthread_setname_np(pthread_self(), "bhfs-command");
    int rc = ctl_files[c->ctl].run(c->daemon, c->arg, &call, &err);
    if (rc == ECANCELED)
        rc = EINTR;
    keep_result(c, rc, &err);
    ctl_event();
    if (c->req) {
        fuse_req_interrupt_func(c->req, NULL, NULL);
        answer(c, rc);
    }
    BH_LOCK_SCOPE(&mutex);
    *c->prev = c->next;
    if (c->next)
        c->next->prev = c->prev;
    free(c);
    pthread_cond_broadcast(&ended);
    return NULL;
}

static void on_interrupt(fuse_req_t req, void *arg)
{
    struct command *c = arg;
    (void)req;
    atomic_store(&c->cancel, true);
}

static int start_thread(struct command *c)
{
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_mutex_lock(&mutex);
    c->next = running;
    c->prev = &running;
    if (running)
        running->prev = &c->next;
    running = c;
    pthread_mutex_unlock(&mutex);
    if (c->req)
        fuse_req_interrupt_func(c->req, on_interrupt, c);
    int rc = pthread_create(&thread, &attr, command_main, c);
    pthread_attr_destroy(&attr);
    return rc;
}

/* Starts the command; it answers req itself, also when it cannot be started. */
static void start(fuse_req_t req, enum answer answer_, struct handle *h, int ctl, const char *arg,
                  size_t size, const struct fuse_file_info *fi)
{
    struct command *c = calloc(1, sizeof *c);
    if (!c) {
        if (answer_ == ANSWER_OPEN)
            handle_free(h);
        fuse_reply_err(req, ENOMEM);
        return;
    }
    c->daemon = daemon_of(req);
    bool waits = answer_ != ANSWER_WRITE || !(h->flags & O_NONBLOCK);
    c->req = waits ? req : NULL;
    c->answer = waits ? answer_ : ANSWER_NONE;
    c->handle = waits ? h : NULL;
    c->ctl = ctl;
    c->size = size;
    if (fi)
        c->fi = *fi;
    memcpy(c->arg, arg, size);
    while (size > 0 && (c->arg[size - 1] == '\n' || c->arg[size - 1] == '\r'))
        c->arg[--size] = '\0';
    if (!waits)
        fuse_reply_write(req, c->size);
    if (start_thread(c) != 0) {
        bh_log(BH_LOG_ERROR, "%s: no thread can be started for it", ctl_files[ctl].name);
        pthread_mutex_lock(&mutex);
        *c->prev = c->next;
        if (c->next)
            c->next->prev = c->prev;
        pthread_mutex_unlock(&mutex);
        if (c->req) {
            fuse_req_interrupt_func(c->req, NULL, NULL);
            answer(c, EAGAIN);
        }
        free(c);
    }
}

/* A refusal before anything runs. */
static void fail(fuse_req_t req, struct handle *h, int ctl, int code, const char *text)
{
    struct command c = {.daemon = daemon_of(req), .ctl = ctl, .handle = h};
    struct bh_error err;
    bh_fail(&err, code, "%s", text);
    keep_result(&c, code, &err);
    fuse_reply_err(req, code);
}

/* --- requests --- */

void ctl_open(fuse_req_t req, struct node *n, struct fuse_file_info *fi)
{
    const struct ctl_file *f = &ctl_files[n->ctl];
    bool writes = (fi->flags & O_ACCMODE) != O_RDONLY;
    if (writes && !f->run) {
        fuse_reply_err(req, EACCES); /* root passes the permission bits */
        return;
    }
    struct handle *h = handle_new(n->ctl, fi->flags);
    if (!h) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    fi->fh = (uint64_t)(uintptr_t)h;
    fi->direct_io = 1;
    fi->nonseekable = 0;
    if (writes && fi->flags & O_TRUNC && f->truncation_runs) {
        h->truncation_ran = true;
        start(req, ANSWER_OPEN, h, n->ctl, "", 0, fi);
        return;
    }
    if (fuse_reply_open(req, fi) == -ENOENT)
        handle_free(h);
}

void ctl_setattr(fuse_req_t req, struct node *n, int to_set, struct fuse_file_info *fi)
{
    const int times = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW |
                      FUSE_SET_ATTR_MTIME_NOW;
    const struct ctl_file *f = &ctl_files[n->ctl];
    if (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) || !f->run) {
        fuse_reply_err(req, EPERM);
        return;
    }
    bool runs = (f->truncation_runs && to_set & (times | FUSE_SET_ATTR_SIZE)) ||
                (f->touch_runs && to_set & times);
    if (!runs && to_set & times) {
        fail(req, handle_of(fi), n->ctl, EINVAL,
             "touch says nothing to this command: it needs an argument, written to it");
        return;
    }
    if (!runs) { /* a truncation, which other commands ignore */
        struct stat st;
        ctl_stat(daemon_of(req), n->ctl, &st);
        fuse_reply_attr(req, &st, 0);
        return;
    }
    start(req, ANSWER_SETATTR, handle_of(fi), n->ctl, "", 0, NULL);
}

void ctl_write(fuse_req_t req, struct node *n, const char *buf, size_t size,
               struct fuse_file_info *fi)
{
    struct handle *h = handle_of(fi);
    if (!ctl_files[n->ctl].run) {
        fuse_reply_err(req, EBADF);
        return;
    }
    if (size > COMMAND_MAX) {
        fail(req, h, n->ctl, EMSGSIZE, "a command is at most 4096 bytes long");
        return;
    }
    if (memchr(buf, '\0', size)) {
        fail(req, h, n->ctl, EINVAL, "a command must not hold a NUL byte");
        return;
    }
    if (h->truncation_ran) { /* echo x > flush: one command, which ran at the open */
        h->truncation_ran = false;
        if (h->rc)
            fuse_reply_err(req, h->rc);
        else
            fuse_reply_write(req, size);
        return;
    }
    start(req, ANSWER_WRITE, h, n->ctl, buf, size, fi);
}

static void make_text(struct daemon *d, struct handle *h)
{
    bh_strbuf_reset(&h->text);
    if (h->reason)
        bh_strbuf_addf(&h->text, "%s\n", h->reason);
    else
        ctl_files[h->ctl].text(d, &h->text);
}

void ctl_read(fuse_req_t req, struct node *n, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct handle *h = handle_of(fi);
    pthread_mutex_lock(&mutex);
    h->seen = events;
    pthread_mutex_unlock(&mutex);
    if (!ctl_files[n->ctl].text) {
        BH_FREE char *buf = malloc(size);
        if (buf)
            fuse_reply_buf(req, buf, bh_log_read((uint64_t)off, buf, size));
        else
            fuse_reply_err(req, ENOMEM);
        return;
    }
    if (off == 0)
        make_text(daemon_of(req), h);
    if (h->text.failed) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    size_t at = (uint64_t)off < h->text.len ? (size_t)off : h->text.len;
    size_t len = h->text.len - at < size ? h->text.len - at : size;
    fuse_reply_buf(req, len ? h->text.data + at : NULL, len);
}

void ctl_release(fuse_req_t req, struct fuse_file_info *fi)
{
    handle_free(handle_of(fi));
    fuse_reply_err(req, 0);
}

/* --- poll --- */

void ctl_poll(fuse_req_t req, struct node *n, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
    struct handle *h = handle_of(fi);
    unsigned ready = POLLOUT | POLLWRNORM;
    struct fuse_pollhandle *old = ph;
    pthread_mutex_lock(&mutex);
    if (ctl_files[n->ctl].run || events != h->seen)
        ready |= POLLIN | POLLRDNORM;
    else if (ph) {
        old = h->poll;
        h->poll = ph;
    }
    pthread_mutex_unlock(&mutex);
    if (old)
        fuse_pollhandle_destroy(old);
    fuse_reply_poll(req, ready);
}

void ctl_event(void)
{
    struct fuse_pollhandle *wake[64];
    size_t count_;
    do {
        count_ = 0;
        pthread_mutex_lock(&mutex);
        events++;
        for (struct handle *h = handles; h && count_ < 64; h = h->next)
            if (h->poll) {
                wake[count_++] = h->poll;
                h->poll = NULL;
            }
        pthread_mutex_unlock(&mutex);
        for (size_t i = 0; i < count_; i++) {
            fuse_lowlevel_notify_poll(wake[i]);
            fuse_pollhandle_destroy(wake[i]);
        }
    } while (count_ == 64);
}

void ctl_shutdown(void)
{
    pthread_mutex_lock(&mutex);
    for (struct command *c = running; c; c = c->next)
        atomic_store(&c->cancel, true);
    while (running)
        pthread_cond_wait(&ended, &mutex);
    pthread_mutex_unlock(&mutex);
    while (handles)
        handle_free(handles);
}
