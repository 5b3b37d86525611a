/* SQLite on databases in the bucket, at the cost of what was not read yet: blocks are kept by their
 * references, so that those which snapshots share are fetched once (within the bound of the cache);
 * and a snapshot in which every block that the last scan read is the same is not read at all. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repo/blob_refs_private.h"
#include "util/cleanup.h"

#define CACHE_BYTES ((size_t)64 << 20)
#define CHUNK       ((size_t)256 << 10) /* of a plain object */
#define CHUNKS      128u

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory looking for the blobs that are in use");
}

/* --- blocks of trees --- */

static struct refs_cached *cached(struct bh_blob_refs *r, const struct bh_ref *ref)
{
    uint64_t x =
        (ref->pack ^ ref->offset * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xbf58476d1ce4e5b9);
    return &r->cache[(x ^ x >> 31) % r->cache_size];
}

static bool has(const struct refs_cached *c, const struct bh_ref *ref)
{
    return c->pack == ref->pack && c->offset == ref->offset;
}

static int keep(struct bh_blob_refs *r, const struct bh_ref *ref, const uint8_t *data,
                struct bh_error *err)
{
    struct refs_cached *c = cached(r, ref);
    size_t size = bh_trees_block_size(r->trees);
    if (!c->data && !(c->data = malloc(size)))
        return no_memory(err);
    memcpy(c->data, data, size);
    c->pack = ref->pack;
    c->offset = ref->offset;
    return 0;
}

static int load_group(struct refs_db *d, uint64_t first, struct bh_error *err)
{
    if (d->group_first == first)
        return 0;
    d->group_first = UINT64_MAX;
    int rc = bh_tree_refs(d->refs->trees, &d->root, first, REFS_GROUP, d->group, d->what,
                          d->refs->call, err);
    if (rc == 0)
        d->group_first = first;
    return rc;
}

/* Block `first` + i, with those around it that are not here either. */
static int fetch(struct refs_db *d, size_t i, uint8_t *to, size_t from, size_t len,
                 struct bh_error *err)
{
    struct bh_blob_refs *r = d->refs;
    const size_t size = bh_trees_block_size(r->trees);
    size_t a = i, b = i + 1;
#define MISSING(n) (!bh_ref_is_zero(&d->group[n]) && !has(cached(r, &d->group[n]), &d->group[n]))
    while (a > 0 && MISSING(a - 1))
        a--;
    while (b < REFS_GROUP && MISSING(b))
        b++;
#undef MISSING
    BH_FREE uint8_t *buf = malloc((b - a) * size);
    if (!buf)
        return no_memory(err);
    int rc = bh_tree_read(r->trees, &d->root, (d->group_first + a) * size, buf, (b - a) * size,
                          d->what, r->call, err);
    if (rc && b - a > 1) { /* what is damaged may not be what is asked for */
        a = i, b = i + 1;
        rc = bh_tree_read(r->trees, &d->root, (d->group_first + a) * size, buf, size, d->what,
                          r->call, err);
    }
    for (size_t n = a; rc == 0 && n < b; n++)
        rc = keep(r, &d->group[n], buf + (n - a) * size, err);
    if (rc == 0)
        memcpy(to, buf + (i - a) * size + from, len);
    return rc;
}

static int read_block(struct refs_db *d, uint64_t block, uint8_t *to, size_t from, size_t len,
                      struct bh_error *err)
{
    uint64_t first = block - block % REFS_GROUP;
    int rc = load_group(d, first, err);
    if (rc)
        return rc;
    if (d->scan && block < d->scan->blocks)
        d->scan->read[block / 8] |= (uint8_t)(1u << block % 8);
    const struct bh_ref *ref = &d->group[block - first];
    if (bh_ref_is_zero(ref)) {
        memset(to, 0, len);
        return 0;
    }
    const struct refs_cached *c = cached(d->refs, ref);
    if (!has(c, ref))
        return fetch(d, (size_t)(block - first), to, from, len, err);
    memcpy(to, c->data + from, len);
    return 0;
}

static int read_tree(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    struct refs_db *d = arg;
    const size_t size = bh_trees_block_size(d->refs->trees);
    int rc = 0;
    for (size_t done = 0, n; rc == 0 && done < len; done += n) {
        size_t from = (size_t)((offset + done) % size);
        n = size - from < len - done ? size - from : len - done;
        rc = read_block(d, (offset + done) / size, (uint8_t *)buf + done, from, n, err);
    }
    return rc;
}

static int open_cache(struct bh_blob_refs *r, struct bh_error *err)
{
    if (r->cache)
        return 0;
    r->cache_size = CACHE_BYTES / bh_trees_block_size(r->trees);
    r->cache = calloc(r->cache_size, sizeof *r->cache);
    return r->cache ? 0 : no_memory(err);
}

static int begin_scan(struct refs_db *d, enum refs_kind kind, struct bh_error *err)
{
    struct refs_scan *s = &d->refs->last[kind];
    const uint32_t size = bh_trees_block_size(d->refs->trees);
    free(s->read);
    *s = (struct refs_scan){.blocks = (d->root.size + size - 1) / size};
    s->read = calloc((size_t)(s->blocks / 8 + 1), 1);
    d->scan = s;
    return s->read ? 0 : no_memory(err);
}

int refs_open_tree(struct refs_db *d, enum refs_kind kind, const struct bh_root *root,
                   struct bh_error *err)
{
    d->root = *root;
    d->size = root->size;
    d->group_first = UINT64_MAX;
    int rc = open_cache(d->refs, err);
    if (rc == 0 && kind != REFS_LOOK)
        rc = begin_scan(d, kind, err);
    if (rc == 0)
        rc = bh_rovfs_new(&d->vfs, read_tree, d, d->size, err);
    return rc ? rc : bh_rovfs_connect(d->vfs, &d->db, d->what, err);
}

/* --- what need not be read --- */

/* Block 0, as it was read, or fetched and kept for whoever reads all. */
static int read_first(struct bh_blob_refs *r, const struct bh_root *root, const char *what,
                      uint8_t *to, struct bh_error *err)
{
    struct bh_ref ref;
    int rc = bh_tree_refs(r->trees, root, 0, 1, &ref, what, r->call, err);
    if (rc)
        return rc;
    const size_t size = bh_trees_block_size(r->trees);
    const struct refs_cached *c = cached(r, &ref);
    if (!bh_ref_is_zero(&ref) && has(c, &ref)) {
        memcpy(to, c->data, size);
        return 0;
    }
    rc = bh_tree_read(r->trees, root, 0, to, size, what, r->call, err);
    return rc || bh_ref_is_zero(&ref) ? rc : keep(r, &ref, to, err);
}

/* Its hash, without what every transaction changes in the header (SQLite file format, "database
 * header"): counters, size, list of free pages, cookie, version. */
static int hash_first(struct bh_blob_refs *r, const struct bh_root *root, const char *what,
                      uint8_t hash[BH_SHA256_LEN], struct bh_error *err)
{
    const size_t size = bh_trees_block_size(r->trees);
    BH_FREE uint8_t *buf = malloc(size);
    int rc = buf ? read_first(r, root, what, buf, err) : no_memory(err);
    if (rc)
        return rc;
    memset(buf + 18, 0, 2);
    memset(buf + 24, 0, 20);
    memset(buf + 92, 0, 8);
    return bh_sha256_of(buf, size, hash) ? no_memory(err) : 0;
}

struct difference {
    const struct refs_scan *scan;
    bool first;
};

/* EEXIST: the scan would read something else. */
static int look_at_difference(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                              const struct bh_error *damage)
{
    struct difference *x = arg;
    (void)ref;
    if (damage)
        return EEXIST; /* whoever reads it will say so */
    if (level > 0 || number >= x->scan->blocks)
        return 0;
    if (number == 0)
        x->first = true;
    else if (x->scan->read[number / 8] >> number % 8 & 1)
        return EEXIST;
    return 0;
}

int refs_is_known(struct bh_blob_refs *r, enum refs_kind kind, const struct bh_root *root,
                  const char *what, bool *known, struct bh_error *err)
{
    struct refs_scan *s = &r->last[kind];
    struct difference x = {.scan = s};
    uint8_t first[BH_SHA256_LEN];
    *known = gc_set_get(&r->roots, gc_root_key(root)) != NULL;
    if (*known || s->root.size == 0)
        return 0;
    /* Both ways: what became zeros is in one of them only. */
    int rc = bh_tree_walk(r->trees, root, &s->root, look_at_difference, &x, r->call, err);
    if (rc == 0)
        rc = bh_tree_walk(r->trees, &s->root, root, look_at_difference, &x, r->call, err);
    if (rc == 0 && x.first) {
        rc = hash_first(r, root, what, first, err);
        if (rc == 0 && memcmp(first, s->first, sizeof first) != 0)
            rc = EEXIST;
    }
    if (rc)
        return rc == EEXIST ? 0 : rc;
    *known = true;
    s->root = *root;
    r->skipped++;
    return gc_set_add(&r->roots, gc_root_key(root), 0) == ENOMEM ? no_memory(err) : 0;
}

int refs_was_scanned(struct bh_blob_refs *r, enum refs_kind kind, const struct bh_root *root,
                     const char *what, struct bh_error *err)
{
    struct refs_scan *s = &r->last[kind];
    int rc = hash_first(r, root, what, s->first, err);
    if (rc)
        return rc;
    s->root = *root;
    return gc_set_add(&r->roots, gc_root_key(root), 0) == ENOMEM ? no_memory(err) : 0;
}

/* --- plain objects --- */

struct refs_chunk {
    uint64_t number; /* + 1; 0: none */
    size_t len;
    uint8_t *data;
};

struct filling {
    struct refs_chunk *chunk;
    size_t len;
};

static int fill(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct filling *f = arg;
    if (len > CHUNK - f->len)
        return bh_fail(err, EIO, "the bucket sent more than it was asked for");
    memcpy(f->chunk->data + f->len, data, len);
    f->len += len;
    return 0;
}

static int get_chunk(struct refs_db *d, uint64_t number, const struct refs_chunk **out,
                     struct bh_error *err)
{
    struct refs_chunk *c = &d->chunks[number % CHUNKS];
    struct bh_object_info info;
    *out = c;
    if (c->number == number + 1)
        return 0;
    if (!c->data && !(c->data = malloc(CHUNK)))
        return no_memory(err);
    struct filling f = {.chunk = c};
    c->number = 0;
    int rc = bh_bucket_get(d->refs->bucket, d->key, number * CHUNK, CHUNK, fill, &f, &info,
                           d->refs->call, err);
    if (rc)
        return rc;
    if (strcmp(info.etag, d->etag) != 0)
        return bh_fail(err, ESTALE, "%s was replaced while it was read: try again", d->key);
    c->len = f.len;
    c->number = number + 1;
    return 0;
}

static int read_plain(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    struct refs_db *d = arg;
    int rc = 0;
    for (size_t done = 0, n; rc == 0 && done < len; done += n) {
        const struct refs_chunk *c;
        size_t from = (size_t)((offset + done) % CHUNK);
        n = CHUNK - from < len - done ? CHUNK - from : len - done;
        rc = get_chunk(d, (offset + done) / CHUNK, &c, err);
        if (rc == 0 && from + n > c->len)
            rc = bh_fail(err, EIO, "%s is shorter than it says", d->key);
        if (rc == 0)
            memcpy((uint8_t *)buf + done, c->data + from, n);
    }
    return rc;
}

int refs_open_plain(struct refs_db *d, const char *key, struct bh_error *err)
{
    struct bh_object_info info;
    int rc = bh_bucket_head(d->refs->bucket, key, &info, d->refs->call, err);
    if (rc)
        return rc;
    d->key = key;
    d->size = info.size;
    memcpy(d->etag, info.etag, sizeof d->etag);
    if (d->size == 0)
        return 0;
    d->chunks = calloc(CHUNKS, sizeof *d->chunks);
    if (!d->chunks)
        return no_memory(err);
    rc = bh_rovfs_new(&d->vfs, read_plain, d, d->size, err);
    return rc ? rc : bh_rovfs_connect(d->vfs, &d->db, d->what, err);
}

/* --- ends --- */

void refs_close(struct refs_db *d)
{
    sqlite3_close(d->db);
    bh_rovfs_free(d->vfs);
    for (size_t i = 0; d->chunks && i < CHUNKS; i++)
        free(d->chunks[i].data);
    free(d->chunks);
    d->db = NULL;
    d->vfs = NULL;
    d->chunks = NULL;
}

void refs_read_free(struct bh_blob_refs *r)
{
    for (size_t i = 0; r->cache && i < r->cache_size; i++)
        free(r->cache[i].data);
    free(r->cache);
    for (int k = 0; k < REFS_KINDS; k++)
        free(r->last[k].read);
    gc_set_free(&r->roots);
}
