/* Lists that gc keeps in the bucket: a first line that says what it is, a number of the run, lines,
 * and as the last one the checksum of all before it. */
#include "repo/gc_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util/random.h"
#include "util/sha256.h"

#define CHECKSUM "checksum: "

bool gc_text_open(char *text, size_t len, const char *first, char **lines, int *rc)
{
    char hex[BH_SHA256_HEX];
    size_t tail = sizeof CHECKSUM - 1 + BH_SHA256_HEX - 1 + 1, head = strlen(first);
    *rc = 0;
    if (len < head + tail || strncmp(text, first, head) || strlen(text) != len)
        return false;
    char *sum = text + len - tail;
    if (strncmp(sum, CHECKSUM, sizeof CHECKSUM - 1) || text[len - 1] != '\n' || sum[-1] != '\n')
        return false;
    if ((*rc = bh_sha256_hex_of(text, (size_t)(sum - text), hex)) != 0 ||
        strncmp(sum + sizeof CHECKSUM - 1, hex, BH_SHA256_HEX - 1))
        return false;
    sum[-1] = '\0';
    *lines = text + head;
    return true;
}

void gc_text_begin(struct bh_strbuf *out, const char *first)
{
    uint32_t run;
    bh_random_bytes(&run, sizeof run);
    bh_strbuf_addf(out, "%srun: %" PRIu32 "\n", first, run);
}

int gc_text_end(struct bh_strbuf *out)
{
    char hex[BH_SHA256_HEX];
    if (out->failed || bh_sha256_hex_of(out->data, out->len, hex))
        return ENOMEM;
    bh_strbuf_addf(out, CHECKSUM "%s\n", hex);
    return out->failed ? ENOMEM : 0;
}

/* --- in the bucket --- */

#define BYTES_MAX ((size_t)64 << 20)

int gc_list_key(const char *prefix, const char *name, char key[BH_KEY_MAX + 1],
                struct bh_error *err)
{
    if (snprintf(key, BH_KEY_MAX + 1, "%s%s", prefix, name) > BH_KEY_MAX)
        return bh_fail(err, ENAMETOOLONG, "the key %.60s...%s is too long", prefix, name);
    return 0;
}

int gc_text_get(struct bh_bucket *b, const char *prefix, const char *name, char **text, size_t *len,
                char etag[BH_ETAG_MAX], const struct bh_call *call, struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    struct bh_object_info info;
    *text = NULL;
    etag[0] = '\0';
    int rc = gc_list_key(prefix, name, key, err);
    if (rc == 0)
        rc = bh_bucket_get_small(b, key, BYTES_MAX, text, len, &info, call, err);
    if (rc == 0)
        memcpy(etag, info.etag, BH_ETAG_MAX);
    return rc == ENOENT ? 0 : rc;
}

/* Without conditional writes: looks before, which leaves a moment for another gc. */
static int put_unseen(struct bh_bucket *b, const char *key, const struct bh_source *src,
                      const char *etag, struct bh_object_info *put, const struct bh_call *call,
                      struct bh_error *err)
{
    struct bh_object_info info = {0};
    int rc = bh_bucket_head(b, key, &info, call, err);
    if (rc && rc != ENOENT)
        return rc;
    if (strcmp(rc == 0 ? info.etag : "", etag))
        return ESTALE;
    return bh_bucket_put(b, key, src, NULL, NULL, put, call, err);
}

int gc_text_put(struct bh_bucket *b, const char *prefix, const char *name,
                const struct bh_strbuf *text, char etag[BH_ETAG_MAX], const struct bh_call *call,
                struct bh_error *err)
{
    char key[BH_KEY_MAX + 1];
    struct bh_error why = {0};
    struct bh_object_info info = {0};
    const struct bh_source src = {.size = text->len, .data = text->data};
    const struct bh_cond cond = {.if_match = etag[0] ? etag : NULL, .if_none_match = !etag[0]};
    int rc = gc_list_key(prefix, name, key, err);
    if (rc)
        return rc;
    rc = bh_bucket_put(b, key, &src, NULL, &cond, &info, call, &why);
    if (rc == ENOTSUP)
        rc = put_unseen(b, key, &src, etag, &info, call, &why);
    if (rc == ESTALE || rc == EEXIST)
        return bh_fail(err, EBUSY,
                       "another gc is running (%s was written by somebody else meanwhile): try "
                       "again",
                       key);
    if (rc)
        return bh_fail(err, rc, "%s cannot be written: %s", key, why.text);
    memcpy(etag, info.etag, BH_ETAG_MAX);
    return 0;
}
