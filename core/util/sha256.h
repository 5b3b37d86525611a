/* SHA-256 (FIPS 180-4), by OpenSSL. */
#ifndef BH_UTIL_SHA256_H
#define BH_UTIL_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BH_SHA256_LEN 32
#define BH_SHA256_HEX 65 /* with the NUL */

struct bh_sha256; /* a hash under way; one thread at a time */

struct bh_sha256 *bh_sha256_new(void); /* NULL: out of memory */
/* Another one that has come as far. NULL: out of memory. */
struct bh_sha256 *bh_sha256_copy(const struct bh_sha256 *h);
void bh_sha256_update(struct bh_sha256 *h, const void *data, size_t len);
/* Each ends the hash. */
void bh_sha256_hex(struct bh_sha256 *h, char hex[BH_SHA256_HEX]);
void bh_sha256_raw(struct bh_sha256 *h, uint8_t hash[BH_SHA256_LEN]);
void bh_sha256_free(struct bh_sha256 *h);

/* The hash of one string, in hex or raw. 0 or ENOMEM. */
int bh_sha256_hex_of(const void *data, size_t len, char hex[BH_SHA256_HEX]);
int bh_sha256_of(const void *data, size_t len, uint8_t hash[BH_SHA256_LEN]);

/* All zeros, which stand for no hash. */
bool bh_sha256_is_none(const uint8_t hash[BH_SHA256_LEN]);
/* For qsort and bsearch of items that begin with a raw hash. */
int bh_sha256_compare(const void *a, const void *b);

/* Raw to hex, lower case. */
void bh_sha256_format(const uint8_t hash[BH_SHA256_LEN], char hex[BH_SHA256_HEX]);
/* And back; false: hex is none, or not all lower case, or of another length. */
bool bh_sha256_parse(const char *hex, uint8_t hash[BH_SHA256_LEN]);

#endif
