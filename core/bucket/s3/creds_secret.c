/* Bytes that are wiped before their memory is given back. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bucket/s3/creds_private.h"
#include "util/cleanup.h"
#include "util/io.h"

#define TOKEN_MAX ((size_t)64 << 10)

int bh_secret_new(struct bh_secret *s, size_t cap, struct bh_error *err)
{
    *s = (struct bh_secret){.data = calloc(1, cap + 1), .cap = cap};
    return s->data ? 0 : bh_fail(err, ENOMEM, "out of memory");
}

void bh_secret_free(struct bh_secret *s)
{
    if (s->data)
        OPENSSL_cleanse(s->data, s->cap);
    free(s->data);
    *s = (struct bh_secret){0};
}

bool bh_secret_add(struct bh_secret *s, const void *data, size_t len)
{
    if (len > s->cap - s->len)
        return false;
    memcpy(s->data + s->len, data, len);
    s->len += len;
    s->data[s->len] = '\0';
    return true;
}

void bh_secret_string_free(char *s)
{
    if (s)
        OPENSSL_cleanse(s, strlen(s));
    free(s);
}

void bh_secret_scrub(char *text, const char *secret)
{
    size_t len = secret ? strlen(secret) : 0;
    if (len < 4)
        return;
    for (char *p = text; (p = strstr(p, secret)); p += len)
        memset(p, '*', len);
}

void bh_credentials_wipe(struct bh_credentials *c)
{
    bh_secret_string_free(c->access_key_id);
    bh_secret_string_free(c->secret_access_key);
    bh_secret_string_free(c->session_token);
    *c = (struct bh_credentials){0};
}

static int copy_word(char **out, const char *what, const char *name, const char *value,
                     struct bh_error *err)
{
    if (!value || !*value)
        return bh_fail(err, EACCES, "%s: no %s is there", what, name);
    for (const char *p = value; *p; p++)
        if (*p <= ' ' || *p > '~')
            return bh_fail(err, EACCES,
                           "%s: the %s holds a space or a byte that is not ASCII (in a file, a "
                           "comment has a line of its own)",
                           what, name);
    *out = strdup(value);
    return *out ? 0 : bh_fail(err, ENOMEM, "out of memory");
}

int bh_credentials_set(struct bh_credentials *c, const char *what, const char *access_key_id,
                       const char *secret_access_key, const char *session_token, int64_t expires_ms,
                       struct bh_error *err)
{
    BH_CREDENTIALS fresh = {.expires_ms = expires_ms};
    int rc = copy_word(&fresh.access_key_id, what, "access key id", access_key_id, err);
    if (!rc)
        rc = copy_word(&fresh.secret_access_key, what, "secret access key", secret_access_key, err);
    if (!rc && session_token && *session_token)
        rc = copy_word(&fresh.session_token, what, "session token", session_token, err);
    if (rc)
        return rc;
    bh_credentials_wipe(c);
    *c = fresh;
    fresh = (struct bh_credentials){0};
    return 0;
}

const char *bh_creds_env(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

struct bh_file_stamp bh_file_stamp_of(const struct stat *st)
{
    return (struct bh_file_stamp){
        .present = true,
        .dev = st->st_dev,
        .ino = st->st_ino,
        .size = (uint64_t)st->st_size,
        .mtime_ns = st->st_mtim.tv_sec * INT64_C(1000000000) + st->st_mtim.tv_nsec,
    };
}

int bh_secret_read_file(struct bh_secret *out, const char *path, size_t max, bool missing_ok,
                        struct bh_file_stamp *stamp, unsigned *mode, struct bh_error *err)
{
    struct stat st;
    size_t got = 0;
    if (stamp)
        *stamp = (struct bh_file_stamp){0};
    BH_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && missing_ok && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0)
        return bh_fail(err, EACCES, "%s cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0)
        return bh_fail(err, EACCES, "%s cannot be examined: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return bh_fail(err, EACCES, "%s is not a regular file", path);
    if (st.st_size > (off_t)max)
        return bh_fail(err, EACCES, "%s is larger than %zu bytes, which cannot be right", path,
                       max);
    int rc = bh_secret_new(out, (size_t)st.st_size, err);
    if (rc)
        return rc;
    rc = bh_pread_full(fd, out->data, out->cap, 0, &got);
    if (rc)
        return bh_fail(err, EACCES, "%s cannot be read: %s", path, strerror(rc));
    out->len = got;
    if (stamp)
        *stamp = bh_file_stamp_of(&st);
    if (mode)
        *mode = st.st_mode;
    return 0;
}

int bh_secret_read_token(struct bh_secret *out, const char *path, struct bh_error *err)
{
    int rc = bh_secret_read_file(out, path, TOKEN_MAX, false, NULL, NULL, err);
    if (rc)
        return rc;
    while (out->len && strchr(" \t\r\n", out->data[out->len - 1]))
        out->data[--out->len] = '\0';
    if (!out->len)
        return bh_fail(err, EACCES, "%s is empty; a token should stand there", path);
    for (size_t i = 0; i < out->len; i++)
        if (out->data[i] < ' ' || out->data[i] > '~')
            return bh_fail(err, EACCES,
                           "%s holds more than a token: a line end or other control "
                           "character, or a byte that is not ASCII",
                           path);
    return 0;
}
