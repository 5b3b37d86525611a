/* One request: place, payload hash, signature, and the second try that a store asks for by naming
 * the right region, host or time, or by refusing credentials that have expired. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bucket/s3/checksum.h"
#include "bucket/s3/s3_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/sha256.h"

#define TRIES_MAX          10 /* redirects, a region, a clock and a renewed key may come together */
#define RETRY_AFTER_MAX_MS 60000
#define SIGN_IN_MEMORY_MAX ((uint64_t)1 << 20)

/* What one request is sent with; may differ at the next try. */
struct attempt {
    char host[S3_HOST_MAX]; /* of a redirect; "" */
    char *raw_path;         /* of a redirect; NULL */
    char hash[BH_SHA256_HEX];
    char checksum[48];
    char access_key_id[256]; /* that it was signed with */
    bool renewed, timed;
};

void s3_header(struct s3_request *r, const char *name, const char *value)
{
    if (r->header_count < S3_HEADERS_MAX)
        r->headers[r->header_count++] = (struct bh_pair){name, value};
}

void s3_request_free(struct s3_request *r)
{
    bh_http_answer_free(&r->answer);
    r->answer = (struct bh_http_answer){0};
}

int64_t s3_now_ms(struct s3 *s)
{
    return bh_real_ms() + atomic_load(&s->skew_ms);
}

void s3_creation_headers(struct s3 *s, struct s3_request *r)
{
    const struct bh_config *cfg = s->cfg;
    if (cfg->bucket.storage_class && *cfg->bucket.storage_class)
        s3_header(r, "x-amz-storage-class", cfg->bucket.storage_class);
    if (cfg->bucket.sse != BH_SSE_NONE)
        s3_header(r, "x-amz-server-side-encryption",
                  cfg->bucket.sse == BH_SSE_KMS ? "aws:kms" : "AES256");
    if (cfg->bucket.sse == BH_SSE_KMS && cfg->bucket.sse_kms_key_id && *cfg->bucket.sse_kms_key_id)
        s3_header(r, "x-amz-server-side-encryption-aws-kms-key-id", cfg->bucket.sse_kms_key_id);
}

/* --- where it goes --- */

static void host_of(struct s3 *s, char host[S3_HOST_MAX])
{
    const char *name = s->path_style ? "" : s->cfg->bucket.name, *dot = *name ? "." : "";
    BH_LOCK_SCOPE(&s->mutex);
    if (s->moved_host[0])
        snprintf(host, S3_HOST_MAX, "%s", s->moved_host);
    else if (s->endpoint_host)
        snprintf(host, S3_HOST_MAX, "%s%s%s", name, dot, s->endpoint_host);
    else
        snprintf(host, S3_HOST_MAX, "%s%ss3.%s.amazonaws.com%s", name, dot, s->region,
                 strncmp(s->region, "cn-", 3) == 0 ? ".cn" : "");
}

void s3_place(struct s3 *s, const char *key, char host[S3_HOST_MAX], struct bh_strbuf *path)
{
    host_of(s, host);
    bh_strbuf_addf(path, "%s/", s->endpoint_path ? s->endpoint_path : "");
    if (s->path_style)
        bh_strbuf_addf(path, "%s%s", s->cfg->bucket.name, key ? "/" : "");
    if (key)
        bh_strbuf_add(path, key, strlen(key));
}

/* --- the body's hash --- */

static int hash_body(struct s3_request *r, char hex[BH_SHA256_HEX], struct bh_error *err)
{
    const struct bh_source *src = r->body;
    if (src->data) {
        int rc = bh_sha256_hex_of(src->data, (size_t)src->size, hex);
        return rc ? bh_fail(err, rc, "out of memory while hashing") : 0;
    }
    struct bh_sha256 *h = bh_sha256_new();
    BH_FREE char *buf = malloc(BH_CHUNK);
    int rc = h && buf ? 0 : bh_fail(err, ENOMEM, "out of memory while hashing");
    for (uint64_t at = 0; !rc && at < src->size; at += BH_CHUNK) {
        size_t n = src->size - at < BH_CHUNK ? (size_t)(src->size - at) : BH_CHUNK;
        rc = bh_call_check(r->call, "hashing the body", err);
        if (!rc)
            rc = bh_source_read(src, at, buf, n, err);
        if (!rc)
            bh_sha256_update(h, buf, n);
    }
    if (!rc)
        bh_sha256_hex(h, hex);
    bh_sha256_free(h);
    return rc;
}

static bool signs_payload(const struct s3 *s, const struct bh_source *body)
{
    if (!s->tls || s->cfg->bucket.payload == BH_PAYLOAD_SIGNED)
        return true;
    return s->cfg->bucket.payload == BH_PAYLOAD_AUTO && body->data &&
           body->size <= SIGN_IN_MEMORY_MAX;
}

static void checksum_of_hash(struct attempt *t)
{
    unsigned char raw[32];
    if (s3_unhex(t->hash, raw, sizeof raw)) /* it is our own */
        bh_base64(raw, sizeof raw, t->checksum);
}

static int payload(struct s3 *s, struct s3_request *r, struct attempt *t, struct bh_error *err)
{
    int rc = 0;
    if (!r->body || r->body->size == 0)
        memcpy(t->hash, BH_SIGV4_EMPTY, sizeof BH_SIGV4_EMPTY);
    else if (r->payload_hash)
        snprintf(t->hash, sizeof t->hash, "%s", r->payload_hash);
    else if (signs_payload(s, r->body))
        rc = hash_body(r, t->hash, err);
    else
        memcpy(t->hash, BH_SIGV4_UNSIGNED, sizeof BH_SIGV4_UNSIGNED);
    if (!rc && r->checksum && s->aws && strlen(t->hash) == 64)
        checksum_of_hash(t);
    return rc;
}

/* --- signing --- */

struct wire {
    struct bh_pair headers[S3_HEADERS_MAX + 8];
    size_t count;
    char host[S3_HOST_MAX];
    char date[BH_SIGV4_DATE];
    struct bh_strbuf authorization, url;
};

static void wire_add(struct wire *w, const char *name, const char *value)
{
    w->headers[w->count++] = (struct bh_pair){name, value};
}

static void wire_free(struct wire *w)
{
    bh_strbuf_free(&w->authorization);
    bh_strbuf_free(&w->url);
}

static int sign(struct s3 *s, struct s3_request *r, const struct attempt *t,
                const struct bh_credentials *who, const char *path, struct wire *w,
                struct bh_error *err)
{
    char region[S3_REGION_MAX];
    pthread_mutex_lock(&s->mutex);
    memcpy(region, s->region, sizeof region);
    pthread_mutex_unlock(&s->mutex);
    const struct bh_sigv4_signer by = {.access_key_id = who->access_key_id,
                                       .secret_access_key = who->secret_access_key,
                                       .session_token = who->session_token,
                                       .region = region,
                                       .service = "s3",
                                       .time_ms = s3_now_ms(s)};
    const struct bh_sigv4_request what = {.method = r->method,
                                          .path = path,
                                          .query = r->query,
                                          .query_count = r->query_count,
                                          .headers = w->headers,
                                          .header_count = w->count,
                                          .payload_hash = t->hash};
    int rc = bh_sigv4_sign(&by, &what, w->date, &w->authorization, err);
    if (rc)
        return rc;
    wire_add(w, "x-amz-date", w->date);
    wire_add(w, "x-amz-content-sha256", t->hash);
    if (who->session_token)
        wire_add(w, "x-amz-security-token", who->session_token);
    wire_add(w, "Authorization", w->authorization.data);
    return 0;
}

static int prepare(struct s3 *s, struct s3_request *r, struct attempt *t,
                   const struct bh_credentials *who, struct wire *w, struct bh_error *err)
{
    BH_STRBUF path = {0};
    s3_place(s, r->key, w->host, &path);
    if (t->host[0])
        memcpy(w->host, t->host, sizeof w->host);
    const char *raw = t->raw_path ? t->raw_path : path.data;
    bh_strbuf_addf(&w->url, "%s://%s", s->tls ? "https" : "http", w->host);
    bh_sigv4_encode_path(&w->url, raw);
    if (r->query_count > 0) {
        bh_strbuf_add(&w->url, "?", 1);
        bh_sigv4_encode_query(&w->url, r->query, r->query_count);
    }
    if (path.failed || w->url.failed)
        return bh_fail(err, ENOMEM, "out of memory");
    wire_add(w, "Host", w->host);
    for (size_t i = 0; i < r->header_count; i++)
        wire_add(w, r->headers[i].name, r->headers[i].value);
    if (t->checksum[0])
        wire_add(w, "x-amz-checksum-sha256", t->checksum);
    if (s->cfg->bucket.requester_pays)
        wire_add(w, "x-amz-request-payer", "requester");
    return who->anonymous ? 0 : sign(s, r, t, who, raw, w, err);
}

/* --- second tries --- */

static bool is_one_of(const char *code, const char *const *codes)
{
    for (; *codes; codes++)
        if (strcmp(code, *codes) == 0)
            return true;
    return false;
}

static bool renew_credentials(struct s3 *s, struct s3_request *r, struct attempt *t)
{
    static const char *const codes[] = {"ExpiredToken",         "InvalidToken",
                                        "TokenRefreshRequired", "ExpiredTokenException",
                                        "InvalidAccessKeyId",   NULL};
    if (t->renewed || !is_one_of(r->error.code, codes) ||
        !bh_creds_rejected(s->creds, t->access_key_id))
        return false;
    return t->renewed = true;
}

static bool correct_clock(struct s3 *s, struct s3_request *r, struct attempt *t)
{
    static const char *const codes[] = {"RequestTimeTooSkewed", "RequestInTheFuture",
                                        "RequestExpired", NULL};
    if (t->timed || !is_one_of(r->error.code, codes))
        return false;
    int64_t theirs = bh_parse_iso_time(r->error.server_time);
    if (theirs < 0)
        theirs = s3_date_of(&r->answer);
    if (theirs < 0)
        return false;
    int64_t skew = theirs - (bh_real_ms() - (bh_mono_ms() - r->answer.at_ms));
    atomic_store(&s->skew_ms, skew);
    bh_log(BH_LOG_WARNING,
           "this machine's clock is %.0f s %s the store's; requests are signed with the store's "
           "time, but the clock should be set right",
           (double)(skew < 0 ? -skew : skew) / 1000, skew < 0 ? "ahead of" : "behind");
    return t->timed = true;
}

static bool take_region(struct s3 *s, struct s3_request *r)
{
    const char *named = bh_http_header(&r->answer, "x-amz-bucket-region");
    if (!named || !*named)
        named = r->error.region;
    size_t len = strspn(named, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
    if (len == 0 || named[len] || len >= S3_REGION_MAX)
        return false;
    BH_LOCK_SCOPE(&s->mutex);
    if (strcmp(s->region, named) == 0)
        return false;
    bh_log(BH_LOG_WARNING,
           "the bucket %s is in region %s, not %s: set bucket.region = %s to spare a request at "
           "each start",
           s->cfg->bucket.name, named, s->region, named);
    snprintf(s->region, sizeof s->region, "%s", named);
    return true;
}

/* Percent-decodes a path; NULL where it cannot be one. */
static char *decode_path(const char *text, size_t len)
{
    char *raw = malloc(len + 1);
    size_t n = 0;
    for (size_t i = 0; raw && i < len; i++) {
        unsigned byte = (unsigned char)text[i];
        if (byte == '%') {
            if (len - i < 3 || sscanf(text + i + 1, "%2x", &byte) != 1 || byte == 0) {
                free(raw);
                return NULL;
            }
            i += 2;
        }
        raw[n++] = (char)byte;
    }
    if (raw)
        raw[n] = '\0';
    return raw;
}

/* A Location is followed with a signature of its own, never from TLS to none. */
static bool follow(struct s3 *s, struct s3_request *r, struct attempt *t)
{
    int status = r->answer.status;
    const char *to = bh_http_header(&r->answer, "location");
    const char *scheme = s->tls ? "https://" : "http://";
    if ((status != 301 && status != 302 && status != 307 && status != 308) || !to ||
        strncasecmp(to, scheme, strlen(scheme)) != 0)
        return false;
    const char *host = to + strlen(scheme);
    size_t host_len = strcspn(host, "/?#");
    const char *path = host + host_len;
    size_t path_len = strcspn(path, "?#");
    if (host_len == 0 || host_len >= S3_HOST_MAX || memchr(host, '@', host_len))
        return false;
    char *raw = path_len > 0 ? decode_path(path, path_len) : strdup("/");
    if (!raw)
        return false;
    free(t->raw_path);
    t->raw_path = raw;
    snprintf(t->host, sizeof t->host, "%.*s", (int)host_len, host);
    return true;
}

/* PermanentRedirect names the endpoint instead of a Location. */
static bool move_host(struct s3 *s, struct s3_request *r)
{
    const char *named = r->error.endpoint;
    if (r->answer.status != 301 || !*named || named[strcspn(named, "/@?# ")])
        return false;
    const char *name = s->cfg->bucket.name;
    size_t len = strlen(name);
    if (s->path_style && strncmp(named, name, len) == 0 && named[len] == '.')
        named += len + 1;
    BH_LOCK_SCOPE(&s->mutex);
    if (strcmp(s->moved_host, named) == 0)
        return false;
    snprintf(s->moved_host, sizeof s->moved_host, "%s", named);
    bh_log(BH_LOG_WARNING, "the bucket %s is at %s; set bucket.endpoint_url accordingly", name,
           named);
    return true;
}

/* Whether the answer tells how to do it right; then all is set for the next try. */
static bool corrected(struct s3 *s, struct s3_request *r, struct attempt *t)
{
    if (renew_credentials(s, r, t) || correct_clock(s, r, t))
        return true;
    int status = r->answer.status;
    if (status == 417)
        bh_http_expect_off(s->http);
    if (status == 417)
        return true;
    if (status != 301 && status != 302 && status != 307 && status != 308 && status != 400 &&
        status != 403)
        return false;
    bool region = take_region(s, r);
    if (follow(s, r, t))
        return true;
    t->host[0] = '\0';
    free(t->raw_path);
    t->raw_path = NULL;
    return region || move_host(s, r);
}

/* --- sending --- */

static int64_t retry_after_ms(const struct bh_http_answer *a)
{
    const char *v = bh_http_header(a, "retry-after");
    if (!v)
        return 0;
    int64_t ms = 0;
    if (v[strspn(v, "0123456789")] == '\0' && strlen(v) < 7)
        ms = atoll(v) * 1000;
    else if (bh_parse_http_time(v) >= 0 && s3_date_of(a) >= 0)
        ms = bh_parse_http_time(v) - s3_date_of(a);
    return ms < 0 ? 0 : ms > RETRY_AFTER_MAX_MS ? RETRY_AFTER_MAX_MS : ms;
}

static void note_answer(struct s3 *s, struct s3_request *r)
{
    const struct bh_http_answer *a = &r->answer;
    const char *server = bh_http_header(a, "server");
    if ((a->status == 503 || a->status == 429) && retry_after_ms(a) > 0)
        atomic_store(&s->not_before_ms, bh_mono_ms() + retry_after_ms(a));
    BH_LOCK_SCOPE(&s->mutex);
    for (size_t i = 0; server && i < sizeof s->server - 1; i++) { /* as far as it is printable */
        s->server[i] = server[i] >= ' ' && server[i] <= '~' ? server[i] : '\0';
        if (!s->server[i])
            break;
    }
    if (a->status >= 200 && a->status < 300)
        s->bucket_seen = true;
}

static int wait_politely(struct s3 *s, const struct s3_request *r, struct bh_error *err)
{
    int64_t wait = atomic_load(&s->not_before_ms) - bh_mono_ms();
    return wait > 0 ? bh_call_sleep(r->call, wait, "waiting as long as the store asks for", err)
                    : bh_call_check(r->call, "the request to the bucket", err);
}

static int send_once(struct s3 *s, struct s3_request *r, struct attempt *t, struct bh_error *err)
{
    struct bh_credentials who = {0};
    struct wire w = {.count = 0};
    int64_t start = bh_mono_ns();
    int rc = bh_creds_get(s->creds, &who, r->call, err);
    if (!rc) {
        snprintf(t->access_key_id, sizeof t->access_key_id, "%s",
                 who.access_key_id ? who.access_key_id : "");
        r->anonymous = who.anonymous;
        rc = prepare(s, r, t, &who, &w, err);
    }
    if (!rc) {
        const struct bh_http_request h = {.method = r->method,
                                          .url = w.url.data,
                                          .headers = w.headers,
                                          .header_count = w.count,
                                          .body = r->body,
                                          .once = r->once,
                                          .keep_body = r->keep_body,
                                          .head = r->head,
                                          .sink = r->sink,
                                          .arg = r->arg};
        rc = bh_http_do(s->http, &h, &r->answer, r->call, err);
        atomic_fetch_add(&s->counters.bytes_up, r->answer.sent);
        atomic_fetch_add(&s->counters.bytes_down, r->answer.received);
        int status = r->answer.status;
        if (rc && status >= 300) /* what broke off was only the explanation */
            r->answer.received = 0;
        if (!rc)
            note_answer(s, r);
        if (!rc && (status < 200 || status >= 300)) {
            bh_xml_error(s3_body(r), r->answer.body.len, &r->error);
            rc = s3_fail(s, r, err);
        } else if (rc && r->key) {
            bh_fail_prefix(err, rc, "cannot %s %s", r->doing, r->key);
        }
        bh_log(BH_LOG_DEBUG, "%s %s: status %d, %llu bytes up, %llu down, %.1f ms", r->method,
               r->key ? r->key : "(bucket)", status, (unsigned long long)r->answer.sent,
               (unsigned long long)r->answer.received, (double)(bh_mono_ns() - start) / 1e6);
    }
    wire_free(&w);
    bh_credentials_wipe(&who);
    return bh_counters_note(&s->counters, r->op, start, rc);
}

int s3_send(struct s3 *s, struct s3_request *r, struct bh_error *err)
{
    struct attempt t = {.renewed = false};
    struct bh_error own;
    err = err ? err : &own;
    int rc = payload(s, r, &t, err);
    for (int tries = 1; !rc; tries++) {
        r->error = (struct bh_s3_error){0};
        rc = wait_politely(s, r, err);
        if (!rc)
            rc = send_once(s, r, &t, err);
        if (!rc || tries == TRIES_MAX || !r->answer.status || r->answer.status < 300 ||
            !corrected(s, r, &t))
            break;
        s3_request_free(r);
        rc = 0;
    }
    free(t.raw_path);
    return rc;
}
