/* A second look at what was just made a root. Between the look at a head and a write that names
 * what it names another mount may take the branch and drop the snapshot, and gc may condemn it. So
 * after the write the head is read again: while it names the same, there was no moment at which
 * neither did, and gc has seen one of them. Otherwise it must not be condemned or gone. */
#include <errno.h>
#include <string.h>

#include "repo/gc.h"
#include "repo/history_private.h"

/* Whether `on`, which names what was made, does so still; or another head of its branch names the
 * snapshot e (may be NULL). */
static int is_named(struct bh_history *h, const struct bh_head *on, const struct bh_index_entry *e,
                    bool *named, const struct bh_call *call, struct bh_error *err)
{
    struct bh_head now;
    struct bh_index_entry found;
    char etag[BH_ETAG_MAX];
    *named = false;
    int rc = bh_head_get(h->bucket, h->prefix, on->branch, &now, etag, call, err);
    if (rc)
        return rc == ENOENT ? 0 : rc;
    *named = !strcmp(now.newest.id, on->newest.id) && bh_root_is_same(&now.index, &on->index);
    if (*named || !e)
        return 0;
    rc = bh_index_find(h->trees, &now.index, e->id, &found, NULL, call, err);
    *named = rc == 0 && !(found.flags & BH_ENTRY_DROPPED);
    return rc == ENOENT ? 0 : rc;
}

static int say_gone(struct bh_error *err, int rc, const struct bh_head *on, const char *what)
{
    struct bh_error why = *err;
    if (rc != EAGAIN && rc != EIO && rc != ENOENT)
        return bh_fail_prefix(err, rc,
                              "%s, as it could not be seen whether gc has left what it "
                              "refers to alone",
                              what);
    return bh_fail(err, ESTALE,
                   "%s: another mount has gone on with branch %s meanwhile, and what it refers to "
                   "is being reclaimed (%.200s)",
                   what, on->branch, why.text);
}

int history_check_made(struct bh_history *h, const struct bh_head *on, const struct bh_head *made,
                       const char *what, const struct bh_call *call, struct bh_error *err)
{
    bool named;
    int rc = is_named(h, on, NULL, &named, call, err);
    if (rc == 0 && !named)
        rc = bh_gc_check_head(h->bucket, h->prefix, h->trees, made, call, err);
    return rc ? say_gone(err, rc, on, what) : 0;
}

int history_check_entry(struct bh_history *h, const struct bh_index_entry *e, const char *what,
                        const struct bh_call *call, struct bh_error *err)
{
    struct bh_head alone = {.newest = *e};
    bool named;
    int rc = is_named(h, &h->head, e, &named, call, err);
    if (rc == 0 && !named)
        rc = bh_gc_check_head(h->bucket, h->prefix, h->trees, &alone, call, err);
    return rc ? say_gone(err, rc, &h->head, what) : 0;
}
