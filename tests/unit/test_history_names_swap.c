/* names.db and the live database are replaced together: by restores, switches and a follower's
 * steps; beside readers, crashes, others, and gc. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "history_names.h"
#include "util/io.h"

/* --- both, or none --- */

static void test_a_restore_brings_both(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    (void)state;
    for (int i = 1; i <= 3; i++) {
        set_both(mine, i);
        flush(mine);
    }
    sqlite3 *old; /* knows the schema, and pages, of what is there now */
    must(bh_live_names_connect(mine->live, &old, ERR));
    must_do(old, "SELECT * FROM v");
    must(bh_restore_call(mine, ids[0], id, NULL, ERR));
    must_both_be(mine, 1);
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_prepare_v2(old, "SELECT n FROM v", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(st, 0), 1);
    sqlite3_finalize(st);
    sqlite3_close(old);
    assert_int_equal(fs.closes, 1);
    assert_int_equal(fs.opens, 1);
    assert_int_equal(fs.swaps, 1);
    assert_false(bh_store_is_dirty(mine->live->names));
    set_both(mine, 4);
    must(bh_restore_call(mine, "prev", id, NULL, ERR)); /* flushes 4 first */
    must_both_be(mine, 1);
    must_be_whole(mine);
    stop(&mine);
    mine = start("mine", NULL);
    must_both_be(mine, 1);
}

static void change_files(void)
{
    fs.closed = false; /* one that was under way */
    change(9);
    fs.closed = true;
}

static int close_with_a_change(void *arg, struct bh_error *err)
{
    int rc = close_gate(arg, err);
    if (rc == 0)
        change_files();
    return rc;
}

static void test_what_files_change_before_the_gate_closes_is_flushed(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX], last[BH_SNAPSHOT_ID_MAX];
    (void)state;
    for (int i = 1; i <= 2; i++) {
        set_both(mine, i);
        flush(mine);
    }
    mine->history->files.close_gate = close_with_a_change;
    must(bh_restore_call(mine, ids[0], id, NULL, ERR));
    must_both_be(mine, 1);
    mine->history->files.close_gate = close_gate;
    memcpy(last, mine->history->head.previous, sizeof last);
    assert_string_not_equal(last, ids[1]); /* there was one in between: */
    must(bh_restore_call(mine, last, id, NULL, ERR));
    assert_int_equal(get_value(mine), 9);
    assert_int_equal(number(mine, "SELECT n FROM w"), 2);
}

static void test_a_gate_that_does_not_close_leaves_all_as_it_is(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    (void)state;
    for (int i = 1; i <= 2; i++) {
        set_both(mine, i);
        flush(mine);
    }
    fs.refuse = EBUSY;
    must_fail(bh_restore_call(mine, ids[0], id, NULL, ERR), EBUSY);
    must_say("a file is being written");
    assert_int_equal(fs.opens, 0);
    fs.refuse = 0;
    must_both_be(mine, 2);
    must(bh_restore_call(mine, ids[0], id, NULL, ERR));
    must_both_be(mine, 1);
}

static void test_branches_have_their_own_names(void **state)
{
    (void)state;
    set_both(mine, 1);
    must(bh_fork_call(mine, "dev", NULL, ERR));
    set_both(mine, 2);
    must(bh_switch_call(mine, "dev", NULL, ERR));
    must_both_be(mine, 1);
    set_both(mine, 3);
    must(bh_switch_call(mine, "main", NULL, ERR));
    must_both_be(mine, 2);
    must(bh_switch_call(mine, "dev", NULL, ERR));
    must_both_be(mine, 3);
    assert_int_equal(fs.swaps, 3);
    must_be_whole(mine);
}

/* A switch to what has no names. */
static void test_a_branch_without_names_has_none(void **state)
{
    (void)state;
    sql(mine, "CREATE TABLE w(n); INSERT INTO w VALUES(1)");
    must(bh_fork_call(mine, "bare", NULL, ERR));
    set_both(mine, 2);
    must(bh_switch_call(mine, "bare", NULL, ERR));
    assert_int_equal(number(mine, "SELECT n FROM w"), 1);
    assert_int_equal(names_number(mine, "SELECT count(*) FROM sqlite_master"), 0);
    set_both(mine, 3);
    must(bh_switch_call(mine, "main", NULL, ERR));
    must_both_be(mine, 2);
}

static void test_a_branch_of_upstream_begins_without_names(void **state)
{
    (void)state;
    set_both(mine, 1);
    flush(mine);
    shell(
        "sqlite3 plain 'CREATE TABLE w(n); INSERT INTO w VALUES(5)'; mkdir -p bucket/bucketsqlite; "
        "cp plain bucket/bucketsqlite/snap.db.branch.theirs");
    must(bh_switch_call(mine, "theirs", NULL, ERR));
    assert_int_equal(number(mine, "SELECT n FROM w"), 5);
    assert_int_equal(names_number(mine, "SELECT count(*) FROM sqlite_master"), 0);
    must(bh_switch_call(mine, "main", NULL, ERR));
    must_both_be(mine, 1);
}

static void test_an_import_leaves_names_alone(void **state)
{
    char path[160];
    (void)state;
    set_both(mine, 1);
    shell("sqlite3 new.db 'CREATE TABLE w(n); INSERT INTO w VALUES(5)'");
    snprintf(path, sizeof path, "%s/new.db", dir);
    must(bh_import_call(mine, path, NULL, ERR));
    flush(mine);
    stop(&mine);
    other = start("other", NULL);
    assert_int_equal(number(other, "SELECT n FROM w"), 5);
    assert_int_equal(get_value(other), 1);
}

static void test_a_rescue_has_unflushed_names(void **state)
{
    (void)state;
    set_both(mine, 1);
    flush(mine);
    put_value(mine, 2);
    shell("cp -a mine killed");
    stop(&mine); /* flushes 2 */
    shell("rm -rf mine; mv killed mine");
    other = start("other", NULL);
    attach(other);
    set_both(other, 3);
    flush(other);
    stop(&other);
    mine = start("mine", NULL); /* it does not know of that */
    must_both_be(mine, 3);
    const char *name = strstr(mine->recovered.text, "rescue-");
    assert_non_null(name);
    char branch[BH_BRANCH_MAX];
    snprintf(branch, sizeof branch, "%.*s", (int)strcspn(name, ","), name);
    attach(mine);
    must(bh_switch_call(mine, branch, NULL, ERR));
    assert_int_equal(get_value(mine), 2);
    assert_int_equal(number(mine, "SELECT n FROM w"), 1);
}

static void test_who_is_pushed_out_saves_both(void **state)
{
    struct bh_flush_result result;
    (void)state;
    set_both(mine, 1);
    many_names(mine);
    flush(mine);
    other = start("other", "snapshot.steal=true");
    exec_names(other, "DELETE FROM many; VACUUM; UPDATE v SET n = 5");
    flush(other);
    set_both(mine, 2);
    must_fail(bh_flush_call(mine, true, &result, NULL, ERR), ESTALE);
    unpin(mine);
    gc(other, true); /* what it is based on goes */
    must_be_whole(other);
    must(bh_store_hydrate(mine->live->names, NULL, ERR) ? 1 : 0);
    must(bh_fork_call(mine, "saved", NULL, ERR));
    must_be_whole(other);
    stop(&other);
    other = start("third", "snapshot.branch=saved");
    must_both_be(other, 2);
    assert_int_equal(names_number(other, "SELECT count(*) FROM many WHERE length(pad) = 200"),
                     5000);
    (void)bh_stop(mine, ERR);
}

/* --- readers beside replacements --- */

static atomic_bool readers_stop;
static atomic_uint reads;

/* Connections that stay open see the one content or the other, never something of both. */
static void *read_on(void *arg)
{
    sqlite3 *db = arg;
    const char *query =
        "SELECT (SELECT n FROM v) || ' ' || min(mark) || ' ' || max(mark) || ' ' || "
        "count(*) FROM many";
    static const char *const allowed[] = {"1 1 1 2000", "2 2 2 3000"};
    while (!atomic_load(&readers_stop)) {
        sqlite3_stmt *st = NULL;
        int rc = sqlite3_prepare_v2(db, query, -1, &st, NULL);
        if (rc == SQLITE_OK)
            rc = sqlite3_step(st);
        const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
        bool fine = text && (!strcmp(text, allowed[0]) || !strcmp(text, allowed[1]));
        if (!fine)
            fprintf(stderr, "read: %s (%s)\n", text ? text : "nothing", sqlite3_errmsg(db));
        sqlite3_finalize(st);
        if (!fine)
            return arg;
        atomic_fetch_add(&reads, 1);
        usleep(1000); /* or no replacement would ever get in */
    }
    return NULL;
}

static void make_marked(int mark, int rows)
{
    char text[300];
    snprintf(text, sizeof text,
             "DROP TABLE IF EXISTS many; CREATE TABLE many(i INTEGER PRIMARY KEY, mark, pad); WITH "
             "RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < %d) INSERT INTO "
             "many SELECT i, %d, hex(randomblob(100)) FROM s",
             rows, mark);
    exec_names(mine, text);
    set_both(mine, mark);
    flush(mine);
}

static void test_readers_see_the_one_or_the_other(void **state)
{
    pthread_t threads[2];
    sqlite3 *connections[2];
    char id[BH_SNAPSHOT_ID_MAX];
    bool failed = false;
    (void)state;
    make_marked(1, 2000);
    make_marked(2, 3000);
    for (int i = 0; i < 2; i++)
        must(bh_live_names_connect(mine->live, &connections[i], ERR));
    atomic_store(&readers_stop, false);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, connections[i]), 0);
    int rc = 0;
    unsigned swapped = 0;
    for (int i = 0; i < 30 && (rc == 0 || rc == EBUSY); i++) {
        unsigned before = atomic_load(&reads);
        rc = bh_restore_call(mine, ids[i % 2], id, NULL, ERR);
        swapped += rc == 0;
        for (int k = 0; k < 1000 && atomic_load(&reads) < before + 4; k++)
            usleep(1000);
    }
    atomic_store(&readers_stop, true);
    for (int i = 0; i < 2; i++) {
        void *result;
        pthread_join(threads[i], &result);
        failed |= result != NULL;
        sqlite3_close(connections[i]);
    }
    assert_false(failed);
    if (rc != EBUSY)
        must(rc);
    assert_true(swapped > 10);
    must_be_whole(mine);
}

/* --- a crash at any moment of a restore --- */

static unsigned syncs, copy_every;
static bool copying;

static void maybe_copy(void)
{
    char command[400];
    if (!copying || syncs++ % copy_every)
        return;
    copying = false;
    snprintf(command, sizeof command, "mkdir at%u && cp -a mine bucket at%u/", syncs, syncs);
    shell(command);
    copying = true;
}

int fdatasync(int fd)
{
    maybe_copy();
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    maybe_copy();
    return (int)syscall(SYS_fsync, fd);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    maybe_copy();
    int rc = (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
    maybe_copy();
    return rc;
}

static void test_a_crash_shows_both_or_none(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX], name[160], command[200];
    unsigned old = 0, new = 0;
    (void)state;
    for (int i = 1; i <= 2; i++) {
        set_both(mine, i);
        flush(mine);
    }
    syncs = 0;
    copy_every = 1;
    copying = true;
    must(bh_restore_call(mine, ids[0], id, NULL, ERR));
    copying = false;
    stop(&mine);
    for (unsigned i = 1; i <= syncs; i++) {
        snprintf(name, sizeof name, "at%u", i);
        if (!exists(name))
            continue;
        snprintf(command, sizeof command, "rm -rf mine bucket; mv at%u/mine at%u/bucket .", i, i);
        shell(command);
        mine = start("mine", NULL);
        int value = number(mine, "SELECT n FROM w");
        if (get_value(mine) != value)
            fail_msg("at %u: %d in live.db, %d in names.db", i, value, get_value(mine));
        *(value == 1 ? &new : &old) += 1;
        attach(mine);
        change(value);
        flush(mine);
        must_be_whole(mine);
        must_both_be(mine, value);
        stop(&mine);
    }
    assert_true(old > 3);
    assert_true(new > 3);
    mine = start("mine", NULL);
}

/* --- beside others --- */

static void follow(int value)
{
    for (int i = 0; i < 400; i++) {
        struct bh_history_status st;
        bh_history_status(other->history, &st);
        if (!strcmp(other->live->dir.state.base_snapshot, mine->live->dir.state.base_snapshot))
            break;
        usleep(25000);
    }
    must_both_be(other, value);
}

static void test_a_follower_has_both(void **state)
{
    (void)state;
    set_both(mine, 1);
    many_names(mine);
    flush(mine);
    other = make("other", "snapshot.follow=50ms", true);
    must(bh_start(other, ERR));
    follow(1);
    for (int i = 2; i < 8; i++) {
        if (i % 3) /* the one, the other, both */
            set_both(mine, i);
        else
            many_names(mine);
        flush(mine);
        follow(i % 3 ? i : i - 1);
    }
    change(20);
    flush(mine);
    for (int i = 0; i < 400 && get_value(other) != 20; i++)
        usleep(25000);
    assert_int_equal(get_value(other), 20);
    assert_int_equal(names_number(other, "SELECT count(*) FROM many WHERE length(pad) = 200"),
                     5000);
    stop(&other);
    other = make("other", "snapshot.follow=50ms", true);
    must(bh_start(other, ERR));
    assert_int_equal(get_value(other), 20);
}

static void test_gc_keeps_names(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    (void)state;
    many_names(mine);
    for (int i = 1; i <= 6; i++) { /* less and less of the first pack is needed */
        char text[200];
        snprintf(text, sizeof text,
                 "UPDATE many SET pad = hex(randomblob(100)) WHERE i BETWEEN %d AND %d", 700 * i,
                 700 * i + 700);
        exec_names(mine, text);
        set_both(mine, i);
        flush(mine);
    }
    must(bh_label_call(mine, ids[4], "kept", NULL, ERR));
    gc(mine, true);
    must_be_whole(mine);
    stop(&mine);
    other = start("other", NULL);
    must_both_be(other, 6);
    assert_int_equal(names_number(other, "SELECT count(*) FROM many WHERE length(pad) = 200"),
                     5000);
    must_fail(bh_restore_call(other, ids[0], id, NULL, ERR), ENOENT);
    assert_int_not_equal(listing(other->bucket, PREFIX "moved/", NULL, NULL, 0)[0], 0);
}

int main(void)
{
    own_files = true;
    const struct CMUnitTest tests[] = {
        TEST(test_a_restore_brings_both),
        TEST(test_what_files_change_before_the_gate_closes_is_flushed),
        TEST(test_a_gate_that_does_not_close_leaves_all_as_it_is),
        TEST(test_branches_have_their_own_names),
        TEST(test_a_branch_without_names_has_none),
        TEST(test_a_branch_of_upstream_begins_without_names),
        TEST(test_an_import_leaves_names_alone),
        TEST(test_a_rescue_has_unflushed_names),
        TEST(test_who_is_pushed_out_saves_both),
        TEST(test_readers_see_the_one_or_the_other),
        TEST(test_a_crash_shows_both_or_none),
        TEST(test_a_follower_has_both),
        TEST(test_gc_keeps_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
