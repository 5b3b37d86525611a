/* Blobs of files/: that what snapshots name is there, with its size; full: and is what its name
 * says. */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "repo/blob_refs.h"
#include "repo/pack_private.h"
#include "repo/verify_private.h"
#include "util/cleanup.h"
#include "util/parse.h"

#define TOLD_MAX     100u /* by name; others are counted */
#define PARALLEL_MAX 16u

enum mark { MISSING, THERE, WRONG_SIZE, WRONG_CONTENT, UNREADABLE, MARKS };

struct blobs {
    struct verify *v;
    struct bh_blob_refs *refs;
    char *prefix;
    uint64_t bytes, unknown, told, untold;
    atomic_size_t next; /* full: of those that are hashed */
    atomic_int rc;      /* what ended that */
    pthread_mutex_t mutex;
    struct bh_error error;
};

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory while verifying");
}

/* --- what is named --- */

/* What cannot be read is damage of another kind, or found by a full run. */
static int take_snapshots(struct blobs *b, struct bh_error *err)
{
    struct verify *v = b->v;
    for (size_t i = 0; i < v->snapshot_count; i++) {
        const struct verify_snapshot *s = &v->snapshots[i];
        char what[BH_SNAPSHOT_ID_MAX + 16];
        struct bh_error why = {0};
        if (!s->wanted || s->source == FROM_SALVAGE)
            continue;
        snprintf(what, sizeof what, "snapshot %s", s->e.id);
        int rc = s->mask || s->damaged
                     ? bh_fail(&why, EIO, "it is damaged")
                     : bh_blob_refs_snapshot(b->refs, &s->e.db, &s->e.names, what, &why);
        if (rc && rc != EPROTO && !verify_is_damage(v, rc))
            return bh_fail(err, rc, "%s", why.text);
        if (rc)
            bh_strbuf_addf(&v->notes, "blobs not checked: of %s: %s\n", what, why.text);
    }
    return 0;
}

static int take_object(void *arg, const char *key, bool is_prefix,
                       const struct bh_object_info *info, struct bh_error *err)
{
    struct blobs *b = arg;
    uint8_t hash[BH_SHA256_LEN];
    (void)err;
    if (is_prefix || !bh_blob_refs_parse(key, b->prefix, hash))
        return 0;
    struct bh_blob_ref *ref = bh_blob_refs_find(b->refs, hash);
    if (!ref) {
        b->unknown++;
        return 0;
    }
    b->bytes += info->size;
    ref->mark = ref->size == UINT64_MAX || ref->size == info->size ? THERE : WRONG_SIZE;
    return 0;
}

/* --- full: contents --- */

static int hash_more(void *arg, const void *data, size_t len, struct bh_error *err)
{
    (void)err;
    bh_sha256_update(arg, data, len);
    return 0;
}

static int check_content(struct blobs *b, struct bh_blob_ref *ref, struct bh_error *err)
{
    char hex[BH_SHA256_HEX], is[BH_SHA256_HEX], key[BH_KEY_MAX + 1];
    struct bh_sha256 *h = bh_sha256_new();
    if (!h)
        return no_memory(err);
    bh_sha256_format(ref->hash, hex);
    snprintf(key, sizeof key, "%s%s", b->prefix, hex);
    int rc = bh_bucket_get(b->v->bucket, key, 0, UINT64_MAX, hash_more, h, NULL, b->v->call, err);
    if (rc == 0) {
        bh_sha256_hex(h, is);
        ref->mark = strcmp(is, hex) ? WRONG_CONTENT : THERE;
    } else if (verify_is_damage(b->v, rc)) {
        ref->mark = rc == ENOENT ? MISSING : UNREADABLE;
        rc = 0;
    }
    bh_sha256_free(h);
    return rc;
}

static void *check_main(void *arg)
{
    struct blobs *b = arg;
    struct bh_error err;
    size_t i;
    while (!atomic_load(&b->rc) &&
           (i = atomic_fetch_add(&b->next, 1)) < bh_blob_refs_count(b->refs)) {
        struct bh_blob_ref *ref = bh_blob_refs_at(b->refs, i);
        int rc = ref->mark == THERE ? check_content(b, ref, &err) : 0;
        if (!rc)
            continue;
        BH_LOCK_SCOPE(&b->mutex);
        if (!atomic_load(&b->rc))
            b->error = err;
        atomic_store(&b->rc, rc);
    }
    return NULL;
}

static int check_contents(struct blobs *b, struct bh_error *err)
{
    uint64_t parallel = b->v->h->cfg->bucket.connections;
    pthread_mutex_init(&b->mutex, NULL);
    bh_packs_team(parallel < PARALLEL_MAX ? (unsigned)parallel : PARALLEL_MAX,
                  bh_blob_refs_count(b->refs), check_main, b);
    pthread_mutex_destroy(&b->mutex);
    int rc = atomic_load(&b->rc);
    return rc ? bh_fail(err, rc, "%s", b->error.text) : 0;
}

/* --- what is wrong --- */

static int note(struct blobs *b, const struct bh_blob_ref *ref, struct bh_error *err)
{
    static const char *const causes[] = {
        [MISSING] = "it is missing",
        [WRONG_SIZE] = "its size is another one than was stored",
        [WRONG_CONTENT] = "its content is not what its name says",
        [UNREADABLE] = "it cannot be read",
    };
    char hex[BH_SHA256_HEX];
    BH_STRBUF key = {0};
    BH_STRBUF cause = {0};
    if (b->told == TOLD_MAX) {
        b->untold++;
        return 0;
    }
    bh_sha256_format(ref->hash, hex);
    bh_strbuf_addf(&key, "%s%s", b->prefix, hex);
    bh_strbuf_addf(&cause, "%s, and is needed by ", causes[ref->mark]);
    bh_blob_refs_name(b->refs, ref, &cause);
    struct verify_damage *d =
        key.failed || cause.failed ? NULL : verify_note(b->v, key.data, cause.data);
    if (!d)
        return no_memory(err);
    d->is_blob = true;
    b->told++;
    return 0;
}

static int conclude(struct blobs *b, struct bh_error *err)
{
    struct verify *v = b->v;
    char size[32];
    const size_t count = bh_blob_refs_count(b->refs);
    uint64_t wrong[MARKS] = {0}, elsewhere = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const struct bh_blob_ref *ref = bh_blob_refs_at(b->refs, i);
        bool is_elsewhere = ref->mark == MISSING && ref->source == UINT32_MAX;
        elsewhere += is_elsewhere;
        if (is_elsewhere || ref->mark == THERE)
            continue;
        wrong[ref->mark]++;
        rc = note(b, ref, err);
    }
    bh_strbuf_addf(&v->notes,
                   "blobs: %zu named, %s, %" PRIu64 " missing, %" PRIu64 " damaged\nblobs that "
                   "nothing names: %" PRIu64 "\n",
                   count - (size_t)elsewhere, bh_format_size(b->bytes, size, sizeof size),
                   wrong[MISSING], wrong[WRONG_SIZE] + wrong[WRONG_CONTENT] + wrong[UNREADABLE],
                   b->unknown);
    if (b->untold)
        bh_strbuf_addf(&v->notes, "blobs missing or damaged that are not told above: %" PRIu64 "\n",
                       b->untold);
    return rc;
}

int verify_blobs(struct verify *v, struct bh_error *err)
{
    const struct bh_config *cfg = v->h->cfg;
    struct blobs b = {.v = v};
    if (asprintf(&b.prefix, "%s%s", cfg->bucket.prefix, cfg->files.prefix) < 0)
        return no_memory(err);
    const struct bh_list_request req = {.prefix = b.prefix};
    int rc = bh_blob_refs_new(&b.refs, v->bucket, v->trees, b.prefix, true, v->call, err);
    if (rc == 0)
        rc = take_snapshots(&b, err);
    if (rc == 0)
        rc = bh_bucket_list(v->bucket, &req, take_object, &b, v->call, err);
    if (rc == 0 && v->full)
        rc = check_contents(&b, err);
    if (rc == 0)
        rc = conclude(&b, err);
    bh_blob_refs_free(b.refs);
    free(b.prefix);
    return rc;
}
