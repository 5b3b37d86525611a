#include "bucket/s3/xml_reader.h"

#include <errno.h>
#include <expat.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

struct reader {
    XML_Parser parser;
    const struct xml_format *format;
    struct xml_value *values;                      /* of the format's fields */
    struct xml_value entry_values[XML_FIELDS_MAX]; /* of the entry that is open */
    const struct xml_entry_format *entry;          /* NULL: none is open */
    struct xml_value *open;                        /* whose text comes now; NULL: nobody's */
    unsigned depth; /* of the element that is open; the root's is 1 */
    unsigned open_depth;
    size_t entries;
    bool rooted;
    bool mapped; /* the body went through map_controls */
    void *arg;
    struct bh_error *err;
    int rc;
};

void bh_xml_values_free(struct xml_value *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (values[i].text.data)
            explicit_bzero(values[i].text.data, values[i].text.cap);
        bh_strbuf_free(&values[i].text);
        values[i] = (struct xml_value){0};
    }
}

void *bh_xml_room(void *array, size_t count, size_t size)
{
    enum { STEP = 64 };
    return count % STEP ? array : reallocarray(array, count + STEP, size);
}

int bh_xml_no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "no memory to read the store's answer");
}

/* --- control characters ---
 *
 * Keys may hold control characters. AWS and Ceph send them as &#x1;, which XML 1.0 forbids even in
 * this form, and expat refuses. They are replaced by the noncharacters U+FDD0 to U+FDEF before,
 * which XML allows, and turned back when the text is complete. A body that has such noncharacters
 * itself, or CDATA, in which a reference is none, is left as it is. */

#define MAPPED_LEAD "\xEF\xB7" /* U+FDD0 + c is EF B7 90+c */

/* The length of the character reference at s, or 0; *c becomes the character. */
static size_t reference(const char *s, size_t len, unsigned *c)
{
    if (len < 4 || s[0] != '&' || s[1] != '#')
        return 0;
    unsigned base = s[2] == 'x' ? 16 : 10;
    size_t first = base == 16 ? 3 : 2, i = first;
    *c = 0;
    for (; i < len; i++) {
        unsigned digit = s[i] >= '0' && s[i] <= '9'                 ? (unsigned)(s[i] - '0')
                         : base == 16 && s[i] >= 'a' && s[i] <= 'f' ? (unsigned)(s[i] - 'a') + 10
                         : base == 16 && s[i] >= 'A' && s[i] <= 'F' ? (unsigned)(s[i] - 'A') + 10
                                                                    : 16;
        if (digit >= base)
            break;
        *c = *c < 0x110000 ? *c * base + digit : *c; /* beyond that, there are none */
    }
    return i > first && i < len && s[i] == ';' ? i + 1 : 0;
}

static bool is_forbidden(unsigned c)
{
    return c > 0 && c < 0x20 && c != '\t' && c != '\n' && c != '\r';
}

static bool begins(const char *s, size_t len, const char *with)
{
    size_t n = strlen(with);
    return n <= len && memcmp(s, with, n) == 0;
}

/* Whether there is something to map, and nothing that would come back as something else. */
static bool must_map(const char *body, size_t len)
{
    bool found = false;
    for (size_t i = 0; i < len; i++) {
        unsigned c = 0;
        bool is_reference = reference(body + i, len - i, &c) > 0;
        if (begins(body + i, len - i, MAPPED_LEAD) || begins(body + i, len - i, "<![CDATA[") ||
            (is_reference && c >= 0xFDD0 && c <= 0xFDEF))
            return false;
        found = found || (is_reference && is_forbidden(c));
    }
    return found;
}

static char *map_controls(const char *body, size_t *len)
{
    char *copy = malloc(*len), *to = copy;
    for (size_t i = 0, n; copy && i < *len; i += n) {
        unsigned c;
        n = reference(body + i, *len - i, &c);
        if (n && is_forbidden(c)) {
            memcpy(to, MAPPED_LEAD, 2);
            to[2] = (char)(0x90 + c);
            to += 3;
        } else {
            n = 1;
            *to++ = body[i];
        }
    }
    *len = (size_t)(to - copy);
    return copy;
}

static void unmap_controls(struct bh_strbuf *text)
{
    size_t to = 0;
    for (size_t i = 0; i < text->len; i++, to++) {
        const unsigned char *s = (const unsigned char *)text->data + i;
        if (i + 2 < text->len && s[0] == 0xEF && s[1] == 0xB7 && s[2] >= 0x90 && s[2] < 0xB0) {
            text->data[to] = (char)(s[2] - 0x90);
            i += 2;
        } else
            text->data[to] = text->data[i];
    }
    if (text->data)
        text->data[text->len = to] = '\0';
}

/* --- what expat tells --- */

static void stop(struct reader *r, int rc)
{
    r->rc = rc;
    XML_StopParser(r->parser, XML_FALSE);
}

/* Without the prefix of a namespace. */
static const char *local_name(const char *name)
{
    const char *colon = strrchr(name, ':');
    return colon ? colon + 1 : name;
}

/* Begins to gather the text of the field of this name, if it is one and has not come yet. */
static void open_field(struct reader *r, const char *name, const char *const *fields, size_t count,
                       struct xml_value *values)
{
    for (size_t i = 0; i < count; i++)
        if (!values[i].seen && strcmp(fields[i], name) == 0) {
            values[i].seen = true;
            r->open = &values[i];
            r->open_depth = r->depth;
            return;
        }
}

static void open_entry(struct reader *r, const char *name)
{
    for (size_t i = 0; i < r->format->entry_count; i++)
        if (strcmp(r->format->entries[i].name, name) == 0)
            r->entry = &r->format->entries[i];
}

static void open_root(struct reader *r, const char *name)
{
    const char *const *root = r->format->roots;
    while (root && *root && strcmp(*root, name) != 0)
        root++;
    r->rooted = !root || *root;
    if (!r->rooted)
        stop(r, bh_fail(r->err, EIO, "the store answered <%.60s> instead of %s", name,
                        r->format->name));
}

static void on_start(void *arg, const XML_Char *full_name, const XML_Char **attributes)
{
    struct reader *r = arg;
    const struct xml_format *f = r->format;
    const char *name = local_name(full_name);
    if (r->rc) /* expat ends the element in whose beginning it was stopped */
        return;
    r->depth++;
    if (r->depth > XML_DEPTH_MAX)
        return stop(r, bh_fail(r->err, EIO, "the store's answer is nested deeper than %d elements",
                               XML_DEPTH_MAX));
    if (r->depth == 1)
        open_root(r, name);
    if (r->rc || r->open)
        return;
    if (!f->roots || r->depth == 2)
        open_field(r, name, f->fields, f->field_count, r->values);
    if (r->depth == 2 && !r->open)
        open_entry(r, name);
    else if (r->depth == 3 && r->entry)
        open_field(r, name, r->entry->fields, r->entry->field_count, r->entry_values);
}

static void on_text(void *arg, const XML_Char *text, int len)
{
    struct reader *r = arg;
    if (r->rc || !r->open || r->depth != r->open_depth)
        return;
    struct bh_strbuf *to = &r->open->text;
    size_t n = (size_t)len, room = XML_TEXT_MAX - to->len;
    if (n > room && !r->format->cut)
        return stop(r, bh_fail(r->err, EIO, "a field of the store's answer has over %zu bytes",
                               XML_TEXT_MAX));
    bh_strbuf_add(to, text, n < room ? n : room);
    if (to->failed)
        stop(r, bh_xml_no_memory(r->err));
}

static void close_entry(struct reader *r)
{
    if (++r->entries > XML_ENTRIES_MAX)
        return stop(r, bh_fail(r->err, EIO, "the store's %s has more than %d entries",
                               r->format->name, XML_ENTRIES_MAX));
    int rc =
        r->format->entry(r->arg, (size_t)(r->entry - r->format->entries), r->entry_values, r->err);
    if (rc)
        stop(r, rc);
    for (size_t i = 0; i < XML_FIELDS_MAX; i++) {
        bh_strbuf_reset(&r->entry_values[i].text);
        r->entry_values[i].seen = r->entry_values[i].complete = false;
    }
}

static void on_end(void *arg, const XML_Char *name)
{
    struct reader *r = arg;
    if (r->rc)
        return;
    if (r->open && r->depth == r->open_depth) {
        if (r->mapped)
            unmap_controls(&r->open->text);
        r->open->complete = true;
        r->open = NULL;
        if (r->entry && r->entry->repeats)
            close_entry(r);
    }
    if (r->entry && r->depth == 2) {
        if (!r->rc && !r->entry->repeats)
            close_entry(r);
        r->entry = NULL;
    }
    r->depth--;
}

static void on_doctype(void *arg, const XML_Char *name, const XML_Char *system, const XML_Char *pub,
                       int internal)
{
    struct reader *r = arg;
    if (!r->rc)
        stop(r, bh_fail(r->err, EIO,
                        "the store answered a document of type %.60s instead of %s: is there a "
                        "proxy or a web page at this address?",
                        name, r->format->name));
}

static int parse(struct reader *r, const char *body, size_t len)
{
    r->parser = XML_ParserCreate("UTF-8");
    if (!r->parser)
        return bh_xml_no_memory(r->err);
    XML_SetUserData(r->parser, r);
    XML_SetElementHandler(r->parser, on_start, on_end);
    XML_SetCharacterDataHandler(r->parser, on_text);
    /* Without a document type there are no entities either, nor what they could blow up. */
    XML_SetStartDoctypeDeclHandler(r->parser, on_doctype);
    if (XML_Parse(r->parser, body, (int)len, XML_TRUE) != XML_STATUS_OK && !r->rc) {
        enum XML_Error code = XML_GetErrorCode(r->parser);
        r->rc = code == XML_ERROR_NO_MEMORY
                    ? bh_xml_no_memory(r->err)
                    : bh_fail(r->err, EIO, "the store's answer is not a whole %s: %s in line %lu",
                              r->format->name, XML_ErrorString(code),
                              (unsigned long)XML_GetCurrentLineNumber(r->parser));
    }
    XML_ParserFree(r->parser);
    return r->rc;
}

int bh_xml_read(const char *body, size_t len, const struct xml_format *format,
                struct xml_value *values, bool *rooted, void *arg, struct bh_error *err)
{
    struct reader r = {.format = format, .values = values, .arg = arg, .err = err};
    BH_FREE char *copy = NULL;
    if (rooted)
        *rooted = false;
    /* A store that needs long sends blanks meanwhile; XML wants its declaration to be first. */
    while (len && strchr(" \t\r\n", *body) && *body)
        body++, len--;
    if (len == 0)
        return bh_fail(err, EIO, "the store's answer is empty instead of %s", format->name);
    if (len > XML_BODY_MAX)
        return bh_fail(err, EIO, "the store's %s has over %zu bytes", format->name, XML_BODY_MAX);
    if (must_map(body, len)) {
        body = copy = map_controls(body, &len);
        if (!copy)
            return bh_xml_no_memory(err);
        r.mapped = true;
    }
    int rc = parse(&r, body, len);
    bh_xml_values_free(r.entry_values, XML_FIELDS_MAX);
    if (rooted)
        *rooted = r.rooted;
    return rc;
}
