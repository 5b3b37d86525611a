/* Downloads by ranges. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "bucket/transfer_private.h"
#include "util/cleanup.h"

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
    struct range r = {.d = d, .buf = buf, .len = bh_team_part_length(t, part)};
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
            bh_team_fail(t, rc, &err);
            break;
        }
        BH_LOCK_SCOPE(&t->mutex);
        slot->full = true;
        pthread_cond_broadcast(&t->changed);
    }
    bh_team_leave(t);
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
        int rc = others ? bh_team_start(t, download_main, d, others, err) : 0;
        if (rc)
            return rc;
    }
    if (atomic_load(&t->over)) /* another range failed: bh_team_join tells why */
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
        uint64_t len = bh_team_part_length(t, part);
        pthread_mutex_lock(&t->mutex);
        while (!slot->full && !t->rc)
            bh_team_wait(t);
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
        rc = bh_team_start(t, download_main, d, 1, &why);
    if (!rc)
        rc = download_deliver(d, &why);
    if (rc)
        bh_team_fail(t, rc, &why);
    return bh_team_join(t, err);
}

int bh_bucket_download(struct bh_bucket *b, const char *key, const struct bh_transfer *how,
                       bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                       const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info own;
    int rc = bh_transfer_check(how, err);
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
    bh_team_init(&d->team, b, key, call);
    d->team.part_size = how->part_size;
    rc = download_parts(d, err);
    for (unsigned i = 0; i < how->parallel; i++)
        free(slots[i].buf);
    bh_team_destroy(&d->team);
    return rc;
}
