/* The S3 backend's life, and what is about the bucket as a whole. */
#include "bucket/s3/s3.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bucket/s3/s3_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

/* Before a trial, and on AWS, which documents that it can all of it. */
#define CAPS_ASSUMED                                                                               \
    (BH_CAP_IF_NONE_MATCH | BH_CAP_IF_MATCH | BH_CAP_COPY_IF_MATCH | BH_CAP_PRESIGN |              \
     BH_CAP_MP_COND | BH_CAP_PART_COPY | BH_CAP_PART_COPY_IF_MATCH)

/* --- about the bucket --- */

/* Any answer of the store has a Date, refusals too. */
static int s3_server_time(struct bh_bucket *b, int64_t *real_ms, const struct bh_call *call,
                          struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    struct s3_request r = {
        .method = "HEAD", .op = BH_OP_OTHER, .doing = "ask the time of", .call = call};
    int rc = s3_send(s, &r, err);
    int64_t date = s3_date_of(&r.answer);
    bool answered = rc == 0 || (r.answer.status < 500 && s3_is_genuine(&r));
    if (answered && date >= 0) {
        *real_ms = date + (bh_mono_ms() - r.answer.at_ms);
        rc = 0;
    } else if (answered) {
        rc = bh_fail(err, EIO, "the store's answers have no valid Date, so its time is not known");
    }
    s3_request_free(&r);
    return rc;
}

static int s3_make(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    BH_STRBUF xml = {0};
    if (s->aws)
        bh_xml_create_bucket_body(&xml, s->region);
    if (xml.failed)
        return bh_fail(err, ENOMEM, "out of memory");
    const struct bh_source body = {.size = xml.len, .data = xml.data ? xml.data : ""};
    struct s3_request r = {.method = "PUT",
                           .op = BH_OP_OTHER,
                           .doing = "make",
                           .body = &body,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    int rc = s3_send(s, &r, err);
    if (!rc)
        rc = s3_check_empty(s, &r, err);
    if (rc && strcmp(r.error.code, "BucketAlreadyOwnedByYou") == 0)
        rc = 0;
    s3_request_free(&r);
    return rc;
}

static int s3_presign(struct bh_bucket *b, const char *key, int64_t seconds, struct bh_strbuf *url,
                      struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    BH_STRBUF path = {0};
    BH_STRBUF query = {0};
    struct bh_credentials who = {0};
    char host[S3_HOST_MAX], region[S3_REGION_MAX];
    int rc = bh_creds_get(s->creds, &who, NULL, err);
    if (!rc && who.anonymous)
        rc = bh_fail(err, ENOTSUP, "a link to %s cannot be signed without credentials", key);
    s3_place(s, key, host, &path);
    pthread_mutex_lock(&s->mutex);
    memcpy(region, s->region, sizeof region);
    pthread_mutex_unlock(&s->mutex);
    const struct bh_pair headers[] = {{"host", host}};
    const struct bh_sigv4_signer by = {
        who.access_key_id, who.secret_access_key, who.session_token, region, "s3", s3_now_ms(s)};
    const struct bh_sigv4_request what = {.method = "GET",
                                          .path = path.data,
                                          .headers = headers,
                                          .header_count = 1,
                                          .payload_hash = BH_SIGV4_UNSIGNED};
    if (!rc && path.failed)
        rc = bh_fail(err, ENOMEM, "out of memory");
    if (!rc)
        rc = bh_sigv4_presign(&by, &what, seconds, &query, err);
    if (!rc && who.expires_ms && who.expires_ms < bh_real_ms() + seconds * 1000)
        bh_log(BH_LOG_WARNING,
               "the link to %s ends sooner than asked for, with the temporary "
               "credentials that signed it",
               key);
    if (!rc) {
        bh_strbuf_addf(url, "%s://%s", s->tls ? "https" : "http", host);
        bh_sigv4_encode_path(url, path.data);
        bh_strbuf_addf(url, "?%s", query.data);
        rc = url->failed ? bh_fail(err, ENOMEM, "out of memory") : 0;
    }
    bh_credentials_wipe(&who);
    return rc;
}

static void describe_caps(struct s3 *s, struct bh_strbuf *out)
{
    static const struct {
        unsigned cap;
        const char *name;
    } caps[] = {
        {BH_CAP_IF_NONE_MATCH, "if-none-match"}, {BH_CAP_IF_MATCH, "if-match"},
        {BH_CAP_COPY_IF_MATCH, "copy-if-match"}, {BH_CAP_MP_COND, "conditional-completion"},
        {BH_CAP_PART_COPY, "part-copy"},         {BH_CAP_PART_COPY_IF_MATCH, "part-copy-if-match"}};
    bh_strbuf_addf(out, "store_can:%s", s->learned ? "" : " (not tried yet)");
    for (size_t i = 0; s->learned && i < sizeof caps / sizeof caps[0]; i++)
        if (s->caps & caps[i].cap)
            bh_strbuf_addf(out, " %s", caps[i].name);
    bh_strbuf_addf(out, "\n");
}

static void s3_describe(struct bh_bucket *b, struct bh_strbuf *out)
{
    struct s3 *s = s3_of(b);
    BH_STRBUF path = {0};
    char host[S3_HOST_MAX], origin[256];
    s3_place(s, NULL, host, &path);
    bh_creds_origin(s->creds, origin, sizeof origin);
    BH_LOCK_SCOPE(&s->mutex);
    bh_strbuf_addf(out, "endpoint: %s://%s\n", s->tls ? "https" : "http", host);
    bh_strbuf_addf(out, "region: %s\n", s->region);
    bh_strbuf_addf(out, "addressing: %s\n", s->path_style ? "path" : "virtual");
    bh_strbuf_addf(out, "credentials: %s\n", origin);
    if (s->server[0])
        bh_strbuf_addf(out, "server: %s\n", s->server);
    if (atomic_load(&s->skew_ms))
        bh_strbuf_addf(out, "clock_skew_seconds: %lld\n",
                       (long long)(atomic_load(&s->skew_ms) / 1000));
    describe_caps(s, out);
}

static void s3_stats(struct bh_bucket *b, struct bh_bucket_stats *out)
{
    bh_counters_read(&s3_of(b)->counters, out);
    out->connects = bh_http_connects(s3_of(b)->http);
}

static void s3_close(struct bh_bucket *b)
{
    struct s3 *s = s3_of(b);
    bh_creds_free(s->creds);
    bh_http_free(s->http);
    pthread_mutex_destroy(&s->mutex);
    pthread_mutex_destroy(&s->learning);
    free(s->endpoint_host);
    free(s->endpoint_path);
    free(s);
}

static const struct bh_bucket_ops s3_ops = {
    .name = "s3",
    .close = s3_close,
    .caps = s3_caps,
    .get = s3_get,
    .put = s3_put,
    .head = s3_head,
    .copy = s3_copy,
    .del = s3_delete,
    .del_many = s3_delete_many,
    .list = s3_list,
    .mp_begin = s3_mp_begin,
    .mp_part = s3_mp_part,
    .mp_part_copy = s3_mp_part_copy,
    .mp_complete = s3_mp_complete,
    .mp_abort = s3_mp_abort,
    .mp_list = s3_mp_list,
    .presign = s3_presign,
    .server_time = s3_server_time,
    .learn = s3_learn,
    .make = s3_make,
    .describe = s3_describe,
    .stats = s3_stats,
};

/* --- opening --- */

static bool ends_in(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcasecmp(text + a - b, end) == 0;
}

static bool is_aws(const char *host)
{
    return ends_in(host, ".amazonaws.com") || ends_in(host, ".amazonaws.com.cn");
}

/* "https://HOST:PORT/BASE" taken apart; "" is AWS. */
static int take_endpoint(struct s3 *s, struct bh_error *err)
{
    const char *url = s->cfg->bucket.endpoint_url;
    s->tls = true;
    s->aws = true;
    if (!url || !*url)
        return 0;
    s->tls = strncasecmp(url, "https://", 8) == 0;
    const char *host = url + (s->tls ? 8 : 7);
    size_t len = strcspn(host, "/");
    if (!s->tls && strncasecmp(url, "http://", 7) != 0)
        return bh_fail(err, EINVAL,
                       "bucket.endpoint_url is http://HOST or https://HOST, not %.100s", url);
    if (len == 0 || len + strlen(s->cfg->bucket.name) + 2 > S3_HOST_MAX)
        return bh_fail(err, EINVAL, "bucket.endpoint_url names no valid host");
    s->endpoint_host = strndup(host, len);
    s->endpoint_path = strdup(host + len);
    if (!s->endpoint_host || !s->endpoint_path)
        return bh_fail(err, ENOMEM, "out of memory");
    for (size_t n = strlen(s->endpoint_path); n > 0 && s->endpoint_path[n - 1] == '/';)
        s->endpoint_path[--n] = '\0';
    s->aws = is_aws(s->endpoint_host);
    return 0;
}

/* "127.0.0.1:9000", "[::1]:9000". */
static bool is_address(const char *host)
{
    size_t len = strcspn(host, ":");
    return host[0] == '[' || (len > 0 && strspn(host, "0123456789.") == len);
}

static void take_addressing(struct s3 *s)
{
    const char *name = s->cfg->bucket.name;
    /* a certificate for *.s3.REGION.amazonaws.com does not cover a name with dots */
    bool host_fits = !(s->tls && strchr(name, '.'));
    bool virtual = s->cfg->bucket.addressing == BH_ADDRESSING_VIRTUAL ||
                   (s->cfg->bucket.addressing == BH_ADDRESSING_AUTO && s->aws && host_fits);
    s->path_style = !virtual;
}

static void take_region(struct s3 *s)
{
    const char *region = s->cfg->bucket.region;
    BH_FREE char *profile = NULL;
    if (s->aws && !bh_config_where(s->cfg, "bucket", "region"))
        profile = bh_creds_profile_region(s->cfg);
    snprintf(s->region, sizeof s->region, "%s",
             profile             ? profile
             : region && *region ? region
                                 : "us-east-1");
}

static int open_parts(struct s3 *s, struct bh_error *err)
{
    const struct bh_config *cfg = s->cfg;
    const char *proxy = cfg->bucket.proxy && *cfg->bucket.proxy ? cfg->bucket.proxy : NULL;
    struct bh_http_options options = {.connections = (unsigned)cfg->bucket.connections,
                                      .connect_timeout_ms = cfg->bucket.connect_timeout_ms,
                                      .timeout_ms = cfg->bucket.timeout_ms,
                                      .proxy = proxy && strcmp(proxy, "none") == 0 ? "" : proxy,
                                      .ca_file = NULL};
    int rc = take_endpoint(s, err);
    if (rc)
        return rc;
    if (s->tls)
        options.ca_file = cfg->bucket.ca_file;
    if (!s->tls && cfg->bucket.payload == BH_PAYLOAD_UNSIGNED)
        return bh_fail(
            err, EINVAL,
            "bucket.payload = unsigned needs https: without it nothing would protect what "
            "is sent; leave it at auto");
    take_addressing(s);
    if (!s->path_style && s->endpoint_host && is_address(s->endpoint_host))
        return bh_fail(
            err, EINVAL,
            "bucket.addressing = virtual needs a host name in the endpoint, not the address "
            "%s: the bucket's name is put before it",
            s->endpoint_host);
    take_region(s);
    s->caps = CAPS_ASSUMED;
    s->learned = s->aws;
    rc = bh_http_new(&s->http, &options, err);
    return rc ? rc : bh_creds_new(&s->creds, cfg, err);
}

int bh_bucket_s3_open(struct bh_bucket **out, const struct bh_config *cfg, struct bh_error *err)
{
    if (!cfg->bucket.name || !*cfg->bucket.name)
        return bh_fail(err, EINVAL, "no bucket is named: s3://BUCKET/PREFIX");
    struct s3 *s = calloc(1, sizeof *s);
    if (!s)
        return bh_fail(err, ENOMEM, "out of memory while opening the bucket");
    s->base.ops = &s3_ops;
    s->cfg = cfg;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_mutex_init(&s->learning, NULL);
    int rc = open_parts(s, err);
    if (rc) {
        s3_close(&s->base);
        return rc;
    }
    *out = &s->base;
    return 0;
}
