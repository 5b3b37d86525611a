/* fcntl locks of clients: a parked request is a reply kept for later. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon.h"
#include "util/log.h"

/* A parked lock request. Its request and, while an interrupt is on its way, a worker refer to it.
 */
struct parked {
    struct bh_lock_request lock;
    fuse_req_t req;
    struct daemon *daemon;
    struct bh_file *file;
    atomic_uint refs;
    atomic_bool interrupted;
};

static void unref(struct parked *p)
{
    if (atomic_fetch_sub(&p->refs, 1) == 1) {
        bh_file_unref(p->file);
        free(p);
    }
}

static void done(struct bh_lock_request *r, int rc)
{
    struct parked *p = (struct parked *)(void *)r;
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

static void fill(struct bh_lock_request *r, struct bh_file *f, fuse_req_t req,
                 struct fuse_file_info *fi, const struct flock *lock)
{
    *r = (struct bh_lock_request){
        .set = &f->locks,
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

void dbfile_getlk(fuse_req_t req, struct node *n, struct fuse_file_info *fi, struct flock *lock)
{
    struct bh_lock_request r;
    struct bh_lock held;
    fill(&r, n->file, req, fi, lock);
    if (bh_locks_test(daemon_of(req)->locks, &r, &held)) {
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

/* A client that lets go of EXCLUSIVE of its own accord has committed or rolled back. */
static void note_end_of_commit(struct daemon *d, struct bh_file *f, const struct bh_lock_request *r)
{
    if (f->kind != BH_FILE_DB || r->type == BH_LOCK_WRITE || !bh_store_undo_pending(d->store))
        return;
    struct bh_lock_summary sum = bh_locks_summary(d->locks, &f->locks);
    if (!sum.client_exclusive || !bh_owner_equal(sum.exclusive_owner, r->owner))
        return;
    int rc = bh_store_undo_forget(d->store);
    if (rc)
        bh_log(
            BH_LOG_ERROR,
            "the undo log of a client without a journal cannot be emptied (errno %d): a crash of "
            "the next such client would undo this commit, too",
            rc);
}

/* --- clients of the wal-index come and go --- */

/* The client has its DMS lock and waits for the answer. */
static void joined(struct daemon *d, struct bh_file *f, fuse_req_t req, uint64_t handle, int rc)
{
    if (rc)
        bh_locks_drop_handle(d->locks, &f->locks, handle);
    fuse_reply_err(req, rc);
}

static void run_attach(const struct file_task *t)
{
    int rc = EAGAIN;
    for (int i = 0; i < 100 && rc == EAGAIN; i++) { /* somebody may read it again and again */
        bh_shm_forget_pages(t->file->shm, &t->daemon->live->hooks);
        rc = bh_shm_attach(t->file->shm);
    }
    joined(t->daemon, t->file, t->req, t->handle, rc == EAGAIN ? EBUSY : rc);
}

static void run_detach(const struct file_task *t)
{
    bh_live_detach(t->daemon->live, t->file);
}

static void shm_joined(struct daemon *d, struct bh_file *f, fuse_req_t req, uint64_t handle)
{
    struct file_task t = {.run = run_attach, .daemon = d, .req = req, .file = f, .handle = handle};
    int rc = bh_shm_attach(f->shm);
    if (rc == EAGAIN && file_task_start(d->workers, &t))
        return;
    joined(d, f, req, handle, rc == EAGAIN ? ENOMEM : rc);
}

void dbfile_shm_left(struct daemon *d, struct bh_file *f)
{
    struct file_task t = {.run = run_detach, .daemon = d, .file = f};
    if (f->kind == BH_FILE_SHM && bh_shm_is_remote(f->shm) &&
        bh_locks_attached(d->locks, &f->locks) == 0 && !file_task_start(d->workers, &t))
        bh_log(BH_LOG_WARNING,
               "out of memory: " BH_SHM_NAME " stays in use until its next client closes it");
}

static bool is_dms(const struct bh_file *f, const struct bh_lock_request *r)
{
    return f->kind == BH_FILE_SHM && r->start <= BH_WAL_DMS && r->end >= BH_WAL_DMS;
}

void dbfile_setlk(fuse_req_t req, struct node *n, struct fuse_file_info *fi, struct flock *lock,
                  bool wait)
{
    struct daemon *d = daemon_of(req);
    struct bh_lock_request quick;
    fill(&quick, n->file, req, fi, lock);
    note_end_of_commit(d, n->file, &quick);
    if (quick.type == BH_LOCK_NONE) { /* never parked */
        fuse_reply_err(req, bh_locks_request(d->locks, &quick));
        if (is_dms(n->file, &quick))
            dbfile_shm_left(d, n->file);
        return;
    }
    if (is_dms(n->file, &quick)) { /* nor is this one: the daemon is in nobody's way there */
        quick.wait = false;
        int rc = bh_locks_request(d->locks, &quick);
        if (rc == 0)
            shm_joined(d, n->file, req, fi->fh);
        else
            fuse_reply_err(req, rc);
        return;
    }
    struct parked *p = malloc(sizeof *p);
    if (!p) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    p->lock = quick;
    p->lock.wait = wait;
    p->lock.done = done;
    p->req = req;
    p->daemon = d;
    p->file = n->file;
    atomic_init(&p->refs, wait ? 2 : 1); /* this function's, while it may still touch p */
    atomic_init(&p->interrupted, false);
    bh_file_ref(p->file);
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
