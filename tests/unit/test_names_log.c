/* The log of names: torn, damaged, of another database, on a full disk, after a loss of power. */
#include "names_fixture.h"

#include <dirent.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "util/strbuf.h"

#define FILE_ (S_IFREG | 0644)
#define DIR_  (S_IFDIR | 0755)

/* --- a tree as text --- */

static void describe(struct bh_strbuf *b, uint64_t ino, int depth)
{
    struct bh_inode i = inode(ino);
    char *text;
    size_t len;
    bh_strbuf_addf(b, "%llu %o %u %u %u %lld %lld %lld %llu %llu %llu %d\n",
                   (unsigned long long)i.ino, i.mode, i.nlink, i.uid, i.gid, (long long)i.atime,
                   (long long)i.mtime, (long long)i.ctime, (unsigned long long)i.entries,
                   (unsigned long long)i.content.size, (unsigned long long)i.content.data,
                   i.content.hash[0]);
    must(listxattr_of(ino, &text, &len));
    for (const char *p = text; p < text + len; p += strlen(p) + 1) {
        void *value;
        size_t got;
        must(getxattr_of(ino, p, &value, &got));
        bh_strbuf_addf(b, "%s=%.*s\n", p, (int)got, (char *)value);
        free(value);
    }
    free(text);
    if (S_ISLNK(i.mode)) {
        must(readlink_of(ino, &text));
        bh_strbuf_addf(b, "-> %s\n", text);
        free(text);
    }
    if (!S_ISDIR(i.mode))
        return;
    assert_true(depth < 20);
    for (char c = 'a'; c <= 'z'; c++) { /* in order */
        char name[2] = {c, 0};
        struct bh_inode child;
        int rc = lookup(ino, name, &child);
        if (rc == ENOENT)
            continue;
        must(rc);
        bh_strbuf_addf(b, "%*s%s: ", depth, "", name);
        describe(b, child.ino, depth + 1);
    }
}

static char *tree(void)
{
    struct bh_strbuf b = {0};
    describe(&b, ROOT, 0);
    assert_non_null(b.data);
    return b.data;
}

/* --- a small log: state k is after k frames, of which the last ends at end[k] --- */

#define OPS 12
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STRIDE 9 /* every byte takes minutes there */
#else
#define STRIDE 1
#endif
static char *state_after[OPS + 1];
static size_t frame_end[OPS + 1];
static unsigned char *log_text;
static size_t log_len;

static int one_op(int k)
{
    struct bh_inode out, to = {.content = {.size = 3, .data = 9, .hash = {5}}};
    uint64_t d = lookup(ROOT, "d", &out) == 0 ? out.ino : 0;
    uint64_t f = lookup(ROOT, "f", &out) == 0 ? out.ino : 0;
    switch (k) {
    case 0:
        return make(ROOT, "d", DIR_, &out);
    case 1:
        return make(ROOT, "f", FILE_, &out);
    case 2:
        return make(d, "l", S_IFLNK | 0777, &out);
    case 3:
        return set(f, BH_SET_CONTENT | BH_SET_MODE, &to, &out);
    case 4:
        return setxattr_of(f, "user.x", "value", 5, 0);
    case 5:
        return link_to(f, d, "g", NULL);
    case 6:
        return make(d, "s", DIR_, &out);
    case 7:
        return rename_name(d, "s", ROOT, "t", 0, NULL, NULL);
    case 8:
        return rename_name(ROOT, "t", ROOT, "f", RENAME_EXCHANGE, NULL, NULL);
    case 9:
        return unlink_name(d, "g", NULL);
    case 10:
        return make(ROOT, "z", FILE_, &out);
    default:
        return unlink_name(ROOT, "z", NULL);
    }
}

static void forget_state(void)
{
    if (names)
        kill_names();
    DIR *d = opendir(scratch);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (strncmp(e->d_name, "names.", 6) == 0)
            assert_int_equal(unlinkat(bh_disk_dirfd(disk), e->d_name, 0), 0);
    closedir(d);
}

/* sync_after: bh_names_sync after that many operations, -1 never. */
static void make_log(int sync_after)
{
    forget_state();
    for (int k = 0; k <= OPS; k++) {
        free(state_after[k]);
        state_after[k] = NULL;
    }
    open_names();
    for (int k = 0; k <= OPS; k++) {
        struct bh_names_stats s;
        state_after[k] = tree();
        bh_names_stats(names, &s);
        frame_end[k] = s.log_bytes;
        if (k == sync_after)
            must(bh_names_sync(names, ERR));
        if (k < OPS)
            must(one_op(k));
    }
    kill_names();
    free(log_text);
    log_text = get_file("names.log.1", &log_len);
    assert_int_equal(log_len, frame_end[OPS]);
}

static int free_log(void **state)
{
    for (int k = 0; k <= OPS; k++) {
        free(state_after[k]);
        state_after[k] = NULL;
    }
    free(log_text);
    log_text = NULL;
    return names_teardown(state);
}

/* The root of a tree of which no log says anything has the time of this start. */
static void must_be_state(int k)
{
    char *now = tree();
    if (k == 0)
        assert_int_equal(inode(ROOT).entries, 0);
    else
        assert_string_equal(now, state_after[k]);
    free(now);
}

static int frames_in(size_t len)
{
    int k = 0;
    while (k < OPS && frame_end[k + 1] <= len)
        k++;
    return k;
}

static void test_torn_anywhere(void **state)
{
    make_log(-1);
    for (size_t len = 0; len <= log_len; len += STRIDE) {
        int k = frames_in(len);
        forget_state();
        put_file("names.log.1", log_text, len);
        open_names();
        must_be_state(k);
        if (k < OPS && len % 7 == 0) { /* and on it goes */
            must(one_op(k));
            kill_names();
            open_names();
            struct bh_inode i = inode(ROOT);
            assert_true(i.ctime > 0);
        }
        if (len % 5 == 0) {
            close_names();
            names_db_is_whole();
            open_names();
            if (len % 7)
                must_be_state(k);
        }
    }
}

/* With the byte at `at` changed: EIO with the file's name, or the tree as before that frame. */
static void flip(size_t at, unsigned char by, int synced)
{
    struct bh_names *n = NULL;
    int k = frames_in(at);
    forget_state();
    log_text[at] ^= by;
    put_file("names.log.1", log_text, log_len);
    log_text[at] ^= by;
    /* Frame k + 1 is damaged; the first frame that says so much is `synced` + 1. */
    if (at < LOG_HEADER || (k + 1 <= synced && synced < OPS)) {
        must_fail(bh_names_open(&n, &options, ERR), EIO);
        must_say("names.log.1");
        must_say(scratch);
        size_t len;
        unsigned char *now = get_file("names.log.1", &len);
        assert_int_equal(len, log_len); /* nobody touched it */
        free(now);
        return;
    }
    open_names();
    must_be_state(k);
    kill_names();
    open_names(); /* what was cut off is forgotten once and for all */
    must_be_state(k);
}

static void test_damage_before_a_sync_is_told(void **state)
{
    make_log(8);
    for (size_t i = 0; i < log_len; i += STRIDE)
        flip(i, (unsigned char)(1u << i % 8), 8);
}

static void test_damage_that_a_loss_of_power_explains(void **state)
{
    make_log(-1);
    for (size_t i = 0; i < log_len; i += STRIDE)
        flip(i, 0xff, 0);
}

/* Pages in the middle that were never written. */
static void test_holes(void **state)
{
    make_log(4);
    for (int k = 0; k < OPS; k++) {
        struct bh_names *n = NULL;
        unsigned char *text = malloc(log_len);
        assert_non_null(text);
        memcpy(text, log_text, log_len);
        memset(text + frame_end[k], 0, frame_end[k + 1] - frame_end[k]);
        forget_state();
        put_file("names.log.1", text, log_len);
        free(text);
        if (k < 4)
            must_fail(bh_names_open(&n, &options, ERR), EIO);
        else {
            open_names();
            must_be_state(k);
        }
    }
}

/* --- several logs --- */

static void fail_commits(bool fail)
{
    atomic_store(&refuse_commits, fail);
}

static void test_logs_of_failed_checkpoints(void **state)
{
    make_log(-1);
    forget_state();
    open_names();
    for (int k = 0; k < OPS; k++) {
        must(one_op(k));
        if (k % 3 == 1) {
            fail_commits(true);
            must_fail(bh_names_checkpoint(names, ERR), EIO);
            must_say("names.db");
            fail_commits(false);
        }
    }
    char *before = tree();
    must(bh_names_sync(names, ERR));
    kill_names();
    assert_true(is_there("names.log.1") && is_there("names.log.2"));
    for (int turn = 0; turn < 3; turn++) {
        fail_commits(false);
        open_names();
        char *now = tree();
        assert_string_equal(now, before);
        free(now);
        fail_commits(true);
        if (turn == 1) {
            fail_commits(false);
            must(bh_names_checkpoint(names, ERR));
            assert_false(is_there("names.log.1") || is_there("names.log.2"));
        }
        kill_names();
    }
    fail_commits(false);
    names_db_is_whole();
    free(before);
}

static void test_a_log_is_missing(void **state)
{
    struct bh_names *n = NULL;
    struct bh_inode i;
    open_names();
    made(ROOT, "a", FILE_);
    must(bh_names_checkpoint(names, ERR));
    fail_commits(true);
    made(ROOT, "b", FILE_);
    must_fail(bh_names_checkpoint(names, ERR), EIO);
    made(ROOT, "c", FILE_);
    must(bh_names_sync(names, ERR));
    made(ROOT, "d", FILE_);
    kill_names();
    fail_commits(false);
    assert_true(is_there("names.log.2") && is_there("names.log.3"));
    size_t len;
    unsigned char *second = get_file("names.log.2", &len);
    put_file("names.log.2", second, LOG_HEADER);
    must_fail(bh_names_open(&n, &options, ERR), EIO); /* "b" was synced */
    put_file("names.log.2", second, len);
    free(second);
    open_names();
    must(lookup(ROOT, "d", &i));
}

static void test_log_of_another_database(void **state)
{
    struct bh_inode i;
    open_names();
    made(ROOT, "a", FILE_);
    must(bh_names_checkpoint(names, ERR));
    copy_file("names.db", "older.db");
    made(ROOT, "b", FILE_);
    must(bh_names_checkpoint(names, ERR));
    made(ROOT, "c", FILE_);
    kill_names();
    copy_file("older.db", "names.db");
    open_names();
    must(lookup(ROOT, "a", &i));
    must_fail(lookup(ROOT, "b", &i), ENOENT);
    must_fail(lookup(ROOT, "c", &i), ENOENT);
    assert_true(is_there("names.lost.3"));
    assert_false(is_there("names.log.3"));
    made(ROOT, "d", FILE_);
    close_names();
    names_db_is_whole();
}

/* --- a disk that is full --- */

static void limit_file_size(rlim_t size)
{
    struct rlimit l;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &l), 0);
    l.rlim_cur = size;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static void test_log_cannot_grow(void **state)
{
    struct bh_names_stats s;
    make_log(-1);
    forget_state();
    signal(SIGXFSZ, SIG_IGN);
    atomic_store(&gone_count, 0);
    open_names();
    for (int k = 0; k < OPS; k++) {
        bh_names_stats(names, &s);
        uint64_t references = s.in_memory, inodes = s.inodes;
        char *before = tree();
        for (rlim_t more = 0; more < 90; more += 13) {
            limit_file_size(s.log_bytes + more);
            must_fail(one_op(k), EFBIG);
            must_say("names.log.1");
            limit_file_size(RLIM_INFINITY);
        }
        char *after = tree();
        assert_string_equal(before, after);
        free(before);
        free(after);
        bh_names_stats(names, &s);
        assert_int_equal(s.inodes, inodes);
        assert_true(s.in_memory >= references);
        must(one_op(k));
    }
    char *before = tree();
    kill_names();
    open_names();
    char *after = tree();
    assert_string_equal(before, after);
    free(before);
    free(after);
    assert_int_equal(gone_count, 1);
    close_names();
    names_db_is_whole();
}

/* On a disk that is full nothing new is made, but everything can be removed. */
static void test_disk_is_full(void **state)
{
    static char block[4096];
    struct bh_inode i;
    char name[20];
    int made_count = 0, rc = 0, fd;
    make_dir("small");
    if (mount("none", at("small"), "tmpfs", 0, "size=3m") != 0)
        skip(); /* only root may */
    bh_disk_close(disk);
    must(bh_disk_open(&disk, at("small"), NULL, 0, ERR));
    options.disk = disk;
    open_names();
    fd = open(at("small/filler"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, block, sizeof block) > 0)
        ;
    close(fd);
    for (; rc == 0; made_count++) {
        snprintf(name, sizeof name, "n%d", made_count);
        rc = make(ROOT, name, FILE_, &i);
    }
    must_fail(rc, ENOSPC);
    must_say("names.log.1");
    made_count--;
    assert_true(made_count > 1000);
    must_fail(lookup(ROOT, name, &i), ENOENT);
    must_fail(set(ROOT, BH_SET_UID, &i, NULL), ENOSPC);
    must_fail(bh_names_checkpoint(names, ERR), ENOSPC); /* it wants a second log */
    for (int k = 0; k < 800; k++) {
        snprintf(name, sizeof name, "n%d", k);
        must(unlink_name(ROOT, name, &i));
    }
    must(bh_names_sync(names, ERR));
    kill_names();
    assert_int_equal(unlink(at("small/filler")), 0);
    open_names();
    assert_int_equal(inode(ROOT).entries, made_count - 800);
    close_names();
    names_db_is_whole();
    bh_disk_close(disk);
    disk = NULL;
    assert_int_equal(umount(at("small")), 0);
}

/* A sync that failed may have lost what was to be synced: the database is the other way. */
static void test_sync_fails(void **state)
{
    int ends[2];
    open_names();
    made(ROOT, "a", FILE_);
    assert_int_equal(pipe(ends), 0);
    int fd = names->logs[0]->file.fd, kept = dup(fd);
    assert_int_equal(dup2(ends[1], fd), fd); /* nothing that can be synced */
    must(bh_names_sync(names, ERR));
    struct bh_names_stats s;
    bh_names_stats(names, &s);
    assert_int_equal(s.changed, 0);
    assert_int_equal(s.checkpoints, 1);
    assert_int_equal(number_in_names("SELECT count(*) FROM entries"), 1);
    close(ends[0]);
    close(ends[1]);
    close(kept);
    made(ROOT, "b", FILE_);
    must(bh_names_sync(names, ERR)); /* as ever */
    bh_names_stats(names, &s);
    assert_int_equal(s.checkpoints, 1);
    kill_names();
    open_names();
    assert_int_equal(inode(ROOT).entries, 2);
}

/* --- a loss of power --- */

static char *trees[400];
static int tree_count;

static void remember(void)
{
    trees[tree_count++] = tree();
}

static void random_op(void)
{
    char name[2] = {(char)('a' + any(8)), 0}, other[2] = {(char)('a' + any(8)), 0};
    struct bh_inode i = {0};
    uint64_t d = ROOT;
    if (any(2) && lookup(ROOT, name, &i) == 0 && S_ISDIR(i.mode))
        d = i.ino;
    int had = tree_count;
    while (tree_count == had) {
        int rc = any(3) == 0 ? rename_name(ROOT, other, d, name, 0, NULL, NULL)
                 : any(2)    ? make(d, name, any(2) ? FILE_ : DIR_, NULL)
                 : any(2)    ? unlink_name(d, name, NULL)
                             : rmdir_name(d, name, NULL);
        name[0] = (char)('a' + any(8));
        other[0] = (char)('a' + any(8));
        if (rc == 0)
            remember();
    }
}

static void lose_power(uint64_t seed)
{
    char command[300];
    int durable = 0, found = -1, ops = 20 + (int)any(60);
    make_dir("state");
    bh_disk_close(disk);
    must(bh_disk_open(&disk, at("state"), at("shadow"), seed, ERR));
    options.disk = disk;
    open_names();
    must(setxattr_of(ROOT, "user.x", "the root is in the log", 22, 0));
    must(bh_names_sync(names, ERR));
    remember();
    for (int k = 0; k < ops; k++) {
        random_op();
        if (any(12) == 0) {
            must(any(3) ? bh_names_sync(names, ERR) : bh_names_checkpoint(names, ERR));
            durable = tree_count - 1;
        }
    }
    snprintf(command, sizeof command, "cp -a %s/shadow %s/found", scratch, scratch);
    assert_int_equal(system(command), 0);
    kill_names();
    bh_disk_close(disk);
    must(bh_disk_open(&disk, at("found"), NULL, 0, ERR));
    options.disk = disk;
    open_names();
    char *now = tree();
    for (int k = 0; k < tree_count; k++) {
        if (found < durable && strcmp(now, trees[k]) == 0)
            found = k;
        free(trees[k]);
    }
    free(now);
    if (found < durable)
        fail_msg("state %d came back, state %d was durable", found, durable);
    tree_count = 0;
    close_names();
    names_db_is_whole();
    snprintf(command, sizeof command, "cd %s && rm -rf state shadow found names.db", scratch);
    assert_int_equal(system(command), 0);
}

static void test_loss_of_power(void **state)
{
    for (uint64_t seed = 1; seed <= 25; seed++) {
        seed_random(seed);
        lose_power(seed);
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, names_setup, free_log)
    const struct CMUnitTest tests[] = {
        T(test_torn_anywhere),
        T(test_damage_before_a_sync_is_told),
        T(test_damage_that_a_loss_of_power_explains),
        T(test_holes),
        T(test_logs_of_failed_checkpoints),
        T(test_a_log_is_missing),
        T(test_log_of_another_database),
        T(test_log_cannot_grow),
        T(test_disk_is_full),
        T(test_sync_fails),
        T(test_loss_of_power),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
