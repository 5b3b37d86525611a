/* Copies that the store makes, whole objects of any size. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/s3_private.h"
#include "util/cleanup.h"
#include "util/log.h"

#define COPY_MAX ((uint64_t)5 << 30) /* of one CopyObject */
#define PART     ((uint64_t)1 << 30)

void s3_copy_source(struct s3 *s, const char *key, struct bh_strbuf *out)
{
    BH_STRBUF raw = {0};
    bh_strbuf_addf(&raw, "/%s/", s->cfg->bucket.name);
    bh_strbuf_add(&raw, key, strlen(key));
    if (raw.failed)
        out->failed = true;
    else
        bh_sigv4_encode_path(out, raw.data);
}

int s3_copy_raw(struct s3 *s, const char *from, const char *to, const char *if_match, bool unquoted,
                struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    BH_STRBUF source = {0};
    char quoted[BH_ETAG_MAX + 2];
    s3_copy_source(s, from, &source);
    if (source.failed)
        return bh_fail(err, ENOMEM, "out of memory");
    struct s3_request r = {.method = "PUT",
                           .op = BH_OP_COPY,
                           .doing = "copy to",
                           .key = to,
                           .call = call,
                           .keep_body = S3_RESULT_MAX};
    s3_header(&r, "x-amz-copy-source", source.data);
    if (if_match)
        s3_header(&r, "x-amz-copy-source-if-match", s3_quote_etag(if_match, unquoted, quoted));
    s3_creation_headers(s, &r);
    int rc = s3_ask(s, &r, err);
    *info = (struct bh_object_info){0};
    if (!rc)
        rc = bh_xml_result(s3_body(&r), r.answer.body.len, info->etag, &info->mtime_ms, err);
    s3_request_free(&r);
    if (rc == ESTALE && if_match)
        return bh_fail(err, rc, "%s is not what it was: its ETag is not %s any more", from,
                       if_match);
    if (rc == ENOENT)
        return bh_fail(err, rc, "there is no %s that could be copied", from);
    return rc;
}

/* More than one CopyObject may copy: part by part, each on condition that the source stays what it
 * is where the store honours that; else it is looked at once more before the end. */
static int copy_in_parts(struct s3 *s, const char *from, const char *to,
                         const struct bh_object_info *source, struct bh_object_info *info,
                         const struct bh_call *call, struct bh_error *err)
{
    char id[BH_UPLOAD_ID_MAX];
    size_t count = (size_t)((source->size + PART - 1) / PART);
    bool pinned = (s3_caps(&s->base) & BH_CAP_PART_COPY_IF_MATCH) != 0;
    BH_FREE struct bh_part *parts = calloc(count, sizeof *parts);
    if (!parts)
        return bh_fail(err, ENOMEM, "out of memory");
    int rc = s3_mp_begin(&s->base, to, &source->meta, id, call, err);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < count; i++) {
        uint64_t at = i * PART, n = source->size - at < PART ? source->size - at : PART;
        rc = s3_mp_part_copy(&s->base, to, id, (unsigned)i + 1, from, at, n,
                             pinned ? source->etag : NULL, &parts[i], call, err);
    }
    if (!rc && !pinned) {
        struct bh_object_info now;
        rc = s3_head(&s->base, from, &now, call, err);
        if (!rc && strcmp(now.etag, source->etag) != 0)
            rc = bh_fail(err, ESTALE, "%s was replaced while it was copied", from);
    }
    if (!rc)
        return s3_mp_complete(&s->base, to, id, parts, count, NULL, info, call, err);
    struct bh_error why;
    if (s3_mp_abort(&s->base, to, id, NULL, &why))
        bh_log(BH_LOG_WARNING, "an unfinished upload of %s is left in the bucket: %s", to,
               why.text);
    return rc;
}

int s3_copy(struct bh_bucket *b, const char *from, const char *to, const char *from_if_match,
            struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    int rc = from_if_match ? s3_need(s, BH_CAP_COPY_IF_MATCH,
                                     "copies on condition that the source is unchanged", call, err)
                           : 0;
    if (rc)
        return rc;
    struct bh_object_info own, source;
    info = info ? info : &own;
    rc = s3_copy_raw(s, from, to, from_if_match, s3_unquoted(s), info, call, err);
    if (rc == 0 && info == &own)
        return 0;
    if (rc == 0)
        return s3_head(b, to, info, call, err);
    if (rc != EINVAL && rc != EFBIG)
        return rc;
    struct bh_error why = *err; /* larger than one request may copy? */
    int seen = s3_head(b, from, &source, call, err);
    if (seen || source.size <= COPY_MAX)
        return bh_fail(err, rc, "%s", why.text);
    if (from_if_match && strcmp(source.etag, from_if_match) != 0)
        return bh_fail(err, ESTALE, "%s is not what it was: its ETag is not %s any more", from,
                       from_if_match);
    return copy_in_parts(s, from, to, &source, info, call, err);
}
