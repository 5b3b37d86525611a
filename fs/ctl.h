/* The control files: what ctl.c and ctl_files.c share; the rest of the daemon needs what daemon.h
 * says of them. */
#ifndef BHFS_CTL_H
#define BHFS_CTL_H

#include "daemon.h"

/* A command, on a thread of its own. */
typedef int run_fn(struct daemon *d, const char *arg, const struct bh_call *call,
                   struct bh_error *err);

struct ctl_file {
    const char *name;
    mode_t mode;
    void (*text)(struct daemon *d, struct bh_strbuf *out); /* NULL: the log */
    run_fn *run;                                           /* NULL: not a command */
    bool truncation_runs;                                  /* `: > FILE` is the command, too */
    bool touch_runs;                                       /* touch is, but not `: > FILE` */
};
extern const struct ctl_file ctl_files[]; /* by what ctl_find says */

#endif
