/* names.db damaged or of another make, and SQL that fails: a sentence each time, never a crash. */
#include "names_fixture.h"

#define FILE_ (S_IFREG | 0644)
#define DIR_  (S_IFDIR | 0755)

static uint64_t d, sub, f, l;

/* /d/sub, /d/f, /l */
static int setup(void **state)
{
    int rc = names_setup(state);
    if (rc)
        return rc;
    open_names();
    d = made(ROOT, "d", DIR_);
    sub = made(d, "sub", DIR_);
    f = made(d, "f", FILE_);
    l = made(ROOT, "l", S_IFLNK | 0777);
    must(setxattr_of(f, "user.x", "v", 1, 0));
    close_names();
    return 0;
}

static void damage(const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    sql_on_names(text);
}

static void must_be_refused(int code, const char *sentence)
{
    struct bh_names *n = NULL;
    must_fail(bh_names_open(&n, &options, ERR), code);
    must_say(sentence);
}

/* --- what cannot be opened --- */

static void test_newer_format(void **state)
{
    damage("UPDATE meta SET value=2 WHERE key='format'");
    must_be_refused(ENOTSUP, "use a newer bhfs");
}

static void test_meta_is_wrong(void **state)
{
    static const char *const all[] = {
        "DELETE FROM meta WHERE key='format'",
        "UPDATE meta SET value='x' WHERE key='state'",
        "DELETE FROM meta WHERE key='applied'",
        "UPDATE meta SET value=0 WHERE key='next_ino'",
        "UPDATE meta SET value=-1 WHERE key='applied'",
        "DROP TABLE meta",
    };
    copy_file("names.db", "good.db");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        damage("%s", all[i]);
        must_be_refused(EIO, "names.db is damaged");
        copy_file("good.db", "names.db");
    }
    open_names();
}

static void test_root_is_wrong(void **state)
{
    static const char *const all[] = {
        "DELETE FROM inodes WHERE ino=1", "UPDATE inodes SET mode=33188 WHERE ino=1",
        "UPDATE inodes SET parent=2 WHERE ino=1", "UPDATE inodes SET nlink='two' WHERE ino=1",
        "DROP TABLE inodes"};
    copy_file("names.db", "good.db");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        damage("%s", all[i]);
        must_be_refused(EIO, "names.db is damaged");
        copy_file("good.db", "names.db");
    }
    open_names();
}

static void test_no_database(void **state)
{
    put_file("names.db",
             "This is not a database, whatever its name says. It is text, and long enough.", 75);
    must_be_refused(EIO, "names.db");
    damage("%s", ""); /* opens, as long as nobody reads */
    assert_int_equal(unlink(at("names.db")), 0);
    damage("CREATE TABLE somebody_elses(x)");
    must_be_refused(EIO, "names.db is damaged");
}

/* --- rows that contradict --- */

static void must_be_eio(int rc)
{
    must_fail(rc, EIO);
    must_say("names.db is damaged");
}

static void test_inode_rows(void **state)
{
    static const char *const all[] = {
        "mode=0",         "mode='x'", "mode=NULL",  "mode=1<<40",         "nlink=-1",
        "uid=5000000000", "size=-1",  "atime='no'", "hash='text'",        "hash=x'00'",
        "hash_size=-5",   "data='d'", "gid=x'01'",  "mode=33188+(1<<20)",
    };
    struct bh_inode i;
    sql_on_names("PRAGMA ignore_check_constraints=1");
    copy_file("names.db", "good.db");
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        if (strstr(all[k], "NULL"))
            continue; /* the schema refuses it */
        damage("UPDATE inodes SET %s WHERE ino=%d", all[k], (int)f);
        open_names();
        must_be_eio(get(f, &i));
        must_be_eio(lookup(d, "f", &i));
        must_be_eio(unlink_name(d, "f", &i));
        must(lookup(d, "sub", &i)); /* the others are there */
        made(d, "new", FILE_);
        struct bh_names_listing *all_names;
        must(list(d, &all_names));
        assert_int_equal(all_names->count, 3);
        free(all_names);
        close_names();
        copy_file("good.db", "names.db");
    }
}

static void test_entry_leads_nowhere(void **state)
{
    struct bh_inode i;
    damage("DELETE FROM inodes WHERE ino=%d", (int)f);
    open_names();
    must_be_eio(lookup(d, "f", &i));
    must_be_eio(unlink_name(d, "f", &i));
    must_be_eio(rename_name(d, "f", ROOT, "g", 0, NULL, NULL));
    must_be_eio(rename_name(ROOT, "l", d, "f", 0, NULL, NULL));
    must_fail(get(f, &i), ENOENT);
    close_names();
    struct bh_names_listing *all;
    open_names();
    must(list(d, &all)); /* now memory has the name, and the database another one */
    free(all);
    damage("UPDATE entries SET ino=%d WHERE ino=%d", (int)l, (int)f);
    must_be_eio(lookup(d, "f", &i));
}

static void test_entry_rows(void **state)
{
    struct bh_inode i;
    struct bh_names_listing *all;
    damage("UPDATE entries SET ino='x' WHERE name=CAST('f' AS BLOB)");
    open_names();
    must_be_eio(lookup(d, "f", &i));
    close_names();
    damage("UPDATE entries SET name=CAST('a/b' AS BLOB), ino=%d WHERE name=CAST('f' AS BLOB)",
           (int)f);
    damage("INSERT INTO entries VALUES(%d, CAST('..' AS BLOB), 1)", (int)d);
    damage("INSERT INTO entries VALUES(%d, zeroblob(300), 1)", (int)d);
    open_names();
    must(list(d, &all));
    assert_int_equal(all->count, 1);
    assert_string_equal(all->entries[0].name, "sub");
    free(all);
}

static void test_symlink_without_target(void **state)
{
    struct bh_inode i;
    char *target;
    damage("DELETE FROM symlinks");
    open_names();
    must_be_eio(get(l, &i));
    must_be_eio(readlink_of(l, &target));
    must(lookup(ROOT, "d", &i));
}

static void test_xattr_rows(void **state)
{
    void *value;
    char *text;
    size_t len;
    damage("UPDATE xattrs SET value='text'");
    open_names();
    must_be_eio(getxattr_of(f, "user.x", &value, &len));
    must_be_eio(listxattr_of(f, &text, &len));
    must_be_eio(setxattr_of(f, "user.y", "", 0, 0));
    must(set(f, BH_SET_UID, &(struct bh_inode){.uid = 1}, NULL));
}

/* Directories in a ring: no way to the root. */
static void test_ring(void **state)
{
    struct bh_inode i;
    uint64_t other;
    open_names();
    other = made(sub, "deep", DIR_);
    made(other, "x", FILE_);
    close_names();
    damage("UPDATE inodes SET parent=%d WHERE ino=%d", (int)other, (int)sub);
    open_names();
    must_be_eio(lookup(d, "sub", &i)); /* it says that it is elsewhere */
    must_be_eio(rename_name(ROOT, "d", other, "d", 0, NULL, NULL));
    must_say("do not lead to the root");
    must(rename_name(other, "x", ROOT, "x", 0, NULL, NULL)); /* needs no way up */
    close_names();
    damage("UPDATE inodes SET parent=999 WHERE ino=%d", (int)sub);
    open_names();
    must_be_eio(rename_name(ROOT, "d", other, "d", 0, NULL, NULL));
    close_names();
    damage("UPDATE inodes SET parent=%d WHERE ino=%d", (int)f, (int)sub);
    open_names();
    must_be_eio(rename_name(ROOT, "d", other, "d", 0, NULL, NULL));
}

static void test_counts(void **state)
{
    struct bh_inode i;
    struct bh_names_listing *all;
    damage("UPDATE inodes SET entries=1, nlink=2 WHERE ino=%d", (int)d);
    open_names();
    must(list(d, &all));
    free(all);
    must(unlink_name(d, "f", &i));
    int rc = rmdir_name(d, "sub", &i); /* no counter goes below nothing */
    if (rc != ENOENT)
        must_be_eio(rc);
    close_names();
    damage("UPDATE inodes SET entries=100, nlink=50 WHERE ino=%d", (int)d);
    open_names();
    must(list(d, &all));
    assert_int_equal(all->count, 1);
    free(all);
    must(rmdir_name(d, "sub", &i));
    must_fail(rmdir_name(ROOT, "d", &i), ENOTEMPTY);
}

/* Random bytes of the database: anything but a crash or an endless loop. */
static int use_everything(void)
{
    struct bh_names_listing *all;
    struct bh_inode i;
    void *value;
    size_t len;
    bool has_it;
    char *text;
    if (bh_names_open(&names, &options, ERR))
        return 0;
    for (uint64_t ino = 1; ino < 9; ino++) {
        static const char *const known[] = {"d", "sub", "f", "l", "none"};
        get(ino, &i);
        if (list(ino, &all) == 0)
            free(all);
        if (listxattr_of(ino, &text, &len) == 0)
            free(text);
        if (getxattr_of(ino, "user.x", &value, &len) == 0)
            free(value);
        if (readlink_of(ino, &text) == 0)
            free(text);
        for (int k = 0; k < 5; k++) {
            lookup(ino, known[k], &i);
            rename_name(ino, known[k], 1 + (ino * 5 + (uint64_t)k) % 8, known[(k + 1) % 5], 0, NULL,
                        NULL);
            unlink_name(ino, known[k], NULL);
            make(ino, known[k], FILE_, &i);
        }
        bh_names_has_hash(names, (const uint8_t[BH_SHA256_LEN]){1}, &has_it, ERR);
    }
    bh_names_checkpoint(names, ERR);
    bh_names_close(names, ERR);
    return 0;
}

static void test_random_damage(void **state)
{
    size_t len;
    unsigned char *good = get_file("names.db", &len);
    for (unsigned seed = 0; seed < 150; seed++) {
        seed_random(seed);
        for (int k = 0; k < 1 + (int)any(30); k++) {
            size_t where = any(3) ? any((uint32_t)len) : any(2) * (uint32_t)len / 2 + any(100);
            good[where < len ? where : 0] = (unsigned char)any(256);
        }
        put_file("names.db", good, len);
        in_child(use_everything);
        char command[200];
        snprintf(command, sizeof command, "rm -f %s/names.*", scratch);
        assert_int_equal(system(command), 0);
        if (seed % 3 == 0) {
            free(good);
            open_names();
            made(ROOT, "d", DIR_);
            f = made(ROOT, "f", FILE_);
            made(ROOT, "l", S_IFLNK | 0777);
            must(setxattr_of(f, "user.x", "v", 1, 0));
            close_names();
            good = get_file("names.db", &len);
        }
    }
    free(good);
}

/* --- SQL that fails --- */

static void test_reads_fail(void **state)
{
    struct bh_inode i;
    struct bh_names_listing *all;
    open_names();
    atomic_store(&refuse_connects, ETIMEDOUT);
    atomic_store(&refuse_steps, true);
    must_fail(bh_names_lookup(names, ROOT, "d", &i, false, ERR), EAGAIN);
    must_fail(bh_names_lookup(names, ROOT, "d", &i, true, ERR), EIO);
    must_say("names.db cannot be read");
    must_fail(bh_names_lookup(names, ROOT, "d", &i, true, ERR), ETIMEDOUT); /* a new connection */
    must_say("no connection today");
    must_fail(bh_names_list(names, ROOT, &all, true, ERR), ETIMEDOUT);
    must_fail(bh_names_rename(names, ROOT, "d", ROOT, "e", 0, NULL, NULL, true, ERR), ETIMEDOUT);
    struct bh_inode what = {.mode = FILE_};
    must_fail(bh_names_make(names, ROOT, "x", &what, NULL, false, &i, true, ERR), ETIMEDOUT);
    must_fail(bh_names_make(names, ROOT, "x", &what, NULL, false, &i, false, ERR), EAGAIN);
    atomic_store(&refuse_connects, 0);
    atomic_store(&refuse_steps, false);
    must(lookup(ROOT, "d", &i));
    assert_int_equal(i.ino, d);
    made(ROOT, "x", FILE_);
}

static void test_checkpoints_fail(void **state)
{
    struct bh_inode i;
    struct bh_names_stats s;
    char name[20];
    options.cache = 10;
    open_names();
    must(lookup(ROOT, "d", &i));
    for (int round = 0; round < 4; round++) {
        atomic_store(round % 2 ? &refuse_commits : &refuse_steps, true);
        for (int k = 0; k < 100; k++) {
            snprintf(name, sizeof name, "%d-%d", round, k);
            struct bh_inode what = {.mode = FILE_};
            int rc = bh_names_make(names, ROOT, name, &what, NULL, false, &i, false, ERR);
            if (rc == EAGAIN) { /* whether it is there must be read */
                atomic_store(&refuse_steps, false);
                must(bh_names_make(names, ROOT, name, &what, NULL, false, &i, true, ERR));
                atomic_store(&refuse_steps, round % 2 == 0);
            }
            if (k % 40 == 20)
                must_fail(bh_names_checkpoint(names, ERR), EIO);
        }
        must_fail(bh_names_checkpoint(names, ERR), EIO);
        must_fail(bh_names_hold(names, ERR), EIO);
        atomic_store(&refuse_commits, false);
        atomic_store(&refuse_steps, false);
        made(ROOT,
             round == 0   ? "first"
             : round == 1 ? "second"
             : round == 2 ? "third"
                          : "fourth",
             DIR_); /* the hold that failed is no hold */
        if (round == 2) {
            kill_names();
            open_names();
        }
    }
    must(bh_names_checkpoint(names, ERR));
    bh_names_stats(names, &s);
    assert_int_equal(s.changed, 0);
    for (int k = 0; k < 400; k++) {
        snprintf(name, sizeof name, "%d-%d", k / 100, k % 100);
        must(lookup(ROOT, name, &i));
    }
    close_names();
    names_db_is_whole();
    assert_int_equal(number_in_names("SELECT count(*) FROM entries"), 2 + 2 + 404);
}

/* The thread goes on trying, and the log keeps everything. */
static void test_thread_tries_again(void **state)
{
    struct bh_inode i;
    struct bh_names_stats s;
    options.checkpoint_ms = 10;
    open_names();
    atomic_store(&refuse_commits, true);
    must(lookup(ROOT, "d", &i));
    made(d, "x", FILE_);
    usleep(200000);
    bh_names_stats(names, &s);
    assert_true(s.changed > 0 && s.checkpoints == 0);
    atomic_store(&refuse_commits, false);
    for (int k = 0; k < 100 && s.changed > 0; k++) {
        usleep(100000);
        bh_names_stats(names, &s);
    }
    assert_int_equal(s.changed, 0);
    assert_int_equal(number_in_names("SELECT count(*) FROM entries WHERE name=CAST('x' AS BLOB)"),
                     1);
}

static void test_close_fails(void **state)
{
    struct bh_inode i;
    open_names();
    made(ROOT, "x", FILE_);
    atomic_store(&refuse_commits, true);
    struct bh_names *n = names;
    names = NULL;
    must_fail(bh_names_close(n, ERR), EIO);
    atomic_store(&refuse_commits, false);
    open_names();
    must(lookup(ROOT, "x", &i));
}

static void test_replaced_without_a_hold(void **state)
{
    copy_file("names.db", "older.db");
    open_names();
    made(ROOT, "x", FILE_);
    must(bh_names_checkpoint(names, ERR));
    made(ROOT, "y", FILE_);
    copy_file("older.db", "names.db");
    must_fail(bh_names_checkpoint(names, ERR), EIO);
    must_say("replaced");
}

/* New content that cannot be read yet. */
static void test_swap_while_the_bucket_is_away(void **state)
{
    struct bh_inode i;
    struct bh_names_listing *all;
    copy_file("names.db", "older.db");
    open_names();
    uint64_t x = made(ROOT, "x", FILE_);
    must(bh_names_ref(names, x));
    must(bh_names_hold(names, ERR));
    copy_file("older.db", "names.db");
    atomic_store(&refuse_connects, ETIMEDOUT);
    bh_names_release(names, true);
    must_fail(bh_names_get(names, ROOT, &i, false, ERR), EAGAIN);
    must_fail(bh_names_get(names, ROOT, &i, true, ERR), ETIMEDOUT);
    must_fail(bh_names_ref(names, ROOT), EAGAIN);
    must(bh_names_sync(names, ERR));
    must(bh_names_checkpoint(names, ERR));
    bh_names_unref(names, x);
    atomic_store(&refuse_connects, 0);
    must(list(ROOT, &all));
    assert_int_equal(all->count, 2);
    free(all);
    must_fail(get(x, &i), ENOENT);
    assert_true(made(ROOT, "x", FILE_) > x); /* numbers are not used again */
    close_names();
    names_db_is_whole();
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, names_teardown)
    const struct CMUnitTest tests[] = {
        T(test_newer_format),
        T(test_meta_is_wrong),
        T(test_root_is_wrong),
        T(test_no_database),
        T(test_inode_rows),
        T(test_entry_leads_nowhere),
        T(test_entry_rows),
        T(test_symlink_without_target),
        T(test_xattr_rows),
        T(test_ring),
        T(test_counts),
        T(test_random_damage),
        T(test_reads_fail),
        T(test_checkpoints_fail),
        T(test_thread_tries_again),
        T(test_close_fails),
        T(test_replaced_without_a_hold),
        T(test_swap_while_the_bucket_is_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
