/* What the log has and the database has not, at the start. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/names_private.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/io.h"
#include "util/log.h"

struct found {
    uint64_t number;
    struct bytes text;
    bool is_log; /* it has a header */
    struct log_header header;
};

struct replay {
    struct bh_names *n;
    struct bh_error *err; /* of add_log */
    struct found *logs;
    size_t count, cap;
    uint64_t gap;       /* the first frame that is missing; 0: none */
    char where[32];     /* the file in which it should be */
    bool more, covered; /* there are later frames; one says that it was on the disk */
};

/* --- files --- */

static int read_log(struct replay *p, const char *name, struct found *f, struct bh_error *err)
{
    struct stat st;
    int rc = 0;
    BH_FD int fd = openat(bh_disk_dirfd(p->n->opt.disk), name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) != 0)
        rc = errno;
    else if (!bytes_room(&f->text, (size_t)st.st_size + 1))
        rc = ENOMEM;
    else
        rc = bh_pread_full(fd, f->text.data, (size_t)st.st_size, 0, &f->text.len);
    if (rc)
        return bh_fail(err, rc, "%s/%s cannot be read: %s", bh_disk_path(p->n->opt.disk), name,
                       strerror(rc));
    f->is_log = f->text.len >= LOG_HEADER && log_header_get(f->text.data, &f->header) &&
                f->header.number == f->number;
    return 0;
}

static int add_log(void *arg, const char *name)
{
    struct replay *p = arg;
    static const char prefix[] = "names.log.";
    char *end;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return 0;
    const char *digits = name + sizeof prefix - 1;
    errno = 0;
    unsigned long long number = strtoull(digits, &end, 10);
    if (*digits < '0' || *digits > '9' || *end || errno)
        return 0;
    if (!bh_grow(p->logs, p->cap, p->count))
        return bh_fail(p->err, ENOMEM, "out of memory while logs of names are read");
    struct found *f = &p->logs[p->count++];
    *f = (struct found){.number = number};
    return read_log(p, name, f, p->err);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = ((const struct found *)a)->number, y = ((const struct found *)b)->number;
    return x < y ? -1 : x > y;
}

static int find_logs(struct replay *p, struct bh_error *err)
{
    struct bh_error e = {0};
    p->err = &e;
    int rc = bh_disk_each(p->n->opt.disk, add_log, p);
    if (rc && e.text[0])
        return bh_fail(err, rc, "%s", e.text);
    if (rc)
        return bh_fail(err, rc, "%s cannot be read: %s", bh_disk_path(p->n->opt.disk),
                       strerror(rc));
    if (p->count)
        qsort(p->logs, p->count, sizeof *p->logs, by_number);
    return 0;
}

/* --- records into memory --- */

static int apply_inode(struct bh_names *n, const struct record *r)
{
    struct inode *i = inode_find(n, r->inode.ino);
    if (!i) {
        i = inode_new(&r->inode, r->target, r->target_len);
        if (!i)
            return ENOMEM;
        i->xattrs_known = r->fresh;
        i->gone = !r->present;
        inode_insert(n, i);
    }
    inode_apply(n, i, &r->inode, !r->present);
    object_changed(n, &i->o);
    n->inode_count += r->fresh;
    n->inode_count -= !r->present;
    if (r->inode.ino >= n->next_ino)
        n->next_ino = r->inode.ino + 1;
    return 0;
}

static int apply_entry(struct bh_names *n, const struct record *r)
{
    enum kind kind = r->type == RECORD_NAME ? KIND_NAME : KIND_XATTR;
    struct inode *of = inode_find(n, r->of);
    if (!of)
        return EIO;
    struct entry *e = entry_find(n, of, kind, r->name, r->name_len);
    bool fresh = !e;
    if (!e && !(e = entry_new(of, kind, r->name, r->name_len)))
        return ENOMEM;
    uint8_t *value = NULL;
    if (kind == KIND_XATTR && !(value = malloc(r->value_len + 1))) {
        if (fresh)
            object_free(&e->o);
        return ENOMEM;
    }
    if (value)
        memcpy(value, r->value, r->value_len);
    if (fresh)
        entry_insert(n, e);
    entry_apply(n, e, r->present, r->ino, r->file_type, value, (uint32_t)r->value_len);
    object_changed(n, &e->o);
    return 0;
}

static int apply_frame(struct bh_names *n, const uint8_t *at, size_t len)
{
    const uint8_t *end = at + len;
    struct record r;
    int rc = 0, more = 1;
    while (rc == 0 && (more = record_next(&at, end, &r)) == 1)
        rc = r.type == RECORD_INODE ? apply_inode(n, &r) : apply_entry(n, &r);
    return more < 0 ? EIO : rc;
}

/* --- frames --- */

static int damaged(struct replay *p, const char *name, struct bh_error *err)
{
    return bh_fail(err, EIO,
                   "%s/%s is damaged: change %llu of names is not readable, though it was on the "
                   "disk; restore the file, or move the names.log files away to go on without what "
                   "they have",
                   bh_disk_path(p->n->opt.disk), name, (unsigned long long)p->gap);
}

/* Later frames, wherever they begin. */
static void scan(struct replay *p, const struct found *f, size_t at)
{
    struct frame fr;
    for (; at + FRAME_HEADER <= f->text.len; at++)
        if (frame_get(f->text.data + at, f->text.len - at, &fr) && fr.seq > p->gap) {
            p->more = true;
            p->covered |= fr.synced >= p->gap;
            at += FRAME_HEADER + fr.len - 1;
        }
}

/* The kernel wrote later pages before this one when the power went: what was never synced goes. */
static int cut(struct replay *p, struct found *f, size_t at, struct bh_error *err)
{
    struct bh_dfile file;
    char name[32];
    if (at == f->text.len)
        return 0;
    log_name(f->number, name);
    int rc = bh_disk_open_file(p->n->opt.disk, name, O_RDWR, 0600, &file);
    if (rc == 0) {
        rc = bh_dfile_truncate(&file, at);
        if (rc == 0)
            rc = bh_dfile_sync(&file);
        bh_dfile_close(&file);
    }
    if (rc)
        return bh_fail(err, rc, "%s/%s cannot be cut: %s", bh_disk_path(p->n->opt.disk), name,
                       strerror(rc));
    bh_log(BH_LOG_WARNING, "%s/%s: %zu bytes of its end were not whole and are dropped%s",
           bh_disk_path(p->n->opt.disk), name, f->text.len - at,
           p->more ? ": the machine lost power" : "");
    f->text.len = at;
    return 0;
}

/* Plays one log; *end: where its whole frames end. */
static int play(struct replay *p, struct found *f, size_t *end, struct bh_error *err)
{
    struct bh_names *n = p->n;
    struct frame fr;
    size_t at = LOG_HEADER;
    *end = at;
    for (; !p->gap && at < f->text.len; at += FRAME_HEADER + fr.len) {
        if (!frame_get(f->text.data + at, f->text.len - at, &fr) || fr.seq > n->seq + 1) {
            p->gap = n->seq + 1;
            log_name(f->number, p->where);
            break;
        }
        int rc =
            fr.seq == n->seq + 1 ? apply_frame(n, f->text.data + at + FRAME_HEADER, fr.len) : 0;
        if (rc == ENOMEM)
            return bh_fail(err, rc, "out of memory while the log of names is read");
        if (rc) {
            p->gap = fr.seq;
            log_name(f->number, p->where);
            return damaged(p, p->where, err);
        }
        n->seq += fr.seq == n->seq + 1;
        *end = at + FRAME_HEADER + fr.len;
    }
    if (p->gap)
        scan(p, f, at);
    return 0;
}

/* --- which logs --- */

static int adopt(struct replay *p, const struct found *f, struct bh_error *err)
{
    struct bh_names *n = p->n;
    struct log *l = calloc(1, sizeof *l);
    char name[32];
    int rc = l ? log_reserve(n) : ENOMEM;
    log_name(f->number, name);
    if (rc == 0)
        rc = bh_disk_open_file(n->opt.disk, name, O_RDWR, 0600, &l->file);
    if (rc) {
        free(l);
        return bh_fail(err, rc, "%s/%s cannot be opened: %s", bh_disk_path(n->opt.disk), name,
                       strerror(rc));
    }
    l->number = f->number;
    l->end = f->text.len; /* not known to be synced */
    n->logs[n->log_count++] = l;
    return 0;
}

/* One that the database does not need. Of one that begins where no database of ours ends the
 * content is kept: somebody may have put an older names.db there. */
static int discard(struct replay *p, const struct found *f, bool keep, struct bh_error *err)
{
    const struct bh_disk *d = p->n->opt.disk;
    char name[32], kept[40];
    log_name(f->number, name);
    snprintf(kept, sizeof kept, "names.lost.%llu", (unsigned long long)f->number);
    int rc =
        keep ? bh_disk_rename(p->n->opt.disk, name, kept) : bh_disk_unlink(p->n->opt.disk, name);
    if (rc)
        return bh_fail(err, rc, "%s/%s cannot be removed: %s", bh_disk_path(d), name, strerror(rc));
    if (keep)
        bh_log(BH_LOG_WARNING, "%s/%s does not belong to this names.db; it is %s now",
               bh_disk_path(d), name, kept);
    return 0;
}

static int play_all(struct replay *p, size_t first, struct bh_error *err)
{
    int rc = 0;
    size_t last = first, *ends = calloc(p->count - first + 1, sizeof *ends);
    if (!ends)
        return bh_fail(err, ENOMEM, "out of memory while logs of names are read");
    for (size_t i = first; i < p->count && rc == 0; i++) {
        if (p->gap) {
            scan(p, &p->logs[i], LOG_HEADER);
            continue;
        }
        last = i;
        rc = play(p, &p->logs[i], &ends[i - first], err);
    }
    if (rc == 0 && p->covered)
        rc = damaged(p, p->where, err);
    for (size_t i = first; i < p->count && rc == 0; i++) {
        if (i > last)
            rc = discard(p, &p->logs[i], false, err);
        else {
            rc = cut(p, &p->logs[i], ends[i - first], err);
            if (rc == 0)
                rc = adopt(p, &p->logs[i], err);
        }
    }
    free(ends);
    return rc;
}

static int bad_header(struct replay *p, const struct found *f, struct bh_error *err)
{
    return bh_fail(err, EIO,
                   "%s/names.log.%llu is damaged: its header is not readable; restore the file, or "
                   "move the names.log files away to go on without what they have",
                   bh_disk_path(p->n->opt.disk), (unsigned long long)f->number);
}

static int choose(struct replay *p, struct bh_error *err)
{
    uint64_t state = p->n->saved.state;
    size_t first = p->count, kept = 0;
    int rc = 0;
    for (size_t i = 0; i < p->count && rc == 0; i++) {
        struct found *f = &p->logs[i];
        p->n->log_number = f->number;
        if (!f->is_log && f->text.len > LOG_HEADER)
            rc = bad_header(p, f, err);
        else if (!f->is_log) /* the machine lost power when it was made */
            rc = discard(p, f, false, err);
        else {
            p->logs[kept] = *f;
            if (first == p->count && f->header.state == state)
                first = kept;
            if (kept++ != i)
                *f = (struct found){0};
            continue;
        }
        if (rc == 0) {
            free(f->text.data);
            f->text.data = NULL;
        }
    }
    if (rc)
        return rc;
    if (first == p->count)
        first = kept;
    p->count = kept;
    for (size_t i = 0; i < first && rc == 0; i++)
        rc = discard(p, &p->logs[i], first == kept && p->logs[i].text.len > LOG_HEADER, err);
    return rc || first == kept ? rc : play_all(p, first, err);
}

/* Nobody holds what has no name after a start. */
static void remove_unnamed(struct bh_names *n)
{
    struct list *l = &n->changed[n->turn];
    for (struct object *o = l->head.next; o != &l->head; o = o->next)
        if (o->kind == KIND_INODE && !inode_of(o)->gone && inode_of(o)->i.nlink == 0) {
            inode_apply(n, inode_of(o), &inode_of(o)->i, true);
            n->inode_count--;
        }
}

int log_replay(struct bh_names *n, struct bh_error *err)
{
    struct replay p = {.n = n};
    int rc = find_logs(&p, err);
    n->seq = n->saved.applied;
    if (rc == 0)
        rc = choose(&p, err);
    if (rc == 0)
        remove_unnamed(n);
    n->loud = changed_count(n) > 0;
    for (size_t i = 0; i < p.count; i++)
        free(p.logs[i].text.data);
    free(p.logs);
    return rc;
}
