#include "util/error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A sentence has one line, whatever the names in it hold; control bytes are no business of a
 * terminal. */
static void one_line(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F)
            *c = *c == '\n' || *c == '\t' ? ' ' : '?';
}

int bh_fail(struct bh_error *err, int code, const char *fmt, ...)
{
    assert(code > 0);
    if (err) {
        va_list ap;
        err->code = code;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
        one_line(err->text);
    }
    return code;
}

int bh_fail_prefix(struct bh_error *err, int code, const char *fmt, ...)
{
    assert(code > 0);
    if (!err)
        return code;
    char old[BH_ERROR_TEXT_MAX];
    memcpy(old, err->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    size_t at = n < 0 ? 0 : (size_t)n < sizeof err->text ? (size_t)n : sizeof err->text - 1;
    const char *parts[] = {": ", old};
    for (int i = 0; i < 2; i++) {
        size_t room = sizeof err->text - 1 - at, len = strnlen(parts[i], sizeof old - 1);
        len = len < room ? len : room;
        memcpy(err->text + at, parts[i], len);
        at += len;
    }
    err->text[at] = '\0';
    one_line(err->text);
    err->code = code;
    return code;
}
