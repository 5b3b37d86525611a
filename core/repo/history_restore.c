/* Points in the history: which one is meant, putting one back, labels, dropping. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "repo/history_private.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/parse.h"

/* --- which one --- */

/* "2026-11-27T07:21:49Z", with a fraction, with an offset ("+01:00"), or a space for the T. */
static bool parse_time(const char *s, int64_t *ms)
{
    struct tm tm = {0};
    const char *p = strptime(s, "%Y-%m-%d", &tm);
    if (!p || (*p != 'T' && *p != 't' && *p != ' '))
        return false;
    p = strptime(p + 1, "%H:%M:%S", &tm);
    if (!p)
        return false;
    int64_t fraction = 0, unit = 100;
    if (*p == '.')
        for (p++; *p >= '0' && *p <= '9'; p++, unit /= 10)
            fraction += (*p - '0') * unit;
    int offset = 0, hours, minutes, used = 0;
    if (*p == 'Z' || *p == 'z')
        p++;
    else if ((*p == '+' || *p == '-') && sscanf(p + 1, "%2d:%2d%n", &hours, &minutes, &used) == 2) {
        offset = (*p == '-' ? -1 : 1) * (hours * 60 + minutes) * 60;
        p += 1 + used;
    } else {
        return false;
    }
    *ms = ((int64_t)timegm(&tm) - offset) * 1000 + fraction;
    return *p == '\0';
}

static bool parse_ago(const char *s, int64_t *ms)
{
    static const char ago[] = " ago";
    char span[32];
    size_t len = strlen(s);
    int64_t back;
    if (len <= sizeof ago - 1 || len - (sizeof ago - 1) >= sizeof span ||
        strcasecmp(s + len - (sizeof ago - 1), ago) != 0)
        return false;
    memcpy(span, s, len - (sizeof ago - 1));
    span[len - (sizeof ago - 1)] = '\0';
    if (bh_parse_duration(span, &back) != 0)
        return false;
    *ms = bh_real_ms() - back;
    return true;
}

static int find_previous(struct bh_history *h, const struct bh_head *head, struct bh_index_entry *e,
                         const struct bh_call *call, struct bh_error *err)
{
    uint64_t n = bh_index_count(&head->index);
    int rc = ENOENT;
    for (n = n > 0 ? n - 1 : 0; n > 0; n--) { /* the last one is the newest */
        rc = bh_index_get(h->trees, &head->index, n - 1, 1, e, call, err);
        if (rc || !(e->flags & BH_ENTRY_DROPPED))
            return rc;
        rc = ENOENT;
    }
    return bh_fail(err, rc, "branch %s has no snapshot before the newest", head->branch);
}

static int find_labelled(struct bh_history *h, const char *label, char id[BH_SNAPSHOT_ID_MAX],
                         const struct bh_call *call, struct bh_error *err)
{
    int rc = bh_label_get(h->bucket, h->prefix, label, id, call, err);
    return rc == ENOENT ? bh_fail(err, ENOENT, "there is no snapshot and no label %s", label) : rc;
}

int bh_history_find(struct bh_history *h, const struct bh_head *head, const char *id_or_label,
                    struct bh_index_entry *out, const struct bh_call *call, struct bh_error *err)
{
    char id[BH_SNAPSHOT_ID_MAX];
    if (!h->trees)
        return bh_fail(err, ENOENT, "there is no history in this bucket yet");
    if (bh_is_snapshot_id(id_or_label)) {
        snprintf(id, sizeof id, "%s", id_or_label);
    } else if (bh_is_label(id_or_label)) {
        int rc = find_labelled(h, id_or_label, id, call, err);
        if (rc)
            return rc;
    } else {
        return bh_fail(err, ENOENT, "\"%.100s\" is neither a snapshot's id nor a label",
                       id_or_label);
    }
    int rc = bh_index_find(h->trees, &head->index, id, out, NULL, call, err);
    if (rc == ENOENT || (rc == 0 && out->flags & BH_ENTRY_DROPPED))
        return bh_fail(err, ENOENT, "snapshot %s is not in the history of branch %s", id,
                       head->branch);
    return rc;
}

static int resolve(struct bh_history *h, const char *what, struct bh_index_entry *e,
                   const struct bh_call *call, struct bh_error *err)
{
    int64_t ms;
    if (!strcmp(what, "prev"))
        return find_previous(h, &h->head, e, call, err);
    if (parse_time(what, &ms) || parse_ago(what, &ms)) {
        int rc = bh_index_at_time(h->trees, &h->head.index, ms, e, call, err);
        return rc == ENOENT ? bh_fail(err, ENOENT, "branch %s has no snapshot as old as %s",
                                      h->head.branch, what)
                            : rc;
    }
    if (!bh_is_snapshot_id(what) && !bh_is_label(what))
        return bh_fail(err, EINVAL,
                       "\"%.100s\" is no snapshot: give an id or a label (ls snapshots), prev, a "
                       "time like 2026-01-31T12:00:00Z, or \"10m ago\"",
                       what);
    return bh_history_find(h, &h->head, what, e, call, err);
}

static int prepare(struct bh_history *h, const struct bh_call *call, struct bh_error *err)
{
    if (h->read_only)
        return bh_fail(err, EROFS, "this is a read-only mount: its history is not changed");
    int rc = history_open(h, true, call, err);
    return rc ? rc : h->flush(h->flush_arg, call, err);
}

/* --- restore --- */

/* After the flush, which may have found another head: what it has is what is checked below. */
static int look_again(struct bh_history *h, const char *what, struct bh_index_entry *e,
                      const struct bh_call *call, struct bh_error *err)
{
    char id[BH_SNAPSHOT_ID_MAX];
    if (!strcmp(what, "prev"))
        return resolve(h, what, e, call, err);
    memcpy(id, e->id, sizeof id);
    return bh_history_find(h, &h->head, id, e, call, err);
}

int bh_history_restore(struct bh_history *h, const char *what, char id[BH_SNAPSHOT_ID_MAX],
                       const struct bh_call *call, struct bh_error *err)
{
    struct bh_index_entry e;
    int rc =
        h->read_only ? bh_fail(err, EROFS, "this is a read-only mount: nothing is restored") : 0;
    if (rc == 0)
        rc = history_open(h, true, call, err);
    if (rc == 0 &&
        strcmp(what, "prev")) /* a wrong name changes nothing; prev means before the flush */
        rc = resolve(h, what, &e, call, err);
    if (rc == 0)
        rc = h->flush(h->flush_arg, call, err);
    if (rc == 0)
        rc = look_again(h, what, &e, call, err);
    if (rc)
        return rc;
    rc = history_pin_entry(h, &e, call, err);
    if (rc == 0)
        rc = history_check_entry(h, &e, "nothing was restored", call, err);
    if (rc == 0)
        rc = history_swap_flushed(h, &h->head, &e, e.id, call, err);
    if (rc == 0)
        rc = h->flush(h->flush_arg, call, err);
    history_keep_pin(h, call); /* until it is flushed */
    memcpy(id, e.id, BH_SNAPSHOT_ID_MAX);
    if (rc == 0)
        bh_log(BH_LOG_INFO, "restored %s: it is snapshot %s now", e.id, h->head.newest.id);
    return rc;
}

/* --- labels --- */

static int check_label(const char *label, struct bh_error *err)
{
    if (bh_is_label(label))
        return 0;
    return bh_fail(
        err, EINVAL,
        "\"%.100s\" is no name for a label: 1 to 100 of letters, digits, - and _, and not "
        "of the form of an id",
        label);
}

/* The error that led here stays. */
static void take_label_back(struct bh_history *h, const char *label, const struct bh_call *call,
                            struct bh_error *err)
{
    struct bh_error why;
    int rc = bh_label_delete(h->bucket, h->prefix, label, call, &why);
    if (rc == 0 || rc == ENOENT)
        return;
    bh_log(BH_LOG_ERROR, "label %s: %s; it could not be removed again: %s", label, err->text,
           why.text);
    bh_fail_prefix(err, err->code, "label %s is there, but cannot be relied on: rmdir snapshots/%s",
                   label, label);
}

static int give_label(struct bh_history *h, const char *label, const struct bh_index_entry *e,
                      const struct bh_call *call, struct bh_error *err)
{
    char what[BH_BRANCH_MAX + 32];
    int rc = bh_label_put(h->bucket, h->prefix, label, e->id, call, err);
    if (rc)
        return rc;
    snprintf(what, sizeof what, "label %s was not given", label);
    rc = history_check_entry(h, e, what, call, err);
    if (rc)
        take_label_back(h, label, call, err);
    return rc;
}

int bh_history_label(struct bh_history *h, const char *what, const char *label,
                     const struct bh_call *call, struct bh_error *err)
{
    struct bh_index_entry e;
    int rc = check_label(label, err);
    if (rc == 0 && h->read_only)
        rc = bh_fail(err, EROFS, "this is a read-only mount: its labels are not changed");
    if (rc == 0)
        rc = what ? history_open(h, true, call, err) : prepare(h, call, err);
    if (rc == 0 && what)
        rc = resolve(h, what, &e, call, err);
    else if (rc == 0)
        e = h->head.newest;
    if (rc == 0 && !e.id[0])
        rc = bh_fail(err, ENOENT, "branch %s has no snapshot yet: write something first",
                     h->head.branch);
    return rc ? rc : give_label(h, label, &e, call, err);
}

int bh_history_unlabel(struct bh_history *h, const char *label, const struct bh_call *call,
                       struct bh_error *err)
{
    if (h->read_only)
        return bh_fail(err, EROFS, "this is a read-only mount: its labels are not changed");
    int rc = check_label(label, err);
    return rc ? rc : bh_label_delete(h->bucket, h->prefix, label, call, err);
}

int bh_history_rename_label(struct bh_history *h, const char *from, const char *to,
                            const struct bh_call *call, struct bh_error *err)
{
    char id[BH_SNAPSHOT_ID_MAX], now[BH_SNAPSHOT_ID_MAX];
    if (h->read_only)
        return bh_fail(err, EROFS, "this is a read-only mount: its labels are not changed");
    int rc = check_label(from, err);
    if (rc == 0)
        rc = check_label(to, err);
    if (rc == 0)
        rc = find_labelled(h, from, id, call, err);
    if (rc == 0)
        rc = bh_label_put(h->bucket, h->prefix, to, id, call, err);
    if (rc)
        return rc;
    /* Until here the old one has kept the snapshot. */
    rc = find_labelled(h, from, now, call, err);
    if (rc == 0 && strcmp(now, id))
        rc = bh_fail(err, ESTALE, "label %s was given to another snapshot meanwhile", from);
    if (rc)
        take_label_back(h, to, call, err);
    return rc ? rc : bh_label_delete(h->bucket, h->prefix, from, call, err);
}

/* --- dropping --- */

struct label_search {
    struct bh_history *history;
    const struct bh_call *call;
    const char *id;
    char label[BH_BRANCH_MAX];
};

static int look_at_label(void *arg, const char *name, struct bh_error *err)
{
    struct label_search *s = arg;
    char id[BH_SNAPSHOT_ID_MAX];
    int rc = bh_label_get(s->history->bucket, s->history->prefix, name, id, s->call, err);
    if (rc == ENOENT)
        return 0;
    if (rc == 0 && !strcmp(id, s->id))
        snprintf(s->label, sizeof s->label, "%s", name);
    return rc;
}

int bh_history_drop(struct bh_history *h, const char *id, const struct bh_call *call,
                    struct bh_error *err)
{
    struct bh_index_entry e;
    struct bh_pack_writer *w;
    struct label_search search = {.history = h, .call = call, .id = id};
    uint64_t n;
    int rc = prepare(h, call, err);
    if (rc == 0)
        rc = bh_history_find(h, &h->head, id, &e, call, err);
    if (rc == 0 && !strcmp(id, h->head.newest.id))
        rc = bh_fail(err, EBUSY, "snapshot %s is the newest of branch %s", id, h->head.branch);
    if (rc == 0)
        rc = bh_labels_list(h->bucket, h->prefix, look_at_label, &search, call, err);
    if (rc == 0 && search.label[0])
        rc = bh_fail(err, EBUSY, "snapshot %s has the label %s: rmdir snapshots/%s first", id,
                     search.label, search.label);
    if (rc == 0)
        rc = bh_index_find(h->trees, &h->head.index, id, &e, &n, call, err);
    if (rc == 0)
        rc = bh_pack_writer_new(&w, h->packs, BH_TREE_INDEX, call, err);
    if (rc)
        return rc;
    struct bh_head head = h->head;
    e.flags |= BH_ENTRY_DROPPED;
    rc = bh_index_replace(h->trees, &h->head.index, &n, &e, 1, w, &head.index, call, err);
    if (rc == 0)
        rc = bh_pack_writer_finish(w, err);
    bh_pack_writer_free(w);
    if (rc == 0)
        rc = history_put_head(h, &head, call, err);
    return rc == ESTALE ? history_lost_head(h, call, err) : rc;
}
