#include "bucket/s3/sigv4.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "util/cleanup.h"
#include "util/sha256.h"

#define ALGORITHM   "AWS4-HMAC-SHA256"
#define TERMINATOR  "aws4_request"
#define DAY         8 /* characters of the date without the time */
#define SECONDS_MAX 604800

static int out_of_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "cannot sign a request: out of memory");
}

static void add_text(struct bh_strbuf *out, const char *text)
{
    bh_strbuf_add(out, text, strlen(text));
}

/* --- the canonical forms --- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool is_unreserved(char c)
{
    return (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_' || c == '~';
}

static void encode(struct bh_strbuf *out, const char *text, bool keep_slash)
{
    static const char digits[] = "0123456789ABCDEF";
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        char escaped[] = {'%', digits[c >> 4], digits[c & 15]};
        if (is_unreserved(*text) || (keep_slash && c == '/'))
            bh_strbuf_add(out, text, 1);
        else
            bh_strbuf_add(out, escaped, sizeof escaped);
    }
}

void bh_sigv4_encode_path(struct bh_strbuf *out, const char *path)
{
    encode(out, path, true);
}

static int compare_pairs(const void *a, const void *b)
{
    const struct bh_pair *x = a, *y = b;
    int names = strcmp(x->name, y->name);
    return names ? names : strcmp(x->value, y->value);
}

void bh_sigv4_encode_query(struct bh_strbuf *out, const struct bh_pair *query, size_t count)
{
    BH_STRBUF text = {0}; /* name, NUL, value, NUL, and so on, encoded */
    BH_FREE struct bh_pair *sorted = calloc(count + 1, sizeof *sorted);
    for (size_t i = 0; i < count; i++) {
        encode(&text, query[i].name, false);
        bh_strbuf_add(&text, "", 1);
        encode(&text, query[i].value ? query[i].value : "", false);
        bh_strbuf_add(&text, "", 1);
    }
    if (!sorted || text.failed) {
        out->failed = true;
        return;
    }
    const char *at = text.data;
    for (size_t i = 0; i < count; i++) {
        sorted[i].name = at;
        sorted[i].value = at + strlen(at) + 1;
        at = sorted[i].value + strlen(sorted[i].value) + 1;
    }
    qsort(sorted, count, sizeof *sorted, compare_pairs);
    add_text(out, "");
    for (size_t i = 0; i < count; i++) {
        add_text(out, i ? "&" : "");
        add_text(out, sorted[i].name);
        add_text(out, "=");
        add_text(out, sorted[i].value);
    }
}

/* As strcasecmp in the C locale, whatever the program's is. */
static int compare_header_names(const char *a, const char *b)
{
    while (*a && lower(*a) == lower(*b))
        a++, b++;
    return (unsigned char)lower(*a) - (unsigned char)lower(*b);
}

/* By name; those of one name stay in the order in which they are sent. */
static void sort_headers(struct bh_pair *headers, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        struct bh_pair moved = headers[i];
        size_t at = i;
        for (; at > 0 && compare_header_names(headers[at - 1].name, moved.name) > 0; at--)
            headers[at] = headers[at - 1];
        headers[at] = moved;
    }
}

static void add_lower(struct bh_strbuf *out, const char *name)
{
    for (; *name; name++)
        bh_strbuf_add(out, &(char){lower(*name)}, 1);
}

/* Without white space at the ends, and with one space where there is more inside, in quotes too. */
static void add_trimmed(struct bh_strbuf *out, const char *value)
{
    static const char white[] = " \t";
    value += strspn(value, white);
    while (*value) {
        size_t word = strcspn(value, white);
        bh_strbuf_add(out, value, word);
        value += word;
        value += strspn(value, white);
        add_text(out, *value ? " " : "");
    }
}

/* Lines "name:value\n", and the names "a;b;c". Sorts the headers. */
static void add_headers(struct bh_strbuf *lines, struct bh_strbuf *names, struct bh_pair *headers,
                        size_t count)
{
    sort_headers(headers, count);
    add_text(names, "");
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && compare_header_names(headers[i - 1].name, headers[i].name) == 0) {
            add_text(lines, ",");
        } else {
            add_text(lines, i ? "\n" : "");
            add_lower(lines, headers[i].name);
            add_text(lines, ":");
            add_text(names, i ? ";" : "");
            add_lower(names, headers[i].name);
        }
        add_trimmed(lines, headers[i].value);
    }
    add_text(lines, "\n");
}

/* --- the signature --- */

static bool hmac(const void *key, size_t key_len, const char *text,
                 unsigned char out[BH_SHA256_LEN])
{
    return HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text, strlen(text), out,
                NULL) != NULL;
}

/* The key of one day, region and service, derived from the secret. */
static bool signing_key(const struct bh_sigv4_signer *by, const char *amz_date,
                        unsigned char key[BH_SHA256_LEN])
{
    char day[DAY + 1] = {0};
    memcpy(day, amz_date, DAY);
    size_t len = strlen(by->secret_access_key) + 4;
    char *secret = OPENSSL_malloc(len);
    if (!secret)
        return false;
    memcpy(secret, "AWS4", 4);
    memcpy(secret + 4, by->secret_access_key, len - 4);
    bool ok = hmac(secret, len, day, key) && hmac(key, BH_SHA256_LEN, by->region, key) &&
              hmac(key, BH_SHA256_LEN, by->service, key) &&
              hmac(key, BH_SHA256_LEN, TERMINATOR, key);
    OPENSSL_clear_free(secret, len);
    return ok;
}

/* What goes into a signature beside the request, each in the form that is signed. */
struct signing {
    char date[BH_SIGV4_DATE];
    struct bh_strbuf scope;   /* "20130524/us-east-1/s3/aws4_request" */
    struct bh_strbuf headers; /* canonical lines */
    struct bh_strbuf names;
    struct bh_strbuf query;
};

static void signing_free(struct signing *s)
{
    bh_strbuf_free(&s->scope);
    bh_strbuf_free(&s->headers);
    bh_strbuf_free(&s->names);
    bh_strbuf_free(&s->query);
}
#define SIGNING __attribute__((cleanup(signing_free))) struct signing

static int sign(const struct bh_sigv4_signer *by, const struct bh_sigv4_request *req,
                const struct signing *s, const char *payload_hash, char hex[BH_SHA256_HEX],
                struct bh_error *err)
{
    if (s->scope.failed || s->headers.failed || s->names.failed || s->query.failed)
        return out_of_memory(err);
    BH_STRBUF text = {0};
    bh_strbuf_addf(&text, "%s\n", req->method);
    bh_sigv4_encode_path(&text, req->path);
    bh_strbuf_addf(&text, "\n%s\n%s\n%s\n%s", s->query.data, s->headers.data, s->names.data,
                   payload_hash);
    char request_hash[BH_SHA256_HEX];
    if (text.failed || bh_sha256_hex_of(text.data, text.len, request_hash))
        return out_of_memory(err);
    bh_strbuf_reset(&text);
    bh_strbuf_addf(&text, ALGORITHM "\n%s\n%s\n%s", s->date, s->scope.data, request_hash);
    unsigned char key[BH_SHA256_LEN] = {0};
    bool ok =
        !text.failed && signing_key(by, s->date, key) && hmac(key, sizeof key, text.data, key);
    for (size_t i = 0; i < sizeof key; i++) {
        static const char digits[] = "0123456789abcdef";
        hex[2 * i] = digits[key[i] >> 4];
        hex[2 * i + 1] = digits[key[i] & 15];
    }
    hex[BH_SHA256_HEX - 1] = '\0';
    OPENSSL_cleanse(key, sizeof key);
    return ok ? 0 : out_of_memory(err);
}

/* --- what is to be signed --- */

/* Whether it holds no control character, which would end the header it is sent in, and none of
 * these. */
static bool is_free_of(const char *text, const char *these)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f || strchr(these, *text))
            return false;
    return true;
}

static bool given(const char *text)
{
    return text && *text;
}

static int begin(struct signing *s, const struct bh_sigv4_signer *by, struct bh_error *err)
{
    if (!given(by->access_key_id) || !given(by->secret_access_key))
        return bh_fail(err, EINVAL,
                       "no access key to sign with: give access_key_id and secret_access_key");
    if (!is_free_of(by->access_key_id, " ,"))
        return bh_fail(err, EINVAL,
                       "the access key's name (access_key_id) holds a space, a comma or a control "
                       "character: look where it comes from");
    if (!given(by->region) || !given(by->service) || !is_free_of(by->region, " ,"))
        return bh_fail(err, EINVAL, "'%s' is no region to sign for: give the bucket's region",
                       by->region ? by->region : "");
    if (given(by->session_token) && !is_free_of(by->session_token, ""))
        return bh_fail(err, EINVAL,
                       "the session token holds a control character: look where it comes from");
    time_t seconds = by->time_ms / 1000;
    struct tm tm;
    if (by->time_ms < 0 || !gmtime_r(&seconds, &tm) ||
        !strftime(s->date, sizeof s->date, "%Y%m%dT%H%M%SZ", &tm))
        return bh_fail(err, EINVAL, "cannot sign for a time so far away: set the clock");
    bh_strbuf_addf(&s->scope, "%.*s/%s/%s/" TERMINATOR, DAY, s->date, by->region, by->service);
    return 0;
}

int bh_sigv4_sign(const struct bh_sigv4_signer *by, const struct bh_sigv4_request *req,
                  char amz_date[BH_SIGV4_DATE], struct bh_strbuf *authorization,
                  struct bh_error *err)
{
    SIGNING s = {.date = ""};
    int rc = begin(&s, by, err);
    if (rc)
        return rc;
    BH_FREE struct bh_pair *headers = calloc(req->header_count + 3, sizeof *headers);
    if (!headers)
        return out_of_memory(err);
    size_t count = 0;
    for (; count < req->header_count; count++)
        headers[count] = req->headers[count];
    headers[count++] = (struct bh_pair){"x-amz-date", s.date};
    if (given(by->session_token))
        headers[count++] = (struct bh_pair){"x-amz-security-token", by->session_token};
    if (!strcmp(by->service, "s3"))
        headers[count++] = (struct bh_pair){"x-amz-content-sha256", req->payload_hash};
    add_headers(&s.headers, &s.names, headers, count);
    bh_sigv4_encode_query(&s.query, req->query, req->query_count);

    char signature[BH_SHA256_HEX];
    rc = sign(by, req, &s, req->payload_hash, signature, err);
    if (rc)
        return rc;
    memcpy(amz_date, s.date, sizeof s.date);
    bh_strbuf_addf(authorization, ALGORITHM " Credential=%s/%s, SignedHeaders=%s, Signature=%s",
                   by->access_key_id, s.scope.data, s.names.data, signature);
    return authorization->failed ? out_of_memory(err) : 0;
}

int bh_sigv4_presign(const struct bh_sigv4_signer *by, const struct bh_sigv4_request *req,
                     int64_t seconds, struct bh_strbuf *query, struct bh_error *err)
{
    SIGNING s = {.date = ""};
    int rc = begin(&s, by, err);
    if (rc)
        return rc;
    if (seconds < 1 || seconds > SECONDS_MAX)
        return bh_fail(err, EINVAL, "a presigned URL is valid for 1 to %d seconds, not %lld",
                       SECONDS_MAX, (long long)seconds);
    BH_FREE struct bh_pair *headers = calloc(req->header_count + 1, sizeof *headers);
    BH_FREE struct bh_pair *pairs = calloc(req->query_count + 6, sizeof *pairs);
    if (!headers || !pairs)
        return out_of_memory(err);
    for (size_t i = 0; i < req->header_count; i++)
        headers[i] = req->headers[i];
    add_headers(&s.headers, &s.names, headers, req->header_count);

    BH_STRBUF credential = {0};
    bh_strbuf_addf(&credential, "%s/%s", by->access_key_id, s.scope.data);
    if (credential.failed || s.names.failed)
        return out_of_memory(err);
    char expires[24];
    snprintf(expires, sizeof expires, "%lld", (long long)seconds);
    size_t count = 0;
    for (; count < req->query_count; count++)
        pairs[count] = req->query[count];
    pairs[count++] = (struct bh_pair){"X-Amz-Algorithm", ALGORITHM};
    pairs[count++] = (struct bh_pair){"X-Amz-Credential", credential.data};
    pairs[count++] = (struct bh_pair){"X-Amz-Date", s.date};
    pairs[count++] = (struct bh_pair){"X-Amz-Expires", expires};
    pairs[count++] = (struct bh_pair){"X-Amz-SignedHeaders", s.names.data};
    if (given(by->session_token))
        pairs[count++] = (struct bh_pair){"X-Amz-Security-Token", by->session_token};
    bh_sigv4_encode_query(&s.query, pairs, count);

    char signature[BH_SHA256_HEX];
    rc = sign(by, req, &s, BH_SIGV4_UNSIGNED, signature, err);
    if (rc)
        return rc;
    bh_strbuf_addf(query, "%s&X-Amz-Signature=%s", s.query.data, signature);
    return query->failed ? out_of_memory(err) : 0;
}
