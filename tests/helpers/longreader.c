/* longreader: holds read transactions open, one after the other, and looks that what it reads does
 * not change within one. Needs the table c of counter.
 *
 *   longreader [-m HOLD_MS] [-p PAUSE_MS] [-n TIMES] [-b BUSY_MS] [-c] DB
 *
 * until TIMES or SIGTERM; prints "reads=TIMES". With -c it closes the database for each pause. */
#include "client.h"

#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static void close_db(sqlite3 **db)
{
    if (*db && sqlite3_close(*db) != SQLITE_OK)
        client_die(CLIENT_WRONG, "close: %s", sqlite3_errmsg(*db));
    *db = NULL;
}

int main(int argc, char **argv)
{
    static const char usage[] =
        "usage: longreader [-m HOLD_MS] [-p PAUSE_MS] [-n TIMES] [-b BUSY_MS] [-c] DB";
    int64_t hold_ms = 100, pause_ms = 20, times = INT64_MAX, done = 0;
    int busy_ms = 20000, opt;
    bool close_it = false;
    while ((opt = getopt(argc, argv, "m:p:n:b:c")) != -1) {
        if (opt == 'm')
            hold_ms = client_number(optarg);
        else if (opt == 'p')
            pause_ms = client_number(optarg);
        else if (opt == 'n')
            times = client_number(optarg);
        else if (opt == 'b')
            busy_ms = (int)client_number(optarg);
        else if (opt == 'c')
            close_it = true;
        else
            client_die(CLIENT_WRONG, usage);
    }
    if (optind != argc - 1)
        client_die(CLIENT_WRONG, usage);
    client_catch_stop();
    sqlite3 *db = NULL;
    for (; done < times && !client_stop; done++) {
        if (!db)
            db = client_open(argv[optind], NULL, NULL, busy_ms);
        client_exec(db, "BEGIN");
        int64_t before = client_int(db, "SELECT n FROM c");
        client_sleep_ms(hold_ms);
        int64_t after = client_int(db, "SELECT n FROM c");
        if (before != after)
            client_die(CLIENT_WRONG, "a read transaction saw %lld, then %lld", (long long)before,
                       (long long)after);
        client_exec(db, "COMMIT");
        if (close_it)
            close_db(&db);
        client_sleep_ms(pause_ms);
    }
    close_db(&db);
    printf("reads=%lld\n", (long long)done);
    return 0;
}
