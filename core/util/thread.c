#include "util/thread.h"

#include <signal.h>

int bh_thread_start(pthread_t *thread, void *(*entry)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread, NULL, entry, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}
