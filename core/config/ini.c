/* The ini file, by inih. inih cuts a long line, skips what follows "[section]" and an empty
 * section, and takes an indented line for more of the value before it, all in silence: the reader
 * below looks at each raw line first. */
#include "config/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/cleanup.h"
#include "util/io.h"

#define SPACE " \t\r\v\f"

struct ini {
    struct bh_config *cfg;
    const char *path;
    bool open_to_others;
    const char *next, *end; /* what was not read yet */
    const char *raw;        /* the line that inih has now, without its indent */
    size_t raw_len;
    int line;
    char section[64];
    int rc; /* the first refusal; nothing is read after it */
    int rc_line;
    struct bh_error *err;
};

int bh_config_read(const char *path, size_t max, char **text, size_t *len, bool *open_to_others,
                   struct bh_error *err)
{
    struct stat st;
    size_t got;
    BH_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return bh_fail(err, errno, "%s cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0)
        return bh_fail(err, errno, "%s cannot be examined: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return bh_fail(err, EINVAL, "%s is not a regular file", path);
    if (st.st_size > (off_t)max)
        return bh_fail(err, EFBIG, "%s is larger than %zu bytes, which cannot be right", path, max);
    BH_FREE char *buf = malloc((size_t)st.st_size + 1);
    if (!buf)
        return bh_fail(err, ENOMEM, "out of memory while reading %s", path);
    int rc = bh_pread_full(fd, buf, (size_t)st.st_size, 0, &got);
    if (rc)
        return bh_fail(err, rc, "%s cannot be read: %s", path, strerror(rc));
    buf[got] = '\0';
    if (len)
        *len = got;
    *open_to_others = st.st_mode & (S_IRGRP | S_IROTH);
    *text = bh_take_ptr(buf);
    return 0;
}

#define refuse(ini, ...) refuse_line(ini, bh_fail((ini)->err, __VA_ARGS__))
static int refuse_line(struct ini *ini, int rc)
{
    ini->rc = rc;
    ini->rc_line = ini->line;
    return rc;
}

static int check_section(struct ini *ini)
{
    const char *close = memchr(ini->raw, ']', ini->raw_len);
    if (!close)
        return refuse(ini, EINVAL, "%s:%d: the ']' of this [section] is missing", ini->path,
                      ini->line);
    int len = (int)(close - ini->raw - 1);
    snprintf(ini->section, sizeof ini->section, "%.*s", len, ini->raw + 1);
    if (len >= (int)sizeof ini->section || !bh_section_known(ini->section))
        return refuse(ini, EINVAL, "%s:%d: unknown section [%s]; did you mean [%s]?", ini->path,
                      ini->line, ini->section, bh_section_nearest(ini->section));
    const char *after = close + 1, *end = ini->raw + ini->raw_len;
    while (after < end && strchr(SPACE, *after))
        after++;
    if (after < end && *after != ';' && *after != '#')
        return refuse(ini, EINVAL, "%s:%d: nothing but a comment may follow [%s] on its line",
                      ini->path, ini->line, ini->section);
    return 0;
}

static int refuse_long_line(struct ini *ini, int max)
{
    char name[64] = "";
    size_t len = 0;
    while (len < ini->raw_len && len < sizeof name - 1 && !strchr("=:" SPACE, ini->raw[len]))
        len++;
    memcpy(name, ini->raw, len);
    bool is_file = false;
    const struct bh_key *key = bh_key_find(ini->section, name, &is_file);
    if (key && key->flags & BH_KEY_FILE_FORM && !is_file)
        return refuse(ini, EINVAL,
                      "%s:%d: the line has %zu bytes, an ini file's lines end at %d; write the "
                      "value of %s.%s into a file of its own and name that file: %s_file = PATH",
                      ini->path, ini->line, ini->raw_len, max, key->section, key->name, key->name);
    return refuse(
        ini, EINVAL,
        "%s:%d: the line has %zu bytes, an ini file's lines end at %d; %s (keys for "
        "secrets, tokens and URLs have a form KEY_file = PATH, which reads the value from "
        "a file of its own)",
        ini->path, ini->line, ini->raw_len, max,
        key && key->flags & BH_KEY_COMMAND ? "put the command into a script"
                                           : "give the value by environment or shorten it");
}

/* Hands inih one line without its indent, or "" for a comment however long. NULL ends the reading.
 */
static char *read_line(char *str, int num, void *stream)
{
    struct ini *ini = stream;
    if (ini->rc || ini->next >= ini->end)
        return NULL;
    const char *s = ini->next, *newline = memchr(s, '\n', (size_t)(ini->end - s));
    const char *stop = newline ? newline : ini->end;
    ini->next = newline ? newline + 1 : ini->end;
    if (++ini->line == 1 && stop - s >= 3 && memcmp(s, "\xEF\xBB\xBF", 3) == 0)
        s += 3;
    if (memchr(s, '\0', (size_t)(stop - s))) {
        refuse(ini, EINVAL, "%s:%d: the line holds a NUL byte; this is no text file", ini->path,
               ini->line);
        return NULL;
    }
    while (s < stop && strchr(SPACE, *s))
        s++;
    while (stop > s && strchr(SPACE, stop[-1]))
        stop--;
    ini->raw = s;
    ini->raw_len = (size_t)(stop - s);
    *str = '\0';
    if (!ini->raw_len || *s == ';' || *s == '#')
        return str;
    if (ini->raw_len >= (size_t)num) {
        refuse_long_line(ini, num - 1);
        return NULL;
    }
    if (*s == '[' && check_section(ini) != 0)
        return NULL;
    memcpy(str, s, ini->raw_len);
    str[ini->raw_len] = '\0';
    return str;
}

/* inih takes " ;" for a comment and " #" for text. Where that would be a surprise it is refused. */
static int check_comment(struct ini *ini, const struct bh_key *key, const char *value)
{
    const char *end = ini->raw + ini->raw_len;
    for (const char *p = ini->raw + 1; key->flags & BH_KEY_COMMAND && p < end; p++)
        if (*p == ';' && strchr(SPACE, p[-1]))
            return refuse(
                ini, EINVAL,
                "%s:%d: %s.%s: a ';' after a space begins a comment in an ini file, which "
                "would cut the value; write it without the space",
                ini->path, ini->line, key->section, key->name);
    if (!(key->flags & (BH_KEY_COMMAND | BH_KEY_SECRET)) && strstr(value, " #"))
        return refuse(
            ini, EINVAL,
            "%s:%d: %s.%s = %.100s: a comment behind a value begins with ' ;', not with '#'",
            ini->path, ini->line, key->section, key->name, key->flags & BH_KEY_URL ? "..." : value);
    return 0;
}

static int take_value(void *user, const char *section, const char *name, const char *value)
{
    struct ini *ini = user;
    bool is_file = false;
    if (ini->rc || !name ||
        !value) /* inih may be built to call with neither: a syntax error then */
        return 0;
    if (!*section) {
        refuse(ini, EINVAL, "%s:%d: '%s' stands before any [section]", ini->path, ini->line, name);
        return 0;
    }
    const struct bh_key *key = bh_key_find(section, name, &is_file);
    if (!key) {
        key = bh_key_nearest(section, name, &is_file);
        refuse(ini, EINVAL, "%s:%d: unknown key '%s' in [%s]; did you mean '%s%s' in [%s]?",
               ini->path, ini->line, name, section, key->name, is_file ? "_file" : "",
               key->section);
        return 0;
    }
    if (key->flags & BH_KEY_SECRET && !is_file && *value && ini->open_to_others) {
        refuse(ini, EACCES, "%s:%d holds %s.%s and can be read by group or others: chmod 600 %s",
               ini->path, ini->line, key->section, key->name, ini->path);
        return 0;
    }
    if (check_comment(ini, key, value) != 0)
        return 0;
    BH_STRBUF from = {0};
    bh_strbuf_addf(&from, "%s:%d", ini->path, ini->line);
    const struct bh_key_source src = {from.data, BH_LAYER_FILE};
    int rc = from.failed ? bh_fail(ini->err, ENOMEM, "out of memory while reading %s", ini->path)
                         : bh_key_assign(ini->cfg, key, is_file, value, &src, ini->err);
    if (rc)
        refuse_line(ini, rc);
    return rc == 0;
}

int bh_config_from_ini(struct bh_config *cfg, const char *path, struct bh_error *err)
{
    BH_FREE char *text = NULL;
    size_t len = 0;
    struct ini ini = {.cfg = cfg, .path = path, .err = err};
    int rc = bh_config_read(path, 1 << 20, &text, &len, &ini.open_to_others, err);
    if (rc)
        return rc;
    ini.next = text;
    ini.end = text + len;
    int line = ini_parse_stream(read_line, &ini, take_value, &ini);
    if (line > 0 && (!ini.rc || line < ini.rc_line))
        return bh_fail(err, EINVAL,
                       "%s:%d: neither a [section] nor KEY = VALUE nor a comment (; or #)", path,
                       line);
    if (ini.rc)
        return ini.rc;
    return line < 0 ? bh_fail(err, ENOMEM, "out of memory while reading %s", path) : 0;
}
