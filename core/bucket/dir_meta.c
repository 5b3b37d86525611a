/* What belongs to an object of a directory bucket besides its bytes: ETag, time, user metadata.
 *
 * A record has one or two entries, the content that is about to be renamed into place first:
 *   bhfs-meta 1
 *   key ENCODED
 *   object SIZE SECONDS NANOSECONDS
 *   meta NAME=VALUE
 *   object ...
 */
#include "bucket/dir_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/io.h"
#include "util/log.h"

#define RECORD_MAX 65536
#define FIND_TRIES 1000

void bh_dir_info(const struct stat *st, struct bh_object_info *info)
{
    *info = (struct bh_object_info){
        .size = (uint64_t)st->st_size,
        .mtime_ms = (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000,
    };
    int n = snprintf(info->etag, sizeof info->etag, "%" PRIx64 "-%" PRIx64 ".%08lx", info->size,
                     (int64_t)st->st_mtim.tv_sec, (unsigned long)st->st_mtim.tv_nsec);
    if (st->st_mtim.tv_nsec % 1000 == 0)
        snprintf(info->etag + n, sizeof info->etag - (size_t)n, "-%" PRIx64 ".%08lx",
                 (int64_t)st->st_ctim.tv_sec, (unsigned long)st->st_ctim.tv_nsec);
}

/* --- finding --- */

/* Opens path if it is a regular file; ENOENT for everything that is no object. */
static int open_at_path(const struct bh_dir *d, const char *path, int flags,
                        struct bh_dir_object *o)
{
    const char *name;
    BH_FD int parent = -1;
    int rc = bh_dir_walk_parent(d, path, BH_DIR_FIND, &parent, &name);
    if (rc)
        return rc == ENOTDIR ? ENOENT : rc;
    BH_FD int fd = openat(parent, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ELOOP || errno == ENXIO || errno == ENOTDIR ? ENOENT : errno;
    if (fstat(fd, &o->st) != 0)
        return errno;
    if (!S_ISREG(o->st.st_mode))
        return ENOENT;
    o->fd = bh_take_fd(&fd);
    return 0;
}

int bh_dir_find(const struct bh_dir *d, const char *key, int flags, struct bh_dir_object *o,
                struct bh_error *err)
{
    int rc = ENOENT;
    o->fd = -1;
    o->escaped = false;
    if (bh_dir_is_natural(key, DIR_NAME_FOUND))
        rc = open_at_path(d, key, flags, o);
    if (rc == ENOENT) {
        char path[DIR_PATH_MAX];
        bh_dir_escaped_path(key, path);
        o->escaped = true;
        rc = open_at_path(d, path, flags, o);
    }
    if (rc == ENOENT)
        return bh_fail(err, ENOENT, "there is no object %s in the bucket file://%s", key, d->path);
    return rc ? bh_dir_fail(d, err, rc, "opened", key) : 0;
}

/* --- records --- */

void bh_dir_meta_print(struct bh_strbuf *out, const struct bh_meta *meta)
{
    for (size_t i = 0; i < meta->count; i++)
        bh_strbuf_addf(out, "meta %s=%s\n", meta->items[i].name, meta->items[i].value);
}

bool bh_dir_meta_parse(const char *line, struct bh_meta *meta)
{
    char name[BH_META_NAME_MAX];
    if (strncmp(line, "meta ", 5) != 0)
        return false;
    const char *eq = strchr(line, '=');
    if (!eq || (size_t)(eq - (line + 5)) >= sizeof name)
        return false;
    memcpy(name, line + 5, (size_t)(eq - (line + 5)));
    name[eq - (line + 5)] = '\0';
    return bh_meta_set(meta, name, eq + 1, NULL) == 0;
}

static void record_path(const char *hash, char path[128])
{
    snprintf(path, 128, DIR_RECORDS "/%.2s/%s", hash, hash);
}

/* The metadata that the record text has for content like st. False: the text is no record. */
static bool record_parse(char *text, const struct stat *st, struct bh_meta *meta, bool *found)
{
    char *save = NULL;
    char *line = strtok_r(text, "\n", &save);
    bool mine = false;
    if (!line || strcmp(line, "bhfs-meta 1") != 0)
        return false;
    while ((line = strtok_r(NULL, "\n", &save))) {
        long long size, sec;
        long ns;
        if (sscanf(line, "object %lld %lld %ld", &size, &sec, &ns) == 3) {
            mine = !*found && size == st->st_size && sec == st->st_mtim.tv_sec &&
                   ns == st->st_mtim.tv_nsec;
            *found |= mine;
        } else if (strncmp(line, "meta ", 5) == 0) {
            struct bh_meta skipped = {0};
            if (!bh_dir_meta_parse(line, mine ? meta : &skipped))
                return false;
        } else if (strncmp(line, "key ", 4) != 0) {
            return false;
        }
    }
    return true;
}

/* Finds the entry for st. *found false: no record, or none for this content. */
static int record_get(const struct bh_dir *d, const char *key, const char *hash,
                      const struct stat *st, struct bh_meta *meta, bool *found,
                      struct bh_error *err)
{
    char path[128];
    const char *name;
    BH_FREE char *text = NULL;
    BH_FD int dir = -1;
    *found = false;
    *meta = (struct bh_meta){0};
    record_path(hash, path);
    int rc = bh_dir_walk_parent(d, path, BH_DIR_FIND, &dir, &name);
    if (!rc)
        rc = bh_read_small_file(dir, name, RECORD_MAX, &text, NULL, NULL);
    if (rc == ENOENT)
        return 0;
    if (rc && rc != EFBIG)
        return bh_dir_fail(d, err, rc, "read (its metadata)", key);
    if (!rc && record_parse(text, st, meta, found))
        return 0;
    bh_log(BH_LOG_WARNING,
           "the metadata record %s/%s is damaged; the object %s appears without metadata", d->path,
           path, key);
    *found = false;
    *meta = (struct bh_meta){0};
    return 0;
}

int bh_dir_find_info(const struct bh_dir *d, const char *key, int flags, struct bh_dir_object *o,
                     struct bh_object_info *info, struct bh_error *err)
{
    char hash[BH_SHA256_HEX];
    if (bh_sha256_hex_of(key, strlen(key), hash) != 0)
        return bh_fail(err, ENOMEM, "out of memory while looking for %s", key);
    for (int tries = 0; tries < FIND_TRIES; tries++) {
        bool found;
        int rc = bh_dir_find(d, key, flags, o, err);
        if (rc)
            return rc;
        bh_dir_info(&o->st, info);
        rc = record_get(d, key, hash, &o->st, &info->meta, &found, err);
        if (!rc && found)
            return 0;
        /* No entry: either the content has none, or it was replaced twice since we opened it. */
        BH_DIR_OBJECT again = {.fd = -1};
        if (!rc)
            rc = bh_dir_find(d, key, O_PATH, &again, err);
        if (!rc && again.st.st_ino == o->st.st_ino && bh_dir_same_content(&again.st, &o->st))
            return 0;
        bh_dir_object_close(o);
        if (rc)
            return rc;
    }
    return bh_fail(err, EAGAIN, "%s is replaced again and again", key);
}

static void print_entry(struct bh_strbuf *out, const struct stat *st, const struct bh_meta *meta)
{
    bh_strbuf_addf(out, "object %lld %lld %ld\n", (long long)st->st_size,
                   (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
    bh_dir_meta_print(out, meta);
}

int bh_dir_record_put(const struct bh_dir *d, const char *key, const char *hash,
                      const struct stat *now, const struct bh_meta *meta, const struct stat *old,
                      struct bh_error *err)
{
    struct bh_meta old_meta;
    bool keep = false;
    int rc = old ? record_get(d, key, hash, old, &old_meta, &keep, err) : 0;
    if (rc)
        return rc;
    char encoded[3 * BH_KEY_MAX + 1], path[128];
    bh_dir_encode(key, encoded);
    record_path(hash, path);
    BH_STRBUF text = {0};
    bh_strbuf_addf(&text, "bhfs-meta 1\nkey %s\n", encoded);
    print_entry(&text, now, meta);
    if (keep)
        print_entry(&text, old, &old_meta);
    if (text.failed)
        return bh_fail(err, ENOMEM, "out of memory while storing the metadata of %s", key);
    return bh_dir_write_file(d, path, text.data, text.len, key, err);
}

void bh_dir_record_remove(const struct bh_dir *d, const char *hash)
{
    char path[128];
    const char *name;
    BH_FD int dir = -1;
    record_path(hash, path);
    if (bh_dir_walk_parent(d, path, BH_DIR_FIND, &dir, &name) == 0)
        unlinkat(dir, name, 0);
}
