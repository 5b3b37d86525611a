/* Listings of snapshots/ and branches/, and the text of info. A listing is taken when it is begun
 * and belongs to the open directory: what is added or removed meanwhile moves nothing in it. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "views.h"

/* --- open directories --- */

struct open_dir {
    bool plus;            /* how the request that is under way wants it */
    bool taken;           /* the listing: */
    const char *files[6]; /* that stand in such a directory always; NULL at the end */
    struct snaps *snaps;  /* ids */
    struct label *labels; /* then these */
    size_t label_count;
    char **branches; /* or these */
    size_t branch_count;
};

static struct open_dir *dir_of(const struct fuse_file_info *fi)
{
    return (struct open_dir *)(uintptr_t)fi->fh;
}

static void forget_listing(struct open_dir *o)
{
    snaps_put(o->snaps);
    free(o->labels);
    free(o->branches);
    *o = (struct open_dir){0};
}

void views_opendir(fuse_req_t req, struct node *n, struct fuse_file_info *fi)
{
    if (n->view->set) {
        view_files_opendir(req, n->view, fi);
        return;
    }
    struct open_dir *o = calloc(1, sizeof *o);
    if (!o) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    fi->fh = (uint64_t)(uintptr_t)o;
    if (fuse_reply_open(req, fi) == -ENOENT)
        free(o);
}

void views_releasedir(fuse_req_t req, struct node *n, struct fuse_file_info *fi)
{
    if (n->view->set) {
        view_files_releasedir(req, fi);
        return;
    }
    struct open_dir *o = dir_of(fi);
    forget_listing(o);
    free(o);
    fuse_reply_err(req, 0);
}

/* --- taking a listing --- */

static int list_snapshots(struct daemon *d, const struct view *v, struct open_dir *o,
                          const struct bh_call *call, struct bh_error *err)
{
    struct branch b;
    int rc = branch_get(d, v->branch, &b, call, err);
    if (rc || !b.has_history)
        return rc;
    rc = snaps_get(d, &b.head, &o->snaps, call, err);
    if (rc == 0)
        rc = labels_get(d, &b, true, &o->labels, &o->label_count, call, err);
    return rc;
}

static int list_branch(struct daemon *d, const struct view *v, struct open_dir *o,
                       const struct bh_call *call, struct bh_error *err)
{
    static const char *const all[] = {"info", BH_DB_NAME, FILES_NAME, BLOBS_NAME, "snapshots"};
    struct branch b;
    int rc = branch_get(d, v->branch, &b, call, err);
    for (int i = 0; rc == 0 && i < (b.has_history ? 5 : 1); i++)
        o->files[i] = all[i];
    return rc;
}

static int take_listing(struct daemon *d, const struct view *v, struct open_dir *o,
                        const struct bh_call *call, struct bh_error *err)
{
    int rc = 0;
    const bool plus = o->plus;
    forget_listing(o);
    o->plus = plus;
    switch (v->kind) {
    case VIEW_BRANCHES:
        rc = bh_history_branches(bh_history_of(d->bh), &o->branches, &o->branch_count, call, err);
        break;
    case VIEW_BRANCH:
        rc = list_branch(d, v, o, call, err);
        break;
    case VIEW_SNAPSHOTS:
        rc = list_snapshots(d, v, o, call, err);
        break;
    default:
        o->files[0] = "info";
        o->files[1] = BH_DB_NAME;
        o->files[2] = FILES_NAME;
        o->files[3] = BLOBS_NAME;
    }
    o->taken = rc == 0;
    return rc;
}

/* --- answering --- */

static size_t count_files(const struct open_dir *o)
{
    size_t n = 0;
    while (o->files[n])
        n++;
    return n;
}

/* Entry number i: false beyond the last. */
static bool entry(const struct open_dir *o, size_t i, const char **name, mode_t *mode)
{
    size_t files = count_files(o), snaps = o->snaps ? o->snaps->count : 0;
    *mode = S_IFDIR;
    if (i < files) {
        *name = o->files[i];
        if (!strcmp(*name, "info") || !strcmp(*name, BH_DB_NAME))
            *mode = S_IFREG;
        return true;
    }
    i -= files;
    if (i < snaps) {
        *name = o->snaps->entries[i].id;
        return true;
    }
    i -= snaps;
    if (i < o->label_count) {
        *name = o->labels[i].name;
        return true;
    }
    i -= o->label_count;
    *name = i < o->branch_count ? o->branches[i] : NULL;
    return *name != NULL;
}

ino_t view_parent_ino(const struct view *v)
{
    const char *slash = strrchr(v->path, '/');
    if (!slash)
        return FUSE_ROOT_ID;
    char path[2 * BH_BRANCH_MAX + 32];
    snprintf(path, sizeof path, "%.*s", (int)(slash - v->path), v->path);
    return view_ino(path, NULL);
}

static void reply_listing(fuse_req_t req, const struct view *v, const struct open_dir *o,
                          size_t size, off_t from)
{
    BH_FREE char *buf = malloc(size);
    struct listing l = {.req = req, .buf = buf, .size = size, .from = from, .plus = o->plus};
    const char *name;
    mode_t mode;
    if (!buf) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    int full =
        listing_add(&l, ".", v->ino, S_IFDIR) || listing_add(&l, "..", view_parent_ino(v), S_IFDIR);
    l.slot = from > 2 ? from : 2; /* the ones before it need not be counted */
    while (!full && entry(o, (size_t)l.slot - 2, &name, &mode))
        full = listing_add(&l, name, view_ino(v->path, name), mode);
    fuse_reply_buf(req, buf, l.used);
}

static int run_readdir(struct view_task *t, struct bh_error *err)
{
    struct open_dir *o = dir_of(&t->fi);
    int rc = take_listing(t->daemon, t->view, o, &t->call, err);
    if (rc)
        return rc;
    view_task_done(t);
    reply_listing(t->req, t->view, o, t->size, 0);
    return 0;
}

void views_readdir(fuse_req_t req, struct node *n, size_t size, off_t off,
                   struct fuse_file_info *fi, bool plus)
{
    if (n->view->set) {
        view_files_readdir(req, n->view, size, off, fi, plus);
        return;
    }
    struct open_dir *o = dir_of(fi);
    struct bh_error err;
    o->plus = plus; /* the kernel reads a directory with one request at a time */
    if (!view_is_dir(n->view)) {
        fuse_reply_err(req, ENOTDIR);
        return;
    }
    bool at_once = o->taken && off > 0;
    if (!at_once && n->view->kind == VIEW_SNAPSHOT)
        at_once = take_listing(daemon_of(req), n->view, o, NULL, &err) == 0;
    if (at_once) {
        reply_listing(req, n->view, o, size, off);
        return;
    }
    struct view_task *t = view_task_new(req, n->view, run_readdir, NULL);
    if (t) {
        t->fi = *fi;
        t->size = size;
        view_task_start(t);
    }
}

/* --- info --- */

static void add_time(struct bh_strbuf *out, const char *name, int64_t ms)
{
    char when[32];
    bh_strbuf_addf(out, "%s: %s\n", name, bh_format_time(ms, when, sizeof when));
}

static void lease_lines(const struct bh_lease *l, struct bh_strbuf *out)
{
    char when[32];
    if (!l->writer[0])
        bh_strbuf_addf(out, "lease: none\n");
    else
        bh_strbuf_addf(out, "lease: held by %s, process %" PRId64 ", until %s\n", l->host, l->pid,
                       bh_format_time(l->expires_ms, when, sizeof when));
}

static void branch_text(const struct branch *b, struct bh_strbuf *out)
{
    const struct bh_head *h = &b->head;
    bh_strbuf_addf(out, "branch: %s\n", h->branch);
    if (!b->has_history) {
        bh_strbuf_addf(out, "history: none; switch to it (.ctl/branch) to give it one\n");
        return;
    }
    bh_strbuf_addf(out, "snapshot: %s\n", h->newest.id);
    add_time(out, "created", h->newest.time_ms);
    bh_strbuf_addf(out, "size: %" PRIu64 "\nsnapshots: %" PRIu64 "\n", h->newest.db.size,
                   bh_index_count(&h->index));
    if (h->forked_from[0])
        bh_strbuf_addf(out, "forked from: %s, snapshot %s\n", h->forked_from, h->fork_snapshot);
    lease_lines(&h->lease, out);
}

static int add_labels(struct daemon *d, const struct view *v, const struct branch *b,
                      struct bh_strbuf *out, const struct bh_call *call, struct bh_error *err)
{
    BH_FREE struct label *labels = NULL;
    size_t count_ = 0;
    int rc = labels_get(d, b, false, &labels, &count_, call, err);
    for (size_t i = 0; rc == 0 && i < count_; i++)
        if (!strcmp(labels[i].id, v->e->id))
            bh_strbuf_addf(out, "label: %s\n", labels[i].name);
    return rc;
}

int view_info_text(struct daemon *d, const struct view *v, struct bh_strbuf *out,
                   const struct bh_call *call, struct bh_error *err)
{
    struct branch b;
    int rc = branch_get(d, v->branch, &b, call, err);
    if (rc)
        return rc;
    if (!v->fixed) {
        branch_text(&b, out);
    } else {
        bh_history_info_text(bh_history_of(d->bh), v->e, out);
        rc = add_labels(d, v, &b, out, call, err);
    }
    return rc == 0 && out->failed ? bh_fail(err, ENOMEM, "out of memory") : rc;
}
