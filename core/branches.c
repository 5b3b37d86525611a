/* What moves the live database in its history, each under the turn: restore, branches, labels. */
#include <errno.h>
#include <string.h>

#include "bh_private.h"
#include "internal.h"
#include "repo/gc.h"
#include "repo/verify.h"
#include "util/clock.h"

struct bh_files *bh_files_of(struct bh *b)
{
    return b->files;
}

struct bh_history *bh_history_of(struct bh *b)
{
    return b->history;
}

void bh_stop_reads(struct bh *b, bool stop)
{
    if (b->history)
        bh_history_stop_reads(b->history, stop);
}

static int begin(struct bh *b, const struct bh_call *call, struct bh_error *err)
{
    int rc = bh_take_turn(b, call, err);
    if (rc || b->history)
        return rc;
    bh_end_turn(b);
    return bh_fail(err, EOPNOTSUPP, "there is no history here: snapshot.history is off");
}

static int end(struct bh *b, int rc)
{
    bh_note_head(b);
    bh_end_turn(b);
    return rc;
}

int bh_restore_call(struct bh *b, const char *what, char id[BH_SNAPSHOT_ID_MAX],
                    const struct bh_call *call, struct bh_error *err)
{
    int rc = begin(b, call, err);
    return rc ? rc : end(b, bh_history_restore(b->history, what, id, call, err));
}

int bh_fork_call(struct bh *b, const char *name, const struct bh_call *call, struct bh_error *err)
{
    int rc = begin(b, call, err);
    return rc ? rc : end(b, bh_history_fork(b->history, name, call, err));
}

int bh_switch_call(struct bh *b, const char *name, const struct bh_call *call, struct bh_error *err)
{
    int rc = begin(b, call, err);
    return rc ? rc : end(b, bh_history_switch(b->history, name, call, err));
}

int bh_delete_branch_call(struct bh *b, const char *name, const struct bh_call *call,
                          struct bh_error *err)
{
    int rc = begin(b, call, err);
    return rc ? rc : end(b, bh_history_delete_branch(b->history, name, call, err));
}

int bh_rename_branch_call(struct bh *b, const char *from, const char *to,
                          const struct bh_call *call, struct bh_error *err)
{
    int rc = begin(b, call, err);
    return rc ? rc : end(b, bh_history_rename_branch(b->history, from, to, call, err));
}

int bh_label_call(struct bh *b, const char *what, const char *label, const struct bh_call *call,
                  struct bh_error *err)
{
    int rc = begin(b, call, err);
    return rc ? rc : end(b, bh_history_label(b->history, what, label, call, err));
}

int bh_unlabel_call(struct bh *b, const char *label, const struct bh_call *call,
                    struct bh_error *err)
{
    int rc = begin(b, call, err);
    return rc ? rc : end(b, bh_history_unlabel(b->history, label, call, err));
}

int bh_rename_label_call(struct bh *b, const char *from, const char *to, const struct bh_call *call,
                         struct bh_error *err)
{
    int rc = begin(b, call, err);
    return rc ? rc : end(b, bh_history_rename_label(b->history, from, to, call, err));
}

int bh_drop_call(struct bh *b, const char *id, const struct bh_call *call, struct bh_error *err)
{
    int rc = begin(b, call, err);
    return rc ? rc : end(b, bh_history_drop(b->history, id, call, err));
}

int bh_hydrate_call(struct bh *b, const struct bh_call *call, struct bh_error *err)
{
    int rc = begin(b, call, err); /* that it runs */
    if (rc)
        return rc;
    struct bh_store *store = b->live->store, *names = b->live->names;
    bh_end_turn(b);
    rc = bh_store_hydrate(names, call ? call->cancel : NULL, err);
    return rc ? rc : bh_store_hydrate(store, call ? call->cancel : NULL, err);
}

int bh_gc_call(struct bh *b, bool dry_run, struct bh_strbuf *report, const struct bh_call *call,
               struct bh_error *err)
{
    struct bh_gc_plan plan;
    int rc = begin(b, call, err);
    if (rc)
        return rc;
    struct bh_history *h = b->history;
    pthread_mutex_lock(&b->mutex); /* a SIGHUP may change them */
    struct bh_retention keep = {.keep_last = b->cfg->retention.keep_last,
                                .keep_hourly = b->cfg->retention.keep_hourly,
                                .keep_daily = b->cfg->retention.keep_daily,
                                .keep_weekly = b->cfg->retention.keep_weekly,
                                .keep_monthly = b->cfg->retention.keep_monthly};
    int64_t grace_ms = b->cfg->retention.grace_ms;
    pthread_mutex_unlock(&b->mutex);
    rc = end(b, bh_history_retain(h, &keep, dry_run, &plan, call, err));
    if (rc == 0)
        rc = bh_history_collect(h, grace_ms, dry_run, &plan, report, call, err);
    bh_gc_plan_free(&plan);
    return rc;
}

int bh_verify_call(struct bh *b, bool full, struct bh_strbuf *report, const struct bh_call *call,
                   struct bh_error *err)
{
    int rc = begin(b, call, err); /* that it runs */
    if (rc)
        return rc;
    struct bh_history *h = b->history;
    bh_end_turn(b);
    return bh_history_verify(h, full, report, call, err);
}
