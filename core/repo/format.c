#include "repo/format.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"
#include "util/cleanup.h"

#define STORED_BITS  28
#define HEADER_MAGIC "bhpack1\n" /* the digit: BH_FORMAT_VERSION */
#define FOOTER_MAGIC "bhtail1\n"
#define MAGIC_SIZE   8
#define SHA256_SIZE  32

/* Where things are in a footer. */
#define FOOTER_COUNT_AT 4
#define FOOTER_HASH_AT  8
#define FOOTER_MAGIC_AT 40

static const char digits[] = "0123456789abcdef";

/* Lower-case only: one value has one form. */
static bool hex_byte(const char *hex, uint8_t *out)
{
    const char *high = hex[0] ? strchr(digits, hex[0]) : NULL;
    const char *low = high && hex[1] ? strchr(digits, hex[1]) : NULL;
    if (!low)
        return false;
    *out = (uint8_t)((high - digits) << 4 | (low - digits));
    return true;
}

/* --- hashes --- */

static EVP_MD *sha256; /* fetched once: a fetch costs as much as the hash of a small block */

static void fetch_sha256(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

struct piece {
    const void *data;
    size_t len;
};

static int hash_pieces(const struct piece *pieces, size_t count, uint8_t hash[SHA256_SIZE])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fetch_sha256);
    EVP_MD_CTX *ctx = sha256 ? EVP_MD_CTX_new() : NULL;
    bool ok = ctx && EVP_DigestInit_ex(ctx, sha256, NULL) == 1;
    for (size_t i = 0; ok && i < count; i++)
        ok = EVP_DigestUpdate(ctx, pieces[i].data, pieces[i].len) == 1;
    ok = ok && EVP_DigestFinal_ex(ctx, hash, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    return ok ? 0 : ENOMEM;
}

int bh_content_hash(const void *data, size_t len, uint8_t hash[BH_HASH_SIZE])
{
    uint8_t whole[SHA256_SIZE];
    int rc = hash_pieces(&(struct piece){data, len}, 1, whole);
    if (!rc)
        memcpy(hash, whole, BH_HASH_SIZE);
    return rc;
}

/* --- references --- */

bool bh_ref_is_zero(const struct bh_ref *r)
{
    return r->pack == 0;
}

bool bh_ref_same_content(const struct bh_ref *a, const struct bh_ref *b)
{
    return memcmp(a->hash, b->hash, BH_HASH_SIZE) == 0;
}

/* What is wrong with a reference that is not zero, or NULL. */
static const char *ref_fault(const struct bh_ref *r)
{
    if (r->pack == 0)
        return "it has no pack";
    if (r->encoding != BH_ENC_RAW && r->encoding != BH_ENC_ZSTD)
        return "its encoding is unknown";
    if (r->stored == 0 || r->stored > BH_BLOCK_MAX)
        return "its length cannot be";
    if (r->offset < BH_PACK_HEADER_SIZE || r->offset > BH_PACK_RECORDS_MAX - r->stored)
        return "its offset cannot be";
    return NULL;
}

int bh_ref_check(const struct bh_ref *r, size_t raw, const char *what, struct bh_error *err)
{
    const char *fault = bh_ref_is_zero(r) ? NULL : ref_fault(r);
    if (!fault && !bh_ref_is_zero(r) &&
        (r->encoding == BH_ENC_RAW ? r->stored != raw : r->stored >= raw))
        fault = "its length does not fit the content's";
    return fault ? bh_fail(err, EIO, "%s: a reference is damaged: %s", what, fault) : 0;
}

void bh_ref_encode(const struct bh_ref *r, uint8_t out[BH_REF_SIZE])
{
    if (bh_ref_is_zero(r)) {
        memset(out, 0, BH_REF_SIZE);
        return;
    }
    bh_put_le(out, r->pack, 8);
    bh_put_le(out + 8, r->offset, 4);
    bh_put_le(out + 12, r->stored | (uint32_t)r->encoding << STORED_BITS, 4);
    memcpy(out + 16, r->hash, BH_HASH_SIZE);
}

int bh_ref_decode(struct bh_ref *r, const uint8_t in[BH_REF_SIZE], const char *what,
                  struct bh_error *err)
{
    static const uint8_t zero[BH_REF_SIZE];
    uint32_t length = (uint32_t)bh_get_le(in + 12, 4);
    *r = (struct bh_ref){0};
    if (memcmp(in, zero, BH_REF_SIZE) == 0)
        return 0;
    struct bh_ref got = {.pack = bh_get_le(in, 8),
                         .offset = (uint32_t)bh_get_le(in + 8, 4),
                         .stored = length & ((1u << STORED_BITS) - 1),
                         .encoding = (enum bh_encoding)(length >> STORED_BITS)};
    memcpy(got.hash, in + 16, BH_HASH_SIZE);
    const char *fault = ref_fault(&got);
    if (fault)
        return bh_fail(err, EIO, "%s: a reference is damaged: %s", what, fault);
    *r = got;
    return 0;
}

void bh_ref_hex(const struct bh_ref *r, char hex[2 * BH_REF_SIZE + 1])
{
    uint8_t bytes[BH_REF_SIZE];
    bh_ref_encode(r, bytes);
    for (unsigned i = 0; i < BH_REF_SIZE; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[2 * BH_REF_SIZE] = '\0';
}

int bh_ref_from_hex(struct bh_ref *r, const char *hex, const char *what, struct bh_error *err)
{
    uint8_t bytes[BH_REF_SIZE];
    *r = (struct bh_ref){0};
    for (unsigned i = 0; i < BH_REF_SIZE; i++)
        if (!hex_byte(hex + 2 * i, &bytes[i])) /* which sees the end, too */
            return bh_fail(err, EIO, "%s: a reference is not %u hexadecimal digits", what,
                           2 * BH_REF_SIZE);
    if (hex[2 * BH_REF_SIZE])
        return bh_fail(err, EIO, "%s: a reference has more than %u digits", what, 2 * BH_REF_SIZE);
    return bh_ref_decode(r, bytes, what, err);
}

/* --- names --- */

void bh_pack_name(uint64_t id, char name[BH_PACK_NAME_MAX])
{
    snprintf(name, BH_PACK_NAME_MAX, "%016llx", (unsigned long long)id);
}

int bh_pack_id_of_name(uint64_t *id, const char *name)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++) {
        uint8_t byte;
        if (!hex_byte(name + 2 * i, &byte))
            return EINVAL;
        v = v << 8 | byte;
    }
    if (name[16] || v == 0)
        return EINVAL;
    *id = v;
    return 0;
}

/* --- packs --- */

/* A sentence about pack `id`. */
static int pack_fail(struct bh_error *err, uint64_t id, const char *cause)
{
    char name[BH_PACK_NAME_MAX];
    bh_pack_name(id, name);
    return bh_fail(err, EIO, "pack %s is damaged: %s", name, cause);
}

/* 0: ours. Another digit in the place of the version is a newer bhfs. */
static int check_magic(const uint8_t *in, const char *magic, const char *what, struct bh_error *err)
{
    if (memcmp(in, magic, MAGIC_SIZE) == 0)
        return 0;
    if (memcmp(in, magic, MAGIC_SIZE - 2) == 0 && in[MAGIC_SIZE - 2] > magic[MAGIC_SIZE - 2] &&
        in[MAGIC_SIZE - 2] <= '9' && in[MAGIC_SIZE - 1] == '\n')
        return bh_fail(err, EIO, "%s has format version %c, this bhfs knows %d: update bhfs", what,
                       in[MAGIC_SIZE - 2], BH_FORMAT_VERSION);
    return bh_fail(err, EIO, "%s is damaged, or no pack", what);
}

void bh_pack_header_encode(uint64_t id, uint8_t out[BH_PACK_HEADER_SIZE])
{
    memcpy(out, HEADER_MAGIC, MAGIC_SIZE);
    bh_put_le(out + MAGIC_SIZE, id, 8);
}

int bh_pack_header_decode(uint64_t *id, const uint8_t in[BH_PACK_HEADER_SIZE], struct bh_error *err)
{
    int rc = check_magic(in, HEADER_MAGIC, "the head of a pack", err);
    if (rc)
        return rc;
    *id = bh_get_le(in + MAGIC_SIZE, 8);
    return *id ? 0 : bh_fail(err, EIO, "the head of a pack is damaged: its id is 0");
}

bool bh_record_shape_ok(enum bh_record_kind kind, enum bh_tree_kind tree, unsigned level,
                        uint64_t number, size_t raw)
{
    const uint64_t numbers = (uint64_t)1 << (8 * BH_DEPTH_MAX);
    if (tree < BH_TREE_DB || tree > BH_TREE_INDEX || level > BH_DEPTH_MAX || number >= numbers)
        return false;
    if (kind == BH_RECORD_BLOCK)
        return level == 0 && raw >= BH_BLOCK_MIN && raw <= BH_BLOCK_MAX && (raw & (raw - 1)) == 0;
    uint64_t below = (uint64_t)1 << (8 * level); /* blocks below the node */
    return kind == BH_RECORD_NODE && level > 0 && raw == BH_NODE_SIZE && number % below == 0;
}

/* What is wrong with an entry that should begin at `at`, or NULL. */
static const char *entry_fault(const struct bh_pack_entry *e, uint64_t id, uint32_t at)
{
    if (!bh_record_shape_ok(e->kind, e->tree, e->level, e->number, e->raw))
        return "an entry of its trailer is none";
    if (bh_ref_is_zero(&e->ref) || bh_ref_check(&e->ref, e->raw, "", NULL))
        return "an entry of its trailer refers to nothing";
    if (e->ref.pack != id)
        return "an entry of its trailer belongs to another pack";
    return e->ref.offset == at ? NULL : "its records overlap or leave gaps";
}

static void entry_encode(const struct bh_pack_entry *e, uint8_t out[BH_PACK_ENTRY_SIZE])
{
    out[0] = (uint8_t)e->kind;
    out[1] = (uint8_t)e->tree;
    out[2] = (uint8_t)e->level;
    out[3] = 0;
    bh_put_le(out + 4, e->raw, 4);
    bh_put_le(out + 8, e->number, 8);
    bh_ref_encode(&e->ref, out + 16);
}

static const char *entry_decode(struct bh_pack_entry *e, const uint8_t in[BH_PACK_ENTRY_SIZE],
                                uint64_t id, uint32_t at)
{
    *e = (struct bh_pack_entry){.kind = (enum bh_record_kind)in[0],
                                .tree = (enum bh_tree_kind)in[1],
                                .level = in[2],
                                .raw = (uint32_t)bh_get_le(in + 4, 4),
                                .number = bh_get_le(in + 8, 8)};
    if (in[3] || bh_ref_decode(&e->ref, in + 16, "", NULL))
        return "an entry of its trailer is none";
    return entry_fault(e, id, at);
}

/* Of the header as it must be, the entries, and what the footer says before the hash: so the hash
 * is another one for every id. */
static int trailer_hash(uint64_t id, const uint8_t *entries, size_t len, const uint8_t *footer,
                        uint8_t hash[SHA256_SIZE])
{
    uint8_t header[BH_PACK_HEADER_SIZE];
    bh_pack_header_encode(id, header);
    const struct piece pieces[] = {
        {header, sizeof header}, {entries, len}, {footer, FOOTER_HASH_AT}};
    return hash_pieces(pieces, 3, hash);
}

int bh_pack_trailer_encode(struct bh_strbuf *out, uint64_t id, uint32_t end,
                           const struct bh_pack_entry *entries, size_t count)
{
    uint8_t footer[BH_PACK_FOOTER_SIZE], entry[BH_PACK_ENTRY_SIZE];
    uint32_t at = BH_PACK_HEADER_SIZE;
    size_t begin = out->len;
    if (id == 0 || count == 0 || end > BH_PACK_RECORDS_MAX ||
        count > (BH_PACK_MAX - BH_PACK_FOOTER_SIZE - end) / BH_PACK_ENTRY_SIZE)
        return EINVAL;
    for (size_t i = 0; i < count; i++) {
        if (entry_fault(&entries[i], id, at))
            return EINVAL;
        at += entries[i].ref.stored;
        entry_encode(&entries[i], entry);
        bh_strbuf_add(out, entry, sizeof entry);
    }
    if (at != end)
        return EINVAL;
    if (out->failed)
        return ENOMEM;
    bh_put_le(footer, end, 4);
    bh_put_le(footer + FOOTER_COUNT_AT, (uint32_t)count, 4);
    memcpy(footer + FOOTER_MAGIC_AT, FOOTER_MAGIC, MAGIC_SIZE);
    int rc = trailer_hash(id, (const uint8_t *)out->data + begin, out->len - begin, footer,
                          footer + FOOTER_HASH_AT);
    if (rc)
        return rc;
    bh_strbuf_add(out, footer, sizeof footer);
    return out->failed ? ENOMEM : 0;
}

int bh_pack_footer_decode(const uint8_t in[BH_PACK_FOOTER_SIZE], uint64_t id, uint64_t size,
                          uint64_t *trailer_at, size_t *count, struct bh_error *err)
{
    char name[BH_PACK_NAME_MAX], what[64];
    bh_pack_name(id, name);
    snprintf(what, sizeof what, "the tail of pack %s", name);
    int rc = check_magic(in + FOOTER_MAGIC_AT, FOOTER_MAGIC, what, err);
    if (rc)
        return rc;
    uint64_t at = (uint32_t)bh_get_le(in, 4), n = (uint32_t)bh_get_le(in + FOOTER_COUNT_AT, 4);
    if (size > BH_PACK_MAX || n == 0 || at <= BH_PACK_HEADER_SIZE ||
        at + n * BH_PACK_ENTRY_SIZE + BH_PACK_FOOTER_SIZE != size)
        return pack_fail(err, id, "its tail does not fit its size");
    *trailer_at = at;
    *count = (size_t)n;
    return 0;
}

int bh_pack_trailer_decode(const uint8_t *in, size_t len, uint64_t id, uint64_t size,
                           struct bh_pack_entry **entries, size_t *count, struct bh_error *err)
{
    uint8_t hash[SHA256_SIZE];
    uint64_t trailer_at;
    size_t n;
    if (len < BH_PACK_FOOTER_SIZE || len > size)
        return pack_fail(err, id, "it is cut");
    const uint8_t *footer = in + len - BH_PACK_FOOTER_SIZE;
    int rc = bh_pack_footer_decode(footer, id, size, &trailer_at, &n, err);
    if (rc)
        return rc;
    if (len != size - trailer_at)
        return pack_fail(err, id, "its trailer has another length");
    if (trailer_hash(id, in, n * BH_PACK_ENTRY_SIZE, footer, hash))
        return bh_fail(err, ENOMEM, "out of memory while a pack's trailer is checked");
    if (memcmp(hash, footer + FOOTER_HASH_AT, SHA256_SIZE) != 0)
        return pack_fail(err, id, "its trailer fails its checksum, or it is another pack");
    BH_FREE struct bh_pack_entry *got = calloc(n, sizeof *got);
    if (!got)
        return bh_fail(err, ENOMEM, "out of memory for the %zu entries of a pack's trailer", n);
    uint32_t at = BH_PACK_HEADER_SIZE;
    for (size_t i = 0; i < n; i++) {
        const char *fault = entry_decode(&got[i], in + i * BH_PACK_ENTRY_SIZE, id, at);
        if (fault)
            return pack_fail(err, id, fault);
        at += got[i].ref.stored;
    }
    if (at != trailer_at)
        return pack_fail(err, id, "its records do not end where its trailer begins");
    *entries = bh_take_ptr(got);
    *count = n;
    return 0;
}

/* --- roots --- */

bool bh_root_is_same(const struct bh_root *a, const struct bh_root *b)
{
    uint8_t x[BH_REF_SIZE], y[BH_REF_SIZE];
    bh_ref_encode(&a->ref, x);
    bh_ref_encode(&b->ref, y);
    return a->size == b->size && a->depth == b->depth && !memcmp(x, y, sizeof x);
}

unsigned bh_depth_for(uint64_t size, uint32_t block_size)
{
    uint64_t blocks = size / block_size + (size % block_size != 0);
    unsigned depth = 0;
    for (; blocks > 1; depth++)
        blocks = blocks / BH_FANOUT + (blocks % BH_FANOUT != 0);
    return depth;
}
