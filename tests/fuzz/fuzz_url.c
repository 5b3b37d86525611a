/* A bucket URL. What is shown of it names the same bucket when it is read again. */
#include "fuzz.h"

#include "config/keys.h"

static struct bh_config *load(const char *url)
{
    struct bh_config *cfg = NULL;
    struct bh_error err = {0};
    int rc = bh_config_load(&cfg, &(struct bh_config_request){.url = url}, &err);
    must_be_told(rc, &err);
    return cfg;
}

static void must_equal(const char *a, const char *b)
{
    must(!strcmp(a ? a : "", b ? b : ""));
}

/* How a bucket is reached, and as whom, does not make it another. */
static void must_be_the_same(const char *text, const char *identity)
{
    static const char parameters[] = "profile=p&addressing=path&requester_pays=1&credentials=auto";
    char all[8192];
    int n = snprintf(all, sizeof all, "%s%c%s", text, strchr(text, '?') ? '&' : '?', parameters);
    struct bh_config *cfg = n < (int)sizeof all ? load(all) : NULL;
    if (!cfg) /* it has one of them, or is a directory */
        return;
    BH_FREE char *same = bh_config_identity(cfg);
    must(cfg->bucket.addressing == BH_ADDRESSING_PATH && cfg->bucket.requester_pays);
    must_equal(cfg->bucket.profile, "p");
    must_equal(same, identity);
    bh_config_free(cfg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    BH_FREE char *text = string_of(data, size);
    struct bh_url url = {0};
    struct bh_error err = {0};
    must_be_told(bh_url_parse(text, &url, &err), &err);
    bh_url_free(&url);

    struct bh_config *cfg = load(text);
    if (!cfg)
        return 0;
    must(cfg->bucket.kind != BH_BUCKET_NONE);
    BH_FREE char *shown = bh_config_display_url(cfg);
    BH_FREE char *identity = bh_config_identity(cfg);
    must(shown && identity && !strchr(shown, '\n'));
    must_be_the_same(text, identity);
    struct bh_config *again = load(shown);
    must(again || strlen(shown) > 8192); /* encoded it may be longer than a value may be */
    if (!again) {
        bh_config_free(cfg);
        return 0;
    }
    BH_FREE char *shown_again = bh_config_display_url(again);
    must_equal(shown, shown_again);
    must(cfg->bucket.kind == again->bucket.kind);
    must_equal(cfg->bucket.path, again->bucket.path);
    must_equal(cfg->bucket.name, again->bucket.name);
    must_equal(cfg->bucket.prefix, again->bucket.prefix);
    must_equal(cfg->bucket.endpoint_url, again->bucket.endpoint_url);
    bh_config_free(again);
    bh_config_free(cfg);
    return 0;
}
