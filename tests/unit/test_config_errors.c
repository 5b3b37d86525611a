/* Every class of refusal, with what its sentence must say and must not. */
#include "test_config.h"

/* Refusals of one file: its text, and what the sentence has. FILE:LINE of each is checked by the
 * parts. */
static void refusals_of_a_file(void **state)
{
    static const struct {
        const char *text, *parts;
    } cases[] = {
        {"[bucket]\n\nnmae = x\n", "f.ini:3:|'nmae' in [bucket]|did you mean 'name' in [bucket]?"},
        {"[bucket]\nintervall = 3s\n",
         "f.ini:2:|'intervall'|did you mean 'interval' in [snapshot]?"},
        {"[bucket]\nurlfile = x\n", "f.ini:2:|did you mean 'url_file' in [bucket]?"},
        {"[hooks]\nattempts_file = x\n", "f.ini:2:|unknown key 'attempts_file'|did you mean"},
        {"[bukcet]\n", "f.ini:1:|unknown section [bukcet]|did you mean [bucket]?"},
        {"[ bucket ]\nname = x\n", "f.ini:1:|unknown section [ bucket ]"},
        {"name = x\n", "f.ini:1:|'name' stands before any [section]"},
        {"[bucket\nname = x\n", "f.ini:1:|']'|missing"},
        {"[bucket] name = x\n", "f.ini:1:|nothing but a comment may follow [bucket]"},
        {"[bucket]\nname x\n[nonsense]\n", "f.ini:2:|neither a [section] nor KEY = VALUE"},
        {"[bucket]\nname = x\nregion = r\n name = y\n",
         "f.ini:4:|bucket.name was already given at|f.ini:2"},
        {"[bucket]\nurl = s3://b\nurl_file = /x\n",
         "f.ini:3:|bucket.url_file and bucket.url|f.ini:2"},
        {"[snapshot]\ninterval = soon\n",
         "f.ini:2: snapshot.interval = soon: not a duration|0 ms to 366 d"},
        {"[snapshot]\ninterval = 367d\n",
         "f.ini:2: snapshot.interval = 367d: out of range|allowed: 0 ms to 366 d"},
        {"[snapshot]\nstop_timeout = 0\n", "snapshot.stop_timeout = 0: out of range|1 ms to 1 d"},
        {"[bucket]\nretry_base = 99999999999999999999w\n",
         "bucket.retry_base|out of range|1 ms to 1 min"},
        {"[bucket]\nattempts = 0\n",
         "f.ini:2: bucket.attempts = 0: out of range; allowed: 1 to 100"},
        {"[bucket]\nattempts = 101\n", "bucket.attempts = 101: out of range; allowed: 1 to 100"},
        {"[bucket]\nattempts = 5K\n",
         "bucket.attempts = 5K: not a whole number; allowed: 1 to 100"},
        {"[bucket]\nattempts = -1\n", "not a whole number"},
        {"[bucket]\nattempts =\n", "bucket.attempts = : not a whole number"},
        {"[mount]\nworkers = 65\n", "mount.workers = 65: out of range; allowed: 1 to 64"},
        {"[mount]\ncpu = first\n", "mount.cpu = first|auto, off, or a CPU number from 0 to 1023"},
        {"[mount]\ncpu = 1024\n", "mount.cpu = 1024|auto, off"},
        {"[mount]\ncpu =\n", "mount.cpu = : it must not be empty; the default is auto"},
        {"[snapshot]\nkeep_previous = maybe\n",
         "snapshot.keep_previous = maybe: neither true (yes, on, 1) nor false"},
        {"[snapshot]\nrecover = next\n",
         "snapshot.recover = next: no such choice; allowed: no, prev"},
        {"[live]\njournal = wal\n", "live.journal = wal: WAL is not supported yet by this version; "
                                    "allowed: delete, truncate, persist, memory, off"},
        {"[live]\ndir = some/where\n", "live.dir = some/where|memory, or an absolute path"},
        {"[live]\npowercut_dir = x\n", "live.powercut_dir = x: the path must be absolute"},
        {"[log]\nfile = x.log\n", "log.file = x.log: the path must be absolute"},
        {"[log]\nfile = /x.log # the log\n",
         "f.ini:2: log.file = /x.log # the log: a comment behind a value begins with ' ;'"},
        {"[log]\nlevel = INFO\n",
         "log.level = INFO: no such choice; allowed: error, warning, info, debug"},
        {"[snapshot]\nkey = /abs\n", "snapshot.key = /abs|neither begins nor ends with '/'"},
        {"[snapshot]\nkey = a/../b\n", "snapshot.key = a/../b|'.' or '..'"},
        {"[snapshot]\nkey = .\n", "snapshot.key = .|'.' or '..'"},
        {"[snapshot]\nkey =\n",
         "snapshot.key = : it must not be empty; the default is bucketsqlite/snap.db"},
        {"[snapshot]\nbranch = a.b\n", "snapshot.branch = a.b: not a branch name: 1 to 100"},
        {"[snapshot]\nbranch =\n", "snapshot.branch = : it must not be empty; the default is main"},
        {"[bucket]\nname = my bucket\n", "bucket.name = my bucket: not a bucket name"},
        {"[bucket]\nprefix = a/../b\n", "bucket.prefix = a/../b|'..'"},
        {"[bucket]\nprefix = a//b\n", "bucket.prefix = a//b|not empty"},
        {"[bucket]\nendpoint_url = ftp://h\n", "bucket.endpoint_url = ftp://h|http:// or https://"},
        {"[bucket]\nendpoint_url = http://\n", "the host is missing"},
        {"[bucket]\nendpoint_url = http://h:0\n", "port|1 to 65535"},
        {"[bucket]\nendpoint_url = http://h:65536\n", "port|1 to 65535"},
        {"[bucket]\nendpoint_url = http://h?x=1\n", "without '?'"},
        {"[bucket]\nregion = two words\n", "bucket.region = two words|space"},
        {"[bucket]\naccount_id = x/y\n", "bucket.account_id = x/y: not an account id"},
        {"[hooks]\non_flush_start = sync ; echo done\n",
         "f.ini:2: hooks.on_flush_start|';' after a space begins a comment"},
        {"[bucket]\nname = b\naccess_key_id = x\n",
         "bucket.access_key_id is set|f.ini:3|secret_access_key is not"},
        {"[bucket]\nurl = s3://a\nname = b\n",
         "f.ini:3: bucket.name is also said by bucket.url|f.ini:2"},
        {"[bucket]\nprefix = p\nurl = s3://a/q\n",
         "f.ini:2: bucket.prefix is also said by bucket.url"},
        {"[bucket]\nregion = p\nurl = s3://a?region=q\n",
         "bucket.region is also said by bucket.url"},
        {"[bucket]\nname = x\n[log]\nfile = /\x01\n",
         "f.ini:4: log.file = /?: it contains a control character"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(write_file("f.ini", 0600, cases[i].text), NULL, NULL, EINVAL,
                       cases[i].parts);
}

static void binary_file(void **state)
{
    (void)state;
    const char *path = write_file("f.ini", 0644, "");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fwrite("[bucket]\nname = a\0b\n", 1, 20, f);
    fclose(f);
    assert_refused(path, NULL, NULL, EINVAL, "f.ini:2:|NUL byte");
}

static void long_lines(void **state)
{
    (void)state;
    char text[1024], filler[600];
    memset(filler, 'x', sizeof filler);
    filler[sizeof filler - 1] = '\0';
    snprintf(text, sizeof text, "[bucket]\nname = b\nsession_token = %s\n", filler);
    assert_refused(write_file("f.ini", 0600, text), NULL, NULL, EINVAL,
                   "f.ini:3:|615 bytes|bucket.session_token|session_token_file = PATH");
    snprintf(text, sizeof text, "[hooks]\non_flush_start = %s\n", filler);
    assert_refused(write_file("f.ini", 0600, text), NULL, NULL, EINVAL,
                   "f.ini:2:|put the command into a script|KEY_file");
    snprintf(text, sizeof text, "[log]\nfile = /%s\n", filler);
    assert_refused(write_file("f.ini", 0600, text), NULL, NULL, EINVAL,
                   "f.ini:2:|shorten it|KEY_file");
    assert_refused(write_file("f.ini", 0600, filler), NULL, NULL, EINVAL, "f.ini:1:|599 bytes");
    /* at the border nothing is lost: what is accepted arrives whole */
    int accepted = 0, border = 0;
    for (int len = 150; len < 260; len++) {
        struct bh_error err;
        snprintf(text, sizeof text, "[bucket]\nname = b\n[log]\nfile = /%.*s", len, filler);
        struct bh_config *c = load(write_file("f.ini", 0600, text), NULL, NULL, &err);
        if (c) {
            assert_int_equal(border, 0);
            accepted = (int)strlen("file = /") + len;
            assert_int_equal(strlen(c->log.file), len + 1);
        } else {
            assert_has(err.text, "f.ini:4: the line has");
            const char *end = strstr(err.text, "end at ");
            assert_non_null(end);
            border = atoi(end + strlen("end at "));
        }
        bh_config_free(c);
    }
    assert_int_equal(accepted, border);
}

static void permissions(void **state)
{
    (void)state;
    static const char text[] = "[bucket]\nname = b\naccess_key_id = a\nsecret_access_key = hush\n";
    char ini[300];
    assert_refused(write_file("f.ini", 0640, text), NULL, NULL, EACCES,
                   "f.ini:4 holds bucket.secret_access_key|chmod 600");
    assert_refused(write_file("f.ini", 0604, text), NULL, NULL, EACCES, "chmod 600");
    assert_refused(write_file("f.ini", 0644, "[bucket]\nname = b\nsession_token = t\n"), NULL, NULL,
                   EACCES, "f.ini:3 holds bucket.session_token|chmod 600");
    bh_config_free(load_ok(write_file("f.ini", 0600, text), NULL, NULL));
    bh_config_free(load_ok(write_file("f.ini", 0644, "[bucket]\nname = b\nsecret_access_key =\n"),
                           NULL, NULL));

    snprintf(ini, sizeof ini,
             "[bucket]\nname = b\naccess_key_id = a\nsecret_access_key_file = %s\n",
             write_file("secret", 0644, "hush\n"));
    assert_refused(
        write_file("f.ini", 0644, ini), NULL, NULL, EACCES,
        "f.ini:4: bucket.secret_access_key_file|/secret can be read by group or others|chmod 600");
    write_file("secret", 0600, "hush\n");
    bh_config_free(load_ok(write_file("f.ini", 0644, ini), NULL, NULL));
    write_file("secret", 0600, "\nhush\n");
    assert_refused(write_file("f.ini", 0644, ini), NULL, NULL, EINVAL,
                   "f.ini:4:|first line of|is empty");
    assert_refused(
        write_file("f.ini", 0644, "[bucket]\nname = b\nsecret_access_key_file = /no/such\n"), NULL,
        NULL, ENOENT, "f.ini:3: bucket.secret_access_key_file: /no/such cannot be opened");
}

/* No refusal and no dump shows any part of a secret, wherever it was misplaced. */
static void secrets_are_not_shown(void **state)
{
    static const char *const files[] = {
        "[bucket]\nname = b\nsecret_access_key = HUSH hush\n",
        "[bucket]\nname = b\nsecret_access_key_file = HUSHhush\n",
        "[bucket]\nname = b\nsecret_access_key = HUSH\n",
        "[bucket]\nname = b\nsession_token = HUSH\nsession_token = HUSH2\n",
        "[bucket]\nurl = s3://AKIA:HUSH@b/p\n",
        "[bucket]\nurl = s3://AKIA:HU/SH@b/p\n",
        "[bucket]\nurl = r2://AKIA:HUSH@b/p\n",
        "[bucket]\nurl = file://AKIA:HUSH@b/p\n",
        "[bucket]\nurl = https://AKIA:HUSH@b/p\n",
        "[bucket]\nurl = AKIA:HUSH@b/p\n",
        "[bucket]\nurl = s3://b?secret_access_key=HUSH\n",
        "[bucket]\nurl = s3://b?endpoint=http://a:HUSH@c\n",
        "[bucket]\nname = b\nendpoint_url = http://AKIA:HUSH@h\n",
        "[bucket]\nname = b\nsecret_access_key HUSH\n",
    };
    struct bh_error err;
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct bh_config *c = load(write_file("f.ini", 0600, files[i]), NULL, NULL, &err);
        if (c)
            fail_msg("accepted: %s", files[i]);
        assert_lacks(err.text, "HU");
        assert_has(err.text, "f.ini:");
    }
    setenv("BUCKETHEAD_BUCKET__NAME", "b", 1);
    setenv("BUCKETHEAD_BUCKET__SECRET_ACCESS_KEYS", "HUSH", 1);
    assert_null(load(NULL, NULL, NULL, &err));
    assert_lacks(err.text, "HUSH");
    unsetenv("BUCKETHEAD_BUCKET__SECRET_ACCESS_KEYS");
    setenv("AWS_SECRET_ACCESS_KEY", "HUSH\n", 1);
    assert_null(load(NULL, NULL, NULL, &err));
    assert_lacks(err.text, "HUSH");
    assert_has(
        err.text,
        "environment AWS_SECRET_ACCESS_KEY: bucket.secret_access_key: it contains a control");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    assert_null(load(NULL, NULL, "bucket.secret_access_key=HUSH", &err));
    assert_lacks(err.text, "HUSH");
    assert_has_all(err.text, "process list|bucket.secret_access_key_file=PATH");
}

static void environment(void **state)
{
    static const struct {
        const char *name, *value, *parts;
    } cases[] = {
        {"BUCKETHEAD_SNAPSHOT__INTERVALL", "1s",
         "BUCKETHEAD_SNAPSHOT__INTERVALL|did you mean BUCKETHEAD_SNAPSHOT__INTERVAL?"},
        {"BUCKETHEAD_BUCKET__URLFILE", "1s", "did you mean BUCKETHEAD_BUCKET__URL_FILE?"},
        {"BUCKETHEAD_snapshot__interval", "1s", "did you mean BUCKETHEAD_SNAPSHOT__INTERVAL?"},
        {"BUCKETHEAD___X", "1", "environment BUCKETHEAD___X: no such key|did you mean"},
        {"BUCKETHEAD_SNAPSHOT__INTERVAL", "x",
         "environment BUCKETHEAD_SNAPSHOT__INTERVAL: snapshot.interval = x: not a duration"},
        {"AWS_ENDPOINT_URL", "host",
         "environment AWS_ENDPOINT_URL: bucket.endpoint_url = host|http://"},
    };
    char long_name[300] = "BUCKETHEAD_A__";
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        setenv(cases[i].name, cases[i].value, 1);
        assert_refused(NULL, "s3://b", NULL, EINVAL, cases[i].parts);
        unsetenv(cases[i].name);
    }
    memset(long_name + strlen(long_name), 'X', 250);
    setenv(long_name, "1", 1);
    assert_refused(NULL, "s3://b", NULL, EINVAL, "no key has so long a name");
    unsetenv(long_name);
    setenv("BUCKETHEAD_CLOUDFLARE__ACCOUNT_ID", "a", 1);
    setenv("BUCKETHEAD_BUCKET__ACCOUNT_ID", "b", 1);
    assert_refused(NULL, "s3://b", NULL, EINVAL,
                   "bucket.account_id was already given at "
                   "environment|CLOUDFLARE__ACCOUNT_ID|BUCKET__ACCOUNT_ID");
    unsetenv("BUCKETHEAD_BUCKET__ACCOUNT_ID");
    bh_config_free(load_ok(NULL, "s3://b", NULL));
}

static void overrides(void **state)
{
    (void)state;
    assert_refused(NULL, "s3://b", "snapshot.intervall=1s", EINVAL,
                   "-o snapshot.intervall|did you mean snapshot.interval?");
    assert_refused(NULL, "s3://b", "snapshot.interval=x", EINVAL,
                   "-o: snapshot.interval = x: not a duration");
    assert_refused(NULL, "s3://b", "allow_other", EINVAL, "-o allow_other|SECTION.KEY=VALUE");
    assert_refused(NULL, "s3://b", "x=a.b", EINVAL, "-o x: write -o SECTION.KEY=VALUE");
}

static void missing_bucket(void **state)
{
    (void)state;
    char place[128];
    snprintf(place, sizeof place, "%s/.config/buckethead/buckethead.ini", test_home);
    if (access("/etc/buckethead.ini", F_OK) != 0)
        assert_refused(NULL, NULL, NULL, EINVAL, place);
    assert_refused(write_file("f.ini", 0644, "[snapshot]\n"), NULL, NULL, EINVAL,
                   "no bucket is configured|url = file:///DIRECTORY|[bucket] in "
                   "/tmp/|f.ini|BUCKETHEAD_BUCKET__URL|command line");
    assert_refused(NULL, "", NULL, EINVAL, "no bucket is configured");
}

static void object_keys_that_are_too_long(void **state)
{
    (void)state;
    char text[2048], key[1002], prefix[300];
    memset(key, 'k', sizeof key);
    memset(prefix, 'p', sizeof prefix);
    key[1000] = prefix[299] = '\0';
    setenv("BUCKETHEAD_SNAPSHOT__KEY", key, 1);
    struct bh_config *c = load_ok(NULL, "s3://b", NULL);
    assert_int_equal(strlen(c->snapshot.key), 1000);
    bh_config_free(c);
    snprintf(text, sizeof text, "s3://b/%s", prefix);
    assert_refused(NULL, text, NULL, EINVAL,
                   "bucket.prefix, snapshot.key and snapshot.branch|1305 bytes|1024");
    key[1000] = 'k';
    key[1001] = '\0';
    setenv("BUCKETHEAD_SNAPSHOT__KEY", key, 1);
    assert_refused(NULL, "s3://b", NULL, EINVAL, "1001 bytes; allowed: 1 to 1000");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(refusals_of_a_file), TEST(binary_file),           TEST(long_lines),
        TEST(permissions),        TEST(secrets_are_not_shown), TEST(environment),
        TEST(overrides),          TEST(missing_bucket),        TEST(object_keys_that_are_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
