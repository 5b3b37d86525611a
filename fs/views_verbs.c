/* mkdir, rmdir and mv in snapshots/ and branches/. */
#include <errno.h>
#include <stdio.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"
#include "views.h"

#define AT_ONCE 4

/* --- a few at a time --- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t one_ended = PTHREAD_COND_INITIALIZER;
static unsigned running;
static struct view_task *waiting, **waiting_tail = &waiting;

static void run_verbs(void *arg)
{
    struct view_task *t = arg;
    while (t) {
        view_task_run(t);
        pthread_mutex_lock(&mutex);
        t->ended = true;
        pthread_cond_broadcast(&one_ended);
        pthread_mutex_unlock(&mutex);
        view_task_put(t);
        BH_LOCK_SCOPE(&mutex);
        t = waiting;
        if (!t)
            running--;
        else if (!(waiting = t->next))
            waiting_tail = &waiting;
    }
}

/* The kernel keeps the directory locked until the answer, and who looks into it meanwhile cannot be
 * killed: so there is one in time, and the verb goes on. */
static void run_wait(void *arg)
{
    struct view_task *t = arg;
    int64_t left = t->answer_by_ms - bh_mono_ms();
    struct timespec until = bh_mono_after_ms(left > 0 ? left : 0);
    pthread_mutex_lock(&mutex);
    while (!t->ended &&
           pthread_cond_clockwait(&one_ended, &mutex, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
        continue;
    if (!t->ended && view_task_done(t)) {
        explain(t->daemon,
                "%s/%s: the bucket has not confirmed it in time (mount.dir_timeout); it goes on, "
                "and how it ends will stand here and in .ctl/log",
                t->view->path, t->name);
        fuse_reply_err(t->req, ETIMEDOUT);
    }
    pthread_mutex_unlock(&mutex);
    view_task_put(t);
}

int verb_start(struct view_task *t)
{
    atomic_fetch_add(&t->users, 1);
    if (workers_run(t->daemon->waiters, run_wait, t) != 0) {
        atomic_fetch_sub(&t->users, 1);
        return ENOMEM;
    }
    BH_LOCK_SCOPE(&mutex);
    if (running >= AT_ONCE) {
        t->next = NULL;
        *waiting_tail = t;
        waiting_tail = &t->next;
        return 0;
    }
    int rc = workers_run(t->daemon->fetchers, run_verbs, t);
    if (rc == 0) {
        running++;
    } else {
        t->ended = true;
        pthread_cond_broadcast(&one_ended);
    }
    return rc;
}

/* --- what they do --- */

/* The end of each: what is known is outdated, also where it failed with the work half done. */
static int ended(struct view_task *t, int rc, struct bh_error *err)
{
    views_changed();
    if (rc) {
        bh_fail_prefix(err, rc, "%s/%s", t->view->path, t->name);
        return rc;
    }
    if (atomic_load(&t->answered))
        bh_log(BH_LOG_INFO, "%s/%s is done: the bucket has confirmed it", t->view->path, t->name);
    note_status(t->daemon, "ok");
    return 0;
}

static int reply_ok(struct view_task *t)
{
    if (view_task_done(t))
        fuse_reply_err(t->req, 0);
    return 0;
}

static int run_mkdir(struct view_task *t, struct bh_error *err)
{
    struct bh *bh = t->daemon->bh;
    int rc = t->view->kind == VIEW_BRANCHES ? bh_fork_call(bh, t->name, &t->call, err)
                                            : bh_label_call(bh, NULL, t->name, &t->call, err);
    rc = ended(t, rc, err);
    return rc ? rc : view_run_lookup(t, err);
}

static int run_rmdir(struct view_task *t, struct bh_error *err)
{
    struct bh *bh = t->daemon->bh;
    int rc;
    if (t->view->kind == VIEW_BRANCHES)
        rc = bh_delete_branch_call(bh, t->name, &t->call, err);
    else if (bh_is_snapshot_id(t->name))
        rc = bh_drop_call(bh, t->name, &t->call, err);
    else
        rc = bh_unlabel_call(bh, t->name, &t->call, err);
    rc = ended(t, rc, err);
    return rc ? rc : reply_ok(t);
}

static int run_rename(struct view_task *t, struct bh_error *err)
{
    struct bh *bh = t->daemon->bh;
    int rc;
    if (t->view->kind == VIEW_BRANCHES)
        rc = bh_rename_branch_call(bh, t->name, t->new_name, &t->call, err);
    else if (bh_is_snapshot_id(t->name))
        rc = bh_label_call(bh, t->name, t->new_name, &t->call, err);
    else
        rc = bh_rename_label_call(bh, t->name, t->new_name, &t->call, err);
    rc = ended(t, rc, err);
    return rc ? rc : reply_ok(t);
}

/* --- requests --- */

static void refuse(fuse_req_t req, const struct view *v)
{
    explain(daemon_of(req),
            "%s: branches are made, removed and renamed in branches/, labels of the current branch "
            "in snapshots/; nothing else in there changes",
            v->path);
    fuse_reply_err(req, EPERM);
}

static struct view_task *verb_new(fuse_req_t req, const struct view *v, view_run_fn *run,
                                  const char *name)
{
    struct view_task *t = view_task_new(req, v, run, name);
    if (!t)
        return NULL;
    t->verb = true;
    t->answer_by_ms = bh_mono_ms() + dir_timeout(t->daemon);
    t->own = view_new(v->kind, v->branch, v->name, NULL);
    if (t->own) {
        t->view = t->own;
        return t;
    }
    fuse_reply_err(req, ENOMEM);
    view_task_put(t);
    return NULL;
}

static void start(fuse_req_t req, struct node *n, view_run_fn *run, const char *name)
{
    if (!view_has_verbs(n->view)) {
        refuse(req, n->view);
        return;
    }
    struct view_task *t = verb_new(req, n->view, run, name);
    if (t)
        view_task_start(t);
}

void views_mkdir(fuse_req_t req, struct node *n, const char *name)
{
    start(req, n, run_mkdir, name);
}

void views_rmdir(fuse_req_t req, struct node *n, const char *name)
{
    start(req, n, run_rmdir, name);
}

/* mv A B where the directory B exists means B/A. */
static bool is_into_sibling(const struct view *from, const struct view *to)
{
    return (from->kind == VIEW_BRANCHES && to->kind == VIEW_BRANCH) ||
           (from->kind == VIEW_SNAPSHOTS && to->kind == VIEW_SNAPSHOT && !to->branch[0]);
}

void views_rename(fuse_req_t req, struct node *n, const char *name, struct node *to,
                  const char *new_name, unsigned flags)
{
    if (n->kind != NODE_VIEW || to->kind != NODE_VIEW || !view_has_verbs(n->view)) {
        refuse(req, n->kind == NODE_VIEW ? n->view : to->view);
        return;
    }
    if (flags & ~(unsigned)RENAME_NOREPLACE) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if (is_into_sibling(n->view, to->view)) {
        explain(daemon_of(req), "%s exists already", to->view->path);
        fuse_reply_err(req, EPERM); /* mv says strange things of EEXIST */
        return;
    }
    if (n != to) {
        refuse(req, to->view);
        return;
    }
    struct view_task *t = verb_new(req, n->view, run_rename, name);
    if (!t)
        return;
    snprintf(t->new_name, sizeof t->new_name, "%s", new_name);
    view_task_start(t);
}
