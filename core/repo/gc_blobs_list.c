/* The list of condemned blobs: lines "SHA256HEX CONDEMNED DOOMED" (times in ms), by which anybody
 * can tell what is about to go, and as the last one the checksum of those before it. */
#include "repo/gc_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/array.h"
#include "util/cleanup.h"

#define FIRST "bhfs: condemned blobs\n"

void gc_blob_list_free(struct gc_blob_list *list)
{
    free(list->items);
    *list = (struct gc_blob_list){0};
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, BH_SHA256_LEN); /* the hash comes first */
}

struct gc_blob *gc_blob_list_find(const struct gc_blob_list *list,
                                  const uint8_t hash[BH_SHA256_LEN])
{
    return list->count ? bsearch(hash, list->items, list->count, sizeof *list->items, compare)
                       : NULL;
}

static bool take_time(char **rest, int64_t *ms)
{
    char *end;
    if (**rest < '0' || **rest > '9')
        return false;
    errno = 0;
    *ms = strtoll(*rest, &end, 10);
    *rest = end;
    return errno == 0;
}

static bool take_line(char *line, struct gc_blob_list *list, int *rc)
{
    struct gc_blob blob = {0};
    if (!strncmp(line, "run: ", 5))
        return true;
    if (strlen(line) < BH_SHA256_HEX || line[BH_SHA256_HEX - 1] != ' ')
        return false;
    char *rest = line + BH_SHA256_HEX;
    line[BH_SHA256_HEX - 1] = '\0';
    if (!bh_sha256_parse(line, blob.hash) || !take_time(&rest, &blob.condemned_ms) ||
        *rest++ != ' ' || !take_time(&rest, &blob.doomed_ms) || *rest)
        return false;
    if (list->count && memcmp(list->items[list->count - 1].hash, blob.hash, BH_SHA256_LEN) >= 0)
        return false;
    if (!bh_grow(list->items, list->room, list->count)) {
        *rc = ENOMEM;
        return false;
    }
    list->items[list->count++] = blob;
    return true;
}

bool gc_blob_list_decode(char *text, size_t len, struct gc_blob_list *list, int *rc)
{
    char *rest, *line;
    if (!gc_text_open(text, len, FIRST, &rest, rc))
        return false;
    for (; (line = strsep(&rest, "\n"));)
        if (!take_line(line, list, rc))
            return false;
    return true;
}

int gc_blob_list_read(struct bh_bucket *b, const char *prefix, struct gc_blob_list *list,
                      const struct bh_call *call, struct bh_error *err)
{
    char etag[BH_ETAG_MAX];
    BH_FREE char *text = NULL;
    size_t len;
    *list = (struct gc_blob_list){0};
    int rc = gc_text_get(b, prefix, GC_BLOB_LIST, &text, &len, etag, call, err);
    if (rc || !text)
        return rc;
    if (!gc_blob_list_decode(text, len, list, &rc)) {
        gc_blob_list_free(list);
        list->damaged = true;
    }
    if (rc)
        return bh_fail(err, rc, "out of memory reading a list of gc");
    memcpy(list->etag, etag, sizeof etag);
    return 0;
}

static int encode(const struct gc_blob_list *list, struct bh_strbuf *out)
{
    char hex[BH_SHA256_HEX];
    gc_text_begin(out, FIRST);
    for (size_t i = 0; i < list->count; i++) {
        const struct gc_blob *b = &list->items[i];
        bh_sha256_format(b->hash, hex);
        bh_strbuf_addf(out, "%s %" PRId64 " %" PRId64 "\n", hex, b->condemned_ms, b->doomed_ms);
    }
    return gc_text_end(out);
}

int gc_blob_list_write(struct bh_bucket *b, const char *prefix, struct gc_blob_list *list,
                       const struct bh_call *call, struct bh_error *err)
{
    BH_STRBUF text = {0};
    if (encode(list, &text) != 0)
        return bh_fail(err, ENOMEM, "out of memory writing a list of gc");
    return gc_text_put(b, prefix, GC_BLOB_LIST, &text, list->etag, call, err);
}
