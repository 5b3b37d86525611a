#ifndef BUCKET_FIXTURE_H
#define BUCKET_FIXTURE_H

#include "bucket_helpers.h"

/* A fresh directory as a bucket: set-up and tear-down for cmocka, and what is done in it by hand.
 */
extern char dir[64];
extern struct bh_bucket *b;
int dir_setup(void **state);
int dir_teardown(void **state);
void reopen(void);
const char *path_of(const char *name); /* below dir; in a static buffer */
bool exists(const char *name);
void shell(const char *command); /* in dir; asserts success */

#endif
