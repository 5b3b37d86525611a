#include "repo/moved.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repo/pack_private.h"
#include "util/bytes.h"
#include "util/cleanup.h"

#define MAGIC      "bhmove1\n" /* the digit: BH_FORMAT_VERSION */
#define MAGIC_SIZE 8u

/* --- the format --- */

static bool is_offset(uint32_t offset)
{
    return offset >= BH_PACK_HEADER_SIZE && offset < BH_PACK_RECORDS_MAX;
}

static bool is_valid(uint64_t id, const struct bh_moved_entry *e, uint32_t before)
{
    return is_offset(e->from) && e->from > before && is_offset(e->offset) && e->pack != 0 &&
           e->pack != id;
}

int bh_moved_encode(struct bh_strbuf *out, uint64_t id, const struct bh_moved_entry *entries,
                    size_t count)
{
    uint8_t header[BH_MOVED_HEADER_SIZE], footer[BH_MOVED_FOOTER_SIZE];
    const size_t begin = out->len;
    if (!id || !count)
        return EINVAL;
    memcpy(header, MAGIC, MAGIC_SIZE);
    bh_put_le(header + MAGIC_SIZE, id, 8);
    bh_strbuf_add(out, header, sizeof header);
    for (size_t i = 0; i < count; i++) {
        uint8_t e[BH_MOVED_ENTRY_SIZE];
        if (!is_valid(id, &entries[i], i ? entries[i - 1].from : 0))
            return EINVAL;
        bh_put_le(e, entries[i].from, 4);
        bh_put_le(e + 4, entries[i].offset, 4);
        bh_put_le(e + 8, entries[i].pack, 8);
        bh_strbuf_add(out, e, sizeof e);
    }
    if (out->failed || bh_content_hash(out->data + begin, out->len - begin, footer))
        return ENOMEM;
    bh_strbuf_add(out, footer, sizeof footer);
    return out->failed ? ENOMEM : 0;
}

static int damaged(uint64_t id, const char *cause, struct bh_error *err)
{
    return bh_fail(err, EIO, "the moved record of pack %016" PRIx64 " is damaged: %s", id, cause);
}

int bh_moved_decode(const void *data, size_t len, uint64_t id, struct bh_moved_entry **entries,
                    size_t *count, struct bh_error *err)
{
    const uint8_t *in = data;
    uint8_t footer[BH_MOVED_FOOTER_SIZE];
    if (len < BH_MOVED_HEADER_SIZE + BH_MOVED_ENTRY_SIZE + BH_MOVED_FOOTER_SIZE)
        return damaged(id, "it is cut", err);
    const size_t body = len - BH_MOVED_HEADER_SIZE - BH_MOVED_FOOTER_SIZE;
    const size_t n = body / BH_MOVED_ENTRY_SIZE;
    if (memcmp(in, MAGIC, MAGIC_SIZE) != 0 || bh_get_le(in + MAGIC_SIZE, 8) != id)
        return damaged(id, "it does not begin as one of that pack", err);
    if (bh_content_hash(in, len - sizeof footer, footer))
        return bh_fail(err, ENOMEM, "out of memory reading where a pack was moved");
    if (memcmp(in + len - sizeof footer, footer, sizeof footer) != 0 || body % BH_MOVED_ENTRY_SIZE)
        return damaged(id, "it fails its checksum", err);
    BH_FREE struct bh_moved_entry *got = calloc(n, sizeof *got);
    if (!got)
        return bh_fail(err, ENOMEM, "out of memory reading where a pack was moved");
    for (size_t i = 0; i < n; i++) {
        const uint8_t *e = in + BH_MOVED_HEADER_SIZE + i * BH_MOVED_ENTRY_SIZE;
        got[i] = (struct bh_moved_entry){.from = (uint32_t)bh_get_le(e, 4),
                                         .offset = (uint32_t)bh_get_le(e + 4, 4),
                                         .pack = bh_get_le(e + 8, 8)};
        if (!is_valid(id, &got[i], i ? got[i - 1].from : 0))
            return damaged(id, "an entry is none", err);
    }
    *entries = bh_take_ptr(got);
    *count = n;
    return 0;
}

const struct bh_moved_entry *bh_moved_find(const struct bh_moved_entry *entries, size_t count,
                                           uint32_t from)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (entries[middle].from == from)
            return &entries[middle];
        if (entries[middle].from < from)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* --- the object --- */

static int moved_key(const struct bh_packs *p, uint64_t id, struct bh_strbuf *key,
                     struct bh_error *err)
{
    bh_strbuf_addf(key, "%smoved/%016" PRIx64, p->prefix, id);
    return key->failed ? bh_fail(err, ENOMEM, "out of memory looking where a pack was moved") : 0;
}

int bh_packs_moved(struct bh_packs *p, uint64_t id, struct bh_moved_entry **entries, size_t *count,
                   const struct bh_call *call, struct bh_error *err)
{
    BH_STRBUF key = {0};
    BH_FREE char *data = NULL;
    size_t len;
    int rc = moved_key(p, id, &key, err);
    if (rc == 0)
        rc = bh_bucket_get_small(p->bucket, key.data, BH_MOVED_SIZE_MAX, &data, &len, NULL, call,
                                 err);
    if (rc == EFBIG)
        return damaged(id, "it is too large", err);
    return rc ? rc : bh_moved_decode(data, len, id, entries, count, err);
}

int bh_packs_put_moved(struct bh_packs *p, uint64_t id, const struct bh_moved_entry *entries,
                       size_t count, const struct bh_call *call, struct bh_error *err)
{
    BH_STRBUF key = {0}, text = {0};
    int rc = moved_key(p, id, &key, err);
    if (rc)
        return rc;
    rc = bh_moved_encode(&text, id, entries, count);
    if (rc)
        return bh_fail(err, rc, "%s cannot be made: %s", key.data, strerror(rc));
    const struct bh_source src = {.size = text.len, .data = text.data};
    return bh_packs_put_new(p, key.data, &src, call, err);
}
