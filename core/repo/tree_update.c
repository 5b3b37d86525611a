/* Copy-on-write: the changes are consumed in order, depth first, so that every node on the way to
 * one is read and written once. Before the children of a node are visited, those that will be are
 * read together. */
#include "repo/tree_private.h"

#include <errno.h>
#include <string.h>

#include "util/cleanup.h"

/* The node of one level that is being made. */
struct frame {
    struct bh_ref refs[BH_FANOUT];
    struct bh_ref visited[BH_FANOUT]; /* of the children to visit, as they were; others zero */
    bool visit[BH_FANOUT];
    struct tree_item *kids[BH_FANOUT];
};

struct update {
    struct bh_trees *t;
    struct bh_pack_writer *w;
    const char *what;
    const struct bh_call *call;
    struct bh_error *err;
    struct bh_root from; /* the old root, lowered to the new depth if it was higher */
    uint64_t blocks;     /* of the new size */
    bool cut;            /* the size is less: the way to the last block must be visited */
    const struct bh_tree_change *next, *end;
    bool has_tail;
    struct bh_tree_change tail; /* the last block with what was beyond the size made zeros */
    struct frame *frames;       /* by level - 1 */
    uint8_t raw[BH_NODE_SIZE];
};

/* The old reference stays where the content is the same. */
static bool replace(struct bh_ref *old, const struct bh_ref *new)
{
    bool was = !bh_ref_is_zero(old), is = !bh_ref_is_zero(new);
    if (!was && !is)
        return false;
    if (was && is && bh_ref_same_content(old, new))
        return false;
    *old = *new;
    return true;
}

static int write_node(struct update *u, unsigned level, uint64_t first, const struct bh_ref *refs,
                      struct bh_ref *out)
{
    bool zero = true;
    for (unsigned i = 0; i < BH_FANOUT; i++) {
        zero = zero && bh_ref_is_zero(&refs[i]);
        bh_ref_encode(&refs[i], u->raw + i * BH_REF_SIZE);
    }
    if (zero) {
        *out = (struct bh_ref){0};
        return 0;
    }
    int rc = bh_pack_add(u->w, BH_RECORD_NODE, level, first, u->raw, BH_NODE_SIZE, out, u->err);
    if (!rc)
        tree_cache_add(u->t->cache, out, TREE_NODE, u->raw);
    return rc;
}

static bool is_below(uint64_t block, unsigned level, uint64_t first)
{
    return tree_first(block, level) == first;
}

/* The nodes above the old root when a file has outgrown its depth: they have no old one. */
static bool is_new_top(const struct update *u, unsigned level, uint64_t first)
{
    return level > u->from.depth && first == 0 && !bh_ref_is_zero(&u->from.ref);
}

/* References of a node before its changes. True: they differ from the old node's already. */
static bool begin_node(struct update *u, unsigned level, uint64_t first,
                       const struct tree_item *node, struct bh_ref *refs)
{
    bool changed = false;
    for (unsigned i = 0; i < BH_FANOUT; i++)
        tree_item_ref(node, i, &refs[i]);
    if (is_new_top(u, level, first) && level == u->from.depth + 1) {
        refs[0] = u->from.ref;
        changed = true;
    }
    if (u->cut && is_below(u->blocks - 1, level, first))
        for (unsigned i = tree_slot(u->blocks - 1, level - 1) + 1; i < BH_FANOUT; i++)
            changed |= replace(&refs[i], &(struct bh_ref){0});
    return changed;
}

static bool change_blocks(struct update *u, uint64_t first, struct bh_ref *refs)
{
    bool changed = false;
    for (; u->next < u->end && is_below(u->next->block, 1, first); u->next++)
        changed |= replace(&refs[u->next->block & SLOT_MASK], &u->next->ref);
    if (u->has_tail && is_below(u->tail.block, 1, first))
        changed |= replace(&refs[u->tail.block & SLOT_MASK], &u->tail.ref);
    return changed;
}

/* Which children must be visited, and their old content. */
static int get_children(struct update *u, unsigned level, uint64_t first, struct frame *f)
{
    memset(f->visit, 0, sizeof f->visit);
    memset(f->visited, 0, sizeof f->visited);
    for (const struct bh_tree_change *c = u->next; c < u->end && is_below(c->block, level, first);
         c++)
        f->visit[tree_slot(c->block, level - 1)] = true;
    if (u->cut && is_below(u->blocks - 1, level, first))
        f->visit[tree_slot(u->blocks - 1, level - 1)] = true;
    if (is_new_top(u, level, first) && level > u->from.depth + 1)
        f->visit[0] = true;
    for (unsigned i = 0; i < BH_FANOUT; i++)
        if (f->visit[i])
            f->visited[i] = f->refs[i];
    return tree_cache_get(u->t->cache, f->visited, BH_FANOUT, TREE_NODE, f->kids, u->what, u->call,
                          u->err);
}

/* The new reference of a node whose old one is *ref, with content `node` (NULL: zeros). */
static int update_node(struct update *u, unsigned level, uint64_t first,
                       const struct tree_item *node, struct bh_ref *ref)
{
    struct frame *f = &u->frames[level - 1];
    bool changed = begin_node(u, level, first, node, f->refs);
    int rc = 0;
    if (level == 1) {
        changed |= change_blocks(u, first, f->refs);
    } else {
        rc = get_children(u, level, first, f);
        if (rc)
            return rc;
        for (unsigned i = 0; i < BH_FANOUT && !rc; i++) {
            if (!f->visit[i])
                continue;
            struct bh_ref kid = f->refs[i];
            rc = bh_call_check(u->call, u->what, u->err);
            if (!rc)
                rc = update_node(u, level - 1, first + ((uint64_t)i << (SLOT_BITS * (level - 1))),
                                 f->kids[i], &kid);
            if (!rc)
                changed |= replace(&f->refs[i], &kid);
        }
        tree_cache_put(u->t->cache, f->kids, BH_FANOUT);
    }
    if (!rc && changed)
        rc = write_node(u, level, first, f->refs, ref);
    return rc;
}

static bool is_zero(const uint8_t *p, size_t len)
{
    return p[0] == 0 && !memcmp(p, p + 1, len - 1);
}

/* When the new end is within a block that nobody changed, what it has beyond the end must not come
 * back when the file grows again. */
static int make_tail(struct update *u, const struct bh_root *old, uint64_t size)
{
    const uint32_t bs = u->t->block_size, in = (uint32_t)(size % bs);
    const uint64_t last = u->blocks - 1;
    struct bh_ref ref;
    if (size >= old->size || in == 0 || (u->next < u->end && u->end[-1].block == last))
        return 0;
    int rc = bh_tree_refs(u->t, old, last, 1, &ref, u->what, u->call, u->err);
    if (rc || bh_ref_is_zero(&ref))
        return rc;
    BH_FREE uint8_t *block = malloc(bs);
    if (!block)
        return bh_fail(u->err, ENOMEM, "out of memory writing %s", u->what);
    rc = bh_packs_read(u->t->packs, &ref, bs, block, u->what, u->call, u->err);
    if (rc || is_zero(block + in, bs - in))
        return rc;
    memset(block + in, 0, bs - in);
    u->has_tail = true;
    u->tail.block = last;
    return bh_pack_add(u->w, BH_RECORD_BLOCK, 0, last, block, bs, &u->tail.ref, u->err);
}

/* Sets next and end, without the changes beyond the size. */
static int take_changes(struct update *u, const struct bh_tree_change *changes, size_t count)
{
    u->next = u->end = changes;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && changes[i].block <= changes[i - 1].block)
            return bh_fail(u->err, EINVAL, "the changes of %s are not in ascending order", u->what);
        if (changes[i].block < u->blocks)
            u->end = changes + i + 1;
    }
    return 0;
}

static int update_root(struct update *u, unsigned depth, struct bh_ref *ref)
{
    struct tree_item *node = NULL;
    *ref = u->from.ref;
    if (depth == 0) {
        if (u->next < u->end)
            replace(ref, &u->next->ref);
        if (u->has_tail)
            replace(ref, &u->tail.ref);
        return 0;
    }
    if (depth > u->from.depth)
        *ref = (struct bh_ref){0};
    int rc = tree_cache_get(u->t->cache, ref, 1, TREE_NODE, &node, u->what, u->call, u->err);
    if (!rc)
        rc = update_node(u, depth, 0, node, ref);
    tree_cache_put(u->t->cache, &node, 1);
    return rc;
}

static int run(struct update *u, const struct bh_root *old, struct bh_root *new)
{
    if (u->blocks == 0)
        return 0;
    int rc = make_tail(u, old, new->size);
    if (!rc && old->depth > new->depth) {
        u->from.depth = new->depth;
        rc = tree_lower(u->t, &u->from.ref, old->depth - new->depth, u->what, u->call, u->err);
    }
    u->cut =
        !bh_ref_is_zero(&u->from.ref) && (u->has_tail || tree_blocks(u->t, old->size) > u->blocks);
    bool higher = new->depth > u->from.depth && !bh_ref_is_zero(&u->from.ref);
    if (!rc && (u->next < u->end || u->cut || higher))
        rc = update_root(u, new->depth, &new->ref);
    else
        new->ref = u->from.ref;
    return rc;
}

int bh_tree_update(struct bh_trees *t, const struct bh_root *old, uint64_t size,
                   const struct bh_tree_change *changes, size_t count, struct bh_pack_writer *w,
                   struct bh_root *out, const char *what, const struct bh_call *call,
                   struct bh_error *err)
{
    struct bh_root new = {.size = size};
    int rc = tree_check_root(t, old, what, err);
    if (rc)
        return rc;
    if (size > tree_size_max(t))
        return bh_fail(err, EFBIG, "%s cannot have %llu bytes: with blocks of %u at most %llu",
                       what, (unsigned long long)size, t->block_size,
                       (unsigned long long)tree_size_max(t));
    new.depth = bh_depth_for(size, t->block_size);
    BH_FREE struct update *u = calloc(1, sizeof *u);
    BH_FREE struct frame *frames = calloc(new.depth + 1, sizeof *frames);
    if (!u || !frames)
        return bh_fail(err, ENOMEM, "out of memory writing %s", what);
    u->t = t;
    u->w = w;
    u->what = what;
    u->call = call;
    u->err = err;
    u->from = *old;
    u->frames = frames;
    u->blocks = tree_blocks(t, size);
    rc = take_changes(u, changes, count);
    if (!rc)
        rc = run(u, old, &new);
    if (!rc)
        *out = new;
    return rc;
}
