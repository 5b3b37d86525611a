/* What the plain object in the bucket has of the newest snapshot: the difference of two trees. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repo/history_private.h"
#include "util/log.h"

static int note_block(void *arg, unsigned level, uint64_t number, const struct bh_ref *ref,
                      const struct bh_error *damage)
{
    struct bh_plain_known *k = arg;
    if (damage)
        return damage->code ? damage->code : EIO;
    if (level == 0 && number < k->blocks)
        k->changed[number / 8] |= (uint8_t)(1u << number % 8);
    return 0;
}

static int compare(struct bh_history *h, const struct bh_root *was, const struct bh_root *now,
                   struct bh_plain_known *k, const struct bh_call *call, struct bh_error *err)
{
    uint64_t size = was->size > now->size ? was->size : now->size;
    k->unit = h->block_size;
    k->blocks = (size + k->unit - 1) / k->unit;
    k->changed = calloc(1, k->blocks / 8 + 1);
    if (!k->changed)
        return bh_fail(err, ENOMEM, "out of memory");
    int rc = history_walk_differences(h, was, now, note_block, k, call, err);
    /* Counters in the header may differ from the snapshot's: see is_counters_only. */
    k->changed[0] |= 1;
    return rc;
}

/* The entry of the snapshot that KEY is of, as far as we know. */
static int find_entry(struct bh_history *h, struct bh_index_entry *e, const struct bh_call *call,
                      struct bh_error *err)
{
    const char *id = h->live->dir.state.plain_snapshot;
    *e = h->head.newest;
    return strcmp(id, e->id) ? bh_index_find(h->trees, &h->head.index, id, e, NULL, call, err) : 0;
}

/* KEY is still what we know, and what its metadata says it is. */
static bool is_as_known(struct bh_history *h, const struct bh_index_entry *e,
                        struct bh_object_info *info, const struct bh_call *call)
{
    struct bh_error why;
    if (bh_bucket_head(h->bucket, bh_plain_key(h->plain), info, call, &why) != 0)
        return false;
    const char *id = bh_meta_get(&info->meta, META_SNAPSHOT);
    return id && !strcmp(id, e->id) && !strcmp(info->etag, h->live->dir.state.base_etag) &&
           info->size == e->db.size;
}

bool history_know_plain(struct bh_history *h, const char *id, struct bh_plain_known *k,
                        const struct bh_call *call)
{
    const struct bh_head *head = &h->head;
    struct bh_index_entry e;
    struct bh_object_info info;
    struct bh_error why = {0};
    *k = (struct bh_plain_known){0};
    if (!h->live->dir.state.plain_snapshot[0] || !h->trees || strcmp(head->newest.id, id) ||
        !plain_may_assemble(h->plain, head->newest.db.size))
        return false;
    int rc = find_entry(h, &e, call, &why);
    if (rc == 0 && !is_as_known(h, &e, &info, call))
        return false;
    if (rc == 0)
        rc = compare(h, &e.db, &head->newest.db, k, call, &why);
    if (rc) { /* whatever it is, the whole can be sent */
        bh_log(BH_LOG_DEBUG, "%s cannot be compared with snapshot %s: %s", bh_plain_key(h->plain),
               id, why.text);
        free(k->changed);
        k->changed = NULL;
        return false;
    }
    memcpy(k->etag, info.etag, sizeof k->etag);
    k->size = info.size;
    return true;
}
