/* The lock table of one live database: byte-range locks as fcntl has them (POSIX.1-2008, F_SETLK),
 * keyed by file, range and owner, for two kinds of owner: clients, who come through the mount, and
 * internal ones, who come through our SQLite VFS. No fcntl lock is taken on any backing file; this
 * table is the only truth.
 *
 * What it adds to POSIX:
 * - A request whose only conflict is internal is parked, not refused: nobody sees SQLITE_BUSY
 * because of the daemon. But for owners that are not brief (connections of a C program): if the
 * client has a lock on that file already, they may be waiting for each other, and it is refused.
 * - The gate: while it is closed, a client's first lock on the gated file is parked, and that of an
 * internal owner that is not brief is refused (it tries again); those inside go on. The SQL thread
 * closes it, waits for the clients inside to finish, works, and opens it.
 *
 * Every function may be called from any thread and never blocks but for bh_gate_drain and
 * bh_locks_wait. A parked request's done() is called from the thread that made it possible, with no
 * lock held. */
#ifndef BH_LIVE_LOCKS_H
#define BH_LIVE_LOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct bh_locks;

struct bh_owner {
    uint64_t id;
    bool internal;
};

static inline bool bh_owner_equal(struct bh_owner a, struct bh_owner b)
{
    return a.id == b.id && a.internal == b.internal;
}

struct bh_lock {
    struct bh_owner owner;
    uint64_t handle; /* the open file the lock was taken through; 0 for internal owners */
    pid_t pid;
    bool write;
    bool brief;          /* see bh_lock_request */
    uint64_t start, end; /* inclusive */
    int64_t since_ms;    /* bh_mono_ms() of its granting */
};

/* The locks on one file; zero-initialised, freed with bh_lockset_free when the file goes. */
struct bh_lockset {
    struct bh_lock *locks;
    size_t count, cap;
};
void bh_lockset_free(struct bh_lockset *s);

enum bh_lock_type { BH_LOCK_NONE, BH_LOCK_READ, BH_LOCK_WRITE };

struct bh_lock_request {
    struct bh_lockset *set;
    struct bh_owner owner;
    uint64_t handle;
    pid_t pid;
    enum bh_lock_type type; /* BH_LOCK_NONE unlocks */
    uint64_t start, end;    /* inclusive; UINT64_MAX: to the end of any file */
    bool wait;              /* F_SETLKW: wait for other clients too */
    bool brief;             /* of an internal owner that will not keep it for long */
    /* Called once if the request was parked; rc 0, EAGAIN, EINTR (cancelled), ENOMEM. Owns the
     * request again then. */
    void (*done)(struct bh_lock_request *r, int rc);

    struct bh_lock_request *next; /* private from here */
    struct bh_lock_request **prev;
    bool parked;
    int result;
    uint64_t visit;
};

/* gated: the file whose first lock the gate holds back, the database itself. NULL on no memory. */
struct bh_locks *bh_locks_new(struct bh_lockset *gated);
void bh_locks_free(struct bh_locks *t); /* no request may be parked */

/* 0: granted (or unlocked). EAGAIN: another client has it. EDEADLK, ENOMEM. EINPROGRESS: parked; r
 * must live until done(). A request of an internal owner is never parked: EAGAIN. */
int bh_locks_request(struct bh_locks *t, struct bh_lock_request *r);

/* Takes back a parked request that waits for other clients: done(r, EINTR). One that waits for the
 * daemon is left alone, as EINTR would become SQLITE_BUSY. No effect on a request that is not
 * parked any more: the caller guarantees only that r is still valid memory. */
void bh_locks_cancel(struct bh_locks *t, struct bh_lock_request *r);

/* Every parked request ends with rc (the mount goes away). */
void bh_locks_cancel_all(struct bh_locks *t, int rc);

/* First lock that would refuse this one; false if none would (F_GETLK). */
bool bh_locks_test(struct bh_locks *t, const struct bh_lock_request *r, struct bh_lock *conflict);

/* Whether the owner has that byte for itself. */
bool bh_locks_owns(struct bh_locks *t, struct bh_lockset *s, struct bh_owner owner, uint64_t byte);

/* All locks of an owner on a file (a close: FLUSH), or all that were taken through one handle
 * (RELEASE: locks of open file descriptions), or all of a file. Parked requests of the same kind
 * end with EINTR. */
void bh_locks_drop_owner(struct bh_locks *t, struct bh_lockset *s, struct bh_owner owner);
void bh_locks_drop_handle(struct bh_locks *t, struct bh_lockset *s, uint64_t handle);
/* All clients' locks on a file: the mount is gone, and they with it. */
void bh_locks_drop_clients(struct bh_locks *t, struct bh_lockset *s);

/* The locks of `from` on s become those of `to`: a dead client's EXCLUSIVE is kept until its
 * half-made transaction has been undone. */
void bh_locks_transfer(struct bh_locks *t, struct bh_lockset *s, struct bh_owner from,
                       struct bh_owner to);

/* --- what SQLite's locks mean (SQLite's os.h, "locking byte page") --- */
#define BH_PENDING_BYTE  0x40000000u
#define BH_RESERVED_BYTE (BH_PENDING_BYTE + 1)
#define BH_SHARED_FIRST  (BH_PENDING_BYTE + 2)
#define BH_SHARED_SIZE   510u

struct bh_lock_summary {
    unsigned clients;   /* client owners with any lock */
    bool inner;         /* an internal owner that is not brief has a lock */
    bool client_writer; /* a client holds PENDING or EXCLUSIVE */
    bool client_exclusive;
    struct bh_owner exclusive_owner; /* if client_exclusive */
    pid_t pid; /* of a client with a lock, a writer if there is one; 0 if none */
};
struct bh_lock_summary bh_locks_summary(struct bh_locks *t, struct bh_lockset *s);

/* --- what SQLite's locks on -shm mean (SQLite's wal.c and os_unix.c, "WAL-index locks") --- */
#define BH_WAL_FIRST   120u
#define BH_WAL_WRITE   120u
#define BH_WAL_CKPT    121u
#define BH_WAL_RECOVER 122u
#define BH_WAL_READ    123u /* of five: 0 to 4 */
#define BH_WAL_LAST    127u
#define BH_WAL_DMS     128u /* shared by everybody who uses the file ("dead man's switch") */

/* The locks of the -shm file that is there now; NULL: none is. Gated like the database's: while the
 * gate is closed, a client's first WAL lock is parked, whichever it is. Differences to other files:
 * internal owners and clients do not meet on BH_WAL_DMS, and a client that wants a READ lock for
 * itself is refused, not parked, where an internal reader that is not brief has it: SQLite then
 * goes on with another one. */
void bh_locks_set_wal(struct bh_locks *t, struct bh_lockset *wal);

struct bh_wal_summary {
    unsigned attached;   /* client owners that use the file */
    bool writing;        /* a client has WRITE, CKPT or RECOVER */
    bool client_writer;  /* ... WRITE or CKPT, so that it may write to -wal */
    bool client_ckpt;    /* ... CKPT, so that it may write to the database */
    unsigned readers;    /* READ locks of clients */
    int64_t youngest_ms; /* when the last of them was granted */
    pid_t pid;           /* of one who has any of these, a writer if there is one; 0 if none */
};
struct bh_wal_summary bh_locks_wal_summary(struct bh_locks *t);
/* refuse: clients could not be told of a commit that is in -wal, and their next one would overwrite
 * it: they get EIO for WRITE until this is taken back, or there is another -shm file. */
void bh_locks_refuse_wal_writers(struct bh_locks *t, bool refuse);
/* How many clients use the -shm file with these locks, whether or not it has its name still. */
unsigned bh_locks_attached(struct bh_locks *t, const struct bh_lockset *shm);

/* --- the gate --- */
enum bh_gate_need {
    BH_GATE_NO_CLIENTS, /* to write: nobody but brief internal owners holds any lock */
    BH_GATE_NO_WRITERS, /* to read: no client holds PENDING or EXCLUSIVE */
    /* The database is in WAL mode. */
    BH_GATE_WAL_WRITE, /* to write: no client writes, checkpoints, or has just begun to read */
    BH_GATE_WAL_ALONE, /* to replace or truncate: no client reads either */
};
/* A reader that has been at it for longer is not waited for by BH_GATE_WAL_WRITE. */
#define BH_OLD_READER_MS 300
void bh_gate_close(struct bh_locks *t);
/* Returns how many parked requests that let go on. */
unsigned bh_gate_open(struct bh_locks *t);
/* Waits until the need is met, at most ms. False: it is not. Call with the gate closed. */
bool bh_gate_drain(struct bh_locks *t, enum bh_gate_need need, int64_t ms);
/* Waits until any lock of the gated file changed hands, at most ms. */
void bh_locks_wait(struct bh_locks *t, int64_t ms);
/* READ locks that clients ever got. */
uint64_t bh_locks_wal_reads(struct bh_locks *t);

/* Counters for metrics. */
uint64_t bh_locks_parked_total(struct bh_locks *t);

#endif
