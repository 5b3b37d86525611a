/* The XML of S3's answers, read with expat, and of its requests. Whatever a server sends ends in a
 * filled struct or EIO with a sentence that names the field; a page is never half filled.
 * Namespaces and the order of elements do not matter, unknown elements are skipped, of two elements
 * of a name the first counts, blanks before the XML are accepted. Keys hold whatever S3 allows,
 * control characters (&#x1;) among it. No I/O; every function may be called from any thread. */
#ifndef BH_BUCKET_S3_XML_H
#define BH_BUCKET_S3_XML_H

#include "bucket/bucket.h"

/* <Error>, of an error answer or inside a 200. Fields are "" where they are missing; they are one
 * line of printable UTF-8, cut where they are too long. region and endpoint, which may become a
 * part of the next request, are "" where they do not fit or hold anything but letters, digits, '-',
 * '.', '_' and ':'. */
struct bh_s3_error {
    char code[64];
    char message[400];
    char region[64];    /* AuthorizationHeaderMalformed, ...: the right one */
    char endpoint[256]; /* PermanentRedirect: the right host */
    char request_id[80];
    char server_time[40]; /* RequestTimeTooSkewed: <ServerTime> */
};

/* Whether the body's root is <Error> (with any namespace); fills *e then, and empties it else.
 * Where the body is cut, with what it had said by then. */
bool bh_xml_error(const char *body, size_t len, struct bh_s3_error *e);

/* One page of ListObjectsV2, asked with encoding-type=url: keys and prefixes are decoded ('+' is a
 * space there, too) where the answer says EncodingType url. Not known of an object: ETag "".
 * Refused: an object without Key, Size or LastModified, a page without IsTruncated, more than 10000
 * entries. */
struct bh_xml_page {
    struct bh_xml_entry {
        char *key;
        bool is_prefix;
        struct bh_object_info info; /* size, mtime_ms, etag (no quotes) of an object */
    } * entries;                    /* objects and common prefixes in strict byte order; of a key
                                       that came twice, the newest */
    size_t count;
    bool truncated;
    char *next_token; /* NULL where there is none, even if truncated: go on after the last entry */
};
/* 0, EIO, ENOMEM. Released with bh_xml_page_free, after a failure too (the page is empty then). */
int bh_xml_list(const char *body, size_t len, struct bh_xml_page *page, struct bh_error *err);
void bh_xml_page_free(struct bh_xml_page *page);

/* One page of ListMultipartUploads, in the store's order. To be asked without encoding-type: Ceph
 * would encode the keys without saying so, Swift would leave NextKeyMarker as it is. Where the
 * answer says EncodingType url, it is decoded all the same. */
struct bh_xml_uploads {
    struct bh_xml_upload {
        char *key, *upload_id;
        int64_t started_ms;
    } * entries;
    size_t count;
    bool truncated;
    char *next_key, *next_upload_id; /* NULL where there is none */
};
int bh_xml_uploads(const char *body, size_t len, struct bh_xml_uploads *page, struct bh_error *err);
void bh_xml_uploads_free(struct bh_xml_uploads *page);

/* One page of ListParts, by number, none twice. */
struct bh_xml_parts {
    struct bh_xml_part {
        unsigned number;
        uint64_t size;
        char etag[BH_ETAG_MAX];
    } * entries;
    size_t count;
    bool truncated;
    unsigned next_marker; /* 0 where there is none */
};
int bh_xml_parts(const char *body, size_t len, struct bh_xml_parts *page, struct bh_error *err);
void bh_xml_parts_free(struct bh_xml_parts *page);

/* InitiateMultipartUploadResult's UploadId. EIO where it is missing or longer than fits. */
int bh_xml_upload_id(const char *body, size_t len, char id[BH_UPLOAD_ID_MAX], struct bh_error *err);
/* ETag (no quotes) and time of CopyObjectResult, CopyPartResult or CompleteMultipartUploadResult.
 * An empty or missing ETag (Ceph) gives "", a missing time 0, and no error; another root is EIO. */
int bh_xml_result(const char *body, size_t len, char etag[BH_ETAG_MAX], int64_t *mtime_ms,
                  struct bh_error *err);

/* DeleteResult: fn is called for each <Error> (key decoded from XML, code, message), once the whole
 * answer is known to be good; returning an errno ends it. Another root, or an error without a key,
 * is EIO. */
typedef int bh_xml_delete_fn(void *arg, const char *key, const char *code, const char *message,
                             struct bh_error *err);
int bh_xml_delete_result(const char *body, size_t len, bh_xml_delete_fn *fn, void *arg,
                         struct bh_error *err);

/* Texts of named elements anywhere in a document that is no S3 answer (STS): values[i] becomes the
 * text of the first element names[i], malloc'd, or NULL. 0, EIO (no XML), ENOMEM. */
int bh_xml_texts(const char *body, size_t len, const char *const *names, char **values,
                 size_t count, struct bh_error *err);

/* Appends text with & < > " ' and control characters (as &#xD; and so on) escaped. */
void bh_xml_escape(struct bh_strbuf *out, const char *text);
/* Request bodies. */
void bh_xml_delete_body(struct bh_strbuf *out, const char *const *keys, size_t count);
void bh_xml_complete_body(struct bh_strbuf *out, const struct bh_part *parts, size_t count);
/* region "" or us-east-1: an empty body. */
void bh_xml_create_bucket_body(struct bh_strbuf *out, const char *region);

/* What headers have, too. */

/* "2009-10-12T17:50:30.000Z", with any fraction or none, also with +00:00; milliseconds since 1970,
 * or -1. Years 1970 to 9999. */
int64_t bh_parse_iso_time(const char *text);
/* The three forms of RFC 9110: "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
 * "Sun Nov  6 08:49:37 1994"; as above. */
int64_t bh_parse_http_time(const char *text);
/* Digits only, at least one; false: something else, or too large. */
bool bh_parse_decimal(const char *text, uint64_t *n);
/* Without quotes and W/; false: too long, or nothing that could be sent in a header. "" is fine. */
bool bh_parse_etag(const char *text, char etag[BH_ETAG_MAX]);

#endif
