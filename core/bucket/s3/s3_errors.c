/* What an answer that is no success means: one table from S3's codes and HTTP's status to errno and
 * advice, and the sentence. */
#include <errno.h>
#include <string.h>

#include "bucket/s3/s3_private.h"

struct meaning {
    const char *code; /* S3's; NULL: of the status alone */
    int status;       /* 0: any */
    int rc;
    const char *advice; /* "" where the store's own words suffice */
};

#define CHECK_KEYS "check bucket.access_key_id and its secret"
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

/* Refusals of those who sign nothing come in many forms. */
static bool is_anonymous_refusal(const struct s3_request *r)
{
    int status = r->answer.status;
    bool plain = !r->error.code[0] || strcmp(r->error.code, "AccessDenied") == 0;
    return r->anonymous && plain &&
           (status == 400 || status == 401 || status == 403 || status == 412);
}

/* A proxy or some other server answered, with a status that says that it will not do better. */
static bool is_no_store(const struct s3_request *r)
{
    int status = r->answer.status;
    bool may_be_key = strcmp(r->method, "HEAD") == 0 && r->key;
    if (s3_is_genuine(r) || r->anonymous || may_be_key || status < 400 ||
        (status >= 500 && status != 501))
        return false;
    return status != 401 && status != 403 && status != 407 && status != 408 && status != 409 &&
           status != 412 && status != 417 && status != 425 && status != 429;
}

static bool is_creation(const struct s3_request *r)
{
    for (size_t i = 0; i < r->header_count; i++)
        if (strncmp(r->headers[i].name, "x-amz-storage-class", 19) == 0 ||
            strncmp(r->headers[i].name, "x-amz-server-side-encryption", 28) == 0)
            return true;
    return false;
}

static void add_advice(struct s3 *s, const struct s3_request *r, const struct meaning *m,
                       struct bh_strbuf *out)
{
    char origin[256];
    if (is_anonymous_refusal(r)) {
        bh_strbuf_addf(out,
                       "; requests without credentials (bucket.credentials = anonymous) are not "
                       "allowed here");
        return;
    }
    if (m->advice[0])
        bh_strbuf_addf(out, "; %s", m->advice);
    if (m->rc == EINVAL && is_creation(r))
        bh_strbuf_addf(out,
                       "; perhaps it does not take bucket.storage_class or bucket.sse as they are "
                       "set");
    bh_creds_origin(s->creds, origin, sizeof origin);
    if (m->rc == EACCES && !r->anonymous && r->answer.status != 407)
        bh_strbuf_addf(out, " (credentials: %s)", origin);
    if (!s3_is_genuine(r) && strcmp(r->method, "HEAD") != 0)
        bh_strbuf_addf(out, "; what answered does not look like an S3 store: check "
                            "bucket.endpoint_url, or the proxy in between");
}

static void add_bucket(struct s3 *s, struct bh_strbuf *out)
{
    char host[S3_HOST_MAX];
    BH_STRBUF path = {0};
    s3_place(s, NULL, host, &path);
    bh_strbuf_addf(out, "the bucket %s at %s://%s", s->cfg->bucket.name, s->tls ? "https" : "http",
                   host);
}

int s3_fail(struct s3 *s, struct s3_request *r, struct bh_error *err)
{
    struct meaning m = meaning_of(r);
    const struct bh_s3_error *e = &r->error;
    const char *id =
        e->request_id[0] ? e->request_id : bh_http_header(&r->answer, "x-amz-request-id");
    BH_STRBUF subject = {0};
    BH_STRBUF advice = {0};
    if (m.rc == ESTALE && !has_condition(r))
        m.rc = EIO; /* the answer to another question */
    if (is_anonymous_refusal(r))
        m.rc = EACCES;
    if (r->key && m.rc != ENODEV)
        bh_strbuf_addf(&subject, "%s in ", r->key);
    add_bucket(s, &subject);
    add_advice(s, r, &m, &advice);
    if (subject.failed || advice.failed)
        return bh_fail(err, ENOMEM, "out of memory");
    if (is_no_store(r))
        return bh_fail(
            err, m.rc == ENOENT ? EIO : EINVAL,
            "cannot %s %s: what answers there is no S3 store (status %d to a %s, not as an "
            "S3 store says it); check bucket.endpoint_url, or the proxy in between",
            r->doing, subject.data, r->answer.status, r->method);
    if (m.rc == ENODEV)
        return bh_fail(err, m.rc, "%s does not exist: %s", subject.data, m.advice);
    if (m.rc == ENOENT && r->key && strcmp(e->code, "NoSuchUpload") != 0)
        return bh_fail(err, m.rc, "there is no %s", subject.data);
    return bh_fail(err, m.rc, "cannot %s %s: %s (status %d%s%s%s%.64s)%s", r->doing, subject.data,
                   e->message[0] ? e->message : "the store refuses", r->answer.status,
                   e->code[0] ? " " : "", e->code, id && *id ? ", request " : "", id ? id : "",
                   advice.data ? advice.data : "");
}

int s3_check_body(struct s3 *s, struct s3_request *r, struct bh_error *err)
{
    if (!bh_xml_error(s3_body(r), r->answer.body.len, &r->error))
        return 0;
    return s3_fail(s, r, err);
}

int s3_ask(struct s3 *s, struct s3_request *r, struct bh_error *err)
{
    int rc = s3_send(s, r, err);
    return rc ? rc : s3_check_body(s, r, err);
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
