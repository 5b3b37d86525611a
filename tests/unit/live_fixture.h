/* For tests of core/live and core/repo: a directory of their own, random numbers, errors asserted
 * with their sentence. Assertions belong to the main thread: cmocka leaves a failed test by
 * longjmp. */
#ifndef LIVE_FIXTURE_H
#define LIVE_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "live/live.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/io.h"
#include "util/log.h"

static struct bh_error test_error;
#define ERR (&test_error)

/* Fails the test with the error's sentence unless rc is as expected. */
static inline void must_be_(int expected, int rc, const char *what, const char *file, int line)
{
    if (rc == expected)
        return;
    print_error("%s:%d: %s is %d (%s), not %d; the last error: %s\n", file, line, what, rc,
                strerror(rc), expected, test_error.text);
    _fail(file, line);
}
#define must(expression)         must_be_(0, (expression), #expression, __FILE__, __LINE__)
#define must_fail(expression, c) must_be_((c), (expression), #expression, __FILE__, __LINE__)
#define must_say(what)                                                                             \
    do {                                                                                           \
        if (!strstr(test_error.text, (what)))                                                      \
            fail_msg("\"%s\" is not in: %s", (what), test_error.text);                             \
    } while (0)

/* --- a directory of the test's own --- */

static char scratch[64];

static inline int scratch_setup(void **state)
{
    (void)state;
    bh_log_setup(BH_LOG_DEBUG, NULL, getenv("BHFS_TEST_LOG") != NULL, NULL);
    test_error = (struct bh_error){0};
    strcpy(scratch, "/tmp/bhfs-test-live-XXXXXX");
    return mkdtemp(scratch) ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", scratch);
    return system(command);
}

/* SCRATCH/name, in one of eight buffers. */
static inline const char *at(const char *name)
{
    static char paths[8][300];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

static inline bool is_there(const char *name)
{
    return access(at(name), F_OK) == 0;
}

static inline void make_dir(const char *name)
{
    assert_int_equal(mkdir(at(name), 0700), 0);
}

static inline void put_file(const char *name, const void *data, size_t len)
{
    FILE *f = fopen(at(name), "we");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

/* The whole file, freed by the caller. */
static inline unsigned char *get_file(const char *name, size_t *len)
{
    struct stat st;
    int fd = open(at(name), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    unsigned char *data = malloc((size_t)st.st_size + 1);
    assert_non_null(data);
    must(bh_pread_full(fd, data, (size_t)st.st_size, 0, len));
    close(fd);
    return data;
}

static inline void copy_file(const char *from, const char *to)
{
    size_t len;
    unsigned char *data = get_file(from, &len);
    put_file(to, data, len);
    free(data);
}

static inline void must_hold(const char *name, const void *data, size_t len)
{
    size_t got;
    unsigned char *have = get_file(name, &got);
    assert_int_equal(got, len);
    assert_memory_equal(have, data, len);
    free(have);
}

/* --- random numbers: the same in every run --- */

static uint64_t random_state = 88172645463325252u;

/* BH_SEED in the environment: other numbers than always. */
static inline void seed_random(uint64_t seed)
{
    const char *other = getenv("BH_SEED");
    seed += other ? strtoull(other, NULL, 10) * 1000 : 0;
    random_state = seed * 2654435761u + 88172645463325252u;
}

static inline uint32_t any(uint32_t below)
{
    random_state ^= random_state << 13; /* xorshift64 */
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 20) % below;
}

static inline void fill_random(void *buf, size_t len)
{
    for (size_t i = 0; i < len; i++)
        ((unsigned char *)buf)[i] = (unsigned char)any(256);
}

/* Runs body() in a child process: what may crash, or changes limits of the process. Its exit code
 * must be 0; 77 skips the test. body returns the code and asserts nothing. */
static inline void in_child(int (*body)(void))
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
        for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
            signal(fatal[i], SIG_DFL); /* cmocka has handlers of its own */
        alarm(60);
        _exit(body());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        fail_msg("the child died of signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    if (WEXITSTATUS(status) != 0)
        fail_msg("the child failed with code %d", WEXITSTATUS(status));
}
/* For bodies of in_child: says what failed, and where; ends the child. */
#define child_check(condition)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #condition,            \
                    test_error.text);                                                              \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#endif
