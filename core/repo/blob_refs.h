/* Which blobs (objects PREFIX + SHA-256 in hex, of files/) snapshots and plain databases refer to:
 * rows of table filestore in the database, contents of inodes in names.db. What it has read shows
 * it what another snapshot needs not be read for, so that many cost what differs between them. One
 * thread at a time. */
#ifndef BH_REPO_BLOB_REFS_H
#define BH_REPO_BLOB_REFS_H

#include "bucket/bucket.h"
#include "repo/tree.h"
#include "util/sha256.h"

struct bh_blob_refs;

/* Some 100 bytes of memory each. */
struct bh_blob_ref {
    uint8_t hash[BH_SHA256_LEN];
    uint64_t size; /* that the first reference tells; UINT64_MAX: it does not */
    uint32_t
        source;   /* by which it was met first; UINT32_MAX: what was told with bh_blob_refs_add */
    uint8_t mark; /* the caller's, 0 at first */
};

/* trees (NULL: only plain objects will be read), bucket and call must outlive it. prefix: of the
 * blobs' keys; copied. sizes: they are wanted. ENOMEM. */
int bh_blob_refs_new(struct bh_blob_refs **out, struct bh_bucket *b, struct bh_trees *trees,
                     const char *prefix, bool sizes, const struct bh_call *call,
                     struct bh_error *err);
void bh_blob_refs_free(struct bh_blob_refs *r);

/* What a snapshot refers to. what: names it in sentences; copied. EIO and what reading ends with;
 * EPROTO: it is not known how to read it, so it is not known which blobs it needs. */
int bh_blob_refs_snapshot(struct bh_blob_refs *r, const struct bh_root *db,
                          const struct bh_root *names, const char *what, struct bh_error *err);
/* The same of a database that is one object. ESTALE: it was replaced meanwhile. ENOENT. */
int bh_blob_refs_plain(struct bh_blob_refs *r, const char *key, struct bh_error *err);
/* 0 or ENOMEM. */
int bh_blob_refs_add(struct bh_blob_refs *r, const uint8_t hash[BH_SHA256_LEN]);

/* NULL: nothing refers to it. Valid until the next one is added. */
struct bh_blob_ref *bh_blob_refs_find(struct bh_blob_refs *r, const uint8_t hash[BH_SHA256_LEN]);
size_t bh_blob_refs_count(const struct bh_blob_refs *r);
struct bh_blob_ref *bh_blob_refs_at(struct bh_blob_refs *r, size_t i);
/* Who refers to it, for people: "files/a/b of snapshot ID", "row name of KEY". A sentence also
 * where that cannot be found out. */
void bh_blob_refs_name(struct bh_blob_refs *r, const struct bh_blob_ref *ref,
                       struct bh_strbuf *out);
/* How many told of references: those to come get numbers from here on. */
uint32_t bh_blob_refs_sources(const struct bh_blob_refs *r);
/* Databases that were read, and those that were like one before. */
void bh_blob_refs_costs(const struct bh_blob_refs *r, size_t *scanned, size_t *skipped);

/* The hash in a blob's key. False: it is none. */
bool bh_blob_refs_parse(const char *key, const char *prefix, uint8_t hash[BH_SHA256_LEN]);

#endif
