/* Reading answers while memory runs out: at every allocation there is, expat's among them. It ends
 * in ENOMEM, and what was allocated is free again. */
#include <stdbool.h>

#include "s3_xml_fixture.h"

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define COUNTED 0 /* the sanitizer has an allocator of its own, and looks for leaks itself */
#elif defined __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNTED 0
#endif
#endif
#ifndef COUNTED
#ifdef __GLIBC__
#define COUNTED 1
#else
#define COUNTED 0
#endif
#endif

#if COUNTED
static volatile bool counting;
static volatile long live, until; /* blocks that are allocated; allocations that still succeed */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void __libc_free(void *p);

/* expat and the C library are to call these, too. */
#pragma GCC visibility push(default)

static void *note(void *p)
{
    live += counting && p;
    return p;
}

static bool runs_out(void)
{
    if (!counting || until-- > 0)
        return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size)
{
    return runs_out() ? NULL : note(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    return runs_out() ? NULL : note(__libc_calloc(count, size));
}

void *realloc(void *p, size_t size)
{
    if (runs_out())
        return NULL;
    return p ? __libc_realloc(p, size) : note(__libc_realloc(p, size));
}

void *reallocarray(void *p, size_t count, size_t size)
{
    return realloc(p, count * size);
}

void free(void *p)
{
    live -= counting && p;
    __libc_free(p);
}

#pragma GCC visibility pop

static void count(long successes)
{
    live = 0;
    until = successes;
    counting = true;
}

/* How many blocks are left. */
static long count_end(void)
{
    counting = false;
    return live;
}

/* Not below valgrind, which puts its own functions into the libraries. */
static bool counts(void)
{
    count(0);
    char *p = strdup("x");
    count_end();
    free(p);
    return !p;
}
#else
static void count(long successes)
{
}

static long count_end(void)
{
    return 0;
}

static bool counts(void)
{
    return false;
}
#endif

static int ignore_key(void *arg, const char *key, const char *code, const char *message,
                      struct bh_error *err)
{
    ++*(int *)arg;
    return 0;
}

/* All that is left of the answer is freed. */
static int read_and_free(const struct sample *s, struct bh_error *err)
{
    static const char *const names[] = {"AccessKeyId", "Arn"};
    char *values[COUNT(names)], id[BH_UPLOAD_ID_MAX], etag[BH_ETAG_MAX];
    struct bh_xml_page page;
    struct bh_xml_uploads uploads;
    struct bh_xml_parts parts;
    size_t len = strlen(s->body);
    int64_t ms;
    int rc = 0, seen = 0;
    switch (s->kind) {
    case LIST:
        rc = bh_xml_list(s->body, len, &page, err);
        bh_xml_page_free(&page);
        break;
    case UPLOADS:
        rc = bh_xml_uploads(s->body, len, &uploads, err);
        bh_xml_uploads_free(&uploads);
        break;
    case PARTS:
        rc = bh_xml_parts(s->body, len, &parts, err);
        bh_xml_parts_free(&parts);
        break;
    case UPLOAD_ID:
        rc = bh_xml_upload_id(s->body, len, id, err);
        break;
    case RESULT:
        rc = bh_xml_result(s->body, len, etag, &ms, err);
        break;
    case DELETED:
        rc = bh_xml_delete_result(s->body, len, ignore_key, &seen, err);
        assert_int_equal(seen, rc ? 0 : 2);
        break;
    case TEXTS:
        rc = bh_xml_texts(s->body, len, names, values, COUNT(names), err);
        for (size_t i = 0; i < COUNT(names); i++) {
            assert_true(rc ? !values[i] : values[i] != NULL);
            free(values[i]);
        }
        break;
    }
    return rc;
}

static void answers(void **state)
{
    bool counted = counts();
    for (size_t i = 0; i < COUNT(samples); i++) {
        int rc = ENOMEM;
        for (long n = 0; rc; n++) {
            struct bh_error err = {0};
            if (counted)
                count(n);
            rc = read_and_free(&samples[i], &err);
            long left = count_end();
            if ((counted && left) || (rc && rc != ENOMEM) || rc != err.code)
                fail_msg("%s, allocation %ld: %d %s, %ld blocks are left", samples[i].name, n, rc,
                         err.text, left);
            assert_true(n > 10 || !counted || rc);
            assert_true(n < 1000);
        }
    }
}

/* An error is read as far as there is memory, and never wrongly. */
static void errors(void **state)
{
    bool counted = counts();
    struct bh_s3_error e = {0};
    for (long n = 0; !*e.message; n++) {
        if (counted)
            count(n);
        bool found = bh_xml_error(error_aws, strlen(error_aws), &e);
        long left = count_end();
        assert_true(!counted || !left);
        assert_true(found || !*e.code);
        assert_true(!*e.code || !strcmp(e.code, "AuthorizationHeaderMalformed"));
        assert_true(n < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(answers), cmocka_unit_test(errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
