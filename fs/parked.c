/* fcntl locks of clients, whatever they are on. A parked request is a reply kept for later. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon.h"

void lock_fill(struct bh_lock_request *q, struct bh_lockset *set, fuse_req_t req,
               const struct fuse_file_info *fi, const struct flock *lock)
{
    *q = (struct bh_lock_request){
        .set = set,
        .owner = {.id = fi->lock_owner},
        .handle = fi->fh,
        .pid = fuse_req_ctx(req)->pid,
        .type = lock->l_type == F_WRLCK   ? BH_LOCK_WRITE
                : lock->l_type == F_RDLCK ? BH_LOCK_READ
                                          : BH_LOCK_NONE,
        .start = (uint64_t)lock->l_start,
        .end = lock->l_len ? (uint64_t)lock->l_start + (uint64_t)lock->l_len - 1 : UINT64_MAX,
    };
}

void lock_test(fuse_req_t req, const struct bh_lock_request *q, struct flock *lock)
{
    struct bh_lock held;
    if (bh_locks_test(daemon_of(req)->locks, q, &held)) {
        lock->l_type = held.write ? F_WRLCK : F_RDLCK;
        lock->l_start = (off_t)held.start;
        lock->l_len = held.end == UINT64_MAX ? 0 : (off_t)(held.end - held.start + 1);
        lock->l_pid = held.owner.internal ? getpid() : held.pid;
    } else {
        lock->l_type = F_UNLCK;
    }
    lock->l_whence = SEEK_SET;
    fuse_reply_lock(req, lock);
}

/* Its request, lock_take and, while an interrupt is on its way, a worker refer to it. */
struct parked {
    struct bh_lock_request lock;
    fuse_req_t req;
    struct daemon *daemon;
    void (*put)(void *kept);
    void *kept;
    atomic_uint refs;
    atomic_bool interrupted;
};

static void unref(struct parked *p)
{
    if (atomic_fetch_sub(&p->refs, 1) == 1) {
        p->put(p->kept);
        free(p);
    }
}

static void done(struct bh_lock_request *q, int rc)
{
    struct parked *p = (struct parked *)(void *)q;
    fuse_req_interrupt_func(p->req, NULL, NULL); /* after this nobody calls on_interrupt */
    fuse_reply_err(p->req, rc);
    unref(p);
}

static void cancel(void *arg)
{
    struct parked *p = arg;
    bh_locks_cancel(p->daemon->locks, &p->lock);
    unref(p);
}

/* libfuse holds the request's mutex here, which the reply needs: the rest is a worker's. */
static void on_interrupt(fuse_req_t req, void *arg)
{
    struct parked *p = arg;
    (void)req;
    if (atomic_exchange(&p->interrupted, true))
        return;
    atomic_fetch_add(&p->refs, 1);
    if (workers_run(p->daemon->workers, cancel, p) != 0)
        atomic_fetch_sub(&p->refs, 1); /* it waits on: no memory for a cancellation */
}

void lock_take(fuse_req_t req, const struct bh_lock_request *q, bool wait, void (*put)(void *kept),
               void *kept)
{
    struct daemon *d = daemon_of(req);
    struct parked *p = malloc(sizeof *p);
    if (!p) {
        fuse_reply_err(req, ENOMEM);
        put(kept);
        return;
    }
    p->lock = *q;
    p->lock.wait = wait;
    p->lock.done = done;
    p->req = req;
    p->daemon = d;
    p->put = put;
    p->kept = kept;
    atomic_init(&p->refs, wait ? 2 : 1); /* this function's, while it may still touch p */
    atomic_init(&p->interrupted, false);
    if (wait) /* a client that waits for the daemon alone is not interrupted: EINTR would become
                 SQLITE_BUSY */
        fuse_req_interrupt_func(req, on_interrupt, p);
    int rc = bh_locks_request(d->locks, &p->lock);
    if (rc != EINPROGRESS)
        done(&p->lock, rc);
    else if (wait && p->interrupted) /* the interrupt came before there was anything to cancel */
        bh_locks_cancel(d->locks, &p->lock);
    if (wait)
        unref(p);
}
