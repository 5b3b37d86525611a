/* Branch heads, leases, snapshot records, labels and the format object: the small text objects of
 * the history layer. */
#ifndef BH_REPO_HEAD_H
#define BH_REPO_HEAD_H

#include "bucket/bucket.h"
#include "repo/index.h"

#define BH_BRANCH_MAX 128 /* with the NUL */
#define BH_HOST_MAX   65  /* with the NUL: cut */

/* Who may write a branch. */
struct bh_lease {
    char host[BH_HOST_MAX];
    int64_t pid;
    char writer[33];    /* random lower-case hex of one state directory; "" nobody holds it */
    uint64_t epoch;     /* rises with every new holder */
    int64_t expires_ms; /* by the store's clock */
};

/* KEY.bhfs/branches/NAME */
struct bh_head {
    char branch[BH_BRANCH_MAX];
    bool deleted;                      /* a tombstone: the branch is gone, gc removes the object */
    uint64_t sequence;                 /* rises with every write of this object */
    char previous[BH_SNAPSHOT_ID_MAX]; /* "" none: the snapshot before the newest */
    struct bh_index_entry newest;      /* of which newest.id "" means: no snapshot yet */
    struct bh_root index;
    char forked_from[BH_BRANCH_MAX];        /* "" for main */
    char fork_snapshot[BH_SNAPSHOT_ID_MAX]; /* the one that this branch began with */
    struct bh_lease lease;
};

/* "name: value" lines that end with "checksum: SHA-256 of what comes before". Decoders: EIO with a
 * sentence, which leaves the struct alone; unknown names are kept out, not refused; missing ones
 * are. Encoders append; EINVAL: a value that the decoder would refuse (a name, an id, a time
 * outside of 1970 to 9999, a sequence, epoch or size of 2^63 or more, an index of half an entry);
 * host names are made printable and cut instead. */
int bh_head_encode(const struct bh_head *h, struct bh_strbuf *out);
int bh_head_decode(struct bh_head *h, const char *text, size_t len, const char *what,
                   struct bh_error *err);

/* KEY.bhfs/snapshots/ID: for people and salvage. */
struct bh_record {
    struct bh_index_entry entry;
    char parent[BH_SNAPSHOT_ID_MAX]; /* "" the first */
    char host[BH_HOST_MAX];
    struct bh_root index; /* the history up to its parent */
};
int bh_record_encode(const struct bh_record *r, struct bh_strbuf *out);
int bh_record_decode(struct bh_record *r, const char *text, size_t len, const char *what,
                     struct bh_error *err);

/* KEY.bhfs/format. ENOTSUP: a version that this program does not know. */
int bh_format_encode(uint32_t block_size, struct bh_strbuf *out);
int bh_format_decode(uint32_t *block_size, const char *text, size_t len, const char *what,
                     struct bh_error *err);

/* Branch names and labels: 1 to 100 of [a-zA-Z0-9_-]. A label is not of the form of an id. */
bool bh_is_branch_name(const char *s);
bool bh_is_label(const char *s);
bool bh_is_snapshot_id(const char *s);

/* --- in the bucket; prefix: "KEY.bhfs/" --- */

/* Reads the format object, or writes it with block_size if there is none. *block_size is what
 * counts. may_write false: ENOENT where there is none. ENOTSUP: a version that this program does
 * not know. EIO: there is none although there are branches. Without conditional writes two first
 * mounts at the same moment can disagree. */
int bh_format_settle(struct bh_bucket *b, const char *prefix, uint32_t *block_size, bool may_write,
                     const struct bh_call *call, struct bh_error *err);

/* ENOENT: no such branch (a tombstone is one: *h is filled, then, and etag is set; else *h is all
 * zeros and etag ""). EIO also for the head of another branch that was copied here. */
int bh_head_get(struct bh_bucket *b, const char *prefix, const char *branch, struct bh_head *h,
                char etag[BH_ETAG_MAX], const struct bh_call *call, struct bh_error *err);
/* Writes *h (its sequence raised by the caller) if the object still has `etag` ("": does not
 * exist). On success etag is the new one. ESTALE: another one is there; *now (may be NULL) is what,
 * all zeros if the object is gone. After an ambiguous answer, and after a refusal, it looks: a head
 * with h's very text is a success (lease.writer, epoch and sequence alone are not: a copy of a
 * state directory has them, too), so a caller that is in doubt itself, after a restart say, calls
 * again with the same h and etag. ESTALE with now->sequence > h->sequence: h may have been there
 * before. ETIMEDOUT, EIO, EAGAIN: it may still be written. Where the store has no conditional
 * writes: looks before and after; *advisory (may be NULL) is set (false where it has them). */
int bh_head_put(struct bh_bucket *b, const char *prefix, const struct bh_head *h,
                char etag[BH_ETAG_MAX], struct bh_head *now, bool *advisory,
                const struct bh_call *call, struct bh_error *err);

typedef int bh_name_fn(void *arg, const char *name, struct bh_error *err);
/* Names of heads that are there, tombstones among them; of labels. */
int bh_heads_list(struct bh_bucket *b, const char *prefix, bh_name_fn *fn, void *arg,
                  const struct bh_call *call, struct bh_error *err);

/* Labels: name -> snapshot id. ENOENT, EEXIST (also with the same id). EIO: also for the object of
 * another label that was copied here. */
int bh_label_get(struct bh_bucket *b, const char *prefix, const char *label,
                 char id[BH_SNAPSHOT_ID_MAX], const struct bh_call *call, struct bh_error *err);
int bh_label_put(struct bh_bucket *b, const char *prefix, const char *label, const char *id,
                 const struct bh_call *call, struct bh_error *err);
int bh_label_delete(struct bh_bucket *b, const char *prefix, const char *label,
                    const struct bh_call *call, struct bh_error *err);
int bh_labels_list(struct bh_bucket *b, const char *prefix, bh_name_fn *fn, void *arg,
                   const struct bh_call *call, struct bh_error *err);

/* --- the lease --- */

/* Whether `writer` may take or renew the lease of h at server time now_ms: 0; EBUSY with who holds
 * it and until when. A lease of the same writer, and one that is over or nobody's, may be taken;
 * steal: any. A tombstone's is of a gc that is about to delete it: nobody's but when it is over. */
int bh_lease_check(const struct bh_head *h, const char *writer, int64_t now_ms, bool steal,
                   struct bh_error *err);
/* Fills h->lease for `writer`, this host and process, until now_ms + life_ms. A new holder gets a
 * higher epoch: another writer, or the same one in another process or on another host. A program
 * that starts anew clears h->lease.writer first: in a container it may have the pid it had before.
 */
void bh_lease_take(struct bh_head *h, const char *writer, int64_t now_ms, int64_t life_ms);

#endif
