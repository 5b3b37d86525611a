/* snapshots/ and branches/: points in the history as directories, and verbs on them; files/ and
 * blobs/ in them, and the live blobs/ of the root, which nobody changes through the mount. What the
 * files views*.c share; the rest of the daemon needs what daemon.h says of them.
 *
 * Nothing that waits for the bucket, or for live.db, runs on the loop thread: a request is answered
 * at once from what is known in memory, or becomes a task of d->fetchers (of the history),
 * d->file_fetchers or d->file_workers (of files/ and blobs/). So what may ask the bucket has a
 * `call`: where that is NULL it does not, and EAGAIN says that it would have to. */
#ifndef BHFS_VIEWS_H
#define BHFS_VIEWS_H

#include <limits.h>

#include "daemon.h"
#include "interrupt.h"
#include "store/names_view.h"

enum view_kind {
    VIEW_SNAPSHOTS, /* snapshots/, branches/NAME/snapshots/ */
    VIEW_BRANCHES,  /* branches/ */
    VIEW_BRANCH,    /* branches/NAME/ */
    VIEW_SNAPSHOT,  /* snapshots/X/, branches/NAME/snapshots/X/ */
    VIEW_DB,        /* live.db in one of the last two; of one snapshot, whatever the branch does */
    VIEW_INFO,      /* info beside it */
    VIEW_FILES,     /* files/ beside them, of one snapshot; the rest has a set: */
    VIEW_FILE,      /* what is in files/, directories too */
    VIEW_BLOBS,     /* blobs/ beside them; or in the root, of the live files */
    VIEW_BLOB,      /* a blob in it */
};

/* What all nodes of one files/ or blobs/ have in common. Counted. */
struct view_set {
    atomic_uint users;
    bool fixed; /* it is of the snapshot e */
    struct bh_index_entry e;
    char path[]; /* in the mount */
};

/* What a node of kind NODE_VIEW stands for. Never changes: where a path means another snapshot than
 * before it is another node. */
struct view {
    enum view_kind kind;
    bool fixed;                     /* it is of the snapshot e */
    const struct bh_index_entry *e; /* if fixed */
    ino_t ino;
    const char *branch; /* "" below snapshots/: the current one */
    const char *name;   /* of the snapshot's directory, an id or a label; "" above that. Of a file
                           or a blob: its own */
    const char *path;   /* in the mount; of a file or a blob: of its set */
    const char *key;    /* tells nodes apart: the path, and the snapshot */

    struct view_set *set;   /* NULL, but for the last four kinds */
    struct bh_inode *inode; /* of the same, but for VIEW_BLOBS; does not change any more */
    const char *object_key; /* of a blob that is not under our key; else "" */
};

/* --- views_new.c --- */
/* NULL: no memory. e: NULL, or the snapshot that it is fixed to. */
struct view *view_new(enum view_kind kind, const char *branch, const char *name,
                      const struct bh_index_entry *e);
void view_free(struct view *v); /* NULL is fine */
/* Whether they stand for the same: one node is enough. */
bool view_is_same(const struct view *a, const struct view *b);
bool view_is_dir(const struct view *v);
bool view_has_verbs(const struct view *v); /* mkdir, rmdir and mv do something in it */
/* The number of NAME in the directory at path (NULL: of path itself). */
ino_t view_ino(const char *path, const char *name);

/* --- views.c --- */
/* How long the kernel may keep a name in that directory, and the attributes. */
double view_entry_seconds(const struct view *dir);
double view_attr_seconds(const struct view *v);
/* Its attributes, if that can be told at once. */
int view_stat(struct daemon *d, const struct view *v, struct stat *st, const struct bh_call *call,
              struct bh_error *err);

/* How long mkdir, rmdir, mv and the lookup that comes before them wait for the bucket. */
static inline int64_t dir_timeout(struct daemon *d)
{
    return bh_config_of(d->bh)->mount.dir_timeout_ms;
}

/* --- views.c: answering --- */

struct view_task;
/* Answers t->req and returns 0, or returns an errno with a sentence. */
typedef int view_run_fn(struct view_task *t, struct bh_error *err);

/* A request that waits for the bucket. */
struct view_task {
    fuse_req_t req;
    struct daemon *daemon;
    const struct view *view; /* the kernel keeps its node while the request is under way */
    view_run_fn *run;
    struct workers *workers; /* who run it; NULL: d->fetchers */
    bool verb;               /* one of few at a time, and every failure is told */
    atomic_uint users;
    atomic_bool answered;
    atomic_bool cancel; /* the client does not want it any more */
    struct interrupt interrupt;
    struct bh_call call;    /* for what it calls: its limits */
    struct view_task *next; /* of verbs that wait */
    struct view *own;       /* a verb's view: it may go on when the request has ended */
    int64_t answer_by_ms;   /* of a verb, in bh_mono_ms() */
    bool ended;             /* the same; with the mutex of views_verbs.c */
    size_t size;
    off_t offset;
    struct fuse_file_info fi;
    char name[NAME_MAX + 1], new_name[NAME_MAX + 1];
};

/* NULL: no memory; req was answered then. */
struct view_task *view_task_new(fuse_req_t req, const struct view *v, view_run_fn *run,
                                const char *name);
void view_task_start(struct view_task *t);
/* Before an answer: nobody interrupts it any more. False: it was answered (a verb, that it takes
 * too long). */
bool view_task_done(struct view_task *t);
/* Runs it and answers. */
void view_task_run(struct view_task *t);
/* A user less; the last one's frees it. */
void view_task_put(struct view_task *t);
/* Looks t->name up in t->view and answers with an entry. */
int view_run_lookup(struct view_task *t, struct bh_error *err);

/* --- views_dirs.c --- */
ino_t view_parent_ino(const struct view *v); /* of the directory that it is in; not of files */
/* The text of an info file: of a snapshot, or of a branch. */
int view_info_text(struct daemon *d, const struct view *v, struct bh_strbuf *out,
                   const struct bh_call *call, struct bh_error *err);

/* --- views_verbs.c --- */
/* Queues it: at most four at a time, so that they cannot occupy all fetchers. Who asked has an
 * answer at t->answer_by_ms at the latest. */
int verb_start(struct view_task *t);

/* --- views_cache.c: what is known of the history; any thread. What is in the cache is a second old
 * at most; what this mount does itself is seen at once (views_changed). --- */

/* All that is not dropped of one history, oldest first; counted. */
struct snaps {
    atomic_uint refs;
    struct bh_root index;
    size_t count;
    struct bh_index_entry *entries;
};
int snaps_get(struct daemon *d, const struct bh_head *head, struct snaps **out,
              const struct bh_call *call, struct bh_error *err);
void snaps_put(struct snaps *s); /* NULL is fine */

/* A branch; "" is the current one. ENOENT: there is none. */
struct branch {
    bool has_history; /* else it is upstream's, or has nothing yet: of head only the name counts */
    struct bh_head head;
};
int branch_get(struct daemon *d, const char *name, struct branch *out, const struct bh_call *call,
               struct bh_error *err);

/* An id or a label in the history of that branch. ENOENT: in it there is none. */
int snapshot_get(struct daemon *d, const struct branch *b, const char *name,
                 struct bh_index_entry *out, const struct bh_call *call, struct bh_error *err);

/* Labels in the history of that branch, an array freed by the caller. fresh: asks the bucket which
 * there are. */
struct label {
    char name[BH_BRANCH_MAX];
    char id[BH_SNAPSHOT_ID_MAX];
};
int labels_get(struct daemon *d, const struct branch *b, bool fresh, struct label **out,
               size_t *count, const struct bh_call *call, struct bh_error *err);

/* --- views_blocks.c: blocks of snapshots, as a client reads them a page at a time --- */
/* Bytes of a snapshot's database, or of its names.db. */
struct block_source {
    struct daemon *daemon;
    const struct bh_index_entry *e;
    bool names;
};
/* What is in memory: all of [offset, offset + len) or EAGAIN. */
int blocks_known(const struct block_source *s, uint64_t offset, void *buf, size_t len);
int blocks_read(const struct block_source *s, uint64_t offset, void *buf, size_t len,
                const struct bh_call *call, struct bh_error *err);

/* --- views_names.c: names.db of snapshots, those used last kept open --- */
struct open_names;
/* Reads nothing yet. ENOMEM. */
int names_get(struct daemon *d, const struct bh_index_entry *e, struct open_names **out,
              struct bh_error *err);
struct bh_names_view *names_view(struct open_names *n);
void names_put(struct open_names *n); /* NULL is fine */
void names_close_all(void);           /* nobody uses one */

/* --- views_files.c: files/ and blobs/ --- */
/* What is in a VIEW_FILES, VIEW_FILE or VIEW_BLOBS. NULL: no memory. name: in dir. */
struct view *view_child(const struct view *dir, enum view_kind kind, const char *name,
                        const struct bh_inode *i, const char *object_key);
ino_t view_child_ino(const struct view *dir, const struct bh_inode *i);
/* How a blob looks. */
struct bh_inode view_blob_inode(struct daemon *d, const struct view *dir,
                                const uint8_t hash[BH_SHA256_LEN], uint64_t size);
/* Reads the root directory's inode into a new VIEW_FILES. */
int view_files_root(struct daemon *d, struct view *v, const struct bh_call *call,
                    struct bh_error *err);
/* As find_child of views.c. */
int view_files_find(struct daemon *d, const struct view *dir, const char *name, struct view **out,
                    const struct bh_call *call, struct bh_error *err);
/* It has the time and the threads of files/. */
void view_files_task(struct view_task *t);
void view_files_open(fuse_req_t req, const struct view *v, struct fuse_file_info *fi);
void view_files_read(fuse_req_t req, const struct view *v, size_t size, off_t off,
                     struct fuse_file_info *fi);
void view_files_release(fuse_req_t req, struct fuse_file_info *fi);

/* --- views_files_dir.c --- */
void view_files_opendir(fuse_req_t req, const struct view *v, struct fuse_file_info *fi);
void view_files_readdir(fuse_req_t req, const struct view *v, size_t size, off_t off,
                        struct fuse_file_info *fi, bool plus);
void view_files_releasedir(fuse_req_t req, struct fuse_file_info *fi);

#endif
