/* One value: parsed by the type of its key, checked, stored, shown. */
#include "config/keys.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/parse.h"

#define VALUE_MAX ((size_t)8192)

static_assert(sizeof(enum bh_recover) == sizeof(int) &&
                  sizeof(enum bh_plain_policy) == sizeof(int) && sizeof(enum bh_journal) == sizeof(int) &&
                  sizeof(enum bh_log_level) == sizeof(int) && sizeof(enum bh_sse) == sizeof(int) &&
                  sizeof(enum bh_payload) == sizeof(int) &&
                  sizeof(enum bh_addressing) == sizeof(int) &&
                  sizeof(enum bh_credentials_kind) == sizeof(int),
              "choices are stored as int");

char **bh_key_string(struct bh_config *cfg, const struct bh_key *key)
{
    assert(key->type == BH_KEY_STRING);
    return (char **)(void *)((char *)cfg + key->offset);
}

/* Fields that are no strings go in and out by memcpy: the table knows their type, the compiler does
 * not. */
static void put(struct bh_config *cfg, const struct bh_key *key, const void *value, size_t len)
{
    memcpy((char *)cfg + key->offset, value, len);
}

static void get(const struct bh_config *cfg, const struct bh_key *key, void *value, size_t len)
{
    memcpy(value, (const char *)cfg + key->offset, len);
}

static int store_string(struct bh_config *cfg, const struct bh_key *key, const char *value,
                        struct bh_error *why)
{
    size_t len = strlen(value);
    if (len > VALUE_MAX)
        return bh_fail(why, EINVAL, "it has %zu bytes, at most %zu are allowed", len, VALUE_MAX);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7F)
            return bh_fail(why, EINVAL, "it contains a control character, which is not allowed");
    BH_FREE char *copy = malloc(len + 2);
    if (!copy)
        return bh_fail(why, ENOMEM, "out of memory");
    memcpy(copy, value, len + 1);
    int rc = len && key->check ? key->check(copy, why) : 0;
    if (rc)
        return rc;
    if (!len && *key->def && key->check)
        return bh_fail(why, EINVAL, "it must not be empty; the default is %s", key->def);
    char **field = bh_key_string(cfg, key);
    free(*field);
    *field = bh_take_ptr(copy);
    return 0;
}

static int store_count(struct bh_config *cfg, const struct bh_key *key, const char *value,
                       struct bh_error *why)
{
    uint64_t v;
    size_t len = strlen(value);
    int rc = len && strspn(value, "0123456789") == len ? bh_parse_size(value, &v) : EINVAL;
    if (rc == EINVAL)
        return bh_fail(why, EINVAL, "not a whole number; allowed: %" PRId64 " to %" PRId64,
                       key->min, key->max);
    if (rc || v < (uint64_t)key->min || v > (uint64_t)key->max)
        return bh_fail(why, EINVAL, "out of range; allowed: %" PRId64 " to %" PRId64, key->min,
                       key->max);
    put(cfg, key, &v, sizeof v);
    return 0;
}

static int store_size(struct bh_config *cfg, const struct bh_key *key, const char *value,
                      struct bh_error *why)
{
    uint64_t v;
    char min[32], max[32];
    int rc = bh_parse_size(value, &v);
    bh_format_size((uint64_t)key->min, min, sizeof min);
    bh_format_size((uint64_t)key->max, max, sizeof max);
    if (rc == EINVAL)
        return bh_fail(why, EINVAL, "not a size such as 512KiB, 16MiB or 1GiB; allowed: %s to %s",
                       min, max);
    if (rc || v < (uint64_t)key->min || v > (uint64_t)key->max)
        return bh_fail(why, EINVAL, "out of range; allowed: %s to %s", min, max);
    put(cfg, key, &v, sizeof v);
    return 0;
}

static int store_duration(struct bh_config *cfg, const struct bh_key *key, const char *value,
                          struct bh_error *why)
{
    int64_t ms;
    char min[32], max[32];
    int rc = bh_parse_duration(value, &ms);
    bh_format_duration(key->min, min, sizeof min);
    bh_format_duration(key->max, max, sizeof max);
    if (rc == EINVAL)
        return bh_fail(why, EINVAL,
                       "not a duration such as 250ms, 30s, 5m, 2h or 1d; allowed: %s to %s", min,
                       max);
    if (rc || ms < key->min || ms > key->max)
        return bh_fail(why, EINVAL, "out of range; allowed: %s to %s", min, max);
    put(cfg, key, &ms, sizeof ms);
    return 0;
}

static int store_bool(struct bh_config *cfg, const struct bh_key *key, const char *value,
                      struct bh_error *why)
{
    bool v;
    if (bh_parse_bool(value, &v) != 0)
        return bh_fail(why, EINVAL, "neither true (yes, on, 1) nor false (no, off, 0)");
    put(cfg, key, &v, sizeof v);
    return 0;
}

static int store_choice(struct bh_config *cfg, const struct bh_key *key, const char *value,
                        struct bh_error *why)
{
    struct bh_error more = {0};
    BH_STRBUF allowed = {0};
    int (*compare)(const char *, const char *) = key->flags & BH_KEY_ANY_CASE ? strcasecmp : strcmp;
    for (int i = 0; key->choices[i]; i++) {
        if (compare(value, key->choices[i]) == 0) {
            put(cfg, key, &i, sizeof i);
            return 0;
        }
        bh_strbuf_addf(&allowed, "%s%s", i ? ", " : "", key->choices[i]);
    }
    BH_FREE char *copy = strdup(value);
    if (!copy || allowed.failed)
        return bh_fail(why, ENOMEM, "out of memory");
    if (key->check)
        key->check(copy, &more);
    return bh_fail(why, EINVAL, "%s; allowed: %s", more.code ? more.text : "no such choice",
                   allowed.data);
}

static int store(struct bh_config *cfg, const struct bh_key *key, const char *value,
                 struct bh_error *why)
{
    switch (key->type) {
    case BH_KEY_STRING:
        return store_string(cfg, key, value, why);
    case BH_KEY_COUNT:
        return store_count(cfg, key, value, why);
    case BH_KEY_SIZE:
        return store_size(cfg, key, value, why);
    case BH_KEY_DURATION:
        return store_duration(cfg, key, value, why);
    case BH_KEY_BOOL:
        return store_bool(cfg, key, value, why);
    case BH_KEY_CHOICE:
        return store_choice(cfg, key, value, why);
    }
    return bh_fail(why, EINVAL, "a key of no type");
}

int bh_key_validate(const struct bh_key *key, const char *value, struct bh_error *why)
{
    struct bh_config scratch = {0};
    int rc = store(&scratch, key, value, why);
    if (key->type == BH_KEY_STRING)
        free(*bh_key_string(&scratch, key));
    return rc;
}

/* The sentence of a refusal. The value is shown only where it cannot be a secret or hold one
 * (USER:SECRET@). */
static int refuse(const struct bh_key *key, const char *value, const struct bh_key_source *src,
                  const struct bh_error *why, struct bh_error *err)
{
    enum { SHOWN = 100 };
    char shown[SHOWN + 1];
    size_t len = strnlen(value, SHOWN);
    for (size_t i = 0; i < len; i++)
        shown[i] = (unsigned char)value[i] < 0x20 || value[i] == 0x7F ? '?' : value[i];
    shown[len] = '\0';
    if (key->flags & (BH_KEY_SECRET | BH_KEY_URL) || strchr(value, '@'))
        return bh_fail(err, why->code, "%s: %s.%s: %s", src->text, key->section, key->name,
                       why->text);
    return bh_fail(err, why->code, "%s: %s.%s = %s%s: %s", src->text, key->section, key->name,
                   shown, value[len] ? "..." : "", why->text);
}

int bh_key_set(struct bh_config *cfg, const struct bh_key *key, const char *value,
               const struct bh_key_source *src, struct bh_error *err)
{
    struct bh_error why = {0};
    BH_FREE char *text = src->layer == BH_LAYER_DEFAULT ? NULL : strdup(src->text);
    if (src->layer != BH_LAYER_DEFAULT && !text)
        return bh_fail(err, ENOMEM, "out of memory while reading the configuration");
    if (store(cfg, key, value, &why) != 0)
        return refuse(key, value, src, &why, err);
    struct bh_config_origin *origin = bh_key_origin(cfg, key);
    free(origin->text);
    origin->text = bh_take_ptr(text);
    origin->layer = src->layer;
    return 0;
}

int bh_key_reset(struct bh_config *cfg, const struct bh_key *key, struct bh_error *err)
{
    const struct bh_key_source src = {"default", BH_LAYER_DEFAULT};
    return bh_key_set(cfg, key, key->def, &src, err);
}

/* The first line of the file that KEY_file names. */
static int set_from_file(struct bh_config *cfg, const struct bh_key *key, const char *path,
                         const struct bh_key_source *src, struct bh_error *err)
{
    BH_FREE char *text = NULL;
    bool open_to_others;
    struct bh_error why = {0};
    BH_STRBUF from = {0};
    bh_strbuf_addf(&from, "%s, read from %s", src->text, path);
    if (from.failed)
        return bh_fail(err, ENOMEM, "out of memory while reading the configuration");
    const struct bh_key_source there = {from.data, src->layer};
    if (*path != '/')
        return bh_fail(err, EINVAL, "%s: %s.%s_file: its value is no absolute path", src->text,
                       key->section, key->name); /* not shown: people put the secret itself here */
    int rc = bh_config_read(path, 65536, &text, NULL, &open_to_others, &why);
    if (rc)
        return bh_fail(err, rc, "%s: %s.%s_file: %s", src->text, key->section, key->name, why.text);
    if (open_to_others && key->flags & BH_KEY_SECRET)
        return bh_fail(err, EACCES,
                       "%s: %s.%s_file: %s can be read by group or others: chmod 600 %s", src->text,
                       key->section, key->name, path, path);
    size_t len = strcspn(text, "\r\n");
    while (len && (text[len - 1] == ' ' || text[len - 1] == '\t'))
        len--;
    text[len] = '\0';
    if (!len)
        return bh_fail(err, EINVAL, "%s: %s.%s_file: the first line of %s is empty", src->text,
                       key->section, key->name, path);
    return bh_key_set(cfg, key, text, &there, err);
}

int bh_key_assign(struct bh_config *cfg, const struct bh_key *key, bool is_file, const char *value,
                  const struct bh_key_source *src, struct bh_error *err)
{
    struct bh_config_origin *origin = bh_key_origin(cfg, key);
    const char *suffix = is_file ? "_file" : "";
    if (origin->form[is_file].layer == src->layer)
        return bh_fail(err, EINVAL, "%s: %s.%s%s was already given at %s; keep one of the two",
                       src->text, key->section, key->name, suffix, origin->form[is_file].text);
    bool other = origin->form[!is_file].layer == src->layer && origin->form[!is_file].filled;
    if (other && *value)
        return bh_fail(err, EINVAL, "%s: %s.%s%s and %s.%s%s (%s) give the same value; keep one",
                       src->text, key->section, key->name, suffix, key->section, key->name,
                       is_file ? "" : "_file", origin->form[!is_file].text);
    char *text = strdup(src->text);
    if (!text)
        return bh_fail(err, ENOMEM, "out of memory while reading the configuration");
    free(origin->form[is_file].text);
    origin->form[is_file].text = text;
    origin->form[is_file].layer = src->layer;
    origin->form[is_file].filled = *value != '\0';
    if ((other || is_file) && !*value) /* an empty line beside the form that counts */
        return 0;
    return is_file ? set_from_file(cfg, key, value, src, err)
                   : bh_key_set(cfg, key, value, src, err);
}

static void format_size(uint64_t bytes, struct bh_strbuf *out)
{
    static const char *const names[] = {"", "KiB", "MiB", "GiB", "TiB"};
    size_t i = 0;
    for (; bytes && bytes % 1024 == 0 && i + 1 < sizeof names / sizeof names[0]; i++)
        bytes /= 1024;
    bh_strbuf_addf(out, "%" PRIu64 "%s", bytes, names[i]);
}

static void format_duration(int64_t ms, struct bh_strbuf *out)
{
    static const struct {
        int64_t ms;
        const char *name;
    } units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};
    if (ms == 0) {
        bh_strbuf_addf(out, "0");
        return;
    }
    size_t i = 0;
    while (ms % units[i].ms != 0)
        i++;
    /* 60s stays 60s: minutes only where there are several */
    if (ms / units[i].ms == 1 && i + 2 < sizeof units / sizeof units[0])
        i++;
    bh_strbuf_addf(out, "%" PRId64 "%s", ms / units[i].ms, units[i].name);
}

void bh_key_format(const struct bh_config *cfg, const struct bh_key *key, struct bh_strbuf *out)
{
    const char *string;
    uint64_t count;
    int64_t ms;
    bool yes;
    int choice;
    switch (key->type) {
    case BH_KEY_STRING:
        get(cfg, key, &string, sizeof string);
        bh_strbuf_addf(out, "%s", string);
        break;
    case BH_KEY_COUNT:
        get(cfg, key, &count, sizeof count);
        bh_strbuf_addf(out, "%" PRIu64, count);
        break;
    case BH_KEY_SIZE:
        get(cfg, key, &count, sizeof count);
        format_size(count, out);
        break;
    case BH_KEY_DURATION:
        get(cfg, key, &ms, sizeof ms);
        format_duration(ms, out);
        break;
    case BH_KEY_BOOL:
        get(cfg, key, &yes, sizeof yes);
        bh_strbuf_addf(out, "%s", yes ? "true" : "false");
        break;
    case BH_KEY_CHOICE:
        get(cfg, key, &choice, sizeof choice);
        bh_strbuf_addf(out, "%s", key->choices[choice]);
        break;
    }
}
