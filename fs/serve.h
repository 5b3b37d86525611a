/* How long the mount lives. */
#ifndef BHFS_SERVE_H
#define BHFS_SERVE_H

#include "daemon.h"
#include "options.h"

struct server {
    pthread_t loop;
    int ended; /* eventfd */
    struct daemon *daemon;
};
/* The mounted session is served from now on. */
int server_start(struct server *s, struct daemon *d, struct bh_error *err);
/* Unmounts, and waits until nothing is served any more. */
void server_end(struct server *s);
/* Until the mount ends or a signal of that signalfd ends it: then as server_end. o: of SIGHUP. */
void serve(struct server *s, int signals, const struct options *o);

#endif
