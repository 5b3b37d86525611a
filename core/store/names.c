/* Open, close, references, hold, and the thread that makes checkpoints. */
#include "store/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/names_private.h"
#include "util/clock.h"
#include "util/log.h"

#define CACHE_DEFAULT 100000
#define SAY_AGAIN_MS  60000
#define PAUSE_MAX_MS  30000

/* --- beginning --- */

/* *root NULL: the database has none yet. */
static int read_root(struct reader *r, struct inode **root, struct bh_error *err)
{
    struct bh_inode i;
    const char *target;
    size_t target_len;
    bool xattrs;
    sqlite3_stmt *st;
    int rc = reader_stmt(r, GET_INODE, &st, err);
    if (rc)
        return rc;
    sqlite3_bind_int64(st, 1, BH_NAMES_ROOT);
    bool row;
    rc = row_step(st, &row, err);
    if (rc == 0 && !row)
        rc = bh_fail(err, EIO, "names.db is damaged: the root directory is missing");
    if (rc == 0)
        rc = row_inode(st, 0, &i, &target, &target_len, &xattrs, err);
    if (rc == 0 && (!S_ISDIR(i.mode) || i.parent != BH_NAMES_ROOT || i.nlink < 2))
        rc = bh_fail(err, EIO, "names.db is damaged: inode 1 is not the root directory");
    sqlite3_reset(st);
    if (rc == 0) {
        *root = inode_new(&i, NULL, 0);
        rc = *root ? 0 : bh_fail(err, ENOMEM, "out of memory while names.db is opened");
    }
    if (rc == 0)
        (*root)->xattrs_known = !xattrs;
    return rc;
}

/* Whether files were open without a name when an earlier life ended. */
static bool has_unnamed(sqlite3 *db)
{
    sqlite3_stmt *st = NULL;
    bool has = sqlite3_prepare_v2(db, "SELECT 1 FROM inodes WHERE nlink = 0 LIMIT 1", -1, &st,
                                  NULL) == SQLITE_OK &&
               sqlite3_step(st) == SQLITE_ROW;
    sqlite3_finalize(st);
    return has;
}

struct start {
    struct meta meta;
    bool no_tables, sweep;
    struct inode *root;
    struct log *log;
};

static int look(struct bh_names *n, struct start *s, struct bh_error *err)
{
    struct reader *r;
    int rc = reader_get(n, &r, err);
    if (rc)
        return rc;
    rc = db_meta(n, r->db, &s->meta, &s->no_tables, err);
    if (rc == 0 && !s->no_tables) {
        s->sweep = has_unnamed(r->db);
        rc = read_root(r, &s->root, err);
    }
    reader_put(n, r, rc == 0);
    return rc;
}

static struct inode *new_root(const struct bh_names *n)
{
    int64_t now = bh_real_ns();
    struct bh_inode i = {.ino = BH_NAMES_ROOT,
                         .mode = S_IFDIR | 0755,
                         .nlink = 2,
                         .uid = n->opt.uid,
                         .gid = n->opt.gid,
                         .atime = now,
                         .mtime = now,
                         .ctime = now,
                         .parent = BH_NAMES_ROOT};
    struct inode *root = inode_new(&i, NULL, 0);
    if (root)
        root->xattrs_known = true;
    return root;
}

/* With the mutex. */
static void take_root(struct bh_names *n, struct start *s)
{
    if (inode_find(n, BH_NAMES_ROOT)) { /* the log had it */
        object_free(&s->root->o);
        return;
    }
    /* Where there are no tables yet it is written with the first change: an empty files/ is none.
     */
    inode_insert(n, s->root);
}

static void take_meta(struct bh_names *n, const struct start *s)
{
    n->saved = s->meta;
    n->no_tables = s->no_tables;
    n->sweep = s->sweep && !n->opt.read_only;
    n->seq = n->synced = s->meta.applied;
    n->bad = 0;
    n->rows = s->meta.rows;
    n->inode_count = s->no_tables ? 1 : s->meta.inodes;
    if (n->next_ino < s->meta.next_ino) /* numbers are not used again after a swap either */
        n->next_ino = s->meta.next_ino;
}

static int begin(struct bh_names *n, struct start *s, bool replay, struct bh_error *err)
{
    int rc = look(n, s, err);
    if (rc == 0 && !s->root && !(s->root = new_root(n)))
        rc = bh_fail(err, ENOMEM, "out of memory while names.db is opened");
    if (rc == 0 && replay) {
        take_meta(n, s);
        rc = log_replay(n, err);
    }
    if (rc == 0 && !n->opt.read_only)
        rc = log_make(n, n->log_number + 1, s->meta.state, &s->log, err);
    return rc;
}

static int begin_with(struct bh_names *n, bool replay, struct bh_error *err)
{
    struct start s = {0};
    int rc = begin(n, &s, replay, err);
    pthread_mutex_lock(&n->mutex);
    if (rc == 0 && s.log && log_reserve(n)) /* the file is empty: it may stay */
        rc = bh_fail(err, ENOMEM, "out of memory while names.db is opened");
    if (rc == 0) {
        if (!replay)
            take_meta(n, &s);
        take_root(n, &s);
        s.root = NULL;
        if (s.log) {
            n->logs[n->log_count++] = s.log;
            n->log_number = s.log->number;
            s.log = NULL;
        }
        n->stale = false;
    }
    pthread_mutex_unlock(&n->mutex);
    if (s.root)
        object_free(&s.root->o);
    if (s.log)
        bh_dfile_close(&s.log->file);
    free(s.log);
    return rc;
}

int names_begin(struct bh_names *n, struct bh_error *err)
{
    return begin_with(n, false, err);
}

/* --- the thread --- */

static void say(struct bh_names *n, const struct bh_error *err)
{
    int64_t now = bh_mono_ms();
    if (n->said && now - n->said < SAY_AGAIN_MS)
        return;
    n->said = now;
    bh_log(BH_LOG_ERROR, "names cannot be written to names.db, the log keeps them: %s", err->text);
}

static void sleep_until_woken(struct bh_names *n, int64_t ms)
{
    struct timespec end = bh_mono_after_ms(ms);
    if (ms < 0)
        pthread_cond_wait(&n->wake, &n->mutex);
    else
        pthread_cond_timedwait(&n->wake, &n->mutex, &end);
}

static void *work(void *arg)
{
    struct bh_names *n = arg;
    int64_t ms, pause = 0;
    pthread_mutex_lock(&n->mutex);
    while (!n->stop) {
        struct bh_error err = {0};
        if (!checkpoint_is_due(n, &ms)) {
            sleep_until_woken(n, ms);
            continue;
        }
        pthread_mutex_unlock(&n->mutex);
        int rc = checkpoint(n, &err);
        pthread_mutex_lock(&n->mutex);
        if (rc == 0) {
            pause = n->said = 0;
            continue;
        }
        say(n, &err);
        pause = pause == 0 ? 1000 : 2 * pause > PAUSE_MAX_MS ? PAUSE_MAX_MS : 2 * pause;
        for (int64_t end = bh_mono_ms() + pause; !n->stop && bh_mono_ms() < end;)
            sleep_until_woken(n, end - bh_mono_ms());
    }
    pthread_mutex_unlock(&n->mutex);
    return NULL;
}

static void stop_thread(struct bh_names *n)
{
    if (!n->thread_runs)
        return;
    pthread_mutex_lock(&n->mutex);
    n->stop = true;
    pthread_cond_signal(&n->wake);
    pthread_mutex_unlock(&n->mutex);
    pthread_join(n->thread, NULL);
    n->thread_runs = false;
}

/* --- open and close --- */

static void free_names(struct bh_names *n)
{
    writer_close(n);
    readers_close(n);
    log_close_all(n);
    cache_free(n);
    free(n->frame.data);
    free(n->batch.data);
    free(n->forget.data);
    free(n->forgetting.data);
    free(n->lost.data);
    free(n->losing.data);
    pthread_cond_destroy(&n->cond);
    pthread_cond_destroy(&n->wake);
    pthread_mutex_destroy(&n->mutex);
    pthread_mutex_destroy(&n->writing);
    free(n);
}

static int start(struct bh_names *n, struct bh_error *err)
{
    struct bh_error e = {0};
    int rc = cache_init(n) ? bh_fail(err, ENOMEM, "out of memory while names.db is opened") : 0;
    if (rc == 0)
        rc = begin_with(n, !n->opt.read_only, err);
    if (rc || n->opt.read_only)
        return rc;
    /* What an earlier life left is written now; if it cannot be, the log goes on having it. */
    if (n->log_count > 1 || n->sweep)
        if (checkpoint(n, &e))
            say(n, &e);
    if (n->opt.checkpoint_ms <= 0)
        return 0;
    rc = pthread_create(&n->thread, NULL, work, n);
    n->thread_runs = rc == 0;
    return rc ? bh_fail(err, rc, "a thread for names cannot be made: %s", strerror(rc)) : 0;
}

int bh_names_open(struct bh_names **out, const struct bh_names_options *o, struct bh_error *err)
{
    struct bh_names *n = calloc(1, sizeof *n);
    if (!n)
        return bh_fail(err, ENOMEM, "out of memory while names.db is opened");
    n->opt = *o;
    if (n->opt.cache == 0)
        n->opt.cache = CACHE_DEFAULT;
    n->next_ino = BH_NAMES_ROOT + 1;
    n->loads.next = n->loads.prev = &n->loads;
    pthread_mutex_init(&n->mutex, NULL);
    pthread_mutex_init(&n->writing, NULL);
    bh_cond_init(&n->cond);
    bh_cond_init(&n->wake);
    int rc = start(n, err);
    if (rc) {
        free_names(n);
        return rc;
    }
    *out = n;
    return 0;
}

int bh_names_close(struct bh_names *n, struct bh_error *err)
{
    if (!n)
        return 0;
    stop_thread(n);
    int rc = n->loud || n->batch_open ? checkpoint(n, err) : 0;
    if (rc == 0)
        log_drop(n, n->log_count);
    free_names(n);
    return rc;
}

void names_drop(struct bh_names *n)
{
    stop_thread(n);
    free_names(n);
}

/* --- references --- */

int bh_names_ref(struct bh_names *n, uint64_t ino)
{
    int rc = 0;
    pthread_mutex_lock(&n->mutex);
    struct inode *i = n->stale ? NULL : inode_find(n, ino);
    if (!i)
        rc = EAGAIN;
    else if (i->gone)
        rc = ENOENT;
    else {
        i->refs++;
        object_settle(n, &i->o);
    }
    pthread_mutex_unlock(&n->mutex);
    return rc;
}

/* The log need not have that: after a start nobody holds what has no name. */
static bool let_go(struct bh_names *n, struct inode *i, struct bh_inode *was)
{
    if (i->i.nlink > 0 || i->gone || batch_take(n, &i->o)) {
        object_settle(n, &i->o);
        return false;
    }
    *was = i->i;
    inode_apply(n, i, &i->i, true);
    object_changed(n, &i->o);
    n->loud = true;
    n->inode_count--;
    if (n->changed_since == 0) {
        n->changed_since = bh_mono_ms();
        pthread_cond_signal(&n->wake);
    }
    return true;
}

void bh_names_unref(struct bh_names *n, uint64_t ino)
{
    struct bh_inode was;
    pthread_mutex_lock(&n->mutex);
    struct inode *i = inode_find(n, ino);
    bool gone = i && i->refs > 0 && --i->refs == 0 && let_go(n, i, &was);
    pthread_mutex_unlock(&n->mutex);
    if (gone && n->opt.gone)
        n->opt.gone(n->opt.arg, &was);
}

/* --- hold --- */

int bh_names_checkpoint(struct bh_names *n, struct bh_error *err)
{
    pthread_mutex_lock(&n->mutex);
    bool frozen = n->frozen; /* then there is nothing that anybody could see */
    pthread_mutex_unlock(&n->mutex);
    return frozen ? 0 : checkpoint(n, err);
}

static void let_changes_go_on(struct bh_names *n)
{
    pthread_mutex_lock(&n->mutex);
    n->held = n->frozen = false;
    pthread_cond_broadcast(&n->cond);
    pthread_cond_signal(&n->wake);
    pthread_mutex_unlock(&n->mutex);
}

/* False: something changed after the last checkpoint, as bh_names_unref may. */
static bool freeze(struct bh_names *n)
{
    pthread_mutex_lock(&n->writing);
    pthread_mutex_lock(&n->mutex);
    n->frozen = !n->batch_open && changed_count(n) == 0;
    pthread_mutex_unlock(&n->mutex);
    pthread_mutex_unlock(&n->writing);
    return n->frozen;
}

int bh_names_hold(struct bh_names *n, struct bh_error *err)
{
    int rc = bh_names_checkpoint(n, err); /* most of it while changes go on */
    if (rc)
        return rc;
    pthread_mutex_lock(&n->mutex);
    while (n->held)
        pthread_cond_wait(&n->cond, &n->mutex);
    n->held = true;
    pthread_mutex_unlock(&n->mutex);
    for (bool frozen = false; rc == 0 && !frozen;) {
        rc = checkpoint(n, err);
        frozen = rc == 0 && freeze(n);
    }
    /* Nor may a log come back after a loss of power: the content may be another one then. */
    if (rc == 0 && !n->opt.read_only && (rc = bh_disk_sync_names(n->opt.disk)))
        bh_fail(err, rc, "%s cannot be synced: %s", bh_disk_path(n->opt.disk), strerror(rc));
    if (rc)
        let_changes_go_on(n);
    return rc;
}

static void swap(struct bh_names *n)
{
    struct bh_error err = {0};
    pthread_mutex_lock(&n->writing);
    pthread_mutex_lock(&n->mutex);
    n->stale = true;
    n->epoch++;
    cache_forget(n);
    n->changed_since = 0;
    n->hurried = n->loud = false;
    n->forget.len = n->lost.len = 0;
    n->synced = n->seq;
    n->bad = 0;
    pthread_cond_broadcast(&n->cond);
    pthread_mutex_unlock(&n->mutex);
    log_drop(n, n->log_count);
    readers_close(n);
    writer_close(n);
    if (names_begin(n, &err))
        bh_log(BH_LOG_WARNING, "names.db has new content that cannot be read yet: %s", err.text);
    pthread_mutex_unlock(&n->writing);
}

void bh_names_release(struct bh_names *n, bool swapped)
{
    if (swapped)
        swap(n);
    let_changes_go_on(n);
}

/* --- counters --- */

void bh_names_stats(struct bh_names *n, struct bh_names_stats *out)
{
    pthread_mutex_lock(&n->mutex);
    *out = (struct bh_names_stats){.inodes = n->inode_count,
                                   .in_memory = n->in_memory,
                                   .changed = changed_count(n),
                                   .log_bytes = log_bytes(n),
                                   .checkpoints = n->checkpoint};
    pthread_mutex_unlock(&n->mutex);
}
