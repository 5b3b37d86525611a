/* A plain object made by the store from the one that it replaces: what is equal is copied there,
 * only the rest is sent. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "repo/plain_private.h"
#include "util/log.h"

/* Of bucket.part_size, as an ordinary upload has them; smaller ones may be as many more. */
#define BUFFERS 4

static bool has(const void *arg, uint64_t offset, uint64_t length)
{
    const struct bh_plain_known *k = arg;
    if (offset + length > k->size)
        return false;
    for (uint64_t b = offset / k->unit; b * k->unit < offset + length; b++)
        if (b >= k->blocks || (k->changed[b / 8] >> (b % 8) & 1))
            return false;
    return true;
}

static struct bh_transfer plan(const struct bh_plain *p, uint64_t size)
{
    uint64_t limit = p->cfg->bucket.part_size, part = bh_reuse_part_size(size, limit);
    uint64_t parallel = BUFFERS * limit / part;
    if (parallel > p->cfg->bucket.connections)
        parallel = p->cfg->bucket.connections;
    return (struct bh_transfer){.part_size = part, .parallel = (unsigned)parallel};
}

bool plain_may_assemble(const struct bh_plain *p, uint64_t size)
{
    const char *etag = p->live->dir.state.base_etag;
    struct bh_cond cond = {.if_match = etag};
    bool conditional = (bh_bucket_caps(p->bucket) & BH_CAP_IF_MATCH) != 0;
    /* In a directory parts are written twice: worth it only where the content would have to be
     * fetched. */
    if (p->cfg->bucket.kind == BH_BUCKET_FILE && bh_store_absent_bytes(p->live->store) == 0)
        return false;
    return etag[0] && size > 2 * BH_PART_MIN &&
           bh_bucket_can_assemble(p->bucket, conditional ? &cond : NULL);
}

static bool is_worth_it(const struct bh_plain_known *k, const struct bh_transfer *how,
                        uint64_t size)
{
    for (uint64_t at = 0; at + how->part_size <= size; at += how->part_size)
        if (has(k, at, how->part_size))
            return true;
    return false;
}

/* A store that copies something else than was asked for. KEY is ours, but another one now than this
 * mount knows: whoever looks at it next overwrites it, and keeps no copy of it. */
static int wrong_size(struct bh_plain *p, const struct image *img,
                      const struct bh_object_info *info, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    memcpy(st->damaged_etag, info->etag, sizeof st->damaged_etag);
    bh_log(BH_LOG_ERROR,
           "the bucket made %s of %" PRIu64 " bytes out of parts of %" PRIu64
           " bytes: it is sent as a whole",
           p->key, info->size, img->size);
    return bh_fail(err, ESTALE, "%s has %" PRIu64 " bytes, not %" PRIu64, p->key, info->size,
                   img->size);
}

int plain_assemble(struct bh_plain *p, struct image *img, const struct bh_source *src,
                   const struct bh_meta *meta, const struct bh_cond *cond,
                   struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    const struct bh_plain_known *k = img->known;
    struct bh_reuse reuse = {.key = p->key, .etag = k->etag, .has = has, .arg = k};
    struct bh_transfer how = plan(p, img->size);
    how.reuse = &reuse;
    bool other =
        cond && (cond->if_none_match || (cond->if_match && strcmp(cond->if_match, k->etag)));
    if (other || !bh_bucket_can_assemble(p->bucket, cond) || !is_worth_it(k, &how, img->size))
        return ENOTSUP;
    int rc = bh_bucket_upload(p->bucket, p->key, src, meta, cond, &how, info, call, err);
    img->sent = img->size - reuse.copied;
    if (bh_reuse_was_refused(&reuse, rc, call)) {
        bh_log(BH_LOG_INFO, "%s is sent as a whole, as parts of it cannot be copied: %s", p->key,
               err->text);
        return ENOTSUP;
    }
    if (rc == 0 && info->size != img->size)
        return wrong_size(p, img, info, err);
    if (rc == 0)
        bh_log(BH_LOG_INFO,
               "%s was assembled in the bucket: %" PRIu64 " of %" PRIu64 " bytes were sent", p->key,
               img->sent, img->size);
    return rc;
}
