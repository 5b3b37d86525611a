/* The text objects of the history layer. The first byte says which: head, record, format or label;
 * the rest is given to its decoder as it is, and with the checksum that belongs to it. What is
 * accepted is the same after it was written and read again. */
#include "fuzz.h"

#include <errno.h>

#include "repo/head_private.h"
#include "util/sha256.h"

#define WHAT "the object"

/* Reads the text and, if it is accepted, writes it to out. */
static bool rewrite(char kind, const char *text, size_t len, struct bh_strbuf *out)
{
    struct bh_head head;
    struct bh_record record;
    uint32_t block_size;
    char name[BH_BRANCH_MAX], id[BH_SNAPSHOT_ID_MAX];
    struct bh_error err = {0};
    int rc, written = 0;
    switch (kind) {
    case 'h':
        rc = bh_head_decode(&head, text, len, WHAT, &err);
        written = rc ? 0 : bh_head_encode(&head, out);
        break;
    case 'r':
        rc = bh_record_decode(&record, text, len, WHAT, &err);
        written = rc ? 0 : bh_record_encode(&record, out);
        break;
    case 'f':
        rc = bh_format_decode(&block_size, text, len, WHAT, &err);
        written = rc ? 0 : bh_format_encode(block_size, out);
        break;
    default:
        rc = bh_label_decode(name, id, text, len, WHAT, &err);
        written = rc ? 0 : bh_label_encode(name, id, out);
    }
    must_be_told(rc, &err);
    must(rc == 0 || rc == EIO || (kind == 'f' && rc == ENOTSUP));
    must(rc == 0 || strstr(err.text, WHAT));
    must(written == 0 && !out->failed);
    return rc == 0;
}

static void try(char kind, const char *text, size_t len)
{
    BH_STRBUF first = {0};
    BH_STRBUF second = {0};
    if (!rewrite(kind, text, len, &first))
        return;
    must(rewrite(kind, first.data, first.len, &second));
    must(first.len == second.len && !memcmp(first.data, second.data, first.len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char hex[BH_SHA256_HEX];
    BH_STRBUF sealed = {0};
    if (size == 0)
        return 0;
    BH_FREE char *body = string_of(data + 1, size - 1);
    BH_FREE char *exact = malloc(size); /* without the NUL, for ASan's sake */
    must(exact && bh_sha256_hex_of(body, size - 1, hex) == 0);
    memcpy(exact, body, size - 1);
    try((char)data[0], exact, size - 1);
    bh_strbuf_add(&sealed, body, size - 1);
    bh_strbuf_addf(&sealed, "checksum: %s\n", hex);
    try((char)data[0], sealed.data, sealed.len);
    return 0;
}
