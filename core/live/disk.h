/* The state directory's files, and the one place where they are written and synced.
 *
 * Beside the plain system calls it can imitate a machine that loses power (live.powercut_dir, for
 * tests): what is fsynced is mirrored to a second directory at that moment, names when the
 * directory is fsynced, and anything unsynced only now and then, at random, as a kernel writes back
 * when it likes. After a kill -9 the mirror is what such a machine would find on its disk.
 *
 * Functions return 0 or a positive errno. Any thread may call them; one file's writes must not race
 * its sync when that matters to the caller (the kernel gives no order either). */
#ifndef BH_LIVE_DISK_H
#define BH_LIVE_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

struct bh_disk;

/* An open file. fd may be read directly; it is written and changed through these functions only. */
struct bh_dfile {
    int fd;
    struct bh_disk *disk;
    struct bh_mirror_file *mirror; /* NULL without power cut imitation */
};

/* dir must exist. mirror_dir: NULL or "" for none; made anew, empty, with the present content of
 * dir. */
int bh_disk_open(struct bh_disk **out, const char *dir, const char *mirror_dir, uint64_t seed,
                 struct bh_error *err);
void bh_disk_close(struct bh_disk *d);

const char *bh_disk_path(const struct bh_disk *d);
int bh_disk_dirfd(const struct bh_disk *d);
/* True where fsync costs nothing and keeps nothing (tmpfs, ramfs): callers may then sync inline. */
bool bh_disk_is_memory(const struct bh_disk *d);
/* True with power cut imitation: only what is synced file by file is safe then. */
bool bh_disk_is_mirrored(const struct bh_disk *d);

/* flags as for openat (O_CREAT, O_EXCL, O_TRUNC, ...); mode for a new file. Closed with
 * bh_dfile_close. What O_EXCL made is not left behind where this fails. */
int bh_disk_open_file(struct bh_disk *d, const char *name, int flags, unsigned mode,
                      struct bh_dfile *out);
void bh_dfile_close(struct bh_dfile *f);

int bh_dfile_write(struct bh_dfile *f, const void *buf, size_t len, uint64_t offset);
int bh_dfile_truncate(struct bh_dfile *f, uint64_t size);
/* The bytes read as zeros and take no space any more; the size stays. EOPNOTSUPP: the file system
 * cannot. */
int bh_dfile_punch(struct bh_dfile *f, uint64_t offset, uint64_t len);
/* Copies from another open file; by reference where the file system can. ENODATA: that one ends
 * before it. */
int bh_dfile_copy(struct bh_dfile *f, uint64_t offset, int from, uint64_t from_offset,
                  uint64_t len);
/* The file, empty until now, becomes a reference to all that the other one has. EOPNOTSUPP: the
 * file system cannot. */
int bh_dfile_clone(struct bh_dfile *f, int from);
int bh_dfile_sync(struct bh_dfile *f); /* fdatasync */

/* A second name for a file. EEXIST; EOPNOTSUPP: the file system cannot. */
int bh_disk_link(struct bh_disk *d, const char *from, const char *to);
int bh_disk_unlink(struct bh_disk *d, const char *name);
int bh_disk_rename(struct bh_disk *d, const char *from, const char *to);
/* Calls fn for each name in it, "." and ".." left out; non-zero ends it, and is returned. fn may
 * remove that name. Or errno, if it cannot be listed. */
int bh_disk_each(struct bh_disk *d, int (*fn)(void *arg, const char *name), void *arg);
int bh_disk_sync_names(struct bh_disk *d); /* fsync of the directory */

/* Replaces a small file atomically and durably: write, fsync, rename, fsync of the directory. */
int bh_disk_replace(struct bh_disk *d, const char *name, const void *data, size_t len);

#endif
