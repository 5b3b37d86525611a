/* What names.db remembers for table filestore: contents that have lost their last name, the last
 * row that was looked at; and changes that are quiet. */
#include "names_fixture.h"

#include "util/clock.h"

#define FILE_ (S_IFREG | 0644)

static uint64_t with_content(const char *name, uint8_t content)
{
    uint64_t f = made(ROOT, name, FILE_);
    struct bh_inode to = {.content = {.hash = {content, 1}, .hash_size = content, .size = content}};
    must(set(f, BH_SET_CONTENT, &to, NULL));
    return f;
}

static int add_dropped(void *arg, const uint8_t hash[BH_SHA256_LEN], int64_t at)
{
    char *text = arg;
    assert_true(at > bh_real_ns() - INT64_C(60000000000) && at < bh_real_ns() + 1000000);
    assert_int_equal(hash[1], 1);
    size_t len = strlen(text);
    text[len] = (char)hash[0];
    text[len + 1] = 0;
    return 0;
}

static const char *dropped(void)
{
    static char text[20];
    text[0] = 0;
    must(bh_names_each_dropped(names, add_dropped, text, ERR));
    return text;
}

static void forget(uint8_t content)
{
    must(bh_names_forget(names, (const uint8_t[BH_SHA256_LEN]){content, 1}));
}

/* However the last name goes, and whatever ends the daemon after it. */
static void test_dropped(void **state)
{
    for (int killed = 0; killed < 2; killed++) {
        assert_string_equal(dropped(), "");
        uint64_t a = with_content("a", 'A'), b = with_content("b", 'B');
        with_content("b2", 'B');
        with_content("c", 'C');
        again(killed);
        assert_string_equal(dropped(), "");
        must(unlink_name(ROOT, "a", NULL));
        must(unlink_name(ROOT, "b", NULL)); /* b2 has it */
        again(killed);
        assert_string_equal(dropped(), "A");
        must(rename_name(ROOT, "b2", ROOT, "c", 0, NULL, NULL)); /* C is replaced */
        assert_string_equal(dropped(), "AC");
        struct bh_inode i;
        must(lookup(ROOT, "c", &i));
        i.content = (struct bh_content){.hash = {'D', 1}, .hash_size = 4, .size = 4};
        must(set(i.ino, BH_SET_CONTENT, &i, NULL)); /* it is written anew */
        again(killed);
        assert_string_equal(dropped(), "ABC");
        with_content("a", 'A'); /* it has a name again */
        assert_string_equal(dropped(), "BC");
        must(unlink_name(ROOT, "a", NULL));
        assert_string_equal(dropped(), "ABC");
        forget('A');
        forget('C');
        must(bh_names_checkpoint(names, ERR));
        assert_string_equal(dropped(), "B");
        again(killed);
        assert_string_equal(dropped(), "B");
        forget('B');
        must(unlink_name(ROOT, "c", NULL)); /* with the same checkpoint */
        again(false);
        assert_string_equal(dropped(), "D");
        forget('D');
        assert_true(a && b);
    }
    close_names();
    names_db_is_whole();
}

/* One content that is lost by writing, again and again: the database's own conflicts are none. */
static void test_dropped_again(void **state)
{
    struct bh_inode to = {.content = {.hash = {'B', 1}, .hash_size = 2, .size = 2}};
    for (int i = 0; i < 3; i++) {
        uint64_t a = with_content("a", 'A');
        must(bh_names_checkpoint(names, ERR));
        must(set(a, BH_SET_CONTENT, &to, NULL));
        assert_string_equal(dropped(), "A");
        must(unlink_name(ROOT, "a", NULL));
        assert_string_equal(dropped(), "AB");
    }
}

/* It was never in the database: the log knows it, and what is not written yet. */
static void test_dropped_at_once(void **state)
{
    for (int killed = 0; killed < 2; killed++) {
        bh_names_quiet(names, true);
        with_content("a", 'A');
        bh_names_quiet(names, false);
        must(unlink_name(ROOT, "a", NULL));
        uint64_t b = with_content("b", 'B');
        struct bh_inode to = {.content = {.hash = {'C', 1}, .hash_size = 2, .size = 2}};
        must(set(b, BH_SET_CONTENT, &to, NULL));
        again(killed);
        assert_string_equal(dropped(), "AB");
        must(unlink_name(ROOT, "b", NULL));
        forget('A');
        forget('B');
        forget('C'); /* though it goes with the same checkpoint: its row has gone */
        again(false);
        assert_string_equal(dropped(), "");
    }
}

/* Open without a name when the daemon is killed: it is gone with the next start. */
static void test_dropped_while_open(void **state)
{
    uint64_t a = with_content("a", 'A');
    must(bh_names_ref(names, a));
    must(bh_names_checkpoint(names, ERR));
    must(unlink_name(ROOT, "a", NULL));
    must(bh_names_checkpoint(names, ERR));
    again(true);
    assert_string_equal(dropped(), "A");
    assert_int_equal(number_in_names("SELECT count(*) FROM inodes"), 1);
}

static int stop_here(void *arg, const uint8_t hash[BH_SHA256_LEN], int64_t at)
{
    return ++*(int *)arg == 2 ? E2BIG : 0;
}

static void test_fn_ends_it(void **state)
{
    int count = 0;
    for (uint8_t c = 'a'; c < 'e'; c++) {
        char name[2] = {(char)c};
        with_content(name, c);
    }
    must(bh_names_checkpoint(names, ERR));
    for (uint8_t c = 'a'; c < 'e'; c++) {
        char name[2] = {(char)c};
        must(unlink_name(ROOT, name, NULL));
    }
    assert_int_equal(bh_names_each_dropped(names, stop_here, &count, ERR), E2BIG);
    assert_int_equal(count, 2);
}

/* names.db of an older bhfs has no such table until something is written to it. */
static void test_older_database(void **state)
{
    with_content("a", 'A');
    close_names();
    sql_on_names("DROP TRIGGER inodes_gone; DROP TRIGGER inodes_other; DROP TABLE dropped");
    open_names();
    assert_string_equal(dropped(), "");
    must(unlink_name(ROOT, "a", NULL));
    assert_string_equal(dropped(), "A");
}

static void test_rows(void **state)
{
    struct bh_names_rows rows = {.row = -7, .mark = INT64_MAX}, got;
    bh_names_rows(names, &got);
    assert_int_equal(got.mark, 0);
    made(ROOT, "a", FILE_);
    bh_names_set_rows(names, &rows);
    again(false);
    bh_names_rows(names, &got);
    assert_int_equal(got.row, rows.row);
    assert_int_equal(got.mark, rows.mark);
    made(ROOT, "b", FILE_);
    again(true); /* a kill takes what no checkpoint was made of, and nothing else */
    bh_names_rows(names, &got);
    assert_int_equal(got.row, rows.row);
}

/* What is quiet is there, and not written by itself; with something else it is. */
static void test_quiet(void **state)
{
    struct bh_inode i;
    made(ROOT, "a", FILE_);
    options.checkpoint_ms = 50;
    again(false);
    bh_names_quiet(names, true);
    made(ROOT, "quiet", FILE_);
    bh_names_quiet(names, false);
    usleep(300000);
    assert_int_equal(number_in_names("SELECT count(*) FROM entries"), 1);
    must(lookup(ROOT, "quiet", &i));
    again(true); /* a kill does not lose it: the log has it */
    must(lookup(ROOT, "quiet", &i));
    assert_int_equal(number_in_names("SELECT count(*) FROM entries"), 2);
    bh_names_quiet(names, true);
    made(ROOT, "quiet2", FILE_);
    bh_names_quiet(names, false);
    again(false); /* an orderly end does */
    must_fail(lookup(ROOT, "quiet2", &i), ENOENT);
    bh_names_quiet(names, true);
    made(ROOT, "quiet3", FILE_);
    bh_names_quiet(names, false);
    made(ROOT, "loud", FILE_);
    again(false);
    must(lookup(ROOT, "quiet3", &i));
    must(lookup(ROOT, "loud", &i));
    close_names();
    assert_int_equal(number_in_names("SELECT count(*) FROM entries"), 4);
    names_db_is_whole();
    open_names();
    bh_names_quiet(names, true);
    made(ROOT, "quiet4", FILE_);
    bh_names_quiet(names, false);
    must(bh_names_hold(names, ERR)); /* whoever wants all gets all */
    assert_int_equal(number_in_names("SELECT count(*) FROM entries"), 5);
    bh_names_release(names, false);
}

/* A file that is made with its content, in one step. */
static void test_made_with_content(void **state)
{
    struct bh_inode i, what = {.mode = FILE_,
                               .atime = 5,
                               .mtime = 6,
                               .content = {.size = 7, .hash = {'A', 1}, .hash_size = 7}};
    must(bh_names_make(names, ROOT, "a", &what, NULL, false, &i, true, ERR));
    for (int turn = 0; turn < 3; turn++) {
        must(lookup(ROOT, "a", &i));
        assert_int_equal(i.content.size, 7);
        assert_int_equal(i.content.hash_size, 7);
        assert_int_equal(i.content.hash[0], 'A');
        assert_int_equal(i.content.data, 0);
        assert_int_equal(i.atime, 5);
        assert_int_equal(i.mtime, 6);
        assert_true(i.ctime > 6);
        again(turn == 0);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, open_setup, names_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_dropped),
        T(test_fn_ends_it),
        T(test_dropped_again),
        T(test_dropped_while_open),
        T(test_dropped_at_once),
        T(test_older_database),
        T(test_rows),
        T(test_quiet),
        T(test_made_with_content),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
