/* A plain object that is not what this mount wrote last: upstream's, a person's, or an older one of
 * ours. Somebody else's content is never overwritten unseen: it becomes a branch first. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repo/history_private.h"
#include "util/cleanup.h"
#include "util/io.h"
#include "util/log.h"

/* --- content of a file --- */

static int read_file(void *arg, void *buf, size_t len, uint64_t offset)
{
    return bh_pread_full(*(const int *)arg, buf, len, offset, NULL);
}

/* Stores a database file as the first snapshot of a new branch. */
static int store_file(struct bh_history *h, int fd, uint64_t size, const char *name,
                      const struct bh_call *call, struct bh_error *err)
{
    uint64_t count = (size + h->block_size - 1) / h->block_size;
    BH_FREE uint64_t *blocks = calloc(count + 1, sizeof *blocks);
    struct bh_head none = {0};
    struct bh_index_entry e;
    struct bh_root index;
    uint64_t sent;
    if (!blocks)
        return bh_fail(err, ENOMEM, "out of memory while storing a branch");
    for (uint64_t i = 0; i < count; i++)
        blocks[i] = i;
    struct history_content c = {
        .read = read_file, .arg = &fd, .size = size, .blocks = blocks, .count = count};
    int rc = history_store(h, &c, NULL, &none, name, &e, &index, &sent, NULL, call, err);
    return rc ? rc : history_new_branch(h, name, &none, &e, &index, call, err);
}

/* What plain_fetch has brought. */
static int open_incoming(struct bh_history *h, int *fd, struct bh_error *err)
{
    *fd = openat(bh_disk_dirfd(h->live->dir.disk), PLAIN_INCOMING, O_RDONLY | O_CLOEXEC);
    return *fd >= 0 ? 0
                    : bh_fail(err, errno, "%s/" PLAIN_INCOMING " cannot be opened: %s",
                              h->live->dir.path, strerror(errno));
}

static int store_incoming(struct bh_history *h, uint64_t size, const char *name,
                          const struct bh_call *call, struct bh_error *err)
{
    BH_FD int fd;
    int rc = open_incoming(h, &fd, err);
    if (rc == 0)
        rc = store_file(h, fd, size, name, call, err);
    unlinkat(bh_disk_dirfd(h->live->dir.disk), PLAIN_INCOMING, 0);
    return rc;
}

static int import_foreign(struct bh_history *h, uint64_t size, struct bh_load_report *report,
                          const struct bh_call *call, struct bh_error *err)
{
    char name[64];
    plain_time_name("upstream", name, sizeof name);
    int rc = store_incoming(h, size, name, call, err);
    if (rc)
        return bh_fail_prefix(err, rc,
                              "%s was written by another program and cannot be saved as "
                              "a branch",
                              bh_plain_key(h->plain));
    bh_log(BH_LOG_WARNING, "%s was written by another program: its content is branch %s",
           bh_plain_key(h->plain), name);
    if (report)
        plain_say(report, "%.200s was written by another program: its content is branch %s",
                  bh_plain_key(h->plain), name);
    return 0;
}

int history_adopt_branch(struct bh_history *h, const char *name, char etag[BH_ETAG_MAX],
                         const struct bh_call *call, struct bh_error *err)
{
    struct bh_base base = {0};
    BH_FREE char *key = bh_config_branch_key(h->cfg, name);
    int rc =
        key ? plain_fetch(h->plain, key, &base, call, err) : bh_fail(err, ENOMEM, "out of memory");
    if (rc)
        return rc;
    rc = store_incoming(h, base.size, name, call, err);
    snprintf(etag, BH_ETAG_MAX, "%s", base.etag);
    return rc;
}

/* Whether it is a snapshot of this branch's history, or an upload of ours that arrived late. */
static int is_known(struct bh_history *h, const char *id, bool *known, const struct bh_call *call,
                    struct bh_error *err)
{
    const struct bh_state *st = &h->live->dir.state;
    struct bh_index_entry e;
    *known = id && (!strcmp(id, h->head.newest.id) || !strcmp(id, st->plain_snapshot) ||
                    !strcmp(id, st->pending_snapshot) || plain_is_older_pending(st, id));
    if (!id || *known || !bh_is_snapshot_id(id))
        return 0;
    int rc = bh_index_find(h->trees, &h->head.index, id, &e, NULL, call, err);
    *known = rc == 0;
    return rc == ENOENT ? 0 : rc;
}

static int note_plain(struct bh_history *h, const struct bh_object_info *info, const char *id,
                      struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    memcpy(st->base_etag, info ? info->etag : "", info ? sizeof st->base_etag : 1);
    snprintf(st->plain_snapshot, sizeof st->plain_snapshot, "%.*s", BH_SNAPSHOT_ID_MAX - 1,
             id ? id : "");
    st->plain_also[0] = '\0';
    return bh_statedir_save(&h->live->dir, err);
}

/* Whether a plain file has the content of the newest snapshot, block by block. */
static bool is_newest(struct bh_history *h, int fd, uint64_t size, const struct bh_call *call)
{
    const struct history_content c = {.read = read_file, .arg = &fd, .size = size};
    uint64_t differs;
    return history_compare(h, &h->head.newest.db, &c, &differs, "the newest snapshot", call,
                           NULL) == 0;
}

/* Flushes of nothing but names leave KEY as it is. */
static bool has_newest_database(struct bh_history *h, const char *id, const struct bh_call *call)
{
    const struct bh_index_entry *newest = &h->head.newest;
    struct bh_index_entry e;
    return !strcmp(id, newest->id) ||
           (bh_is_snapshot_id(id) &&
            bh_index_find(h->trees, &h->head.index, id, &e, NULL, call, NULL) == 0 &&
            bh_root_is_same(&e.db, &newest->db));
}

/* Upstream went on from our snapshot, which it kept as KEY.prev, and nothing of ours is newer: its
 * content is the next state of this branch. Not every program keeps metadata when it copies. */
static bool continues_ours(struct bh_history *h, const struct bh_call *call)
{
    struct bh_object_info prev;
    struct bh_base base = {0};
    const char *key = h->plain->key_prev;
    if (bh_history_is_dirty(h) || !h->head.newest.id[0] ||
        bh_bucket_head(h->bucket, key, &prev, call, NULL) != 0)
        return false;
    const char *id = bh_meta_get(&prev.meta, META_SNAPSHOT);
    if (id)
        return has_newest_database(h, id, call);
    if (prev.size != h->head.newest.db.size || plain_fetch(h->plain, key, &base, call, NULL) != 0)
        return false;
    BH_FD int fd;
    return open_incoming(h, &fd, NULL) == 0 && is_newest(h, fd, base.size, call);
}

/* It cannot be read, so it cannot be saved: it stays as it is, beside the history. */
static int leave_damaged(struct bh_history *h, struct bh_load_report *report,
                         const struct bh_error *why, struct bh_error *err)
{
    if (!report)
        return bh_fail(err, EIO,
                       "%s was written by another program, and is not overwritten, as it cannot be "
                       "saved as a branch first (%s): repair or delete it",
                       bh_plain_key(h->plain), why->text);
    bh_log(BH_LOG_WARNING, "%s; this mount goes on from the history", why->text);
    return 0;
}

int history_meet_plain(struct bh_history *h, struct bh_load_report *report,
                       const struct bh_call *call, struct bh_error *err)
{
    struct bh_state *st = &h->live->dir.state;
    struct bh_object_info info;
    struct bh_base base = {0};
    bool known, ours = false;
    int rc = bh_bucket_head(h->bucket, bh_plain_key(h->plain), &info, call, err);
    if (rc == ENOENT) /* it is written anew with a flush */
        return st->base_etag[0] ? note_plain(h, NULL, NULL, err) : 0;
    if (rc)
        return rc;
    if (st->base_etag[0] && !strcmp(st->base_etag, info.etag))
        return 0;
    const char *id = bh_meta_get(&info.meta, META_SNAPSHOT);
    rc = is_known(h, id, &known, call, err);
    if (rc || known)
        return rc ? rc : note_plain(h, &info, id, err);
    if (report)
        ours = continues_ours(h, call);
    rc = plain_fetch(h->plain, bh_plain_key(h->plain), &base, call, err);
    if (rc == EIO) {
        struct bh_error why = *err;
        return leave_damaged(h, report, &why, err);
    }
    if (rc)
        return rc;
    if (ours) {
        struct bh_base change = {.is_base = false};
        rc = bh_live_replace(h->live, PLAIN_INCOMING, &change, err);
        bh_log(BH_LOG_INFO,
               "another program has gone on from our newest snapshot: so does this mount");
    } else {
        rc = import_foreign(h, base.size, report, call, err);
    }
    memcpy(info.etag, base.etag, sizeof info.etag); /* of what was fetched */
    return rc ? rc : note_plain(h, &info, NULL, err);
}
