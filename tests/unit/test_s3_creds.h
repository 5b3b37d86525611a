/* What the tests of credentials share: a home and an environment of their own, a chain, and gets
 * that look for secrets where none may be. Every secret of these tests contains "hush". */
#ifndef TEST_S3_CREDS_H
#define TEST_S3_CREDS_H

#include "test_config.h"

#include "bucket/s3/creds.h"
#include "util/log.h"

static struct bh_config *cfg;
static struct bh_creds *creds;
static struct bh_error failed; /* of the last get */

static inline int setup(void **state)
{
    int rc = test_setup(state);
    setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
    bh_log_setup(BH_LOG_DEBUG, NULL, false, NULL);
    return rc;
}

static inline void close_chain(void)
{
    bh_creds_free(creds);
    bh_config_free(cfg);
    creds = NULL;
    cfg = NULL;
}

static inline int teardown(void **state)
{
    close_chain();
    return test_teardown(state);
}

/* Begins anew, with `override` ("bucket.key=value") or NULL. */
static inline void open_chain(const char *override)
{
    close_chain();
    cfg = load_ok(NULL, "s3://b", override);
    assert_int_equal(bh_creds_new(&creds, cfg, NULL), 0);
}

static inline const char *origin(void)
{
    static char text[400];
    bh_creds_origin(creds, text, sizeof text);
    assert_null(strstr(text, "hush"));
    return text;
}

/* The whole log since offset `from`; never with a secret. */
static inline char *log_since(uint64_t from)
{
    size_t len = (size_t)(bh_log_size() - from);
    char *text = calloc(1, len + 1);
    assert_non_null(text);
    bh_log_read(from, text, len);
    assert_null(strstr(text, "hush"));
    return text;
}

static inline int get_into(struct bh_credentials *out, const struct bh_call *call)
{
    failed = (struct bh_error){0};
    int rc = bh_creds_get(creds, out, call, &failed);
    assert_int_equal(rc, failed.code);
    assert_null(strstr(failed.text, "hush"));
    return rc;
}

/* What a get gives: "ID SECRET TOKEN" ("-": none). */
static inline const char *get(void)
{
    static char text[8192];
    struct bh_credentials c;
    if (get_into(&c, NULL))
        fail_msg("%s", failed.text);
    if (c.anonymous)
        strcpy(text, "anonymous");
    else
        snprintf(text, sizeof text, "%s %s %s", c.access_key_id, c.secret_access_key,
                 c.session_token ? c.session_token : "-");
    bh_credentials_wipe(&c);
    assert_null(c.secret_access_key);
    return text;
}

/* A get must end with this errno and a sentence that has this part. */
static inline void get_fails(int code, const char *part)
{
    struct bh_credentials c;
    int rc = get_into(&c, NULL);
    if (rc != code || !strstr(failed.text, part))
        fail_msg("%d \"%s\", wanted %d and \"%s\"", rc, failed.text, code, part);
    assert_null(c.access_key_id);
}

/* The same from the start, with the files as they are now. */
static inline void fresh_get_fails(int code, const char *part)
{
    open_chain(NULL);
    get_fails(code, part);
}

static inline const char *fresh_get(const char *override)
{
    open_chain(override);
    return get();
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
