#include "memory_bucket.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct memory_bucket {
    struct bh_bucket base;
    struct memory_object *objects; /* ascending */
    size_t count;
    unsigned fail_in; /* 0: not */
    int fail_rc;
    void (*on_request)(struct bh_bucket *b, const char *key);
    struct memory_object later; /* key NULL: none */
};

static struct memory_bucket *of(struct bh_bucket *b)
{
    return (struct memory_bucket *)(void *)b;
}

static struct memory_object *find(struct memory_bucket *m, const char *key)
{
    for (size_t i = 0; i < m->count; i++)
        if (!strcmp(m->objects[i].key, key))
            return &m->objects[i];
    return NULL;
}

static void insert(struct memory_bucket *m, struct memory_object o)
{
    size_t at = 0;
    m->objects = realloc(m->objects, (m->count + 1) * sizeof o);
    assert_non_null(m->objects);
    while (at < m->count && strcmp(m->objects[at].key, o.key) < 0)
        at++;
    memmove(&m->objects[at + 1], &m->objects[at], (m->count - at) * sizeof o);
    m->objects[at] = o;
    m->count++;
}

static void fill(const struct memory_object *o, struct bh_object_info *info)
{
    *info = (struct bh_object_info){.size = o->size, .mtime_ms = 1, .meta = o->meta};
    snprintf(info->etag, sizeof info->etag, "%u", o->version);
}

/* Before a request: what it fails with. */
static int begin(struct memory_bucket *m, const char *key, const struct bh_call *call,
                 struct bh_error *err)
{
    if (m->fail_in && --m->fail_in == 0)
        return bh_fail(err, m->fail_rc, "the store fails as it was told to");
    if (m->on_request)
        m->on_request(&m->base, key);
    return bh_call_check(call, key, err);
}

static int missing(struct memory_bucket *m, const char *key, struct bh_error *err)
{
    if (m->later.key && !strcmp(m->later.key, key)) {
        insert(m, m->later);
        m->later.key = NULL;
    }
    return bh_fail(err, ENOENT, "%s does not exist", key);
}

static int get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
               bh_sink_fn *sink, void *arg, struct bh_object_info *info, const struct bh_call *call,
               struct bh_error *err)
{
    int rc = begin(of(b), key, call, err);
    struct memory_object *o = rc ? NULL : find(of(b), key);
    if (!o)
        return rc ? rc : missing(of(b), key, err);
    if (offset >= o->size && (offset || o->size))
        return bh_fail(err, EINVAL, "%s has no such range", key);
    if (info)
        fill(o, info);
    if (length > o->size - offset)
        length = o->size - offset;
    return length ? sink(arg, o->data + offset, (size_t)length, err) : 0;
}

static int head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                const struct bh_call *call, struct bh_error *err)
{
    int rc = begin(of(b), key, call, err);
    struct memory_object *o = rc ? NULL : find(of(b), key);
    if (!o)
        return rc ? rc : missing(of(b), key, err);
    if (info)
        fill(o, info);
    return 0;
}

static int list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn, void *arg,
                const struct bh_call *call, struct bh_error *err)
{
    struct memory_bucket *m = of(b);
    const size_t skip = strlen(req->prefix);
    int rc = begin(m, req->prefix, call, err);
    for (size_t i = 0; i < m->count && !rc; i++) {
        struct bh_object_info info;
        const char *key = m->objects[i].key;
        if (strncmp(key, req->prefix, skip) ||
            (req->delimiter && strchr(key + skip, req->delimiter[0])))
            continue;
        fill(&m->objects[i], &info);
        rc = fn(arg, key, false, &info, err);
    }
    return rc;
}

static unsigned caps(struct bh_bucket *b)
{
    return BH_CAP_IF_NONE_MATCH | BH_CAP_IF_MATCH;
}

static void object_free(struct memory_object *o)
{
    free(o->key);
    free(o->data);
}

static void close_(struct bh_bucket *b)
{
    struct memory_bucket *m = of(b);
    for (size_t i = 0; i < m->count; i++)
        object_free(&m->objects[i]);
    free(m->objects);
    free(m);
}

struct bh_bucket *memory_bucket_new(void)
{
    static const struct bh_bucket_ops ops = {
        .name = "memory", .close = close_, .caps = caps, .get = get, .head = head, .list = list};
    struct memory_bucket *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->base.ops = &ops;
    return &m->base;
}

void memory_put(struct bh_bucket *b, const char *key, const void *data, size_t len,
                const struct bh_meta *meta)
{
    struct memory_object o = {
        .key = strdup(key), .data = calloc(1, len + 1), .size = len, .version = 1, .meta = *meta};
    assert_non_null(o.data);
    memcpy(o.data, data, len);
    insert(of(b), o);
}

struct memory_object *memory_find(struct bh_bucket *b, const char *key)
{
    struct memory_object *o = find(of(b), key);
    if (!o)
        fail_msg("there is no object %s", key);
    return o;
}

struct memory_object memory_take(struct bh_bucket *b, const char *key)
{
    struct memory_bucket *m = of(b);
    struct memory_object *at = memory_find(b, key), o = *at;
    memmove(at, at + 1, (size_t)(m->objects + m->count - at - 1) * sizeof o);
    m->count--;
    return o;
}

void memory_drop(struct bh_bucket *b, const char *key)
{
    struct memory_object o = memory_take(b, key);
    object_free(&o);
}

void memory_give(struct bh_bucket *b, const char *key, const struct memory_object *o)
{
    assert_string_equal(key, o->key);
    insert(of(b), *o);
}

void memory_give_later(struct bh_bucket *b, const char *key, const struct memory_object *o)
{
    assert_string_equal(key, o->key);
    of(b)->later = *o;
}

void memory_swap(struct bh_bucket *b, const char *key, const char *other)
{
    struct memory_object *x = memory_find(b, key), *y = memory_find(b, other), was = *x;
    x->data = y->data;
    x->size = y->size;
    x->meta = y->meta;
    y->data = was.data;
    y->size = was.size;
    y->meta = was.meta;
}

void memory_touch(struct bh_bucket *b, struct memory_object *o)
{
    o->version++;
}

void memory_fail_at(struct bh_bucket *b, unsigned n, int rc)
{
    of(b)->fail_in = rc ? n + 1 : 0;
    of(b)->fail_rc = rc;
}

void memory_on_request(struct bh_bucket *b, void (*fn)(struct bh_bucket *b, const char *key))
{
    of(b)->on_request = fn;
}
