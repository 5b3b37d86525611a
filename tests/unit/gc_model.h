/* For tests of gc: a bucket whose clock the test sets and that crashes when told, and a model of
 * branches, snapshots and labels in it that knows what a gc must do. */
#ifndef GC_MODEL_H
#define GC_MODEL_H

#include "repo/gc_private.h"
#include "tree_fixture.h"

#define GRACE  INT64_C(86400000)
#define PREFIX TREE_PREFIX

/* --- gc_bucket.c: a layer on the fixture's `b` --- */

extern struct bh_bucket *bucket;
extern int64_t now_ms; /* its clock; objects get their times by it */
int64_t *stamp_of(const char *key);
extern atomic_int requests_left; /* then all fail; INT32_MAX: enough */
extern bool last_is_done;        /* the first that fails happens all the same */
/* Called once, before a request (get, put, list, ...) to a key that ends so. */
extern const char *hook_op, *hook_key;
extern void (*hook)(void);
void bucket_reset(void);

/* --- gc_model.c --- */

enum { BLOCKS = 700, SNAPSHOTS = 600, BRANCHES = 8, LABELS = 8, THINGS = 2000 };

struct snapshot {
    struct bh_index_entry e;
    uint64_t blocks;
    uint32_t version[BLOCKS]; /* 0: zeros */
};
extern struct snapshot snapshots[SNAPSHOTS];
extern size_t snapshot_count;

struct branch {
    bool exists, deleted;
    int64_t deleted_ms;
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    size_t member[SNAPSHOTS]; /* indices, as in its index */
    bool dropped[SNAPSHOTS];
    size_t count;
};
extern struct branch branches[BRANCHES];

struct label {
    char name[16];
    size_t snapshot;
};
extern struct label labels[LABELS];
extern size_t label_count;

/* Packs and records in the bucket, and since when they are condemned (-1: they are not). */
struct thing {
    char key[160];
    int64_t since;
};
extern struct thing things[THINGS];
extern size_t thing_count;

int gc_setup(void **state);
int gc_teardown(void **state);

/* Operations, each in the order of a flush. */
const void *block_of(uint64_t n, uint32_t version);
void new_id(struct bh_index_entry *e);
void put_record(const struct bh_index_entry *e);
void put_head(struct branch *br);
/* A new snapshot on top of the branch with the content of `like` (NULL: none) and changes. */
size_t flush_like(struct branch *br, const struct snapshot *like, size_t changes);
size_t flush(struct branch *br, size_t changes);
void orphan(struct branch *br); /* a flush that died before the head */
size_t newest(const struct branch *br);
struct branch *make_branch(const char *name); /* NULL: there are enough */
struct branch *fork_of(const struct branch *from, const char *name);
void delete_branch(struct branch *br);
void set_dropped(struct branch *br, size_t n, bool dropped);
void add_label(size_t snapshot);
void remove_label(size_t i);
/* Branch main with `count` snapshots that share nothing; the first two are dropped. */
struct branch *dropped_two(size_t count);

/* What must be so. */
bool is_root(const struct branch *br);
struct gc_key key_of(const char *key);
void needed(struct gc_set *set); /* packs and records, found without any cleverness */
void find_things(void);
bool is_there(const char *key);
void must_read(const struct snapshot *s);
void must_not_read(const struct snapshot *s);
void must_be_whole(void); /* all that is retained reads back, from the bucket itself */

/* One run; its report is in report. */
extern struct bh_strbuf report;
int try_gc(bool dry_run, const struct bh_gc_plan *plan);
void gc(void);
void report_has(const char *text);
void gc_exactly(void); /* ... which does just what the model says */

#endif
