/* Every operation on names, and what it refuses. */
#include "names_fixture.h"

#include <sys/xattr.h>

#define FILE_ (S_IFREG | 0644)
#define DIR_  (S_IFDIR | 0755)
#define LINK_ (S_IFLNK | 0777)

static bool is_newer(int64_t *last, int64_t now)
{
    bool newer = now > *last;
    *last = now;
    return newer;
}

static void test_root(void **state)
{
    struct bh_inode i = inode(ROOT);
    assert_int_equal(i.mode, S_IFDIR | 0755);
    assert_int_equal(i.nlink, 2);
    assert_int_equal(i.uid, 11);
    assert_int_equal(i.gid, 12);
    assert_int_equal(i.entries, 0);
    must_fail(lookup(ROOT, "a", &i), ENOENT);
    must_fail(get(77, &i), ENOENT);
    must_fail(get(0, &i), ENOENT);
    close_names();
    assert_int_equal(number_in_names("SELECT count(*) FROM inodes"), 0); /* no change at all */
    assert_false(is_there("names.log.1"));
}

static void test_make(void **state)
{
    struct bh_inode i, d, what = {.mode = FILE_, .uid = 5, .gid = 6};
    must(bh_names_make(names, ROOT, "a", &what, NULL, false, &i, false, ERR));
    assert_int_equal(i.mode, FILE_);
    assert_int_equal(i.nlink, 1);
    assert_int_equal(i.uid, 5);
    assert_int_equal(i.gid, 6);
    assert_int_equal(i.content.size, 0);
    assert_int_equal(i.atime, i.mtime);
    assert_int_equal(i.mtime, i.ctime);
    uint64_t ino = i.ino;
    d = inode(ROOT);
    assert_int_equal(d.entries, 1);
    assert_int_equal(d.mtime, i.ctime);
    assert_int_equal(d.ctime, i.ctime);
    i.ino = 0;
    must_fail(bh_names_make(names, ROOT, "a", &what, NULL, false, &i, false, ERR), EEXIST);
    assert_int_equal(i.ino, ino);
    what.mode = S_IFBLK | 0600;
    what.rdev = 0x1234;
    must(bh_names_make(names, ROOT, "block", &what, NULL, false, &i, false, ERR));
    assert_int_equal(i.rdev, 0x1234);
    made(ROOT, "fifo", S_IFIFO | 0600);
    made(ROOT, "socket", S_IFSOCK | 0600);
    for (int turn = 0; turn < 3; turn++) {
        must(lookup(ROOT, "a", &i));
        assert_int_equal(i.ino, ino);
        must(lookup(ROOT, "block", &i));
        assert_int_equal(i.rdev, 0x1234);
        assert_int_equal(i.mode, S_IFBLK | 0600);
        assert_int_equal(inode(ROOT).entries, 4);
        again(turn == 0);
    }
    close_names();
    names_db_is_whole();
}

static void test_bad_names(void **state)
{
    char name[300];
    struct bh_inode i, what = {.mode = FILE_};
    uint64_t file = made(ROOT, "file", FILE_);
    memset(name, 'n', sizeof name);
    name[256] = 0;
    must_fail(make(ROOT, name, FILE_, &i), ENAMETOOLONG);
    must_fail(lookup(ROOT, name, &i), ENAMETOOLONG);
    name[255] = 0;
    must(make(ROOT, name, FILE_, &i));
    must(lookup(ROOT, name, &i));
    must_fail(make(ROOT, "", FILE_, &i), ENOENT);
    must_fail(make(ROOT, ".", FILE_, &i), EINVAL);
    must_fail(make(ROOT, "..", FILE_, &i), EINVAL);
    must_fail(make(ROOT, "a/b", FILE_, &i), EINVAL);
    must_fail(make(file, "x", FILE_, &i), ENOTDIR);
    must_fail(lookup(file, "x", &i), ENOTDIR);
    must_fail(make(999, "x", FILE_, &i), ENOENT);
    must_fail(bh_names_make(names, ROOT, "l", &what, "t", false, &i, true, ERR), EINVAL);
    what.mode = LINK_;
    must_fail(bh_names_make(names, ROOT, "l", &what, NULL, false, &i, true, ERR), EINVAL);
    what.mode = 0644;
    must_fail(bh_names_make(names, ROOT, "l", &what, NULL, false, &i, true, ERR), EINVAL);
    again(true);
    must(lookup(ROOT, name, &i));
}

static void test_inherited_group(void **state)
{
    struct bh_inode i, to = {.mode = 02775, .gid = 77};
    uint64_t d = made(ROOT, "d", DIR_);
    must(set(d, BH_SET_MODE | BH_SET_GID, &to, &i));
    assert_int_equal(i.mode, S_IFDIR | 02775);
    must(make(d, "sub", DIR_, &i));
    assert_int_equal(i.gid, 77);
    assert_int_equal(i.mode, S_IFDIR | 02755);
    must(make(d, "file", FILE_, &i));
    assert_int_equal(i.gid, 77);
    assert_int_equal(i.mode, FILE_);
}

static void test_symlink(void **state)
{
    struct bh_inode i, what = {.mode = LINK_};
    char longest[4097], *target;
    memset(longest, 't', sizeof longest);
    longest[4096] = 0;
    must_fail(bh_names_make(names, ROOT, "l", &what, longest, false, &i, true, ERR), ENAMETOOLONG);
    must_fail(bh_names_make(names, ROOT, "l", &what, "", false, &i, true, ERR), ENOENT);
    longest[4095] = 0;
    must(bh_names_make(names, ROOT, "l", &what, longest, false, &i, true, ERR));
    assert_int_equal(i.content.size, 4095);
    uint64_t l = i.ino, file = made(ROOT, "f", FILE_);
    must_fail(readlink_of(file, &target), EINVAL);
    for (int turn = 0; turn < 4; turn++) {
        must(readlink_of(l, &target));
        assert_string_equal(target, longest);
        free(target);
        again(turn == 0);
        if (turn == 1) { /* a change of the link keeps its target */
            must(set(l, BH_SET_UID, &(struct bh_inode){.uid = 3}, NULL));
            again(true);
        }
    }
    must(unlink_name(ROOT, "l", NULL));
    close_names();
    names_db_is_whole();
}

static void test_links(void **state)
{
    struct bh_inode i, was;
    uint64_t f = made(ROOT, "f", FILE_), d = made(ROOT, "d", DIR_);
    int64_t last = inode(f).ctime;
    must(link_to(f, d, "g", &i));
    assert_int_equal(i.nlink, 2);
    assert_true(is_newer(&last, i.ctime));
    assert_int_equal(inode(d).mtime, i.ctime);
    assert_int_equal(inode(d).entries, 1);
    must_fail(link_to(f, d, "g", &i), EEXIST);
    must_fail(link_to(d, ROOT, "h", &i), EPERM);
    must_fail(link_to(999, ROOT, "h", &i), ENOENT);
    must_fail(link_to(f, f, "h", &i), ENOTDIR);
    again(true);
    must(unlink_name(ROOT, "f", &was));
    assert_int_equal(was.nlink, 1);
    assert_true(is_newer(&last, was.ctime));
    must(lookup(d, "g", &i));
    assert_int_equal(i.ino, f);
    assert_int_equal(gone_count, 0);
    must(unlink_name(d, "g", &was));
    assert_int_equal(was.nlink, 0);
    assert_int_equal(gone_count, 1);
    assert_int_equal(gone_last, f);
    must_fail(get(f, &i), ENOENT);
    must_fail(link_to(f, d, "g", &i), ENOENT);
    must_fail(unlink_name(d, "g", &was), ENOENT);
    must_fail(unlink_name(ROOT, "d", &was), EISDIR);
    close_names();
    names_db_is_whole();
}

static void test_most_links(void **state)
{
    struct bh_inode i;
    char name[30];
    uint64_t f = made(ROOT, "0", FILE_);
    for (int k = 1; k < 65000; k++) {
        snprintf(name, sizeof name, "%d", k);
        must(link_to(f, ROOT, name, &i));
    }
    assert_int_equal(i.nlink, 65000);
    must_fail(link_to(f, ROOT, "one more", &i), EMLINK);
}

static void test_directories(void **state)
{
    struct bh_inode i, was;
    uint64_t a = made(ROOT, "a", DIR_), b = made(a, "b", DIR_), f = made(a, "f", FILE_);
    assert_int_equal(inode(ROOT).nlink, 3);
    assert_int_equal(inode(a).nlink, 3);
    assert_int_equal(inode(a).entries, 2);
    assert_int_equal(inode(b).parent, a);
    must_fail(rmdir_name(ROOT, "a", &was), ENOTEMPTY);
    must_fail(rmdir_name(a, "f", &was), ENOTDIR);
    must_fail(rmdir_name(a, "none", &was), ENOENT);
    must_fail(rmdir_name(f, "none", &was), ENOTDIR);
    again(true);
    must_fail(rmdir_name(ROOT, "a", &was), ENOTEMPTY);
    must(get(b, &i));
    must(bh_names_ref(names, b));
    must(rmdir_name(a, "b", &was));
    assert_int_equal(was.nlink, 0);
    assert_int_equal(gone_count, 0);
    must_fail(make(b, "x", FILE_, &i), ENOENT);
    must_fail(lookup(b, "x", &i), ENOENT);
    must_fail(link_to(f, b, "x", &i), ENOENT);
    must_fail(rename_name(a, "f", b, "x", 0, NULL, NULL), ENOENT);
    struct bh_names_listing *l;
    must(list(b, &l));
    assert_int_equal(l->count, 0);
    free(l);
    bh_names_unref(names, b);
    assert_int_equal(gone_count, 1);
    must_fail(get(b, &i), ENOENT);
    must(unlink_name(a, "f", &was));
    must(rmdir_name(ROOT, "a", &was));
    assert_int_equal(inode(ROOT).nlink, 2);
    assert_int_equal(inode(ROOT).entries, 0);
    close_names();
    names_db_is_whole();
    assert_int_equal(number_in_names("SELECT count(*) FROM inodes"), 1);
}

static void test_set(void **state)
{
    struct bh_inode i, to = {.mode = S_IFDIR | 07123, .uid = 8, .gid = 9, .atime = -5, .mtime = 7};
    uint64_t f = made(ROOT, "f", FILE_), d = made(ROOT, "d", DIR_);
    int64_t last = inode(f).ctime;
    must(set(f, BH_SET_MODE, &to, &i));
    assert_int_equal(i.mode, S_IFREG | 07123);
    assert_int_equal(i.uid, 21);
    assert_true(is_newer(&last, i.ctime));
    must(set(f, BH_SET_UID | BH_SET_NO_CTIME, &to, &i));
    assert_int_equal(i.uid, 8);
    assert_int_equal(i.gid, 22);
    assert_int_equal(i.ctime, last);
    must(set(f, BH_SET_ATIME | BH_SET_MTIME, &to, &i));
    assert_int_equal(i.atime, -5);
    assert_int_equal(i.mtime, 7);
    assert_true(is_newer(&last, i.ctime));
    to.content = (struct bh_content){
        .size = 100, .data = UINT64_MAX - 3, .hash = {1, 2, 3}, .hash_size = 44};
    must(set(f, BH_SET_CONTENT, &to, &i));
    assert_int_equal(i.ctime, last);
    assert_int_equal(i.mtime, 7);
    assert_memory_equal(&i.content, &to.content, sizeof i.content);
    must_fail(set(d, BH_SET_CONTENT, &to, &i), EINVAL);
    must_fail(set(999, BH_SET_UID, &to, &i), ENOENT);
    for (int turn = 0; turn < 3; turn++) {
        again(turn == 0);
        i = inode(f);
        assert_memory_equal(&i.content, &to.content, sizeof i.content);
        assert_int_equal(i.atime, -5);
        assert_int_equal(i.mtime, 7);
        assert_int_equal(i.mode, S_IFREG | 07123);
    }
    must(set(f, BH_SET_ATIME_NOW | BH_SET_MTIME_NOW | BH_SET_NO_CTIME, &to, &i));
    assert_true(i.atime > last && i.mtime == i.atime && i.ctime == last);
}

static void test_xattrs(void **state)
{
    struct bh_inode i;
    void *value;
    char *text;
    size_t len;
    static char big[65536];
    uint64_t f = made(ROOT, "f", FILE_);
    int64_t last = inode(f).ctime;
    must_fail(getxattr_of(f, "user.a", &value, &len), ENODATA);
    must_fail(removexattr_of(f, "user.a"), ENODATA);
    must_fail(setxattr_of(f, "user.a", "x", 1, XATTR_REPLACE), ENODATA);
    must(setxattr_of(f, "user.a", "x\0y", 3, XATTR_CREATE));
    i = inode(f);
    assert_true(is_newer(&last, i.ctime));
    must_fail(setxattr_of(f, "user.a", "x", 1, XATTR_CREATE), EEXIST);
    must(setxattr_of(f, "user.empty", NULL, 0, 0));
    must(setxattr_of(f, "user.c", big, sizeof big, 0));
    must_fail(setxattr_of(f, "user.d", big, sizeof big + 1, 0), E2BIG);
    must_fail(setxattr_of(f, "", big, 1, 0), ERANGE);
    must_fail(setxattr_of(999, "user.d", big, 1, 0), ENOENT);
    for (int turn = 0; turn < 3; turn++) {
        must(getxattr_of(f, "user.a", &value, &len));
        assert_int_equal(len, 3);
        assert_memory_equal(value, "x\0y", 3);
        free(value);
        must(getxattr_of(f, "user.empty", &value, &len));
        assert_int_equal(len, 0);
        free(value);
        must(getxattr_of(f, "user.c", &value, &len));
        assert_int_equal(len, sizeof big);
        free(value);
        must(listxattr_of(f, &text, &len));
        assert_int_equal(len, 7 + 11 + 7);
        free(text);
        again(turn == 0);
    }
    must(removexattr_of(f, "user.c"));
    must(setxattr_of(f, "user.a", "new", 3, XATTR_REPLACE));
    again(true);
    must_fail(getxattr_of(f, "user.c", &value, &len), ENODATA);
    must(getxattr_of(f, "user.a", &value, &len));
    assert_memory_equal(value, "new", 3);
    free(value);
    must(unlink_name(ROOT, "f", NULL));
    must_fail(getxattr_of(f, "user.a", &value, &len), ENOENT);
    close_names();
    names_db_is_whole();
}

static void test_most_xattrs(void **state)
{
    static char big[65536];
    char name[30];
    int rc = 0, k = 0;
    uint64_t f = made(ROOT, "f", FILE_);
    for (; rc == 0; k++) {
        snprintf(name, sizeof name, "user.%d", k);
        rc = setxattr_of(f, name, big, sizeof big, 0);
    }
    assert_int_equal(rc, ENOSPC);
    assert_int_equal(k, 16);
    must(setxattr_of(f, "user.0", big, sizeof big, 0)); /* in place of the same */
    again(false);
    must_fail(setxattr_of(f, name, big, sizeof big, 0), ENOSPC);
    must(removexattr_of(f, "user.3"));
    must(setxattr_of(f, name, big, sizeof big, 0));
}

static void test_listing(void **state)
{
    struct bh_names_listing *l;
    uint64_t d = made(ROOT, "d", DIR_), f = made(d, "f", FILE_);
    made(d, "l", LINK_);
    made(d, "sub", DIR_);
    made(d, "gone", FILE_);
    must(unlink_name(d, "gone", NULL));
    for (int turn = 0; turn < 3; turn++) {
        unsigned seen = 0;
        if (turn == 1)
            must_fail(bh_names_list(names, d, &l, false, ERR), EAGAIN);
        must(list(d, &l));
        assert_int_equal(l->count, 3);
        for (size_t i = 0; i < l->count; i++) {
            struct bh_inode is;
            must(lookup(d, l->entries[i].name, &is));
            assert_int_equal(is.ino, l->entries[i].ino);
            assert_int_equal(is.mode & S_IFMT, l->entries[i].mode & S_IFMT);
            seen |= is.ino == f ? 1 : S_ISDIR(is.mode) ? 2 : S_ISLNK(is.mode) ? 4 : 8;
        }
        assert_int_equal(seen, 7);
        free(l);
        must(bh_names_list(names, d, &l, false, ERR)); /* all is in memory now */
        free(l);
        must_fail(bh_names_lookup(names, d, "absent", NULL, false, ERR), ENOENT);
        again(turn == 1);
    }
    must_fail(list(f, &l), ENOTDIR);
    must_fail(list(999, &l), ENOENT);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, open_setup, names_teardown)
    const struct CMUnitTest tests[] = {
        T(test_root),    T(test_make),   T(test_bad_names),   T(test_inherited_group),
        T(test_symlink), T(test_links),  T(test_most_links),  T(test_directories),
        T(test_set),     T(test_xattrs), T(test_most_xattrs), T(test_listing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
