/* The list of condemned blobs, for who names blobs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repo/gc_private.h"

struct bh_gc_guard {
    struct gc_blob_list list;
};

int bh_gc_guard_look(struct bh_gc_guard **g, struct bh_bucket *b, const char *prefix,
                     const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info info = {0};
    char key[BH_KEY_MAX + 1];
    if (!*g && !(*g = calloc(1, sizeof **g)))
        return bh_fail(err, ENOMEM, "out of memory looking for condemned blobs");
    int rc = gc_list_key(prefix, GC_BLOB_LIST, key, err);
    if (rc == 0)
        rc = bh_bucket_head(b, key, &info, call, err);
    if (rc && rc != ENOENT)
        return rc;
    if (!strcmp(info.etag, (*g)->list.etag))
        return 0;
    gc_blob_list_free(&(*g)->list);
    return rc == ENOENT ? 0 : gc_blob_list_read(b, prefix, &(*g)->list, call, err);
}

bool bh_gc_guard_has(const struct bh_gc_guard *g, const uint8_t hash[BH_SHA256_LEN], int64_t now_ms,
                     int64_t *wait_ms)
{
    const struct gc_blob *blob = g ? gc_blob_list_find(&g->list, hash) : NULL;
    *wait_ms = 0;
    if (blob && blob->doomed_ms && blob->doomed_ms + BH_GC_DOOM_MS > now_ms)
        *wait_ms = blob->doomed_ms + BH_GC_DOOM_MS - now_ms;
    return blob != NULL;
}

bool bh_gc_guard_is_empty(const struct bh_gc_guard *g)
{
    return !g || g->list.count == 0;
}

void bh_gc_guard_free(struct bh_gc_guard *g)
{
    if (g)
        gc_blob_list_free(&g->list);
    free(g);
}
