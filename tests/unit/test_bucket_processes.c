/* A file:// bucket that several processes use at once. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bucket_fixture.h"
#include "config/config.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define PROCESSES 4

/* Runs fn(i) in PROCESSES processes at once, each with a bucket of its own; counts those that
 * return 0. */
static int in_processes(int (*fn)(int i))
{
    int gate[2], winners = 0;
    pid_t pids[PROCESSES];
    assert_int_equal(pipe(gate), 0);
    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            char c;
            close(gate[1]);
            if (bh_bucket_dir_open(&b, dir, NULL) != 0 || read(gate[0], &c, 1) != 0)
                _exit(100);
            int rc = fn(i);
            bh_bucket_close(b);
            _exit(rc);
        }
    }
    close(gate[0]);
    close(gate[1]); /* everybody's read ends now */
    for (int i = 0; i < PROCESSES; i++) {
        int status;
        waitpid(pids[i], &status, 0);
        assert_true(WIFEXITED(status));
        int rc = WEXITSTATUS(status);
        if (rc != 0 && rc != EEXIST && rc != ESTALE)
            fail_msg("a process ended with %d", rc);
        winners += rc == 0;
    }
    return winners;
}

static int create(int i)
{
    char text[16];
    snprintf(text, sizeof text, "%d", i);
    return put_text(b, "race/absent", text, &(struct bh_cond){.if_none_match = true});
}

static void test_processes_create(void **state)
{
    for (int round = 0; round < 20; round++) {
        assert_int_equal(in_processes(create), 1);
        must(bh_bucket_delete(b, "race/absent", NULL, ERR));
    }
}

/* Adds 25 to a number in the bucket by compare-and-swap. */
static int count_up(int i)
{
    for (int done = 0; done < 25;) {
        char *text, next[32];
        struct bh_object_info info;
        int rc = bh_bucket_get_small(b, "race/count", 100, &text, NULL, &info, NULL, NULL);
        if (rc)
            return rc;
        snprintf(next, sizeof next, "%d", atoi(text) + 1);
        free(text);
        rc = put_text(b, "race/count", next, &(struct bh_cond){.if_match = info.etag});
        if (rc && rc != ESTALE)
            return rc;
        done += rc == 0;
    }
    return 0;
}

static void test_processes_count(void **state)
{
    char expected[16];
    must_put(b, "race/count", "0");
    assert_int_equal(in_processes(count_up), PROCESSES);
    snprintf(expected, sizeof expected, "%d", 25 * PROCESSES);
    must_have(b, "race/count", expected);
}

/* Puts and deletes that make and remove one directory all the time. */
static int churn(int i)
{
    char key[64];
    snprintf(key, sizeof key, "churn/deep/er/%d", i);
    for (int n = 0; n < 100; n++) {
        int rc = put_text(b, key, "x", NULL);
        if (!rc)
            rc = bh_bucket_head(b, key, NULL, NULL, NULL);
        if (!rc)
            rc = bh_bucket_delete(b, key, NULL, NULL);
        if (rc)
            return rc == EEXIST ? 101 : rc;
    }
    return 0;
}

static void test_processes_churn(void **state)
{
    assert_int_equal(in_processes(churn), PROCESSES);
    assert_false(exists("churn"));
}

/* Writers give each content its own metadata; readers must never see another pair. */
static int write_or_read_pairs(int i)
{
    char text[64] = "";
    for (int n = 0; n < (i % 2 ? 5000 : 300); n++) {
        struct bh_object_info info;
        if (i % 2 == 0) {
            struct bh_meta meta = {0};
            snprintf(text, sizeof text, "%d-%d", i, n);
            struct bh_source src = {.size = strlen(text), .data = text};
            bh_meta_set(&meta, "m", text, NULL);
            if (bh_bucket_put(b, "pair", &src, n % 5 ? &meta : NULL, NULL, NULL, NULL, NULL) != 0)
                return 102;
            continue;
        }
        char *got;
        if (bh_bucket_get_small(b, "pair", 100, &got, NULL, &info, NULL, NULL) != 0)
            return 103;
        const char *m = bh_meta_get(&info.meta, "m");
        const char *dash = strchr(got, '-');
        bool fifth = dash && atoi(dash + 1) % 5 == 0;
        bool fits = fifth ? m == NULL : m && strcmp(m, got) == 0;
        free(got);
        if (!fits)
            return 104;
    }
    return 0;
}

static void test_processes_pairs(void **state)
{
    must_put(b, "pair", "0-0");
    assert_int_equal(in_processes(write_or_read_pairs), PROCESSES);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)
    const struct CMUnitTest tests[] = {
        T(test_processes_create),
        T(test_processes_count),
        T(test_processes_churn),
        T(test_processes_pairs),
    };
    return cmocka_run_group_tests_name("bucket-processes", tests, NULL, NULL);
}
