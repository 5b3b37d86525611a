#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/clock.h"

#define RING_MAX       (1024 * 1024)
#define LINE_MAX_BYTES 2048

static struct {
    pthread_mutex_t mutex;
    enum bh_log_level level;
    char *path;
    int fd;
    bool to_stderr;
    char *ring;
    size_t ring_len;
    void (*on_append)(void *);
    void *on_append_arg;
} the_log = {.mutex = PTHREAD_MUTEX_INITIALIZER, .level = BH_LOG_INFO, .fd = -1, .to_stderr = true};

static int open_file(const char *path, int *fd, struct bh_error *err)
{
    *fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (*fd < 0)
        return bh_fail(err, errno,
                       "the log file %s cannot be opened for appending: %s; set log.file to "
                       "a path this user may write",
                       path, strerror(errno));
    return 0;
}

int bh_log_setup(enum bh_log_level level, const char *file, bool to_stderr, struct bh_error *err)
{
    BH_FD int fd = -1;
    BH_FREE char *path = NULL;
    if (file && *file) {
        int rc = open_file(file, &fd, err);
        if (rc)
            return rc;
        path = strdup(file);
        if (!path)
            return bh_fail(err, ENOMEM, "out of memory while opening the log");
    }
    BH_LOCK_SCOPE(&the_log.mutex);
    if (the_log.fd >= 0)
        close(the_log.fd);
    free(the_log.path);
    the_log.fd = bh_take_fd(&fd);
    the_log.path = bh_take_ptr(path);
    the_log.level = level;
    the_log.to_stderr = to_stderr;
    return 0;
}

int bh_log_reopen(struct bh_error *err)
{
    BH_LOCK_SCOPE(&the_log.mutex);
    if (!the_log.path)
        return 0;
    int fd;
    int rc = open_file(the_log.path, &fd, err);
    if (rc)
        return rc;
    close(the_log.fd);
    the_log.fd = fd;
    return 0;
}

static void ring_append(const char *line, size_t len)
{
    if (!the_log.ring && !(the_log.ring = malloc(RING_MAX)))
        return; /* the copy in memory is a convenience; stderr and the file still get the line */
    if (the_log.ring_len + len > RING_MAX) {
        size_t cut = RING_MAX / 2;
        while (cut < the_log.ring_len && the_log.ring[cut - 1] != '\n')
            cut++;
        memmove(the_log.ring, the_log.ring + cut, the_log.ring_len - cut);
        the_log.ring_len -= cut;
    }
    memcpy(the_log.ring + the_log.ring_len, line, len);
    the_log.ring_len += len;
}

static void write_line(int fd, const char *line, size_t len)
{
    /* A log that cannot be written has nowhere to say so; the copy in memory still has the line. */
    ssize_t n;
    do
        n = write(fd, line, len);
    while (n < 0 && errno == EINTR);
}

void bh_log(enum bh_log_level level, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    char line[LINE_MAX_BYTES];
    char when[32];
    int saved_errno = errno;
    int head = snprintf(line, sizeof line,
                        "%s %s: ", bh_format_time(bh_real_ms(), when, sizeof when), names[level]);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + head, sizeof line - (size_t)head - 1, fmt, ap);
    va_end(ap);
    size_t len = strlen(line);
    for (size_t i = 0; i < len; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[len++] = '\n';

    void (*fn)(void *) = NULL;
    void *arg = NULL;
    pthread_mutex_lock(&the_log.mutex);
    if (level <= the_log.level) {
        ring_append(line, len);
        if (the_log.to_stderr)
            write_line(STDERR_FILENO, line, len);
        if (the_log.fd >= 0)
            write_line(the_log.fd, line, len);
        fn = the_log.on_append;
        arg = the_log.on_append_arg;
    }
    pthread_mutex_unlock(&the_log.mutex);
    if (fn)
        fn(arg);
    errno = saved_errno;
}

uint64_t bh_log_size(void)
{
    BH_LOCK_SCOPE(&the_log.mutex);
    return the_log.ring_len;
}

size_t bh_log_read(uint64_t offset, void *buf, size_t len)
{
    BH_LOCK_SCOPE(&the_log.mutex);
    if (offset >= the_log.ring_len)
        return 0;
    size_t n = the_log.ring_len - (size_t)offset;
    if (n > len)
        n = len;
    memcpy(buf, the_log.ring + offset, n);
    return n;
}

void bh_log_on_append(void (*fn)(void *arg), void *arg)
{
    BH_LOCK_SCOPE(&the_log.mutex);
    the_log.on_append = fn;
    the_log.on_append_arg = arg;
}
