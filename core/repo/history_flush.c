/* The flush: a snapshot of what changed, the head, and the plain snapshot where the policy says so.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repo/history_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

/* plain=auto: a whole upload with every flush up to this size, else once in so long. */
#define PLAIN_SMALL    (16u << 20)
#define PLAIN_EVERY_MS 3600000

/* --- the head --- */

static void advance(struct bh_history *h, const struct bh_root *root, const char *what,
                    struct bh_frozen *frozen)
{
    struct bh_origin *o = history_origin(h, root, what);
    if (o)
        bh_store_advance_origin(frozen, o);
    else
        bh_log(BH_LOG_WARNING, "out of memory: what was flushed of %s stays here", what);
    bh_origin_unref(o);
}

/* What is absent comes from the new snapshot from now on, so that gc may have the old one. */
static void advance_origin(struct bh_history *h, const struct bh_index_entry *e,
                           const struct history_image *img)
{
    advance(h, &e->db, BH_DB_NAME, img->db.frozen);
    if (img->names.frozen)
        advance(h, &e->names, BH_NAMES_NAME, img->names.frozen);
}

/* The base of the live content is that snapshot now. Durable before it counts. */
static int settle(struct bh_history *h, const struct bh_index_entry *e,
                  const struct history_image *img, struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    history_set_base(st, e);
    history_no_pending(st);
    snprintf(st->base_wal, sizeof st->base_wal, "%s",
             img ? bh_frozen_wal_tag(img->db.frozen)
                 : ""); /* how much of it that has is not known */
    int rc = bh_statedir_save(&h->live->dir, err);
    if (rc == 0 && img)
        advance_origin(h, e, img);
    return rc;
}

/* A lease that ended while the machine slept, or the store was away, may be another's now: what the
 * branch is must be looked at before anything is uploaded on top of it. */
static bool lease_is_over(const struct bh_history *h)
{
    return h->have_clock && h->head.lease.writer[0] &&
           h->head.lease.expires_ms <= bh_boot_ms() + h->clock_offset_ms;
}

/* The branch is as it was when we knew it, or an answer got lost and it is what we put. */
int history_sync_head(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    if (h->have_head && !h->doubt && !st->pending_snapshot[0] && !lease_is_over(h))
        return 0;
    int rc = history_open(h, true, call, err);
    if (rc)
        return rc;
    BH_FREE char *branch = strdup(h->head.branch);
    if (!branch)
        return bh_fail(err, ENOMEM, "out of memory");
    rc = history_read_head(h, branch, call, err);
    if (rc == ENOENT && !st->base_root[0]) /* new, or only a plain snapshot so far */
        return history_check_tombstone(h, &h->head, call, err);
    if (rc == ENOENT)
        return bh_fail(err, ESTALE,
                       "branch %s is gone from the bucket since this mount used it; save your "
                       "changes as another branch with mkdir branches/NAME",
                       branch);
    if (rc)
        return rc;
    if (!history_is_ours(st, &h->head))
        return history_fenced(h, &h->head, err);
    if (h->head.newest.id[0] && strcmp(h->head.newest.id, st->base_snapshot)) {
        rc = settle(h, &h->head.newest, NULL, err); /* what changed since stays marked */
        if (rc)
            return rc;
    }
    /* snapshot.steal is for the beginning: two such mounts would go on taking it from each other.
     */
    rc = history_may_take(h, &h->head, h->cfg->snapshot.steal && !h->held, call, err);
    return rc == EBUSY && h->held ? history_fenced(h, &h->head, err) : rc;
}

static int announce(struct bh_history *h, const char *id, struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    plain_remember_pending(st);
    memcpy(st->pending_snapshot, id, sizeof st->pending_snapshot);
    return bh_statedir_save(&h->live->dir, err);
}

/* --- the plain snapshot --- */

static bool wants_plain(struct bh_history *h, uint64_t size, bool last)
{
    switch (h->cfg->snapshot.plain) {
    case BH_PLAIN_NEVER:
        return false;
    case BH_PLAIN_ALWAYS:
        return true;
    case BH_PLAIN_ON_STOP:
        return last;
    case BH_PLAIN_AUTO:
        break;
    }
    return last || size <= PLAIN_SMALL || bh_mono_ms() - h->plain_written_ms > PLAIN_EVERY_MS;
}

static void note_plain_error(struct bh_history *h, const char *text)
{
    BH_LOCK_SCOPE(&h->mutex);
    snprintf(h->plain_error, sizeof h->plain_error, "%s", text);
}

static int put_plain(struct bh_history *h, struct bh_frozen *frozen, const char *id,
                     uint64_t *bytes, const struct bh_call *call, struct bh_error *err)
{
    struct bh_plain_known known;
    bool knows = history_know_plain(h, id, &known, call);
    int rc = bh_plain_put_frozen(h->plain, frozen, id, knows ? &known : NULL, bytes, call, err);
    free(known.changed);
    return rc;
}

/* The history has the snapshot already. A KEY that somebody else has ruined is no reason to fail;
 * one that cannot be written is, as the policy promises it. */
static int write_plain(struct bh_history *h, struct history_image *img, const char *id,
                       struct bh_flush_result *result, const struct bh_call *call,
                       struct bh_error *err)
{
    uint64_t bytes = 0;
    int rc = put_plain(h, img->db.frozen, id, &bytes, call, err);
    if (rc == ESTALE) {
        struct bh_error why;
        if (history_meet_plain(h, NULL, call, &why) != 0) {
            note_plain_error(h, why.text);
            bh_log(BH_LOG_WARNING, "%s", why.text);
            return 0;
        }
        rc = put_plain(h, img->db.frozen, id, &bytes, call, err);
    }
    if (rc == EAGAIN && bh_frozen_broken(img->db.frozen) == EAGAIN) { /* the flush begins anew */
        img->broken = rc;
        return rc;
    }
    note_plain_error(h, rc ? err->text : "");
    if (rc)
        return bh_fail_prefix(err, rc, "snapshot %s is in the history, but not in %s", id,
                              bh_plain_key(h->plain));
    h->plain_written_ms = bh_mono_ms();
    result->bytes += bytes;
    return 0;
}

/* Where nothing but names was flushed since KEY was written it has the newest database all the
 * same. */
static bool is_behind(const struct bh_state *st)
{
    return strcmp(st->plain_snapshot, st->base_snapshot) &&
           strcmp(st->plain_also, st->base_snapshot);
}

/* --- the flush --- */

static int flush_image(struct bh_history *h, struct history_image *img, bool last,
                       struct bh_flush_result *result, const struct bh_call *call,
                       struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    struct bh_head head = h->head;
    struct bh_index_entry e;
    const struct bh_root before = head.newest.db;
    bool unchanged = false;
    uint64_t sent;
    int rc = bh_frozen_mark_frames(img->db.frozen, err);
    /* What was put back is a new snapshot, although its content is that of an older one. */
    if (rc == 0)
        rc = history_store_image(h, img, &h->head, h->head.branch, &e, &head.index, &sent,
                                 st->restored[0] ? NULL : &unchanged, call, err);
    if (rc)
        return rc;
    if (unchanged) {
        snprintf(st->base_wal, sizeof st->base_wal, "%s", bh_frozen_wal_tag(img->db.frozen));
        rc = bh_statedir_save(&h->live->dir, err);
        if (rc == 0)
            advance_origin(h, &h->head.newest, img);
    } else {
        memcpy(head.previous, h->head.newest.id, sizeof head.previous);
        head.newest = e;
        rc = announce(h, e.id, err);
        if (rc == 0)
            rc = history_put_head(h, &head, call, err);
        if (rc == ESTALE)
            return history_lost_head(h, call, err);
        if (rc == 0 && !is_behind(st) && bh_root_is_same(&e.db, &before))
            memcpy(st->plain_also, e.id, sizeof st->plain_also);
        if (rc == 0)
            rc = settle(h, &e, img, err);
        result->outcome = BH_FLUSH_UPLOADED;
        result->bytes = sent;
    }
    uint64_t size = bh_frozen_size(img->db.frozen);
    if (rc == 0 && size > 0 && is_behind(st) && wants_plain(h, size, last))
        rc = write_plain(h, img, st->base_snapshot, result, call, err);
    return rc;
}

static int flush(struct bh_history *h, bool last, struct bh_flush_result *result,
                 const struct bh_call *call, struct bh_error *err)
{
    for (unsigned tries = 0;;) {
        struct history_image img;
        int rc = history_freeze(h, &img, &tries, call, err);
        if (rc)
            return rc;
        rc = flush_image(h, &img, last, result, call, err);
        bool again = rc && img.broken == EAGAIN;
        history_image_free(&img, rc == 0);
        if (rc == 0 && h->files.named)
            h->files.named(h->files.arg);
        if (!again)
            return rc;
    }
}

int bh_history_flush(struct bh_history *h, bool keep_previous, bool last,
                     struct bh_flush_result *result, const struct bh_call *call,
                     struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    int64_t begin = bh_mono_ns();
    int rc = 0;
    *result = (struct bh_flush_result){.outcome = BH_FLUSH_UNCHANGED};
    bool behind = st->base_snapshot[0] && st->base_size > 0 && is_behind(st) &&
                  wants_plain(h, st->base_size, last);
    if (bh_history_is_dirty(h) || behind) {
        bh_plain_keep_previous(h->plain, keep_previous);
        if (h->fenced)
            rc = history_fenced(h, NULL, err);
        if (rc == 0)
            rc = bh_bucket_learn(h->bucket, call, err);
        if (rc == 0)
            rc = history_sync_head(h, call, err);
        if (rc == 0)
            rc = flush(h, last, result, call, err);
        plain_phase(h->plain, PHASE_NONE, 0);
        if (h->fenced)
            history_keep_pin(h, call);
    }
    memcpy(result->snapshot, st->base_snapshot, sizeof result->snapshot);
    result->seconds = (double)(bh_mono_ns() - begin) / 1e9;
    return rc;
}
