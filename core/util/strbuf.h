/* A growable string. Zero-initialise it ({0}); release it with bh_strbuf_free (or BH_STRBUF).
 * Running out of memory sets .failed and makes every later append a no-op, so that a caller checks
 * once. */
#ifndef BH_UTIL_STRBUF_H
#define BH_UTIL_STRBUF_H

#include <stdbool.h>
#include <stddef.h>

struct bh_strbuf {
    char *data; /* always NUL-terminated once something was appended; NULL before */
    size_t len;
    size_t cap;
    bool failed;
};

void bh_strbuf_free(struct bh_strbuf *b);
void bh_strbuf_reset(struct bh_strbuf *b); /* empties it, keeps the memory */
void bh_strbuf_add(struct bh_strbuf *b, const void *data, size_t len);
void bh_strbuf_addf(struct bh_strbuf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Appends s as a quoted JSON string, escaping what JSON wants escaped and, as \u00XX, bytes that
 * are not valid UTF-8. */
void bh_strbuf_add_json(struct bh_strbuf *b, const char *s);

#define BH_STRBUF __attribute__((cleanup(bh_strbuf_free))) struct bh_strbuf

#endif
