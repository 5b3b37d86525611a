/* The S3 backend on a real server: test_bucket_s3 ceph|swift, which is found in the environment as
 * BHFS_CEPH or BHFS_SWIFT, "URL KEY SECRET". */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bucket/bucket_util.h"
#include "bucket/s3/s3.h"
#include "bucket/transfer.h"
#include "bucket_conformance.h"
#include "bucket_helpers.h"
#include "config/config.h"
#include "util/cleanup.h"
#include "util/clock.h"

static struct server {
    char url[200], key[200], secret[200];
    bool ceph;
} server;
static char name[64]; /* of the bucket */
static struct bh_config *cfg;
static struct bh_bucket *bare, *b;

/* The configuration for a bucket of that name, with one more setting ("section.key=value") or NULL.
 */
static struct bh_config *config(const char *bucket, const char *secret, const char *more)
{
    char url[600], key[300], path[] = "/tmp/bhfs-test-secret-XXXXXX", file[100];
    const char *overrides[] = {key, file, "bucket.retry_base=10ms", more};
    struct bh_config *c = NULL;
    int fd = mkstemp(path);
    assert_int_equal(write(fd, secret, strlen(secret)), strlen(secret));
    close(fd);
    snprintf(url, sizeof url, "s3://%s/?endpoint=%s&region=us-east-1", bucket, server.url);
    snprintf(key, sizeof key, "bucket.access_key_id=%s", server.key);
    snprintf(file, sizeof file, "bucket.secret_access_key_file=%s", path);
    struct bh_config_request req = {
        .url = url, .overrides = overrides, .override_count = more ? 4 : 3};
    int rc = bh_config_load(&c, &req, ERR);
    unlink(path);
    must(rc);
    return c;
}

static int setup(void **state)
{
    unsigned char random[6];
    bh_random_bytes(random, sizeof random);
    int n = snprintf(name, sizeof name, "bhfs-test-");
    for (size_t i = 0; i < sizeof random; i++)
        n += snprintf(name + n, sizeof name - (size_t)n, "%02x", random[i]);
    cfg = config(name, server.secret, NULL);
    must(bh_bucket_s3_open(&bare, cfg, ERR));
    must(bh_bucket_open(&b, cfg, ERR));
    int rc = bh_bucket_make(b, NULL, ERR);
    for (int i = 0; i < 20 && rc == EAGAIN; i++) { /* a server that others keep busy says SlowDown */
        sleep(1);
        rc = bh_bucket_make(b, NULL, ERR);
    }
    must(rc);
    return 0;
}

/* --- what this server is known to do --- */

static void test_life(void **state)
{
    BH_STRBUF text = {0};
    must(bh_bucket_make(b, NULL, ERR)); /* ours already */
    must(bh_bucket_learn(b, NULL, ERR));
    must(bh_bucket_learn(bare, NULL, ERR));
    struct bh_bucket_stats before, after;
    bh_bucket_stats(bare, &before);
    must(bh_bucket_learn(bare, NULL, ERR)); /* known: no request */
    bh_bucket_stats(bare, &after);
    assert_memory_equal(before.requests, after.requests, sizeof before.requests);
    assert_int_equal(bh_bucket_caps(b), bh_bucket_caps(bare));
    assert_string_equal(listing(bare, "", NULL, NULL, 0), ""); /* the trial left nothing */
    bh_bucket_describe(b, &text);
    print_message("%s", text.data);
    assert_non_null(strstr(text.data, server.url));
    assert_null(strstr(text.data, server.secret));
}

static void test_capabilities(void **state)
{
    unsigned want = BH_CAP_PRESIGN | BH_CAP_PART_COPY;
    if (server.ceph)
        want |= BH_CAP_IF_NONE_MATCH | BH_CAP_IF_MATCH;
    assert_int_equal(bh_bucket_caps(bare), want);
}

static int no_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                  struct bh_error *err)
{
    return bh_fail(err, EBADMSG, "a key came");
}

static void expect_on_open(const char *bucket, const char *secret, const char *more, int code,
                           const char *sentence)
{
    struct bh_config *c = config(bucket, secret, more);
    struct bh_bucket *other;
    must(bh_bucket_open(&other, c, ERR));
    uint64_t at = 0;
    for (int i = 0; i < 4; i++) {
        int rc = i == 0   ? bh_bucket_head(other, "x", NULL, NULL, ERR)
                 : i == 1 ? put_text(other, "x", "x", NULL)
                 : i == 2 ? bh_bucket_get(other, "x", 0, 1, pattern_check, &at, NULL, NULL, ERR)
                          : bh_bucket_list(other, &(struct bh_list_request){.prefix = ""}, no_key,
                                           NULL, NULL, ERR);
        if (rc != code || !strstr(test_error.text, sentence))
            print_error("request %d: %d: %s\n", i, rc, test_error.text);
        assert_int_equal(rc, code);
        assert_non_null(strstr(test_error.text, sentence));
        assert_null(strstr(test_error.text, secret));
    }
    bh_bucket_close(other);
    bh_config_free(c);
}

static void test_refusals(void **state)
{
    char secret[] = "not-the-secret-of-anybody";
    expect_on_open(name, secret, NULL, EACCES, "");
    expect_on_open("bhfs-no-such-bucket-0", server.secret, NULL, ENODEV, "bhfs-no-such-bucket-0");
}

/* --- large objects --- */

#define LARGE (40 * MIB + 12345)

static void test_large(void **state)
{
    const struct bh_transfer how = {.part_size = 5 * MIB, .parallel = 4};
    struct bh_bucket *const buckets[] = {bare, b};
    for (int i = 0; i < 2; i++) {
        struct bh_source src = pattern_source(LARGE);
        struct bh_meta meta = {0};
        struct bh_object_info up, head, down;
        uint64_t at = 0;
        must(bh_meta_set(&meta, "bh-snapshot", "12", ERR));
        must(bh_bucket_upload(buckets[i], "large/\xc3\xbc +", &src, &meta, NULL, &how, &up, NULL,
                              ERR));
        must(bh_bucket_head(buckets[i], "large/\xc3\xbc +", &head, NULL, ERR));
        assert_int_equal(head.size, LARGE);
        assert_int_equal(up.size, LARGE);
        assert_string_equal(head.etag, up.etag);
        assert_string_equal(bh_meta_get(&head.meta, "bh-snapshot"), "12");
        must(bh_bucket_download(buckets[i], "large/\xc3\xbc +", &how, pattern_check, &at, &down,
                                NULL, ERR));
        assert_int_equal(at, LARGE);
        assert_string_equal(down.etag, up.etag);
        must(bh_bucket_delete(b, "large/\xc3\xbc +", NULL, ERR));
    }
}

/* One put where completions know no conditions, several parts where they do. */
static void test_large_conditional(void **state)
{
    const struct bh_transfer how = {.part_size = 5 * MIB, .parallel = 3};
    struct bh_source src = pattern_source(11 * MIB);
    struct bh_object_info info;
    struct bh_cond absent = {.if_none_match = true}, match = {.if_match = info.etag};
    if (!(bh_bucket_caps(b) & BH_CAP_IF_MATCH)) {
        must_fail(bh_bucket_upload(b, "cond", &src, NULL, &absent, &how, NULL, NULL, ERR), ENOTSUP);
        must_lack(b, "cond");
        return;
    }
    must(bh_bucket_upload(b, "cond", &src, NULL, &absent, &how, NULL, NULL, ERR));
    must_fail(bh_bucket_upload(b, "cond", &src, NULL, &absent, &how, NULL, NULL, ERR), EEXIST);
    must(bh_bucket_head(b, "cond", &info, NULL, ERR));
    src.size++;
    must(bh_bucket_upload(b, "cond", &src, NULL, &match, &how, NULL, NULL, ERR));
    must_have_pattern(b, "cond", 11 * MIB + 1);
    must_fail(bh_bucket_upload(b, "cond", &src, NULL, &match, &how, NULL, NULL, ERR), ESTALE);
    must(bh_bucket_delete(b, "cond", NULL, ERR));
}

/* A store that fails now and then, hidden by the retry layer. */
static void test_bad_day(void **state)
{
    const struct bh_transfer how = {.part_size = 5 * MIB, .parallel = 4};
    struct bh_config *c =
        config(name, server.secret,
               "bucket.fault=get:cut:20%;multipart:eio:10%;multipart:done-but-failed:10%;"
               "put:done-but-failed:30%;head:eio:10%");
    struct bh_bucket *bad;
    struct bh_source src = pattern_source(LARGE);
    must(bh_bucket_open(&bad, c, ERR));
    for (int i = 0; i < 3; i++) {
        uint64_t at = 0;
        must(bh_bucket_upload(bad, "bad", &src, NULL, NULL, &how, NULL, NULL, ERR));
        must(bh_bucket_download(bad, "bad", &how, pattern_check, &at, NULL, NULL, ERR));
        assert_int_equal(at, LARGE);
        must(bh_bucket_delete(bad, "bad", NULL, ERR));
        if (bh_bucket_caps(b) & BH_CAP_IF_NONE_MATCH) {
            must(put_text(bad, "bad", "small", &(struct bh_cond){.if_none_match = true}));
            must_fail(put_text(bad, "bad", "other", &(struct bh_cond){.if_none_match = true}),
                      EEXIST);
        }
    }
    must(bh_bucket_delete(b, "bad", NULL, ERR));
    bh_bucket_close(bad);
    bh_config_free(c);
}

/* --- the end --- */

static int abort_upload(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                        struct bh_error *err)
{
    return bh_bucket_mp_abort(b, key, upload_id, NULL, err);
}

static int delete_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                      struct bh_error *err)
{
    return bh_bucket_delete(b, key, NULL, err);
}

static int teardown(void **state)
{
    must(bh_bucket_list(b, &(struct bh_list_request){.prefix = ""}, delete_key, NULL, NULL, ERR));
    must(bh_bucket_mp_list(b, "", abort_upload, NULL, NULL, ERR));
    bh_bucket_close(bare);
    bh_bucket_close(b);
    bh_config_free(cfg);
    return 0;
}

static int find_server(const char *kind)
{
    const char *variable = strcmp(kind, "swift") == 0 ? "BHFS_SWIFT" : "BHFS_CEPH";
    const char *line = getenv(variable);
    server.ceph = strcmp(kind, "ceph") == 0;
    if (!line || sscanf(line, "%199s %199s %199s", server.url, server.key, server.secret) != 3) {
        printf("%s (\"URL KEY SECRET\") is not set: no such server runs (tests/servers)\n",
               variable);
        return 77;
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_large_conditional),
        cmocka_unit_test(test_bad_day),
    };
    int rc = find_server(argc > 1 ? argv[1] : "ceph");
    if (rc)
        return rc;
    setup(NULL);
    int failed = cmocka_run_group_tests_name("s3", tests, NULL, NULL);
    failed += bucket_conformance("s3-conformance", bare, "");
    failed += bucket_conformance("s3-conformance-layers", b, "some \xc3\xbc/prefix+/");
    return failed + teardown(NULL);
}
