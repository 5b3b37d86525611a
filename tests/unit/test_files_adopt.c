/* Names in files/ for rows of table filestore: what a filename becomes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/files_adopt.h"
#include "store/names_private.h"

#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static char out[FILES_NAME_MAX + 1];

static const char *safe(const char *name, size_t len)
{
    memset(out, 'Z', sizeof out);
    files_safe_name(name, len, KEY, out);
    assert_null(name_wrong(out, strlen(out)));
    return out;
}
#define SAFE(literal) safe(literal, sizeof literal - 1)

static const char *numbered(const char *name, uint64_t number)
{
    memset(out, 'Z', sizeof out);
    files_numbered_name(name, number, out);
    assert_null(name_wrong(out, strlen(out)));
    return out;
}

static void test_good_names_stay(void **state)
{
    static const char *const all[] = {"a",   "report.pdf",   ".hidden",    "...",      "a b\\c*?",
                                      "-rf", "\xc3\xbc.txt", "no.ending.", "\xff\xfe", "..."};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_string_equal(safe(all[i], strlen(all[i])), all[i]);
}

static void test_evil_names(void **state)
{
    assert_string_equal(SAFE("../../etc/passwd"), ".._.._etc_passwd");
    assert_string_equal(SAFE("/"), "_");
    assert_string_equal(SAFE("."), "_");
    assert_string_equal(SAFE(".."), "_.");
    assert_string_equal(SAFE("a\0b"), "a_b");
    assert_string_equal(SAFE("\0"), "_");
    assert_string_equal(SAFE("a\nb\tc\x1b[31m\x7f"), "a_b_c_[31m_");
    assert_string_equal(SAFE(""), KEY);
    assert_string_equal(safe(NULL, 0), KEY);
}

/* At every length, and with every length of the ending: 255 bytes at most, the ending kept, no
 * character cut. */
static void test_long_names(void **state)
{
    char name[700], before[FILES_NAME_MAX + 1];
    for (size_t len = 200; len < 600; len++) {
        for (size_t i = 0; i < len; i++)
            name[i] = "\xe2\x82\xac"[i % 3]; /* the euro sign */
        memcpy(name + len, ".txt", 5);
        safe(name, len + 4);
        assert_true(strlen(out) <= FILES_NAME_MAX);
        assert_string_equal(out + strlen(out) - 4, ".txt");
        if (len + 4 > FILES_NAME_MAX)
            assert_int_equal((strlen(out) - 4) % 3, 0);
        else
            assert_string_equal(out, name);
        strcpy(before, out);
        numbered(before, 1234567);
        assert_string_equal(out + strlen(out) - 14, " (1234567).txt");
        memset(name, 'n', len);
        name[len / 2] = '.'; /* no ending: it is too long */
        safe(name, len);
        assert_int_equal(strlen(out), len < FILES_NAME_MAX ? len : FILES_NAME_MAX);
        assert_memory_equal(out, name, strlen(out));
    }
    memset(name, 0x80, sizeof name); /* nothing but the middle of characters */
    name[sizeof name - 1] = 'x';
    safe(name, sizeof name);
}

static void test_numbers(void **state)
{
    assert_string_equal(numbered("a.txt", 2), "a (2).txt");
    assert_string_equal(numbered("a", 10), "a (10)");
    assert_string_equal(numbered("a.tar.gz", 3), "a.tar (3).gz");
    assert_string_equal(numbered(".hidden", 2), ".hidden (2)");
    assert_string_equal(numbered("a.", 2), "a (2).");
    assert_string_equal(numbered("a", UINT64_MAX), "a (18446744073709551615)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_names_stay),
        cmocka_unit_test(test_evil_names),
        cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
