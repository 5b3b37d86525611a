/* Links, and the store's clock. */
#include "bucket_suite.h"

#include <curl/curl.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "util/cleanup.h"
#include "util/clock.h"

static size_t take_body(char *data, size_t size, size_t n, void *arg)
{
    bh_strbuf_add(arg, data, size * n);
    return size * n;
}

/* GETs the URL as anybody would; the status. */
static long fetch(const char *url, struct bh_strbuf *body)
{
    long status = 0;
    CURL *c = curl_easy_init();
    assert_non_null(c);
    bh_strbuf_reset(body);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, body);
    CURLcode rc = curl_easy_perform(c);
    if (rc != CURLE_OK)
        fail_msg("%s: %s", url, curl_easy_strerror(rc));
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(c);
    return status;
}

static void fetch_key(const char *key)
{
    BH_STRBUF url = {0};
    BH_STRBUF body = {0};
    must_put(bucket, key, key);
    must(bh_bucket_presign(bucket, key, 604800, &url, ERR));
    long status = fetch(url.data, &body);
    if (status != 200)
        print_error("%s: %ld %s\n", url.data, status, body.len ? body.data : "");
    assert_int_equal(status, 200);
    assert_string_equal(body.data, key);
    char *end = url.data + strlen(url.data) - 1; /* of the signature */
    *end = *end == '0' ? '1' : '0';
    assert_int_equal(fetch(url.data, &body), 403);
}

void test_presign(void **state)
{
    BH_STRBUF url = {0};
    BH_STRBUF body = {0};
    must_put(bucket, k("url"), "x");
    must_fail(bh_bucket_presign(bucket, k("url"), 0, &url, ERR), EINVAL);
    must_fail(bh_bucket_presign(bucket, k("url"), 604801, &url, ERR), EINVAL);
    if (!has(BH_CAP_PRESIGN)) {
        must_fail(bh_bucket_presign(bucket, k("url"), 60, &url, ERR), ENOTSUP);
        return;
    }
    fetch_key(k("url"));
    fetch_key(k("url/a b+c%20&=?#\xc3\xbc"));
    fetch_key(k("url//a/../b/./c/"));
    fetch_key(k("url/~!*'()"));
    must(bh_bucket_presign(bucket, k("url"), 1, &url, ERR));
    usleep(2200000);
    assert_int_equal(fetch(url.data, &body), 403); /* expired */
}

void test_server_time(void **state)
{
    int64_t now = 0;
    must(bh_bucket_server_time(bucket, &now, NULL, ERR));
    assert_true(llabs(now - bh_real_ms()) < 24 * 3600 * 1000);
}
