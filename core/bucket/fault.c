/* The fault layer: fails, cuts and delays calls as rules say, so that tests see what a bad day
 * brings.
 *
 * Rules are separated by ';' or new lines, '#' begins a comment. One rule:
 *
 *     OPERATION:KIND[:N%][:key=GLOB][:first=N][:after=N]
 *
 * Operations: get, put, head, copy, delete, list, multipart (all of an upload), other (time, links)
 * and * for all. Kinds:
 *
 * - eio, etimedout, eacces, eagain, enospc: the call fails, nothing happens below.
 * - cut: a get delivers a part of the body and a listing some entries, then EIO. Other operations:
 *   EIO, nothing happens below.
 * - done-but-failed: it is done below; if that succeeded, ETIMEDOUT is said.
 * - delay=DURATION: waits first (200ms, 1.5s). Cancel and deadline end the wait.
 *
 * Options:
 *
 * - N%: how likely (a fraction is allowed); always, if it is not given.
 * - key=GLOB: only keys that match as fnmatch does ('*' matches '/'): the first key of a deletion
 *   of many, the source of a copy, the prefix of a listing. A '?' stands for ':' and ';'.
 * - after=N: not the first N calls that operation and key apply to.
 * - first=N: only N of them (after those of after=N).
 *
 * Of several rules that strike, the first that is no delay decides; delays add up. Example:
 *
 *     put:eio:10%;get:cut:5%;*:delay=200ms:50%;head:etimedout:first=3;put:eio:key=*.prev
 *
 * What strikes depends on the seed and on how many calls the rule has seen, not on the time.
 *
 * "@/PATH" instead of rules names a file that holds them. It is read anew when it changed (counters
 * begin again then); no file means no rules; a file with an error is logged and changes nothing. */
#include "bucket/bucket.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bucket/bucket_util.h"
#include "bucket/fault_rules.h"
#include "util/cleanup.h"
#include "util/io.h"
#include "util/log.h"

#define FILE_MAX     ((size_t)1 << 20)
#define CUT_LIST_MAX 8

struct fault {
    struct bh_bucket base;
    struct bh_bucket *inner;
    uint64_t seed;
    pthread_mutex_t mutex; /* guards what follows */
    struct bh_fault_rules *rules;
    char *file;         /* NULL: the rules never change */
    struct stat loaded; /* the file's, as of its reading; all zero if there was none */
};

static struct fault *fault_of(struct bh_bucket *b)
{
    return (struct fault *)b;
}

/* --- the file of rules --- */

static bool file_changed(const struct stat *a, const struct stat *b)
{
    return a->st_ino != b->st_ino || a->st_size != b->st_size ||
           a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec ||
           a->st_ctim.tv_sec != b->st_ctim.tv_sec || a->st_ctim.tv_nsec != b->st_ctim.tv_nsec;
}

/* Reads the file if it changed since. The caller holds the mutex. */
static int reload(struct fault *f, struct bh_error *err)
{
    struct stat st = {0};
    BH_FREE char *text = NULL;
    if (stat(f->file, &st) != 0)
        memset(&st, 0, sizeof st);
    if (f->rules && !file_changed(&st, &f->loaded))
        return 0;
    int rc = bh_read_small_file(AT_FDCWD, f->file, FILE_MAX, &text, NULL, err);
    f->loaded = st;
    if (rc && rc != ENOENT)
        return rc;
    struct bh_fault_rules *rules = bh_fault_rules_parse(rc ? "" : text, f->seed, err);
    if (!rules)
        return EINVAL;
    bh_fault_rules_free(f->rules);
    f->rules = rules;
    return 0;
}

/* --- what happens to a call --- */

static void make_plan(struct fault *f, enum bh_bucket_op op, const char *key,
                      struct bh_fault_plan *plan)
{
    struct bh_error err = {0};
    BH_LOCK_SCOPE(&f->mutex);
    if (f->file && reload(f, &err) != 0)
        bh_log(BH_LOG_ERROR, "the fault rules stay as they were: %s", err.text);
    bh_fault_rules_apply(f->rules, op, key, plan);
}

static int injected(const struct bh_fault_plan *plan, enum bh_bucket_op op, const char *key,
                    struct bh_error *err)
{
    return bh_fail(err, plan->code, "injected fault: %s of %s: %s (rule %s)", bh_bucket_op_name(op),
                   key, strerror(plan->code), plan->rule);
}

/* Before the call: the delay, and the faults that keep it from happening. */
static int before(struct bh_bucket *b, enum bh_bucket_op op, const char *key,
                  struct bh_fault_plan *plan, const struct bh_call *call, struct bh_error *err)
{
    make_plan(fault_of(b), op, key, plan);
    if (plan->delay_ms > 0) {
        int rc = bh_call_sleep(call, plan->delay_ms, "a call with an injected delay", err);
        if (rc)
            return rc;
    }
    if (plan->kind == BH_FAULT_ERRNO ||
        (plan->kind == BH_FAULT_CUT && op != BH_OP_GET && op != BH_OP_LIST))
        return injected(plan, op, key, err);
    return 0;
}

static int after(const struct bh_fault_plan *plan, enum bh_bucket_op op, const char *key, int rc,
                 struct bh_error *err)
{
    if (!rc && plan->kind == BH_FAULT_DONE_BUT_FAILED)
        return injected(plan, op, key, err);
    return rc;
}

/* Does `attempt` (which uses `inner`) between before and after. */
#define FAULTY(b, op, key, call, err, attempt)                                                     \
    do {                                                                                           \
        struct bh_fault_plan plan_;                                                                \
        struct bh_bucket *const inner = fault_of(b)->inner;                                        \
        int rc_ = before((b), (op), (key), &plan_, (call), (err));                                 \
        return rc_ ? rc_ : after(&plan_, (op), (key), (attempt), (err));                           \
    } while (0)

/* --- get --- */

struct cut_sink {
    bh_sink_fn *sink;
    void *arg;
    const struct bh_object_info *info;
    const struct bh_fault_plan *plan;
    const char *key;
    uint64_t offset, length; /* of the range that was asked for */
    uint64_t passed, limit;
    bool begun;
};

static int cut_take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct cut_sink *c = arg;
    if (!c->begun) {
        uint64_t range = c->info->size - c->offset;
        if (range > c->length)
            range = c->length;
        c->limit = range ? c->plan->random % range : 0;
        c->begun = true;
    }
    size_t part = len < c->limit - c->passed ? len : (size_t)(c->limit - c->passed);
    int rc = part ? c->sink(c->arg, data, part, err) : 0;
    c->passed += part;
    if (rc || part == len)
        return rc;
    return injected(c->plan, BH_OP_GET, c->key, err);
}

static int fault_get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
                     bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                     const struct bh_call *call, struct bh_error *err)
{
    struct bh_fault_plan plan;
    struct bh_bucket *inner = fault_of(b)->inner;
    int rc = before(b, BH_OP_GET, key, &plan, call, err);
    if (rc)
        return rc;
    if (plan.kind == BH_FAULT_CUT) {
        struct cut_sink c = {.sink = sink,
                             .arg = arg,
                             .info = info,
                             .plan = &plan,
                             .key = key,
                             .offset = offset,
                             .length = length};
        rc = inner->ops->get(inner, key, offset, length, cut_take, &c, info, call, err);
        return rc ? rc : injected(&plan, BH_OP_GET, key, err);
    }
    rc = inner->ops->get(inner, key, offset, length, sink, arg, info, call, err);
    return after(&plan, BH_OP_GET, key, rc, err);
}

/* --- the others --- */

static int fault_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
                     const struct bh_meta *meta, const struct bh_cond *cond,
                     struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    FAULTY(b, BH_OP_PUT, key, call, err,
           inner->ops->put(inner, key, src, meta, cond, info, call, err));
}

static int fault_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                      const struct bh_call *call, struct bh_error *err)
{
    FAULTY(b, BH_OP_HEAD, key, call, err, inner->ops->head(inner, key, info, call, err));
}

static int fault_copy(struct bh_bucket *b, const char *from, const char *to,
                      const char *from_if_match, struct bh_object_info *info,
                      const struct bh_call *call, struct bh_error *err)
{
    FAULTY(b, BH_OP_COPY, from, call, err,
           inner->ops->copy(inner, from, to, from_if_match, info, call, err));
}

static int fault_delete(struct bh_bucket *b, const char *key, const struct bh_call *call,
                        struct bh_error *err)
{
    FAULTY(b, BH_OP_DELETE, key, call, err, inner->ops->del(inner, key, call, err));
}

static int fault_delete_many(struct bh_bucket *b, const char *const *keys, size_t count,
                             size_t *deleted, const struct bh_call *call, struct bh_error *err)
{
    FAULTY(b, BH_OP_DELETE, count ? keys[0] : "", call, err,
           inner->ops->del_many(inner, keys, count, deleted, call, err));
}

struct cut_list {
    bh_list_fn *fn;
    void *arg;
    const struct bh_fault_plan *plan;
    const char *prefix;
    uint64_t left; /* entries that still come through */
};

static int cut_list_take(void *arg, const char *key, bool is_prefix,
                         const struct bh_object_info *info, struct bh_error *err)
{
    struct cut_list *c = arg;
    if (c->left == 0)
        return injected(c->plan, BH_OP_LIST, c->prefix, err);
    c->left--;
    return c->fn(c->arg, key, is_prefix, info, err);
}

static int fault_list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn,
                      void *arg, const struct bh_call *call, struct bh_error *err)
{
    struct bh_fault_plan plan;
    struct bh_bucket *inner = fault_of(b)->inner;
    int rc = before(b, BH_OP_LIST, req->prefix, &plan, call, err);
    if (rc)
        return rc;
    if (plan.kind == BH_FAULT_CUT) {
        struct cut_list c = {fn, arg, &plan, req->prefix, plan.random % CUT_LIST_MAX};
        rc = inner->ops->list(inner, req, cut_list_take, &c, call, err);
        return rc ? rc : injected(&plan, BH_OP_LIST, req->prefix, err);
    }
    rc = inner->ops->list(inner, req, fn, arg, call, err);
    return after(&plan, BH_OP_LIST, req->prefix, rc, err);
}

static int fault_mp_begin(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                          char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                          struct bh_error *err)
{
    FAULTY(b, BH_OP_MULTIPART, key, call, err,
           inner->ops->mp_begin(inner, key, meta, upload_id, call, err));
}

static int fault_mp_part(struct bh_bucket *b, const char *key, const char *upload_id,
                         unsigned number, const struct bh_source *src, struct bh_part *out,
                         const struct bh_call *call, struct bh_error *err)
{
    FAULTY(b, BH_OP_MULTIPART, key, call, err,
           inner->ops->mp_part(inner, key, upload_id, number, src, out, call, err));
}

static int fault_mp_part_copy(struct bh_bucket *b, const char *key, const char *upload_id,
                              unsigned number, const char *from, uint64_t offset, uint64_t length,
                              const char *from_if_match, struct bh_part *out,
                              const struct bh_call *call, struct bh_error *err)
{
    FAULTY(b, BH_OP_MULTIPART, key, call, err,
           inner->ops->mp_part_copy(inner, key, upload_id, number, from, offset, length,
                                    from_if_match, out, call, err));
}

static int fault_mp_complete(struct bh_bucket *b, const char *key, const char *upload_id,
                             const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                             struct bh_object_info *info, const struct bh_call *call,
                             struct bh_error *err)
{
    FAULTY(b, BH_OP_MULTIPART, key, call, err,
           inner->ops->mp_complete(inner, key, upload_id, parts, count, cond, info, call, err));
}

static int fault_mp_abort(struct bh_bucket *b, const char *key, const char *upload_id,
                          const struct bh_call *call, struct bh_error *err)
{
    FAULTY(b, BH_OP_MULTIPART, key, call, err,
           inner->ops->mp_abort(inner, key, upload_id, call, err));
}

static int fault_mp_list(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
                         const struct bh_call *call, struct bh_error *err)
{
    FAULTY(b, BH_OP_MULTIPART, prefix, call, err,
           inner->ops->mp_list(inner, prefix, fn, arg, call, err));
}

static int fault_presign(struct bh_bucket *b, const char *key, int64_t seconds,
                         struct bh_strbuf *url, struct bh_error *err)
{
    FAULTY(b, BH_OP_OTHER, key, NULL, err, inner->ops->presign(inner, key, seconds, url, err));
}

static int fault_server_time(struct bh_bucket *b, int64_t *real_ms, const struct bh_call *call,
                             struct bh_error *err)
{
    FAULTY(b, BH_OP_OTHER, "the bucket", call, err,
           inner->ops->server_time(inner, real_ms, call, err));
}

/* No fault: it asks nothing where the answers are known. */
static int fault_learn(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    return bh_bucket_learn(fault_of(b)->inner, call, err);
}

static int fault_make(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    FAULTY(b, BH_OP_OTHER, "the bucket", call, err, inner->ops->make(inner, call, err));
}

static void fault_describe(struct bh_bucket *b, struct bh_strbuf *out)
{
    bh_bucket_describe(fault_of(b)->inner, out);
    bh_strbuf_addf(out, "testing: faults are injected (bucket.fault)\n");
}

static unsigned fault_caps(struct bh_bucket *b)
{
    return bh_bucket_caps(fault_of(b)->inner);
}

static void fault_stats(struct bh_bucket *b, struct bh_bucket_stats *out)
{
    bh_bucket_stats(fault_of(b)->inner, out);
}

static void fault_free(struct fault *f)
{
    bh_fault_rules_free(f->rules);
    free(f->file);
    pthread_mutex_destroy(&f->mutex);
    free(f);
}

static void fault_close(struct bh_bucket *b)
{
    bh_bucket_close(fault_of(b)->inner);
    fault_free(fault_of(b));
}

static const struct bh_bucket_ops fault_ops = {
    .name = "fault",
    .close = fault_close,
    .caps = fault_caps,
    .get = fault_get,
    .put = fault_put,
    .head = fault_head,
    .copy = fault_copy,
    .del = fault_delete,
    .del_many = fault_delete_many,
    .list = fault_list,
    .mp_begin = fault_mp_begin,
    .mp_part = fault_mp_part,
    .mp_part_copy = fault_mp_part_copy,
    .mp_complete = fault_mp_complete,
    .mp_abort = fault_mp_abort,
    .mp_list = fault_mp_list,
    .presign = fault_presign,
    .server_time = fault_server_time,
    .learn = fault_learn,
    .make = fault_make,
    .describe = fault_describe,
    .stats = fault_stats,
};

int bh_bucket_fault_wrap(struct bh_bucket **out, struct bh_bucket *inner, const char *rules,
                         uint64_t seed, struct bh_error *err)
{
    int rc = 0;
    struct bh_error own;
    err = err ? err : &own;
    struct fault *f = calloc(1, sizeof *f);
    if (!f)
        return bh_fail(err, ENOMEM, "out of memory while opening the bucket");
    f->base.ops = &fault_ops;
    f->inner = inner;
    f->seed = seed;
    pthread_mutex_init(&f->mutex, NULL);
    if (rules[0] != '@') {
        f->rules = bh_fault_rules_parse(rules, seed, err);
        rc = f->rules ? 0 : err->code;
    } else if (rules[1] != '/') {
        rc = bh_fail(err, EINVAL, "the file of fault rules %s is not an absolute path", rules + 1);
    } else if (!(f->file = strdup(rules + 1))) {
        rc = bh_fail(err, ENOMEM, "out of memory while opening the bucket");
    } else {
        rc = reload(f, err);
    }
    if (rc) {
        fault_free(f);
        return rc;
    }
    *out = &f->base;
    return 0;
}
