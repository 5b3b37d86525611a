/* What plain.c (flush) and plain_load.c share. */
#ifndef BH_REPO_PLAIN_PRIVATE_H
#define BH_REPO_PLAIN_PRIVATE_H

#include "bucket/transfer.h"
#include "config/config.h"
#include "repo/plain.h"

#define META_SNAPSHOT "bh-snapshot"
#define META_SHA256   "bh-sha256"

struct bh_plain {
    const struct bh_config *cfg;
    struct bh_bucket *bucket;
    struct bh_live *live;
    bool read_only;
    bool keep_previous; /* of the flush under way */
    char *key, *key_prev;
    struct bh_progress progress;
    uint64_t rescues;   /* branches made for unflushed changes */
    int64_t last_id_ms; /* ids rise */
};

enum phase { PHASE_NONE, PHASE_FREEZE, PHASE_HASH, PHASE_PREVIOUS, PHASE_UPLOAD };
void plain_phase(struct bh_plain *p, enum phase phase, uint64_t total);

/* A frozen database about to be sent, with its hash. */
struct image {
    struct bh_plain *plain;
    struct bh_frozen *frozen;
    uint64_t size;
    char sha256[BH_SHA256_HEX];         /* "" not hashed yet */
    const struct bh_plain_known *known; /* NULL: all is to be sent */
    uint64_t sent;                      /* bytes of it, by the last put */
    int broken;                         /* errno of the freeze, if that was what ended a put */
};
/* Freezes and hashes; tries again if a large truncation breaks the freeze, at last with a patient
 * one. *tries counts freezes, from 0 for one flush. Ended with bh_store_thaw(img->frozen). */
int plain_take_image(struct bh_plain *p, struct image *img, unsigned *tries,
                     const struct bh_call *call, struct bh_error *err);
struct bh_transfer plain_transfer(const struct bh_plain *p);
/* One put of the image with its metadata. */
int plain_put_image(struct bh_plain *p, struct image *img, const char *key, const char *snapshot,
                    const struct bh_cond *cond, struct bh_object_info *info,
                    const struct bh_call *call, struct bh_error *err);
/* --- plain_assemble.c --- */
/* Whether a KEY of that size could be assembled from the one there is. */
bool plain_may_assemble(const struct bh_plain *p, uint64_t size);
/* The put of an image of which img->known tells what KEY has. ENOTSUP: nothing has happened, it is
 * to be sent as a whole; ESTALE: KEY is another one than was known. */
int plain_assemble(struct bh_plain *p, struct image *img, const struct bh_source *src,
                   const struct bh_meta *meta, const struct bh_cond *cond,
                   struct bh_object_info *info, const struct bh_call *call, struct bh_error *err);

void plain_format_id(int64_t time_ms, char id[BH_SNAPSHOT_ID_MAX]);
void plain_new_id(struct bh_plain *p, char id[BH_SNAPSHOT_ID_MAX]);

/* The upload under way becomes one of those that may still arrive. */
void plain_remember_pending(struct bh_state *st);
/* Downloads and checks a plain snapshot: "incoming.db" in the state directory, and what it is. */
int plain_fetch(struct bh_plain *p, const char *key, struct bh_base *base,
                const struct bh_call *call, struct bh_error *err);
#define PLAIN_INCOMING "incoming.db"
/* "rescue-HOST-TIME", and "PREFIX-TIME": names of branches. */
void plain_rescue_name(char *name, size_t len);
void plain_time_name(const char *prefix, char *name, size_t len);
/* One thing more that the load found. */
void plain_say(struct bh_load_report *report, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void plain_say_unflushed(struct bh_live *live, struct bh_load_report *report);
/* The bucket does not answer, and the state goes on: logged, too. */
void plain_say_away(struct bh_live *live, const struct bh_error *why,
                    struct bh_load_report *report);

/* Whether the id is of an upload of this state directory that seemed to have failed. */
bool plain_is_older_pending(const struct bh_state *st, const char *id);
/* The object with that ETag, an earlier upload of ours that arrived late, is the base now. */
void plain_adopt_older(struct bh_state *st, const struct bh_object_info *info);

/* Whether an error may be a passing one (the store is away, slow or broken) rather than a refusal.
 */
bool plain_is_passing(int rc);

#endif
