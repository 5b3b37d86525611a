/* One operation: looks at memory alone; what is not there is loaded, and it begins again. What it
 * changes is prepared beside the objects, written to the log, and only then made true. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/names_private.h"
#include "util/array.h"
#include "util/clock.h"

/* --- running --- */

int op_pin(struct op *o, struct object *object)
{
    if (!bh_grow(o->pins, o->pin_cap, o->pin_count))
        return bh_fail(o->err, ENOMEM, "out of memory while names are looked up");
    o->pins[o->pin_count++] = object;
    object_pin(o->n, object);
    return 0;
}

/* Nothing of it was made true: what it made is freed. */
static void forget_change(struct op *o)
{
    for (unsigned i = 0; i < o->inodes; i++)
        if (o->inode[i].fresh)
            object_free(&o->inode[i].o->o);
    for (unsigned i = 0; i < o->entries; i++) {
        free(o->entry[i].value);
        if (o->entry[i].fresh)
            object_free(&o->entry[i].o->o);
    }
    o->inodes = o->entries = 0;
}

/* New content is looked at; without the mutex meanwhile. */
static int begin_anew(struct op *o)
{
    struct bh_names *n = o->n;
    pthread_mutex_unlock(&n->mutex);
    pthread_mutex_lock(&n->writing);
    int rc = n->stale ? names_begin(n, o->err) : 0;
    pthread_mutex_unlock(&n->writing);
    pthread_mutex_lock(&n->mutex);
    return rc;
}

static int checkpoint_first(struct op *o)
{
    struct bh_names *n = o->n;
    pthread_mutex_unlock(&n->mutex);
    int rc = checkpoint(n, o->err);
    pthread_mutex_lock(&n->mutex);
    return rc;
}

/* Whether it may go on now. */
static int admit(struct op *o)
{
    struct bh_names *n = o->n;
    int rc = 0;
    if (o->change && n->opt.read_only)
        return EROFS;
    while (rc == 0) {
        bool full = o->change && changed_count(n) >= CHANGED_MAX;
        if (!n->stale && !(o->change && n->held) && !full)
            return 0;
        if (!o->wait)
            return EAGAIN;
        if (o->change && n->held)
            pthread_cond_wait(&n->cond, &n->mutex);
        else if (n->stale)
            rc = begin_anew(o);
        else
            rc = checkpoint_first(o);
    }
    return rc;
}

static void wake_thread(struct bh_names *n)
{
    if (is_quiet(n))
        return;
    n->loud = true;
    if (n->changed_since == 0) {
        n->changed_since = bh_mono_ms();
        pthread_cond_signal(&n->wake);
    } else if (!n->hurried && (n->changed[n->turn].count >= CHANGED_MANY ||
                               n->logs[n->log_count - 1]->end >= LOG_MANY)) {
        n->hurried = true;
        pthread_cond_signal(&n->wake);
    }
}

int op_run(struct op *o, int (*fn)(struct op *o, void *arg), void *arg)
{
    struct bh_names *n = o->n;
    int rc;
    pthread_mutex_lock(&n->mutex);
    for (;;) {
        rc = admit(o);
        if (rc == 0)
            rc = fn(o, arg);
        if (rc)
            forget_change(o);
        if (rc == NEED)
            rc = o->wait ? load_need(o) : EAGAIN;
        else
            break;
        if (rc)
            break;
    }
    if (o->kept)
        o->kept->kept--;
    while (o->pin_count)
        object_unpin(n, o->pins[--o->pin_count]);
    cache_evict(n);
    if (o->change && rc == 0)
        wake_thread(n);
    pthread_mutex_unlock(&n->mutex);
    free(o->pins);
    if (o->lost.ino && n->opt.gone)
        n->opt.gone(n->opt.arg, &o->lost);
    return rc;
}

/* --- looking --- */

int check_name(const char *name, size_t *len)
{
    *len = strlen(name);
    if (*len == 0)
        return ENOENT;
    if (*len > NAME_MAX_LEN)
        return ENAMETOOLONG;
    return name_wrong(name, *len) ? EINVAL : 0;
}

int op_inode(struct op *o, uint64_t ino, struct inode **out)
{
    struct inode *i = inode_find(o->n, ino);
    if (!i) {
        if (ino == 0 || ino > INT64_MAX)
            return ENOENT;
        o->need = (struct need){.what = NEED_INODE, .ino = ino};
        return NEED;
    }
    object_used(o->n, &i->o);
    if (i->gone)
        return ENOENT;
    *out = i;
    return 0;
}

int op_dir(struct op *o, uint64_t ino, struct inode **out)
{
    int rc = op_inode(o, ino, out);
    if (rc == 0 && !S_ISDIR((*out)->i.mode))
        return ENOTDIR;
    return rc == 0 && (*out)->i.nlink == 0 ? ENOENT : rc;
}

static int lead_nowhere(struct op *o, struct inode *dir, const char *name, size_t len, uint64_t ino)
{
    return bh_fail(o->err, EIO,
                   "names.db is damaged: the entry \"%.*s\" of directory %llu leads to inode %llu, "
                   "which does not exist",
                   (int)len, name, (unsigned long long)dir->i.ino, (unsigned long long)ino);
}

int op_name(struct op *o, struct inode *dir, const char *name, size_t len, struct inode **out)
{
    struct entry *e = entry_find(o->n, dir, KIND_NAME, name, len);
    *out = NULL;
    if (e)
        object_used(o->n, &e->o);
    else if (dir->names_known == dir->i.entries)
        return 0;
    if (e && !e->present)
        return 0;
    if (!e) {
        o->need = (struct need){.what = NEED_NAME, .ino = dir->i.ino, .name = name, .len = len};
        return NEED;
    }
    struct inode *i = inode_find(o->n, e->ino);
    if (!i) { /* memory knows the name better than the database */
        o->need = (struct need){.what = NEED_INODE, .ino = e->ino};
        return NEED;
    }
    object_used(o->n, &i->o);
    if (i->gone || i->i.nlink == 0)
        return lead_nowhere(o, dir, name, len, e->ino);
    if (S_ISDIR(i->i.mode) && i->i.parent != dir->i.ino)
        return bh_fail(o->err, EIO,
                       "names.db is damaged: directory %llu is entry \"%.*s\" of directory %llu, "
                       "but says that it is in %llu",
                       (unsigned long long)i->i.ino, (int)len, name, (unsigned long long)dir->i.ino,
                       (unsigned long long)i->i.parent);
    *out = i;
    return 0;
}

/* --- changing --- */

struct bh_inode *op_change(struct op *o, struct inode *i)
{
    for (unsigned k = 0; k < o->inodes; k++)
        if (o->inode[k].o == i)
            return &o->inode[k].to;
    unsigned k = o->inodes++;
    o->inode[k].o = i;
    o->inode[k].to = i->i;
    o->inode[k].gone = o->inode[k].fresh = false;
    return &o->inode[k].to;
}

int op_change_new(struct op *o, const struct bh_inode *i, const char *target, struct inode **out)
{
    struct inode *new = inode_new(i, target, target ? strlen(target) : 0);
    if (!new)
        return ENOMEM;
    new->xattrs_known = true;
    op_change(o, new);
    o->inode[o->inodes - 1].fresh = true;
    *out = new;
    return 0;
}

void op_change_gone(struct op *o, struct inode *i)
{
    for (unsigned k = 0; k < o->inodes; k++)
        if (o->inode[k].o == i && o->inode[k].to.nlink == 0 && i->refs == 0) {
            o->inode[k].gone = true;
            o->lost = o->inode[k].to;
        }
}

int op_change_name(struct op *o, struct inode *dir, const char *name, size_t len,
                   const struct bh_inode *to)
{
    struct entry *e = entry_find(o->n, dir, KIND_NAME, name, len);
    bool fresh = !e;
    if (!e && !(e = entry_new(dir, KIND_NAME, name, len)))
        return ENOMEM;
    unsigned k = o->entries++;
    o->entry[k].o = e;
    o->entry[k].present = to != NULL;
    o->entry[k].fresh = fresh;
    o->entry[k].ino = to ? to->ino : 0;
    o->entry[k].type = to ? (uint8_t)(to->mode >> 12) : 0;
    o->entry[k].value = NULL;
    o->entry[k].value_len = 0;
    return 0;
}

static int record_inodes(struct op *o)
{
    struct bh_names *n = o->n;
    int rc = 0;
    for (unsigned k = 0; k < o->inodes && rc == 0; k++) {
        struct record r;
        record_of_inode(&r, o->inode[k].o, &o->inode[k].to, o->inode[k].gone);
        r.fresh = o->inode[k].fresh;
        rc = batch_take(n, &o->inode[k].o->o);
        if (rc == 0)
            rc = record_add(&n->frame, &r);
    }
    return rc;
}

static int record_entries(struct op *o)
{
    struct bh_names *n = o->n;
    int rc = 0;
    for (unsigned k = 0; k < o->entries && rc == 0; k++) {
        struct entry *e = o->entry[k].o;
        struct record r;
        record_of_entry(&r, e);
        r.present = o->entry[k].present;
        r.ino = o->entry[k].ino;
        r.file_type = o->entry[k].type;
        r.value = o->entry[k].value;
        r.value_len = o->entry[k].value_len;
        rc = batch_take(n, &e->o);
        if (rc == 0)
            rc = record_add(&n->frame, &r);
    }
    return rc;
}

int op_commit(struct op *o)
{
    struct bh_names *n = o->n;
    frame_begin(&n->frame);
    int rc = record_inodes(o);
    if (rc == 0)
        rc = record_entries(o);
    if (rc)
        return bh_fail(o->err, rc, "out of memory while names are changed");
    rc = log_append(n, o->removal, o->err);
    if (rc)
        return rc;
    for (unsigned k = 0; k < o->inodes; k++) {
        struct inode *i = o->inode[k].o;
        inode_apply(n, i, &o->inode[k].to, o->inode[k].gone);
        if (o->inode[k].fresh)
            inode_insert(n, i);
        object_changed(n, &i->o);
        n->inode_count += o->inode[k].fresh;
        n->inode_count -= o->inode[k].gone;
    }
    for (unsigned k = 0; k < o->entries; k++) {
        struct entry *e = o->entry[k].o;
        if (o->entry[k].fresh)
            entry_insert(n, e);
        entry_apply(n, e, o->entry[k].present, o->entry[k].ino, o->entry[k].type, o->entry[k].value,
                    o->entry[k].value_len);
        object_changed(n, &e->o);
    }
    o->inodes = o->entries = 0;
    return 0;
}
