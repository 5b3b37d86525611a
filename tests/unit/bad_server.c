#include "bad_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <errno.h>
#include <netinet/in.h>
#include <regex.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bucket_helpers.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

int bad_port, bad_other_port;
const char *bad_tls[4];
static pid_t server;
static int server_input = -1;
static int64_t started_ms;

/* The server with its standard input and output on these. */
static void become_server(int in, int out)
{
    const char *script = getenv("BADSERVER");
    const char *argv[16] = {"python3", "-B", script, "--until-eof"};
    for (size_t i = 0, n = 4; i < 4 && bad_tls[i]; i++) {
        argv[n++] = "--tls";
        argv[n++] = bad_tls[i];
    }
    if (script && dup2(in, 0) == 0 && dup2(out, 1) == 1)
        execvp("python3", (char *const *)(uintptr_t)argv);
    _exit(127);
}

int bad_start(void **state)
{
    int in[2], out[2];
    char ports[64] = "";
    bh_log_setup(BH_LOG_ERROR, NULL, false, NULL);
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || (server = fork()) < 0)
        return -1;
    if (server == 0)
        become_server(in[0], out[1]);
    close(in[0]);
    close(out[1]);
    server_input = in[1];
    BH_FILE FILE *f = fdopen(out[0], "r");
    if (!f || !fgets(ports, sizeof ports, f) ||
        sscanf(ports, "%d %d", &bad_port, &bad_other_port) != 2) {
        print_error("BADSERVER must name tests/helpers/badserver.py, and python3 be there\n");
        return -1;
    }
    return 0;
}

int bad_stop(void **state)
{
    int status;
    close(server_input);
    return waitpid(server, &status, 0) == server && status == 0 ? 0 : -1;
}

/* --- administration --- */

static void send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        assert_true(n > 0);
        data += n;
        len -= (size_t)n;
    }
}

/* Posts to /_WHAT; the body of the answer, which the caller frees. */
static char *administer(const char *what, const char *body)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)bad_port)};
    char chunk[4096];
    ssize_t n;
    BH_STRBUF text = {0};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    BH_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    bh_strbuf_addf(&text,
                   "POST /_%s HTTP/1.1\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", what,
                   strlen(body), body);
    send_all(fd, text.data, text.len);
    bh_strbuf_reset(&text);
    while ((n = read(fd, chunk, sizeof chunk)) > 0)
        bh_strbuf_add(&text, chunk, (size_t)n);
    assert_false(text.failed || text.len == 0);
    char *answer = strstr(text.data, "\r\n\r\n");
    assert_non_null(answer);
    if (strncmp(text.data, "HTTP/1.1 200", 12) != 0)
        fail_msg("badserver.py refuses /_%s %s: %s", what, body, answer + 4);
    answer = strdup(answer + 4);
    assert_non_null(answer);
    return answer;
}

int bad_fresh(void **state)
{
    free(administer("reset", ""));
    return 0;
}

static void administer_format(const char *what, const char *fmt, va_list args)
{
    char line[4096];
    int n = vsnprintf(line, sizeof line, fmt, args);
    assert_true(n > 0 && n < (int)sizeof line);
    free(administer(what, line));
}

void bad_rule(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    administer_format("rule", fmt, args);
    va_end(args);
}

void bad_no_rules(void)
{
    free(administer("rules", ""));
}

void bad_set(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    administer_format("set", fmt, args);
    va_end(args);
}

void bad_fill(const char *prefix, unsigned count)
{
    char what[256];
    snprintf(what, sizeof what, "fill?bucket=b&prefix=%s&count=%u", prefix, count);
    free(administer(what, ""));
}

size_t bad_count(const char *pattern)
{
    regex_t re;
    size_t count = 0;
    char whole[256];
    BH_FREE char *log = administer("log", "");
    snprintf(whole, sizeof whole, "^(%s)", pattern);
    assert_int_equal(regcomp(&re, whole, REG_EXTENDED | REG_NOSUB), 0);
    for (char *line = log, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = '\0';
        count += regexec(&re, line, 0, NULL, 0) == 0;
    }
    regfree(&re);
    return count;
}

/* --- what came, and how --- */

int got_take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct got *g = arg;
    if (g->len + len >= g->cap) {
        size_t cap = 2 * (g->len + len + 1);
        char *more = realloc(g->data, cap);
        if (!more)
            return bh_fail(err, ENOMEM, "out of memory in a test");
        g->data = more;
        g->cap = cap;
    }
    memcpy(g->data + g->len, data, len);
    g->len += len;
    g->data[g->len] = '\0';
    return 0;
}

void got_free(struct got *g)
{
    free(g->data);
    *g = (struct got){0};
}

/* Whether one of the alternatives "a/b/c" stands in text. */
static bool has_one(const char *text, const char *part, size_t len)
{
    while (len > 0) {
        const char *slash = memchr(part, '/', len);
        size_t n = slash ? (size_t)(slash - part) : len;
        if (n && memmem(text, strlen(text), part, n))
            return true;
        n += slash != NULL;
        part += n;
        len -= n;
    }
    return false;
}

bool says(const char *label, int rc, int code, const char *parts)
{
    const char *text = rc ? test_error.text : "";
    if (rc != code) {
        print_error("%s: %d (%s), not %d (%s): %s\n", label, rc, rc ? strerror(rc) : "success",
                    code, strerror(code), text);
        return false;
    }
    if (rc && (test_error.code != rc || strlen(text) < 8 || strchr(text, '\n'))) {
        print_error("%s: the error says %d: %s\n", label, test_error.code, text);
        return false;
    }
    for (; *parts; parts += strspn(parts, "|")) {
        size_t len = strcspn(parts, "|");
        if (!has_one(text, parts, len)) {
            print_error("%s: '%.*s' is missing in: %s\n", label, (int)len, parts, text);
            return false;
        }
        parts += len;
    }
    if (strstr(text, "secret/of+the") || strstr(text, "Signature=")) {
        print_error("%s: a secret stands in: %s\n", label, text);
        return false;
    }
    return true;
}

void clock_start(void)
{
    started_ms = bh_mono_ms();
}

void clock_within(int64_t ms)
{
    int64_t took = bh_mono_ms() - started_ms;
    if (took > ms)
        fail_msg("took %lld ms, %lld are the limit", (long long)took, (long long)ms);
}

size_t peak_memory(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 0; /* a sanitizer's own memory hides it */
#else
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return (size_t)usage.ru_maxrss << 10;
#endif
}
