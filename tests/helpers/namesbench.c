/* How fast names are: namesbench DIR [COUNT]. DIR gets a names.db and its log (and loses them at
 * the end). Prints microseconds an operation, by the clock and of the CPU (without the checkpoints
 * beside it), and the longest one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/names.h"
#include "util/clock.h"

static char directory[300];
static struct bh_names *names;
static struct bh_error error;

static void check(int rc, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "namesbench: %s: %s: %s\n", what, strerror(rc), error.text);
    exit(1);
}

static int connect_names(void *arg, sqlite3 **db, struct bh_error *err)
{
    char path[320];
    snprintf(path, sizeof path, "%s/names.db", directory);
    return sqlite3_open(path, db) == SQLITE_OK ? 0 : bh_fail(err, EIO, "%s", sqlite3_errmsg(*db));
}

struct row {
    const char *what;
    int64_t began, longest, last, cpu;
    int count;
};

/* Of this thread: what an operation costs on a machine that others use, too. */
static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void begin(struct row *r, const char *what)
{
    *r = (struct row){.what = what, .began = bh_mono_ns()};
    r->last = r->began;
    r->cpu = cpu_ns();
}
static void tick(struct row *r)
{
    int64_t now = bh_mono_ns();
    if (now - r->last > r->longest)
        r->longest = now - r->last;
    r->last = now;
    r->count++;
}
static void end(const struct row *r)
{
    double us = (double)(bh_mono_ns() - r->began) / 1000, cpu = (double)(cpu_ns() - r->cpu) / 1000;
    printf("%-24s %8d  %8.2f us each, %8.2f of the CPU; longest %8.0f us\n", r->what, r->count,
           us / r->count, cpu / r->count, (double)r->longest / 1000);
}

static uint64_t dir_of(const uint64_t *dirs, int i, int in_one)
{
    return dirs[i / in_one];
}

static void run(int count, int in_one, const char *title)
{
    int n_dirs = (count + in_one - 1) / in_one;
    uint64_t *dirs = calloc((size_t)n_dirs, sizeof *dirs),
             *inos = calloc((size_t)count, sizeof *inos);
    struct bh_inode out, dir = {.mode = S_IFDIR | 0755}, file = {.mode = S_IFREG | 0644};
    struct bh_names_listing *l;
    char name[40], other[40];
    struct row r;
    if (!dirs || !inos)
        exit(1);
    printf("%s\n", title);
    for (int i = 0; i < n_dirs; i++) {
        snprintf(name, sizeof name, "dir-%d-%d", in_one, i);
        check(bh_names_make(names, BH_NAMES_ROOT, name, &dir, NULL, false, &out, true, &error),
              "mkdir");
        dirs[i] = out.ino;
    }
#define EACH(what, call)                                                                           \
    begin(&r, what);                                                                               \
    for (int i = 0; i < count; i++) {                                                              \
        snprintf(name, sizeof name, "file-%d.txt", i);                                             \
        check(call, what);                                                                         \
        tick(&r);                                                                                  \
    }                                                                                              \
    end(&r)
#define DIR dir_of(dirs, i, in_one)
    begin(&r, "make, set, lookup");
    for (int i = 0; i < count; i++) {
        struct bh_inode to = {.content = {.size = 10, .data = (uint64_t)i + 1}};
        snprintf(name, sizeof name, "file-%d.txt", i);
        check(bh_names_lookup(names, DIR, name, &out, true, &error) == ENOENT ? 0 : EIO, "absent");
        check(bh_names_make(names, DIR, name, &file, NULL, false, &out, true, &error), "make");
        inos[i] = out.ino;
        check(bh_names_set(names, out.ino, BH_SET_CONTENT | BH_SET_MTIME_NOW, &to, &out, true,
                           &error),
              "set");
        check(bh_names_lookup(names, DIR, name, &out, true, &error), "lookup");
        tick(&r);
    }
    end(&r);
    EACH("lookup", bh_names_lookup(names, DIR, name, &out, true, &error));
    EACH("get", bh_names_get(names, inos[i], &out, true, &error));
    begin(&r, "list (all directories)");
    for (int i = 0; i < n_dirs; i++) {
        check(bh_names_list(names, dirs[i], &l, true, &error), "list");
        free(l);
        tick(&r);
    }
    end(&r);
    EACH("rename", (snprintf(other, sizeof other, "new-%d", i),
                    bh_names_rename(names, DIR, name, DIR, other, 0, &out, NULL, true, &error)));
    begin(&r, "sync");
    check(bh_names_sync(names, &error), "sync");
    tick(&r);
    end(&r);
    begin(&r, "checkpoint");
    check(bh_names_checkpoint(names, &error), "checkpoint");
    tick(&r);
    end(&r);
    EACH("unlink", (snprintf(other, sizeof other, "new-%d", i),
                    bh_names_unlink(names, DIR, other, &out, true, &error)));
    free(dirs);
    free(inos);
}

int main(int argc, char **argv)
{
    struct bh_disk *disk;
    struct bh_names_stats s;
    int count = argc > 2 ? atoi(argv[2]) : 100000;
    if (argc < 2 || count < 1) {
        fprintf(stderr, "namesbench DIR [COUNT]\n");
        return 2;
    }
    snprintf(directory, sizeof directory, "%s", argv[1]);
    check(bh_disk_open(&disk, directory, NULL, 0, &error), directory);
    struct bh_names_options o = {
        .disk = disk, .connect = connect_names, .checkpoint_ms = 5000, .cache = 1000000};
    check(bh_names_open(&names, &o, &error), "open");
    run(count, 100, "100 files in a directory");
    run(count, count, "all in one directory");
    bh_names_stats(names, &s);
    printf("%llu checkpoints beside it\n", (unsigned long long)s.checkpoints);
    check(bh_names_close(names, &error), "close");
    bh_disk_close(disk);
    char path[320];
    snprintf(path, sizeof path, "%s/names.db", directory);
    return unlink(path) ? 1 : 0;
}
