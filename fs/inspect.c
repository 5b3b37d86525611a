/* bhfs inspect, and bhfs export of a snapshot: what a bucket holds, without a mount. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "daemon.h"
#include "options.h"
#include "repo/offline.h"
#include "util/cleanup.h"
#include "util/clock.h"

static atomic_bool interrupted;

static void on_interrupt(int sig)
{
    atomic_store(&interrupted, true);
}

/* --- the command line --- */

struct inspect {
    struct options o;
    const char *branch;
    bool json, force, no_check;
    const char *words[4]; /* what is no option */
    int word_count;
};

static bool is_flag(const char *word, const char *name, bool *set)
{
    if (strcmp(word, name) != 0)
        return false;
    *set = true;
    return true;
}

/* Takes what is ours out of the arguments; what is left is the mount's. EINVAL. */
static int parse(struct inspect *c, int argc, char **argv, struct bh_error *err)
{
    BH_FREE char **rest = calloc((size_t)argc + 1, sizeof *rest);
    int left = 1;
    bool only_words = false;
    if (!rest)
        return bh_fail(err, ENOMEM, "out of memory");
    rest[0] = argv[0];
    for (int i = 1; i < argc; i++) {
        const char *w = argv[i];
        bool word = only_words || w[0] != '-' || !w[1];
        if (!word && (is_flag(w, "--json", &c->json) || is_flag(w, "--force", &c->force) ||
                      is_flag(w, "--no-check", &c->no_check) || is_flag(w, "--", &only_words)))
            continue;
        if (!word && !strncmp(w, "--branch=", 9)) {
            c->branch = w + 9;
        } else if (!word && !strcmp(w, "--branch") && i + 1 < argc) {
            c->branch = argv[++i];
        } else if (word) {
            if (c->word_count == 4)
                return bh_fail(err, EINVAL, "there are too many arguments");
            c->words[c->word_count++] = w;
        } else {
            rest[left++] = argv[i];
            if ((!strcmp(w, "-c") || !strcmp(w, "-o") || !strcmp(w, "--config")) && i + 1 < argc)
                rest[left++] = argv[++i];
        }
    }
    return options_parse_bucket(&c->o, left, rest, err);
}

static bool is_url(const char *word)
{
    return strstr(word, "://") != NULL;
}

/* The first word if it is a URL. */
static const char *take_url(struct inspect *c)
{
    if (c->word_count == 0 || !is_url(c->words[0]))
        return NULL;
    const char *url = c->words[0];
    c->word_count--;
    memmove(c->words, c->words + 1, sizeof c->words - sizeof c->words[0]);
    return url;
}

/* --- with a snapshot --- */

typedef int use_fn(const struct inspect *c, struct bh_offline *o, struct bh_error *err);

static int with_snapshot(const struct inspect *c, const char *url, const char *what, use_fn *use,
                         struct bh_error *err)
{
    struct bh_config *cfg;
    struct bh_offline *o = NULL;
    const struct bh_config_request req = {.file = c->o.config_file,
                                          .url = url,
                                          .overrides = (const char *const *)c->o.settings,
                                          .override_count = c->o.setting_count,
                                          .use_environment = true};
    const struct bh_call call = {.cancel = &interrupted};
    struct sigaction sa = {.sa_handler = on_interrupt};
    prctl(PR_SET_DUMPABLE, 0); /* no core file with credentials in it */
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    int rc = bh_config_load(&cfg, &req, err);
    if (rc)
        return rc;
    rc = bh_log_setup(BH_LOG_WARNING, "", true, err);
    if (!rc)
        rc = bh_offline_open(&o, cfg, &call, err);
    if (!rc)
        rc = bh_offline_find(o, c->branch, what, err);
    if (!rc)
        rc = use(c, o, err);
    bh_offline_free(o);
    bh_config_free(cfg);
    return rc;
}

/* --- inspect --- */

struct view {
    sqlite3 *db;
    const struct bh_offline *o;
    bool json;
    struct bh_strbuf *out;
};

static void cleanup_stmt(sqlite3_stmt **st)
{
    sqlite3_finalize(*st);
}
#define STMT __attribute__((cleanup(cleanup_stmt))) sqlite3_stmt *

static int sql_failed(const struct view *v, struct bh_error *err)
{
    int rc = bh_offline_why(v->o, err);
    return rc ? rc : bh_sqlite_fail(v->db, err, "the snapshot");
}

static int prepare(const struct view *v, const char *sql, const char *arg, sqlite3_stmt **st,
                   struct bh_error *err)
{
    if (sqlite3_prepare_v2(v->db, sql, -1, st, NULL) != SQLITE_OK)
        return sql_failed(v, err);
    if (arg)
        sqlite3_bind_text(*st, 1, arg, -1, SQLITE_TRANSIENT);
    return 0;
}

static int get_number(const struct view *v, const char *sql, int64_t *n, struct bh_error *err)
{
    STMT st = NULL;
    int rc = prepare(v, sql, NULL, &st, err);
    if (rc)
        return rc;
    if (sqlite3_step(st) != SQLITE_ROW)
        return sql_failed(v, err);
    *n = sqlite3_column_int64(st, 0);
    return 0;
}

static int add_columns(const struct view *v, const char *table, struct bh_strbuf *out,
                       struct bh_error *err)
{
    STMT st = NULL;
    const char *before = "";
    int rc = prepare(v, "SELECT name, type FROM pragma_table_info(?1)", table, &st, err), step;
    if (rc)
        return rc;
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        const char *type = (const char *)sqlite3_column_text(st, 1);
        if (v->json) {
            bh_strbuf_addf(out, "%s{\"name\": ", before);
            bh_strbuf_add_json(out, name ? name : "");
            bh_strbuf_addf(out, ", \"type\": ");
            bh_strbuf_add_json(out, type ? type : "");
            bh_strbuf_addf(out, "}");
        } else {
            bh_strbuf_addf(out, "%s%s%s%s", before, name ? name : "", type && *type ? " " : "",
                           type ? type : "");
        }
        before = ", ";
    }
    return step == SQLITE_DONE ? 0 : sql_failed(v, err);
}

/* -1: a virtual table whose module is not here. */
static int count_rows(const struct view *v, const char *table, int64_t *rows, struct bh_error *err)
{
    char *sql = sqlite3_mprintf("SELECT count(*) FROM \"%w\"", table);
    int rc = sql ? get_number(v, sql, rows, err) : bh_fail(err, ENOMEM, "out of memory");
    sqlite3_free(sql);
    if (rc && rc != ENOMEM && bh_offline_why(v->o, NULL) == 0 &&
        (sqlite3_errcode(v->db) & 0xff) == SQLITE_ERROR) {
        *rows = -1;
        rc = 0;
    }
    return rc;
}

static int add_table(const struct view *v, const char *table, const char *before,
                     struct bh_error *err)
{
    BH_STRBUF columns = {0};
    int64_t rows = 0;
    /* A module that is not here is no damage. */
    if (add_columns(v, table, &columns, err) && bh_offline_why(v->o, err))
        return err->code;
    int rc = count_rows(v, table, &rows, err);
    if (rc)
        return rc;
    const char *list = columns.data ? columns.data : "";
    if (!v->json && rows < 0)
        bh_strbuf_addf(v->out, "table %s (%s): rows not known\n", table, list);
    else if (!v->json)
        bh_strbuf_addf(v->out, "table %s (%s): %" PRId64 " rows\n", table, list, rows);
    if (!v->json)
        return 0;
    bh_strbuf_addf(v->out, "%s\n  {\"name\": ", before);
    bh_strbuf_add_json(v->out, table);
    bh_strbuf_addf(v->out, ", \"columns\": [%s], \"rows\": ", list);
    if (rows < 0)
        bh_strbuf_addf(v->out, "null}");
    else
        bh_strbuf_addf(v->out, "%" PRId64 "}", rows);
    return 0;
}

static int add_tables(const struct view *v, struct bh_error *err)
{
    STMT st = NULL;
    const char *before = "";
    int rc = prepare(v,
                     "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE "
                     "'sqlite\\_%' ESCAPE '\\' ORDER BY name",
                     NULL, &st, err);
    int step = SQLITE_DONE;
    while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW) {
        rc = bh_call_check(&(struct bh_call){.cancel = &interrupted}, "inspect", err);
        if (!rc)
            rc = add_table(v, (const char *)sqlite3_column_text(st, 0), before, err);
        before = ",";
    }
    return rc || step == SQLITE_DONE ? rc : sql_failed(v, err);
}

static void add_head(const struct view *v, const struct bh_offline_snapshot *s, int64_t page_size)
{
    char when[32];
    const char *form = v->json ? "{\"snapshot\": \"%s\", \"branch\": \"%s\", \"time\": \"%s\", "
                                 "\"bytes\": %" PRIu64 ", \"page_size\": %" PRId64
                                 ", \"pages\": %" PRId64 ",\n \"tables\": ["
                               : "snapshot: %s\nbranch: %s\ntime: %s\nbytes: %" PRIu64
                                 "\npage_size: %" PRId64 "\npages: %" PRId64 "\n";
    int64_t pages = page_size ? (int64_t)s->size / page_size : 0;
    const char *none = v->json ? "" : "of another program";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    bh_strbuf_addf(v->out, form, s->id[0] ? s->id : none, s->branch,
                   bh_format_time(s->time_ms, when, sizeof when), s->size, page_size, pages);
#pragma GCC diagnostic pop
}

static int inspect(const struct inspect *c, struct bh_offline *o, struct bh_error *err)
{
    const struct bh_offline_snapshot *s = bh_offline_snapshot(o);
    BH_STRBUF out = {0};
    struct view v = {.o = o, .json = c->json, .out = &out};
    int64_t page_size = 0;
    int rc = 0;
    if (s->size == 0) { /* nothing was written yet */
        add_head(&v, s, 0);
    } else {
        rc = bh_offline_connect(o, &v.db, err);
        if (rc)
            return rc;
        rc = get_number(&v, "PRAGMA page_size", &page_size, err);
        add_head(&v, s, page_size);
        if (!rc)
            rc = add_tables(&v, err);
        sqlite3_close(v.db);
    }
    if (c->json)
        bh_strbuf_addf(&out, "\n ]}\n");
    if (!rc && out.failed)
        rc = bh_fail(err, ENOMEM, "out of memory");
    if (!rc || !c->json) /* what was found before the damage; half an object is none */
        fputs(out.data ? out.data : "", stdout);
    return rc;
}

int command_inspect(int argc, char **argv)
{
    struct inspect c = {0};
    struct bh_error err = {0};
    int rc = parse(&c, argc, argv, &err);
    const char *url = take_url(&c);
    if (rc || c.o.help || c.word_count > 1 || c.force || c.no_check) {
        fprintf(stderr,
                "%s%s%susage: bhfs inspect [-c FILE] [-o SETTING] [--json] [--branch NAME] "
                "[BUCKET-URL] [SNAPSHOT]\n",
                rc ? "bhfs: " : "", rc ? err.text : "", rc ? "\n" : "");
        options_free(&c.o);
        return 2;
    }
    rc = with_snapshot(&c, url, c.word_count ? c.words[0] : NULL, inspect, &err);
    if (rc)
        fprintf(stderr, "bhfs: %s\n", err.text);
    options_free(&c.o);
    return rc ? 1 : 0;
}

/* --- export --- */

static int export(const struct inspect *c, struct bh_offline *o, struct bh_error *err)
{
    return bh_offline_export(o, c->words[c->word_count - 1], c->force, !c->no_check, err);
}

/* A mounted bhfs: its root has the control files. */
static bool is_mount(const char *path)
{
    BH_FREE char *status = NULL;
    if (asprintf(&status, "%s/.ctl/status", path) < 0) {
        status = NULL;
        return false;
    }
    return access(status, F_OK) == 0 || errno == ENOTCONN;
}

static bool is_snapshot_name(const char *word)
{
    return bh_is_snapshot_id(word) || bh_is_label(word);
}

/* What the first of two words is, without a URL: 0, or EINVAL where it may be both. */
static int tell_apart(const char *word, bool *mount, struct bh_error *err)
{
    bool there = access(word, F_OK) == 0 || errno == ENOTCONN;
    *mount = !is_snapshot_name(word) || is_mount(word);
    if (!*mount && there)
        return bh_fail(err, EINVAL,
                       "%s is there and no mounted bhfs, and may be a snapshot's label as well: "
                       "write ./%s for the one, or the bucket's URL before it for the other",
                       word, word);
    return 0;
}

static int export_usage(int rc, const struct bh_error *err)
{
    fprintf(stderr,
            "%s%s%susage: bhfs export MOUNTPOINT FILE\n"
            "       bhfs export [-c FILE] [-o SETTING] [--branch NAME] [--force] [--no-check] "
            "[BUCKET-URL] [SNAPSHOT] FILE\n",
            rc ? "bhfs: " : "", rc ? err->text : "", rc ? "\n" : "");
    return 2;
}

int command_export(int argc, char **argv)
{
    struct inspect c = {0};
    struct bh_error err = {0};
    bool mount = false;
    int rc = parse(&c, argc, argv, &err);
    const char *url = rc ? NULL : take_url(&c);
    bool ours = url || c.branch || c.force || c.no_check || c.o.config_file || c.o.setting_count;
    if (rc || c.o.help || c.json || c.word_count < 1 || c.word_count > 2) {
        options_free(&c.o);
        return export_usage(rc, &err);
    }
    if (c.word_count == 2 && !url)
        rc = tell_apart(c.words[0], &mount, &err);
    if (!rc && c.word_count == 1 && !ours) { /* of the configured bucket: its name says nothing */
        options_free(&c.o);
        return export_usage(0, NULL);
    }
    if (!rc && mount) {
        options_free(&c.o);
        return ours ? export_usage(0, NULL) : export_mount(c.words[0], c.words[1]);
    }
    if (!rc)
        rc = with_snapshot(&c, url, c.word_count == 2 ? c.words[0] : NULL, export, &err);
    if (rc)
        fprintf(stderr, "bhfs: %s\n", err.text);
    options_free(&c.o);
    return rc ? 1 : 0;
}
