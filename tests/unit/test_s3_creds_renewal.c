/* Credentials that a process prints; how they are renewed, by one thread for all; what happens when
 * the server rejects them. */
#include "test_s3_creds.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "util/clock.h"

/* --- a process --- */

/* [default] runs `command`. */
static void use_process(const char *command)
{
    char text[2048];
    snprintf(text, sizeof text, "[default]\ncredential_process = %s\n", command);
    write_file(".aws/config", 0600, text);
    open_chain(NULL);
}

/* A process that counts its runs, does what HOME/also says, and gives credentials "ID<run>", which
 * expire when HOME/life ("+3 seconds") says so. */
static void use_counter(const char *also, const char *life)
{
    write_file("counter", 0600,
               "echo >>\"$HOME/runs\"\n"
               "n=$(wc -l <\"$HOME/runs\") expires=\n"
               ". \"$HOME/also\"\n"
               "life=$(cat \"$HOME/life\")\n"
               "[ -z \"$life\" ] || expires=',\"Expiration\":\"'$(date -u -d \"$life\" "
               "+%Y-%m-%dT%H:%M:%S.%3N+00:00)'\"'\n"
               "echo '{\"Version\":1,\"AccessKeyId\":\"'ID$n'\",\"SecretAccessKey\":\"hush\"'"
               "$expires'}'\n");
    write_file("also", 0600, also);
    write_file("life", 0600, life);
    use_process(". ~/counter");
}

static int runs(void)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/runs", test_home);
    return stat(path, &st) == 0 ? (int)st.st_size : 0;
}

static void process_that_works(void **state)
{
    char wanted[300];
    use_process(
        "echo '{\"Version\": 1, \"AccessKeyId\": \"A\", \"SecretAccessKey\": \"hush/+=\", "
        "\"SessionToken\": \"hush\\u002Btoken\", \"Expiration\": \"2999-01-01T00:00:00Z\"}'");
    assert_string_equal(get(), "A hush/+= hush+token");
    snprintf(wanted, sizeof wanted, "credential_process of profile default of %s/.aws/config",
             test_home);
    assert_string_equal(origin(), wanted);
    struct bh_credentials c;
    assert_int_equal(get_into(&c, NULL), 0);
    assert_true(c.expires_ms == INT64_C(32472144000000));
    bh_credentials_wipe(&c);
    /* keys of the same profile come first */
    write_file(".aws/config", 0600,
               "[default]\ncredential_process=exit 1\naws_access_key_id=K\n"
               "aws_secret_access_key=hush\n");
    assert_string_equal(fresh_get(NULL), "K hush -");
}

static void process_that_fails(void **state)
{
    static const struct {
        const char *command;
        int code;
        const char *wanted;
    } cases[] = {
        {"echo '{\"hush'; exit 3", EACCES, "ended with status 3"},
        {"kill -9 $$", EACCES, "ended with signal 9"},
        {"/nowhere", EACCES, "ended with status 127; what it said is in the log"},
        {"echo '{\"hush\": '", EIO, "answers with what is no JSON"},
        {"true", EIO, "answers with what is no JSON"},
        {"echo '[\"hush\"]'", EIO, "JSON that is no object"},
        {"echo '{\"SecretAccessKey\":\"hush\"}'", EIO, "Version 0; only 1 is known"},
        {"echo '{\"Version\":2,\"SecretAccessKey\":\"hush\"}'", EIO, "Version 2"},
        {"echo '{\"Version\":1,\"SecretAccessKey\":\"hush\"}'", EACCES, "no access key id is"},
        {"echo '{\"Version\":1,\"AccessKeyId\":\"A\",\"SecretAccessKey\":[\"hush\"]}'", EACCES,
         "no secret access key"},
        {"echo '{\"Version\":1,\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"hush\","
         "\"Expiration\":\"hush\"}'",
         EIO, "an Expiration that is no time"},
        {"echo '{\"Version\":1,\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"hush\","
         "\"Expiration\":\"2001-01-01T00:00:00Z\"}'",
         EACCES, "had expired at 2001-01-01T00:00:00.000Z; is this machine's clock right?"},
        {"head -c 70000 /dev/zero | tr '\\0' ' '", EIO, "prints more than 65536 bytes"},
    };
    uint64_t from = bh_log_size();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        use_process(cases[i].command);
        get_fails(cases[i].code, cases[i].wanted);
        assert_non_null(strstr(failed.text, "credential_process of profile default of "));
    }
    free(log_since(from));
}

/* Its stderr goes to the log, line by line, without what may be a key. */
static void process_that_speaks(void **state)
{
    uint64_t from = bh_log_size();
    use_process("echo 'The session has expired, run aws sso login' >&2; "
                "printf 'key %s%s\\n' hu sh/wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY >&2; "
                "head -c 100000 /dev/zero | tr '\\0' '.' >&2; exit 255");
    get_fails(EACCES, "ended with status 255; what it said is in the log");
    assert_null(strstr(failed.text, "aws sso login"));
    char *log = log_since(from);
    assert_non_null(strstr(log, "says: The session has expired, run aws sso login"));
    assert_non_null(strstr(log, "says: key ****"));
    assert_null(strstr(log, "EXAMPLEKEY"));
    assert_true(strlen(log) < 4096);
    free(log);
}

/* Nothing beyond stdio (3 is ls's own), an empty stdin, no signal blocked or ignored. */
static void process_inherits_nothing(void **state)
{
    assert_int_equal(dup2(1, 77), 77);
    sigset_t block;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, NULL);
    use_counter("ls /proc/self/fd | xargs >~/fds; cat >~/stdin; grep "
                "SigBlk /proc/self/status >~/mask",
                "");
    assert_string_equal(get(), "ID1 hush -");
    pthread_sigmask(SIG_UNBLOCK, &block, NULL);
    close(77);
    static const struct {
        const char *name, *wanted;
    } files[] = {{"fds", "0 1 2 3\n"}, {"stdin", ""}, {"mask", "SigBlk:\t0000000000000000\n"}};
    for (size_t i = 0; i < 3; i++) {
        char path[128], text[256] = "";
        snprintf(path, sizeof path, "%s/%s", test_home, files[i].name);
        int fd = open(path, O_RDONLY);
        assert_true(fd >= 0 && read(fd, text, sizeof text - 1) >= 0);
        close(fd);
        assert_string_equal(text, files[i].wanted);
    }
}

static void sleep_ms(int64_t ms)
{
    usleep((useconds_t)ms * 1000);
}

/* No such process, or only its zombie. */
static bool is_gone(int pid)
{
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    bool dead = fd < 0 || read(fd, text, sizeof text - 1) <= 0 || strstr(text, ") Z ");
    if (fd >= 0)
        close(fd);
    return dead;
}

/* A process that hangs ends with the call, and its children with it. */
static void process_that_hangs(void **state)
{
    struct bh_credentials c;
    atomic_bool cancel = true;
    struct bh_call call = {.deadline_ms = bh_mono_ms() + 500};
    char path[128], text[64] = "";
    int shell = 0, child = 0;
    use_process("sleep 5000 & echo $$ $! >~/pids; sleep 5000");
    assert_int_equal(get_into(&c, &call), ETIMEDOUT);
    assert_true(bh_mono_ms() - call.deadline_ms < 2000);
    snprintf(path, sizeof path, "%s/pids", test_home);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    assert_int_equal(sscanf(text, "%d %d", &shell, &child), 2);
    assert_int_not_equal(kill(shell, 0), 0);
    for (int i = 0; i < 100 && !is_gone(child); i++)
        sleep_ms(20);
    assert_true(is_gone(child));
    call = (struct bh_call){.cancel = &cancel};
    assert_int_equal(get_into(&c, &call), ECANCELED);
}

/* --- renewal --- */

/* Gets until what it gives is no longer `old`, at most ms. */
static bool changes_within(const char *old, int64_t ms)
{
    for (int64_t end = bh_mono_ms() + ms; bh_mono_ms() < end; sleep_ms(20))
        if (strcmp(get(), old) != 0)
            return true;
    return false;
}

static void renewed_before_they_expire(void **state)
{
    use_counter("", "+4 seconds");
    assert_string_equal(get(), "ID1 hush -");
    assert_false(changes_within("ID1 hush -", 2500));
    assert_int_equal(runs(), 1);
    assert_true(changes_within("ID1 hush -", 1400)); /* in the last second */
    assert_string_equal(get(), "ID2 hush -");
    assert_int_equal(runs(), 2);
}

/* While the old ones hold, a renewal that fails is a warning, once in a while; then an error. */
static void renewal_that_fails(void **state)
{
    uint64_t from = bh_log_size();
    use_counter("[ $n = 1 ] || exit 9", "+3 seconds");
    assert_string_equal(get(), "ID1 hush -");
    struct bh_credentials c;
    int64_t end = bh_mono_ms() + 6000;
    while (get_into(&c, NULL) == 0 && bh_mono_ms() < end) {
        assert_string_equal(c.access_key_id, "ID1");
        assert_true(c.expires_ms + 50 > bh_real_ms());
        bh_credentials_wipe(&c);
        sleep_ms(20);
    }
    assert_non_null(strstr(failed.text, "ended with status 9"));
    char *log = log_since(from), *first = strstr(log, "could not be renewed, the old ones still");
    assert_non_null(first);
    assert_null(strstr(first + 1, "could not be renewed"));
    free(log);
    write_file("also", 0600, "");
    assert_string_equal(get(),
                        "ID4 hush -"); /* the second failed before they expired, the third after */
}

struct getter {
    pthread_t thread;
    int rc;
    int64_t took_ms;
    char id[32];
};

static void *getter_main(void *arg)
{
    struct getter *g = arg;
    struct bh_credentials c;
    int64_t start = bh_mono_ms();
    g->rc = bh_creds_get(creds, &c, NULL, NULL);
    g->took_ms = bh_mono_ms() - start;
    snprintf(g->id, sizeof g->id, "%s", c.access_key_id ? c.access_key_id : "");
    bh_credentials_wipe(&c);
    return NULL;
}

#define GETTERS 8
static void get_at_once(struct getter g[GETTERS])
{
    for (int i = 0; i < GETTERS; i++)
        assert_int_equal(pthread_create(&g[i].thread, NULL, getter_main, &g[i]), 0);
    for (int i = 0; i < GETTERS; i++)
        pthread_join(g[i].thread, NULL);
}

static void one_look_up_for_all_threads(void **state)
{
    struct getter g[GETTERS];
    use_counter("sleep 0.5", "+10 seconds");
    get_at_once(g);
    for (int i = 0; i < GETTERS; i++) {
        assert_int_equal(g[i].rc, 0);
        assert_string_equal(g[i].id, "ID1");
    }
    assert_int_equal(runs(), 1);
    /* its failure is everybody's, too */
    use_counter("sleep 0.5; exit 1", "");
    get_at_once(g);
    for (int i = 0; i < GETTERS; i++)
        assert_int_equal(g[i].rc, EACCES);
    assert_int_equal(runs(), 2);
}

static void others_go_on_during_a_renewal(void **state)
{
    struct getter g[GETTERS];
    int waited = 0, renewed = 0;
    use_counter("[ $n = 1 ] || sleep 0.7", "+6 seconds");
    assert_string_equal(get(), "ID1 hush -");
    sleep_ms(4700); /* in the last quarter of 6 s */
    if (runs() != 1)
        fail_msg("renewed too early");
    get_at_once(g);
    for (int i = 0; i < GETTERS; i++) {
        assert_int_equal(g[i].rc, 0);
        waited += g[i].took_ms >= 500;
        renewed += strcmp(g[i].id, "ID2") == 0;
    }
    assert_int_equal(waited, 1);
    assert_int_equal(renewed, 1);
    assert_int_equal(runs(), 2);
}

/* --- rejected --- */

static void rejected_is_renewed(void **state)
{
    use_counter("", "");
    assert_false(bh_creds_rejected(creds, "ID1"));
    assert_string_equal(get(), "ID1 hush -");
    assert_true(bh_creds_rejected(creds, "ID1"));
    assert_true(bh_creds_rejected(creds, "ID1"));
    assert_string_equal(get(), "ID2 hush -");
    assert_true(bh_creds_rejected(creds, "ID1")); /* by a thread that was late */
    assert_string_equal(get(), "ID2 hush -");
    assert_int_equal(runs(), 2);
    /* where a renewal gives what was rejected, there is no use in another at once */
    write_file("also", 0600, "n=2");
    assert_true(bh_creds_rejected(creds, "ID2"));
    assert_string_equal(get(), "ID2 hush -");
    assert_false(bh_creds_rejected(creds, "ID2"));
}

static void rejected_keys_of_a_file(void **state)
{
    static const char text[] = "[default]\naws_access_key_id=A\naws_secret_access_key=hush\n";
    write_file(".aws/credentials", 0600, text);
    assert_string_equal(fresh_get(NULL), "A hush -");
    assert_false(bh_creds_rejected(creds, "A"));
    write_file(".aws/credentials", 0600, "[default]\naws_access_key_id=B\n");
    assert_string_equal(get(), "A hush -"); /* nobody complained */
    assert_true(bh_creds_rejected(creds, "A"));
    get_fails(EACCES, "no secret access key is there"); /* half written */
    write_file(".aws/credentials", 0600,
               "[default]\naws_access_key_id=B\naws_secret_access_key=hush2\n");
    assert_string_equal(get(), "B hush2 -");
    assert_false(bh_creds_rejected(creds, "B"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(process_that_works),
        T(process_that_fails),
        T(process_that_speaks),
        T(process_inherits_nothing),
        T(process_that_hangs),
        T(renewed_before_they_expire),
        T(renewal_that_fails),
        T(one_look_up_for_all_threads),
        T(others_go_on_during_a_renewal),
        T(rejected_is_renewed),
        T(rejected_keys_of_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
