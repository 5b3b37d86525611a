/* The file:// backend: a directory as a bucket. Private to dir*.c. In the directory are
 *
 * - a/b/c: the object a/b/c, where its key can be a path (dir_paths.c);
 * - .bhfs-meta/escaped/: objects whose key cannot;
 * - .bhfs-meta/meta/HH/HASH: the user metadata of one key (dir_meta.c);
 * - .bhfs-meta/multipart/ID/: an upload under way, `info` and its parts (dir_multipart.c);
 * - .bhfs-meta/tmp/: what is being written; leftovers go after a day;
 * - .bhfs-meta/locks/: lock files, taken with flock.
 *
 * Identity. The ETag is made of size and modification time. Every time that we write has
 * nanoseconds that no kernel tick and no archive has and differs from that of the object replaced,
 * so another put is another ETag; an edit by hand sets another time. A time in whole microseconds
 * was set by a program (tar, touch -d) or comes from a coarse file system, so other content may
 * have it too: the inode change time joins the ETag then.
 *
 * Metadata records name the size and time of the content that they belong to, are durable before
 * that content is renamed into place, and keep the entry of the content that is replaced: so each
 * crash leaves content with its own metadata. A file copied over an object by a person matches no
 * entry: it has no metadata. Backups that keep times (cp -a, rsync -a, tar) keep the metadata; a
 * plain cp -r makes objects without metadata, which is the safe direction. Hashes of the
 * content would bind closer, at the price of reading all of it. */
#ifndef BH_BUCKET_DIR_INTERNAL_H
#define BH_BUCKET_DIR_INTERNAL_H

#include <sys/stat.h>
#include <sys/types.h>

#include "bucket/bucket.h"
#include "bucket/bucket_util.h"
#include "util/cleanup.h"
#include "util/sha256.h"

#define DIR_META           ".bhfs-meta"
#define DIR_ESCAPED        DIR_META "/escaped"
#define DIR_MULTIPART      DIR_META "/multipart"
#define DIR_TMP            DIR_META "/tmp"
#define DIR_LOCKS          DIR_META "/locks"
#define DIR_RECORDS        DIR_META "/meta"
#define DIR_NAME_NEW       200 /* longest component that is stored as a path */
#define DIR_NAME_FOUND     255 /* longest component that a person's file may have */
#define DIR_PATH_MAX       4096
#define DIR_TMP_MAX_AGE_MS ((int64_t)24 * 3600 * 1000)

struct bh_dir {
    struct bh_bucket base;
    struct bh_counters counters;
    int root;
    char *path;
    mode_t dir_mode; /* as open as the bucket's directory is, less the umask */
    mode_t file_mode;
};

static inline struct bh_dir *bh_dir_of(struct bh_bucket *b)
{
    return (struct bh_dir *)b;
}

/* --- dir_paths.c --- */

/* errno of a system call as the contract knows it, with the sentence "KEY cannot be WHAT: ...". */
int bh_dir_fail(const struct bh_dir *d, struct bh_error *err, int code, const char *what,
                const char *key);

/* May key be a path with components of at most max_name bytes? Its path is the key itself then. */
bool bh_dir_is_natural(const char *key, size_t max_name);
void bh_dir_escaped_path(const char *key, char path[DIR_PATH_MAX]);
/* Percent-encodes s (everything but letters, digits, '-' and '_'); out has room for 3 * strlen(s)
 * + 1. */
void bh_dir_encode(const char *s, char *out);
/* The reverse, at most size - 1 bytes; false if s is not in the one form that bh_dir_encode makes.
 */
bool bh_dir_decode(const char *s, size_t len, char *out, size_t size);

enum bh_dir_walk {
    BH_DIR_FIND,   /* ENOENT if a directory is missing */
    BH_DIR_MAKE,   /* make what is missing */
    BH_DIR_DURABLE /* and fsync it, and what others may have made just now */
};
/* Opens the directory path ("" is the bucket itself) below the root, through no symbolic link.
 * ENOENT or ENOTDIR (a component is something else); ENODEV: the bucket's directory was removed.
 * Returns an errno of the system, without a sentence. */
int bh_dir_walk(const struct bh_dir *d, const char *path, enum bh_dir_walk how, int *fd);
/* The same for the directory that holds path; *name is set to the last component within path. */
int bh_dir_walk_parent(const struct bh_dir *d, const char *path, enum bh_dir_walk how, int *fd,
                       const char **name);
/* Removes the empty directories above path, none at or above the first keep bytes of it. */
void bh_dir_prune(const struct bh_dir *d, const char *path, size_t keep);

/* Takes the lock named kind and the hash's first byte. The lock ends when *fd is closed. */
int bh_dir_lock(const struct bh_dir *d, char kind, const char *hash, const char *what, int *fd,
                const struct bh_call *call, struct bh_error *err);

/* --- dir_meta.c --- */

struct bh_dir_object {
    int fd; /* -1: there is none */
    struct stat st;
    bool escaped;
};

/* Opens the object of key with open(2) flags (O_PATH, O_RDONLY); ENOENT with a sentence if there is
 * none. */
int bh_dir_find(const struct bh_dir *d, const char *key, int flags, struct bh_dir_object *o,
                struct bh_error *err);
/* As bh_dir_find, and fills info with the metadata that belongs to just this content. */
int bh_dir_find_info(const struct bh_dir *d, const char *key, int flags, struct bh_dir_object *o,
                     struct bh_object_info *info, struct bh_error *err);
/* Size, time and ETag; no metadata. */
void bh_dir_info(const struct stat *st, struct bh_object_info *info);

/* Makes a record that gives meta to the content with stat `now`, and keeps what `old` (may be NULL)
 * has; durable. */
int bh_dir_record_put(const struct bh_dir *d, const char *key, const char *hash,
                      const struct stat *now, const struct bh_meta *meta, const struct stat *old,
                      struct bh_error *err);
void bh_dir_record_remove(const struct bh_dir *d, const char *hash);
/* "meta NAME=VALUE" lines, as records and upload files have them. False: not such a line, or too
 * many. */
void bh_dir_meta_print(struct bh_strbuf *out, const struct bh_meta *meta);
bool bh_dir_meta_parse(const char *line, struct bh_meta *meta);

/* --- dir_write.c --- */

struct bh_dir_temp {
    int fd; /* -1: none */
    bool named;
    const struct bh_dir *dir;
    char name[40];
};

/* A new file in tmp/. bh_dir_temp_drop (or BH_DIR_TEMP) removes it unless it was moved away. */
int bh_dir_temp_new(const struct bh_dir *d, struct bh_dir_temp *t, const char *key,
                    struct bh_error *err);
void bh_dir_temp_drop(struct bh_dir_temp *t);
#define BH_DIR_TEMP __attribute__((cleanup(bh_dir_temp_drop))) struct bh_dir_temp

/* Writes the body; appends len bytes at `at` from another file (in the kernel where that goes). */
int bh_dir_fill(struct bh_dir *d, const struct bh_dir_temp *t, const struct bh_source *src,
                const char *key, const struct bh_call *call, struct bh_error *err);
int bh_dir_append(const struct bh_dir *d, const struct bh_dir_temp *t, uint64_t at, int from,
                  uint64_t offset, uint64_t len, const char *key, const struct bh_call *call,
                  struct bh_error *err);
/* Gives the file a time of its own, other than that of `old` (may be NULL), and makes it durable.
 */
int bh_dir_seal(const struct bh_dir *d, const struct bh_dir_temp *t, const struct stat *old,
                struct stat *st, const char *key, struct bh_error *err);
/* Writes a whole small file durably at path, atomically. */
int bh_dir_write_file(const struct bh_dir *d, const char *path, const char *text, size_t len,
                      const char *key, struct bh_error *err);

/* Is the condition met by the object o (fd -1: none)? 0, EEXIST or ESTALE. */
int bh_dir_cond(const struct bh_cond *cond, const struct bh_dir_object *o, const char *key,
                struct bh_error *err);
/* The end of every put: under the key's lock, checks cond, makes the sealed file the object. */
int bh_dir_commit(struct bh_dir *d, const char *key, struct bh_dir_temp *t,
                  const struct bh_meta *meta, const struct bh_cond *cond,
                  struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);

int bh_dir_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
               const struct bh_meta *meta, const struct bh_cond *cond, struct bh_object_info *info,
               const struct bh_call *call, struct bh_error *err);
int bh_dir_copy(struct bh_bucket *b, const char *from, const char *to, const char *from_if_match,
                struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);

/* Opens what is copied, checks its ETag; and, after copying, that nobody changed it meanwhile. */
int bh_dir_open_source(const struct bh_dir *d, const char *from, const char *from_if_match,
                       struct bh_dir_object *o, struct bh_object_info *info, struct bh_error *err);
int bh_dir_source_unchanged(const struct bh_dir_object *o, const char *from, struct bh_error *err);

/* --- dir_list.c, dir_multipart.c --- */

int bh_dir_list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn, void *arg,
                const struct bh_call *call, struct bh_error *err);

int bh_dir_mp_begin(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                    char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                    struct bh_error *err);
int bh_dir_mp_part(struct bh_bucket *b, const char *key, const char *upload_id, unsigned number,
                   const struct bh_source *src, struct bh_part *out, const struct bh_call *call,
                   struct bh_error *err);
int bh_dir_mp_part_copy(struct bh_bucket *b, const char *key, const char *upload_id,
                        unsigned number, const char *from, uint64_t offset, uint64_t length,
                        const char *from_if_match, struct bh_part *out, const struct bh_call *call,
                        struct bh_error *err);
int bh_dir_mp_complete(struct bh_bucket *b, const char *key, const char *upload_id,
                       const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                       struct bh_object_info *info, const struct bh_call *call,
                       struct bh_error *err);
int bh_dir_mp_abort(struct bh_bucket *b, const char *key, const char *upload_id,
                    const struct bh_call *call, struct bh_error *err);
int bh_dir_mp_list(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
                   const struct bh_call *call, struct bh_error *err);

/* Removes a directory of tmp/ and the files in it. */
void bh_dir_remove_tmp_dir(const struct bh_dir *d, const char *name);

static inline bool bh_dir_same_content(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static inline void bh_dir_object_close(struct bh_dir_object *o)
{
    if (o->fd >= 0)
        close(o->fd);
    o->fd = -1;
}
#define BH_DIR_OBJECT __attribute__((cleanup(bh_dir_object_close))) struct bh_dir_object

#endif
