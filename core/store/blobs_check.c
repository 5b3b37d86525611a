/* Whether the parts of a large blob are what its name says. What there is from the beginning on is
 * hashed while the rest comes, so that who reads the last of it does not wait for all of it to be
 * hashed. */
#include "store/blobs_private.h"

#include <errno.h>
#include <string.h>

#include "util/cleanup.h"

#define AHEAD_MIN (((uint64_t)8 << 20) / BLOBS_UNIT)
#define AHEAD_MAX (((uint64_t)64 << 20) / BLOBS_UNIT) /* of one piece of work */

/* --- what there is from the beginning on --- */

bool bh_blobs_may_become_whole(const struct bh_blobs *b, const struct blobs_content *c)
{
    return !c->parts->lost && !c->bad && !(b->cache_max && c->size > b->cache_max);
}

/* With one or two threads these fetch. */
static bool may_hash(const struct bh_blobs *b, const struct blobs_content *c)
{
    const struct blobs_parts *p = c->parts;
    return !p->hash_at_end && !p->hashing && !p->checking && c->opened > 0 &&
           c->entry->kind == KIND_PARTS && b->o.parallel > 2 && bh_blobs_may_become_whole(b, c);
}

void bh_blobs_hash_ahead(struct bh_blobs *b, struct blobs_content *c)
{
    struct blobs_parts *p = c->parts;
    while (p->prefix < p->units && blobs_bit(p->have, p->prefix))
        p->prefix++;
    if (p->prefix >= p->hashed + AHEAD_MIN && p->here < p->units && may_hash(b, c))
        p->hashing = bh_blobs_fetch(b, c, FETCH_HASH_PARTS, 0, 0, true) != NULL;
}

/* Takes the hash as far as it goes: the caller's, until it is kept again. With the mutex. */
static struct bh_sha256 *take_hash(struct blobs_parts *p, uint64_t *from)
{
    struct bh_sha256 *hash = p->hash;
    *from = 0;
    p->hash = NULL;
    if (hash && !p->lost) {
        *from = p->hashed * BLOBS_UNIT;
        return hash;
    }
    bh_sha256_free(hash);
    p->hashed = 0;
    return bh_sha256_new();
}

int bh_blobs_hash_parts(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err)
{
    struct blobs_content *c = f->content;
    struct blobs_parts *p = c->parts;
    struct blobs_get ask = {.b = b, .fetch = f};
    char name[BLOBS_NAME];
    uint64_t from;
    bh_blobs_name(name, KIND_PARTS, c->entry->hash);
    pthread_mutex_lock(&b->mutex);
    struct bh_sha256 *hash = take_hash(p, &from);
    uint64_t end = p->prefix;
    pthread_mutex_unlock(&b->mutex);
    if (end > from / BLOBS_UNIT + AHEAD_MAX)
        end = from / BLOBS_UNIT + AHEAD_MAX;
    if (end == p->units) /* the last one may be shorter: left to the check */
        end--;
    int rc = bh_blobs_hash_on(hash, p->file.fd, from, end * BLOBS_UNIT, bh_blobs_fetch_again, &ask,
                              name, err);
    BH_LOCK_SCOPE(&b->mutex);
    bool good = rc == 0 && !p->lost;
    if (!good)
        bh_sha256_free(hash);
    p->hash = good ? hash : NULL;
    p->hashed = good ? end : 0;
    p->hash_at_end = rc && rc != ECANCELED;
    return rc == ECANCELED ? rc : 0; /* what is wrong the check finds, and says */
}

void bh_blobs_hashed(struct bh_blobs *b, struct blobs_content *c)
{
    c->parts->hashing = false;
    if (atomic_load(&b->stopped))
        return;
    bh_blobs_hash_ahead(b, c);
    bh_blobs_check_if_all(b, c);
}

/* --- all is here --- */

/* The parts are not what their name says, or cannot be read: they go. With naming. */
static int reject(struct bh_blobs *b, struct blobs_content *c, const struct bh_error *why)
{
    if (c->entry->kind == KIND_PARTS)
        bh_blobs_unlink(b, KIND_PARTS, c->entry->hash);
    BH_LOCK_SCOPE(&b->mutex);
    bh_blobs_bad(c, why);
    if (c->entry->kind == KIND_PARTS)
        bh_blobs_become(b, c->entry, KIND_NONE, 0);
    return why->code;
}

static int keep_parts(struct bh_blobs *b, struct blobs_content *c, struct bh_error *err)
{
    char from[BLOBS_NAME], to[BLOBS_NAME];
    if (c->entry->kind != KIND_PARTS)
        return 0;
    bh_blobs_name(from, KIND_PARTS, c->entry->hash);
    bh_blobs_name(to, KIND_CACHED, c->entry->hash);
    int rc = bh_disk_rename(b->o.disk, from, to);
    if (rc)
        return bh_fail(err, rc, "%s in %s cannot be renamed: %s", from, bh_disk_path(b->o.disk),
                       strerror(rc));
    pthread_mutex_lock(&b->mutex);
    bh_blobs_become(b, c->entry, KIND_CACHED, c->size);
    pthread_mutex_unlock(&b->mutex);
    bh_blobs_unlink(b, KIND_PARTS, c->entry->hash); /* the map alone is left */
    return bh_blobs_open_local(b, c, err);
}

/* With naming, and the parts' file_lock: no unit goes between the look at `all` and the end. */
static int checked_parts(struct bh_blobs *b, struct blobs_content *c, unsigned lost,
                         const uint8_t hash[BH_SHA256_LEN], int rc, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    pthread_mutex_lock(&b->mutex);
    bool all = c->parts->here == c->parts->units && c->parts->lost == lost;
    pthread_mutex_unlock(&b->mutex);
    bh_blobs_content_key(b, c, key);
    if (rc == ECANCELED || rc == ENOMEM || !all)
        return rc;
    if (!rc && (rc = bh_blobs_compare(c, key, hash, err)) != 0)
        bh_blobs_note_bad(b, c);
    return rc ? reject(b, c, err) : keep_parts(b, c, err);
}

int bh_blobs_check_parts(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err)
{
    struct blobs_content *c = f->content;
    struct blobs_get ask = {.b = b, .fetch = f};
    uint8_t hash[BH_SHA256_LEN] = {0};
    char name[BLOBS_NAME];
    bh_blobs_name(name, KIND_PARTS, c->entry->hash);
    pthread_mutex_lock(&b->mutex);
    unsigned lost = c->parts->lost;
    uint64_t from;
    struct bh_sha256 *h = take_hash(c->parts, &from);
    pthread_mutex_unlock(&b->mutex);
    int rc = bh_blobs_hash_on(h, c->parts->file.fd, from, c->size, bh_blobs_fetch_again, &ask, name,
                              err);
    if (!rc)
        bh_sha256_raw(h, hash);
    bh_sha256_free(h);
    BH_LOCK_SCOPE(&b->naming);
    pthread_rwlock_rdlock(&c->parts->file_lock);
    rc = checked_parts(b, c, lost, hash, rc, err);
    pthread_rwlock_unlock(&c->parts->file_lock);
    BH_LOCK_SCOPE(&b->mutex); /* which comes after naming */
    c->parts->checking = false;
    return rc;
}
