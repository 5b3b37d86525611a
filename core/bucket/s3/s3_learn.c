/* What the store can do, found out by trying it on objects of our own. Some stores refuse
 * conditions (501), some ignore them without a word, which would be a lost update: nothing is
 * believed but what was seen to be honoured. AWS documents its answers, so it is not tried. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/s3_private.h"
#include "util/cleanup.h"
#include "util/log.h"

#define CONDITIONS    (BH_CAP_IF_NONE_MATCH | BH_CAP_IF_MATCH | BH_CAP_COPY_IF_MATCH | BH_CAP_MP_COND)
#define PART_COPIES   (BH_CAP_PART_COPY | BH_CAP_PART_COPY_IF_MATCH)
#define TRIAL_NAME    16 /* characters of a trial object's own name */
#define LEFTOVERS_MAX 100
#define LEFTOVER_MS   (24 * INT64_C(3600000))
#define NO_ETAG       "00000000000000000000000000000000"

struct trial {
    struct s3 *s;
    const struct bh_call *call;
    struct bh_error *err;
    char key[BH_KEY_MAX + 64], copy[BH_KEY_MAX + 64];
    char etag[BH_ETAG_MAX]; /* of the object at key */
    bool unquoted;
    unsigned caps;
};

static bool is_passing(int rc)
{
    return rc == EIO || rc == ETIMEDOUT || rc == EAGAIN || rc == ECANCELED || rc == ENOMEM;
}

static int try_put(struct trial *t, const char *body, const struct bh_cond *cond)
{
    const struct bh_source src = {.size = strlen(body), .data = body};
    struct bh_object_info info;
    int rc = s3_put_raw(t->s, t->key, &src, NULL, cond, t->unquoted, &info, t->call, t->err);
    if (rc == 0)
        memcpy(t->etag, info.etag, sizeof t->etag);
    return rc;
}

static int try_if_none_match(struct trial *t)
{
    const struct bh_cond cond = {.if_none_match = true};
    int rc = try_put(t, "first", &cond);
    if (rc == 0) {
        rc = try_put(t, "second", &cond);
        if (rc == EEXIST)
            t->caps |= BH_CAP_IF_NONE_MATCH;
        return rc == EEXIST || !is_passing(rc) ? 0 : rc;
    }
    if (is_passing(rc) || rc == EACCES || rc == ENODEV || rc == ENOSPC)
        return rc;
    return try_put(t, "first", NULL); /* refused: the store has no conditions */
}

static int try_if_match(struct trial *t)
{
    const struct bh_cond wrong = {.if_match = NO_ETAG};
    char etag[BH_ETAG_MAX];
    for (int unquoted = 0; unquoted <= 1; unquoted++) {
        t->unquoted = unquoted;
        int rc = try_put(t, "third", &wrong);
        if (rc != ESTALE)
            return is_passing(rc) ? rc : 0; /* ignored, or refused */
        memcpy(etag, t->etag, sizeof etag);
        const struct bh_cond right = {.if_match = etag};
        rc = try_put(t, "fourth", &right);
        if (rc == 0)
            t->caps |= BH_CAP_IF_MATCH;
        if (rc != ESTALE)
            return is_passing(rc) ? rc : 0;
    }
    t->unquoted = false;
    return 0;
}

static int try_copy(struct trial *t)
{
    struct bh_object_info info;
    int rc = s3_copy_raw(t->s, t->key, t->copy, NO_ETAG, t->unquoted, &info, t->call, t->err);
    if (rc != ESTALE)
        return is_passing(rc) ? rc : 0;
    rc = s3_copy_raw(t->s, t->key, t->copy, t->etag, t->unquoted, &info, t->call, t->err);
    if (rc == 0)
        t->caps |= BH_CAP_COPY_IF_MATCH;
    return is_passing(rc) ? rc : 0;
}

/* Some stores (Swift) compare with another ETag than they tell where an object came in parts. */
static int try_copy_of_parts(struct trial *t, const struct bh_object_info *whole)
{
    struct bh_object_info info;
    if (!(t->caps & BH_CAP_COPY_IF_MATCH))
        return 0;
    int rc = s3_copy_raw(t->s, t->key, t->copy, whole->etag, t->unquoted, &info, t->call, t->err);
    if (rc)
        t->caps &= ~(unsigned)(BH_CAP_COPY_IF_MATCH | BH_CAP_PART_COPY_IF_MATCH);
    return is_passing(rc) ? rc : 0;
}

/* With one part copied: does a condition on the completion hold? */
static int try_completion(struct trial *t, const char *id, const struct bh_part *part)
{
    const struct bh_cond cond = {.if_none_match = true};
    struct bh_object_info info;
    int rc = EEXIST;
    if (t->caps & BH_CAP_IF_NONE_MATCH)
        rc = s3_mp_complete_raw(t->s, t->key, id, part, 1, &cond, t->unquoted, &info, t->call,
                                t->err);
    if (rc == EEXIST && (t->caps & BH_CAP_IF_NONE_MATCH))
        t->caps |= BH_CAP_MP_COND;
    if (rc == EEXIST)
        rc = s3_mp_complete_raw(t->s, t->key, id, part, 1, NULL, false, &info, t->call, t->err);
    return rc ? rc : try_copy_of_parts(t, &info);
}

/* A store that honours the source's ETag for a copy may ignore it for a part, and one that compares
 * with another ETag than it tells (try_copy_of_parts) does so here, too. *part: what was copied. */
static int try_part_copy(struct trial *t, const char *id, struct bh_part *part)
{
    bool pinned = (t->caps & BH_CAP_COPY_IF_MATCH) != 0;
    int rc = ESTALE;
    if (pinned)
        rc = s3_mp_part_copy_raw(t->s, t->key, id, 1, t->key, 0, UINT64_MAX, NO_ETAG, t->unquoted,
                                 part, t->call, t->err);
    pinned = pinned && rc == ESTALE;
    if (pinned) {
        rc = s3_mp_part_copy_raw(t->s, t->key, id, 1, t->key, 0, UINT64_MAX, t->etag, t->unquoted,
                                 part, t->call, t->err);
        if (rc == 0)
            t->caps |= BH_CAP_PART_COPY_IF_MATCH;
    }
    if (rc && !is_passing(rc)) /* refused with a condition: and without? */
        rc = s3_mp_part_copy_raw(t->s, t->key, id, 1, t->key, 0, UINT64_MAX, NULL, false, part,
                                 t->call, t->err);
    if (rc == 0)
        t->caps |= BH_CAP_PART_COPY;
    return rc;
}

static int try_multipart(struct trial *t)
{
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part part;
    int rc = s3_mp_begin(&t->s->base, t->key, NULL, id, t->call, t->err);
    if (rc)
        return is_passing(rc) ? rc : 0;
    rc = try_part_copy(t, id, &part);
    if (rc == 0)
        rc = try_completion(t, id, &part);
    struct bh_error why;
    if (rc && s3_mp_abort(&t->s->base, t->key, id, t->call, &why) != 0)
        bh_log(BH_LOG_DEBUG, "a trial upload of %s may be left in the bucket: %s", t->key,
               why.text);
    return is_passing(rc) ? rc : 0;
}

/* Trial objects of mounts that were ended, or whose deletion was not answered. */
struct leftovers {
    const char *keys[LEFTOVERS_MAX];
    size_t count;
    int64_t before_ms;
};

static int note_leftover(void *arg, const char *key, bool is_prefix,
                         const struct bh_object_info *info, struct bh_error *err)
{
    struct leftovers *l = arg;
    if (!is_prefix && info->mtime_ms < l->before_ms)
        l->keys[l->count++] = strdup(key);
    return l->count < LEFTOVERS_MAX && (l->count == 0 || l->keys[l->count - 1])
               ? 0
               : bh_fail(err, ECANCELED, "enough");
}

static void sweep(struct trial *t)
{
    struct leftovers l = {.before_ms = s3_now_ms(t->s) - LEFTOVER_MS};
    struct bh_error ignored; /* the next mount tries again */
    size_t deleted = 0, prefix = strlen(t->key) - TRIAL_NAME;
    char *start = strndup(t->key, prefix);
    const struct bh_list_request all = {.prefix = start ? start : t->key};
    (void)s3_list(&t->s->base, &all, note_leftover, &l, t->call, &ignored);
    while (l.count > 0 && !l.keys[l.count - 1])
        l.count--;
    if (l.count > 0)
        (void)s3_delete_many(&t->s->base, l.keys, l.count, &deleted, t->call, &ignored);
    while (l.count > 0)
        free((void *)(uintptr_t)l.keys[--l.count]);
    free(start);
}

static void clean(struct trial *t)
{
    const char *const keys[] = {t->key, t->copy};
    struct bh_error why;
    size_t deleted = 0;
    if (s3_delete_many(&t->s->base, keys, 2, &deleted, t->call, &why))
        bh_log(t->etag[0] ? BH_LOG_WARNING : BH_LOG_DEBUG,
               "a trial object %s may be left in the bucket: %s", t->key, why.text);
}

static int try_all(struct trial *t)
{
    unsigned char random[8];
    bh_random_bytes(random, sizeof random);
    int n = snprintf(t->key, sizeof t->key, "%.*s.bhfs-probe/", BH_KEY_MAX - 40,
                     t->s->cfg->bucket.prefix ? t->s->cfg->bucket.prefix : "");
    for (size_t i = 0; i < sizeof random; i++) /* TRIAL_NAME */
        n += snprintf(t->key + n, sizeof t->key - (size_t)n, "%02x", random[i]);
    snprintf(t->copy, sizeof t->copy, "%.*s-copy", BH_KEY_MAX, t->key);
    int rc = try_if_none_match(t);
    if (!rc)
        rc = try_if_match(t);
    if (!rc)
        rc = try_copy(t);
    if (!rc)
        rc = try_multipart(t);
    if (t->etag[0] || rc == EIO || rc == EAGAIN) /* there, or perhaps there */
        clean(t);
    if (!rc)
        sweep(t);
    return rc;
}

static bool is_learned(struct s3 *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    return s->learned;
}

int s3_learn(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    struct s3 *s = s3_of(b);
    struct bh_error own;
    struct trial t = {.s = s, .call = call, .err = err ? err : &own};
    BH_LOCK_SCOPE(&s->learning);
    if (is_learned(s))
        return 0;
    int rc = try_all(&t);
    if (rc)
        return rc == ENODEV
                   ? rc
                   : bh_fail_prefix(t.err, rc, "what the store can do cannot be found out");
    if (!(t.caps & BH_CAP_IF_MATCH))
        bh_log(
            BH_LOG_WARNING,
            "this store cannot write on condition that nobody else has written meanwhile: let only "
            "one mount at a time write to %s of the bucket %s",
            s->cfg->snapshot.key ? s->cfg->snapshot.key : "a key", s->cfg->bucket.name);
    BH_LOCK_SCOPE(&s->mutex);
    s->caps = (s->caps & ~(unsigned)(CONDITIONS | PART_COPIES)) | t.caps;
    s->etag_unquoted = t.unquoted;
    s->learned = true;
    return 0;
}

unsigned s3_caps(struct bh_bucket *b)
{
    struct s3 *s = s3_of(b);
    BH_LOCK_SCOPE(&s->mutex);
    return s->caps;
}

bool s3_unquoted(struct s3 *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    return s->etag_unquoted;
}

int s3_need(struct s3 *s, unsigned cap, const char *what, const struct bh_call *call,
            struct bh_error *err)
{
    int rc = s3_learn(&s->base, call, err);
    if (rc || (s3_caps(&s->base) & cap))
        return rc;
    return bh_fail(err, ENOTSUP, "this store does not support %s", what);
}
