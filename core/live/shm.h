/* The wal-index (-shm) as this process has it. SQLite wants its words in memory that everybody
 * maps; the clients' lie in the kernel's page cache of the mount, where this process must not map
 * them: it serves that mount, and a process that dies with such a mapping waits for itself for
 * ever.
 *
 * So there are two states. Local: no client uses the file; connections of this process share the
 * words directly. Remote: clients use it, their pages are the truth, and this process has copies.
 * They are fetched after a lock was taken, and what was changed is put there before an exclusive
 * lock is given back. That is enough, because SQLite relies on the words only under locks, or (the
 * header) compares them again under one. Who reaches the clients' pages is the mount's business
 * (struct bh_live_hooks).
 *
 * The file itself (what the kernel reads, and writes back) is a memfd: current while remote, behind
 * while local.
 *
 * Source of the layout: SQLite's wal.c, "WAL-INDEX FORMAT". */
#ifndef BH_LIVE_SHM_H
#define BH_LIVE_SHM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bh_file;
struct bh_live_hooks;
struct bh_shm;

#define BH_SHM_REGION       32768u
#define BH_SHM_REGION_WORDS (BH_SHM_REGION / sizeof(uint32_t))
/* 4096 pages a region: logs of 16 GiB with pages of 4 KiB. */
#define BH_SHM_REGIONS_MAX 1024u

/* A changed word of the index. */
struct bh_shm_word {
    uint32_t at; /* which, from the beginning of the file, in words */
    uint32_t value;
};

/* f: the file it is behind, not counted. wire: held while the clients' pages are read or written,
 * for which there is one way for all such files, also those that have lost their name. ENOMEM. */
int bh_shm_new(struct bh_shm **out, struct bh_file *f, pthread_mutex_t *wire);
void bh_shm_free(struct bh_shm *m);

/* --- threads with connections; they may wait for the mount, so never a loop thread --- */

/* Region i (from 0), NULL in *out if it is not there and extend is false. It stays where it is as
 * long as the file lives. ENOMEM, EFBIG beyond BH_SHM_REGIONS_MAX, EIO and others: the clients'
 * pages cannot be reached. */
int bh_shm_region(struct bh_shm *m, const struct bh_live_hooks *hooks, unsigned i, bool extend,
                  volatile void **out);
/* After a lock was taken, exclusive or not: the copies are as the clients have it. */
int bh_shm_pull(struct bh_shm *m, const struct bh_live_hooks *hooks, bool exclusive);
/* quiet: who begins to read is held back, so one look at the clients' pages is enough for all
 * shared locks until this is taken back; an old reader may still write before an exclusive one is
 * had. 0, or why they cannot be reached.
 */
int bh_shm_set_quiet(struct bh_shm *m, const struct bh_live_hooks *hooks, bool quiet);
/* Before an exclusive lock is given back: clients see what was changed under the exclusive locks
 * that the connection holds, bit i of held for SQLite's lock i (0 WRITE, 1 CKPT, 2 RECOVER, 3 to 7
 * READ).
 */
int bh_shm_push(struct bh_shm *m, const struct bh_live_hooks *hooks, unsigned held);
/* The content was replaced: the index is void, the next reader builds it anew. All locks held. */
int bh_shm_reset(struct bh_shm *m, const struct bh_live_hooks *hooks);
/* After the last client's DMS lock went: back to local, unless a new client came. */
void bh_shm_detach(struct bh_shm *m, const struct bh_live_hooks *hooks);
/* Makes the kernel forget the pages it may hold, for bh_shm_attach. */
void bh_shm_forget_pages(struct bh_shm *m, const struct bh_live_hooks *hooks);

/* --- loop threads too: short --- */

/* A client has got its DMS lock and not heard of it yet. EAGAIN: bh_shm_forget_pages must come
 * first. ENOSPC, ENOMEM: no memory. */
int bh_shm_attach(struct bh_shm *m);
/* Somebody reads the file: if it is behind, it is brought up to date. */
int bh_shm_before_read(struct bh_shm *m);
/* Whether connections of this process use it, so that nobody may shrink it. */
bool bh_shm_is_used(struct bh_shm *m);
bool bh_shm_is_remote(struct bh_shm *m);

#endif
