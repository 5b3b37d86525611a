/* What the tests of S3's XML share: one function for all kinds of answers, and what they hold as
 * text. */
#ifndef S3_XML_FIXTURE_H
#define S3_XML_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket/s3/xml.h"
#include "s3_xml_samples.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum kind { LIST, UPLOADS, PARTS, UPLOAD_ID, RESULT, DELETED, TEXTS };

static const struct sample {
    const char *name, *body;
    enum kind kind;
    const char *holds;
} samples[] = {
    {"list of AWS", list_aws, LIST, LIST_AWS_HOLDS},
    {"list of Ceph", list_ceph, LIST, LIST_CEPH_HOLDS},
    {"list of Swift", list_swift, LIST, LIST_SWIFT_HOLDS},
    {"list of MinIO", list_minio, LIST, LIST_MINIO_HOLDS},
    {"list of R2", list_r2, LIST, LIST_R2_HOLDS},
    {"uploads of AWS", uploads_aws, UPLOADS, UPLOADS_AWS_HOLDS},
    {"uploads of Ceph", uploads_ceph, UPLOADS, UPLOADS_CEPH_HOLDS},
    {"uploads of Swift", uploads_swift, UPLOADS, UPLOADS_SWIFT_HOLDS},
    {"parts of Ceph", parts_ceph, PARTS, PARTS_CEPH_HOLDS},
    {"upload", initiated, UPLOAD_ID, "2~ls3GIr_q1LtVxiu2yAHQar5dePij0rc"},
    {"copy", copied, RESULT, MD5_A " 1255369830000"},
    {"deletion", deleted, DELETED, "b &\rc\x01|AccessDenied|Access Denied\nd||m\n"},
    {"role", assumed, TEXTS,
     "ASgeIAIOSFODNN7EXAMPLE|wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY|"
     "AQoDYXdzEE0a8ANXXXXXXXXNO1ewxE5TijQyp+IEXAMPLE|2014-10-24T23:00:23Z|-|"},
};

static inline int read_list(const char *body, size_t len, struct bh_strbuf *out,
                            struct bh_error *err)
{
    struct bh_xml_page page;
    int rc = bh_xml_list(body, len, &page, err);
    if (rc)
        assert_true(!page.entries && !page.count && !page.next_token && !page.truncated);
    else
        bh_strbuf_addf(out, "%s%s\n", page.truncated ? "truncated, then " : "whole",
                       page.next_token ? page.next_token : "");
    for (size_t i = 0; i < page.count; i++) {
        const struct bh_xml_entry *e = &page.entries[i];
        if (e->is_prefix)
            bh_strbuf_addf(out, "*%s\n", e->key);
        else
            bh_strbuf_addf(out, "%s %llu %lld %s\n", e->key, (unsigned long long)e->info.size,
                           (long long)e->info.mtime_ms, e->info.etag);
        assert_int_equal(e->info.meta.count, 0);
    }
    bh_xml_page_free(&page);
    return rc;
}

static inline int read_uploads(const char *body, size_t len, struct bh_strbuf *out,
                               struct bh_error *err)
{
    struct bh_xml_uploads page;
    int rc = bh_xml_uploads(body, len, &page, err);
    if (rc)
        assert_true(!page.entries && !page.count && !page.next_key && !page.next_upload_id);
    else if (page.truncated)
        bh_strbuf_addf(out, "truncated, then %s %s\n", page.next_key ? page.next_key : "-",
                       page.next_upload_id ? page.next_upload_id : "-");
    else
        bh_strbuf_addf(out, "whole\n");
    for (size_t i = 0; i < page.count; i++)
        bh_strbuf_addf(out, "%s %s %lld\n", page.entries[i].key, page.entries[i].upload_id,
                       (long long)page.entries[i].started_ms);
    bh_xml_uploads_free(&page);
    return rc;
}

static inline int read_parts(const char *body, size_t len, struct bh_strbuf *out,
                             struct bh_error *err)
{
    struct bh_xml_parts page;
    int rc = bh_xml_parts(body, len, &page, err);
    if (rc)
        assert_true(!page.entries && !page.count && !page.next_marker && !page.truncated);
    else
        bh_strbuf_addf(out, "%s %u\n", page.truncated ? "truncated, then" : "whole",
                       page.next_marker);
    for (size_t i = 0; i < page.count; i++)
        bh_strbuf_addf(out, "%u %llu %s\n", page.entries[i].number,
                       (unsigned long long)page.entries[i].size, page.entries[i].etag);
    bh_xml_parts_free(&page);
    return rc;
}

static inline int see_failed_key(void *arg, const char *key, const char *code, const char *message,
                                 struct bh_error *err)
{
    bh_strbuf_addf(arg, "%s|%s|%s\n", key, code, message);
    return strcmp(code, "stop") == 0 ? bh_fail(err, EXDEV, "as asked for") : 0;
}

static inline int read_texts(const char *body, size_t len, struct bh_strbuf *out,
                             struct bh_error *err)
{
    static const char *const names[] = {"AccessKeyId", "SecretAccessKey", "SessionToken",
                                        "Expiration", "Absent"};
    char *values[COUNT(names)];
    int rc = bh_xml_texts(body, len, names, values, COUNT(names), err);
    for (size_t i = 0; i < COUNT(names); i++) {
        if (rc)
            assert_null(values[i]);
        else
            bh_strbuf_addf(out, "%s|", values[i] ? values[i] : "-");
        free(values[i]);
    }
    return rc;
}

/* What an answer holds; its bytes end where the memory does. */
static inline int read_bytes(enum kind kind, const void *bytes, size_t len, struct bh_strbuf *out,
                             struct bh_error *err)
{
    char id[BH_UPLOAD_ID_MAX], etag[BH_ETAG_MAX];
    int64_t ms;
    int rc = 0;
    switch (kind) {
    case LIST:
        return read_list(bytes, len, out, err);
    case UPLOADS:
        return read_uploads(bytes, len, out, err);
    case PARTS:
        return read_parts(bytes, len, out, err);
    case UPLOAD_ID:
        rc = bh_xml_upload_id(bytes, len, id, err);
        bh_strbuf_addf(out, "%s", id);
        break;
    case RESULT:
        rc = bh_xml_result(bytes, len, etag, &ms, err);
        if (rc)
            assert_true(!*etag && !ms);
        bh_strbuf_addf(out, "%s %lld", etag, (long long)ms);
        break;
    case DELETED:
        rc = bh_xml_delete_result(bytes, len, see_failed_key, out, err);
        break;
    case TEXTS:
        return read_texts(bytes, len, out, err);
    }
    return rc;
}

static inline int read_answer(enum kind kind, const char *body, size_t len, struct bh_strbuf *out,
                              struct bh_error *err)
{
    void *bytes = malloc(len ? len : 1);
    assert_non_null(bytes);
    memcpy(bytes, body, len);
    int rc = read_bytes(kind, bytes, len, out, err);
    free(bytes);
    assert_false(out->failed);
    return rc;
}

static inline void must_hold(const char *name, enum kind kind, const char *body, const char *holds)
{
    BH_STRBUF out = {0};
    struct bh_error err = {0};
    int rc = read_answer(kind, body, strlen(body), &out, &err);
    if (rc || strcmp(out.data ? out.data : "", holds) != 0)
        fail_msg("%s: rc %d %s\n%s\nholds\n%s\ninstead of\n%s", name, rc, err.text, body,
                 out.data ? out.data : "", holds);
}

/* Ends in EIO, with a sentence that has `why` in it. */
static inline void must_refuse_bytes(enum kind kind, const char *body, size_t len, const char *why)
{
    BH_STRBUF out = {0};
    struct bh_error err = {0};
    int rc = read_answer(kind, body, len, &out, &err);
    if (rc != EIO || err.code != EIO || !strstr(err.text, why))
        fail_msg("kind %d: rc %d, '%s' does not say '%s':\n%.1000s", (int)kind, rc, err.text, why,
                 body);
    assert_int_equal(read_answer(kind, body, len, &out, NULL), EIO);
}

static inline void must_refuse(enum kind kind, const char *body, const char *why)
{
    must_refuse_bytes(kind, body, strlen(body), why);
}

#endif
