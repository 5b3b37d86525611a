/* Extended attributes: each is an entry of its inode. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "store/names_private.h"
#include "util/clock.h"

struct xattr {
    uint64_t ino;
    const char *name;
    size_t name_len;
    const void *value; /* NULL: remove it */
    size_t len;
    int flags;
    void **out;
    size_t *out_len;
};

/* The inode with all its attributes in memory. */
static int op_xattrs(struct op *o, uint64_t ino, struct inode **out)
{
    int rc = op_inode(o, ino, out);
    if (rc || (*out)->xattrs_known)
        return rc;
    o->need = (struct need){.what = NEED_XATTRS, .ino = ino};
    return NEED;
}

static struct entry *find(struct op *o, struct inode *i, const struct xattr *x)
{
    struct entry *e = entry_find(o->n, i, KIND_XATTR, x->name, x->name_len);
    if (e)
        object_used(o->n, &e->o);
    return e;
}

static int change_xattr(struct op *o, struct inode *i, struct entry *e, const struct xattr *x)
{
    bool fresh = !e;
    uint8_t *value = malloc(x->len + 1);
    if (!value || (!e && !(e = entry_new(i, KIND_XATTR, x->name, x->name_len)))) {
        free(value);
        return ENOMEM;
    }
    if (x->len)
        memcpy(value, x->value, x->len);
    o->entry[0].o = e;
    o->entry[0].present = x->value != NULL;
    o->entry[0].fresh = fresh;
    o->entry[0].ino = o->entry[0].type = 0;
    o->entry[0].value = value;
    o->entry[0].value_len = (uint32_t)x->len;
    o->entries = 1;
    op_change(o, i)->ctime = bh_real_ns();
    return op_commit(o);
}

static int try_change(struct op *o, void *arg)
{
    struct xattr *x = arg;
    struct inode *i;
    int rc = op_xattrs(o, x->ino, &i);
    if (rc)
        return rc;
    struct entry *e = find(o, i, x);
    bool there = e && e->present;
    if (there && (x->flags & XATTR_CREATE))
        return EEXIST;
    if (!there && (!x->value || (x->flags & XATTR_REPLACE)))
        return ENODATA;
    size_t total = i->xattr_bytes + x->name_len + x->len;
    if (there)
        total -= e->name_len + e->value_len;
    if (x->value && total > XATTRS_MAX)
        return bh_fail(o->err, ENOSPC,
                       "the attributes of one file may have 1 MiB; remove some, or use a file");
    return change_xattr(o, i, e, x);
}

static int check(struct xattr *x)
{
    x->name_len = strlen(x->name);
    if (x->name_len == 0 || x->name_len > NAME_MAX_LEN)
        return ERANGE;
    if (x->len > VALUE_MAX_LEN)
        return E2BIG;
    return x->flags & ~(XATTR_CREATE | XATTR_REPLACE) ? EINVAL : 0;
}

int bh_names_setxattr(struct bh_names *n, uint64_t ino, const char *name, const void *value,
                      size_t len, int flags, bool wait, struct bh_error *err)
{
    struct op o = OP(n, wait, true, err);
    struct xattr x = {
        .ino = ino, .name = name, .value = len ? value : "", .len = len, .flags = flags};
    int rc = check(&x);
    return rc ? rc : op_run(&o, try_change, &x);
}

int bh_names_removexattr(struct bh_names *n, uint64_t ino, const char *name, bool wait,
                         struct bh_error *err)
{
    struct op o = OP(n, wait, true, err);
    struct xattr x = {.ino = ino, .name = name};
    int rc = check(&x);
    return rc ? rc : op_run(&o, try_change, &x);
}

static int try_getxattr(struct op *o, void *arg)
{
    struct xattr *x = arg;
    struct inode *i;
    int rc = op_xattrs(o, x->ino, &i);
    if (rc)
        return rc;
    struct entry *e = find(o, i, x);
    if (!e || !e->present)
        return ENODATA;
    void *value = malloc(e->value_len + 1u);
    if (!value)
        return ENOMEM;
    if (e->value_len)
        memcpy(value, e->value, e->value_len);
    *x->out = value;
    *x->out_len = e->value_len;
    return 0;
}

int bh_names_getxattr(struct bh_names *n, uint64_t ino, const char *name, void **value, size_t *len,
                      bool wait, struct bh_error *err)
{
    struct op o = OP(n, wait, false, err);
    struct xattr x = {.ino = ino, .name = name, .out = value, .out_len = len};
    int rc = check(&x);
    return rc ? rc : op_run(&o, try_getxattr, &x);
}

static int try_listxattr(struct op *o, void *arg)
{
    struct xattr *x = arg;
    struct inode *i;
    size_t len = 0;
    int rc = op_xattrs(o, x->ino, &i);
    if (rc)
        return rc;
    for (struct entry *e = i->first[1]; e; e = e->next)
        len += e->present ? e->name_len + 1u : 0;
    char *list = malloc(len + 1), *p = list;
    if (!list)
        return ENOMEM;
    for (struct entry *e = i->first[1]; e; e = e->next)
        if (e->present) {
            memcpy(p, e->name, e->name_len + 1u);
            p += e->name_len + 1u;
        }
    *x->out = list;
    *x->out_len = len;
    return 0;
}

int bh_names_listxattr(struct bh_names *n, uint64_t ino, char **list, size_t *len, bool wait,
                       struct bh_error *err)
{
    struct op o = OP(n, wait, false, err);
    void *out = NULL;
    int rc = op_run(&o, try_listxattr, &(struct xattr){.ino = ino, .out = &out, .out_len = len});
    if (rc == 0)
        *list = out;
    return rc;
}
