/* Which control files there are, what the commands among them do, and what those tell when they are
 * read. */
#include "ctl.h"

#include <errno.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/clock.h"

static void text_last_status(struct daemon *d, struct bh_strbuf *out)
{
    BH_LOCK_SCOPE(&d->status_mutex);
    bh_strbuf_addf(out, "%s\n", d->last_status);
}

static void text_config(struct daemon *d, struct bh_strbuf *out)
{
    bh_config_text(d->bh, out);
}

/* --- what a command told when it ran last --- */

static pthread_mutex_t last_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct bh_strbuf last_import, last_restore, last_verify, last_gc;

/* Takes *told over; where that says nothing the one before stays. */
static void keep(struct bh_strbuf *last, struct bh_strbuf *told)
{
    BH_LOCK_SCOPE(&last_mutex);
    if (told->len) {
        struct bh_strbuf old = *last;
        *last = *told;
        *told = old;
    }
    bh_strbuf_free(told);
}

static void show(const struct bh_strbuf *last, struct bh_strbuf *out)
{
    BH_LOCK_SCOPE(&last_mutex);
    bh_strbuf_addf(out, "%s", last->len ? last->data : "never\n");
}

static void text_import(struct daemon *d, struct bh_strbuf *out)
{
    (void)d;
    show(&last_import, out);
}

static void text_restore(struct daemon *d, struct bh_strbuf *out)
{
    (void)d;
    show(&last_restore, out);
}

static void text_verify(struct daemon *d, struct bh_strbuf *out)
{
    (void)d;
    show(&last_verify, out);
}

static void text_gc(struct daemon *d, struct bh_strbuf *out)
{
    (void)d;
    show(&last_gc, out);
}

/* --- commands --- */

static int run_flush(struct daemon *d, const char *arg, const struct bh_call *call,
                     struct bh_error *err)
{
    (void)arg;
    return bh_flush_call(d->bh, false, NULL, call, err);
}

static int run_force_flush(struct daemon *d, const char *arg, const struct bh_call *call,
                           struct bh_error *err)
{
    (void)arg;
    return bh_flush_call(d->bh, true, NULL, call, err);
}

static int run_import(struct daemon *d, const char *arg, const struct bh_call *call,
                      struct bh_error *err)
{
    struct bh_strbuf told = {0};
    char when[32];
    if (!arg[0])
        return bh_fail(
            err, EINVAL,
            "import needs the absolute path of a database file: echo /PATH > .ctl/import");
    int rc = bh_import_call(d->bh, arg, call, err);
    if (rc)
        return rc;
    bh_strbuf_addf(&told, "file: %s\ntime: %s\n", arg,
                   bh_format_time(bh_real_ms(), when, sizeof when));
    keep(&last_import, &told);
    return 0;
}

static int run_restore(struct daemon *d, const char *arg, const struct bh_call *call,
                       struct bh_error *err)
{
    struct bh_strbuf told = {0};
    char when[32], id[BH_SNAPSHOT_ID_MAX];
    struct bh_info info;
    if (!arg[0])
        return bh_fail(err, EINVAL,
                       "restore needs to be told what: an id or a label (ls snapshots), prev, a "
                       "time, or \"10m ago\": echo prev > .ctl/restore");
    int rc = bh_restore_call(d->bh, arg, id, call, err);
    if (rc)
        return rc;
    bh_get_info(d->bh, &info);
    bh_strbuf_addf(&told, "asked for: %.100s\nrestored: %s\nsnapshot: %s\ntime: %s\n", arg, id,
                   info.snapshot, bh_format_time(bh_real_ms(), when, sizeof when));
    keep(&last_restore, &told);
    return 0;
}

static int run_branch(struct daemon *d, const char *arg, const struct bh_call *call,
                      struct bh_error *err)
{
    if (!arg[0])
        return bh_fail(err, EINVAL,
                       "branch needs the name of a branch to switch to: echo NAME > .ctl/branch");
    int rc = bh_switch_call(d->bh, arg, call, err);
    views_changed();
    return rc;
}

static int run_hydrate(struct daemon *d, const char *arg, const struct bh_call *call,
                       struct bh_error *err)
{
    (void)arg;
    return bh_hydrate_call(d->bh, call, err);
}

static int run_verify(struct daemon *d, const char *arg, const struct bh_call *call,
                      struct bh_error *err)
{
    struct bh_strbuf report = {0};
    if (arg[0] && strcmp(arg, "full") != 0)
        return bh_fail(
            err, EINVAL,
            "verify takes nothing (touch .ctl/verify) or full (echo full > .ctl/verify)");
    int rc = bh_verify_call(d->bh, arg[0] != '\0', &report, call, err);
    keep(&last_verify, &report); /* also of one that found damage */
    return rc;
}

static int run_gc(struct daemon *d, const char *arg, const struct bh_call *call,
                  struct bh_error *err)
{
    struct bh_strbuf report = {0};
    if (arg[0] && strcmp(arg, "dry-run") != 0)
        return bh_fail(err, EINVAL,
                       "gc takes nothing (touch .ctl/gc) or dry-run (echo dry-run > .ctl/gc)");
    int rc = bh_gc_call(d->bh, arg[0] != '\0', &report, call, err);
    keep(&last_gc, &report); /* also of one that failed */
    return rc;
}

/* --- the files --- */

const struct ctl_file ctl_files[] = {
    {"flush", 0644, text_flush, run_flush, true, false},
    {"force_flush", 0644, text_flush, run_force_flush, true, false},
    {"import", 0644, text_import, run_import, false, false},
    {"restore", 0644, text_restore, run_restore, false, false},
    {"branch", 0644, text_branch, run_branch, false, false},
    {"hydrate", 0644, text_hydrate, run_hydrate, true, false},
    {"verify", 0644, text_verify, run_verify, false, true},
    {"gc", 0644, text_gc, run_gc, false, true},
    {"status", 0444, text_status, NULL, false, false},
    {"status.json", 0444, text_status_json, NULL, false, false},
    {"last_status", 0444, text_last_status, NULL, false, false},
    {"metrics", 0444, text_metrics, NULL, false, false},
    {"config", 0400, text_config, NULL, false, false},
    {"log", 0444, NULL, NULL, false, false},
};
enum { CTL_COUNT = sizeof ctl_files / sizeof *ctl_files };

int ctl_find(const char *name)
{
    for (int i = 0; i < CTL_COUNT; i++)
        if (!strcmp(ctl_files[i].name, name))
            return i;
    return -1;
}

const char *ctl_name(int ctl)
{
    return ctl < CTL_COUNT ? ctl_files[ctl].name : NULL;
}

bool ctl_is_command(int ctl)
{
    return ctl_files[ctl].run != NULL;
}
