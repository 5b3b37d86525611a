/* A history of years in a bucket with a clock (clock_bucket.h): a database that is used as one is,
 * flushed every hour, with retention; and a model that knows what every retained snapshot must
 * read as. */
#ifndef YEARS_H
#define YEARS_H

#include "clock_bucket.h"
#include "repo/gc_private.h"
#include "tree_fixture.h" /* BLOCK, packs, trees, must; its b is not used */

#define HOUR INT64_C(3600000)
#define DAY  (24 * HOUR)

enum { YEAR_BLOCKS = 1200, YEAR_SNAPSHOTS = 9000, YEAR_VERSIONS = 200000 };

/* How the database is used, an hour. */
struct year_use {
    unsigned first;             /* blocks that it begins with */
    unsigned hot, hot_writes;   /* writes to any of the first `hot` blocks */
    unsigned warm, warm_writes; /* ... of the first `warm` */
    unsigned any_writes;
    unsigned new_a_day;
};

struct year_snapshot {
    struct bh_index_entry e;
    uint32_t *version; /* of its blocks; NULL once it is dropped */
    size_t blocks;
};
struct year_branch {
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    struct year_snapshot *snapshots; /* as in its index */
    size_t count;
};

extern struct bh_bucket *year;
extern struct year_branch year_main, year_side; /* side: until it is forked, without a head */

int year_setup(void **state);
int year_teardown(void **state);

void year_flush(struct year_branch *br, const struct year_use *use);
/* The same in steps, for what comes in between: what it wrote is no snapshot until the last. */
enum year_step { YEAR_UPLOAD, YEAR_RECORD, YEAR_HEAD, YEAR_STEPS };
void year_flush_step(struct year_branch *br, const struct year_use *use, enum year_step step);
void year_fork(void); /* side, of main */
/* What retention says, at this moment, of a branch. */
void year_retain(struct year_branch *br, const struct bh_retention *keep);
int year_try_gc(void);
extern struct bh_strbuf year_report;

/* Every retained snapshot of both branches is as the model says: each reference by its hash, each
 * record that one refers to is read and checked, whole databases where `bytes`. Returns the bytes
 * of all records that are needed, each counted once. */
uint64_t year_check(bool bytes);

#endif
