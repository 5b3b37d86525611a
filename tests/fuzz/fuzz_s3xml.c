/* The XML of S3's answers, and the values in them and in headers. The input's first byte says which
 * function gets the rest. */
#include "fuzz.h"

#include <errno.h>

#include "bucket/bucket_util.h"
#include "bucket/s3/xml.h"
#include "util/clock.h"

static const int64_t TIME_MAX = INT64_C(253402300800999); /* 9999-12-31T23:59:60.999 */

static void must_be_etag(const char *etag)
{
    char again[BH_ETAG_MAX];
    must(strnlen(etag, BH_ETAG_MAX) < BH_ETAG_MAX);
    for (const unsigned char *s = (const unsigned char *)etag; *s; s++)
        must(*s > 0x20 && *s != '"' && *s != 0x7F);
    must(bh_parse_etag(etag, again) && !strcmp(etag, again));
}

static void must_be_key(const char *key)
{
    must(bh_key_check(key, NULL) == 0);
}

static void list(const char *body, size_t len)
{
    struct bh_xml_page page;
    struct bh_error err = {0};
    int rc = bh_xml_list(body, len, &page, &err);
    must_be_told(rc, &err);
    must(!rc || rc == EIO);
    must(!rc || (!page.entries && !page.count && !page.truncated && !page.next_token));
    must(page.count <= 10000 && (!page.next_token || *page.next_token));
    for (size_t i = 0; i < page.count; i++) {
        const struct bh_xml_entry *e = &page.entries[i], *before = i ? e - 1 : NULL;
        must_be_key(e->key);
        must_be_etag(e->info.etag);
        must(e->info.mtime_ms >= 0 && e->info.mtime_ms <= TIME_MAX && e->info.size <= INT64_MAX);
        must(!e->info.meta.count && (!e->is_prefix || (!e->info.size && !e->info.mtime_ms)));
        int order = before ? strcmp(before->key, e->key) : -1;
        must(order < 0 || (order == 0 && !before->is_prefix && e->is_prefix));
    }
    bh_xml_page_free(&page);
    must(!page.entries && !page.count);
}

static void uploads(const char *body, size_t len)
{
    struct bh_xml_uploads page;
    struct bh_error err = {0};
    int rc = bh_xml_uploads(body, len, &page, &err);
    must_be_told(rc, &err);
    must(!rc || rc == EIO);
    must(!rc || (!page.entries && !page.count && !page.next_key && !page.next_upload_id));
    for (size_t i = 0; i < page.count; i++) {
        const struct bh_xml_upload *e = &page.entries[i];
        size_t n = strlen(e->upload_id);
        must_be_key(e->key);
        must(n > 0 && n < BH_UPLOAD_ID_MAX && e->started_ms >= 0 && e->started_ms <= TIME_MAX);
    }
    if (page.next_key)
        must_be_key(page.next_key);
    bh_xml_uploads_free(&page);
}

static void parts(const char *body, size_t len)
{
    struct bh_xml_parts page;
    struct bh_error err = {0};
    int rc = bh_xml_parts(body, len, &page, &err);
    must_be_told(rc, &err);
    must(!rc || rc == EIO);
    must(!rc || (!page.entries && !page.count && !page.next_marker));
    must(page.next_marker <= 10000);
    for (size_t i = 0; i < page.count; i++) {
        const struct bh_xml_part *e = &page.entries[i];
        must_be_etag(e->etag);
        must(e->etag[0] && e->number > (i ? e[-1].number : 0) && e->number <= 10000);
        must(e->size <= INT64_MAX);
    }
    bh_xml_parts_free(&page);
}

/* One line of UTF-8 that ends. */
static void must_be_line(const char *text, size_t size)
{
    must(strnlen(text, size) < size && bh_utf8_valid(text));
    for (const unsigned char *s = (const unsigned char *)text; *s; s++)
        must(*s >= 0x20 && *s != 0x7F && (s[0] != 0xC2 || s[1] >= 0xA0));
}

static void error(const char *body, size_t len)
{
    struct bh_s3_error e;
    memset(&e, 'x', sizeof e);
    bool found = bh_xml_error(body, len, &e);
    must_be_line(e.code, sizeof e.code);
    must_be_line(e.message, sizeof e.message);
    must_be_line(e.region, sizeof e.region);
    must_be_line(e.endpoint, sizeof e.endpoint);
    must_be_line(e.request_id, sizeof e.request_id);
    must_be_line(e.server_time, sizeof e.server_time);
    must(!strpbrk(e.region, " /?#@%&<>\"'\\") && !strpbrk(e.endpoint, " /?#@%&<>\"'\\"));
    must(found || (!*e.code && !*e.message && !*e.region && !*e.endpoint && !*e.request_id));
}

static void result(const char *body, size_t len)
{
    char id[BH_UPLOAD_ID_MAX], etag[BH_ETAG_MAX];
    int64_t ms = -7;
    struct bh_error err = {0};
    int rc = bh_xml_result(body, len, etag, &ms, &err);
    must_be_told(rc, &err);
    must_be_etag(etag);
    must(ms >= 0 && ms <= TIME_MAX && (!rc || (!ms && !*etag)));
    rc = bh_xml_upload_id(body, len, id, &err);
    must_be_told(rc, &err);
    must(strnlen(id, sizeof id) < sizeof id && (rc != 0) == (id[0] == '\0'));
}

static int see_failure(void *arg, const char *key, const char *code, const char *message,
                       struct bh_error *err)
{
    must(*key && bh_utf8_valid(key) && bh_utf8_valid(code) && bh_utf8_valid(message));
    return ++*(int *)arg == 3 ? bh_fail(err, EXDEV, "enough") : 0;
}

static void deleted(const char *body, size_t len)
{
    int seen = 0;
    struct bh_error err = {0};
    int rc = bh_xml_delete_result(body, len, see_failure, &seen, &err);
    must_be_told(rc, &err);
    must((rc == EXDEV) == (seen == 3) && (rc != EIO || seen == 0));
}

static void texts(const char *body, size_t len)
{
    static const char *const names[] = {"AccessKeyId", "a", "b", "a"};
    char *values[4];
    struct bh_error err = {0};
    int rc = bh_xml_texts(body, len, names, values, 4, &err);
    must_be_told(rc, &err);
    for (int i = 0; i < 4; i++) {
        must(!values[i] || (!rc && bh_utf8_valid(values[i])));
        free(values[i]);
    }
}

/* What is escaped reads back as it was, where XML can have it at all. */
static void written(const char *text, size_t len)
{
    static const char *const names[] = {"ETag"};
    BH_FREE char *value = NULL;
    BH_STRBUF out = {0};
    struct bh_part part = {.number = 7};
    snprintf(part.etag, sizeof part.etag, "%s", text);
    text = part.etag;
    bool legal =
        bh_utf8_valid(text) && !strstr(text, "\xEF\xBF\xBE") && !strstr(text, "\xEF\xBF\xBF");
    bool own = strstr(text, "\xEF\xB7") != NULL; /* not beside forbidden characters */
    for (const char *s = text; own && *s; s++)
        legal = legal && ((unsigned char)*s >= 0x20 || strchr("\t\r\n", *s));
    bh_xml_complete_body(&out, &part, 1);
    int rc = bh_xml_texts(out.data, out.len, names, &value, 1, NULL);
    must((rc == 0) == legal);
    if (legal) {
        size_t n = strlen(value);
        must(n >= 2 && value[0] == '"' && value[n - 1] == '"');
        value[n - 1] = '\0';
        must(!strcmp(value + 1, part.etag));
    }
    bh_strbuf_reset(&out);
    bh_xml_delete_body(&out, (const char *const[]){text, "k"}, 2);
    must(out.data && !out.failed);
}

static void values(const char *text, size_t len)
{
    char etag[BH_ETAG_MAX], shown[40];
    uint64_t n = 7;
    int64_t iso = bh_parse_iso_time(text), http = bh_parse_http_time(text);
    must(iso >= -1 && iso <= TIME_MAX && http >= -1 && http <= TIME_MAX);
    must(iso < 0 || http < 0);
    must(iso < 0 || bh_parse_iso_time(bh_format_time(iso, shown, sizeof shown)) == iso ||
         iso >= TIME_MAX - 999); /* the leap second of the last minute is in another year */
    must(bh_parse_decimal(text, &n) ? *text && strspn(text, "0123456789") == len : n == 7);
    if (bh_parse_etag(text, etag))
        must_be_etag(etag);
    else
        must(!*etag);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        char name;
        void (*read)(const char *body, size_t len);
        bool string; /* ends in a NUL */
    } kinds[] = {
        {'l', list, false},  {'u', uploads, false}, {'p', parts, false},
        {'e', error, false}, {'r', result, false},  {'d', deleted, false},
        {'t', texts, false}, {'w', written, true},  {'v', values, true},
    };
    if (size == 0)
        return 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (kinds[i].name != (char)data[0])
            continue;
        if (kinds[i].string) {
            BH_FREE char *text = string_of(data + 1, size - 1);
            kinds[i].read(text, strlen(text));
        } else {
            BH_FREE char *body = malloc(size > 1 ? size - 1 : 1); /* ends where it does */
            must(body);
            memcpy(body, data + 1, size - 1);
            kinds[i].read(body, size - 1);
        }
    }
    return 0;
}
