/* names.db in the history: a file store that is none keeps one number in it, and the same in the
 * live database, so that the two can be compared wherever they come from. */
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

#include "history_mounts.h"
#include "util/io.h"

/* --- the file store --- */

static struct files {
    struct bh *bh;
    int value;    /* as its clients know it */
    bool changed; /* and not in names.db yet */
    bool held, closed;
    unsigned begins, frozens, closes, opens, swaps;
    int refuse;           /* begin() or close_gate() fails with that */
    void (*during)(void); /* runs while it is held */
} fs;

static void exec_names(struct bh *bh, const char *text)
{
    sqlite3 *db;
    must(bh_live_names_connect(bh->live, &db, ERR));
    must_do(db, text);
    sqlite3_close(db);
}

static int names_number(struct bh *bh, const char *text)
{
    sqlite3 *db;
    sqlite3_stmt *st;
    must(bh_live_names_connect(bh->live, &db, ERR));
    assert_int_equal(sqlite3_prepare_v2(db, text, -1, &st, NULL), SQLITE_OK);
    if (sqlite3_step(st) != SQLITE_ROW)
        fail_msg("%s: %s", text, sqlite3_errmsg(db));
    int n = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

/* As a part of the flush this must not leave by longjmp. */
static int write_value(struct bh *bh, int value, struct bh_error *err)
{
    char text[200];
    sqlite3 *db;
    snprintf(text, sizeof text,
             "CREATE TABLE IF NOT EXISTS v(n); DELETE FROM v; INSERT INTO v VALUES(%d)", value);
    int rc = bh_live_names_connect(bh->live, &db, err);
    if (rc)
        return rc;
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
        rc = bh_sqlite_fail(db, err, "names.db cannot be written");
    sqlite3_close(db);
    return rc;
}

static void put_value(struct bh *bh, int value)
{
    must(write_value(bh, value, ERR));
}

static int get_value(struct bh *bh)
{
    return names_number(bh, "SELECT n FROM v");
}

static bool is_dirty(void *arg)
{
    return ((struct files *)arg)->changed;
}

static int begin(void *arg, const struct bh_call *call, struct bh_error *err)
{
    struct files *f = arg;
    (void)call;
    assert_false(f->held);
    f->begins++;
    if (f->refuse)
        return bh_fail(err, f->refuse, "the file store is not ready");
    int rc = f->changed ? write_value(f->bh, f->value, err) : 0;
    if (rc)
        return rc;
    f->changed = false;
    f->held = true;
    if (f->during)
        f->during();
    return 0;
}

static void frozen(void *arg)
{
    struct files *f = arg;
    assert_true(f->held);
    f->held = false;
    f->frozens++;
}

static int close_gate(void *arg, struct bh_error *err)
{
    struct files *f = arg;
    assert_false(f->closed || f->held);
    f->closes++;
    if (f->refuse)
        return bh_fail(err, f->refuse, "a file is being written");
    f->closed = true;
    return 0;
}

static void open_gate(void *arg, bool swapped)
{
    struct files *f = arg;
    assert_true(f->closed);
    f->closed = false;
    f->opens++;
    f->swaps += swapped;
}

static void attach(struct bh *bh)
{
    const struct bh_files_hooks hooks = {.arg = &fs,
                                         .is_dirty = is_dirty,
                                         .begin = begin,
                                         .frozen = frozen,
                                         .close_gate = close_gate,
                                         .open_gate = open_gate};
    fs = (struct files){.bh = bh};
    bh_history_set_files(bh->history, &hooks);
}

/* A client changes a file. */
static void change(int value)
{
    assert_false(fs.held || fs.closed);
    fs.value = value;
    fs.changed = true;
}

static int begin_test(void **state)
{
    if (setup(state))
        return -1;
    id_count = 0;
    attach(mine);
    return 0;
}

/* Both databases say `value`. */
static void set_both(struct bh *bh, int value)
{
    char text[200];
    snprintf(text, sizeof text,
             "CREATE TABLE IF NOT EXISTS w(n); DELETE FROM w; INSERT INTO w VALUES(%d)", value);
    sql(bh, text);
    change(value);
}

static void must_both_be(struct bh *bh, int value)
{
    assert_int_equal(number(bh, "SELECT n FROM w"), value);
    assert_int_equal(get_value(bh), value);
}

static void must_both_be_apart(struct bh *bh, int live, int names)
{
    assert_int_equal(number(bh, "SELECT n FROM w"), live);
    assert_int_equal(get_value(bh), names);
}

static uint64_t requests(struct bh *bh)
{
    struct bh_bucket_stats st;
    uint64_t n = 0;
    bh_bucket_stats_of(bh, &st);
    for (int i = 0; i < BH_OP_COUNT; i++)
        n += st.requests[i];
    return n;
}

/* Names enough that not all of them are in the first block. */
static void many_names(struct bh *bh)
{
    exec_names(bh, "CREATE TABLE IF NOT EXISTS many(i INTEGER PRIMARY KEY, name, pad); DELETE FROM "
                   "many; WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < "
                   "5000) INSERT INTO many SELECT i, 'name' || i, hex(randomblob(100)) FROM s");
}

/* --- flushes --- */

static void test_a_flush_stores_both(void **state)
{
    (void)state;
    set_both(mine, 1);
    many_names(mine);
    assert_true(bh_history_is_dirty(mine->history));
    flush(mine);
    assert_false(bh_history_is_dirty(mine->history));
    assert_int_equal(fs.begins, 1);
    assert_int_equal(fs.frozens, 1);
    assert_true(mine->history->head.newest.names.size > 500000);
    stop(&mine);
    other = start("other", NULL);
    bh_hydrator_stop(other); /* which would fetch it all */
    struct bh_live *l = other->live;
    assert_true(bh_store_absent_bytes(l->names) > 500000);
    must_both_be(other, 1);
    assert_true(bh_store_absent_bytes(l->names) > 500000); /* only what was needed came */
    assert_int_equal(names_number(other, "SELECT count(*) FROM many WHERE length(pad) = 200"),
                     5000);
    must_be_whole(other);
}

static void test_a_view_reads_the_names_of_a_snapshot(void **state)
{
    unsigned char begin_of[16];
    size_t got;
    (void)state;
    set_both(mine, 1);
    flush(mine);
    const struct bh_index_entry *e = &mine->history->head.newest;
    must(bh_history_read_names(mine->history, e, 0, begin_of, sizeof begin_of, &got, NULL, ERR));
    assert_int_equal(got, 16);
    assert_memory_equal(begin_of, "SQLite format 3", 16);
    must(bh_history_read_names(mine->history, e, e->names.size - 6, begin_of, 16, &got, NULL, ERR));
    assert_int_equal(got, 6);
    must(bh_history_read_names(mine->history, e, e->names.size, begin_of, 16, &got, NULL, ERR));
    assert_int_equal(got, 0);
}

static void test_nothing_changed_costs_no_request(void **state)
{
    (void)state;
    set_both(mine, 1);
    flush(mine);
    uint64_t before = requests(mine);
    flush(mine);
    assert_string_equal(ids[0], ids[1]);
    assert_int_equal(requests(mine), before);
    assert_int_equal(fs.begins, 1);
}

static void test_changed_names_cost_what_changed(void **state)
{
    struct bh_flush_result result;
    (void)state;
    fill(mine, 1);
    set_both(mine, 1);
    many_names(mine);
    flush(mine);
    const struct bh_root db = mine->history->head.newest.db, was = mine->history->head.newest.names;
    change(2);
    must(bh_flush_call(mine, true, &result, NULL, ERR));
    const struct bh_index_entry *e = &mine->history->head.newest;
    assert_true(result.outcome == BH_FLUSH_UPLOADED);
    assert_true(result.bytes > 0 && result.bytes < 30000);
    assert_true(bh_root_is_same(&e->db, &db));
    assert_false(bh_root_is_same(&e->names, &was));
    assert_int_equal(e->changed, 0);
    sql(mine, "UPDATE t SET v = 3"); /* and the other way round */
    const struct bh_root names = e->names;
    flush(mine);
    assert_true(bh_root_is_same(&mine->history->head.newest.names, &names));
    must_be_whole(mine);
}

static void test_a_file_store_that_is_not_ready_fails_the_flush(void **state)
{
    struct bh_flush_result result;
    (void)state;
    set_both(mine, 1);
    fs.refuse = ENOSPC;
    must_fail(bh_flush_call(mine, true, &result, NULL, ERR), ENOSPC);
    must_say("the file store is not ready");
    assert_int_equal(fs.frozens, 0);
    fs.refuse = 0;
    flush(mine);
    assert_int_equal(fs.frozens, 1);
    must_both_be(mine, 1);
}

static void write_on(void)
{
    sql(mine, "CREATE TABLE IF NOT EXISTS x(i); INSERT INTO x VALUES(1)");
}

/* The live database goes on until both are frozen. */
static void test_what_is_written_while_it_is_held_is_in_the_same_snapshot(void **state)
{
    (void)state;
    set_both(mine, 1);
    fs.during = write_on;
    flush(mine);
    fs.during = NULL;
    assert_false(bh_history_is_dirty(mine->history));
    stop(&mine);
    other = start("other", NULL);
    assert_int_equal(number(other, "SELECT count(*) FROM x"), 1);
}

/* --- the plain snapshot, which has no names --- */

static void restart_with_plain(void)
{
    stop(&mine);
    mine = start("mine", "snapshot.plain=always");
    attach(mine);
}

static void test_names_alone_leave_the_plain_snapshot_as_it_is(void **state)
{
    (void)state;
    restart_with_plain();
    set_both(mine, 1);
    flush(mine);
    shell("cp bucket/bucketsqlite/snap.db first; stat -c %i.%Y bucket/bucketsqlite/snap.db >inode");
    for (int i = 2; i < 5; i++) {
        change(i);
        flush(mine);
        flush(mine);
        shell("cmp first bucket/bucketsqlite/snap.db; "
              "test $(cat inode) = $(stat -c %i.%Y bucket/bucketsqlite/snap.db)");
        if (i == 3)
            restart_with_plain();
    }
    must_be_whole(mine);
    set_both(mine, 5);
    flush(mine);
    shell("test $(sqlite3 bucket/bucketsqlite/snap.db 'SELECT n FROM w') = 5");
    must_be_whole(mine);
}

/* It has kept as KEY.prev what names were flushed after. */
static void test_upstream_goes_on_after_a_flush_of_names(void **state)
{
    (void)state;
    restart_with_plain();
    set_both(mine, 1);
    flush(mine);
    change(2);
    flush(mine);
    must(bh_bucket_copy(mine->bucket, "bucketsqlite/snap.db", "bucketsqlite/snap.db.prev", NULL,
                        NULL, NULL, ERR));
    shell("cp bucket/bucketsqlite/snap.db theirs; sqlite3 theirs 'UPDATE w SET n = 7'");
    size_t len = 0;
    BH_FREE char *theirs = NULL;
    must(bh_read_small_file(AT_FDCWD, path_of("theirs"), 1 << 20, &theirs, &len, ERR));
    struct bh_source src = {.size = len, .data = theirs};
    must(bh_bucket_put(mine->bucket, "bucketsqlite/snap.db", &src, NULL, NULL, NULL, NULL, ERR));
    stop(&mine);
    mine = start("mine", NULL);
    must_both_be_apart(mine, 7, 2);
    assert_null(strstr(mine->recovered.text, "upstream-"));
}

/* --- an end that is none --- */

static void test_unflushed_names_survive_a_kill(void **state)
{
    (void)state;
    set_both(mine, 1);
    flush(mine);
    put_value(mine, 2); /* in names.db, not in the bucket */
    shell("cp -a mine killed; cp -a bucket bucket.killed");
    stop(&mine);
    shell("rm -rf mine bucket; mv killed mine; mv bucket.killed bucket");
    mine = start("mine", NULL);
    assert_true(bh_history_is_dirty(mine->history));
    struct bh_info info;
    bh_get_info(mine, &info);
    assert_true(info.dirty_bytes > 0);
    assert_int_equal(get_value(mine), 2);
    flush(mine);
    stop(&mine);
    other = start("other", NULL);
    assert_int_equal(get_value(other), 2);
    assert_int_equal(number(other, "SELECT n FROM w"), 1);
}

static void test_a_half_written_commit_is_rolled_back(void **state)
{
    sqlite3 *db;
    (void)state;
    set_both(mine, 1);
    many_names(mine);
    flush(mine);
    must(bh_live_names_connect(mine->live, &db, ERR));
    must_do(db, "PRAGMA cache_size=5; BEGIN; UPDATE many SET pad = hex(randomblob(100))");
    shell("cp -a mine killed; cp -a bucket bucket.killed"); /* spilled pages are in the file */
    must_do(db, "ROLLBACK");
    sqlite3_close(db);
    stop(&mine);
    shell("rm -rf mine bucket; mv killed mine; mv bucket.killed bucket; "
          "test -s mine/names/live.db-journal");
    mine = start("mine", NULL);
    flush(mine); /* nobody has opened it yet */
    assert_int_equal(names_number(mine, "SELECT count(*) FROM pragma_integrity_check WHERE "
                                        "integrity_check = 'ok'"),
                     1);
    must_be_whole(mine);
    must_both_be(mine, 1);
}

static void test_a_state_of_before_has_no_names(void **state)
{
    (void)state;
    sql(mine, "CREATE TABLE w(n); INSERT INTO w VALUES(1)");
    flush(mine);
    stop(&mine);
    shell("rm -r mine/names; sed -i /^names_/d mine/state");
    mine = start("mine", NULL);
    assert_false(bh_history_is_dirty(mine->history));
    assert_int_equal(names_number(mine, "SELECT count(*) FROM sqlite_master"), 0);
    attach(mine);
    change(7);
    flush(mine);
    assert_int_equal(get_value(mine), 7);
    must_be_whole(mine);
}

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

/* --- damage --- */

static void flip(const char *path, uint32_t at)
{
    unsigned char byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

struct records {
    struct bh_ref refs[100];
    size_t count, nodes;
};

static int note_record(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                       const struct bh_error *damage)
{
    struct records *r = arg;
    (void)number;
    if (damage || r->count == 100)
        return EIO;
    r->refs[r->count++] = *ref;
    r->nodes += level > 0;
    return 0;
}

static void damage_record(const struct bh_ref *ref)
{
    char name[BH_PACK_NAME_MAX], path[200];
    BH_STRBUF report = {0};
    bh_pack_name(ref->pack, name);
    snprintf(path, sizeof path, "%s/bucket/" PREFIX "packs/%s", dir, name);
    flip(path, ref->offset + ref->stored / 2);
    if (bh_verify_call(mine, true, &report, NULL, ERR) != EIO)
        fail_msg("%s", report.data);
    if (!strstr(report.data, "(names.db) branch main"))
        fail_msg("%s", report.data);
    flip(path, ref->offset + ref->stored / 2);
}

static void test_verify_finds_every_damaged_block(void **state)
{
    struct records r = {0};
    (void)state;
    set_both(mine, 1);
    exec_names(mine,
               "CREATE TABLE many(i INTEGER PRIMARY KEY, pad); WITH RECURSIVE s(i) AS (SELECT "
               "1 UNION ALL SELECT i + 1 FROM s WHERE i < 200) INSERT INTO many SELECT i, "
               "hex(randomblob(100)) FROM s");
    flush(mine);
    must(bh_tree_walk(mine->history->trees, &mine->history->head.newest.names, NULL, note_record,
                      &r, NULL, ERR));
    assert_true(r.count > 9);
    assert_int_equal(r.nodes, 1);
    for (size_t i = 0; i < r.count; i++)
        damage_record(&r.refs[i]);
    must_be_whole(mine);
}

/* Whole blocks of a database that is not. */
static void test_verify_checks_the_integrity_of_names(void **state)
{
    BH_STRBUF report = {0};
    char text[160];
    (void)state;
    set_both(mine, 1);
    exec_names(mine, "CREATE TABLE u(a, b); INSERT INTO u VALUES(1, 2); CREATE INDEX i ON u(a); "
                     "PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql = 'CREATE INDEX i ON "
                     "u(b)' WHERE name = 'i'");
    flush(mine);
    assert_int_equal(bh_verify_call(mine, true, &report, NULL, ERR), EIO);
    snprintf(text, sizeof text, "names.db of snapshot %s is damaged: integrity_check says: row 1",
             ids[0]);
    if (!strstr(report.data, text))
        fail_msg("%s", report.data);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_test, teardown)

int main(void)
{
    own_files = true;
    const struct CMUnitTest tests[] = {
        TEST(test_a_flush_stores_both),
        TEST(test_a_view_reads_the_names_of_a_snapshot),
        TEST(test_nothing_changed_costs_no_request),
        TEST(test_changed_names_cost_what_changed),
        TEST(test_a_file_store_that_is_not_ready_fails_the_flush),
        TEST(test_what_is_written_while_it_is_held_is_in_the_same_snapshot),
        TEST(test_names_alone_leave_the_plain_snapshot_as_it_is),
        TEST(test_upstream_goes_on_after_a_flush_of_names),
        TEST(test_unflushed_names_survive_a_kill),
        TEST(test_a_half_written_commit_is_rolled_back),
        TEST(test_a_state_of_before_has_no_names),
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
        TEST(test_verify_finds_every_damaged_block),
        TEST(test_verify_checks_the_integrity_of_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
