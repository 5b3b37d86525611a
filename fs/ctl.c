/* The control files: one write is one command, it has happened when the call returns 0, and when it
 * fails the reason is in last_status, in the log, and in what the same open file reads.
 *
 * Shells open with O_TRUNC, duplicate, close (a FLUSH) and only then write. So where truncation
 * runs the command (flush and the like) the open with O_TRUNC does, the first write on that handle
 * repeats its result, and FLUSH and RELEASE run nothing. */
#include "ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "interrupt.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define COMMAND_MAX 4096 /* bytes of one write */
#define INO_FIRST   16   /* st_ino of the first control file */

void ctl_stat(struct daemon *d, int ctl, struct stat *st)
{
    *st = (struct stat){.st_ino = (ino_t)(INO_FIRST + ctl),
                        .st_mode = S_IFREG | ctl_files[ctl].mode,
                        .st_nlink = 1,
                        .st_uid = d->uid,
                        .st_gid = d->gid,
                        .st_blksize = 4096};
    if (!ctl_files[ctl].text)
        st->st_size =
            (off_t)bh_log_size(); /* for tail -f; the others are made when they are read */
    stat_set_time(st, bh_real_ms());
}

/* --- open files --- */

struct handle {
    LIST_ENTRY(handle) all; /* for poll */
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
static LIST_HEAD(, handle) handles = LIST_HEAD_INITIALIZER(handles);
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
    LIST_INSERT_HEAD(&handles, h, all);
    return h;
}

static void handle_free(struct handle *h)
{
    pthread_mutex_lock(&mutex);
    LIST_REMOVE(h, all);
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
    LIST_ENTRY(command) all;
    struct daemon *daemon;
    fuse_req_t req; /* NULL: nobody waits */
    enum answer answer;
    int ctl;
    struct handle *handle;
    struct fuse_file_info fi;
    size_t size;
    atomic_bool cancel;
    struct interrupt interrupt;
    char arg[COMMAND_MAX + 1];
};
static LIST_HEAD(, command) running = LIST_HEAD_INITIALIZER(running);

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
    note_status(c->daemon, rc ? err->text : "ok");
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
    follower_leave();
    int rc = ctl_files[c->ctl].run(c->daemon, c->arg, &call, &err);
    if (rc == ECANCELED)
        rc = EINTR;
    keep_result(c, rc, &err);
    ctl_event();
    if (c->req) {
        interrupt_end(&c->interrupt);
        answer(c, rc);
    }
    BH_LOCK_SCOPE(&mutex);
    LIST_REMOVE(c, all);
    free(c);
    pthread_cond_broadcast(&ended);
    return NULL;
}

static int start_thread(struct command *c)
{
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_mutex_lock(&mutex);
    LIST_INSERT_HEAD(&running, c, all);
    pthread_mutex_unlock(&mutex);
    if (c->req)
        interrupt_begin(&c->interrupt, c->req, &c->cancel);
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
        LIST_REMOVE(c, all);
        pthread_mutex_unlock(&mutex);
        if (c->req) {
            interrupt_end(&c->interrupt);
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

void reply_text(fuse_req_t req, const struct bh_strbuf *text, size_t size, off_t off)
{
    if (text->failed) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    size_t at = (uint64_t)off < text->len ? (size_t)off : text->len;
    size_t len = text->len - at < size ? text->len - at : size;
    fuse_reply_buf(req, len ? text->data + at : NULL, len);
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
    reply_text(req, &h->text, size, off);
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
        struct handle *h;
        LIST_FOREACH (h, &handles, all)
            if (h->poll && count_ < 64) {
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
    struct command *c;
    LIST_FOREACH (c, &running, all)
        atomic_store(&c->cancel, true);
    while (!LIST_EMPTY(&running))
        pthread_cond_wait(&ended, &mutex);
    pthread_mutex_unlock(&mutex);
    while (!LIST_EMPTY(&handles))
        handle_free(LIST_FIRST(&handles));
}
