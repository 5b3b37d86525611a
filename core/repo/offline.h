/* A snapshot in a bucket, read without a mount: of the history, or the plain object where there is
 * none. Nothing is written to the bucket. One thread at a time. */
#ifndef BH_REPO_OFFLINE_H
#define BH_REPO_OFFLINE_H

#include <sqlite3.h>

#include "config/config.h"
#include "repo/head.h"

struct bh_offline;

/* cfg, and what call points to, must outlive it. Freed with bh_offline_free. */
int bh_offline_open(struct bh_offline **out, const struct bh_config *cfg,
                    const struct bh_call *call, struct bh_error *err);
void bh_offline_free(struct bh_offline *o);

/* The snapshot that the functions below are about, once for an object. what: an id, a label,
 * "prev", or NULL: the newest of the branch (NULL: the configured one). An id is looked up by its
 * record, so that it is found where heads and indexes are damaged, too. A plain object is
 * downloaded to a temporary file. ENOENT, EINVAL, EIO. */
int bh_offline_find(struct bh_offline *o, const char *branch, const char *what,
                    struct bh_error *err);

struct bh_offline_snapshot {
    char id[BH_SNAPSHOT_ID_MAX]; /* "": of another program */
    char branch[BH_BRANCH_MAX];
    int64_t time_ms;
    uint64_t size;
};
const struct bh_offline_snapshot *bh_offline_snapshot(const struct bh_offline *o);

/* A read-only connection, closed by the caller before bh_offline_free. Only the blocks that SQLite
 * asks for are fetched (in pieces of 64 KiB and up). */
int bh_offline_connect(struct bh_offline *o, sqlite3 **db, struct bh_error *err);
/* Why a statement on that connection failed with SQLITE_IOERR: 0: it was not for reading. */
int bh_offline_why(const struct bh_offline *o, struct bh_error *err);

/* Writes the snapshot as a database file, all or nothing: a temporary file beside dest is synced
 * and renamed. EEXIST: dest is there, and not force. check: SQLite's integrity check first, EIO. */
int bh_offline_export(struct bh_offline *o, const char *dest, bool force, bool check,
                      struct bh_error *err);

#endif
