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
/* A PERSIST journal's remains, or a log's, must not be taken for one of the new content's. */
int live_clear_side_file(struct bh_live *l, const char *name);

/* On whatever thread changed it, with the lock under which it did: clients' caches of that range of
 * the database are old. */
void live_tell_data(struct bh_live *l, uint64_t offset, uint64_t len);

#endif
