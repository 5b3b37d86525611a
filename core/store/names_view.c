#include "store/names_view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "live/rovfs.h"
#include "store/names_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/strbuf.h"

#define CONNECTIONS 4
#define POLL_MS     50

struct connection {
    struct connection *next; /* of those that nobody uses */
    struct bh_names_view *view;
    struct bh_rovfs *vfs;
    struct reader *reader;
    const struct bh_call *call; /* of who uses it */
    bool no_tables;
};

struct bh_names_view {
    struct bh_names_view_options o;
    pthread_mutex_t mutex;
    pthread_cond_t freed;
    struct connection *idle;
    unsigned count; /* of connections */
    char what[];
};

/* --- connections --- */

static int read_bytes(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    struct connection *c = arg;
    return c->view->o.read(c->view->o.arg, offset, buf, len, c->call, err);
}

static void connection_free(struct connection *c)
{
    if (c->reader)
        reader_close(c->reader);
    bh_rovfs_free(c->vfs);
    free(c);
}

static int open_database(struct connection *c, struct bh_error *err)
{
    struct meta m;
    int rc = bh_rovfs_new(&c->vfs, read_bytes, c, c->view->o.size, err);
    if (rc == 0)
        rc = bh_rovfs_connect(c->vfs, &c->reader->db, "names.db", err);
    if (rc)
        return rc;
    /* What is read is kept below, for all connections. */
    sqlite3_exec(c->reader->db, "PRAGMA cache_size = -512", NULL, NULL, NULL);
    return db_meta(NULL, c->reader->db, &m, &c->no_tables, err);
}

/* The cause is what reading ended with, if SQLite ran into that; and whose it is. */
static int failed(struct connection *c, int rc, struct bh_error *err)
{
    int why = bh_rovfs_why(c->vfs, err);
    return bh_fail_prefix(err, why ? why : rc, "%s", c->view->what);
}

static void give_back(struct connection *c, bool good)
{
    struct bh_names_view *v = c->view;
    if (!good)
        connection_free(c);
    else
        reader_reset(c->reader);
    BH_LOCK_SCOPE(&v->mutex);
    if (good) {
        c->next = v->idle;
        v->idle = c;
    } else {
        v->count--;
    }
    pthread_cond_signal(&v->freed);
}

/* *out NULL: a new one may be made. */
static int wait_for_one(struct bh_names_view *v, struct connection **out,
                        const struct bh_call *call, struct bh_error *err)
{
    BH_LOCK_SCOPE(&v->mutex);
    while (!v->idle && v->count == CONNECTIONS) {
        struct timespec until = bh_mono_after_ms(POLL_MS);
        int rc = bh_call_check(call, v->what, err);
        if (rc)
            return rc;
        pthread_cond_clockwait(&v->freed, &v->mutex, CLOCK_MONOTONIC, &until);
    }
    *out = v->idle;
    if (v->idle)
        v->idle = v->idle->next;
    else
        v->count++;
    return 0;
}

static int make_one(struct bh_names_view *v, struct connection **out, const struct bh_call *call,
                    struct bh_error *err)
{
    struct connection *c = calloc(1, sizeof *c);
    struct reader *r = calloc(1, sizeof *r);
    if (!c || !r) {
        free(c);
        free(r);
        BH_LOCK_SCOPE(&v->mutex);
        v->count--;
        pthread_cond_signal(&v->freed);
        return bh_fail(err, ENOMEM, "%s: out of memory for names.db", v->what);
    }
    *c = (struct connection){.view = v, .reader = r, .call = call};
    int rc = open_database(c, err);
    if (rc) {
        rc = failed(c, rc, err);
        give_back(c, false);
        return rc;
    }
    *out = c;
    return 0;
}

/* *out NULL: the tree is empty. */
static int begin(struct bh_names_view *v, struct connection **out, const struct bh_call *call,
                 struct bh_error *err)
{
    *out = NULL;
    if (v->o.size == 0)
        return 0;
    int rc = wait_for_one(v, out, call, err);
    if (rc == 0 && !*out)
        rc = make_one(v, out, call, err);
    if (rc)
        return rc;
    (*out)->call = call;
    bh_rovfs_forget_why((*out)->vfs);
    if ((*out)->no_tables) {
        give_back(*out, true);
        *out = NULL;
    }
    return 0;
}

/* rc: 0, or a failure with its sentence. */
static int end(struct connection *c, int rc, struct bh_error *err)
{
    if (!c)
        return rc;
    if (rc)
        rc = failed(c, rc, err);
    give_back(c, rc == 0);
    return rc;
}

int bh_names_view_new(struct bh_names_view **out, const struct bh_names_view_options *o,
                      struct bh_error *err)
{
    size_t len = strlen(o->what) + 1;
    struct bh_names_view *v = calloc(1, sizeof *v + len);
    if (!v)
        return bh_fail(err, ENOMEM, "%s: out of memory for names.db", o->what);
    v->o = *o;
    v->o.what = memcpy(v->what, o->what, len);
    v->o.root.ino = v->o.root.parent = BH_NAMES_ROOT;
    pthread_mutex_init(&v->mutex, NULL);
    pthread_cond_init(&v->freed, NULL);
    *out = v;
    return 0;
}

void bh_names_view_free(struct bh_names_view *v)
{
    if (!v)
        return;
    while (v->idle) {
        struct connection *next = v->idle->next;
        connection_free(v->idle);
        v->idle = next;
    }
    pthread_cond_destroy(&v->freed);
    pthread_mutex_destroy(&v->mutex);
    free(v);
}

/* --- inodes --- */

/* Only what was published is in a snapshot. */
static int published(struct bh_inode *i, struct bh_error *err)
{
    struct bh_content *c = &i->content;
    if (!S_ISREG(i->mode))
        return 0;
    if (!c->data && c->size != c->hash_size)
        return bh_fail(err, EIO, "names.db is damaged: inode %llu: its size is not its content's",
                       (unsigned long long)i->ino);
    c->data = 0;
    c->size = c->hash_size;
    return 0;
}

static int row_to_inode(sqlite3_stmt *st, int first, struct bh_inode *out, struct bh_error *err)
{
    const char *target;
    size_t len;
    bool xattrs;
    int rc = row_inode(st, first, out, &target, &len, &xattrs, err);
    return rc ? rc : published(out, err);
}

/* One row of which, or none: *found. */
static int query(struct connection *c, int which, uint64_t number, sqlite3_stmt **st, bool *found,
                 struct bh_error *err)
{
    int rc = reader_stmt(c->reader, which, st, err);
    *found = false;
    if (rc)
        return rc;
    sqlite3_bind_int64(*st, 1, (sqlite3_int64)number);
    return row_step(*st, found, err);
}

int bh_names_view_get(struct bh_names_view *v, uint64_t ino, struct bh_inode *out,
                      const struct bh_call *call, struct bh_error *err)
{
    struct connection *c;
    sqlite3_stmt *st;
    bool found = false;
    int rc = begin(v, &c, call, err);
    if (rc)
        return rc;
    if (!c && ino == BH_NAMES_ROOT) {
        *out = v->o.root;
        return 0;
    }
    if (c)
        rc = query(c, GET_INODE, ino, &st, &found, err);
    if (rc == 0 && found)
        rc = row_to_inode(st, 0, out, err);
    else if (rc == 0 && ino == BH_NAMES_ROOT)
        rc = bh_fail(err, EIO, "names.db is damaged: there is no root directory");
    rc = end(c, rc, err);
    return rc || found ? rc
                       : bh_fail(err, ENOENT, "%s: there is no inode %llu", v->what,
                                 (unsigned long long)ino);
}

static int row_to_named(sqlite3_stmt *st, uint64_t dir, const char *name, struct bh_inode *out,
                        struct bh_error *err)
{
    if (sqlite3_column_type(st, 1) == SQLITE_NULL)
        return bh_fail(err, EIO,
                       "names.db is damaged: the entry \"%s\" of directory %llu has no inode", name,
                       (unsigned long long)dir);
    return row_to_inode(st, 1, out, err);
}

int bh_names_view_lookup(struct bh_names_view *v, uint64_t dir, const char *name,
                         struct bh_inode *out, const struct bh_call *call, struct bh_error *err)
{
    struct connection *c;
    sqlite3_stmt *st;
    bool found = false;
    int rc = begin(v, &c, call, err);
    if (rc)
        return rc;
    if (c)
        rc = reader_stmt(c->reader, GET_NAME, &st, err);
    if (c && rc == 0) {
        sqlite3_bind_blob(st, 2, name, (int)strlen(name), SQLITE_STATIC);
        rc = query(c, GET_NAME, dir, &st, &found, err);
    }
    if (rc == 0 && found)
        rc = row_to_named(st, dir, name, out, err);
    rc = end(c, rc, err);
    return rc || found ? rc : bh_fail(err, ENOENT, "%s: there is no \"%s\"", v->what, name);
}

int bh_names_view_readlink(struct bh_names_view *v, uint64_t ino, char **target,
                           const struct bh_call *call, struct bh_error *err)
{
    struct connection *c;
    struct bh_inode i;
    sqlite3_stmt *st;
    const char *text = NULL;
    size_t len;
    bool found = false, xattrs;
    int rc = begin(v, &c, call, err);
    if (rc == 0 && c)
        rc = query(c, GET_INODE, ino, &st, &found, err);
    if (rc == 0 && found)
        rc = row_inode(st, 0, &i, &text, &len, &xattrs, err);
    if (rc == 0 && text && !(*target = strndup(text, len)))
        rc = bh_fail(err, ENOMEM, "out of memory while a link is read");
    rc = end(c, rc, err);
    return rc || text ? rc
                      : bh_fail(err, EINVAL, "%s: inode %llu is no symbolic link", v->what,
                                (unsigned long long)ino);
}

/* --- attributes --- */

struct xattrs {
    const char *name;       /* that is looked for; NULL: all names */
    struct bh_strbuf value; /* or all names, each with its NUL */
    bool found;
};

static int take_row(struct xattrs *x, sqlite3_stmt *st, uint64_t ino, struct bh_error *err)
{
    const char *wrong = xattr_wrong(st, 0, 1), *name = sqlite3_column_blob(st, 0);
    size_t len = (size_t)sqlite3_column_bytes(st, 0);
    if (wrong)
        return bh_fail(err, EIO, "names.db is damaged: an attribute of inode %llu: %s",
                       (unsigned long long)ino, wrong);
    if (!x->name) {
        bh_strbuf_add(&x->value, name, len);
        bh_strbuf_add(&x->value, "", 1);
    } else if (strlen(x->name) == len && memcmp(x->name, name, len) == 0) {
        x->found = true;
        bh_strbuf_add(&x->value, sqlite3_column_blob(st, 1), (size_t)sqlite3_column_bytes(st, 1));
    }
    return 0;
}

static int read_xattrs(struct bh_names_view *v, uint64_t ino, struct xattrs *x,
                       const struct bh_call *call, struct bh_error *err)
{
    struct connection *c;
    sqlite3_stmt *st;
    bool row = false;
    int rc = begin(v, &c, call, err);
    bh_strbuf_add(&x->value, "", 0); /* it is there, though it may be empty */
    if (rc == 0 && c)
        rc = query(c, GET_XATTRS, ino, &st, &row, err);
    while (rc == 0 && row && !x->found) {
        rc = take_row(x, st, ino, err);
        if (rc == 0)
            rc = row_step(st, &row, err);
    }
    rc = end(c, rc, err);
    if (rc == 0 && x->value.failed)
        rc = bh_fail(err, ENOMEM, "out of memory while attributes are read");
    if (rc)
        bh_strbuf_free(&x->value);
    return rc;
}

int bh_names_view_getxattr(struct bh_names_view *v, uint64_t ino, const char *name, void **value,
                           size_t *len, const struct bh_call *call, struct bh_error *err)
{
    struct xattrs x = {.name = name};
    int rc = read_xattrs(v, ino, &x, call, err);
    if (rc)
        return rc;
    if (!x.found) {
        bh_strbuf_free(&x.value);
        return bh_fail(err, ENODATA, "%s: there is no attribute \"%s\"", v->what, name);
    }
    *value = x.value.data;
    *len = x.value.len;
    return 0;
}

int bh_names_view_listxattr(struct bh_names_view *v, uint64_t ino, char **list, size_t *len,
                            const struct bh_call *call, struct bh_error *err)
{
    struct xattrs x = {0};
    int rc = read_xattrs(v, ino, &x, call, err);
    if (rc)
        return rc;
    *list = x.value.data;
    *len = x.value.len;
    return 0;
}

/* --- a directory --- */

/* Rows, then the names one after the other: where they are is known when the last is there. */
struct listing {
    struct bh_names_view_listing *out;
    size_t room;
    char *names;
    size_t used, names_room;
};

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory while a directory is listed");
}

static int grow(struct listing *l, size_t name_len, struct bh_error *err)
{
    size_t count = l->out ? l->out->count : 0;
    if (!l->out || count == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        void *more = realloc(l->out, sizeof *l->out + room * sizeof l->out->entries[0]);
        if (!more)
            return no_memory(err);
        l->out = more;
        l->out->count = count;
        l->room = room;
    }
    if (l->used + name_len + 1 > l->names_room) {
        size_t room = 2 * l->names_room + 4096;
        char *more = realloc(l->names, room);
        if (!more)
            return no_memory(err);
        l->names = more;
        l->names_room = room;
    }
    return 0;
}

static int add_entry(struct listing *l, struct connection *c, sqlite3_stmt *st, uint64_t dir,
                     struct bh_error *err)
{
    struct bh_inode i = {0};
    struct bh_error wrong = {.text = "the inode does not exist"};
    const char *name = sqlite3_column_blob(st, 1 + INODE_COLUMNS);
    size_t len = (size_t)sqlite3_column_bytes(st, 1 + INODE_COLUMNS);
    uint64_t ino;
    if (!name || name_wrong(name, len) || row_number(st, 0, &ino) || ino == 0)
        return bh_fail(err, EIO, "names.db is damaged: an entry of directory %llu is wrong",
                       (unsigned long long)dir);
    if (sqlite3_column_type(st, 1) == SQLITE_NULL || row_to_inode(st, 1, &i, &wrong) != 0) {
        bh_log(BH_LOG_ERROR, "%s: entry \"%.*s\" of directory %llu: %s", c->view->what, (int)len,
               name, (unsigned long long)dir, wrong.text);
        i = (struct bh_inode){.ino = ino};
    }
    int rc = grow(l, len, err);
    if (rc)
        return rc;
    l->out->entries[l->out->count++].inode = i;
    memcpy(l->names + l->used, name, len);
    l->names[l->used + len] = 0;
    l->used += len + 1;
    return 0;
}

/* As one allocation. */
static int finish(struct listing *l, struct bh_names_view_listing **out, struct bh_error *err)
{
    size_t head = sizeof *l->out + l->out->count * sizeof l->out->entries[0];
    struct bh_names_view_listing *all = realloc(l->out, head + l->used + 1);
    if (!all)
        return no_memory(err);
    char *at = (char *)all + head;
    l->out = NULL;
    if (l->used)
        memcpy(at, l->names, l->used);
    for (size_t i = 0; i < all->count; i++) {
        all->entries[i].name = at;
        at += strlen(at) + 1;
    }
    *out = all;
    return 0;
}

static int read_entries(struct connection *c, uint64_t dir, struct listing *l,
                        const struct bh_call *call, struct bh_error *err)
{
    sqlite3_stmt *st;
    bool row;
    int rc = query(c, GET_LIST, dir, &st, &row, err);
    for (size_t n = 1; rc == 0 && row; n++) {
        rc = add_entry(l, c, st, dir, err);
        if (rc == 0 && n % CHECK_ROWS == 0)
            rc = bh_call_check(call, "listing a directory", err);
        if (rc == 0)
            rc = row_step(st, &row, err);
    }
    return rc;
}

int bh_names_view_list(struct bh_names_view *v, uint64_t dir, struct bh_names_view_listing **out,
                       const struct bh_call *call, struct bh_error *err)
{
    struct listing l = {0};
    struct connection *c;
    int rc = begin(v, &c, call, err);
    if (rc == 0)
        rc = grow(&l, 0, err);
    if (rc == 0 && c)
        rc = read_entries(c, dir, &l, call, err);
    rc = end(c, rc, err);
    if (rc == 0)
        rc = finish(&l, out, err);
    free(l.out);
    free(l.names);
    return rc;
}

/* --- contents --- */

int bh_names_view_list_blobs(struct bh_names_view *v, struct bh_blob_list **out,
                             const struct bh_call *call, struct bh_error *err)
{
    struct connection *c;
    int rc = begin(v, &c, call, err);
    if (rc == 0)
        rc = reader_list_blobs(c ? c->reader : NULL, out, call, err);
    return end(c, rc, err);
}

int bh_names_view_find_blob(struct bh_names_view *v, const uint8_t hash[BH_SHA256_LEN],
                            uint64_t *size, const struct bh_call *call, struct bh_error *err)
{
    struct connection *c;
    sqlite3_stmt *st;
    bool found = false;
    int rc = begin(v, &c, call, err);
    if (rc == 0 && c)
        rc = reader_stmt(c->reader, GET_HASH, &st, err);
    if (rc == 0 && c) {
        sqlite3_bind_blob(st, 1, hash, BH_SHA256_LEN, SQLITE_STATIC);
        rc = row_step(st, &found, err);
        if (rc == 0 && found && row_number(st, 1, size))
            rc = bh_fail(err, EIO, "names.db is damaged: the size of a content is wrong");
    }
    rc = end(c, rc, err);
    return rc || found ? rc : bh_fail(err, ENOENT, "%s: there is no such blob", v->what);
}
