/* What the gc*.c share. */
#ifndef BH_REPO_GC_PRIVATE_H
#define BH_REPO_GC_PRIVATE_H

#include "repo/gc.h"

/* --- gc_set.c: sets of packs, snapshots and roots, each with a number --- */

/* Never all zeros; different for different things. */
struct gc_key {
    uint64_t a, b;
};
enum gc_kind { GC_PACK = 1, GC_RECORD = 2, GC_ROOT = 3, GC_TEXT = 4 }; /* the top byte of b */

struct gc_slot {
    struct gc_key key; /* b 0: empty */
    int64_t value;
};
struct gc_set {
    struct gc_slot *slots;
    size_t count, room; /* room: 0 or a power of two */
};

struct gc_key gc_pack_key(uint64_t id);
struct gc_key gc_record_key(const char *id); /* of the form of a snapshot id */
struct gc_key gc_root_key(const struct bh_root *root);
int gc_text_key(const char *text, struct gc_key *key); /* 0 or ENOMEM */
enum gc_kind gc_key_kind(const struct gc_key *key);
/* The name that it is stored under: "packs/ID", "snapshots/ID". */
#define GC_NAME_MAX 48
void gc_key_name(const struct gc_key *key, char name[GC_NAME_MAX]);

/* 0, EEXIST (the value stays) or ENOMEM. */
int gc_set_add(struct gc_set *s, struct gc_key key, int64_t value);
/* NULL: it is not in it. Valid until the next add. */
int64_t *gc_set_get(const struct gc_set *s, struct gc_key key);
void gc_set_free(struct gc_set *s);
#define GC_SET __attribute__((cleanup(gc_set_free))) struct gc_set

/* --- gc_list.c: KEY.bhfs/gc --- */

struct gc_list {
    struct gc_set items; /* value: when it was condemned */
    char etag[BH_ETAG_MAX];
    bool damaged;
};
/* Empty if there is none. One that is damaged counts as empty: the grace begins anew. */
int gc_list_read(struct bh_bucket *b, const char *prefix, struct gc_list *list,
                 const struct bh_call *call, struct bh_error *err);
/* Replaces the one that was read. EBUSY: it is another now. */
int gc_list_write(struct bh_bucket *b, const char *prefix, const struct gc_set *items,
                  const char *etag, const struct bh_call *call, struct bh_error *err);

/* --- gc_roots.c: heads, labels and pins as they were at one moment --- */

struct gc_anchor {
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    int64_t mtime_ms;
    bool is_pin;
    char name[BH_BRANCH_MAX]; /* of the object */
};
struct gc_label {
    char name[BH_BRANCH_MAX], id[BH_SNAPSHOT_ID_MAX];
};
/* Where one of them was replaced meanwhile both states are there. */
struct gc_roots {
    struct gc_anchor *anchors;
    size_t anchor_count, anchor_room;
    struct gc_label *labels;
    size_t label_count, label_room;
};
int gc_roots_read(struct bh_bucket *b, const char *prefix, struct gc_roots *roots,
                  const struct bh_call *call, struct bh_error *err);
void gc_roots_free(struct gc_roots *roots);
/* Room for one more in an array; zeros. NULL: no memory. */
void *gc_grow(void *array, size_t *count, size_t *room, size_t item);

/* --- gc_mark.c: what is reachable --- */

struct gc_mark {
    struct bh_bucket *bucket;
    const char *prefix;
    struct bh_trees *trees;
    const struct bh_call *call;
    struct gc_set packs;   /* reached; value: time of the snapshot that reached it first */
    struct gc_set records; /* of snapshots that are kept */
    /* Inside: */
    struct gc_set labelled; /* value: 1 when its snapshot was found in an index */
    struct gc_set walked;   /* roots */
    struct gc_set dropped;  /* of `branch`, for a dry run */
    const char *branch;
    struct bh_root last_db, last_names, last_index; /* wholly marked */
    int64_t time_ms;                                /* of the snapshot that is walked */
    const char *what;                               /* the same, for sentences */
    struct bh_error *err;
};
/* All that a head or pin names. */
int gc_mark_head(struct gc_mark *m, const struct bh_head *head, const char *what,
                 struct bh_error *err);
/* Labels whose snapshot is in no index that was marked: by their records. */
int gc_mark_labels(struct gc_mark *m, const struct gc_label *labels, size_t count,
                   struct bh_error *err);
int gc_mark_root(struct gc_mark *m, const struct bh_root *root, struct bh_root *last,
                 const char *what, struct bh_error *err);
void gc_mark_free(struct gc_mark *m);

/* --- gc_sweep.c: what is there, and what becomes of it --- */

struct gc_tally {
    uint64_t packs, records, bytes;
};
struct gc_sweep {
    struct bh_bucket *bucket;
    const char *prefix;
    const struct bh_call *call;
    struct gc_mark *mark;
    const struct gc_list *list;
    int64_t grace_ms, begin_ms; /* by the store's clock */
    struct gc_set to_list;      /* to be written, the doomed included; -1: condemned now */
    struct gc_key *doomed;
    size_t doomed_count, doomed_room;
    struct gc_tally live, young, condemned, waiting, saved, doom;
    bool changed; /* to_list is not what was read */
};
/* Lists packs and records and sorts them. EIO: a pack that is reached is not there. */
int gc_sweep_list(struct gc_sweep *s, struct bh_error *err);
/* Deletes the doomed; *deleted: how many are gone. */
int gc_sweep_delete(struct gc_sweep *s, size_t *deleted, struct bh_error *err);
/* Aborts uploads that began before the grace (counts them only, for a dry run). */
int gc_sweep_uploads(struct gc_sweep *s, bool dry_run, size_t *aborted, struct bh_error *err);
/* Removes a tombstone that is older than the grace. 0 also if it is none any more. */
int gc_remove_tombstone(struct gc_sweep *s, const struct gc_anchor *tombstone, bool *removed,
                        struct bh_error *err);
void gc_sweep_free(struct gc_sweep *s);

/* --- gc_pin.c --- */
int gc_pin_read(struct bh_bucket *b, const char *prefix, const char *id, struct bh_head *pin,
                const struct bh_call *call, struct bh_error *err);

#endif
