/* Open blobs: from the file that is here, or from the bucket. */
#include "store/blobs_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"
#include "util/log.h"

#define LOCAL_TRIES 4 /* a file that was just fetched and is not there: somebody removes them */

/* --- opening and closing --- */

static struct blobs_content *content_of(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN],
                                        uint64_t size, const char *key)
{
    struct blobs_entry *e = bh_blobs_entry(b, hash);
    if (!e)
        return NULL;
    struct blobs_content *c = e->content;
    if (!c && (c = calloc(1, sizeof *c))) {
        *c = (struct blobs_content){.entry = e, .size = size};
        atomic_store(&c->fd, -1);
        if (key && !(c->key = strdup(key))) {
            free(c);
            c = NULL;
        }
    }
    if (!c) {
        bh_blobs_entry_drop(b, e);
        return NULL;
    }
    if (!e->content) {
        e->content = c;
        e->pins++;
    }
    c->opened++;
    bh_blobs_used(b, e);
    return c;
}

int bh_blob_open_key(struct bh_blobs *b, const char *object_key, const uint8_t hash[BH_SHA256_LEN],
                     uint64_t size, struct bh_blob **out)
{
    if (object_key && strlen(object_key) > BH_KEY_MAX)
        return ENAMETOOLONG;
    struct bh_blob *o = calloc(1, sizeof *o);
    if (!o || (object_key && !(o->key = strdup(object_key)))) {
        free(o);
        return ENOMEM;
    }
    o->blobs = b;
    o->size = size;
    atomic_init(&o->users, 1);
    pthread_mutex_lock(&b->mutex);
    o->content = content_of(b, hash, size, object_key);
    pthread_mutex_unlock(&b->mutex);
    if (!o->content) {
        free(o->key);
        free(o);
        return ENOMEM;
    }
    *out = o;
    return 0;
}

int bh_blob_open(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t size,
                 struct bh_blob **out)
{
    return bh_blob_open_key(b, NULL, hash, size, out);
}

void bh_blobs_content_drop(struct bh_blobs *b, struct blobs_content *c)
{
    if (c->opened || c->fetching)
        return;
    struct blobs_entry *e = c->entry;
    if (c->fd >= 0)
        close(c->fd);
    if (c->parts)
        bh_blobs_parts_close(c->parts);
    bh_blobs_memory_drop(b, c);
    free(c->key);
    free(c->bad);
    free(c);
    e->content = NULL;
    e->pins--;
    bh_blobs_entry_drop(b, e);
    if (b->cache_max && b->cached_bytes > b->cache_max) /* it may be evicted now */
        pthread_cond_signal(&b->crowded);
}

struct bh_blob *bh_blob_ref(struct bh_blob *o)
{
    atomic_fetch_add(&o->users, 1);
    return o;
}

bool bh_blob_is_here(const struct bh_blob *o)
{
    if (atomic_load(&o->content->fd) >= 0)
        return true;
    BH_LOCK_SCOPE(&o->blobs->mutex);
    enum blobs_kind kind = o->content->entry->kind;
    return kind == KIND_PENDING || kind == KIND_CACHED;
}

void bh_blob_close(struct bh_blob *o)
{
    if (!o || atomic_fetch_sub(&o->users, 1) > 1)
        return;
    pthread_mutex_lock(&o->blobs->mutex);
    o->content->opened--;
    bh_blobs_content_drop(o->blobs, o->content);
    pthread_mutex_unlock(&o->blobs->mutex);
    free(o->key);
    free(o);
}

/* --- what is here --- */

/* A file of the cache is not what it should be: it goes. With naming. */
static int drop_local(struct bh_blobs *b, struct blobs_entry *e, const char *name, const char *why)
{
    bh_log(BH_LOG_WARNING, "%s in %s %s: it is dropped and fetched again", name,
           bh_disk_path(b->o.disk), why);
    int rc = bh_disk_unlink(b->o.disk, name);
    if (rc && rc != ENOENT)
        return rc;
    BH_LOCK_SCOPE(&b->mutex);
    bh_blobs_become(b, e, KIND_NONE, 0);
    return EAGAIN;
}

int bh_blobs_open_local(struct bh_blobs *b, struct blobs_content *c, struct bh_error *err)
{
    struct blobs_entry *e = c->entry;
    char name[BLOBS_NAME];
    struct stat st;
    if (atomic_load(&c->fd) >= 0)
        return 0;
    if (e->kind != KIND_PENDING && e->kind != KIND_CACHED)
        return EAGAIN;
    bh_blobs_name(name, e->kind, e->hash);
    BH_FD int fd = openat(bh_disk_dirfd(b->o.disk), name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno != ENOENT)
        return bh_fail(err, errno, "%s in %s cannot be opened: %s", name, bh_disk_path(b->o.disk),
                       strerror(errno));
    bool whole = fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == c->size;
    if (!whole && e->kind == KIND_CACHED)
        return drop_local(b, e, name, fd < 0 ? "is gone" : "has a wrong size");
    if (!whole)
        return bh_fail(
            err, EIO, "%s in %s is %s, and it is not in the bucket yet: its content cannot be read",
            name, bh_disk_path(b->o.disk), fd < 0 ? "gone" : "damaged");
    atomic_store(&c->fd, bh_take_fd(&fd));
    return 0;
}

/* The same of who has no lock. What is here only as parts needs no name, and naming may be held for
 * long. wait false: EAGAIN if it is. */
static int open_local(struct bh_blobs *b, struct blobs_content *c, bool wait, struct bh_error *err)
{
    if (atomic_load(&c->fd) >= 0)
        return 0;
    pthread_mutex_lock(&b->mutex);
    enum blobs_kind kind = c->entry->kind;
    pthread_mutex_unlock(&b->mutex);
    if (kind != KIND_PENDING && kind != KIND_CACHED)
        return EAGAIN;
    if (wait)
        pthread_mutex_lock(&b->naming);
    else if (pthread_mutex_trylock(&b->naming) != 0)
        return EAGAIN;
    int rc = bh_blobs_open_local(b, c, err);
    pthread_mutex_unlock(&b->naming);
    return rc;
}

int bh_blob_read_at_once(struct bh_blob *o, void *buf, size_t len, uint64_t offset, size_t *out)
{
    struct bh_blobs *b = o->blobs;
    struct blobs_content *c = o->content;
    *out = 0;
    if (offset >= o->size)
        return 0;
    if (len > o->size - offset)
        len = (size_t)(o->size - offset);
    if (o->size != c->size)
        return EAGAIN; /* to be told with a sentence */
    int rc = open_local(b, c, false, NULL);
    if (rc == 0)
        rc = bh_pread_at_once(c->fd, buf, len, offset, bh_disk_is_memory(b->o.disk));
    else
        rc = bh_blobs_parts_at_once(o, buf, len, offset);
    if (rc == 0)
        *out = len;
    return rc;
}

/* --- from the bucket --- */

void bh_blobs_bad(struct blobs_content *c, const struct bh_error *why)
{
    bh_log(BH_LOG_ERROR, "%s", why->text);
    if (!c->bad && (c->bad = malloc(sizeof *c->bad)))
        *c->bad = *why;
}

/* Receives the whole object into a t- file. */
struct whole {
    struct blobs_get get;
    struct bh_dfile file;
    struct bh_sha256 *hash;
    char temp[BLOBS_NAME];
};

static int take_whole(void *arg, uint64_t at, const void *data, size_t len, struct bh_error *err)
{
    struct whole *w = arg;
    struct bh_blobs *b = w->get.b;
    int rc = bh_blobs_write(b, &w->file, data, len, at, w->get.end);
    if (rc)
        return bh_fail(err, rc, "%s cannot be kept in %s: %s", w->get.key, bh_disk_path(b->o.disk),
                       strerror(rc));
    bh_sha256_update(w->hash, data, len);
    return 0;
}

bool bh_blobs_content_key(struct bh_blobs *b, const struct blobs_content *c,
                          char key[BH_KEY_MAX + 1])
{
    BH_LOCK_SCOPE(&b->mutex);
    if (c->key)
        strcpy(key, c->key);
    else
        bh_blobs_key(b, c->entry->hash, key);
    return !c->key;
}

int bh_blobs_compare(const struct blobs_content *c, const char *key,
                     const uint8_t hash[BH_SHA256_LEN], struct bh_error *err)
{
    char is[BH_SHA256_HEX];
    if (memcmp(hash, c->entry->hash, BH_SHA256_LEN) == 0)
        return 0;
    bh_sha256_format(hash, is);
    return bh_fail(err, EIO,
                   "%s in the bucket is damaged: the SHA-256 of its content is %s. An older "
                   "snapshot or a copy of the bucket may have the content",
                   key, is);
}

static int check_whole(struct whole *w, struct bh_error *err)
{
    uint8_t hash[BH_SHA256_LEN];
    bh_sha256_raw(w->hash, hash);
    return bh_blobs_compare(w->get.fetch->content, w->get.key, hash, err);
}

/* The file of temp becomes c-HASH, unless something is here by now. */
static int keep_whole(struct whole *w, struct bh_error *err)
{
    struct bh_blobs *b = w->get.b;
    struct blobs_entry *e = w->get.fetch->content->entry;
    char name[BLOBS_NAME];
    BH_LOCK_SCOPE(&b->naming);
    if (e->kind != KIND_NONE)
        return 0;
    bh_blobs_name(name, KIND_CACHED, e->hash);
    int rc = bh_disk_rename(b->o.disk, w->temp, name);
    if (rc)
        return bh_fail(err, rc, "%s cannot be named in %s: %s", name, bh_disk_path(b->o.disk),
                       strerror(rc));
    w->temp[0] = '\0';
    BH_LOCK_SCOPE(&b->mutex);
    bh_blobs_become(b, e, KIND_CACHED, w->get.end);
    return 0;
}

static int open_temp(struct whole *w, struct bh_error *err)
{
    struct bh_disk *disk = w->get.b->o.disk;
    bh_blobs_temp_name(w->temp);
    int rc = bh_disk_open_file(disk, w->temp, O_RDWR | O_CREAT | O_EXCL, 0600, &w->file);
    if (!rc)
        return 0;
    w->temp[0] = '\0';
    return bh_fail(err, rc, "a file cannot be made in %s: %s", bh_disk_path(disk), strerror(rc));
}

int bh_blobs_fetch_whole(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err)
{
    struct whole w = {.get = {.b = b, .fetch = f, .end = f->content->size, .take = take_whole},
                      .file = {.fd = -1},
                      .hash = bh_sha256_new()};
    w.get.arg = &w;
    if (!w.hash)
        return bh_fail(err, ENOMEM, "out of memory while reading from the bucket");
    int rc = open_temp(&w, err);
    if (bh_blobs_is_full(rc) && bh_blobs_make_room(b, w.get.end))
        rc = open_temp(&w, err);
    if (!rc)
        rc = bh_blobs_get(&w.get, err);
    int wrong = rc ? 0 : check_whole(&w, err);
    if (!rc && !wrong)
        rc = keep_whole(&w, err);
    bh_dfile_close(&w.file);
    if (w.temp[0])
        bh_disk_unlink(b->o.disk, w.temp);
    bh_sha256_free(w.hash);
    if (wrong) {
        BH_LOCK_SCOPE(&b->mutex);
        bh_blobs_bad(f->content, err);
    }
    return rc ? rc : wrong;
}

int bh_blobs_check_unsure(struct bh_blobs *b, struct blobs_fetch *f, struct bh_error *err)
{
    struct blobs_content *c = f->content;
    struct blobs_entry *e = c->entry;
    struct blobs_get ask = {.b = b, .fetch = f};
    char name[BLOBS_NAME], to[BLOBS_NAME];
    uint8_t hash[BH_SHA256_LEN];
    struct bh_error why = {0};
    bh_blobs_name(name, KIND_UNSURE, e->hash);
    bh_blobs_name(to, KIND_CACHED, e->hash);
    BH_FD int fd = openat(bh_disk_dirfd(b->o.disk), name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc =
        fd < 0 ? EIO : bh_blobs_hash(fd, c->size, bh_blobs_fetch_again, &ask, name, hash, &why);
    if (rc == ECANCELED || rc == ENOMEM)
        return bh_fail(err, rc, "%s", why.text);
    bool right = !rc && memcmp(hash, e->hash, sizeof hash) == 0;
    struct stat st;
    right = right && fstat(fd, &st) == 0 && (uint64_t)st.st_size == c->size;
    BH_LOCK_SCOPE(&b->naming);
    if (e->kind != KIND_UNSURE)
        return 0;
    if (!right) {
        rc = drop_local(b, e, name, "is damaged");
        return rc == EAGAIN ? 0 : bh_fail(err, rc, "%s cannot be removed: %s", name, strerror(rc));
    }
    rc = bh_disk_rename(b->o.disk, name, to);
    if (rc)
        return bh_fail(err, rc, "%s cannot be renamed: %s", name, strerror(rc));
    BH_LOCK_SCOPE(&b->mutex);
    bh_blobs_become(b, e, KIND_CACHED, c->size);
    return 0;
}

void bh_blobs_fetch_ahead(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN], uint64_t size)
{
    BH_LOCK_SCOPE(&b->mutex);
    if (size > BH_BLOB_WHOLE || atomic_load(&b->stopped) || bh_blobs_disk_is_full(b))
        return;
    struct blobs_content *c = content_of(b, hash, size, NULL);
    if (!c)
        return;
    if (c->entry->kind == KIND_NONE && !c->fetches && !c->bad && c->size == size)
        (void)bh_blobs_fetch(b, c, FETCH_WHOLE, 0, 0, true); /* without memory it is not */
    c->opened--;
    bh_blobs_content_drop(b, c);
}

/* Begins or joins the fetch that makes the whole blob be here, and waits for it. */
static int wait_for_whole(struct bh_blob *o, int64_t since_ms, const struct bh_call *call,
                          bool *missing, struct bh_error *err)
{
    struct bh_blobs *b = o->blobs;
    struct blobs_content *c = o->content;
    BH_LOCK_SCOPE(&b->mutex);
    if (c->bad)
        return bh_fail(err, EIO, "%s", c->bad->text);
    if (c->entry->kind == KIND_PENDING || c->entry->kind == KIND_CACHED)
        return 0;
    struct blobs_fetch *f = c->fetches;
    while (f && f->what == FETCH_MEMORY) /* of a time when the disk was full: nothing is kept */
        f = f->sibling;
    if (f)
        f->refs++;
    else
        f = bh_blobs_fetch(b, c, c->entry->kind == KIND_UNSURE ? FETCH_CHECK_UNSURE : FETCH_WHOLE,
                           0, 0, false);
    if (!f)
        return bh_fail(err, ENOMEM, "out of memory while reading from the bucket");
    return bh_blobs_await(b, f, since_ms, call, missing, err);
}

/* The object may be there under the key that this reader knows. */
static bool other_key(struct bh_blob *o)
{
    struct blobs_content *c = o->content;
    BH_LOCK_SCOPE(&o->blobs->mutex);
    if (o->key == c->key || (o->key && c->key && strcmp(o->key, c->key) == 0))
        return false;
    char *key = o->key ? strdup(o->key) : NULL;
    if (o->key && !key)
        return false;
    free(c->key);
    c->key = key;
    return true;
}

static int fetch_for(struct bh_blob *o, void *buf, size_t len, uint64_t offset, int64_t since_ms,
                     const struct bh_call *call, bool *missing, bool *done, struct bh_error *err)
{
    struct bh_blobs *b = o->blobs;
    struct blobs_content *c = o->content;
    pthread_mutex_lock(&b->mutex);
    enum blobs_kind kind = c->entry->kind; /* changes while neither lock is held */
    bool full = bh_blobs_disk_is_full(b);
    pthread_mutex_unlock(&b->mutex);
    if (kind == KIND_PENDING || kind == KIND_CACHED)
        return 0;
    int rc = ENOSPC;
    if (kind == KIND_UNSURE || (!full && c->size <= BH_BLOB_WHOLE)) {
        rc = wait_for_whole(o, since_ms, call, missing, err);
    } else if (!full) {
        rc = bh_blobs_parts_read(o, buf, len, offset, since_ms, call, missing, err);
        *done = rc == 0;
    }
    if (!bh_blobs_is_full(rc))
        return rc == EAGAIN ? 0 : rc;
    *done = full && kind == KIND_PARTS && bh_blobs_parts_here(o, buf, len, offset) == 0;
    if (*done)
        return 0;
    if (!full)
        bh_blobs_note_full(b);
    rc = bh_blobs_memory_read(o, buf, len, offset, since_ms, call, missing, err);
    *done = rc == 0;
    return rc;
}

static int read_local(struct bh_blob *o, void *buf, size_t len, uint64_t offset,
                      struct bh_error *err)
{
    size_t got;
    int rc = bh_pread_full(o->content->fd, buf, len, offset, &got);
    if (!rc && got < len)
        rc = EIO;
    if (rc) {
        char hex[BH_SHA256_HEX];
        bh_sha256_format(o->content->entry->hash, hex);
        return bh_fail(err, rc, "the local copy of %s in %s cannot be read: %s", hex,
                       bh_disk_path(o->blobs->o.disk), strerror(rc));
    }
    return 0;
}

int bh_blob_read(struct bh_blob *o, void *buf, size_t len, uint64_t offset, size_t *out,
                 const struct bh_call *call, struct bh_error *err)
{
    struct bh_blobs *b = o->blobs;
    struct blobs_content *c = o->content;
    int64_t since_ms = bh_mono_ms();
    int rc = 0;
    *out = 0;
    if (offset >= o->size)
        return 0;
    if (len > o->size - offset)
        len = (size_t)(o->size - offset);
    if (o->size != c->size)
        return bh_fail(err, EIO, "two files of one content say that it has %llu and %llu bytes",
                       (unsigned long long)o->size, (unsigned long long)c->size);
    for (int tries = 0; tries < LOCAL_TRIES; tries++) {
        bool missing = false, done = false;
        rc = open_local(b, c, true, err);
        if (rc && rc != EAGAIN)
            return rc;
        if (atomic_load(&c->fd) >= 0) {
            rc = read_local(o, buf, len, offset, err);
            done = true;
        } else {
            rc = fetch_for(o, buf, len, offset, since_ms, call, &missing, &done, err);
        }
        if (!rc && done)
            *out = len;
        if (done || (rc && !(missing && other_key(o))))
            return rc;
    }
    return bh_fail(err, EIO,
                   "what was fetched into %s vanishes: does another program remove files "
                   "there?",
                   bh_disk_path(b->o.disk));
}

static bool is_open(const struct bh_blob *o)
{
    return o->size == o->content->size && atomic_load(&o->content->fd) >= 0;
}

/* As it is read, and hashed. *local: all is here by now, and a copy of that is better. */
static int copy_read(struct bh_blob *o, struct bh_dfile *f, uint64_t len, struct bh_sha256 *h,
                     bool *local, const struct bh_call *call, struct bh_error *err)
{
    size_t step = len < BLOBS_STEP ? (size_t)len : BLOBS_STEP, got;
    BH_FREE char *buf = malloc(step ? step : 1);
    if (!buf || !h)
        return bh_fail(err, ENOMEM, "out of memory while copying content");
    for (uint64_t at = 0; at < len; at += step) {
        step = len - at < step ? (size_t)(len - at) : step;
        int rc = is_open(o) ? 0 : bh_blob_read(o, buf, step, at, &got, call, err);
        *local = !rc && is_open(o);
        if (rc || *local)
            return rc;
        bh_sha256_update(h, buf, step);
        rc = bh_blobs_write(o->blobs, f, buf, step, at, len - at);
        if (rc)
            return bh_fail(err, rc, "content cannot be copied: %s", strerror(rc));
    }
    return 0;
}

int bh_blob_copy(struct bh_blob *o, struct bh_dfile *f, uint64_t len, bool *checked,
                 const struct bh_call *call, struct bh_error *err)
{
    uint8_t hash[BH_SHA256_LEN];
    char key[BH_KEY_MAX + 1];
    *checked = false;
    if (len > o->size)
        return bh_fail(err, EINVAL, "a copy of %llu bytes is longer than its source",
                       (unsigned long long)len);
    bool local = false;
    struct bh_sha256 *h = bh_sha256_new();
    int rc = copy_read(o, f, len, h, &local, call, err);
    if (!rc && !local && len == o->size) {
        bh_sha256_raw(h, hash);
        bh_blobs_content_key(o->blobs, o->content, key);
        rc = bh_blobs_compare(o->content, key, hash, err);
        *checked = rc == 0;
    }
    bh_sha256_free(h);
    if (!rc && local) {
        rc = bh_data_copy(o->blobs, o->content->fd, len, f, call, err);
        *checked = rc == 0;
    }
    return rc;
}
