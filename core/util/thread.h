/* Threads of the library's own. */
#ifndef BH_UTIL_THREAD_H
#define BH_UTIL_THREAD_H

#include <pthread.h>

/* pthread_create with all signals blocked in the new thread: they are for the program's own. 0 or
 * errno. */
int bh_thread_start(pthread_t *thread, void *(*entry)(void *), void *arg);

#endif
