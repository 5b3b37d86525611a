/* Requests to snapshots/ and branches/, and to the blobs/ of the root; those to files/ and blobs/
 * are handed on (views_files.c). What a snapshot holds never changes, so the kernel keeps it; what
 * a name means it asks each time, which costs a lookup in memory (views_cache.c). */
#include "files.h"
#include "views.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"

#define BLOBS_MODE 0500 /* whoever gets in reads what is in anybody's files */

static const char *const root_names[] = {"branches", "snapshots", BLOBS_NAME};
static const enum view_kind root_kinds[] = {VIEW_BRANCHES, VIEW_SNAPSHOTS, VIEW_BLOBS};
#define ROOT_NAMES 3

bool views_exist(struct daemon *d)
{
    return bh_history_of(d->bh) != NULL;
}

const char *views_root_name(struct daemon *d, int i)
{
    bool listed = views_exist(d) && bh_config_of(d->bh)->mount.history == BH_HISTORY_SHOWN;
    return listed && i < ROOT_NAMES ? root_names[i] : NULL;
}

ino_t views_root_ino(int i)
{
    return view_ino(root_names[i], NULL);
}

/* --- attributes --- */

/* When it was made, or changed last. */
static int get_time(struct daemon *d, const struct view *v, int64_t *ms, const struct bh_call *call,
                    struct bh_error *err)
{
    struct branch b;
    *ms = v->fixed ? v->e->time_ms : d->started_ms;
    if (v->fixed || v->kind == VIEW_BRANCHES || v->kind == VIEW_BLOBS)
        return 0;
    int rc = branch_get(d, v->branch, &b, call, err);
    if (rc == 0 && b.has_history)
        *ms = b.head.newest.time_ms;
    return rc;
}

int view_stat(struct daemon *d, const struct view *v, struct stat *st, const struct bh_call *call,
              struct bh_error *err)
{
    if (v->inode) {
        files_stat(v->inode, st);
        st->st_ino = v->ino;
        return 0;
    }
    mode_t dir_mode = S_IFDIR | (view_has_verbs(v) ? 0755 : 0555);
    BH_STRBUF text = {0};
    int64_t ms;
    int rc = get_time(d, v, &ms, call, err);
    if (rc == 0 && v->kind == VIEW_INFO)
        rc = view_info_text(d, v, &text, call, err);
    if (rc)
        return rc;
    *st = (struct stat){.st_ino = v->ino,
                        .st_mode = view_is_dir(v) ? dir_mode : S_IFREG | 0444,
                        .st_nlink = 1, /* of a directory: how many are in it is not counted */
                        .st_uid = d->uid,
                        .st_gid = d->gid,
                        .st_blksize = 4096,
                        .st_size = (off_t)text.len};
    stat_set_time(st, ms);
    if (v->kind == VIEW_SNAPSHOT)
        st->st_nlink = 4; /* files/ and blobs/ */
    if (v->kind == VIEW_BLOBS) {
        st->st_nlink = 2;
        st->st_mode = S_IFDIR | BLOBS_MODE;
    }
    if (v->kind == VIEW_DB) {
        st->st_size = (off_t)v->e->db.size;
        st->st_blocks = (blkcnt_t)((v->e->db.size + 511) / 512);
    }
    return 0;
}

double view_attr_seconds(const struct view *v)
{
    bool known = v->kind == VIEW_SNAPSHOT || v->kind == VIEW_DB || (v->set && v->fixed);
    return known ? CACHE_SECONDS : 0;
}

void views_explain(struct daemon *d, const struct node *dir, const char *name)
{
    explain(d,
            "%.100s in %s: what is there is for reading, and does not change; snapshots/ and "
            "branches/ are changed as directories (mkdir, rmdir, mv), files in files/",
            name, dir->view->path);
}

/* --- tasks --- */

struct view_task *view_task_new(fuse_req_t req, const struct view *v, view_run_fn *run,
                                const char *name)
{
    struct view_task *t = calloc(1, sizeof *t);
    if (!t) {
        fuse_reply_err(req, ENOMEM);
        return NULL;
    }
    t->req = req;
    t->users = 1;
    t->daemon = daemon_of(req);
    t->view = v;
    t->run = run;
    t->call.cancel = &t->cancel;
    t->call.stop = &t->daemon->closing;
    snprintf(t->name, sizeof t->name, "%s", name ? name : "");
    return t;
}

bool view_task_done(struct view_task *t)
{
    if (atomic_exchange(&t->answered, true))
        return false;
    interrupt_end(&t->interrupt);
    return true;
}

void view_task_put(struct view_task *t)
{
    if (atomic_fetch_sub(&t->users, 1) != 1)
        return;
    view_free(t->own);
    free(t);
}

static void refuse_task(struct view_task *t, int rc, const struct bh_error *err)
{
    /* That something is not there is no failure of a lookup. */
    if (t->verb || (rc != ENOENT && rc != ECANCELED))
        explain(t->daemon, "%s", err->text);
    if (view_task_done(t))
        fuse_reply_err(t->req, rc == ECANCELED ? EINTR : rc);
}

void view_task_run(struct view_task *t)
{
    struct bh_error err = {0};
    int rc = bh_call_check(&t->call, "the request", &err);
    if (rc == 0)
        rc = t->run(t, &err);
    if (rc)
        refuse_task(t, rc, &err);
}

static void run_task(void *arg)
{
    view_task_run(arg);
    view_task_put(arg);
}

void view_task_start(struct view_task *t)
{
    struct bh_error err;
    interrupt_begin(&t->interrupt, t->req, &t->cancel);
    struct workers *workers = t->workers ? t->workers : t->daemon->fetchers;
    int rc = t->verb ? verb_start(t) : workers_run(workers, run_task, t);
    if (rc == 0)
        return;
    bh_fail(&err, rc, "out of memory");
    refuse_task(t, rc, &err);
    view_task_put(t);
}

/* --- lookup --- */

double view_entry_seconds(const struct view *dir)
{
    return dir->kind == VIEW_SNAPSHOT || (dir->set && dir->fixed) ? CACHE_SECONDS : 0;
}

/* Answers with v, which is taken over. */
static void reply_view(fuse_req_t req, struct view *v, const struct stat *st, double entry_timeout)
{
    struct fuse_entry_param e = {
        .attr = *st, .attr_timeout = view_attr_seconds(v), .entry_timeout = entry_timeout};
    reply_entry(req, node_for_view(v), e);
}

static int kind_of(const struct view *dir, const char *name, enum view_kind *kind)
{
    if (!strcmp(name, BH_DB_NAME))
        *kind = VIEW_DB;
    else if (!strcmp(name, "info"))
        *kind = VIEW_INFO;
    else if (!strcmp(name, FILES_NAME))
        *kind = VIEW_FILES;
    else if (!strcmp(name, BLOBS_NAME))
        *kind = VIEW_BLOBS;
    else if (dir->kind == VIEW_BRANCH && !strcmp(name, "snapshots"))
        *kind = VIEW_SNAPSHOTS;
    else
        return ENOENT;
    return 0;
}

/* In the directory of a snapshot, or of a branch: then `e` is its newest. */
static int find_inside(struct daemon *d, const struct view *dir, enum view_kind kind,
                       const struct bh_index_entry *e, struct view **out,
                       const struct bh_call *call, struct bh_error *err)
{
    bool fixed = kind != VIEW_SNAPSHOTS && (kind != VIEW_INFO || dir->kind == VIEW_SNAPSHOT);
    if (kind == VIEW_FILES && !call)
        return EAGAIN;
    struct view *v = view_new(kind, dir->branch, dir->name, fixed ? e : NULL);
    int rc = v && kind == VIEW_FILES ? view_files_root(d, v, call, err) : 0;
    if (rc)
        view_free(v);
    else
        *out = v;
    return rc;
}

/* What there is of that name; *out NULL: no memory. */
static int find_child(struct daemon *d, const struct view *dir, const char *name, struct view **out,
                      const struct bh_call *call, struct bh_error *err)
{
    struct branch b;
    struct bh_index_entry e;
    enum view_kind kind;
    int rc;
    switch (dir->kind) {
    case VIEW_BRANCHES:
        rc = branch_get(d, name, &b, call, err);
        if (rc == 0)
            *out = view_new(VIEW_BRANCH, name, "", NULL);
        return rc;
    case VIEW_SNAPSHOTS:
        rc = branch_get(d, dir->branch, &b, call, err);
        if (rc == 0)
            rc = snapshot_get(d, &b, name, &e, call, err);
        if (rc == 0)
            *out = view_new(VIEW_SNAPSHOT, dir->branch, name, &e);
        return rc;
    case VIEW_BRANCH:
        rc = kind_of(dir, name, &kind);
        if (rc == 0)
            rc = branch_get(d, dir->branch, &b, call, err);
        if (rc == 0 && kind != VIEW_INFO && !b.has_history)
            rc = ENOENT;
        return rc ? rc : find_inside(d, dir, kind, &b.head.newest, out, call, err);
    case VIEW_SNAPSHOT:
        rc = kind_of(dir, name, &kind);
        return rc ? rc : find_inside(d, dir, kind, dir->e, out, call, err);
    default:
        return dir->set ? view_files_find(d, dir, name, out, call, err) : ENOTDIR;
    }
}

/* The same, and what stat says of it. */
static int look_up(struct daemon *d, const struct view *dir, const char *name, struct view **out,
                   struct stat *st, const struct bh_call *call, struct bh_error *err)
{
    int rc = find_child(d, dir, name, out, call, err);
    if (rc)
        return rc;
    if (!*out)
        return bh_fail(err, ENOMEM, "out of memory");
    rc = view_stat(d, *out, st, call, err);
    if (rc)
        view_free(*out);
    return rc;
}

int view_run_lookup(struct view_task *t, struct bh_error *err)
{
    struct view *v = NULL;
    struct stat st;
    int rc = look_up(t->daemon, t->view, t->name, &v, &st, &t->call, err);
    if (rc && rc != ENOENT)
        return rc;
    if (!view_task_done(t)) {
        if (!rc)
            view_free(v);
        return 0;
    }
    if (rc)
        reply_absent(t->req, 0);
    else
        reply_view(t->req, v, &st, view_entry_seconds(t->view));
    return 0;
}

bool views_lookup_in_root(fuse_req_t req, const char *name)
{
    int i = 0;
    while (i < ROOT_NAMES && strcmp(name, root_names[i]) != 0)
        i++;
    if (!views_exist(daemon_of(req)) || i == ROOT_NAMES)
        return false;
    struct view *v = view_new(root_kinds[i], "", "", NULL);
    struct stat st;
    int rc = v ? view_stat(daemon_of(req), v, &st, NULL, NULL) : ENOMEM;
    if (rc == 0) {
        reply_view(req, v, &st, CACHE_SECONDS);
    } else {
        view_free(v);
        fuse_reply_err(req, rc);
    }
    return true;
}

void views_lookup(fuse_req_t req, struct node *n, const char *name)
{
    struct view *v = NULL;
    struct stat st;
    int rc = look_up(daemon_of(req), n->view, name, &v, &st, NULL, NULL);
    if (rc == 0) {
        reply_view(req, v, &st, view_entry_seconds(n->view));
    } else if (rc == ENOENT) {
        reply_absent(req, view_entry_seconds(n->view));
    } else if (rc == EAGAIN) {
        struct view_task *t = view_task_new(req, n->view, view_run_lookup, name);
        if (!t)
            return;
        t->call.deadline_ms = bh_mono_ms() + dir_timeout(t->daemon);
        if (n->view->set || !strcmp(name, FILES_NAME))
            view_files_task(t);
        view_task_start(t);
    } else {
        fuse_reply_err(req, rc);
    }
}

static int run_getattr(struct view_task *t, struct bh_error *err)
{
    struct stat st;
    int rc = view_stat(t->daemon, t->view, &st, &t->call, err);
    if (rc)
        return rc;
    view_task_done(t);
    fuse_reply_attr(t->req, &st, view_attr_seconds(t->view));
    return 0;
}

void views_getattr(fuse_req_t req, struct node *n)
{
    struct stat st;
    int rc = view_stat(daemon_of(req), n->view, &st, NULL, NULL);
    if (rc == 0) {
        fuse_reply_attr(req, &st, view_attr_seconds(n->view));
    } else if (rc == EAGAIN) {
        struct view_task *t = view_task_new(req, n->view, run_getattr, NULL);
        if (t)
            view_task_start(t);
    } else {
        fuse_reply_err(req, rc);
    }
}

/* --- files --- */

/* The text of an info file is made when it is opened. */
static struct bh_strbuf *text_of(const struct fuse_file_info *fi)
{
    return (struct bh_strbuf *)(uintptr_t)fi->fh;
}

static void free_text(struct bh_strbuf *text)
{
    if (text)
        bh_strbuf_free(text);
    free(text);
}

static void reply_open(fuse_req_t req, struct fuse_file_info *fi)
{
    if (fuse_reply_open(req, fi) == -ENOENT)
        free_text(text_of(fi));
}

static int open_info(struct daemon *d, const struct view *v, struct fuse_file_info *fi,
                     const struct bh_call *call, struct bh_error *err)
{
    struct bh_strbuf *text = calloc(1, sizeof *text);
    if (!text)
        return bh_fail(err, ENOMEM, "out of memory");
    int rc = view_info_text(d, v, text, call, err);
    if (rc) {
        free_text(text);
        return rc;
    }
    fi->fh = (uint64_t)(uintptr_t)text;
    fi->direct_io = 1;
    return 0;
}

static int run_open(struct view_task *t, struct bh_error *err)
{
    int rc = open_info(t->daemon, t->view, &t->fi, &t->call, err);
    if (rc)
        return rc;
    view_task_done(t);
    reply_open(t->req, &t->fi);
    return 0;
}

void views_open(fuse_req_t req, struct node *n, struct fuse_file_info *fi)
{
    const struct view *v = n->view;
    if (view_is_dir(v)) {
        fuse_reply_err(req, EISDIR);
        return;
    }
    if ((fi->flags & O_ACCMODE) != O_RDONLY || fi->flags & O_TRUNC) {
        fuse_reply_err(req, EROFS);
        return;
    }
    fi->fh = 0;
    if (v->set) {
        view_files_open(req, v, fi);
        return;
    }
    if (v->kind == VIEW_DB) {
        fi->keep_cache = 1;
        fuse_reply_open(req, fi);
        return;
    }
    int rc = open_info(daemon_of(req), v, fi, NULL, NULL);
    if (rc == 0) {
        reply_open(req, fi);
    } else if (rc == EAGAIN) {
        struct view_task *t = view_task_new(req, v, run_open, NULL);
        if (!t)
            return;
        t->fi = *fi;
        view_task_start(t);
    } else {
        fuse_reply_err(req, rc);
    }
}

static int run_read(struct view_task *t, struct bh_error *err)
{
    BH_FREE char *buf = malloc(t->size);
    if (!buf)
        return bh_fail(err, ENOMEM, "out of memory reading %s", t->view->path);
    struct block_source source = {.daemon = t->daemon, .e = t->view->e};
    int rc = blocks_read(&source, (uint64_t)t->offset, buf, t->size, &t->call, err);
    if (rc)
        return rc;
    view_task_done(t);
    fuse_reply_buf(t->req, buf, t->size);
    return 0;
}

static void read_db(fuse_req_t req, struct node *n, size_t size, uint64_t off,
                    const struct fuse_file_info *fi)
{
    const struct view *v = n->view;
    struct block_source source = {.daemon = daemon_of(req), .e = v->e};
    uint64_t left = off < v->e->db.size ? v->e->db.size - off : 0;
    size = size < left ? size : (size_t)left;
    bool here = size <= sizeof loop_buffer && blocks_known(&source, off, loop_buffer, size) == 0;
    if (readahead_declines(n, fi, off, size, !here)) {
        fuse_reply_err(req, EAGAIN);
        return;
    }
    if (here) {
        fuse_reply_buf(req, loop_buffer, size);
        return;
    }
    struct view_task *t = view_task_new(req, v, run_read, NULL);
    if (t) {
        t->size = size;
        t->offset = (off_t)off;
        view_task_start(t);
    }
}

void views_read(fuse_req_t req, struct node *n, size_t size, off_t off, struct fuse_file_info *fi)
{
    if (n->view->set)
        view_files_read(req, n->view, size, off, fi);
    else if (n->view->kind == VIEW_DB)
        read_db(req, n, size, (uint64_t)off, fi);
    else
        reply_text(req, text_of(fi), size, off);
}

void views_release(fuse_req_t req, struct node *n, struct fuse_file_info *fi)
{
    if (n->view->set) {
        view_files_release(req, fi);
        return;
    }
    if (n->view->kind == VIEW_INFO)
        free_text(text_of(fi));
    fuse_reply_err(req, 0);
}
