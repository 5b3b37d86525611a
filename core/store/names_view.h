/* The names of a snapshot: its names.db, read and never written, without a log and without what
 * names.h keeps in memory. A file's content is the one that was published: where a row says that it
 * had other content by then, which only its machine knew (its column data), that is not in the
 * snapshot.
 *
 * Any thread, several at once: a few connections, and those beyond them wait. Functions return 0 or
 * a positive errno with a sentence, which names the snapshot: EIO, names.db is damaged; ENOTSUP, it
 * is of a newer bhfs; and what reading ended with, as ETIMEDOUT or ECANCELED (call). */
#ifndef BH_STORE_NAMES_VIEW_H
#define BH_STORE_NAMES_VIEW_H

#include "bucket/bucket.h"
#include "store/names.h"

struct bh_names_view;

/* Bytes of names.db, all of [offset, offset + len), which is within its size. Any thread. */
typedef int bh_names_view_read_fn(void *arg, uint64_t offset, void *buf, size_t len,
                                  const struct bh_call *call, struct bh_error *err);

struct bh_names_view_options {
    bh_names_view_read_fn *read;
    void *arg;
    uint64_t size;        /* of names.db; 0: an empty tree */
    const char *what;     /* "snapshot ID", in sentences; copied */
    struct bh_inode root; /* the root directory of an empty tree: owner, mode, times */
};

/* Nothing is read yet. ENOMEM. */
int bh_names_view_new(struct bh_names_view **out, const struct bh_names_view_options *o,
                      struct bh_error *err);
/* Nobody uses it. NULL is fine. */
void bh_names_view_free(struct bh_names_view *v);

/* ENOENT. */
int bh_names_view_get(struct bh_names_view *v, uint64_t ino, struct bh_inode *out,
                      const struct bh_call *call, struct bh_error *err);
/* ENOENT, also where dir is no directory. */
int bh_names_view_lookup(struct bh_names_view *v, uint64_t dir, const char *name,
                         struct bh_inode *out, const struct bh_call *call, struct bh_error *err);
/* As bh_names_readlink, bh_names_getxattr, bh_names_listxattr. */
int bh_names_view_readlink(struct bh_names_view *v, uint64_t ino, char **target,
                           const struct bh_call *call, struct bh_error *err);
int bh_names_view_getxattr(struct bh_names_view *v, uint64_t ino, const char *name, void **value,
                           size_t *len, const struct bh_call *call, struct bh_error *err);
int bh_names_view_listxattr(struct bh_names_view *v, uint64_t ino, char **list, size_t *len,
                            const struct bh_call *call, struct bh_error *err);

/* All of a directory, by name, with their inodes. One allocation, freed by the caller with free().
 * Where an inode is damaged only its number is set: that does not hide the others. */
struct bh_names_view_listing {
    size_t count;
    struct {
        struct bh_inode inode;
        const char *name;
    } entries[];
};
int bh_names_view_list(struct bh_names_view *v, uint64_t dir, struct bh_names_view_listing **out,
                       const struct bh_call *call, struct bh_error *err);

/* As bh_names_list_blobs and bh_names_find_blob. */
int bh_names_view_list_blobs(struct bh_names_view *v, struct bh_blob_list **out,
                             const struct bh_call *call, struct bh_error *err);
int bh_names_view_find_blob(struct bh_names_view *v, const uint8_t hash[BH_SHA256_LEN],
                            uint64_t *size, const struct bh_call *call, struct bh_error *err);

#endif
