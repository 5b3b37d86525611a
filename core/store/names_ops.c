/* Looking, making, links, attributes of inodes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/names_private.h"
#include "util/cleanup.h"
#include "util/clock.h"

static void show(struct bh_inode *out, const struct inode *i)
{
    if (out)
        *out = i->i;
}

/* --- looking --- */

struct get {
    uint64_t ino;
    const char *name;
    size_t len;
    struct bh_inode *out;
    char **target;
};

static int try_get(struct op *o, void *arg)
{
    struct get *g = arg;
    struct inode *i;
    int rc = op_inode(o, g->ino, &i);
    if (rc == 0)
        show(g->out, i);
    return rc;
}

int bh_names_get(struct bh_names *n, uint64_t ino, struct bh_inode *out, bool wait,
                 struct bh_error *err)
{
    struct op o = OP(n, wait, false, err);
    return op_run(&o, try_get, &(struct get){.ino = ino, .out = out});
}

static int try_lookup(struct op *o, void *arg)
{
    struct get *g = arg;
    struct inode *dir, *i;
    int rc = op_dir(o, g->ino, &dir);
    if (rc == 0)
        rc = op_name(o, dir, g->name, g->len, &i);
    if (rc == 0 && !i)
        rc = ENOENT;
    if (rc == 0) {
        i->named = entry_find(o->n, dir, KIND_NAME, g->name, g->len);
        show(g->out, i);
    }
    return rc;
}

int bh_names_lookup(struct bh_names *n, uint64_t dir, const char *name, struct bh_inode *out,
                    bool wait, struct bh_error *err)
{
    struct op o = OP(n, wait, false, err);
    struct get g = {.ino = dir, .name = name, .out = out};
    int rc = check_name(name, &g.len);
    return rc ? rc : op_run(&o, try_lookup, &g);
}

static int try_readlink(struct op *o, void *arg)
{
    struct get *g = arg;
    struct inode *i;
    int rc = op_inode(o, g->ino, &i);
    if (rc)
        return rc;
    if (!i->target)
        return EINVAL;
    *g->target = strdup(i->target);
    return *g->target ? 0 : ENOMEM;
}

int bh_names_readlink(struct bh_names *n, uint64_t ino, char **target, bool wait,
                      struct bh_error *err)
{
    struct op o = OP(n, wait, false, err);
    return op_run(&o, try_readlink, &(struct get){.ino = ino, .target = target});
}

void bh_names_name(struct bh_names *n, uint64_t ino, char name[256])
{
    BH_LOCK_SCOPE(&n->mutex);
    const struct inode *i = inode_find(n, ino);
    name[0] = '\0';
    if (i && i->named)
        snprintf(name, 256, "%.*s", (int)i->named->name_len, i->named->name);
}

/* --- making --- */

struct make {
    uint64_t dir, ino;
    const char *name, *target;
    size_t len;
    const struct bh_inode *what;
    bool ref;
    struct bh_inode *out;
};

static void touch_dir(struct bh_inode *dir, int64_t now)
{
    dir->mtime = dir->ctime = now;
}

static void fill(struct bh_inode *i, const struct make *m, const struct inode *dir, int64_t now)
{
    *i = (struct bh_inode){.mode = m->what->mode,
                           .nlink = 1,
                           .uid = m->what->uid,
                           .gid = m->what->gid,
                           .rdev = m->what->rdev,
                           .atime = now,
                           .mtime = now,
                           .ctime = now};
    if (S_ISREG(i->mode) && !bh_sha256_is_none(m->what->content.hash)) {
        i->content = m->what->content;
        i->atime = m->what->atime;
        i->mtime = m->what->mtime;
    }
    if (dir->i.mode & S_ISGID)
        i->gid = dir->i.gid;
    if (S_ISDIR(i->mode)) {
        i->nlink = 2;
        i->parent = dir->i.ino;
        i->mode |= dir->i.mode & S_ISGID;
    }
    if (m->target)
        i->content.size = strlen(m->target);
    if (!S_ISCHR(i->mode) && !S_ISBLK(i->mode))
        i->rdev = 0;
}

static int try_make(struct op *o, void *arg)
{
    struct make *m = arg;
    struct bh_names *n = o->n;
    struct inode *dir, *i;
    struct bh_inode fresh;
    int rc = op_dir(o, m->dir, &dir);
    if (rc == 0)
        rc = op_name(o, dir, m->name, m->len, &i);
    if (rc)
        return rc;
    if (i) {
        show(m->out, i);
        return EEXIST;
    }
    if (S_ISDIR(m->what->mode) && dir->i.nlink == UINT32_MAX)
        return EMLINK;
    fill(&fresh, m, dir, bh_real_ns());
    fresh.ino = n->next_ino;
    if (fresh.ino > INT64_MAX)
        return bh_fail(o->err, ENOSPC, "names.db has no inode numbers left");
    if (inode_wrong(&fresh))
        return EINVAL;
    struct bh_inode *d = op_change(o, dir);
    touch_dir(d, fresh.ctime);
    d->entries++;
    d->nlink += S_ISDIR(fresh.mode) != 0;
    rc = op_change_name(o, dir, m->name, m->len, &fresh);
    if (rc == 0)
        rc = op_change_new(o, &fresh, m->target, &i);
    if (rc == 0)
        rc = op_commit(o);
    if (rc)
        return rc;
    n->next_ino++;
    if (m->ref)
        i->refs++;
    show(m->out, i);
    return 0;
}

int bh_names_make(struct bh_names *n, uint64_t dir, const char *name, const struct bh_inode *what,
                  const char *target, bool ref, struct bh_inode *out, bool wait,
                  struct bh_error *err)
{
    struct op o = OP(n, wait, true, err);
    struct make m = {
        .dir = dir, .name = name, .target = target, .what = what, .ref = ref, .out = out};
    int rc = check_name(name, &m.len);
    if (rc)
        return rc;
    if (S_ISLNK(what->mode) != (target != NULL) || (target && !*target))
        return target && !*target ? ENOENT : EINVAL;
    if (target && strlen(target) > TARGET_MAX_LEN)
        return ENAMETOOLONG;
    return op_run(&o, try_make, &m);
}

static int try_link(struct op *o, void *arg)
{
    struct make *m = arg;
    struct inode *dir, *i, *there;
    int rc = op_dir(o, m->dir, &dir);
    if (rc == 0)
        rc = op_inode(o, m->ino, &i);
    if (rc == 0)
        rc = op_name(o, dir, m->name, m->len, &there);
    if (rc)
        return rc;
    if (S_ISDIR(i->i.mode))
        return EPERM;
    if (i->i.nlink == 0)
        return ENOENT;
    if (there)
        return EEXIST;
    if (i->i.nlink >= LINKS_MAX)
        return EMLINK;
    struct bh_inode *d = op_change(o, dir), *to = op_change(o, i);
    to->ctime = bh_real_ns();
    to->nlink++;
    touch_dir(d, to->ctime);
    d->entries++;
    rc = op_change_name(o, dir, m->name, m->len, to);
    if (rc == 0)
        rc = op_commit(o);
    if (rc == 0)
        show(m->out, i);
    return rc;
}

int bh_names_link(struct bh_names *n, uint64_t ino, uint64_t dir, const char *name,
                  struct bh_inode *out, bool wait, struct bh_error *err)
{
    struct op o = OP(n, wait, true, err);
    struct make m = {.dir = dir, .ino = ino, .name = name, .out = out};
    int rc = check_name(name, &m.len);
    return rc ? rc : op_run(&o, try_link, &m);
}

/* --- removing --- */

struct removal {
    uint64_t dir;
    const char *name;
    size_t len;
    bool directory;
    struct bh_inode *was;
};

static int may_remove(struct op *o, const struct inode *dir, const struct inode *i, bool directory)
{
    if (!directory && S_ISDIR(i->i.mode))
        return EISDIR;
    if (directory && !S_ISDIR(i->i.mode))
        return ENOTDIR;
    if (directory && i->i.entries > 0)
        return ENOTEMPTY;
    if (dir->i.entries == 0 || (directory && dir->i.nlink <= 2))
        return bh_fail(o->err, EIO,
                       "names.db is damaged: directory %llu has more names than it counts",
                       (unsigned long long)dir->i.ino);
    return 0;
}

static int try_remove(struct op *o, void *arg)
{
    struct removal *r = arg;
    struct inode *dir, *i;
    int rc = op_dir(o, r->dir, &dir);
    if (rc == 0)
        rc = op_name(o, dir, r->name, r->len, &i);
    if (rc == 0)
        rc = i ? may_remove(o, dir, i, r->directory) : ENOENT;
    if (rc)
        return rc;
    struct bh_inode *d = op_change(o, dir), *to = op_change(o, i);
    to->ctime = bh_real_ns();
    touch_dir(d, to->ctime);
    d->entries--;
    if (r->directory) {
        to->nlink = 0;
        d->nlink--;
    } else
        to->nlink--;
    op_change_gone(o, i);
    rc = op_change_name(o, dir, r->name, r->len, NULL);
    if (rc == 0)
        rc = op_commit(o);
    if (rc)
        o->lost.ino = 0;
    else
        show(r->was, i);
    return rc;
}

static int remove_name(struct bh_names *n, struct removal *r, bool wait, struct bh_error *err)
{
    struct op o = OP(n, wait, true, err);
    o.removal = true;
    int rc = check_name(r->name, &r->len);
    return rc ? rc : op_run(&o, try_remove, r);
}

int bh_names_unlink(struct bh_names *n, uint64_t dir, const char *name, struct bh_inode *was,
                    bool wait, struct bh_error *err)
{
    return remove_name(n, &(struct removal){.dir = dir, .name = name, .was = was}, wait, err);
}

int bh_names_rmdir(struct bh_names *n, uint64_t dir, const char *name, struct bh_inode *was,
                   bool wait, struct bh_error *err)
{
    struct removal r = {.dir = dir, .name = name, .was = was, .directory = true};
    return remove_name(n, &r, wait, err);
}

/* --- setting --- */

struct set {
    uint64_t ino;
    unsigned what;
    const struct bh_inode *to;
    struct bh_inode *out;
};

static void set_fields(struct bh_inode *i, unsigned what, const struct bh_inode *to)
{
    int64_t now = bh_real_ns();
    if (what & BH_SET_MODE)
        i->mode = (i->mode & S_IFMT) | (to->mode & 07777);
    if (what & BH_SET_UID)
        i->uid = to->uid;
    if (what & BH_SET_GID)
        i->gid = to->gid;
    if (what & BH_SET_ATIME)
        i->atime = to->atime;
    if (what & BH_SET_MTIME)
        i->mtime = to->mtime;
    if (what & BH_SET_ATIME_NOW)
        i->atime = now;
    if (what & BH_SET_MTIME_NOW)
        i->mtime = now;
    if (what & BH_SET_CONTENT)
        i->content = to->content;
    if (what & BH_SET_CTIME)
        i->ctime = to->ctime > i->ctime ? to->ctime : i->ctime;
    else if ((what & ~(unsigned)BH_SET_CONTENT) && !(what & BH_SET_NO_CTIME))
        i->ctime = now;
}

static int try_set(struct op *o, void *arg)
{
    struct set *s = arg;
    struct inode *i;
    int rc = op_inode(o, s->ino, &i);
    if (rc)
        return rc;
    if ((s->what & BH_SET_CONTENT) && !S_ISREG(i->i.mode))
        return EINVAL;
    struct bh_inode *to = op_change(o, i);
    set_fields(to, s->what, s->to);
    if (inode_wrong(to))
        return EINVAL;
    rc = op_commit(o);
    if (rc == 0)
        show(s->out, i);
    return rc;
}

int bh_names_set(struct bh_names *n, uint64_t ino, unsigned what, const struct bh_inode *to,
                 struct bh_inode *out, bool wait, struct bh_error *err)
{
    struct op o = OP(n, wait, true, err);
    return op_run(&o, try_set, &(struct set){.ino = ino, .what = what, .to = to, .out = out});
}
