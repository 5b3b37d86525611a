/* Reclaiming what no snapshot needs any more: in two runs, a grace apart. The first puts what it
 * finds on the condemned list KEY.bhfs/gc (written by compare-and-swap), a later one deletes what
 * is on it for the grace and still needed by nobody. Packs of which little is needed are rewritten
 * first (gc_compact.c): what is needed of them is in other packs then, and moved records
 * (repo/moved.h) lead there. Needed is what is reachable from
 *
 *   - the heads of all branches, those deleted within the grace among them: their index, its
 *     entries that are not dropped, the newest;
 *   - labels, whatever became of the branch;
 *   - pins that are not over (below).
 *
 * What makes that safe beside writers at work, who ask gc nothing: whoever makes a head, label or
 * pin name a root has it named by another of them until that is done ("from hand to hand"). gc sees
 * all of them as they were at one moment, so it sees the one or the other. What was just uploaded
 * and is not named yet is younger than the grace. Who can hold to neither asks before: see the
 * checks below. Times are the store's. */
#ifndef BH_REPO_GC_H
#define BH_REPO_GC_H

#include "repo/head.h"
#include "repo/retention.h"
#include "util/sha256.h"

struct bh_history;

/* What retention has dropped (or would) from the index of a branch. */
struct bh_gc_plan {
    char branch[BH_BRANCH_MAX]; /* "": none was looked at */
    size_t snapshots;           /* that it had */
    char (*dropped)[BH_SNAPSHOT_ID_MAX];
    size_t count;
    char why_not[BH_ERROR_TEXT_MAX]; /* it was not applied; "" */
};
void bh_gc_plan_free(struct bh_gc_plan *plan);

/* Blobs of files/ (gc_blobs.c): those that no snapshot names which is kept, nor what `live` tells,
 * nor a plain object. */
typedef int bh_gc_blob_fn(void *arg, const uint8_t hash[BH_SHA256_LEN]); /* 0 or ENOMEM */
struct bh_gc_blobs {
    const char *within; /* what the keys of this bucket's databases begin with */
    const char *prefix; /* of the blobs' keys: begins with `within` */
    /* Calls fn for what the live database and its files need now, flushed or not. NULL: nothing. */
    int (*live)(void *arg, bh_gc_blob_fn *fn, void *fn_arg, struct bh_error *err);
    void *arg;
};

struct bh_gc_options {
    int64_t grace_ms;
    bool dry_run;                    /* nothing is written */
    bool compact;                    /* packs of which little is needed are rewritten */
    unsigned parallel;               /* requests at once, 1 to 64 */
    const struct bh_gc_blobs *blobs; /* NULL: they are left alone */
    const struct bh_gc_plan *plan;   /* NULL; told in the report, and for a dry run taken as done */
};

/* One run. prefix: "KEY.bhfs/". report gets lines "name: value", also of a run that failed. EBUSY:
 * another gc was faster. EIO, and whatever reading can end with: a root or node cannot be read, or
 * a pack that is needed is missing; then nothing is condemned or deleted. */
int bh_gc_run(struct bh_bucket *b, const char *prefix, uint32_t block_size,
              const struct bh_gc_options *options, struct bh_strbuf *report,
              const struct bh_call *call, struct bh_error *err);

/* --- of a mount (gc_history.c) --- */

/* Marks what the retention drops in the index of the current branch; under the turn. Nothing is
 * marked by a dry run, by a mount without the lease, and where the branch has no history: why_not
 * says so. plan is freed by the caller, also after a failure. */
int bh_history_retain(struct bh_history *h, const struct bh_retention *keep, bool dry_run,
                      struct bh_gc_plan *plan, const struct bh_call *call, struct bh_error *err);
/* bh_gc_run on its bucket; any thread, flushes go on beside it. EROFS. */
int bh_history_collect(struct bh_history *h, int64_t grace_ms, bool dry_run,
                       const struct bh_gc_plan *plan, struct bh_strbuf *report,
                       const struct bh_call *call, struct bh_error *err);
/* Both, for who has the turn all the time. */
int bh_history_gc(struct bh_history *h, const struct bh_retention *keep, int64_t grace_ms,
                  bool dry_run, struct bh_strbuf *report, const struct bh_call *call,
                  struct bh_error *err);

/* --- for who names blobs (gc_blobs.c) --- */

/* What is doomed is deleted within so long, or not before it is said again. */
#define BH_GC_DOOM_MS 120000

/* The blobs that are condemned, as a writer sees them. Zeros at first. One thread at a time. */
struct bh_gc_guard;
/* Reads the list anew, if it is another one: one request, or two. */
int bh_gc_guard_look(struct bh_gc_guard **g, struct bh_bucket *b, const char *prefix,
                     const struct bh_call *call, struct bh_error *err);
/* Whether it is condemned, or was deleted lately. *wait_ms: so long it may be about to be deleted
 * still, of now_ms by the store's clock; 0: not before the list changes. */
bool bh_gc_guard_has(const struct bh_gc_guard *g, const uint8_t hash[BH_SHA256_LEN], int64_t now_ms,
                     int64_t *wait_ms);
/* Nothing is on it. */
bool bh_gc_guard_is_empty(const struct bh_gc_guard *g);
void bh_gc_guard_free(struct bh_gc_guard *g);

/* --- pins: KEY.bhfs/pins/ID --- */

/* A pin is a root for who has no head that names what he uses: a read-only mount, a writer whose
 * lease was taken from him and who may come back with changes. It is a head in all but its place:
 * what `what` names (newest, and index unless that is empty) stays until what->lease.expires_ms,
 * which its owner renews in time. id: of the form of a branch name; commonly what->lease.writer.
 * Replaces one of that id. */
int bh_pin_put(struct bh_bucket *b, const char *prefix, const char *id, const struct bh_head *what,
               const struct bh_call *call, struct bh_error *err);
/* Success also if there is none. */
int bh_pin_delete(struct bh_bucket *b, const char *prefix, const char *id,
                  const struct bh_call *call, struct bh_error *err);

/* --- checks for who is about to name something that may have been condemned --- */

/* Packs that he uploaded himself, longer than a fraction of the grace ago. 0: they stay for another
 * grace. EAGAIN: one is condemned or gone: they must be uploaded anew. */
int bh_gc_check_packs(struct bh_bucket *b, const char *prefix, const uint64_t *ids, size_t count,
                      const struct bh_call *call, struct bh_error *err);
/* The same for all that a root reaches; reads all of its nodes, and lists all packs. EIO: a node
 * cannot be read. */
int bh_gc_check_root(struct bh_bucket *b, const char *prefix, struct bh_trees *t,
                     const struct bh_root *root, const struct bh_call *call, struct bh_error *err);
/* The same for all that a head names: its newest snapshot, its index and all in it that is not
 * dropped; records too. */
int bh_gc_check_head(struct bh_bucket *b, const char *prefix, struct bh_trees *t,
                     const struct bh_head *head, const struct bh_call *call, struct bh_error *err);

#endif
