/* The plain layer for a test: SCRATCH/bucket as a bucket, a spy over it that counts, holds uploads
 * back or lets something happen before them, and the fault layer where rules are given. */
#ifndef LIVE_PLAIN_H
#define LIVE_PLAIN_H

#include "live_db.h"

#include "bucket/bucket.h"
#include "repo/plain_private.h"
#include "util/sha256.h"

#define KEY  "bucketsqlite/snap.db"
#define PREV KEY ".prev"

struct spy {
    struct bh_bucket base;
    struct bh_bucket *inner;
    unsigned caps_taken; /* capabilities that this store has not */
    unsigned puts, requests;
    void (*before_put)(const char *key);
    void (*before_copy)(void);
    bool hold; /* the next put arrives late, after its answer was lost */
    struct held {
        char key[200], *data;
        size_t size;
        struct bh_meta meta;
        char if_match[BH_ETAG_MAX];
        struct bh_cond cond;
    } held;
};

static struct spy *spy;
static struct bh_bucket *bucket; /* with the layers */
static struct bh_plain *plain;
static struct bh_load_report report;
static struct bh_flush_result result;

static inline void spy_close(struct bh_bucket *b)
{
    struct spy *s = (struct spy *)(void *)b;
    bh_bucket_close(s->inner);
    free(s->held.data);
    free(s);
}

static inline unsigned spy_caps(struct bh_bucket *b)
{
    struct spy *s = (struct spy *)(void *)b;
    return bh_bucket_caps(s->inner) & ~s->caps_taken;
}

static inline int spy_get(struct bh_bucket *b, const char *key, uint64_t offset, uint64_t length,
                          bh_sink_fn *sink, void *arg, struct bh_object_info *info,
                          const struct bh_call *call, struct bh_error *err)
{
    struct spy *s = (struct spy *)(void *)b;
    s->requests++;
    return bh_bucket_get(s->inner, key, offset, length, sink, arg, info, call, err);
}

static inline int spy_head(struct bh_bucket *b, const char *key, struct bh_object_info *info,
                           const struct bh_call *call, struct bh_error *err)
{
    struct spy *s = (struct spy *)(void *)b;
    s->requests++;
    return bh_bucket_head(s->inner, key, info, call, err);
}

static inline int spy_copy(struct bh_bucket *b, const char *from, const char *to,
                           const char *if_match, struct bh_object_info *info,
                           const struct bh_call *call, struct bh_error *err)
{
    struct spy *s = (struct spy *)(void *)b;
    s->requests++;
    if (s->before_copy)
        s->before_copy();
    return bh_bucket_copy(s->inner, from, to, if_match, info, call, err);
}

static inline int hold_put(struct spy *s, const char *key, const struct bh_source *src,
                           const struct bh_meta *meta, const struct bh_cond *cond,
                           struct bh_error *err)
{
    struct held *h = &s->held;
    s->hold = false;
    snprintf(h->key, sizeof h->key, "%s", key);
    h->size = (size_t)src->size;
    h->data = malloc(h->size + 1);
    if (!h->data || src->read(src->arg, 0, h->data, h->size, err))
        return EIO;
    h->meta = *meta;
    h->cond = cond ? *cond : (struct bh_cond){0};
    if (h->cond.if_match) {
        snprintf(h->if_match, sizeof h->if_match, "%s", h->cond.if_match);
        h->cond.if_match = h->if_match;
    }
    return bh_fail(err, ETIMEDOUT, "no answer");
}

static inline int spy_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
                          const struct bh_meta *meta, const struct bh_cond *cond,
                          struct bh_object_info *info, const struct bh_call *call,
                          struct bh_error *err)
{
    struct spy *s = (struct spy *)(void *)b;
    s->requests++;
    s->puts++;
    if (s->hold)
        return hold_put(s, key, src, meta, cond, err);
    if (s->before_put)
        s->before_put(key);
    return bh_bucket_put(s->inner, key, src, meta, cond, info, call, err);
}

static inline int spy_learn(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    return 0;
}

static const struct bh_bucket_ops spy_ops = {.name = "spy",
                                             .close = spy_close,
                                             .caps = spy_caps,
                                             .get = spy_get,
                                             .head = spy_head,
                                             .copy = spy_copy,
                                             .put = spy_put,
                                             .learn = spy_learn};

/* What was held back reaches the store now; the store's answer. */
static inline int deliver(void)
{
    struct held *h = &spy->held;
    struct bh_source src = {.size = h->size, .data = h->data};
    int rc = bh_bucket_put(spy->inner, h->key, &src, &h->meta, &h->cond, NULL, NULL, ERR);
    free(h->data);
    h->data = NULL;
    return rc;
}

/* --- life --- */

/* The bucket behaves by these rules from now on ("": well). */
static inline void rules_are(const char *rules)
{
    unlink(at("rules")); /* another file: the layer sees it by its number or size at the latest */
    put_file("rules", rules, strlen(rules));
}

static inline void open_bucket(void)
{
    char rules[100];
    rules_are("");
    snprintf(rules, sizeof rules, "@%s/rules", scratch);
    spy = calloc(1, sizeof *spy);
    assert_non_null(spy);
    spy->base.ops = &spy_ops;
    must(bh_bucket_dir_open(&spy->inner, at("bucket"), ERR));
    must(bh_bucket_fault_wrap(&bucket, &spy->base, rules, 42, ERR));
}

static inline void open_all(void)
{
    open_bucket();
    open_live(NULL);
    must(bh_plain_new(&plain, cfg, bucket, live, false, ERR));
}

static inline int load(void)
{
    report.text[0] = '\0';
    return bh_plain_load(plain, &report, NULL, ERR);
}

static inline void start(void)
{
    open_all();
    must(load());
}

static inline void shut(void)
{
    bh_plain_free(plain);
    plain = NULL;
    bh_live_close(live);
    live = NULL;
    bh_bucket_close(bucket);
    bucket = NULL;
    spy = NULL;
}

static inline void restart(void)
{
    shut();
    start();
}

static inline int plain_teardown(void **state)
{
    shut();
    return db_teardown(state);
}

/* --- what tests do --- */

static inline int flush(void)
{
    return bh_plain_flush(plain, cfg->snapshot.keep_previous, &result, NULL, ERR);
}

/* A row of t with this number, in a transaction of its own. */
static inline void insert(int n)
{
    char text[160];
    snprintf(text, sizeof text,
             "CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY); INSERT INTO t VALUES(%d)", n);
    must(on_sql_thread(BH_SQL_WRITE, text));
}

/* The largest number in t of the object, -1 if it is no database of ours. */
static inline int64_t object_has(const char *key)
{
    char name[200];
    snprintf(name, sizeof name, "bucket/%s", key);
    copy_file(name, "object.db");
    sqlite3 *c = stock("object.db");
    int64_t n = number(c, "SELECT max(n) FROM t");
    sqlite3_close(c);
    return n;
}

static inline int64_t live_has(void)
{
    sqlite3 *c = connect_live();
    int64_t n = number(c, "SELECT max(n) FROM t");
    sqlite3_close(c);
    return n;
}

static inline bool object_exists(const char *key)
{
    char name[200];
    snprintf(name, sizeof name, "bucket/%s", key);
    return is_there(name);
}

static inline void head(const char *key, struct bh_object_info *info)
{
    must(bh_bucket_head(spy->inner, key, info, NULL, ERR));
}

static inline bool dirty(void)
{
    return bh_store_is_dirty(live->store);
}

/* Another program's upload: a database whose t holds n, with an id of its own or (NULL) no
 * metadata. */
static inline void upload_foreign(const char *key, int n, const char *id)
{
    char text[100];
    size_t size;
    struct bh_bucket *b;
    struct bh_meta meta = {0};
    unlink(at("foreign.db"));
    sqlite3 *c = stock("foreign.db");
    snprintf(text, sizeof text, "CREATE TABLE t(n INTEGER PRIMARY KEY); INSERT INTO t VALUES(%d)",
             n);
    must_sql(c, text);
    sqlite3_close(c);
    unsigned char *data = get_file("foreign.db", &size);
    struct bh_source src = {.size = size, .data = data};
    if (id)
        must(bh_meta_set(&meta, META_SNAPSHOT, id, ERR));
    must(bh_bucket_dir_open(&b, at("bucket"), ERR));
    must(bh_bucket_put(b, key, &src, &meta, NULL, NULL, NULL, ERR));
    bh_bucket_close(b);
    free(data);
}

/* An object that is no database. */
static inline void upload_junk(const char *key)
{
    struct bh_bucket *b;
    struct bh_source src = {.size = 5000, .data = calloc(1, 5000)};
    must(bh_bucket_dir_open(&b, at("bucket"), ERR));
    must(bh_bucket_put(b, key, &src, NULL, NULL, NULL, NULL, ERR));
    bh_bucket_close(b);
    free((void *)(uintptr_t)src.data);
}

#endif
