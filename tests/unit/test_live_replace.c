/* bh_live_replace: other content under open connections, as one transaction of somebody else. */
#include "live_db.h"

static uint32_t word(const unsigned char *page, size_t offset)
{
    return (uint32_t)page[offset] << 24 | (uint32_t)page[offset + 1] << 16 |
           (uint32_t)page[offset + 2] << 8 | page[offset + 3];
}

static struct counters {
    uint32_t counter, cookie, valid_for;
} read_counters(const char *file)
{
    size_t len;
    unsigned char *data = get_file(file, &len);
    assert_true(len >= 100);
    struct counters c = {word(data, 24), word(data, 40), word(data, 92)};
    free(data);
    return c;
}

/* A database with these counters in its header, as "state/incoming.db". */
static void prepare(const char *table, int rows, uint32_t counter, uint32_t cookie)
{
    char text[80];
    unlink(at("made.db"));
    make_stock("made.db", table, rows);
    sqlite3 *c = stock("made.db");
    snprintf(text, sizeof text, "PRAGMA schema_version=%u", cookie); /* and the next counter */
    must_sql(c, text);
    sqlite3_close(c);
    size_t len;
    unsigned char *data = get_file("made.db", &len);
    for (int i = 0; i < 4; i++)
        data[24 + i] = data[92 + i] = (unsigned char)(counter >> (24 - 8 * i));
    put_file("state/incoming.db", data, len);
    free(data);
}

static const struct bh_base a_change = {.is_base = false};

static void replace(void)
{
    must(bh_database_check(at("state/incoming.db"), "incoming.db", ERR));
    must(bh_live_replace(live, "incoming.db", &a_change, ERR));
}

static void begin_with_rows(void)
{
    open_live(NULL);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a); INSERT INTO t VALUES(1)"));
}

static void test_new_content_arrives(void **state)
{
    begin_with_rows();
    sqlite3 *before = connect_live();
    assert_int_equal(number(before, "SELECT count(*) FROM t"), 1);
    prepare("u", 30, 1, 1);
    replace();
    assert_int_equal(number(before, "SELECT count(*) FROM u"), 30); /* the schema is read anew */
    assert_int_equal(number(before, "SELECT count(*) FROM t"), -1);
    must_sql(before, "INSERT INTO u VALUES(1000, 'x')");
    must_be_whole(before);
    sqlite3_close(before);
    assert_false(is_there("state/incoming.db"));
    assert_false(is_there("state/db.1"));
    close_live();
    open_live(NULL);
    sqlite3 *after = connect_live();
    assert_int_equal(number(after, "SELECT count(*) FROM u"), 31);
    sqlite3_close(after);
}

static void must_outrun(struct counters now, struct counters old, uint32_t counter, uint32_t cookie)
{
    assert_true(now.counter > old.counter);
    assert_true(now.counter > counter);
    assert_true(now.cookie > old.cookie);
    assert_true(now.cookie > cookie);
    assert_int_equal(now.valid_for, now.counter);
}

static void test_counters_outrun_both(void **state)
{
    begin_with_rows();
    struct counters old = read_counters("state/db.1");
    prepare("u", 3, 1, 1); /* smaller than what was shown */
    replace();
    struct counters now = read_counters("state/db.2");
    must_outrun(now, old, 1, 1);
    prepare("v", 3, 5000, 6000); /* larger */
    replace();
    old = now;
    now = read_counters("state/db.3");
    must_outrun(now, old, 5000, 6000);
}

/* What was shown before the last replacement counts too, over restarts. */
static void test_counters_outrun_all_that_were_shown(void **state)
{
    begin_with_rows();
    prepare("u", 3, 7000, 8000);
    replace();
    struct counters most = read_counters("state/db.2");
    close_live();
    open_live(NULL);
    sqlite3 *c = connect_live();
    must_sql(c, "PRAGMA schema_version=3"); /* a client turns the cookie back */
    sqlite3_close(c);
    prepare("v", 3, 1, 1);
    replace();
    must_outrun(read_counters("state/db.3"), most, 7000, 8000);
}

static void test_the_remembered_counters_outlive_an_empty_database(void **state)
{
    begin_with_rows();
    prepare("u", 3, 7000, 8000);
    replace();
    struct counters most = read_counters("state/db.2");
    must(bh_file_truncate(bh_store_db(live->store), BH_DOOR_INTERNAL, 0));
    prepare("v", 3, 1, 1);
    replace();
    must_outrun(read_counters("state/db.3"), most, 7000, 8000);
}

static void test_dirt_follows_the_base(void **state)
{
    begin_with_rows();
    prepare("u", 30, 1, 1);
    struct bh_base base = {
        .is_base = true, .etag = "E1", .snapshot = "ID1", .sha256 = "S1", .size = 77};
    must(bh_live_replace(live, "incoming.db", &base, ERR));
    assert_false(bh_store_is_dirty(live->store));
    assert_string_equal(live->dir.state.base_etag, "E1");
    assert_string_equal(live->dir.state.base_snapshot, "ID1");
    assert_int_equal(live->dir.state.base_size, 77);
    prepare("v", 30, 1, 1);
    replace(); /* an import is a change, on the same base */
    assert_int_equal(bh_store_dirty_bytes(live->store),
                     (bh_file_size(bh_store_db(live->store)) + 4095) / 4096 * 4096);
    assert_string_equal(live->dir.state.base_etag, "E1");
}

static void test_a_persistent_journal_is_emptied(void **state)
{
    reconfigure((const char *[]){"live.journal=persist", NULL});
    begin_with_rows();
    struct stat st;
    assert_int_equal(stat(at("state/live.db-journal"), &st), 0);
    assert_true(st.st_size > 0);
    prepare("u", 3, 1, 1);
    replace();
    assert_int_equal(stat(at("state/live.db-journal"), &st), 0);
    assert_int_equal(st.st_size, 0);
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO u VALUES(77, 'x')"));
}

static void test_a_reading_connection_holds_it_up(void **state)
{
    begin_with_rows();
    sqlite3 *c = connect_live();
    must_sql(c, "BEGIN");
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 1);
    prepare("u", 3, 1, 1);
    must_fail(bh_live_replace(live, "incoming.db", &a_change, ERR), EBUSY);
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 1);
    assert_true(is_there("state/incoming.db"));
    must_sql(c, "COMMIT");
    replace();
    assert_int_equal(number(c, "SELECT count(*) FROM u"), 3);
    sqlite3_close(c);
}

static void test_a_clients_transaction_holds_it_up(void **state)
{
    begin_with_rows();
    prepare("u", 3, 1, 1);
    struct bh_lock_request r = {.set = &bh_store_db(live->store)->locks,
                                .owner = {.id = 1},
                                .pid = getpid(),
                                .type = BH_LOCK_READ,
                                .start = BH_SHARED_FIRST,
                                .end = BH_SHARED_FIRST};
    must(bh_locks_request(bh_store_locks(live->store), &r));
    must_fail(bh_live_replace(live, "incoming.db", &a_change, ERR), EBUSY);
    must_say("unit-live-repla"); /* the program's name, as the kernel cuts it */
    bh_locks_drop_owner(bh_store_locks(live->store), r.set, r.owner);
    replace();
}

static void test_a_failure_changes_nothing(void **state)
{
    begin_with_rows();
    must_fail(bh_live_replace(live, "incoming.db", &a_change, ERR), ENOENT);
    must_say("incoming.db");
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"));
    assert_int_equal(live->dir.state.generation, 1);
    close_live();
    open_live(NULL);
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 2);
    sqlite3_close(c);
}

static uint64_t heard_from, heard_len;

static void hear(void *arg, struct bh_file *f, uint64_t offset, uint64_t len)
{
    (void)arg;
    if (f->kind == BH_FILE_DB && len > heard_len) {
        heard_from = offset;
        heard_len = len;
    }
}

static void test_clients_hear_of_everything(void **state)
{
    begin_with_rows();
    bh_live_set_hooks(live, &(struct bh_live_hooks){.data_changed = hear});
    prepare("u", 300, 1, 1);
    heard_len = 0;
    replace();
    assert_int_equal(heard_from, 0);
    assert_int_equal(heard_len, UINT64_MAX);
}

/* --- bh_database_check and bh_database_copy --- */

static void test_check_refuses_what_is_no_database(void **state)
{
    put_file("x.db", "hello", 5);
    must_fail(bh_database_check(at("x.db"), "the file", ERR), EIO);
    must_say("the file is not a SQLite database");
    make_stock("cut.db", "t", 100);
    assert_int_equal(truncate(at("cut.db"), 8192), 0);
    must_fail(bh_database_check(at("cut.db"), "the file", ERR), EIO);
    must_say("cut off");
    make_stock("bad.db", "t", 100);
    int fd = open(at("bad.db"), O_WRONLY | O_CLOEXEC);
    must(bh_pwrite_full(fd, "garbage!garbage!garbage!", 24, 4096 * 3));
    close(fd);
    must_fail(bh_database_check(at("bad.db"), "the file", ERR), EIO);
    must_say("integrity_check");
}

static void test_check_turns_wal_back(void **state)
{
    sqlite3 *c = stock("w.db");
    must_sql(c, "PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    sqlite3_close(c);
    must(bh_database_check(at("w.db"), "the file", ERR));
    size_t len;
    unsigned char *db = get_file("w.db", &len);
    assert_int_equal(db[18], 1);
    assert_int_equal(db[19], 1);
    free(db);
    assert_false(is_there("w.db-wal"));
}

static void test_copy_is_one_snapshot(void **state)
{
    sqlite3 *writer = stock("w.db");
    must_sql(
        writer,
        "PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)"); /* in its -wal */
    must(bh_database_copy(at("w.db"), at("copy.db"), ERR));
    sqlite3_close(writer);
    sqlite3 *c = stock("copy.db");
    assert_int_equal(number(c, "SELECT a FROM t"), 1);
    sqlite3_close(c);
    must_fail(bh_database_copy(at("none.db"), at("c2.db"), ERR), ENOENT);
    must_fail(bh_database_copy(scratch, at("c3.db"), ERR), EINVAL);
    put_file("text", "not a database at all, but some text", 36);
    must_fail(bh_database_copy(at("text"), at("c4.db"), ERR), EINVAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_new_content_arrives),
        TEST(test_counters_outrun_both),
        TEST(test_counters_outrun_all_that_were_shown),
        TEST(test_the_remembered_counters_outlive_an_empty_database),
        TEST(test_dirt_follows_the_base),
        TEST(test_a_persistent_journal_is_emptied),
        TEST(test_a_reading_connection_holds_it_up),
        TEST(test_a_clients_transaction_holds_it_up),
        TEST(test_a_failure_changes_nothing),
        TEST(test_clients_hear_of_everything),
        TEST(test_check_refuses_what_is_no_database),
        TEST(test_check_turns_wal_back),
        TEST(test_copy_is_one_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
