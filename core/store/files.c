/* The file store: opening, the gate, what flushes and swaps want of it. */
#include "store/files_private.h"

#include "store/files_adopt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/config.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define CHECKPOINT_MS 5000
#define ADOPT_MS      3000 /* a start waits for names of rows */
/* Inodes and names in memory: some 90 MB. A directory is kept whole that has half as many. */
#define NAMES_CACHE 300000u
/* A flush gives an upload up after so many failures of its own: the bucket has retried each. */
#define UPLOAD_TRIES 2
/* ... and writes rows beside some that nobody has looked at after so many looks, as a client that
 * always adds some must not keep it from ending. */
#define ROWS_TRIES 3

/* --- the gate --- */

int bh_files_enter(struct bh_files *f, bool wait)
{
    BH_LOCK_SCOPE(&f->mutex);
    if (f->gate_closed && !wait)
        return EAGAIN;
    while (f->gate_closed)
        pthread_cond_wait(&f->gate, &f->mutex);
    f->inside++;
    return 0;
}

void bh_files_leave(struct bh_files *f, bool changed)
{
    if (changed)
        atomic_store(&f->changed, true);
    BH_LOCK_SCOPE(&f->mutex);
    if (--f->inside == 0 && f->gate_closed)
        pthread_cond_broadcast(&f->gate);
}

static void let_in(struct bh_files *f)
{
    BH_LOCK_SCOPE(&f->mutex);
    f->gate_closed = false;
    pthread_cond_broadcast(&f->gate);
}

/* Who has a file open goes on reading what it was. */
static void make_stale(struct bh_files *f)
{
    BH_LOCK_SCOPE(&f->mutex);
    f->epoch++;
    for (unsigned i = 0; i < FILES_SLOTS; i++) {
        struct bh_open *next;
        for (struct bh_open *o = f->in_use[i]; o; o = next) {
            next = o->next;
            atomic_store(&o->stale, true);
            o->next = NULL;
            atomic_store(&o->dirty, false);
        }
        f->in_use[i] = NULL;
    }
    f->queue_count = f->touched_count = 0;
    f->dropped_known = false;
    f->adopt = true;
    f->adopt_not_before_ms = 0;
    pthread_cond_signal(&f->wake);
}

/* From here to open_gate this thread alone changes names, in begin(). */
static int close_gate(void *arg, struct bh_error *err)
{
    struct bh_files *f = arg;
    pthread_mutex_lock(&f->mutex);
    f->gate_closed = true;
    while (f->inside)
        pthread_cond_wait(&f->gate, &f->mutex);
    pthread_mutex_unlock(&f->mutex);
    pthread_mutex_lock(&f->publishing);
    int rc = bh_names_hold(f->names, err);
    if (rc == 0)
        return 0;
    pthread_mutex_unlock(&f->publishing);
    let_in(f);
    return rc;
}

static void open_gate(void *arg, bool swapped)
{
    struct bh_files *f = arg;
    if (swapped)
        make_stale(f);
    if (swapped && f->swapped)
        f->swapped(f->swapped_arg);
    bh_names_release(f->names, swapped);
    pthread_mutex_unlock(&f->publishing);
    let_in(f);
}

/* --- flushes --- */

bool files_is_changed(struct bh_files *f)
{
    if (atomic_load(&f->changed))
        return true;
    BH_LOCK_SCOPE(&f->mutex);
    return f->touched_count > 0;
}

static bool is_dirty(void *arg)
{
    struct bh_files *f = arg;
    return files_is_changed(f) || atomic_load(&f->look_due);
}

static int publish(struct bh_files *f, const struct bh_call *call, struct bh_error *err)
{
    files_progress_begin(f);
    int rc = files_publish_all(f, call, err);
    files_progress_uploading(f);
    if (rc == 0)
        rc = bh_blobs_wait(f->blobs, UPLOAD_TRIES, call, err);
    files_progress_end(f);
    if (rc)
        return rc;
    enum files_look how = FILES_LOOK_SOON;
    for (unsigned tries = 1;; tries++) {
        files_adopt(f, how);
        rc = files_write_rows(f, tries == ROWS_TRIES, call, err);
        if (rc != EAGAIN || tries == ROWS_TRIES)
            return rc;
        how = FILES_LOOK_NOW;
    }
}

/* gate_closed is of the thread that is here now: whoever replaces content flushes, too. */
static int begin(void *arg, const struct bh_call *call, struct bh_error *err)
{
    struct bh_files *f = arg;
    struct bh_error again;
    if (f->gate_closed)
        bh_names_release(f->names, false);
    else
        pthread_mutex_lock(&f->publishing);
    bool changed = atomic_exchange(&f->changed, false);
    int rc = publish(f, call, err);
    const bool published = rc == 0;
    if (rc == 0)
        rc = bh_names_hold(f->names, err);
    if (rc == 0)
        return 0;
    if (changed || published)
        atomic_store(&f->changed, true);
    if (!f->gate_closed)
        pthread_mutex_unlock(&f->publishing);
    else if (bh_names_hold(f->names, &again) != 0) /* it was held before: what can fail is SQL */
        bh_log(BH_LOG_ERROR, "names.db: %s", again.text);
    return rc;
}

static void frozen(void *arg)
{
    struct bh_files *f = arg;
    f->flush = bh_blobs_frozen(f->blobs);
    if (f->gate_closed)
        return;
    bh_names_release(f->names, false);
    pthread_mutex_unlock(&f->publishing);
}

static void named(void *arg)
{
    struct bh_files *f = arg;
    files_guard_named(f);
    bh_blobs_named(f->blobs, f->flush);
}

static int keep(void *arg, const struct bh_call *call, struct bh_error *err)
{
    struct bh_files *f = arg;
    BH_LOCK_SCOPE(&f->publishing);
    return files_guard_keep(f, call, err);
}

static int each_blob(void *arg, int (*fn)(void *fn_arg, const uint8_t hash[BH_SHA256_LEN]),
                     void *fn_arg, struct bh_error *err)
{
    struct bh_files *f = arg;
    struct bh_blob_list *list;
    int rc = bh_files_list_blobs(f, &list, err);
    if (rc)
        return rc;
    for (size_t i = 0; rc == 0 && i < list->count; i++)
        if ((rc = fn(fn_arg, list->blobs[i].hash)) != 0)
            bh_fail(err, rc, "out of memory while blobs are listed");
    free(list);
    return rc;
}

/* --- opening --- */

static int connect_names(void *arg, sqlite3 **db, struct bh_error *err)
{
    struct bh_files *f = arg;
    return bh_live_names_connect(f->live, db, err);
}

/* Only one that is certainly not there counts as such: its inode would forget it. */
static int has_data(void *arg, uint64_t data, bool *has)
{
    struct bh_files *f = arg;
    uint64_t bytes;
    int rc = bh_data_room(f->blobs, data, &bytes);
    *has = rc == 0;
    return rc == ENOENT ? 0 : rc;
}

static void gone(void *arg, const struct bh_inode *was)
{
    struct bh_files *f = arg;
    if (!S_ISREG(was->mode))
        return;
    files_discard(f, was->content.data);
    if (!bh_sha256_is_none(was->content.hash))
        files_touch(f, was->content.hash, was->content.hash_size, 0);
}

struct take_up {
    struct bh_files *files;
    struct bh_error *err;
};

/* What was written and never closed, or was closed just before the end, is published later. A data
 * file that a power cut made shorter than its size was never synced: it ends where it ends. */
static int take_up(void *arg, const struct bh_inode *i)
{
    struct take_up *t = arg;
    struct bh_files *f = t->files;
    struct bh_dfile data;
    struct stat st;
    struct bh_inode to = *i;
    int rc = bh_data_open(f->blobs, i->content.data, &data);
    if (rc == 0) {
        rc = fstat(data.fd, &st) == 0 ? 0 : errno;
        bh_dfile_close(&data);
    }
    if (rc == ENOENT)
        return 0;
    if (rc)
        return bh_fail(t->err, rc,
                       "the data file of file %llu of files/ cannot be opened in %s: %s; put that "
                       "right and mount again",
                       (unsigned long long)i->ino, bh_disk_path(f->disk), strerror(rc));
    files_queue(f, i->ino);
    if ((uint64_t)st.st_size < i->content.size) {
        to.content.size = (uint64_t)st.st_size;
        rc = bh_names_set(f->names, i->ino, BH_SET_CONTENT | BH_SET_NO_CTIME, &to, NULL, true,
                          t->err);
    }
    return rc == ENOENT ? 0 : rc;
}

struct numbers {
    struct bh_files *files;
    uint64_t *items;
    size_t count, room;
};

static int note_data(void *arg, const struct bh_inode *i)
{
    struct numbers *l = arg;
    if (!bh_grow(l->items, l->room, l->count))
        return ENOMEM;
    l->items[l->count++] = i->content.data;
    return 0;
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void remove_unused(void *arg, uint64_t number)
{
    struct numbers *l = arg;
    if (!l->count || !bsearch(&number, l->items, l->count, sizeof *l->items, compare_numbers))
        bh_data_remove(l->files->blobs, number);
}

/* Data files that no inode has: their owner was removed, or published, just before a crash. */
static int remove_orphans(struct bh_files *f, struct bh_error *err)
{
    struct numbers l = {.files = f};
    int rc = bh_names_each_local(f->names, note_data, &l, err);
    if (rc == ENOMEM)
        bh_fail(err, rc, "out of memory while opening the file store");
    if (rc == 0 && l.count)
        qsort(l.items, l.count, sizeof *l.items, compare_numbers);
    if (rc == 0)
        rc = bh_data_each(f->blobs, remove_unused, &l, err);
    free(l.items);
    return rc;
}

static int open_blobs(struct bh_files *f, bool unclean, struct bh_error *err)
{
    const struct bh_config *cfg = f->cfg;
    unsigned parallel = cfg->bucket.connections < 16 ? (unsigned)cfg->bucket.connections : 16;
    struct bh_blobs_options blobs = {.disk = f->disk,
                                     .bucket = f->bucket,
                                     .prefix = f->prefix,
                                     .cache_max = cfg->files.cache_max,
                                     .parallel = parallel ? parallel : 1,
                                     .part_size = cfg->bucket.part_size,
                                     .read_timeout_ms = cfg->files.timeout_ms,
                                     .read_only = f->read_only,
                                     .keep_unnamed = true};
    return bh_blobs_open(&f->blobs, &blobs, unclean, err);
}

/* The hook `open`: names.db can be read. */
static int open_parts(void *arg, bool unclean, struct bh_error *err)
{
    struct bh_files *f = arg;
    struct bh_names_options names = {.connect = connect_names,
                                     .gone = gone,
                                     .has_data = has_data,
                                     .arg = f,
                                     .cache = NAMES_CACHE,
                                     .uid = getuid(),
                                     .gid = getgid(),
                                     .checkpoint_ms = CHECKPOINT_MS,
                                     .read_only = f->read_only};
    struct bh_statedir *dir = &f->live->dir;
    int rc = bh_statedir_open_disk(dir, f->cfg, "files", 2, &f->disk, err);
    if (rc == 0)
        rc = bh_statedir_open_disk(dir, f->cfg, "names-log", 3, &f->names_disk, err);
    names.disk = f->names_disk;
    if (rc == 0)
        rc = open_blobs(f, unclean, err);
    if (rc == 0)
        rc = bh_names_open(&f->names, &names, err);
    if (rc == 0 && !f->read_only)
        rc = bh_names_each_local(f->names, take_up, &(struct take_up){f, err}, err);
    if (rc == 0 && !f->read_only)
        rc = remove_orphans(f, err);
    struct bh_names_stats st = {0};
    if (rc == 0)
        bh_names_stats(f->names, &st);
    /* What was not flushed may not have its rows yet, nor what the log had. */
    f->reconcile = unclean || st.changed > 0 || bh_store_is_dirty(f->live->names);
    atomic_store(&f->changed, f->queue_count > 0 || st.changed > 0);
    if (rc == 0 && !f->reconcile) /* all that is here was flushed */
        bh_blobs_named(f->blobs, bh_blobs_frozen(f->blobs));
    return rc || f->read_only ? rc : bh_blobs_start(f->blobs, err);
}

int bh_files_new(struct bh_files **out, const struct bh_config *cfg, struct bh_live *live,
                 struct bh_bucket *bucket, bool read_only, struct bh_error *err)
{
    struct bh_files *f = calloc(1, sizeof *f);
    if (!f)
        return bh_fail(err, ENOMEM, "out of memory while opening the file store");
    f->cfg = cfg;
    f->live = live;
    f->bucket = bucket;
    f->read_only = read_only;
    f->hooks = (struct bh_files_hooks){.arg = f,
                                       .open = open_parts,
                                       .is_dirty = is_dirty,
                                       .begin = begin,
                                       .frozen = frozen,
                                       .named = named,
                                       .keep = keep,
                                       .each_blob = each_blob,
                                       .close_gate = close_gate,
                                       .open_gate = open_gate};
    pthread_mutex_init(&f->mutex, NULL);
    pthread_mutex_init(&f->publishing, NULL);
    pthread_cond_init(&f->gate, NULL);
    bh_cond_init(&f->wake);
    bh_cond_init(&f->adopted_cond);
    if (asprintf(&f->prefix, "%s%s", cfg->bucket.prefix ? cfg->bucket.prefix : "",
                 cfg->files.prefix) < 0) {
        f->prefix = NULL;
        bh_files_free(f);
        return bh_fail(err, ENOMEM, "out of memory while opening the file store");
    }
    *out = f;
    return 0;
}

int bh_files_start(struct bh_files *f, struct bh_error *err)
{
    struct timespec until = bh_mono_after_ms(ADOPT_MS);
    if (f->read_only)
        return 0;
    f->adopt = true;
    f->adopt_not_before_ms = 0;
    int rc = files_publisher_start(f, err);
    BH_LOCK_SCOPE(&f->mutex);
    while (rc == 0 && !f->adopted &&
           pthread_cond_timedwait(&f->adopted_cond, &f->mutex, &until) == 0)
        ;
    return rc;
}

void bh_files_free(struct bh_files *f)
{
    struct bh_error err;
    if (!f)
        return;
    files_publisher_stop(f);
    bh_files_clients_gone(f);
    files_free_in_use(f);
    files_guard_free(f);
    if (f->names && bh_names_close(f->names, &err) != 0)
        bh_log(BH_LOG_ERROR, "the names of files/ stay in the log until the next start: %s",
               err.text);
    if (f->blobs)
        bh_blobs_close(f->blobs);
    if (f->names_disk)
        bh_disk_close(f->names_disk);
    if (f->disk)
        bh_disk_close(f->disk);
    free(f->touched);
    free(f->queue);
    free(f->discarded);
    free(f->prefix);
    pthread_cond_destroy(&f->gate);
    pthread_cond_destroy(&f->wake);
    pthread_cond_destroy(&f->adopted_cond);
    pthread_mutex_destroy(&f->publishing);
    pthread_mutex_destroy(&f->mutex);
    free(f);
}

void bh_files_stop(struct bh_files *f, bool stop)
{
    atomic_store(&f->cancel, stop);
    if (f->blobs)
        bh_blobs_stop(f->blobs, stop);
}

struct bh_names *bh_files_names(struct bh_files *f)
{
    return f->names;
}

struct bh_blobs *bh_files_blobs(struct bh_files *f)
{
    return f->blobs;
}

void bh_files_reconcile(struct bh_files *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->mutex);
    f->reconcile = true;
    pthread_mutex_unlock(&f->mutex);
    atomic_store(&f->changed, true);
}

const struct bh_files_hooks *bh_files_hooks(struct bh_files *f)
{
    return &f->hooks;
}

void bh_files_on_swap(struct bh_files *f, void (*swapped)(void *arg), void *arg)
{
    f->swapped = swapped;
    f->swapped_arg = arg;
}

void bh_files_on_appear(struct bh_files *f, void (*appeared)(void *arg, const char *name),
                        void *arg)
{
    BH_LOCK_SCOPE(&f->mutex);
    f->appeared = appeared;
    f->appeared_arg = arg;
}

/* --- state --- */

enum bh_blob_state bh_files_state(struct bh_files *f, const struct bh_inode *i)
{
    if (i->content.data)
        return BH_BLOB_LOCAL;
    return !bh_sha256_is_none(i->content.hash) ? bh_blobs_state(f->blobs, i->content.hash)
                                               : BH_BLOB_STORED;
}

void bh_files_status(struct bh_files *f, struct bh_files_status *out)
{
    memset(out, 0, sizeof *out);
    bh_names_stats(f->names, &out->names);
    bh_blobs_stats(f->blobs, &out->blobs);
    files_progress_tell(f, out);
    BH_LOCK_SCOPE(&f->mutex);
    out->unpublished = f->queue_count + f->queue_taken;
}
