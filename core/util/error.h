/* The one shape of failure: an errno and a sentence that names the thing, the cause and what to do.
 */
#ifndef BH_UTIL_ERROR_H
#define BH_UTIL_ERROR_H

#include <stddef.h>

#ifndef BH_ERROR_TEXT_MAX /* buckethead.h says the same to programs outside */
#define BH_ERROR_TEXT_MAX 1024

struct bh_error {
    int code; /* positive errno, 0 when nothing failed */
    char text[BH_ERROR_TEXT_MAX];
};
#endif

/* Fills *err (may be NULL) and returns code, so that a failing function ends in `return
 * bh_fail(...)`. The text is cut at BH_ERROR_TEXT_MAX - 1 bytes and made one line. code must be a
 * positive errno. Thread safe. */
int bh_fail(struct bh_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text that *err (may be NULL) already has; returns code, which *err
 * gets too. */
int bh_fail_prefix(struct bh_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
