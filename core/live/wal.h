/* The write-ahead log as SQLite stores it in -wal (SQLite file format, section "The Write-Ahead
 * Log"): which frames of it are committed, found by reading it. */
#ifndef BH_LIVE_WAL_H
#define BH_LIVE_WAL_H

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

#define BH_WAL_HEADER       32u
#define BH_WAL_FRAME_HEADER 24u

/* "SALTS.FRAMES.CHECKSUM" and a NUL. */
#define BH_WAL_TAG 48

struct bh_wal_page {
    uint32_t page;  /* of the database, from 1 */
    uint32_t frame; /* of the log, from 0: the newest that is committed */
};

/* What is committed. Zero-initialised: nothing. */
struct bh_wal_map {
    uint32_t page_size;        /* bytes */
    uint32_t db_pages;         /* size of the database after the last commit */
    struct bh_wal_page *pages; /* in the order of page */
    size_t count;
    char tag[BH_WAL_TAG]; /* the same for the same log up to the same commit; "": nothing */
};
void bh_wal_map_free(struct bh_wal_map *m);

/* Reads the log of `size` bytes by `read` (0 or errno; it is asked for nothing beyond size) and
 * fills m, with count 0 if nothing in it is committed. Like SQLite it ends at the first frame whose
 * salts or checksum are not those of a whole log: that is no error. ENOMEM, or what read returned.
 * Any thread. */
int bh_wal_scan(struct bh_wal_map *m, uint64_t size,
                int (*read)(void *arg, void *buf, size_t len, uint64_t offset), void *arg);

/* Offset in the log of that page's newest committed content, 0 if it is not in it. */
uint64_t bh_wal_find(const struct bh_wal_map *m, uint32_t page);
/* Whether it has one of the pages first to last. */
bool bh_wal_has(const struct bh_wal_map *m, uint32_t first, uint32_t last);

#endif
