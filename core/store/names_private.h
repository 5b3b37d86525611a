/* Inside names.h. One mutex is over everything in memory; whoever has it neither waits for SQL nor
 * for a sync.
 *
 *   names.c             open, close, references, hold, the thread that makes checkpoints
 *   names_cache.c       objects in memory: tables, lists, what is dropped
 *   names_op.c          one operation: what it needs, what it changes
 *   names_ops.c, names_rename.c, names_xattr.c, names_list.c   the operations
 *   names_record.c      the form of an object in the log
 *   names_log.c         the log; names_replay.c: what it has at the start
 *   names_db.c          the database: tables, connections
 *   names_load.c        from the database into memory
 *   names_checkpoint.c  from memory into the database
 *   names_dropped.c     what is remembered for table filestore
 *
 * A load reads the database without the mutex, so what it read may be old when it has the mutex
 * again. What memory has meanwhile wins; and memory does not drop what a checkpoint wrote as long
 * as a load is under way that began before that checkpoint's end (object.written, load.began). So a
 * load never brings anything back that is older than the last checkpoint. */
#ifndef BH_STORE_NAMES_PRIVATE_H
#define BH_STORE_NAMES_PRIVATE_H

#include <pthread.h>

#include "store/names.h"

#define NAME_MAX_LEN   255u
#define TARGET_MAX_LEN 4095u
#define VALUE_MAX_LEN  65536u
#define XATTRS_MAX     (1u << 20) /* bytes of names and values of one inode */
#define LINKS_MAX      65000u     /* of a file */
#define CHECK_ROWS     1024u      /* between two looks at the limits of a call */
#define CHANGED_MANY   20000u  /* changed objects that a checkpoint does not wait any longer for */
#define CHANGED_MAX    200000u /* and those that operations wait for a checkpoint at */
#define LOG_MANY       (64u << 20) /* the same by bytes of the log */
#define LOG_AHEAD      (1u << 20)  /* bytes of space that the log gets at once */
#define LOG_SPARE                                                                                  \
    (256u << 10) /* of these the last are for removals: a full disk can be emptied                 \
                  */

/* --- objects --- */

enum kind { KIND_INODE, KIND_NAME, KIND_XATTR };

/* The list that an object is in. */
enum place {
    PLACE_NONE,     /* unchanged, in use */
    PLACE_IDLE,     /* unchanged; least recently used first */
    PLACE_CHANGED,  /* the database does not have it as it is: n->changed[0] ... */
    PLACE_CHANGED1, /* ... or [1]. Those of [n->turn] changed after the checkpoint under way began,
                       the others are still to be taken down by it */
    PLACE_DONE,     /* the checkpoint under way has taken it down as it is */
};

struct object {
    struct object *next, *prev;
    uint64_t written; /* number of the checkpoint that wrote it; 0: none of this life */
    uint32_t pins;
    uint32_t weight;
    uint8_t kind, place;
    bool dead; /* in no table any more, freed with its last pin */
};

struct entry;

struct inode {
    struct object o;
    struct bh_inode i;
    char *target;                    /* of a symbolic link, always there */
    struct inode *chain;             /* by number */
    struct inode *same, **same_prev; /* by content; same_prev NULL: not among them */
    struct entry *named;             /* one that leads to it, as far as known; for bh_names_name */
    struct entry *first[2];          /* its names, if it is a directory; its attributes */
    uint64_t names_known;            /* names in memory that are there; all: i.entries */
    uint32_t refs;
    uint32_t kept;        /* attributes are not dropped */
    uint32_t xattr_bytes; /* of those in memory */
    bool xattrs_known;    /* all are in memory */
    bool gone;            /* known not to exist */
};

/* A name in a directory, or an attribute of an inode; or that there is none (present is false). */
struct entry {
    struct object o;
    struct inode *of; /* stays in memory as long as this does */
    struct entry *chain;
    struct entry *next, **prev; /* of the same inode and kind */
    uint64_t ino;               /* of a name */
    uint8_t *value;             /* of an attribute */
    uint32_t value_len;
    bool present;
    uint8_t type; /* of a name: mode >> 12 */
    uint8_t name_len;
    char name[];
};

struct list {
    struct object head; /* of a ring */
    size_t count;
};

struct bytes {
    uint8_t *data;
    size_t len, cap;
};

/* --- the log --- */

struct log {
    struct bh_dfile file;
    uint64_t number;
    uint64_t end;
    uint64_t synced_end;
    uint64_t space; /* this far it has space on the disk; 0: the file system cannot say */
};

/* --- the database --- */

enum { GET_INODE, GET_NAME, GET_XATTRS, GET_LIST, GET_LOCAL, GET_HASH, GET_BLOBS, GETS };

struct reader {
    struct reader *next;
    sqlite3 *db;
    sqlite3_stmt *get[GETS];
};

enum {
    PUT_INODE,
    PUT_TARGET,
    PUT_NAME,
    PUT_XATTR,
    PUT_META,
    DROP_INODE,
    DROP_TARGET,
    DROP_NAME,
    DROP_XATTR,
    DROP_XATTRS,
    PUTS
};

struct meta {
    uint64_t state;   /* random, another one for each checkpoint; 0: no tables */
    uint64_t applied; /* the log up to this number is in the database */
    uint64_t next_ino;
    uint64_t inodes;
    struct bh_names_rows rows;
};

struct load {
    struct load *next, *prev;
    uint64_t began; /* n->checkpoint then */
    uint64_t epoch;
};

struct bh_names {
    struct bh_names_options opt;
    pthread_mutex_t mutex;
    pthread_cond_t cond; /* something ended: a hold, a load, a sync, a checkpoint's gate */

    /* memory */
    struct inode **inodes, **contents;
    struct entry **entries;
    uint64_t *touched; /* a bit for each slice of the three */
    uint64_t mask, seed;
    struct list idle, changed[2], done;
    unsigned turn;
    uint64_t idle_weight, in_memory;
    uint64_t next_ino, inode_count;
    uint64_t epoch; /* how often the content was swapped */
    struct bh_names_rows rows;
    bool loud;  /* something changed that was not quiet */
    bool quiet; /* what quiet_thread changes is */
    pthread_t quiet_thread;
    bool stale;  /* swapped, and the new content was not looked at yet */
    bool held;   /* nothing is changed in memory */
    bool frozen; /* nor in the database */

    /* loads */
    struct load loads; /* a ring, oldest first */
    unsigned loading;
    bool gate;           /* no load may begin */
    uint64_t checkpoint; /* how many have ended */
    struct reader *readers;
    bool no_tables;

    /* the log */
    struct log **logs; /* oldest first; the last is written to */
    size_t log_count;
    uint64_t log_number; /* of the last one made */
    uint64_t seq;        /* of the last frame */
    uint64_t synced;     /* frames that survive a power cut */
    uint64_t bad;        /* a sync failed: frames up to this one need a checkpoint */
    bool syncing;
    struct bytes frame;

    /* the checkpoint under way; `writing` is over what only it uses, and comes before the mutex */
    pthread_mutex_t writing;
    sqlite3 *writer;
    sqlite3_stmt *put[PUTS];
    struct meta saved; /* what the database says */
    struct meta next;  /* what it will */
    bool batch_open;
    struct bytes batch;
    struct bytes forget; /* hashes that table dropped is to forget with the next checkpoint ... */
    struct bytes forgetting;   /* ... and with the one under way */
    struct bytes lost, losing; /* those that it is to have, as far as it cannot know: the same */
    size_t batch_logs;         /* of n->logs, that are not needed after it */
    bool hurried;              /* the thread was told that there is much */
    bool sweep;                /* inodes without a name from an earlier life are to be removed */
    uint64_t swept;            /* by the checkpoint under way */

    /* the thread */
    pthread_t thread;
    pthread_cond_t wake;
    bool thread_runs, stop;
    int64_t changed_since; /* bh_mono_ms; 0: nothing */
    int64_t said;          /* when a failure was logged last */
};

/* --- names_cache.c: all with the mutex --- */

int cache_init(struct bh_names *n);
void cache_free(struct bh_names *n);
/* Everything is forgotten; what is pinned lives on, dead. */
void cache_forget(struct bh_names *n);

struct inode *inode_find(struct bh_names *n, uint64_t ino);
/* Not in the table yet. NULL: no memory. target: copied; NULL for none. */
struct inode *inode_new(const struct bh_inode *i, const char *target, size_t target_len);
void inode_insert(struct bh_names *n, struct inode *i);
/* Another state of it, counters and tables in step. */
void inode_apply(struct bh_names *n, struct inode *i, const struct bh_inode *to, bool gone);
struct entry *entry_find(struct bh_names *n, const struct inode *of, enum kind kind,
                         const char *name, size_t len);
struct entry *entry_new(struct inode *of, enum kind kind, const char *name, size_t len);
void entry_insert(struct bh_names *n, struct entry *e);
/* ino, type: of a name; value is taken over: of an attribute. */
void entry_apply(struct bh_names *n, struct entry *e, bool present, uint64_t ino, uint8_t type,
                 uint8_t *value, uint32_t len);
struct inode *same_content(struct bh_names *n, const uint8_t hash[BH_SHA256_LEN]);
/* Never in a table, or taken out of it. */
void object_free(struct object *o);

void object_used(struct bh_names *n, struct object *o);
void object_changed(struct bh_names *n, struct object *o);
/* Idle, if nothing changed it and nobody needs it. */
void object_settle(struct bh_names *n, struct object *o);
void object_pin(struct bh_names *n, struct object *o);
void object_unpin(struct bh_names *n, struct object *o);
void cache_evict(struct bh_names *n);
size_t changed_count(const struct bh_names *n);

void list_init(struct list *l);
void list_move(struct bh_names *n, struct object *o, enum place to);

static inline struct inode *inode_of(struct object *o)
{
    return (struct inode *)(void *)o;
}
static inline struct entry *entry_of(struct object *o)
{
    return (struct entry *)(void *)o;
}

/* --- names_record.c --- */

enum record_type { RECORD_INODE = 1, RECORD_NAME = 2, RECORD_XATTR = 3 };

struct record {
    enum record_type type;
    bool present;          /* else it is gone */
    bool fresh;            /* an inode that was not there before */
    struct bh_inode inode; /* all of it if it is present, else the number alone */
    const char *target;
    size_t target_len;
    uint64_t of; /* whose name or attribute */
    uint64_t ino;
    uint8_t file_type;
    const char *name;
    size_t name_len;
    const uint8_t *value;
    size_t value_len;
};

bool bytes_room(struct bytes *b, size_t len);            /* false: no memory */
int record_add(struct bytes *b, const struct record *r); /* 0 or ENOMEM */
/* 1, 0: the end, -1: malformed. r points into the bytes. */
int record_next(const uint8_t **at, const uint8_t *end, struct record *r);
void record_of_inode(struct record *r, const struct inode *i, const struct bh_inode *state,
                     bool gone);
void record_of_entry(struct record *r, const struct entry *e);
/* 0, or what is wrong with it. */
const char *inode_wrong(const struct bh_inode *i);
const char *name_wrong(const char *name, size_t len);

/* --- names_log.c --- */

#define LOG_HEADER   32u
#define FRAME_HEADER 28u

struct log_header {
    uint64_t number, state;
};
struct frame {
    uint32_t len; /* of the records */
    uint64_t seq, synced;
};

/* False: not one. */
bool log_header_get(const uint8_t *in, struct log_header *h);
bool frame_get(const uint8_t *at, size_t left, struct frame *f);
/* A new log; durable, but nobody writes to it yet. */
int log_make(struct bh_names *n, uint64_t number, uint64_t state, struct log **out,
             struct bh_error *err);
void log_name(uint64_t number, char name[32]);
/* With the mutex. Room for one more in n->logs. */
int log_reserve(struct bh_names *n);
void frame_begin(struct bytes *b);
/* The frame in n->frame is written. With the mutex. removal: it may use the space for these. */
int log_append(struct bh_names *n, bool removal, struct bh_error *err);
/* The first `count` logs go. Without the mutex. */
void log_drop(struct bh_names *n, size_t count);
void log_close_all(struct bh_names *n); /* the files stay */
uint64_t log_bytes(struct bh_names *n);

/* --- names_replay.c --- */
int log_replay(struct bh_names *n, struct bh_error *err);

/* --- names_db.c --- */

int db_meta(struct bh_names *n, sqlite3 *db, struct meta *m, bool *no_tables, struct bh_error *err);
int db_make_tables(sqlite3 *db, struct bh_error *err);
int db_open(struct bh_names *n, sqlite3 **db, struct bh_error *err);
/* Without the mutex. */
int reader_get(struct bh_names *n, struct reader **out, struct bh_error *err);
void reader_put(struct bh_names *n, struct reader *r, bool good);
int reader_stmt(struct reader *r, int which, sqlite3_stmt **out, struct bh_error *err);
void reader_reset(struct reader *r); /* its statements */
void reader_close(struct reader *r);
void readers_close(struct bh_names *n);
int writer_stmt(struct bh_names *n, int which, sqlite3_stmt **out, struct bh_error *err);
void writer_close(struct bh_names *n);
/* An inode from the columns of `first` on; *target points into the row. */
#define INODE_COLUMNS 17
int row_inode(sqlite3_stmt *st, int first, struct bh_inode *i, const char **target,
              size_t *target_len, bool *xattrs, struct bh_error *err);
int row_number(sqlite3_stmt *st, int column, uint64_t *out);
/* *row: there is one. For a connection to names.db. */
int row_step(sqlite3_stmt *st, bool *row, struct bh_error *err);
/* 0, or what is wrong with an attribute. */
const char *xattr_wrong(sqlite3_stmt *st, int name, int value);
/* What SQLite's last call failed with, as the errno of a call on files. */
int db_fail(sqlite3 *db, struct bh_error *err, const char *what);

/* --- names_dropped.c --- */
/* In a transaction of the writer: its table is there; the batch's hashes are in it, or out. */
int db_make_dropped(sqlite3 *db, struct bh_error *err);
int put_dropped(struct bh_names *n, struct bh_error *err);
/* With the mutex. An inode gets another state, or goes: the content it had may be one. */
void note_lost(struct bh_names *n, const struct inode *i, const struct bh_inode *to, bool gone);
bool is_quiet(const struct bh_names *n);

/* --- names_blobs.c --- */
struct bh_call;
/* As bh_names_list_blobs; r NULL: none. call (may be NULL): its limits. */
int reader_list_blobs(struct reader *r, struct bh_blob_list **out, const struct bh_call *call,
                      struct bh_error *err);

/* --- names_op.c --- */

#define NEED (-1) /* something is not in memory: o->need */

enum need_what { NEED_INODE, NEED_NAME, NEED_XATTRS, NEED_LIST };
struct need {
    enum need_what what;
    uint64_t ino;
    const char *name;
    size_t len;
};

#define CHANGES 4
struct op {
    struct bh_names *n;
    bool wait, change;
    struct bh_error *err;
    int64_t now;
    struct need need;
    struct object **pins;
    size_t pin_count, pin_cap;
    struct inode *kept; /* whose attributes are not dropped until the end */
    /* what it changes */
    struct {
        struct inode *o;
        struct bh_inode to;
        bool gone, fresh;
    } inode[CHANGES];
    struct {
        struct entry *o;
        bool present, fresh;
        uint64_t ino;
        uint8_t type;
        uint8_t *value;
        uint32_t value_len;
    } entry[2];
    unsigned inodes, entries;
    bool removal;
    struct bh_inode lost; /* gone for good by it; ino 0: nothing */
    struct bh_names_listing *listing;
};

#define OP(names, may_wait, changes, error)                                                        \
    {                                                                                              \
        .n = (names), .wait = (may_wait), .change = (changes), .err = (error)                      \
    }

/* Calls fn with the mutex until what it needs is in memory. fn returns NEED before it has changed
 * anything. */
int op_run(struct op *o, int (*fn)(struct op *o, void *arg), void *arg);
int op_pin(struct op *o, struct object *object);
/* ENOENT, NEED. */
int op_inode(struct op *o, uint64_t ino, struct inode **out);
/* ENOTDIR too; ENOENT for a removed one. */
int op_dir(struct op *o, uint64_t ino, struct inode **out);
/* *out NULL: there is no such name. EIO, NEED. */
int op_name(struct op *o, struct inode *dir, const char *name, size_t len, struct inode **out);
/* ENAMETOOLONG, ENOENT, EINVAL. */
int check_name(const char *name, size_t *len);

/* The state that is to be; changed by the caller until op_commit. */
struct bh_inode *op_change(struct op *o, struct inode *i);
int op_change_name(struct op *o, struct inode *dir, const char *name, size_t len,
                   const struct bh_inode *to); /* NULL: none */
int op_change_new(struct op *o, const struct bh_inode *i, const char *target, struct inode **out);
/* A link less: gone if nobody refers to it. */
void op_change_gone(struct op *o, struct inode *i);
int op_commit(struct op *o);

/* --- names_load.c --- */

void load_begin(struct bh_names *n, struct load *l); /* waits for the gate */
void load_end(struct bh_names *n, struct load *l);
/* The same without the mutex, for what reads the database beside memory. *tables: there is
 * something to read. load_close is false if the content was swapped meanwhile: it is to be done
 * again. */
int load_open(struct bh_names *n, struct load *l, bool *tables, struct bh_error *err);
bool load_close(struct bh_names *n, struct load *l);
/* What o->need says; with the mutex, which it lets go of meanwhile. */
int load_need(struct op *o);
/* With the mutex. *out: what memory has of it now. */
int load_put_inode(struct bh_names *n, const struct bh_inode *i, const char *target,
                   size_t target_len, bool xattrs, struct inode **out);
/* The sentence for what load_put_inode or load_put_name failed with; its number. */
int load_failed(int rc, struct bh_error *err);
int load_put_name(struct bh_names *n, struct inode *dir, const char *name, size_t len, uint64_t ino,
                  uint8_t type, struct entry **out);

/* --- names_list.c --- */
int load_list(struct op *o, struct inode *dir);

/* --- names_checkpoint.c --- */

/* Before an object that the checkpoint under way has not taken down is changed. With the mutex. */
int batch_take(struct bh_names *n, struct object *o);
int checkpoint(struct bh_names *n, struct bh_error *err);
/* Whether the thread should make one now; else *ms is when to look again, -1: when it is woken. */
bool checkpoint_is_due(struct bh_names *n, int64_t *ms);
/* The content of the database is looked at as if it were new; the log begins. With `writing`. */
int names_begin(struct bh_names *n, struct bh_error *err);

/* --- names.c --- */
/* Ends without a checkpoint, as a kill would: for tests. */
void names_drop(struct bh_names *n);

#endif
