/* Conditional puts whose answer was lost. A second attempt would meet the first one's success and
 * take it for somebody else's. So each put carries a random id in its metadata (BH_META_PUT), and
 * after an answer that leaves it open the object is looked at:
 *
 * - it carries our id: the put happened;
 * - it is as the condition wants it: the put did not happen (yet), and is repeated with the same
 * id. Should the first attempt arrive late after all, the repetition is refused, and the next look
 *   finds the id;
 * - it is something else: ours may have been there in between. Nobody can tell. */
#include <errno.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "bucket/retry_private.h"

struct cond_put {
    struct series s;
    struct bh_bucket *inner;
    const struct bh_cond *cond;
    char id[BH_PUT_ID_SIZE];
    struct bh_object_info *info;
};

enum seen { SEEN_OURS, SEEN_UNCHANGED, SEEN_OTHER, SEEN_NOTHING };

/* What is under the key now; SEEN_NOTHING: the look failed with *rc. */
static enum seen look(struct cond_put *p, int *rc, struct bh_error *why)
{
    struct bh_object_info now;
    *rc = p->inner->ops->head(p->inner, p->s.key, &now, p->s.call, why);
    if (*rc == ENOENT)
        return p->cond->if_none_match ? SEEN_UNCHANGED : SEEN_OTHER;
    if (*rc)
        return SEEN_NOTHING;
    const char *id = bh_meta_get(&now.meta, BH_META_PUT);
    if (id && strcmp(id, p->id) == 0) {
        *p->info = now;
        return SEEN_OURS;
    }
    if (p->cond->if_match && strcmp(now.etag, p->cond->if_match) == 0)
        return SEEN_UNCHANGED;
    return SEEN_OTHER;
}

static int in_doubt(struct cond_put *p, bool gone)
{
    return bh_fail_prefix(
        p->s.err, p->s.ambiguous, "it is not known whether the put of %s happened, and %s",
        p->s.key, gone ? "there is no such object now" : "another writer's object is there now");
}

/* After a put ended with *rc and may have happened: true if it is to be done again, else *rc is
 * what the call ends with. A refusal is looked into without a pause: an earlier attempt may be why.
 */
static bool resolve(struct cond_put *p, int *rc)
{
    for (bool pause = bh_retry_is_passing(*rc);; pause = true) {
        bool again = !pause || bh_series_again(&p->s, rc);
        struct bh_error why = {0};
        int looked;
        switch (look(p, &looked, &why)) {
        case SEEN_OURS:
            *rc = 0;
            return bh_series_again(&p->s, rc);
        case SEEN_OTHER:
            *rc = in_doubt(p, looked == ENOENT);
            return false;
        case SEEN_UNCHANGED:
            if (again && pause)
                return true;
            break;
        case SEEN_NOTHING:
            if (!bh_retry_is_passing(looked))
                again = false;
            break;
        }
        if (!again)
            return false;
        *rc = p->s.ambiguous;
    }
}

int bh_retry_cond_put(struct bh_bucket *b, const char *key, const struct bh_source *src,
                      const struct bh_meta *meta, const struct bh_cond *cond,
                      struct bh_object_info *info, const struct bh_call *call, struct bh_error *err)
{
    struct cond_put p = {.inner = ((struct retry *)b)->inner, .cond = cond, .info = info};
    struct bh_meta marked = meta ? *meta : (struct bh_meta){0};
    struct watched_source w = {.src = src};
    struct bh_source body = bh_source_watch(&w);
    bh_put_id(p.id);
    int rc = bh_meta_set(&marked, BH_META_PUT, p.id, err);
    if (rc)
        return rc;
    bh_series_begin(&p.s, b, "put", key, SERIES_WRITES | SERIES_LONG, call, err);
    do {
        rc = p.inner->ops->put(p.inner, key, &body, &marked, cond, info, call, p.s.err);
        bool refused = p.s.ambiguous && (rc == ESTALE || rc == EEXIST);
        if (w.failed || (!bh_retry_is_passing(rc) && !refused)) {
            if (!w.failed)
                bh_series_again(&p.s, &rc);
            break;
        }
    } while (resolve(&p, &rc));
    return bh_series_end(&p.s, rc);
}
