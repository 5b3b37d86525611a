/* The HTTP client and TLS: a server is believed only by a certificate that holds, and what TLS did
 * not end is no whole answer. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "bad_server.h"
#include "bucket/s3/http.h"
#include "bucket_helpers.h"
#include "util/cleanup.h"

enum { GOOD, EXPIRED, OTHER_NAME, KINDS };

static char directory[] = "/tmp/bh-tls-XXXXXX";
static char files[KINDS][64];

/* --- certificates --- */

static void add_extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(e);
    assert_int_equal(X509_add_ext(cert, e, -1), 1);
    X509_EXTENSION_free(e);
}

/* A certificate that signs itself, and its key, in one file. */
static void write_certificate(const char *file, const char *names, long from_s, long to_s)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    assert_true(key && cert);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), from_s);
    X509_gmtime_adj(X509_getm_notAfter(cert), to_s);
    X509_set_pubkey(cert, key);
    X509_NAME *name = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(cert, name);
    add_extension(cert, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(cert, NID_subject_alt_name, names);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    BH_FILE FILE *f = fopen(file, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
    assert_int_equal(PEM_write_X509(f, cert), 1);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static int group_setup(void **state)
{
    static const char *const names[] = {"good", "expired", "other"};
    if (!mkdtemp(directory))
        return -1;
    for (int i = 0; i < KINDS; i++) {
        snprintf(files[i], sizeof files[i], "%s/%s.pem", directory, names[i]);
        bad_tls[i] = files[i];
    }
    write_certificate(files[GOOD], "IP:127.0.0.1,DNS:localhost", -3600, 3600);
    write_certificate(files[EXPIRED], "IP:127.0.0.1", -7200, -3600);
    write_certificate(files[OTHER_NAME], "DNS:store.example.org", -3600, 3600);
    return bad_start(state);
}

static int group_teardown(void **state)
{
    for (int i = 0; i < KINDS; i++)
        unlink(files[i]);
    rmdir(directory);
    return bad_stop(state);
}

static int setup(void **state)
{
    if (bad_fresh(state))
        return -1;
    bad_set("auth=0");
    return 0;
}

/* --- requests --- */

/* trusted: the certificate that is trusted, or KINDS for the system's. */
static int ask(const char *method, const char *scheme, int port, int trusted, struct got *body)
{
    struct bh_http *http;
    struct bh_http_answer a;
    char url[64];
    const struct bh_source src = {.size = 5, .data = "hello"};
    const struct bh_http_options options = {.connections = 1,
                                            .connect_timeout_ms = 1000,
                                            .timeout_ms = 1000,
                                            .proxy = "",
                                            .ca_file = trusted < KINDS ? files[trusted] : NULL};
    must(bh_http_new(&http, &options, ERR));
    snprintf(url, sizeof url, "%s://127.0.0.1:%d/b/k", scheme, port);
    const struct bh_http_request req = {
        .method = method, .url = url, .body = *method == 'P' ? &src : NULL, .keep_body = 1000};
    int rc = bh_http_do(http, &req, &a, NULL, ERR);
    if (rc == 0 && a.status != 200)
        rc = bh_fail(ERR, EREMOTEIO, "status %d", a.status);
    if (rc == 0 && body)
        must(got_take(body, a.body.data ? a.body.data : "", a.body.len, ERR));
    bh_http_answer_free(&a);
    bh_http_free(http);
    return rc;
}

static void a_certificate_that_holds(void **state)
{
    struct got body = {0};
    must(ask("PUT", "https", bad_other_port, GOOD, NULL));
    must(ask("GET", "https", bad_other_port, GOOD, &body));
    assert_string_equal(body.data, "hello");
    got_free(&body);
}

static void certificates_that_do_not_hold(void **state)
{
    must_say(ask("PUT", "https", bad_other_port, KINDS, NULL), EACCES,
             "https://127.0.0.1|certificate|ca_file");
    must_say(ask("PUT", "https", bad_other_port, OTHER_NAME, NULL), EACCES, "certificate");
    bad_set("tls=%d", EXPIRED);
    must_say(ask("PUT", "https", bad_other_port, EXPIRED, NULL), EACCES, "certificate|expired");
    bad_set("tls=%d", OTHER_NAME);
    must_say(ask("PUT", "https", bad_other_port, OTHER_NAME, NULL), EACCES, "certificate");
    assert_int_equal(bad_count("put"), 0); /* nothing was sent to them */
}

static void what_is_no_tls(void **state)
{
    must_say(ask("GET", "https", bad_port, GOOD, NULL), ETIMEDOUT, "127.0.0.1"); /* it waits, too */
    must_say(ask("GET", "http", bad_other_port, GOOD, NULL), EIO, "127.0.0.1");
    bad_rule("op=accept times=0 do=stall");
    clock_start();
    must_say(ask("GET", "https", bad_other_port, GOOD, NULL), ETIMEDOUT, "127.0.0.1");
    clock_within(1500);
    bad_no_rules();
    bad_rule("op=accept times=0 do=reset");
    int rc = ask("GET", "https", bad_other_port, GOOD, NULL);
    must_say(rc, rc == EIO ? EIO : ETIMEDOUT, "127.0.0.1");
    bad_no_rules();
    bad_rule("op=accept times=0 do=close how=close");
    must_say(ask("GET", "https", bad_other_port, GOOD, NULL), EIO, "127.0.0.1");
}

static void a_missing_ca_file(void **state)
{
    struct bh_http *http = NULL;
    const struct bh_http_options options = {.connections = 1, .ca_file = "/nonexistent/ca.pem"};
    must_say(bh_http_new(&http, &options, ERR), EINVAL, "/nonexistent/ca.pem");
}

/* A body without a length ends with the connection; libcurl does not ask whether TLS ended, too, so
 * that who must not take half for the whole asks for a length or an end tag (S3 does). */
static void cut_by_who_is_in_between(void **state)
{
    static const char *const rules[] = {"do=cut", "do=reset_answer", "do=chunked at=2",
                                        "do=cut_headers", "do=lost how=close"};
    struct got body = {0};
    must(ask("PUT", "https", bad_other_port, GOOD, NULL));
    bad_rule("op=get do=goodbye");
    must(ask("GET", "https", bad_other_port, GOOD, &body));
    assert_string_equal(body.data, "hello");
    got_free(&body);
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        bad_no_rules();
        bad_rule("op=get %s", rules[i]);
        if (!says(rules[i], ask("GET", "https", bad_other_port, GOOD, NULL), EIO, ""))
            fail();
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup(f, setup)
    const struct CMUnitTest tests[] = {
        TEST(a_certificate_that_holds), TEST(certificates_that_do_not_hold), TEST(what_is_no_tls),
        TEST(a_missing_ca_file),        TEST(cut_by_who_is_in_between),
    };
    return cmocka_run_group_tests_name("HTTP over TLS", tests, group_setup, group_teardown);
}
