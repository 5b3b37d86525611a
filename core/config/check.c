/* What a value must look like, key by key. Reasons are bare: the caller puts file, line and key
 * before them. */
#include "config/keys.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define DIGITS  "0123456789"

static bool only(const char *s, const char *set)
{
    return s[strspn(s, set)] == '\0';
}

int bh_check_url(char *value, struct bh_error *why)
{
    struct bh_url url = {0};
    int rc = bh_url_parse(value, &url, why);
    bh_url_free(&url);
    return rc;
}

int bh_check_bucket_name(char *value, struct bh_error *why)
{
    if (strlen(value) > 255 || !only(value, LETTERS DIGITS "._-") || strcmp(value, ".") == 0 ||
        strcmp(value, "..") == 0)
        return bh_fail(why, EINVAL,
                       "not a bucket name: 1 to 255 of the characters A-Z a-z 0-9 . _ - are one");
    return 0;
}

/* Whether a component of a/b/c is "." or "..". */
static bool has_dots(const char *s)
{
    for (;;) {
        size_t len = strcspn(s, "/");
        if ((len == 1 || len == 2) && strncmp(s, "..", len) == 0)
            return true;
        if (!s[len])
            return false;
        s += len + 1;
    }
}

int bh_check_prefix(char *value, struct bh_error *why)
{
    size_t skip = strspn(value, "/"), len = strlen(value + skip);
    while (len && value[skip + len - 1] == '/')
        len--;
    memmove(value, value + skip, len);
    value[len] = '\0';
    if (len > 512)
        return bh_fail(why, EINVAL, "a prefix has at most 512 bytes");
    if (has_dots(value) || strstr(value, "//"))
        return bh_fail(why, EINVAL, "the parts of a prefix are not empty, '.' or '..'");
    if (len)
        strcpy(value + len, "/");
    return 0;
}

/* A name, an IPv4 address, or an IPv6 address in brackets. */
static bool is_host(const char *text, const char *end)
{
    size_t len = (size_t)(end - text);
    if (len && *text == '[')
        return len > 2 && end[-1] == ']' && strspn(text + 1, "0123456789abcdefABCDEF:.") == len - 2;
    return len && strspn(text, LETTERS DIGITS "._-") >= len;
}

static bool is_port(const char *text, const char *end)
{
    size_t digits = strspn(text, DIGITS);
    return digits && digits <= 5 && text + digits == end && strtoul(text, NULL, 10) - 1 < 65535;
}

/* Scheme and host in lower case, without the scheme's own port and closing slashes, so that the
 * same endpoint is always written the same way. */
int bh_check_endpoint(char *value, struct bh_error *why)
{
    bool secure = strncasecmp(value, "https://", 8) == 0;
    if (!secure && strncasecmp(value, "http://", 7) != 0)
        return bh_fail(why, EINVAL, "an endpoint begins with http:// or https://");
    if (strchr(value, '@'))
        return bh_fail(why, EINVAL,
                       "an endpoint holds no user or secret; use access_key_id and the other keys");
    if (strpbrk(value, "?# "))
        return bh_fail(why, EINVAL,
                       "an endpoint is http(s)://HOST[:PORT] without '?', '#' or space");
    char *host = value + (secure ? 8 : 7), *path = host + strcspn(host, "/");
    for (char *p = value; p < path; p++)
        *p = (char)tolower((unsigned char)*p);
    size_t len = strlen(path);
    while (len && path[len - 1] == '/')
        path[--len] = '\0';
    char *port = memrchr(host, ':', (size_t)(path - host));
    if (port && memchr(port, ']', (size_t)(path - port))) /* a colon of [::1] */
        port = NULL;
    if (port && !is_port(port + 1, path))
        return bh_fail(why, EINVAL, "the port of an endpoint is a number from 1 to 65535");
    if ((port ? port : path) == host)
        return bh_fail(why, EINVAL, "the host is missing; an endpoint is http(s)://HOST[:PORT]");
    if (!is_host(host, port ? port : path))
        return bh_fail(why, EINVAL,
                       "the host of an endpoint is a name, an IPv4 address, or an IPv6 address in "
                       "brackets");
    if (port && strtoul(port + 1, NULL, 10) == (secure ? 443 : 80))
        memmove(port, path, len + 1);
    return 0;
}

/* An account whose bucket is bound to a jurisdiction has the jurisdiction behind a dot, as in the
 * host of its endpoint. */
int bh_check_account(char *value, struct bh_error *why)
{
    static const char *const jurisdictions[] = {".eu", ".fedramp"};
    size_t len = strcspn(value, ".");
    bool known = !value[len];
    for (size_t i = 0; i < sizeof jurisdictions / sizeof jurisdictions[0]; i++)
        known |= strcasecmp(value + len, jurisdictions[i]) == 0;
    if (len == 0 || len > 63 || strspn(value, LETTERS DIGITS "-") != len || !known)
        return bh_fail(why, EINVAL,
                       "not an account id: at most 63 letters, digits and '-' are one, and .eu or "
                       ".fedramp behind it for a bucket of that jurisdiction");
    return 0;
}

int bh_check_word(char *value, struct bh_error *why)
{
    for (const char *p = value; *p; p++)
        if (*p <= ' ' || *p > '~')
            return bh_fail(why, EINVAL, "it holds a space or a byte that is not ASCII");
    return 0;
}

/* The scheme in lower case, no closing slash. The reasons show nothing of the value, which may hold
 * a password. */
int bh_check_proxy(char *value, struct bh_error *why)
{
    static const char *const schemes[] = {"http://", "https://", "socks5://", "socks5h://"};
    size_t len = strlen(value), skip = 0;
    if (strcasecmp(value, "none") == 0) {
        memcpy(value, "none", 4);
        return 0;
    }
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++)
        if (strncasecmp(value, schemes[i], strlen(schemes[i])) == 0)
            skip = strlen(schemes[i]);
    if (!skip)
        return bh_fail(why, EINVAL,
                       "a proxy is http://HOST:PORT, https://HOST:PORT, socks5://HOST:PORT or "
                       "none, with USER:PASSWORD@ before the host if need be");
    for (size_t i = 0; i < skip; i++)
        value[i] = (char)tolower((unsigned char)value[i]);
    if (value[len - 1] == '/' && len - 1 > skip)
        value[--len] = '\0';
    char *host = value + skip, *at = strrchr(host, '@');
    for (const char *p = host; p < (at ? at : host); p++)
        if (*p <= ' ' || *p > '~' || strchr("/?#@", *p))
            return bh_fail(why, EINVAL,
                           "in the user and password of a proxy / ? # @, spaces and what is not "
                           "ASCII are written as %%XX");
    host = at ? at + 1 : host;
    char *port = strrchr(host, ':');
    if (!port || !is_host(host, port) || !is_port(port + 1, value + len))
        return bh_fail(why, EINVAL,
                       "behind the scheme of a proxy stands HOST:PORT and nothing else, the port "
                       "a number from 1 to 65535");
    return 0;
}

int bh_check_path(char *value, struct bh_error *why)
{
    if (*value != '/')
        return bh_fail(why, EINVAL,
                       "the path must be absolute: the daemon works in no directory of yours");
    return 0;
}

int bh_check_live_dir(char *value, struct bh_error *why)
{
    if (strcmp(value, "memory") != 0 && *value != '/')
        return bh_fail(why, EINVAL, "allowed: empty, memory, or an absolute path");
    return 0;
}

int bh_check_cpu(char *value, struct bh_error *why)
{
    if (strcmp(value, "auto") != 0 && strcmp(value, "off") != 0 &&
        (!only(value, DIGITS) || strlen(value) > 4 || atoi(value) > 1023))
        return bh_fail(why, EINVAL, "allowed: auto, off, or a CPU number from 0 to 1023");
    return 0;
}

int bh_check_object_key(char *value, struct bh_error *why)
{
    size_t len = strlen(value);
    if (len > 1000)
        return bh_fail(why, EINVAL, "it has %zu bytes; allowed: 1 to 1000", len);
    if (*value == '/' || value[len - 1] == '/')
        return bh_fail(why, EINVAL, "an object key neither begins nor ends with '/'");
    if (has_dots(value))
        return bh_fail(why, EINVAL, "no part of an object key may be '.' or '..'");
    return 0;
}

int bh_check_branch(char *value, struct bh_error *why)
{
    if (strlen(value) > 100 || !only(value, LETTERS DIGITS "_-"))
        return bh_fail(why, EINVAL,
                       "not a branch name: 1 to 100 of the characters A-Z a-z 0-9 _ - are one");
    return 0;
}

int bh_check_files_prefix(char *value, struct bh_error *why)
{
    size_t len = strlen(value);
    if (len < 2 || len > 200 || value[len - 1] != '/' || value[0] == '/' || strstr(value, "//"))
        return bh_fail(why, EINVAL, "allowed: 2 to 200 bytes that end in /, as in files/");
    if (has_dots(value))
        return bh_fail(why, EINVAL, "no part of an object key may be '.' or '..'");
    return 0;
}
