/* The kernel knows a node by the address of its struct: no table, and a number is never used for
 * two things while anybody knows it. One mutex for all: the work under it is a few instructions. */
#include <stdlib.h>

#include "daemon.h"
#include "util/cleanup.h"
#include "views.h"

#define VIEW_SLOTS 32768u

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct node root = {.kind = NODE_ROOT};
static struct node ctl_dir = {.kind = NODE_CTL_DIR};
static LIST_HEAD(, node) all =
    LIST_HEAD_INITIALIZER(all);        /* those on the heap: an unmount forgets without saying so */
static struct node *views[VIEW_SLOTS]; /* by the number that goes with the path */

struct node *node_of(fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? &root : (struct node *)(uintptr_t)ino;
}

fuse_ino_t node_ino(const struct node *n)
{
    return n == &root ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)n;
}

struct node *node_ctl_dir(void)
{
    return &ctl_dir;
}

static struct node *node_new(enum node_kind kind)
{
    struct node *n = calloc(1, sizeof *n);
    if (!n)
        return NULL;
    n->kind = kind;
    LIST_INSERT_HEAD(&all, n, all);
    return n;
}

static struct node **view_slot(const struct view *v)
{
    return &views[v->ino % VIEW_SLOTS];
}

static void view_delete(struct node *n)
{
    struct node **at = view_slot(n->view);
    while (*at != n)
        at = &(*at)->next_view;
    *at = n->next_view;
    view_free(n->view);
}

/* Takes it off the list; its file is the caller's to release, without the mutex. */
static struct bh_file *node_delete(struct node *n)
{
    struct bh_file *f = n->file;
    if (n->view)
        view_delete(n);
    LIST_REMOVE(n, all);
    if (f)
        f->door = NULL;
    free(n);
    return f;
}

struct node *node_for_file(struct bh_file *f)
{
    BH_LOCK_SCOPE(&mutex);
    struct node *n = f->door;
    if (!n) {
        n = node_new(NODE_FILE);
        if (!n)
            return NULL;
        n->file = f;
        bh_file_ref(f);
        f->door = n;
    }
    n->lookups++;
    return n;
}

struct node *node_for_ctl(int ctl, bool fresh)
{
    static struct node shared[64];
    BH_LOCK_SCOPE(&mutex);
    struct node *n = fresh ? node_new(NODE_CTL) : &shared[ctl];
    if (!n)
        return NULL;
    n->kind = NODE_CTL;
    n->ctl = ctl;
    n->lookups += fresh; /* the shared ones live for ever */
    return n;
}

struct node *node_for_view(struct view *v)
{
    BH_LOCK_SCOPE(&mutex);
    struct node **slot = view_slot(v), *n = *slot;
    while (n && !view_is_same(n->view, v))
        n = n->next_view;
    if (n) {
        view_free(v);
    } else {
        n = node_new(NODE_VIEW);
        if (!n) {
            view_free(v);
            return NULL;
        }
        n->view = v;
        n->next_view = *slot;
        *slot = n;
    }
    n->lookups++;
    return n;
}

void node_forget(fuse_ino_t ino, uint64_t lookups)
{
    struct node *n = node_of(ino);
    struct bh_file *f = NULL;
    if (n == &root || n == &ctl_dir)
        return;
    pthread_mutex_lock(&mutex);
    if (n->lookups > 0 && (n->lookups -= lookups) == 0)
        f = node_delete(n);
    pthread_mutex_unlock(&mutex);
    bh_file_unref(f);
}

void nodes_forget_all(void)
{
    for (;;) {
        pthread_mutex_lock(&mutex);
        bool any = !LIST_EMPTY(&all);
        struct bh_file *f = any ? node_delete(LIST_FIRST(&all)) : NULL;
        pthread_mutex_unlock(&mutex);
        if (!any)
            return;
        bh_file_unref(f);
    }
}

fuse_ino_t node_known(struct bh_file *f)
{
    BH_LOCK_SCOPE(&mutex);
    return f->door ? node_ino(f->door) : 0;
}
