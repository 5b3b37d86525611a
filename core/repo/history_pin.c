/* The pin of this mount: gc leaves alone what it uses but no head names for it. There is one
 *
 *   - while it only reads: of the head that it shows, history and all;
 *   - while it is fenced, or an older snapshot that was put back is not flushed yet: of what the
 *     live content is based on;
 *   - after it, if it leaves changes behind that could not be flushed: of the same.
 *
 * A pin that names what is gone would stop gc, so what no head of ours names is looked at after it
 * was pinned. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repo/gc.h"
#include "repo/history_private.h"
#include "util/clock.h"
#include "util/log.h"

#define DAY_MS INT64_C(86400000)
/* Readers renew it; who was pushed out may be away for long. */
#define READER_MS DAY_MS
#define WRITER_MS (30 * DAY_MS)
#define TRIES     5

/* --- what is pinned --- */

static bool base_of(struct bh_history *h, struct bh_head *what)
{
    const struct bh_state *st = &h->live->dir.state;
    struct bh_index_entry *e = &what->newest;
    *what = (struct bh_head){0};
    if (history_base_root(h, &e->db, NULL) || history_names_root(h, &e->names, NULL) ||
        (bh_ref_is_zero(&e->db.ref) && bh_ref_is_zero(&e->names.ref)))
        return false;
    memcpy(what->branch, h->head.branch, sizeof what->branch);
    memcpy(e->id, st->restored[0] ? st->restored : st->base_snapshot, sizeof e->id);
    e->time_ms = st->base_time_ms;
    return e->id[0] != '\0';
}

static bool is_wanted(struct bh_history *h, struct bh_head *what)
{
    if (h->read_only) {
        *what = h->head;
        return h->have_head && h->head.newest.id[0];
    }
    return (h->fenced || h->live->dir.state.restored[0]) && base_of(h, what);
}

/* --- putting and removing --- */

static int put(struct bh_history *h, struct bh_head *what, const struct bh_call *call,
               struct bh_error *err)
{
    int64_t now, life = h->read_only ? READER_MS : WRITER_MS;
    int rc = history_now(h, &now, call, err);
    if (rc)
        return rc;
    what->deleted = false;
    what->lease = (struct bh_lease){0};
    bh_lease_take(what, history_writer(h), now, life);
    rc = bh_pin_put(h->bucket, h->prefix, what->lease.writer, what, call, err);
    if (rc == 0)
        h->pin.until_ms = what->lease.expires_ms;
    return rc;
}

static int put_checked(struct bh_history *h, struct bh_head *what, const struct bh_call *call,
                       struct bh_error *err)
{
    int rc = put(h, what, call, err);
    if (rc)
        return rc;
    rc = bh_gc_check_head(h->bucket, h->prefix, h->trees, what, call, err);
    if (rc == EAGAIN || rc == EIO || rc == ENOENT) {
        struct bh_error why = *err;
        (void)bh_pin_delete(h->bucket, h->prefix, history_writer(h), call, NULL);
        h->pin = (struct history_pin){.refused = true};
        return bh_fail(err, ESTALE,
                       "what the content of this mount is based on is being reclaimed (%.300s)",
                       why.text);
    }
    return rc;
}

static int64_t left_ms(const struct bh_history *h)
{
    return h->pin.until_ms - (bh_boot_ms() + h->clock_offset_ms);
}

const char *history_taken_pin(const char *writer, char id[HISTORY_PIN_ID_MAX])
{
    snprintf(id, HISTORY_PIN_ID_MAX, "%s-taken", writer);
    return id;
}

static int removed(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    char taken[HISTORY_PIN_ID_MAX];
    int rc = bh_pin_delete(h->bucket, h->prefix, history_writer(h), call, err);
    if (rc == 0 && h->pin.left)
        rc = bh_pin_delete(h->bucket, h->prefix, history_taken_pin(history_writer(h), taken), call,
                           err);
    if (rc == 0)
        h->pin = (struct history_pin){0};
    return rc;
}

/* Nobody is hurt by one that stays but the store's bill. */
static bool may_remove(const struct bh_history *h)
{
    if (!h->pin.until_ms && !h->pin.left)
        return false;
    return h->read_only || (h->have_head && h->head.lease.writer[0] &&
                            history_is_ours(&h->live->dir.state, &h->head));
}

static int update(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    struct bh_head what;
    if (!h->trees || h->pin.refused)
        return 0;
    if (!is_wanted(h, &what))
        return may_remove(h) ? removed(h, call, err) : 0;
    const int64_t life = h->read_only ? READER_MS : WRITER_MS;
    if (h->pin.until_ms && left_ms(h) >= life - life / 3)
        return 0;
    bool kept = h->pin.until_ms ? left_ms(h) > 0 : !h->fenced;
    return kept ? put(h, &what, call, err) : put_checked(h, &what, call, err);
}

static void complain(struct bh_history *h, int rc, const struct bh_error *err)
{
    bool refused = rc == EACCES || rc == EPERM || rc == EROFS || rc == ENOTSUP;
    if (refused && h->read_only) {
        h->pin.refused = true;
        bh_log(BH_LOG_WARNING,
               "what this read-only mount shows cannot be kept from gc, as nothing can be written: "
               "it may vanish while it is read (%s)",
               err->text);
        return;
    }
    bh_log(BH_LOG_WARNING, "what this mount uses is not kept from gc: %s", err->text);
}

/* --- for the others --- */

void history_keep_pin(struct bh_history *h, const struct bh_call *call)
{
    struct bh_error err;
    int rc = update(h, call, &err);
    if (rc)
        complain(h, rc, &err);
}

/* The same after h->head has become another one. */
static void pin_again(struct bh_history *h, const struct bh_call *call)
{
    h->pin.until_ms = 0;
    history_keep_pin(h, call);
}

void history_pin_step(struct bh_history *h, const struct bh_call *call)
{
    if (left_ms(h) < READER_MS - h->cfg->retention.grace_ms / 4)
        pin_again(h, call);
}

int history_pin_entry(struct bh_history *h, const struct bh_index_entry *e,
                      const struct bh_call *call, struct bh_error *err)
{
    struct bh_head what = {.newest = *e};
    memcpy(what.branch, h->head.branch, sizeof what.branch);
    return put(h, &what, call, err);
}

int history_read_pinned(struct bh_history *h, const char *branch, const struct bh_call *call,
                        struct bh_error *err)
{
    int rc = history_read_head(h, branch, call, err);
    if (!h->read_only)
        return rc;
    for (int i = 0; rc == 0 && h->head.newest.id[0] && !h->pin.refused && i < TRIES; i++) {
        const struct bh_root index = h->head.index;
        pin_again(h, call);
        rc = history_read_head(h, branch, call, err);
        if (bh_root_is_same(&index, &h->head.index)) /* it was there all along */
            break;
    }
    return rc;
}

void history_leave_pin(struct bh_history *h, const struct bh_call *call)
{
    struct bh_error err;
    struct bh_head what;
    int rc = 0;
    if (!h->trees || h->pin.refused)
        return;
    if (h->read_only || (h->fenced && !bh_history_is_dirty(h)))
        rc = h->pin.until_ms ? removed(h, call, &err) : 0;
    else if (bh_history_is_dirty(h) && base_of(h, &what))
        rc = put(h, &what, call, &err);
    else
        rc = update(h, call, &err);
    if (rc)
        complain(h, rc, &err);
}
