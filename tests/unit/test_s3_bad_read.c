/* Reading through the S3 backend from a server that misbehaves: what reaches the sink and ends in
 * success is the object, and nothing else. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bad_server.h"
#include "bucket_helpers.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define BODY_BYTES 20000

static struct bh_bucket *b;
static char content[BODY_BYTES + 1];

static int setup(void **state)
{
    for (size_t i = 0; i < BODY_BYTES; i++)
        content[i] = (char)('a' + i % 26 - (i % 7 == 0 ? 32 : 0));
    if (bad_fresh(state))
        return -1;
    b = bad_open(NULL);
    must_put(b, "k", content);
    return 0;
}

static int teardown(void **state)
{
    bad_close(b);
    return 0;
}

static int get(uint64_t offset, uint64_t length, struct got *g)
{
    struct bh_object_info info;
    *g = (struct got){0};
    return bh_bucket_get(b, "k", offset, length, got_take, g, &info, NULL, ERR);
}

/* Every byte that came, whatever the end, must be the object's; success means all of them. */
static void check_got(int rc, const struct got *g, uint64_t offset, uint64_t length, bool damaged)
{
    if (g->len > length)
        fail_msg("%zu bytes came, %llu were wanted", g->len, (unsigned long long)length);
    if (!damaged && g->len > 0 && memcmp(g->data, content + offset, g->len) != 0)
        fail_msg("what reached the sink is not the object's: %.60s", g->data);
    if (rc == 0 && (g->len != length || memcmp(g->data, content + offset, length) != 0))
        fail_msg("success without the content");
}

struct wrong {
    const char *rule;
    int code;
    const char *parts;
};

/* Answers to a get of the whole object. */
static const struct wrong wrong_answers[] = {
    {"do=reset", EIO, "k|127.0.0.1"},
    {"do=stall", ETIMEDOUT, "k|127.0.0.1"},
    {"do=stall_answer", ETIMEDOUT, "k|127.0.0.1"},
    {"do=stall_headers", ETIMEDOUT, "k|127.0.0.1"},
    {"do=cut", EIO, "k|127.0.0.1|cut"},
    {"do=cut at=0", EIO, "k|127.0.0.1|cut"},
    {"do=cut at=19999", EIO, "k|127.0.0.1|cut"},
    {"do=reset_answer", EIO, "k|127.0.0.1|cut"},
    {"do=nolength", EIO, "k|size/length"},
    {"do=nolength at=10000", EIO, "k|size/length"},
    {"do=chunked", EIO, "k|size/length"},
    {"do=chunked at=10000", EIO, "k|size/length"},
    {"do=endless", EIO, "k|size/length"},
    {"do=endless_chunked", EIO, "k|size/length"},
    {"do=endless set=content-length:20000", 0, ""},
    {"set=content-length:30000", ETIMEDOUT, "k"},
    {"set=content-length:30000 do=close_after", EIO, "k|cut"},
    {"set=content-length:99999999999999999999", EIO, "k|ontent-Length"},
    {"set=content-length:-1", EIO, "k|ontent-Length"},
    {"drop=etag", EIO, "k|ETag|endpoint_url"},
    {"set=etag:", EIO, "k|ETag"},
    {"set='etag:\"\"'", EIO, "k|ETag"},
    {"set='etag:\"with\"in\"'", EIO, "k|ETag"},
    {"do=html", EIO, "k|ETag|endpoint_url"},
    {"do=html set=content-encoding:gzip", EIO, "k"},
    {"do=error200", EIO, "k"},
    {"do=raw bytes='HTTP/1.1 200 OK\\r\\nETag: \"e\"\\r\\nContent-Length: 5\\r\\n"
     "Transfer-Encoding: chunked\\r\\n\\r\\n3\\r\\nabc\\r\\n0\\r\\n\\r\\n'",
     EIO, "k"},
    {"status=204", EIO, "k"},
    {"status=206", EIO, "k"},
    {"status=206 set='content-range:bytes 0-19998/19999'", EIO, "k"},
    {"status=203", EIO, "k|203"},
    {"do=reply status=304 body=''", EIO, "k|304"},
    {"do=gzip drop=etag set='etag:W/\"abc\"'", EIO, "k"},
    {"set=x-amz-checksum-sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", EIO, "k|damaged"},
    {"set=x-amz-checksum-crc32:AAAAAA==", EIO, "k|damaged"},
    {"set=x-amz-checksum-crc32c:AAAAAA==", EIO, "k|damaged"},
    {"set=x-amz-checksum-crc64nvme:AAAAAAAAAAA=", EIO, "k|damaged"},
    {"set=x-amz-checksum-sha1:AAAAAAAAAAAAAAAAAAAAAAAAAAA=", EIO, "k|damaged"},
    {"set=x-amz-checksum-sha256:nonsense", EIO, "k"},
    {"do=endless_headers", EIO, "k|headers"},
    {"do=big_header", EIO, "k"},
    {"do=raw bytes='it works'", EIO, "k|HTTP"},
};

/* Answers to anything that is no success. */
static const struct wrong refusals[] = {
    {"status=500 code=InternalError message='Try again.'", EIO, "k|InternalError|Try again."},
    {"do=html status=500", EIO, "k|500"},
    {"do=html status=502", EIO, "k|502"},
    {"code=SlowDown", EAGAIN, "k|SlowDown"},
    {"code=ServiceUnavailable", EAGAIN, "k|ServiceUnavailable"},
    {"do=html status=503", EAGAIN, "k|503"},
    {"status=429 code=TooManyRequests", EAGAIN, "k|TooManyRequests"},
    {"do=html status=429", EAGAIN, "k|429"},
    {"do=html status=504", ETIMEDOUT, "k|504"},
    {"status=400 code=RequestTimeout", ETIMEDOUT, "k|RequestTimeout"},
    {"status=403 code=AccessDenied message='Access Denied'", EACCES, "k|Access Denied"},
    {"status=403 code=InvalidAccessKeyId", EACCES, "k|access_key_id"},
    {"status=403 code=SignatureDoesNotMatch", EACCES, "k|secret"},
    {"status=400 code=ExpiredToken", EACCES, "k|expired"},
    {"status=403 code=InvalidObjectState", EACCES, "k|archived"},
    {"do=html status=403", EACCES, "k|403"},
    {"do=html status=401", EACCES, "k|401"},
    {"do=html status=407", EACCES, "k|proxy"},
    {"status=404 code=NoSuchKey message=no", ENOENT, "k"},
    {"status=404 code=NoSuchBucket message=no", ENODEV, "bucket b|bucket.create/name"},
    {"do=html status=404", EIO, "k|404|endpoint_url"},
    {"do=html status=400", EINVAL, "k|400"},
    {"status=501 code=NotImplemented", ENOTSUP, "k"},
    {"do=html status=302", EACCES, "k|redirect"},
    {"do=html status=999", EIO, "k|999"},
    {"status=507 code=XMinioStorageFull", ENOSPC, "k"},
    {"status=500 body='<Error><Code>InternalError'", EIO, "k|500"},
    {"status=500 body='<Error><Code>A&lt;B</Code><Message>line\\nbreak \\x01</Message></Error>'",
     EIO, "k|500"},
    {"status=500 do=reply body=''", EIO, "k|500"},
};

static void wrong_answers_are_errors(void **state)
{
    unsigned failures = 0;
    for (size_t i = 0; i < sizeof wrong_answers / sizeof wrong_answers[0]; i++) {
        const struct wrong *c = &wrong_answers[i];
        struct got g;
        size_t before = peak_memory();
        bad_no_rules();
        bad_rule("op=get times=2 %s", c->rule);
        clock_start();
        int rc = get(0, UINT64_MAX, &g);
        failures += !says(c->rule, rc, c->code, c->parts);
        check_got(rc, &g, 0, BODY_BYTES, strstr(c->rule, "corrupt") || strstr(c->rule, "raw"));
        clock_within(1800);
        assert_true(peak_memory() - before < 16 * MIB);
        got_free(&g);
        bad_no_rules();
        must_have(b, "k", content);
    }
    assert_int_equal(failures, 0);
}

static void refusals_are_named(void **state)
{
    unsigned failures = 0;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct wrong *c = &refusals[i];
        const char *how = strstr(c->rule, "do=") ? "" : "do=reply";
        struct got g;
        struct bh_object_info info;
        bad_no_rules();
        bad_rule("op=get|head times=0 %s %s", how, c->rule);
        int rc = get(0, UINT64_MAX, &g);
        failures += !says(c->rule, rc, c->code, c->parts);
        assert_int_equal(g.len, 0);
        rc = get(5, 10, &g);
        failures += !says(c->rule, rc, c->code, c->parts);
        assert_int_equal(g.len, 0);
        rc = bh_bucket_head(b, "k", &info, NULL, ERR);
        failures += !says(c->rule, rc, c->code, "k/bucket b");
    }
    assert_int_equal(failures, 0);
}

/* Answers to a get of the bytes 100 to 199. */
static void wrong_ranges_are_errors(void **state)
{
    unsigned failures = 0;
    static const struct wrong cases[] = {
        {"status=200", EIO, "k|part"},
        {"drop=content-range", EIO, "k|part"},
        {"set='content-range:bytes 0-99/20000'", EIO, "k|bytes"},
        {"set='content-range:bytes 101-200/20000'", EIO, "k|bytes"},
        {"set='content-range:bytes 100-199/150'", EIO, "k|bytes"},
        {"set='content-range:bytes 100-198/20000'", EIO, "k|bytes"},
        {"set='content-range:bytes 100-299/20000'", EIO, "k|bytes"},
        {"set='content-range:bytes 100-199/*'", EIO, "k"},
        {"set='content-range:bytes 199-100/20000'", EIO, "k"},
        {"set='content-range:bytes 100-18446744073709551615/18446744073709551615'", EIO, "k"},
        {"set=content-range:nonsense", EIO, "k"},
        {"do=cut", EIO, "k|cut"},
        {"do=reset_answer", EIO, "k|cut"},
        {"do=chunked", EIO, "k"},
        {"do=nolength at=50", EIO, "k"},
        {"set=content-length:101 do=close_after", EIO, "k"},
        {"set=content-length:99", EIO, "k"},
        {"drop=etag", EIO, "k|ETag"},
        {"do=html", EIO, "k"},
        {"do=html status=206", EIO, "k"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct got g;
        bad_no_rules();
        bad_rule("op=get times=2 %s", cases[i].rule);
        clock_start();
        int rc = get(100, 100, &g);
        failures += !says(cases[i].rule, rc, cases[i].code, cases[i].parts);
        check_got(rc, &g, 100, 100, false);
        clock_within(900);
        got_free(&g);
    }
    assert_int_equal(failures, 0);
    bad_no_rules();
    /* the whole object for a part of it: the server ignores Range */
    struct got g;
    bad_set("quirks=range_ignored");
    must_say(get(0, 100, &g), EIO, "k|part");
    assert_int_equal(g.len, 0);
    must_say(get(100, 100, &g), EIO, "k|part");
    assert_int_equal(g.len, 0);
    must(get(0, BODY_BYTES + 5, &g));
    check_got(0, &g, 0, BODY_BYTES, false);
    got_free(&g);
}

static void odd_answers_are_right(void **state)
{
    static const char *const rules[] = {
        "do=drip at=19000 every=0.0001",
        "do=close_after",
        "do=long",
        "do=stall seconds=0.6",
        "do=flood100 count=30",
        "set='etag:W/\"abcdef\"'",
        "set=etag:abcdef",
        "set=x-amz-checksum-sha256:nonsense-2",
        "set=x-amz-checksum-sha512:AAAA",
        "set=content-encoding:aws-chunked",
        "set=content-type:text/html",
        "drop=date drop=last-modified",
        "set=last-modified:yesterday",
        "set=x-amz-meta-odd:\xc3\xa4\xff",
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        struct got g;
        bad_no_rules();
        bad_rule("op=get times=0 %s", rules[i]);
        int rc = get(0, UINT64_MAX, &g);
        if (rc)
            fail_msg("%s: %s", rules[i], test_error.text);
        check_got(rc, &g, 0, BODY_BYTES, false);
        got_free(&g);
        if (strstr(rules[i], "checksum"))
            continue;
        must(get(100, 100, &g));
        check_got(0, &g, 100, 100, false);
        got_free(&g);
    }
    bad_no_rules();
    /* the whole object's checksum with a part of it says nothing about the part */
    bad_set("checksum=sha256,crc32,sha1");
    struct got g;
    must(get(100, 100, &g));
    check_got(0, &g, 100, 100, false);
    got_free(&g);
    must(get(0, UINT64_MAX, &g));
    check_got(0, &g, 0, BODY_BYTES, false);
    got_free(&g);
    bad_rule("op=get do=corrupt");
    must_say(get(0, UINT64_MAX, &g), EIO, "k|damaged");
    got_free(&g);
}

static void head_meets_nonsense(void **state)
{
    unsigned failures = 0;
    static const struct wrong cases[] = {
        {"do=html", EIO, "k|ETag"},
        {"drop=etag", EIO, "k|ETag"},
        {"set=content-length:x", EIO, "k|ontent-Length"},
        {"set=content-length:-3", EIO, "k|ontent-Length"},
        {"do=raw bytes='HTTP/1.1 200 OK\\r\\nETag: \"e\"\\r\\n\\r\\n'", EIO, "k|size/length"},
        {"do=cut_headers", EIO, "k|cut/end of"},
        {"do=stall", ETIMEDOUT, "k|127.0.0.1"},
        {"do=endless_line", EIO, "k"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bh_object_info info;
        bad_no_rules();
        bad_rule("op=head times=2 %s", cases[i].rule);
        int rc = bh_bucket_head(b, "k", &info, NULL, ERR);
        failures += !says(cases[i].rule, rc, cases[i].code, cases[i].parts);
    }
    assert_int_equal(failures, 0);
    /* a body where none may be does not become the next answer */
    bad_no_rules();
    bad_rule("op=head do=long times=0");
    for (int i = 0; i < 3; i++) {
        struct bh_object_info info;
        must(bh_bucket_head(b, "k", &info, NULL, ERR));
        assert_int_equal(info.size, BODY_BYTES);
        must_have(b, "k", content);
    }
    /* "not there" is believed only of a store */
    bad_no_rules();
    bad_rule("op=head|get|list times=0 do=html status=404");
    must_say(bh_bucket_head(b, "k", NULL, NULL, ERR), EIO, "404");
    bad_no_rules();
    must_fail(bh_bucket_head(b, "other", NULL, NULL, ERR), ENOENT);
}

static void a_drip_has_an_end(void **state)
{
    struct got g;
    struct bh_call call = {.deadline_ms = bh_mono_ms() + 1500};
    struct bh_object_info info;
    bad_rule("op=get do=drip every=0.2");
    clock_start();
    g = (struct got){0};
    int rc = bh_bucket_get(b, "k", 0, UINT64_MAX, got_take, &g, &info, &call, ERR);
    must_say(rc, ETIMEDOUT, "k");
    check_got(rc, &g, 0, BODY_BYTES, false);
    clock_within(2200);
    got_free(&g);
}

static int refuse_bytes(void *arg, const void *data, size_t len, struct bh_error *err)
{
    return bh_fail(err, ENOTDIR, "the sink has enough");
}

static void the_sink_has_the_last_word(void **state)
{
    must_say(bh_bucket_get(b, "k", 0, UINT64_MAX, refuse_bytes, NULL, NULL, NULL, ERR), ENOTDIR,
             "the sink has enough");
    must_have(b, "k", content);
    bad_rule("op=get do=endless set=content-length:1000000000000");
    clock_start();
    must_say(bh_bucket_get(b, "k", 0, UINT64_MAX, refuse_bytes, NULL, NULL, NULL, ERR), ENOTDIR,
             "the sink has enough");
    clock_within(500);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(wrong_answers_are_errors),   TEST(refusals_are_named),  TEST(wrong_ranges_are_errors),
        TEST(odd_answers_are_right),      TEST(head_meets_nonsense), TEST(a_drip_has_an_end),
        TEST(the_sink_has_the_last_word),
    };
    return cmocka_run_group_tests_name("S3, badly read", tests, bad_start, bad_stop);
}
