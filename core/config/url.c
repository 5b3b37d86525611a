/* Bucket URLs. A reason shows the parts that are wrong and never what may be a secret: neither what
 * stands where a user and password would, nor the value of a parameter. */
#include "config/keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

#define FORMS                                                                                      \
    "a bucket is file:///DIRECTORY, s3://BUCKET/PREFIX?endpoint=URL&region=NAME or "               \
    "r2://ACCOUNT/BUCKET/PREFIX"

const struct bh_url_parameter bh_url_parameters[BH_URL_PARAMETERS] = {
    [BH_URL_ENDPOINT] = {"endpoint", "endpoint_url"},
    [BH_URL_REGION] = {"region", "region"},
    {"profile", "profile"},
    {"addressing", "addressing"},
    {"requester_pays", "requester_pays"},
    {"credentials", "credentials"},
};

void bh_url_free(struct bh_url *url)
{
    free(url->path);
    free(url->name);
    free(url->prefix);
    free(url->account);
    for (size_t i = 0; i < BH_URL_PARAMETERS; i++)
        free(url->parameters[i]);
    *url = (struct bh_url){0};
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes len bytes into a fresh string with one spare byte (the checks may need it). */
static int decode(const char *s, size_t len, char **out, struct bh_error *why)
{
    BH_FREE char *text = malloc(len + 2);
    size_t n = 0;
    if (!text)
        return bh_fail(why, ENOMEM, "out of memory");
    for (size_t i = 0; i < len; i++) {
        if (s[i] != '%') {
            text[n++] = s[i];
            continue;
        }
        int high = len - i > 2 ? hex(s[i + 1]) : -1;
        int low = high >= 0 ? hex(s[i + 2]) : -1;
        int byte = low >= 0 ? high * 16 + low : -1;
        if (byte < 0x20 || byte == 0x7F)
            return bh_fail(
                why, EINVAL,
                "a '%%' in a URL is followed by two hexadecimal digits of a character that is "
                "no control character; '%%' itself is written %%25");
        text[n++] = (char)byte;
        i += 2;
    }
    text[n] = '\0';
    *out = bh_take_ptr(text);
    return 0;
}

void bh_url_encode(struct bh_strbuf *out, const char *text, const char *keep)
{
    static const char unreserved[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (; *text; text++) {
        if (strchr(unreserved, *text) || strchr(keep, *text))
            bh_strbuf_add(out, text, 1);
        else
            bh_strbuf_addf(out, "%%%02X", (unsigned char)*text);
    }
}

static char **find_parameter(struct bh_url *url, const char *name, size_t len,
                             const struct bh_key **key)
{
    for (size_t i = 0; i < BH_URL_PARAMETERS; i++) {
        const struct bh_url_parameter *p = &bh_url_parameters[i];
        if (strlen(p->name) == len && strncmp(name, p->name, len) == 0) {
            *key = bh_key_find("bucket", p->key, NULL);
            return &url->parameters[i];
        }
    }
    return NULL;
}

static int parse_parameter(const char *s, size_t len, struct bh_url *url, struct bh_error *why)
{
    const char *equals = memchr(s, '=', len);
    int name_len = (int)(equals ? equals - s : (ptrdiff_t)len);
    int shown = name_len > 40 ? 40 : name_len;
    const struct bh_key *key = NULL;
    if (url->kind == BH_BUCKET_FILE)
        return bh_fail(why, EINVAL,
                       "a file:// URL takes no parameter such as '%.*s'; a '?' in the path is "
                       "written %%3F",
                       shown, s);
    char **field = find_parameter(url, s, (size_t)name_len, &key);
    if (!field)
        return bh_fail(why, EINVAL,
                       "unknown parameter '%.*s' in the URL; known are endpoint, region, profile, "
                       "addressing, requester_pays and credentials",
                       shown, s);
    if (*field)
        return bh_fail(why, EINVAL, "the parameter %.*s stands twice in the URL", name_len, s);
    if (!equals || len == (size_t)name_len + 1)
        return bh_fail(why, EINVAL, "the parameter %.*s of the URL has no value", name_len, s);
    int rc = decode(equals + 1, len - (size_t)name_len - 1, field, why);
    if (!rc && (rc = bh_key_validate(key, *field, why)) != 0)
        bh_fail_prefix(why, rc, "the parameter %.*s", name_len, s);
    return rc;
}

static int parse_query(const char *s, struct bh_url *url, struct bh_error *why)
{
    while (*s) {
        size_t len = strcspn(s, "&");
        int rc = len ? parse_parameter(s, len, url, why) : 0;
        if (rc)
            return rc;
        s += len;
        s += *s == '&';
    }
    return 0;
}

static int parse_file(const char *s, size_t len, struct bh_url *url, struct bh_error *why)
{
    if (len >= 10 && strncmp(s, "localhost/", 10) == 0) {
        s += 9;
        len -= 9;
    }
    if (!len || *s != '/')
        return bh_fail(why, EINVAL,
                       "a file:// URL names an absolute path on this host, with three slashes: "
                       "file:///DIRECTORY, neither a relative path nor another host");
    int rc = decode(s, len, &url->path, why);
    if (rc)
        return rc;
    size_t n = strlen(url->path);
    while (n > 1 && url->path[n - 1] == '/')
        url->path[--n] = '\0';
    if (n == 1)
        return bh_fail(why, EINVAL, "the root directory cannot be the bucket: file:///DIRECTORY");
    return 0;
}

/* One part up to '/' that needs no decoding; *s moves behind the slash. */
static int take_part(const char **s, const char *end, char **out, struct bh_error *why)
{
    const char *slash = memchr(*s, '/', (size_t)(end - *s));
    const char *stop = slash ? slash : end;
    *out = strndup(*s, (size_t)(stop - *s));
    *s = slash ? slash + 1 : end;
    return *out ? 0 : bh_fail(why, ENOMEM, "out of memory");
}

static int parse_s3(const char *s, const char *end, bool r2, struct bh_url *url,
                    struct bh_error *why)
{
    size_t authority = strcspn(s, "/?");
    if (memchr(s, '@', authority) || memchr(s, ':', authority))
        return bh_fail(
            why, EINVAL,
            "a URL holds no user, secret or port: secrets do not belong in a process list. "
            "Use access_key_id and secret_access_key_file, or the environment");
    int rc = r2 ? take_part(&s, end, &url->account, why) : 0;
    if (!rc && r2)
        rc = *url->account ? bh_check_account(url->account, why)
                           : bh_fail(why, EINVAL, "the account is missing: r2://ACCOUNT/BUCKET");
    if (!rc)
        rc = take_part(&s, end, &url->name, why);
    if (!rc && !*url->name)
        rc = bh_fail(why, EINVAL, "the URL names no bucket; %s", FORMS);
    if (!rc)
        rc = bh_check_bucket_name(url->name, why);
    if (rc == EINVAL && url->name && *url->name)
        bh_fail_prefix(why, rc, "'%.64s'", url->name);
    if (rc)
        return rc;
    rc = decode(s, (size_t)(end - s), &url->prefix, why);
    return rc ? rc : bh_check_prefix(url->prefix, why);
}

int bh_url_parse(const char *text, struct bh_url *url, struct bh_error *why)
{
    const char *colon = strstr(text, "://");
    if (!colon)
        return bh_fail(why, EINVAL, "not a bucket URL; %s", FORMS);
    int scheme_len = (int)(colon - text > 40 ? 40 : colon - text);
    const char *rest = colon + 3, *end = rest + strcspn(rest, "?");
    bool file = colon - text == 4 && strncasecmp(text, "file", 4) == 0;
    bool s3 = colon - text == 2 && strncasecmp(text, "s3", 2) == 0;
    bool r2 = colon - text == 2 && strncasecmp(text, "r2", 2) == 0;
    if (!file && !s3 && !r2)
        return bh_fail(why, EINVAL, "unknown scheme '%.*s'; %s", scheme_len, text, FORMS);
    if (strchr(text, '#'))
        return bh_fail(why, EINVAL, "a '#' in a bucket URL is written %%23");
    url->kind = file ? BH_BUCKET_FILE : BH_BUCKET_S3;
    int rc =
        file ? parse_file(rest, (size_t)(end - rest), url, why) : parse_s3(rest, end, r2, url, why);
    if (!rc && *end)
        rc = parse_query(end + 1, url, why);
    return rc;
}
