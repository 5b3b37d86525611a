/* Data files that are made ahead where many are made one after the other. */
#include "blobs_fixture.h"

#include <sys/resource.h>

static void count_one(void *arg, uint64_t number)
{
    (void)number;
    ++*(unsigned *)arg;
}

static unsigned data_files(void)
{
    unsigned count = 0;
    must(bh_data_each(blobs, count_one, &count, ERR));
    return count;
}

/* Makes `count` files one after the other and keeps them open. */
static void make(unsigned count, uint64_t *numbers, struct bh_dfile *files)
{
    for (unsigned i = 0; i < count; i++)
        must(bh_data_create(blobs, &numbers[i], &files[i], ERR));
}

static void close_all(unsigned count, struct bh_dfile *files)
{
    for (unsigned i = 0; i < count; i++)
        bh_dfile_close(&files[i]);
}

/* One that is made ahead is there soon: makes two in a row until then. *made: how many. */
static void get_at_once(uint64_t *number, struct bh_dfile *f, unsigned *made)
{
    int64_t end = bh_mono_ms() + 10000;
    while (bh_data_create_at_once(blobs, number, f) == EAGAIN) {
        uint64_t numbers[2];
        struct bh_dfile files[2];
        assert_true(bh_mono_ms() < end);
        make(2, numbers, files);
        close_all(2, files);
        *made += 2;
        usleep(2000);
    }
    ++*made;
}

static void test_the_next_ones_are_there_at_once(void **state)
{
    uint64_t number;
    struct bh_dfile f;
    struct stat st;
    char name[64];
    unsigned made = 0;
    open_blobs(false);
    get_at_once(&number, &f, &made);
    snprintf(name, sizeof name, "state/d-%016llx", (unsigned long long)number);
    assert_int_equal(stat(at(name), &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(bh_dfile_write(&f, "mine", 4, 0), 0);
    bh_dfile_close(&f);
    must(bh_data_open(blobs, number, &f));
    assert_int_equal(fstat(f.fd, &st), 0);
    assert_int_equal(st.st_size, 4);
    bh_dfile_close(&f);
}

static void test_one_file_alone_makes_no_others(void **state)
{
    uint64_t number;
    struct bh_dfile f;
    open_blobs(false);
    for (int i = 0; i < 3; i++) { /* as a write does it: at once if possible, else by a worker */
        assert_int_equal(bh_data_create_at_once(blobs, &number, &f), EAGAIN);
        make(1, &number, &f);
        bh_dfile_close(&f);
        usleep(150000); /* more than what counts as one after the other */
    }
    assert_int_equal(data_files(), 3);
}

static void test_what_is_not_used_goes(void **state)
{
    uint64_t number;
    struct bh_dfile f;
    unsigned made = 0;
    open_blobs(false);
    get_at_once(&number, &f, &made);
    eventually(data_files() > made); /* more than are used */
    eventually(data_files() == made);
    assert_int_equal(bh_dfile_write(&f, "kept", 4, 0), 0);
    bh_dfile_close(&f);
    must(bh_data_open(blobs, number, &f));
    bh_dfile_close(&f);
}

static void test_the_end_leaves_only_what_is_used(void **state)
{
    uint64_t number;
    struct bh_dfile f;
    unsigned made = 0;
    open_blobs(false);
    get_at_once(&number, &f, &made);
    bh_dfile_close(&f);
    close_blobs();
    open_blobs(false);
    assert_int_equal(data_files(), made);
}

static void test_too_many_open_files_is_said_and_got_over(void **state)
{
    enum { MANY = 200 };
    static uint64_t numbers[MANY];
    static struct bh_dfile files[MANY];
    struct rlimit was, few;
    unsigned got = 0, made = 0;
    int rc = 0;
    open_blobs(false);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    few = (struct rlimit){.rlim_cur = 100, .rlim_max = was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    while (got < MANY && (rc = bh_data_create(blobs, &numbers[got], &files[got], ERR)) == 0)
        got++;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(rc, EMFILE);
    assert_non_null(strstr(test_error.text, "cannot be made"));
    close_all(got, files);
    get_at_once(&numbers[0], &files[0], &made);
    bh_dfile_close(&files[0]);
}

/* --- several at once --- */

enum { THREADS = 4, EACH = 400 };

static void *make_many(void *arg)
{
    uint64_t *numbers = arg;
    for (unsigned i = 0; i < EACH; i++) {
        struct bh_dfile f;
        if ((i % 2 == 0 || bh_data_create_at_once(blobs, &numbers[i], &f) != 0) &&
            bh_data_create(blobs, &numbers[i], &f, NULL) != 0)
            return NULL;
        int rc = bh_dfile_write(&f, &numbers[i], sizeof numbers[i], 0);
        bh_dfile_close(&f);
        if (rc)
            return NULL;
    }
    return numbers;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void test_nobody_gets_the_same_one(void **state)
{
    static uint64_t numbers[THREADS * EACH];
    pthread_t threads[THREADS];
    void *done;
    open_blobs(false);
    for (unsigned t = 0; t < THREADS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, make_many, &numbers[t * EACH]), 0);
    for (unsigned t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(threads[t], &done), 0);
        assert_non_null(done);
    }
    qsort(numbers, THREADS * EACH, sizeof *numbers, compare);
    for (unsigned i = 0; i < THREADS * EACH; i++) {
        uint64_t within;
        struct bh_dfile f;
        assert_true(i == 0 || numbers[i] != numbers[i - 1]);
        must(bh_data_open(blobs, numbers[i], &f));
        assert_int_equal(pread(f.fd, &within, sizeof within, 0), sizeof within);
        assert_true(within == numbers[i]);
        bh_dfile_close(&f);
    }
    eventually(data_files() == THREADS * EACH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_next_ones_are_there_at_once),
        TEST(test_one_file_alone_makes_no_others),
        TEST(test_what_is_not_used_goes),
        TEST(test_the_end_leaves_only_what_is_used),
        TEST(test_too_many_open_files_is_said_and_got_over),
        TEST(test_nobody_gets_the_same_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
