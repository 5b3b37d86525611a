/* For tests of names.db in the history: a file store that is none keeps one number in it, and the
 * same in the live database, so that the two can be compared wherever they come from. */
#ifndef HISTORY_NAMES_H
#define HISTORY_NAMES_H

#include "history_mounts.h"

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

static inline void exec_names(struct bh *bh, const char *text)
{
    sqlite3 *db;
    must(bh_live_names_connect(bh->live, &db, ERR));
    must_do(db, text);
    sqlite3_close(db);
}

static inline int names_number(struct bh *bh, const char *text)
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
static inline int write_value(struct bh *bh, int value, struct bh_error *err)
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

static inline void put_value(struct bh *bh, int value)
{
    must(write_value(bh, value, ERR));
}

static inline int get_value(struct bh *bh)
{
    return names_number(bh, "SELECT n FROM v");
}

static inline bool is_dirty(void *arg)
{
    return ((struct files *)arg)->changed;
}

static inline int begin(void *arg, const struct bh_call *call, struct bh_error *err)
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

static inline void frozen(void *arg)
{
    struct files *f = arg;
    assert_true(f->held);
    f->held = false;
    f->frozens++;
}

static inline int close_gate(void *arg, struct bh_error *err)
{
    struct files *f = arg;
    assert_false(f->closed || f->held);
    f->closes++;
    if (f->refuse)
        return bh_fail(err, f->refuse, "a file is being written");
    f->closed = true;
    return 0;
}

static inline void open_gate(void *arg, bool swapped)
{
    struct files *f = arg;
    assert_true(f->closed);
    f->closed = false;
    f->opens++;
    f->swaps += swapped;
}

static inline void attach(struct bh *bh)
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
static inline void change(int value)
{
    assert_false(fs.held || fs.closed);
    fs.value = value;
    fs.changed = true;
}

static inline int begin_test(void **state)
{
    if (setup(state))
        return -1;
    id_count = 0;
    attach(mine);
    return 0;
}

/* Both databases say `value`. */
static inline void set_both(struct bh *bh, int value)
{
    char text[200];
    snprintf(text, sizeof text,
             "CREATE TABLE IF NOT EXISTS w(n); DELETE FROM w; INSERT INTO w VALUES(%d)", value);
    sql(bh, text);
    change(value);
}

static inline void must_both_be(struct bh *bh, int value)
{
    assert_int_equal(number(bh, "SELECT n FROM w"), value);
    assert_int_equal(get_value(bh), value);
}

static inline void must_both_be_apart(struct bh *bh, int live, int names)
{
    assert_int_equal(number(bh, "SELECT n FROM w"), live);
    assert_int_equal(get_value(bh), names);
}

static inline uint64_t requests(struct bh *bh)
{
    struct bh_bucket_stats st;
    uint64_t n = 0;
    bh_bucket_stats_of(bh, &st);
    for (int i = 0; i < BH_OP_COUNT; i++)
        n += st.requests[i];
    return n;
}

/* Names enough that not all of them are in the first block. */
static inline void many_names(struct bh *bh)
{
    exec_names(bh, "CREATE TABLE IF NOT EXISTS many(i INTEGER PRIMARY KEY, name, pad); DELETE FROM "
                   "many; WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < "
                   "5000) INSERT INTO many SELECT i, 'name' || i, hex(randomblob(100)) FROM s");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_test, teardown)

#endif
