/* The names of a snapshot: what they say is what names.h said when names.db was frozen; and what a
 * damaged names.db, or a bucket that does not answer, ends in. */
#include "names_fixture.h"

#include <stdatomic.h>

#include "store/names_view.h"

#define FILE_ (S_IFREG | 0640)
#define DIR_  (S_IFDIR | 0750)
#define LINK_ (S_IFLNK | 0777)
#define WHAT  "snapshot 20260102T030405.678Z-0123abcd"

static struct bh_names_view *view;
static int db = -1;
static atomic_int refuse; /* an errno that reads end with */
static atomic_bool hang;  /* reads wait for this to end, or for the limits of their call */
static atomic_uint reads, hanging;

static int read_file(void *arg, uint64_t offset, void *buf, size_t len, const struct bh_call *call,
                     struct bh_error *err)
{
    int rc = atomic_load(&refuse);
    (void)arg;
    atomic_fetch_add(&reads, 1);
    if (rc)
        return bh_fail(err, rc, "no bytes today");
    atomic_fetch_add(&hanging, 1);
    while (rc == 0 && atomic_load(&hang)) {
        usleep(1000);
        rc = bh_call_check(call, "reading", err);
    }
    atomic_fetch_sub(&hanging, 1);
    if (rc)
        return rc;
    rc = bh_pread_full(db, buf, len, offset, NULL);
    return rc ? bh_fail(err, rc, "the file cannot be read") : 0;
}

static void open_view(void)
{
    struct stat st;
    struct bh_names_view_options o = {
        .read = read_file, .what = WHAT, .root = {.mode = S_IFDIR | 0711, .uid = 3, .gid = 4}};
    db = open(at("names.db"), O_RDONLY | O_CLOEXEC);
    assert_true(db >= 0 && fstat(db, &st) == 0);
    o.size = (uint64_t)st.st_size;
    must(bh_names_view_new(&view, &o, ERR));
}

static void close_view(void)
{
    bh_names_view_free(view);
    view = NULL;
    close(db);
    db = -1;
}

static int setup(void **state)
{
    int rc = names_setup(state);
    atomic_store(&refuse, 0);
    atomic_store(&hang, false);
    if (rc == 0)
        open_names();
    return rc;
}

static int teardown(void **state)
{
    if (view)
        close_view();
    return names_teardown(state);
}

/* names.db as a snapshot has it. */
static void freeze(void)
{
    must(bh_names_checkpoint(names, ERR));
    open_view();
}

static struct bh_inode seen(uint64_t ino)
{
    struct bh_inode i = {0};
    must(bh_names_view_get(view, ino, &i, NULL, ERR));
    return i;
}

static int look(uint64_t dir, const char *name, struct bh_inode *out)
{
    return bh_names_view_lookup(view, dir, name, out, NULL, ERR);
}

static void give_content(uint64_t ino, uint64_t size, uint64_t data, uint8_t hash,
                         uint64_t hash_size)
{
    struct bh_inode to = {.content = {.size = size, .data = data, .hash_size = hash_size}};
    memset(to.content.hash, hash, hash ? BH_SHA256_LEN : 0);
    must(set(ino, BH_SET_CONTENT, &to, NULL));
}

static void are_same(const struct bh_inode *a, const struct bh_inode *b)
{
    assert_int_equal(a->ino, b->ino);
    assert_int_equal(a->mode, b->mode);
    assert_int_equal(a->nlink, b->nlink);
    assert_int_equal(a->uid, b->uid);
    assert_int_equal(a->gid, b->gid);
    assert_int_equal(a->rdev, b->rdev);
    assert_int_equal(a->atime, b->atime);
    assert_int_equal(a->mtime, b->mtime);
    assert_int_equal(a->ctime, b->ctime);
    assert_int_equal(a->parent, b->parent);
    assert_int_equal(a->entries, b->entries);
    assert_int_equal(a->content.size, b->content.size);
    assert_int_equal(a->content.hash_size, b->content.hash_size);
    assert_int_equal(a->content.data, b->content.data);
    assert_memory_equal(a->content.hash, b->content.hash, BH_SHA256_LEN);
}

/* --- what is there --- */

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

/* --- damage --- */

/* The tree of the damage tests: d/f, d/l, with an attribute; f has the number 3, l 4. */
static void make_small(void)
{
    uint64_t d = made(ROOT, "d", DIR_), f = made(d, "f", FILE_);
    assert_int_equal(d, 2);
    assert_int_equal(f, 3);
    assert_int_equal(made(d, "l", LINK_), 4);
    give_content(f, 5, 0, 0x55, 5);
    must(setxattr_of(f, "user.a", "1", 1, 0));
    close_names();
}

enum what { GET, LOOKUP, LIST, READLINK, GETXATTR, LISTXATTR, BLOBS, BLOB };

static int ask(enum what what)
{
    struct bh_names_view_listing *l = NULL;
    struct bh_blob_list *b = NULL;
    struct bh_inode i;
    char *text = NULL;
    void *value = NULL;
    size_t len;
    uint64_t size;
    uint8_t hash[BH_SHA256_LEN];
    int rc = 0;
    memset(hash, 0x55, sizeof hash);
    switch (what) {
    case GET:
        return bh_names_view_get(view, 3, &i, NULL, ERR);
    case LOOKUP:
        return look(2, "f", &i);
    case LIST:
        rc = bh_names_view_list(view, 2, &l, NULL, ERR);
        break;
    case READLINK:
        rc = bh_names_view_readlink(view, 4, &text, NULL, ERR);
        break;
    case GETXATTR:
        rc = bh_names_view_getxattr(view, 3, "user.a", &value, &len, NULL, ERR);
        break;
    case LISTXATTR:
        rc = bh_names_view_listxattr(view, 3, &text, &len, NULL, ERR);
        break;
    case BLOBS:
        rc = bh_names_view_list_blobs(view, &b, NULL, ERR);
        break;
    case BLOB:
        rc = bh_names_view_find_blob(view, hash, &size, NULL, ERR);
        break;
    }
    if (rc == 0) {
        free(l);
        free(b);
        free(text);
        free(value);
    }
    return rc;
}

/* Nothing but the sentence that names the snapshot, and nothing is wrong with what is not asked
 * for. */
static void test_damaged_rows(void **state)
{
    static const struct {
        const char *sql;
        enum what what, fine;
    } cases[] = {
        {"UPDATE inodes SET mode = 0 WHERE ino = 3", GET, READLINK},
        {"UPDATE inodes SET mode = 0 WHERE ino = 3", LOOKUP, LIST},
        {"UPDATE inodes SET size = -1, hash_size = -1 WHERE ino = 3", GET, LIST},
        {"UPDATE inodes SET size = 77 WHERE ino = 3", GET, LIST},
        {"UPDATE inodes SET mtime = 'yesterday' WHERE ino = 3", GET, LIST},
        {"UPDATE inodes SET hash = x'1234' WHERE ino = 3", BLOBS, READLINK},
        {"UPDATE inodes SET hash_size = 'x' WHERE ino = 3", BLOB, READLINK},
        {"DELETE FROM inodes WHERE ino = 3", LOOKUP, LIST},
        {"UPDATE entries SET ino = 'x' WHERE name = CAST('f' AS BLOB)", LIST, GET},
        {"UPDATE entries SET name = CAST('a/b' AS BLOB) WHERE ino = 3", LIST, GET},
        {"DELETE FROM symlinks", READLINK, GET},
        {"UPDATE symlinks SET target = x'610062'", READLINK, GET},
        {"UPDATE xattrs SET value = 12", GETXATTR, GET},
        {"UPDATE xattrs SET name = x''", LISTXATTR, GET},
        {"UPDATE xattrs SET name = x'610062'", LISTXATTR, GET},
        {"DROP TABLE entries", LIST, GET},
        {"DROP TABLE xattrs", LISTXATTR, BLOBS},
        {"DELETE FROM meta", GET, GET},
        {"UPDATE meta SET value = 0 WHERE key = 'state'", LOOKUP, LOOKUP},
    };
    make_small();
    char keep[700], back[700];
    snprintf(keep, sizeof keep, "cp '%s' '%s'", at("names.db"), at("good.db"));
    snprintf(back, sizeof back, "cp '%s' '%s'", at("good.db"), at("names.db"));
    assert_int_equal(system(keep), 0);
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        assert_int_equal(system(back), 0);
        sql_on_names(cases[n].sql);
        open_view();
        must_fail(ask(cases[n].what), EIO);
        must_say(WHAT ": names.db");
        if (cases[n].fine != cases[n].what)
            must(ask(cases[n].fine));
        must_fail(ask(cases[n].what), EIO);
        close_view();
    }
    assert_int_equal(system(back), 0);
    open_view();
    for (int what = GET; what <= BLOB; what++)
        must(ask((enum what)what));
}

static void test_an_inode_of_a_listing(void **state)
{
    struct bh_names_view_listing *l;
    make_small();
    sql_on_names("UPDATE inodes SET mode = 0 WHERE ino = 3");
    open_view();
    must(bh_names_view_list(view, 2, &l, NULL, ERR));
    assert_int_equal(l->count, 2);
    assert_string_equal(l->entries[0].name, "f");
    assert_int_equal(l->entries[0].inode.ino, 3);
    assert_int_equal(l->entries[0].inode.mode, 0);
    assert_int_equal(l->entries[1].inode.mode, LINK_);
    free(l);
}

static void test_newer_format(void **state)
{
    make_small();
    sql_on_names("UPDATE meta SET value = 2 WHERE key = 'format'");
    open_view();
    must_fail(ask(GET), ENOTSUP);
    must_say(WHAT);
}

/* Bytes that are no database, at any place; and a file that was cut. */
static void test_damaged_pages(void **state)
{
    make_small();
    struct stat st;
    assert_int_equal(stat(at("names.db"), &st), 0);
    unsigned failures = 0;
    int fd = open(at("names.db"), O_RDWR | O_CLOEXEC);
    for (off_t page = 0; page < st.st_size; page += 4096) {
        char was[4096], noise[4096];
        assert_int_equal(pread(fd, was, sizeof was, page), sizeof was);
        memset(noise, 0x5a, sizeof noise);
        assert_int_equal(pwrite(fd, noise, sizeof noise, page), sizeof noise);
        open_view();
        for (int what = GET; what <= BLOB; what++) {
            int rc = ask((enum what)what);
            if (rc == 0)
                continue;
            failures++;
            must_fail(rc, EIO);
            must_say(WHAT);
        }
        close_view();
        assert_int_equal(pwrite(fd, was, sizeof was, page), sizeof was);
    }
    assert_true(failures > 8);
    assert_int_equal(ftruncate(fd, 4096), 0);
    open_view();
    must_fail(ask(GET), EIO);
    must_say(WHAT);
    close(fd);
}

/* --- reading takes long, or fails --- */

static void test_failed_reads(void **state)
{
    make_small();
    open_view();
    atomic_store(&refuse, ETIMEDOUT);
    for (int what = GET; what <= BLOB; what++) {
        must_fail(ask((enum what)what), ETIMEDOUT);
        must_say(WHAT);
        must_say("no bytes today");
    }
    atomic_store(&refuse, 0);
    for (int what = GET; what <= BLOB; what++)
        must(ask((enum what)what));
    /* What was read once is there. */
    atomic_store(&refuse, EIO);
    must(ask(GET));
}

struct caller {
    pthread_t thread;
    struct bh_call call;
    atomic_bool cancel;
    int rc;
};

static void *get_one(void *arg)
{
    struct caller *c = arg;
    struct bh_inode i;
    struct bh_error err;
    c->rc = bh_names_view_get(view, 3, &i, &c->call, &err);
    return NULL;
}

static void wait_until_hanging(unsigned count)
{
    for (int n = 0; atomic_load(&hanging) < count; n++) {
        assert_true(n < 10000);
        usleep(1000);
    }
}

/* Those who wait for the bucket end when their time is over, or their client gives up; those who
 * wait for them, too; and then it goes on. */
static void test_bucket_away(void **state)
{
    struct caller c[8] = {0};
    make_small();
    open_view();
    atomic_store(&hang, true);
    for (int n = 0; n < 8; n++) {
        c[n].call.cancel = &c[n].cancel;
        c[n].call.deadline_ms = n % 2 ? 0 : bh_mono_ms() + 300;
        assert_int_equal(pthread_create(&c[n].thread, NULL, get_one, &c[n]), 0);
    }
    for (int n = 0; n < 8; n += 2) {
        pthread_join(c[n].thread, NULL);
        assert_int_equal(c[n].rc, ETIMEDOUT);
    }
    wait_until_hanging(4);
    atomic_store(&c[1].cancel, true);
    atomic_store(&c[3].cancel, true);
    pthread_join(c[1].thread, NULL);
    pthread_join(c[3].thread, NULL);
    assert_int_equal(c[1].rc, ECANCELED);
    assert_int_equal(c[3].rc, ECANCELED);
    atomic_store(&hang, false);
    pthread_join(c[5].thread, NULL);
    pthread_join(c[7].thread, NULL);
    assert_int_equal(c[5].rc, 0);
    assert_int_equal(c[7].rc, 0);
    must(ask(LIST));
}

static atomic_uint wrong_answers;

static void *look_around(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    struct bh_error err;
    struct bh_inode i;
    char name[32];
    for (int n = 0; n < 2000; n++) {
        unsigned k = (unsigned)rand_r(&seed) % 1200;
        snprintf(name, sizeof name, "n%u", k);
        int rc = bh_names_view_lookup(view, ROOT, name, &i, NULL, &err);
        bool there = k < 1000;
        if (rc != (there ? 0 : ENOENT) || (there && i.uid != 21))
            atomic_fetch_add(&wrong_answers, 1);
    }
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t t[8];
    char name[32];
    for (unsigned n = 0; n < 1000; n++) {
        snprintf(name, sizeof name, "n%u", n);
        made(ROOT, name, FILE_);
    }
    freeze();
    for (uintptr_t n = 0; n < 8; n++)
        assert_int_equal(pthread_create(&t[n], NULL, look_around, (void *)(n + 1)), 0);
    for (int n = 0; n < 8; n++)
        pthread_join(t[n], NULL);
    assert_int_equal(atomic_load(&wrong_answers), 0);
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
        T(test_damaged_rows),
        T(test_an_inode_of_a_listing),
        T(test_newer_format),
        T(test_damaged_pages),
        T(test_failed_reads),
        T(test_bucket_away),
        T(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
