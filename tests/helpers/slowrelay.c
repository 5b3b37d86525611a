/* slowrelay: stands between clients and an HTTP/1.1 server of this machine and lets each request
 * wait first, as if the server were far away; answers pass as fast as they come, without a copy.
 *
 *   slowrelay PORT-FILE TARGET-PORT MILLISECONDS
 *
 * Listens on a free port of 127.0.0.1, which is then in PORT-FILE, until it is killed. */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 18 };

static struct sockaddr_in target = {.sin_family = AF_INET};
static struct timespec delay;

struct link {
    int client, server;
};

/* A client sends its next request when it has the answer to the last: a request begins a block. */
static bool is_request(const char *block, size_t len)
{
    static const char *const methods[] = {"GET ", "HEAD ", "PUT ", "POST ", "DELETE "};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (len > strlen(methods[i]) && !memcmp(block, methods[i], strlen(methods[i])))
            return true;
    return false;
}

static void requests(const struct link *l)
{
    char *block = malloc(BLOCK);
    ssize_t n;
    if (!block)
        client_die(CLIENT_WRONG, "out of memory");
    while ((n = recv(l->client, block, BLOCK, 0)) > 0) {
        if (is_request(block, (size_t)n))
            nanosleep(&delay, NULL);
        for (ssize_t done = 0, sent; done < n; done += sent)
            if ((sent = send(l->server, block + done, (size_t)(n - done), 0)) < 0)
                goto end;
    }
end:
    free(block);
    shutdown(l->server, SHUT_WR);
}

static void *answers(void *arg)
{
    const struct link *l = arg;
    int pipes[2];
    ssize_t n;
    if (pipe(pipes) != 0)
        client_die(CLIENT_WRONG, "pipe: %s", strerror(errno));
    (void)fcntl(pipes[1], F_SETPIPE_SZ, 1 << 20); /* a smaller one will do */
    while ((n = splice(l->server, NULL, pipes[1], NULL, 1 << 20, SPLICE_F_MOVE)) > 0)
        for (ssize_t done = 0, sent; done < n; done += sent)
            if ((sent = splice(pipes[0], NULL, l->client, NULL, (size_t)(n - done),
                               SPLICE_F_MOVE)) <= 0)
                goto end;
end:
    close(pipes[0]);
    close(pipes[1]);
    shutdown(l->client, SHUT_RDWR);
    return NULL;
}

static void *serve(void *arg)
{
    struct link l = {.client = (int)(intptr_t)arg};
    pthread_t back;
    int on = 1;
    l.server = socket(AF_INET, SOCK_STREAM, 0);
    if (l.server >= 0 && connect(l.server, (struct sockaddr *)&target, sizeof target) == 0) {
        setsockopt(l.client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(l.server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (pthread_create(&back, NULL, answers, &l) != 0)
            client_die(CLIENT_WRONG, "a thread cannot be started");
        requests(&l);
        pthread_join(back, NULL);
    }
    close(l.server);
    close(l.client);
    return NULL;
}

static void tell(const char *path, int listener)
{
    struct sockaddr_in own;
    socklen_t len = sizeof own;
    char temp[4096];
    if (getsockname(listener, (struct sockaddr *)&own, &len) != 0)
        client_die(CLIENT_WRONG, "getsockname: %s", strerror(errno));
    snprintf(temp, sizeof temp, "%s.new", path);
    FILE *f = fopen(temp, "w");
    if (!f || fprintf(f, "%d\n", ntohs(own.sin_port)) < 0 || fclose(f) != 0 ||
        rename(temp, path) != 0)
        client_die(CLIENT_WRONG, "%s: %s", path, strerror(errno));
}

int main(int argc, char **argv)
{
    if (argc != 4)
        client_die(CLIENT_WRONG, "usage: slowrelay PORT-FILE TARGET-PORT MILLISECONDS");
    int64_t ms = client_number(argv[3]);
    delay = (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    target.sin_port = htons((uint16_t)client_number(argv[2]));
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&any, sizeof any) != 0 ||
        listen(listener, 128) != 0)
        client_die(CLIENT_WRONG, "listen: %s", strerror(errno));
    tell(argv[1], listener);
    for (;;) {
        pthread_t thread;
        int client = accept(listener, NULL, NULL);
        if (client < 0)
            continue;
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)client) != 0)
            client_die(CLIENT_WRONG, "a thread cannot be started");
        pthread_detach(thread);
    }
}
