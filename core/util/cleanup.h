/* Scope-bound clean-up: declare a variable with one of these and it is released when it goes out of
 * scope, on every path. bh_take() hands the value on and disarms the clean-up. */
#ifndef BH_UTIL_CLEANUP_H
#define BH_UTIL_CLEANUP_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void bh_cleanup_free_(void *p)
{
    free(*(void **)p);
}
static inline void bh_cleanup_fd_(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
static inline void bh_cleanup_file_(FILE **f)
{
    if (*f)
        fclose(*f);
}
static inline void bh_cleanup_unlock_(pthread_mutex_t **m)
{
    if (*m)
        pthread_mutex_unlock(*m);
}

#define BH_FREE __attribute__((cleanup(bh_cleanup_free_)))
#define BH_FD   __attribute__((cleanup(bh_cleanup_fd_)))
#define BH_FILE __attribute__((cleanup(bh_cleanup_file_)))

/* Locks m until the end of the enclosing scope. */
#define BH_CONCAT_(a, b) a##b
#define BH_CONCAT(a, b)  BH_CONCAT_(a, b)
#define BH_LOCK_SCOPE(m)                                                                           \
    __attribute__((cleanup(bh_cleanup_unlock_), unused)) pthread_mutex_t *BH_CONCAT(               \
        bh_scope_lock_, __LINE__) = bh_lock_(m)
static inline pthread_mutex_t *bh_lock_(pthread_mutex_t *m)
{
    pthread_mutex_lock(m);
    return m;
}

static inline int bh_take_fd(int *fd)
{
    int v = *fd;
    *fd = -1;
    return v;
}
#define bh_take_ptr(p)                                                                             \
    __extension__({                                                                                \
        __typeof__(p) bh_taken_ = (p);                                                             \
        (p) = NULL;                                                                                \
        bh_taken_;                                                                                 \
    })

#endif
