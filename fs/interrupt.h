/* Requests that a client may interrupt. The kernel tells of any signal that the client gets while
 * it waits, be it that a child of a shell has ended, a timer of a profiler, or the signal by which
 * Go changes goroutines; an answer of EINTR to those fails what nobody wanted to end. So a request
 * is cancelled only by a signal that may mean that. The kernel tells once: while the client waits,
 * what it got is looked at again and again. Sources: Linux, fs/fuse/dev.c (request_wait_answer);
 * proc_pid_status(5). */
#ifndef BHFS_INTERRUPT_H
#define BHFS_INTERRUPT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "daemon.h"

struct interrupt {
    fuse_req_t req;
    atomic_bool *cancel;
    pid_t client;
    bool watched;
    LIST_ENTRY(interrupt) list;
};

/* From now on *cancel becomes true when the client wants the request to end; perhaps at once. Both
 * stay where they are until interrupt_end. Any thread. */
void interrupt_begin(struct interrupt *i, fuse_req_t req, atomic_bool *cancel);
/* Before the request is answered. Without begin (zeroed), or twice: nothing. Any thread. */
void interrupt_end(struct interrupt *i);

#endif
