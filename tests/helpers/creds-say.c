/* creds-say: finds credentials as a mount would, and says what it found.
 *
 *   creds-say [-o KEY=VALUE]... WORD...
 *
 * Words, done in turn, a line each on stdout:
 *   get         "ID SECRET TOKEN" ("-": none), "anonymous", or "error ERRNO SENTENCE"
 *   id          the same, the id alone
 *   origin      where they come from
 *   left        seconds that they are valid for, or "never"
 *   reject      "yes" or "no": the server does not know the id that was given last; is there a
 * renewal? sleep:S     S seconds, which may be a fraction until:ID    "ok" as soon as a get gives
 * this id, asked every 20 ms; "no" after 15 s region      the profile's, or "-"
 *
 * The log goes to stderr. The exit status is 0 unless the configuration is refused. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bucket/s3/creds.h"
#include "config/config.h"
#include "util/clock.h"

static struct bh_creds *creds;
static char last[128];

static int get(struct bh_credentials *c)
{
    struct bh_error err = {0};
    int rc = bh_creds_get(creds, c, NULL, &err);
    if (rc)
        printf("error %s %s\n", strerrorname_np(rc), err.text);
    else if (c->anonymous)
        puts("anonymous");
    else
        snprintf(last, sizeof last, "%s", c->access_key_id);
    return rc || c->anonymous;
}

static void say(const char *word)
{
    struct bh_credentials c = {0};
    bool all = strcmp(word, "get") == 0;
    if (get(&c))
        return;
    if (all)
        printf("%s %s %s\n", c.access_key_id, c.secret_access_key,
               c.session_token ? c.session_token : "-");
    else if (strcmp(word, "id") == 0)
        puts(c.access_key_id);
    else if (c.expires_ms)
        printf("%.1f\n", (double)(c.expires_ms - bh_real_ms()) / 1000);
    else
        puts("never");
    bh_credentials_wipe(&c);
}

static bool wait_until(const char *id)
{
    for (int64_t end = bh_mono_ms() + 15000; bh_mono_ms() < end; usleep(20000)) {
        struct bh_credentials c = {0};
        if (get(&c))
            return false;
        bh_credentials_wipe(&c);
        if (strcmp(last, id) == 0)
            return true;
    }
    return false;
}

static void perform(const struct bh_config *cfg, const char *word)
{
    char text[512];
    if (strcmp(word, "origin") == 0) {
        bh_creds_origin(creds, text, sizeof text);
        puts(text);
    } else if (strcmp(word, "reject") == 0) {
        puts(bh_creds_rejected(creds, last) ? "yes" : "no");
    } else if (strncmp(word, "sleep:", 6) == 0) {
        usleep((useconds_t)(atof(word + 6) * 1e6));
    } else if (strncmp(word, "until:", 6) == 0) {
        puts(wait_until(word + 6) ? "ok" : "no");
    } else if (strcmp(word, "region") == 0) {
        char *region = bh_creds_profile_region(cfg);
        puts(region ? region : "-");
        free(region);
    } else {
        say(word);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *overrides[32];
    struct bh_config_request req = {
        .url = "s3://bucket", .overrides = overrides, .use_environment = true};
    struct bh_config *cfg;
    struct bh_error err;
    int i = 1;
    for (; i + 1 < argc && strcmp(argv[i], "-o") == 0 && req.override_count < 32; i += 2)
        overrides[req.override_count++] = argv[i + 1];
    if (bh_config_load(&cfg, &req, &err) || bh_creds_new(&creds, cfg, &err)) {
        fprintf(stderr, "creds-say: %s\n", err.text);
        return 2;
    }
    bh_log_setup(BH_LOG_DEBUG, NULL, true, NULL);
    for (; i < argc; i++)
        perform(cfg, argv[i]);
    bh_creds_free(creds);
    bh_config_free(cfg);
    return 0;
}
