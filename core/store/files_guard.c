/* Before a head names contents: that their objects are in the bucket, and that gc does not delete
 * them just then. Most were uploaded a moment ago and need one look at the list of condemned blobs,
 * for all of them together; the reasoning is in repo/gc_blobs.c. */
#include "store/files_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "config/config.h"
#include "repo/gc.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define ROUNDS_MAX 8 /* renewals in one flush: each is of what was condemned since the last */
#define POLL_MS    500
#define TRUST_MS   600000 /* BLOBS_TRUST_S: what is named was seen no longer ago */
#define LOST_TOLD  5u
#define HEADS_MAX  200u /* looked for one by one; more: all objects are listed */

struct unnamed {
    uint8_t hash[BH_SHA256_LEN];
    uint64_t size;
    int64_t seen_ms; /* bh_boot_ms(): its object was in the bucket; 0: that must be looked at */
    bool renewed;    /* since it was seen: being condemned is of no account */
    bool lost;       /* there is nothing to be done for it */
};

struct files_guard {
    struct bh_gc_guard *list;
    char *prefix; /* "KEY.bhfs/" */
    struct unnamed *items;
    size_t count, room;
    size_t lost;     /* so many are nowhere */
    int64_t kept_ms; /* bh_boot_ms() of the last look */
};

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory looking for new contents in the bucket");
}

static int64_t fresh_ms(const struct bh_files *f)
{
    return f->cfg->retention.grace_ms / 4;
}

static int open_guard(struct bh_files *f, struct bh_error *err)
{
    if (f->guard)
        return 0;
    struct files_guard *g = calloc(1, sizeof *g);
    if (!g || asprintf(&g->prefix, "%s%s.bhfs/", f->cfg->bucket.prefix, f->cfg->snapshot.key) < 0) {
        free(g);
        return no_memory(err);
    }
    f->guard = g;
    return 0;
}

/* What was named since the base was made was uploaded after that, or looked for. */
static int64_t base_ms(const struct bh_files *f)
{
    const struct bh_state *st = &f->live->dir.state;
    return st->base_snapshot[0] ? bh_boot_ms() - (bh_real_ms() - st->base_time_ms) : 0;
}

static void merge(struct unnamed *to, const struct unnamed *other)
{
    if (other->seen_ms > to->seen_ms)
        to->seen_ms = other->seen_ms;
    to->renewed = to->renewed || other->renewed;
    to->lost = to->lost || other->lost;
}

static int add_touched(struct bh_files *f, const struct files_touched *touched, size_t count,
                       struct bh_error *err)
{
    struct files_guard *g = f->guard;
    const int64_t base = base_ms(f);
    for (size_t i = 0; i < count; i++) {
        const int64_t at = touched[i].at_ms;
        if (!touched[i].ino)
            continue;
        if (!bh_grow(g->items, g->room, g->count))
            return no_memory(err);
        struct unnamed *u = &g->items[g->count++];
        *u = (struct unnamed){.size = touched[i].size,
                              .seen_ms = at < 0          ? 0
                                         : at > TRUST_MS ? at - TRUST_MS
                                                         : base};
        memcpy(u->hash, touched[i].hash, sizeof u->hash);
    }
    if (g->count)
        qsort(g->items, g->count, sizeof *g->items, bh_sha256_compare);
    size_t kept = 0;
    for (size_t i = 0; i < g->count; i++)
        if (kept && !bh_sha256_compare(&g->items[i], &g->items[kept - 1]))
            merge(&g->items[kept - 1], &g->items[i]);
        else
            g->items[kept++] = g->items[i];
    g->count = kept;
    return 0;
}

/* --- in the bucket --- */

static void object_key(const struct bh_files *f, const struct unnamed *u, char key[BH_KEY_MAX + 1])
{
    char hex[BH_SHA256_HEX];
    bh_sha256_format(u->hash, hex);
    snprintf(key, BH_KEY_MAX + 1, "%s%s", f->prefix, hex);
}

/* By what is here; else, where it never was here, by the store itself, which does not copy an
 * object to itself. */
static int renew(struct bh_files *f, struct unnamed *u, const struct bh_call *call,
                 struct bh_error *err)
{
    char key[BH_KEY_MAX + 1], beside[BH_KEY_MAX + 16];
    bool wanted;
    object_key(f, u, key);
    int rc = bh_names_has_hash(f->names, u->hash, &wanted, err);
    if (rc || !wanted) { /* its last name went before it was flushed */
        u->lost = true;
        return rc;
    }
    rc = bh_blobs_renew(f->blobs, u->hash, u->size, call, err);
    if (rc == ENOENT) {
        snprintf(beside, sizeof beside, "%s.renewed", key);
        rc = bh_bucket_copy(f->bucket, key, beside, NULL, NULL, call, err);
        if (rc == 0)
            rc = bh_bucket_copy(f->bucket, beside, key, NULL, NULL, call, err);
        if (rc == 0)
            rc = bh_bucket_delete(f->bucket, beside, call, err);
    }
    if (rc == ENOENT) { /* no flush can bring it back: it must not be the last one */
        if (++f->guard->lost <= LOST_TOLD)
            bh_log(BH_LOG_ERROR,
                   "%s is neither in the bucket nor here: files with that content cannot be read; "
                   ".ctl/verify tells their names%s",
                   key, f->guard->lost == LOST_TOLD ? ". Others like it are not told here" : "");
        u->lost = true;
        rc = 0;
    }
    if (rc)
        return rc;
    u->renewed = true;
    u->seen_ms = bh_boot_ms();
    return 0;
}

/* Of what is still to be uploaded gc has nothing, and it is here. */
static bool is_of_concern(const struct bh_files *f, const struct unnamed *u)
{
    return !u->lost && bh_blobs_state(f->blobs, u->hash) == BH_BLOB_STORED;
}

static bool is_stale(const struct bh_files *f, const struct unnamed *u)
{
    return is_of_concern(f, u) && (!u->seen_ms || bh_boot_ms() - u->seen_ms > fresh_ms(f));
}

/* Just now; how old it is, is not known any more. */
static void seen(struct unnamed *u)
{
    u->seen_ms = bh_boot_ms();
    u->renewed = false;
}

static int note_there(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                      struct bh_error *err)
{
    struct bh_files *f = arg;
    uint8_t hash[BH_SHA256_LEN];
    size_t len = strlen(f->prefix);
    (void)err;
    if (is_prefix || strncmp(key, f->prefix, len) != 0 || !bh_sha256_parse(key + len, hash))
        return 0;
    struct unnamed *u =
        bsearch(hash, f->guard->items, f->guard->count, sizeof *f->guard->items, bh_sha256_compare);
    if (u && u->size == info->size)
        seen(u);
    return 0;
}

/* Those that were seen long ago, if they are there still: a flush that took long, or the first
 * after a long time. What is gone comes back from what is here. */
static int look_for_stale(struct bh_files *f, const struct bh_call *call, struct bh_error *err)
{
    struct files_guard *g = f->guard;
    const struct bh_list_request req = {.prefix = f->prefix};
    size_t stale = 0;
    int rc = 0;
    for (size_t i = 0; i < g->count; i++)
        stale += is_stale(f, &g->items[i]);
    if (stale > HEADS_MAX)
        rc = bh_bucket_list(f->bucket, &req, note_there, f, call, err);
    for (size_t i = 0; rc == 0 && stale && i < g->count; i++) {
        struct unnamed *u = &g->items[i];
        struct bh_object_info info;
        char key[BH_KEY_MAX + 1];
        if (!is_stale(f, u))
            continue;
        object_key(f, u, key);
        rc = stale > HEADS_MAX ? ENOENT : bh_bucket_head(f->bucket, key, &info, call, err);
        if (rc == 0 && info.size == u->size)
            seen(u);
        else if (rc == 0 || rc == ENOENT)
            rc = renew(f, u, call, err);
    }
    return rc;
}

/* Until gc has deleted what it is about to delete, or may not any more. */
static int wait_for_gc(struct bh_files *f, const struct unnamed *u, const struct bh_call *call,
                       struct bh_error *err)
{
    struct files_guard *g = f->guard;
    const char *what = "waiting for gc, which deletes blobs just now";
    const int64_t end = bh_mono_ms() + 2 * BH_GC_DOOM_MS;
    int64_t now, wait_ms;
    for (;;) {
        int rc = bh_bucket_server_time(f->bucket, &now, call, err);
        if (rc == 0)
            rc = bh_gc_guard_look(&g->list, f->bucket, g->prefix, call, err);
        if (rc == 0)
            rc = bh_call_check(call, what, err);
        if (rc || !bh_gc_guard_has(g->list, u->hash, now, &wait_ms) || wait_ms == 0)
            return rc;
        if (bh_mono_ms() > end)
            return bh_fail(err, EBUSY,
                           "gc has been about to delete a content that is wanted again for long: "
                           "flush again");
        rc = bh_call_sleep(call, wait_ms < POLL_MS ? wait_ms : POLL_MS, what, err);
        if (rc)
            return rc;
    }
}

/* *again: something was written, so that the list is to be looked at once more. */
static int renew_condemned(struct bh_files *f, bool *again, const struct bh_call *call,
                           struct bh_error *err)
{
    struct files_guard *g = f->guard;
    int64_t now, wait_ms;
    *again = false;
    int rc = bh_bucket_server_time(f->bucket, &now, call, err);
    for (size_t i = 0; rc == 0 && i < g->count; i++) {
        struct unnamed *u = &g->items[i];
        if (!is_of_concern(f, u) || !bh_gc_guard_has(g->list, u->hash, now, &wait_ms) ||
            (u->renewed && !wait_ms))
            continue;
        rc = wait_ms ? wait_for_gc(f, u, call, err) : 0;
        if (rc == 0)
            rc = renew(f, u, call, err);
        *again = true;
    }
    return rc;
}

int files_guard_check(struct bh_files *f, const struct files_touched *touched, size_t count,
                      const struct bh_call *call, struct bh_error *err)
{
    bool again = true;
    if (!count && (!f->guard || !f->guard->count))
        return 0;
    int rc = open_guard(f, err);
    struct files_guard *g = f->guard;
    if (rc == 0)
        rc = add_touched(f, touched, count, err);
    if (rc || g->count == 0)
        return rc;
    rc = look_for_stale(f, call, err);
    for (int round = 0; rc == 0 && again; round++) {
        if (round == ROUNDS_MAX)
            return bh_fail(err, EBUSY, "gc condemns contents faster than they can be written");
        rc = bh_gc_guard_look(&g->list, f->bucket, g->prefix, call, err);
        again = rc == 0 && !bh_gc_guard_is_empty(g->list);
        if (again)
            rc = renew_condemned(f, &again, call, err);
    }
    return rc;
}

static bool is_unflushed(struct bh_files *f)
{
    return files_is_changed(f) || bh_store_is_dirty(f->live->store) ||
           bh_store_is_dirty(f->live->names);
}

int files_guard_keep(struct bh_files *f, const struct bh_call *call, struct bh_error *err)
{
    int rc = open_guard(f, err);
    if (rc || bh_boot_ms() - f->guard->kept_ms < fresh_ms(f))
        return rc;
    /* What was named before a crash is in no list yet; if all was flushed there is no such thing.
     */
    if (is_unflushed(f))
        rc = files_reconcile(f, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&f->mutex);
    size_t count = f->touched_count; /* the next flush takes them */
    BH_FREE struct files_touched *touched = malloc(count * sizeof *touched + 1);
    if (touched && count)
        memcpy(touched, f->touched, count * sizeof *touched);
    pthread_mutex_unlock(&f->mutex);
    rc = touched ? files_guard_check(f, touched, count, call, err) : no_memory(err);
    if (rc == 0)
        f->guard->kept_ms = bh_boot_ms();
    return rc;
}

void files_guard_named(struct bh_files *f)
{
    struct files_guard *g = f->guard;
    if (!g)
        return;
    g->count = 0;
}

void files_guard_free(struct bh_files *f)
{
    struct files_guard *g = f->guard;
    if (!g)
        return;
    bh_gc_guard_free(g->list);
    free(g->items);
    free(g->prefix);
    free(g);
    f->guard = NULL;
}
