/* The checksums S3 knows, computed while a body passes. Source: Amazon S3 User Guide, "Checking
 * object integrity": x-amz-checksum-{crc32,crc32c,crc64nvme,sha1,sha256}, base64 of the big-endian
 * value, for the whole object (a value that ends in "-N" is of parts, and says nothing about the
 * whole). */
#ifndef BH_BUCKET_S3_CHECKSUM_H
#define BH_BUCKET_S3_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>

#include "util/error.h"

struct bh_checksum; /* one body's; one thread at a time */

/* Begins a checksum of the kind that an answer's header names ("x-amz-checksum-sha256", ...) and
 * its value. NULL in *out with 0: nothing to check (another header, or a value of parts). EIO: the
 * value is malformed; ENOMEM. */
int bh_checksum_begin(struct bh_checksum **out, const char *header, const char *value,
                      struct bh_error *err);
void bh_checksum_update(struct bh_checksum *c, const void *data, size_t len);
/* 0, or EIO with both values, if what passed is not what was announced. */
int bh_checksum_end(struct bh_checksum *c, struct bh_error *err);
void bh_checksum_free(struct bh_checksum *c); /* NULL is fine */

/* base64 with its NUL: 4 * ((len + 2) / 3) + 1 bytes in out. len: below 1 GiB. */
void bh_base64(const void *data, size_t len, char *out);
/* base64 of the MD5, for Content-MD5. 0, ENOMEM or ENOTSUP (an OpenSSL that has no MD5). */
int bh_md5_base64(const void *data, size_t len, char out[25], struct bh_error *err);

#endif
