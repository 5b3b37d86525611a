/* Heads, labels and pins as they were at one moment: they are listed again until nothing is new.
 * What changes all the time is there in every state that was seen. That misses nothing either: what
 * such a head named between two of them is in the index of the later one, or younger than the
 * grace. */
#include "repo/gc_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/array.h"
#include "util/cleanup.h"

#define ROUNDS_MAX 10

enum place { BRANCHES, LABELS, PINS, PLACES };
static const char *const places[PLACES] = {"branches/", "labels/", "pins/"};

struct listed {
    enum place place;
    char name[BH_BRANCH_MAX];
    int64_t mtime_ms;
};

struct reading {
    struct bh_bucket *b;
    const char *prefix;
    const struct bh_call *call;
    struct gc_roots *roots;
    struct gc_set seen; /* states that were read */
    /* The listing under way: */
    enum place place;
    size_t skip;
    struct bh_strbuf text, before;
    struct listed *todo; /* not read yet */
    size_t todo_count, todo_room;
};

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory reading branches and labels");
}

static int note(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                struct bh_error *err)
{
    struct reading *r = arg;
    const char *name = key + r->skip;
    struct gc_key state;
    BH_STRBUF line = {0};
    if (is_prefix || !bh_is_branch_name(name)) /* a person may have put things there */
        return 0;
    bh_strbuf_addf(&line, "%s%s %s %" PRId64 "\n", places[r->place], name, info->etag,
                   info->mtime_ms);
    if (line.failed || gc_text_key(line.data, &state) != 0)
        return no_memory(err);
    bh_strbuf_add(&r->text, line.data, line.len);
    int rc = gc_set_add(&r->seen, state, 0);
    if (rc)
        return rc == EEXIST ? 0 : no_memory(err);
    if (!bh_grow(r->todo, r->todo_room, r->todo_count))
        return no_memory(err);
    struct listed *l = &r->todo[r->todo_count++];
    *l = (struct listed){.place = r->place, .mtime_ms = info->mtime_ms};
    snprintf(l->name, sizeof l->name, "%s", name);
    return 0;
}

static int list_all(struct reading *r, struct bh_error *err)
{
    char prefix[BH_KEY_MAX + 1];
    bh_strbuf_reset(&r->text);
    r->todo_count = 0;
    int rc = 0;
    for (r->place = BRANCHES; rc == 0 && r->place < PLACES; r->place++) {
        if (snprintf(prefix, sizeof prefix, "%s%s", r->prefix, places[r->place]) > BH_KEY_MAX)
            return bh_fail(err, ENAMETOOLONG, "the key %.60s... is too long", prefix);
        const struct bh_list_request req = {.prefix = prefix, .delimiter = "/"};
        r->skip = strlen(prefix);
        rc = bh_bucket_list(r->b, &req, note, r, r->call, err);
    }
    return rc == 0 && r->text.failed ? no_memory(err) : rc;
}

static int read_label(struct reading *r, const struct listed *t, struct bh_error *err)
{
    struct gc_label l = {0};
    memcpy(l.name, t->name, sizeof l.name);
    int rc = bh_label_get(r->b, r->prefix, t->name, l.id, r->call, err);
    if (rc)
        return rc;
    struct gc_roots *to = r->roots;
    if (!bh_grow(to->labels, to->label_room, to->label_count))
        return no_memory(err);
    to->labels[to->label_count++] = l;
    return 0;
}

static int read_anchor(struct reading *r, const struct listed *t, struct bh_error *err)
{
    struct gc_anchor a = {.mtime_ms = t->mtime_ms, .is_pin = t->place == PINS};
    memcpy(a.name, t->name, sizeof a.name);
    int rc = a.is_pin ? gc_pin_read(r->b, r->prefix, t->name, &a.head, r->call, err)
                      : bh_head_get(r->b, r->prefix, t->name, &a.head, a.etag, r->call, err);
    if (rc && !(rc == ENOENT && a.etag[0])) /* a tombstone */
        return rc;
    struct gc_roots *to = r->roots;
    if (!bh_grow(to->anchors, to->anchor_room, to->anchor_count))
        return no_memory(err);
    to->anchors[to->anchor_count++] = a;
    return 0;
}

static int read_all(struct reading *r, struct bh_error *err)
{
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        int rc = list_all(r, err);
        if (rc)
            return rc;
        if (round > 0 && r->text.len == r->before.len &&
            (!r->text.len || !memcmp(r->text.data, r->before.data, r->text.len)))
            return 0;
        for (size_t i = 0; i < r->todo_count; i++) {
            const struct listed *t = &r->todo[i];
            rc = t->place == LABELS ? read_label(r, t, err) : read_anchor(r, t, err);
            if (rc && rc != ENOENT) /* which the next listing will know */
                return rc;
        }
        struct bh_strbuf swap = r->before;
        r->before = r->text;
        r->text = swap;
    }
    return 0;
}

int gc_roots_read(struct bh_bucket *b, const char *prefix, struct gc_roots *roots,
                  const struct bh_call *call, struct bh_error *err)
{
    struct reading r = {.b = b, .prefix = prefix, .call = call, .roots = roots};
    *roots = (struct gc_roots){0};
    int rc = read_all(&r, err);
    gc_set_free(&r.seen);
    bh_strbuf_free(&r.text);
    bh_strbuf_free(&r.before);
    free(r.todo);
    return rc;
}

void gc_roots_free(struct gc_roots *roots)
{
    free(roots->anchors);
    free(roots->labels);
    *roots = (struct gc_roots){0};
}
