/* What happens with the plain snapshot when a mount starts. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repo/plain_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"
#include "util/log.h"

#define INCOMING PLAIN_INCOMING

void plain_say(struct bh_load_report *report, const char *fmt, ...)
{
    size_t len = strlen(report->text);
    va_list ap;
    if (len > 0 && len + 2 < sizeof report->text) {
        memcpy(report->text + len, "; ", 3);
        len += 2;
    }
    va_start(ap, fmt);
    vsnprintf(report->text + len, sizeof report->text - len, fmt, ap);
    va_end(ap);
}

void plain_say_unflushed(struct bh_live *live, struct bh_load_report *report)
{
    uint64_t dirty = bh_live_dirty_bytes(live);
    if (dirty > 0)
        plain_say(report,
                  "unflushed changes of the last mount (%llu bytes) are in %s and go on from there",
                  (unsigned long long)dirty, live->dir.path);
}

void plain_say_away(struct bh_live *live, const struct bh_error *why, struct bh_load_report *report)
{
    bh_log(BH_LOG_WARNING, "the bucket cannot be reached (%s); going on with what is in %s",
           why->text, live->dir.path);
    plain_say_unflushed(live, report);
    if (!report->text[0])
        plain_say(report,
                  "the bucket could not be reached; this is the state of the last mount (%.300s)",
                  why->text);
}

/* --- download --- */

struct download {
    int fd;
    uint64_t at;
    struct bh_sha256 *hash;
};

static int take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct download *d = arg;
    int rc = bh_pwrite_full(d->fd, data, len, d->at);
    if (rc)
        return bh_fail(err, rc, "the snapshot cannot be stored in the state directory: %s",
                       strerror(rc));
    bh_sha256_update(d->hash, data, len);
    d->at += len;
    return 0;
}

static int download(struct bh_plain *p, const char *key, struct bh_object_info *info,
                    char sha256[BH_SHA256_HEX], const struct bh_call *call, struct bh_error *err)
{
    int dir = bh_disk_dirfd(p->live->dir.disk);
    BH_FD int fd = openat(dir, INCOMING, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return bh_fail(err, errno, "%s/" INCOMING " cannot be made: %s", p->live->dir.path,
                       strerror(errno));
    struct download d = {.fd = fd, .hash = bh_sha256_new()};
    if (!d.hash)
        return bh_fail(err, ENOMEM, "out of memory while loading %s", key);
    struct bh_transfer how = plain_transfer(p);
    int rc = p->cfg->bucket.kind == BH_BUCKET_FILE
                 ? bh_bucket_get(p->bucket, key, 0, UINT64_MAX, take, &d, info, call, err)
                 : bh_bucket_download(p->bucket, key, &how, take, &d, info, call, err);
    if (rc == 0) {
        bh_sha256_hex(d.hash, sha256);
        const char *told = bh_meta_get(&info->meta, META_SHA256);
        if (d.at != info->size)
            rc = bh_fail(err, EIO, "%s is cut off: %llu of %llu bytes arrived", key,
                         (unsigned long long)d.at, (unsigned long long)info->size);
        else if (told && strcmp(told, sha256))
            rc =
                bh_fail(err, EIO, "%s is damaged: its SHA-256 is %s, not %s as when it was written",
                        key, sha256, told);
    }
    bh_sha256_free(d.hash);
    return rc;
}

int plain_fetch(struct bh_plain *p, const char *key, struct bh_base *base,
                const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info info;
    char path[4096], what[1200];
    int rc = download(p, key, &info, base->sha256, call, err);
    if (rc == 0) {
        snprintf(path, sizeof path, "%s/" INCOMING, p->live->dir.path);
        snprintf(what, sizeof what, "the snapshot %s", key);
        rc = bh_database_check(path, what, err);
    }
    if (rc)
        return rc;
    const char *id = bh_meta_get(&info.meta, META_SNAPSHOT);
    base->is_base = true;
    base->size = info.size;
    base->time_ms = info.mtime_ms;
    memcpy(base->etag, info.etag, sizeof base->etag);
    snprintf(base->snapshot, sizeof base->snapshot, "%.*s", BH_SNAPSHOT_ID_MAX - 1, id ? id : "");
    return 0;
}

/* --- damage --- */

static int damaged(struct bh_plain *p, const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info info;
    struct bh_error why = *err;
    int rc = bh_bucket_head(p->bucket, p->key_prev, &info, call, err);
    const char *advice =
        rc == 0        ? "mount with -o snapshot.recover=prev to take the snapshot before it"
        : rc == ENOENT ? "there is no snapshot before it"
                       : "whether there is a snapshot before it cannot be told now";
    return bh_fail(err, why.code, "%s; nothing was changed; %s (%s)", why.text, advice,
                   p->key_prev);
}

/* snapshot.recover=prev: KEY.prev becomes the content. It differs from what the bucket has under
 * KEY, so it counts as changed, and the damaged KEY is never copied over KEY.prev. */
static int load_previous(struct bh_plain *p, const struct bh_object_info *current,
                         struct bh_load_report *report, const struct bh_call *call,
                         struct bh_error *err)
{
    struct bh_base base = {0};
    struct bh_state *st = &p->live->dir.state;
    int rc = plain_fetch(p, p->key_prev, &base, call, err);
    if (rc)
        return bh_fail_prefix(err, rc, "snapshot.recover=prev is of no help");
    base.is_base = false;
    rc = bh_live_replace(p->live, INCOMING, &base, err);
    if (rc)
        return rc;
    memcpy(st->base_etag, current->etag, sizeof st->base_etag);
    memcpy(st->damaged_etag, current->etag, sizeof st->damaged_etag);
    st->base_snapshot[0] = st->base_sha256[0] = st->pending_snapshot[0] = '\0';
    plain_say(report, "recovered from %s (%s)", p->key_prev,
              base.snapshot[0] ? base.snapshot : "of another program");
    return bh_statedir_save(&p->live->dir, err);
}

/* --- rescue --- */

void plain_time_name(const char *prefix, char *name, size_t len)
{
    char when[20];
    int64_t now = bh_real_ms();
    snprintf(name, len, "%s-%s-%03dZ", prefix, bh_format_stamp(now, when, sizeof when),
             (int)(now % 1000));
}

void plain_rescue_name(char *name, size_t len)
{
    char host[64] = "host", prefix[80];
    if (gethostname(host, sizeof host) == 0)
        host[sizeof host - 1] = '\0';
    for (char *c = host; *c; c++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", *c))
            *c = '-';
    snprintf(prefix, sizeof prefix, "rescue-%s", host);
    plain_time_name(prefix, name, len);
}

/* Puts the image under a branch name that is not taken: two clones may be rescued at the same time.
 */
static int put_rescue(struct bh_plain *p, struct image *img, char *name, size_t name_len,
                      char **key, const struct bh_call *call, struct bh_error *err)
{
    enum { NAMES = 10 };
    char id[BH_SNAPSHOT_ID_MAX];
    struct bh_cond cond = {.if_none_match = true};
    int learned = bh_bucket_learn(p->bucket, call, err);
    if (learned)
        return learned;
    bool conditional = (bh_bucket_caps(p->bucket) & BH_CAP_IF_NONE_MATCH) != 0;
    for (int i = 0;; i++) {
        struct bh_object_info info;
        plain_rescue_name(name, name_len);
        free(*key);
        if (asprintf(key, "%s%s.branch.%s", p->cfg->bucket.prefix, p->cfg->snapshot.key, name) <
            0) {
            *key = NULL;
            return bh_fail(err, ENOMEM, "out of memory");
        }
        plain_new_id(p, id);
        int rc = plain_put_image(p, img, *key, id, conditional ? &cond : NULL, NULL, call, err);
        if (rc == EEXIST && i < NAMES) {
            nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
            continue;
        }
        if (rc && plain_is_passing(rc) && bh_bucket_head(p->bucket, *key, &info, call, NULL) == 0) {
            const char *seen = bh_meta_get(&info.meta, META_SNAPSHOT);
            rc = seen && !strcmp(seen, id) ? 0 : rc;
        }
        return rc;
    }
}

/* Unflushed changes on a base that the bucket has left behind: saved as a branch of their own. */
static int rescue(struct bh_plain *p, struct bh_load_report *report, const struct bh_call *call,
                  struct bh_error *err)
{
    char name[128];
    BH_FREE char *key = NULL;
    struct image img;
    unsigned tries = 0;
    int rc = plain_take_image(p, &img, &tries, call, err);
    if (rc == 0) {
        rc = put_rescue(p, &img, name, sizeof name, &key, call, err);
        bh_store_thaw(img.frozen, false);
        plain_phase(p, PHASE_NONE, 0);
    }
    if (rc)
        return bh_fail_prefix(
            err, rc,
            "%s has a newer snapshot by another writer, and the unflushed changes in %s "
            "cannot be saved as a branch rescue-HOST-TIME",
            p->key, p->live->dir.path);
    p->rescues++;
    plain_say(report,
              "unflushed changes were saved as branch %s (%s), as another writer has replaced %s",
              name, key, p->key);
    return 0;
}

/* --- the decision --- */

static int load_current(struct bh_plain *p, const struct bh_object_info *current,
                        struct bh_load_report *report, const struct bh_call *call,
                        struct bh_error *err)
{
    struct bh_base base = {0};
    int rc = 0;
    if (bh_store_is_dirty(p->live->store)) {
        if (p->read_only)
            return bh_fail(
                err, EROFS,
                "%s has a newer snapshot by another writer, and %s has unflushed changes that a "
                "read-only "
                "mount cannot save as a branch; mount without ro, or with another live.dir",
                p->key, p->live->dir.path);
        rc = rescue(p, report, call, err);
    }
    if (rc)
        return rc;
    rc = plain_fetch(p, p->key, &base, call, err);
    if (rc == EIO && p->cfg->snapshot.recover == BH_RECOVER_PREV) {
        bh_log(BH_LOG_WARNING, "%s; taking %s", err->text, p->key_prev);
        return load_previous(p, current, report, call, err);
    }
    if (rc == EIO)
        return damaged(p, call, err);
    if (rc)
        return rc;
    rc = bh_live_replace(p->live, INCOMING, &base, err);
    if (rc == 0)
        bh_log(BH_LOG_INFO, "loaded %s (%s)", p->key,
               base.snapshot[0] ? base.snapshot : "of another program");
    return rc;
}

static bool is_base(const struct bh_state *st, const struct bh_object_info *info)
{
    const char *id = bh_meta_get(&info->meta, META_SNAPSHOT);
    if (st->base_etag[0] && !strcmp(info->etag, st->base_etag))
        return true;
    return id && st->base_snapshot[0] && !strcmp(id, st->base_snapshot) &&
           info->size == st->base_size;
}

static bool is_pending(const struct bh_state *st, const struct bh_object_info *info)
{
    const char *id = bh_meta_get(&info->meta, META_SNAPSHOT);
    return id && st->pending_snapshot[0] && !strcmp(id, st->pending_snapshot);
}

static int adopt(struct bh_plain *p, const struct bh_object_info *info, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    if (is_pending(st, info)) {
        memcpy(st->base_snapshot, st->pending_snapshot, sizeof st->base_snapshot);
        memcpy(st->base_sha256, st->pending_sha256, sizeof st->base_sha256);
        st->base_size = st->pending_size;
        st->base_time_ms = info->mtime_ms;
        st->base_wal[0] = '\0'; /* how much of -wal that has is not known */
        st->pending_snapshot[0] = st->pending_sha256[0] = st->older_pending[0] = '\0';
    } else if (plain_is_older_pending(st, bh_meta_get(&info->meta, META_SNAPSHOT))) {
        plain_adopt_older(st, info);
    }
    memcpy(st->base_etag, info->etag, sizeof st->base_etag);
    return bh_statedir_save(&p->live->dir, err);
}

static int go_on(struct bh_plain *p, struct bh_load_report *report)
{
    plain_say_unflushed(p->live, report);
    return 0;
}

/* The state says that there was a snapshot, the bucket has none any more: what is local may be the
 * only copy. */
static int lost(struct bh_plain *p, struct bh_load_report *report, struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    plain_say(report,
              "%s is gone from the bucket; the copy in the state directory is used and uploaded "
              "with the next flush",
              p->key);
    int rc = bh_store_hydrate(p->live->store, NULL, err);
    if (rc)
        return bh_fail_prefix(
            err, rc, "%s is gone from the bucket, and so is a part of what was not local yet",
            p->key);
    st->base_etag[0] = st->base_snapshot[0] = st->base_sha256[0] = '\0';
    rc = bh_store_mark_all(p->live->store, BH_BLOCK_DIRTY);
    if (rc)
        return bh_fail(err, rc, "the block map cannot be written: %s", strerror(rc));
    return bh_statedir_save(&p->live->dir, err);
}

int bh_plain_load(struct bh_plain *p, struct bh_load_report *report, const struct bh_call *call,
                  struct bh_error *err)
{
    struct bh_state *st = &p->live->dir.state;
    struct bh_object_info info;
    int rc = bh_bucket_head(p->bucket, p->key, &info, call, err);
    if (rc == ENOENT)
        return st->base_etag[0] ? lost(p, report, err) : go_on(p, report);
    if (rc && plain_is_passing(rc) && !bh_live_is_fresh(p->live)) {
        plain_say_away(p->live, err, report);
        return 0;
    }
    if (rc)
        return rc;
    if (is_base(st, &info) || is_pending(st, &info) ||
        plain_is_older_pending(st, bh_meta_get(&info.meta, META_SNAPSHOT))) {
        rc = adopt(p, &info, err);
        return rc ? rc : go_on(p, report);
    }
    return load_current(p, &info, report, call, err);
}
