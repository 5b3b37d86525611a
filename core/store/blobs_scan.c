/* What an earlier life left in the directory. */
#include "store/blobs_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/array.h"
#include "util/cleanup.h"
#include "util/log.h"

struct found {
    enum blobs_kind kind;
    uint64_t size;
    int64_t used_ns; /* when */
    uint8_t hash[BH_SHA256_LEN];
};

struct scan {
    struct bh_blobs *b;
    bool recheck;
    struct found *all;
    size_t count, cap;
    size_t foreign, damaged;
    char example[NAME_MAX + 1];
};

/* p-, c-, u-, r-HASH and r-HASH.map. */
static bool parse(const char *name, enum blobs_kind *kind, uint8_t hash[BH_SHA256_LEN], bool *map)
{
    static const char letters[] = "pcur";
    char hex[BH_SHA256_HEX] = "";
    const char *letter = name[0] ? strchr(letters, name[0]) : NULL;
    size_t len = strlen(name);
    *map = len == 2 + 64 + 4 && name[0] == 'r' && strcmp(name + 2 + 64, ".map") == 0;
    if (!letter || name[1] != '-' || (len != 2 + 64 && !*map))
        return false;
    memcpy(hex, name + 2, 64);
    if (!bh_sha256_parse(hex, hash))
        return false;
    *kind = (enum blobs_kind)(KIND_PENDING + (letter - letters));
    return true;
}

static int add(struct scan *s, const struct found *f)
{
    if (!bh_grow(s->all, s->cap, s->count))
        return ENOMEM;
    s->all[s->count++] = *f;
    return 0;
}

static int64_t ns_of(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int look_at(void *arg, const char *name)
{
    struct scan *s = arg;
    struct bh_disk *disk = s->b->o.disk;
    struct found f = {0};
    struct stat st;
    bool map;
    if (strncmp(name, "t-", 2) == 0)
        return bh_disk_unlink(disk, name);
    if (bh_data_number(name))
        return 0;
    if (fstatat(bh_disk_dirfd(disk), name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : errno;
    if (!parse(name, &f.kind, f.hash, &map) || !S_ISREG(st.st_mode)) {
        if (s->foreign++ == 0)
            strcpy(s->example, name);
        return 0;
    }
    f.size = (uint64_t)st.st_size;
    f.used_ns = ns_of(st.st_mtim);
    if (f.kind != KIND_PENDING && ns_of(st.st_atim) > f.used_ns)
        f.used_ns = ns_of(st.st_atim);
    if (f.kind == KIND_PARTS && (s->recheck || bh_blobs_parts_look(s->b, f.hash, &f.size) != 0)) {
        int rc = bh_disk_unlink(disk, name); /* the map's own turn comes, or came */
        return rc == ENOENT ? 0 : rc;
    }
    return map ? 0 : add(s, &f);
}

static int by_use(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return (x->used_ns > y->used_ns) - (x->used_ns < y->used_ns);
}

/* After a power cut: what is pending is there only here, so it is looked at now. Removes it if it
 * is damaged: *gone. */
static int recheck_pending(struct scan *s, const struct found *f, const char *name, bool *gone)
{
    struct bh_disk *disk = s->b->o.disk;
    uint8_t hash[BH_SHA256_LEN];
    struct bh_error why = {0};
    BH_FD int fd = openat(bh_disk_dirfd(disk), name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc = fd < 0 ? errno : bh_blobs_hash(fd, f->size, NULL, NULL, name, hash, &why);
    if (rc)
        return rc;
    *gone = memcmp(hash, f->hash, sizeof hash) != 0;
    if (!*gone)
        return 0;
    s->damaged++;
    bh_log(BH_LOG_WARNING,
           "%s in %s was damaged when the machine ended and is removed: it had not been synced yet",
           name, bh_disk_path(disk));
    return bh_disk_unlink(disk, name);
}

/* c- becomes u-: hashed before it is used. */
static int mistrust(struct scan *s, struct found *f, const char *name)
{
    char to[BLOBS_NAME];
    f->kind = KIND_UNSURE;
    bh_blobs_name(to, KIND_UNSURE, f->hash);
    return bh_disk_rename(s->b->o.disk, name, to);
}

static int take_up(struct scan *s, struct found *f)
{
    struct bh_blobs *b = s->b;
    char name[BLOBS_NAME], other[BLOBS_NAME];
    bool gone = false;
    int rc = 0;
    bh_blobs_name(name, f->kind, f->hash);
    if (s->recheck && f->kind == KIND_PENDING)
        rc = recheck_pending(s, f, name, &gone);
    else if (s->recheck && f->kind == KIND_CACHED)
        rc = mistrust(s, f, name);
    if (rc || gone)
        return rc;
    struct blobs_entry *e = bh_blobs_entry(b, f->hash);
    if (!e)
        return ENOMEM;
    if (e->kind != KIND_NONE && (f->kind != KIND_PENDING || e->kind == KIND_PENDING)) {
        bh_blobs_name(other, f->kind, f->hash); /* twice here: the better one stays */
        return bh_disk_unlink(b->o.disk, other);
    }
    if (e->kind != KIND_NONE) {
        bh_blobs_name(other, e->kind, f->hash);
        rc = bh_disk_unlink(b->o.disk, other);
    }
    struct blobs_job *job = f->kind == KIND_PENDING ? calloc(1, sizeof *job) : NULL;
    if (!rc && f->kind == KIND_PENDING && !job)
        rc = ENOMEM;
    if (rc) {
        free(job);
        return rc;
    }
    bh_blobs_become(b, e, f->kind, f->size);
    bh_blobs_needs_head(b, e);
    if (job) {
        job->size = f->size;
        job->checked = s->recheck;
        bh_blobs_queue(b, e, job);
    }
    return 0;
}

int bh_blobs_scan(struct bh_blobs *b, bool recheck, struct bh_error *err)
{
    struct scan s = {.b = b, .recheck = recheck};
    int rc = bh_disk_each(b->o.disk, look_at, &s);
    if (!rc && s.count > 0)
        qsort(s.all, s.count, sizeof *s.all, by_use);
    BH_LOCK_SCOPE(&b->naming);
    BH_LOCK_SCOPE(&b->mutex);
    for (size_t i = 0; !rc && i < s.count; i++)
        rc = take_up(&s, &s.all[i]);
    free(s.all);
    if (rc)
        return bh_fail(err, rc, "what is in %s cannot be taken up: %s", bh_disk_path(b->o.disk),
                       strerror(rc));
    if (s.foreign)
        bh_log(BH_LOG_WARNING, "%zu files in %s are none of ours and are left alone: %s%s",
               s.foreign, bh_disk_path(b->o.disk), s.example, s.foreign > 1 ? ", ..." : "");
    if (b->pending)
        bh_log(BH_LOG_INFO, "%llu files' content in %s is not in the bucket yet",
               (unsigned long long)b->pending, bh_disk_path(b->o.disk));
    return 0;
}
