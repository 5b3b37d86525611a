/* The plain object beside a history, made in the bucket out of the one before: what is sent, what
 * it is then, and what happens where the store or somebody else is in the way. On badserver.py. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bad_server.h"
#include "buckethead.h"
#include "internal.h"
#include "repo/plain_private.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/sha256.h"
#include "bucket_fixture.h" /* last: its b would hide parameters */

#define KEY  "bucketsqlite/snap.db"
#define PREV KEY ".prev"
#define PART (5 * MIB)
#define MAX  ((size_t)300 << 20)

static struct bh *bh;
static struct bh_bucket *other; /* what somebody else sees of the bucket */
static struct bh_flush_result result;

/* --- life --- */

static void start(const char *more)
{
    char url[128], live[128];
    const char *settings[12] = {live,
                                "snapshot.plain=always",
                                "snapshot.interval=0",
                                "live.journal=delete",
                                "log.level=error",
                                "bucket.retry_base=1ms",
                                "bucket.retry_time=3s",
                                "bucket.timeout=10s",
                                more};
    snprintf(url, sizeof url, "s3://b?endpoint=http://127.0.0.1:%d&region=us-east-1", bad_port);
    snprintf(live, sizeof live, "live.dir=%s/state", dir);
    must(bh_create_with(&bh, NULL, url, settings, more ? 9 : 8, ERR));
    must(bh_start(bh, ERR));
}

static void stop(void)
{
    must(bh_stop(bh, ERR));
    bh_destroy(bh);
    bh = NULL;
}

static int setup(void **state)
{
    if (dir_setup(state) || bad_fresh(state))
        return -1;
    setenv("HOME", dir, 1);
    setenv("no_proxy", "*", 1);
    setenv("AWS_ACCESS_KEY_ID", "AKIDTEST", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "secret/of+the=test", 1);
    unsetenv("XDG_CONFIG_HOME");
    unsetenv("BUCKETHEAD_CONFIG");
    must(bh_log_setup(BH_LOG_ERROR, "", true, ERR));
    other = bad_open("bucket.timeout=10s");
    return 0;
}

static int teardown(void **state)
{
    bh_destroy(bh);
    bh = NULL;
    bad_close(other);
    return dir_teardown(state);
}

/* --- what tests do --- */

static void sql(const char *fmt, ...)
{
    sqlite3 *db;
    char *why = NULL, text[500];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    must(bh_connect(bh, &db, ERR));
    if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", text, why);
    sqlite3_close(db);
}

static void insert(int rows)
{
    sql("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, n DEFAULT 0, x);"
        "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < %d) "
        "INSERT INTO t(x) SELECT randomblob(3900) FROM s",
        rows);
}

static void flush(void)
{
    must(bh_flush_call(bh, true, &result, NULL, ERR));
    assert_int_equal(result.outcome, BH_FLUSH_UPLOADED);
}

static struct bh_bucket_stats stats(void)
{
    struct bh_bucket_stats s;
    bh_bucket_stats_of(bh, &s);
    return s;
}

static char *object(const char *key, size_t *len, struct bh_object_info *info)
{
    char *data;
    must(bh_bucket_get_small(other, key, MAX, &data, len, info, NULL, ERR));
    return data;
}

/* What a whole upload would send: without a journal and WAL, the file as it is. */
static char *local(size_t *len)
{
    char name[200];
    struct bh_live *live = bh_live_of(bh);
    snprintf(name, sizeof name, "%s/db.%" PRIu64, live->dir.path, live->dir.state.generation);
    FILE *f = fopen(name, "r");
    char *data = malloc(MAX);
    assert_true(f && data);
    *len = fread(data, 1, MAX, f);
    fclose(f);
    return data;
}

static void must_be_equal(const char *a, size_t a_len, const char *c, size_t c_len)
{
    assert_int_equal(a_len, c_len);
    for (size_t i = 0; i < a_len; i++)
        if (a[i] != c[i])
            fail_msg("byte %zu of %zu differs", i, a_len);
}

/* KEY is the content of the last flush, byte by byte, with its metadata. */
static void must_be_written(bool hashed)
{
    size_t len, local_len;
    char hex[BH_SHA256_HEX];
    struct bh_object_info info;
    BH_FREE char *now = object(KEY, &len, &info);
    BH_FREE char *mine = local(&local_len);
    must_be_equal(now, len, mine, local_len);
    assert_string_equal(bh_meta_get(&info.meta, META_SNAPSHOT), result.snapshot);
    must(bh_sha256_hex_of(now, len, hex));
    const char *told = bh_meta_get(&info.meta, META_SHA256);
    if (hashed)
        assert_string_equal(told, hex);
    else
        assert_null(told);
}

static int note_upload(void *arg, const char *key, const char *id, int64_t started_ms,
                       struct bh_error *err)
{
    ++*(int *)arg;
    return 0;
}

static void must_leave_no_upload(void)
{
    int n = 0;
    must(bh_bucket_mp_list(other, "", note_upload, &n, NULL, ERR));
    assert_int_equal(n, 0);
}

static size_t copies(void)
{
    return bad_count("mp_part_copy PUT /b/" KEY);
}

static const char *id_of(const char *key)
{
    static struct bh_object_info info;
    must(bh_bucket_head(other, key, &info, NULL, ERR));
    const char *id = bh_meta_get(&info.meta, META_SNAPSHOT);
    return id ? id : "";
}

/* --- what is sent --- */

static void test_only_changed_parts_are_sent(void **state)
{
    char first[BH_SNAPSHOT_ID_MAX];
    start(NULL);
    insert(25000);
    flush();
    must_be_written(true);
    uint64_t size = result.bytes / 2; /* packs and KEY */
    assert_in_range(size, 95 * MIB, 110 * MIB);
    assert_int_equal(copies(), 0);
    memcpy(first, result.snapshot, sizeof first);

    uint64_t up = stats().bytes_up;
    sql("UPDATE t SET n = 1 WHERE id BETWEEN 12000 AND 12009");
    flush();
    up = stats().bytes_up - up;
    /* The first part, which has the header; and the rows', which may be two. */
    assert_in_range(up, 2 * PART, 3 * PART + MIB);
    assert_in_range(up - result.bytes, 0,
                    100000); /* it says what it sent, heads and records aside */
    assert_in_range(copies(), 18, 20);
    must_be_written(true);
    assert_string_equal(id_of(PREV), first);
    print_message("           %" PRIu64 " of %" PRIu64 " bytes sent, %zu parts copied\n", up, size,
                  copies());
    must_leave_no_upload();

    size_t before = copies();
    insert(10); /* at the end: the last part */
    flush();
    must_be_written(true);
    assert_in_range(copies() - before, 18, 20);
}

/* Whatever happens to a database: growing, shrinking, moved pages, zeros, an older content. */
static void test_any_change(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    start("snapshot.block_size=65536");
    insert(5500);
    flush();
    for (int i = 0; i < 7; i++) {
        size_t before = copies();
        switch (i) {
        case 0:
            sql("UPDATE t SET n = n + 1 WHERE id = %d", 500 * i + 3000);
            break;
        case 1:
            insert(2000);
            break;
        case 2:
            sql("UPDATE t SET x = zeroblob(3900) WHERE id BETWEEN 2000 AND 4000");
            break;
        case 3:
            sql("DELETE FROM t WHERE id > 5000");
            break;
        case 4:
            sql("VACUUM"); /* shorter */
            break;
        case 5:
            sql("CREATE TABLE z%d AS SELECT zeroblob(3000000) AS x", i);
            break;
        case 6:
            must(bh_restore_call(bh, "prev", id, NULL, ERR));
            sql("UPDATE t SET n = n + 1 WHERE id = 2000");
            break;
        }
        bool whole = bh_store_absent_bytes(bh_live_of(bh)->store) == 0;
        flush();
        must(bh_hydrate_call(bh, NULL, ERR));
        must_be_written(whole);
        print_message("           change %d: %zu parts copied\n", i, copies() - before);
        must_leave_no_upload();
        if (i == 0)
            assert_in_range(copies() - before, 2, 4);
    }
    must(bh_bucket_head(other, PREV, NULL, NULL, ERR));
}

static void test_a_small_one_is_sent(void **state)
{
    start(NULL);
    insert(2500);
    flush();
    assert_in_range(result.bytes / 2, 9 * MIB, 2 * PART);
    sql("UPDATE t SET n = 1 WHERE id = 2500");
    flush();
    assert_int_equal(copies(), 0);
    must_be_written(true);
}

/* Where nothing is local that need not be, nothing is fetched that need not be. */
static void test_a_lazy_mount_fetches_no_unchanged_part(void **state)
{
    start(NULL);
    insert(15000);
    flush();
    stop();
    shell("rm -rf state");
    start(NULL);
    sql("UPDATE t SET n = 1 WHERE id = 14000");
    struct bh_bucket_stats before = stats();
    flush();
    struct bh_bucket_stats after = stats();
    assert_in_range(after.bytes_down - before.bytes_down, PART, 2 * PART + 2 * MIB);
    assert_in_range(after.bytes_up - before.bytes_up, 2 * PART, 2 * PART + MIB);
    assert_in_range(copies(), 9, 10);
    print_message("           %" PRIu64 " bytes fetched, %" PRIu64 " sent\n",
                  after.bytes_down - before.bytes_down, after.bytes_up - before.bytes_up);
    must(bh_hydrate_call(bh, NULL, ERR));
    must_be_written(false);
    stop();
    /* And who knows of no history takes it for what it is. */
    shell("rm -rf state");
    start("snapshot.history=false");
    sql("CREATE TABLE ok AS SELECT 1 / (SELECT n FROM t WHERE id = 14000) AS n");
}

/* --- what is in the way --- */

static void test_a_store_that_ignores_the_condition(void **state)
{
    bad_set("quirks=part_copy_cond_ignored");
    start(NULL);
    insert(4000);
    flush();
    uint64_t up = stats().bytes_up;
    sql("UPDATE t SET n = 1 WHERE id = 4000");
    flush();
    assert_in_range(stats().bytes_up - up, 15 * MIB, 18 * MIB);
    assert_int_equal(copies(), 0);
    must_be_written(true);
}

/* The answers to the second copy, and to all after it. */
static void test_a_copy_fails_midway(void **state)
{
    const char *const answers[] = {
        "status=400 code=InvalidRequest", "status=412 code=PreconditionFailed",
        "status=501 code=NotImplemented", "status=404 code=NoSuchKey",
        "status=403 code=AccessDenied",   "status=500 code=InternalError"};
    start(NULL);
    insert(5500);
    flush();
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        size_t before = copies();
        uint64_t up = stats().bytes_up;
        print_message("           %s\n", answers[i]);
        bad_rule("op=mp_part_copy nth=2 times=0 do=reply %s", answers[i]);
        sql("UPDATE t SET n = n + 1 WHERE id = 4000");
        flush();
        bad_no_rules();
        assert_true(copies() - before >= 2);
        assert_true(stats().bytes_up - up > 21 * MIB); /* the whole */
        must_be_written(true);
        must_leave_no_upload();
    }
}

/* A store that is away fails the flush; the next one makes up for it. */
static void test_the_store_goes_away_midway(void **state)
{
    char before[BH_SNAPSHOT_ID_MAX];
    start("bucket.attempts=2");
    insert(5500);
    flush();
    memcpy(before, result.snapshot, sizeof before);
    bad_rule("op=mp_part_copy nth=2 times=0 do=reply status=503 code=SlowDown");
    sql("UPDATE t SET n = n + 1 WHERE id = 4000");
    must_fail(bh_flush_call(bh, true, &result, NULL, ERR), EAGAIN);
    assert_string_equal(id_of(KEY), before);
    must_leave_no_upload();
    bad_no_rules();
    size_t done = copies();
    must(bh_flush_call(bh, true, &result, NULL, ERR));
    assert_in_range(copies() - done, 2, 4);
    must_be_written(true);
}

static void put_foreign(const char *text)
{
    struct bh_source src = {.size = strlen(text), .data = text};
    must(bh_bucket_put(other, KEY, &src, NULL, NULL, NULL, NULL, ERR));
}

/* Somebody else's database of the same size as ours; the store holds a copy back meanwhile. */
static void *replace(void *arg)
{
    char *data = arg;
    struct bh_error err;
    struct bh_source src = {.size = strlen(data), .data = data};
    for (int i = 0; i < 1000 && bad_count("mp_part_copy.*stall") == 0; i++)
        usleep(10000);
    return bh_bucket_put(other, KEY, &src, NULL, NULL, NULL, NULL, &err) ? data : NULL;
}

static void test_the_source_is_replaced_meanwhile(void **state)
{
    pthread_t thread;
    void *failed;
    char text[] = "no database, so it cannot be saved, and is not overwritten";
    start(NULL);
    insert(5500);
    flush();
    bad_rule("op=mp_part_copy nth=2 do=stall seconds=1.5");
    sql("UPDATE t SET n = n + 1 WHERE id = 4000");
    assert_int_equal(pthread_create(&thread, NULL, replace, text), 0);
    must(bh_flush_call(bh, true, &result, NULL, ERR)); /* the history has it */
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    must_have(other, KEY, text);
    must_leave_no_upload();
}

/* Of another program: saved as a branch, and no part of it is taken for ours. */
static void test_a_foreign_one_in_place(void **state)
{
    size_t len;
    struct bh_object_info info;
    char **names;
    size_t count;
    start(NULL);
    insert(4000);
    flush();
    sql("UPDATE t SET n = 7 WHERE id = 4000");
    flush();
    size_t before = copies();
    BH_FREE char *data = object(PREV, &len, &info);
    struct bh_source src = {.size = len, .data = data};
    must(bh_bucket_put(other, KEY, &src, NULL, NULL, NULL, NULL, ERR));
    sql("UPDATE t SET n = 8 WHERE id = 4000");
    flush();
    assert_int_equal(copies(), before);
    must_be_written(true);
    must(bh_history_branches(bh_history_of(bh), &names, &count, NULL, ERR));
    assert_int_equal(count, 2);
    assert_true(!strncmp(names[0], "upstream-", 9) || !strncmp(names[1], "upstream-", 9));
    free(names);
    must_leave_no_upload();
    put_foreign("no database");
    sql("UPDATE t SET n = 9 WHERE id = 4000");
    must(bh_flush_call(bh, true, &result, NULL, ERR));
    must_have(other, KEY, "no database");
    assert_int_equal(copies(), before);
}

/* It says that it is ours, with another content: of another size it is not believed. */
static void test_metadata_that_lies(void **state)
{
    size_t len;
    struct bh_object_info info;
    start(NULL);
    insert(4000);
    flush();
    BH_FREE char *data = object(KEY, &len, &info);
    struct bh_source src = {.size = len + 4096, .data = realloc(data, len + 4096)};
    data = (char *)(uintptr_t)src.data;
    memset(data + len, 1, 4096);
    stop();
    must(bh_bucket_put(other, KEY, &src, &info.meta, NULL, NULL, NULL, ERR));
    start(NULL);
    sql("UPDATE t SET n = 8 WHERE id = 4000");
    flush();
    assert_int_equal(copies(), 0);
    must_be_written(true);
}

/* What a store makes of the copies is looked at; what is wrong is overwritten, and never kept as
 * the one before. */
static void test_a_store_that_copies_too_much(void **state)
{
    char first[BH_SNAPSHOT_ID_MAX];
    start(NULL);
    insert(4000);
    flush();
    memcpy(first, result.snapshot, sizeof first);
    bad_set("quirks=part_copy_range_ignored");
    sql("UPDATE t SET n = 8 WHERE id = 4000");
    flush();
    assert_true(copies() > 0);
    must_be_written(true);
    assert_string_equal(id_of(PREV), first);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_only_changed_parts_are_sent),
        TEST(test_any_change),
        TEST(test_a_small_one_is_sent),
        TEST(test_a_lazy_mount_fetches_no_unchanged_part),
        TEST(test_a_store_that_ignores_the_condition),
        TEST(test_a_copy_fails_midway),
        TEST(test_the_store_goes_away_midway),
        TEST(test_the_source_is_replaced_meanwhile),
        TEST(test_a_foreign_one_in_place),
        TEST(test_metadata_that_lies),
        TEST(test_a_store_that_copies_too_much),
    };
    return cmocka_run_group_tests(tests, bad_start, bad_stop);
}
