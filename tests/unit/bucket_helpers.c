#include "bucket_helpers.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "util/cleanup.h"

_Thread_local struct bh_error test_error;

void must_be_(int expected, int rc, const char *what, const char *file, int line)
{
    if (rc == expected) {
        if (rc && (test_error.code != rc || strlen(test_error.text) < 8)) {
            print_error("%s: returned %d without a sentence (%d: %s)\n", what, rc, test_error.code,
                        test_error.text);
            _fail(file, line);
        }
        test_error = (struct bh_error){0};
        return;
    }
    print_error("%s: returned %d (%s), expected %d (%s): %s\n", what, rc, strerror(rc), expected,
                strerror(expected), test_error.text);
    _fail(file, line);
}

int put_text(struct bh_bucket *b, const char *key, const char *text, const struct bh_cond *cond)
{
    struct bh_source src = {.size = strlen(text), .data = text};
    return bh_bucket_put(b, key, &src, NULL, cond, NULL, NULL, ERR);
}

const char *must_put(struct bh_bucket *b, const char *key, const char *text)
{
    static _Thread_local struct bh_object_info info;
    struct bh_source src = {.size = strlen(text), .data = text};
    must(bh_bucket_put(b, key, &src, NULL, NULL, &info, NULL, ERR));
    assert_int_equal(info.size, strlen(text));
    assert_true(info.etag[0] != '\0');
    return info.etag;
}

void must_have(struct bh_bucket *b, const char *key, const char *text)
{
    BH_FREE char *data = NULL;
    size_t len;
    must(bh_bucket_get_small(b, key, MIB, &data, &len, NULL, NULL, ERR));
    assert_int_equal(len, strlen(text));
    assert_string_equal(data, text);
}

void must_lack(struct bh_bucket *b, const char *key)
{
    must_fail(bh_bucket_head(b, key, NULL, NULL, ERR), ENOENT);
}

struct text {
    char data[65536];
    size_t len;
};

static int add_line(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                    struct bh_error *err)
{
    struct text *t = arg;
    int n =
        snprintf(t->data + t->len, sizeof t->data - t->len, "%s%s\n", is_prefix ? "*" : "", key);
    t->len += (size_t)n;
    if (t->len >= sizeof t->data || (!is_prefix && info->etag[0] == '\0'))
        return bh_fail(err, EFBIG, "a test's listing is too long, or an ETag is missing");
    return 0;
}

const char *listing(struct bh_bucket *b, const char *prefix, const char *delimiter,
                    const char *after, size_t max)
{
    static _Thread_local struct text t;
    struct bh_list_request req = {
        .prefix = prefix, .delimiter = delimiter, .start_after = after, .max = max};
    t.len = 0;
    t.data[0] = '\0';
    must(bh_bucket_list(b, &req, add_line, &t, NULL, ERR));
    return t.data;
}

static unsigned char pattern_byte(uint64_t at)
{
    return (unsigned char)((at * 2654435761u) >> 13 ^ at);
}

int pattern_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    for (size_t i = 0; i < len; i++)
        ((unsigned char *)buf)[i] = pattern_byte(offset + i);
    return 0;
}

struct bh_source pattern_source(uint64_t size)
{
    return (struct bh_source){.size = size, .read = pattern_read};
}

int pattern_check(void *arg, const void *data, size_t len, struct bh_error *err)
{
    uint64_t *at = arg;
    for (size_t i = 0; i < len; i++, ++*at)
        if (((const unsigned char *)data)[i] != pattern_byte(*at))
            return bh_fail(err, EBADMSG, "the byte at %llu is wrong", (unsigned long long)*at);
    return 0;
}

void must_have_pattern(struct bh_bucket *b, const char *key, uint64_t size)
{
    uint64_t at = 0;
    struct bh_object_info info;
    must(bh_bucket_get(b, key, 0, UINT64_MAX, pattern_check, &at, &info, NULL, ERR));
    assert_int_equal(at, size);
    assert_int_equal(info.size, size);
}
