/* Multipart uploads of a directory bucket: .bhfs-meta/multipart/ID/ holds `info` (key, time,
 * metadata) and a file a part. The upload's own lock, taken before that of the key, keeps
 * completion and abort apart. */
#include "bucket/dir_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/clock.h"
#include "util/io.h"

#define ID_LEN     32
#define INFO_MAX   65536
#define PART_MIN   ((off_t)5 << 20) /* as S3 has it, for all parts but the last */
#define PART_NAME  16
#define UPLOAD_DIR (sizeof DIR_MULTIPART + 1 + ID_LEN)

struct upload {
    char key[BH_KEY_MAX + 1];
    int64_t started_ms;
    struct bh_meta meta;
};

static int no_upload(struct bh_error *err, const char *key, const char *id)
{
    return bh_fail(err, ENOENT, "there is no upload %.40s of %s", id, key);
}

static bool id_valid(const char *id)
{
    return strspn(id, "0123456789abcdef") == ID_LEN && id[ID_LEN] == '\0';
}

static void part_name(unsigned number, char name[PART_NAME])
{
    snprintf(name, PART_NAME, "part-%05u", number);
}

/* --- the info file --- */

static bool info_parse(char *text, struct upload *u)
{
    char *save = NULL;
    char *line = strtok_r(text, "\n", &save);
    *u = (struct upload){0};
    if (!line || strcmp(line, "bhfs-upload 1") != 0)
        return false;
    while ((line = strtok_r(NULL, "\n", &save))) {
        if (strncmp(line, "key ", 4) == 0) {
            if (!bh_dir_decode(line + 4, strlen(line + 4), u->key, sizeof u->key))
                return false;
        } else if (strncmp(line, "started ", 8) == 0) {
            u->started_ms = strtoll(line + 8, NULL, 10);
        } else if (!bh_dir_meta_parse(line, &u->meta)) {
            return false;
        }
    }
    return u->key[0] != '\0';
}

static int read_info(int dir, struct upload *u)
{
    BH_FREE char *text = NULL;
    int rc = bh_read_small_file(dir, "info", INFO_MAX, &text, NULL, NULL);
    if (rc)
        return rc;
    return info_parse(text, u) ? 0 : EIO;
}

/* Opens the upload's directory if it is one of this key. */
static int open_upload(const struct bh_dir *d, const char *key, const char *id, int *fd,
                       struct upload *u, struct bh_error *err)
{
    char path[UPLOAD_DIR];
    if (!id_valid(id))
        return no_upload(err, key, id);
    snprintf(path, sizeof path, DIR_MULTIPART "/%s", id);
    BH_FD int dir = -1;
    int rc = bh_dir_walk(d, path, BH_DIR_FIND, &dir);
    if (!rc)
        rc = read_info(dir, u);
    if (rc == ENOENT || rc == ENOTDIR || (!rc && strcmp(u->key, key) != 0))
        return no_upload(err, key, id);
    if (rc)
        return bh_dir_fail(d, err, rc, "uploaded", key);
    *fd = bh_take_fd(&dir);
    return 0;
}

/* --- begin --- */

static int make_upload(const struct bh_dir *d, const char *id, const char *text, size_t len)
{
    BH_FD int tmp = -1, multipart = -1;
    int rc = bh_dir_walk(d, DIR_TMP, BH_DIR_MAKE, &tmp);
    if (!rc)
        rc = bh_dir_walk(d, DIR_MULTIPART, BH_DIR_DURABLE, &multipart);
    if (rc)
        return rc;
    if (mkdirat(tmp, id, d->dir_mode) != 0)
        return errno;
    BH_FD int dir = openat(tmp, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    BH_FD int fd =
        dir < 0 ? -1 : openat(dir, "info", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, d->file_mode);
    if (fd < 0)
        return errno;
    rc = bh_pwrite_full(fd, text, len, 0);
    if (!rc && (fsync(fd) != 0 || fsync(dir) != 0 || renameat(tmp, id, multipart, id) != 0 ||
                fsync(multipart) != 0))
        rc = errno;
    return rc;
}

int bh_dir_mp_begin(struct bh_bucket *b, const char *key, const struct bh_meta *meta,
                    char upload_id[BH_UPLOAD_ID_MAX], const struct bh_call *call,
                    struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    unsigned char r[ID_LEN / 2];
    char encoded[3 * BH_KEY_MAX + 1];
    bh_random_bytes(r, sizeof r);
    for (size_t i = 0; i < sizeof r; i++)
        sprintf(upload_id + 2 * i, "%02x", r[i]);
    bh_dir_encode(key, encoded);
    BH_STRBUF text = {0};
    bh_strbuf_addf(&text, "bhfs-upload 1\nkey %s\nstarted %lld\n", encoded,
                   (long long)bh_real_ms());
    if (meta)
        bh_dir_meta_print(&text, meta);
    int rc = bh_call_check(call, "the upload", err);
    if (!rc && text.failed)
        rc = bh_fail(err, ENOMEM, "out of memory while uploading %s", key);
    if (!rc) {
        rc = make_upload(d, upload_id, text.data, text.len);
        if (rc) {
            bh_dir_remove_tmp_dir(d, upload_id);
            rc = bh_dir_fail(d, err, rc == ENOENT ? EIO : rc, "uploaded", key);
        }
    }
    return bh_counters_note(&d->counters, BH_OP_MULTIPART, start, rc);
}

/* --- parts --- */

/* Makes the written file part `number`, in place of an earlier one of that number. */
static int keep_part(struct bh_dir *d, const char *key, const char *id, int dir, unsigned number,
                     struct bh_dir_temp *t, struct bh_part *out, struct bh_error *err)
{
    char name[PART_NAME];
    struct stat st;
    struct bh_object_info info;
    BH_FD int tmp = -1;
    int rc = bh_dir_seal(d, t, NULL, &st, key, err);
    if (rc)
        return rc;
    part_name(number, name);
    rc = bh_dir_walk(d, DIR_TMP, BH_DIR_FIND, &tmp);
    if (!rc && renameat(tmp, t->name, dir, name) != 0)
        rc = errno;
    if (rc == ENOENT) /* completed or aborted meanwhile */
        return no_upload(err, key, id);
    if (rc)
        return bh_dir_fail(d, err, rc, "uploaded", key);
    t->named = false;
    BH_FD int sync = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if ((sync < 0 && errno != ENOENT) || (sync >= 0 && fsync(sync) != 0) || fstat(t->fd, &st) != 0)
        return bh_fail(err, EIO, "a part of %s may not be durable: %s", key, strerror(errno));
    bh_dir_info(&st, &info);
    out->number = number;
    strcpy(out->etag, info.etag);
    return 0;
}

int bh_dir_mp_part(struct bh_bucket *b, const char *key, const char *upload_id, unsigned number,
                   const struct bh_source *src, struct bh_part *out, const struct bh_call *call,
                   struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    struct upload u;
    BH_FD int dir = -1;
    BH_DIR_TEMP t = {.fd = -1};
    int rc = open_upload(d, key, upload_id, &dir, &u, err);
    if (!rc)
        rc = bh_dir_temp_new(d, &t, key, err);
    if (!rc)
        rc = bh_dir_fill(d, &t, src, key, call, err);
    if (!rc)
        rc = keep_part(d, key, upload_id, dir, number, &t, out, err);
    return bh_counters_note(&d->counters, BH_OP_MULTIPART, start, rc);
}

int bh_dir_mp_part_copy(struct bh_bucket *b, const char *key, const char *upload_id,
                        unsigned number, const char *from, uint64_t offset, uint64_t length,
                        const char *from_if_match, struct bh_part *out, const struct bh_call *call,
                        struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    struct upload u;
    struct bh_object_info source;
    BH_FD int dir = -1;
    BH_DIR_OBJECT o = {.fd = -1};
    BH_DIR_TEMP t = {.fd = -1};
    int rc = open_upload(d, key, upload_id, &dir, &u, err);
    if (!rc)
        rc = bh_dir_open_source(d, from, from_if_match, &o, &source, err);
    if (!rc && (offset > source.size || length > source.size - offset))
        rc = bh_fail(err, EINVAL, "the range of %s that is to be copied is beyond its end", from);
    if (!rc)
        rc = bh_dir_temp_new(d, &t, key, err);
    if (!rc)
        rc = bh_dir_append(d, &t, 0, o.fd, offset, length, from, call, err);
    if (!rc)
        rc = bh_dir_source_unchanged(&o, from, err);
    if (!rc)
        rc = keep_part(d, key, upload_id, dir, number, &t, out, err);
    return bh_counters_note(&d->counters, BH_OP_MULTIPART, start, rc);
}

/* --- complete and abort --- */

static int append_part(const struct bh_dir *d, const struct bh_dir_temp *t, int dir,
                       const struct bh_part *part, bool last, uint64_t *at, const char *key,
                       const struct bh_call *call, struct bh_error *err)
{
    char name[PART_NAME];
    struct stat st;
    struct bh_object_info info;
    part_name(part->number, name);
    BH_FD int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return bh_fail(err, EINVAL, "the upload of %s has no part %u", key, part->number);
    if (fd < 0 || fstat(fd, &st) != 0)
        return bh_dir_fail(d, err, errno, "uploaded", key);
    bh_dir_info(&st, &info);
    if (strcmp(info.etag, part->etag) != 0)
        return bh_fail(err, EINVAL, "part %u of %s has the ETag %s, not %s", part->number, key,
                       info.etag, part->etag);
    if (!last && st.st_size < PART_MIN)
        return bh_fail(err, EINVAL, "part %u of %s is smaller than 5 MiB and not the last",
                       part->number, key);
    int rc = bh_dir_append(d, t, *at, fd, 0, info.size, key, call, err);
    *at += info.size;
    return rc;
}

/* The upload disappears at once; what is left of it in tmp/ after a crash goes with the leftovers.
 */
static int remove_upload(const struct bh_dir *d, const char *id)
{
    BH_FD int tmp = -1, multipart = -1;
    int rc = bh_dir_walk(d, DIR_TMP, BH_DIR_MAKE, &tmp);
    if (!rc)
        rc = bh_dir_walk(d, DIR_MULTIPART, BH_DIR_MAKE, &multipart);
    if (!rc && renameat(multipart, id, tmp, id) != 0)
        rc = errno;
    if (!rc && fsync(multipart) != 0)
        rc = EIO;
    if (!rc)
        bh_dir_remove_tmp_dir(d, id);
    return rc;
}

static int do_complete(struct bh_dir *d, const char *key, const char *id,
                       const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                       struct bh_object_info *info, const struct bh_call *call,
                       struct bh_error *err)
{
    struct upload u;
    uint64_t at = 0;
    BH_FD int lock = -1, dir = -1;
    BH_DIR_TEMP t = {.fd = -1};
    if (!id_valid(id))
        return no_upload(err, key, id);
    int rc = bh_dir_lock(d, 'u', id, key, &lock, call, err);
    if (!rc)
        rc = open_upload(d, key, id, &dir, &u, err);
    if (!rc)
        rc = bh_dir_temp_new(d, &t, key, err);
    for (size_t i = 0; !rc && i < count; i++)
        rc = append_part(d, &t, dir, &parts[i], i + 1 == count, &at, key, call, err);
    if (!rc)
        rc = bh_dir_commit(d, key, &t, &u.meta, cond, info, call, err);
    if (!rc)
        remove_upload(d, id); /* a failure leaves an upload that can be listed and aborted */
    return rc;
}

int bh_dir_mp_complete(struct bh_bucket *b, const char *key, const char *upload_id,
                       const struct bh_part *parts, size_t count, const struct bh_cond *cond,
                       struct bh_object_info *info, const struct bh_call *call,
                       struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    int rc = do_complete(d, key, upload_id, parts, count, cond, info, call, err);
    return bh_counters_note(&d->counters, BH_OP_MULTIPART, start, rc);
}

int bh_dir_mp_abort(struct bh_bucket *b, const char *key, const char *upload_id,
                    const struct bh_call *call, struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    struct upload u;
    BH_FD int lock = -1, dir = -1;
    int rc = id_valid(upload_id) ? bh_dir_lock(d, 'u', upload_id, key, &lock, call, err)
                                 : no_upload(err, key, upload_id);
    if (!rc)
        rc = open_upload(d, key, upload_id, &dir, &u, err);
    if (!rc) {
        rc = remove_upload(d, upload_id);
        if (rc)
            rc = bh_dir_fail(d, err, rc == ENOENT ? EIO : rc, "freed of an upload", key);
    }
    return bh_counters_note(&d->counters, BH_OP_MULTIPART, start, rc);
}

/* --- list --- */

struct listed {
    char id[ID_LEN + 1];
    struct upload upload;
};

static int compare(const void *a, const void *b)
{
    const struct listed *x = *(struct listed *const *)a, *y = *(struct listed *const *)b;
    int order = strcmp(x->upload.key, y->upload.key);
    return order ? order : strcmp(x->id, y->id);
}

/* Adds the upload if its key has the prefix. 0 or ENOMEM; one that is unreadable or gone is passed
 * over. */
static int add_upload(int multipart, const char *id, const char *prefix, struct listed ***items,
                      size_t *count)
{
    BH_FD int dir = openat(multipart, id, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    BH_FREE struct listed *l = calloc(1, sizeof *l);
    if (!l)
        return ENOMEM;
    if (dir < 0 || read_info(dir, &l->upload) != 0 ||
        strncmp(l->upload.key, prefix, strlen(prefix)) != 0)
        return 0;
    strcpy(l->id, id);
    struct listed **more = realloc(*items, (*count + 1) * sizeof *more);
    if (!more)
        return ENOMEM;
    *items = more;
    more[(*count)++] = bh_take_ptr(l);
    return 0;
}

static int read_uploads(const struct bh_dir *d, const char *prefix, struct listed ***items,
                        size_t *count)
{
    BH_FD int multipart = -1;
    int rc = bh_dir_walk(d, DIR_MULTIPART, BH_DIR_FIND, &multipart);
    if (rc)
        return rc == ENOENT ? 0 : rc;
    int fd = openat(multipart, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        rc = errno;
        if (fd >= 0)
            close(fd);
        return rc;
    }
    for (const struct dirent *e; !rc && (e = readdir(dir));)
        if (id_valid(e->d_name))
            rc = add_upload(multipart, e->d_name, prefix, items, count);
    closedir(dir);
    return rc;
}

int bh_dir_mp_list(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
                   const struct bh_call *call, struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    struct listed **items = NULL;
    size_t count = 0;
    int rc = bh_call_check(call, "the listing of uploads", err);
    if (!rc) {
        rc = read_uploads(d, prefix, &items, &count);
        if (rc)
            rc = bh_dir_fail(d, err, rc, "listed (its uploads)", prefix);
    }
    if (count > 1)
        qsort(items, count, sizeof(struct listed *), compare);
    for (size_t i = 0; !rc && i < count; i++)
        rc = fn(arg, items[i]->upload.key, items[i]->id, items[i]->upload.started_ms, err);
    for (size_t i = 0; i < count; i++)
        free(items[i]);
    free(items);
    return bh_counters_note(&d->counters, BH_OP_MULTIPART, start, rc);
}
