/* An ini file, and behind it, each after a line break and "-o ", what -o says. Read twice it is the
 * same. */
#include "fuzz.h"

#include "config/config.h"

#define OPTION      "\n-o "
#define OPTIONS_MAX 8

static struct bh_config *load(const char *const *options, size_t count)
{
    struct bh_config *cfg = NULL;
    struct bh_error err = {0};
    const struct bh_config_request req = {.file = at("a.ini"),
                                          .overrides = options,
                                          .override_count = count,
                                          .bucket_optional = true};
    int rc = bh_config_load(&cfg, &req, &err);
    must_be_told(rc, &err);
    return cfg;
}

/* What is told about a configuration, all of it. */
static void tell(const struct bh_config *cfg)
{
    BH_STRBUF dump = {0};
    bh_config_dump(cfg, &dump);
    BH_FREE char *key = bh_config_snapshot_key(cfg);
    BH_FREE char *shown = bh_config_display_url(cfg);
    BH_FREE char *identity = cfg->bucket.kind == BH_BUCKET_NONE ? NULL : bh_config_identity(cfg);
    must(!dump.failed && key && shown && (identity || cfg->bucket.kind == BH_BUCKET_NONE));
}

/* What a server is asked with fits together. */
static void must_fit(const struct bh_config *cfg)
{
    if (cfg->bucket.kind != BH_BUCKET_S3)
        return;
    bool key = *cfg->bucket.access_key_id;
    must(key == (*cfg->bucket.secret_access_key != '\0'));
    must(key || !*cfg->bucket.session_token);
    must(!key || cfg->bucket.credentials == BH_CREDENTIALS_AUTO);
    must(!*cfg->bucket.sse_kms_key_id || cfg->bucket.sse == BH_SSE_KMS);
    must(cfg->bucket.part_size >= UINT64_C(5) << 20 && cfg->bucket.part_size <= UINT64_C(5) << 30);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *options[OPTIONS_MAX];
    size_t count = 0;
    BH_FREE char *text = string_of(data, size);
    char *option = memmem(text, size, OPTION, strlen(OPTION));
    write_file(at("a.ini"), text, option ? (size_t)(option - text) : size);
    for (char *next = option; next && count < OPTIONS_MAX;) {
        options[count++] = next + strlen(OPTION);
        next = strstr(options[count - 1], OPTION);
        if (next)
            *next = '\0';
    }

    struct bh_config *cfg = load(options, count), *again = load(options, count);
    must(!cfg == !again);
    if (!cfg)
        return 0;
    tell(cfg);
    must_fit(cfg);
    BH_STRBUF changes = {0};
    struct bh_error err = {0};
    must_be_told(bh_config_apply_reload(cfg, again, &changes, &err), &err);
    must(changes.len == 0);
    tell(cfg);
    bh_config_free(cfg);
    bh_config_free(again);
    return 0;
}
