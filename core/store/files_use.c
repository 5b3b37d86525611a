/* Files in use: one struct bh_open for all who have the same file open, and what is newer in it
 * than in names. */
#include "store/files_private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "util/cleanup.h"
#include "util/log.h"

static struct bh_open **slot_of(struct bh_files *f, uint64_t ino)
{
    return &f->in_use[ino % FILES_SLOTS];
}

/* With f->mutex. */
static struct bh_open *find(struct bh_files *f, uint64_t ino)
{
    struct bh_open *o = *slot_of(f, ino);
    while (o && o->ino != ino)
        o = o->next;
    return o;
}

static void take_off(struct bh_open *o)
{
    struct bh_open **at = slot_of(o->files, o->ino);
    while (*at && *at != o)
        at = &(*at)->next;
    if (*at)
        *at = o->next;
}

int files_lock_to_write(struct bh_open *o, bool wait)
{
    if (!wait)
        return pthread_rwlock_trywrlock(&o->lock) == 0 ? 0 : EAGAIN;
    atomic_fetch_add(&o->wanted, 1);
    pthread_rwlock_wrlock(&o->lock);
    atomic_fetch_sub(&o->wanted, 1);
    return 0;
}

static struct bh_open *open_new(struct bh_files *f, const struct bh_inode *i)
{
    struct bh_open *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->files = f;
    o->ino = i->ino;
    o->content = i->content;
    o->mtime = i->mtime;
    o->ctime = i->ctime;
    o->version = 1;
    atomic_init(&o->settled, true);
    o->published = i->content.data ? 0 : 1;
    pthread_rwlock_init(&o->lock, NULL);
    return o;
}

static void open_free(struct bh_open *o)
{
    if (o->has_data)
        bh_dfile_close(&o->data);
    if (o->blob)
        bh_blob_close(o->blob);
    pthread_rwlock_destroy(&o->lock);
    free(o);
}

int bh_files_use(struct bh_files *f, uint64_t ino, bool for_writing, struct bh_open **out,
                 bool wait, struct bh_error *err)
{
    struct bh_inode i;
    int rc;
    pthread_mutex_lock(&f->mutex);
    uint64_t epoch = f->epoch;
    pthread_mutex_unlock(&f->mutex);
    do {
        rc = bh_names_get(f->names, ino, &i, wait, err);
        if (rc == 0 && S_ISDIR(i.mode))
            return EISDIR;
        if (rc == 0)
            rc = bh_names_ref(f->names, ino);
    } while (rc == EAGAIN && wait);
    if (rc)
        return rc;
    pthread_mutex_lock(&f->mutex);
    if (epoch != f->epoch) { /* the reference was forgotten, or is of an inode of other content */
        pthread_mutex_unlock(&f->mutex);
        return bh_fail(err, ESTALE, "files/ was restored or switched meanwhile");
    }
    struct bh_open *o = find(f, ino);
    /* Looked at again: it may have been published since. Being referred to, it is in memory. */
    if (!o && bh_names_get(f->names, ino, &i, false, NULL) == 0 && (o = open_new(f, &i))) {
        o->next = *slot_of(f, ino);
        *slot_of(f, ino) = o;
    }
    if (o) {
        o->users++;
        o->writers += for_writing;
    }
    pthread_mutex_unlock(&f->mutex);
    if (!o)
        bh_names_unref(f->names, ino);
    *out = o;
    return o ? 0 : ENOMEM;
}

void bh_files_refresh(struct bh_files *f, struct bh_inode *i)
{
    if (!S_ISREG(i->mode))
        return;
    BH_LOCK_SCOPE(&f->mutex);
    struct bh_open *o = find(f, i->ino);
    if (!o || !atomic_load(&o->dirty))
        return;
    i->content.size = __atomic_load_n(&o->content.size, __ATOMIC_RELAXED);
    i->mtime = __atomic_load_n(&o->mtime, __ATOMIC_RELAXED);
    int64_t ctime = __atomic_load_n(&o->ctime, __ATOMIC_RELAXED);
    if (ctime > i->ctime)
        i->ctime = ctime;
}

int files_push(struct bh_open *o, bool wait, struct bh_error *err)
{
    if (!atomic_load(&o->dirty) || atomic_load(&o->stale))
        return 0;
    struct bh_inode to = {.content = o->content, .mtime = o->mtime, .ctime = o->ctime};
    int rc = bh_names_set(o->files->names, o->ino, BH_SET_CONTENT | BH_SET_MTIME | BH_SET_CTIME,
                          &to, NULL, wait, err);
    if (rc == 0)
        atomic_store(&o->dirty, false);
    return rc;
}

/* What a writer leaves: it was closed, so it may be published. */
static int leave_writing(struct bh_open *o, bool wait)
{
    struct bh_error err;
    int rc = bh_open_flush(o, wait, &err);
    if (rc && rc != EAGAIN) {
        bh_log(BH_LOG_ERROR, "the size of a closed file could not be stored: %s", err.text);
        atomic_store(&o->settled, true);
    }
    return rc == EAGAIN ? rc : 0;
}

/* Forgets one user. publish: and what he left is to be published, unless somebody writes on. */
static void put(struct bh_open *o, bool for_writing, bool publish)
{
    struct bh_files *f = o->files;
    uint64_t ino = o->ino;
    pthread_mutex_lock(&f->mutex);
    o->writers -= for_writing;
    bool last = --o->users == 0, stale = atomic_load(&o->stale);
    publish = publish && !stale && o->writers == 0;
    if (last && !stale)
        take_off(o);
    pthread_mutex_unlock(&f->mutex);
    if (last)
        open_free(o);
    if (!stale)
        bh_names_unref(f->names, ino);
    if (publish)
        files_queue(f, ino);
}

bool bh_files_is_written(struct bh_files *f, uint64_t ino)
{
    BH_LOCK_SCOPE(&f->mutex);
    const struct bh_open *o = find(f, ino);
    return o && o->writers > 0;
}

void bh_open_drop(struct bh_open *o, bool for_writing)
{
    put(o, for_writing, for_writing);
}

int bh_open_put(struct bh_open *o, bool for_writing, bool wait)
{
    int rc = for_writing ? leave_writing(o, wait) : 0;
    if (rc == 0)
        put(o, for_writing, for_writing);
    return rc;
}

/* --- times and modes, sizes --- */

/* Of a file in use: what is newer here goes first. */
static int set_in_use(struct bh_open *o, unsigned what, const struct bh_inode *to,
                      struct bh_inode *out, bool wait, struct bh_error *err)
{
    struct bh_files *f = o->files;
    struct bh_inode after;
    int rc = files_lock_to_write(o, wait);
    if (rc)
        return rc;
    rc =
        what & BH_SET_CONTENT ? files_set_size(o, to->content.size, err) : files_push(o, wait, err);
    what &= ~(unsigned)BH_SET_CONTENT;
    if (rc == 0 && (what & ~(unsigned)BH_SET_NO_CTIME))
        rc = bh_names_set(f->names, o->ino, what, to, &after, wait, err);
    else if (rc == 0)
        rc = bh_names_get(f->names, o->ino, &after, wait, err);
    if (rc == 0) {
        o->mtime = after.mtime;
        o->ctime = after.ctime;
        if (out)
            *out = after;
    }
    pthread_rwlock_unlock(&o->lock);
    return rc;
}

/* Called with the gate entered, so it must not enter it again, which bh_open_put may. */
int bh_files_set(struct bh_files *f, uint64_t ino, unsigned what, const struct bh_inode *to,
                 struct bh_inode *out, bool wait, struct bh_error *err)
{
    struct bh_open *o = NULL;
    bool truncates = what & BH_SET_CONTENT;
    if (truncates && !wait)
        return EAGAIN;
    pthread_mutex_lock(&f->mutex);
    bool used = find(f, ino) != NULL;
    pthread_mutex_unlock(&f->mutex);
    if (!used && !truncates)
        return bh_names_set(f->names, ino, what, to, out, wait, err);
    int rc = bh_files_use(f, ino, false, &o, wait, err);
    if (rc == EISDIR && !truncates)
        return bh_names_set(f->names, ino, what, to, out, wait, err);
    if (rc)
        return rc;
    rc = set_in_use(o, what, to, out, wait, err);
    put(o, false, truncates && rc == 0);
    return rc;
}

/* --- the end --- */

/* One that was not looked at yet, with a reference. */
static struct bh_open *take_left(struct bh_files *f)
{
    BH_LOCK_SCOPE(&f->mutex);
    for (unsigned i = 0; i < FILES_SLOTS; i++)
        for (struct bh_open *o = f->in_use[i]; o; o = o->next)
            if (!o->was_left && bh_names_ref(f->names, o->ino) == 0) {
                o->was_left = true;
                o->users++;
                return o;
            }
    return NULL;
}

void bh_files_clients_gone(struct bh_files *f)
{
    struct bh_error err;
    struct bh_open *o;
    while (f && (o = take_left(f))) {
        pthread_rwlock_wrlock(&o->lock);
        if (files_push(o, true, &err) != 0)
            bh_log(BH_LOG_ERROR, "the size of a file could not be stored: %s", err.text);
        if (!atomic_exchange(&o->settled, true)) /* an earlier flush has left it out */
            atomic_store(&f->changed, true);
        pthread_rwlock_unlock(&o->lock);
        pthread_mutex_lock(&f->mutex);
        o->writers = 0;
        pthread_mutex_unlock(&f->mutex);
        put(o, false, false);
    }
}

void files_free_in_use(struct bh_files *f)
{
    for (unsigned i = 0; i < FILES_SLOTS; i++)
        while (f->in_use[i]) {
            struct bh_open *o = f->in_use[i];
            f->in_use[i] = o->next;
            open_free(o);
        }
}
