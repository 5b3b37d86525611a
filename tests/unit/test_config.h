/* What the tests of the configuration share: an environment and a home directory of their own. */
#ifndef TEST_CONFIG_H
#define TEST_CONFIG_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/keys.h"

static char test_home[64];

static inline int test_setup(void **state)
{
    (void)state;
    strcpy(test_home, "/tmp/bh-config-XXXXXX");
    if (!mkdtemp(test_home) || clearenv() != 0)
        return -1;
    return setenv("HOME", test_home, 1);
}

static inline int test_teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "/bin/rm -rf '%s'", test_home);
    return system(command);
}

/* Writes HOME/name, making its directories, and returns its path (in a buffer of its own for four
 * calls). */
static inline const char *write_file(const char *name, mode_t mode, const char *text)
{
    static char paths[4][256];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", test_home, name);
    for (char *p = path + strlen(test_home) + 1; (p = strchr(p, '/')) != NULL; *p++ = '/') {
        *p = '\0';
        mkdir(path, 0755);
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, mode), 0);
    return path;
}

/* Loads with every source open; NULL after a refusal, which *err tells. */
static inline struct bh_config *load(const char *file, const char *url, const char *override,
                                     struct bh_error *err)
{
    struct bh_config *cfg = NULL;
    const struct bh_config_request req = {.file = file,
                                          .url = url,
                                          .overrides = &override,
                                          .override_count = override ? 1 : 0,
                                          .use_environment = true};
    *err = (struct bh_error){0};
    int rc = bh_config_load(&cfg, &req, err);
    assert_int_equal(rc, err->code);
    assert_true(rc ? cfg == NULL : cfg != NULL);
    return cfg;
}

static inline struct bh_config *load_ok(const char *file, const char *url, const char *override)
{
    struct bh_error err;
    struct bh_config *cfg = load(file, url, override, &err);
    if (!cfg)
        fail_msg("refused: %s", err.text);
    return cfg;
}

static inline void assert_has(const char *text, const char *part)
{
    if (!text || !strstr(text, part))
        fail_msg("'%s' is missing in: %s", part, text ? text : "(null)");
}

static inline void assert_lacks(const char *text, const char *part)
{
    if (strstr(text, part))
        fail_msg("'%s' must not stand in: %s", part, text);
}

/* Every part of `parts` (separated by '|') must stand in the text. */
static inline void assert_has_all(const char *text, const char *parts)
{
    char part[256];
    while (*parts) {
        size_t len = strcspn(parts, "|");
        snprintf(part, sizeof part, "%.*s", (int)len, parts);
        assert_has(text, part);
        parts += len + (parts[len] == '|');
    }
}

/* The configuration must be refused with this errno and a sentence that has all the parts. */
static inline void assert_refused(const char *file, const char *url, const char *override, int code,
                                  const char *parts)
{
    struct bh_error err;
    struct bh_config *cfg = load(file, url, override, &err);
    if (cfg)
        fail_msg("accepted, though it should say: %s", parts);
    if (err.code != code)
        fail_msg("errno %d, not %d: %s", err.code, code, err.text);
    assert_has_all(err.text, parts);
}

static inline void assert_origin(struct bh_config *cfg, const char *section, const char *name,
                                 const char *origin)
{
    struct bh_strbuf dump = {0};
    char start[128];
    snprintf(start, sizeof start, "%s.%s = ", section, name);
    bh_config_dump(cfg, &dump);
    assert_has(dump.data, start);
    char *line = strstr(dump.data, start);
    line[strcspn(line, "\n")] = '\0';
    char *from = strstr(line, "   # ");
    assert_non_null(from);
    assert_string_equal(from + 5, origin);
    bh_strbuf_free(&dump);
}

#endif
