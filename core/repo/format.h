/* The history layer's stored format, version 1: what docs/FORMAT.md writes down. Encoders and
 * decoders only; every decoder takes bytes that anybody may have written and rejects damage with
 * EIO and a sentence. Numbers are little-endian. Any thread. */
#ifndef BH_REPO_FORMAT_H
#define BH_REPO_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"
#include "util/strbuf.h"

#define BH_FORMAT_VERSION 1
#define BH_FANOUT         256u /* references in a node */
#define BH_REF_SIZE       32u  /* bytes of a stored reference */
#define BH_NODE_SIZE      (BH_FANOUT * BH_REF_SIZE)
#define BH_HASH_SIZE      16u /* the first bytes of the SHA-256 of the content */
#define BH_BLOCK_MIN      4096u
#define BH_BLOCK_MAX      (1u << 20)
#define BH_DEPTH_MAX      6u /* 256^6 blocks of 4 KiB are 2^60 bytes */
#define BH_PACK_MAX       (64u << 20)

enum bh_encoding { BH_ENC_RAW = 0, BH_ENC_ZSTD = 1 };

/* Where a block or a node is. All zeros: it is not stored, its content is zeros. */
struct bh_ref {
    uint64_t pack;   /* id of the pack; never 0 in a reference to something */
    uint32_t offset; /* of its first byte in the pack */
    uint32_t stored; /* bytes in the pack, at most 2^28 - 1 */
    enum bh_encoding encoding;
    uint8_t hash[BH_HASH_SIZE];
};

bool bh_ref_is_zero(const struct bh_ref *r);
bool bh_ref_same_content(const struct bh_ref *a,
                         const struct bh_ref *b); /* by hash; both not zero */
/* EIO: no place where content of so many bytes can be. what: names it in the sentence. */
int bh_ref_check(const struct bh_ref *r, size_t raw, const char *what, struct bh_error *err);
void bh_ref_encode(const struct bh_ref *r, uint8_t out[BH_REF_SIZE]);
/* what: names it in the sentence. EIO: no reference that an encoder makes. *r is zero then. */
int bh_ref_decode(struct bh_ref *r, const uint8_t in[BH_REF_SIZE], const char *what,
                  struct bh_error *err);
/* 64 lower-case digits: of the encoded reference. */
void bh_ref_hex(const struct bh_ref *r, char hex[2 * BH_REF_SIZE + 1]);
int bh_ref_from_hex(struct bh_ref *r, const char *hex, const char *what, struct bh_error *err);
/* The first BH_HASH_SIZE bytes of the SHA-256. 0 or ENOMEM. */
int bh_content_hash(const void *data, size_t len, uint8_t hash[BH_HASH_SIZE]);

/* --- packs --- */

enum bh_record_kind {
    BH_RECORD_BLOCK = 1, /* of a file: level 0 */
    BH_RECORD_NODE = 2,  /* level 1 and up: references to what is one level below */
};

/* Which tree a record belongs to; told in the pack's trailer for salvage. */
enum bh_tree_kind { BH_TREE_DB = 1, BH_TREE_NAMES = 2, BH_TREE_INDEX = 3 };

/* One entry of the trailer. */
struct bh_pack_entry {
    enum bh_record_kind kind;
    enum bh_tree_kind tree;
    unsigned level;    /* 0: block */
    uint64_t number;   /* of the block, or of the first block below the node */
    uint32_t raw;      /* bytes of the content */
    struct bh_ref ref; /* its pack is the pack's own */
};

#define BH_PACK_HEADER_SIZE 16u
#define BH_PACK_FOOTER_SIZE 48u /* at the very end: where the trailer begins, and its checksum */
#define BH_PACK_ENTRY_SIZE  48u
/* The records of the largest pack end here at the latest. */
#define BH_PACK_RECORDS_MAX (BH_PACK_MAX - BH_PACK_ENTRY_SIZE - BH_PACK_FOOTER_SIZE)

/* Whether there are such records: kind and level fit, the number is one of a block of this level, a
 * block has a block size, a node BH_NODE_SIZE. */
bool bh_record_shape_ok(enum bh_record_kind kind, enum bh_tree_kind tree, unsigned level,
                        uint64_t number, size_t raw);

void bh_pack_header_encode(uint64_t id, uint8_t out[BH_PACK_HEADER_SIZE]);
int bh_pack_header_decode(uint64_t *id, const uint8_t in[BH_PACK_HEADER_SIZE],
                          struct bh_error *err);
/* Appends trailer and footer for a pack whose records end at `end` (bytes from its beginning); they
 * follow the header and each other without gaps, in the order of the entries. ENOMEM, EINVAL (no
 * entry, or they are not as decoding wants them). */
int bh_pack_trailer_encode(struct bh_strbuf *out, uint64_t id, uint32_t end,
                           const struct bh_pack_entry *entries, size_t count);
/* From the footer: where the trailer begins. size: bytes of the object. */
int bh_pack_footer_decode(const uint8_t in[BH_PACK_FOOTER_SIZE], uint64_t id, uint64_t size,
                          uint64_t *trailer_at, size_t *count, struct bh_error *err);
/* in: trailer and footer together. *entries (count as above) is the caller's to free. EIO also for
 * entries that overlap, leave gaps, leave the pack, or are another pack's. */
int bh_pack_trailer_decode(const uint8_t *in, size_t len, uint64_t id, uint64_t size,
                           struct bh_pack_entry **entries, size_t *count, struct bh_error *err);

#define BH_PACK_NAME_MAX 17 /* 16 hex digits and a NUL */
void bh_pack_name(uint64_t id, char name[BH_PACK_NAME_MAX]);
int bh_pack_id_of_name(uint64_t *id, const char *name); /* EINVAL */

/* --- a tree's root --- */
struct bh_root {
    struct bh_ref ref; /* zero: every block is zeros */
    unsigned depth;    /* 0: ref is the only block; 1: ref is a node of blocks; ... */
    uint64_t size;     /* bytes of the file */
};
/* Of the same content, in the same place. */
bool bh_root_is_same(const struct bh_root *a, const struct bh_root *b);
/* The smallest depth that such a file can have; over BH_DEPTH_MAX: it can be in no tree. */
unsigned bh_depth_for(uint64_t size, uint32_t block_size);

#endif
