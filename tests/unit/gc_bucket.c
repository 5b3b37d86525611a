#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gc_model.h"
#include "util/clock.h"

int64_t now_ms;

struct stamp {
    char key[160];
    int64_t ms;
};
static struct stamp stamps[4096];
static size_t stamp_count;

int64_t *stamp_of(const char *key)
{
    for (size_t i = 0; i < stamp_count; i++)
        if (!strcmp(stamps[i].key, key))
            return &stamps[i].ms;
    return NULL;
}

static void stamp(const char *key)
{
    int64_t *ms = stamp_of(key);
    if (!ms) {
        assert_true(stamp_count < sizeof stamps / sizeof *stamps);
        snprintf(stamps[stamp_count].key, sizeof stamps->key, "%s", key);
        ms = &stamps[stamp_count++].ms;
    }
    *ms = now_ms;
}

atomic_int requests_left = INT32_MAX;
bool last_is_done;
const char *hook_op, *hook_key;
void (*hook)(void);

static struct bh_bucket *inner(void)
{
    return b;
}

static bool ends_with(const char *s, const char *end)
{
    size_t a = strlen(s), c = strlen(end);
    return a >= c && !strcmp(s + a - c, end);
}

static bool crashed(const char *op, const char *key)
{
    if (hook && !strcmp(op, hook_op) && ends_with(key, hook_key)) {
        void (*run)(void) = hook;
        hook = NULL;
        run();
    }
    return atomic_fetch_sub(&requests_left, 1) <= 0;
}

static bool is_last(void)
{
    return last_is_done && atomic_load(&requests_left) == -1;
}

/* What is to be done, unless the program has "crashed" by now. */
#define REQUEST(op, key, expression)                                                               \
    do {                                                                                           \
        bool over_ = crashed(op, key);                                                             \
        int rc_ = over_ && !is_last() ? 0 : (expression);                                          \
        return over_ ? bh_fail(err, EIO, "crashed") : rc_;                                         \
    } while (0)

static void fake_close(struct bh_bucket *f)
{
    free(f);
}
static unsigned fake_caps(struct bh_bucket *f)
{
    return bh_bucket_caps(inner());
}

static int stamped(int rc, const char *key, struct bh_object_info *info)
{
    if (rc == 0 && info && stamp_of(key))
        info->mtime_ms = *stamp_of(key);
    return rc;
}

static int fake_get(struct bh_bucket *f, const char *key, uint64_t offset, uint64_t length,
                    bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                    const struct bh_call *call, struct bh_error *err)
{
    REQUEST("get", key,
            stamped(bh_bucket_get(inner(), key, offset, length, sink, arg, info, call, err), key,
                    info));
}

static int put_stamped(const char *key, const struct bh_source *src, const struct bh_meta *meta,
                       const struct bh_cond *cond, struct bh_object_info *info,
                       const struct bh_call *call, struct bh_error *err)
{
    int rc = bh_bucket_put(inner(), key, src, meta, cond, info, call, err);
    if (rc == 0)
        stamp(key);
    return stamped(rc, key, info);
}

static int fake_put(struct bh_bucket *f, const char *key, const struct bh_source *src,
                    const struct bh_meta *meta, const struct bh_cond *cond,
                    struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    REQUEST("put", key, put_stamped(key, src, meta, cond, info, call, err));
}

static int fake_head(struct bh_bucket *f, const char *key, struct bh_object_info *info,
                     const struct bh_call *call, struct bh_error *err)
{
    REQUEST("head", key, stamped(bh_bucket_head(inner(), key, info, call, err), key, info));
}

static int fake_copy(struct bh_bucket *f, const char *from, const char *to,
                     const char *from_if_match, struct bh_object_info *info,
                     const struct bh_call *call, struct bh_error *err)
{
    REQUEST("copy", from, bh_bucket_copy(inner(), from, to, from_if_match, info, call, err));
}

static int fake_del(struct bh_bucket *f, const char *key, const struct bh_call *call,
                    struct bh_error *err)
{
    REQUEST("delete", key, bh_bucket_delete(inner(), key, call, err));
}

static int fake_del_many(struct bh_bucket *f, const char *const *keys, size_t count,
                         size_t *deleted, const struct bh_call *call, struct bh_error *err)
{
    /* a crash in the midst of it: half of them are gone */
    bool over = crashed("delete", keys[0]);
    size_t n = over ? count / 2 : count;
    if (n > 0 && (!over || is_last()) &&
        bh_bucket_delete_many(inner(), keys, n, deleted, call, err) != 0)
        return EIO;
    return over ? bh_fail(err, EIO, "crashed") : 0;
}

struct fake_list {
    bh_list_fn *fn;
    void *arg;
};

static int list_stamped(void *arg, const char *key, bool is_prefix,
                        const struct bh_object_info *info, struct bh_error *err)
{
    struct fake_list *l = arg;
    struct bh_object_info mine = {0};
    if (info)
        mine = *info;
    stamped(0, key, &mine);
    return l->fn(l->arg, key, is_prefix, &mine, err);
}

static int fake_list(struct bh_bucket *f, const struct bh_list_request *req, bh_list_fn *fn,
                     void *arg, const struct bh_call *call, struct bh_error *err)
{
    struct fake_list l = {fn, arg};
    REQUEST("list", req->prefix, bh_bucket_list(inner(), req, list_stamped, &l, call, err));
}

static int fake_mp_begin(struct bh_bucket *f, const char *key, const struct bh_meta *meta,
                         char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                         struct bh_error *err)
{
    int rc = bh_bucket_mp_begin(inner(), key, meta, upload_id, call, err);
    if (rc == 0)
        stamp(upload_id);
    return rc;
}

static int fake_mp_abort(struct bh_bucket *f, const char *key, const char *upload_id,
                         const struct bh_call *call, struct bh_error *err)
{
    REQUEST("abort", key, bh_bucket_mp_abort(inner(), key, upload_id, call, err));
}

struct fake_uploads {
    bh_upload_fn *fn;
    void *arg;
};

static int upload_stamped(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                          struct bh_error *err)
{
    struct fake_uploads *u = arg;
    return u->fn(u->arg, key, upload_id, *stamp_of(upload_id), err);
}

static int fake_mp_list(struct bh_bucket *f, const char *prefix, bh_upload_fn *fn, void *arg,
                        const struct bh_call *call, struct bh_error *err)
{
    struct fake_uploads u = {fn, arg};
    REQUEST("uploads", prefix, bh_bucket_mp_list(inner(), prefix, upload_stamped, &u, call, err));
}

static int tell_time(int64_t *real_ms)
{
    *real_ms = now_ms;
    return 0;
}

static int fake_server_time(struct bh_bucket *f, int64_t *real_ms, const struct bh_call *call,
                            struct bh_error *err)
{
    REQUEST("time", "", tell_time(real_ms));
}

static int fake_learn(struct bh_bucket *f, const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_learn(inner(), call, err);
}

static const struct bh_bucket_ops fake_ops = {
    .name = "fake",
    .close = fake_close,
    .caps = fake_caps,
    .get = fake_get,
    .put = fake_put,
    .head = fake_head,
    .copy = fake_copy,
    .del = fake_del,
    .del_many = fake_del_many,
    .list = fake_list,
    .mp_begin = fake_mp_begin,
    .mp_abort = fake_mp_abort,
    .mp_list = fake_mp_list,
    .server_time = fake_server_time,
    .learn = fake_learn,
};

struct bh_bucket *bucket;

void bucket_reset(void)
{
    now_ms = bh_real_ms();
    stamp_count = 0;
    hook = NULL;
    atomic_store(&requests_left, INT32_MAX);
    bucket = calloc(1, sizeof *bucket);
    assert_non_null(bucket);
    bucket->ops = &fake_ops;
}
