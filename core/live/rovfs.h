/* SQLite on a database that nobody can change, read through a function: a snapshot in the bucket.
 * A VFS with one file. One thread at a time. */
#ifndef BH_LIVE_ROVFS_H
#define BH_LIVE_ROVFS_H

#include <sqlite3.h>
#include <stdint.h>

#include "util/error.h"

struct bh_rovfs;

/* Bytes of the database, all of [offset, offset + len), which is within its size. */
typedef int bh_rovfs_read_fn(void *arg, uint64_t offset, void *buf, size_t len,
                             struct bh_error *err);

/* Nothing is read yet. size: bytes of the database. ENOMEM. */
int bh_rovfs_new(struct bh_rovfs **out, bh_rovfs_read_fn *read, void *arg, uint64_t size,
                 struct bh_error *err);
/* Its connections are closed. NULL is fine. */
void bh_rovfs_free(struct bh_rovfs *v);

/* A connection, closed by the caller with sqlite3_close. what: names the database in sentences. */
int bh_rovfs_connect(struct bh_rovfs *v, sqlite3 **db, const char *what, struct bh_error *err);
/* The error of the last read that failed, which a statement of SQLite's does not tell; 0: none
 * did. */
int bh_rovfs_why(const struct bh_rovfs *v, struct bh_error *err);
void bh_rovfs_forget_why(struct bh_rovfs *v);

#endif
