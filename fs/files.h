/* files/ at the clients' door. What the fs/files*.c share; the rest of the daemon needs what
 * daemon.h says of them.
 *
 * The kernel knows a file by a number made of its inode and of the epoch, which a swap of the
 * content (restore, switch) raises: what it knew before is another file then. Such numbers are odd,
 * those of nodes.c are addresses, so even.
 *
 * A request is a struct request: its run function answers, or returns what is to be answered. It is
 * tried at once on the loop thread, where it must not wait; EAGAIN there sends a copy of it to a
 * worker, which may. */
#ifndef BHFS_FILES_H
#define BHFS_FILES_H

#include <limits.h>

#include "daemon.h"
#include "interrupt.h"
#include "store/files.h"

/* st_ino: none of the mount's other numbers is there. */
#define FILES_INO ((uint64_t)1 << 32)

struct request;
/* Answers req and returns 0, or returns an errno; with wait false EAGAIN: again with true. */
typedef int request_fn(struct request *r, bool wait, struct bh_error *err);

struct request {
    fuse_req_t req;
    struct daemon *daemon;
    struct bh_files *files;
    request_fn *run;
    request_fn
        *prepare; /* NULL, or: a worker calls it first, outside the gate; it does not answer */
    uint64_t ino, other; /* inodes */
    unsigned epoch;      /* of `ino` */
    bool fetches;        /* may wait for the bucket for long */
    bool changes;        /* names: enters the gate */
    bool drops_set_id;   /* the file loses its set-id bits */
    struct fuse_file_info fi;
    struct bh_inode what;
    unsigned flags;
    uint64_t offset;
    size_t size;
    const char *name, *new_name; /* "": none */
    const void *data;            /* of data_size bytes */
    size_t data_size;
    atomic_bool cancel;         /* of the copy: the client does not want it any more */
    struct interrupt interrupt; /* the same */
    const struct bh_call *call; /* with its limits; NULL on the loop thread */
};

/* Zeroed but for what every request has. False: it was answered (ESTALE, ENOENT). */
bool request_init(struct request *r, fuse_req_t req, fuse_ino_t ino, request_fn *run);
/* The same of an open file or directory, which is there whatever was swapped. */
void request_on(struct request *r, fuse_req_t req, const struct fuse_file_info *fi,
                request_fn *run);
void request_start(struct request *r);
/* Before the answer of one that fetches: the client cannot interrupt it any more. */
void request_settle(struct request *r);

/* An open file. */
struct handle {
    struct bh_open *open;
    struct inode_locks *locks; /* NULL: there was no memory, so it cannot be locked */
    uint64_t ino;
    unsigned epoch; /* in which it was opened */
    LIST_ENTRY(handle) all;
    bool writing;
};
static inline struct handle *handle_of(const struct fuse_file_info *fi)
{
    return (struct handle *)(uintptr_t)fi->fh;
}

/* The mode of a file that is written by others than root (inode(7)). */
static inline unsigned files_without_set_id(unsigned mode)
{
    if (S_ISDIR(mode) || S_ISLNK(mode))
        return mode;
    return mode & ~(unsigned)(S_ISUID | (mode & S_IXGRP ? S_ISGID : 0));
}
void files_stat(const struct bh_inode *i, struct stat *st);
/* As the file is now. */
struct fuse_entry_param files_entry(const struct request *r, struct bh_inode *i);
fuse_ino_t files_number(unsigned epoch, uint64_t ino);

/* files_dir.c: takes back a reference that was taken in that epoch. With the gate entered. */
void files_let_go(struct daemon *d, uint64_t ino, unsigned epoch);
/* Takes over a reference to a directory that was removed just now. The same. */
void files_keep_removed(struct daemon *d, uint64_t ino);
void files_drop_removed(struct daemon *d); /* all of them: the mount is gone */
/* files_io.c: frees those that the kernel has not released: the mount is gone. */
void files_drop_handles(void);

/* files_xattr.c: for views, too. */
bool files_xattr_is_ours(const char *name); /* user.bh.*, but user.bh.meta.* */
int files_xattr_check(const char *name);    /* 0, or what a name is refused with */
/* What is told of a content. */
struct files_content {
    struct bh_blobs *blobs;
    const struct bh_inode *inode;
    enum bh_blob_state state;
    const char *mime;
    const char *object_key; /* NULL or "": the usual one */
};
/* Whether the value may depend on the content's row in table filestore. */
bool files_xattr_needs_row(const char *name);
/* If that attribute is the MIME type: of a file of that name, the live row's (in *row) if neither
 * name nor what is here says it; into c->mime. Sleeps. As bh_files_find_row, but not ENOENT. */
int files_xattr_mime(struct bh_files *f, const char *attribute, const char *name,
                     struct files_content *c, struct bh_blob_row *row, struct bh_error *err);
/* The value of one of ours. Sleeps (a link may need credentials that must be looked up). ENODATA,
 * ENOMEM, and for user.bh.url what bh_bucket_presign returns. */
int files_xattr_value(const char *name, const struct files_content *c, struct bh_strbuf *out,
                      struct bh_error *err);
/* All names that who asked may see: of `list`, of len bytes, and ours. */
void files_xattr_list(fuse_req_t req, const char *list, size_t len, struct bh_strbuf *out);

/* files_locks.c: of one inode, while handles to it are open. NULL: no memory. */
struct inode_locks *files_locks_hold(uint64_t ino);
void files_locks_drop(struct daemon *d, struct handle *h);
void files_locks_flush(struct daemon *d, const struct handle *h, uint64_t owner);

#endif
