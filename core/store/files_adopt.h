/* Names in files/ for rows of table filestore that upstream put. */
#ifndef BH_STORE_FILES_ADOPT_H
#define BH_STORE_FILES_ADOPT_H

#include <stddef.h>
#include <stdint.h>

#include "store/names.h"

#define FILES_NAME_MAX 255u

struct bh_files;

/* What a row's filename becomes: '/' and control characters are '_', "." is "_", ".." is "_."; too
 * long a name is cut before its ending, between characters. key: its name if it has none. */
void files_safe_name(const char *name, size_t len, const char *key, char out[FILES_NAME_MAX + 1]);
/* "name (2).ext". */
void files_numbered_name(const char *name, uint64_t number, char out[FILES_NAME_MAX + 1]);

enum files_look {
    FILES_LOOK_QUIET, /* as bh_names_quiet, not by a flush */
    FILES_LOOK_SOON,  /* by a flush; it may be left to a later one */
    FILES_LOOK_NOW    /* by a flush */
};

/* All rows that came since they were looked at last get a name, if their content has none. What
 * fails is logged, and tried again by the next call, which the publisher makes if nobody else does.
 * With f->publishing. */
void files_adopt(struct bh_files *f, enum files_look how);

#endif
