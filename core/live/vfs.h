/* The inner door: a SQLite VFS over the byte store and its lock table, for connections inside this
 * process. Files of the live database are served from the store, all others (temporary files,
 * attached databases) by the default VFS. */
#ifndef BH_LIVE_VFS_H
#define BH_LIVE_VFS_H

#include <sqlite3.h>
#include <stdint.h>

#include "live/shm.h"
#include "live/store.h"

/* How the mount hears of changes made through this door. Called before the lock under which the
 * change was made is let go, on the thread of the connection, with no mutex held. All NULL: nobody
 * mounts. */
struct bh_live_hooks {
    void *arg;
    /* [offset, offset + len) of f changed; its size and times may have, too. */
    void (*data_changed)(void *arg, struct bh_file *f, uint64_t offset, uint64_t len);
    /* The name appeared or vanished. */
    void (*name_changed)(void *arg, const char *name);
    /* While clients use the wal-index f (live/shm.h), from one thread at a time; 0 or errno.
     * Both see to it that the file has so many regions. pull: *words is their content, valid until
     * the next call. push: changes words, in that order. release: undoes what pull
     * and push need to have open; everything that was changed is in f's file afterwards. */
    int (*index_pull)(void *arg, struct bh_file *f, unsigned regions, const uint32_t **words);
    int (*index_push)(void *arg, struct bh_file *f, unsigned regions,
                      const struct bh_shm_word *words, size_t count);
    void (*index_release)(void *arg, struct bh_file *f);
};

struct bh_vfs;

/* Registers a VFS for s. hooks are copied. mountpoint: where clients see the database
 * (super-journals are named by that path), "" if nowhere. */
int bh_vfs_register(struct bh_vfs **out, struct bh_store *s, const char *mountpoint,
                    struct bh_error *err);
void bh_vfs_unregister(struct bh_vfs *v); /* no connection may be open */
void bh_vfs_set_hooks(struct bh_vfs *v, const struct bh_live_hooks *hooks);

const struct bh_live_hooks *bh_vfs_hooks(struct bh_vfs *v);

/* A connection to the live database through this door. *db is closed with sqlite3_close by the
 * caller. brief: it holds no lock for long, so clients wait for it rather than be refused. */
int bh_vfs_connect(struct bh_vfs *v, bool brief, sqlite3 **db, struct bh_error *err);
/* Why the last hot journal could not be rolled back, to be said instead of SQLite's "disk I/O
 * error"; false: there was no such failure since the last call. text has BH_ERROR_TEXT_MAX bytes.
 */
bool bh_vfs_take_reason(struct bh_vfs *v, char *text);
/* Open connections but for brief ones. */
unsigned bh_vfs_connections(struct bh_vfs *v);

/* The errno that a SQLite result code means. */
int bh_sqlite_errno(int rc);
/* The errno of the connection's last error; ETIMEDOUT where the bucket did not answer. */
int bh_sqlite_code(sqlite3 *db);
/* Fills *err from the connection's last error, with bh_sqlite_code. db NULL: out of memory. */
int bh_sqlite_fail(sqlite3 *db, struct bh_error *err, const char *what);

#endif
