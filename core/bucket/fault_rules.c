#include "bucket/fault_rules.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/parse.h"

#define DELAY_MAX_MS                                                                               \
    ((int64_t)24 * 60 * 60 * 1000) /* so that sums of them stay far from overflowing */

#define ANY_OP BH_OP_COUNT

struct rule {
    char text[sizeof((struct bh_fault_plan *)0)->rule];
    enum bh_bucket_op op; /* or ANY_OP */
    enum bh_fault_kind kind;
    int code;
    int64_t delay_ms;
    double probability;
    char *glob; /* NULL: every key */
    uint64_t after, first;
    uint64_t matched;
};

struct bh_fault_rules {
    uint64_t seed;
    size_t count;
    struct rule *rules;
};

/* --- parsing --- */

static bool parse_op(const char *s, enum bh_bucket_op *op)
{
    for (int i = 0; i < BH_OP_COUNT; i++) {
        if (strcmp(s, bh_bucket_op_name((enum bh_bucket_op)i)) == 0) {
            *op = (enum bh_bucket_op)i;
            return true;
        }
    }
    *op = ANY_OP;
    return strcmp(s, "*") == 0;
}

static bool parse_kind(const char *s, struct rule *r)
{
    static const struct {
        const char *name;
        enum bh_fault_kind kind;
        int code;
    } kinds[] = {
        {"eio", BH_FAULT_ERRNO, EIO},
        {"etimedout", BH_FAULT_ERRNO, ETIMEDOUT},
        {"eacces", BH_FAULT_ERRNO, EACCES},
        {"eagain", BH_FAULT_ERRNO, EAGAIN},
        {"enospc", BH_FAULT_ERRNO, ENOSPC},
        {"cut", BH_FAULT_CUT, EIO},
        {"done-but-failed", BH_FAULT_DONE_BUT_FAILED, ETIMEDOUT},
    };
    if (strncmp(s, "delay=", 6) == 0) {
        r->kind = BH_FAULT_DELAY;
        return bh_parse_duration(s + 6, &r->delay_ms) == 0 && r->delay_ms <= DELAY_MAX_MS;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(s, kinds[i].name) == 0) {
            r->kind = kinds[i].kind;
            r->code = kinds[i].code;
            return true;
        }
    }
    return false;
}

static bool parse_number(const char *s, uint64_t *n)
{
    char *end;
    if (*s < '0' || *s > '9')
        return false;
    errno = 0;
    *n = strtoull(s, &end, 10);
    return *end == '\0' && errno == 0;
}

static bool parse_percent(const char *s, double *probability)
{
    char *end;
    double percent = strtod(s, &end);
    if (end == s || strcmp(end, "%") != 0 || !(percent >= 0 && percent <= 100))
        return false;
    *probability = percent / 100;
    return true;
}

static bool parse_option(const char *s, struct rule *r)
{
    if (strncmp(s, "key=", 4) == 0 && s[4] && !r->glob)
        return (r->glob = strdup(s + 4)) != NULL;
    if (strncmp(s, "first=", 6) == 0)
        return parse_number(s + 6, &r->first);
    if (strncmp(s, "after=", 6) == 0)
        return parse_number(s + 6, &r->after);
    return parse_percent(s, &r->probability);
}

/* Cuts at colons; s is changed. NULL, or the field that cannot be understood. */
static const char *parse_rule(char *s, struct rule *r)
{
    char *save = NULL;
    *r = (struct rule){.probability = 1, .first = UINT64_MAX};
    snprintf(r->text, sizeof r->text, "%s", s);
    const char *field = strtok_r(s, ":", &save);
    if (!field || !parse_op(field, &r->op))
        return field ? field : "";
    field = strtok_r(NULL, ":", &save);
    if (!field || !parse_kind(field, r))
        return field ? field : "(no kind)";
    while ((field = strtok_r(NULL, ":", &save)))
        if (!parse_option(field, r))
            return field;
    return NULL;
}

static char *trim(char *s)
{
    s += strspn(s, " \t\r");
    for (size_t len = strlen(s); len > 0 && strchr(" \t\r", s[len - 1]); len--)
        s[len - 1] = '\0';
    return s;
}

static int add_rule(struct bh_fault_rules *rules, char *text, struct bh_error *err)
{
    struct rule *more = realloc(rules->rules, (rules->count + 1) * sizeof *more);
    if (!more)
        return bh_fail(err, ENOMEM, "out of memory while reading the fault rules");
    rules->rules = more;
    const char *wrong = parse_rule(text, &more[rules->count]);
    rules->count++;
    if (!wrong)
        return 0;
    return bh_fail(err, EINVAL,
                   "the fault rule \"%s\" is wrong at \"%s\": expected "
                   "OPERATION:KIND[:N%%][:key=GLOB][:first=N][:after=N]",
                   more[rules->count - 1].text, wrong);
}

struct bh_fault_rules *bh_fault_rules_parse(const char *text, uint64_t seed, struct bh_error *err)
{
    BH_FREE char *copy = strdup(text);
    struct bh_fault_rules *rules = calloc(1, sizeof *rules);
    if (!copy || !rules) {
        free(rules);
        bh_fail(err, ENOMEM, "out of memory while reading the fault rules");
        return NULL;
    }
    rules->seed = seed;
    char *lines = NULL;
    for (char *line = strtok_r(copy, "\n", &lines); line; line = strtok_r(NULL, "\n", &lines)) {
        char *pieces = NULL;
        line[strcspn(line, "#")] = '\0';
        for (char *s = strtok_r(line, ";", &pieces); s; s = strtok_r(NULL, ";", &pieces)) {
            s = trim(s);
            if (*s && add_rule(rules, s, err) != 0) {
                bh_fault_rules_free(rules);
                return NULL;
            }
        }
    }
    return rules;
}

void bh_fault_rules_free(struct bh_fault_rules *r)
{
    for (size_t i = 0; r && i < r->count; i++)
        free(r->rules[i].glob);
    if (r)
        free(r->rules);
    free(r);
}

/* --- deciding --- */

/* splitmix64's finish: every bit of the result depends on every bit of x. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static bool applies(const struct rule *r, enum bh_bucket_op op, const char *key)
{
    return (r->op == ANY_OP || r->op == op) && (!r->glob || fnmatch(r->glob, key, 0) == 0);
}

void bh_fault_rules_apply(struct bh_fault_rules *rules, enum bh_bucket_op op, const char *key,
                          struct bh_fault_plan *plan)
{
    *plan = (struct bh_fault_plan){0};
    for (size_t i = 0; i < rules->count; i++) {
        struct rule *r = &rules->rules[i];
        if (!applies(r, op, key))
            continue;
        uint64_t n = r->matched++;
        if (n < r->after || n - r->after >= r->first)
            continue;
        uint64_t random = mix(mix(mix(rules->seed) + i) + n);
        if ((double)(random >> 11) / (double)(1ull << 53) >= r->probability)
            continue;
        if (r->kind == BH_FAULT_DELAY) {
            plan->delay_ms += r->delay_ms;
        } else if (plan->kind == BH_FAULT_NONE) { /* the first one that strikes decides */
            plan->kind = r->kind;
            plan->code = r->code;
            plan->random = mix(random);
            memcpy(plan->rule, r->text, sizeof plan->rule);
        }
    }
}
