/* What asks for many: a directory's names, files that are local, who has a content. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/names_private.h"
#include "util/array.h"
#include "util/log.h"

#define STEP 512 /* rows at once under the mutex */

/* --- a listing --- */

struct item {
    uint64_t ino;
    const char *name;
    uint8_t len, type;
};

/* One allocation: entries, then the names. */
struct builder {
    struct bh_names_listing *out;
    char *at;
};

static int build(struct builder *b, size_t count, size_t name_bytes)
{
    size_t head = sizeof *b->out + count * sizeof b->out->entries[0];
    b->out = malloc(head + name_bytes + 1);
    if (!b->out)
        return ENOMEM;
    b->out->count = 0;
    b->at = (char *)b->out + head;
    return 0;
}

static void add(struct builder *b, uint64_t ino, uint8_t type, const char *name, size_t len)
{
    size_t k = b->out->count++;
    b->out->entries[k].ino = ino;
    b->out->entries[k].mode = (uint32_t)type << 12;
    b->out->entries[k].name = b->at;
    memcpy(b->at, name, len);
    b->at[len] = 0;
    b->at += len + 1;
}

/* What memory has, and rows that it knows nothing of. */
static int make_listing(struct op *o, struct inode *dir, const struct item *rows, size_t count)
{
    struct builder b = {0};
    size_t total = dir->names_known + count, bytes = 0;
    for (struct entry *e = dir->first[0]; e; e = e->next)
        bytes += e->present ? e->name_len + 1u : 0;
    for (size_t i = 0; i < count; i++)
        bytes += rows[i].len + 1u;
    if (build(&b, total, bytes))
        return bh_fail(o->err, ENOMEM, "out of memory while a directory is listed");
    for (struct entry *e = dir->first[0]; e; e = e->next)
        if (e->present)
            add(&b, e->ino, e->type, e->name, e->name_len);
    for (size_t i = 0; i < count; i++)
        add(&b, rows[i].ino, rows[i].type, rows[i].name, rows[i].len);
    free(o->listing);
    o->listing = b.out;
    return 0;
}

static int try_list(struct op *o, void *arg)
{
    struct inode *dir;
    int rc = op_inode(o, *(uint64_t *)arg, &dir);
    if (rc == 0 && !S_ISDIR(dir->i.mode))
        rc = ENOTDIR;
    if (rc || o->listing)
        return rc;
    if (dir->names_known == dir->i.entries)
        return make_listing(o, dir, NULL, 0);
    o->need = (struct need){.what = NEED_LIST, .ino = dir->i.ino};
    return NEED;
}

int bh_names_list(struct bh_names *n, uint64_t dir, struct bh_names_listing **out, bool wait,
                  struct bh_error *err)
{
    struct op o = OP(n, wait, false, err);
    int rc = op_run(&o, try_list, &dir);
    if (rc == 0)
        *out = o.listing;
    else
        free(o.listing);
    return rc;
}

/* --- a listing from the database --- */

/* A row: its name, and its inode, if that can be read: a damaged one does not hide the others. */
static int add_row(struct bytes *b, sqlite3_stmt *st, uint64_t dir, struct bh_error *err)
{
    struct record name = {.type = RECORD_NAME, .present = true, .of = dir},
                  inode = {.type = RECORD_INODE, .present = true};
    struct bh_error wrong = {.text = "the inode does not exist"};
    bool xattrs;
    name.name = sqlite3_column_blob(st, 1 + INODE_COLUMNS);
    name.name_len = (size_t)sqlite3_column_bytes(st, 1 + INODE_COLUMNS);
    if (!name.name || name_wrong(name.name, name.name_len) || row_number(st, 0, &name.ino) ||
        name.ino == 0) {
        bh_log(BH_LOG_ERROR, "names.db is damaged: an entry of directory %llu is left out of lists",
               (unsigned long long)dir);
        return 0;
    }
    bool readable =
        sqlite3_column_type(st, 1) != SQLITE_NULL &&
        row_inode(st, 1, &inode.inode, &inode.target, &inode.target_len, &xattrs, &wrong) == 0;
    if (readable)
        name.file_type = (uint8_t)(inode.inode.mode >> 12);
    else
        bh_log(BH_LOG_ERROR, "entry \"%.*s\" of directory %llu: %s", (int)name.name_len, name.name,
               (unsigned long long)dir, wrong.text);
    int rc = record_add(b, &name);
    if (rc == 0 && readable) {
        inode.fresh = !xattrs;
        rc = record_add(b, &inode);
    }
    return rc ? bh_fail(err, rc, "out of memory while a directory is listed") : 0;
}

static int read_rows(struct bh_names *n, uint64_t dir, struct bytes *b, struct bh_error *err)
{
    struct reader *r;
    sqlite3_stmt *st;
    bool row;
    int rc = reader_get(n, &r, err);
    if (rc)
        return rc;
    rc = reader_stmt(r, GET_LIST, &st, err);
    if (rc == 0)
        sqlite3_bind_int64(st, 1, (sqlite3_int64)dir);
    while (rc == 0 && (rc = row_step(st, &row, err)) == 0 && row)
        rc = add_row(b, st, dir, err);
    reader_put(n, r, rc == 0);
    return rc;
}

struct rows {
    struct item *names; /* into bytes */
    size_t count, cap;
};

static int index_rows(const struct bytes *b, struct rows *rows)
{
    const uint8_t *at = b->data, *end = b->data + b->len;
    struct record r;
    while (b->len && record_next(&at, end, &r) == 1) {
        if (r.type != RECORD_NAME)
            continue;
        if (!bh_grow(rows->names, rows->cap, rows->count))
            return ENOMEM;
        rows->names[rows->count++] = (struct item){
            .ino = r.ino, .name = r.name, .len = (uint8_t)r.name_len, .type = r.file_type};
    }
    return 0;
}

/* All of it, if there is room: then the next listing, and lookups, need no database. With the
 * mutex, of which it lets go now and then. */
static int keep_rows(struct op *o, struct inode *dir, const struct bytes *b)
{
    struct bh_names *n = o->n;
    const uint8_t *at = b->data, *end = b->data + b->len;
    struct record r;
    struct inode *i;
    struct entry *e;
    int rc = 0;
    for (unsigned k = 1; rc == 0 && record_next(&at, end, &r) == 1 && !dir->o.dead; k++) {
        rc = r.type == RECORD_INODE
                 ? load_put_inode(n, &r.inode, r.target, r.target_len, !r.fresh, &i)
                 : load_put_name(n, dir, r.name, r.name_len, r.ino, r.file_type, &e);
        if (rc != ENOMEM)
            rc = 0; /* who looks it up is told */
        if (k % 32 == 0)
            cache_evict(n);
        if (k % STEP == 0) {
            pthread_mutex_unlock(&n->mutex);
            pthread_mutex_lock(&n->mutex);
        }
    }
    return rc ? load_failed(rc, o->err) : 0;
}

/* With the mutex to the end: as of one moment. */
static int merge(struct op *o, struct inode *dir, struct rows *rows)
{
    size_t unknown = 0;
    if (dir->gone)
        return 0; /* the next look says so */
    if (dir->names_known == dir->i.entries)
        return make_listing(o, dir, NULL, 0);
    for (size_t i = 0; i < rows->count; i++)
        if (!entry_find(o->n, dir, KIND_NAME, rows->names[i].name, rows->names[i].len))
            rows->names[unknown++] = rows->names[i];
    if (dir->names_known + unknown != dir->i.entries)
        bh_log(BH_LOG_ERROR, "names.db is damaged: directory %llu counts %llu names, and has %llu",
               (unsigned long long)dir->i.ino, (unsigned long long)dir->i.entries,
               (unsigned long long)(dir->names_known + unknown));
    return make_listing(o, dir, rows->names, unknown);
}

int load_list(struct op *o, struct inode *dir)
{
    struct bh_names *n = o->n;
    struct bytes b = {0};
    struct rows rows = {0};
    struct load l;
    uint64_t ino = dir->i.ino, epoch = n->epoch;
    load_begin(n, &l);
    bool skip = epoch != n->epoch || n->stale || n->no_tables;
    pthread_mutex_unlock(&n->mutex);
    int rc = skip ? 0 : read_rows(n, ino, &b, o->err);
    if (rc == 0 && index_rows(&b, &rows))
        rc = bh_fail(o->err, ENOMEM, "out of memory while a directory is listed");
    pthread_mutex_lock(&n->mutex);
    if (rc == 0 && b.len && epoch == n->epoch && 2 * rows.count <= n->opt.cache)
        rc = keep_rows(o, dir, &b);
    if (rc == 0 && epoch == n->epoch)
        rc = merge(o, dir, &rows);
    load_end(n, &l);
    free(rows.names);
    free(b.data);
    return rc;
}

/* --- files that are local --- */

struct numbers {
    uint64_t *ino;
    size_t count, cap;
};

static int add_number(struct numbers *l, uint64_t ino)
{
    if (!bh_grow(l->ino, l->cap, l->count))
        return ENOMEM;
    l->ino[l->count++] = ino;
    return 0;
}

static int add_changed(struct list *l, struct numbers *out)
{
    int rc = 0;
    for (struct object *o = l->head.next; o != &l->head && rc == 0; o = o->next)
        if (o->kind == KIND_INODE && !inode_of(o)->gone && inode_of(o)->i.content.data)
            rc = add_number(out, inode_of(o)->i.ino);
    return rc;
}

static int read_local(struct bh_names *n, struct numbers *out, struct bh_error *err)
{
    struct reader *r;
    sqlite3_stmt *st;
    bool row;
    int rc = reader_get(n, &r, err);
    if (rc)
        return rc;
    rc = reader_stmt(r, GET_LOCAL, &st, err);
    while (rc == 0 && (rc = row_step(st, &row, err)) == 0 && row)
        if (add_number(out, (uint64_t)sqlite3_column_int64(st, 0)))
            rc = bh_fail(err, ENOMEM, "out of memory while local files are listed");
    reader_put(n, r, rc == 0);
    return rc;
}

/* Memory first: what a checkpoint writes in between is in both. */
static int find_local(struct bh_names *n, struct numbers *out, struct bh_error *err)
{
    struct load l;
    bool tables;
    int rc;
    do {
        out->count = 0;
        rc = load_open(n, &l, &tables, err);
        if (rc)
            return rc;
        pthread_mutex_lock(&n->mutex);
        rc = add_changed(&n->changed[0], out);
        if (rc == 0)
            rc = add_changed(&n->changed[1], out);
        if (rc == 0)
            rc = add_changed(&n->done, out);
        pthread_mutex_unlock(&n->mutex);
        if (rc)
            bh_fail(err, rc, "out of memory while local files are listed");
        else if (tables)
            rc = read_local(n, out, err);
    } while (!load_close(n, &l));
    return rc;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int bh_names_each_local(struct bh_names *n, int (*fn)(void *arg, const struct bh_inode *i),
                        void *arg, struct bh_error *err)
{
    struct numbers local = {0};
    int rc = find_local(n, &local, err);
    if (rc == 0 && local.count)
        qsort(local.ino, local.count, sizeof *local.ino, compare);
    for (size_t i = 0; i < local.count && rc == 0; i++) {
        struct bh_inode is;
        if (i > 0 && local.ino[i] == local.ino[i - 1])
            continue;
        rc = bh_names_get(n, local.ino[i], &is, true, err);
        if (rc == ENOENT)
            rc = 0;
        else if (rc == 0 && is.content.data)
            rc = fn(arg, &is);
    }
    free(local.ino);
    return rc;
}

/* --- who has a content --- */

int bh_names_has_hash(struct bh_names *n, const uint8_t hash[BH_SHA256_LEN], bool *has,
                      struct bh_error *err)
{
    uint64_t size;
    int rc = bh_names_find_blob(n, hash, &size, err);
    *has = rc == 0;
    return rc == ENOENT ? 0 : rc;
}
