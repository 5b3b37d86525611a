/* For LD_PRELOAD: the thread that is the NO_THREAD-th of its process is not started (EAGAIN). */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

__attribute__((visibility("default"))) int
pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*entry)(void *), void *arg)
{
    static atomic_int started;
    const char *which = getenv("NO_THREAD");
    create_fn *create = (create_fn *)dlsym(RTLD_NEXT, "pthread_create");
    if (atomic_fetch_add(&started, 1) + 1 == (which ? atoi(which) : 0))
        return EAGAIN;
    return create(thread, attr, entry, arg);
}
