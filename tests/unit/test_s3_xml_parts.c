/* <Error>, the XML that is sent, and the values that are in headers, too. */
#include <stdio.h>
#include <time.h>

#include "s3_xml_fixture.h"
#include "util/cleanup.h"
#include "util/clock.h"

/* --- <Error> --- */

static bool read_error(const char *body, size_t len, struct bh_s3_error *e)
{
    char *bytes = malloc(len ? len : 1);
    assert_non_null(bytes);
    memcpy(bytes, body, len);
    memset(e, 'x', sizeof *e);
    bool found = bh_xml_error(bytes, len, e);
    free(bytes);
    if (!found)
        assert_true(!*e->code && !*e->message && !*e->region && !*e->endpoint && !*e->request_id &&
                    !*e->server_time);
    return found;
}

static void errors(void **state)
{
    struct bh_s3_error e;
    assert_true(read_error(error_aws, strlen(error_aws), &e));
    assert_string_equal(e.code, "AuthorizationHeaderMalformed");
    assert_string_equal(e.message, "The authorization header is malformed; the region 'us-east-1' "
                                   "is wrong; expecting 'eu-central-1'");
    assert_string_equal(e.region, "eu-central-1");
    assert_string_equal(e.request_id, "D6B6E0ED6F2C2A8E");
    assert_string_equal(e.endpoint, "");
    assert_true(read_error(error_moved, strlen(error_moved), &e));
    assert_string_equal(e.code, "PermanentRedirect");
    assert_string_equal(e.endpoint, "bkt.s3-eu-west-1.amazonaws.com");
    assert_true(read_error(error_skewed, strlen(error_skewed), &e));
    assert_string_equal(e.server_time, "2026-11-23T06:34:19Z");
    assert_int_equal(bh_parse_iso_time(e.server_time), INT64_C(1795415659000));
    assert_true(read_error(error_ceph, strlen(error_ceph), &e));
    assert_string_equal(e.code, "NoSuchBucket");
    assert_string_equal(e.message, "");
    assert_string_equal(e.request_id, "tx000006db76b7f1308c87e-006b03de56-100d-default");
}

static void cut_errors(void **state)
{
    size_t root = (size_t)(strstr(error_aws, "<Error>") - error_aws) + strlen("<Error>");
    size_t code = (size_t)(strstr(error_aws, "</Code>") - error_aws) + strlen("</Code>");
    for (size_t len = 0; len <= strlen(error_aws); len++) {
        struct bh_s3_error e;
        assert_int_equal(read_error(error_aws, len, &e), len >= root);
        assert_string_equal(e.code, len >= code ? "AuthorizationHeaderMalformed" : "");
    }
}

static void no_errors(void **state)
{
    static const char *const bodies[] = {
        "",
        " ",
        "x",
        "<html><body>Error</body></html>",
        "<!DOCTYPE html><html></html>",
        "<!DOCTYPE Error><Error><Code>x</Code></Error>",
        "<Errors><Error><Code>x</Code></Error></Errors>",
        "<ErrorResponse><Error><Code>x</Code></Error></ErrorResponse>",
    };
    struct bh_s3_error e;
    for (size_t i = 0; i < COUNT(bodies); i++)
        assert_false(read_error(bodies[i], strlen(bodies[i]), &e));
    for (size_t i = 0; i < COUNT(samples); i++)
        assert_false(read_error(samples[i].body, strlen(samples[i].body), &e));
}

static void odd_errors(void **state)
{
    struct bh_s3_error e;
    static const char odd[] =
        " \n<s3:Error xmlns:s3='x'><s3:Message>two\nlines&#13;\t&#x1b;[2J \xC2\x9B"
        "31m \xC3\xBC</s3:Message>"
        "<Detail><Code>no</Code></Detail><Code>Slow&#9;Down</Code><Code>Second</Code>"
        "<Region>eu&quot;,x</Region><Endpoint>evil.example/path?</Endpoint></s3:Error>";
    assert_true(read_error(odd, strlen(odd), &e));
    assert_string_equal(e.code, "Slow Down");
    assert_string_equal(e.message, "two lines   [2J  31m \xC3\xBC");
    assert_string_equal(e.region, "");
    assert_string_equal(e.endpoint, "");

    /* too long: cut between characters; names that would be other names are not cut */
    BH_STRBUF body = {0};
    bh_strbuf_addf(&body, "<Error><Message>");
    for (int i = 0; i < 50000; i++)
        bh_strbuf_addf(&body, "\xE2\x82\xAC");
    bh_strbuf_addf(&body,
                   "</Message><Code>%0100d</Code><Region>%064d</Region><Endpoint>%0255d"
                   "</Endpoint></Error>",
                   0, 0, 0);
    assert_true(read_error(body.data, body.len, &e));
    assert_int_equal(strlen(e.message), 399);
    assert_memory_equal(e.message + 396, "\xE2\x82\xAC", 4);
    assert_int_equal(strlen(e.code), 63);
    assert_string_equal(e.region, "");
    assert_int_equal(strlen(e.endpoint), 255);
    bh_strbuf_reset(&body);
    bh_strbuf_addf(&body, "<Error><Message>%0398d\xC3\xBC</Message></Error>", 0);
    assert_true(read_error(body.data, body.len, &e));
    assert_int_equal(strlen(e.message), 398);
}

/* --- what is sent --- */

static void escaping(void **state)
{
    BH_STRBUF out = {0};
    bh_xml_escape(&out, "a&<>\"'\r\n\t\x01\x1F\x7F\xC3\xBC");
    assert_string_equal(out.data,
                        "a&amp;&lt;&gt;&quot;&apos;&#xD;&#xA;&#x9;&#x1;&#x1F;\x7F\xC3\xBC");
}

/* What is sent reads back as what was meant. */
static void bodies(void **state)
{
    static const char *const keys[] = {"a<b>&\"' ", "\r\n\t\x01", "\xC3\xBC", "]]>"};
    static const struct bh_part parts[] = {{.number = 1, .etag = "e1"},
                                           {.number = 10000, .etag = "&"}};
    BH_STRBUF out = {0};
    bh_xml_delete_body(&out, keys, COUNT(keys));
    const char *object = out.data;
    assert_non_null(strstr(out.data, "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"));
    assert_non_null(strstr(out.data, "<Quiet>true</Quiet>"));
    for (size_t i = 0; i < COUNT(keys); i++) {
        static const char *const names[] = {"Key"};
        BH_FREE char *value = NULL;
        object = strstr(object, "<Object>");
        assert_non_null(object);
        const char *end = strstr(object, "</Object>") + strlen("</Object>");
        assert_int_equal(bh_xml_texts(object, (size_t)(end - object), names, &value, 1, NULL), 0);
        assert_string_equal(value, keys[i]);
        object = end;
    }
    assert_string_equal(object, "</Delete>");

    bh_strbuf_reset(&out);
    bh_xml_complete_body(&out, parts, COUNT(parts));
    assert_string_equal(out.data,
                        XML "<CompleteMultipartUpload" XMLNS "><Part><PartNumber>1</PartNumber>"
                            "<ETag>&quot;e1&quot;</ETag></Part><Part><PartNumber>10000</PartNumber>"
                            "<ETag>&quot;&amp;&quot;</ETag></Part></CompleteMultipartUpload>");

    bh_strbuf_reset(&out);
    bh_xml_create_bucket_body(&out, "");
    bh_xml_create_bucket_body(&out, "us-east-1");
    assert_int_equal(out.len, 0);
    bh_xml_create_bucket_body(&out, "eu-west-1");
    assert_string_equal(out.data, XML "<CreateBucketConfiguration" XMLNS "><LocationConstraint>"
                                      "eu-west-1</LocationConstraint></CreateBucketConfiguration>");
}

/* --- values --- */

static void decimals(void **state)
{
    static const char *const bad[] = {"",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1a",
                                      "0x1",
                                      "1.0",
                                      "18446744073709551616",
                                      "99999999999999999999"};
    uint64_t n = 77;
    for (size_t i = 0; i < COUNT(bad); i++)
        if (bh_parse_decimal(bad[i], &n) || n != 77)
            fail_msg("decimal '%s'", bad[i]);
    assert_true(bh_parse_decimal("0", &n) && n == 0);
    assert_true(bh_parse_decimal("007", &n) && n == 7);
    assert_true(bh_parse_decimal("18446744073709551615", &n) && n == UINT64_MAX);
}

static void etags(void **state)
{
    static const struct {
        const char *text, *etag;
    } cases[] = {
        {"\"abc\"", "abc"}, {"abc", "abc"},     {"W/\"abc\"", "abc"},         {"\"\"", ""},
        {"", ""},           {"W/abc", "W/abc"}, {"\"\xC3\xBC\"", "\xC3\xBC"}, {"\"abc", NULL},
        {"abc\"", NULL},    {"\"", NULL},       {"\"a\"b\"", NULL},           {"a b", NULL},
        {"a\r\nb", NULL},   {"\x7F", NULL},
    };
    char etag[BH_ETAG_MAX], text[BH_ETAG_MAX + 3];
    for (size_t i = 0; i < COUNT(cases); i++) {
        memset(etag, 'x', sizeof etag);
        if (bh_parse_etag(cases[i].text, etag) != (cases[i].etag != NULL) ||
            strcmp(etag, cases[i].etag ? cases[i].etag : "") != 0)
            fail_msg("ETag '%s' became '%s'", cases[i].text, etag);
    }
    snprintf(text, sizeof text, "\"%0*d\"", BH_ETAG_MAX - 1, 0);
    assert_true(bh_parse_etag(text, etag));
    assert_int_equal(strlen(etag), BH_ETAG_MAX - 1);
    snprintf(text, sizeof text, "\"%0*d\"", BH_ETAG_MAX, 0);
    assert_false(bh_parse_etag(text, etag));
}

static void iso_times(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2009-10-12T17:50:30.000Z", MS_A},
        {"2009-10-12T17:50:30Z", MS_A},
        {"2009-10-12T17:50:30+00:00", MS_A},
        {"2009-10-12T17:50:30.123+00:00", MS_A + 123},
        {"2009-10-12T17:50:30.1Z", MS_A + 100},
        {"2009-10-12T17:50:30.123999999999Z", MS_A + 123},
        {"2000-02-29T23:59:59Z", INT64_C(951868799000)},
        {"2016-12-31T23:59:60Z", INT64_C(1483228800000)},
        {"9999-12-31T23:59:59.999Z", INT64_C(253402300799999)},
        {"", -1},
        {"2009-10-12", -1},
        {"2009-10-12T17:50:30", -1},
        {"2009-10-12T17:50:30.Z", -1},
        {"2009-10-12T17:50:30.5", -1},
        {"2009-10-12T17:50:30,5Z", -1},
        {"2009-10-12T17:50:30z", -1},
        {"2009-10-12t17:50:30Z", -1},
        {"2009-10-12 17:50:30Z", -1},
        {"2009-10-12T17:50:30ZZ", -1},
        {" 2009-10-12T17:50:30Z", -1},
        {"2009-10-12T17:50:30+01:00", -1},
        {"2009-10-12T17:50:30-00:01", -1},
        {"2009-10-12T17:50:30+0000", -1},
        {"2009-10-12T17:50Z", -1},
        {"09-10-12T17:50:30Z", -1},
        {"2009-1-12T17:50:30Z", -1},
        {"2009-+1-12T17:50:30Z", -1},
        {"2009-13-12T17:50:30Z", -1},
        {"2009-00-12T17:50:30Z", -1},
        {"2009-10-00T17:50:30Z", -1},
        {"2009-10-32T17:50:30Z", -1},
        {"2009-02-29T17:50:30Z", -1},
        {"2100-02-29T17:50:30Z", -1},
        {"2009-04-31T17:50:30Z", -1},
        {"2009-10-12T24:00:00Z", -1},
        {"2009-10-12T17:60:30Z", -1},
        {"2009-10-12T17:50:61Z", -1},
        {"1969-12-31T23:59:59Z", -1},
        {"10000-01-01T00:00:00Z", -1},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        if (bh_parse_iso_time(cases[i].text) != cases[i].ms)
            fail_msg("time '%s': %lld", cases[i].text, (long long)bh_parse_iso_time(cases[i].text));
}

static void http_times(void **state)
{
    static const int64_t ms = INT64_C(784111777000);
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        {"Sun, 06 Nov 1994 08:49:37 GMT", ms},
        {"Sunday, 06-Nov-94 08:49:37 GMT", ms},
        {"Sun Nov  6 08:49:37 1994", ms},
        {"Wed, 16 Nov 1994 08:49:37 GMT", ms + INT64_C(864000000)},
        {"Wed Nov 16 08:49:37 1994", ms + INT64_C(864000000)},
        {"Sat, 31 Dec 2016 23:59:60 GMT", INT64_C(1483228800000)},
        {"Thu, 01 Jan 1970 00:00:00 GMT", 0},
        {"", -1},
        {"Sun, 06 Nov 1994 08:49:37", -1},
        {"Sun, 06 Nov 1994 08:49:37 UTC", -1},
        {"Sun, 06 Nov 1994 08:49:37 +0000", -1},
        {"Sun, 06 Nov 1994 08:49:37 GMT ", -1},
        {"Sun, 6 Nov 1994 08:49:37 GMT", -1},
        {"Sun,  6 Nov 1994 08:49:37 GMT", -1},
        {"06 Nov 1994 08:49:37 GMT", -1},
        {"sun, 06 nov 1994 08:49:37 gmt", -1},
        {"Sunday, 06 Nov 1994 08:49:37 GMT", -1},
        {"Sun, 06-Nov-94 08:49:37 GMT", -1},
        {"Sun, 06 Foo 1994 08:49:37 GMT", -1},
        {"Sun, 31 Nov 1994 08:49:37 GMT", -1},
        {"Sun, 06 Nov 1969 08:49:37 GMT", -1},
        {"Sun Nov 06 08:49:37 1994 GMT", -1},
        {"Sun Nov  6 08:49:37 94", -1},
        {"-1", -1},
        {"0", -1},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        if (bh_parse_http_time(cases[i].text) != cases[i].ms)
            fail_msg("time '%s': %lld", cases[i].text,
                     (long long)bh_parse_http_time(cases[i].text));

    /* two digits of a year: this year's are this year's, those of 51 years ahead are of the past */
    char text[64], full[64];
    time_t now = (time_t)(bh_real_ms() / 1000);
    struct tm tm;
    gmtime_r(&now, &tm);
    for (int year = tm.tm_year + 1900 - 48; year <= tm.tm_year + 1900 + 49; year++) {
        snprintf(text, sizeof text, "Monday, 01-Jun-%02d 00:00:00 GMT", year % 100);
        snprintf(full, sizeof full, "%d-06-01T00:00:00Z", year);
        assert_int_equal(bh_parse_http_time(text), bh_parse_iso_time(full));
    }
}

/* Against the C library: a second of every day, later of every 29th. */
static void days(void **state)
{
    for (int64_t day = 0; day < INT64_C(2932897); day += day < 90000 ? 1 : 29) {
        time_t t = (time_t)(day * 86400 + day % 86400);
        struct tm tm;
        char text[64];
        gmtime_r(&t, &tm);
        snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02dZ", tm.tm_year + 1900,
                 tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
        if (bh_parse_iso_time(text) != (int64_t)t * 1000)
            fail_msg("%s: %lld", text, (long long)bh_parse_iso_time(text));
    }
}

static void time_zones(void **state)
{
    static const char *const zones[] = {"America/New_York", "Asia/Kathmandu", "right/UTC",
                                        "XYZ-14"};
    for (size_t i = 0; i < COUNT(zones); i++) {
        setenv("TZ", zones[i], 1);
        tzset();
        assert_int_equal(bh_parse_iso_time(TIME_A), MS_A);
        assert_int_equal(bh_parse_http_time("Sun, 06 Nov 1994 08:49:37 GMT"),
                         INT64_C(784111777000));
    }
    setenv("TZ", "UTC", 1);
    tzset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors),     cmocka_unit_test(cut_errors), cmocka_unit_test(no_errors),
        cmocka_unit_test(odd_errors), cmocka_unit_test(escaping),   cmocka_unit_test(bodies),
        cmocka_unit_test(decimals),   cmocka_unit_test(etags),      cmocka_unit_test(iso_times),
        cmocka_unit_test(http_times), cmocka_unit_test(days),       cmocka_unit_test(time_zones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
