/* Multipart uploads. */
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/s3_private.h"
#include "util/cleanup.h"

/* Every request of an upload. query has the upload's id and, if number is not 0, the part's. */
struct part_query {
    char number[16];
    struct bh_pair pairs[3];
    size_t count;
};

static void upload_query(struct part_query *q, const char *upload_id, unsigned number)
{
    q->count = 0;
    if (number) {
        snprintf(q->number, sizeof q->number, "%u", number);
        q->pairs[q->count++] = (struct bh_pair){"partNumber", q->number};
    }
    q->pairs[q->count++] = (struct bh_pair){"uploadId", upload_id};
}

int s3_mp_begin(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    char names[BH_META_ITEMS_MAX][BH_META_NAME_MAX + 12];
    const struct bh_pair query[] = {{"uploads", ""}};
    struct s3_request r = {.method = "POST",
                           .op = BH_OP_MULTIPART,
                           .doing = "begin the upload of",
                           .key = key,
                           .query = query,
                           .query_count = 1,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    if (!s3_fits_xml(key)) /* Swift breaks on its own XML afterwards, for the whole bucket */
        return bh_fail(err, EINVAL, "a key with control characters cannot be uploaded in parts: %s",
                       key);
    s3_header(&r, "Content-Type", "application/octet-stream");
    s3_creation_headers(s, &r);
    s3_meta_headers(&r, meta, names);
    int rc = s3_ask(s, &r, err);
    if (!rc)
        rc = bh_xml_upload_id(s3_body(&r), r.answer.body.len, upload_id, err);
    s3_request_free(&r);
    return rc;
}

int s3_mp_part(struct bh_bucket *b, const char *key, const char *upload_id, unsigned number,
               const struct bh_source *src, struct bh_part *out, const struct bh_call *call,
               struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    struct part_query q;
    upload_query(&q, upload_id, number);
    struct s3_request r = {.method = "PUT",
                           .op = BH_OP_MULTIPART,
                           .doing = "upload a part of",
                           .key = key,
                           .query = q.pairs,
                           .query_count = q.count,
                           .body = src,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    int rc = s3_send(s, &r, err);
    if (!rc)
        rc = s3_check_empty(s, &r, err);
    if (!rc)
        rc = s3_etag_of(&r, out->etag, err);
    out->number = number;
    s3_request_free(&r);
    return rc;
}

int s3_mp_part_copy_raw(struct s3 *s, const char *key, const char *upload_id, unsigned number,
                        const char *from, uint64_t offset, uint64_t length,
                        const char *from_if_match, bool unquoted, struct bh_part *out,
                        const struct bh_call *call, struct bh_error *err)
{
    BH_STRBUF source = {0};
    struct part_query q;
    char quoted[BH_ETAG_MAX + 2], range[64];
    int64_t changed;
    s3_copy_source(s, from, &source);
    if (source.failed)
        return bh_fail(err, ENOMEM, "out of memory");
    upload_query(&q, upload_id, number);
    struct s3_request r = {.method = "PUT",
                           .op = BH_OP_COPY,
                           .doing = "copy a part of",
                           .key = key,
                           .query = q.pairs,
                           .query_count = q.count,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    s3_header(&r, "x-amz-copy-source", source.data);
    if (length != UINT64_MAX) {
        snprintf(range, sizeof range, "bytes=%" PRIu64 "-%" PRIu64, offset, offset + length - 1);
        s3_header(&r, "x-amz-copy-source-range", range);
    }
    if (from_if_match)
        s3_header(&r, "x-amz-copy-source-if-match", s3_quote_etag(from_if_match, unquoted, quoted));
    int rc = s3_ask(s, &r, err);
    if (!rc)
        rc = bh_xml_result(s3_body(&r), r.answer.body.len, out->etag, &changed, err);
    if (!rc && !out->etag[0])
        rc = bh_fail(err, EIO, "the store copied a part of %s and did not tell its ETag", key);
    out->number = number;
    s3_request_free(&r);
    return rc;
}

int s3_mp_part_copy(struct bh_bucket *b, const char *key, const char *upload_id, unsigned number,
                    const char *from, uint64_t offset, uint64_t length, const char *from_if_match,
                    struct bh_part *out, const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    int rc = s3_need(s, BH_CAP_PART_COPY, "parts copied from another object", call, err);
    if (!rc && from_if_match)
        rc = s3_need(s, BH_CAP_PART_COPY_IF_MATCH,
                     "parts copied on condition that the source is unchanged", call, err);
    return rc ? rc
              : s3_mp_part_copy_raw(s, key, upload_id, number, from, offset, length, from_if_match,
                                    s3_unquoted(s), out, call, err);
}

/* --- completion --- */

/* What the ETag of such an upload commonly is: the MD5 of the parts' MD5s, and their number. */
static bool usual_etag(const struct bh_part *parts, size_t count, char etag[BH_ETAG_MAX])
{
    unsigned char digest[EVP_MAX_MD_SIZE], part[16];
    unsigned len = 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md && EVP_DigestInit_ex(md, EVP_md5(), NULL) == 1;
    for (size_t i = 0; ok && i < count; i++) {
        ok = strspn(parts[i].etag, "0123456789abcdef") == 32 && !parts[i].etag[32];
        ok = ok && s3_unhex(parts[i].etag, part, sizeof part) &&
             EVP_DigestUpdate(md, part, sizeof part) == 1;
    }
    ok = ok && EVP_DigestFinal_ex(md, digest, &len) == 1 && len == 16;
    for (size_t i = 0; ok && i < len; i++)
        snprintf(etag + 2 * i, 3, "%02x", digest[i]);
    if (ok)
        snprintf(etag + 32, BH_ETAG_MAX - 32, "-%zu", count);
    EVP_MD_CTX_free(md);
    return ok;
}

static int list_parts(struct s3 *s, const char *key, const char *upload_id,
                      const struct bh_call *call, struct bh_error *err)
{
    struct part_query q;
    upload_query(&q, upload_id, 0);
    struct s3_request r = {.method = "GET",
                           .op = BH_OP_MULTIPART,
                           .doing = "look at the upload of",
                           .key = key,
                           .query = q.pairs,
                           .query_count = q.count,
                           .call = call,
                           .keep_body = S3_LIST_PAGE_MAX};
    int rc = s3_send(s, &r, err);
    s3_request_free(&r);
    return rc;
}

/* Ceph RGW answers 200 without an ETag, and so it does for an upload that it does not know if only
 * the object exists: what the key holds now decides. */
static int look(struct s3 *s, const char *key, const char *upload_id, const struct bh_part *parts,
                size_t count, const char *told, struct bh_object_info *info,
                const struct bh_call *call, struct bh_error *err)
{
    char usual[BH_ETAG_MAX] = "";
    int rc = s3_head(&s->base, key, info, call, err);
    if (rc)
        return rc == ENOENT ? bh_fail(err, EIO, "%s was completed, but is not there", key) : rc;
    if (*told && strcmp(told, info->etag) == 0)
        return 0;
    if (*told)
        return bh_fail(err, EIO, "%s was completed, and then replaced by another writer", key);
    if (usual_etag(parts, count, usual) && strcmp(usual, info->etag) == 0)
        return 0;
    rc = list_parts(s, key, upload_id, call, err);
    if (rc == ENOENT)
        return bh_fail(err, ENOENT, "there is no such upload of %s (any more)", key);
    return rc ? rc
              : bh_fail(err, EIO, "%s was completed without an answer that tells what it is now",
                        key);
}

static int look_after_failure(struct s3 *s, const char *key, const char *upload_id,
                              const struct bh_part *parts, size_t count,
                              struct bh_object_info *info, const struct bh_call *call,
                              struct bh_error *err)
{
    struct bh_error why;
    char usual[BH_ETAG_MAX];
    if (list_parts(s, key, upload_id, call, &why) != ENOENT)
        return EIO; /* as err says */
    if (s3_head(&s->base, key, info, call, &why) == 0 && usual_etag(parts, count, usual) &&
        strcmp(usual, info->etag) == 0)
        return 0; /* an earlier completion */
    return bh_fail(err, ENOENT, "there is no such upload of %s (any more)", key);
}

int s3_mp_complete_raw(struct s3 *s, const char *key, const char *upload_id,
                       const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                       bool unquoted, struct bh_object_info *info, const struct bh_call *call,
                       struct bh_error *err)
{
    BH_STRBUF xml = {0};
    struct part_query q;
    char quoted[BH_ETAG_MAX + 2], etag[BH_ETAG_MAX] = "";
    int64_t changed;
    bh_xml_complete_body(&xml, parts, count);
    if (xml.failed)
        return bh_fail(err, ENOMEM, "out of memory");
    const struct bh_source body = {.size = xml.len, .data = xml.data};
    upload_query(&q, upload_id, 0);
    struct s3_request r = {.method = "POST",
                           .op = BH_OP_MULTIPART,
                           .doing = "complete the upload of",
                           .key = key,
                           .query = q.pairs,
                           .query_count = q.count,
                           .body = &body,
                           .once = true,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    s3_header(&r, "Content-Type", "application/xml");
    s3_condition_headers(&r, cond, unquoted, quoted);
    int rc = s3_ask(s, &r, err);
    /* an upload that is not there, and an object that is not, are both 404 */
    if (!(rc == ENOENT && strcmp(r.error.code, "NoSuchUpload") == 0))
        rc = s3_condition_failed(&r, cond, rc, err);
    if (!rc)
        rc = bh_xml_result(s3_body(&r), r.answer.body.len, etag, &changed, err);
    bool failed = rc == EIO && r.answer.status == 500;
    s3_request_free(&r);
    if (failed) /* Ceph RGW's answer for an upload that it does not know, or does not know any more
                 */
        return look_after_failure(s, key, upload_id, parts, count, info, call, err);
    return rc ? rc : look(s, key, upload_id, parts, count, etag, info, call, err);
}

int s3_mp_complete(struct bh_bucket *b, const char *key, const char *upload_id,
                   const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                   struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    int rc = 0;
    if (cond && (cond->if_match || cond->if_none_match))
        rc = s3_need(s, BH_CAP_MP_COND, "conditions on the completion of an upload", call, err);
    return rc ? rc
              : s3_mp_complete_raw(s, key, upload_id, parts, count, cond, s3_unquoted(s), info,
                                   call, err);
}

int s3_mp_abort(struct bh_bucket *b, const char *key, const char *upload_id,
                const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    struct part_query q;
    upload_query(&q, upload_id, 0);
    struct s3_request r = {.method = "DELETE",
                           .op = BH_OP_MULTIPART,
                           .doing = "abort the upload of",
                           .key = key,
                           .query = q.pairs,
                           .query_count = q.count,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    int rc = s3_send(s, &r, err);
    if (!rc)
        rc = s3_check_empty(s, &r, err);
    s3_request_free(&r);
    return rc;
}
