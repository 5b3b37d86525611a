/* SHA-256 (FIPS 180-4), by OpenSSL. */
#ifndef BH_UTIL_SHA256_H
#define BH_UTIL_SHA256_H

#include <stddef.h>

#define BH_SHA256_LEN 32
#define BH_SHA256_HEX 65 /* with the NUL */

struct bh_sha256; /* a hash under way; one thread at a time */

struct bh_sha256 *bh_sha256_new(void); /* NULL: out of memory */
void bh_sha256_update(struct bh_sha256 *h, const void *data, size_t len);
void bh_sha256_hex(struct bh_sha256 *h, char hex[BH_SHA256_HEX]); /* ends the hash */
void bh_sha256_free(struct bh_sha256 *h);

/* The hash of one string, in hex. 0 or ENOMEM. */
int bh_sha256_hex_of(const void *data, size_t len, char hex[BH_SHA256_HEX]);

#endif
