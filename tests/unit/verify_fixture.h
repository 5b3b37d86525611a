/* For tests of verify: a history that a mount made, as a copy in memory in which objects can be
 * damaged. One per program. */
#ifndef VERIFY_FIXTURE_H
#define VERIFY_FIXTURE_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buckethead.h"
#include "internal.h"
#include "memory_bucket.h"
#include "repo/verify.h"
#include "util/cleanup.h"
#include "bucket_fixture.h" /* last: its b would hide parameters */

#define PREFIX "bucketsqlite/snap.db.bhfs/"

static struct bh *bh; /* that makes the history */
static char ids[16][BH_SNAPSHOT_ID_MAX];
static unsigned id_count;

static struct bh_bucket *memory; /* a copy of the bucket */
static struct bh_config *cfg;
static struct bh_history *history;
static struct bh_strbuf report;

/* --- making it --- */

static inline void start_bh(const char *const *more, size_t count)
{
    char url[128], live[128];
    const char *settings[8] = {live, "snapshot.block_size=4096", "snapshot.interval=0",
                               "log.level=error"};
    snprintf(url, sizeof url, "file://%s/bucket", dir);
    snprintf(live, sizeof live, "live.dir=%s/state", dir);
    for (size_t i = 0; i < count; i++)
        settings[4 + i] = more[i];
    must(bh_create_with(&bh, NULL, url, settings, 4 + count, ERR));
    must(bh_start(bh, ERR));
}

static inline void sql(const char *text)
{
    sqlite3 *db;
    char *why = NULL;
    must(bh_connect(bh, &db, ERR));
    if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", text, why);
    sqlite3_close(db);
}

static inline void flush(void)
{
    struct bh_flush_result result;
    must(bh_flush_call(bh, true, &result, NULL, ERR));
    assert_int_equal(result.outcome, BH_FLUSH_UPLOADED);
    memcpy(ids[id_count++], result.snapshot, BH_SNAPSHOT_ID_MAX);
}

static inline int copy_object(void *arg, const char *key, bool is_prefix,
                              const struct bh_object_info *info, struct bh_error *err)
{
    char *data;
    size_t len;
    struct bh_object_info full;
    must(bh_bucket_get_small(arg, key, 64 * MIB, &data, &len, &full, NULL, ERR));
    memory_put(memory, key, data, len, &full.meta);
    free(data);
    return 0;
}

/* Ends bh and looks at a copy of what it made. */
static inline void copy_bucket(void)
{
    const struct bh_list_request req = {.prefix = ""};
    struct bh_bucket *from;
    char path[128], url[160];
    must(bh_stop(bh, ERR));
    bh_destroy(bh);
    bh = NULL;
    snprintf(path, sizeof path, "%s/bucket", dir);
    snprintf(url, sizeof url, "file://%s", path);
    must(bh_bucket_dir_open(&from, path, ERR));
    memory = memory_bucket_new();
    must(bh_bucket_list(from, &req, copy_object, from, NULL, ERR));
    bh_bucket_close(from);
    const char *const settings[] = {"bucket.connections=1"};
    const struct bh_config_request how = {.url = url, .overrides = settings, .override_count = 1};
    must(bh_config_load(&cfg, &how, ERR));
    must(bh_history_new(&history, cfg, memory, NULL, true, ERR));
}

static inline int setup(void **state)
{
    if (dir_setup(state))
        return -1;
    setenv("HOME", dir, 1);
    setenv("TMPDIR", dir, 1);
    must(bh_log_setup(BH_LOG_ERROR, "", true, ERR));
    unsetenv("XDG_CONFIG_HOME");
    unsetenv("BUCKETHEAD_CONFIG");
    shell("mkdir bucket");
    id_count = 0;
    return 0;
}

static inline int teardown(void **state)
{
    bh_destroy(bh);
    bh = NULL;
    bh_history_free(history);
    history = NULL;
    bh_config_free(cfg);
    cfg = NULL;
    bh_bucket_close(memory);
    memory = NULL;
    bh_strbuf_free(&report);
    return dir_teardown(state);
}

/* --- verifying --- */

static inline int verify(bool full)
{
    bh_strbuf_reset(&report);
    return bh_history_verify(history, full, &report, NULL, ERR);
}

static inline bool says(const char *words)
{
    return strstr(report.data, words) != NULL;
}

static inline void must_be_whole(bool full)
{
    if (verify(full))
        fail_msg("%s\n%s", test_error.text, report.data);
    assert_true(says("result: everything is whole\n"));
    assert_false(says("damaged:"));
}

/* Whether the report names these (other may be NULL) as damaged and no other. */
static inline bool names_only(const char *key, const char *other)
{
    char lines[2][BH_KEY_MAX + 16];
    unsigned found = 0;
    snprintf(lines[0], sizeof lines[0], "\ndamaged: %s\n", key);
    snprintf(lines[1], sizeof lines[1], "\ndamaged: %s\n", other ? other : "");
    for (const char *at = report.data; (at = strstr(at, "\ndamaged: ")); at++)
        found++;
    return strstr(report.data, lines[0]) && (!other || strstr(report.data, lines[1])) &&
           found == (other ? 2u : 1u);
}

static inline void must_name(bool full, const char *key, const char *other, const char *how,
                             size_t at)
{
    int rc = verify(full);
    if (rc == EIO && names_only(key, other) &&
        (strstr(test_error.text, key) || (other && strstr(test_error.text, other))))
        return;
    fail_msg("%s %s at %zu: %d %s\n%s", key, how, at, rc, rc ? test_error.text : "", report.data);
}

#endif
