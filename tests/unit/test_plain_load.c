/* What a start does with the snapshot in the bucket and the state directory: bh_plain_load's
 * decisions. */
#include "live_plain.h"

#define must_report(what)                                                                          \
    do {                                                                                           \
        if (!strstr(report.text, (what)))                                                          \
            fail_msg("\"%s\" is not in the report: %s", (what), report.text);                      \
    } while (0)

/* The key of the rescue branch in the bucket, "" if there is none. */
static const char *rescue_key(void)
{
    static char key[200];
    char line[200];
    snprintf(line, sizeof line, "cd %s/bucket && ls -d %s.branch.rescue-* 2>/dev/null", scratch,
             KEY);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    if (!fgets(key, sizeof key, f))
        key[0] = '\0';
    key[strcspn(key, "\n")] = '\0';
    pclose(f);
    return key;
}

/* A snapshot with 1 and, before it, 0; unflushed: 2. */
static void snapshot_and_changes(void)
{
    start();
    insert(0);
    must(flush());
    insert(1);
    must(flush());
    insert(2);
}

static void forget_state(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s/state", scratch);
    assert_int_equal(system(command), 0);
}

/* --- nothing, or what one knows --- */

static void test_an_empty_bucket(void **state)
{
    start();
    assert_string_equal(report.text, "");
    assert_true(bh_live_is_fresh(live));
}

static void test_the_newest_snapshot_is_loaded(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    start();
    insert(1);
    must(flush());
    strcpy(id, result.snapshot);
    shut();
    forget_state();
    start();
    assert_int_equal(live_has(), 1);
    assert_false(dirty());
    must(flush());
    assert_int_equal(spy->puts, 0);
    assert_string_equal(result.snapshot, id);
    insert(2);
    must(flush());
    assert_int_equal(object_has(PREV), 1);
}

static void test_one_goes_on_from_the_base_without_a_download(void **state)
{
    struct bh_bucket_stats stats;
    snapshot_and_changes();
    restart();
    bh_bucket_stats(spy->inner, &stats);
    assert_int_equal(stats.requests[BH_OP_GET], 0);
    must_report("unflushed changes");
    assert_int_equal(live_has(), 2);
    must(flush());
    assert_int_equal(object_has(KEY), 2);
}

/* What the history layer had to say before stays in front of it. */
static void test_what_was_said_before_stays(void **state)
{
    snapshot_and_changes();
    shut();
    open_all();
    snprintf(report.text, sizeof report.text, "this is branch work");
    must(bh_plain_load(plain, &report, NULL, ERR));
    must_report("this is branch work; unflushed changes");
    must(flush());
    insert(3);
    shut();
    upload_foreign(KEY, 77, NULL);
    open_all();
    snprintf(report.text, sizeof report.text, "this is branch work");
    must(bh_plain_load(plain, &report, NULL, ERR));
    must_report("this is branch work; unflushed changes were saved as branch rescue-");
}

static void test_clean_state_reports_nothing(void **state)
{
    start();
    insert(1);
    must(flush());
    restart();
    assert_string_equal(report.text, "");
    assert_int_equal(live_has(), 1);
}

static void test_unflushed_changes_without_any_snapshot(void **state)
{
    start();
    insert(1);
    restart();
    must_report("unflushed changes");
    must(flush());
    assert_int_equal(object_has(KEY), 1);
}

static void test_the_same_snapshot_stored_anew_is_the_base(void **state)
{
    size_t size;
    struct bh_object_info info;
    snapshot_and_changes();
    head(KEY, &info);
    unsigned char *data = get_file("bucket/" KEY, &size);
    struct bh_source src = {.size = size, .data = data};
    must(
        bh_bucket_put(spy->inner, KEY, &src, &info.meta, NULL, NULL, NULL, ERR)); /* another ETag */
    free(data);
    restart();
    assert_int_equal(live_has(), 2);
    assert_string_equal(rescue_key(), "");
    must(flush());
    assert_int_equal(object_has(KEY), 2);
}

/* --- uploads whose answer was lost --- */

static void test_the_pending_upload_is_ours(void **state)
{
    start();
    insert(1);
    rules_are("put:done-but-failed;head:etimedout");
    assert_int_not_equal(flush(), 0);
    restart();
    assert_string_equal(rescue_key(), "");
    assert_int_equal(live_has(), 1);
    unsigned puts = spy->puts;
    must(flush());
    assert_int_equal(spy->puts, puts);
    assert_false(dirty());
}

static void test_an_older_pending_upload_is_ours(void **state)
{
    start();
    insert(1);
    must(flush());
    insert(2);
    spy->hold = true;
    rules_are("put:eacces:after=1");
    assert_int_not_equal(flush(), 0);
    insert(3);
    rules_are("put:eacces");
    assert_int_not_equal(flush(), 0);
    must(deliver());
    restart();
    assert_string_equal(rescue_key(), "");
    assert_int_equal(live_has(), 3);
    must(flush());
    assert_int_equal(object_has(KEY), 3);
    assert_int_equal(object_has(PREV), 2);
}

/* --- other writers --- */

static void test_anothers_snapshot_is_loaded(void **state)
{
    start();
    insert(1);
    must(flush());
    shut();
    upload_foreign(KEY, 77, NULL);
    start();
    assert_int_equal(live_has(), 77);
    assert_false(dirty());
    assert_string_equal(rescue_key(), "");
    insert(78);
    must(flush());
    assert_int_equal(object_has(KEY), 78);
    assert_int_equal(object_has(PREV), 77);
}

static void test_unflushed_changes_are_rescued_first(void **state)
{
    snapshot_and_changes();
    upload_foreign(KEY, 77, "20260101T000000.000Z-abcdef01");
    restart();
    assert_string_not_equal(rescue_key(), "");
    must_report(rescue_key());
    assert_int_equal(object_has(rescue_key()), 2);
    assert_int_equal(live_has(), 77);
    assert_int_equal(object_has(KEY), 77);
    assert_false(dirty());
    restart();
    assert_string_equal(report.text, ""); /* once */
}

static void test_what_cannot_be_rescued_is_not_given_up(void **state)
{
    snapshot_and_changes();
    upload_foreign(KEY, 77, NULL);
    shut();
    open_all();
    rules_are("put:eacces:key=*rescue*");
    must_fail(load(), EACCES);
    must_say("rescue-");
    assert_int_equal(live_has(), 2);
    assert_true(dirty());
    restart();
    assert_int_equal(object_has(rescue_key()), 2);
    assert_int_equal(live_has(), 77);
}

static void test_a_rescue_whose_answer_was_lost(void **state)
{
    snapshot_and_changes();
    upload_foreign(KEY, 77, NULL);
    shut();
    open_all();
    rules_are("put:done-but-failed:first=1");
    must(load());
    assert_int_equal(object_has(rescue_key()), 2);
    assert_int_equal(live_has(), 77);
}

static void test_a_read_only_mount_cannot_rescue(void **state)
{
    snapshot_and_changes();
    upload_foreign(KEY, 77, NULL);
    shut();
    open_all();
    plain->read_only = true;
    must_fail(load(), EROFS);
    assert_int_equal(live_has(), 2);
    assert_string_equal(rescue_key(), "");
}

static void test_a_snapshot_that_is_gone_is_uploaded_again(void **state)
{
    start();
    insert(1);
    must(flush());
    must(bh_bucket_delete(spy->inner, KEY, NULL, ERR));
    restart();
    must_report("gone");
    assert_int_equal(live_has(), 1);
    assert_true(dirty());
    must(flush());
    assert_int_equal(object_has(KEY), 1);
}

/* --- a bucket that does not answer --- */

static void test_local_content_does_without_the_bucket(void **state)
{
    static const char *const rules[] = {"*:etimedout", "*:eio", "*:eagain"};
    snapshot_and_changes();
    for (int i = 0; i < 3; i++) {
        shut();
        open_all();
        rules_are(rules[i]);
        must(load());
        must_report("unflushed changes");
        assert_int_equal(live_has(), 2);
        assert_int_not_equal(flush(), 0);
    }
    rules_are("");
    must(flush());
    assert_int_equal(object_has(KEY), 2);
}

static void test_nothing_local_cannot_do_without_the_bucket(void **state)
{
    open_all();
    rules_are("*:etimedout");
    must_fail(load(), ETIMEDOUT);
    must_say(KEY);
}

static void test_a_refusal_is_no_absence(void **state)
{
    snapshot_and_changes();
    shut();
    open_all();
    rules_are("*:eacces");
    must_fail(load(), EACCES);
    assert_true(dirty());
}

/* --- damage --- */

/* The object's bytes are not those that its metadata speaks of. */
static void damage_object(void)
{
    size_t size;
    struct bh_bucket *b;
    struct bh_object_info info;
    must(bh_bucket_dir_open(&b, at("bucket"), ERR));
    must(bh_bucket_head(b, KEY, &info, NULL, ERR));
    unsigned char *data = get_file("bucket/" KEY, &size);
    data[4096 + 2000] ^= 1; /* in unused space: no integrity_check sees it */
    struct bh_source src = {.size = size, .data = data};
    must(bh_bucket_put(b, KEY, &src, &info.meta, NULL, NULL, NULL, ERR));
    bh_bucket_close(b);
    free(data);
}

static void two_snapshots(void)
{
    start();
    insert(1);
    must(flush());
    insert(2);
    must(flush());
    shut();
    forget_state();
}

static void test_damage_is_refused_and_the_way_out_is_said(void **state)
{
    two_snapshots();
    damage_object();
    open_all();
    must_fail(load(), EIO);
    must_say("damaged");
    must_say("snapshot.recover=prev");
    assert_true(bh_live_is_fresh(live)); /* nothing changed */
    assert_int_equal(object_has(PREV), 1);
}

static void test_a_cut_body_is_refused(void **state)
{
    two_snapshots();
    open_all();
    rules_are("get:cut");
    must_fail(load(), EIO);
    assert_true(bh_live_is_fresh(live));
    rules_are("");
    must(load());
    assert_int_equal(live_has(), 2);
}

static void test_no_database_is_refused(void **state)
{
    upload_junk(KEY);
    open_all();
    must_fail(load(), EIO);
    must_say("not a SQLite database");
    must_say("no snapshot before it");
}

static void test_recover_takes_the_one_before(void **state)
{
    two_snapshots();
    upload_junk(KEY);
    reconfigure((const char *[]){"snapshot.recover=prev", NULL});
    start();
    must_report("recovered from " PREV);
    assert_int_equal(live_has(), 1);
    assert_true(dirty()); /* the bucket has something else */
    insert(3);
    must(flush());
    assert_int_equal(object_has(KEY), 3);
    assert_int_equal(object_has(PREV), 1); /* the damaged one is never kept as the one before */
    insert(4);
    must(flush());
    assert_int_equal(object_has(PREV), 3);
}

static void test_recover_survives_a_restart_before_the_flush(void **state)
{
    two_snapshots();
    upload_junk(KEY);
    reconfigure((const char *[]){"snapshot.recover=prev", NULL});
    start();
    insert(3);
    restart();
    assert_int_equal(live_has(), 3);
    must(flush());
    assert_int_equal(object_has(KEY), 3);
    assert_int_equal(object_has(PREV), 1);
}

static void test_recover_leaves_a_whole_snapshot_alone(void **state)
{
    two_snapshots();
    reconfigure((const char *[]){"snapshot.recover=prev", NULL});
    start();
    assert_int_equal(live_has(), 2);
    assert_false(dirty());
}

static void test_recover_without_one_before(void **state)
{
    upload_junk(KEY);
    reconfigure((const char *[]){"snapshot.recover=prev", NULL});
    open_all();
    assert_int_not_equal(load(), 0);
    must_say("recover=prev");
    assert_true(bh_live_is_fresh(live));
}

/* The sentence said to mount with it: then it must help, and keep what was not flushed. */
static void test_recover_with_unflushed_changes(void **state)
{
    snapshot_and_changes();
    upload_junk(KEY);
    shut();
    reconfigure((const char *[]){"snapshot.recover=prev", NULL});
    start();
    assert_int_equal(object_has(rescue_key()), 2);
    assert_int_equal(live_has(), 0);
    insert(5);
    must(flush());
    assert_int_equal(object_has(KEY), 5);
    assert_int_equal(object_has(PREV), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, plain_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_an_empty_bucket),
        TEST(test_the_newest_snapshot_is_loaded),
        TEST(test_one_goes_on_from_the_base_without_a_download),
        TEST(test_what_was_said_before_stays),
        TEST(test_clean_state_reports_nothing),
        TEST(test_unflushed_changes_without_any_snapshot),
        TEST(test_the_same_snapshot_stored_anew_is_the_base),
        TEST(test_the_pending_upload_is_ours),
        TEST(test_an_older_pending_upload_is_ours),
        TEST(test_anothers_snapshot_is_loaded),
        TEST(test_unflushed_changes_are_rescued_first),
        TEST(test_what_cannot_be_rescued_is_not_given_up),
        TEST(test_a_rescue_whose_answer_was_lost),
        TEST(test_a_read_only_mount_cannot_rescue),
        TEST(test_a_snapshot_that_is_gone_is_uploaded_again),
        TEST(test_local_content_does_without_the_bucket),
        TEST(test_nothing_local_cannot_do_without_the_bucket),
        TEST(test_a_refusal_is_no_absence),
        TEST(test_damage_is_refused_and_the_way_out_is_said),
        TEST(test_a_cut_body_is_refused),
        TEST(test_no_database_is_refused),
        TEST(test_recover_takes_the_one_before),
        TEST(test_recover_survives_a_restart_before_the_flush),
        TEST(test_recover_leaves_a_whole_snapshot_alone),
        TEST(test_recover_without_one_before),
        TEST(test_recover_with_unflushed_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
