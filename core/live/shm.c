#include "live/shm.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "live/vfs.h"
#include "util/cleanup.h"
#include "util/io.h"

/* In words of region 0: two copies of the header, then what checkpoints and readers share. */
enum {
    HEADER_WORDS = 12,
    HEADERS_END = 2 * HEADER_WORDS,
    BACKFILL = HEADERS_END,
    READ_MARK = BACKFILL + 1, /* five of them */
    BACKFILL_ATTEMPTED = 32,
    INFO_END = 34
};

/* Bits of bh_shm_push's held. */
enum {
    HELD_WRITE = 1 << 0,
    HELD_CKPT = 1 << 1,
    HELD_RECOVER = 1 << 2,
    HELD_READ_SHIFT = 3,
    HELD_READ_1 = 1 << 4
};

/* Words that SQLite of this process reads and writes at the same time. */
typedef _Atomic uint32_t word;

struct region {
    word *copy;     /* what connections of this process see */
    uint32_t *base; /* what the clients' pages held when they were last looked at or written to */
};

struct bh_shm {
    struct bh_file *file;
    /* Its holder may wait for the loop thread, so that never takes it. Taken before the mutex. */
    pthread_mutex_t *wire;
    pthread_mutex_t mutex; /* what follows */
    bool remote;
    bool quiet;
    bool tainted; /* the kernel may hold pages, which are stale once it is local */
    unsigned count;
    struct region regions[BH_SHM_REGIONS_MAX];
};

int bh_shm_new(struct bh_shm **out, struct bh_file *f, pthread_mutex_t *wire)
{
    struct bh_shm *m = calloc(1, sizeof *m);
    if (!m)
        return ENOMEM;
    m->file = f;
    m->wire = wire;
    pthread_mutex_init(&m->mutex, NULL);
    *out = m;
    return 0;
}

void bh_shm_free(struct bh_shm *m)
{
    if (!m)
        return;
    for (unsigned i = 0; i < m->count; i++) {
        free(m->regions[i].copy);
        free(m->regions[i].base);
    }
    pthread_mutex_destroy(&m->mutex);
    free(m);
}

bool bh_shm_is_used(struct bh_shm *m)
{
    BH_LOCK_SCOPE(&m->mutex);
    return m->count > 0;
}

bool bh_shm_is_remote(struct bh_shm *m)
{
    BH_LOCK_SCOPE(&m->mutex);
    return m->remote;
}

/* --- between the copies and the file --- */

static unsigned file_regions(const struct bh_shm *m)
{
    return (unsigned)(bh_file_size(m->file) / BH_SHM_REGION);
}

/* Takes new values over, but for words that were changed here and not put there yet. */
static void merge(struct region *r, const uint32_t *now)
{
    for (size_t i = 0; i < BH_SHM_REGION_WORDS; i++) {
        uint32_t was = r->base[i];
        if (now[i] != was && atomic_compare_exchange_strong(&r->copy[i], &was, now[i]))
            r->base[i] = now[i];
    }
}

static int merge_file(struct bh_shm *m, unsigned from)
{
    uint32_t now[BH_SHM_REGION_WORDS];
    for (unsigned i = from; i < m->count; i++) {
        int rc =
            bh_pread_full(m->file->disk.fd, now, sizeof now, (uint64_t)i * BH_SHM_REGION, NULL);
        if (rc)
            return rc;
        merge(&m->regions[i], now);
    }
    return 0;
}

/* The copies as they are at one look each become what clients begin with. */
static int write_file(struct bh_shm *m)
{
    for (unsigned i = 0; i < m->count; i++) {
        struct region *r = &m->regions[i];
        for (size_t w = 0; w < BH_SHM_REGION_WORDS; w++)
            r->base[w] = atomic_load_explicit(&r->copy[w], memory_order_relaxed);
        int rc =
            bh_pwrite_full(m->file->disk.fd, r->base, BH_SHM_REGION, (uint64_t)i * BH_SHM_REGION);
        if (rc)
            return rc;
    }
    return 0;
}

int bh_shm_attach(struct bh_shm *m)
{
    BH_LOCK_SCOPE(&m->mutex);
    if (m->remote)
        return 0;
    if (m->tainted)
        return EAGAIN;
    int rc = write_file(m);
    m->remote = rc == 0;
    return rc;
}

int bh_shm_before_read(struct bh_shm *m)
{
    BH_LOCK_SCOPE(&m->mutex);
    m->tainted = true;
    return m->remote ? 0 : write_file(m);
}

void bh_shm_forget_pages(struct bh_shm *m, const struct bh_live_hooks *hooks)
{
    pthread_mutex_lock(&m->mutex);
    m->tainted = false; /* before: what is read from now on is read anew */
    pthread_mutex_unlock(&m->mutex);
    if (hooks->data_changed)
        hooks->data_changed(hooks->arg, m->file, 0, UINT64_MAX);
}

void bh_shm_detach(struct bh_shm *m, const struct bh_live_hooks *hooks)
{
    BH_LOCK_SCOPE(m->wire);
    struct bh_locks *locks = bh_store_locks(m->file->store);
    if (!bh_shm_is_remote(m) || bh_locks_attached(locks, &m->file->locks) > 0)
        return;
    if (hooks->index_release) /* what it changed comes back into the file */
        hooks->index_release(hooks->arg, m->file);
    bh_shm_forget_pages(m, hooks);
    BH_LOCK_SCOPE(&m->mutex);
    if (bh_locks_attached(locks, &m->file->locks) == 0 && merge_file(m, 0) == 0)
        m->remote = false;
}

/* --- the clients' pages --- */

/* With the wire held. */
static int pull(struct bh_shm *m, const struct bh_live_hooks *hooks)
{
    const uint32_t *words;
    int rc = hooks->index_pull(hooks->arg, m->file, m->count, &words);
    for (unsigned i = 0; rc == 0 && i < m->count; i++)
        merge(&m->regions[i], words + i * BH_SHM_REGION_WORDS);
    return rc;
}

static bool must_pull(struct bh_shm *m, bool exclusive)
{
    BH_LOCK_SCOPE(&m->mutex);
    return m->remote && (exclusive || !m->quiet) && m->count > 0;
}

int bh_shm_pull(struct bh_shm *m, const struct bh_live_hooks *hooks, bool exclusive)
{
    BH_LOCK_SCOPE(m->wire);
    return must_pull(m, exclusive) ? pull(m, hooks) : 0;
}

int bh_shm_set_quiet(struct bh_shm *m, const struct bh_live_hooks *hooks, bool quiet)
{
    int rc = quiet ? bh_shm_pull(m, hooks, true) : 0;
    BH_LOCK_SCOPE(&m->mutex);
    m->quiet = quiet && rc == 0;
    return rc;
}

struct batch {
    struct bh_shm_word words[4096];
    size_t count;
    int rc;
};

/* What could not be sent stays changed here: the next push tries again. */
static void send(struct bh_shm *m, const struct bh_live_hooks *hooks, struct batch *b)
{
    if (b->rc == 0 && b->count > 0)
        b->rc = hooks->index_push(hooks->arg, m->file, m->count, b->words, b->count);
    for (size_t i = 0; b->rc == 0 && i < b->count; i++) {
        struct bh_shm_word w = b->words[i];
        m->regions[w.at / BH_SHM_REGION_WORDS].base[w.at % BH_SHM_REGION_WORDS] = w.value;
    }
    b->count = 0;
}

/* Adds what differs in [from, end) of region i. */
static void collect(struct bh_shm *m, const struct bh_live_hooks *hooks, struct batch *b,
                    unsigned i, unsigned from, unsigned end)
{
    struct region *r = &m->regions[i];
    for (unsigned w = from; w < end; w++) {
        uint32_t now = atomic_load(&r->copy[w]);
        if (now == r->base[w])
            continue;
        if (b->count == sizeof b->words / sizeof *b->words)
            send(m, hooks, b);
        b->words[b->count++] = (struct bh_shm_word){i * BH_SHM_REGION_WORDS + w, now};
    }
}

/* In the order in which SQLite writes: what the header speaks of, its second copy, its first, then
 * what speaks of both. Words of locks that the caller does not hold may be another connection's,
 * half done. */
static int push(struct bh_shm *m, const struct bh_live_hooks *hooks, unsigned held)
{
    struct batch b = {.count = 0};
    if (held & HELD_WRITE) {
        for (unsigned i = 0; i < m->count; i++)
            collect(m, hooks, &b, i, i == 0 ? INFO_END : 0, BH_SHM_REGION_WORDS);
        collect(m, hooks, &b, 0, HEADER_WORDS, HEADERS_END);
        collect(m, hooks, &b, 0, 0, HEADER_WORDS);
    }
    if (held & HELD_RECOVER) {
        collect(m, hooks, &b, 0, BACKFILL, INFO_END);
    } else {
        bool restart = (held & HELD_WRITE) && (held & HELD_READ_1); /* of the log */
        if ((held & HELD_CKPT) || restart) {
            collect(m, hooks, &b, 0, BACKFILL, BACKFILL + 1);
            collect(m, hooks, &b, 0, BACKFILL_ATTEMPTED, BACKFILL_ATTEMPTED + 1);
        }
        for (unsigned i = 0; i < 5; i++)
            if (held >> (HELD_READ_SHIFT + i) & 1)
                collect(m, hooks, &b, 0, READ_MARK + i, READ_MARK + i + 1);
    }
    send(m, hooks, &b);
    return b.rc;
}

int bh_shm_push(struct bh_shm *m, const struct bh_live_hooks *hooks, unsigned held)
{
    BH_LOCK_SCOPE(m->wire);
    return m->count > 0 && bh_shm_is_remote(m) ? push(m, hooks, held) : 0;
}

/* --- regions --- */

static int add_region(struct bh_shm *m)
{
    struct region *r = &m->regions[m->count];
    r->copy = calloc(1, BH_SHM_REGION);
    r->base = calloc(1, BH_SHM_REGION);
    if (!r->copy || !r->base) {
        free(r->copy);
        free(r->base);
        return ENOMEM;
    }
    m->count++;
    return 0;
}

/* Makes regions up to i, with what the file has of them. */
static int add_regions(struct bh_shm *m, unsigned i)
{
    BH_LOCK_SCOPE(&m->mutex);
    unsigned from = m->count;
    int rc = 0;
    while (rc == 0 && m->count <= i)
        rc = add_region(m);
    if (rc == 0 && !m->remote && file_regions(m) <= i)
        rc = bh_file_truncate(m->file, BH_DOOR_INTERNAL, (uint64_t)(i + 1) * BH_SHM_REGION);
    return rc ? rc : merge_file(m, from);
}

int bh_shm_region(struct bh_shm *m, const struct bh_live_hooks *hooks, unsigned i, bool extend,
                  volatile void **out)
{
    *out = NULL;
    if (i >= BH_SHM_REGIONS_MAX)
        return EFBIG;
    BH_LOCK_SCOPE(m->wire);
    if (i >= m->count) {
        if (!extend && i >= file_regions(m))
            return 0;
        unsigned had = file_regions(m);
        int rc = add_regions(m, i);
        bool remote = bh_shm_is_remote(m);
        if (rc == 0 && remote)
            rc = pull(m, hooks); /* extends the clients' file, too */
        else if (rc == 0 && had <= i && hooks->data_changed)
            hooks->data_changed(hooks->arg, m->file, 0, UINT64_MAX);
        if (rc)
            return rc;
    }
    *out = m->regions[i].copy;
    return 0;
}

int bh_shm_reset(struct bh_shm *m, const struct bh_live_hooks *hooks)
{
    BH_LOCK_SCOPE(m->wire);
    bool remote = bh_shm_is_remote(m);
    int rc = m->count == 0 ? add_regions(m, 0) : 0;
    if (rc == 0 && remote)
        rc = pull(m, hooks); /* what it was may not be known here */
    for (unsigned w = 0; m->count > 0 && w < HEADERS_END; w++)
        atomic_store(&m->regions[0].copy[w], 0);
    return rc || !remote ? rc : push(m, hooks, HELD_WRITE);
}
