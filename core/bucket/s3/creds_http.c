/* Small requests to STS and metadata services, their answers in memory that is wiped. */
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "bucket/s3/creds_private.h"
#include "bucket/s3/xml.h"
#include "util/clock.h"

#define RETRY_MS  100 /* before the second try; twice that before the third */
#define AHEAD_MIN 60000

void bh_creds_answer_free(struct bh_creds_answer *a)
{
    bh_secret_free(&a->body);
}

static int on_head(void *arg, const struct bh_http_answer *http, bool *stream, struct bh_error *err)
{
    struct bh_creds_answer *a = arg;
    const char *date = bh_http_header(http, "date");
    int64_t then = date ? bh_parse_http_time(date) : -1;
    int64_t ahead = then < 0 ? 0 : then - bh_real_ms();
    a->ahead_ms = ahead > AHEAD_MIN || ahead < -AHEAD_MIN ? ahead : 0;
    *stream = true;
    return 0;
}

static int on_body(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct bh_creds_answer *a = arg;
    if (!bh_secret_add(&a->body, data, len))
        return bh_fail(err, EIO, "an answer of more than %zu bytes", BH_CREDS_ANSWER_MAX);
    return 0;
}

/* STS says 400 to those who ask too often, or while it cannot reach the identity provider. */
static bool worth_another(const struct bh_creds_answer *a)
{
    return a->status >= 500 || a->status == 429 ||
           (a->status == 400 && (strstr(a->body.data, "<Code>Throttling") ||
                                 strstr(a->body.data, "<Code>IDPCommunicationError")));
}

int bh_creds_ask(struct bh_http *http, const struct bh_http_request *req, unsigned tries,
                 struct bh_creds_answer *a, const struct bh_call *call, struct bh_error *err)
{
    struct bh_http_request with = *req;
    with.head = on_head;
    with.sink = on_body;
    with.arg = a;
    for (unsigned i = 1;; i++) {
        struct bh_http_answer answer;
        bh_secret_free(&a->body);
        a->ahead_ms = 0;
        int rc = bh_secret_new(&a->body, BH_CREDS_ANSWER_MAX, err);
        if (rc)
            return rc;
        rc = bh_http_do(http, &with, &answer, call, err);
        a->status = answer.status;
        bh_http_answer_free(&answer);
        bool again = rc ? rc == ETIMEDOUT || rc == EIO : worth_another(a);
        if (!again || i >= tries)
            return rc;
        rc = bh_call_sleep(call, RETRY_MS << (i - 1), "finding credentials", err);
        if (rc)
            return rc;
    }
}

static bool copy_part(CURLU *u, CURLUPart part, char *out, size_t size)
{
    char *text = NULL;
    *out = '\0';
    if (curl_url_get(u, part, &text, 0) != CURLUE_OK)
        return part != CURLUPART_HOST && part != CURLUPART_SCHEME;
    bool fits = strlen(text) < size;
    if (fits)
        strcpy(out, text);
    curl_free(text);
    return fits;
}

int bh_creds_url_parse(struct bh_creds_url *out, const char *what, const char *url,
                       struct bh_error *err)
{
    char scheme[16] = "", user[16], query[512];
    CURLU *u = curl_url();
    if (!u)
        return bh_fail(err, ENOMEM, "out of memory");
    bool ok = curl_url_set(u, CURLUPART_URL, url, CURLU_DISALLOW_USER) == CURLUE_OK &&
              copy_part(u, CURLUPART_SCHEME, scheme, sizeof scheme) &&
              copy_part(u, CURLUPART_HOST, out->host, sizeof out->host) &&
              copy_part(u, CURLUPART_PORT, out->port, sizeof out->port) &&
              copy_part(u, CURLUPART_PATH, out->path, sizeof out->path) &&
              copy_part(u, CURLUPART_USER, user, sizeof user) &&
              copy_part(u, CURLUPART_QUERY, query, sizeof query) && !*user;
    curl_url_cleanup(u);
    out->tls = strcmp(scheme, "https") == 0;
    if (!ok || (!out->tls && strcmp(scheme, "http") != 0))
        return bh_fail(err, EACCES, "%s is no URL of the form http(s)://HOST[:PORT]/PATH", what);
    if (strcmp(out->port, out->tls ? "443" : "80") == 0)
        *out->port = '\0';
    if (!*out->path)
        strcpy(out->path, "/");
    return 0;
}
