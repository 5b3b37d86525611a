/* For tests of core/store/blobs: a state directory, a file:// bucket under the fault layer, content
 * that follows from a seed. */
#ifndef BLOBS_FIXTURE_H
#define BLOBS_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "bucket_helpers.h"
#include "store/blobs.h"
#include "util/clock.h"
#include "util/log.h"

#define KIB ((uint64_t)1 << 10)

extern char scratch[64];
extern struct bh_disk *disk;
extern struct bh_bucket *bucket;
extern struct bh_blobs *blobs;
extern struct bh_blobs_options options; /* of the next open_blobs; disk and bucket are filled in */
extern const char *mirror;              /* NULL, or a directory below scratch */

int blobs_setup(void **state); /* opens nothing but the bucket */
int blobs_teardown(void **state);

void open_blobs(bool recheck); /* and starts uploads, unless options.read_only or no_start */
void close_blobs(void);
void crash(void); /* closes without settling, and opens anew */
extern bool no_start;
void set_rules(const char *rules); /* of the fault layer; "" for none */

const char *at(const char *name); /* SCRATCH/name, in one of eight buffers */
bool is_there(const char *name);
void hex_of(const uint8_t hash[BH_SHA256_LEN], char hex[BH_SHA256_HEX]);
/* "state/p-HASH" and the like. */
const char *local(char letter, const uint8_t hash[BH_SHA256_LEN]);
const char *object(const uint8_t hash[BH_SHA256_LEN]); /* "files/HASH" */
uint64_t requests(enum bh_bucket_op op);
bool log_has(const char *text); /* a line of the log since the test's begin */

/* Content: the bytes [offset, offset + len) of that of the seed; no two seeds share a 4 KiB block.
 */
void content(uint64_t seed, uint64_t offset, void *buf, size_t len);
/* Writes it to a new data file. */
uint64_t make_data(uint64_t seed, uint64_t size, struct bh_dfile *f);
/* A data file that is published (take), and removed. */
void publish(uint64_t seed, uint64_t size, uint8_t hash[BH_SHA256_LEN]);
/* Puts it into the bucket, past the blobs. */
void put_object(uint64_t seed, uint64_t size, uint8_t hash[BH_SHA256_LEN]);
struct bh_blob *open_blob(const uint8_t hash[BH_SHA256_LEN], uint64_t size);
/* Reads the range and asserts that it is the seed's. */
void must_read(struct bh_blob *o, uint64_t seed, uint64_t offset, size_t len);
/* Opens, reads all, closes. */
void must_have_blob(const uint8_t hash[BH_SHA256_LEN], uint64_t seed, uint64_t size);
void must_store_all(void); /* bh_blobs_wait, and nothing is pending */
struct bh_blobs_stats stats(void);
/* Waits up to 10 s for it. */
#define eventually(condition)                                                                      \
    do {                                                                                           \
        int64_t eventually_end = bh_mono_ms() + 10000;                                             \
        while (!(condition) && bh_mono_ms() < eventually_end)                                      \
            usleep(2000);                                                                          \
        assert_true(condition);                                                                    \
    } while (0)
#define must_say(what)                                                                             \
    do {                                                                                           \
        if (!strstr(test_said, (what)))                                                            \
            fail_msg("\"%s\" is not in: %s", (what), test_said);                                   \
    } while (0)
/* As must_fail, but keeps the sentence for must_say. */
#define must_fail_saying(expression, code)                                                         \
    do {                                                                                           \
        int saying_rc = (expression);                                                              \
        snprintf(test_said, sizeof test_said, "%s", test_error.text);                              \
        must_be_((code), saying_rc, #expression, __FILE__, __LINE__);                              \
    } while (0)
extern char test_said[BH_ERROR_TEXT_MAX];

#define TEST(name) cmocka_unit_test_setup_teardown(name, blobs_setup, blobs_teardown)

#endif
