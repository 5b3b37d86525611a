/* Pins, which are heads in another place, and the checks for who has no pin. */
#include "repo/gc_private.h"

#include <errno.h>
#include <inttypes.h>
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

/* One on the list goes a grace after it came there at the earliest, so what is not on it, and there
 * after the list was read, stays for a grace. */
static int check_list(struct bh_bucket *b, const char *prefix, const struct gc_set *packs,
                      const struct bh_call *call, struct bh_error *err)
{
    struct gc_list list;
    int rc = gc_list_read(b, prefix, &list, call, err);
    for (size_t i = 0; rc == 0 && i < packs->room; i++)
        if (packs->slots[i].key.b && gc_set_get(&list.items, packs->slots[i].key))
            rc = bh_fail(err, EAGAIN, "pack %016" PRIx64 " was condemned by gc: flush again",
                         packs->slots[i].key.a);
    gc_set_free(&list.items);
    return rc;
}

static int gone(uint64_t id, struct bh_error *err)
{
    return bh_fail(err, EAGAIN, "pack %016" PRIx64 " was deleted by gc: flush again", id);
}

int bh_gc_check_packs(struct bh_bucket *b, const char *prefix, const uint64_t *ids, size_t count,
                      const struct bh_call *call, struct bh_error *err)
{
    GC_SET packs = {0};
    for (size_t i = 0; i < count; i++)
        if (gc_set_add(&packs, gc_pack_key(ids[i]), 0) == ENOMEM)
            return bh_fail(err, ENOMEM, "out of memory checking packs");
    int rc = check_list(b, prefix, &packs, call, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        char key[BH_KEY_MAX + 1], name[BH_PACK_NAME_MAX];
        struct bh_object_info info;
        bh_pack_name(ids[i], name);
        snprintf(key, sizeof key, "%spacks/%s", prefix, name);
        rc = bh_bucket_head(b, key, &info, call, err);
        if (rc == ENOENT)
            rc = gone(ids[i], err);
    }
    return rc;
}

struct presence {
    struct gc_set *packs;
    size_t skip, found;
};

static int note_present(void *arg, const char *key, bool is_prefix,
                        const struct bh_object_info *info, struct bh_error *err)
{
    struct presence *p = arg;
    uint64_t id;
    (void)info;
    (void)err;
    if (is_prefix || bh_pack_id_of_name(&id, key + p->skip) != 0)
        return 0;
    int64_t *value = gc_set_get(p->packs, gc_pack_key(id));
    if (value && *value >= 0) {
        *value = -1;
        p->found++;
    }
    return 0;
}

int bh_gc_check_root(struct bh_bucket *b, const char *prefix, struct bh_trees *t,
                     const struct bh_root *root, const struct bh_call *call, struct bh_error *err)
{
    struct gc_mark m = {.bucket = b, .prefix = prefix, .trees = t, .call = call};
    char packs[BH_KEY_MAX + 1];
    snprintf(packs, sizeof packs, "%spacks/", prefix);
    struct presence p = {.packs = &m.packs, .skip = strlen(packs)};
    const struct bh_list_request req = {.prefix = packs};
    int rc = gc_mark_root(&m, root, &m.last_db, "the base", err);
    if (rc == 0)
        rc = check_list(b, prefix, &m.packs, call, err);
    if (rc == 0)
        rc = bh_bucket_list(b, &req, note_present, &p, call, err);
    for (size_t i = 0; rc == 0 && p.found < m.packs.count && i < m.packs.room; i++)
        if (m.packs.slots[i].key.b && m.packs.slots[i].value >= 0)
            rc = gone(m.packs.slots[i].key.a, err);
    gc_mark_free(&m);
    return rc;
}
