/* Edits of large files: what a data file has in common with the blob that it was copied from, so
 * that the rest alone is sent; and hashes that can be resumed where content was appended. Both are
 * in memory only, of the last few: who knows nothing sends and hashes all. */
#include "store/blobs_private.h"

#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

#define EDITS_MAX 64u /* data files */
#define UNIT      ((uint64_t)1 << 20)

static uint64_t units_of(uint64_t size)
{
    return (size + UNIT - 1) / UNIT;
}

static size_t bytes_of(uint64_t size)
{
    return sizeof(struct blobs_edit) + (size_t)(units_of(size) + 7) / 8;
}

/* --- of data files; with the mutex --- */

static struct blobs_edit **place_of(struct bh_blobs *b, uint64_t number)
{
    struct blobs_edit **at = &b->edits;
    while (*at && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

static void drop(struct bh_blobs *b, struct blobs_edit **at)
{
    struct blobs_edit *e = *at;
    *at = e->next;
    atomic_fetch_sub(&b->edit_count, 1);
    free(e);
}

static void add(struct bh_blobs *b, struct blobs_edit *e)
{
    if (atomic_load(&b->edit_count) == EDITS_MAX) {
        struct blobs_edit **oldest = &b->edits;
        while ((*oldest)->next)
            oldest = &(*oldest)->next;
        drop(b, oldest);
    }
    e->next = b->edits;
    b->edits = e;
    atomic_fetch_add(&b->edit_count, 1);
}

void bh_data_is_copy(struct bh_blobs *b, uint64_t number, const uint8_t hash[BH_SHA256_LEN],
                     uint64_t size, uint64_t common)
{
    bh_data_forget(b, number);
    if (common < BLOBS_EDIT_MIN || common > size)
        return;
    struct blobs_edit *e = calloc(1, bytes_of(common));
    if (!e)
        return; /* then all of it is sent */
    e->number = number;
    memcpy(e->base, hash, sizeof e->base);
    e->base_size = size;
    e->common = common;
    BH_LOCK_SCOPE(&b->mutex);
    add(b, e);
}

void bh_data_changes(struct bh_blobs *b, uint64_t number, uint64_t offset, uint64_t end)
{
    if (atomic_load(&b->edit_count) == 0)
        return;
    BH_LOCK_SCOPE(&b->mutex);
    struct blobs_edit *e = *place_of(b, number);
    if (!e)
        return;
    if (end > e->common)
        end = e->common;
    for (uint64_t u = offset / UNIT; offset < end && u < units_of(end); u++) {
        blobs_set_bit(e->changed, u, true);
        e->differs = true;
    }
}

void bh_data_shrinks(struct bh_blobs *b, uint64_t number, uint64_t size)
{
    if (atomic_load(&b->edit_count) == 0)
        return;
    BH_LOCK_SCOPE(&b->mutex);
    struct blobs_edit **at = place_of(b, number);
    if (!*at || (*at)->common <= size)
        return;
    (*at)->common = size;
    if (size < BLOBS_EDIT_MIN)
        drop(b, at);
}

void bh_data_moved(struct bh_blobs *b, uint64_t number, uint64_t to)
{
    BH_LOCK_SCOPE(&b->mutex);
    struct blobs_edit *e = *place_of(b, number);
    if (e)
        e->number = to;
}

void bh_data_forget(struct bh_blobs *b, uint64_t number)
{
    if (atomic_load(&b->edit_count) == 0)
        return;
    BH_LOCK_SCOPE(&b->mutex);
    struct blobs_edit **at = place_of(b, number);
    if (*at)
        drop(b, at);
}

struct blobs_edit *bh_blobs_edit_of(struct bh_blobs *b, uint64_t number, uint64_t size)
{
    if (!number || size < BLOBS_EDIT_MIN || atomic_load(&b->edit_count) == 0)
        return NULL;
    BH_LOCK_SCOPE(&b->mutex);
    const struct blobs_edit *e = *place_of(b, number);
    struct blobs_edit *copy = e ? malloc(bytes_of(e->common)) : NULL;
    if (!copy)
        return NULL;
    memcpy(copy, e, bytes_of(e->common));
    copy->next = NULL;
    if (copy->common > size)
        copy->common = size;
    return copy;
}

bool bh_blobs_edit_has(const void *edit, uint64_t offset, uint64_t length)
{
    const struct blobs_edit *e = edit;
    if (offset > e->common || length > e->common - offset)
        return false;
    for (uint64_t u = offset / UNIT; u * UNIT < offset + length; u++)
        if (blobs_bit(e->changed, u))
            return false;
    return true;
}

void bh_blobs_edits_free(struct bh_blobs *b)
{
    while (b->edits)
        drop(b, &b->edits);
    for (size_t i = 0; i < BLOBS_RESUMES; i++)
        bh_sha256_free(b->resumes[i].state);
}

/* --- hashes to be resumed --- */

struct bh_sha256 *bh_blobs_resume(struct bh_blobs *b, const struct blobs_edit *e)
{
    if (!e || e->differs || e->common != e->base_size)
        return NULL;
    BH_LOCK_SCOPE(&b->mutex);
    for (size_t i = 0; i < BLOBS_RESUMES; i++) {
        const struct blobs_resume *r = &b->resumes[i];
        if (r->state && r->size == e->base_size && memcmp(r->hash, e->base, sizeof r->hash) == 0)
            return bh_sha256_copy(r->state);
    }
    return NULL;
}

void bh_blobs_keep_state(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t size,
                         struct bh_sha256 *state)
{
    BH_LOCK_SCOPE(&b->mutex);
    struct blobs_resume *r = &b->resumes[b->next_resume++ % BLOBS_RESUMES];
    bh_sha256_free(r->state);
    memcpy(r->hash, hash, sizeof r->hash);
    r->size = size;
    r->state = state;
}
