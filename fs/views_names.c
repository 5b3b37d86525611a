/* names.db of snapshots. Opening one costs a few requests, so those that were used last stay open;
 * what they have read of blocks is in views_blocks.c, and goes sooner. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "views.h"

#define OPEN_MAX_IDLE 8

struct open_names {
    struct open_names *next; /* the one that was used last comes first */
    unsigned users;
    struct bh_index_entry e;
    struct block_source source;
    struct bh_names_view *view;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct open_names *all;

static int read_bytes(void *arg, uint64_t offset, void *buf, size_t len, const struct bh_call *call,
                      struct bh_error *err)
{
    struct open_names *n = arg;
    return blocks_read(&n->source, offset, buf, len, call, err);
}

static void open_names_free(struct open_names *n)
{
    bh_names_view_free(n->view);
    free(n);
}

/* With the mutex. Those beyond the limit go, unless somebody uses them. */
static void close_some(unsigned limit)
{
    struct open_names **at = &all;
    for (unsigned count_ = 0; *at;) {
        struct open_names *n = *at;
        if (n->users == 0 && count_ >= limit) {
            *at = n->next;
            open_names_free(n);
        } else {
            count_++;
            at = &n->next;
        }
    }
}

/* With the mutex. Taken off the list; NULL: it is not open. */
static struct open_names *take(const char *id)
{
    struct open_names **at = &all;
    while (*at && strcmp((*at)->e.id, id) != 0)
        at = &(*at)->next;
    struct open_names *n = *at;
    if (n)
        *at = n->next;
    return n;
}

static int make(struct daemon *d, const struct bh_index_entry *e, struct open_names **out,
                struct bh_error *err)
{
    char what[BH_SNAPSHOT_ID_MAX + 16];
    struct open_names *n = calloc(1, sizeof *n);
    if (!n)
        return bh_fail(err, ENOMEM, "out of memory for the names of snapshot %s", e->id);
    n->e = *e;
    n->source = (struct block_source){.daemon = d, .e = &n->e, .names = true};
    snprintf(what, sizeof what, "snapshot %s", e->id);
    int64_t ns = e->time_ms * 1000000;
    struct bh_names_view_options o = {.read = read_bytes,
                                      .arg = n,
                                      .size = e->names.size,
                                      .what = what,
                                      .root = {.mode = S_IFDIR | 0755,
                                               .nlink = 2,
                                               .uid = d->uid,
                                               .gid = d->gid,
                                               .atime = ns,
                                               .mtime = ns,
                                               .ctime = ns}};
    int rc = bh_names_view_new(&n->view, &o, err);
    if (rc)
        free(n);
    else
        *out = n;
    return rc;
}

int names_get(struct daemon *d, const struct bh_index_entry *e, struct open_names **out,
              struct bh_error *err)
{
    BH_LOCK_SCOPE(&mutex);
    struct open_names *n = take(e->id);
    int rc = n ? 0 : make(d, e, &n, err);
    if (rc)
        return rc;
    n->users++;
    n->next = all;
    all = n;
    close_some(OPEN_MAX_IDLE);
    *out = n;
    return 0;
}

struct bh_names_view *names_view(struct open_names *n)
{
    return n->view;
}

void names_put(struct open_names *n)
{
    if (!n)
        return;
    BH_LOCK_SCOPE(&mutex);
    n->users--;
    close_some(OPEN_MAX_IDLE);
}

void names_close_all(void)
{
    BH_LOCK_SCOPE(&mutex);
    close_some(0);
}
