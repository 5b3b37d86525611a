/* The names of a snapshot: what a damaged names.db, or a bucket that does not answer, ends in. */
#include "names_view_fixture.h"

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
        T(test_damaged_rows),  T(test_an_inode_of_a_listing), T(test_newer_format),
        T(test_damaged_pages), T(test_failed_reads),          T(test_bucket_away),
        T(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
