/* Listings: long ones, and such as go wrong. What a listing hands over is in order, below the
 * prefix, and complete when it ends in success. */
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

static struct bh_bucket *b;

static int setup(void **state)
{
    if (bad_fresh(state))
        return -1;
    b = bad_open(NULL);
    return 0;
}

static int teardown(void **state)
{
    bad_close(b);
    return 0;
}

/* --- many keys --- */

struct count {
    const char *prefix;
    unsigned next; /* number that the next key must have */
    unsigned step;
    unsigned prefixes;
};

static int count_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                     struct bh_error *err)
{
    struct count *c = arg;
    char expected[64];
    snprintf(expected, sizeof expected, "%s%07u", c->prefix, c->next);
    if (is_prefix || strcmp(key, expected) != 0)
        return bh_fail(err, EBADMSG, "%s came, not %s", key, expected);
    if (info->size != 0 || strcmp(info->etag, "d41d8cd98f00b204e9800998ecf8427e") != 0 ||
        info->mtime_ms < 1500000000000)
        return bh_fail(err, EBADMSG, "%s has size, ETag or time wrong", key);
    c->next++;
    return 0;
}

static void a_hundred_thousand_keys(void **state)
{
    struct count c = {.prefix = "many/"};
    struct bh_list_request req = {.prefix = "many/"};
    bad_fill("few/", 3);
    bad_fill("many/", 100000);
    bad_fill("more/", 3);
    size_t before = peak_memory();
    must(bh_bucket_list(b, &req, count_key, &c, NULL, ERR));
    assert_int_equal(c.next, 100000);
    assert_int_equal(bad_count("list"), 100);
    assert_true(peak_memory() - before < 16 * MIB);
    c = (struct count){.prefix = "many/", .next = 12346};
    req = (struct bh_list_request){.prefix = "many/", .start_after = "many/0012345", .max = 2500};
    must(bh_bucket_list(b, &req, count_key, &c, NULL, ERR));
    assert_int_equal(c.next, 12346 + 2500);
    assert_string_equal(listing(b, "", "/", NULL, 0), "*few/\n*many/\n*more/\n");
    assert_string_equal(listing(b, "many/00999", "/", "many/0099997", 0),
                        "many/0099998\nmany/0099999\n");
}

static int count_prefix(void *arg, const char *key, bool is_prefix,
                        const struct bh_object_info *info, struct bh_error *err)
{
    struct count *c = arg;
    char expected[64];
    snprintf(expected, sizeof expected, "%s%05u/", c->prefix, c->next);
    if (!is_prefix || strcmp(key, expected) != 0)
        return bh_fail(err, EBADMSG, "%s came, not the prefix %s", key, expected);
    c->next++;
    return 0;
}

static void many_prefixes(void **state)
{
    enum { COUNT = 3000 };
    struct count c = {.prefix = "p"};
    const struct bh_list_request req = {.prefix = "", .delimiter = "/"};
    for (unsigned i = 0; i < COUNT; i += 100) { /* 100 prefixes of 2 keys each at a time */
        for (unsigned j = i; j < i + 100; j++) {
            char prefix[32];
            snprintf(prefix, sizeof prefix, "p%05u/", j);
            bad_fill(prefix, 2);
        }
    }
    must(bh_bucket_list(b, &req, count_prefix, &c, NULL, ERR));
    assert_int_equal(c.next, COUNT);
    assert_int_equal(bad_count("list"), 3);
}

static void pages_of_every_size(void **state)
{
    static const char all[] = "a\nb/1\nb/2\nb/3\nc\nd/1\nd/2\ne\n";
    static const char *const keys[] = {"a", "b/1", "b/2", "b/3", "c", "d/1", "d/2", "e"};
    for (size_t i = 0; i < 8; i++)
        must_put(b, keys[i], "");
    for (int page = 1; page <= 9; page++) {
        bad_set("page=%d", page);
        assert_string_equal(listing(b, "", NULL, NULL, 0), all);
        assert_string_equal(listing(b, "", "/", NULL, 0), "a\n*b/\nc\n*d/\ne\n");
        assert_string_equal(listing(b, "", "/", "b/2", 0), "c\n*d/\ne\n");
        assert_string_equal(listing(b, "", "/", "b/", 0), "c\n*d/\ne\n");
        assert_string_equal(listing(b, "", "/", "b0", 0), "c\n*d/\ne\n");
        assert_string_equal(listing(b, "b/", "/", NULL, 2), "b/1\nb/2\n");
        assert_string_equal(listing(b, "", NULL, "b/2", 3), "b/3\nc\nd/1\n");
        for (size_t max = 1; max <= 8; max++) {
            const char *end = all;
            for (size_t i = 0; i < max; i++)
                end = strchr(end, '\n') + 1;
            assert_int_equal(strlen(listing(b, "", NULL, NULL, max)), end - all);
        }
    }
}

/* As stores answer that encode keys, and as those that ignore encoding-type. */
static void awkward_keys_are_listed(void **state)
{
    static const char *const keys[] = {
        " space ",
        "!'()*",
        "%41",
        "&amp;",
        "+plus+plus",
        "../up",
        "./dot",
        "//",
        "<Key>a</Key>",
        "a//b",
        "a?b=c&d#e",
        "cr\rlf\nend",
        "q\"uo\\",
        "\xc3\xa4\xe2\x82\xac",
        "\xf0\x9f\x98\x80",
    };
    enum { COUNT = sizeof keys / sizeof keys[0] };
    BH_STRBUF expected = {0};
    for (size_t i = 0; i < COUNT; i++) {
        must_put(b, keys[i], keys[i]);
        must_have(b, keys[i], keys[i]);
        bh_strbuf_addf(&expected, "%s\n", keys[i]);
    }
    for (int plain = 0; plain < 2; plain++)
        for (int page = 1; page <= 1000; page += 999) {
            bad_set("page=%d\nquirks=%s", page, plain ? "list_plain" : "");
            assert_string_equal(listing(b, "", NULL, NULL, 0), expected.data);
            assert_string_equal(listing(b, "+", NULL, NULL, 0), "+plus+plus\n");
            assert_string_equal(listing(b, "%4", NULL, NULL, 0), "%41\n");
            assert_string_equal(listing(b, "a", "/", NULL, 0), "*a/\na?b=c&d#e\n");
            assert_string_equal(listing(b, "cr\r", NULL, NULL, 0), "cr\rlf\nend\n");
        }
    /* which XML cannot say but with encoding-type */
    bad_set("page=1000\nquirks=");
    must_put(b, "\x01\x02", "control");
    assert_string_equal(listing(b, "\x01", NULL, NULL, 0), "\x01\x02\n");
    must(bh_bucket_delete(b, "\x01\x02", NULL, ERR));
}

/* --- wrong answers --- */

struct collected {
    char last[BH_KEY_MAX + 1];
    size_t count;
};

static int collect(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                   struct bh_error *err)
{
    struct collected *c = arg;
    assert_true(strncmp(key, "x/", 2) == 0);
    assert_true(strcmp(key, c->last) > 0);
    snprintf(c->last, sizeof c->last, "%s", key);
    c->count++;
    return 0;
}

struct wrong {
    const char *rule;
    int code;
    const char *parts;
};

#define PAGE(inner) "do=reply status=200 body='<ListBucketResult>" inner "</ListBucketResult>'"

static const struct wrong wrong_pages[] = {
    {"do=reset times=2", EIO, "127.0.0.1"},
    {"do=stall", ETIMEDOUT, "127.0.0.1"},
    {"do=cut", EIO, "127.0.0.1"},
    {"do=stall_answer", ETIMEDOUT, "127.0.0.1"},
    {"do=nolength at=300", EIO, ""},
    {"do=chunked at=300", EIO, "127.0.0.1"},
    {"do=endless", EIO, "bytes"},
    {"do=endless_chunked", EIO, "bytes"},
    {"do=html", EIO, ""},
    {"do=error200", EIO, "InternalError"},
    {"do=error200 code=AccessDenied", EACCES, "AccessDenied"},
    {"do=reply", EAGAIN, "SlowDown"},
    {"do=html status=404", EIO, "404"},
    {"do=reply status=404 code=NoSuchBucket", ENODEV, "bucket b"},
    {"do=reply status=403 code=AccessDenied", EACCES, "AccessDenied"},
    {"do=reply status=200 body=''", EIO, ""},
    {"do=reply status=200 body='no xml'", EIO, ""},
    {"do=reply status=200 body='<ListBucketResult>'", EIO, ""},
    {"do=reply status=200 body='<ListAllMyBucketsResult/>'", EIO, ""},
    {"do=reply status=200 body='<a><ListBucketResult></ListBucketResult></a>'", EIO, ""},
    {PAGE("<IsTruncated>true</IsTruncated>"), EIO, "goes on"},
    {PAGE("<IsTruncated>maybe</IsTruncated>"), EIO, ""},
    {PAGE(""), EIO, ""}, /* whether that is all is not said */
    {PAGE("<IsTruncated>false</IsTruncated><Contents><Size>1</Size></Contents>"), EIO, ""},
    {PAGE("<IsTruncated>false</IsTruncated><Contents><Key>x/a</Key></Contents>"), EIO, ""},
    {PAGE("<IsTruncated>false</IsTruncated><Contents><Key>x/a</Key><Size>1x</Size></Contents>"),
     EIO, ""},
    {PAGE("<IsTruncated>false</IsTruncated><EncodingType>url</EncodingType><Contents><Key>x/%</Key>"
          "<Size>1</Size></Contents>"),
     EIO, ""},
    {PAGE("<IsTruncated>false</IsTruncated><EncodingType>url</EncodingType><Contents>"
          "<Key>x/%00b</Key><Size>1</Size></Contents>"),
     EIO, ""},
    {"do=list kind=same_token", EIO, ""},
    {"do=list kind=repeat", EIO, "x/"},
    {"do=list kind=empty", EIO, ""},
    {"do=list kind=no_token", EIO, "goes on"},
    {"do=list kind=foreign", EIO, "zzz-outside"},
    {"do=list kind=long_key", EIO, ""},
    {"do=list kind=bad_size", EIO, ""},
    {"do=list kind=entities", EIO, ""},
    {"do=list kind=deep", EIO, ""},
};

static void wrong_pages_are_errors(void **state)
{
    unsigned failures = 0;
    const struct bh_list_request req = {.prefix = "x/"};
    bad_fill("x/", 50);
    for (size_t i = 0; i < sizeof wrong_pages / sizeof wrong_pages[0]; i++)
        for (int second = 0; second < 2; second++) { /* the first page, or the second */
            const struct wrong *w = &wrong_pages[i];
            struct collected c = {.count = 0};
            size_t before = peak_memory();
            bad_no_rules();
            bad_set("page=%d", second ? 20 : 1000);
            bad_rule("op=list nth=%d %s%s", second ? 2 : 1, w->rule,
                     strstr(w->rule, "times") ? "" : " times=0");
            clock_start();
            int rc = bh_bucket_list(b, &req, collect, &c, NULL, ERR);
            failures += !says(w->rule, rc, w->code, w->parts);
            clock_within(3000);
            assert_true(peak_memory() - before < 64 * MIB);
            assert_true(c.count <= 70);
        }
    assert_int_equal(failures, 0);
    bad_no_rules();
    struct collected c = {.count = 0};
    must(bh_bucket_list(b, &req, collect, &c, NULL, ERR));
    assert_int_equal(c.count, 50);
}

/* Disorder within a page, where the store does not go on, is put right or an error. */
static void disorder_in_a_page(void **state)
{
    static const char *const kinds[] = {"unordered", "duplicate"};
    const struct bh_list_request req = {.prefix = "x/"};
    bad_fill("x/", 50);
    for (int i = 0; i < 2; i++) {
        struct collected c = {.count = 0};
        bad_no_rules();
        bad_rule("op=list do=list kind=%s", kinds[i]);
        if (bh_bucket_list(b, &req, collect, &c, NULL, ERR) == 0)
            assert_int_equal(c.count, 50);
        bad_set("page=20");
        bad_rule("op=list nth=2 do=list kind=%s", kinds[i]);
        c = (struct collected){.count = 0};
        if (bh_bucket_list(b, &req, collect, &c, NULL, ERR) == 0)
            assert_int_equal(c.count, 40);
        bad_set("page=1000");
    }
}

/* A page may have more than was asked for; it is bounded by its bytes. */
static void a_huge_page(void **state)
{
    const struct bh_list_request req = {.prefix = "x/"};
    struct collected c = {.count = 0};
    bad_rule("op=list do=list kind=huge");
    int rc = bh_bucket_list(b, &req, collect, &c, NULL, ERR);
    if (rc == 0)
        assert_int_equal(c.count, 50000);
    else if (rc != ETIMEDOUT) /* the server may need longer than the test's second to write it */
        must_say(rc, EIO, "");
}

static void odd_pages_are_right(void **state)
{
    static const char *const rules[] = {"do=chunked",  "do=drip every=0.0001",
                                        "do=nolength", "do=close_after",
                                        "do=long",     "set=content-type:text/html"};
    bad_fill("x/", 20);
    bad_set("page=7");
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        const struct bh_list_request req = {.prefix = "x/"};
        struct collected c = {.count = 0};
        bad_no_rules();
        bad_rule("op=list times=0 %s", rules[i]);
        int rc = bh_bucket_list(b, &req, collect, &c, NULL, ERR);
        if (rc)
            fail_msg("%s: %s", rules[i], test_error.text);
        assert_int_equal(c.count, 20);
    }
}

static int refuse_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                      struct bh_error *err)
{
    return bh_fail(err, ENOTDIR, "no more keys wanted");
}

static void the_callers_word_is_the_last(void **state)
{
    const struct bh_list_request req = {.prefix = ""};
    struct bh_call call = {.deadline_ms = bh_mono_ms() + 500};
    struct collected c = {.count = 0};
    bad_fill("x/", 20);
    must_say(bh_bucket_list(b, &req, refuse_key, NULL, NULL, ERR), ENOTDIR, "no more keys");
    bad_set("page=1");
    bad_rule("op=list times=0 do=stall seconds=0.1");
    clock_start();
    must_say(bh_bucket_list(b, &(struct bh_list_request){.prefix = "x/"}, collect, &c, &call, ERR),
             ETIMEDOUT, "");
    clock_within(800);
    assert_true(c.count > 0 && c.count < 20);
}

/* --- unfinished uploads --- */

static int count_upload(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                        struct bh_error *err)
{
    size_t *count = arg;
    assert_true(started_ms > 1500000000000 && *upload_id);
    ++*count;
    return 0;
}

static void uploads_in_pages(void **state)
{
    static const char *const keys[] = {"a", "a", "a", "b+ %41", "c/\xc3\xa4", "z"};
    char id[BH_UPLOAD_ID_MAX];
    size_t count;
    for (size_t i = 0; i < 6; i++)
        must(bh_bucket_mp_begin(b, keys[i], NULL, id, NULL, ERR));
    for (int page = 1; page <= 7; page++) {
        bad_set("page=%d\nquirks=%s", page, page % 2 ? "list_plain" : "");
        count = 0;
        must(bh_bucket_mp_list(b, "", count_upload, &count, NULL, ERR));
        assert_int_equal(count, 6);
        count = 0;
        must(bh_bucket_mp_list(b, "b+ %4", count_upload, &count, NULL, ERR));
        assert_int_equal(count, 1);
    }
}

#define UPLOADS(inner)                                                                             \
    "do=reply status=200 body='<ListMultipartUploadsResult>" inner "</"                            \
    "ListMultipartUploadsResult>'"
#define MORE "<IsTruncated>true</IsTruncated>"

static void wrong_upload_pages_are_errors(void **state)
{
    static const struct wrong cases[] = {
        {UPLOADS(MORE), EIO, "goes on"},
        {UPLOADS(MORE "<NextKeyMarker>a</NextKeyMarker>"), EIO, ""},
        {UPLOADS(MORE "<NextKeyMarker>a</NextKeyMarker>"
                      "<NextUploadIdMarker>{n}</NextUploadIdMarker>"),
         EIO, ""},
        {UPLOADS(MORE "<NextKeyMarker>{n}</NextKeyMarker>"), EIO, ""},
        {UPLOADS("<IsTruncated>false</IsTruncated><Upload><Key>k</Key></Upload>"), EIO, ""},
        {"do=html", EIO, ""},
        {"do=cut", EIO, "127.0.0.1"},
        {"do=endless", EIO, "bytes"},
        {"do=reply", EAGAIN, "SlowDown"},
        {"do=reply status=501 code=NotImplemented", ENOTSUP, ""},
    };
    unsigned failures = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bh_call call = {.deadline_ms = bh_mono_ms() + 20000};
        size_t count = 0;
        bad_no_rules();
        bad_rule("op=uploads times=0 %s", cases[i].rule);
        clock_start();
        int rc = bh_bucket_mp_list(b, "", count_upload, &count, &call, ERR);
        failures += !says(cases[i].rule, rc, cases[i].code, cases[i].parts);
        clock_within(3000);
    }
    assert_int_equal(failures, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_hundred_thousand_keys),
        TEST(many_prefixes),
        TEST(pages_of_every_size),
        TEST(awkward_keys_are_listed),
        TEST(wrong_pages_are_errors),
        TEST(disorder_in_a_page),
        TEST(a_huge_page),
        TEST(odd_pages_are_right),
        TEST(the_callers_word_is_the_last),
        TEST(uploads_in_pages),
        TEST(wrong_upload_pages_are_errors),
    };
    return cmocka_run_group_tests_name("S3, badly listed", tests, bad_start, bad_stop);
}
