/* The condemned list: a text of lines "NAME TIME", by which anybody can tell what is about to go,
 * and as the last one the checksum of those before it. */
#include "repo/gc_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

#define LIST_BYTES_MAX ((size_t)64 << 20)
#define FIRST          "bhfs: condemned\n"

static int list_key(char key[BH_KEY_MAX + 1], const char *prefix, struct bh_error *err)
{
    if (snprintf(key, BH_KEY_MAX + 1, "%sgc", prefix) > BH_KEY_MAX)
        return bh_fail(err, ENAMETOOLONG, "the key %.60s...gc is too long", prefix);
    return 0;
}

/* --- reading --- */

static bool take_line(char *line, struct gc_set *items, int *rc)
{
    char *space = strchr(line, ' '), *end;
    struct gc_key key;
    uint64_t pack;
    if (!space)
        return false;
    *space = '\0';
    int64_t when = strtoll(space + 1, &end, 10);
    if (*end || end == space + 1 || when < 0)
        return false;
    if (!strncmp(line, "packs/", 6) && bh_pack_id_of_name(&pack, line + 6) == 0)
        key = gc_pack_key(pack);
    else if (!strncmp(line, "moved/", 6) && bh_pack_id_of_name(&pack, line + 6) == 0)
        key = gc_moved_key(pack);
    else if (!strncmp(line, "snapshots/", 10) && bh_is_snapshot_id(line + 10))
        key = gc_record_key(line + 10);
    else
        return !strcmp(line, "run:");
    *rc = gc_set_add(items, key, when);
    return *rc == 0;
}

bool gc_list_decode(char *text, size_t len, struct gc_set *items, int *rc)
{
    char *rest, *line;
    if (!gc_text_open(text, len, FIRST, &rest, rc))
        return false;
    for (; (line = strsep(&rest, "\n"));)
        if (!take_line(line, items, rc))
            return false;
    return true;
}

int gc_list_read(struct bh_bucket *b, const char *prefix, struct gc_list *list,
                 const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    BH_FREE char *text = NULL;
    size_t len;
    struct bh_object_info info;
    *list = (struct gc_list){0};
    int rc = list_key(key, prefix, err);
    if (rc == 0)
        rc = bh_bucket_get_small(b, key, LIST_BYTES_MAX, &text, &len, &info, call, err);
    if (rc == ENOENT)
        return 0;
    if (rc)
        return rc;
    memcpy(list->etag, info.etag, sizeof list->etag);
    if (!gc_list_decode(text, len, &list->items, &rc)) {
        gc_set_free(&list->items);
        list->damaged = true;
    }
    return rc == ENOMEM ? bh_fail(err, rc, "out of memory reading %s", key) : 0;
}

/* --- writing --- */

static int encode(const struct gc_set *items, struct bh_strbuf *out)
{
    char name[GC_NAME_MAX];
    gc_text_begin(out, FIRST);
    for (size_t i = 0; i < items->room; i++) {
        if (!items->slots[i].key.b)
            continue;
        gc_key_name(&items->slots[i].key, name);
        bh_strbuf_addf(out, "%s %" PRId64 "\n", name, items->slots[i].value);
    }
    return gc_text_end(out);
}

int gc_list_write(struct bh_bucket *b, const char *prefix, const struct gc_set *items,
                  const char *etag, const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1], now[BH_ETAG_MAX] = "";
    BH_STRBUF text = {0};
    int rc = list_key(key, prefix, err);
    if (rc)
        return rc;
    if (encode(items, &text) != 0)
        return bh_fail(err, ENOMEM, "out of memory writing %s", key);
    snprintf(now, sizeof now, "%s", etag);
    return gc_text_put(b, key, &text, now, call, err);
}
