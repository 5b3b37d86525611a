/* A tree as simple as can be, that every random operation is done on, too. */
#ifndef NAMES_MODEL_H
#define NAMES_MODEL_H

#include <sys/xattr.h>

#include "names_fixture.h"

#define NODES  300
#define NAMES  14
#define XATTRS 3

struct node {
    bool used;
    int refs;
    struct bh_inode i;
    int child[NAMES]; /* node numbers by name, -1: none */
    int parent;
    int xattr[XATTRS]; /* length, -1: none */
};

struct model {
    struct node node[NODES]; /* 0 is the root */
};

static struct model model;

static inline const char *name_of(int k)
{
    static const char *const all[NAMES] = {"a",        "b",  "c",  "A name with blanks",
                                           "\xff\xfe", "%",  "'",  "long-long-long-long-long-long",
                                           "x1",       "x2", "x3", "x4",
                                           "x5",       "x6"};
    return all[k];
}
static inline const char *xattr_name(int k)
{
    static const char *const all[XATTRS] = {"user.a", "user.mime_type", "security.x"};
    return all[k];
}

static inline bool is_dir(int k)
{
    return S_ISDIR(model.node[k].i.mode);
}

static inline int count_children(int k)
{
    int count = 0;
    for (int c = 0; c < NAMES; c++)
        count += model.node[k].child[c] >= 0;
    return count;
}

static inline void clear_node(struct node *n)
{
    *n = (struct node){.used = true, .parent = -1};
    for (int c = 0; c < NAMES; c++)
        n->child[c] = -1;
    for (int x = 0; x < XATTRS; x++)
        n->xattr[x] = -1;
}

static inline int free_node(void)
{
    for (int k = 1; k < NODES; k++)
        if (!model.node[k].used)
            return k;
    return -1;
}

static inline void settle_node(int k)
{
    struct node *n = &model.node[k];
    if (n->i.nlink == 0 && n->refs == 0)
        n->used = false;
}

static inline void drop_link(int k)
{
    struct node *n = &model.node[k];
    n->i.nlink = is_dir(k) ? 0 : n->i.nlink - 1;
    settle_node(k);
}

static inline bool is_below(int k, int above)
{
    for (; k != above && k != 0 && k >= 0; k = model.node[k].parent)
        ;
    return k == above;
}

/* A start: nobody holds anything. */
static inline void model_restarts(void)
{
    for (int k = 1; k < NODES; k++) {
        model.node[k].refs = 0;
        if (model.node[k].used)
            settle_node(k);
    }
}

/* What names say of a node is what the model has; times that an operation sets are taken over if
 * they can be. since 0: none may have changed. */
static inline void check_node(int k, const struct bh_inode *is, bool mtime, bool ctime,
                              int64_t since)
{
    struct node *n = &model.node[k];
    int64_t now = bh_real_ns();
    if (mtime) {
        assert_in_range(is->mtime, since, now);
        n->i.mtime = is->mtime;
    }
    if (ctime) {
        assert_in_range(is->ctime, since, now);
        n->i.ctime = is->ctime;
    }
    assert_int_equal(is->ino, n->i.ino);
    assert_int_equal(is->mode, n->i.mode);
    assert_int_equal(is->nlink, n->i.nlink);
    assert_int_equal(is->uid, n->i.uid);
    assert_int_equal(is->gid, n->i.gid);
    assert_int_equal(is->rdev, n->i.rdev);
    assert_int_equal(is->atime, n->i.atime);
    assert_int_equal(is->mtime, n->i.mtime);
    assert_int_equal(is->ctime, n->i.ctime);
    assert_memory_equal(&is->content, &n->i.content, sizeof is->content);
    if (is_dir(k)) {
        assert_int_equal(is->entries, count_children(k));
        if (is->nlink)
            assert_int_equal(is->parent, k ? model.node[n->parent].i.ino : ROOT);
    } else
        assert_int_equal(is->parent, 0);
}

static inline void check_xattrs(int k)
{
    struct node *n = &model.node[k];
    size_t len, want = 0;
    char *all;
    must(listxattr_of(n->i.ino, &all, &len));
    free(all);
    for (int x = 0; x < XATTRS; x++) {
        void *value;
        size_t got;
        int rc = getxattr_of(n->i.ino, xattr_name(x), &value, &got);
        if (n->xattr[x] < 0) {
            must_fail(rc, ENODATA);
            continue;
        }
        must(rc);
        assert_int_equal(got, n->xattr[x]);
        for (size_t b = 0; b < got; b++)
            assert_int_equal(((uint8_t *)value)[b], (uint8_t)(got * 7));
        free(value);
        want += strlen(xattr_name(x)) + 1;
    }
    assert_int_equal(len, want);
}

static inline void check_directory(int k)
{
    struct node *n = &model.node[k];
    struct bh_names_listing *l;
    struct bh_inode is;
    must(list(n->i.ino, &l));
    assert_int_equal(l->count, count_children(k));
    for (size_t e = 0; e < l->count; e++) {
        int c = 0;
        while (c < NAMES && strcmp(name_of(c), l->entries[e].name) != 0)
            c++;
        assert_in_range(c, 0, NAMES - 1);
        assert_true(n->child[c] >= 0);
        assert_int_equal(l->entries[e].ino, model.node[n->child[c]].i.ino);
        assert_int_equal(l->entries[e].mode, model.node[n->child[c]].i.mode & S_IFMT);
    }
    free(l);
    for (int c = 0; c < NAMES && n->i.nlink; c++) {
        int rc = lookup(n->i.ino, name_of(c), &is);
        if (n->child[c] < 0)
            must_fail(rc, ENOENT);
        else {
            must(rc);
            check_node(n->child[c], &is, false, false, 0);
        }
    }
}

static inline void check_everything(void)
{
    struct bh_inode is;
    for (int k = 0; k < NODES; k++) {
        if (!model.node[k].used)
            continue;
        must(get(model.node[k].i.ino, &is));
        check_node(k, &is, false, false, 0);
        check_xattrs(k);
        if (is_dir(k))
            check_directory(k);
        if (S_ISLNK(model.node[k].i.mode)) {
            char *target;
            must(readlink_of(model.node[k].i.ino, &target));
            assert_string_equal(target, "some/target");
            free(target);
        }
    }
}

#endif
