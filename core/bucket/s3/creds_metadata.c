/* The metadata services of containers and of EC2 instances. Source: AWS SDKs and Tools Reference
 * Guide, "Container credential provider" and "IMDS credential provider". Never through a proxy. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bucket/s3/creds_private.h"
#include "util/cleanup.h"

#define CONTAINER_HOST    "http://169.254.170.2"
#define INSTANCE_HOST     "http://169.254.169.254"
#define INSTANCE_HOST_V6  "http://[fd00:ec2::254]"
#define ROLES             "/latest/meta-data/iam/security-credentials/"
#define TOKEN_SECONDS     "300"
#define CONNECT_MS        1000
#define INSTANCE_QUIET_MS 1000
#define CONTAINER_MS      5000
#define URL_MAX           2048

static int new_client(struct bh_http **out, const struct bh_lookup *l, int64_t quiet_ms,
                      struct bh_error *err)
{
    const struct bh_http_options options = {
        .connections = 1,
        .connect_timeout_ms = CONNECT_MS,
        .timeout_ms = quiet_ms,
        .proxy = "",
        .ca_file = l->cfg->bucket.ca_file,
    };
    return bh_http_new(out, &options, err);
}

/* Credentials out of a 200. */
static int take_answer(struct bh_lookup *l, const char *what, const struct bh_creds_answer *a,
                       bool must_expire, struct bh_error *err)
{
    BH_CREDS_JSON json = {0};
    int rc = bh_creds_read_json(&json, what, &a->body, err);
    if (!rc && json.code && strcmp(json.code, "Success") != 0)
        rc = bh_fail(err, EACCES, "%s refuses: %.64s", what, json.code);
    else if (!rc && must_expire && !json.expires)
        rc = bh_fail(err, EIO, "%s gives credentials without an Expiration", what);
    else if (!rc)
        rc = bh_credentials_set(&l->found, what, json.c.access_key_id, json.c.secret_access_key,
                                json.c.session_token,
                                json.expires ? json.c.expires_ms - a->ahead_ms : 0, err);
    return rc;
}

/* --- containers --- */

/* Plain HTTP is for addresses that do not leave the machine. */
static bool is_local(const struct bh_creds_url *url)
{
    static const char *const services[] = {"169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"};
    struct in_addr v4;
    if (strcasecmp(url->host, "localhost") == 0 || strcmp(url->host, "[::1]") == 0)
        return true;
    if (inet_pton(AF_INET, url->host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127)
        return true;
    for (size_t i = 0; i < sizeof services / sizeof services[0]; i++)
        if (strcmp(url->host, services[i]) == 0)
            return true;
    return false;
}

static int container_url(char url[URL_MAX], struct bh_error *err)
{
    const char *relative = bh_creds_env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    const char *full = bh_creds_env("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    const char *name =
        relative ? "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" : "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    struct bh_creds_url parsed;
    if (relative && *relative != '/')
        return bh_fail(err, EACCES, "%s does not begin with a '/'", name);
    int n =
        snprintf(url, URL_MAX, "%s%s", relative ? CONTAINER_HOST : "", relative ? relative : full);
    if (n >= URL_MAX)
        return bh_fail(err, EACCES, "%s is too long", name);
    int rc = bh_creds_url_parse(&parsed, name, url, err);
    if (!rc && !parsed.tls && !is_local(&parsed))
        rc = bh_fail(err, EACCES,
                     "%s names http://%s; without TLS only this machine and the addresses of ECS "
                     "and EKS are asked",
                     name, parsed.host);
    return rc;
}

/* The value of the Authorization header; empty: none. */
static int container_token(const struct bh_lookup *l, struct bh_secret *token, struct bh_error *err)
{
    const char *file = bh_creds_env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    const char *given = bh_creds_env("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    if (file) {
        BH_FREE char *path = bh_creds_path(l->cwd, file);
        int rc =
            path ? bh_secret_read_token(token, path, err) : bh_fail(err, ENOMEM, "out of memory");
        return rc ? bh_fail_prefix(err, rc, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") : 0;
    }
    if (given && strpbrk(given, "\r\n"))
        return bh_fail(err, EACCES, "AWS_CONTAINER_AUTHORIZATION_TOKEN holds a line end");
    int rc = bh_secret_new(token, given ? strlen(given) : 0, err);
    if (!rc && given)
        bh_secret_add(token, given, strlen(given));
    return rc;
}

static int container_refused(const char *what, const struct bh_creds_answer *a,
                             const struct bh_secret *token, struct bh_error *err)
{
    BH_CREDS_JSON json = {0};
    if (bh_creds_read_json(&json, what, &a->body, NULL) != 0)
        bh_creds_json_free(&json);
    if (json.code)
        bh_secret_scrub(json.code, token->data);
    if (json.message)
        bh_secret_scrub(json.message, token->data);
    return bh_fail(err, a->status < 500 ? EACCES : EIO, "%s answers with status %d%s%.64s%s%.200s",
                   what, a->status, json.code ? " " : "", json.code ? json.code : "",
                   json.message ? ": " : "", json.message ? json.message : "");
}

int bh_creds_from_container(struct bh_lookup *l, struct bh_error *err)
{
    static const char what[] = "the container's metadata service";
    BH_SECRET token = {0};
    BH_CREDS_ANSWER a = {0};
    BH_HTTP *http = NULL;
    char url[URL_MAX];
    if (!bh_creds_env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") &&
        !bh_creds_env("AWS_CONTAINER_CREDENTIALS_FULL_URI"))
        return bh_creds_looked(l, "%s (no AWS_CONTAINER_CREDENTIALS_...)", what);
    int rc = container_url(url, err);
    rc = rc ? rc : container_token(l, &token, err);
    rc = rc ? rc : new_client(&http, l, CONTAINER_MS, err);
    if (rc)
        return rc;
    const struct bh_pair headers[] = {{"accept", "application/json"},
                                      {"authorization", token.data}};
    const struct bh_http_request req = {
        .method = "GET", .url = url, .headers = headers, .header_count = token.len ? 2 : 1};
    rc = bh_creds_ask(http, &req, 3, &a, l->call, err);
    if (rc)
        return bh_fail_prefix(err, rc, "%s", what);
    snprintf(l->origin, sizeof l->origin, "%s", what);
    l->fixed = false;
    return a.status == 200 ? take_answer(l, what, &a, false, err)
                           : container_refused(what, &a, &token, err);
}

/* --- instances --- */

struct instance {
    struct bh_lookup *l;
    struct bh_http *http;
    char host[URL_MAX];
    char what[URL_MAX];
    struct bh_secret token; /* of the session with the service */
    struct bh_error *err;
};

static int instance_ask(struct instance *i, const char *method, const char *path,
                        const struct bh_pair *header, struct bh_creds_answer *a)
{
    char url[URL_MAX + 512];
    snprintf(url, sizeof url, "%s%s", i->host, path);
    const struct bh_http_request req = {
        .method = method, .url = url, .headers = header, .header_count = 1};
    int rc = bh_creds_ask(i->http, &req, 2, a, i->l->call, i->err);
    if (rc == ETIMEDOUT && bh_call_check(i->l->call, "", NULL) == 0)
        return bh_fail(i->err, rc, "%s does not answer", i->what);
    return rc ? bh_fail_prefix(i->err, rc, "%s", i->what) : 0;
}

static int instance_token(struct instance *i)
{
    BH_CREDS_ANSWER a = {0};
    const struct bh_pair header = {"x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS};
    int rc = instance_ask(i, "PUT", "/latest/api/token", &header, &a);
    if (rc)
        return rc;
    if (a.status != 200 || !a.body.len)
        return bh_fail(i->err, EACCES, "%s gives no token (status %d)", i->what, a.status);
    bh_secret_free(&i->token);
    i->token = a.body;
    a.body = (struct bh_secret){0};
    return 0;
}

/* With the token; with a fresh one if the service does not know it any more. */
static int instance_get(struct instance *i, const char *path, struct bh_creds_answer *a)
{
    for (int round = 0;; round++) {
        const struct bh_pair header = {"x-aws-ec2-metadata-token", i->token.data};
        int rc = instance_ask(i, "GET", path, &header, a);
        if (rc || a->status != 401 || round)
            return rc;
        rc = instance_token(i);
        if (rc)
            return rc;
    }
}

/* The path of the role's credentials. */
static int instance_role(struct instance *i, char path[512])
{
    static const char legal[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+=,.@_-";
    BH_CREDS_ANSWER a = {0};
    int rc = instance_get(i, ROLES, &a);
    if (rc)
        return rc;
    size_t len = a.body.len ? strcspn(a.body.data, "\r\n") : 0;
    if (a.status == 404 || (a.status == 200 && !len))
        return bh_fail(i->err, EACCES, "%s: the instance has no role", i->what);
    if (a.status != 200)
        return bh_fail(i->err, a.status < 500 ? EACCES : EIO, "%s answers with status %d", i->what,
                       a.status);
    if (len > 256 || strspn(a.body.data, legal) < len)
        return bh_fail(i->err, EIO, "%s names a role that cannot be one", i->what);
    snprintf(path, 512, ROLES "%.*s", (int)len, a.body.data);
    return 0;
}

static int instance_credentials(struct instance *i)
{
    BH_CREDS_ANSWER a = {0};
    char path[512];
    int rc = instance_token(i);
    rc = rc ? rc : instance_role(i, path);
    rc = rc ? rc : instance_get(i, path, &a);
    if (rc)
        return rc;
    if (a.status != 200)
        return bh_fail(i->err, a.status < 500 ? EACCES : EIO, "%s answers with status %d", i->what,
                       a.status);
    return take_answer(i->l, i->what, &a, true, i->err);
}

static int instance_host(char host[URL_MAX], struct bh_error *err)
{
    const char *given = bh_creds_env("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    const char *mode = bh_creds_env("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
    struct bh_creds_url parsed;
    if (!given) {
        strcpy(host, mode && strcasecmp(mode, "ipv6") == 0 ? INSTANCE_HOST_V6 : INSTANCE_HOST);
        return 0;
    }
    size_t len = strlen(given);
    while (len && given[len - 1] == '/')
        len--;
    if (len >= URL_MAX - 64)
        return bh_fail(err, EACCES, "AWS_EC2_METADATA_SERVICE_ENDPOINT is too long");
    snprintf(host, URL_MAX, "%.*s", (int)len, given);
    return bh_creds_url_parse(&parsed, "AWS_EC2_METADATA_SERVICE_ENDPOINT", host, err);
}

int bh_creds_from_instance(struct bh_lookup *l, struct bh_error *err)
{
    static const char service[] = "the instance's metadata service";
    struct instance i = {.l = l, .err = err};
    const char *disabled = bh_creds_env("AWS_EC2_METADATA_DISABLED");
    if (disabled && strcasecmp(disabled, "true") == 0)
        return bh_creds_looked(l, "%s (AWS_EC2_METADATA_DISABLED is true)", service);
    int rc = instance_host(i.host, err);
    if (rc)
        return rc;
    snprintf(i.what, sizeof i.what, "%s %.1000s", service, i.host);
    rc = new_client(&i.http, l, INSTANCE_QUIET_MS, err);
    if (!rc)
        rc = instance_credentials(&i);
    bh_http_free(i.http);
    bh_secret_free(&i.token);
    snprintf(l->origin, sizeof l->origin, "%s", service);
    l->fixed = false;
    return rc;
}
