/* What the history_*.c share. */
#ifndef BH_REPO_HISTORY_PRIVATE_H
#define BH_REPO_HISTORY_PRIVATE_H

#include <pthread.h>

#include "config/config.h"
#include "repo/history.h"
#include "repo/plain_private.h"

struct history_pin {
    int64_t until_ms; /* when it ends, by the store's clock; 0: there is none, as far as known */
    bool left;        /* one of an earlier life may be there, or one of who took the branch then */
    bool refused;     /* it cannot be had: not tried again */
};

struct bh_history {
    const struct bh_config *cfg;
    struct bh_bucket *bucket;
    struct bh_plain *plain;
    struct bh_live *live;
    bool read_only;
    char *prefix; /* "KEY.bhfs/" */
    atomic_bool stopping;
    bh_history_flush_fn *flush; /* what the verbs flush with */
    void *flush_arg;
    struct bh_files_hooks files; /* all NULL: none */
    bool swapping; /* the content is being replaced, with the gate of the file store closed */

    /* Under the turn, alone: */
    bool settled;             /* the format object was seen */
    int64_t plain_written_ms; /* monotonic: when KEY was written last */
    struct history_pin pin;
    bool held;  /* the branch was ours as we came, or since: whoever has it now has taken it from us
                 */
    bool doubt; /* the head may be another: it is read again before it is written */
    int64_t last_id_ms;
    uint64_t seen_sequence;    /* of a follower: of the last head it saw; 0: none */
    struct history_step *step; /* of one: that waits for readers */

    /* What follows is written under the turn and this, and read under one of them. */
    pthread_mutex_t mutex;
    struct bh_packs *packs; /* NULL until there is a history; stay when they are there */
    struct bh_trees *trees;
    uint32_t block_size;
    bool have_head; /* head and etag are what the bucket has, as far as we know */
    struct bh_head head;
    char etag[BH_ETAG_MAX];
    bool fenced, advisory;
    struct bh_lease taker; /* if fenced: who has the branch now, as far as known */
    bool have_clock;
    int64_t clock_offset_ms; /* the store's clock minus bh_boot_ms */
    char plain_error[BH_ERROR_TEXT_MAX];
};

/* --- history.c --- */
/* Opens packs and trees. ENOENT: there is no history, and it may not be begun. */
int history_open(struct bh_history *h, bool may_make, const struct bh_call *call,
                 struct bh_error *err);
/* The same with what the state directory knows, without a request. */
int history_open_offline(struct bh_history *h, struct bh_error *err);
int history_now(struct bh_history *h, int64_t *server_ms, const struct bh_call *call,
                struct bh_error *err);
void history_new_id(struct bh_history *h, int64_t after_ms, char id[BH_SNAPSHOT_ID_MAX],
                    int64_t *time_ms);
/* A new reference; NULL: no memory. */
struct bh_origin *history_origin(struct bh_history *h, const struct bh_root *root,
                                 const char *what);
/* Absent content of s comes from there from now on. */
int history_set_origin(struct bh_history *h, struct bh_store *s, const struct bh_root *root,
                       const char *what, struct bh_error *err);
/* The root that the live content is based on; zero root: nothing. */
int history_base_root(struct bh_history *h, struct bh_root *root, struct bh_error *err);
/* Visits what there is in one of two trees and not in the other; a block twice that is another one
 * in each. Zeros are in none. */
int history_walk_differences(struct bh_history *h, const struct bh_root *a, const struct bh_root *b,
                             bh_tree_visit_fn *visit, void *arg, const struct bh_call *call,
                             struct bh_error *err);
/* The live content is based on that snapshot, and no upload is under way: to be saved. */
void history_set_base(struct bh_state *st, const struct bh_index_entry *e);
void history_no_pending(struct bh_state *st);
void history_host(char host[BH_HOST_MAX]);
const char *history_writer(struct bh_history *h);

/* --- history_head.c: with the head in the bucket --- */
/* Reads the head of `branch` into h->head. ENOENT: no such branch; h->etag may be of a tombstone.
 */
int history_read_head(struct bh_history *h, const char *branch, const struct bh_call *call,
                      struct bh_error *err);
/* Takes or renews the lease in *head and puts it; on success h->head is it. ESTALE: another wrote.
 */
int history_put_head(struct bh_history *h, struct bh_head *head, const struct bh_call *call,
                     struct bh_error *err);
/* Whether the branch's newest snapshot is the one that the live content comes from. */
bool history_is_ours(const struct bh_state *st, const struct bh_head *head);
/* After ESTALE: EAGAIN if it was an earlier write of ours, else as history_fenced. */
int history_lost_head(struct bh_history *h, const struct bh_call *call, struct bh_error *err);
int history_fenced(struct bh_history *h, const struct bh_head *now, struct bh_error *err);

/* Whether the lease is one of an earlier life of this state directory. */
bool history_is_own_lease(struct bh_history *h, const struct bh_head *head);
/* Whether the lease in h->head, or in any head, may be taken. EBUSY: another writer has it. */
int history_check_lease(struct bh_history *h, const struct bh_call *call, struct bh_error *err);
int history_may_take(struct bh_history *h, const struct bh_head *head, bool steal,
                     const struct bh_call *call, struct bh_error *err);
/* Whether a branch may be written over a tombstone, of which `there` has sequence and lease. EBUSY:
 * a gc is about to delete it, and would delete the branch. */
int history_check_tombstone(struct bh_history *h, const struct bh_head *there,
                            const struct bh_call *call, struct bh_error *err);
/* Puts *head without a lease; etag is the new one then. */
int history_release_head(struct bh_history *h, struct bh_head *head, char etag[BH_ETAG_MAX],
                         const struct bh_call *call, struct bh_error *err);
/* A branch that an earlier life of this state directory was on is free at once. */
void history_let_go(struct bh_history *h, const char *branch, const struct bh_call *call);

/* --- history_flush.c --- */
/* Makes sure that h->head is what the bucket has, and the branch still ours. ESTALE: it is not. */
int history_sync_head(struct bh_history *h, const struct bh_call *call, struct bh_error *err);

/* --- history_pin.c: KEY.bhfs/pins/WRITER; under the turn --- */
/* The one that who takes a branch from `writer` puts beside that one: "WRITER-taken". Returns id.
 */
#define HISTORY_PIN_ID_MAX (sizeof((struct bh_lease *)0)->writer + sizeof "-taken")
const char *history_taken_pin(const char *writer, char id[HISTORY_PIN_ID_MAX]);
/* Puts it, renews it in time or removes it, as what this mount does wants it. What goes wrong is
 * logged: nothing depends on it at once. */
void history_keep_pin(struct bh_history *h, const struct bh_call *call);
/* The same for a follower, after a step to another head, and not at each of them: gc leaves alone
 * for the grace what has just been given up. */
void history_pin_step(struct bh_history *h, const struct bh_call *call);
/* Before e becomes what the live content is based on. */
int history_pin_entry(struct bh_history *h, const struct bh_index_entry *e,
                      const struct bh_call *call, struct bh_error *err);
/* history_read_head; a mount that only reads has what it read pinned, then. */
int history_read_pinned(struct bh_history *h, const char *branch, const struct bh_call *call,
                        struct bh_error *err);
/* At the end, before the lease goes: it stays for changes that are not flushed, only. */
void history_leave_pin(struct bh_history *h, const struct bh_call *call);

/* --- history_guard.c: a second look, after the write --- */
/* `made` was made a head of what `on`, a head as it was before, names (and what was uploaded just
 * now). ESTALE with a sentence that begins with `what`, as "branch x was not made": gc may have
 * condemned it; made must be taken back. So it must after any other error. */
int history_check_made(struct bh_history *h, const struct bh_head *on, const struct bh_head *made,
                       const char *what, const struct bh_call *call, struct bh_error *err);
/* The same for what names the snapshot e alone, found in the history of h->head. */
int history_check_entry(struct bh_history *h, const struct bh_index_entry *e, const char *what,
                        const struct bh_call *call, struct bh_error *err);

/* --- history_plain.c: the plain object, where it is not what we wrote last --- */
/* Looks at KEY: one of ours is the one that is overwritten next; one by somebody else is saved as
 * branch upstream-TIME first, and said in report (may be NULL). */
int history_meet_plain(struct bh_history *h, struct bh_load_report *report,
                       const struct bh_call *call, struct bh_error *err);
/* A branch that has a plain object only gets a history that begins with it. ENOENT: it has none. */
int history_adopt_branch(struct bh_history *h, const char *name, char etag[BH_ETAG_MAX],
                         const struct bh_call *call, struct bh_error *err);

/* --- history_assemble.c --- */
/* Which bytes of the newest snapshot, `id`, KEY has already. False: not known, or of no use here;
 * KEY is then to be sent as a whole. k->changed is the caller's to free. */
bool history_know_plain(struct bh_history *h, const char *id, struct bh_plain_known *k,
                        const struct bh_call *call);

/* --- history_follow.c --- */
/* At the end of a load: whether that can be followed. found: the branch has a head. */
int history_may_follow(struct bh_history *h, bool found, const struct bh_call *call,
                       struct bh_error *err);
void history_forget_step(struct bh_history *h);

/* --- history_store.c: content into the bucket --- */
#define HISTORY_HEADER 100 /* bytes of a database's header */
/* What a restore or a switch may change of it: page, a header at least, gets that of the other. */
void history_take_counters(unsigned char *page, const unsigned char *from);
struct history_content {
    /* Exactly len bytes at offset. EAGAIN: the freeze was broken. */
    int (*read)(void *arg, void *buf, size_t len, uint64_t offset);
    void *arg;
    uint64_t size;
    const uint64_t *blocks; /* that may differ from base, ascending */
    size_t count;
    struct bh_root base;
};
/* Stores content as the snapshot after those that `on` has, made on `branch`: packs and record, all
 * but the head. names: of names.db (NULL: it is empty), whose read is not used where it has no
 * blocks. *e is the entry, *index the history with it, *sent the bytes of the packs.
 * unchanged (may be NULL): set, and nothing stored, if both are what on->newest has. */
int history_store(struct bh_history *h, const struct history_content *c,
                  const struct history_content *names, const struct bh_head *on, const char *branch,
                  struct bh_index_entry *e, struct bh_root *index, uint64_t *sent, bool *unchanged,
                  const struct bh_call *call, struct bh_error *err);
/* The frozen live content. Ended with history_image_free. */
struct history_part {
    struct bh_frozen *frozen;
    uint64_t *blocks;
    size_t count;
    struct bh_root base;
    int *broken; /* of the image */
};
struct history_image {
    struct history_part db, names;
    int broken;
};
int history_freeze(struct bh_history *h, struct history_image *img, unsigned *tries,
                   const struct bh_call *call, struct bh_error *err);
/* All of it counts as changed: nothing of the base is referred to. */
int history_image_anew(struct bh_history *h, struct history_image *img, struct bh_error *err);

/* The same of that image. */
int history_store_image(struct bh_history *h, struct history_image *img, const struct bh_head *on,
                        const char *branch, struct bh_index_entry *e, struct bh_root *index,
                        uint64_t *sent, bool *unchanged, const struct bh_call *call,
                        struct bh_error *err);
/* Ends the freeze; flushed: see bh_store_thaw. */
void history_image_free(struct history_image *img, bool flushed);

/* --- history_check.c --- */
/* Whether the tree has that content (its list of blocks is not looked at), but for the counters of
 * page 1: 0; EILSEQ: no, *differs is the first block that is another, 0 where the sizes are. EIO,
 * ETIMEDOUT, ECANCELED, ENOMEM: it cannot be said. Reads all of it. */
int history_compare(struct bh_history *h, const struct bh_root *root,
                    const struct history_content *c, uint64_t *differs, const char *what,
                    const struct bh_call *call, struct bh_error *err);
/* EIO: what was stored is not that. */
int history_check_stored(struct bh_history *h, const struct history_content *c,
                         const struct bh_root *root, const char *what, const struct bh_call *call,
                         struct bh_error *err);

/* --- history_names.c --- */
/* As history_base_root, history_set_base, of names.db. */
int history_names_root(struct bh_history *h, struct bh_root *root, struct bh_error *err);
void history_set_names(struct bh_state *st, const struct bh_root *root);
/* What names.db becomes with that root; *differs: it is not that already. out->origin is a
 * reference of the caller's, or NULL. */
int history_names_base(struct bh_history *h, const struct bh_root *root, struct bh_names_base *out,
                       bool *differs, struct bh_error *err);
/* names.db becomes empty: what is there may go. */
int history_empty_names(struct bh_history *h, const struct bh_call *call, struct bh_error *err);
bool history_files_dirty(struct bh_history *h);
/* Around a freeze: nothing where the content is being replaced. */
int history_files_begin(struct bh_history *h, const struct bh_call *call, struct bh_error *err);
void history_files_frozen(struct bh_history *h);
/* Calls swap with the file store's gate closed; flush: what it still had is flushed in between. */
typedef int history_swap_fn(struct bh_history *h, void *arg, struct bh_error *err);
int history_gated(struct bh_history *h, bool flush, history_swap_fn *swap, void *arg,
                  const struct bh_call *call, struct bh_error *err);
/* history_view.c: bh_history_read of that root. */
int history_read(struct bh_history *h, const struct bh_root *root, const char *what,
                 uint64_t offset, void *buf, size_t len, size_t *got, const struct bh_call *call,
                 struct bh_error *err);

/* --- history_branch.c --- */
/* Makes a branch `name` whose newest snapshot is e, forked from `on`. EEXIST. EBUSY: a gc is
 * removing what is left of one of that name. ESTALE: what `on` names is being reclaimed. */
int history_new_branch(struct bh_history *h, const char *name, const struct bh_head *on,
                       const struct bh_index_entry *e, const struct bh_root *index,
                       const struct bh_call *call, struct bh_error *err);
/* Saves the live content, unflushed changes included, as a new branch beside `on`. */
int history_save_as(struct bh_history *h, const char *name, const struct bh_head *on,
                    const struct bh_call *call, struct bh_error *err);
/* What the live content is once it is that of e, of the branch of `head`. */
void history_base_of(struct bh_history *h, const struct bh_head *head,
                     const struct bh_index_entry *e, const char *restored, struct bh_base *base);
/* The content becomes that of e, of the branch of `head`. What is there is given up. */
int history_swap_to(struct bh_history *h, const struct bh_head *head,
                    const struct bh_index_entry *e, const char *restored, struct bh_error *err);
/* The same, but what clients have committed since the last flush is flushed first, to the branch of
 * h->head, while they wait. For what is called just after a flush: else they wait long. Where
 * `head` is &h->head, the new content's base is what that is after the flush. */
int history_swap_flushed(struct bh_history *h, const struct bh_head *head,
                         const struct bh_index_entry *e, const char *restored,
                         const struct bh_call *call, struct bh_error *err);

#endif
