/* credential_process: a command that prints credentials as JSON. Source: AWS SDKs and Tools
 * Reference Guide, "Process credential provider". */
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bucket/bucket_util.h"
#include "bucket/s3/creds_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

extern char **environ;

#define OUTPUT_MAX   ((size_t)64 << 10)
#define SAID_MAX     ((size_t)4 << 10) /* of its stderr, for the log */
#define POLL_MS      50
#define SHORT_SECRET 32 /* an AWS secret key has 40 characters, a token more */

struct process {
    pid_t pid;
    int out, err; /* our ends of its pipes */
    struct bh_secret output, said;
};

/* Its own group, so that what it starts ends with it; no descriptor beyond stdio. */
static int spawn(pid_t *pid, const char *command, int out, int err_fd)
{
    char shell[] = "/bin/sh", flag[] = "-c";
    BH_FREE char *copy = strdup(command);
    char *argv[] = {shell, flag, copy, NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    if (!copy)
        return ENOMEM;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out, 1);
    posix_spawn_file_actions_adddup2(&files, err_fd, 2);
    posix_spawn_file_actions_addclosefrom_np(&files, 3);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                        POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setpgroup(&attr, 0);
    int rc = posix_spawn(pid, shell, &files, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return rc;
}

static int start(struct process *p, const char *command)
{
    int out[2], err[2];
    if (pipe2(out, O_CLOEXEC) != 0)
        return errno;
    BH_FD int out_child = out[1];
    p->out = out[0];
    if (pipe2(err, O_CLOEXEC) != 0)
        return errno;
    BH_FD int err_child = err[1];
    p->err = err[0];
    return spawn(&p->pid, command, out_child, err_child);
}

/* Reads once; closes the descriptor at its end. false: more than there is room for. */
static bool drain(int *fd, struct bh_secret *into, bool keep_what_fits)
{
    char buf[4096];
    ssize_t n = read(*fd, buf, sizeof buf);
    if (n < 0 && errno == EINTR)
        return true;
    if (n <= 0) {
        close(*fd);
        *fd = -1;
        return true;
    }
    size_t room = into->cap - into->len, len = (size_t)n;
    bool fits = bh_secret_add(into, buf, len < room ? len : room) && len <= room;
    OPENSSL_cleanse(buf, sizeof buf);
    return fits || keep_what_fits;
}

/* Until both pipes are closed. */
static int collect(struct process *p, const char *what, const struct bh_call *call,
                   struct bh_error *err)
{
    while (p->out >= 0 || p->err >= 0) {
        struct pollfd fds[2] = {{p->out, POLLIN, 0}, {p->err, POLLIN, 0}};
        int rc = bh_call_check(call, what, err);
        if (rc)
            return rc;
        if (poll(fds, 2, POLL_MS) <= 0)
            continue;
        if (fds[0].revents && !drain(&p->out, &p->output, false))
            return bh_fail(err, EIO, "%s prints more than %zu bytes", what, OUTPUT_MAX);
        if (fds[1].revents)
            drain(&p->err, &p->said, true);
    }
    return 0;
}

/* Its status as waitpid has it; 0 where the program that we are part of collects its children. */
static int await(struct process *p, const char *what, const struct bh_call *call, int *status,
                 struct bh_error *err)
{
    *status = 0;
    for (;;) {
        pid_t ended = waitpid(p->pid, status, WNOHANG);
        if (ended == p->pid || (ended < 0 && errno == ECHILD)) {
            p->pid = 0;
            return 0;
        }
        int rc = bh_call_sleep(call, POLL_MS / 10, what, err);
        if (rc)
            return rc;
    }
}

static void finish(struct process *p)
{
    if (p->pid > 0) {
        kill(-p->pid, SIGKILL);
        while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (p->out >= 0)
        close(p->out);
    if (p->err >= 0)
        close(p->err);
    bh_secret_free(&p->output);
    bh_secret_free(&p->said);
}

/* What it said goes to the log, a line each, without words that may be a secret. */
static void log_said(struct bh_secret *said, const char *what)
{
    static const char key[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-";
    for (char *p = said->data; *p;) {
        size_t word = strspn(p, key);
        if (word >= SHORT_SECRET)
            memset(p, '*', word);
        p += word ? word : 1;
    }
    char *rest = said->data;
    for (char *line = strtok_r(rest, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest))
        bh_log(BH_LOG_WARNING, "%s says: %.300s", what, line);
}

static int run(struct process *p, const char *what, const char *command, const struct bh_call *call,
               struct bh_error *err)
{
    int status = 0;
    int rc = bh_secret_new(&p->output, OUTPUT_MAX, err);
    if (!rc)
        rc = bh_secret_new(&p->said, SAID_MAX, err);
    if (rc)
        return rc;
    rc = start(p, command);
    if (rc)
        return bh_fail(err, EACCES, "%s cannot be started: %s", what, strerror(rc));
    rc = collect(p, what, call, err);
    if (!rc)
        rc = await(p, what, call, &status, err);
    log_said(&p->said, what);
    if (!rc && status)
        rc = bh_fail(err, EACCES, "%s ended with %s %d%s", what,
                     WIFEXITED(status) ? "status" : "signal",
                     WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
                     p->said.len ? "; what it said is in the log" : "");
    return rc;
}

int bh_creds_run_process(const struct bh_lookup *l, const char *what, const char *command,
                         struct bh_credentials *out, struct bh_error *err)
{
    struct process p = {.out = -1, .err = -1};
    BH_CREDS_JSON json = {0};
    int rc = run(&p, what, command, l->call, err);
    if (!rc)
        rc = bh_creds_read_json(&json, what, &p.output, err);
    if (!rc && json.version != 1)
        rc = bh_fail(err, EIO, "%s prints credentials of Version %lld; only 1 is known", what,
                     (long long)json.version);
    if (!rc)
        rc = bh_credentials_set(out, what, json.c.access_key_id, json.c.secret_access_key,
                                json.c.session_token, json.c.expires_ms, err);
    finish(&p);
    return rc;
}
