/* The condemned list: a text of lines "NAME TIME", by which anybody can tell what is about to go,
 * and as the last one the checksum of those before it. */
#include "repo/gc_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

#define FIRST "bhfs: condemned\n"

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
    char etag[BH_ETAG_MAX];
    BH_FREE char *text = NULL;
    size_t len;
    *list = (struct gc_list){0};
    int rc = gc_text_get(b, prefix, "gc", &text, &len, etag, call, err);
    if (rc || !text)
        return rc;
    if (!gc_list_decode(text, len, &list->items, &rc)) {
        gc_set_free(&list->items);
        list->damaged = true;
    }
    if (rc)
        return bh_fail(err, rc, "out of memory reading a list of gc");
    memcpy(list->etag, etag, sizeof etag);
    return 0;
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
                  char etag[BH_ETAG_MAX], const struct bh_call *call, struct bh_error *err)
{
    BH_STRBUF text = {0};
    if (encode(items, &text) != 0)
        return bh_fail(err, ENOMEM, "out of memory writing a list of gc");
    return gc_text_put(b, prefix, "gc", &text, etag, call, err);
}
