/* The clients' wal-index lies in the kernel's page cache of the mount, as they have mapped it. To
 * read and change these very pages somebody must map them, too, but not this process: a process
 * that ends closes its mappings before its files, and closing a mapping of a FUSE file waits until
 * its pages are written back, by the daemon, which is just ending. After a kill -9 it would wait
 * for ever, and all clients with it. So a child maps them. It has no other file of the daemon open,
 * does what it is told over a socket, and ends with it. Words go through memory that both share,
 * which is not a file's. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "util/log.h"

#define PATCH_MAX 4096
/* What the child does needs requests to the mount, which are quick. */
#define ANSWER_MS 10000

struct shared {
    struct bh_shm_word patch[PATCH_MAX];
    uint32_t words[BH_SHM_REGIONS_MAX * BH_SHM_REGION_WORDS];
};

enum verb { PULL, PUSH, RELEASE };

struct order {
    enum verb verb;
    uint64_t ino; /* of -shm: another file of that name is not meant */
    unsigned regions;
    size_t count; /* of patch */
};

struct walindex {
    char *path;
    struct shared *shared;
    int socket; /* -1: there is no child */
    pid_t child;
};

/* --- the child: only what may be called after a fork in a process with threads --- */

struct child {
    const char *path;
    struct shared *shared;
    int fd;
    uint64_t ino;
    unsigned mapped;
    uint32_t *regions[BH_SHM_REGIONS_MAX];
};

static void child_release(struct child *c)
{
    for (unsigned i = 0; i < c->mapped; i++)
        munmap(c->regions[i], BH_SHM_REGION);
    c->mapped = 0;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static int child_open(struct child *c, uint64_t ino)
{
    struct stat st;
    if (c->fd >= 0 && c->ino == ino)
        return 0;
    child_release(c);
    c->fd = open(c->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (c->fd < 0 || fstat(c->fd, &st) != 0)
        return errno;
    c->ino = ino;
    if (st.st_ino == ino)
        return 0;
    child_release(c);
    return ESTALE;
}

static int child_map(struct child *c, unsigned regions)
{
    struct stat st;
    if (c->mapped >= regions)
        return 0;
    if (fstat(c->fd, &st) != 0)
        return errno;
    off_t needed = (off_t)regions * BH_SHM_REGION;
    if (st.st_size < needed && ftruncate(c->fd, needed) != 0)
        return errno;
    for (; c->mapped < regions; c->mapped++) {
        void *p = mmap(NULL, BH_SHM_REGION, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd,
                       (off_t)c->mapped * BH_SHM_REGION);
        if (p == MAP_FAILED)
            return errno;
        c->regions[c->mapped] = p;
    }
    return 0;
}

static void child_pull(struct child *c, unsigned regions)
{
    for (unsigned i = 0; i < regions; i++) {
        _Atomic uint32_t *from = (_Atomic uint32_t *)(void *)c->regions[i];
        uint32_t *to = c->shared->words + i * BH_SHM_REGION_WORDS;
        for (size_t w = 0; w < BH_SHM_REGION_WORDS; w++)
            to[w] = atomic_load_explicit(&from[w], memory_order_acquire);
    }
}

static int child_push(struct child *c, size_t count_)
{
    for (size_t i = 0; i < count_; i++) {
        struct bh_shm_word p = c->shared->patch[i];
        if (p.at / BH_SHM_REGION_WORDS >= c->mapped)
            return EINVAL;
        uint32_t *region = c->regions[p.at / BH_SHM_REGION_WORDS];
        atomic_store((_Atomic uint32_t *)(void *)(region + p.at % BH_SHM_REGION_WORDS), p.value);
    }
    return 0;
}

static int obey(struct child *c, const struct order *o)
{
    if (o->verb == RELEASE) {
        if (c->ino == o->ino) /* else it has been let go of already */
            child_release(c);
        return 0;
    }
    if (o->regions > BH_SHM_REGIONS_MAX || o->count > PATCH_MAX)
        return EINVAL;
    int rc = child_open(c, o->ino);
    if (rc == 0)
        rc = child_map(c, o->regions);
    if (rc == 0 && o->verb == PUSH)
        rc = child_push(c, o->count);
    else if (rc == 0)
        child_pull(c, o->regions);
    return rc;
}

__attribute__((noreturn)) static void child_main(struct child *c, int socket)
{
    struct order o;
    prctl(PR_SET_NAME, "bhfs-index");
    /* Above all the FUSE device: while this is open the mount would outlive the daemon. */
    if (close_range(3, (unsigned)socket - 1, 0) != 0 ||
        close_range((unsigned)socket + 1, ~0u, 0) != 0 || chdir("/") != 0)
        _exit(1);
    while (recv(socket, &o, sizeof o, 0) == sizeof o) {
        int rc = obey(c, &o);
        if (send(socket, &rc, sizeof rc, MSG_NOSIGNAL) != sizeof rc)
            break;
    }
    _exit(0);
}

/* --- the daemon's side --- */

int walindex_new(struct walindex **out, const char *mountpoint)
{
    struct walindex *w = calloc(1, sizeof *w);
    if (!w)
        return ENOMEM;
    w->socket = -1;
    w->shared = mmap(NULL, sizeof *w->shared, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (w->shared == MAP_FAILED)
        w->shared = NULL;
    if (!w->shared || asprintf(&w->path, "%s/" BH_SHM_NAME, mountpoint) < 0) {
        w->path = NULL;
        walindex_free(w);
        return ENOMEM;
    }
    *out = w;
    return 0;
}

static void end_child(struct walindex *w, bool kill_it)
{
    if (w->socket < 0)
        return;
    close(w->socket);
    w->socket = -1;
    if (kill_it)
        kill(w->child, SIGKILL);
    /* One that hangs in a request of the mount is init's to reap. */
    for (int i = 0; i < 100 && waitpid(w->child, NULL, WNOHANG) == 0; i++)
        usleep(1000);
}

void walindex_free(struct walindex *w)
{
    if (!w)
        return;
    end_child(w, false);
    if (w->shared)
        munmap(w->shared, sizeof *w->shared);
    free(w->path);
    free(w);
}

static int start_child(struct walindex *w)
{
    int pair[2];
    if (w->socket >= 0)
        return 0;
    struct child *c = calloc(1, sizeof *c); /* before the fork: the child must not */
    if (!c)
        return ENOMEM;
    *c = (struct child){.path = w->path, .shared = w->shared, .fd = -1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        int rc = errno;
        free(c);
        return rc;
    }
    pid_t pid = fork();
    int rc = pid < 0 ? errno : 0;
    if (pid == 0)
        child_main(c, pair[1]);
    free(c);
    close(pair[1]);
    if (rc) {
        close(pair[0]);
        return rc;
    }
    w->socket = pair[0];
    w->child = pid;
    return 0;
}

/* 0 or errno from the child; EPIPE: there is no child any more. */
static int ask(struct walindex *w, const struct order *o)
{
    struct pollfd p = {.fd = w->socket, .events = POLLIN};
    int answer, n;
    if (send(w->socket, o, sizeof *o, MSG_NOSIGNAL) != sizeof *o)
        return EPIPE;
    while ((n = poll(&p, 1, ANSWER_MS)) < 0 && errno == EINTR)
        ;
    if (n <= 0 || recv(w->socket, &answer, sizeof answer, 0) != sizeof answer)
        return EPIPE;
    return answer;
}

/* A child that died (somebody killed it, memory was short) is replaced once. */
static int give(struct walindex *w, const struct order *o)
{
    for (int tries = 0;; tries++) {
        int rc = start_child(w);
        if (rc)
            return rc;
        rc = ask(w, o);
        if (rc != EPIPE)
            return rc;
        end_child(w, true);
        if (tries == 1)
            return EIO;
        bh_log(BH_LOG_WARNING,
               "the process that reaches the clients' " BH_SHM_NAME " ended: it is started again");
    }
}

static uint64_t ino_of(struct bh_file *f)
{
    struct stat st;
    return bh_file_stat(f, &st) == 0 ? st.st_ino : 0;
}

int walindex_pull(struct walindex *w, struct bh_file *f, unsigned regions, const uint32_t **words)
{
    struct order o = {.verb = PULL, .ino = ino_of(f), .regions = regions};
    *words = w->shared->words;
    return give(w, &o);
}

int walindex_push(struct walindex *w, struct bh_file *f, unsigned regions,
                  const struct bh_shm_word *words, size_t count_)
{
    struct order o = {.verb = PUSH, .ino = ino_of(f), .regions = regions, .count = count_};
    if (count_ > PATCH_MAX)
        return EINVAL;
    memcpy(w->shared->patch, words, count_ * sizeof *words);
    return give(w, &o);
}

void walindex_release(struct walindex *w, struct bh_file *f)
{
    struct order o = {.verb = RELEASE, .ino = ino_of(f)};
    if (w->socket >= 0 && ask(w, &o) != 0)
        end_child(w, true);
}
