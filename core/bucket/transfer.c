/* Uploads in parts. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "bucket/transfer_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define PARTS_MAX      10000
#define REUSE_PARTS    1000  /* in one upload that copies some */
#define COMPLETE_TRIES 5     /* completions of which the answer was lost */
#define COMPLETE_MS    100   /* the first pause between them */
#define ABORT_MS       10000 /* a failed upload's caller waits no longer for its end */

struct upload {
    struct team team;
    const struct bh_source *src;
    const struct bh_cond *cond;
    struct bh_reuse *reuse; /* NULL: all is sent */
    struct bh_part *parts;
    pthread_mutex_t source; /* one thread at a time reads src, and counts in reuse */
    char id[BH_UPLOAD_ID_MAX];
    char put_id[BH_PUT_ID_SIZE];
    bool in_doubt; /* the completion may have happened */
};

/* Takes the next part and reads it (*buf is the thread's own, allocated on first use); a body
 * without data: it is to be copied. False: there is none, or the upload is over. */
static bool upload_take(struct upload *u, char **buf, unsigned *part, struct bh_source *body)
{
    struct team *t = &u->team;
    struct bh_error err = {0};
    int rc = 0;
    BH_LOCK_SCOPE(&u->source);
    if (atomic_load(&t->over) || t->next == t->parts)
        return false;
    *part = t->next++;
    uint64_t at = *part * t->part_size, len = bh_team_part_length(t, *part);
    *body = (struct bh_source){.size = len};
    if (u->reuse && u->reuse->has(u->reuse->arg, at, len)) {
        u->reuse->copied += len;
        return true;
    }
    if (u->src->data) {
        body->data = (const char *)u->src->data + at;
        return true;
    }
    if (!*buf && !(*buf = malloc((size_t)t->part_size)))
        rc = bh_fail(&err, ENOMEM, "out of memory while uploading %s", t->key);
    for (uint64_t done = 0; !rc && done < len; done += BH_CHUNK) {
        size_t n = len - done < BH_CHUNK ? (size_t)(len - done) : BH_CHUNK;
        rc = bh_call_check(&t->call, "the upload", &err);
        if (!rc)
            rc = u->src->read(u->src->arg, at + done, *buf + done, n, &err);
    }
    body->data = *buf;
    if (rc)
        bh_team_fail(t, rc, &err);
    return !rc;
}

/* Sends one part, or has it copied. */
static int upload_part(struct upload *u, unsigned part, const struct bh_source *body,
                       struct bh_error *err)
{
    struct team *t = &u->team;
    int rc;
    if (body->data)
        rc = bh_bucket_mp_part(t->bucket, t->key, u->id, part + 1, body, &u->parts[part], &t->call,
                               err);
    else
        rc = bh_bucket_mp_part_copy(t->bucket, t->key, u->id, part + 1, u->reuse->key,
                                    part * t->part_size, body->size, u->reuse->etag,
                                    &u->parts[part], &t->call, err);
    if (rc == ENOENT) /* which would say that the object does not exist */
        rc = bh_fail_prefix(err, EIO, "the upload of %s vanished while it was under way", t->key);
    return rc;
}

static void *upload_main(void *arg)
{
    struct upload *u = arg;
    struct team *t = &u->team;
    struct bh_source body;
    unsigned part;
    char *buf = NULL;
    while (upload_take(u, &buf, &part, &body)) {
        struct bh_error err = {0};
        int rc = upload_part(u, part, &body, &err);
        if (rc) {
            if (bh_team_fail(t, rc, &err) && !body.data) /* read when the threads have ended */
                u->reuse->refused = true;
            break;
        }
    }
    free(buf);
    bh_team_leave(t);
    return NULL;
}

static bool is_passing(int rc)
{
    return rc == EAGAIN || rc == EIO || rc == ETIMEDOUT;
}

/* Looks at the key after a completion in doubt. 0: it is our object (info filled); EAGAIN: it may
 * not be there yet; EBUSY: another writer's object is there, against the condition; else the look
 * failed. */
static int upload_look(struct upload *u, struct bh_object_info *info, struct bh_error *why)
{
    struct bh_object_info now;
    const struct bh_cond *cond = u->cond;
    int rc = bh_bucket_head(u->team.bucket, u->team.key, &now, u->team.outer, why);
    if (rc == ENOENT)
        return cond && cond->if_match ? EBUSY : EAGAIN;
    if (rc)
        return rc;
    const char *id = bh_meta_get(&now.meta, BH_META_PUT);
    if (id && strcmp(id, u->put_id) == 0) {
        if (info)
            *info = now;
        return 0;
    }
    bool against =
        cond && (cond->if_none_match || (cond->if_match && strcmp(cond->if_match, now.etag) != 0));
    return against ? EBUSY : EAGAIN;
}

/* Whether the answer `rc` to a repeated completion leaves room for another one. */
static bool may_complete_again(int rc)
{
    return is_passing(rc) || rc == ESTALE || rc == EEXIST;
}

/* Completes; where the answer is lost, looks whether the object is there, and repeats. */
static int upload_complete(struct upload *u, struct bh_object_info *info, struct bh_error *err)
{
    struct team *t = &u->team;
    struct bh_error first = {0}, why = {0};
    int doubt = 0;
    for (unsigned i = 1;; i++) {
        int rc = bh_bucket_mp_complete(t->bucket, t->key, u->id, u->parts, t->parts, u->cond, info,
                                       t->outer, &why);
        if (!doubt && rc == ENOENT)
            return bh_fail(err, EIO, "the upload of %s vanished before its end: %s", t->key,
                           why.text);
        if (!doubt && !is_passing(rc))
            return rc ? bh_fail(err, rc, "%s", why.text) : 0;
        if (!doubt) {
            doubt = rc;
            first = why;
        }
        int seen = upload_look(u, info, &why);
        if (seen == 0)
            return 0;
        /* A success that shows nothing is none: some stores give it to any repetition. */
        if (seen == EBUSY || !is_passing(seen) || !may_complete_again(rc) || i == COMPLETE_TRIES ||
            bh_call_sleep(t->outer, COMPLETE_MS << i, "the upload", NULL) != 0) {
            u->in_doubt = true;
            return bh_fail(
                err, doubt, "it is not known whether the upload of %s happened%s: %s", t->key,
                seen == EBUSY ? ", and another writer's object is there now" : "", first.text);
        }
    }
}

static void upload_abort(struct upload *u)
{
    struct bh_error err = {0};
    struct bh_call call = {.deadline_ms = bh_mono_ms() + ABORT_MS};
    if (u->in_doubt) { /* it may be completed at this moment */
        bh_log(BH_LOG_WARNING, "the upload %s of %s may be left unfinished in the bucket", u->id,
               u->team.key);
        return;
    }
    int rc = bh_bucket_mp_abort(u->team.bucket, u->team.key, u->id, &call, &err);
    if (rc && rc != ENOENT)
        bh_log(BH_LOG_WARNING, "the upload %s of %s is left unfinished in the bucket: %s", u->id,
               u->team.key, err.text);
}

/* The part size, raised where there would be too many. */
static int upload_plan(struct team *t, uint64_t size, uint64_t part_size, struct bh_error *err)
{
    if (size / part_size >= PARTS_MAX) {
        part_size = (size + PARTS_MAX - 1) / PARTS_MAX;
        part_size = (part_size + BH_CHUNK - 1) / BH_CHUNK * BH_CHUNK;
    }
    if (part_size > BH_PART_MAX)
        return bh_fail(err, EFBIG, "%s has %llu bytes, more than an upload may have", t->key,
                       (unsigned long long)size);
    t->size = size;
    t->part_size = part_size;
    t->parts = (unsigned)((size + part_size - 1) / part_size);
    return 0;
}

static int upload_parts(struct upload *u, const struct bh_meta *meta, unsigned parallel,
                        struct bh_object_info *info, struct bh_error *err)
{
    struct team *t = &u->team;
    struct bh_meta marked = meta ? *meta : (struct bh_meta){0};
    BH_FREE struct bh_part *parts = calloc(t->parts, sizeof *parts);
    if (!parts)
        return bh_fail(err, ENOMEM, "out of memory while uploading %s", t->key);
    u->parts = parts;
    bh_put_id(u->put_id);
    int rc = bh_meta_set(&marked, BH_META_PUT, u->put_id, err);
    if (!rc)
        rc = bh_bucket_mp_begin(t->bucket, t->key, &marked, u->id, t->outer, err);
    if (rc)
        return rc;
    rc = bh_team_start(t, upload_main, u, parallel < t->parts ? parallel : t->parts, err);
    if (!rc)
        rc = bh_team_join(t, err);
    if (!rc)
        rc = upload_complete(u, info, err);
    if (rc)
        upload_abort(u);
    return rc;
}

static bool can_copy(struct bh_bucket *b, const struct bh_cond *cond, bool if_match)
{
    unsigned needed = BH_CAP_PART_COPY;
    if (if_match)
        needed |= BH_CAP_PART_COPY_IF_MATCH;
    if (cond && (cond->if_match || cond->if_none_match))
        needed |= BH_CAP_MP_COND;
    return (bh_bucket_caps(b) & needed) == needed;
}

bool bh_bucket_can_assemble(struct bh_bucket *b, const struct bh_cond *cond)
{
    return can_copy(b, cond, true);
}

uint64_t bh_reuse_part_size(uint64_t size, uint64_t most)
{
    uint64_t part = (size / REUSE_PARTS + BH_CHUNK - 1) / BH_CHUNK * BH_CHUNK;
    part = part > most ? most : part;
    return part < BH_PART_MIN ? BH_PART_MIN : part;
}

bool bh_reuse_was_refused(const struct bh_reuse *reuse, int rc, const struct bh_call *call)
{
    return rc && reuse->refused && rc != EAGAIN && rc != ETIMEDOUT && rc != ECANCELED &&
           rc != ENOMEM && rc != ENOSPC && bh_call_check(call, "", NULL) == 0;
}

int bh_bucket_upload(struct bh_bucket *b, const char *key, const struct bh_source *src,
                     const struct bh_meta *meta, const struct bh_cond *cond,
                     const struct bh_transfer *how, struct bh_object_info *info,
                     const struct bh_call *call, struct bh_error *err)
{
    bool conditional = cond && (cond->if_match || cond->if_none_match);
    int rc = bh_transfer_check(how, err);
    if (how->reuse) {
        how->reuse->copied = 0;
        how->reuse->refused = false;
    }
    if (rc)
        return rc;
    if (!src || src->size <= how->part_size || (!src->data && !src->read))
        return bh_bucket_put(b, key, src, meta, cond, info, call, err);
    if (conditional) /* a failure shows where the upload itself fails */
        (void)bh_bucket_learn(b, call, NULL);
    bool whole = conditional && !(bh_bucket_caps(b) & BH_CAP_MP_COND);
    if (whole && src->size <= BH_PART_MAX)
        return bh_bucket_put(b, key, src, meta, cond, info, call, err);
    if (whole)
        return bh_fail(err, ENOTSUP,
                       "%s has %llu bytes, and the store honours conditions only for objects of up "
                       "to 5 GiB",
                       key ? key : "", (unsigned long long)src->size);
    BH_FREE struct upload *u = calloc(1, sizeof *u);
    if (!u)
        return bh_fail(err, ENOMEM, "out of memory while uploading %s", key ? key : "");
    u->src = src;
    u->cond = cond;
    u->reuse = how->reuse && can_copy(b, cond, how->reuse->etag) ? how->reuse : NULL;
    bh_team_init(&u->team, b, key, call);
    pthread_mutex_init(&u->source, NULL);
    rc = upload_plan(&u->team, src->size, how->part_size, err);
    if (!rc)
        rc = upload_parts(u, meta, how->parallel, info, err);
    pthread_mutex_destroy(&u->source);
    bh_team_destroy(&u->team);
    return rc;
}
