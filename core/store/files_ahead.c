/* Reading many small files of the bucket: those that were made together are read together, more
 * often than not. So inodes are looked at in groups of neighbouring numbers: once a second file of
 * a group has to be fetched the small ones of the whole group are, and as long as group follows
 * upon group the next one is before it is asked for. */
#include "store/files_private.h"

#include <sys/stat.h>

#include "util/cleanup.h"
#include "util/clock.h"

#define GROUP         64u                    /* inodes */
#define SMALL         ((uint64_t)128 << 10)  /* bytes of a file that comes with others */
#define BYTES         ((uint64_t)4096 << 10) /* of a group */
#define MISSES        2u                     /* files that had to be fetched, until all are */
#define AGAIN_MS      10000                  /* what was fetched and is missing again was evicted */
#define GROUP_OF(ino) ((ino) / GROUP)

/* With f->mutex. */
static struct files_group *group_of(struct bh_files *f, uint64_t number)
{
    struct files_group *g = &f->groups[number % FILES_GROUPS];
    if (g->number != number)
        *g = (struct files_group){.number = number};
    return g;
}

static bool was_fetched(const struct bh_files *f, uint64_t number)
{
    const struct files_group *g = &f->groups[number % FILES_GROUPS];
    return g->number == number && g->fetched_ms > 0;
}

/* Group follows upon group: the one after this is to be fetched. */
static bool next_is_due(const struct bh_files *f, uint64_t number)
{
    return was_fetched(f, number) && was_fetched(f, number - 1) && !was_fetched(f, number + 1);
}

bool files_ahead_is_due(struct bh_files *f, uint64_t ino)
{
    BH_LOCK_SCOPE(&f->mutex);
    return next_is_due(f, GROUP_OF(ino));
}

#define NONE UINT64_MAX

/* Which group is to be fetched. */
static uint64_t note(struct bh_files *f, uint64_t ino, bool is_here)
{
    const int64_t now = bh_mono_ms();
    uint64_t number = GROUP_OF(ino) + 1; /* of the next one */
    BH_LOCK_SCOPE(&f->mutex);
    bool due = next_is_due(f, number - 1);
    if (!is_here) {
        struct files_group *g = group_of(f, GROUP_OF(ino));
        if (g->fetched_ms && now - g->fetched_ms > AGAIN_MS)
            *g = (struct files_group){.number = g->number};
        if (++g->misses >= MISSES && !g->fetched_ms)
            due = true, number = g->number;
    }
    if (!due)
        return NONE;
    group_of(f, number)->fetched_ms = now;
    return number;
}

void files_ahead(struct bh_files *f, uint64_t ino, bool is_here)
{
    struct bh_error err;
    uint64_t bytes = 0, number = note(f, ino, is_here);
    for (uint64_t k = 0; number != NONE && k < GROUP && bytes < BYTES; k++) {
        const uint64_t i = number * GROUP + k;
        struct bh_inode is;
        if (i == ino || bh_names_get(f->names, i, &is, true, &err) != 0)
            continue; /* there is no such file, or it is not to be had ahead of time */
        const struct bh_content *c = &is.content;
        if (!S_ISREG(is.mode) || c->data || c->size == 0 || c->size > SMALL)
            continue;
        bh_blobs_fetch_ahead(f->blobs, c->hash, c->hash_size);
        bytes += c->size;
    }
}
