/* helpers/badserver.py as a child of a unit test: a server that misbehaves by rules. */
#ifndef BAD_SERVER_H
#define BAD_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bucket/bucket.h"

/* Set-up and tear-down of a group: starts and ends the server. */
int bad_start(void **state);
int bad_stop(void **state);
extern int bad_port, bad_other_port; /* both serve the same */
extern const char *bad_tls[4]; /* before the start: files with a certificate and its key, for TLS at
                                  bad_other_port; bad_set("tls=N") chooses one */

/* Set-up of a test: no objects, no rules, an empty log, settings as at the start. */
int bad_fresh(void **state);
void bad_rule(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* adds one */
void bad_no_rules(void);
void bad_set(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* NAME=VALUE */
void bad_fill(const char *prefix, unsigned count);                        /* empty objects */
/* Lines of the server's log that match this extended regular expression at their beginning:
 * "put PUT /b/key rule". */
size_t bad_count(const char *pattern);

/* Opened on the server's bucket "b" without or with the retry layer; options: NULL or more
 * "bucket.KEY=VALUE" (one). Closed with bad_close. */
struct bh_bucket *bad_open(const char *option);
struct bh_bucket *bad_open_retrying(const char *option);
struct bh_bucket *bad_open_with(const char *const *options, size_t count, bool retrying);
void bad_close(struct bh_bucket *b);

/* Bytes that a sink took. */
struct got {
    char *data;
    size_t len, cap;
};
int got_take(void *arg, const void *data, size_t len, struct bh_error *err);
void got_free(struct got *g);

/* The result must be `code` with a sentence in ERR that has all the parts (separated by '|', each
 * of which may have alternatives separated by '/'), and no secret. says: whether it is so, printing
 * what is not, for tables. */
bool says(const char *label, int rc, int code, const char *parts);
#define must_say(rc, code, parts)                                                                  \
    do {                                                                                           \
        if (!says(#rc, (rc), (code), (parts)))                                                     \
            fail();                                                                                \
    } while (0)

/* Asserts that the statements between take at most so many ms. */
void clock_start(void);
void clock_within(int64_t ms);
size_t peak_memory(void); /* of the process so far, bytes */

#endif
