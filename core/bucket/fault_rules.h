/* The rules of the fault layer: parsing them, and what they say about one call. */
#ifndef BH_BUCKET_FAULT_RULES_H
#define BH_BUCKET_FAULT_RULES_H

#include "bucket/bucket.h"

enum bh_fault_kind {
    BH_FAULT_NONE,
    BH_FAULT_ERRNO,
    BH_FAULT_CUT,
    BH_FAULT_DONE_BUT_FAILED,
    BH_FAULT_DELAY
};

struct bh_fault_rules; /* one thread at a time */

/* What is to happen to one call. */
struct bh_fault_plan {
    enum bh_fault_kind kind; /* never BH_FAULT_DELAY */
    int code;                /* of BH_FAULT_ERRNO */
    int64_t delay_ms;        /* before everything else */
    uint64_t random;         /* where a body is cut */
    char rule[128];          /* the text of the rule that struck */
};

/* NULL and *err (EINVAL names the rule, ENOMEM) if text is no list of rules. "" is an empty list.
 */
struct bh_fault_rules *bh_fault_rules_parse(const char *text, uint64_t seed, struct bh_error *err);
void bh_fault_rules_free(struct bh_fault_rules *r);

/* Counts the call and decides. The n-th call that a rule applies to always ends alike for one seed.
 */
void bh_fault_rules_apply(struct bh_fault_rules *r, enum bh_bucket_op op, const char *key,
                          struct bh_fault_plan *plan);

#endif
