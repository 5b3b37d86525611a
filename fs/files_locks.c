/* fcntl locks on files in files/: the lock table of the live database keeps them, too, ungated.
 * (flock is the kernel's own.) */
#include "files.h"

#include <errno.h>
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

struct inode_locks *files_locks_hold(uint64_t ino)
{
    BH_LOCK_SCOPE(&mutex);
    struct inode_locks **at = find(ino);
    if (!*at && (*at = calloc(1, sizeof **at)))
        (*at)->ino = ino;
    if (*at)
        (*at)->users++;
    return *at;
}

static void put(void *arg)
{
    struct inode_locks *l = arg;
    BH_LOCK_SCOPE(&mutex);
    if (--l->users > 0)
        return;
    *find(l->ino) = l->next;
    bh_lockset_free(&l->set);
    free(l);
}

void files_locks_drop(struct daemon *d, struct handle *h)
{
    if (!h->locks)
        return;
    bh_locks_drop_handle(d->locks, &h->locks->set, (uintptr_t)h);
    put(h->locks);
}

void files_locks_flush(struct daemon *d, const struct handle *h, uint64_t owner)
{
    if (h->locks)
        bh_locks_drop_owner(d->locks, &h->locks->set, (struct bh_owner){.id = owner});
}

void files_getlk(fuse_req_t req, struct fuse_file_info *fi, struct flock *lock)
{
    struct inode_locks *l = handle_of(fi)->locks;
    struct bh_lock_request q;
    if (!l) {
        fuse_reply_err(req, ENOLCK);
        return;
    }
    lock_fill(&q, &l->set, req, fi, lock);
    lock_test(req, &q, lock);
}

void files_setlk(fuse_req_t req, struct fuse_file_info *fi, struct flock *lock, bool wait)
{
    struct daemon *d = daemon_of(req);
    struct inode_locks *l = handle_of(fi)->locks;
    struct bh_lock_request q;
    if (!l) {
        fuse_reply_err(req, ENOLCK);
        return;
    }
    lock_fill(&q, &l->set, req, fi, lock);
    if (!wait || q.type == BH_LOCK_NONE) { /* never parked: the daemon has no locks here */
        fuse_reply_err(req, bh_locks_request(d->locks, &q));
        return;
    }
    pthread_mutex_lock(&mutex);
    l->users++;
    pthread_mutex_unlock(&mutex);
    lock_take(req, &q, true, put, l);
}
