/* Calls that are ended from outside while they wait. */
#ifndef INTERRUPTED_H
#define INTERRUPTED_H

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "bucket_helpers.h"
#include "util/clock.h"

struct interrupted {
    struct bh_call call;
    int code; /* what the call ends with */
    atomic_bool cancel, stop;
    atomic_bool *flag; /* the one that is set after 100 ms; NULL: the deadline it is */
    pthread_t thread;
    int64_t start;
};

static inline void *raise_flag(void *arg)
{
    usleep(100000);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

/* How it is ended: 0 by the flag cancel, 1 by stop, 2 by one of the two while both are there
 * (stop_of_both says which), 3 by its deadline, with both there. */
static inline void interrupt_soon(struct interrupted *i, int how, bool stop_of_both)
{
    *i = (struct interrupted){.code = how == 3 ? ETIMEDOUT : ECANCELED};
    i->call.cancel = how != 1 ? &i->cancel : NULL;
    i->call.stop = how != 0 ? &i->stop : NULL;
    if (how == 3)
        i->call.deadline_ms = bh_mono_ms() + 100;
    else
        i->flag = how == 1 || (how == 2 && stop_of_both) ? &i->stop : &i->cancel;
    if (i->flag)
        assert_int_equal(pthread_create(&i->thread, NULL, raise_flag, i->flag), 0);
    i->start = bh_mono_ms();
}

/* The call is over: neither early nor late. */
static inline void interrupt_over(struct interrupted *i)
{
    assert_in_range(bh_mono_ms() - i->start, 90, 3000);
    if (i->flag)
        pthread_join(i->thread, NULL);
}

#endif
