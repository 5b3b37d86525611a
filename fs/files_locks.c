/* fcntl locks on files in files/: the lock table of the live database keeps them, too, ungated. A
 * parked request is a reply kept for later. (flock is the kernel's own.) */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "util/cleanup.h"

#define SLOTS 1024u

/* The locks of one inode; there while it has handles, or requests that wait. */
struct inode_locks {
    struct inode_locks *next;
    uint64_t ino;
    unsigned users;
    struct bh_lockset set;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct inode_locks *slots[SLOTS];

/* With the mutex. */
static struct inode_locks **find(uint64_t ino)
{
    struct inode_locks **at = &slots[ino % SLOTS];
    while (*at && (*at)->ino != ino)
        at = &(*at)->next;
    return at;
}

/* Without memory the file cannot be locked: files_setlk says so. */
void files_locks_hold(uint64_t ino)
{
    BH_LOCK_SCOPE(&mutex);
    struct inode_locks **at = find(ino);
    if (!*at && (*at = calloc(1, sizeof **at)))
        (*at)->ino = ino;
    if (*at)
        (*at)->users++;
}

static struct inode_locks *get(uint64_t ino)
{
    BH_LOCK_SCOPE(&mutex);
    struct inode_locks *l = *find(ino);
    if (l)
        l->users++;
    return l;
}

static void put(struct inode_locks *l)
{
    BH_LOCK_SCOPE(&mutex);
    if (--l->users > 0)
        return;
    *find(l->ino) = l->next;
    bh_lockset_free(&l->set);
    free(l);
}

void files_locks_drop(struct daemon *d, uint64_t ino, uint64_t handle)
{
    struct inode_locks *l = get(ino);
    if (!l)
        return;
    bh_locks_drop_handle(d->locks, &l->set, handle);
    put(l);
    put(l); /* the handle's */
}

void files_locks_flush(struct daemon *d, uint64_t ino, uint64_t owner)
{
    struct inode_locks *l = get(ino);
    if (!l)
        return;
    bh_locks_drop_owner(d->locks, &l->set, (struct bh_owner){.id = owner});
    put(l);
}

static void fill(struct bh_lock_request *q, struct inode_locks *l, fuse_req_t req,
                 const struct fuse_file_info *fi, const struct flock *lock)
{
    *q = (struct bh_lock_request){
        .set = &l->set,
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

void files_getlk(fuse_req_t req, struct fuse_file_info *fi, struct flock *lock)
{
    struct inode_locks *l = get(bh_open_ino(handle_of(fi)->open));
    struct bh_lock_request q;
    struct bh_lock held;
    if (!l) {
        fuse_reply_err(req, ENOLCK);
        return;
    }
    fill(&q, l, req, fi, lock);
    if (bh_locks_test(daemon_of(req)->locks, &q, &held)) {
        lock->l_type = held.write ? F_WRLCK : F_RDLCK;
        lock->l_start = (off_t)held.start;
        lock->l_len = held.end == UINT64_MAX ? 0 : (off_t)(held.end - held.start + 1);
        lock->l_pid = held.pid;
    } else {
        lock->l_type = F_UNLCK;
    }
    lock->l_whence = SEEK_SET;
    fuse_reply_lock(req, lock);
    put(l);
}

/* Its request, this file's function and, while an interrupt is on its way, a worker refer to it. */
struct waiting {
    struct bh_lock_request lock;
    fuse_req_t req;
    struct daemon *daemon;
    struct inode_locks *locks;
    atomic_uint refs;
    atomic_bool interrupted;
};

static void unref(struct waiting *w)
{
    if (atomic_fetch_sub(&w->refs, 1) == 1) {
        put(w->locks);
        free(w);
    }
}

static void done(struct bh_lock_request *q, int rc)
{
    struct waiting *w = (struct waiting *)(void *)q;
    fuse_req_interrupt_func(w->req, NULL, NULL);
    fuse_reply_err(w->req, rc);
    unref(w);
}

static void cancel(void *arg)
{
    struct waiting *w = arg;
    bh_locks_cancel(w->daemon->locks, &w->lock);
    unref(w);
}

/* libfuse holds the request's mutex here, which the reply needs: the rest is a worker's. */
static void on_interrupt(fuse_req_t req, void *arg)
{
    struct waiting *w = arg;
    (void)req;
    if (atomic_exchange(&w->interrupted, true))
        return;
    atomic_fetch_add(&w->refs, 1);
    if (workers_run(w->daemon->workers, cancel, w) != 0)
        atomic_fetch_sub(&w->refs, 1); /* it waits on: no memory for a cancellation */
}

void files_setlk(fuse_req_t req, struct fuse_file_info *fi, struct flock *lock, bool wait)
{
    struct daemon *d = daemon_of(req);
    struct inode_locks *l = get(bh_open_ino(handle_of(fi)->open));
    struct bh_lock_request quick;
    if (!l) {
        fuse_reply_err(req, ENOLCK);
        return;
    }
    fill(&quick, l, req, fi, lock);
    struct waiting *w = wait && quick.type != BH_LOCK_NONE ? malloc(sizeof *w) : NULL;
    if (!w) {
        bool no_memory = wait && quick.type != BH_LOCK_NONE;
        fuse_reply_err(req, no_memory ? ENOLCK : bh_locks_request(d->locks, &quick));
        put(l);
        return;
    }
    w->lock = quick;
    w->lock.wait = true;
    w->lock.done = done;
    w->req = req;
    w->daemon = d;
    w->locks = l;
    atomic_init(&w->refs, 2);
    atomic_init(&w->interrupted, false);
    fuse_req_interrupt_func(req, on_interrupt, w);
    int rc = bh_locks_request(d->locks, &w->lock);
    if (rc != EINPROGRESS)
        done(&w->lock, rc);
    else if (w->interrupted) /* the interrupt came before there was anything to cancel */
        bh_locks_cancel(d->locks, &w->lock);
    unref(w);
}
