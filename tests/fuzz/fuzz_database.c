/* A downloaded or imported database. The input's first byte says how to read the rest: 'f', as the
 * file; else as changes of a good database, three bytes each: where (16 bits), and what to put
 * there. */
#include "fuzz.h"

#include <sqlite3.h>

#include "live/live.h"

static const char schema[] =
    "PRAGMA page_size = 512;"
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b, c AS (a || b), CHECK (id > 0));"
    "CREATE INDEX i ON t (a, length(b)) WHERE b IS NOT NULL;"
    "CREATE TABLE u (k TEXT PRIMARY KEY, v) WITHOUT ROWID;"
    "CREATE VIEW w AS SELECT a FROM t; CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM u; END;"
    "INSERT INTO u VALUES ('one', 1), ('two', 2.5);"
    "WITH n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40)"
    " INSERT INTO t (a, b) SELECT printf('%020d', i), zeroblob(i * 40) FROM n;"
    "DELETE FROM t WHERE id % 5 = 0;";

static unsigned char good[65536];
static size_t good_size;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    sqlite3 *db;
    be_quiet();
    must(sqlite3_open(at("good.db"), &db) == SQLITE_OK);
    must(sqlite3_exec(db, schema, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
    BH_FD int fd = open(at("good.db"), O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, good, sizeof good);
    must(n > 0 && n < (ssize_t)sizeof good);
    good_size = (size_t)n;
    return 0;
}

static void write_changed(const uint8_t *data, size_t size)
{
    unsigned char file[sizeof good];
    memcpy(file, good, good_size);
    for (; size >= 3; data += 3, size -= 3)
        file[(data[0] << 8 | data[1]) % (int)good_size] = data[2];
    write_file(at("a.db"), file, good_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bh_error err = {0};
    if (size > 0 && data[0] == 'f')
        write_file(at("a.db"), data + 1, size - 1);
    else
        write_changed(data + !!size, size - !!size);
    int rc = bh_database_check(at("a.db"), "the database", &err);
    must_be_told(rc, &err);
    if (rc == 0) { /* no WAL mode and nothing newer: SQLite would write with no rollback journal, or
                      not at all */
        unsigned char mode[2];
        BH_FD int fd = open(at("a.db"), O_RDONLY | O_CLOEXEC);
        must(pread(fd, mode, 2, 18) == 2 && mode[0] <= 1 && mode[1] <= 1);
    }
    return 0;
}
