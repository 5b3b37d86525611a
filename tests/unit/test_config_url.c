/* Bucket URLs: what they set, what they refuse, and the names made of them. */
#include "test_config.h"

#define COUNT(array) (sizeof array / sizeof array[0])

static void accepted(void **state)
{
    static const struct {
        const char *url;
        enum bh_bucket_kind kind;
        const char *path, *name, *prefix, *endpoint, *region, *shown;
    } cases[] = {
        {"file:///b", BH_BUCKET_FILE, "/b", "", "", "", "us-east-1", "file:///b"},
        {"file://localhost/b/", BH_BUCKET_FILE, "/b", "", "", "", "us-east-1", "file:///b"},
        {"FILE:///a%20b/%3f%23%25/%C3%a9", BH_BUCKET_FILE, "/a b/?#%/\xc3\xa9", "", "", "",
         "us-east-1", "file:///a%20b/%3F%23%25/%C3%A9"},
        {"file:///home/me@work/a+b,c", BH_BUCKET_FILE, "/home/me@work/a+b,c", "", "", "",
         "us-east-1", "file:///home/me%40work/a%2Bb%2Cc"},
        {"s3://b", BH_BUCKET_S3, NULL, "b", "", "", "us-east-1", "s3://b/"},
        {"s3://b/", BH_BUCKET_S3, NULL, "b", "", "", "us-east-1", "s3://b/"},
        {"s3://b/p", BH_BUCKET_S3, NULL, "b", "p/", "", "us-east-1", "s3://b/p/"},
        {"s3://b/p/q%20r//", BH_BUCKET_S3, NULL, "b", "p/q r/", "", "us-east-1", "s3://b/p/q%20r/"},
        {"s3://b/p?endpoint=http://h:9000/&region=x", BH_BUCKET_S3, NULL, "b", "p/",
         "http://h:9000", "x", "s3://b/p/?endpoint=http://h:9000"},
        {"s3://b?endpoint=https%3A%2F%2FH.Example%3A443", BH_BUCKET_S3, NULL, "b", "",
         "https://h.example", "us-east-1", "s3://b/?endpoint=https://h.example"},
        {"s3://b?endpoint=http://[::1]:80&", BH_BUCKET_S3, NULL, "b", "", "http://[::1]",
         "us-east-1", "s3://b/?endpoint=http://%5B::1%5D"},
        {"r2://acc/b", BH_BUCKET_S3, NULL, "b", "", "https://acc.r2.cloudflarestorage.com", "auto",
         "r2://acc/b/"},
        {"r2://acc/b/p/q?region=weur", BH_BUCKET_S3, NULL, "b", "p/q/",
         "https://acc.r2.cloudflarestorage.com", "weur", "r2://acc/b/p/q/"},
        {"r2://acc/b?endpoint=https://acc.eu.r2.cloudflarestorage.com", BH_BUCKET_S3, NULL, "b", "",
         "https://acc.eu.r2.cloudflarestorage.com", "auto",
         "s3://b/?endpoint=https://acc.eu.r2.cloudflarestorage.com"},
        {"r2://acc.eu/b", BH_BUCKET_S3, NULL, "b", "", "https://acc.eu.r2.cloudflarestorage.com",
         "auto", "r2://acc.eu/b/"},
        {"R2://0123456789abcdef.FedRAMP/b/p", BH_BUCKET_S3, NULL, "b", "p/",
         "https://0123456789abcdef.fedramp.r2.cloudflarestorage.com", "auto",
         "r2://0123456789abcdef.FedRAMP/b/p/"},
        {"s3://b?profile=work&addressing=path&requester_pays=yes&credentials=anonymous",
         BH_BUCKET_S3, NULL, "b", "", "", "us-east-1", "s3://b/"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct bh_config *c = load_ok(NULL, cases[i].url, NULL);
        char *shown = bh_config_display_url(c);
        assert_string_equal(c->bucket.url, cases[i].url);
        assert_int_equal(c->bucket.kind, cases[i].kind);
        if (cases[i].path)
            assert_string_equal(c->bucket.path, cases[i].path);
        else
            assert_null(c->bucket.path);
        assert_string_equal(c->bucket.name, cases[i].name);
        assert_string_equal(c->bucket.prefix, cases[i].prefix);
        assert_string_equal(c->bucket.endpoint_url, cases[i].endpoint);
        assert_string_equal(c->bucket.region, cases[i].region);
        assert_string_equal(shown, cases[i].shown);
        free(shown);
        bh_config_free(c);
    }
}

/* The parameters are keys of [bucket] and take what these take. */
static void parameters(void **state)
{
    (void)state;
    struct bh_config *c = load_ok(
        NULL, "s3://b/p?profile=w%6Frk&addressing=virtual&requester_pays=1&&credentials=auto",
        NULL);
    assert_string_equal(c->bucket.profile, "work");
    assert_int_equal(c->bucket.addressing, BH_ADDRESSING_VIRTUAL);
    assert_true(c->bucket.requester_pays);
    assert_int_equal(c->bucket.credentials, BH_CREDENTIALS_AUTO);
    assert_origin(c, "bucket", "addressing", "command line");
    assert_origin(c, "bucket", "requester_pays", "command line");
    bh_config_free(c);
    c = load_ok(NULL, "r2://acc/b?addressing=path&credentials=anonymous", NULL);
    assert_int_equal(c->bucket.addressing, BH_ADDRESSING_PATH);
    assert_int_equal(c->bucket.credentials, BH_CREDENTIALS_ANONYMOUS);
    bh_config_free(c);
    /* over a weaker source, under a stronger one, never beside itself */
    const char *file = write_file("f.ini", 0644,
                                  "[bucket]\naddressing = path\nrequester_pays = true\n"
                                  "url = s3://low\nprofile = low\n");
    c = load_ok(file, "s3://b?addressing=virtual&profile=high", NULL);
    assert_int_equal(c->bucket.addressing, BH_ADDRESSING_VIRTUAL);
    assert_string_equal(c->bucket.profile, "high");
    assert_true(c->bucket.requester_pays);
    bh_config_free(c);
    c = load_ok(NULL, "s3://b?addressing=virtual", "bucket.addressing=path");
    assert_int_equal(c->bucket.addressing, BH_ADDRESSING_PATH);
    bh_config_free(c);
    assert_refused(
        write_file("f.ini", 0644, "[bucket]\naddressing = auto\nurl = s3://b?addressing=path\n"),
        NULL, NULL, EINVAL, "f.ini:2: bucket.addressing is also said by bucket.url|:3");
    assert_refused(write_file("f.ini", 0644,
                              "[bucket]\nurl = s3://b?requester_pays=no\nrequester_pays = no\n"),
                   NULL, NULL, EINVAL, "f.ini:3: bucket.requester_pays is also said by bucket.url");
}

static void refused(void **state)
{
    static const struct {
        const char *url, *parts;
    } cases[] = {
        {"bucket",
         "command line: bucket.url: not a bucket URL|file:///DIRECTORY|s3://BUCKET/PREFIX|r2://"},
        {"/srv/bucket", "not a bucket URL"},
        {"gs://b", "unknown scheme 'gs'|s3://BUCKET"},
        {"://b", "unknown scheme ''"},
        {"s33://b", "unknown scheme 's33'"},
        {"file://relative/dir", "absolute path on this host|three slashes"},
        {"file://", "absolute path on this host"},
        {"file:/b", "not a bucket URL"},
        {"file:///", "root directory"},
        {"file:////", "root directory"},
        {"file:///b?x=1", "file:// URL takes no parameter such as 'x'|%3F"},
        {"file:///b#c", "%23"},
        {"file:///b%", "two hexadecimal digits|%25"},
        {"file:///b%4", "two hexadecimal digits"},
        {"file:///b%g0", "two hexadecimal digits"},
        {"file:///b%00", "control character"},
        {"file:///b%0a", "control character"},
        {"s3://", "names no bucket"},
        {"s3:///p", "names no bucket"},
        {"s3://?region=x", "names no bucket"},
        {"s3://b_%20", "'b_%20': not a bucket name"},
        {"s3://..", "not a bucket name"},
        {"s3://b/../c", "'..'"},
        {"s3://b/%2e%2E/c", "'..'"},
        {"s3://b//", NULL},
        {"s3://b/a//c", "not empty"},
        {"s3://user:secret@b/p", "user, secret or port|process list|secret_access_key_file"},
        {"s3://user@b/p", "user, secret or port"},
        {"s3://b:9000/p", "user, secret or port"},
        {"s3://b?regoin=x",
         "unknown parameter 'regoin' in the URL; known are endpoint, region, profile, "
         "addressing, requester_pays and credentials"},
        {"s3://b?region=x&Region=y", "unknown parameter 'Region'"},
        {"s3://b?region=x&region=y", "region stands twice"},
        {"s3://b?region=", "region of the URL has no value"},
        {"s3://b?region", "region of the URL has no value"},
        {"s3://b?region=a%20b", "the parameter region: it holds a space"},
        {"s3://b?profile=a%20b", "the parameter profile: it holds a space"},
        {"s3://b?profile=", "profile of the URL has no value"},
        {"s3://b?addressing=host",
         "the parameter addressing: no such choice; allowed: auto, path, virtual"},
        {"s3://b?addressing=path&addressing=path", "addressing stands twice"},
        {"s3://b?requester_pays", "requester_pays of the URL has no value"},
        {"s3://b?requester_pays=you", "the parameter requester_pays: neither true (yes, on, 1)"},
        {"s3://b?credentials=none", "the parameter credentials: no such choice; allowed: auto"},
        {"s3://b?sse=none", "unknown parameter 'sse'"},
        {"s3://b?endpoint_url=http://h", "unknown parameter 'endpoint_url'"},
        {"file:///b?profile=x", "takes no parameter such as 'profile'"},
        {"s3://b?endpoint=h", "http:// or https://"},
        {"s3://b?endpoint=http://u:p@h", "no user or secret"},
        {"r2://", "account is missing"},
        {"r2://acc", "names no bucket"},
        {"r2://a_b/c", "not an account id"},
        {"r2://acc.de/b", "not an account id|.eu or .fedramp"},
        {"r2://.eu/b", "not an account id"},
        {"r2://acc.eu.eu/b", "not an account id"},
        {"r2://acc./b", "not an account id"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (cases[i].parts)
            assert_refused(NULL, cases[i].url, NULL, EINVAL, cases[i].parts);
        else
            bh_config_free(load_ok(NULL, cases[i].url, NULL));
    }
}

/* A URL names the whole place; endpoint and credentials of weaker sources stay. */
static void url_over_weaker_sources(void **state)
{
    (void)state;
    const char *file =
        write_file("f.ini", 0600,
                   "[bucket]\nname = low\nprefix = lowp\nendpoint_url = http://low\nregion = lowr\n"
                   "access_key_id = a\nsecret_access_key = s\n");
    struct bh_config *c = load_ok(file, "s3://high", NULL);
    assert_string_equal(c->bucket.name, "high");
    assert_string_equal(c->bucket.prefix, "");
    assert_string_equal(c->bucket.endpoint_url, "http://low");
    assert_string_equal(c->bucket.access_key_id, "a");
    bh_config_free(c);
    c = load_ok(file, "file:///x", NULL);
    assert_int_equal(c->bucket.kind, BH_BUCKET_FILE);
    assert_string_equal(c->bucket.name, "");
    assert_string_equal(c->bucket.prefix, "");
    bh_config_free(c);
    c = load_ok(file, "r2://acc/high", NULL);
    assert_string_equal(c->bucket.region, "auto");
    assert_string_equal(c->bucket.endpoint_url, "https://acc.r2.cloudflarestorage.com");
    bh_config_free(c);
    c = load_ok(file, "s3://high/p", "bucket.prefix=q/");
    assert_string_equal(c->bucket.prefix, "q/");
    bh_config_free(c);

    file = write_file("f.ini", 0600, "[bucket]\nurl = file:///low\nprefix = in/dir\n");
    c = load_ok(file, NULL, NULL);
    assert_string_equal(c->bucket.path, "/low");
    assert_string_equal(c->bucket.prefix, "in/dir/");
    bh_config_free(c);
    setenv("BUCKETHEAD_BUCKET__NAME", "high", 1);
    c = load_ok(file, NULL, NULL);
    assert_int_equal(c->bucket.kind, BH_BUCKET_S3);
    assert_string_equal(c->bucket.name, "high");
    assert_string_equal(c->bucket.url, "");
    assert_null(c->bucket.path);
    bh_config_free(c);
}

static void cloudflare_account(void **state)
{
    (void)state;
    setenv("BUCKETHEAD_CLOUDFLARE__ACCOUNT_ID", "acc", 1);
    struct bh_config *c = load_ok(NULL, "s3://b", NULL);
    assert_string_equal(c->bucket.account_id, "acc");
    assert_string_equal(c->bucket.endpoint_url, "https://acc.r2.cloudflarestorage.com");
    assert_string_equal(c->bucket.region, "auto");
    assert_origin(c, "bucket", "endpoint_url", "environment BUCKETHEAD_CLOUDFLARE__ACCOUNT_ID");
    bh_config_free(c);
    c = load_ok(NULL, "s3://b?endpoint=http://own&region=weur", NULL);
    assert_string_equal(c->bucket.endpoint_url, "http://own");
    assert_string_equal(c->bucket.region, "weur");
    bh_config_free(c);
    /* what other programs use is not meant for the account's bucket */
    setenv("AWS_REGION", "eu-west-1", 1);
    setenv("AWS_ENDPOINT_URL", "http://other", 1);
    setenv("BUCKETHEAD_CLOUDFLARE__ACCOUNT_ID", "acc.eu", 1);
    c = load_ok(NULL, "s3://b", NULL);
    assert_string_equal(c->bucket.endpoint_url, "https://acc.eu.r2.cloudflarestorage.com");
    assert_string_equal(c->bucket.region, "auto");
    bh_config_free(c);
    const char *file = write_file("f.ini", 0644, "[bucket]\nregion = weur\nurl = s3://b\n");
    c = load_ok(file, NULL, NULL);
    assert_string_equal(c->bucket.region, "weur");
    bh_config_free(c);
    unsetenv("BUCKETHEAD_CLOUDFLARE__ACCOUNT_ID");
    c = load_ok(write_file("f.ini", 0644, "[bucket]\nurl = r2://acc/b\n"), NULL, NULL);
    assert_string_equal(c->bucket.endpoint_url, "https://acc.r2.cloudflarestorage.com");
    assert_string_equal(c->bucket.region, "auto");
    bh_config_free(c);
}

static char *identity(const char *url, const char *override)
{
    struct bh_config *c = load_ok(NULL, url, override);
    char *id = bh_config_identity(c);
    assert_non_null(id);
    bh_config_free(c);
    return id;
}

static void assert_identities(const char *a, const char *oa, const char *b, const char *ob,
                              bool same)
{
    char *ia = identity(a, oa), *ib = identity(b, ob);
    if ((strcmp(ia, ib) == 0) != same)
        fail_msg("%s be the same: %s and %s", same ? "must" : "must not", ia, ib);
    free(ia);
    free(ib);
}

static void identities(void **state)
{
    (void)state;
    char *id = identity("s3://b/p", NULL);
    assert_string_equal(
        id, "s3://b/p/?endpoint=https://s3.amazonaws.com\nbucketsqlite/snap.db\nmain\n");
    free(id);
    id = identity("file:///no/such/d%20e", NULL);
    assert_string_equal(id, "file:///no/such/d%20e\nbucketsqlite/snap.db\nmain\n");
    free(id);
    assert_identities("s3://b/p", NULL, "s3://b/p/?region=us-east-1", "snapshot.branch=main", true);
    assert_identities("s3://b", NULL, "s3://b?endpoint=https://S3.us-east-1.amazonaws.com:443/",
                      NULL, true);
    assert_identities("s3://b", NULL, "s3://b?region=eu-west-1", NULL, true);
    assert_identities("s3://b", NULL, "s3://b?endpoint=https://s3.example.com", NULL, false);
    assert_identities("r2://acc/b", NULL,
                      "s3://b?endpoint=https://acc.r2.cloudflarestorage.com&region=auto", NULL,
                      true);
    assert_identities("r2://acc.eu/b", NULL,
                      "s3://b?endpoint=https://acc.eu.r2.cloudflarestorage.com", NULL, true);
    assert_identities("r2://acc/b", NULL, "r2://acc.eu/b", NULL, false);
    assert_identities("s3://b", "bucket.attempts=3", "s3://b", "snapshot.interval=1s", true);
    /* how a bucket is reached, and as whom, does not make it another */
    assert_identities("s3://b", NULL, "s3://b?profile=work&requester_pays=yes", NULL, true);
    assert_identities("s3://b?addressing=path", NULL, "s3://b?addressing=virtual", NULL, true);
    assert_identities("s3://b?credentials=anonymous", NULL, "s3://b?profile=other", NULL, true);
    assert_identities("s3://b", "bucket.sse=AES256", "s3://b", "bucket.create=yes", true);
    assert_identities("s3://b", "bucket.ca_file=/x", "s3://b", "bucket.part_size=5M", true);
    assert_identities("s3://b", NULL, "s3://c", NULL, false);
    assert_identities("s3://b", NULL, "s3://b/p", NULL, false);
    assert_identities("s3://b", NULL, "s3://b?endpoint=http://h", NULL, false);
    assert_identities("s3://b", NULL, "s3://b", "snapshot.branch=dev", false);
    assert_identities("s3://b", NULL, "s3://b", "snapshot.key=k", false);
    assert_identities("file:///x", NULL, "file:///x", "bucket.prefix=p", false);
    assert_identities("file:///x/p", NULL, "file:///x", "bucket.prefix=p", false);
    assert_identities("file:///x%3Fprefix=p/", NULL, "file:///x", "bucket.prefix=p", false);

    setenv("AWS_ACCESS_KEY_ID", "a", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "hush", 1);
    setenv("BUCKETHEAD_BUCKET__PROXY", "http://u:hush@h:1", 1);
    id = identity("s3://b", NULL);
    assert_string_equal(
        id, "s3://b/?endpoint=https://s3.amazonaws.com\nbucketsqlite/snap.db\nmain\n");
    free(id);
}

static void identities_of_directories(void **state)
{
    (void)state;
    char real[128], link[128], odd[160], other[160];
    snprintf(real, sizeof real, "file://%s/real", test_home);
    snprintf(link, sizeof link, "file://%s/link", test_home);
    snprintf(odd, sizeof odd, "file://%s//./no/../real/", test_home);
    assert_int_equal(mkdir(real + 7, 0755), 0);
    assert_int_equal(symlink("real", link + 7), 0);
    assert_identities(real, NULL, link, NULL, true);
    assert_identities(real, NULL, odd, NULL, true);
    /* what does not exist yet has the name that it will have */
    strcat(link, "/new/dir");
    snprintf(other, sizeof other, "%s/new//x/./../dir/", real);
    char *before = identity(link, NULL);
    assert_identities(link, NULL, other, NULL, true);
    snprintf(other, sizeof other, "%s/new", real + 7);
    assert_int_equal(mkdir(other, 0755), 0);
    strcat(other, "/dir");
    assert_int_equal(mkdir(other, 0755), 0);
    char *after = identity(link, NULL);
    assert_string_equal(before, after);
    free(before);
    free(after);
}

static void snapshot_keys(void **state)
{
    static const struct {
        const char *url, *override, *key;
    } cases[] = {
        {"s3://b", NULL, "bucketsqlite/snap.db"},
        {"s3://b/p", NULL, "p/bucketsqlite/snap.db"},
        {"s3://b/p", "snapshot.branch=dev-1", "p/bucketsqlite/snap.db.branch.dev-1"},
        {"file:///b", "snapshot.key=x", "x"},
        {"file:///b", "bucket.prefix=q", "q/bucketsqlite/snap.db"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct bh_config *c = load_ok(NULL, cases[i].url, cases[i].override);
        char *key = bh_config_snapshot_key(c);
        assert_string_equal(key, cases[i].key);
        free(key);
        bh_config_free(c);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(accepted),
        TEST(parameters),
        TEST(refused),
        TEST(url_over_weaker_sources),
        TEST(cloudflare_account),
        TEST(identities),
        TEST(identities_of_directories),
        TEST(snapshot_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
