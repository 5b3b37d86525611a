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
        {"[live]\njournal = walk\n", "live.journal = walk: no such choice; "
                                     "allowed: delete, truncate, persist, memory, off, wal"},
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
        {"[files]\nprefix = ../x/\n", "files.prefix = ../x/|'.' or '..'"},
        {"[files]\nprefix = a/./\n", "files.prefix = a/./|'.' or '..'"},
        {"[files]\nprefix = files\n", "files.prefix = files|end in /"},
        {"[bucket]\nurl = file:///b\n[files]\nprefix = bucketsqlite/snap.db.bhfs/packs/\n",
         "files.prefix = bucketsqlite/snap.db.bhfs/packs/|the history"},
        {"[bucket]\nname = my bucket\n", "bucket.name = my bucket: not a bucket name"},
        {"[bucket]\nprefix = a/../b\n", "bucket.prefix = a/../b|'..'"},
        {"[bucket]\nprefix = a//b\n", "bucket.prefix = a//b|not empty"},
        {"[bucket]\nendpoint_url = ftp://h\n", "bucket.endpoint_url = ftp://h|http:// or https://"},
        {"[bucket]\nendpoint_url = http://\n", "the host is missing"},
        {"[bucket]\nendpoint_url = http://[::1\n", "IPv6 address in brackets"},
        {"[bucket]\nendpoint_url = http://[:!:80\n", "the host of an endpoint is a name"},
        {"[bucket]\nendpoint_url = http://h,i\n", "the host of an endpoint is a name"},
        {"[bucket]\nendpoint_url = http://::1:80\n", "IPv6 address in brackets"},
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
        {"[bucket]\npart_size = big\n",
         "f.ini:2: bucket.part_size = big: not a size such as 512KiB, 16MiB or 1GiB; allowed: "
         "5 MiB to 5 GiB"},
        {"[bucket]\npart_size = 16MB\n", "bucket.part_size = 16MB: not a size"},
        {"[bucket]\npart_size = 5242879\n", "5242879: out of range; allowed: 5 MiB to 5 GiB"},
        {"[bucket]\npart_size = 5121M\n", "5121M: out of range; allowed: 5 MiB to 5 GiB"},
        {"[bucket]\npart_size = 99999999999999999999\n", "out of range; allowed: 5 MiB to 5 GiB"},
        {"[bucket]\npart_size =\n", "bucket.part_size = : not a size"},
        {"[bucket]\nconnections = 0\n", "bucket.connections = 0: out of range; allowed: 1 to 256"},
        {"[bucket]\nconnections = 257\n", "out of range; allowed: 1 to 256"},
        {"[bucket]\nconnect_timeout = 0\n", "bucket.connect_timeout = 0: out of range|10 ms"},
        {"[bucket]\nretry_time = 0\n", "bucket.retry_time = 0: out of range; allowed: 1 ms to 1 d"},
        {"[bucket]\nca_file = certs.pem\n",
         "f.ini:2: bucket.ca_file = certs.pem: the path must be absolute"},
        {"[bucket]\nstorage_class = GLACIER IR\n", "bucket.storage_class = GLACIER IR|a space"},
        {"[bucket]\nprofile = my own\n", "bucket.profile = my own|a space"},
        {"[bucket]\nsse = AES128\n",
         "bucket.sse = AES128: no such choice; allowed: none, AES256, aws:kms"},
        {"[bucket]\nsse =\n", "bucket.sse = : no such choice"},
        {"[bucket]\nsse_kms_key_id = a b\n", "bucket.sse_kms_key_id = a b|a space"},
        {"[bucket]\nname = b\nsse_kms_key_id = k\n",
         "bucket.sse_kms_key_id is set|f.ini:3) but bucket.sse (default) is not aws:kms"},
        {"[bucket]\nname = b\nsse = aes256\nsse_kms_key_id = k\n",
         "bucket.sse_kms_key_id is set|f.ini:4) but bucket.sse (|f.ini:3) is not aws:kms"},
        {"[bucket]\nrequester_pays = me\n",
         "bucket.requester_pays = me: neither true (yes, on, 1)"},
        {"[bucket]\ncreate = maybe\n", "bucket.create = maybe: neither true"},
        {"[bucket]\npayload = Signed\n", "no such choice; allowed: auto, signed, unsigned"},
        {"[bucket]\naddressing = host\n", "no such choice; allowed: auto, path, virtual"},
        {"[bucket]\ncredentials = none\n", "no such choice; allowed: auto, anonymous"},
        {"[bucket]\nname = x\n[log]\nfile = /\x01\n",
         "f.ini:4: log.file = /?: it contains a control character"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(write_file("f.ini", 0600, cases[i].text), NULL, NULL, EINVAL,
                       cases[i].parts);
}

/* A proxy may hold a password: its sentences name the key and show nothing of the value. */
static void proxies(void **state)
{
    static const struct {
        const char *value, *parts;
    } cases[] = {
        {"HUSH:3128", "a proxy is http://HOST:PORT"},
        {"ftp://u:HUSH@h:1", "socks5://HOST:PORT or none"},
        {"socks4://HUSH:1", "socks5://HOST:PORT or none"},
        {"nones", "a proxy is http://HOST:PORT"},
        {"http://HUSH", "HOST:PORT and nothing else"},
        {"http://u:HUSH@h", "HOST:PORT and nothing else"},
        {"http://u:HUSH@:80", "HOST:PORT and nothing else"},
        {"http://u:HUSH@h:0", "a number from 1 to 65535"},
        {"http://u:HUSH@h:65536", "a number from 1 to 65535"},
        {"http://u:HUSH@h:8x", "a number from 1 to 65535"},
        {"http://HUSH:1/path", "HOST:PORT and nothing else"},
        {"http://HUSH:1//", "HOST:PORT and nothing else"},
        {"http://HU SH:1", "HOST:PORT and nothing else"},
        {"http://[::HUSH]:1", "HOST:PORT and nothing else"},
        {"http://[]:1", "HOST:PORT and nothing else"},
        {"http://", "HOST:PORT and nothing else"},
        {"http:///", "HOST:PORT and nothing else"},
        {"http://u:HU@SH@h:1", "written as %XX"},
        {"http://u:HU/SH@h:1", "written as %XX"},
        {"http://u:HU SH@h:1", "written as %XX"},
    };
    struct bh_error err;
    char text[200];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(text, sizeof text, "[bucket]\nname = b\nproxy = %s\n", cases[i].value);
        if (load(write_file("f.ini", 0600, text), NULL, NULL, &err))
            fail_msg("accepted: %s", cases[i].value);
        assert_int_equal(err.code, EINVAL);
        assert_has_all(err.text, "f.ini:3: bucket.proxy: ");
        assert_has_all(err.text, cases[i].parts);
        assert_lacks(err.text, "HU");
    }
    assert_refused(write_file("f.ini", 0644, "[bucket]\nname = b\nproxy = http://h:1\n"), NULL,
                   NULL, EACCES, "f.ini:3 holds bucket.proxy|chmod 600");
    assert_null(load(NULL, "s3://b", "bucket.proxy=http://u:HUSH@h:1", &err));
    assert_has_all(err.text, "-o bucket.proxy: secrets do not belong|bucket.proxy_file=PATH");
    assert_lacks(err.text, "HUSH");
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
        {"AWS_CA_BUNDLE", "certs/ca.pem",
         "environment AWS_CA_BUNDLE: bucket.ca_file = certs/ca.pem: the path must be absolute"},
        {"AWS_PROFILE", "a b", "environment AWS_PROFILE: bucket.profile = a b|a space"},
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
        TEST(refusals_of_a_file), TEST(proxies),
        TEST(binary_file),        TEST(long_lines),
        TEST(permissions),        TEST(secrets_are_not_shown),
        TEST(environment),        TEST(overrides),
        TEST(missing_bucket),     TEST(object_keys_that_are_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
