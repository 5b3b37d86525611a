/* A profile of the shared files: its keys, its process, or the role that it names. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/creds_private.h"
#include "util/cleanup.h"

#define DEPTH_MAX 16 /* profiles that a source_profile chain may have */

/* The chain of profiles that is being followed. */
struct chain {
    struct bh_lookup *l;
    const struct bh_shared *shared;
    const char *names[DEPTH_MAX];
    size_t depth;
    struct bh_error *err;
};

static int find(struct chain *c, const char *name, bool as_source, struct bh_credentials *out);

#define ORIGIN(l, ...) (void)snprintf((l)->origin, sizeof(l)->origin, __VA_ARGS__)

static bool has_keys(const struct bh_profile_settings *p)
{
    return p->value[BH_SETTING_ACCESS_KEY_ID] || p->value[BH_SETTING_SECRET_ACCESS_KEY];
}

static int from_keys(struct chain *c, const char *name, const struct bh_profile_settings *p,
                     struct bh_credentials *out)
{
    char what[300];
    const char *file = p->keys_file ? p->keys_file : p->file;
    snprintf(what, sizeof what, "profile %s of %s", name, file);
    c->l->fixed = true;
    ORIGIN(c->l, "%s", what);
    return bh_credentials_set(out, what, p->value[BH_SETTING_ACCESS_KEY_ID],
                              p->value[BH_SETTING_SECRET_ACCESS_KEY],
                              p->value[BH_SETTING_SESSION_TOKEN], 0, c->err);
}

static int from_process(struct chain *c, const char *name, const struct bh_profile_settings *p,
                        struct bh_credentials *out)
{
    char what[300];
    snprintf(what, sizeof what, "credential_process of profile %s of %s", name, p->file);
    c->l->fixed = false;
    ORIGIN(c->l, "%s", what);
    return bh_creds_run_process(c->l, what, p->value[BH_SETTING_CREDENTIAL_PROCESS], out, c->err);
}

static int from_environment(struct bh_credentials *out, const char *what, struct bh_error *err)
{
    return bh_credentials_set(out, what, bh_creds_env("AWS_ACCESS_KEY_ID"),
                              bh_creds_env("AWS_SECRET_ACCESS_KEY"),
                              bh_creds_env("AWS_SESSION_TOKEN"), 0, err);
}

static int from_credential_source(struct chain *c, const char *name, const char *source,
                                  struct bh_credentials *out)
{
    char what[200];
    int rc;
    snprintf(what, sizeof what, "credential_source = %.40s of profile %.80s", source, name);
    if (strcmp(source, "Environment") == 0)
        rc = from_environment(out, what, c->err);
    else if (strcmp(source, "Ec2InstanceMetadata") == 0)
        rc = bh_creds_from_instance(c->l, c->err);
    else if (strcmp(source, "EcsContainer") == 0)
        rc = bh_creds_from_container(c->l, c->err);
    else
        return bh_fail(c->err, EACCES,
                       "%s: known are Environment, Ec2InstanceMetadata and EcsContainer", what);
    if (rc == ENOENT)
        return bh_fail(c->err, EACCES, "%s: %s", what,
                       c->l->looked.data ? c->l->looked.data : "it is not there");
    if (rc)
        return bh_fail_prefix(c->err, rc, "%s", what);
    if (c->l->found.access_key_id) { /* what the metadata services fill */
        *out = c->l->found;
        c->l->found = (struct bh_credentials){0};
    }
    return 0;
}

static int find_source(struct chain *c, const char *name, const struct bh_profile_settings *p,
                       struct bh_credentials *out)
{
    const char *profile = p->value[BH_SETTING_SOURCE_PROFILE];
    const char *source = p->value[BH_SETTING_CREDENTIAL_SOURCE];
    if (!profile == !source)
        return bh_fail(c->err, EACCES,
                       "profile %s of %s names a role_arn with %s; it needs one of source_profile, "
                       "credential_source and web_identity_token_file",
                       name, p->file,
                       profile ? "both source_profile and credential_source" : "no source");
    if (source)
        return from_credential_source(c, name, source, out);
    if (strcmp(profile, name) == 0 && has_keys(p)) /* a role with the profile's own keys */
        return from_keys(c, name, p, out);
    return find(c, profile, true, out);
}

static int from_role(struct chain *c, const char *name, const struct bh_profile_settings *p,
                     struct bh_credentials *out)
{
    BH_CREDENTIALS source = {0};
    const char *token_file = p->value[BH_SETTING_WEB_IDENTITY_TOKEN_FILE];
    const struct bh_role role = {
        .arn = p->value[BH_SETTING_ROLE_ARN],
        .session_name = p->value[BH_SETTING_ROLE_SESSION_NAME],
        .external_id = p->value[BH_SETTING_EXTERNAL_ID],
        .duration = p->value[BH_SETTING_DURATION_SECONDS],
        .region = p->value[BH_SETTING_REGION],
    };
    int rc = 0;
    if (p->value[BH_SETTING_MFA_SERIAL])
        return bh_fail(c->err, EACCES,
                       "profile %s of %s wants a code typed in (mfa_serial), which a mount cannot "
                       "ask for; use credential_process, with `aws configure export-credentials`",
                       name, p->file);
    if (!token_file)
        rc = find_source(c, name, p, &source);
    if (!rc && token_file)
        rc = bh_sts_web_identity(c->l, &role, token_file, out, c->err);
    else if (!rc)
        rc = bh_sts_assume_role(c->l, &role, &source, out, c->err);
    c->l->fixed = false;
    ORIGIN(c->l, "role %s by profile %s of %s", role.arn, name, p->file);
    return rc;
}

/* One whose settings were all read: ENOENT if none of them is about credentials. */
static int from_settings(struct chain *c, const char *name, const struct bh_profile_settings *p,
                         bool as_source, struct bh_credentials *out)
{
    if (p->value[BH_SETTING_ROLE_ARN] && !(as_source && has_keys(p)))
        return from_role(c, name, p, out);
    if (has_keys(p))
        return from_keys(c, name, p, out);
    if (p->value[BH_SETTING_CREDENTIAL_PROCESS])
        return from_process(c, name, p, out);
    if (p->sign_in)
        return bh_fail(
            c->err, EACCES,
            "profile %s of %s signs in with IAM Identity Center (sso_...) or `aws login`, "
            "which this program does not do; make a profile with credential_process = "
            "aws configure export-credentials --profile %s",
            name, p->file, name);
    return ENOENT;
}

static int find(struct chain *c, const char *name, bool as_source, struct bh_credentials *out)
{
    BH_PROFILE p = {0};
    const char *config = c->shared->files[BH_SHARED_CONFIG].path;
    const char *credentials = c->shared->files[BH_SHARED_CREDENTIALS].path;
    bool optional = !as_source && !c->l->cfg->bucket.profile_chosen;
    for (size_t i = 0; i < c->depth; i++)
        if (strcmp(c->names[i], name) == 0)
            return bh_fail(c->err, EACCES, "profile %s of %s is its own source_profile in the end",
                           name, config);
    if (c->depth == DEPTH_MAX)
        return bh_fail(c->err, EACCES, "more than %d profiles name each other as source_profile",
                       DEPTH_MAX);
    c->names[c->depth++] = name;
    int rc = bh_shared_profile(c->shared, name, &p, c->err);
    if (rc)
        return rc;
    if (p.exists) {
        rc = from_settings(c, name, &p, as_source, out);
        c->depth--;
        if (rc != ENOENT)
            return rc;
        if (optional)
            return bh_creds_looked(c->l, "profile %s of %s (it has nothing of credentials)", name,
                                   p.file);
    } else if (optional && strcmp(name, "default") == 0) {
        return bh_creds_looked(c->l, "%s and %s (no profile default)", credentials, config);
    }
    return bh_fail(c->err, EACCES, "profile %s %s; looked at %s and %s", name,
                   p.exists ? "has nothing of credentials" : "does not exist", credentials, config);
}

int bh_creds_from_profile(struct bh_lookup *l, struct bh_error *err)
{
    BH_SHARED shared = {0};
    BH_CREDENTIALS found = {0};
    const char *configured = l->cfg->bucket.profile;
    struct chain c = {.l = l, .shared = &shared, .err = err};
    int rc = bh_shared_load(&shared, l->cwd, err);
    if (rc)
        return rc;
    for (int i = 0; i < 2; i++)
        l->stamps[i] = shared.files[i].stamp;
    rc = find(&c, configured && *configured ? configured : "default", false, &found);
    if (rc)
        return rc;
    l->found = found;
    found = (struct bh_credentials){0};
    return 0;
}

char *bh_creds_profile_region(const struct bh_config *cfg)
{
    BH_SHARED shared = {0};
    BH_PROFILE p = {0};
    const char *configured = cfg->bucket.profile;
    char *region = NULL;
    BH_FREE char *cwd = bh_creds_cwd();
    if (cwd && bh_shared_load(&shared, cwd, NULL) == 0 &&
        bh_shared_profile(&shared, configured && *configured ? configured : "default", &p, NULL) ==
            0) {
        region = p.value[BH_SETTING_REGION];
        p.value[BH_SETTING_REGION] = NULL;
    }
    return region;
}
