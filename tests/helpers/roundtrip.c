/* roundtrip: what it costs on this machine that one process asks another one and waits for the
 * answer, by two pipes and a byte each way: the least that a request of a FUSE file system can take
 * where the daemon does nothing. Prints the microseconds of the quickest of several rounds:
 *   same=US other=US      both on one CPU; each on its own, "-" if there is only one */
#include "client.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 5, TRIPS = 5000 };

static void go_to(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        client_die(CLIENT_WRONG, "CPU %d: %s", cpu, strerror(errno));
}

static void answer(int from, int to)
{
    char byte;
    while (read(from, &byte, 1) == 1)
        if (write(to, &byte, 1) != 1)
            break;
    _exit(0);
}

static double measure(int own, int others)
{
    int ask[2], reply[2];
    double best = 0;
    if (pipe(ask) != 0 || pipe(reply) != 0)
        client_die(CLIENT_WRONG, "pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child < 0)
        client_die(CLIENT_WRONG, "fork: %s", strerror(errno));
    if (child == 0) {
        close(ask[1]);
        close(reply[0]);
        go_to(others);
        answer(ask[0], reply[1]);
    }
    close(ask[0]);
    close(reply[1]);
    go_to(own);
    for (int round = 0; round < ROUNDS; round++) {
        int64_t begin = client_now_ns();
        char byte = 0;
        for (int i = 0; i < TRIPS; i++)
            if (write(ask[1], &byte, 1) != 1 || read(reply[0], &byte, 1) != 1)
                client_die(CLIENT_WRONG, "a pipe: %s", strerror(errno));
        double us = (double)(client_now_ns() - begin) / 1e3 / TRIPS;
        if (best == 0 || us < best)
            best = us;
    }
    close(ask[1]);
    close(reply[0]);
    waitpid(child, NULL, 0);
    return best;
}

int main(void)
{
    cpu_set_t set;
    int cpus[2], count = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        client_die(CLIENT_WRONG, "sched_getaffinity: %s", strerror(errno));
    for (int cpu = 0; cpu < CPU_SETSIZE && count < 2; cpu++)
        if (CPU_ISSET(cpu, &set))
            cpus[count++] = cpu;
    printf("roundtrip same=%.1f", measure(cpus[0], cpus[0]));
    if (count > 1)
        printf(" other=%.1f\n", measure(cpus[0], cpus[1]));
    else
        printf(" other=-\n");
    return 0;
}
