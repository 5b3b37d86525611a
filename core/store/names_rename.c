/* rename, with the flags of renameat2(2). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "store/names_private.h"
#include "util/clock.h"

struct rename {
    uint64_t dir[2];
    const char *name[2];
    size_t len[2];
    unsigned flags;
    struct bh_inode *moved, *replaced;
};

/* EINVAL: `dir` is `above` or below it. A parent chain that goes round (Brent) is damage. */
static int not_below(struct op *o, struct inode *dir, const struct inode *above)
{
    uint64_t mark = 0, steps = 0, limit = 2;
    for (struct inode *i = dir;;) {
        if (i == above)
            return EINVAL;
        if (i->i.ino == BH_NAMES_ROOT)
            return 0;
        uint64_t up = i->i.parent;
        int rc = op_inode(o, up, &i);
        if (rc == NEED)
            return rc;
        if (rc || up == mark || !S_ISDIR(i->i.mode))
            return bh_fail(
                o->err, EIO,
                "names.db is damaged: the directories above %llu do not lead to the root",
                (unsigned long long)dir->i.ino);
        if (++steps == limit) {
            mark = up;
            limit *= 2;
        }
    }
}

static int may_replace(const struct inode *from, const struct inode *to)
{
    bool directory = S_ISDIR(from->i.mode);
    if (directory && !S_ISDIR(to->i.mode))
        return ENOTDIR;
    if (!directory && S_ISDIR(to->i.mode))
        return EISDIR;
    return directory && to->i.entries > 0 ? ENOTEMPTY : 0;
}

static int may_rename(struct op *o, struct rename *r, struct inode *const dir[2],
                      struct inode *const i[2])
{
    bool exchange = r->flags & RENAME_EXCHANGE;
    int rc = 0;
    if (!i[0] || (exchange && !i[1]))
        return ENOENT;
    if (i[1] && (r->flags & RENAME_NOREPLACE))
        return EEXIST;
    if (i[0] == i[1])
        return 0;
    if (S_ISDIR(i[0]->i.mode))
        rc = not_below(o, dir[1], i[0]);
    if (rc == 0 && exchange && S_ISDIR(i[1]->i.mode))
        rc = not_below(o, dir[0], i[1]);
    if (rc == 0 && i[1] && !exchange)
        rc = may_replace(i[0], i[1]);
    return rc;
}

/* i leaves `from` for `to`. False: the counts say that it was not there. */
static bool move(struct op *o, struct inode *i, struct inode *from, struct inode *to)
{
    struct bh_inode *f = op_change(o, from), *t = op_change(o, to), *c = op_change(o, i);
    bool directory = S_ISDIR(c->mode);
    bool right = f->entries > 0 && (!directory || f->nlink > 2);
    c->ctime = o->now;
    f->entries--;
    t->entries++;
    if (directory) {
        f->nlink--;
        t->nlink++;
        c->parent = t->ino;
    }
    return right;
}

/* i is replaced in dir. */
static bool replace(struct op *o, struct inode *i, struct inode *dir)
{
    struct bh_inode *d = op_change(o, dir), *c = op_change(o, i);
    bool directory = S_ISDIR(c->mode);
    bool right = d->entries > 0 && (!directory || d->nlink > 2);
    c->ctime = o->now;
    c->nlink = directory ? 0 : c->nlink - 1;
    d->entries--;
    if (directory)
        d->nlink--;
    op_change_gone(o, i);
    return right;
}

static int change(struct op *o, struct rename *r, struct inode *const dir[2],
                  struct inode *const i[2])
{
    bool exchange = r->flags & RENAME_EXCHANGE, right = true;
    o->now = bh_real_ns();
    for (int k = 0; k < 2; k++) {
        struct bh_inode *d = op_change(o, dir[k]);
        d->mtime = d->ctime = o->now;
    }
    if (i[1])
        right = exchange ? move(o, i[1], dir[1], dir[0]) : replace(o, i[1], dir[1]);
    right &= move(o, i[0], dir[0], dir[1]);
    if (!right)
        return bh_fail(o->err, EIO,
                       "names.db is damaged: directory %llu or %llu has more names than it counts",
                       (unsigned long long)r->dir[0], (unsigned long long)r->dir[1]);
    int rc = op_change_name(o, dir[0], r->name[0], r->len[0], exchange ? &i[1]->i : NULL);
    if (rc == 0)
        rc = op_change_name(o, dir[1], r->name[1], r->len[1], &i[0]->i);
    return rc ? rc : op_commit(o);
}

static int try_rename(struct op *o, void *arg)
{
    struct rename *r = arg;
    struct inode *dir[2], *i[2];
    int rc = 0;
    for (int k = 0; k < 2 && rc == 0; k++)
        rc = op_dir(o, r->dir[k], &dir[k]);
    for (int k = 0; k < 2 && rc == 0; k++)
        rc = op_name(o, dir[k], r->name[k], r->len[k], &i[k]);
    if (rc == 0)
        rc = may_rename(o, r, dir, i);
    bool same = rc == 0 && i[0] == i[1];
    if (rc == 0 && !same)
        rc = change(o, r, dir, i);
    if (rc) {
        o->lost.ino = 0;
        return rc;
    }
    if (r->moved)
        *r->moved = i[0]->i;
    if (r->replaced)
        *r->replaced = i[1] && !same ? i[1]->i : (struct bh_inode){0};
    return 0;
}

int bh_names_rename(struct bh_names *n, uint64_t dir, const char *name, uint64_t new_dir,
                    const char *new_name, unsigned flags, struct bh_inode *moved,
                    struct bh_inode *replaced, bool wait, struct bh_error *err)
{
    struct op o = OP(n, wait, true, err);
    struct rename r = {.dir = {dir, new_dir},
                       .name = {name, new_name},
                       .flags = flags,
                       .moved = moved,
                       .replaced = replaced};
    if (flags != 0 && flags != RENAME_NOREPLACE && flags != RENAME_EXCHANGE)
        return EINVAL;
    int rc = check_name(name, &r.len[0]);
    if (rc == 0)
        rc = check_name(new_name, &r.len[1]);
    return rc ? rc : op_run(&o, try_rename, &r);
}
