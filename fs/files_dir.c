/* Directories of files/: a listing is taken when the directory is read from its beginning, so that
 * it is stable whatever changes meanwhile. */
#include "files.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "util/cleanup.h"

/* --- directories that were removed --- */

/* Somebody may be in them still: the last ones are kept, so that they can be asked for. */
#define REMOVED_MAX 1024u

static pthread_mutex_t removed_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct removed {
    uint64_t ino; /* 0: none */
    unsigned epoch;
} removed[REMOVED_MAX];
static size_t next_removed;

/* With the gate entered, so that the epoch stays. */
void files_let_go(struct daemon *d, uint64_t ino, unsigned epoch)
{
    if (ino && epoch == atomic_load(&d->files_epoch)) /* else it is forgotten already */
        bh_names_unref(bh_files_names(d->files), ino);
}

void files_keep_removed(struct daemon *d, uint64_t ino)
{
    pthread_mutex_lock(&removed_mutex);
    struct removed *at = &removed[next_removed++ % REMOVED_MAX], old = *at;
    *at = (struct removed){.ino = ino, .epoch = atomic_load(&d->files_epoch)};
    pthread_mutex_unlock(&removed_mutex);
    files_let_go(d, old.ino, old.epoch);
}

void files_drop_removed(struct daemon *d)
{
    BH_LOCK_SCOPE(&removed_mutex);
    for (size_t i = 0; i < REMOVED_MAX; i++) {
        files_let_go(d, removed[i].ino, removed[i].epoch);
        removed[i].ino = 0;
    }
}

/* --- open ones --- */

struct dir {
    pthread_mutex_t mutex; /* several threads may read one handle */
    struct bh_names_listing *list;
    uint64_t ino; /* referred to: it can be read when it has been removed */
    unsigned epoch;
};

static struct dir *dir_of(const struct fuse_file_info *fi)
{
    return (struct dir *)(uintptr_t)fi->fh;
}

/* EAGAIN: not now, as the gate is closed. */
static int close_dir(struct daemon *d, struct dir *dir, bool wait)
{
    int rc = bh_files_enter(d->files, wait);
    if (rc)
        return rc;
    files_let_go(d, dir->ino, dir->epoch);
    bh_files_leave(d->files, false);
    pthread_mutex_destroy(&dir->mutex);
    free(dir->list);
    free(dir);
    return 0;
}

static int run_opendir(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_names *n = bh_files_names(r->files);
    struct bh_inode i;
    int rc = bh_names_get(n, r->ino, &i, wait, err);
    if (rc)
        return rc;
    struct dir *dir = calloc(1, sizeof *dir);
    if (!dir)
        return ENOMEM;
    dir->epoch = atomic_load(&r->daemon->files_epoch); /* before the reference: see files_let_go */
    rc = bh_names_ref(n, r->ino);
    if (rc) {
        free(dir);
        return rc;
    }
    pthread_mutex_init(&dir->mutex, NULL);
    dir->ino = r->ino;
    r->fi.fh = (uintptr_t)dir;
    /* Changes come through the kernel, but for swaps and names of rows: see files_attach. */
    r->fi.cache_readdir = r->fi.keep_cache = 1;
    if (fuse_reply_open(r->req, &r->fi) == -ENOENT)
        (void)close_dir(r->daemon, dir, wait); /* else it is kept until the unmount */
    return 0;
}

void files_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct request r;
    if (!request_init(&r, req, ino, run_opendir))
        return;
    r.fi = *fi;
    request_start(&r);
}

static int run_releasedir(struct request *r, bool wait, struct bh_error *err)
{
    (void)err;
    int rc = close_dir(r->daemon, dir_of(&r->fi), wait);
    if (rc == 0)
        fuse_reply_err(r->req, 0);
    return rc;
}

void files_releasedir(fuse_req_t req, struct fuse_file_info *fi)
{
    struct request r;
    request_on(&r, req, fi, run_releasedir);
    request_start(&r);
}

static struct fuse_entry_param bare_entry(uint64_t ino, mode_t mode)
{
    return (struct fuse_entry_param){.attr = {.st_ino = FILES_INO + ino, .st_mode = mode & S_IFMT}};
}

/* Entry number n: the two that every directory has come first. False: there is no room. */
static bool add(struct listing *l, const struct request *r, const struct dir *dir, size_t n,
                const struct bh_inode *self, bool wait)
{
    struct fuse_entry_param e;
    struct bh_inode i;
    if (n < 2) {
        uint64_t ino = n == 0 || self->ino == BH_NAMES_ROOT ? self->ino : self->parent;
        e = bare_entry(ino, S_IFDIR);
        return listing_put(l, n == 0 ? "." : "..", &e, (off_t)n + 1);
    }
    const char *name = dir->list->entries[n - 2].name;
    uint64_t ino = dir->list->entries[n - 2].ino;
    bool known = l->plus && bh_names_get(bh_files_names(r->files), ino, &i, wait, NULL) == 0;
    e = known ? files_entry(r, &i) : bare_entry(ino, dir->list->entries[n - 2].mode);
    return listing_put(l, name, &e, (off_t)n + 1);
}

static int run_readdir(struct request *r, bool wait, struct bh_error *err)
{
    struct dir *dir = dir_of(&r->fi);
    struct bh_names *names = bh_files_names(r->files);
    struct bh_inode self;
    if (!wait && pthread_mutex_trylock(&dir->mutex) != 0)
        return EAGAIN;
    if (wait)
        pthread_mutex_lock(&dir->mutex);
    int rc = bh_names_get(names, r->ino, &self, wait, err);
    if (rc == 0 && (r->offset == 0 || !dir->list)) {
        free(dir->list);
        dir->list = NULL;
        if (self.nlink > 0)
            rc = bh_names_list(names, r->ino, &dir->list, wait, err);
        else if (!(dir->list = calloc(1, sizeof *dir->list)))
            rc = ENOMEM; /* it was removed: there is nothing in it */
    }
    BH_FREE char *buf = rc == 0 ? malloc(r->size) : NULL;
    if (rc == 0 && !buf)
        rc = ENOMEM;
    struct listing l = {.req = r->req, .buf = buf, .size = r->size, .plus = r->flags};
    size_t end = rc == 0 ? dir->list->count + 2 : 0;
    for (size_t n = (size_t)r->offset; n < end && add(&l, r, dir, n, &self, wait);)
        n++;
    pthread_mutex_unlock(&dir->mutex);
    if (rc == 0) /* with the answer the client may close it: it is gone then */
        fuse_reply_buf(r->req, buf, l.used);
    return rc;
}

void files_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                   struct fuse_file_info *fi, bool plus)
{
    struct request r;
    if (!request_init(&r, req, ino, run_readdir))
        return;
    r.fi = *fi;
    r.size = size;
    r.offset = (uint64_t)off;
    r.flags = plus;
    request_start(&r);
}
