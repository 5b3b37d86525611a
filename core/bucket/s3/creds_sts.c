/* AWS Security Token Service: AssumeRole and AssumeRoleWithWebIdentity. Source: AWS STS API
 * Reference. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/creds_private.h"
#include "bucket/s3/sigv4.h"
#include "bucket/s3/xml.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/sha256.h"

#define TRIES     3
#define FORM_TYPE "application/x-www-form-urlencoded; charset=utf-8"
/* Signatures are refused when the clocks differ by more than a quarter of an hour. */
#define SKEW_MIN (4 * 60000)

static bool is_aws_region(const char *r)
{
    size_t len = r ? strlen(r) : 0;
    return len > 6 && len < 32 && isdigit((unsigned char)r[len - 1]) && r[len - 2] == '-' &&
           r[2] == '-' && strspn(r, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

/* The profile's region stands over the default of bucket.region; a store that is not AWS's has
 * regions that STS does not know. */
static const char *region_of(const struct bh_lookup *l, const struct bh_role *role)
{
    if (bh_config_where(l->cfg, "bucket", "region") && is_aws_region(l->cfg->bucket.region))
        return l->cfg->bucket.region;
    return is_aws_region(role->region) ? role->region : "us-east-1";
}

static int make_url(char url[512], const char *region, struct bh_error *err)
{
    const char *given = bh_creds_env("AWS_ENDPOINT_URL_STS");
    if (!given)
        given = bh_creds_env("AWS_ENDPOINT_URL");
    if (!given) {
        snprintf(url, 512, "https://sts.%s.amazonaws.com%s/", region,
                 strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
        return 0;
    }
    struct bh_creds_url parsed;
    int rc = bh_creds_url_parse(&parsed, "AWS_ENDPOINT_URL_STS (or AWS_ENDPOINT_URL)", given, err);
    if (rc)
        return rc;
    int n = snprintf(url, 512, "%s://%s%s%s%s", parsed.tls ? "https" : "http", parsed.host,
                     *parsed.port ? ":" : "", parsed.port, parsed.path);
    return n < 512 ? 0 : bh_fail(err, EACCES, "AWS_ENDPOINT_URL_STS is too long");
}

static bool add_form(struct bh_secret *form, const char *name, const char *value)
{
    static const char hex[] = "0123456789ABCDEF";
    bool ok = true;
    if (!value)
        return true;
    if (form->len)
        ok = bh_secret_add(form, "&", 1);
    ok = ok && bh_secret_add(form, name, strlen(name)) && bh_secret_add(form, "=", 1);
    for (const unsigned char *p = (const unsigned char *)value; ok && *p; p++) {
        char escaped[3] = {'%', hex[*p >> 4], hex[*p & 15]};
        ok = isalnum(*p) || strchr("-._~", *p) ? bh_secret_add(form, p, 1)
                                               : bh_secret_add(form, escaped, 3);
    }
    return ok;
}

static int begin_form(struct bh_secret *form, const char *action, const struct bh_role *role,
                      const char *token, struct bh_error *err)
{
    size_t cap = 256;
    const char *const values[] = {role->arn, role->session_name, role->external_id, role->duration,
                                  token};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        cap += 32 + (values[i] ? 3 * strlen(values[i]) : 8);
    int rc = bh_secret_new(form, cap, err);
    if (rc)
        return rc;
    bool ok = add_form(form, "Action", action) && add_form(form, "Version", "2011-06-15") &&
              add_form(form, "RoleArn", role->arn) &&
              add_form(form, "RoleSessionName", role->session_name ? role->session_name : "bhfs") &&
              add_form(form, "ExternalId", role->external_id) &&
              add_form(form, "DurationSeconds", role->duration) &&
              add_form(form, "WebIdentityToken", token);
    return ok ? 0 : bh_fail(err, EACCES, "the parameters of %s are too long", action);
}

static int refuse(const char *action, const struct bh_role *role, const char *url,
                  const struct bh_creds_answer *a, const char *const secrets[],
                  struct bh_error *err)
{
    static const char *const names[] = {"Code", "Message"};
    char *values[2] = {NULL, NULL};
    char code[80], message[300];
    int rc = bh_xml_texts(a->body.data, a->body.len, names, values, 2, NULL);
    for (size_t i = 0; !rc && i < 2; i++)
        for (size_t j = 0; values[i] && secrets[j]; j++)
            bh_secret_scrub(values[i], secrets[j]);
    snprintf(code, sizeof code, "%s", !rc && values[0] ? values[0] : "no reason given");
    snprintf(message, sizeof message, "%s", !rc && values[1] ? values[1] : "");
    bh_secret_string_free(values[0]);
    bh_secret_string_free(values[1]);
    message[strcspn(message, "\r\n")] = '\0'; /* what was to be signed may follow */
    return bh_fail(err, a->status < 500 && a->status != 429 ? EACCES : EIO,
                   "%s of %s at %s is answered with status %d (%s)%s%s", action, role->arn, url,
                   a->status, code, *message ? ": " : "", message);
}

static int take_answer(const char *action, const char *url, const struct bh_creds_answer *a,
                       struct bh_credentials *out, struct bh_error *err)
{
    static const char *const names[] = {"AccessKeyId", "SecretAccessKey", "SessionToken",
                                        "Expiration"};
    char *values[4] = {NULL, NULL, NULL, NULL};
    char what[600];
    snprintf(what, sizeof what, "the answer of %s to %s", url, action);
    int rc = bh_xml_texts(a->body.data, a->body.len, names, values, 4, err);
    int64_t expires = !rc && values[3] ? bh_parse_iso_time(values[3]) : -1;
    if (rc)
        bh_fail(err, rc, "%s is %s", what, rc == EIO ? "no XML" : "too much for the memory");
    else if (expires <= 0)
        rc = bh_fail(err, EIO, "%s has no time of expiry", what);
    else
        rc = bh_credentials_set(out, what, values[0], values[1], values[2], expires - a->ahead_ms,
                                err);
    for (size_t i = 0; i < 4; i++)
        bh_secret_string_free(values[i]);
    return rc;
}

/* Fills date and authorization for one POST of the form. */
static int sign(const char *url, const char *region, const struct bh_secret *form,
                const struct bh_credentials *source, int64_t ahead_ms, char date[BH_SIGV4_DATE],
                struct bh_strbuf *authorization, struct bh_error *err)
{
    struct bh_creds_url parsed;
    char host[300], hash[BH_SHA256_HEX];
    int rc = bh_creds_url_parse(&parsed, "the endpoint of STS", url, err);
    if (!rc && bh_sha256_hex_of(form->data, form->len, hash))
        rc = bh_fail(err, ENOMEM, "out of memory");
    if (rc)
        return rc;
    snprintf(host, sizeof host, "%s%s%s", parsed.host, *parsed.port ? ":" : "", parsed.port);
    const struct bh_pair headers[] = {{"content-type", FORM_TYPE}, {"host", host}};
    const struct bh_sigv4_signer by = {
        .access_key_id = source->access_key_id,
        .secret_access_key = source->secret_access_key,
        .session_token = source->session_token,
        .region = region,
        .service = "sts",
        .time_ms = bh_real_ms() + ahead_ms,
    };
    const struct bh_sigv4_request request = {
        .method = "POST",
        .path = parsed.path,
        .headers = headers,
        .header_count = 2,
        .payload_hash = hash,
    };
    bh_strbuf_reset(authorization);
    return bh_sigv4_sign(&by, &request, date, authorization, err);
}

/* source NULL: not signed. */
static int post(const struct bh_lookup *l, const char *url, const char *region,
                const struct bh_secret *form, const struct bh_credentials *source, int64_t ahead_ms,
                struct bh_creds_answer *a, struct bh_error *err)
{
    const char *proxy = l->cfg->bucket.proxy;
    const struct bh_http_options options = {
        .connections = 1,
        .connect_timeout_ms = l->cfg->bucket.connect_timeout_ms,
        .timeout_ms = l->cfg->bucket.timeout_ms,
        .proxy = !proxy || !*proxy            ? NULL
                 : strcmp(proxy, "none") == 0 ? ""
                                              : proxy,
        .ca_file = l->cfg->bucket.ca_file,
    };
    char date[BH_SIGV4_DATE] = "";
    BH_STRBUF authorization = {0};
    struct bh_pair headers[5] = {{"content-type", FORM_TYPE}, {"accept", "application/xml"}};
    const struct bh_source body = {.size = form->len, .data = form->data};
    struct bh_http_request req = {
        .method = "POST", .url = url, .headers = headers, .header_count = 2, .body = &body};
    if (source) {
        int rc = sign(url, region, form, source, ahead_ms, date, &authorization, err);
        if (rc)
            return rc;
        headers[req.header_count++] = (struct bh_pair){"x-amz-date", date};
        headers[req.header_count++] = (struct bh_pair){"authorization", authorization.data};
        if (source->session_token)
            headers[req.header_count++] =
                (struct bh_pair){"x-amz-security-token", source->session_token};
    }
    BH_HTTP *http = NULL;
    int rc = bh_http_new(&http, &options, err);
    return rc ? rc : bh_creds_ask(http, &req, TRIES, a, l->call, err);
}

static int ask(const struct bh_lookup *l, const char *action, const struct bh_role *role,
               const struct bh_secret *form, const struct bh_credentials *source,
               const char *const secrets[], struct bh_credentials *out, struct bh_error *err)
{
    BH_CREDS_ANSWER a = {0};
    char url[512];
    const char *region = region_of(l, role);
    int rc = make_url(url, region, err);
    if (!rc)
        rc = post(l, url, region, form, source, 0, &a, err);
    bool skewed = a.ahead_ms > SKEW_MIN || a.ahead_ms < -SKEW_MIN;
    if (!rc && source && skewed && (a.status == 400 || a.status == 403))
        rc = post(l, url, region, form, source, a.ahead_ms, &a, err);
    if (rc)
        return bh_fail_prefix(err, rc, "%s of %s", action, role->arn);
    return a.status == 200 ? take_answer(action, url, &a, out, err)
                           : refuse(action, role, url, &a, secrets, err);
}

int bh_sts_assume_role(const struct bh_lookup *l, const struct bh_role *role,
                       const struct bh_credentials *source, struct bh_credentials *out,
                       struct bh_error *err)
{
    BH_SECRET form = {0};
    const char *const secrets[] = {source->secret_access_key, source->session_token, NULL};
    int rc = begin_form(&form, "AssumeRole", role, NULL, err);
    return rc ? rc : ask(l, "AssumeRole", role, &form, source, secrets, out, err);
}

int bh_sts_web_identity(const struct bh_lookup *l, const struct bh_role *role,
                        const char *token_file, struct bh_credentials *out, struct bh_error *err)
{
    static const char action[] = "AssumeRoleWithWebIdentity";
    BH_SECRET token = {0}, form = {0};
    BH_FREE char *path = bh_creds_path(l->cwd, token_file);
    if (!path)
        return bh_fail(err, ENOMEM, "out of memory");
    int rc = bh_secret_read_token(&token, path, err);
    if (rc)
        return bh_fail_prefix(err, rc, "the web identity token of %s", role->arn);
    const char *const secrets[] = {token.data, NULL};
    rc = begin_form(&form, action, role, token.data, err);
    return rc ? rc : ask(l, action, role, &form, NULL, secrets, out, err);
}
