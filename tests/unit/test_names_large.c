/* A directory of 100,000 entries costs each operation what a small one does. */
#include "names_fixture.h"

#define FILE_ (S_IFREG | 0644)
#define DIR_  (S_IFDIR | 0755)
#define MANY  100000

/* Of this thread: others use the machine, too. */
static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static const char *name_of(int k)
{
    static char name[30];
    snprintf(name, sizeof name, "file-%d", k);
    return name;
}

/* `count` times in d: absent, make, lookup, unlink again. Nanoseconds each. */
static int64_t cost(uint64_t d, int count)
{
    struct bh_inode i;
    int64_t began = cpu_ns();
    for (int k = 0; k < count; k++) {
        const char *name = name_of(MANY + k);
        must_fail(lookup(d, name, &i), ENOENT);
        must(make(d, name, FILE_, &i));
        must(lookup(d, name, &i));
        must(unlink_name(d, name, &i));
    }
    return (cpu_ns() - began) / count;
}

static int64_t best_cost(uint64_t d, int count)
{
    int64_t best = INT64_MAX;
    for (int k = 0; k < 5; k++) {
        int64_t now = cost(d, count);
        best = now < best ? now : best;
    }
    return best;
}

static void must_be_flat(const char *what, int64_t small, int64_t large)
{
    print_message("%s: %lld ns in a small directory, %lld ns in a large one\n", what,
                  (long long)small, (long long)large);
    if (large > 4 * small + 2000)
        fail_msg("%s is dearer in a large directory", what);
}

static void test_large_directory(void **state)
{
    struct bh_inode i;
    struct bh_names_listing *l;
    options.cache = 300000;
    open_names();
    uint64_t small = made(ROOT, "small", DIR_), large = made(ROOT, "large", DIR_);
    made(small, "x", FILE_);
    for (int k = 0; k < MANY; k++)
        made(large, name_of(k), FILE_);
    must_be_flat("in memory", best_cost(small, 2000), best_cost(large, 2000));
    close_names();
    names_db_is_whole();

    /* Nothing is in memory: each asks the database. */
    open_names();
    int64_t cold_small = cost(small, 500), cold_large = cost(large, 500);
    must_be_flat("from the database", cold_small, cold_large);

    int64_t began = cpu_ns();
    must(list(large, &l));
    print_message("the first listing: %lld us\n", (long long)(cpu_ns() - began) / 1000);
    assert_int_equal(l->count, MANY);
    free(l);
    began = cpu_ns();
    must(bh_names_list(names, large, &l, false, ERR));
    print_message("the second: %lld us\n", (long long)(cpu_ns() - began) / 1000);
    free(l);
    must(bh_names_lookup(names, large, name_of(MANY / 2), &i, false, ERR)); /* it is in memory */
    must_fail(bh_names_lookup(names, large, "absent", &i, false, ERR), ENOENT);
    close_names();

    /* Little memory: the whole directory does not fit, its listing is right all the same. */
    options.cache = 1000;
    open_names();
    must(unlink_name(large, name_of(7), &i));
    made(large, "new", FILE_);
    must(list(large, &l));
    assert_int_equal(l->count, MANY);
    bool seen_new = false;
    for (size_t k = 0; k < l->count; k++) {
        seen_new |= strcmp(l->entries[k].name, "new") == 0;
        assert_string_not_equal(l->entries[k].name, name_of(7));
    }
    assert_true(seen_new);
    free(l);
    struct bh_names_stats s;
    bh_names_stats(names, &s);
    assert_int_equal(s.inodes, MANY + 4);
    assert_true(s.in_memory < 3000);
}

/* Memory is bounded by `cache`, whatever is walked over. */
static void test_memory_is_bounded(void **state)
{
    struct bh_inode i;
    struct bh_names_stats s;
    options.cache = 500;
    options.checkpoint_ms = 0;
    open_names();
    uint64_t d = 0;
    for (int k = 0; k < 20000; k++) {
        if (k % 100 == 0)
            d = made(ROOT, name_of(k), DIR_);
        made(d, name_of(k), FILE_);
        if (k % 1000 == 999)
            must(bh_names_checkpoint(names, ERR));
        bh_names_stats(names, &s);
        assert_true(s.in_memory < 500 + 4 * 1200);
    }
    for (int k = 0; k < 20000; k++) {
        if (k % 100 == 0) {
            must(lookup(ROOT, name_of(k), &i));
            d = i.ino;
        }
        must(lookup(d, name_of(k), &i));
        bh_names_stats(names, &s);
        assert_true(k < 200 || s.in_memory < 1500); /* an operation drops a few at a time */
    }
}

/* More changes than are to be in memory: an operation that may wait makes a checkpoint itself. */
static void test_too_many_changes(void **state)
{
    struct bh_inode i, what = {.mode = FILE_};
    struct bh_names_stats s;
    int again = 0;
    open_names();
    for (int k = 0; k < (int)CHANGED_MAX; k++) {
        int rc = bh_names_make(names, ROOT, name_of(k), &what, NULL, false, &i, false, ERR);
        if (rc == EAGAIN) {
            again++;
            atomic_store(&refuse_commits, true);
            must_fail(bh_names_make(names, ROOT, name_of(k), &what, NULL, false, &i, true, ERR),
                      EIO);
            atomic_store(&refuse_commits, false);
            must(bh_names_make(names, ROOT, name_of(k), &what, NULL, false, &i, true, ERR));
            break;
        }
        must(rc);
        bh_names_stats(names, &s);
        assert_true(s.changed <= CHANGED_MAX + 4);
    }
    assert_int_equal(again, 1);
    bh_names_stats(names, &s);
    assert_true(s.changed < 10);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, names_setup, names_teardown)
    const struct CMUnitTest tests[] = {
        T(test_large_directory),
        T(test_memory_is_bounded),
        T(test_too_many_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
