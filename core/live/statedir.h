/* The state directory: where the live database is between mounts, who uses it, and what it is based
 * on. */
#ifndef BH_LIVE_STATEDIR_H
#define BH_LIVE_STATEDIR_H

#include <stdbool.h>
#include <stdint.h>

#include "live/disk.h"
#include "live/wal.h"
#include "util/error.h"
#include "util/sha256.h"

struct bh_config;

#define BH_SNAPSHOT_ID_MAX 32 /* "YYYYMMDDTHHMMSS.mmmZ-8HEX" 29 bytes and a NUL */

/* What survives between mounts, in the file "state". Replaced atomically and durably as a whole. */
struct bh_state {
    char *identity;      /* bucket, key and branch: a directory is never used for another */
    char *mountpoint;    /* of the last mount: super-journals name files by it; "" if none */
    uint64_t generation; /* of db.G and map.G; 0: nothing was loaded yet */
    /* The base: what the bucket held when this content was loaded or flushed last. Empty strings:
     * nothing. */
    char base_etag[128];
    char base_snapshot[BH_SNAPSHOT_ID_MAX];
    char base_sha256[BH_SHA256_HEX];
    char base_wal[BH_WAL_TAG]; /* what of -wal is in it */
    uint64_t base_size;
    int64_t base_time_ms;
    /* The upload that was about to happen: an object with this id is ours, whatever the store's
     * answer was. */
    char pending_snapshot[BH_SNAPSHOT_ID_MAX];
    char pending_sha256[BH_SHA256_HEX];
    uint64_t pending_size;
    char older_pending[16 *
                       BH_SNAPSHOT_ID_MAX]; /* uploads before it that may still arrive: "ID,ID," */
    /* A damaged snapshot that snapshot.recover stepped over: never copied to KEY.prev. "" if none.
     */
    char damaged_etag[128];
    /* Largest file change counter and schema cookie that any content had when it was swapped out
     *. */
    uint32_t max_counter;
    uint32_t max_cookie;
    /* The history layer's. Empty or 0 in a directory that never had a part in a history. */
    char branch[128];   /* that the content is of; "" : the one of the mount */
    char writer[33];    /* random: this directory among all that may write the branch */
    uint64_t epoch;     /* of the lease that it had last */
    char base_root[65]; /* of the base in the history, in hex (bh_ref_hex); "" it is not there */
    uint32_t base_depth;
    uint32_t block_size;               /* of the history; 0 unknown */
    char restored[BH_SNAPSHOT_ID_MAX]; /* the base is this older snapshot, put back, and the branch
                                        * does not know yet; "" */
    char plain_snapshot[BH_SNAPSHOT_ID_MAX]; /* id that the plain object had last; "" unknown */
    char plain_also[BH_SNAPSHOT_ID_MAX];     /* a later snapshot with the same database; "" none */
    char boot[48];    /* of the running system, while it is in use; "" after an orderly end */
    uint32_t stepped; /* 1: a step (bh_live_step) was begun since the last orderly end */
    /* names.db, beside the live database. */
    uint64_t names_generation; /* of db.G and map.G in names/; 0: it was never there */
    char names_root[65];       /* of its base in the history; "" it has none: all is changed */
    uint32_t names_depth;
    uint64_t names_size;
};

struct bh_statedir {
    char *path;
    struct bh_disk *disk;
    int lock_fd;
    struct bh_state state;
};

/* Finds the directory that cfg means, makes it (0700), locks it, reads the state. EBUSY: another
 * process uses it, the sentence has its pid. EIO: the state file is damaged. ESTALE: it belongs to
 * another bucket. */
int bh_statedir_open(struct bh_statedir *sd, const struct bh_config *cfg, struct bh_error *err);
void bh_statedir_close(struct bh_statedir *sd);
/* Tells the next start that this one is about to let go, so that it waits for the last flush rather
 * than refuse. */
void bh_statedir_closing(struct bh_statedir *sd);

/* A directory of its own in there, made if it is not: closed with bh_disk_close before sd is. salt:
 * another one for each, for live.powercut_seed. */
int bh_statedir_open_disk(struct bh_statedir *sd, const struct bh_config *cfg, const char *name,
                          uint64_t salt, struct bh_disk **out, struct bh_error *err);

/* Makes sd->state durable. One thread at a time. */
int bh_statedir_save(struct bh_statedir *sd, struct bh_error *err);

#endif
