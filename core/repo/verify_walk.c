/* Trees: every node of all trees once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repo/verify_private.h"
#include "util/cleanup.h"

#define WHAT "a pack"

/* The nodes of one level that are below one node. */
struct verify_frame {
    struct bh_pack_want wants[BH_FANOUT];
    bool have[BH_FANOUT];
    uint8_t content[BH_FANOUT][BH_NODE_SIZE];
};

static int frame_of(struct verify *v, unsigned level, struct verify_frame **out,
                    struct bh_error *err)
{
    if (!v->frames[level] && !(v->frames[level] = malloc(sizeof **out)))
        return bh_fail(err, ENOMEM, "out of memory while verifying");
    *out = v->frames[level];
    return 0;
}

void verify_walk_free(struct verify *v)
{
    for (unsigned i = 0; i <= BH_DEPTH_MAX; i++)
        free(v->frames[i]);
    verify_map_free(&v->nodes);
}

static int decode_node(const uint8_t *content, struct bh_ref refs[BH_FANOUT], struct bh_error *why)
{
    int rc = 0;
    for (unsigned i = 0; i < BH_FANOUT && !rc; i++)
        rc = bh_ref_decode(&refs[i], content + i * BH_REF_SIZE, "a node", why);
    return rc;
}

/* Where reading all at once fails, each is tried alone. */
static int read_nodes(struct verify *v, struct verify_frame *f, const struct bh_ref *refs,
                      size_t count, uint64_t *mask, struct bh_error *err)
{
    struct bh_error why = {0};
    size_t wanted = 0;
    for (size_t i = 0; i < count; i++)
        if (f->have[i])
            f->wants[wanted++] =
                (struct bh_pack_want){.ref = refs[i], .raw = BH_NODE_SIZE, .buf = f->content[i]};
    int rc = wanted ? bh_packs_read_many(v->packs, f->wants, wanted, WHAT, v->call, &why) : 0;
    if (!verify_is_damage(v, rc))
        return rc ? bh_fail(err, rc, "%s", why.text) : 0;
    for (size_t i = 0; i < count; i++) {
        if (!f->have[i])
            continue;
        rc = bh_packs_read(v->packs, &refs[i], BH_NODE_SIZE, f->content[i], WHAT, v->call, &why);
        if (!rc)
            continue;
        if (!verify_is_damage(v, rc))
            return bh_fail(err, rc, "%s", why.text);
        f->have[i] = false;
        if ((rc = verify_bad_record(v, &refs[i], &why, mask, err)) != 0)
            return rc;
    }
    return 0;
}

static int visit(struct verify *v, unsigned level, const struct bh_ref *refs, size_t count,
                 bool blocks, uint64_t *mask, struct bh_error *err);

static int visit_node(struct verify *v, unsigned level, const struct bh_ref *ref,
                      const uint8_t *content, bool blocks, uint64_t *mask, struct bh_error *err)
{
    struct bh_ref refs[BH_FANOUT];
    struct bh_error why = {0};
    uint64_t below = 0;
    int rc = decode_node(content, refs, &why);
    if (rc)
        return verify_bad_record(v, ref, &why, mask, err);
    rc = visit(v, level - 1, refs, BH_FANOUT, blocks, &below, err);
    if (!rc && verify_map_set(&v->nodes, ref->pack, ref->offset, below))
        rc = bh_fail(err, ENOMEM, "out of memory while verifying");
    *mask |= below;
    return rc;
}

/* What is to be read of these nodes: not what was visited, nor what is known to be damaged. */
static int choose(struct verify *v, unsigned level, const struct bh_ref *refs, size_t count,
                  bool *have, uint64_t *mask, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < count && !rc; i++) {
        uint64_t alone = 0;
        have[i] = false;
        if (bh_ref_is_zero(&refs[i]))
            continue;
        const uint64_t *known = verify_map_find(&v->nodes, refs[i].pack, refs[i].offset);
        if (known)
            alone = *known;
        else
            rc = verify_record(v, &refs[i], level, false, &alone, err);
        have[i] = !known && alone == 0;
        *mask |= alone;
    }
    return rc;
}

/* References to what is of one level. */
static int visit(struct verify *v, unsigned level, const struct bh_ref *refs, size_t count,
                 bool blocks, uint64_t *mask, struct bh_error *err)
{
    struct verify_frame *f = NULL;
    int rc = bh_call_check(v->call, "verify", err);
    if (level == 0) {
        for (size_t i = 0; i < count && !rc; i++)
            if (!bh_ref_is_zero(&refs[i]))
                rc = verify_record(v, &refs[i], 0, blocks, mask, err);
        return rc;
    }
    if (!rc)
        rc = frame_of(v, level, &f, err);
    if (!rc)
        rc = choose(v, level, refs, count, f->have, mask, err);
    if (!rc)
        rc = read_nodes(v, f, refs, count, mask, err);
    for (size_t i = 0; i < count && !rc; i++)
        if (f->have[i])
            rc = visit_node(v, level, &refs[i], f->content[i], blocks, mask, err);
    return rc;
}

int verify_tree(struct verify *v, const struct bh_root *root, bool blocks, uint64_t *mask,
                struct bh_error *err)
{
    if (root->depth != bh_depth_for(root->size, v->block_size) || root->depth > BH_DEPTH_MAX ||
        (root->size == 0 && !bh_ref_is_zero(&root->ref)))
        return bh_fail(err, EDOM, "no tree for %llu bytes has depth %u",
                       (unsigned long long)root->size, root->depth);
    return visit(v, root->depth, &root->ref, 1, blocks, mask, err);
}
