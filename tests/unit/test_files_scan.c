/* Table filestore is read in chunks, between which clients write: no row is passed over. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/files_scan.h"

#define ROWS 2500

static sqlite3 *db;
static struct files_scan scan;
static struct bh_error error;
static bool seen[ROWS + 1]; /* by their sizes */
static unsigned again;      /* seen more than once */

static void run(const char *sql)
{
    char *text = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK)
        fail_msg("%s: %s", sql, text);
}

static int setup(void **state)
{
    (void)state;
    scan = (struct files_scan){.prefix = "files/"};
    memset(seen, 0, sizeof seen);
    again = 0;
    if (sqlite3_open(":memory:", &db) != SQLITE_OK)
        return -1;
    run("CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, size INTEGER, created_at REAL);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
        "INSERT INTO filestore SELECT printf('%064x', i), i, i FROM n");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    files_scan_forget(&scan);
    free(scan.found);
    return sqlite3_close(db) == SQLITE_OK ? 0 : -1;
}

static int chunk(void)
{
    int rc = files_scan_chunk(db, &scan, &error);
    for (size_t i = 0; i < scan.count; i++) {
        assert_in_range(scan.found[i].size, 1, ROWS);
        again += seen[scan.found[i].size];
        seen[scan.found[i].size] = true;
    }
    files_scan_forget(&scan);
    return rc;
}

static void go_on(void)
{
    for (unsigned n = 0; !scan.end; n++) {
        assert_int_equal(chunk(), 0);
        assert_true(n < 20);
    }
}

static unsigned count(void)
{
    unsigned n = 0;
    for (unsigned i = 1; i <= ROWS; i++)
        n += seen[i];
    return n;
}

static void test_nothing_changes(void **state)
{
    struct bh_names_rows last;
    go_on();
    assert_int_equal(count(), ROWS);
    assert_int_equal(again, 0);
    assert_true(scan.all);
    assert_int_equal(scan.restarts, 0);
    assert_int_equal(files_last_row(db, &last, &error), 0);
    assert_int_equal(last.row, scan.last.row);
    assert_true(last.mark == scan.last.mark);
}

/* From a row that was looked at earlier: only what came since. */
static void test_goes_on(void **state)
{
    struct bh_names_rows last;
    run("CREATE TABLE rest AS SELECT * FROM filestore WHERE rowid > 1200;"
        "DELETE FROM filestore WHERE rowid > 1200");
    assert_int_equal(files_last_row(db, &last, &error), 0);
    run("INSERT INTO filestore SELECT * FROM rest");
    scan.last = last;
    go_on();
    assert_int_equal(count(), ROWS - 1200);
    assert_false(scan.all);
    assert_int_equal(again, 0);
}

/* Rows have others' numbers, as after a VACUUM; what was behind is in front. */
static void test_made_anew(void **state)
{
    assert_int_equal(chunk(), 0);
    assert_false(scan.end);
    run("CREATE TABLE copy AS SELECT * FROM filestore ORDER BY size DESC; DELETE FROM filestore;"
        "INSERT INTO filestore SELECT * FROM copy");
    go_on();
    assert_int_equal(count(), ROWS);
    assert_true(scan.all);
    assert_int_equal(scan.restarts, 1);
}

/* The same where only new ones are looked at: it is another table, of which all are. */
static void test_made_anew_behind(void **state)
{
    run("CREATE TABLE rest AS SELECT * FROM filestore WHERE rowid > 200;"
        "DELETE FROM filestore WHERE rowid > 200");
    assert_int_equal(files_last_row(db, &scan.last, &error), 0);
    run("INSERT INTO filestore SELECT * FROM rest");
    assert_int_equal(chunk(), 0);
    assert_false(scan.all);
    assert_int_equal(count(), 1000);
    run("CREATE TABLE copy AS SELECT * FROM filestore ORDER BY size DESC; DELETE FROM filestore;"
        "INSERT INTO filestore SELECT * FROM copy");
    go_on();
    assert_true(scan.all);
    assert_int_equal(count(), ROWS);
}

static void test_gone(void **state)
{
    assert_int_equal(chunk(), 0);
    run("DROP TABLE filestore");
    assert_int_equal(chunk(), 0);
    assert_true(scan.end);
    assert_int_equal(scan.last.mark, 0);
}

/* It does not go on for ever with who makes it anew all the time. */
static void test_always_changed(void **state)
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < 100; i++) {
        rc = chunk();
        run("CREATE TABLE copy AS SELECT * FROM filestore ORDER BY size; DELETE FROM filestore;"
            "INSERT INTO filestore SELECT bh_key, size, created_at + 1 FROM copy; DROP TABLE copy");
    }
    assert_int_equal(rc, EBUSY);
    assert_non_null(strstr(error.text, "filestore"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_nothing_changes),  T(test_goes_on), T(test_made_anew),
        T(test_made_anew_behind), T(test_gone),    T(test_always_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
