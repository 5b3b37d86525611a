/* Import: the content of another database replaces that of the live one. */
#include "buckethead.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bh_private.h"
#include "internal.h"
#include "util/cleanup.h"
#include "util/log.h"

static int import_now(struct bh *b, const char *path, struct bh_error *err)
{
    BH_FREE char *incoming = NULL;
    struct bh_base base = {.is_base = false};
    if (asprintf(&incoming, "%s/incoming.import", b->live->dir.path) < 0) {
        incoming = NULL;
        return bh_fail(err, ENOMEM, "out of memory");
    }
    if (unlink(incoming) != 0 && errno != ENOENT)
        return bh_fail(err, errno, "%s cannot be removed: %s", incoming, strerror(errno));
    int rc = bh_database_copy(path, incoming, err);
    if (rc == 0)
        rc = bh_database_check(incoming, path, err);
    if (rc == EIO) /* not our data: the argument is wrong */
        rc = err->code = EINVAL;
    if (rc == 0)
        rc = bh_live_replace(b->live, "incoming.import", &base, err);
    if (rc == 0)
        bh_files_reconcile(b->files);
    if (rc)
        unlink(incoming);
    else
        bh_log(BH_LOG_INFO, "imported %s", path);
    return rc;
}

int bh_import_call(struct bh *b, const char *path, const struct bh_call *call, struct bh_error *err)
{
    struct bh_error local;
    err = err ? err : &local;
    if (b->read_only)
        return bh_fail(err, EROFS, "this is a read-only mount: nothing can be imported");
    if (path[0] != '/')
        return bh_fail(err, EINVAL, "import needs an absolute path, not \"%.200s\"", path);
    int rc = bh_take_turn(b, call, err);
    if (rc)
        return rc;
    rc = import_now(b, path, err);
    bh_end_turn(b);
    return rc;
}

int bh_import(struct bh *b, const char *path, struct bh_error *err)
{
    return bh_import_call(b, path, NULL, err);
}
