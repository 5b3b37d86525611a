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
static bool lasting;              /* all fail from then on; false: one does */
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
    if (!counting || until-- > 0 || (until < -1 && !lasting))
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

static void count(long successes, bool for_good)
{
    live = 0;
    lasting = for_good;
    until = successes;
    counting = true;
}

/* How many blocks are left; *failed: an allocation did. */
static long count_end(bool *failed)
{
    *failed = counting && until < 0;
    counting = false;
    return live;
}

/* Not below valgrind, which puts its own functions into the libraries. */
static bool counts(void)
{
    bool failed;
    count(0, true);
    char *p = strdup("x");
    count_end(&failed);
    free(p);
    return !p;
}
#else
static void count(long successes, bool for_good)
{
}

static long count_end(bool *failed)
{
    *failed = false;
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

/* All that is left of the answer is freed. *size: of the strings it had. */
static int read_and_free(const struct sample *s, size_t *size, struct bh_error *err)
{
    static const char *const names[] = {"AccessKeyId", "Arn"};
    char *values[COUNT(names)], id[BH_UPLOAD_ID_MAX], etag[BH_ETAG_MAX];
    struct bh_xml_page page;
    struct bh_xml_uploads uploads;
    struct bh_xml_parts parts;
    size_t len = strlen(s->body);
    int64_t ms;
    int rc = 0, seen = 0;
    *size = 0;
    switch (s->kind) {
    case LIST:
        rc = bh_xml_list(s->body, len, &page, err);
        for (size_t i = 0; i < page.count; i++)
            *size += strlen(page.entries[i].key);
        bh_xml_page_free(&page);
        break;
    case UPLOADS:
        rc = bh_xml_uploads(s->body, len, &uploads, err);
        for (size_t i = 0; i < uploads.count; i++)
            *size += strlen(uploads.entries[i].key) + strlen(uploads.entries[i].upload_id);
        bh_xml_uploads_free(&uploads);
        break;
    case PARTS:
        rc = bh_xml_parts(s->body, len, &parts, err);
        *size = parts.count;
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

/* Allocation n fails, and, if it lasts, all that follow. */
static int read_short(const struct sample *s, bool counted, long n, bool lasts, size_t whole)
{
    struct bh_error err = {0};
    size_t size;
    bool failed;
    if (counted)
        count(n, lasts);
    int rc = read_and_free(s, &size, &err);
    long left = count_end(&failed);
    /* qsort goes on without memory */
    if ((counted && left) || (rc && (rc != ENOMEM || !failed)) || rc != err.code ||
        (!rc && (size != whole || (failed && s->kind != LIST))))
        fail_msg("%s, allocation %ld: %d %s, %ld blocks are left", s->name, n, rc, err.text, left);
    assert_true(n < 1000);
    return failed ? ENOMEM : 0;
}

static void answers(void **state)
{
    bool counted = counts();
    for (size_t i = 0; i < COUNT(samples); i++) {
        struct bh_error err = {0};
        size_t whole;
        assert_int_equal(read_and_free(&samples[i], &whole, &err), 0);
        for (int lasts = 0; lasts < 2; lasts++)
            for (long n = 0; read_short(&samples[i], counted, n, lasts, whole); n++)
                ;
    }
}

/* An error is read as far as there is memory, and never wrongly. */
static void errors(void **state)
{
    bool counted = counts(), failed = true;
    for (int lasts = 0; lasts < 2; lasts++)
        for (long n = 0; failed || n == 0; n++) {
            struct bh_s3_error e;
            if (counted)
                count(n, lasts);
            bool found = bh_xml_error(error_aws, strlen(error_aws), &e);
            long left = count_end(&failed);
            assert_true(!counted || !left);
            assert_true(found || !*e.code);
            assert_true(!*e.code || !strcmp(e.code, "AuthorizationHeaderMalformed"));
            assert_true(failed || *e.region);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(answers), cmocka_unit_test(errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
