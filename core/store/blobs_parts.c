/* Large blobs of which only parts are here: r-HASH, a sparse file, and r-HASH.map, which says what
 * of it is here. Both are written without a sync: the map names the life of the machine in which it
 * was made, and is not believed in another one. Within one the map is written after the data.
 *
 * The map: 4096 bytes of header, then a bit for each unit of 64 KiB. */
#include "store/blobs_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/bytes.h"
#include "util/cleanup.h"
#include "util/io.h"
#include "util/log.h"

#define HEADER     4096
#define MAGIC      "bhparts1"
#define AT_BOOT    8
#define AT_SIZE    48
#define AT_UNIT    56
#define GO_AT_ONCE ((uint64_t)2 << 20)
#define AT_ETAG    64

static uint64_t count_bits(const uint8_t *bits, uint64_t units)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < (units + 7) / 8; i++)
        n += (unsigned)__builtin_popcount(bits[i]);
    return n;
}

/* --- the files --- */

/* Header and bits of a map that may be believed; NULL: none. */
static uint8_t *load_map(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t *size)
{
    char name[BLOBS_NAME];
    struct stat st, data;
    size_t got;
    bh_blobs_map_name(name, hash);
    BH_FD int fd = openat(bh_disk_dirfd(b->o.disk), name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size <= HEADER)
        return NULL;
    BH_FREE uint8_t *map = malloc((size_t)st.st_size);
    if (!map || bh_pread_full(fd, map, (size_t)st.st_size, 0, &got) != 0 ||
        got != (size_t)st.st_size)
        return NULL;
    *size = bh_get_le(map + AT_SIZE, 8);
    uint64_t units = blobs_units(*size);
    bh_blobs_name(name, KIND_PARTS, hash);
    if (memcmp(map, MAGIC, 8) != 0 || bh_get_le(map + AT_UNIT, 8) != BLOBS_UNIT ||
        memcmp(map + AT_BOOT, b->boot, sizeof b->boot) != 0 ||
        (uint64_t)st.st_size != HEADER + (units + 7) / 8 || map[AT_ETAG + BH_ETAG_MAX - 1] ||
        (units % 8 && map[st.st_size - 1] >> (units % 8)) ||
        fstatat(bh_disk_dirfd(b->o.disk), name, &data, AT_SYMLINK_NOFOLLOW) != 0 ||
        (uint64_t)data.st_size != *size)
        return NULL;
    return bh_take_ptr(map);
}

int bh_blobs_parts_look(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t *bytes)
{
    uint64_t size;
    BH_FREE uint8_t *map = load_map(b, hash, &size);
    if (!map)
        return ENOENT;
    *bytes = count_bits(map + HEADER, blobs_units(size)) * BLOBS_UNIT;
    return 0;
}

/* The whole map as it is now. With map_lock. */
static int write_map(struct bh_blobs *b, struct blobs_parts *p, uint64_t size)
{
    size_t len = HEADER + (size_t)(p->units + 7) / 8;
    BH_FREE uint8_t *map = calloc(1, len);
    if (!map)
        return ENOMEM;
    memcpy(map, MAGIC, 8);
    memcpy(map + AT_BOOT, b->boot, sizeof b->boot);
    bh_put_le(map + AT_SIZE, size, 8);
    bh_put_le(map + AT_UNIT, BLOBS_UNIT, 8);
    pthread_mutex_lock(&b->mutex);
    memcpy(map + AT_ETAG, p->etag, sizeof p->etag);
    memcpy(map + HEADER, p->have, len - HEADER);
    pthread_mutex_unlock(&b->mutex);
    return bh_dfile_write(&p->map, map, len, 0);
}

/* The bits of some units. With map_lock. */
static int write_bits(struct bh_blobs *b, struct blobs_parts *p, uint64_t first, uint64_t count)
{
    uint8_t bits[512];
    for (uint64_t at = first / 8, end = (first + count + 7) / 8; at < end;) {
        size_t n = end - at < sizeof bits ? (size_t)(end - at) : sizeof bits;
        pthread_mutex_lock(&b->mutex);
        memcpy(bits, p->have + at, n);
        pthread_mutex_unlock(&b->mutex);
        int rc = bh_dfile_write(&p->map, bits, n, HEADER + at);
        if (rc)
            return rc;
        at += n;
    }
    return 0;
}

/* Both files, empty, or as they are if `map` was believed. With naming. */
static int open_files(struct bh_blobs *b, struct blobs_parts *p, const struct blobs_content *c,
                      const uint8_t *map)
{
    char name[BLOBS_NAME];
    int flags = map ? O_RDWR : O_RDWR | O_CREAT | O_EXCL;
    if (!map) /* an old map would speak of the new file */
        bh_blobs_unlink(b, KIND_PARTS, c->entry->hash);
    bh_blobs_name(name, KIND_PARTS, c->entry->hash);
    int rc = bh_disk_open_file(b->o.disk, name, flags, 0600, &p->file);
    if (!rc && !map)
        rc = bh_dfile_truncate(&p->file, c->size);
    bh_blobs_map_name(name, c->entry->hash);
    if (!rc)
        rc = bh_disk_open_file(b->o.disk, name, flags, 0600, &p->map);
    if (!rc && !map)
        rc = write_map(b, p, c->size);
    return rc;
}

void bh_blobs_parts_close(struct blobs_parts *p)
{
    bh_dfile_close(&p->file);
    bh_dfile_close(&p->map);
    pthread_rwlock_destroy(&p->file_lock);
    pthread_mutex_destroy(&p->map_lock);
    bh_sha256_free(p->hash);
    free(p->have);
    free(p->busy);
    free(p);
}

static struct blobs_parts *parts_new(uint64_t units)
{
    struct blobs_parts *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->file.fd = p->map.fd = -1;
    p->units = units;
    pthread_rwlock_init(&p->file_lock, NULL);
    pthread_mutex_init(&p->map_lock, NULL);
    p->have = calloc(1, (size_t)(units + 7) / 8);
    p->busy = calloc(1, (size_t)(units + 7) / 8);
    if (p->have && p->busy)
        return p;
    bh_blobs_parts_close(p);
    return NULL;
}

int bh_blobs_parts_open(struct bh_blobs *b, struct blobs_content *c, struct bh_error *err)
{
    uint64_t size = 0;
    BH_FREE uint8_t *map = c->entry->kind == KIND_PARTS ? load_map(b, c->entry->hash, &size) : NULL;
    struct blobs_parts *p = parts_new(blobs_units(c->size));
    if (!p)
        return bh_fail(err, ENOMEM, "out of memory while reading from the bucket");
    if (map && size != c->size) {
        free(map);
        map = NULL;
    }
    if (map) {
        memcpy(p->have, map + HEADER, (size_t)(p->units + 7) / 8);
        memcpy(p->etag, map + AT_ETAG, sizeof p->etag);
        p->here = count_bits(p->have, p->units);
        p->hash_at_end = p->here > 0; /* who reads on may not read all of it in this life either */
    }
    int rc = open_files(b, p, c, map);
    if (rc) {
        bh_blobs_parts_close(p);
        bh_blobs_unlink(b, KIND_PARTS, c->entry->hash);
    }
    BH_LOCK_SCOPE(&b->mutex);
    bh_blobs_become(b, c->entry, rc ? KIND_NONE : KIND_PARTS, rc ? 0 : p->here * BLOBS_UNIT);
    if (rc)
        return bh_fail(err, rc, "a file for parts of a large file cannot be made in %s: %s",
                       bh_disk_path(b->o.disk), strerror(rc));
    c->parts = p;
    return 0;
}

/* --- fetching --- */

struct range {
    struct blobs_get get;
    struct blobs_parts *parts;
    char etag[BH_ETAG_MAX];
};

/* With the mutex. */
static bool is_known_bad(const struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN],
                         const char *etag)
{
    for (unsigned i = 0; etag[0] && i < BLOBS_BAD; i++)
        if (strcmp(b->bad[i].etag, etag) == 0 && memcmp(b->bad[i].hash, hash, BH_SHA256_LEN) == 0)
            return true;
    return false;
}

void bh_blobs_note_bad(struct bh_blobs *b, const struct blobs_content *c)
{
    BH_LOCK_SCOPE(&b->mutex);
    const char *etag = c->parts->etag;
    if (is_known_bad(b, c->entry->hash, etag))
        return;
    struct blobs_bad *at = &b->bad[b->next_bad++ % BLOBS_BAD];
    memcpy(at->hash, c->entry->hash, sizeof at->hash);
    memcpy(at->etag, etag, sizeof at->etag);
}

/* The first bytes of a response: they must be of the same object as all before. If it was replaced,
 * what is here of the old one goes. */
static int same_object(struct range *r, struct bh_error *err)
{
    struct bh_blobs *b = r->get.b;
    struct blobs_parts *p = r->parts;
    struct blobs_content *c = r->get.fetch->content;
    memcpy(r->etag, r->get.info.etag, sizeof r->etag);
    BH_LOCK_SCOPE(&p->map_lock);
    pthread_mutex_lock(&b->mutex);
    bool same = strcmp(p->etag, r->etag) == 0;
    if (is_known_bad(b, c->entry->hash, r->etag)) {
        pthread_mutex_unlock(&b->mutex);
        return bh_fail(err, EIO,
                       "%s in the bucket is damaged: its content is not what its name says. An "
                       "older snapshot or a copy of the bucket may have it",
                       r->get.key);
    }
    if (!same) {
        if (p->etag[0])
            bh_log(BH_LOG_WARNING, "%s was replaced while it was read: parts are fetched again",
                   r->get.key);
        p->lost += p->etag[0] || p->here > 0;
        memset(p->etag, 0, sizeof p->etag);
        strcpy(p->etag, r->etag);
        memset(p->have, 0, (size_t)(p->units + 7) / 8);
        p->here = 0;
        if (c->entry->kind == KIND_PARTS)
            bh_blobs_resize(b, c->entry, 0);
    }
    pthread_mutex_unlock(&b->mutex);
    int rc = same ? 0 : write_map(b, p, c->size);
    return rc ? bh_fail(err, rc, "the map of a large file in %s cannot be written: %s",
                        bh_disk_path(b->o.disk), strerror(rc))
              : 0;
}

static int take_range(void *arg, uint64_t at, const void *data, size_t len, struct bh_error *err)
{
    struct range *r = arg;
    struct bh_blobs *b = r->get.b;
    int rc = r->etag[0] ? 0 : same_object(r, err);
    if (rc)
        return rc;
    rc = bh_blobs_write(b, &r->parts->file, data, len, at, r->get.end - at);
    return rc ? bh_fail(err, rc, "%s cannot be kept in %s: %s", r->get.key, bh_disk_path(b->o.disk),
                        strerror(rc))
              : 0;
}

/* The units have arrived. */
static int note_range(struct range *r, struct bh_error *err)
{
    struct bh_blobs *b = r->get.b;
    struct blobs_parts *p = r->parts;
    struct blobs_fetch *f = r->get.fetch;
    struct blobs_content *c = f->content;
    BH_LOCK_SCOPE(&p->map_lock);
    pthread_mutex_lock(&b->mutex);
    p->answers++;
    p->begin_ns += r->get.first_ns - r->get.began_ns;
    p->moved_ns += r->get.last_ns - r->get.first_ns;
    bool same = strcmp(p->etag, r->etag) == 0;
    if (same) {
        for (uint64_t i = f->first; i < f->first + f->count; i++) {
            p->here += !blobs_bit(p->have, i);
            blobs_set_bit(p->have, i, true);
        }
        bh_blobs_hash_ahead(b, c);
        if (c->entry->kind == KIND_PARTS)
            bh_blobs_resize(b, c->entry, p->here * BLOBS_UNIT);
        bh_blobs_check_if_all(b, c);
    }
    pthread_mutex_unlock(&b->mutex);
    int rc = same ? write_bits(b, p, f->first, f->count) : 0;
    return rc ? bh_fail(err, rc, "the map of a large file in %s cannot be written: %s",
                        bh_disk_path(b->o.disk), strerror(rc))
              : 0;
}

int bh_blobs_fetch_range(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err)
{
    uint64_t end = (f->first + f->count) * BLOBS_UNIT, size = f->content->size;
    struct range r = {.get = {.b = b,
                              .fetch = f,
                              .at = f->first * BLOBS_UNIT,
                              .end = end < size ? end : size,
                              .take = take_range},
                      .parts = f->content->parts};
    r.get.arg = &r;
    int rc = bh_blobs_get(&r.get, err);
    return rc ? rc : note_range(&r, err);
}

/* --- letting go --- */

/* Whether a unit may go: not what is being read, nor what was read ahead of that. */
static bool may_go(const struct blobs_parts *p, uint64_t unit)
{
    uint64_t ahead = (BLOBS_WINDOW_MAX + BLOBS_NEARBY) / BLOBS_UNIT;
    return blobs_bit(p->have, unit) &&
           (unit + BLOBS_NEARBY / BLOBS_UNIT < p->lately || unit > p->lately + ahead);
}

/* Takes the next run of units, up to `most`, out of the map in memory; returns how many, 0: none,
 * or the file has become that of the whole blob. */
static uint64_t take_run(struct bh_blobs *b, struct blobs_content *c, uint64_t most,
                         uint64_t *first)
{
    struct blobs_parts *p = c->parts;
    uint64_t n = 0;
    BH_LOCK_SCOPE(&b->mutex);
    if (c->entry->kind != KIND_PARTS)
        return 0;
    for (uint64_t seen = 0; seen < p->units && !may_go(p, p->hand); seen++)
        p->hand = (p->hand + 1) % p->units;
    *first = p->hand;
    for (; n < most && *first + n < p->units && may_go(p, *first + n); n++)
        blobs_set_bit(p->have, *first + n, false);
    p->hand = (*first + n) % p->units;
    p->here -= n;
    p->lost += n > 0;
    bh_blobs_resize(b, c->entry, p->here * BLOBS_UNIT);
    return n;
}

uint64_t bh_blobs_parts_shrink(struct bh_blobs *b, struct blobs_content *c, uint64_t want)
{
    struct blobs_parts *p = c->parts;
    uint64_t went = 0, n = 1, first;
    int rc = 0;
    while (went < want && n > 0 && !rc) {
        pthread_rwlock_wrlock(&p->file_lock);
        pthread_mutex_lock(&p->map_lock);
        n = take_run(b, c, GO_AT_ONCE / BLOBS_UNIT, &first);
        if (n) /* the map first: what it names is there */
            rc = write_bits(b, p, first, n);
        if (n && !rc)
            rc = bh_dfile_punch(&p->file, first * BLOBS_UNIT, n * BLOBS_UNIT);
        pthread_mutex_unlock(&p->map_lock);
        pthread_rwlock_unlock(&p->file_lock);
        went += rc ? 0 : n * BLOBS_UNIT;
    }
    if (rc)
        bh_log(BH_LOG_WARNING, "parts of a large file in %s cannot be let go: %s",
               bh_disk_path(b->o.disk), strerror(rc));
    return went;
}
