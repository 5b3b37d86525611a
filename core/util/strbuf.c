#include "util/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void bh_strbuf_free(struct bh_strbuf *b)
{
    free(b->data);
    *b = (struct bh_strbuf){0};
}

void bh_strbuf_reset(struct bh_strbuf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = '\0';
}

static bool reserve(struct bh_strbuf *b, size_t more)
{
    if (b->failed)
        return false;
    if (more >= (size_t)1 << 40) {
        b->failed = true;
        return false;
    }
    if (b->len + more + 1 <= b->cap)
        return true;
    size_t cap = b->cap ? b->cap : 128;
    while (cap < b->len + more + 1)
        cap *= 2;
    char *p = realloc(b->data, cap);
    if (!p) {
        b->failed = true;
        return false;
    }
    b->data = p;
    b->cap = cap;
    return true;
}

void bh_strbuf_add(struct bh_strbuf *b, const void *data, size_t len)
{
    if (!reserve(b, len))
        return;
    if (len)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void bh_strbuf_addf(struct bh_strbuf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        b->failed = true;
    else if (reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

/* Length of the valid UTF-8 sequence at s, 0 if there is none. */
static size_t utf8_len(const unsigned char *s)
{
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
               : s[0] >= 0xE0 && s[0] < 0xF0 ? 3
               : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return n;
}

void bh_strbuf_add_json(struct bh_strbuf *b, const char *str)
{
    const unsigned char *s = (const unsigned char *)str;
    bh_strbuf_add(b, "\"", 1);
    while (*s) {
        size_t n = utf8_len(s);
        if (*s == '"' || *s == '\\')
            bh_strbuf_addf(b, "\\%c", *s);
        else if (*s < 0x20 || *s == 0x7F || n == 0)
            bh_strbuf_addf(b, "\\u%04x", *s);
        else
            bh_strbuf_add(b, s, n);
        s += n ? n : 1;
    }
    bh_strbuf_add(b, "\"", 1);
}
