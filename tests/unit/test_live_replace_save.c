/* bh_live_replace_lazily: what was committed since the last flush can be saved before it goes. */
#include "live_db.h"

/* --- the new content: the file made.db --- */

static size_t made_len;
static unsigned char *made;

static int made_read(struct bh_origin *o, uint64_t offset, void *buf, size_t len,
                     struct bh_error *err)
{
    (void)o;
    (void)err;
    memset(buf, 0, len);
    if (offset < made_len)
        memcpy(buf, made + offset, len < made_len - offset ? len : made_len - offset);
    return 0;
}

static void made_free(struct bh_origin *o)
{
    (void)o;
}

static struct bh_origin origin = {.unit = 16384, .read = made_read, .free = made_free};

/* --- saving --- */

static unsigned saves;
static int fails;

static int save(void *arg, struct bh_base *base, struct bh_error *err)
{
    struct bh_frozen *frozen;
    assert_ptr_equal(arg, &saves);
    saves++;
    must(bh_live_freeze(live, true, &frozen, err));
    size_t size = (size_t)bh_frozen_size(frozen);
    unsigned char *data = malloc(size);
    assert_non_null(data);
    must(bh_frozen_read(frozen, data, size, 0));
    must(bh_store_thaw(frozen, fails == 0));
    unlink(at("saved.db"));
    put_file("saved.db", data, size);
    free(data);
    snprintf(base->snapshot, sizeof base->snapshot, "SAVED");
    return fails ? bh_fail(err, fails, "it cannot be saved") : 0;
}

static int replace(void)
{
    struct bh_base base = {.is_base = true, .snapshot = "BEFORE", .size = made_len};
    saves = 0;
    return bh_live_replace_lazily(live, &origin, made_len, &base, save, &saves, ERR);
}

static int64_t saved_rows(void)
{
    sqlite3 *c = stock("saved.db");
    must_be_whole(c);
    int64_t n = number(c, "SELECT count(*) FROM t");
    sqlite3_close(c);
    return n;
}

static void as_flushed(void)
{
    struct bh_frozen *frozen;
    must(bh_live_freeze(live, true, &frozen, ERR));
    must(bh_store_thaw(frozen, true));
    assert_false(bh_store_is_dirty(live->store));
}

static int64_t live_number(const char *query)
{
    sqlite3 *c = connect_live();
    int64_t n = number(c, query);
    sqlite3_close(c);
    return n;
}

static void begin(const char *journal)
{
    char setting[40];
    snprintf(setting, sizeof setting, "live.journal=%s", journal);
    reconfigure((const char *[]){setting, NULL});
    make_stock("made.db", "u", 30);
    made = get_file("made.db", &made_len);
    fails = 0;
    open_live(NULL);
    must(bh_live_settle_mode(live, false, ERR));
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a); INSERT INTO t VALUES(1)"));
    assert_int_equal(bh_store_is_wal(live->store), !strcmp(journal, "wal"));
}

static int save_teardown(void **state)
{
    int rc = db_teardown(state);
    free(made);
    made = NULL;
    return rc;
}

static void saves_what_is_not_flushed(const char *journal)
{
    begin(journal);
    as_flushed();
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"));
    must(replace());
    assert_int_equal(saves, 1);
    assert_int_equal(saved_rows(), 2);
    assert_string_equal(live->dir.state.base_snapshot, "SAVED");
    assert_int_equal(live_number("SELECT count(*) FROM u"), 30);
    assert_int_equal(live_number("SELECT count(*) FROM t"), -1);
}

static void leaves_what_is_flushed(const char *journal)
{
    begin(journal);
    as_flushed();
    must(replace());
    assert_int_equal(saves, 0);
    assert_string_equal(live->dir.state.base_snapshot, "BEFORE");
    assert_int_equal(live_number("SELECT count(*) FROM u"), 30);
}

static void replaces_nothing_if_it_fails(const char *journal)
{
    begin(journal);
    fails = EIO;
    must_fail(replace(), EIO);
    must_say("it cannot be saved");
    assert_int_equal(saves, 1);
    assert_int_equal(live_number("SELECT count(*) FROM t"), 1);
    assert_true(bh_store_is_dirty(live->store));
    must(on_sql_thread(BH_SQL_WRITE, "INSERT INTO t VALUES(2)"));
    close_live();
    open_live(NULL);
    assert_int_equal(live_number("SELECT count(*) FROM t"), 2);
    fails = 0;
    must(replace());
    assert_int_equal(saved_rows(), 2);
}

#define IN_EACH_MODE(what)                                                                         \
    static void test_##what##_delete(void **state)                                                 \
    {                                                                                              \
        what("delete");                                                                            \
    }                                                                                              \
    static void test_##what##_persist(void **state)                                                \
    {                                                                                              \
        what("persist");                                                                           \
    }                                                                                              \
    static void test_##what##_wal(void **state)                                                    \
    {                                                                                              \
        what("wal");                                                                               \
    }

IN_EACH_MODE(saves_what_is_not_flushed)
IN_EACH_MODE(leaves_what_is_flushed)
IN_EACH_MODE(replaces_nothing_if_it_fails)

#define TEST(name)  cmocka_unit_test_setup_teardown(name, db_setup, save_teardown)
#define TESTS(what) TEST(test_##what##_delete), TEST(test_##what##_persist), TEST(test_##what##_wal)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TESTS(saves_what_is_not_flushed),
        TESTS(leaves_what_is_flushed),
        TESTS(replaces_nothing_if_it_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
