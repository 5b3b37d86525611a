#include "bucket/bucket_util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "util/clock.h"

static enum bh_bucket_error_kind kind_of(int rc)
{
    switch (rc) {
    case ETIMEDOUT:
        return BH_BUCKET_ERROR_TIMEOUT;
    case EAGAIN:
        return BH_BUCKET_ERROR_THROTTLED;
    case EIO:
        return BH_BUCKET_ERROR_BROKEN;
    case EACCES:
        return BH_BUCKET_ERROR_REFUSED;
    case ECANCELED:
        return BH_BUCKET_ERROR_CANCELLED;
    default:
        return BH_BUCKET_ERROR_OTHER;
    }
}

int bh_counters_note(struct bh_counters *c, enum bh_bucket_op op, int64_t start_ns, int rc)
{
    atomic_fetch_add(&c->requests[op], 1);
    atomic_fetch_add(&c->nanoseconds[op], (uint64_t)(bh_mono_ns() - start_ns));
    if (rc && rc != ENOENT && rc != EEXIST && rc != ESTALE && rc != ENOTSUP) {
        atomic_fetch_add(&c->errors[op], 1);
        atomic_fetch_add(&c->failures[kind_of(rc)], 1);
    }
    return rc;
}

void bh_counters_read(struct bh_counters *c, struct bh_bucket_stats *out)
{
    *out = (struct bh_bucket_stats){0};
    for (int i = 0; i < BH_OP_COUNT; i++) {
        out->requests[i] = atomic_load(&c->requests[i]);
        out->errors[i] = atomic_load(&c->errors[i]);
        out->nanoseconds[i] = atomic_load(&c->nanoseconds[i]);
    }
    for (int i = 0; i < BH_BUCKET_ERROR_COUNT; i++)
        out->failures[i] = atomic_load(&c->failures[i]);
    out->bytes_up = atomic_load(&c->bytes_up);
    out->bytes_down = atomic_load(&c->bytes_down);
}

/* The length of the well-formed sequence at s (no overlong form, no surrogate), or 0. */
static size_t utf8_sequence(const unsigned char *s)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return 0;
    size_t len = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return len;
}

bool bh_utf8_valid(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    while (*p) {
        size_t n = utf8_sequence(p);
        if (n == 0)
            return false;
        p += n;
    }
    return true;
}

int bh_key_check(const char *key, struct bh_error *err)
{
    if (!key || !*key)
        return bh_fail(err, EINVAL, "the empty string is no key");
    size_t len = strlen(key);
    if (len > BH_KEY_MAX)
        return bh_fail(err, ENAMETOOLONG, "the key %.60s... has %zu bytes, the limit is %d", key,
                       len, BH_KEY_MAX);
    if (!bh_utf8_valid(key))
        return bh_fail(err, EINVAL, "the key %s is not valid UTF-8", key);
    if (strstr(key, "\xEF\xBF\xBE") || strstr(key, "\xEF\xBF\xBF"))
        return bh_fail(
            err, EINVAL,
            "the key %s holds U+FFFE or U+FFFF, which are no characters: the XML of S3's "
            "listings cannot name it",
            key);
    return 0;
}

int bh_source_read(const struct bh_source *src, uint64_t offset, void *buf, size_t len,
                   struct bh_error *err)
{
    if (!src->data)
        return src->read(src->arg, offset, buf, len, err);
    memcpy(buf, (const char *)src->data + offset, len);
    return 0;
}

int bh_call_sleep(const struct bh_call *call, int64_t ms, const char *what, struct bh_error *err)
{
    int64_t end = bh_mono_ms() + ms;
    for (;;) {
        int rc = bh_call_check(call, what, err);
        int64_t left = end - bh_mono_ms();
        if (rc || left <= 0)
            return rc;
        int64_t slice = left < 20 ? left : 20;
        nanosleep(&(struct timespec){.tv_nsec = slice * 1000000}, NULL);
    }
}

void bh_put_id(char id[BH_PUT_ID_SIZE])
{
    unsigned char random[(BH_PUT_ID_SIZE - 1) / 2];
    bh_random_bytes(random, sizeof random);
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
}
