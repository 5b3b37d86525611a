/* Database files that are not the live one: what is downloaded or imported is checked here before
 * it gets in. SQLite's stock VFS is right for them, as nobody else has them open. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "live/live.h"
#include "util/cleanup.h"
#include "util/io.h"
#include "util/log.h"

static void cleanup_db(sqlite3 **db)
{
    sqlite3_close(*db);
}
static void cleanup_stmt(sqlite3_stmt **st)
{
    sqlite3_finalize(*st);
}
#define DB   __attribute__((cleanup(cleanup_db))) sqlite3 *
#define STMT __attribute__((cleanup(cleanup_stmt))) sqlite3_stmt *

static uint32_t big_endian(const unsigned char *p, unsigned n)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

/* SQLite file format, "The Database Header". */
static int check_header(int fd, const char *what, struct bh_error *err)
{
    unsigned char h[100];
    struct stat st;
    size_t got;
    int rc = fstat(fd, &st) != 0 ? errno : bh_pread_full(fd, h, sizeof h, 0, &got);
    if (rc)
        return bh_fail(err, rc, "%s cannot be read: %s", what, strerror(rc));
    if (got < sizeof h || memcmp(h, "SQLite format 3", 16))
        return bh_fail(err, EIO, "%s is not a SQLite database", what);
    uint32_t page = big_endian(h + 16, 2);
    page = page == 1 ? 65536 : page;
    uint64_t size = (uint64_t)st.st_size;
    if (page < 512 || (page & (page - 1)))
        return bh_fail(err, EIO, "%s is damaged: its header has a page size of %u", what, page);
    uint64_t pages = big_endian(h + 28, 4);
    bool counted = big_endian(h + 24, 4) == big_endian(h + 92, 4) && pages > 0;
    if (size % page || (counted && pages * page > size))
        return bh_fail(err, EIO,
                       "%s is cut off: it has %llu bytes, its header says %llu pages of %u", what,
                       (unsigned long long)size, (unsigned long long)pages, page);
    return 0;
}

/* Bytes 18 and 19 say 2 for WAL. Without its -wal file a WAL database is whole, and is one in
 * rollback mode after this. */
static int convert_from_wal(int fd, const char *what, struct bh_error *err)
{
    static const unsigned char rollback[2] = {1, 1};
    unsigned char mode[2];
    int rc = bh_pread_full(fd, mode, 2, 18, NULL);
    if (rc == 0 && (mode[0] > 2 || mode[1] > 2))
        return bh_fail(err, EIO,
                       "%s is of a newer format of SQLite (%u, %u), which nobody here can write",
                       what, mode[0], mode[1]);
    if (rc == 0 && (mode[0] == 2 || mode[1] == 2))
        rc = bh_pwrite_full(fd, rollback, 2, 18);
    return rc ? bh_fail(err, rc, "%s cannot be changed to a rollback journal: %s", what,
                        strerror(rc))
              : 0;
}

static int run_integrity_check(sqlite3 *db, const char *what, struct bh_error *err)
{
    STMT st = NULL;
    int rc = sqlite3_prepare_v2(db, "PRAGMA integrity_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(st, 0);
        if (text && !strcmp(text, "ok"))
            return 0;
        return bh_fail(err, EIO, "%s is damaged: integrity_check says: %s", what,
                       text ? text : "?");
    }
    if ((rc & 0xFF) == SQLITE_ERROR) {
        /* A schema that needs functions, collations or modules of its program is no damage. */
        bh_log(BH_LOG_WARNING, "%s could not be checked in full: %s", what, sqlite3_errmsg(db));
        return 0;
    }
    return bh_fail(err, rc == SQLITE_NOMEM ? ENOMEM : EIO,
                   "%s is damaged: integrity_check fails: %s", what, sqlite3_errmsg(db));
}

int bh_database_check(const char *path, const char *what, struct bh_error *err)
{
    BH_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return bh_fail(err, errno, "%s cannot be opened: %s", what, strerror(errno));
    int rc = check_header(fd, what, err);
    if (rc == 0)
        rc = convert_from_wal(fd, what, err);
    if (rc)
        return rc;
    DB db = NULL;
    rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL);
    if (rc != SQLITE_OK)
        return bh_sqlite_fail(db, err, what);
    sqlite3_extended_result_codes(db, 1);
    sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    return run_integrity_check(db, what, err);
}

int bh_database_copy(const char *from, const char *to, struct bh_error *err)
{
    DB in = NULL;
    DB out = NULL;
    struct stat st;
    if (stat(from, &st) != 0)
        return bh_fail(err, errno, "%s cannot be read: %s", from, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return bh_fail(err, EINVAL, "%s is not a regular file", from);
    if (st.st_size == 0)
        return bh_fail(err, EINVAL, "%s is empty, not a SQLite database", from);
    /* For writing where that is allowed: a hot journal beside it must be rolled back first. SQLite
     * itself falls back to reading only. */
    if (sqlite3_open_v2(from, &in, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        sqlite3_close(in);
        if (sqlite3_open_v2(from, &in, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK)
            return bh_sqlite_fail(in, err, from);
    }
    sqlite3_busy_timeout(in, 5000);
    if (sqlite3_open_v2(to, &out, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        return bh_sqlite_fail(out, err, to);
    sqlite3_backup *b = sqlite3_backup_init(out, "main", in, "main");
    int rc = b ? sqlite3_backup_step(b, -1) : sqlite3_errcode(out);
    if (b)
        sqlite3_backup_finish(b);
    if (rc == SQLITE_DONE) { /* one file, whatever mode the original is in */
        rc = sqlite3_exec(out, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL);
        return rc == SQLITE_OK ? 0 : bh_sqlite_fail(out, err, to);
    }
    if (rc == SQLITE_NOTADB || rc == SQLITE_CORRUPT)
        return bh_fail(err, EINVAL, "%s is not a whole SQLite database: %s", from,
                       sqlite3_errstr(rc));
    int code = bh_sqlite_errno(rc);
    return bh_fail(err, code ? code : EIO, "%s cannot be copied: %s", from, sqlite3_errstr(rc));
}
