/* The flush of the plain snapshot: what is sent and when, and answers that say neither yes nor no.
 * Load: test_plain_load.c. */
#include "live_plain.h"

static void must_be_uploaded(int n)
{
    struct bh_object_info info;
    size_t size;
    char hex[BH_SHA256_HEX];
    assert_int_equal(result.outcome, BH_FLUSH_UPLOADED);
    assert_int_equal(object_has(KEY), n);
    head(KEY, &info);
    assert_string_equal(bh_meta_get(&info.meta, META_SNAPSHOT), result.snapshot);
    unsigned char *data = get_file("bucket/" KEY, &size);
    must(bh_sha256_hex_of(data, size, hex));
    free(data);
    assert_string_equal(bh_meta_get(&info.meta, META_SHA256), hex);
    assert_string_equal(live->dir.state.base_sha256, hex);
    assert_string_equal(live->dir.state.base_etag, info.etag);
    assert_int_equal(result.bytes, size);
    assert_string_equal(live->dir.state.pending_snapshot, "");
    assert_string_equal(live->dir.state.older_pending, "");
}

static void must_be_unchanged(void)
{
    unsigned puts = spy->puts;
    must(flush());
    assert_int_equal(result.outcome, BH_FLUSH_UNCHANGED);
    assert_int_equal(spy->puts, puts);
    assert_false(dirty());
}

/* --- what is sent --- */

static void test_nothing_written_asks_nothing(void **state)
{
    start();
    unsigned before = spy->requests;
    must_be_unchanged();
    insert(1);
    must(flush());
    before = spy->requests;
    must_be_unchanged();
    assert_int_equal(spy->requests, before);
    assert_true(strlen(result.snapshot) > 20); /* it says which is the newest all the same */
}

static void test_changes_are_uploaded(void **state)
{
    start();
    insert(1);
    must(flush());
    must_be_uploaded(1);
    assert_false(dirty());
    assert_false(object_exists(PREV));
    insert(2);
    must(flush());
    must_be_uploaded(2);
    assert_int_equal(object_has(PREV), 1);
    insert(3);
    must(flush());
    assert_int_equal(object_has(PREV), 2);
}

static void test_the_previous_one_can_be_left_out(void **state)
{
    reconfigure((const char *[]){"snapshot.keep_previous=no", NULL});
    start();
    for (int i = 1; i < 4; i++) {
        insert(i);
        must(flush());
    }
    must_be_uploaded(3);
    assert_false(object_exists(PREV));
}

/* Written again with the same bytes: the hash tells. */
static void test_the_same_content_is_not_sent_again(void **state)
{
    char page[4096];
    start();
    insert(1);
    must(flush());
    char before[BH_SNAPSHOT_ID_MAX];
    strcpy(before, result.snapshot);
    struct bh_file *db = bh_store_db(live->store);
    must(bh_file_read(db, page, sizeof page, 0, NULL));
    must(bh_file_write(db, BH_DOOR_INTERNAL, page, sizeof page, 0));
    assert_true(dirty());
    must_be_unchanged();
    assert_string_equal(result.snapshot, before);
}

static void test_ids_rise(void **state)
{
    char last[BH_SNAPSHOT_ID_MAX] = "";
    start();
    for (int i = 1; i < 6; i++) {
        insert(i);
        must(flush());
        assert_true(strcmp(result.snapshot, last) > 0);
        strcpy(last, result.snapshot);
    }
    assert_int_equal(strlen(last), 29); /* YYYYMMDDTHHMMSS.mmmZ-8HEX */
}

static void write_meanwhile(const char *key)
{
    spy->before_put = NULL;
    insert(2);
}

static void test_what_is_written_meanwhile_comes_with_the_next(void **state)
{
    start();
    insert(1);
    spy->before_put = write_meanwhile;
    must(flush());
    must_be_uploaded(1);
    assert_true(dirty());
    must(flush());
    must_be_uploaded(2);
}

static void test_cancel_and_deadline(void **state)
{
    atomic_bool cancel = true;
    start();
    insert(1);
    struct bh_call call = {.cancel = &cancel};
    must_fail(bh_plain_flush(plain, cfg->snapshot.keep_previous, &result, &call, ERR), ECANCELED);
    call = (struct bh_call){.deadline_ms = bh_mono_ms() - 1};
    must_fail(bh_plain_flush(plain, cfg->snapshot.keep_previous, &result, &call, ERR), ETIMEDOUT);
    assert_true(dirty());
    assert_int_equal(atomic_load(&bh_plain_progress(plain)->phase), 0);
    must(flush());
    must_be_uploaded(1);
}

/* --- truncations that break a frozen image --- */

static int cuts;

static void cut_five_mib(const char *key)
{
    struct bh_file *db = bh_store_db(live->store);
    char page[4096] = "x";
    cuts++;
    uint64_t size = bh_file_size(db);
    if (bh_file_truncate(db, BH_DOOR_INTERNAL, size - (5u << 20)) ||
        bh_file_write(db, BH_DOOR_INTERNAL, page, sizeof page, size - sizeof page))
        abort();
}

static void grow(void)
{
    insert(1);
    must(bh_file_write(bh_store_db(live->store), BH_DOOR_INTERNAL, "end", 3, 6u << 20));
}

static void cut_once(const char *key)
{
    spy->before_put = NULL;
    cut_five_mib(key);
}

static void test_a_truncation_during_the_upload_begins_it_anew(void **state)
{
    start();
    grow();
    spy->before_put = cut_once;
    must(flush());
    assert_int_equal(result.outcome, BH_FLUSH_UPLOADED);
    size_t size;
    unsigned char *object = get_file("bucket/" KEY, &size);
    must_hold("state/db.1", object, size); /* the content after the truncation */
    free(object);
    must_be_unchanged();
}

/* After a few tries the truncation waits, not the flush. */
static void test_a_truncation_during_every_upload_does_not_starve_the_flush(void **state)
{
    start();
    grow();
    spy->before_put = cut_five_mib;
    cuts = 0;
    must(flush());
    assert_int_equal(result.outcome, BH_FLUSH_UPLOADED);
    assert_in_range(cuts, 2, 10);
}

/* --- answers that say neither yes nor no --- */

static void test_a_done_but_failed_upload_is_recognised(void **state)
{
    start();
    insert(1);
    rules_are("put:done-but-failed:first=1");
    must(flush());
    must_be_uploaded(1);
    assert_int_equal(spy->puts, 1);
    insert(2);
    rules_are("put:done-but-failed:first=1");
    must(flush());
    must_be_uploaded(2);
    assert_int_equal(spy->puts, 2);
    assert_int_equal(object_has(PREV), 1);
}

static void test_an_upload_that_did_not_happen_is_repeated(void **state)
{
    start();
    insert(1);
    rules_are("put:eio:first=2");
    must(flush());
    must_be_uploaded(1);
}

static void test_a_failing_bucket_keeps_the_changes(void **state)
{
    start();
    insert(1);
    rules_are("put:eio");
    must_fail(flush(), EIO);
    assert_true(dirty());
    assert_false(object_exists(KEY));
    rules_are("");
    must(flush());
    must_be_uploaded(1);
}

static void test_a_refusal_is_not_repeated(void **state)
{
    static const struct {
        const char *rule;
        int code;
    } refusals[] = {{"put:eacces:first=1", EACCES},
                    {"put:enospc:first=1", ENOSPC}}; /* a second try would succeed */
    start();
    for (int i = 0; i < 2; i++) {
        insert(i);
        rules_are(refusals[i].rule);
        must_fail(flush(), refusals[i].code);
        assert_true(dirty());
    }
    assert_int_equal(spy->puts, 0);
}

/* Done, its answer lost, and the looks failed too. */
static void lose_the_answer(int n)
{
    insert(n);
    rules_are("put:done-but-failed;head:etimedout:after=0");
    assert_int_not_equal(flush(), 0);
    rules_are("");
    assert_true(dirty());
    assert_int_equal(object_has(KEY), n);
}

static void test_a_lost_answer_is_found_by_the_next_flush(void **state)
{
    start();
    lose_the_answer(1);
    must_be_unchanged();
    struct bh_object_info info;
    head(KEY, &info);
    assert_string_equal(result.snapshot, bh_meta_get(&info.meta, META_SNAPSHOT));
}

static void test_a_lost_answer_does_not_block_further_changes(void **state)
{
    start();
    insert(1);
    must(flush());
    rules_are("put:done-but-failed;head:etimedout:after=1"); /* the pending check, then the looks */
    insert(2);
    int rc = flush();
    rules_are("");
    insert(3);
    must(flush());
    must_be_uploaded(3);
    assert_int_equal(object_has(PREV), 2);
    (void)rc;
}

/* --- uploads that arrive late --- */

/* The upload of n seems to fail, and is on its way. */
static void send_late(int n)
{
    insert(n);
    spy->hold = true;
    rules_are("put:eacces:after=1"); /* ends the tries at once */
    assert_int_not_equal(flush(), 0);
    rules_are("");
    assert_non_null(spy->held.data);
}

static void test_a_late_upload_is_the_base_of_the_next(void **state)
{
    start();
    insert(1);
    must(flush());
    send_late(2);
    must(deliver());
    insert(3);
    must(flush());
    must_be_uploaded(3);
    assert_int_equal(object_has(PREV), 2);
}

/* That of the flush before last, after another one failed. */
static void two_failures(void)
{
    send_late(2);
    insert(3);
    rules_are("put:eacces");
    assert_int_not_equal(flush(), 0);
    rules_are("");
}

static void test_an_older_late_upload_is_the_base_of_the_next(void **state)
{
    start();
    insert(1);
    must(flush());
    two_failures();
    must(deliver());
    must(flush());
    must_be_uploaded(3);
    assert_int_equal(object_has(PREV), 2);
}

static void deliver_now(const char *key)
{
    spy->before_put = NULL;
    must(deliver());
}

static void test_a_late_upload_arrives_during_the_next(void **state)
{
    start();
    insert(1);
    must(flush());
    two_failures();
    spy->before_put = deliver_now; /* between the check and the put */
    must(flush());
    must_be_uploaded(3);
}

static void test_the_first_upload_of_all_arrives_late(void **state)
{
    start();
    two_failures();
    spy->before_put = deliver_now;
    must(flush());
    must_be_uploaded(3);
}

static void deliver_at_copy(void)
{
    spy->before_copy = NULL;
    must(deliver());
}

static void test_a_late_upload_arrives_before_the_copy(void **state)
{
    start();
    insert(1);
    must(flush());
    two_failures();
    spy->before_copy = deliver_at_copy;
    if (flush()) /* it may take another flush, but not another mount */
        must(flush());
    must_be_uploaded(3);
}

/* The content is that of the base again, and the bucket has the late upload: it must be sent. */
static void test_a_late_upload_is_not_the_content_of_the_old_base(void **state)
{
    size_t size;
    start();
    insert(1);
    must(flush());
    unsigned char *base = get_file("state/db.1", &size);
    two_failures();
    must(deliver());
    must(bh_file_write(bh_store_db(live->store), BH_DOOR_INTERNAL, base, size, 0));
    must(bh_file_truncate(bh_store_db(live->store), BH_DOOR_INTERNAL, size));
    must(flush());
    must_hold("bucket/" KEY, base, size);
    free(base);
}

/* --- other writers --- */

static void must_be_stale(int n)
{
    must_fail(flush(), ESTALE);
    must_say("another writer");
    assert_true(dirty());
    assert_int_equal(object_has(KEY), n);
}

static void test_anothers_snapshot_is_not_overwritten(void **state)
{
    start();
    insert(1);
    must(flush());
    insert(2);
    must(flush());
    upload_foreign(KEY, 77, NULL);
    insert(3);
    must_be_stale(77);
    must_be_stale(77);
    assert_int_equal(object_has(PREV), 1); /* nor copied over the one before */
}

static void replace_now(const char *key)
{
    spy->before_put = NULL;
    upload_foreign(KEY, 88, "20260101T000000.000Z-abcdef01");
}

static void test_another_writer_in_the_last_moment(void **state)
{
    start();
    insert(1);
    must(flush());
    insert(2);
    spy->before_put = replace_now;
    must_be_stale(88);
}

static void test_another_writers_first_snapshot(void **state)
{
    start();
    insert(1);
    upload_foreign(KEY, 77, NULL);
    must_be_stale(77);
}

static void test_another_writer_beside_a_lost_answer(void **state)
{
    start();
    insert(1);
    must(flush());
    two_failures();
    upload_foreign(KEY, 99, "20260101T000000.000Z-abcdef01");
    must_be_stale(99);
    must_fail(deliver(), ESTALE);
}

/* Metadata is data: a part of our id is not our id. */
static void test_a_part_of_an_id_is_anothers(void **state)
{
    start();
    insert(1);
    must(flush());
    two_failures();
    upload_foreign(KEY, 66, "2");
    must_be_stale(66);
}

static void test_a_deleted_snapshot_is_said(void **state)
{
    start();
    insert(1);
    must(flush());
    must(bh_bucket_delete(spy->inner, KEY, NULL, ERR));
    insert(2);
    must_fail(flush(), ESTALE);
    assert_true(dirty());
}

/* Stores without conditional writes: looks before and after. */
static void test_without_conditional_writes(void **state)
{
    start();
    spy->caps_taken = BH_CAP_IF_MATCH | BH_CAP_IF_NONE_MATCH | BH_CAP_COPY_IF_MATCH;
    insert(1);
    must(flush());
    must_be_uploaded(1);
    insert(2);
    rules_are("put:done-but-failed:first=1");
    must(flush());
    must_be_uploaded(2);
    assert_int_equal(object_has(PREV), 1);
    rules_are("");
    upload_foreign(KEY, 77, NULL);
    insert(3);
    must_be_stale(77);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, plain_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_written_asks_nothing),
        TEST(test_changes_are_uploaded),
        TEST(test_the_previous_one_can_be_left_out),
        TEST(test_the_same_content_is_not_sent_again),
        TEST(test_ids_rise),
        TEST(test_what_is_written_meanwhile_comes_with_the_next),
        TEST(test_cancel_and_deadline),
        TEST(test_a_truncation_during_the_upload_begins_it_anew),
        TEST(test_a_truncation_during_every_upload_does_not_starve_the_flush),
        TEST(test_a_done_but_failed_upload_is_recognised),
        TEST(test_an_upload_that_did_not_happen_is_repeated),
        TEST(test_a_failing_bucket_keeps_the_changes),
        TEST(test_a_refusal_is_not_repeated),
        TEST(test_a_lost_answer_is_found_by_the_next_flush),
        TEST(test_a_lost_answer_does_not_block_further_changes),
        TEST(test_a_late_upload_is_the_base_of_the_next),
        TEST(test_an_older_late_upload_is_the_base_of_the_next),
        TEST(test_a_late_upload_arrives_during_the_next),
        TEST(test_the_first_upload_of_all_arrives_late),
        TEST(test_a_late_upload_arrives_before_the_copy),
        TEST(test_a_late_upload_is_not_the_content_of_the_old_base),
        TEST(test_anothers_snapshot_is_not_overwritten),
        TEST(test_another_writer_in_the_last_moment),
        TEST(test_another_writers_first_snapshot),
        TEST(test_another_writer_beside_a_lost_answer),
        TEST(test_a_part_of_an_id_is_anothers),
        TEST(test_a_deleted_snapshot_is_said),
        TEST(test_without_conditional_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
