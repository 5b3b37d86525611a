/* From the database into memory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/names_private.h"

void load_begin(struct bh_names *n, struct load *l)
{
    while (n->gate)
        pthread_cond_wait(&n->cond, &n->mutex);
    l->began = n->checkpoint;
    l->epoch = n->epoch;
    l->next = &n->loads;
    l->prev = n->loads.prev;
    l->prev->next = l->next->prev = l;
    n->loading++;
}

void load_end(struct bh_names *n, struct load *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    n->loading--;
    if (n->loading == 0)
        pthread_cond_broadcast(&n->cond);
}

static int nothing(struct op *o, void *arg)
{
    return 0;
}

int load_open(struct bh_names *n, struct load *l, bool *tables, struct bh_error *err)
{
    for (;;) {
        struct op o = OP(n, true, false, err);
        int rc = op_run(&o, nothing, NULL); /* new content is looked at */
        if (rc)
            return rc;
        pthread_mutex_lock(&n->mutex);
        load_begin(n, l);
        bool again = n->stale;
        if (again)
            load_end(n, l);
        *tables = !n->no_tables;
        pthread_mutex_unlock(&n->mutex);
        if (!again)
            return 0;
    }
}

bool load_close(struct bh_names *n, struct load *l)
{
    pthread_mutex_lock(&n->mutex);
    bool same = l->epoch == n->epoch;
    load_end(n, l);
    pthread_mutex_unlock(&n->mutex);
    return same;
}

/* --- reading, without the mutex --- */

/* What was read, as records (names_record.c); an inode that is `fresh` has no attributes. */
static int add_inode(struct bytes *b, sqlite3_stmt *st, int first, struct bh_error *err)
{
    struct record r = {.type = RECORD_INODE, .present = true};
    bool xattrs;
    int rc = row_inode(st, first, &r.inode, &r.target, &r.target_len, &xattrs, err);
    r.fresh = !xattrs;
    if (rc == 0 && record_add(b, &r))
        rc = bh_fail(err, ENOMEM, "out of memory while names are read");
    return rc;
}

static int damaged_entry(const struct need *need, struct bh_error *err)
{
    return bh_fail(err, EIO,
                   "names.db is damaged: the entry \"%.*s\" of directory %llu has no inode",
                   (int)need->len, need->name, (unsigned long long)need->ino);
}

static int add_name(struct bytes *b, sqlite3_stmt *st, const struct need *need,
                    struct bh_error *err)
{
    struct record r = {.type = RECORD_NAME,
                       .present = true,
                       .of = need->ino,
                       .name = need->name,
                       .name_len = need->len};
    if (row_number(st, 0, &r.ino) || r.ino == 0 || sqlite3_column_type(st, 1) == SQLITE_NULL)
        return damaged_entry(need, err);
    r.file_type = (uint8_t)((uint32_t)sqlite3_column_int(st, 2) >> 12 & 15);
    if (record_add(b, &r))
        return bh_fail(err, ENOMEM, "out of memory while names are read");
    return add_inode(b, st, 1, err);
}

static int add_xattr(struct bytes *b, sqlite3_stmt *st, const struct need *need,
                     struct bh_error *err)
{
    struct record r = {.type = RECORD_XATTR, .present = true, .of = need->ino};
    const char *wrong = xattr_wrong(st, 0, 1);
    if (wrong)
        return bh_fail(err, EIO, "names.db is damaged: an attribute of inode %llu: %s",
                       (unsigned long long)need->ino, wrong);
    r.name = sqlite3_column_blob(st, 0);
    r.name_len = (size_t)sqlite3_column_bytes(st, 0);
    r.value = sqlite3_column_blob(st, 1);
    r.value_len = (size_t)sqlite3_column_bytes(st, 1);
    return record_add(b, &r) ? bh_fail(err, ENOMEM, "out of memory while attributes are read") : 0;
}

static int read_rows(struct reader *r, const struct need *need, struct bytes *b,
                     struct bh_error *err)
{
    static const int which[] = {
        [NEED_INODE] = GET_INODE, [NEED_NAME] = GET_NAME, [NEED_XATTRS] = GET_XATTRS};
    sqlite3_stmt *st;
    bool row = false;
    int rc = reader_stmt(r, which[need->what], &st, err);
    if (rc)
        return rc;
    sqlite3_bind_int64(st, 1, (sqlite3_int64)need->ino);
    if (need->what == NEED_NAME)
        sqlite3_bind_blob(st, 2, need->name, (int)need->len, SQLITE_STATIC);
    while (rc == 0 && (rc = row_step(st, &row, err)) == 0 && row) {
        if (need->what == NEED_INODE)
            rc = add_inode(b, st, 0, err);
        else if (need->what == NEED_NAME)
            rc = add_name(b, st, need, err);
        else
            rc = add_xattr(b, st, need, err);
    }
    return rc;
}

/* --- into memory, with the mutex --- */

int load_failed(int rc, struct bh_error *err)
{
    return rc == ENOMEM
               ? bh_fail(err, rc, "out of memory while names are read")
               : bh_fail(err, rc, "the local data of a file cannot be looked at: %s", strerror(rc));
}

int load_put_inode(struct bh_names *n, const struct bh_inode *i, const char *target,
                   size_t target_len, bool xattrs, struct inode **out)
{
    struct inode *there = inode_find(n, i->ino);
    if (!there) {
        struct bh_inode here = *i;
        bool has = true;
        int rc = here.content.data && n->opt.has_data
                     ? n->opt.has_data(n->opt.arg, here.content.data, &has)
                     : 0;
        if (rc)
            return rc;
        if (!has) {
            here.content.data = 0;
            here.content.size = here.content.hash_size;
        }
        there = inode_new(&here, target, target_len);
        if (!there)
            return ENOMEM;
        there->xattrs_known = !xattrs;
        there->gone = i->nlink == 0; /* of an earlier life: nobody can refer to it */
        inode_insert(n, there);
        object_settle(n, &there->o);
    }
    *out = there;
    return 0;
}

int load_put_name(struct bh_names *n, struct inode *dir, const char *name, size_t len, uint64_t ino,
                  uint8_t type, struct entry **out)
{
    struct entry *e = entry_find(n, dir, KIND_NAME, name, len);
    if (!e) {
        e = entry_new(dir, KIND_NAME, name, len);
        if (!e)
            return ENOMEM;
        entry_insert(n, e);
        entry_apply(n, e, ino != 0, ino, type, NULL, 0);
        object_settle(n, &e->o);
    }
    *out = e;
    return 0;
}

static int put_xattr(struct bh_names *n, struct inode *i, const struct record *r)
{
    if (entry_find(n, i, KIND_XATTR, r->name, r->name_len))
        return 0;
    struct entry *e = entry_new(i, KIND_XATTR, r->name, r->name_len);
    uint8_t *value = malloc(r->value_len + 1);
    if (!e || !value) {
        object_free(e ? &e->o : NULL);
        free(value);
        return ENOMEM;
    }
    memcpy(value, r->value, r->value_len);
    entry_insert(n, e);
    entry_apply(n, e, true, 0, 0, value, (uint32_t)r->value_len);
    object_settle(n, &e->o);
    return 0;
}

static int put_record(struct op *o, struct inode *of, const struct record *r)
{
    struct bh_names *n = o->n;
    struct inode *i;
    struct entry *e;
    int rc = 0;
    switch (r->type) {
    case RECORD_INODE:
        rc = load_put_inode(n, &r->inode, r->target, r->target_len, !r->fresh, &i);
        return rc ? rc : op_pin(o, &i->o);
    case RECORD_NAME:
        rc = load_put_name(n, of, r->name, r->name_len, r->ino, r->file_type, &e);
        return rc ? rc : op_pin(o, &e->o);
    case RECORD_XATTR:
        return put_xattr(n, of, r);
    }
    return rc;
}

/* That the database has nothing is worth knowing, too. */
static int put_nothing(struct op *o, struct inode *of, const struct need *need)
{
    struct bh_inode none = {.ino = need->ino};
    struct inode *i;
    struct entry *e;
    int rc;
    if (need->what == NEED_INODE) {
        rc = load_put_inode(o->n, &none, NULL, 0, false, &i);
        return rc ? rc : op_pin(o, &i->o);
    }
    if (need->what == NEED_XATTRS) {
        of->xattrs_known = true;
        return 0;
    }
    rc = load_put_name(o->n, of, need->name, need->len, 0, 0, &e);
    return rc ? rc : op_pin(o, &e->o);
}

static int put_all(struct op *o, struct inode *of, const struct need *need, const struct bytes *b)
{
    const uint8_t *at = b->data, *end = b->data + b->len;
    struct record r;
    int rc = 0;
    if (b->len == 0)
        rc = put_nothing(o, of, need);
    while (rc == 0 && b->len && record_next(&at, end, &r) == 1)
        rc = put_record(o, of, &r);
    if (rc == 0 && need->what == NEED_XATTRS)
        of->xattrs_known = true;
    return rc ? load_failed(rc, o->err) : 0;
}

static int read_need(struct bh_names *n, const struct need *need, struct bytes *b,
                     struct bh_error *err)
{
    struct reader *r;
    int rc = reader_get(n, &r, err);
    if (rc)
        return rc;
    rc = read_rows(r, need, b, err);
    reader_put(n, r, rc == 0);
    return rc;
}

static void keep_xattrs(struct op *o, struct inode *of)
{
    if (o->kept)
        o->kept->kept--;
    o->kept = of;
    of->kept++;
}

int load_need(struct op *o)
{
    struct bh_names *n = o->n;
    struct need need = o->need;
    struct inode *of = need.what == NEED_INODE ? NULL : inode_find(n, need.ino);
    struct bytes b = {0};
    struct load l;
    int rc = of ? op_pin(o, &of->o) : 0;
    if (rc)
        return rc;
    if (need.what == NEED_LIST)
        return load_list(o, of);
    if (need.what == NEED_XATTRS)
        keep_xattrs(o, of);
    if (n->no_tables)
        return put_nothing(o, of, &need);
    uint64_t epoch = n->epoch;
    load_begin(n, &l);
    if (epoch == n->epoch && !n->stale) {
        pthread_mutex_unlock(&n->mutex);
        rc = read_need(n, &need, &b, o->err);
        pthread_mutex_lock(&n->mutex);
        if (rc == 0 && epoch == n->epoch)
            rc = put_all(o, of, &need, &b);
    } /* else it is asked again, of the new content */
    load_end(n, &l);
    free(b.data);
    return rc;
}
