#include "repo/pack_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/thread.h"

#define PART_MIN  ((uint64_t)1 << 20)  /* one largest record may pass it */
#define TAIL_SIZE ((uint64_t)64 << 10) /* most trailers fit: one request, not two */

/* --- the object --- */

static int check_options(const struct bh_packs_options *o, struct bh_error *err)
{
    if (o->part_size < PART_MIN || o->part_size > BH_PACK_MAX)
        return bh_fail(err, EINVAL, "packs of %llu bytes are not between 1 MiB and 64 MiB",
                       (unsigned long long)o->part_size);
    if (o->parallel < 1 || o->parallel > BH_PACKS_PARALLEL_MAX)
        return bh_fail(err, EINVAL, "%u packs at once are not between 1 and %u", o->parallel,
                       BH_PACKS_PARALLEL_MAX);
    if (o->level < ZSTD_minCLevel() || o->level > ZSTD_maxCLevel())
        return bh_fail(err, EINVAL, "zstd has no level %d", o->level);
    return 0;
}

int bh_packs_new(struct bh_packs **out, struct bh_bucket *bucket, const char *prefix,
                 const struct bh_packs_options *options, struct bh_error *err)
{
    int rc = check_options(options, err);
    if (rc)
        return rc;
    struct bh_packs *p = calloc(1, sizeof *p);
    char *copy = strdup(prefix);
    if (!p || !copy) {
        free(copy);
        free(p);
        return bh_fail(err, ENOMEM, "out of memory for the packs of %s", prefix);
    }
    p->bucket = bucket;
    p->prefix = copy;
    p->options = *options;
    pthread_mutex_init(&p->mutex, NULL);
    *out = p;
    return 0;
}

void bh_packs_free(struct bh_packs *p)
{
    if (!p)
        return;
    while (p->idle_count > 0)
        ZSTD_freeDCtx(p->idle[--p->idle_count]);
    bh_packs_forget_moved(p);
    pthread_mutex_destroy(&p->mutex);
    free(p->prefix);
    free(p);
}

char *bh_packs_key(const struct bh_packs *p, uint64_t id)
{
    char name[BH_PACK_NAME_MAX];
    struct bh_strbuf key = {0};
    bh_pack_name(id, name);
    bh_strbuf_addf(&key, "%spacks/%s", p->prefix, name);
    if (key.failed)
        bh_strbuf_free(&key);
    return key.data;
}

ZSTD_DCtx *bh_packs_take_context(struct bh_packs *p)
{
    {
        BH_LOCK_SCOPE(&p->mutex);
        if (p->idle_count > 0)
            return p->idle[--p->idle_count];
    }
    return ZSTD_createDCtx();
}

void bh_packs_give_context(struct bh_packs *p, ZSTD_DCtx *context)
{
    {
        BH_LOCK_SCOPE(&p->mutex);
        if (context && p->idle_count < p->options.parallel) {
            p->idle[p->idle_count++] = context;
            return;
        }
    }
    ZSTD_freeDCtx(context);
}

void bh_packs_team(unsigned parallel, size_t count, void *(*entry)(void *), void *arg)
{
    pthread_t threads[BH_PACKS_PARALLEL_MAX];
    unsigned started = 0;
    while (started + 1 < parallel && started + 1 < count && started < BH_PACKS_PARALLEL_MAX &&
           bh_thread_start(&threads[started], entry, arg) == 0)
        started++;
    entry(arg);
    while (started > 0)
        pthread_join(threads[--started], NULL);
}

int bh_packs_put_new(struct bh_packs *p, const char *key, const struct bh_source *src,
                     const struct bh_call *call, struct bh_error *err)
{
    static const struct bh_cond absent = {.if_none_match = true};
    int rc = ENOTSUP;
    if (bh_bucket_caps(p->bucket) & BH_CAP_IF_NONE_MATCH)
        rc = bh_bucket_put(p->bucket, key, src, NULL, &absent, NULL, call, err);
    if (rc == ENOTSUP) /* a store of which that was only assumed: the id is random enough */
        rc = bh_bucket_put(p->bucket, key, src, NULL, NULL, NULL, call, err);
    return rc;
}

/* --- bytes of a pack --- */

struct sink {
    char *buf;
    size_t len, got;
};

static int sink_take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct sink *s = arg;
    if (len > s->len - s->got)
        return bh_fail(err, EIO, "the bucket answers with more than the %zu bytes asked for",
                       s->len);
    memcpy(s->buf + s->got, data, len);
    s->got += len;
    return 0;
}

int bh_packs_missing(const struct bh_packs *p, uint64_t id, uint64_t at, const char *what,
                     struct bh_error *err)
{
    char name[BH_PACK_NAME_MAX];
    bh_pack_name(id, name);
    return bh_fail(err, EIO,
                   "%s: pack %s, which has its bytes at offset %llu, is not in the bucket: put "
                   "%spacks/%s back; verify tells what else was in it",
                   what, name, (unsigned long long)at, p->prefix, name);
}

int bh_packs_try_fetch(struct bh_packs *p, uint64_t id, uint64_t at, void *buf, size_t len,
                       const char *what, const struct bh_call *call, struct bh_error *err)
{
    struct sink sink = {.buf = buf, .len = len};
    struct bh_object_info info;
    struct bh_error why = {0};
    char name[BH_PACK_NAME_MAX];
    BH_FREE char *key = bh_packs_key(p, id);
    if (!key)
        return bh_fail(err, ENOMEM, "out of memory while reading %s", what);
    bh_pack_name(id, name);
    int rc = bh_bucket_get(p->bucket, key, at, len, sink_take, &sink, &info, call, &why);
    if (rc == ENOENT)
        return rc;
    if (rc == EINVAL || (!rc && sink.got < len)) /* the range begins, or ends, beyond the end */
        return bh_fail(err, EIO, "%s: pack %s is cut: it has no %zu bytes at offset %llu", what,
                       name, len, (unsigned long long)at);
    if (rc)
        return bh_fail(err, rc, "%s: pack %s cannot be read at offset %llu: %s", what, name,
                       (unsigned long long)at, why.text);
    return 0;
}

int bh_packs_fetch(struct bh_packs *p, uint64_t id, uint64_t at, void *buf, size_t len,
                   const char *what, const struct bh_call *call, struct bh_error *err)
{
    int rc = bh_packs_try_fetch(p, id, at, buf, len, what, call, err);
    return rc == ENOENT ? bh_packs_missing(p, id, at, what, err) : rc;
}

/* --- records --- */

static int damaged(const struct bh_ref *ref, const char *what, const char *cause,
                   struct bh_error *err)
{
    char name[BH_PACK_NAME_MAX];
    bh_pack_name(ref->pack, name);
    return bh_fail(err, EIO,
                   "%s: pack %s is damaged at offset %u: %s; verify tells what else is damaged",
                   what, name, ref->offset, cause);
}

/* One frame, of all the bytes, without dictionary and checksum, that tells its content's size: what
 * our encoder makes. Else a frame could make much of little, or hide something behind it. */
static bool is_frame(const uint8_t *in, size_t len, size_t raw)
{
    return ZSTD_getFrameContentSize(in, len) == raw && (in[4] & 0x1f) == 0 &&
           ZSTD_findFrameCompressedSize(in, len) == len;
}

int bh_pack_record_decode(ZSTD_DCtx *context, const struct bh_ref *ref, const void *in, size_t raw,
                          void *buf, const char *what, struct bh_error *err)
{
    uint8_t hash[BH_HASH_SIZE];
    int rc = bh_ref_check(ref, raw, what, err);
    if (rc)
        return rc;
    if (ref->encoding == BH_ENC_RAW)
        memmove(buf, in, raw); /* which may be there already */
    else if (!is_frame(in, ref->stored, raw) ||
             ZSTD_decompressDCtx(context, buf, raw, in, ref->stored) != raw)
        return damaged(ref, what, "it does not decompress", err);
    if (bh_content_hash(buf, raw, hash))
        return bh_fail(err, ENOMEM, "out of memory while checking %s", what);
    if (memcmp(hash, ref->hash, BH_HASH_SIZE) != 0)
        return damaged(ref, what, "the content is not what was stored", err);
    return 0;
}

/* --- trailers --- */

/* Reads from `at` to the end of the object; the caller frees it. */
static int fetch_tail(struct bh_packs *p, uint64_t id, uint64_t at, uint64_t size, uint8_t **tail,
                      const struct bh_call *call, struct bh_error *err)
{
    *tail = malloc((size_t)(size - at));
    if (!*tail)
        return bh_fail(err, ENOMEM, "out of memory for a pack's trailer");
    return bh_packs_fetch(p, id, at, *tail, (size_t)(size - at), "a trailer", call, err);
}

static int pack_size(struct bh_packs *p, uint64_t id, uint64_t *size, const struct bh_call *call,
                     struct bh_error *err)
{
    struct bh_object_info info;
    char name[BH_PACK_NAME_MAX];
    BH_FREE char *key = bh_packs_key(p, id);
    if (!key)
        return bh_fail(err, ENOMEM, "out of memory for a pack's trailer");
    bh_pack_name(id, name);
    int rc = bh_bucket_head(p->bucket, key, &info, call, err);
    if (rc == ENOENT)
        return bh_fail(err, ENOENT, "pack %s is not in the bucket: %s is missing", name, key);
    if (rc)
        return rc;
    if (info.size <= BH_PACK_HEADER_SIZE + BH_PACK_ENTRY_SIZE + BH_PACK_FOOTER_SIZE ||
        info.size > BH_PACK_MAX)
        return bh_fail(err, EIO, "pack %s is damaged: %s has %llu bytes, which no pack has", name,
                       key, (unsigned long long)info.size);
    *size = info.size;
    return 0;
}

int bh_packs_trailer(struct bh_packs *p, uint64_t id, struct bh_pack_entry **entries, size_t *count,
                     uint64_t *size, const struct bh_call *call, struct bh_error *err)
{
    BH_FREE uint8_t *tail = NULL;
    uint64_t all, trailer_at;
    int rc = pack_size(p, id, &all, call, err);
    if (rc)
        return rc;
    uint64_t at = all < TAIL_SIZE ? 0 : all - TAIL_SIZE;
    rc = fetch_tail(p, id, at, all, &tail, call, err);
    if (!rc)
        rc = bh_pack_footer_decode(tail + (all - at) - BH_PACK_FOOTER_SIZE, id, all, &trailer_at,
                                   count, err);
    if (!rc && trailer_at < at) {
        free(bh_take_ptr(tail));
        at = trailer_at;
        rc = fetch_tail(p, id, at, all, &tail, call, err);
    }
    if (!rc)
        rc = bh_pack_trailer_decode(tail + (trailer_at - at), (size_t)(all - trailer_at), id, all,
                                    entries, count, err);
    if (!rc && size)
        *size = all;
    return rc;
}
