/* Flushes of names.db with the live database, what an end that is none leaves of it, damage. */
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
        TEST(test_verify_finds_every_damaged_block),
        TEST(test_verify_checks_the_integrity_of_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
