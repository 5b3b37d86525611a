#include "util/sha256.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct bh_sha256 {
    EVP_MD_CTX *ctx;
};

struct bh_sha256 *bh_sha256_new(void)
{
    struct bh_sha256 *h = malloc(sizeof *h);
    if (!h)
        return NULL;
    h->ctx = EVP_MD_CTX_new();
    if (!h->ctx || EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1) {
        bh_sha256_free(h);
        return NULL;
    }
    return h;
}

struct bh_sha256 *bh_sha256_copy(const struct bh_sha256 *h)
{
    struct bh_sha256 *copy = bh_sha256_new();
    if (copy && EVP_MD_CTX_copy_ex(copy->ctx, h->ctx) != 1) {
        bh_sha256_free(copy);
        return NULL;
    }
    return copy;
}

void bh_sha256_update(struct bh_sha256 *h, const void *data, size_t len)
{
    int ok = EVP_DigestUpdate(h->ctx, data, len);
    assert(ok == 1);
    (void)ok;
}

void bh_sha256_raw(struct bh_sha256 *h, uint8_t hash[BH_SHA256_LEN])
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    int ok = EVP_DigestFinal_ex(h->ctx, md, &n);
    assert(ok == 1 && n == BH_SHA256_LEN);
    (void)ok;
    memcpy(hash, md, BH_SHA256_LEN);
}

void bh_sha256_hex(struct bh_sha256 *h, char hex[BH_SHA256_HEX])
{
    uint8_t hash[BH_SHA256_LEN];
    bh_sha256_raw(h, hash);
    bh_sha256_format(hash, hex);
}

bool bh_sha256_is_none(const uint8_t hash[BH_SHA256_LEN])
{
    static const uint8_t none[BH_SHA256_LEN];
    return memcmp(hash, none, sizeof none) == 0;
}

int bh_sha256_compare(const void *a, const void *b)
{
    return memcmp(a, b, BH_SHA256_LEN);
}

void bh_sha256_format(const uint8_t hash[BH_SHA256_LEN], char hex[BH_SHA256_HEX])
{
    for (unsigned int i = 0; i < BH_SHA256_LEN; i++) {
        static const char digits[] = "0123456789abcdef";
        hex[2 * i] = digits[hash[i] >> 4];
        hex[2 * i + 1] = digits[hash[i] & 15];
    }
    hex[BH_SHA256_HEX - 1] = '\0';
}

void bh_sha256_free(struct bh_sha256 *h)
{
    if (!h)
        return;
    EVP_MD_CTX_free(h->ctx);
    free(h);
}

int bh_sha256_hex_of(const void *data, size_t len, char hex[BH_SHA256_HEX])
{
    struct bh_sha256 *h = bh_sha256_new();
    if (!h)
        return ENOMEM;
    bh_sha256_update(h, data, len);
    bh_sha256_hex(h, hex);
    bh_sha256_free(h);
    return 0;
}

int bh_sha256_of(const void *data, size_t len, uint8_t hash[BH_SHA256_LEN])
{
    struct bh_sha256 *h = bh_sha256_new();
    if (!h)
        return ENOMEM;
    bh_sha256_update(h, data, len);
    bh_sha256_raw(h, hash);
    bh_sha256_free(h);
    return 0;
}

bool bh_sha256_parse(const char *hex, uint8_t hash[BH_SHA256_LEN])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 2 * BH_SHA256_LEN; i++) {
        const char *digit = hex[i] ? strchr(digits, hex[i]) : NULL;
        if (!digit)
            return false;
        uint8_t value = (uint8_t)(digit - digits);
        hash[i / 2] = i % 2 ? (uint8_t)(hash[i / 2] << 4 | value) : value;
    }
    return !hex[2 * BH_SHA256_LEN];
}
