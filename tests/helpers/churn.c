/* churn: opens and closes a database without end, every other time only the file. By POSIX a close
 * drops all locks that its process has on the file, so a mount that mixes owners up loses
 * somebody's locks here.
 *
 *   churn [-n TIMES] [-b BUSY_MS] DB      until TIMES or SIGTERM; prints "opened=TIMES" */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void open_and_read(const char *path, int busy_ms)
{
    sqlite3 *db = client_open(path, NULL, NULL, busy_ms);
    client_int(db, "SELECT count(*) FROM sqlite_schema");
    if (sqlite3_close(db) != SQLITE_OK)
        client_die(CLIENT_WRONG, "close: %s", sqlite3_errmsg(db));
}

static void open_and_close(const char *path)
{
    char head[100];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, head, sizeof head, 0) < 0)
        client_die(CLIENT_GONE, "%s: %s", path, strerror(errno));
    close(fd);
}

int main(int argc, char **argv)
{
    int64_t times = INT64_MAX, done = 0;
    int busy_ms = 20000, opt;
    while ((opt = getopt(argc, argv, "n:b:")) != -1) {
        if (opt == 'n')
            times = client_number(optarg);
        else if (opt == 'b')
            busy_ms = (int)client_number(optarg);
        else
            client_die(CLIENT_WRONG, "usage: churn [-n TIMES] [-b BUSY_MS] DB");
    }
    if (optind != argc - 1)
        client_die(CLIENT_WRONG, "usage: churn [-n TIMES] [-b BUSY_MS] DB");
    client_catch_stop();
    for (; done < times && !client_stop; done++) {
        if (done % 2)
            open_and_close(argv[optind]);
        else
            open_and_read(argv[optind], busy_ms);
    }
    printf("opened=%lld\n", (long long)done);
    return 0;
}
