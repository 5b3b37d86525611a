/* SQLite's result codes as errno and sentence. */
#include <errno.h>

#include "live/vfs.h"

int bh_sqlite_errno(int rc)
{
    switch (rc & 0xFF) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return EBUSY;
    case SQLITE_FULL:
        return ENOSPC;
    case SQLITE_NOMEM:
        return ENOMEM;
    case SQLITE_READONLY:
        return EROFS;
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return EACCES;
    case SQLITE_INTERRUPT:
        return EINTR;
    case SQLITE_ERROR:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_RANGE:
    case SQLITE_SCHEMA:
        return EINVAL;
    case SQLITE_TOOBIG:
        return EFBIG;
    default:
        return EIO;
    }
}

int bh_sqlite_code(sqlite3 *db)
{
    int rc = sqlite3_extended_errcode(db);
    if ((rc & 0xFF) == SQLITE_IOERR && sqlite3_system_errno(db) == ETIMEDOUT)
        return ETIMEDOUT; /* a part of it is in the bucket only, which did not answer */
    return bh_sqlite_errno(rc);
}

int bh_sqlite_fail(sqlite3 *db, struct bh_error *err, const char *what)
{
    int rc = db ? sqlite3_extended_errcode(db) : SQLITE_NOMEM;
    int code = db ? bh_sqlite_code(db) : ENOMEM;
    return bh_fail(err, code ? code : EIO, "%s: %s (SQLite code %d)", what,
                   db ? sqlite3_errmsg(db) : "out of memory", rc);
}
