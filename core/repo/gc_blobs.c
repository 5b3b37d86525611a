/* Blobs that nothing names any more. Like packs they go in two runs, a grace apart: condemned, then
 * deleted. But a blob is called by its content, so who writes that content again cannot take
 * another name for it: he finds the object there and needs not send it. What keeps that safe beside
 * a gc is that both write before they look:
 *
 *   - gc publishes which blobs it will delete within the next BH_GC_DOOM_MS ("doomed"), lists the
 *     objects again, and deletes, for half of that time, those that were not written since;
 *   - a writer, once his objects are there and before his head names them, reads the list (the
 *     flush, core/store/files_guard.c). What is on it he writes anew, which gives the object a new
 *     time, and looks again; what is doomed just now he waits for, first.
 *
 * So either gc sees the new time, or the writer sees that it is doomed. What is not on the list
 * stays for a grace at least, as condemning it and deleting it are a grace apart; and what was
 * deleted stays on the list for a grace, so that who saw the object before that learns of it. What
 * is not named within a quarter of the grace is looked at again (flush). What is younger than the
 * grace is never condemned: it may be about to be named.
 *
 * What is needed: what kept snapshots name, those dropped lately among them that could still be put
 * back; what the live database and its files name; what plain objects name, whoever wrote them. If
 * any of that cannot be read, or there may be another database that names blobs, nothing is
 * deleted. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "repo/blob_refs.h"
#include "repo/gc_private.h"
#include "repo/plain_private.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/parse.h"

#define DELETE_STEP 500u
#define LIST_MAX    500000u /* condemned at once; the rest is left to a later run */
#define TOLD_MAX    100u    /* references without a blob that are told by name */
#define FOREIGN_MAX 1000u   /* objects that may be databases, and are looked at */

struct tally {
    uint64_t count, bytes;
};

struct victim {
    uint8_t hash[BH_SHA256_LEN];
    uint64_t size;
    int64_t mtime_ms;
    bool sure; /* it was not written since */
};

struct run {
    struct gc_sweep *s;
    const struct bh_gc_blobs *o;
    struct bh_blob_refs *refs;
    char *plain; /* "KEY" */
    char **keys; /* of plain objects */
    size_t key_count, key_room;
    char **foreign; /* that may be databases */
    size_t foreign_count, foreign_room;
    struct gc_blob_list old, list;
    struct victim *doomed;
    size_t doomed_count, doomed_room;
    struct tally live, young, condemned, waiting, saved, doom, deleted, left;
    uint32_t optional; /* sources from here on may name what is not there */
    size_t dangling;
    bool changed;
    char why_not[BH_ERROR_TEXT_MAX]; /* "": nothing is against it */
};

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory looking for blobs that are not in use");
}

static void refuse(struct run *r, const char *what, const char *why)
{
    if (!r->why_not[0])
        snprintf(r->why_not, sizeof r->why_not, "%.300s %s", what, why);
}

static int add_key(char ***keys, size_t *count, size_t *room, const char *key, struct bh_error *err)
{
    char *copy = bh_grow(*keys, *room, *count) ? strdup(key) : NULL;
    if (!copy)
        return no_memory(err);
    (*keys)[(*count)++] = copy;
    return 0;
}

/* --- what is needed --- */

static int mark_snapshots(struct run *r, bool dropped, struct bh_error *err)
{
    const struct gc_mark *m = r->s->mark;
    for (size_t i = 0; i < m->snapshot_count; i++) {
        const struct gc_snapshot *s = &m->snapshots[i];
        char what[BH_SNAPSHOT_ID_MAX + 16];
        struct bh_error why = {0};
        if (s->dropped != dropped)
            continue;
        snprintf(what, sizeof what, "snapshot %s", s->id);
        int rc = bh_blob_refs_snapshot(r->refs, &s->db, &s->names, what, &why);
        if (rc == EPROTO)
            refuse(r, why.text, "");
        else if (rc && !(dropped && (rc == EIO || rc == ENOENT))) /* it may be half gone */
            return bh_fail(err, rc, "%s", why.text);
    }
    return 0;
}

/* One of ours is a snapshot that was read already, unless that is kept no longer. */
static int mark_plain(struct run *r, const char *key, struct bh_error *err)
{
    struct bh_object_info info;
    struct bh_error why = {0};
    int rc = bh_bucket_head(r->s->bucket, key, &info, r->s->call, err);
    if (rc)
        return rc == ENOENT ? 0 : rc;
    const char *id = bh_meta_get(&info.meta, META_SNAPSHOT);
    if (id && bh_is_snapshot_id(id) && gc_set_get(&r->s->mark->records, gc_record_key(id)))
        return 0;
    rc = bh_blob_refs_plain(r->refs, key, &why);
    if (rc == EPROTO || rc == EIO) {
        refuse(r, why.text, "(so it is not known which blobs it needs)");
        return 0;
    }
    return rc == 0 || rc == ENOENT ? 0 : bh_fail(err, rc, "%s", why.text);
}

static bool is_plain(const struct run *r, const char *key)
{
    size_t len = strlen(r->plain);
    return !strncmp(key, r->plain, len) && gc_is_plain_tail(key + len);
}

static int note_plain(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                      struct bh_error *err)
{
    struct run *r = arg;
    (void)info;
    return !is_prefix && is_plain(r, key) ? add_key(&r->keys, &r->key_count, &r->key_room, key, err)
                                          : 0;
}

static int mark_plains(struct run *r, struct bh_error *err)
{
    const struct bh_list_request req = {.prefix = r->plain, .delimiter = "/"};
    int rc = bh_bucket_list(r->s->bucket, &req, note_plain, r, r->s->call, err);
    for (size_t i = 0; rc == 0 && i < r->key_count; i++)
        rc = mark_plain(r, r->keys[i], err);
    return rc;
}

static int note_live(void *arg, const uint8_t hash[BH_SHA256_LEN])
{
    struct run *r = arg;
    return bh_blob_refs_add(r->refs, hash);
}

static int mark(struct run *r, struct bh_error *err)
{
    int rc = mark_snapshots(r, false, err);
    if (rc == 0)
        rc = mark_plains(r, err);
    r->optional = bh_blob_refs_sources(r->refs);
    if (rc == 0)
        rc = mark_snapshots(r, true, err);
    if (rc == 0 && r->o->live)
        rc = r->o->live(r->o->arg, note_live, r, err);
    return rc;
}

/* --- what is there --- */

static void count(struct tally *t, uint64_t bytes)
{
    t->count++;
    t->bytes += bytes;
}

static int put_on_list(struct run *r, const struct gc_blob *blob, struct bh_error *err)
{
    if (!bh_grow(r->list.items, r->list.room, r->list.count))
        return no_memory(err);
    r->list.items[r->list.count++] = *blob;
    return 0;
}

/* One that nothing names. */
static int judge(struct run *r, const uint8_t *hash, const struct bh_object_info *info,
                 struct gc_blob *was, struct bh_error *err)
{
    const struct gc_sweep *s = r->s;
    struct gc_blob blob = {.condemned_ms = was ? was->condemned_ms : -1,
                           .doomed_ms = was ? was->doomed_ms : 0};
    memcpy(blob.hash, hash, sizeof blob.hash);
    if (info->mtime_ms + s->grace_ms > s->begin_ms) { /* also one that was written again */
        count(&r->young, info->size);
        return 0;
    }
    if (!was && r->condemned.count + r->old.count >= LIST_MAX) {
        count(&r->left, info->size);
        return 0;
    }
    bool due = was && was->condemned_ms + s->grace_ms <= s->begin_ms;
    count(!was ? &r->condemned : due ? &r->doom : &r->waiting, info->size);
    if (due) {
        if (!bh_grow(r->doomed, r->doomed_room, r->doomed_count))
            return no_memory(err);
        struct victim *v = &r->doomed[r->doomed_count++];
        *v = (struct victim){.size = info->size, .mtime_ms = info->mtime_ms};
        memcpy(v->hash, hash, sizeof v->hash);
    }
    if (was)
        was->listed = true;
    return put_on_list(r, &blob, err);
}

static int take_blob(struct run *r, const uint8_t *hash, const struct bh_object_info *info,
                     struct bh_error *err)
{
    struct gc_blob *was = gc_blob_list_find(&r->old, hash);
    struct bh_blob_ref *ref = bh_blob_refs_find(r->refs, hash);
    if (was)
        was->seen = true;
    if (!ref)
        return judge(r, hash, info, was, err);
    ref->mark = 1;
    count(&r->live, info->size);
    if (was)
        count(&r->saved, info->size);
    return 0;
}

/* Another database, by its history; or something that may be one. */
static int take_foreign(struct run *r, const char *key, const struct bh_object_info *info,
                        struct bh_error *err)
{
    const char *rest = key + strlen(r->o->within);
    if (!strncmp(key, r->s->prefix, strlen(r->s->prefix)) || !strncmp(rest, ".bhfs-", 6) ||
        !strncmp(key, r->o->prefix, strlen(r->o->prefix)) || is_plain(r, key))
        return 0;
    if (strstr(rest, ".bhfs/")) {
        refuse(r, key, "is of another database in this bucket, which may name blobs, too");
        return 0;
    }
    if (info->size < 512 || info->size % 512 != 0)
        return 0;
    if (r->foreign_count == FOREIGN_MAX) {
        refuse(r, "there are", "too many objects in this bucket that may be other databases");
        return 0;
    }
    return add_key(&r->foreign, &r->foreign_count, &r->foreign_room, key, err);
}

static int take(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                struct bh_error *err)
{
    struct run *r = arg;
    uint8_t hash[BH_SHA256_LEN];
    if (is_prefix)
        return 0;
    return bh_blob_refs_parse(key, r->o->prefix, hash) ? take_blob(r, hash, info, err)
                                                       : take_foreign(r, key, info, err);
}

static int take_head(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct bh_strbuf *head = arg;
    bh_strbuf_add(head, data, len);
    return head->failed ? no_memory(err) : 0;
}

static int look_at_foreign(struct run *r, struct bh_error *err)
{
    static const char magic[16] = "SQLite format 3"; /* with its NUL */
    for (size_t i = 0; i < r->foreign_count && !r->why_not[0]; i++) {
        BH_STRBUF head = {0};
        int rc = bh_bucket_get(r->s->bucket, r->foreign[i], 0, sizeof magic, take_head, &head, NULL,
                               r->s->call, err);
        if (rc && rc != ENOENT)
            return rc;
        if (rc == 0 && head.len >= sizeof magic && !memcmp(head.data, magic, sizeof magic))
            refuse(r, r->foreign[i],
                   "is another database in this bucket, which may name blobs, too");
    }
    return 0;
}

/* What was deleted stays on the list for a grace, and what another gc may be deleting just now for
 * as long as it may: whoever names it must hear of that, whatever else has become of it. */
static int keep_deleted(struct run *r, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < r->old.count; i++) {
        const struct gc_blob *was = &r->old.items[i];
        int64_t stays = was->seen ? BH_GC_DOOM_MS : r->s->grace_ms;
        if (!was->listed && was->doomed_ms && was->doomed_ms + stays > r->s->begin_ms)
            rc = put_on_list(r, was, err);
    }
    return rc;
}

static int look(struct run *r, struct bh_error *err)
{
    const struct bh_list_request all = {.prefix = r->o->within};
    int rc = bh_bucket_list(r->s->bucket, &all, take, r, r->s->call, err);
    if (rc == 0)
        rc = look_at_foreign(r, err);
    if (rc == 0)
        rc = keep_deleted(r, err);
    r->changed =
        r->condemned.count || r->doom.count || r->old.damaged || r->list.count != r->old.count;
    return rc;
}

/* --- what becomes of it --- */

static int publish(struct run *r, size_t from, struct bh_error *err)
{
    int64_t now;
    int rc = bh_bucket_server_time(r->s->bucket, &now, r->s->call, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < r->list.count; i++)
        if (r->list.items[i].condemned_ms < 0)
            r->list.items[i].condemned_ms = now;
    for (size_t i = from; i < r->doomed_count; i++) {
        struct gc_blob *blob = gc_blob_list_find(&r->list, r->doomed[i].hash);
        if (blob)
            blob->doomed_ms = now;
    }
    return gc_blob_list_write(r->s->bucket, r->s->prefix, &r->list, r->s->call, err);
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, BH_SHA256_LEN); /* the hash comes first */
}

static int look_again(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                      struct bh_error *err)
{
    struct run *r = arg;
    uint8_t hash[BH_SHA256_LEN];
    (void)err;
    if (is_prefix || !bh_blob_refs_parse(key, r->o->prefix, hash))
        return 0;
    struct victim *v = bsearch(hash, r->doomed, r->doomed_count, sizeof *r->doomed, compare);
    if (v)
        v->sure = v->mtime_ms == info->mtime_ms;
    return 0;
}

/* Those of n that are sure. */
static int delete_some(struct run *r, const struct victim *v, size_t n, const struct bh_call *call,
                       struct bh_error *err)
{
    const size_t room = strlen(r->o->prefix) + BH_SHA256_HEX;
    const char *keys[DELETE_STEP];
    BH_FREE char *text = malloc(n * room);
    size_t sure = 0, gone = 0;
    uint64_t bytes = 0;
    if (!text)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        char hex[BH_SHA256_HEX];
        if (!v[i].sure)
            continue;
        bh_sha256_format(v[i].hash, hex);
        snprintf(text + sure * room, room, "%s%s", r->o->prefix, hex);
        keys[sure] = text + sure * room;
        sure++;
        bytes += v[i].size;
    }
    int rc = sure ? bh_bucket_delete_many(r->s->bucket, keys, sure, &gone, call, err) : 0;
    r->deleted.count += gone;
    r->deleted.bytes += gone == sure ? bytes : sure ? bytes * gone / sure : 0;
    return rc;
}

/* One publication of what is doomed from `from` on, and as much of it as may go on that. */
static int delete_round(struct run *r, size_t *from, struct bh_error *err)
{
    const struct gc_sweep *s = r->s;
    const struct bh_list_request blobs = {.prefix = r->o->prefix};
    struct bh_call call = s->call ? *s->call : (struct bh_call){0};
    int64_t begin = bh_boot_ms(), end = bh_mono_ms() + BH_GC_DOOM_MS / 2;
    int rc = publish(r, *from, err);
    for (size_t i = *from; i < r->doomed_count; i++)
        r->doomed[i].sure = false;
    if (rc == 0)
        rc = bh_bucket_list(s->bucket, &blobs, look_again, r, s->call, err);
    if (!call.deadline_ms || call.deadline_ms > end)
        call.deadline_ms = end;
    size_t first = *from;
    while (rc == 0 && *from < r->doomed_count && bh_boot_ms() - begin < BH_GC_DOOM_MS / 2) {
        size_t left = r->doomed_count - *from, n = left < DELETE_STEP ? left : DELETE_STEP;
        rc = delete_some(r, r->doomed + *from, n, &call, err);
        if (rc == 0)
            *from += n;
    }
    if (rc == 0 && *from == first)
        rc = bh_fail(err, ETIMEDOUT, "the bucket is too slow for blobs to be deleted now");
    return rc;
}

/* Nobody needs to wait for the end of that time. */
static int say_over(struct run *r, struct bh_error *err)
{
    for (size_t i = 0; i < r->doomed_count; i++) {
        struct gc_blob *blob = gc_blob_list_find(&r->list, r->doomed[i].hash);
        if (blob)
            blob->doomed_ms -= BH_GC_DOOM_MS;
    }
    int rc = gc_blob_list_write(r->s->bucket, r->s->prefix, &r->list, r->s->call, err);
    return rc == EBUSY ? 0 : rc; /* another gc has begun; all is done, and writers wait longer */
}

static int carry_out(struct run *r, struct bh_error *err)
{
    int rc = 0;
    size_t from = 0;
    if (!r->changed)
        return 0;
    if (r->doomed_count)
        qsort(r->doomed, r->doomed_count, sizeof *r->doomed, compare);
    if (r->list.count)
        qsort(r->list.items, r->list.count, sizeof *r->list.items, compare);
    if (!r->doomed_count)
        return publish(r, 0, err);
    while (rc == 0 && from < r->doomed_count)
        rc = delete_round(r, &from, err);
    return rc ? rc : say_over(r, err);
}

/* --- the report --- */

static void say(struct bh_strbuf *out, const char *name, const struct tally *t, const char *note)
{
    char size[32];
    bh_strbuf_addf(out, "blobs %s: %" PRIu64 ", %s%s\n", name, t->count,
                   bh_format_size(t->bytes, size, sizeof size), note);
}

static void say_dangling(struct run *r, struct bh_strbuf *out)
{
    for (size_t i = 0; i < bh_blob_refs_count(r->refs); i++) {
        const struct bh_blob_ref *ref = bh_blob_refs_at(r->refs, i);
        char hex[BH_SHA256_HEX];
        if (ref->mark || ref->source >= r->optional)
            continue;
        if (++r->dangling > TOLD_MAX)
            continue;
        bh_sha256_format(ref->hash, hex);
        bh_strbuf_addf(out, "dangling: %s%s is missing: ", r->o->prefix, hex);
        bh_blob_refs_name(r->refs, ref, out);
        bh_strbuf_addf(out, "\n");
    }
    bh_strbuf_addf(out, "dangling references: %zu%s\n", r->dangling,
                   r->dangling > TOLD_MAX ? ", of which the first are told" : "");
}

static void say_found(struct run *r, bool dry_run, struct bh_strbuf *out)
{
    char grace[32], note[80];
    size_t scanned, skipped;
    bh_blob_refs_costs(r->refs, &scanned, &skipped);
    bh_format_duration(r->s->grace_ms, grace, sizeof grace);
    bh_strbuf_addf(out, "blobs named: %zu, by %zu databases (%zu more were like one of these)\n",
                   bh_blob_refs_count(r->refs), scanned, skipped);
    say_dangling(r, out);
    if (r->why_not[0]) {
        bh_strbuf_addf(out, "blobs not reclaimed: %s\n", r->why_not);
        return;
    }
    snprintf(note, sizeof note, ": deleted after %s, unless in use again", grace);
    say(out, "live", &r->live, "");
    say(out, "young", &r->young, ": not in use, but may be about to be");
    say(out, "condemned now", &r->condemned, note);
    say(out, "condemned before", &r->waiting, "");
    if (r->saved.count)
        say(out, "in use again", &r->saved, "");
    if (r->left.count)
        say(out, "left", &r->left, ": for a later run");
    say(out, dry_run ? "to be deleted" : "due", &r->doom, "");
    if (r->old.damaged)
        bh_strbuf_addf(out, "blobs: the list was damaged, the grace begins anew\n");
}

/* --- the run --- */

/* By what follows the blobs' prefix in its key. */
static bool is_blob(const char *tail)
{
    uint8_t hash[BH_SHA256_LEN];
    return bh_sha256_parse(tail, hash);
}

static int run(struct run *r, bool dry_run, struct bh_strbuf *report, struct bh_error *err)
{
    size_t aborted = 0;
    int rc = bh_blob_refs_new(&r->refs, r->s->bucket, r->s->mark->trees, r->o->prefix, false,
                              r->s->call, err);
    if (rc == 0)
        rc = gc_blob_list_read(r->s->bucket, r->s->prefix, &r->old, r->s->call, err);
    memcpy(r->list.etag, r->old.etag, sizeof r->list.etag);
    if (rc == 0)
        rc = mark(r, err);
    if (rc == 0)
        rc = look(r, err);
    if (rc)
        return rc;
    say_found(r, dry_run, report);
    if (!r->why_not[0] && !dry_run) {
        rc = carry_out(r, err);
        say(report, "deleted", &r->deleted, "");
    }
    if (rc == 0)
        rc = gc_abort_uploads(r->s, r->o->prefix, is_blob, dry_run, &aborted, err);
    bh_strbuf_addf(report, "uploads of blobs aborted: %zu\n", aborted);
    return rc;
}

static void free_keys(char **keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(keys[i]);
    free(keys);
}

int gc_blobs(struct gc_sweep *s, const struct bh_gc_blobs *o, bool dry_run,
             struct bh_strbuf *report, struct bh_error *err)
{
    struct run r = {.s = s, .o = o};
    r.plain = gc_plain_key(s);
    int rc = r.plain ? run(&r, dry_run, report, err) : no_memory(err);
    bh_blob_refs_free(r.refs);
    gc_blob_list_free(&r.old);
    gc_blob_list_free(&r.list);
    free_keys(r.keys, r.key_count);
    free_keys(r.foreign, r.foreign_count);
    free(r.doomed);
    free(r.plain);
    return rc;
}
