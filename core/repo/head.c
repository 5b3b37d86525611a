/* Heads, labels, the format object and leases in the bucket.
 *
 * All three kinds of object are written by `swap`: a conditional put of a small body, after which
 * an answer that leaves open what happened is looked into. The object that has exactly our body is
 * ours: no two writers make the same one, as it holds writer, epoch and sequence. */
#include "repo/head.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bucket/bucket_util.h"
#include "repo/head_private.h"
#include "util/cleanup.h"
#include "util/clock.h"

/* Puts and looks after answers that say neither yes nor no. */
#define PUT_TRIES 5

/* --- keys and reading --- */

/* PREFIX DIR NAME, as "snap.db.bhfs/" "branches/" "main". */
static int make_key(char key[BH_KEY_MAX + 1], const char *prefix, const char *dir, const char *name,
                    struct bh_error *err)
{
    int n = snprintf(key, BH_KEY_MAX + 1, "%s%s%s", prefix, dir, name);
    if (n > BH_KEY_MAX)
        return bh_fail(err, ENAMETOOLONG, "the key %.60s...%s%s is longer than %d bytes", prefix,
                       dir, name, BH_KEY_MAX);
    return 0;
}

static int branch_key(char key[BH_KEY_MAX + 1], const char *prefix, const char *branch,
                      struct bh_error *err)
{
    if (!bh_is_branch_name(branch))
        return bh_fail(err, EINVAL,
                       "%.120s cannot be the name of a branch: that is 1 to 100 letters, digits, "
                       "'_' and '-'",
                       branch);
    return make_key(key, prefix, "branches/", branch, err);
}

static int label_key(char key[BH_KEY_MAX + 1], const char *prefix, const char *label,
                     struct bh_error *err)
{
    if (!bh_is_label(label))
        return bh_fail(err, EINVAL,
                       "%.120s cannot be a label: that is 1 to 100 letters, digits, '_' and '-'",
                       label);
    return make_key(key, prefix, "labels/", label, err);
}

static bool is_passing(int rc)
{
    return rc == ETIMEDOUT || rc == EIO || rc == EAGAIN;
}

/* One that was replaced while it was read (EIO) is read again. */
static int read_text(struct bh_bucket *b, const char *key, char **text, size_t *len,
                     struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    int rc = bh_bucket_get_small(b, key, BH_HEAD_TEXT_MAX, text, len, info, call, err);
    if (rc == EIO && !bh_call_check(call, "", NULL))
        rc = bh_bucket_get_small(b, key, BH_HEAD_TEXT_MAX, text, len, info, call, err);
    return rc == EFBIG ? bh_fail_prefix(err, EIO, "it is none of this program's objects") : rc;
}

/* --- a conditional put of a small body --- */

struct swap {
    struct bh_bucket *b;
    const char *key;
    struct bh_strbuf body;
    const char *etag; /* that the object must have; "": there must be none */
    const struct bh_call *call;

    bool advisory; /* the store has no such condition */
    /* Of what was written, or of what another wrote. */
    struct bh_object_info info;
    char *found; /* the other's text; NULL: there is no object */
    size_t found_len;
    /* An attempt that may have happened: what the swap ends with if that is never found out. */
    int doubt;
    struct bh_error why;
};

static void swap_free(struct swap *s)
{
    bh_strbuf_free(&s->body);
    free(s->found);
}

#define SWAP __attribute__((cleanup(swap_free))) struct swap

/* ESTALE stands for any object but the expected one, and is without a sentence: the caller knows
 * what it means. EAGAIN: it is (still) as expected. 0: it is ours. Anything else: the look failed.
 */
static int look(struct swap *s, struct bh_error *err)
{
    free(s->found);
    s->found = NULL;
    int rc = read_text(s->b, s->key, &s->found, &s->found_len, &s->info, s->call, err);
    if (rc == ENOENT)
        return s->etag[0] ? ESTALE : EAGAIN;
    if (rc)
        return rc == EAGAIN ? EIO : rc;
    if (s->found_len == s->body.len && !memcmp(s->found, s->body.data, s->body.len))
        return 0;
    return strcmp(s->info.etag, s->etag) == 0 ? EAGAIN : ESTALE;
}

static void note_doubt(struct swap *s, int rc, const struct bh_error *why)
{
    if (s->doubt)
        return;
    s->doubt = rc;
    s->why = *why;
}

/* After an attempt that may have happened, no later failure can say that nothing did. */
static int give_up(struct swap *s, int rc, struct bh_error *err)
{
    if (!s->doubt)
        return rc;
    return bh_fail(err, s->doubt, "%s may or may not have been written: %s", s->key, s->why.text);
}

static int put_once(struct swap *s, struct bh_error *err)
{
    const struct bh_source src = {.size = s->body.len, .data = s->body.data};
    const struct bh_cond cond = {.if_match = s->etag[0] ? s->etag : NULL,
                                 .if_none_match = !s->etag[0]};
    struct bh_error why = {0};
    int rc = bh_bucket_put(s->b, s->key, &src, NULL, s->advisory ? NULL : &cond, &s->info, s->call,
                           &why);
    if (is_passing(rc))
        note_doubt(s, rc, &why);
    return rc ? bh_fail(err, rc, "%s", why.text) : 0;
}

static void back_off(int attempt, const struct bh_call *call)
{
    uint32_t random;
    bh_random_bytes(&random, sizeof random);
    (void)bh_call_sleep(call, 1 + (int64_t)(random % (100u << attempt)), "", NULL);
}

/* A try: 0 or ESTALE (see look), EAGAIN: to be done again, with *rc what it failed with (0: the
 * store said yes and shows the old). Anything else ends the swap. */
static int attempt(struct swap *s, int *rc, struct bh_error *err)
{
    int seen = s->advisory ? look(s, err) : EAGAIN;
    if (seen != EAGAIN)
        return seen;
    *rc = put_once(s, err);
    if (*rc == 0 && !s->advisory)
        return 0;
    if (*rc && !is_passing(*rc) && *rc != ESTALE && *rc != EEXIST)
        return *rc;
    struct bh_error why = {0};
    seen = look(s, &why);
    if (seen == 0 || seen == ESTALE || seen == EAGAIN)
        return seen;
    if (*rc == 0) {
        bh_fail_prefix(&why, EIO, "it cannot be read back");
        note_doubt(s, EIO, &why);
    }
    return bh_fail(err, seen, "%s", why.text);
}

/* 0: written. ESTALE: another object is there, or none where there must be one (found, info). */
static int swap(struct swap *s, struct bh_error *err)
{
    int rc = bh_bucket_learn(s->b, s->call, err);
    if (rc)
        return rc;
    unsigned cap = s->etag[0] ? BH_CAP_IF_MATCH : BH_CAP_IF_NONE_MATCH;
    s->advisory = !(bh_bucket_caps(s->b) & cap);
    for (int i = 0;; i++) {
        int seen = attempt(s, &rc, err);
        if (seen == 0 || seen == ESTALE)
            return seen;
        if (seen != EAGAIN)
            return give_up(s, seen, err);
        if (i + 1 == PUT_TRIES)
            break;
        back_off(i, s->call);
    }
    if (rc && s->doubt)
        return give_up(s, rc, err);
    return bh_fail(err, rc ? EAGAIN : EIO,
                   rc ? "the store refuses to write %s, although it is unchanged; try again"
                      : "%s was written, but the store still shows what was there before",
                   s->key);
}

/* --- the format object --- */

static int no_head(void *arg, const char *name, struct bh_error *err)
{
    return bh_fail(err, EEXIST, "there is the branch %s", name);
}

/* A bucket with branches had a format object: another block size would make nonsense of them. */
static int must_be_new(struct bh_bucket *b, const char *prefix, const char *key,
                       const struct bh_call *call, struct bh_error *err)
{
    struct bh_error why;
    int rc = bh_heads_list(b, prefix, no_head, NULL, call, &why);
    if (rc == EEXIST) {
        rc = bh_bucket_head(b, key, NULL, call, err); /* of somebody who was faster? */
        return rc == ENOENT ? bh_fail(err, EIO,
                                      "%s is missing, but %s: put the object back (it says the "
                                      "block size)",
                                      key, why.text)
                            : rc;
    }
    return rc ? bh_fail(err, rc, "%s", why.text) : 0;
}

static int read_format(struct bh_bucket *b, const char *key, uint32_t *block_size,
                       const struct bh_call *call, struct bh_error *err)
{
    BH_FREE char *text = NULL;
    size_t len;
    int rc = read_text(b, key, &text, &len, NULL, call, err);
    return rc ? rc : bh_format_decode(block_size, text, len, key, err);
}

int bh_format_settle(struct bh_bucket *b, const char *prefix, uint32_t *block_size, bool may_write,
                     const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    int rc = make_key(key, prefix, "format", "", err);
    if (rc == 0)
        rc = read_format(b, key, block_size, call, err);
    if (rc != ENOENT || !may_write)
        return rc;
    SWAP s = {.b = b, .key = key, .etag = "", .call = call};
    rc = bh_format_encode(*block_size, &s.body);
    if (rc)
        return bh_fail(err, rc, "%" PRIu32 " is no block size", *block_size);
    rc = must_be_new(b, prefix, key, call, err);
    if (rc == 0)
        rc = swap(&s, err);
    if (rc == ESTALE) /* another was faster */
        rc = bh_format_decode(block_size, s.found, s.found_len, key, err);
    return rc;
}

/* --- heads --- */

static int decode_head(struct bh_head *h, const char *text, size_t len, const char *key,
                       struct bh_error *err)
{
    int rc = bh_head_decode(h, text, len, key, err);
    const char *name = strrchr(key, '/') + 1;
    if (rc == 0 && strcmp(h->branch, name) != 0) /* copied by hand: it would fork unnoticed */
        rc = bh_fail(err, EIO, "%s is damaged: the line branch says %s", key, h->branch);
    return rc;
}

int bh_head_get(struct bh_bucket *b, const char *prefix, const char *branch, struct bh_head *h,
                char etag[BH_ETAG_MAX], const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    BH_FREE char *text = NULL;
    size_t len;
    struct bh_object_info info;
    etag[0] = '\0';
    memset(h, 0, sizeof *h);
    int rc = branch_key(key, prefix, branch, err);
    if (rc == 0)
        rc = read_text(b, key, &text, &len, &info, call, err);
    if (rc == ENOENT)
        return bh_fail(err, rc, "there is no branch %s", branch);
    if (rc == 0)
        rc = decode_head(h, text, len, key, err);
    if (rc)
        return rc;
    memcpy(etag, info.etag, BH_ETAG_MAX);
    return h->deleted ? bh_fail(err, ENOENT, "the branch %s was deleted", branch) : 0;
}

/* Says who wrote the object that is there instead of ours. */
static int fenced(const struct swap *s, const struct bh_head *h, struct bh_head *now,
                  struct bh_error *err)
{
    struct bh_head other = {0};
    char when[32];
    if (now)
        *now = other;
    if (!s->found)
        return bh_fail(err, ESTALE, "%s is gone from the bucket: another program removed it",
                       s->key);
    int rc = decode_head(&other, s->found, s->found_len, s->key, err);
    if (rc)
        return rc;
    if (now)
        *now = other;
    bool maybe = s->doubt && other.sequence > h->sequence;
    return bh_fail(err, ESTALE, "%s was %s by %s (process %" PRId64 ") at %s%s", s->key,
                   other.deleted ? "deleted" : "written",
                   other.lease.host[0] ? other.lease.host : "an unknown host", other.lease.pid,
                   bh_format_time(s->info.mtime_ms, when, sizeof when),
                   maybe ? "; whether what this mount wrote was there before is not known" : "");
}

int bh_head_put(struct bh_bucket *b, const char *prefix, const struct bh_head *h,
                char etag[BH_ETAG_MAX], struct bh_head *now, bool *advisory,
                const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    int rc = branch_key(key, prefix, h->branch, err);
    if (rc)
        return rc;
    SWAP s = {.b = b, .key = key, .etag = etag, .call = call};
    rc = bh_head_encode(h, &s.body);
    if (rc)
        return bh_fail(err, rc, "%s cannot be written: %s", key,
                       rc == ENOMEM ? "out of memory" : "a value is not of the allowed form");
    rc = swap(&s, err);
    if (advisory)
        *advisory = s.advisory;
    if (rc == ESTALE)
        return fenced(&s, h, now, err);
    if (rc == 0)
        memcpy(etag, s.info.etag, BH_ETAG_MAX);
    return rc;
}

/* --- listing --- */

struct lister {
    size_t skip; /* bytes of the prefix */
    bh_name_fn *fn;
    void *arg;
};

static int take_name(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                     struct bh_error *err)
{
    struct lister *l = arg;
    const char *name = key + l->skip;
    if (is_prefix || !bh_is_branch_name(name)) /* a person may have put things there */
        return 0;
    return l->fn(l->arg, name, err);
}

static int list_names(struct bh_bucket *b, const char *prefix, const char *dir, bh_name_fn *fn,
                      void *arg, const struct bh_call *call, struct bh_error *err)
{
    char whole[BH_KEY_MAX + 1];
    int rc = make_key(whole, prefix, dir, "", err);
    if (rc)
        return rc;
    struct lister l = {.skip = strlen(whole), .fn = fn, .arg = arg};
    const struct bh_list_request req = {.prefix = whole, .delimiter = "/"};
    return bh_bucket_list(b, &req, take_name, &l, call, err);
}

int bh_heads_list(struct bh_bucket *b, const char *prefix, bh_name_fn *fn, void *arg,
                  const struct bh_call *call, struct bh_error *err)
{
    return list_names(b, prefix, "branches/", fn, arg, call, err);
}

int bh_labels_list(struct bh_bucket *b, const char *prefix, bh_name_fn *fn, void *arg,
                   const struct bh_call *call, struct bh_error *err)
{
    return list_names(b, prefix, "labels/", fn, arg, call, err);
}

/* --- labels --- */

int bh_label_get(struct bh_bucket *b, const char *prefix, const char *label,
                 char id[BH_SNAPSHOT_ID_MAX], const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1], name[BH_BRANCH_MAX], found[BH_SNAPSHOT_ID_MAX];
    BH_FREE char *text = NULL;
    size_t len;
    int rc = label_key(key, prefix, label, err);
    if (rc == 0)
        rc = read_text(b, key, &text, &len, NULL, call, err);
    if (rc == ENOENT)
        return bh_fail(err, rc, "there is no label %s", label);
    if (rc == 0)
        rc = bh_label_decode(name, found, text, len, key, err);
    if (rc == 0 && name[0] && strcmp(name, label) != 0) /* moved by hand */
        rc = bh_fail(err, EIO, "%s is damaged: it is the label %s", key, name);
    if (rc == 0)
        memcpy(id, found, sizeof found);
    return rc;
}

/* Looks first: two labels of the same name and snapshot have the same body, which a lost answer's
 * look would take for ours. */
int bh_label_put(struct bh_bucket *b, const char *prefix, const char *label, const char *id,
                 const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    int rc = label_key(key, prefix, label, err);
    if (rc)
        return rc;
    SWAP s = {.b = b, .key = key, .etag = "", .call = call};
    rc = bh_label_encode(label, id, &s.body);
    if (rc)
        return bh_fail(err, rc, "%.60s is no id of a snapshot", id);
    rc = bh_bucket_head(b, key, NULL, call, err);
    if (rc == 0)
        rc = ESTALE;
    else if (rc == ENOENT)
        rc = swap(&s, err);
    return rc == ESTALE ? bh_fail(err, EEXIST, "there is a label %s already", label) : rc;
}

int bh_label_delete(struct bh_bucket *b, const char *prefix, const char *label,
                    const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    int rc = label_key(key, prefix, label, err);
    if (rc == 0)
        rc = bh_bucket_head(b, key, NULL, call, err);
    if (rc == ENOENT)
        return bh_fail(err, rc, "there is no label %s", label);
    return rc ? rc : bh_bucket_delete(b, key, call, err);
}

/* --- the lease --- */

int bh_lease_check(const struct bh_head *h, const char *writer, int64_t now_ms, bool steal,
                   struct bh_error *err)
{
    const struct bh_lease *l = &h->lease;
    char until[32];
    if (h->deleted && l->writer[0] &&
        l->expires_ms > now_ms) /* by gc, whoever may be told to steal */
        return bh_fail(
            err, EBUSY,
            "the branch %s was deleted, and what is left of it is being removed by gc on "
            "%s (process %" PRId64 "), until %s at the latest: try again then",
            h->branch, l->host[0] ? l->host : "an unknown host", l->pid,
            bh_format_time(l->expires_ms, until, sizeof until));
    if (steal || !l->writer[0] || strcmp(l->writer, writer) == 0 || l->expires_ms <= now_ms)
        return 0;
    return bh_fail(err, EBUSY,
                   "the branch %s is being written by %s (process %" PRId64
                   "), whose lease ends at %s unless it is renewed; unmount it there, or take the "
                   "branch from it with -o snapshot.steal=true",
                   h->branch, l->host[0] ? l->host : "an unknown host", l->pid,
                   bh_format_time(l->expires_ms, until, sizeof until));
}

void bh_lease_take(struct bh_head *h, const char *writer, int64_t now_ms, int64_t life_ms)
{
    struct bh_lease *l = &h->lease;
    char name[256] = "", host[BH_HOST_MAX];
    if (gethostname(name, sizeof name - 1) != 0)
        name[0] = '\0';
    bh_clean_host(name, host);
    bool renewal =
        strcmp(l->writer, writer) == 0 && strcmp(l->host, host) == 0 && l->pid == (int64_t)getpid();
    if (!renewal)
        l->epoch++;
    memcpy(l->host, host, sizeof l->host);
    l->pid = (int64_t)getpid();
    snprintf(l->writer, sizeof l->writer, "%s", writer);
    l->expires_ms = now_ms + life_ms;
}
