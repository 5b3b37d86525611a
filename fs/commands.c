/* bhfs umount|flush|status|import, and export of a mount: what a script or a person says to a
 * mount, through its control files. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "util/cleanup.h"
#include "util/io.h"

#define STATUS_MAX (1u << 16)
/* A df somewhere, or a process that is just ending, keeps a mount busy for an instant. */
#define BUSY_TRIES    10
#define BUSY_PAUSE_US 50000

/* --- a mount's control files --- */

static char *ctl_path(const char *mountpoint, const char *name)
{
    char *p = NULL;
    return asprintf(&p, "%s/.ctl/%s", mountpoint, name) < 0 ? NULL : p;
}

static int complain(const char *mountpoint, int code)
{
    if (code == ENOTCONN)
        fprintf(stderr,
                "bhfs: the daemon of %s died; run: umount %s, then mount again (unflushed changes "
                "are kept)\n",
                mountpoint, mountpoint);
    else if (code == ENOENT || code == ENOTDIR)
        fprintf(stderr, "bhfs: %s is not a mounted bhfs\n", mountpoint);
    else if (code == EACCES)
        fprintf(stderr, "bhfs: %s: %s: its commands are for the user who mounted it\n", mountpoint,
                strerror(code));
    else
        fprintf(stderr, "bhfs: %s: %s\n", mountpoint, strerror(code));
    return 1;
}

static int read_ctl(const char *mountpoint, const char *name, char **text)
{
    BH_FREE char *path = ctl_path(mountpoint, name);
    struct bh_error err;
    return path ? bh_read_small_file(AT_FDCWD, path, STATUS_MAX, text, NULL, &err) : ENOMEM;
}

/* The value of "name: value" in a status text, in a fresh string; NULL if it is not there. */
static char *field(const char *text, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, name, len) && line[len] == ':' && line[len + 1] == ' ')
            return strndup(line + len + 2, strcspn(line + len + 2, "\n"));
    return NULL;
}

/* --- progress: a line on the terminal that is written over, or lines where there is none --- */

struct progress {
    const char *mountpoint;
    bool lines;
    char shown[160]; /* what was said last */
    atomic_bool end;
    pthread_t thread;
    bool runs;
};

static void describe(const char *status, char *out, size_t size)
{
    static const char *const names[] = {"flush_under_way", "flush_files_done", "flush_files_total",
                                        "flush_bytes_done", "flush_bytes_total"};
    char *v[5];
    out[0] = '\0';
    for (int i = 0; i < 5; i++)
        v[i] = field(status, names[i]);
    if (v[0] && strcmp(v[0], "none") != 0)
        snprintf(out, size, "flush: %s", v[0]);
    size_t used = strlen(out);
    double bytes = used && v[4] ? strtod(v[4], NULL) : 0, unit = bytes < 1e6 ? 1e3 : 1e6;
    if (used && v[1] && v[2])
        used += (size_t)snprintf(out + used, size - used, ": %s of %s", v[1], v[2]);
    if (bytes > 0 && v[3])
        snprintf(out + used, size - used, "%s %.1f of %.1f %s", v[2] ? "," : ":",
                 strtod(v[3], NULL) / unit, bytes / unit, bytes < 1e6 ? "kB" : "MB");
    for (int i = 0; i < 5; i++)
        free(v[i]);
}

static void show_progress(struct progress *p)
{
    BH_FREE char *status = NULL;
    char now[sizeof p->shown];
    if (read_ctl(p->mountpoint, "status", &status))
        return;
    describe(status, now, sizeof now);
    if (!now[0] || !strcmp(now, p->shown))
        return;
    fprintf(stderr, p->lines ? "%s\n" : "\r\033[K%s", now);
    memcpy(p->shown, now, sizeof now);
}

static void *progress_main(void *arg)
{
    struct progress *p = arg;
    while (!p->end) {
        usleep(200000);
        if (!p->end)
            show_progress(p);
    }
    if (p->shown[0] && !p->lines)
        fprintf(stderr, "\r\033[K");
    return NULL;
}

/* verbose: also where there is no terminal. */
static void progress_begin(struct progress *p, const char *mountpoint, bool verbose)
{
    bool terminal = isatty(STDERR_FILENO);
    *p = (struct progress){.mountpoint = mountpoint, .lines = !terminal};
    p->runs = (terminal || verbose) && pthread_create(&p->thread, NULL, progress_main, p) == 0;
}

static void progress_end(struct progress *p)
{
    p->end = true;
    if (p->runs)
        pthread_join(p->thread, NULL);
}

/* --- one command --- */

/* Writes arg to a control file, with progress. On failure prints the daemon's sentence. */
static int command(const char *mountpoint, const char *name, const char *arg, bool verbose)
{
    BH_FREE char *path = ctl_path(mountpoint, name);
    struct progress p;
    char reason[BH_ERROR_TEXT_MAX] = "";
    if (!path)
        return complain(mountpoint, ENOMEM);
    BH_FD int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        complain(mountpoint, errno);
        return 2;
    }
    progress_begin(&p, mountpoint, verbose);
    ssize_t n = write(fd, arg, strlen(arg));
    int code = n < 0 ? errno : 0;
    progress_end(&p);
    if (code == 0)
        return 0;
    ssize_t got = pread(fd, reason, sizeof reason - 1, 0);
    reason[got > 0 ? got : 0] = '\0';
    reason[strcspn(reason, "\n")] = '\0';
    fprintf(stderr, "bhfs: %s\n", reason[0] ? reason : strerror(code));
    return 1;
}

static int usage_error(const char *text)
{
    fprintf(stderr, "usage: bhfs %s\n", text);
    return 2;
}

int command_flush(int argc, char **argv)
{
    bool verbose = argc > 1 && !strcmp(argv[1], "-v");
    if (argc != 2 + verbose || argv[1 + verbose][0] == '-')
        return usage_error("flush [-v] MOUNTPOINT");
    return command(argv[1 + verbose], "force_flush", "flush\n", verbose) ? 1 : 0;
}

int command_import(int argc, char **argv)
{
    if (argc != 3)
        return usage_error("import FILE MOUNTPOINT");
    BH_FREE char *path = realpath(argv[1], NULL);
    if (!path) {
        fprintf(stderr, "bhfs: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    return command(argv[2], "import", path, false) ? 1 : 0;
}

int export_mount(const char *mountpoint, const char *dest)
{
    BH_FREE char *live = NULL;
    struct bh_error err;
    struct stat st;
    if (asprintf(&live, "%s/" BH_DB_NAME, mountpoint) < 0) {
        live = NULL;
        return complain(mountpoint, ENOMEM);
    }
    struct statvfs fs; /* asks the daemon, where stat may be answered from the kernel's cache */
    if (statvfs(mountpoint, &fs) != 0 || stat(live, &st) != 0)
        return complain(mountpoint, errno);
    if (st.st_size == 0) {
        fprintf(stderr, "bhfs: %s is empty: there is nothing to export yet\n", live);
        return 1;
    }
    BH_FD int made = open(dest, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (made < 0 && errno == EEXIST)
        fprintf(stderr, "bhfs: %s exists already; remove it or name another file\n", dest);
    else if (made < 0)
        fprintf(stderr, "bhfs: %s cannot be made: %s\n", dest, strerror(errno));
    if (made < 0)
        return 1;
    if (bh_database_copy(live, dest, &err)) {
        fprintf(stderr, "bhfs: %s\n", err.text);
        unlink(dest);
        return 1;
    }
    BH_FD int fd = open(dest, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) {
        fprintf(stderr, "bhfs: %s cannot be synced: %s\n", dest, strerror(errno));
        return 1;
    }
    return 0;
}

/* --- status --- */

static int print_status(const char *mountpoint)
{
    BH_FREE char *text = NULL;
    int rc = read_ctl(mountpoint, "status", &text);
    if (rc)
        return complain(mountpoint, rc);
    fputs(text, stdout);
    return 0;
}

/* The kernel writes blanks and the like in mountinfo as \ooo. */
static void unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && strspn(s + 1, "01234567") >= 3) {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

static int print_all(void)
{
    BH_FILE FILE *f = fopen("/proc/self/mountinfo", "re");
    BH_FREE char *line = NULL;
    size_t cap = 0;
    int rc = 0, found = 0;
    while (f && getline(&line, &cap, f) > 0) {
        char *path = line, *save = NULL;
        if (!strstr(line, " - fuse.bhfs "))
            continue;
        for (int i = 0; i < 5; i++)
            path = strtok_r(i ? NULL : line, " ", &save);
        if (!path)
            continue;
        unescape(path);
        if (found++)
            putchar('\n');
        rc |= print_status(path);
    }
    if (!found)
        puts("no bhfs is mounted");
    return rc;
}

int command_status(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--probe"))
        return command_probe(argc - 1, argv + 1);
    if (argc > 2 || (argc == 2 && argv[1][0] == '-'))
        return usage_error("status [MOUNTPOINT], or: bhfs status --probe [BUCKET-URL]");
    return argc == 2 ? print_status(argv[1]) : print_all();
}

/* --- umount --- */

static int unmount(const char *mountpoint)
{
    if (geteuid() == 0) {
        int rc = umount2(mountpoint, UMOUNT_NOFOLLOW);
        for (int i = 0; rc != 0 && errno == EBUSY && i < BUSY_TRIES; i++) {
            usleep(BUSY_PAUSE_US);
            rc = umount2(mountpoint, UMOUNT_NOFOLLOW);
        }
        if (rc == 0)
            return 0;
        if (errno == EBUSY)
            fprintf(
                stderr,
                "bhfs: %s is in use: close its files (fuser -vm %s shows by whom) and try again\n",
                mountpoint, mountpoint);
        else
            fprintf(stderr, "bhfs: %s cannot be unmounted: %s\n", mountpoint, strerror(errno));
        return 1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        execlp("fusermount3", "fusermount3", "-u", "--", mountpoint, (char *)NULL);
        perror("bhfs: fusermount3");
        _exit(127);
    }
    int status;
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 1;
}

static void wait_for_end(pid_t pid)
{
    BH_FD int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (fd >= 0)
        while (poll(&p, 1, -1) < 0 && errno == EINTR)
            ;
}

static int report_end(const char *state_dir)
{
    BH_FREE char *path = NULL;
    BH_FREE char *text = NULL;
    struct bh_error err;
    if (asprintf(&path, "%s/last_exit", state_dir) < 0) {
        path = NULL;
        return complain(state_dir, ENOMEM);
    }
    if (bh_read_small_file(AT_FDCWD, path, STATUS_MAX, &text, NULL, &err)) {
        fprintf(stderr, "bhfs: how the mount ended is not known: %s\n", err.text);
        return 1;
    }
    if (!strcmp(text, "ok\n"))
        return 0;
    fprintf(stderr,
            "bhfs: the last flush failed: %sbhfs: unflushed changes stay in %s and go on with the "
            "next mount\n",
            text, state_dir);
    return 1;
}

int command_umount(int argc, char **argv)
{
    bool force = argc == 3 && !strcmp(argv[1], "--force");
    BH_FREE char *status = NULL;
    if (argc != 2 + force)
        return usage_error("umount [--force] MOUNTPOINT");
    BH_FREE char *mountpoint = realpath(argv[1 + force], NULL);
    if (!mountpoint)
        return complain(argv[1 + force], errno);
    int rc = read_ctl(mountpoint, "status", &status);
    if (rc)
        return complain(mountpoint, rc);
    BH_FREE char *pid = field(status, "pid");
    BH_FREE char *state_dir = field(status, "state_dir");
    BH_FREE char *state = field(status, "state");
    if (!pid || !state_dir || !state)
        return complain(mountpoint, EPROTO);
    /* The flush comes first: while it is mounted, its failure can still be mended. With --force the
     * daemon's own last one, bounded by snapshot.stop_timeout, is enough. */
    rc = force || strcmp(state, "mounted") ? 0
                                           : command(mountpoint, "force_flush", "flush\n", false);
    if (rc) {
        if (rc == 1)
            fprintf(
                stderr,
                "bhfs: %s stays mounted; bhfs umount --force leaves its unflushed changes in %s\n",
                mountpoint, state_dir);
        return 1;
    }
    rc = unmount(mountpoint);
    if (rc)
        return rc;
    wait_for_end((pid_t)atoi(pid));
    return report_end(state_dir);
}
