/* References, names, headers, footers, trailers and records of packs; the first byte says which.
 * What decodes has one form: it encodes to the bytes it came from. */
#include "fuzz.h"

#include "repo/pack_private.h"
#include "util/sha256.h"

static struct bh_error err;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    be_quiet();
    return 0;
}

static uint64_t number(const uint8_t *data, size_t bytes)
{
    uint64_t v = 0;
    while (bytes-- > 0)
        v = v << 8 | data[bytes];
    return v;
}

static void check_ref(const struct bh_ref *r, const uint8_t *from)
{
    uint8_t out[BH_REF_SIZE];
    struct bh_ref again;
    char hex[2 * BH_REF_SIZE + 1];
    bh_ref_encode(r, out);
    must(!from || memcmp(out, from, sizeof out) == 0);
    bh_ref_hex(r, hex);
    must(bh_ref_from_hex(&again, hex, "x", &err) == 0);
    bh_ref_encode(&again, out);
    must(!from || memcmp(out, from, sizeof out) == 0);
    must(bh_ref_is_zero(r) || (uint64_t)r->offset + r->stored <= BH_PACK_MAX);
}

static void reference(const uint8_t *data, size_t size)
{
    struct bh_ref r;
    if (size != BH_REF_SIZE)
        return;
    int rc = bh_ref_decode(&r, data, "x", &err);
    must_be_told(rc, &err);
    must(rc == 0 || bh_ref_is_zero(&r));
    if (!rc)
        check_ref(&r, data);
}

static void hex_reference(const uint8_t *data, size_t size)
{
    BH_FREE char *text = string_of(data, size);
    char hex[2 * BH_REF_SIZE + 1];
    struct bh_ref r;
    int rc = bh_ref_from_hex(&r, text, "x", &err);
    must_be_told(rc, &err);
    if (rc)
        return;
    bh_ref_hex(&r, hex);
    must(strcmp(hex, text) == 0);
    check_ref(&r, NULL);
}

static void name(const uint8_t *data, size_t size)
{
    BH_FREE char *text = string_of(data, size);
    char again[BH_PACK_NAME_MAX];
    uint64_t id;
    if (bh_pack_id_of_name(&id, text))
        return;
    bh_pack_name(id, again);
    must(id != 0 && strcmp(again, text) == 0);
}

static void header(const uint8_t *data, size_t size)
{
    uint8_t out[BH_PACK_HEADER_SIZE];
    uint64_t id;
    if (size != sizeof out)
        return;
    int rc = bh_pack_header_decode(&id, data, &err);
    must_be_told(rc, &err);
    if (rc)
        return;
    bh_pack_header_encode(id, out);
    must(memcmp(out, data, sizeof out) == 0);
}

static void footer(const uint8_t *data, size_t size)
{
    uint64_t at;
    size_t count;
    if (size != 4 + BH_PACK_FOOTER_SIZE)
        return;
    uint64_t all = number(data, 4);
    int rc = bh_pack_footer_decode(data + 4, 1, all, &at, &count, &err);
    must_be_told(rc, &err);
    must(rc || (at > BH_PACK_HEADER_SIZE && count > 0 && count <= BH_PACK_MAX &&
                at + count * BH_PACK_ENTRY_SIZE + BH_PACK_FOOTER_SIZE == all));
}

/* Else a fuzzer never gets beyond the checksum. */
static void set_checksum(uint8_t *trailer, size_t len, uint64_t id)
{
    uint8_t head[BH_PACK_HEADER_SIZE], *at = trailer + len - BH_PACK_FOOTER_SIZE + 8;
    char hex[BH_SHA256_HEX];
    struct bh_sha256 *h = bh_sha256_new();
    must(h);
    bh_pack_header_encode(id, head);
    bh_sha256_update(h, head, sizeof head);
    bh_sha256_update(h, trailer, len - BH_PACK_FOOTER_SIZE + 8);
    bh_sha256_hex(h, hex);
    bh_sha256_free(h);
    for (unsigned i = 0; i < BH_SHA256_LEN; i++) {
        unsigned byte;
        must(sscanf(hex + 2 * i, "%2x", &byte) == 1);
        at[i] = (uint8_t)byte;
    }
}

static void trailer(const uint8_t *data, size_t size)
{
    struct bh_pack_entry *entries = NULL;
    size_t count = 0;
    BH_STRBUF out = {0};
    if (size < 12)
        return;
    uint64_t id = number(data, 8), all = number(data + 8, 4);
    size_t len = size - 12;
    BH_FREE uint8_t *bytes = (uint8_t *)string_of(data + 12, len);
    if (len >= BH_PACK_FOOTER_SIZE)
        set_checksum(bytes, len, id);
    int rc = bh_pack_trailer_decode(bytes, len, id, all, &entries, &count, &err);
    must_be_told(rc, &err);
    must((rc == 0) == (entries != NULL));
    if (rc)
        return;
    const struct bh_ref *last = &entries[count - 1].ref;
    must(bh_pack_trailer_encode(&out, id, last->offset + last->stored, entries, count) == 0);
    must(out.len == len && memcmp(out.data, bytes, len) == 0);
    free(entries);
}

/* With the right hash, where the bytes have a content at all: it is what zstd makes of them. */
static void record(const uint8_t *data, size_t size, enum bh_encoding encoding)
{
    static ZSTD_DCtx *context;
    static uint8_t expected[BH_BLOCK_MAX];
    if (size < 5)
        return;
    size_t raw = number(data, 4), stored = size - 4, made = 0;
    struct bh_ref r = {.pack = 1, .offset = 16, .stored = (uint32_t)stored, .encoding = encoding};
    if (raw > BH_BLOCK_MAX)
        return;
    if (!context)
        context = ZSTD_createDCtx();
    BH_FREE char *in = string_of(data + 4, stored);
    BH_FREE uint8_t *out = malloc(raw + 1);
    must(context && out);
    if (encoding == BH_ENC_RAW)
        memcpy(expected, in, made = stored);
    else
        made = ZSTD_decompress(expected, sizeof expected, in, stored);
    int rc = bh_pack_record_decode(context, &r, in, raw, out, "x", &err);
    must_be_told(rc, &err);
    must(rc != 0); /* the hash is zeros */
    if (ZSTD_isError(made))
        made = 0;
    must(bh_content_hash(expected, made, r.hash) == 0);
    rc = bh_pack_record_decode(context, &r, in, raw, out, "x", &err);
    must_be_told(rc, &err);
    must(rc != 0 || (made == raw && memcmp(out, expected, raw) == 0));
    must(encoding != BH_ENC_RAW || (rc == 0) == (raw == stored));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    uint8_t kind = *data++;
    size--;
    switch (kind) {
    case 'r':
        reference(data, size);
        break;
    case 'x':
        hex_reference(data, size);
        break;
    case 'n':
        name(data, size);
        break;
    case 'h':
        header(data, size);
        break;
    case 'f':
        footer(data, size);
        break;
    case 't':
        trailer(data, size);
        break;
    case 'z':
        record(data, size, BH_ENC_ZSTD);
        break;
    case 'w':
        record(data, size, BH_ENC_RAW);
        break;
    }
    return 0;
}
