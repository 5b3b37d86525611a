/* The environment: the AWS_ names, and above them BUCKETHEAD_SECTION__KEY for every key of the
 * table. */
#include "config/keys.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX       "BUCKETHEAD_"
#define PREFIX_LEN   (sizeof PREFIX - 1)
#define ENV_NAME_MAX 128

static bool is_aws(const char *name)
{
    return strncmp(name, "AWS_", 4) == 0;
}

static int assign(struct bh_config *cfg, const struct bh_key *key, bool is_file, const char *name,
                  const char *value, unsigned layer, struct bh_error *err)
{
    char text[ENV_NAME_MAX + 32];
    snprintf(text, sizeof text, "environment %s", name);
    const struct bh_key_source src = {text, layer};
    return bh_key_assign(cfg, key, is_file, value, &src, err);
}

int bh_config_from_aws(struct bh_config *cfg, struct bh_error *err)
{
    for (size_t i = 0; i < bh_key_count; i++) {
        const struct bh_key *key = &bh_keys[i];
        for (size_t j = 0; j < sizeof key->env / sizeof key->env[0] && key->env[j]; j++) {
            const char *value = is_aws(key->env[j]) ? getenv(key->env[j]) : NULL;
            if (!value || !*value) /* as AWS's own tools have it: empty is not set */
                continue;
            int rc = assign(cfg, key, false, key->env[j], value, BH_LAYER_AWS, err);
            if (rc)
                return rc;
            break;
        }
    }
    return 0;
}

/* BUCKETHEAD_SNAPSHOT__MIN_INTERVAL to "snapshot" and "min_interval". Only upper case is ours. */
static bool split(const char *name, char section[ENV_NAME_MAX], char key[ENV_NAME_MAX])
{
    const char *middle = strstr(name + PREFIX_LEN, "__");
    bool upper = true;
    char *out = section;
    for (const char *p = name + PREFIX_LEN; *p; p++) {
        if (p == middle) {
            *out = '\0';
            out = key;
            p++;
            continue;
        }
        upper &= !islower((unsigned char)*p);
        *out++ = (char)tolower((unsigned char)*p);
    }
    *out = '\0';
    return upper;
}

static const struct bh_key *find_alias(const char *name)
{
    for (size_t i = 0; i < bh_key_count; i++)
        for (size_t j = 0; j < sizeof bh_keys[i].env / sizeof bh_keys[i].env[0]; j++)
            if (bh_keys[i].env[j] && strcmp(bh_keys[i].env[j], name) == 0)
                return &bh_keys[i];
    return NULL;
}

static int take_variable(struct bh_config *cfg, const char *name, const char *value,
                         struct bh_error *err)
{
    char section[ENV_NAME_MAX], word[ENV_NAME_MAX], meant[ENV_NAME_MAX * 2];
    bool is_file = false;
    bool upper = split(name, section, word);
    const struct bh_key *key = find_alias(name);
    if (!key && upper)
        key = bh_key_find(section, word, &is_file);
    if (key)
        return assign(cfg, key, is_file, name, value, BH_LAYER_ENV, err);
    key = bh_key_nearest(section, word, &is_file);
    snprintf(meant, sizeof meant, PREFIX "%s__%s%s", key->section, key->name,
             is_file ? "_file" : "");
    for (char *p = meant; *p; p++)
        *p = (char)toupper((unsigned char)*p);
    return bh_fail(err, EINVAL, "environment %s: no such key; did you mean %s?", name, meant);
}

int bh_config_from_environment(struct bh_config *cfg, struct bh_error *err)
{
    for (char **e = environ; e && *e; e++) {
        char name[ENV_NAME_MAX];
        const char *equals = strchr(*e, '=');
        size_t len = equals ? (size_t)(equals - *e) : 0;
        if (len <= PREFIX_LEN || strncmp(*e, PREFIX, PREFIX_LEN) != 0)
            continue;
        const char *middle = strstr(*e + PREFIX_LEN, "__");
        if (!middle || middle >= equals)
            continue;
        if (len >= sizeof name)
            return bh_fail(err, EINVAL, "environment %.60s...: no key has so long a name", *e);
        memcpy(name, *e, len);
        name[len] = '\0';
        int rc = take_variable(cfg, name, equals + 1, err);
        if (rc)
            return rc;
    }
    return 0;
}
