/* A client of a snapshot reads pages, the bucket has blocks of many pages: the blocks that were
 * read last stay here, and one that several ask for at once comes once. Blocks of a snapshot never
 * change. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "views.h"

#define CACHE_BYTES (16u << 20)
#define SLOTS       512u
#define AHEAD_MAX   16u /* blocks */
#define NAMES_AHEAD 3u  /* of names.db: names that are asked for together are spread over it */
#define POLL_MS     50

struct block {
    struct block *next_slot;
    struct block *older, *newer; /* while it is loaded */
    struct bh_root root;         /* of the snapshot's database */
    uint64_t number;
    size_t size; /* of data */
    bool loaded;
    char data[];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct block *slots[SLOTS];
static struct block *oldest, *newest;
static size_t bytes;

static struct block **slot_of(const struct bh_root *root, uint64_t number)
{
    uint64_t h = (root->ref.pack ^ root->ref.offset ^ number) * 0x9e3779b97f4a7c15u;
    return &slots[(h >> 32) % SLOTS];
}

static struct block *find(const struct bh_root *root, uint64_t number)
{
    struct block *b = *slot_of(root, number);
    while (b && (b->number != number || b->root.size != root->size ||
                 b->root.ref.pack != root->ref.pack || b->root.ref.offset != root->ref.offset))
        b = b->next_slot;
    return b;
}

static void list_out(struct block *b)
{
    *(b->older ? &b->older->newer : &oldest) = b->newer;
    *(b->newer ? &b->newer->older : &newest) = b->older;
}

static void list_in(struct block *b)
{
    b->older = newest;
    b->newer = NULL;
    *(newest ? &newest->newer : &oldest) = b;
    newest = b;
}

static void drop(struct block *b)
{
    struct block **at = slot_of(&b->root, b->number);
    while (*at != b)
        at = &(*at)->next_slot;
    *at = b->next_slot;
    if (b->loaded) {
        list_out(b);
        bytes -= b->size;
    }
    free(b);
}

/* A place for a block that the caller is about to load. */
static struct block *reserve(const struct bh_root *root, uint64_t number, size_t size)
{
    struct block *b = malloc(sizeof *b + size), **slot = slot_of(root, number);
    if (!b)
        return NULL;
    *b = (struct block){.next_slot = *slot, .root = *root, .number = number, .size = size};
    *slot = b;
    return b;
}

/* --- reading what is there --- */

struct range {
    const struct block_source *source;
    const struct bh_root *root;
    uint32_t block_size;
    uint64_t offset;
    size_t len;
    char *buf;
};

/* Copies what block b has of the range. */
static void copy_out(const struct range *r, const struct block *b)
{
    uint64_t start = b->number * r->block_size;
    uint64_t from = r->offset > start ? r->offset : start;
    uint64_t end = r->offset + r->len, to = end < start + b->size ? end : start + b->size;
    memcpy(r->buf + (from - r->offset), b->data + (from - start), (size_t)(to - from));
}

/* With the mutex. The first block that is missing or under way; UINT64_MAX: all was copied. */
static uint64_t copy_known(const struct range *r)
{
    uint64_t last = (r->offset + r->len - 1) / r->block_size;
    for (uint64_t n = r->offset / r->block_size; n <= last; n++) {
        struct block *b = find(r->root, n);
        if (!b || !b->loaded)
            return n;
        copy_out(r, b);
        list_out(b);
        list_in(b);
    }
    return UINT64_MAX;
}

static struct range range_of(const struct block_source *s, uint64_t offset, void *buf, size_t len)
{
    struct bh_history_status st;
    bh_history_status(bh_history_of(s->daemon->bh), &st);
    return (struct range){.source = s,
                          .root = s->names ? &s->e->names : &s->e->db,
                          .block_size = st.block_size,
                          .offset = offset,
                          .len = len,
                          .buf = buf};
}

int blocks_known(const struct block_source *s, uint64_t offset, void *buf, size_t len)
{
    struct range r = range_of(s, offset, buf, len);
    if (!len)
        return 0;
    if (!r.block_size)
        return EAGAIN;
    BH_LOCK_SCOPE(&mutex);
    return copy_known(&r) == UINT64_MAX ? 0 : EAGAIN;
}

/* --- loading --- */

/* With the mutex. How many blocks to read from `first` on: what the range wants and nobody is
 * loading; and, where the ones before it were read lately, as many again ahead. */
static size_t run_length(const struct range *r, uint64_t first)
{
    uint64_t last = (r->offset + r->len - 1) / r->block_size, end = first + 1;
    uint64_t ahead = r->source->names ? NAMES_AHEAD : 0;
    uint64_t blocks = (r->root->size + r->block_size - 1) / r->block_size;
    for (uint64_t n = 0; n < AHEAD_MAX && n < first && find(r->root, first - n - 1); n++)
        ahead = ahead > n + 1 ? ahead : n + 1;
    last = last < first + ahead ? first + ahead : last;
    while (end <= last && end < blocks && !find(r->root, end))
        end++;
    return (size_t)(end - first);
}

static int read_snapshot(const struct block_source *s, uint64_t offset, void *buf, size_t len,
                         const struct bh_call *call, struct bh_error *err)
{
    struct bh_history *h = bh_history_of(s->daemon->bh);
    size_t got;
    return s->names ? bh_history_read_names(h, s->e, offset, buf, len, &got, call, err)
                    : bh_history_read(h, s->e, offset, buf, len, &got, call, err);
}

/* With the mutex, which is let go of while the blocks come. */
static int load_run(const struct range *r, uint64_t first, const struct bh_call *call,
                    struct bh_error *err)
{
    size_t count_ = run_length(r, first);
    uint64_t start = first * r->block_size;
    BH_FREE struct block **run = calloc(count_, sizeof *run);
    BH_FREE char *data = malloc(count_ * r->block_size);
    int rc = run && data ? 0 : ENOMEM;
    for (size_t i = 0; i < count_ && rc == 0; i++) {
        uint64_t at = start + i * r->block_size, left = r->root->size - at;
        run[i] = reserve(r->root, first + i, left < r->block_size ? (size_t)left : r->block_size);
        rc = run[i] ? 0 : ENOMEM;
    }
    pthread_mutex_unlock(&mutex);
    if (rc)
        bh_fail(err, rc, "out of memory reading snapshot %s", r->source->e->id);
    else
        rc = read_snapshot(r->source, start, data, count_ * r->block_size, call, err);
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < count_ && run && run[i]; i++) {
        struct block *b = run[i];
        if (rc) {
            drop(b);
            continue;
        }
        memcpy(b->data, data + i * r->block_size, b->size);
        b->loaded = true;
        bytes += b->size;
        list_in(b);
    }
    pthread_cond_broadcast(&changed);
    return rc;
}

static void shrink(void)
{
    while (bytes > CACHE_BYTES && oldest != newest)
        drop(oldest);
}

int blocks_read(const struct block_source *s, uint64_t offset, void *buf, size_t len,
                const struct bh_call *call, struct bh_error *err)
{
    struct range r = range_of(s, offset, buf, len);
    uint64_t missing;
    int rc = 0;
    if (!len)
        return 0;
    if (!r.block_size)
        return bh_fail(err, EIO, "there is no history in this bucket yet");
    BH_LOCK_SCOPE(&mutex);
    /* Several rounds, as others may push out what was there; what is copied stays copied, so a
     * range of any size gets done: each round begins where the last one ended. */
    while (rc == 0 && (missing = copy_known(&r)) != UINT64_MAX) {
        if (missing * r.block_size > r.offset) {
            size_t done = (size_t)(missing * r.block_size - r.offset);
            r.offset += done;
            r.buf += done;
            r.len -= done;
        }
        if (find(r.root, missing)) {
            struct timespec until = bh_mono_after_ms(POLL_MS);
            pthread_cond_clockwait(&changed, &mutex, CLOCK_MONOTONIC, &until);
            rc = bh_call_check(call, "reading a snapshot", err);
        } else {
            rc = load_run(&r, missing, call, err);
        }
    }
    shrink();
    return rc;
}
