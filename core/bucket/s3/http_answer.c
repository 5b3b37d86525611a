/* The headers of an answer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bucket/s3/http_private.h"
#include "util/clock.h"

const char *bh_http_header(const struct bh_http_answer *a, const char *name)
{
    const char *found = NULL, *n, *v;
    for (size_t at = 0; bh_http_next_header(a, &at, &n, &v);)
        if (strcmp(n, name) == 0)
            found = v;
    return found;
}

bool bh_http_next_header(const struct bh_http_answer *a, size_t *at, const char **name,
                         const char **value)
{
    if (*at >= a->headers.len)
        return false;
    *name = a->headers.data + *at;
    *value = *name + strlen(*name) + 1;
    *at = (size_t)(*value + strlen(*value) + 1 - a->headers.data);
    return true;
}

void bh_http_answer_free(struct bh_http_answer *a)
{
    bh_strbuf_free(&a->headers);
    bh_strbuf_free(&a->body);
}

static int parse_length(struct bh_http_answer *a, struct bh_error *err)
{
    const char *n, *v;
    a->length = UINT64_MAX;
    for (size_t at = 0; bh_http_next_header(a, &at, &n, &v);) {
        if (strcmp(n, "content-length") != 0)
            continue;
        size_t digits = strspn(v, "0123456789");
        if (digits == 0 || digits > 18 || v[digits])
            return bh_fail(err, EIO, "the answer's Content-Length is no number");
        uint64_t length = strtoull(v, NULL, 10);
        if (a->length != UINT64_MAX && a->length != length)
            return bh_fail(err, EIO, "the answer has two different Content-Lengths");
        a->length = length;
    }
    return 0;
}

static int add_header(struct bh_http_answer *a, const char *line, size_t len, struct bh_error *err)
{
    const char *colon = memchr(line, ':', len);
    if (!colon || colon == line || memchr(line, '\0', len))
        return bh_fail(err, EIO, "the answer has a malformed header line");
    for (const char *c = line; c < colon; c++) {
        char low = *c >= 'A' && *c <= 'Z' ? (char)(*c | 0x20) : *c;
        bh_strbuf_add(&a->headers, &low, 1);
    }
    bh_strbuf_add(&a->headers, "", 1);
    const char *v = colon + 1, *end = line + len;
    while (v < end && (*v == ' ' || *v == '\t'))
        v++;
    while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    bh_strbuf_add(&a->headers, v, (size_t)(end - v));
    bh_strbuf_add(&a->headers, "", 1);
    return a->headers.failed ? bh_fail(err, ENOMEM, "out of memory") : 0;
}

/* "HTTP/1.1 200 OK": an interim answer before it is forgotten. */
static int begin_answer(struct exchange *x, const char *line, size_t len)
{
    const char *space = memchr(line, ' ', len);
    size_t left = space ? (size_t)(line + len - space - 1) : 0;
    bh_strbuf_reset(&x->a->headers);
    x->a->status = 0;
    for (size_t i = 0; i < 3 && i < left; i++) {
        if (space[1 + i] < '0' || space[1 + i] > '9')
            return bh_fail(x->err, EIO, "the answer has a malformed status line");
        x->a->status = x->a->status * 10 + (space[1 + i] - '0');
    }
    if (x->a->status < 100)
        return bh_fail(x->err, EIO, "the answer has a malformed status line");
    x->a->replied = x->a->status >= 200;
    return 0;
}

static int end_head(struct exchange *x)
{
    if (x->a->status < 200)
        return 0;
    int rc = parse_length(x->a, x->err);
    if (rc)
        return rc;
    x->head_done = true;
    x->a->at_ms = bh_mono_ms();
    if (x->req->head)
        rc = x->req->head(x->req->arg, x->a, &x->stream, x->err);
    return rc;
}

int http_take_line(struct exchange *x, const char *line, size_t len)
{
    while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
        len--;
    if (len >= 5 && strncasecmp(line, "HTTP/", 5) == 0 && !x->head_done)
        return begin_answer(x, line, len);
    if (x->head_done)
        return 0; /* a trailer */
    return len == 0 ? end_head(x) : add_header(x->a, line, len, x->err);
}
