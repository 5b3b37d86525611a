/* The request loop's thread, and the signals that end it or have the configuration re-read. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "serve.h"
#include "util/cleanup.h"
#include "util/log.h"

static void *server_main(void *arg)
{
    struct server *s = arg;
    pthread_setname_np(pthread_self(), "bhfs-loop");
    loop_run(s->daemon);
    uint64_t one = 1;
    ssize_t n = write(s->ended, &one, sizeof one);
    (void)n;
    return NULL;
}

int server_start(struct server *s, struct daemon *d, struct bh_error *err)
{
    s->daemon = d;
    s->ended = eventfd(0, EFD_CLOEXEC);
    int rc = s->ended < 0 ? errno : pthread_create(&s->loop, NULL, server_main, s);
    if (rc && s->ended >= 0)
        close(s->ended);
    return rc ? bh_fail(err, rc, "the request loop cannot be started: %s", strerror(rc)) : 0;
}

static void join(struct server *s)
{
    pthread_join(s->loop, NULL);
    close(s->ended);
}

static void reload(struct daemon *d, const struct options *o)
{
    struct bh_config *fresh;
    struct bh_error err;
    BH_STRBUF changes = {0};
    struct bh_config_request req = {.file = bh_config_of(d->bh)->file,
                                    .url = o->url,
                                    .overrides = (const char *const *)o->settings,
                                    .override_count = o->setting_count,
                                    .use_environment = true};
    int rc = bh_log_reopen(&err);
    if (rc)
        bh_log(BH_LOG_ERROR, "%s", err.text);
    rc = bh_config_load(&fresh, &req, &err);
    if (rc == 0)
        rc = bh_reload(d->bh, fresh, &changes, &err);
    if (rc) {
        bh_log(BH_LOG_ERROR, "the configuration was not re-read: %s", err.text);
        return;
    }
    const struct bh_config *cfg = bh_config_of(d->bh);
    if (bh_log_setup(cfg->log.level, cfg->log.file, o->foreground, &err))
        bh_log(BH_LOG_ERROR, "%s", err.text);
    bh_log(BH_LOG_INFO, "the configuration was re-read");
    char *save = NULL;
    for (char *line = changes.data ? strtok_r(changes.data, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save))
        bh_log(BH_LOG_INFO, "%s", line);
}

/* An orderly unmount; false if somebody is in it. */
static bool try_unmount(struct daemon *d)
{
    if (geteuid() == 0)
        return umount2(d->mountpoint, UMOUNT_NOFOLLOW) == 0;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 2);
        execlp("fusermount3", "fusermount3", "-u", "-q", "--", d->mountpoint, (char *)NULL);
        _exit(127);
    }
    int status;
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static void end_loop(struct server *s)
{
    struct daemon *d = s->daemon;
    if (try_unmount(d))
        return;
    bh_log(BH_LOG_WARNING, "%s is in use: its programs lose it now", d->mountpoint);
    fuse_session_exit(d->session);
    struct pollfd p = {.fd = s->ended, .events = POLLIN};
    do
        pthread_kill(s->loop, SIGUSR1); /* out of its read */
    while (poll(&p, 1, 20) == 0);
}

void server_end(struct server *s)
{
    end_loop(s);
    join(s);
}

void serve(struct server *s, int signals, const struct options *o)
{
    struct pollfd fds[2] = {{.fd = s->ended, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        if (fds[0].revents)
            break;
        struct signalfd_siginfo info;
        if (!fds[1].revents || read(signals, &info, sizeof info) != sizeof info)
            continue;
        if (info.ssi_signo == SIGHUP) {
            reload(s->daemon, o);
            continue;
        }
        bh_log(BH_LOG_INFO, "signal %u from process %u: ending", info.ssi_signo, info.ssi_pid);
        end_loop(s);
        break;
    }
    join(s);
}
