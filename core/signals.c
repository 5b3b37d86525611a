/* SIGTERM and SIGINT for programs that use the library: the handler sets a flag and writes one byte
 * to a pipe. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

#include "buckethead.h"
#include "util/error.h"

static struct bh *_Atomic owner;
static int wake_pipe[2] = {-1, -1};
static volatile sig_atomic_t caught;

static void handler(int sig)
{
    int saved = errno;
    caught = sig;
    ssize_t n = write(wake_pipe[1], "", 1); /* full: somebody is woken already */
    (void)n;
    errno = saved;
}

static void stop_at_exit(void)
{
    struct bh *b = atomic_load(&owner);
    if (b)
        bh_stop(b, NULL);
}

int bh_install_signal_handlers(struct bh *b, struct bh_error *err)
{
    static atomic_bool registered;
    struct bh *nobody = NULL;
    if (!atomic_compare_exchange_strong(&owner, &nobody, b))
        return bh_fail(err, EBUSY, "another database of this process has the signal handlers");
    if (wake_pipe[0] < 0 && pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) != 0) {
        atomic_store(&owner, NULL);
        return bh_fail(err, errno, "no pipe for signals can be made: %s", strerror(errno));
    }
    struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    if (!atomic_exchange(&registered, true))
        atexit(stop_at_exit);
    return 0;
}

void bh_remove_signal_handlers(struct bh *b)
{
    struct bh *mine = b;
    if (!atomic_compare_exchange_strong(&owner, &mine, NULL))
        return;
    struct sigaction sa = {.sa_handler = SIG_DFL};
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
}

int bh_wait_for_signal(struct bh *b)
{
    (void)b;
    while (!caught) {
        fd_set fds;
        char c;
        FD_ZERO(&fds);
        FD_SET(wake_pipe[0], &fds);
        if (select(wake_pipe[0] + 1, &fds, NULL, NULL, NULL) > 0 && read(wake_pipe[0], &c, 1) < 0 &&
            errno != EAGAIN)
            break;
    }
    int sig = caught;
    caught = 0;
    return sig;
}
