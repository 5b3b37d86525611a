/* The lock table's rules for the locks of -shm, and the gate in write-ahead mode. */
#include "live_locks.h"

static int wal_setup(void **state)
{
    if (locks_setup(state))
        return -1;
    bh_locks_set_wal(table, &side);
    return 0;
}

/* On -shm, by the numbers of SQLite's bytes. */
static struct bh_lock_request on_shm(struct bh_owner o, unsigned type, uint64_t first, uint64_t end)
{
    struct bh_lock_request r = request(o, type, first, end);
    r.set = &side;
    r.brief = false;
    return r;
}

static int shm_lock(struct bh_owner o, unsigned type, uint64_t byte)
{
    struct bh_lock_request r = on_shm(o, type, byte, byte);
    int rc = bh_locks_request(table, &r);
    assert_int_not_equal(rc, EINPROGRESS);
    return rc;
}

static int shm_brief(struct bh_owner o, unsigned type, uint64_t first, uint64_t end)
{
    struct bh_lock_request r = on_shm(o, type, first, end);
    r.brief = true;
    return bh_locks_request(table, &r);
}

static struct waiter *shm_parks(struct bh_owner o, unsigned type, uint64_t byte)
{
    struct waiter *w = new_waiter(o, type, byte, byte);
    w->r.set = &side;
    must_fail(bh_locks_request(table, &w->r), EINPROGRESS);
    return w;
}

static void shm_drop(struct bh_owner o)
{
    bh_locks_drop_owner(table, &side, o);
}

/* --- DMS --- */

static void test_the_daemon_and_clients_do_not_meet_on_dms(void **state)
{
    must(shm_lock(daemon_(1), READ, BH_WAL_DMS));
    must(shm_lock(client(1), WRITE, BH_WAL_DMS));
    must(shm_lock(daemon_(2), READ, BH_WAL_DMS));
    must_fail(shm_lock(client(2), READ, BH_WAL_DMS), EAGAIN); /* clients do */
    must(shm_lock(client(1), READ, BH_WAL_DMS));
    must(shm_lock(client(2), READ, BH_WAL_DMS));
    must_fail(shm_lock(client(1), WRITE, BH_WAL_DMS), EAGAIN);
    must(shm_lock(daemon_(3), READ, BH_WAL_DMS));
}

/* A client that comes asks first, and does not begin a file anew that is in use. */
static void test_getlk_shows_the_daemons_dms(void **state)
{
    struct bh_lock held;
    must(shm_lock(daemon_(1), READ, BH_WAL_DMS));
    struct bh_lock_request r = on_shm(client(1), WRITE, BH_WAL_DMS, BH_WAL_DMS);
    assert_true(bh_locks_test(table, &r, &held));
    assert_true(held.owner.internal);
    assert_false(held.write);
}

static void test_on_another_file_the_byte_is_nothing_special(void **state)
{
    must(lock(daemon_(1), WRITE, BH_WAL_DMS, BH_WAL_DMS));
    parked(setlk(client(1), READ, BH_WAL_DMS, BH_WAL_DMS));
}

static void test_attached_are_the_clients_with_dms(void **state)
{
    must(shm_lock(daemon_(1), READ, BH_WAL_DMS));
    assert_int_equal(bh_locks_attached(table, &side), 0);
    must(shm_lock(client(1), READ, BH_WAL_DMS));
    must(shm_lock(client(2), READ, BH_WAL_DMS));
    must(shm_lock(client(2), READ, BH_WAL_READ));
    assert_int_equal(bh_locks_attached(table, &side), 2);
    assert_int_equal(bh_locks_wal_summary(table).attached, 2);
    bh_locks_set_wal(table, NULL); /* it lost its name */
    assert_int_equal(bh_locks_attached(table, &side), 2);
    assert_int_equal(bh_locks_wal_summary(table).attached, 0);
    shm_drop(client(1));
    assert_int_equal(bh_locks_attached(table, &side), 1);
}

/* --- readers --- */

static void test_a_slot_that_a_reader_of_the_daemon_has_is_refused(void **state)
{
    for (uint64_t slot = BH_WAL_READ; slot <= BH_WAL_LAST; slot++) {
        must(shm_lock(daemon_(1), READ, slot));
        must_fail(shm_lock(client(1), WRITE, slot), EAGAIN);
        must(shm_lock(client(1), READ, slot));
        shm_drop(client(1));
        shm_drop(daemon_(1));
    }
    struct bh_lock_request all = on_shm(client(1), WRITE, BH_WAL_READ + 1, BH_WAL_LAST);
    must(shm_lock(daemon_(1), READ, BH_WAL_READ + 2));
    must_fail(bh_locks_request(table, &all), EAGAIN); /* to restart the log */
}

static void test_for_a_brief_reader_it_waits(void **state)
{
    must(shm_brief(daemon_(1), READ, BH_WAL_READ + 1, BH_WAL_READ + 1));
    struct waiter *w = shm_parks(client(1), WRITE, BH_WAL_READ + 1);
    shm_drop(daemon_(1));
    must(ended(w));
}

static void test_for_who_writes_in_the_daemon_it_waits(void **state)
{
    must(shm_lock(daemon_(1), WRITE, BH_WAL_READ + 1)); /* only ever for a moment */
    struct waiter *w = shm_parks(client(1), READ, BH_WAL_READ + 1);
    must(shm_lock(daemon_(1), WRITE, BH_WAL_WRITE));
    struct waiter *v = shm_parks(client(2), WRITE, BH_WAL_WRITE);
    shm_drop(daemon_(1));
    must(ended(w));
    must(ended(v));
}

static void test_the_daemon_itself_is_refused_never_parked(void **state)
{
    must(shm_lock(client(1), WRITE, BH_WAL_WRITE));
    must_fail(shm_lock(daemon_(1), WRITE, BH_WAL_WRITE), EAGAIN);
    must(shm_lock(daemon_(2), READ, BH_WAL_READ));
    must_fail(shm_lock(daemon_(1), WRITE, BH_WAL_READ), EAGAIN);
}

/* --- the gate --- */

static void test_the_gate_parks_a_clients_first_lock(void **state)
{
    bh_gate_close(table);
    for (uint64_t byte = BH_WAL_FIRST; byte <= BH_WAL_LAST; byte++) {
        struct bh_owner o = client(byte);
        shm_parks(o, byte % 2 ? READ : WRITE, byte);
    }
    assert_int_equal(side.count, 0);
    assert_int_equal(bh_gate_open(table), 8);
    for (unsigned i = 0; i < waiter_count; i++)
        must(ended(&waiters[i]));
}

static void test_whoever_is_attached_only_is_outside(void **state)
{
    must(shm_lock(client(1), READ, BH_WAL_DMS));
    bh_gate_close(table);
    must(shm_lock(client(2), READ, BH_WAL_DMS)); /* passes */
    parked(shm_parks(client(1), READ, BH_WAL_READ + 1));
    must(shm_lock(client(2), NONE, BH_WAL_DMS));
}

static void test_who_reads_may_write(void **state)
{
    must(shm_lock(client(1), READ, BH_WAL_READ + 1));
    bh_gate_close(table);
    must(shm_lock(client(1), WRITE, BH_WAL_WRITE));
    must(shm_lock(client(1), NONE, BH_WAL_WRITE));
    must(shm_lock(client(1), NONE, BH_WAL_READ + 1));
    parked(shm_parks(client(1), READ, BH_WAL_READ + 1));
}

static void test_the_database_is_gated_for_those_outside_of_it_too(void **state)
{
    must(lock(client(1), READ, BH_SHARED_FIRST, BH_SHARED_FIRST)); /* as all in this mode have it */
    bh_gate_close(table);
    parked(shm_parks(client(1), READ, BH_WAL_READ));
    parked(setlk(client(2), READ, BH_SHARED_FIRST, BH_SHARED_FIRST));
    must(shm_lock(daemon_(1), WRITE, BH_WAL_WRITE));
}

static void test_without_shm_no_other_file_is_gated(void **state)
{
    bh_locks_set_wal(table, NULL);
    bh_gate_close(table);
    must(shm_lock(client(1), READ, BH_WAL_READ));
}

static void test_opening_refuses_what_another_client_has(void **state)
{
    must(shm_lock(client(1), WRITE, BH_WAL_WRITE));
    bh_gate_close(table);
    struct waiter *w = shm_parks(client(2), WRITE, BH_WAL_WRITE);
    bh_gate_open(table);
    must_fail(ended(w), EAGAIN);
}

/* --- the summary --- */

static void test_summary_names_what_clients_do(void **state)
{
    static const struct {
        uint64_t byte;
        unsigned type;
        bool writing, writer, ckpt;
        unsigned readers;
    } rows[] = {
        {BH_WAL_WRITE, WRITE, true, true, false, 0},    {BH_WAL_CKPT, WRITE, true, true, true, 0},
        {BH_WAL_RECOVER, WRITE, true, false, false, 0}, {BH_WAL_READ, READ, false, false, false, 1},
        {BH_WAL_LAST, READ, false, false, false, 1},    {BH_WAL_DMS, READ, false, false, false, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        must(shm_lock(daemon_(9), rows[i].type, rows[i].byte)); /* does not count */
        struct bh_wal_summary s = bh_locks_wal_summary(table);
        assert_int_equal(s.writing + s.client_writer + s.client_ckpt + s.readers + s.attached, 0);
        assert_int_equal(s.pid, 0);
        shm_drop(daemon_(9));
        must(shm_lock(client(3), rows[i].type, rows[i].byte));
        s = bh_locks_wal_summary(table);
        assert_int_equal(s.writing, rows[i].writing);
        assert_int_equal(s.client_writer, rows[i].writer);
        assert_int_equal(s.client_ckpt, rows[i].ckpt);
        assert_int_equal(s.readers, rows[i].readers);
        assert_int_equal(s.pid, rows[i].byte == BH_WAL_DMS ? 0 : 1003);
        shm_drop(client(3));
    }
}

static void test_summary_names_the_writer_rather_than_a_reader(void **state)
{
    for (int order = 0; order < 2; order++) {
        for (int i = 0; i < 2; i++)
            if (i == order)
                must(shm_lock(client(1), READ, BH_WAL_READ + 1));
            else
                must(shm_lock(client(2), WRITE, BH_WAL_WRITE));
        must(shm_lock(client(3), READ, BH_WAL_READ + 2));
        struct bh_wal_summary s = bh_locks_wal_summary(table);
        assert_int_equal(s.pid, 1002);
        assert_int_equal(s.readers, 2);
        assert_in_range(bh_mono_ms() - s.youngest_ms, 0, 1000);
        for (unsigned o = 1; o < 4; o++)
            shm_drop(client(o));
    }
}

/* SQLite's exclusive lock on several at once is one range. */
static void test_summary_sees_through_ranges(void **state)
{
    struct bh_lock_request r = on_shm(client(1), WRITE, BH_WAL_CKPT, BH_WAL_RECOVER);
    must(bh_locks_request(table, &r));
    assert_true(bh_locks_wal_summary(table).client_ckpt);
    shm_drop(client(1));
    r = on_shm(client(1), READ, BH_WAL_FIRST, BH_WAL_DMS);
    must(bh_locks_request(table, &r));
    struct bh_wal_summary s = bh_locks_wal_summary(table);
    assert_false(s.writing);
    assert_int_equal(s.readers, 1);
    assert_int_equal(s.attached, 1);
}

/* --- draining --- */

static bool drains(enum bh_gate_need need)
{
    bh_gate_close(table);
    bool met = bh_gate_drain(table, need, 1);
    bh_gate_open(table);
    return met;
}

static void test_drain_waits_for_those_who_write(void **state)
{
    assert_true(drains(BH_GATE_WAL_WRITE) && drains(BH_GATE_WAL_ALONE));
    for (uint64_t byte = BH_WAL_WRITE; byte <= BH_WAL_RECOVER; byte++) {
        must(shm_lock(client(1), WRITE, byte));
        assert_false(drains(BH_GATE_WAL_WRITE) || drains(BH_GATE_WAL_ALONE));
        shm_drop(client(1));
    }
    must(shm_lock(client(1), READ, BH_WAL_DMS));
    must(lock(client(1), READ, BH_SHARED_FIRST, BH_SHARED_FIRST + BH_SHARED_SIZE - 1));
    assert_true(drains(BH_GATE_WAL_WRITE) && drains(BH_GATE_WAL_ALONE));
    must(lock(client(1), WRITE, BH_PENDING_BYTE, BH_PENDING_BYTE)); /* it changes the mode */
    assert_false(drains(BH_GATE_WAL_WRITE) || drains(BH_GATE_WAL_ALONE));
}

static void test_drain_waits_for_young_readers(void **state)
{
    must(shm_lock(client(1), READ, BH_WAL_READ + 1));
    assert_false(drains(BH_GATE_WAL_WRITE) || drains(BH_GATE_WAL_ALONE));
    usleep((BH_OLD_READER_MS + 20) * 1000);
    assert_true(drains(BH_GATE_WAL_WRITE));
    assert_false(drains(BH_GATE_WAL_ALONE));
    must(shm_lock(client(2), READ, BH_WAL_READ + 2)); /* a young one beside it */
    assert_false(drains(BH_GATE_WAL_WRITE));
    shm_drop(client(2));
    assert_true(drains(BH_GATE_WAL_WRITE));
    shm_drop(client(1));
    assert_true(drains(BH_GATE_WAL_ALONE));
}

static void *leave_soon(void *arg)
{
    usleep(20000);
    shm_drop(client(1));
    return arg;
}

static void test_drain_sees_a_reader_leave(void **state)
{
    pthread_t thread;
    must(shm_lock(client(1), READ, BH_WAL_READ + 1));
    bh_gate_close(table);
    must(pthread_create(&thread, NULL, leave_soon, NULL));
    int64_t begin = bh_mono_ms();
    assert_true(bh_gate_drain(table, BH_GATE_WAL_ALONE, 10000));
    assert_in_range(bh_mono_ms() - begin, 0, 5000);
    must(pthread_join(thread, NULL));
}

/* Nobody wakes the one who waits when a reader becomes old. */
static void test_drain_sees_a_reader_get_old(void **state)
{
    must(shm_lock(client(1), READ, BH_WAL_READ + 1));
    bh_gate_close(table);
    assert_true(bh_gate_drain(table, BH_GATE_WAL_WRITE, BH_OLD_READER_MS + 50));
}

/* --- writers that are refused --- */

static void test_refused_writers_get_eio_until_there_is_another_shm(void **state)
{
    must(shm_lock(client(1), READ, BH_WAL_READ + 1));
    must(shm_brief(daemon_(1), WRITE, BH_WAL_WRITE, BH_WAL_WRITE));
    struct waiter *w = shm_parks(client(1), WRITE, BH_WAL_WRITE);
    bh_locks_refuse_wal_writers(table, true);
    must_fail(ended(w), EIO);
    shm_drop(daemon_(1));
    must_fail(shm_lock(client(1), WRITE, BH_WAL_WRITE), EIO);
    struct bh_lock_request both = on_shm(client(1), WRITE, BH_WAL_WRITE, BH_WAL_RECOVER);
    must_fail(bh_locks_request(table, &both), EIO);
    must(shm_lock(client(2), READ, BH_WAL_READ + 2)); /* they read */
    must(shm_lock(client(2), WRITE, BH_WAL_READ + 3));
    must(shm_lock(client(2), WRITE, BH_WAL_CKPT));
    must(shm_lock(client(1), NONE, BH_WAL_WRITE));
    must(shm_lock(daemon_(1), WRITE, BH_WAL_WRITE));          /* it knows */
    must(lock(client(1), WRITE, BH_WAL_WRITE, BH_WAL_WRITE)); /* of another file */
    shm_drop(daemon_(1));
    bh_locks_set_wal(table, &side);
    must(shm_lock(client(1), WRITE, BH_WAL_WRITE));
}

static void test_a_writer_that_is_inside_stays(void **state)
{
    must(shm_lock(client(1), WRITE, BH_WAL_WRITE));
    bh_locks_refuse_wal_writers(table, true);
    assert_true(bh_locks_wal_summary(table).client_writer);
    must(shm_lock(client(1), NONE, BH_WAL_WRITE));
    must_fail(shm_lock(client(1), WRITE, BH_WAL_WRITE), EIO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, wal_setup, locks_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_daemon_and_clients_do_not_meet_on_dms),
        TEST(test_getlk_shows_the_daemons_dms),
        TEST(test_on_another_file_the_byte_is_nothing_special),
        TEST(test_attached_are_the_clients_with_dms),
        TEST(test_a_slot_that_a_reader_of_the_daemon_has_is_refused),
        TEST(test_for_a_brief_reader_it_waits),
        TEST(test_for_who_writes_in_the_daemon_it_waits),
        TEST(test_the_daemon_itself_is_refused_never_parked),
        TEST(test_the_gate_parks_a_clients_first_lock),
        TEST(test_whoever_is_attached_only_is_outside),
        TEST(test_who_reads_may_write),
        TEST(test_the_database_is_gated_for_those_outside_of_it_too),
        TEST(test_without_shm_no_other_file_is_gated),
        TEST(test_opening_refuses_what_another_client_has),
        TEST(test_summary_names_what_clients_do),
        TEST(test_summary_names_the_writer_rather_than_a_reader),
        TEST(test_summary_sees_through_ranges),
        TEST(test_drain_waits_for_those_who_write),
        TEST(test_drain_waits_for_young_readers),
        TEST(test_drain_sees_a_reader_leave),
        TEST(test_drain_sees_a_reader_get_old),
        TEST(test_refused_writers_get_eio_until_there_is_another_shm),
        TEST(test_a_writer_that_is_inside_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
