/* What the daemon remembers of the history, so that most lookups need neither the bucket nor a
 * thread. Three things: whole listings of a history (by the root of its index, which is immutable,
 * so they are right for ever), heads of other branches, and what a name in a history means (both
 * for a second, as other mounts change them). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"
#include "views.h"

#define FRESH_MS       1000
#define LABEL_FRESH_MS 60000 /* what a label that is still there stands for */
#define LISTS          4
#define BRANCHES       64
#define NAMES          1024

struct known_branch {
    char name[BH_BRANCH_MAX]; /* "" free */
    struct branch branch;
    int64_t got_ms;
};

struct known_name {
    char branch[BH_BRANCH_MAX], name[BH_BRANCH_MAX]; /* "" free */
    bool is_there;
    struct bh_index_entry e;
    int64_t got_ms;
};

struct known_labels {
    char branch[BH_BRANCH_MAX]; /* "" free */
    struct label *labels;
    size_t count;
    int64_t got_ms;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct snaps *lists[LISTS]; /* the one that was used last comes first */
static struct known_branch branches[BRANCHES];
static struct known_name names[NAMES];
static struct known_labels labels;
static uint64_t changes; /* what was asked for before a change must not be remembered after it */

void views_changed(void)
{
    BH_LOCK_SCOPE(&mutex);
    changes++;
    memset(branches, 0, sizeof branches);
    memset(names, 0, sizeof names);
    labels.branch[0] = '\0';
}

static uint64_t changes_now(void)
{
    BH_LOCK_SCOPE(&mutex);
    return changes;
}

static bool is_fresh(int64_t got_ms, int64_t life_ms)
{
    return bh_mono_ms() - got_ms < life_ms;
}

/* --- listings --- */

static bool same_root(const struct bh_root *a, const struct bh_root *b)
{
    return a->size == b->size && a->depth == b->depth && a->ref.pack == b->ref.pack &&
           a->ref.offset == b->ref.offset && a->ref.stored == b->ref.stored;
}

/* NULL: not known. */
static struct snaps *snaps_known(const struct bh_root *index)
{
    BH_LOCK_SCOPE(&mutex);
    for (int i = 0; i < LISTS; i++) {
        struct snaps *s = lists[i];
        if (!s || !same_root(&s->index, index))
            continue;
        memmove(&lists[1], &lists[0], (size_t)i * sizeof *lists);
        lists[0] = s;
        atomic_fetch_add(&s->refs, 1);
        return s;
    }
    return NULL;
}

void snaps_put(struct snaps *s)
{
    if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    free(s->entries);
    free(s);
}

static void remember_list(struct snaps *s)
{
    pthread_mutex_lock(&mutex);
    struct snaps *last = lists[LISTS - 1];
    memmove(&lists[1], &lists[0], (LISTS - 1) * sizeof *lists);
    lists[0] = s;
    atomic_fetch_add(&s->refs, 1);
    pthread_mutex_unlock(&mutex);
    snaps_put(last);
}

int snaps_get(struct daemon *d, const struct bh_head *head, struct snaps **out,
              const struct bh_call *call, struct bh_error *err)
{
    struct snaps *s = snaps_known(&head->index);
    if (s || !call) {
        *out = s;
        return s ? 0 : EAGAIN;
    }
    s = calloc(1, sizeof *s);
    if (!s)
        return bh_fail(err, ENOMEM, "out of memory while listing snapshots");
    atomic_init(&s->refs, 1);
    s->index = head->index;
    int rc = bh_history_snapshots(bh_history_of(d->bh), head, &s->entries, &s->count, call, err);
    if (rc) {
        free(s);
        return rc;
    }
    remember_list(s);
    *out = s;
    return 0;
}

static int compare_id(const void *id, const void *entry)
{
    return strcmp(id, ((const struct bh_index_entry *)entry)->id);
}

static int find_in(const struct snaps *s, const char *id, struct bh_index_entry *out)
{
    const struct bh_index_entry *e =
        s->count ? bsearch(id, s->entries, s->count, sizeof *e, compare_id) : NULL;
    if (!e)
        return ENOENT;
    *out = *e;
    return 0;
}

/* --- branches --- */

/* The current branch is known without asking. */
static bool current_branch(struct daemon *d, const char *name, struct branch *out)
{
    struct bh_error err;
    struct bh_history_status st;
    struct bh_history *h = bh_history_of(d->bh);
    *out = (struct branch){0};
    if (bh_history_head(h, NULL, &out->head, NULL, &err) == 0) {
        out->has_history = out->head.newest.id[0] != '\0';
    } else {
        bh_history_status(h, &st);
        const char *branch = st.branch[0] ? st.branch : bh_config_of(d->bh)->snapshot.branch;
        out->head = (struct bh_head){0};
        snprintf(out->head.branch, sizeof out->head.branch, "%s", branch);
    }
    return !name[0] || !strcmp(name, out->head.branch);
}

static bool recall_branch(const char *name, struct branch *out)
{
    BH_LOCK_SCOPE(&mutex);
    for (int i = 0; i < BRANCHES; i++)
        if (!strcmp(branches[i].name, name) && is_fresh(branches[i].got_ms, FRESH_MS)) {
            *out = branches[i].branch;
            return true;
        }
    return false;
}

static void remember_branch(const struct branch *b, uint64_t asked_at)
{
    BH_LOCK_SCOPE(&mutex);
    if (asked_at != changes)
        return;
    struct known_branch *k = &branches[0];
    for (int i = 0; i < BRANCHES; i++) {
        if (!strcmp(branches[i].name, b->head.branch)) {
            k = &branches[i];
            break;
        }
        if (branches[i].got_ms < k->got_ms)
            k = &branches[i];
    }
    memcpy(k->name, b->head.branch, sizeof k->name);
    k->branch = *b;
    k->got_ms = bh_mono_ms();
}

/* A branch without a head: upstream's, or one that has nothing yet. */
static int look_for_name(struct daemon *d, const char *name, struct branch *out,
                         const struct bh_call *call, struct bh_error *err)
{
    BH_FREE char **all = NULL;
    size_t count_ = 0;
    int rc = bh_history_branches(bh_history_of(d->bh), &all, &count_, call, err);
    for (size_t i = 0; rc == 0 && i < count_; i++) {
        if (strcmp(all[i], name) != 0)
            continue;
        *out = (struct branch){0};
        snprintf(out->head.branch, sizeof out->head.branch, "%s", name);
        return 0;
    }
    return rc ? rc : bh_fail(err, ENOENT, "there is no branch %s", name);
}

int branch_get(struct daemon *d, const char *name, struct branch *out, const struct bh_call *call,
               struct bh_error *err)
{
    uint64_t asked_at = changes_now();
    if (current_branch(d, name, out))
        return 0;
    if (!bh_is_branch_name(name))
        return bh_fail(err, ENOENT, "\"%.100s\" is no name of a branch", name);
    if (recall_branch(name, out))
        return 0;
    if (!call)
        return EAGAIN;
    int rc = bh_history_head(bh_history_of(d->bh), name, &out->head, call, err);
    out->has_history = rc == 0 && out->head.newest.id[0];
    if (rc == ENOENT)
        rc = look_for_name(d, name, out, call, err);
    if (rc == 0)
        remember_branch(out, asked_at);
    return rc;
}

/* --- names in a history --- */

static struct known_name *name_slot(const char *branch, const char *name)
{
    return &names[view_ino(branch, name) % NAMES];
}

/* 0: is there; ENOENT; EAGAIN: not known. */
static int recall_name(const char *branch, const char *name, int64_t life_ms,
                       struct bh_index_entry *out)
{
    BH_LOCK_SCOPE(&mutex);
    const struct known_name *k = name_slot(branch, name);
    if (strcmp(k->branch, branch) || strcmp(k->name, name) || !is_fresh(k->got_ms, life_ms))
        return EAGAIN;
    *out = k->e;
    return k->is_there ? 0 : ENOENT;
}

/* e: NULL if it is not there. */
static void remember_name(const char *branch, const char *name, const struct bh_index_entry *e,
                          uint64_t asked_at)
{
    BH_LOCK_SCOPE(&mutex);
    struct known_name *k = name_slot(branch, name);
    if (asked_at != changes || strlen(name) >= sizeof k->name)
        return;
    *k = (struct known_name){.is_there = e != NULL, .got_ms = bh_mono_ms()};
    snprintf(k->branch, sizeof k->branch, "%s", branch);
    snprintf(k->name, sizeof k->name, "%s", name);
    if (e)
        k->e = *e;
}

/* 0, ENOENT, EAGAIN. */
static int recall_snapshot(const struct branch *b, const char *name, struct bh_index_entry *out)
{
    bool is_id = bh_is_snapshot_id(name);
    if ((!is_id && !bh_is_label(name)) || !b->has_history)
        return ENOENT;
    if (is_id && !strcmp(name, b->head.newest.id)) {
        *out = b->head.newest;
        return 0;
    }
    struct snaps *s = is_id ? snaps_known(&b->head.index) : NULL;
    if (s) {
        int rc = find_in(s, name, out);
        snaps_put(s);
        return rc;
    }
    /* What is not there may be there a moment later: a flush, a label by another mount. */
    return recall_name(b->head.branch, name, FRESH_MS, out) == 0 ? 0 : EAGAIN;
}

int snapshot_get(struct daemon *d, const struct branch *b, const char *name,
                 struct bh_index_entry *out, const struct bh_call *call, struct bh_error *err)
{
    uint64_t asked_at = changes_now();
    int rc = recall_snapshot(b, name, out);
    if (rc == ENOENT)
        return bh_fail(err, ENOENT, "branch %s has no snapshot %.100s", b->head.branch, name);
    if (rc == 0 || !call)
        return rc;
    rc = bh_history_find(bh_history_of(d->bh), &b->head, name, out, call, err);
    if (rc == 0 || rc == ENOENT)
        remember_name(b->head.branch, name, rc == 0 ? out : NULL, asked_at);
    return rc;
}

/* --- labels --- */

static int copy_labels(const struct label *from, size_t n, struct label **out, size_t *count_)
{
    *out = malloc((n + 1) * sizeof **out);
    if (!*out)
        return ENOMEM;
    if (n)
        memcpy(*out, from, n * sizeof *from);
    *count_ = n;
    return 0;
}

/* 0, ENOMEM, EAGAIN. */
static int recall_labels(const struct branch *b, struct label **out, size_t *count_)
{
    if (!b->has_history)
        return copy_labels(NULL, 0, out, count_);
    BH_LOCK_SCOPE(&mutex);
    if (strcmp(labels.branch, b->head.branch) || !is_fresh(labels.got_ms, FRESH_MS))
        return EAGAIN;
    return copy_labels(labels.labels, labels.count, out, count_);
}

static void remember_labels(const struct branch *b, const struct label *all, size_t n,
                            uint64_t asked_at)
{
    struct label *copy;
    size_t count_;
    BH_LOCK_SCOPE(&mutex);
    if (asked_at != changes || copy_labels(all, n, &copy, &count_) != 0)
        return;
    free(labels.labels);
    labels = (struct known_labels){.labels = copy, .count = n, .got_ms = bh_mono_ms()};
    memcpy(labels.branch, b->head.branch, sizeof labels.branch);
}

/* What label `name` stands for in that history. */
static int resolve_label(struct daemon *d, const struct branch *b, const char *name,
                         struct bh_index_entry *e, const struct bh_call *call, struct bh_error *err)
{
    int rc = recall_name(b->head.branch, name, LABEL_FRESH_MS, e);
    return rc == EAGAIN ? snapshot_get(d, b, name, e, call, err) : rc;
}

int labels_get(struct daemon *d, const struct branch *b, bool fresh, struct label **out,
               size_t *count_, const struct bh_call *call, struct bh_error *err)
{
    BH_FREE char **all = NULL;
    size_t n = 0, kept = 0;
    uint64_t asked_at = changes_now();
    int rc = fresh && b->has_history ? EAGAIN : recall_labels(b, out, count_);
    if (rc == ENOMEM)
        return bh_fail(err, ENOMEM, "out of memory while listing labels");
    if (rc == 0 || !call)
        return rc;
    rc = bh_history_labels(bh_history_of(d->bh), &all, &n, call, err);
    if (rc)
        return rc;
    BH_FREE struct label *found = calloc(n + 1, sizeof *found);
    if (!found)
        return bh_fail(err, ENOMEM, "out of memory while listing labels");
    for (size_t i = 0; i < n; i++) {
        struct bh_index_entry e;
        rc = resolve_label(d, b, all[i], &e, call, err);
        if (rc == ENOENT) /* another branch's */
            continue;
        if (rc)
            return rc;
        snprintf(found[kept].name, sizeof found[kept].name, "%s", all[i]);
        memcpy(found[kept++].id, e.id, sizeof e.id);
    }
    remember_labels(b, found, kept, asked_at);
    *out = bh_take_ptr(found);
    *count_ = kept;
    return 0;
}
