/* Conditional puts by several threads at once. */
#include "bucket_suite.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "util/cleanup.h"

#define RACERS 8
#define ROUNDS 10

/* Nobody knows what such a put did; stores say it to losers of a race now and then. */
static bool is_ambiguous(int rc)
{
    return rc == EIO || rc == EAGAIN || rc == ETIMEDOUT;
}

static void *race(void *arg)
{
    char text[16];
    struct bh_cond absent = {.if_none_match = true};
    snprintf(text, sizeof text, "%d", *(int *)arg);
    *(int *)arg = put_text(bucket, k("race/key"), text, &absent);
    return NULL;
}

void test_threads_race(void **state)
{
    if (!has(BH_CAP_IF_NONE_MATCH)) {
        int rc = 0;
        race(&rc);
        assert_int_equal(rc, ENOTSUP);
        return;
    }
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t threads[RACERS];
        int results[RACERS], winners = 0;
        BH_FREE char *text = NULL;
        for (int i = 0; i < RACERS; i++) {
            results[i] = i;
            assert_int_equal(pthread_create(&threads[i], NULL, race, &results[i]), 0);
        }
        for (int i = 0; i < RACERS; i++)
            pthread_join(threads[i], NULL);
        must(bh_bucket_get_small(bucket, k("race/key"), 15, &text, NULL, NULL, NULL, ERR));
        for (int i = 0; i < RACERS; i++) {
            winners += results[i] == 0;
            if (results[i] == 0)
                assert_int_equal(atoi(text), i);
            else if (!is_ambiguous(results[i]))
                assert_int_equal(results[i], EEXIST);
        }
        int last = results[atoi(text)];
        assert_true(last == 0 || (winners == 0 && is_ambiguous(last)));
        must(bh_bucket_delete(bucket, k("race/key"), NULL, ERR));
    }
}

/* --- no update is lost --- */

#define ADDITIONS 8
#define LOG_MAX   8192

/* Appends a word to the object by compare and swap. NULL, or what went wrong, to be freed. */
static char *append(const char *word)
{
    char text[LOG_MAX + 32];
    char *wrong = NULL;
    for (;;) {
        BH_FREE char *log = NULL;
        struct bh_object_info info;
        int rc = bh_bucket_get_small(bucket, k("race/log"), LOG_MAX, &log, NULL, &info, NULL, ERR);
        if (is_ambiguous(rc)) /* replaced while it was read */
            continue;
        if (rc)
            return asprintf(&wrong, "get: %s", test_error.text) < 0 ? NULL : wrong;
        if (strstr(log, word))
            return NULL; /* an ambiguous put was one */
        snprintf(text, sizeof text, "%s%s", log, word);
        rc = put_text(bucket, k("race/log"), text, &(struct bh_cond){.if_match = info.etag});
        if (rc == 0)
            return NULL;
        if (rc != ESTALE && !is_ambiguous(rc))
            return asprintf(&wrong, "put: %s", test_error.text) < 0 ? NULL : wrong;
    }
}

static void *append_some(void *arg)
{
    char word[16], *wrong = NULL;
    for (int i = 0; i < ADDITIONS && !wrong; i++) {
        snprintf(word, sizeof word, "<%d.%d>", *(int *)arg, i);
        wrong = append(word);
    }
    return wrong;
}

void test_compare_and_swap(void **state)
{
    pthread_t threads[RACERS];
    int numbers[RACERS];
    char word[16];
    BH_FREE char *log = NULL;
    if (!has(BH_CAP_IF_MATCH)) {
        must_put(bucket, k("race/log"), "");
        must_fail(put_text(bucket, k("race/log"), "x", &(struct bh_cond){.if_match = "x"}),
                  ENOTSUP);
        must_have(bucket, k("race/log"), "");
        return;
    }
    must_put(bucket, k("race/log"), "");
    for (int i = 0; i < RACERS; i++) {
        numbers[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, append_some, &numbers[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        void *wrong = NULL;
        pthread_join(threads[i], &wrong);
        if (wrong)
            fail_msg("%s", (char *)wrong);
    }
    must(bh_bucket_get_small(bucket, k("race/log"), LOG_MAX, &log, NULL, NULL, NULL, ERR));
    for (int i = 0; i < RACERS * ADDITIONS; i++) {
        snprintf(word, sizeof word, "<%d.%d>", i / ADDITIONS, i % ADDITIONS);
        char *at = strstr(log, word);
        if (!at || strstr(at + 1, word))
            fail_msg("%s is %s: %s", word, at ? "there twice" : "lost", log);
    }
}
