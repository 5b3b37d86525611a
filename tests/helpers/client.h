/* What the test clients share: a connection of stock SQLite, exit statuses that a script can tell
 * apart, a clock. None of this knows of bhfs: a client runs on a native file just as well. */
#ifndef BH_TEST_CLIENT_H
#define BH_TEST_CLIENT_H

#include <sqlite3.h>
#include <stdint.h>

enum client_status {
    CLIENT_OK = 0,
    CLIENT_WRONG =
        1,           /* usage, a damaged database, a broken promise: always a failure of the test */
    CLIENT_BUSY = 2, /* "database is locked", after the busy timeout */
    CLIENT_GONE =
        3, /* I/O error, nothing to open, SIGBUS: what a client sees when the daemon was killed */
};

/* Prints "PROGRAM: TEXT" and exits with the status. */
void client_die(enum client_status status, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 2, 3)));

/* The status that stands for a result code of SQLite. */
enum client_status client_status_of(int rc);

/* Opens an existing database (a file that is not there must not appear below a mount that has just
 * died); mode and sync may be NULL (SQLite's default). Dies on failure, also if the journal mode is
 * not the one asked for. */
sqlite3 *client_open(const char *path, const char *mode, const char *sync, int busy_ms);
/* Opens it, or makes it. */
sqlite3 *client_create(const char *path);

/* Runs statements without a result; dies on failure. */
void client_exec(sqlite3 *db, const char *sql);
/* Compiles one statement; dies on failure. */
sqlite3_stmt *client_prepare(sqlite3 *db, const char *sql);
/* Runs one statement and returns the first column of its first row, 0 if there is none; dies on
 * failure. */
int64_t client_int(sqlite3 *db, const char *sql);

/* A decimal argument; dies if it is not one. */
int64_t client_number(const char *text);

int64_t client_now_ns(void);
void client_sleep_ms(int64_t ms);

/* From now on SIGTERM and SIGINT only set client_stop, and SIGBUS ends the process with
 * CLIENT_GONE. */
void client_catch_stop(void);
extern volatile int client_stop;

/* A random number of one stream a process; not for secrets. */
uint32_t client_random(void);
void client_seed(uint32_t seed);

#endif
