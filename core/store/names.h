/* The names of the file store: directories, inodes, links and attributes of files/, as POSIX has
 * them (IEEE Std 1003.1-2017; flags of rename: Linux's renameat2(2)). What files contain is
 * elsewhere (store/blobs.h): an inode only says which content it has.
 *
 * Three places hold them. In memory is what was used lately, and all that has changed; an operation
 * changes this. The log (names.log.N in the state directory) gets every change before the operation
 * returns, by one write without a sync: a kill -9 loses nothing, a power cut only what no
 * bh_names_sync came after. The database (names.db: tables in names_db.c) has everything; what has
 * changed is written to it now and then as one transaction (a checkpoint), and the log begins anew.
 * So no operation waits for SQL unless what it needs is not in memory, and none costs more in a
 * large directory.
 *
 * Any thread may call. Functions return 0 or a positive errno, the one of the system call that it
 * is for. Those with a `wait` argument: false is for threads that must not sleep, EAGAIN then means
 * that the answer is not in memory, or that a hold (bh_names_hold) is on; nothing has happened and
 * the same call with true, on another thread, will do it. err (may be NULL) is filled where there
 * is more to say than the errno: EIO, ETIMEDOUT, ENOSPC.
 *
 * Permissions are the kernel's to check (default_permissions). */
#ifndef BH_STORE_NAMES_H
#define BH_STORE_NAMES_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "live/disk.h"
#include "util/error.h"
#include "util/sha256.h"

#define BH_NAMES_ROOT 1u /* the inode of files/ itself */

/* Which content a file has: that of the local file `data`, or of the blob `hash`. */
struct bh_content {
    uint64_t size; /* bytes of the file as it is now */
    uint64_t data; /* number of a local file (random, never used twice); 0: the blob's */
    uint8_t hash[BH_SHA256_LEN]; /* of the content as published last; all zeros: never was */
    uint64_t hash_size;          /* bytes of that */
};

/* Times are nanoseconds since 1970. */
struct bh_inode {
    uint64_t ino;   /* never used for another file, over all mounts and branches of one history */
    uint32_t mode;  /* type and permissions, as st_mode */
    uint32_t nlink; /* of a directory: 2 + its subdirectories */
    uint32_t uid, gid;
    uint64_t rdev;
    int64_t atime, mtime, ctime;
    uint64_t parent;           /* of a directory; else 0 */
    uint64_t entries;          /* names in a directory */
    struct bh_content content; /* of a regular file; of a symbolic link only its size */
};

struct bh_names;

struct bh_names_options {
    struct bh_disk *disk; /* of the log */
    /* A new connection to names.db, for one thread at a time, ready to use; closed with
     * sqlite3_close. Of any journal mode; nobody else may have it exclusively for long. */
    int (*connect)(void *arg, sqlite3 **db, struct bh_error *err);
    /* The inode and all that is in it are gone for good (no name, nobody holds it): its local data
     * file may go, and the blob it had may be nobody's now. Called without a lock, on any thread;
     * not for what bh_names_open removes. */
    void (*gone)(void *arg, const struct bh_inode *was);
    /* Whether that data file is here (NULL: all are). An inode of names.db with one that is not was
     * written elsewhere, or later: its content is what was published last. 0, or an errno: it
     * cannot be told, and the inode cannot be read. Brief. */
    int (*has_data)(void *arg, uint64_t data, bool *has);
    void *arg;
    uint32_t uid, gid;     /* of the root directory of an empty names.db, mode 0755 */
    size_t cache;          /* inodes and names kept in memory that have no changes; 0: 100,000 */
    int64_t checkpoint_ms; /* a change is in the database after so long; 0: only when asked */
    bool read_only;        /* nothing changes: no log, tables are not made (none: an empty tree) */
};

/* Replays what the log has and the database has not, removes inodes that had no name any more.
 * EIO: database or log are damaged, the sentence says which; ENOTSUP: the database is of a newer
 * format. A log that belongs to another content of names.db is kept as names.lost.N, and said. */
int bh_names_open(struct bh_names **out, const struct bh_names_options *o, struct bh_error *err);
/* A last checkpoint first; what that fails with is returned, the log keeps it. Nothing may be under
 * way. */
int bh_names_close(struct bh_names *n, struct bh_error *err);

/* --- looking --- */
int bh_names_get(struct bh_names *n, uint64_t ino, struct bh_inode *out, bool wait,
                 struct bh_error *err);
/* ENOENT, ENOTDIR, ENAMETOOLONG. "." and ".." are not for it. */
int bh_names_lookup(struct bh_names *n, uint64_t dir, const char *name, struct bh_inode *out,
                    bool wait, struct bh_error *err);
/* The target, NUL-terminated, freed by the caller. EINVAL: no symbolic link. */
int bh_names_readlink(struct bh_names *n, uint64_t ino, char **target, bool wait,
                      struct bh_error *err);

/* All names of a directory as of one moment, for a stable readdir; of mode only the type (0: the
 * inode is damaged). One allocation, freed by the caller with free(). Without "." and "..". With
 * its inodes it stays in memory if `cache` has room for all, so that looking them up is fast. */
struct bh_names_listing {
    size_t count;
    struct {
        uint64_t ino;
        uint32_t mode;
        const char *name;
    } entries[];
};
int bh_names_list(struct bh_names *n, uint64_t dir, struct bh_names_listing **out, bool wait,
                  struct bh_error *err);

/* --- changing; the log has it when they return 0. EROFS where nothing changes. --- */

/* mknod, mkdir, symlink (target not NULL), create. what: mode (with type), uid, gid, rdev; of a
 * file whose content is published (a hash) that content, atime and mtime, too. The group and
 * S_ISGID are inherited from a directory that has S_ISGID. ref: as by bh_names_ref. EEXIST (*out is
 * what is there then), ENOENT: the directory was removed; ENOSPC, EMLINK. */
int bh_names_make(struct bh_names *n, uint64_t dir, const char *name, const struct bh_inode *what,
                  const char *target, bool ref, struct bh_inode *out, bool wait,
                  struct bh_error *err);
/* EPERM: a directory; EMLINK; EEXIST; ENOENT: ino has no name any more. */
int bh_names_link(struct bh_names *n, uint64_t ino, uint64_t dir, const char *name,
                  struct bh_inode *out, bool wait, struct bh_error *err);
/* *was: the inode after it. EISDIR. */
int bh_names_unlink(struct bh_names *n, uint64_t dir, const char *name, struct bh_inode *was,
                    bool wait, struct bh_error *err);
/* ENOTDIR, ENOTEMPTY. */
int bh_names_rmdir(struct bh_names *n, uint64_t dir, const char *name, struct bh_inode *was,
                   bool wait, struct bh_error *err);
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE, else EINVAL. *moved: what has the new name now;
 * *replaced: what had it before, after it (ino 0: nothing). ENOENT, EEXIST, ENOTEMPTY, EISDIR,
 * ENOTDIR, EINVAL: into itself. Two names of one inode: nothing is done, as POSIX wants it. */
int bh_names_rename(struct bh_names *n, uint64_t dir, const char *name, uint64_t new_dir,
                    const char *new_name, unsigned flags, struct bh_inode *moved,
                    struct bh_inode *replaced, bool wait, struct bh_error *err);

/* What of *to counts. */
enum {
    BH_SET_MODE = 1, /* permission bits alone */
    BH_SET_UID = 2,
    BH_SET_GID = 4,
    BH_SET_ATIME = 8,
    BH_SET_MTIME = 16,
    BH_SET_CONTENT = 32, /* all of struct bh_content; mtime and ctime are not touched by that */
    BH_SET_ATIME_NOW = 64,
    BH_SET_MTIME_NOW = 128,
    BH_SET_NO_CTIME = 256, /* else ctime becomes now */
    BH_SET_CTIME = 512,    /* ctime as in *to, if that is later */
};
/* *out (may be NULL): the inode after it. */
int bh_names_set(struct bh_names *n, uint64_t ino, unsigned what, const struct bh_inode *to,
                 struct bh_inode *out, bool wait, struct bh_error *err);

/* Extended attributes; names with their namespace ("user.x"), values up to 64 KiB, all of one file
 * up to 1 MiB (ENOSPC). flags: XATTR_CREATE (EEXIST), XATTR_REPLACE (ENODATA). */
int bh_names_setxattr(struct bh_names *n, uint64_t ino, const char *name, const void *value,
                      size_t len, int flags, bool wait, struct bh_error *err);
/* *value is freed by the caller. ENODATA. */
int bh_names_getxattr(struct bh_names *n, uint64_t ino, const char *name, void **value, size_t *len,
                      bool wait, struct bh_error *err);
/* Names one after the other, each with its NUL; freed by the caller. */
int bh_names_listxattr(struct bh_names *n, uint64_t ino, char **list, size_t *len, bool wait,
                       struct bh_error *err);
int bh_names_removexattr(struct bh_names *n, uint64_t ino, const char *name, bool wait,
                         struct bh_error *err);

/* --- who uses an inode: it lives on without a name as long as somebody has a reference --- */
/* ENOENT: it is gone. Never waits: what is opened was looked up just before; EAGAIN all the same if
 * it was dropped from memory, then call bh_names_get with wait first. */
int bh_names_ref(struct bh_names *n, uint64_t ino);
void bh_names_unref(struct bh_names *n, uint64_t ino);

/* --- durability --- */
/* What returned before this call survives a power cut: the log is synced (several at once share
 * one sync). Sleeps. */
int bh_names_sync(struct bh_names *n, struct bh_error *err);
/* All that has changed is in the database, as one transaction. Sleeps. The log stays until that is
 * durable. */
int bh_names_checkpoint(struct bh_names *n, struct bh_error *err);
/* Nothing changes, neither in memory nor in the database, until bh_names_release: everything that
 * returned before is in the database. Changes wait (or EAGAIN). One hold at a time. For a freeze of
 * names.db: call it between the two, brief. */
int bh_names_hold(struct bh_names *n, struct bh_error *err);
/* swapped: names.db has other content now: what is in memory is forgotten, references, too (one
 * taken before must not be given back after). What the log has is of the old content, and goes.
 * Content that cannot be read yet is looked at by the next call with wait. */
void bh_names_release(struct bh_names *n, bool swapped);

/* --- for the file store --- */
/* Regular files whose content is not published as it is (content.data is not 0), of those that are
 * in the database or in memory. fn returns non-zero to end it, and that is what is returned; a
 * sentence for it is fn's to fill. fn is called without a lock and may call anything. */
int bh_names_each_local(struct bh_names *n, int (*fn)(void *arg, const struct bh_inode *i),
                        void *arg, struct bh_error *err);
/* Whether any inode with a name has that content as published. Asks the database and memory. */
int bh_names_has_hash(struct bh_names *n, const uint8_t hash[BH_SHA256_LEN], bool *has,
                      struct bh_error *err);

/* Contents, each once, ascending; one allocation, freed by the caller with free(). */
struct bh_blob_list {
    size_t count;
    struct {
        uint8_t hash[BH_SHA256_LEN];
        uint64_t size;
    } blobs[];
};
/* All that any inode with a name has as published. Makes a checkpoint. Sleeps. */
int bh_names_list_blobs(struct bh_names *n, struct bh_blob_list **out, struct bh_error *err);
/* How many bytes that content has. ENOENT: bh_names_has_hash would say that nobody has it. */
int bh_names_find_blob(struct bh_names *n, const uint8_t hash[BH_SHA256_LEN], uint64_t *size,
                       struct bh_error *err);

/* --- for rows of table filestore that have no name yet (files_adopt.c) --- */
/* The last row that was looked at, and what it was: kept in names.db. mark 0: none was. */
struct bh_names_rows {
    int64_t row;
    uint64_t mark; /* below 2^63 */
};
void bh_names_rows(struct bh_names *n, struct bh_names_rows *out);
void bh_names_set_rows(struct bh_names *n, const struct bh_names_rows *rows);
/* Calls fn with each content that has lost its last name and was not given to bh_names_forget
 * since, in this life or an earlier one, and has no name again: names.db keeps them. at: when, in
 * nanoseconds since 1970, or a little later. Makes a checkpoint. What fn returns ends it. Sleeps.
 * The caller keeps swaps out meanwhile. */
int bh_names_each_dropped(struct bh_names *n,
                          int (*fn)(void *arg, const uint8_t hash[BH_SHA256_LEN], int64_t at),
                          void *arg, struct bh_error *err);
/* With the next checkpoint. ENOMEM. */
int bh_names_forget(struct bh_names *n, const uint8_t hash[BH_SHA256_LEN]);
/* What this thread changes until it is taken back anybody would find again: it is written with
 * other changes only, and an orderly end forgets it if there are none. One thread at a time. */
void bh_names_quiet(struct bh_names *n, bool quiet);

/* One of its names, not a path; "" where it has none, or none is in memory. Never waits. */
void bh_names_name(struct bh_names *n, uint64_t ino, char name[256]);

struct bh_names_stats {
    uint64_t inodes;    /* in all; about */
    uint64_t in_memory; /* inodes and names */
    uint64_t changed;   /* of these, not in the database yet */
    uint64_t log_bytes, checkpoints;
};
void bh_names_stats(struct bh_names *n, struct bh_names_stats *out);

#endif
