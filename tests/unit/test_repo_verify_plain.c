/* What verify finds in the content of snapshots and in plain objects, and where there is nothing.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "verify_fixture.h"

static void test_integrity(void **state)
{
    start_bh(NULL, 0);
    sql("CREATE TABLE t(x); CREATE TABLE u(x); INSERT INTO t VALUES(1); INSERT INTO u VALUES(2)");
    flush();
    copy_bucket();
    must_be_whole(true);
    teardown(state);
    setup(state);
    start_bh(NULL, 0);
    sql("CREATE TABLE t(x); CREATE TABLE u(x); INSERT INTO t VALUES(1); INSERT INTO u VALUES(2)");
    sql("PRAGMA writable_schema=ON; UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'u'");
    flush();
    copy_bucket();
    must_be_whole(false);
    char key[128];
    snprintf(key, sizeof key, PREFIX "snapshots/%s", ids[0]);
    must_name(true, key, NULL, "not sound", 0);
    assert_non_null(strstr(test_error.text, "integrity_check"));
}

static void test_plain_objects(void **state)
{
    const char *const always[] = {"snapshot.plain=always"};
    const char *const key = "bucketsqlite/snap.db";
    char branch[100];
    start_bh(always, 1);
    sql("CREATE TABLE t(x)");
    flush();
    must(bh_fork_call(bh, "dev", NULL, ERR));
    must(bh_switch_call(bh, "dev", NULL, ERR));
    sql("INSERT INTO t VALUES(1)");
    flush();
    copy_bucket();
    must_be_whole(true);
    snprintf(branch, sizeof branch, "plain: %s: snapshot %s, ", key, ids[0]);
    assert_true(says(branch));
    struct memory_object *o = memory_find(memory, key);
    o->data[5000] ^= 4;
    must_be_whole(false);
    must_name(true, key, NULL, "flipped", 5000);
    o->data[5000] ^= 4;
    o->size -= 1;
    must_name(false, key, NULL, "cut", 1);
    o->size += 1;
    struct memory_object was = memory_take(memory, key);
    must_be_whole(true);
    assert_true(says("plain: bucketsqlite/snap.db: none\n"));
    memory_give(memory, key, &was);
    /* It has one snapshot only, but its plain object tells that there was a head. */
    was = memory_take(memory, PREFIX "branches/dev");
    must_name(true, PREFIX "branches/dev", NULL, "removed", 0);
    memory_give(memory, PREFIX "branches/dev", &was);
    must_be_whole(true);
}

/* One that tells no hash, as a mount leaves it that had not all of it: its snapshot tells. */
static void test_plain_without_hash(void **state)
{
    const char *const always[] = {"snapshot.plain=always"};
    const char *const key = "bucketsqlite/snap.db";
    start_bh(always, 1);
    sql("CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(20000))");
    flush();
    copy_bucket();
    struct memory_object *o = memory_find(memory, key);
    for (size_t i = 0; i < o->meta.count; i++)
        if (!strcmp(o->meta.items[i].name, "bh-sha256"))
            strcpy(o->meta.items[i].name, "other");
    must_be_whole(true);
    const size_t last = o->size - 1, places[] = {0, 16, 60, 200, 4096, 8192, 12345, last};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        o->data[places[i]] ^= 4;
        must_be_whole(false);
        must_name(true, key, NULL, "flipped", places[i]);
        assert_true(says("is not as snapshot"));
        o->data[places[i]] ^= 4;
    }
    o->data[27] ^= 4; /* a counter that a restore changes, too */
    must_be_whole(true);
}

static void test_nothing(void **state)
{
    start_bh(NULL, 0);
    copy_bucket();
    must_be_whole(true);
    assert_true(says("history: none\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_integrity, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plain_objects, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plain_without_hash, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
    };
    return cmocka_run_group_tests_name("verify-plain", tests, NULL, NULL);
}
