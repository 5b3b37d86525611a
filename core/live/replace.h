/* What the ways to replace the content (replace.c, step.c) share. All on the SQL thread, in a job
 * of kind SWAP. */
#ifndef BH_LIVE_REPLACE_H
#define BH_LIVE_REPLACE_H

#include "live/live.h"

#define LIVE_HEADER 100 /* bytes of a database's header */

/* Gives the header of the new page 1 a change counter and a schema cookie that no client has seen
 * with other content: a client that remembers the same pair would go on with the schema it knows,
 * in the wrong tables. Raises those of the state, which is to be saved. changed: new was. */
int live_outrun_counters(struct bh_live *l, unsigned char new[LIVE_HEADER], bool *changed);
/* Whether that header is the one that was given the counters last. */
bool live_has_last_counters(const struct bh_state *st, const unsigned char header[LIVE_HEADER]);
void live_set_base(struct bh_state *st, const struct bh_base *b);
#define LIVE_INCOMING_MAP "incoming.map"
/* The file `incoming` and LIVE_INCOMING_MAP get the names of that generation, durably, after
 * `outrun` has changed the header of the first. */
int live_name_generation(struct bh_live *l, struct bh_disk *disk, const char *incoming,
                         uint64_t generation, int (*outrun)(struct bh_live *l, struct bh_dfile *f),
                         struct bh_error *err);
/* A file of that size with nothing in it but page 1, of the origin (NULL: size is 0); a map that
 * says the same, or that all is in that state. Both are durable then. */
int live_make_sparse(struct bh_disk *disk, const char *name, struct bh_origin *origin,
                     uint64_t size, struct bh_error *err);
int live_make_map(struct bh_disk *disk, const char *name, uint64_t size, enum bh_block_state state,
                  struct bh_error *err);

/* --- names.c --- */
int live_names_open(struct bh_live *l, const struct bh_config *cfg, struct bh_error *err);
void live_names_close(struct bh_live *l);
/* names.db's part of a replacement, nothing where base->names is NULL: what takes time, before
 * anybody waits; */
int live_names_prepare(struct bh_live *l, const struct bh_base *base, struct bh_error *err);
/* then all that can fail, after which the state (in memory) names the new generation, to be saved;
 */
struct live_names_swap {
    const struct bh_names_base *to;
    struct bh_store_next *next;
    bool locked;
};
int live_names_ready(struct bh_live *l, const struct bh_base *base, struct live_names_swap *s,
                     struct bh_error *err);
/* then the swap itself, or, if it was not saved, its end; also after a failure of live_names_ready.
 */
int live_names_end(struct bh_live *l, struct live_names_swap *s, bool commit, struct bh_error *err);

/* A PERSIST journal's remains, or a log's, must not be taken for one of the new content's. */
int live_clear_side_file(struct bh_live *l, const char *name);

/* On whatever thread changed it, with the lock under which it did: clients' caches of that range of
 * the database are old. */
void live_tell_data(struct bh_live *l, uint64_t offset, uint64_t len);

#endif
