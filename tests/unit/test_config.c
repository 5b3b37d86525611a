/* Where values come from, what is shown of them, and what a reload takes over. */
#include "test_config.h"

#include <libgen.h>

#define BUCKET "[bucket]\nurl = file:///b\n"

static void defaults(void **state)
{
    (void)state;
    struct bh_config *c = load_ok(NULL, "file:///srv/b", NULL);
    assert_string_equal(c->bucket.url, "file:///srv/b");
    assert_int_equal(c->bucket.kind, BH_BUCKET_FILE);
    assert_string_equal(c->bucket.path, "/srv/b");
    assert_string_equal(c->bucket.prefix, "");
    assert_string_equal(c->bucket.region, "us-east-1");
    assert_int_equal(c->bucket.credentials, BH_CREDENTIALS_AUTO);
    assert_string_equal(c->bucket.profile, "");
    assert_int_equal(c->bucket.addressing, BH_ADDRESSING_AUTO);
    assert_false(c->bucket.create);
    assert_string_equal(c->bucket.proxy, "");
    assert_string_equal(c->bucket.ca_file, "");
    assert_int_equal(c->bucket.connections, 16);
    assert_int_equal(c->bucket.part_size, 16 << 20);
    assert_int_equal(c->bucket.payload, BH_PAYLOAD_AUTO);
    assert_string_equal(c->bucket.storage_class, "");
    assert_int_equal(c->bucket.sse, BH_SSE_NONE);
    assert_string_equal(c->bucket.sse_kms_key_id, "");
    assert_false(c->bucket.requester_pays);
    assert_int_equal(c->bucket.attempts, 5);
    assert_int_equal(c->bucket.retry_base_ms, 100);
    assert_int_equal(c->bucket.retry_time_ms, 120000);
    assert_int_equal(c->bucket.connect_timeout_ms, 10000);
    assert_int_equal(c->bucket.timeout_ms, 30000);
    assert_string_equal(c->bucket.fault, "");
    assert_int_equal(c->bucket.fault_seed, 0);
    assert_string_equal(c->snapshot.key, "bucketsqlite/snap.db");
    assert_string_equal(c->snapshot.branch, "main");
    assert_int_equal(c->snapshot.interval_ms, 30000);
    assert_int_equal(c->snapshot.min_interval_ms, 0);
    assert_true(c->snapshot.keep_previous);
    assert_int_equal(c->snapshot.stop_timeout_ms, 60000);
    assert_int_equal(c->snapshot.recover, BH_RECOVER_NO);
    assert_string_equal(c->live.dir, "");
    assert_int_equal(c->live.journal, BH_JOURNAL_WAL);
    assert_int_equal(c->live.wal_limit, 16 << 20);
    assert_int_equal(c->live.busy_timeout_ms, 5000);
    assert_int_equal(c->live.window_ms, 50);
    assert_string_equal(c->live.powercut_dir, "");
    assert_int_equal(c->live.powercut_seed, 0);
    assert_string_equal(c->mount.cpu, "auto");
    assert_int_equal(c->mount.workers, 4);
    assert_false(c->profiling.enabled);
    assert_string_equal(c->profiling.dir, "");
    assert_string_equal(c->hooks.on_flush_start, "");
    assert_string_equal(c->hooks.on_flush_complete, "");
    assert_string_equal(c->hooks.on_flush_error, "");
    assert_int_equal(c->log.level, BH_LOG_INFO);
    assert_string_equal(c->log.file, "");
    assert_null(c->file);
    assert_origin(c, "snapshot", "interval", "default");
    assert_origin(c, "bucket", "url", "command line");
    bh_config_free(c);
}

/* What a server is asked for, in every form that a value may have. */
static void keys_of_servers(void **state)
{
    static const struct {
        const char *part_size;
        uint64_t bytes;
    } sizes[] = {
        {"5MiB", 5 << 20},  {"5242880", 5 << 20}, {"8m", 8 << 20},
        {"8192K", 8 << 20}, {"8192KiB", 8 << 20}, {"5G", UINT64_C(5) << 30},
    };
    static const struct {
        const char *proxy, *kept;
    } proxies[] = {
        {"None", "none"},
        {"HTTP://Proxy.example:3128/", "http://Proxy.example:3128"},
        {"https://user:p%40ss:word@10.0.0.1:1", "https://user:p%40ss:word@10.0.0.1:1"},
        {"socks5://[::1]:65535", "socks5://[::1]:65535"},
        {"socks5h://me@h:1080", "socks5h://me@h:1080"},
    };
    char text[400];
    (void)state;
    struct bh_config *c = load_ok(
        write_file(
            "f.ini", 0600,
            "[bucket]\nname = b\ncredentials = anonymous\nprofile = work\naddressing = path\n"
            "create = yes\nca_file = /ca.pem\nconnections = 256\npayload = unsigned\n"
            "storage_class = STANDARD_IA\nsse = AWS:KMS\nsse_kms_key_id = arn:aws:kms:k/1\n"
            "requester_pays = on\nretry_time = 1h\nconnect_timeout = 250ms\n"),
        NULL, NULL);
    assert_int_equal(c->bucket.credentials, BH_CREDENTIALS_ANONYMOUS);
    assert_string_equal(c->bucket.profile, "work");
    assert_int_equal(c->bucket.addressing, BH_ADDRESSING_PATH);
    assert_true(c->bucket.create);
    assert_string_equal(c->bucket.ca_file, "/ca.pem");
    assert_int_equal(c->bucket.connections, 256);
    assert_int_equal(c->bucket.payload, BH_PAYLOAD_UNSIGNED);
    assert_string_equal(c->bucket.storage_class, "STANDARD_IA");
    assert_int_equal(c->bucket.sse, BH_SSE_KMS);
    assert_string_equal(c->bucket.sse_kms_key_id, "arn:aws:kms:k/1");
    assert_true(c->bucket.requester_pays);
    assert_int_equal(c->bucket.retry_time_ms, 3600000);
    assert_int_equal(c->bucket.connect_timeout_ms, 250);
    bh_config_free(c);
    c = load_ok(NULL, "s3://b?addressing=virtual", "bucket.sse=aes256");
    assert_int_equal(c->bucket.sse, BH_SSE_AES256);
    assert_int_equal(c->bucket.addressing, BH_ADDRESSING_VIRTUAL);
    bh_config_free(c);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        snprintf(text, sizeof text, "bucket.part_size=%s", sizes[i].part_size);
        c = load_ok(NULL, "s3://b", text);
        assert_int_equal(c->bucket.part_size, sizes[i].bytes);
        bh_config_free(c);
    }
    for (size_t i = 0; i < sizeof proxies / sizeof proxies[0]; i++) {
        setenv("BUCKETHEAD_BUCKET__PROXY", proxies[i].proxy, 1);
        c = load_ok(NULL, "s3://b", NULL);
        assert_string_equal(c->bucket.proxy, proxies[i].kept);
        bh_config_free(c);
    }
}

/* Each source stands over the one before it, and says where its value came from. */
static void order_of_sources(void **state)
{
    (void)state;
    char from[300];
    const char *file =
        write_file("a.ini", 0644, "[snapshot]\ninterval = 11s\n[bucket]\n\nregion = r3\n");
    struct bh_config *c = load_ok(NULL, "file:///b", NULL);
    assert_null(bh_config_where(c, "bucket", "region"));
    bh_config_free(c);
    setenv("AWS_DEFAULT_REGION", "r1", 1);
    c = load_ok(NULL, "file:///b", NULL);
    assert_string_equal(c->bucket.region, "r1");
    assert_origin(c, "bucket", "region", "environment AWS_DEFAULT_REGION");
    assert_string_equal(bh_config_where(c, "bucket", "region"), "environment AWS_DEFAULT_REGION");
    bh_config_free(c);
    setenv("AWS_REGION", "r2", 1);
    c = load_ok(NULL, "file:///b", NULL);
    assert_string_equal(c->bucket.region, "r2");
    bh_config_free(c);
    /* AWS_ is for all programs, the file for this one */
    c = load_ok(file, "file:///b", NULL);
    assert_int_equal(c->snapshot.interval_ms, 11000);
    snprintf(from, sizeof from, "%s:2", file);
    assert_origin(c, "snapshot", "interval", from);
    assert_string_equal(c->bucket.region, "r3");
    snprintf(from, sizeof from, "%s:5", file);
    assert_origin(c, "bucket", "region", from);
    assert_string_equal(c->file, file);
    bh_config_free(c);
    setenv("BUCKETHEAD_BUCKET__REGION", "r4", 1);
    setenv("BUCKETHEAD_SNAPSHOT__INTERVAL", "12s", 1);
    c = load_ok(file, "s3://b", NULL);
    assert_string_equal(c->bucket.region, "r4");
    assert_int_equal(c->snapshot.interval_ms, 12000);
    assert_origin(c, "snapshot", "interval", "environment BUCKETHEAD_SNAPSHOT__INTERVAL");
    bh_config_free(c);
    c = load_ok(file, "s3://b?region=r5", NULL);
    assert_string_equal(c->bucket.region, "r5");
    assert_origin(c, "bucket", "region", "command line");
    bh_config_free(c);
    c = load_ok(file, "s3://b?region=r5", "bucket.region=r6");
    assert_string_equal(c->bucket.region, "r6");
    assert_origin(c, "bucket", "region", "-o");
    bh_config_free(c);
}

static void overrides_in_order(void **state)
{
    (void)state;
    const char *const list[] = {"snapshot.interval=1s", "snapshot.interval=2s",
                                "hooks.on_flush_start=a=b ; c", "bucket.url=file:///one",
                                "bucket.name=two"};
    const struct bh_config_request req = {.overrides = list, .override_count = 5};
    struct bh_config *c = NULL;
    assert_int_equal(bh_config_load(&c, &req, NULL), 0);
    assert_int_equal(c->snapshot.interval_ms, 2000);
    assert_string_equal(c->hooks.on_flush_start, "a=b ; c");
    assert_int_equal(c->bucket.kind, BH_BUCKET_S3);
    assert_string_equal(c->bucket.name, "two");
    assert_string_equal(c->bucket.url, "");
    assert_null(c->bucket.path);
    bh_config_free(c);
}

/* Every variable of the orchestrator, and those of AWS. */
static void environment_names(void **state)
{
    (void)state;
    setenv("BUCKETHEAD_BUCKET__NAME", "buck", 1);
    setenv("BUCKETHEAD_BUCKET__ACCESS_KEY_ID", "id", 1);
    setenv("BUCKETHEAD_BUCKET__SECRET_ACCESS_KEY", "sec", 1);
    setenv("BUCKETHEAD_BUCKET__ENDPOINT_URL", "http://localhost:9000/", 1);
    setenv("BUCKETHEAD_BUCKET__REGION", "reg", 1);
    setenv("BUCKETHEAD_SNAPSHOT__KEY", "k/s.db", 1);
    setenv("BUCKETHEAD_SNAPSHOT__BRANCH", "dev", 1);
    setenv("BUCKETHEAD_MOUNT__WORKERS", "9", 1);
    setenv("BUCKETHEAD_NOTHING", "not ours", 1);
    setenv("AWS_ACCESS_KEY_ID", "weaker", 1);
    setenv("AWS_ENDPOINT_URL", "http://weaker", 1);
    struct bh_config *c = load_ok(NULL, NULL, NULL);
    assert_int_equal(c->bucket.kind, BH_BUCKET_S3);
    assert_string_equal(c->bucket.name, "buck");
    assert_string_equal(c->bucket.access_key_id, "id");
    assert_string_equal(c->bucket.secret_access_key, "sec");
    assert_string_equal(c->bucket.endpoint_url, "http://localhost:9000");
    assert_string_equal(c->bucket.region, "reg");
    assert_string_equal(c->snapshot.key, "k/s.db");
    assert_string_equal(c->snapshot.branch, "dev");
    assert_int_equal(c->mount.workers, 9);
    bh_config_free(c);

    clearenv();
    setenv("AWS_ACCESS_KEY_ID", "id", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "sec", 1);
    setenv("AWS_SESSION_TOKEN", "tok", 1);
    setenv("AWS_ENDPOINT_URL", "http://general", 1);
    setenv("AWS_ENDPOINT_URL_S3", "http://special", 1);
    setenv("AWS_REGION", "", 1);
    setenv("AWS_PROFILE", "work", 1);
    setenv("AWS_CA_BUNDLE", "/ca.pem", 1);
    c = load_ok(NULL, "s3://b", NULL);
    assert_string_equal(c->bucket.access_key_id, "id");
    assert_string_equal(c->bucket.secret_access_key, "sec");
    assert_string_equal(c->bucket.session_token, "tok");
    assert_string_equal(c->bucket.endpoint_url, "http://special");
    assert_string_equal(c->bucket.region, "us-east-1");
    assert_string_equal(c->bucket.profile, "work");
    assert_string_equal(c->bucket.ca_file, "/ca.pem");
    bh_config_free(c);
}

static void without_environment(void **state)
{
    (void)state;
    write_file(".config/buckethead/buckethead.ini", 0644, BUCKET);
    setenv("BUCKETHEAD_SNAPSHOT__INTERVAL", "nonsense", 1);
    setenv("BUCKETHEAD_CONFIG", "/does/not/exist", 1);
    struct bh_config *c = NULL;
    const struct bh_config_request req = {.bucket_optional = true};
    assert_int_equal(bh_config_load(&c, &req, NULL), 0);
    assert_int_equal(c->bucket.kind, BH_BUCKET_NONE);
    assert_null(c->file);
    bh_config_free(c);
}

static void places_of_the_file(void **state)
{
    (void)state;
    char xdg[128];
    write_file(".config/buckethead/buckethead.ini", 0644, BUCKET "[snapshot]\nbranch = home\n");
    write_file("xdg/buckethead/buckethead.ini", 0644, BUCKET "[snapshot]\nbranch = xdg\n");
    struct bh_config *c = load_ok(NULL, NULL, NULL);
    assert_string_equal(c->snapshot.branch, "home");
    bh_config_free(c);
    snprintf(xdg, sizeof xdg, "%s/xdg", test_home);
    setenv("XDG_CONFIG_HOME", xdg, 1);
    c = load_ok(NULL, NULL, NULL);
    assert_string_equal(c->snapshot.branch, "xdg");
    bh_config_free(c);
    setenv("BUCKETHEAD_CONFIG", write_file("env.ini", 0644, BUCKET "[snapshot]\nbranch = env\n"),
           1);
    c = load_ok(NULL, NULL, NULL);
    assert_string_equal(c->snapshot.branch, "env");
    bh_config_free(c);
    c = load_ok(write_file("c.ini", 0644, BUCKET "[snapshot]\nbranch = c\n"), NULL, NULL);
    assert_string_equal(c->snapshot.branch, "c");
    bh_config_free(c);
    assert_refused("/does/not/exist.ini", NULL, NULL, ENOENT, "-c|/does/not/exist.ini");
    setenv("BUCKETHEAD_CONFIG", "/does/not/exist.ini", 1);
    assert_refused(NULL, NULL, NULL, ENOENT, "$BUCKETHEAD_CONFIG|/does/not/exist.ini");
    assert_refused("/tmp", NULL, NULL, EINVAL, "/tmp|not a regular file");
}

static void the_file_of_c_is_remembered_absolute(void **state)
{
    (void)state;
    char was[512];
    const char *path = write_file("rel.ini", 0644, BUCKET);
    assert_non_null(getcwd(was, sizeof was));
    assert_int_equal(chdir(test_home), 0);
    struct bh_config *c = load_ok("rel.ini", NULL, NULL);
    assert_int_equal(chdir(was), 0);
    assert_string_equal(c->file, path);
    bh_config_free(c);
}

/* What inih alone would take otherwise: indents, BOM, CRLF, long comments, both separators. */
static void forms_of_the_file(void **state)
{
    (void)state;
    char text[1200] = "\xEF\xBB\xBF[bucket]\r\n  name = x ; the bucket\r\n\tregion: y\r\n  ; ";
    memset(text + strlen(text), 'c', 600);
    strcat(text, "\r\n\r\n[snapshot] ; more\n# note\nbranch=z\n[live] # too\n[bucket]\nprefix = "
                 "p//\nattempts = 7");
    struct bh_config *c = load_ok(write_file("f.ini", 0644, text), NULL, NULL);
    assert_string_equal(c->bucket.name, "x");
    assert_string_equal(c->bucket.region, "y");
    assert_string_equal(c->bucket.prefix, "p/");
    assert_int_equal(c->bucket.attempts, 7);
    assert_string_equal(c->snapshot.branch, "z");
    bh_config_free(c);
}

static void values_from_files(void **state)
{
    (void)state;
    char text[900], from[400], token[500];
    memset(token, 't', sizeof token);
    token[sizeof token - 1] = '\0';
    const char *secret = write_file("secret", 0600, "s3cret \r\nsecond line\n");
    const char *tok = write_file("token", 0400, token);
    const char *url = write_file("url", 0644, "s3://from-file/p\n");
    const char *proxy = write_file("proxy", 0600, "http://u:p@h:1\n");
    snprintf(text, sizeof text,
             "[bucket]\nurl_file = %s\nsecret_access_key_file = %s\nsession_token_file = %s\n"
             "access_key_id = id\nsecret_access_key =\nproxy_file = %s\n",
             url, secret, tok, proxy);
    struct bh_config *c = load_ok(write_file("f.ini", 0644, text), NULL, NULL);
    assert_string_equal(c->bucket.url, "s3://from-file/p");
    assert_string_equal(c->bucket.name, "from-file");
    assert_string_equal(c->bucket.secret_access_key, "s3cret");
    assert_string_equal(c->bucket.session_token, token);
    assert_string_equal(c->bucket.proxy, "http://u:p@h:1");
    snprintf(from, sizeof from, "%s/f.ini:3, read from %s/secret", test_home, test_home);
    assert_origin(c, "bucket", "secret_access_key", from);
    bh_config_free(c);
    setenv("BUCKETHEAD_BUCKET__ACCESS_KEY_ID", "id", 1);
    snprintf(from, sizeof from, "%s/secret", test_home);
    setenv("BUCKETHEAD_BUCKET__SECRET_ACCESS_KEY_FILE", from, 1);
    c = load_ok(NULL, "s3://b", NULL);
    assert_string_equal(c->bucket.secret_access_key, "s3cret");
    bh_config_free(c);
}

static void dump_hides_secrets(void **state)
{
    (void)state;
    struct bh_strbuf dump = {0};
    struct bh_config *c =
        load_ok(write_file("f.ini", 0600,
                           "[bucket]\nname = b\naccess_key_id = AKIA\nsecret_access_key = "
                           "hush-secret\nsession_token = hush-token\n"
                           "proxy = http://me:hush@proxy:3128\n"),
                NULL, "snapshot.interval=90s");
    bh_config_dump(c, &dump);
    assert_lacks(dump.data, "hush");
    assert_has_all(dump.data,
                   "bucket.secret_access_key = ***   # |bucket.session_token = ***   # |"
                   "bucket.access_key_id = AKIA   # |bucket.proxy = ***   # |"
                   "bucket.part_size = 16MiB   # default\n|bucket.sse = none   # default\n|"
                   "snapshot.interval = 90s   # -o\n|"
                   "snapshot.stop_timeout = 60s   # default\n|live.journal = wal   # |"
                   "snapshot.keep_previous = true   # |bucket.retry_base = 100ms   # |"
                   "bucket.fault =    # default\n|mount.workers = 4   # default\n");
    size_t lines = 0;
    for (const char *p = dump.data; (p = strchr(p, '\n')); p++)
        lines++;
    assert_int_equal(lines, bh_key_count);
    bh_strbuf_free(&dump);
    bh_config_free(c);
}

/* What is formatted reads back as the same value: each default of the table is what it says. */
static void defaults_read_back(void **state)
{
    (void)state;
    struct bh_config *c = load_ok(NULL, "s3://b", NULL);
    for (size_t i = 0; i < bh_key_count; i++) {
        struct bh_strbuf value = {0};
        if (strcmp(bh_keys[i].section, "bucket") == 0 &&
            (!strcmp(bh_keys[i].name, "url") || !strcmp(bh_keys[i].name, "name")))
            continue;
        bh_key_format(c, &bh_keys[i], &value);
        assert_string_equal(value.data, bh_keys[i].def);
        assert_true(strlen(bh_keys[i].help) > 0 && strlen(bh_keys[i].help) < 100);
        bh_strbuf_free(&value);
    }
    bh_config_free(c);
}

static void reload(void **state)
{
    (void)state;
    struct bh_strbuf changes = {0};
    struct bh_config *c =
        load_ok(write_file("f.ini", 0600, BUCKET "secret_access_key = hush1\n[log]\nfile = /a\n"),
                NULL, NULL);
    struct bh_config *fresh = load_ok(
        write_file("f.ini", 0600,
                   BUCKET
                   "secret_access_key = hush2\nattempts = 9\npart_size = 1G\nproxy = "
                   "http://hush:hush@h:1\nrequester_pays = true\n[log]\nlevel = debug\nfile = /b\n"
                   "[snapshot]\ninterval = 5s\nmin_interval = 1s\nstop_timeout = 2s\n"
                   "keep_previous = off\nbranch = other\n[hooks]\non_flush_start = x\n"
                   "on_flush_complete = y\non_flush_error = z\n"),
        NULL, NULL);
    assert_int_equal(bh_config_apply_reload(c, fresh, &changes, NULL), 0);
    bh_config_free(fresh);
    assert_int_equal(c->snapshot.interval_ms, 5000);
    assert_int_equal(c->snapshot.min_interval_ms, 1000);
    assert_int_equal(c->snapshot.stop_timeout_ms, 2000);
    assert_false(c->snapshot.keep_previous);
    assert_int_equal(c->log.level, BH_LOG_DEBUG);
    assert_string_equal(c->log.file, "/b");
    assert_string_equal(c->hooks.on_flush_start, "x");
    assert_string_equal(c->hooks.on_flush_complete, "y");
    assert_string_equal(c->hooks.on_flush_error, "z");
    assert_int_equal(c->bucket.attempts, 5);
    assert_string_equal(c->snapshot.branch, "main");
    assert_string_equal(c->bucket.secret_access_key, "hush1");
    assert_string_equal(changes.data, "bucket.secret_access_key: *** -> *** (needs a remount)\n"
                                      "bucket.proxy:  -> *** (needs a remount)\n"
                                      "bucket.part_size: 16MiB -> 1GiB (needs a remount)\n"
                                      "bucket.requester_pays: false -> true (needs a remount)\n"
                                      "bucket.attempts: 5 -> 9 (needs a remount)\n"
                                      "snapshot.branch: main -> other (needs a remount)\n"
                                      "snapshot.interval: 30s -> 5s\n"
                                      "snapshot.min_interval: 0 -> 1s\n"
                                      "snapshot.keep_previous: true -> false\n"
                                      "snapshot.stop_timeout: 60s -> 2s\n"
                                      "hooks.on_flush_start:  -> x\n"
                                      "hooks.on_flush_complete:  -> y\n"
                                      "hooks.on_flush_error:  -> z\n"
                                      "log.level: info -> debug\n"
                                      "log.file: /a -> /b\n");
    char from[128];
    snprintf(from, sizeof from, "%s/f.ini:12", test_home);
    assert_origin(c, "snapshot", "interval", from);
    bh_strbuf_reset(&changes);
    fresh = load_ok(c->file, NULL, "snapshot.branch=main");
    bh_config_free(c);
    c = load_ok(fresh->file, NULL, "snapshot.branch=main");
    assert_int_equal(bh_config_apply_reload(c, fresh, &changes, NULL), 0);
    assert_int_equal(changes.len, 0);
    bh_config_free(fresh);
    bh_config_free(c);
    bh_strbuf_free(&changes);
}

static void find_sample(char path[4096])
{
    /* beside the sources, or above the directory that the test was built in */
    snprintf(path, 4096, "%s", __FILE__);
    dirname(path);
    strcat(path, "/../../buckethead.ini.sample");
    if (access(path, R_OK) == 0)
        return;
    ssize_t len = readlink("/proc/self/exe", path, 4000);
    assert_true(len > 0);
    path[len] = '\0';
    for (char *slash; (slash = strrchr(path, '/')) != NULL; *slash = '\0') {
        strcpy(slash, "/buckethead.ini.sample");
        if (access(path, R_OK) == 0)
            return;
    }
    fail_msg("buckethead.ini.sample is neither beside the sources nor above the build directory");
}

/* The sample names each key of the table once, in its section, with its default and a line on it;
 * with every key uncommented it says nothing but the defaults. */
static void sample_names_every_key(void **state)
{
    (void)state;
    char path[4096], section[64] = "", want[256], *text, *plain, *out;
    size_t len, found = 0, forms = 0;
    bool open;
    find_sample(path);
    assert_int_equal(bh_config_read(path, 65536, &text, &len, &open, NULL), 0);
    assert_non_null(out = plain = malloc(len + 1));
    char *rest = text, *before = NULL;
    for (char *line; (line = strsep(&rest, "\n")); before = line) {
        bool is_file, is_key = line[0] == ';' && line[1] != ' ' && line[1];
        sscanf(line, "[%63[^]]", section);
        out += sprintf(out, "%s\n", is_key ? line + 1 : line);
        if (!is_key)
            continue;
        char name[64];
        assert_int_equal(sscanf(line, ";%63[a-z_]", name), 1);
        const struct bh_key *key = bh_key_find(section, name, &is_file);
        if (!key)
            fail_msg("the sample has [%s] %s, the table has not", section, name);
        bool def = !is_file && *key->def;
        snprintf(want, sizeof want, ";%s =%s%s", name, def ? " " : "", def ? key->def : "");
        assert_string_equal(line, want);
        assert_true(before && strncmp(before, "; ", 2) == 0);
        assert_true(is_file || strstr(before, key->help));
        assert_int_equal(!is_file && key->flags & BH_KEY_RELOADABLE ? 1 : 0,
                         strstr(before, "(SIGHUP)") ? 1 : 0);
        found += !is_file;
        forms += is_file;
    }
    assert_int_equal(found, bh_key_count);
    assert_int_equal(forms, 5);
    free(text);
    struct bh_config *c = load_ok(write_file("sample.ini", 0644, plain), "s3://b", NULL);
    for (size_t i = 0; i < bh_key_count; i++) {
        struct bh_strbuf value = {0};
        bh_key_format(c, &bh_keys[i], &value);
        if (!bh_key_origin(c, &bh_keys[i])->text ||
            bh_key_origin(c, &bh_keys[i])->layer == BH_LAYER_FILE)
            assert_string_equal(value.data, bh_keys[i].def);
        bh_strbuf_free(&value);
    }
    bh_config_free(c);
    free(plain);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(defaults),
        TEST(keys_of_servers),
        TEST(order_of_sources),
        TEST(overrides_in_order),
        TEST(environment_names),
        TEST(without_environment),
        TEST(places_of_the_file),
        TEST(the_file_of_c_is_remembered_absolute),
        TEST(forms_of_the_file),
        TEST(values_from_files),
        TEST(dump_hides_secrets),
        TEST(defaults_read_back),
        TEST(reload),
        TEST(sample_names_every_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
