/* Entries of the history index: as they are, and with the checksum that belongs to them. What
 * decodes has one form: it encodes to the bytes it came from. */
#include "fuzz.h"

#include <errno.h>

#include "repo/index.h"

#define AT_CHECKSUM (BH_INDEX_ENTRY_SIZE - BH_HASH_SIZE)

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    be_quiet();
    return 0;
}

static int try(const uint8_t entry[BH_INDEX_ENTRY_SIZE])
{
    struct bh_index_entry e;
    struct bh_error err = {0};
    uint8_t again[BH_INDEX_ENTRY_SIZE];
    int rc = bh_index_entry_decode(&e, entry, &err);
    must_be_told(rc, &err);
    must(rc == 0 || rc == EIO);
    if (rc == 0) {
        must(bh_index_entry_encode(&e, again) == 0);
        must(!memcmp(again, entry, sizeof again));
        must(memchr(e.id, 0, sizeof e.id) && memchr(e.branch, 0, sizeof e.branch));
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t entry[BH_INDEX_ENTRY_SIZE] = {0};
    memcpy(entry, data, size < sizeof entry ? size : sizeof entry);
    try(entry);
    must(bh_content_hash(entry, AT_CHECKSUM, entry + AT_CHECKSUM) == 0);
    try(entry);
    return 0;
}
