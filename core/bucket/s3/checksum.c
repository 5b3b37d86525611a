#include "bucket/s3/checksum.h"
#include "util/crc.h"

#include <endian.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_MAX 32 /* bytes of the longest value, SHA-256's */
#define TEXT_MAX  (4 * ((VALUE_MAX + 2) / 3) + 1)

/* --- what headers name --- */

static const struct kind {
    const char *header;
    size_t size;        /* bytes of the value */
    struct bh_crc *crc; /* or: */
    const EVP_MD *(*digest)(void);
} kinds[] = {
    {"x-amz-checksum-crc32", 4, &bh_crc32, NULL},
    {"x-amz-checksum-crc32c", 4, &bh_crc32c, NULL},
    {"x-amz-checksum-crc64nvme", 8, &bh_crc64nvme, NULL},
    {"x-amz-checksum-sha1", 20, NULL, EVP_sha1},
    {"x-amz-checksum-sha256", 32, NULL, EVP_sha256},
};

struct bh_checksum {
    const struct kind *kind;
    unsigned char announced[VALUE_MAX];
    uint64_t crc;
    EVP_MD_CTX *digest; /* NULL for a CRC */
    bool failed;
};

static const struct kind *find_kind(const char *header)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(kinds[i].header, header))
            return &kinds[i];
    return NULL;
}

/* "...-3": a checksum of the checksums of three parts. */
static bool is_of_parts(const char *value)
{
    const char *dash = strrchr(value, '-');
    return dash && dash[1] && dash[1 + strspn(dash + 1, "0123456789")] == '\0';
}

/* Whether text is the base64 of exactly so many bytes, which go to out. */
static bool decode(const char *text, size_t size, unsigned char out[VALUE_MAX])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t len = strlen(text), padding = (3 - size % 3) % 3;
    unsigned char buf[VALUE_MAX + 2]; /* the padding is decoded, too */
    if (len != (size + 2) / 3 * 4 || strspn(text, digits) != len - padding ||
        strspn(text + len - padding, "=") != padding)
        return false;
    EVP_DecodeBlock(buf, (const unsigned char *)text, (int)len);
    memcpy(out, buf, size);
    return true;
}

int bh_checksum_begin(struct bh_checksum **out, const char *header, const char *value,
                      struct bh_error *err)
{
    const struct kind *kind = find_kind(header);
    *out = NULL;
    if (!kind || is_of_parts(value))
        return 0;
    struct bh_checksum *c = calloc(1, sizeof *c);
    if (!c)
        return bh_fail(err, ENOMEM, "cannot check %s: out of memory", header);
    c->kind = kind;
    if (!decode(value, kind->size, c->announced)) {
        bh_checksum_free(c);
        return bh_fail(err, EIO,
                       "the answer's %s is '%.80s', which is no base64 of %zu bytes: the server or "
                       "something on the way to it is broken",
                       header, value, kind->size);
    }
    if (kind->crc) {
        c->crc = bh_crc_begin(kind->crc);
    } else {
        c->digest = EVP_MD_CTX_new();
        if (!c->digest || EVP_DigestInit_ex(c->digest, kind->digest(), NULL) != 1) {
            bh_checksum_free(c);
            return bh_fail(err, ENOMEM, "cannot check %s: OpenSSL does not begin it", header);
        }
    }
    *out = c;
    return 0;
}

void bh_checksum_update(struct bh_checksum *c, const void *data, size_t len)
{
    if (c->digest)
        c->failed |= EVP_DigestUpdate(c->digest, data, len) != 1;
    else
        c->crc = bh_crc_update(c->kind->crc, c->crc, data, len);
}

int bh_checksum_end(struct bh_checksum *c, struct bh_error *err)
{
    unsigned char value[EVP_MAX_MD_SIZE];
    if (c->digest) {
        c->failed |= EVP_DigestFinal_ex(c->digest, value, NULL) != 1;
    } else {
        uint64_t crc = htobe64(bh_crc_end(c->kind->crc, c->crc) << (64 - 8 * c->kind->size));
        memcpy(value, &crc, sizeof crc);
    }
    if (c->failed)
        return bh_fail(err, EIO, "cannot check %s: OpenSSL failed", c->kind->header);
    if (!memcmp(value, c->announced, c->kind->size))
        return 0;
    char is[TEXT_MAX], announced[TEXT_MAX];
    bh_base64(value, c->kind->size, is);
    bh_base64(c->announced, c->kind->size, announced);
    return bh_fail(err, EIO,
                   "the body is damaged: its %s is %s, but %s was announced; try again, and if it "
                   "stays so the object is damaged in the bucket",
                   c->kind->header + strlen("x-amz-checksum-"), is, announced);
}

void bh_checksum_free(struct bh_checksum *c)
{
    if (!c)
        return;
    EVP_MD_CTX_free(c->digest);
    free(c);
}

void bh_base64(const void *data, size_t len, char *out)
{
    EVP_EncodeBlock((unsigned char *)out, data, (int)len);
}

int bh_md5_base64(const void *data, size_t len, char out[25], struct bh_error *err)
{
    unsigned char md5[16];
    EVP_MD *md = EVP_MD_fetch(NULL, "MD5", NULL);
    if (!md)
        return bh_fail(err, ENOTSUP,
                       "this store wants MD5, which OpenSSL refuses here (FIPS mode?): use another "
                       "store, or allow it");
    int ok = EVP_Digest(data, len, md5, NULL, md, NULL);
    EVP_MD_free(md);
    if (ok != 1)
        return bh_fail(err, ENOMEM, "cannot compute an MD5: out of memory");
    bh_base64(md5, sizeof md5, out);
    return 0;
}
