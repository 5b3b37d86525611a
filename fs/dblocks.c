/* fcntl locks of clients on live.db and its side files, and what comes with them. */
#include <errno.h>

#include "daemon.h"
#include "util/log.h"

void dbfile_getlk(fuse_req_t req, struct node *n, struct fuse_file_info *fi, struct flock *lock)
{
    struct bh_lock_request r;
    lock_fill(&r, &n->file->locks, req, fi, lock);
    lock_test(req, &r, lock);
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

static void put_file(void *arg)
{
    bh_file_unref(arg);
}

void dbfile_setlk(fuse_req_t req, struct node *n, struct fuse_file_info *fi, struct flock *lock,
                  bool wait)
{
    struct daemon *d = daemon_of(req);
    struct bh_lock_request quick;
    lock_fill(&quick, &n->file->locks, req, fi, lock);
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
    bh_file_ref(n->file);
    lock_take(req, &quick, wait, put_file, n->file);
}
