/* counter: increments the one number of a database, each time in a transaction of its own, as an
 * ordinary client of SQLite does. What was acknowledged can be recorded in a file outside, so that
 * a test that kills something knows which transactions must be found again.
 *
 *   counter -C DB           makes the tables: c(n), one row, and log(client, seq, n, pad)
 *   counter [options] DB    N times: BEGIN IMMEDIATE; UPDATE c SET n = n + 1; [INSERT INTO log];
 *                           COMMIT
 *
 *   -n N      how often (1000)
 *   -j MODE   journal mode
 *   -J MODES  one of these ("WAL,DELETE,...") by chance at each opening; where others have the
 *             database open in another mode the change may be refused, and it goes on all the same
 *   -S SEED   for these chances (the pid)
 *   -s SYNC   synchronous (FULL)
 *   -x SQL    run this after each opening
 *   -b MS     busy timeout (20000)
 *   -k K      close and reopen the database after every K increments
 *   -W MS     be closed for up to so long then
 *   -r MS     before each increment, hold a read transaction for so long, and look that nothing
 *             changes in it
 *   -i ID     also insert (ID, seq, n) into log
 *   -q SEQ    the first seq (1)
 *   -p BYTES  size of the pad in log (0)
 *   -a FILE   append "ID SEQ N" to FILE after each COMMIT
 *   -f        fsync FILE after each line
 *   -w MS     sleep so long after each increment
 *
 * Prints "done=N busy=B last=VALUE", with -J also "switched=S refused=R": how often a change went
 * into or out of WAL, and how often one was refused. With a busy timeout of 0, "database is locked"
 * is counted and the increment tried again at most 1000 times; exit status 2 if there was any. Else
 * see client.h.
 */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct options {
    const char *path, *mode, *modes, *sync, *set_up, *ack_path;
    int64_t n, reopen, closed_ms, read_ms, id, seq, pad, wait_ms;
    int busy_ms;
    bool sync_ack;
};

struct client {
    const struct options *opt;
    sqlite3 *db;
    sqlite3_stmt *begin, *update, *insert, *commit, *read;
    int ack_fd;
    int64_t done, busy, last, switched, refused;
};

static void create(const char *path)
{
    sqlite3 *db = client_create(path);
    client_exec(db,
                "BEGIN IMMEDIATE;"
                "CREATE TABLE IF NOT EXISTS c(n INTEGER NOT NULL);"
                "INSERT INTO c SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM c);"
                "CREATE TABLE IF NOT EXISTS log(client INTEGER, seq INTEGER, n INTEGER, pad BLOB,"
                " PRIMARY KEY(client, seq)) WITHOUT ROWID;"
                "COMMIT");
    if (sqlite3_close(db) != SQLITE_OK)
        client_die(CLIENT_WRONG, "close: %s", sqlite3_errmsg(db));
}

/* Runs a statement to its end; the first column of its row, if it has one, goes to *value. Returns
 * SQLITE_OK, SQLITE_BUSY, or dies. */
static int run(struct client *c, sqlite3_stmt *st, int64_t *value)
{
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW)
        if (value)
            *value = sqlite3_column_int64(st, 0);
    if (rc != SQLITE_DONE && client_status_of(rc) != CLIENT_BUSY) {
        int code = sqlite3_extended_errcode(c->db);
        client_die(client_status_of(code), "after %lld increments: %s: %s (%d, errno %d)",
                   (long long)c->done, sqlite3_sql(st), sqlite3_errmsg(c->db), code,
                   sqlite3_system_errno(c->db));
    }
    sqlite3_reset(st);
    return rc == SQLITE_DONE ? SQLITE_OK : SQLITE_BUSY;
}

/* One of the modes of a list with commas, by chance. */
static void choose(const char *modes, char *mode, size_t size)
{
    size_t count = 1;
    for (const char *p = modes; *p; p++)
        count += *p == ',';
    for (size_t skip = client_random() % count; skip > 0; skip--)
        modes = strchr(modes, ',') + 1;
    snprintf(mode, size, "%.*s", (int)strcspn(modes, ","), modes);
}

/* Runs PRAGMA journal_mode, with a value or without; the mode in force then goes to got. Returns
 * SQLITE_OK, SQLITE_BUSY, or dies. */
static int journal_mode(sqlite3 *db, const char *value, char *got, size_t size)
{
    char sql[64];
    sqlite3_stmt *st = NULL;
    snprintf(sql, sizeof sql, "PRAGMA journal_mode%s%s", value ? "=" : "", value ? value : "");
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        snprintf(got, size, "%s", (const char *)sqlite3_column_text(st, 0));
    else if (client_status_of(rc) != CLIENT_BUSY)
        client_die(client_status_of(sqlite3_extended_errcode(db)), "%s: %s (%d, errno %d)", sql,
                   sqlite3_errmsg(db), sqlite3_extended_errcode(db), sqlite3_system_errno(db));
    sqlite3_finalize(st);
    return rc == SQLITE_ROW ? SQLITE_OK : SQLITE_BUSY;
}

static void change_mode(struct client *c)
{
    char before[16], wanted[16], after[16];
    choose(c->opt->modes, wanted, sizeof wanted);
    if (journal_mode(c->db, NULL, before, sizeof before) != SQLITE_OK ||
        journal_mode(c->db, wanted, after, sizeof after) != SQLITE_OK ||
        sqlite3_stricmp(wanted, after) != 0)
        c->refused++;
    else if (sqlite3_stricmp(before, "wal") == 0 || sqlite3_stricmp(after, "wal") == 0)
        c->switched += sqlite3_stricmp(before, after) != 0;
}

static void open_client(struct client *c)
{
    const struct options *o = c->opt;
    c->db = client_open(o->path, o->mode, o->sync, o->busy_ms);
    if (o->modes)
        change_mode(c);
    if (o->set_up)
        client_exec(c->db, o->set_up);
    c->begin = client_prepare(c->db, "BEGIN IMMEDIATE");
    c->commit = client_prepare(c->db, "COMMIT");
}

/* Statements that read the schema are compiled when they are first needed: with a busy timeout of 0
 * that may be refused like any other read, and is counted then. */
static int prepare_rest(struct client *c)
{
    static const char update[] = "UPDATE c SET n = n + 1 RETURNING n";
    static const char insert[] = "INSERT INTO log VALUES(?1, ?2, ?3, randomblob(?4))";
    static const char read[] = "SELECT n FROM c";
    struct {
        sqlite3_stmt **st;
        const char *sql;
        bool wanted;
    } all[] = {{&c->update, update, true},
               {&c->insert, insert, c->opt->id > 0},
               {&c->read, read, c->opt->read_ms > 0}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (*all[i].st || !all[i].wanted)
            continue;
        int rc = sqlite3_prepare_v2(c->db, all[i].sql, -1, all[i].st, NULL);
        if (client_status_of(rc) == CLIENT_BUSY)
            return SQLITE_BUSY;
        if (rc != SQLITE_OK)
            client_die(client_status_of(rc), "%s: %s", all[i].sql, sqlite3_errmsg(c->db));
    }
    return SQLITE_OK;
}

static void close_client(struct client *c)
{
    sqlite3_stmt **all[] = {&c->begin, &c->update, &c->insert, &c->commit, &c->read};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        sqlite3_finalize(*all[i]);
        *all[i] = NULL;
    }
    int rc = sqlite3_close(c->db);
    if (rc != SQLITE_OK)
        client_die(CLIENT_WRONG, "close: %s", sqlite3_errstr(rc));
    c->db = NULL;
}

/* A read transaction sees one state, however long it lasts. */
static int hold_read(struct client *c)
{
    int64_t before = -1, after = -1;
    client_exec(c->db, "BEGIN");
    int rc = run(c, c->read, &before);
    if (rc == SQLITE_OK) {
        client_sleep_ms(c->opt->read_ms);
        rc = run(c, c->read, &after);
        if (rc == SQLITE_OK && before != after)
            client_die(CLIENT_WRONG, "a read transaction saw %lld, then %lld", (long long)before,
                       (long long)after);
    }
    client_exec(c->db, "ROLLBACK");
    return rc;
}

static void acknowledge(struct client *c, int64_t seq)
{
    char line[96];
    if (c->ack_fd < 0)
        return;
    int len = snprintf(line, sizeof line, "%lld %lld %lld\n", (long long)c->opt->id, (long long)seq,
                       (long long)c->last);
    if (write(c->ack_fd, line, (size_t)len) != len || (c->opt->sync_ack && fsync(c->ack_fd) != 0))
        client_die(CLIENT_WRONG, "%s: %s", c->opt->ack_path, strerror(errno));
}

static int increment(struct client *c, int64_t seq)
{
    int64_t value = -1;
    int rc = prepare_rest(c);
    if (rc == SQLITE_OK && c->opt->read_ms > 0)
        rc = hold_read(c);
    if (rc == SQLITE_OK)
        rc = run(c, c->begin, NULL);
    if (rc != SQLITE_OK)
        return rc;
    rc = run(c, c->update, &value);
    if (rc == SQLITE_OK && c->insert) {
        sqlite3_bind_int64(c->insert, 1, c->opt->id);
        sqlite3_bind_int64(c->insert, 2, seq);
        sqlite3_bind_int64(c->insert, 3, value);
        sqlite3_bind_int64(c->insert, 4, c->opt->pad);
        rc = run(c, c->insert, NULL);
    }
    if (rc == SQLITE_OK)
        rc = run(c, c->commit, NULL);
    if (rc != SQLITE_OK) {
        if (!sqlite3_get_autocommit(c->db))
            client_exec(c->db, "ROLLBACK");
        return rc;
    }
    c->last = value;
    acknowledge(c, seq);
    return SQLITE_OK;
}

static void increment_all(struct client *c)
{
    const struct options *o = c->opt;
    int tries = 0;
    open_client(c);
    while (c->done < o->n && !client_stop) {
        if (increment(c, o->seq + c->done) != SQLITE_OK) {
            c->busy++;
            if (o->busy_ms > 0 || ++tries == 1000)
                break;
            continue;
        }
        tries = 0;
        c->done++;
        if (o->wait_ms > 0)
            client_sleep_ms(o->wait_ms);
        if (o->reopen > 0 && c->done % o->reopen == 0 && c->done < o->n) {
            close_client(c);
            if (o->closed_ms > 0)
                client_sleep_ms(client_random() % (o->closed_ms + 1));
            open_client(c);
        }
    }
    close_client(c);
}

int main(int argc, char **argv)
{
    struct options o = {.n = 1000, .sync = "FULL", .busy_ms = 20000, .seq = 1};
    int64_t seed = getpid();
    int opt;
    while ((opt = getopt(argc, argv, "Cn:j:J:S:s:x:b:k:W:r:i:q:p:a:fw:")) != -1) {
        switch (opt) {
        case 'C':
            if (optind != argc - 1)
                client_die(CLIENT_WRONG, "usage: counter -C DB");
            create(argv[optind]);
            return 0;
        case 'n':
            o.n = client_number(optarg);
            break;
        case 'j':
            o.mode = optarg;
            break;
        case 'J':
            o.modes = optarg;
            break;
        case 'S':
            seed = client_number(optarg);
            break;
        case 's':
            o.sync = optarg;
            break;
        case 'x':
            o.set_up = optarg;
            break;
        case 'b':
            o.busy_ms = (int)client_number(optarg);
            break;
        case 'k':
            o.reopen = client_number(optarg);
            break;
        case 'W':
            o.closed_ms = client_number(optarg);
            break;
        case 'r':
            o.read_ms = client_number(optarg);
            break;
        case 'i':
            o.id = client_number(optarg);
            break;
        case 'q':
            o.seq = client_number(optarg);
            break;
        case 'p':
            o.pad = client_number(optarg);
            break;
        case 'a':
            o.ack_path = optarg;
            break;
        case 'f':
            o.sync_ack = true;
            break;
        case 'w':
            o.wait_ms = client_number(optarg);
            break;
        default:
            client_die(CLIENT_WRONG, "usage: see the head of counter.c");
        }
    }
    if (optind != argc - 1)
        client_die(CLIENT_WRONG, "usage: counter [options] DB");
    o.path = argv[optind];
    struct client c = {.opt = &o, .ack_fd = -1, .last = -1};
    if (o.ack_path &&
        (c.ack_fd = open(o.ack_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0)
        client_die(CLIENT_WRONG, "%s: %s", o.ack_path, strerror(errno));
    client_seed((uint32_t)seed * 2654435761u); /* neighbouring seeds, different chances */
    client_catch_stop();
    increment_all(&c);
    printf("done=%lld busy=%lld last=%lld", (long long)c.done, (long long)c.busy,
           (long long)c.last);
    if (o.modes)
        printf(" switched=%lld refused=%lld", (long long)c.switched, (long long)c.refused);
    putchar('\n');
    return c.busy ? CLIENT_BUSY : CLIENT_OK;
}
