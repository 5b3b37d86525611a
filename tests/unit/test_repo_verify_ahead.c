/* verify reads by several threads at once: it is quicker by as much, and finds the same. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "buckethead.h"
#include "internal.h"
#include "repo/verify.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "bucket_fixture.h" /* last: its b would hide parameters */

#define PREFIX    "bucketsqlite/snap.db.bhfs/"
#define SNAPSHOTS 50

static void make_history(void)
{
    struct bh *bh;
    struct bh_flush_result result;
    sqlite3 *db;
    char url[128], live[128], name[32], text[256];
    const char *settings[] = {live, "snapshot.block_size=4096", "snapshot.interval=0",
                              "snapshot.plain=never", "log.level=error"};
    snprintf(url, sizeof url, "file://%s/bucket", dir);
    snprintf(live, sizeof live, "live.dir=%s/state", dir);
    must(bh_create_with(&bh, NULL, url, settings, 5, ERR));
    must(bh_start(bh, ERR));
    must(bh_connect(bh, &db, ERR));
    /* over 256 blocks: nodes of two levels */
    assert_int_equal(
        sqlite3_exec(db,
                     "CREATE TABLE t(i INTEGER PRIMARY KEY, v); WITH RECURSIVE n(i) AS "
                     "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) INSERT "
                     "INTO t SELECT i, randomblob(3000) FROM n",
                     NULL, NULL, NULL),
        SQLITE_OK);
    for (int i = 0; i < SNAPSHOTS; i++) {
        snprintf(text, sizeof text, "UPDATE t SET v = randomblob(3000) WHERE i %% 97 = %d", i);
        assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
        must(bh_flush_call(bh, true, &result, NULL, ERR));
        snprintf(name, sizeof name, "label-%d", i);
        if (i % 3 == 0)
            must(bh_label_call(bh, result.snapshot, name, NULL, ERR));
        if (i % 30 == 20)
            must(bh_fork_call(bh, name, NULL, ERR));
        if (i % 5 == 4)
            must(bh_drop_call(bh, result.snapshot, NULL, NULL) == EBUSY ? 0 : EIO); /* the newest */
    }
    sqlite3_close(db);
    must(bh_stop(bh, ERR));
    bh_destroy(bh);
}

static int setup(void **state)
{
    if (dir_setup(state))
        return -1;
    setenv("HOME", dir, 1);
    setenv("TMPDIR", dir, 1);
    must(bh_log_setup(BH_LOG_ERROR, "", true, ERR));
    unsetenv("XDG_CONFIG_HOME");
    unsetenv("BUCKETHEAD_CONFIG");
    shell("mkdir bucket");
    make_history();
    return 0;
}

/* But for the time in the first line. */
static const char *findings(const struct bh_strbuf *report)
{
    return strchr(report->data, '\n');
}

/* Returns how long it took, in ms; expected: -1: whatever. */
static int64_t verify(const char *connections, const char *faults, bool full, int expected,
                      struct bh_strbuf *report)
{
    char url[128];
    const char *const settings[] = {connections, faults};
    struct bh_config *cfg;
    struct bh_bucket *bucket;
    struct bh_history *history;
    snprintf(url, sizeof url, "file://%s/bucket", dir);
    const struct bh_config_request how = {.url = url, .overrides = settings, .override_count = 2};
    must(bh_config_load(&cfg, &how, ERR));
    must(bh_bucket_open(&bucket, cfg, ERR));
    must(bh_history_new(&history, cfg, bucket, NULL, true, ERR));
    int64_t begin = bh_mono_ms();
    int rc = bh_history_verify(history, full, report, NULL, ERR);
    must_be_(expected < 0 ? rc : expected, rc, "verify", __FILE__, __LINE__);
    int64_t took = bh_mono_ms() - begin;
    bh_history_free(history);
    bh_bucket_close(bucket);
    bh_config_free(cfg);
    return took;
}

static void test_quicker(void **state)
{
    BH_STRBUF one = {0};
    BH_STRBUF many = {0};
    const char *slow = "bucket.fault=get:delay=20ms;head:delay=20ms";
    int64_t alone = verify("bucket.connections=1", slow, false, 0, &one);
    int64_t together = verify("bucket.connections=16", slow, false, 0, &many);
    print_message("%d snapshots, 20 ms a request: %lld ms one by one, %lld ms by 16\n", SNAPSHOTS,
                  (long long)alone, (long long)together);
    assert_string_equal(findings(&one), findings(&many));
    assert_true(together * 2 < alone);
}

static int next_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                    struct bh_error *err)
{
    char **keys = arg;
    while (*keys)
        keys++;
    *keys = strdup(key);
    return 0;
}

/* Every object away, every object cut. */
static void test_finds_the_same(void **state)
{
    static char *keys[1000];
    unsigned found = 0;
    char command[512];
    const struct bh_list_request req = {.prefix = "bucket/" PREFIX};
    must(bh_bucket_list(b, &req, next_key, keys, NULL, ERR));
    for (size_t i = 0; keys[i]; i++) {
        for (int cut = 0; cut < 2 && i % 8 == 0; cut++) {
            BH_STRBUF one = {0};
            BH_STRBUF many = {0};
            snprintf(command, sizeof command, cut ? "cp %s away; truncate -s -1 %s" : "mv %s away",
                     keys[i], keys[i]);
            shell(command);
            bool full = i % 16;
            verify("bucket.connections=1", "bucket.fault=", full, -1, &one);
            verify("bucket.connections=16", "bucket.fault=", full, -1, &many);
            found += strstr(one.data, "\ndamaged: ") != NULL;
            if (strcmp(findings(&one), findings(&many)))
                fail_msg("%s\n--- one by one\n%s\n--- together\n%s", command, one.data, many.data);
            snprintf(command, sizeof command, "mv away %s", keys[i]);
            shell(command);
        }
        free(keys[i]);
    }
    assert_true(found > 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quicker),
        cmocka_unit_test(test_finds_the_same),
    };
    return cmocka_run_group_tests_name("repo-verify-ahead", tests, setup, dir_teardown);
}
