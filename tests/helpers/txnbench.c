/* txnbench: what a transaction costs an ordinary client of SQLite, on several databases in turn
 * within one run, so that their ratio does not depend on what else the machine does at the time.
 *
 *   txnbench -C [-m MB] DB      makes the tables: t(id, v), 1000 rows; with -m big(id, x) of MB MiB
 *   txnbench -t TEST [options] LABEL=DB...
 *     TEST  DELETE TRUNCATE PERSIST MEMORY OFF WAL
 *                       UPDATE of one row, a transaction each, in that journal mode
 *           read        SELECT of one row, in the mode that the database is in
 *           read-wal    the same in WAL mode
 *           checkpoint  wal_checkpoint(PASSIVE) of 1,000 frames; to write them is not counted
 *           checkpoint-truncate    the same with TRUNCATE
 *           scan        reads all of big
 *           cold        the same with a new connection after the page cache was dropped
 *     -n N  transactions a round and client (200)      -r R  rounds (5), the databases take turns
 *     -w N  not counted, before each round (50)        -c N  clients at once, processes (1)
 *     -d S  a round lasts S seconds instead of -n      -s SYNC  synchronous (FULL)
 *     -p MS each client sleeps so long after each transaction (0)
 *     -b MS busy timeout (30000)                       -e FILE  for cold: drop this file too
 *
 * A database whose mode was changed is in DELETE mode afterwards.
 * Prints a line a database, in microseconds:
 *   TEST LABEL median=US mean=US p99=US p999=US min=US max=US count=N persec=N */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 1000, FRAMES = 1000, MAX_SAMPLES = 1 << 20, MAX_CLIENTS = 16, MAX_TARGETS = 4 };

enum kind { WRITE, READ, CHECKPOINT, CHECKPOINT_TRUNCATE, SCAN, COLD };

struct options {
    const char *test, *sync, *evict;
    const char *mode; /* the journal mode to set, NULL: as it is */
    enum kind kind;
    int64_t n, rounds, warmup, clients, seconds, pause_ms;
    int busy_ms;
};

/* What one client measured, in memory that parent and child share. */
struct samples {
    int64_t count;
    float us[MAX_SAMPLES];
};

struct target {
    const char *label, *path;
    struct samples *of_client; /* MAX_CLIENTS of them, pages untouched cost nothing */
    int64_t wall_ns;
    sqlite3 *db; /* open all the time when there is one client */
    sqlite3_stmt *st;
};

static void create(const char *path, int64_t mb)
{
    sqlite3 *db = client_create(path);
    client_exec(db,
                "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v INTEGER);"
                "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM s WHERE i < 1000)"
                " INSERT OR IGNORE INTO t SELECT i, 0 FROM s; COMMIT");
    if (mb > 0) {
        char *sql = sqlite3_mprintf(
            "BEGIN IMMEDIATE; DROP TABLE IF EXISTS big; CREATE TABLE big(id INTEGER PRIMARY KEY, x "
            "BLOB);"
            "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM s WHERE i < %lld)"
            " INSERT INTO big SELECT i, randomblob(990) FROM s; COMMIT",
            (long long)mb * 1024);
        client_exec(db, sql);
        sqlite3_free(sql);
    }
    if (sqlite3_close(db) != SQLITE_OK)
        client_die(CLIENT_WRONG, "close: %s", sqlite3_errmsg(db));
}

static void drop_cache(const char *path)
{
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    fsync(fd); /* dirty pages would stay */
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static bool is_checkpoint(const struct options *o)
{
    return o->kind == CHECKPOINT || o->kind == CHECKPOINT_TRUNCATE;
}

/* A table of FRAMES rows, each a page of its own. */
static void make_frames(sqlite3 *db)
{
    client_exec(db, "PRAGMA wal_autocheckpoint=0;"
                    "CREATE TABLE IF NOT EXISTS frames(id INTEGER PRIMARY KEY, x BLOB);"
                    "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM s WHERE i < 1000)"
                    " INSERT OR IGNORE INTO frames SELECT i, randomblob(3000) FROM s;"
                    "PRAGMA wal_checkpoint(TRUNCATE)");
}

static void open_target(struct target *t, const struct options *o)
{
    static const char *const sql[] = {
        [WRITE] = "UPDATE t SET v = v + 1 WHERE id = ?1",
        [READ] = "SELECT v FROM t WHERE id = ?1",
        [CHECKPOINT] = "PRAGMA wal_checkpoint(PASSIVE)",
        [CHECKPOINT_TRUNCATE] = "PRAGMA wal_checkpoint(TRUNCATE)",
        [SCAN] = "SELECT sum(length(x)), count(?1) FROM big WHERE substr(x, 900, 1) IS NOT NULL",
    };
    t->db = client_open(t->path, o->mode, o->sync, o->busy_ms);
    if (is_checkpoint(o))
        make_frames(t->db);
    t->st = client_prepare(t->db, sql[o->kind == COLD ? SCAN : o->kind]);
}

static void close_target(struct target *t, const struct options *o)
{
    sqlite3_finalize(t->st);
    /* A journal that PERSIST left behind would cost every later transaction a look into it. */
    if (o->mode && o->clients == 1)
        client_exec(t->db, "PRAGMA journal_mode=DELETE");
    if (sqlite3_close(t->db) != SQLITE_OK)
        client_die(CLIENT_WRONG, "%s: close: %s", t->path, sqlite3_errmsg(t->db));
    t->db = NULL;
}

/* What a checkpoint answers: whether it had to stop, the frames in the WAL, those copied. */
static void check_checkpoint(const struct target *t, const struct options *o)
{
    int busy = sqlite3_column_int(t->st, 0), frames = sqlite3_column_int(t->st, 1),
        copied = sqlite3_column_int(t->st, 2);
    bool whole = o->kind == CHECKPOINT ? frames == FRAMES && copied == FRAMES : frames == 0;
    if (busy || !whole)
        client_die(CLIENT_WRONG, "%s: the checkpoint says %d|%d|%d", t->path, busy, frames, copied);
}

static int64_t one_transaction(struct target *t, const struct options *o)
{
    int rc;
    if (o->kind == COLD) {
        drop_cache(t->path);
        drop_cache(o->evict);
    }
    if (is_checkpoint(o))
        client_exec(t->db, "UPDATE frames SET x = randomblob(3000)");
    int64_t start = client_now_ns();
    if (o->kind == COLD)
        open_target(t, o);
    if (!is_checkpoint(o))
        sqlite3_bind_int64(t->st, 1, 1 + client_random() % ROWS);
    while ((rc = sqlite3_step(t->st)) == SQLITE_ROW)
        if (is_checkpoint(o))
            check_checkpoint(t, o);
    if (rc == SQLITE_DONE)
        rc = sqlite3_reset(t->st);
    int64_t took = client_now_ns() - start;
    if (rc != SQLITE_OK)
        client_die(client_status_of(rc), "%s: %s", t->path, sqlite3_errmsg(t->db));
    if (o->kind == COLD)
        close_target(t, o);
    return took;
}

static void measure(struct target *t, const struct options *o, struct samples *s)
{
    int64_t end = client_now_ns() + o->seconds * 1000000000;
    for (int64_t i = -o->warmup; o->seconds ? client_now_ns() < end : i < o->n; i++) {
        int64_t took = one_transaction(t, o);
        if (i >= 0 && s->count < MAX_SAMPLES)
            s->us[s->count++] = (float)took / 1000;
        if (o->pause_ms)
            client_sleep_ms(o->pause_ms);
    }
}

static void round_of_many(struct target *t, const struct options *o)
{
    pid_t pids[MAX_CLIENTS];
    for (int64_t i = 0; i < o->clients; i++) {
        pids[i] = fork();
        if (pids[i] < 0)
            client_die(CLIENT_WRONG, "fork: %s", strerror(errno));
        if (pids[i] > 0)
            continue;
        client_seed((uint32_t)getpid() * 2654435761u);
        open_target(t, o);
        measure(t, o, &t->of_client[i]);
        close_target(t, o);
        _Exit(0);
    }
    int bad = 0;
    for (int64_t i = 0; i < o->clients; i++) {
        int status = 0;
        waitpid(pids[i], &status, 0);
        if (status != 0)
            bad = WIFEXITED(status) ? WEXITSTATUS(status) : CLIENT_WRONG;
    }
    if (bad)
        client_die((enum client_status)bad, "%s: a client failed", t->path);
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(const struct target *t, const struct options *o)
{
    size_t count = 0, at = 0;
    double sum = 0;
    for (int64_t i = 0; i < o->clients; i++)
        count += (size_t)t->of_client[i].count;
    float *all = malloc((count ? count : 1) * sizeof *all);
    if (!all || !count)
        client_die(CLIENT_WRONG, "%s: nothing was measured", t->label);
    for (int64_t i = 0; i < o->clients; i++) {
        memcpy(all + at, t->of_client[i].us, (size_t)t->of_client[i].count * sizeof *all);
        at += (size_t)t->of_client[i].count;
    }
    int64_t warmed =
        o->seconds ? 0 : o->warmup * o->rounds * o->clients; /* in the wall time, too */
    qsort(all, count, sizeof *all, compare);
    for (size_t i = 0; i < count; i++)
        sum += (double)all[i];
    printf(
        "%s %s median=%.1f mean=%.1f p99=%.1f p999=%.1f min=%.1f max=%.1f count=%zu persec=%.0f\n",
        o->test, t->label, (double)all[count / 2], sum / (double)count,
        (double)all[count * 99 / 100], (double)all[count * 999 / 1000], (double)all[0],
        (double)all[count - 1], count, ((double)count + (double)warmed) * 1e9 / (double)t->wall_ns);
    free(all);
}

static void parse_test(struct options *o, const char *test)
{
    static const char *const modes[] = {"DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"};
    static const struct {
        const char *name;
        enum kind kind;
        const char *mode;
    } others[] = {{"read", READ, NULL},
                  {"read-wal", READ, "WAL"},
                  {"checkpoint", CHECKPOINT, "WAL"},
                  {"checkpoint-truncate", CHECKPOINT_TRUNCATE, "WAL"},
                  {"scan", SCAN, NULL},
                  {"cold", COLD, NULL}};
    o->test = test;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(test, modes[i]) == 0) {
            o->kind = WRITE;
            o->mode = test;
            return;
        }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strcmp(test, others[i].name) == 0) {
            o->kind = others[i].kind;
            o->mode = others[i].mode;
            return;
        }
    client_die(CLIENT_WRONG, "no such test: %s", test);
}

/* Several clients find the database in their mode and leave it there: where they all changed it at
 * once, SQLite would tell some of them that it is locked. */
static void set_mode(const struct target *t, const char *mode, const struct options *o)
{
    if (o->mode && o->clients > 1 &&
        sqlite3_close(client_open(t->path, mode, NULL, o->busy_ms)) != SQLITE_OK)
        client_die(CLIENT_WRONG, "%s: close", t->path);
}

static void run_all(struct target *targets, int count, const struct options *o)
{
    bool keep_open = o->clients == 1 && o->kind != COLD;
    for (int i = 0; i < count; i++) {
        set_mode(&targets[i], o->mode, o);
        if (keep_open)
            open_target(&targets[i], o);
    }
    for (int64_t r = 0; r < o->rounds; r++)
        for (int i = 0; i < count; i++) {
            int64_t start = client_now_ns();
            if (o->clients > 1)
                round_of_many(&targets[i], o);
            else
                measure(&targets[i], o, targets[i].of_client);
            targets[i].wall_ns += client_now_ns() - start;
        }
    for (int i = 0; i < count; i++) {
        if (keep_open)
            close_target(&targets[i], o);
        set_mode(&targets[i], "DELETE", o);
        report(&targets[i], o);
    }
}

int main(int argc, char **argv)
{
    struct options o = {
        .sync = "FULL", .n = 200, .rounds = 5, .warmup = 50, .clients = 1, .busy_ms = 30000};
    struct target targets[MAX_TARGETS] = {{0}};
    bool make = false;
    int64_t mb = 0;
    int opt, count = 0;
    while ((opt = getopt(argc, argv, "Cm:t:n:r:w:c:d:s:p:b:e:")) != -1) {
        switch (opt) {
        case 'C':
            make = true;
            break;
        case 'm':
            mb = client_number(optarg);
            break;
        case 't':
            parse_test(&o, optarg);
            break;
        case 'n':
            o.n = client_number(optarg);
            break;
        case 'r':
            o.rounds = client_number(optarg);
            break;
        case 'w':
            o.warmup = client_number(optarg);
            break;
        case 'c':
            o.clients = client_number(optarg);
            break;
        case 'd':
            o.seconds = client_number(optarg);
            break;
        case 's':
            o.sync = optarg;
            break;
        case 'p':
            o.pause_ms = client_number(optarg);
            break;
        case 'b':
            o.busy_ms = (int)client_number(optarg);
            break;
        case 'e':
            o.evict = optarg;
            break;
        default:
            client_die(CLIENT_WRONG, "usage: see the head of txnbench.c");
        }
    }
    if (make && optind == argc - 1) {
        create(argv[optind], mb);
        return 0;
    }
    if (!o.test || optind == argc || argc - optind > MAX_TARGETS || o.clients < 1 ||
        o.clients > MAX_CLIENTS)
        client_die(CLIENT_WRONG, "usage: txnbench -t TEST [options] LABEL=DB... (at most %d)",
                   MAX_TARGETS);
    for (; optind < argc; optind++, count++) {
        char *equals = strchr(argv[optind], '=');
        if (!equals)
            client_die(CLIENT_WRONG, "not LABEL=DB: %s", argv[optind]);
        *equals = 0;
        targets[count] = (struct target){.label = argv[optind], .path = equals + 1};
        targets[count].of_client =
            mmap(NULL, sizeof(struct samples) * (size_t)o.clients, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (targets[count].of_client == MAP_FAILED)
            client_die(CLIENT_WRONG, "mmap: %s", strerror(errno));
    }
    run_all(targets, count, &o);
    return 0;
}
