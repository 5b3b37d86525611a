/* The shared files of AWS's tools, ~/.aws/config and ~/.aws/credentials. Source: AWS SDKs and Tools
 * Reference Guide, "Shared config and credentials files". inih is not used here: as packaged it
 * cuts a line at 200 bytes, and a session token has a thousand. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "bucket/s3/creds_private.h"
#include "util/cleanup.h"
#include "util/log.h"

#define FILE_MAX ((size_t)1 << 20)
#define LINE_MAX ((size_t)64 << 10)
#define SPACE    " \t\r\v\f"

static const char *const names[BH_SETTING_COUNT] = {
    [BH_SETTING_ACCESS_KEY_ID] = "aws_access_key_id",
    [BH_SETTING_SECRET_ACCESS_KEY] = "aws_secret_access_key",
    [BH_SETTING_SESSION_TOKEN] = "aws_session_token",
    [BH_SETTING_CREDENTIAL_PROCESS] = "credential_process",
    [BH_SETTING_ROLE_ARN] = "role_arn",
    [BH_SETTING_SOURCE_PROFILE] = "source_profile",
    [BH_SETTING_CREDENTIAL_SOURCE] = "credential_source",
    [BH_SETTING_ROLE_SESSION_NAME] = "role_session_name",
    [BH_SETTING_EXTERNAL_ID] = "external_id",
    [BH_SETTING_DURATION_SECONDS] = "duration_seconds",
    [BH_SETTING_MFA_SERIAL] = "mfa_serial",
    [BH_SETTING_WEB_IDENTITY_TOKEN_FILE] = "web_identity_token_file",
    [BH_SETTING_REGION] = "region",
};

/* A part of a file's text. */
struct span {
    const char *s;
    size_t len;
};

static struct span trim(const char *s, const char *end)
{
    while (s < end && strchr(SPACE, *s))
        s++;
    while (end > s && strchr(SPACE, end[-1]))
        end--;
    return (struct span){s, (size_t)(end - s)};
}

static bool is(struct span a, const char *word)
{
    return a.len == strlen(word) && strncasecmp(a.s, word, a.len) == 0;
}

/* --- one profile out of one file --- */

struct reader {
    const struct bh_shared_file *file;
    bool is_config;
    const char *name; /* of the profile */
    struct bh_profile_settings *p;
    unsigned line;
    bool ours;       /* the section is the profile's */
    bool prefixed;   /* [profile default] was there: [default] does not count any more */
    bool in_section; /* any */
    bool in_setting; /* lines that are indented deeper than this belong to the setting above them */
    size_t indent;
    struct bh_error *err;
};

static void forget(struct bh_profile_settings *p, enum bh_setting which)
{
    bh_secret_string_free(p->value[which]);
    p->value[which] = NULL;
}

static int malformed(const struct reader *r, const char *why)
{
    return bh_fail(r->err, EACCES, "%s:%u: %s", r->file->path, r->line, why);
}

/* Whether [section] is the profile: [default], [NAME] in the credentials file, [profile NAME] in
 * the other, where NAME may be quoted. */
static bool names_profile(struct reader *r, struct span section, bool *prefixed)
{
    *prefixed = r->is_config && section.len > 8 && strncasecmp(section.s, "profile", 7) == 0 &&
                strchr(SPACE, section.s[7]);
    if (*prefixed)
        section = trim(section.s + 8, section.s + section.len);
    else if (r->is_config && !is(section, "default"))
        return false;
    if (section.len > 1 && strchr("\"'", *section.s) && section.s[section.len - 1] == *section.s)
        section = (struct span){section.s + 1, section.len - 2};
    return section.len == strlen(r->name) && strncmp(section.s, r->name, section.len) == 0;
}

static int begin_section(struct reader *r, struct span line)
{
    const char *end = memchr(line.s, ']', line.len);
    if (!end)
        return malformed(r, "a [section] without its ']'");
    struct span behind = trim(end + 1, line.s + line.len);
    if (behind.len && *behind.s != '#' && *behind.s != ';')
        return malformed(r, "nothing but a comment may follow a [section] on its line");
    bool prefixed;
    r->ours = names_profile(r, trim(line.s + 1, end), &prefixed);
    r->in_section = true;
    r->in_setting = false;
    if (!r->ours)
        return 0;
    if (prefixed && !r->prefixed)
        for (int i = 0; i < BH_SETTING_COUNT; i++)
            forget(r->p, i);
    r->ours = prefixed || !r->prefixed;
    r->prefixed = r->prefixed || prefixed;
    r->p->exists = true;
    if (!r->p->file)
        r->p->file = r->file->path;
    return 0;
}

static bool is_key(int setting)
{
    return setting == BH_SETTING_ACCESS_KEY_ID || setting == BH_SETTING_SECRET_ACCESS_KEY ||
           setting == BH_SETTING_SESSION_TOKEN;
}

static int take_setting(struct reader *r, struct span line)
{
    struct bh_profile_settings *p = r->p;
    const char *equals = memchr(line.s, '=', line.len);
    if (!equals || equals == line.s)
        return malformed(r, "neither a [section] nor NAME = VALUE nor a comment (#)");
    if (!r->in_section)
        return malformed(r, "a setting before the first [section]");
    if (!r->ours)
        return 0;
    struct span name = trim(line.s, equals), value = trim(equals + 1, line.s + line.len);
    if (name.len > 4 && strncasecmp(name.s, "sso_", 4) == 0)
        p->sign_in = true;
    p->sign_in = p->sign_in || is(name, "login_session");
    for (int i = 0; i < BH_SETTING_COUNT; i++) {
        if (!is(name, names[i]))
            continue;
        if (is_key(i) && p->keys_file != r->file->path) {
            /* the keys of one file do not go with the token of another */
            for (int j = 0; j < BH_SETTING_COUNT; j++)
                if (is_key(j))
                    forget(p, j);
            p->keys_file = r->file->path;
        }
        p->file = r->file->path;
        forget(p, i);
        if (value.len && !(p->value[i] = strndup(value.s, value.len)))
            return bh_fail(r->err, ENOMEM, "out of memory");
    }
    return 0;
}

static int take_line(struct reader *r, const char *s, const char *end)
{
    struct span line = trim(s, end);
    size_t indent = (size_t)(line.s - s);
    if (memchr(s, '\0', (size_t)(end - s)))
        return malformed(r, "the line holds a NUL byte; this is no text file");
    if (line.len > LINE_MAX)
        return malformed(r, "the line is too long");
    if (!line.len || *line.s == '#' || *line.s == ';')
        return 0;
    if (indent == 0 && *line.s == '[')
        return begin_section(r, line);
    if (r->in_setting && indent > r->indent)
        return 0;
    r->in_setting = true;
    r->indent = indent;
    return take_setting(r, line);
}

static int read_profile(const struct bh_shared_file *file, bool is_config, const char *name,
                        struct bh_profile_settings *p, struct bh_error *err)
{
    struct reader r = {.file = file, .is_config = is_config, .name = name, .p = p, .err = err};
    const char *s = file->text.data, *stop = s + file->text.len;
    if (file->text.len >= 3 && memcmp(s, "\xEF\xBB\xBF", 3) == 0)
        s += 3;
    int rc = 0;
    while (s < stop && !rc) {
        const char *newline = memchr(s, '\n', (size_t)(stop - s));
        r.line++;
        rc = take_line(&r, s, newline ? newline : stop);
        s = newline ? newline + 1 : stop;
    }
    return rc;
}

int bh_shared_profile(const struct bh_shared *s, const char *name, struct bh_profile_settings *p,
                      struct bh_error *err)
{
    *p = (struct bh_profile_settings){0};
    for (int i = BH_SHARED_CONFIG; i <= BH_SHARED_CREDENTIALS; i++) {
        int rc = s->files[i].text.data
                     ? read_profile(&s->files[i], i == BH_SHARED_CONFIG, name, p, err)
                     : 0;
        if (rc)
            return rc;
    }
    return 0;
}

void bh_profile_free(struct bh_profile_settings *p)
{
    for (int i = 0; i < BH_SETTING_COUNT; i++)
        forget(p, i);
}

/* --- the files --- */

static char *path_of(const char *cwd, int which)
{
    const char *given =
        bh_creds_env(which == BH_SHARED_CONFIG ? "AWS_CONFIG_FILE" : "AWS_SHARED_CREDENTIALS_FILE");
    const char *usual = which == BH_SHARED_CONFIG ? "~/.aws/config" : "~/.aws/credentials";
    return bh_creds_path(cwd, given ? given : usual);
}

static void warn_if_open(const char *path, unsigned mode)
{
    static atomic_bool warned;
    if (mode & (S_IRGRP | S_IROTH) && !atomic_exchange(&warned, true))
        bh_log(BH_LOG_WARNING, "%s can be read by group or others: chmod 600 %s", path, path);
}

int bh_shared_load(struct bh_shared *s, const char *cwd, struct bh_error *err)
{
    *s = (struct bh_shared){0};
    for (int i = BH_SHARED_CONFIG; i <= BH_SHARED_CREDENTIALS; i++) {
        struct bh_shared_file *f = &s->files[i];
        unsigned mode = 0;
        f->path = path_of(cwd, i);
        int rc = f->path ? 0 : bh_fail(err, ENOMEM, "out of memory");
        if (!rc && *f->path != '~')
            rc = bh_secret_read_file(&f->text, f->path, FILE_MAX, true, &f->stamp, &mode, err);
        if (rc)
            return rc;
        if (i == BH_SHARED_CREDENTIALS)
            warn_if_open(f->path, mode);
    }
    return 0;
}

void bh_shared_free(struct bh_shared *s)
{
    for (int i = BH_SHARED_CONFIG; i <= BH_SHARED_CREDENTIALS; i++) {
        free(s->files[i].path);
        bh_secret_free(&s->files[i].text);
    }
    *s = (struct bh_shared){0};
}

bool bh_shared_changed(const char *cwd, const struct bh_file_stamp stamps[2])
{
    bool changed = false;
    for (int i = BH_SHARED_CONFIG; i <= BH_SHARED_CREDENTIALS; i++) {
        struct bh_file_stamp now = {0};
        BH_FREE char *path = path_of(cwd, i);
        struct stat st;
        if (path && *path != '~' && stat(path, &st) == 0)
            now = bh_file_stamp_of(&st);
        changed = changed || now.present != stamps[i].present || now.dev != stamps[i].dev ||
                  now.ino != stamps[i].ino || now.size != stamps[i].size ||
                  now.mtime_ns != stamps[i].mtime_ns;
    }
    return changed;
}
