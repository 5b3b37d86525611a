/* The request loop: our own, as libfuse's would start threads of its choosing. One thread is
 * enough, because no handler waits, and it is best, because it can run on the CPU of the client it
 * serves (cpu.c). */
#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>

#include "daemon.h"
#include "util/log.h"

char loop_buffer[READ_MAX];

enum { SPARE_MAX = 8 };

/* Memory of requests: libfuse makes it, as large as it needs, and it is used again and again, since
 * the first touch of fresh memory costs more than a large write itself. */
static struct fuse_buf incoming; /* of the loop thread */
static bool incoming_kept;
static pthread_mutex_t spare_mutex = PTHREAD_MUTEX_INITIALIZER;
static void *spare[SPARE_MAX];
static unsigned spares;
static bool spares_end; /* the loop ended: what comes back is freed */

void *loop_keep_request(void)
{
    incoming_kept = true;
    return incoming.mem;
}

void loop_give_back(void *memory)
{
    pthread_mutex_lock(&spare_mutex);
    if (memory && spares < SPARE_MAX && !spares_end) {
        spare[spares++] = memory;
        memory = NULL;
    }
    pthread_mutex_unlock(&spare_mutex);
    free(memory);
}

/* NULL: libfuse makes a new one. */
static void *take_spare(void)
{
    pthread_mutex_lock(&spare_mutex);
    void *memory = spares ? spare[--spares] : NULL;
    pthread_mutex_unlock(&spare_mutex);
    return memory;
}

static void free_spares(void)
{
    pthread_mutex_lock(&spare_mutex);
    spares_end = true;
    while (spares)
        free(spare[--spares]);
    pthread_mutex_unlock(&spare_mutex);
}

/* What is to be known of a request before libfuse handles it. */
static void note_request(struct daemon *d, const struct fuse_buf *buf)
{
    struct fuse_in_header head;
    if (buf->flags & FUSE_BUF_IS_FD || buf->size < sizeof head)
        return;
    memcpy(&head, buf->mem, sizeof head);
    if (head.pid > 0)
        follower_note(d->follower, (pid_t)head.pid);
    protocol_note(&head, (const char *)buf->mem + sizeof head, buf->size - sizeof head);
}

void loop_run(struct daemon *d)
{
    follower_attach(d->follower);
    while (!fuse_session_exited(d->session)) {
        int n = fuse_session_receive_buf(d->session, &incoming);
        if (n == -EINTR)
            continue;
        if (n <= 0) {
            if (n < 0 && n != -ENODEV)
                bh_log(BH_LOG_ERROR, "requests cannot be read any more: %s", strerror(-n));
            break;
        }
        note_request(d, &incoming);
        fuse_session_process_buf(d->session, &incoming);
        if (incoming_kept)
            incoming.mem = take_spare();
        incoming_kept = false;
    }
    free(incoming.mem);
    incoming.mem = NULL;
    free_spares();
}
