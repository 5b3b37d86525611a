/* The lock table: POSIX semantics against a model of single bytes, parking, deadlocks. The gate is
 * in test_live_gate.c. */
#include "live_locks.h"

/* --- POSIX, by hand --- */

static void test_unlock_in_the_middle_splits(void **state)
{
    must(lock(client(1), WRITE, 0, 99));
    must(lock(client(1), NONE, 40, 59));
    assert_int_equal(db.count, 2);
    must(lock(client(2), WRITE, 40, 59));
    must_fail(lock(client(2), READ, 39, 39), EAGAIN);
    must_fail(lock(client(2), READ, 60, 60), EAGAIN);
}

static void test_neighbours_of_one_kind_merge(void **state)
{
    must(lock(client(1), READ, 0, 9));
    must(lock(client(1), READ, 20, 29));
    assert_int_equal(db.count, 2);
    must(lock(client(1), READ, 10, 19));
    assert_int_equal(db.count, 1);
    assert_int_equal(db.locks[0].start, 0);
    assert_int_equal(db.locks[0].end, 29);
    must(lock(client(1), WRITE, 30, 39)); /* another kind */
    assert_int_equal(db.count, 2);
}

static void test_upgrade_needs_that_nobody_else_reads(void **state)
{
    must(lock(client(1), READ, 0, 9));
    must(lock(client(2), READ, 5, 5));
    must_fail(lock(client(1), WRITE, 0, 9), EAGAIN);
    must_fail(lock(client(3), WRITE, 0, 0), EAGAIN); /* the refused one still has its READ */
    must(lock(client(2), NONE, 5, 5));
    must(lock(client(1), WRITE, 0, 9));
    must_fail(lock(client(2), READ, 5, 5), EAGAIN);
}

static void test_downgrade_lets_readers_in(void **state)
{
    must(lock(client(1), WRITE, 0, 9));
    struct waiter *w = wait_lock(client(2), READ, 3, 3);
    must_fail(lock(client(3), READ, 3, 3), EAGAIN);
    must(lock(client(1), READ, 0, 9));
    must(ended(w));
    must(lock(client(3), READ, 3, 3));
    must_fail(lock(client(3), WRITE, 3, 3), EAGAIN);
}

static void test_to_the_end_of_any_file(void **state)
{
    must(lock(client(1), WRITE, 1000, UINT64_MAX));
    must_fail(lock(client(2), READ, UINT64_MAX, UINT64_MAX), EAGAIN);
    must(lock(client(2), READ, 0, 999));
    must(lock(client(1), NONE, 2000, UINT64_MAX));
    must(lock(client(2), WRITE, 2000, UINT64_MAX));
    must(lock(client(1), NONE, 0, UINT64_MAX));
    must(lock(client(2), WRITE, 0, UINT64_MAX));
    assert_int_equal(db.count, 1);
}

static void test_files_are_apart(void **state)
{
    must(lock(client(1), WRITE, 0, 9));
    struct bh_lock_request r = request(client(2), WRITE, 0, 9);
    r.set = &side;
    must(bh_locks_request(table, &r));
}

static void test_getlk_names_a_conflict(void **state)
{
    struct bh_lock held;
    must(lock(client(7), WRITE, 10, 19));
    struct bh_lock_request r = request(client(2), READ, 15, 30);
    assert_true(bh_locks_test(table, &r, &held));
    assert_true(bh_owner_equal(held.owner, client(7)));
    assert_int_equal(held.start, 10);
    assert_int_equal(held.end, 19);
    assert_true(held.write);
    assert_int_equal(held.pid, 1007);
    r = request(client(7), WRITE, 15, 30); /* one's own is none */
    assert_false(bh_locks_test(table, &r, &held));
    r = request(client(2), WRITE, 20, 30);
    assert_false(bh_locks_test(table, &r, &held));
}

/* --- POSIX, against the model --- */

enum { OWNERS = 5, BYTES = 48 }; /* the last "byte" stands for all that follow */

static uint64_t byte_end(unsigned b)
{
    return b == BYTES - 1 ? UINT64_MAX : b;
}

static void compare_with_model(unsigned char model[OWNERS][BYTES])
{
    unsigned char have[OWNERS][BYTES] = {0};
    for (size_t i = 0; i < db.count; i++) {
        const struct bh_lock *l = &db.locks[i];
        for (unsigned b = 0; b < BYTES; b++)
            if (l->start <= b && byte_end(b) <= l->end) {
                assert_int_equal(have[l->owner.id][b], 0); /* an owner's locks do not overlap */
                have[l->owner.id][b] = l->write ? BH_LOCK_WRITE : BH_LOCK_READ;
            }
    }
    assert_memory_equal(have, model, sizeof have);
    size_t runs = 0;
    for (unsigned o = 0; o < OWNERS; o++)
        for (unsigned b = 0; b < BYTES; b++)
            runs += model[o][b] && (b == 0 || model[o][b] != model[o][b - 1]);
    assert_int_equal(db.count, runs); /* merged */
}

static bool model_refuses(unsigned char model[OWNERS][BYTES], unsigned owner, unsigned type,
                          unsigned first, unsigned last)
{
    for (unsigned o = 0; o < OWNERS; o++)
        for (unsigned b = first; b <= last && type != BH_LOCK_NONE; b++)
            if (o != owner && model[o][b] &&
                (type == BH_LOCK_WRITE || model[o][b] == BH_LOCK_WRITE))
                return true;
    return false;
}

static void test_random_requests_are_as_in_the_model(void **state)
{
    static unsigned char model[OWNERS][BYTES];
    memset(model, 0, sizeof model);
    unsigned granted = 0;
    for (int i = 0; i < 100000; i++) {
        unsigned owner = any(OWNERS), type = any(3), first = any(BYTES), last = first + any(12);
        if (last >= BYTES)
            last = BYTES - 1;
        struct bh_lock held;
        struct bh_lock_request r = request(client(owner), type, first, byte_end(last));
        bool refused = model_refuses(model, owner, type, first, last);
        if (type != BH_LOCK_NONE)
            assert_int_equal(bh_locks_test(table, &r, &held), refused);
        must_fail(bh_locks_request(table, &r), refused ? EAGAIN : 0);
        if (!refused)
            memset(&model[owner][first], (int)type, last - first + 1);
        granted += !refused;
        if (any(200) == 0) {
            bh_locks_drop_owner(table, &db, client(owner));
            memset(model[owner], 0, sizeof model[owner]);
        }
        compare_with_model(model);
    }
    assert_in_range(granted, 30000, 99000); /* else the test would test little */
}

/* --- parking --- */

static void test_a_conflict_with_the_daemon_parks(void **state)
{
    must(lock(daemon_(1), WRITE, 0, 9));
    struct waiter *w = setlk(client(1), READ, 5, 5);
    parked(w);
    must(lock(daemon_(1), NONE, 0, 9));
    must(ended(w));
    must_fail(lock(daemon_(1), WRITE, 0, 9), EAGAIN);
    assert_int_equal(bh_locks_parked_total(table), 1);
}

static void test_the_daemon_is_never_parked(void **state)
{
    must(lock(client(1), READ, 0, 9));
    must_fail(lock(daemon_(1), WRITE, 0, 9), EAGAIN);
    must(lock(daemon_(2), READ, 0, 9));
    struct bh_lock_request r = request(daemon_(1), WRITE, 0, 9);
    r.wait = true;
    must_fail(bh_locks_request(table, &r), EAGAIN);
}

static void test_a_client_in_the_way_refuses_at_once(void **state)
{
    must(lock(daemon_(1), READ, 0, 9));
    must(lock(client(1), READ, 0, 9));
    must_fail(lock(client(2), WRITE, 0, 9), EAGAIN); /* both in the way: the client counts */
}

static void test_a_parked_request_ends_when_a_client_gets_in_its_way(void **state)
{
    must(lock(daemon_(1), READ, 0, 9));
    struct waiter *w = setlk(client(1), WRITE, 0, 9);
    parked(w);
    must(lock(client(2), READ, 0, 9));
    must(lock(daemon_(1), NONE, 0, 9));
    must_fail(ended(w), EAGAIN);
}

static void test_setlkw_waits_for_clients(void **state)
{
    must(lock(client(1), WRITE, 0, 9));
    struct waiter *w = wait_lock(client(2), WRITE, 5, 20);
    parked(w);
    must(lock(client(1), NONE, 0, 4));
    parked(w);
    bh_locks_drop_owner(table, &db, client(1));
    must(ended(w));
}

static void test_grants_come_in_order(void **state)
{
    must(lock(client(1), WRITE, 0, 0));
    struct waiter *w[4];
    for (unsigned i = 0; i < 4; i++)
        w[i] = wait_lock(client(10 + i), i == 3 ? WRITE : READ, 0, 0);
    must(lock(client(1), NONE, 0, 0));
    for (unsigned i = 0; i < 3; i++) {
        must(ended(w[i]));
        assert_int_equal(w[i]->turn, i);
    }
    parked(w[3]);
    for (unsigned i = 0; i < 3; i++)
        bh_locks_drop_owner(table, &db, client(10 + i));
    must(ended(w[3]));
}

/* A grant can make way for one that came earlier: a request that turns its owner's WRITE into a
 * READ. */
static void test_a_grant_that_downgrades_lets_earlier_ones_in(void **state)
{
    must(lock(client(1), WRITE, 0, 0));
    must(lock(client(2), WRITE, 1, 1));
    struct waiter *reader = wait_lock(client(3), READ, 0, 0);
    struct waiter *downgrade = wait_lock(client(1), READ, 0, 1);
    must(lock(client(2), NONE, 1, 1));
    must(ended(downgrade));
    must(ended(reader));
}

/* A grant can stand in the way of one that came earlier. */
static void test_a_grant_ends_earlier_ones_that_must_not_wait(void **state)
{
    must(lock(daemon_(1), READ, 0, 0));
    must(lock(daemon_(1), WRITE, 1, 1));
    struct waiter *writer = setlk(client(1), WRITE, 0, 0), *reader = setlk(client(2), READ, 0, 1);
    must(lock(daemon_(1), NONE, 1, 1));
    must(ended(reader));
    must_fail(ended(writer), EAGAIN);
}

static void test_a_grant_may_ask_again_from_its_callback(void **state)
{
    must(lock(client(1), WRITE, 0, 0));
    struct waiter *w = wait_lock(client(2), WRITE, 0, 0);
    w->then = request(client(2), WRITE, 50, 59); /* done() is called with no lock held */
    must(lock(client(1), NONE, 0, 0));
    must(ended(w));
    must_fail(lock(client(1), READ, 55, 55), EAGAIN);
}

/* --- deadlocks --- */

static void test_deadlock_of_two(void **state)
{
    must(lock(client(1), WRITE, 1, 1));
    must(lock(client(2), WRITE, 2, 2));
    struct waiter *w = wait_lock(client(1), WRITE, 2, 2);
    struct bh_lock_request r = request(client(2), WRITE, 1, 1);
    r.wait = true;
    must_fail(bh_locks_request(table, &r), EDEADLK);
    parked(w);
    bh_locks_drop_owner(table, &db, client(2));
    must(ended(w));
}

static void test_deadlock_of_three(void **state)
{
    for (unsigned i = 1; i <= 3; i++)
        must(lock(client(i), WRITE, i, i));
    wait_lock(client(1), WRITE, 2, 2);
    struct waiter *w = wait_lock(client(2), READ, 3, 3);
    struct bh_lock_request r = request(client(3), READ, 1, 1);
    r.wait = true;
    must_fail(bh_locks_request(table, &r), EDEADLK);
    bh_locks_cancel(table, &w->r); /* the ring is open now */
    must_fail(ended(w), EINTR);
    struct waiter *last = wait_lock(client(3), READ, 1, 1);
    parked(last);
    bh_locks_cancel_all(table, EINTR);
}

static void test_no_deadlock_where_a_reader_shares(void **state)
{
    must(lock(client(1), READ, 1, 1));
    must(lock(client(2), WRITE, 2, 2));
    struct waiter *w = wait_lock(client(1), READ, 2, 2);
    must(lock(client(2), READ, 1, 1)); /* no conflict with a READ */
    parked(w);
    bh_locks_cancel_all(table, EINTR);
}

static void test_deadlock_over_two_files(void **state)
{
    must(lock(client(1), WRITE, 0, 0));
    struct bh_lock_request r = request(client(2), WRITE, 0, 0);
    r.set = &side;
    must(bh_locks_request(table, &r));
    struct waiter *w = new_waiter(client(1), WRITE, 0, 0);
    w->r.set = &side;
    w->r.wait = true;
    must_fail(bh_locks_request(table, &w->r), EINPROGRESS);
    r = request(client(2), WRITE, 0, 0);
    r.wait = true;
    must_fail(bh_locks_request(table, &r), EDEADLK);
    bh_locks_cancel_all(table, EINTR);
}

/* --- cancel --- */

static void test_cancel_ends_a_wait_for_clients(void **state)
{
    must(lock(client(1), WRITE, 0, 0));
    struct waiter *w = wait_lock(client(2), WRITE, 0, 0);
    bh_locks_cancel(table, &w->r);
    must_fail(ended(w), EINTR);
    bh_locks_cancel(table, &w->r); /* not parked any more: no effect */
    assert_int_equal(w->calls, 1);
    must(lock(client(1), NONE, 0, 0));
    must(lock(client(3), WRITE, 0, 0));
}

static void test_cancel_leaves_a_wait_for_the_daemon(void **state)
{
    must(lock(daemon_(1), WRITE, 0, 0));
    struct waiter *now = setlk(client(1), WRITE, 0, 0), *later = wait_lock(client(2), WRITE, 0, 0);
    bh_locks_cancel(table, &now->r);
    bh_locks_cancel(table, &later->r);
    parked(now);
    parked(later);
    must(lock(daemon_(1), NONE, 0, 0));
    must(ended(now));
    parked(later); /* for client 1 now: may be cancelled */
    bh_locks_cancel(table, &later->r);
    must_fail(ended(later), EINTR);
}

static void test_cancel_all(void **state)
{
    must(lock(client(1), WRITE, 0, 0));
    must(lock(daemon_(1), WRITE, 1, 1));
    struct waiter *a = wait_lock(client(2), WRITE, 0, 0), *b = setlk(client(3), READ, 1, 1);
    bh_locks_cancel_all(table, ENODEV);
    must_fail(ended(a), ENODEV);
    must_fail(ended(b), ENODEV);
}

/* --- drop, transfer, summary --- */

static void test_drop_owner_takes_its_locks_and_its_requests(void **state)
{
    must(lock(client(1), WRITE, 0, 9));
    must(lock(client(2), WRITE, 20, 29));
    struct waiter *own = wait_lock(client(1), READ, 20, 20),
                  *other = wait_lock(client(3), READ, 5, 5);
    bh_locks_drop_owner(table, &db, client(1));
    must_fail(ended(own), EINTR);
    must(ended(other));
    must_fail(lock(client(1), READ, 25, 25), EAGAIN);
}

static void test_drop_handle_spares_other_handles_and_the_daemon(void **state)
{
    struct bh_lock_request r = request(client(1), WRITE, 0, 9);
    r.handle = 77;
    must(bh_locks_request(table, &r));
    must(lock(client(1), READ, 100, 109)); /* the same owner by another handle */
    must(lock(daemon_(1), READ, 200, 209));
    bh_locks_drop_handle(table, &db, 77);
    must(lock(client(2), WRITE, 0, 9));
    must_fail(lock(client(2), WRITE, 100, 100), EAGAIN);
    bh_locks_drop_handle(table, &db, 0); /* what internal owners have for a handle */
    must_fail(lock(daemon_(2), WRITE, 200, 200), EAGAIN);
}

static void test_drop_clients_leaves_the_daemon(void **state)
{
    must(lock(client(1), READ, 0, 9));
    must(lock(daemon_(1), READ, 0, 9));
    must(lock(client(2), READ, 0, 9));
    bh_locks_drop_clients(table, &db);
    assert_int_equal(db.count, 1);
    must_fail(lock(daemon_(2), WRITE, 0, 0), EAGAIN);
    must(lock(daemon_(1), WRITE, 0, 9));
}

static void test_transfer_keeps_others_out(void **state)
{
    must(lock(client(1), WRITE, BH_PENDING_BYTE, BH_SHARED_FIRST + BH_SHARED_SIZE - 1));
    bh_locks_transfer(table, &db, client(1), daemon_(9));
    assert_false(bh_locks_summary(table, &db).client_exclusive);
    bh_locks_drop_owner(table, &db, client(1)); /* nothing left of it */
    struct waiter *w = setlk(client(2), READ, BH_SHARED_FIRST, BH_SHARED_FIRST);
    parked(w);
    bh_locks_drop_owner(table, &db, daemon_(9));
    must(ended(w));
}

static void test_summary_reads_sqlites_locks(void **state)
{
    struct bh_lock_summary s = bh_locks_summary(table, &db);
    assert_int_equal(s.clients, 0);
    assert_int_equal(s.pid, 0);
    must(lock(client(1), READ, BH_SHARED_FIRST, BH_SHARED_FIRST + BH_SHARED_SIZE - 1));
    must(lock(client(1), WRITE, BH_RESERVED_BYTE, BH_RESERVED_BYTE));
    must(lock(daemon_(1), READ, BH_SHARED_FIRST, BH_SHARED_FIRST + BH_SHARED_SIZE - 1));
    s = bh_locks_summary(table, &db);
    assert_int_equal(s.clients, 1);
    assert_false(s.client_writer); /* RESERVED writes nothing yet */
    assert_int_equal(s.pid, 1001);
    must(lock(client(2), READ, 5, 5));
    must(lock(client(1), WRITE, BH_PENDING_BYTE, BH_PENDING_BYTE));
    s = bh_locks_summary(table, &db);
    assert_int_equal(s.clients, 2);
    assert_true(s.client_writer);
    assert_false(s.client_exclusive);
    assert_int_equal(s.pid, 1001); /* the writer's, not the last one's */
    bh_locks_drop_owner(table, &db, daemon_(1));
    must(lock(client(1), WRITE, BH_SHARED_FIRST, BH_SHARED_FIRST + BH_SHARED_SIZE - 1));
    s = bh_locks_summary(table, &db);
    assert_true(s.client_exclusive);
    assert_true(bh_owner_equal(s.exclusive_owner, client(1)));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, locks_setup, locks_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_unlock_in_the_middle_splits),
        TEST(test_neighbours_of_one_kind_merge),
        TEST(test_upgrade_needs_that_nobody_else_reads),
        TEST(test_downgrade_lets_readers_in),
        TEST(test_to_the_end_of_any_file),
        TEST(test_files_are_apart),
        TEST(test_getlk_names_a_conflict),
        TEST(test_random_requests_are_as_in_the_model),
        TEST(test_a_conflict_with_the_daemon_parks),
        TEST(test_the_daemon_is_never_parked),
        TEST(test_a_client_in_the_way_refuses_at_once),
        TEST(test_a_parked_request_ends_when_a_client_gets_in_its_way),
        TEST(test_setlkw_waits_for_clients),
        TEST(test_grants_come_in_order),
        TEST(test_a_grant_that_downgrades_lets_earlier_ones_in),
        TEST(test_a_grant_ends_earlier_ones_that_must_not_wait),
        TEST(test_a_grant_may_ask_again_from_its_callback),
        TEST(test_deadlock_of_two),
        TEST(test_deadlock_of_three),
        TEST(test_no_deadlock_where_a_reader_shares),
        TEST(test_deadlock_over_two_files),
        TEST(test_cancel_ends_a_wait_for_clients),
        TEST(test_cancel_leaves_a_wait_for_the_daemon),
        TEST(test_cancel_all),
        TEST(test_drop_owner_takes_its_locks_and_its_requests),
        TEST(test_drop_handle_spares_other_handles_and_the_daemon),
        TEST(test_drop_clients_leaves_the_daemon),
        TEST(test_transfer_keeps_others_out),
        TEST(test_summary_reads_sqlites_locks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
