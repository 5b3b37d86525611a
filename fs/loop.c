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

static void note_client(struct daemon *d, const struct fuse_buf *buf)
{
    struct fuse_in_header head;
    if (buf->flags & FUSE_BUF_IS_FD || buf->size < sizeof head)
        return;
    memcpy(&head, buf->mem, sizeof head);
    if (head.pid > 0)
        follower_note(d->follower, (pid_t)head.pid);
}

void loop_run(struct daemon *d)
{
    struct fuse_buf buf = {.mem = NULL};
    follower_attach(d->follower);
    while (!fuse_session_exited(d->session)) {
        int n = fuse_session_receive_buf(d->session, &buf);
        if (n == -EINTR)
            continue;
        if (n <= 0) {
            if (n < 0 && n != -ENODEV)
                bh_log(BH_LOG_ERROR, "requests cannot be read any more: %s", strerror(-n));
            break;
        }
        note_client(d, &buf);
        fuse_session_process_buf(d->session, &buf);
    }
    free(buf.mem);
}
