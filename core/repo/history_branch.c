/* Branches: fork, switch, delete, rename. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repo/gc.h"
#include "repo/history_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

static int check_name(const char *name, struct bh_error *err)
{
    if (bh_is_branch_name(name))
        return 0;
    return bh_fail(err, EINVAL,
                   "\"%.100s\" is no name for a branch: 1 to 100 of letters, digits, - and _",
                   name);
}

static int put_branch(struct bh_history *h, struct bh_head *head, char etag[BH_ETAG_MAX],
                      const struct bh_call *call, struct bh_error *err)
{
    struct bh_head there;
    etag[0] = '\0';
    int rc = bh_head_put(h->bucket, h->prefix, head, etag, NULL, NULL, call, err);
    if (rc != ESTALE)
        return rc;
    rc = bh_head_get(h->bucket, h->prefix, head->branch, &there, etag, call, err);
    if (rc == ENOENT) { /* a tombstone: what it counts goes on */
        head->sequence = there.sequence + 1;
        head->lease.epoch = there.lease.epoch + 1;
        rc = history_check_tombstone(h, &there, call, err);
        if (rc == 0)
            rc = bh_head_put(h->bucket, h->prefix, head, etag, NULL, NULL, call, err);
    } else if (rc == 0) {
        rc = ESTALE;
    }
    return rc == ESTALE ? bh_fail(err, EEXIST, "branch %s exists already", head->branch) : rc;
}

/* Makes it a tombstone that names nothing. The error that led here stays. */
static void take_back(struct bh_history *h, struct bh_head *head, char etag[BH_ETAG_MAX],
                      const struct bh_call *call, struct bh_error *err)
{
    struct bh_error why;
    head->deleted = true;
    head->newest = (struct bh_index_entry){0};
    head->index = (struct bh_root){0};
    head->previous[0] = '\0';
    if (history_release_head(h, head, etag, call, &why) == 0)
        return;
    bh_log(BH_LOG_ERROR, "branch %s: %s; it could not be removed again: %s", head->branch,
           err->text, why.text);
    bh_fail_prefix(err, err->code, "branch %s is there, but cannot be relied on: rmdir branches/%s",
                   head->branch, head->branch);
}

int history_new_branch(struct bh_history *h, const char *name, const struct bh_head *on,
                       const struct bh_index_entry *e, const struct bh_root *index,
                       const struct bh_call *call, struct bh_error *err)
{
    struct bh_head head = {0};
    char etag[BH_ETAG_MAX], what[BH_BRANCH_MAX + 32];
    snprintf(head.branch, sizeof head.branch, "%s", name);
    head.sequence = 1;
    head.newest = *e;
    head.index = *index;
    head.lease.epoch = 1;
    memcpy(head.previous, on->newest.id, sizeof head.previous);
    if (strcmp(e->id, on->newest.id) == 0)
        memcpy(head.previous, on->previous, sizeof head.previous);
    snprintf(head.forked_from, sizeof head.forked_from, "%s", on->branch);
    memcpy(head.fork_snapshot, on->newest.id, sizeof head.fork_snapshot);
    int rc = put_branch(h, &head, etag, call, err);
    if (rc || !on->newest.id[0]) /* nothing but what was just uploaded */
        return rc;
    snprintf(what, sizeof what, "branch %s was not made", name);
    rc = history_check_made(h, on, &head, what, call, err);
    if (rc)
        take_back(h, &head, etag, call, err);
    return rc;
}

/* Who was pushed out of a branch may be based on what has been dropped since: then all of it is
 * uploaded anew. */
static int leave_condemned(struct bh_history *h, struct history_image *img,
                           const struct bh_call *call, struct bh_error *err)
{
    int rc = 0;
    if (!bh_ref_is_zero(&img->db.base.ref))
        rc = bh_gc_check_root(h->bucket, h->prefix, h->trees, &img->db.base, call, err);
    if (rc == 0 && !bh_ref_is_zero(&img->names.base.ref))
        rc = bh_gc_check_root(h->bucket, h->prefix, h->trees, &img->names.base, call, err);
    if (rc != EAGAIN && rc != EIO && rc != ENOENT)
        return rc;
    bh_log(BH_LOG_WARNING, "what the changes are based on is being reclaimed (%s): all is uploaded",
           err->text);
    return history_image_anew(h, img, err);
}

int history_save_as(struct bh_history *h, const char *name, const struct bh_head *on,
                    const struct bh_call *call, struct bh_error *err)
{
    for (unsigned tries = 0;;) {
        struct history_image img;
        struct bh_index_entry e;
        struct bh_root index;
        uint64_t sent;
        int rc = history_freeze(h, &img, &tries, call, err);
        if (rc)
            return rc;
        rc = leave_condemned(h, &img, call, err);
        if (rc == 0)
            rc = history_store_image(h, &img, on, name, &e, &index, &sent, NULL, call, err);
        bool again = rc && img.broken == EAGAIN;
        history_image_free(&img, false);
        plain_phase(h->plain, PHASE_NONE, 0);
        if (again)
            continue;
        return rc ? rc : history_new_branch(h, name, on, &e, &index, call, err);
    }
}

/* Upstream's branches have a plain object only. */
static int check_free(struct bh_history *h, const char *name, const struct bh_call *call,
                      struct bh_error *err)
{
    struct bh_object_info info;
    BH_FREE char *key = bh_config_branch_key(h->cfg, name);
    int rc = key ? bh_bucket_head(h->bucket, key, &info, call, err)
                 : bh_fail(err, ENOMEM, "out of memory");
    if (rc == 0)
        return bh_fail(err, EEXIST, "branch %s exists already (%s)", name, key);
    return rc == ENOENT ? 0 : rc;
}

static int may_write(struct bh_history *h, struct bh_error *err)
{
    return h->read_only ? bh_fail(err, EROFS, "this is a read-only mount: it changes no branch")
                        : 0;
}

int bh_history_fork(struct bh_history *h, const char *name, const struct bh_call *call,
                    struct bh_error *err)
{
    int rc = check_name(name, err);
    if (rc == 0)
        rc = may_write(h, err);
    if (rc == 0)
        rc = history_open(h, true, call, err);
    if (rc == 0)
        rc = strcmp(name, "main") ? check_free(h, name, call, err)
                                  : bh_fail(err, EEXIST, "branch main exists already");
    if (rc)
        return rc;
    if (h->fenced) { /* this is how changes that cannot be flushed any more are saved */
        struct bh_head now;
        char etag[BH_ETAG_MAX];
        rc = bh_head_get(h->bucket, h->prefix, h->head.branch, &now, etag, call, err);
        if (rc == ENOENT) { /* nothing keeps what it was */
            now = (struct bh_head){0};
            memcpy(now.branch, h->head.branch, sizeof now.branch);
        }
        return rc && rc != ENOENT ? rc : history_save_as(h, name, &now, call, err);
    }
    rc = h->flush(h->flush_arg, call, err);
    if (rc == 0 && !h->head.newest.id[0])
        rc = bh_fail(
            err, ENOENT,
            "branch %s has no snapshot yet to begin another one with: write something first",
            h->head.branch);
    return rc ? rc
              : history_new_branch(h, name, &h->head, &h->head.newest, &h->head.index, call, err);
}

void history_base_of(struct bh_history *h, const struct bh_head *head,
                     const struct bh_index_entry *e, const char *restored, struct bh_base *base)
{
    *base = (struct bh_base){.is_base = true, .size = e->db.size, .time_ms = e->time_ms};
    memcpy(base->snapshot, head->newest.id, sizeof base->snapshot);
    memcpy(base->etag, h->live->dir.state.base_etag, sizeof base->etag);
    bh_ref_hex(&e->db.ref, base->root);
    base->depth = e->db.depth;
    snprintf(base->restored, sizeof base->restored, "%s", restored);
    snprintf(base->branch, sizeof base->branch, "%s", head->branch);
}

/* --- other content --- */

struct last_flush {
    struct bh_history *history;
    const struct bh_head *head;
    const struct bh_call *call;
};

/* Clients wait for the bucket here as long as the daemon would wait for one of them. */
static int flush_last(void *arg, struct bh_base *base, struct bh_error *err)
{
    const struct last_flush *f = arg;
    struct bh_history *h = f->history;
    struct bh_call call = f->call ? *f->call : (struct bh_call){0};
    int64_t end = bh_mono_ms() + h->cfg->live.busy_timeout_ms;
    if (!call.deadline_ms || call.deadline_ms > end)
        call.deadline_ms = end;
    int rc = h->flush(h->flush_arg, &call, err);
    if (rc)
        return bh_fail_prefix(err, rc,
                              "nothing was replaced, as what clients have just committed could not "
                              "be flushed");
    memcpy(base->snapshot, f->head->newest.id, sizeof base->snapshot);
    memcpy(base->etag, h->live->dir.state.base_etag, sizeof base->etag);
    return 0;
}

struct swap_job {
    const struct bh_head *head;
    const struct bh_index_entry *e;
    const char *restored;
    struct last_flush *last; /* NULL: what is there is given up */
};

static int swap_content(struct bh_history *h, void *arg, struct bh_error *err)
{
    const struct swap_job *j = arg;
    struct bh_names_base names;
    struct bh_base base;
    bool names_differ;
    history_base_of(h, j->head, j->e, j->restored, &base);
    int rc = history_names_base(h, &j->e->names, &names, &names_differ, err);
    if (rc)
        return rc;
    if (names_differ)
        base.names = &names;
    struct bh_origin *o = history_origin(h, &j->e->db, BH_DB_NAME);
    rc = o ? bh_live_replace_lazily(h->live, o, j->e->db.size, &base, j->last ? flush_last : NULL,
                                    j->last, err)
           : bh_fail(err, ENOMEM, "out of memory");
    bh_origin_unref(o);
    bh_origin_unref(names.origin);
    return rc;
}

int history_swap_to(struct bh_history *h, const struct bh_head *head,
                    const struct bh_index_entry *e, const char *restored, struct bh_error *err)
{
    struct swap_job j = {.head = head, .e = e, .restored = restored};
    return history_gated(h, false, swap_content, &j, NULL, err);
}

int history_swap_flushed(struct bh_history *h, const struct bh_head *head,
                         const struct bh_index_entry *e, const char *restored,
                         const struct bh_call *call, struct bh_error *err)
{
    struct last_flush last = {.history = h, .head = head, .call = call};
    struct swap_job j = {.head = head, .e = e, .restored = restored, .last = &last};
    return history_gated(h, true, swap_content, &j, call, err);
}

/* --- switch --- */

/* A head as it was last seen, with what the next write of it must find. */
struct seen_head {
    bool have; /* else it was never read: head names the branch */
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    bool held, doubt;
};

static struct seen_head seen(const struct bh_history *h)
{
    struct seen_head s = {
        .have = h->have_head, .head = h->head, .held = h->held, .doubt = h->doubt};
    memcpy(s.etag, h->etag, sizeof s.etag);
    return s;
}

/* h->head is *with from now on; *with what it was. */
static void exchange_head(struct bh_history *h, struct seen_head *with)
{
    struct seen_head now = seen(h);
    BH_LOCK_SCOPE(&h->mutex);
    h->head = with->head;
    memcpy(h->etag, with->etag, sizeof h->etag);
    h->doubt = with->doubt;
    h->held = with->held;
    h->have_head = with->have;
    *with = now;
}

/* Reads the head of that branch into h->head and takes its lease. */
static int take_branch(struct bh_history *h, const char *name, char adopted[BH_ETAG_MAX],
                       const struct bh_call *call, struct bh_error *err)
{
    int rc = history_read_head(h, name, call, err);
    if (rc == ENOENT && (rc = history_adopt_branch(h, name, adopted, call, err)) == 0)
        rc = history_read_head(h, name, call, err);
    if (rc == ENOENT)
        bh_fail(err, ENOENT, "there is no branch %s; mkdir branches/%s makes one", name, name);
    if (rc == 0)
        rc = history_check_lease(h, call, err);
    struct bh_head head = h->head;
    return rc ? rc : history_put_head(h, &head, call, err);
}

/* The one that this mount is not on (any more), if it has its lease. */
static void let_go_of(struct bh_history *h, struct seen_head *other, const struct bh_call *call)
{
    struct bh_error why;
    if (!other->have || strcmp(other->head.lease.writer, history_writer(h)))
        return;
    if (history_release_head(h, &other->head, other->etag, call, &why) != 0)
        bh_log(BH_LOG_WARNING, "branch %s is kept until its lease ends: %s", other->head.branch,
               why.text);
}

static int switch_to(struct bh_history *h, const char *name, char adopted[BH_ETAG_MAX],
                     const struct bh_call *call, struct bh_error *err)
{
    struct seen_head other = seen(h);
    bool lost = false;
    int rc = take_branch(h, name, adopted, call, err);
    exchange_head(h, &other); /* as it was: what clients still write is of this branch */
    if (rc)
        return rc; /* a lease that was taken runs out */
    rc = history_swap_flushed(h, &other.head, &other.head.newest, "", call, err);
    if (rc == 0) {
        exchange_head(h, &other);
        BH_LOCK_SCOPE(&h->mutex);
        lost = h->fenced; /* that was the other one */
        h->fenced = false;
    }
    if (!lost)
        let_go_of(h, &other, call);
    return rc;
}

int bh_history_switch(struct bh_history *h, const char *name, const struct bh_call *call,
                      struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    char adopted[BH_ETAG_MAX] = "";
    int rc = check_name(name, err);
    if (rc == 0)
        rc = may_write(h, err);
    if (rc == 0)
        rc = h->flush(h->flush_arg, call, err);
    if (rc || !strcmp(name, h->head.branch))
        return rc;
    rc = history_open(h, true, call, err);
    if (rc == 0)
        rc = switch_to(h, name, adopted, call, err);
    if (rc == 0)
        rc = bh_plain_set_branch(h->plain, name, err);
    if (rc)
        return rc;
    st->plain_snapshot[0] = st->plain_also[0] = '\0';
    snprintf(st->base_etag, sizeof st->base_etag, "%s", adopted);
    rc = bh_statedir_save(&h->live->dir, err);
    return rc ? rc : history_meet_plain(h, NULL, call, err);
}

/* --- delete, rename --- */

/* The head of another branch that nobody else writes. */
static int get_free(struct bh_history *h, const char *name, struct bh_head *head,
                    char etag[BH_ETAG_MAX], const struct bh_call *call, struct bh_error *err)
{
    int rc = check_name(name, err);
    if (rc == 0)
        rc = may_write(h, err);
    if (rc == 0 && !strcmp(name, "main"))
        rc = bh_fail(err, EPERM, "branch main cannot be deleted or renamed");
    if (rc == 0 && !strcmp(name, h->head.branch))
        rc = bh_fail(err, EBUSY,
                     "branch %s is the one that this mount is on: write another name to "
                     ".ctl/branch first",
                     name);
    if (rc == 0)
        rc = history_open(h, true, call, err);
    if (rc == 0)
        rc = bh_head_get(h->bucket, h->prefix, name, head, etag, call, err);
    if (rc == ENOENT)
        return bh_fail(err, ENOENT, "there is no branch %s", name);
    return rc ? rc : history_may_take(h, head, false, call, err);
}

static int bury(struct bh_history *h, struct bh_head *head, char etag[BH_ETAG_MAX],
                const struct bh_call *call, struct bh_error *err)
{
    BH_FREE char *key = bh_config_branch_key(h->cfg, head->branch);
    struct bh_head now;
    if (!key)
        return bh_fail(err, ENOMEM, "out of memory");
    head->deleted = true;
    head->sequence++;
    head->lease.writer[0] = '\0';
    int rc = bh_head_put(h->bucket, h->prefix, head, etag, &now, NULL, call, err);
    if (rc == ESTALE && now.lease.writer[0])
        return bh_lease_check(&now, "", 0, false, err);
    if (rc == ESTALE)
        return bh_fail(err, EBUSY, "branch %s has just been written by another mount",
                       head->branch);
    return rc ? rc : bh_bucket_delete(h->bucket, key, call, err); /* or upstream would find it */
}

int bh_history_delete_branch(struct bh_history *h, const char *name, const struct bh_call *call,
                             struct bh_error *err)
{
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    int rc = get_free(h, name, &head, etag, call, err);
    return rc ? rc : bury(h, &head, etag, call, err);
}

int bh_history_rename_branch(struct bh_history *h, const char *from, const char *to,
                             const struct bh_call *call, struct bh_error *err)
{
    struct bh_head head, fresh;
    char etag[BH_ETAG_MAX], new_etag[BH_ETAG_MAX];
    int rc = check_name(to, err);
    if (rc == 0)
        rc = get_free(h, from, &head, etag, call, err);
    if (rc == 0)
        rc = check_free(h, to, call, err);
    if (rc)
        return rc;
    fresh = head;
    snprintf(fresh.branch, sizeof fresh.branch, "%s", to);
    fresh.sequence = fresh.lease.epoch = 1;
    fresh.lease.writer[0] = '\0';
    rc = put_branch(h, &fresh, new_etag, call, err);
    if (rc)
        return rc;
    rc = bury(h, &head, etag, call, err);
    if (rc == EBUSY) /* it was not to be renamed */
        take_back(h, &fresh, new_etag, call, err);
    return rc;
}
