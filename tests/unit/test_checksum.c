#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket/s3/checksum.h"

#define COUNT(array) (sizeof array / sizeof array[0])

#define HEADER(kind) "x-amz-checksum-" kind

/* Checks body against what a header says of it, taking it in pieces of so many bytes. */
static int check(const char *header, const char *value, const void *body, size_t len, size_t piece,
                 struct bh_error *err)
{
    struct bh_checksum *c = NULL;
    int rc = bh_checksum_begin(&c, header, value, err);
    assert_true(rc == 0 ? c != NULL : c == NULL);
    if (rc)
        return rc;
    for (size_t at = 0; at < len; at += piece)
        bh_checksum_update(c, (const char *)body + at, len - at < piece ? len - at : piece);
    rc = bh_checksum_end(c, err);
    bh_checksum_free(c);
    return rc;
}

/* The check values of the CRC catalogue and the examples of FIPS 180-4. */
static void known_values(void **state)
{
    static const struct {
        const char *header, *body;
        size_t size;
        unsigned char value[32];
    } cases[] = {
        {HEADER("crc32"), "123456789", 4, {0xcb, 0xf4, 0x39, 0x26}},
        {HEADER("crc32c"), "123456789", 4, {0xe3, 0x06, 0x92, 0x83}},
        {HEADER("crc64nvme"), "123456789", 8, {0xae, 0x8b, 0x14, 0x86, 0x0a, 0x79, 0x98, 0x88}},
        {HEADER("crc32"), "", 4, {0}},
        {HEADER("crc32c"), "", 4, {0}},
        {HEADER("crc64nvme"), "", 8, {0}},
        {HEADER("sha1"), "abc", 20, {0xa9, 0x99, 0x3e, 0x36, 0x47, 0x06, 0x81, 0x6a, 0xba, 0x3e,
                                     0x25, 0x71, 0x78, 0x50, 0xc2, 0x6c, 0x9c, 0xd0, 0xd8, 0x9d}},
        {HEADER("sha256"), "abc", 32, {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea,
                                       0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
                                       0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c,
                                       0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad}},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char value[64];
        bh_base64(cases[i].value, cases[i].size, value);
        struct bh_error err = {0};
        size_t len = strlen(cases[i].body);
        for (size_t piece = 1; piece <= len + 1; piece++)
            if (check(cases[i].header, value, cases[i].body, len, piece, &err))
                fail_msg("%s of '%s' in pieces of %zu: %s", cases[i].header, cases[i].body, piece,
                         err.text);
    }
}

/* A CRC bit by bit, as the base64 of its big-endian bytes. */
static const char *slow_crc(const unsigned char *data, size_t len, uint64_t polynomial, size_t size)
{
    static char text[16];
    const uint64_t ones = UINT64_MAX >> (64 - 8 * size);
    uint64_t crc = ones;
    unsigned char value[8];
    for (size_t i = 0; i < 8 * len; i++)
        crc = ((crc ^ data[i / 8] >> i % 8) & 1) ? crc >> 1 ^ polynomial : crc >> 1;
    for (size_t i = 0; i < size; i++)
        value[i] = (unsigned char)((crc ^ ones) >> 8 * (size - 1 - i));
    bh_base64(value, size, text);
    return text;
}

/* Each length around the eight bytes that are taken at once, at each alignment, whole and split in
 * each place. */
static void every_length(void **state)
{
    static const struct {
        const char *header;
        uint64_t polynomial;
        size_t size;
    } crcs[] = {
        {HEADER("crc32"), UINT32_C(0xedb88320), 4},
        {HEADER("crc32c"), UINT32_C(0x82f63b78), 4},
        {HEADER("crc64nvme"), UINT64_C(0x9a6c9329ac4bc9b5), 8},
    };
    unsigned char data[64];
    uint32_t seed = 1;
    (void)state;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)((seed = seed * 1103515245 + 12345) >> 16);
    for (size_t kind = 0; kind < COUNT(crcs); kind++)
        for (size_t start = 0; start < 8; start++)
            for (size_t len = 0; len <= 40; len++) {
                const char *value =
                    slow_crc(data + start, len, crcs[kind].polynomial, crcs[kind].size);
                for (size_t split = 1; split <= len + 1; split++) {
                    struct bh_error err = {0};
                    if (check(crcs[kind].header, value, data + start, len, split, &err))
                        fail_msg("%zu bytes in pieces of %zu: %s", len, split, err.text);
                }
            }
}

static void damage_is_found(void **state)
{
    static const struct {
        const char *header, *value, *is;
    } cases[] = {
        {HEADER("crc32"), "y/Q5Jg==", "siiBgg=="},
        {HEADER("crc32c"), "4waSgw==", NULL},
        {HEADER("crc64nvme"), "rosUhgp5mIg=", NULL},
        {HEADER("sha1"), "98O8HYCOBHMq32eZZczDTKeuNEE=", NULL},
        {HEADER("sha256"), "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=", NULL},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char body[] = "123456789";
        struct bh_error err = {0};
        for (size_t bit = 0; bit < 8 * strlen("123456789"); bit++) {
            memcpy(body, "123456789", sizeof body);
            body[bit / 8] = (char)(body[bit / 8] ^ 1 << bit % 8);
            assert_int_equal(check(cases[i].header, cases[i].value, body, 9, 4, &err), EIO);
            assert_non_null(strstr(err.text, cases[i].value));
            assert_non_null(strstr(err.text, cases[i].header + strlen(HEADER(""))));
        }
        assert_int_equal(check(cases[i].header, cases[i].value, "123456789", 9, 4, &err), 0);
        /* cut, and nothing at all */
        assert_int_equal(check(cases[i].header, cases[i].value, "123456789", 8, 8, &err), EIO);
        assert_int_equal(check(cases[i].header, cases[i].value, "", 0, 1, &err), EIO);
        /* what it is instead is said, too */
        assert_int_equal(check(cases[i].header, cases[i].value, "123456780", 9, 9, &err), EIO);
        if (cases[i].is)
            assert_non_null(strstr(err.text, cases[i].is));
    }
}

static void malformed_values(void **state)
{
    static const struct {
        const char *header, *value;
    } cases[] = {
        {HEADER("crc32"), ""},
        {HEADER("crc32"), "y/Q5Jg"},    /* no padding */
        {HEADER("crc32"), "y/Q5Jg="},   /* half of it */
        {HEADER("crc32"), "y/Q5Jg==="}, /* too much */
        {HEADER("crc32"), "y/Q5JgA="},  /* five bytes */
        {HEADER("crc32"), "y/Q5"},      /* three bytes */
        {HEADER("crc32"), "y/Q5Jg==AAAA"},
        {HEADER("crc32"), "y/Q=Jg=="},
        {HEADER("crc32"), "====Jg=="},
        {HEADER("crc32"), "y_Q5Jg=="}, /* another alphabet */
        {HEADER("crc32"), " y/Q5Jg="},
        {HEADER("crc32"), "y/Q5Jg= "},
        {HEADER("crc32"), "y/Q5Jg=\n"},
        {HEADER("crc32"), "cbf43926"}, /* hex: base64 of six bytes */
        {HEADER("crc32"), "-"},
        {HEADER("crc32"), "y/Q5Jg==-"},
        {HEADER("crc32"), "y/Q5Jg==-x"},
        {HEADER("crc32"), "y/Q5Jg==-1x"},
        {HEADER("crc32"), "y/Q5Jg==\xc3\xa9"},
        {HEADER("crc64nvme"), "y/Q5Jg=="},
        {HEADER("sha1"), "rosUhgp5mIg="},
        {HEADER("sha256"), "98O8HYCOBHMqfZ9Wg2RS9WaCWM0="},
        {HEADER("sha256"), "FeKw08M4kSzI2oNNZNPVbvBFJz0oeVhTWMCAs3EFqJgA"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct bh_error err = {0};
        struct bh_checksum *c = (struct bh_checksum *)&err;
        int rc = bh_checksum_begin(&c, cases[i].header, cases[i].value, &err);
        if (rc != EIO || err.code != EIO || c || !strstr(err.text, cases[i].header))
            fail_msg("%s '%s': %d, '%s'", cases[i].header, cases[i].value, rc, err.text);
    }
}

static void nothing_to_check(void **state)
{
    static const struct {
        const char *header, *value;
    } cases[] = {
        {HEADER("crc32"), "y/Q5Jg==-1"},
        {HEADER("crc64nvme"), "rosUhgp5mIg=-10000"},
        {HEADER("sha256"), "FeKw08M4kSzI2oNNZNPVbvBFJz0oeVhTWMCAs3EFqJg=-3"},
        {HEADER("sha256"), "whatever-3"},
        {HEADER("type"), "FULL_OBJECT"},
        {HEADER("md5"), "y/Q5Jg=="},
        {HEADER("crc32cc"), "y/Q5Jg=="},
        {HEADER("crc"), "y/Q5Jg=="},
        {HEADER(""), "y/Q5Jg=="},
        {"x-amz-meta-x-amz-checksum-crc32", "y/Q5Jg=="},
        {"etag", "\"d41d8cd98f00b204e9800998ecf8427e\""},
        {"", ""},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct bh_error err = {0};
        struct bh_checksum *c = (struct bh_checksum *)&err;
        assert_int_equal(bh_checksum_begin(&c, cases[i].header, cases[i].value, &err), 0);
        assert_null(c);
    }
    bh_checksum_free(NULL);
}

/* RFC 4648, section 10. */
static void base64(void **state)
{
    static const char *const cases[][2] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="},
        {"foobar", "Zm9vYmFy"},
        {"\xfb\xff\xbf", "+/+/"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char out[16];
        size_t len = strlen(cases[i][0]);
        memset(out, 'x', sizeof out);
        bh_base64(cases[i][0], len, out);
        assert_string_equal(out, cases[i][1]);
        assert_int_equal(out[4 * ((len + 2) / 3) + 1], 'x');
    }
}

/* RFC 1321, A.5. */
static void md5(void **state)
{
    struct bh_error err = {0};
    char out[25];
    (void)state;
    assert_int_equal(bh_md5_base64("abc", 3, out, &err), 0);
    assert_string_equal(out, "kAFQmDzST7DWlj99KOF/cg==");
    assert_int_equal(bh_md5_base64("", 0, out, &err), 0);
    assert_string_equal(out, "1B2M2Y8AsgTpgAmY7PhCfg==");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values),
        cmocka_unit_test(every_length),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(malformed_values),
        cmocka_unit_test(nothing_to_check),
        cmocka_unit_test(base64),
        cmocka_unit_test(md5),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
