/* Entries are read by whole blocks through the cache of nodes: a search always begins with the same
 * blocks, and the block that the next append needs is there already. */
#include "repo/index.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "repo/head.h"
#include "repo/tree_private.h"
#include "util/bytes.h"
#include "util/cleanup.h"

#define WHAT      "the history index"
#define TIME_LEN  20              /* of an id: "YYYYMMDDTHHMMSS.mmmZ" */
#define STEP      64u             /* blocks that are held at once */
#define MS_MAX    253402300799999 /* the end of the year 9999 */
#define FLAGS_ALL (BH_ENTRY_DROPPED | BH_ENTRY_LOST)

/* --- one entry: where its fields are --- */

enum {
    AT_ID = 0,
    AT_TIME = 32,
    AT_FLAGS = 40,
    AT_PAGE_SIZE = 44,
    AT_DB = 48, /* a reference and 8 bytes of size */
    AT_NAMES = 88,
    AT_DB_DEPTH = 128, /* one byte each; two of zeros follow */
    AT_NAMES_DEPTH = 129,
    AT_BLOBS = 132,
    AT_UPLOADED = 136,
    AT_CHANGED = 144,
    AT_BRANCH = 152, /* 64 bytes, the rest zeros; no NUL if it is full */
    AT_RESERVED = 216,
    AT_CHECKSUM = 240,
    ID_LEN = AT_TIME - AT_ID,
    BRANCH_LEN = AT_RESERVED - AT_BRANCH,
};
_Static_assert(ID_LEN == BH_SNAPSHOT_ID_MAX, "an id fits");
_Static_assert(AT_CHECKSUM + BH_HASH_SIZE == BH_INDEX_ENTRY_SIZE, "the checksum is the end");

static bool is_root(const struct bh_root *r)
{
    return r->depth <= BH_DEPTH_MAX && r->size <= INT64_MAX &&
           (r->size > 0 || (r->depth == 0 && bh_ref_is_zero(&r->ref)));
}

static bool is_page_size(uint32_t n)
{
    return n == 0 || (n >= 512 && n <= 65536 && (n & (n - 1)) == 0);
}

/* What both encoder and decoder want of an entry: NULL, or what is wrong. */
static const char *wrong_with(const struct bh_index_entry *e)
{
    if (!bh_is_snapshot_id(e->id))
        return "its id is none";
    if (e->flags & ~(uint32_t)FLAGS_ALL)
        return "it has unknown flags";
    if (!is_page_size(e->page_size))
        return "its page size is none";
    if (!is_root(&e->db) || !is_root(&e->names))
        return "it has an impossible root";
    return NULL;
}

static void put_root(uint8_t *at, uint8_t *depth, const struct bh_root *r)
{
    bh_ref_encode(&r->ref, at);
    bh_put_le(at + BH_REF_SIZE, r->size, 8);
    *depth = (uint8_t)r->depth;
}

static int get_root(struct bh_root *r, const uint8_t *at, uint8_t depth, struct bh_error *err)
{
    r->depth = depth;
    r->size = bh_get_le(at + BH_REF_SIZE, 8);
    return bh_ref_decode(&r->ref, at, "an entry of " WHAT, err);
}

int bh_index_entry_encode(const struct bh_index_entry *e, uint8_t out[BH_INDEX_ENTRY_SIZE])
{
    if (wrong_with(e))
        return EINVAL;
    memset(out, 0, BH_INDEX_ENTRY_SIZE);
    memcpy(out + AT_ID, e->id, strlen(e->id));
    bh_put_le(out + AT_TIME, (uint64_t)e->time_ms, 8);
    bh_put_le(out + AT_FLAGS, e->flags, 4);
    bh_put_le(out + AT_PAGE_SIZE, e->page_size, 4);
    put_root(out + AT_DB, out + AT_DB_DEPTH, &e->db);
    put_root(out + AT_NAMES, out + AT_NAMES_DEPTH, &e->names);
    bh_put_le(out + AT_BLOBS, e->blobs, 4);
    bh_put_le(out + AT_UPLOADED, e->uploaded, 8);
    bh_put_le(out + AT_CHANGED, e->changed, 8);
    memcpy(out + AT_BRANCH, e->branch, strnlen(e->branch, BRANCH_LEN));
    return bh_content_hash(out, AT_CHECKSUM, out + AT_CHECKSUM);
}

/* Fills text[max + 1] from a field; false: something follows the NUL. */
static bool get_text(char *text, const uint8_t *at, size_t max)
{
    size_t len = strnlen((const char *)at, max);
    memset(text, 0, max + 1);
    memcpy(text, at, len);
    for (size_t i = len; i < max; i++)
        if (at[i])
            return false;
    return true;
}

static bool is_plain(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return false;
    return true;
}

static int decode_fields(struct bh_index_entry *e, const uint8_t *in, struct bh_error *err)
{
    static const uint8_t zeros[AT_CHECKSUM - AT_RESERVED];
    char id[ID_LEN + 1];
    bool texts = get_text(id, in + AT_ID, ID_LEN) && id[ID_LEN - 1] == '\0' &&
                 get_text(e->branch, in + AT_BRANCH, BRANCH_LEN) && is_plain(e->branch);
    memcpy(e->id, id, ID_LEN);
    e->id[ID_LEN - 1] = '\0';
    e->time_ms = (int64_t)bh_get_le(in + AT_TIME, 8);
    e->flags = (uint32_t)bh_get_le(in + AT_FLAGS, 4);
    e->page_size = (uint32_t)bh_get_le(in + AT_PAGE_SIZE, 4);
    e->blobs = (uint32_t)bh_get_le(in + AT_BLOBS, 4);
    e->uploaded = bh_get_le(in + AT_UPLOADED, 8);
    e->changed = bh_get_le(in + AT_CHANGED, 8);
    int rc = get_root(&e->db, in + AT_DB, in[AT_DB_DEPTH], err);
    if (!rc)
        rc = get_root(&e->names, in + AT_NAMES, in[AT_NAMES_DEPTH], err);
    if (rc)
        return rc;
    const char *wrong = wrong_with(e);
    if (!texts)
        wrong = "its id or branch is no text";
    if (memcmp(in + AT_RESERVED, zeros, sizeof zeros) || in[AT_NAMES_DEPTH + 1] ||
        in[AT_NAMES_DEPTH + 2])
        wrong = "it has bytes that mean nothing";
    return wrong ? bh_fail(err, EIO, "an entry of " WHAT " is damaged: %s", wrong) : 0;
}

int bh_index_entry_decode(struct bh_index_entry *e, const uint8_t in[BH_INDEX_ENTRY_SIZE],
                          struct bh_error *err)
{
    uint8_t hash[BH_HASH_SIZE];
    int rc = bh_content_hash(in, AT_CHECKSUM, hash);
    if (rc)
        return bh_fail(err, rc, "out of memory reading " WHAT);
    if (memcmp(hash, in + AT_CHECKSUM, sizeof hash))
        return bh_fail(err, EIO, "an entry of " WHAT " is damaged: its checksum is wrong");
    memset(e, 0, sizeof *e);
    return decode_fields(e, in, err);
}

/* --- reading --- */

static uint64_t per_block(const struct bh_trees *t)
{
    return t->block_size / BH_INDEX_ENTRY_SIZE;
}

uint64_t bh_index_count(const struct bh_root *index)
{
    return index->size / BH_INDEX_ENTRY_SIZE;
}

static int check_index(const struct bh_root *index, struct bh_error *err)
{
    if (index->size % BH_INDEX_ENTRY_SIZE)
        return bh_fail(err, EIO, "the root of " WHAT " is damaged: %llu bytes are no whole entries",
                       (unsigned long long)index->size);
    return 0;
}

/* Blocks first to first + count - 1 (at most STEP); to be put back. */
static int get_blocks(struct bh_trees *t, const struct bh_root *index, uint64_t first, size_t count,
                      struct tree_item **items, const struct bh_call *call, struct bh_error *err)
{
    struct bh_ref refs[STEP];
    int rc = bh_tree_refs(t, index, first, count, refs, WHAT, call, err);
    return rc ? rc : tree_cache_get(t->cache, refs, count, TREE_BLOCK, items, WHAT, call, err);
}

static int decode_at(const struct tree_item *block, uint64_t slot, uint64_t n,
                     struct bh_index_entry *out, struct bh_error *err)
{
    if (!block)
        return bh_fail(err, EIO, "entry %llu of " WHAT " is missing", (unsigned long long)n);
    int rc = bh_index_entry_decode(out, tree_item_data(block) + slot * BH_INDEX_ENTRY_SIZE, err);
    return rc ? bh_fail_prefix(err, rc, "entry %llu", (unsigned long long)n) : 0;
}

int bh_index_get(struct bh_trees *t, const struct bh_root *index, uint64_t n, size_t count,
                 struct bh_index_entry *out, const struct bh_call *call, struct bh_error *err)
{
    const uint64_t per = per_block(t), all = bh_index_count(index);
    int rc = check_index(index, err);
    if (!rc && (n > all || count > all - n))
        rc = bh_fail(err, EINVAL, WHAT " has %llu entries only", (unsigned long long)all);
    while (count > 0 && !rc) {
        struct tree_item *items[STEP];
        uint64_t first = n / per, last = (n + count - 1) / per;
        if (last - first >= STEP)
            last = first + STEP - 1;
        rc = get_blocks(t, index, first, (size_t)(last - first) + 1, items, call, err);
        if (rc)
            break;
        for (; count > 0 && n / per <= last && !rc; n++, count--, out++)
            rc = decode_at(items[n / per - first], n % per, n, out, err);
        tree_cache_put(t->cache, items, (size_t)(last - first) + 1);
    }
    return rc;
}

/* How many entries have ids whose first len bytes are not greater than key's: a search over the
 * blocks, then one within a block. The newest are asked for most: the last block comes first. */
static int upper_bound(struct bh_trees *t, const struct bh_root *index, const char *key, size_t len,
                       uint64_t *n, const struct bh_call *call, struct bh_error *err)
{
    const uint64_t per = per_block(t), all = bh_index_count(index);
    struct bh_index_entry e;
    uint64_t low = 0,
             high = (all + per - 1) / per; /* blocks; the first entry of low is not greater */
    uint64_t middle = high ? high - 1 : 0;
    for (; low < high; middle = low + (high - low) / 2) {
        int rc = bh_index_get(t, index, middle * per, 1, &e, call, err);
        if (rc)
            return rc;
        if (memcmp(e.id, key, len) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    /* The answer is in the block before the first one that begins with a greater id. */
    uint64_t from = low > 0 ? (low - 1) * per + 1 : 0, to = low * per < all ? low * per : all;
    while (from < to) {
        uint64_t at = from + (to - from) / 2;
        int rc = bh_index_get(t, index, at, 1, &e, call, err);
        if (rc)
            return rc;
        if (memcmp(e.id, key, len) <= 0)
            from = at + 1;
        else
            to = at;
    }
    *n = from;
    return 0;
}

int bh_index_find(struct bh_trees *t, const struct bh_root *index, const char *id,
                  struct bh_index_entry *out, uint64_t *n, const struct bh_call *call,
                  struct bh_error *err)
{
    uint64_t after = 0;
    char key[BH_SNAPSHOT_ID_MAX] = "";
    int rc = check_index(index, err);
    if (rc)
        return rc;
    if (bh_is_snapshot_id(id)) {
        memcpy(key, id, strlen(id));
        rc = upper_bound(t, index, key, sizeof key, &after, call, err);
    }
    if (!rc && after > 0)
        rc = bh_index_get(t, index, after - 1, 1, out, call, err);
    if (rc)
        return rc;
    if (after == 0 || strcmp(out->id, id) != 0)
        return bh_fail(err, ENOENT, "there is no snapshot %.40s in " WHAT, id);
    if (n)
        *n = after - 1;
    return 0;
}

/* What ids of that millisecond begin with. */
static void time_key(int64_t time_ms, char key[TIME_LEN + 1])
{
    time_t s = (time_t)(time_ms / 1000);
    struct tm tm;
    char day[20], text[40];
    gmtime_r(&s, &tm);
    strftime(day, sizeof day, "%Y%m%dT%H%M%S", &tm);
    snprintf(text, sizeof text, "%s.%03uZ", day, (unsigned)(time_ms % 1000));
    memcpy(key, text, TIME_LEN);
    key[TIME_LEN] = '\0';
}

int bh_index_at_time(struct bh_trees *t, const struct bh_root *index, int64_t time_ms,
                     struct bh_index_entry *out, const struct bh_call *call, struct bh_error *err)
{
    uint64_t after = bh_index_count(index);
    char key[TIME_LEN + 1];
    int rc = check_index(index, err);
    if (rc)
        return rc;
    if (time_ms < 0) {
        after = 0;
    } else if (time_ms <= MS_MAX) {
        time_key(time_ms, key);
        rc = upper_bound(t, index, key, TIME_LEN, &after, call, err);
    }
    while (!rc && after > 0) {
        rc = bh_index_get(t, index, --after, 1, out, call, err);
        if (!rc && !(out->flags & BH_ENTRY_DROPPED))
            return 0;
    }
    return rc ? rc : bh_fail(err, ENOENT, "there is no snapshot as old as that in " WHAT);
}

/* --- writing --- */

/* One bh_index_replace. */
struct edit {
    struct bh_trees *t;
    const struct bh_root *old;
    const uint64_t *numbers;
    const struct bh_index_entry *entries;
    size_t count;
    struct bh_pack_writer *w;
    const struct bh_call *call;
    struct bh_error *err;
    struct bh_tree_change *changes;
    size_t changed;
};

/* That the ids still rise: a replaced entry keeps its own, an appended one is greater than the last
 * one's. block: as it was before the entries number `i` and later were put into it. */
static int check_entry(const struct edit *x, size_t i, const uint8_t *block)
{
    const uint64_t n = x->numbers[i], all = bh_index_count(x->old);
    const char *id = x->entries[i].id;
    struct bh_index_entry e;
    int rc = 0;
    if (n < all) {
        rc = bh_index_entry_decode(&e, block + n % per_block(x->t) * BH_INDEX_ENTRY_SIZE, x->err);
        if (!rc && strcmp(e.id, id) != 0)
            rc = bh_fail(x->err, EINVAL, "%s cannot take the place of %s in " WHAT, id, e.id);
        return rc;
    }
    if (n > all)
        memcpy(e.id, x->entries[i - 1].id, sizeof e.id);
    else if (n > 0)
        rc = bh_index_get(x->t, x->old, n - 1, 1, &e, x->call, x->err);
    if (!rc && n > 0 && strcmp(e.id, id) >= 0)
        rc = bh_fail(x->err, EINVAL, "%s cannot follow %s in " WHAT, id, e.id);
    return rc;
}

static int check_numbers(const struct edit *x)
{
    uint64_t end = bh_index_count(x->old);
    for (size_t i = 0; i < x->count; i++) {
        if (i > 0 && x->numbers[i] <= x->numbers[i - 1])
            return bh_fail(x->err, EINVAL, "numbers of entries are not in ascending order");
        if (x->numbers[i] > end)
            return bh_fail(x->err, EINVAL, WHAT " has %llu entries only", (unsigned long long)end);
        if (x->numbers[i] == end)
            end++;
    }
    return 0;
}

/* Writes the block of entry number *i with all of its changes; *i becomes the next block's first.
 * block: block_size bytes of scratch. */
static int edit_block(struct edit *x, size_t *i, uint8_t *block)
{
    const uint64_t per = per_block(x->t), number = x->numbers[*i] / per;
    struct tree_item *item = NULL;
    struct bh_ref *ref = &x->changes[x->changed].ref;
    int rc = get_blocks(x->t, x->old, number, 1, &item, x->call, x->err);
    if (rc)
        return rc;
    memset(block, 0, x->t->block_size);
    if (item)
        memcpy(block, tree_item_data(item), x->t->block_size);
    for (; *i < x->count && x->numbers[*i] / per == number && !rc; ++*i) {
        rc = check_entry(x, *i, block);
        if (rc)
            break;
        rc = bh_index_entry_encode(&x->entries[*i],
                                   block + x->numbers[*i] % per * BH_INDEX_ENTRY_SIZE);
        if (rc)
            bh_fail(x->err, rc, "the entry of %.40s cannot be stored in " WHAT, x->entries[*i].id);
    }
    bool same = !rc && item && !memcmp(block, tree_item_data(item), x->t->block_size);
    tree_cache_put(x->t->cache, &item, 1);
    if (rc || same)
        return rc;
    rc = bh_pack_add(x->w, BH_RECORD_BLOCK, 0, number, block, x->t->block_size, ref, x->err);
    if (rc)
        return rc;
    tree_cache_add(x->t->cache, ref, TREE_BLOCK, block);
    x->changes[x->changed++].block = number;
    return 0;
}

int bh_index_replace(struct bh_trees *t, const struct bh_root *index, const uint64_t *numbers,
                     const struct bh_index_entry *entries, size_t count, struct bh_pack_writer *w,
                     struct bh_root *out, const struct bh_call *call, struct bh_error *err)
{
    struct edit x = {t, index, numbers, entries, count, w, call, err, NULL, 0};
    BH_FREE struct bh_tree_change *changes = x.changes = calloc(count + 1, sizeof *changes);
    BH_FREE uint8_t *block = malloc(t->block_size);
    if (!changes || !block)
        return bh_fail(err, ENOMEM, "out of memory writing " WHAT);
    int rc = check_index(index, err);
    if (!rc)
        rc = check_numbers(&x);
    for (size_t i = 0; i < count && !rc;)
        rc = edit_block(&x, &i, block);
    if (rc)
        return rc;
    uint64_t size = index->size;
    if (count > 0 && (numbers[count - 1] + 1) * BH_INDEX_ENTRY_SIZE > size)
        size = (numbers[count - 1] + 1) * BH_INDEX_ENTRY_SIZE;
    return bh_tree_update(t, index, size, changes, x.changed, w, out, WHAT, call, err);
}

int bh_index_append(struct bh_trees *t, const struct bh_root *index, const struct bh_index_entry *e,
                    struct bh_pack_writer *w, struct bh_root *out, const struct bh_call *call,
                    struct bh_error *err)
{
    uint64_t number = bh_index_count(index);
    return bh_index_replace(t, index, &number, e, 1, w, out, call, err);
}
