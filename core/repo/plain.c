#include "repo/plain_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/random.h"

#define CHUNK (1u << 20)
/* Frozen images broken by large truncations before one is taken that makes the truncation wait
 * instead. */
#define IMPATIENT_TRIES 3
/* Looks at the key and new uploads after an answer that says neither yes nor no. */
#define PUT_TRIES 5
/* More parts at once use memory (bucket.part_size each) and seldom gain anything. */
#define PARALLEL_MAX 4

int bh_plain_new(struct bh_plain **out, const struct bh_config *cfg, struct bh_bucket *bucket,
                 struct bh_live *live, bool read_only, struct bh_error *err)
{
    struct bh_plain *p = calloc(1, sizeof *p);
    if (!p)
        return bh_fail(err, ENOMEM, "out of memory");
    p->cfg = cfg;
    p->bucket = bucket;
    p->live = live;
    p->read_only = read_only;
    p->key = bh_config_snapshot_key(cfg);
    if (!p->key || asprintf(&p->key_prev, "%s.prev", p->key) < 0) {
        p->key_prev = NULL;
        bh_plain_free(p);
        return bh_fail(err, ENOMEM, "out of memory");
    }
    *out = p;
    return 0;
}

void bh_plain_free(struct bh_plain *p)
{
    if (!p)
        return;
    free(p->key);
    free(p->key_prev);
    free(p);
}

const char *bh_plain_key(const struct bh_plain *p)
{
    return p->key;
}

struct bh_progress *bh_plain_progress(struct bh_plain *p)
{
    return &p->progress;
}

uint64_t bh_plain_rescues(const struct bh_plain *p)
{
    return p->rescues;
}

void plain_phase(struct bh_plain *p, enum phase phase, uint64_t total)
{
    atomic_store(&p->progress.done, 0);
    atomic_store(&p->progress.total, total);
    atomic_store(&p->progress.phase, (int)phase);
}

bool plain_is_passing(int rc)
{
    return rc == ETIMEDOUT || rc == EIO || rc == EAGAIN;
}

/* YYYYMMDDTHHMMSS.mmmZ-8HEX: sorts by time. */
void plain_format_id(int64_t time_ms, char id[BH_SNAPSHOT_ID_MAX])
{
    uint32_t random;
    bh_random_bytes(&random, sizeof random);
    char when[20], text[64];
    snprintf(text, sizeof text, "%s.%03dZ-%08x", bh_format_stamp(time_ms, when, sizeof when),
             (int)(time_ms % 1000), random);
    memcpy(id, text, BH_SNAPSHOT_ID_MAX);
    id[BH_SNAPSHOT_ID_MAX - 1] = '\0';
}

/* A later one of this mount is never the same or smaller. */
void plain_new_id(struct bh_plain *p, char id[BH_SNAPSHOT_ID_MAX])
{
    int64_t now = bh_real_ms();
    if (now <= p->last_id_ms)
        now = p->last_id_ms + 1;
    p->last_id_ms = now;
    plain_format_id(now, id);
}

struct bh_transfer plain_transfer(const struct bh_plain *p)
{
    uint64_t at_once = p->cfg->bucket.connections;
    return (struct bh_transfer){.part_size = p->cfg->bucket.part_size,
                                .parallel =
                                    at_once < PARALLEL_MAX ? (unsigned)at_once : PARALLEL_MAX};
}

/* --- the image --- */

static int hash_image(struct image *img, const struct bh_call *call, struct bh_error *err)
{
    struct bh_sha256 *h = bh_sha256_new();
    BH_FREE char *buf = malloc(CHUNK);
    int rc = h && buf ? 0 : bh_fail(err, ENOMEM, "out of memory while hashing the database");
    plain_phase(img->plain, PHASE_HASH, img->size);
    for (uint64_t at = 0; rc == 0 && at < img->size; at += CHUNK) {
        size_t n = img->size - at < CHUNK ? (size_t)(img->size - at) : CHUNK;
        rc = bh_call_check(call, "hashing the database", err);
        if (rc == 0 && (rc = bh_frozen_read(img->frozen, buf, n, at)) != 0) {
            img->broken = rc;
            bh_fail(err, rc, "the frozen database cannot be read: %s", strerror(rc));
        }
        if (rc == 0)
            bh_sha256_update(h, buf, n);
        atomic_fetch_add(&img->plain->progress.done, n);
    }
    if (rc == 0)
        bh_sha256_hex(h, img->sha256);
    bh_sha256_free(h);
    return rc;
}

int plain_take_image(struct bh_plain *p, struct image *img, unsigned *tries,
                     const struct bh_call *call, struct bh_error *err)
{
    for (;;) {
        *img = (struct image){.plain = p};
        plain_phase(p, PHASE_FREEZE, 0);
        int rc = bh_call_check(call, "the flush", err);
        if (rc == 0)
            rc = bh_live_freeze(p->live, (*tries)++ >= IMPATIENT_TRIES, &img->frozen, err);
        if (rc)
            return rc;
        img->size = bh_frozen_size(img->frozen);
        rc = hash_image(img, call, err);
        if (rc == 0)
            return 0;
        bh_store_thaw(img->frozen, false);
        if (img->broken != EAGAIN)
            return rc;
    }
}

static int read_image(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    struct image *img = arg;
    int rc = bh_frozen_read(img->frozen, buf, len, offset);
    atomic_store(&img->plain->progress.done, offset + len);
    if (rc) {
        img->broken = rc;
        return bh_fail(err, rc == EAGAIN ? ECANCELED : rc, "the frozen database cannot be read: %s",
                       rc == EAGAIN ? "it was truncated meanwhile" : strerror(rc));
    }
    return 0;
}

static int image_meta(const struct image *img, const char *snapshot, struct bh_meta *meta,
                      struct bh_error *err)
{
    *meta = (struct bh_meta){0};
    int rc = bh_meta_set(meta, META_SNAPSHOT, snapshot, err);
    if (rc == 0 && img->sha256[0])
        rc = bh_meta_set(meta, META_SHA256, img->sha256, err);
    return rc;
}

int plain_put_image(struct bh_plain *p, struct image *img, const char *key, const char *snapshot,
                    const struct bh_cond *cond, struct bh_object_info *info,
                    const struct bh_call *call, struct bh_error *err)
{
    struct bh_meta meta;
    struct bh_source src = {.size = img->size, .read = read_image, .arg = img};
    if (img->known) {
        int rc = image_meta(img, snapshot, &meta, err);
        plain_phase(p, PHASE_UPLOAD, img->size);
        if (rc == 0)
            rc = plain_assemble(p, img, &src, &meta, cond, info, call, err);
        if (rc != ENOTSUP)
            return rc;
        img->known = NULL; /* not again */
    }
    int rc = img->sha256[0] ? 0 : hash_image(img, call, err);
    if (rc == 0)
        rc = image_meta(img, snapshot, &meta, err);
    if (rc)
        return rc;
    img->sent = img->size;
    plain_phase(p, PHASE_UPLOAD, img->size);
    struct bh_transfer how = plain_transfer(p);
    if (p->cfg->bucket.kind == BH_BUCKET_FILE) /* in parts each byte would be written twice */
        return bh_bucket_put(p->bucket, key, &src, &meta, cond, info, call, err);
    return bh_bucket_upload(p->bucket, key, &src, &meta, cond, &how, info, call, err);
}

/* --- the upload --- */

static int foreign(struct bh_plain *p, struct bh_error *err)
{
    return bh_fail(
        err, ESTALE,
        "%s was replaced by another writer since this mount loaded it, so it is not overwritten; "
        "unmount (bhfs umount --force) and mount again: your unflushed changes are then saved as a "
        "branch rescue-HOST-TIME and the other writer's snapshot is loaded",
        p->key);
}

static int vanished(struct bh_plain *p, struct bh_error *err)
{
    return bh_fail(
        err, ESTALE,
        "%s is gone from the bucket since this mount used it; if that is right, unmount (bhfs "
        "umount "
        "--force) and mount again: the copy in the state directory is then uploaded anew",
        p->key);
}

bool plain_is_older_pending(const struct bh_state *st, const char *id)
{
    size_t len = id ? strlen(id) : 0;
    for (const char *p = st->older_pending; len > 0 && *p; p += strcspn(p, ",") + 1)
        if (!strncmp(p, id, len) && p[len] == ',')
            return true;
    return false;
}

void plain_adopt_older(struct bh_state *st, const struct bh_object_info *info)
{
    memcpy(st->base_etag, info->etag, sizeof st->base_etag);
    /* What is local is newer than it, so nothing can be equal to it. */
    st->base_snapshot[0] = st->base_sha256[0] = st->base_wal[0] = '\0';
    st->base_size = 0;
}

/* What the key holds after an answer that left it open: 0 it is our upload (info filled), EAGAIN it
 * is still the base, or an earlier upload of ours that arrived late (the base now), ESTALE it is
 * somebody else's, or the look itself failed. */
static int look(struct bh_plain *p, const char *snapshot, uint64_t size,
                struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    int rc = bh_bucket_head(p->bucket, p->key, info, call, err);
    if (rc == ENOENT)
        return st->base_etag[0] ? vanished(p, err) : EAGAIN;
    if (rc)
        return rc;
    const char *id = bh_meta_get(&info->meta, META_SNAPSHOT);
    if (id && !strcmp(id, snapshot) && info->size == size)
        return 0;
    if (plain_is_older_pending(st, id))
        plain_adopt_older(st, info);
    return strcmp(info->etag, st->base_etag) ? foreign(p, err) : EAGAIN;
}

static void back_off(int attempt, const struct bh_call *call)
{
    (void)bh_call_sleep(call, bh_jitter_ms(INT64_C(100) << attempt), "", NULL);
}

/* Stores without conditional writes: the key is looked at before, and after by `look`. */
static int check_unconditional(struct bh_plain *p, const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info info;
    const char *base = p->live->dir.state.base_etag;
    int rc = bh_bucket_head(p->bucket, p->key, &info, call, err);
    if (rc == ENOENT)
        return base[0] ? vanished(p, err) : 0;
    return rc ? rc : strcmp(info.etag, base) ? foreign(p, err) : 0;
}

static int upload(struct bh_plain *p, struct image *img, const char *snapshot,
                  struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    const char *base = p->live->dir.state.base_etag; /* look() may change it */
    unsigned caps = bh_bucket_caps(p->bucket);
    for (int i = 0;; i++) {
        bool conditional = (caps & (base[0] ? BH_CAP_IF_MATCH : BH_CAP_IF_NONE_MATCH)) != 0;
        struct bh_cond cond = {.if_match = base[0] ? base : NULL, .if_none_match = !base[0]};
        int rc = conditional ? 0 : check_unconditional(p, call, err);
        if (rc == 0)
            rc = plain_put_image(p, img, p->key, snapshot, conditional ? &cond : NULL, info, call,
                                 err);
        if (rc == 0 && conditional)
            return 0;
        if (img->broken || rc == ECANCELED || bh_call_check(call, "", NULL))
            return rc;
        if (rc && !plain_is_passing(rc) && rc != ESTALE && rc != EEXIST)
            return rc;
        struct bh_error why;
        int seen = look(p, snapshot, img->size, info, call, &why);
        if (seen == 0)
            return 0;
        if (seen == ESTALE)
            return bh_fail(err, seen, "%s", why.text);
        if (seen != EAGAIN)
            return rc ? bh_fail_prefix(err, rc, "%s may or may not have been written", p->key)
                      : bh_fail(err, seen, "%s", why.text);
        /* Still the base: nothing happened, so it can be done again. */
        if (i + 1 == PUT_TRIES)
            return rc ? rc : foreign(p, err);
        back_off(i, call);
    }
}

/* --- the snapshot before it --- */

static int keep_previous(struct bh_plain *p, const struct bh_call *call, struct bh_error *err)
{
    const struct bh_state *st = &p->live->dir.state;
    if (!p->keep_previous || !st->base_etag[0] || !strcmp(st->base_etag, st->damaged_etag))
        return 0;
    bool checked = (bh_bucket_caps(p->bucket) & BH_CAP_COPY_IF_MATCH) != 0;
    plain_phase(p, PHASE_PREVIOUS, 0);
    int rc = bh_bucket_copy(p->bucket, p->key, p->key_prev, checked ? st->base_etag : NULL, NULL,
                            call, err);
    if (rc == ESTALE || rc == ENOENT)
        return rc == ENOENT ? vanished(p, err) : foreign(p, err);
    return rc ? bh_fail_prefix(err, rc, "the snapshot before cannot be kept as %s", p->key_prev)
              : 0;
}

/* --- the flush --- */

void plain_remember_pending(struct bh_state *st)
{
    size_t len = strlen(st->older_pending), more = strlen(st->pending_snapshot);
    if (more == 0)
        return;
    if (len + more + 2 >
        sizeof st->older_pending) { /* the oldest half can hardly arrive any more */
        size_t cut = len / 2 + strcspn(st->older_pending + len / 2, ",") + 1;
        memmove(st->older_pending, st->older_pending + cut, len - cut + 1);
        len -= cut;
    }
    snprintf(st->older_pending + len, sizeof st->older_pending - len, "%s,", st->pending_snapshot);
}

static int announce(struct bh_plain *p, const struct image *img, char id[BH_SNAPSHOT_ID_MAX],
                    struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    plain_remember_pending(st); /* it may still arrive */
    plain_new_id(p, id);
    memcpy(st->pending_snapshot, id, sizeof st->pending_snapshot);
    memcpy(st->pending_sha256, img->sha256, sizeof st->pending_sha256);
    st->pending_size = img->size;
    return bh_statedir_save(&p->live->dir, err);
}

static int settle(struct bh_plain *p, const struct image *img, const char *id,
                  const struct bh_object_info *info, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    memcpy(st->base_etag, info->etag, sizeof st->base_etag);
    snprintf(st->base_snapshot, sizeof st->base_snapshot, "%s", id);
    memcpy(st->base_sha256, img->sha256, sizeof st->base_sha256);
    snprintf(st->base_wal, sizeof st->base_wal, "%s",
             img->frozen ? bh_frozen_wal_tag(img->frozen) : "");
    st->base_size = img->size;
    st->base_time_ms = bh_real_ms();
    st->pending_snapshot[0] = st->pending_sha256[0] = '\0';
    st->older_pending[0] = st->damaged_etag[0] = '\0';
    return bh_statedir_save(&p->live->dir, err);
}

static int send_image(struct bh_plain *p, struct image *img, struct bh_flush_result *result,
                      const struct bh_call *call, struct bh_error *err)
{
    char id[BH_SNAPSHOT_ID_MAX];
    struct bh_object_info info;
    int rc = bh_bucket_learn(p->bucket, call, err); /* unless that was done when it started */
    if (rc == 0)
        rc = keep_previous(p, call, err);
    if (rc == 0)
        rc = announce(p, img, id, err);
    if (rc == 0)
        rc = upload(p, img, id, &info, call, err);
    if (rc == 0)
        rc = settle(p, img, id, &info, err);
    if (rc == 0) {
        result->outcome = BH_FLUSH_UPLOADED;
        result->bytes = img->size;
    }
    return rc;
}

/* An upload of an earlier flush may have happened although it was said to have failed. Then the key
 * holds it: that is the base now, or the next upload would take it for somebody else's. */
static int resolve_pending(struct bh_plain *p, const struct bh_call *call, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    struct bh_object_info info;
    if (!st->pending_snapshot[0])
        return 0;
    int rc = bh_bucket_head(p->bucket, p->key, &info, call, err);
    if (rc == ENOENT && !st->base_etag[0])
        return 0;
    if (rc)
        return rc == ENOENT ? vanished(p, err) : rc;
    const char *id = bh_meta_get(&info.meta, META_SNAPSHOT);
    if (plain_is_older_pending(st, id))
        plain_adopt_older(st, &info);
    if (!id || strcmp(id, st->pending_snapshot))
        return 0;
    struct image img = {.size = st->pending_size};
    char pending[BH_SNAPSHOT_ID_MAX];
    memcpy(img.sha256, st->pending_sha256, sizeof img.sha256);
    memcpy(pending, st->pending_snapshot, sizeof pending);
    return settle(p, &img, pending, &info, err);
}

/* The content is the base's, but another part of it is in -wal now. */
static int note_wal(struct bh_plain *p, const struct image *img, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    const char *tag = bh_frozen_wal_tag(img->frozen);
    if (!strcmp(st->base_wal, tag))
        return 0;
    snprintf(st->base_wal, sizeof st->base_wal, "%s", tag);
    return bh_statedir_save(&p->live->dir, err);
}

static int flush_image(struct bh_plain *p, struct bh_flush_result *result,
                       const struct bh_call *call, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    struct image img;
    for (unsigned tries = 0;;) {
        int rc = plain_take_image(p, &img, &tries, call, err);
        if (rc)
            return rc;
        bool same = st->base_etag[0] && !strcmp(img.sha256, st->base_sha256);
        rc = bh_frozen_mark_frames(img.frozen, err);
        if (rc == 0 && img.size > 0 && !same)
            rc = send_image(p, &img, result, call, err);
        else if (rc == 0)
            rc = note_wal(p, &img, err);
        int thawed = bh_store_thaw(img.frozen, rc == 0);
        if (thawed) /* harmless: what stays marked is compared by hash next time */
            bh_log(BH_LOG_WARNING, "the block map cannot be written: %s", strerror(thawed));
        if (rc == 0 || img.broken != EAGAIN)
            return rc;
    }
}

int bh_plain_flush(struct bh_plain *p, bool keep_previous_, struct bh_flush_result *result,
                   const struct bh_call *call, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    int64_t begin = bh_mono_ns();
    int rc = 0;
    p->keep_previous = keep_previous_;
    *result = (struct bh_flush_result){.outcome = BH_FLUSH_UNCHANGED};
    if (bh_store_is_dirty(p->live->store)) {
        rc = resolve_pending(p, call, err);
        if (rc == 0)
            rc = flush_image(p, result, call, err);
        plain_phase(p, PHASE_NONE, 0);
    }
    memcpy(result->snapshot, st->base_snapshot, sizeof result->snapshot);
    result->seconds = (double)(bh_mono_ns() - begin) / 1e9;
    return rc;
}

/* --- beside a history --- */

void bh_plain_keep_previous(struct bh_plain *p, bool keep)
{
    p->keep_previous = keep;
}

int bh_plain_put_frozen(struct bh_plain *p, struct bh_frozen *frozen, const char *id,
                        const struct bh_plain_known *known, uint64_t *bytes,
                        const struct bh_call *call, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    struct image img = {
        .plain = p, .frozen = frozen, .size = bh_frozen_size(frozen), .known = known};
    struct bh_object_info info;
    int rc = 0;
    /* To hash what is not here would be to fetch it. */
    if (!known || bh_store_absent_bytes(p->live->store) == 0)
        rc = hash_image(&img, call, err);
    if (rc == 0)
        rc = keep_previous(p, call, err);
    if (rc == 0)
        rc = upload(p, &img, id, &info, call, err);
    if (img.broken)
        return img.broken;
    if (rc)
        return rc;
    memcpy(st->base_etag, info.etag, sizeof st->base_etag);
    memcpy(st->base_sha256, img.sha256, sizeof st->base_sha256);
    snprintf(st->plain_snapshot, sizeof st->plain_snapshot, "%s", id);
    st->plain_also[0] = '\0';
    st->damaged_etag[0] = '\0';
    *bytes = img.sent;
    return bh_statedir_save(&p->live->dir, err);
}

int bh_plain_set_branch(struct bh_plain *p, const char *branch, struct bh_error *err)
{
    char *key = bh_config_branch_key(p->cfg, branch), *prev = NULL;
    if (!key || asprintf(&prev, "%s.prev", key) < 0) {
        free(key);
        return bh_fail(err, ENOMEM, "out of memory");
    }
    free(p->key);
    free(p->key_prev);
    p->key = key;
    p->key_prev = prev;
    return 0;
}
