/* The rules of the fault layer. What they say is the same for the same seed. */
#include "fuzz.h"

#include "bucket/fault_rules.h"

static struct bh_fault_rules *parse(const char *text)
{
    struct bh_error err = {0};
    struct bh_fault_rules *rules = bh_fault_rules_parse(text, 1, &err);
    must_be_told(rules ? 0 : err.code, &err);
    must(rules || err.code);
    return rules;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {"snap.db", "bucketsqlite/snap.db.prev", "a",
                                       "\xC3\xA4/[b]*?\\"};
    BH_FREE char *text = string_of(data, size);
    struct bh_fault_rules *rules = parse(text), *again = parse(text);
    must(!rules == !again);
    for (size_t i = 0; rules && i < 16; i++) {
        struct bh_fault_plan plan, same;
        bh_fault_rules_apply(rules, (enum bh_bucket_op)(i % BH_OP_COUNT), keys[i % 4], &plan);
        bh_fault_rules_apply(again, (enum bh_bucket_op)(i % BH_OP_COUNT), keys[i % 4], &same);
        must(plan.kind != BH_FAULT_DELAY && plan.delay_ms >= 0);
        must((plan.kind == BH_FAULT_ERRNO) <= (plan.code > 0));
        must(memchr(plan.rule, '\0', sizeof plan.rule));
        must(plan.kind == same.kind && plan.code == same.code && plan.delay_ms == same.delay_ms &&
             plan.random == same.random);
    }
    bh_fault_rules_free(rules);
    bh_fault_rules_free(again);
    return 0;
}
