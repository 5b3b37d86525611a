/* Rows of table filestore, as they are looked at for names (store/files_adopt.h). On the SQL
 * thread. */
#ifndef BH_STORE_FILES_SCAN_H
#define BH_STORE_FILES_SCAN_H

#include <sqlite3.h>

#include "store/files_adopt.h"
#include "util/strbuf.h"

#define FILES_NAMED_BAD 3u /* rows that are not adopted and are said one by one */

struct files_found {
    uint8_t hash[BH_SHA256_LEN];
    uint64_t size;
    int64_t ns; /* 0: not known */
    char name[FILES_NAME_MAX + 1];
    struct bh_strbuf meta; /* name, NUL, value, NUL, and so on */
};

struct files_scan {
    const char *prefix;
    struct bh_names_rows last; /* looked at */
    bool begun, all, end;      /* all: from the first row on */
    unsigned restarts;         /* the table was made anew meanwhile */
    struct files_found *found;
    size_t count, room;
    uint64_t bad; /* rows that cannot be adopted */
};

/* A job of bh_sql_run: the next rows, of a struct files_scan. Before the first one `prefix` and
 * `last` are set. */
int files_scan_chunk(sqlite3 *db, void *arg, struct bh_error *err);
/* Those that were found; the array itself is freed by its owner. */
void files_scan_forget(struct files_scan *s);

/* The last row. mark 0: there is none, or no rows that could be adopted. */
int files_last_row(sqlite3 *db, struct bh_names_rows *last, struct bh_error *err);

#endif
