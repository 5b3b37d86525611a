/* The S3 backend under the retry layer: what passes is survived, what is in doubt is looked into,
 * and all of it ends. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bad_server.h"
#include "bucket/transfer.h"
#include "bucket_helpers.h"
#include "util/cleanup.h"
#include "util/clock.h"

static struct bh_bucket *b;

static int setup(void **state)
{
    if (bad_fresh(state))
        return -1;
    b = bad_open_retrying(NULL);
    must(bh_bucket_learn(b, NULL, ERR));
    return 0;
}

static int teardown(void **state)
{
    bad_close(b);
    return 0;
}

static const struct bh_cond fresh = {.if_none_match = true};

/* --- one fault, every operation --- */

static const char *const passing[] = {
    "do=reset",
    "do=close",
    "do=lost",
    "do=lost how=close",
    "do=cut_headers",
    "do=reset_headers",
    "do=reply",
    "do=html",
    "do=html status=502",
    "do=html status=503",
    "do=reply status=500 code=InternalError",
    "do=reply status=500 code=InternalError perform=1",
    "do=reply status=400 code=RequestTimeout",
    "do=reply status=429 code=TooManyRequests",
    "do=error200 code=SlowDown",
    "do=raw bytes=nonsense",
    "do=stall seconds=1.5", /* last: it may be performed later, too */
};

/* Everything once; each must do what it says although requests fail. */
static void do_everything(const char *rule)
{
    const struct bh_source src = pattern_source(6 * MIB), tail = {.size = 4, .data = "tail"};
    const char *const keys[] = {"k", "new", "copy", "m"};
    struct bh_object_info info;
    struct bh_part parts[3];
    struct got g = {0};
    char id[BH_UPLOAD_ID_MAX];
    size_t deleted;

#define FAULT(operation)                                                                           \
    bad_no_rules();                                                                                \
    bad_rule("op=" operation " times=2 %s", rule)
    FAULT("put");
    must_put(b, "k", "first");
    FAULT("put");
    must(put_text(b, "new", "conditional", &fresh));
    bad_no_rules();
    bad_rule("op=head %s", rule);
    must(bh_bucket_head(b, "new", &info, NULL, ERR));
    FAULT("put");
    must(put_text(b, "new", "changed", &(struct bh_cond){.if_match = info.etag}));
    FAULT("get");
    must(bh_bucket_get(b, "new", 0, UINT64_MAX, got_take, &g, &info, NULL, ERR));
    assert_string_equal(g.data, "changed");
    got_free(&g);
    FAULT("copy");
    must(bh_bucket_copy(b, "k", "copy", NULL, NULL, NULL, ERR));
    FAULT("list");
    assert_string_equal(listing(b, "", NULL, NULL, 0), "copy\nk\nnew\n");
    FAULT("mp_begin");
    must(bh_bucket_mp_begin(b, "m", NULL, id, NULL, ERR));
    FAULT("mp_part");
    must(bh_bucket_mp_part(b, "m", id, 1, &src, &parts[0], NULL, ERR));
    FAULT("mp_part_copy");
    must(bh_bucket_mp_part_copy(b, "m", id, 2, "copy", 0, 5, NULL, &parts[1], NULL, ERR));
    bad_no_rules();
    must(bh_bucket_mp_complete(b, "m", id, parts, 1, NULL, NULL, NULL, ERR));
    must_have_pattern(b, "m", 6 * MIB);
    must(bh_bucket_mp_begin(b, "m2", NULL, id, NULL, ERR));
    must(bh_bucket_mp_part(b, "m2", id, 1, &tail, &parts[0], NULL, ERR));
    FAULT("mp_abort");
    must(bh_bucket_mp_abort(b, "m2", id, NULL, ERR));
    if (!strstr(rule, "400")) { /* says nothing without a body */
        FAULT("bucket_head");
        must(bh_bucket_server_time(b, &(int64_t){0}, NULL, ERR));
    }
    FAULT("delete");
    must(bh_bucket_delete(b, "k", NULL, ERR));
    FAULT("delete_many");
    must(bh_bucket_delete_many(b, keys, 4, &deleted, NULL, ERR));
    assert_int_equal(deleted, 4);
    bad_no_rules();
    assert_string_equal(listing(b, "", NULL, NULL, 0), "");
}

static void passing_faults_are_survived(void **state)
{
    for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++) {
        print_message("           %s\n", passing[i]);
        bad_close(b);
        b = bad_open_retrying(NULL); /* with a full budget */
        if (strstr(passing[i], "stall")) {
            bad_rule("op=get|put|list %s", passing[i]);
            must_put(b, "stalled", "text");
            must_have(b, "stalled", "text");
            continue;
        }
        do_everything(passing[i]);
    }
}

/* --- conditional puts in doubt --- */

static void lost_answers_are_resolved(void **state)
{
    static const char *const rules[] = {
        "do=lost",           "do=lost how=close",
        "do=cut_headers",    "do=reply status=500 code=InternalError perform=1",
        "do=html perform=1", "do=reply perform=1",
        "do=lost how=stall", "do=reset_body"};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        for (int times = 1; times <= 3; times++)
            for (int empty = 0; empty < 2; empty++) {
                struct bh_source src = {.size = empty ? 0 : 5, .data = "hello"};
                struct bh_object_info info = {0}, now;
                if (strstr(rules[i], "stall") && times + empty > 1)
                    continue;
                bad_close(b);
                b = bad_open_retrying(NULL);
                must(bh_bucket_learn(b, NULL, ERR));
                must(bh_bucket_delete(b, "k", NULL, ERR));
                bad_rule("op=put times=%d %s", times, rules[i]);
                must(bh_bucket_put(b, "k", &src, NULL, &fresh, &info, NULL, ERR));
                bad_no_rules();
                must(bh_bucket_head(b, "k", &now, NULL, ERR));
                assert_string_equal(info.etag, now.etag);
                assert_int_equal(info.size, src.size);
                must_fail(bh_bucket_put(b, "k", &src, NULL, &fresh, &info, NULL, ERR), EEXIST);
                const struct bh_cond same = {.if_match = now.etag};
                bad_rule("op=put times=%d %s", times, rules[i]);
                must(put_text(b, "k", "hello again", &same));
                bad_no_rules();
                must_have(b, "k", "hello again");
                must_fail(put_text(b, "k", "too late", &same), ESTALE);
            }
}

/* Refused for good reason, with an answer lost before: never "nothing happened" unless it is so. */
static void a_refusal_after_a_loss(void **state)
{
    must_put(b, "k", "theirs");
    bad_rule("op=put do=reset_body");
    int rc = put_text(b, "k", "ours", &fresh);
    assert_true(rc == EEXIST || rc == EIO);
    must_have(b, "k", "theirs");
    bad_no_rules();
    bad_rule("op=put times=0 do=lost");
    must_say(put_text(b, "new", "ours", &fresh), 0, "");
    must_have(b, "new", "ours");
    bad_no_rules();
    bad_rule("op=put|head|get times=0 do=lost");
    rc = put_text(b, "another", "ours", &fresh);
    must_say(rc, EIO, "another");
    bad_no_rules();
    must_have(b, "another", "ours");
}

/* --- bodies in pieces --- */

static void a_get_goes_on_where_it_stopped(void **state)
{
    const struct bh_source src = pattern_source(8 * MIB);
    struct bh_bucket_stats before, after;
    must(bh_bucket_put(b, "big", &src, NULL, NULL, NULL, NULL, ERR));
    bh_bucket_stats(b, &before);
    bad_rule("op=get nth=1 do=cut");
    bad_rule("op=get nth=1 do=reset_answer");
    bad_rule("op=get nth=1 do=stall_answer at=1000000");
    must_have_pattern(b, "big", 8 * MIB);
    bh_bucket_stats(b, &after);
    assert_true(after.bytes_down - before.bytes_down <= 8 * MIB);
    assert_int_equal(bad_count("get"), 4);
    assert_true(after.retries - before.retries == 3);
}

struct replacing {
    uint64_t got;
    bool replaced;
};

static int replace_midway(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct replacing *r = arg;
    r->got += len;
    if (!r->replaced && r->got >= MIB) {
        const struct bh_source other = {.size = 5, .data = "other"};
        r->replaced = true;
        return bh_bucket_put(b, "big", &other, NULL, NULL, NULL, NULL, err);
    }
    return 0;
}

static void a_replaced_object_is_no_continuation(void **state)
{
    const struct bh_source src = pattern_source(8 * MIB);
    struct replacing r = {.got = 0};
    must(bh_bucket_put(b, "big", &src, NULL, NULL, NULL, NULL, ERR));
    bad_rule("op=get do=reset_answer");
    must_say(bh_bucket_get(b, "big", 0, UINT64_MAX, replace_midway, &r, NULL, NULL, ERR), EIO,
             "replaced");
}

static int next_number(void *arg, const char *key, bool is_prefix,
                       const struct bh_object_info *info, struct bh_error *err)
{
    unsigned *next = arg;
    char expected[32];
    snprintf(expected, sizeof expected, "x/%07u", (*next)++);
    assert_string_equal(key, expected);
    return 0;
}

static void a_listing_goes_on_where_it_stopped(void **state)
{
    static const char *const rules[] = {
        "do=cut", "do=reply", "do=reset", "do=list kind=no_token", "do=list kind=foreign",
        "do=html"};
    bad_fill("x/", 5000);
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        unsigned next = 0;
        bad_no_rules();
        for (int nth = 1; nth <= 5; nth++)
            bad_rule("op=list nth=%d %s", nth, rules[i]);
        const struct bh_list_request req = {.prefix = "x/"};
        must(bh_bucket_list(b, &req, next_number, &next, NULL, ERR));
        assert_int_equal(next, 5000);
    }
}

/* --- it ends --- */

static void attempts_come_to_an_end(void **state)
{
    bad_close(b);
    b = bad_open_retrying("bucket.attempts=4");
    must_put(b, "k", "text");
    bad_rule("op=get times=0 do=reply");
    clock_start();
    must_say(bh_bucket_get_small(b, "k", 100, &(char *){0}, NULL, NULL, NULL, ERR), EAGAIN,
             "k|SlowDown|4 attempts");
    assert_int_equal(bad_count("get"), 4);
    clock_within(500);
    /* what is no passing failure is not repeated */
    bad_rule("op=delete times=0 do=reply status=403 code=AccessDenied");
    must_say(bh_bucket_delete(b, "k", NULL, ERR), EACCES, "AccessDenied");
    assert_int_equal(bad_count("delete "), 1);
}

static void time_comes_to_an_end(void **state)
{
    bad_close(b);
    const char *const options[] = {"bucket.attempts=100", "bucket.retry_time=2s",
                                   "bucket.timeout=500ms"};
    b = bad_open_with(options, 3, true);
    must_put(b, "k", "text");
    bad_rule("op=head times=0 do=stall");
    clock_start();
    must_say(bh_bucket_head(b, "k", NULL, NULL, ERR), ETIMEDOUT, "k");
    clock_within(2700);
    struct bh_call call = {.deadline_ms = bh_mono_ms() + 700};
    clock_start();
    must_say(bh_bucket_head(b, "k", NULL, &call, ERR), ETIMEDOUT, "k/time");
    clock_within(1000);
    bad_no_rules();
    bad_rule("op=head times=0 do=reply set=retry-after:30");
    clock_start();
    int rc = bh_bucket_head(b, "k", NULL, NULL, ERR);
    assert_true(rc == EAGAIN || rc == ETIMEDOUT);
    clock_within(2700);
}

/* --- large bodies in parts --- */

static int count_upload(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                        struct bh_error *err)
{
    ++*(size_t *)arg;
    return 0;
}

static void transfers_are_survived(void **state)
{
    static const char *const rules[] = {"op=mp_part times=3 do=reset_body",
                                        "op=mp_part times=3 do=lost",
                                        "op=mp_part nth=2 times=3 do=reply",
                                        "op=mp_complete do=lost",
                                        "op=mp_complete do=lost how=close",
                                        "op=mp_complete do=error200",
                                        "op=mp_complete do=reply",
                                        "op=mp_complete do=reply status=500 perform=1",
                                        "op=get times=3 do=cut",
                                        "op=get times=3 do=reset_answer",
                                        "op=get nth=2 times=3 do=reply"};
    const struct bh_transfer how = {.part_size = 5 * MIB, .parallel = 3};
    const struct bh_source src = pattern_source(17 * MIB + 3);
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        uint64_t at = 0;
        size_t uploads = 0;
        struct bh_object_info info, now;
        bad_close(b);
        b = bad_open_retrying(NULL);
        bad_no_rules();
        must(bh_bucket_delete(b, "big", NULL, ERR));
        bad_rule("%s", rules[i]);
        int rc = bh_bucket_upload(b, "big", &src, NULL, NULL, &how, &info, NULL, ERR);
        if (rc)
            fail_msg("upload, %s: %s", rules[i], test_error.text);
        rc = bh_bucket_download(b, "big", &how, pattern_check, &at, &now, NULL, ERR);
        if (rc)
            fail_msg("download, %s: %s", rules[i], test_error.text);
        assert_true(at == src.size && now.size == src.size);
        assert_string_equal(info.etag, now.etag);
        bad_no_rules();
        must(bh_bucket_mp_list(b, "", count_upload, &uploads, NULL, ERR));
        assert_int_equal(uploads, 0);
    }
}

static void a_failed_upload_is_cleared_away(void **state)
{
    const struct bh_transfer how = {.part_size = 5 * MIB, .parallel = 3};
    const struct bh_source src = pattern_source(17 * MIB + 3);
    size_t uploads = 0;
    bad_rule("op=mp_part nth=3 times=0 do=reply status=403 code=AccessDenied");
    must_say(bh_bucket_upload(b, "big", &src, NULL, NULL, &how, NULL, NULL, ERR), EACCES, "big");
    must_lack(b, "big");
    must(bh_bucket_mp_list(b, "", count_upload, &uploads, NULL, ERR));
    assert_int_equal(uploads, 0);
}

/* --- several writers and chance --- */

#define WRITERS 4
#define TURNS   25

struct writer {
    pthread_t thread;
    unsigned succeeded, doubtful, lost;
    bool wrong;
};

/* Adds 1 to the number in "counter", TURNS times, each on condition that it is what was read. */
static void *count_up(void *arg)
{
    struct writer *w = arg;
    for (unsigned done = 0, tries = 0; done < TURNS && tries < 2000; tries++) {
        struct bh_object_info info;
        BH_FREE char *text = NULL;
        char next[32];
        if (bh_bucket_get_small(b, "counter", 32, &text, NULL, &info, NULL, ERR))
            continue;
        snprintf(next, sizeof next, "%d", atoi(text) + 1);
        const struct bh_cond cond = {.if_match = info.etag};
        int rc = put_text(b, "counter", next, &cond);
        if (rc == 0)
            w->succeeded++, done++;
        else if (rc == ESTALE)
            w->lost++;
        else if (rc == EIO || rc == ETIMEDOUT || rc == EAGAIN)
            w->doubtful++, done++;
        else
            w->wrong = true;
    }
    return NULL;
}

static void a_counter_under_fire(void **state)
{
    struct writer writers[WRITERS] = {0};
    unsigned succeeded = 0, doubtful = 0, lost = 0;
    bad_close(b);
    b = bad_open_retrying("bucket.attempts=20");
    must_put(b, "counter", "0");
    must(bh_bucket_learn(b, NULL, ERR));
    bad_rule("times=0 chance=0.06 do=lost");
    bad_rule("times=0 chance=0.06 do=reset");
    bad_rule("times=0 chance=0.06 do=reply");
    bad_rule("times=0 chance=0.06 do=reply status=500 code=InternalError perform=1");
    bad_rule("times=0 chance=0.06 op=get do=cut");
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&writers[i].thread, NULL, count_up, &writers[i]), 0);
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(writers[i].thread, NULL);
        assert_false(writers[i].wrong);
        succeeded += writers[i].succeeded;
        doubtful += writers[i].doubtful;
        lost += writers[i].lost;
    }
    bad_no_rules();
    BH_FREE char *text = NULL;
    must(bh_bucket_get_small(b, "counter", 32, &text, NULL, NULL, NULL, ERR));
    unsigned final = (unsigned)atoi(text);
    print_message("           %u succeeded, %u in doubt, %u met another: %u\n", succeeded, doubtful,
                  lost, final);
    assert_true(final >= succeeded && final <= succeeded + doubtful);
    assert_true(succeeded >= WRITERS * TURNS / 4);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(passing_faults_are_survived),
        TEST(lost_answers_are_resolved),
        TEST(a_refusal_after_a_loss),
        TEST(a_get_goes_on_where_it_stopped),
        TEST(a_replaced_object_is_no_continuation),
        TEST(a_listing_goes_on_where_it_stopped),
        TEST(attempts_come_to_an_end),
        TEST(time_comes_to_an_end),
        TEST(transfers_are_survived),
        TEST(a_failed_upload_is_cleared_away),
        TEST(a_counter_under_fire),
    };
    return cmocka_run_group_tests_name("S3, with retries", tests, bad_start, bad_stop);
}
