/* Numbers as people write them in a configuration file. */
#ifndef BH_UTIL_PARSE_H
#define BH_UTIL_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "4096", "16K", "16KiB", "64M", "64MiB", "1G", "1GiB", "1T" (all powers of 1024; case-insensitive;
 * "B" alone means bytes; no fraction, sign or inner space). 0, or EINVAL (malformed), ERANGE (does
 * not fit in 63 bits). */
int bh_parse_size(const char *s, uint64_t *bytes);

/* "250ms", "30s", "5m", "2h", "1d", "1w"; a bare number means seconds; fractions allowed ("1.5s").
 * Result in milliseconds. 0, EINVAL or ERANGE. */
int bh_parse_duration(const char *s, int64_t *ms);

/* "true yes on 1" / "false no off 0", case-insensitive. 0 or EINVAL. */
int bh_parse_bool(const char *s, bool *out);

/* Human-readable forms for status and error texts: "64 MiB", "1.5 s". Return buf. 32 bytes suffice.
 */
const char *bh_format_size(uint64_t bytes, char *buf, size_t len);
const char *bh_format_duration(int64_t ms, char *buf, size_t len);

#endif
