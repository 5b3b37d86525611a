/* The command line of the mount: bhfs [options] [BUCKET-URL] MOUNTPOINT */
#ifndef BHFS_OPTIONS_H
#define BHFS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "util/error.h"

struct options {
    bool foreground, debug, help, version, read_only;
    const char *config_file;
    const char *url;        /* NULL: as configured */
    const char *mountpoint; /* as given */
    char **settings;        /* "section.key=value" */
    size_t setting_count;
    char **fuse; /* FUSE's own -o options, one each */
    size_t fuse_count;
    bool has_fsname, has_subtype;
};

/* Points into argv where it can; freed with options_free. EINVAL with a sentence. */
int options_parse(struct options *o, int argc, char **argv, struct bh_error *err);
/* The same for what needs no mount point: [options] [BUCKET-URL]. */
int options_parse_bucket(struct options *o, int argc, char **argv, struct bh_error *err);
void options_free(struct options *o);

#endif
