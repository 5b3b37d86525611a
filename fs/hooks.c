#include "hooks.h"

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/log.h"

extern char **environ;

#define VARIABLES_MAX 256

struct hook {
    char *command;
    char variables[4][BH_ERROR_TEXT_MAX + 32];
    size_t count;
};

/* Credentials are the daemon's business, not its children's. */
static bool is_secret(const char *variable)
{
    return !strncmp(variable, "AWS_", 4) || !strncmp(variable, "BUCKETHEAD_", 11);
}

static void *hook_main(void *arg)
{
    struct hook *h = arg;
    char *env[VARIABLES_MAX + 8];
    size_t n = 0;
    for (char **e = environ; *e && n < VARIABLES_MAX; e++)
        if (!is_secret(*e))
            env[n++] = *e;
    for (size_t i = 0; i < h->count; i++)
        env[n++] = h->variables[i];
    env[n] = NULL;
    char shell[] = "/bin/sh", flag[] = "-c";
    char *argv[] = {shell, flag, h->command, NULL};
    pid_t pid;
    int status = 0;
    posix_spawnattr_t attr;
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attr, &none);
    int rc = posix_spawn(&pid, shell, NULL, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    if (rc)
        bh_log(BH_LOG_ERROR, "the hook \"%s\" cannot be started: %s", h->command, strerror(rc));
    else if (waitpid(pid, &status, 0) == pid && status)
        bh_log(BH_LOG_WARNING, "the hook \"%s\" ended with %s %d", h->command,
               WIFEXITED(status) ? "status" : "signal",
               WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    free(h->command);
    free(h);
    return NULL;
}

void hook_run(const char *command, const char *const variables[], size_t count_)
{
    pthread_t thread;
    if (!command[0])
        return;
    struct hook *h = calloc(1, sizeof *h);
    if (h)
        h->command = strdup(command);
    if (!h || !h->command) {
        free(h);
        return;
    }
    for (size_t i = 0; i < count_ && i < 4; i++)
        snprintf(h->variables[h->count++], sizeof h->variables[0], "%s", variables[i]);
    int rc = pthread_create(&thread, NULL, hook_main, h);
    if (rc) {
        bh_log(BH_LOG_ERROR, "the hook \"%s\" cannot be started: %s", command, strerror(rc));
        free(h->command);
        free(h);
        return;
    }
    pthread_detach(thread);
}
