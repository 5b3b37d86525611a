#include "repo/probe.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repo/plain_private.h"
#include "util/cleanup.h"
#include "util/clock.h"

struct probe {
    const struct bh_config *cfg;
    struct bh_bucket *bucket;
    struct bh_strbuf *out;
    const struct bh_call *call;
};

static const char *yes_no(bool yes)
{
    return yes ? "yes" : "no";
}

/* The clock first: any answer has it, and it is the cheapest question. */
static int probe_answer(struct probe *p, struct bh_error *err)
{
    char when[32];
    int64_t start = bh_mono_ns(), now;
    int rc = bh_bucket_server_time(p->bucket, &now, p->call, err);
    bh_strbuf_addf(p->out, "answers: %s\n",
                   rc == 0                        ? "yes"
                   : rc == EACCES || rc == EINVAL ? "not asked"
                                                  : "no");
    if (rc)
        return rc;
    bh_strbuf_addf(p->out, "answer_ms: %.1f\n", (double)(bh_mono_ns() - start) / 1e6);
    bh_strbuf_addf(p->out, "server_time: %s\n", bh_format_time(now, when, sizeof when));
    bh_strbuf_addf(p->out, "clock_difference_seconds: %lld\n",
                   (long long)((now - bh_real_ms()) / 1000));
    return 0;
}

static void probe_writing(struct probe *p)
{
    struct bh_error why;
    if (bh_bucket_learn(p->bucket, p->call, &why)) {
        bh_strbuf_addf(p->out, "can_write: no: %s\n", why.text);
        return;
    }
    unsigned caps = bh_bucket_caps(p->bucket);
    bh_strbuf_addf(p->out, "can_write: yes\n");
    bh_strbuf_addf(p->out, "can_put_if_absent: %s\n", yes_no(caps & BH_CAP_IF_NONE_MATCH));
    bh_strbuf_addf(p->out, "can_put_if_unchanged: %s\n", yes_no(caps & BH_CAP_IF_MATCH));
    bh_strbuf_addf(p->out, "can_copy_if_unchanged: %s\n", yes_no(caps & BH_CAP_COPY_IF_MATCH));
    bh_strbuf_addf(p->out, "can_complete_if_unchanged: %s\n", yes_no(caps & BH_CAP_MP_COND));
    bh_strbuf_addf(p->out, "can_copy_parts: %s\n", yes_no(caps & BH_CAP_PART_COPY));
    bh_strbuf_addf(p->out, "can_copy_parts_if_unchanged: %s\n",
                   yes_no(caps & BH_CAP_PART_COPY_IF_MATCH));
    bh_strbuf_addf(p->out, "can_sign_links: %s\n", yes_no(caps & BH_CAP_PRESIGN));
}

static int probe_snapshot(struct probe *p, struct bh_error *err)
{
    BH_FREE char *key = bh_config_snapshot_key(p->cfg);
    struct bh_object_info info;
    char when[32];
    if (!key)
        return bh_fail(err, ENOMEM, "out of memory");
    bh_strbuf_addf(p->out, "key: %s\n", key);
    int rc = bh_bucket_head(p->bucket, key, &info, p->call, err);
    if (rc == ENOENT)
        bh_strbuf_addf(p->out, "snapshot: none\n");
    if (rc)
        return rc == ENOENT ? 0 : rc;
    const char *id = bh_meta_get(&info.meta, META_SNAPSHOT);
    bh_strbuf_addf(p->out, "snapshot: %s\n", id ? id : "of another program");
    bh_strbuf_addf(p->out, "snapshot_bytes: %" PRIu64 "\n", info.size);
    bh_strbuf_addf(p->out, "snapshot_time: %s\n", bh_format_time(info.mtime_ms, when, sizeof when));
    bh_strbuf_addf(p->out, "snapshot_etag: %s\n", info.etag);
    return 0;
}

struct branches {
    struct bh_strbuf names;
    size_t prefix_len;
    unsigned count;
};

static int take_branch(void *arg, const char *key, bool is_prefix,
                       const struct bh_object_info *info, struct bh_error *err)
{
    struct branches *b = arg;
    const char *name = key + b->prefix_len;
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    if (is_prefix || len == 0 || name[len])
        return 0; /* NAME.prev, or somebody else's object */
    bh_strbuf_addf(&b->names, " %s", name);
    b->count++;
    return 0;
}

static int probe_branches(struct probe *p, struct bh_error *err)
{
    BH_STRBUF prefix = {0};
    struct branches b = {.count = 0};
    bh_strbuf_addf(&prefix, "%s%s.branch.", p->cfg->bucket.prefix ? p->cfg->bucket.prefix : "",
                   p->cfg->snapshot.key);
    if (prefix.failed)
        return bh_fail(err, ENOMEM, "out of memory");
    b.prefix_len = prefix.len;
    const struct bh_list_request req = {.prefix = prefix.data, .delimiter = "/"};
    int rc = bh_bucket_list(p->bucket, &req, take_branch, &b, p->call, err);
    if (!rc)
        bh_strbuf_addf(p->out, "branches: main%s\n", b.names.data ? b.names.data : "");
    bh_strbuf_free(&b.names);
    return rc;
}

int bh_probe(const struct bh_config *cfg, bool read_only, struct bh_strbuf *out,
             const struct bh_call *call, struct bh_error *err)
{
    struct probe p = {.cfg = cfg, .out = out, .call = call};
    BH_FREE char *url = bh_config_display_url(cfg);
    bh_strbuf_addf(out, "bucket: %s\n", url ? url : "");
    int rc = bh_bucket_open(&p.bucket, cfg, err);
    if (rc)
        return rc;
    rc = probe_answer(&p, err);
    if (rc == 0)
        rc = probe_snapshot(&p, err);
    if (rc == 0)
        rc = probe_branches(&p, err);
    if (rc == 0 && read_only)
        bh_strbuf_addf(out, "can_write: not tried (-o ro)\n");
    else if (rc == 0)
        probe_writing(&p);
    bh_bucket_describe(p.bucket, out);
    bh_bucket_close(p.bucket);
    return rc == 0 && out->failed ? bh_fail(err, ENOMEM, "out of memory") : rc;
}
