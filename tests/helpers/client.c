#include "client.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

volatile int client_stop;

void client_die(enum client_status status, const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    _Exit((int)status);
}

enum client_status client_status_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return CLIENT_OK;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return CLIENT_BUSY;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_PROTOCOL: /* in WAL: ten seconds of locks that failed, whatever their errno */
        return CLIENT_GONE;
    case SQLITE_READONLY: /* stat of the file failed: so SQLite takes a dead mount, too */
        return rc == SQLITE_READONLY_DBMOVED ? CLIENT_GONE : CLIENT_WRONG;
    default:
        return CLIENT_WRONG;
    }
}

static void die_of(sqlite3 *db, const char *what)
{
    int rc = sqlite3_extended_errcode(db);
    client_die(client_status_of(rc), "%s: %s (%d, errno %d)", what, sqlite3_errmsg(db), rc,
               sqlite3_system_errno(db));
}

void client_exec(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        die_of(db, sql);
}

sqlite3_stmt *client_prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
        die_of(db, sql);
    return st;
}

int64_t client_int(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *st = client_prepare(db, sql);
    int rc = sqlite3_step(st);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        die_of(db, sql);
    int64_t value = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    if (sqlite3_finalize(st) != SQLITE_OK)
        die_of(db, sql);
    return value;
}

static void set_pragma(sqlite3 *db, const char *name, const char *value)
{
    char *sql = sqlite3_mprintf("PRAGMA %s=%s", name, value);
    if (!sql)
        client_die(CLIENT_WRONG, "out of memory");
    client_exec(db, sql);
    sqlite3_free(sql);
}

static sqlite3 *open_with(const char *path, int flags, int busy_ms)
{
    sqlite3 *db = NULL;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | flags, NULL);
    if (rc != SQLITE_OK)
        client_die(client_status_of(rc), "%s: %s", path,
                   db ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
    sqlite3_busy_timeout(db, busy_ms);
    return db;
}

sqlite3 *client_create(const char *path)
{
    return open_with(path, SQLITE_OPEN_CREATE, 20000);
}

sqlite3 *client_open(const char *path, const char *mode, const char *sync, int busy_ms)
{
    sqlite3 *db = open_with(path, 0, busy_ms);
    if (mode) {
        set_pragma(db, "journal_mode", mode);
        sqlite3_stmt *st = client_prepare(db, "PRAGMA journal_mode");
        if (sqlite3_step(st) != SQLITE_ROW)
            die_of(db, "PRAGMA journal_mode");
        const char *got = (const char *)sqlite3_column_text(st, 0);
        if (!got || sqlite3_stricmp(got, mode) != 0)
            client_die(CLIENT_WRONG, "%s: journal mode is %s, not %s", path, got ? got : "?", mode);
        sqlite3_finalize(st);
    }
    if (sync)
        set_pragma(db, "synchronous", sync);
    return db;
}

int64_t client_number(const char *text)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end)
        client_die(CLIENT_WRONG, "not a number: %s", text);
    return v;
}

int64_t client_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void client_sleep_ms(int64_t ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&ts, &ts) != 0 && errno == EINTR && !client_stop)
        ;
}

static void on_stop(int sig)
{
    client_stop = sig;
}

/* A page of a mapped -shm or database that nobody can deliver any more. */
static void on_bus_error(int sig)
{
    static const char text[] = "SIGBUS\n";
    ssize_t unused = write(STDERR_FILENO, text, sizeof text - 1);
    (void)unused, (void)sig;
    _Exit(CLIENT_GONE);
}

void client_catch_stop(void)
{
    struct sigaction sa = {.sa_handler = on_stop};
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    sa.sa_handler = on_bus_error;
    sigaction(SIGBUS, &sa, NULL);
}

static uint32_t random_state = 2463534242u;

void client_seed(uint32_t seed)
{
    random_state = seed ? seed : 1;
}

uint32_t client_random(void) /* xorshift32 */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}
