#include "live/statedir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"
#include "util/log.h"
#include "util/strbuf.h"

#define STATE_NAME    "state"
#define LOCK_NAME     "lock"
#define FORMAT        1
#define STATE_MAX_LEN 65536

/* --- where --- */

static char *format_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *format_path(const char *fmt, ...)
{
    char *p = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&p, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : p;
}

static int default_path(const struct bh_config *cfg, char **path, struct bh_error *err)
{
    BH_FREE char *identity = bh_config_identity(cfg);
    char hex[BH_SHA256_HEX];
    if (!identity || bh_sha256_hex_of(identity, strlen(identity), hex))
        return bh_fail(err, ENOMEM, "out of memory while finding the state directory");
    hex[16] = '\0';
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (!strcmp(cfg->live.dir, "memory"))
        *path = format_path("/dev/shm/bhfs-%u-%s", (unsigned)geteuid(), hex);
    else if (xdg && xdg[0] == '/')
        *path = format_path("%s/bhfs/%s", xdg, hex);
    else if (geteuid() == 0)
        *path = format_path("/var/lib/bhfs/%s", hex);
    else if (home && home[0] == '/')
        *path = format_path("%s/.local/state/bhfs/%s", home, hex);
    else
        return bh_fail(err, EINVAL,
                       "no place for the state directory is known: HOME is not set; set live.dir");
    return *path ? 0 : bh_fail(err, ENOMEM, "out of memory while finding the state directory");
}

/* The directory holds a person's only copy of unflushed data: nobody else may have made it, or may
 * write to it. */
static int check_owner(const char *path, struct bh_error *err)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return bh_fail(err, errno, "the state directory %s cannot be examined: %s", path,
                       strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return bh_fail(err, ENOTDIR, "the state directory %s is not a directory; set live.dir",
                       path);
    if (st.st_uid != geteuid() || (st.st_mode & 022))
        return bh_fail(
            err, EACCES,
            "the state directory %s belongs to user %u with mode %04o; it must be yours and "
            "writable by nobody else (chmod 700), or set live.dir to another one",
            path, (unsigned)st.st_uid, (unsigned)(st.st_mode & 07777));
    return 0;
}

/* How long a start waits for a process that was just killed, and for one that is doing its last
 * flush. */
#define DYING_MS   1500
#define CLOSING_MS 60000
#define CLOSING    "closing"

static int write_lock_text(struct bh_statedir *sd, const char *more, struct bh_error *err)
{
    char text[64];
    int n = snprintf(text, sizeof text, "%d\n%s", (int)getpid(), more);
    int rc =
        ftruncate(sd->lock_fd, 0) != 0 ? errno : bh_pwrite_full(sd->lock_fd, text, (size_t)n, 0);
    if (rc)
        return bh_fail(err, rc, "%s/" LOCK_NAME " cannot be written: %s", sd->path, strerror(rc));
    return 0;
}

static int take_lock(struct bh_statedir *sd, struct bh_error *err)
{
    BH_FREE char *path = format_path("%s/" LOCK_NAME, sd->path);
    if (!path)
        return bh_fail(err, ENOMEM, "out of memory");
    sd->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (sd->lock_fd < 0)
        return bh_fail(err, errno, "%s/" LOCK_NAME " cannot be opened: %s", sd->path,
                       strerror(errno));
    int64_t begin = bh_mono_ms();
    while (flock(sd->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        char text[64] = "";
        int code = errno;
        if (code != EWOULDBLOCK)
            return bh_fail(err, code, "%s/" LOCK_NAME " cannot be locked: %s", sd->path,
                           strerror(code));
        (void)bh_pread_full(sd->lock_fd, text, sizeof text - 1, 0, NULL);
        bool closing = strstr(text, CLOSING) != NULL;
        if (bh_mono_ms() - begin > (closing ? CLOSING_MS : DYING_MS))
            return bh_fail(err, EBUSY,
                           closing ? "the state directory %s is in use by process %d, which is "
                                     "still doing its last "
                                     "flush; wait for its end and try again"
                                   : "the state directory %s is in use by process %d; unmount that "
                                     "mount first, or use "
                                     "another live.dir",
                           sd->path, atoi(text));
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return write_lock_text(sd, "", err);
}

void bh_statedir_closing(struct bh_statedir *sd)
{
    struct bh_error err;
    if (write_lock_text(sd, CLOSING "\n", &err))
        bh_log(BH_LOG_WARNING, "%s", err.text);
}

/* --- the state file: "name value" lines, in any order, each known name once --- */

enum field_type { FIELD_STRING, FIELD_ALLOCATED, FIELD_U64, FIELD_U32, FIELD_I64 };

#define FIELDS_REQUIRED 16

static const struct field {
    const char *name;
    enum field_type type;
    size_t offset, size;
} fields[] = {
#define FIELD(type, member)                                                                        \
    {                                                                                              \
#member, type, offsetof(struct bh_state, member), sizeof(((struct bh_state *)0)->member)   \
    }
    FIELD(FIELD_ALLOCATED, identity),
    FIELD(FIELD_ALLOCATED, mountpoint),
    FIELD(FIELD_U64, generation),
    FIELD(FIELD_STRING, base_etag),
    FIELD(FIELD_STRING, base_snapshot),
    FIELD(FIELD_STRING, base_sha256),
    FIELD(FIELD_STRING, base_wal),
    FIELD(FIELD_U64, base_size),
    FIELD(FIELD_I64, base_time_ms),
    FIELD(FIELD_STRING, pending_snapshot),
    FIELD(FIELD_STRING, pending_sha256),
    FIELD(FIELD_U64, pending_size),
    FIELD(FIELD_U32, max_counter),
    FIELD(FIELD_U32, max_cookie),
    FIELD(FIELD_STRING, damaged_etag),
    FIELD(FIELD_STRING, older_pending),
    /* Not in a file of an earlier version. */
    FIELD(FIELD_STRING, branch),
    FIELD(FIELD_STRING, writer),
    FIELD(FIELD_U64, epoch),
    FIELD(FIELD_STRING, base_root),
    FIELD(FIELD_U32, base_depth),
    FIELD(FIELD_U32, block_size),
    FIELD(FIELD_STRING, restored),
    FIELD(FIELD_STRING, plain_snapshot),
    FIELD(FIELD_STRING, plain_also),
    FIELD(FIELD_STRING, boot),
    FIELD(FIELD_U32, stepped),
    FIELD(FIELD_U64, names_generation),
    FIELD(FIELD_STRING, names_root),
    FIELD(FIELD_U32, names_depth),
    FIELD(FIELD_U64, names_size),
#undef FIELD
};

_Static_assert(sizeof fields / sizeof *fields <= 32, "a bit each in `seen`");

/* A mount point's name may hold a newline: "\n" and "\\" in the file. */
static void print_text(const char *name, const char *text, struct bh_strbuf *out)
{
    bh_strbuf_addf(out, "%s ", name);
    for (const char *c = text; *c; c++) {
        if (*c == '\n' || *c == '\\')
            bh_strbuf_addf(out, "\\%c", *c == '\n' ? 'n' : '\\');
        else
            bh_strbuf_add(out, c, 1);
    }
    bh_strbuf_add(out, "\n", 1);
}

static void unescape(char *text)
{
    char *to = text;
    for (const char *c = text; *c; c++)
        *to++ = *c != '\\' || !c[1] ? *c : *++c == 'n' ? '\n' : *c;
    *to = '\0';
}

static void print_field(const struct field *f, const struct bh_state *st, struct bh_strbuf *out)
{
    const char *at = (const char *)st + f->offset;
    switch (f->type) {
    case FIELD_STRING:
        print_text(f->name, at, out);
        break;
    case FIELD_ALLOCATED: {
        const char *text = *(char *const *)(const void *)at;
        print_text(f->name, text ? text : "", out);
        break;
    }
    case FIELD_U64:
        bh_strbuf_addf(out, "%s %" PRIu64 "\n", f->name, *(const uint64_t *)(const void *)at);
        break;
    case FIELD_U32:
        bh_strbuf_addf(out, "%s %" PRIu32 "\n", f->name, *(const uint32_t *)(const void *)at);
        break;
    case FIELD_I64:
        bh_strbuf_addf(out, "%s %" PRId64 "\n", f->name, *(const int64_t *)(const void *)at);
        break;
    }
}

static bool parse_field(const struct field *f, struct bh_state *st, char *value)
{
    char *at = (char *)st + f->offset, *end;
    errno = 0;
    unescape(value);
    if (f->type == FIELD_STRING) {
        if (strlen(value) >= f->size)
            return false;
        strcpy(at, value);
        return true;
    }
    if (f->type == FIELD_ALLOCATED) {
        char **p = (char **)(void *)at;
        free(*p);
        return (*p = strdup(value)) != NULL;
    }
    unsigned long long n = strtoull(value, &end, 10);
    if (errno || end == value || *end || *value == '-' ||
        (f->type == FIELD_U32 && n > UINT32_MAX) || (f->type == FIELD_I64 && n > INT64_MAX))
        return false;
    if (f->type == FIELD_U32)
        *(uint32_t *)(void *)at = (uint32_t)n;
    else
        *(uint64_t *)(void *)at = n;
    return true;
}

static bool parse_line(struct bh_state *st, char *line, unsigned *seen)
{
    char *space = strchr(line, ' ');
    size_t len = space ? (size_t)(space - line) : 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (len == strlen(fields[i].name) && !strncmp(line, fields[i].name, len)) {
            if (*seen & 1u << i)
                return false;
            *seen |= 1u << i;
            return parse_field(&fields[i], st, space + 1);
        }
    return false;
}

static int load_state(struct bh_statedir *sd, struct bh_error *err)
{
    BH_FREE char *text = NULL;
    struct bh_error why;
    int rc =
        bh_read_small_file(bh_disk_dirfd(sd->disk), STATE_NAME, STATE_MAX_LEN, &text, NULL, &why);
    if (rc == ENOENT)
        return 0; /* new */
    if (rc)
        return bh_fail(err, rc, "in the state directory %s: %s", sd->path, why.text);
    unsigned seen = 0;
    int version = 0;
    bool ok = sscanf(text, "bhfs-state %d\n", &version) == 1;
    if (ok && version != FORMAT)
        return bh_fail(
            err, EPROTO,
            "%s/" STATE_NAME
            " has format %d, this program knows %d; use the version of bhfs that wrote it",
            sd->path, version, FORMAT);
    char *save = NULL;
    char *line = ok ? strtok_r(text, "\n", &save) : NULL;
    while (ok && (line = strtok_r(NULL, "\n", &save)))
        ok = parse_line(&sd->state, line, &seen);
    unsigned required = (1u << FIELDS_REQUIRED) - 1;
    if (!ok || (seen & required) != required)
        return bh_fail(
            err, EIO,
            "%s/" STATE_NAME
            " is damaged; the database file beside it (db.N) may hold unflushed changes: "
            "copy the directory aside, then remove it to load from the bucket",
            sd->path);
    return 0;
}

int bh_statedir_save(struct bh_statedir *sd, struct bh_error *err)
{
    BH_STRBUF text = {0};
    bh_strbuf_addf(&text, "bhfs-state %d\n", FORMAT);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        print_field(&fields[i], &sd->state, &text);
    int rc = text.failed ? ENOMEM : bh_disk_replace(sd->disk, STATE_NAME, text.data, text.len);
    return rc ? bh_fail(err, rc, "%s/" STATE_NAME " cannot be written: %s", sd->path, strerror(rc))
              : 0;
}

static int check_identity(struct bh_statedir *sd, const struct bh_config *cfg, struct bh_error *err)
{
    BH_FREE char *identity = bh_config_identity(cfg);
    if (!identity)
        return bh_fail(err, ENOMEM, "out of memory while opening the state directory");
    if (sd->state.identity && strcmp(sd->state.identity, identity))
        return bh_fail(err, ESTALE,
                       "the state directory %s belongs to %.*s, not to %.*s; set live.dir to "
                       "another directory",
                       sd->path, (int)strlen(sd->state.identity) - 1, sd->state.identity,
                       (int)strlen(identity) - 1, identity); /* each ends with a line break */
    if (!sd->state.identity)
        sd->state.identity = bh_take_ptr(identity);
    if (!sd->state.mountpoint)
        sd->state.mountpoint = strdup("");
    return sd->state.mountpoint ? 0 : bh_fail(err, ENOMEM, "out of memory");
}

int bh_statedir_open(struct bh_statedir *sd, const struct bh_config *cfg, struct bh_error *err)
{
    *sd = (struct bh_statedir){.lock_fd = -1};
    int rc = 0;
    if (cfg->live.dir[0] && strcmp(cfg->live.dir, "memory")) {
        sd->path = strdup(cfg->live.dir);
        rc = sd->path ? 0 : bh_fail(err, ENOMEM, "out of memory");
    } else {
        rc = default_path(cfg, &sd->path, err);
    }
    if (rc == 0)
        rc = bh_mkdir_p(sd->path, 0700, err);
    if (rc == 0)
        rc = check_owner(sd->path, err);
    if (rc == 0)
        rc =
            bh_disk_open(&sd->disk, sd->path, cfg->live.powercut_dir, cfg->live.powercut_seed, err);
    if (rc == 0)
        rc = take_lock(sd, err);
    if (rc == 0)
        rc = load_state(sd, err);
    if (rc == 0)
        rc = check_identity(sd, cfg, err);
    if (rc)
        bh_statedir_close(sd);
    return rc;
}

int bh_statedir_open_disk(struct bh_statedir *sd, const struct bh_config *cfg, const char *name,
                          uint64_t salt, struct bh_disk **out, struct bh_error *err)
{
    const char *cut = cfg->live.powercut_dir;
    BH_FREE char *path = format_path("%s/%s", sd->path, name);
    BH_FREE char *mirror = cut[0] ? format_path("%s/%s", cut, name) : NULL;
    if (!path || (cut[0] && !mirror))
        return bh_fail(err, ENOMEM, "out of memory while opening %s/%s", sd->path, name);
    int rc = 0;
    if (mkdir(path, 0700) == 0)
        rc = bh_disk_sync_names(sd->disk);
    else if (errno != EEXIST)
        rc = errno;
    if (rc)
        return bh_fail(err, rc, "%s cannot be made: %s", path, strerror(rc));
    return bh_disk_open(out, path, mirror, cfg->live.powercut_seed + salt, err);
}

void bh_statedir_close(struct bh_statedir *sd)
{
    if (sd->lock_fd >= 0)
        close(sd->lock_fd);
    sd->lock_fd = -1;
    bh_disk_close(sd->disk);
    sd->disk = NULL;
    free(sd->path);
    free(sd->state.identity);
    free(sd->state.mountpoint);
    sd->path = sd->state.identity = sd->state.mountpoint = NULL;
}
