/* Whether everything that the history refers to is in the bucket and whole. */
#ifndef BH_REPO_VERIFY_H
#define BH_REPO_VERIFY_H

#include "repo/history.h"

/* Reads the format object, every head, label, index, record and tree node; of blocks it looks
 * whether their pack lists them; of blobs of files/ that snapshots name whether they are there with
 * their size (full: reads and hashes them, too). full: reads every byte of every pack that is
 * referred to and of the plain objects, and runs SQLite's integrity check on the newest snapshot of
 * every branch. It goes on after damage. 0, or EIO with a sentence that names the first damage and
 * how many objects are damaged; report (text, appended) has all: what, which snapshots are hit,
 * which are whole. Other errors: it could not be finished (the bucket does not answer, no room for
 * a temporary file, ECANCELED); what was found until then is in the report.
 *
 * Needs no turn: flushes and gc may go on beside it, here and elsewhere. Nothing is written to the
 * bucket. Reads with up to bucket.connections requests at once, 32 at most. Memory: 16 to 32 bytes
 * a tree node, 64 MiB of trailers at most, 32 MiB read ahead, the listing. */
int bh_history_verify(struct bh_history *h, bool full, struct bh_strbuf *report,
                      const struct bh_call *call, struct bh_error *err);

#endif
