/* Heads in a bucket: races, lost answers, stores without conditional writes; and the rules of the
 * lease. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "head_fixture.h"

/* --- heads --- */

static void test_heads(void **state)
{
    struct bh_head h = head_of(WRITER1, 1), got;
    bool advisory = true;
    must_fail(get(&got), ENOENT);
    assert_string_equal(got.branch, "");
    assert_string_equal(etag, "");
    must(bh_head_put(b, P, &h, etag, NULL, &advisory, NULL, ERR));
    assert_false(advisory);
    char first[BH_ETAG_MAX];
    strcpy(first, etag);
    must(get(&got));
    assert_string_equal(got.lease.writer, WRITER1);
    assert_string_equal(etag, first);
    h.sequence = 2;
    must(put(&h));
    assert_string_not_equal(etag, first);
    must_be_there(&h);
    strcpy(h.branch, "a/b");
    must_fail(put(&h), EINVAL);
    must_fail(bh_head_get(b, P, "..", &got, etag, NULL, ERR), EINVAL);
    strcpy(h.branch, "main");
    h.newest.page_size = 3;
    must_fail(put(&h), EINVAL);
}

static void test_tombstones(void **state)
{
    struct bh_head h = head_of(WRITER1, 1), got;
    h.deleted = true;
    must(put(&h));
    must_fail(get(&got), ENOENT);
    must_say("deleted");
    assert_true(got.deleted);
    assert_string_not_equal(etag, "");
    h.deleted = false;
    h.sequence++;
    must(put(&h)); /* made again, over it */
    must(get(&got));
}

static void test_another_was_there(void **state)
{
    struct bh_head mine = head_of(WRITER1, 1), other = head_of(WRITER2, 1);
    char before[BH_ETAG_MAX];
    write_directly(b, &other);
    must_fail(put(&mine), ESTALE);
    must_say("host-of-2 (process 4711)");
    must_say(P "branches/main");
    must_say("20"); /* the time */
    assert_string_equal(now.lease.writer, WRITER2);
    assert_string_equal(etag, "");
    must(get(&other));
    strcpy(before, etag);
    other.sequence++;
    write_directly(b, &other);
    mine.sequence = 2;
    must_fail(put(&mine), ESTALE);
    assert_string_equal(etag, before);
    assert_int_equal(now.sequence, 2);
    must_be_there(&other);
    must(bh_bucket_delete(b, P "branches/main", NULL, ERR));
    must_fail(put(&mine), ESTALE);
    must_say("gone");
    assert_string_equal(now.branch, "");
    must_lack(b, P "branches/main");
}

static void test_damaged_heads(void **state)
{
    struct bh_head h = head_of(WRITER1, 1), got;
    must_put(b, P "branches/main", "nonsense\n");
    must_fail(get(&got), EIO);
    must_fail(put(&h), EIO);
    must_have(b, P "branches/main", "nonsense\n");
    strcpy(h.branch, "other");
    write_directly(b, &h); /* copied from another branch's */
    must_fail(get(&got), EIO);
    must_say("the line branch says other");
}

/* An EIO is what a get says of an object that was replaced meanwhile. */
static void test_a_cut_read_is_repeated(void **state)
{
    struct bh_head h = head_of(WRITER1, 1), got;
    must(put(&h));
    rules_are("get:cut:first=1;get:cut:after=2");
    must(get(&got));
    must_fail(get(&got), EIO);
}

static void test_cancel(void **state)
{
    atomic_bool cancel = true;
    const struct bh_call call = {.cancel = &cancel};
    struct bh_head h = head_of(WRITER1, 1);
    must_fail(bh_head_put(b, P, &h, etag, NULL, NULL, &call, ERR), ECANCELED);
    must_lack(b, P "branches/main");
}

/* --- answers that say neither yes nor no --- */

static void test_a_lost_answer_is_a_success(void **state)
{
    struct bh_head h = head_of(WRITER1, 1), got;
    be_odd(false);
    rules_are("put:done-but-failed");
    for (; h.sequence < 5; h.sequence++) {
        must(put(&h));
        assert_int_equal(odd.puts, h.sequence);
        char told[BH_ETAG_MAX];
        strcpy(told, etag);
        must(get(&got));
        assert_string_equal(told, etag);
        assert_int_equal(got.sequence, h.sequence);
    }
}

static void test_what_did_not_happen_is_repeated(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    rules_are("put:eio:first=2;put:etimedout:after=3:first=1;put:eagain:after=4:first=1");
    must(put(&h));
    h.sequence++;
    must(put(&h));
    must_be_there(&h);
}

static void test_a_failing_store_is_no_success(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    rules_are("put:eio");
    must_fail(put(&h), EIO);
    must_say("may or may not");
    assert_string_equal(etag, "");
    must_lack(b, P "branches/main");
}

static void test_a_refusal_is_final(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    rules_are("put:eacces:first=1");
    must_fail(put(&h), EACCES);
    must(put(&h));
}

/* "Nothing happened" must not be said after an attempt that may have happened. */
static void test_doubt_stays(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    rules_are("put:eio:first=1;put:eacces");
    must_fail(put(&h), EIO);
    must_say("may or may not");
}

/* Done, and nobody can look. The same call later finds it. */
static void test_doubt_is_resolved_by_the_same_call(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    be_odd(false);
    rules_are("put:done-but-failed:first=1;get:eacces:first=1");
    must_fail(put(&h), ETIMEDOUT);
    assert_string_equal(etag, "");
    must(put(&h));
    must_be_there(&h);
    h.sequence++;
    must(put(&h));
    assert_int_equal(odd.puts, 3);
}

static struct bh_head other;

static void other_writes(void)
{
    write_directly(odd.inner, &other);
}

static void test_another_in_the_last_moment(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    be_odd(false);
    must(put(&h));
    h.sequence = 2;
    other = head_of(WRITER2, 2);
    odd.before = other_writes;
    must_fail(put(&h), ESTALE);
    assert_string_equal(now.lease.writer, WRITER2);
    must_be_there(&other);
}

/* The answer was lost, and another one has built on what was written. */
static void test_another_on_top_of_a_lost_answer(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    be_odd(false);
    must(put(&h));
    h.sequence = 2;
    other = head_of(WRITER2, 3);
    odd.after = other_writes;
    must_fail(put(&h), ESTALE);
    must_say("not known");
    assert_int_equal(now.sequence, 3);
    must_be_there(&other);
}

static void test_a_copied_state_directory_is_another_writer(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    be_odd(false);
    must(put(&h));
    h.sequence = 2;
    other = h;
    strcpy(h.newest.id, ID1);
    strcpy(other.newest.id, ID2);
    odd.before = other_writes;
    must_fail(put(&h), ESTALE);
    assert_string_equal(now.newest.id, ID2);
    must_be_there(&other);
}

static void deliver_it(void)
{
    must(deliver());
}

static void test_a_late_arrival_is_ours(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    be_odd(false);
    for (; h.sequence < 3; h.sequence++) {
        odd.lose = 1;
        must(put(&h)); /* the second try */
        must_be_there(&h);
        assert_int_not_equal(deliver(), 0); /* the first arrives, and is refused */
        free(odd.held);
        odd.held = NULL;
    }
    odd.lose = 5;
    must_fail(put(&h), ETIMEDOUT);
    odd.before = deliver_it; /* it arrives just before it is done again */
    must(put(&h));
    must_be_there(&h);
}

/* --- no update is lost, none is done twice --- */

#define UPDATES 50
#define SLOTS   (RACERS * UPDATES * 2)

static atomic_int owners[SLOTS], doubts[SLOTS];

struct updater {
    pthread_t thread;
    unsigned number;
    int updates;
    char wrong[BH_ERROR_TEXT_MAX + 64];
};

static bool is_ambiguous(int rc)
{
    return rc == EIO || rc == EAGAIN || rc == ETIMEDOUT;
}

/* One read-modify-put. True: it is done, or nobody knows. */
static bool update(struct updater *u)
{
    struct bh_head h, other_head;
    struct bh_error err = {0};
    char tag[BH_ETAG_MAX], writer[33];
    int rc = bh_head_get(b, P, "main", &h, tag, NULL, &err);
    if (is_ambiguous(rc))
        return false;
    if (rc && rc != ENOENT) {
        snprintf(u->wrong, sizeof u->wrong, "get: %s", err.text);
        return true;
    }
    snprintf(writer, sizeof writer, "%032x", u->number + 1);
    strcpy(h.branch, "main");
    bh_lease_take(&h, writer, 1000, 1000);
    h.sequence++;
    h.newest.uploaded++;
    h.newest.changed += u->number;
    rc = bh_head_put(b, P, &h, tag, &other_head, NULL, NULL, &err);
    assert_true(h.sequence < SLOTS);
    if (rc == 0)
        atomic_fetch_add(&owners[h.sequence], 1);
    else if (is_ambiguous(rc) || (rc == ESTALE && other_head.sequence > h.sequence))
        atomic_fetch_add(&doubts[h.sequence], 1);
    else if (rc != ESTALE)
        snprintf(u->wrong, sizeof u->wrong, "put: %d, %s", rc, err.text);
    return rc != ESTALE;
}

static void *run_updates(void *arg)
{
    struct updater *u = arg;
    for (int i = 0; i < u->updates && !u->wrong[0];)
        i += update(u);
    return NULL;
}

static void race_to_update(int updates, bool certain)
{
    struct updater all[RACERS];
    struct bh_head h;
    uint64_t successes = 0;
    memset(owners, 0, sizeof owners);
    memset(doubts, 0, sizeof doubts);
    for (unsigned i = 0; i < RACERS; i++) {
        all[i] = (struct updater){.number = i, .updates = updates};
        assert_int_equal(pthread_create(&all[i].thread, NULL, run_updates, &all[i]), 0);
    }
    for (int i = 0; i < RACERS; i++)
        pthread_join(all[i].thread, NULL);
    for (int i = 0; i < RACERS; i++)
        if (all[i].wrong[0])
            fail_msg("%s", all[i].wrong);
    int rc = get(&h);
    for (int i = 0; i < 100 && rc == ETIMEDOUT; i++) /* the faults are on still */
        rc = get(&h);
    must(rc);
    assert_int_equal(h.newest.uploaded, h.sequence);
    for (uint64_t i = 0; i < SLOTS; i++) {
        int own = atomic_load(&owners[i]), doubt = atomic_load(&doubts[i]);
        successes += (uint64_t)own;
        if (own > 1 || (own && (i == 0 || i > h.sequence)))
            fail_msg("%d false successes of update %d", own, (int)i);
        if (i > 0 && i <= h.sequence && !own && (certain || !doubt))
            fail_msg("update %d was done, and its writer was told that it was not", (int)i);
    }
    if (certain) {
        assert_int_equal(successes, (uint64_t)updates * RACERS);
        assert_int_equal(h.sequence, successes);
        assert_int_equal(h.newest.changed, (uint64_t)updates * (RACERS * (RACERS - 1) / 2));
    }
}

static void test_threads_update(void **state)
{
    race_to_update(UPDATES, true);
}

static void test_threads_update_and_answers_are_lost(void **state)
{
    rules_are("put:done-but-failed:20%;put:eio:15%;get:etimedout:5%;get:cut:3%");
    race_to_update(UPDATES / 2, false);
}

/* As a mount has it: the retry layer between. */
static void test_threads_update_with_retries(void **state)
{
    struct bh_bucket *retrying;
    rules_are("put:done-but-failed:20%;put:eio:15%;get:eio:5%;head:eio:5%");
    must(bh_bucket_retry_wrap(&retrying, b, &(struct bh_retry_options){.attempts = 4, .base_ms = 1},
                              ERR));
    b = retrying;
    race_to_update(UPDATES / 2, false);
}

/* --- without conditional writes --- */

static void test_unconditional(void **state)
{
    struct bh_head h = head_of(WRITER1, 1), got;
    bool advisory = false;
    be_odd(true);
    must(bh_head_put(b, P, &h, etag, &now, &advisory, NULL, ERR));
    assert_true(advisory);
    must(get(&got));
    h.sequence++;
    must(put(&h));
    assert_int_equal(odd.puts, 2);
    other = head_of(WRITER2, 3);
    write_directly(odd.inner, &other);
    h.sequence++;
    must_fail(put(&h), ESTALE); /* seen before */
    assert_int_equal(odd.puts, 2);
    assert_string_equal(now.lease.writer, WRITER2);
    must(get(&got));
    h.sequence = 4;
    other.sequence = 5;
    odd.after = other_writes;
    must_fail(put(&h), ESTALE); /* seen after */
    assert_int_equal(now.sequence, 5);
}

static void test_unconditional_with_lost_answers(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    be_odd(true);
    rules_are("put:done-but-failed:first=1;put:eio:after=1:first=1;get:eio:after=7:first=4");
    must(put(&h));
    h.sequence++;
    must(put(&h));
    must_be_there(&h);
    assert_int_equal(odd.puts, 2);
}

static void test_unconditional_and_not_read_back(void **state)
{
    struct bh_head h = head_of(WRITER1, 1);
    be_odd(true);
    rules_are("get:eacces:after=1:first=1");
    must_fail(put(&h), EIO);
    must_say("may or may not");
    must(put(&h));
    assert_int_equal(odd.puts, 1);
}

/* --- the lease --- */

static int check(const struct bh_head *h, const char *writer, int64_t now_ms, bool steal)
{
    return bh_lease_check(h, writer, now_ms, steal, ERR);
}

static void test_lease_rules(void **state)
{
    struct bh_head h = {.branch = "main"};
    must(check(&h, WRITER1, 1000, false)); /* nobody's */
    bh_lease_take(&h, WRITER1, 1000, 500);
    assert_int_equal(h.lease.epoch, 1);
    assert_int_equal(h.lease.expires_ms, 1500);
    assert_int_equal(h.lease.pid, getpid());
    assert_true(h.lease.host[0] != '\0');
    must(check(&h, WRITER1, 1100, false));
    must_fail(check(&h, WRITER2, 1499, false), EBUSY);
    must_say(h.lease.host);
    must_say("1970-01-01T00:00:01.500Z");
    must_say("main");
    must(check(&h, WRITER2, 1500, false));
    must(check(&h, WRITER2, 1100, true));
    bh_lease_take(&h, WRITER1, 1200, 500); /* renewed */
    assert_int_equal(h.lease.epoch, 1);
    assert_int_equal(h.lease.expires_ms, 1700);
    bh_lease_take(&h, WRITER2, 1300, 500); /* stolen */
    assert_int_equal(h.lease.epoch, 2);
    must_fail(check(&h, WRITER1, 1400, false), EBUSY);
    h.lease.pid = 1; /* started anew */
    bh_lease_take(&h, WRITER2, 1300, 500);
    assert_int_equal(h.lease.epoch, 3);
    strcpy(h.lease.host, "elsewhere");
    bh_lease_take(&h, WRITER2, 1300, 500);
    assert_int_equal(h.lease.epoch, 4);
    h.lease.writer[0] = '\0'; /* let go of */
    must(check(&h, WRITER1, 1301, false));
    bh_lease_take(&h, WRITER2, 1300, 500);
    assert_int_equal(h.lease.epoch, 5);
}

struct taker {
    pthread_t thread;
    uint32_t number;
    int rc;
};

/* Of many that take the lease at once one gets it. */
static void *take(void *arg)
{
    struct taker *t = arg;
    struct bh_head h;
    char tag[BH_ETAG_MAX], writer[33];
    snprintf(writer, sizeof writer, "%032x", t->number);
    t->rc = bh_head_get(b, P, "main", &h, tag, NULL, NULL);
    if (t->rc == 0)
        t->rc = bh_lease_check(&h, writer, 1000, false, NULL);
    if (t->rc)
        return NULL;
    bh_lease_take(&h, writer, 1000, 1000);
    h.sequence++;
    t->rc = bh_head_put(b, P, &h, tag, NULL, NULL, NULL, NULL);
    return NULL;
}

static void test_one_gets_the_lease(void **state)
{
    struct bh_head h = {.branch = "main", .sequence = 1};
    struct taker all[RACERS];
    int winners = 0;
    must(put(&h));
    for (int i = 0; i < RACERS; i++) {
        all[i] = (struct taker){.number = (uint32_t)i + 1};
        assert_int_equal(pthread_create(&all[i].thread, NULL, take, &all[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        pthread_join(all[i].thread, NULL);
        winners += all[i].rc == 0;
        assert_true(all[i].rc == 0 || all[i].rc == EBUSY || all[i].rc == ESTALE);
    }
    assert_int_equal(winners, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, dir_teardown)
    const struct CMUnitTest tests[] = {
        T(test_heads),
        T(test_tombstones),
        T(test_another_was_there),
        T(test_damaged_heads),
        T(test_a_cut_read_is_repeated),
        T(test_cancel),
        T(test_a_lost_answer_is_a_success),
        T(test_what_did_not_happen_is_repeated),
        T(test_a_failing_store_is_no_success),
        T(test_a_refusal_is_final),
        T(test_doubt_stays),
        T(test_doubt_is_resolved_by_the_same_call),
        T(test_another_in_the_last_moment),
        T(test_another_on_top_of_a_lost_answer),
        T(test_a_copied_state_directory_is_another_writer),
        T(test_a_late_arrival_is_ours),
        T(test_threads_update),
        T(test_threads_update_and_answers_are_lost),
        T(test_threads_update_with_retries),
        T(test_unconditional),
        T(test_unconditional_with_lost_answers),
        T(test_unconditional_and_not_read_back),
        T(test_lease_rules),
        T(test_one_gets_the_lease),
    };
    return cmocka_run_group_tests_name("repo-lease", tests, NULL, NULL);
}
