/* The state directory: whose it is, who uses it, what its file "state" keeps. */
#include "live_db.h"

static void test_made_private_and_empty(void **state)
{
    struct stat st;
    open_live(NULL);
    assert_int_equal(stat(at("state"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_true(bh_live_is_fresh(live));
    assert_int_equal(bh_file_size(bh_store_db(live->store)), 0);
}

static void test_a_second_user_is_refused_with_the_firsts_pid(void **state)
{
    struct bh_live *second;
    char pid[20];
    snprintf(pid, sizeof pid, "process %d;", (int)getpid());
    open_live(NULL);
    must_fail(bh_live_open(&second, cfg, NULL, ERR), EBUSY);
    must_say(pid);
    close_live();
    open_live(NULL);
}

static int pipe_ends[2];

/* Has the directory, and says after a while that it is about to leave. */
static int leave_slowly(void)
{
    child_check(bh_live_open(&live, cfg, NULL, ERR) == 0);
    child_check(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a); INSERT INTO t VALUES(8)") == 0);
    bh_statedir_closing(&live->dir);
    child_check(write(pipe_ends[1], "x", 1) == 1);
    usleep(2000000); /* its last flush: longer than a start waits for a process that was killed */
    bh_live_close(live);
    return 0;
}

static void test_a_start_waits_for_one_that_is_leaving(void **state)
{
    char byte;
    int status;
    assert_int_equal(pipe(pipe_ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(leave_slowly());
    assert_int_equal(read(pipe_ends[0], &byte, 1), 1);
    open_live(NULL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT a FROM t"), 8);
    sqlite3_close(c);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

static void test_another_buckets_directory_is_refused(void **state)
{
    open_live(NULL);
    close_live();
    reconfigure((const char *[]){"snapshot.key=other/key.db", NULL});
    must_fail(bh_live_open(&live, cfg, NULL, ERR), ESTALE);
    must_say("live.dir");
    live = NULL;
}

static void test_others_must_not_be_able_to_write(void **state)
{
    make_dir("state");
    assert_int_equal(chmod(at("state"), 0770), 0);
    must_fail(bh_live_open(&live, cfg, NULL, ERR), EACCES);
    must_say("chmod 700");
    live = NULL;
}

static void test_a_damaged_state_is_refused_and_kept(void **state)
{
    open_live(NULL);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    close_live();
    put_file("state/state", "bhfs-state 1\nidentity x\n", 24);
    must_fail(bh_live_open(&live, cfg, NULL, ERR), EIO);
    must_say("copy the directory aside");
    assert_true(is_there("state/db.1"));
    live = NULL;
}

static void test_a_newer_format_is_refused(void **state)
{
    make_dir("state");
    put_file("state/state", "bhfs-state 2\nidentity x\n", 24);
    must_fail(bh_live_open(&live, cfg, NULL, ERR), EPROTO);
    live = NULL;
}

static void test_everything_is_kept(void **state)
{
    open_live("/mnt/with a space");
    struct bh_state *st = &live->dir.state;
    strcpy(st->base_etag, "\"e tag\"");
    strcpy(st->base_snapshot, "20260101T000000.000Z-00000001");
    st->base_size = UINT64_MAX;
    st->base_time_ms = INT64_MAX;
    strcpy(st->older_pending, "A,B,");
    st->max_cookie = UINT32_MAX;
    must(bh_statedir_save(&live->dir, ERR));
    close_live();
    open_live(NULL);
    st = &live->dir.state;
    assert_string_equal(st->base_etag, "\"e tag\"");
    assert_string_equal(st->base_snapshot, "20260101T000000.000Z-00000001");
    assert_true(st->base_size == UINT64_MAX);
    assert_true(st->base_time_ms == INT64_MAX);
    assert_string_equal(st->older_pending, "A,B,");
    assert_true(st->max_cookie == UINT32_MAX);
    assert_string_equal(st->mountpoint, "/mnt/with a space");
    assert_int_equal(st->generation, 1);
}

static void test_any_mount_point_can_be_kept(void **state)
{
    open_live("/mnt/two\nlines");
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a); INSERT INTO t VALUES(1)"));
    close_live();
    open_live("/mnt/two\nlines"); /* its unflushed changes must not be locked in */
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT a FROM t"), 1);
    sqlite3_close(c);
}

static void test_nothing_is_left_of_an_interrupted_replacement(void **state)
{
    open_live(NULL);
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a); INSERT INTO t VALUES(1)"));
    close_live();
    make_stock("state/db.2", "u", 10); /* made, but the state does not name it yet */
    put_file("state/map.2", "", 0);
    open_live(NULL);
    assert_false(is_there("state/db.2"));
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT a FROM t"), 1);
    sqlite3_close(c);
}

static void test_a_directory_of_its_own_by_default(void **state)
{
    struct bh_live *l;
    reconfigure((const char *[]){"live.dir=", NULL});
    assert_int_equal(setenv("XDG_STATE_HOME", at("xdg"), 1), 0);
    must(bh_live_open(&l, cfg, NULL, ERR));
    char begin[200];
    snprintf(begin, sizeof begin, "%s/xdg/bhfs/", scratch);
    assert_memory_equal(l->dir.path, begin, strlen(begin));
    assert_int_equal(strlen(l->dir.path), strlen(begin) + 16);
    bh_live_close(l);
    assert_int_equal(unsetenv("XDG_STATE_HOME"), 0);
}

static void test_fresh_is_what_never_held_anything(void **state)
{
    open_live(NULL);
    assert_true(bh_live_is_fresh(live));
    must(on_sql_thread(BH_SQL_READ, "SELECT * FROM sqlite_master"));
    assert_true(bh_live_is_fresh(live)); /* opening writes nothing */
    must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE t(a)"));
    assert_false(bh_live_is_fresh(live));
    close_live();
    open_live(NULL);
    assert_false(bh_live_is_fresh(live));
}

/* What was committed is there after a power cut: the mirror becomes the state directory. */
static void test_commits_outlive_a_power_cut(void **state)
{
    for (int seed = 0; seed < 6; seed++) {
        char directory[120], option[40], text[60];
        snprintf(directory, sizeof directory, "live.powercut_dir=%s/shadow", scratch);
        snprintf(option, sizeof option, "live.powercut_seed=%d", seed);
        reconfigure((const char *[]){directory, option, NULL});
        open_live(NULL);
        must(on_sql_thread(BH_SQL_WRITE, "CREATE TABLE IF NOT EXISTS t(a, fill)"));
        for (int i = 0; i < 5; i++) {
            snprintf(text, sizeof text, "INSERT INTO t VALUES(%d, randomblob(6000))", seed * 5 + i);
            must(on_sql_thread(BH_SQL_WRITE, text));
        }
        char command[200];
        snprintf(command, sizeof command, "cd %s && cp -a shadow found", scratch);
        assert_int_equal(system(command), 0);
        close_live();
        snprintf(command, sizeof command, "cd %s && rm -rf state && mv found state", scratch);
        assert_int_equal(system(command), 0);
        reconfigure(NULL);
        open_live(NULL);
        sqlite3 *c = connect_live();
        assert_int_equal(number(c, "SELECT count(DISTINCT a) FROM t"), seed * 5 + 5);
        must_be_whole(c);
        sqlite3_close(c);
        assert_true(bh_store_is_dirty(live->store));
        close_live();
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_made_private_and_empty),
        TEST(test_a_second_user_is_refused_with_the_firsts_pid),
        TEST(test_a_start_waits_for_one_that_is_leaving),
        TEST(test_another_buckets_directory_is_refused),
        TEST(test_others_must_not_be_able_to_write),
        TEST(test_a_damaged_state_is_refused_and_kept),
        TEST(test_a_newer_format_is_refused),
        TEST(test_everything_is_kept),
        TEST(test_any_mount_point_can_be_kept),
        TEST(test_nothing_is_left_of_an_interrupted_replacement),
        TEST(test_a_directory_of_its_own_by_default),
        TEST(test_fresh_is_what_never_held_anything),
        TEST(test_commits_outlive_a_power_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
