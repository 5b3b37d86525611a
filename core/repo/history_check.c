/* Whether a tree has a given content, block by block. Of a plain file, to know one's own snapshot
 * again; and of what a flush has just stored (snapshot.check): the list of what has changed, which
 * comes from the block map, must not have forgotten anything. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "repo/history_private.h"
#include "util/cleanup.h"

/* A block of a tree has the bytes in buf (a whole block, zeros beyond the end). */
static int has_bytes(struct bh_history *h, const struct bh_root *root, uint64_t block,
                     const unsigned char *buf, bool *same, const char *what,
                     const struct bh_call *call, struct bh_error *err)
{
    uint8_t hash[BH_HASH_SIZE];
    struct bh_ref ref;
    int rc = bh_tree_refs(h->trees, root, block, 1, &ref, what, call, err);
    if (rc == 0 && bh_content_hash(buf, h->block_size, hash) != 0)
        rc = bh_fail(err, ENOMEM, "out of memory while comparing %s", what);
    if (rc)
        return rc;
    bool zeros = buf[0] == 0 && !memcmp(buf, buf + 1, h->block_size - 1);
    *same = bh_ref_is_zero(&ref) ? zeros : !memcmp(hash, ref.hash, sizeof hash);
    return 0;
}

/* Page 1 may have other counters than in the tree: see history_take_counters. */
static int has_header(struct bh_history *h, const struct bh_root *root, unsigned char *buf,
                      bool *same, const char *what, const struct bh_call *call,
                      struct bh_error *err)
{
    unsigned char header[HISTORY_HEADER];
    if (root->size < sizeof header)
        return 0;
    int rc = bh_tree_read(h->trees, root, 0, header, sizeof header, what, call, err);
    if (rc)
        return rc;
    history_take_counters(buf, header);
    return has_bytes(h, root, 0, buf, same, what, call, err);
}

int history_compare(struct bh_history *h, const struct bh_root *root,
                    const struct history_content *c, uint64_t *differs, const char *what,
                    const struct bh_call *call, struct bh_error *err)
{
    BH_FREE unsigned char *buf = malloc(h->block_size);
    int rc = buf ? 0 : bh_fail(err, ENOMEM, "out of memory while comparing %s", what);
    bool same = c->size == root->size;
    *differs = 0;
    for (uint64_t at = 0; rc == 0 && same && at < c->size; at += h->block_size) {
        size_t len = c->size - at < h->block_size ? (size_t)(c->size - at) : h->block_size;
        *differs = at / h->block_size;
        memset(buf + len, 0, h->block_size - len);
        int wrong = c->read(c->arg, buf, len, at);
        if (wrong)
            rc = bh_fail(err, wrong, "%s cannot be compared: %s", what, strerror(wrong));
        if (rc == 0)
            rc = has_bytes(h, root, *differs, buf, &same, what, call, err);
        if (rc == 0 && !same && at == 0)
            rc = has_header(h, root, buf, &same, what, call, err);
    }
    return rc ? rc : same ? 0 : EILSEQ;
}

int history_check_stored(struct bh_history *h, const struct history_content *c,
                         const struct bh_root *root, const char *what, const struct bh_call *call,
                         struct bh_error *err)
{
    uint64_t block;
    int rc = history_compare(h, root, c, &block, what, call, err);
    if (rc != EILSEQ)
        return rc;
    return bh_fail(err, EIO,
                   "nothing was flushed, because the snapshot would not have been what %s holds: "
                   "block %" PRIu64 " of %" PRIu64
                   " bytes (a bug in bhfs; your changes are safe in "
                   "%s, please report it)",
                   what, block, c->size, h->live->dir.path);
}
