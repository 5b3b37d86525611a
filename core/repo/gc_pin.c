/* Pins, which are heads in another place, and the checks for who has no pin. */
#include "repo/gc_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repo/head_private.h"
#include "util/cleanup.h"

static int pin_key(char key[BH_KEY_MAX + 1], const char *prefix, const char *id,
                   struct bh_error *err)
{
    if (!bh_is_branch_name(id))
        return bh_fail(err, EINVAL, "%.120s cannot be the name of a pin", id);
    if (snprintf(key, BH_KEY_MAX + 1, "%spins/%s", prefix, id) > BH_KEY_MAX)
        return bh_fail(err, ENAMETOOLONG, "the key %.60s...pins/%s is too long", prefix, id);
    return 0;
}

int bh_pin_put(struct bh_bucket *b, const char *prefix, const char *id, const struct bh_head *what,
               const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    BH_STRBUF text = {0};
    struct bh_head pin = *what;
    pin.deleted = false;
    int rc = pin_key(key, prefix, id, err);
    if (rc)
        return rc;
    rc = bh_head_encode(&pin, &text);
    if (rc)
        return bh_fail(err, rc, "the pin %s cannot be made: %s", key, strerror(rc));
    const struct bh_source src = {.size = text.len, .data = text.data};
    return bh_bucket_put(b, key, &src, NULL, NULL, NULL, call, err);
}

int bh_pin_delete(struct bh_bucket *b, const char *prefix, const char *id,
                  const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    int rc = pin_key(key, prefix, id, err);
    return rc ? rc : bh_bucket_delete(b, key, call, err);
}

int gc_pin_read(struct bh_bucket *b, const char *prefix, const char *id, struct bh_head *pin,
                const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    BH_FREE char *text = NULL;
    size_t len;
    int rc = pin_key(key, prefix, id, err);
    if (rc == 0)
        rc = bh_bucket_get_small(b, key, BH_HEAD_TEXT_MAX, &text, &len, NULL, call, err);
    return rc ? rc : bh_head_decode(pin, text, len, key, err);
}

/* --- checks --- */

static int condemned(const struct gc_key *key, struct bh_error *err)
{
    char name[GC_NAME_MAX];
    gc_key_name(key, name);
    return bh_fail(err, EAGAIN, "%s was condemned by gc meanwhile", name);
}

static int gone(const struct gc_key *key, struct bh_error *err)
{
    char name[GC_NAME_MAX];
    gc_key_name(key, name);
    return bh_fail(err, EAGAIN, "%s was deleted by gc meanwhile", name);
}

/* One on the list goes a grace after it came there at the earliest, so what is not on it, and there
 * after the list was read, stays for a grace. */
static int check_condemned(const struct gc_list *list, const struct gc_set *items,
                           struct bh_error *err)
{
    for (size_t i = 0; i < items->room; i++)
        if (items->slots[i].key.b && gc_set_get(&list->items, items->slots[i].key))
            return condemned(&items->slots[i].key, err);
    return 0;
}

int bh_gc_check_packs(struct bh_bucket *b, const char *prefix, const uint64_t *ids, size_t count,
                      const struct bh_call *call, struct bh_error *err)
{
    GC_SET packs = {0};
    struct gc_list list = {0};
    for (size_t i = 0; i < count; i++)
        if (gc_set_add(&packs, gc_pack_key(ids[i]), 0) == ENOMEM)
            return bh_fail(err, ENOMEM, "out of memory checking packs");
    int rc = gc_list_read(b, prefix, &list, call, err);
    if (rc == 0)
        rc = check_condemned(&list, &packs, err);
    gc_set_free(&list.items);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        char key[BH_KEY_MAX + 1], name[BH_PACK_NAME_MAX];
        const struct gc_key pack = gc_pack_key(ids[i]);
        struct bh_object_info info;
        bh_pack_name(ids[i], name);
        snprintf(key, sizeof key, "%spacks/%s", prefix, name);
        rc = bh_bucket_head(b, key, &info, call, err);
        if (rc == ENOENT)
            rc = gone(&pack, err);
    }
    return rc;
}

struct presence {
    struct gc_set *records; /* value -1: it is there */
    size_t skip, found;
};

static int note_present(void *arg, const char *key, bool is_prefix,
                        const struct bh_object_info *info, struct bh_error *err)
{
    struct presence *p = arg;
    const char *name = key + p->skip;
    (void)info;
    (void)err;
    if (is_prefix || !bh_is_snapshot_id(name))
        return 0;
    int64_t *value = gc_set_get(p->records, gc_record_key(name));
    if (value && *value >= 0) {
        *value = -1;
        p->found++;
    }
    return 0;
}

static int check_records(struct gc_mark *m, struct bh_error *err)
{
    char all[BH_KEY_MAX + 1];
    struct gc_set *records = &m->records;
    snprintf(all, sizeof all, "%ssnapshots/", m->prefix);
    struct presence p = {.records = records, .skip = strlen(all)};
    const struct bh_list_request req = {.prefix = all};
    int rc = records->count ? bh_bucket_list(m->bucket, &req, note_present, &p, m->call, err) : 0;
    for (size_t i = 0; rc == 0 && p.found < records->count && i < records->room; i++)
        if (records->slots[i].key.b && records->slots[i].value >= 0)
            rc = gone(&records->slots[i].key, err);
    return rc;
}

/* Of what is needed: a pack that was moved is not, but its moved record is. */
static int check_packs(const struct gc_mark *m, const struct gc_list *list, struct bh_error *err)
{
    for (size_t i = 0; i < m->live.count; i++) {
        const struct gc_pack *p = &m->live.packs[i];
        const struct gc_key pack = gc_pack_key(p->id), moved = gc_moved_key(p->id);
        if (p->needed && !p->present)
            return gone(&pack, err);
        if (p->needed && gc_set_get(&list->items, pack))
            return condemned(&pack, err);
        if (p->record_needed && gc_set_get(&list->items, moved))
            return condemned(&moved, err);
    }
    return 0;
}

/* What was marked. */
static int check_all(struct gc_mark *m, struct bh_error *err)
{
    struct gc_list list = {0};
    int rc = gc_list_read(m->bucket, m->prefix, &list, m->call, err);
    if (rc == 0)
        rc = gc_live_list(m, err);
    if (rc == 0)
        rc = gc_live_settle(m, err);
    if (rc == 0)
        rc = check_packs(m, &list, err);
    if (rc == 0)
        rc = check_condemned(&list, &m->records, err);
    if (rc == 0)
        rc = check_records(m, err);
    gc_set_free(&list.items);
    return rc;
}

int bh_gc_check_root(struct bh_bucket *b, const char *prefix, struct bh_trees *t,
                     const struct bh_root *root, const struct bh_call *call, struct bh_error *err)
{
    struct gc_mark m = {.bucket = b, .prefix = prefix, .trees = t, .call = call};
    int rc = gc_mark_root(&m, root, &m.last_db, "the base", err);
    if (rc == 0)
        rc = check_all(&m, err);
    gc_mark_free(&m);
    return rc;
}

int bh_gc_check_head(struct bh_bucket *b, const char *prefix, struct bh_trees *t,
                     const struct bh_head *head, const struct bh_call *call, struct bh_error *err)
{
    struct gc_mark m = {.bucket = b, .prefix = prefix, .trees = t, .call = call};
    int rc = gc_mark_head(&m, head, head->branch, err);
    if (rc == 0)
        rc = check_all(&m, err);
    gc_mark_free(&m);
    return rc;
}
