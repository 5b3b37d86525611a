/* What an answer's headers tell: ETag, size, times, metadata. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/s3_private.h"

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
