#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "util/strbuf.h"

static void starts_empty(void **state)
{
    (void)state;
    BH_STRBUF b = {0};
    assert_null(b.data);
    bh_strbuf_reset(&b);
    assert_null(b.data);
    bh_strbuf_add(&b, "", 0);
    assert_string_equal(b.data, "");
    assert_int_equal(b.len, 0);
    assert_false(b.failed);
}

static void appends_bytes_and_text(void **state)
{
    (void)state;
    BH_STRBUF b = {0};
    bh_strbuf_add(&b, "a\0b", 3);
    bh_strbuf_addf(&b, "-%d-%s", 42, "x");
    assert_int_equal(b.len, 8);
    assert_memory_equal(b.data, "a\0b-42-x", 9);
}

/* Each length around the first allocations, by both ways of appending. */
static void grows(void **state)
{
    char text[1024];
    (void)state;
    memset(text, 'x', sizeof text);
    for (int len = 0; len < 1000; len++) {
        BH_STRBUF b = {0};
        bh_strbuf_add(&b, text, (size_t)len);
        bh_strbuf_addf(&b, "%.*s", len, text);
        assert_int_equal(b.len, 2 * len);
        assert_int_equal(strlen(b.data), 2 * len);
        assert_true(b.cap > b.len);
    }
    BH_STRBUF b = {0};
    for (int i = 0; i < 100000; i++)
        bh_strbuf_addf(&b, "%05d", i);
    assert_int_equal(b.len, 500000);
    assert_memory_equal(b.data + 12345 * 5, "12345", 5);
}

static void resets_and_frees(void **state)
{
    (void)state;
    struct bh_strbuf b = {0};
    bh_strbuf_addf(&b, "something");
    size_t cap = b.cap;
    bh_strbuf_reset(&b);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
    assert_int_equal(b.cap, cap);
    bh_strbuf_addf(&b, "else");
    assert_string_equal(b.data, "else");
    bh_strbuf_free(&b);
    assert_null(b.data);
    assert_int_equal(b.len, 0);
    bh_strbuf_free(&b);
}

/* After a failure nothing is appended any more and what is there stays valid. */
static void failure_is_sticky(void **state)
{
    (void)state;
    BH_STRBUF b = {0};
    bh_strbuf_addf(&b, "before");
    b.failed = true;
    bh_strbuf_addf(&b, "after");
    bh_strbuf_add(&b, "after", 5);
    bh_strbuf_add_json(&b, "after");
    assert_string_equal(b.data, "before");
    assert_true(b.failed);
}

static void json(void **state)
{
    static const struct {
        const char *text, *quoted;
    } cases[] = {
        {"", "\"\""},
        {"plain", "\"plain\""},
        {"a\"b\\c/d", "\"a\\\"b\\\\c/d\""},
        {"\n\t\r\b\f\x01\x1f", "\"\\u000a\\u0009\\u000d\\u0008\\u000c\\u0001\\u001f\""},
        {"\x7f", "\"\\u007f\""},
        {"\xc3\xa9", "\"\xc3\xa9\""},                             /* U+00E9 */
        {"\xe2\x82\xac", "\"\xe2\x82\xac\""},                     /* U+20AC */
        {"\xf0\x9f\x98\x80", "\"\xf0\x9f\x98\x80\""},             /* U+1F600 */
        {"\xf4\x8f\xbf\xbf", "\"\xf4\x8f\xbf\xbf\""},             /* U+10FFFF, the last */
        {"\xff", "\"\\u00ff\""},                                  /* in no UTF-8 */
        {"\x80", "\"\\u0080\""},                                  /* a continuation alone */
        {"a\xc3", "\"a\\u00c3\""},                                /* cut off */
        {"\xe2\x82", "\"\\u00e2\\u0082\""},                       /* cut off */
        {"\xf0\x9f\x98", "\"\\u00f0\\u009f\\u0098\""},            /* cut off */
        {"\xc3\"", "\"\\u00c3\\\"\""},                            /* the quote is not swallowed */
        {"\xe2\x82\"", "\"\\u00e2\\u0082\\\"\""},                 /* nor here */
        {"\xc0\xaf", "\"\\u00c0\\u00af\""},                       /* overlong '/' */
        {"\xe0\x80\xaf", "\"\\u00e0\\u0080\\u00af\""},            /* overlong '/' */
        {"\xf0\x80\x80\xaf", "\"\\u00f0\\u0080\\u0080\\u00af\""}, /* overlong '/' */
        {"\xed\xa0\x80", "\"\\u00ed\\u00a0\\u0080\""},            /* a surrogate */
        {"\xf4\x90\x80\x80", "\"\\u00f4\\u0090\\u0080\\u0080\""}, /* beyond U+10FFFF */
        {"\xf5\x80\x80\x80", "\"\\u00f5\\u0080\\u0080\\u0080\""}, /* beyond U+10FFFF */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        BH_STRBUF b = {0};
        bh_strbuf_add_json(&b, cases[i].text);
        assert_string_equal(b.data, cases[i].quoted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_empty),
        cmocka_unit_test(appends_bytes_and_text),
        cmocka_unit_test(grows),
        cmocka_unit_test(resets_and_frees),
        cmocka_unit_test(failure_is_sticky),
        cmocka_unit_test(json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
