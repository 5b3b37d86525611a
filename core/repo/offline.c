#include "repo/offline.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "live/live.h"
#include "repo/head_private.h"
#include "repo/offline_private.h"
#include "repo/plain_private.h"
#include "util/cleanup.h"
#include "util/io.h"

#define NODE_CACHE   ((size_t)16 << 20)
#define PACK_TARGET  (16u << 20) /* of no meaning for reading, but wanted */
#define PARALLEL_MAX 8u
#define STEP         ((size_t)8 << 20)

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory while reading a snapshot");
}

/* --- opening --- */

static int open_trees(struct bh_offline *o, uint32_t block_size, struct bh_error *err)
{
    uint64_t parallel = o->cfg->bucket.connections;
    struct bh_packs_options options = {.part_size = PACK_TARGET};
    options.parallel = parallel < PARALLEL_MAX ? (unsigned)parallel : PARALLEL_MAX;
    int rc = bh_packs_new(&o->packs, o->bucket, o->prefix, &options, err);
    return rc ? rc : bh_trees_new(&o->trees, o->packs, block_size, NODE_CACHE, err);
}

int bh_offline_open(struct bh_offline **out, const struct bh_config *cfg,
                    const struct bh_call *call, struct bh_error *err)
{
    uint32_t block_size;
    struct bh_offline *o = calloc(1, sizeof *o);
    if (!o)
        return no_memory(err);
    o->cfg = cfg;
    o->call = call;
    o->fd = -1;
    if (asprintf(&o->prefix, "%s%s.bhfs/", cfg->bucket.prefix, cfg->snapshot.key) < 0) {
        o->prefix = NULL;
        bh_offline_free(o);
        return no_memory(err);
    }
    int rc = bh_bucket_open(&o->bucket, cfg, err);
    if (!rc) {
        rc = bh_format_settle(o->bucket, o->prefix, &block_size, false, call, err);
        rc = rc == ENOENT ? 0 : rc ? rc : open_trees(o, block_size, err);
    }
    if (rc)
        bh_offline_free(o);
    else
        *out = o;
    return rc;
}

void bh_offline_free(struct bh_offline *o)
{
    if (!o)
        return;
    offline_sqlite_free(o);
    if (o->fd >= 0)
        close(o->fd);
    bh_trees_free(o->trees);
    bh_packs_free(o->packs);
    bh_bucket_close(o->bucket);
    free(o->prefix);
    free(o);
}

/* --- which one: of the history --- */

static void take_entry(struct bh_offline *o, const struct bh_index_entry *e, const char *branch)
{
    memcpy(o->snapshot.id, e->id, sizeof o->snapshot.id);
    snprintf(o->snapshot.branch, sizeof o->snapshot.branch, "%s", branch);
    o->snapshot.time_ms = e->time_ms;
    o->snapshot.size = e->db.size;
    o->root = e->db;
    o->found = true;
}

static int read_record(struct bh_offline *o, const char *id, struct bh_record *r,
                       struct bh_error *err)
{
    BH_FREE char *key = NULL;
    BH_FREE char *text = NULL;
    size_t len;
    if (asprintf(&key, "%ssnapshots/%s", o->prefix, id) < 0) {
        key = NULL;
        return no_memory(err);
    }
    int rc = bh_bucket_get_small(o->bucket, key, BH_HEAD_TEXT_MAX, &text, &len, NULL, o->call, err);
    if (!rc)
        rc = bh_record_decode(r, text, len, key, err);
    if (!rc && strcmp(r->entry.id, id) != 0)
        rc = bh_fail(err, EIO, "%s is damaged: it is the record of %s", key, r->entry.id);
    return rc;
}

static int get_head(struct bh_offline *o, const char *branch, struct bh_head *head,
                    struct bh_error *err)
{
    char etag[BH_ETAG_MAX];
    return bh_head_get(o->bucket, o->prefix, branch, head, etag, o->call, err);
}

static int find_id(struct bh_offline *o, const char *branch, const char *id, struct bh_error *err)
{
    struct bh_record r;
    struct bh_head head;
    struct bh_index_entry e;
    struct bh_error why = {0};
    int rc = read_record(o, id, &r, err);
    if (rc == 0)
        take_entry(o, &r.entry, r.entry.branch);
    if (rc != ENOENT && rc != EIO)
        return rc;
    /* Without its record: as a mount would find it. */
    int again = get_head(o, branch, &head, &why);
    if (again == 0)
        again = bh_index_find(o->trees, &head.index, id, &e, NULL, o->call, &why);
    if (again == 0)
        take_entry(o, &e, head.branch);
    else if (rc == ENOENT)
        return bh_fail(err, ENOENT, "there is no snapshot %s in this bucket", id);
    return again ? rc : 0;
}

static int find_newest(struct bh_offline *o, const char *branch, bool previous,
                       struct bh_error *err)
{
    struct bh_head head;
    int rc = get_head(o, branch, &head, err);
    if (rc)
        return rc;
    if (previous && head.previous[0])
        return find_id(o, branch, head.previous, err);
    if (previous || !head.newest.id[0])
        return bh_fail(err, ENOENT, "branch %s has no %ssnapshot yet", branch,
                       previous ? "previous " : "");
    take_entry(o, &head.newest, head.branch);
    return 0;
}

static int find_label(struct bh_offline *o, const char *branch, const char *label,
                      struct bh_error *err)
{
    char id[BH_SNAPSHOT_ID_MAX];
    int rc = bh_label_get(o->bucket, o->prefix, label, id, o->call, err);
    if (rc == ENOENT)
        return bh_fail(err, ENOENT, "there is no snapshot and no label %s in this bucket", label);
    return rc ? rc : find_id(o, branch, id, err);
}

/* --- which one: a plain object --- */

struct download {
    int fd;
    uint64_t at;
};

static int take_bytes(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct download *d = arg;
    int rc = bh_pwrite_full(d->fd, data, len, d->at);
    d->at += len;
    return rc ? bh_fail(err, rc, "there is no room for a temporary file (TMPDIR says where): %s",
                        strerror(rc))
              : 0;
}

/* Without a name, so that it is gone with the process. */
static int temporary(struct bh_error *err, int *fd)
{
    const char *tmp = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/bhfs-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    *fd = mkostemp(path, O_CLOEXEC);
    if (*fd < 0)
        return bh_fail(err, errno, "%s cannot be made: %s", path, strerror(errno));
    unlink(path);
    return 0;
}

static int fetch(struct bh_offline *o, const char *key, struct bh_object_info *info,
                 struct bh_error *err)
{
    const struct bh_transfer how = {.part_size = o->cfg->bucket.part_size,
                                    .parallel = (unsigned)o->cfg->bucket.connections};
    struct download d = {0};
    int rc = temporary(err, &o->fd);
    d.fd = o->fd;
    if (!rc)
        rc = o->cfg->bucket.kind == BH_BUCKET_FILE
                 ? bh_bucket_get(o->bucket, key, 0, UINT64_MAX, take_bytes, &d, info, o->call, err)
                 : bh_bucket_download(o->bucket, key, &how, take_bytes, &d, info, o->call, err);
    if (!rc && d.at != info->size)
        rc = bh_fail(err, EIO, "%s is cut off: %llu of %llu bytes arrived", key,
                     (unsigned long long)d.at, (unsigned long long)info->size);
    return rc;
}

/* what: NULL, or the id that it must have. ENOENT: it is not there, or another one. */
static int take_plain(struct bh_offline *o, const char *key, const char *branch, const char *what,
                      struct bh_error *err)
{
    struct bh_object_info info;
    int rc = bh_bucket_head(o->bucket, key, &info, o->call, err);
    const char *id = rc ? NULL : bh_meta_get(&info.meta, META_SNAPSHOT);
    if (!rc && what && (!id || strcmp(id, what) != 0))
        rc = bh_fail(err, ENOENT, "%s is another snapshot", key);
    if (!rc)
        rc = fetch(o, key, &info, err);
    if (rc)
        return rc;
    id = bh_meta_get(&info.meta, META_SNAPSHOT);
    snprintf(o->snapshot.id, sizeof o->snapshot.id, "%.*s", BH_SNAPSHOT_ID_MAX - 1, id ? id : "");
    snprintf(o->snapshot.branch, sizeof o->snapshot.branch, "%s", branch);
    o->snapshot.time_ms = info.mtime_ms;
    o->snapshot.size = info.size;
    o->found = true;
    return 0;
}

static int find_plain(struct bh_offline *o, const char *branch, const char *what,
                      struct bh_error *err)
{
    BH_FREE char *key = bh_config_branch_key(o->cfg, branch);
    BH_FREE char *prev = NULL;
    if (!key || asprintf(&prev, "%s.prev", key) < 0) {
        prev = NULL;
        return no_memory(err);
    }
    bool previous = what && !strcmp(what, "prev");
    int rc =
        previous ? take_plain(o, prev, branch, NULL, err) : take_plain(o, key, branch, what, err);
    if (rc == ENOENT && what && !previous)
        rc = take_plain(o, prev, branch, what, err);
    if (rc != ENOENT)
        return rc;
    if (!what || previous)
        return bh_fail(err, ENOENT, "there is no snapshot in this bucket: %s does not exist",
                       previous ? prev : key);
    return bh_fail(err, ENOENT,
                   "there is no snapshot %s in this bucket, which has no history: only %s and "
                   "what was before it",
                   what, key);
}

int bh_offline_find(struct bh_offline *o, const char *branch, const char *what,
                    struct bh_error *err)
{
    if (!branch)
        branch = o->cfg->snapshot.branch;
    if (!bh_is_branch_name(branch))
        return bh_fail(err, EINVAL, "\"%.100s\" is no name of a branch", branch);
    if (what && !bh_is_snapshot_id(what) && !bh_is_label(what))
        return bh_fail(err, EINVAL,
                       "\"%.100s\" is no snapshot: give an id, a label, prev, or nothing for the "
                       "newest",
                       what);
    if (!o->trees)
        return find_plain(o, branch, what, err);
    if (what && bh_is_snapshot_id(what))
        return find_id(o, branch, what, err);
    if (what && strcmp(what, "prev") != 0)
        return find_label(o, branch, what, err);
    int rc = find_newest(o, branch, what != NULL, err);
    struct bh_error why = {0};
    if (rc == ENOENT && find_plain(o, branch, what, &why) == 0) /* upstream's */
        rc = 0;
    return rc;
}

const struct bh_offline_snapshot *bh_offline_snapshot(const struct bh_offline *o)
{
    return &o->snapshot;
}

int offline_read(struct bh_offline *o, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    if (o->fd < 0)
        return bh_tree_read(o->trees, &o->root, offset, buf, len,
                            o->snapshot.id[0] ? o->snapshot.id : BH_DB_NAME, o->call, err);
    int rc = bh_pread_full(o->fd, buf, len, offset, NULL);
    return rc ? bh_fail(err, rc, "the temporary file cannot be read: %s", strerror(rc)) : 0;
}

/* --- export --- */

static int copy_out(struct bh_offline *o, int fd, const char *path, struct bh_error *err)
{
    BH_FREE uint8_t *buf = malloc(STEP);
    int rc = buf ? 0 : no_memory(err);
    for (uint64_t at = 0; at < o->snapshot.size && !rc; at += STEP) {
        size_t len = o->snapshot.size - at < STEP ? (size_t)(o->snapshot.size - at) : STEP;
        rc = bh_call_check(o->call, "the export", err);
        if (!rc)
            rc = offline_read(o, at, buf, len, err);
        int wrong = rc ? 0 : bh_pwrite_full(fd, buf, len, at);
        if (wrong)
            rc = bh_fail(err, wrong, "%s cannot be written: %s", path, strerror(wrong));
    }
    return rc;
}

static int exists(const char *dest, struct bh_error *err)
{
    return bh_fail(err, EEXIST, "%s exists already; --force replaces it", dest);
}

/* The temporary file gets its name. */
static int put_in_place(const char *path, const char *dest, bool force, struct bh_error *err)
{
    int rc =
        (force ? rename(path, dest) : renameat2(AT_FDCWD, path, AT_FDCWD, dest, 1u)) ? errno : 0;
    if (rc == EINVAL && !force) /* a file system without RENAME_NOREPLACE */
        rc = link(path, dest) ? errno : unlink(path) ? errno : 0;
    if (rc == EEXIST)
        return exists(dest, err);
    return rc ? bh_fail(err, rc, "%s cannot be made: %s", dest, strerror(rc)) : 0;
}

static int sync_directory(const char *dest, struct bh_error *err)
{
    BH_FREE char *dir = strdup(dest);
    char *slash = dir ? strrchr(dir, '/') : NULL;
    if (!dir)
        return no_memory(err);
    if (slash)
        slash[slash == dir] = '\0';
    BH_FD int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? errno : bh_fsync_dir(fd);
    return rc ? bh_fail(err, rc, "the directory of %s cannot be synced: %s", dest, strerror(rc))
              : 0;
}

static int fill(struct bh_offline *o, int fd, const char *path, const char *dest, bool check,
                struct bh_error *err)
{
    char what[64 + BH_SNAPSHOT_ID_MAX];
    mode_t mask = umask(0);
    umask(mask);
    int rc = copy_out(o, fd, path, err);
    snprintf(what, sizeof what, "snapshot %s", o->snapshot.id);
    if (!rc && check)
        rc = bh_database_check(path, what, err);
    if (!rc && (fchmod(fd, 0666 & ~mask) || fsync(fd)))
        rc = bh_fail(err, errno, "%s cannot be synced: %s", dest, strerror(errno));
    return rc;
}

int bh_offline_export(struct bh_offline *o, const char *dest, bool force, bool check,
                      struct bh_error *err)
{
    struct stat st;
    BH_FREE char *path = NULL;
    if (!o->found)
        return bh_fail(err, EINVAL, "no snapshot was chosen");
    if (lstat(dest, &st) == 0 && (!force || S_ISDIR(st.st_mode)))
        return S_ISDIR(st.st_mode) ? bh_fail(err, EEXIST, "%s is a directory", dest)
                                   : exists(dest, err);
    if (o->snapshot.size == 0)
        return bh_fail(err, ENOENT, "snapshot %s is empty: there is nothing to export",
                       o->snapshot.id);
    if (asprintf(&path, "%s.XXXXXX", dest) < 0) {
        path = NULL;
        return no_memory(err);
    }
    BH_FD int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return bh_fail(err, errno, "%s cannot be made: %s", dest, strerror(errno));
    int rc = fill(o, fd, path, dest, check, err);
    if (!rc)
        rc = put_in_place(path, dest, force, err);
    if (rc)
        unlink(path);
    return rc ? rc : sync_directory(dest, err);
}
