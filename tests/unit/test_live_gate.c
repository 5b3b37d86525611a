/* The gate of the lock table, and random requests of every kind at once. */
#include "live_locks.h"

static void test_first_lock_is_parked(void **state)
{
    bh_gate_close(table);
    struct waiter *w = setlk(client(1), READ, 0, 0);
    bh_gate_open(table);
    must(ended(w));
    must_fail(lock(client(2), WRITE, 0, 0), EAGAIN);
}

static void test_insiders_pass(void **state)
{
    must(lock(client(1), READ, 0, 0));
    bh_gate_close(table);
    must(lock(client(1), WRITE, 0, 9));
    must(lock(client(1), NONE, 5, 5));
    bh_gate_open(table);
}

static void test_who_left_is_outside_again(void **state)
{
    must(lock(client(1), READ, 0, 0));
    bh_gate_close(table);
    must(lock(client(1), NONE, 0, 0));
    parked(setlk(client(1), READ, 0, 0));
}

static void test_the_daemon_and_other_files_pass(void **state)
{
    bh_gate_close(table);
    must(lock(daemon_(1), WRITE, 0, 0));
    struct bh_lock_request r = request(client(1), WRITE, 0, 0);
    r.set = &side;
    must(bh_locks_request(table, &r));
}

static void test_unlock_and_getlk_pass(void **state)
{
    struct bh_lock held;
    bh_gate_close(table);
    must(lock(client(1), NONE, 0, UINT64_MAX));
    struct bh_lock_request r = request(client(1), WRITE, 0, 0);
    assert_false(bh_locks_test(table, &r, &held));
}

static void test_opening_refuses_what_a_client_has(void **state)
{
    must(lock(client(1), WRITE, 0, 0));
    bh_gate_close(table);
    struct waiter *now = setlk(client(2), READ, 0, 0), *later = wait_lock(client(3), READ, 0, 0);
    bh_gate_open(table);
    must_fail(ended(now), EAGAIN);
    parked(later);
    must(lock(client(1), NONE, 0, 0));
    must(ended(later));
}

static void test_cancel_leaves_who_waits_at_the_gate(void **state)
{
    must(lock(client(1), WRITE, 0, 0));
    bh_gate_close(table);
    struct waiter *w = wait_lock(client(2), READ, 0, 0);
    bh_locks_cancel(table, &w->r);
    parked(w);
    bh_gate_open(table);
    parked(w);
    bh_locks_cancel(table, &w->r); /* it waits for client 1 now */
    must_fail(ended(w), EINTR);
}

static void test_who_dies_at_the_gate_is_let_go(void **state)
{
    bh_gate_close(table);
    struct waiter *owner = setlk(client(1), READ, 0, 0), *handle = setlk(client(2), READ, 0, 0);
    bh_locks_drop_owner(table, &db, client(1));
    must_fail(ended(owner), EINTR);
    bh_locks_drop_handle(table, &db, handle->r.handle);
    must_fail(ended(handle), EINTR);
    bh_gate_open(table);
    assert_int_equal(db.count, 0);
}

static void test_drain_by_need(void **state)
{
    bh_gate_close(table);
    assert_true(bh_gate_drain(table, BH_GATE_NO_CLIENTS, 0));
    bh_gate_open(table);
    must(lock(client(1), READ, BH_SHARED_FIRST, BH_SHARED_FIRST + BH_SHARED_SIZE - 1));
    bh_gate_close(table);
    assert_false(bh_gate_drain(table, BH_GATE_NO_CLIENTS, 1));
    assert_true(bh_gate_drain(table, BH_GATE_NO_WRITERS, 1)); /* a reader is in no reader's way */
    must(lock(client(1), WRITE, BH_RESERVED_BYTE, BH_RESERVED_BYTE));
    assert_true(bh_gate_drain(table, BH_GATE_NO_WRITERS, 1));
    must(lock(client(1), WRITE, BH_PENDING_BYTE, BH_PENDING_BYTE));
    assert_false(bh_gate_drain(table, BH_GATE_NO_WRITERS, 1));
}

static void test_drain_keeps_its_time(void **state)
{
    must(lock(client(1), READ, 0, 0));
    bh_gate_close(table);
    int64_t begin = bh_mono_ms();
    assert_false(bh_gate_drain(table, BH_GATE_NO_CLIENTS, 50));
    assert_in_range(bh_mono_ms() - begin, 49, 2000);
}

static void *leave_soon(void *arg)
{
    usleep(20000);
    if (arg)
        bh_locks_drop_owner(table, &db, client(1));
    else
        lock(client(1), NONE, 0, UINT64_MAX);
    return NULL;
}

static void test_drain_sees_the_last_one_leave(void **state)
{
    for (int dropped = 0; dropped < 2; dropped++) {
        pthread_t thread;
        must(lock(client(1), READ, 0, 0));
        bh_gate_close(table);
        must(pthread_create(&thread, NULL, leave_soon, dropped ? table : NULL));
        assert_true(bh_gate_drain(table, BH_GATE_NO_CLIENTS, 10000));
        must(pthread_join(thread, NULL));
        bh_gate_open(table);
    }
}

static void test_wait_ends_with_a_change(void **state)
{
    pthread_t thread;
    must(lock(client(1), READ, 0, 0));
    must(pthread_create(&thread, NULL, leave_soon, table));
    int64_t begin = bh_mono_ms();
    bh_locks_wait(table, 10000);
    assert_in_range(bh_mono_ms() - begin, 0, 9000);
    must(pthread_join(thread, NULL));
}

/* --- everything at once: what must hold after every step --- */

static bool gate_closed;

static bool clash(const struct bh_lock *l, struct bh_owner o, bool write, uint64_t start,
                  uint64_t end)
{
    return !bh_owner_equal(l->owner, o) && l->start <= end && start <= l->end &&
           (l->write || write);
}

static void check_locks_agree(void)
{
    for (size_t i = 0; i < db.count; i++)
        for (size_t j = 0; j < i; j++)
            assert_false(clash(&db.locks[i], db.locks[j].owner, db.locks[j].write,
                               db.locks[j].start, db.locks[j].end));
}

/* Nobody waits without a reason, and a F_SETLK for the daemon only. */
static void check_reason_to_wait(const struct waiter *w)
{
    bool inside = false, by_client = false, by_daemon = false;
    for (size_t i = 0; i < db.count; i++) {
        const struct bh_lock *l = &db.locks[i];
        inside |= bh_owner_equal(l->owner, w->r.owner);
        if (clash(l, w->r.owner, w->r.type == BH_LOCK_WRITE, w->r.start, w->r.end)) {
            by_client |= !l->owner.internal;
            by_daemon |= l->owner.internal;
        }
    }
    if (gate_closed && !inside)
        return;
    assert_true(w->r.wait ? by_client || by_daemon : by_daemon && !by_client);
}

static void one_step(void)
{
    unsigned dice = any(100), start = any(20);
    struct bh_owner owner = any(4) ? client(any(6)) : daemon_(any(3));
    if (dice < 4) {
        gate_closed = !gate_closed;
        gate_closed ? bh_gate_close(table) : bh_gate_open(table);
    } else if (dice < 10) {
        bh_locks_drop_owner(table, &db, owner);
    } else if (dice < 13) {
        bh_locks_drop_handle(table, &db, 5000 + any(6));
    } else if (dice < 20 && waiter_count > 0) {
        bh_locks_cancel(table, &waiters[any(waiter_count)].r);
    } else {
        struct waiter *w = new_waiter(owner, dice < 50 ? NONE : 1 + any(2), start, start + any(5));
        w->r.wait = any(2);
        int rc = bh_locks_request(table, &w->r);
        if (rc == EINPROGRESS)
            assert_false(w->r.owner.internal);
        else
            waiter_count--; /* it is over */
    }
}

static void test_random_steps_keep_the_rules(void **state)
{
    unsigned most = 0;
    gate_closed = false;
    for (int i = 0; i < 100000; i++) {
        one_step();
        check_locks_agree();
        unsigned live = 0;
        for (unsigned w = 0; w < waiter_count; w++) {
            if (waiters[w].calls == 0)
                check_reason_to_wait(&waiters[w]);
            live += waiters[w].calls == 0;
            assert_true(waiters[w].calls <= 1);
        }
        most = live > most ? live : most;
        if (live == 0 || waiter_count > 3000) { /* start over with a clean sheet */
            bh_locks_cancel_all(table, EINTR);
            waiter_count = 0;
        }
    }
    assert_true(most > 5);
    bh_gate_open(table);
    bh_locks_drop_clients(table, &db);
    for (unsigned o = 0; o < 6; o++) {
        bh_locks_drop_owner(table, &db, daemon_(o));
        bh_locks_drop_owner(table, &db, client(o));
    }
    for (unsigned w = 0; w < waiter_count; w++)
        assert_int_equal(waiters[w].calls, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, locks_setup, locks_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_first_lock_is_parked),
        TEST(test_insiders_pass),
        TEST(test_who_left_is_outside_again),
        TEST(test_the_daemon_and_other_files_pass),
        TEST(test_unlock_and_getlk_pass),
        TEST(test_opening_refuses_what_a_client_has),
        TEST(test_cancel_leaves_who_waits_at_the_gate),
        TEST(test_who_dies_at_the_gate_is_let_go),
        TEST(test_drain_by_need),
        TEST(test_drain_keeps_its_time),
        TEST(test_drain_sees_the_last_one_leave),
        TEST(test_wait_ends_with_a_change),
        TEST(test_random_steps_keep_the_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
