/* Depth first, the children of a node read together. */
#include "repo/tree_private.h"

#include <errno.h>
#include <string.h>

#include "util/cleanup.h"

#define WHAT "a tree"

/* The children of one node; of the known tree at the same position. */
struct frame {
    struct bh_ref refs[BH_FANOUT], known[BH_FANOUT]; /* zero: nothing to visit */
    struct tree_item *kids[BH_FANOUT], *known_kids[BH_FANOUT];
};

struct walk {
    struct bh_trees *t;
    bh_tree_visit_fn *fn;
    void *arg;
    const struct bh_call *call;
    struct bh_error *err;
    struct bh_root known; /* lowered to the root's depth if it was higher */
    struct frame *frames; /* by level - 1 */
};

static bool is_same_place(const struct bh_ref *a, const struct bh_ref *b)
{
    return a->pack == b->pack && a->offset == b->offset;
}

/* Whether a failure to read is of what is stored; the walk ends with others. */
static bool is_damage(const struct walk *w, int rc)
{
    return rc && rc != ENOMEM && bh_call_check(w->call, WHAT, NULL) == 0;
}

/* The children's references, those that the known tree has left out. known may be NULL. */
static void list_children(const struct walk *w, unsigned level, uint64_t first,
                          const struct tree_item *node, const struct tree_item *known,
                          struct frame *f)
{
    for (unsigned i = 0; i < BH_FANOUT; i++) {
        tree_item_ref(node, i, &f->refs[i]);
        tree_item_ref(known, i, &f->known[i]);
        if (first == 0 && i == 0 && level == w->known.depth + 1)
            f->known[0] = w->known.ref; /* this tree has grown deeper */
        if (is_same_place(&f->refs[i], &f->known[i]))
            f->refs[i] = (struct bh_ref){0};
        if (bh_ref_is_zero(&f->refs[i]))
            f->known[i] = (struct bh_ref){0};
    }
}

/* Reads all children at once. Where that fails they stay NULL: each is then tried alone, and what
 * cannot be read of the known tree counts as not known. */
static int get_children(struct walk *w, struct frame *f)
{
    int rc =
        tree_cache_get(w->t->cache, f->refs, BH_FANOUT, TREE_NODE, f->kids, WHAT, w->call, w->err);
    if (rc && !is_damage(w, rc))
        return rc;
    rc = tree_cache_get(w->t->cache, f->known, BH_FANOUT, TREE_NODE, f->known_kids, WHAT, w->call,
                        w->err);
    if (rc && !is_damage(w, rc)) {
        tree_cache_put(w->t->cache, f->kids, BH_FANOUT);
        return rc;
    }
    return 0;
}

static int visit_node(struct walk *w, unsigned level, uint64_t first, const struct bh_ref *ref,
                      struct tree_item **node, const struct tree_item *known);

static int visit_children(struct walk *w, unsigned level, uint64_t first,
                          const struct tree_item *node, const struct tree_item *known)
{
    struct frame *f = &w->frames[level - 1];
    int rc = 0;
    list_children(w, level, first, node, known, f);
    if (level > 1)
        rc = get_children(w, f);
    if (rc)
        return rc;
    for (unsigned i = 0; i < BH_FANOUT && !rc; i++) {
        if (bh_ref_is_zero(&f->refs[i]))
            continue;
        if (level == 1)
            rc = w->fn(w->arg, 0, first + i, &f->refs[i], NULL);
        else
            rc = visit_node(w, level - 1, first + ((uint64_t)i << (SLOT_BITS * (level - 1))),
                            &f->refs[i], &f->kids[i], f->known_kids[i]);
    }
    if (level > 1) {
        tree_cache_put(w->t->cache, f->kids, BH_FANOUT);
        tree_cache_put(w->t->cache, f->known_kids, BH_FANOUT);
    }
    return rc;
}

/* *node: NULL if it is not read yet; given back by the caller. */
static int visit_node(struct walk *w, unsigned level, uint64_t first, const struct bh_ref *ref,
                      struct tree_item **node, const struct tree_item *known)
{
    struct bh_error damage = {0};
    int rc = bh_call_check(w->call, WHAT, w->err);
    if (rc)
        return rc;
    if (!*node)
        rc = tree_cache_get(w->t->cache, ref, 1, TREE_NODE, node, WHAT, w->call, &damage);
    if (rc && !is_damage(w, rc))
        return bh_fail(w->err, rc, "%s", damage.text);
    if (rc)
        return w->fn(w->arg, level, first, ref, &damage);
    rc = w->fn(w->arg, level, first, ref, NULL);
    return rc ? rc : visit_children(w, level, first, *node, known);
}

/* The known tree as seen from the other one's depth. */
static int align_known(struct walk *w, const struct bh_root *known, unsigned depth)
{
    w->known = (struct bh_root){.depth = BH_DEPTH_MAX};
    if (!known)
        return 0;
    int rc = tree_check_root(w->t, known, WHAT, w->err);
    if (rc)
        return rc;
    w->known = *known;
    if (known->depth <= depth)
        return 0;
    w->known.depth = depth;
    rc = tree_lower(w->t, &w->known.ref, known->depth - depth, WHAT, w->call, w->err);
    if (!is_damage(w, rc))
        return rc;
    w->known.ref = (struct bh_ref){0};
    return 0;
}

static int visit_root(struct walk *w, const struct bh_root *root)
{
    struct tree_item *node = NULL, *known = NULL;
    bool same_depth = w->known.depth == root->depth && !bh_ref_is_zero(&w->known.ref);
    if (bh_ref_is_zero(&root->ref) || (same_depth && is_same_place(&root->ref, &w->known.ref)))
        return 0;
    if (root->depth == 0)
        return w->fn(w->arg, 0, 0, &root->ref, NULL);
    int rc = 0;
    if (same_depth)
        rc =
            tree_cache_get(w->t->cache, &w->known.ref, 1, TREE_NODE, &known, WHAT, w->call, w->err);
    if (!rc || is_damage(w, rc))
        rc = visit_node(w, root->depth, 0, &root->ref, &node, known);
    tree_cache_put(w->t->cache, &node, 1);
    tree_cache_put(w->t->cache, &known, 1);
    return rc;
}

int bh_tree_walk(struct bh_trees *t, const struct bh_root *root, const struct bh_root *known,
                 bh_tree_visit_fn *fn, void *arg, const struct bh_call *call, struct bh_error *err)
{
    struct walk w = {.t = t, .fn = fn, .arg = arg, .call = call, .err = err};
    int rc = tree_check_root(t, root, WHAT, err);
    if (rc)
        return rc;
    BH_FREE struct frame *frames = w.frames = calloc(root->depth + 1, sizeof *frames);
    if (!frames)
        return bh_fail(err, ENOMEM, "out of memory walking " WHAT);
    rc = align_known(&w, known, root->depth);
    return rc ? rc : visit_root(&w, root);
}
