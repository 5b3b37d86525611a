#include "profile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"
#include "util/log.h"

struct bh_profile {
    char *dir;
    int fd; /* flushes.jsonl */
    int64_t start_ms;
    uint64_t flushes, failed;
};

int bh_profile_open(struct bh_profile **out, const struct bh_config *cfg, struct bh_error *err)
{
    *out = NULL;
    if (!cfg->profiling.enabled)
        return 0;
    if (!cfg->profiling.dir[0])
        return bh_fail(err, EINVAL,
                       "profiling.enabled needs profiling.dir, a directory for its files");
    int rc = bh_mkdir_p(cfg->profiling.dir, 0755, err);
    if (rc)
        return rc;
    BH_FREE char *path = NULL;
    struct bh_profile *p = calloc(1, sizeof *p);
    char *dir = strdup(cfg->profiling.dir);
    if (!p || !dir || asprintf(&path, "%s/flushes.jsonl", dir) < 0) {
        path = NULL;
        free(p);
        free(dir);
        return bh_fail(err, ENOMEM, "out of memory");
    }
    p->dir = dir;
    p->start_ms = bh_real_ms();
    p->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (p->fd < 0) {
        rc = bh_fail(err, errno, "%s cannot be opened: %s", path, strerror(errno));
        free(p->dir);
        free(p);
        return rc;
    }
    *out = p;
    return 0;
}

void bh_profile_flush(struct bh_profile *p, int rc, const struct bh_flush_result *r,
                      const struct bh_error *err)
{
    static const char *const outcomes[] = {"unchanged", "uploaded", "debounced"};
    BH_STRBUF line = {0};
    char when[32];
    if (!p)
        return;
    p->flushes++;
    p->failed += rc != 0;
    bh_strbuf_addf(
        &line,
        "{\"time\":\"%s\",\"index\":%llu,\"outcome\":\"%s\",\"snapshot\":\"%s\",\"bytes\":%llu,"
        "\"seconds\":%.6f",
        bh_format_time(bh_real_ms(), when, sizeof when), (unsigned long long)p->flushes,
        rc ? "failed" : outcomes[r->outcome], r->snapshot, (unsigned long long)r->bytes,
        r->seconds);
    if (rc) {
        bh_strbuf_addf(&line, ",\"error\":");
        bh_strbuf_add_json(&line, err->text);
    }
    bh_strbuf_addf(&line, "}\n");
    if (line.failed || write(p->fd, line.data, line.len) != (ssize_t)line.len)
        bh_log(BH_LOG_WARNING, "%s/flushes.jsonl cannot be written", p->dir);
}

static void add_operations(struct bh_strbuf *out, const struct bh_bucket_stats *s)
{
    bh_strbuf_addf(out, ",\"operations\":{");
    for (int i = 0; i < BH_OP_COUNT; i++)
        bh_strbuf_addf(out, "%s\"%s\":{\"count\":%llu,\"errors\":%llu,\"seconds\":%.6f}",
                       i ? "," : "", bh_bucket_op_name((enum bh_bucket_op)i),
                       (unsigned long long)s->requests[i], (unsigned long long)s->errors[i],
                       (double)s->nanoseconds[i] / 1e9);
    bh_strbuf_addf(out, "},\"errors\":{");
    for (int i = 0; i < BH_BUCKET_ERROR_COUNT; i++)
        bh_strbuf_addf(out, "%s\"%s\":%llu", i ? "," : "",
                       bh_bucket_error_name((enum bh_bucket_error_kind)i),
                       (unsigned long long)s->failures[i]);
    bh_strbuf_addf(out, "}");
}

void bh_profile_close(struct bh_profile *p, struct bh_bucket *bucket)
{
    BH_STRBUF text = {0};
    char from[32], to[32];
    if (!p)
        return;
    struct bh_bucket_stats s = {0};
    if (bucket)
        bh_bucket_stats(bucket, &s);
    bh_strbuf_addf(&text, "{\"started\":\"%s\",\"stopped\":\"%s\",\"flushes\":%llu,\"failed\":%llu",
                   bh_format_time(p->start_ms, from, sizeof from),
                   bh_format_time(bh_real_ms(), to, sizeof to), (unsigned long long)p->flushes,
                   (unsigned long long)p->failed);
    bh_strbuf_addf(&text, ",\"bytes_up\":%llu,\"bytes_down\":%llu,\"retries\":%llu",
                   (unsigned long long)s.bytes_up, (unsigned long long)s.bytes_down,
                   (unsigned long long)s.retries);
    add_operations(&text, &s);
    bh_strbuf_addf(&text, "}\n");
    int dir = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    BH_FD int fd = openat(dir, "summary.json", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (dir >= 0)
        close(dir);
    if (text.failed || fd < 0 || bh_pwrite_full(fd, text.data, text.len, 0))
        bh_log(BH_LOG_WARNING, "%s/summary.json cannot be written", p->dir);
    close(p->fd);
    free(p->dir);
    free(p);
}
