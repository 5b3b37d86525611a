/* What the conformance suite's files share. */
#ifndef BUCKET_SUITE_H
#define BUCKET_SUITE_H

#include "bucket_helpers.h"

extern struct bh_bucket *bucket; /* under test */
extern const char *base;         /* begins every key */

const char *k(const char *name); /* base + name, in one of a few buffers of the thread */
bool has(enum bh_bucket_caps cap);
/* Asserts a listing; names are given without base, a line that begins with '*' is a prefix. */
void must_list(const char *expected, const char *prefix, const char *delimiter, const char *after,
               size_t max);
void must_list_uploads(const char *prefix, const char *expected); /* "KEY ID" lines */

/* bucket_conformance_keys.c */
void test_odd_keys(void **state);
void test_keys_at_the_root(void **state);
void test_long_keys(void **state);
void test_delete_many(void **state);
void test_many_keys(void **state);

/* bucket_conformance_races.c */
void test_threads_race(void **state);
void test_compare_and_swap(void **state);

/* bucket_conformance_url.c */
void test_presign(void **state);
void test_server_time(void **state);

/* bucket_conformance_mp.c */
void test_copy(void **state);
void test_multipart(void **state);
void test_multipart_wrong(void **state);
void test_multipart_conditional(void **state);
void test_part_copy(void **state);

#endif
