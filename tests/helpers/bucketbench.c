/* bucketbench: what the bucket's own code costs, without a mount: one operation, several times over
 * connections that are kept.
 *
 *   bucketbench [option]... URL COMMAND ARGUMENT...
 *     put KEY FILE               one request
 *     upload KEY FILE            in parts, -n at once
 *     get KEY FILE               one request; FILE "-": the bytes are counted and dropped
 *     download KEY FILE          by ranges, -n at once
 *     put-many PREFIX COUNT SIZE objects PREFIX0, PREFIX1, ... by -n threads
 *     get-many PREFIX COUNT
 *     head-many PREFIX COUNT
 *     presign KEY                prints a URL that is valid for an hour
 *   -o SECTION.KEY=VALUE  as a mount takes it      -n N  parts or threads at once (1)
 *   -p SIZE  of a part (bucket.part_size)          -r N  repetitions (1)
 *
 * Credentials come from the environment. A line a repetition: " op=NAME seconds= bytes= requests=
 * connects= user= system= peak_kb=": its own, but for peak_kb, the most memory that the process has
 * had. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bucket/bucket.h"
#include "bucket/transfer.h"
#include "config/config.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/io.h"
#include "util/parse.h"

enum { THREADS_MAX = 256, OVERRIDES_MAX = 32, OBJECT_MAX = 16 << 20, PRESIGN_S = 3600 };

static struct bh_bucket *bucket;
static struct bh_transfer how = {.parallel = 1};

static void die(const char *text)
{
    fprintf(stderr, "bucketbench: %s\n", text);
    exit(1);
}

/* --- one object --- */

struct file {
    int fd; /* -1: drop */
    uint64_t at;
};

static int file_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    int rc = bh_pread_full(((struct file *)arg)->fd, buf, len, offset, NULL);
    return rc ? bh_fail(err, rc, "cannot read: %s", strerror(rc)) : 0;
}

static int file_take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct file *f = arg;
    int rc = f->fd < 0 ? 0 : bh_pwrite_full(f->fd, data, len, f->at);
    f->at += len;
    return rc ? bh_fail(err, rc, "cannot write: %s", strerror(rc)) : 0;
}

static int send_one(char **args, bool parts, struct bh_error *err)
{
    struct stat st;
    BH_FD int fd = open(args[1], O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        return bh_fail(err, errno, "%s: %s", args[1], strerror(errno));
    struct file f = {.fd = fd};
    const struct bh_source src = {.size = (uint64_t)st.st_size, .read = file_read, .arg = &f};
    return parts ? bh_bucket_upload(bucket, args[0], &src, NULL, NULL, &how, NULL, NULL, err)
                 : bh_bucket_put(bucket, args[0], &src, NULL, NULL, NULL, NULL, err);
}

static int receive_one(char **args, bool parts, struct bh_error *err)
{
    bool drop = strcmp(args[1], "-") == 0;
    BH_FD int fd = drop ? -1 : open(args[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 && !drop)
        return bh_fail(err, errno, "%s: %s", args[1], strerror(errno));
    struct file f = {.fd = fd};
    return parts ? bh_bucket_download(bucket, args[0], &how, file_take, &f, NULL, NULL, err)
                 : bh_bucket_get(bucket, args[0], 0, UINT64_MAX, file_take, &f, NULL, NULL, err);
}

static int put(char **args, struct bh_error *err)
{
    return send_one(args, false, err);
}

static int upload(char **args, struct bh_error *err)
{
    return send_one(args, true, err);
}

static int get(char **args, struct bh_error *err)
{
    return receive_one(args, false, err);
}

static int download(char **args, struct bh_error *err)
{
    return receive_one(args, true, err);
}

static int presign(char **args, struct bh_error *err)
{
    BH_STRBUF url = {0};
    int rc = bh_bucket_presign(bucket, args[0], PRESIGN_S, &url, err);
    if (!rc)
        puts(url.data);
    return rc;
}

/* --- many objects --- */

struct many {
    int (*one)(const char *key, const struct many *m, struct bh_error *err);
    const char *prefix, *data;
    uint64_t count, size;
    atomic_uint_fast64_t next;
    atomic_int rc;
    pthread_mutex_t mutex;
    struct bh_error err; /* of the first that failed */
};

static int put_small(const char *key, const struct many *m, struct bh_error *err)
{
    const struct bh_source src = {.size = m->size, .data = m->data};
    return bh_bucket_put(bucket, key, &src, NULL, NULL, NULL, NULL, err);
}

static int get_small(const char *key, const struct many *m, struct bh_error *err)
{
    BH_FREE char *data = NULL;
    size_t len;
    return bh_bucket_get_small(bucket, key, OBJECT_MAX, &data, &len, NULL, NULL, err);
}

static int head_small(const char *key, const struct many *m, struct bh_error *err)
{
    struct bh_object_info info;
    return bh_bucket_head(bucket, key, &info, NULL, err);
}

static void *many_main(void *arg)
{
    struct many *m = arg;
    char key[BH_KEY_MAX];
    for (uint64_t i; !atomic_load(&m->rc) && (i = atomic_fetch_add(&m->next, 1)) < m->count;) {
        struct bh_error err = {0};
        snprintf(key, sizeof key, "%s%llu", m->prefix, (unsigned long long)i);
        int rc = m->one(key, m, &err);
        BH_LOCK_SCOPE(&m->mutex);
        if (rc && !atomic_exchange(&m->rc, rc))
            m->err = err;
    }
    return NULL;
}

static int run_many(struct many *m, char **args, struct bh_error *err)
{
    pthread_t threads[THREADS_MAX];
    m->prefix = args[0];
    m->count = strtoull(args[1], NULL, 10);
    pthread_mutex_init(&m->mutex, NULL);
    for (unsigned i = 0; i < how.parallel; i++)
        if (pthread_create(&threads[i], NULL, many_main, m) != 0)
            die("no thread can be started");
    for (unsigned i = 0; i < how.parallel; i++)
        pthread_join(threads[i], NULL);
    int rc = atomic_load(&m->rc);
    return rc ? bh_fail(err, rc, "%s", m->err.text) : 0;
}

static int put_many(char **args, struct bh_error *err)
{
    struct many m = {.one = put_small};
    if (bh_parse_size(args[2], &m.size) || m.size > OBJECT_MAX)
        return bh_fail(err, EINVAL, "%s is no size of a small object", args[2]);
    BH_FREE char *data = malloc(m.size + 1);
    if (!data)
        return bh_fail(err, ENOMEM, "out of memory");
    memset(data, 'x', m.size);
    m.data = data;
    return run_many(&m, args, err);
}

static int get_many(char **args, struct bh_error *err)
{
    struct many m = {.one = get_small};
    return run_many(&m, args, err);
}

static int head_many(char **args, struct bh_error *err)
{
    struct many m = {.one = head_small};
    return run_many(&m, args, err);
}

/* --- measuring --- */

static const struct command {
    const char *name;
    int (*run)(char **args, struct bh_error *err);
    int args;
} commands[] = {
    {"put", put, 2},           {"upload", upload, 2},       {"get", get, 2},
    {"download", download, 2}, {"put-many", put_many, 3},   {"get-many", get_many, 2},
    {"presign", presign, 1},   {"head-many", head_many, 2},
};

struct sample {
    int64_t ns;
    struct rusage cpu;
    struct bh_bucket_stats stats;
};

static void take_sample(struct sample *s)
{
    bh_bucket_stats(bucket, &s->stats);
    getrusage(RUSAGE_SELF, &s->cpu);
    s->ns = bh_mono_ns();
}

static double seconds_between(const struct timeval *a, const struct timeval *b)
{
    return (double)(b->tv_sec - a->tv_sec) + (double)(b->tv_usec - a->tv_usec) / 1e6;
}

static uint64_t all_requests(const struct bh_bucket_stats *s)
{
    uint64_t sum = 0;
    for (int op = 0; op < BH_OP_COUNT; op++)
        sum += s->requests[op];
    return sum;
}

static void print_difference(const char *op, const struct sample *a, const struct sample *b)
{
    printf(" op=%s seconds=%.4f bytes=%llu requests=%llu connects=%llu user=%.3f system=%.3f "
           "peak_kb=%ld\n",
           op, (double)(b->ns - a->ns) / 1e9,
           (unsigned long long)(b->stats.bytes_up + b->stats.bytes_down - a->stats.bytes_up -
                                a->stats.bytes_down),
           (unsigned long long)(all_requests(&b->stats) - all_requests(&a->stats)),
           (unsigned long long)(b->stats.connects - a->stats.connects),
           seconds_between(&a->cpu.ru_utime, &b->cpu.ru_utime),
           seconds_between(&a->cpu.ru_stime, &b->cpu.ru_stime), b->cpu.ru_maxrss);
    fflush(stdout);
}

static const struct command *find_command(const char *name, int args)
{
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(commands[i].name, name) == 0 && commands[i].args == args)
            return &commands[i];
    die("no such command, or not with so many arguments");
    return NULL;
}

int main(int argc, char **argv)
{
    const char *overrides[OVERRIDES_MAX];
    struct bh_config_request req = {.overrides = overrides, .use_environment = true};
    struct bh_config *cfg;
    struct bh_error err = {0};
    int repetitions = 1;
    for (int c; (c = getopt(argc, argv, "+o:n:p:r:")) != -1;) {
        if (c == 'o' && req.override_count < OVERRIDES_MAX)
            overrides[req.override_count++] = optarg;
        else if (c == 'n')
            how.parallel = (unsigned)atoi(optarg);
        else if (c == 'r')
            repetitions = atoi(optarg);
        else if (c != 'p' || bh_parse_size(optarg, &how.part_size))
            die("see the head of bucketbench.c");
    }
    if (argc - optind < 2 || how.parallel < 1 || how.parallel > THREADS_MAX)
        die("see the head of bucketbench.c");
    req.url = argv[optind];
    const struct command *command = find_command(argv[optind + 1], argc - optind - 2);
    if (bh_config_load(&cfg, &req, &err) || bh_bucket_open(&bucket, cfg, &err))
        die(err.text);
    if (!how.part_size)
        how.part_size = cfg->bucket.part_size;
    for (; repetitions > 0; repetitions--) {
        struct sample before, after;
        take_sample(&before);
        if (command->run(argv + optind + 2, &err))
            die(err.text);
        take_sample(&after);
        if (command->run != presign)
            print_difference(command->name, &before, &after);
    }
    bh_bucket_close(bucket);
    bh_config_free(cfg);
    return 0;
}
