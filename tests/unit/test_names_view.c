/* The names of a snapshot: what they say is what names.h said when names.db was frozen. */
#include "names_view_fixture.h"

static void test_inodes(void **state)
{
    uint64_t d = made(ROOT, "d", DIR_), f = made(d, "file", FILE_), l = made(d, "link", LINK_);
    uint64_t fifo = made(d, "fifo", S_IFIFO | 0600), all[6];
    struct bh_inode i, device, to = {.mode = 04711, .uid = 1u << 31, .gid = 7};
    struct bh_inode what = {.mode = S_IFCHR | 0600, .rdev = 0x123456789};
    must(bh_names_make(names, ROOT, "dev", &what, NULL, false, &device, true, ERR));
    must(link_to(f, ROOT, "second", &i));
    to.atime = -5;
    to.mtime = INT64_C(4102444800123456789);
    must(set(f, BH_SET_MODE | BH_SET_UID | BH_SET_GID | BH_SET_ATIME | BH_SET_MTIME, &to, NULL));
    give_content(f, 12345, 0, 0xa5, 12345);
    freeze();
    memcpy(all, (uint64_t[]){ROOT, d, f, l, fifo, device.ino}, sizeof all);
    for (size_t n = 0; n < 6; n++) {
        i = inode(all[n]);
        struct bh_inode s = seen(all[n]);
        are_same(&i, &s);
    }
    must(look(ROOT, "second", &i));
    assert_int_equal(i.ino, f);
    assert_int_equal(i.nlink, 2);
    must(look(d, "link", &i));
    assert_int_equal(i.content.size, strlen("some/target"));
    must_fail(look(d, "second", &i), ENOENT);
    must_fail(look(f, "second", &i), ENOENT);
    must_fail(look(d, "fil", &i), ENOENT);
    must_fail(bh_names_view_get(view, 999, &i, NULL, ERR), ENOENT);
    must_say(WHAT);
}

static void test_stays(void **state)
{
    uint64_t a = made(ROOT, "a", FILE_);
    struct bh_inode i;
    must(bh_names_checkpoint(names, ERR));
    assert_int_equal(system("true"), 0);
    char command[700];
    snprintf(command, sizeof command, "cp '%s' '%s'", at("names.db"), at("frozen.db"));
    assert_int_equal(system(command), 0);
    must(unlink_name(ROOT, "a", &i));
    made(ROOT, "b", FILE_);
    close_names();
    assert_int_equal(rename(at("frozen.db"), at("names.db")), 0);
    open_view();
    must(look(ROOT, "a", &i));
    assert_int_equal(i.ino, a);
    must_fail(look(ROOT, "b", &i), ENOENT);
}

static void test_links_and_attributes(void **state)
{
    static const char big[60000] = "big";
    uint64_t f = made(ROOT, "f", FILE_), l = made(ROOT, "l", LINK_);
    char *text;
    void *value;
    size_t len;
    must(setxattr_of(f, "user.one", "1", 1, 0));
    must(setxattr_of(f, "user.none", "", 0, 0));
    must(setxattr_of(f, "user.big", big, sizeof big, 0));
    freeze();
    must(bh_names_view_readlink(view, l, &text, NULL, ERR));
    assert_string_equal(text, "some/target");
    free(text);
    must_fail(bh_names_view_readlink(view, f, &text, NULL, ERR), EINVAL);
    must_fail(bh_names_view_readlink(view, 999, &text, NULL, ERR), EINVAL);
    must(bh_names_view_getxattr(view, f, "user.one", &value, &len, NULL, ERR));
    assert_int_equal(len, 1);
    assert_memory_equal(value, "1", 1);
    free(value);
    must(bh_names_view_getxattr(view, f, "user.none", &value, &len, NULL, ERR));
    assert_int_equal(len, 0);
    free(value);
    must(bh_names_view_getxattr(view, f, "user.big", &value, &len, NULL, ERR));
    assert_int_equal(len, sizeof big);
    assert_memory_equal(value, big, sizeof big);
    free(value);
    must_fail(bh_names_view_getxattr(view, f, "user.on", &value, &len, NULL, ERR), ENODATA);
    must_fail(bh_names_view_getxattr(view, l, "user.one", &value, &len, NULL, ERR), ENODATA);
    must(bh_names_view_listxattr(view, f, &text, &len, NULL, ERR));
    assert_int_equal(len, 28);
    assert_memory_equal(text, "user.big\0user.none\0user.one", 28);
    free(text);
    must(bh_names_view_listxattr(view, l, &text, &len, NULL, ERR));
    assert_int_equal(len, 0);
    free(text);
}

static void test_listing(void **state)
{
    struct bh_names_view_listing *l;
    uint64_t d = made(ROOT, "d", DIR_), first = 0;
    char name[32];
    for (int n = 0; n < 1500; n++) {
        snprintf(name, sizeof name, "name-%04d", n);
        uint64_t ino = made(d, name, n % 3 ? FILE_ : DIR_);
        first = n ? first : ino;
    }
    made(ROOT, "empty", DIR_);
    freeze();
    must(bh_names_view_list(view, d, &l, NULL, ERR));
    assert_int_equal(l->count, 1500);
    for (size_t n = 0; n < l->count; n++) {
        snprintf(name, sizeof name, "name-%04zu", n);
        assert_string_equal(l->entries[n].name, name);
        struct bh_inode i = inode(first + n);
        are_same(&l->entries[n].inode, &i);
    }
    free(l);
    must(bh_names_view_list(view, inode(ROOT).ino, &l, NULL, ERR));
    assert_int_equal(l->count, 2);
    assert_string_equal(l->entries[0].name, "d");
    assert_string_equal(l->entries[1].name, "empty");
    uint64_t empty = l->entries[1].inode.ino;
    free(l);
    must(bh_names_view_list(view, empty, &l, NULL, ERR));
    assert_int_equal(l->count, 0);
    free(l);
}

/* Content that only its machine knew is not in the snapshot. */
static void test_only_what_was_published(void **state)
{
    uint64_t never = made(ROOT, "never", FILE_), again = made(ROOT, "again", FILE_);
    uint64_t done = made(ROOT, "done", FILE_);
    struct bh_names_view_listing *l;
    give_content(never, 500, 11, 0, 0);
    give_content(again, 700, 12, 0x77, 300);
    give_content(done, 900, 0, 0x99, 900);
    freeze();
    assert_int_equal(seen(never).content.size, 0);
    assert_int_equal(seen(again).content.size, 300);
    assert_int_equal(seen(again).content.data, 0);
    assert_int_equal(seen(again).content.hash[5], 0x77);
    assert_int_equal(seen(done).content.size, 900);
    must(bh_names_view_list(view, ROOT, &l, NULL, ERR));
    assert_int_equal(l->entries[0].inode.content.size, 300);
    assert_int_equal(l->entries[2].inode.content.size, 0);
    free(l);
}

static void is_empty(void)
{
    struct bh_names_view_listing *l;
    struct bh_blob_list *b;
    struct bh_inode i;
    uint8_t hash[BH_SHA256_LEN] = {1};
    uint64_t size;
    char *list;
    size_t len;
    i = seen(ROOT);
    assert_int_equal(i.ino, ROOT);
    assert_int_equal(i.parent, ROOT);
    assert_int_equal(i.mode, S_IFDIR | 0711);
    assert_int_equal(i.uid, 3);
    must(bh_names_view_list(view, ROOT, &l, NULL, ERR));
    assert_int_equal(l->count, 0);
    free(l);
    must_fail(look(ROOT, "a", &i), ENOENT);
    must_fail(bh_names_view_get(view, 2, &i, NULL, ERR), ENOENT);
    must(bh_names_view_listxattr(view, ROOT, &list, &len, NULL, ERR));
    assert_int_equal(len, 0);
    free(list);
    must(bh_names_view_list_blobs(view, &b, NULL, ERR));
    assert_int_equal(b->count, 0);
    free(b);
    must_fail(bh_names_view_find_blob(view, hash, &size, NULL, ERR), ENOENT);
}

static void test_empty(void **state)
{
    close_names();
    assert_int_equal(truncate(at("names.db"), 0), 0);
    open_view();
    atomic_store(&reads, 0);
    is_empty();
    assert_int_equal(atomic_load(&reads), 0);
    close_view();
    sql_on_names("CREATE TABLE t(a)");
    sql_on_names("DROP TABLE t");
    open_view();
    is_empty();
}

static void test_blobs(void **state)
{
    struct bh_blob_list *b, *live;
    struct bh_inode i;
    uint64_t size, f[5];
    uint8_t hash[BH_SHA256_LEN];
    char name[8];
    for (int n = 0; n < 5; n++) {
        snprintf(name, sizeof name, "f%d", n);
        f[n] = made(ROOT, name, FILE_);
    }
    give_content(f[0], 10, 0, 0x30, 10);
    give_content(f[1], 20, 0, 0x20, 20);
    give_content(f[2], 10, 0, 0x30, 10);   /* the same content */
    give_content(f[3], 99, 1234, 0x40, 7); /* is being written again */
    must(bh_names_ref(names, f[1]));
    must(unlink_name(ROOT, "f1", &i)); /* has no name any more, but somebody reads it */
    freeze();
    must(bh_names_view_list_blobs(view, &b, NULL, ERR));
    must(bh_names_list_blobs(names, &live, ERR));
    assert_int_equal(b->count, 2);
    assert_int_equal(live->count, 2);
    for (int n = 0; n < 2; n++) {
        assert_int_equal(b->blobs[n].hash[31], n ? 0x40 : 0x30);
        assert_int_equal(b->blobs[n].size, n ? 7 : 10);
        assert_memory_equal(b->blobs[n].hash, live->blobs[n].hash, BH_SHA256_LEN);
        assert_int_equal(b->blobs[n].size, live->blobs[n].size);
    }
    free(b);
    free(live);
    static const struct {
        int byte, rc;
        uint64_t size;
    } cases[] = {{0x30, 0, 10}, {0x20, ENOENT, 0}, {0x40, 0, 7}, {0x50, ENOENT, 0}};
    for (int n = 0; n < 4; n++) {
        memset(hash, cases[n].byte, sizeof hash);
        must_fail(bh_names_view_find_blob(view, hash, &size, NULL, ERR), cases[n].rc);
        assert_true(cases[n].rc || size == cases[n].size);
        must_fail(bh_names_find_blob(names, hash, &size, ERR), cases[n].rc);
        assert_true(cases[n].rc || size == cases[n].size);
    }
    /* What the database does not know yet counts for the live ones. */
    give_content(f[4], 55, 0, 0x50, 55);
    must(bh_names_find_blob(names, hash, &size, ERR));
    assert_int_equal(size, 55);
    must_fail(bh_names_view_find_blob(view, hash, &size, NULL, ERR), ENOENT);
    must(unlink_name(ROOT, "f0", &i));
    must(unlink_name(ROOT, "f2", &i));
    memset(hash, 0x30, sizeof hash);
    must_fail(bh_names_find_blob(names, hash, &size, ERR), ENOENT);
    must(bh_names_list_blobs(names, &live, ERR));
    assert_int_equal(live->count, 2);
    assert_int_equal(live->blobs[1].hash[0], 0x50);
    free(live);
    bh_names_unref(names, f[1]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_inodes),
        T(test_stays),
        T(test_links_and_attributes),
        T(test_listing),
        T(test_only_what_was_published),
        T(test_empty),
        T(test_blobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
