/* Content into the bucket: changed blocks, the nodes above them, the entry in the index, the
 * record. All but the head, which makes it count. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repo/gc.h"
#include "repo/history_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

/* References of the base that are looked up at once. */
#define LOOKUP 256u
/* Frozen images broken by large truncations before one is taken that makes the truncation wait. */
#define IMPATIENT_TRIES 3

static int content_error(int rc, struct bh_error *err)
{
    return bh_fail(err, rc, "the content cannot be read: %s",
                   rc == EAGAIN ? "it was truncated meanwhile" : strerror(rc));
}

/* One block, padded with zeros to block_size. */
static int read_block(const struct history_content *c, uint32_t block_size, uint64_t block,
                      unsigned char *buf, struct bh_error *err)
{
    uint64_t offset = block * block_size;
    size_t len = c->size - offset < block_size ? (size_t)(c->size - offset) : block_size;
    int rc = c->read(c->arg, buf, len, offset);
    memset(buf + len, 0, block_size - len);
    return rc ? content_error(rc, err) : 0;
}

/* A run of blocks that are close together: their references in the base are looked up at once. */
static int store_run(struct bh_history *h, const struct history_content *c, size_t from, size_t to,
                     unsigned char *buf, struct bh_tree_change *changes, size_t *changed,
                     struct bh_pack_writer *w, const char *what, const struct bh_call *call,
                     struct bh_error *err)
{
    struct bh_ref old[LOOKUP];
    uint64_t first = c->blocks[from];
    int rc = bh_tree_refs(h->trees, &c->base, first, (size_t)(c->blocks[to - 1] - first + 1), old,
                          what, call, err);
    for (size_t i = from; rc == 0 && i < to; i++) {
        struct bh_tree_change *change = &changes[*changed];
        const struct bh_ref *was = &old[c->blocks[i] - first];
        uint8_t hash[BH_HASH_SIZE];
        rc = bh_call_check(call, "storing the changes", err);
        if (rc == 0)
            rc = read_block(c, h->block_size, c->blocks[i], buf, err);
        if (rc == 0 && bh_content_hash(buf, h->block_size, hash) != 0)
            rc = bh_fail(err, ENOMEM, "out of memory while storing the changes");
        atomic_fetch_add(&bh_plain_progress(h->plain)->done, h->block_size);
        if (rc || (!bh_ref_is_zero(was) && !memcmp(hash, was->hash, sizeof hash)))
            continue;
        change->block = c->blocks[i];
        rc = bh_pack_add(w, BH_RECORD_BLOCK, 0, change->block, buf, h->block_size, &change->ref,
                         err);
        if (!(bh_ref_is_zero(was) && bh_ref_is_zero(&change->ref)))
            ++*changed;
    }
    return rc;
}

void history_take_counters(unsigned char *page, const unsigned char *from)
{
    static const struct {
        unsigned at, len;
    } counters[] = {{18, 2}, {24, 4}, {40, 4}, {92, 8}}; /* SQLite file format: "database header" */
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
        memcpy(page + counters[i].at, from + counters[i].at, counters[i].len);
}

/* A restore and a switch give page 1 counters that no client has seen: that alone is no change. */
static int is_counters_only(struct bh_history *h, const struct history_content *c, bool *only,
                            const char *what, const struct bh_call *call, struct bh_error *err)
{
    BH_FREE unsigned char *now = malloc(h->block_size), *was = malloc(h->block_size);
    *only = false;
    if (c->count != 1 || c->blocks[0] != 0 || c->size != c->base.size || c->size < HISTORY_HEADER)
        return 0;
    int rc = now && was ? 0 : bh_fail(err, ENOMEM, "out of memory while storing the changes");
    size_t len = c->size < h->block_size ? (size_t)c->size : h->block_size;
    if (rc == 0)
        rc = read_block(c, h->block_size, 0, now, err);
    if (rc == 0)
        rc = bh_tree_read(h->trees, &c->base, 0, was, len, what, call, err);
    if (rc == 0)
        history_take_counters(now, was);
    *only = rc == 0 && !memcmp(now, was, len);
    return rc;
}

static int read_page_size(const struct history_content *c, uint32_t *size, struct bh_error *err)
{
    unsigned char header[18] = {0};
    int rc = c->size >= sizeof header ? c->read(c->arg, header, sizeof header, 0) : 0;
    *size = (uint32_t)header[16] << 8 | header[17]; /* SQLite file format: "page size" */
    *size = c->size ? *size == 1 ? 65536 : *size : 0;
    return rc ? content_error(rc, err) : 0;
}

/* The changed blocks and the tree over them. *stored: how many. what: names the base in sentences.
 */
static int store_tree(struct bh_history *h, const struct history_content *c,
                      struct bh_pack_writer *w, struct bh_root *root, uint64_t *stored,
                      const char *what, const struct bh_call *call, struct bh_error *err)
{
    BH_FREE unsigned char *buf = malloc(h->block_size);
    BH_FREE struct bh_tree_change *changes = calloc(c->count + 1, sizeof *changes);
    size_t changed = 0;
    int rc = buf && changes ? 0 : bh_fail(err, ENOMEM, "out of memory while storing the changes");
    bool only_counters = false;
    if (rc == 0)
        rc = is_counters_only(h, c, &only_counters, what, call, err);
    size_t count = only_counters ? 0 : c->count;
    for (size_t from = 0, to; rc == 0 && from < count; from = to) {
        for (to = from + 1; to < count && c->blocks[to] - c->blocks[from] < LOOKUP;)
            to++;
        rc = store_run(h, c, from, to, buf, changes, &changed, w, what, call, err);
    }
    if (rc)
        return rc;
    *stored = changed;
    return bh_tree_update(h->trees, &c->base, c->size, changes, changed, w, root, what, call, err);
}

static int store_trees(struct bh_history *h, const struct history_content *c,
                       const struct history_content *names, struct bh_pack_writer *w,
                       struct bh_index_entry *e, const struct bh_call *call, struct bh_error *err)
{
    uint64_t stored;
    int rc = read_page_size(c, &e->page_size, err);
    if (rc == 0)
        rc = store_tree(h, c, w, &e->db, &e->changed, "the base of " BH_DB_NAME, call, err);
    if (rc || !names)
        return rc;
    e->names = names->base;
    if (names->count == 0 && names->size == names->base.size)
        return 0;
    bh_pack_writer_set_tree(w, BH_TREE_NAMES);
    return store_tree(h, names, w, &e->names, &stored, "the base of names.db", call, err);
}

static int put_record(struct bh_history *h, const struct bh_index_entry *e, const char *parent,
                      const struct bh_root *index, const struct bh_call *call, struct bh_error *err)
{
    struct bh_record r = {.entry = *e, .index = *index};
    BH_STRBUF text = {0};
    BH_FREE char *key = NULL;
    snprintf(r.parent, sizeof r.parent, "%s", parent);
    history_host(r.host);
    int rc = bh_record_encode(&r, &text);
    if (rc == 0 && asprintf(&key, "%ssnapshots/%s", h->prefix, e->id) < 0) {
        key = NULL;
        rc = ENOMEM;
    }
    if (rc)
        return bh_fail(err, rc, "the record of snapshot %s cannot be made: %s", e->id,
                       strerror(rc));
    struct bh_source src = {.size = text.len, .data = text.data};
    return bh_bucket_put(h->bucket, key, &src, NULL, NULL, NULL, call, err);
}

/* Packs that nothing refers to are gc's after the grace: what was uploaded long ago is looked at
 * again before the head names it. */
static int check_slow(struct bh_history *h, struct bh_pack_writer *w, int64_t begin,
                      const struct bh_call *call, struct bh_error *err)
{
    size_t count;
    const uint64_t *ids = bh_pack_writer_ids(w, &count);
    if (bh_boot_ms() - begin < h->cfg->retention.grace_ms / 4)
        return 0;
    int rc = bh_gc_check_packs(h->bucket, h->prefix, ids, count, call, err);
    return rc == EAGAIN ? bh_fail_prefix(err, rc, "nothing was flushed, flush again") : rc;
}

int history_store(struct bh_history *h, const struct history_content *c,
                  const struct history_content *names, const struct bh_head *on, const char *branch,
                  struct bh_index_entry *e, struct bh_root *index, uint64_t *sent, bool *unchanged,
                  const struct bh_call *call, struct bh_error *err)
{
    struct bh_pack_writer *w;
    int64_t begin = bh_boot_ms();
    *e = (struct bh_index_entry){0};
    plain_phase(h->plain, PHASE_UPLOAD, (c->count + (names ? names->count : 0)) * h->block_size);
    int rc = bh_pack_writer_new(&w, h->packs, BH_TREE_DB, call, err);
    if (rc)
        return rc;
    rc = store_trees(h, c, names, w, e, call, err);
    if (rc == 0 && unchanged && on->newest.id[0] && bh_root_is_same(&e->db, &on->newest.db) &&
        bh_root_is_same(&e->names, &on->newest.names)) {
        *unchanged = true;
        bh_pack_writer_free(w);
        return 0;
    }
    e->uploaded = bh_pack_writer_bytes(w);
    memcpy(e->branch, branch, strnlen(branch, sizeof e->branch - 1));
    history_new_id(h, on->newest.time_ms, e->id, &e->time_ms);
    bh_pack_writer_set_tree(w, BH_TREE_INDEX);
    if (rc == 0)
        rc = bh_index_append(h->trees, &on->index, e, w, index, call, err);
    if (rc == 0)
        rc = bh_pack_writer_finish(w, err);
    if (rc == 0)
        rc = check_slow(h, w, begin, call, err);
    *sent = bh_pack_writer_bytes(w);
    bh_pack_writer_free(w);
    return rc ? rc : put_record(h, e, on->newest.id, index, call, err);
}

/* --- the frozen live content --- */

static int read_frozen(void *arg, void *buf, size_t len, uint64_t offset)
{
    struct history_part *p = arg;
    int rc = bh_frozen_read(p->frozen, buf, len, offset);
    if (rc)
        *p->broken = rc;
    return rc;
}

static int list_changes(struct bh_history *h, struct history_part *p, bool all,
                        struct bh_error *err)
{
    if (all)
        p->base = (struct bh_root){0};
    int rc = p->frozen ? bh_frozen_changed(p->frozen, h->block_size, p->base.size, all, &p->blocks,
                                           &p->count)
                       : 0;
    return rc ? bh_fail(err, rc, "the changes cannot be listed: %s", strerror(rc)) : 0;
}

static void thaw(struct history_part *p, bool flushed)
{
    int rc = p->frozen ? bh_store_thaw(p->frozen, flushed) : 0;
    if (rc) /* harmless: what stays marked is compared by hash next time */
        bh_log(BH_LOG_WARNING, "the block map cannot be written: %s", strerror(rc));
    free(p->blocks);
}

void history_image_free(struct history_image *img, bool flushed)
{
    thaw(&img->db, flushed);
    thaw(&img->names, flushed);
}

/* Both databases at one moment. */
static int freeze_both(struct bh_history *h, struct history_image *img, bool patient,
                       const struct bh_call *call, struct bh_error *err)
{
    int rc = history_files_begin(h, call, err);
    if (rc)
        return rc;
    if (bh_file_size(bh_store_db(h->live->names)) > 0)
        rc = bh_live_names_freeze(h->live, &img->names.frozen, err);
    if (rc == 0)
        rc = bh_live_freeze_now(h->live, patient, &img->db.frozen, err);
    history_files_frozen(h);
    return rc ? rc : bh_live_freeze_settle(h->live, img->db.frozen, err);
}

static int freeze_once(struct bh_history *h, struct history_image *img, bool patient,
                       const struct bh_call *call, struct bh_error *err)
{
    const struct bh_state *st = &h->live->dir.state;
    const bool none = !h->head.newest.id[0];
    int rc = history_base_root(h, &img->db.base, err);
    if (rc == 0)
        rc = history_names_root(h, &img->names.base, err);
    if (rc == 0)
        rc = freeze_both(h, img, patient, call, err);
    if (rc == 0)
        rc = list_changes(h, &img->db, none || !st->base_root[0], err);
    if (rc == 0)
        rc = list_changes(h, &img->names, none || !st->names_root[0], err);
    if (rc) {
        img->broken = img->db.frozen ? bh_frozen_broken(img->db.frozen) : 0;
        history_image_free(img, false);
    }
    return rc;
}

static int anew(struct bh_history *h, struct history_part *p, struct bh_error *err)
{
    free(p->blocks);
    p->blocks = NULL;
    p->count = 0;
    return list_changes(h, p, true, err);
}

int history_image_anew(struct bh_history *h, struct history_image *img, struct bh_error *err)
{
    int rc = anew(h, &img->db, err);
    return rc ? rc : anew(h, &img->names, err);
}

int history_freeze(struct bh_history *h, struct history_image *img, unsigned *tries,
                   const struct bh_call *call, struct bh_error *err)
{
    for (;;) {
        *img = (struct history_image){0};
        img->db.broken = img->names.broken = &img->broken;
        plain_phase(h->plain, PHASE_FREEZE, 0);
        int rc = bh_call_check(call, "the flush", err);
        if (rc == 0)
            rc = freeze_once(h, img, (*tries)++ >= IMPATIENT_TRIES, call, err);
        if (rc == 0 || img->broken != EAGAIN)
            return rc;
    }
}

static struct history_content content_of(struct history_part *p)
{
    return (struct history_content){.read = read_frozen,
                                    .arg = p,
                                    .size = p->frozen ? bh_frozen_size(p->frozen) : p->base.size,
                                    .blocks = p->blocks,
                                    .count = p->count,
                                    .base = p->base};
}

int history_store_image(struct bh_history *h, struct history_image *img, const struct bh_head *on,
                        const char *branch, struct bh_index_entry *e, struct bh_root *index,
                        uint64_t *sent, bool *unchanged, const struct bh_call *call,
                        struct bh_error *err)
{
    struct history_content c = content_of(&img->db), names = content_of(&img->names);
    int rc = history_store(h, &c, &names, on, branch, e, index, sent, unchanged, call, err);
    if (rc || !h->cfg->snapshot.check)
        return rc;
    rc = history_check_stored(h, &c, &e->db, BH_DB_NAME, call, err);
    if (rc == 0 && img->names.frozen)
        rc = history_check_stored(h, &names, &e->names, BH_NAMES_NAME, call, err);
    return rc;
}
