/* Reading while the disk is full: pieces of what is open are kept in memory, a few of them. */
#include "store/blobs_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define PIECE_UNITS ((uint64_t)16)        /* of a large blob at once: 1 MiB */
#define MEMORY_MAX  ((uint64_t)32 << 20)  /* of all pieces; the oldest go */
#define FULL_MS     5000                  /* after so long the disk is tried again */
#define SAY_MS      ((int64_t)60 * 60000) /* and after so long it is said again */

struct blobs_piece {
    struct blobs_piece *next; /* older */
    struct blobs_content *content;
    uint64_t at, len;
    char data[];
};

bool bh_blobs_disk_is_full(struct bh_blobs *b)
{
    return b->full_ms && bh_mono_ms() - b->full_ms < FULL_MS;
}

void bh_blobs_note_full(struct bh_blobs *b)
{
    int64_t now = bh_mono_ms();
    BH_LOCK_SCOPE(&b->mutex);
    if (!b->full_ms || now - b->full_ms > SAY_MS)
        bh_log(BH_LOG_WARNING, "the disk of %s is full: what is read is not kept there",
               bh_disk_path(b->o.disk));
    b->full_ms = now;
}

/* --- the pieces; with the mutex --- */

static void drop(struct bh_blobs *b, struct blobs_piece **at)
{
    struct blobs_piece *p = *at;
    *at = p->next;
    b->pieces_bytes -= p->len;
    free(p);
}

void bh_blobs_memory_drop(struct bh_blobs *b, const struct blobs_content *c)
{
    for (struct blobs_piece **at = &b->pieces; *at;) {
        if ((*at)->content == c)
            drop(b, at);
        else
            at = &(*at)->next;
    }
}

static void add(struct bh_blobs *b, struct blobs_piece *p)
{
    while (b->pieces && b->pieces_bytes + p->len > MEMORY_MAX) {
        struct blobs_piece **oldest = &b->pieces;
        while ((*oldest)->next)
            oldest = &(*oldest)->next;
        drop(b, oldest);
    }
    p->next = b->pieces;
    b->pieces = p;
    b->pieces_bytes += p->len;
}

/* Copies from the piece that has `offset`; returns how many bytes, 0: there is none. */
static size_t copy(const struct bh_blobs *b, const struct blobs_content *c, void *buf, size_t len,
                   uint64_t offset)
{
    const struct blobs_piece *p = b->pieces;
    while (p && (p->content != c || offset < p->at || offset >= p->at + p->len))
        p = p->next;
    if (!p)
        return 0;
    if (len > p->at + p->len - offset)
        len = (size_t)(p->at + p->len - offset);
    memcpy(buf, p->data + (offset - p->at), len);
    return len;
}

/* --- fetching --- */

struct fetching {
    struct blobs_get get;
    struct blobs_piece *piece;
};

static int take(void *arg, uint64_t at, const void *data, size_t len, struct bh_error *err)
{
    struct blobs_piece *p = ((struct fetching *)arg)->piece;
    (void)err;
    memcpy(p->data + (at - p->at), data, len);
    return 0;
}

static int check_whole(struct fetching *f, struct bh_error *err)
{
    struct blobs_content *c = f->get.fetch->content;
    uint8_t hash[BH_SHA256_LEN];
    if (c->size > BH_BLOB_WHOLE)
        return 0;
    if (bh_sha256_of(f->piece->data, (size_t)f->piece->len, hash) != 0)
        return bh_fail(err, ENOMEM, "out of memory while reading from the bucket");
    return bh_blobs_compare(c, f->get.key, hash, err);
}

int bh_blobs_fetch_memory(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err)
{
    uint64_t at = f->first * BLOBS_UNIT, end = (f->first + f->count) * BLOBS_UNIT;
    if (end > f->content->size)
        end = f->content->size;
    struct blobs_piece *p = malloc(sizeof *p + (size_t)(end - at));
    if (!p)
        return bh_fail(err, ENOMEM, "out of memory while reading from the bucket");
    *p = (struct blobs_piece){.content = f->content, .at = at, .len = end - at};
    struct fetching g = {.get = {.b = b, .fetch = f, .at = at, .end = end, .take = take},
                         .piece = p};
    g.get.arg = &g;
    int rc = bh_blobs_get(&g.get, err);
    int wrong = rc ? 0 : check_whole(&g, err);
    pthread_mutex_lock(&b->mutex);
    if (wrong == EIO)
        bh_blobs_bad(f->content, err);
    if (!rc && !wrong)
        add(b, p);
    pthread_mutex_unlock(&b->mutex);
    if (rc || wrong)
        free(p);
    return rc ? rc : wrong;
}

/* The fetch of the piece that has `offset`, with a reference for the caller. NULL: no memory. */
static struct blobs_fetch *demand(struct bh_blobs *b, struct blobs_content *c, uint64_t offset)
{
    uint64_t unit = offset / BLOBS_UNIT, first = 0, count = blobs_units(c->size);
    for (struct blobs_fetch *f = c->fetches; f; f = f->sibling)
        if (f->what == FETCH_MEMORY && unit >= f->first && unit < f->first + f->count) {
            f->refs++;
            return f;
        }
    if (c->size > BH_BLOB_WHOLE) {
        first = unit / PIECE_UNITS * PIECE_UNITS;
        count = count - first < PIECE_UNITS ? count - first : PIECE_UNITS;
    }
    return bh_blobs_fetch(b, c, FETCH_MEMORY, first, count, false);
}

int bh_blobs_memory_read(struct bh_blob *o, void *buf, size_t len, uint64_t offset,
                         int64_t since_ms, const struct bh_call *call, bool *missing,
                         struct bh_error *err)
{
    struct bh_blobs *b = o->blobs;
    struct blobs_content *c = o->content;
    size_t done = 0;
    int rc = 0;
    pthread_mutex_lock(&b->mutex);
    while (!rc && done < len) {
        size_t n = copy(b, c, (char *)buf + done, len - done, offset + done);
        done += n;
        if (n)
            continue;
        if (c->bad) {
            rc = bh_fail(err, EIO, "%s", c->bad->text);
            break;
        }
        struct blobs_fetch *f = demand(b, c, offset + done);
        rc = f ? bh_blobs_await(b, f, since_ms, call, missing, err)
               : bh_fail(err, ENOMEM, "out of memory while reading from the bucket");
    }
    pthread_mutex_unlock(&b->mutex);
    return rc;
}
