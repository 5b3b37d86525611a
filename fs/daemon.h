/* The mount: what the files of fs/ share. A FUSE handler here translates a request into a call of
 * core/ and answers; it never waits for SQL, the network or a disk: what needs these goes to a
 * worker or a command thread. */
#ifndef BHFS_DAEMON_H
#define BHFS_DAEMON_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "internal.h"

/* What a program built around the daemon (the tests') hangs into it. */
struct bhfs_extension {
    int (*started)(struct bh *b); /* after the mount works; non-zero ends it */
    void (*stopping)(void);       /* before the database is closed */
};

/* Requests by kind, for metrics. */
enum op {
    OP_LOOKUP,
    OP_GETATTR,
    OP_SETATTR,
    OP_OPEN,
    OP_CREATE,
    OP_READ,
    OP_WRITE,
    OP_SETLK,
    OP_GETLK,
    OP_FLUSH,
    OP_RELEASE,
    OP_FSYNC,
    OP_FSYNCDIR,
    OP_UNLINK,
    OP_OPENDIR,
    OP_READDIR,
    OP_FORGET,
    OP_STATFS,
    OP_OTHER,
    OP_COUNT
};
extern const char *const op_names[OP_COUNT];

struct workers;
struct notify;
struct follower;
struct walindex;

struct daemon {
    struct bh *bh;
    struct bh_live *live;
    struct bh_store *store;
    struct bh_locks *locks;
    struct bh_file *db;
    struct fuse_session *session;
    struct workers *workers;
    struct workers *fetchers; /* for what waits for the bucket, so that nothing else waits for it */
    struct workers *file_workers;  /* the same for files/: for what a disk or a lock may hold up */
    struct workers *file_fetchers; /* and the bucket */
    struct bh_files *files;        /* NULL: there is no files/ */
    atomic_uint files_epoch;       /* rises when their content is swapped */
    struct workers *waiters;       /* who answer a verb in time, whatever the fetchers wait for */
    struct notify *notify;
    struct follower *follower;
    struct walindex *walindex;
    char *mountpoint; /* absolute */
    char *display_url;
    bool read_only;
    bool memory; /* the state directory is on tmpfs: syncing costs nothing */
    uid_t uid;
    gid_t gid;
    int64_t started_ms;
    mode_t root_mode; /* of the root directory, as chmod and chown of it say; of the loop thread
                         only */
    uid_t root_uid;
    gid_t root_gid;
    atomic_uint_fast64_t requests[OP_COUNT];
    atomic_uint_fast64_t next_handle;
    atomic_bool closing;

    pthread_mutex_t status_mutex; /* last_status */
    char last_status[BH_ERROR_TEXT_MAX];
};

static inline struct daemon *daemon_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static inline void count(struct daemon *d, enum op op)
{
    atomic_fetch_add_explicit(&d->requests[op], 1, memory_order_relaxed);
}

/* Kernel caches of the database's files: everything is invalidated explicitly. */
#define CACHE_SECONDS 3600.0
/* The kernel asks for no more at once. */
#define READ_MAX (1u << 20)

/* --- protocol.c: what libfuse does not know of the kernel's protocol --- */
/* Between mounting and the first request. 0 or errno. */
int protocol_extend(struct fuse_session *session);
struct fuse_in_header;
/* Of each request, with its body of `len` bytes, before it is handled; on the loop thread. */
void protocol_note(const struct fuse_in_header *head, const void *body, size_t len);
/* Whether the file of this request shall lose its set-id bits (the kernel has not done it); on the
 * loop thread. */
bool protocol_drops_set_id(void);

/* --- nodes.c: what the kernel knows by number --- */
enum node_kind { NODE_ROOT, NODE_CTL_DIR, NODE_FILE, NODE_CTL, NODE_VIEW };

struct node {
    enum node_kind kind;
    struct bh_file *file;   /* NODE_FILE: counted */
    int ctl;                /* NODE_CTL: which control file */
    struct view *view;      /* NODE_VIEW: its own */
    uint64_t lookups;       /* the kernel's references */
    uint64_t read_end;      /* of the last READ; private to readahead.c, on the loop thread */
    bool has_declined;      /* the same */
    LIST_ENTRY(node) all;   /* private to nodes.c */
    struct node *next_view; /* private to nodes.c */
};

struct node *node_of(fuse_ino_t ino);
fuse_ino_t node_ino(const struct node *n);
struct node *node_ctl_dir(void);
/* A reference more for the kernel. NULL: no memory. */
struct node *node_for_file(struct bh_file *f); /* the same one while the file has its name */
struct node *node_for_ctl(int ctl, bool fresh);
struct node *node_for_view(struct view *v); /* the same one for equal keys; v is taken over */
void node_forget(fuse_ino_t ino, uint64_t lookups);
void nodes_forget_all(void); /* after the unmount */
/* The number the kernel knows the file by; 0 if it does not know it. */
fuse_ino_t node_known(struct bh_file *f);

/* --- tree.c --- */
extern const struct fuse_lowlevel_ops tree_ops;

/* --- root.c: the root directory and .ctl as directories --- */
/* Answers a lookup. n: with the kernel's reference; NULL: no memory. e: all but the number. */
void reply_entry(fuse_req_t req, struct node *n, struct fuse_entry_param e);
void reply_absent(fuse_req_t req, double timeout);
/* To who asked for size bytes of extended attributes, or (0) how many there are. */
void reply_xattr(fuse_req_t req, size_t size, const void *value, size_t len);
/* Read, changed and made at that moment. */
void stat_set_time(struct stat *st, int64_t ms);
/* Entries of a directory, of those from `from` on as many as there is room for. */
struct listing {
    fuse_req_t req;
    char *buf;
    size_t size, used;
    off_t from, slot; /* slot: of the next one that is added */
    bool plus;        /* for a READDIRPLUS */
};
int listing_add(struct listing *l, const char *name, ino_t ino, mode_t mode); /* ENOBUFS */
/* One with attributes, if it is for a READDIRPLUS; next: where the listing goes on after it. False:
 * there is no room. */
bool listing_put(struct listing *l, const char *name, const struct fuse_entry_param *e, off_t next);
/* n: of the root, .ctl, a control file or a file of the database. How long the kernel may keep it.
 */
double root_fill_stat(struct daemon *d, const struct node *n, struct stat *st);
void root_setattr(fuse_req_t req, struct node *n, const struct stat *attr, int to_set);
/* Nothing is made, removed or renamed in that directory of the root, .ctl or a view: EPERM or
 * EROFS, with a sentence. */
void root_refuse(fuse_req_t req, const struct node *dir, const char *name);
void root_lookup(fuse_req_t req, const char *name);
void root_lookup_ctl(fuse_req_t req, const char *name);
void root_list(struct daemon *d, const struct node *n, struct listing *l);

/* --- dbfile.c: live.db and its side files --- */
void dbfile_stat(struct daemon *d, struct bh_file *f, struct stat *st);
double dbfile_attr_seconds(const struct bh_file *f); /* how long the kernel may keep that */
void dbfile_setattr(fuse_req_t req, struct node *n, struct stat *attr, int to_set);
void dbfile_open(fuse_req_t req, struct node *n, struct fuse_file_info *fi);
void dbfile_create(fuse_req_t req, const char *name, mode_t mode, struct fuse_file_info *fi);
void dbfile_unlink(fuse_req_t req, const char *name);
void dbfile_read(fuse_req_t req, struct node *n, size_t size, off_t off,
                 const struct fuse_file_info *fi);
void dbfile_write(fuse_req_t req, struct node *n, const char *buf, size_t size, off_t off,
                  const struct fuse_file_info *fi);
void dbfile_fsync(fuse_req_t req, struct node *n);
void dbfile_fsyncdir(fuse_req_t req);
void dbfile_flush(fuse_req_t req, struct node *n, struct fuse_file_info *fi);
void dbfile_release(fuse_req_t req, struct node *n, struct fuse_file_info *fi);
/* --- dblocks.c --- */
void dbfile_getlk(fuse_req_t req, struct node *n, struct fuse_file_info *fi, struct flock *lock);
void dbfile_setlk(fuse_req_t req, struct node *n, struct fuse_file_info *fi, struct flock *lock,
                  bool wait);
/* A client of -shm may have been the last. */
void dbfile_shm_left(struct daemon *d, struct bh_file *f);
/* A refusal that people should find explained: in last_status and the log. */
void explain(struct daemon *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What last_status shows from now on. False: it showed that before. */
bool note_status(struct daemon *d, const char *text);

/* --- parked.c: fcntl locks, whatever they are on --- */
void lock_fill(struct bh_lock_request *q, struct bh_lockset *set, fuse_req_t req,
               const struct fuse_file_info *fi, const struct flock *lock);
/* F_GETLK. Answers. */
void lock_test(fuse_req_t req, const struct bh_lock_request *q, struct flock *lock);
/* F_SETLK, or (wait) F_SETLKW: answers, now or later. *q is copied; put(kept) is called when its
 * set is not needed any more. */
void lock_take(fuse_req_t req, const struct bh_lock_request *q, bool wait, void (*put)(void *kept),
               void *kept);

/* --- readahead.c --- */
/* Whether a READ is answered EAGAIN: the kernel's guess, of what is not here (absent). Told of
 * every READ of a database; on the loop thread. */
bool readahead_declines(struct node *n, const struct fuse_file_info *fi, uint64_t offset,
                        size_t size, bool absent);

/* --- views*.c: snapshots/ and branches/, and blobs/ --- */
bool views_exist(struct daemon *d); /* not where snapshot.history is off */
/* What of them a listing of the root has; NULL beyond the last. */
const char *views_root_name(struct daemon *d, int i);
ino_t views_root_ino(int i);
bool views_lookup_in_root(fuse_req_t req, const char *name); /* false: no such name */
void views_lookup(fuse_req_t req, struct node *n, const char *name);
void views_getattr(fuse_req_t req, struct node *n);
void views_open(fuse_req_t req, struct node *n, struct fuse_file_info *fi);
void views_read(fuse_req_t req, struct node *n, size_t size, off_t off, struct fuse_file_info *fi);
void views_release(fuse_req_t req, struct node *n, struct fuse_file_info *fi);
void views_opendir(fuse_req_t req, struct node *n, struct fuse_file_info *fi);
void views_readdir(fuse_req_t req, struct node *n, size_t size, off_t off,
                   struct fuse_file_info *fi, bool plus);
void views_releasedir(fuse_req_t req, struct node *n, struct fuse_file_info *fi);
void views_readlink(fuse_req_t req, struct node *n);
void views_getxattr(fuse_req_t req, struct node *n, const char *name, size_t size);
void views_listxattr(fuse_req_t req, struct node *n, size_t size);
void views_lseek(fuse_req_t req, struct node *n, off_t off, int whence);
/* In files/ or blobs/ of a snapshot or branch, or in the blobs/ of the root: nothing changes there.
 */
bool views_is_fixed(const struct node *n);
/* Why that name is not made, changed or removed in there. */
void views_explain(struct daemon *d, const struct node *dir, const char *name);
void views_mkdir(fuse_req_t req, struct node *n, const char *name);
void views_rmdir(fuse_req_t req, struct node *n, const char *name);
void views_rename(fuse_req_t req, struct node *n, const char *name, struct node *to,
                  const char *new_name, unsigned flags);
/* This mount has changed branches or labels: what is known of them is asked anew. Any thread. */
void views_changed(void);
void views_end(void); /* after the unmount; nobody asks any more */

/* --- files*.c: files/ --- */
#define FILES_NAME "files"
#define BLOBS_NAME "blobs"
/* What the kernel knows by an odd number. */
static inline bool is_files(fuse_ino_t ino)
{
    return (ino & 1) && ino != FUSE_ROOT_ID;
}
void files_attach(struct daemon *d); /* once the database runs */
void files_detach(struct daemon *d); /* when the mount is gone */
bool files_exist(struct daemon *d);
fuse_ino_t files_root(struct daemon *d);
ino_t files_root_ino(void);
void files_lookup_root(fuse_req_t req);
void files_lookup(fuse_req_t req, fuse_ino_t dir, const char *name);
void files_getattr(fuse_req_t req, fuse_ino_t ino);
void files_setattr(fuse_req_t req, fuse_ino_t ino, const struct stat *attr, int to_set);
/* mknod, mkdir, symlink (target not NULL). */
void files_make(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, dev_t rdev,
                const char *target);
void files_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t dir, const char *name);
void files_remove(fuse_req_t req, fuse_ino_t dir, const char *name, bool is_dir);
void files_rename(fuse_req_t req, fuse_ino_t dir, const char *name, fuse_ino_t new_dir,
                  const char *new_name, unsigned flags);
void files_readlink(fuse_req_t req, fuse_ino_t ino);
void files_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void files_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                   struct fuse_file_info *fi, bool plus);
void files_releasedir(fuse_req_t req, struct fuse_file_info *fi);
void files_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void files_create(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode,
                  struct fuse_file_info *fi);
void files_release(fuse_req_t req, struct fuse_file_info *fi);
void files_read(fuse_req_t req, size_t size, off_t off, const struct fuse_file_info *fi);
void files_write(fuse_req_t req, const char *buf, size_t size, off_t off,
                 const struct fuse_file_info *fi);
void files_flush(fuse_req_t req, struct fuse_file_info *fi);
void files_fsync(fuse_req_t req, struct fuse_file_info *fi, bool is_dir);
void files_fallocate(fuse_req_t req, int mode, off_t off, off_t len, struct fuse_file_info *fi);
void files_lseek(fuse_req_t req, off_t off, int whence, struct fuse_file_info *fi);
void files_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void files_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void files_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                    size_t size, int flags);
void files_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);
void files_getlk(fuse_req_t req, struct fuse_file_info *fi, struct flock *lock);
void files_setlk(fuse_req_t req, struct fuse_file_info *fi, struct flock *lock, bool wait);

/* --- ctl_files.c: which files there are in .ctl/ --- */
int ctl_find(const char *name); /* -1: no such file */
const char *ctl_name(int ctl);  /* NULL beyond the last */
bool ctl_is_command(int ctl);

/* --- ctl.c: requests to them --- */
void ctl_stat(struct daemon *d, int ctl, struct stat *st);
void ctl_setattr(fuse_req_t req, struct node *n, int to_set, struct fuse_file_info *fi);
void ctl_open(fuse_req_t req, struct node *n, struct fuse_file_info *fi);
void ctl_read(fuse_req_t req, struct node *n, size_t size, off_t off, struct fuse_file_info *fi);
void ctl_write(fuse_req_t req, struct node *n, const char *buf, size_t size,
               struct fuse_file_info *fi);
void ctl_release(fuse_req_t req, struct fuse_file_info *fi);
void ctl_poll(fuse_req_t req, struct node *n, struct fuse_file_info *fi,
              struct fuse_pollhandle *ph);
/* A part of a text, as a READ asks for it. */
void reply_text(fuse_req_t req, const struct bh_strbuf *text, size_t size, off_t off);
/* Wakes who polls status or log. Any thread. */
void ctl_event(void);
/* Commands under way end (cancelled) and are waited for. */
void ctl_shutdown(void);

/* --- ctl_text.c: what the control files show --- */
void text_status(struct daemon *d, struct bh_strbuf *out);
void text_status_json(struct daemon *d, struct bh_strbuf *out);
void text_metrics(struct daemon *d, struct bh_strbuf *out);
void text_flush(struct daemon *d, struct bh_strbuf *out);
void text_branch(struct daemon *d, struct bh_strbuf *out);
void text_hydrate(struct daemon *d, struct bh_strbuf *out);

/* --- workers.c: threads for what may sleep --- */
/* They keep f's loop thread company. f NULL: threads are made when they are needed. */
int workers_new(struct workers **out, unsigned threads, struct follower *f);
void workers_free(struct workers *w); /* runs what is queued first */
/* 0, or ENOMEM: fn will not be called. */
int workers_run(struct workers *w, void (*fn)(void *arg), void *arg);

/* What is done for a request to a file, on another thread. */
struct file_task {
    void (*run)(const struct file_task *t);
    struct daemon *daemon;
    fuse_req_t req;       /* NULL: nobody waits for it */
    struct bh_file *file; /* NULL: the directory */
    uint64_t offset;
    size_t size;
    const void *data; /* of size bytes, or NULL */
    uint64_t handle;
};
/* Runs a copy of it, data included, which keeps a reference to the file. False: no memory. */
bool file_task_start(struct workers *w, const struct file_task *t);

/* --- notify.c: the kernel's caches --- */
int notify_new(struct notify **out, struct daemon *d);
void notify_free(struct notify *n);
struct bh_live_hooks notify_hooks(struct notify *n);
/* The kernel holds bytes that were refused here (a write through a mapping): makes it forget them,
 * soon. Any thread. */
void notify_refused(struct notify *n, struct bh_file *f, uint64_t offset, uint64_t len);
/* The kernel is about to hold these bytes of the database. Before they are read or written. */
void notify_held(struct notify *n, uint64_t offset, uint64_t len);
uint64_t notify_total(struct notify *n);

/* --- walindex.c: the clients' wal-index (-shm), reached by a process beside the daemon --- */
/* From one thread at a time, never a loop thread: see struct bh_live_hooks. */
int walindex_new(struct walindex **out, const char *mountpoint);
void walindex_free(struct walindex *w); /* after the mount is gone */
int walindex_pull(struct walindex *w, struct bh_file *f, unsigned regions, const uint32_t **words);
int walindex_push(struct walindex *w, struct bh_file *f, unsigned regions,
                  const struct bh_shm_word *words, size_t count);
void walindex_release(struct walindex *w, struct bh_file *f);

/* --- loop.c --- */
extern char loop_buffer[READ_MAX]; /* of the loop thread, for the answer to a READ */
/* Loop thread, in a handler: the memory in which its request is, with the data of a WRITE, is the
 * caller's until he gives it back, on any thread. */
void *loop_keep_request(void);
void loop_give_back(void *memory); /* NULL is fine */
/* Serves requests until the mount ends. */
void loop_run(struct daemon *d);

/* --- cpu.c: keeps the loop thread where its busiest client runs --- */
int follower_new(struct follower **out, const char *setting, struct bh_error *err);
void follower_free(struct follower *f);
void follower_attach(struct follower *f); /* on the loop thread */
/* The calling thread goes where the loop thread goes. */
void follower_join(struct follower *f);
/* A thread that the loop thread makes has its place and its patience (cpu.c), which are not for who
 * does something else. Where that cannot be changed it is slower, and no less right. */
void follower_leave(void);
void follower_note(struct follower *f, pid_t tid);

/* --- mount.c, commands.c --- */
int bhfs_mount_main(int argc, char **argv, const struct bhfs_extension *ext);
int bhfs_main(int argc, char **argv, const struct bhfs_extension *ext);
int command_umount(int argc, char **argv);
int command_flush(int argc, char **argv);
int command_status(int argc, char **argv);
int command_probe(int argc, char **argv); /* probe.c */
int command_import(int argc, char **argv);
int export_mount(const char *mountpoint, const char *dest);
int command_export(int argc, char **argv);  /* inspect.c */
int command_inspect(int argc, char **argv); /* inspect.c */

#endif
