/* Names and what holds on to them: open files, flushes and swaps, contents and data files; a tree
 * that may not be written. */
#include "names_fixture.h"

#define FILE_ (S_IFREG | 0644)
#define DIR_  (S_IFDIR | 0755)

static void test_unlinked_while_open(void **state)
{
    struct bh_inode i, what = {.mode = FILE_};
    must(bh_names_make(names, ROOT, "f", &what, NULL, true, &i, false, ERR));
    uint64_t f = i.ino;
    must(setxattr_of(f, "user.x", "1", 1, 0));
    must(bh_names_ref(names, f));
    must(unlink_name(ROOT, "f", &i));
    assert_int_equal(i.nlink, 0);
    must(bh_names_checkpoint(names, ERR));
    must(set(f, BH_SET_MODE, &(struct bh_inode){.mode = 0600}, &i));
    must_fail(link_to(f, ROOT, "back", &i), ENOENT);
    bh_names_unref(names, f);
    must(get(f, &i));
    assert_int_equal(gone_count, 0);
    bh_names_unref(names, f);
    assert_int_equal(gone_count, 1);
    must_fail(get(f, &i), ENOENT);
    bh_names_unref(names, f); /* one too many */
    must(bh_names_checkpoint(names, ERR));
    assert_int_equal(number_in_names("SELECT count(*) FROM inodes"), 1);
    assert_int_equal(number_in_names("SELECT count(*) FROM xattrs"), 0);
    assert_int_equal(gone_count, 1);
}

/* Nobody comes back for what was open without a name when the daemon died. */
static void test_unlinked_before_a_crash(void **state)
{
    for (int checkpointed = 0; checkpointed < 2; checkpointed++) {
        struct bh_inode i, what = {.mode = FILE_};
        must(bh_names_make(names, ROOT, "f", &what, NULL, true, &i, false, ERR));
        must(setxattr_of(i.ino, "user.x", "1", 1, 0));
        must(unlink_name(ROOT, "f", &i));
        if (checkpointed)
            must(bh_names_checkpoint(names, ERR));
        again(true);
        must_fail(get(i.ino, &i), ENOENT);
        must(bh_names_checkpoint(names, ERR));
        assert_int_equal(number_in_names("SELECT count(*) FROM inodes"), 1);
        names_db_is_whole();
    }
}

/* Between hold and release nobody writes to the database, whatever is given up meanwhile. */
static void test_hold(void **state)
{
    struct bh_inode i, what = {.mode = FILE_};
    size_t len, len_now;
    options.checkpoint_ms = 1;
    again(false);
    must(bh_names_make(names, ROOT, "f", &what, NULL, true, &i, true, ERR));
    must(unlink_name(ROOT, "f", NULL));
    must(bh_names_hold(names, ERR));
    assert_int_equal(number_in_names("SELECT nlink FROM inodes WHERE ino != 1"), 0);
    unsigned char *before = get_file("names.db", &len);
    bh_names_unref(names, i.ino);
    assert_int_equal(gone_count, 1);
    must_fail(bh_names_make(names, ROOT, "g", &what, NULL, false, &i, false, ERR), EAGAIN);
    must(bh_names_checkpoint(names, ERR));
    must(bh_names_sync(names, ERR));
    usleep(50000);
    unsigned char *now = get_file("names.db", &len_now);
    assert_int_equal(len, len_now);
    assert_memory_equal(before, now, len);
    free(before);
    free(now);
    bh_names_release(names, false);
    must(make(ROOT, "g", FILE_, &i));
    close_names();
    names_db_is_whole();
    assert_int_equal(number_in_names("SELECT count(*) FROM inodes"), 2);
}

/* What waits for a hold is not in the database yet. */
static void test_checkpoint_before_a_hold(void **state)
{
    struct bh_names_stats st;
    made(ROOT, "f", FILE_);
    pthread_mutex_lock(&names->mutex);
    names->held = true;
    pthread_mutex_unlock(&names->mutex);
    must(bh_names_checkpoint(names, ERR));
    bh_names_stats(names, &st);
    assert_int_equal(st.changed, 0);
    assert_int_equal(number_in_names("SELECT count(*) FROM entries"), 1);
    bh_names_release(names, false);
}

static void *get_one(void *arg)
{
    struct bh_inode i;
    struct bh_error err;
    *(int *)arg = bh_names_get(names, 2, &i, true, &err);
    return NULL;
}

/* A load that waits while the content is swapped, and cannot be read then, says nothing of it. */
static void test_swap_before_a_load(void **state)
{
    pthread_t thread;
    int rc = -1;
    assert_int_equal(made(ROOT, "f", FILE_), 2);
    again(false);
    pthread_mutex_lock(&names->mutex);
    names->gate = true;
    pthread_mutex_unlock(&names->mutex);
    assert_int_equal(pthread_create(&thread, NULL, get_one, &rc), 0);
    usleep(100000); /* it waits for the gate */
    must(bh_names_hold(names, ERR));
    atomic_store(&refuse_connects, EIO);
    bh_names_release(names, true);
    pthread_mutex_lock(&names->mutex);
    names->gate = false;
    pthread_cond_broadcast(&names->cond);
    pthread_mutex_unlock(&names->mutex);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(rc, EIO);
    atomic_store(&refuse_connects, 0);
    assert_int_equal(inode(2).mode, FILE_);
}

static void test_references(void **state)
{
    struct bh_inode i;
    must_fail(bh_names_ref(names, 99), EAGAIN);
    must_fail(get(99, &i), ENOENT);
    must_fail(bh_names_ref(names, 99), ENOENT);
    uint64_t f = made(ROOT, "f", FILE_);
    again(false);
    must_fail(bh_names_ref(names, f), EAGAIN);
    must(get(f, &i));
    must(bh_names_ref(names, f));
    bh_names_unref(names, f);
}

static int count_local(void *arg, const struct bh_inode *i)
{
    struct bh_inode now;
    must(bh_names_get(names, i->ino, &now, true, ERR)); /* it may call anything */
    ++*(int *)arg;
    return *(int *)arg == 3;
}

static void test_local_files(void **state)
{
    struct bh_inode to = {.content = {.data = 5}};
    char name[10] = "0";
    int count = 0;
    must(bh_names_each_local(names, count_local, &count, ERR));
    assert_int_equal(count, 0);
    for (; name[0] < '5'; name[0]++) {
        uint64_t f = made(ROOT, name, FILE_);
        if (name[0] != '3') {
            must(set(f, BH_SET_CONTENT, &to, NULL));
            to.content.data++;
        }
        if (name[0] == '1') {
            count = 0;
            must(bh_names_each_local(names, count_local, &count, ERR));
            assert_int_equal(count, 2);
            again(false);
        }
    }
    count = -10;
    must(bh_names_each_local(names, count_local, &count, ERR));
    assert_int_equal(count, -6);
    count = 0;
    assert_int_equal(bh_names_each_local(names, count_local, &count, ERR), 1);
    assert_int_equal(count, 3);
    must(bh_names_checkpoint(names, ERR));
    count = -10;
    must(bh_names_each_local(names, count_local, &count, ERR));
    assert_int_equal(count, -6);
}

static int data_here; /* what has_data answers: -1 not here, 0 here, or an errno */
static int has_data(void *arg, uint64_t data, bool *has)
{
    *has = data_here == 0;
    return data_here > 0 ? data_here : 0;
}

/* A disk that does not answer is no reason to forget what was written. */
static void test_whether_data_is_here(void **state)
{
    struct bh_inode i, to = {.content = {.size = 9, .data = 5, .hash = {7}, .hash_size = 4}};
    uint64_t d = made(ROOT, "d", DIR_), f = made(d, "f", FILE_);
    struct bh_names_listing *l;
    must(set(f, BH_SET_CONTENT, &to, NULL));
    options.has_data = has_data;
    data_here = EIO;
    again(false);
    must_fail(get(f, &i), EIO);
    must_say("local data");
    must(list(d, &l));
    assert_int_equal(l->count, 1); /* it hides no name */
    free(l);
    must_fail(lookup(d, "f", &i), EIO);
    must_say("local data");
    data_here = 0;
    i = inode(f);
    assert_int_equal(i.content.data, 5);
    assert_int_equal(i.content.size, 9);
    data_here = -1;
    again(false);
    i = inode(f);
    assert_int_equal(i.content.data, 0);
    assert_int_equal(i.content.size, 4);
}

static bool has(const struct bh_content *c)
{
    bool yes = false;
    must(bh_names_has_hash(names, c->hash, &yes, ERR));
    return yes;
}

static void test_who_has_a_content(void **state)
{
    struct bh_inode i, to = {.content = {.hash = {7}, .hash_size = 1}}, none = {0};
    uint64_t f = made(ROOT, "f", FILE_), g = made(ROOT, "g", FILE_);
    assert_false(has(&to.content));
    must(set(f, BH_SET_CONTENT, &to, NULL));
    must(set(g, BH_SET_CONTENT, &to, NULL));
    assert_true(has(&to.content));
    again(false);
    assert_true(has(&to.content));
    must(unlink_name(ROOT, "f", NULL));
    assert_true(has(&to.content));
    must(set(g, BH_SET_CONTENT, &none, NULL));
    assert_false(has(&to.content)); /* the database says otherwise */
    must(set(g, BH_SET_CONTENT, &to, NULL));
    assert_true(has(&to.content));
    must(get(g, &i));
    must(bh_names_ref(names, g));
    must(unlink_name(ROOT, "g", NULL));
    assert_false(has(&to.content)); /* it has no name */
    bh_names_unref(names, g);
    must(bh_names_checkpoint(names, ERR));
    assert_false(has(&to.content));
}

static void test_read_only(void **state)
{
    struct bh_inode i;
    struct bh_names_listing *l;
    uint64_t f = made(ROOT, "f", FILE_);
    close_names();
    options.read_only = true;
    open_names();
    must(lookup(ROOT, "f", &i));
    assert_int_equal(i.ino, f);
    must_fail(make(ROOT, "g", FILE_, &i), EROFS);
    must_fail(unlink_name(ROOT, "f", &i), EROFS);
    must_fail(setxattr_of(f, "user.x", "", 0, 0), EROFS);
    must(bh_names_sync(names, ERR));
    must(bh_names_checkpoint(names, ERR));
    close_names();
    assert_int_equal(unlink(at("names.db")), 0);
    open_names();
    must(list(ROOT, &l));
    assert_int_equal(l->count, 0);
    free(l);
    must_fail(lookup(ROOT, "f", &i), ENOENT);
    close_names();
    assert_int_equal(number_in_names("SELECT count(*) FROM sqlite_master"), 0);
    assert_false(is_there("names.log.1"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, open_setup, names_teardown)
    const struct CMUnitTest tests[] = {
        T(test_unlinked_while_open),
        T(test_unlinked_before_a_crash),
        T(test_hold),
        T(test_checkpoint_before_a_hold),
        T(test_swap_before_a_load),
        T(test_references),
        T(test_local_files),
        T(test_whether_data_is_here),
        T(test_who_has_a_content),
        T(test_read_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
