/* What gc keeps in the bucket; the first byte says which: the condemned list (l), that of blobs
 * (b), else the moved record of a pack. As it is, and with the checksum that belongs to it. */
#include "fuzz.h"

#include <errno.h>

#include "repo/gc_private.h"
#include "repo/moved.h"
#include "util/sha256.h"

#define ID UINT64_C(0x1234567890abcdef)

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    be_quiet();
    return 0;
}

static void try_list(const void *data, size_t len)
{
    BH_FREE char *text = calloc(1, len + 1);
    GC_SET items = {0};
    int rc = 0;
    must(text);
    memcpy(text, data, len);
    bool good = gc_list_decode(text, len, &items, &rc);
    must(rc == 0 || (!good && rc == EEXIST)); /* the same item twice */
    must(!good || items.count <= len);
}

static void try_blobs(const void *data, size_t len)
{
    BH_FREE char *text = calloc(1, len + 1);
    struct gc_blob_list list = {0};
    int rc = 0;
    must(text);
    memcpy(text, data, len);
    bool good = gc_blob_list_decode(text, len, &list, &rc);
    must(rc == 0);
    must(list.count <= len);
    for (size_t i = 0; good && i < list.count; i++)
        must(gc_blob_list_find(&list, list.items[i].hash) == &list.items[i]);
    gc_blob_list_free(&list);
}

static void try_moved(const void *data, size_t len)
{
    BH_FREE struct bh_moved_entry *entries = NULL;
    BH_STRBUF again = {0};
    struct bh_error err = {0};
    size_t count = 0;
    int rc = bh_moved_decode(data, len, ID, &entries, &count, &err);
    must_be_told(rc, &err);
    must(rc == 0 || rc == EIO);
    if (rc)
        return;
    for (size_t i = 0; i < count; i++)
        must(bh_moved_find(entries, count, entries[i].from) == &entries[i]);
    must(bh_moved_encode(&again, ID, entries, count) == 0);
    must(again.len == len && !memcmp(again.data, data, len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    BH_STRBUF sealed = {0};
    char hex[BH_SHA256_HEX];
    uint8_t hash[BH_HASH_SIZE];
    if (size == 0)
        return 0;
    void (*const text)(const void *data, size_t len) = *data == 'l'   ? try_list
                                                       : *data == 'b' ? try_blobs
                                                                      : NULL;
    data++;
    size--;
    if (text)
        text(data, size);
    else
        try_moved(data, size);
    bh_strbuf_add(&sealed, data, size);
    if (text) {
        must(bh_sha256_hex_of(data, size, hex) == 0);
        bh_strbuf_addf(&sealed, "checksum: %s\n", hex);
        text(sealed.data, sealed.len);
    } else {
        must(bh_content_hash(data, size, hash) == 0);
        bh_strbuf_add(&sealed, hash, sizeof hash);
        try_moved(sealed.data, sealed.len);
    }
    return 0;
}
