/* What the files of the S3 backend share. */
#ifndef BH_BUCKET_S3_S3_PRIVATE_H
#define BH_BUCKET_S3_S3_PRIVATE_H

#include <pthread.h>
#include <stdio.h>

#include "bucket/bucket_util.h"
#include "bucket/s3/creds.h"
#include "bucket/s3/http.h"
#include "bucket/s3/s3.h"
#include "bucket/s3/sigv4.h"
#include "bucket/s3/xml.h"
#include "config/config.h"

#define S3_HOST_MAX    512
#define S3_REGION_MAX  64
#define S3_HEADERS_MAX 40
#define S3_LIST_PAGE_MAX                                                                           \
    ((size_t)16 << 20) /* 1,000 keys of 1024 bytes, each byte as %XX, twice                        \
                        */
#define S3_RESULT_MAX ((size_t)1 << 20)

struct s3 {
    struct bh_bucket base;
    const struct bh_config *cfg;
    struct bh_http *http;
    struct bh_creds *creds;
    struct bh_counters counters;
    bool aws; /* the endpoint is AWS's: what it can do is documented */
    bool tls;
    bool path_style;
    char *endpoint_host; /* host[:port] of a given endpoint, NULL for AWS's of the region */
    char *endpoint_path; /* "" or "/base" of a given endpoint */

    pthread_mutex_t mutex; /* of what is below */
    char region[S3_REGION_MAX];
    char moved_host[S3_HOST_MAX]; /* where a permanent redirect sent us; "" */
    char server[64];              /* what the Server header says; "" */
    bool bucket_seen;             /* an answer proved that the bucket exists */
    bool learned;
    bool etag_unquoted; /* If-Match wants the ETag without quotes (Ceph RGW) */
    unsigned caps;

    pthread_mutex_t learning;    /* one thread tries the store out */
    atomic_int_fast64_t skew_ms; /* added to our clock when signing */
    atomic_int_fast64_t
        not_before_ms; /* bh_mono_ms() until which the store wants to be left alone */
};

/* One operation's request. Zero-initialise it, fill it, s3_send it. */
struct s3_request {
    const char *method;
    enum bh_bucket_op op;
    const char *doing; /* "read", "write", ...: the verb of its sentences */
    const char *key;   /* NULL: the bucket itself */
    const struct bh_pair *query;
    size_t query_count;
    struct bh_pair headers[S3_HEADERS_MAX];
    size_t header_count;
    const struct bh_source *body;
    const char *payload_hash; /* of the body, where it is known already */
    bool once;                /* see http.h */
    bool checksum; /* the body's SHA-256 goes along for the store to keep, where it does that */
    size_t keep_body;
    int (*head)(void *arg, const struct bh_http_answer *a, bool *stream, struct bh_error *err);
    bh_sink_fn *sink;
    void *arg;
    const struct bh_call *call;
    bool anonymous; /* it was sent without a signature */
    /* its answer */
    struct bh_http_answer answer;
    struct bh_s3_error error; /* what the store said, if it did */
};

static inline struct s3 *s3_of(struct bh_bucket *b)
{
    return (struct s3 *)(void *)b;
}

/* The body that was kept of the answer, "" where there is none; its length is in the answer. */
static inline const char *s3_body(const struct s3_request *r)
{
    return r->answer.body.data ? r->answer.body.data : "";
}

/* An ETag as this store wants it in a condition. */
static inline const char *s3_quote_etag(const char *etag, bool unquoted, char out[BH_ETAG_MAX + 2])
{
    const char *quote = unquoted ? "" : "\"";
    snprintf(out, BH_ETAG_MAX + 2, "%s%s%s", quote, etag, quote);
    return out;
}

/* len bytes written as hexadecimal digits. False: something else is there. */
static inline bool s3_unhex(const char *hex, unsigned char *out, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            return false;
        out[i] = (unsigned char)byte;
    }
    return true;
}

/* XML 1.0 has no way to write most control characters. */
static inline bool s3_fits_xml(const char *key)
{
    for (; *key; key++)
        if ((unsigned char)*key < ' ')
            return false;
    return true;
}

/* --- s3_request.c --- */
void s3_header(struct s3_request *r, const char *name, const char *value);
/* Signs and sends, again where the store names the right region, host or time, or wants fresh
 * credentials. 0: a complete 2xx answer came (an <Error> inside is not looked for). Otherwise errno
 * and sentence by s3_errors.c's table, r->answer.status telling the status. Counts what it sends.
 * The answer is released with s3_request_free in every case. */
int s3_send(struct s3 *s, struct s3_request *r, struct bh_error *err);
void s3_request_free(struct s3_request *r);
/* "https://HOST" and the raw path of a key (NULL: the bucket), for presigned URLs too. */
void s3_place(struct s3 *s, const char *key, char host[S3_HOST_MAX], struct bh_strbuf *path);
int64_t s3_now_ms(struct s3 *s); /* real time by the store's clock, as far as it is known */
/* Storage class and encryption, for what creates objects. */
void s3_creation_headers(struct s3 *s, struct s3_request *r);

/* --- s3_errors.c --- */
/* errno and sentence for an answer that is not 2xx, or whose body is an <Error>. */
int s3_fail(struct s3 *s, struct s3_request *r, struct bh_error *err);
/* Like it, for a 2xx answer of which the body may be an <Error>; 0 if it is not. */
int s3_check_body(struct s3 *s, struct s3_request *r, struct bh_error *err);
/* s3_send and s3_check_body. */
int s3_ask(struct s3 *s, struct s3_request *r, struct bh_error *err);
/* Like s3_check_body, for an answer that should have no body: EIO where there is one that is no
 * XML, a proxy's page. */
int s3_check_empty(struct s3 *s, struct s3_request *r, struct bh_error *err);
/* Whether something that speaks S3 answered, and not a proxy's page. */
bool s3_is_genuine(const struct s3_request *r);
/* --- s3_answer.c --- */
/* The ETag header without quotes. EIO: missing or too long. */
int s3_etag_of(const struct s3_request *r, char etag[BH_ETAG_MAX], struct bh_error *err);
/* Fills size (from the length), time, ETag and metadata from headers. EIO where it cannot. */
int s3_info_of(const struct s3_request *r, const struct bh_http_answer *a,
               struct bh_object_info *info, struct bh_error *err);
int64_t s3_date_of(const struct bh_http_answer *a); /* the Date header, ms; -1 */
/* 304 and 412, and 404 for a condition on an existing object, as bucket.h wants them. */
int s3_condition_failed(const struct s3_request *r, const struct bh_cond *cond, int rc,
                        struct bh_error *err);

/* --- the operations, by file --- */
/* s3_object.c */
int s3_get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length, bh_sink_fn *sink,
           void *arg, struct bh_object_info *info, const struct bh_call *call,
           struct bh_error *err);
int s3_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
            const struct bh_call *call, struct bh_error *err);
int s3_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
           const struct bh_meta *meta, const struct bh_cond *cond, struct bh_object_info *info,
           const struct bh_call *call, struct bh_error *err);
/* The put itself: the condition is sent as it is, whatever is known of the store. */
int s3_put_raw(struct s3 *s, const char *key, const struct bh_source *src,
               const struct bh_meta *meta, const struct bh_cond *cond, bool unquoted,
               struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);
int s3_delete(struct bh_bucket *b, const char *key, const struct bh_call *call,
              struct bh_error *err);
int s3_delete_many(struct bh_bucket *b, const char *const *keys, size_t count, size_t *deleted,
                   const struct bh_call *call, struct bh_error *err);
/* s3_copy.c */
int s3_copy(struct bh_bucket *b, const char *from, const char *to, const char *from_if_match,
            struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);
int s3_copy_raw(struct s3 *s, const char *from, const char *to, const char *if_match, bool unquoted,
                struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);
/* "/BUCKET/KEY", encoded, for x-amz-copy-source. */
void s3_copy_source(struct s3 *s, const char *key, struct bh_strbuf *out);
/* s3_list.c */
int s3_list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn, void *arg,
            const struct bh_call *call, struct bh_error *err);
int s3_mp_list(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
               const struct bh_call *call, struct bh_error *err);
/* s3_multipart.c */
int s3_mp_begin(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call, struct bh_error *err);
int s3_mp_part(struct bh_bucket *b, const char *key, const char *upload_id, unsigned number,
               const struct bh_source *src, struct bh_part *out, const struct bh_call *call,
               struct bh_error *err);
int s3_mp_part_copy(struct bh_bucket *b, const char *key, const char *upload_id, unsigned number,
                    const char *from, uint64_t offset, uint64_t length, const char *from_if_match,
                    struct bh_part *out, const struct bh_call *call, struct bh_error *err);
/* length UINT64_MAX: the whole object, which may then be smaller than 5 MiB. */
int s3_mp_part_copy_raw(struct s3 *s, const char *key, const char *upload_id, unsigned number,
                        const char *from, uint64_t offset, uint64_t length,
                        const char *from_if_match, bool unquoted, struct bh_part *out,
                        const struct bh_call *call, struct bh_error *err);
int s3_mp_complete(struct bh_bucket *b, const char *key, const char *upload_id,
                   const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                   struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);
int s3_mp_complete_raw(struct s3 *s, const char *key, const char *upload_id,
                       const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                       bool unquoted, struct bh_object_info *info, const struct bh_call *call,
                       struct bh_error *err);
int s3_mp_abort(struct bh_bucket *b, const char *key, const char *upload_id,
                const struct bh_call *call, struct bh_error *err);
/* s3_learn.c */
unsigned s3_caps(struct bh_bucket *b);
int s3_learn(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err);
/* Learns if that was not done, then: 0, or ENOTSUP with a sentence where the store lacks `cap`. */
int s3_need(struct s3 *s, unsigned cap, const char *what, const struct bh_call *call,
            struct bh_error *err);
bool s3_unquoted(struct s3 *s);

/* Appends the conditional headers; value holds the quoted ETag. */
void s3_condition_headers(struct s3_request *r, const struct bh_cond *cond, bool unquoted,
                          char value[BH_ETAG_MAX + 2]);
/* x-amz-meta-*; names holds them. */
void s3_meta_headers(struct s3_request *r, const struct bh_meta *meta,
                     char names[BH_META_ITEMS_MAX][BH_META_NAME_MAX + 12]);

#endif
