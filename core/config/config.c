/* The layers, one over the other, and what only the whole can tell. */
#include "config/keys.h"

#include <assert.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

#define SYSTEM_FILE "/etc/buckethead.ini"

static const struct bh_key *key_of(const char *name)
{
    const struct bh_key *key = bh_key_find("bucket", name, NULL);
    assert(key);
    return key;
}

static const struct bh_config_origin *origin_of(const struct bh_config *cfg, const char *name)
{
    return bh_key_origin(cfg, key_of(name));
}

/* Whether this layer gave the key something. */
static bool given(struct bh_config *cfg, const char *name, unsigned layer)
{
    const struct bh_key *key = key_of(name);
    return origin_of(cfg, name)->layer == layer &&
           (key->type != BH_KEY_STRING || **bh_key_string(cfg, key));
}

static int from_url(struct bh_config *cfg, const char *name, const char *value, unsigned layer,
                    struct bh_error *err)
{
    if (given(cfg, name, layer))
        return bh_fail(err, EINVAL, "%s: bucket.%s is also said by bucket.url (%s); keep one",
                       origin_of(cfg, name)->text, name, origin_of(cfg, "url")->text);
    const struct bh_key_source src = {origin_of(cfg, "url")->text, layer};
    return bh_key_set(cfg, key_of(name), value, &src, err);
}

/* An account of Cloudflare has an endpoint and a region of its own: those of weaker layers go. */
static int apply_parameters(struct bh_config *cfg, const struct bh_url *url, unsigned layer,
                            struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < BH_URL_PARAMETERS; i++) {
        const char *key = bh_url_parameters[i].key;
        bool derived = url->account && (i == BH_URL_ENDPOINT || i == BH_URL_REGION);
        if (url->parameters[i])
            rc = from_url(cfg, key, url->parameters[i], layer, err);
        else if (derived && !given(cfg, key, layer))
            rc = bh_key_reset(cfg, key_of(key), err);
    }
    return rc;
}

/* A URL names the whole place: bucket and prefix of weaker layers do not mix with it. What it
 * leaves open (its parameters) stays, or comes from keys beside it in its own layer. */
static int apply_url(struct bh_config *cfg, unsigned layer, struct bh_error *err)
{
    struct bh_url url = {0};
    int rc = bh_url_parse(cfg->bucket.url, &url, err);
    if (!rc)
        rc = from_url(cfg, "name", url.name ? url.name : "", layer, err);
    if (!rc && ((url.prefix && *url.prefix) || !given(cfg, "prefix", layer)))
        rc = from_url(cfg, "prefix", url.prefix ? url.prefix : "", layer, err);
    if (!rc && url.account)
        rc = from_url(cfg, "account_id", url.account, layer, err);
    if (!rc)
        rc = apply_parameters(cfg, &url, layer, err);
    if (!rc) {
        free(cfg->bucket.path);
        cfg->bucket.path = bh_take_ptr(url.path);
    }
    bh_url_free(&url);
    return rc;
}

/* Several -o say one thing together. */
static unsigned group(unsigned layer)
{
    return layer < BH_LAYER_OPTION ? layer : BH_LAYER_OPTION;
}

static const char *const key_parts[] = {"access_key_id", "secret_access_key", "session_token"};
#define KEY_PARTS (sizeof key_parts / sizeof key_parts[0])

/* Takes away what weaker layers than this one said of the key. */
static int forget_key(struct bh_config *cfg, unsigned layer, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < KEY_PARTS; i++)
        if (group(origin_of(cfg, key_parts[i])->layer) < group(layer))
            rc = bh_key_reset(cfg, key_of(key_parts[i]), err);
    return rc;
}

/* Key, secret and token make sense together only: if a layer names a key, be it empty, all that
 * weaker layers said goes. A secret or token alone joins the key that our own file or environment
 * named, never one that was left in AWS_*. */
static int end_key(struct bh_config *cfg, unsigned layer, struct bh_error *err)
{
    bool named = origin_of(cfg, key_parts[0])->layer == layer, said = named;
    for (size_t i = 1; i < KEY_PARTS; i++)
        said |= origin_of(cfg, key_parts[i])->layer == layer;
    unsigned least = named || layer < BH_LAYER_FILE ? layer : BH_LAYER_FILE;
    int rc = said ? forget_key(cfg, least, err) : 0;
    /* what other programs may have left is no mistake of this one's user */
    if (!rc && layer == BH_LAYER_AWS && !*cfg->bucket.access_key_id &&
        !*cfg->bucket.secret_access_key)
        rc = bh_key_reset(cfg, key_of("session_token"), err);
    return rc;
}

static int end_layer(struct bh_config *cfg, unsigned layer, struct bh_error *err)
{
    int rc = 0;
    if (given(cfg, "url", layer))
        rc = apply_url(cfg, layer, err);
    else if (given(cfg, "name", layer)) /* over the URL of a weaker layer */
        rc = bh_key_reset(cfg, key_of("url"), err);
    return rc ? rc : end_key(cfg, layer, err);
}

/* The user's file into *path. Tells whether there can be one. */
static bool user_file(struct bh_strbuf *path)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    if (xdg && *xdg == '/')
        bh_strbuf_addf(path, "%s/buckethead/buckethead.ini", xdg);
    else if (home && *home == '/')
        bh_strbuf_addf(path, "%s/.config/buckethead/buckethead.ini", home);
    return path->data != NULL;
}

static int read_named(struct bh_config *cfg, const char *path, const char *how,
                      struct bh_error *err)
{
    int rc = bh_config_from_ini(cfg, path, err);
    if (rc == ENOENT && access(path, F_OK) != 0)
        bh_fail_prefix(err, rc, "the configuration file given by %s", how);
    if (!rc && !(cfg->file = realpath(path, NULL)))
        return bh_fail(err, errno, "%s has no absolute path: %s", path, strerror(errno));
    return rc;
}

static int load_file(struct bh_config *cfg, const struct bh_config_request *req,
                     struct bh_error *err)
{
    BH_STRBUF user = {0};
    const char *named = req->use_environment ? getenv("BUCKETHEAD_CONFIG") : NULL;
    if (req->file)
        return read_named(cfg, req->file, "-c", err);
    if (named && *named)
        return read_named(cfg, named, "$BUCKETHEAD_CONFIG", err);
    if (!req->use_environment)
        return 0;
    if (user_file(&user) && access(user.data, F_OK) == 0)
        return read_named(cfg, user.data, "$XDG_CONFIG_HOME", err);
    /* the system's file may be root's alone; whoever cannot read it gives a bucket of their own */
    if (access(SYSTEM_FILE, R_OK) == 0)
        return read_named(cfg, SYSTEM_FILE, "the system", err);
    return 0;
}

static int apply_override(struct bh_config *cfg, const char *text, unsigned layer,
                          struct bh_error *err)
{
    const struct bh_key_source src = {"-o", layer};
    const char *equals = strchr(text, '=');
    const char *dot = strchr(text, '.');
    if (!equals || !dot || dot > equals)
        return bh_fail(err, EINVAL, "-o %.*s: write -o SECTION.KEY=VALUE", (int)strcspn(text, "="),
                       text);
    BH_FREE char *section = strndup(text, (size_t)(dot - text));
    BH_FREE char *name = strndup(dot + 1, (size_t)(equals - dot - 1));
    if (!section || !name)
        return bh_fail(err, ENOMEM, "out of memory while reading the configuration");
    bool is_file = false;
    const struct bh_key *key = bh_key_find(section, name, &is_file);
    if (!key) {
        key = bh_key_nearest(section, name, &is_file);
        return bh_fail(err, EINVAL, "-o %.60s.%.60s: unknown key; did you mean %s.%s%s?", section,
                       name, key->section, key->name, is_file ? "_file" : "");
    }
    if (key->flags & BH_KEY_SECRET && !is_file)
        return bh_fail(err, EINVAL,
                       "-o %s.%s: secrets do not belong in a process list; use -o %s.%s_file=PATH, "
                       "the configuration file or the environment",
                       section, name, section, name);
    int rc = bh_key_assign(cfg, key, is_file, equals + 1, &src, err);
    return rc ? rc : end_layer(cfg, layer, err);
}

static int load_layers(struct bh_config *cfg, const struct bh_config_request *req,
                       struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < bh_key_count; i++)
        rc = bh_key_reset(cfg, &bh_keys[i], err);
    if (!rc && req->use_environment)
        rc = bh_config_from_aws(cfg, err);
    if (!rc)
        rc = end_layer(cfg, BH_LAYER_AWS, err);
    if (!rc)
        rc = load_file(cfg, req, err);
    if (!rc)
        rc = end_layer(cfg, BH_LAYER_FILE, err);
    if (!rc && req->use_environment) {
        rc = bh_config_from_environment(cfg, err);
        if (!rc)
            rc = end_layer(cfg, BH_LAYER_ENV, err);
    }
    if (!rc && req->url) {
        const struct bh_key_source src = {"command line", BH_LAYER_URL};
        rc = bh_key_assign(cfg, key_of("url"), false, req->url, &src, err);
        if (!rc)
            rc = end_layer(cfg, BH_LAYER_URL, err);
    }
    for (size_t i = 0; !rc && i < req->override_count; i++)
        rc = apply_override(cfg, req->overrides[i], BH_LAYER_OPTION + (unsigned)i, err);
    return rc;
}

/* Cloudflare's endpoint and region, where nobody gave others for this program. */
static int derive_account(struct bh_config *cfg, struct bh_error *err)
{
    BH_STRBUF endpoint = {0};
    const struct bh_config_origin *account = origin_of(cfg, "account_id");
    if (!*cfg->bucket.account_id)
        return 0;
    const struct bh_key_source src = {account->text, account->layer};
    bh_strbuf_addf(&endpoint, "https://%s.r2.cloudflarestorage.com", cfg->bucket.account_id);
    if (endpoint.failed)
        return bh_fail(err, ENOMEM, "out of memory while reading the configuration");
    int rc = 0;
    if (!*cfg->bucket.endpoint_url || origin_of(cfg, "endpoint_url")->layer == BH_LAYER_AWS)
        rc = bh_key_set(cfg, key_of("endpoint_url"), endpoint.data, &src, err);
    if (!rc && origin_of(cfg, "region")->layer <= BH_LAYER_AWS)
        rc = bh_key_set(cfg, key_of("region"), "auto", &src, err);
    return rc;
}

static const char *where(const struct bh_config *cfg, const char *name)
{
    const char *text = origin_of(cfg, name)->text;
    return text ? text : "default";
}

/* Another way to identify oneself is meant instead of a weaker layer's key. AWS_PROFILE is not:
 * with AWS's tools, too, a key stands over it. */
static int choose_credentials(struct bh_config *cfg, struct bh_error *err)
{
    int rc = 0;
    unsigned profile = *cfg->bucket.profile ? origin_of(cfg, "profile")->layer : BH_LAYER_DEFAULT;
    cfg->bucket.profile_chosen = profile > BH_LAYER_AWS;
    if (cfg->bucket.profile_chosen)
        rc = forget_key(cfg, profile, err);
    if (!rc && cfg->bucket.credentials == BH_CREDENTIALS_ANONYMOUS)
        rc = forget_key(cfg, origin_of(cfg, "credentials")->layer, err);
    return rc;
}

static int check_anonymous(struct bh_config *cfg, struct bh_error *err)
{
    const char *other = NULL;
    for (size_t i = 0; !other && i < KEY_PARTS; i++)
        if (**bh_key_string(cfg, key_of(key_parts[i])))
            other = key_parts[i];
    /* beside a profile of the same layer or a weaker one it is the profile's region that is meant
     */
    if (!other && *cfg->bucket.profile &&
        group(origin_of(cfg, "profile")->layer) > group(origin_of(cfg, "credentials")->layer))
        other = "profile";
    if (!other)
        return 0;
    return bh_fail(err, EINVAL,
                   "bucket.%s is set (%s) but bucket.credentials is anonymous (%s): anonymous "
                   "requests are not signed; keep one of the two",
                   other, where(cfg, other), where(cfg, "credentials"));
}

static int check_credentials(struct bh_config *cfg, struct bh_error *err)
{
    bool id = *cfg->bucket.access_key_id, secret = *cfg->bucket.secret_access_key;
    bool token = *cfg->bucket.session_token;
    if (cfg->bucket.credentials == BH_CREDENTIALS_ANONYMOUS)
        return check_anonymous(cfg, err);
    if (id == secret && (id || !token))
        return 0;
    const char *have = id ? "access_key_id" : secret ? "secret_access_key" : "session_token";
    return bh_fail(err, EINVAL,
                   "bucket.%s is set (%s) but bucket.%s is not set there: both are taken from one "
                   "source; give both there or neither",
                   have, where(cfg, have), id ? "secret_access_key" : "access_key_id");
}

static int check_encryption(struct bh_config *cfg, struct bh_error *err)
{
    if (!*cfg->bucket.sse_kms_key_id || cfg->bucket.sse == BH_SSE_KMS)
        return 0;
    return bh_fail(err, EINVAL,
                   "bucket.sse_kms_key_id is set (%s) but bucket.sse (%s) is not aws:kms: set it "
                   "so, or remove sse_kms_key_id",
                   where(cfg, "sse_kms_key_id"), where(cfg, "sse"));
}

static int finish(struct bh_config *cfg, const struct bh_config_request *req, struct bh_error *err)
{
    enum { OBJECT_KEY_MAX = 1024, SUFFIX = sizeof ".prev" - 1 };
    BH_STRBUF user = {0};
    int rc = derive_account(cfg, err);
    if (!rc)
        rc = choose_credentials(cfg, err);
    if (rc)
        return rc;
    if (*cfg->bucket.url && cfg->bucket.path)
        cfg->bucket.kind = BH_BUCKET_FILE;
    else if (*cfg->bucket.name)
        cfg->bucket.kind = BH_BUCKET_S3;
    if (cfg->bucket.kind != BH_BUCKET_FILE) {
        free(cfg->bucket.path);
        cfg->bucket.path = NULL;
    }
    if (cfg->bucket.kind == BH_BUCKET_NONE && !req->bucket_optional)
        return bh_fail(err, EINVAL,
                       "no bucket is configured: write url = file:///DIRECTORY or "
                       "url = s3://BUCKET/PREFIX under [bucket] in %s, set BUCKETHEAD_BUCKET__URL, "
                       "or give the URL on the command line",
                       cfg->file          ? cfg->file
                       : user_file(&user) ? user.data
                                          : SYSTEM_FILE);
    if (cfg->bucket.kind == BH_BUCKET_S3 &&
        ((rc = check_credentials(cfg, err)) != 0 || (rc = check_encryption(cfg, err)) != 0))
        return rc;
    if (cfg->snapshot.block_size & (cfg->snapshot.block_size - 1))
        return bh_fail(err, EINVAL,
                       "snapshot.block_size is %llu bytes; it must be a power of two, such as 16KiB",
                       (unsigned long long)cfg->snapshot.block_size);
    size_t len = strlen(cfg->snapshot.key);
    if (!strncmp(cfg->files.prefix, cfg->snapshot.key, len) &&
        !strncmp(cfg->files.prefix + len, ".bhfs/", 6))
        return bh_fail(err, EINVAL,
                       "files.prefix = %s: what begins with %s.bhfs/ is the history's; choose "
                       "another, such as files/",
                       cfg->files.prefix, cfg->snapshot.key);
    BH_FREE char *key = bh_config_snapshot_key(cfg);
    if (!key)
        return bh_fail(err, ENOMEM, "out of memory while reading the configuration");
    if (strlen(key) + SUFFIX > OBJECT_KEY_MAX)
        return bh_fail(err, EINVAL,
                       "bucket.prefix, snapshot.key and snapshot.branch together make object keys "
                       "of %zu bytes; at most %d are allowed",
                       strlen(key) + SUFFIX, OBJECT_KEY_MAX);
    return 0;
}

int bh_config_load(struct bh_config **out, const struct bh_config_request *req,
                   struct bh_error *err)
{
    struct bh_config *cfg = calloc(1, sizeof *cfg);
    if (cfg)
        cfg->origins = calloc(bh_key_count, sizeof *cfg->origins);
    int rc = cfg && cfg->origins
                 ? load_layers(cfg, req, err)
                 : bh_fail(err, ENOMEM, "out of memory while reading the configuration");
    if (!rc)
        rc = finish(cfg, req, err);
    if (rc)
        bh_config_free(cfg);
    else
        *out = cfg;
    return rc;
}

void bh_config_free(struct bh_config *cfg)
{
    if (!cfg)
        return;
    for (size_t i = 0; i < bh_key_count; i++) {
        if (bh_keys[i].type == BH_KEY_STRING) {
            char *value = *bh_key_string(cfg, &bh_keys[i]);
            if (value && bh_keys[i].flags & BH_KEY_SECRET)
                explicit_bzero(value, strlen(value));
            free(value);
        }
        if (!cfg->origins)
            continue;
        free(cfg->origins[i].text);
        free(cfg->origins[i].form[0].text);
        free(cfg->origins[i].form[1].text);
    }
    free(cfg->origins);
    free(cfg->bucket.path);
    free(cfg->file);
    free(cfg);
}
