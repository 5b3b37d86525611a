/* For tests of gc of blobs: a live database with table filestore and a names.db as SQLite makes
 * them, whose trees are snapshots in the bucket of gc_model.h; a blob is its number. */
#ifndef GC_BLOBS_FIXTURE_H
#define GC_BLOBS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "gc_model.h"
#include "repo/blob_refs.h"

#define FILES "files/"

enum { DB, NAMES, KINDS };
extern char *paths[KINDS]; /* of the two databases, as they are now */

int blobs_setup(void **state);
int blobs_teardown(void **state);
#define TEST(name) cmocka_unit_test_setup_teardown(name, blobs_setup, blobs_teardown)

void run_sql(const char *path, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct branch *begin_main(void);
size_t snap(struct branch *br); /* a snapshot of both as they are */

void hash_of(unsigned n, uint8_t hash[BH_SHA256_LEN]);
const char *hex_of(unsigned n); /* in one of four buffers, as the next */
const char *key_of_blob(unsigned n);
void upload(unsigned n);
bool has(unsigned n); /* its object is there */
/* In files/, by that name; or not any more. */
void name_it(unsigned n, const char *name);
void unname(unsigned n);
void add_row(unsigned n); /* in table filestore */
/* Of the first `all` blobs these are there. */
void only(const unsigned *wanted, size_t count, unsigned all);
#define ONLY(all, ...)                                                                             \
    only((const unsigned[]){__VA_ARGS__},                                                          \
         sizeof((const unsigned[]){__VA_ARGS__}) / sizeof(unsigned), all)

extern unsigned live_blob; /* what the live database names; 0: none */
int try_blobs(bool dry_run);
void run_gc(void);
void two_runs(void); /* each a grace after what was before */

void put_bytes(const char *key, const void *data, size_t len);
void put_database(const char *key, const char *path); /* a plain object */

#endif
