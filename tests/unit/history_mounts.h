/* For tests of the history with two mounts of one bucket, one of which acts between another's look
 * and its write; with a gc in a hurry, and a clock that can be slept over. One per program. */
#ifndef HISTORY_MOUNTS_H
#define HISTORY_MOUNTS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bh_private.h"
#include "internal.h"
#include "repo/gc.h"
#include "repo/history_private.h"
#include "repo/verify.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "bucket_fixture.h" /* last: its b would hide parameters */

#define PREFIX "bucketsqlite/snap.db.bhfs/"

/* --- a clock that can be slept over: as after a suspend, only CLOCK_MONOTONIC has stood still ---
 */

static int64_t slept_s;

int clock_gettime(clockid_t id, struct timespec *t)
{
    int rc = (int)syscall(SYS_clock_gettime, id, t);
    if (rc == 0 && (id == CLOCK_BOOTTIME || id == CLOCK_REALTIME))
        t->tv_sec += slept_s;
    return rc;
}

/* --- mounts --- */

static struct bh *mine, *other;

static bool own_files; /* a test has a file store of its own */

static inline struct bh *make(const char *state, const char *more, bool read_only)
{
    struct bh *made;
    char url[128], live[128];
    const char *settings[] = {live,
                              "snapshot.block_size=4096",
                              "snapshot.interval=0",
                              "snapshot.plain=never",
                              "log.level=error",
                              "snapshot.stop_timeout=1s",
                              more};
    snprintf(url, sizeof url, "file://%s/bucket", dir);
    snprintf(live, sizeof live, "live.dir=%s/%s", dir, state);
    must(bh_create_with(&made, NULL, url, settings, more ? 7 : 6, ERR));
    if (read_only)
        bh_set_read_only(made);
    if (own_files)
        bh_set_no_files(made);
    return made;
}

static inline struct bh *start(const char *state, const char *more)
{
    struct bh *made = make(state, more, false);
    must(bh_start(made, ERR));
    return made;
}

static inline void stop(struct bh **bh)
{
    must(bh_stop(*bh, ERR));
    bh_destroy(*bh);
    *bh = NULL;
}

static inline int setup(void **state)
{
    if (dir_setup(state))
        return -1;
    setenv("HOME", dir, 1);
    must(bh_log_setup(BH_LOG_ERROR, "", true, ERR));
    unsetenv("XDG_CONFIG_HOME");
    unsetenv("BUCKETHEAD_CONFIG");
    shell("mkdir bucket");
    slept_s = 0;
    mine = start("mine", NULL);
    return 0;
}

static inline void unhook(void);

static inline int teardown(void **state)
{
    unhook();
    bh_destroy(other);
    bh_destroy(mine);
    other = mine = NULL;
    return dir_teardown(state);
}

static inline void must_do(sqlite3 *db, const char *text)
{
    char *why = NULL;
    if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", text, why);
}

static inline void sql(struct bh *bh, const char *text)
{
    sqlite3 *db;
    must(bh_connect(bh, &db, ERR));
    must_do(db, text);
    sqlite3_close(db);
}

static inline int number(struct bh *bh, const char *text)
{
    sqlite3 *db;
    sqlite3_stmt *st;
    must(bh_connect(bh, &db, ERR));
    assert_int_equal(sqlite3_prepare_v2(db, text, -1, &st, NULL), SQLITE_OK);
    if (sqlite3_step(st) != SQLITE_ROW)
        fail_msg("%s: %s", text, sqlite3_errmsg(db));
    int n = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

static char ids[32][BH_SNAPSHOT_ID_MAX];
static unsigned id_count;

/* Every page is another one, so that no pack is needed by the next snapshot. */
static inline void fill(struct bh *bh, int n)
{
    char text[400];
    snprintf(
        text, sizeof text,
        "CREATE TABLE IF NOT EXISTS t(i, v, pad); DELETE FROM t; WITH RECURSIVE s(i) AS (SELECT "
        "1 UNION ALL SELECT i + 1 FROM s WHERE i < 200) INSERT INTO t SELECT i, %d, "
        "hex(randomblob(100)) FROM s",
        n);
    sql(bh, text);
}

static inline void flush(struct bh *bh)
{
    struct bh_flush_result result;
    must(bh_flush_call(bh, true, &result, NULL, ERR));
    memcpy(ids[id_count++ % 32], result.snapshot, BH_SNAPSHOT_ID_MAX);
}

static inline void make_snapshots(struct bh *bh, int count)
{
    id_count = 0;
    for (int i = 0; i < count; i++) {
        fill(bh, i);
        flush(bh);
    }
}

/* --- gc, in a hurry --- */

static inline int gc_once(struct bh *bh, bool drop)
{
    const struct bh_retention keep = {.keep_last = drop};
    BH_STRBUF report = {0};
    int rc = bh_history_gc(bh->history, &keep, 0, false, &report, NULL, ERR);
    usleep(3000); /* a grace of nothing is over */
    return rc;
}

/* What is condemned is gone with the next one. */
static inline void gc(struct bh *bh, bool drop)
{
    for (int i = 0; i < 3; i++)
        must(gc_once(bh, drop));
}

static inline void must_be_whole(struct bh *bh)
{
    BH_STRBUF report = {0};
    if (bh_verify_call(bh, true, &report, NULL, ERR))
        fail_msg("%s\n%s", test_error.text, report.data);
}

static inline size_t pins(void)
{
    const char *list = listing(b, "bucket/" PREFIX "pins/", NULL, NULL, 0);
    size_t n = 0;
    for (; *list; list++)
        n += *list == '\n';
    return n;
}

/* Neither by itself nor by who has taken its branch. */
static inline void unpin(struct bh *bh)
{
    char taken[64];
    const char *writer = bh->live->dir.state.writer;
    snprintf(taken, sizeof taken, "%s-taken", writer);
    must(bh_pin_delete(bh->bucket, PREFIX, writer, NULL, ERR));
    must(bh_pin_delete(bh->bucket, PREFIX, taken, NULL, ERR));
}

static inline bool is_pinned(struct bh *bh)
{
    char name[160];
    snprintf(name, sizeof name, "bucket/" PREFIX "pins/%s", bh->live->dir.state.writer);
    return exists(name);
}

static inline bool has_branch(struct bh *bh, const char *name)
{
    BH_FREE char **names = NULL;
    size_t count;
    must(bh_history_branches(bh->history, &names, &count, NULL, ERR));
    for (size_t i = 0; i < count; i++)
        if (!strcmp(names[i], name))
            return true;
    return false;
}

static char said[BH_ERROR_TEXT_MAX]; /* by the last failure */

static inline void fails(int expected, int rc, const char *what, const char *file, int line)
{
    memcpy(said, test_error.text, sizeof said);
    must_be_(expected, rc, what, file, line);
}

#undef must_fail
#define must_fail(expression, code) fails((code), (expression), #expression, __FILE__, __LINE__)

static inline void must_say(const char *words)
{
    if (!strstr(said, words))
        fail_msg("\"%s\" is not in: %s", words, said);
}

/* --- between look and write --- */

static const struct bh_bucket_ops *real;
static struct bh_bucket_ops hooked;
static struct bh_bucket *hooked_bucket;
static const char *hook_key; /* a part of the key of the put that it comes before */
static void (*hook)(void);
static int hook_rc; /* what that put, and all of such keys, ends with; 0: goes on */

static inline int hooked_put(struct bh_bucket *x, const char *key, const struct bh_source *src,
                             const struct bh_meta *meta, const struct bh_cond *cond,
                             struct bh_object_info *info, const struct bh_call *call,
                             struct bh_error *err)
{
    if (hook_key && strstr(key, hook_key)) {
        void (*run)(void) = hook;
        hook = NULL;
        if (run)
            run();
        if (hook_rc)
            return bh_fail(err, hook_rc, "%s is refused", key);
    }
    return real->put(x, key, src, meta, cond, info, call, err);
}

static inline void before_put(struct bh *bh, const char *key, void (*run)(void), int rc)
{
    hooked_bucket = bh->bucket;
    real = hooked_bucket->ops;
    hooked = *real;
    hooked.put = hooked_put;
    hooked_bucket->ops = &hooked;
    hook_key = key;
    hook = run;
    hook_rc = rc;
}

static inline void unhook(void)
{
    if (hooked_bucket)
        hooked_bucket->ops = real;
    hooked_bucket = NULL;
    hook_key = NULL;
    hook = NULL;
    hook_rc = 0;
}

/* Another mount takes the branch, goes on, and reclaims all that is not its newest. */
static inline void steal_and_reclaim(void)
{
    other = start("other", "snapshot.steal=true");
    fill(other, 100);
    flush(other);
    unpin(mine);
    gc(other, true);
}

#endif
