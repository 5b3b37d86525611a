/* Signature Version 4 against published signatures: the examples of the Amazon S3 API Reference
 * ("Authenticating Requests"), the example of the AWS General Reference, and AWS's signing test
 * suite (aws-sig-v4-test-suite, now aws-c-auth's tests/aws-signing-test-suite). Of the suite this
 * leaves out what our signer does not do on purpose: paths that are normalised (here the suite's
 * cases "-unnormalized" hold), a header folded over lines, a token that is sent but not signed
 * (post-sts-header-after), and presigned URLs of a service that is not S3, whose payload is not
 * UNSIGNED-PAYLOAD. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket/s3/sigv4.h"

#define COUNT(array) (sizeof array / sizeof array[0])

#define PAIRS_MAX   6
#define UNRESERVED  "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define S3_HOST     "examplebucket.s3.amazonaws.com"
#define FORM        "application/x-www-form-urlencoded"
#define FORM_HASH   "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"
#define SHORT_TOKEN "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"
#define LONG_TOKEN                                                                                 \
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSP" \
    "fIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT" \
    "7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlz" \
    "m8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="

static const struct bh_sigv4_signer s3_signer = {
    .access_key_id = "AKIAIOSFODNN7EXAMPLE",
    .secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    .region = "us-east-1",
    .service = "s3",
    .time_ms = INT64_C(1369353600000), /* 20130524T000000Z */
};
static const struct bh_sigv4_signer suite_signer = {
    .access_key_id = "AKIDEXAMPLE",
    .secret_access_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    .region = "us-east-1",
    .service = "service",
    .time_ms = INT64_C(1440938160999), /* 20150830T123600Z and not yet a second more */
};

struct example {
    const char *name, *method, *path, *signature;
    const char *names; /* of the signed headers */
    struct bh_pair query[PAIRS_MAX], headers[PAIRS_MAX];
    const char *payload_hash; /* NULL: of nothing */
    const char *token;
};

static size_t pair_count(const struct bh_pair *pairs)
{
    size_t n = 0;
    while (n < PAIRS_MAX && pairs[n].name)
        n++;
    return n;
}

static struct bh_sigv4_request request_of(const struct example *e)
{
    return (struct bh_sigv4_request){.method = e->method,
                                     .path = e->path,
                                     .query = e->query,
                                     .query_count = pair_count(e->query),
                                     .headers = e->headers,
                                     .header_count = pair_count(e->headers),
                                     .payload_hash =
                                         e->payload_hash ? e->payload_hash : BH_SIGV4_EMPTY};
}

static void check_example(const struct bh_sigv4_signer *by, const char *scope,
                          const struct example *e)
{
    struct bh_sigv4_signer signer = *by;
    const struct bh_sigv4_request req = request_of(e);
    struct bh_error err = {0};
    char date[BH_SIGV4_DATE], wanted[512];
    BH_STRBUF got = {0};
    signer.session_token = e->token;
    if (bh_sigv4_sign(&signer, &req, date, &got, &err))
        fail_msg("%s: %s", e->name, err.text);
    snprintf(wanted, sizeof wanted,
             "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", by->access_key_id,
             scope, e->names, e->signature);
    if (strcmp(got.data, wanted))
        fail_msg("%s:\n%s, not\n%s", e->name, got.data, wanted);
}

static void s3_examples(void **state)
{
    static const struct example examples[] = {
        {.name = "GET Object",
         .method = "GET",
         .path = "/test.txt",
         .headers = {{"Host", S3_HOST}, {"Range", "bytes=0-9"}},
         .names = "host;range;x-amz-content-sha256;x-amz-date",
         .signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
        {.name = "PUT Object",
         .method = "PUT",
         .path = "/test$file.text",
         .headers = {{"Date", "Fri, 24 May 2013 00:00:00 GMT"},
                     {"Host", S3_HOST},
                     {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
         .payload_hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
         .names = "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
         .signature = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
        {.name = "GET Bucket Lifecycle",
         .method = "GET",
         .path = "/",
         .query = {{"lifecycle", NULL}},
         .headers = {{"Host", S3_HOST}},
         .names = "host;x-amz-content-sha256;x-amz-date",
         .signature = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
        {.name = "GET Bucket (List Objects)",
         .method = "GET",
         .path = "/",
         .query = {{"prefix", "J"}, {"max-keys", "2"}},
         .headers = {{"Host", S3_HOST}},
         .names = "host;x-amz-content-sha256;x-amz-date",
         .signature = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(examples); i++)
        check_example(&s3_signer, "20130524/us-east-1/s3/aws4_request", &examples[i]);
}

/* With the region's and the service's name in another place than the suite has them. */
static void general_example(void **state)
{
    static const struct example list_users = {
        .name = "ListUsers",
        .method = "GET",
        .path = "/",
        .query = {{"Action", "ListUsers"}, {"Version", "2010-05-08"}},
        .headers = {{"Content-Type", FORM "; charset=utf-8"}, {"Host", "iam.amazonaws.com"}},
        .names = "content-type;host;x-amz-date",
        .signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"};
    struct bh_sigv4_signer by = suite_signer;
    (void)state;
    by.service = "iam";
    check_example(&by, "20150830/us-east-1/iam/aws4_request", &list_users);
}

#define HOST                                                                                       \
    {                                                                                              \
        "Host", "example.amazonaws.com"                                                            \
    }
#define PLAIN_NAMES "host;x-amz-date"

static void suite_of_paths(void **state)
{
    static const struct {
        const char *name, *path, *signature;
    } cases[] = {
        {"get-vanilla", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
        {"get-unreserved", "/" UNRESERVED,
         "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
        {"get-utf8", "/\u1234", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
        {"get-space-unnormalized", "/example space/",
         "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"},
        {"get-slash-unnormalized", "//",
         "c88bcd3d312d75078c0cd961d6deae3f4c754924b01669efcfcb439fd5e5b76e"},
        {"get-slashes-unnormalized", "//example//",
         "87cca117541a147f6df867677d98a7d80dff226d2bfca9e4ffa899665623c7e5"},
        {"get-slash-dot-slash-unnormalized", "/./",
         "68714168e6557f8f2de0ef956fc24dc2593a4bd2961f8df51898d8a134695145"},
        {"get-slash-pointless-dot-unnormalized", "/./example",
         "beb03f223f7deae4146464f06e29eebbee9c8afbe15c290cf07aa8b119e14cff"},
        {"get-relative-unnormalized", "/example/..",
         "eca7ead57bb5aa5c8e28007acd4ff04e1ff9a0ff3b237ec1554a184887ff9282"},
        {"get-relative-relative-unnormalized", "/example1/example2/../..",
         "dc33e0856fd4baca4d7aa2146c38958283844764f38c74252a333df5e613003b"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        check_example(&suite_signer, "20150830/us-east-1/service/aws4_request",
                      &(struct example){.name = cases[i].name,
                                        .method = "GET",
                                        .path = cases[i].path,
                                        .headers = {HOST},
                                        .names = PLAIN_NAMES,
                                        .signature = cases[i].signature});
}

static void suite_of_queries(void **state)
{
    static const struct {
        const char *name;
        struct bh_pair query[PAIRS_MAX];
        const char *signature;
    } cases[] = {
        {"get-vanilla-empty-query-key",
         {{"Param1", "value1"}},
         "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
        {"get-vanilla-query-order-key",
         {{"Param1", "value2"}, {"Param1", "Value1"}},
         "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1"},
        {"get-vanilla-query-order-key-case",
         {{"Param2", "value2"}, {"Param1", "value1"}},
         "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
        {"get-vanilla-query-order-value",
         {{"Param1", "value2"}, {"Param1", "value1"}},
         "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694"},
        {"get-vanilla-query-order-encoded",
         {{"Param-3", "Value3"}, {"Param", "Value2"}, {"\u1234", "Value1"}},
         "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac"},
        {"get-vanilla-query-unreserved",
         {{UNRESERVED, UNRESERVED}},
         "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
        {"get-vanilla-utf8-query",
         {{"\u1234", "bar"}},
         "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct example e = {.name = cases[i].name,
                            .method = "GET",
                            .path = "/",
                            .headers = {HOST},
                            .names = PLAIN_NAMES,
                            .signature = cases[i].signature};
        memcpy(e.query, cases[i].query, sizeof e.query);
        check_example(&suite_signer, "20150830/us-east-1/service/aws4_request", &e);
    }
}

static void suite_of_headers(void **state)
{
    static const struct example examples[] = {
        {.name = "get-header-key-duplicate",
         .method = "GET",
         .headers =
             {HOST, {"My-Header1", "value2"}, {"My-Header1", "value2"}, {"My-Header1", "value1"}},
         .names = "host;my-header1;x-amz-date",
         .signature = "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
        {.name = "get-header-value-order",
         .method = "GET",
         .headers = {{"My-Header1", "value4"},
                     {"my-header1", "value1"},
                     {"MY-HEADER1", "value3"},
                     HOST,
                     {"My-Header1", "value2"}},
         .names = "host;my-header1;x-amz-date",
         .signature = "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
        {.name = "get-header-value-trim",
         .method = "GET",
         .headers = {HOST, {"My-Header1", " value1"}, {"My-Header2", " \"a   b   c\""}},
         .names = "host;my-header1;my-header2;x-amz-date",
         .signature = "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
        {.name = "get-header-value-trim, with tabs and spaces behind",
         .method = "GET",
         .headers = {{"MY-HEADER2", "\t\"a b  c\"  \t"}, {"My-Header1", "value1   "}, HOST},
         .names = "host;my-header1;my-header2;x-amz-date",
         .signature = "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
        {.name = "post-vanilla",
         .method = "POST",
         .headers = {HOST},
         .names = PLAIN_NAMES,
         .signature = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
        {.name = "post-header-key-sort",
         .method = "POST",
         .headers = {{"My-Header1", "value1"}, HOST},
         .names = "host;my-header1;x-amz-date",
         .signature = "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"},
        {.name = "post-header-value-case",
         .method = "POST",
         .headers = {HOST, {"My-Header1", "VALUE1"}},
         .names = "host;my-header1;x-amz-date",
         .signature = "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"},
        {.name = "post-x-www-form-urlencoded",
         .method = "POST",
         .headers = {{"Content-Type", FORM}, HOST},
         .payload_hash = FORM_HASH,
         .names = "content-type;host;x-amz-date",
         .signature = "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
        {.name = "post-x-www-form-urlencoded-parameters",
         .method = "POST",
         .headers = {{"Content-Type", FORM "; charset=utf8"}, HOST},
         .payload_hash = FORM_HASH,
         .names = "content-type;host;x-amz-date",
         .signature = "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe"},
        {.name = "post-x-www-form-urlencoded of aws-c-auth",
         .method = "POST",
         .headers = {{"Content-Type", FORM},
                     HOST,
                     {"Content-Length", "13"},
                     {"x-amz-content-sha256", FORM_HASH}},
         .payload_hash = FORM_HASH,
         .names = "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
         .signature = "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"},
        {.name = "post-x-www-form-urlencoded-parameters of aws-c-auth",
         .method = "POST",
         .headers = {{"Content-Type", FORM "; charset=utf-8"},
                     HOST,
                     {"Content-Length", "13"},
                     {"x-amz-content-sha256", FORM_HASH}},
         .payload_hash = FORM_HASH,
         .names = "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
         .signature = "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422"},
        {.name = "get-vanilla-with-session-token",
         .method = "GET",
         .headers = {HOST},
         .token = SHORT_TOKEN,
         .names = "host;x-amz-date;x-amz-security-token",
         .signature = "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"},
        {.name = "post-sts-header-before",
         .method = "POST",
         .headers = {HOST},
         .token = LONG_TOKEN,
         .names = "host;x-amz-date;x-amz-security-token",
         .signature = "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(examples); i++) {
        struct example e = examples[i];
        e.path = "/";
        check_example(&suite_signer, "20150830/us-east-1/service/aws4_request", &e);
    }
}

static void dates(void **state)
{
    static const struct {
        int64_t time_ms;
        const char *date;
    } cases[] = {
        {0, "19700101T000000Z"},
        {INT64_C(1369353600000), "20130524T000000Z"},
        {INT64_C(1709251199999), "20240229T235959Z"},
        {INT64_C(253402300799999), "99991231T235959Z"},
        {INT64_C(253402300800000), NULL},
        {INT64_MAX, NULL},
        {-1, NULL},
    };
    struct bh_sigv4_signer by = s3_signer;
    const struct bh_pair host = {"host", S3_HOST};
    const struct bh_sigv4_request req = {"GET", "/", NULL, 0, &host, 1, BH_SIGV4_EMPTY};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char date[BH_SIGV4_DATE] = "untouched", scope[64];
        struct bh_error err = {0};
        BH_STRBUF got = {0};
        by.time_ms = cases[i].time_ms;
        int rc = bh_sigv4_sign(&by, &req, date, &got, &err);
        assert_int_equal(rc, cases[i].date ? 0 : EINVAL);
        assert_string_equal(date, cases[i].date ? cases[i].date : "untouched");
        if (rc)
            continue;
        snprintf(scope, sizeof scope, "/%.8s/us-east-1/s3/aws4_request, ", date);
        assert_non_null(strstr(got.data, scope));
    }
}

/* No sentence repeats the key, the secret or the token. */
static void refusals(void **state)
{
    static const struct {
        struct bh_sigv4_signer by;
        const char *says;
    } cases[] = {
        {{NULL, "SECRET", NULL, "r", "s3", 0}, "no access key"},
        {{"", "SECRET", NULL, "r", "s3", 0}, "no access key"},
        {{"KEY", NULL, NULL, "r", "s3", 0}, "no access key"},
        {{"KEY", "", NULL, "r", "s3", 0}, "no access key"},
        {{"KEY\r\nX: y", "SECRET", NULL, "r", "s3", 0}, "access_key_id"},
        {{"KEY, x", "SECRET", NULL, "r", "s3", 0}, "access_key_id"},
        {{"KEY", "SECRET", "TOK\r\nX: y", "r", "s3", 0}, "token"},
        {{"KEY", "SECRET", NULL, NULL, "s3", 0}, "region"},
        {{"KEY", "SECRET", NULL, "", "s3", 0}, "region"},
        {{"KEY", "SECRET", NULL, "eu\nx", "s3", 0}, "region"},
        {{"KEY", "SECRET", NULL, "r", "s3", -1}, "clock"},
    };
    const struct bh_pair host = {"host", S3_HOST};
    const struct bh_sigv4_request req = {"GET", "/", NULL, 0, &host, 1, BH_SIGV4_EMPTY};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct bh_error err = {0}, presign_err = {0};
        char date[BH_SIGV4_DATE];
        BH_STRBUF got = {0};
        assert_int_equal(bh_sigv4_sign(&cases[i].by, &req, date, &got, &err), EINVAL);
        assert_int_equal(bh_sigv4_presign(&cases[i].by, &req, 60, &got, &presign_err), EINVAL);
        assert_int_equal(got.len, 0);
        assert_string_equal(err.text, presign_err.text);
        if (!strstr(err.text, cases[i].says) || strstr(err.text, "SECRET") ||
            strstr(err.text, "KEY") || strstr(err.text, "TOK"))
            fail_msg("'%s' is not about '%s', or says too much", err.text, cases[i].says);
    }
}

/* What is appended to stays; a lack of memory that it met before is not overlooked. */
static void appends(void **state)
{
    const struct bh_pair host = {"host", S3_HOST};
    const struct bh_sigv4_request req = {"GET", "/", NULL, 0, &host, 1, BH_SIGV4_EMPTY};
    char date[BH_SIGV4_DATE];
    struct bh_error err = {0};
    (void)state;
    BH_STRBUF got = {0};
    bh_strbuf_addf(&got, "before ");
    assert_int_equal(bh_sigv4_sign(&s3_signer, &req, date, &got, &err), 0);
    assert_int_equal(strncmp(got.data, "before AWS4-HMAC-SHA256 ", 24), 0);
    bh_strbuf_reset(&got);
    bh_strbuf_addf(&got, "/?");
    assert_int_equal(bh_sigv4_presign(&s3_signer, &req, 1, &got, &err), 0);
    assert_int_equal(strncmp(got.data, "/?X-Amz-Algorithm=", 18), 0);
    got.failed = true;
    assert_int_equal(bh_sigv4_sign(&s3_signer, &req, date, &got, &err), ENOMEM);
    assert_int_equal(bh_sigv4_presign(&s3_signer, &req, 1, &got, &err), ENOMEM);
}

/* --- presigned URLs --- */

static void presign_example(void **state)
{
    const struct bh_pair host = {"host", S3_HOST};
    const struct bh_sigv4_request req = {"GET", "/test.txt", NULL, 0, &host, 1, NULL};
    struct bh_error err = {0};
    BH_STRBUF got = {0};
    (void)state;
    assert_int_equal(bh_sigv4_presign(&s3_signer, &req, 86400, &got, &err), 0);
    assert_string_equal(
        got.data,
        "X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
}

/* Signatures that botocore 1.43 gives for the same request. */
#define AWKWARD       "/a b+c%d/!*'()=&~/\u00e9//./../\x01\x7f.db"
#define AWKWARD_TOKEN "to/ken+with=="

static void awkward_key_is_presigned(void **state)
{
    struct bh_sigv4_signer by = s3_signer;
    const struct bh_pair host = {"host", S3_HOST},
                         query = {"response-content-type", "text/plain; charset=x"};
    const struct bh_sigv4_request req = {"GET", AWKWARD, &query, 1, &host, 1, NULL};
    struct bh_error err = {0};
    BH_STRBUF got = {0};
    (void)state;
    by.session_token = AWKWARD_TOKEN;
    assert_int_equal(bh_sigv4_presign(&by, &req, 604800, &got, &err), 0);
    assert_string_equal(
        got.data,
        "X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=604800"
        "&X-Amz-Security-Token=to%2Fken%2Bwith%3D%3D&X-Amz-SignedHeaders=host"
        "&response-content-type=text%2Fplain%3B%20charset%3Dx"
        "&X-Amz-Signature=5eb8638a05c6f08fb78063a7c5057c889f92b8508416b3288902b0583071f505");
}

static void awkward_key_is_signed(void **state)
{
    (void)state;
    check_example(&s3_signer, "20130524/us-east-1/s3/aws4_request",
                  &(struct example){.name = "awkward key",
                                    .method = "GET",
                                    .path = AWKWARD,
                                    .headers = {{"Host", S3_HOST}},
                                    .payload_hash = BH_SIGV4_UNSIGNED,
                                    .token = AWKWARD_TOKEN,
                                    .names = "host;x-amz-content-sha256;x-amz-date;"
                                             "x-amz-security-token",
                                    .signature = "45ac225fb5282d731b7f39b34ace54d2"
                                                 "b3f34c877ce8f01bda3d4245496c409d"});
}

static void presign_validity(void **state)
{
    static const struct {
        int64_t seconds;
        int rc;
    } cases[] = {{1, 0},           {604800, 0},         {0, EINVAL},        {-1, EINVAL},
                 {604801, EINVAL}, {INT64_MAX, EINVAL}, {INT64_MIN, EINVAL}};
    const struct bh_pair host = {"host", S3_HOST};
    const struct bh_sigv4_request req = {"GET", "/k", NULL, 0, &host, 1, NULL};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct bh_error err = {0};
        BH_STRBUF got = {0};
        assert_int_equal(bh_sigv4_presign(&s3_signer, &req, cases[i].seconds, &got, &err),
                         cases[i].rc);
        if (cases[i].rc)
            assert_non_null(strstr(err.text, "1 to 604800 seconds"));
        else
            assert_non_null(strstr(got.data, "&X-Amz-Expires="));
    }
}

/* --- encoding --- */

static void encoded_paths(void **state)
{
    static const struct {
        const char *path, *encoded;
    } cases[] = {
        {"/", "/"},
        {"/" UNRESERVED, "/" UNRESERVED},
        {"/a b", "/a%20b"},
        {"/a+b", "/a%2Bb"},
        {"/100%", "/100%25"},
        {"/%41", "/%2541"}, /* what looks encoded is not */
        {"/!*'()", "/%21%2A%27%28%29"},
        {"/a=b&c;d", "/a%3Db%26c%3Bd"},
        {"/#?[]@:$,", "/%23%3F%5B%5D%40%3A%24%2C"},
        {"/\"<>\\^`{|}", "/%22%3C%3E%5C%5E%60%7B%7C%7D"},
        {"/~user", "/~user"},
        {"//a//b//", "//a//b//"},
        {"/.", "/."},
        {"/..", "/.."},
        {"/a/./../b", "/a/./../b"},
        {"/\x01\t\n\r\x1f\x7f", "/%01%09%0A%0D%1F%7F"},
        {"/\u00e9\u20ac\U0001f600", "/%C3%A9%E2%82%AC%F0%9F%98%80"},
        {"/\xff", "/%FF"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        BH_STRBUF got = {0};
        bh_sigv4_encode_path(&got, cases[i].path);
        assert_string_equal(got.data, cases[i].encoded);
    }
}

static void encoded_long_path(void **state)
{
    char path[1 + 1024 + 1] = "/", encoded[1 + 3 * 1024 + 1] = "/";
    BH_STRBUF got = {0};
    (void)state;
    for (int i = 0; i < 512; i++) {
        memcpy(path + 1 + 2 * i, "\u00e9", 3);
        memcpy(encoded + 1 + 6 * i, "%C3%A9", 7);
    }
    bh_sigv4_encode_path(&got, path);
    assert_string_equal(got.data, encoded);
}

static void encoded_queries(void **state)
{
    static const struct {
        struct bh_pair query[PAIRS_MAX];
        const char *encoded;
    } cases[] = {
        {{{NULL, NULL}}, ""},
        {{{"uploads", ""}}, "uploads="},
        {{{"uploads", NULL}}, "uploads="},
        {{{"prefix", "a/b"}, {"delimiter", "/"}}, "delimiter=%2F&prefix=a%2Fb"},
        {{{"b", "1"}, {"B", "1"}, {"a", "1"}, {"A", "1"}}, "A=1&B=1&a=1&b=1"},
        {{{"a", "2"}, {"a", "10"}, {"a", ""}}, "a=&a=10&a=2"},
        {{{"a-b", "1"}, {"a", "1"}, {"a.b", "1"}, {"ab", "1"}}, "a=1&a-b=1&a.b=1&ab=1"},
        /* sorted as they are encoded: "%7B" comes before "z", '{' after it */
        {{{"z", "1"}, {"{", "1"}}, "%7B=1&z=1"},
        {{{"a", "z"}, {"a", "{"}}, "a=%7B&a=z"},
        {{{"k", "a b+c&d=e~f%"}}, "k=a%20b%2Bc%26d%3De~f%25"},
        {{{"a&b=c", "d"}}, "a%26b%3Dc=d"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        BH_STRBUF got = {0};
        bh_sigv4_encode_query(&got, cases[i].query, pair_count(cases[i].query));
        assert_string_equal(got.data, cases[i].encoded);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(s3_examples),
        cmocka_unit_test(general_example),
        cmocka_unit_test(suite_of_paths),
        cmocka_unit_test(suite_of_queries),
        cmocka_unit_test(suite_of_headers),
        cmocka_unit_test(dates),
        cmocka_unit_test(refusals),
        cmocka_unit_test(appends),
        cmocka_unit_test(presign_example),
        cmocka_unit_test(awkward_key_is_presigned),
        cmocka_unit_test(awkward_key_is_signed),
        cmocka_unit_test(presign_validity),
        cmocka_unit_test(encoded_paths),
        cmocka_unit_test(encoded_long_path),
        cmocka_unit_test(encoded_queries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
