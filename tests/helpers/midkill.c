/* midkill: a client that is killed in the middle of a transaction. It changes every row of a table
 * with so small a cache that changed pages are written to the database before the commit, says so,
 * and waits for its end.
 *
 *   midkill -C [-n ROWS] DB       makes the table big(id, x, tag): ROWS rows (2000) of 500 bytes,
 * tag 0 midkill [-j MODE] [-s SYNC] [-A OTHER] [-g] [-t TAG] DB -j MODE   journal mode (DELETE) -A
 * OTHER  the transaction spans this database too, attached -g        also grow the database: insert
 * as many rows again -t TAG    the tag that every row gets (1)      -c  commit instead of waiting
 * (to see that it would have worked)
 *
 * Prints "spilled PAGES" once the pages are in the file, then waits for SIGKILL. */
#include "client.h"

#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

struct options {
    const char *path, *mode, *sync, *other;
    int64_t rows, tag;
    bool grow, commit;
};

static void create(const struct options *o)
{
    sqlite3 *db = client_create(o->path);
    client_exec(db, "BEGIN IMMEDIATE; DROP TABLE IF EXISTS big;"
                    "CREATE TABLE big(id INTEGER PRIMARY KEY, x BLOB, tag INTEGER)");
    char *sql = sqlite3_mprintf(
        "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM s WHERE i < %lld)"
        " INSERT INTO big SELECT i, randomblob(500), 0 FROM s; COMMIT",
        (long long)o->rows);
    client_exec(db, sql);
    sqlite3_free(sql);
    if (sqlite3_close(db) != SQLITE_OK)
        client_die(CLIENT_WRONG, "close: %s", sqlite3_errmsg(db));
}

static void change(sqlite3 *db, const char *schema, const struct options *o)
{
    char *sql = sqlite3_mprintf("UPDATE %s.big SET x = randomblob(500), tag = %lld", schema,
                                (long long)o->tag);
    client_exec(db, sql);
    sqlite3_free(sql);
    if (!o->grow)
        return;
    sql = sqlite3_mprintf("INSERT INTO %s.big(x, tag) SELECT randomblob(500), %lld FROM %s.big",
                          schema, (long long)o->tag, schema);
    client_exec(db, sql);
    sqlite3_free(sql);
}

int main(int argc, char **argv)
{
    struct options o = {.mode = "DELETE", .sync = "FULL", .rows = 2000, .tag = 1};
    bool make = false;
    int opt;
    while ((opt = getopt(argc, argv, "Cn:j:s:A:gt:c")) != -1) {
        switch (opt) {
        case 'C':
            make = true;
            break;
        case 'n':
            o.rows = client_number(optarg);
            break;
        case 'j':
            o.mode = optarg;
            break;
        case 's':
            o.sync = optarg;
            break;
        case 'A':
            o.other = optarg;
            break;
        case 'g':
            o.grow = true;
            break;
        case 't':
            o.tag = client_number(optarg);
            break;
        case 'c':
            o.commit = true;
            break;
        default:
            client_die(CLIENT_WRONG, "usage: see the head of midkill.c");
        }
    }
    if (optind != argc - 1)
        client_die(CLIENT_WRONG, "usage: midkill [options] DB");
    o.path = argv[optind];
    if (make) {
        create(&o);
        return 0;
    }
    sqlite3 *db = client_open(o.path, o.mode, o.sync, 20000);
    client_exec(db, "PRAGMA cache_size=5; PRAGMA cache_spill=5");
    if (o.other) {
        char *sql = sqlite3_mprintf("ATTACH %Q AS other; PRAGMA other.journal_mode=%s;"
                                    "PRAGMA other.synchronous=%s; PRAGMA other.cache_size=5",
                                    o.other, o.mode, o.sync);
        client_exec(db, sql);
        sqlite3_free(sql);
    }
    client_exec(db, "BEGIN IMMEDIATE");
    change(db, "main", &o);
    if (o.other)
        change(db, "other", &o);
    int spilled = 0, unused;
    sqlite3_db_status(db, SQLITE_DBSTATUS_CACHE_SPILL, &spilled, &unused, 0);
    if (spilled == 0)
        client_die(CLIENT_WRONG,
                   "no page was written before the commit: the test would show nothing");
    if (o.commit) {
        client_exec(db, "COMMIT");
        printf("committed\n");
        return sqlite3_close(db) == SQLITE_OK ? 0 : CLIENT_WRONG;
    }
    printf("spilled %d\n", spilled);
    fflush(stdout);
    for (;;)
        pause();
}
