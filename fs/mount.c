/* The mount: its start and its end. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "daemon.h"
#include "hooks.h"
#include "options.h"
#include "serve.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

static const char usage[] =
    "usage: bhfs [options] [BUCKET-URL] MOUNTPOINT     mount\n"
    "       bhfs umount [--force] MOUNTPOINT           last flush, unmount, wait for the end\n"
    "       bhfs flush [-v] MOUNTPOINT                 put everything committed into the bucket\n"
    "       bhfs status [MOUNTPOINT]                   how it is\n"
    "       bhfs status --probe [BUCKET-URL]           what a bucket answers, can do and holds\n"
    "       bhfs import FILE MOUNTPOINT                replace the live database's content\n"
    "       bhfs export MOUNTPOINT FILE                a consistent copy of the live database\n"
    "       bhfs export [BUCKET-URL] [SNAPSHOT] FILE   any snapshot as a plain file, without a "
    "mount\n"
    "       bhfs inspect [BUCKET-URL] [SNAPSHOT]       its tables and row counts, without a mount\n"
    "\n"
    "  BUCKET-URL   file:///DIRECTORY, s3://BUCKET/PREFIX?endpoint=...&region=..., or as "
    "configured\n"
    "  -c FILE      configuration (else $BUCKETHEAD_CONFIG, ~/.config/buckethead/buckethead.ini,\n"
    "               /etc/buckethead.ini)\n"
    "  -o SECTION.KEY=VALUE   a setting of the configuration, as in -o snapshot.interval=5s\n"
    "  -o ro,follow[=1s]      read-only, and always the newest snapshot of a branch that another "
    "mount writes\n"
    "  -o OPTION    FUSE's own: ro, allow_other, default_permissions, fsname=..., ...\n"
    "  -f           stay in the foreground      -d   the same, with FUSE's debug output\n"
    "  -s           single-threaded (it is)     -h   this text      -V   version\n";

/* --- flush callbacks --- */

static void run_hook(struct daemon *d, char *const *field, const char *const variables[],
                     size_t count_)
{
    BH_FREE char *command = bh_config_string(d->bh, field);
    if (command)
        hook_run(command, variables, count_);
}

static void on_start(void *arg)
{
    struct daemon *d = arg;
    run_hook(d, &bh_config_of(d->bh)->hooks.on_flush_start, NULL, 0);
}

static void on_complete(void *arg, double seconds, uint64_t bytes)
{
    struct daemon *d = arg;
    char s[64], b[64];
    const char *const variables[] = {s, b};
    snprintf(s, sizeof s, "BHFS_SECONDS=%.3f", seconds);
    snprintf(b, sizeof b, "BHFS_BYTES=%llu", (unsigned long long)bytes);
    run_hook(d, &bh_config_of(d->bh)->hooks.on_flush_complete, variables, 2);
    ctl_event();
}

static void on_error(void *arg, const struct bh_error *err)
{
    struct daemon *d = arg;
    char text[BH_ERROR_TEXT_MAX + 32];
    const char *const variables[] = {text};
    snprintf(text, sizeof text, "BHFS_ERROR=%s", err->text);
    run_hook(d, &bh_config_of(d->bh)->hooks.on_flush_error, variables, 1);
    ctl_event();
}

static void on_follow(void *arg)
{
    (void)arg;
    ctl_event();
}

static void on_log(void *arg)
{
    (void)arg;
    ctl_event();
}

/* --- starting --- */

/* Whether a path is on a bhfs that is mounted now: a mount there would hide one that goes on. */
static bool is_on_bhfs(const struct stat *st)
{
    BH_FILE FILE *f = fopen("/proc/self/mountinfo", "re");
    BH_FREE char *line = NULL;
    size_t cap = 0;
    unsigned major_, minor_;
    while (f && getline(&line, &cap, f) > 0)
        if (strstr(line, " - fuse.bhfs ") && sscanf(line, "%*d %*d %u:%u", &major_, &minor_) == 2 &&
            makedev(major_, minor_) == st->st_dev)
            return true;
    return false;
}

static int check_mountpoint(const char *given, char **absolute, struct bh_error *err)
{
    struct stat st;
    struct statvfs fs;
    if (!given[0])
        return bh_fail(err, EINVAL, "no mount point was given; see bhfs --help");
    int rc = stat(given, &st) == 0 ? 0 : errno;
    if (rc == ENOENT)
        return bh_fail(err, ENOENT, "the mount point %s does not exist: make it (mkdir %s)", given,
                       given);
    /* stat may be answered from the kernel's cache although the daemon behind it is dead */
    if (rc == 0 && statvfs(given, &fs) != 0)
        rc = errno;
    if (rc)
        return bh_fail(err, rc,
                       rc == ENOTCONN ? "%s is a mount whose daemon died (%s); run: umount %s"
                                      : "the mount point %s cannot be used: %s",
                       given, strerror(rc), given);
    if (!S_ISDIR(st.st_mode))
        return bh_fail(err, ENOTDIR, "the mount point %s is not a directory", given);
    if (is_on_bhfs(&st))
        return bh_fail(err, EBUSY, "%s is a mounted bhfs already, or lies in one", given);
    *absolute = realpath(given, NULL);
    return *absolute ? 0
                     : bh_fail(err, errno, "%s has no absolute path: %s", given, strerror(errno));
}

static int load_config(struct daemon *d, const struct options *o, struct bh_config **cfg,
                       struct bh_error *err)
{
    struct bh_config_request req = {.file = o->config_file,
                                    .url = o->url,
                                    .overrides = (const char *const *)o->settings,
                                    .override_count = o->setting_count,
                                    .use_environment = true};
    int rc = bh_config_load(cfg, &req, err);
    if (rc)
        return rc;
    if ((*cfg)->bucket.kind == BH_BUCKET_S3)
        prctl(PR_SET_DUMPABLE,
              0); /* no core file, and no look by another process, at credentials */
    d->display_url = bh_config_display_url(*cfg);
    return d->display_url ? 0 : bh_fail(err, ENOMEM, "out of memory");
}

/* A load from the bucket may take long: SIGTERM and SIGINT end it. */
struct watcher {
    int signals, done;
    atomic_bool cancel;
    pthread_t thread;
    bool runs;
};

static void *watch_start(void *arg)
{
    struct watcher *w = arg;
    struct pollfd fds[2] = {{.fd = w->done, .events = POLLIN},
                            {.fd = w->signals, .events = POLLIN}};
    struct signalfd_siginfo info;
    while (poll(fds, 2, -1) < 0 || !fds[0].revents)
        if (fds[1].revents && read(w->signals, &info, sizeof info) == sizeof info &&
            info.ssi_signo != SIGHUP)
            atomic_store(&w->cancel, true);
    return NULL;
}

static int start_watched(struct daemon *d, int signals, struct bh_error *err)
{
    struct watcher w = {.signals = signals, .done = eventfd(0, EFD_CLOEXEC)};
    w.runs = w.done >= 0 && pthread_create(&w.thread, NULL, watch_start, &w) == 0;
    bh_set_start_cancel(d->bh, &w.cancel);
    int rc = bh_start(d->bh, err);
    bh_set_start_cancel(d->bh, NULL);
    if (w.runs) {
        uint64_t one = 1;
        ssize_t n = write(w.done, &one, sizeof one);
        (void)n;
        pthread_join(w.thread, NULL);
    }
    if (w.done >= 0)
        close(w.done);
    if (rc == 0 && atomic_load(&w.cancel)) /* it came too late for the load, but it was said */
        rc = bh_fail(err, ECANCELED, "the mount was interrupted");
    return rc;
}

static int start_core(struct daemon *d, struct bh_config *cfg, int signals, struct bh_error *err)
{
    struct bh_callbacks callbacks = {.arg = d,
                                     .on_flush_start = on_start,
                                     .on_flush_complete = on_complete,
                                     .on_flush_error = on_error,
                                     .on_follow = on_follow};
    int rc = bh_create(&d->bh, cfg, err);
    if (rc)
        return rc;
    if (bh_set_mountpoint(d->bh, d->mountpoint))
        return bh_fail(err, ENOMEM, "out of memory");
    if (d->read_only)
        bh_set_read_only(d->bh);
    bh_set_callbacks(d->bh, &callbacks);
    rc = start_watched(d, signals, err);
    if (rc)
        return rc;
    d->live = bh_live_of(d->bh);
    d->store = d->live->store;
    d->locks = bh_store_locks(d->store);
    d->db = bh_store_db(d->store);
    d->memory = bh_disk_is_memory(bh_store_disk(d->store));
    return 0;
}

/* libfuse splits what follows -o at commas, except at escaped ones. */
static int add_fuse_option(struct fuse_args *args, const char *option)
{
    BH_STRBUF escaped = {0};
    for (const char *c = option; *c; c++) {
        if (*c == ',' || *c == '\\')
            bh_strbuf_add(&escaped, "\\", 1);
        bh_strbuf_add(&escaped, c, 1);
    }
    if (escaped.failed || !escaped.data)
        return ENOMEM;
    return fuse_opt_add_arg(args, "-o") || fuse_opt_add_arg(args, escaped.data) ? ENOMEM : 0;
}

static int mount_session(struct daemon *d, const struct options *o, struct bh_error *err)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    BH_STRBUF fsname = {0};
    bh_strbuf_addf(&fsname, "fsname=%s", d->display_url);
    int rc = fuse_opt_add_arg(&args, "bhfs") || fsname.failed ? ENOMEM : 0;
    if (rc == 0 && !o->has_fsname)
        rc = add_fuse_option(&args, fsname.data);
    if (rc == 0 && !o->has_subtype)
        rc = add_fuse_option(&args, "subtype=bhfs");
    if (rc == 0) /* the kernel checks modes and owners, as on any file system */
        rc = add_fuse_option(&args, "default_permissions");
    for (size_t i = 0; rc == 0 && i < o->fuse_count; i++)
        rc = add_fuse_option(&args, o->fuse[i]);
    if (rc == 0 && o->debug)
        rc = fuse_opt_add_arg(&args, "-d") ? ENOMEM : 0;
    if (rc == 0) {
        d->session = fuse_session_new(&args, &tree_ops, sizeof tree_ops, d);
        rc = d->session ? 0 : EINVAL;
    }
    fuse_opt_free_args(&args);
    if (rc)
        return bh_fail(
            err, rc,
            rc == EINVAL
                ? "FUSE does not know one of the -o options (see the line above); settings of bhfs "
                  "are written SECTION.KEY=VALUE"
                : "out of memory while mounting");
    if (fuse_session_mount(d->session, d->mountpoint) != 0)
        return bh_fail(
            err, EIO,
            "%s cannot be mounted (see the line above): is FUSE there (/dev/fuse), and may this "
            "user mount?",
            d->mountpoint);
    rc = protocol_extend(d->session);
    if (rc == 0)
        return 0;
    fuse_session_unmount(d->session);
    return bh_fail(err, rc, "%s cannot be served: %s", d->mountpoint, strerror(rc));
}

/* A look through the mount: only then is it said to work. */
static int check_mounted(struct daemon *d, struct bh_error *err)
{
    BH_FREE char *path = NULL;
    struct stat st;
    if (asprintf(&path, "%s/.ctl/status", d->mountpoint) < 0) {
        path = NULL;
        return bh_fail(err, ENOMEM, "out of memory");
    }
    return stat(path, &st) == 0 ? 0
                                : bh_fail(err, errno, "the new mount %s does not answer: %s",
                                          d->mountpoint, strerror(errno));
}

/* --- ending --- */

static void note_exit(struct daemon *d, int dirfd, int rc, const struct bh_error *err)
{
    BH_FD int fd = openat(dirfd, "last_exit", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || dprintf(fd, "%s\n", rc ? err->text : "ok") < 0)
        bh_log(BH_LOG_WARNING, "how %s ended cannot be noted: %s", d->mountpoint, strerror(errno));
}

/* Those who may wait for the bucket, a disk or a lock. */
static void end_waiting(struct daemon *d)
{
    workers_free(d->fetchers);
    workers_free(d->waiters);
    workers_free(d->file_workers);
    workers_free(d->file_fetchers);
    d->fetchers = d->waiters = d->file_workers = d->file_fetchers = NULL;
}

static void free_daemon(struct daemon *d)
{
    d->closing = true;
    end_waiting(d);
    bh_destroy(d->bh); /* which may still use what follows */
    workers_free(d->workers);
    follower_free(d->follower);
    if (d->session)
        fuse_session_destroy(d->session);
    notify_free(d->notify);
    walindex_free(d->walindex);
    free(d->mountpoint);
    free(d->display_url);
    pthread_mutex_destroy(&d->status_mutex);
    free(d);
}

static int finish(struct daemon *d, const struct bhfs_extension *ext)
{
    struct bh_error err;
    d->closing = true;
    fuse_session_unmount(d->session);
    if (ext && ext->stopping)
        ext->stopping();
    ctl_shutdown();
    bh_locks_cancel_all(d->locks, EINTR);
    bh_live_clients_gone(d->live);
    BH_FD int dir = dup(bh_disk_dirfd(bh_store_disk(d->store)));
    bh_stop_reads(d->bh, true); /* nobody wants them any more */
    end_waiting(d);
    bh_stop_reads(d->bh, false);
    bh_files_clients_gone(d->files);
    files_detach(d);
    workers_free(d->workers);
    d->workers = NULL;
    views_end();
    nodes_forget_all();
    int rc = bh_stop(d->bh, &err);
    note_exit(d, dir, rc, &err);
    bh_log_on_append(NULL, NULL);
    bh_log(BH_LOG_INFO, "ended");
    return rc;
}

/* --- main --- */

/* Requests that wait for the bucket at once; more wait for one of these. */
#define FETCHERS 16
/* Verbs that somebody waits for: the kernel lets one at a time into a directory. */
#define WAITERS 4
/* Of files/: what waits for a disk or a lock, and what waits for the bucket. */
#define FILE_WORKERS  16
#define FILE_FETCHERS 64

static int prepare(struct daemon *d, const struct options *o, int signals, struct bh_error *err)
{
    struct bh_config *cfg = NULL;
    pthread_mutex_init(&d->status_mutex, NULL);
    strcpy(d->last_status, "ok");
    d->root_mode = 0755;
    d->root_uid = d->uid = getuid();
    d->root_gid = d->gid = getgid();
    d->started_ms = bh_real_ms();
    d->next_handle = 1;
    d->read_only = o->read_only;
    int rc = load_config(d, o, &cfg, err); /* a command that there is not looks like a bucket */
    if (rc && !o->url && o->mountpoint[0] && !strchr(o->mountpoint, '/') &&
        access(o->mountpoint, F_OK) != 0)
        rc = bh_fail(err, ENOENT, "%s is neither a command nor a directory; see bhfs --help",
                     o->mountpoint); /* ... or like a mount point */
    if (rc == 0)
        rc = check_mountpoint(o->mountpoint, &d->mountpoint, err);
    if (rc) {
        bh_config_free(cfg);
        return rc;
    }
    rc = bh_log_setup(cfg->log.level, cfg->log.file, o->foreground, err);
    if (rc == 0)
        rc = follower_new(&d->follower, cfg->mount.cpu, err);
    if (rc == 0 &&
        ((rc = workers_new(&d->workers, (unsigned)cfg->mount.workers, d->follower)) != 0 ||
         (rc = workers_new(&d->fetchers, FETCHERS, NULL)) != 0 ||
         (rc = workers_new(&d->waiters, WAITERS, NULL)) != 0 ||
         (rc = workers_new(&d->file_workers, FILE_WORKERS, NULL)) != 0 ||
         (rc = workers_new(&d->file_fetchers, FILE_FETCHERS, NULL)) != 0))
        bh_fail(err, rc, "threads cannot be started: %s", strerror(rc));
    if (rc == 0 && ((rc = notify_new(&d->notify, d)) != 0 ||
                    (rc = walindex_new(&d->walindex, d->mountpoint)) != 0))
        bh_fail(err, rc, "out of memory");
    if (rc) {
        bh_config_free(cfg);
        return rc;
    }
    return start_core(d, cfg, signals, err);
}

static int start_serving(struct daemon *d, struct server *s, const struct options *o,
                         const struct bhfs_extension *ext, struct bh_error *err)
{
    int rc = mount_session(d, o, err);
    if (rc)
        return rc;
    struct bh_live_hooks hooks = notify_hooks(d->notify);
    bh_live_set_hooks(d->live, &hooks);
    files_attach(d);
    bh_log_on_append(on_log, NULL);
    rc = server_start(s, d, err);
    if (rc) { /* nobody would answer */
        fuse_session_unmount(d->session);
        return rc;
    }
    rc = check_mounted(d, err);
    if (rc == 0 && ext && ext->started && (rc = ext->started(d->bh)) != 0)
        bh_fail(err, rc, "the extension did not start: %s", strerror(rc));
    if (rc)
        server_end(s);
    return rc;
}

static void no_op(int sig)
{
    (void)sig;
}

static int block_signals(void)
{
    struct sigaction sa = {.sa_handler = no_op};
    sigset_t set;
    sigaction(SIGUSR1, &sa, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    sigdelset(&set, SIGPIPE);
    return signalfd(-1, &set, SFD_CLOEXEC);
}

/* ready: told the result of the start; -1 in the foreground. */
static int run(const struct options *o, const struct bhfs_extension *ext, int ready)
{
    struct bh_error err = {0};
    struct server server;
    struct daemon *d = calloc(1, sizeof *d);
    BH_FD int signals = block_signals();
    int rc = d && signals >= 0
                 ? 0
                 : bh_fail(&err, ENOMEM, "no signals can be taken: %s", strerror(errno));
    if (rc == 0)
        rc = prepare(d, o, signals, &err);
    if (rc == 0)
        rc = start_serving(d, &server, o, ext, &err);
    if (rc) {
        fprintf(stderr, "bhfs: %s\n", err.text);
        if (d)
            free_daemon(d);
        return 1;
    }
    struct bh_info info;
    bh_get_info(d->bh, &info);
    if (info.recovered[0] && !o->foreground)
        fprintf(stderr, "bhfs: %s\n", info.recovered);
    bh_log(BH_LOG_INFO, "mounted %s on %s", d->display_url, d->mountpoint);
    if (ready >= 0) {
        setsid(); /* not before: Ctrl-C must reach a long start */
        if (chdir("/") != 0)
            bh_log(BH_LOG_WARNING, "chdir to / failed: %s", strerror(errno));
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int i = 0; i < 3; i++)
            dup2(null, i);
        close(null);
        ssize_t n = write(ready, "", 1);
        (void)n;
        close(ready);
    }
    serve(&server, signals, o);
    rc = finish(d, ext);
    free_daemon(d);
    return rc ? 1 : 0;
}

/* The parent stays until the mount works, so that its caller sees the error or can go on with the
 * mount. */
static int run_in_background(const struct options *o, const struct bhfs_extension *ext)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) != 0) {
        perror("bhfs: pipe");
        return 1;
    }
    pid_t pid = fork();
    if (pid < 0) {
        perror("bhfs: fork");
        return 1;
    }
    if (pid == 0) {
        close(ready[0]);
        return run(o, ext, ready[1]);
    }
    close(ready[1]);
    char byte;
    ssize_t n;
    do
        n = read(ready[0], &byte, 1);
    while (n < 0 && errno == EINTR);
    return n == 1 ? 0 : 1;
}

int bhfs_mount_main(int argc, char **argv, const struct bhfs_extension *ext)
{
    struct options o;
    struct bh_error err;
    mallopt(M_MMAP_THRESHOLD, 256 << 10); /* what flushes and fetches have goes back at once */
    mallopt(M_ARENA_MAX, 1); /* one thread frees what another made: who needs memory finds it */
    if (options_parse(&o, argc, argv, &err)) {
        fprintf(stderr, "bhfs: %s\n", err.text);
        options_free(&o);
        return 2;
    }
    int rc = 0;
    if (o.help)
        fputs(usage, stdout);
    else if (o.version)
        printf("bhfs %s (FUSE library %s, SQLite %s)\n", BHFS_VERSION, fuse_pkgversion(),
               sqlite3_libversion());
    else
        rc = o.foreground ? run(&o, ext, -1) : run_in_background(&o, ext);
    options_free(&o);
    return rc;
}
