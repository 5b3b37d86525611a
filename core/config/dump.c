/* The configuration shown, compared and taken over. */
#include "config/keys.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

static void add_value(const struct bh_config *cfg, const struct bh_key *key, struct bh_strbuf *out)
{
    BH_STRBUF value = {0};
    bh_key_format(cfg, key, &value);
    if (value.failed)
        out->failed = true;
    else if (key->flags & BH_KEY_SECRET && value.len)
        bh_strbuf_addf(out, "***");
    else if (value.len)
        bh_strbuf_add(out, value.data, value.len);
    if (key->flags & BH_KEY_SECRET && value.data)
        explicit_bzero(value.data, value.len);
}

void bh_config_dump(const struct bh_config *cfg, struct bh_strbuf *out)
{
    for (size_t i = 0; i < bh_key_count; i++) {
        const struct bh_key *key = &bh_keys[i];
        const char *origin = bh_key_origin(cfg, key)->text;
        bh_strbuf_addf(out, "%s.%s = ", key->section, key->name);
        add_value(cfg, key, out);
        bh_strbuf_addf(out, "   # %s\n", origin ? origin : "default");
    }
}

const char *bh_config_where(const struct bh_config *cfg, const char *section, const char *name)
{
    const struct bh_key *key = bh_key_find(section, name, NULL);
    assert(key);
    return cfg->origins ? bh_key_origin(cfg, key)->text : NULL;
}

static void swap(void *a, void *b, size_t len)
{
    char tmp[sizeof(struct bh_config_origin)];
    memcpy(tmp, a, len);
    memcpy(a, b, len);
    memcpy(b, tmp, len);
}

static size_t field_size(const struct bh_key *key)
{
    switch (key->type) {
    case BH_KEY_STRING:
        return sizeof(char *);
    case BH_KEY_COUNT:
    case BH_KEY_SIZE:
        return sizeof(uint64_t);
    case BH_KEY_DURATION:
        return sizeof(int64_t);
    case BH_KEY_BOOL:
        return sizeof(bool);
    case BH_KEY_CHOICE:
        return sizeof(int);
    }
    return 0;
}

static int compare_key(const struct bh_config *cfg, const struct bh_config *fresh,
                       const struct bh_key *key, bool *differs, struct bh_error *err)
{
    BH_STRBUF was = {0};
    BH_STRBUF is = {0};
    bh_key_format(cfg, key, &was);
    bh_key_format(fresh, key, &is);
    if (was.failed || is.failed)
        return bh_fail(err, ENOMEM, "out of memory while reading the configuration again");
    *differs = was.len != is.len || (was.len && memcmp(was.data, is.data, was.len) != 0);
    return 0;
}

int bh_config_apply_reload(struct bh_config *cfg, struct bh_config *fresh,
                           struct bh_strbuf *changes, struct bh_error *err)
{
    bool differs[128] = {false};
    if (bh_key_count > sizeof differs / sizeof differs[0])
        return bh_fail(err, EOVERFLOW, "more keys than a reload can compare");
    for (size_t i = 0; i < bh_key_count; i++) { /* all or nothing */
        int rc = compare_key(cfg, fresh, &bh_keys[i], &differs[i], err);
        if (rc)
            return rc;
    }
    for (size_t i = 0; i < bh_key_count; i++) {
        const struct bh_key *key = &bh_keys[i];
        bool now = key->flags & BH_KEY_RELOADABLE;
        if (differs[i]) {
            bh_strbuf_addf(changes, "%s.%s: ", key->section, key->name);
            add_value(cfg, key, changes);
            bh_strbuf_addf(changes, " -> ");
            add_value(fresh, key, changes);
            bh_strbuf_addf(changes, "%s\n", now ? "" : " (needs a remount)");
        }
        if (!now)
            continue;
        swap((char *)cfg + key->offset, (char *)fresh + key->offset, field_size(key));
        swap(bh_key_origin(cfg, key), bh_key_origin(fresh, key), sizeof(struct bh_config_origin));
    }
    return changes->failed
               ? bh_fail(err, ENOMEM, "out of memory while reading the configuration again")
               : 0;
}
