/* What is in the bucket, and what becomes of it. */
#include "repo/gc_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define DELETE_STEP 500u
/* A tombstone is kept for whoever deletes it by a lease of so long, of which half is used. */
#define TOMBSTONE_LEASE_MS 60000

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory looking for what is not in use");
}

void gc_sweep_free(struct gc_sweep *s)
{
    gc_set_free(&s->to_list);
    free(s->doomed);
}

/* --- listing --- */

static void count(struct gc_tally *t, const struct gc_key *key, uint64_t bytes)
{
    t->bytes += bytes;
    switch (gc_key_kind(key)) {
    case GC_PACK:
        t->packs++;
        break;
    case GC_MOVED:
        t->moved++;
        break;
    default:
        t->records++;
    }
}

static int doom(struct gc_sweep *s, const struct gc_key *key, struct bh_error *err)
{
    if (!bh_grow(s->doomed, s->doomed_room, s->doomed_count))
        return no_memory(err);
    s->doomed[s->doomed_count++] = *key;
    return 0;
}

/* One that is not needed. */
static int judge(struct gc_sweep *s, const struct gc_key *key, uint64_t size, int64_t mtime_ms,
                 struct bh_error *err)
{
    const int64_t *since = gc_set_get(&s->list->items, *key);
    int64_t when = since ? *since : -1;
    bool old = (since ? *since : mtime_ms) + s->grace_ms <= s->begin_ms;
    if (!since && !old) {
        count(&s->young, key, size);
        return 0;
    }
    count(!since ? &s->condemned : old ? &s->doom : &s->waiting, key, size);
    s->changed = s->changed || !since;
    if (since && old && doom(s, key, err) != 0)
        return ENOMEM;
    return gc_set_add(&s->to_list, *key, when) == ENOMEM ? no_memory(err) : 0;
}

static int take(struct gc_sweep *s, bool needed, const struct gc_key *key, uint64_t size,
                int64_t mtime_ms, struct bh_error *err)
{
    if (!needed)
        return judge(s, key, size, mtime_ms, err);
    if (gc_set_get(&s->list->items, *key)) {
        count(&s->saved, key, size);
        s->changed = true;
    }
    count(&s->live, key, size);
    return 0;
}

static int take_packs(struct gc_sweep *s, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < s->mark->live.count; i++) {
        const struct gc_pack *p = &s->mark->live.packs[i];
        const struct gc_key pack = gc_pack_key(p->id), record = gc_moved_key(p->id);
        if (p->present)
            rc = take(s, p->needed, &pack, p->size, p->mtime_ms, err);
        if (rc == 0 && p->has_record)
            rc = take(s, p->record_needed, &record, p->record_size, p->record_mtime_ms, err);
    }
    return rc;
}

struct listing {
    struct gc_sweep *sweep;
    size_t skip;
};

static int take_record(void *arg, const char *key, bool is_prefix,
                       const struct bh_object_info *info, struct bh_error *err)
{
    struct listing *l = arg;
    const char *id = key + l->skip;
    if (is_prefix || !bh_is_snapshot_id(id))
        return 0;
    const struct gc_key record = gc_record_key(id);
    bool needed = gc_set_get(&l->sweep->mark->records, record) != NULL;
    return take(l->sweep, needed, &record, info->size, info->mtime_ms, err);
}

static int list_under(struct gc_sweep *s, const char *name, bh_list_fn *fn, struct bh_error *err)
{
    char prefix[BH_KEY_MAX + 1];
    if (snprintf(prefix, sizeof prefix, "%s%s", s->prefix, name) > BH_KEY_MAX)
        return bh_fail(err, ENAMETOOLONG, "the key %.60s... is too long", prefix);
    struct listing l = {.sweep = s, .skip = strlen(prefix)};
    const struct bh_list_request req = {.prefix = prefix, .delimiter = "/"};
    return bh_bucket_list(s->bucket, &req, fn, &l, s->call, err);
}

/* What can be salvaged may be in what nothing reaches. */
static int find_missing(struct gc_sweep *s, struct bh_error *err)
{
    const struct gc_pack *missing = NULL;
    char when[32];
    size_t n = 0;
    for (size_t i = 0; i < s->mark->live.count; i++) {
        const struct gc_pack *p = &s->mark->live.packs[i];
        if (!p->needed || p->present)
            continue;
        missing = p;
        n++;
    }
    if (!missing)
        return 0;
    return bh_fail(err, EIO,
                   "%zu packs that snapshots need are missing, %016" PRIx64
                   " among them (the snapshot of %s needs it%s%s)",
                   n, missing->id, bh_format_time(missing->time_ms, when, sizeof when),
                   missing->why ? "; " : "", missing->why ? missing->why : "");
}

int gc_sweep_list(struct gc_sweep *s, struct bh_error *err)
{
    int rc = gc_live_list(s->mark, err);
    if (rc == 0)
        rc = gc_live_settle(s->mark, err);
    if (rc == 0)
        rc = find_missing(s, err);
    if (rc == 0)
        rc = take_packs(s, err);
    return rc ? rc : list_under(s, "snapshots/", take_record, err);
}

/* --- deleting --- */

/* Records first: a record without packs would mislead who salvages. */
static int compare(const void *a, const void *b)
{
    const struct gc_key *x = a, *y = b;
    if (gc_key_kind(x) != gc_key_kind(y)) {
        if (gc_key_kind(x) == GC_RECORD || gc_key_kind(y) == GC_RECORD)
            return gc_key_kind(x) == GC_RECORD ? -1 : 1;
        return gc_key_kind(x) < gc_key_kind(y) ? -1 : 1;
    }
    return x->a < y->a ? -1 : x->a > y->a;
}

static int delete_some(struct gc_sweep *s, const struct gc_key *doomed, size_t n, size_t *deleted,
                       struct bh_error *err)
{
    const size_t room = strlen(s->prefix) + GC_NAME_MAX;
    const char *keys[DELETE_STEP];
    BH_FREE char *text = malloc(n * room);
    if (!text)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        char name[GC_NAME_MAX];
        gc_key_name(&doomed[i], name);
        snprintf(text + i * room, room, "%s%s", s->prefix, name);
        keys[i] = text + i * room;
    }
    return bh_bucket_delete_many(s->bucket, keys, n, deleted, s->call, err);
}

int gc_sweep_delete(struct gc_sweep *s, size_t *deleted, struct bh_error *err)
{
    int rc = 0;
    *deleted = 0;
    if (s->doomed_count)
        qsort(s->doomed, s->doomed_count, sizeof *s->doomed, compare);
    for (size_t i = 0; rc == 0 && i < s->doomed_count; i += DELETE_STEP) {
        size_t n = s->doomed_count - i < DELETE_STEP ? s->doomed_count - i : DELETE_STEP, gone = 0;
        rc = delete_some(s, s->doomed + i, n, &gone, err);
        *deleted += gone;
    }
    return rc;
}

/* --- uploads that nobody ended --- */

struct upload {
    char *key, *id;
};
struct uploads {
    const struct gc_sweep *sweep;
    size_t prefix_len;
    bool (*is_ours)(const char *tail);
    struct upload *all;
    size_t count, room;
};

static int take_upload(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                       struct bh_error *err)
{
    struct uploads *u = arg;
    if (started_ms + u->sweep->grace_ms > u->sweep->begin_ms)
        return 0;
    if (!u->is_ours(key + u->prefix_len))
        return 0;
    if (!bh_grow(u->all, u->room, u->count))
        return no_memory(err);
    struct upload *to = &u->all[u->count++];
    *to = (struct upload){.key = strdup(key), .id = strdup(upload_id)};
    return to->key && to->id ? 0 : no_memory(err);
}

int gc_abort_uploads(struct gc_sweep *s, const char *prefix, bool (*is_ours)(const char *tail),
                     bool dry_run, size_t *aborted, struct bh_error *err)
{
    struct uploads u = {.sweep = s, .prefix_len = strlen(prefix), .is_ours = is_ours};
    *aborted = 0;
    int rc = bh_bucket_mp_list(s->bucket, prefix, take_upload, &u, s->call, err);
    if (rc == ENOTSUP)
        rc = 0;
    for (size_t i = 0; rc == 0 && i < u.count; i++) {
        if (!dry_run)
            rc = bh_bucket_mp_abort(s->bucket, u.all[i].key, u.all[i].id, s->call, err);
        rc = rc == ENOENT ? 0 : rc; /* ended meanwhile */
        *aborted += rc == 0;
    }
    for (size_t i = 0; i < u.count; i++) {
        free(u.all[i].key);
        free(u.all[i].id);
    }
    free(u.all);
    return rc;
}

char *gc_plain_key(const struct gc_sweep *s)
{
    return strndup(s->prefix, strlen(s->prefix) - strlen(".bhfs/"));
}

bool gc_is_plain_tail(const char *tail)
{
    return !tail[0] || !strcmp(tail, ".prev") || !strncmp(tail, ".branch.", 8);
}

/* Of the history or a plain object. */
static bool is_ours(const char *tail)
{
    return gc_is_plain_tail(tail) || !strncmp(tail, ".bhfs/", 6);
}

int gc_sweep_uploads(struct gc_sweep *s, bool dry_run, size_t *aborted, struct bh_error *err)
{
    BH_FREE char *plain = gc_plain_key(s);
    return plain ? gc_abort_uploads(s, plain, is_ours, dry_run, aborted, err) : no_memory(err);
}

/* --- tombstones --- */

/* A deletion has no condition, and the name may be taken anew at any moment. So the tombstone gets
 * a lease first, by compare-and-swap: who makes a branch of that name waits until it is over. */
int gc_remove_tombstone(struct gc_sweep *s, const struct gc_anchor *tombstone, bool *removed,
                        struct bh_error *err)
{
    char etag[BH_ETAG_MAX], key[BH_KEY_MAX + 1], writer[BH_PUT_ID_SIZE];
    struct bh_head head = tombstone->head;
    int64_t begin = bh_boot_ms(), now;
    *removed = false;
    memcpy(etag, tombstone->etag, sizeof etag);
    int rc = bh_bucket_server_time(s->bucket, &now, s->call, err);
    if (rc)
        return rc;
    bh_put_id(writer);
    bh_lease_take(&head, writer, now, TOMBSTONE_LEASE_MS);
    head.sequence++;
    head.newest = (struct bh_index_entry){0}; /* a root no more, if this run ends here */
    head.index = (struct bh_root){0};
    rc = bh_head_put(s->bucket, s->prefix, &head, etag, NULL, NULL, s->call, err);
    if (rc == ESTALE || bh_boot_ms() - begin > TOMBSTONE_LEASE_MS / 2)
        return 0;
    if (rc)
        return rc;
    snprintf(key, sizeof key, "%sbranches/%s", s->prefix, head.branch);
    rc = bh_bucket_delete(s->bucket, key, s->call, err);
    *removed = rc == 0;
    return rc;
}
