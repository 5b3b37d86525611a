/* The freeze in write-ahead mode: what is read from it is the database as SQLite reads it at that
 * moment, in rollback format, whatever writers and checkpoints do meanwhile; and what of it counts
 * as flushed. */
#include "live_wal.h"

static struct bh_frozen *frozen;
static unsigned char *image; /* what SQLite read when it was frozen */
static size_t image_size;

static int freeze_teardown(void **state)
{
    if (frozen)
        bh_store_thaw(frozen, false);
    frozen = NULL;
    sqlite3_free(image);
    image = NULL;
    return db_teardown(state);
}

static void remember(sqlite3 *c)
{
    sqlite3_free(image);
    image = sqlite_reads(c, &image_size);
    assert_int_equal(image[18], 2);
    image[18] = image[19] = 1;
}

static void freeze(sqlite3 *c, bool patient)
{
    remember(c);
    must(bh_live_freeze(live, patient, &frozen, ERR));
    assert_int_equal(bh_frozen_size(frozen), image_size);
}

static void thaw(bool flushed)
{
    must(bh_store_thaw(frozen, flushed));
    frozen = NULL;
}

static void must_be_range(size_t offset, size_t len)
{
    unsigned char *buf = malloc(len + 1);
    assert_non_null(buf);
    must(bh_frozen_read(frozen, buf, len, offset));
    for (size_t i = 0; i < len; i++)
        if (buf[i] != image[offset + i])
            fail_msg("byte %zu of %zu is %02x, not %02x", offset + i, image_size, buf[i],
                     image[offset + i]);
    free(buf);
}

static void must_be_image(void)
{
    must_be_range(0, image_size);
    for (int i = 0; i < 20; i++) {
        size_t offset = any(i % 2 ? 200 : (uint32_t)image_size);
        must_be_range(offset, any((uint32_t)(image_size - offset) + 1));
    }
    must_be_range(18, 1);
    must_be_range(19, 1);
    must_be_range(image_size, 0);
}

/* --- one moment --- */

static void go_on(sqlite3 *c)
{
    for (int i = 0; i < 4; i++) {
        random_transaction(c);
        must_be_image();
    }
    for (int i = 0; i < 4; i++) {
        must_sql(c, checkpoints[i]);
        must_be_image();
        random_transaction(c);
        must_be_image();
    }
    must_sql(c, "DELETE FROM t WHERE n>3; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)");
    must_be_image();
}

static void test_nothing_that_follows_shows(void **state)
{
    static const int sizes[] = {512, 1024, 4096, 16384, 65536};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char command[100];
        sqlite3 *c = begin_wal(sizes[i]);
        for (int with = 0; with < 4; with++) { /* nothing checkpointed; in part; all; no log */
            if (with > 0)
                must_sql(c, checkpoints[with]);
            if (with < 3)
                add_rows(c, 30);
            freeze(c, true);
            go_on(c);
            thaw(false);
        }
        sqlite3_close(c);
        close_live();
        snprintf(command, sizeof command, "rm -r %s/state", scratch);
        assert_int_equal(system(command), 0);
    }
}

static void test_a_transaction_that_is_under_way_is_not_in_it(void **state)
{
    sqlite3 *c = begin_wal(1024), *reader = connect_wal();
    add_rows(c, 60);
    must_sql(c, "BEGIN; UPDATE t SET fill=randomblob(3000)"); /* spilled into the log */
    assert_true(bh_store_wal_size(live->store) > 60 * 1024);
    freeze(reader, true);
    must_be_image();
    must_sql(c, "COMMIT");
    must_be_image();
    thaw(false);
    sqlite3_close(reader);
    sqlite3_close(c);
}

static void test_it_is_a_whole_database_in_rollback_format(void **state)
{
    sqlite3 *c = begin_wal(4096);
    add_rows(c, 100);
    freeze(c, true);
    must_sql(c, "DELETE FROM t");
    unsigned char *data = malloc(image_size);
    assert_non_null(data);
    must(bh_frozen_read(frozen, data, image_size, 0));
    put_file("frozen.db", data, image_size);
    free(data);
    must(bh_database_check(at("frozen.db"), "what was frozen", ERR));
    sqlite3 *f = stock("frozen.db");
    assert_int_equal(number(f, "SELECT count(*) FROM t"), 100);
    must_sql(f, "INSERT INTO t VALUES(1000, 1, 1)");
    assert_false(is_there("frozen.db-wal"));
    sqlite3_close(f);
    thaw(false);
    sqlite3_close(c);
}

static void test_the_last_close_removes_the_log_under_it(void **state)
{
    sqlite3 *c = begin_wal(1024);
    add_rows(c, 100);
    freeze(c, false);
    sqlite3_db_config(c, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    sqlite3_close(c);
    assert_false(is_there("state/live.db-wal"));
    must_be_image();
    c = connect_wal();
    add_rows(c, 100);
    must_be_image();
    thaw(true);
    assert_true(bh_store_is_dirty(live->store));
    sqlite3_close(c);
}

static void test_a_large_truncation_breaks_an_impatient_freeze(void **state)
{
    for (int patient = 0; patient < 2; patient++) {
        sqlite3 *c = patient ? connect_wal() : begin_wal(4096);
        must_sql(c, "INSERT INTO t(fill) VALUES(randomblob(5000000))");
        freeze(c, patient);
        must_be_image();
        must_sql(c, "PRAGMA wal_checkpoint(TRUNCATE)");
        assert_int_equal(bh_store_wal_size(live->store), 0);
        if (patient) {
            must_be_image();
        } else {
            char byte;
            must_fail(bh_frozen_read(frozen, &byte, 1, 0), EAGAIN);
            must_fail(bh_frozen_read(frozen, &byte, 1, image_size - 1), EAGAIN);
        }
        thaw(false);
        assert_true(bh_store_is_dirty(live->store));
        sqlite3_close(c);
    }
}

static void test_a_small_truncation_does_not(void **state)
{
    sqlite3 *c = begin_wal(4096);
    must_sql(c, "INSERT INTO t(fill) VALUES(randomblob(3000000))");
    freeze(c, false);
    must_sql(c, "PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET fill=randomblob(3000000)");
    must_be_image();
    thaw(false);
    sqlite3_close(c);
}

static void test_a_swap_leaves_it(void **state)
{
    static const struct bh_base a_change = {.is_base = false};
    sqlite3 *c = begin_wal(4096);
    add_rows(c, 50);
    freeze(c, true);
    sqlite3_close(c);
    make_stock("state/incoming.db", "u", 20);
    must(bh_live_replace(live, "incoming.db", &a_change, ERR));
    must_be_image();
    c = connect_wal();
    must_sql(c, "INSERT INTO u VALUES(1000, 1)");
    must_be_image();
    sqlite3_close(c);
    thaw(true);
    assert_true(bh_store_is_dirty(live->store));
}

/* --- beside a writer --- */

static atomic_bool enough;
static atomic_int writer_failed;

/* In every transaction the two numbers are the same, and the rows are as many. */
static void *write_all_the_time(void *arg)
{
    static const char transaction[] =
        "BEGIN IMMEDIATE; UPDATE pair SET a=a+1; INSERT INTO t(v, fill) VALUES(1, randomblob(700));"
        "DELETE FROM t WHERE n%7=(SELECT a%7 FROM pair); UPDATE pair SET b=b+1, rows=(SELECT "
        "count(*) FROM t); COMMIT";
    sqlite3 *c = arg;
    for (unsigned i = 0; !enough; i++)
        if (sql(c, transaction) || (i % 11 == 10 && sql(c, checkpoints[i / 11 % 4])))
            writer_failed = sqlite3_extended_errcode(c);
    return NULL;
}

static int64_t check_frozen(void)
{
    size_t size = (size_t)bh_frozen_size(frozen);
    unsigned char *data = malloc(size);
    assert_non_null(data);
    for (size_t done = 0; done < size; done += 10000)
        must(bh_frozen_read(frozen, data + done, size - done < 10000 ? size - done : 10000, done));
    put_file("frozen.db", data, size);
    free(data);
    sqlite3 *f = stock("frozen.db");
    must_be_whole(f);
    int64_t a = number(f, "SELECT a FROM pair WHERE a=b AND rows=(SELECT count(*) FROM t)");
    sqlite3_close(f);
    return a;
}

static void test_every_freeze_beside_a_writer_is_between_two_transactions(void **state)
{
    pthread_t thread;
    sqlite3 *c = begin_wal(1024);
    must_sql(c, "CREATE TABLE pair(a, b, rows); INSERT INTO pair VALUES(0, 0, 0)");
    enough = false;
    writer_failed = 0;
    must(pthread_create(&thread, NULL, write_all_the_time, c));
    int64_t last = -1, now = 0;
    for (int i = 0; i < 60 && now >= last; i++, last = now) {
        usleep(any(3000));
        must(bh_live_freeze(live, true, &frozen, ERR));
        now = check_frozen();
        thaw(i % 2);
    }
    enough = true;
    must(pthread_join(thread, NULL));
    assert_int_equal(writer_failed, 0);
    assert_true(now >= last && now > 0);
    sqlite3_close(c);
}

/* --- what counts as flushed --- */

static char flushed_tag[BH_WAL_TAG];

static void flush_to_image(sqlite3 *c)
{
    freeze(c, true);
    must_be_image();
    memcpy(flushed_tag, bh_frozen_wal_tag(frozen), sizeof flushed_tag);
    thaw(true);
}

static bool is_dirty(void)
{
    return bh_store_is_dirty(live->store);
}

static void test_what_is_in_the_log_is_dirty_until_it_is_flushed(void **state)
{
    sqlite3 *c = begin_wal(4096);
    add_rows(c, 10);
    assert_true(is_dirty());
    freeze(c, true);
    thaw(false);
    assert_true(is_dirty());
    flush_to_image(c);
    assert_false(is_dirty());
    assert_int_equal(bh_store_dirty_bytes(live->store), 0);
    assert_true(bh_store_wal_size(live->store) > 0);
    add_rows(c, 1);
    assert_true(is_dirty());
    freeze(c, true);
    add_rows(c, 1);
    thaw(true);
    assert_true(is_dirty());
    flush_to_image(c);
    assert_false(is_dirty());
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 12); /* a reader changes nothing */
    assert_false(is_dirty());
    sqlite3_close(c);
}

/* As a kill -9 leaves it, with what the last flush wrote down. */
static sqlite3 *begin_again(sqlite3 *c)
{
    memcpy(live->dir.state.base_wal, flushed_tag, sizeof flushed_tag);
    must(bh_statedir_save(&live->dir, ERR));
    sqlite3_close(c);
    close_live();
    open_live(NULL);
    return connect_wal();
}

static void test_the_tag_says_after_a_restart_what_is_flushed(void **state)
{
    sqlite3 *c = begin_wal(4096);
    add_rows(c, 10);
    flush_to_image(c);
    assert_string_not_equal(flushed_tag, "");
    c = begin_again(c);
    assert_false(is_dirty());
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 10);
    add_rows(c, 1);
    c = begin_again(c);
    assert_true(is_dirty());
    flush_to_image(c);
    c = begin_again(c);
    assert_false(is_dirty());
    must_sql(c, "BEGIN; INSERT INTO t(fill) VALUES(zeroblob(100000)); ROLLBACK");
    c = begin_again(c);
    assert_false(is_dirty());
    strcpy(flushed_tag, "");
    c = begin_again(c);
    assert_true(is_dirty());
    sqlite3_close(c);
}

static void must_be_dirty_if_it_differs(sqlite3 *c, const char *after)
{
    size_t size;
    unsigned char *now = sqlite_reads(c, &size);
    now[18] = now[19] = 1;
    if (!is_dirty() && (size != image_size || memcmp(now, image, size) != 0))
        fail_msg("after %s it is clean, but not as it was flushed", after);
    sqlite3_free(now);
}

static sqlite3 *random_step(sqlite3 *c, const char **what)
{
    switch (any(8)) {
    case 0:
        *what = "a flush";
        flush_to_image(c);
        return c;
    case 1:
        *what = "a restart";
        return begin_again(c);
    case 2:
        *what = "a checkpoint";
        must_sql(c, checkpoints[any(4)]);
        return c;
    case 3:
        *what = "a flush beside changes";
        freeze(c, true);
        memcpy(flushed_tag, bh_frozen_wal_tag(frozen), sizeof flushed_tag);
        random_transaction(c);
        must_sql(c, checkpoints[any(4)]);
        random_transaction(c);
        must_be_image();
        thaw(true);
        return c;
    case 4:
        *what = "the last close";
        sqlite3_db_config(c, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
        sqlite3_close(c);
        return connect_wal();
    default:
        *what = "a transaction";
        random_transaction(c);
        return c;
    }
}

static void test_what_is_clean_is_as_it_was_flushed(void **state)
{
    sqlite3 *c = begin_wal(1024);
    unsigned clean = 0;
    add_rows(c, 20);
    flush_to_image(c);
    for (int i = 0; i < 300; i++) {
        const char *what;
        c = random_step(c, &what);
        must_be_dirty_if_it_differs(c, what);
        clean += !is_dirty();
        if (any(30) == 0)
            must_sql(c, "DELETE FROM t WHERE n>20");
    }
    assert_true(clean > 20);
    must_be_whole(c);
    sqlite3_close(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, freeze_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_that_follows_shows),
        TEST(test_a_transaction_that_is_under_way_is_not_in_it),
        TEST(test_it_is_a_whole_database_in_rollback_format),
        TEST(test_the_last_close_removes_the_log_under_it),
        TEST(test_a_large_truncation_breaks_an_impatient_freeze),
        TEST(test_a_small_truncation_does_not),
        TEST(test_a_swap_leaves_it),
        TEST(test_every_freeze_beside_a_writer_is_between_two_transactions),
        TEST(test_what_is_in_the_log_is_dirty_until_it_is_flushed),
        TEST(test_the_tag_says_after_a_restart_what_is_flushed),
        TEST(test_what_is_clean_is_as_it_was_flushed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
