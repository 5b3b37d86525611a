/* The history layer: every flush of a branch as a snapshot whose cost is what changed, and
 * mounting, restoring, forking and switching by swapping what the live database is based on. On top
 * of packs, trees, the index and heads; the plain layer goes beside it.
 *
 * One thread at a time calls what writes or moves the live database (whoever has the turn of struct
 * bh); what is marked "any thread" may be called beside it. */
#ifndef BH_REPO_HISTORY_H
#define BH_REPO_HISTORY_H

#include "repo/head.h"
#include "repo/plain.h"
#include "util/sha256.h"

struct bh_history;

/* cfg, bucket and plain must outlive it; live must be closed before it is freed, as reads of the
 * live database may need it. read_only: nothing is written to the bucket but a pin, which keeps gc
 * off what is read. */
int bh_history_new(struct bh_history **out, const struct bh_config *cfg, struct bh_bucket *bucket,
                   struct bh_plain *plain, bool read_only, struct bh_error *err);
void bh_history_free(struct bh_history *h);
/* Before anything else. */
void bh_history_set_live(struct bh_history *h, struct bh_live *live);
/* How the verbs below flush: what a flush is besides bh_history_flush (counts, hooks) is its
 * owner's. Before the first of them. */
typedef int bh_history_flush_fn(void *arg, const struct bh_call *call, struct bh_error *err);
void bh_history_set_flush(struct bh_history *h, bh_history_flush_fn *fn, void *arg);
/* The file store, whose names are in names.db (live/live.h). Hooks are called on the thread that
 * calls what needs them, but for is_dirty; none while another is under way. */
struct bh_files_hooks {
    void *arg;
    /* Once, early in bh_history_load: names.db can be read, and nothing was flushed or saved yet.
     * unclean: no orderly end came before. */
    int (*open)(void *arg, bool unclean, struct bh_error *err);
    /* Names or contents changed since the last begin(). Any thread, at any time; must not wait. */
    bool (*is_dirty)(void *arg);
    /* Before each freeze: contents are published and in the bucket, rows are in live.db, names.db
     * has it all, no transaction on it is open, and it does not change until frozen() is called.
     * Failed: nothing is held, and frozen() is not called. */
    int (*begin)(void *arg, const struct bh_call *call, struct bh_error *err);
    /* Both databases are frozen, or could not be. */
    void (*frozen)(void *arg);
    /* What the last begin() published is named by the head in the bucket. */
    void (*named)(void *arg);
    /* Now and then, under the turn: what was uploaded and not named by a flush is kept from gc. */
    int (*keep)(void *arg, const struct bh_call *call, struct bh_error *err);
    /* Calls fn (0 or ENOMEM) for every content that names or rows refer to now. Any thread, also
     * beside all others. */
    int (*each_blob)(void *arg, int (*fn)(void *fn_arg, const uint8_t hash[BH_SHA256_LEN]),
                     void *fn_arg, struct bh_error *err);
    /* Before the databases are replaced: clients' changes of files wait from now on, those under
     * way have ended, and nothing reads names.db for long. begin() and frozen() may follow for a
     * last flush. Failed: the gate is open. */
    int (*close_gate)(void *arg, struct bh_error *err);
    /* After it. swapped: both are others now, or one of them is. */
    void (*open_gate)(void *arg, bool swapped);
};
/* Before bh_history_load, in which they may be called already (names.db can be read then). NULL:
 * there is no file store; what names.db has is kept as it is. */
void bh_history_set_files(struct bh_history *h, const struct bh_files_hooks *hooks);
/* Ends reads of the live database that wait for the bucket, and all to come until it is taken back.
 * Any thread. */
void bh_history_stop_reads(struct bh_history *h, bool stop);

/* At start: brings the live database to the newest snapshot of the branch, whose blocks come when
 * they are read, or goes on with what the state directory has; takes the lease. Where there is no
 * history yet the plain snapshot is loaded (bh_plain_load). EBUSY: another writer has the branch.
 */
int bh_history_load(struct bh_history *h, struct bh_load_report *report, const struct bh_call *call,
                    struct bh_error *err);

/* Whether a flush would have something to do. */
bool bh_history_is_dirty(struct bh_history *h);
/* Makes what changed a snapshot. No request where nothing was written. last: the mount ends.
 * ESTALE: another writer has taken the branch; the changes stay local and can be saved by
 * bh_history_fork. */
int bh_history_flush(struct bh_history *h, bool keep_previous, bool last,
                     struct bh_flush_result *result, const struct bh_call *call,
                     struct bh_error *err);

/* Renews lease and pin if a third of their life is over; lets go of them (of the pin, unless
 * changes are left behind). */
int bh_history_renew(struct bh_history *h, const struct bh_call *call, struct bh_error *err);
int bh_history_release(struct bh_history *h, const struct bh_call *call, struct bh_error *err);
/* An orderly end: what was fetched is on the disk, so the next start believes the block map also if
 * the machine goes down in between. */
int bh_history_rest(struct bh_history *h, struct bh_error *err);

/* --- verbs --- */

/* An id, a label, "prev", an RFC 3339 time, or "10m ago", in the history of the current branch:
 * flushes, then puts that snapshot back as the newest. ENOENT, EINVAL, EBUSY. */
int bh_history_restore(struct bh_history *h, const char *what, char id[BH_SNAPSHOT_ID_MAX],
                       const struct bh_call *call, struct bh_error *err);
/* A branch that begins with the content as it is now. EEXIST, EINVAL. */
int bh_history_fork(struct bh_history *h, const char *name, const struct bh_call *call,
                    struct bh_error *err);
/* Flushes this branch and goes over to that one. ENOENT, EBUSY: another writer has it. */
int bh_history_switch(struct bh_history *h, const char *name, const struct bh_call *call,
                      struct bh_error *err);
/* EBUSY: the current one, or another writer has it; EPERM: main. */
int bh_history_delete_branch(struct bh_history *h, const char *name, const struct bh_call *call,
                             struct bh_error *err);
int bh_history_rename_branch(struct bh_history *h, const char *from, const char *to,
                             const struct bh_call *call, struct bh_error *err);
/* what: as for a restore; NULL: flushes, and labels the newest. EEXIST, EINVAL, ENOENT. */
int bh_history_label(struct bh_history *h, const char *what, const char *label,
                     const struct bh_call *call, struct bh_error *err);
int bh_history_unlabel(struct bh_history *h, const char *label, const struct bh_call *call,
                       struct bh_error *err);
int bh_history_rename_label(struct bh_history *h, const char *from, const char *to,
                            const struct bh_call *call, struct bh_error *err);
/* Drops a snapshot from the history of the current branch. EBUSY: it is the newest, or labelled. */
int bh_history_drop(struct bh_history *h, const char *id, const struct bh_call *call,
                    struct bh_error *err);

/* --- following: a read-only mount goes where another one takes the branch (snapshot.follow) --- */

/* Looks at the head of the branch, with one request. *newer: it has another snapshot than the live
 * database shows. ENOENT: there is no such branch (yet), or it was deleted; ESTALE: the head went
 * back. What is shown stays in any case. */
int bh_history_look(struct bh_history *h, bool *newer, const struct bh_call *call,
                    struct bh_error *err);
/* The live database becomes what the head that was seen last has: see bh_live_step. EBUSY: a client
 * reads. */
int bh_history_step(struct bh_history *h, int64_t patience_ms, const struct bh_call *call,
                    struct bh_error *err);

/* --- looking; any thread --- */

/* The head of a branch as it is in the bucket (of the current one: as known). ENOENT. */
int bh_history_head(struct bh_history *h, const char *branch, struct bh_head *out,
                    const struct bh_call *call, struct bh_error *err);
/* Names of all branches, ascending: of heads, and upstream's. An array and its strings in one
 * allocation, freed by the caller. */
int bh_history_branches(struct bh_history *h, char ***names, size_t *count,
                        const struct bh_call *call, struct bh_error *err);
/* Entries of a history that are not dropped, oldest first; freed by the caller. */
int bh_history_snapshots(struct bh_history *h, const struct bh_head *head,
                         struct bh_index_entry **entries, size_t *count, const struct bh_call *call,
                         struct bh_error *err);
int bh_history_labels(struct bh_history *h, char ***names, size_t *count,
                      const struct bh_call *call, struct bh_error *err);
/* An id or a label in the history of that head. ENOENT. */
int bh_history_find(struct bh_history *h, const struct bh_head *head, const char *id_or_label,
                    struct bh_index_entry *out, const struct bh_call *call, struct bh_error *err);
/* Bytes of the database of a snapshot; *got: less at its end. */
int bh_history_read(struct bh_history *h, const struct bh_index_entry *e, uint64_t offset,
                    void *buf, size_t len, size_t *got, const struct bh_call *call,
                    struct bh_error *err);
/* The same of its names.db. */
int bh_history_read_names(struct bh_history *h, const struct bh_index_entry *e, uint64_t offset,
                          void *buf, size_t len, size_t *got, const struct bh_call *call,
                          struct bh_error *err);
/* The text of `info`. */
int bh_history_info_text(struct bh_history *h, const struct bh_index_entry *e,
                         struct bh_strbuf *out);

struct bh_history_status {
    bool ready; /* there is a history */
    char branch[BH_BRANCH_MAX];
    char snapshot[BH_SNAPSHOT_ID_MAX];
    uint64_t snapshots; /* in its index */
    bool have_lease, fenced, advisory;
    int64_t lease_left_ms;
    char plain_error[BH_ERROR_TEXT_MAX]; /* why it could not be written last; "" */
    uint64_t absent_bytes;
    uint32_t block_size;
};
void bh_history_status(struct bh_history *h, struct bh_history_status *out);

#endif
