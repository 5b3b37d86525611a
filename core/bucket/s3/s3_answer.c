/* What an answer means: one table from S3's codes and HTTP's status to errno and advice; headers to
 * struct bh_object_info. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/s3_private.h"
#include "util/cleanup.h"

struct meaning {
    const char *code; /* S3's; NULL: of the status alone */
    int status;       /* 0: any */
    int rc;
    const char *advice; /* "" where the store's own words suffice */
};

#define CHECK_KEYS "check access_key_id and secret_access_key"
#define POLICY     "the credentials lack the right for it (policy of the user or of the bucket)"

static const struct meaning meanings[] = {
    {"NoSuchKey", 0, ENOENT, ""},
    {"NoSuchUpload", 0, ENOENT, ""},
    {"NoSuchVersion", 0, ENOENT, ""},
    {"NoSuchBucket", 0, ENODEV,
     "check the bucket's name and endpoint, or let bucket.create = true make it"},
    {"PreconditionFailed", 0, ESTALE, ""},
    {"ConditionalRequestConflict", 0, EAGAIN, ""},
    {"OperationAborted", 0, EAGAIN, ""},
    {"AccessDenied", 0, EACCES, POLICY},
    {"AllAccessDisabled", 0, EACCES, ""},
    {"AccountProblem", 0, EACCES, ""},
    {"InvalidAccessKeyId", 0, EACCES, CHECK_KEYS},
    {"SignatureDoesNotMatch", 0, EACCES,
     "the secret is wrong, or a proxy changes the requests; " CHECK_KEYS},
    {"ExpiredToken", 0, EACCES, "the temporary credentials have expired: renew them"},
    {"InvalidToken", 0, EACCES, "the session token does not belong to the key"},
    {"TokenRefreshRequired", 0, EACCES, "the temporary credentials have expired: renew them"},
    {"InvalidSecurity", 0, EACCES, CHECK_KEYS},
    {"RequestTimeTooSkewed", 0, EACCES, "set this machine's clock right"},
    {"AuthorizationHeaderMalformed", 0, EACCES,
     "set bucket.region to the one that the store names"},
    {"PermanentRedirect", 0, EACCES, "set bucket.region and bucket.endpoint_url to the bucket's"},
    {"InvalidObjectState", 0, EACCES, "the object is archived: restore it in the store first"},
    {"BucketAlreadyExists", 0, EACCES, "somebody else has a bucket of that name: choose another"},
    {"SlowDown", 0, EAGAIN, ""},
    {"Throttling", 0, EAGAIN, ""},
    {"ThrottlingException", 0, EAGAIN, ""},
    {"RequestLimitExceeded", 0, EAGAIN, ""},
    {"BandwidthLimitExceeded", 0, EAGAIN, ""},
    {"TooManyRequests", 0, EAGAIN, ""},
    {"ServiceUnavailable", 0, EAGAIN, ""},
    {"InternalError", 0, EIO, ""},
    {"RequestTimeout", 0, ETIMEDOUT, ""},
    {"BadDigest", 0, EIO, "the body was damaged on its way"},
    {"InvalidDigest", 0, EIO, ""},
    {"XAmzContentSHA256Mismatch", 0, EIO, "the body was damaged on its way"},
    {"XAmzContentChecksumMismatch", 0, EIO, "the body was damaged on its way"},
    {"IncompleteBody", 0, EIO, "the body was cut on its way"},
    {"MalformedXML", 0, EINVAL, ""},
    {"InvalidPart", 0, EINVAL, ""},
    {"InvalidPartOrder", 0, EINVAL, ""},
    {"InvalidPartNumber", 0, EINVAL, ""},
    {"EntityTooSmall", 0, EINVAL, ""},
    {"EntityTooLarge", 0, EFBIG, ""},
    {"InvalidRange", 0, EINVAL, ""},
    {"KeyTooLongError", 0, ENAMETOOLONG, ""},
    {"InvalidBucketName", 0, EINVAL, "check the bucket's name"},
    {"InvalidStorageClass", 0, EINVAL, "check bucket.storage_class"},
    {"QuotaExceeded", 0, ENOSPC, "raise the quota or delete something"},
    {"ServiceQuotaExceeded", 0, ENOSPC, ""},
    {"XMinioStorageFull", 0, ENOSPC, ""},
    {"XMinioStorageQuotaExceeded", 0, ENOSPC, "raise the quota or delete something"},
    {"TooManyBuckets", 0, ENOSPC, ""},
    {"NotImplemented", 0, ENOTSUP, ""},
    {"MethodNotAllowed", 0, ENOTSUP, ""},
    {NULL, 304, ESTALE, ""}, /* older MinIO, for a failed condition of a put */
    {NULL, 401, EACCES, CHECK_KEYS},
    {NULL, 403, EACCES, "check the credentials and their rights"},
    {NULL, 404, ENOENT, ""},
    {NULL, 405, ENOTSUP, ""},
    {NULL, 407, EACCES, "the proxy wants a user and a password: bucket.proxy"},
    {NULL, 408, ETIMEDOUT, ""},
    {NULL, 409, EAGAIN, ""},
    {NULL, 412, ESTALE, ""},
    {NULL, 413, EFBIG, ""},
    {NULL, 416, EINVAL, ""},
    {NULL, 425, EAGAIN, ""},
    {NULL, 429, EAGAIN, ""},
    {NULL, 501, ENOTSUP, ""},
    {NULL, 503, EAGAIN, ""},
    {NULL, 504, ETIMEDOUT, ""},
    {NULL, 507, ENOSPC, "the store is full"},
};

static struct meaning meaning_of(const struct s3_request *r)
{
    const char *code = r->error.code;
    int status = r->answer.status;
    for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++) {
        const struct meaning *m = &meanings[i];
        if (m->code ? *code && strcmp(m->code, code) == 0 : m->status == status)
            return *m;
    }
    if (strncmp(code, "KMS.", 4) == 0)
        return (struct meaning){.rc = EACCES,
                                .advice = "check bucket.sse_kms_key_id and its rights"};
    if (status >= 300 && status < 400)
        return (struct meaning){.rc = EACCES,
                                .advice = "a redirect that cannot be followed: check "
                                          "bucket.endpoint_url and bucket.region"};
    return (struct meaning){.rc = status >= 400 && status < 500 ? EINVAL : EIO, .advice = ""};
}

bool s3_is_genuine(const struct s3_request *r)
{
    const struct bh_http_answer *a = &r->answer;
    return r->error.code[0] || bh_http_header(a, "x-amz-request-id") ||
           bh_http_header(a, "x-amz-id-2") || bh_http_header(a, "x-amz-bucket-region");
}

static bool has_condition(const struct s3_request *r)
{
    for (size_t i = 0; i < r->header_count; i++)
        if (strncmp(r->headers[i].name, "If-", 3) == 0 ||
            strcmp(r->headers[i].name, "x-amz-copy-source-if-match") == 0)
            return true;
    return false;
}

int s3_fail(struct s3 *s, struct s3_request *r, struct bh_error *err)
{
    struct meaning m = meaning_of(r);
    if (m.rc == ESTALE && !has_condition(r))
        m.rc = EIO; /* the answer to another question */
    const struct bh_s3_error *e = &r->error;
    const char *id =
        e->request_id[0] ? e->request_id : bh_http_header(&r->answer, "x-amz-request-id");
    const char *what = r->key ? r->key : "the bucket";
    char where[S3_HOST_MAX];
    BH_STRBUF path = {0};
    s3_place(s, NULL, where, &path);
    if (m.rc == ENOENT && !s3_is_genuine(r) && strcmp(r->method, "HEAD") != 0)
        return bh_fail(
            err, EIO,
            "cannot %s %s: what answers at %s says \"not found\" (404), but not as an S3 "
            "store does; check bucket.endpoint_url, or the proxy in between",
            r->doing, what, where);
    if (m.rc == ENODEV)
        return bh_fail(err, m.rc, "the bucket %s does not exist at %s: %s", s->cfg->bucket.name,
                       where, m.advice);
    if (m.rc == ENOENT && r->key && strcmp(e->code, "NoSuchUpload") != 0)
        return bh_fail(err, m.rc, "there is no %s in the bucket", what);
    return bh_fail(err, m.rc, "cannot %s %s: %s%s(status %d%s%s%s%.64s)%s%s", r->doing, what,
                   e->message, e->message[0] ? " " : "the store refuses ", r->answer.status,
                   e->code[0] ? " " : "", e->code, id && *id ? ", request " : "", id ? id : "",
                   m.advice[0] ? "; " : "", m.advice);
}

int s3_check_body(struct s3 *s, struct s3_request *r, struct bh_error *err)
{
    const struct bh_strbuf *body = &r->answer.body;
    if (!bh_xml_error(body->data ? body->data : "", body->len, &r->error))
        return 0;
    return s3_fail(s, r, err);
}

int s3_check_empty(struct s3 *s, struct s3_request *r, struct bh_error *err)
{
    const struct bh_strbuf *body = &r->answer.body;
    size_t blank = body->data ? strspn(body->data, " \t\r\n") : 0;
    int rc = s3_check_body(s, r, err);
    if (rc || blank == body->len || strncmp(body->data + blank, "<?xml", 5) == 0)
        return rc;
    return bh_fail(err, EIO,
                   "cannot %s %s: the answer (status %d with a page) is not an S3 store's; check "
                   "bucket.endpoint_url, or the proxy in between",
                   r->doing, r->key ? r->key : "the bucket", r->answer.status);
}

/* --- headers --- */

/* Copies an ETag without quotes and weakness. */
static bool copy_etag(const char *value, char etag[BH_ETAG_MAX])
{
    if (strncmp(value, "W/", 2) == 0)
        value += 2;
    size_t len = strlen(value);
    if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
        value++;
        len -= 2;
    }
    if (len == 0 || len >= BH_ETAG_MAX)
        return false;
    memcpy(etag, value, len);
    etag[len] = '\0';
    for (const char *c = etag; *c; c++)
        if (*c <= ' ' || *c > '~' || *c == '"')
            return false;
    return true;
}

static int etag_from(const struct s3_request *r, const struct bh_http_answer *a,
                     char etag[BH_ETAG_MAX], struct bh_error *err)
{
    const char *value = bh_http_header(a, "etag");
    if (value && copy_etag(value, etag))
        return 0;
    return bh_fail(
        err, EIO,
        "the answer (status %d) to the request to %s %s has no valid ETag, so it is not an "
        "S3 store's; check bucket.endpoint_url, or the proxy in between",
        a->status, r->doing, r->key);
}

int s3_etag_of(const struct s3_request *r, char etag[BH_ETAG_MAX], struct bh_error *err)
{
    return etag_from(r, &r->answer, etag, err);
}

int64_t s3_date_of(const struct bh_http_answer *a)
{
    const char *date = bh_http_header(a, "date");
    return date ? bh_parse_http_time(date) : -1;
}

/* Metadata that others wrote may be more, or longer, than we can hold: what begins with "bh-" is
 * ours and comes first, the rest as far as there is room. */
static void take_meta(const struct bh_http_answer *a, struct bh_meta *meta)
{
    static const char prefix[] = "x-amz-meta-";
    const char *n, *v;
    *meta = (struct bh_meta){0};
    for (int ours = 1; ours >= 0; ours--)
        for (size_t at = 0; bh_http_next_header(a, &at, &n, &v);)
            if (strncmp(n, prefix, sizeof prefix - 1) == 0) {
                const char *name = n + sizeof prefix - 1;
                if ((strncmp(name, "bh-", 3) == 0) == ours)
                    (void)bh_meta_set(meta, name, v, NULL); /* no room, or not of our form */
            }
}

int s3_info_of(const struct s3_request *r, const struct bh_http_answer *a,
               struct bh_object_info *info, struct bh_error *err)
{
    *info = (struct bh_object_info){0};
    int rc = etag_from(r, a, info->etag, err);
    if (rc)
        return rc;
    const char *encoding = bh_http_header(a, "content-encoding");
    if (encoding && strncmp(bh_http_header(a, "etag"), "W/", 2) == 0)
        return bh_fail(err, EIO,
                       "a proxy sends %s encoded as %.20s, which is not the object itself", r->key,
                       encoding);
    if (a->length == UINT64_MAX)
        return bh_fail(err, EIO, "the answer to the request to %s %s does not tell the size",
                       r->doing, r->key);
    info->size = a->length;
    const char *changed = bh_http_header(a, "last-modified");
    info->mtime_ms = changed ? bh_parse_http_time(changed) : -1;
    if (info->mtime_ms < 0)
        info->mtime_ms = s3_date_of(a) < 0 ? 0 : s3_date_of(a);
    take_meta(a, &info->meta);
    return 0;
}

int s3_condition_failed(const struct s3_request *r, const struct bh_cond *cond, int rc,
                        struct bh_error *err)
{
    if (!rc || !cond || r->answer.status < 300)
        return rc;
    if (cond->if_none_match && rc == ESTALE)
        return bh_fail(err, EEXIST, "%s exists already", r->key);
    if (cond->if_match && (rc == ESTALE || rc == ENOENT))
        return bh_fail(err, ESTALE, "%s is not what it was: its ETag is not %s any more", r->key,
                       cond->if_match);
    return rc;
}
