/* Whole reads and writes, and files replaced atomically. */
#ifndef BH_UTIL_IO_H
#define BH_UTIL_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

/* Repeats short and interrupted calls. Return 0 or errno. bh_pread_full fills what lies beyond the
 * end of the file with zeros and, if got is not NULL, tells how many bytes were really there. */
int bh_pread_full(int fd, void *buf, size_t len, uint64_t offset, size_t *got);
int bh_pwrite_full(int fd, const void *buf, size_t len, uint64_t offset);

/* All len bytes if that needs no disk: 0 or EAGAIN. memory: the file is in a file system that never
 * waits, which cannot be asked. */
int bh_pread_at_once(int fd, void *buf, size_t len, uint64_t offset, bool memory);

/* Reads a small file (at most max bytes; EFBIG beyond) into a fresh NUL-terminated string, freed by
 * the caller. dirfd as in openat. */
int bh_read_small_file(int dirfd, const char *name, size_t max, char **text, size_t *len,
                       struct bh_error *err);

/* mkdir -p with the given mode for what it makes. */
int bh_mkdir_p(const char *path, mode_t mode, struct bh_error *err);

/* fsync of the directory behind path. 0 or errno. */
int bh_fsync_dir(int dirfd);

#endif
