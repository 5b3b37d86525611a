/* Packs: immutable objects PREFIX"packs/ID" that hold the blocks and nodes of one flush,
 * or what gc kept of older packs. */
#ifndef BH_REPO_PACK_H
#define BH_REPO_PACK_H

#include "bucket/bucket.h"
#include "repo/format.h"

/* Reads records of any pack of one bucket and prefix. Every byte handed out was checked against its
 * hash. Any thread, several at once. */
struct bh_packs;

struct bh_packs_options {
    uint64_t part_size; /* bytes of a pack of a large flush at most: 1 MiB to BH_PACK_MAX */
    unsigned parallel;  /* requests at once, 1 to 64 */
    int level;          /* of zstd; 0: store raw */
};
/* prefix: "KEY.bhfs/". bucket must outlive it. EINVAL. */
int bh_packs_new(struct bh_packs **out, struct bh_bucket *bucket, const char *prefix,
                 const struct bh_packs_options *options, struct bh_error *err);
void bh_packs_free(struct bh_packs *p);
/* The key of a pack; the caller frees it; NULL: no memory. */
char *bh_packs_key(const struct bh_packs *p, uint64_t id);

/* One record: its content, raw bytes long, into buf. A zero reference reads as zeros without a
 * request. EIO: missing, cut or damaged; the sentence names the pack, the offset and `what`. What
 * is in buf after a failure is not to be used. A pack that gc has rewritten is no longer there: its
 * records are read from where its moved record (repo/moved.h) says. */
int bh_packs_read(struct bh_packs *p, const struct bh_ref *ref, size_t raw, void *buf,
                  const char *what, const struct bh_call *call, struct bh_error *err);

struct bh_pack_want {
    struct bh_ref ref;
    size_t raw;
    void *buf;
};
/* Many records: what lies close together in one pack (gaps up to 64 KiB) comes with one ranged GET
 * of up to 4 MiB, several in parallel. The first error ends it. The order of wants may be changed.
 */
int bh_packs_read_many(struct bh_packs *p, struct bh_pack_want *wants, size_t count,
                       const char *what, const struct bh_call *call, struct bh_error *err);

/* The trailer of a pack as it is in the bucket (for verify, gc and salvage): entries are freed by
 * the caller. ENOENT, EIO. size (may be NULL): of the object. */
int bh_packs_trailer(struct bh_packs *p, uint64_t id, struct bh_pack_entry **entries, size_t *count,
                     uint64_t *size, const struct bh_call *call, struct bh_error *err);

/* --- writing: one thread adds; full packs go up in the background, `parallel` at most, each held
 * in memory until it is there --- */
struct bh_pack_writer;
/* p, and what call points to, must outlive it. */
int bh_pack_writer_new(struct bh_pack_writer **out, struct bh_packs *p, enum bh_tree_kind tree,
                       const struct bh_call *call, struct bh_error *err);
/* The tree of what is added from here on. */
void bh_pack_writer_set_tree(struct bh_pack_writer *w, enum bh_tree_kind tree);
/* Adds a record; *ref is where it will be. Content of zeros only gives a zero reference and stores
 * nothing. Waits while `parallel` packs are on their way. EINVAL: no such record (see
 * bh_record_shape_ok). After another failure, or that of an upload, the same comes back from every
 * call: the writer is good for nothing more. */
int bh_pack_add(struct bh_pack_writer *w, enum bh_record_kind kind, unsigned level, uint64_t number,
                const void *data, size_t len, struct bh_ref *ref, struct bh_error *err);
/* Adds a record as another pack has it (its entry there, decoded, and the bytes stored, checked by
 * the caller); *ref differs from the entry's in its place only. */
int bh_pack_add_stored(struct bh_pack_writer *w, const struct bh_pack_entry *entry,
                       const void *bytes, struct bh_ref *ref, struct bh_error *err);
/* Uploads what is left and waits for all: when it returns 0 everything added is in the bucket,
 * durable. Nothing is uploaded where nothing was added. More may be added then, and finished. */
int bh_pack_writer_finish(struct bh_pack_writer *w, struct bh_error *err);
/* Whether it is good for nothing more. */
bool bh_pack_writer_failed(struct bh_pack_writer *w);
/* Of all packs so far; without the trailer of the one that is being filled. */
uint64_t bh_pack_writer_bytes(const struct bh_pack_writer *w);
/* Ids of the packs so far, count in *count (NULL where that is 0); valid until more is added. */
const uint64_t *bh_pack_writer_ids(const struct bh_pack_writer *w, size_t *count);
/* Ends uploads under way; without a finish what they put is garbage for gc. NULL is fine. */
void bh_pack_writer_free(struct bh_pack_writer *w);

#endif
