/* The names of the place that a configuration leads to. */
#include "config/keys.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

/* Appends /a/./b/../c to a path that is there, part by part, as if its parts were plain
 * directories. */
static void append_parts(struct bh_strbuf *path, const char *rest)
{
    while (*rest) {
        size_t len = strcspn(rest, "/");
        if (len == 2 && strncmp(rest, "..", 2) == 0) {
            while (path->len && path->data[--path->len] != '/')
                ;
            if (path->data)
                path->data[path->len] = '\0';
        } else if (len && !(len == 1 && *rest == '.')) {
            bh_strbuf_addf(path, "/%.*s", (int)len, rest);
        }
        rest += len;
        rest += *rest == '/';
    }
}

/* The directory as the kernel would call it: symbolic links resolved in the part that exists. */
static void canonical_path(const char *given, struct bh_strbuf *out)
{
    BH_FREE char *start = strdup(given);
    if (!start) {
        out->failed = true;
        return;
    }
    for (;;) {
        BH_FREE char *real = realpath(start, NULL);
        char *slash = strrchr(start, '/');
        if (real || !slash || slash == start) {
            if (real && strcmp(real, "/") != 0)
                bh_strbuf_addf(out, "%s", real);
            append_parts(out, given + (real ? strlen(start) : 0));
            return;
        }
        *slash = '\0';
    }
}

static char *finish(struct bh_strbuf *text)
{
    char *s = text->failed ? NULL : bh_take_ptr(text->data);
    bh_strbuf_free(text);
    return s;
}

/* "https://s3.REGION.amazonaws.com", in the old form with '-', or without a region. */
static bool is_aws(const char *endpoint)
{
    static const char host[] = "://s3", domain[] = ".amazonaws.com";
    const char *s3 = strstr(endpoint, host);
    size_t len = strlen(endpoint);
    return s3 && strchr(".-", s3[sizeof host - 1]) && len > sizeof domain &&
           strcmp(endpoint + len - (sizeof domain - 1), domain) == 0;
}

char *bh_config_identity(const struct bh_config *cfg)
{
    struct bh_strbuf id = {0};
    BH_STRBUF path = {0};
    if (cfg->bucket.kind == BH_BUCKET_FILE) {
        canonical_path(cfg->bucket.path, &path);
        bh_strbuf_addf(&id, "file://");
        bh_url_encode(&id, path.data ? path.data : "", "/");
        if (*cfg->bucket.prefix)
            bh_strbuf_addf(&id, "?prefix=");
        bh_url_encode(&id, cfg->bucket.prefix, "/");
        id.failed |= path.failed;
    } else {
        bh_strbuf_addf(&id, "s3://%s/", cfg->bucket.name);
        bh_url_encode(&id, cfg->bucket.prefix, "/");
        if (*cfg->bucket.endpoint_url && !is_aws(cfg->bucket.endpoint_url))
            bh_strbuf_addf(&id, "?endpoint=%s", cfg->bucket.endpoint_url);
        else /* a name belongs to one bucket, whichever region is said or found out */
            bh_strbuf_addf(&id, "?endpoint=https://s3.amazonaws.com");
    }
    bh_strbuf_addf(&id, "\n%s\n%s\n", cfg->snapshot.key, cfg->snapshot.branch);
    return finish(&id);
}

char *bh_config_display_url(const struct bh_config *cfg)
{
    struct bh_strbuf url = {0};
    BH_STRBUF r2 = {0};
    if (cfg->bucket.kind == BH_BUCKET_NONE) {
        bh_strbuf_addf(&url, "none");
        return finish(&url);
    }
    if (cfg->bucket.kind == BH_BUCKET_FILE) {
        bh_strbuf_addf(&url, "file://");
        bh_url_encode(&url, cfg->bucket.path, "/");
        return finish(&url);
    }
    bh_strbuf_addf(&r2, "https://%s.r2.cloudflarestorage.com", cfg->bucket.account_id);
    url.failed |= r2.failed;
    if (!r2.failed && *cfg->bucket.account_id &&
        strcasecmp(cfg->bucket.endpoint_url, r2.data) == 0) {
        bh_strbuf_addf(&url, "r2://%s/%s/", cfg->bucket.account_id, cfg->bucket.name);
        bh_url_encode(&url, cfg->bucket.prefix, "/");
        return finish(&url);
    }
    bh_strbuf_addf(&url, "s3://%s/", cfg->bucket.name);
    bh_url_encode(&url, cfg->bucket.prefix, "/");
    if (*cfg->bucket.endpoint_url) {
        bh_strbuf_addf(&url, "?endpoint=");
        bh_url_encode(&url, cfg->bucket.endpoint_url, ":/");
    }
    return finish(&url);
}

char *bh_config_branch_key(const struct bh_config *cfg, const char *branch)
{
    struct bh_strbuf key = {0};
    bh_strbuf_addf(&key, "%s%s", cfg->bucket.prefix, cfg->snapshot.key);
    if (strcmp(branch, "main") != 0)
        bh_strbuf_addf(&key, ".branch.%s", branch);
    return finish(&key);
}

char *bh_config_snapshot_key(const struct bh_config *cfg)
{
    return bh_config_branch_key(cfg, cfg->snapshot.branch);
}
