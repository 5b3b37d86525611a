/* The XML that is sent. */
#include "bucket/s3/xml.h"

#include <string.h>

#include "util/strbuf.h"

#define DECLARATION "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
#define NAMESPACE   " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""

static void add(struct bh_strbuf *out, const char *text)
{
    bh_strbuf_add(out, text, strlen(text));
}

void bh_xml_escape(struct bh_strbuf *out, const char *text)
{
    for (const char *s = text; *s; s++)
        switch (*s) {
        case '&':
            add(out, "&amp;");
            break;
        case '<':
            add(out, "&lt;");
            break;
        case '>':
            add(out, "&gt;");
            break;
        case '"':
            add(out, "&quot;");
            break;
        case '\'':
            add(out, "&apos;");
            break;
        default:
            if ((unsigned char)*s < 0x20)
                bh_strbuf_addf(out, "&#x%X;", (unsigned)*s);
            else
                bh_strbuf_add(out, s, 1);
        }
}

void bh_xml_delete_body(struct bh_strbuf *out, const char *const *keys, size_t count)
{
    add(out, DECLARATION "<Delete" NAMESPACE "><Quiet>true</Quiet>");
    for (size_t i = 0; i < count; i++) {
        add(out, "<Object><Key>");
        bh_xml_escape(out, keys[i]);
        add(out, "</Key></Object>");
    }
    add(out, "</Delete>");
}

void bh_xml_complete_body(struct bh_strbuf *out, const struct bh_part *parts, size_t count)
{
    add(out, DECLARATION "<CompleteMultipartUpload" NAMESPACE ">");
    for (size_t i = 0; i < count; i++) {
        bh_strbuf_addf(out, "<Part><PartNumber>%u</PartNumber><ETag>&quot;", parts[i].number);
        bh_xml_escape(out, parts[i].etag);
        add(out, "&quot;</ETag></Part>");
    }
    add(out, "</CompleteMultipartUpload>");
}

void bh_xml_create_bucket_body(struct bh_strbuf *out, const char *region)
{
    if (!*region || strcmp(region, "us-east-1") == 0)
        return;
    add(out, DECLARATION "<CreateBucketConfiguration" NAMESPACE "><LocationConstraint>");
    bh_xml_escape(out, region);
    add(out, "</LocationConstraint></CreateBucketConfiguration>");
}
