/* struct bh: start, stop, flushes with debounce and callbacks, the loop, connections, import. */
#include "live_db.h"

#include "buckethead.h"
#include "internal.h"

#define KEY "bucketsqlite/snap.db"

static struct bh *b;

/* With settings over the usual ones. */
static void create(const char *const *settings)
{
    must(bh_create(&b, configured(settings), ERR));
}

static void start_with(const char *const *settings)
{
    create(settings);
    must(bh_start(b, ERR));
}

static int start_teardown(void **state)
{
    bh_destroy(b);
    b = NULL;
    return db_teardown(state);
}

static void insert(int n)
{
    char text[160];
    sqlite3 *c;
    must(bh_connect(b, &c, ERR));
    snprintf(text, sizeof text,
             "CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY); INSERT INTO t VALUES(%d)", n);
    must_sql(c, text);
    sqlite3_close(c);
}

static int64_t live_has(void)
{
    sqlite3 *c;
    must(bh_connect(b, &c, ERR));
    int64_t n = number(c, "SELECT max(n) FROM t");
    sqlite3_close(c);
    return n;
}

/* The largest number in the uploaded snapshot; 0 if there is none. */
static int64_t object_has(void)
{
    if (!is_there("bucket/" KEY))
        return 0;
    copy_file("bucket/" KEY, "object.db");
    sqlite3 *c = stock("object.db");
    int64_t n = number(c, "SELECT max(n) FROM t");
    sqlite3_close(c);
    return n;
}

/* bucket.fault= a file with rules, which may change. */
static const char *rules_option(void)
{
    static char option[120];
    snprintf(option, sizeof option, "bucket.fault=@%s/rules", scratch);
    return option;
}

static void rules_are(const char *rules)
{
    unlink(at("rules"));
    put_file("rules", rules, strlen(rules));
}

/* --- life --- */

static void test_start_and_stop_twice(void **state)
{
    create(NULL);
    for (int i = 1; i <= 3; i++) {
        must(bh_start(b, ERR));
        must_fail(bh_start(b, ERR), EALREADY);
        if (i > 1)
            assert_int_equal(live_has(), i - 1);
        insert(i);
        must(bh_stop(b, ERR));
        assert_int_equal(object_has(), i);
        must(bh_stop(b, ERR)); /* idempotent */
    }
}

static void test_what_is_not_started_is_refused(void **state)
{
    sqlite3 *c = (sqlite3 *)1;
    create(NULL);
    must_fail(bh_connect(b, &c, ERR), EINVAL);
    assert_null(c);
    must_fail(bh_flush(b, ERR), EINVAL);
    must_fail(bh_force_flush(b, NULL), EINVAL); /* no error wanted */
    must_fail(bh_import(b, "/x", ERR), EINVAL);
    assert_null(bh_connection(b));
    must(bh_stop(b, ERR));
    must(bh_start(b, ERR));
    must(bh_stop(b, ERR));
    must_fail(bh_connect(b, &c, ERR), EINVAL);
    must_fail(bh_force_flush(b, ERR), EINVAL);
}

static void test_a_start_that_fails_can_be_repeated(void **state)
{
    create(NULL);
    assert_int_equal(rename(at("bucket"), at("away")), 0);
    assert_int_not_equal(bh_start(b, ERR), 0);
    must_say("bucket");
    assert_int_equal(rename(at("away"), at("bucket")), 0);
    must(bh_start(b, ERR));
    insert(1);
    must(bh_stop(b, ERR));
}

static void test_two_on_one_state_directory(void **state)
{
    struct bh *other;
    start_with(NULL);
    must(bh_create(&other, configured(NULL), ERR));
    must_fail(bh_start(other, ERR), EBUSY);
    bh_destroy(other);
}

static void test_destroy_flushes(void **state)
{
    start_with(NULL);
    insert(7);
    bh_destroy(b);
    b = NULL;
    assert_int_equal(object_has(), 7);
}

static void test_stop_waits_for_no_connection_but_says_so(void **state)
{
    sqlite3 *c, *d;
    start_with(NULL);
    must(bh_connect(b, &c, ERR));
    must(bh_connect(b, &d, ERR));
    must_fail(bh_stop(b, ERR), EBUSY);
    must_say("2 connection(s)");
    must_sql(c, "CREATE TABLE t(n); INSERT INTO t VALUES(5)"); /* it goes on working */
    sqlite3_close(c);
    must_fail(bh_stop(b, ERR), EBUSY);
    must(bh_force_flush(b, ERR));
    sqlite3_close(d);
    must(bh_stop(b, ERR));
    assert_int_equal(object_has(), 5);
}

static void test_a_failing_last_flush_keeps_the_changes(void **state)
{
    rules_are("put:eio");
    start_with((const char *[]){rules_option(), "snapshot.stop_timeout=1200ms", NULL});
    insert(3);
    int64_t begin = bh_mono_ms();
    assert_int_not_equal(bh_stop(b, ERR), 0);
    assert_in_range(bh_mono_ms() - begin, 0, 6000);
    assert_int_equal(object_has(), 0);
    must(bh_stop(b, ERR)); /* it is stopped all the same */
    rules_are("");
    must(bh_start(b, ERR));
    struct bh_info info;
    bh_get_info(b, &info);
    assert_non_null(strstr(info.recovered, "unflushed changes"));
    assert_int_equal(live_has(), 3);
    must(bh_stop(b, ERR));
    assert_int_equal(object_has(), 3);
}

static void test_the_last_flush_is_tried_until_it_works(void **state)
{
    rules_are("put:eio:first=2");
    start_with((const char *[]){rules_option(), "snapshot.stop_timeout=30s", NULL});
    insert(3);
    must(bh_stop(b, ERR));
    assert_int_equal(object_has(), 3);
}

static void test_read_only_writes_nothing(void **state)
{
    start_with(NULL);
    insert(1);
    must(bh_stop(b, ERR));
    bh_set_read_only(b);
    must(bh_start(b, ERR));
    must_fail(bh_force_flush(b, ERR), EROFS);
    must_fail(bh_import(b, "/x", ERR), EROFS);
    assert_int_equal(live_has(), 1);
    must(bh_stop(b, ERR));
}

/* --- flushing --- */

static void test_force_flush_flushes_now(void **state)
{
    struct bh_flush_result r;
    start_with((const char *[]){"snapshot.min_interval=1h", NULL});
    for (int i = 1; i < 4; i++) {
        insert(i);
        must(bh_flush_call(b, true, &r, NULL, ERR));
        assert_int_equal(r.outcome, BH_FLUSH_UPLOADED);
        assert_int_equal(object_has(), i);
    }
}

static void test_flush_is_debounced_by_the_last_success(void **state)
{
    struct bh_flush_result r;
    rules_are("put:eacces");
    start_with((const char *[]){rules_option(), "snapshot.min_interval=1500ms", NULL});
    insert(1);
    must_fail(bh_flush(b, ERR), EACCES); /* a failure debounces nothing */
    rules_are("");
    must(bh_flush(b, ERR));
    assert_int_equal(object_has(), 1);
    insert(2);
    must(bh_flush_call(b, false, &r, NULL, ERR));
    assert_int_equal(r.outcome, BH_FLUSH_DEBOUNCED);
    assert_int_equal(object_has(), 1);
    usleep(1550000);
    must(bh_flush_call(b, false, &r, NULL, ERR));
    assert_int_equal(r.outcome, BH_FLUSH_UPLOADED);
    assert_int_equal(object_has(), 2);
    uint64_t counts[4];
    bh_flush_counts(b, counts);
    assert_int_equal(counts[BH_FLUSH_UPLOADED], 2);
    assert_int_equal(counts[BH_FLUSH_DEBOUNCED], 1);
    assert_int_equal(counts[3], 1);
}

static void test_the_loop_flushes(void **state)
{
    start_with((const char *[]){"snapshot.interval=50ms", NULL});
    for (int n = 1; n <= 2; n++) {
        insert(n);
        for (int i = 0; i < 200 && object_has() < n; i++)
            usleep(20000);
        assert_int_equal(object_has(), n);
    }
}

static void test_the_loop_goes_on_after_a_failure(void **state)
{
    rules_are("put:eacces");
    start_with((const char *[]){rules_option(), "snapshot.interval=50ms", NULL});
    insert(1);
    struct bh_info info = {0};
    for (int i = 0; i < 100 && !info.last_error[0]; i++) {
        usleep(20000);
        bh_get_info(b, &info);
    }
    assert_non_null(strstr(info.last_error, "ermission"));
    rules_are("");
    for (int i = 0; i < 200 && object_has() < 1; i++)
        usleep(20000);
    assert_int_equal(object_has(), 1);
    for (int i = 0; i < 100 && info.last_error[0]; i++) {
        usleep(10000);
        bh_get_info(b, &info);
    }
    assert_string_equal(info.last_error, "");
}

/* --- callbacks --- */

struct calls {
    char text[200];
    uint64_t bytes;
};

static void on_start(void *arg)
{
    strcat(((struct calls *)arg)->text, "start ");
}

static void on_complete(void *arg, double seconds, uint64_t bytes)
{
    strcat(((struct calls *)arg)->text, "complete ");
    ((struct calls *)arg)->bytes = bytes;
}

static void on_error(void *arg, const struct bh_error *err)
{
    strcat(((struct calls *)arg)->text, err->code == EACCES ? "error " : "? ");
}

static void test_callbacks(void **state)
{
    struct calls calls = {0};
    rules_are("");
    create((const char *[]){rules_option(), "snapshot.min_interval=1h", NULL});
    bh_set_callbacks(b, &(struct bh_callbacks){.arg = &calls,
                                               .on_flush_start = on_start,
                                               .on_flush_complete = on_complete,
                                               .on_flush_error = on_error});
    must(bh_start(b, ERR));
    insert(1);
    must(bh_force_flush(b, ERR));
    assert_string_equal(calls.text, "start complete ");
    assert_true(calls.bytes >= 4096);
    must(bh_force_flush(b, ERR));
    assert_int_equal(calls.bytes, 0);
    calls.text[0] = '\0';
    must(bh_flush(b, ERR)); /* debounced: nothing happens */
    assert_string_equal(calls.text, "");
    insert(2);
    rules_are("put:eacces");
    must_fail(bh_force_flush(b, ERR), EACCES);
    assert_string_equal(calls.text, "start error ");
    rules_are("");
    calls.text[0] = '\0';
    must(bh_stop(b, ERR));
    assert_string_equal(calls.text, "start complete ");
}

/* --- information, import, the connection that stays --- */

static void test_info(void **state)
{
    struct bh_info info;
    create(NULL);
    bh_get_info(b, &info);
    assert_false(info.started || info.stopped);
    must(bh_start(b, ERR));
    insert(1);
    bh_get_info(b, &info);
    assert_true(info.started && !info.stopped);
    assert_string_equal(info.branch, "main");
    assert_string_equal(info.snapshot, "");
    assert_true(info.dirty_bytes > 0 && info.live_bytes > 0);
    assert_int_equal(info.flush_index, 0);
    must(bh_force_flush(b, ERR));
    must(bh_force_flush(b, ERR)); /* nothing had changed */
    bh_get_info(b, &info);
    assert_int_equal(strlen(info.sha256), 64);
    assert_int_equal(info.dirty_bytes, 0);
    assert_int_equal(info.flush_index, 1);
    assert_in_range(bh_real_ms() - info.last_flush_ms, 0, 10000);
    must(bh_stop(b, ERR));
    bh_get_info(b, &info);
    assert_true(info.stopped);
}

static void test_the_connection_that_stays(void **state)
{
    start_with(NULL);
    must_sql(bh_connection(b), "CREATE TABLE t(n); INSERT INTO t VALUES(9)");
    assert_int_equal(live_has(), 9);
    must(bh_stop(b, ERR)); /* it is not in the way */
    assert_null(bh_connection(b));
}

static void test_import_replaces_the_content(void **state)
{
    start_with(NULL);
    insert(1);
    must(bh_force_flush(b, ERR));
    make_stock("other.db", "u", 50);
    must(bh_import(b, at("other.db"), ERR));
    assert_int_equal(number(bh_connection(b), "SELECT count(*) FROM u"), 50);
    assert_true(is_there("other.db"));
    must(bh_force_flush(b, ERR));
    copy_file("bucket/" KEY, "object.db");
    sqlite3 *c = stock("object.db");
    assert_int_equal(number(c, "SELECT count(*) FROM u"), 50);
    sqlite3_close(c);
}

static void test_import_refuses_what_is_no_database(void **state)
{
    start_with(NULL);
    insert(1);
    must_fail(bh_import(b, "relative.db", ERR), EINVAL);
    must_fail(bh_import(b, at("none.db"), ERR), ENOENT);
    put_file("text", "hello, this is no database, however long it may be", 50);
    must_fail(bh_import(b, at("text"), ERR), EINVAL);
    make_stock("bad.db", "t", 200);
    int fd = open(at("bad.db"), O_WRONLY | O_CLOEXEC);
    must(bh_pwrite_full(fd, "garbage!garbage!garbage!", 24, 4096 * 3));
    close(fd);
    must_fail(bh_import(b, at("bad.db"), ERR), EINVAL);
    assert_int_equal(live_has(), 1);
    assert_false(is_there("state/incoming.import"));
}

/* --- threads --- */

static atomic_bool enough;
static atomic_int wrong;

static void *flush_all_the_time(void *arg)
{
    struct bh_error err;
    while (!enough) {
        int rc = bh_force_flush(b, &err);
        if (rc && rc != EINVAL && rc != ECANCELED)
            wrong = rc;
        struct bh_info info;
        bh_get_info(b, &info);
    }
    return arg;
}

/* "Every function may be called from any thread": a flush beside a stop ends with success or "not
 * started". */
static int flush_beside_stop(void)
{
    pthread_t threads[3];
    if (bh_create(&b, cfg, ERR))
        return 1;
    cfg = NULL;
    for (int i = 0; i < 3; i++)
        child_check(pthread_create(&threads[i], NULL, flush_all_the_time, NULL) == 0);
    for (int i = 0; i < 40; i++) {
        child_check(bh_start(b, ERR) == 0);
        child_check(
            sql(bh_connection(b), "CREATE TABLE IF NOT EXISTS t(n); INSERT INTO t VALUES(1)") == 0);
        usleep(1000 * (unsigned)(i % 4));
        child_check(bh_stop(b, ERR) == 0);
    }
    enough = true;
    for (int i = 0; i < 3; i++)
        child_check(pthread_join(threads[i], NULL) == 0);
    child_check(wrong == 0);
    return 0;
}

static void test_flush_beside_stop(void **state)
{
    in_child(flush_beside_stop);
}

static void *flush_some(void *arg)
{
    struct bh_error err;
    for (int i = 0; i < 10; i++)
        if (bh_force_flush(b, &err))
            wrong = err.code;
    return arg;
}

static void *flush_once(void *arg)
{
    struct bh_error err;
    *(int *)arg = bh_force_flush(b, &err);
    return NULL;
}

/* A flush that hangs must not make a stop longer than snapshot.stop_timeout says; nothing is lost.
 */
static void test_a_hanging_flush_does_not_hold_a_stop_up(void **state)
{
    pthread_t thread;
    int rc = 0;
    rules_are("put:delay=3s");
    start_with((const char *[]){rules_option(), "snapshot.stop_timeout=500ms", NULL});
    insert(1);
    must(pthread_create(&thread, NULL, flush_once, &rc));
    usleep(200000);
    int64_t begin = bh_mono_ms();
    bh_stop(b, ERR); /* with or without success */
    int64_t took = bh_mono_ms() - begin;
    must(pthread_join(thread, NULL));
    if (took > 2000)
        fail_msg("the stop took %lld ms", (long long)took);
    rules_are("");
    must(bh_start(b, ERR));
    assert_int_equal(live_has(), 1);
    must(bh_stop(b, ERR));
    assert_int_equal(object_has(), 1);
}

/* What was committed before a force_flush is in the bucket when it returns, whoever flushes
 * besides. */
static void test_flushes_from_many_threads(void **state)
{
    pthread_t threads[3];
    wrong = 0;
    start_with(NULL);
    insert(1);
    for (int i = 0; i < 3; i++)
        must(pthread_create(&threads[i], NULL, flush_some, NULL));
    for (int n = 2; n < 12; n++) {
        insert(n);
        must(bh_force_flush(b, ERR));
        assert_true(object_has() >= n);
    }
    for (int i = 0; i < 3; i++)
        must(pthread_join(threads[i], NULL));
    must(wrong);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, start_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_start_and_stop_twice),
        TEST(test_what_is_not_started_is_refused),
        TEST(test_a_start_that_fails_can_be_repeated),
        TEST(test_two_on_one_state_directory),
        TEST(test_destroy_flushes),
        TEST(test_stop_waits_for_no_connection_but_says_so),
        TEST(test_a_failing_last_flush_keeps_the_changes),
        TEST(test_the_last_flush_is_tried_until_it_works),
        TEST(test_read_only_writes_nothing),
        TEST(test_force_flush_flushes_now),
        TEST(test_flush_is_debounced_by_the_last_success),
        TEST(test_the_loop_flushes),
        TEST(test_the_loop_goes_on_after_a_failure),
        TEST(test_callbacks),
        TEST(test_info),
        TEST(test_the_connection_that_stays),
        TEST(test_import_replaces_the_content),
        TEST(test_import_refuses_what_is_no_database),
        TEST(test_flush_beside_stop),
        TEST(test_a_hanging_flush_does_not_hold_a_stop_up),
        TEST(test_flushes_from_many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
