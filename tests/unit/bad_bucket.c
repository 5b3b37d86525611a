/* Buckets on badserver.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bad_server.h"
#include "bucket/s3/s3.h"
#include "bucket_helpers.h"
#include "config/config.h"

struct opened {
    struct bh_bucket *bucket;
    struct bh_config *cfg;
    struct opened *next;
};
static struct opened *all_opened;

/* A secret is no option of a command line. */
static void set_secret(char **field, const char *value)
{
    free(*field);
    *field = strdup(value);
    assert_non_null(*field);
}

struct bh_bucket *bad_open_with(const char *const *options, size_t count, bool retrying)
{
    char url[128];
    const char *overrides[16] = {"bucket.region=us-east-1", "bucket.timeout=1s",
                                 "bucket.connect_timeout=1s", "bucket.retry_base=1ms",
                                 "bucket.retry_time=20s"};
    struct bh_config_request req = {.url = url, .overrides = overrides, .override_count = 5};
    struct opened *o = calloc(1, sizeof *o);
    const char *token = NULL;
    assert_non_null(o);
    snprintf(url, sizeof url, "s3://b?endpoint=http://127.0.0.1:%d", bad_port);
    for (size_t i = 0; i < count; i++)
        if (strncmp(options[i], "token=", 6) == 0)
            token = options[i] + 6;
        else
            overrides[req.override_count++] = options[i];
    must(bh_config_load(&o->cfg, &req, ERR));
    set_secret(&o->cfg->bucket.access_key_id, "AKIDTEST");
    set_secret(&o->cfg->bucket.secret_access_key, "secret/of+the=test");
    set_secret(&o->cfg->bucket.proxy, "none");
    if (token)
        set_secret(&o->cfg->bucket.session_token, token);
    if (retrying)
        must(bh_bucket_open(&o->bucket, o->cfg, ERR));
    else
        must(bh_bucket_s3_open(&o->bucket, o->cfg, ERR));
    o->next = all_opened;
    all_opened = o;
    return o->bucket;
}

struct bh_bucket *bad_open(const char *option)
{
    return bad_open_with(&option, option ? 1 : 0, false);
}

struct bh_bucket *bad_open_retrying(const char *option)
{
    return bad_open_with(&option, option ? 1 : 0, true);
}

void bad_close(struct bh_bucket *b)
{
    for (struct opened **at = &all_opened, *o; (o = *at) != NULL; at = &o->next) {
        if (o->bucket != b)
            continue;
        *at = o->next;
        bh_bucket_close(b);
        bh_config_free(o->cfg);
        free(o);
        return;
    }
    fail_msg("not opened by bad_open");
}
