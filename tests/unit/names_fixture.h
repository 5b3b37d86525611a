/* For tests of store/names: a tree in SCRATCH, its names.db a plain file of SQLite's. */
#ifndef NAMES_FIXTURE_H
#define NAMES_FIXTURE_H

#include <sqlite3.h>
#include <stdatomic.h>

#include "live_fixture.h"

#include "store/names.h"
#include "store/names_private.h"

#define ROOT BH_NAMES_ROOT

static struct bh_names *names;
static struct bh_disk *disk;
static struct bh_names_options options;
static atomic_int refuse_connects; /* an errno, or 0 */
static atomic_bool refuse_commits, refuse_steps;
static atomic_uint gone_count;
static atomic_ullong gone_last;

static inline int commits_are_refused(void *arg)
{
    return atomic_load(&refuse_commits);
}
static inline int steps_are_refused(void *arg)
{
    return atomic_load(&refuse_steps);
}

static inline int connect_names(void *arg, sqlite3 **db, struct bh_error *err)
{
    int refuse = atomic_load(&refuse_connects);
    char path[100]; /* at() is for one thread */
    (void)arg;
    if (refuse)
        return bh_fail(err, refuse, "no connection today");
    snprintf(path, sizeof path, "%s/names.db", scratch);
    if (sqlite3_open(path, db) != SQLITE_OK)
        return bh_fail(err, EIO, "%s", sqlite3_errmsg(*db));
    sqlite3_exec(*db, "PRAGMA synchronous=OFF", NULL, NULL, NULL); /* nobody cuts the power here */
    sqlite3_commit_hook(*db, commits_are_refused, NULL);
    sqlite3_progress_handler(*db, 1, steps_are_refused, NULL);
    return 0;
}

static inline void count_gone(void *arg, const struct bh_inode *was)
{
    (void)arg;
    atomic_store(&gone_last, was->ino);
    atomic_fetch_add(&gone_count, 1);
}

static inline int names_setup(void **state)
{
    int rc = scratch_setup(state);
    char fast[] = "/dev/shm/bhfs-test-names-XXXXXX"; /* thousands of starts, each with its syncs */
    if (rc == 0 && mkdtemp(fast)) {
        rmdir(scratch);
        strcpy(scratch, fast);
    }
    if (rc == 0)
        rc = bh_disk_open(&disk, scratch, NULL, 0, ERR);
    options = (struct bh_names_options){
        .disk = disk, .connect = connect_names, .gone = count_gone, .uid = 11, .gid = 12};
    atomic_store(&refuse_connects, 0);
    atomic_store(&refuse_commits, false);
    atomic_store(&refuse_steps, false);
    atomic_store(&gone_count, 0);
    return rc;
}

static inline void open_names(void)
{
    assert_null(names);
    must(bh_names_open(&names, &options, ERR));
}

static inline void close_names(void)
{
    struct bh_names *n = names;
    names = NULL;
    must(bh_names_close(n, ERR));
}

/* As a kill -9 leaves it. */
static inline void kill_names(void)
{
    names_drop(names);
    names = NULL;
}

static inline int names_teardown(void **state)
{
    atomic_store(&refuse_connects, 0);
    if (names)
        kill_names();
    bh_disk_close(disk);
    disk = NULL;
    return scratch_teardown(state);
}

/* A test's setup: the tree is open. */
static inline int open_setup(void **state)
{
    int rc = names_setup(state);
    if (rc == 0)
        open_names();
    return rc;
}

/* After a start: from the log as a kill leaves it, or else from the database. */
static inline void again(bool killed)
{
    if (killed)
        kill_names();
    else
        close_names();
    open_names();
}

/* --- calls as the door makes them: at once if that can be, else with wait --- */

#define TRY(call_false, call_true)                                                                 \
    __extension__({                                                                                \
        int try_rc_ = (call_false);                                                                \
        try_rc_ == EAGAIN ? (call_true) : try_rc_;                                                 \
    })

static inline int get(uint64_t ino, struct bh_inode *out)
{
    return TRY(bh_names_get(names, ino, out, false, ERR), bh_names_get(names, ino, out, true, ERR));
}
static inline int lookup(uint64_t dir, const char *name, struct bh_inode *out)
{
    return TRY(bh_names_lookup(names, dir, name, out, false, ERR),
               bh_names_lookup(names, dir, name, out, true, ERR));
}
static inline int make(uint64_t dir, const char *name, uint32_t mode, struct bh_inode *out)
{
    struct bh_inode what = {.mode = mode, .uid = 21, .gid = 22};
    const char *target = S_ISLNK(mode) ? "some/target" : NULL;
    return TRY(bh_names_make(names, dir, name, &what, target, false, out, false, ERR),
               bh_names_make(names, dir, name, &what, target, false, out, true, ERR));
}
static inline int link_to(uint64_t ino, uint64_t dir, const char *name, struct bh_inode *out)
{
    return TRY(bh_names_link(names, ino, dir, name, out, false, ERR),
               bh_names_link(names, ino, dir, name, out, true, ERR));
}
static inline int unlink_name(uint64_t dir, const char *name, struct bh_inode *was)
{
    return TRY(bh_names_unlink(names, dir, name, was, false, ERR),
               bh_names_unlink(names, dir, name, was, true, ERR));
}
static inline int rmdir_name(uint64_t dir, const char *name, struct bh_inode *was)
{
    return TRY(bh_names_rmdir(names, dir, name, was, false, ERR),
               bh_names_rmdir(names, dir, name, was, true, ERR));
}
static inline int rename_name(uint64_t dir, const char *name, uint64_t to, const char *new_name,
                              unsigned flags, struct bh_inode *moved, struct bh_inode *replaced)
{
    return TRY(bh_names_rename(names, dir, name, to, new_name, flags, moved, replaced, false, ERR),
               bh_names_rename(names, dir, name, to, new_name, flags, moved, replaced, true, ERR));
}
static inline int set(uint64_t ino, unsigned what, const struct bh_inode *to, struct bh_inode *out)
{
    return TRY(bh_names_set(names, ino, what, to, out, false, ERR),
               bh_names_set(names, ino, what, to, out, true, ERR));
}
static inline int setxattr_of(uint64_t ino, const char *name, const void *value, size_t len,
                              int flags)
{
    return TRY(bh_names_setxattr(names, ino, name, value, len, flags, false, ERR),
               bh_names_setxattr(names, ino, name, value, len, flags, true, ERR));
}
static inline int getxattr_of(uint64_t ino, const char *name, void **value, size_t *len)
{
    return TRY(bh_names_getxattr(names, ino, name, value, len, false, ERR),
               bh_names_getxattr(names, ino, name, value, len, true, ERR));
}
static inline int removexattr_of(uint64_t ino, const char *name)
{
    return TRY(bh_names_removexattr(names, ino, name, false, ERR),
               bh_names_removexattr(names, ino, name, true, ERR));
}
static inline int listxattr_of(uint64_t ino, char **list, size_t *len)
{
    return TRY(bh_names_listxattr(names, ino, list, len, false, ERR),
               bh_names_listxattr(names, ino, list, len, true, ERR));
}
static inline int readlink_of(uint64_t ino, char **target)
{
    return TRY(bh_names_readlink(names, ino, target, false, ERR),
               bh_names_readlink(names, ino, target, true, ERR));
}
static inline int list(uint64_t dir, struct bh_names_listing **out)
{
    return TRY(bh_names_list(names, dir, out, false, ERR),
               bh_names_list(names, dir, out, true, ERR));
}

static inline uint64_t made(uint64_t dir, const char *name, uint32_t mode)
{
    struct bh_inode i = {0};
    must(make(dir, name, mode, &i));
    return i.ino;
}

static inline struct bh_inode inode(uint64_t ino)
{
    struct bh_inode i = {0};
    must(get(ino, &i));
    return i;
}

static inline void sql_on_names(const char *text)
{
    sqlite3 *db;
    must(connect_names(NULL, &db, ERR));
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", text, sqlite3_errmsg(db));
    sqlite3_close(db);
}

static inline int64_t number_in_names(const char *query)
{
    sqlite3 *db;
    sqlite3_stmt *st;
    must(connect_names(NULL, &db, ERR));
    if (sqlite3_table_column_metadata(db, NULL, "inodes", NULL, NULL, NULL, NULL, NULL, NULL) !=
        SQLITE_OK) { /* nothing was ever made */
        sqlite3_close(db);
        return 0;
    }
    assert_int_equal(sqlite3_prepare_v2(db, query, -1, &st, NULL), SQLITE_OK);
    int64_t v = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : -1;
    sqlite3_finalize(st);
    sqlite3_close(db);
    return v;
}

/* The database by itself is a tree: what it counts is there, and nothing else. */
static inline void names_db_is_whole(void)
{
    static const char *const wrong[] = {
        "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check != 'ok'",
        "SELECT count(*) FROM entries WHERE ino NOT IN (SELECT ino FROM inodes)",
        "SELECT count(*) FROM entries WHERE dir NOT IN (SELECT ino FROM inodes WHERE "
        "mode & 61440 = 16384 AND nlink > 0)",
        "SELECT count(*) FROM inodes i WHERE mode & 61440 = 16384 AND nlink > 0 AND "
        "entries != (SELECT count(*) FROM entries e WHERE e.dir = i.ino)",
        "SELECT count(*) FROM inodes i WHERE mode & 61440 = 16384 AND nlink > 0 AND nlink != 2 + "
        "(SELECT count(*) FROM entries e JOIN inodes c ON c.ino = e.ino WHERE e.dir = i.ino AND "
        "c.mode & 61440 = 16384)",
        "SELECT count(*) FROM inodes i JOIN (SELECT ino, count(*) AS links FROM entries GROUP BY "
        "ino) e ON e.ino = i.ino WHERE mode & 61440 != 16384 AND nlink != links",
        "SELECT count(*) FROM entries e JOIN inodes c ON c.ino = e.ino WHERE "
        "c.mode & 61440 = 16384 AND c.parent != e.dir",
        "SELECT count(*) FROM inodes WHERE nlink > 0 AND ino != 1 AND "
        "ino NOT IN (SELECT ino FROM entries)",
        "SELECT count(*) FROM inodes WHERE (mode & 61440 = 40960) != "
        "(ino IN (SELECT ino FROM symlinks))",
        "SELECT count(*) FROM symlinks WHERE ino NOT IN (SELECT ino FROM inodes)",
        "SELECT count(*) FROM xattrs WHERE ino NOT IN (SELECT ino FROM inodes)",
        "SELECT count(*) FROM inodes WHERE ino >= (SELECT value FROM meta WHERE key='next_ino')",
        "SELECT (SELECT count(*) FROM inodes) != (SELECT value FROM meta WHERE key='inodes')",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (number_in_names(wrong[i]) != 0)
            fail_msg("names.db: %lld: %s", (long long)number_in_names(wrong[i]), wrong[i]);
}

#endif
