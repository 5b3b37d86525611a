/* The imitation of a power cut behind disk.h: see there. Private to disk.c and mirror.c. */
#ifndef BH_LIVE_MIRROR_H
#define BH_LIVE_MIRROR_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

struct bh_mirror;
struct bh_mirror_file;

int bh_mirror_open(struct bh_mirror **out, int dirfd, const char *mirror_dir, uint64_t seed,
                   struct bh_error *err);
void bh_mirror_close(struct bh_mirror *m);

/* The mirrored side of the file `name` that is open as fd. Calls for one file count references. */
int bh_mirror_file_open(struct bh_mirror *m, int fd, const char *name, struct bh_mirror_file **out);
void bh_mirror_file_close(struct bh_mirror_file *f);

/* Each is called after the real operation succeeded. fd: the real file. */
int bh_mirror_wrote(struct bh_mirror_file *f, int fd, uint64_t offset, uint64_t len);
int bh_mirror_truncated(struct bh_mirror_file *f, uint64_t size);
int bh_mirror_synced(struct bh_mirror_file *f, int fd);
int bh_mirror_linked(struct bh_mirror *m, ino_t inode, const char *name);
/* gone: the inode number of the file that lost its last name, which the next file may get; 0 if
 * none did. */
int bh_mirror_unlinked(struct bh_mirror *m, const char *name, ino_t gone);
int bh_mirror_renamed(struct bh_mirror *m, const char *from, const char *to, ino_t gone);
int bh_mirror_names_synced(struct bh_mirror *m);

#endif
