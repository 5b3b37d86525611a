#include "live/locks_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"

struct bh_locks {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct bh_lockset *gated;
    struct bh_lockset *wal; /* NULL: there is no -shm */
    bool wal_refused;       /* bh_locks_refuse_wal_writers */
    bool gate_closed;
    struct bh_lock_request *parked, **parked_tail; /* first come, first served */
    unsigned sleepers; /* threads in a cond wait: no need to signal when there are none */
    uint64_t parked_total;
    uint64_t visit; /* number of the last search for a deadlock */
    uint64_t wal_reads;
};

void bh_lockset_free(struct bh_lockset *s)
{
    free(s->locks);
    *s = (struct bh_lockset){0};
}

struct bh_locks *bh_locks_new(struct bh_lockset *gated)
{
    struct bh_locks *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    pthread_mutex_init(&t->mutex, NULL);
    bh_cond_init(&t->changed);
    t->gated = gated;
    t->parked_tail = &t->parked;
    return t;
}

void bh_locks_free(struct bh_locks *t)
{
    if (!t)
        return;
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->mutex);
    free(t);
}

/* --- one set --- */

static bool conflicts(const struct bh_lock *l, const struct bh_lock_request *r)
{
    return !bh_owner_equal(l->owner, r->owner) && locks_overlap(l, r->start, r->end) &&
           (l->write || r->type == BH_LOCK_WRITE);
}

/* Room for two more entries: an unlock in the middle of a lock makes two of one. */
static bool make_room(struct bh_lockset *s)
{
    if (s->count + 2 <= s->cap)
        return true;
    size_t cap = s->cap ? 2 * s->cap : 16;
    struct bh_lock *p = realloc(s->locks, cap * sizeof *p);
    if (!p)
        return false;
    s->locks = p;
    s->cap = cap;
    return true;
}

static void remove_at(struct bh_lockset *s, size_t i)
{
    s->locks[i] = s->locks[--s->count];
}

/* Cuts [start, end] out of what the owner holds. */
static void cut(struct bh_lockset *s, struct bh_owner owner, uint64_t start, uint64_t end)
{
    for (size_t i = 0; i < s->count;) {
        struct bh_lock *l = &s->locks[i];
        if (!bh_owner_equal(l->owner, owner) || !locks_overlap(l, start, end)) {
            i++;
            continue;
        }
        struct bh_lock old = *l;
        if (old.start < start &&
            old.end > end) { /* at most once: an owner's locks do not overlap */
            l->end = start - 1;
            s->locks[s->count] = old;
            s->locks[s->count++].start = end + 1;
            return;
        }
        if (old.start < start)
            l->end = start - 1;
        else if (old.end > end)
            l->start = end + 1;
        else {
            remove_at(s, i);
            continue;
        }
        i++;
    }
}

/* Joins the new lock with the owner's neighbours of the same kind. */
static void insert(struct bh_lockset *s, const struct bh_lock_request *r)
{
    struct bh_lock n = {.owner = r->owner,
                        .handle = r->handle,
                        .pid = r->pid,
                        .write = r->type == BH_LOCK_WRITE,
                        .brief = r->brief,
                        .start = r->start,
                        .end = r->end,
                        .since_ms = bh_mono_ms()};
    for (size_t i = 0; i < s->count;) {
        struct bh_lock *l = &s->locks[i];
        bool touches =
            (n.start > 0 && l->end == n.start - 1) || (n.end < UINT64_MAX && l->start == n.end + 1);
        if (bh_owner_equal(l->owner, n.owner) && l->write == n.write && l->handle == n.handle &&
            touches) {
            n.start = l->start < n.start ? l->start : n.start;
            n.end = l->end > n.end ? l->end : n.end;
            remove_at(s, i);
        } else {
            i++;
        }
    }
    s->locks[s->count++] = n;
}

static int apply(struct bh_locks *t, const struct bh_lock_request *r)
{
    if (!make_room(r->set))
        return ENOMEM;
    t->wal_reads += r->set == t->wal && !r->owner.internal && r->type == BH_LOCK_READ &&
                    r->start >= BH_WAL_READ && r->end <= BH_WAL_LAST;
    cut(r->set, r->owner, r->start, r->end);
    if (r->type != BH_LOCK_NONE)
        insert(r->set, r);
    return 0;
}

/* --- who stands in whose way --- */

enum obstacle { NO_OBSTACLE, OBSTACLE_DAEMON, OBSTACLE_CLIENT, OBSTACLE_REFUSED };

static bool holds_any(const struct bh_lockset *s, struct bh_owner owner)
{
    for (size_t i = 0; i < s->count; i++)
        if (bh_owner_equal(s->locks[i].owner, owner))
            return true;
    return false;
}

static bool holds_wal(const struct bh_lockset *s, struct bh_owner owner)
{
    for (size_t i = 0; i < s->count; i++)
        if (bh_owner_equal(s->locks[i].owner, owner) &&
            locks_overlap(&s->locks[i], BH_WAL_FIRST, BH_WAL_LAST))
            return true;
    return false;
}

/* Whether the closed gate holds this request back. */
static bool is_gated(const struct bh_locks *t, const struct bh_lock_request *r)
{
    if (!t->gate_closed || r->brief)
        return false;
    if (r->set == t->gated)
        return !holds_any(r->set, r->owner);
    return r->set == t->wal && !r->owner.internal && r->start >= BH_WAL_FIRST &&
           r->end <= BH_WAL_LAST && !holds_wal(r->set, r->owner);
}

/* What a lock that conflicts with a request means for it. */
static enum obstacle obstacle_of(const struct bh_locks *t, const struct bh_lock_request *r,
                                 const struct bh_lock *l)
{
    if (r->set == t->wal && l->owner.internal != r->owner.internal && r->start == BH_WAL_DMS)
        return NO_OBSTACLE;
    if (!l->owner.internal)
        return OBSTACLE_CLIENT;
    if (l->brief)
        return OBSTACLE_DAEMON;
    /* It may be waiting for locks that this client has, and lets go of when it is refused. */
    bool holds = r->set == t->wal ? holds_wal(r->set, r->owner) : holds_any(r->set, r->owner);
    bool other_slot_will_do =
        r->set == t->wal && r->start >= BH_WAL_READ && r->end <= BH_WAL_LAST && !l->write;
    return holds || other_slot_will_do ? OBSTACLE_CLIENT : OBSTACLE_DAEMON;
}

static enum obstacle find_obstacle(const struct bh_locks *t, const struct bh_lock_request *r)
{
    if (r->type == BH_LOCK_NONE)
        return NO_OBSTACLE;
    if (t->wal_refused && r->set == t->wal && r->type == BH_LOCK_WRITE &&
        r->start <= BH_WAL_WRITE && r->end >= BH_WAL_WRITE && !r->owner.internal)
        return OBSTACLE_REFUSED;
    if (is_gated(t, r))
        return OBSTACLE_DAEMON;
    enum obstacle found = NO_OBSTACLE;
    for (size_t i = 0; i < r->set->count && found != OBSTACLE_CLIENT; i++) {
        enum obstacle o =
            conflicts(&r->set->locks[i], r) ? obstacle_of(t, r, &r->set->locks[i]) : NO_OBSTACLE;
        found = o > found ? o : found;
    }
    return found;
}

static bool waits_for(struct bh_locks *t, struct bh_lock_request *who, struct bh_owner target);

/* Whether the owner of a lock waits, directly or over others, for a lock of `target`. */
static bool owner_waits_for(struct bh_locks *t, struct bh_owner owner, struct bh_owner target)
{
    for (struct bh_lock_request *p = t->parked; p; p = p->next)
        if (p->wait && p->visit != t->visit && bh_owner_equal(p->owner, owner) &&
            waits_for(t, p, target))
            return true;
    return false;
}

/* A request is looked at once in a search. */
static bool waits_for(struct bh_locks *t, struct bh_lock_request *who, struct bh_owner target)
{
    who->visit = t->visit;
    for (size_t i = 0; i < who->set->count; i++) {
        const struct bh_lock *l = &who->set->locks[i];
        if (!conflicts(l, who) || l->owner.internal)
            continue;
        if (bh_owner_equal(l->owner, target) || owner_waits_for(t, l->owner, target))
            return true;
    }
    return false;
}

static bool would_deadlock(struct bh_locks *t, struct bh_lock_request *r)
{
    t->visit++;
    return waits_for(t, r, r->owner);
}

/* --- parking --- */

static void park(struct bh_locks *t, struct bh_lock_request *r)
{
    r->parked = true;
    r->next = NULL;
    r->prev = t->parked_tail;
    *t->parked_tail = r;
    t->parked_tail = &r->next;
    t->parked_total++;
}

static void unpark(struct bh_locks *t, struct bh_lock_request *r, int rc,
                   struct bh_lock_request **ended)
{
    *r->prev = r->next;
    if (r->next)
        r->next->prev = r->prev;
    else
        t->parked_tail = r->prev;
    r->parked = false;
    r->result = rc;
    r->next = NULL;
    while (*ended) /* keep the order: first come, first served */
        ended = &(*ended)->next;
    *ended = r;
}

/* Ends the parked requests that can be ended now. A grant may itself let others in (a WRITE that
 * becomes READ) or put a client in the way of one that must not wait for clients, so it goes on
 * until a pass ends none. */
static void rescan(struct bh_locks *t, struct bh_lock_request **ended)
{
    for (bool again = true; again;) {
        again = false;
        for (struct bh_lock_request *r = t->parked, *next; r; r = next) {
            next = r->next;
            enum obstacle o = find_obstacle(t, r);
            bool refused = o == OBSTACLE_REFUSED || (o == OBSTACLE_CLIENT && !r->wait);
            if (o == NO_OBSTACLE || refused) {
                unpark(t, r, !refused ? apply(t, r) : o == OBSTACLE_CLIENT ? EAGAIN : EIO, ended);
                again = true;
            }
        }
    }
}

static void changed(struct bh_locks *t)
{
    if (t->sleepers > 0)
        pthread_cond_broadcast(&t->changed);
}

static void finish(struct bh_lock_request *ended)
{
    while (ended) {
        struct bh_lock_request *r = ended;
        ended = r->next;
        r->done(r, r->result);
    }
}

/* --- requests --- */

int bh_locks_request(struct bh_locks *t, struct bh_lock_request *r)
{
    struct bh_lock_request *ended = NULL;
    int rc = 0;
    r->parked = false;
    pthread_mutex_lock(&t->mutex);
    switch (find_obstacle(t, r)) {
    case NO_OBSTACLE:
        rc = apply(t, r);
        if (t->parked)
            rescan(t, &ended); /* a downgrade lets others in, too */
        changed(t);
        break;
    case OBSTACLE_DAEMON:
        rc = r->owner.internal ? EAGAIN : EINPROGRESS;
        break;
    case OBSTACLE_CLIENT:
        rc = !r->wait || r->owner.internal ? EAGAIN : would_deadlock(t, r) ? EDEADLK : EINPROGRESS;
        break;
    case OBSTACLE_REFUSED:
        rc = EIO;
        break;
    }
    if (rc == EINPROGRESS)
        park(t, r);
    pthread_mutex_unlock(&t->mutex);
    finish(ended);
    return rc;
}

void bh_locks_cancel(struct bh_locks *t, struct bh_lock_request *r)
{
    struct bh_lock_request *ended = NULL;
    pthread_mutex_lock(&t->mutex);
    if (r->parked && r->wait && find_obstacle(t, r) == OBSTACLE_CLIENT)
        unpark(t, r, EINTR, &ended);
    pthread_mutex_unlock(&t->mutex);
    finish(ended);
}

void bh_locks_cancel_all(struct bh_locks *t, int rc)
{
    struct bh_lock_request *ended = NULL;
    pthread_mutex_lock(&t->mutex);
    while (t->parked)
        unpark(t, t->parked, rc, &ended);
    pthread_mutex_unlock(&t->mutex);
    finish(ended);
}

bool bh_locks_test(struct bh_locks *t, const struct bh_lock_request *r, struct bh_lock *conflict)
{
    BH_LOCK_SCOPE(&t->mutex);
    for (size_t i = 0; i < r->set->count; i++)
        if (conflicts(&r->set->locks[i], r)) {
            *conflict = r->set->locks[i];
            return true;
        }
    return false;
}

bool bh_locks_owns(struct bh_locks *t, struct bh_lockset *s, struct bh_owner owner, uint64_t byte)
{
    BH_LOCK_SCOPE(&t->mutex);
    for (size_t i = 0; i < s->count; i++)
        if (s->locks[i].write && bh_owner_equal(s->locks[i].owner, owner) &&
            locks_overlap(&s->locks[i], byte, byte))
            return true;
    return false;
}

static void drop(struct bh_locks *t, struct bh_lockset *s, const struct bh_owner *owner,
                 uint64_t handle)
{
    struct bh_lock_request *ended = NULL;
    pthread_mutex_lock(&t->mutex);
    bool any = false;
    for (size_t i = 0; i < s->count;) {
        struct bh_lock *l = &s->locks[i];
        if (owner ? bh_owner_equal(l->owner, *owner) : !l->owner.internal && l->handle == handle) {
            remove_at(s, i);
            any = true;
        } else {
            i++;
        }
    }
    for (struct bh_lock_request *r = t->parked, *next; r; r = next) {
        next = r->next;
        if (r->set == s && (owner ? bh_owner_equal(r->owner, *owner) : r->handle == handle))
            unpark(t, r, EINTR, &ended);
    }
    if (any) {
        rescan(t, &ended);
        changed(t);
    }
    pthread_mutex_unlock(&t->mutex);
    finish(ended);
}

void bh_locks_drop_owner(struct bh_locks *t, struct bh_lockset *s, struct bh_owner owner)
{
    drop(t, s, &owner, 0);
}

void bh_locks_drop_handle(struct bh_locks *t, struct bh_lockset *s, uint64_t handle)
{
    drop(t, s, NULL, handle);
}

void bh_locks_drop_clients(struct bh_locks *t, struct bh_lockset *s)
{
    BH_LOCK_SCOPE(&t->mutex);
    for (size_t i = 0; i < s->count;)
        if (s->locks[i].owner.internal)
            i++;
        else
            remove_at(s, i);
    changed(t);
}

void bh_locks_transfer(struct bh_locks *t, struct bh_lockset *s, struct bh_owner from,
                       struct bh_owner to)
{
    BH_LOCK_SCOPE(&t->mutex);
    for (size_t i = 0; i < s->count; i++)
        if (bh_owner_equal(s->locks[i].owner, from)) {
            s->locks[i].owner = to;
            s->locks[i].handle = 0;
            s->locks[i].brief = to.internal;
        }
    changed(t);
}

/* --- SQLite's view --- */

struct bh_lock_summary bh_locks_summary(struct bh_locks *t, struct bh_lockset *s)
{
    BH_LOCK_SCOPE(&t->mutex);
    return locks_summarise(s);
}

void bh_locks_set_wal(struct bh_locks *t, struct bh_lockset *wal)
{
    BH_LOCK_SCOPE(&t->mutex);
    t->wal = wal;
    t->wal_refused = false;
    changed(t);
}

void bh_locks_refuse_wal_writers(struct bh_locks *t, bool refuse)
{
    struct bh_lock_request *ended = NULL;
    pthread_mutex_lock(&t->mutex);
    t->wal_refused = refuse;
    rescan(t, &ended);
    pthread_mutex_unlock(&t->mutex);
    finish(ended);
}

struct bh_wal_summary bh_locks_wal_summary(struct bh_locks *t)
{
    BH_LOCK_SCOPE(&t->mutex);
    return locks_summarise_wal(t->wal);
}

unsigned bh_locks_attached(struct bh_locks *t, const struct bh_lockset *shm)
{
    BH_LOCK_SCOPE(&t->mutex);
    return locks_summarise_wal(shm).attached;
}

/* --- the gate --- */

void bh_gate_close(struct bh_locks *t)
{
    BH_LOCK_SCOPE(&t->mutex);
    t->gate_closed = true;
}

unsigned bh_gate_open(struct bh_locks *t)
{
    struct bh_lock_request *ended = NULL;
    unsigned count = 0;
    pthread_mutex_lock(&t->mutex);
    t->gate_closed = false;
    rescan(t, &ended);
    pthread_mutex_unlock(&t->mutex);
    for (const struct bh_lock_request *r = ended; r; r = r->next)
        count++;
    finish(ended);
    return count;
}

static bool wal_need_met(const struct bh_locks *t, enum bh_gate_need need)
{
    struct bh_wal_summary wal = locks_summarise_wal(t->wal);
    if (wal.writing || locks_summarise(t->gated).client_writer)
        return false;
    return wal.readers == 0 ||
           (need == BH_GATE_WAL_WRITE && bh_mono_ms() - wal.youngest_ms > BH_OLD_READER_MS);
}

static bool need_met(const struct bh_locks *t, enum bh_gate_need need)
{
    if (need == BH_GATE_WAL_WRITE || need == BH_GATE_WAL_ALONE)
        return wal_need_met(t, need);
    struct bh_lock_summary sum = locks_summarise(t->gated);
    return need == BH_GATE_NO_CLIENTS ? sum.clients == 0 && !sum.inner : !sum.client_writer;
}

static bool sleep_until(struct bh_locks *t, const struct timespec *until)
{
    t->sleepers++;
    int rc = pthread_cond_timedwait(&t->changed, &t->mutex, until);
    t->sleepers--;
    return rc == 0;
}

bool bh_gate_drain(struct bh_locks *t, enum bh_gate_need need, int64_t ms)
{
    struct timespec until = bh_mono_after_ms(ms);
    BH_LOCK_SCOPE(&t->mutex);
    while (!need_met(t, need))
        if (!sleep_until(t, &until))
            return need_met(t, need);
    return true;
}

void bh_locks_wait(struct bh_locks *t, int64_t ms)
{
    struct timespec until = bh_mono_after_ms(ms);
    BH_LOCK_SCOPE(&t->mutex);
    sleep_until(t, &until);
}

uint64_t bh_locks_wal_reads(struct bh_locks *t)
{
    BH_LOCK_SCOPE(&t->mutex);
    return t->wal_reads;
}

uint64_t bh_locks_parked_total(struct bh_locks *t)
{
    BH_LOCK_SCOPE(&t->mutex);
    return t->parked_total;
}
