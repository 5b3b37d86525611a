/* Where credentials come from: the configuration and the shared files; that no sentence, log line
 * or freed memory holds a secret. Processes and renewal are in test_s3_creds_renewal.c, the
 * services in tests/integration/s3-credentials.sh. */
#include "test_s3_creds.h"

#include <fcntl.h>

#include "util/clock.h"

#define ID     "AKIDEXAMPLE"
#define SECRET "hush/wJalrXUtnFEMI+K7MDENG"

/* --- the configuration --- */

static void configuration(void **state)
{
    setenv("AWS_ACCESS_KEY_ID", ID, 1);
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    open_chain(NULL);
    assert_string_equal(origin(), "not looked up yet");
    assert_false(bh_creds_rejected(creds, ID));
    assert_string_equal(get(), ID " " SECRET " -");
    assert_string_equal(origin(), "environment AWS_ACCESS_KEY_ID");
    assert_false(bh_creds_rejected(creds, ID));
    setenv("AWS_SESSION_TOKEN", "hush-token", 1);
    assert_string_equal(fresh_get(NULL), ID " " SECRET " hush-token");
    assert_string_equal(fresh_get("bucket.credentials=anonymous"), "anonymous");
    assert_string_equal(origin(), "none (anonymous)");
    assert_false(bh_creds_rejected(creds, NULL));
}

static void half_a_configuration(void **state)
{
    write_file(".aws/credentials", 0600,
               "[default]\naws_access_key_id=A\naws_secret_access_key=hush\n");
    setenv("AWS_ACCESS_KEY_ID", ID, 1);
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    open_chain(NULL);
    *cfg->bucket.secret_access_key = '\0';
    get_fails(EACCES, "bucket.access_key_id (AWS_ACCESS_KEY_ID) is set and "
                      "bucket.secret_access_key (AWS_SECRET_ACCESS_KEY) is not");
    open_chain(NULL);
    *cfg->bucket.access_key_id = '\0';
    get_fails(EACCES, "bucket.access_key_id (AWS_ACCESS_KEY_ID) is not; requests need both");
}

/* Nothing anywhere: the sentence lists what was looked at, and says what to do. */
static void nothing(void **state)
{
    int64_t start = bh_mono_ms();
    fresh_get_fails(EACCES, "set bucket.access_key_id and bucket.secret_access_key_file");
    assert_true(bh_mono_ms() - start < 1000);
    const char *const parts[] = {"AWS_PROFILE",
                                 "bucket.credentials = anonymous",
                                 "AWS_ACCESS_KEY_ID (not set)",
                                 "no AWS_WEB_IDENTITY_TOKEN_FILE",
                                 test_home,
                                 "/.aws/credentials",
                                 "/.aws/config (no profile default)",
                                 "no AWS_CONTAINER_CREDENTIALS_",
                                 "(AWS_EC2_METADATA_DISABLED is true)"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!strstr(failed.text, parts[i]))
            fail_msg("\"%s\" is missing in: %s", parts[i], failed.text);
    assert_string_equal(origin(), "not looked up yet");
    unsetenv("HOME");
    fresh_get_fails(EACCES, "~/.aws/credentials and ~/.aws/config (no profile default)");
    setenv("HOME", test_home, 1);
}

/* --- the shared files --- */

static void keys_of_a_profile(void **state)
{
    char token[1501], text[4096], wanted[4096];
    memset(token, 'h', 1500); /* far more than a line of inih */
    token[1500] = '\0';
    snprintf(text, sizeof text,
             "\xEF\xBB\xBF# comment\r\n[other]\naws_access_key_id = X\n; comment\n"
             "[default] # comment\r\n"
             "s3 =\r\n  max_concurrent_requests = 20\r\n  aws_access_key_id = NESTED\r\n"
             "AWS_Secret_Access_Key=  %s \t\r\n aws_access_key_id =%s\n"
             "aws_session_token = %s\nunknown = 1\n[default]\nregion = eu-west-9",
             SECRET, ID, token);
    write_file(".aws/credentials", 0600, text);
    snprintf(wanted, sizeof wanted, "%s %s %s", ID, SECRET, token);
    fresh_get_fails(EACCES, "no access key id"); /* a deeper line belongs to the one above */
    /* without that indent it is a setting */
    char *indented = strstr(text, " aws_access_key_id =AKID");
    *indented = '\n';
    write_file(".aws/credentials", 0600, text);
    assert_string_equal(fresh_get(NULL), wanted);
    snprintf(wanted, sizeof wanted, "profile default of %s/.aws/credentials", test_home);
    assert_string_equal(origin(), wanted);
    char *region = bh_creds_profile_region(cfg);
    assert_string_equal(region, "eu-west-9");
    free(region);
}

/* Everything under a section may be indented alike. */
static void indented_settings(void **state)
{
    write_file(".aws/credentials", 0600,
               "[default]\n    aws_access_key_id = A\n    aws_secret_access_key = hush\n");
    assert_string_equal(fresh_get(NULL), "A hush -");
}

static void two_files(void **state)
{
    write_file(".aws/config", 0600,
               "[b]\naws_access_key_id=NO\naws_secret_access_key=hush-no\n"
               "[default]\nregion=r-default\n"
               "[profile \tb ]\naws_access_key_id=CFG\naws_secret_access_key=hush-cfg\n"
               "aws_session_token=hush-stale\nregion=r-b\n"
               "[profile 'two']\naws_access_key_id=TWO\naws_secret_access_key=hush-two\n");
    setenv("AWS_PROFILE", "b", 1);
    assert_string_equal(fresh_get(NULL), "CFG hush-cfg hush-stale");
    assert_non_null(strstr(origin(), "profile b of "));
    char *region = bh_creds_profile_region(cfg);
    assert_string_equal(region, "r-b");
    free(region);
    /* the credentials file stands over it, and a token does not go with keys of another file */
    write_file(".aws/credentials", 0600,
               "[b]\naws_secret_access_key=hush-1\naws_access_key_id=CRED\n"
               "[profile two]\naws_access_key_id=NO\naws_secret_access_key=hush-no\n");
    assert_string_equal(fresh_get(NULL), "CRED hush-1 -");
    assert_non_null(strstr(origin(), "/.aws/credentials"));
    assert_string_equal(fresh_get("bucket.profile=two"), "TWO hush-two -");
    /* [profile default] stands over [default] in the config file */
    write_file(".aws/config", 0600,
               "[profile default]\naws_access_key_id=P\naws_secret_access_key=hush-p\n"
               "[default]\naws_access_key_id=D\naws_secret_access_key=hush-d\n");
    assert_string_equal(fresh_get("bucket.profile=default"), "P hush-p -");
}

static void files_elsewhere(void **state)
{
    write_file("a/cred", 0600, "[x]\naws_access_key_id=A\naws_secret_access_key=hush\n");
    write_file("a/conf", 0600, "[profile x]\nregion=r-x\n");
    setenv("AWS_PROFILE", "x", 1);
    setenv("AWS_SHARED_CREDENTIALS_FILE", "~/a/cred", 1);
    setenv("AWS_CONFIG_FILE", "a/conf", 1);
    char before[4096];
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(test_home), 0);
    open_chain(NULL);
    char *region = bh_creds_profile_region(cfg);
    assert_int_equal(chdir(before), 0); /* the daemon changes its directory as well */
    assert_string_equal(region, "r-x");
    free(region);
    assert_string_equal(get(), "A hush -");
}

static void missing_profiles(void **state)
{
    char wanted[300];
    write_file(".aws/config", 0600, "[profile a]\nregion=r\n");
    setenv("AWS_PROFILE", "backup", 1);
    snprintf(wanted, sizeof wanted,
             "profile backup does not exist; looked at %s/.aws/credentials and %s/.aws/config",
             test_home, test_home);
    fresh_get_fails(EACCES, wanted);
    setenv("AWS_PROFILE", "a", 1); /* of a region only: other sources may have credentials */
    fresh_get_fails(EACCES, "profile a of ");
    assert_non_null(strstr(failed.text, "(it has nothing of credentials)"));
    assert_non_null(strstr(failed.text, "AWS_EC2_METADATA_DISABLED"));
    /* one that was chosen for this program is meant alone */
    open_chain("bucket.profile=a");
    get_fails(EACCES, "profile a has nothing of credentials; looked at ");
    open_chain("bucket.profile=default");
    get_fails(EACCES, "profile default does not exist");
}

static void malformed_files(void **state)
{
    static const struct {
        const char *text, *wanted;
    } cases[] = {
        {"[default\naws_secret_access_key=hush", ".aws/credentials:1: a [section] without its ']'"},
        {"[default] hush\n", ".aws/credentials:1: nothing but a comment"},
        {"\n[x]\nhush hush\n", ".aws/credentials:3: neither a [section] nor NAME = VALUE"},
        {"[x]\n= hush\n", ".aws/credentials:2: neither"},
        {"aws_secret_access_key = hush\n", ".aws/credentials:1: a setting before the first"},
        {"[default]\naws_access_key_id=A\n", "no secret access key is there"},
        {"[default]\naws_secret_access_key=hush\n", "no access key id is there"},
        {"[default]\naws_access_key_id=\naws_secret_access_key=hush\n", "no access key id"},
        {"[default]\naws_access_key_id=A\naws_secret_access_key=hush # old\n",
         "the secret access key holds a space"},
        {"[default]\naws_access_key_id=A\naws_secret_access_key=hush\naws_session_token=hush\x01\n",
         "the session token holds a space or a byte that is not ASCII"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file(".aws/credentials", 0600, cases[i].text);
        fresh_get_fails(EACCES, cases[i].wanted);
    }
    const char *path = write_file(".aws/credentials", 0600, "[x]\na=hush");
    int fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "\0\n", 2), 2);
    fresh_get_fails(EACCES, "credentials:2: the line holds a NUL byte");
    assert_int_equal(ftruncate(fd, (1 << 20) + 1), 0);
    fresh_get_fails(EACCES, "is larger than 1048576 bytes");
    close(fd);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    fresh_get_fails(EACCES, "is not a regular file");
    rmdir(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    fresh_get_fails(EACCES, "is not a regular file");
}

static void open_file_is_warned_of_once(void **state)
{
    uint64_t from = bh_log_size();
    write_file(".aws/credentials", 0644,
               "[default]\naws_access_key_id=A\naws_secret_access_key=hush\n");
    assert_string_equal(fresh_get(NULL), "A hush -");
    assert_string_equal(fresh_get(NULL), "A hush -");
    char *log = log_since(from);
    char *first = strstr(log, "can be read by group or others: chmod 600 ");
    assert_non_null(first);
    assert_null(strstr(first + 1, "can be read by group"));
    free(log);
}

static void roles_that_cannot_be(void **state)
{
    static const struct {
        const char *text, *wanted;
    } cases[] = {
        {"role_arn=R\n", "a role_arn with no source"},
        {"role_arn=R\nsource_profile=x\ncredential_source=Environment\n", "with both"},
        {"role_arn=R\nsource_profile=gone\n", "profile gone does not exist; looked at"},
        {"role_arn=R\nsource_profile=empty\n[profile empty]\nregion=r\n",
         "profile empty has nothing of credentials"},
        {"role_arn=R\nsource_profile=default\n", "default of "},
        {"role_arn=R\nsource_profile=b\n[profile b]\nrole_arn=R2\nsource_profile=c\n"
         "[profile c]\nrole_arn=R3\nsource_profile=b\n",
         "is its own source_profile in the end"},
        {"role_arn=R\ncredential_source=Moon\n",
         "credential_source = Moon of profile default: known are Environment, Ec2"},
        {"role_arn=R\ncredential_source=Environment\n", "no access key id is there"},
        {"role_arn=R\ncredential_source=Ec2InstanceMetadata\n", "AWS_EC2_METADATA_DISABLED is"},
        {"role_arn=R\ncredential_source=EcsContainer\n", "no AWS_CONTAINER_CREDENTIALS_"},
        {"role_arn=R\nsource_profile=x\nmfa_serial=M\n", "use credential_process"},
        {"role_arn=R\nweb_identity_token_file=~/gone\n", "/gone cannot be opened"},
        {"sso_session=s\nsso_account_id=1\n", "credential_process = aws configure export-cred"},
        {"login_session = arn:x\n", "aws configure export-credentials --profile default"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[400];
        snprintf(text, sizeof text, "[default]\n%s", cases[i].text);
        write_file(".aws/config", 0600, text);
        fresh_get_fails(EACCES, cases[i].wanted);
    }
    /* who takes the advice keeps his sso_ settings */
    write_file(".aws/config", 0600,
               "[default]\nsso_session=s\ncredential_process=echo '{\"Version\":1,"
               "\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"hush\"}'\n");
    assert_string_equal(fresh_get(NULL), "A hush -");
}

static void web_identity_from_the_environment(void **state)
{
    write_file(".aws/credentials", 0600,
               "[default]\naws_access_key_id=A\naws_secret_access_key=hush\n");
    setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere", 1);
    fresh_get_fails(EACCES, "AWS_ROLE_ARN is not");
    setenv("AWS_ROLE_ARN", "arn:R", 1);
    fresh_get_fails(EACCES, "the web identity token of arn:R: /nowhere cannot be opened");
    const char *path = write_file("token", 0600, " \n");
    setenv("AWS_WEB_IDENTITY_TOKEN_FILE", path, 1);
    fresh_get_fails(EACCES, "is empty; a token should stand there");
    write_file("token", 0600, "hush\nhush\n");
    fresh_get_fails(EACCES, "holds more than a token");
    assert_string_equal(fresh_get("bucket.profile=default"), "A hush -"); /* chosen explicitly */
}

static void container_that_cannot_be(void **state)
{
    static const struct {
        const char *name, *value, *wanted;
    } cases[] = {
        {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "x", "does not begin with a '/'"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/x", "names http://example.com"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1.example.com/", "without TLS"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.3/x", "without TLS"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://[fd00:ec2::24]/x", "without TLS"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost@example.com/", "is no URL"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "file:///etc/passwd", "is no URL"},
        {"AWS_CONTAINER_AUTHORIZATION_TOKEN", "hush\r\nX: y", "holds a line end"},
        {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/nowhere", "/nowhere cannot be opened"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (strstr(cases[i].name, "AUTHORIZATION"))
            setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/x", 1);
        setenv(cases[i].name, cases[i].value, 1);
        fresh_get_fails(EACCES, cases[i].wanted);
        unsetenv(cases[i].name);
    }
}

/* --- memory --- */

/* How often it stands in memory that can be written. Its beginning does not count: free() writes
 * there. */
static int count_in_memory(const char *secret)
{
    static char block[1 << 16]; /* read here, so excluded */
    const char *tail = secret + 16;
    size_t len = strlen(tail);
    int found = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    int mem = open("/proc/self/mem", O_RDONLY);
    assert_true(maps && mem >= 0);
    while (fgets(line, sizeof line, maps)) {
        uintptr_t from, to;
        if (sscanf(line, "%lx-%lx", &from, &to) != 2 || !strstr(line, " rw") ||
            to - from > (uintptr_t)1 << 30) /* a sanitizer's shadow */
            continue;
        for (uintptr_t at = from; at < to; at += sizeof block - 64) {
            size_t want = to - at < sizeof block ? to - at : sizeof block;
            uintptr_t self = (uintptr_t)block;
            if (at < self + sizeof block && at + want > self)
                continue;
            ssize_t n = pread(mem, block, want, (off_t)at);
            for (ssize_t i = 0; i + (ssize_t)len <= n; i++)
                found += memcmp(block + i, tail, len) == 0;
        }
    }
    close(mem);
    fclose(maps);
    return found;
}

/* Writes the file without a copy of the text. */
static void write_unbuffered(const char *path, const char *before, const char *secret)
{
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0 && write(fd, before, strlen(before)) > 0);
    assert_true(write(fd, secret, strlen(secret)) > 0);
    close(fd);
}

static void wiped_when_freed(void **state)
{
    static const char secret[] = "hush-one-that-is-searched-for-in-memory";
    const char *path = write_file(".aws/credentials", 0600, "");
    write_unbuffered(path, "[default]\naws_access_key_id=A\naws_secret_access_key=", secret);
    open_chain(NULL);
    assert_int_equal(count_in_memory(secret), 0);
    struct bh_credentials c;
    assert_int_equal(get_into(&c, NULL), 0);
    assert_int_equal(count_in_memory(secret), 2); /* ours and the chain's */
    bh_credentials_wipe(&c);
    assert_int_equal(count_in_memory(secret), 1);
    bh_creds_free(creds);
    creds = NULL;
    assert_int_equal(count_in_memory(secret), 0);
    /* nor after a failure */
    write_unbuffered(path, "[default]\naws_secret_access_key=", secret);
    fresh_get_fails(EACCES, "no access key id");
    assert_int_equal(count_in_memory(secret), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(configuration),
        T(half_a_configuration),
        T(nothing),
        T(keys_of_a_profile),
        T(indented_settings),
        T(two_files),
        T(files_elsewhere),
        T(missing_profiles),
        T(malformed_files),
        T(open_file_is_warned_of_once),
        T(roles_that_cannot_be),
        T(web_identity_from_the_environment),
        T(container_that_cannot_be),
        T(wiped_when_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
