/* Records of packs: what lies close together comes with one request, several at once. What was in a
 * pack that gc has rewritten is read, in another round, from where it is now. */
#include "repo/pack_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

#define GAP_MAX   ((uint64_t)64 << 10) /* fetched in vain rather than asked around */
#define GROUP_MAX ((uint64_t)4 << 20)  /* bytes of one request */

/* Wants that one request serves. */
struct group {
    struct bh_pack_want *wants;
    size_t count;
    uint64_t at, end; /* in the pack */
    bool moved;       /* the pack was missing: the wants are of where gc has moved it, now */
};

struct team {
    struct bh_packs *packs;
    const char *what;
    struct group *groups;
    size_t count;
    struct bh_call call;
    atomic_bool over;      /* nothing more is to be done */
    pthread_mutex_t mutex; /* guards what follows */
    size_t next;           /* the group that is taken next */
    int rc;                /* the first error */
    struct bh_error error;
};

/* --- one group --- */

static bool same_want(const struct bh_pack_want *a, const struct bh_pack_want *b)
{
    return a->ref.pack == b->ref.pack && a->ref.offset == b->ref.offset &&
           a->ref.stored == b->ref.stored && a->ref.encoding == b->ref.encoding &&
           a->raw == b->raw && bh_ref_same_content(&a->ref, &b->ref);
}

static int decode_group(const struct group *g, ZSTD_DCtx *context, const char *bytes,
                        const char *what, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < g->count; i++) {
        const struct bh_pack_want *w = &g->wants[i];
        if (i > 0 && same_want(w, w - 1))
            memmove(w->buf, (w - 1)->buf, w->raw);
        else
            rc = bh_pack_record_decode(context, &w->ref, bytes + (w->ref.offset - g->at), w->raw,
                                       w->buf, what, err);
    }
    return rc;
}

/* *buf, with room for *cap bytes, is the thread's own and grows. */
static int read_group(struct team *t, struct group *g, ZSTD_DCtx *context, char **buf, size_t *cap,
                      struct bh_error *err)
{
    size_t len = (size_t)(g->end - g->at);
    bool in_place = g->count == 1 && g->wants->ref.encoding == BH_ENC_RAW;
    if (!in_place && len > *cap) {
        free(*buf);
        *buf = malloc(len);
        *cap = *buf ? len : 0;
        if (!*buf)
            return bh_fail(err, ENOMEM, "out of memory while reading %s", t->what);
    }
    char *bytes = in_place ? g->wants->buf : *buf;
    const uint64_t id = g->wants->ref.pack;
    int rc = bh_packs_try_fetch(t->packs, id, g->at, bytes, len, t->what, &t->call, err);
    if (rc == ENOENT) {
        rc = bh_packs_move_wants(t->packs, g->wants, g->count, t->what, &t->call, err);
        g->moved = rc == 0;
        return rc == ENOENT ? bh_packs_missing(t->packs, id, g->at, t->what, err) : rc;
    }
    return rc ? rc : decode_group(g, context, bytes, t->what, err);
}

/* --- all groups --- */

static struct group *take_group(struct team *t)
{
    BH_LOCK_SCOPE(&t->mutex);
    return t->rc || t->next == t->count ? NULL : &t->groups[t->next++];
}

static void team_fail(struct team *t, int rc, const struct bh_error *why)
{
    BH_LOCK_SCOPE(&t->mutex);
    if (!t->rc) {
        t->rc = rc;
        t->error = *why;
    }
    atomic_store(&t->over, true);
}

static void *team_main(void *arg)
{
    struct team *t = arg;
    struct bh_error err = {0};
    BH_FREE char *buf = NULL;
    size_t cap = 0;
    ZSTD_DCtx *context = bh_packs_take_context(t->packs);
    int rc = context ? 0 : bh_fail(&err, ENOMEM, "out of memory while reading %s", t->what);
    for (struct group *g; !rc && (g = take_group(t));)
        rc = read_group(t, g, context, &buf, &cap, &err);
    bh_packs_give_context(t->packs, context);
    if (rc)
        team_fail(t, rc, &err);
    return NULL;
}

static int by_place(const void *pa, const void *pb)
{
    const struct bh_ref *a = &((const struct bh_pack_want *)pa)->ref;
    const struct bh_ref *b = &((const struct bh_pack_want *)pb)->ref;
    if (a->pack != b->pack)
        return a->pack < b->pack ? -1 : 1;
    return (a->offset > b->offset) - (a->offset < b->offset);
}

/* Sorted wants, none of them zero, into groups. Returns how many. */
static size_t make_groups(struct bh_pack_want *wants, size_t count, struct group *groups)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        const struct bh_ref *r = &wants[i].ref;
        uint64_t end = (uint64_t)r->offset + r->stored;
        struct group *g = n ? &groups[n - 1] : NULL;
        if (!g || g->wants->ref.pack != r->pack || r->offset > g->end + GAP_MAX ||
            end - g->at > GROUP_MAX) {
            groups[n++] =
                (struct group){.wants = &wants[i], .count = 1, .at = r->offset, .end = end};
            continue;
        }
        g->count++;
        if (end > g->end)
            g->end = end;
    }
    return n;
}

/* One round. *left: how many of the wants, now the first ones, are of packs that were moved. */
static int read_wants(struct bh_packs *p, struct bh_pack_want *wants, size_t count,
                      struct group *groups, size_t *left, const char *what,
                      const struct bh_call *call, struct bh_error *err)
{
    struct team t = {.packs = p, .what = what, .groups = groups};
    t.count = make_groups(wants, count, groups);
    t.call = bh_packs_call(call, &t.over);
    pthread_mutex_init(&t.mutex, NULL);
    bh_packs_team(p->options.parallel, t.count, team_main, &t);
    pthread_mutex_destroy(&t.mutex);
    *left = 0;
    for (size_t i = 0; i < t.count; i++) {
        if (!groups[i].moved)
            continue;
        memmove(wants + *left, groups[i].wants, groups[i].count * sizeof *wants);
        *left += groups[i].count;
    }
    return t.rc ? bh_fail(err, t.rc, "%s", t.error.text) : 0;
}

/* Sends wants of packs that are known to be moved to where their records are now. */
static int follow_moves(struct bh_packs *p, struct bh_pack_want *wants, size_t count, bool *some,
                        const char *what, struct bh_error *err)
{
    *some = false;
    for (size_t i = 0; i < count; i++) {
        const uint64_t pack = wants[i].ref.pack;
        int rc = bh_packs_follow(p, &wants[i].ref, what, err);
        *some = *some || rc || wants[i].ref.pack != pack;
        if (rc)
            return rc;
    }
    return 0;
}

/* knew: a record of before was used, which may be out of date. */
static int read_all(struct bh_packs *p, const struct bh_pack_want *wants, size_t count, bool *knew,
                    const char *what, const struct bh_call *call, struct bh_error *err)
{
    BH_FREE struct group *groups = malloc(count * sizeof *groups);
    BH_FREE struct bh_pack_want *copy = malloc(count * sizeof *copy);
    if (!groups || !copy)
        return bh_fail(err, ENOMEM, "out of memory while reading %s", what);
    memcpy(copy, wants, count * sizeof *copy);
    int rc = follow_moves(p, copy, count, knew, what, err);
    if (*knew)
        qsort(copy, count, sizeof *copy, by_place);
    for (unsigned moves = 0; rc == 0 && count > 0; moves++) {
        bool some;
        rc = read_wants(p, copy, count, groups, &count, what, call, err);
        if (rc == 0 && moves == BH_MOVES_MAX && count > 0)
            rc = bh_fail(err, EIO, "%s: it was moved in a circle, to pack %016" PRIx64 " again",
                         what, copy->ref.pack);
        if (rc == 0)
            rc = follow_moves(p, copy, count, &some, what, err);
        if (rc == 0 && count > 1)
            qsort(copy, count, sizeof *copy, by_place);
    }
    return rc;
}

int bh_packs_read_many(struct bh_packs *p, struct bh_pack_want *wants, size_t count,
                       const char *what, const struct bh_call *call, struct bh_error *err)
{
    size_t zeros = 0;
    bool knew = false;
    for (size_t i = 0; i < count; i++) {
        int rc = bh_ref_check(&wants[i].ref, wants[i].raw, what, err);
        if (rc)
            return rc;
    }
    if (count > 1)
        qsort(wants, count, sizeof *wants, by_place);
    for (; zeros < count && bh_ref_is_zero(&wants[zeros].ref); zeros++)
        memset(wants[zeros].buf, 0, wants[zeros].raw);
    if (zeros == count)
        return 0;
    int rc = read_all(p, wants + zeros, count - zeros, &knew, what, call, err);
    if (rc != EIO || !knew)
        return rc;
    bh_packs_forget_moved(p);
    return read_all(p, wants + zeros, count - zeros, &knew, what, call, err);
}

int bh_packs_read(struct bh_packs *p, const struct bh_ref *ref, size_t raw, void *buf,
                  const char *what, const struct bh_call *call, struct bh_error *err)
{
    struct bh_pack_want want = {.ref = *ref, .raw = raw, .buf = buf};
    return bh_packs_read_many(p, &want, 1, what, call, err);
}
