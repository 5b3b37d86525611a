/* As whom a bucket is asked: one source says it as a whole. */
#include "test_config.h"

#define FILE_KEYS "[bucket]\nname = b\naccess_key_id = fid\nsecret_access_key = fsec\n"

static void set_aws(const char *id, const char *secret, const char *token)
{
    setenv("AWS_ACCESS_KEY_ID", id, 1);
    setenv("AWS_SECRET_ACCESS_KEY", secret, 1);
    setenv("AWS_SESSION_TOKEN", token, 1);
}

static void assert_keys(const char *file, const char *url, const char *override, const char *id,
                        const char *secret, const char *token)
{
    struct bh_config *c = load_ok(file, url, override);
    assert_string_equal(c->bucket.access_key_id, id);
    assert_string_equal(c->bucket.secret_access_key, secret);
    assert_string_equal(c->bucket.session_token, token);
    bh_config_free(c);
}

/* The strongest source that has a key gives all three; a token of another would spoil it. */
static void keys_come_together(void **state)
{
    (void)state;
    const char *plain = write_file("plain.ini", 0600, FILE_KEYS);
    const char *token = write_file("token.ini", 0600, FILE_KEYS "session_token = ftok\n");
    assert_keys(plain, NULL, NULL, "fid", "fsec", "");
    assert_keys(token, NULL, NULL, "fid", "fsec", "ftok");
    set_aws("aid", "asec", "atok");
    assert_keys(NULL, "s3://b", NULL, "aid", "asec", "atok");
    assert_keys(plain, NULL, NULL, "fid", "fsec", "");
    assert_keys(token, NULL, NULL, "fid", "fsec", "ftok");
    setenv("BUCKETHEAD_BUCKET__ACCESS_KEY_ID", "eid", 1);
    setenv("BUCKETHEAD_BUCKET__SECRET_ACCESS_KEY", "esec", 1);
    assert_keys(token, NULL, NULL, "eid", "esec", "");
    setenv("BUCKETHEAD_BUCKET__SESSION_TOKEN", "", 1);
    assert_keys(token, NULL, NULL, "eid", "esec", "");
    setenv("BUCKETHEAD_BUCKET__SESSION_TOKEN", "etok", 1);
    assert_keys(token, NULL, NULL, "eid", "esec", "etok");
}

/* Every -o is a source of its own, but together they may give a key. */
static void keys_of_the_command_line(void **state)
{
    (void)state;
    char secret[300], token[300];
    snprintf(secret, sizeof secret, "bucket.secret_access_key_file=%s",
             write_file("secret", 0600, "osec\n"));
    snprintf(token, sizeof token, "bucket.session_token_file=%s",
             write_file("token", 0600, "otok\n"));
    const char *const list[] = {token, "bucket.access_key_id=oid", secret};
    set_aws("aid", "asec", "atok");
    struct bh_config_request req = {.url = "s3://b",
                                    .overrides = list,
                                    .override_count = 3,
                                    .use_environment = true,
                                    .file = write_file("f.ini", 0600, FILE_KEYS)};
    struct bh_config *c = NULL;
    assert_int_equal(bh_config_load(&c, &req, NULL), 0);
    assert_string_equal(c->bucket.access_key_id, "oid");
    assert_string_equal(c->bucket.secret_access_key, "osec");
    assert_string_equal(c->bucket.session_token, "otok");
    bh_config_free(c);
}

/* A secret that the environment adds to the key of the file is the file's key. */
static void a_secret_joins_our_own_key(void **state)
{
    (void)state;
    const char *id = write_file("id.ini", 0600, "[bucket]\nname = b\naccess_key_id = fid\n");
    set_aws("aid", "asec", "atok");
    setenv("BUCKETHEAD_BUCKET__SECRET_ACCESS_KEY", "esec", 1);
    assert_keys(id, NULL, NULL, "fid", "esec", "");
    unsetenv("BUCKETHEAD_BUCKET__SECRET_ACCESS_KEY");
    set_aws("", "", "");
}

/* Halves of a key from two sources make none. */
static void halves_are_refused(void **state)
{
    (void)state;
    const char *id = write_file("id.ini", 0600, "[bucket]\nname = b\naccess_key_id = fid\n");
    const char *secret =
        write_file("secret.ini", 0600, "[bucket]\nname = b\nsecret_access_key = HUSH\n");
    const char *token = write_file("token.ini", 0600, "[bucket]\nname = b\nsession_token = HUSH\n");
    struct bh_error err;
    assert_refused(token, NULL, NULL, EINVAL,
                   "bucket.session_token is set|token.ini:3) but bucket.access_key_id is not set "
                   "there|give both there or neither");
    set_aws("aid", "HUSH", "");
    assert_refused(id, NULL, NULL, EINVAL,
                   "bucket.access_key_id is set|id.ini:3) but bucket.secret_access_key is not set "
                   "there: both are taken from one source");
    assert_null(load(secret, NULL, NULL, &err));
    assert_has_all(err.text, "bucket.secret_access_key is set|secret.ini:3) but "
                             "bucket.access_key_id is not set there");
    assert_lacks(err.text, "HUSH");
    /* a directory is asked as nobody */
    bh_config_free(load_ok(id, "file:///b", NULL));

    set_aws("aid", "", "");
    assert_refused(NULL, "s3://b", NULL, EINVAL,
                   "bucket.access_key_id is set (environment AWS_ACCESS_KEY_ID) but "
                   "bucket.secret_access_key is not set there");
    assert_keys(write_file("f.ini", 0600, FILE_KEYS), NULL, NULL, "fid", "fsec", "");
    /* what other programs left lying about: nobody's mistake here */
    set_aws("", "", "atok");
    assert_keys(NULL, "s3://b", NULL, "", "", "");
}

/* A file may say that there is no key, for all that the environment has one. */
static void an_empty_key_is_none(void **state)
{
    (void)state;
    set_aws("aid", "asec", "atok");
    assert_keys(write_file("f.ini", 0644, "[bucket]\nname = b\naccess_key_id =\n"), NULL, NULL, "",
                "", "");
    assert_keys(NULL, "s3://b", "bucket.access_key_id=", "", "", "");
}

/* A profile that was chosen for this program is meant instead of a key that was not. */
static void profiles(void **state)
{
    (void)state;
    const char *profile = write_file("p.ini", 0600, "[bucket]\nname = b\nprofile = mine\n");
    const char *both = write_file("both.ini", 0600, FILE_KEYS "profile = mine\n");
    set_aws("aid", "asec", "atok");
    setenv("AWS_PROFILE", "all", 1);
    struct bh_config *c = load_ok(NULL, "s3://b", NULL);
    assert_string_equal(c->bucket.profile, "all");
    assert_false(c->bucket.profile_chosen);
    assert_string_equal(c->bucket.access_key_id, "aid"); /* as AWS's tools have it */
    assert_string_equal(c->bucket.session_token, "atok");
    bh_config_free(c);
    c = load_ok(profile, NULL, NULL);
    assert_string_equal(c->bucket.profile, "mine");
    assert_true(c->bucket.profile_chosen);
    assert_string_equal(c->bucket.access_key_id, "");
    assert_string_equal(c->bucket.secret_access_key, "");
    assert_string_equal(c->bucket.session_token, "");
    bh_config_free(c);
    assert_keys(NULL, "s3://b?profile=p", NULL, "", "", "");
    assert_keys(NULL, "s3://b", "bucket.profile=p", "", "", "");
    c = load_ok(profile, NULL, "bucket.profile=");
    assert_false(c->bucket.profile_chosen);
    bh_config_free(c);
    assert_keys(profile, NULL, "bucket.profile=", "aid", "asec", "atok");
    /* in one source the key counts, and over a profile of a weaker one */
    assert_keys(both, NULL, NULL, "fid", "fsec", "");
    assert_keys(both, "s3://b?profile=p", NULL, "", "", "");
    setenv("BUCKETHEAD_BUCKET__ACCESS_KEY_ID", "eid", 1);
    setenv("BUCKETHEAD_BUCKET__SECRET_ACCESS_KEY", "esec", 1);
    assert_keys(profile, NULL, NULL, "eid", "esec", "");
    unsetenv("BUCKETHEAD_BUCKET__ACCESS_KEY_ID");
    unsetenv("BUCKETHEAD_BUCKET__SECRET_ACCESS_KEY");
    setenv("BUCKETHEAD_BUCKET__PROFILE", "p", 1);
    assert_keys(write_file("f.ini", 0600, FILE_KEYS), NULL, NULL, "", "", "");
}

static void anonymous(void **state)
{
    (void)state;
    const char *anon = write_file("a.ini", 0644, "[bucket]\nname = b\ncredentials = anonymous\n");
    struct bh_error err;
    setenv("AWS_PROFILE", "all", 1);
    set_aws("aid", "asec", "atok");
    assert_keys(anon, NULL, NULL, "", "", "");
    assert_keys(NULL, "s3://b?credentials=anonymous", NULL, "", "", "");
    assert_keys(write_file("f.ini", 0600, FILE_KEYS), "s3://b?credentials=anonymous", NULL, "", "",
                "");
    assert_keys(anon, "s3://b?credentials=auto", NULL, "aid", "asec", "atok");

    assert_null(
        load(write_file("f.ini", 0600, FILE_KEYS "credentials = anonymous\n"), NULL, NULL, &err));
    assert_int_equal(err.code, EINVAL);
    assert_has_all(err.text, "bucket.access_key_id is set (|f.ini:3) but bucket.credentials is "
                             "anonymous (|f.ini:5)|not signed; keep one of the two");
    assert_lacks(err.text, "fsec");
    assert_refused(anon, "s3://b?profile=p", NULL, EINVAL,
                   "bucket.profile is set (command line) but bucket.credentials is anonymous");
    assert_refused(anon, NULL, "bucket.access_key_id=x", EINVAL,
                   "bucket.access_key_id is set (-o) but bucket.credentials is anonymous");
    bh_config_free(load_ok(write_file("f.ini", 0644,
                                      "[bucket]\nname = b\nprofile = p\n"
                                      "credentials = anonymous\n"),
                           NULL, NULL)); /* the profile's region */
    setenv("BUCKETHEAD_BUCKET__SESSION_TOKEN", "HUSH", 1);
    assert_null(load(anon, NULL, NULL, &err));
    assert_has(err.text, "bucket.session_token is set (environment");
    assert_lacks(err.text, "HUSH");
    bh_config_free(load_ok(anon, "file:///b", NULL));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(keys_come_together), TEST(keys_of_the_command_line), TEST(a_secret_joins_our_own_key),
        TEST(halves_are_refused), TEST(an_empty_key_is_none),     TEST(profiles),
        TEST(anonymous),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
