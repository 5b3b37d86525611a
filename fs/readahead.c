/* The kernel reads a file ahead from its second page on, whoever reads it: a query that needs the
 * first two pages asks for the next eight, too. Of what is in the bucket only that would cost more
 * than the query itself. So the first such READ is declined; the kernel asks for its pages one by
 * one where somebody wants them, and then everything ahead is read as asked. */
#include "daemon.h"
#include "live/store.h"

bool readahead_declines(struct daemon *d, fuse_ino_t ino, uint64_t offset, size_t size, bool absent)
{
    struct readahead *r = &d->readahead;
    uint64_t end = offset + size;
    if (r->ino != ino)
        *r = (struct readahead){.ino = ino, .end = UINT64_MAX};
    bool follows = offset == r->end;
    if (offset >= r->declined && offset < r->declined_end) {
        r->declined_end = 0;
        r->in_sequence = true;
    } else if (!follows) {
        r->in_sequence = false;
    }
    r->end = end;
    if (!absent || !follows || r->in_sequence || size <= BH_SUBBLOCK)
        return false;
    r->declined = offset;
    r->declined_end = end;
    return true;
}
