/* Why a transfer failed, in words for people. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bucket/s3/http_private.h"

int http_host_length(const char *url)
{
    const char *host = strstr(url, "://");
    return host ? (int)(host + 3 - url) + (int)strcspn(host + 3, "/?") : (int)strcspn(url, "/?");
}

static int code_of(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
        return ETIMEDOUT;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
        return EACCES;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return EINVAL;
    case CURLE_OUT_OF_MEMORY:
        return ENOMEM;
    default:
        return EIO;
    }
}

/* Whether libcurl may have asked a proxy that the environment names. */
static bool environment_has_proxy(void)
{
    static const char *const names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
                                        "ALL_PROXY"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (getenv(names[i]) && *getenv(names[i]))
            return true;
    return false;
}

static int untrusted(struct exchange *x, int len, const char *why)
{
    const char *ca_file = x->http->ca_file;
    if (strstr(why, "subject name"))
        return bh_fail(
            x->err, EACCES,
            "the certificate of %.*s is for another name (%s); use the name that it has in "
            "bucket.endpoint_url",
            len, x->req->url, why);
    if (ca_file)
        return bh_fail(x->err, EACCES,
                       "the certificate of %.*s cannot be trusted (%s): it is not signed by what "
                       "bucket.ca_file, %s, holds",
                       len, x->req->url, why, ca_file);
    return bh_fail(
        x->err, EACCES,
        "the certificate of %.*s cannot be trusted (%s); if it is signed by an authority "
        "of your own, name its certificate with bucket.ca_file",
        len, x->req->url, why);
}

static const char *hint(const struct exchange *x, CURLcode code)
{
    const char *proxy = x->http->proxy;
    if (proxy && *proxy)
        return " (asked through the proxy of bucket.proxy)";
    if (!proxy && environment_has_proxy())
        return " (asked through the proxy of the environment, if no_proxy does not except it)";
    if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
        return "; check bucket.endpoint_url";
    if (code == CURLE_SSL_CONNECT_ERROR)
        return "; is it an https server? (bucket.endpoint_url)";
    return "";
}

int http_failed(struct exchange *x, CURLcode code, const char *detail)
{
    int rc = code_of(code);
    int len = http_host_length(x->req->url);
    const char *why = detail && *detail ? detail : curl_easy_strerror(code);
    if (rc == ENOMEM && x->header_bytes > 0 && !x->head_done) /* libcurl's own limit of a line */
        return bh_fail(x->err, EIO, "the headers of the answer of %.*s are too long", len,
                       x->req->url);
    if (code == CURLE_UNSUPPORTED_PROTOCOL && strncasecmp(x->req->url, "http", 4) == 0)
        return bh_fail(x->err, EIO, "what answers at %.*s is no HTTP server", len, x->req->url);
    if (rc == EACCES)
        return untrusted(x, len, why);
    if (x->a->replied)
        return bh_fail(x->err, rc, "the answer of %.*s was cut or is malformed: %s", len,
                       x->req->url, why);
    return bh_fail(x->err, rc, "no answer from %.*s: %s%s", len, x->req->url, why, hint(x, code));
}
