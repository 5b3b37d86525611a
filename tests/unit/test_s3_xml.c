/* The XML of answers: what the stores send, and what none should. */
#include <stdio.h>

#include "bucket/bucket_util.h"
#include "s3_xml_fixture.h"

#define LISTED(...) "<ListBucketResult>" __VA_ARGS__ "</ListBucketResult>"
#define WHOLE       "<IsTruncated>false</IsTruncated>"
#define URL         "<EncodingType>url</EncodingType>"
#define SIZE_TIME   "<Size>5</Size><LastModified>" TIME_A "</LastModified>"
#define OBJECT(key) "<Contents><Key>" key "</Key>" SIZE_TIME "<ETag>\"e\"</ETag></Contents>"
#define PREFIX(key) "<CommonPrefixes><Prefix>" key "</Prefix></CommonPrefixes>"
#define ENTRY(key)  key " 5 1255369830000 e\n"
#define UPLOAD(...)                                                                                \
    "<ListMultipartUploadsResult>" WHOLE "<Upload>" __VA_ARGS__                                    \
    "</Upload></ListMultipartUploadsResult>"
#define PART(...) "<ListPartsResult>" WHOLE "<Part>" __VA_ARGS__ "</Part></ListPartsResult>"

static void answers(void **state)
{
    for (size_t i = 0; i < COUNT(samples); i++)
        must_hold(samples[i].name, samples[i].kind, samples[i].body, samples[i].holds);
}

/* Blanks before the XML, a byte order mark, a prefix of the namespace on every element. */
static void dressed_answers(void **state)
{
    for (size_t i = 0; i < COUNT(samples); i++) {
        BH_STRBUF text = {0};
        bh_strbuf_addf(&text, "\n \r\n\t   %s\n\n", samples[i].body);
        must_hold("blanks", samples[i].kind, text.data, samples[i].holds);
        bh_strbuf_reset(&text);
        bh_strbuf_addf(&text, "\xEF\xBB\xBF%s", samples[i].body);
        must_hold("byte order mark", samples[i].kind, text.data, samples[i].holds);
        bh_strbuf_reset(&text);
        for (const char *c = samples[i].body; *c; c++) {
            bool end = c[0] == '<' && c[1] == '/';
            bh_strbuf_add(&text, c, end ? 2 : 1);
            c += end;
            if (*c == '/' || (*c == '<' && c[1] != '?'))
                bh_strbuf_addf(&text, "%s", end || *c == '<' ? "s3:" : "");
        }
        must_hold("prefix", samples[i].kind, text.data, samples[i].holds);
    }
}

/* No beginning of an answer is taken for the answer. */
static void cut_answers(void **state)
{
    for (size_t i = 0; i < COUNT(samples); i++) {
        size_t whole = strlen(samples[i].body);
        while (samples[i].body[whole - 1] == '\n')
            whole--;
        for (size_t len = 0; len < whole; len++)
            must_refuse_bytes(samples[i].kind, samples[i].body, len, "the store's answer is");
    }
}

static void lists(void **state)
{
    static const struct {
        const char *name, *body, *holds;
    } cases[] = {
        {"empty", LISTED(WHOLE), "whole\n"},
        {"empty, no text", LISTED("<IsTruncated>False</IsTruncated><NextContinuationToken/>"),
         "whole\n"},
        {"no token", LISTED("<IsTruncated>TRUE</IsTruncated>"), "truncated, then \n"},
        {"raw keys", LISTED(WHOLE OBJECT("a+b%41")), "whole\n" ENTRY("a+b%41")},
        {"no encoding", LISTED("<EncodingType/>" WHOLE OBJECT("a+b%41")),
         "whole\n" ENTRY("a+b%41")},
        {"late encoding", LISTED(WHOLE OBJECT("a+b%41%c3%BC") PREFIX("%2f") URL),
         "whole\n*/\n" ENTRY("a bA\xC3\xBC")},
        {"sorted by bytes, decoded",
         LISTED(WHOLE URL OBJECT("b") OBJECT("%C3%BC") OBJECT("~") OBJECT("a%7F")),
         "whole\n" ENTRY("a\x7F") ENTRY("b") ENTRY("~") ENTRY("\xC3\xBC")},
        {"a prefix once", LISTED(WHOLE PREFIX("b/") PREFIX("a/") OBJECT("b/") PREFIX("b/")),
         "whole\n*a/\n" ENTRY("b/") "*b/\n"},
        {"several prefixes in one",
         LISTED(WHOLE "<CommonPrefixes><Prefix>b/</Prefix><x/><Prefix>a/</Prefix></CommonPrefixes>"
                      "<CommonPrefixes/>"),
         "whole\n*a/\n*b/\n"},
        {"the newest of a key",
         LISTED(WHOLE "<Contents><Key>k</Key><Size>1</Size>"
                      "<LastModified>2001-01-01T00:00:00Z</LastModified></Contents>" OBJECT("k")),
         "whole\n" ENTRY("k")},
        {"any order, what nobody knows, the first of two",
         LISTED("<Contents z='1'><Owner><Key>no</Key><Size>x</Size></Owner><ETag>e</ETag>" SIZE_TIME
                "<?pi?><Size>9</Size><Key>a<!-- no -->b<Key>no</Key>c</Key><Key>no</Key></Contents>"
                "<Other><IsTruncated>maybe</IsTruncated></Other>"
                "<Deep><Contents><Key>no</Key></Contents></Deep>" WHOLE
                "<IsTruncated>true</IsTruncated><IsTruncated/>"),
         "whole\n" ENTRY("abc")},
        {"CDATA", LISTED(WHOLE OBJECT("<![CDATA[a&#x1;<b>]]>c")), "whole\n" ENTRY("a&#x1;<b>c")},
        {"control characters", LISTED(WHOLE OBJECT("&#x1;&#x01;&#31;&#8;&#x9;&#xa;&#13;")),
         "whole\n" ENTRY("\x01\x01\x1F\x08\t\n\r")},
        {"noncharacters", LISTED(WHOLE OBJECT("\xEF\xB7\x91")), "whole\n" ENTRY("\xEF\xB7\x91")},
        {"no ETag", LISTED(WHOLE "<Contents><Key>k</Key>" SIZE_TIME "</Contents>"),
         "whole\nk 5 1255369830000 \n"},
        {"largest size",
         LISTED(WHOLE "<Contents><Key>k</Key><Size>9223372036854775807</Size>"
                      "<LastModified>9999-12-31T23:59:60.999Z</LastModified></Contents>"),
         "whole\nk 9223372036854775807 253402300800999 \n"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        must_hold(cases[i].name, LIST, cases[i].body, cases[i].holds);
}

static void refused_lists(void **state)
{
    static const struct {
        const char *body, *why;
    } cases[] = {
        {LISTED(""), "without IsTruncated"},
        {LISTED("<IsTruncated/>"), "IsTruncated ''"},
        {LISTED("<IsTruncated>1</IsTruncated>"), "IsTruncated '1'"},
        {LISTED(WHOLE "<EncodingType>base64</EncodingType>"), "EncodingType 'base64'"},
        {LISTED(WHOLE "<Contents>" SIZE_TIME "</Contents>"), "without a Key"},
        {LISTED(WHOLE "<Contents><Key/>" SIZE_TIME "</Contents>"), "no key"},
        {LISTED(WHOLE OBJECT("\xEF\xB7\x91&#x1;")), "not a whole ListBucketResult"},
        {LISTED(WHOLE OBJECT("&#xFDD1;&#x1;")), "not a whole ListBucketResult"},
        {LISTED(WHOLE OBJECT("&#x000000000FDD1;&#x1;")), "not a whole ListBucketResult"},
        {LISTED(WHOLE OBJECT("&#0;")), "not a whole ListBucketResult"},
        {LISTED(WHOLE OBJECT("&#x1")), "not a whole ListBucketResult"},
        {LISTED(WHOLE OBJECT("&#x110000;")), "not a whole ListBucketResult"},
        {LISTED(WHOLE OBJECT("&nbsp;")), "undefined entity"},
        {LISTED(WHOLE OBJECT("\xFF")), "not a whole ListBucketResult"},
        {LISTED(WHOLE OBJECT("\xED\xA0\x80")), "not a whole ListBucketResult"},
        {LISTED(WHOLE OBJECT("\x01")), "not a whole ListBucketResult"},
        {LISTED(URL WHOLE OBJECT("a%00b")), "a%00b"},
        {LISTED(URL WHOLE OBJECT("a%")), "not encoded"},
        {LISTED(URL WHOLE OBJECT("a%4")), "not encoded"},
        {LISTED(URL WHOLE OBJECT("a%4g")), "not encoded"},
        {LISTED(URL WHOLE PREFIX("a%g4")), "not encoded"},
        {LISTED(URL WHOLE OBJECT("%ff")), "not valid UTF-8"},
        {LISTED(URL WHOLE PREFIX("%C3")), "not valid UTF-8"},
        {LISTED(WHOLE PREFIX("")), "no key"},
        {LISTED(WHOLE "<Contents><Key>k</Key><LastModified>" TIME_A "</LastModified></Contents>"),
         "listed k without Size"},
        {LISTED(WHOLE "<Contents><Key>k</Key><Size>1</Size></Contents>"),
         "listed k without LastModified"},
    };
    static const char *const sizes[] = {"",
                                        "-1",
                                        "+1",
                                        " 1",
                                        "1 ",
                                        "1.0",
                                        "0x1",
                                        "1k",
                                        "1e3",
                                        "9223372036854775808",
                                        "18446744073709551615",
                                        "18446744073709551616",
                                        "99999999999999999999999"};
    static const char *const times[] = {"", "yesterday", "2023-02-29T00:00:00Z",
                                        "Sun, 06 Nov 1994 08:49:37 GMT"};
    char body[2000], why[200], long_etag[BH_ETAG_MAX + 1];
    memset(long_etag, 'e', BH_ETAG_MAX);
    long_etag[BH_ETAG_MAX] = '\0';
    const char *const etags[] = {"a b",     "&quot;", "a&quot;", "&quot;a&quot;b&quot;",
                                 "a&#10;b", "a&#x1;", long_etag};
    for (size_t i = 0; i < COUNT(cases); i++)
        must_refuse(LIST, cases[i].body, cases[i].why);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        snprintf(body, sizeof body,
                 LISTED(WHOLE "<Contents><Key>k</Key><Size>%s</Size><LastModified>" TIME_A
                              "</LastModified></Contents>"),
                 sizes[i]);
        snprintf(why, sizeof why, "listed k with the Size '%s', which is not a number", sizes[i]);
        must_refuse(LIST, body, why);
    }
    for (size_t i = 0; i < COUNT(times); i++) {
        snprintf(body, sizeof body,
                 LISTED(WHOLE "<Contents><Key>k</Key><Size>1</Size><LastModified>"
                              "%s</LastModified></Contents>"),
                 times[i]);
        snprintf(why, sizeof why, "LastModified '%s', which is not a time", times[i]);
        must_refuse(LIST, body, why);
    }
    for (size_t i = 0; i < COUNT(etags); i++) {
        snprintf(body, sizeof body,
                 LISTED(WHOLE "<Contents><Key>k</Key>" SIZE_TIME "<ETag>%s</ETag>"
                              "</Contents>"),
                 etags[i]);
        must_refuse(LIST, body, "which is not an ETag");
    }
}

static void key_lengths(void **state)
{
    char key[BH_KEY_MAX + 2] = "";
    for (size_t i = 0; i <= BH_KEY_MAX / 2; i++)
        memcpy(key + 2 * i, "\xC3\xBC", 2);
    for (int encoded = 0; encoded < 2; encoded++)
        for (size_t len = BH_KEY_MAX; len <= BH_KEY_MAX + 1; len++) {
            BH_STRBUF body = {0}, holds = {0};
            bh_strbuf_addf(&body, "<ListBucketResult>" WHOLE "%s<Contents>" SIZE_TIME "<Key>",
                           encoded ? URL : "");
            for (size_t i = 0; i < len; i++)
                bh_strbuf_addf(&body, encoded ? "%%%02X" : "%c",
                               i < BH_KEY_MAX ? (unsigned char)key[i] : 'k');
            bh_strbuf_addf(&body, "</Key></Contents></ListBucketResult>");
            bh_strbuf_addf(&holds, "whole\n%.1024s 5 %lld \n", key, (long long)MS_A);
            if (len <= BH_KEY_MAX)
                must_hold("longest key", LIST, body.data, holds.data);
            else
                must_refuse(LIST, body.data, "1025 bytes");
        }
}

static void add_objects(struct bh_strbuf *body, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        bh_strbuf_addf(body,
                       "<Contents><Key>k%06zu</Key><Size>%zu</Size><LastModified>" TIME_A
                       "</LastModified><ETag>&quot;" MD5_A "&quot;</ETag></Contents>",
                       i, i * i);
}

static void large_pages(void **state)
{
    BH_STRBUF body = {0};
    struct bh_xml_page page;
    struct bh_error err;
    bh_strbuf_addf(&body, "<ListBucketResult><IsTruncated>true</IsTruncated>"
                          "<NextContinuationToken>t</NextContinuationToken>");
    add_objects(&body, 500, 1000); /* in two halves, the wrong way round */
    add_objects(&body, 0, 500);
    bh_strbuf_addf(&body, "</ListBucketResult>");
    assert_int_equal(bh_xml_list(body.data, body.len, &page, &err), 0);
    assert_int_equal(page.count, 1000);
    for (size_t i = 0; i < page.count; i++) {
        char key[32];
        snprintf(key, sizeof key, "k%06zu", i);
        assert_string_equal(page.entries[i].key, key);
        assert_int_equal(page.entries[i].info.size, i * i);
        assert_int_equal(page.entries[i].info.mtime_ms, MS_A);
        assert_string_equal(page.entries[i].info.etag, MD5_A);
    }
    bh_xml_page_free(&page);

    bh_strbuf_reset(&body);
    bh_strbuf_addf(&body, "<ListBucketResult>" WHOLE);
    add_objects(&body, 0, 10000);
    bh_strbuf_addf(&body, "</ListBucketResult>");
    assert_int_equal(bh_xml_list(body.data, body.len, &page, &err), 0);
    assert_int_equal(page.count, 10000);
    bh_xml_page_free(&page);
    bh_strbuf_reset(&body);
    bh_strbuf_addf(&body, "<ListBucketResult>" WHOLE);
    add_objects(&body, 0, 10001);
    bh_strbuf_addf(&body, "</ListBucketResult>");
    must_refuse(LIST, body.data, "more than 10000 entries");
}

static void uploads_and_parts(void **state)
{
#define KEY  "<Key>k</Key>"
#define ID   "<UploadId>i</UploadId>"
#define WHEN "<Initiated>" TIME_A "</Initiated>"
    must_hold("upload", UPLOADS, UPLOAD(WHEN ID KEY), "whole\nk i 1255369830000\n");
    must_hold("encoded upload", UPLOADS,
              "<ListMultipartUploadsResult>" WHOLE "<Upload>" WHEN ID "<Key>%2B+</Key></Upload>" URL
              "</ListMultipartUploadsResult>",
              "whole\n+  i 1255369830000\n");
    must_refuse(UPLOADS, UPLOAD(ID WHEN), "without a Key");
    must_refuse(UPLOADS, UPLOAD("<Key/>" ID WHEN), "no key");
    must_refuse(UPLOADS, UPLOAD(KEY WHEN), "uploads of k: the store named an upload without");
    must_refuse(UPLOADS, UPLOAD(KEY "<UploadId/>" WHEN), "without an UploadId");
    must_refuse(UPLOADS, UPLOAD(KEY ID), "listed k without Initiated");
    must_refuse(UPLOADS, UPLOAD(KEY ID "<Initiated>now</Initiated>"), "Initiated 'now'");
    must_refuse(UPLOADS, "<ListMultipartUploadsResult/>", "without IsTruncated");
    must_refuse(UPLOADS,
                "<ListMultipartUploadsResult>" WHOLE URL
                "<NextKeyMarker>%</NextKeyMarker></ListMultipartUploadsResult>",
                "not encoded");

#define NUMBER "<PartNumber>7</PartNumber>"
#define SIZE   "<Size>5</Size>"
#define ETAG   "<ETag>&quot;e&quot;</ETag>"
    must_hold("part", PARTS, PART(ETAG SIZE NUMBER), "whole 0\n7 5 e\n");
    must_hold("no marker", PARTS,
              "<ListPartsResult>" WHOLE "<NextPartNumberMarker/></ListPartsResult>", "whole 0\n");
    must_refuse(PARTS, PART(SIZE ETAG), "without PartNumber");
    must_refuse(PARTS, PART("<PartNumber>0</PartNumber>" SIZE ETAG), "PartNumber '0'");
    must_refuse(PARTS, PART("<PartNumber>10001</PartNumber>" SIZE ETAG), "PartNumber '10001'");
    must_refuse(PARTS, PART("<PartNumber/>" SIZE ETAG), "PartNumber ''");
    must_refuse(PARTS, PART(NUMBER ETAG), "part 7 without Size");
    must_refuse(PARTS, PART(NUMBER "<Size>-5</Size>" ETAG), "part 7 with the Size '-5'");
    must_refuse(PARTS, PART(NUMBER SIZE), "part 7 without ETag");
    must_refuse(PARTS, PART(NUMBER SIZE "<ETag>\"\"</ETag>"), "part 7 without ETag");
    must_refuse(PARTS, PART(NUMBER SIZE "<ETag>a b</ETag>"), "ETag 'a b'");
    must_refuse(PARTS, PART(NUMBER SIZE ETAG "</Part><Part>" NUMBER SIZE ETAG), "part 7 twice");
    must_refuse(PARTS, "<ListPartsResult/>", "without IsTruncated");
    must_refuse(PARTS,
                "<ListPartsResult>" WHOLE
                "<NextPartNumberMarker>-1</NextPartNumberMarker></ListPartsResult>",
                "NextPartNumberMarker '-1'");
}

static void short_answers(void **state)
{
    char body[2000], id[BH_UPLOAD_ID_MAX + 1];
    for (size_t len = BH_UPLOAD_ID_MAX - 1; len <= BH_UPLOAD_ID_MAX; len++) {
        memset(id, 'i', len);
        id[len] = '\0';
        snprintf(body, sizeof body,
                 "<InitiateMultipartUploadResult><UploadId>%s</UploadId>"
                 "</InitiateMultipartUploadResult>",
                 id);
        if (len < BH_UPLOAD_ID_MAX)
            must_hold("longest id", UPLOAD_ID, body, id);
        else
            must_refuse(UPLOAD_ID, body, "512 bytes");
    }
    must_refuse(UPLOAD_ID, "<InitiateMultipartUploadResult/>", "without an UploadId");
    must_refuse(UPLOAD_ID, copied, "<CopyObjectResult> instead of InitiateMultipartUploadResult");

    must_hold("empty ETag", RESULT,
              "<CompleteMultipartUploadResult><ETag></ETag></CompleteMultipartUploadResult>", " 0");
    must_hold("no ETag", RESULT, "<CopyPartResult/>", " 0");
    must_hold("bare ETag", RESULT, "<CopyPartResult><ETag>e</ETag></CopyPartResult>", "e 0");
    must_refuse(RESULT,
                "<CopyPartResult><ETag>e</ETag><LastModified>x</LastModified></CopyPartResult>",
                "LastModified 'x'");
    must_refuse(RESULT, "<CopyPartResult><ETag>a\tb</ETag></CopyPartResult>", "which is none");
    must_refuse(RESULT, error_aws, "<Error> instead of");

    must_hold("nothing failed", DELETED, "<DeleteResult/>", "");
    must_refuse(DELETED,
                "<DeleteResult><Error><Key>k</Key></Error><Error><Code>C</Code><Message>M"
                "\n</Message></Error></DeleteResult>",
                "does not name: C M");
    must_refuse(DELETED, "<DeleteResult><Error><Key/></Error></DeleteResult>", "does not name");
    must_refuse(DELETED, error_aws, "<Error> instead of DeleteResult");

    BH_STRBUF seen = {0};
    struct bh_error err;
    static const char two[] = "<DeleteResult><Error><Key>k</Key><Code>stop</Code></Error>"
                              "<Error><Key>l</Key></Error></DeleteResult>";
    assert_int_equal(bh_xml_delete_result(two, strlen(two), see_failed_key, &seen, &err), EXDEV);
    assert_string_equal(err.text, "as asked for");
    assert_string_equal(seen.data, "k|stop|\n");
}

/* Whatever is no answer at all, to every function. */
static void nonsense(void **state)
{
    static const struct {
        const char *body, *why;
        bool texts; /* is XML, too */
    } cases[] = {
        {"", "is empty", false},
        {" \r\n\t", "is empty", false},
        {"hello", "not a whole", false},
        {"{\"a\": 1}", "not a whole", false},
        {"<html><body>502 Bad Gateway</body></html>", "<html> instead of", true},
        {"<!DOCTYPE html><html></html>", "document of type html", false},
        {"<!doctype html>\n<html lang=en>", "not a whole", false},
        {"<?xml version='1.0'?><!DOCTYPE a SYSTEM 'http://127.0.0.1:9/x.dtd'><a/>",
         "document of type a", false},
        {"<!DOCTYPE a [<!ENTITY b '1234567890'><!ENTITY c '&b;&b;&b;&b;'>]><a>&c;</a>",
         "document of type a", false},
        {"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/hostname'>]><a>&b;</a>", "document of type a",
         false},
        {"<a>&b;</a>", "", false},
        {"<a", "not a whole", false},
        {"<a></b>", "", false},
        {"<?xml version='1.0' encoding='utf-7'?><Other/>", "<Other> instead of", true},
        {"\xFF\xFE<\0a\0/\0>\0", "not a whole", false},
    };
    for (enum kind kind = LIST; kind <= TEXTS; kind++)
        for (size_t i = 0; i < COUNT(cases); i++)
            if (kind == TEXTS && cases[i].texts)
                must_hold("no texts", TEXTS, cases[i].body, "-|-|-|-|-|");
            else
                must_refuse(kind, cases[i].body, cases[i].why);
    for (size_t i = 0; i < COUNT(samples);
         i++) { /* what follows the end, and a NUL in the middle */
        BH_STRBUF body = {0};
        bh_strbuf_addf(&body, "%s<a/>", samples[i].body);
        must_refuse(samples[i].kind, body.data, "not a whole");
        bh_strbuf_reset(&body);
        bh_strbuf_addf(&body, "%s", samples[i].body);
        body.data[body.len / 2] = '\0';
        must_refuse_bytes(samples[i].kind, body.data, body.len, "not a whole");
        must_refuse_bytes(samples[i].kind, samples[i].body, strlen(samples[i].body) + 1,
                          "not a whole");
    }
}

static void bounds(void **state)
{
    static const char *const roots[] = {"ListBucketResult",
                                        "ListMultipartUploadsResult",
                                        "ListPartsResult",
                                        "InitiateMultipartUploadResult",
                                        "CopyObjectResult",
                                        "DeleteResult",
                                        "Other"};
    for (enum kind kind = LIST; kind <= TEXTS; kind++) {
        BH_STRBUF body = {0};
        for (int i = 0; i < 100000; i++)
            bh_strbuf_addf(&body, "<%s>", roots[kind]);
        must_refuse(kind, body.data, "nested deeper than 32 elements");
    }
    /* What is not wanted may be as long as it likes, what is wanted may not. */
    BH_STRBUF skipped = {0}, token = {0};
    bh_strbuf_addf(&skipped, "<ListBucketResult>" WHOLE "<Other>");
    bh_strbuf_addf(&token, "<ListBucketResult>" WHOLE "<NextContinuationToken>");
    for (int i = 0; i < 7000; i++) {
        bh_strbuf_addf(&skipped, "0123456789");
        bh_strbuf_addf(&token, "0123456789");
    }
    bh_strbuf_addf(&skipped, "</Other></ListBucketResult>");
    bh_strbuf_addf(&token, "</NextContinuationToken></ListBucketResult>");
    must_hold("long", LIST, skipped.data, "whole\n");
    must_refuse(LIST, token.data, "over 65536 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers),       cmocka_unit_test(dressed_answers),
        cmocka_unit_test(cut_answers),   cmocka_unit_test(lists),
        cmocka_unit_test(refused_lists), cmocka_unit_test(key_lengths),
        cmocka_unit_test(large_pages),   cmocka_unit_test(uploads_and_parts),
        cmocka_unit_test(short_answers), cmocka_unit_test(nonsense),
        cmocka_unit_test(bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
