/* What the verify*.c share.
 *
 * Every node of every tree is visited once: what was found below it is remembered as a set of
 * damaged packs, one bit each, so that the sets of all snapshots are exact however much they share.
 * A pack is looked at when the first reference to it is met. */
#ifndef BH_REPO_VERIFY_PRIVATE_H
#define BH_REPO_VERIFY_PRIVATE_H

#include "repo/gc_private.h"
#include "repo/history_private.h"
#include "repo/verify.h"

#define VERIFY_BITS 63u /* packs with a bit of their own; more share the last one */

/* --- verify_map.c: exact keys of 96 bits: pack and offset of a node, or a snapshot's id --- */
struct verify_map {
    struct verify_slot {
        uint64_t a, value;
        uint32_t b;
        bool used;
    } * slots;
    size_t count, room;
};
uint64_t *verify_map_find(const struct verify_map *m, uint64_t a, uint32_t b);
/* 0 or ENOMEM. An existing key gets the new value. */
int verify_map_set(struct verify_map *m, uint64_t a, uint32_t b, uint64_t value);
void verify_map_free(struct verify_map *m);

/* --- what is found --- */

/* An object that is missing or damaged. */
struct verify_damage {
    char *key;
    char *cause;
    uint64_t bit;               /* that snapshots hit by it have in their mask; 0: none is hit */
    uint64_t records;           /* of a pack: damaged ones that were met */
    struct bh_strbuf histories; /* " main dev": whose index is hit */
    bool is_blob;               /* its cause says who needs it */
};

/* An object as it is listed. */
struct verify_object {
    char *name; /* after the prefix */
    uint64_t size;
    bool met; /* something refers to it */
};

struct verify_branch {
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    bool readable; /* else its head is damaged or missing, and only its name is known */
    bool checked;  /* full: its newest snapshot had an integrity check that went well */
};

enum verify_source { FROM_INDEX, FROM_RECORD, FROM_SALVAGE };

struct verify_snapshot {
    struct bh_index_entry e;
    enum verify_source source;
    bool wanted;         /* a root: in a history and not dropped there, or labelled */
    bool damaged;        /* by something that is no pack: its root, its content */
    uint64_t branches;   /* by number; the last bit: one beyond */
    uint64_t mask;       /* damaged packs that it needs */
    uint64_t names_mask; /* those of them that its names.db needs */
    uint64_t db_mask;    /* and its database */
};

struct verify_pack;

struct verify {
    struct bh_history *h;
    struct bh_bucket *bucket;
    struct bh_bucket *ahead; /* the same, for what is read ahead */
    const char *prefix;
    const struct bh_call *call;
    bool full;
    bool lost;      /* a head or a part of an index: records tell of more snapshots */
    bool salvaging; /* what only records tell of: it may have been reclaimed, which is no damage */
    uint32_t block_size;
    struct bh_packs *packs;
    struct bh_trees *trees;

    struct verify_object *objects; /* in byte order of their names */
    size_t object_count, object_room;
    struct verify_branch *branches;
    size_t branch_count, branch_room;
    struct verify_snapshot *snapshots;
    size_t snapshot_count, snapshot_room;
    struct verify_map snapshot_map; /* id -> number */
    struct verify_damage *damages;
    size_t damage_count, damage_room;
    unsigned bits; /* given out */

    /* verify_packs.c */
    struct verify_pack **all_packs;
    size_t pack_count, pack_room;
    struct verify_map pack_map;
    uint64_t listed_bytes, clock;
    uint8_t *scratch; /* of a batch of records */
    uint64_t read_records;

    /* verify_walk.c */
    struct verify_map nodes; /* place -> mask */
    struct verify_frame *frames[BH_DEPTH_MAX + 1];

    struct gc_list condemned; /* by gc: what is on its way out tells nothing */
    uint64_t labels, tombstones, records, plain_objects, checked_databases;
    struct bh_strbuf notes; /* lines of the report on the plain objects and the like */
};

/* --- verify.c --- */
/* Whether an error is of what is stored: verify goes on. Others end it. */
bool verify_is_damage(const struct verify *v, int rc);
/* Notes a damaged object, once for a key (the first cause counts). NULL: no memory. */
struct verify_damage *verify_note(struct verify *v, const char *key, const char *cause);
int verify_note_name(struct verify *v, const char *name, const char *cause, struct bh_error *err);
/* The listed object; NULL. */
struct verify_object *verify_listed(const struct verify *v, const char *name);
/* The same, and something refers to it. */
void verify_meet(struct verify *v, const char *name);

/* --- verify_ahead.c: what is read soon is read by several threads first --- */
int verify_ahead_open(struct verify *v, struct bh_error *err);
/* Calls fn for 0 to count - 1, each once, in several threads. What it reads through v->ahead (and
 * v->packs) is there when it is read again; whatever it finds is of no account. */
typedef void verify_ahead_fn(struct verify *v, void *arg, size_t i);
void verify_ahead(struct verify *v, size_t count, verify_ahead_fn *fn, void *arg);
/* The same for what verify_tree reads, of these roots in this order. */
void verify_trees_ahead(struct verify *v, const struct bh_root *const *roots, size_t count,
                        bool blocks);
/* What was not asked for is forgotten. */
void verify_ahead_over(struct verify *v);

/* --- verify_history.c: heads, indexes, labels, records --- */
int verify_heads(struct verify *v, struct bh_error *err);
int verify_indexes(struct verify *v, struct bh_error *err);
int verify_labels(struct verify *v, struct bh_error *err);
int verify_records(struct verify *v, struct bh_error *err);
/* Records of snapshots that no history has: proof of heads that are gone, and what can be saved. */
int verify_orphans(struct verify *v, struct bh_error *err);
struct verify_snapshot *verify_snapshot_of(const struct verify *v, const char *id);
/* The branch of that name, cut as entries do; NULL. */
struct verify_branch *verify_branch_of(const struct verify *v, const char *name);
/* A head that must have been there: notes that it is missing, unless it has come meanwhile. */
int verify_lost_head(struct verify *v, const char *branch, const char *proof, struct bh_error *err);
/* Reads a record. ENOENT, EIO, or what ends verify. */
int verify_read_record(struct verify *v, const char *id, struct bh_record *r, struct bh_error *err);

/* --- verify_packs.c --- */
/* A reference to a record of that level (0: a block). *mask gets the bit of its pack if the record
 * is not to be had. look: a block is read even where its pack lists it. */
int verify_record(struct verify *v, const struct bh_ref *ref, unsigned level, bool look,
                  uint64_t *mask, struct bh_error *err);
/* The record could not be read (why), although verify_record had nothing to say. */
int verify_bad_record(struct verify *v, const struct bh_ref *ref, const struct bh_error *why,
                      uint64_t *mask, struct bh_error *err);
/* A block size that packs tell where the format object does not. 0: none does. */
int verify_guess_block_size(struct verify *v, uint32_t *block_size, struct bh_error *err);
void verify_packs_free(struct verify *v);

/* --- verify_walk.c --- */
/* What is wrong with everything below a root. blocks: they are read, too. EDOM: no such root. */
int verify_tree(struct verify *v, const struct bh_root *root, bool blocks, uint64_t *mask,
                struct bh_error *err);
void verify_walk_free(struct verify *v);

/* --- verify_plain.c: whole databases --- */
/* SQLite's integrity check of the newest snapshots. */
int verify_databases(struct verify *v, struct bh_error *err);
/* KEY and KEY.prev of main and of the branches. */
int verify_plain(struct verify *v, struct bh_error *err);

/* --- verify_blobs.c --- */
int verify_blobs(struct verify *v, struct bh_error *err);

/* --- verify_report.c --- */
void verify_report(const struct verify *v, int rc, const struct bh_error *why,
                   struct bh_strbuf *out);

#endif
