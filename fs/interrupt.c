#include "interrupt.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/io.h"
#include "util/thread.h"

#define LOOK_MS 50

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* taken after a request's own lock */
static LIST_HEAD(, interrupt) watched = LIST_HEAD_INITIALIZER(watched);
static bool runs; /* the thread that looks */

/* --- what it was --- */

static uint64_t bit_of(int sig)
{
    return (uint64_t)1 << (sig - 1);
}

static bool mask_of(const char *status, const char *name, uint64_t *mask)
{
    const char *line = strstr(status, name);
    return line && sscanf(line + strlen(name), "%" SCNx64, mask) == 1;
}

/* Whether what is pending for the thread, as in its /proc/PID/status, may be meant to end what it
 * waits for. */
static bool has_meant(const char *status)
{
    /* A stop comes into effect when the request has ended. */
    const uint64_t harmless = bit_of(SIGCHLD) | bit_of(SIGCONT) | bit_of(SIGURG) |
                              bit_of(SIGWINCH) | bit_of(SIGPROF) | bit_of(SIGSTOP) |
                              bit_of(SIGTSTP) | bit_of(SIGTTIN) | bit_of(SIGTTOU);
    uint64_t own, shared, blocked;
    if (!mask_of(status, "\nSigPnd:", &own) || !mask_of(status, "\nShdPnd:", &shared) ||
        !mask_of(status, "\nSigBlk:", &blocked))
        return true;
    return ((own | shared) & ~blocked & ~harmless) != 0;
}

/* Also if that cannot be told. */
static bool is_meant(pid_t client)
{
    char path[32];
    BH_FREE char *status = NULL;
    size_t len;
    snprintf(path, sizeof path, "/proc/%d/status", (int)client);
    return client <= 0 || bh_read_small_file(AT_FDCWD, path, 65536, &status, &len, NULL) != 0 ||
           has_meant(status);
}

/* --- looking, again and again --- */

/* With the mutex. */
static void look(void)
{
    struct interrupt *i, *next;
    for (i = LIST_FIRST(&watched); i; i = next) {
        next = LIST_NEXT(i, list);
        if (!is_meant(i->client))
            continue;
        atomic_store(i->cancel, true);
        LIST_REMOVE(i, list);
        i->watched = false;
    }
}

static void *look_main(void *arg)
{
    pthread_setname_np(pthread_self(), "bhfs-signals");
    follower_leave();
    for (;; usleep(LOOK_MS * 1000)) {
        BH_LOCK_SCOPE(&mutex);
        look();
        if (LIST_EMPTY(&watched)) {
            runs = false;
            return arg;
        }
    }
}

/* With the mutex. False: there is no thread. */
static bool watch(struct interrupt *i)
{
    pthread_t thread;
    if (!runs && bh_thread_start(&thread, look_main, NULL) == 0) {
        pthread_detach(thread);
        runs = true;
    }
    if (runs && !i->watched) {
        LIST_INSERT_HEAD(&watched, i, list);
        i->watched = true;
    }
    return runs;
}

/* On the loop thread, or where one begins that was told of already; libfuse has the request's lock.
 * /proc is for the other thread to read. */
static void on_interrupt(fuse_req_t req, void *arg)
{
    struct interrupt *i = arg;
    (void)req;
    BH_LOCK_SCOPE(&mutex);
    if (!watch(i))
        atomic_store(i->cancel, true);
}

void interrupt_begin(struct interrupt *i, fuse_req_t req, atomic_bool *cancel)
{
    *i = (struct interrupt){.req = req, .cancel = cancel, .client = fuse_req_ctx(req)->pid};
    fuse_req_interrupt_func(req, on_interrupt, i);
}

void interrupt_end(struct interrupt *i)
{
    if (!i->req)
        return;
    fuse_req_interrupt_func(i->req, NULL, NULL); /* on_interrupt is not called after this */
    i->req = NULL;
    BH_LOCK_SCOPE(&mutex);
    if (i->watched)
        LIST_REMOVE(i, list);
    i->watched = false;
}
