/* What moves the live database in its history, each under the turn: restore, branches, labels. */
#include <errno.h>
#include <string.h>

#include "bh_private.h"
#include "internal.h"
#include "util/clock.h"

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
    struct bh_store *store = b->live->store;
    bh_end_turn(b);
    return bh_store_hydrate(store, call ? call->cancel : NULL, err);
}
