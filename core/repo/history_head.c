/* The head of the branch in the bucket, and the lease in it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "repo/history_private.h"
#include "util/cleanup.h"
#include "util/log.h"

int history_read_head(struct bh_history *h, const char *branch, const struct bh_call *call,
                      struct bh_error *err)
{
    struct bh_head head = {0};
    char etag[BH_ETAG_MAX] = "";
    int rc = bh_head_get(h->bucket, h->prefix, branch, &head, etag, call, err);
    if (rc && rc != ENOENT)
        return rc;
    BH_LOCK_SCOPE(&h->mutex);
    memcpy(h->etag, etag, sizeof h->etag);
    h->have_head = rc == 0;
    struct bh_head none = {0};
    if (etag[0]) { /* a tombstone: what it counts goes on, and gc may hold it */
        none.sequence = head.sequence;
        none.lease = head.lease;
    }
    h->head = rc == 0 ? head : none;
    snprintf(h->head.branch, sizeof h->head.branch, "%s", branch);
    if (rc == 0 && history_is_own_lease(h, &h->head))
        h->held = true; /* of an earlier life, even if it cannot be renewed now */
    return rc;
}

int history_fenced(struct bh_history *h, const struct bh_head *now, struct bh_error *err)
{
    pthread_mutex_lock(&h->mutex);
    if (!h->fenced)
        h->pin.until_ms = 0; /* only a pin keeps the base now: it is put anew, and checked */
    h->fenced = true;
    if (now)
        h->taker = now->lease;
    pthread_mutex_unlock(&h->mutex);
    bh_store_bar_eviction(h->live->store); /* gc may have the base before the changes are saved */
    return bh_fail(err, ESTALE,
                   "branch %s was taken over by another writer (%s, process %lld): nothing more is "
                   "flushed to it. Your changes are kept in %s; save them as a branch of their own "
                   "with mkdir branches/NAME, or unmount and mount again",
                   h->head.branch, h->taker.host[0] ? h->taker.host : "unknown",
                   (long long)h->taker.pid, h->live->dir.path);
}

int history_put_head(struct bh_history *h, struct bh_head *head, const struct bh_call *call,
                     struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    struct bh_head now = {0};
    char etag[BH_ETAG_MAX];
    int64_t server_ms;
    bool advisory = false;
    int rc = history_now(h, &server_ms, call, err);
    if (rc)
        return rc;
    bh_lease_take(head, history_writer(h), server_ms, h->cfg->snapshot.lease_ms);
    head->sequence++;
    if (st->epoch != head->lease.epoch) {
        st->epoch = head->lease.epoch;
        if ((rc = bh_statedir_save(&h->live->dir, err)) != 0)
            return rc;
    }
    memcpy(etag, h->etag, sizeof etag);
    rc = bh_head_put(h->bucket, h->prefix, head, etag, &now, &advisory, call, err);
    BH_LOCK_SCOPE(&h->mutex);
    h->doubt = rc != 0;
    if (rc)
        return rc;
    h->head = *head;
    memcpy(h->etag, etag, sizeof h->etag);
    h->have_head = h->held = true;
    h->advisory = advisory;
    return 0;
}

int history_lost_head(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    struct bh_head now = {0};
    char etag[BH_ETAG_MAX];
    int rc = bh_head_get(h->bucket, h->prefix, h->head.branch, &now, etag, call, NULL);
    if (rc == 0 && history_is_ours(&h->live->dir.state, &now) &&
        !strcmp(now.lease.writer, history_writer(h)))
        return bh_fail(err, EAGAIN, "an earlier write of branch %s arrived late; try again",
                       h->head.branch);
    return history_fenced(h, rc == 0 ? &now : NULL, err);
}

bool history_is_ours(const struct bh_state *st, const struct bh_head *head)
{
    const char *id = head->newest.id;
    if (!id[0])
        return !st->base_snapshot[0];
    return !strcmp(id, st->base_snapshot) || !strcmp(id, st->pending_snapshot) ||
           plain_is_older_pending(st, id);
}

/* Whether the lease is one of an earlier life of this state directory. A copy of the directory has
 * the same name for itself, but another epoch, or another machine or process that lives. */
bool history_is_own_lease(struct bh_history *h, const struct bh_head *head)
{
    char host[BH_HOST_MAX];
    const struct bh_lease *l = &head->lease;
    if (strcmp(l->writer, history_writer(h)))
        return false;
    if (l->epoch == h->live->dir.state.epoch)
        return true;
    history_host(host);
    bool lives =
        l->pid > 0 && l->pid != getpid() && (kill((pid_t)l->pid, 0) == 0 || errno == EPERM);
    return !strcmp(l->host, host) && !lives;
}

int history_may_take(struct bh_history *h, const struct bh_head *head, bool steal,
                     const struct bh_call *call, struct bh_error *err)
{
    int64_t now;
    int rc = history_now(h, &now, call, err);
    const char *name = history_is_own_lease(h, head) ? head->lease.writer : "";
    return rc ? rc : bh_lease_check(head, name, now, steal, err);
}

int history_check_tombstone(struct bh_history *h, const struct bh_head *there,
                            const struct bh_call *call, struct bh_error *err)
{
    struct bh_head tombstone = *there;
    if (!tombstone.lease.writer[0])
        return 0;
    tombstone.deleted = true;
    return history_may_take(h, &tombstone, false, call, err);
}

int history_release_head(struct bh_history *h, struct bh_head *head, char etag[BH_ETAG_MAX],
                         const struct bh_call *call, struct bh_error *err)
{
    head->sequence++;
    head->lease.writer[0] = '\0';
    return bh_head_put(h->bucket, h->prefix, head, etag, NULL, NULL, call, err);
}

void history_let_go(struct bh_history *h, const char *branch, const struct bh_call *call)
{
    struct bh_head head;
    struct bh_error err;
    char etag[BH_ETAG_MAX];
    if (h->read_only || !branch[0] ||
        bh_head_get(h->bucket, h->prefix, branch, &head, etag, call, &err) != 0 ||
        !head.lease.writer[0] || !history_is_own_lease(h, &head))
        return;
    if (history_release_head(h, &head, etag, call, &err) != 0)
        bh_log(BH_LOG_WARNING, "branch %s is kept until its lease ends: %s", branch, err.text);
}

int history_check_lease(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    return history_may_take(h, &h->head, h->cfg->snapshot.steal, call, err);
}

static int renew_lease(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    int64_t now;
    if (h->read_only || h->fenced || !h->have_head)
        return 0;
    int rc = history_now(h, &now, call, err);
    if (rc)
        return rc;
    int64_t life = h->cfg->snapshot.lease_ms;
    if (h->head.lease.expires_ms - now > life - life / 3)
        return 0;
    if ((rc = history_sync_head(h, call, err)) != 0)
        return rc;
    struct bh_head head = h->head;
    rc = history_put_head(h, &head, call, err);
    return rc == ESTALE ? history_lost_head(h, call, err) : rc;
}

int bh_history_renew(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    struct bh_error why;
    history_keep_pin(h, call);
    int rc = renew_lease(h, call, err);
    /* After that, as it may take long. */
    if (h->files.keep && !h->read_only && h->files.keep(h->files.arg, call, &why) != 0)
        bh_log(BH_LOG_WARNING, "contents that are not flushed yet are not kept from gc: %s",
               why.text);
    return rc;
}

int bh_history_release(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    history_leave_pin(h, call);
    if (h->read_only || h->fenced || !h->have_head || !history_is_own_lease(h, &h->head))
        return 0; /* not taken: somebody else's that has run out is none of ours to end */
    struct bh_head head = h->head;
    char etag[BH_ETAG_MAX];
    memcpy(etag, h->etag, sizeof etag);
    int rc = history_release_head(h, &head, etag, call, err);
    if (rc)
        return rc;
    BH_LOCK_SCOPE(&h->mutex);
    h->head = head;
    memcpy(h->etag, etag, sizeof h->etag);
    return 0;
}
