/* A C program that uses libbuckethead as an installed library, without FUSE.
 * It is compiled by integration/library.sh against the installed header and pkg-config file, not by
 * meson. */
#include <buckethead.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "libuser.c:%d: not so: %s (%s)\n", __LINE__, #condition, err.text);    \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static struct bh_error err;
static const char *state, *url, *rules, *journal;

/* What the callbacks saw. They come on another thread. */
static struct {
    pthread_mutex_t mutex;
    int started, completed, failed;
    uint64_t bytes;
    double seconds;
    struct bh_error error;
} seen = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void on_start(void *arg)
{
    pthread_mutex_lock(&seen.mutex);
    seen.started++;
    pthread_mutex_unlock(&seen.mutex);
    (void)arg;
}

static void on_complete(void *arg, double seconds, uint64_t bytes)
{
    pthread_mutex_lock(&seen.mutex);
    seen.completed++;
    seen.bytes = bytes;
    seen.seconds = seconds;
    pthread_mutex_unlock(&seen.mutex);
    (void)arg;
}

static void on_error(void *arg, const struct bh_error *e)
{
    pthread_mutex_lock(&seen.mutex);
    seen.failed++;
    seen.error = *e;
    pthread_mutex_unlock(&seen.mutex);
    *(int *)arg = e->code;
}

static int completed(void)
{
    pthread_mutex_lock(&seen.mutex);
    int n = seen.completed;
    pthread_mutex_unlock(&seen.mutex);
    return n;
}

static void set_rules(const char *text)
{
    FILE *f = fopen(rules, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) {
        perror(rules);
        exit(1);
    }
}

static int from_callback;

/* Started, with its callbacks, and one more setting. */
static struct bh *begin(const char *setting)
{
    char dir[4096], fault[4096], mode[32];
    struct bh *b = NULL;
    snprintf(dir, sizeof dir, "live.dir=%s", state);
    snprintf(mode, sizeof mode, "live.journal=%s", journal);
    snprintf(fault, sizeof fault, "bucket.fault=@%s", rules);
    const char *settings[] = {dir,  fault,  "bucket.attempts=1", "snapshot.interval=0",
                              mode, setting};
    CHECK(bh_create_with(&b, NULL, url, settings, setting ? 6 : 5, &err) == 0);
    bh_set_callbacks(b, &(struct bh_callbacks){.arg = &from_callback,
                                               .on_flush_start = on_start,
                                               .on_flush_complete = on_complete,
                                               .on_flush_error = on_error});
    CHECK(bh_start(b, &err) == 0);
    return b;
}

static void run(sqlite3 *db, const char *sql)
{
    char *text = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK) {
        fprintf(stderr, "%s: %s\n", sql, text);
        exit(1);
    }
}

static int64_t number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW) {
        fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
        exit(1);
    }
    int64_t n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return n;
}

/* The journal mode of a connection is, in lower case, this. */
static void check_mode(sqlite3 *db, const char *mode)
{
    sqlite3_stmt *s = NULL;
    CHECK(sqlite3_prepare_v2(db, "PRAGMA journal_mode", -1, &s, NULL) == SQLITE_OK);
    CHECK(sqlite3_step(s) == SQLITE_ROW);
    CHECK(strcmp((const char *)sqlite3_column_text(s, 0), mode) == 0);
    sqlite3_finalize(s);
}

static void *writer(void *arg)
{
    struct bh *b = arg;
    struct bh_error e = {0};
    sqlite3 *db = NULL;
    if (bh_connect(b, &db, &e) != 0) {
        fprintf(stderr, "bh_connect: %s\n", e.text);
        exit(1);
    }
    sqlite3_busy_timeout(db, 60000);
    for (int i = 0; i < 200; i++)
        run(db, "BEGIN IMMEDIATE; UPDATE counter SET n = n + 1; COMMIT");
    sqlite3_close(db);
    return NULL;
}

static void mistakes(void)
{
    struct bh *b = NULL;
    CHECK(bh_create_from_config(&b, NULL, "gopher://nowhere", &err) == EINVAL);
    CHECK(strstr(err.text, "gopher"));
    const char *wrong[] = {"snapshot.intervall=5s"};
    CHECK(bh_create_with(&b, NULL, url, wrong, 1, &err) == EINVAL);
    CHECK(strstr(err.text, "intervall"));
    CHECK(bh_create_from_config(&b, "/nonexistent.ini", url, &err) == ENOENT);
    CHECK(strstr(err.text, "/nonexistent.ini"));
    CHECK(bh_create_from_config(&b, NULL, "file:///nonexistent/bucket", NULL) == 0);
    CHECK(bh_start(b, &err) == ENOENT);
    CHECK(strstr(err.text, "/nonexistent/bucket"));
    bh_destroy(b);
    bh_destroy(NULL);
}

static void not_started(void)
{
    struct bh *b = NULL;
    sqlite3 *db = NULL;
    struct bh_info info;
    CHECK(bh_create_from_config(&b, NULL, url, &err) == 0);
    CHECK(bh_connect(b, &db, &err) == EINVAL);
    CHECK(bh_connection(b) == NULL);
    CHECK(bh_force_flush(b, &err) != 0);
    bh_get_info(b, &info);
    CHECK(!info.started && info.flush_index == 0);
    CHECK(bh_stop(b, &err) == 0);
    bh_destroy(b);
}

static void write_and_flush(void)
{
    struct bh_info info;
    sqlite3 *db = NULL, *main_db;
    pthread_t threads[3];
    struct bh *b = begin(NULL), *second = NULL;

    CHECK(bh_start(b, &err) == EALREADY);
    char dir[4096];
    snprintf(dir, sizeof dir, "live.dir=%s", state);
    const char *settings[] = {dir};
    CHECK(bh_create_with(&second, NULL, url, settings, 1, &err) == 0);
    CHECK(bh_start(second, &err) == EBUSY);
    bh_destroy(second);

    CHECK(bh_connect(b, &db, &err) == 0);
    run(db, "CREATE TABLE counter(n); INSERT INTO counter VALUES(0)");
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, writer, b) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(number(db, "SELECT n FROM counter") == 600);
    main_db = bh_connection(b);
    CHECK(main_db != NULL);
    CHECK(number(main_db, "SELECT n FROM counter") == 600);
    check_mode(db, journal);
    check_mode(main_db, journal);

    CHECK(bh_force_flush(b, &err) == 0);
    CHECK(seen.started == 1 && seen.completed == 1 && seen.failed == 0 && seen.bytes > 0);
    bh_get_info(b, &info);
    CHECK(info.started && !info.stopped && info.flush_index == 1 && info.dirty_bytes == 0);
    CHECK(strcmp(info.branch, "main") == 0 && info.snapshot[0] && strlen(info.sha256) == 64);
    CHECK(info.last_flush_bytes > 0 && info.live_bytes > 0 && !info.last_error[0]);
    CHECK(info.last_flush_ms / 1000 >= (int64_t)time(NULL) - 60);

    CHECK(bh_flush(b, &err) == 0); /* nothing has changed */
    CHECK(seen.completed == 1 || (seen.completed == 2 && seen.bytes == 0));
    bh_get_info(b, &info);
    CHECK(info.flush_index == 1);

    run(db, "INSERT INTO counter VALUES(1)");
    CHECK(bh_stop(b, &err) == EBUSY); /* our connection is open */
    CHECK(number(db, "SELECT count(*) FROM counter") == 2);
    sqlite3_close(db);
    CHECK(bh_stop(b, &err) == 0);
    CHECK(bh_stop(b, &err) == 0);
    CHECK(bh_connection(b) == NULL);
    CHECK(bh_connect(b, &db, &err) == EINVAL);
    bh_get_info(b, &info);
    CHECK(info.stopped);
    bh_destroy(b);
}

/* The last flush fails: stop says so, and the next start goes on with what was not flushed. */
static void unflushed(void)
{
    struct bh_info info;
    int failed = seen.failed;
    struct bh *b = begin("snapshot.stop_timeout=2s");
    CHECK(number(bh_connection(b), "SELECT count(*) FROM counter") == 2);
    run(bh_connection(b), "INSERT INTO counter VALUES(2)");
    set_rules("put:eacces\n");
    CHECK(bh_force_flush(b, &err) == EACCES && err.code == EACCES && err.text[0]);
    CHECK(seen.failed == failed + 1 && from_callback == EACCES);
    CHECK(strcmp(seen.error.text, err.text) == 0);
    bh_get_info(b, &info);
    CHECK(strcmp(info.last_error, err.text) == 0 && info.dirty_bytes > 0);
    CHECK(bh_stop(b, &err) != 0 && err.text[0]);
    bh_destroy(b);

    set_rules("");
    b = begin(NULL);
    bh_get_info(b, &info);
    CHECK(strstr(info.recovered, "unflushed"));
    CHECK(number(bh_connection(b), "SELECT count(*) FROM counter") == 3);
    bh_destroy(b); /* without a stop: stops it */
}

/* The flush loop by itself, and promptly ended however long its interval. */
static void loop(void)
{
    int before = completed();
    struct bh *b = begin("snapshot.interval=200ms");
    run(bh_connection(b), "INSERT INTO counter VALUES(3)");
    for (int i = 0; i < 100 && completed() == before; i++)
        usleep(100000);
    CHECK(completed() > before);
    CHECK(bh_stop(b, &err) == 0);
    bh_destroy(b);

    b = begin("snapshot.interval=1h");
    time_t start = time(NULL);
    CHECK(bh_stop(b, &err) == 0);
    CHECK(time(NULL) - start <= 3);
    bh_destroy(b);
}

static void debounce(void)
{
    struct bh_info info;
    struct bh *b = begin("snapshot.min_interval=1h");
    run(bh_connection(b), "INSERT INTO counter VALUES(4)");
    CHECK(bh_flush(b, &err) == 0);
    run(bh_connection(b), "INSERT INTO counter VALUES(5)");
    CHECK(bh_flush(b, &err) == 0);
    bh_get_info(b, &info);
    CHECK(info.flush_index == 1 && info.dirty_bytes > 0);
    CHECK(bh_force_flush(b, &err) == 0);
    bh_get_info(b, &info);
    CHECK(info.flush_index == 2 && info.dirty_bytes == 0);
    CHECK(bh_stop(b, &err) == 0);
    bh_destroy(b);
}

/* Writers, readers and checkpoints, each with a connection and a thread of its own, and flushes. */
enum { WRITES = 300 };
static struct bh *shared;
static atomic_int writing;

static sqlite3 *connect_shared(void)
{
    struct bh_error e = {0};
    sqlite3 *db = NULL;
    if (bh_connect(shared, &db, &e) != 0) {
        fprintf(stderr, "bh_connect: %s\n", e.text);
        exit(1);
    }
    sqlite3_busy_timeout(db, 60000);
    return db;
}

static void *many_writer(void *unused)
{
    sqlite3 *db = connect_shared();
    for (int i = 0; i < WRITES; i++) {
        if (i % 50 == 49) {
            sqlite3_close(db);
            db = connect_shared();
        }
        run(db, "BEGIN IMMEDIATE; UPDATE many SET n = n + 1; COMMIT");
    }
    sqlite3_close(db);
    writing--;
    return unused;
}

static void *many_reader(void *unused)
{
    int64_t last = 0;
    sqlite3 *db = connect_shared();
    while (writing > 0) {
        run(db, "BEGIN");
        int64_t n = number(db, "SELECT n FROM many");
        usleep(2000);
        if (n < last || number(db, "SELECT n FROM many") != n) {
            fprintf(stderr, "a reader saw %lld after %lld\n", (long long)n, (long long)last);
            exit(1);
        }
        run(db, "COMMIT");
        last = n;
    }
    sqlite3_close(db);
    return unused;
}

static void *many_checkpoints(void *unused)
{
    sqlite3 *db = connect_shared();
    sqlite3_busy_timeout(db, 20);
    for (int i = 0; writing > 0; i++) {
        int mode = i % 4, rc = sqlite3_wal_checkpoint_v2(db, NULL, mode, NULL, NULL);
        if (rc != SQLITE_OK && rc != SQLITE_BUSY && rc != SQLITE_LOCKED) {
            fprintf(stderr, "checkpoint %d: %s\n", mode, sqlite3_errmsg(db));
            exit(1);
        }
        usleep(5000);
    }
    sqlite3_close(db);
    return unused;
}

static void many(void)
{
    static void *(*const all[])(void *) = {many_writer, many_writer, many_writer,
                                           many_reader, many_reader, many_checkpoints};
    enum { COUNT = sizeof all / sizeof all[0] };
    pthread_t threads[COUNT];
    struct bh_info info;
    shared = begin(NULL);
    check_mode(bh_connection(shared), journal);
    run(bh_connection(shared), "CREATE TABLE many(n); INSERT INTO many VALUES(0)");
    writing = 3;
    for (int i = 0; i < COUNT; i++)
        CHECK(pthread_create(&threads[i], NULL, all[i], NULL) == 0);
    while (writing > 0)
        CHECK(bh_force_flush(shared, &err) == 0);
    for (int i = 0; i < COUNT; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(number(bh_connection(shared), "SELECT n FROM many") == 3 * WRITES);
    check_mode(bh_connection(shared), journal);
    CHECK(bh_force_flush(shared, &err) == 0);
    bh_get_info(shared, &info);
    CHECK(info.dirty_bytes == 0);
    run(bh_connection(shared), "DROP TABLE many");
    CHECK(bh_stop(shared, &err) == 0);
    bh_destroy(shared);
}

static void import(const char *path)
{
    struct bh *b = begin(NULL);
    CHECK(bh_import(b, "/nonexistent.db", &err) == ENOENT);
    CHECK(number(bh_connection(b), "SELECT count(*) FROM counter") == 6);
    CHECK(bh_import(b, path, &err) == 0);
    CHECK(number(bh_connection(b), "SELECT count(*) FROM imported") == 1000);
    check_mode(bh_connection(b), journal);
    CHECK(bh_stop(b, &err) == 0);
    bh_destroy(b);
}

static void signals(void)
{
    struct bh *b = begin(NULL), *other = NULL;
    CHECK(bh_create_from_config(&other, NULL, url, &err) == 0);
    CHECK(bh_install_signal_handlers(b, &err) == 0);
    CHECK(bh_install_signal_handlers(other, &err) == EBUSY);
    bh_destroy(other);
    run(bh_connection(b), "INSERT INTO imported VALUES(-1)");
    kill(getpid(), SIGTERM);
    CHECK(bh_wait_for_signal(b) == SIGTERM);
    kill(getpid(), SIGINT);
    CHECK(bh_wait_for_signal(b) == SIGINT);
    /* a normal exit stops b: the row above is in the bucket then */
    printf("ok\n");
    exit(0);
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr,
                "usage: libuser STATE-DIRECTORY BUCKET-URL RULES-FILE IMPORT-FILE JOURNAL-MODE\n");
        return 2;
    }
    state = argv[1];
    url = argv[2];
    rules = argv[3];
    journal = argv[5];
    set_rules("");
    mistakes();
    not_started();
    write_and_flush();
    unflushed();
    loop();
    debounce();
    many();
    import(argv[4]);
    signals();
    return 1;
}
