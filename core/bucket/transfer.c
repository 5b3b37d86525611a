#include "bucket/transfer.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define PART_MIN       ((uint64_t)5 << 20)
#define PART_MAX       ((uint64_t)5 << 30)
#define PARTS_MAX      10000
#define PARALLEL_MAX   256
#define COMPLETE_TRIES 5     /* completions of which the answer was lost */
#define COMPLETE_MS    100   /* the first pause between them */
#define ABORT_MS       10000 /* a failed upload's caller waits no longer for its end */
#define POLL_MS        20    /* how soon the caller's cancel reaches the threads */

/* --- the threads of one transfer --- */

struct team {
    struct bh_bucket *bucket;
    const char *key;
    uint64_t size, part_size;
    unsigned parts;
    const struct bh_call *outer; /* the caller's; may be NULL */
    struct bh_call call;         /* the same, but `over` ends it, too */
    bool relay;                  /* outer's cancel had to give way to `over` in call */
    atomic_bool over;            /* nothing more is to be done */
    pthread_mutex_t mutex;       /* guards what follows */
    pthread_cond_t changed;
    int rc; /* the first error */
    struct bh_error error;
    unsigned next;    /* the part that is taken next */
    unsigned running; /* threads that have not ended */
    unsigned count;
    pthread_t threads[PARALLEL_MAX];
};

static void team_init(struct team *t, struct bh_bucket *b, const char *key,
                      const struct bh_call *call)
{
    *t = (struct team){.bucket = b, .key = key, .outer = call};
    if (call)
        t->call = *call;
    t->relay = t->call.cancel && t->call.stop;
    if (t->call.cancel && !t->relay)
        t->call.stop = &t->over;
    else
        t->call.cancel = &t->over;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->changed, NULL);
}

static uint64_t part_length(const struct team *t, unsigned part)
{
    uint64_t at = part * t->part_size;
    return t->size - at < t->part_size ? t->size - at : t->part_size;
}

/* Keeps the first error; all threads end soon. Returns whether this was it. */
static bool team_fail(struct team *t, int rc, const struct bh_error *why)
{
    BH_LOCK_SCOPE(&t->mutex);
    bool first = !t->rc;
    if (first) {
        t->rc = rc;
        t->error = *why;
    }
    atomic_store(&t->over, true);
    pthread_cond_broadcast(&t->changed);
    return first;
}

/* Starts up to `count` more threads; fewer will do. Signals are for the program's own threads. */
static int team_start(struct team *t, void *(*entry)(void *), void *arg, unsigned count,
                      struct bh_error *err)
{
    sigset_t all, before;
    int rc = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&t->mutex);
    for (; count > 0 && !rc; count--) {
        rc = pthread_create(&t->threads[t->count], NULL, entry, arg);
        if (!rc) {
            t->count++;
            t->running++;
        }
    }
    bool none = t->count == 0;
    pthread_mutex_unlock(&t->mutex);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc && none ? bh_fail(err, ENOMEM, "no thread can be started for the transfer of %s: %s",
                                t->key, strerror(rc))
                      : 0;
}

/* The last deed of a thread. */
static void team_leave(struct team *t)
{
    BH_LOCK_SCOPE(&t->mutex);
    t->running--;
    pthread_cond_broadcast(&t->changed);
}

/* Waits for a change, as the caller's thread, which holds the mutex; relays the caller's cancel
 * meanwhile. */
static void team_wait(struct team *t)
{
    if (!t->relay) {
        pthread_cond_wait(&t->changed, &t->mutex);
        return;
    }
    struct timespec until = bh_mono_after_ms(POLL_MS);
    pthread_cond_clockwait(&t->changed, &t->mutex, CLOCK_MONOTONIC, &until);
    struct bh_error why;
    int rc = t->rc ? 0 : bh_call_check(t->outer, t->key, &why);
    if (rc) {
        t->rc = rc;
        t->error = why;
        atomic_store(&t->over, true);
        pthread_cond_broadcast(&t->changed);
    }
}

/* Waits for the threads to end; the first error of all. */
static int team_join(struct team *t, struct bh_error *err)
{
    pthread_mutex_lock(&t->mutex);
    while (t->running > 0)
        team_wait(t);
    pthread_mutex_unlock(&t->mutex);
    for (unsigned i = 0; i < t->count; i++)
        pthread_join(t->threads[i], NULL);
    t->count = 0;
    return t->rc ? bh_fail(err, t->rc, "%s", t->error.text) : 0;
}

static void team_destroy(struct team *t)
{
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->mutex);
}

static int check(const struct bh_transfer *how, struct bh_error *err)
{
    if (how->part_size < PART_MIN || how->part_size > PART_MAX)
        return bh_fail(err, EINVAL, "a part size of %llu bytes is not between 5 MiB and 5 GiB",
                       (unsigned long long)how->part_size);
    if (how->parallel < 1 || how->parallel > PARALLEL_MAX)
        return bh_fail(err, EINVAL, "%u parts at once are not between 1 and %d", how->parallel,
                       PARALLEL_MAX);
    return 0;
}

/* --- upload --- */

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
    uint64_t at = *part * t->part_size, len = part_length(t, *part);
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
        team_fail(t, rc, &err);
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
            if (team_fail(t, rc, &err) && !body.data) /* read when the threads have ended */
                u->reuse->refused = true;
            break;
        }
    }
    free(buf);
    team_leave(t);
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
    if (part_size > PART_MAX)
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
    rc = team_start(t, upload_main, u, parallel < t->parts ? parallel : t->parts, err);
    if (!rc)
        rc = team_join(t, err);
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

int bh_bucket_upload(struct bh_bucket *b, const char *key, const struct bh_source *src,
                     const struct bh_meta *meta, const struct bh_cond *cond,
                     const struct bh_transfer *how, struct bh_object_info *info,
                     const struct bh_call *call, struct bh_error *err)
{
    bool conditional = cond && (cond->if_match || cond->if_none_match);
    int rc = check(how, err);
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
    if (whole && src->size <= PART_MAX)
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
    team_init(&u->team, b, key, call);
    pthread_mutex_init(&u->source, NULL);
    rc = upload_plan(&u->team, src->size, how->part_size, err);
    if (!rc)
        rc = upload_parts(u, meta, how->parallel, info, err);
    pthread_mutex_destroy(&u->source);
    team_destroy(&u->team);
    return rc;
}

/* --- download --- */

/* The first range streams to the sink in the caller's thread; it tells how large the object is.
 * Then threads fetch the ranges after it into slots: part i into slot i modulo their number, which
 * is free again when the caller's thread has given it to the sink. */
struct slot {
    char *buf; /* part_size bytes, kept for the next part */
    bool taken, full;
};

struct download {
    struct team team;
    unsigned parallel;
    bh_sink_fn *sink;
    void *arg;
    struct bh_object_info *info; /* of the first range */
    char etag[BH_ETAG_MAX];      /* which every range must have */
    struct slot *slots;          /* parallel of them; the team's mutex guards them */
};

struct range {
    struct download *d;
    struct bh_object_info info; /* of this range's answer */
    char *buf;
    uint64_t len, got;
};

static int replaced(struct download *d, struct bh_error *err)
{
    return bh_fail(err, EIO, "%s was replaced or deleted while it was read", d->team.key);
}

static int range_take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct range *r = arg;
    if (r->info.size != r->d->team.size || strcmp(r->info.etag, r->d->etag) != 0)
        return replaced(r->d, err);
    if (len > r->len - r->got)
        return bh_fail(err, EIO, "%s delivered more bytes than were asked for", r->d->team.key);
    memcpy(r->buf + r->got, data, len);
    r->got += len;
    return 0;
}

static int range_get(struct download *d, unsigned part, char *buf, struct bh_error *err)
{
    struct team *t = &d->team;
    struct range r = {.d = d, .buf = buf, .len = part_length(t, part)};
    int rc = bh_bucket_get(t->bucket, t->key, part * t->part_size, r.len, range_take, &r, &r.info,
                           &t->call, err);
    if (rc == EINVAL || rc == ENOENT) /* the range is not there any more */
        return replaced(d, err);
    if (!rc && r.got != r.len)
        rc = bh_fail(err, EIO, "%s delivered %llu of %llu bytes", t->key, (unsigned long long)r.got,
                     (unsigned long long)r.len);
    return rc;
}

/* The next part, as soon as its slot is free; false: there is none, or the download is over. */
static bool download_take(struct download *d, unsigned *part)
{
    struct team *t = &d->team;
    BH_LOCK_SCOPE(&t->mutex);
    while (!atomic_load(&t->over) && t->next < t->parts && d->slots[t->next % d->parallel].taken)
        pthread_cond_wait(&t->changed, &t->mutex);
    if (atomic_load(&t->over) || t->next == t->parts)
        return false;
    *part = t->next++;
    d->slots[*part % d->parallel].taken = true;
    return true;
}

static void *download_main(void *arg)
{
    struct download *d = arg;
    struct team *t = &d->team;
    unsigned part;
    while (download_take(d, &part)) {
        struct bh_error err = {0};
        struct slot *slot = &d->slots[part % d->parallel];
        int rc = 0;
        if (!slot->buf && !(slot->buf = malloc((size_t)t->part_size)))
            rc = bh_fail(&err, ENOMEM, "out of memory while reading %s", t->key);
        if (!rc)
            rc = range_get(d, part, slot->buf, &err);
        if (rc) {
            team_fail(t, rc, &err);
            break;
        }
        BH_LOCK_SCOPE(&t->mutex);
        slot->full = true;
        pthread_cond_broadcast(&t->changed);
    }
    team_leave(t);
    return NULL;
}

/* The sink of the first range: starts the threads when the size is known. */
static int first_take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct download *d = arg;
    struct team *t = &d->team;
    if (t->parts == 0) {
        memcpy(d->etag, d->info->etag, sizeof d->etag);
        t->size = d->info->size;
        t->parts = (unsigned)((t->size + t->part_size - 1) / t->part_size);
        unsigned others = t->parts - 1 < d->parallel - 1 ? t->parts - 1 : d->parallel - 1;
        int rc = others ? team_start(t, download_main, d, others, err) : 0;
        if (rc)
            return rc;
    }
    if (atomic_load(&t->over)) /* another range failed: team_join tells why */
        return bh_fail(err, ECANCELED, "the download of %s has failed", t->key);
    return d->sink(d->arg, data, len, err);
}

/* Gives part after part to the sink. */
static int download_deliver(struct download *d, struct bh_error *err)
{
    struct team *t = &d->team;
    int rc = 0;
    for (unsigned part = 1; !rc && part < t->parts; part++) {
        struct slot *slot = &d->slots[part % d->parallel];
        uint64_t len = part_length(t, part);
        pthread_mutex_lock(&t->mutex);
        while (!slot->full && !t->rc)
            team_wait(t);
        rc = t->rc;
        pthread_mutex_unlock(&t->mutex);
        for (uint64_t at = 0; !rc && at < len; at += BH_CHUNK) {
            rc = bh_call_check(t->outer, "the download", err);
            if (!rc)
                rc = d->sink(d->arg, slot->buf + at,
                             len - at < BH_CHUNK ? (size_t)(len - at) : BH_CHUNK, err);
        }
        BH_LOCK_SCOPE(&t->mutex);
        slot->taken = slot->full = false;
        pthread_cond_broadcast(&t->changed);
    }
    return rc;
}

static int download_parts(struct download *d, struct bh_error *err)
{
    struct team *t = &d->team;
    struct bh_error why = {0};
    t->next = 1;
    int rc = bh_bucket_get(t->bucket, t->key, 0, t->part_size, first_take, d, d->info,
                           t->relay ? t->outer : &t->call, &why);
    if (!rc && t->count < d->parallel && t->parts > 1 + t->count) /* the caller's turn is over */
        rc = team_start(t, download_main, d, 1, &why);
    if (!rc)
        rc = download_deliver(d, &why);
    if (rc)
        team_fail(t, rc, &why);
    return team_join(t, err);
}

int bh_bucket_download(struct bh_bucket *b, const char *key, const struct bh_transfer *how,
                       bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                       const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info own;
    int rc = check(how, err);
    if (rc)
        return rc;
    if (how->parallel == 1 || !sink)
        return bh_bucket_get(b, key, 0, UINT64_MAX, sink, arg, info, call, err);
    BH_FREE struct download *d = calloc(1, sizeof *d);
    BH_FREE struct slot *slots = calloc(how->parallel, sizeof *slots);
    if (!d || !slots)
        return bh_fail(err, ENOMEM, "out of memory while reading %s", key ? key : "");
    *d = (struct download){.parallel = how->parallel,
                           .sink = sink,
                           .arg = arg,
                           .info = info ? info : &own,
                           .slots = slots};
    team_init(&d->team, b, key, call);
    d->team.part_size = how->part_size;
    rc = download_parts(d, err);
    for (unsigned i = 0; i < how->parallel; i++)
        free(slots[i].buf);
    team_destroy(&d->team);
    return rc;
}
