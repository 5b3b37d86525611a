/* bhfs status --probe: what the bucket says, without a mount. */
#include "repo/probe.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

#include "daemon.h"
#include "options.h"
#include "util/clock.h"

/* A person waits for the answer. */
#define PATIENCE_MS 60000

static atomic_bool interrupted;

static void on_interrupt(int sig)
{
    atomic_store(&interrupted, true);
}

static int probe(const struct options *o, struct bh_strbuf *out, struct bh_error *err)
{
    struct bh_config *cfg;
    const struct bh_config_request req = {.file = o->config_file,
                                          .url = o->url,
                                          .overrides = (const char *const *)o->settings,
                                          .override_count = o->setting_count,
                                          .use_environment = true};
    const struct bh_call call = {.cancel = &interrupted, .deadline_ms = bh_mono_ms() + PATIENCE_MS};
    int rc = bh_config_load(&cfg, &req, err);
    if (rc)
        return rc;
    rc = bh_log_setup(BH_LOG_WARNING, "", true, err);
    if (!rc)
        rc = bh_probe(cfg, o->read_only, out, &call, err);
    bh_config_free(cfg);
    return rc;
}

int command_probe(int argc, char **argv)
{
    struct options o;
    struct bh_error err;
    BH_STRBUF out = {0};
    struct sigaction sa = {.sa_handler = on_interrupt};
    int rc = options_parse_bucket(&o, argc, argv, &err);
    if (rc || o.help) {
        fprintf(stderr,
                "%s%s%susage: bhfs status --probe [-c FILE] [-o SETTING] [-o ro] [BUCKET-URL]\n",
                rc ? "bhfs: " : "", rc ? err.text : "", rc ? "\n" : "");
        options_free(&o);
        return 2;
    }
    prctl(PR_SET_DUMPABLE, 0); /* no core file with credentials in it */
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    rc = probe(&o, &out, &err);
    if (out.data)
        fputs(out.data, stdout);
    if (rc)
        fprintf(stderr, "bhfs: %s\n", err.text);
    options_free(&o);
    return rc ? 1 : 0;
}
