/* Opening and closing, and what concerns all blobs. */
#include "store/blobs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "store/blobs_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"

static int check(const struct bh_blobs_options *o, struct bh_error *err)
{
    if (!o->disk || !o->bucket || !o->prefix)
        return bh_fail(err, EINVAL, "the file store needs a directory, a bucket and a prefix");
    if (o->parallel < 1 || o->parallel > BLOBS_PARALLEL_MAX)
        return bh_fail(err, EINVAL, "%u transfers of files at once are not between 1 and %u",
                       o->parallel, BLOBS_PARALLEL_MAX);
    if (strlen(o->prefix) + 64 > BH_KEY_MAX)
        return bh_fail(err, ENAMETOOLONG, "the prefix of files, %.60s..., is longer than a key",
                       o->prefix);
    return 0;
}

/* Another one each time that the machine starts. */
static void read_boot(struct bh_blobs *b)
{
    BH_FREE char *text = NULL;
    size_t len = 0;
    if (bh_read_small_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 4096, &text, &len, NULL) !=
            0 ||
        len < 36)
        bh_random_bytes(b->boot, sizeof b->boot); /* then no parts of an earlier life are used */
    else
        memcpy(b->boot, text, 36);
}

static void destroy(struct bh_blobs *b)
{
    bh_blobs_spares_end(b);
    bh_blobs_table_free(b);
    bh_blobs_edits_free(b);
    pthread_cond_destroy(&b->crowded);
    pthread_cond_destroy(&b->to_upload);
    pthread_cond_destroy(&b->uploaded_one);
    pthread_cond_destroy(&b->to_fetch);
    pthread_mutex_destroy(&b->settling);
    pthread_mutex_destroy(&b->naming);
    pthread_mutex_destroy(&b->mutex);
    free(b->prefix);
    free(b);
}

int bh_blobs_open(struct bh_blobs **out, const struct bh_blobs_options *o, bool recheck,
                  struct bh_error *err)
{
    int rc = check(o, err);
    if (rc)
        return rc;
    struct bh_blobs *b = calloc(1, sizeof *b);
    char *prefix = strdup(o->prefix);
    if (!b || !prefix) {
        free(b);
        free(prefix);
        return bh_fail(err, ENOMEM, "out of memory while the file store was opened");
    }
    b->o = *o;
    b->prefix = prefix;
    b->o.prefix = prefix;
    b->cache_max = o->cache_max;
    b->flush = 1;
    b->queue_end = &b->queue;
    pthread_mutex_init(&b->settling, NULL);
    pthread_mutex_init(&b->naming, NULL);
    pthread_mutex_init(&b->mutex, NULL);
    bh_cond_init(&b->crowded);
    bh_cond_init(&b->to_upload);
    bh_cond_init(&b->uploaded_one);
    bh_cond_init(&b->to_fetch);
    bh_blobs_spares_init(b);
    read_boot(b);
    rc = bh_blobs_scan(b, recheck, err);
    if (!rc)
        rc = bh_blobs_keeper_start(b, err);
    if (rc)
        destroy(b);
    else
        *out = b;
    return rc;
}

int bh_blobs_start(struct bh_blobs *b, struct bh_error *err)
{
    if (b->o.read_only)
        return 0;
    bh_blobs_spares_start(b);
    return bh_blobs_upload_start(b, err);
}

void bh_blobs_close(struct bh_blobs *b)
{
    if (!b)
        return;
    atomic_store(&b->closing, true);
    bh_blobs_stop(b, true);
    bh_blobs_upload_end(b);
    bh_blobs_fetch_end(b);
    bh_blobs_keeper_end(b);
    destroy(b);
}

void bh_blobs_stop(struct bh_blobs *b, bool stop)
{
    BH_LOCK_SCOPE(&b->mutex);
    atomic_store(&b->stopped, stop);
    pthread_cond_broadcast(&b->uploaded_one);
    pthread_cond_broadcast(&b->to_upload);
    if (stop)
        bh_blobs_fetch_stop(b);
}

void bh_blobs_set_cache_max(struct bh_blobs *b, uint64_t max)
{
    BH_LOCK_SCOPE(&b->mutex);
    b->cache_max = max;
    pthread_cond_signal(&b->crowded);
}

int bh_blobs_link(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], const char *object_key,
                  int64_t seconds, struct bh_strbuf *url, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    if (!(bh_bucket_caps(b->o.bucket) & BH_CAP_PRESIGN) ||
        bh_blobs_state(b, hash) != BH_BLOB_STORED)
        return bh_fail(
            err, ENODATA,
            "there is no link: the content is not in the bucket, or the bucket has no links");
    bh_blobs_key(b, hash, key);
    return bh_bucket_presign(b->o.bucket, object_key && *object_key ? object_key : key, seconds,
                             url, err);
}

void bh_blobs_stats(struct bh_blobs *b, struct bh_blobs_stats *out)
{
    BH_LOCK_SCOPE(&b->mutex);
    *out = (struct bh_blobs_stats){
        .pending = b->pending,
        .pending_bytes = b->pending_bytes,
        .uploading = b->uploading,
        .uploaded = b->uploaded,
        .uploaded_bytes = b->uploaded_bytes,
        .cached_bytes = b->cached_bytes,
        .cache_max = b->cache_max,
        .evicted_bytes = b->evicted_bytes,
        .fetched_bytes = b->fetched_bytes,
    };
    memcpy(out->error, b->error, sizeof out->error);
}
