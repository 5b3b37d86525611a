/* The chain of sources, and the renewal of what the found one gave. A look-up runs without the
 * lock: one thread does it, those that need its outcome wait for it, the others go on with what is
 * valid. */
#include "bucket/s3/creds.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/creds_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define WINDOW_MAX_MS                                                                              \
    300000             /* renewed this long before they expire, or a quarter of their life         \
                        */
#define PAUSE_MS 30000 /* between renewals that fail, or give what was rejected */
#define FIND_MS  60000 /* bound of a look-up that somebody waits for */
#define RENEW_MS 30000 /* of one before the old ones expire */
#define WAIT_MS  100   /* how soon a cancelled call stops waiting */

static int from_configuration(struct bh_lookup *l, struct bh_error *err);

struct source {
    int (*find)(struct bh_lookup *l, struct bh_error *err);
    bool renewable;
    bool probe; /* asked without being set up: its failure is no error, but a word in `looked` */
};

static const struct source sources[] = {
    {from_configuration, false, false},   {bh_creds_from_web_environment, true, false},
    {bh_creds_from_profile, true, false}, {bh_creds_from_container, true, false},
    {bh_creds_from_instance, true, true},
};
#define SOURCES (sizeof sources / sizeof sources[0])

struct bh_creds {
    const struct bh_config *cfg;
    char *cwd;

    pthread_mutex_t mutex; /* of what is below */
    pthread_cond_t ended;  /* a look-up ended */
    bool looking;
    uint64_t lookups;        /* that ended */
    struct bh_error failure; /* of the last one; code 0: it succeeded, or its own call ended it */

    const struct source *source; /* NULL: nothing found yet */
    struct bh_credentials now;
    char origin[320];
    bool fixed;
    struct bh_file_stamp stamps[2];
    bool rejected;
    int64_t renew_ms;          /* real time; 0: never */
    int64_t no_renewal_before; /* bh_mono_ms(): a renewal failed */
    int64_t no_reject_before;  /* bh_mono_ms(): a renewal gave what had been rejected */
};

/* --- small things --- */

int bh_creds_looked(struct bh_lookup *l, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    bh_strbuf_addf(&l->looked, "%s%s", l->looked.len ? ", " : "", text);
    return ENOENT;
}

char *bh_creds_path(const char *cwd, const char *path)
{
    const char *home = bh_creds_env("HOME");
    char *out = NULL;
    int n = 0;
    if (home && strncmp(path, "~/", 2) == 0)
        n = asprintf(&out, "%s%s", home, path + 1);
    else if (*cwd && *path != '/' && *path != '~')
        n = asprintf(&out, "%s/%s", cwd, path);
    else
        return strdup(path);
    return n < 0 ? NULL : out;
}

char *bh_creds_cwd(void)
{
    char *cwd = getcwd(NULL, 0);
    return cwd ? cwd : strdup("");
}

/* --- sources of one step --- */

static bool is_set(const char *value)
{
    return value && *value;
}

static int from_configuration(struct bh_lookup *l, struct bh_error *err)
{
    const struct bh_config *cfg = l->cfg;
    bool id = is_set(cfg->bucket.access_key_id), secret = is_set(cfg->bucket.secret_access_key);
    if (cfg->bucket.credentials == BH_CREDENTIALS_ANONYMOUS) {
        l->found.anonymous = true;
        snprintf(l->origin, sizeof l->origin, "none (anonymous)");
        return 0;
    }
    if (!id && !secret)
        return bh_creds_looked(l, "the configuration and AWS_ACCESS_KEY_ID (not set)");
    if (id != secret)
        return bh_fail(err, EACCES,
                       "bucket.%s (%s) is set and bucket.%s (%s) is not; requests need both",
                       id ? "access_key_id" : "secret_access_key",
                       id ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY",
                       id ? "secret_access_key" : "access_key_id",
                       id ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID");
    const char *where = bh_config_where(cfg, "bucket", "access_key_id");
    snprintf(l->origin, sizeof l->origin, "%s", where ? where : "the configuration");
    return bh_credentials_set(&l->found, "the configuration", cfg->bucket.access_key_id,
                              cfg->bucket.secret_access_key, cfg->bucket.session_token, 0, err);
}

int bh_creds_from_web_environment(struct bh_lookup *l, struct bh_error *err)
{
    const char *file = bh_creds_env("AWS_WEB_IDENTITY_TOKEN_FILE");
    const struct bh_role role = {.arn = bh_creds_env("AWS_ROLE_ARN"),
                                 .session_name = bh_creds_env("AWS_ROLE_SESSION_NAME")};
    if (!file)
        return bh_creds_looked(l, "a web identity (no AWS_WEB_IDENTITY_TOKEN_FILE)");
    if (l->cfg->bucket.profile_chosen) /* it is meant, not the role of the pod */
        return bh_creds_looked(l, "no web identity (bucket.profile is set)");
    if (!role.arn)
        return bh_fail(err, EACCES,
                       "AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not; it names the "
                       "role that the token is for");
    snprintf(l->origin, sizeof l->origin, "role %s by AWS_WEB_IDENTITY_TOKEN_FILE", role.arn);
    return bh_sts_web_identity(l, &role, file, &l->found, err);
}

/* --- one look-up, without the lock --- */

static int check_found(const struct bh_lookup *l, struct bh_error *err)
{
    char when[32];
    if (!l->found.expires_ms || l->found.expires_ms > bh_real_ms())
        return 0;
    return bh_fail(err, EACCES,
                   "%s gave credentials that had expired at %s; is this machine's clock right?",
                   l->origin, bh_format_time(l->found.expires_ms, when, sizeof when));
}

static int try_source(struct bh_lookup *l, const struct source *s, struct bh_error *err)
{
    int rc = s->find(l, err);
    return rc ? rc : check_found(l, err);
}

static int try_all(struct bh_lookup *l, const struct source **found, struct bh_error *err)
{
    struct bh_error why = {0};
    for (size_t i = 0; i < SOURCES; i++) {
        int rc = try_source(l, &sources[i], &why);
        if (rc == 0) {
            *found = &sources[i];
            return 0;
        }
        if (rc == ENOENT)
            continue;
        if (!sources[i].probe || rc == ECANCELED || rc == ENOMEM)
            return bh_fail(err, rc, "no credentials: %s", why.text);
        bh_creds_looked(l, "%s", why.text);
    }
    return bh_fail(err, EACCES,
                   "no credentials for the bucket: set bucket.access_key_id and "
                   "bucket.secret_access_key_file, or AWS_PROFILE, or, for a public bucket, "
                   "bucket.credentials = anonymous. Looked at: %s",
                   l->looked.data ? l->looked.data : "nothing, out of memory");
}

/* The source that had them, or all in turn. */
static int look_up(struct bh_lookup *l, const struct source **source, struct bh_error *err)
{
    int rc = *source ? try_source(l, *source, err) : ENOENT;
    if (rc != ENOENT)
        return rc;
    bh_credentials_wipe(&l->found);
    return try_all(l, source, err);
}

/* --- the state --- */

static bool usable(const struct bh_creds *c)
{
    return c->source && !c->rejected && (!c->now.expires_ms || bh_real_ms() < c->now.expires_ms);
}

static bool due(const struct bh_creds *c)
{
    return c->renew_ms && bh_real_ms() >= c->renew_ms && bh_mono_ms() >= c->no_renewal_before;
}

static void take(struct bh_creds *c, struct bh_lookup *l, const struct source *source)
{
    char until[32];
    int64_t now = bh_real_ms(), life = l->found.expires_ms - now;
    int64_t window = life / 4 < WINDOW_MAX_MS ? life / 4 : WINDOW_MAX_MS;
    bool same = c->rejected && c->now.access_key_id && l->found.access_key_id &&
                strcmp(c->now.access_key_id, l->found.access_key_id) == 0;
    bh_log(c->source ? BH_LOG_DEBUG : BH_LOG_INFO, "credentials: %s%s%s", l->origin,
           l->found.expires_ms ? ", valid until " : "",
           l->found.expires_ms ? bh_format_time(l->found.expires_ms, until, sizeof until) : "");
    bh_credentials_wipe(&c->now);
    c->now = l->found;
    l->found = (struct bh_credentials){0};
    memcpy(c->origin, l->origin, sizeof c->origin);
    memcpy(c->stamps, l->stamps, sizeof c->stamps);
    c->source = source;
    c->fixed = l->fixed;
    c->rejected = false;
    c->renew_ms = c->now.expires_ms ? c->now.expires_ms - window : 0;
    c->no_renewal_before = 0;
    c->no_reject_before = same ? bh_mono_ms() + PAUSE_MS : 0;
}

static struct bh_call bounded(const struct bh_call *call, int64_t ms)
{
    struct bh_call out = call ? *call : (struct bh_call){0};
    int64_t end = bh_mono_ms() + ms;
    if (!out.deadline_ms || out.deadline_ms > end)
        out.deadline_ms = end;
    return out;
}

/* Called and left with the lock held; without it meanwhile. err is not NULL. */
static int renew(struct bh_creds *c, const struct bh_call *call, struct bh_error *err)
{
    const struct source *source = c->source;
    const struct bh_call limits = bounded(call, usable(c) ? RENEW_MS : FIND_MS);
    struct bh_lookup l = {.cfg = c->cfg, .cwd = c->cwd, .call = &limits};
    c->looking = true;
    pthread_mutex_unlock(&c->mutex);
    int rc = look_up(&l, &source, err);
    int ended = rc ? bh_call_check(call, "finding credentials", err) : 0;
    pthread_mutex_lock(&c->mutex);
    c->looking = false;
    c->lookups++;
    c->failure.code = 0;
    if (!rc) {
        take(c, &l, source);
    } else if (!ended) { /* by the source's fault, not by the caller's wish */
        c->failure = *err;
        c->no_renewal_before = bh_mono_ms() + PAUSE_MS;
        if (usable(c))
            bh_log(BH_LOG_WARNING,
                   "the credentials could not be renewed, the old ones still hold: %s", err->text);
    }
    pthread_cond_broadcast(&c->ended);
    bh_credentials_wipe(&l.found);
    bh_strbuf_free(&l.looked);
    return ended ? ended : rc;
}

/* Until the look-up of another thread ends: its failure, or 0 where it is to be seen what there is
 * now. */
static int wait_for_other(struct bh_creds *c, const struct bh_call *call, struct bh_error *err)
{
    uint64_t before = c->lookups;
    while (c->lookups == before) {
        struct timespec until = bh_mono_after_ms(WAIT_MS);
        pthread_cond_timedwait(&c->ended, &c->mutex, &until);
        int rc = bh_call_check(call, "finding credentials", err);
        if (rc)
            return rc;
    }
    return c->failure.code && !usable(c) ? bh_fail(err, c->failure.code, "%s", c->failure.text) : 0;
}

static char *copy_of(const char *s, bool *ok)
{
    char *out = s ? strdup(s) : NULL;
    *ok = *ok && (!s || out);
    return out;
}

static int hand_out(const struct bh_creds *c, struct bh_credentials *out, struct bh_error *err)
{
    bool ok = true;
    *out = (struct bh_credentials){
        .anonymous = c->now.anonymous,
        .access_key_id = copy_of(c->now.access_key_id, &ok),
        .secret_access_key = copy_of(c->now.secret_access_key, &ok),
        .session_token = copy_of(c->now.session_token, &ok),
        .expires_ms = c->now.expires_ms,
    };
    if (ok)
        return 0;
    bh_credentials_wipe(out);
    return bh_fail(err, ENOMEM, "out of memory");
}

int bh_creds_get(struct bh_creds *c, struct bh_credentials *out, const struct bh_call *call,
                 struct bh_error *err)
{
    struct bh_error why;
    *out = (struct bh_credentials){0};
    BH_LOCK_SCOPE(&c->mutex);
    for (;;) {
        int rc = bh_call_check(call, "finding credentials", err);
        if (rc)
            return rc;
        if (usable(c) && (!due(c) || c->looking))
            return hand_out(c, out, err);
        rc = c->looking ? wait_for_other(c, call, &why) : renew(c, call, &why);
        if (rc && !usable(c))
            return bh_fail(err, rc, "%s", why.text);
    }
}

bool bh_creds_rejected(struct bh_creds *c, const char *access_key_id)
{
    BH_LOCK_SCOPE(&c->mutex);
    if (!access_key_id || !c->source || !c->source->renewable)
        return false;
    if (c->rejected || !c->now.access_key_id || strcmp(c->now.access_key_id, access_key_id) != 0)
        return true; /* another thread was first */
    if (bh_mono_ms() < c->no_reject_before)
        return false;
    if (c->fixed && !bh_shared_changed(c->cwd, c->stamps))
        return false;
    c->rejected = true;
    return true;
}

void bh_creds_origin(struct bh_creds *c, char *buf, size_t len)
{
    BH_LOCK_SCOPE(&c->mutex);
    snprintf(buf, len, "%s", c->source ? c->origin : "not looked up yet");
}

int bh_creds_new(struct bh_creds **out, const struct bh_config *cfg, struct bh_error *err)
{
    struct bh_creds *c = calloc(1, sizeof *c);
    char *cwd = bh_creds_cwd();
    if (!c || !cwd) {
        free(c);
        free(cwd);
        return bh_fail(err, ENOMEM, "out of memory");
    }
    c->cfg = cfg;
    c->cwd = cwd;
    bh_cond_init(&c->ended);
    pthread_mutex_init(&c->mutex, NULL);
    *out = c;
    return 0;
}

void bh_creds_free(struct bh_creds *c)
{
    if (!c)
        return;
    bh_credentials_wipe(&c->now);
    pthread_cond_destroy(&c->ended);
    pthread_mutex_destroy(&c->mutex);
    free(c->cwd);
    free(c);
}
