/* The file:// bucket: the conformance suite, and what only a directory has. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bucket_conformance.h"
#include "bucket_fixture.h"
#include "config/config.h"
#include "util/cleanup.h"
#include "util/clock.h"

/* --- helpers --- */

static void put_with_meta(const char *key, const char *text, const char *value)
{
    struct bh_meta meta = {0};
    struct bh_source src = {.size = strlen(text), .data = text};
    must(bh_meta_set(&meta, "m", value, ERR));
    must(bh_bucket_put(b, key, &src, &meta, NULL, NULL, NULL, ERR));
}

/* The value of the metadata item "m", "" if there is none; in a static buffer. */
static const char *meta_of(const char *key)
{
    static struct bh_object_info info;
    must(bh_bucket_head(b, key, &info, NULL, ERR));
    return bh_meta_get(&info.meta, "m") ? bh_meta_get(&info.meta, "m") : "";
}

static const char *etag_of(const char *key)
{
    static char etags[2][BH_ETAG_MAX];
    static unsigned next;
    struct bh_object_info info;
    must(bh_bucket_head(b, key, &info, NULL, ERR));
    return strcpy(etags[next++ % 2], info.etag);
}

/* --- where things are --- */

static void test_natural_paths(void **state)
{
    must_put(b, "bucketsqlite/snap.db", "content");
    shell("test \"$(cat bucketsqlite/snap.db)\" = content");
    assert_string_equal(listing(b, "", NULL, NULL, 0), "bucketsqlite/snap.db\n");
    must_put(b, "\x01\x7f\n\t", "control characters are no matter");
    assert_true(exists("\x01\x7f\n\t"));
    must(bh_bucket_delete(b, "\x01\x7f\n\t", NULL, ERR));
    must(bh_bucket_delete(b, "bucketsqlite/snap.db", NULL, ERR));
    assert_false(exists("bucketsqlite")); /* empty directories go */
    shell("test -z \"$(ls)\"");           /* .bhfs-meta is hidden */
}

static void test_delete_keeps_other_directories(void **state)
{
    must_put(b, "a/b/c/d", "1");
    must_put(b, "a/x", "2");
    must(bh_bucket_delete(b, "a/b/c/d", NULL, ERR));
    assert_false(exists("a/b"));
    assert_true(exists("a/x"));
}

static void test_escaped_keys(void **state)
{
    char long_name[202];
    memset(long_name, 'n', 201);
    long_name[201] = '\0';
    const char *keys[] = {"/",
                          "//",
                          "a//b",
                          "a/",
                          ".",
                          "..",
                          "../bhfs-test-outside",
                          "a/../../x",
                          "a/./b",
                          "/etc",
                          ".bhfs-meta",
                          ".bhfs-meta/tmp/x",
                          ".bhfs-meta/escaped/x",
                          long_name};
    size_t count = sizeof keys / sizeof *keys;
    for (size_t i = 0; i < count; i++)
        must_put(b, keys[i], keys[i]);
    for (size_t i = 0; i < count; i++)
        must_have(b, keys[i], keys[i]);
    shell("test -z \"$(ls)\"");
    shell("test ! -e ../bhfs-test-outside");
    must_put(b, "a/plain", "p");
    assert_string_equal(listing(b, "a/", NULL, NULL, 0), "a/\na/../../x\na/./b\na//b\na/plain\n");
    assert_string_equal(listing(b, "a/", "/", NULL, 0), "a/\n*a/../\n*a/./\n*a//\na/plain\n");
    assert_string_equal(listing(b, ".bhfs-meta", NULL, NULL, 0),
                        ".bhfs-meta\n.bhfs-meta/escaped/x\n.bhfs-meta/tmp/x\n");
    for (size_t i = 0; i < count; i++) {
        must(bh_bucket_delete(b, keys[i], NULL, ERR));
        must_lack(b, keys[i]);
    }
    assert_string_equal(listing(b, "", NULL, NULL, 0), "a/plain\n");
    shell("test -z \"$(ls .bhfs-meta/escaped)\"");
}

static void test_prefix_conflicts(void **state)
{
    must_put(b, "a", "file");
    must_put(b, "a/b", "below a file"); /* escaped */
    must_put(b, "c/d", "below");
    must_put(b, "c", "the directory"); /* escaped */
    assert_string_equal(listing(b, "", NULL, NULL, 0), "a\na/b\nc\nc/d\n");
    assert_string_equal(listing(b, "", "/", NULL, 0), "a\n*a/\nc\n*c/\n");
    must_put(b, "a/b", "again");
    must_have(b, "a/b", "again");
    must_have(b, "a", "file");
    must_have(b, "c", "the directory");
    must(bh_bucket_delete(b, "a", NULL, ERR));
    must_lack(b, "a");
    must_have(b, "a/b", "again");
    must_put(b, "a/b", "stays where it is");
    must_have(b, "a/b", "stays where it is");
    must(bh_bucket_delete(b, "c/d", NULL, ERR));
    must_have(b, "c", "the directory");
    assert_string_equal(listing(b, "", NULL, NULL, 0), "a/b\nc\n");
}

static void test_file_by_hand_beside_escaped(void **state)
{
    must_put(b, "c/d", "x");
    must_put(b, "c", "escaped");
    must(bh_bucket_delete(b, "c/d", NULL, ERR));
    shell("printf by-hand > c");
    must_have(b, "c", "by-hand"); /* the later deed of a person stands */
    assert_string_equal(listing(b, "", NULL, NULL, 0), "c\n");
    must_put(b, "c", "new");
    must_have(b, "c", "new");
    shell("rm c");
    must_lack(b, "c"); /* the escaped one went with the put */
    must_put(b, "c/d", "x");
    must_put(b, "c", "escaped");
    must(bh_bucket_delete(b, "c/d", NULL, ERR));
    shell("printf by-hand > c");
    must(bh_bucket_delete(b, "c", NULL, ERR));
    must_lack(b, "c"); /* both went */
}

static void test_empty_directory_in_the_way(void **state)
{
    shell("mkdir -p left/over");
    must_put(b, "left/over", "x");
    shell("test -f left/over");
}

/* --- what people do by hand --- */

static void test_files_by_hand(void **state)
{
    shell("mkdir -p by/hand && printf 1 > by/hand/one && printf 22 > two");
    must_have(b, "by/hand/one", "1");
    assert_string_equal(listing(b, "", NULL, NULL, 0), "by/hand/one\ntwo\n");
    assert_string_equal(etag_of("two"), etag_of("two"));
    assert_string_equal(meta_of("two"), "");
    /* What is no regular file, or has no name that is a key, is no object. */
    shell("ln -s two link && mkfifo fifo && mkdir empty && ln -s by linked && mkdir lost+found");
    shell("printf x > \"$(printf '\\377')\"");
    assert_string_equal(listing(b, "", NULL, NULL, 0), "by/hand/one\ntwo\n");
    must_lack(b, "link");
    must_lack(b, "fifo");
    must_lack(b, "empty");
    must_lack(b, "linked/hand/one");
    must_put(b, "linked/hand/one", "not through the link");
    must_have(b, "by/hand/one", "1");
    must_have(b, "linked/hand/one", "not through the link");
    must_put(b, "link", "replaced");
    must_have(b, "two", "22");
}

static void test_long_name_by_hand(void **state)
{
    char name[256], line[300];
    memset(name, 'x', 255);
    name[255] = '\0';
    snprintf(line, sizeof line, "printf hand > %s", name);
    shell(line);
    must_have(b, name, "hand");
    snprintf(line, sizeof line, "%s\n", name);
    assert_string_equal(listing(b, "x", NULL, NULL, 0), line);
    must(bh_bucket_delete(b, name, NULL, ERR));
    must_lack(b, name);
}

static void test_copy_over_an_object(void **state)
{
    char etag[BH_ETAG_MAX];
    put_with_meta("db", "version 1", "one");
    strcpy(etag, etag_of("db"));
    shell("printf 'version 2' > other && cp other db"); /* same size, in place */
    assert_string_equal(meta_of("db"), "");
    assert_string_not_equal(etag_of("db"), etag);
    must_fail(put_text(b, "db", "x", &(struct bh_cond){.if_match = etag}), ESTALE);
    must_have(b, "db", "version 2");
    put_with_meta("db", "version 3", "three");
    assert_string_equal(meta_of("db"), "three");
    shell("printf 'version 4' > other && mv other db"); /* another inode */
    assert_string_equal(meta_of("db"), "");
}

static void test_edit_with_old_time(void **state)
{
    char etag[BH_ETAG_MAX];
    shell("printf aaaa > f && touch -d '2020-01-01 00:00:00' f");
    strcpy(etag, etag_of("f"));
    assert_string_equal(etag, etag_of("f"));
    usleep(20000);
    shell("printf bbbb > f && touch -d '2020-01-01 00:00:00' f");
    assert_string_not_equal(etag, etag_of("f"));
}

static void test_backup_keeps_metadata(void **state)
{
    char etag[BH_ETAG_MAX], copy[80];
    struct bh_bucket *backup;
    struct bh_object_info info;
    put_with_meta("x/db", "content", "kept");
    put_with_meta("x//odd", "content", "kept too");
    strcpy(etag, etag_of("x/db"));
    snprintf(copy, sizeof copy, "%s/copy", dir);
    shell("mkdir copy && cp -a x .bhfs-meta copy");
    must(bh_bucket_dir_open(&backup, copy, ERR));
    must(bh_bucket_head(backup, "x/db", &info, NULL, ERR));
    assert_string_equal(info.etag, etag);
    assert_string_equal(bh_meta_get(&info.meta, "m"), "kept");
    must(bh_bucket_head(backup, "x//odd", &info, NULL, ERR));
    assert_string_equal(bh_meta_get(&info.meta, "m"), "kept too");
    bh_bucket_close(backup);
}

static void test_damaged_record(void **state)
{
    put_with_meta("db", "content", "one");
    shell("for f in .bhfs-meta/meta/*/*; do echo nonsense > $f; done");
    assert_string_equal(meta_of("db"), "");
    must_have(b, "db", "content");
    put_with_meta("db", "content", "two");
    assert_string_equal(meta_of("db"), "two");
}

static int cut_file(void *arg, const void *data, size_t len, struct bh_error *err)
{
    return truncate(path_of("big"), 100) == 0 ? 0 : bh_fail(err, EBADMSG, "truncate failed");
}
static int touch_file(void *arg, const void *data, size_t len, struct bh_error *err)
{
    BH_FD int fd = open(path_of("big"), O_WRONLY);
    return pwrite(fd, "other", 5, 0) == 5 ? 0 : bh_fail(err, EBADMSG, "the write failed");
}

static void test_changed_while_read(void **state)
{
    struct bh_source src = pattern_source(3 * MIB);
    must(bh_bucket_put(b, "big", &src, NULL, NULL, NULL, NULL, ERR));
    must_fail(bh_bucket_get(b, "big", 0, UINT64_MAX, touch_file, NULL, NULL, NULL, ERR), EIO);
    must_fail(bh_bucket_get(b, "big", 0, UINT64_MAX, cut_file, NULL, NULL, NULL, ERR), EIO);
}

/* --- crashes --- */

/* A put that was killed between its metadata record and its content. */
static void test_record_without_its_content(void **state)
{
    put_with_meta("db", "old content", "old");
    shell("cp -a db saved");
    put_with_meta("db", "new content", "new");
    shell("cp -a saved db.tmp && mv db.tmp db"); /* as if the last rename had not been */
    must_have(b, "db", "old content");
    assert_string_equal(meta_of("db"), "old");
    put_with_meta("db", "third", "3");
    assert_string_equal(meta_of("db"), "3");
    must_put(b, "db", "without");
    assert_string_equal(meta_of("db"), "");
}

static void test_leftovers(void **state)
{
    must_put(b, "x", "makes the directories");
    shell("cd .bhfs-meta/tmp && printf x > young && printf x > old && mkdir dir && printf x > "
          "dir/part "
          "&& printf x > live && touch -d '3 days ago' old dir live");
    BH_FD int live = open(path_of(".bhfs-meta/tmp/live"), O_RDONLY);
    assert_int_equal(flock(live, LOCK_SH), 0);
    reopen();
    assert_true(exists(".bhfs-meta/tmp/young"));
    assert_true(exists(".bhfs-meta/tmp/live"));
    assert_false(exists(".bhfs-meta/tmp/old"));
    assert_false(exists(".bhfs-meta/tmp/dir"));
    assert_string_equal(listing(b, "", NULL, NULL, 0), "x\n");
}

static int read_until_half(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    if (offset >= MIB)
        _exit(0); /* the process dies in the middle of the put */
    memset(buf, 'x', len);
    return 0;
}

static void test_death_in_a_put(void **state)
{
    must_put(b, "db", "old");
    pid_t pid = fork();
    if (pid == 0) {
        struct bh_source src = {.size = 2 * MIB, .read = read_until_half};
        bh_bucket_put(b, "db", &src, NULL, NULL, NULL, NULL, ERR);
        _exit(1);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    must_have(b, "db", "old");
    assert_string_equal(listing(b, "", NULL, NULL, 0), "db\n");
    must_put(b, "db", "new");
    must_have(b, "db", "new");
}

/* --- opening, permissions --- */

static void test_open_errors(void **state)
{
    struct bh_bucket *none;
    char path[128];
    snprintf(path, sizeof path, "%s/none", dir);
    must_fail(bh_bucket_dir_open(&none, path, ERR), ENOENT);
    must_fail(bh_bucket_dir_open(&none, "relative", ERR), EINVAL);
    shell("printf x > file");
    snprintf(path, sizeof path, "%s/file", dir);
    must_fail(bh_bucket_dir_open(&none, path, ERR), EINVAL);
}

static void test_open_by_config(void **state)
{
    struct bh_bucket *opened;
    struct bh_config cfg = {.bucket = {.kind = BH_BUCKET_FILE, .path = dir, .attempts = 2}};
    must(bh_bucket_open(&opened, &cfg, ERR));
    assert_string_equal(opened->ops->name, "retry");
    must_put(opened, "x", "y");
    must_have(b, "x", "y");
    bh_bucket_close(opened);
    char rules[] = "put:eacces", wrong[] = "put:nonsense";
    cfg.bucket.fault = rules;
    must(bh_bucket_open(&opened, &cfg, ERR));
    must_fail(put_text(opened, "x", "z", NULL), EACCES);
    bh_bucket_close(opened);
    cfg.bucket.fault = wrong;
    must_fail(bh_bucket_open(&opened, &cfg, ERR), EINVAL);
    cfg.bucket.kind = BH_BUCKET_NONE;
    must_fail(bh_bucket_open(&opened, &cfg, ERR), EINVAL);
}

static void test_permissions(void **state)
{
    struct stat st;
    mode_t mask = umask(022);
    must_put(b, "private", "x");
    assert_int_equal(stat(path_of("private"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600); /* mkdtemp made the directory 0700 */
    assert_int_equal(chmod(dir, 0755), 0);
    reopen();
    must_put(b, "d/public", "x");
    assert_int_equal(stat(path_of("d/public"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    umask(mask);
}

/* Runs fn in a process of its own that may lose its rights and mount things; only root can. */
static void as_root_in_child(int (*fn)(void))
{
    int status;
    if (geteuid() != 0)
        skip();
    pid_t pid = fork();
    if (pid == 0)
        _exit(unshare(CLONE_NEWNS) != 0 ? 77 : fn());
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(status, 0);
}

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s; %s\n", __LINE__, #condition, test_error.text);           \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static int without_rights(void)
{
    BH_FREE char *data = NULL;
    CHECK(chmod(path_of("d/secret"), 0600) == 0);
    CHECK(seteuid(65534) == 0);
    bh_bucket_close(b);
    CHECK(bh_bucket_dir_open(&b, dir, ERR) == 0);
    CHECK(bh_bucket_get_small(b, "d/x", 10, &data, NULL, NULL, NULL, ERR) == 0);
    CHECK(bh_bucket_get_small(b, "d/secret", 10, &data, NULL, NULL, NULL, ERR) == EACCES);
    CHECK(put_text(b, "d/x", "y", NULL) == EACCES);
    CHECK(put_text(b, "new", "y", NULL) == EACCES);
    CHECK(bh_bucket_delete(b, "d/x", NULL, ERR) == EACCES);
    bh_bucket_close(b);
    return 0;
}

static void test_no_rights(void **state)
{
    mode_t mask = umask(022);
    assert_int_equal(chmod(dir, 0755), 0);
    reopen();
    must_put(b, "d/x", "x");
    must_put(b, "d/secret", "s");
    umask(mask);
    as_root_in_child(without_rights);
    must_have(b, "d/x", "x");
}

static int on_small_disk(void)
{
    BH_FREE char *data = NULL;
    struct bh_source big = pattern_source(8 * MIB), small = pattern_source(MIB);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", dir, "tmpfs", 0, "size=3500k") != 0)
        return 77;
    bh_bucket_close(b);
    CHECK(bh_bucket_dir_open(&b, dir, ERR) == 0);
    CHECK(bh_bucket_put(b, "x", &small, NULL, NULL, NULL, NULL, ERR) == 0);
    CHECK(bh_bucket_put(b, "x", &big, NULL, NULL, NULL, NULL, ERR) == ENOSPC);
    CHECK(bh_bucket_get_small(b, "x", MIB, &data, NULL, NULL, NULL, ERR) == 0);
    for (int i = 0; i < 2; i++) /* nothing is left behind */
        CHECK(bh_bucket_copy(b, "x", i ? "z" : "y", NULL, NULL, NULL, ERR) == 0);
    CHECK(bh_bucket_copy(b, "x", "w", NULL, NULL, NULL, ERR) == ENOSPC);
    CHECK(bh_bucket_delete(b, "y", NULL, ERR) == 0);
    CHECK(bh_bucket_copy(b, "x", "w", NULL, NULL, NULL, ERR) == 0);
    CHECK(mount(NULL, dir, NULL, MS_REMOUNT | MS_RDONLY, "size=3500k") == 0);
    CHECK(put_text(b, "x", "y", NULL) == EROFS);
    CHECK(bh_bucket_delete(b, "x", NULL, ERR) == EROFS);
    CHECK(bh_bucket_head(b, "x", NULL, NULL, ERR) == 0);
    bh_bucket_close(b);
    return 0;
}

static void test_full_and_read_only_disk(void **state)
{
    as_root_in_child(on_small_disk);
}

static int no_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                  struct bh_error *err)
{
    (void)arg, (void)is_prefix, (void)info, (void)err;
    fail_msg("%s is listed", key);
    return 0;
}

static int no_upload(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                     struct bh_error *err)
{
    (void)arg, (void)upload_id, (void)started_ms, (void)err;
    fail_msg("an upload of %s is listed", key);
    return 0;
}

/* What is gone as a whole is told from an object that is not there: nobody takes it for empty. */
static void test_removed_directory(void **state)
{
    BH_FREE char *data = NULL;
    struct bh_error why;
    must_put(b, "d/x", "x");
    shell("rm -rf \"$PWD\"");
    assert_int_equal(bh_bucket_get_small(b, "d/x", MIB, &data, NULL, NULL, NULL, &why), ENODEV);
    assert_non_null(strstr(why.text, dir));
    assert_non_null(strstr(why.text, "was removed"));
    assert_int_equal(bh_bucket_head(b, "x", NULL, NULL, ERR), ENODEV);
    assert_int_equal(put_text(b, "d/y", "y", NULL), ENODEV);
    assert_int_equal(bh_bucket_delete(b, "d/x", NULL, ERR), ENODEV);
    assert_int_equal(bh_bucket_copy(b, "d/x", "d/z", NULL, NULL, NULL, ERR), ENODEV);
    struct bh_list_request all = {.prefix = ""};
    assert_int_equal(bh_bucket_list(b, &all, no_key, NULL, NULL, ERR), ENODEV);
    char upload[BH_UPLOAD_ID_MAX];
    assert_int_equal(bh_bucket_mp_begin(b, "d/m", NULL, upload, NULL, ERR), ENODEV);
    assert_int_equal(bh_bucket_mp_list(b, "", no_upload, NULL, NULL, ERR), ENODEV);
    assert_int_equal(mkdir(dir, 0700), 0); /* another one, at the same place */
    assert_int_equal(bh_bucket_head(b, "x", NULL, NULL, ERR), ENODEV);
}

/* Reading a bucket that cannot be written, as from a read-only disk, makes nothing in it. */
static void test_reading_writes_nothing(void **state)
{
    shell("printf x > x");
    reopen();
    must_have(b, "x", "x");
    must_lack(b, "y");
    must(bh_bucket_delete(b, "y", NULL, ERR));
    assert_string_equal(listing(b, "", NULL, NULL, 0), "x\n");
    assert_false(exists(".bhfs-meta"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)
    const struct CMUnitTest tests[] = {
        T(test_natural_paths),
        T(test_delete_keeps_other_directories),
        T(test_escaped_keys),
        T(test_prefix_conflicts),
        T(test_file_by_hand_beside_escaped),
        T(test_empty_directory_in_the_way),
        T(test_files_by_hand),
        T(test_long_name_by_hand),
        T(test_copy_over_an_object),
        T(test_edit_with_old_time),
        T(test_backup_keeps_metadata),
        T(test_damaged_record),
        T(test_changed_while_read),
        T(test_record_without_its_content),
        T(test_leftovers),
        T(test_death_in_a_put),
        T(test_open_errors),
        T(test_open_by_config),
        T(test_permissions),
        T(test_no_rights),
        T(test_full_and_read_only_disk),
        T(test_removed_directory),
        T(test_reading_writes_nothing),
    };
    int failed = cmocka_run_group_tests_name("bucket-dir", tests, NULL, NULL);
    if (dir_setup(NULL) != 0)
        return 1;
    failed += bucket_conformance("bucket-dir-conformance", b, "");
    failed += bucket_conformance("bucket-dir-conformance-prefix", b, "some/prefix/");
    return failed + dir_teardown(NULL);
}
