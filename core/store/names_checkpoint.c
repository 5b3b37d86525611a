/* From memory into the database: a checkpoint begins when changed objects get another list and the
 * log another file. What is in the old list is taken down as it was at that moment, in small steps,
 * by this thread or by an operation that is about to change it; then it is written as one
 * transaction. That may fail and is tried again, with the same records, until it is committed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/names_private.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/random.h"

#define STEP 256 /* objects at once under the mutex */

/* --- taking down, with the mutex --- */

static enum place place_todo(const struct bh_names *n)
{
    return (enum place)(PLACE_CHANGED + !n->turn);
}

int batch_take(struct bh_names *n, struct object *o)
{
    struct record r;
    if (o->place != place_todo(n))
        return 0;
    if (o->kind == KIND_INODE)
        record_of_inode(&r, inode_of(o), &inode_of(o)->i, inode_of(o)->gone);
    else
        record_of_entry(&r, entry_of(o));
    if (record_add(&n->batch, &r))
        return ENOMEM;
    list_move(n, o, PLACE_DONE);
    return 0;
}

static int take_all(struct bh_names *n, struct bh_error *err)
{
    struct list *todo = &n->changed[!n->turn]; /* only we change turns */
    int rc = 0;
    for (bool more = true; more && rc == 0;) {
        pthread_mutex_lock(&n->mutex);
        for (int i = 0; i < STEP && todo->count > 0 && rc == 0; i++)
            rc = batch_take(n, todo->head.next);
        more = todo->count > 0;
        pthread_mutex_unlock(&n->mutex);
    }
    return rc ? bh_fail(err, rc, "out of memory while names are written to names.db") : 0;
}

/* false: there is nothing to write. */
static int begin_batch(struct bh_names *n, bool *any, struct bh_error *err)
{
    struct log *l = NULL;
    uint64_t state = 0;
    pthread_mutex_lock(&n->mutex);
    *any =
        !n->stale && !n->frozen && (n->changed[n->turn].count > 0 || n->sweep || n->forget.len > 0);
    int rc = *any ? log_reserve(n) : 0;
    if (!*any) {
        n->changed_since = 0;
        n->hurried = false;
    }
    pthread_mutex_unlock(&n->mutex);
    if (!*any)
        return 0;
    bh_random_bytes(&state, sizeof state);
    state = (state & INT64_MAX) | 1;
    if (rc)
        return bh_fail(err, rc, "a checkpoint of names cannot begin: %s", strerror(rc));
    rc = log_make(n, n->log_number + 1, state, &l, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&n->mutex);
    n->log_number++;
    n->batch_logs = n->log_count;
    n->logs[n->log_count++] = l;
    n->turn = !n->turn;
    n->next = (struct meta){.state = state,
                            .applied = n->seq,
                            .next_ino = n->next_ino,
                            .inodes = n->inode_count,
                            .rows = n->rows};
    struct bytes empty = n->forgetting, empty2 = n->losing;
    n->forgetting = n->forget;
    n->forget = empty;
    n->losing = n->lost;
    n->lost = empty2;
    n->changed_since = 0;
    n->hurried = n->loud = false;
    n->batch_open = true;
    pthread_mutex_unlock(&n->mutex);
    return 0;
}

/* --- writing --- */

static int run(sqlite3_stmt *st, struct bh_error *err)
{
    int code = sqlite3_step(st), rc = 0;
    if (code != SQLITE_DONE && code != SQLITE_ROW)
        rc = db_fail(sqlite3_db_handle(st), err, "names.db cannot be written");
    sqlite3_reset(st);
    return rc;
}

static int run_with(struct bh_names *n, int which, uint64_t number, const struct record *name,
                    struct bh_error *err)
{
    sqlite3_stmt *st;
    int rc = writer_stmt(n, which, &st, err);
    if (rc)
        return rc;
    sqlite3_bind_int64(st, 1, (sqlite3_int64)number);
    if (name)
        sqlite3_bind_blob(st, 2, name->name, (int)name->name_len, SQLITE_STATIC);
    if (which == PUT_NAME)
        sqlite3_bind_int64(st, 3, (sqlite3_int64)name->ino);
    if (which == PUT_XATTR)
        sqlite3_bind_blob(st, 3, name->value, (int)name->value_len, SQLITE_STATIC);
    return run(st, err);
}

static int put_inode(struct bh_names *n, const struct record *r, struct bh_error *err)
{
    const struct bh_inode *i = &r->inode;
    const struct bh_content *c = &i->content;
    sqlite3_stmt *st;
    int rc = writer_stmt(n, PUT_INODE, &st, err);
    if (rc)
        return rc;
    const uint64_t v[15] = {i->ino,
                            i->mode,
                            i->nlink,
                            i->uid,
                            i->gid,
                            i->rdev,
                            (uint64_t)i->atime,
                            (uint64_t)i->mtime,
                            (uint64_t)i->ctime,
                            i->parent,
                            i->entries,
                            c->size,
                            c->data,
                            0,
                            c->hash_size};
    for (int k = 0; k < 15; k++)
        sqlite3_bind_int64(st, k + 1, (sqlite3_int64)v[k]);
    if (bh_sha256_is_none(c->hash))
        sqlite3_bind_null(st, 14);
    else
        sqlite3_bind_blob(st, 14, c->hash, sizeof c->hash, SQLITE_STATIC);
    rc = run(st, err);
    if (rc || !r->target)
        return rc;
    rc = writer_stmt(n, PUT_TARGET, &st, err);
    if (rc)
        return rc;
    sqlite3_bind_int64(st, 1, (sqlite3_int64)i->ino);
    sqlite3_bind_blob(st, 2, r->target, (int)r->target_len, SQLITE_STATIC);
    return run(st, err);
}

static int drop_inode(struct bh_names *n, uint64_t ino, struct bh_error *err)
{
    int rc = run_with(n, DROP_INODE, ino, NULL, err);
    if (rc == 0)
        rc = run_with(n, DROP_TARGET, ino, NULL, err);
    return rc ? rc : run_with(n, DROP_XATTRS, ino, NULL, err);
}

static int put_record(struct bh_names *n, const struct record *r, struct bh_error *err)
{
    switch (r->type) {
    case RECORD_INODE:
        return put_inode(n, r, err);
    case RECORD_NAME:
        return run_with(n, r->present ? PUT_NAME : DROP_NAME, r->of, r, err);
    case RECORD_XATTR:
        return run_with(n, r->present ? PUT_XATTR : DROP_XATTR, r->of, r, err);
    }
    return 0;
}

/* Inodes that are gone last: nothing of them may be left, whatever came before. */
static int put_batch(struct bh_names *n, struct bh_error *err)
{
    int rc = 0;
    for (int last = 0; last < 2 && rc == 0; last++) {
        const uint8_t *at = n->batch.data, *end = n->batch.data + n->batch.len;
        struct record r;
        int more = 1;
        while (rc == 0 && n->batch.len && (more = record_next(&at, end, &r)) == 1) {
            bool gone = r.type == RECORD_INODE && !r.present;
            if (gone && last)
                rc = drop_inode(n, r.inode.ino, err);
            else if (!gone && !last)
                rc = put_record(n, &r, err);
        }
        if (more < 0)
            rc = bh_fail(err, EIO, "names: a record in memory is malformed; please report this");
    }
    return rc;
}

static int put_meta(struct bh_names *n, const char *key, uint64_t value, struct bh_error *err)
{
    sqlite3_stmt *st;
    int rc = writer_stmt(n, PUT_META, &st, err);
    if (rc)
        return rc;
    sqlite3_bind_text(st, 1, key, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 2, (sqlite3_int64)value);
    return run(st, err);
}

static int exec(struct bh_names *n, const char *text, struct bh_error *err)
{
    if (sqlite3_exec(n->writer, text, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    return db_fail(n->writer, err, "names.db cannot be written");
}

/* What the batch has to say of it counts. */
static bool is_changed(struct bh_names *n, uint64_t ino)
{
    pthread_mutex_lock(&n->mutex);
    struct inode *i = inode_find(n, ino);
    bool changed = i && i->o.place > PLACE_IDLE;
    pthread_mutex_unlock(&n->mutex);
    return changed;
}

/* Inodes that had no name when an earlier life ended. */
static int sweep(struct bh_names *n, struct bh_error *err)
{
    sqlite3_stmt *st = NULL;
    int rc = 0, code = sqlite3_prepare_v2(
                    n->writer, "SELECT ino FROM inodes WHERE nlink = 0 AND ino > ?1 LIMIT 1", -1,
                    &st, NULL);
    n->swept = 0;
    for (int64_t ino = 0; rc == 0 && code == SQLITE_OK;) {
        sqlite3_bind_int64(st, 1, ino);
        if (sqlite3_step(st) == SQLITE_ROW) {
            ino = sqlite3_column_int64(st, 0);
            if (!is_changed(n, (uint64_t)ino)) {
                rc = drop_inode(n, (uint64_t)ino, err);
                n->swept++;
            }
        } else
            ino = -1;
        code = sqlite3_reset(st);
        if (ino < 0)
            break;
    }
    if (code != SQLITE_OK && rc == 0)
        rc = db_fail(n->writer, err, "names.db cannot be read");
    sqlite3_finalize(st);
    return rc;
}

/* *done: it was committed by an earlier try that was told otherwise. */
static int put_everything(struct bh_names *n, bool *done, struct bh_error *err)
{
    struct meta m;
    bool no_tables;
    int rc = db_meta(n, n->writer, &m, &no_tables, err);
    *done = rc == 0 && m.state == n->next.state;
    if (rc || *done)
        return rc;
    if (m.state != n->saved.state)
        return bh_fail(err, EIO,
                       "names.db was replaced by another one while it is in use; changes of names "
                       "stay in names.log in %s",
                       bh_disk_path(n->opt.disk));
    if (no_tables)
        rc = db_make_tables(n->writer, err);
    else if (n->sweep)
        rc = sweep(n, err);
    if (rc == 0)
        rc = db_make_dropped(n->writer, err);
    if (rc == 0)
        rc = put_batch(n, err);
    if (rc == 0)
        rc = put_dropped(n, err);
    bool rows = n->next.rows.mark || n->saved.rows.mark;
    if (rc == 0 && rows)
        rc = put_meta(n, "row", (uint64_t)n->next.rows.row, err);
    if (rc == 0 && rows)
        rc = put_meta(n, "row_mark", n->next.rows.mark, err);
    if (rc == 0)
        rc = put_meta(n, "state", n->next.state, err);
    if (rc == 0)
        rc = put_meta(n, "applied", n->next.applied, err);
    if (rc == 0)
        rc = put_meta(n, "next_ino", n->next.next_ino, err);
    return rc ? rc : put_meta(n, "inodes", n->next.inodes - n->swept, err);
}

/* --- committing --- */

static void wait_for_loads(struct bh_names *n, int64_t ms)
{
    struct timespec end = bh_mono_after_ms(ms);
    while (n->loading > 0 && pthread_cond_timedwait(&n->cond, &n->mutex, &end) == 0)
        ;
}

/* A commit needs the database for itself. It waits for the loads under way, some of which may wait
 * for the bucket: new ones are held up by it for moments only. */
static void close_gate(struct bh_names *n)
{
    pthread_mutex_lock(&n->mutex);
    for (;;) {
        wait_for_loads(n, 1000);
        n->gate = true;
        wait_for_loads(n, 300);
        if (n->loading == 0)
            break;
        n->gate = false;
        pthread_cond_broadcast(&n->cond);
    }
    pthread_mutex_unlock(&n->mutex);
}

static void open_gate(struct bh_names *n)
{
    pthread_mutex_lock(&n->mutex);
    n->gate = false;
    pthread_cond_broadcast(&n->cond);
    pthread_mutex_unlock(&n->mutex);
}

static int commit(struct bh_names *n, struct bh_error *err)
{
    close_gate(n);
    int rc = exec(n, "COMMIT", err);
    open_gate(n);
    return rc;
}

static int write_batch(struct bh_names *n, struct bh_error *err)
{
    bool done = false;
    int rc = 0;
    if (!n->writer) {
        rc = db_open(n, &n->writer, err);
        if (rc == 0) /* a page written early would lock readers out until the commit */
            rc = exec(n, "PRAGMA cache_spill=0", err);
    }
    if (rc == 0)
        rc = exec(n, "BEGIN IMMEDIATE", err);
    if (rc == 0) {
        rc = put_everything(n, &done, err);
        if (rc == 0 && !done)
            rc = commit(n, err);
        if (!sqlite3_get_autocommit(n->writer))
            sqlite3_exec(n->writer, "ROLLBACK", NULL, NULL, NULL);
    }
    if (rc)
        writer_close(n);
    return rc;
}

/* --- afterwards --- */

static void finish_batch(struct bh_names *n)
{
    pthread_mutex_lock(&n->mutex);
    n->checkpoint++;
    n->saved = n->next;
    n->no_tables = n->sweep = false;
    n->inode_count -= n->swept;
    n->swept = 0;
    if (n->synced < n->next.applied)
        n->synced = n->next.applied;
    if (n->bad <= n->next.applied)
        n->bad = 0;
    pthread_mutex_unlock(&n->mutex);
    for (bool more = true; more;) {
        pthread_mutex_lock(&n->mutex);
        for (int i = 0; i < STEP && n->done.count > 0; i++) {
            struct object *o = n->done.head.next;
            o->written = n->checkpoint;
            list_move(n, o, PLACE_NONE);
            object_settle(n, o);
        }
        cache_evict(n);
        more = n->done.count > 0;
        pthread_mutex_unlock(&n->mutex);
    }
    log_drop(n, n->batch_logs);
    pthread_mutex_lock(&n->mutex);
    n->batch_open = false;
    pthread_mutex_unlock(&n->mutex);
    n->batch.len = n->forgetting.len = n->losing.len = 0;
    if (n->batch.cap > 4u << 20) {
        free(n->batch.data);
        n->batch = (struct bytes){0};
    }
}

int checkpoint(struct bh_names *n, struct bh_error *err)
{
    int rc = 0;
    if (n->opt.read_only)
        return 0;
    pthread_mutex_lock(&n->writing);
    for (int i = 0; i < 2 && rc == 0; i++) {
        bool again = n->batch_open, any = true;
        if (!again)
            rc = begin_batch(n, &any, err);
        if (rc == 0 && any)
            rc = take_all(n, err);
        if (rc == 0 && any)
            rc = write_batch(n, err);
        if (rc == 0 && any)
            finish_batch(n);
        if (!again)
            break; /* else that was an earlier one */
    }
    pthread_mutex_unlock(&n->writing);
    return rc;
}

bool checkpoint_is_due(struct bh_names *n, int64_t *ms)
{
    *ms = -1;
    if (n->stale || n->held)
        return false;
    if (n->batch_open || n->hurried)
        return true;
    if (n->changed_since == 0)
        return false;
    *ms = n->changed_since + n->opt.checkpoint_ms - bh_mono_ms();
    return *ms <= 0;
}
