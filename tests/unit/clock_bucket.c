#include "clock_bucket.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket/bucket_util.h"
#include "util/cleanup.h"

int64_t clock_ms;
atomic_int clock_requests_left = INT32_MAX;
bool clock_last_is_done;
atomic_int clock_requests;
void (*clock_hook)(const char *op, const char *key);
bool (*clock_lie)(const char *key);

struct object {
    char *key, *data;
    size_t size;
    int64_t mtime_ms;
    unsigned version; /* the ETag */
};

struct clock_bucket {
    struct bh_bucket base;
    pthread_mutex_t mutex;
    struct object *objects; /* ascending */
    size_t count, room;
    unsigned versions;
};

static struct clock_bucket *of(struct bh_bucket *b)
{
    return (struct clock_bucket *)(void *)b;
}

/* The first object that is not before the key. */
static size_t find(const struct clock_bucket *m, const char *key)
{
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(m->objects[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct object *get_object(const struct clock_bucket *m, const char *key)
{
    size_t at = find(m, key);
    return at < m->count && !strcmp(m->objects[at].key, key) ? &m->objects[at] : NULL;
}

static void fill(const struct object *o, struct bh_object_info *info)
{
    if (!info)
        return;
    *info = (struct bh_object_info){.size = o->size, .mtime_ms = o->mtime_ms};
    snprintf(info->etag, sizeof info->etag, "%u", o->version);
}

static void drop(struct clock_bucket *m, size_t at)
{
    free(m->objects[at].key);
    free(m->objects[at].data);
    memmove(&m->objects[at], &m->objects[at + 1], (--m->count - at) * sizeof *m->objects);
}

/* --- requests --- */

/* Whether it is done, and how it is answered: EIO when the program has "crashed". */
static bool begin(const char *op, const char *key, int *rc)
{
    static _Thread_local bool inside;
    if (clock_hook && !inside) {
        inside = true;
        clock_hook(op, key);
        inside = false;
    }
    int left = atomic_fetch_sub(&clock_requests_left, 1);
    if (left > INT32_MAX / 2)
        atomic_store(&clock_requests_left, INT32_MAX);
    clock_requests++;
    *rc = left <= 0 ? EIO : 0;
    return left > 0 || (left == 0 && clock_last_is_done);
}

static int end(int crashed, int rc, const char *key, struct bh_error *err)
{
    if (crashed)
        return bh_fail(err, crashed, "crashed");
    return rc ? bh_fail(err, rc, "%s: %s", key, strerror(rc)) : 0;
}

static int get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
               bh_sink_fn *sink, void *arg, struct bh_object_info *info, const struct bh_call *call,
               struct bh_error *err)
{
    int crashed, rc = 0;
    BH_FREE char *copy = NULL;
    if (!begin("get", key, &crashed))
        return end(crashed, 0, key, err);
    {
        BH_LOCK_SCOPE(&of(b)->mutex);
        const struct object *o = get_object(of(b), key);
        if (!o)
            rc = ENOENT;
        else if (offset >= o->size && (offset || o->size))
            rc = EINVAL;
        else {
            length = length > o->size - offset ? o->size - offset : length;
            copy = malloc(length + 1);
            assert_non_null(copy);
            memcpy(copy, o->data + offset, length);
            fill(o, info);
        }
    }
    if (rc == 0 && !crashed && length)
        return sink(arg, copy, length, err);
    return end(crashed, rc, key, err);
}

static int head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                const struct bh_call *call, struct bh_error *err)
{
    int crashed, rc = ENOENT;
    if (!begin("head", key, &crashed))
        return end(crashed, 0, key, err);
    BH_LOCK_SCOPE(&of(b)->mutex);
    const struct object *o = get_object(of(b), key);
    if (o) {
        rc = 0;
        fill(o, info);
    }
    return end(crashed, rc, key, err);
}

static int store(struct clock_bucket *m, const char *key, const struct bh_source *src,
                 const struct bh_cond *cond, struct bh_object_info *info)
{
    size_t at = find(m, key);
    struct object *o = get_object(m, key);
    char etag[BH_ETAG_MAX];
    if (o)
        snprintf(etag, sizeof etag, "%u", o->version);
    if (cond && cond->if_none_match && o)
        return EEXIST;
    if (cond && cond->if_match && (!o || strcmp(cond->if_match, etag) != 0))
        return ESTALE;
    if (clock_lie && clock_lie(key))
        return 0;
    char *data = malloc(src->size + 1);
    assert_non_null(data);
    assert_int_equal(bh_source_read(src, 0, data, src->size, NULL), 0);
    if (!o) {
        if (m->count == m->room) {
            m->room = m->room ? 2 * m->room : 64;
            m->objects = realloc(m->objects, m->room * sizeof *m->objects);
            assert_non_null(m->objects);
        }
        o = &m->objects[at];
        memmove(o + 1, o, (m->count++ - at) * sizeof *o);
        *o = (struct object){.key = strdup(key)};
    }
    free(o->data);
    o->data = data;
    o->size = src->size;
    o->mtime_ms = clock_ms;
    o->version = ++m->versions;
    fill(o, info);
    return 0;
}

static int put(struct bh_bucket *b, const char *key, const struct bh_source *src,
               const struct bh_meta *meta, const struct bh_cond *cond, struct bh_object_info *info,
               const struct bh_call *call, struct bh_error *err)
{
    int crashed;
    if (!begin("put", key, &crashed))
        return end(crashed, 0, key, err);
    BH_LOCK_SCOPE(&of(b)->mutex);
    return end(crashed, store(of(b), key, src, cond, info), key, err);
}

static int del(struct bh_bucket *b, const char *key, const struct bh_call *call,
               struct bh_error *err)
{
    int crashed;
    if (!begin("delete", key, &crashed))
        return end(crashed, 0, key, err);
    clock_remove(b, key);
    return end(crashed, 0, key, err);
}

/* One that crashes has deleted half of them. */
static int del_many(struct bh_bucket *b, const char *const *keys, size_t count, size_t *deleted,
                    const struct bh_call *call, struct bh_error *err)
{
    int crashed;
    bool done = begin("delete", keys[0], &crashed);
    size_t n = !done ? 0 : crashed ? (count + 1) / 2 : count;
    for (size_t i = 0; i < n; i++)
        clock_remove(b, keys[i]);
    if (deleted)
        *deleted = n;
    return end(crashed, 0, keys[0], err);
}

static int list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn, void *arg,
                const struct bh_call *call, struct bh_error *err)
{
    struct clock_bucket *m = of(b);
    const size_t skip = strlen(req->prefix);
    int crashed, rc = 0;
    if (!begin("list", req->prefix, &crashed) || crashed)
        return end(crashed, 0, req->prefix, err);
    BH_LOCK_SCOPE(&m->mutex);
    for (size_t i = find(m, req->prefix); i < m->count && rc == 0; i++) {
        struct bh_object_info info;
        const char *key = m->objects[i].key;
        if (strncmp(key, req->prefix, skip) != 0)
            break;
        if (req->delimiter && strchr(key + skip, req->delimiter[0]))
            continue;
        fill(&m->objects[i], &info);
        rc = fn(arg, key, false, &info, err);
    }
    return rc;
}

static int mp_list(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
                   const struct bh_call *call, struct bh_error *err)
{
    int crashed;
    begin("uploads", prefix, &crashed);
    return end(crashed, 0, prefix, err);
}

static int server_time(struct bh_bucket *b, int64_t *real_ms, const struct bh_call *call,
                       struct bh_error *err)
{
    int crashed;
    begin("time", "", &crashed);
    *real_ms = clock_ms;
    return end(crashed, 0, "", err);
}

static int learn(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    return 0;
}

static unsigned caps(struct bh_bucket *b)
{
    return BH_CAP_IF_NONE_MATCH | BH_CAP_IF_MATCH;
}

static void close_(struct bh_bucket *b)
{
    struct clock_bucket *m = of(b);
    while (m->count)
        drop(m, m->count - 1);
    free(m->objects);
    pthread_mutex_destroy(&m->mutex);
    free(m);
}

struct bh_bucket *clock_bucket_new(void)
{
    static const struct bh_bucket_ops ops = {
        .name = "clock",
        .close = close_,
        .caps = caps,
        .get = get,
        .put = put,
        .head = head,
        .del = del,
        .del_many = del_many,
        .list = list,
        .mp_list = mp_list,
        .server_time = server_time,
        .learn = learn,
    };
    struct clock_bucket *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->base.ops = &ops;
    pthread_mutex_init(&m->mutex, NULL);
    atomic_store(&clock_requests_left, INT32_MAX);
    clock_hook = NULL;
    clock_lie = NULL;
    return &m->base;
}

/* --- for tests --- */

uint64_t clock_bytes(struct bh_bucket *b, const char *prefix)
{
    const struct clock_bucket *m = of(b);
    uint64_t bytes = 0;
    for (size_t i = find(m, prefix); i < m->count; i++) {
        if (strncmp(m->objects[i].key, prefix, strlen(prefix)) != 0)
            break;
        bytes += m->objects[i].size;
    }
    return bytes;
}

size_t clock_count(struct bh_bucket *b, const char *prefix)
{
    const struct clock_bucket *m = of(b);
    size_t i = find(m, prefix), first = i;
    while (i < m->count && !strncmp(m->objects[i].key, prefix, strlen(prefix)))
        i++;
    return i - first;
}

char *clock_data(struct bh_bucket *b, const char *key, size_t *size)
{
    struct object *o = get_object(of(b), key);
    if (!o)
        return NULL;
    if (size)
        *size = o->size;
    return o->data;
}

void clock_remove(struct bh_bucket *b, const char *key)
{
    BH_LOCK_SCOPE(&of(b)->mutex);
    if (get_object(of(b), key))
        drop(of(b), find(of(b), key));
}

static void add(struct clock_bucket *m, const char *key, const struct object *o)
{
    const struct bh_source src = {.size = o->size, .data = o->data};
    assert_int_equal(store(m, key, &src, NULL, NULL), 0);
    struct object *at = get_object(m, key);
    at->mtime_ms = o->mtime_ms;
    at->version = o->version;
}

void clock_bucket_copy(struct bh_bucket *to, struct bh_bucket *from)
{
    struct clock_bucket *m = of(to);
    while (m->count)
        drop(m, m->count - 1);
    for (size_t i = 0; i < of(from)->count; i++)
        add(m, of(from)->objects[i].key, &of(from)->objects[i]);
    m->versions = of(from)->versions;
}

void clock_double(struct bh_bucket *b, const char *key, const char *as)
{
    struct object o = *get_object(of(b), key);
    add(of(b), as, &o);
}
