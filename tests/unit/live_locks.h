/* A lock table for a test: two files, owners by number, requests that remember their end. */
#ifndef LIVE_LOCKS_H
#define LIVE_LOCKS_H

#include "live_fixture.h"

#include "live/locks.h"

enum { NONE = BH_LOCK_NONE, READ = BH_LOCK_READ, WRITE = BH_LOCK_WRITE };

static struct bh_lockset db, side;
static struct bh_locks *table; /* db is gated */

struct waiter {
    struct bh_lock_request r;
    struct bh_lock_request then; /* made from done(), if it has a set */
    int calls, rc, turn;
};
static struct waiter waiters[4096];
static unsigned waiter_count;
static int turns;

static inline int locks_setup(void **state)
{
    (void)state;
    waiter_count = 0;
    turns = 0;
    seed_random(1);
    table = bh_locks_new(&db);
    return table ? 0 : -1;
}

static inline int locks_teardown(void **state)
{
    (void)state;
    bh_locks_cancel_all(table, ESHUTDOWN);
    bh_locks_free(table);
    bh_lockset_free(&db);
    bh_lockset_free(&side);
    return 0;
}

static inline struct bh_owner client(uint64_t id)
{
    return (struct bh_owner){.id = id};
}

static inline struct bh_owner
daemon_(uint64_t id) /* the same number as a client is another owner */
{
    return (struct bh_owner){.id = id, .internal = true};
}

static inline void never_done(struct bh_lock_request *r, int rc)
{
    (void)r, (void)rc;
    abort();
}

static inline struct bh_lock_request request(struct bh_owner o, unsigned type, uint64_t start,
                                             uint64_t end)
{
    return (struct bh_lock_request){.set = &db,
                                    .owner = o,
                                    .handle = o.internal ? 0 : 5000 + o.id,
                                    .pid = (pid_t)(1000 + o.id),
                                    .brief = o.internal,
                                    .type = (enum bh_lock_type)type,
                                    .start = start,
                                    .end = end,
                                    .done = never_done};
}

/* F_SETLK that is not expected to park. */
static inline int lock(struct bh_owner o, unsigned type, uint64_t start, uint64_t end)
{
    struct bh_lock_request r = request(o, type, start, end);
    int rc = bh_locks_request(table, &r);
    assert_int_not_equal(rc, EINPROGRESS);
    return rc;
}

static inline void waiter_done(struct bh_lock_request *r, int rc)
{
    struct waiter *w = (struct waiter *)(void *)r;
    w->calls++;
    w->rc = rc;
    w->turn = turns++;
    if (w->then.set && bh_locks_request(table, &w->then) != 0)
        abort();
}

static inline struct waiter *new_waiter(struct bh_owner o, unsigned type, uint64_t start,
                                        uint64_t end)
{
    assert_true(waiter_count < sizeof waiters / sizeof *waiters);
    struct waiter *w = &waiters[waiter_count++];
    *w = (struct waiter){.r = request(o, type, start, end)};
    w->r.done = waiter_done;
    return w;
}

/* F_SETLK that must park. */
static inline struct waiter *setlk(struct bh_owner o, unsigned type, uint64_t start, uint64_t end)
{
    struct waiter *w = new_waiter(o, type, start, end);
    must_fail(bh_locks_request(table, &w->r), EINPROGRESS);
    return w;
}

/* F_SETLKW that must park. */
static inline struct waiter *wait_lock(struct bh_owner o, unsigned type, uint64_t start,
                                       uint64_t end)
{
    struct waiter *w = new_waiter(o, type, start, end);
    w->r.wait = true;
    must_fail(bh_locks_request(table, &w->r), EINPROGRESS);
    return w;
}

#define parked(w) assert_int_equal((w)->calls, 0)

/* With what it ended, once. */
static inline int ended(struct waiter *w)
{
    assert_int_equal(w->calls, 1);
    return w->rc;
}

#endif
