#include "bucket/bucket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "bucket/s3/s3.h"
#include "config/config.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define PART_MAX        ((uint64_t)5 << 30)
#define PART_NUMBER_MAX 10000
#define PRESIGN_MAX     604800

const char *bh_bucket_op_name(enum bh_bucket_op op)
{
    static const char *const names[BH_OP_COUNT] = {"get",    "put",  "head",      "copy",
                                                   "delete", "list", "multipart", "other"};
    return (unsigned)op < BH_OP_COUNT ? names[op] : "unknown";
}

const char *bh_bucket_error_name(enum bh_bucket_error_kind kind)
{
    static const char *const names[BH_BUCKET_ERROR_COUNT] = {"timeout", "throttled", "broken",
                                                             "refused", "cancelled", "other"};
    return (unsigned)kind < BH_BUCKET_ERROR_COUNT ? names[kind] : "unknown";
}

/* --- metadata --- */

static bool meta_name_ok(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return len > 0 && name[len] == '\0' && len < BH_META_NAME_MAX;
}

static bool meta_value_ok(const char *value)
{
    size_t len = 0;
    for (; value[len]; len++)
        if (value[len] < ' ' || value[len] > '~')
            return false;
    if (value[0] == ' ' || (len > 0 && value[len - 1] == ' ')) /* HTTP would drop it */
        return false;
    return len < BH_META_VALUE_MAX;
}

int bh_meta_set(struct bh_meta *m, const char *name, const char *value, struct bh_error *err)
{
    if (!name || !meta_name_ok(name))
        return bh_fail(err, EINVAL,
                       "the metadata name %s is not 1 to %d lower-case letters, digits and '-'",
                       name ? name : "(none)", BH_META_NAME_MAX - 1);
    if (!value || !meta_value_ok(value))
        return bh_fail(
            err, EINVAL,
            "the metadata value of %s is not printable ASCII of at most %d bytes without "
            "spaces around it",
            name, BH_META_VALUE_MAX - 1);
    size_t i = 0, others = 0; /* than BH_META_PUT, which has room of its own */
    bool is_id = strcmp(name, BH_META_PUT) == 0;
    for (; i < m->count && strcmp(m->items[i].name, name) != 0; i++)
        others += strcmp(m->items[i].name, BH_META_PUT) != 0;
    if (i == m->count && !is_id && others >= BH_META_ITEMS_MAX - 1)
        return bh_fail(err, E2BIG, "the metadata has no room for %s: %d items are the limit", name,
                       BH_META_ITEMS_MAX - 1);
    strcpy(m->items[i].name, name);
    strcpy(m->items[i].value, value);
    if (i == m->count)
        m->count++;
    return 0;
}

const char *bh_meta_get(const struct bh_meta *m, const char *name)
{
    for (size_t i = 0; i < m->count; i++)
        if (strcmp(m->items[i].name, name) == 0)
            return m->items[i].value;
    return NULL;
}

static int meta_check(const struct bh_meta *m, struct bh_error *err)
{
    struct bh_meta copy = {0};
    if (m && m->count > BH_META_ITEMS_MAX)
        return bh_fail(err, EINVAL, "the metadata has %zu items, %d are the limit", m->count,
                       BH_META_ITEMS_MAX - 1);
    for (size_t i = 0; m && i < m->count; i++) {
        int rc = bh_meta_set(&copy, m->items[i].name, m->items[i].value, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* --- limits and arguments --- */

int bh_call_check(const struct bh_call *call, const char *what, struct bh_error *err)
{
    if (!call)
        return 0;
    if ((call->cancel && atomic_load(call->cancel)) || (call->stop && atomic_load(call->stop)))
        return bh_fail(err, ECANCELED, "%s was cancelled", what);
    if (call->deadline_ms && bh_mono_ms() >= call->deadline_ms)
        return bh_fail(err, ETIMEDOUT, "%s did not end in time", what);
    return 0;
}

static int source_check(const struct bh_source *src, struct bh_error *err)
{
    if (!src || (src->size > 0 && !src->data && !src->read))
        return bh_fail(err, EINVAL, "the body to send has neither data nor a read function");
    return 0;
}

static int cond_check(const struct bh_cond *cond, struct bh_error *err)
{
    if (cond && cond->if_match && cond->if_none_match)
        return bh_fail(err, EINVAL, "if_match and if_none_match exclude each other");
    if (cond && cond->if_match && !*cond->if_match)
        return bh_fail(err, EINVAL, "if_match names no ETag");
    return 0;
}

static int upload_check(const char *key, const char *upload_id, struct bh_error *err)
{
    int rc = bh_key_check(key, err);
    if (rc)
        return rc;
    if (!upload_id || !*upload_id || strlen(upload_id) >= BH_UPLOAD_ID_MAX)
        return bh_fail(err, EINVAL, "the upload of %s has no valid id", key);
    return 0;
}

static int part_number_check(unsigned number, struct bh_error *err)
{
    if (number < 1 || number > PART_NUMBER_MAX)
        return bh_fail(err, EINVAL, "the part number %u is not between 1 and %d", number,
                       PART_NUMBER_MAX);
    return 0;
}

/* --- what callers use --- */

unsigned bh_bucket_caps(struct bh_bucket *b)
{
    return b->ops->caps(b);
}

int bh_bucket_get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
                  bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                  const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info ignored;
    int rc = bh_key_check(key, err);
    if (rc)
        return rc;
    if (length == 0 || !sink)
        return bh_fail(err, EINVAL, "the read of %s asks for no bytes", key);
    return b->ops->get(b, key, offset, length, sink, arg, info ? info : &ignored, call, err);
}

struct small_sink {
    const struct bh_object_info *info;
    const char *key;
    size_t max;
    char *data;
    size_t len;
};

static int small_sink_take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct small_sink *s = arg;
    if (s->info->size > s->max)
        return bh_fail(err, EFBIG, "%s has %llu bytes, more than the %zu that it may have", s->key,
                       (unsigned long long)s->info->size, s->max);
    if (!s->data && !(s->data = malloc((size_t)s->info->size + 1)))
        return bh_fail(err, ENOMEM, "out of memory while reading %s", s->key);
    if (len > s->info->size - s->len)
        return bh_fail(err, EIO, "%s delivered more bytes than its size says", s->key);
    memcpy(s->data + s->len, data, len);
    s->len += len;
    return 0;
}

int bh_bucket_get_small(struct bh_bucket *b, const char *key, size_t max, char **data, size_t *len,
                        struct bh_object_info *info, const struct bh_call *call,
                        struct bh_error *err)
{
    struct bh_object_info own;
    struct small_sink s = {.info = info ? info : &own, .key = key, .max = max};
    int rc =
        bh_bucket_get(b, key, 0, UINT64_MAX, small_sink_take, &s, info ? info : &own, call, err);
    BH_FREE char *got = s.data;
    if (rc)
        return rc;
    if (s.len != s.info->size)
        return bh_fail(err, EIO, "%s delivered %zu of %llu bytes", key, s.len,
                       (unsigned long long)s.info->size);
    if (!got && !(got = malloc(1)))
        return bh_fail(err, ENOMEM, "out of memory while reading %s", key);
    got[s.len] = '\0';
    *data = bh_take_ptr(got);
    if (len)
        *len = s.len;
    return 0;
}

int bh_bucket_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
                  const struct bh_meta *meta, const struct bh_cond *cond,
                  struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info ignored;
    int rc = bh_key_check(key, err);
    if (!rc)
        rc = source_check(src, err);
    if (!rc)
        rc = meta_check(meta, err);
    if (!rc)
        rc = cond_check(cond, err);
    return rc ? rc : b->ops->put(b, key, src, meta, cond, info ? info : &ignored, call, err);
}

int bh_bucket_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                   const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info ignored;
    int rc = bh_key_check(key, err);
    return rc ? rc : b->ops->head(b, key, info ? info : &ignored, call, err);
}

int bh_bucket_copy(struct bh_bucket *b, const char *from, const char *to, const char *from_if_match,
                   struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    int rc = bh_key_check(from, err);
    if (!rc)
        rc = bh_key_check(to, err);
    return rc ? rc : b->ops->copy(b, from, to, from_if_match, info, call, err);
}

int bh_bucket_delete(struct bh_bucket *b, const char *key, const struct bh_call *call,
                     struct bh_error *err)
{
    int rc = bh_key_check(key, err);
    return rc ? rc : b->ops->del(b, key, call, err);
}

int bh_bucket_delete_many(struct bh_bucket *b, const char *const *keys, size_t count,
                          size_t *deleted, const struct bh_call *call, struct bh_error *err)
{
    size_t ignored;
    if (!deleted)
        deleted = &ignored;
    *deleted = 0;
    for (size_t i = 0; i < count; i++) {
        int rc = bh_key_check(keys[i], err);
        if (rc)
            return rc;
    }
    return count == 0 ? 0 : b->ops->del_many(b, keys, count, deleted, call, err);
}

int bh_bucket_list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn,
                   void *arg, const struct bh_call *call, struct bh_error *err)
{
    if (!req->prefix || !fn)
        return bh_fail(err, EINVAL, "a listing needs a prefix and a function");
    if (req->delimiter && !*req->delimiter)
        return bh_fail(err, EINVAL, "the delimiter of a listing is one character or none at all");
    if (strlen(req->prefix) > BH_KEY_MAX ||
        (req->start_after && strlen(req->start_after) > BH_KEY_MAX))
        return bh_fail(err, ENAMETOOLONG, "the listing's prefix or start is longer than a key");
    return b->ops->list(b, req, fn, arg, call, err);
}

int bh_bucket_mp_begin(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                       char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                       struct bh_error *err)
{
    int rc = bh_key_check(key, err);
    if (!rc)
        rc = meta_check(meta, err);
    return rc ? rc : b->ops->mp_begin(b, key, meta, upload_id, call, err);
}

int bh_bucket_mp_part(struct bh_bucket *b, const char *key, const char *upload_id, unsigned number,
                      const struct bh_source *src, struct bh_part *out, const struct bh_call *call,
                      struct bh_error *err)
{
    int rc = upload_check(key, upload_id, err);
    if (!rc)
        rc = part_number_check(number, err);
    if (!rc)
        rc = source_check(src, err);
    if (!rc && src->size > PART_MAX)
        rc = bh_fail(err, EINVAL, "a part of %s is larger than 5 GiB", key);
    return rc ? rc : b->ops->mp_part(b, key, upload_id, number, src, out, call, err);
}

int bh_bucket_mp_part_copy(struct bh_bucket *b, const char *key, const char *upload_id,
                           unsigned number, const char *from, uint64_t offset, uint64_t length,
                           const char *from_if_match, struct bh_part *out,
                           const struct bh_call *call, struct bh_error *err)
{
    int rc = upload_check(key, upload_id, err);
    if (!rc)
        rc = part_number_check(number, err);
    if (!rc)
        rc = bh_key_check(from, err);
    if (!rc && (length == 0 || length > PART_MAX))
        rc = bh_fail(err, EINVAL, "a part of %s is empty or larger than 5 GiB", key);
    if (!rc)
        rc = b->ops->mp_part_copy(b, key, upload_id, number, from, offset, length, from_if_match,
                                  out, call, err);
    return rc;
}

int bh_bucket_mp_complete(struct bh_bucket *b, const char *key, const char *upload_id,
                          const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                          struct bh_object_info *info, const struct bh_call *call,
                          struct bh_error *err)
{
    struct bh_object_info ignored;
    int rc = upload_check(key, upload_id, err);
    if (!rc)
        rc = cond_check(cond, err);
    if (rc)
        return rc;
    if (count == 0)
        return bh_fail(err, EINVAL, "the upload of %s is completed without a part", key);
    for (size_t i = 0; i < count; i++) {
        rc = part_number_check(parts[i].number, err);
        if (rc)
            return rc;
        if (i > 0 && parts[i].number <= parts[i - 1].number)
            return bh_fail(err, EINVAL, "the parts of %s are not in ascending order", key);
    }
    return b->ops->mp_complete(b, key, upload_id, parts, count, cond, info ? info : &ignored, call,
                               err);
}

int bh_bucket_mp_abort(struct bh_bucket *b, const char *key, const char *upload_id,
                       const struct bh_call *call, struct bh_error *err)
{
    int rc = upload_check(key, upload_id, err);
    return rc ? rc : b->ops->mp_abort(b, key, upload_id, call, err);
}

int bh_bucket_mp_list(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
                      const struct bh_call *call, struct bh_error *err)
{
    if (!prefix || !fn)
        return bh_fail(err, EINVAL, "a listing of uploads needs a prefix and a function");
    return b->ops->mp_list(b, prefix, fn, arg, call, err);
}

int bh_bucket_presign(struct bh_bucket *b, const char *key, int64_t seconds, struct bh_strbuf *url,
                      struct bh_error *err)
{
    int rc = bh_key_check(key, err);
    if (rc)
        return rc;
    if (seconds < 1 || seconds > PRESIGN_MAX)
        return bh_fail(err, EINVAL, "a link lasts 1 to %d seconds, not %lld", PRESIGN_MAX,
                       (long long)seconds);
    return b->ops->presign(b, key, seconds, url, err);
}

int bh_bucket_server_time(struct bh_bucket *b, int64_t *real_ms, const struct bh_call *call,
                          struct bh_error *err)
{
    return b->ops->server_time(b, real_ms, call, err);
}

int bh_bucket_learn(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    return b->ops->learn(b, call, err);
}

int bh_bucket_make(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    return b->ops->make(b, call, err);
}

void bh_bucket_describe(struct bh_bucket *b, struct bh_strbuf *out)
{
    b->ops->describe(b, out);
}

void bh_bucket_stats(struct bh_bucket *b, struct bh_bucket_stats *out)
{
    b->ops->stats(b, out);
}

void bh_bucket_close(struct bh_bucket *b)
{
    if (b)
        b->ops->close(b);
}

/* --- opening --- */

static int open_backend(struct bh_bucket **out, const struct bh_config *cfg, struct bh_error *err)
{
    switch (cfg->bucket.kind) {
    case BH_BUCKET_FILE:
        return bh_bucket_dir_open(out, cfg->bucket.path, err);
    case BH_BUCKET_S3:
        return bh_bucket_s3_open(out, cfg, err);
    case BH_BUCKET_NONE:
        break;
    }
    return bh_fail(err, EINVAL, "no bucket is configured: give one, for instance file:///PATH");
}

int bh_bucket_open(struct bh_bucket **out, const struct bh_config *cfg, struct bh_error *err)
{
    struct bh_bucket *b;
    int rc = open_backend(&b, cfg, err);
    if (rc)
        return rc;
    if (cfg->bucket.fault && *cfg->bucket.fault) {
        struct bh_bucket *faulty;
        rc = bh_bucket_fault_wrap(&faulty, b, cfg->bucket.fault, cfg->bucket.fault_seed, err);
        if (rc) {
            bh_bucket_close(b);
            return rc;
        }
        b = faulty;
    }
    struct bh_retry_options how = {
        .attempts = cfg->bucket.attempts > 1000 ? 1000 : (unsigned)cfg->bucket.attempts,
        .base_ms = cfg->bucket.retry_base_ms,
        .time_ms = cfg->bucket.retry_time_ms};
    rc = bh_bucket_retry_wrap(out, b, &how, err);
    if (rc)
        bh_bucket_close(b);
    return rc;
}
