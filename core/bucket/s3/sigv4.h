/* AWS Signature Version 4. Source: AWS General Reference, "Signature Version 4 signing process",
 * and Amazon S3 API Reference, "Authenticating Requests". No I/O; every function may be called from
 * any thread. */
#ifndef BH_BUCKET_S3_SIGV4_H
#define BH_BUCKET_S3_SIGV4_H

#include "bucket/s3/http.h"
#include "util/strbuf.h"

#define BH_SIGV4_UNSIGNED "UNSIGNED-PAYLOAD"
#define BH_SIGV4_EMPTY    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define BH_SIGV4_DATE     17 /* "20130524T000000Z" with its NUL */

/* Who signs, for what, when. */
struct bh_sigv4_signer {
    const char *access_key_id;
    const char *secret_access_key;
    const char *session_token; /* NULL or "": none */
    const char *region;
    const char *service; /* "s3", "sts" */
    int64_t time_ms;     /* real time by the server's clock */
};

/* What is signed. path, names and values of the query are raw (a value NULL is ""): they are
 * percent-encoded here, each byte but A-Z a-z 0-9 - . _ ~ (and '/' in the path). The path is not
 * normalised ("//", "." and ".." stay), as S3 wants it. headers are all those to be signed, "host"
 * among them; names in any case, values as sent. */
struct bh_sigv4_request {
    const char *method;
    const char *path; /* begins with '/' */
    const struct bh_pair *query;
    size_t query_count;
    const struct bh_pair *headers;
    size_t header_count;
    const char *payload_hash; /* hex SHA-256 of the body, or BH_SIGV4_UNSIGNED */
};

/* Signs headers: fills amz_date (send it as x-amz-date) and appends the value of the Authorization
 * header. Signed beside req->headers, and to be sent by the caller: x-amz-date, and, where there is
 * a token, x-amz-security-token, and, for service "s3", x-amz-content-sha256 = payload_hash;
 * req->headers must not hold these three. 0, EINVAL (no key, no region or no time to sign with, or
 * one that no header can hold) or ENOMEM. */
int bh_sigv4_sign(const struct bh_sigv4_signer *by, const struct bh_sigv4_request *req,
                  char amz_date[BH_SIGV4_DATE], struct bh_strbuf *authorization,
                  struct bh_error *err);

/* Appends the query string (without '?') of a presigned URL: req->query, the X-Amz-* parameters and
 * the signature. seconds: 1 to 604800. The payload is unsigned. 0, EINVAL or ENOMEM. */
int bh_sigv4_presign(const struct bh_sigv4_signer *by, const struct bh_sigv4_request *req,
                     int64_t seconds, struct bh_strbuf *query, struct bh_error *err);

/* The forms that are signed, to be sent as they are: the path with its slashes; the query sorted by
 * encoded name, then value, every name followed by '='. */
void bh_sigv4_encode_path(struct bh_strbuf *out, const char *path);
void bh_sigv4_encode_query(struct bh_strbuf *out, const struct bh_pair *query, size_t count);

#endif
