/* The short answers. */
#include "bucket/s3/xml.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/xml_reader.h"
#include "util/cleanup.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* --- <Error> --- */

/* Whole characters, as far as they fit; a blank for each control character. */
static void put_text(char *out, size_t size, const char *text)
{
    const unsigned char *s = (const unsigned char *)(text ? text : "");
    size_t n = 0;
    while (*s) {
        size_t len = *s < 0x80 ? 1 : *s < 0xE0 ? 2 : *s < 0xF0 ? 3 : 4; /* expat made it UTF-8 */
        if (n + len >= size)
            break;
        if (*s < 0x20 || *s == 0x7F || (s[0] == 0xC2 && s[1] < 0xA0))
            out[n++] = ' ';
        else {
            memcpy(out + n, s, len);
            n += len;
        }
        s += len;
    }
    out[n] = '\0';
}

/* A name that will be a part of requests: nothing where it does not fit or is not made of what such
 * names are made of. */
static void put_name(char *out, size_t size, const char *text)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._:";
    size_t len = text ? strlen(text) : 0;
    out[0] = '\0';
    if (len && len < size && strspn(text, allowed) == len)
        memcpy(out, text, len + 1);
}

bool bh_xml_error(const char *body, size_t len, struct bh_s3_error *e)
{
    enum { CODE, MESSAGE, REGION, ENDPOINT, REQUEST_ID, SERVER_TIME };
    static const char *const roots[] = {"Error", NULL};
    static const char *const fields[] = {"Code",     "Message",   "Region",
                                         "Endpoint", "RequestId", "ServerTime"};
    static const struct xml_format format = {.name = "Error",
                                             .roots = roots,
                                             .fields = fields,
                                             .field_count = COUNT(fields),
                                             .cut = true};
    XML_FIELDS f = {0};
    bool is_error;
    *e = (struct bh_s3_error){0};
    /* A cut body says enough. */
    bh_xml_read(body, len, &format, f.v, &is_error, NULL, NULL);
    if (!is_error)
        return false;
    put_text(e->code, sizeof e->code, xml_text(&f.v[CODE]));
    put_text(e->message, sizeof e->message, xml_text(&f.v[MESSAGE]));
    put_name(e->region, sizeof e->region, xml_text(&f.v[REGION]));
    put_name(e->endpoint, sizeof e->endpoint, xml_text(&f.v[ENDPOINT]));
    put_text(e->request_id, sizeof e->request_id, xml_text(&f.v[REQUEST_ID]));
    put_text(e->server_time, sizeof e->server_time, xml_text(&f.v[SERVER_TIME]));
    return true;
}

/* --- one value or two --- */

int bh_xml_upload_id(const char *body, size_t len, char id[BH_UPLOAD_ID_MAX], struct bh_error *err)
{
    static const char *const roots[] = {"InitiateMultipartUploadResult", NULL};
    static const char *const fields[] = {"UploadId"};
    static const struct xml_format format = {.name = "InitiateMultipartUploadResult",
                                             .roots = roots,
                                             .fields = fields,
                                             .field_count = 1};
    XML_FIELDS f = {0};
    id[0] = '\0';
    int rc = bh_xml_read(body, len, &format, f.v, NULL, NULL, err);
    return rc ? rc : bh_xml_take_upload_id(&f.v[0], id, err);
}

int bh_xml_take_upload_id(const struct xml_value *v, char id[BH_UPLOAD_ID_MAX],
                          struct bh_error *err)
{
    const char *text = xml_text(v);
    if (!text || !*text)
        return bh_fail(err, EIO, "the store named an upload without an UploadId");
    size_t len = strlen(text);
    if (len >= BH_UPLOAD_ID_MAX)
        return bh_fail(err, EIO,
                       "the store gave an UploadId of %zu bytes, at most %d are supported", len,
                       BH_UPLOAD_ID_MAX - 1);
    memcpy(id, text, len + 1);
    return 0;
}

int bh_xml_result(const char *body, size_t len, char etag[BH_ETAG_MAX], int64_t *mtime_ms,
                  struct bh_error *err)
{
    enum { ETAG, LAST_MODIFIED };
    static const char *const roots[] = {"CopyObjectResult", "CopyPartResult",
                                        "CompleteMultipartUploadResult", NULL};
    static const char *const fields[] = {"ETag", "LastModified"};
    static const struct xml_format format = {
        .name = "CopyObjectResult or CompleteMultipartUploadResult",
        .roots = roots,
        .fields = fields,
        .field_count = COUNT(fields)};
    XML_FIELDS f = {0};
    const char *text;
    etag[0] = '\0';
    *mtime_ms = 0;
    int rc = bh_xml_read(body, len, &format, f.v, NULL, NULL, err);
    if (!rc && (text = xml_text(&f.v[ETAG])) && !bh_parse_etag(text, etag))
        rc = bh_fail(err, EIO, "the store answered the ETag '%.150s', which is none", text);
    if (!rc && (text = xml_text(&f.v[LAST_MODIFIED])) && *text &&
        (*mtime_ms = bh_parse_iso_time(text)) < 0) {
        *mtime_ms = 0;
        rc = bh_fail(err, EIO, "the store answered the LastModified '%.60s', which is no time",
                     text);
    }
    if (rc)
        etag[0] = '\0';
    return rc;
}

/* --- DeleteResult --- */

struct failures {
    struct failure {
        char *key, *code, *message;
    } * entries;
    size_t count;
};

static void failures_free(struct failures *f)
{
    for (size_t i = 0; i < f->count; i++) {
        free(f->entries[i].key);
        free(f->entries[i].code);
        free(f->entries[i].message);
    }
    free(f->entries);
}

static int see_failure(void *arg, size_t which, const struct xml_value *v, struct bh_error *err)
{
    struct failures *f = arg;
    const char *key = xml_text(&v[0]), *code = xml_text(&v[1]), *message = xml_text(&v[2]);
    char shown[200];
    put_text(shown, sizeof shown, message);
    if (!key || !*key)
        return bh_fail(err, EIO, "the store could not delete a key that it does not name: %.60s %s",
                       code ? code : "", shown);
    struct failure *entries = bh_xml_room(f->entries, f->count, sizeof *entries);
    if (!entries)
        return bh_xml_no_memory(err);
    f->entries = entries;
    struct failure *one = &entries[f->count++];
    *one = (struct failure){strdup(key), strdup(code ? code : ""), strdup(message ? message : "")};
    return one->key && one->code && one->message ? 0 : bh_xml_no_memory(err);
}

/* Nobody is told of a failure before the answer is known to be whole. */
int bh_xml_delete_result(const char *body, size_t len, bh_xml_delete_fn *fn, void *arg,
                         struct bh_error *err)
{
    static const char *const roots[] = {"DeleteResult", NULL};
    static const char *const fields[] = {"Key", "Code", "Message"};
    static const struct xml_entry_format entries[] = {
        {.name = "Error", .fields = fields, .field_count = COUNT(fields)}};
    static const struct xml_format format = {.name = "DeleteResult",
                                             .roots = roots,
                                             .entries = entries,
                                             .entry_count = COUNT(entries),
                                             .entry = see_failure};
    __attribute__((cleanup(failures_free))) struct failures failed = {0};
    int rc = bh_xml_read(body, len, &format, NULL, NULL, &failed, err);
    for (size_t i = 0; !rc && i < failed.count; i++)
        rc = fn(arg, failed.entries[i].key, failed.entries[i].code, failed.entries[i].message, err);
    return rc;
}

/* --- other documents --- */

int bh_xml_texts(const char *body, size_t len, const char *const *names, char **values,
                 size_t count, struct bh_error *err)
{
    const struct xml_format format = {
        .name = "XML document", .fields = names, .field_count = count};
    memset(values, 0, count * sizeof *values);
    struct xml_value *v = calloc(count, sizeof *v);
    if (!v)
        return bh_xml_no_memory(err);
    int rc = bh_xml_read(body, len, &format, v, NULL, NULL, err);
    for (size_t i = 0; !rc && i < count; i++)
        if (xml_text(&v[i]) && !(values[i] = strdup(xml_text(&v[i]))))
            rc = bh_xml_no_memory(err);
    for (size_t i = 0; rc && i < count; i++) {
        if (values[i])
            explicit_bzero(values[i], strlen(values[i]));
        free(bh_take_ptr(values[i]));
    }
    bh_xml_values_free(v, count);
    free(v);
    return rc;
}
