/* fsx [-n OPERATIONS] [-s SEED] [-l MAX-SIZE] [-m MODEL] [-F] FILE: reads, writes, cuts, maps,
 * punches, copies and reopens FILE at random and compares everything that is read with a model in
 * memory. The model is kept in the file MODEL (on another file system): if that is there, FILE must
 * have its content first, and one can go on after a remount. -F: no fallocate. The same seed gives
 * the same operations. Prints a line at the end; on a difference the last operations and where it
 * is, and exits 1; 2: a call failed. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY = 40, PAGE = 4096 };

static struct {
    const char *path, *model;
    char side[4096]; /* another file, that ranges are copied to and from */
    uint8_t *want, *got;
    size_t size, max;
    int fd, fd2; /* two handles of it */
    uint64_t state, operation, done[16];
    char history[HISTORY][160];
    bool no_fallocate, no_punch, no_zero, no_copy;
} x;

static uint64_t random64(void)
{
    x.state ^= x.state << 13;
    x.state ^= x.state >> 7;
    x.state ^= x.state << 17;
    return x.state * 0x2545F4914F6CDD1Dull;
}

static size_t below(size_t n)
{
    return n ? random64() % n : 0;
}

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(x.history[x.operation % HISTORY], sizeof x.history[0], format, ap);
    va_end(ap);
}

static void tell_history(void)
{
    uint64_t first = x.operation >= HISTORY ? x.operation - HISTORY + 1 : 0;
    for (uint64_t i = first; i <= x.operation; i++)
        fprintf(stderr, "  %" PRIu64 ": %s\n", i, x.history[i % HISTORY]);
}

static void failed(const char *what)
{
    int e = errno;
    tell_history();
    fprintf(stderr, "operation %" PRIu64 ": %s: %s\n", x.operation, what, strerror(e));
    exit(2);
}

static void differs(const char *what, size_t at, size_t length)
{
    tell_history();
    fprintf(stderr,
            "operation %" PRIu64 ": %s: differs at %zu (0x%zx), %zu bytes of it, size %zu\n",
            x.operation, what, at, at, length, x.size);
    exit(1);
}

static void compare(const char *what, const uint8_t *got, size_t offset, size_t length)
{
    if (!memcmp(got, x.want + offset, length))
        return;
    size_t i = 0, bad = 0;
    while (got[i] == x.want[offset + i])
        i++;
    for (size_t k = i; k < length; k++)
        bad += got[k] != x.want[offset + k];
    fprintf(stderr, "got %02x %02x %02x %02x, wanted %02x %02x %02x %02x\n", got[i],
            i + 1 < length ? got[i + 1] : 0, i + 2 < length ? got[i + 2] : 0,
            i + 3 < length ? got[i + 3] : 0, x.want[offset + i], x.want[offset + i + 1],
            x.want[offset + i + 2], x.want[offset + i + 3]);
    differs(what, offset + i, bad);
}

static int one(void)
{
    return below(2) ? x.fd : x.fd2;
}

static void check_size(const char *what)
{
    struct stat st;
    if (below(2) ? fstat(one(), &st) : stat(x.path, &st))
        failed("stat");
    if ((size_t)st.st_size != x.size) {
        fprintf(stderr, "the size is %jd\n", (intmax_t)st.st_size);
        differs(what, 0, 0);
    }
}

static void read_all(const char *what)
{
    size_t got = 0;
    while (got <= x.size) {
        ssize_t n = pread(x.fd, x.got + got, x.size + 1 - got, (off_t)got);
        if (n < 0)
            failed("pread");
        if (n == 0)
            break;
        got += (size_t)n;
    }
    if (got != x.size)
        differs("bytes that could be read", got, 0);
    compare(what, x.got, 0, x.size);
}

/* A range of what is there: often small, often at page boundaries. */
static void range(size_t limit, size_t *offset, size_t *length)
{
    *offset = below(limit + 1);
    if (below(4) == 0)
        *offset = *offset / PAGE * PAGE;
    *length = below(4) ? 1 + below(20000) : 1 + below(x.max / 4);
    if (below(4) == 0)
        *length = (*length + PAGE - 1) / PAGE * PAGE;
    if (*offset + *length > limit)
        *length = limit - *offset;
}

static void fill(uint8_t *at, size_t length)
{
    uint64_t v = random64();
    for (size_t i = 0; i < length; i++)
        at[i] = (uint8_t)(1 + (v + i * 7 + i / 255) % 255); /* never 0: holes are told from data */
}

static void zero_beyond(size_t new_size)
{
    if (new_size > x.size)
        memset(x.want + x.size, 0, new_size - x.size);
}

static void do_read(void)
{
    size_t offset, length;
    range(x.size, &offset, &length);
    note("read %zu+%zu of %zu", offset, length, x.size);
    ssize_t n = pread(one(), x.got, length, (off_t)offset);
    if (n < 0)
        failed("pread");
    if ((size_t)n != length)
        differs("bytes read", offset + (size_t)n, length);
    compare("read", x.got, offset, length);
}

static void do_write(void)
{
    size_t offset, length;
    range(x.max, &offset, &length);
    note("write %zu+%zu of %zu", offset, length, x.size);
    if (!length)
        return;
    if (offset + length > x.size) {
        zero_beyond(offset + length);
        x.size = offset + length;
    }
    fill(x.want + offset, length);
    int fd = one();
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(fd, x.want + offset + done, length - done, (off_t)(offset + done));
        if (n <= 0)
            failed("pwrite");
        done += (size_t)n;
    }
}

static void do_truncate(void)
{
    size_t size = below(3) ? below(x.max + 1) : below(x.size + 1);
    if (below(20) == 0)
        size = 0;
    note("truncate %zu -> %zu", x.size, size);
    if (below(2) ? ftruncate(one(), (off_t)size) : truncate(x.path, (off_t)size))
        failed("truncate");
    zero_beyond(size);
    x.size = size;
}

static void do_map(bool store)
{
    size_t offset, length;
    range(x.size, &offset, &length);
    note("map and %s %zu+%zu of %zu", store ? "store" : "load", offset, length, x.size);
    if (!length)
        return;
    size_t begin = offset / PAGE * PAGE, bytes = offset + length - begin;
    uint8_t *m =
        mmap(NULL, bytes, PROT_READ | (store ? PROT_WRITE : 0), MAP_SHARED, one(), (off_t)begin);
    if (m == MAP_FAILED)
        failed("mmap");
    if (store) {
        fill(x.want + offset, length);
        memcpy(m + (offset - begin), x.want + offset, length);
        if (below(2) && msync(m, bytes, below(2) ? MS_SYNC : MS_ASYNC))
            failed("msync");
    } else {
        memcpy(x.got, m + (offset - begin), length);
        compare("load", x.got, offset, length);
    }
    if (munmap(m, bytes))
        failed("munmap");
}

static void do_fallocate(int mode, const char *name, bool *absent)
{
    size_t offset, length;
    range(x.max, &offset, &length);
    note("%s %zu+%zu of %zu", name, offset, length, x.size);
    if (!length || x.no_fallocate || *absent)
        return;
    if (fallocate(one(), mode, (off_t)offset, (off_t)length)) {
        if (errno != EOPNOTSUPP)
            failed(name);
        *absent = true;
        return;
    }
    size_t end = offset + length;
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        if (end > x.size && !(mode & FALLOC_FL_KEEP_SIZE)) {
            zero_beyond(end);
            x.size = end;
        }
        if (offset < x.size)
            memset(x.want + offset, 0, (end < x.size ? end : x.size) - offset);
    } else if (!(mode & FALLOC_FL_KEEP_SIZE) && end > x.size) {
        zero_beyond(end);
        x.size = end;
    }
}

/* From one place of the file to another. */
static void do_copy(void)
{
    size_t offset, length, to = below(x.max);
    range(x.size, &offset, &length);
    if (to + length > x.max)
        length = x.max - to;
    if ((offset < to ? to - offset : offset - to) < length) /* may not overlap */
        length = offset < to ? to - offset : offset - to;
    note("copy %zu+%zu to %zu of %zu", offset, length, to, x.size);
    if (!length || x.no_copy)
        return;
    int from = x.fd, into = x.fd2;
    for (size_t done = 0; done < length;) {
        off_t a = (off_t)(offset + done), b = (off_t)(to + done);
        ssize_t n = copy_file_range(from, &a, into, &b, length - done, 0);
        if (n < 0 && done == 0 && (errno == EOPNOTSUPP || errno == EXDEV || errno == ENOSYS)) {
            x.no_copy = true;
            return;
        }
        if (n <= 0)
            failed("copy_file_range");
        done += (size_t)n;
    }
    if (to + length > x.size) {
        zero_beyond(to + length);
        x.size = to + length;
    }
    memmove(x.want + to, x.want + offset, length);
}

/* All of it to a file beside it and back over itself by rename: the name has another inode with the
 * same content. */
static void do_replace(void)
{
    note("copy all %zu to another file and rename it over this one", x.size);
    int side = open(x.side, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (side < 0)
        failed("open of the other file");
    if (below(2)) {
        for (size_t done = 0; done < x.size;) {
            off_t a = (off_t)done, b = (off_t)done;
            ssize_t n = copy_file_range(x.fd, &a, side, &b, x.size - done, 0);
            if (n <= 0)
                failed("copy_file_range to another file");
            done += (size_t)n;
        }
    } else {
        for (size_t done = 0; done < x.size;) {
            ssize_t n = pwrite(side, x.want + done, x.size - done, (off_t)done);
            if (n <= 0)
                failed("pwrite to the other file");
            done += (size_t)n;
        }
    }
    if (below(2) && fsync(side))
        failed("fsync");
    if (rename(x.side, x.path))
        failed("rename");
    close(x.fd);
    close(x.fd2);
    x.fd = side;
    x.fd2 = open(x.path, O_RDWR);
    if (x.fd2 < 0)
        failed("open after a rename");
}

static void do_reopen(void)
{
    note("reopen, %zu bytes", x.size);
    int *fd = below(2) ? &x.fd : &x.fd2;
    bool both = below(2);
    if (both && close(x.fd + x.fd2 - *fd)) /* no handle is open in between */
        failed("close");
    if (close(*fd))
        failed("close");
    x.fd = fd == &x.fd || both ? open(x.path, O_RDWR) : x.fd;
    x.fd2 = fd == &x.fd2 || both ? open(x.path, O_RDWR) : x.fd2;
    if (x.fd < 0 || x.fd2 < 0)
        failed("open");
}

static void do_append(void)
{
    size_t length = 1 + below(5000);
    note("append %zu to %zu", length, x.size);
    if (x.size + length > x.max)
        return;
    int fd = open(x.path, O_WRONLY | O_APPEND);
    if (fd < 0)
        failed("open to append");
    fill(x.want + x.size, length);
    if (write(fd, x.want + x.size, length) != (ssize_t)length)
        failed("write");
    if (close(fd))
        failed("close");
    x.size += length;
}

static void do_holes(void)
{
    note("walk over the holes of %zu", x.size);
    for (off_t at = 0; (size_t)at < x.size;) {
        off_t data = lseek(x.fd, at, SEEK_DATA);
        if (data < 0 && errno != ENXIO)
            failed("SEEK_DATA");
        size_t end = data < 0 ? x.size : (size_t)data;
        for (size_t i = (size_t)at; i < end; i++)
            if (x.want[i])
                differs("data in a hole", i, 1);
        if (data < 0)
            return;
        at = lseek(x.fd, data, SEEK_HOLE);
        if (at <= data)
            failed("SEEK_HOLE");
    }
}

static void do_sync(void)
{
    note("fsync");
    if (below(2) ? fsync(one()) : fdatasync(one()))
        failed("fsync");
}

static void step(void)
{
    switch (below(32)) {
    case 0 ... 6:
        do_read();
        break;
    case 7 ... 13:
        do_write();
        break;
    case 14 ... 16:
        do_truncate();
        break;
    case 17 ... 19:
        do_map(false);
        break;
    case 20 ... 22:
        do_map(true);
        break;
    case 23:
        do_fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "punch", &x.no_punch);
        break;
    case 24:
        do_fallocate(below(2) ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                     "zero", &x.no_zero);
        break;
    case 25:
        do_fallocate(below(2) ? 0 : FALLOC_FL_KEEP_SIZE, "allocate", &x.no_fallocate);
        break;
    case 26:
        do_copy();
        break;
    case 27:
        do_append();
        break;
    case 28:
        if (below(8) == 0) /* it is slow */
            do_sync();
        break;
    case 29:
        do_holes();
        break;
    case 30:
        do_reopen();
        break;
    case 31:
        if (below(4) == 0)
            do_replace();
        else
            do_reopen();
        break;
    }
}

static void load_model(void)
{
    FILE *f = fopen(x.model, "rb");
    if (!f)
        return;
    if (fread(&x.size, sizeof x.size, 1, f) != 1 || x.size > x.max ||
        fread(x.want, 1, x.size, f) != x.size) {
        fprintf(stderr, "%s is no model\n", x.model);
        exit(2);
    }
    fclose(f);
    note("what a run before left");
    check_size("size of what a run before left");
    read_all("what a run before left");
}

static void save_model(void)
{
    FILE *f = fopen(x.model, "wb");
    if (!f || fwrite(&x.size, sizeof x.size, 1, f) != 1 || fwrite(x.want, 1, x.size, f) != x.size ||
        fclose(f)) {
        perror(x.model);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    uint64_t operations = 1000, seed = 1;
    x.max = 1 << 20;
    for (int c; (c = getopt(argc, argv, "n:s:l:m:F")) != -1;)
        switch (c) {
        case 'n':
            operations = strtoull(optarg, NULL, 10);
            break;
        case 's':
            seed = strtoull(optarg, NULL, 10);
            break;
        case 'l':
            x.max = strtoull(optarg, NULL, 10);
            break;
        case 'm':
            x.model = optarg;
            break;
        case 'F':
            x.no_fallocate = true;
            break;
        default:
            return 2;
        }
    if (optind != argc - 1)
        return 2;
    x.path = argv[optind];
    snprintf(x.side, sizeof x.side, "%s.new", x.path);
    x.state = seed * 0x9E3779B97F4A7C15ull + 1;
    x.want = calloc(1, x.max + PAGE);
    x.got = calloc(1, x.max + PAGE);
    x.fd = open(x.path, O_RDWR | O_CREAT, 0644);
    x.fd2 = open(x.path, O_RDWR);
    if (!x.want || !x.got || x.fd < 0 || x.fd2 < 0)
        failed("open");
    if (x.model)
        load_model();
    for (x.operation = 1; x.operation <= operations; x.operation++) {
        note("nothing");
        step();
        if (below(8) == 0)
            check_size("size");
        if (x.operation % 500 == 0)
            read_all("all of it");
    }
    x.operation--;
    read_all("all of it at the end");
    if (close(x.fd) || close(x.fd2))
        failed("close");
    if (x.model)
        save_model();
    printf("%" PRIu64 " operations, seed %" PRIu64 ", %zu bytes%s%s%s%s\n", operations, seed,
           x.size, x.no_fallocate ? ", no fallocate" : "", x.no_punch ? ", no holes punched" : "",
           x.no_zero ? ", no ranges zeroed" : "", x.no_copy ? ", no ranges copied" : "");
    return 0;
}
