/* Single objects: get, head, put, delete. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/checksum.h"
#include "bucket/s3/s3_private.h"
#include "util/cleanup.h"

#define DELETE_MANY_MAX 1000

/* --- get --- */

struct get {
    struct s3_request *r;
    uint64_t offset, length;
    bh_sink_fn *sink;
    void *arg;
    struct bh_object_info *info;
    uint64_t expected, got;
    struct bh_checksum *checksum;
    const char *key;
};

/* "bytes 5-9/100": what came is what was asked for, and the size of the whole. */
static int take_range(struct get *g, const struct bh_http_answer *a, struct bh_error *err)
{
    const char *range = bh_http_header(a, "content-range");
    uint64_t first, last, whole;
    char rest;
    if (!range || sscanf(range, "bytes %" SCNu64 "-%" SCNu64 "/%" SCNu64 "%c", &first, &last,
                         &whole, &rest) != 3)
        return bh_fail(err, EIO, "the answer for a part of %s does not tell which part it is",
                       g->key);
    uint64_t end = g->length > whole - g->offset ? whole : g->offset + g->length;
    if (first != g->offset || whole <= g->offset || last + 1 != end || a->length != end - first)
        return bh_fail(err, EIO,
                       "asked for %" PRIu64 " bytes of %s from %" PRIu64
                       ", the store sent \"%.80s\"",
                       g->length, g->key, g->offset, range);
    g->info->size = whole;
    return 0;
}

static int begin_checksum(struct get *g, const struct bh_http_answer *a, struct bh_error *err)
{
    const char *n, *v;
    int rc = 0;
    for (size_t at = 0; !rc && !g->checksum && bh_http_next_header(a, &at, &n, &v);)
        if (strncmp(n, "x-amz-checksum-", 15) == 0)
            rc = bh_checksum_begin(&g->checksum, n, v, err);
    return rc;
}

/* Nothing reaches the sink unless the headers say that it is this object's content. */
static int get_head(void *arg, const struct bh_http_answer *a, bool *stream, struct bh_error *err)
{
    struct get *g = arg;
    bool whole = g->offset == 0 && g->length == UINT64_MAX;
    if (a->status < 200 || a->status >= 300)
        return 0;
    int rc = s3_info_of(g->r, a, g->info, err);
    if (rc)
        return rc;
    g->expected = a->length;
    if (a->status == 206 && !whole)
        rc = take_range(g, a, err);
    else if (a->status != 200 || g->offset != 0 || a->length > g->length)
        rc = bh_fail(err, EIO, "asked for a part of %s, the store answered with status %d", g->key,
                     a->status);
    else
        rc = begin_checksum(g, a, err);
    *stream = true;
    return rc;
}

static int get_take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct get *g = arg;
    if (len > g->expected - g->got)
        return bh_fail(err, EIO, "%s: more bytes came than the store announced", g->key);
    if (g->checksum)
        bh_checksum_update(g->checksum, data, len);
    g->got += len;
    return g->sink(g->arg, data, len, err);
}

static int get_end(struct get *g, struct bh_error *err)
{
    if (g->got != g->expected)
        return bh_fail(err, EIO, "%s is cut off: %" PRIu64 " of %" PRIu64 " bytes came", g->key,
                       g->got, g->expected);
    int rc = g->checksum ? bh_checksum_end(g->checksum, err) : 0;
    return rc ? bh_fail_prefix(err, rc, "%s was damaged in the store or on its way", g->key) : 0;
}

int s3_get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length, bh_sink_fn *sink,
           void *arg, struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    struct s3_request r = {.method = "GET",
                           .op = BH_OP_GET,
                           .doing = "read",
                           .key = key,
                           .call = call,
                           .keep_body = S3_RESULT_MAX,
                           .head = get_head,
                           .sink = get_take};
    struct get g = {.r = &r,
                    .offset = offset,
                    .length = length,
                    .sink = sink,
                    .arg = arg,
                    .info = info,
                    .key = key};
    char range[64];
    r.arg = &g;
    if (offset != 0 || length != UINT64_MAX) {
        if (length == UINT64_MAX || length - 1 > UINT64_MAX - offset)
            snprintf(range, sizeof range, "bytes=%" PRIu64 "-", offset);
        else
            snprintf(range, sizeof range, "bytes=%" PRIu64 "-%" PRIu64, offset,
                     offset + length - 1);
        s3_header(&r, "Range", range);
    } else if (s->aws) {
        s3_header(&r, "x-amz-checksum-mode", "ENABLED");
    }
    int rc = s3_send(s, &r, err);
    int status = r.answer.status;
    if (!rc)
        rc = get_end(&g, err);
    bh_checksum_free(g.checksum);
    s3_request_free(&r);
    if (rc == EINVAL && status == 416 && offset == 0 && s3_head(b, key, info, call, NULL) == 0 &&
        info->size == 0)
        return 0; /* no range of an empty object can be satisfied */
    if (rc == EINVAL && status == 416)
        return bh_fail(err, EINVAL, "%s has no byte at %" PRIu64, key, offset);
    return rc;
}

/* --- head --- */

static int bucket_is_there(struct s3 *s, const struct bh_call *call, struct bh_error *err)
{
    pthread_mutex_lock(&s->mutex);
    bool seen = s->bucket_seen;
    pthread_mutex_unlock(&s->mutex);
    if (seen)
        return 0;
    const struct bh_pair query[] = {{"list-type", "2"}, {"max-keys", "1"}};
    struct s3_request r = {.method = "GET",
                           .op = BH_OP_LIST,
                           .doing = "list",
                           .query = query,
                           .query_count = 2,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    int rc = s3_send(s, &r, err);
    s3_request_free(&r);
    return rc == EACCES ? 0 : rc; /* who may not list may well read and write */
}

/* A HEAD's error has no body that would say more than its status: a GET of one byte has one. */
static int explain(struct s3 *s, const char *key, const struct bh_call *call, struct bh_error *err)
{
    struct s3_request r = {.method = "GET",
                           .op = BH_OP_GET,
                           .doing = "look at",
                           .key = key,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    s3_header(&r, "Range", "bytes=0-0");
    int rc = s3_send(s, &r, err);
    if (rc == EINVAL && r.answer.status == 416) /* an empty object */
        rc = 0;
    s3_request_free(&r);
    return rc;
}

static int head_once(struct s3 *s, const char *key, struct bh_object_info *info, bool *vague,
                     const struct bh_call *call, struct bh_error *err)
{
    struct s3_request r = {
        .method = "HEAD", .op = BH_OP_HEAD, .doing = "look at", .key = key, .call = call};
    int rc = s3_send(s, &r, err);
    int status = r.answer.status;
    *vague =
        (status >= 300 && status < 500 && status != 404) || (status == 404 && !s3_is_genuine(&r));
    if (!rc)
        rc = s3_info_of(&r, &r.answer, info, err);
    s3_request_free(&r);
    return rc;
}

int s3_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
            const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    bool vague;
    int rc = head_once(s, key, info, &vague, call, err);
    if (rc && vague) {
        rc = explain(s, key, call, err);
        if (!rc) /* what was wrong is put right by now */
            rc = head_once(s, key, info, &vague, call, err);
    }
    if (rc == ENOENT) {
        struct bh_error why;
        int there = bucket_is_there(s, call, &why);
        if (there)
            return bh_fail(err, there, "%s", why.text);
    }
    return rc;
}

/* --- put --- */

void s3_condition_headers(struct s3_request *r, const struct bh_cond *cond, bool unquoted,
                          char value[BH_ETAG_MAX + 2])
{
    if (cond && cond->if_none_match)
        s3_header(r, "If-None-Match", "*");
    if (cond && cond->if_match)
        s3_header(r, "If-Match", s3_quote_etag(cond->if_match, unquoted, value));
}

void s3_meta_headers(struct s3_request *r, const struct bh_meta *meta,
                     char names[BH_META_ITEMS_MAX][BH_META_NAME_MAX + 12])
{
    for (size_t i = 0; meta && i < meta->count; i++) {
        snprintf(names[i], BH_META_NAME_MAX + 12, "x-amz-meta-%s", meta->items[i].name);
        s3_header(r, names[i], meta->items[i].value);
    }
}

int s3_put_raw(struct s3 *s, const char *key, const struct bh_source *src,
               const struct bh_meta *meta, const struct bh_cond *cond, bool unquoted,
               struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    char names[BH_META_ITEMS_MAX][BH_META_NAME_MAX + 12], quoted[BH_ETAG_MAX + 2];
    struct s3_request r = {.method = "PUT",
                           .op = BH_OP_PUT,
                           .doing = "write",
                           .key = key,
                           .body = src,
                           .call = call,
                           .keep_body = S3_RESULT_MAX,
                           .checksum = true,
                           .once = cond && (cond->if_match || cond->if_none_match)};
    s3_header(&r, "Content-Type", "application/octet-stream");
    s3_creation_headers(s, &r);
    s3_meta_headers(&r, meta, names);
    s3_condition_headers(&r, cond, unquoted, quoted);
    int rc = s3_send(s, &r, err);
    rc = s3_condition_failed(&r, cond, rc, err);
    *info = (struct bh_object_info){.size = src->size};
    if (!rc)
        rc = s3_check_empty(s, &r, err);
    if (!rc)
        rc = s3_etag_of(&r, info->etag, err);
    info->mtime_ms = s3_date_of(&r.answer);
    if (info->mtime_ms < 0)
        info->mtime_ms = s3_now_ms(s);
    if (meta)
        info->meta = *meta;
    s3_request_free(&r);
    return rc;
}

int s3_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
           const struct bh_meta *meta, const struct bh_cond *cond, struct bh_object_info *info,
           const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    int rc = 0;
    if (cond && cond->if_none_match)
        rc = s3_need(s, BH_CAP_IF_NONE_MATCH, "writes on condition that a key is new", call, err);
    if (cond && cond->if_match)
        rc = s3_need(s, BH_CAP_IF_MATCH, "writes on condition that an object is unchanged", call,
                     err);
    return rc ? rc : s3_put_raw(s, key, src, meta, cond, s3_unquoted(s), info, call, err);
}

/* --- delete --- */

int s3_delete(struct bh_bucket *b, const char *key, const struct bh_call *call,
              struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    struct s3_request r = {.method = "DELETE",
                           .op = BH_OP_DELETE,
                           .doing = "delete",
                           .key = key,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    int rc = s3_send(s, &r, err);
    if (!rc)
        rc = s3_check_empty(s, &r, err);
    s3_request_free(&r);
    return rc == ENOENT ? 0 : rc;
}

struct deleting {
    size_t failed;
    int rc;
    struct bh_error err;
};

static int delete_failed(void *arg, const char *key, const char *code, const char *message,
                         struct bh_error *err)
{
    struct deleting *d = arg;
    if (strcmp(code, "NoSuchKey") == 0)
        return 0;
    d->failed++;
    if (d->rc)
        return 0;
    bool refused = strcmp(code, "AccessDenied") == 0;
    bool later = strcmp(code, "SlowDown") == 0 || strcmp(code, "ServiceUnavailable") == 0;
    d->rc = bh_fail(&d->err,
                    refused ? EACCES
                    : later ? EAGAIN
                            : EIO,
                    "cannot delete %s: %s (%s)", key, message, code);
    return 0;
}

/* One DeleteObjects request; counts those that are gone. */
static int delete_batch(struct s3 *s, const char *const *keys, size_t count, size_t *deleted,
                        const struct bh_call *call, struct bh_error *err)
{
    BH_STRBUF xml = {0};
    char md5[25];
    const struct bh_pair query[] = {{"delete", ""}};
    bh_xml_delete_body(&xml, keys, count);
    if (xml.failed)
        return bh_fail(err, ENOMEM, "out of memory");
    const struct bh_source body = {.size = xml.len, .data = xml.data};
    int rc = bh_md5_base64(xml.data, xml.len, md5, err);
    if (rc)
        return rc;
    struct s3_request r = {.method = "POST",
                           .op = BH_OP_DELETE,
                           .doing = "delete from",
                           .query = query,
                           .query_count = 1,
                           .body = &body,
                           .call = call,
                           .keep_body = S3_LIST_PAGE_MAX};
    s3_header(&r, "Content-Type", "application/xml");
    s3_header(&r, "Content-MD5", md5);
    struct deleting d = {.rc = 0};
    rc = s3_ask(s, &r, err);
    if (!rc)
        rc = bh_xml_delete_result(s3_body(&r), r.answer.body.len, delete_failed, &d, err);
    s3_request_free(&r);
    if (rc)
        return rc;
    *deleted += d.failed < count ? count - d.failed : 0;
    return d.rc ? bh_fail(err, d.rc, "%s", d.err.text) : 0;
}

/* For stores that have no DeleteObjects. */
static int delete_singly(struct s3 *s, const char *const *keys, size_t count, size_t *deleted,
                         const struct bh_call *call, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < count; i++) {
        rc = s3_delete(&s->base, keys[i], call, err);
        *deleted += rc == 0;
    }
    return rc;
}

int s3_delete_many(struct bh_bucket *b, const char *const *keys, size_t count, size_t *deleted,
                   const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    BH_FREE const char **batch = malloc(DELETE_MANY_MAX * sizeof *batch);
    struct bh_error why;
    int first = 0;
    if (!batch)
        return bh_fail(err, ENOMEM, "out of memory");
    for (size_t i = 0, n = 0; i < count || n > 0;) {
        int rc = 0;
        if (i < count && s3_fits_xml(keys[i])) {
            batch[n++] = keys[i++];
        } else if (i < count) {
            rc = s3_delete(b, keys[i++], call, &why);
            *deleted += rc == 0;
        }
        if (n == DELETE_MANY_MAX || (n > 0 && i == count)) {
            int batch_rc = delete_batch(s, batch, n, deleted, call, &why);
            if (batch_rc == ENOTSUP)
                batch_rc = delete_singly(s, batch, n, deleted, call, &why);
            rc = rc ? rc : batch_rc;
            n = 0;
        }
        if (rc && !first)
            first = bh_fail(err, rc, "%s", why.text);
        if (rc && rc != EACCES && rc != EIO) /* the rest would fare no better */
            return first;
    }
    return first;
}
