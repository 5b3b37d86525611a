/* The kernel reads a file ahead from its second page on, whoever reads it: a query that needs the
 * first two pages asks for the next eight, too. Of what is in the bucket only that would cost more
 * than the query itself. So the first such READ of a node is declined, and the kernel asks for its
 * pages again where somebody wants them.
 *
 * Only a guess may be declined, as whoever waits for a READ would get the error. A READ that goes
 * on where the one before ended is one, but for a client's own with O_DIRECT, and for one that asks
 * again for what was declined: hence once in the life of a node. */
#include <fcntl.h>

#include "daemon.h"
#include "live/store.h"

bool readahead_declines(struct node *n, const struct fuse_file_info *fi, uint64_t offset,
                        size_t size, bool absent)
{
    bool follows = offset > 0 && offset == n->read_end;
    n->read_end = offset + size;
    if (!absent || !follows || n->has_declined || size <= BH_SUBBLOCK || fi->flags & O_DIRECT)
        return false;
    n->has_declined = true;
    return true;
}
