/* The pages of lists. */
#include "bucket/s3/xml.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bucket/bucket_util.h"
#include "bucket/s3/xml_reader.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define NUMBER_MAX   10000 /* of a part */

/* --- fields --- */

/* The field `name` of what `of` names is missing, or not what it must be. */
static int refuse(const char *name, const char *of, const char *text, const char *must_be,
                  struct bh_error *err)
{
    if (!text)
        return bh_fail(err, EIO, "the store listed %.200s without %s", of, name);
    return bh_fail(err, EIO, "the store listed %.200s with the %s '%.150s', which is not %s", of,
                   name, text, must_be);
}

static int take_number(const struct xml_value *v, const char *name, const char *of, uint64_t max,
                       uint64_t *n, struct bh_error *err)
{
    const char *text = xml_text(v);
    if (text && bh_parse_decimal(text, n) && *n <= max)
        return 0;
    return refuse(name, of, text, "a number in range", err);
}

static int take_time(const struct xml_value *v, const char *name, const char *of, int64_t *ms,
                     struct bh_error *err)
{
    const char *text = xml_text(v);
    if (text && (*ms = bh_parse_iso_time(text)) >= 0)
        return 0;
    return refuse(name, of, text, "a time", err);
}

static int take_etag(const struct xml_value *v, const char *of, char etag[BH_ETAG_MAX],
                     struct bh_error *err)
{
    const char *text = xml_text(v);
    return !text || bh_parse_etag(text, etag) ? 0 : refuse("ETag", of, text, "an ETag", err);
}

/* A list that does not say whether it is whole must not be taken for whole. */
static int take_truncated(const struct xml_value *v, bool *truncated, struct bh_error *err)
{
    const char *text = xml_text(v);
    *truncated = text && strcasecmp(text, "true") == 0;
    return *truncated || (text && strcasecmp(text, "false") == 0)
               ? 0
               : refuse("IsTruncated", "a page", text, "true or false", err);
}

/* NULL in *copy where the field is missing or empty. */
static int take_copy(const struct xml_value *v, char **copy, struct bh_error *err)
{
    const char *text = xml_text(v);
    if (!text || !*text)
        return 0;
    *copy = strdup(text);
    return *copy ? 0 : bh_xml_no_memory(err);
}

/* --- keys --- */

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* In place. False, and nothing done: a '%' without two hex digits, or the NUL that no key has. */
static bool url_decode(char *text)
{
    for (const char *s = text; (s = strchr(s, '%')); s += 3)
        if (hex(s[1]) < 0 || hex(s[2]) < 0 || (s[1] == '0' && s[2] == '0'))
            return false;
    char *to = text;
    for (const char *s = text; *s; s++) {
        bool percent = *s == '%'; /* before *to, which may be *s, is written */
        *to++ = percent ? (char)(hex(s[1]) << 4 | hex(s[2])) : *s == '+' ? ' ' : *s;
        s += percent ? 2 : 0;
    }
    *to = '\0';
    return true;
}

/* Whether keys are encoded, which may be said after them. */
static int take_encoding(const struct xml_value *v, bool *url, struct bh_error *err)
{
    const char *text = xml_text(v);
    *url = text && strcasecmp(text, "url") == 0;
    return *url || !text || !*text ? 0 : refuse("EncodingType", "a page", text, "a known one", err);
}

static int finish_key(char *key, bool url, struct bh_error *err)
{
    if (url && !url_decode(key))
        return bh_fail(err, EIO,
                       "the store listed the key '%.200s', which is not encoded as a URL is", key);
    int rc = bh_key_check(key, err);
    return rc ? bh_fail_prefix(err, EIO, "the store listed a key that cannot be") : 0;
}

/* --- ListObjectsV2 --- */

static int see_object(void *arg, size_t which, const struct xml_value *v, struct bh_error *err)
{
    enum { KEY, SIZE, ETAG, LAST_MODIFIED };
    struct bh_xml_page *page = arg;
    const char *key = xml_text(&v[KEY]);
    if (!key)
        return bh_fail(err, EIO, "the store listed an object without a Key");
    struct bh_xml_entry *entries = bh_xml_room(page->entries, page->count, sizeof *entries);
    if (!entries)
        return bh_xml_no_memory(err);
    page->entries = entries;
    struct bh_xml_entry *e = &entries[page->count];
    *e = (struct bh_xml_entry){.key = strdup(key), .is_prefix = which == 1};
    if (!e->key)
        return bh_xml_no_memory(err);
    page->count++;
    if (e->is_prefix)
        return 0;
    int rc = take_number(&v[SIZE], "Size", key, INT64_MAX, &e->info.size, err);
    if (!rc)
        rc = take_time(&v[LAST_MODIFIED], "LastModified", key, &e->info.mtime_ms, err);
    return rc ? rc : take_etag(&v[ETAG], key, e->info.etag, err);
}

/* By key; the newest first where a store has a key twice. */
static int compare_entries(const void *a, const void *b)
{
    const struct bh_xml_entry *x = a, *y = b;
    int order = strcmp(x->key, y->key);
    if (!order)
        order = x->is_prefix - y->is_prefix;
    if (!order)
        order = (x->info.mtime_ms < y->info.mtime_ms) - (x->info.mtime_ms > y->info.mtime_ms);
    return order;
}

/* Objects and prefixes come one after the other, and not every store sorts by bytes. */
static void sort_entries(struct bh_xml_page *page)
{
    struct bh_xml_entry *e = page->entries;
    size_t kept = 0, i = 1;
    while (i < page->count && compare_entries(&e[i - 1], &e[i]) < 0)
        i++;
    if (i < page->count)
        qsort(e, page->count, sizeof *e, compare_entries);
    for (i = 0; i < page->count; i++) {
        if (kept && strcmp(e[kept - 1].key, e[i].key) == 0 &&
            e[kept - 1].is_prefix == e[i].is_prefix)
            free(e[i].key);
        else if (kept++ != i)
            e[kept - 1] = e[i];
    }
    page->count = kept;
}

static int read_list(const char *body, size_t len, struct bh_xml_page *page, struct bh_error *err)
{
    enum { TRUNCATED, TOKEN, ENCODING };
    static const char *const roots[] = {"ListBucketResult", NULL};
    static const char *const fields[] = {"IsTruncated", "NextContinuationToken", "EncodingType"};
    static const char *const object[] = {"Key", "Size", "ETag", "LastModified"};
    static const char *const prefix[] = {"Prefix"};
    static const struct xml_entry_format entries[] = {
        {.name = "Contents", .fields = object, .field_count = COUNT(object)},
        {.name = "CommonPrefixes", .fields = prefix, .field_count = 1, .repeats = true}};
    static const struct xml_format format = {.name = "ListBucketResult",
                                             .roots = roots,
                                             .fields = fields,
                                             .field_count = COUNT(fields),
                                             .entries = entries,
                                             .entry_count = COUNT(entries),
                                             .entry = see_object};
    XML_FIELDS f = {0};
    bool url = false;
    int rc = bh_xml_read(body, len, &format, f.v, NULL, page, err);
    if (!rc)
        rc = take_truncated(&f.v[TRUNCATED], &page->truncated, err);
    if (!rc)
        rc = take_copy(&f.v[TOKEN], &page->next_token, err);
    if (!rc)
        rc = take_encoding(&f.v[ENCODING], &url, err);
    for (size_t i = 0; !rc && i < page->count; i++)
        rc = finish_key(page->entries[i].key, url, err);
    if (!rc)
        sort_entries(page);
    return rc;
}

int bh_xml_list(const char *body, size_t len, struct bh_xml_page *page, struct bh_error *err)
{
    *page = (struct bh_xml_page){0};
    int rc = read_list(body, len, page, err);
    if (rc)
        bh_xml_page_free(page);
    return rc;
}

void bh_xml_page_free(struct bh_xml_page *page)
{
    for (size_t i = 0; i < page->count; i++)
        free(page->entries[i].key);
    free(page->entries);
    free(page->next_token);
    *page = (struct bh_xml_page){0};
}

/* --- ListMultipartUploads --- */

static int see_upload(void *arg, size_t which, const struct xml_value *v, struct bh_error *err)
{
    enum { KEY, UPLOAD_ID, INITIATED };
    struct bh_xml_uploads *page = arg;
    const char *key = xml_text(&v[KEY]);
    char id[BH_UPLOAD_ID_MAX];
    int64_t started_ms = 0;
    if (!key)
        return bh_fail(err, EIO, "the store listed an upload without a Key");
    int rc = bh_xml_take_upload_id(&v[UPLOAD_ID], id, err);
    if (rc)
        return bh_fail_prefix(err, rc, "the uploads of %.200s", key);
    rc = take_time(&v[INITIATED], "Initiated", key, &started_ms, err);
    if (rc)
        return rc;
    struct bh_xml_upload *entries = bh_xml_room(page->entries, page->count, sizeof *entries);
    if (!entries)
        return bh_xml_no_memory(err);
    page->entries = entries;
    struct bh_xml_upload *e = &entries[page->count++];
    *e = (struct bh_xml_upload){
        .key = strdup(key), .upload_id = strdup(id), .started_ms = started_ms};
    return e->key && e->upload_id ? 0 : bh_xml_no_memory(err);
}

static int read_uploads(const char *body, size_t len, struct bh_xml_uploads *page,
                        struct bh_error *err)
{
    enum { TRUNCATED, NEXT_KEY, NEXT_ID, ENCODING };
    static const char *const roots[] = {"ListMultipartUploadsResult", NULL};
    static const char *const fields[] = {"IsTruncated", "NextKeyMarker", "NextUploadIdMarker",
                                         "EncodingType"};
    static const char *const upload[] = {"Key", "UploadId", "Initiated"};
    static const struct xml_entry_format entries[] = {
        {.name = "Upload", .fields = upload, .field_count = COUNT(upload)}};
    static const struct xml_format format = {.name = "ListMultipartUploadsResult",
                                             .roots = roots,
                                             .fields = fields,
                                             .field_count = COUNT(fields),
                                             .entries = entries,
                                             .entry_count = COUNT(entries),
                                             .entry = see_upload};
    XML_FIELDS f = {0};
    bool url = false;
    int rc = bh_xml_read(body, len, &format, f.v, NULL, page, err);
    if (!rc)
        rc = take_truncated(&f.v[TRUNCATED], &page->truncated, err);
    if (!rc)
        rc = take_copy(&f.v[NEXT_KEY], &page->next_key, err);
    if (!rc)
        rc = take_copy(&f.v[NEXT_ID], &page->next_upload_id, err);
    if (!rc)
        rc = take_encoding(&f.v[ENCODING], &url, err);
    if (!rc && page->next_key)
        rc = finish_key(page->next_key, url, err);
    for (size_t i = 0; !rc && i < page->count; i++)
        rc = finish_key(page->entries[i].key, url, err);
    return rc;
}

int bh_xml_uploads(const char *body, size_t len, struct bh_xml_uploads *page, struct bh_error *err)
{
    *page = (struct bh_xml_uploads){0};
    int rc = read_uploads(body, len, page, err);
    if (rc)
        bh_xml_uploads_free(page);
    return rc;
}

void bh_xml_uploads_free(struct bh_xml_uploads *page)
{
    for (size_t i = 0; i < page->count; i++) {
        free(page->entries[i].key);
        free(page->entries[i].upload_id);
    }
    free(page->entries);
    free(page->next_key);
    free(page->next_upload_id);
    *page = (struct bh_xml_uploads){0};
}

/* --- ListParts --- */

static int see_part(void *arg, size_t which, const struct xml_value *v, struct bh_error *err)
{
    enum { NUMBER, SIZE, ETAG };
    struct bh_xml_parts *page = arg;
    char of[32];
    uint64_t number = 0;
    int rc = take_number(&v[NUMBER], "PartNumber", "a part", NUMBER_MAX, &number, err);
    if (!rc && number == 0)
        rc = refuse("PartNumber", "a part", "0", "a number in range", err);
    if (rc)
        return rc;
    struct bh_xml_part *entries = bh_xml_room(page->entries, page->count, sizeof *entries);
    if (!entries)
        return bh_xml_no_memory(err);
    page->entries = entries;
    struct bh_xml_part *e = &entries[page->count++];
    *e = (struct bh_xml_part){.number = (unsigned)number};
    snprintf(of, sizeof of, "part %u", e->number);
    rc = take_number(&v[SIZE], "Size", of, INT64_MAX, &e->size, err);
    if (!rc)
        rc = take_etag(&v[ETAG], of, e->etag, err);
    return rc || e->etag[0] ? rc : refuse("ETag", of, NULL, NULL, err);
}

static int compare_parts(const void *a, const void *b)
{
    const struct bh_xml_part *x = a, *y = b;
    return (x->number > y->number) - (x->number < y->number);
}

static int read_parts(const char *body, size_t len, struct bh_xml_parts *page, struct bh_error *err)
{
    enum { TRUNCATED, MARKER };
    static const char *const roots[] = {"ListPartsResult", NULL};
    static const char *const fields[] = {"IsTruncated", "NextPartNumberMarker"};
    static const char *const part[] = {"PartNumber", "Size", "ETag"};
    static const struct xml_entry_format entries[] = {
        {.name = "Part", .fields = part, .field_count = COUNT(part)}};
    static const struct xml_format format = {.name = "ListPartsResult",
                                             .roots = roots,
                                             .fields = fields,
                                             .field_count = COUNT(fields),
                                             .entries = entries,
                                             .entry_count = COUNT(entries),
                                             .entry = see_part};
    XML_FIELDS f = {0};
    uint64_t marker = 0;
    int rc = bh_xml_read(body, len, &format, f.v, NULL, page, err);
    if (!rc)
        rc = take_truncated(&f.v[TRUNCATED], &page->truncated, err);
    const char *text = xml_text(&f.v[MARKER]);
    if (!rc && text && *text)
        rc = take_number(&f.v[MARKER], "NextPartNumberMarker", "a page", NUMBER_MAX, &marker, err);
    page->next_marker = (unsigned)marker;
    if (page->count)
        qsort(page->entries, page->count, sizeof *page->entries, compare_parts);
    for (size_t i = 1; !rc && i < page->count; i++)
        if (page->entries[i - 1].number == page->entries[i].number)
            rc = bh_fail(err, EIO, "the store listed part %u twice", page->entries[i].number);
    return rc;
}

int bh_xml_parts(const char *body, size_t len, struct bh_xml_parts *page, struct bh_error *err)
{
    *page = (struct bh_xml_parts){0};
    int rc = read_parts(body, len, page, err);
    if (rc)
        bh_xml_parts_free(page);
    return rc;
}

void bh_xml_parts_free(struct bh_xml_parts *page)
{
    free(page->entries);
    *page = (struct bh_xml_parts){0};
}
