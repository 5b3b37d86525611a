/* What happens with the history when a mount starts. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repo/gc.h"
#include "repo/history_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"
#include "util/log.h"

/* Takes of the lease that others raced with. */
#define LEASE_TRIES 5
/* How long what a writer was working on is kept after its lease was taken. */
#define PIN_MS (30 * INT64_C(86400000))

/* --- after a power cut --- */

static void read_boot(struct bh_history *h, char boot[48])
{
    BH_FREE char *text = NULL;
    struct bh_error err;
    boot[0] = '\0';
    if (h->cfg->live.powercut_dir[0]) /* a rehearsal: what comes up is as good as another machine */
        return;
    if (bh_read_small_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, NULL, &err) == 0)
        snprintf(boot, 48, "%.36s", text);
}

/* Blocks that were fetched are not synced: after the machine went down, what the map calls clean
 * may be holes. The origin has it. */
static int distrust_clean(struct bh_history *h, struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    char boot[48];
    read_boot(h, boot);
    bool down = st->boot[0] && strcmp(st->boot, boot) != 0;
    int rc = bh_live_end_steps(h->live, !down, err);
    if (rc)
        return rc;
    rc = down && st->base_root[0] ? bh_store_forget_clean(h->live->store) : 0;
    if (rc == 0 && down && st->names_root[0])
        rc = bh_store_forget_clean(h->live->names);
    if (rc)
        return bh_fail(err, rc, "the block map cannot be written: %s", strerror(rc));
    if (!strcmp(st->boot, boot[0] ? boot : "?"))
        return 0;
    snprintf(st->boot, sizeof st->boot, "%s", boot[0] ? boot : "?");
    return bh_statedir_save(&h->live->dir, err);
}

int bh_history_rest(struct bh_history *h, struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    if (!st->boot[0])
        return 0;
    int rc = bh_store_sync(h->live->store);
    if (rc == 0)
        rc = bh_store_sync(h->live->names);
    if (rc)
        return bh_fail(err, rc, "%s cannot be synced: %s", h->live->dir.path, strerror(rc));
    st->boot[0] = '\0';
    st->stepped = 0;
    return bh_statedir_save(&h->live->dir, err);
}

/* What the state directory has can be read from now on, without a request. */
static int attach_origin(struct bh_history *h, struct bh_error *err)
{
    const struct bh_state *st = &h->live->dir.state;
    const bool unclean = st->boot[0] != '\0';
    struct bh_root base, names;
    int rc = history_open_offline(h, err);
    if (rc == 0)
        rc = history_base_root(h, &base, err);
    if (rc == 0)
        rc = history_names_root(h, &names, err);
    if (rc == 0 && h->trees && st->base_root[0])
        rc = history_set_origin(h, h->live->store, &base, BH_DB_NAME, err);
    if (rc == 0 && h->trees && st->names_root[0])
        rc = history_set_origin(h, h->live->names, &names, BH_NAMES_NAME, err);
    if (rc == 0)
        rc = distrust_clean(h, err);
    if (rc == 0)
        bh_live_recover(h->live);
    if (rc == 0 && h->files.open)
        rc = h->files.open(h->files.arg, unclean, err);
    return rc;
}

/* --- the decision --- */

/* Who is pushed out may come back with changes on top of what this head names: gc leaves that alone
 * for a while. His own pin, which may be of another snapshot, stays what it is. */
static int pin_for_old_writer(struct bh_history *h, const struct bh_call *call,
                              struct bh_error *err)
{
    struct bh_head kept = h->head;
    if (!kept.lease.writer[0] || !kept.newest.id[0] || history_is_own_lease(h, &kept))
        return 0;
    kept.index = (struct bh_root){0};
    kept.lease.expires_ms = bh_boot_ms() + h->clock_offset_ms + PIN_MS;
    char id[HISTORY_PIN_ID_MAX];
    return bh_pin_put(h->bucket, h->prefix, history_taken_pin(kept.lease.writer, id), &kept, call,
                      err);
}

static int take_lease(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    for (int i = 0;; i++) {
        struct bh_head head = h->head;
        head.lease.writer[0] = '\0'; /* a new life is a new epoch: pids repeat */
        int rc = history_check_lease(h, call, err);
        if (rc == 0)
            rc = pin_for_old_writer(h, call, err);
        if (rc == 0)
            rc = history_put_head(h, &head, call, err);
        if (rc != ESTALE || i == LEASE_TRIES)
            return rc;
        char branch[BH_BRANCH_MAX];
        memcpy(branch, h->head.branch, sizeof branch);
        rc = history_read_head(h, branch, call, err);
        if (rc == ENOENT)
            rc = history_check_tombstone(h, &h->head, call, err);
        if (rc)
            return rc;
    }
}

/* A store that can be read but not written now is no reason not to start: the flush tells. */
static int take_lease_if_it_answers(struct bh_history *h, const struct bh_call *call,
                                    struct bh_error *err)
{
    int rc = take_lease(h, call, err);
    if (!plain_is_passing(rc))
        return rc;
    bh_log(BH_LOG_WARNING, "%s", err->text);
    return 0;
}

/* The branch went on without this state directory. */
static int load_newest(struct bh_history *h, struct bh_load_report *report,
                       const struct bh_call *call, struct bh_error *err)
{
    const bool had_writer = h->live->dir.state.writer[0] != '\0'; /* another may have put a pin */
    if (bh_history_is_dirty(h)) {
        char name[BH_BRANCH_MAX];
        if (h->read_only)
            return bh_fail(err, EROFS,
                           "branch %s has newer snapshots by another writer, and %s has unflushed "
                           "changes that a read-only mount cannot save as a branch; mount without "
                           "ro, or with another live.dir",
                           h->head.branch, h->live->dir.path);
        plain_rescue_name(name, sizeof name);
        int rc = history_save_as(h, name, &h->head, call, err);
        if (rc)
            return bh_fail_prefix(err, rc,
                                  "branch %s has newer snapshots by another writer, and the "
                                  "unflushed changes in %s cannot be saved as a branch",
                                  h->head.branch, h->live->dir.path);
        h->plain->rescues++;
        plain_say(report,
                  "unflushed changes were saved as branch %s, as another writer has gone on with "
                  "this one",
                  name);
    }
    int rc = history_swap_to(h, &h->head, &h->head.newest, "", err);
    h->pin.left = h->pin.left || had_writer;
    if (rc == 0)
        bh_log(BH_LOG_INFO, "branch %s at snapshot %s: %" PRIu64 " bytes, fetched as they are read",
               h->head.branch, h->head.newest.id, h->head.newest.db.size);
    return rc;
}

/* Our own head: the state goes on from it. */
static int adopt(struct bh_history *h, struct bh_load_report *report, struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    const struct bh_index_entry *e = &h->head.newest;
    if (e->id[0] && strcmp(e->id, st->base_snapshot)) { /* the answer to its flush was lost */
        int rc = history_set_origin(h, h->live->store, &e->db, BH_DB_NAME, err);
        if (rc == 0)
            rc = history_set_origin(h, h->live->names, &e->names, BH_NAMES_NAME, err);
        if (rc)
            return rc;
        history_set_base(st, e);
        st->base_wal[0] = '\0'; /* how much of -wal that has is not known */
    }
    history_no_pending(st);
    plain_say_unflushed(h->live, report);
    return bh_statedir_save(&h->live->dir, err);
}

static int load_with_head(struct bh_history *h, struct bh_load_report *report,
                          const struct bh_call *call, struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    int rc = h->read_only ? 0 : history_check_lease(h, call, err);
    if (rc)
        return rc;
    bool same_branch = !st->branch[0] || !strcmp(st->branch, h->head.branch);
    bool in_history = st->base_root[0] || !h->head.newest.db.size;
    if (same_branch && in_history && history_is_ours(st, &h->head))
        rc = adopt(h, report, err);
    else
        rc = load_newest(h, report, call, err);
    if (rc == 0 && !h->read_only) /* who never writes KEY has no use for it */
        rc = history_meet_plain(h, report, call, err);
    return rc;
}

/* What is loaded is loaded before the lease is taken, so that a refused mount changes nothing.
 * Whoever had the branch may have flushed once more in between: that is the newest content then. */
static int take_and_catch_up(struct bh_history *h, struct bh_load_report *report,
                             const struct bh_call *call, struct bh_error *err)
{
    char loaded[BH_SNAPSHOT_ID_MAX];
    memcpy(loaded, h->head.newest.id, sizeof loaded);
    int rc = take_lease_if_it_answers(h, call, err);
    if (rc || !strcmp(loaded, h->head.newest.id))
        return rc;
    return load_with_head(h, report, call, err);
}

static const char *start_branch(struct bh_history *h, struct bh_load_report *report)
{
    const struct bh_state *st = &h->live->dir.state;
    const char *wanted = h->cfg->snapshot.branch;
    if (!st->branch[0] || !strcmp(st->branch, wanted) || !bh_history_is_dirty(h))
        return wanted;
    plain_say(report,
              "this is branch %s, which the last mount was on with changes that are not flushed",
              st->branch);
    return st->branch;
}

int bh_history_load(struct bh_history *h, struct bh_load_report *report, const struct bh_call *call,
                    struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    char branch[BH_BRANCH_MAX], before[BH_BRANCH_MAX];
    memcpy(before, st->branch, sizeof before);
    report->text[0] = '\0';
    h->plain_written_ms = bh_mono_ms(); /* not just because it was mounted */
    int rc = attach_origin(h, err);
    if (rc)
        return rc;
    snprintf(branch, sizeof branch, "%s", start_branch(h, report));
    pthread_mutex_lock(&h->mutex);
    snprintf(h->head.branch, sizeof h->head.branch, "%s", branch);
    pthread_mutex_unlock(&h->mutex);
    rc = bh_plain_set_branch(h->plain, branch, err);
    if (rc)
        return rc;
    struct bh_error why;
    h->pin.left = bh_history_is_dirty(h);
    rc = history_open(h, false, call, &why); /* the first flush begins one */
    if (rc == 0)
        rc = history_read_pinned(h, branch, call, &why);
    if (rc && plain_is_passing(rc) && !bh_live_is_fresh(h->live)) {
        plain_say_away(h->live, &why, report);
        return 0;
    }
    if (rc && rc != ENOENT)
        return bh_fail(err, rc, "%s", why.text);
    const bool found = rc == 0, begun = found && h->head.newest.id[0];
    const bool fresh = bh_live_is_fresh(h->live);
    rc = begun ? load_with_head(h, report, call, err) : bh_plain_load(h->plain, report, call, err);
    if (rc == 0 && !begun && fresh && st->base_snapshot[0])
        plain_say(report,
                  "there is no history in %s, only the last snapshot: if there was one it is lost "
                  "with the names in files/, unless a copy of the bucket has it",
                  h->prefix);
    if (rc == 0 && !begun && before[0] && strcmp(before, branch)) /* those were the other one's */
        rc = history_empty_names(h, call, err);
    if (rc == 0 && h->cfg->snapshot.follow_ms)
        rc = history_may_follow(h, found, call, err);
    if (rc == 0 && found && !h->read_only)
        rc = take_and_catch_up(h, report, call, err);
    if (rc == 0)
        history_keep_pin(h, call);
    if (rc == 0 && strcmp(before, branch))
        history_let_go(h, before, call);
    if (rc == 0 && strcmp(st->branch, branch)) {
        snprintf(st->branch, sizeof st->branch, "%s", branch);
        rc = bh_statedir_save(&h->live->dir, err);
    }
    return rc;
}
