/* bhfs-testd: the mount daemon with a test door. If BHFS_TEST_SOCKET is set it listens on that unix socket; one command a
 * line, one line in answer:
 *   run N SQL     the SQL thread runs SQL N times, each its own transaction    -> ok SECONDS | error CODE TEXT
 *   query SQL     the first column of the first row                           -> ok VALUE   | error CODE TEXT
 *   own N SQL     SQL N times on a connection of its own (bh_connect);
 *                 the first column of the last row                            -> ok VALUE   | error CODE TEXT
 * Each connection has a thread of its own. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon.h"
#include "util/clock.h"

static struct bh *database;
static int listener = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;
static unsigned working;
static bool stopping;

struct query {
    const char *sql;
    char value[4096];
};

static int run_sql(sqlite3 *db, void *arg, struct bh_error *err)
{
    if (sqlite3_exec(db, ((struct query *)arg)->sql, NULL, NULL, NULL) != SQLITE_OK)
        return bh_sqlite_fail(db, err, "run");
    return 0;
}

static int read_sql(sqlite3 *db, void *arg, struct bh_error *err)
{
    struct query *q = arg;
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, q->sql, -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        snprintf(q->value, sizeof q->value, "%s", (const char *)sqlite3_column_text(st, 0));
    else if (rc != SQLITE_DONE) {
        int code = bh_sqlite_fail(db, err, "query");
        sqlite3_finalize(st);
        return code;
    }
    sqlite3_finalize(st);
    return 0;
}

static int keep_value(void *arg, int columns, char **values, char **names)
{
    struct query *q = arg;
    if (columns > 0)
        snprintf(q->value, sizeof q->value, "%s", values[0] ? values[0] : "");
    (void)names;
    return 0;
}

/* As a C program that links the library does it, beside the mount's clients. */
static int run_own(long n, struct query *q, struct bh_error *err)
{
    sqlite3 *db = NULL;
    int rc = bh_connect(database, &db, err);
    if (rc)
        return rc;
    sqlite3_busy_timeout(db, 60000);
    for (long i = 0; i < n && rc == 0; i++)
        if (sqlite3_exec(db, q->sql, keep_value, q, NULL) != SQLITE_OK)
            rc = bh_sqlite_fail(db, err, "own");
    if (sqlite3_close(db) != SQLITE_OK && rc == 0)
        rc = bh_fail(err, EBUSY, "close");
    return rc;
}

static void handle(FILE *out, char *line)
{
    struct bh_sql *sql = bh_live_of(database)->sql;
    struct bh_error err = {0};
    struct query q = {0};
    char *end;
    int rc = 0;
    if (!strncmp(line, "run ", 4)) {
        long n = strtol(line + 4, &end, 10);
        int64_t begin = bh_mono_ns();
        q.sql = end + (*end == ' ');
        for (long i = 0; i < n && rc == 0; i++)
            rc = bh_sql_run(sql, BH_SQL_WRITE, run_sql, &q, &err);
        if (rc == 0)
            fprintf(out, "ok %.6f\n", (double)(bh_mono_ns() - begin) / 1e9);
    } else if (!strncmp(line, "own ", 4)) {
        long n = strtol(line + 4, &end, 10);
        q.sql = end + (*end == ' ');
        rc = run_own(n, &q, &err);
        if (rc == 0)
            fprintf(out, "ok %s\n", q.value);
    } else if (!strncmp(line, "query ", 6)) {
        q.sql = line + 6;
        rc = bh_sql_run(sql, BH_SQL_READ, read_sql, &q, &err);
        if (rc == 0)
            fprintf(out, "ok %s\n", q.value);
    } else {
        rc = bh_fail(&err, EINVAL, "no such command");
    }
    if (rc)
        fprintf(out, "error %d %s\n", rc, err.text);
    fflush(out);
}

static void *connection_main(void *arg)
{
    FILE *f = fdopen((int)(intptr_t)arg, "r+");
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while (f && (n = getline(&line, &cap, f)) > 0) {
        line[strcspn(line, "\n")] = '\0';
        pthread_mutex_lock(&mutex);
        bool go_on = !stopping;
        working += go_on;
        pthread_mutex_unlock(&mutex);
        if (!go_on)
            break;
        handle(f, line);
        pthread_mutex_lock(&mutex);
        working--;
        pthread_cond_signal(&idle);
        pthread_mutex_unlock(&mutex);
    }
    free(line);
    if (f)
        fclose(f);
    return NULL;
}

static void *listener_main(void *arg)
{
    (void)arg;
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, connection_main, (void *)(intptr_t)fd) == 0)
            pthread_detach(thread);
        else
            close(fd);
    }
    return NULL;
}

static int started(struct bh *b)
{
    const char *path = getenv("BHFS_TEST_SOCKET");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    pthread_t thread;
    database = b;
    if (!path)
        return 0;
    if (strlen(path) >= sizeof addr.sun_path)
        return ENAMETOOLONG;
    strcpy(addr.sun_path, path);
    unlink(path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof addr) || listen(listener, 16))
        return errno;
    int rc = pthread_create(&thread, NULL, listener_main, NULL);
    if (rc == 0)
        pthread_detach(thread);
    return rc;
}

static void wait_idle(void)
{
    if (listener >= 0)
        shutdown(listener, SHUT_RDWR);
    pthread_mutex_lock(&mutex);
    stopping = true;
    while (working > 0)
        pthread_cond_wait(&idle, &mutex);
    pthread_mutex_unlock(&mutex);
}

int main(int argc, char **argv)
{
    static const struct bhfs_extension extension = {.started = started, .stopping = wait_idle};
    return bhfs_main(argc, argv, &extension);
}
