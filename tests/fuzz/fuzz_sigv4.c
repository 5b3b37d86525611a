/* What is signed, and what an answer says of its body's checksum. The input's first byte says what
 * the rest is: 's', strings separated by line breaks: a path, the signer's three, then pairs for
 * the query and the headers in turn; 'c', a header's name and its value, each ended by a line
 * break, and the body. What is encoded is decoded again here; the checksums are computed again,
 * slowly. */
#include "fuzz.h"

#include <errno.h>

#include "bucket/s3/checksum.h"
#include "bucket/s3/sigv4.h"

#define PAIRS_MAX 8

/* --- signatures --- */

/* The first len bytes of encoded text are those of raw; only what needs it is escaped. */
static void must_decode(const char *text, size_t len, const char *raw, bool keeps_slash)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    const char *end = text + len;
    for (; text < end; raw++) {
        must(*raw);
        bool is_plain = strchr(plain, *raw) || (keeps_slash && *raw == '/');
        char escaped[4];
        snprintf(escaped, sizeof escaped, "%%%02X", (unsigned char)*raw);
        must(is_plain ? *text == *raw : end - text >= 3 && !strncmp(text, escaped, 3));
        text += is_plain ? 1 : 3;
    }
    must(!*raw);
}

/* Pairs in order, each of them one of the query's. */
static void must_be_query(const char *text, const struct bh_pair *query, size_t count)
{
    size_t seen = 0;
    const char *name = NULL, *value = NULL; /* of the pair before */
    size_t name_len = 0, value_len = 0;
    while (*text) {
        size_t len = strcspn(text, "&"), n = strcspn(text, "=");
        must(n < len || text[n] == '=');
        const char *v = text + n + 1;
        size_t v_len = len - n - 1;
        if (name) {
            int order = memcmp(name, text, name_len < n ? name_len : n);
            order = order ? order : (name_len > n) - (name_len < n);
            must(order <= 0);
            if (order == 0) {
                order = memcmp(value, v, value_len < v_len ? value_len : v_len);
                must(order < 0 || (order == 0 && value_len <= v_len));
            }
        }
        name = text, name_len = n, value = v, value_len = v_len;
        text += len + (text[len] == '&');
        seen++;
    }
    must(seen == count);
    if (count == 1) {
        must_decode(name, name_len, query[0].name, false);
        must_decode(value, value_len, query[0].value, false);
    }
}

/* With nothing in the credential that could end it or the header. */
static void must_be_authorization(const char *text)
{
    static const char begin[] = "AWS4-HMAC-SHA256 Credential=",
                      scope[] = "/20130524/r/s3/aws4_request", signature[] = ", Signature=";
    must(!strncmp(text, begin, strlen(begin)));
    size_t credential = strcspn(text + strlen(begin), ", \r\n");
    must(credential > strlen(scope));
    must(!strncmp(text + strlen(begin) + credential - strlen(scope), scope, strlen(scope)));
    must(!strncmp(text + strlen(begin) + credential, ", SignedHeaders=", 16));
    const char *hex = text + strlen(text) - 64;
    must(!strncmp(hex - strlen(signature), signature, strlen(signature)));
    must(strspn(hex, "0123456789abcdef") == 64);
}

/* The next line; the last one again and again becomes "". */
static char *next_line(char **rest)
{
    char *line = *rest;
    *rest += strcspn(*rest, "\n");
    if (**rest)
        *(*rest)++ = '\0';
    return line;
}

static void sign(char *rest)
{
    const char *path = next_line(&rest);
    const struct bh_sigv4_signer by = {.access_key_id = next_line(&rest),
                                       .secret_access_key = next_line(&rest),
                                       .session_token = next_line(&rest),
                                       .region = "r",
                                       .service = "s3",
                                       .time_ms = 1369353600000};
    struct bh_pair query[PAIRS_MAX], turned[PAIRS_MAX], headers[PAIRS_MAX];
    size_t count = 0;
    for (; count < PAIRS_MAX && *rest; count++) {
        query[count].name = next_line(&rest), query[count].value = next_line(&rest);
        headers[count].name = next_line(&rest), headers[count].value = next_line(&rest);
    }
    for (size_t i = 0; i < count; i++)
        turned[i] = query[count - 1 - i];

    BH_STRBUF encoded = {0}, encoded_query = {0}, a = {0}, b = {0};
    bh_sigv4_encode_path(&encoded, path);
    if (*path)
        must_decode(encoded.data, encoded.len, path, true);
    bh_sigv4_encode_query(&encoded_query, query, count);
    must_be_query(encoded_query.data, query, count);

    struct bh_sigv4_request req = {"GET", path, query, count, headers, count, BH_SIGV4_EMPTY};
    char date[BH_SIGV4_DATE];
    struct bh_error err = {0};
    int rc = bh_sigv4_sign(&by, &req, date, &a, &err);
    must_be_told(rc, &err);
    must(rc == 0 || rc == EINVAL);
    must(bh_sigv4_presign(&by, &req, 60, &b, NULL) == rc);
    if (rc)
        return;
    must(!strcmp(date, "20130524T000000Z"));
    must_be_authorization(a.data);
    must(strspn(b.data, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%=&") ==
         b.len);
    bh_strbuf_reset(&b);
    req.query = turned;
    must(bh_sigv4_sign(&by, &req, date, &b, NULL) == 0 && !strcmp(a.data, b.data));
}

/* --- checksums --- */

static uint64_t slow_crc(const uint8_t *data, size_t size, uint64_t polynomial, uint64_t ones)
{
    uint64_t crc = ones;
    for (size_t i = 0; i < 8 * size; i++)
        crc = ((crc ^ data[i / 8] >> i % 8) & 1) ? crc >> 1 ^ polynomial : crc >> 1;
    return crc ^ ones;
}

static int check(const char *header, const char *value, const uint8_t *body, size_t size,
                 size_t split)
{
    struct bh_checksum *c = NULL;
    struct bh_error err = {0};
    int rc = bh_checksum_begin(&c, header, value, &err);
    must_be_told(rc, &err);
    must(rc == 0 || (rc == EIO && !c));
    if (!c)
        return rc;
    bh_checksum_update(c, body, split);
    bh_checksum_update(c, body + split, size - split);
    rc = bh_checksum_end(c, &err);
    must_be_told(rc, &err);
    must(rc == 0 || rc == EIO);
    bh_checksum_free(c);
    return rc;
}

/* Of a body as it is, a CRC's value holds, and the value with one bit changed does not. */
static void check_crc(const char *header, uint64_t polynomial, size_t len, const uint8_t *body,
                      size_t size, size_t split)
{
    uint64_t crc = slow_crc(body, size, polynomial, UINT64_MAX >> (64 - 8 * len));
    unsigned char value[8];
    char text[16];
    for (size_t i = 0; i < len; i++)
        value[i] = (unsigned char)(crc >> 8 * (len - 1 - i));
    bh_base64(value, len, text);
    must(check(header, text, body, size, split) == 0);
    value[size % len] ^= 1;
    bh_base64(value, len, text);
    must(check(header, text, body, size, split) == EIO);
}

static void checksum(const uint8_t *data, size_t size)
{
    BH_FREE char *text = string_of(data, size);
    char *rest = text;
    const char *header = next_line(&rest), *value = next_line(&rest);
    const uint8_t *body = data + (rest - text);
    size -= (size_t)(rest - text);
    size_t split = size ? body[0] % (size + 1) : 0;
    check(header, value, body, size, split);
    check_crc("x-amz-checksum-crc32", 0xedb88320, 4, body, size, split);
    check_crc("x-amz-checksum-crc32c", 0x82f63b78, 4, body, size, split);
    check_crc("x-amz-checksum-crc64nvme", 0x9a6c9329ac4bc9b5, 8, body, size, split);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] == 'c') {
        checksum(data + 1, size - 1);
    } else {
        BH_FREE char *text = string_of(data + 1, size - 1);
        sign(text);
    }
    return 0;
}
