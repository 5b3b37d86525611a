/* Private to core/config: the table of keys, and how one value gets into the configuration. */
#ifndef BH_CONFIG_KEYS_H
#define BH_CONFIG_KEYS_H

#include "config/config.h"

enum bh_key_type {
    BH_KEY_STRING,
    BH_KEY_COUNT,    /* uint64_t */
    BH_KEY_SIZE,     /* uint64_t, bytes */
    BH_KEY_DURATION, /* int64_t, milliseconds */
    BH_KEY_BOOL,
    BH_KEY_CHOICE, /* an enum whose values are the indices of .choices */
};

enum bh_key_flag {
    BH_KEY_SECRET = 1,     /* never shown, never on a command line, only in a private file */
    BH_KEY_RELOADABLE = 2, /* may change while mounted */
    BH_KEY_FILE_FORM = 4,  /* KEY_file names a file whose first line is the value */
    BH_KEY_COMMAND = 8,    /* " ;" must not cut it short, unseen */
    BH_KEY_URL = 16,       /* its own check says what of it may be shown */
    BH_KEY_ANY_CASE = 32,  /* of a choice */
};

struct bh_key {
    const char *section, *name;
    enum bh_key_type type;
    size_t offset;   /* in struct bh_config */
    const char *def; /* as one would write it */
    int64_t min, max;
    unsigned flags;
    const char *help;
    const char *env[3]; /* names beside BUCKETHEAD_SECTION__KEY, the strongest first */
    const char *const *choices;
    /* Refuses a string or normalises it in place (one byte more than its length is there). Returns
     * errno and the bare reason in *why. NULL: any string. Not called for "". */
    int (*check)(char *value, struct bh_error *why);
};

extern const struct bh_key bh_keys[];
extern const size_t bh_key_count;

/* The layers, weakest first; every -o is one of its own. A layer may not say the same thing twice.
 * The AWS_ variables are for all programs: what was written for this one stands over them. */
enum { BH_LAYER_DEFAULT, BH_LAYER_AWS, BH_LAYER_FILE, BH_LAYER_ENV, BH_LAYER_URL, BH_LAYER_OPTION };

/* Who says a value: "FILE:LINE", "environment VAR", "command line", "-o". */
struct bh_key_source {
    const char *text;
    unsigned layer;
};

struct bh_config_origin {
    char *text; /* NULL: the default */
    unsigned layer;
    struct {
        char *text;
        unsigned layer;
        bool filled;
    } form[2]; /* who named KEY and KEY_file, last */
};

/* The key by its name; *is_file (may be NULL) tells that it was the KEY_file form. NULL: unknown.
 */
const struct bh_key *bh_key_find(const char *section, const char *name, bool *is_file);
const struct bh_key *bh_key_nearest(const char *section, const char *name, bool *is_file);
bool bh_section_known(const char *section);
const char *bh_section_nearest(const char *section);
struct bh_config_origin *bh_key_origin(const struct bh_config *cfg, const struct bh_key *key);
char **bh_key_string(struct bh_config *cfg, const struct bh_key *key);

/* Checks and stores a value: 0 or errno with the whole sentence. Nothing changes on failure. */
int bh_key_set(struct bh_config *cfg, const struct bh_key *key, const char *value,
               const struct bh_key_source *src, struct bh_error *err);
/* Whether a value would be accepted: 0, or errno with the bare reason. */
int bh_key_validate(const struct bh_key *key, const char *value, struct bh_error *why);
int bh_key_reset(struct bh_config *cfg, const struct bh_key *key, struct bh_error *err);
/* The same for a key that someone named: resolves KEY_file, refuses what its layer said before. */
int bh_key_assign(struct bh_config *cfg, const struct bh_key *key, bool is_file, const char *value,
                  const struct bh_key_source *src, struct bh_error *err);
/* Appends the value as one would write it, a secret in clear. */
void bh_key_format(const struct bh_config *cfg, const struct bh_key *key, struct bh_strbuf *out);

/* check.c: the checks of the table */
int bh_check_url(char *value, struct bh_error *why);
int bh_check_bucket_name(char *value, struct bh_error *why);
int bh_check_prefix(char *value, struct bh_error *why);
int bh_check_endpoint(char *value, struct bh_error *why);
int bh_check_account(char *value, struct bh_error *why);
int bh_check_word(char *value, struct bh_error *why);
int bh_check_proxy(char *value, struct bh_error *why);
int bh_check_path(char *value, struct bh_error *why);
int bh_check_live_dir(char *value, struct bh_error *why);
int bh_check_cpu(char *value, struct bh_error *why);
int bh_check_files_prefix(char *value, struct bh_error *why);
int bh_check_object_key(char *value, struct bh_error *why);
int bh_check_branch(char *value, struct bh_error *why);

/* url.c: a bucket URL taken apart. Strings are NULL where the URL says nothing. */
enum { BH_URL_ENDPOINT, BH_URL_REGION, BH_URL_PARAMETERS = 6 };
struct bh_url {
    enum bh_bucket_kind kind;
    char *path, *name, *prefix, *account;
    char *parameters[BH_URL_PARAMETERS]; /* checked */
};
/* The parameters and the keys of [bucket] that they are. */
extern const struct bh_url_parameter {
    const char *name, *key;
} bh_url_parameters[BH_URL_PARAMETERS];
int bh_url_parse(const char *text, struct bh_url *url, struct bh_error *why);
void bh_url_free(struct bh_url *url);
/* Appends text with everything but unreserved characters and those of `keep` as %XX. */
void bh_url_encode(struct bh_strbuf *out, const char *text, const char *keep);

/* ini.c */
/* Reads a regular file of at most max bytes; *open_to_others: group or others can read it. */
int bh_config_read(const char *path, size_t max, char **text, size_t *len, bool *open_to_others,
                   struct bh_error *err);
int bh_config_from_ini(struct bh_config *cfg, const char *path, struct bh_error *err);

/* env.c */
int bh_config_from_aws(struct bh_config *cfg, struct bh_error *err);
int bh_config_from_environment(struct bh_config *cfg, struct bh_error *err);

#endif
