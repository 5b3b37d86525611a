/* The disk layer and its imitation of a power cut: the mirror is what a machine finds when it comes
 * back. */
#include "live_fixture.h"

#include "live/disk.h"

static struct bh_disk *disk;
static struct bh_dfile a, b;

static void open_disk(uint64_t seed)
{
    must(bh_disk_open(&disk, at("real"), at("mirror"), seed, ERR));
}

static int disk_setup(void **state)
{
    int rc = scratch_setup(state);
    a.fd = b.fd = -1;
    disk = NULL;
    return rc || mkdir(at("real"), 0700);
}

static int disk_teardown(void **state)
{
    bh_dfile_close(&a);
    bh_dfile_close(&b);
    bh_disk_close(disk);
    return scratch_teardown(state);
}

static void create(const char *name, struct bh_dfile *f)
{
    must(bh_disk_open_file(disk, name, O_RDWR | O_CREAT | O_EXCL, 0600, f));
}

static void write_text(struct bh_dfile *f, const char *text, uint64_t offset)
{
    must(bh_dfile_write(f, text, strlen(text), offset));
}

/* --- the plain disk --- */

static void test_replace_is_whole_and_leaves_nothing_behind(void **state)
{
    must(bh_disk_open(&disk, at("real"), NULL, 0, ERR));
    must(bh_disk_replace(disk, "state", "one\n", 4));
    must(bh_disk_replace(disk, "state", "second\n", 7));
    must_hold("real/state", "second\n", 7);
    assert_false(is_there("real/state.new"));
}

static void test_links_are_not_followed(void **state)
{
    must(bh_disk_open(&disk, at("real"), NULL, 0, ERR));
    assert_int_equal(symlink("/etc/passwd", at("real/link")), 0);
    must_fail(bh_disk_open_file(disk, "link", O_RDWR, 0, &a), ELOOP);
}

static void test_memory_is_known(void **state)
{
    must(bh_disk_open(&disk, "/dev/shm", NULL, 0, ERR));
    assert_true(bh_disk_is_memory(disk));
    bh_disk_close(disk);
    open_disk(1); /* a mirror is asked for real syncs wherever it is */
    assert_false(bh_disk_is_memory(disk));
}

/* What is made anew, and cannot be used then, is not left behind for nobody to know. */
static void test_a_file_that_fails_once_it_is_made(void **state)
{
    char command[100];
    open_disk(1);
    put_file("real/old", "x", 1);
    snprintf(command, sizeof command, "rm -r %s", at("mirror"));
    assert_int_equal(system(command), 0); /* nothing is made there any more */
    assert_int_not_equal(bh_disk_open_file(disk, "new", O_RDWR | O_CREAT | O_EXCL, 0600, &a), 0);
    assert_false(is_there("real/new"));
    must_fail(bh_disk_open_file(disk, "old", O_RDWR | O_CREAT | O_EXCL, 0600, &a), EEXIST);
    assert_int_not_equal(bh_disk_open_file(disk, "old", O_RDWR | O_CREAT, 0600, &a), 0);
    assert_true(is_there("real/old"));
}

/* --- the mirror: content --- */

static void test_what_was_there_is_mirrored(void **state)
{
    put_file("real/old", "before", 6);
    make_dir("mirror");
    put_file("mirror/junk", "x", 1);
    open_disk(1);
    must_hold("mirror/old", "before", 6);
    assert_false(is_there("mirror/junk"));
}

static void test_synced_content_with_a_synced_name_is_there(void **state)
{
    open_disk(1);
    create("f", &a);
    write_text(&a, "hello", 0);
    must(bh_dfile_sync(&a));
    must(bh_disk_sync_names(disk));
    must_hold("mirror/f", "hello", 5);
}

/* Unsynced writes reach the disk now and then: some seeds must lose them, and some not. */
static void test_unsynced_writes_may_be_missing(void **state)
{
    unsigned lost = 0, kept = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        size_t len;
        char name[32];
        snprintf(name, sizeof name, "f%d", (int)seed);
        open_disk(seed);
        create(name, &a);
        write_text(&a, "old", 0);
        must(bh_dfile_sync(&a));
        must(bh_disk_sync_names(disk));
        write_text(&a, "NEW", 0);
        snprintf(name, sizeof name, "mirror/f%d", (int)seed);
        char *data = (char *)get_file(name, &len);
        assert_int_equal(len, 3);
        lost += !memcmp(data, "old", 3);
        kept += !memcmp(data, "NEW", 3);
        free(data);
        bh_dfile_close(&a);
        bh_disk_close(disk);
        disk = NULL;
    }
    assert_int_equal(lost + kept, 60);
    assert_true(lost > 30);
    assert_true(kept > 2);
}

static void test_cut_and_grown_is_zero_between(void **state)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        open_disk(seed);
        create("f", &a);
        write_text(&a, "abcdefghij", 0);
        must(bh_dfile_sync(&a));
        must(bh_disk_sync_names(disk));
        must(bh_dfile_truncate(&a, 3));
        must(bh_dfile_truncate(&a, 10));
        write_text(&a, "Z", 6);
        must(bh_dfile_sync(&a));
        must_hold("mirror/f", "abc\0\0\0Z\0\0\0", 10);
        bh_dfile_close(&a);
        must(bh_disk_unlink(disk, "f"));
        bh_disk_close(disk);
        disk = NULL;
    }
}

static void test_open_with_trunc_is_a_truncation(void **state)
{
    put_file("real/f", "abcdef", 6);
    open_disk(1);
    must(bh_disk_open_file(disk, "f", O_RDWR | O_TRUNC, 0, &a));
    must(bh_dfile_sync(&a));
    must_hold("mirror/f", "", 0);
}

static void test_two_handles_of_one_file(void **state)
{
    open_disk(1);
    create("f", &a);
    must(bh_disk_sync_names(disk));
    must(bh_disk_open_file(disk, "f", O_RDWR, 0, &b));
    write_text(&a, "aaa", 0);
    write_text(&b, "bbb", 3);
    must(bh_dfile_sync(&b)); /* a sync is the file's, not the handle's */
    must_hold("mirror/f", "aaabbb", 6);
}

static void test_sync_after_reopening_has_what_was_written_before(void **state)
{
    open_disk(3);
    create("f", &a);
    must(bh_disk_sync_names(disk));
    for (unsigned i = 0; i < 20; i++)
        write_text(&a, "x", i * 2);
    bh_dfile_close(&a);
    must(bh_disk_open_file(disk, "f", O_RDWR, 0, &a));
    must(bh_dfile_sync(&a));
    size_t len;
    unsigned char *real = get_file("real/f", &len);
    must_hold("mirror/f", real, len);
    free(real);
}

static void test_a_cut_before_reopening_leaves_nothing_behind(void **state)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        open_disk(seed);
        create("f", &a);
        write_text(&a, "abcdefghij", 0);
        must(bh_dfile_sync(&a));
        must(bh_disk_sync_names(disk));
        must(bh_dfile_truncate(&a, 3));
        bh_dfile_close(&a);
        must(bh_disk_open_file(disk, "f", O_RDWR, 0, &a));
        must(bh_dfile_truncate(&a, 10));
        must(bh_dfile_sync(&a));
        must_hold("mirror/f", "abc\0\0\0\0\0\0\0", 10);
        bh_dfile_close(&a);
        must(bh_disk_unlink(disk, "f"));
        bh_disk_close(disk);
        disk = NULL;
    }
}

/* A download is written with plain system calls and synced through the disk at the end. */
static void test_sync_has_what_others_wrote(void **state)
{
    open_disk(1);
    put_file("real/incoming.db", "downloaded content", 18);
    must(bh_disk_open_file(disk, "incoming.db", O_RDWR, 0, &a));
    write_text(&a, "D", 0);
    must(bh_dfile_sync(&a));
    must(bh_disk_rename(disk, "incoming.db", "db.2"));
    must(bh_disk_sync_names(disk));
    must_hold("mirror/db.2", "Downloaded content", 18);
    assert_false(is_there("mirror/incoming.db"));
}

static void test_write_only_files_are_mirrored(void **state)
{
    for (uint64_t seed = 0; seed < 30; seed++) { /* written back at once, or with the sync */
        open_disk(seed);
        must(bh_disk_replace(disk, "state", "first", 5));
        must(bh_disk_replace(disk, "state", "second", 6));
        must_hold("mirror/state", "second", 6);
        assert_false(is_there("mirror/state.new"));
        bh_disk_close(disk);
        disk = NULL;
    }
}

/* --- the mirror: names --- */

static void test_names_appear_and_vanish_with_the_directory(void **state)
{
    unsigned early = 0, late = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        open_disk(seed);
        create("f", &a);
        must(bh_dfile_sync(&a));
        early += is_there("mirror/f");
        must(bh_disk_sync_names(disk));
        assert_true(is_there("mirror/f"));
        must(bh_disk_unlink(disk, "f"));
        late += is_there("mirror/f");
        must(bh_disk_sync_names(disk));
        assert_false(is_there("mirror/f"));
        bh_dfile_close(&a);
        bh_disk_close(disk);
        disk = NULL;
    }
    assert_in_range(early, 1, 30);
    assert_in_range(late, 30, 59);
}

static void test_rename_replaces_with_the_directory(void **state)
{
    open_disk(1);
    create("f", &a);
    write_text(&a, "one", 0);
    must(bh_dfile_sync(&a));
    create("g", &b);
    write_text(&b, "two", 0);
    must(bh_dfile_sync(&b));
    must(bh_disk_sync_names(disk));
    must(bh_disk_rename(disk, "f", "g"));
    must(bh_disk_sync_names(disk));
    must_hold("mirror/g", "one", 3);
    assert_false(is_there("mirror/f"));
}

static void test_a_second_name_outlives_the_first(void **state)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        open_disk(seed);
        create("f", &a);
        write_text(&a, "one", 0);
        must(bh_dfile_sync(&a));
        must(bh_disk_link(disk, "f", "g"));
        must_fail(bh_disk_link(disk, "f", "g"), EEXIST);
        must(bh_disk_sync_names(disk));
        must_hold("mirror/g", "one", 3);
        must(bh_disk_unlink(disk, "f"));
        bh_dfile_close(&a);
        create("f", &b); /* gets another number: the old one is still used */
        write_text(&b, "two", 0);
        must(bh_dfile_sync(&b));
        must(bh_disk_sync_names(disk));
        must_hold("mirror/g", "one", 3);
        must_hold("mirror/f", "two", 3);
        bh_dfile_close(&b);
        must(bh_disk_unlink(disk, "g"));
        must(bh_disk_unlink(disk, "f"));
        bh_disk_close(disk);
        disk = NULL;
    }
}

static void test_copies_are_mirrored(void **state)
{
    open_disk(1);
    create("f", &a);
    write_text(&a, "abcdef", 0);
    create("g", &b);
    must(bh_dfile_copy(&b, 2, a.fd, 1, 4));
    must_fail(bh_dfile_copy(&b, 0, a.fd, 3, 4), ENODATA);
    must(bh_dfile_sync(&b));
    must(bh_disk_sync_names(disk));
    must_hold("real/g", "defcde", 6);
    must_hold("mirror/g", "defcde", 6);
}

static ino_t number_of(const struct bh_dfile *f)
{
    struct stat st;
    assert_int_equal(fstat(f->fd, &st), 0);
    return st.st_ino;
}

/* Makes a file, deletes it and makes "f"; true if that got the number of the deleted one, as on
 * ext4 it mostly does. It must be in the mirror as any other then. */
static bool made_again(uint64_t seed, const char *first, bool sync_first_name)
{
    open_disk(seed);
    create(first, &a);
    write_text(&a, "old content", 0);
    must(bh_dfile_sync(&a));
    if (sync_first_name)
        must(bh_disk_sync_names(disk));
    ino_t number = number_of(&a);
    must(bh_disk_unlink(disk, first)); /* which is never synced */
    bh_dfile_close(&a);
    create("f", &b);
    bool same = number_of(&b) == number;
    write_text(&b, "new", 0);
    must(bh_dfile_sync(&b));
    must(bh_disk_sync_names(disk));
    must_hold("mirror/f", "new", 3);
    assert_true(!strcmp(first, "f") || !is_there("mirror/first"));
    bh_dfile_close(&b);
    must(bh_disk_unlink(disk, "f"));
    bh_disk_close(disk);
    disk = NULL;
    return same;
}

/* A journal of each transaction: made, synced with its name, deleted, made again. */
static void test_deleted_and_made_again_with_the_same_number(void **state)
{
    unsigned same = 0;
    for (uint64_t seed = 0; seed < 40; seed++)
        same += made_again(seed, "f", true);
    if (same == 0)
        skip();
}

static void test_deleted_unsynced_and_made_again_with_the_same_number(void **state)
{
    unsigned same = 0;
    for (uint64_t seed = 0; seed < 40; seed++)
        same += made_again(seed, "first", false);
    if (same == 0)
        skip();
}

/* --- the mirror against a model of what a disk may have --- */

enum { FILES = 3, SIZE = 48 };

static struct {
    struct bh_dfile f;
    bool exists, named;          /* now; and its name was synced since */
    unsigned char data[SIZE];    /* now */
    size_t size, least, most;    /* now; and what the disk may have */
    unsigned char may[SIZE][32]; /* one bit a value that the disk may have there */
} files[FILES];

static void allow(unsigned i, size_t at_byte, unsigned char value)
{
    files[i].may[at_byte][value / 8] |= (unsigned char)(1u << value % 8);
}

static void model_sync(unsigned i)
{
    memset(files[i].may, 0, sizeof files[i].may);
    for (size_t p = 0; p < SIZE; p++)
        allow(i, p, p < files[i].size ? files[i].data[p] : 0);
    files[i].least = files[i].most = files[i].size;
}

static void model_resize(unsigned i, size_t size)
{
    for (size_t p = size; p < SIZE; p++) {
        files[i].data[p] = 0;
        allow(i, p, 0);
    }
    files[i].size = size;
    files[i].least = size < files[i].least ? size : files[i].least;
    files[i].most = size > files[i].most ? size : files[i].most;
}

static void name_of(unsigned i, char name[16])
{
    snprintf(name, 16, "file%u", i);
}

static void check_mirror(unsigned i)
{
    char name[16], path[32];
    size_t len;
    name_of(i, name);
    snprintf(path, sizeof path, "mirror/%s", name);
    if (!files[i].named) /* the name may be there or not, and be an older file's */
        return;
    unsigned char *have = get_file(path, &len);
    assert_in_range(len, files[i].least, files[i].most);
    for (size_t p = 0; p < len; p++)
        if (!(files[i].may[p][have[p] / 8] >> (have[p] % 8) & 1))
            fail_msg("%s: byte %zu is %d, which was never to be on the disk", name, p, have[p]);
    free(have);
}

static void step(unsigned i, bool reopen, bool deletions)
{
    char name[16];
    name_of(i, name);
    unsigned dice = any(12);
    if (!files[i].exists) {
        create(name, &files[i].f);
        files[i].exists = true;
        memset(files[i].data, 0, SIZE);
        files[i].size = 0;
        model_sync(i);
    } else if (dice < 6) {
        unsigned char bytes[12];
        size_t len = 1 + any(sizeof bytes), offset = any((uint32_t)(SIZE - len));
        fill_random(bytes, len);
        must(bh_dfile_write(&files[i].f, bytes, len, offset));
        memcpy(files[i].data + offset, bytes, len);
        for (size_t p = offset; p < offset + len; p++)
            allow(i, p, bytes[p - offset]);
        if (offset + len > files[i].size)
            files[i].size = offset + len;
        files[i].most = files[i].size > files[i].most ? files[i].size : files[i].most;
    } else if (dice == 6) {
        size_t size = any(SIZE);
        must(bh_dfile_truncate(&files[i].f, size));
        if (size < files[i].size)
            model_resize(i, size);
        else
            files[i].size = size, files[i].most = size > files[i].most ? size : files[i].most;
    } else if (dice < 9) {
        must(bh_dfile_sync(&files[i].f));
        model_sync(i);
    } else if (dice == 9 && reopen) {
        bh_dfile_close(&files[i].f);
        must(bh_disk_open_file(disk, name, O_RDWR, 0, &files[i].f));
    } else if (dice == 10) {
        must(bh_disk_sync_names(disk));
        for (unsigned n = 0; n < FILES; n++)
            files[n].named = files[n].exists;
    } else if (dice == 11 && deletions && any(3) == 0) {
        must(bh_disk_unlink(disk, name));
        bh_dfile_close(&files[i].f);
        files[i].exists = files[i].named = false;
    }
}

static void run_model(bool reopen, bool deletions)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        seed_random(seed);
        open_disk(seed);
        memset(files, 0, sizeof files);
        for (int i = 0; i < 300; i++) {
            step(any(FILES), reopen, deletions);
            for (unsigned n = 0; n < FILES; n++)
                check_mirror(n);
        }
        for (unsigned n = 0; n < FILES; n++)
            if (files[n].exists) {
                char name[16];
                name_of(n, name);
                bh_dfile_close(&files[n].f);
                must(bh_disk_unlink(disk, name));
            }
        bh_disk_close(disk);
        disk = NULL;
    }
}

static void test_model(void **state)
{
    run_model(false, false);
}

static void test_model_with_deletions(void **state)
{
    run_model(false, true);
}

static void test_model_with_files_opened_again(void **state)
{
    run_model(true, false);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, disk_setup, disk_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_replace_is_whole_and_leaves_nothing_behind),
        TEST(test_links_are_not_followed),
        TEST(test_memory_is_known),
        TEST(test_a_file_that_fails_once_it_is_made),
        TEST(test_what_was_there_is_mirrored),
        TEST(test_synced_content_with_a_synced_name_is_there),
        TEST(test_unsynced_writes_may_be_missing),
        TEST(test_cut_and_grown_is_zero_between),
        TEST(test_open_with_trunc_is_a_truncation),
        TEST(test_two_handles_of_one_file),
        TEST(test_sync_after_reopening_has_what_was_written_before),
        TEST(test_a_cut_before_reopening_leaves_nothing_behind),
        TEST(test_sync_has_what_others_wrote),
        TEST(test_write_only_files_are_mirrored),
        TEST(test_names_appear_and_vanish_with_the_directory),
        TEST(test_rename_replaces_with_the_directory),
        TEST(test_a_second_name_outlives_the_first),
        TEST(test_copies_are_mirrored),
        TEST(test_deleted_and_made_again_with_the_same_number),
        TEST(test_deleted_unsynced_and_made_again_with_the_same_number),
        TEST(test_model),
        TEST(test_model_with_deletions),
        TEST(test_model_with_files_opened_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
