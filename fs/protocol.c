/* What the kernel's protocol has and libfuse 3.14 does not show (linux/fuse.h).
 *
 * FUSE_HANDLE_KILLPRIV_V2: the file system itself takes set-id bits away from a file that is
 * written, cut or given to somebody else. Without it the kernel asks before every write for the
 * attribute security.capability, one more request each; with it once, until it asks for attributes
 * again. So the answer to INIT is completed on its way, and with each request it is looked up
 * whether the kernel wants the bits dropped. */
#include <errno.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon.h"

/* INIT is the first request. 0: the flag is not offered, or set already. Answers of all threads
 * look at it. */
static atomic_uint_fast64_t init_unique;
/* Of the loop thread: */
static bool drops_set_id; /* it is agreed upon */
static bool drops_now;    /* for the request that is being handled */

static ssize_t read_request(int fd, void *buf, size_t len, void *userdata)
{
    (void)userdata;
    ssize_t n = read(fd, buf, len);
    struct fuse_in_header head;
    uint32_t flags;
    const size_t at = sizeof head + offsetof(struct fuse_init_in, flags);
    if (n < (ssize_t)(at + sizeof flags))
        return n;
    memcpy(&head, buf, sizeof head);
    memcpy(&flags, (const char *)buf + at, sizeof flags);
    if (head.opcode == FUSE_INIT && flags & FUSE_HANDLE_KILLPRIV_V2)
        atomic_store(&init_unique, head.unique);
    return n;
}

/* Adds the flag to the answer to INIT. */
static bool complete(const struct iovec *iov, int count, struct fuse_init_out *out)
{
    struct fuse_out_header head;
    if (count != 2 || iov[0].iov_len != sizeof head || iov[1].iov_len > sizeof *out ||
        iov[1].iov_len < offsetof(struct fuse_init_out, flags) + sizeof out->flags)
        return false;
    memcpy(&head, iov[0].iov_base, sizeof head);
    if (head.unique != atomic_load(&init_unique) || head.error)
        return false;
    memcpy(out, iov[1].iov_base, iov[1].iov_len);
    out->flags |= FUSE_HANDLE_KILLPRIV_V2;
    return true;
}

static ssize_t write_answer(int fd, struct iovec *iov, int count, void *userdata)
{
    struct fuse_init_out out;
    (void)userdata;
    if (!atomic_load(&init_unique) || !complete(iov, count, &out))
        return writev(fd, iov, count);
    atomic_store(&init_unique, 0);
    drops_set_id = true;
    struct iovec changed[2] = {iov[0], {.iov_base = &out, .iov_len = iov[1].iov_len}};
    return writev(fd, changed, 2);
}

int protocol_extend(struct fuse_session *session)
{
    static const struct fuse_custom_io io = {.read = read_request, .writev = write_answer};
    return -fuse_session_custom_io(session, &io, fuse_session_fd(session));
}

/* Whether the body of a request, of `len` bytes, says that set-id bits shall go. */
static bool wants_drop(const struct fuse_in_header *head, const void *body, size_t len)
{
    struct fuse_write_in write;
    struct fuse_setattr_in set;
    switch (head->opcode) {
    case FUSE_WRITE:
        if (len < sizeof write)
            return false;
        memcpy(&write, body, sizeof write);
        return write.write_flags & FUSE_WRITE_KILL_SUIDGID;
    case FUSE_SETATTR:
        if (len < sizeof set)
            return false;
        memcpy(&set, body, sizeof set);
        /* Whoever gives a file to somebody else, or (no bit at all) to nobody else. */
        return set.valid & (FATTR_KILL_SUIDGID | FATTR_UID | FATTR_GID) ||
               !(set.valid & ~(unsigned)(FATTR_FH | FATTR_CTIME));
    case FUSE_FALLOCATE: /* which has no flag for it */
        return head->uid != 0;
    default:
        return false;
    }
}

void protocol_note(const struct fuse_in_header *head, const void *body, size_t len)
{
    drops_now = drops_set_id && wants_drop(head, body, len);
}

bool protocol_drops_set_id(void)
{
    return drops_now;
}
