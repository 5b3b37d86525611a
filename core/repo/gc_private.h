/* What the gc*.c share. */
#ifndef BH_REPO_GC_PRIVATE_H
#define BH_REPO_GC_PRIVATE_H

#include "repo/gc.h"

/* --- gc_set.c: sets of packs, snapshots and roots, each with a number --- */

/* Never all zeros; different for different things. */
struct gc_key {
    uint64_t a, b;
};
enum gc_kind {
    GC_PACK = 1,
    GC_RECORD = 2,
    GC_ROOT = 3,
    GC_TEXT = 4,
    GC_MOVED = 5
}; /* the top byte of b */

struct gc_slot {
    struct gc_key key; /* b 0: empty */
    int64_t value;
};
struct gc_set {
    struct gc_slot *slots;
    size_t count, room; /* room: 0 or a power of two */
};

struct gc_key gc_pack_key(uint64_t id);
struct gc_key gc_moved_key(uint64_t id);     /* the moved record of a pack */
struct gc_key gc_record_key(const char *id); /* of the form of a snapshot id */
struct gc_key gc_root_key(const struct bh_root *root);
int gc_text_key(const char *text, struct gc_key *key); /* 0 or ENOMEM */
enum gc_kind gc_key_kind(const struct gc_key *key);
/* The name that it is stored under: "packs/ID", "snapshots/ID", "moved/ID". */
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
/* text[len] is NUL; it is changed. False: it is damaged, or *rc is ENOMEM. */
bool gc_list_decode(char *text, size_t len, struct gc_set *items, int *rc);
/* Empty if there is none. One that is damaged counts as empty: the grace begins anew. */
int gc_list_read(struct bh_bucket *b, const char *prefix, struct gc_list *list,
                 const struct bh_call *call, struct bh_error *err);
/* Replaces the one that was read; etag is the new one then. EBUSY: it is another now. */
int gc_list_write(struct bh_bucket *b, const char *prefix, const struct gc_set *items,
                  char etag[BH_ETAG_MAX], const struct bh_call *call, struct bh_error *err);

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

/* --- gc_live.c: what of each pack is reached, and where it is --- */

/* A pack of which less than 1/GC_DENSE is garbage is never rewritten. */
#define GC_DENSE 8u

struct gc_spot {
    uint32_t offset, stored; /* of a record */
};
struct gc_pack {
    uint64_t id;
    bool present; /* listed; then size and mtime_ms are known */
    uint64_t size;
    int64_t mtime_ms;
    bool has_record; /* moved/ID is listed */
    uint64_t record_size;
    int64_t record_mtime_ms;

    bool reached; /* by a reference in a tree (then `direct`), or by a moved record */
    bool direct;
    int64_t time_ms; /* of the snapshot that reached it first */
    uint32_t end;    /* of what is reached */
    bool dense;      /* nearly all of it is reached: no spots are kept */
    struct gc_spot *spots;
    size_t count, room;
    uint64_t bytes; /* of what is reached, with entries; of a dense one: at least */

    /* gc_live_settle: */
    unsigned moves;  /* on the longest way to here */
    size_t settled;  /* spots that were followed */
    bool uncovered;  /* something that is reached is not in its moved record */
    const char *why; /* NULL; of the record, for the report */
    size_t *targets;
    size_t target_count, target_room;
    bool judged, judging, moved; /* moved: all that is reached is to be had elsewhere */
    bool needed, record_needed;  /* the answer: what of both must stay */
};
struct gc_live {
    struct gc_pack *packs; /* all that are listed or reached */
    size_t count, room;
    struct gc_set numbers;
};

struct gc_mark;
/* One more reference. 0 or ENOMEM. */
int gc_live_reach(struct gc_live *l, const struct bh_ref *ref, int64_t time_ms,
                  struct bh_error *err);
/* Lists packs and moved records; called anew it forgets what it said before. Before the marking it
 * is of use only to save memory. */
int gc_live_list(struct gc_mark *m, struct bh_error *err);
/* After the marking and the listing: reads the moved records of what is reached. A pack that is
 * needed, but not present, is missing. */
int gc_live_settle(struct gc_mark *m, struct bh_error *err);
void gc_live_free(struct gc_live *l);

/* --- gc_mark.c: what is reachable --- */

/* What names blobs. */
struct gc_snapshot {
    char id[BH_SNAPSHOT_ID_MAX];
    struct bh_root db, names;
    bool dropped; /* but so young that it may be put back: it need not be whole */
};

struct gc_mark {
    struct bh_bucket *bucket;
    const char *prefix;
    struct bh_trees *trees;
    const struct bh_call *call;
    struct gc_live live;
    struct gc_set records; /* of snapshots that are kept */
    bool want_snapshots;   /* they are noted, some twice: */
    struct gc_snapshot *snapshots;
    size_t snapshot_count, snapshot_room;
    int64_t young_ms; /* those that were dropped, too, if they are of later than this */
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
    uint64_t packs, records, moved, bytes;
};
struct gc_sweep {
    struct bh_bucket *bucket;
    const char *prefix; /* "KEY.bhfs/" */
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
/* Lists packs, moved records and records and sorts them. EIO: a pack that is needed is not there.
 */
int gc_sweep_list(struct gc_sweep *s, struct bh_error *err);
/* Deletes the doomed; *deleted: how many are gone. */
int gc_sweep_delete(struct gc_sweep *s, size_t *deleted, struct bh_error *err);
/* Aborts uploads that began before the grace (counts them only, for a dry run). */
int gc_sweep_uploads(struct gc_sweep *s, bool dry_run, size_t *aborted, struct bh_error *err);
/* The same of those whose key begins so and is_ours says so of what follows. */
int gc_abort_uploads(struct gc_sweep *s, const char *prefix, bool (*is_ours)(const char *tail),
                     bool dry_run, size_t *aborted, struct bh_error *err);
/* KEY, freed by the caller; NULL: no memory. */
char *gc_plain_key(const struct gc_sweep *s);
/* Whether KEY with that tail is a plain object: of the main branch, the one before, of another. */
bool gc_is_plain_tail(const char *tail);
/* Removes a tombstone that is older than the grace. 0 also if it is none any more. */
int gc_remove_tombstone(struct gc_sweep *s, const struct gc_anchor *tombstone, bool *removed,
                        struct bh_error *err);
void gc_sweep_free(struct gc_sweep *s);

/* --- gc_compact.c: packs of which little is needed --- */

struct gc_compaction {
    uint64_t needed;        /* bytes of records that are reached, in needed packs of ... */
    uint64_t size;          /* ... these bytes */
    size_t chosen;          /* packs to be rewritten */
    size_t moved;           /* done: they are condemned */
    size_t packs;           /* that were written */
    uint64_t before, after; /* bytes of those that were chosen, and of what is needed of them */
    struct bh_strbuf notes; /* lines of the report */
};
/* Chooses packs and, but for a dry run, rewrites them: what is needed of them goes into new packs,
 * is read back, then each gets its moved record and goes onto the list that will be published. When
 * it fails, what is on that list is as good as done, and what is not is as before. */
int gc_compact(struct gc_sweep *s, bool dry_run, struct gc_compaction *c, struct bh_error *err);

/* --- gc_blobs.c, gc_blobs_list.c: blobs of files/ --- */
struct gc_blob {
    uint8_t hash[BH_SHA256_LEN];
    int64_t condemned_ms; /* when; -1: now */
    int64_t doomed_ms; /* when it was said to be deleted next, by the store's clock; 0: not yet */
    bool seen, listed; /* of gc_blobs.c: the object is there; it is on the next list, too */
};
/* KEY.bhfs/gc-blobs: ascending by hash, none twice. */
struct gc_blob_list {
    struct gc_blob *items;
    size_t count, room;
    char etag[BH_ETAG_MAX];
    bool damaged;
};
#define GC_BLOB_LIST "gc-blobs"
/* As gc_list_decode, gc_list_read, gc_list_write. To be written sorted by hash. */
bool gc_blob_list_decode(char *text, size_t len, struct gc_blob_list *list, int *rc);
int gc_blob_list_read(struct bh_bucket *b, const char *prefix, struct gc_blob_list *list,
                      const struct bh_call *call, struct bh_error *err);
int gc_blob_list_write(struct bh_bucket *b, const char *prefix, struct gc_blob_list *list,
                       const struct bh_call *call, struct bh_error *err);
/* NULL: it is not on it. */
struct gc_blob *gc_blob_list_find(const struct gc_blob_list *list,
                                  const uint8_t hash[BH_SHA256_LEN]);
void gc_blob_list_free(struct gc_blob_list *list);
/* After the roots were marked. Appends to the report, also of a run that fails. */
int gc_blobs(struct gc_sweep *s, const struct bh_gc_blobs *o, bool dry_run,
             struct bh_strbuf *report, struct bh_error *err);

/* --- gc_text.c: the form of lists in the bucket; first: with its end of line --- */
/* False: it is damaged (or *rc). *lines: what is between the first line and the checksum. */
bool gc_text_open(char *text, size_t len, const char *first, char **lines, int *rc);
/* No two runs write the same: a line "run: NUMBER" makes sure of that. */
void gc_text_begin(struct bh_strbuf *out, const char *first);
int gc_text_end(struct bh_strbuf *out); /* ENOMEM */
/* prefix + name. ENAMETOOLONG. */
int gc_list_key(const char *prefix, const char *name, char key[BH_KEY_MAX + 1],
                struct bh_error *err);
/* *text NULL: there is none (etag ""). Freed by the caller. */
int gc_text_get(struct bh_bucket *b, const char *prefix, const char *name, char **text, size_t *len,
                char etag[BH_ETAG_MAX], const struct bh_call *call, struct bh_error *err);
/* Puts it if what is there still has `etag` ("": nothing); etag is the new one then. EBUSY. */
int gc_text_put(struct bh_bucket *b, const char *prefix, const char *name,
                const struct bh_strbuf *text, char etag[BH_ETAG_MAX], const struct bh_call *call,
                struct bh_error *err);

/* --- gc_pin.c --- */
int gc_pin_read(struct bh_bucket *b, const char *prefix, const char *id, struct bh_head *pin,
                const struct bh_call *call, struct bh_error *err);

#endif
